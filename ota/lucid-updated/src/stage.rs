//! Writes a release into the slot that does not run.
//!
//! Chunk by chunk: what is in its place already stays; what another place of the slots holds is copied; the rest is fetched, from
//! the archive or as frames of a patch, neighbours together, and compared with the index before anything of it is written. Where
//! a patch is missing, damaged, none for this slot, or breaks off twice in a request, the archive is taken for what is left. What
//! was written is brought to the disk every 4 MiB, so a power cut costs no more than that. What is behind a part becomes zeros.
//! At the end all is read back.
//!
//! The disk is waited for by another thread: what else the program does goes on meanwhile, and staging can be
//! given up between two steps. Beside the index and what is remembered of the slots, memory holds one request's bytes, at most
//! 4 MiB, and with a patch the prefix of one of its sections, at most 16 MiB.

use std::{collections::VecDeque, sync::Arc};

use lucid_release_format::{Chunk, Index, Kind, Part, Place};

use crate::{
    disk::{Disk, Reader},
    error::{Error, Result},
    have::Have,
    patch,
    source::Source,
};

/// So much is written between two times of bringing it to the disk.
const SYNC: u64 = 4 << 20;
/// So much is fetched with one request.
const REQUEST: u64 = 4 << 20;
/// So much is read at once when all is read back.
const PIECE: usize = 1 << 20;
/// So many chunks are looked at in one step: 1 MiB of usual ones.
const STEP: usize = 32;

/// A partition of the slot.
#[derive(Clone)]
pub struct Target {
    /// Which part it is for.
    pub kind: Kind,
    /// Its name in the partition table.
    pub name: String,
    /// Its bytes.
    pub disk: Arc<dyn Disk>,
}

/// How far it is, in bytes of the release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Of all.
    pub total: u64,
    /// In their places.
    pub done: u64,
    /// Of those, that were there already.
    pub kept: u64,
    /// Of those, that were copied from elsewhere on the disk.
    pub copied: u64,
    /// Bytes that were fetched, as they are stored.
    pub fetched: u64,
    /// Of those, that came as frames of a patch.
    #[serde(default)]
    pub patched: u64,
    /// The most memory that the program has had, in bytes; 0 where that is not known.
    pub memory_peak: u64,
}

/// A thread died with what it worked on.
fn gone() -> Error {
    Error::Internal("a step of staging did not come to its end".to_owned())
}

/// A chunk of a part, and where in it that is.
type Placed = (u64, Chunk);

/// A chunk that has to be fetched.
#[derive(Clone, Copy)]
struct Due {
    /// Where in the part it goes.
    at: u64,
    chunk: Chunk,
    /// Its frame, where that is in the patch.
    frame: Option<usize>,
    /// Where its bytes are, in the archive or in the patch.
    place: Place,
}

/// What is worked on for one part.
struct Work {
    have: Have,
    target: Target,
    /// The partition's number in [`Have`].
    number: usize,
    /// Bytes that were written since the last time of bringing them to the disk.
    loose: u64,
    /// What is looked at next.
    next: VecDeque<Placed>,
    /// What has to be fetched: neighbours in one file.
    due: Vec<Due>,
    state: Progress,
}

impl Work {
    fn failed(&self, doing: &'static str) -> impl Fn(std::io::Error) -> Error + use<> {
        let name = self.target.name.clone();
        move |source| Error::Partition { doing, name: name.clone(), source }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.target.disk.write_at(at, bytes).map_err(self.failed("writing"))?;
        self.loose += bytes.len() as u64;
        if self.loose >= SYNC { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.loose = 0;
        self.target.disk.sync().map_err(self.failed("writing"))
    }

    /// A chunk is in its place.
    fn done(&mut self, (at, chunk): Placed) {
        self.have.put(chunk.hash, self.number, at, chunk.raw);
        self.state.done += u64::from(chunk.raw);
    }

    /// Looks at what is next, until all of it is in its place or due. Says whether what is due has to be fetched before it can
    /// go on.
    fn look(&mut self) -> Result<bool> {
        while let Some((at, chunk)) = self.next.front().copied() {
            let mut bytes = vec![0; chunk.raw as usize];
            self.target.disk.read_at(at, &mut bytes).map_err(self.failed("reading"))?;
            if chunk.is(&bytes) {
                self.done((at, chunk));
                self.state.kept += u64::from(chunk.raw);
            } else if self.due.iter().any(|due| due.chunk.hash == chunk.hash) {
                // The same chunk again: once it is written it is copied from there.
                return Ok(true);
            } else if let Some(bytes) = self.have.get(&chunk) {
                self.write(at, &bytes)?;
                self.done((at, chunk));
                self.state.copied += u64::from(chunk.raw);
            } else {
                let due = match self.have.patch.as_ref().and_then(|patch| patch.frame(&chunk.hash)) {
                    Some((frame, place)) => Due { at, chunk, frame: Some(frame), place },
                    None => Due { at, chunk, frame: None, place: chunk.place },
                };
                // Neighbours come with one request.
                if let (Some(first), Some(last)) = (self.due.first(), self.due.last())
                    && (last.frame.is_some() != due.frame.is_some()
                        || last.place.end() != due.place.offset
                        || due.place.end() - first.place.offset > REQUEST)
                {
                    return Ok(true);
                }
                self.due.push(due);
            }
            self.next.pop_front();
        }
        Ok(false)
    }

    /// Writes a chunk that was fetched, once it is known to be right.
    fn fetched(&mut self, file: &str, due: Due, stored: &[u8]) -> Result<()> {
        let Due { at, chunk, frame, place } = due;
        let length = u64::from(place.length);
        let bytes = match frame {
            Some(frame) => {
                let bytes = self.have.unpatch(frame, stored)?;
                self.state.patched += length;
                bytes
            }
            None => chunk.open(stored).map_err(|error| Error::Chunk {
                name: file.to_owned(),
                offset: place.offset,
                why: error.to_string(),
            })?,
        };
        self.write(at, &bytes)?;
        self.done((at, chunk));
        self.state.fetched += length;
        Ok(())
    }

    /// Makes a stretch behind a part zeros: of the content before, nothing stays. What is zero is only read. Gives its end.
    fn clear(&mut self, at: u64) -> Result<Option<u64>> {
        let size = self.target.disk.size().map_err(self.failed("reading"))?;
        if at >= size {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(size - at).unwrap_or(PIECE).min(PIECE)];
        self.target.disk.read_at(at, &mut piece).map_err(self.failed("reading"))?;
        if piece.iter().any(|byte| *byte != 0) {
            piece.fill(0);
            self.write(at, &piece)?;
        }
        Ok(Some(at + piece.len() as u64))
    }
}

/// Refuses a release that the slot has no room for, before anything is written.
///
/// # Errors
/// When a part is missing or too large.
pub fn check_room(index: &Index, targets: &[Target]) -> Result<()> {
    for target in targets {
        let part = index.part(target.kind).ok_or(Error::NoPart(target.kind))?;
        let failed = |source| Error::Partition { doing: "reading", name: target.name.clone(), source };
        let room = target.disk.size().map_err(failed)?;
        if part.bytes > room {
            return Err(Error::Room { kind: target.kind, bytes: part.bytes, room });
        }
    }
    Ok(())
}

/// Writes a release into these partitions, and reads it back. `archive` is the name of its archive's file in the source. When
/// it fails, it can be called again, and goes on where it was.
///
/// # Errors
/// When the disk fails, or the source does not give what the index says.
pub async fn write(
    index: &Index,
    archive: &str,
    targets: &[Target],
    have: &mut Have,
    source: &dyn Source,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Progress> {
    check_room(index, targets)?;
    let total = index.parts().iter().map(|part| part.bytes).sum();
    let mut state = Progress { total, ..Progress::default() };
    for target in targets {
        let part = index.part(target.kind).ok_or(Error::NoPart(target.kind))?;
        let number = have.disk(target.disk.clone());
        let work = Work {
            have: std::mem::take(have),
            target: target.clone(),
            number,
            loose: 0,
            next: VecDeque::new(),
            due: Vec::new(),
            state,
        };
        let mut staging = Staging { archive, source, progress: &mut *progress, work: Some(work) };
        let written = staging.part(part).await;
        // What was found stays found, for another source.
        if let Some(work) = staging.work {
            (*have, state) = (work.have, work.state);
        }
        written?;
        read_back(part, target).await?;
    }
    Ok(state)
}

/// One part while it is written.
struct Staging<'a> {
    archive: &'a str,
    source: &'a dyn Source,
    progress: &'a mut (dyn FnMut(Progress) + Send),
    /// Not here while a thread has it.
    work: Option<Work>,
}

impl Staging<'_> {
    fn work(&mut self) -> Result<&mut Work> {
        self.work.as_mut().ok_or_else(gone)
    }

    /// Lets a thread that may wait for the disk do a step.
    async fn step<R: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Work) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let mut work = self.work.take().ok_or_else(gone)?;
        let done = tokio::task::spawn_blocking(move || {
            let answer = act(&mut work);
            (work, answer)
        });
        let (work, answer) = done.await.map_err(|error| Error::Internal(error.to_string()))?;
        (self.progress)(work.state);
        self.work = Some(work);
        answer
    }

    async fn part(&mut self, part: &Part) -> Result<()> {
        let mut all = part.placed().map(|(at, chunk)| (at, *chunk));
        loop {
            let more: Vec<Placed> = all.by_ref().take(STEP).collect();
            if more.is_empty() {
                break;
            }
            self.work()?.next.extend(more);
            self.go_on().await?;
        }
        while !self.work()?.due.is_empty() {
            self.fetch().await?;
            // What a patch did not give stands in line again.
            self.go_on().await?;
        }
        let mut at = Some(part.bytes);
        while let Some(from) = at {
            at = self.step(move |work| work.clear(from)).await?;
        }
        self.step(Work::sync).await
    }

    /// Goes through what is next, until all of it is in its place or due.
    async fn go_on(&mut self) -> Result<()> {
        while self.step(Work::look).await? {
            self.fetch().await?;
        }
        Ok(())
    }

    /// Fetches what is due. What a patch should have given and did not stands in line again, for the archive.
    async fn fetch(&mut self) -> Result<()> {
        let archive = self.archive;
        let work = self.work()?;
        let mut due = VecDeque::from(std::mem::take(&mut work.due));
        let Some(first) = due.front() else { return Ok(()) };
        let of_patch = first.frame.is_some();
        let patch = work.have.patch.as_ref().filter(|_| of_patch);
        let file = patch.map_or(archive, |patch| patch.file()).to_owned();
        let mut fetched = self.fetch_from(&file, &mut due).await;
        if let Err(error) = &fetched
            && of_patch
            && patch::may_pass(error)
        {
            tracing::warn!("{error}; what is left of that request is asked for once more");
            fetched = self.fetch_from(&file, &mut due).await;
        }
        match fetched {
            Err(error) if of_patch && patch::is_of_patch(&error) => {
                let work = self.work()?;
                work.have.refuse(&error);
                for Due { at, chunk, .. } in due.into_iter().rev() {
                    work.next.push_front((at, chunk));
                }
                Ok(())
            }
            fetched => fetched,
        }
    }

    /// Fetches neighbours in one request, and writes each chunk as soon as it is known to be right. Those that are written are
    /// due no more.
    async fn fetch_from(&mut self, file: &str, due: &mut VecDeque<Due>) -> Result<()> {
        let (Some(first), Some(last)) = (due.front(), due.back()) else { return Ok(()) };
        let mut stretch = self.source.range(file, first.place.offset, last.place.end()).await?;
        while let Some(one) = due.front().copied() {
            let stored = stretch.take(one.place.length as usize).await?;
            let file = file.to_owned();
            self.step(move |work| work.fetched(&file, one, &stored)).await?;
            due.pop_front();
        }
        Ok(stretch.end().await?)
    }
}

/// Reads a partition from the disk and compares it with the index as a whole: the part, and zeros behind it.
///
/// # Errors
/// When it is something else.
pub async fn read_back(part: &Part, target: &Target) -> Result<()> {
    let (target, hash, bytes) = (target.clone(), part.hash, part.bytes);
    let reading = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        let failed = |source| Error::Partition { doing: "reading back", name: target.name.clone(), source };
        let mut reader = Reader::new(&*target.disk, target.disk.size().map_err(failed)?);
        let (mut piece, mut at, mut clear) = (vec![0; PIECE], 0, true);
        loop {
            let count = std::io::Read::read(&mut reader, &mut piece).map_err(failed)?;
            if count == 0 {
                break;
            }
            let of_part = usize::try_from(bytes - bytes.min(at)).unwrap_or(count).min(count);
            hasher.update(&piece[..of_part]);
            clear &= piece[of_part..count].iter().all(|byte| *byte == 0);
            at += count as u64;
        }
        if clear && *hasher.finalize().as_bytes() == hash {
            Ok(())
        } else {
            Err(Error::ReadBack(format!("partition {}", target.name)))
        }
    });
    reading.await.map_err(|error| Error::Internal(error.to_string()))?
}
