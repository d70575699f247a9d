//! Power cuts of machines that run, again and again on the same card: it ages as no record of one life shows. Each life begins
//! with what the cut of the one before has left; after a few of them the update is let come to its end.

use std::{fs, thread, time::Duration};

use super::{
    Story, boots,
    card::{Look, Systems},
};
use crate::{
    error::{At, Error, Result},
    machine::{Disks, Machine, Options, Scratch, copy_sparse},
    suite::{Picks, Report},
    suites::update::{
        Bench, SECOND as VERSION,
        device::{self, BEGUN, KEPT, OVER, REFUSED, STAGE_BOUND, STAGED, TRIES_B},
    },
    writes::Writes,
};

/// How the names of all checks here begin.
pub(super) const NAME: &str = "cut: life after life";
/// Lives that end with a power cut.
const LIVES: u64 = 6;

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

/// The checks; what is given out is the release that is kept.
pub(super) fn run(bench: &Bench, systems: &Systems, report: &mut Report) -> Result<()> {
    let seed = bench.cuts.seed;
    let mut picks = Picks::new(seed);
    let mut card: Option<Scratch> = None;
    let moments = UPDATES.into_iter().cycle().flat_map(|moments| {
        let last = moments.len() - 1;
        moments.into_iter().enumerate().map(move |(number, moment)| (moment, number == last))
    });
    for (number, (moment, last)) in (1..=LIVES).zip(moments) {
        bench.steps.interrupt.check()?;
        let disks = match card.take() {
            Some(disks) => disks,
            None => bench.card("cuts")?,
        };
        let name = format!(
            "{NAME}: a power cut leaves a card that boots and says what is true: {moment:?} ({number} of {LIVES}, \
             seed {seed})"
        );
        if !report.check(name, || cut(bench, systems, &disks, moment, &mut picks)) {
            return Ok(());
        }
        if last || number == LIVES {
            let name = format!(
                "{NAME}: after them the update comes to its end and is installed ({number} of {LIVES})"
            );
            if !report.check(name, || boots::ended(bench, Story::Kept, &disks)) {
                return Ok(());
            }
        } else {
            card = Some(disks);
        }
    }
    Ok(())
}

/// One life, to its cut.
fn cut(bench: &Bench, systems: &Systems, disks: &Disks, moment: Moment, picks: &mut Picks) -> Result<String> {
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
    let state = Look::at(disks)?.truth(systems, false)?;
    Ok(format!(
        "{:.1} s after {begun:?}; {} writes flushed, {} of {} later ones lost or torn; it says: {state}",
        wait.as_secs_f64(),
        cut.kept,
        cut.lost,
        cut.in_doubt
    ))
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
