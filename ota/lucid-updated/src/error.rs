//! The one error of the crate.

use std::{
    io,
    path::{Path, PathBuf},
};

use lucid_release_format::Kind;

use crate::{source::Failed, state::Impossible, trust::Refused};

/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with what, and what can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a device.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done, as in "writing".
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A partition.
    #[error("{doing} the partition {name}: {source}; look at the kernel's log for the disk")]
    Partition {
        /// What was being done, as in "writing".
        doing: &'static str,
        /// Its name in the partition table.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A partition is not there.
    #[error(
        "there is no partition {name} {place}: give it with --partition {name}=FILE, or check the disk's table"
    )]
    NoPartition {
        /// Its name.
        name: String,
        /// Where it was looked for.
        place: String,
    },
    /// A machine whose firmware nobody knows.
    #[error(
        "this machine is no Raspberry Pi by its device tree, and the partition firmware of its stand-in is not there \
         ({place}): a try cannot be armed; give the partition with --firmware DEV"
    )]
    NoFirmware {
        /// Where it was looked for.
        place: String,
    },
    /// What the image says of itself.
    #[error("{}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: lucid_release_format::Error,
    },
    /// A boot firmware that may not come back from a try.
    #[error(
        "updates are refused: the boot firmware (EEPROM) has to be of {since} or later, and {why}; start Raspberry Pi OS from \
         another card, run `sudo rpi-eeprom-update -a` there, restart, and put this card back"
    )]
    Eeprom {
        /// What is wrong with it.
        why: String,
        /// The day that it has to be of at least.
        since: String,
    },
    /// Two services would write to the same slot.
    #[error("{} is used by another lucid-updated: ask that one, or give another --run and --state", .0.display())]
    InUse(PathBuf),
    /// A file of ours does not say what it must.
    #[error("{} is not valid: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// `autoboot.txt` cannot be used.
    #[error(
        "autoboot.txt on the select partition: {0}; put the one of the image back (one sector of 512 bytes)"
    )]
    Autoboot(String),
    /// A try that cannot be armed.
    #[error("a try of slot {slot} cannot be armed: {why}")]
    Arm {
        /// The slot.
        slot: &'static str,
        /// Why.
        why: String,
    },
    /// The service manager could not be told.
    #[error("asking the service manager (process 1) to restart: {0}; the unit must grant CAP_KILL")]
    Restart(io::Error),
    /// Metadata or what it names is refused.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// A source does not give what is asked for.
    #[error("{0}")]
    Source(#[from] Failed),
    /// An address that is no source.
    #[error("{text} is no source: {why}")]
    Address {
        /// As it was given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A release does not fit the slot.
    #[error("the release's {kind} has {bytes} bytes and its partition {room}: this machine cannot take it")]
    Room {
        /// Which part.
        kind: Kind,
        /// What it needs.
        bytes: u64,
        /// What is there.
        room: u64,
    },
    /// A release without a part that every slot has.
    #[error("the release has no {0}: it is not for machines of this kind")]
    NoPart(Kind),
    /// A chunk is not what the index says.
    #[error(
        "a chunk of {name} at {offset} is damaged ({why}): nothing of it is kept; it is fetched again later"
    )]
    Chunk {
        /// The archive.
        name: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A patch cannot be used.
    #[error("the patch {name} is not used: {why}")]
    Patch {
        /// Its file.
        name: String,
        /// Why.
        why: String,
    },
    /// What was written does not come back from the disk.
    #[error("the {0} was written and reads back as something else: the disk is failing, replace it")]
    ReadBack(String),
    /// The order of things is broken.
    #[error("internal: {0}")]
    Order(#[from] Impossible),
    /// There is nobody to ask.
    #[error("no other source is given, and no USB stick with a folder lucid is plugged in")]
    NoStick,
    /// Somebody paused updates while a release was being written without anybody having asked for it.
    #[error("updates were paused")]
    Paused,
    /// There is nothing that could be done.
    #[error("{0}")]
    Nothing(String),
    /// A thread of this program died, or the system has no random bytes.
    #[error("internal: {0}")]
    Internal(String),
}

/// Says to which file an error of the system belongs.
pub(crate) trait At<T> {
    /// `doing` is a verb, as in "writing".
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::File { doing, path: path.to_owned(), source })
    }
}
