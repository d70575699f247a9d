//! Writes a recording while the session runs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, fadvise};

use lucid_statement::{
    Hash, Random, SessionId, SigningKey, Time,
    json::{self, VERSION},
};

use crate::{
    chain::{Chain, check_opening},
    chunk::{self, CLOSES, CLOSING, Header, MAX_PAYLOAD, MAX_STREAM, Sealing, flag},
    error::{At, Error, Result},
    files,
    keys::{Keys, Recipient, check_recipients},
    merkle,
    secret::SessionKey,
    statement::{
        Audit, Chunk, Compression, Ended, Gap, Head, Heads, Kind, MAX_CHUNKS, MAX_FINISHED, MAX_GAPS,
        MAX_TEXT, Manifest, Open, Opening, Part, PartEnded, Participant, Stream,
    },
};

/// How hard zstd tries: 3 makes audit events 8 times smaller at 580 MB/s, and 9 hardly smaller at a tenth of that.
const ZSTD_LEVEL: i32 = 3;
/// So many sealed bytes go to the file, and to the hash, at a time.
const BUFFER: usize = 256 << 10;
/// Whenever there are so many more, the disk is given them ahead of the sync, which then waits for less.
const AHEAD: u64 = 2 << 20;

/// How large chunks get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From this many bytes on, the next key record begins a new chunk.
    pub soft: u64,
    /// No chunk gets larger than this, unless by a single record.
    pub hard: u64,
}

impl Default for Limits {
    /// 8 and 16 MiB.
    fn default() -> Self {
        Self { soft: 8 << 20, hard: 16 << 20 }
    }
}

impl Limits {
    fn check(self) -> Result<Self> {
        if self.soft > self.hard || self.hard > Self::default().hard {
            return Err(Error::Argument("chunks are at most 16 MiB, and asked to be more".to_owned()));
        }
        Ok(self)
    }
}

/// What is known at the start: all of [`Opening`] that the caller chooses.
#[derive(Clone, Debug)]
pub struct Start {
    /// The session.
    pub session: SessionId,
    /// Who takes part.
    pub participants: Vec<Participant>,
    /// Hash of the policy.
    pub policy: Hash,
    /// The consent receipt, as it is to lie beside the recording; the opening names its hash.
    pub consent: Option<Vec<u8>>,
    /// The policy snapshot, as it is to lie there. It says by itself of which session it is, and the device signs it.
    pub snapshot: Option<Vec<u8>>,
    /// What the video stream holds.
    pub codec: String,
    /// The streams, by rising number.
    pub streams: Vec<Stream>,
    /// Name and version of the recorder.
    pub recorder: String,
}

/// The signed side of a recording that grows: the log of heads, and what it says.
pub(crate) struct Ledger {
    pub(crate) dir: PathBuf,
    pub(crate) device: SigningKey,
    pub(crate) recorder: String,
    pub(crate) chain: Chain,
    /// Locked as long as it is open.
    pub(crate) log: File,
}

/// What the caller of [`Ledger::head`] knows.
pub(crate) struct News {
    pub(crate) part: u32,
    pub(crate) key_commitment: Hash,
    pub(crate) finished: Vec<Chunk>,
    pub(crate) open: Option<Open>,
    pub(crate) gap: Option<Gap>,
    pub(crate) audit: Option<Hash>,
    pub(crate) time: Time,
}

impl Ledger {
    /// Signs a head and makes it durable.
    pub(crate) fn head(&mut self, news: News) -> Result<()> {
        let mut tree = self.chain.tree.clone();
        for chunk in &news.finished {
            tree.push(chunk.hash);
        }
        let closed = self.chain.chunks.len() + news.finished.len();
        let head = Head {
            audit: news.audit,
            closed: u32::try_from(closed).map_err(|_| Error::Argument("too many chunks".to_owned()))?,
            finished: news.finished,
            gap: news.gap,
            key_commitment: news.key_commitment,
            kind: Kind::Head,
            mono_us: news.time.mono_us,
            open: news.open,
            part: news.part,
            previous: self.chain.last,
            root: tree.root(),
            seq: self.chain.count,
            session: self.chain.session,
            version: VERSION,
            wall_ms: news.time.wall_ms,
        };
        let what = self.chain.line_name();
        let mut line = json::sign(&what, &head, &self.device)?;
        self.chain.apply(&head, &line).map_err(|why| Error::malformed(what, why))?;
        line.push(b'\n');
        let path = self.dir.join(files::HEADS);
        self.log.write_all(&line).and_then(|()| self.log.sync_data()).at("writing", &path)
    }

    /// Signs the manifest and makes it durable.
    pub(crate) fn manifest(self, ended: Ended, audit: Option<Audit>) -> Result<Manifest> {
        let last = self.chain.commitments.len().saturating_sub(1);
        let parts = self.chain.commitments.iter().enumerate().map(|(part, key_commitment)| Part {
            ended: if part == last && ended == Ended::Finished { PartEnded::Closed } else { PartEnded::Lost },
            key_commitment: *key_commitment,
            // There are far fewer.
            part: part as u32,
        });
        let manifest = Manifest {
            audit,
            ended,
            heads: Heads { count: self.chain.count, last: self.chain.last },
            kind: Kind::Manifest,
            mono_us: self.chain.mono_us,
            opening: self.chain.opening,
            parts: parts.collect(),
            recorder: self.recorder,
            root: self.chain.tree.root(),
            session: self.chain.session,
            version: VERSION,
            wall_ms: self.chain.wall_ms,
            chunks: self.chain.chunks,
            gaps: self.chain.gaps,
        };
        files::replace(&self.dir, files::MANIFEST, &json::sign(files::MANIFEST, &manifest, &self.device)?)?;
        Ok(manifest)
    }
}

/// Locks the log, so that nobody else writes the same recording.
pub(crate) fn lock(dir: &Path, log: &File) -> Result<()> {
    match log.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Busy(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(error).at("locking", &dir.join(files::HEADS)),
    }
}

/// The chunk that is being written.
struct Growing {
    file: File,
    path: PathBuf,
    index: u32,
    sealing: Sealing,
    /// Sealed, and not yet written.
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    written: u64,
    /// So much of it is on its way to the disk.
    begun: u64,
    records: u64,
    key: bool,
    first_us: u64,
    last_us: u64,
}

impl Growing {
    fn size(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn seal(&mut self, stream: u8, flags: u8, mono_us: u64, payload: &[u8]) -> Result<()> {
        self.sealing.seal(self.records, stream, flags, mono_us, payload, &mut self.buffer)?;
        if self.records == 0 {
            self.first_us = mono_us;
            self.key = flags & flag::KEY != 0;
        }
        self.records += 1;
        self.last_us = mono_us;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer).at("writing", &self.path)?;
        self.hasher.update(&self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        let Some(more) = NonZeroU64::new(self.written - self.begun).filter(|more| more.get() >= AHEAD) else {
            return Ok(());
        };
        // posix_fadvise(2): Linux begins to write what is dirty there.
        fadvise(&self.file, self.begun, Some(more), Advice::DontNeed)
            .map_err(io::Error::from)
            .at("writing", &self.path)?;
        self.begun = self.written;
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().at("writing", &self.path)
    }
}

/// Writes one part of a recording.
///
/// Batches of the streams that are gathered (audit, pointer, sound) have to be appended before the key record that
/// begins the next chunk, so that a chunk holds all of its time.
///
/// A writer whose disk failed refuses everything from then on: what reached the disk is known to nobody but
/// [`crate::Recovery`]. Dropping a writer leaves what a power cut leaves.
pub struct Writer {
    ledger: Ledger,
    limits: Limits,
    random: Random,
    streams: Vec<Stream>,
    part: u32,
    key: SessionKey,
    commitment: Hash,
    open: Option<Growing>,
    /// Since the last head.
    finished: Vec<Chunk>,
    gap: Option<Gap>,
    audit: Option<Hash>,
    /// Whether a record came since the last head.
    news: bool,
    /// Of the last record or head.
    mono_us: u64,
    compressor: zstd::bulk::Compressor<'static>,
    broken: bool,
}

impl Writer {
    /// Begins a recording in a new directory below `parent`, named by the session. When this returns, its opening, its
    /// wrapped keys and its first head are on the disk.
    ///
    /// # Errors
    /// When the session was recorded before, an argument is out of bounds, or the disk fails.
    pub fn create(
        parent: &Path,
        start: Start,
        time: Time,
        recipients: &[Recipient],
        device: SigningKey,
        limits: Limits,
        mut random: Random,
    ) -> Result<Self> {
        let limits = limits.check()?;
        check_recipients(recipients)?;
        let opening = Opening {
            codec: start.codec,
            consent: start.consent.as_ref().map(|receipt| blake3::hash(receipt).into()),
            device: device.public(),
            kind: Kind::Opening,
            participants: start.participants,
            policy: start.policy,
            recorder: start.recorder,
            session: start.session,
            streams: start.streams,
            version: VERSION,
            wall_ms: time.wall_ms,
        };
        check_opening(&opening).map_err(|why| Error::Argument(format!("the opening: {why}")))?;
        let statement = json::sign(files::OPENING, &opening, &device)?;
        let key = SessionKey::generate(&mut random);
        let mut keys = Keys::new(opening.session);
        keys.add(0, &key, recipients, &mut random)?;

        let dir = parent.join(opening.session.to_string());
        fs::create_dir(&dir).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(dir.clone()),
            _ => Error::Io { doing: "making", path: dir.clone(), source },
        })?;
        keys.write(&dir)?;
        for (name, beside) in [(files::CONSENT, &start.consent), (files::SNAPSHOT, &start.snapshot)] {
            if let Some(bytes) = beside {
                files::replace(&dir, name, bytes)?;
            }
        }
        files::replace(&dir, files::OPENING, &statement)?;
        let path = dir.join(files::HEADS);
        let log = OpenOptions::new().append(true).create_new(true).open(&path).at("making", &path)?;
        lock(&dir, &log)?;
        files::sync_dir(&dir)?;
        files::sync_dir(parent)?;
        let ledger = Ledger {
            dir,
            device,
            recorder: opening.recorder,
            chain: Chain::new(opening.session, blake3::hash(&statement).into()),
            log,
        };
        Self::begin(ledger, opening.streams, 0, key, Vec::new(), None, time, limits, random)
    }

    /// Begins a part with its first head.
    #[expect(
        clippy::too_many_arguments,
        reason = "the two beginnings of a writer share this, and nobody else"
    )]
    pub(crate) fn begin(
        mut ledger: Ledger,
        streams: Vec<Stream>,
        part: u32,
        key: SessionKey,
        finished: Vec<Chunk>,
        gap: Option<Gap>,
        time: Time,
        limits: Limits,
        random: Random,
    ) -> Result<Self> {
        let limits = limits.check()?;
        let commitment = key.commitment();
        let audit = ledger.chain.audit;
        ledger.head(News { part, key_commitment: commitment, finished, open: None, gap, audit, time })?;
        let compressor =
            zstd::bulk::Compressor::new(ZSTD_LEVEL).at("setting up the compression for", &ledger.dir)?;
        Ok(Self {
            mono_us: time.mono_us,
            ledger,
            limits,
            random,
            streams,
            part,
            key,
            commitment,
            open: None,
            finished: Vec::new(),
            gap: None,
            audit,
            news: false,
            compressor,
            broken: false,
        })
    }

    /// The recording's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.ledger.dir
    }

    /// Which part this writer writes.
    #[must_use]
    pub fn part(&self) -> u32 {
        self.part
    }

    /// Whether the chunk is large enough, so that the next key record begins a new one: ask the encoder for one.
    #[must_use]
    pub fn wants_key(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.size() >= self.limits.soft)
    }

    /// Seals a record. It is on the disk after the next [`Self::commit`]. `key` says that playback can start at it.
    ///
    /// # Errors
    /// When the time goes back, the stream is not the opening's, the payload is larger than [`MAX_PAYLOAD`], or the
    /// disk fails.
    pub fn append(&mut self, stream: u8, time: Time, key: bool, payload: &[u8]) -> Result<()> {
        self.usable(time)?;
        let Some(compression) =
            self.streams.iter().find(|known| known.id == stream).map(|stream| stream.compression)
        else {
            return Err(Error::Argument(format!(
                "the opening names no stream {stream} (of 1 to {MAX_STREAM})"
            )));
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::Argument(format!(
                "a record holds {MAX_PAYLOAD} bytes at most, not {}; divide it",
                payload.len()
            )));
        }
        let packed = match compression {
            Compression::None => None,
            Compression::Zstd => {
                let packed = self.compressor.compress(payload).at("compressing for", &self.ledger.dir)?;
                Some(packed).filter(|packed| packed.len() < payload.len())
            }
        };
        let mut flags = if key { flag::KEY } else { 0 };
        if packed.is_some() {
            flags |= flag::ZSTD;
        }
        let payload = packed.as_deref().unwrap_or(payload);
        // A record is its payload and what a closing one has as well.
        let takes = (payload.len() + CLOSING) as u64;
        let cut = self.open.as_ref().is_some_and(|open| {
            key && open.size() >= self.limits.soft || open.size() + takes + CLOSING as u64 > self.limits.hard
        });
        let chunks = self.ledger.chain.chunks.len() + self.finished.len() + usize::from(cut);
        if chunks >= MAX_CHUNKS && (cut || self.open.is_none()) {
            return Err(Error::Argument(format!(
                "a recording has {MAX_CHUNKS} chunks at most: finish it, and begin another"
            )));
        }
        self.broken = true;
        if cut {
            self.close(flag::LAST, time)?;
        }
        let random = &mut self.random;
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                none.insert(Self::chunk(&self.ledger, &self.key, self.part, self.finished.len(), random)?)
            }
        };
        open.seal(stream, flags, time.mono_us, payload)?;
        self.mono_us = time.mono_us;
        self.news = true;
        self.broken = false;
        Ok(())
    }

    /// Says that something may be missing from `from_us` until now; the next head has it.
    ///
    /// # Errors
    /// When the times are in no order, or one gap waits already, or there were too many.
    pub fn gap(&mut self, from_us: u64, time: Time, reason: &str) -> Result<()> {
        self.usable(time)?;
        if from_us > time.mono_us || self.gap.is_some() || self.ledger.chain.gaps.len() >= MAX_GAPS {
            return Err(Error::Argument(format!(
                "a gap from {from_us} to {} us cannot be noted: it is of no time, or one waits for its commit, or \
                 there are {MAX_GAPS} already",
                time.mono_us
            )));
        }
        self.gap = Some(Gap { from_us, reason: shortened(reason), to_us: time.mono_us });
        self.mono_us = time.mono_us;
        Ok(())
    }

    /// Makes everything so far durable and signs a head over it, about once a second: what was appended before is then
    /// acknowledged. Says whether there was anything new; without, nothing is done.
    ///
    /// # Errors
    /// When the time goes back or the disk fails.
    pub fn commit(&mut self, time: Time, audit: Option<Hash>) -> Result<bool> {
        self.usable(time)?;
        let audit = audit.or(self.audit);
        if !self.news && self.finished.is_empty() && self.gap.is_none() && audit == self.audit {
            return Ok(false);
        }
        self.audit = audit;
        self.broken = true;
        self.head(time)?;
        self.broken = false;
        Ok(true)
    }

    /// Ends the recording: closes the last chunk, signs a head and the manifest. After an error, [`crate::Recovery`]
    /// ends it.
    ///
    /// # Errors
    /// When the time goes back or the disk fails.
    pub fn finish(mut self, time: Time, audit: Option<Audit>) -> Result<Manifest> {
        self.usable(time)?;
        if let Some(audit) = audit {
            self.audit = Some(audit.hash);
        }
        if self.open.is_none() {
            let pending = self.finished.len();
            self.open = Some(Self::chunk(&self.ledger, &self.key, self.part, pending, &mut self.random)?);
        }
        self.close(flag::LAST | flag::END, time)?;
        self.head(time)?;
        self.ledger.manifest(Ended::Finished, audit)
    }

    fn usable(&self, time: Time) -> Result<()> {
        if self.broken {
            return Err(Error::Broken(self.ledger.dir.clone()));
        }
        if time.mono_us < self.mono_us {
            return Err(Error::Argument(format!(
                "the time goes back from {} to {} us, which a session's clock never does",
                self.mono_us, time.mono_us
            )));
        }
        Ok(())
    }

    /// Begins the next chunk's file.
    fn chunk(
        ledger: &Ledger,
        key: &SessionKey,
        part: u32,
        pending: usize,
        random: &mut Random,
    ) -> Result<Growing> {
        // Fewer than MAX_CHUNKS, which `append` sees to.
        let index = (ledger.chain.chunks.len() + pending) as u32;
        let mut salt = [0; 16];
        random.fill_bytes(&mut salt);
        let header =
            Header { session: ledger.chain.session, part, index, salt, key_commitment: key.commitment() };
        let path = ledger.dir.join(chunk::file_name(index));
        let file = OpenOptions::new().append(true).create_new(true).open(&path).at("making", &path)?;
        // Its name has to be durable before a head speaks of it.
        files::sync_dir(&ledger.dir)?;
        let mut buffer = Vec::with_capacity(BUFFER + (BUFFER >> 2));
        buffer.extend_from_slice(&header.to_bytes());
        Ok(Growing {
            file,
            path,
            index,
            sealing: Sealing::new(key, &header)?,
            buffer,
            hasher: merkle::leaf_hasher(),
            written: 0,
            begun: 0,
            records: 0,
            key: false,
            first_us: 0,
            last_us: 0,
        })
    }

    /// Closes the open chunk, if there is one, and makes it durable.
    fn close(&mut self, flags: u8, time: Time) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let at = if flags & flag::END == 0 { open.last_us } else { time.mono_us };
        open.seal(CLOSES, flags, at, &[])?;
        open.sync()?;
        self.finished.push(Chunk {
            acknowledged: open.written,
            first_us: open.first_us,
            hash: open.hasher.finalize().into(),
            index: open.index,
            key: open.key,
            last_us: open.last_us,
            part: self.part,
            size: open.written,
        });
        if self.finished.len() == MAX_FINISHED { self.head(time) } else { Ok(()) }
    }

    /// Makes the open chunk durable, and then a head over everything.
    fn head(&mut self, time: Time) -> Result<()> {
        let open = match &mut self.open {
            None => None,
            Some(open) => {
                open.sync()?;
                Some(Open {
                    first_us: open.first_us,
                    hash: open.hasher.finalize().into(),
                    index: open.index,
                    last_us: open.last_us,
                    length: open.written,
                })
            }
        };
        self.ledger.head(News {
            part: self.part,
            key_commitment: self.commitment,
            finished: std::mem::take(&mut self.finished),
            open,
            gap: self.gap.take(),
            audit: self.audit,
            time,
        })?;
        self.mono_us = time.mono_us;
        self.news = false;
        Ok(())
    }
}

/// A reason as long as one may be.
pub(crate) fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(MAX_TEXT);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}
