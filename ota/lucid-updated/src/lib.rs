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
//! | [`have`], [`patch`], [`stage`] | what the slots hold already, and what can be made of it; writing a release into the one that does not run |
//! | [`mod@state`] | what is being done, on disk before it is done |
//! | [`boot`], [`autoboot`] | the firmware: which slot boots, which one is tried |
//! | [`gate`], [`before`] | whether a new system is well, and how the old one was |
//! | [`journal`] | what the journal has of a boot that failed |
//! | [`when`] | when the machine may restart by itself |
//! | [`schedule`] | what somebody set of that |
//! | [`drain`] | telling people before it does, and ending their sessions |
//! | [`held`] | what the slots hold, for going back |
//! | [`peak`] | how much memory all of it takes |
//! | [`service`] | all of it in order |
//! | [`control`] | the socket on which others are told of it, and ask for it |
//!
//! What is kept is described where it is made: `update.json` ([`mod@state`]), `trust.json` ([`trust`]), `slots.json` ([`held`]),
//! `schedule.json` ([`schedule`]), `before.json` ([`before`]), a spare copy of the sector of `autoboot.txt` ([`autoboot`]), and
//! the texts of [`service::FAILED`].

pub mod autoboot;
pub mod before;
pub mod boot;
pub mod control;
pub mod disk;
pub mod drain;
mod error;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod gate;
pub mod have;
pub mod held;
pub mod journal;
pub mod patch;
pub mod peak;
pub mod schedule;
pub mod service;
pub mod source;
pub mod stage;
pub mod state;
pub mod trust;
pub mod usb;
pub mod volume;
pub mod when;

pub use error::{Error, Result};
