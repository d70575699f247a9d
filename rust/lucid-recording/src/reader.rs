//! Reads a recording with the key of a recipient.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use lucid_statement::{Hash, PublicKey, json};

use crate::{
    chain::{Chain, Line, Lines, read_opening},
    chunk::{self, FRAME, Frames, HEADER, Header, MAX_CHUNK, MAX_PAYLOAD, Sealing, flag},
    error::{At, Error, Result},
    files,
    keys::Keys,
    merkle,
    secret::OwnerSecret,
    statement::{Chunk, Ended, Gap, MAX_MANIFEST, Manifest, Opening},
};

/// What signed statements say of a recording: the manifest, or the heads as long as there is none.
pub(crate) struct Contents {
    pub(crate) opening: Opening,
    pub(crate) manifest: bool,
    pub(crate) ended: Option<Ended>,
    /// The last one is open where there is no manifest: then it is what the last head confirms of it.
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) commitments: Vec<Hash>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) mono_us: u64,
    pub(crate) wall_ms: u64,
}

impl Contents {
    pub(crate) fn read(dir: &Path, device: Option<&PublicKey>) -> Result<Self> {
        let (opening, opening_hash) = read_opening(dir, device)?;
        match files::read(&dir.join(files::MANIFEST), MAX_MANIFEST) {
            Ok(bytes) => {
                let manifest =
                    json::read_signed::<Manifest>(files::MANIFEST, &bytes, Some(&opening.device))?.body;
                check_manifest(&manifest).map_err(|why| Error::malformed(files::MANIFEST, why))?;
                if manifest.session != opening.session || manifest.opening != opening_hash {
                    return Err(Error::malformed(files::MANIFEST, "it belongs to another opening"));
                }
                Ok(Self {
                    opening,
                    manifest: true,
                    ended: Some(manifest.ended),
                    chunks: manifest.chunks,
                    commitments: manifest.parts.iter().map(|part| part.key_commitment).collect(),
                    gaps: manifest.gaps,
                    mono_us: manifest.mono_us,
                    wall_ms: manifest.wall_ms,
                })
            }
            Err(error) if files::is_missing(&error) => Self::of_heads(dir, opening, opening_hash),
            Err(error) => Err(error),
        }
    }

    fn of_heads(dir: &Path, opening: Opening, opening_hash: Hash) -> Result<Self> {
        let mut chain = Chain::new(opening.session, opening_hash);
        let mut lines = Lines::open(dir)?;
        // A torn line is what a recorder that is writing, or has died, leaves at the end.
        while let Line::Whole = lines.next()? {
            chain.accept(&lines.line, Some(&opening.device))?;
        }
        let mut chunks = chain.chunks;
        if let Some(open) = chain.open {
            chunks.push(Chunk {
                acknowledged: open.length,
                first_us: open.first_us,
                hash: open.hash,
                index: open.index,
                key: begins_with_key(dir, open.index)?,
                last_us: open.last_us,
                part: chain.commitments.len().saturating_sub(1) as u32,
                size: open.length,
            });
        }
        Ok(Self {
            opening,
            manifest: false,
            ended: None,
            chunks,
            commitments: chain.commitments,
            gaps: chain.gaps,
            mono_us: chain.mono_us,
            wall_ms: chain.wall_ms,
        })
    }
}

/// What a recording says of itself, in signed statements. Its chunks are not looked at: that is what
/// [`crate::verify()`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What was said at the start.
    pub opening: Opening,
    /// How it ended; none as long as there is no manifest.
    pub ended: Option<Ended>,
    /// The chunks; the last one is open where there is no manifest.
    pub chunks: Vec<Chunk>,
    /// How many parts there are.
    pub parts: u32,
    /// From when something may be missing.
    pub gaps: Vec<Gap>,
    /// The end, or that of what is confirmed so far, in microseconds since the session's start.
    pub mono_us: u64,
    /// The same moment, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

impl Summary {
    /// Reads opening and manifest, or the heads as long as there is none. Statements are held to the given device's key,
    /// or else to the one in the opening.
    ///
    /// # Errors
    /// When one of these files is missing or damaged.
    pub fn read(dir: &Path, device: Option<&PublicKey>) -> Result<Self> {
        let Contents { opening, ended, chunks, commitments, gaps, mono_us, wall_ms, .. } =
            Contents::read(dir, device)?;
        // There are fewer than MAX_PARTS.
        Ok(Self { opening, ended, chunks, parts: commitments.len() as u32, gaps, mono_us, wall_ms })
    }
}

/// What a manifest has to keep to, beyond its form.
pub(crate) fn check_manifest(manifest: &Manifest) -> Result<(), String> {
    let want = |good: bool, why: &str| if good { Ok(()) } else { Err(why.to_owned()) };
    let parts = manifest.parts.iter().enumerate().all(|(place, part)| part.part as usize == place);
    want(parts && !manifest.parts.is_empty(), "its parts are not numbered in order")?;
    let chunks = manifest.chunks.iter().enumerate().all(|(place, chunk)| {
        chunk.index as usize == place
            && (chunk.part as usize) < manifest.parts.len()
            && chunk.size <= MAX_CHUNK
    });
    want(chunks, "its chunks are not numbered in order")?;
    let mut tree = merkle::Tree::default();
    manifest.chunks.iter().for_each(|chunk| tree.push(chunk.hash));
    want(tree.root() == manifest.root, "its root is not that of its chunks")
}

/// Whether the first record of a chunk says that playback can start there.
fn begins_with_key(dir: &Path, index: u32) -> Result<bool> {
    let path = dir.join(chunk::file_name(index));
    let mut bytes = [0; HEADER + FRAME];
    File::open(&path).and_then(|mut file| file.read_exact(&mut bytes)).at("reading", &path)?;
    Ok(bytes[HEADER + FRAME - 1] & flag::KEY != 0)
}

/// A record, opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the chunk.
    pub number: u64,
    /// Its stream, as in the opening.
    pub stream: u8,
    /// Whether playback can start here.
    pub key: bool,
    /// Its time, in microseconds since the session's start.
    pub mono_us: u64,
    /// What was recorded.
    pub payload: &'a [u8],
}

/// A recording that its owner reads. At most one chunk of it is in memory for each [`Records`].
pub struct Reader {
    dir: PathBuf,
    secret: OwnerSecret,
    keys: Keys,
    contents: Contents,
}

impl Reader {
    /// Opens a recording, finished or not: of one that is not, what its last head confirms. Statements are held to the
    /// given device's key, or else to the one in the opening, and chunks to the statements; whether the recording is
    /// all there, [`crate::verify()`] says.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the secret is no recipient's.
    pub fn open(dir: &Path, secret: &OwnerSecret, device: Option<&PublicKey>) -> Result<Self> {
        let contents = Contents::read(dir, device)?;
        let keys = Keys::read(dir)?;
        if keys.session != contents.opening.session {
            return Err(Error::malformed(files::KEYS, "it is of another session"));
        }
        // Says at once that the key is a stranger's.
        for (part, commitment) in contents.commitments.iter().enumerate().take(1) {
            keys.open(dir, secret, part as u32, commitment)?;
        }
        Ok(Self { dir: dir.to_owned(), secret: secret.clone(), keys, contents })
    }

    /// What was said at the start.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.contents.opening
    }

    /// Whether there is a manifest, so that nothing will be added.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.contents.manifest
    }

    /// The chunks.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.contents.chunks
    }

    /// The gaps.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.contents.gaps
    }

    /// The end, or that of what is confirmed so far, in microseconds since the session's start.
    #[must_use]
    pub fn mono_us(&self) -> u64 {
        self.contents.mono_us
    }

    /// The records of a chunk.
    ///
    /// # Errors
    /// When there is no such chunk, or it is not what the statements say.
    pub fn chunk(&self, index: u32) -> Result<Records> {
        let Some(&entry) = self.contents.chunks.get(index as usize) else {
            return Err(Error::Argument(format!(
                "there is no chunk {index}: the recording has {}",
                self.contents.chunks.len()
            )));
        };
        let name = chunk::file_name(index);
        let mut bytes = files::read(&self.dir.join(&name), MAX_CHUNK)?;
        if let (false, Ok(size)) = (self.contents.manifest, usize::try_from(entry.size)) {
            // A chunk that is open may have grown.
            bytes.truncate(size);
        }
        if bytes.len() as u64 != entry.size || merkle::leaf(&bytes) != entry.hash {
            return Err(Error::malformed(name, "it is not what was recorded"));
        }
        if bytes.is_empty() {
            return Err(Error::malformed(name, "all of it was lost when its recorder died"));
        }
        let header = Header::read(&name, &bytes)?;
        let commitment = self.contents.commitments.get(entry.part as usize).copied();
        let fits = header.session == self.contents.opening.session
            && header.index == index
            && header.part == entry.part
            && Some(header.key_commitment) == commitment;
        if !fits {
            return Err(Error::malformed(name, "its header belongs elsewhere"));
        }
        let key = self.keys.open(&self.dir, &self.secret, entry.part, &header.key_commitment)?;
        Ok(Records {
            opener: Opener::new(Sealing::new(&key, &header)?, &entry)?,
            frames: Frames::new(),
            bytes,
            entry,
            name,
        })
    }

    /// The records from the last one at or before a time at which playback can start; at the beginning, where there is
    /// none. Only the chunk that holds it is read, and another one only where a recorder died over that.
    ///
    /// # Errors
    /// When there is no chunk, or one is not what the statements say.
    pub fn seek(&self, mono_us: u64) -> Result<Records> {
        for entry in self.contents.chunks.iter().rev().filter(|entry| entry.key && entry.first_us <= mono_us)
        {
            let mut records = self.chunk(entry.index)?;
            let mut found = None;
            loop {
                let here = records.frames.clone();
                match records.next()? {
                    Some(record) if record.mono_us > mono_us => break,
                    Some(record) if record.key => found = Some(here),
                    Some(_) => {}
                    None => break,
                }
            }
            if let Some(found) = found {
                // What was opened is opened no second time.
                let mut records = self.chunk(entry.index)?;
                records.frames = found;
                return Ok(records);
            }
        }
        self.chunk(0)
    }
}

/// Opens records in their order and holds them to the chunk's entry.
pub(crate) struct Opener {
    sealing: Sealing,
    acknowledged: u64,
    last_us: u64,
    unpacked: Vec<u8>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

/// A record that does not open, in what no head confirmed: the power went while it was written.
pub(crate) struct Torn;

impl Opener {
    pub(crate) fn new(sealing: Sealing, entry: &Chunk) -> Result<Self> {
        let decompressor = zstd::bulk::Decompressor::new().map_err(|source| Error::Io {
            doing: "unpacking",
            path: chunk::file_name(entry.index).into(),
            source,
        })?;
        Ok(Self {
            sealing,
            acknowledged: entry.acknowledged,
            last_us: entry.first_us,
            unpacked: Vec::new(),
            decompressor,
        })
    }

    /// Opens the record where it stands.
    pub(crate) fn open<'a>(
        &'a mut self,
        name: &str,
        frame: &chunk::Frame,
        bytes: &'a mut [u8],
    ) -> Result<Result<Record<'a>, Torn>> {
        let Some((mono_us, payload)) = self.sealing.open(frame, &mut bytes[frame.sealed.clone()]) else {
            if frame.sealed.end as u64 > self.acknowledged {
                return Ok(Err(Torn));
            }
            return Err(Error::Sealed { chunk: name.to_owned(), record: frame.number });
        };
        let what = || format!("record {} of {name}", frame.number);
        if mono_us < self.last_us {
            return Err(Error::malformed(what(), "its time is before that of the record before it"));
        }
        self.last_us = mono_us;
        let payload = if frame.flags & flag::ZSTD == 0 {
            payload
        } else {
            // Only what is filled costs memory.
            self.unpacked.clear();
            self.unpacked.reserve_exact(MAX_PAYLOAD);
            self.decompressor
                .decompress_to_buffer(payload, &mut self.unpacked)
                .map_err(|error| Error::malformed(what(), format!("it does not unpack: {error}")))?;
            &mut self.unpacked
        };
        Ok(Ok(Record {
            number: frame.number,
            stream: frame.stream,
            key: frame.flags & flag::KEY != 0,
            mono_us,
            payload,
        }))
    }
}

/// The records of one chunk, one after the other.
pub struct Records {
    name: String,
    entry: Chunk,
    bytes: Vec<u8>,
    frames: Frames,
    opener: Opener,
}

impl Records {
    /// The chunk.
    #[must_use]
    pub fn entry(&self) -> &Chunk {
        &self.entry
    }

    /// The next record; none at the chunk's end, and where the power went while it was written.
    ///
    /// # Errors
    /// When a record does not open or is in no order.
    #[expect(
        clippy::should_implement_trait,
        reason = "a record borrows the chunk, which no iterator's item can"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        let frame = match self.frames.next(&self.bytes) {
            Ok(Some(frame)) if frame.stream != chunk::CLOSES => frame,
            // The bytes are those that were signed: what is no record there is what recovery could not judge.
            Ok(_) => return Ok(None),
            Err(_) if self.frames.offset() as u64 >= self.entry.acknowledged => return Ok(None),
            Err(torn) => return Err(Error::malformed(self.name.as_str(), torn.text())),
        };
        Ok(self.opener.open(&self.name, &frame, &mut self.bytes)?.ok())
    }
}
