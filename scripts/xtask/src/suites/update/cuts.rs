//! The plug is pulled in the middle of updates, and the machine comes to their end all the same.
//!
//! One update is recorded: QEMU's `blklogwrites` keeps every write and flush of the card, from the first start on until the new
//! system is kept ([`Life`]; with `--long`, or where LUCID_POWER_CUTS is set, a second one that falls back by itself). What a
//! power cut at any moment would have left is made from that record, without running it again ([`crate::writes`]): what was
//! flushed is there; of each later write chance leaves all, its first sectors, or nothing, and the same for the same seed.
//!
//! Cut is ([`points`])
//! - before and after each flush with which a file of lucid-updated's (`update.json`, `trust.json`, `autoboot.bak`, and those
//!   that are to take their places) comes to be another one, seen by looking at the data partition after every flush;
//! - around each write that changes the sector of `autoboot.txt`: before it, after it, and with the sector itself torn, in every
//!   way that gives another text when its first or its last bytes are new;
//! - around the first and the last write of each partition of a slot, and between them at some moments;
//! - at random, evenly over all moments at which something is in doubt.
//!
//! A try is armed on another disk, QEMU's stand-in for the EEPROM. A Raspberry Pi forgets it with the power, that disk may not:
//! from the moment that `update.json` says that a try is armed until it begins, each cut counts with and without it.
//!
//! The card that is left is looked at ([`card`]) for every cut: the slot that boots holds a whole system, to the last byte, and
//! what is said of the slots and of past updates is so. Then machines are started from it ([`boots`]): each start says truly what
//! runs, and the update comes to its end. Cards that are the same in all that decides that are started once. Without `--long`
//! that is done with two of them; with it after every write step, and where LUCID_POWER_CUTS is set after every random cut too.
//!
//! What is left out: a sector that reads as something that nobody wrote, which the stand-in cannot go past, unlike a Pi's
//! firmware (lucid-updated's own tests have it), and writes of the stand-in's disk that are torn.
//!
//! `--long` also lets one card age over several cuts of running machines ([`lives`]).

mod boots;
mod card;
mod lives;
mod points;

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
};

use self::{
    card::{Layout, Systems},
    points::Point,
};
use super::{
    Bench, FIRST, SECOND,
    device::{self, REFUSED, STAGE_BOUND, STARTS_B, TRIES_A, TRY_BOUND},
    faults::no_rdp,
    releases::AUTOMATIC,
    web::Web,
};
use crate::{
    error::{At, Error, Result},
    machine::{Disks, Machine, Options, copy_sparse},
    suite::Report,
    writes::{Replay, Writes},
};

/// Random moments, unless LUCID_POWER_CUTS says how many.
const RANDOM: u64 = 200;
/// Machines at once, unless LUCID_POWER_MACHINES says how many.
const MACHINES: u64 = 2;
const SEED: u64 = 20_261_123;
/// The release that does not pass.
const BAD: &str = "1.2.0";

/// What the environment says of power cuts.
pub(super) struct Settings {
    /// So many are at random moments.
    random: u64,
    /// Whether that was asked for, and so the machine is to be started after each of them.
    asked: bool,
    seed: u64,
    machines: u64,
}

impl Settings {
    pub(super) fn read() -> Result<Self> {
        let asked = number("LUCID_POWER_CUTS")?;
        Ok(Self {
            random: asked.unwrap_or(RANDOM),
            asked: asked.is_some(),
            seed: number("LUCID_POWER_SEED")?.unwrap_or(SEED),
            machines: number("LUCID_POWER_MACHINES")?.unwrap_or(MACHINES).max(1),
        })
    }

    /// Whether an update that falls back is recorded too.
    pub(super) fn falls_back(&self, long: bool) -> bool {
        long || self.asked
    }
}

/// A number of the environment.
fn number(name: &str) -> Result<Option<u64>> {
    match env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|_| Error::broken(format!("{name} is no number: {text}"))),
    }
}

/// An update that is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Story {
    /// From [`FIRST`] in slot A to [`SECOND`] in slot B, which is kept.
    Kept,
    /// From there to [`BAD`] in slot A, whose RDP host does not start.
    Left,
}

impl Story {
    /// The version that is installed, and into which slot.
    fn target(self) -> (&'static str, char) {
        match self {
            Self::Kept => (SECOND, 'b'),
            Self::Left => (BAD, 'a'),
        }
    }

    /// The version that runs in a slot.
    fn version(self, slot: char) -> &'static str {
        match (self, slot) {
            (_, 'b') => SECOND,
            (Self::Kept, _) => FIRST,
            (Self::Left, _) => BAD,
        }
    }

    /// How updates have ended when it is over. In both, [`SECOND`] in slot B is what boots then.
    fn endings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Kept => &[(SECOND, "installed")],
            Self::Left => &[(SECOND, "installed"), (BAD, "failed")],
        }
    }
}

/// A machine's life while it updates, as it was recorded.
pub(super) struct Life {
    story: Story,
    /// The card before it.
    before: Disks,
    layout: Layout,
    writes: Writes,
    /// Until the log has so many entries a try that was armed has not begun.
    pub(super) armable: usize,
}

impl Life {
    /// That of a machine whose card was this, up to now.
    pub(super) fn recorded(story: Story, before: Disks, log: &Path) -> Result<Self> {
        let layout = Layout::of(&before)?;
        let mut writes = Writes::open(log)?;
        writes.advance(|_, _| ())?;
        let armable = writes.len();
        Ok(Self { story, before, layout, writes, armable })
    }
}

/// The checks, with the lives of an update that was kept.
pub(super) fn run(bench: &Bench, web: &mut Web, mut lives: Vec<Life>, report: &mut Report) -> Result<()> {
    let Settings { random, seed, .. } = bench.cuts;
    if bench.cuts.falls_back(bench.long) {
        let name = "cut: an update to a system without an RDP host falls back, and is recorded";
        let figures = |life: &Life| format!("{} writes and flushes", life.writes.len());
        let Some(life) = report.obtain(name, figures, || falls_back(bench, web, &lives)) else {
            return Ok(());
        };
        lives.push(life);
    }
    let name = format!(
        "cut: a power cut at any write step of an update, or at {random} random moments, leaves a whole system to boot \
         and a card that is true about itself (seed {seed})"
    );
    let found = report.obtain(name, |survey: &Survey| survey.figures.clone(), || survey(bench, &lives));
    let Some(Survey { starts, .. }) = found else { return Ok(()) };
    let wanted = starts.into_iter().filter(|start| start.is_wanted(bench));
    let (kept, left): (Vec<_>, Vec<_>) =
        wanted.partition(|start| lives.get(start.point.life).is_some_and(|life| life.story == Story::Kept));
    web.serve(&bench.first_release()?)?;
    boots::run(bench, &lives, kept, report)?;
    if !left.is_empty() {
        web.serve(&bench.forked()?.web())?;
        boots::run(bench, &lives, left, report)?;
    }
    if bench.long && report.wants(lives::NAME) {
        web.serve(&bench.first_release()?)?;
        lives::run(bench, &Systems::of(bench, Story::Kept)?, report)?;
    }
    Ok(())
}

/// An update from what the others left, to a system that does not pass, until the old one has said so.
fn falls_back(bench: &Bench, web: &mut Web, lives: &[Life]) -> Result<Life> {
    let Some(last) = lives.last() else { return Err(Error::broken("nothing is recorded")) };
    let releases = bench.forked()?;
    releases.publish_image(&bad_system(bench)?, BAD)?;
    web.serve(&releases.web())?;
    let first = bench.releases.image(FIRST, FIRST, &[])?;
    let disks = Disks::scratch(&first.dir, &bench.machine("falls-back"))?;
    copy_sparse(&last.before.os, &disks.os)?;
    Replay::new(&disks.os, 0..u64::MAX)?.end(&last.writes)?;
    let before = Disks::kept(&bench.work.join("before-bad"));
    fs::create_dir_all(&before.dir).at("making", &before.dir)?;
    copy_sparse(&disks.os, &before.os)?;

    let log = bench.work.join("falling-back.log");
    let options = Options { writes: Some(log.clone()), ..bench.options() };
    let mut machine = Machine::start(&disks, &options, &bench.steps.interrupt)?;
    let (_, tries) = device::line(&mut machine, STAGE_BOUND, 0, &[TRIES_A])?;
    // The kernel that is tried has not begun yet, so nothing that it writes is in the log.
    let mut writes = Writes::open(&log)?;
    writes.advance(|_, _| ())?;
    let (_, back) = device::line(&mut machine, TRY_BOUND, tries, &[STARTS_B])?;
    device::line(&mut machine, TRY_BOUND, back, &[BAD, REFUSED])?;
    machine.must_run()?;
    machine.cut();
    let mut life = Life::recorded(Story::Left, before, &log)?;
    life.armable = writes.len();
    Ok(life)
}

/// A system without an RDP host, which is judged soon.
fn bad_system(bench: &Bench) -> Result<Disks> {
    let mut changes = bench.releases.settings(&format!("{AUTOMATIC} --within=10s")).to_vec();
    changes.push(no_rdp());
    bench.releases.image("bad", BAD, &changes)
}

/// A card from which a machine is started.
struct Start {
    point: Point,
    /// Whether the stand-in for the EEPROM has kept that a try is armed.
    armed: bool,
    /// So many other cuts leave the same.
    same: usize,
}

impl Start {
    /// Whether this run starts a machine from it.
    fn is_wanted(&self, bench: &Bench) -> bool {
        if self.point.random { bench.cuts.asked } else { bench.long || self.point.always }
    }
}

/// What became of all cuts.
struct Survey {
    /// Each card that is another one than those before it, in the order of their moments within a life; write steps come first.
    starts: Vec<Start>,
    figures: String,
}

/// Looks at what each cut leaves.
fn survey(bench: &Bench, lives: &[Life]) -> Result<Survey> {
    let Settings { random, seed, .. } = bench.cuts;
    let folder = |number: usize| bench.work.join(format!("life-{number}"));
    let steps = of_each(lives, |number, life| points::steps(bench, life, number, seed, &folder(number)))?;
    let mut points = points::random(lives, &steps, random, seed)?;
    let found: usize = steps.iter().map(|steps| steps.points.len()).sum();
    points.extend(steps.into_iter().flat_map(|steps| steps.points));
    let systems = lives.iter().map(|life| Systems::of(bench, life.story)).collect::<Result<Vec<_>>>()?;
    let looked = of_each(lives, |number, life| {
        let of_it = points.iter().filter(|point| point.life == number);
        let systems = systems.get(number).ok_or_else(|| Error::broken("a life without systems"))?;
        card::looked(bench, life, systems, of_it.cloned().collect(), &folder(number))
    })?;
    let mut wrong = Vec::new();
    let (mut doubt, mut lost, mut torn) = (0, 0, 0);
    let mut starts: Vec<([u8; 32], Start)> = Vec::new();
    let mut all: Vec<_> = looked.into_iter().flatten().collect();
    // What random cuts leave that a write step leaves too counts as that one's.
    all.sort_by_key(|looked| looked.point.random);
    for looked in all {
        (doubt, lost) = (doubt + looked.cut.in_doubt, lost + looked.cut.lost);
        torn += usize::from(looked.point.torn);
        let keys = match looked.found {
            Ok(keys) => keys,
            Err(error) => {
                wrong.push(format!("{}: {error}", looked.point.what));
                continue;
            }
        };
        for (armed, key) in keys {
            match starts.iter_mut().find(|(of, _)| *of == key) {
                Some((_, start)) => {
                    start.same += 1;
                    start.point.always |= looked.point.always;
                }
                None => starts.push((key, Start { point: looked.point.clone(), armed, same: 0 })),
            }
        }
    }
    if !wrong.is_empty() {
        let shown: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
        return Err(Error::broken(format!(
            "{} of {} cuts leave something wrong\n{}",
            wrong.len(),
            points.len(),
            shown.join("\n")
        )));
    }
    let of_steps = starts.iter().filter(|(_, start)| !start.point.random).count();
    let wanted = starts.iter().filter(|(_, start)| start.is_wanted(bench)).count();
    let figures = format!(
        "{found} cuts at write steps, {random} at random; {lost} of {doubt} writes lost or torn, autoboot.txt torn {torn} times; \
         {} different starts, {of_steps} of them at write steps; {wanted} of them are made",
        starts.len()
    );
    Ok(Survey { starts: starts.into_iter().map(|(_, start)| start).collect(), figures })
}

/// Works on all lives at once.
fn of_each<T: Send>(lives: &[Life], work: impl Fn(usize, &Life) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> =
            lives.iter().enumerate().map(|(number, life)| scope.spawn(move || work(number, life))).collect();
        let panicked = |_| Err(Error::broken("looking at a recorded life panicked"));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}

/// An emptied folder.
fn emptied(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).at("emptying", folder)?;
    }
    fs::create_dir_all(folder).at("making", folder)?;
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_boots_at_the_end_of_an_update_is_the_release_that_passed() {
        for story in [Story::Kept, Story::Left] {
            let (new, slot) = story.target();
            assert_eq!(story.version(slot), new);
            let passed = story.endings().contains(&(new, "installed"));
            assert_eq!(passed, new == story.version('b'));
        }
    }
}
