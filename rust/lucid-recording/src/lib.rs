//! Recordings of sessions: writing, recovering, reading, verifying, proving, rewrapping.

pub use getrandom::rand_core;

mod chain;
pub mod chunk;
mod error;
mod files;
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
