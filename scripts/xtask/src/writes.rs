//! What a machine's disk was told, in order, and what is on it after a power cut.
//!
//! QEMU's driver `blklogwrites` keeps a log of every write and flush of the guest, in the form of the kernel's
//! dm-log-writes (`drivers/md/dm-log-writes.c`): a superblock in the first sector, then entries, each with a sector of
//! its own (sector, number of sectors, flags, length; 64 bits each, little-endian) and after it the data.
//!
//! The model of a power cut: what was written before the last flush that the disk confirmed is there; of every later
//! write it is a matter of chance whether all of it is there, some of its first sectors, or nothing. That is what a disk
//! with a cache of its own may do, and more than most do.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{At, Error, Result},
    suite::Picks,
};

/// Of the log and of its entries.
const SECTOR: u64 = 512;
/// The first eight bytes of a log.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A write, a flush, or both.
#[derive(Clone, Copy)]
struct Entry {
    /// Of the disk.
    at: u64,
    /// Bytes.
    length: u64,
    flags: u64,
    /// Where its data is in the log.
    data: u64,
}

/// A log that may still grow.
pub(crate) struct Writes {
    file: File,
    path: PathBuf,
    entries: Vec<Entry>,
    /// Where the next entry will be.
    next: u64,
}

/// What became of the writes.
pub(crate) struct Cut {
    /// Before the last flush.
    pub(crate) kept: usize,
    /// After it.
    pub(crate) in_doubt: usize,
    /// Of those, not there or not whole.
    pub(crate) lost: usize,
}

impl Writes {
    /// Opens the log of a machine that has been started.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).at("opening", path)?;
        Ok(Self { file, path: path.to_owned(), entries: Vec::new(), next: SECTOR })
    }

    fn number(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).at("reading", &self.path)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads the entries that have come, and gives the data of those that are writes to `look`, in order.
    pub(crate) fn advance(&mut self, mut look: impl FnMut(&[u8])) -> Result<()> {
        let end = self.file.metadata().at("looking at", &self.path)?.len();
        if end < SECTOR {
            return Ok(());
        }
        if self.number(0)? != MAGIC {
            return Err(Error::talk("QEMU", format!("{} is no log of writes", self.path.display())));
        }
        while self.next + SECTOR <= end {
            let sector = self.number(self.next)?;
            let sectors = self.number(self.next + 8)?;
            let flags = self.number(self.next + 16)?;
            if (sector, sectors, flags) == (0, 0, 0) {
                break;
            }
            let data = self.next + SECTOR;
            let length = if flags & DISCARD == 0 { sectors * SECTOR } else { 0 };
            if data + length > end {
                break;
            }
            if length > 0 {
                look(&self.data(data, length)?);
            }
            self.entries.push(Entry { at: sector * SECTOR, length, flags, data });
            self.next = data + length;
        }
        Ok(())
    }

    fn data(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(|error| Error::talk("QEMU", error))?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).at("reading", &self.path)?;
        Ok(bytes)
    }

    /// Makes of `disk`, as it was at the machine's start, what a power cut at the log's end leaves.
    pub(crate) fn cut(&self, disk: &Path, picks: &mut Picks) -> Result<Cut> {
        let target = OpenOptions::new().write(true).open(disk).at("opening", disk)?;
        let flushed = self.entries.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |at| at + 1);
        let mut cut = Cut { kept: 0, in_doubt: 0, lost: 0 };
        for (number, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.length > 0) {
            let mut data = self.data(entry.data, entry.length)?;
            if number < flushed || entry.flags & FUA != 0 {
                cut.kept += 1;
            } else {
                cut.in_doubt += 1;
                let sectors = match picks.below(3) {
                    0 => 0,
                    1 => picks.below(entry.length / SECTOR),
                    _ => entry.length / SECTOR,
                };
                data.truncate(usize::try_from(sectors * SECTOR).unwrap_or(usize::MAX));
                cut.lost += usize::from(sectors * SECTOR < entry.length);
            }
            target.write_all_at(&data, entry.at).at("writing", disk)?;
        }
        Ok(cut)
    }
}

/// Makes an empty log.
pub(crate) fn empty(path: &Path) -> Result<()> {
    fs::write(path, "").at("emptying", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.resize(512, 0);
        for (sector, flags, data) in entries {
            let start = bytes.len();
            for number in [*sector, data.len() as u64 / 512, *flags, 0] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.resize(start + 512, 0);
            bytes.extend(*data);
        }
        bytes
    }

    #[test]
    fn what_was_flushed_is_there_after_a_cut_and_what_was_not_may_be_lost_torn_or_there() {
        let dir = std::env::temp_dir().join(format!("xtask-writes-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, disk) = (dir.join("log"), dir.join("disk"));
        let (a, b) = ([1; 1024], [2; 1024]);
        // Sector 0 is written too, and its entry is no end of the log.
        let bytes = log(&[(0, 0, &a), (0, FLUSH, &[]), (4, 0, &b)]);
        fs::write(&path, &bytes).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            fs::write(&disk, vec![9; 4096]).unwrap();
            let mut writes = Writes::open(&path).unwrap();
            let mut looked = 0;
            writes.advance(|data| looked += data.len()).unwrap();
            assert_eq!(looked, 2048);
            let cut = writes.cut(&disk, &mut Picks::new(seed)).unwrap();
            assert_eq!((cut.kept, cut.in_doubt), (1, 1));
            let disk = fs::read(&disk).unwrap();
            assert_eq!(disk[..1024], a);
            assert!(disk[1024..2048].iter().chain(&disk[3072..]).all(|byte| *byte == 9));
            seen.insert(disk[2048..3072].iter().filter(|byte| **byte == 2).count());
        }
        // An entry that is still being written does not count.
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut writes = Writes::open(&path).unwrap();
        writes.advance(|_| ()).unwrap();
        assert_eq!(writes.entries.len(), 2);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 512, 1024]);
    }
}
