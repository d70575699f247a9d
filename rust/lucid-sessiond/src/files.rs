//! What the directories of recordings say, without any key: for the list, and for the bounds of the disk.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use lucid_recording::{
    SessionId, Time,
    statement::{Ended, Head, Manifest, Opening},
};
use lucid_statement::{Signed, json};
use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};

/// The most bytes of an opening or a manifest that are read; a good one is smaller.
const MAX_STATEMENT: u64 = 32 << 20;
/// The last line of `heads.jsonl` is within so many bytes.
const MAX_LINE: u64 = 64 << 10;

/// What the list says of a recording that nobody writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) user: String,
    pub(crate) start_ms: u64,
    pub(crate) ending: Ending,
    pub(crate) chunks: u32,
    /// Of all its files.
    pub(crate) bytes: u64,
    pub(crate) gaps: u32,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// With a manifest.
    Manifest {
        end_ms: u64,
        /// Whether recovery wrote it.
        recovered: bool,
        /// Its file, by which another one is recognised.
        stamp: Stamp,
    },
    /// It cannot be ended.
    Unusable(String),
}

/// Size and time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// The stamp of the manifest; none as long as there is none.
pub(crate) fn stamp(dir: &Path) -> Result<Option<Stamp>> {
    let path = dir.join("manifest.json");
    match fs::metadata(&path) {
        Ok(about) => {
            Ok(Some(Stamp { size: about.len(), seconds: about.mtime(), nanoseconds: about.mtime_nsec() }))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("looking at", &path),
    }
}

/// The sessions that have a directory there. What is named otherwise is none of ours.
pub(crate) fn sessions(recordings: &Path) -> Result<Vec<SessionId>> {
    let mut sessions = Vec::new();
    for entry in fs::read_dir(recordings).at("reading", recordings)? {
        let entry = entry.at("reading", recordings)?;
        let name = entry.file_name();
        let session = name.to_str().and_then(|name| name.parse::<SessionId>().ok());
        // A UUID has other spellings, under which no recording is looked for.
        sessions.extend(session.filter(|session| name == *session.to_string()));
    }
    sessions.sort_unstable();
    Ok(sessions)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).at("opening", path)?;
    let mut bytes = Vec::new();
    file.take(MAX_STATEMENT).read_to_end(&mut bytes).at("reading", path)?;
    Ok(bytes)
}

/// What was said at the start.
pub(crate) fn opening(dir: &Path) -> Result<Opening> {
    let path = dir.join("opening.json");
    Ok(json::from_bytes::<Signed<Opening>>("opening.json", &read(&path)?)?.body)
}

/// What was asked for and decided in a session: signed requests and decisions (lucid-policy), one in each line.
pub(crate) const APPROVALS: &str = "approvals.jsonl";

/// Adds a line to a file beside a recording; durable when this is done.
pub(crate) fn append(dir: &Path, name: &str, line: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let mut file = file.at("opening", &path)?;
    file.write_all(&[line, b"\n"].concat()).and_then(|()| file.sync_all()).at("writing", &path)
}

/// The policy snapshot beside a recording.
pub(crate) fn read_snapshot(dir: &Path, most: u64) -> Result<Vec<u8>> {
    let path = dir.join("snapshot.json");
    let file = fs::File::open(&path).at("opening", &path)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).at("reading", &path)?;
    Ok(bytes)
}

/// The user of a recording: the one who takes part as such.
pub(crate) fn user(opening: &Opening) -> String {
    let user = opening.participants.iter().find(|participant| participant.role == USER);
    user.map_or_else(String::new, |user| user.name.clone())
}

/// The role of the user among the participants.
pub(crate) const USER: &str = "user";

/// The newest head of a recording whose log is whole.
pub(crate) fn last_head(dir: &Path) -> Result<Head> {
    let path = dir.join("heads.jsonl");
    let mut file = fs::File::open(&path).at("opening", &path)?;
    let size = file.metadata().at("reading", &path)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_LINE))).at("reading", &path)?;
    let mut bytes = Vec::new();
    file.take(MAX_LINE).read_to_end(&mut bytes).at("reading", &path)?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(json::from_bytes::<Signed<Head>>("the last line of heads.jsonl", line)?.body)
}

/// How many gaps the heads name so far.
pub(crate) fn gaps(dir: &Path) -> Result<u32> {
    use std::io::BufRead as _;
    let path = dir.join("heads.jsonl");
    let mut lines = std::io::BufReader::new(fs::File::open(&path).at("opening", &path)?);
    let mut line = Vec::new();
    let mut gaps = 0;
    loop {
        line.clear();
        (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line).at("reading", &path)?;
        if line.is_empty() {
            return Ok(gaps);
        }
        let head = json::from_bytes::<Signed<Head>>("a line of heads.jsonl", line.trim_ascii_end())?.body;
        gaps += u32::from(head.gap.is_some());
    }
}

/// The time of a head.
pub(crate) fn time(head: &Head) -> Time {
    Time { wall_ms: head.wall_ms, mono_us: head.mono_us }
}

/// How many chunks a recording has, and how large all its files are.
pub(crate) fn size(dir: &Path) -> Result<(u32, u64)> {
    let (mut chunks, mut bytes) = (0, 0);
    for entry in fs::read_dir(dir).at("reading", dir)? {
        let entry = entry.at("reading", dir)?;
        match entry.metadata() {
            Ok(about) => bytes += about.len(),
            // Replaced by its successor meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).at("reading", &entry.path()),
        }
        chunks += u32::from(entry.file_name().as_encoded_bytes().starts_with(b"chunk-"));
    }
    Ok((chunks, bytes))
}

/// What its files say of a recording that ended.
pub(crate) fn ended(dir: &Path, stamp: Stamp) -> Result<Entry> {
    let opening = opening(dir)?;
    let path = dir.join("manifest.json");
    let manifest = json::from_bytes::<Signed<Manifest>>("manifest.json", &read(&path)?)?.body;
    if manifest.session != opening.session {
        return Err(Error::Internal("the manifest is of another session"));
    }
    let (_, bytes) = size(dir)?;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Entry {
        user: user(&opening),
        start_ms: opening.wall_ms,
        ending: Ending::Manifest {
            end_ms: manifest.wall_ms,
            recovered: manifest.ended == Ended::Recovered,
            stamp,
        },
        chunks: count(manifest.chunks.len()),
        bytes,
        gaps: count(manifest.gaps.len()),
    })
}

/// A recording that cannot be ended, as far as its files say anything.
pub(crate) fn unusable(dir: &Path, why: String) -> Entry {
    let opening = opening(dir).ok();
    let (chunks, bytes) = size(dir).unwrap_or_default();
    Entry {
        user: opening.as_ref().map(user).unwrap_or_default(),
        start_ms: opening.map_or(0, |opening| opening.wall_ms),
        ending: Ending::Unusable(why),
        chunks,
        bytes,
        gaps: 0,
    }
}

/// What one directory says: a recording that ended, or one that cannot be read; none as long as it has no manifest.
pub(crate) fn look(dir: &Path) -> Option<Entry> {
    let entry = stamp(dir).and_then(|stamp| stamp.map(|stamp| ended(dir, stamp)).transpose());
    entry.unwrap_or_else(|error| Some(unusable(dir, error.to_string())))
}
