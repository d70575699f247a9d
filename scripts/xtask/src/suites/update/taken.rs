//! Updates that are taken, from version to version on one card, and what a server does in between.

use std::fs;

use super::{
    Bench, SECOND, attacks,
    device::{
        self, BEGUN, KEPT, STAGE_BOUND, STAGED, STARTS_A, Staged, State, TRIES_B, TRY_BOUND, admits,
        default_slot, holds,
    },
    releases::must_be_a_part,
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

/// The group's checks, and the card on which a try is armed, for those of others.
pub(super) fn run(bench: &Bench, web: &mut Web, report: &mut Report) -> Result<()> {
    web.serve(&bench.first_release()?)?;
    let disks = bench.card("taken")?;
    // What others stand on is done whatever is asked for, and is a check only where it is.
    let first =
        "taken: a card with a blank slot gets a release over HTTP, a small part of it fetched, in ranges";
    let work = || staged_and_armed(bench, web, &disks);
    let armed = if report.wants("taken") {
        report.obtain(first, |(_, figures): &(String, String)| figures.clone(), work)
    } else {
        Some(work()?)
    };
    let Some((device, _)) = armed else { return Ok(()) };
    if !report.wants("taken") && !report.wants("attack") {
        return Ok(());
    }
    let mut machine = Machine::start(&disks, &bench.options(), &bench.steps.interrupt)?;
    let mut tried = || {
        let kept = kept(&mut machine, 0, SECOND, 'b')?;
        same(bench, &mut machine, kept, &device)
    };
    let second = "taken: the new system is tried and kept, with the account and the device's key of before";
    let tried = if report.wants("taken") { report.check(second, tried) } else { tried().map(|_| true)? };
    if !tried {
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
        State::read(&disks)?.must_have_ended(newest, "installed")?;
        let (boots, wanted) = (default_slot(&disks)?, bench.releases.image(newest, newest, &[])?);
        if boots != *slot || !holds(&disks, &slot.to_string(), &wanted)? {
            return Err(Error::broken(format!(
                "slot {boots} boots, and slot {slot} has to, with {newest} in it"
            )));
        }
        Ok("")
    });
    if report.wants("attack") {
        attacks::freeze(bench, web, &disks, report)?;
    }
    Ok(())
}

/// The first release is staged; the machine ends where it would restart into it, and its card is copied. Gives the device's
/// key as well.
fn staged_and_armed(bench: &Bench, web: &Web, disks: &Disks) -> Result<(String, String)> {
    let options = Options { end_on_restart: true, ..bench.options() };
    let mut machine = Machine::start(disks, &options, &bench.steps.interrupt)?;
    let said = machine.wait_ready(0)?;
    if said.recording != Announcement::RECORDED {
        return Err(Error::broken(format!("the announcement says of recordings: {}", said.recording)));
    }
    let device = device_key(&mut machine, 0)?;
    let figures = staged(bench, web, &mut machine, (0, 0), SECOND)?;
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

/// Waits until a version is staged, and compares what it took with what nginx gave, from these on: a byte of the console, and a
/// question to nginx.
fn staged(
    bench: &Bench,
    web: &Web,
    machine: &mut Machine,
    (from, asked): (usize, usize),
    version: &str,
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
    let part = must_be_a_part(web.asked()?.get(asked..).unwrap_or_default(), &archive, staged)?;
    Ok(format!("{part}; {seconds:.0} s, at most {} MiB of memory (goal: {MEMORY_GOAL})", staged.peak))
}

/// Waits until a new system is kept, from byte `from` of the console on; gives where the console was then.
pub(super) fn kept(machine: &mut Machine, from: usize, version: &str, slot: char) -> Result<usize> {
    let number = if slot == 'b' { TRIES_B } else { "Lucid: partition 2, try 1" };
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
    let figures = staged(bench, web, machine, (from, asked), version)?;
    kept(machine, from, version, slot)?;
    admits(bench, machine, &bench.work.join("client"))?;
    let now = device_key(machine, from)?;
    if now != device {
        return Err(Error::broken(format!("the device signs with {now}, and signed with {device} before")));
    }
    Ok(figures)
}
