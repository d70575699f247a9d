//! Goes from head to head, and holds each to the ones before it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use lucid_statement::{Hash, PublicKey, SessionId, json};

use crate::{
    chunk,
    error::{At, Error, Result},
    files,
    merkle::Tree,
    statement::{
        Chunk, Gap, Head, MAX_CHUNKS, MAX_FINISHED, MAX_GAPS, MAX_HEAD, MAX_LISTED, MAX_OPENING, MAX_PARTS,
        MAX_TEXT, Open, Opening,
    },
};

/// What the heads so far say.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) session: SessionId,
    /// Hash of `opening.json`.
    pub(crate) opening: Hash,
    pub(crate) count: u64,
    /// Hash of the last line, or of the opening.
    pub(crate) last: Hash,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) tree: Tree,
    /// Of each part.
    pub(crate) commitments: Vec<Hash>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) open: Option<Open>,
    pub(crate) audit: Option<Hash>,
    pub(crate) mono_us: u64,
    pub(crate) wall_ms: u64,
}

impl Chain {
    pub(crate) fn new(session: SessionId, opening: Hash) -> Self {
        Self {
            session,
            opening,
            count: 0,
            last: opening,
            chunks: Vec::new(),
            tree: Tree::default(),
            commitments: Vec::new(),
            gaps: Vec::new(),
            open: None,
            audit: None,
            mono_us: 0,
            wall_ms: 0,
        }
    }

    /// How the line after the last one is called.
    pub(crate) fn line_name(&self) -> String {
        format!("line {} of {}", self.count + 1, files::HEADS)
    }

    /// Takes the next line, or says why it is not.
    pub(crate) fn accept(&mut self, line: &[u8], device: Option<&PublicKey>) -> Result<Head> {
        let what = self.line_name();
        let head = json::read_signed::<Head>(&what, line, device)?.body;
        self.apply(&head, line).map_err(|why| Error::malformed(what, why))?;
        Ok(head)
    }

    /// Takes a head whose canonical bytes and signature were looked at.
    pub(crate) fn apply(&mut self, head: &Head, line: &[u8]) -> Result<(), String> {
        let tree = self.check(head)?;
        self.count += 1;
        self.last = blake3::hash(line).into();
        self.tree = tree;
        self.chunks.extend_from_slice(&head.finished);
        if self.commitments.len() == head.part as usize {
            self.commitments.push(head.key_commitment);
        }
        self.gaps.extend(head.gap.clone());
        self.open = head.open;
        self.audit = head.audit;
        self.mono_us = head.mono_us;
        self.wall_ms = head.wall_ms;
        Ok(())
    }

    fn check(&self, head: &Head) -> Result<Tree, String> {
        let want = |good: bool, why: &str| if good { Ok(()) } else { Err(why.to_owned()) };
        want(head.session == self.session, "it is of another session")?;
        if head.seq != self.count {
            return Err(format!("it is head {}, and {} was to come", head.seq, self.count));
        }
        want(head.previous == self.last, "it does not follow the line before it")?;
        want(head.mono_us >= self.mono_us, "its time is before that of the line before it")?;
        let part = head.part as usize;
        match self.commitments.get(part) {
            Some(known) => {
                want(part + 1 == self.commitments.len(), "it goes back to an earlier part")?;
                want(*known == head.key_commitment, "its key is not that of its part")?;
            }
            None => {
                want(part == self.commitments.len(), "it leaves out a part")?;
                want(part < MAX_PARTS, "there are too many parts")?;
                want(head.open.is_none(), "a part begins with a chunk that is open")?;
                want(part == 0 || head.gap.is_some(), "a part begins without a gap")?;
            }
        }
        if let Some(gap) = &head.gap {
            want(gap.from_us <= gap.to_us && gap.to_us <= head.mono_us, "its gap is of no time")?;
            want(gap.reason.len() <= MAX_TEXT && self.gaps.len() < MAX_GAPS, "there are too many gaps")?;
        }
        want(head.finished.len() <= MAX_FINISHED, "it finishes too many chunks")?;
        let tree = self.finished(head)?;
        want(head.root == tree.root(), "its root is not that of its chunks")?;
        let open_before = self.open.filter(|_| head.finished.is_empty());
        match (&open_before, &head.open) {
            (Some(_), None) => Err("the open chunk is gone".to_owned()),
            (before, Some(open)) => {
                want(open.index == head.closed, "the open chunk is not the next one")?;
                want(
                    open.first_us <= open.last_us && open.last_us <= head.mono_us,
                    "its times are in no order",
                )?;
                want(open.length > chunk::HEADER as u64, "the open chunk has no record")?;
                let grown = before.is_none_or(|before| {
                    before.length <= open.length
                        && before.first_us == open.first_us
                        && before.last_us <= open.last_us
                });
                want(grown, "the open chunk has shrunk")
            }
            (None, None) => Ok(()),
        }?;
        Ok(tree)
    }

    /// The tree with the chunks that a head finishes.
    fn finished(&self, head: &Head) -> Result<Tree, String> {
        let want = |good: bool, why: &str| if good { Ok(()) } else { Err(why.to_owned()) };
        let mut tree = self.tree.clone();
        let mut part = self.chunks.last().map_or(0, |chunk| chunk.part);
        let mut index = self.chunks.len();
        for chunk in &head.finished {
            want(chunk.index as usize == index && index < MAX_CHUNKS, "a chunk is not the next one")?;
            want((part..=head.part).contains(&chunk.part), "a chunk is of another part")?;
            want(
                chunk.first_us <= chunk.last_us && chunk.last_us <= head.mono_us,
                "its times are in no order",
            )?;
            want(chunk.size <= chunk::MAX_CHUNK, "a chunk is too large")?;
            want(chunk.size > chunk::HEADER as u64 || chunk.acknowledged > chunk.size, "a chunk is empty")?;
            if let Some(open) = self.open.filter(|open| open.index == chunk.index) {
                want(open.length <= chunk.acknowledged, "a chunk forgets what was confirmed")?;
                want(
                    open.first_us == chunk.first_us && open.last_us <= chunk.last_us,
                    "a chunk's times changed",
                )?;
            }
            part = chunk.part;
            index += 1;
            tree.push(chunk.hash);
        }
        want(head.closed as usize == index, "it counts its chunks wrongly")?;
        Ok(tree)
    }
}

/// What stands next in `heads.jsonl`.
pub(crate) enum Line {
    /// A line, without its line feed.
    Whole,
    /// Bytes without a line feed, or too many.
    Torn,
    /// Nothing.
    End,
}

/// Reads `heads.jsonl` line by line.
pub(crate) struct Lines {
    reader: BufReader<File>,
    path: std::path::PathBuf,
    /// The line.
    pub(crate) line: Vec<u8>,
}

impl Lines {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(files::HEADS);
        let file = File::open(&path).at("opening", &path)?;
        if !file.metadata().at("reading", &path)?.is_file() {
            return Err(Error::malformed(files::HEADS, "it is not a file"));
        }
        Ok(Self { reader: BufReader::new(file), path, line: Vec::new() })
    }

    pub(crate) fn next(&mut self) -> Result<Line> {
        self.line.clear();
        let count = (&mut self.reader)
            .take(MAX_HEAD + 1)
            .read_until(b'\n', &mut self.line)
            .at("reading", &self.path)?;
        if count == 0 {
            return Ok(Line::End);
        }
        if self.line.pop_if(|last| *last == b'\n').is_some() { Ok(Line::Whole) } else { Ok(Line::Torn) }
    }
}

/// Reads `opening.json`: the statement and its hash. Without a device key, its own has to have signed it.
pub(crate) fn read_opening(dir: &Path, device: Option<&PublicKey>) -> Result<(Opening, Hash)> {
    let bytes = files::read(&dir.join(files::OPENING), MAX_OPENING)?;
    let statement = json::read_signed::<Opening>(files::OPENING, &bytes, None)?;
    let device = device.copied().unwrap_or(statement.body.device);
    json::check(files::OPENING, &statement, &device)?;
    let opening = statement.body;
    check_opening(&opening).map_err(|why| Error::malformed(files::OPENING, why))?;
    if opening.device != device {
        return Err(Error::Signature { what: files::OPENING.to_owned(), device: device.to_string() });
    }
    Ok((opening, blake3::hash(&bytes).into()))
}

/// What an opening has to keep to, beyond its form.
pub(crate) fn check_opening(opening: &Opening) -> Result<(), String> {
    if opening.participants.len() + opening.streams.len() > MAX_LISTED {
        return Err(format!("it lists more than {MAX_LISTED} participants and streams"));
    }
    let texts = opening.participants.iter().flat_map(|participant| [&participant.name, &participant.role]);
    let texts = texts.chain(opening.streams.iter().map(|stream| &stream.name));
    if texts.chain([&opening.codec, &opening.recorder]).any(|text| text.len() > MAX_TEXT) {
        return Err(format!("a text in it is longer than {MAX_TEXT} bytes"));
    }
    let known = opening.streams.iter().all(|stream| (1..=chunk::MAX_STREAM).contains(&stream.id));
    if !known || opening.streams.is_empty() || !opening.streams.is_sorted_by(|a, b| a.id < b.id) {
        return Err("its streams are not numbered from 1 to 15 in order".to_owned());
    }
    Ok(())
}
