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
    /// A file or a directory.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done, as in "copying".
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that does not say what it must.
    #[error("{} is not valid: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is more than is copied.
    #[error(
        "what is kept has more than {0}, and is not copied: nothing was changed, and this system cannot use it"
    )]
    TooMuch(String),
    /// Copying failed, and what was copied could not be removed.
    #[error("{why}; what was copied stays until the next start: {left}")]
    Left {
        /// Why copying failed.
        why: Box<Error>,
        /// Why the rest stays.
        left: Box<Error>,
    },
    /// What brings the data one form further is not in the system.
    #[error("{} is not there: this system was built without the way from form {} to form {to}", path.display(), to - 1)]
    NoWay {
        /// The program that should be there.
        path: PathBuf,
        /// The form that it makes.
        to: u32,
    },
    /// What brings the data one form further failed.
    #[error("bringing what is kept to form {to}: {why}; it was put back as it was")]
    Way {
        /// The form that it makes.
        to: u32,
        /// Why it failed.
        why: String,
    },
    /// The data is of a later system, and nothing was copied when it was changed.
    #[error(
        "what is kept has form {found}, this system reads {own}, and there is no copy from before: install a system that \
         reads form {found}"
    )]
    Later {
        /// What is on the disk.
        found: u32,
        /// What this system reads.
        own: u32,
    },
}

/// Says to which file an error of the system belongs.
pub(crate) trait At<T> {
    /// `doing` is a verb, as in "copying".
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::File { doing, path: path.to_owned(), source })
    }
}
