//! A session outlives its connections: clients that are killed, taken over from, cut off, and log off.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use super::{MODES, Target};
use crate::{
    client::{Client, Login, Mode},
    error::{Error, Result},
    progress::Background,
    proxy::Proxy,
    suite::Report,
};

/// How often a client's connection is cut, without and with `--long`.
const CUTS: usize = 40;
const LONG_CUTS: usize = 100;
/// After so many of them caches and pools are full.
const FIRST_CUTS: usize = 10;
/// What the host's memory may grow by over all these, in KiB: allocators keep a little, a leak of one picture for
/// each would be a hundred times that.
const MAX_GROWTH: u64 = 8 * 1024;

/// The checks for both targets.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    report.check(
        format!(
            "{}: a killed client's desktop comes back in another size with all that ran in it",
            target.name
        ),
        || comes_back(target),
    );
    report.check(
        format!("{}: a second client of the user takes the desktop over, and the first is told", target.name),
        || takes_over(target),
    );
    report.check(
        format!("{}: a client whose connection is cut comes back by itself, without a password", target.name),
        || reconnects(target),
    );
    target.place.interrupt.check()
}

/// Logs off: ends the desktop from within, which the client has to be told.
pub(super) fn log_off(target: &Target, client: Client) -> Result<()> {
    client.screen.type_text("swaymsg exit")?;
    client.screen.key("Return")?;
    logged_off(target, client)
}

/// Waits until the client has gone because the desktop has ended.
pub(super) fn logged_off(target: &Target, client: Client) -> Result<()> {
    let ending = client.wait_end(target.bound, target.place.interrupt)?;
    // FreeRDP 3 takes no reason after TLS; see `client_takes_no_reason`.
    if ending.said.contains("LOGOFF_BY_USER") || !ending.said.contains("ERRINFO") {
        Ok(())
    } else {
        Err(Error::broken(format!("after logging off {}", ending.describe())))
    }
}

/// Paints everything in the colour that a variable of the shell holds.
fn paint_from_variable(client: &Client) -> Result<()> {
    client.screen.point_to_the_middle()?;
    client.screen.type_text(r"printf '\e]11;'$COLOUR'\a\e[?25l\e[2J\e[H';read")?;
    client.screen.key("Return")
}

fn comes_back(target: &Target) -> Result<String> {
    let interrupt = target.place.interrupt;
    let mut first = target.session("killed", &MODES[0])?;
    first.screen.key("super+f")?;
    first.screen.type_text("COLOUR='#2a7f3c';clear")?;
    first.screen.key("Return")?;
    first.wait_desktop(target.bound, interrupt)?;
    first.kill();
    drop(first);
    let start = Instant::now();
    let mut sizes = Vec::new();
    for (width, height) in [(1024, 768), (1366, 766)] {
        let mode = Mode { size: (width, height), ..MODES[1] };
        let mut next = target.session("after-the-killed", &mode)?;
        sizes.push(format!("{width}x{height} after {:.1} s", start.elapsed().as_secs_f64()));
        paint_from_variable(&next)?;
        next.wait_colour([0x2a, 0x7f, 0x3c], mode.tolerance, target.bound, interrupt)?;
        next.screen.picture()?.save(&target.screens.join(format!("back-{}-{width}.png", target.name)))?;
        next.screen.key("Return")?;
        next.screen.type_text(r"printf '\e]111\a\e[?25h';clear")?;
        next.screen.key("Return")?;
        next.wait_desktop(target.bound, interrupt)?;
        next.kill();
    }
    log_off(target, target.session("killed", &MODES[0])?)?;
    Ok(sizes.join(", "))
}

fn takes_over(target: &Target) -> Result<String> {
    let interrupt = target.place.interrupt;
    let mut first = target.session("taken-over", &MODES[0])?;
    first.screen.key("super+f")?;
    first.screen.type_text("COLOUR='#d4145a';clear")?;
    first.screen.key("Return")?;
    first.wait_desktop(target.bound, interrupt)?;
    let mut second = target.session("takes-over", &MODES[3])?;
    let ending = first.wait_end(target.bound, interrupt)?;
    if !ending.said.contains("ERRINFO_DISCONNECTED_BY_OTHER_CONNECTION") {
        return Err(Error::broken(format!("the first was not told why: {}", ending.describe())));
    }
    paint_from_variable(&second)?;
    second.wait_colour([0xd4, 0x14, 0x5a], MODES[3].tolerance, target.bound, interrupt)?;
    second.screen.key("Return")?;
    log_off(target, second)?;
    Ok("ERRINFO_DISCONNECTED_BY_OTHER_CONNECTION".to_owned())
}

/// A client through a proxy that can be cut. Its password is not asked for again: the cookie is its proof.
fn through_proxy(target: &Target, name: &str, proxy: &Proxy) -> Result<Client> {
    let login = Login { port: proxy.port, ..target.login.clone() };
    let options = ["+auto-reconnect", "/auto-reconnect-max-retries:20"];
    let mut client = Client::start(target.place, &target.dir(name), &MODES[0], &login, &options)?;
    client.wait_desktop(target.bound, target.place.interrupt)?;
    Ok(client)
}

fn reconnects(target: &Target) -> Result<String> {
    let interrupt = target.place.interrupt;
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, target.login.port, None)?;
    let mut client = through_proxy(target, "cut", &proxy)?;
    client.screen.key("super+f")?;
    client.screen.type_text("COLOUR='#0b3d91';clear")?;
    client.screen.key("Return")?;
    client.wait_desktop(target.bound, interrupt)?;
    let start = Instant::now();
    proxy.cut();
    proxy.wait_connection(target.bound, interrupt)?;
    let spent = start.elapsed();
    // Keys that are typed before the desktop is shown again would go nowhere.
    client.wait_desktop(target.bound, interrupt)?;
    interrupt.wait_for("the desktop after the cut", target.bound, || {
        client.must_run()?;
        paint_from_variable(&client)?;
        match client.wait_colour([0x0b, 0x3d, 0x91], MODES[0].tolerance, Duration::from_secs(5), interrupt) {
            Ok(_) => Ok(Some(())),
            Err(Error::Late { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    })?;
    client.screen.key("Return")?;
    log_off(target, client)?;
    Ok(format!("connected again after {:.1} s", spent.as_secs_f64()))
}

/// Cuts one client's connection again and again; the host may not grow by it.
pub(super) fn many_cuts(target: &Target, service: &Background, report: &mut Report) -> Result<()> {
    let interrupt = target.place.interrupt;
    let cuts = if target.long { LONG_CUTS } else { CUTS };
    report.check(format!("{}: {cuts} cut connections cost the host nothing", target.name), || {
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, target.login.port, None)?;
        let before = count(&service.output()?);
        let mut client = through_proxy(target, "cut-often", &proxy)?;
        let mut first = None;
        for cut in 1..=cuts {
            proxy.cut();
            // The first picture after each is on its way.
            interrupt.wait_for(&format!("the client after cut {cut}"), target.bound, || {
                client.must_run()?;
                Ok((count(&service.output()?).shown >= before.shown + 1 + cut).then_some(()))
            })?;
            if cut == FIRST_CUTS {
                first = Some(Usage::of(service)?);
            }
        }
        let (Some(first), last) = (first, Usage::of(service)?) else {
            return Err(Error::broken("nothing was measured"));
        };
        let after = count(&service.output()?);
        log_off(target, client)?;
        let cookies = after.proved - before.proved;
        let text = format!(
            "{} to {} descriptors, {:.1} to {:.1} MB, {cookies} times by cookie",
            first.descriptors,
            last.descriptors,
            first.memory as f64 / 1024.0,
            last.memory as f64 / 1024.0
        );
        if last.descriptors > first.descriptors + 2
            || last.memory > first.memory + MAX_GROWTH
            || cookies < cuts
            || after.begun != before.begun + 1
        {
            return Err(Error::broken(text));
        }
        Ok(text)
    });
    interrupt.check()
}

struct Count {
    begun: usize,
    shown: usize,
    proved: usize,
}

fn count(log: &str) -> Count {
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    Count {
        begun: lines("session begins"),
        shown: lines("pictures go out"),
        proved: lines("proved with its reconnect cookie"),
    }
}

/// What a process holds.
pub(super) struct Usage {
    pub(super) descriptors: usize,
    /// Resident, in KiB.
    pub(super) memory: u64,
}

impl Usage {
    /// Before anything was measured.
    pub(super) const NOTHING: Self = Self { descriptors: 0, memory: 0 };

    /// Keeps the larger of each.
    pub(super) fn include(&mut self, other: &Self) {
        self.descriptors = self.descriptors.max(other.descriptors);
        self.memory = self.memory.max(other.memory);
    }

    pub(super) fn of(service: &Background) -> Result<Self> {
        let process = Path::new("/proc").join(service.id().to_string());
        let unreadable = |error: std::io::Error| Error::talk("/proc", error);
        let descriptors = fs::read_dir(process.join("fd")).map_err(unreadable)?.count();
        let status = fs::read_to_string(process.join("status")).map_err(unreadable)?;
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| Error::talk("/proc", "it has no VmRSS"))?;
        Ok(Self { descriptors, memory })
    }
}
