//! Passwords, as they are kept.

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version};
use lucid_statement::{Hex, Random, rand_core::Rng as _};
use md4::{Digest as _, Md4};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Characters of a password.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=128;
/// KiB of memory, passes, lanes: the second choice of RFC 9106, section 4, made smaller as OWASP has it for servers.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// How all of that is written: what is read costs no more than what was made here.
const COSTS: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

/// Argon2id of random bytes, with the cost that others have.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// Argon2id, in the PHC string format. None where the password itself was never here: then the NT hash says whether
    /// it is that one.
    argon2: Option<String>,
    /// MD4 over the password in UTF-16LE (MS-NLMP 3.3.1, `NTOWFv1`): for NLA it is as good as the password.
    nt_hash: Hex<16>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

fn argon2() -> Result<Argon2<'static>> {
    let (memory, passes, lanes) = COST;
    let params =
        Params::new(memory, passes, lanes, None).map_err(|error| Error::Argon2(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

impl Password {
    /// Keeps a password.
    ///
    /// # Errors
    /// When it is too short or too long, or has control characters.
    pub fn new(plain: &str, random: &mut Random) -> Result<Self> {
        if !LENGTH.contains(&plain.chars().count()) || plain.chars().any(char::is_control) {
            return Err(Error::Password("it has 8 to 128 characters, and no control characters"));
        }
        let mut salt = [0; 16];
        random.fill_bytes(&mut salt);
        let hash = argon2()?.hash_password_with_salt(plain.as_bytes(), &salt);
        let argon2 = hash.map_err(|error| Error::Argon2(error.to_string()))?.to_string();
        Ok(Self { argon2: Some(argon2), nt_hash: nt_hash(plain) })
    }

    /// Keeps a password of which there is no more than its NT hash.
    #[must_use]
    pub fn of_nt_hash(nt_hash: Hex<16>) -> Self {
        Self { argon2: None, nt_hash }
    }

    /// One that nobody has: for whom does not exist.
    pub(crate) fn of_nobody() -> Self {
        Self { argon2: Some(NOBODYS.to_owned()), nt_hash: Hex([0; 16]) }
    }

    /// Whether it is that password. Takes as long whether it is or not, and however it is kept; the empty one is none.
    #[must_use]
    pub fn is(&self, plain: &str) -> bool {
        let kept = self.argon2.as_deref().unwrap_or(NOBODYS);
        let by_argon2 = argon2().is_ok_and(|argon2| argon2.verify_password(plain.as_bytes(), kept).is_ok());
        let by_nt_hash = bool::from(nt_hash(plain).0.ct_eq(&self.nt_hash.0));
        !plain.is_empty() && if self.argon2.is_some() { by_argon2 } else { by_nt_hash }
    }

    /// What NLA needs.
    #[must_use]
    pub fn nt_hash(&self) -> &[u8; 16] {
        &self.nt_hash.0
    }

    pub(crate) fn is_sound(&self) -> bool {
        let sound =
            |kept: &String| kept.len() <= 256 && kept.starts_with(COSTS) && PasswordHash::new(kept).is_ok();
        self.argon2.as_ref().is_none_or(sound)
    }
}

fn nt_hash(plain: &str) -> Hex<16> {
    let wide: Zeroizing<Vec<u8>> = Zeroizing::new(plain.encode_utf16().flat_map(u16::to_le_bytes).collect());
    Hex(Md4::digest(&wide).into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use lucid_statement::system_random;

    use super::*;

    #[test]
    fn a_password_is_known_again_and_nothing_of_it_is_kept() {
        let mut random = system_random();
        let kept = Password::new("Quiet-Otter-58", &mut random).unwrap();
        assert!(kept.is("Quiet-Otter-58") && !kept.is("Quiet-Otter-59") && !kept.is(""));
        assert!(kept.is_sound(), "{:?}", kept.argon2);
        assert_ne!(kept, Password::new("Quiet-Otter-58", &mut random).unwrap(), "salted");
        assert_eq!(format!("{kept:?}"), "Password");
        // MS-NLMP 4.2.2.1.2.
        assert_eq!(nt_hash("Password").to_string(), "a4f49c406510bdcab6824ee7c30fd852");
        for bad in ["short", "", "with\ncontrol"] {
            assert!(Password::new(bad, &mut random).is_err());
        }
    }

    #[test]
    fn a_password_of_which_there_is_the_nt_hash_alone_is_known_as_well() {
        let kept = Password::of_nt_hash(nt_hash("password"));
        assert!(kept.is_sound() && kept.is("password") && !kept.is("Password") && !kept.is(""));
        assert!(!Password::of_nt_hash(nt_hash("")).is(""), "no password is none");
        assert!(Password::of_nobody().is_sound() && !Password::of_nobody().is(""));
    }

    #[test]
    fn one_that_would_cost_more_is_not_kept() {
        for cost in ["m=4194304,t=2,p=1", "m=19456,t=200,p=1", "m=19456,t=2,p=9"] {
            let argon2 = Some(NOBODYS.replace("m=19456,t=2,p=1", cost));
            assert!(!Password { argon2, nt_hash: Hex([0; 16]) }.is_sound(), "{cost}");
        }
    }
}
