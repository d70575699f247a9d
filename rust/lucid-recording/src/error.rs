//! The one error of the crate.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with what, and what can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as in "writing".
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file, a line or a record does not say what version 1 of the format allows.
    #[error("{what} is not valid: {why}; `verify` says what else of the recording is touched")]
    Malformed {
        /// The file, with its line or record.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// It is of another version of the format.
    #[error("{what} is of version {version}; this program reads version 1 alone")]
    Version {
        /// The file or line.
        what: String,
        /// Its version.
        version: u64,
    },
    /// The signature is not the device's.
    #[error("{what} is not signed by the device {device}; it was changed, or made by somebody else")]
    Signature {
        /// The file or line.
        what: String,
        /// The public key that was expected, in hex.
        device: String,
    },
    /// The caller asked for what cannot be.
    #[error("{0}")]
    Argument(String),
    /// A recording is already there.
    #[error("{} is already there, and a session id is used once: take a new one", .0.display())]
    Exists(PathBuf),
    /// Another writer or a recovery has the recording open.
    #[error("{} is being written by another process; wait until it ends", .0.display())]
    Busy(PathBuf),
    /// The directory holds no recording, or one that ended before it began.
    #[error("{} holds no recording: {why}", dir.display())]
    NotARecording {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        why: String,
    },
    /// An earlier write failed, so that nobody knows what is on the disk.
    #[error("the recording in {} cannot be continued after a failed write; recover it", .0.display())]
    Broken(PathBuf),
    /// The recording has its manifest.
    #[error("the recording in {} is finished; there is nothing to recover", .0.display())]
    Finished(PathBuf),
    /// The key is none of those that the recording was sealed to.
    #[error("{} names no recipient {public}; use the secret key of one of those it names", path.display())]
    NotARecipient {
        /// keys.json.
        path: PathBuf,
        /// The public key that belongs to the secret one.
        public: String,
    },
    /// A wrapped key does not open, or opens to another key than the recording was sealed with.
    #[error("the key of part {part} in {} does not open: {why}; take the file from a copy", path.display())]
    Wrapped {
        /// keys.json.
        path: PathBuf,
        /// Whose key.
        part: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// A record does not open.
    #[error("record {record} of {chunk} does not open: it was changed, or belongs elsewhere")]
    Sealed {
        /// The chunk's file name.
        chunk: String,
        /// The record's number, from 0.
        record: u64,
    },
}

impl From<lucid_statement::Error> for Error {
    fn from(error: lucid_statement::Error) -> Self {
        use lucid_statement::Error as Statement;
        match error {
            Statement::Io { doing, path, source } => Self::Io { doing, path, source },
            Statement::Malformed { what, why } => Self::Malformed { what, why },
            Statement::Version { what, version } => Self::Version { what, version },
            Statement::Signature { what, key } => Self::Signature { what, device: key },
            Statement::Argument(why) => Self::Argument(why),
        }
    }
}

impl Error {
    /// A file, line or record that is not as it should be.
    pub(crate) fn malformed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), why: why.into() }
    }
}

/// Says to which file an error of the system belongs.
pub(crate) trait At<T> {
    /// `doing` is a verb, as in "writing".
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { doing, path: path.to_owned(), source })
    }
}
