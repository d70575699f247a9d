//! `/run/lucid/boot.json`: what this boot found, for the services after the hand-over.
//!
//! One JSON object (UTF-8, a final newline):
//! `{"slot":"a","partition":2,"tryboot":false,"disk":"/dev/vda","select":"/dev/vda1",
//! "data":{"state":"ok","var_kept":true,"message":"…"}}`. `partition` is the boot partition's number; `select`
//! is `null` when that partition is missing; `state` is one of `ok`, `made`, `repaired`, `unavailable`
//! (then `/data` is in memory and lost at power-off); `var_kept` is false when what changes in `/var` is lost
//! at power-off; `message` is one sentence for people.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::{Doing as _, Error};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Boot {
    /// `a` or `b`.
    pub(crate) slot: &'static str,
    /// The boot partition's number: 2 or 3.
    pub(crate) partition: u32,
    /// Whether this is a one-shot try.
    pub(crate) tryboot: bool,
    /// The boot disk's device file.
    pub(crate) disk: String,
    /// The device file of the partition that holds `lucid.toml`.
    pub(crate) select: Option<String>,
    /// The data partition.
    pub(crate) data: Data,
}

/// What became of the data partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Data {
    /// In one word.
    pub(crate) state: DataState,
    /// Whether what changes in `/var` is on the partition, and not in memory.
    pub(crate) var_kept: bool,
    /// In one sentence.
    pub(crate) message: String,
}

/// What became of the data partition, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DataState {
    /// Mounted as it was.
    Ok,
    /// It was blank and has a new file system.
    Made,
    /// It was damaged and has been repaired.
    Repaired,
    /// Not usable; `/data` is in memory.
    Unavailable,
}

impl Boot {
    /// The file's text.
    pub(crate) fn text(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// Files that say to units, which cannot read `boot.json`, that this boot is a one-shot try. `lucid/try`: lucid-try.service
/// leads back when nobody judges it. `lucid-migrate/unread`: no service may use what is kept until lucid-migrate, which takes
/// the file away, has brought it into this system's form. It is made here so that it is there whatever becomes of that program.
/// `systemd/journald.conf.d/try.conf`: journald brings each line to the disk within five seconds, so that the old system finds
/// out why this one hung. Its name comes after that of the image's `lucid.conf`, so it has the last word. It holds for the whole
/// boot, also once the system is kept: journald reads its settings at its start alone, and starting it again would start again
/// what needs it.
pub(crate) fn mark_try(run: &Path) -> Result<(), Error> {
    for (dir, name, text) in [
        ("lucid", "try", ""),
        ("lucid-migrate", "unread", ""),
        ("systemd/journald.conf.d", "try.conf", "[Journal]\nSyncIntervalSec=5s\n"),
    ] {
        let dir = run.join(dir);
        fs::create_dir_all(&dir).doing(|| format!("making the directory {}", dir.display()))?;
        let path = dir.join(name);
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_try_what_is_kept_counts_as_unread_before_any_service_starts() {
        let run = tempfile::tempdir().unwrap();
        mark_try(run.path()).unwrap();
        for mark in ["lucid/try", "lucid-migrate/unread"] {
            assert!(run.path().join(mark).is_file(), "{mark}");
        }
    }

    #[test]
    fn in_a_try_journald_is_told_to_sync_within_seconds() {
        let run = tempfile::tempdir().unwrap();
        mark_try(run.path()).unwrap();
        let text = fs::read_to_string(run.path().join("systemd/journald.conf.d/try.conf")).unwrap();
        assert_eq!(text, "[Journal]\nSyncIntervalSec=5s\n");
    }

    #[test]
    fn the_file_has_the_golden_text() {
        let boot = Boot {
            slot: "b",
            partition: 3,
            tryboot: true,
            disk: "/dev/vda".into(),
            select: Some("/dev/vda1".into()),
            data: Data { state: DataState::Unavailable, var_kept: false, message: "a \"word\"".into() },
        };
        assert_eq!(boot.text().unwrap(), include_str!("../tests/golden/boot.json"));
        let words: Vec<String> = [DataState::Ok, DataState::Made, DataState::Repaired]
            .iter()
            .map(|s| serde_json::to_string(s).unwrap())
            .collect();
        assert_eq!(words, ["\"ok\"", "\"made\"", "\"repaired\""]);
    }
}
