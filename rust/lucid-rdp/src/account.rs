//! Who may connect, as [`crate::register`] has it: from the session controller, or without one from a file.
//!
//! The account file (version 1, JSON) is written by `lucid-provision`:
//!
//! ```json
//! {"version":1,"accounts":[{"user":"lucid","nt_hash":"<32 hexadecimal digits>"}]}
//! ```
//!
//! At least one and at most 64 accounts; no two names that differ in case only.
//!
//! `nt_hash` is MD4 over the password in UTF-16LE (MS-NLMP 3.3.1, `NTOWFv1`): NLA's NTLM needs exactly
//! this. It is as good as the password for NLA, so the file is secret; the password itself is nowhere.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ironrdp_connector::sspi::credssp::CredentialsProxy;
use ironrdp_connector::sspi::{self, AuthIdentity, Username};
use md4::{Digest as _, Md4};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{Error, guard};

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

/// Accounts in one file.
const MAX_ACCOUNTS: usize = 64;

/// Everybody who may connect.
#[derive(Debug)]
pub(crate) struct Accounts(Vec<Account>);

/// One who may connect.
struct Account {
    user: String,
    /// None where he may not by NLA.
    nt_hash: Option<Zeroizing<[u8; 16]>>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Reads the account file.
    ///
    /// # Errors
    /// When the file is missing, too large, not version 1, or does not hold usable accounts.
    pub(crate) fn load(path: &Path) -> Result<Accounts, Error> {
        let read = |source| Error::AccountRead { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(read)?.len();
        let format = |what: String| Error::AccountFormat { path: path.to_owned(), what };
        if size > MAX_FILE {
            return Err(format(format!("it has {size} bytes, at most {MAX_FILE} are allowed")));
        }
        let text = Zeroizing::new(std::fs::read(path).map_err(read)?);
        Accounts::parse(&text).map_err(format)
    }

    fn parse(text: &[u8]) -> Result<Accounts, String> {
        // serde_json's own message may quote the input; only the place is told.
        let file: File = serde_json::from_slice(text)
            .map_err(|e| format!("no valid account file, line {} column {}", e.line(), e.column()))?;
        if file.version != 1 {
            return Err(format!("version {} is not known, only 1 is", file.version));
        }
        if !(1..=MAX_ACCOUNTS).contains(&file.accounts.len()) {
            let count = file.accounts.len();
            return Err(format!(
                "it holds {count} accounts, at least 1 and at most {MAX_ACCOUNTS} are needed"
            ));
        }
        let mut accounts = Accounts(Vec::with_capacity(file.accounts.len()));
        for entry in file.accounts {
            let nt_hash = parse_hex(&entry.nt_hash).ok_or("an nt_hash is not 32 hexadecimal digits")?;
            accounts.add(entry.user, Some(nt_hash))?;
        }
        Ok(accounts)
    }

    /// Those whom the session controller knows, with the hashes of those who may connect by NLA.
    pub(crate) fn of(
        people: impl IntoIterator<Item = (String, Zeroizing<Vec<u8>>)>,
    ) -> Result<Accounts, String> {
        let mut accounts = Accounts(Vec::new());
        for (user, nt_hash) in people {
            let nt_hash = match <&[u8; 16]>::try_from(nt_hash.as_slice()) {
                Ok(hash) => Some(Zeroizing::new(*hash)),
                Err(_) if nt_hash.is_empty() => None,
                Err(_) => return Err("an NT hash has not 16 bytes".into()),
            };
            accounts.add(user, nt_hash)?;
        }
        Ok(accounts)
    }

    fn add(&mut self, user: String, nt_hash: Option<Zeroizing<[u8; 16]>>) -> Result<(), String> {
        if user.is_empty() || user.len() > MAX_USER || user.chars().any(char::is_control) {
            return Err("a user name is empty, too long or has control characters".into());
        }
        if self.name(&user).is_some() {
            return Err(format!("the user {user} is there twice"));
        }
        if self.0.len() >= MAX_ACCOUNTS {
            return Err(format!("there are more than {MAX_ACCOUNTS} accounts"));
        }
        self.0.push(Account { user, nt_hash });
        Ok(())
    }

    /// The account's name, if there is such a user.
    pub(crate) fn name(&self, user: &str) -> Option<&str> {
        self.find(user).map(|account| account.user.as_str())
    }

    /// The account's name, if these are the name and password of one. User names do not regard case (as in
    /// Windows); passwords are compared in constant time.
    #[must_use]
    pub(crate) fn admits(&self, user: &str, password: &str) -> Option<&str> {
        let hash = nt_hash(password);
        // Evaluated in any case: an unknown user costs as much time as a wrong password.
        let known = self.find(user);
        let expected = known.and_then(|account| account.nt_hash.as_ref());
        let same = expected.map_or(&[0; 16], |hash| &**hash).ct_eq(hash.as_slice());
        let same = bool::from(same) && expected.is_some();
        known.filter(|_| same && !password.is_empty()).map(|account| account.user.as_str())
    }

    /// The hash of a user's password; for a user that there is not one that nobody has, so that it is refused in the same
    /// way and time as a wrong password. Nothing if there are no random numbers.
    pub(crate) fn nt_hash(&self, user: &str) -> Option<Zeroizing<[u8; 16]>> {
        let mut hash = Zeroizing::new([0; 16]);
        // In any case, so that it takes as long.
        SystemRandom::new().fill(hash.as_mut_slice()).ok()?;
        if let Some(known) = self.find(user).and_then(|account| account.nt_hash.as_ref()) {
            hash.copy_from_slice(known.as_slice());
        }
        Some(hash)
    }

    /// The name of the account, if there is such a user whom NLA may let in.
    fn by_nla(&self, user: &str) -> Option<&str> {
        self.find(user).filter(|account| account.nt_hash.is_some()).map(|account| account.user.as_str())
    }

    fn find(&self, user: &str) -> Option<&Account> {
        let user = user.to_lowercase();
        self.0.iter().find(|account| account.user.to_lowercase() == user)
    }
}

/// What NLA looks up: the hashes that answers are checked with.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// Who may connect, from the first turn on.
    accounts: Mutex<Option<Arc<Accounts>>>,
    /// The account that was looked up, if there is one.
    asked: OnceLock<String>,
}

impl Lookup {
    /// The same as [`Accounts::nt_hash`]; nothing before it is known who may connect.
    pub(crate) fn nt_hash(&self, user: &str) -> Option<Zeroizing<[u8; 16]>> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        guard::claimed(accounts.name(user));
        if let Some(known) = accounts.by_nla(user) {
            // One client proves once who he is.
            let _ = self.asked.set(known.to_owned());
        }
        accounts.nt_hash(user)
    }

    /// Has users looked up there from now on.
    pub(crate) fn set(&self, accounts: Arc<Accounts>) {
        *self.accounts.lock().unwrap_or_else(PoisonError::into_inner) = Some(accounts);
    }

    /// The account that was looked up.
    pub(crate) fn asked(&self) -> Option<&String> {
        self.asked.get()
    }
}

/// Where `sspi` looks up what a user's NTLM answer is checked with: the hash instead of a password.
#[derive(Debug)]
pub(crate) struct Directory<'a>(pub(crate) &'a Lookup);

impl CredentialsProxy for Directory<'_> {
    type AuthenticationData = AuthIdentity;

    fn auth_data_by_user(&mut self, username: &Username) -> std::io::Result<AuthIdentity> {
        let hash = self
            .0
            .nt_hash(username.account_name())
            .ok_or_else(|| std::io::Error::other("no random numbers"))?;
        let mut password = String::with_capacity(sspi::ntlm::NTLM_HASH_PREFIX.len() + 32);
        password.push_str(sspi::ntlm::NTLM_HASH_PREFIX);
        for byte in hash.iter() {
            password.push(char::from(HEX[usize::from(byte >> 4)]));
            password.push(char::from(HEX[usize::from(byte & 15)]));
        }
        // The client computes with its own spelling of the name, and with its domain.
        Ok(AuthIdentity { username: username.clone(), password: password.into() })
    }

    fn auth_data(&mut self) -> std::io::Result<Vec<AuthIdentity>> {
        Err(std::io::Error::other("users are asked for by name"))
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
        let accounts = Accounts::parse(GOLDEN).unwrap();
        assert!(accounts.name("LUCID").is_some() && accounts.name("root").is_none());
        assert_eq!(accounts.admits("lucid", "password"), Some("lucid"));
        assert_eq!(accounts.admits("Lucid", "password"), Some("lucid"));
        assert_eq!(accounts.admits("lucid", "Password"), None);
        assert_eq!(accounts.admits("lucid", ""), None);
        assert_eq!(accounts.admits("root", "password"), None);
        assert_eq!(accounts.admits("", ""), None);
    }

    #[test]
    fn of_several_users_each_has_a_password_of_its_own() {
        // "password" and "Password".
        let text = r#"{"version":1,"accounts":[{"user":"Ada","nt_hash":"8846f7eaee8fb117ad06bdd830b7586c"},
            {"user":"bob","nt_hash":"a4f49c406510bdcab6824ee7c30fd852"}]}"#;
        let accounts = Accounts::parse(text.as_bytes()).unwrap();
        assert_eq!(accounts.admits("ada", "password"), Some("Ada"));
        assert_eq!(accounts.admits("BOB", "Password"), Some("bob"));
        assert_eq!(accounts.admits("ada", "Password"), None);
        assert_eq!(accounts.admits("bob", "password"), None);
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
        let accounts = Accounts::parse(GOLDEN).unwrap();
        assert_eq!(format!("{accounts:?}"), "Accounts([Account { user: \"lucid\", .. }])");
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
            r#"{"version":1,"accounts":[{"user":"a","nt_hash":"8846f7eaee8fb117ad06bdd830b7586c"},
                {"user":"A","nt_hash":"8846f7eaee8fb117ad06bdd830b7586c"}]}"#,
        ] {
            let error = Accounts::parse(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }
}
