//! `lucid-init`: the first process of Lucid, in the initramfs.
//!
//! It loads the kernel modules, finds the disk and the slot that the firmware started, checks the
//! root against the hash on the kernel command line (dm-verity), mounts it, makes the data partition
//! usable, sets a clock that is behind, writes `/run/lucid/boot.json` and becomes systemd. Whatever is
//! wrong with the data partition, the machine comes up; without a verified root it says why and
//! restarts, so that a slot that was only tried falls back by itself.
//!
//! Exit code 2: it was not started as the first process. As the first process it never exits.

mod blkpg;
mod block;
mod clock;
mod cmdline;
mod data;
mod dm;
mod error;
mod ext4;
mod growth;
mod log;
mod modules;
mod report;
mod root;
mod slot;
mod tool;

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};
use rustix::time::{ClockId, clock_gettime};

use crate::block::{Disk, Watch};
use crate::cmdline::{BLOCK_SIZE, Cmdline};
use crate::error::{Doing as _, Error};
use crate::slot::Booted;

/// A card or stick that is there answers well within this.
const DISK_LIMIT: Duration = Duration::from_secs(15);
/// The disk is there: its other partitions are a matter of milliseconds.
const PARTITIONS_LIMIT: Duration = Duration::from_secs(5);
/// How long a fatal message stays on the screen.
const FATAL_PAUSE: Duration = Duration::from_secs(10);
/// The service manager.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

fn main() -> ExitCode {
    let started = seconds_since_boot();
    if !rustix::process::getpid().is_init() {
        eprintln!("lucid-init: this is the first process of a Lucid initramfs and does nothing elsewhere");
        return ExitCode::from(2);
    }
    let error = match boot(&started) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    fatal(&error)
}

fn boot(started: &str) -> Result<Infallible, Error> {
    root::mount_kernel_file_systems()?;
    log::info(&format!("first process at {started} s"));
    let text = read_bounded("/proc/cmdline", 16 * 1024)?;
    let cmdline = Cmdline::parse(&text)?;
    for word in &cmdline.unknown {
        log::error(&format!("the word {word} on the kernel command line means nothing to this version"));
    }
    let booted = Booted::read(Path::new("/proc/device-tree/chosen/bootloader"))?;
    let watch = Watch::open()?;
    modules::load_all(Path::new("/modules"));

    let (disk, others) = block::wait_for_disk(&watch, booted.slot, booted.medium, DISK_LIMIT)?;
    if !others.is_empty() {
        log::error(&format!("{} is used; also a Lucid disk, not used: {}", disk.device, others.join(" ")));
    }
    let disk = settle(&watch, disk);

    let partition = disk.partitions.get(booted.slot.root_name()).ok_or_else(|| Error::Verity {
        partition: booted.slot.root_name().to_owned(),
        reason: "the partition vanished".to_owned(),
    })?;
    let verity = &cmdline.verity;
    let size = File::open(partition.path())
        .and_then(|mut f| std::io::Seek::seek(&mut f, std::io::SeekFrom::End(0)))
        .doing(|| format!("opening {}", partition.path()))?;
    if verity.data_blocks.saturating_mul(BLOCK_SIZE) >= size {
        return Err(Error::Verity {
            partition: partition.path(),
            reason: format!(
                "it has {size} bytes, too few for {} blocks and their hashes",
                verity.data_blocks
            ),
        });
    }
    let device = dm::create_verity("lucid-root", partition.dev, verity)
        .map_err(|e| Error::Verity { partition: partition.path(), reason: e.to_string() })?;
    if cmdline.scrub {
        let bytes = root::scrub(&device)?;
        log::info(&format!("scrub: all {bytes} bytes of the root are genuine"));
    }
    root::mount_root(&device)
        .map_err(|e| Error::Verity { partition: partition.path(), reason: e.to_string() })?;
    root::switch()?;

    let data = data::prepare(disk.partitions.get(growth::DATA).map(block::Partition::path).as_deref())?;
    clock::set();
    let report = report::Boot {
        slot: booted.slot.name(),
        partition: booted.partition,
        tryboot: booted.tryboot,
        disk: disk.path(),
        select: disk.partitions.get("select").map(block::Partition::path),
        data,
    };
    let text = report.text().map_err(std::io::Error::from).doing(|| "encoding boot.json".to_owned())?;
    fs::write("/run/lucid/boot.json", text).doing(|| "writing /run/lucid/boot.json".to_owned())?;
    if booted.tryboot {
        report::mark_try(Path::new("/run"))?;
    }

    let tried = if booted.tryboot { " (one-shot try)" } else { "" };
    log::info(&format!(
        "slot {}{tried} on {}: handing over to systemd at {} s",
        booted.slot.name(),
        disk.path(),
        seconds_since_boot()
    ));
    let error = Command::new(SYSTEMD).exec();
    Err(error).doing(|| format!("starting {SYSTEMD}"))
}

/// Grows the data partition if the disk is larger than the table says, and waits for the partitions
/// that the table names. Nothing here stops the boot: the root partition is already there.
fn settle(watch: &Watch, disk: Disk) -> Disk {
    let path = disk.path();
    let table = File::open(&path).map_err(|e| e.to_string()).and_then(growth::examine);
    let table = match table {
        Ok(table) => table,
        Err(reason) => {
            log::error(&Error::Table { disk: path, reason }.to_string());
            return disk;
        }
    };
    if let Some(change) = &table.change {
        log::info(&format!("{path}: {}", change.reason));
        if let Err(e) = write_table(&path, change) {
            log::error(&format!("{e}; the data partition keeps its size"));
        }
    }
    let wanted: Vec<String> =
        table.names.into_iter().filter(|n| n == "select" || n == growth::DATA).collect();
    match block::wait_for_partitions(watch, &disk.device, &wanted, PARTITIONS_LIMIT) {
        Ok(Some(found)) => found,
        Ok(None) => {
            log::error(&format!("{path}: the kernel does not show all of: {}", wanted.join(" ")));
            disk
        }
        Err(e) => {
            log::error(&e.to_string());
            disk
        }
    }
}

fn write_table(path: &str, change: &growth::Change) -> Result<(), Error> {
    let file = OpenOptions::new().read(true).write(true).open(path).doing(|| format!("opening {path}"))?;
    change.apply(&file, |f| f.sync_all()).doing(|| format!("writing the partition table of {path}"))?;
    if let Some((number, first, length)) = change.data {
        blkpg::resize(&file, number, first * growth::SECTOR, length * growth::SECTOR)
            .doing(|| format!("telling the kernel the new size of partition {number} of {path}"))?;
    }
    Ok(())
}

/// Says what is wrong wherever somebody may look, and restarts.
fn fatal(error: &Error) -> ExitCode {
    let text = format!("cannot start: {error}. Restarting in {} s", FATAL_PAUSE.as_secs());
    log::error(&text);
    // Also past the kernel log's level and buffer. If there is no console, the kernel log has it.
    let _ = OpenOptions::new()
        .write(true)
        .open("/dev/console")
        .and_then(|mut f| f.write_all(format!("\r\nlucid-init: {text}\r\n").as_bytes()));
    std::thread::sleep(FATAL_PAUSE);
    rustix::fs::sync();
    let refused = reboot(RebootCommand::Restart);
    log::error(&format!("the kernel refused to restart: {refused:?}"));
    // The first process ends: the kernel panics, and `panic=` restarts.
    ExitCode::FAILURE
}

fn read_bounded(path: &str, most: u64) -> Result<String, Error> {
    let mut text = String::new();
    File::open(path)
        .and_then(|f| f.take(most).read_to_string(&mut text))
        .doing(|| format!("reading {path}"))?;
    Ok(text)
}

/// Seconds since the machine's clock started, with milliseconds.
fn seconds_since_boot() -> String {
    let now = clock_gettime(ClockId::Boottime);
    format!("{}.{:03}", now.tv_sec, now.tv_nsec / 1_000_000)
}
