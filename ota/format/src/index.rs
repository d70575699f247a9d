//! The index of a release: its parts as lists of chunks.
//!
//! All integers are little-endian.
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | `LUCIDIDX` |
//! | 2 | version, 1 |
//! | 2 | how many parts: 1 or 2 |
//! | | **for each part:** |
//! | 1 | its kind: 1 boot, 2 root; each once, boot first |
//! | 8 | its bytes: a multiple of 4096, at most 512 MiB |
//! | 32 | BLAKE3 of the part |
//! | 4 | how many chunks: 1 to 65536 |
//! | | **for each of its chunks, in order:** |
//! | 32 | BLAKE3 of the chunk |
//! | 4 | its bytes, 1 to 131072; those of all chunks are the part's |
//! | 4 | how many bytes of the archive it takes: see below |
//! | | **at the end:** |
//! | 32 | BLAKE3 of everything before |
//!
//! **Bytes in the archive**: 0 for a chunk whose hash came before in the index, in whichever part: it is stored once. Of others
//! the lowest 31 bits say how many: with the highest bit 1 to 132096, which are one zstd frame (RFC 8878); without it as many
//! as the chunk has, which are the chunk. Chunks are stored in the order of the index without anything between, so offsets
//! follow from lengths, and an index has one spelling.
//!
//! An index has at most 8 MiB.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use crate::{
    chunker::MAX_CHUNK,
    cursor::Cursor,
    error::{Error, Result},
};

/// How an index begins.
const MAGIC: &[u8; 8] = b"LUCIDIDX";
/// The version of the format.
const VERSION: u16 = 1;
/// The bit that says that a chunk is stored as a zstd frame.
pub(crate) const ZSTD: u32 = 1 << 31;
/// Bytes of a chunk in the index.
const ENTRY: usize = 40;
/// Bytes of the hash at the end.
const SEAL: usize = 32;
/// The bytes of a part are a multiple of it.
pub const BLOCK: u64 = 4096;
/// The most bytes of a part.
pub const MAX_PART: u64 = 512 << 20;
/// The most chunks of a part.
pub const MAX_CHUNKS: usize = 1 << 16;
/// The most bytes that a chunk takes in the archive.
pub const MAX_STORED: u32 = MAX_CHUNK + 1024;
/// The most bytes of an index.
pub const MAX_INDEX: usize = 8 << 20;

/// BLAKE3 of something.
pub type Hash = [u8; 32];

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The FAT of a boot slot.
    Boot = 1,
    /// The EROFS of a root slot and its verity tree.
    Root = 2,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot",
            Self::Root => "root",
        })
    }
}

/// Where in the archive a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the archive's first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
    /// Whether they are a zstd frame; otherwise they are the chunk.
    pub zstd: bool,
}

impl Place {
    /// The first byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// A piece of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// BLAKE3 of its bytes.
    pub hash: Hash,
    /// How many bytes it has.
    pub raw: u32,
    /// Where in the archive it is; chunks of the same hash are in the same place.
    pub place: Place,
}

impl Chunk {
    /// Whether these bytes are the chunk, wherever they come from.
    #[must_use]
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.raw as usize && *blake3::hash(bytes).as_bytes() == self.hash
    }

    /// The chunk, from what the archive has at its [`Place`]. Takes memory for the chunk, whatever the bytes are, and gives
    /// nothing but the chunk.
    ///
    /// # Errors
    /// When the bytes are not of the place's length, do not unpack, or unpack to anything else.
    pub fn open(&self, stored: &[u8]) -> Result<Vec<u8>> {
        self.open_at(self.place, &[], stored)
    }

    /// The same, from a place in a patch, with the prefix of its section.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(&self, place: Place, prefix: &[u8], stored: &[u8]) -> Result<Vec<u8>> {
        let refused = |why: String| {
            let hash = blake3::Hash::from_bytes(self.hash).to_hex().to_string();
            Error::Chunk { hash, why }
        };
        let Place { length, zstd, .. } = place;
        if stored.len() != length as usize {
            return Err(refused(format!("there are {} bytes instead of {length}", stored.len())));
        }
        if self.raw > MAX_CHUNK {
            return Err(refused(format!("it would have {} bytes, more than a chunk may", self.raw)));
        }
        let bytes =
            if zstd { unpack(stored, self.raw as usize, prefix).map_err(refused)? } else { stored.to_vec() };
        if bytes.len() != self.raw as usize {
            return Err(refused(format!("it has {} bytes instead of {}", bytes.len(), self.raw)));
        }
        if !self.is(&bytes) {
            return Err(refused("its hash is another one".to_owned()));
        }
        Ok(bytes)
    }
}

/// What one zstd frame unpacks to, of at most so many bytes, behind a prefix.
fn unpack(stored: &[u8], most: usize, prefix: &[u8]) -> std::result::Result<Vec<u8>, String> {
    use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_error_name};
    // Unpacking would go on with a frame after the first.
    if find_frame_compressed_size(stored) != Ok(stored.len()) {
        return Err("what is stored is not one zstd frame".to_owned());
    }
    let failed = |code| format!("it does not unpack: {}", get_error_name(code));
    let mut context = DCtx::try_create().ok_or("there is no memory to unpack it")?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let mut bytes = Vec::with_capacity(most);
    context.decompress(&mut bytes, stored).map_err(failed)?;
    Ok(bytes)
}

/// A part of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// How many bytes it has.
    pub bytes: u64,
    /// BLAKE3 of all of it.
    pub hash: Hash,
    /// Its pieces, from its first byte to its last.
    pub chunks: Vec<Chunk>,
}

impl Part {
    /// Each chunk with its offset in the part.
    pub fn placed(&self) -> impl Iterator<Item = (u64, &Chunk)> {
        self.chunks.iter().scan(0, |next, chunk| {
            let offset = *next;
            *next += u64::from(chunk.raw);
            Some((offset, chunk))
        })
    }
}

/// What a release consists of. There is none that the format does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    parts: Vec<Part>,
    /// Bytes of the archive.
    archive: u64,
}

impl Index {
    /// The index of these parts.
    ///
    /// # Errors
    /// When they are not as the format has them: number, order, sizes, sums, and the places in the archive.
    pub fn new(parts: Vec<Part>) -> Result<Self> {
        if !(1..=2).contains(&parts.len()) {
            return Err(Error::index(format!("it has {} parts, and one or two are allowed", parts.len())));
        }
        if !parts.is_sorted_by(|one, next| one.kind < next.kind) {
            return Err(Error::index("a kind of part comes twice, or root before boot"));
        }
        let mut archive = 0;
        let mut known: HashMap<Hash, (u32, Place)> = HashMap::new();
        for Part { kind, bytes, chunks, .. } in &parts {
            if *bytes == 0 || *bytes > MAX_PART || !bytes.is_multiple_of(BLOCK) {
                let why =
                    format!("{kind} has {bytes} bytes, and multiples of {BLOCK} to {MAX_PART} are allowed");
                return Err(Error::index(why));
            }
            if !(1..=MAX_CHUNKS).contains(&chunks.len()) {
                let why = format!("{kind} has {} chunks, and 1 to {MAX_CHUNKS} are allowed", chunks.len());
                return Err(Error::index(why));
            }
            for (number, Chunk { hash, raw, place }) in chunks.iter().enumerate() {
                let wrong = |why: &str| Error::index(format!("chunk {number} of {kind} {why}"));
                if !(1..=MAX_CHUNK).contains(raw) {
                    return Err(wrong("has none or too many bytes"));
                }
                match known.entry(*hash) {
                    Entry::Occupied(first) => {
                        if *first.get() != (*raw, *place) {
                            return Err(wrong("is not where and as long as the one before with its hash"));
                        }
                    }
                    Entry::Vacant(new) => {
                        if place.offset != archive {
                            return Err(wrong("does not follow the one stored before it"));
                        }
                        if !(1..=MAX_STORED).contains(&place.length) || (!place.zstd && place.length != *raw)
                        {
                            return Err(wrong("is stored with a length that it cannot have"));
                        }
                        archive = place.end();
                        new.insert((*raw, *place));
                    }
                }
            }
            let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.raw)).sum();
            if sum != *bytes {
                return Err(Error::index(format!("{kind} has {bytes} bytes, and its chunks {sum}")));
            }
        }
        Ok(Self { parts, archive })
    }

    /// Reads an index. Takes memory for about four times its bytes.
    ///
    /// # Errors
    /// When it is none of version 1, was damaged, or says what the format does not allow.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_INDEX {
            let why = format!("it has {} bytes, and at most {MAX_INDEX} are allowed", bytes.len());
            return Err(Error::index(why));
        }
        let mut start = Cursor::new(bytes, Error::index);
        if &start.take::<8>()? != MAGIC {
            return Err(Error::index("it does not begin with LUCIDIDX"));
        }
        let version = u16::from_le_bytes(start.take()?);
        if version != VERSION {
            return Err(Error::Format { what: "the index", version: version.into() });
        }
        let Some((content, seal)) = bytes.split_last_chunk::<SEAL>() else {
            return Err(Error::index("it is cut off"));
        };
        if blake3::hash(content).as_bytes() != seal {
            return Err(Error::index(
                "it was damaged or cut off: the hash at its end is not that of its bytes",
            ));
        }
        let mut cursor = start.within(content);
        let count = u16::from_le_bytes(cursor.take()?);
        let mut parts: Vec<Part> = Vec::new();
        let mut places: HashMap<Hash, Place> = HashMap::new();
        let mut end = 0;
        for _ in 0..count {
            // However many there are to be, two kinds cannot rise for long.
            let [kind] = cursor.take::<1>()?;
            let kind = match kind {
                1 => Kind::Boot,
                2 => Kind::Root,
                other => return Err(Error::index(format!("it has a part of the unknown kind {other}"))),
            };
            if parts.last().is_some_and(|part| part.kind >= kind) {
                return Err(Error::index("a kind of part comes twice, or root before boot"));
            }
            let bytes = u64::from_le_bytes(cursor.take()?);
            let hash: Hash = cursor.take()?;
            let count = u32::from_le_bytes(cursor.take()?) as usize;
            if count > cursor.left() / ENTRY {
                return Err(Error::index(format!(
                    "{kind} is to have {count} chunks, and the bytes end before"
                )));
            }
            let mut chunks = Vec::with_capacity(count);
            for number in 0..count {
                let hash: Hash = cursor.take()?;
                let raw = u32::from_le_bytes(cursor.take()?);
                let place = match u32::from_le_bytes(cursor.take()?) {
                    0 => *places.get(&hash).ok_or_else(|| {
                        let why = format!("chunk {number} of {kind} is to be stored before, and is not");
                        Error::index(why)
                    })?,
                    stored => {
                        let place = Place { offset: end, length: stored & !ZSTD, zstd: stored & ZSTD != 0 };
                        end = place.end();
                        places.insert(hash, place);
                        place
                    }
                };
                chunks.push(Chunk { hash, raw, place });
            }
            parts.push(Part { kind, bytes, hash, chunks });
        }
        if cursor.left() > 0 {
            return Err(Error::index("something stands after its last part"));
        }
        Self::new(parts)
    }

    /// As it is written.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(self.parts.len() as u16).to_le_bytes());
        let mut end = 0;
        for part in &self.parts {
            bytes.push(part.kind as u8);
            bytes.extend_from_slice(&part.bytes.to_le_bytes());
            bytes.extend_from_slice(&part.hash);
            bytes.extend_from_slice(&(part.chunks.len() as u32).to_le_bytes());
            for Chunk { hash, raw, place } in &part.chunks {
                // A chunk that is not where the archive ends was stored before.
                let stored = if place.offset < end {
                    0
                } else {
                    end = place.end();
                    place.length | if place.zstd { ZSTD } else { 0 }
                };
                bytes.extend_from_slice(hash);
                bytes.extend_from_slice(&raw.to_le_bytes());
                bytes.extend_from_slice(&stored.to_le_bytes());
            }
        }
        let seal = blake3::hash(&bytes);
        bytes.extend_from_slice(seal.as_bytes());
        bytes
    }

    /// Its parts, boot first.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The part of this kind.
    #[must_use]
    pub fn part(&self, kind: Kind) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    /// How many bytes the archive has.
    #[must_use]
    pub fn archive_bytes(&self) -> u64 {
        self.archive
    }
}
