//! Partitions as bytes: read, written and brought to the medium at given places.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{Advice, OFlags, fadvise};

use crate::error::{At, Result};

/// A partition, or what plays one. What was written is on the medium only after `sync`; a power cut before that may
/// leave any of the 512-byte sectors written since as they were.
pub trait Disk: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `bytes` from the place `at`.
    fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all `bytes` to the place `at`.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Brings all that was written to the medium; what is read next comes from there.
    fn sync(&self) -> io::Result<()>;
}

/// A block device or an image of one.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens it for reading.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn read(path: &Path) -> Result<Self> {
        File::open(path).map(Self).at("opening", path)
    }

    /// Opens it for writing too, beside others that have it open.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn shared(path: &Path) -> Result<Self> {
        OpenOptions::new().read(true).write(true).open(path).map(Self).at("opening", path)
    }

    /// Opens it for writing too, and keeps out others who would do the same. A block device that is mounted or part of a
    /// device-mapper target is refused by the kernel.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn write(path: &Path) -> Result<Self> {
        let flags = OFlags::EXCL.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map(Self).at("opening", path)
    }
}

impl Disk for Device {
    fn size(&self) -> io::Result<u64> {
        // The metadata of a block device says zero.
        (&self.0).seek(SeekFrom::End(0))
    }

    fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()?;
        // Otherwise what is read back would be the kernel's own copy.
        fadvise(&self.0, 0, None, Advice::DontNeed)?;
        Ok(())
    }
}

/// Reads a piece of a disk from its start to its end.
pub struct Reader<'a> {
    disk: &'a dyn Disk,
    at: u64,
    end: u64,
}

impl<'a> Reader<'a> {
    /// The first `end` bytes of a disk.
    #[must_use]
    pub fn new(disk: &'a dyn Disk, end: u64) -> Self {
        Self { disk, at: 0, end }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(bytes.len()).min(1 << 20);
        self.disk.read_at(self.at, &mut bytes[..most])?;
        self.at += most as u64;
        Ok(most)
    }
}
