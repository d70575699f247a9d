//! What can go wrong, said so that the reader knows what to do next.

use std::{io, path::PathBuf};

/// Everything that this program reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or folder could not be used.
    #[error("{doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    /// A program could not be started.
    #[error(
        "starting {program}: {source}; `scripts/test --list` installs what is missing and shows what it does"
    )]
    Start { program: String, source: io::Error },
    /// A program ended with a failure.
    #[error("{doing}: `{program}` {status}{details}")]
    Program { doing: String, program: String, status: String, details: String },
    /// Something did not come within its bound.
    #[error("{what} did not come within {seconds} s{details}")]
    Late { what: String, seconds: u64, details: String },
    /// A connection said something else than its protocol allows, or broke.
    #[error("talking to {with}: {why}")]
    Talk { with: String, why: String },
    /// A property that was to be shown does not hold.
    #[error("{0}")]
    Broken(String),
    /// A check cannot be made here.
    #[error("{0}")]
    CannotCheck(String),
    /// Ctrl-C or a signal to end.
    #[error("stopped by a signal")]
    Interrupted,
}

/// The result of everything that can fail here.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A property that does not hold.
    pub(crate) fn broken(text: impl Into<String>) -> Self {
        Error::Broken(text.into())
    }

    /// A failed talk with another program.
    pub(crate) fn talk(with: impl Into<String>, why: impl ToString) -> Self {
        Error::Talk { with: with.into(), why: why.to_string() }
    }
}

/// Adds to an `io::Error` what was being done to which file.
pub(crate) trait At<T> {
    /// `doing` is a phrase such as "reading".
    fn at(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File { doing, path: path.into(), source })
    }
}
