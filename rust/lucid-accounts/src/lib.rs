//! Local users: who they are, in which roles, and how they prove it.
//!
//! **A password** is kept as Argon2id (RFC 9106) and as its NT hash, which network-level authentication needs and from which
//! a weak password can be found; the password itself is nowhere. Of one that the device's owner names on the card there is the
//! NT hash alone ([`Accounts::provision`]). **A second factor** is a code of RFC 6238 (30 s, six digits),
//! each good once. **A link** is 32 random bytes that let somebody in once, until a time; only its hash is kept. **Keys**
//! (Ed25519) accept policies and approve. Who may approve and has no desktop may connect as well, to decide without a key.
//!
//! **Lock-out**: after five failures in a row each further one makes the next attempt wait, twice as long each time, from a
//! second to a quarter of an hour. Who does not exist takes as long as who does, and is told the same.
//!
//! The file is canonical JSON ([`lucid_statement::json`]), version 1, at most 256 KiB and 64 accounts; it is secret.
//! Nothing here has a clock, a file or a network: what time it is, is said by the caller.

mod account;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod link;
mod password;
mod second;

pub use account::{Account, Accounts, MAX_ACCOUNTS, MAX_BYTES, Proof, Role};
pub use error::{Error, Refused, Result};
pub use link::{Link, Token};
pub use password::Password;
pub use second::Second;
