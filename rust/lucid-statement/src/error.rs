//! The one error of the crate.

use std::{io, path::PathBuf};

/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with what, and what can be done.
#[derive(Debug, thiserror::Error)]
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
    /// A document does not say what its format allows.
    #[error("{what} is not valid: {why}")]
    Malformed {
        /// Which.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// It is of another version of its format.
    #[error("{what} is of version {version}; this program reads version 1 alone")]
    Version {
        /// Which.
        what: String,
        /// Its version.
        version: u64,
    },
    /// The signature is not that key's.
    #[error("{what} is not signed by {key}; it was changed, or made by somebody else")]
    Signature {
        /// Which.
        what: String,
        /// The public key that was expected, in hex.
        key: String,
    },
    /// The caller asked for what cannot be.
    #[error("{0}")]
    Argument(String),
}

impl Error {
    /// A document that is not as it should be.
    pub(crate) fn malformed(what: &str, why: impl Into<String>) -> Self {
        Self::Malformed { what: what.to_owned(), why: why.into() }
    }
}
