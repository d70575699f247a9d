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
//! | `consent.json` | that the session's user accepted its policy; the opening names its hash |
//! | `snapshot.json` | what the session was decided by |
//! | `approvals.jsonl` | what was asked for and decided meanwhile; events name the hashes of the lines |
//!
//! The last three are described where they are made (`lucid-policy`).
//!
//! The form of the JSON and what a signature covers is in [`lucid_statement::json`], the tree over the chunks in [`merkle`], and what a
//! verification holds to what in [`mod@verify`].
//!
//! A **part** is one life of the recorder, with a session key of its own. A recorder that starts again cannot read what it
//! wrote before; it begins the next part, and a gap says from when on something may be missing.

mod chain;
pub mod chunk;
mod error;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod keys;
pub mod merkle;
mod proof;
mod reader;
mod recovery;
mod secret;
pub mod statement;
pub mod verify;
mod writer;

pub use error::{Error, Result};
pub use keys::{Recipient, Role, rewrap};
pub use lucid_statement::{
    Hash, Hex, PublicKey, Random, SessionId, Signature, SigningKey, Time, rand_core, system_random,
};
pub use proof::{MAX_PROOF, Proof, Proved, prove};
pub use reader::{Reader, Record, Records, Summary};
pub use recovery::{Found, Recovery};
pub use secret::OwnerSecret;
pub use verify::{Report, Verdict, verify};
pub use writer::{Limits, Start, Writer};
