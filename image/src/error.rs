//! What can go wrong while an image is made, checked or changed.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What was being done, to what, why it failed and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done, as in "reading".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A helper program could not be started.
    #[error("starting {program}: {source}; install it (scripts/build-image does) and try again")]
    Start {
        /// The program's name.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// A helper program failed.
    #[error("{program} failed ({status}); its last words were:\n{output}")]
    Program {
        /// The program's name.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its error output.
        output: String,
    },
    /// The machine's apt configuration has no usable Debian archive.
    #[error(
        "looking for a Debian archive in {}: {why}; add an entry for Debian's main archive and try again",
        path.display()
    )]
    Apt {
        /// The directory or file looked at.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// Something that must be in a tree is not there.
    #[error("composing the {tree} tree: {what}")]
    Tree {
        /// Which tree.
        tree: &'static str,
        /// What is missing or wrong.
        what: String,
    },
    /// A program of Lucid's own is missing.
    #[error("{} is missing: cross-build the services first (scripts/build-image does)", path.display())]
    Service {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A kernel module cannot be found or used.
    #[error("kernel module {module}: {why}")]
    Module {
        /// The module's name.
        module: String,
        /// What is wrong with it.
        why: String,
    },
    /// The partition table could not be written or read.
    #[error("partition table of {}: {why}", path.display())]
    Table {
        /// The disk image.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A FAT partition could not be written or read.
    #[error("FAT partition {partition}: {doing} {name}: {source}")]
    Fat {
        /// The partition's name.
        partition: String,
        /// What was being done.
        doing: &'static str,
        /// The file in it.
        name: String,
        /// The reason.
        source: io::Error,
    },
    /// Something does not fit where it must go.
    #[error("{what} needs {needed} bytes, but {place} holds {room}")]
    Room {
        /// What does not fit.
        what: &'static str,
        /// Its size.
        needed: u64,
        /// Where it must go.
        place: String,
        /// The room there.
        room: u64,
    },
    /// A file's contents cannot be understood.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key for verified boot cannot be used.
    #[error(
        "key {}: {why}. To make one: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt \
         rsa_keygen_pubexp:65537 -out boot-key.pem",
        path.display()
    )]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What was signed for verified boot is not good, or cannot be signed.
    #[error("{}: {why}", path.display())]
    Signed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The check of an image found damage.
    #[error("slot {slot}: {why}")]
    Damaged {
        /// `a` or `b`.
        slot: char,
        /// What is damaged, down to the block.
        why: String,
    },
}

/// Shortens `.map_err` for everything that touches a path.
pub(crate) trait At<T> {
    /// Says what was being done to which path.
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::File { doing, path: path.to_owned(), source })
    }
}
