//! The names of the reasons for which metadata, or what it names, is refused.

use jiff::Timestamp as Time;

use crate::source::Failed;

/// Why metadata, or what it names, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too few of those whom the root names have signed it, or none.
    #[error(
        "the {role} is not signed by those who have to sign it: it needs {threshold} good signatures and has {valid}"
    )]
    Forged {
        /// Which metadata.
        role: &'static str,
        /// Good signatures.
        valid: u64,
        /// How many it needs.
        threshold: u64,
    },
    /// It is signed by keys that were replaced.
    #[error(
        "the {role} is signed with keys that were revoked: root {root} had them, and root {current} has not"
    )]
    Revoked {
        /// Which metadata.
        role: &'static str,
        /// The root by which it was good.
        root: u64,
        /// The root that holds.
        current: u64,
    },
    /// It is older than what was seen before.
    #[error("the {what} is rolled back: version {offered} is offered and {seen} was seen before")]
    Rollback {
        /// What is.
        what: String,
        /// The newest one seen.
        seen: u64,
        /// What is offered.
        offered: u64,
    },
    /// Its time has passed.
    #[error(
        "the {role} has expired: the source is held still or nobody looks after it (or the device's clock is wrong)"
    )]
    Expired {
        /// Which metadata.
        role: &'static str,
    },
    /// Files of different times are put together.
    #[error(
        "{what} does not belong to the rest of the metadata: files of different times, or of different lists, are mixed"
    )]
    Mixed {
        /// What does not.
        what: String,
    },
    /// A target is not what was signed.
    #[error("{name} was changed: it is not what was signed, and nothing of it is used")]
    Changed {
        /// Its name.
        name: String,
    },
    /// More bytes than there may be.
    #[error("{name} has more bytes than it may have ({cap}): it is cut off, and nothing of it is used")]
    Endless {
        /// Its name.
        name: String,
        /// How many it may.
        cap: u64,
    },
    /// More roots at once than there may be.
    #[error("the source has {0} new roots or more: these are kept, and the next look goes on after them")]
    Roots(u64),
    /// It is not what the specification, or this device, allows.
    #[error("the {role} is not valid: {why}")]
    Malformed {
        /// Which metadata.
        role: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A root that is not for devices in use.
    #[error(
        "root {0} is for development (nobody guards its keys), and this device's image takes no such root"
    )]
    Development(u64),
    /// A release that cannot be what it says.
    #[error("the release {name} is not valid: {why}")]
    Release {
        /// Its target.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The clock is before what it has been.
    #[error(
        "the clock says {now} and it was {latest} before: it was set back; set it, or restart the device: its start sets it \
         forward to that"
    )]
    ClockBack {
        /// Now.
        now: Time,
        /// Then.
        latest: Time,
    },
    /// The source does not give it.
    #[error("{0}")]
    Source(Failed),
    /// Something else stopped it.
    #[error("the metadata cannot be read: {0}")]
    Other(String),
}
