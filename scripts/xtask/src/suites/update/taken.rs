//! Updates that are taken, from version to version on one card, and what a server does in between: 1.0.0 in slot A, 1.1.0 in B,
//! 1.2.0 in A, with `--long` 1.3.0 in B. They are deltas: the slot that runs has nearly all of the next release. What a full
//! download takes shows a card whose service finds nothing to copy from.
//!
//! The first update, from its beginning until the new system is kept, is recorded for the power cuts ([`super::cuts`]).

use std::{fs, path::PathBuf};

use super::{
    Bench, FIRST, SECOND, attacks,
    cuts::{Life, Story},
    device::{
        self, BEGUN, KEPT, OVER, STAGE_BOUND, STAGED, STARTS_A, Staged, State, TRIES_A, TRIES_B, TRY_BOUND,
        admits, default_slot, holds,
    },
    releases::{Change, Share, must_be_fetched},
    web::Web,
};
use crate::{
    error::{At, Error, Result},
    machine::{Announcement, BOOT_BOUND, Disks, Machine, Options, copy_sparse},
    suite::Report,
    suites::boot,
};

/// The most memory that the update service may take, in MiB.
pub(super) const MEMORY_GOAL: u64 = 64;

/// Nothing, and where it is on a card whose service takes it for what it runs.
const NOTHING: &str = "usr/share/lucid/nothing";

/// The group's checks, and the card on which a try is armed, for those of others. Where power cuts are asked for, the lives of
/// the first update are recorded into `lives`.
pub(super) fn run(bench: &Bench, web: &mut Web, report: &mut Report, lives: &mut Vec<Life>) -> Result<()> {
    web.serve(&bench.first_release()?)?;
    let disks = bench.card("taken")?;
    let recorded = report.wants("cut");
    let before = Disks::kept(&bench.work.join("before"));
    let log = |name: &str| recorded.then(|| bench.work.join(format!("{name}.log")));
    if recorded {
        fs::create_dir_all(&before.dir).at("making", &before.dir)?;
        copy_sparse(&disks.os, &before.os)?;
    }
    // What others stand on is done whatever is asked for, and is a check only where it is.
    let first =
        "taken: a card with a blank slot gets a release over HTTP, a small part of it fetched, in ranges";
    let work = || staged_and_armed(bench, web, &disks, log("staging"));
    let armed = if report.wants("taken") {
        report.obtain(first, |(_, figures): &(String, String)| figures.clone(), work)
    } else {
        Some(work()?)
    };
    let Some((device, _)) = armed else { return Ok(()) };
    if let Some(log) = log("staging") {
        lives.push(Life::recorded(Story::Kept, before, &log)?);
    }
    if bench.long {
        report.check(
            "taken: a device that has nothing of a release fetches all of it, with no more memory",
            || full(bench, web),
        );
    }
    if !["taken", "attack", "cut"].into_iter().any(|group| report.wants(group)) {
        return Ok(());
    }
    let options = Options { writes: log("trying"), ..bench.options() };
    let mut machine = Machine::start(&disks, &options, &bench.steps.interrupt)?;
    let mut tried = || {
        let kept = kept(&mut machine, 0, SECOND, 'b')?;
        same(bench, &mut machine, kept, &device)
    };
    let second = "taken: the new system is tried and kept, with the account and the device's key of before";
    let tried = if report.wants("taken") { report.check(second, tried) } else { tried().map(|_| true)? };
    if !tried {
        return Ok(());
    }
    if let Some(log) = log("trying") {
        // By then the new system has done all that there is to do.
        device::line(&mut machine, TRY_BOUND, 0, &[SECOND, OVER])?;
        let mut life = Life::recorded(Story::Kept, Disks::kept(&bench.armed()), &log)?;
        life.armable = 0;
        lives.push(life);
    }
    if !report.wants("taken") && !report.wants("attack") {
        return Ok(());
    }
    if report.wants("attack") {
        attacks::run(bench, web, &mut machine, report)?;
    }
    let mut versions = vec![("1.2.0", 'a')];
    if bench.long {
        versions.push(("1.3.0", 'b'));
    }
    for (version, slot) in &versions {
        let name = format!(
            "taken: {version} follows into slot {slot} by itself, in parts, without a wait for anybody"
        );
        if !report.check(name, || follows(bench, web, &mut machine, version, *slot, &device)) {
            return Ok(());
        }
    }
    let Some((newest, slot)) = versions.last() else { return Ok(()) };
    machine.power_off()?;
    report.check("taken: what is on the card says so too, and is whole", || {
        boot::clean_data(&disks)?;
        let state = State::read(&disks)?;
        state.must_have_ended(newest, "installed")?;
        let mut wanted = vec![(SECOND, "installed")];
        wanted.extend(versions.iter().map(|(version, _)| (*version, "installed")));
        if state.endings() != wanted {
            return Err(Error::broken(format!("update.json says of the updates: {:?}", state.endings())));
        }
        let (boots, wanted) = (default_slot(&disks)?, bench.releases.image(newest, newest, &[])?);
        if boots != *slot || !holds(&disks, &slot.to_string(), &wanted)? {
            return Err(Error::broken(format!(
                "slot {boots} boots, and slot {slot} has to, with {newest} in it"
            )));
        }
        let all: String = versions.iter().map(|(version, slot)| format!(", {version} in {slot}")).collect();
        Ok(format!("{FIRST} in a, {SECOND} in b{all}, one after the other"))
    });
    if report.wants("attack") {
        attacks::freeze(bench, web, &disks, report)?;
    }
    Ok(())
}

/// The first release is staged; the machine ends where it would restart into it, and its card is copied. Gives the device's
/// key as well.
fn staged_and_armed(
    bench: &Bench,
    web: &Web,
    disks: &Disks,
    log: Option<PathBuf>,
) -> Result<(String, String)> {
    let options = Options { end_on_restart: true, writes: log, ..bench.options() };
    let mut machine = Machine::start(disks, &options, &bench.steps.interrupt)?;
    let said = machine.wait_ready(0)?;
    if said.recording != Announcement::RECORDED {
        return Err(Error::broken(format!("the announcement says of recordings: {}", said.recording)));
    }
    let device = device_key(&mut machine, 0)?;
    let figures = staged(bench, web, &mut machine, (0, 0), (SECOND, Share::Small))?;
    machine.wait_end(TRY_BOUND)?;
    let state = State::read(disks)?;
    if (state.phase(), state.about()) != ("trying", Some((SECOND, "b"))) {
        return Err(Error::broken(format!("it restarts, and update.json says {}", state.phase())));
    }
    let armed = Disks::kept(&bench.armed());
    fs::create_dir_all(&armed.dir).at("making", &armed.dir)?;
    copy_sparse(&disks.os, &armed.os)?;
    copy_sparse(&disks.firmware, &armed.firmware)?;
    Ok((device, figures))
}

/// A card of the first version whose service takes an empty file for the slot that it runs (`--partition`), and whose other slot
/// is blank: there is nothing to copy from. So all of the release is fetched, as by a device whose system has nothing in common
/// with it.
fn full(bench: &Bench, web: &Web) -> Result<String> {
    let slot = |kind: &str| format!("--partition={kind}-a=/{NOTHING}");
    let options = format!("--every=10s {} {}", slot("boot"), slot("root"));
    let mut changes = bench.releases.settings(&options).to_vec();
    changes.push(Change { path: NOTHING, bytes: vec![0; 4096], program: false });
    let disks = bench.card_of("full", &bench.releases.image("full", FIRST, &changes)?)?;
    let asked = web.asked()?.len();
    let mut machine = Machine::start(&disks, &bench.options(), &bench.steps.interrupt)?;
    let figures = staged(bench, web, &mut machine, (0, asked), (SECOND, Share::Whole))?;
    // It is told to restart by nobody, and says so once what is staged is on the disk.
    device::line(&mut machine, STAGE_BOUND, 0, &[SECOND, " is ready: "])?;
    machine.power_off()?;
    let state = State::read(&disks)?;
    if (state.phase(), state.about()) != ("staged", Some((SECOND, "b"))) {
        return Err(Error::broken(format!("update.json says {}", state.phase())));
    }
    if !holds(&disks, "b", &bench.releases.image(SECOND, SECOND, &[])?)? {
        return Err(Error::broken(format!("slot b does not hold {SECOND}")));
    }
    Ok(figures)
}

/// Waits until a version is staged, and compares what it took with what nginx gave, from these on: a byte of the console, and a
/// question to nginx.
fn staged(
    bench: &Bench,
    web: &Web,
    machine: &mut Machine,
    (from, asked): (usize, usize),
    (version, share): (&str, Share),
) -> Result<String> {
    let (_, at) = device::line(machine, STAGE_BOUND, from, &[version, BEGUN])?;
    let start = std::time::Instant::now();
    let (line, _) = device::line(machine, STAGE_BOUND, at, &[version, STAGED])?;
    let seconds = start.elapsed().as_secs_f64();
    let archive = bench.releases.archive(&bench.releases.web(), version)?;
    let staged = Staged::parse(&line)?;
    if staged.peak > MEMORY_GOAL {
        return Err(Error::broken(format!("it took more than {MEMORY_GOAL} MiB of memory: {line}")));
    }
    let part = must_be_fetched(web.asked()?.get(asked..).unwrap_or_default(), &archive, staged, share)?;
    Ok(format!("{part}; {seconds:.0} s, at most {} MiB of memory (goal: {MEMORY_GOAL})", staged.peak))
}

/// Waits until a new system is kept, from byte `from` of the console on; gives where the console was then.
pub(super) fn kept(machine: &mut Machine, from: usize, version: &str, slot: char) -> Result<usize> {
    let number = if slot == 'b' { TRIES_B } else { TRIES_A };
    let (_, tries) = device::line(machine, TRY_BOUND, from, &[number])?;
    let (_, at) = device::line(machine, TRY_BOUND, tries, &[version, KEPT])?;
    machine.wait_ready(tries)?;
    let console = machine.console()?;
    boot::booted(console.get(tries..).unwrap_or_default(), slot, true)?;
    Ok(at)
}

/// The account and the device's key are those of before.
fn same(bench: &Bench, machine: &mut Machine, at: usize, device: &str) -> Result<String> {
    let console = machine.console()?;
    if console.get(at..).is_some_and(|after| after.contains(STARTS_A)) {
        return Err(Error::broken("the new system was kept, and then the old one was started"));
    }
    admits(bench, machine, &bench.work.join("client"))?;
    let now = device_key(machine, 0)?;
    if now != device {
        return Err(Error::broken(format!("the device signs with {now}, and signed with {device} before")));
    }
    Ok(format!("{:.0} s from QEMU's start", machine.started.elapsed().as_secs_f64()))
}

/// The newest key of a device on its console.
fn device_key(machine: &mut Machine, from: usize) -> Result<String> {
    machine.wait_console("the device's key", BOOT_BOUND, from, |text| {
        Announcement::device_key(text).map(str::to_owned)
    })
}

/// The next version is published while the machine runs, and everything else it does itself.
fn follows(
    bench: &Bench,
    web: &mut Web,
    machine: &mut Machine,
    version: &str,
    slot: char,
    device: &str,
) -> Result<String> {
    let (from, asked) = (machine.console()?.len(), web.asked()?.len());
    // The attacks may have published it.
    if bench.releases.archive(&bench.releases.web(), version).is_err() {
        bench.releases.publish(version)?;
    }
    web.serve(&bench.releases.web())?;
    let figures = staged(bench, web, machine, (from, asked), (version, Share::Small))?;
    kept(machine, from, version, slot)?;
    admits(bench, machine, &bench.work.join("client"))?;
    let now = device_key(machine, from)?;
    if now != device {
        return Err(Error::broken(format!("the device signs with {now}, and signed with {device} before")));
    }
    Ok(figures)
}
