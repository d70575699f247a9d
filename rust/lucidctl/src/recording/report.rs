//! What `lucidctl recording` prints: text for people, JSON for programs.
//!
//! The JSON fields are stable: some may be added, none is renamed, removed or given another meaning. `verify --json` is
//! [`lucid_recording::Report`]. Times end in `_ms` (since the Unix epoch) or `_us` (since the session's start).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use lucid_recording::keys::Keys;
use lucid_recording::statement::{Compression, Ended, Gap, Participant};
use lucid_recording::verify::{Finding, Progress};
use lucid_recording::{Hash, Proved, PublicKey, Report, Role, SessionId, Summary, Verdict};
use serde::Serialize;

use crate::report::{moment, pairs, plain, size, span, table};

/// So many findings are shown to people; JSON has all of them.
const SHOWN: usize = 40;

/// `recording new-key --json`
#[derive(Serialize)]
pub(crate) struct Key {
    pub(crate) file: String,
    pub(crate) public: PublicKey,
}

/// `recording show --json`
#[derive(Serialize)]
pub(crate) struct Shown {
    directory: String,
    session: SessionId,
    /// `finished`, `recovered` or `unfinished`.
    state: &'static str,
    began_ms: u64,
    ended_ms: u64,
    length_us: u64,
    chunks: usize,
    bytes: u64,
    parts: u32,
    gaps: Vec<Gap>,
    participants: Vec<Participant>,
    streams: Vec<Stream>,
    codec: String,
    recorder: String,
    policy: Hash,
    consent: Option<Hash>,
    device: PublicKey,
    recipients: Vec<Opens>,
}

/// A stream; `records` and `bytes` of its payloads are known with a key alone.
#[derive(Serialize)]
struct Stream {
    id: u8,
    name: String,
    compression: Compression,
    records: Option<u64>,
    bytes: Option<u64>,
}

/// What there is of a stream.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// Who can open a recording.
#[derive(Serialize)]
pub(crate) struct Opens {
    pub(crate) key: PublicKey,
    pub(crate) role: Role,
}

/// `recording list --json` is an array of these. Where `problem` is not null, what follows it is.
#[derive(Serialize)]
pub(crate) struct Listed {
    pub(crate) directory: String,
    problem: Option<String>,
    session: Option<SessionId>,
    state: Option<&'static str>,
    user: Option<String>,
    pub(crate) began_ms: Option<u64>,
    length_us: Option<u64>,
    chunks: Option<usize>,
    bytes: Option<u64>,
    gaps: Option<usize>,
}

/// `recording check-proof --json`
#[derive(Serialize)]
pub(crate) struct ProofHolds {
    #[serde(flatten)]
    pub(crate) proved: Proved,
    pub(crate) device: PublicKey,
    pub(crate) device_given: bool,
}

/// `recording rewrap --json`
#[derive(Serialize)]
pub(crate) struct Rewrapped {
    pub(crate) recipients: Vec<Opens>,
    pub(crate) old_key_opens: bool,
}

/// `recording export --json`
#[derive(Serialize)]
pub(crate) struct Exported {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// Pictures that are as the client was sent them, and those that were composed and encoded again.
    pub(crate) pictures_copied: u64,
    pub(crate) pictures_encoded: u64,
    pub(crate) sound: bool,
    /// Pieces that no client can have played in time.
    pub(crate) sound_left_out: u64,
    pub(crate) events: u64,
    pub(crate) events_file: Option<String>,
    pub(crate) subtitles_file: Option<String>,
    /// In the part that was exported.
    pub(crate) gaps: u64,
    /// Of the whole recording, as `verify` says it.
    pub(crate) verdict: Verdict,
    pub(crate) device: Option<PublicKey>,
    pub(crate) device_given: bool,
}

/// `recording picture --json`
#[derive(Serialize)]
pub(crate) struct Still {
    pub(crate) file: String,
    pub(crate) at_us: u64,
    pub(crate) width: u16,
    pub(crate) height: u16,
}

/// `recording play --json`, once, when the page is there.
#[derive(Serialize)]
pub(crate) struct Playing {
    pub(crate) address: String,
}

fn state(ended: Option<Ended>) -> &'static str {
    match ended {
        Some(Ended::Finished) => "finished",
        Some(Ended::Recovered) => "recovered",
        None => "unfinished",
    }
}

fn bytes(summary: &Summary) -> u64 {
    summary.chunks.iter().map(|chunk| chunk.size).sum()
}

impl Shown {
    pub(crate) fn new(
        directory: &Path,
        summary: &Summary,
        keys: &Keys,
        counts: Option<&BTreeMap<u8, Count>>,
    ) -> Self {
        let opening = summary.opening.clone();
        let streams = opening.streams.into_iter().map(|stream| {
            let count = counts.map(|counts| counts.get(&stream.id).copied().unwrap_or_default());
            Stream {
                id: stream.id,
                name: stream.name,
                compression: stream.compression,
                records: count.map(|count| count.records),
                bytes: count.map(|count| count.bytes),
            }
        });
        Self {
            directory: directory.display().to_string(),
            session: opening.session,
            state: state(summary.ended),
            began_ms: opening.wall_ms,
            ended_ms: summary.wall_ms,
            length_us: summary.mono_us,
            chunks: summary.chunks.len(),
            bytes: bytes(summary),
            parts: summary.parts,
            gaps: summary.gaps.clone(),
            participants: opening.participants,
            streams: streams.collect(),
            codec: opening.codec,
            recorder: opening.recorder,
            policy: opening.policy,
            consent: opening.consent,
            device: opening.device,
            recipients: keys.recipients.iter().map(|r| Opens { key: r.key, role: r.role }).collect(),
        }
    }
}

impl Listed {
    pub(crate) fn new(directory: &Path, summary: &Summary) -> Self {
        let user = summary.opening.participants.iter().find(|participant| participant.role == "user");
        Self {
            directory: directory.display().to_string(),
            problem: None,
            session: Some(summary.opening.session),
            state: Some(state(summary.ended)),
            user: user.map(|user| user.name.clone()),
            began_ms: Some(summary.opening.wall_ms),
            length_us: Some(summary.mono_us),
            chunks: Some(summary.chunks.len()),
            bytes: Some(bytes(summary)),
            gaps: Some(summary.gaps.len()),
        }
    }

    pub(crate) fn unreadable(directory: &Path, problem: String) -> Self {
        Self {
            directory: directory.display().to_string(),
            problem: Some(problem),
            session: None,
            state: None,
            user: None,
            began_ms: None,
            length_us: None,
            chunks: None,
            bytes: None,
            gaps: None,
        }
    }
}

/// `recording new-key`
pub(crate) fn key(key: &Key) -> String {
    format!(
        "{}\n\nThis is the public half: give it to the device, which seals recordings to it.\n\
         The secret half is in {}. It alone opens them, so keep a copy where it is safe: a recording whose key is lost is\n\
         lost. Never give it to a device.\n",
        key.public, key.file
    )
}

/// `recording show`
pub(crate) fn shown(shown: &Shown) -> String {
    let mut out = String::new();
    let state = match shown.state {
        "finished" => "finished",
        "recovered" => "recovered: its recorder died, and what it had written was kept",
        _ => "unfinished: it is being written, or has to be recovered",
    };
    let mut rows = vec![
        ("Session", shown.session.to_string()),
        ("State", state.to_owned()),
        ("Began", moment(shown.began_ms)),
        (if shown.state == "unfinished" { "So far" } else { "Ended" }, moment(shown.ended_ms)),
        ("Length", length(shown.length_us)),
        ("Chunks", format!("{}, {}", shown.chunks, size(shown.bytes))),
    ];
    for participant in &shown.participants {
        rows.push(("Participant", format!("{}, {}", plain(&participant.name), plain(&participant.role))));
    }
    for stream in &shown.streams {
        let mut text = format!("{} {}", stream.id, plain(&stream.name));
        if let (Some(records), Some(bytes)) = (stream.records, stream.bytes) {
            let _ = write!(text, ": {}, {}", counted(records, "record"), size(bytes));
        }
        rows.push(("Stream", text));
    }
    for gap in &shown.gaps {
        rows.push(("Gap", self::gap(gap)));
    }
    rows.push(("Codec", plain(&shown.codec)));
    rows.push(("Recorder", plain(&shown.recorder)));
    rows.push(("Policy", shown.policy.to_string()));
    rows.push(("Consent", shown.consent.map_or_else(|| "-".to_owned(), |hash| hash.to_string())));
    rows.push(("Device", shown.device.to_string()));
    for opens in &shown.recipients {
        rows.push(("Can open it", recipient(opens)));
    }
    pairs(&mut out, &rows);
    out.push_str(
        "\nThis is what it says of itself; `lucidctl recording verify` finds out whether it is so.\n",
    );
    out
}

/// `recording list`
pub(crate) fn listed(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "No recordings.\n".into();
    }
    let header = ["BEGAN", "LENGTH", "STATE", "USER", "CHUNKS", "SIZE", "GAPS", "DIRECTORY"];
    let mut rows = vec![header.map(str::to_owned)];
    let mut problems = String::new();
    let dash = || "-".to_owned();
    for one in listed {
        if let Some(problem) = &one.problem {
            let _ = writeln!(problems, "{}: {problem}", plain(&one.directory));
        }
        rows.push([
            one.began_ms.map_or_else(dash, moment),
            one.length_us.map_or_else(dash, length),
            one.state.unwrap_or("damaged").to_owned(),
            one.user.as_deref().map_or_else(dash, plain),
            one.chunks.map_or_else(dash, |chunks| chunks.to_string()),
            one.bytes.map_or_else(dash, size),
            one.gaps.map_or_else(dash, |gaps| gaps.to_string()),
            plain(&one.directory),
        ]);
    }
    let mut out = table(&rows);
    if !problems.is_empty() {
        out.push('\n');
        out.push_str(&problems);
    }
    out
}

/// `recording verify`
pub(crate) fn verified(report: &Report) -> String {
    let mut out = String::new();
    out.push_str(match report.verdict {
        Verdict::Sound if report.gaps.is_empty() => "PROVED: all that was recorded is here, and unchanged.\n",
        Verdict::Sound => {
            "PROVED: all that was recorded is here, and unchanged. It has gaps, which the recorder named itself.\n"
        }
        Verdict::Unfinished => {
            "NOT COMPLETE: what is here is unchanged, but the recording has no signed end. It is being written, or its\n\
             recorder died and it has to be recovered, or its end was removed.\n"
        }
        Verdict::Damaged => "WRONG: something in this recording was changed or is missing.\n",
    });
    let mut section = |title: &str, lines: Vec<String>| {
        let _ = write!(out, "\n{title}\n");
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    };

    let signer = match (report.device, report.device_given) {
        (Some(_), true) => "signed by the device that you named",
        (Some(_), false) => "signed by one device, whose key is below",
        (None, _) => "in order; whose signature they bear is not known, so they prove nothing alone",
    };
    let mut proved = vec![format!("{} of the recorder, {signer}", counted(report.heads, "statement"))];
    let chunks = report.chunks;
    proved.push(format!(
        "{}, {}, {}: byte for byte what was signed",
        counted(chunks.proved.into(), "chunk"),
        size(report.bytes),
        counted(report.records, "record")
    ));
    if let Some(opened) = report.opened {
        proved.push(format!(
            "{} opened with the key, each in its place and time",
            counted(opened.records, "record")
        ));
    }
    section(if report.device.is_some() { "Proved" } else { "In order, and not proved" }, proved);

    let mut missing: Vec<String> =
        report.gaps.iter().map(|gap| format!("{} (the recorder says so itself)", self::gap(gap))).collect();
    if report.ended.is_none() {
        missing.push(
            "a signed end that holds: what came after this moment, if anything did, is not known".into(),
        );
    }
    if let Some(opened) = report.opened.filter(|opened| opened.torn > 0) {
        missing.push(format!(
            "the end of {}, torn when the recorder died",
            counted(opened.torn.into(), "chunk")
        ));
    }
    if chunks.unproved > 0 {
        missing.push(format!(
            "a statement on {}, which therefore proves nothing",
            counted(chunks.unproved.into(), "chunk")
        ));
    }
    if !missing.is_empty() {
        section("Missing", missing);
    }

    if !report.findings.is_empty() {
        let mut wrong: Vec<String> = report
            .findings
            .iter()
            .take(SHOWN)
            .map(|finding| {
                let mut text = plain(&finding.file);
                if let Some(line) = finding.line {
                    let _ = write!(text, ", line {line}");
                }
                if let Some(record) = finding.record {
                    let _ = write!(text, ", record {record}");
                }
                format!("{text}: {}", plain(&of_it(finding)))
            })
            .collect();
        if report.findings.len() > SHOWN {
            wrong.push(format!("and {} more; --json has all of them", report.findings.len() - SHOWN));
        }
        section("Wrong", wrong);
    }
    if !report.notes.is_empty() {
        section("Notes", report.notes.iter().take(SHOWN).map(|note| plain(note)).collect());
    }

    let mut rows = Vec::new();
    if let Some(session) = report.session {
        rows.push(("Session", session.to_string()));
    }
    if let Some(began) = report.began_ms {
        rows.push(("Began", moment(began)));
    }
    // Without a head that holds, nothing says when that was.
    if let Some(ended) = report.ended_ms.filter(|ended| *ended > 0) {
        rows.push((if report.ended.is_some() { "Ended" } else { "So far" }, moment(ended)));
    }
    rows.push(("Length", length(report.length_us)));
    if let Some(device) = report.device {
        rows.push(("Device", device.to_string()));
    }
    out.push('\n');
    pairs(&mut out, &rows);
    if !report.device_given {
        out.push_str(match report.device {
            Some(_) => {
                "\nAnybody can sign with a key of his own. Compare the device's key above with the one that you know to be\n\
                 yours, or give that with --device: only then does this prove anything.\n"
            }
            None => {
                "\nWhose device it was is not known, since opening.json does not hold: give the key that you know to be\n\
                 yours with --device.\n"
            }
        });
    }
    out
}

/// `recording check-proof`
pub(crate) fn proof_holds(holds: &ProofHolds) -> String {
    let Proved { session, index, size: bytes, closed, wall_ms, hash } = &holds.proved;
    let mut out =
        format!("PROVED: this file is chunk {index} of the recording of this session, unchanged.\n\n");
    let rows = [
        ("Session", session.to_string()),
        ("Chunk", format!("{index} of {closed} that were finished when the device signed")),
        ("Size", size(*bytes)),
        ("Hash", hash.to_string()),
        ("Signed", moment(*wall_ms)),
        ("Device", holds.device.to_string()),
    ];
    pairs(&mut out, &rows);
    if !holds.device_given {
        out.push_str(
            "\nThe device's key was taken from the opening.json beside the chunk. Compare it with the one that you know to\n\
             be yours, or give that with --device: only then does this prove anything.\n",
        );
    }
    out
}

/// `recording rewrap`
pub(crate) fn rewrapped(rewrapped: &Rewrapped) -> String {
    let mut out = String::from("These can open the recording now, and nobody else:\n");
    for opens in &rewrapped.recipients {
        let _ = writeln!(out, "  {}", recipient(opens));
    }
    if !rewrapped.old_key_opens {
        out.push_str(
            "\nThe key that was given opens it no more. Copies of this recording that were made before are as they were:\n\
             the old key opens those still.\n",
        );
    }
    out
}

/// `lucidctl recording picture`
pub(crate) fn still(still: &Still) -> String {
    format!(
        "{}: {}x{} pixels, {} after the start\n",
        plain(&still.file),
        still.width,
        still.height,
        length(still.at_us)
    )
}

/// `lucidctl recording export`
pub(crate) fn exported(exported: &Exported) -> String {
    let mut out = String::new();
    let (copied, encoded) = (exported.pictures_copied, exported.pictures_encoded);
    let pictures = match (copied, encoded) {
        (0, encoded) => format!("{encoded}, composed and encoded"),
        (copied, 0) => format!("{copied}, as the client was sent them"),
        (copied, encoded) => format!("{copied} as the client was sent them, {encoded} composed and encoded"),
    };
    let file = |name: &Option<String>| name.as_ref().map(|name| format!(" in {}", plain(name)));
    let mut rows = vec![
        (
            "Film",
            format!(
                "{}, {}, {}x{}, {}",
                plain(&exported.file),
                length(exported.to_us - exported.from_us),
                exported.width,
                exported.height,
                size(exported.bytes)
            ),
        ),
        ("Pictures", pictures),
        ("Sound", if exported.sound { "yes".to_owned() } else { "none was recorded".to_owned() }),
        ("Events", format!("{}{}", exported.events, file(&exported.events_file).unwrap_or_default())),
    ];
    if exported.sound_left_out > 0 {
        let count = counted(exported.sound_left_out, "piece");
        rows.push(("Left out", format!("{count} of sound that no client can have played in time")));
    }
    if let Some(name) = &exported.subtitles_file {
        rows.push(("Subtitles", format!("in {}", plain(name))));
    }
    if exported.gaps > 0 {
        let count = counted(exported.gaps, "time");
        rows.push(("Not recorded", format!("{count}, which the recorder named itself; the film shows when")));
    }
    pairs(&mut out, &rows);
    out.push('\n');
    out.push_str(match (exported.verdict, exported.device_given) {
        (Verdict::Sound, true) => {
            "PROVED: the whole recording is as the device that you named has signed it.\n"
        }
        (Verdict::Sound, false) => {
            "PROVED: the whole recording is as one device has signed it; --device says that it is yours.\n"
        }
        (Verdict::Unfinished, _) => {
            "NOT COMPLETE: what was exported is unchanged, but the recording has no signed end.\n\
             `lucidctl recording verify` says more.\n"
        }
        (Verdict::Damaged, _) => {
            "WRONG: something in this recording was changed or is missing, so the export proves nothing.\n\
             `lucidctl recording verify` says what.\n"
        }
    });
    out
}

/// How far a verification is.
pub(crate) fn progress(progress: Progress) -> String {
    let of = progress.of.map(|of| format!(" of {of}")).unwrap_or_default();
    format!("{}{of} chunks, {}", progress.chunks, size(progress.bytes))
}

/// The problem without another mention of the file, which stands before it.
fn of_it(finding: &Finding) -> String {
    let line = finding.line.map(|line| format!("line {line} of ")).unwrap_or_default();
    match finding.problem.strip_prefix(&format!("{line}{}", finding.file)) {
        Some(rest) => format!("it{rest}"),
        None => finding.problem.clone(),
    }
}

fn recipient(opens: &Opens) -> String {
    let role = match opens.role {
        Role::Owner => "owner",
        Role::Observer => "observer",
        Role::Recovery => "recovery",
    };
    format!("{} {role}", opens.key)
}

fn gap(gap: &Gap) -> String {
    format!(
        "from {} to {} something may be missing: {}",
        length(gap.from_us),
        length(gap.to_us),
        plain(&gap.reason)
    )
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Tenths of a second where it is short.
fn length(us: u64) -> String {
    if us < 60_000_000 { format!("{}.{} s", us / 1_000_000, us / 100_000 % 10) } else { span(us / 1_000_000) }
}
