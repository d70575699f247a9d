//! The card's `select` partition: reading `lucid.toml`, wiping its secrets, leaving a message.
//!
//! The FAT file system is read and written by the `fatfs` crate on the block device; it is never
//! mounted, so whatever is wrong with it stays in this process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;
use zeroize::Zeroizing;

use crate::config::{MAX_BYTES, mark};
use crate::error::Error;

/// The file that the owner writes.
pub const FILE: &str = "lucid.toml";
/// What Windows makes of it when it hides file extensions.
const WITH_HIDDEN_EXTENSION: &str = "lucid.toml.txt";
/// The file in which the device answers.
pub const ERROR_FILE: &str = "lucid-error.txt";
/// The longest answer.
const MAX_ANSWER: usize = 4096;

/// The partition's block device, or an image of it.
#[derive(Clone, Debug)]
pub struct Card {
    device: PathBuf,
}

/// What lies on the card.
pub enum Found {
    /// No `lucid.toml`.
    Nothing,
    /// A file that was probably meant to be `lucid.toml`.
    Misnamed(&'static str),
    /// The bytes, one more than allowed at most.
    Bytes(Zeroizing<Vec<u8>>),
}

type FileSystem = fatfs::FileSystem<File>;

impl Card {
    /// The partition at this path.
    pub fn new(device: PathBuf) -> Self {
        Self { device }
    }

    /// Where it is.
    pub fn device(&self) -> &Path {
        &self.device
    }

    fn error(&self, doing: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |source| Error::Card { doing, device: self.device.clone(), source }
    }

    fn open(&self, write: bool) -> io::Result<FileSystem> {
        let file = OpenOptions::new().read(true).write(write).open(&self.device)?;
        FileSystem::new(file, fatfs::FsOptions::new())
    }

    /// Reads `lucid.toml`. Nothing is written.
    pub fn read(&self) -> Result<Found, Error> {
        let doing = self.error("reading lucid.toml");
        let fs = self.open(false).map_err(&doing)?;
        let root = fs.root_dir();
        match root.open_file(FILE) {
            Ok(file) => {
                let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
                file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(&doing)?;
                Ok(Found::Bytes(bytes))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => match root.open_file(WITH_HIDDEN_EXTENSION) {
                Ok(_) => Ok(Found::Misnamed(WITH_HIDDEN_EXTENSION)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
                Err(e) => Err(doing(e)),
            },
            Err(e) => Err(doing(e)),
        }
    }

    /// Overwrites the secrets at `spans` of the file that was read as `seen`, in place and with the same
    /// length, brings it to the medium, and reads it back from there.
    pub fn wipe(&self, seen: &[u8], spans: &[Range<usize>]) -> Result<(), Error> {
        let doing = self.error("wiping the secrets of lucid.toml");
        let wrong = |reason| Error::Wipe { device: self.device.clone(), reason };
        let mut wanted = Zeroizing::new(seen.to_vec());
        let mut marks = Vec::new();
        for span in spans {
            let new = mark(span.len()).ok_or_else(|| wrong("a secret is shorter than its mark"))?;
            wanted
                .get_mut(span.clone())
                .ok_or_else(|| wrong("a secret is not in the file"))?
                .copy_from_slice(&new);
            marks.push((span.start, new));
        }
        {
            let fs = self.open(true).map_err(&doing)?;
            {
                let mut file = fs.root_dir().open_file(FILE).map_err(&doing)?;
                // Only what was read and understood is overwritten.
                let mut now = Zeroizing::new(Vec::with_capacity(seen.len() + 1));
                (&mut file).take(seen.len() as u64 + 1).read_to_end(&mut now).map_err(&doing)?;
                if now.as_slice() != seen {
                    return Err(wrong("the file has changed since it was read"));
                }
                for (start, new) in marks {
                    file.seek(SeekFrom::Start(start as u64)).map_err(&doing)?;
                    file.write_all(&new).map_err(&doing)?;
                }
                file.flush().map_err(&doing)?;
            }
            fs.unmount().map_err(&doing)?;
        }
        self.sync().map_err(&doing)?;
        match self.read()? {
            Found::Bytes(bytes) if *bytes == *wanted => Ok(()),
            _ => Err(wrong("read back, the file is not what was written")),
        }
    }

    /// Brings everything to the medium and drops the kernel's copy, so that the next read is real.
    fn sync(&self) -> io::Result<()> {
        let file = File::open(&self.device)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    /// Leaves `message` in `lucid-error.txt`, or removes that file when there is none. Nothing is
    /// written when the card says so already.
    pub fn answer(&self, message: Option<&str>) -> Result<(), Error> {
        let doing = self.error("writing lucid-error.txt");
        let wanted = message.map(|m| {
            // For Notepad as well.
            let text = m.replace('\n', "\r\n");
            text[..text.floor_char_boundary(MAX_ANSWER)].to_owned()
        });
        let present = {
            let fs = self.open(false).map_err(&doing)?;
            match fs.root_dir().open_file(ERROR_FILE) {
                Ok(file) => {
                    let mut bytes = Vec::new();
                    file.take(MAX_ANSWER as u64 + 1).read_to_end(&mut bytes).map_err(&doing)?;
                    Some(bytes)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(doing(e)),
            }
        };
        if present.as_deref() == wanted.as_deref().map(str::as_bytes) {
            return Ok(());
        }
        {
            let fs = self.open(true).map_err(&doing)?;
            {
                let root = fs.root_dir();
                match wanted {
                    None => root.remove(ERROR_FILE).map_err(&doing)?,
                    Some(text) => {
                        let mut file = root.create_file(ERROR_FILE).map_err(&doing)?;
                        file.truncate().map_err(&doing)?;
                        file.write_all(text.as_bytes()).map_err(&doing)?;
                        file.flush().map_err(&doing)?;
                    }
                }
            }
            fs.unmount().map_err(&doing)?;
        }
        self.sync().map_err(&doing)
    }
}
