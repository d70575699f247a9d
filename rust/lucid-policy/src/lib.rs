//! What a session may do.
//!
//! **The table** ([`Policy`]) is what people write, read and sign: a handful of gates, each with its limits, in JSON. What
//! it does not open is closed: a table without a word is [`Profile::Strict`].
//!
//! **Cedar decides.** [`Policy::to_cedar`] compiles the table to Cedar policies, one for each gate, over [`SCHEMA`];
//! [`from_cedar`] gives the table back, and refuses policies that no table compiles to. [`Decider`] is asked whether an
//! [`Action`] may happen, and says no whatever goes wrong while it decides.
//!
//! **In plain words**: [`explain`] says what a table allows, [`diff`] what a change of it means.
//!
//! Version 1 of everything. Nothing here has a clock, a file or a network.

mod action;
mod cedar;
mod decide;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod keys;
mod policy;
mod words;

pub use action::{Action, Role, Transfer};
pub use cedar::{FIXED, SCHEMA, from_cedar};
pub use decide::{Decider, Decision};
pub use error::{Error, Result};
pub use keys::{KEYS, evdev, key_name};
pub use policy::{
    Clipboard, File, Input, Limits, OnViolation, Policy, Profile, Rectangle, Shield, System, VERSION,
};
pub use words::{diff, explain};
