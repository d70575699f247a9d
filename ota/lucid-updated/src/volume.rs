//! The file system of a USB stick: FAT16, FAT32 or exFAT, read and never written. No kernel's driver sees what a stranger's stick
//! holds, and nothing of it is mounted: bytes of the block device are looked at here, in a program without rights.
//!
//! Nothing of it is trusted: every place is within the device, a directory has at most [`MAX_DIRECTORY`] bytes, a file lies in at
//! most [`MAX_PIECES`] pieces, and what is followed from cluster to cluster comes to an end. There are no links in these file
//! systems. Letters of ASCII are the same large and small, as everywhere on such disks.
//!
//! By Microsoft's "FAT: General Overview of On-Disk Format", 1.03, and "exFAT file system specification", 1.00.

use std::{io, sync::Arc};

use crate::disk::Disk;

/// A directory has at most so many bytes: 32768 entries.
pub const MAX_DIRECTORY: u64 = 1 << 20;
/// A file lies in at most so many pieces.
pub const MAX_PIECES: usize = 4096;
/// A file has at most so many bytes.
pub const MAX_FILE: u64 = 4 << 30;
/// Bytes of an entry of a directory.
const ENTRY: usize = 32;
/// So much of the table of clusters is read at a time: no device has smaller sectors, and so no entry lies across two of them.
const BLOCK: u64 = 512;
/// A directory is read in pieces of so many bytes.
const PIECE: u64 = 32 << 10;

/// Why a volume, or a file of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// The device does not give it.
    #[error("reading it: {0}; it was pulled out, or fails")]
    Device(#[from] io::Error),
    /// It holds something else.
    #[error("it holds none of the file systems FAT16, FAT32 and exFAT: format it anew")]
    Foreign,
    /// What the file system says cannot be.
    #[error("its file system is damaged: {0}; format it anew")]
    Damaged(&'static str),
    /// More than is read.
    #[error("{0}; format it anew, and put nothing but releases on it")]
    TooMuch(&'static str),
}

type Result<T, E = Unreadable> = std::result::Result<T, E>;

/// Which file system it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fat16,
    Fat32,
    Exfat,
}

/// A piece of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    at: u64,
    length: u64,
}

/// A file system.
pub struct Volume {
    disk: Arc<dyn Disk>,
    kind: Kind,
    /// Where its table of clusters begins, and where cluster 2 does.
    table: u64,
    heap: u64,
    /// The size of a cluster, and how many there are.
    cluster: u64,
    clusters: u64,
    root: Content,
}

/// Where something lies.
#[derive(Clone, Copy, Debug)]
enum Content {
    /// A piece outside of the clusters: FAT16's root.
    Fixed(Piece),
    /// Clusters from this one on: as the table says, or one after the other.
    Clusters { first: u64, length: Option<u64>, in_a_row: bool },
}

/// What a directory names.
#[derive(Clone, Copy, Debug)]
struct Found {
    directory: bool,
    content: Content,
    length: u64,
}

/// A file.
#[derive(Debug)]
pub struct File {
    pieces: Vec<Piece>,
    length: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 2).map_or(0, |two| u64::from(two[0]) | u64::from(two[1]) << 8)
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u16_at(bytes, at) | u16_at(bytes, at + 2) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) | u32_at(bytes, at + 4) << 32
}

/// Reads a piece, which has to be within the device.
fn read(disk: &dyn Disk, size: u64, at: u64, bytes: &mut [u8]) -> Result<()> {
    match at.checked_add(bytes.len() as u64) {
        Some(end) if end <= size => disk.read_at(at, bytes).map_err(Unreadable::Device),
        _ => Err(Unreadable::Damaged("it points outside of its device")),
    }
}

impl Volume {
    /// The file system of a device.
    ///
    /// # Errors
    /// When the device cannot be read, or holds none that is read here.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let size = disk.size()?;
        let mut first = [0; BLOCK as usize];
        if size < BLOCK {
            return Err(Unreadable::Foreign);
        }
        read(&*disk, size, 0, &mut first)?;
        if first[510..] != [0x55, 0xaa] {
            return Err(Unreadable::Foreign);
        }
        let volume =
            if &first[3..11] == b"EXFAT   " { Self::exfat(disk, &first) } else { Self::fat(disk, &first) }?;
        let end =
            volume.clusters.checked_mul(volume.cluster).and_then(|bytes| bytes.checked_add(volume.heap));
        if end.is_none_or(|end| end > size) {
            return Err(Unreadable::Damaged("it is larger than its device"));
        }
        Ok(volume)
    }

    fn fat(disk: Arc<dyn Disk>, first: &[u8; 512]) -> Result<Self> {
        let (sector, per_cluster) = (u16_at(first, 11), u64::from(first[13]));
        let (reserved, tables, entries) = (u16_at(first, 14), u64::from(first[16]), u16_at(first, 17));
        if ![512, 1024, 2048, 4096].contains(&sector)
            || !per_cluster.is_power_of_two()
            || reserved == 0
            || !(1..=2).contains(&tables)
        {
            return Err(Unreadable::Foreign);
        }
        // FAT32 has no length in the place where the others have it.
        let wide = u16_at(first, 22) == 0;
        let table = if wide { u32_at(first, 36) } else { u16_at(first, 22) };
        let root = (entries * ENTRY as u64).div_ceil(sector);
        let before = reserved + tables * table + root;
        let all = match u16_at(first, 19) {
            0 => u32_at(first, 32),
            all => all,
        };
        let clusters = all.saturating_sub(before) / per_cluster;
        let kind = match (wide, clusters) {
            (_, 0) => return Err(Unreadable::Damaged("it has no cluster")),
            (true, _) => Kind::Fat32,
            (false, 4085..65525) => Kind::Fat16,
            // FAT12 is of floppy disks.
            (false, _) => return Err(Unreadable::Foreign),
        };
        let width = if wide { 4 } else { 2 };
        if (clusters + 2) * width > table * sector {
            return Err(Unreadable::Damaged("its table is too short for its clusters"));
        }
        // With the mirroring of tables off, one of them counts.
        let flags = u16_at(first, 40);
        let counts = if wide && flags & 0x80 != 0 { flags & 0xf } else { 0 };
        if counts >= tables {
            return Err(Unreadable::Damaged("the table that counts is not there"));
        }
        let content = if wide {
            Content::Clusters { first: u32_at(first, 44) & 0x0fff_ffff, length: None, in_a_row: false }
        } else {
            Content::Fixed(Piece { at: (before - root) * sector, length: entries * ENTRY as u64 })
        };
        Ok(Self {
            disk,
            kind,
            table: (reserved + counts * table) * sector,
            heap: before * sector,
            cluster: per_cluster * sector,
            clusters,
            root: content,
        })
    }

    fn exfat(disk: Arc<dyn Disk>, first: &[u8; 512]) -> Result<Self> {
        let (shift, per_cluster) = (u32::from(first[108]), u32::from(first[109]));
        if !(9..=12).contains(&shift) || shift + per_cluster > 25 || !(1..=2).contains(&first[110]) {
            return Err(Unreadable::Damaged("its sectors or clusters have a size that there is not"));
        }
        let (offset, length) = (u32_at(first, 80), u32_at(first, 84));
        let (heap, clusters) = (u32_at(first, 88), u32_at(first, 92));
        let counts = u16_at(first, 106) & 1;
        if counts >= u64::from(first[110]) || (clusters + 2) * 4 > length << shift || clusters == 0 {
            return Err(Unreadable::Damaged("its table is too short for its clusters"));
        }
        Ok(Self {
            disk,
            kind: Kind::Exfat,
            table: (offset + counts * length) << shift,
            heap: heap << shift,
            cluster: 1 << (shift + per_cluster),
            clusters,
            root: Content::Clusters { first: u32_at(first, 96), length: None, in_a_row: false },
        })
    }

    /// What people call it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Fat16 => "FAT16",
            Kind::Fat32 => "FAT32",
            Kind::Exfat => "exFAT",
        }
    }

    /// A file by the names of the directories that lead to it, and its own; none when one of them is not there, or is no
    /// directory, or is one where a file has to be.
    ///
    /// # Errors
    /// When the device or the file system does not give it.
    pub fn file(&self, path: &[&str]) -> Result<Option<File>> {
        match self.find(path)? {
            Some(found) if !found.directory => Ok(Some(self.located(found)?)),
            _ => Ok(None),
        }
    }

    /// Whether there is such a directory.
    ///
    /// # Errors
    /// When the device or the file system does not say it.
    pub fn has_directory(&self, path: &[&str]) -> Result<bool> {
        Ok(self.find(path)?.is_some_and(|found| found.directory))
    }

    fn find(&self, path: &[&str]) -> Result<Option<Found>> {
        let mut here = Found { directory: true, content: self.root, length: 0 };
        for name in path {
            if !here.directory {
                return Ok(None);
            }
            match self.entry(here.content, name)? {
                Some(found) => here = found,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    fn located(&self, found: Found) -> Result<File> {
        let length = found.length;
        if length > MAX_FILE {
            return Err(Unreadable::TooMuch("a file on it is larger than any release"));
        }
        if length > self.clusters * self.cluster {
            return Err(Unreadable::Damaged("a file on it is larger than the whole of it"));
        }
        let pieces = if length == 0 { Vec::new() } else { self.pieces(found.content, length, true)? };
        Ok(File { pieces, length })
    }

    /// Where cluster `number` begins.
    fn place(&self, number: u64) -> Result<u64> {
        match number.checked_sub(2) {
            Some(number) if number < self.clusters => Ok(self.heap + number * self.cluster),
            _ => Err(Unreadable::Damaged("it names a cluster that there is not")),
        }
    }

    /// The pieces of a content, up to so many bytes; `all` of them have to be there.
    fn pieces(&self, content: Content, bytes: u64, all: bool) -> Result<Vec<Piece>> {
        let (first, length, in_a_row) = match content {
            Content::Fixed(piece) => return Ok(vec![piece]),
            Content::Clusters { first, length, in_a_row } => (first, length, in_a_row),
        };
        let mut left = length.map_or(bytes, |length| length.min(bytes));
        let (mut number, mut pieces, mut block) =
            (first, Vec::<Piece>::new(), (u64::MAX, [0; BLOCK as usize]));
        while left > 0 {
            let (at, length) = (self.place(number)?, self.cluster.min(left));
            left -= length;
            let count = pieces.len();
            match pieces.last_mut() {
                Some(last) if last.at + last.length == at => last.length += length,
                _ if count == MAX_PIECES => {
                    return Err(Unreadable::TooMuch("a file on it lies in too many pieces"));
                }
                _ => pieces.push(Piece { at, length }),
            }
            if left == 0 {
                break;
            }
            let next = if in_a_row { Some(number + 1) } else { self.next(number, &mut block)? };
            match next {
                Some(next) => number = next,
                None if all => return Err(Unreadable::Damaged("a file on it ends before its end")),
                None => break,
            }
        }
        Ok(pieces)
    }

    /// The cluster that follows by the table; `block` is what was read of it last, with its place.
    fn next(&self, number: u64, block: &mut (u64, [u8; BLOCK as usize])) -> Result<Option<u64>> {
        let width = if self.kind == Kind::Fat16 { 2 } else { 4 };
        let at = self.table + number * width;
        let start = at / BLOCK * BLOCK;
        if block.0 != start {
            let mut bytes = [0; BLOCK as usize];
            read(&*self.disk, self.disk.size()?, start, &mut bytes)?;
            *block = (start, bytes);
        }
        let bytes = &block.1;
        // Below 512.
        let at = (at - start) as usize;
        let next = match self.kind {
            Kind::Fat16 => u16_at(bytes, at),
            Kind::Fat32 => u32_at(bytes, at) & 0x0fff_ffff,
            Kind::Exfat => u32_at(bytes, at),
        };
        let end = match self.kind {
            Kind::Fat16 => 0xfff8,
            Kind::Fat32 => 0x0fff_fff8,
            Kind::Exfat => 0xffff_fff8,
        };
        Ok((next < end).then_some(next))
    }

    /// What a directory has under a name.
    fn entry(&self, directory: Content, name: &str) -> Result<Option<Found>> {
        let pieces = self.pieces(directory, MAX_DIRECTORY + self.cluster, false)?;
        let mut names: Box<dyn Entries> = match self.kind {
            Kind::Exfat => Box::new(ExfatEntries::default()),
            Kind::Fat16 | Kind::Fat32 => {
                Box::new(FatEntries { wide: self.kind == Kind::Fat32, ..FatEntries::default() })
            }
        };
        let (mut seen, mut bytes) = (0, vec![0; PIECE as usize]);
        for Piece { at, length } in pieces {
            let mut done = 0;
            while done < length {
                if seen >= MAX_DIRECTORY {
                    return Err(Unreadable::TooMuch("a directory on it has too many files"));
                }
                let count = (length - done).min(PIECE);
                let bytes = &mut bytes[..count as usize];
                self.disk.read_at(at + done, bytes)?;
                for entry in bytes.as_chunks::<ENTRY>().0 {
                    match names.take(entry, name) {
                        Seen::End => return Ok(None),
                        Seen::Other => {}
                        Seen::Found(found) => return Ok(Some(found)),
                    }
                }
                (done, seen) = (done + count, seen + count);
            }
        }
        Ok(None)
    }

    /// Bytes of a file.
    ///
    /// # Errors
    /// When it does not have them, or the device does not give them.
    pub fn read(&self, file: &File, from: u64, bytes: &mut [u8]) -> Result<()> {
        let (mut start, mut done) = (0, 0);
        for piece in &file.pieces {
            let end = start + piece.length;
            let at = from.saturating_add(done as u64);
            if done < bytes.len() && at < end {
                let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(bytes.len() - done);
                self.disk.read_at(piece.at + (at - start), &mut bytes[done..done + count])?;
                done += count;
            }
            start = end;
        }
        if done == bytes.len() {
            Ok(())
        } else {
            Err(Unreadable::Damaged("a file on it ends before its end"))
        }
    }
}

impl File {
    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// What an entry of a directory comes to.
enum Seen {
    /// There is nothing after it.
    End,
    /// It is not what is looked for, or not all of it yet.
    Other,
    /// It is.
    Found(Found),
}

/// Puts entries of a directory together.
trait Entries {
    fn take(&mut self, entry: &[u8; ENTRY], wanted: &str) -> Seen;
}

/// Whether a name is the one that is looked for.
fn same(name: &[u16], wanted: &str) -> bool {
    name.len() == wanted.len()
        && name.iter().zip(wanted.bytes()).all(|(unit, byte)| {
            u8::try_from(*unit).is_ok_and(|unit| unit.is_ascii() && unit.eq_ignore_ascii_case(&byte))
        })
}

/// Entries of FAT: those of a long name, its end first, then that of the file with its short name.
#[derive(Default)]
struct FatEntries {
    wide: bool,
    long: Vec<u16>,
    /// The number of the next entry of the long name, and the check sum of the short name that it is of.
    due: u8,
    sum: u8,
}

impl FatEntries {
    /// The units of a long name that an entry has.
    fn units(entry: &[u8; ENTRY]) -> impl Iterator<Item = u16> + '_ {
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        // Two bytes.
        places.map(move |at| u16_at(entry, at) as u16)
    }

    fn part(&mut self, entry: &[u8; ENTRY]) {
        let (number, last) = (entry[0] & 0x1f, entry[0] & 0x40 != 0);
        if last && (1..=20).contains(&number) {
            (self.due, self.sum) = (number, entry[13]);
            self.long = vec![0; usize::from(number) * 13];
        } else if number == 0 || number != self.due || entry[13] != self.sum {
            (self.due, self.long) = (0, Vec::new());
            return;
        }
        let at = usize::from(number - 1) * 13;
        for (place, unit) in self.long.iter_mut().skip(at).zip(Self::units(entry)) {
            *place = unit;
        }
        self.due = number - 1;
    }
}

impl Entries for FatEntries {
    fn take(&mut self, entry: &[u8; ENTRY], wanted: &str) -> Seen {
        match (entry[0], entry[11]) {
            (0, _) => return Seen::End,
            (0xe5, _) => self.long.clear(),
            (_, attributes) if attributes & 0x3f == 0x0f => {
                self.part(entry);
                return Seen::Other;
            }
            // A label.
            (_, attributes) if attributes & 0x08 != 0 => self.long.clear(),
            (_, attributes) => {
                let short = &entry[..11];
                let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
                let whole = !self.long.is_empty() && self.due == 0 && self.sum == sum;
                let mut name = std::mem::take(&mut self.long);
                if whole {
                    let end = name.iter().position(|unit| *unit == 0).unwrap_or(name.len());
                    name.truncate(end);
                } else {
                    let (stem, end) = (short[..8].trim_ascii_end(), short[8..].trim_ascii_end());
                    name = stem.iter().map(|byte| u16::from(*byte)).collect();
                    if !end.is_empty() {
                        name.push(u16::from(b'.'));
                        name.extend(end.iter().map(|byte| u16::from(*byte)));
                    }
                }
                if same(&name, wanted) {
                    let high = if self.wide { u16_at(entry, 20) } else { 0 };
                    let (first, length) = (high << 16 | u16_at(entry, 26), u32_at(entry, 28));
                    let content = Content::Clusters { first, length: None, in_a_row: false };
                    return Seen::Found(Found { directory: attributes & 0x10 != 0, content, length });
                }
            }
        }
        Seen::Other
    }
}

/// Entries of exFAT: that of the file, that of its bytes, those of its name.
#[derive(Default)]
struct ExfatEntries {
    found: Option<Found>,
    /// The length of the name, and what there is of it.
    due: usize,
    name: Vec<u16>,
    /// So many entries of the file are to come.
    left: u8,
}

impl Entries for ExfatEntries {
    fn take(&mut self, entry: &[u8; ENTRY], wanted: &str) -> Seen {
        match entry[0] {
            0 => return Seen::End,
            // A file.
            0x85 => {
                let content = Content::Clusters { first: 0, length: None, in_a_row: false };
                let directory = u16_at(entry, 4) & 0x10 != 0;
                *self = Self { left: entry[1], ..Self::default() };
                self.found = Some(Found { directory, content, length: 0 });
                return Seen::Other;
            }
            // Where its bytes are.
            0xc0 if self.left > 0 && self.due == 0 => {
                let (written, length) = (u64_at(entry, 8), u64_at(entry, 24));
                if let Some(found) = &mut self.found {
                    let (first, in_a_row) = (u32_at(entry, 20), entry[1] & 2 != 0);
                    found.content = Content::Clusters { first, length: Some(length), in_a_row };
                    // What is after that has never been written.
                    found.length = written.min(length);
                }
                self.due = usize::from(entry[3]);
            }
            // A part of its name.
            0xc1 if self.left > 0 && self.name.len() < self.due => {
                let units = (2..ENTRY).step_by(2).map(|at| u16_at(entry, at) as u16);
                self.name.extend(units.take(self.due - self.name.len()));
            }
            // Something else that belongs to it.
            0xc2..=0xff if self.left > 0 => {}
            _ => *self = Self::default(),
        }
        self.left = self.left.saturating_sub(1);
        match self.found {
            Some(found) if self.due > 0 && self.name.len() == self.due => {
                let found = same(&self.name, wanted).then_some(found);
                *self = Self::default();
                found.map_or(Seen::Other, Seen::Found)
            }
            _ => Seen::Other,
        }
    }
}
