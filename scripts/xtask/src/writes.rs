//! What a machine's disk was told, in order, and what is on it after a power cut.
//!
//! QEMU's driver `blklogwrites` keeps a log of every write and flush of the guest, in the form of the kernel's
//! dm-log-writes (`drivers/md/dm-log-writes.c`): a superblock in the first sector, then entries, each with a sector of
//! its own (sector, number of sectors, flags, length; 64 bits each, little-endian) and after it the data.
//!
//! The model of a power cut: what was written before the last flush that the disk confirmed is there; of every later
//! write it is a matter of chance whether all of it is there, some of its first sectors, or nothing. That is what a disk
//! with a cache of its own may do, and more than most do.
//!
//! An entry comes into the log when the disk has done what it says, and our disk confirms a flush at once: what is before
//! a flush in the log was done before it was asked for, so the log's order is all that has to be known of time.

use std::{
    fs::{self, File, OpenOptions},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    error::{At, Error, Result},
    machine::copy_sparse,
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
    /// When it was found in the log: no earlier than it came there.
    seen: Instant,
}

impl Entry {
    /// Whether a power cut may keep it from the disk for as long as no flush follows.
    fn may_be_lost(&self) -> bool {
        self.length > 0 && self.flags & FUA == 0
    }

    /// Its first `length` bytes.
    fn piece(&self, length: u64) -> Piece {
        Piece { at: self.at, length, data: self.data }
    }
}

/// What is on the disk of a write: all of it, or its first sectors.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    /// Where it begins on the disk.
    pub(crate) at: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// Where its data is in the log.
    data: u64,
}

impl Piece {
    /// Whether it has a byte of that part of the disk.
    pub(crate) fn is_in(&self, part: &Range<u64>) -> bool {
        self.at < part.end && part.start < self.at + self.length
    }
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
#[derive(Clone, Copy, Default)]
pub(crate) struct Cut {
    /// Before the last flush.
    pub(crate) kept: usize,
    /// After it.
    pub(crate) in_doubt: usize,
    /// Of those, not there or not whole.
    pub(crate) lost: usize,
}

/// A disk, or a part of one, that follows a log: in its image is what is certainly on it.
pub(crate) struct Replay {
    path: PathBuf,
    image: File,
    /// Which bytes of the disk the image has.
    part: Range<u64>,
    /// The entry that comes next.
    next: usize,
    /// Writes so far.
    kept: usize,
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

    /// Reads the entries that have come, and gives the data of those that are writes to `look`, in order, with their
    /// numbers.
    pub(crate) fn advance(&mut self, mut look: impl FnMut(usize, &[u8])) -> Result<()> {
        let end = self.file.metadata().at("looking at", &self.path)?.len();
        if end < SECTOR {
            return Ok(());
        }
        let seen = Instant::now();
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
                look(self.entries.len(), &self.data(data, length)?);
            }
            self.entries.push(Entry { at: sector * SECTOR, length, flags, data, seen });
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

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// When an entry was found, if there is one of that number.
    pub(crate) fn seen(&self, number: usize) -> Option<Instant> {
        self.entries.get(number).map(|entry| entry.seen)
    }

    /// The moments from `first` on at which a power cut may lose something, each as the number of the entries before it,
    /// with whether the next entry is a flush that would have saved it.
    pub(crate) fn in_doubt(&self, first: usize) -> Vec<(usize, bool)> {
        let mut doubt = false;
        let mut found = Vec::new();
        for (number, entry) in self.entries.iter().enumerate() {
            let flush = entry.flags & FLUSH != 0;
            if doubt && number >= first {
                found.push((number, flush));
            }
            doubt = entry.may_be_lost() || doubt && !flush;
        }
        found
    }

    /// Whether an entry is a flush.
    pub(crate) fn is_flush(&self, number: usize) -> bool {
        self.entries.get(number).is_some_and(|entry| entry.flags & FLUSH != 0)
    }

    /// The whole write of that number; none where the entry is something else.
    pub(crate) fn piece(&self, number: usize) -> Option<Piece> {
        self.entries.get(number).filter(|entry| entry.length > 0).map(|entry| entry.piece(entry.length))
    }

    /// What was written.
    pub(crate) fn bytes(&self, piece: &Piece) -> Result<Vec<u8>> {
        self.data(piece.data, piece.length)
    }

    /// So many of the first `at` entries are before a flush that is among them.
    pub(crate) fn flushed(&self, at: usize) -> usize {
        let before = self.entries.get(..at).unwrap_or(&self.entries);
        before.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |last| last + 1)
    }

    /// What chance leaves of those of the first `at` entries that are not flushed, in order; the same for the same picks.
    pub(crate) fn left(&self, at: usize, picks: &mut Picks) -> (Cut, Vec<Piece>) {
        let (mut cut, mut pieces) = (Cut::default(), Vec::new());
        // A cache that has written nothing yet is the plainest case, and chance alone would hardly ever have it.
        let nothing = picks.below(4) == 0;
        let doubted = self.entries.iter().take(at).skip(self.flushed(at));
        for entry in doubted.filter(|entry| entry.length > 0) {
            if !entry.may_be_lost() {
                cut.kept += 1;
                pieces.push(entry.piece(entry.length));
                continue;
            }
            let there = match picks.below(3) {
                _ if nothing => 0,
                0 => 0,
                1 => picks.below(entry.length / SECTOR) * SECTOR,
                _ => entry.length,
            };
            cut.in_doubt += 1;
            cut.lost += usize::from(there < entry.length);
            if there > 0 {
                pieces.push(entry.piece(there));
            }
        }
        (cut, pieces)
    }

    /// Makes of `disk`, as it was at the machine's start, what a power cut at the log's end leaves.
    pub(crate) fn cut(&self, disk: &Path, picks: &mut Picks) -> Result<Cut> {
        let mut replay = Replay::new(disk, 0..u64::MAX)?;
        replay.settle(self, self.len())?;
        replay.lose(self, self.len(), picks, &replay.image)
    }
}

impl Replay {
    /// Begins with an image of that part of the disk, as it was at the machine's start.
    pub(crate) fn new(image: &Path, part: Range<u64>) -> Result<Self> {
        let file = OpenOptions::new().write(true).open(image).at("opening", image)?;
        Ok(Self { path: image.to_owned(), image: file, part, next: 0, kept: 0 })
    }

    /// Makes a copy of what a power cut leaves that comes after the log's first `at` entries. Later calls may not go back.
    pub(crate) fn cut_to(
        &mut self,
        writes: &Writes,
        at: usize,
        picks: &mut Picks,
        copy: &Path,
    ) -> Result<Cut> {
        self.settle(writes, at)?;
        copy_sparse(&self.path, copy)?;
        let file = OpenOptions::new().write(true).open(copy).at("opening", copy)?;
        self.lose(writes, at, picks, &file)
    }

    /// Makes it what is left where the log ends and nothing is lost.
    pub(crate) fn end(self, writes: &Writes) -> Result<()> {
        for entry in writes.entries.iter().skip(self.next) {
            self.write(writes, &entry.piece(entry.length), &self.image)?;
        }
        Ok(())
    }

    /// Writes everything that is flushed before `at`.
    pub(crate) fn settle(&mut self, writes: &Writes, at: usize) -> Result<()> {
        let end = writes.flushed(at);
        if end < self.next {
            return Err(Error::broken("a disk that follows its log cannot go back in it"));
        }
        for entry in writes.entries.iter().take(end).skip(self.next) {
            self.write(writes, &entry.piece(entry.length), &self.image)?;
            self.kept += usize::from(entry.length > 0);
        }
        self.next = end;
        Ok(())
    }

    /// Writes what chance leaves of the entries that are not flushed before `at`.
    fn lose(&self, writes: &Writes, at: usize, picks: &mut Picks, image: &File) -> Result<Cut> {
        let (mut cut, pieces) = writes.left(at, picks);
        cut.kept += self.kept;
        for piece in &pieces {
            self.write(writes, piece, image)?;
        }
        Ok(cut)
    }

    /// Writes a piece, as far as it is in our part of the disk.
    fn write(&self, writes: &Writes, piece: &Piece, image: &File) -> Result<()> {
        let from = piece.at.max(self.part.start);
        let to = (piece.at + piece.length).min(self.part.end);
        if from >= to {
            return Ok(());
        }
        let data = writes.data(piece.data + (from - piece.at), to - from)?;
        image.write_all_at(&data, from - self.part.start).at("writing", &self.path)
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
            writes.advance(|_, data| looked += data.len()).unwrap();
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
        writes.advance(|_, _| ()).unwrap();
        assert_eq!(writes.entries.len(), 2);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 512, 1024]);
    }

    #[test]
    fn a_part_of_a_disk_follows_the_log_from_moment_to_moment() {
        let dir = std::env::temp_dir().join(format!("xtask-writes-part-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, part, copy) = (dir.join("log"), dir.join("part"), dir.join("copy"));
        let (a, b, c) = ([1; 1024], [2; 1024], [3; 512]);
        // The part is sectors 1 to 4; the first write begins before it, the second one ends after it.
        fs::write(&path, log(&[(0, 0, &a), (0, FLUSH, &[]), (4, FUA, &b), (2, 0, &c), (0, FLUSH, &[])]))
            .unwrap();
        fs::write(&part, [9; 2048]).unwrap();
        let mut writes = Writes::open(&path).unwrap();
        writes.advance(|_, _| ()).unwrap();
        assert_eq!(writes.in_doubt(0), [(1, true), (4, true)]);
        assert_eq!(writes.in_doubt(2), [(4, true)]);
        let mut replay = Replay::new(&part, 512..2560).unwrap();
        let mut picks = Picks::new(0);
        let mut left = |replay: &mut Replay, at| {
            let cut = replay.cut_to(&writes, at, &mut picks, &copy)?;
            let firsts: Vec<u8> = fs::read(&copy).unwrap().chunks(512).map(|sector| sector[0]).collect();
            Ok::<_, Error>(((cut.kept, cut.in_doubt), firsts))
        };
        assert_eq!(left(&mut replay, 0).unwrap(), ((0, 0), vec![9, 9, 9, 9]));
        assert_eq!(left(&mut replay, 2).unwrap(), ((1, 0), vec![1, 9, 9, 9]));
        assert_eq!(left(&mut replay, 3).unwrap(), ((2, 0), vec![1, 9, 9, 2]));
        let fates: std::collections::BTreeSet<_> =
            (0..50).map(|_| left(&mut replay, 4).unwrap()).map(|(counts, left)| (counts, left[1])).collect();
        assert_eq!(fates.into_iter().collect::<Vec<_>>(), [((2, 1), 3), ((2, 1), 9)]);
        assert_eq!(left(&mut replay, 5).unwrap(), ((3, 0), vec![1, 3, 9, 2]));
        assert!(left(&mut replay, 2).is_err());
        // What is left is the same for the same seed, whichever part of the disk it is written to; and all is there at the end.
        let of = |seed| {
            let (_, pieces) = writes.left(4, &mut Picks::new(seed));
            pieces.iter().map(|piece| (piece.at, piece.length)).collect::<Vec<_>>()
        };
        assert!((0..50).all(|seed| of(seed) == of(seed)));
        let fates: std::collections::BTreeSet<_> = (0..50).map(of).collect();
        assert_eq!(
            fates.into_iter().collect::<Vec<_>>(),
            [vec![(2048, 1024)], vec![(2048, 1024), (1024, 512)]]
        );
        assert!(writes.is_flush(1) && !writes.is_flush(2) && writes.piece(1).is_none());
        assert!(
            writes.piece(2).is_some_and(|piece| piece.is_in(&(3071..4000)) && !piece.is_in(&(3072..4000)))
        );
        fs::write(&part, [9; 2048]).unwrap();
        Replay::new(&part, 512..2560).unwrap().end(&writes).unwrap();
        let firsts: Vec<u8> = fs::read(&part).unwrap().chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(firsts, [1, 3, 9, 2]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
