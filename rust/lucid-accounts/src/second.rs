//! The second factor: codes of RFC 6238.

use lucid_statement::{Hex, Random, rand_core::Rng as _};
use serde::{Deserialize, Serialize};
use totp_rs::{Algorithm, Builder, Totp};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Seconds of a step.
const STEP: u64 = 30;

/// What is kept of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Second {
    /// The step of the newest code that was taken: neither it nor one before is taken again.
    last: u64,
    /// 20 bytes (RFC 4226, section 4).
    secret: Hex<20>,
}

impl std::fmt::Debug for Second {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Second")
    }
}

impl Second {
    /// A new secret.
    #[must_use]
    pub fn new(random: &mut Random) -> Self {
        let mut secret = [0; 20];
        random.fill_bytes(&mut secret);
        Self { last: 0, secret: Hex(secret) }
    }

    /// The secret, for the user's own device, once: as the URI that authenticators read (Key Uri Format, with its
    /// defaults: SHA-1, six digits, 30 s).
    ///
    /// # Errors
    /// When its length is wrong, which it never is.
    pub fn uri(&self, name: &str) -> Result<Zeroizing<String>> {
        let mut uri = Zeroizing::new(String::from("otpauth://totp/Lucid:"));
        for byte in name.bytes() {
            // RFC 3986, section 2.3.
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri.push_str("?secret=");
        uri.push_str(&Zeroizing::new(self.totp()?.secret().to_base32()));
        uri.push_str("&issuer=Lucid");
        Ok(uri)
    }

    fn totp(&self) -> Result<Totp> {
        let builder = Builder::new().with_algorithm(Algorithm::SHA1).with_digits(6).with_skew(1);
        let builder = builder.with_step_duration(STEP).with_secret(self.secret.0.to_vec());
        builder.build().map_err(|_| Error::Bounds("a second factor's secret has 20 bytes"))
    }

    /// Takes a code of this step, or the one before or after; once.
    #[must_use]
    pub fn take(&mut self, code: &str, now_ms: u64) -> bool {
        let Ok(totp) = self.totp() else { return false };
        // When it was made, in seconds, or its step; either tells one from another.
        let Some(at) = totp.check(code, now_ms / 1000) else { return false };
        if at <= self.last {
            return false;
        }
        self.last = at;
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    #[test]
    fn codes_are_those_of_the_rfc_and_each_is_taken_once() {
        // RFC 6238, appendix B, of which six digits are taken.
        let mut second = Second { last: 0, secret: Hex(*b"12345678901234567890") };
        assert!(!second.take("000000", 59_000));
        assert!(second.take("287082", 59_000));
        assert!(!second.take("287082", 59_000), "twice");
        assert!(second.take("081804", 1_111_111_109_000));
        assert!(!second.take("287082", 1_111_111_109_000));
        assert!(second.take("005924", 1_234_567_890_000));
        assert!(!second.take("279037", 1_234_567_950_000), "another time's");
    }

    #[test]
    fn authenticators_are_told_the_secret_as_they_read_it() {
        let second = Second { last: 0, secret: Hex(*b"12345678901234567890") };
        let uri = second.uri("Ada L:ö").unwrap();
        let secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        assert_eq!(*uri, format!("otpauth://totp/Lucid:Ada%20L%3A%C3%B6?secret={secret}&issuer=Lucid"));
    }
}
