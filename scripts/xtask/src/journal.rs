//! The journal of a machine that is off, read out of its data partition with e2fsprogs and this machine's journalctl.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    error::{At, Error, Result},
    machine::Disks,
    progress::{ask, ask_well},
};

/// systemd's message: a unit's start has begun (`systemd/sd-messages.h`, SD_MESSAGE_UNIT_STARTING).
const STARTING: &str = "7d4958e842da4a758f6c1cdc7b36dcc5";
/// A unit's start is done (SD_MESSAGE_UNIT_STARTED).
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
/// A unit's main processes are gone and it is inactive (SD_MESSAGE_UNIT_SUCCESS).
const SUCCESS: &str = "7ad2d189f7e94e70a38c781354912448";
/// A unit has failed (SD_MESSAGE_UNIT_FAILURE_RESULT).
const FAILURE: &str = "d9b373ed55a64feb8242e02dbe79a49c";

/// The entries of one boot or more, oldest first.
pub(crate) struct Journal(Vec<Value>);

/// How long a unit's start took.
pub(crate) struct Start {
    /// Its name.
    pub(crate) unit: String,
    /// Seconds from the beginning of its start to its end.
    pub(crate) took: f64,
    /// Seconds of the guest's clock at the end of its start.
    pub(crate) at: f64,
}

impl Journal {
    /// Reads the journal from the data partition.
    pub(crate) fn read(disks: &Disks) -> Result<Self> {
        let dir = disks.dir.join("journal");
        if dir.exists() {
            fs::remove_dir_all(&dir).at("emptying", &dir)?;
        }
        fs::create_dir_all(&dir).at("making", &dir)?;
        dump(disks, "/var/log/journal", &dir)?;
        let mut read = Command::new("journalctl");
        read.args(["--no-pager", "-q", "-o", "json", "--all", "-D"]).arg(dir.join("journal"));
        let text = ask_well("reading the guest's journal", &mut read, b"")?.text();
        let entries: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| Error::talk("journalctl", error)))
            .collect::<Result<_>>()?;
        if entries.is_empty() {
            return Err(Error::broken("the guest's journal on the data partition is empty"));
        }
        Ok(Self(entries))
    }

    /// The entries of the newest boot alone.
    pub(crate) fn last_boot(&self) -> Self {
        let newest = self.0.last().map(|entry| entry["_BOOT_ID"].clone());
        Self(self.0.iter().filter(|entry| Some(&entry["_BOOT_ID"]) == newest.as_ref()).cloned().collect())
    }

    /// Every start of a unit that came to its end, in this order.
    pub(crate) fn starts(&self) -> Vec<Start> {
        let mut found = Vec::new();
        for (index, entry) in self.0.iter().enumerate() {
            let Some((Step::Started, unit)) = step(entry) else { continue };
            let begun =
                self.0.iter().take(index).rev().find(|earlier| step(earlier) == Some((Step::Starting, unit)));
            let (Some(at), Some(from)) = (seconds(entry), begun.and_then(seconds)) else { continue };
            found.push(Start { unit: unit.to_owned(), took: at - from, at });
        }
        found
    }

    /// The seconds of the guest's clock at which a unit was first started.
    pub(crate) fn started_at(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|entry| step(entry) == Some((Step::Started, name))).and_then(seconds)
    }

    /// How often units whose name begins so were started, and how often they ended.
    pub(crate) fn started_and_ended(&self, prefix: &str) -> (usize, usize) {
        let count = |ids: &[&str]| {
            self.0
                .iter()
                .filter(|entry| entry["MESSAGE_ID"].as_str().is_some_and(|id| ids.contains(&id)))
                .filter(|entry| unit(entry).is_some_and(|unit| unit.starts_with(prefix)))
                .count()
        };
        (count(&[STARTED]), count(&[SUCCESS, FAILURE]))
    }

    /// Every unit that failed, with the message.
    pub(crate) fn failed_units(&self) -> Vec<String> {
        self.0.iter().filter(|entry| entry["MESSAGE_ID"] == FAILURE).map(message).collect()
    }

    /// All messages that a unit logged, one a line.
    pub(crate) fn messages(&self, unit: &str) -> String {
        self.0
            .iter()
            .filter(|entry| entry["_SYSTEMD_UNIT"] == unit)
            .map(|entry| message(entry) + "\n")
            .collect()
    }

    /// All messages.
    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|entry| message(entry) + "\n").collect()
    }

    /// The newest entry's host name.
    pub(crate) fn host_name(&self) -> Option<String> {
        self.0.last().and_then(|entry| entry["_HOSTNAME"].as_str()).map(str::to_owned)
    }
}

/// Where a unit's start is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Starting,
    Started,
}

/// What systemd says about a unit's start. As long as there is no journal it says so to the kernel's log, as text
/// alone, and that is in the journal later.
fn step(entry: &Value) -> Option<(Step, &str)> {
    if let Some(id) = entry["MESSAGE_ID"].as_str() {
        let step = match id {
            STARTING => Step::Starting,
            STARTED => Step::Started,
            _ => return None,
        };
        return Some((step, unit(entry)?));
    }
    if entry["_TRANSPORT"] != "kernel" || entry["SYSLOG_IDENTIFIER"] != "systemd" {
        return None;
    }
    let (verb, rest) = entry["MESSAGE"].as_str()?.split_once(' ')?;
    let step = match verb {
        "Starting" => Step::Starting,
        "Started" | "Finished" => Step::Started,
        _ => return None,
    };
    Some((step, rest.split_once(" - ")?.0))
}

fn unit(entry: &Value) -> Option<&str> {
    entry["UNIT"].as_str()
}

fn message(entry: &Value) -> String {
    match &entry["MESSAGE"] {
        Value::String(text) => text.clone(),
        // journalctl gives bytes that are no text as an array of numbers.
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes
                .iter()
                .filter_map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()))
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => String::new(),
    }
}

fn seconds(entry: &Value) -> Option<f64> {
    let micros = entry["_SOURCE_MONOTONIC_TIMESTAMP"].as_str().or(entry["__MONOTONIC_TIMESTAMP"].as_str())?;
    Some(micros.parse::<f64>().ok()? / 1e6)
}

/// Copies a folder out of the data partition.
pub(crate) fn dump(disks: &Disks, from: &str, to: &Path) -> Result<()> {
    dump_of(&disks.data_name()?, from, to)
}

/// Copies a folder out of a file system, as e2fsprogs call it.
pub(crate) fn dump_of(system: &str, from: &str, to: &Path) -> Result<()> {
    let mut debugfs = Command::new("debugfs");
    // After a power cut the bitmaps may be older than what the file system's own log says, until it is mounted: they are not read.
    debugfs.arg("-c").arg("-R").arg(format!("rdump {from} {}", to.display())).arg(system);
    let answer = ask(&mut debugfs, b"")?;
    // debugfs ends well even when it could not do what it was told; its first line is its version.
    let complaint: Vec<&str> = answer.err.lines().skip(1).filter(|line| !line.trim().is_empty()).collect();
    let harmless = |line: &&str| line.contains("changing ownership") || line.contains("catastrophic mode");
    if answer.status.success() && complaint.iter().all(harmless) {
        Ok(())
    } else {
        Err(Error::talk(
            "debugfs",
            format!("copying {from} out of the data partition: {}", complaint.join("; ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(id: &str, unit: &str, micros: u64) -> Value {
        json!({"MESSAGE_ID": id, "UNIT": unit, "__MONOTONIC_TIMESTAMP": micros.to_string(), "_BOOT_ID": "a"})
    }

    #[test]
    fn a_units_time_is_from_the_begin_of_its_start_to_its_end() {
        let journal = Journal(vec![
            entry(STARTING, "a.service", 1_000_000),
            entry(STARTING, "b.service", 1_500_000),
            entry(STARTED, "b.service", 2_000_000),
            entry(STARTED, "a.service", 4_000_000),
            entry(SUCCESS, "a.service", 5_000_000),
        ]);
        let starts = journal.starts();
        assert_eq!(starts.len(), 2);
        assert_eq!((starts[1].unit.as_str(), starts[1].took, starts[1].at), ("a.service", 3.0, 4.0));
        assert_eq!(journal.started_at("b.service"), Some(2.0));
        assert_eq!(journal.started_and_ended("a"), (1, 1));
    }

    #[test]
    fn a_start_before_the_journal_counts_by_its_text_and_its_own_time() {
        let early = |message: &str, micros: u64| {
            json!({"_TRANSPORT": "kernel", "SYSLOG_IDENTIFIER": "systemd", "MESSAGE": message,
                   "_SOURCE_MONOTONIC_TIMESTAMP": micros.to_string(), "__MONOTONIC_TIMESTAMP": "9000000"})
        };
        let journal = Journal(vec![
            early("Starting a.service - The first...", 1_000_000),
            entry(STARTED, "a.service", 2_500_000),
        ]);
        let starts = journal.starts();
        assert_eq!((starts[0].unit.as_str(), starts[0].took), ("a.service", 1.5));
    }
}
