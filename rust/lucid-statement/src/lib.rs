//! Signed statements: canonical JSON, the envelope of a signature, and what statements are made of.
//!
//! Recordings, audit events, policies and consent are all written in this form ([`json`]). Nothing here knows what is
//! stated, and nothing here has a clock.

pub use getrandom::rand_core;

mod error;
pub mod json;
pub mod key;
mod value;

pub use error::{Error, Result};
pub use json::Signed;
pub use key::{Random, SigningKey, system_random};
pub use value::{Hash, Hex, PublicKey, SessionId, Signature, Time};
