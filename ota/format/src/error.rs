//! The one error of the crate.

use std::io;

use crate::Kind;

/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with what, and what can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A reader or writer of the caller failed.
    #[error("{doing} failed: {source}; see that the disk is well and has room, and try again")]
    Io {
        /// What was being done, as in "writing the archive".
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A reader ended before the bytes that it was to have.
    #[error("the reader ended after {had} of {bytes} bytes; cut no more than the partition holds")]
    Short {
        /// How many came.
        had: u64,
        /// How many were to come.
        bytes: u64,
    },
    /// A text is no version.
    #[error("{text:?} is no version; write three numbers up to 65535 without leading zeros, like 1.2.3")]
    Version {
        /// The text, or its beginning.
        text: String,
    },
    /// A text is no name of a machine or channel.
    #[error("{text:?} is no name of a machine or a channel; write 1 to 32 of a to z, 0 to 9 and -")]
    Name {
        /// The text, or its beginning.
        text: String,
    },
    /// A description is of another version of the format.
    #[error("{what} has format {version}, and this program reads format 1; take an earlier release first")]
    Format {
        /// The description, the index or the patch.
        what: &'static str,
        /// Its version.
        version: u64,
    },
    /// A description does not say what version 1 of the format allows.
    #[error("the release's description is not valid: {why}; it has to be made anew where it is released")]
    Release {
        /// What is wrong.
        why: String,
    },
    /// What an image says of itself is not what version 1 of the format allows.
    #[error("the description of the system (system.json) is not valid: {why}; build the image again")]
    System {
        /// What is wrong.
        why: String,
    },
    /// An index does not say what version 1 of the format allows.
    #[error("the index is not valid: {why}; fetch it again; if that stays so, it has to be released anew")]
    Index {
        /// What is wrong, and where.
        why: String,
    },
    /// A patch does not say what version 1 of the format allows, or is for others.
    #[error("the patch cannot be used: {why}; the release is taken without it")]
    Patch {
        /// What is wrong.
        why: String,
    },
    /// What the archive gave for a chunk is not that chunk.
    #[error("chunk {hash} does not come out of the archive: {why}; fetch it again, or from elsewhere")]
    Chunk {
        /// Its BLAKE3, in hex.
        hash: String,
        /// What is wrong.
        why: String,
    },
    /// A partition cannot be a part of a release.
    #[error("the {kind} partition cannot be released: {why}; see that it was made whole")]
    Part {
        /// Which.
        kind: Kind,
        /// What is wrong.
        why: String,
    },
}

impl Error {
    /// A description that is not as it should be.
    pub(crate) fn release(why: impl Into<String>) -> Self {
        Self::Release { why: shortened(&why.into(), 200) }
    }

    /// A patch that is not as it should be.
    pub(crate) fn patch(why: impl Into<String>) -> Self {
        Self::Patch { why: why.into() }
    }

    /// An index that is not as it should be.
    pub(crate) fn index(why: impl Into<String>) -> Self {
        Self::Index { why: why.into() }
    }
}

/// At most so many characters of a text that comes from outside.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
