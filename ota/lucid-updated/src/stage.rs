//! Writes a release into the slot that does not run.
//!
//! Chunk by chunk: what is in its place already stays; what another place of the slots holds is copied; the rest is fetched,
//! neighbours together, and compared with the index before anything of it is written. What was written is brought to the disk
//! every 4 MiB, so a power cut costs no more than that. What is behind a part becomes zeros. At the end all is read back. Beside the index and what is remembered of
//! the slots, memory holds one request's bytes, at most 4 MiB.

use std::sync::Arc;

use lucid_release_format::{Chunk, Index, Kind, Part};

use crate::{
    disk::{Disk, Reader},
    error::{Error, Result},
    have::Have,
    source::Source,
};

/// So much is written between two times of bringing it to the disk.
const SYNC: u64 = 4 << 20;
/// So much is fetched with one request.
const REQUEST: u64 = 4 << 20;
/// So much is read at once when all is read back.
const PIECE: usize = 1 << 20;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
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
}

/// A chunk that has to be fetched, and where it goes.
struct Due<'a> {
    chunk: &'a Chunk,
    at: u64,
}

/// What is at hand while a release is written.
struct Staging<'a> {
    archive: &'a str,
    source: &'a dyn Source,
    have: &'a mut Have,
    progress: &'a mut (dyn FnMut(Progress) + Send),
    state: Progress,
}

/// One part of it.
struct Place<'a> {
    target: &'a Target,
    /// The partition's number in [`Have`].
    number: usize,
    /// Bytes that were written since the last time of bringing them to the disk.
    loose: u64,
}

impl Place<'_> {
    fn failed(&self, doing: &'static str) -> impl Fn(std::io::Error) -> Error {
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
    let state = Progress { total, ..Progress::default() };
    let mut staging = Staging { archive, source, have, progress, state };
    for target in targets {
        let part = index.part(target.kind).ok_or(Error::NoPart(target.kind))?;
        staging.part(part, target).await?;
        read_back(part, target).await?;
    }
    Ok(staging.state)
}

impl Staging<'_> {
    fn done(&mut self, raw: u32, count: impl FnOnce(&mut Progress)) {
        self.state.done += u64::from(raw);
        count(&mut self.state);
        (self.progress)(self.state);
    }

    async fn part(&mut self, part: &Part, target: &Target) -> Result<()> {
        let mut place = Place { target, number: self.have.disk(target.disk.clone()), loose: 0 };
        let mut due: Vec<Due<'_>> = Vec::new();
        for (at, chunk) in part.placed() {
            let mut bytes = vec![0; chunk.raw as usize];
            target.disk.read_at(at, &mut bytes).map_err(place.failed("reading"))?;
            if chunk.is(&bytes) {
                self.have.put(chunk.hash, place.number, at, chunk.raw);
                self.done(chunk.raw, |state| state.kept += u64::from(chunk.raw));
                // Others have their turn between chunks.
                tokio::task::yield_now().await;
                continue;
            }
            // The same chunk again: once it is written it is copied from there.
            if due.iter().any(|due| due.chunk.hash == chunk.hash) {
                self.fetch(&mut place, &mut due).await?;
            }
            if let Some(bytes) = self.have.get(chunk) {
                place.write(at, &bytes)?;
                self.have.put(chunk.hash, place.number, at, chunk.raw);
                self.done(chunk.raw, |state| state.copied += u64::from(chunk.raw));
                tokio::task::yield_now().await;
                continue;
            }
            // Neighbours in the archive come with one request.
            if let (Some(first), Some(last)) = (due.first(), due.last())
                && (last.chunk.place.end() != chunk.place.offset
                    || chunk.place.end() - first.chunk.place.offset > REQUEST)
            {
                self.fetch(&mut place, &mut due).await?;
            }
            due.push(Due { chunk, at });
        }
        self.fetch(&mut place, &mut due).await?;
        clear(&mut place, part.bytes).await?;
        place.sync()
    }

    /// Fetches what is due, in one request, and writes each chunk as soon as it is known to be right.
    async fn fetch(&mut self, place: &mut Place<'_>, due: &mut Vec<Due<'_>>) -> Result<()> {
        let (Some(first), Some(last)) = (due.first(), due.last()) else { return Ok(()) };
        let mut stretch =
            self.source.range(self.archive, first.chunk.place.offset, last.chunk.place.end()).await?;
        for Due { chunk, at } in due.drain(..) {
            let stored = stretch.take(chunk.place.length as usize).await?;
            let bytes = chunk.open(&stored).map_err(|error| Error::Chunk {
                name: self.archive.to_owned(),
                offset: chunk.place.offset,
                why: error.to_string(),
            })?;
            place.write(at, &bytes)?;
            self.have.put(chunk.hash, place.number, at, chunk.raw);
            self.done(chunk.raw, |state| state.fetched += u64::from(chunk.place.length));
        }
        Ok(stretch.end().await?)
    }
}

/// Makes what is behind a part zeros: of the content before, nothing stays. What is zero is only read.
async fn clear(place: &mut Place<'_>, from: u64) -> Result<()> {
    let size = place.target.disk.size().map_err(place.failed("reading"))?;
    let mut at = from;
    while at < size {
        let mut piece = vec![0; usize::try_from(size - at).unwrap_or(PIECE).min(PIECE)];
        place.target.disk.read_at(at, &mut piece).map_err(place.failed("reading"))?;
        if piece.iter().any(|byte| *byte != 0) {
            piece.fill(0);
            place.write(at, &piece)?;
        }
        at += piece.len() as u64;
        tokio::task::yield_now().await;
    }
    Ok(())
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
