//! Links that let somebody in once.

use std::fmt;

use lucid_statement::{Hash, Random, rand_core::Rng as _};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What stands in the link: 32 random bytes as 64 hexadecimal digits. Shown to nobody but whom it is for.
pub struct Token(Zeroizing<String>);

impl Token {
    /// For the link.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What is kept of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// BLAKE3 of the digits.
    hash: Hash,
    /// Until when it is good, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

impl Link {
    /// A new one.
    #[must_use]
    pub fn new(until_ms: u64, random: &mut Random) -> (Self, Token) {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill_bytes(&mut *bytes);
        let token = Zeroizing::new(hex::encode(*bytes));
        (Self { hash: blake3::hash(token.as_bytes()).into(), until_ms }, Token(token))
    }

    pub(crate) fn is(&self, token: &str, now_ms: u64) -> bool {
        let hash: Hash = blake3::hash(token.as_bytes()).into();
        bool::from(hash.0.ct_eq(&self.hash.0)) && now_ms < self.until_ms
    }
}
