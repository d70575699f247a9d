//! One client of one host, put through all the work.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    cost::Cost,
    hosts::Host,
    link::{HOST, Link},
    probe::Probe,
};
use crate::{
    client::{Client, Generation, Login, Mode, Place},
    error::{Error, Result},
    proxy::{Proxy, Shape},
    scene::key,
};

/// The size of the desktop.
pub(super) const SIZE: (usize, usize) = (1920, 1080);
/// The longest that anything is waited for.
const BOUND: Duration = Duration::from_secs(60);

/// How much is measured.
pub(super) struct Plan {
    keys: usize,
    keys_under_load: usize,
    /// No key is pressed any more after so long, but the last one is waited for.
    keys_within: Duration,
    span: Duration,
    /// Between two keys.
    pause: Duration,
    only: Option<Part>,
}

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// Nothing moves.
    Rest,
    /// Letters and whole screens by a key.
    Keys,
    /// Text scrolls.
    Scroll,
    /// A window moves.
    Window,
    /// A film over the whole screen.
    Film,
}

impl Plan {
    /// For a slow link or a fast one. Over a slow link a host takes some 95 seconds: what is too slow for that gets
    /// fewer keys, never a shorter wait for one.
    pub(super) fn new(slow: bool, quick: bool, only: Option<Part>) -> Self {
        let (keys, keys_under_load, keys_within, span, pause) = match (slow, quick) {
            (false, false) => (150, 80, 60, 8, 60),
            (false, true) => (10, 5, 60, 2, 60),
            (true, false) => (20, 12, 9, 6, 700),
            (true, true) => (3, 2, 10, 5, 700),
        };
        Self {
            keys,
            keys_under_load,
            keys_within: Duration::from_secs(keys_within),
            span: Duration::from_secs(span),
            pause: Duration::from_millis(pause),
            only,
        }
    }

    fn has(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// Latencies in milliseconds, sorted; infinite for a key that nothing came of.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(pub(super) Vec<f64>);

/// A work that moves: what was delivered, and what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moving {
    pub(super) seconds: f64,
    /// Frames that the client has shown.
    pub(super) shown: u32,
    /// Frames that the scene has made.
    pub(super) made: u32,
    /// Processor seconds of the host.
    pub(super) cpu: f64,
    /// Bytes on the wire.
    pub(super) bytes: u64,
}

/// All that is measured of a host in one round.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) small: Latencies,
    pub(super) small_cost: Moving,
    pub(super) whole: Latencies,
    pub(super) whole_cost: Moving,
    pub(super) scroll: Moving,
    pub(super) window: Moving,
    pub(super) video: Moving,
    /// Letters while the page scrolls.
    pub(super) under_scroll: Latencies,
    /// Letters while the film runs.
    pub(super) under_video: Latencies,
    pub(super) idle: Moving,
    /// Megabytes of the host at the end.
    pub(super) memory: f64,
}

impl Figures {
    /// The works that have a cost of their own.
    pub(super) fn works(&self) -> [Moving; 5] {
        [self.small_cost, self.whole_cost, self.scroll, self.window, self.video]
    }
}

/// Measures a host that has just started.
pub(super) fn host(
    host: &Host,
    link: &Link,
    shape: Option<Shape>,
    plan: &Plan,
    place: Place,
    client: Generation,
    dir: &Path,
) -> Result<Figures> {
    let mode = Mode {
        client,
        security: "tls",
        codec: "AVC420",
        options: &["/gfx:AVC420"],
        tolerance: 2,
        size: SIZE,
    };
    // A proxy of streams, as Tor is, and not a slow interface: kernels without sch_netem can measure too.
    let proxy = shape.map(|shape| Proxy::start(HOST, host.login.port, Some(shape))).transpose()?;
    let port = proxy.as_ref().map_or(host.login.port, |proxy| proxy.port);
    let login = Login { port, ..host.login.clone() };
    let folder = dir.join(format!("client-{}", host.name.split(' ').next().unwrap_or_default()));
    let command = link.at_the_client(&mode.client.command(&place)?);
    let mut client = Client::start_command(command, place, &folder, &mode, &login, &HOST.to_string(), &[])?;
    let probe = Probe::new(&client.screen.display())?;
    place.interrupt.wait_for("the scene in the client's window", BOUND, || {
        client.must_run()?;
        // The marks of black alone could be anything: the first key turns one white.
        probe.press(key::SMALL)?;
        Ok(probe.wait(Duration::from_secs(3), |marks| marks.turned)?.map(drop))
    })?;
    // What follows the first picture (a refinement, a message) is over after that.
    std::thread::sleep(Duration::from_secs(if shape.is_some() { 8 } else { 3 }));

    let bench = Bench { host, link, probe: &probe, plan };
    let mut figures = Figures::default();
    if plan.has(Part::Rest) {
        figures.idle = bench.moving(key::STILL)?;
    }
    if plan.has(Part::Keys) {
        (figures.small, figures.small_cost) = bench.keys(key::SMALL, plan.keys)?;
        (figures.whole, figures.whole_cost) = bench.keys(key::WHOLE, plan.keys)?;
    }
    if plan.has(Part::Scroll) {
        figures.scroll = bench.moving(key::SCROLL)?;
        figures.under_scroll = bench.keys(key::SMALL, plan.keys_under_load)?.0;
        bench.rest()?;
    }
    if plan.has(Part::Window) {
        figures.window = bench.moving(key::WINDOW)?;
        bench.rest()?;
    }
    if plan.has(Part::Film) {
        figures.video = bench.moving(key::VIDEO)?;
        figures.under_video = bench.keys(key::SMALL, plan.keys_under_load)?.0;
    }
    client.must_run()?;
    figures.memory = host.cost().memory;
    Ok(figures)
}

struct Bench<'a> {
    host: &'a Host,
    link: &'a Link,
    probe: &'a Probe,
    plan: &'a Plan,
}

impl Bench<'_> {
    /// What the host has cost so far: processors and bytes.
    fn meter(&self) -> Result<(Cost, u64)> {
        Ok((self.host.cost(), self.link.sent()?))
    }

    /// What it has cost since then: seconds of processors, and bytes.
    fn since(&self, (before, sent): (Cost, u64)) -> Result<(f64, u64)> {
        let (after, sent_after) = self.meter()?;
        let bytes = sent_after.checked_sub(sent).ok_or_else(|| {
            Error::broken("the link's counter went back: another bench took it; run one at a time")
        })?;
        Ok((after.cpu - before.cpu, bytes))
    }

    /// Lets a work run for the plan's span.
    fn moving(&self, work: u8) -> Result<Moving> {
        self.probe.press(work)?;
        // The change to that work is no part of it.
        std::thread::sleep(Duration::from_secs(1));
        let before = self.meter()?;
        let start = Instant::now();
        let (shown, made) = self.probe.frames(self.plan.span)?;
        let (cpu, bytes) = self.since(before)?;
        Ok(Moving { seconds: start.elapsed().as_secs_f64(), shown, made, cpu, bytes })
    }

    /// Presses a key again and again; what it costs is told in keys instead of frames.
    fn keys(&self, key: u8, count: usize) -> Result<(Latencies, Moving)> {
        let before = self.meter()?;
        let start = Instant::now();
        let mut latencies = Vec::new();
        for index in 0..count {
            if start.elapsed() > self.plan.keys_within {
                break;
            }
            let latency = self.probe.key_to_pixel(key, BOUND / 3)?;
            latencies.push(latency.map_or(f64::INFINITY, |latency| latency.as_secs_f64() * 1000.0));
            // Not in step with any clock of the host.
            std::thread::sleep(self.plan.pause + Duration::from_millis((index * 37 % 50) as u64));
        }
        let (cpu, bytes) = self.since(before)?;
        latencies.sort_by(f64::total_cmp);
        let count = u32::try_from(latencies.len()).map_err(|_| Error::broken("too many keys"))?;
        let cost = Moving { seconds: start.elapsed().as_secs_f64(), shown: count, made: count, cpu, bytes };
        Ok((Latencies(latencies), cost))
    }

    /// Stops what moves, and waits until what was on its way has come.
    fn rest(&self) -> Result<()> {
        self.probe.press(key::STILL)?;
        std::thread::sleep(self.plan.pause * 5);
        Ok(())
    }
}
