//! What a server can do to a device that asks it: the device goes on with what it runs, and names what is wrong.

use std::{path::Path, process::Command, time::Duration};

use super::{
    Bench,
    device::{self, BEGUN, STAGE_BOUND, STAGED, State, default_slot},
    releases::damage,
    web::{Behaviour, Web},
};
use crate::{
    error::{Error, Result},
    machine::{Disks, Machine, Options},
    progress::ask_well,
    suite::Report,
};

/// The longest until the device has asked once more, and has lost patience with a server that holds it up.
const BOUND: Duration = Duration::from_secs(180);
/// Timestamps hold 30 days, lists of releases 180.
const LATER: &str = "+45 days";

/// The attacks on a machine that runs 1.1.0. When they are over, 1.2.0 is published.
pub(super) fn run(bench: &Bench, web: &mut Web, machine: &mut Machine, report: &mut Report) -> Result<()> {
    let Bench { releases, .. } = bench;
    let older = bench.first_release()?;
    report.check("attack: wrong machine: a release for another kind of device is not taken", || {
        releases.publish_noise("pi5", "9.9.9")?;
        refuses(web, machine, &releases.web(), &["9.9.9", "it is for another kind of device"], BOUND)
    });
    report.check("attack: downgrade: an older release, signed as every other, is not taken", || {
        releases.publish_noise("qemu-arm64", "1.0.5")?;
        refuses(web, machine, &releases.web(), &["1.0.5", "it is not newer than what the device runs"], BOUND)
    });
    report.check("attack: rollback: metadata that is older than what was seen is refused", || {
        refuses(web, machine, &older, &["the timestamp is rolled back: version "], BOUND)
    });
    report.check("attack: endless data: an answer without end is cut off", || {
        let (hostile, from) = (web.hostile(Behaviour::Endless)?, machine.console()?.len());
        let said = refused(machine, from, &["has more bytes than it may have"], BOUND)?;
        Ok(format!("after {} KB: {said}", hostile.sent() / 1000))
    });
    report.check("attack: slow retrieval: a server that never answers is given up", || {
        let (_hostile, from) = (web.hostile(Behaviour::Silent)?, machine.console()?.len());
        refused(machine, from, &["no answer comes", "holds the device up"], BOUND)
    });
    if bench.long {
        report.check("attack: slow retrieval: a server that gives a byte a second is given up", || {
            let (hostile, from) = (web.hostile(Behaviour::Drips)?, machine.console()?.len());
            let said = refused(machine, from, &["it takes too long as a whole"], BOUND)?;
            Ok(format!("after {} bytes: {said}", hostile.sent()))
        });
    }
    report.check("attack: arbitrary software: chunks that are not what was signed are not kept", || {
        releases.publish("1.2.0")?;
        let damaged = releases.copy("web-damaged")?;
        for file in releases.contents(&damaged, "1.2.0")? {
            damage(&file)?;
        }
        let from = machine.console()?.len();
        web.serve(&damaged)?;
        let (_, at) = device::line(machine, STAGE_BOUND, from, &["1.2.0", BEGUN])?;
        refused(machine, at, &["a chunk of ", "is damaged"], STAGE_BOUND)
    });
    web.stop();
    Ok(())
}

/// As [`refused`], of what nginx gives out.
fn refuses(
    web: &mut Web,
    machine: &mut Machine,
    folder: &Path,
    words: &[&str],
    bound: Duration,
) -> Result<String> {
    let from = machine.console()?.len();
    web.serve(folder)?;
    // It says what it thinks of a release before it does anything with it: what it does is seen when it says so again.
    let (_, at) = device::line(machine, bound, from, words)?;
    device::line(machine, bound, at, words)?;
    if machine.console()?.get(from..).is_some_and(|since| since.contains(BEGUN)) {
        return Err(Error::broken("a slot is written all the same"));
    }
    refused(machine, from, words, bound)
}

/// The device says so from byte `from` of its console on, stages nothing and does not restart. Gives what it says.
fn refused(machine: &mut Machine, from: usize, words: &[&str], bound: Duration) -> Result<String> {
    let (said, _) = device::line(machine, bound, from, words)?;
    let console = machine.console()?;
    let since = console.get(from..).unwrap_or_default();
    let starts = since.matches("Lucid: partition").count();
    if since.contains(STAGED) || starts > usize::from(from == 0) {
        return Err(Error::broken(format!("it says {said:?}, and goes on with it all the same")));
    }
    Ok(format!("says: {said}"))
}

/// The server stands still: what it gives out was true once, and a later release is kept from the device. Time is what tells,
/// so the machine is started once more, with its clock ahead.
pub(super) fn freeze(bench: &Bench, web: &mut Web, disks: &Disks, report: &mut Report) -> Result<()> {
    let (slot, before) = (default_slot(disks)?, State::read(disks)?);
    report.check("attack: freeze: metadata that is served on past its time is refused", || {
        let mut date = Command::new("date");
        let date = date.args(["--utc", "--date", LATER, "+%Y-%m-%dT%H:%M:%S"]);
        let clock = ask_well("reckoning a later day", date, b"")?.text().trim().to_owned();
        let options = Options { clock: Some(clock.clone()), ..bench.options() };
        web.serve(&bench.releases.web())?;
        let mut machine = Machine::start(disks, &options, &bench.steps.interrupt)?;
        machine.wait_ready(0)?;
        let said = refused(&mut machine, 0, &["the timestamp has expired"], BOUND)?;
        machine.power_off()?;
        let (now, after) = (default_slot(disks)?, State::read(disks)?);
        if now != slot || after.last() != before.last() {
            return Err(Error::broken(format!("slot {now} boots, and update.json says {:?}", after.last())));
        }
        Ok(format!("on {clock} {said}"))
    });
    Ok(())
}
