//! The parts of a release, taken out of a disk image by its partition table.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Take, Write};
use std::path::Path;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use lucid_release_format::index::MAX_PART;
use lucid_release_format::{Index, Kind, build};

use crate::error::{At as _, Error, Result};

/// Bytes of a sector of the table.
const SECTOR: u64 = 512;
/// Which partitions make a release. Both slots of a kind are alike in an image.
pub const PARTS: [(Kind, &str); 2] = [(Kind::Boot, "boot-a"), (Kind::Root, "root-a")];

/// A partition as something to read, which counts what was read of it and of those before.
struct Window<'a> {
    partition: Take<File>,
    done: &'a Cell<u64>,
    all: u64,
    tell: &'a dyn Fn(u64, u64),
}

impl Read for Window<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.partition.read(out)?;
        self.done.set(self.done.get() + count as u64);
        (self.tell)(self.done.get(), self.all);
        Ok(count)
    }
}

/// First byte and size of the partitions that make a release.
fn table(image: &Path) -> Result<Vec<(Kind, &'static str, u64, u64)>> {
    let disk = GptConfig::new()
        .writable(false)
        .only_valid_headers(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open(image)
        .map_err(|why| Error::Table { path: image.to_owned(), why: why.to_string() })?;
    let mut found = Vec::new();
    for (kind, name) in PARTS {
        let part = |why: &str| Error::Part { path: image.to_owned(), partition: name, why: why.to_owned() };
        let mut named = disk.partitions().values().filter(|partition| partition.name == name);
        let (Some(partition), None) = (named.next(), named.next()) else {
            return Err(part("there is none, or there are two"));
        };
        let sectors = (partition.last_lba + 1).saturating_sub(partition.first_lba);
        let (Some(start), Some(bytes)) =
            (partition.first_lba.checked_mul(SECTOR), sectors.checked_mul(SECTOR))
        else {
            return Err(part("it lies beyond any disk"));
        };
        if bytes > MAX_PART {
            return Err(part("it is larger than a part of a release may be"));
        }
        found.push((kind, name, start, bytes));
    }
    Ok(found)
}

/// Cuts the parts of an image, writes the archive, and gives the index. `tell` hears how many bytes of how many were read.
///
/// # Errors
/// When the image has no such partitions, or they cannot be read or packed.
pub fn cut(image: &Path, archive: impl Write, level: i32, tell: &dyn Fn(u64, u64)) -> Result<Index> {
    let table = table(image)?;
    let length = File::open(image).and_then(|file| file.metadata()).at("reading", image)?.len();
    let all: u64 = table.iter().map(|(.., bytes)| *bytes).sum();
    let done = Cell::new(0);
    let mut windows = Vec::new();
    for (kind, name, start, bytes) in table {
        if start.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(Error::Part { path: image.to_owned(), partition: name, why: "it is cut off".into() });
        }
        let mut file = File::open(image).at("opening", image)?;
        file.seek(SeekFrom::Start(start)).at("reading", image)?;
        windows.push((kind, Window { partition: file.take(bytes), done: &done, all, tell }));
    }
    build::release(windows, archive, level)
        .map_err(|source| Error::Release { what: image.display().to_string(), source })
}
