//! Somebody is connected when the machine restarts into a release, at a time that was set: told of it on the desktop, and the
//! session ends before the try.

use std::{fs, time::Duration};

use super::{
    Bench, FIRST, SECOND,
    device::{self, CLIENT_BOUND, STAGE_BOUND, State, TRIES_B},
    taken,
    web::Web,
};
use crate::{
    error::{At, Error, Result},
    machine::{Disks, Machine},
    suite::Report,
};

/// From writing the time onto the card until then: the machine starts meanwhile, and a client connects.
const AHEAD: Duration = Duration::from_secs(150);
/// The longest from there until the session has ended: people have a minute.
const BOUND: Duration = Duration::from_secs(300);
/// What the update service says once all sessions have ended.
const ENDED: &str = " sessions were ended before the restart into ";

/// The group's check.
pub(super) fn run(bench: &Bench, web: &mut Web, report: &mut Report) -> Result<()> {
    web.serve(&bench.first_release()?)?;
    report.check(
        "people: who is connected when the time has come that was set is told on the desktop, and the session ends before the try",
        || told(bench),
    );
    Ok(())
}

fn told(bench: &Bench) -> Result<String> {
    let interrupt = &bench.steps.interrupt;
    let update = format!("[update]\nsource = \"http://10.0.2.2:{}\"\nautomatic = false\n", bench.port);
    let disks = bench.card_with("people", &bench.releases.image(FIRST, FIRST, &[])?, &update)?;
    let mut machine = Machine::start(&disks, &bench.options(), interrupt)?;
    device::line(&mut machine, STAGE_BOUND, 0, &[SECOND, " is ready: "])?;
    machine.power_off()?;
    set(&disks, AHEAD)?;

    let mut machine = Machine::start(&disks, &bench.options(), interrupt)?;
    machine.wait_ready(0)?;
    let mut client = device::client(bench, &machine, &bench.work.join("client"), &[])?;
    client.wait_desktop(CLIENT_BOUND, interrupt)?;
    let picture = interrupt.wait_for("the notice of the restart on the desktop", BOUND, || {
        client.must_run()?;
        let picture = client.screen.picture()?;
        Ok(picture.has_notice().then_some(picture))
    })?;
    let screens = bench.project.lucid.join("screens");
    fs::create_dir_all(&screens).at("making", &screens)?;
    picture.save(&screens.join("update-notice.png"))?;
    let told = std::time::Instant::now();
    client.wait_end(BOUND, interrupt)?;
    let seconds = told.elapsed().as_secs();
    let (_, ended) = device::line(&mut machine, BOUND, 0, &[ENDED])?;
    if machine.console()?.get(..ended).is_some_and(|before| before.contains(TRIES_B)) {
        return Err(Error::broken("the machine had restarted before it said that the session has ended"));
    }
    taken::kept(&mut machine, ended, SECOND, 'b')?;
    machine.power_off()?;
    let state = State::read(&disks)?;
    state.must_have_ended(SECOND, "installed")?;
    match state.file("schedule.json")? {
        Some(line) if line.contains("\"at\":null") => {
            Ok(format!("the session ended {seconds} s after the notice came"))
        }
        other => Err(Error::broken(format!("the time that was set is not forgotten: {other:?}"))),
    }
}

/// Sets the time for a restart, on a card whose machine is off, as `lucidctl update schedule --at` would have: nobody can call that
/// on the card.
fn set(disks: &Disks, ahead: Duration) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let at = (now + ahead).as_secs();
    let line = format!(r#"{{"version":1,"window":null,"at":{at},"paused_until":null}}"#);
    let sealed = format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex());
    device::put_kept(disks, "schedule.json", sealed.as_bytes())
}
