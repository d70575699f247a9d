//! Audit events of sessions: their form, and the chain that binds each to the one before it.
//!
//! **A line** is one [`Event`] in canonical JSON ([`lucid_statement::json`]), without a line feed; in a recording's
//! `audit` stream each line is followed by one, and a record holds any number of whole lines. `previous` is the BLAKE3
//! hash of the line before (without its line feed), or null. Each signed head of the recording names the hash of the
//! newest line, so that nothing can be left off the end either.
//!
//! **A recorder that died** cannot read what it wrote, and does not know how many lines there were. Its next life
//! begins at sequence 0 again, with a [`Data::Gap`] whose `previous` is the newest line that a head confirmed. Lines
//! after that one may be in the recording, at most [`MAX_UNCONFIRMED`]: the recorder died before a head named them. The
//! last of these is bound by the recording's seal alone, and by no other line.
//!
//! Version 1. No event holds what was typed, copied or transferred: counts, sizes, types and hashes stand for it.

mod chain;
mod error;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod text;

pub use chain::{Chain, Line, MAX_UNCONFIRMED, Summary, verify};
pub use error::{Error, Result};
pub use event::{Actor, Data, Direction, Entry, Event, Keys, Kind, MAX_LINE, Outcome, VERSION};
pub use text::{Name, Text, Word};
