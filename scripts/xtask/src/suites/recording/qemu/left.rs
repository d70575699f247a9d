//! What a machine that stopped at some moment leaves on its data partition: the file system is mended, the recording is
//! verified as it is, and this machine's own recorder recovers it, with the device's key.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Bench, must};
use crate::{
    build,
    error::{At, Error, Result},
    machine::Partition,
    progress::{Background, ask, ask_well},
    recordings,
};

/// The longest until recorders have ended recordings that wait for their sessions for a second.
const RECOVERY_BOUND: Duration = Duration::from_secs(120);
const RESUME_FOR: &str = "1s";

/// What is left of a session.
pub(super) struct Left {
    /// After so many entries of the log of writes, and what else there is to say of that moment.
    pub(super) at: usize,
    pub(super) moment: String,
    /// So many heads had been acknowledged.
    pub(super) acknowledged: u64,
    /// The recorder's state directory.
    state: PathBuf,
    /// The session's recording in it; none where the session had not begun, as its first head is not there.
    pub(super) recording: Option<PathBuf>,
}

/// Copies a partition out of the image of a card.
pub(super) fn extract(card: &Path, partition: &Partition, to: &Path) -> Result<()> {
    let mut copy = Command::new("dd");
    copy.args(["status=none", "bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse"]);
    copy.arg(format!("if={}", card.display())).arg(format!("of={}", to.display()));
    copy.args([format!("skip={}", partition.start), format!("count={}", partition.length)]);
    ask_well("copying a partition", &mut copy, b"").map(drop)
}

impl Left {
    /// Takes what is left on the image of a data partition into `dir`, and mends the image as the machine would.
    pub(super) fn take(
        image: &Path,
        dir: &Path,
        (at, moment): (usize, String),
        session: &str,
        acknowledged: u64,
    ) -> Result<Self> {
        let wrong = |why: String| Error::broken(format!("{moment}: {why}"));
        let check = ask(Command::new("e2fsck").arg("-p").arg(image), b"")?;
        // Bits 0 and 1 of the status: something was mended, the journal above all.
        if check.status.code().is_none_or(|code| code > 3) {
            return Err(wrong(format!("e2fsck cannot mend the card: {}{}", check.text(), check.err)));
        }
        let state = recordings::copy_state(&image.to_string_lossy(), dir)?;
        let recording = recordings::list(&state)?.into_iter().find(|found| found.ends_with(session));
        let recording = match recording {
            Some(recording) if acknowledged > 0 || has_begun(&recording)? => Some(recording),
            None if acknowledged > 0 => return Err(wrong(format!("recording {session} is gone"))),
            _ => None,
        };
        Ok(Self { at, moment, acknowledged, state, recording })
    }

    fn wrong(&self, why: &str) -> Error {
        Error::broken(format!("{}: {why}", self.moment))
    }
}

/// Whether a recording has a head.
fn has_begun(recording: &Path) -> Result<bool> {
    let heads = recording.join("heads.jsonl");
    match fs::read(&heads) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        read => Ok(read.at("reading", &heads)?.contains(&b'\n')),
    }
}

/// What was left of sessions that had begun, with what both verifiers say of it.
fn verified<'a>(bench: &Bench, left: &'a [Left], device: &str) -> Result<Vec<(&'a Left, &'a Path, Value)>> {
    let begun: Vec<(&Left, &PathBuf)> =
        left.iter().filter_map(|left| Some((left, left.recording.as_ref()?))).collect();
    let recordings: Vec<PathBuf> = begun.iter().map(|(_, recording)| (*recording).clone()).collect();
    let said = bench.verify(&recordings, device)?;
    Ok(begun
        .into_iter()
        .zip(said)
        .map(|((left, recording), said)| (left, recording.as_path(), said.report))
        .collect())
}

/// A recording that is there with all that was acknowledged.
pub(super) struct Kept<'a> {
    pub(super) left: &'a Left,
    /// How many heads it has.
    pub(super) heads: u64,
    /// Of when the newest of them is, by the machine's clock. The recording says it, and not the log of writes, in which a head
    /// that lies on two blocks may be two entries.
    pub(super) newest_ms: Option<u64>,
}

/// Has both verifiers look at what is left: unfinished, with every head that was acknowledged.
pub(super) fn must_be_kept<'a>(bench: &Bench, left: &'a [Left], device: &str) -> Result<Vec<Kept<'a>>> {
    let mut kept = Vec::new();
    let mut wrong = Vec::new();
    for (left, _, report) in verified(bench, left, device)? {
        let heads = report["heads"].as_u64().unwrap_or_default();
        if report["verdict"] != "unfinished" {
            wrong.push(format!("{}: the verdict is {}", left.moment, report["verdict"]));
        } else if heads < left.acknowledged {
            let acknowledged = left.acknowledged;
            wrong.push(format!(
                "{}: {acknowledged} heads were acknowledged and {heads} are there",
                left.moment
            ));
        }
        let newest_ms = report["ended_ms"].as_u64();
        if heads > 0 && newest_ms.is_none() {
            wrong.push(format!("{}: the report does not say of when the newest head is", left.moment));
        }
        kept.push(Kept { left, heads, newest_ms });
    }
    all_of(wrong, left.len())?;
    Ok(kept)
}

/// An error when something is wrong at any of so many moments.
pub(super) fn all_of(wrong: Vec<String>, moments: usize) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::broken(format!("at {} of {moments} moments\n{}", wrong.len(), wrong.join("\n"))))
}

/// Starts a recorder over what is left of each moment, and waits until it has ended the recording.
pub(super) fn recover(bench: &Bench, left: &[Left], device: &str) -> Result<()> {
    let program = build::host_program(bench.project, "lucid-sessiond");
    let mut recorders = Vec::new();
    for left in left {
        let run = left.state.with_file_name("run");
        let mut command = Command::new(&program);
        command.arg("--state").arg(&left.state).arg("--run").arg(&run);
        command.args(["--owner", &bench.public, "--resume-for", RESUME_FOR]);
        let log = left.state.with_file_name("lucid-sessiond.log");
        recorders.push((left, run, Background::start(&command, &log)?));
    }
    bench.interrupt().wait_for("the end of the recordings", RECOVERY_BOUND, || {
        for (left, run, recorder) in &mut recorders {
            recorder.must_run("recovering what is left of a session")?;
            let awaited = match &left.recording {
                Some(recording) => recording.join("manifest.json"),
                // There is nothing to end, and the recorder has to bear with what there is.
                None => run.join("status.json"),
            };
            if !awaited.exists() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    drop(recorders);
    for (left, recording, report) in verified(bench, left, device)? {
        must_be_recovered(bench, recording, &report, left.acknowledged)
            .map_err(|error| left.wrong(&error.to_string()))?;
    }
    Ok(())
}

/// All that a session's beginning is told in besides pictures is shorter, and the desktop's first picture longer.
const PICTURE_BYTES: u64 = 32 << 10;

/// Whether anything was shown before the last head. What was written after it is kept, and lies in the gap.
fn has_pictures(recording: &Path) -> Result<bool> {
    let path = recording.join("heads.jsonl");
    let heads = fs::read_to_string(&path).at("reading", &path)?;
    let mut bytes = 0;
    for head in heads.lines() {
        let head: Value = serde_json::from_str(head).map_err(|error| Error::talk("heads.jsonl", error))?;
        let finished = head["body"]["finished"].as_array().map(Vec::as_slice).unwrap_or_default();
        bytes += finished.iter().filter_map(|chunk| chunk["acknowledged"].as_u64()).sum::<u64>();
    }
    Ok(bytes > PICTURE_BYTES)
}

/// An error unless a recording that was cut off was recovered: ended, proved, its gap marked, playable. Gives how long the
/// last gap is, in microseconds.
pub(super) fn must_be_recovered(
    bench: &Bench,
    recording: &Path,
    report: &Value,
    acknowledged: u64,
) -> Result<f64> {
    must("the verdict", &report["verdict"], &json!("sound"))?;
    must("how it ended", &report["ended"], &json!("recovered"))?;
    let gaps = report["gaps"].as_array().map(Vec::as_slice).unwrap_or_default();
    must("whether its gap is marked", gaps.is_empty(), false)?;
    let heads = report["heads"].as_u64().unwrap_or_default();
    must("whether all acknowledged heads are there", heads >= acknowledged, true)?;
    let us = |gap: &Value, key: &str| gap[key].as_f64().unwrap_or_default();
    if has_pictures(recording)? {
        // What was shown until then is shown.
        let shown = gaps.iter().map(|gap| us(gap, "from_us")).fold(f64::MAX, f64::min);
        let at = Duration::from_secs_f64((shown - 1.0).max(0.0) / 1e6);
        bench.tools.picture(&bench.key, recording, Some(at))?;
    }
    Ok(gaps.last().map_or(0.0, |gap| us(gap, "to_us") - us(gap, "from_us")))
}
