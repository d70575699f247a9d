//! The clock. No battery is assumed: after a cold start the kernel may say 1970.
//!
//! Time never goes back behind the image's build time (`built` in `system.json`), nor behind the last time that this device has
//! seen. The update service refuses every release while the clock is before either, and where nothing sets the clock it would do
//! so for ever.
//!
//! The last seen time is the newest modification time of files on the data partition that are written as the device runs:
//! journald touches its file with every line, also with the last ones of a clean stop; `trust.json` is written when a source was
//! asked, so no time that the update service remembers is later than it; systemd's own file counts where something keeps it.
//! While the machine is off the clock stands still: it is a lower bound, and whoever knows the time better may set it.
//!
//! Such a file may have been written while the clock was wrong. A time more than ten years after the image was built is not
//! believed, so that it does not push the clock for ever. No device goes ten years without an update and is still in order, and
//! systemd sets a clock back by itself that is 15 years past its own build. What is wrong by less stays until the clock has been
//! set right and the files were written again.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde::Deserialize;

use crate::error::{Doing as _, Error};
use crate::log;

/// What the image says of itself.
const SYSTEM: &str = "/usr/share/lucid/system.json";
/// That file has at most so many bytes (`lucid_release_format::System`).
const SYSTEM_BYTES: u64 = 512;
/// What stays of `/var`; not `/var`, which may be in memory.
const VAR: &str = "/data/var";
/// Files below it whose modification times count, beside the journal.
const FILES: [&str; 2] = ["lib/lucid-updated/trust.json", "lib/systemd/timesync/clock"];
/// The file that says to lucid-updated that the clock was set forward, and that nobody knows by how much it is behind still.
const SET: &str = "/run/lucid/clock-set-forward";
/// Unless it was by no more than so many seconds.
const STEP: i64 = 60;
/// At most so many directories of journals are looked at: there is one for each machine id that the device has had.
const JOURNALS: usize = 16;
/// A time more than this after the image was built is not believed, in seconds.
const BELIEVED: i64 = 10 * 365 * 24 * 60 * 60;

/// What is needed of `system.json`.
#[derive(Deserialize)]
struct System {
    built: i64,
}

/// Sets the clock forward if it is behind what this device knows. A clock that cannot be set stops no boot.
pub(crate) fn set() {
    if let Err(error) = try_set() {
        log::error(&format!("{error}; the clock stays as it is, and updates may be refused"));
    }
}

fn try_set() -> Result<(), Error> {
    let text = crate::read_bounded(SYSTEM, SYSTEM_BYTES)?;
    let System { built } = serde_json::from_str::<System>(&text)
        .map_err(io::Error::from)
        .doing(|| format!("reading {SYSTEM}"))?;
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    if let Some(time) = floor(built, &seen(Path::new(VAR)), now) {
        clock_settime(ClockId::Realtime, Timespec { tv_sec: time, tv_nsec: 0 })
            .doing(|| format!("setting the clock to {time} s after 1970"))?;
        log::info(&format!(
            "the clock said {now} s after 1970 and was set to {time}, the latest time this device knows of"
        ));
        // A clock that runs on may be read to whole seconds, and so be behind a little.
        if time.saturating_sub(now) > STEP {
            fs::write(SET, "").doing(|| format!("writing {SET}"))?;
        }
    }
    Ok(())
}

/// To what the clock has to be set, in seconds after 1970; `None`: it may stay.
fn floor(built: i64, seen: &[i64], now: i64) -> Option<i64> {
    let latest = built.saturating_add(BELIEVED);
    let seen = seen.iter().copied().filter(|time| *time <= latest);
    let floor = seen.fold(built, i64::max);
    (now < floor).then_some(floor)
}

/// When the files were written that are written as the device runs, as far as there are any.
fn seen(var: &Path) -> Vec<i64> {
    let mut files: Vec<PathBuf> = FILES.iter().map(|file| var.join(file)).collect();
    let journals = var.join("log/journal");
    match fs::read_dir(&journals).and_then(|dirs| dirs.take(JOURNALS).collect::<io::Result<Vec<_>>>()) {
        Ok(dirs) => files.extend(dirs.iter().map(|dir| dir.path().join("system.journal"))),
        Err(e) => tell(&journals, &e),
    }
    let mut times = Vec::new();
    for file in files {
        match fs::symlink_metadata(&file) {
            Ok(data) => times.push(data.mtime()),
            Err(e) => tell(&file, &e),
        }
    }
    times
}

/// Says that a file could not be looked at, unless there is none.
fn tell(path: &Path, error: &io::Error) {
    if error.kind() != ErrorKind::NotFound {
        log::error(&format!("looking at {} for the last seen time: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const BUILT: i64 = 1_790_000_000;

    #[test]
    fn after_a_cold_start_without_a_battery_time_is_not_before_the_image_nor_before_what_was_seen() {
        assert_eq!(floor(BUILT, &[], 0), Some(BUILT));
        assert_eq!(floor(BUILT, &[BUILT + 70, BUILT + 900, 12], 3), Some(BUILT + 900));
        // A fresh image on a device that was off for long.
        assert_eq!(floor(BUILT, &[BUILT - 900], BUILT - 5), Some(BUILT));
    }

    #[test]
    fn a_clock_that_is_later_than_all_that_was_seen_stays() {
        assert_eq!(floor(BUILT, &[BUILT + 900], BUILT + 900), None);
        assert_eq!(floor(BUILT, &[], BUILT), None);
        assert_eq!(floor(BUILT, &[BUILT + 900], i64::MAX), None);
    }

    #[test]
    fn a_time_of_a_clock_that_was_far_ahead_does_not_push_the_clock() {
        for absurd in [BUILT + BELIEVED + 1, i64::MAX] {
            assert_eq!(floor(BUILT, &[absurd], 0), Some(BUILT));
            // Nor does it hide another file's.
            assert_eq!(floor(BUILT, &[absurd, BUILT + 900], 0), Some(BUILT + 900));
        }
        assert_eq!(floor(BUILT, &[BUILT + BELIEVED], 0), Some(BUILT + BELIEVED));
        assert_eq!(floor(i64::MAX, &[i64::MIN], 0), Some(i64::MAX));
    }

    #[test]
    fn the_last_seen_time_is_that_of_the_journal_and_of_the_update_services_memory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(seen(dir.path()), [0_i64; 0]);
        for (file, time) in
            [("lib/lucid-updated/trust.json", 1000), ("log/journal/0123/system.journal", 2000)]
        {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(time)).unwrap();
        }
        assert_eq!(seen(dir.path()), [1000, 2000]);
    }

    #[test]
    fn the_build_time_is_read_from_what_an_image_says_of_itself() {
        let text = r#"{"format":1,"machine":"qemu-arm64","version":"0.1.0","built":1767225600,"data":1}"#;
        let System { built } = serde_json::from_str::<System>(text).unwrap();
        assert_eq!(built, 1_767_225_600);
    }
}
