//! The one error type of this crate.

use std::io;

/// Why the boot cannot go on, or why the data partition cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel command line does not say which root to verify.
    #[error(
        "reading the kernel command line: {reason}; this slot's cmdline.txt is damaged, boot the other slot or write the card again"
    )]
    Cmdline {
        /// What is wrong with it.
        reason: String,
    },
    /// The boot firmware did not say which slot it started.
    #[error(
        "finding the booted slot: {reason}; the boot firmware (Pi 5 EEPROM) must fill /chosen/bootloader, update it if it is old"
    )]
    Slot {
        /// What is missing or wrong.
        reason: String,
    },
    /// The disk did not appear.
    #[error(
        "waiting for the disk with a partition named {wanted}: none appeared in {seconds} s (block devices seen: {seen}); check that the card is seated and readable"
    )]
    DiskMissing {
        /// The partition's name in the partition table.
        wanted: &'static str,
        /// How long was waited.
        seconds: u64,
        /// The block devices that are there.
        seen: String,
    },
    /// The partition table is not what the image tool writes.
    #[error("reading the partition table of {disk}: {reason}")]
    Table {
        /// The disk's device file.
        disk: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refused the verified root.
    #[error(
        "setting up the verified root on {partition}: {reason}; the slot is damaged, boot the other slot or write the card again"
    )]
    Verity {
        /// The partition's device file.
        partition: String,
        /// What is wrong.
        reason: String,
    },
    /// The data partition holds something that is not ours to overwrite.
    #[error("using {partition} for data: {reason}")]
    Data {
        /// The partition's device file.
        partition: String,
        /// What is wrong.
        reason: String,
    },
    /// A file system tool did not do its work.
    #[error("running {tool}: {reason}")]
    Tool {
        /// The tool and its arguments.
        tool: String,
        /// How it ended and what it said.
        reason: String,
    },
    /// The operating system said no.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, to what.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Adds what was being done to an operating system error.
pub(crate) trait Doing<T> {
    /// Turns the error into [`Error::Io`]; `what` is "doing something to something".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::Io { doing: what(), source: e.into() })
    }
}
