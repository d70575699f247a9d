//! Accounts, and the file of them.

use std::collections::BTreeSet;

use lucid_statement::{PublicKey, Random, json};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Refused, Result},
    link::{Link, Token},
    password::Password,
    second::Second,
};

/// The most accounts.
pub const MAX_ACCOUNTS: usize = 64;
/// The most bytes of the file.
pub const MAX_BYTES: usize = 256 << 10;
/// The most bytes of a name.
const MAX_NAME: usize = 256;
/// The most keys, and the most links, of an account.
const MAX_LISTED: usize = 8;
/// Failures in a row that cost nothing.
const FREE: u32 = 5;
/// The longest wait, in milliseconds: a quarter of an hour.
const LONGEST_MS: u64 = 900_000;
const VERSION: u16 = 1;

/// What somebody may be: `approver`, `observer`, `operator`, `owner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// He may decide on requests.
    Approver,
    /// He may watch.
    Observer,
    /// He may use a desktop.
    Operator,
    /// The device is his.
    Owner,
}

impl From<Role> for lucid_policy::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Approver => Self::Approver,
            Role::Observer => Self::Observer,
            Role::Operator => Self::Operator,
            Role::Owner => Self::Owner,
        }
    }
}

/// Somebody. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// He is not let in, whatever he proves.
    pub closed: bool,
    /// Failures since he was let in last.
    failures: u32,
    /// Ed25519 keys that accept and approve for him.
    pub keys: Vec<PublicKey>,
    links: Vec<Link>,
    /// As he authenticates; 1 to 256 bytes. No two that differ in case alone.
    pub name: String,
    /// None: he is let in by links alone.
    password: Option<Password>,
    /// What he may be.
    pub roles: BTreeSet<Role>,
    /// None: a password is enough.
    second: Option<Second>,
    /// Before this time no attempt is looked at, in milliseconds since the Unix epoch.
    waits_until_ms: u64,
}

/// How somebody proves who he is.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// By his password, and the code of his second factor if he has one.
    Password {
        /// The password.
        plain: &'a str,
        /// The code.
        code: Option<&'a str>,
    },
    /// By what stands in a link.
    Link(&'a str),
}

/// The file: everybody, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    accounts: Vec<Account>,
    /// 1.
    version: u16,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { accounts: Vec::new(), version: VERSION }
    }
}

impl Account {
    /// Somebody who has no way in yet.
    ///
    /// # Errors
    /// When the name is none.
    pub fn new(name: &str, roles: impl IntoIterator<Item = Role>) -> Result<Self> {
        let account = Self {
            closed: false,
            failures: 0,
            keys: Vec::new(),
            links: Vec::new(),
            name: name.to_owned(),
            password: None,
            roles: roles.into_iter().collect(),
            second: None,
            waits_until_ms: 0,
        };
        account.check()?;
        Ok(account)
    }

    fn check(&self) -> Result<()> {
        let named = (1..=MAX_NAME).contains(&self.name.len()) && !self.name.chars().any(char::is_control);
        if !named {
            return Err(Error::Bounds("a name has 1 to 256 bytes, and no control characters"));
        }
        if self.keys.len() > MAX_LISTED || self.links.len() > MAX_LISTED {
            return Err(Error::Bounds("an account has 8 keys and 8 links at most"));
        }
        if self.password.as_ref().is_some_and(|password| !password.is_sound()) {
            return Err(Error::Bounds("a password is kept as Argon2id in the PHC string format"));
        }
        Ok(())
    }

    /// Gives him a password.
    pub fn set_password(&mut self, password: Option<Password>) {
        self.password = password;
        self.forgive();
    }

    /// Gives him a second factor, or takes it away.
    pub fn set_second(&mut self, second: Option<Second>) {
        self.second = second;
    }

    /// What NLA needs of his password; none where a code is needed as well, which NLA has no place for.
    #[must_use]
    pub fn nt_hash(&self) -> Option<&[u8; 16]> {
        let alone = !self.closed && self.second.is_none();
        self.password.as_ref().filter(|_| alone).map(Password::nt_hash)
    }

    /// A link that lets him in once.
    ///
    /// # Errors
    /// When he has as many as he may.
    pub fn link(&mut self, (now_ms, until_ms): (u64, u64), random: &mut Random) -> Result<Token> {
        self.links.retain(|link| now_ms < link.until_ms);
        if self.links.len() >= MAX_LISTED {
            return Err(Error::Bounds("an account has 8 links at most"));
        }
        let (link, token) = Link::new(until_ms, random);
        self.links.push(link);
        Ok(token)
    }

    /// Forgets his failures.
    pub fn forgive(&mut self) {
        (self.failures, self.waits_until_ms) = (0, 0);
    }

    fn failed(&mut self, now_ms: u64) -> Refused {
        self.failures = self.failures.saturating_add(1);
        if let Some(over) = self.failures.checked_sub(FREE) {
            let wait = 1000_u64.checked_shl(over).unwrap_or(LONGEST_MS).min(LONGEST_MS);
            self.waits_until_ms = now_ms.saturating_add(wait);
        }
        Refused::Wrong
    }

    fn prove(&mut self, proof: Proof<'_>, now_ms: u64) -> Result<(), Refused> {
        let wait = self.waits_until_ms.saturating_sub(now_ms);
        // A clock that was set back makes nobody wait for longer than anybody ever does.
        if wait > 0 && wait <= LONGEST_MS {
            return Err(Refused::Wait(wait));
        }
        let right = match proof {
            Proof::Password { plain, code } => {
                let right = self.password.as_ref().is_some_and(|password| password.is(plain)) && !self.closed;
                match (&mut self.second, code) {
                    (None, _) => right,
                    (Some(_), None) if right => return Err(Refused::CodeNeeded),
                    (Some(_), None) => false,
                    (Some(second), Some(code)) => right && second.take(code, now_ms),
                }
            }
            Proof::Link(token) => match self.links.iter().position(|link| link.is(token, now_ms)) {
                Some(place) if !self.closed => {
                    self.links.remove(place);
                    true
                }
                _ => false,
            },
        };
        if !right {
            return Err(self.failed(now_ms));
        }
        self.forgive();
        Ok(())
    }
}

impl Accounts {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not in canonical form, or out of its bounds.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Bounds("the file of accounts has 256 KiB at most"));
        }
        let accounts: Self = json::from_bytes("the file of accounts", bytes)?;
        accounts.check()?;
        Ok(accounts)
    }

    /// The file.
    ///
    /// # Errors
    /// When it is out of its bounds.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check()?;
        let bytes = json::to_bytes("the file of accounts", self)?;
        if bytes.len() > MAX_BYTES {
            return Err(Error::Bounds("the file of accounts has 256 KiB at most"));
        }
        Ok(bytes)
    }

    fn check(&self) -> Result<()> {
        if self.version != VERSION || self.accounts.len() > MAX_ACCOUNTS {
            return Err(Error::Bounds("the file of accounts is of version 1, and has 64 accounts at most"));
        }
        self.accounts.iter().try_for_each(Account::check)?;
        let names: Vec<String> = self.accounts.iter().map(|account| account.name.to_lowercase()).collect();
        if !names.is_sorted_by(|a, b| a < b) {
            return Err(Error::Bounds(
                "accounts are in the order of their names, no two that differ in case alone",
            ));
        }
        let keys: BTreeSet<_> = self.accounts.iter().flat_map(|account| &account.keys).collect();
        if keys.len() != self.accounts.iter().map(|account| account.keys.len()).sum::<usize>() {
            return Err(Error::Bounds("a key is one person's"));
        }
        Ok(())
    }

    /// Everybody, in the order of the names.
    #[must_use]
    pub fn all(&self) -> &[Account] {
        &self.accounts
    }

    /// Somebody, however his name is written.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Account> {
        let name = name.to_lowercase();
        self.accounts.iter_mut().find(|account| account.name.to_lowercase() == name)
    }

    /// Takes somebody in.
    ///
    /// # Errors
    /// When there is one of that name, or as many as there may be.
    pub fn add(&mut self, account: Account) -> Result<()> {
        if self.get_mut(&account.name).is_some() {
            return Err(Error::Exists(account.name));
        }
        let mut with = self.clone();
        with.accounts.push(account);
        with.accounts.sort_by_key(|account| account.name.to_lowercase());
        with.check()?;
        *self = with;
        Ok(())
    }

    /// Removes somebody.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn remove(&mut self, name: &str) -> Result<Account> {
        let lower = name.to_lowercase();
        let place = self.accounts.iter().position(|account| account.name.to_lowercase() == lower);
        place.map(|place| self.accounts.remove(place)).ok_or_else(|| Error::Nobody(name.to_owned()))
    }

    /// Lets somebody in who proves who he is. What has changed (failures, codes and links that were used) has to be written
    /// before he is.
    ///
    /// # Errors
    /// Says that he is not let in, and no more than he may know.
    pub fn admit(&mut self, name: &str, proof: Proof<'_>, now_ms: u64) -> Result<&Account, Refused> {
        let name = name.to_lowercase();
        match self.accounts.iter_mut().find(|account| account.name.to_lowercase() == name) {
            Some(account) => {
                account.prove(proof, now_ms)?;
                Ok(account)
            }
            None => {
                // It takes as long as it does with somebody.
                if let Proof::Password { plain, .. } = proof {
                    let _ = stranger().is(plain);
                }
                Err(Refused::Wrong)
            }
        }
    }
}

/// A password that nobody has.
fn stranger() -> &'static Password {
    static STRANGER: std::sync::OnceLock<Password> = std::sync::OnceLock::new();
    STRANGER.get_or_init(Password::of_nobody)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use lucid_statement::system_random;

    use super::*;

    const RIGHT: Proof<'static> = Proof::Password { plain: "Quiet-Otter-58", code: None };
    const WRONG: Proof<'static> = Proof::Password { plain: "Quiet-Otter-59", code: None };

    fn accounts() -> Accounts {
        let mut accounts = Accounts::default();
        let mut ada = Account::new("Ada", [Role::Operator]).unwrap();
        ada.set_password(Some(Password::new("Quiet-Otter-58", &mut system_random()).unwrap()));
        accounts.add(ada).unwrap();
        accounts.add(Account::new("bob", [Role::Approver, Role::Observer]).unwrap()).unwrap();
        accounts
    }

    #[test]
    fn who_proves_who_he_is_is_let_in_and_nobody_else() {
        let mut accounts = accounts();
        assert_eq!(accounts.admit("ada", RIGHT, 0).unwrap().name, "Ada");
        assert_eq!(accounts.admit("ada", WRONG, 0), Err(Refused::Wrong));
        assert_eq!(accounts.admit("bob", RIGHT, 0), Err(Refused::Wrong), "he has no password");
        assert_eq!(accounts.admit("eve", RIGHT, 0), Err(Refused::Wrong));
        accounts.get_mut("Ada").unwrap().closed = true;
        assert_eq!(accounts.admit("Ada", RIGHT, 0), Err(Refused::Wrong));
        assert!(accounts.all()[0].nt_hash().is_none());
    }

    #[test]
    fn failures_make_the_next_attempt_wait_longer_each_time_and_success_forgives_them() {
        let mut accounts = accounts();
        let mut now = 1_000_000;
        let mut waits = Vec::new();
        for _ in 0..20 {
            assert_eq!(accounts.admit("ada", WRONG, now), Err(Refused::Wrong));
            if let Err(Refused::Wait(ms)) = accounts.admit("ada", RIGHT, now) {
                waits.push(ms);
                now += ms;
            } else {
                // Let in, which forgives: so only wrong ones count here.
                assert!(waits.is_empty());
                for _ in 0..FREE - 1 {
                    assert_eq!(accounts.admit("ada", WRONG, now), Err(Refused::Wrong));
                }
            }
        }
        assert!(waits.windows(2).all(|pair| pair[1] == (pair[0] * 2).min(LONGEST_MS)), "{waits:?}");
        assert_eq!((waits.first(), waits.last()), (Some(&1000), Some(&LONGEST_MS)));
        accounts.admit("ada", RIGHT, now).unwrap();
        assert_eq!(accounts.admit("ada", WRONG, now), Err(Refused::Wrong));
        accounts.admit("ada", RIGHT, now).unwrap();
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out_for_longer() {
        let mut accounts = accounts();
        for _ in 0..FREE {
            assert_eq!(accounts.admit("ada", WRONG, 1 << 40), Err(Refused::Wrong));
        }
        assert!(matches!(accounts.admit("ada", RIGHT, 1 << 40), Err(Refused::Wait(_))));
        accounts.admit("ada", RIGHT, 0).unwrap();
    }

    #[test]
    fn a_second_factor_is_needed_and_each_code_and_link_works_once() {
        let mut accounts = accounts();
        let mut random = system_random();
        let (second, now) = (Second::new(&mut random), 1_800_000_000_000);
        let totp = second.clone();
        accounts.get_mut("ada").unwrap().set_second(Some(second));
        assert!(accounts.all()[0].nt_hash().is_none(), "NLA has no place for a code");
        assert_eq!(accounts.admit("ada", RIGHT, now), Err(Refused::CodeNeeded));
        let code = (0..1_000_000)
            .map(|code| format!("{code:06}"))
            .find(|code| totp.clone().take(code, now))
            .unwrap();
        let with = Proof::Password { plain: "Quiet-Otter-58", code: Some(&code) };
        accounts.admit("ada", with, now).unwrap();
        assert_eq!(accounts.admit("ada", with, now), Err(Refused::Wrong));
        let token = accounts.get_mut("bob").unwrap().link((now, now + 1000), &mut random).unwrap();
        let link = Proof::Link(token.expose());
        assert_eq!(accounts.admit("ada", link, now), Err(Refused::Wrong), "it is another's");
        assert_eq!(accounts.admit("bob", link, now + 1000), Err(Refused::Wrong), "too late");
        accounts.admit("bob", link, now + 999).unwrap();
        assert_eq!(accounts.admit("bob", link, now + 999), Err(Refused::Wrong), "used");
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn the_file_is_read_as_it_was_written_and_only_so() {
        let accounts = accounts();
        let bytes = accounts.to_bytes().unwrap();
        assert_eq!(Accounts::read(&bytes).unwrap(), accounts);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            // Whatever it says then, it is one spelling.
            if let Ok(read) = Accounts::read(&changed) {
                assert_eq!(read.to_bytes().unwrap(), changed);
            }
        }
        let mut more = accounts.clone();
        assert!(matches!(more.add(Account::new("ADA", []).unwrap()), Err(Error::Exists(_))));
        assert!(more.remove("nobody").is_err());
        assert_eq!(more.remove("ADA").unwrap().name, "Ada");
    }
}
