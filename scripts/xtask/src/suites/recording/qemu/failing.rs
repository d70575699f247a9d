//! A card that can be read and no longer written while a session runs, as worn cards do.

use std::time::{Duration, Instant};

use super::{
    BOUND, Bench,
    left::{Left, extract, must_be_kept, recover},
    must,
    watch::{Seen, shared, while_watched},
};
use crate::{
    client::{Client, Picture},
    error::{Error, Result},
    machine::{Machine, Options},
    suite::Report,
};

/// What the file system says of it on the console.
const SAID: &str = "Remounting filesystem read-only";
/// The longest that something may still be shown: what waits to be recorded, on a busy machine in QEMU.
const SHOWN: Duration = Duration::from_secs(10);
/// A client is let wait for its recorder for 20 s, and so long at least it has to have shown nothing new.
const STILL: Duration = Duration::from_secs(5);

/// What was seen of a session whose card failed.
struct Watched {
    /// How long something new was still shown, and how long the client stayed.
    shown: Duration,
    stayed: Duration,
    /// What the kernel said of it.
    said: String,
}

/// The checks.
pub(super) fn check(bench: &Bench, report: &mut Report) -> Result<()> {
    let outcome = report.obtain(
        "qemu: when the card takes no more writes, a session is shown no further, the console says why, and no other \
         session begins",
        |(watched, ..): &(Watched, _, _)| {
            format!(
                "nothing new {:.1} s after the failure, the client let go after {:.1} s; {}",
                watched.shown.as_secs_f64(),
                watched.stayed.as_secs_f64(),
                watched.said
            )
        },
        || failing(bench),
    );
    let Some((_, left, device)) = outcome else { return Ok(()) };
    report.check(
        "qemu: when the card takes no more writes, nothing that was acknowledged is lost, and the recording is recovered",
        || {
            let acknowledged = left.acknowledged;
            let left = std::slice::from_ref(&left);
            let kept = must_be_kept(bench, left, &device)?;
            recover(bench, left, &device)?;
            let heads = kept.first().map_or(0, |kept| kept.heads);
            Ok(format!("{acknowledged} heads acknowledged, {heads} there"))
        },
    );
    Ok(())
}

fn failing(bench: &Bench) -> Result<(Watched, Left, String)> {
    let disks = bench.card("recording-fails")?;
    let log = disks.dir.join("writes.log");
    let options = Options { writes: Some(log.clone()), ..Options::default() };
    let mut machine = Machine::start(&disks, &options, bench.interrupt())?;
    machine.wait_ready(0)?;
    let device = bench.device(&mut machine)?;
    let (watched, Seen { writes, mut sessions }) = while_watched(&log, |seen| {
        let client =
            bench.busy_session(&machine, &disks.dir.join("client"), || shared(seen).newest(|_| true))?;
        let from = machine.console()?.len();
        machine.fail_writes()?;
        let (shown, stayed) = shown(bench, client)?;
        let said = machine.wait_console("what the kernel says of the card", BOUND, from, |text| {
            text.lines().find(|line| line.contains(SAID)).map(str::to_owned)
        })?;
        let ending =
            bench.client(&machine, &disks.dir.join("refused"))?.wait_end(BOUND, bench.interrupt())?;
        if ending.status.success() || !ending.said.contains("ERRINFO_SERVER_DENIED_CONNECTION") {
            return Err(Error::broken(format!("another client: {}", ending.describe())));
        }
        machine.cut();
        Ok(Watched { shown, stayed, said })
    })?;
    must("sessions that were recorded", sessions.len(), 1)?;
    let Some((session, heads)) = sessions.pop_first() else {
        return Err(Error::broken("no session was recorded"));
    };
    let image = disks.dir.join("data.img");
    extract(&disks.os, &disks.partition("data")?, &image)?;
    let moment = (writes.len(), "after the card's failure".to_owned());
    let dir = bench.tools.work.join("failed");
    let acknowledged = super::power::acknowledged(&heads, writes.len());
    let left = Left::take(&image, &dir, moment, &session, acknowledged)?;
    Ok((watched, left, device))
}

/// How long a client whose card has just failed is shown anything new, and how long it stays.
fn shown(bench: &Bench, mut client: Client) -> Result<(Duration, Duration)> {
    let start = Instant::now();
    let mut newest: Option<Picture> = None;
    let mut shown = Duration::ZERO;
    bench.interrupt().wait_for("the client to be let go", BOUND, || {
        let picture = client.screen.picture()?;
        // Its window goes before it does.
        let gone = picture.is_even([0, 0, 0], 0);
        if !gone && newest.as_ref() != Some(&picture) {
            shown = start.elapsed();
            newest = Some(picture);
        }
        client.ends_within(Duration::ZERO).map(|ended| ended.then_some(()))
    })?;
    let stayed = start.elapsed();
    if shown > SHOWN || stayed < shown + STILL {
        return Err(Error::broken(format!(
            "something new was shown {:.1} s after the card's failure, and the client stayed {:.1} s",
            shown.as_secs_f64(),
            stayed.as_secs_f64()
        )));
    }
    Ok((shown, stayed))
}
