//! A patch: what a release has and the one before it has not, packed with the help of what that one had.
//!
//! It stands beside a release's archive and has the same chunks, each as a frame of its own, so that a device fetches, checks
//! and goes on chunk by chunk as it does with the archive. What differs is that a frame is unpacked behind a **prefix**: bytes
//! that the device has already. All that is made of a patch is a chunk whose hash the index has, or nothing.
//!
//! Both sides compute the [`Change`] between two releases: the chunks of the old one, in the order of its parts, that the new
//! one does not have (**removed**), and those of the new one that the old one does not have (**added**), each once.
//!
//! All integers are little-endian.
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | `LUCIDPAT` |
//! | 2 | version, 1 |
//! | 4 | bytes of the head, which ends with its hash: at most 1 MiB |
//! | 32 | the release that it starts from: BLAKE3 of hash and length (4 bytes) of each of its chunks, boot first, with repetitions |
//! | 32 | the release that it makes, likewise |
//! | 4 | how many sections: 1 to 4096 |
//! | 4 | how many frames: as many as there are added chunks |
//! | | **for each section:** |
//! | 4 | the first removed chunk of its prefix |
//! | 4 | how many of them in a row |
//! | 4 | how many added chunks follow them in the prefix: the last ones before the section's own |
//! | 4 | how many frames it has, from 1; those of all sections are all |
//! | | **for each added chunk, in order:** |
//! | 4 | how many bytes its frame has: as in the index, but never 0 |
//! | | **at the end of the head:** |
//! | 32 | BLAKE3 of everything before |
//! | | **after the head:** the frames, in order, without anything between |
//!
//! The **prefix** of a section is a zero byte, so that it is never taken for a trained dictionary, and the bytes of the chunks that
//! the section names: at most 16 MiB together, which is the memory that applying a patch takes. A frame is one zstd frame (RFC
//! 8878) whose content may refer to the prefix as if that came right before it (`ZSTD_DCtx_refPrefix`).
//!
//! An added chunk in a prefix is one of an earlier section: it is in its place when its section comes, whether it was written
//! now or before an interruption.

use std::{collections::HashSet, ops::Range};

use crate::{
    chunker::MAX_CHUNK,
    cursor::Cursor,
    error::{Error, Result},
    index::{Chunk, Hash, Index, MAX_STORED, Place, ZSTD},
};

/// How a patch begins.
const MAGIC: &[u8; 8] = b"LUCIDPAT";
/// The version of the format.
const VERSION: u16 = 1;
/// So many bytes say how long the head is.
pub const START: usize = 14;
/// Bytes of the head without sections, frames and the hash.
const FIXED: usize = START + 32 + 32 + 4 + 4;
/// Bytes of a section in the head.
const SECTION: usize = 16;
/// Bytes of a frame in the head.
const FRAME: usize = 4;
/// Bytes of the hash at the end of the head.
const SEAL: usize = 32;
/// The most bytes of a head.
pub const MAX_HEAD: usize = 1 << 20;
/// The most sections.
pub const MAX_SECTIONS: usize = 1 << 12;
/// The most bytes of a prefix.
pub const MAX_PREFIX: u64 = 16 << 20;

/// A chunk, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// BLAKE3 of its bytes.
    pub hash: Hash,
    /// How many bytes it has.
    pub raw: u32,
}

impl Piece {
    /// Whether these bytes are it.
    #[must_use]
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.raw as usize && *blake3::hash(bytes).as_bytes() == self.hash
    }
}

impl From<&Chunk> for Piece {
    fn from(chunk: &Chunk) -> Self {
        Self { hash: chunk.hash, raw: chunk.raw }
    }
}

/// The pieces of a release in their order, as [`Change::between`] takes them.
#[must_use]
pub fn pieces(index: &Index) -> Vec<Piece> {
    index.parts().iter().flat_map(|part| &part.chunks).map(Piece::from).collect()
}

/// What names a release by its chunks.
fn named(pieces: impl Iterator<Item = Piece>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for Piece { hash, raw } in pieces {
        hasher.update(&hash).update(&raw.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// What is different between two releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    from: Hash,
    to: Hash,
    removed: Vec<Piece>,
    added: Vec<Chunk>,
}

impl Change {
    /// From a release, or a slot that holds one, by its pieces (boot first) to another one.
    #[must_use]
    pub fn between(old: &[Piece], new: &Index) -> Self {
        let chunks = || new.parts().iter().flat_map(|part| &part.chunks);
        let had: HashSet<Hash> = old.iter().map(|piece| piece.hash).collect();
        let has: HashSet<Hash> = chunks().map(|chunk| chunk.hash).collect();
        let mut seen = HashSet::new();
        let removed = old.iter().filter(|piece| !has.contains(&piece.hash) && seen.insert(piece.hash));
        let removed = removed.copied().collect();
        let added = chunks().filter(|chunk| !had.contains(&chunk.hash) && seen.insert(chunk.hash));
        let added = added.copied().collect();
        Self { from: named(old.iter().copied()), to: named(chunks().map(Piece::from)), removed, added }
    }

    /// What the old one alone has.
    #[must_use]
    pub fn removed(&self) -> &[Piece] {
        &self.removed
    }

    /// What the new one alone has.
    #[must_use]
    pub fn added(&self) -> &[Chunk] {
        &self.added
    }

    /// How many bytes of the archive a device fetches that has the old one and takes no patch.
    #[must_use]
    pub fn archive_bytes(&self) -> u64 {
        self.added.iter().map(|chunk| u64::from(chunk.place.length)).sum()
    }
}

/// Frames that have a prefix in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The removed chunks of its prefix.
    pub removed: Range<usize>,
    /// The added chunks behind them; they end where its own begin.
    pub before: Range<usize>,
    /// The added chunks that it has.
    pub frames: Range<usize>,
}

/// The head of a patch. There is none that the format does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    sections: Vec<Section>,
    frames: Vec<Place>,
}

impl Patch {
    /// The patch of these sections for a change, with the length of each frame and whether it is packed.
    ///
    /// # Errors
    /// When it is not as the format has it, or not of this change.
    pub fn new(change: &Change, sections: Vec<Section>, stored: &[(u32, bool)]) -> Result<Self> {
        if !(1..=MAX_SECTIONS).contains(&sections.len()) {
            let why = format!("it has {} sections, and 1 to {MAX_SECTIONS} are allowed", sections.len());
            return Err(Error::patch(why));
        }
        if stored.len() != change.added.len() {
            let (has, needs) = (stored.len(), change.added.len());
            return Err(Error::patch(format!("it has {has} frames, and the release needs {needs}")));
        }
        let mut next = 0;
        for (number, section) in sections.iter().enumerate() {
            let wrong = |why: &str| Err(Error::patch(format!("section {number} {why}")));
            let Section { removed, before, frames } = section;
            if frames.start != next || frames.end <= frames.start || frames.end > stored.len() {
                return wrong("has no frames, or others than those that are next");
            }
            next = frames.end;
            if before.start > before.end || before.end != frames.start {
                return wrong("stands on chunks that do not come right before it");
            }
            let Some(old) = change.removed.get(removed.clone()) else {
                return wrong("stands on chunks that the old release does not have");
            };
            let new = change.added.get(before.clone()).unwrap_or_default();
            let bytes = old.iter().map(|piece| u64::from(piece.raw)).sum::<u64>()
                + new.iter().map(|chunk| u64::from(chunk.raw)).sum::<u64>();
            if bytes >= MAX_PREFIX {
                return wrong("stands on more bytes than a device keeps in memory");
            }
        }
        if next != stored.len() {
            return Err(Error::patch("there are frames that no section has"));
        }
        let mut offset = (FIXED + sections.len() * SECTION + stored.len() * FRAME + SEAL) as u64;
        if offset > MAX_HEAD as u64 {
            return Err(Error::patch(format!("its head has {offset} bytes, of {MAX_HEAD} at most")));
        }
        let mut frames = Vec::with_capacity(stored.len());
        for (number, (&(length, zstd), chunk)) in stored.iter().zip(&change.added).enumerate() {
            if !(1..=MAX_STORED).contains(&length) || (!zstd && length != chunk.raw) || chunk.raw > MAX_CHUNK
            {
                return Err(Error::patch(format!("frame {number} has a length that it cannot have")));
            }
            let place = Place { offset, length, zstd };
            offset = place.end();
            frames.push(place);
        }
        Ok(Self { sections, frames })
    }

    /// How many bytes the head has, from the first [`START`] of a patch.
    ///
    /// # Errors
    /// When they begin no patch of version 1.
    pub fn head_bytes(start: &[u8]) -> Result<usize> {
        let mut cursor = Cursor::new(start, Error::patch);
        if &cursor.take::<8>()? != MAGIC {
            return Err(Error::patch("it does not begin with LUCIDPAT"));
        }
        let version = u16::from_le_bytes(cursor.take()?);
        if version != VERSION {
            return Err(Error::Format { what: "the patch", version: version.into() });
        }
        let bytes = u32::from_le_bytes(cursor.take()?) as usize;
        if !(FIXED + SECTION + FRAME + SEAL..=MAX_HEAD).contains(&bytes) {
            return Err(Error::patch(format!("its head would have {bytes} bytes")));
        }
        Ok(bytes)
    }

    /// Reads the head of a patch that has so many bytes in all, for this change. Takes memory for about eight times the head.
    ///
    /// # Errors
    /// When it is none of version 1, was damaged, says what the format does not allow, or is for another change.
    pub fn read(head: &[u8], change: &Change, length: u64) -> Result<Self> {
        if Self::head_bytes(head)? != head.len() {
            return Err(Error::patch("its head is cut off, or has something behind it"));
        }
        let Some((content, seal)) = head.split_last_chunk::<SEAL>() else {
            return Err(Error::patch("it is cut off"));
        };
        if blake3::hash(content).as_bytes() != seal {
            return Err(Error::patch(
                "it was damaged: the hash at the end of its head is not that of its bytes",
            ));
        }
        let mut cursor = Cursor::new(content, Error::patch);
        cursor.take::<START>()?;
        if cursor.take::<32>()? != change.from {
            return Err(Error::patch("it starts from another release than the one that is there"));
        }
        if cursor.take::<32>()? != change.to {
            return Err(Error::patch("it makes another release"));
        }
        let sections_count = cursor.number()?;
        let frames_count = cursor.number()?;
        let wanted = sections_count
            .checked_mul(SECTION)
            .and_then(|bytes| bytes.checked_add(frames_count.checked_mul(FRAME)?));
        if wanted != Some(cursor.left()) {
            return Err(Error::patch("its head is not as long as its sections and frames"));
        }
        let (mut sections, mut next) = (Vec::with_capacity(sections_count), 0_usize);
        for number in 0..sections_count {
            let (first, count) = (cursor.number()?, cursor.number()?);
            let (before, frames) = (cursor.number()?, cursor.number()?);
            let Some(start) = next.checked_sub(before) else {
                let why = format!("section {number} stands on more chunks than come before it");
                return Err(Error::patch(why));
            };
            let end = next.saturating_add(frames);
            sections.push(Section {
                removed: first..first.saturating_add(count),
                before: start..next,
                frames: next..end,
            });
            next = end;
        }
        let mut stored = Vec::with_capacity(frames_count);
        for _ in 0..frames_count {
            let number = u32::from_le_bytes(cursor.take()?);
            stored.push((number & !ZSTD, number & ZSTD != 0));
        }
        let patch = Self::new(change, sections, &stored)?;
        if patch.bytes() != length {
            let why = format!("it has {length} bytes, and its frames end at {}", patch.bytes());
            return Err(Error::patch(why));
        }
        Ok(patch)
    }

    /// The head as it is written; `change` is that of [`Self::new`].
    #[must_use]
    pub fn head(&self, change: &Change) -> Vec<u8> {
        let bytes = FIXED + self.sections.len() * SECTION + self.frames.len() * FRAME + SEAL;
        let mut head = Vec::with_capacity(bytes);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        let numbers = |head: &mut Vec<u8>, numbers: &[usize]| {
            for number in numbers {
                head.extend_from_slice(&(*number as u32).to_le_bytes());
            }
        };
        numbers(&mut head, &[bytes]);
        head.extend_from_slice(&change.from);
        head.extend_from_slice(&change.to);
        numbers(&mut head, &[self.sections.len(), self.frames.len()]);
        for Section { removed, before, frames } in &self.sections {
            numbers(&mut head, &[removed.start, removed.len(), before.len(), frames.len()]);
        }
        for Place { length, zstd, .. } in &self.frames {
            let stored = length | if *zstd { ZSTD } else { 0 };
            head.extend_from_slice(&stored.to_le_bytes());
        }
        let seal = blake3::hash(&head);
        head.extend_from_slice(seal.as_bytes());
        head
    }

    /// How many bytes all of it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.frames.last().map_or(0, Place::end)
    }

    /// Its sections.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Where in the patch the frame of each added chunk is.
    #[must_use]
    pub fn frames(&self) -> &[Place] {
        &self.frames
    }

    /// The section of an added chunk's frame.
    #[must_use]
    pub fn section_of(&self, frame: usize) -> usize {
        self.sections.partition_point(|section| section.frames.end <= frame)
    }
}

impl Section {
    /// The bytes before its frames. `get` gives a chunk, from wherever it is.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn prefix<E>(
        &self,
        change: &Change,
        mut get: impl FnMut(Piece) -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<Vec<u8>, E> {
        let old = change.removed.get(self.removed.clone()).unwrap_or_default();
        let new = change.added.get(self.before.clone()).unwrap_or_default();
        let pieces = || old.iter().copied().chain(new.iter().map(Piece::from));
        let bytes: usize = pieces().map(|piece| piece.raw as usize).sum();
        let mut prefix = Vec::with_capacity(1 + bytes);
        prefix.push(0);
        for piece in pieces() {
            prefix.extend_from_slice(&get(piece)?);
        }
        Ok(prefix)
    }
}
