//! Secrets, the NT hash, and passwords that the device makes itself.

use std::fmt;

use md4::{Digest as _, Md4};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::Error;

/// Letters and digits that cannot be taken for each other: no `0 o`, no `1 i l`.
const ALPHABET: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Three groups of four: 12 × log2(31) = 59 bits.
const GROUPS: usize = 3;
/// Characters of a group.
const GROUP: usize = 4;

/// A text that is never printed and is wiped from memory when it is no longer needed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes over a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// MD4 of the text in UTF-16, little-endian ([MS-NLMP] 3.3.1, `NTOWFv1`), as 32 hexadecimal digits.
    pub fn nt_hash(&self) -> NtHash {
        let mut utf16 = Zeroizing::new(Vec::with_capacity(self.0.len() * 2));
        utf16.extend(self.0.encode_utf16().flat_map(u16::to_le_bytes));
        NtHash(Md4::digest(&utf16).iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An NT hash in hexadecimal. Whoever has it can log in, so it is treated as a secret.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct NtHash(String);

impl NtHash {
    /// Accepts exactly 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(text.to_owned()))
    }

    /// The digits, for the file that hands them over.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NtHash(…)")
    }
}

/// A new password such as `k7mq-x2hp-9dtw`.
pub fn random_password() -> Result<Secret, Error> {
    let mut text = String::with_capacity(GROUPS * (GROUP + 1));
    let mut bytes = Zeroizing::new([0u8; 32]);
    let mut made = 0;
    while made < GROUPS * GROUP {
        let n = match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(Error::Random(e.into())),
        };
        for byte in &bytes[..n] {
            // 248 = 8 × 31: larger bytes would make the first letters more frequent.
            if *byte >= 248 || made == GROUPS * GROUP {
                continue;
            }
            if made > 0 && made % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
            made += 1;
        }
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nt_hash_is_the_published_one() {
        // [MS-NLMP] 4.2.2.1.2: the password "Password".
        let hash = Secret::new("Password".into()).nt_hash();
        assert_eq!(hash.expose(), "a4f49c406510bdcab6824ee7c30fd852");
        // Beyond ASCII and beyond 16 bits; the value is from another implementation (Python).
        assert_eq!(Secret::new("žluť😀y".into()).nt_hash().expose(), "ee2178b7a2ffa75ee133ef2b2f388f62");
    }

    #[test]
    fn debug_shows_neither_password_nor_hash() {
        let secret = Secret::new("correct horse".into());
        let shown = format!("{secret:?} {:?}", secret.nt_hash());
        assert_eq!(shown, "Secret(…) NtHash(…)");
    }

    #[test]
    fn made_passwords_are_grouped_from_the_alphabet_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        let mut letters = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let password = random_password().unwrap();
            let text = password.expose();
            assert_eq!(text.len(), 14);
            for (i, b) in text.bytes().enumerate() {
                assert_eq!(b == b'-', i == 4 || i == 9, "{i}");
                if b != b'-' {
                    assert!(ALPHABET.contains(&b));
                    letters.insert(b);
                }
            }
            assert!(seen.insert(text.to_owned()));
        }
        // 2400 draws from 31 letters: one missing has a probability below 1e-30.
        assert_eq!(letters.len(), ALPHABET.len());
    }

    #[test]
    fn only_a_real_hash_is_accepted() {
        assert!(NtHash::parse(&"0a".repeat(16)).is_some());
        for bad in ["", &"0a".repeat(15), &"0A".repeat(16), &"0g".repeat(16)] {
            assert!(NtHash::parse(bad).is_none());
        }
    }
}
