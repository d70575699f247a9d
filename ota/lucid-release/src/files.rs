//! Files: read within bounds, written so that a power cut leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{At as _, Error, Result};

/// A piece of a file that is copied or hashed.
const PIECE: usize = 128 << 10;

/// A whole file that has at most so many bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).at("opening", path)?;
    file.take(most + 1).read_to_end(&mut bytes).at("reading", path)?;
    if bytes.len() as u64 > most {
        return Err(Error::TooLarge { path: path.to_owned(), most });
    }
    Ok(bytes)
}

/// The same, where there may be none.
pub(crate) fn read_if_there(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    match read(path, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The folder that a path is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where a file is written before it gets its name.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".{name}.unfinished"))
}

/// Gives a finished file its name, for good.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).at("making", to)?;
    let folder = folder_of(to);
    File::open(folder).and_then(|folder| folder.sync_all()).at("syncing", folder)
}

/// Writes a file in place of the one that may be there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = unfinished(path);
    let mut file = File::create(&new).at("making", &new)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).at("writing", &new)?;
    rename(&new, path)
}

/// Copies a file in place of the one that may be there.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let new = unfinished(to);
    let mut source = File::open(from).at("opening", from)?;
    let mut file = File::create(&new).at("making", &new)?;
    io::copy(&mut source, &mut file).and_then(|_| file.sync_all()).at("copying", from)?;
    rename(&new, to)
}

/// Makes a file that others may not read, which must not be there yet.
pub(crate) fn make_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::KeyExists(path.to_owned()));
        }
        file => file.at("making", path)?,
    };
    file.write_all(bytes).and_then(|()| file.sync_all()).at("writing", path)
}

/// Bytes and SHA-256 of a file.
pub(crate) fn measure(path: &Path) -> Result<(u64, [u8; 32])> {
    measure_telling(path, &|_, _| {})
}

/// The same; `tell` hears how many bytes of how many were read.
pub(crate) fn measure_telling(path: &Path, tell: &dyn Fn(u64, u64)) -> Result<(u64, [u8; 32])> {
    let mut file = File::open(path).at("opening", path)?;
    let all = file.metadata().at("reading", path)?.len();
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((length, hash.finalize().into())),
            Ok(count) => {
                hash.update(&piece[..count]);
                length += count as u64;
                tell(length, all);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at("reading", path),
        }
    }
}

/// Writes on, counts and hashes what goes through.
pub(crate) struct Measured<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Measured<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    /// What it wrote to, how many bytes, and their SHA-256.
    pub(crate) fn finish(self) -> (W, u64, [u8; 32]) {
        (self.inner, self.length, self.hash.finalize().into())
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
