//! Proofs that stand alone: one chunk was recorded, without the other ones.

use std::path::Path;

use serde::{Deserialize, Serialize};

use lucid_statement::{
    Hash, PublicKey, SessionId, Signed, document,
    json::{self, VERSION},
};

use crate::{
    chain::{Chain, Line, Lines, read_opening},
    chunk::{self, Header, MAX_CHUNK},
    error::{Error, Result},
    files, merkle,
    statement::{DOMAIN, Head, Kind},
};

/// The most bytes of a proof: a head, and a path through a tree of 2^16 leaves.
pub const MAX_PROOF: u64 = 1 << 17;
/// How a proof is called.
const NAME: &str = "the proof";

/// That a chunk is in a recording: canonical JSON ([`lucid_statement::json`]), whose head is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The last head of the recording.
    pub head: Signed<Head>,
    /// The chunk.
    pub index: u32,
    /// `lucid-recording-proof`.
    pub kind: Kind,
    /// The nodes from the chunk's leaf to the head's root, from the bottom up (RFC 9162, section 2.1.3).
    pub path: Vec<Hash>,
    /// 1.
    pub version: u16,
}

document!(Proof, DOMAIN, Kind::Proof);

/// What a good proof shows: the device signed that this chunk stands in this place of that session's recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proved {
    /// The session.
    pub session: SessionId,
    /// The chunk.
    pub index: u32,
    /// Bytes of it.
    pub size: u64,
    /// Its leaf.
    pub hash: Hash,
    /// How many chunks there were when the device signed it.
    pub closed: u32,
    /// When that was, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// Makes the proof of a finished chunk from the opening, the heads and the chunk itself.
///
/// # Errors
/// When there is no such chunk, or one of those files is damaged.
pub fn prove(dir: &Path, index: u32) -> Result<Proof> {
    let (opening, opening_hash) = read_opening(dir, None)?;
    let mut chain = Chain::new(opening.session, opening_hash);
    let mut lines = Lines::open(dir)?;
    let mut last = Vec::new();
    while let Line::Whole = lines.next()? {
        chain.accept(&lines.line, Some(&opening.device))?;
        std::mem::swap(&mut last, &mut lines.line);
    }
    let leaves: Vec<Hash> = chain.chunks.iter().map(|chunk| chunk.hash).collect();
    let Some(path) = merkle::inclusion(&leaves, index as usize) else {
        return Err(Error::Argument(format!(
            "there is no finished chunk {index}: there are {}",
            leaves.len()
        )));
    };
    let name = chunk::file_name(index);
    if merkle::leaf(&files::read(&dir.join(&name), MAX_CHUNK)?) != leaves[index as usize] {
        return Err(Error::malformed(name, "it is not what was recorded"));
    }
    let head = json::read_signed::<Head>(files::HEADS, &last, Some(&opening.device))?;
    Ok(Proof { head, index, kind: Kind::Proof, path, version: VERSION })
}

impl Proof {
    /// As it is written to a file.
    ///
    /// # Errors
    /// When a number in it is too large for JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(json::to_bytes(NAME, self)?)
    }

    /// Reads what [`Self::to_bytes`] made.
    ///
    /// # Errors
    /// When it is not of version 1 of the format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_PROOF {
            return Err(Error::malformed(NAME, format!("it is larger than {MAX_PROOF} bytes")));
        }
        Ok(json::read(NAME, bytes)?)
    }

    /// Holds a chunk's file to the proof, and the proof to the device's key, which has to be known from elsewhere.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn check(&self, chunk: &Path, device: &PublicKey) -> Result<Proved> {
        json::check(NAME, &self.head, device)?;
        let head = &self.head.body;
        if head.kind != Kind::Head || head.version != VERSION {
            return Err(Error::malformed(NAME, "what is signed in it is no head"));
        }
        let bytes = files::read(chunk, MAX_CHUNK)?;
        let name = chunk.display().to_string();
        let hash = merkle::leaf(&bytes);
        if !merkle::includes(&head.root, head.closed.into(), self.index.into(), &hash, &self.path) {
            return Err(Error::malformed(name, "it is not the chunk that the proof is about"));
        }
        // What was lost in a crash has no header any more, and is in the tree all the same.
        if let Ok(header) = Header::read(&name, &bytes)
            && (header.session != head.session || header.index != self.index)
        {
            return Err(Error::malformed(name, "its header belongs elsewhere"));
        }
        Ok(Proved {
            session: head.session,
            index: self.index,
            size: bytes.len() as u64,
            hash,
            closed: head.closed,
            wall_ms: head.wall_ms,
        })
    }
}
