//! Recordings of sessions that stand as evidence: writing, recovering, reading, verifying, proving, rewrapping.
//!
//! A recording is a directory named by its session. Each of its files is described where its type is:
//!
//! | file | |
//! | --- | --- |
//! | `opening.json` | [`statement::Opening`] |
//! | `heads.jsonl` | [`statement::Head`], one in each line |
//! | `chunk-000000` … | [`mod@chunk`] |
//! | `keys.json` | [`keys`] |
//! | `manifest.json` | [`statement::Manifest`] |
//!
//! The form of the JSON and what a signature covers is in [`json`], the tree over the chunks in [`merkle`], and what a
//! verification holds to what in [`mod@verify`].
//!
//! A **part** is one life of the recorder, with a session key of its own. A recorder that starts again cannot read what it
//! wrote before; it begins the next part, and a gap says from when on something may be missing.

pub use getrandom::rand_core;

mod chain;
pub mod chunk;
mod error;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod json;
pub mod keys;
pub mod merkle;
mod proof;
mod reader;
mod recovery;
mod secret;
pub mod statement;
mod value;
pub mod verify;
mod writer;

pub use error::{Error, Result};
pub use keys::{Recipient, Role, rewrap};
pub use proof::{MAX_PROOF, Proof, Proved, prove};
pub use reader::{Reader, Record, Records};
pub use recovery::{Found, Recovery};
pub use secret::{DeviceKey, OwnerSecret, Random, system_random};
pub use value::{Hash, Hex, PublicKey, SessionId, Signature, Time};
pub use verify::{Report, Verdict, verify};
pub use writer::{Limits, Start, Writer};
