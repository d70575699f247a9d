//! Says what is proved of a recording, what is missing, and what is wrong.
//!
//! **Without any key**, from the files alone: every statement is in its canonical form and signed by the device, each
//! head follows the one before it, every chunk is byte by byte what heads and manifest say, its header belongs to its
//! place, and its records have the form of records. **With the key of a recipient** also: the wrapped keys open and
//! fit, every record opens in its place, unpacks, and comes at its time.
//!
//! Two things are not to be had from the files. Whose key signed: without the device's key from elsewhere, the opening
//! says by whom it is. And the end of a recording that has no manifest: heads and chunks that were removed from its end
//! are missed only by whoever kept a later head; therefore such a recording is *unfinished*, and not sound.
//!
//! What is wrong is named once, where it is: a chunk, a line, a statement. Where a line of `heads.jsonl` is wrong,
//! later lines are not looked at, and the manifest stands for them; where the manifest is wrong, the heads stand for it.
//! Damage to `keys.json` that leaves its form is seen only with a key. A chunk's file of which no statement speaks is wrong
//! where there is a manifest that holds; where there is none, only if its own header is of another session or place.
//!
//! Of what session it is, the opening says; where that does not hold, the manifest; where neither does, the first line of
//! `heads.jsonl`, whoever signed it. A chunk of which confirmed bytes were lost ([`Chunk::acknowledged`] above
//! [`Chunk::size`]) is wrong, although the device says so itself. In words for people ([`Finding::problem`],
//! [`Report::notes`]) two implementations differ, and in nothing else.

use std::{collections::BTreeSet, path::Path};

use serde::Serialize;

use lucid_statement::{Hash, PublicKey, SessionId, json};

use crate::{
    chain::{Chain, Line, Lines, check_opening},
    chunk::{self, CLOSES, Frames, Header, MAX_CHUNK, Sealing, flag},
    error::{Error, Result},
    files,
    keys::Keys,
    merkle,
    reader::{Opener, check_manifest},
    secret::{OwnerSecret, SessionKey},
    statement::{
        Chunk, Ended, Gap, Head, MAX_CHUNKS, MAX_MANIFEST, MAX_OPENING, Manifest, Open, Opening, PartEnded,
    },
};

/// The most findings of a report; there are more only in what was never a recording.
const MAX_FINDINGS: usize = 1 << 12;
/// The most names in a directory that are looked at: all chunks, twice.
const MAX_NAMES: usize = 2 * MAX_CHUNKS;

/// What a verification is given besides the files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Opens every record as well.
    pub owner: Option<&'a OwnerSecret>,
    /// The device that is to have signed, known from elsewhere.
    pub device: Option<PublicKey>,
}

/// The outcome in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is there and as it was signed.
    Sound,
    /// What is there is as it was signed, and there is no manifest: it is being written, or has to be recovered, or its
    /// end was removed.
    Unfinished,
    /// Something is wrong or missing.
    Damaged,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the file that is wrong.
    pub file: String,
    /// The line, from 1, of `heads.jsonl`.
    pub line: Option<u64>,
    /// The record, from 0, of a chunk.
    pub record: Option<u64>,
    /// What is wrong with it, for people.
    pub problem: String,
}

/// How many chunks are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// As signed.
    pub proved: u32,
    /// Changed, cut off or missing.
    pub wrong: u32,
    /// Where no manifest holds: chunks' files of which no head that holds says anything. One that was open in the last head
    /// that holds, and is what that confirms, is none of the three.
    pub unproved: u32,
}

/// What was opened with a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Opened {
    /// Records that opened, closing ones included.
    pub records: u64,
    /// Chunks whose end, which no head confirmed, was torn when its recorder died.
    pub torn: u32,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In one word.
    pub verdict: Verdict,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// The session.
    pub session: Option<SessionId>,
    /// The key that signatures were held to; none where the opening is damaged and no key was given.
    pub device: Option<PublicKey>,
    /// Whether that key was given, and not taken from the opening.
    pub device_given: bool,
    /// How it ended, as far as its manifest holds.
    pub ended: Option<Ended>,
    /// How many heads hold.
    pub heads: u64,
    /// How many parts they name.
    pub parts: u32,
    /// The chunks.
    pub chunks: Counts,
    /// Bytes of the chunks that are proved.
    pub bytes: u64,
    /// Records in them, as seen without a key.
    pub records: u64,
    /// What was opened; none without a key.
    pub opened: Option<Opened>,
    /// From when something may be missing, which the recorder itself says.
    pub gaps: Vec<Gap>,
    /// When it began, in milliseconds since the Unix epoch.
    pub began_ms: Option<u64>,
    /// When it ended, or when the last head that holds was signed.
    pub ended_ms: Option<u64>,
    /// How long it is up to there, in microseconds.
    pub length_us: u64,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that were looked at.
    pub chunks: u32,
    /// Of how many, where a manifest says so.
    pub of: Option<u32>,
    /// Their bytes.
    pub bytes: u64,
}

/// Looks at every byte of a recording. `progress` is called after each chunk.
///
/// # Errors
/// Only when the directory cannot be read at all. Whatever is wrong within it is in the report.
pub fn verify(dir: &Path, options: Options<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    let names = files::names(dir, MAX_NAMES)?;
    let mut check = Check {
        dir,
        options,
        progress,
        findings: Vec::new(),
        notes: Vec::new(),
        trusted: options.device,
        session: None,
        loaded: None,
        keys: None,
        key: None,
        time: (0, 0),
        ends: None,
        seen: Counts::default(),
        total: None,
        bytes: 0,
        looked: 0,
        records: 0,
        opened: options.owner.map(|_| Opened::default()),
    };
    let opening = check.opening();
    let (manifest, manifest_there) = check.manifest(opening.as_ref());
    check.total = manifest.as_ref().map(|manifest| manifest.chunks.len() as u32);
    check.read_keys();
    let identity = match (&opening, &manifest) {
        (Some((opening, hash)), _) => Some((opening.session, *hash)),
        (None, Some(manifest)) => Some((manifest.session, manifest.opening)),
        (None, None) => check.identity_of_heads(),
    };
    check.session = identity.map(|(session, _)| session);
    let mut chain = None;
    let mut heads_hold = false;
    if let Some((session, hash)) = identity {
        let (walked, held) = check.heads(Chain::new(session, hash), manifest.as_ref(), manifest_there);
        heads_hold = held;
        chain = Some(walked);
    }
    if let (Some(manifest), Some(chain)) = (&manifest, &chain) {
        check.compare(manifest, chain, heads_hold);
        check.rest(manifest, chain);
    }
    if let Some(chain) = &chain {
        check.all_keys(chain);
    }
    check.names(&names, manifest.as_ref(), chain.as_ref());

    if !manifest_there && check.ends.is_some() {
        check.notes.push("its recorder had come to the end: recovery writes the manifest".to_owned());
    }
    let verdict = match (check.findings.is_empty(), manifest_there) {
        (false, _) => Verdict::Damaged,
        (true, true) => Verdict::Sound,
        (true, false) => Verdict::Unfinished,
    };
    let gaps = manifest.as_ref().map(|manifest| manifest.gaps.clone());
    Ok(Report {
        verdict,
        findings: check.findings,
        notes: check.notes,
        session: identity.map(|(session, _)| session),
        device: check.trusted,
        device_given: options.device.is_some(),
        ended: manifest.as_ref().map(|manifest| manifest.ended),
        heads: chain.as_ref().map_or(0, |chain| chain.count),
        parts: manifest
            .as_ref()
            .map(|manifest| manifest.parts.len())
            .or(chain.as_ref().map(|chain| chain.commitments.len()))
            .unwrap_or(0) as u32,
        chunks: check.seen,
        bytes: check.bytes,
        records: check.records,
        opened: check.opened,
        gaps: gaps.or(chain.as_ref().map(|chain| chain.gaps.clone())).unwrap_or_default(),
        began_ms: opening.as_ref().map(|(opening, _)| opening.wall_ms),
        ended_ms: manifest
            .as_ref()
            .map(|manifest| manifest.wall_ms)
            .or(chain.as_ref().map(|chain| chain.wall_ms)),
        length_us: manifest
            .as_ref()
            .map(|manifest| manifest.mono_us)
            .or(chain.as_ref().map(|chain| chain.mono_us))
            .unwrap_or(0),
    })
}

/// The chunk that is looked at.
struct Loaded {
    index: u32,
    name: String,
    bytes: Vec<u8>,
    hasher: blake3::Hasher,
    hashed: usize,
    /// Something is wrong with it, and was said.
    wrong: bool,
}

struct Check<'a> {
    dir: &'a Path,
    options: Options<'a>,
    progress: &'a mut dyn FnMut(Progress),
    findings: Vec<Finding>,
    notes: Vec<String>,
    /// Whose signatures count. None when the opening is wrong and nobody said.
    trusted: Option<PublicKey>,
    session: Option<SessionId>,
    loaded: Option<Loaded>,
    keys: Option<Keys>,
    /// The key of a part, or that it does not open.
    key: Option<(u32, Option<SessionKey>)>,
    /// The part and time of the last record that was opened.
    time: (u32, u64),
    /// The chunk that says that the recording ends.
    ends: Option<u32>,
    seen: Counts,
    total: Option<u32>,
    bytes: u64,
    looked: u64,
    records: u64,
    opened: Option<Opened>,
}

impl Check<'_> {
    fn found(&mut self, file: &str, line: Option<u64>, record: Option<u64>, problem: impl Into<String>) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { file: file.to_owned(), line, record, problem: problem.into() });
        }
    }

    /// What an error says of a file that is named beside it.
    fn problem(error: &Error) -> String {
        match error {
            Error::Malformed { why, .. } => why.clone(),
            Error::Io { .. } if files::is_missing(error) => "it is missing".to_owned(),
            Error::Io { source, .. } => format!("it cannot be read: {source}"),
            other => other.to_string(),
        }
    }

    fn opening(&mut self) -> Option<(Opening, Hash)> {
        let given = self.options.device;
        let read = files::read(&self.dir.join(files::OPENING), MAX_OPENING).and_then(|bytes| {
            let statement = json::read_signed::<Opening>(files::OPENING, &bytes, None)?;
            json::check(files::OPENING, &statement, &given.unwrap_or(statement.body.device))?;
            check_opening(&statement.body).map_err(|why| Error::malformed(files::OPENING, why))?;
            if given.is_some_and(|given| given != statement.body.device) {
                return Err(Error::malformed(files::OPENING, "it names another device"));
            }
            Ok((statement.body, blake3::hash(&bytes).into()))
        });
        match read {
            Ok((opening, hash)) => {
                self.trusted = Some(opening.device);
                if let Some(consent) = &opening.consent {
                    self.consent(consent);
                }
                Some((opening, hash))
            }
            Err(error) => {
                self.found(files::OPENING, None, None, Self::problem(&error));
                if self.trusted.is_none() {
                    self.notes
                        .push("no signature was checked: the opening does not say whose they are".to_owned());
                }
                None
            }
        }
    }

    /// The receipt that lies beside the recording, whatever it says.
    fn consent(&mut self, named: &Hash) {
        let held = files::read(&self.dir.join(files::CONSENT), MAX_OPENING).and_then(|bytes| {
            let hash: Hash = blake3::hash(&bytes).into();
            let other = || Error::malformed(files::CONSENT, "it is not the one that the opening names");
            if hash == *named { Ok(()) } else { Err(other()) }
        });
        if let Err(error) = held {
            self.found(files::CONSENT, None, None, Self::problem(&error));
        }
    }

    /// The manifest, if it holds, and whether there is one.
    fn manifest(&mut self, opening: Option<&(Opening, Hash)>) -> (Option<Manifest>, bool) {
        let read = files::read(&self.dir.join(files::MANIFEST), MAX_MANIFEST).and_then(|bytes| {
            let manifest =
                json::read_signed::<Manifest>(files::MANIFEST, &bytes, self.trusted.as_ref())?.body;
            check_manifest(&manifest).map_err(|why| Error::malformed(files::MANIFEST, why))?;
            if opening.is_some_and(|(opening, hash)| {
                manifest.session != opening.session || manifest.opening != *hash
            }) {
                return Err(Error::malformed(files::MANIFEST, "it belongs to another opening"));
            }
            Ok(manifest)
        });
        match read {
            Ok(manifest) => (Some(manifest), true),
            Err(error) if files::is_missing(&error) => (None, false),
            Err(error) => {
                self.found(files::MANIFEST, None, None, Self::problem(&error));
                (None, true)
            }
        }
    }

    /// Where neither opening nor manifest can say it, the first head says of what session it is, whoever signed it.
    fn identity_of_heads(&self) -> Option<(SessionId, Hash)> {
        let mut lines = Lines::open(self.dir).ok()?;
        let Ok(Line::Whole) = lines.next() else { return None };
        let head = json::read_signed::<Head>(files::HEADS, &lines.line, None).ok()?.body;
        Some((head.session, head.previous))
    }

    fn read_keys(&mut self) {
        match Keys::read(self.dir) {
            Ok(keys) => self.keys = Some(keys),
            Err(error) => self.found(files::KEYS, None, None, Self::problem(&error)),
        }
    }

    /// Walks the heads, and with them the chunks. Says how far they hold, and whether that is all of them.
    fn heads(&mut self, mut chain: Chain, manifest: Option<&Manifest>, ended: bool) -> (Chain, bool) {
        let mut lines = match Lines::open(self.dir) {
            Ok(lines) => lines,
            Err(error) => {
                self.found(files::HEADS, None, None, Self::problem(&error));
                return (chain, false);
            }
        };
        loop {
            let line = Some(chain.count + 1);
            match lines.next() {
                Ok(Line::Whole) => {}
                Ok(Line::End) if chain.count > 0 => break,
                Ok(Line::End) => {
                    self.found(files::HEADS, None, None, "it is empty");
                    return (chain, false);
                }
                Ok(Line::Torn)
                    if !ended
                        && chain.count > 0
                        && lines.line.len() <= crate::statement::MAX_HEAD as usize =>
                {
                    self.notes.push(format!(
                        "the last line of {} is torn, which recovery mends: {} bytes",
                        files::HEADS,
                        lines.line.len()
                    ));
                    break;
                }
                Ok(Line::Torn) => {
                    self.found(files::HEADS, line, None, "it has no end");
                    return (chain, false);
                }
                Err(error) => {
                    self.found(files::HEADS, line, None, Self::problem(&error));
                    return (chain, false);
                }
            }
            let head = match chain.accept(&lines.line, self.trusted.as_ref()) {
                Ok(head) => head,
                Err(error) => {
                    self.found(files::HEADS, line, None, Self::problem(&error));
                    return (chain, false);
                }
            };
            let last = head.finished.len().saturating_sub(1);
            for (place, entry) in head.finished.iter().enumerate() {
                let commitment = chain.commitments.get(entry.part as usize).copied();
                // Recovery speaks with a gap, and of an end without a closing record.
                let may_be_open = head.gap.is_some() && place == last;
                self.entry(entry, commitment, !may_be_open);
            }
            if let Some(open) = &head.open {
                self.prefix(open, chain.count);
            }
        }
        if let (None, Some(open)) = (manifest, chain.open) {
            self.open_chunk(&open, &chain);
        }
        (chain, true)
    }

    /// Reads a chunk, unless it is the one at hand.
    fn load(&mut self, index: u32) -> &mut Loaded {
        let at_hand = self.loaded.take();
        let loaded = match at_hand {
            Some(loaded) if loaded.index == index => loaded,
            other => {
                // One buffer for all of them.
                let mut bytes = other.map(|loaded| loaded.bytes).unwrap_or_default();
                let name = chunk::file_name(index);
                let read = files::read_into(&self.dir.join(&name), MAX_CHUNK, &mut bytes);
                if let Err(error) = &read {
                    self.found(&name, None, None, Self::problem(error));
                }
                self.looked += bytes.len() as u64;
                Loaded { index, name, bytes, hasher: merkle::leaf_hasher(), hashed: 0, wrong: read.is_err() }
            }
        };
        self.loaded.insert(loaded)
    }

    /// Says that the chunk at hand is wrong; once is enough.
    fn wrong(&mut self, problem: String) {
        let Some(loaded) = &mut self.loaded else { return };
        if !std::mem::replace(&mut loaded.wrong, true) {
            let name = loaded.name.clone();
            self.found(&name, None, None, problem);
        }
    }

    /// Holds the beginning of the open chunk to a head.
    fn prefix(&mut self, open: &Open, line: u64) {
        let loaded = self.load(open.index);
        if loaded.wrong {
            return;
        }
        let length = usize::try_from(open.length).unwrap_or(usize::MAX);
        let Some(more) = loaded.bytes.get(loaded.hashed..length) else {
            let problem = format!(
                "it has {} bytes, and line {line} of {} confirms {length}",
                loaded.bytes.len(),
                files::HEADS
            );
            return self.wrong(problem);
        };
        loaded.hasher.update(more);
        loaded.hashed = length;
        if Hash::from(loaded.hasher.finalize()) != open.hash {
            self.wrong(format!(
                "its first {length} bytes are not what line {line} of {} confirms",
                files::HEADS
            ));
        }
    }

    /// Holds a finished chunk to what a head or the manifest says of it.
    fn entry(&mut self, entry: &Chunk, commitment: Option<Hash>, closed: bool) {
        let loaded = self.load(entry.index);
        if !loaded.wrong {
            if loaded.bytes.len() as u64 != entry.size {
                let problem =
                    format!("it has {} bytes, and had {} when it was signed", loaded.bytes.len(), entry.size);
                self.wrong(problem);
            } else {
                loaded.hasher.update(&loaded.bytes[loaded.hashed..]);
                loaded.hashed = loaded.bytes.len();
                if Hash::from(loaded.hasher.finalize()) != entry.hash {
                    self.changed(entry, commitment);
                }
            }
        }
        if entry.acknowledged > entry.size {
            self.wrong(format!(
                "{} bytes that were confirmed were lost before recovery, which says so itself",
                entry.acknowledged - entry.size
            ));
        }
        if self.loaded.as_ref().is_some_and(|loaded| !loaded.wrong) {
            self.contents(entry, commitment, closed);
        }
        self.done();
    }

    /// Counts the chunk at hand.
    fn done(&mut self) {
        let Some(loaded) = &self.loaded else { return };
        if loaded.wrong {
            self.seen.wrong += 1;
        } else {
            self.seen.proved += 1;
            self.bytes += loaded.bytes.len() as u64;
        }
        let chunks = self.seen.wrong + self.seen.proved;
        (self.progress)(Progress { chunks, of: self.total, bytes: self.looked });
    }

    /// Says of a chunk with another hash what can be said.
    fn changed(&mut self, entry: &Chunk, commitment: Option<Hash>) {
        let Some(loaded) = &self.loaded else { return };
        let elsewhere = match Header::read(&loaded.name, &loaded.bytes) {
            Ok(header) if Some(header.session) != self.session => {
                format!(": it is of the session {}", header.session)
            }
            Ok(header) if header.index != entry.index => format!(": it is chunk {}", header.index),
            Ok(header) if Some(header.key_commitment) != commitment => ": it is of another part".to_owned(),
            Ok(_) => String::new(),
            Err(error) => format!(": {}", Self::problem(&error)),
        };
        self.wrong(format!("it is not what was signed{elsewhere}"));
    }

    /// The last chunk of a recording without a manifest.
    fn open_chunk(&mut self, open: &Open, chain: &Chain) {
        let part = chain.commitments.len().saturating_sub(1) as u32;
        let loaded = self.load(open.index);
        let length = usize::try_from(open.length).unwrap_or(usize::MAX);
        if !loaded.wrong && loaded.bytes.len() > length {
            let beyond = loaded.bytes.len() - length;
            let name = loaded.name.clone();
            loaded.bytes.truncate(length);
            self.notes.push(format!("{beyond} bytes at the end of {name} are confirmed by no head"));
        }
        let commitment = chain.commitments.last().copied();
        let entry = Chunk {
            acknowledged: open.length,
            first_us: open.first_us,
            hash: open.hash,
            index: open.index,
            key: self.loaded.as_ref().is_some_and(|loaded| {
                let frame = Frames::new().next(&loaded.bytes);
                frame.is_ok_and(|frame| frame.is_some_and(|frame| frame.flags & flag::KEY != 0))
            }),
            last_us: open.last_us,
            part,
            size: open.length,
        };
        if self.loaded.as_ref().is_some_and(|loaded| !loaded.wrong) {
            self.contents(&entry, commitment, false);
        }
        self.done();
    }

    /// Looks into a chunk whose bytes are those that were signed.
    fn contents(&mut self, entry: &Chunk, commitment: Option<Hash>, closed: bool) {
        let Some(mut loaded) = self.loaded.take() else { return };
        let problem = self.header_and_records(entry, commitment, closed, &mut loaded);
        self.loaded = Some(loaded);
        if let Err((record, problem)) = problem
            && let Some(loaded) = &mut self.loaded
        {
            loaded.wrong = true;
            let name = loaded.name.clone();
            self.found(&name, None, record, problem);
        }
    }

    fn header_and_records(
        &mut self,
        entry: &Chunk,
        commitment: Option<Hash>,
        closed: bool,
        loaded: &mut Loaded,
    ) -> Result<(), (Option<u64>, String)> {
        let whole = |problem: &str| (None, problem.to_owned());
        let header =
            Header::read(&loaded.name, &loaded.bytes).map_err(|error| (None, Self::problem(&error)))?;
        if header.index != entry.index
            || header.part != entry.part
            || Some(header.key_commitment) != commitment
        {
            return Err(whole("its header belongs elsewhere"));
        }
        if Some(header.session) != self.session {
            return Err(whole("it is of another session"));
        }
        let mut opener = match self.session_key(entry.part, commitment) {
            None => None,
            Some(key) => {
                let made = Sealing::new(key, &header).and_then(|sealing| Opener::new(sealing, entry));
                Some(made.map_err(|error| (None, error.to_string()))?)
            }
        };
        let confirmed = |end: usize| end as u64 <= entry.acknowledged;
        let mut frames = Frames::new();
        let mut last_us = if self.time.0 == entry.part { self.time.1 } else { 0 };
        let mut first_us = None;
        let mut torn = false;
        loop {
            let frame = match frames.next(&loaded.bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(problem) => return Err((None, problem.text().to_owned())),
            };
            self.records += 1;
            if frame.number == 0 && (frame.flags & flag::KEY != 0) != entry.key {
                return Err((Some(0), "whether playback can start at it was signed otherwise".to_owned()));
            }
            let Some(opener) = opener.as_mut().filter(|_| !torn) else { continue };
            match opener.open(&loaded.name, &frame, &mut loaded.bytes) {
                Ok(Ok(record)) => {
                    if record.mono_us < last_us {
                        return Err((
                            Some(frame.number),
                            "its time is before that of an earlier one".to_owned(),
                        ));
                    }
                    if frame.stream == CLOSES && !record.payload.is_empty() {
                        return Err((Some(frame.number), "a closing record holds something".to_owned()));
                    }
                    last_us = record.mono_us;
                    first_us.get_or_insert(record.mono_us);
                    if let Some(opened) = &mut self.opened {
                        opened.records += 1;
                    }
                    if confirmed(frame.sealed.end) && record.mono_us > entry.last_us {
                        return Err((Some(frame.number), "its time is after the chunk's".to_owned()));
                    }
                }
                Ok(Err(_)) => {
                    torn = true;
                    if let Some(opened) = &mut self.opened {
                        opened.torn += 1;
                    }
                    self.notes.push(format!(
                        "the end of {} was torn when its recorder died, from record {} on; no head had confirmed it",
                        loaded.name, frame.number
                    ));
                }
                Err(Error::Sealed { record, .. }) => {
                    return Err((Some(record), "it does not open".to_owned()));
                }
                Err(error) => return Err((Some(frame.number), Self::problem(&error))),
            }
        }
        if opener.is_some() {
            self.time = (entry.part, last_us);
            // All of it was written by one who knew the times.
            let exact = entry.acknowledged == entry.size;
            if exact && (first_us, last_us) != (Some(entry.first_us), entry.last_us) {
                return Err(whole("the times of its records were signed otherwise"));
            }
        }
        if closed && !frames.closed() {
            return Err(whole("it does not end with a closing record"));
        }
        if self.ends.is_some_and(|end| end < entry.index) {
            return Err(whole("it comes after the chunk that ends the recording"));
        }
        if frames.ends() {
            self.ends = Some(entry.index);
        }
        Ok(())
    }

    /// The key of a part, when an owner was given and it opens; why it does not is said once.
    fn session_key(&mut self, part: u32, commitment: Option<Hash>) -> Option<&SessionKey> {
        let (owner, commitment) = (self.options.owner?, commitment?);
        if self.key.as_ref().is_none_or(|(known, _)| *known != part) {
            let opened = self.keys.as_ref()?.open(self.dir, owner, part, &commitment);
            let key = match opened {
                Ok(key) => Some(key),
                Err(error) => {
                    self.found(files::KEYS, None, None, error.to_string());
                    None
                }
            };
            self.key = Some((part, key));
        }
        self.key.as_ref()?.1.as_ref()
    }

    /// Holds manifest and heads to each other.
    fn compare(&mut self, manifest: &Manifest, chain: &Chain, heads_hold: bool) {
        let file = files::HEADS;
        let begins = |ours: usize, theirs: usize| ours <= theirs && (ours == theirs || !heads_hold);
        if heads_hold && chain.count != manifest.heads.count {
            let (have, had) = (chain.count, manifest.heads.count);
            return self.found(
                file,
                None,
                None,
                format!("it has {have} lines, and had {had} when the manifest was signed"),
            );
        }
        if heads_hold && chain.last != manifest.heads.last {
            return self.found(file, None, None, "its last line is not the one that the manifest names");
        }
        let commitments: Vec<Hash> = manifest.parts.iter().map(|part| part.key_commitment).collect();
        let same = manifest.chunks.starts_with(&chain.chunks)
            && begins(chain.chunks.len(), manifest.chunks.len())
            && manifest.gaps.starts_with(&chain.gaps)
            && begins(chain.gaps.len(), manifest.gaps.len())
            && commitments.starts_with(&chain.commitments)
            && begins(chain.commitments.len(), commitments.len());
        let ends = !heads_hold
            || (manifest.mono_us, manifest.wall_ms) == (chain.mono_us, chain.wall_ms)
                && chain.open.is_none()
                && manifest.audit.is_none_or(|audit| Some(audit.hash) == chain.audit);
        if !same || !ends {
            return self.found(files::MANIFEST, None, None, "it does not say what the heads say");
        }
        let last = manifest.parts.len().saturating_sub(1);
        let parts = manifest.parts.iter().enumerate().all(|(place, part)| {
            (part.ended == PartEnded::Closed) == (place == last && manifest.ended == Ended::Finished)
        });
        if !parts {
            self.found(files::MANIFEST, None, None, "its parts did not end as it did");
        }
    }

    /// The chunks that the heads did not come to.
    fn rest(&mut self, manifest: &Manifest, chain: &Chain) {
        for (place, entry) in manifest.chunks.iter().enumerate().skip(chain.chunks.len()) {
            let part = manifest.parts.get(entry.part as usize);
            let last_of_part = manifest.chunks.get(place + 1).is_none_or(|next| next.part != entry.part);
            let lost = part.is_some_and(|part| part.ended == PartEnded::Lost);
            self.entry(entry, part.map(|part| part.key_commitment), !(lost && last_of_part));
        }
        // Only a chunk that holds says whether it ends the recording.
        let last = manifest.chunks.len().checked_sub(1).map(|last| last as u32);
        if manifest.ended == Ended::Finished
            && self.findings.is_empty()
            && (last.is_none() || self.ends != last)
        {
            self.found(files::MANIFEST, None, None, "no chunk says that the recording ends");
        }
    }

    /// Whether somebody has the key of each part.
    fn all_keys(&mut self, chain: &Chain) {
        let Some(keys) = &self.keys else { return };
        let problem = if keys.session != chain.session {
            Some("it is of another session".to_owned())
        } else {
            let held = |part: u32| {
                keys.recipients
                    .iter()
                    .any(|recipient| recipient.parts.iter().any(|wrapped| wrapped.part == part))
            };
            let missing = (0..chain.commitments.len() as u32).find(|part| !held(*part));
            missing.map(|part| format!("nobody has the key of part {part}"))
        };
        // With an owner, it was said of whom the key is missing.
        let said = self.findings.iter().any(|finding| finding.file == files::KEYS);
        if let Some(problem) = problem.filter(|_| !said) {
            self.found(files::KEYS, None, None, problem);
        }
    }

    /// Files that nothing speaks of.
    fn names(&mut self, names: &[std::path::PathBuf], manifest: Option<&Manifest>, chain: Option<&Chain>) {
        let of_heads = chain.map_or(0, |chain| chain.chunks.len() + usize::from(chain.open.is_some()));
        let known = manifest.map_or(of_heads, |manifest| manifest.chunks.len());
        let ours: BTreeSet<&str> = [
            files::OPENING,
            files::HEADS,
            files::KEYS,
            files::MANIFEST,
            files::CONSENT,
            files::SNAPSHOT,
            files::APPROVALS,
        ]
        .into_iter()
        .collect();
        for path in names {
            let name = path.to_string_lossy();
            match chunk::index_of(&name) {
                Some(index) if (index as usize) < known => {}
                Some(_) if manifest.is_some() => {
                    self.found(&name, None, None, "it is not part of the recording");
                }
                Some(index) => {
                    self.seen.unproved += 1;
                    // No statement speaks of it, but it says itself whose it is.
                    let loaded = self.load(index);
                    match Header::read(&loaded.name, &loaded.bytes) {
                        Ok(header) if Some(header.session) != self.session => {
                            self.wrong(format!("it is of the session {}", header.session));
                        }
                        Ok(header) if header.index != index => {
                            self.wrong(format!("it is chunk {}", header.index))
                        }
                        _ => {}
                    }
                    self.notes.push(format!("{name} is confirmed by no head"));
                }
                None if name.starts_with("chunk-") => {
                    self.found(&name, None, None, "it is named like a chunk, and is none");
                }
                None if ours.contains(&*name) => {}
                None => self.notes.push(format!("{name} is not part of the recording")),
            }
        }
    }
}
