//! What a session may do.
//!
//! **The table** ([`Policy`]) is what people write, read and sign: a handful of gates, each with its limits, in JSON. What
//! it does not open is closed: a table without a word is [`Profile::Strict`].
//!
//! **Cedar decides.** [`Policy::to_cedar`] compiles the table to Cedar policies, one for each gate, over [`SCHEMA`];
//! [`from_cedar`] gives the table back, and refuses policies that no table compiles to. [`Decider`] is asked whether an
//! [`Action`] may happen, and says no whatever goes wrong while it decides.
//!
//! **Enforcing** is [`Policy::permits`]: the same answers without Cedar, for whoever has to know a thousand times a second.
//!
//! **In plain words**: [`explain`] says what a table allows, [`diff`] what a change of it means.
//!
//! **Signed**: [`consent`] that a person accepted a table, the [`snapshot`] of all that a session is decided by, and
//! [`approval`] of a change while it runs, which may be one of those that can be [asked for](ask) on the screen.
//!
//! Cedar comes with the feature `cedar`; who only enforces does without.
//!
//! Version 1 of everything. Nothing here has a clock, a file or a network.

mod action;
pub mod approval;
pub mod ask;
#[cfg(feature = "cedar")]
mod cedar;
pub mod consent;
#[cfg(feature = "cedar")]
mod decide;
mod enforce;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod keys;
mod policy;
#[cfg(feature = "cedar")]
pub mod snapshot;
mod statement;
mod words;

pub use action::{Action, Role, Transfer};
#[cfg(feature = "cedar")]
pub use cedar::{FIXED, SCHEMA, from_cedar};
#[cfg(feature = "cedar")]
pub use decide::{Decider, Decision};
pub use enforce::probes;
pub use error::{Error, Result};
pub use keys::{KEYS, evdev, key_name};
pub use policy::{
    Clipboard, File, Input, Limits, OnViolation, Policy, Profile, Rectangle, Shield, System, VERSION,
};
pub use statement::Kind;
pub use words::{diff, explain};
