//! Who may connect.
//!
//! The account file (version 1, JSON) is written by `lucid-provision`:
//!
//! ```json
//! {"version":1,"accounts":[{"user":"lucid","nt_hash":"<32 hexadecimal digits>"}]}
//! ```
//!
//! `nt_hash` is MD4 over the password in UTF-16LE (MS-NLMP 3.3.1, `NTOWFv1`): NLA's NTLM needs exactly
//! this. It is as good as the password for NLA, so the file is secret; the password itself is nowhere.

use std::fmt;
use std::path::Path;

use ironrdp_connector::sspi::{self, AuthIdentity, Username};
use md4::{Digest as _, Md4};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::Error;

/// The account file may not be larger than this.
const MAX_FILE: u64 = 64 * 1024;
/// Names longer than this are refused (Windows allows 20 characters for local users, 256 for UPNs).
const MAX_USER: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    accounts: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    user: String,
    nt_hash: Zeroizing<String>,
}

/// The one account that may connect.
pub struct Account {
    user: String,
    nt_hash: Zeroizing<[u8; 16]>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Account {
    /// Reads the account file.
    ///
    /// # Errors
    /// When the file is missing, too large, not version 1, or does not hold exactly one account.
    pub fn load(path: &Path) -> Result<Account, Error> {
        let read = |source| Error::AccountRead { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(read)?.len();
        let format = |what: String| Error::AccountFormat { path: path.to_owned(), what };
        if size > MAX_FILE {
            return Err(format(format!("it has {size} bytes, at most {MAX_FILE} are allowed")));
        }
        let text = Zeroizing::new(std::fs::read(path).map_err(read)?);
        Account::parse(&text).map_err(format)
    }

    fn parse(text: &[u8]) -> Result<Account, String> {
        // serde_json's own message may quote the input; only the place is told.
        let file: File = serde_json::from_slice(text)
            .map_err(|e| format!("no valid account file, line {} column {}", e.line(), e.column()))?;
        if file.version != 1 {
            return Err(format!("version {} is not known, only 1 is", file.version));
        }
        let [entry] = file.accounts.as_slice() else {
            return Err(format!("it holds {} accounts, exactly one is needed", file.accounts.len()));
        };
        if entry.user.is_empty() || entry.user.len() > MAX_USER || entry.user.chars().any(char::is_control) {
            return Err("the user name is empty, too long or has control characters".into());
        }
        let hash = parse_hex(&entry.nt_hash).ok_or("nt_hash is not 32 hexadecimal digits")?;
        Ok(Account { user: entry.user.clone(), nt_hash: hash })
    }

    /// The user's name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether these are the account's name and password. User names do not regard case (as in
    /// Windows); the password is compared in constant time.
    #[must_use]
    pub fn admits(&self, user: &str, password: &str) -> bool {
        let hash = nt_hash(password);
        let same = self.nt_hash.as_slice().ct_eq(hash.as_slice());
        // Evaluated in any case: an unknown user costs as much time as a wrong password.
        let known = self.is_user(user);
        bool::from(same) && known && !password.is_empty()
    }

    fn is_user(&self, user: &str) -> bool {
        user.to_lowercase() == self.user.to_lowercase()
    }

    /// The identity in the form in which `sspi` checks NTLM: the hash instead of a password.
    pub(crate) fn identity(&self) -> Result<AuthIdentity, Error> {
        let username = Username::new(&self.user, None)
            .map_err(|_| Error::Internal("the account's user name is not one that NTLM can carry"))?;
        let mut password = String::with_capacity(sspi::ntlm::NTLM_HASH_PREFIX.len() + 32);
        password.push_str(sspi::ntlm::NTLM_HASH_PREFIX);
        for byte in self.nt_hash.iter() {
            password.push(char::from(HEX[usize::from(byte >> 4)]));
            password.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Ok(AuthIdentity { username, password: password.into() })
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn parse_hex(text: &str) -> Option<Zeroizing<[u8; 16]>> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut out = Zeroizing::new([0; 16]);
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}

/// MS-NLMP 3.3.1, `NTOWFv1`: MD4 over the password in UTF-16LE.
fn nt_hash(password: &str) -> Zeroizing<[u8; 16]> {
    let mut wide = Zeroizing::new(Vec::with_capacity(password.len() * 2));
    for unit in password.encode_utf16() {
        wide.extend_from_slice(&unit.to_le_bytes());
    }
    Zeroizing::new(Md4::digest(wide.as_slice()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../testdata/account-v1.json");

    #[test]
    fn the_golden_file_admits_its_user_and_nobody_else() {
        let account = Account::parse(GOLDEN).unwrap();
        assert_eq!(account.user(), "lucid");
        assert!(account.admits("lucid", "password"));
        assert!(account.admits("Lucid", "password"));
        assert!(!account.admits("lucid", "Password"));
        assert!(!account.admits("lucid", ""));
        assert!(!account.admits("root", "password"));
        assert!(!account.admits("", ""));
    }

    #[test]
    fn the_nt_hash_is_the_published_one() {
        // MS-NLMP 4.2.2.1.2: NTOWFv1 of "Password".
        let expected =
            [0xa4, 0xf4, 0x9c, 0x40, 0x65, 0x10, 0xbd, 0xca, 0xb6, 0x82, 0x4e, 0xe7, 0xc3, 0x0f, 0xd8, 0x52];
        assert_eq!(*nt_hash("Password"), expected);
    }

    #[test]
    fn nothing_of_the_secret_is_printed() {
        let account = Account::parse(GOLDEN).unwrap();
        assert_eq!(format!("{account:?}"), "Account { user: \"lucid\", .. }");
    }

    #[test]
    fn unusable_files_are_refused_without_quoting_them() {
        for bad in [
            "",
            "{}",
            r#"{"version":2,"accounts":[{"user":"a","nt_hash":"8846f7eaee8fb117ad06bdd830b7586c"}]}"#,
            r#"{"version":1,"accounts":[]}"#,
            r#"{"version":1,"accounts":[{"user":"","nt_hash":"8846f7eaee8fb117ad06bdd830b7586c"}]}"#,
            r#"{"version":1,"accounts":[{"user":"a","nt_hash":"8846f7eaee8fb117ad06bdd830b7586"}]}"#,
            r#"{"version":1,"accounts":[{"user":"a","nt_hash":"s3cr3t7eaee8fb117ad06bdd830b7586"}]}"#,
            r#"{"version":1,"accounts":[{"user":"a","password":"s3cr3t"}]}"#,
        ] {
            let error = Account::parse(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }
}
