//! Keeps a device on the newest release that its owner takes.
//!
//! A device has two slots. One runs; a release is written into the other one, tried once, and kept only when the new system
//! says itself that it is well. Until then the firmware goes back to the old one by itself, whatever happens.
//!
//! | module | |
//! | --- | --- |
//! | [`source`] | where files come from: a web server or a folder, bounded in bytes and time |
//! | [`usb`], [`volume`] | USB sticks as sources; their file systems, which are read here and never mounted |
//! | [`trust`] | what of it is believed: The Update Framework, and what is remembered of it |
//! | [`have`], [`stage`] | what the slots hold already; writing a release into the one that does not run |
//! | [`mod@state`] | what is being done, on disk before it is done |
//! | [`boot`], [`autoboot`] | the firmware: which slot boots, which one is tried |
//! | [`gate`] | whether a new system is well |
//! | [`when`] | when the machine may restart by itself |
//! | [`peak`] | how much memory all of it takes |
//! | [`service`] | all of it in order |
//! | [`control`] | the socket on which others are told of it, and ask for it |
//!
//! Three files are kept, each described where it is made: `update.json` ([`mod@state`]), `trust.json` ([`trust`]), and a spare
//! copy of the sector of `autoboot.txt` ([`autoboot`]).

pub mod autoboot;
pub mod boot;
pub mod control;
pub mod disk;
mod error;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod gate;
pub mod have;
pub mod peak;
pub mod service;
pub mod source;
pub mod stage;
pub mod state;
pub mod trust;
pub mod usb;
pub mod volume;
pub mod when;

pub use error::{Error, Result};
