//! Small files that are replaced as a whole: after a power cut there is the old one or the new one.
//!
//! What is believed later is sealed: one line, and the BLAKE3 of it in hex as a second one. So a file of which bits have flipped
//! is seen, although it may still be one that can be read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::error::{At, Error, Result};

/// Where such files are.
pub trait Store: Send + Sync {
    /// The file's bytes, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or has more than `most` bytes.
    fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>>;
    /// Replaces it; durable when this is done.
    ///
    /// # Errors
    /// When it cannot be written: then the old file or the new one is there.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()>;
}

/// A line with its seal.
#[must_use]
pub fn seal(line: &str) -> Vec<u8> {
    format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex()).into_bytes()
}

/// The line that is sealed.
///
/// # Errors
/// In words, when it is not.
pub fn unseal(bytes: &[u8]) -> Result<&str, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let (line, seal) = text.split_once('\n').ok_or("it ends within its first line")?;
    match seal.strip_suffix('\n') {
        Some(seal) if seal == blake3::hash(line.as_bytes()).to_hex().as_str() => Ok(line),
        Some(_) => Err("it was changed: its hash is another one".to_owned()),
        None => Err("it ends within its second line".to_owned()),
    }
}

/// A directory.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// That directory, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).at("making", &path)?;
        Ok(Self(path))
    }

    /// That directory, which need not be there: for reading.
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces a file that others read, which may be lost with the power.
    ///
    /// # Errors
    /// When it cannot be written: then the old file or the new one is there.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        fs::write(&new, bytes).at("writing", &new)?;
        // Whatever the mask of this process is.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).at("opening to others", &new)?;
        fs::rename(&new, &path).at("replacing", &path)
    }

    /// Keeps others out as long as what is given back lives.
    ///
    /// # Errors
    /// When somebody else has it.
    pub fn lock(&self) -> Result<File> {
        let path = self.0.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.at("making", &path)?;
        for again in (0..5).rev() {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                // Who only looks whether it is locked has it for a moment.
                Err(fs::TryLockError::WouldBlock) if again > 0 => thread::sleep(Duration::from_millis(10)),
                Err(fs::TryLockError::WouldBlock) => break,
                Err(fs::TryLockError::Error(error)) => return Err(error).at("locking", &path),
            }
        }
        Err(Error::InUse(self.0.clone()))
    }

    /// Whether somebody keeps others out. Makes nothing. Who may not look cannot know, and is told that somebody does.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn locked(&self) -> Result<bool> {
        let path = self.0.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(true),
            Err(error) => return Err(error).at("opening", &path),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error).at("looking at the lock of", &path),
        }
    }
}

impl Store for Folder {
    fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("opening", &path),
        };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).at("reading", &path)?;
        if bytes.len() as u64 > most {
            return Err(Error::Invalid { path, why: format!("it has more than {most} bytes") });
        }
        Ok(Some(bytes))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new);
        let mut file = file.at("making", &new)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).at("writing", &new)?;
        fs::rename(&new, &path).at("replacing", &path)?;
        File::open(&self.0).and_then(|dir| dir.sync_all()).at("syncing", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_what_a_power_cut_left_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let store = Folder::new(dir.path().join("state")).unwrap();
        assert_eq!(store.read("a", 10).unwrap(), None);
        fs::write(store.path().join("a.new"), b"half of a much longer file").unwrap();
        store.replace("a", b"whole").unwrap();
        assert_eq!(store.read("a", 10).unwrap().unwrap(), b"whole");
        assert!(store.read("a", 4).unwrap_err().to_string().contains("more than 4 bytes"));
        assert!(!store.path().join("a.new").exists());
    }

    #[test]
    fn what_is_published_can_be_read_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_owned()).unwrap();
        for text in [&b"one"[..], b"two"] {
            folder.publish("status.json", text).unwrap();
            assert_eq!(fs::read(dir.path().join("status.json")).unwrap(), text);
        }
        let mode = fs::metadata(dir.path().join("status.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_line_that_is_not_as_it_was_sealed_is_refused() {
        let sealed = seal("{\"a\":1}");
        assert_eq!(unseal(&sealed), Ok("{\"a\":1}"));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(unseal(&changed).is_err(), "byte {at}");
            assert!(unseal(&sealed[..at]).is_err(), "up to byte {at}");
        }
        assert!(unseal(&[&sealed[..], b"\n"].concat()).is_err());
    }

    #[test]
    fn two_services_do_not_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Folder::new(dir.path().to_owned()).unwrap();
        let first = store.lock().unwrap();
        assert!(matches!(store.lock(), Err(Error::InUse(_))));
        drop(first);
        store.lock().unwrap();
    }

    #[test]
    fn who_looks_whether_a_directory_is_locked_makes_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let store = Folder::new(dir.path().to_owned()).unwrap();
        assert!(!store.locked().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let lock = store.lock().unwrap();
        assert!(store.locked().unwrap());
        drop(lock);
        assert!(!store.locked().unwrap());
        store.lock().unwrap();
    }
}
