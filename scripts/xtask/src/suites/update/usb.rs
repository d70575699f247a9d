//! USB sticks are all that the machine here has: it asks nobody on the network.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Bench, FIRST, SECOND,
    device::{self, BEGUN, STAGE_BOUND, STAGED, Staged, State},
    taken,
};
use crate::{
    error::{At, Error, Result},
    machine::{BOOT_BOUND, Machine, Options, Scratch},
    progress::ask_well,
    suite::Report,
    suites::boot,
};

/// A small stick, most of which is not there. FAT32 has no fewer clusters than such a one.
const STICK_BYTES: u64 = 1 << 30;
/// The first byte of its partition, where it has one.
const START: u64 = 1 << 20;
/// The longest until a stick was found and looked at.
const BOUND: Duration = Duration::from_secs(180);

/// The group's checks.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let release = bench.first_release()?;
    let disks = bench.card_with("usb", &bench.releases.image(FIRST, FIRST, &[])?, "")?;
    let options = Options { usb: true, ..bench.options() };
    let mut machine = Machine::start(&disks, &options, &bench.steps.interrupt)?;
    report.check(
        "usb: a stick that is there at the start, whose timestamp nobody has signed, is refused",
        || refused(bench, &mut machine, &release),
    );
    report.check(
        "usb: a stick that is pulled out meanwhile is gone on with when it is back; it is kept",
        || pulled(bench, &mut machine, &disks, &release),
    );
    Ok(())
}

/// A stick with a folder of releases, in a partition or all over it.
fn stick(bench: &Bench, name: &str, release: &Path, partition: bool) -> Result<PathBuf> {
    let image = bench.work.join(format!("stick-{name}.img"));
    File::create(&image).and_then(|file| file.set_len(STICK_BYTES)).at("making", &image)?;
    let mut format = Command::new("mkfs.vfat");
    format.args(["-F", "32", "-n", "RELEASES"]);
    let mut place = image.display().to_string();
    if partition {
        let mut table = Command::new("sfdisk");
        let lines = format!("label: dos\nstart={}, type=c\n", START / 512);
        ask_well("making a partition table", table.arg("--quiet").arg(&image), lines.as_bytes())?;
        format.arg(format!("--offset={}", START / 512));
        place = format!("{place}@@{START}");
    }
    format.arg(&image);
    if partition {
        // Of the partition, in KiB.
        format.arg(((STICK_BYTES - START) / 1024).to_string());
    }
    ask_well("formatting a stick", &mut format, b"")?;
    let tool = |program: &str| {
        let mut tool = Command::new(program);
        tool.env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(&place);
        tool
    };
    ask_well("making the stick's folder", tool("mmd").arg("::lucid"), b"")?;
    for folder in ["metadata", "targets"] {
        let mut copy = tool("mcopy");
        copy.arg("-s").arg(release.join(folder)).arg("::lucid");
        ask_well("putting a release onto a stick", &mut copy, b"")?;
    }
    Ok(image)
}

/// Takes all signatures off the timestamp of a folder of releases.
fn unsign(release: &Path) -> Result<()> {
    let path = release.join("metadata/timestamp.json");
    let bytes = fs::read(&path).at("reading", &path)?;
    let wrong =
        |error: serde_json::Error| Error::broken(format!("{} cannot be read: {error}", path.display()));
    let mut timestamp: Value = serde_json::from_slice(&bytes).map_err(wrong)?;
    timestamp["signatures"] = json!([]);
    fs::write(&path, timestamp.to_string()).at("writing", &path)
}

fn refused(bench: &Bench, machine: &mut Machine, release: &Path) -> Result<String> {
    let copy = bench.work.join("usb-unsigned");
    ask_well("copying a release", Command::new("cp").arg("-a").arg(release).arg(&copy), b"")?;
    unsign(&copy)?;
    machine.plug(&stick(bench, "unsigned", &copy, false)?)?;
    machine.wait_ready(0)?;
    let words = ["the USB stick sda: ", "the timestamp is not signed by those who have to sign it"];
    let (said, _) = device::line(machine, BOOT_BOUND, 0, &words)?;
    machine.pull()?;
    if machine.console()?.contains(BEGUN) {
        return Err(Error::broken(format!("it says {said:?}, and writes a slot all the same")));
    }
    Ok(format!("says: {said}"))
}

fn pulled(bench: &Bench, machine: &mut Machine, disks: &Scratch, release: &Path) -> Result<String> {
    let image = stick(bench, "good", release, true)?;
    let before = hash(&image)?;
    machine.wait_ready(0)?;
    let from = machine.console()?.len();
    machine.plug(&image)?;
    let (_, at) = device::line(machine, BOUND, from, &[SECOND, BEGUN])?;
    // It looks first at what it has, and needs the stick after that.
    machine.pull()?;
    let words = ["the USB stick sda1: ", SECOND, " is not had from it: "];
    let (said, at) = device::line(machine, STAGE_BOUND, at, &words)?;
    if machine.console()?.get(from..).is_some_and(|since| since.contains(STAGED)) {
        return Err(Error::broken("the release is staged, and the stick was pulled out before"));
    }
    machine.plug(&image)?;
    let (_, at) = device::line(machine, BOUND, at, &[SECOND, BEGUN])?;
    let (line, at) = device::line(machine, STAGE_BOUND, at, &[SECOND, STAGED])?;
    let Staged { kept, copied, fetched, peak, .. } = Staged::parse(&line)?;
    if peak > taken::MEMORY_GOAL {
        return Err(Error::broken(format!("it took more than {} MiB of memory: {line}", taken::MEMORY_GOAL)));
    }
    // It stays plugged in while the machine restarts.
    taken::kept(machine, at, SECOND, 'b')?;
    machine.power_off()?;
    boot::clean_data(disks)?;
    let state = State::read(disks)?;
    state.must_have_ended(SECOND, "installed")?;
    if state.source() != Some("the USB stick sda1") {
        return Err(Error::broken(format!("update.json says that it came from {:?}", state.source())));
    }
    if hash(&image)? != before {
        return Err(Error::broken("something was written to the stick"));
    }
    let mb = [kept, copied, fetched].map(|bytes| format!("{:.1} MB", bytes as f64 / 1e6));
    let [kept, copied, fetched] = mb;
    Ok(format!(
        "{fetched} came from the stick, {kept} were in their places, {copied} copied, at most {peak} MiB of memory; when it was \
         pulled out: {said}"
    ))
}

/// The hash of a stick.
fn hash(image: &Path) -> Result<blake3::Hash> {
    let mut hash = blake3::Hasher::new();
    let mut file = File::open(image).at("opening", image)?;
    hash.update_reader(&mut file).at("reading", image)?;
    Ok(hash.finalize())
}
