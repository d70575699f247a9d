//! What this crate says when something is wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What is wrong with a `lucid.toml`, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, both from 1, the column in characters. `None`: the whole file.
    pub place: Option<(usize, usize)>,
    /// What was found and what is allowed. Never holds a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// Something that `lucid-provision` could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `lucid.toml` is wrong; the text names the place.
    #[error("lucid.toml, {0}")]
    Config(#[from] Problem),
    /// A file of this machine could not be read or written.
    #[error("{doing} {path}: {source}", path = path.display())]
    File {
        /// Such as "writing".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A JSON file of ours does not hold what it should.
    #[error("reading {path}: {reason}; it is ignored", path = path.display())]
    Stored {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The card's `select` partition could not be read or written.
    #[error("{doing} on the select partition {device}: {source}; check the card in a computer", device = device.display())]
    Card {
        /// Such as "reading lucid.toml".
        doing: &'static str,
        /// The block device.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A secret is still on the card after it was overwritten.
    #[error("wiping the secrets in lucid.toml on {device}: {reason}; delete the file yourself", device = device.display())]
    Wipe {
        /// The block device.
        device: PathBuf,
        /// What was found instead.
        reason: &'static str,
    },
    /// The kernel gave no random bytes.
    #[error("asking the kernel for random bytes: {0}")]
    Random(io::Error),
    /// There is nothing to announce.
    #[error("announcing: {path} is missing, `lucid-provision apply` has not run or this was announced already", path = path.display())]
    NothingToAnnounce {
        /// The hand-over file.
        path: PathBuf,
    },
    /// The remote desktop did not come up in time.
    #[error("waiting for the remote desktop service: {path} does not say it is ready after {seconds} s; see the journal of lucid-rdp", path = path.display())]
    NotReady {
        /// The service's status file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
}
