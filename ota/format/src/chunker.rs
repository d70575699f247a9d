//! Where a part is cut: by its content, so that what two releases share is cut alike wherever it stands.
//!
//! FastCDC in its form of 2020 (crate `fastcdc`, `v2020`, normalization 1, no seed): chunks of at least 8 KiB, of 32 KiB on
//! average, and of at most 128 KiB; the last one of a part may be shorter. The cuts belong to the format: a device that cuts
//! otherwise finds nothing of what it has.

use std::io::{self, ErrorKind, Read, Take};

use fastcdc::v2020::{Normalization, StreamCDC};

use crate::{
    error::{Error, Result},
    index::BLOCK,
};

/// The fewest bytes of a chunk that is not the last one of its part.
pub const MIN_CHUNK: u32 = 8 << 10;
/// What the bytes of chunks come to on average.
pub const AVERAGE_CHUNK: u32 = 32 << 10;
/// The most bytes of a chunk.
pub const MAX_CHUNK: u32 = 128 << 10;

/// Cuts the first so many bytes of a reader. Gives each chunk with its offset in the reader. A reader that ends before is an
/// error, and so is one that fails; nothing comes after an error. At most two chunks are in memory.
pub fn chunks<R: Read>(reader: R, bytes: u64) -> Chunks<R> {
    Chunks::new(reader, bytes, Some(bytes))
}

/// Cuts the part that a partition holds, whose end nobody has to know: as a release of that partition was cut. A partition
/// of zeros alone has no chunks.
pub fn chunks_of_partition<R: Read>(partition: R) -> Chunks<Partition<R>> {
    Chunks::new(Partition::new(partition), u64::MAX, None)
}

/// The chunks of a reader, one after the other, each with its offset.
pub struct Chunks<R: Read> {
    cutter: StreamCDC<Take<Steady<R>>>,
    /// How many bytes have to come.
    due: Option<u64>,
    /// How many came.
    had: u64,
    over: bool,
}

impl<R: Read> Chunks<R> {
    fn new(reader: R, most: u64, due: Option<u64>) -> Self {
        let reader = Steady(reader).take(most);
        let cutter =
            StreamCDC::with_level(reader, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK, Normalization::Level1);
        Self { cutter, due, had: 0, over: false }
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match self.cutter.next() {
            Some(Ok(chunk)) => {
                self.had = chunk.offset + chunk.data.len() as u64;
                Some(Ok((chunk.offset, chunk.data)))
            }
            Some(Err(error)) => {
                self.over = true;
                Some(Err(Error::Io { doing: "reading a part to cut it", source: error.into() }))
            }
            None => {
                self.over = true;
                let bytes = self.due.filter(|bytes| self.had < *bytes)?;
                Some(Err(Error::Short { had: self.had, bytes }))
            }
        }
    }
}

/// Tries again when a signal came between.
struct Steady<R>(R);

impl<R: Read> Read for Steady<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(out) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
    }
}

/// Reads of a partition the part that it holds: up to the last byte that is not zero, and zeros after it up to a multiple of
/// 4096. Holds 64 KiB.
pub struct Partition<R> {
    partition: R,
    /// What was read last.
    buffer: Vec<u8>,
    /// Where in the buffer those bytes are that have still to be given: from here,
    from: usize,
    /// and up to here.
    to: usize,
    /// Zeros to be given before them.
    owed: u64,
    /// Zeros after them, which are given when something comes after them.
    held: u64,
    /// How many bytes were given.
    given: u64,
    ended: bool,
}

impl<R: Read> Partition<R> {
    /// From the partition's first byte on.
    pub fn new(partition: R) -> Self {
        let buffer = vec![0; 64 << 10];
        Self { partition, buffer, from: 0, to: 0, owed: 0, held: 0, given: 0, ended: false }
    }
}

impl<R: Read> Read for Partition<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.owed > 0 {
                let count = usize::try_from(self.owed).map_or(out.len(), |owed| owed.min(out.len()));
                out[..count].fill(0);
                self.owed -= count as u64;
                self.given += count as u64;
                return Ok(count);
            }
            if self.from < self.to {
                let count = out.len().min(self.to - self.from);
                out[..count].copy_from_slice(&self.buffer[self.from..self.from + count]);
                self.from += count;
                self.given += count as u64;
                return Ok(count);
            }
            if self.ended {
                return Ok(0);
            }
            let count = self.partition.read(&mut self.buffer)?;
            if count == 0 {
                self.ended = true;
                self.owed = self.given.next_multiple_of(BLOCK) - self.given;
                continue;
            }
            let live = self.buffer[..count].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if live > 0 {
                self.owed = self.held;
                self.held = 0;
            }
            self.held += (count - live) as u64;
            (self.from, self.to) = (0, live);
        }
    }
}
