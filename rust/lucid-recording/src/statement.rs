//! What a device states: at the start, about once a second, and at the end.
//!
//! The files are canonical JSON in the envelope that [`lucid_statement::json`] describes. All hashes are BLAKE3.
//!
//! | file | statement |
//! | --- | --- |
//! | `opening.json` | one [`Opening`], no line feed after it |
//! | `heads.jsonl` | one [`Head`] in each line, each with a line feed, in the order of [`Head::seq`] |
//! | `manifest.json` | one [`Manifest`], no line feed after it |
//!
//! A reader refuses an opening of more than 256 KiB, a line of more than 32 KiB with its line feed, and a manifest of more
//! than 24 MiB. Values that are one of several words are written as their names below in lower-case letters.

use serde::{Deserialize, Serialize};

use lucid_statement::{Hash, PublicKey, SessionId, document};

/// Begins what is signed of every statement of a recording.
pub(crate) const DOMAIN: &str = "lucid recording v1 ";

/// What a statement, or the file of keys, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `opening.json`.
    #[serde(rename = "lucid-recording-opening")]
    Opening,
    /// A line of `heads.jsonl`.
    #[serde(rename = "lucid-recording-head")]
    Head,
    /// `manifest.json`.
    #[serde(rename = "lucid-recording-manifest")]
    Manifest,
    /// `keys.json`, which is not signed.
    #[serde(rename = "lucid-recording-keys")]
    Keys,
    /// A proof that stands alone; the head within is signed.
    #[serde(rename = "lucid-recording-proof")]
    Proof,
}

impl Kind {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "lucid-recording-opening",
            Self::Head => "lucid-recording-head",
            Self::Manifest => "lucid-recording-manifest",
            Self::Keys => "lucid-recording-keys",
            Self::Proof => "lucid-recording-proof",
        }
    }
}

/// The most chunks of a recording: 512 GiB of full ones.
pub const MAX_CHUNKS: usize = 1 << 16;
/// The most parts of a recording, and so the most starts of its recorder.
pub const MAX_PARTS: usize = 1 << 10;
/// The most gaps of a recording.
pub const MAX_GAPS: usize = 1 << 12;
/// The most bytes, in UTF-8, of a text that a caller gives: a name, a role, a reason, the codec, the recorder.
pub const MAX_TEXT: usize = 256;
/// The most chunks that one head says are finished.
pub const MAX_FINISHED: usize = 64;
/// The most participants and streams of an opening, all told. There is at least one stream.
pub(crate) const MAX_LISTED: usize = 256;
/// The most bytes of `opening.json`: that many participants, with room.
pub(crate) const MAX_OPENING: u64 = 1 << 18;
/// The most bytes of a line of `heads.jsonl`: [`MAX_FINISHED`] entries of 260 bytes and a text, with room.
pub(crate) const MAX_HEAD: u64 = 1 << 15;
/// The most bytes of `manifest.json`: all chunks, parts and gaps, with room.
pub(crate) const MAX_MANIFEST: u64 = 24 << 20;

/// Who takes part in the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Participant {
    /// His public key.
    pub key: PublicKey,
    /// What people call him.
    pub name: String,
    /// What he does in the session: `user`, `observer`, `approver`.
    pub role: String,
}

/// How the payloads of a stream are kept: `none`, `zstd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they came.
    None,
    /// By zstd (RFC 8878) where that makes them smaller; each record says whether.
    Zstd,
}

/// One kind of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// How its payloads are kept.
    pub compression: Compression,
    /// Its number in the records, 1 to 15.
    pub id: u8,
    /// Its name: `video`, `audit`, `pointer`, `sound`.
    pub name: String,
}

/// `opening.json`: what is said before anything is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// What the video stream holds, in words of its makers.
    pub codec: String,
    /// Hash of the consent receipt, where there is one.
    pub consent: Option<Hash>,
    /// The Ed25519 key that signs every statement of this recording, this one as well.
    pub device: PublicKey,
    /// `lucid-recording-opening`.
    pub kind: Kind,
    /// Who takes part.
    pub participants: Vec<Participant>,
    /// Hash of the policy under which the session runs.
    pub policy: Hash,
    /// Name and version of the recorder.
    pub recorder: String,
    /// The session, which is also the directory's name.
    pub session: SessionId,
    /// The streams, by rising number.
    pub streams: Vec<Stream>,
    /// 1.
    pub version: u16,
    /// When, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// A finished chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// How many bytes of it the recorder had confirmed on the disk: all, unless the recorder died over it. Then what
    /// comes after them may be torn (the owner's key tells), and where it is more than `size`, the rest was lost.
    pub acknowledged: u64,
    /// No record in it is earlier, in microseconds since the session's start. Exact, unless the recorder died over it.
    pub first_us: u64,
    /// Of a zero byte and the file's bytes: its leaf in the tree.
    pub hash: Hash,
    /// Its place in the recording, from 0, and its file's number.
    pub index: u32,
    /// Whether playback can start at its first record.
    pub key: bool,
    /// The time of its last record. Where the recorder died over it, that of the last confirmed one.
    pub last_us: u64,
    /// Which part it belongs to.
    pub part: u32,
    /// Bytes of the file.
    pub size: u64,
}

/// The chunk that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The time of its first record.
    pub first_us: u64,
    /// Of a zero byte and the file's first `length` bytes.
    pub hash: Hash,
    /// Its place in the recording.
    pub index: u32,
    /// The time of its last record so far.
    pub last_us: u64,
    /// How much of it is confirmed on the disk. Records are never cut here.
    pub length: u64,
}

/// A time from which something may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// From, in microseconds since the session's start.
    pub from_us: u64,
    /// Why, for people.
    pub reason: String,
    /// Up to.
    pub to_us: u64,
}

/// A line of `heads.jsonl`: everything that was recorded so far.
///
/// Once it is on the disk, all that was appended before it is *acknowledged*: the chunk's bytes were made durable
/// first. The entries of all [`Head::finished`] together are the manifest's list of chunks, so that the heads alone
/// prove as much as the manifest does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Hash of the newest audit event in the recording.
    pub audit: Option<Hash>,
    /// How many chunks are finished: the tree's size.
    pub closed: u32,
    /// The chunks that were finished since the head before: an open one first. Only the last one of a head with a gap may
    /// lack its closing record, since its recorder died over it.
    pub finished: Vec<Chunk>,
    /// From when something may be missing that this head's makers know of.
    pub gap: Option<Gap>,
    /// Commitment of this part's session key: BLAKE3 `derive_key` with the context `lucid recording v1 key commitment`.
    pub key_commitment: Hash,
    /// `lucid-recording-head`.
    pub kind: Kind,
    /// When, in microseconds since the session's start; never less than in the head before.
    pub mono_us: u64,
    /// The chunk that is being written, whose index is `closed`.
    pub open: Option<Open>,
    /// Which life of the recorder this is, from 0. One more than before only in a head with a gap and nothing open.
    pub part: u32,
    /// Hash of the line before, without its line feed. In the first line: of `opening.json`.
    pub previous: Hash,
    /// Of the tree over the finished chunks ([`crate::merkle`]).
    pub root: Hash,
    /// Its place, from 0.
    pub seq: u64,
    /// The session.
    pub session: SessionId,
    /// 1.
    pub version: u16,
    /// When, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// How a recording ended: `finished`, `recovered`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Its recorder ended it: the last chunk closes with the flag "last of the recording".
    Finished,
    /// Its recorder died, and recovery ended it.
    Recovered,
}

/// How one life of the recorder ended: `closed`, `lost`. Only the last part of a finished recording is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartEnded {
    /// As it should.
    Closed,
    /// The recorder died.
    Lost,
}

/// One life of the recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// How it ended.
    pub ended: PartEnded,
    /// Commitment of its session key.
    pub key_commitment: Hash,
    /// Its number, from 0.
    pub part: u32,
}

/// The lines of `heads.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// How many there are.
    pub count: u64,
    /// Hash of the last one, without its line feed.
    pub last: Hash,
}

/// The audit events in the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// How many there are.
    pub count: u64,
    /// Hash of the last one.
    pub hash: Hash,
}

/// `manifest.json`: everything, once there will be no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The audit events, where their number is known: recovery does not know it.
    pub audit: Option<Audit>,
    /// Every chunk.
    pub chunks: Vec<Chunk>,
    /// How it ended.
    pub ended: Ended,
    /// Every gap that a head names.
    pub gaps: Vec<Gap>,
    /// The heads.
    pub heads: Heads,
    /// `lucid-recording-manifest`.
    pub kind: Kind,
    /// When it ended, in microseconds since the session's start: that of the last head.
    pub mono_us: u64,
    /// Hash of `opening.json`.
    pub opening: Hash,
    /// Every part.
    pub parts: Vec<Part>,
    /// Name and version of the recorder that ended it.
    pub recorder: String,
    /// Of the tree over the chunks.
    pub root: Hash,
    /// The session.
    pub session: SessionId,
    /// 1.
    pub version: u16,
    /// When it ended, in milliseconds since the Unix epoch: that of the last head.
    pub wall_ms: u64,
}

document!(Opening, DOMAIN, Kind::Opening);
document!(Head, DOMAIN, Kind::Head);
document!(Manifest, DOMAIN, Kind::Manifest);
