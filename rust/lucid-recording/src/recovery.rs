//! After a crash or a power cut: what is there is made whole, and the recording goes on or ends.
//!
//! Only what no head confirmed is ever removed: bytes after the last line feed of `heads.jsonl`, and what is no whole
//! record at the end of the last chunks. Records beyond the last head are kept. Everything that recovery changes on the
//! disk it changes in an order in which it can be killed at any moment and begin again.
//!
//! Recovery has no key to what was recorded, so a chunk whose recorder died has no closing record, and its records
//! after [`Chunk::acknowledged`](crate::statement::Chunk::acknowledged) may be torn in a way that only the owner sees:
//! his reader leaves those out.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
};

use lucid_statement::{Hash, Random, SigningKey, Time, json};

use crate::{
    chain::{Chain, Line, Lines, read_opening},
    chunk::{self, Frames, HEADER, Header, MAX_CHUNK, flag},
    error::{At, Error, Result},
    files,
    keys::{Keys, Recipient, check_recipients},
    merkle,
    secret::SessionKey,
    statement::{Chunk, Ended, Gap, MAX_GAPS, MAX_HEAD, MAX_MANIFEST, MAX_PARTS, Manifest, Stream},
    writer::{Ledger, Limits, News, Writer, lock, shortened},
};

/// The bytes of the tag at a record's end.
const TAG: usize = 16;

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes after the last head's line feed, which were removed.
    pub torn_line: u64,
    /// Bytes after the last whole record, which were removed.
    pub torn_records: u64,
    /// Bytes of whole records that no head had confirmed, which were kept.
    pub unconfirmed: u64,
    /// Bytes that a head had confirmed, and that are gone. Their disk does not keep what it says it keeps.
    pub lost: u64,
    /// Whether what a head had confirmed is changed; `verify` names the chunk.
    pub changed: bool,
    /// Files that are no chunks of this recording though they are named so, which were renamed to `foreign-…`.
    pub foreign: u32,
}

/// A recording whose recorder died, made whole.
pub struct Recovery {
    ledger: Ledger,
    streams: Vec<Stream>,
    /// Chunks that no head finished yet.
    finished: Vec<Chunk>,
    found: Found,
    /// Whether a closing record says that the recording ends.
    ended: bool,
    /// Whether a head says so as well.
    complete: bool,
}

impl Recovery {
    /// Looks at a recording that has no manifest, and makes its files whole. `recorder` is name and version of the
    /// program that does it.
    ///
    /// # Errors
    /// When it has a manifest, is being written, never began, is not this device's, or its heads are damaged in a way
    /// that no power cut leaves.
    pub fn open(dir: &Path, device: SigningKey, recorder: &str) -> Result<Self> {
        let public = device.public();
        let (opening, opening_hash) =
            read_opening(dir, Some(&public)).map_err(|error| never_began(dir, error))?;
        let path = dir.join(files::HEADS);
        let log = OpenOptions::new()
            .append(true)
            .open(&path)
            .at("opening", &path)
            .map_err(|e| never_began(dir, e))?;
        lock(dir, &log)?;
        match files::read(&dir.join(files::MANIFEST), MAX_MANIFEST) {
            Err(error) if files::is_missing(&error) => {}
            Err(error) => return Err(error),
            Ok(bytes) => {
                json::read_signed::<Manifest>(files::MANIFEST, &bytes, Some(&public))?;
                return Err(Error::Finished(dir.to_owned()));
            }
        }
        let mut found = Found::default();
        let mut chain = Chain::new(opening.session, opening_hash);
        mend_log(dir, &log, &mut chain, &device, &mut found)?;
        let mut recovery = Self {
            ledger: Ledger { dir: dir.to_owned(), device, recorder: shortened(recorder), chain, log },
            streams: opening.streams,
            finished: Vec::new(),
            found,
            ended: false,
            complete: false,
        };
        recovery.mend_chunks()?;
        recovery.look_for_end()?;
        Ok(recovery)
    }

    /// What was found.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// The time of the last head, in microseconds since the session's start: what goes on, goes on from there or later.
    #[must_use]
    pub fn mono_us(&self) -> u64 {
        self.ledger.chain.mono_us
    }

    /// Whether its recorder had come to the end, so that it can be finished and not continued.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Goes on with a new part and a new key, after a gap up to now.
    ///
    /// # Errors
    /// When the recording had ended, there are too many parts, `keys.json` is damaged, or the disk fails.
    pub fn resume(
        self,
        recipients: &[Recipient],
        time: Time,
        reason: &str,
        limits: Limits,
        mut random: Random,
    ) -> Result<Writer> {
        check_recipients(recipients)?;
        if self.ended {
            return Err(Error::Argument("this recording had come to its end: finish it".to_owned()));
        }
        let part = self.ledger.chain.commitments.len();
        if part >= MAX_PARTS {
            return Err(Error::Argument(format!(
                "the recorder started {MAX_PARTS} times already: finish it"
            )));
        }
        let (part, time) = (part as u32, self.time(time));
        let gap = self.gap(time, reason)?;
        let key = SessionKey::generate(&mut random);
        let mut keys = Keys::read(&self.ledger.dir)?;
        keys.add(part, &key, recipients, &mut random)?;
        // Before the head, so that nothing is ever sealed with a key that nobody has.
        keys.write(&self.ledger.dir)?;
        Writer::begin(self.ledger, self.streams, part, key, self.finished, Some(gap), time, limits, random)
    }

    /// Ends the recording, with a gap up to now; one that had come to its end has none.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(mut self, time: Time, reason: &str) -> Result<Manifest> {
        if self.complete {
            return self.ledger.manifest(Ended::Finished, None);
        }
        let time = self.time(time);
        let gap = Some(self.gap(time, reason)?);
        let chain = &self.ledger.chain;
        let (part, key_commitment) = last_part(chain)?;
        let audit = chain.audit;
        self.ledger.head(News {
            part,
            key_commitment,
            finished: self.finished,
            open: None,
            gap,
            audit,
            time,
        })?;
        self.ledger.manifest(Ended::Recovered, None)
    }

    fn time(&self, time: Time) -> Time {
        Time { mono_us: time.mono_us.max(self.mono_us()), ..time }
    }

    fn gap(&self, time: Time, reason: &str) -> Result<Gap> {
        if self.ledger.chain.gaps.len() >= MAX_GAPS {
            return Err(Error::Argument(format!("the recording has {MAX_GAPS} gaps already")));
        }
        Ok(Gap { from_us: self.mono_us(), reason: shortened(reason), to_us: time.mono_us })
    }

    /// Takes the chunks after the finished ones as far as they are whole.
    fn mend_chunks(&mut self) -> Result<()> {
        let (part, key_commitment) = last_part(&self.ledger.chain)?;
        let dir = self.ledger.dir.clone();
        loop {
            let index = (self.ledger.chain.chunks.len() + self.finished.len()) as u32;
            let path = dir.join(chunk::file_name(index));
            let open = self.ledger.chain.open.filter(|open| open.index == index);
            let confirmed = open.map_or(0, |open| open.length);
            let bytes = match files::read(&path, MAX_CHUNK) {
                Ok(bytes) => bytes,
                Err(error) if files::is_missing(&error) && confirmed == 0 => return Ok(()),
                Err(error) if files::is_missing(&error) => {
                    // Its place in the recording stays its own.
                    File::create_new(&path).and_then(|file| file.sync_all()).at("making", &path)?;
                    files::sync_dir(&dir)?;
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            let header = Header::read(&chunk::file_name(index), &bytes);
            let ours = header.as_ref().is_ok_and(|header| {
                header.session == self.ledger.chain.session
                    && header.index == index
                    && header.part == part
                    && header.key_commitment == key_commitment
            });
            if !ours && confirmed == 0 {
                return self.discard(&path, &bytes);
            }
            let known = bytes.get(..usize::try_from(confirmed).unwrap_or(usize::MAX));
            let changed =
                known.is_some_and(|known| open.is_some_and(|open| merkle::leaf(known) != open.hash));
            let mut frames = Frames::new();
            let mut key = false;
            let size = if !ours || changed {
                // Nobody but its owner can judge it: it stays as it is.
                bytes.len()
            } else {
                whole(&bytes, confirmed, &mut frames, &mut key)
            };
            if size <= HEADER && confirmed == 0 {
                return self.discard(&path, &[]);
            }
            self.found.torn_records += (bytes.len() - size) as u64;
            self.found.unconfirmed += (size as u64).saturating_sub(confirmed);
            self.found.lost += confirmed.saturating_sub(size as u64);
            self.found.changed |= changed || !ours && !bytes.is_empty();
            let file = OpenOptions::new().write(true).open(&path).at("opening", &path)?;
            if size < bytes.len() {
                file.set_len(size as u64).at("shortening", &path)?;
            }
            // Also where nothing is cut off: what was read may be in memory alone.
            file.sync_all().at("writing", &path)?;
            let mono_us = self.ledger.chain.mono_us;
            self.finished.push(Chunk {
                acknowledged: confirmed,
                first_us: open.map_or(mono_us, |open| open.first_us),
                hash: merkle::leaf(&bytes[..size]),
                index,
                key,
                last_us: open.map_or(mono_us, |open| open.last_us),
                part,
                size: size as u64,
            });
            self.ended = frames.ends();
            if !frames.closed() {
                let next = dir.join(chunk::file_name(index + 1));
                if fs::exists(&next).at("looking for", &next)? {
                    self.set_aside(&next)?;
                }
                return Ok(());
            }
        }
    }

    /// Removes a chunk that never got a record, and sets aside one that is another's.
    fn discard(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        if bytes.len() >= HEADER && bytes.iter().any(|byte| *byte != 0) {
            return self.set_aside(path);
        }
        self.found.torn_records += bytes.len() as u64;
        fs::remove_file(path).at("removing", path)?;
        files::sync_dir(&self.ledger.dir)
    }

    fn set_aside(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let aside = (0..=u32::MAX)
            .map(|number| self.ledger.dir.join(format!("foreign-{number}-{name}")))
            .find(|aside| !aside.exists());
        let Some(aside) = aside else { return Ok(()) };
        fs::rename(path, &aside).at("renaming", path)?;
        self.found.foreign += 1;
        files::sync_dir(&self.ledger.dir)
    }

    /// Whether the last finished chunk says that the recording ends.
    fn look_for_end(&mut self) -> Result<()> {
        let chain = &self.ledger.chain;
        let Some(last) = chain.chunks.last().filter(|_| self.finished.is_empty() && chain.open.is_none())
        else {
            return Ok(());
        };
        let bytes = files::read(&self.ledger.dir.join(chunk::file_name(last.index)), MAX_CHUNK)?;
        if merkle::leaf(&bytes) != last.hash {
            self.found.changed = true;
            return Ok(());
        }
        let mut frames = Frames::new();
        while let Ok(Some(_)) = frames.next(&bytes) {}
        self.ended = frames.ends();
        // A recovery that was killed before its manifest had confirmed less of it than there is.
        self.complete = self.ended && last.acknowledged == last.size;
        Ok(())
    }
}

/// How many bytes of a chunk are whole records, and whether the first is a key.
fn whole(bytes: &[u8], confirmed: u64, frames: &mut Frames, key: &mut bool) -> usize {
    loop {
        let at = frames.clone();
        let Ok(Some(frame)) = frames.next(bytes) else {
            return frames.offset().min(bytes.len());
        };
        // A file system may have grown the file before it wrote the bytes. No tag is zero.
        let zero = bytes[frame.sealed.clone()].iter().rev().take(TAG).all(|byte| *byte == 0);
        if zero && frame.sealed.end as u64 > confirmed {
            *frames = at;
            return frames.offset();
        }
        if frame.number == 0 {
            *key = frame.flags & flag::KEY != 0;
        }
    }
}

fn last_part(chain: &Chain) -> Result<(u32, Hash)> {
    let part = chain.commitments.len().checked_sub(1);
    let known = part.and_then(|part| Some((u32::try_from(part).ok()?, *chain.commitments.get(part)?)));
    known.ok_or_else(|| Error::malformed(files::HEADS, "it names no part"))
}

fn never_began(dir: &Path, error: Error) -> Error {
    if !files::is_missing(&error) {
        return error;
    }
    Error::NotARecording { dir: dir.to_owned(), why: "it ended before its first head was written".to_owned() }
}

/// Reads the heads, and removes what a write that was cut off left after the last one.
fn mend_log(dir: &Path, log: &File, chain: &mut Chain, device: &SigningKey, found: &mut Found) -> Result<()> {
    let path = dir.join(files::HEADS);
    let public = device.public();
    let mut lines = Lines::open(dir)?;
    let mut good = 0;
    let failed = loop {
        match lines.next()? {
            Line::End => break None,
            Line::Torn => break Some(None),
            Line::Whole => match chain.accept(&lines.line, Some(&public)) {
                Ok(_) => good += lines.line.len() as u64 + 1,
                Err(error) => break Some(Some(error)),
            },
        }
    };
    if let Some(error) = failed {
        // One write was under way, of one line; what of it was not written is cut off or zero.
        let torn = match &error {
            None => lines.line.len() as u64 <= MAX_HEAD,
            Some(_) => lines.line.contains(&0) && matches!(lines.next()?, Line::End),
        };
        if !torn {
            return Err(
                error.unwrap_or_else(|| Error::malformed(chain.line_name(), "it is longer than any head"))
            );
        }
        let length = log.metadata().at("reading", &path)?.len();
        found.torn_line = length - good;
        log.set_len(good).and_then(|()| log.sync_all()).at("shortening", &path)?;
    }
    if chain.count == 0 {
        return Err(Error::NotARecording {
            dir: dir.to_owned(),
            why: "it ended before its first head was written".to_owned(),
        });
    }
    Ok(())
}
