//! The plug is pulled in the middle of updates. Each time the card is what a cut may leave ([`crate::writes`]): what was not
//! flushed is lost, torn or there, as chance has it. That is looked at, and the next life begins with it, so that a card which
//! does not boot any more ends the check. After a few lives the update is let come to its end.

use std::{env, fs, thread, time::Duration};

use super::{
    Bench, FIRST, SECOND as VERSION,
    device::{
        self, BEGUN, KEPT, REFUSED, STAGE_BOUND, STAGED, State, TRIES_B, TRY_BOUND, default_slot, holds,
    },
    web::Web,
};
use crate::{
    error::{At, Error, Result},
    machine::{Disks, Machine, Options, Scratch, copy_sparse},
    suite::{Picks, Report},
    writes::Writes,
};

/// Power cuts, without and with `--long`, unless LUCID_POWER_CUTS says how many.
const CUTS: u64 = 2;
const LONG_CUTS: u64 = 6;
const SEED: u64 = 20_261_123;
/// What the device says when it has nothing to do any more.
const OVER: &str = "it is not newer than what the device runs";

/// Where an update is when the plug is pulled.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The slot is being written.
    Staging,
    /// It is written; the try is being armed, and the machine stopped.
    Arming,
    /// The new system starts, and is being judged.
    Trying,
    /// It has passed, and becomes the one that boots.
    Keeping,
}

/// The cuts of an update, each from what the one before has left. A try that is cut off is made again, three times in all, so
/// there are no more than two such cuts in one update.
const UPDATES: [[Moment; 3]; 2] =
    [[Moment::Staging, Moment::Trying, Moment::Keeping], [Moment::Staging, Moment::Arming, Moment::Keeping]];

impl Moment {
    /// The words after one of which the time begins; the later ones for a life that begins beyond the first.
    fn begins(self) -> &'static [&'static str] {
        const ALL: &[&str] = &[BEGUN, STAGED, TRIES_B, KEPT, OVER];
        ALL.get(self as usize..).unwrap_or_default()
    }

    /// The plug is pulled within so many milliseconds.
    fn within(self) -> u64 {
        match self {
            Self::Staging => 30_000,
            Self::Arming => 5000,
            Self::Trying => 25_000,
            Self::Keeping => 500,
        }
    }
}

/// The checks.
pub(super) fn run(bench: &Bench, web: &mut Web, report: &mut Report) -> Result<()> {
    let cuts = number("LUCID_POWER_CUTS")?.unwrap_or(if bench.long { LONG_CUTS } else { CUTS });
    let seed = number("LUCID_POWER_SEED")?.unwrap_or(SEED);
    web.serve(&bench.first_release()?)?;
    let mut picks = Picks::new(seed);
    let mut card: Option<Scratch> = None;
    let moments = UPDATES.into_iter().cycle().flat_map(|moments| {
        let last = moments.len() - 1;
        moments.into_iter().enumerate().map(move |(number, moment)| (moment, number == last))
    });
    for (number, (moment, last)) in (1..=cuts).zip(moments) {
        bench.steps.interrupt.check()?;
        let disks = match card.take() {
            Some(disks) => disks,
            None => bench.card("cuts")?,
        };
        let name = format!(
            "cut: a power cut leaves a card that boots and says what is true: {moment:?} ({number} of {cuts}, seed {seed})"
        );
        if !report.check(name, || cut(bench, &disks, moment, &mut picks)) {
            return Ok(());
        }
        if last || number == cuts {
            let name =
                format!("cut: after them the update comes to its end and is installed ({number} of {cuts})");
            if !report.check(name, || ends(bench, &disks)) {
                return Ok(());
            }
        } else {
            card = Some(disks);
        }
    }
    Ok(())
}

/// A number of the environment.
fn number(name: &str) -> Result<Option<u64>> {
    match env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|_| Error::broken(format!("{name} is no number: {text}"))),
    }
}

/// One life, to its cut.
fn cut(bench: &Bench, disks: &Disks, moment: Moment, picks: &mut Picks) -> Result<String> {
    let (log, base) = (disks.dir.join("writes.log"), disks.dir.join("before.img"));
    copy_sparse(&disks.os, &base)?;
    let options = Options { writes: Some(log.clone()), ..bench.options() };
    let mut machine = Machine::start(disks, &options, &bench.steps.interrupt)?;
    let what = format!("the moment {moment:?} of the update");
    let begun = machine.wait_console(&what, STAGE_BOUND, 0, |text| {
        if device::find(text, &[VERSION, REFUSED]).is_some() {
            return Some(Err(Error::broken("the release is given up for a power cut")));
        }
        moment.begins().iter().find_map(|&words| device::find(text, &[words])).map(|(line, _)| Ok(line))
    })?;
    let begun = begun?;
    let wait = Duration::from_millis(picks.below(moment.within()));
    thread::sleep(wait);
    machine.must_run()?;
    machine.cut();
    let mut writes = Writes::open(&log)?;
    writes.advance(|_, _| ())?;
    fs::rename(&base, &disks.os).at("renaming", &base)?;
    let cut = writes.cut(&disks.os, picks)?;
    let state = truth(bench, disks)?;
    Ok(format!(
        "{:.1} s after {begun:?}; {} writes flushed, {} of {} later ones lost or torn; it says: {state}",
        wait.as_secs_f64(),
        cut.kept,
        cut.lost,
        cut.in_doubt
    ))
}

/// What is on a card after a cut: the slot that boots holds a whole system, and what the update service says of the slots is so.
/// Gives that in words.
fn truth(bench: &Bench, disks: &Disks) -> Result<String> {
    let image = |version: &str| bench.releases.image(version, version, &[]);
    let slot = default_slot(disks)?;
    let mut boots = None;
    for version in [FIRST, VERSION] {
        if holds(disks, &slot.to_string(), &image(version)?)? {
            boots = Some(version);
        }
    }
    let Some(boots) = boots else {
        return Err(Error::broken(format!("slot {slot} boots, and holds neither {FIRST} nor {VERSION}")));
    };
    let state = State::read(disks)?;
    if let Some((version, other)) = state.about() {
        if version != VERSION {
            return Err(Error::broken(format!("update.json is about {version}, which nobody has released")));
        }
        // Only while it is written may anything be there.
        if state.phase() != "staging" && !holds(disks, other, &image(version)?)? {
            let phase = state.phase();
            return Err(Error::broken(format!("{version} is {phase}, and slot {other} does not hold it")));
        }
    }
    match state.last() {
        Some((version, "installed", _)) if version != boots => {
            Err(Error::broken(format!("{version} is said to be installed, and slot {slot} holds {boots}")))
        }
        Some((version, ending @ ("failed" | "dropped" | "lost"), why)) => {
            Err(Error::broken(format!("{version} is said to have ended as {ending}: {why}")))
        }
        _ => Ok(format!("{}, and slot {slot} boots {boots}", state.phase())),
    }
}

/// The update is let come to its end.
fn ends(bench: &Bench, disks: &Disks) -> Result<String> {
    let mut machine = Machine::start(disks, &bench.options(), &bench.steps.interrupt)?;
    let bound = STAGE_BOUND + TRY_BOUND;
    let over = machine.wait_console("the end of the update", bound, 0, |text| {
        let given_up = device::find(text, &[VERSION, REFUSED]);
        device::find(text, &[VERSION, OVER]).map(Ok).or(given_up.map(Err))
    })?;
    let seconds = machine.started.elapsed().as_secs_f64();
    machine.wait_ready(0)?;
    machine.power_off()?;
    if let Err((line, _)) = over {
        return Err(Error::broken(line));
    }
    State::read(disks)?.must_have_ended(VERSION, "installed")?;
    let slot = default_slot(disks)?;
    if !holds(disks, &slot.to_string(), &bench.releases.image(VERSION, VERSION, &[])?)? {
        return Err(Error::broken(format!("slot {slot} boots, and does not hold {VERSION}")));
    }
    Ok(format!("{seconds:.0} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_begins_beyond_its_moment_is_cut_off_all_the_same() {
        assert_eq!(Moment::Staging.begins(), [BEGUN, STAGED, TRIES_B, KEPT, OVER]);
        assert_eq!(Moment::Trying.begins(), [TRIES_B, KEPT, OVER]);
        assert_eq!(Moment::Keeping.begins(), [KEPT, OVER]);
    }
}
