//! What chunks of releases the slots hold: they are cut as releases are, so what is the same is found wherever it stands.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use lucid_release_format::{Hash, Piece, chunks_of_partition};

use crate::{
    disk::{Disk, Reader},
    error::{Error, Result},
    patch::Patched,
};

/// So many chunks are remembered: those of both slots of a kind, each as large as a part may be with chunks of usual size.
/// One takes 56 bytes.
const MOST: usize = 1 << 17;

/// Where a chunk was seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Which disk.
    disk: usize,
    /// Where on it, in bytes.
    at: u64,
    /// How many bytes.
    length: u32,
}

/// Chunks by their hashes. What it says was so when it was looked at; what it gives is so now.
#[derive(Default)]
pub struct Have {
    disks: Vec<Arc<dyn Disk>>,
    seen: HashMap<Hash, Seen>,
    /// What makes other chunks of those that are there.
    pub patch: Option<Patched>,
    /// Why a patch that there was is not used.
    pub refused: Option<String>,
}

impl Have {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many different chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Whether it was seen somewhere.
    #[must_use]
    pub fn has(&self, hash: &Hash) -> bool {
        self.seen.contains_key(hash)
    }

    /// A disk on which chunks are; what is given back stands for it in [`Have::add`].
    pub fn disk(&mut self, disk: Arc<dyn Disk>) -> usize {
        self.disks.push(disk);
        self.disks.len() - 1
    }

    /// A chunk that is there. One that is known already stays where it was seen first.
    pub fn add(&mut self, hash: Hash, disk: usize, at: u64, length: u32) {
        if self.seen.len() < MOST
            && let Entry::Vacant(new) = self.seen.entry(hash)
        {
            new.insert(Seen { disk, at, length });
        }
    }

    /// A chunk that was put into a place where it stays.
    pub fn put(&mut self, hash: Hash, disk: usize, at: u64, length: u32) {
        if self.seen.len() < MOST || self.seen.contains_key(&hash) {
            self.seen.insert(hash, Seen { disk, at, length });
        }
    }

    /// Does without the patch from now on.
    pub fn refuse(&mut self, why: &Error) {
        tracing::warn!("{why}; the patch is not used in this run, and the chunks are fetched");
        (self.patch, self.refused) = (None, Some(why.to_string()));
    }

    /// The chunk that a frame of the patch makes.
    ///
    /// # Errors
    /// When there is no patch, what it stands on is not there, or it makes anything else.
    pub fn unpatch(&mut self, frame: usize, stored: &[u8]) -> Result<Vec<u8>> {
        let gone = || Error::Internal("a frame without its patch".to_owned());
        let mut patch = self.patch.take().ok_or_else(gone)?;
        let chunk = patch.chunk(frame, stored, &mut |piece| self.get(piece));
        self.patch = Some(patch);
        chunk
    }

    /// Reads a whole partition and adds its chunks, which it gives in their order. Takes as long as reading it does.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn cut(&mut self, name: &str, disk: Arc<dyn Disk>) -> Result<Vec<Piece>> {
        let failed = |source| Error::Partition { doing: "reading", name: name.to_owned(), source };
        let number = self.disk(disk.clone());
        let size = disk.size().map_err(failed)?;
        let mut pieces = Vec::new();
        for chunk in chunks_of_partition(Reader::new(&*disk, size)) {
            let (at, bytes) = chunk.map_err(|error| failed(std::io::Error::other(error)))?;
            let length = u32::try_from(bytes.len()).map_err(|error| Error::Internal(error.to_string()))?;
            let piece = Piece { hash: *blake3::hash(&bytes).as_bytes(), raw: length };
            self.add(piece.hash, number, at, length);
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// The chunk, if it is somewhere still.
    pub fn get(&mut self, chunk: impl Into<Piece>) -> Option<Vec<u8>> {
        let chunk = chunk.into();
        let seen = *self.seen.get(&chunk.hash)?;
        let mut bytes = vec![0; seen.length as usize];
        // A place that cannot be read any more, or holds something else by now, is as good as none: the chunk is fetched.
        match self.disks[seen.disk].read_at(seen.at, &mut bytes) {
            Ok(()) if chunk.is(&bytes) => Some(bytes),
            Ok(()) => {
                self.seen.remove(&chunk.hash);
                None
            }
            Err(error) => {
                tracing::warn!("reading a chunk that is there: {error}; it is fetched");
                self.seen.remove(&chunk.hash);
                None
            }
        }
    }
}
