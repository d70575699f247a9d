//! Accounts, and the file of them.

use std::collections::BTreeSet;

use lucid_statement::{Hex, PublicKey, Random, json};
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
    /// He may decide on requests: with a key, and where he may not use a desktop, on a screen.
    Approver,
    /// He may watch.
    Observer,
    /// He may use a desktop.
    Operator,
    /// The device is his.
    Owner,
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
    /// NT hash of the password that the device's owner named for him last ([`Accounts::provision`]).
    provisioned: Option<Provisioned>,
    /// What he may be.
    pub roles: BTreeSet<Role>,
    /// None: a password is enough.
    second: Option<Second>,
    /// Before this time no attempt is looked at, in milliseconds since the Unix epoch.
    waits_until_ms: u64,
}

/// As good as the password, so it does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Provisioned(Hex<16>);

impl std::fmt::Debug for Provisioned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Provisioned")
    }
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
    /// By what is typed where a client has one field for all of it: what stands in a link, or the password, which one space
    /// and the code follow if he has a second factor.
    Typed(&'a str),
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
            provisioned: None,
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

    /// Whether that is his name, however it is written.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.to_lowercase() == name.to_lowercase()
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

    /// Whether he has a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Whether he has a second factor.
    #[must_use]
    pub fn has_second(&self) -> bool {
        self.second.is_some()
    }

    /// Links that are good now.
    #[must_use]
    pub fn links(&self, now_ms: u64) -> usize {
        self.links.iter().filter(|link| now_ms < link.until_ms).count()
    }

    /// Failures since he was let in last.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long no attempt of his is looked at, in milliseconds; 0 where they are.
    #[must_use]
    pub fn waits(&self, now_ms: u64) -> u64 {
        let wait = self.waits_until_ms.saturating_sub(now_ms);
        // A clock that was set back makes nobody wait for longer than anybody ever does.
        if wait <= LONGEST_MS { wait } else { 0 }
    }

    /// Whether he may connect, when he has proved who he is: to use a desktop, or to decide.
    #[must_use]
    pub fn may_connect(&self) -> bool {
        !self.closed && (self.uses_desktop() || self.roles.contains(&Role::Approver))
    }

    fn uses_desktop(&self) -> bool {
        self.roles.contains(&Role::Operator) || self.roles.contains(&Role::Owner)
    }

    /// Whether he may connect to decide on requests, and for nothing else. Whoever may use a desktop decides by his key.
    #[must_use]
    pub fn only_decides(&self) -> bool {
        self.may_connect() && !self.uses_desktop()
    }

    /// Whether he has nothing but a screen to decide on: no key, and a way in.
    #[must_use]
    pub fn decides_on_screen(&self) -> bool {
        let has_way_in = self.password.is_some() || !self.links.is_empty();
        self.only_decides() && self.keys.is_empty() && has_way_in
    }

    /// What NLA needs of his password, if he may connect by it now; none where a code is needed as well, which NLA has no
    /// place for.
    #[must_use]
    pub fn nt_hash(&self, now_ms: u64) -> Option<&[u8; 16]> {
        let now = self.may_connect() && self.second.is_none() && self.waits(now_ms) == 0;
        self.password.as_ref().filter(|_| now).map(Password::nt_hash)
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

    /// What he typed into one field.
    fn understood<'a>(&self, typed: &'a str, now_ms: u64) -> Proof<'a> {
        if self.links.iter().any(|link| link.is(typed, now_ms)) {
            return Proof::Link(typed);
        }
        let is_code = |code: &str| code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
        match typed.rsplit_once(' ') {
            Some((plain, code)) if self.second.is_some() && is_code(code) => {
                Proof::Password { plain, code: Some(code) }
            }
            _ => Proof::Password { plain: typed, code: None },
        }
    }

    fn prove(&mut self, proof: Proof<'_>, now_ms: u64) -> Result<(), Refused> {
        let proof = match proof {
            Proof::Typed(typed) => self.understood(typed, now_ms),
            other => other,
        };
        // Before anything else, so that it takes as long whatever comes of it.
        let known = match proof {
            Proof::Password { plain, .. } => {
                self.password.as_ref().unwrap_or_else(|| stranger()).is(plain) && self.password.is_some()
            }
            _ => false,
        };
        let wait = self.waits(now_ms);
        if wait > 0 {
            return Err(Refused::Wait(wait));
        }
        let right = match proof {
            Proof::Password { code, .. } => {
                let right = known && !self.closed;
                match (&mut self.second, code) {
                    (None, _) => right,
                    (Some(_), None) if right => return Err(Refused::CodeNeeded),
                    (Some(_), None) => false,
                    (Some(second), Some(code)) => right && second.take(code, now_ms),
                }
            }
            Proof::Link(token) | Proof::Typed(token) => {
                match self.links.iter().position(|link| link.is(token, now_ms)) {
                    Some(place) if !self.closed => {
                        self.links.remove(place);
                        true
                    }
                    _ => false,
                }
            }
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

    /// Takes over somebody whom the device's owner names outside of this file: with these roles, or else at first as an operator
    /// and owner, and with a password of which there is the NT hash alone. Who is there gets it if it is another one than was
    /// named for him before; nothing else of him changes.
    ///
    /// # Errors
    /// When the name is none, or there are as many as there may be.
    pub fn provision(&mut self, name: &str, nt_hash: Hex<16>, roles: Option<&[Role]>) -> Result<()> {
        if self.get_mut(name).is_none() {
            self.add(Account::new(name, [Role::Operator, Role::Owner])?)?;
        }
        let account = self.get_mut(name).ok_or_else(|| Error::Nobody(name.to_owned()))?;
        if let Some(roles) = roles {
            account.roles = roles.iter().copied().collect();
        }
        let named = Some(Provisioned(nt_hash));
        if account.provisioned != named {
            account.provisioned = named;
            account.set_password(Some(Password::of_nt_hash(nt_hash)));
        }
        Ok(())
    }

    /// Takes the passwords away that the device's owner named for others than these, unless they have another one now.
    pub fn provision_only(&mut self, names: &[&str]) {
        let named = |account: &Account| names.iter().any(|name| account.is(name));
        for account in self.accounts.iter_mut().filter(|account| !named(account)) {
            let Some(Provisioned(hash)) = account.provisioned.take() else { continue };
            if account.password.as_ref().is_some_and(|password| *password.nt_hash() == hash.0) {
                account.set_password(None);
            }
        }
    }

    /// Whether the device has an owner who is let in.
    #[must_use]
    pub fn has_owner(&self) -> bool {
        self.accounts.iter().any(|account| !account.closed && account.roles.contains(&Role::Owner))
    }

    /// Somebody has failed to prove to NLA who he is, which looks at his password's hash itself. None where that does not
    /// count: nobody is called so, or he waits, and no attempt of his is looked at.
    pub fn failed(&mut self, name: &str, now_ms: u64) -> Option<&Account> {
        let account = self.get_mut(name).filter(|account| account.waits(now_ms) == 0)?;
        let _ = account.failed(now_ms);
        Some(account)
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
                if let Proof::Password { plain, .. } | Proof::Typed(plain) = proof {
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
        assert!(accounts.all()[0].nt_hash(0).is_none());
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
        assert!(accounts.all()[0].nt_hash(now).is_none(), "NLA has no place for a code");
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

    #[test]
    fn what_is_typed_into_one_field_is_a_link_or_a_password_with_its_code() {
        let mut accounts = accounts();
        let mut random = system_random();
        let now = 1_800_000_000_000;
        let spaced = "has a space 123456";
        let ada = accounts.get_mut("ada").unwrap();
        ada.set_password(Some(Password::new(spaced, &mut random).unwrap()));
        let token = ada.link((now, now + 1000), &mut random).unwrap();
        accounts.admit("ada", Proof::Typed(spaced), now).unwrap();
        accounts.admit("ada", Proof::Typed(token.expose()), now).unwrap();
        assert_eq!(accounts.admit("ada", Proof::Typed(token.expose()), now), Err(Refused::Wrong), "used");
        let second = Second::new(&mut random);
        let mut totp = second.clone();
        accounts.get_mut("ada").unwrap().set_second(Some(second));
        assert_eq!(
            accounts.admit("ada", Proof::Typed(spaced), now),
            Err(Refused::Wrong),
            "its end is no code"
        );
        let code = (0..1_000_000).map(|code| format!("{code:06}")).find(|code| totp.take(code, now)).unwrap();
        let typed = format!("{spaced} {code}");
        accounts.admit("ada", Proof::Typed(&typed), now).unwrap();
        assert_eq!(
            accounts.admit("ada", Proof::Typed(&typed), now),
            Err(Refused::Wrong),
            "a code is good once"
        );
        assert_eq!(accounts.admit("eve", Proof::Typed(&typed), now), Err(Refused::Wrong));
    }

    #[test]
    fn nla_is_for_who_may_connect_now_with_a_password_alone() {
        let mut accounts = accounts();
        let by_nla = |accounts: &Accounts, now| -> Vec<String> {
            let all = accounts.all().iter().filter(|account| account.nt_hash(now).is_some());
            all.map(|account| account.name.clone()).collect()
        };
        let password = accounts.all()[0].password.clone();
        let bob = accounts.get_mut("bob").unwrap();
        bob.set_password(password);
        assert!(bob.only_decides());
        bob.roles.insert(Role::Operator);
        assert!(bob.may_connect() && !bob.only_decides());
        bob.roles.remove(&Role::Operator);
        assert_eq!(by_nla(&accounts, 0), ["Ada", "bob"], "Bob may decide");
        accounts.get_mut("bob").unwrap().closed = true;
        assert!(!accounts.all()[1].only_decides());
        assert_eq!(by_nla(&accounts, 0), ["Ada"]);
        let bob = accounts.get_mut("bob").unwrap();
        (bob.closed, bob.roles) = (false, BTreeSet::from([Role::Observer]));
        assert_eq!(by_nla(&accounts, 0), ["Ada"], "Bob may watch");
        for _ in 0..FREE {
            accounts.failed("ADA", 0);
            accounts.failed("eve", 0);
        }
        assert!(by_nla(&accounts, 0).is_empty(), "he waits");
        accounts.failed("ada", 500);
        assert_eq!((accounts.all()[0].failures(), accounts.all()[0].waits(500)), (FREE, 500));
        assert_eq!(by_nla(&accounts, 1000), ["Ada"]);
        assert_eq!(
            accounts.admit("ada", RIGHT, 999),
            Err(Refused::Wait(1)),
            "it counts for other ways as well"
        );
        accounts.get_mut("ada").unwrap().closed = true;
        assert!(by_nla(&accounts, 1000).is_empty());
    }

    #[test]
    fn whom_the_owner_names_is_taken_over_and_a_password_of_his_own_stays_until_another_is_named() {
        let hash = |plain: &str| Hex(*Password::new(plain, &mut system_random()).unwrap().nt_hash());
        let mut accounts = accounts();
        accounts.provision("lucid", hash("password"), None).unwrap();
        assert!(accounts.has_owner());
        accounts.admit("Lucid", Proof::Typed("password"), 0).unwrap();
        accounts.provision("ada", hash("password"), None).unwrap();
        accounts.admit("ada", Proof::Typed("password"), 0).unwrap();
        assert_eq!(accounts.all()[0].roles, BTreeSet::from([Role::Operator]), "they stay");
        let own = Password::new("Quiet-Otter-58", &mut system_random()).unwrap();
        accounts.get_mut("lucid").unwrap().set_password(Some(own));
        for _ in 0..FREE {
            assert_eq!(accounts.admit("lucid", WRONG, 0), Err(Refused::Wrong));
        }
        accounts.provision("lucid", hash("password"), None).unwrap();
        assert_eq!(accounts.admit("lucid", RIGHT, 0), Err(Refused::Wait(1000)));
        accounts.admit("lucid", RIGHT, 1000).unwrap();
        accounts.provision("LUCID", hash("Password"), None).unwrap();
        assert_eq!(accounts.admit("lucid", RIGHT, 1000), Err(Refused::Wrong));
        accounts.admit("lucid", Proof::Typed("Password"), 1000).unwrap();
        let text = format!("{accounts:?}");
        assert!(!text.contains("a4f49c40"), "{text}");
        // With roles, which hold each time; and who is named no more has that password no more.
        accounts.provision("eve", hash("password"), Some(&[Role::Approver])).unwrap();
        assert!(accounts.get_mut("eve").unwrap().only_decides());
        accounts.provision("Eve", hash("password"), Some(&[])).unwrap();
        assert!(!accounts.get_mut("eve").unwrap().may_connect());
        accounts.provision_only(&["LUCID"]);
        assert!(accounts.get_mut("lucid").unwrap().has_password());
        assert!(!accounts.get_mut("eve").unwrap().has_password());
        accounts.provision("eve", hash("password"), None).unwrap();
        let own = Password::new("Quiet-Otter-58", &mut system_random()).unwrap();
        accounts.get_mut("eve").unwrap().set_password(Some(own));
        accounts.provision_only(&["lucid"]);
        assert!(accounts.get_mut("eve").unwrap().has_password(), "his own stays");
    }

    const GOLDEN: &[u8] = include_bytes!("../testdata/v1/full.json");
    /// Of Ada's link there.
    const TOKEN: &str = "8b2f9e67d6be1ca2497872f11f26ad117efd8681b129aa196e4621f3a6759fc1";

    #[test]
    fn the_golden_file_is_what_it_was() {
        let mut accounts = Accounts::read(GOLDEN).unwrap();
        assert_eq!(accounts.to_bytes().unwrap(), GOLDEN);
        let names: Vec<_> = accounts.all().iter().map(|account| account.name.as_str()).collect();
        assert_eq!(names, ["Ada", "bob", "lucid"]);
        accounts.admit("ada", Proof::Typed(TOKEN), 0).unwrap();
        assert_eq!(accounts.admit("ada", RIGHT, 0), Err(Refused::CodeNeeded));
        accounts.admit("lucid", Proof::Typed("password"), 0).unwrap();
    }

    #[test]
    #[ignore = "writes into the source tree"]
    fn write_the_golden_file() {
        let mut random = system_random();
        let mut accounts = accounts();
        let ada = accounts.get_mut("ada").unwrap();
        ada.set_second(Some(Second::new(&mut random)));
        ada.keys = vec![Hex([1; 32]), Hex([2; 32])];
        println!("{}", ada.link((0, 1_800_000_000_000), &mut random).unwrap().expose());
        accounts.get_mut("bob").unwrap().closed = true;
        accounts.failed("bob", 0);
        let hash = "8846f7eaee8fb117ad06bdd830b7586c".parse().unwrap();
        accounts.provision("lucid", hash, None).unwrap();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let bytes = accounts.to_bytes().unwrap();
        for file in ["testdata/v1/full.json", "../fuzz/corpus/accounts/full.json"] {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, &bytes).unwrap();
        }
    }
}
