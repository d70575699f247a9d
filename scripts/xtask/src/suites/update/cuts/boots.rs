//! Machines that are started from what cuts left, until the update has come to its end.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    vec::IntoIter,
};

use super::{BAD, Life, Start, Story};
use crate::{
    build,
    error::{Error, Result},
    machine::{Disks, Machine, Scratch, copy_sparse},
    progress::ask_well,
    suite::{Picks, Report, Timed, timed},
    suites::update::{
        Bench, FIRST, SECOND,
        device::{self, KEPT, OVER, REFUSED, STAGE_BOUND, State, TRY_BOUND, default_slot, holds},
    },
    writes::Replay,
};

/// What the stand-in for the EEPROM says at every start, with the partition and whether it is a try after it.
const STARTS: &str = "Lucid: partition ";

/// How the names of all checks here begin.
const NAME: &str = "cut: the machine boots";

/// Makes the cards, one after the other: they follow the logs of their lives.
struct Maker<'a> {
    bench: &'a Bench<'a>,
    lives: &'a [Life],
    starts: IntoIter<Start>,
    /// An image with the disk that plays the EEPROM, on which no try is armed.
    image: Disks,
    /// The life that is followed, and the card that follows it.
    follows: Option<(usize, Replay)>,
    made: usize,
}

impl Maker<'_> {
    /// The next one, with its number.
    fn next(&mut self) -> Option<(usize, Start, Result<Scratch>)> {
        if self.bench.steps.interrupt.is_set() {
            return None;
        }
        let start = self.starts.next()?;
        self.made += 1;
        let card = self.card(&start);
        Some((self.made, start, card))
    }

    fn card(&mut self, Start { point, armed, .. }: &Start) -> Result<Scratch> {
        let Some(life) = self.lives.get(point.life) else {
            return Err(Error::broken("a power cut in a life that was not recorded"));
        };
        let dir = self.bench.machine(&format!("cut-{:?}-{}", life.story, self.made));
        let disks = Disks::scratch(&self.image.dir, &dir)?;
        if self.follows.as_ref().is_none_or(|(of, _)| *of != point.life) {
            let image = self.bench.work.join("following.img");
            copy_sparse(&life.before.os, &image)?;
            self.follows = Some((point.life, Replay::new(&image, 0..u64::MAX)?));
        }
        if let Some((_, replay)) = &mut self.follows {
            replay.cut_to(&life.writes, point.at, &mut Picks::new(point.seed), &disks.os)?;
        }
        if let Some(sector) = &point.sector {
            disks.write(life.layout.sector, sector)?;
        }
        if *armed {
            let firmware = disks.firmware.as_os_str();
            let mut arm = build::image_tool(self.bench.project, &["firmware-try".as_ref(), firmware]);
            ask_well("arming a try", &mut arm, b"")?;
        }
        Ok(disks)
    }
}

/// Starts a machine from each, some at a time. All are of updates of one kind, whose releases are given out.
pub(super) fn run(bench: &Bench, lives: &[Life], mut starts: Vec<Start>, report: &mut Report) -> Result<()> {
    if !report.wants(NAME) {
        return Ok(());
    }
    let (count, seed) = (starts.len(), bench.cuts.seed);
    starts.sort_by_key(|start| (start.point.life, start.point.at));
    let image = bench.releases.image(FIRST, FIRST, &[])?;
    let starts = starts.into_iter();
    let maker = Mutex::new(Maker { bench, lives, starts, image, follows: None, made: 0 });
    let (send, receive) = mpsc::channel::<(usize, Start, Timed<String>)>();
    thread::scope(|scope| {
        for _ in 0..bench.cuts.machines {
            let (maker, send) = (&maker, send.clone());
            scope.spawn(move || {
                loop {
                    // A worker that panicked has taken its case already.
                    let next = maker.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, start, card)) = next else { break };
                    let outcome = timed(|| card.and_then(|card| ends(bench, lives, &start, &card)));
                    if send.send((number, start, outcome)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        for (number, start, outcome) in receive {
            let Start { point, armed, same } = start;
            let armed = if armed { ", the try armed" } else { "" };
            let same = match same {
                0 => String::new(),
                same => format!("; {same} other cuts leave the same"),
            };
            let name = format!(
                "{NAME}, is true about itself and ends the update after a power cut {}{armed} ({number} of \
                 {count}, seed {seed}{same})",
                point.what
            );
            report.record(name, outcome);
        }
    });
    bench.steps.interrupt.check()
}

fn ends(bench: &Bench, lives: &[Life], start: &Start, disks: &Disks) -> Result<String> {
    let Some(life) = lives.get(start.point.life) else {
        return Err(Error::broken("a power cut in a life that was not recorded"));
    };
    ended(bench, life.story, disks)
}

/// A machine is started from a card, and the update comes to its end: each start says truly what runs, and so does the card
/// afterwards. The machine ends as soon as it has said what decides.
pub(super) fn ended(bench: &Bench, story: Story, disks: &Disks) -> Result<String> {
    let mut machine = Machine::start(disks, &bench.options(), &bench.steps.interrupt)?;
    // What is kept on the disk by then, and what may never be said.
    let (over, never) = match story {
        Story::Kept => ([SECOND, OVER], [SECOND, REFUSED]),
        Story::Left => ([BAD, REFUSED], [BAD, KEPT]),
    };
    let bound = STAGE_BOUND + TRY_BOUND + TRY_BOUND;
    let found = machine.wait_console("the end of the update", bound, 0, |text| {
        let wrong = device::find(text, &never).map(|(line, _)| Err(Error::broken(line)));
        wrong.or_else(|| device::find(text, &over).map(|_| Ok(())))
    })?;
    found?;
    let seconds = machine.started.elapsed().as_secs_f64();
    let console = machine.console()?;
    let starts = told(&console, story)?;
    machine.wait_ready(console.rfind(STARTS).unwrap_or_default())?;
    machine.cut();
    let state = State::read(disks)?;
    if state.phase() != "idle" || state.endings() != story.endings() {
        return Err(Error::broken(format!(
            "update.json says at the end: {}, and {:?}",
            state.phase(),
            state.endings()
        )));
    }
    let slot = default_slot(disks)?;
    if slot != 'b' || !holds(disks, "b", &bench.releases.image(SECOND, SECOND, &[])?)? {
        return Err(Error::broken(format!("slot {slot} boots, and slot b has to, with {SECOND} in it")));
    }
    Ok(format!("{starts} starts, {seconds:.0} s"))
}

/// The service says of each start what the firmware says of it, and which system is in that slot; of the last one for certain.
/// Gives how many there were.
fn told(console: &str, story: Story) -> Result<usize> {
    let (mut starts, mut certain) = (0, false);
    for start in console.split(STARTS).skip(1) {
        let (slot, tried) = match start.get(..8) {
            Some("2, try 0") => ('a', ""),
            Some("2, try 1") => ('a', ", which is only being tried"),
            Some("3, try 0") => ('b', ""),
            Some("3, try 1") => ('b', ", which is only being tried"),
            other => return Err(Error::broken(format!("the firmware starts {other:?}, which is no slot"))),
        };
        let said = device::find(start, &["runs ", " in slot "]);
        (starts, certain) = (starts + 1, said.is_some());
        let wanted = format!("runs {} in slot {slot}{tried}", story.version(slot));
        if let Some((line, _)) = said
            && !line.ends_with(&wanted)
        {
            return Err(Error::broken(format!("the service says {line:?}, and what is so is {wanted:?}")));
        }
    }
    if certain { Ok(starts) } else { Err(Error::broken("the service does not say what runs")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_says_of_each_start_has_to_be_so() {
        let start = |number: u8, tried: u8, said: &str| {
            format!(
                "Lucid: partition {number}, try {tried}\r\n[ 1.0] lucid-updated[1]:  INFO lucid_updated::service: {said}\n"
            )
        };
        let first = start(2, 0, "runs 1.0.0 in slot a");
        let tried = start(3, 1, "runs 1.1.0 in slot b, which is only being tried");
        assert_eq!(told(&format!("noise\n{first}{tried}"), Story::Kept).unwrap(), 2);
        for wrong in [
            "",
            "Lucid: partition 2, try 0\n",
            "Lucid: partition 4, try 0\n",
            &start(2, 0, "runs 1.1.0 in slot a"),
            &start(3, 1, "runs 1.1.0 in slot b"),
            &start(3, 0, "runs 1.1.0 in slot b, which is only being tried"),
        ] {
            assert!(told(wrong, Story::Kept).is_err(), "{wrong}");
        }
    }
}
