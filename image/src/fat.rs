//! FAT partitions, made and changed in place inside the disk file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::{BufStream, StreamSlice};

use crate::error::{At, Error, Result};

/// One FAT within a disk file.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The disk file.
    pub disk: &'a Path,
    /// The partition's name, for messages.
    pub name: &'a str,
    /// Its first byte.
    pub start: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A file of the partition's top directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

type Volume = FileSystem<BufStream<StreamSlice<File>>>;

impl Place<'_> {
    fn error(&self, doing: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error {
        let (partition, name) = (self.name.to_owned(), name.to_owned());
        move |source| Error::Fat { partition, doing, name, source }
    }

    fn window(&self, write: bool) -> Result<BufStream<StreamSlice<File>>> {
        let file = OpenOptions::new().read(true).write(write).open(self.disk).at("opening", self.disk)?;
        let slice = StreamSlice::new(file, self.start, self.start + self.bytes).at("opening", self.disk)?;
        Ok(BufStream::new(slice))
    }

    fn open(&self, write: bool) -> Result<Volume> {
        FileSystem::new(self.window(write)?, FsOptions::new()).map_err(self.error("opening", ""))
    }

    /// Makes an empty file system: FAT16 with one-sector clusters below 16 MiB, so that a small
    /// file is exactly one sector, FAT32 above. The times of files are those of a FAT's epoch.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn format(&self, id: u32, label: &str) -> Result<()> {
        let (kind, cluster) =
            if self.bytes < 16 << 20 { (FatType::Fat16, 512) } else { (FatType::Fat32, 1024) };
        let mut text = [b' '; 11];
        for (to, from) in text.iter_mut().zip(label.to_ascii_uppercase().bytes()) {
            *to = from;
        }
        let options = FormatVolumeOptions::new()
            .fat_type(kind)
            .bytes_per_cluster(cluster)
            .volume_id(id)
            .volume_label(text);
        let mut window = self.window(true)?;
        fatfs::format_volume(&mut window, options)
            .and_then(|()| window.flush())
            .map_err(self.error("making", label))
    }

    /// Writes a file into the top directory, in place of one of that name.
    ///
    /// # Errors
    /// When it does not fit or the disk cannot be written.
    pub fn put(&self, name: &str, contents: &[u8]) -> Result<()> {
        let volume = self.open(true)?;
        let write = || {
            let mut file = volume.root_dir().create_file(name)?;
            file.truncate()?;
            file.write_all(contents)?;
            file.flush()
        };
        write().and_then(|()| volume.unmount()).map_err(self.error("writing", name))
    }

    /// Reads a file by its path.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, name: &str) -> Result<Vec<u8>> {
        let volume = self.open(false)?;
        let read = || {
            let mut contents = Vec::new();
            let mut file = volume.root_dir().open_file(name)?;
            file.seek(SeekFrom::Start(0))?;
            file.read_to_end(&mut contents)?;
            Ok(contents)
        };
        read().map_err(self.error("reading", name))
    }

    /// Lists the top directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let volume = self.open(false)?;
        let list = || {
            volume
                .root_dir()
                .iter()
                .map(|entry| entry.map(|entry| Entry { name: entry.file_name(), bytes: entry.len() }))
                .collect::<io::Result<Vec<_>>>()
        };
        list().map_err(self.error("listing", ""))
    }
}
