//! Who may use the device: `accounts.json` in the state directory, the file of [`lucid_accounts`], mode 0600.
//!
//! It is changed as a whole: written anew beside it, and renamed when it is on the disk. One change is made at a time, an
//! attempt to log in included, so that a failure counts before the next attempt is looked at, and no flood of attempts takes
//! more than one thread and the 19 MiB of one Argon2id (and one thread that writes). What is only read waits for nothing.
//!
//! **Whom the device's owner names** on the card is taken over at each start (`--accounts FILE`, at most 64 KiB, the file that
//! lucid-provision writes; [`lucid_accounts::Accounts::provision`]):
//!
//! ```json
//! {"version":1,"accounts":[{"user":"lucid","nt_hash":"<32 hexadecimal digits>"},
//!   {"user":"bob","nt_hash":"<32 hexadecimal digits>","roles":["approver"]}]}
//! ```
//!
//! Who has no roles there is at first an operator and owner; roles that are named hold from then on. Who was named before and
//! is no more cannot log in by that password.

mod service;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use lucid_accounts::{Accounts as Known, MAX_BYTES, Role};
use lucid_statement::Hex;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    clock::WallClock,
    error::{At as _, Error, Result},
    people::People,
    shared,
};

pub(crate) use service::Service;

/// The most bytes of the file that names accounts.
const MOST_NAMED: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    version: u64,
    accounts: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    user: String,
    nt_hash: Hex<16>,
    roles: Option<Vec<Role>>,
}

/// Everybody.
pub(crate) struct Accounts {
    state: PathBuf,
    wall: WallClock,
    /// How many approvers have to agree.
    needed: usize,
    now: Mutex<Arc<Known>>,
    /// As they are on the disk; held while they are written.
    kept: Mutex<Arc<Known>>,
    /// Held by whoever changes something.
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// Reads a file whole, if it is there.
fn read(path: &Path, most: usize) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.at("opening", path)?,
    };
    // So much that it does not grow, which would leave copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes).at("reading", path)?;
    Ok(Some(bytes))
}

impl Accounts {
    /// Reads the file, and takes over whom the device's owner names.
    pub(crate) fn open(
        state: &Path,
        named: Option<&Path>,
        needed: usize,
        wall: WallClock,
    ) -> Result<Arc<Self>> {
        let path = state.join("accounts.json");
        let known = match read(&path, MAX_BYTES)? {
            Some(bytes) => {
                Known::read(&bytes).map_err(|why| Error::Accounts { path, why: why.to_string() })?
            }
            None => Known::default(),
        };
        let mut next = known.clone();
        if let Some(path) = named {
            let wrong = |why: String| Error::Accounts { path: path.to_owned(), why };
            let bytes = read(path, MOST_NAMED)?.ok_or_else(|| wrong("it is not there".to_owned()))?;
            if bytes.len() > MOST_NAMED {
                return Err(wrong(format!("it has more than {MOST_NAMED} bytes")));
            }
            // serde_json's own message may quote what is secret.
            let listed: Listed = serde_json::from_slice(&bytes).map_err(|error| {
                wrong(format!("it is not as it must be in line {} column {}", error.line(), error.column()))
            })?;
            if listed.version != 1 {
                return Err(wrong(format!("version {} is not known, only 1 is", listed.version)));
            }
            for Named { user, nt_hash, roles } in &listed.accounts {
                let provisioned = next.provision(user, *nt_hash, roles.as_deref());
                provisioned.map_err(|error| wrong(error.to_string()))?;
            }
            let names: Vec<_> = listed.accounts.iter().map(|named| named.user.as_str()).collect();
            next.provision_only(&names);
        }
        let known = Arc::new(known);
        let accounts = Self {
            state: state.to_owned(),
            wall,
            needed,
            now: Mutex::new(if next == *known { Arc::clone(&known) } else { Arc::new(next) }),
            kept: Mutex::new(known),
            changing: Arc::default(),
        };
        accounts.keep()?;
        Ok(Arc::new(accounts))
    }

    fn now(&self) -> Arc<Known> {
        Arc::clone(&shared(&self.now))
    }

    /// Whose keys accept and decide now.
    pub(crate) fn people(&self) -> Arc<People> {
        Arc::new(People::of(&self.now(), self.needed))
    }

    /// Whoever is called so, if he may connect to decide and for nothing else.
    pub(crate) fn decider(&self, name: &str) -> Option<String> {
        let now = self.now();
        let found = now.all().iter().find(|account| account.is(name) && account.only_decides());
        found.map(|account| account.name.clone())
    }

    /// Whether somebody is called so who may use a desktop now.
    pub(crate) fn has_desktop(&self, name: &str) -> bool {
        let now = self.now();
        now.all().iter().any(|account| account.is(name) && account.may_connect() && !account.only_decides())
    }

    /// Puts the file on the disk.
    fn write(&self, accounts: &Known) -> Result<()> {
        let bytes = Zeroizing::new(accounts.to_bytes()?);
        let (path, new) = (self.state.join("accounts.json"), self.state.join("accounts.json.new"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("removing", &new),
            _ => {}
        }
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let mut file = file.at("making", &new)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).at("writing", &new)?;
        fs::rename(&new, &path).at("renaming", &new)?;
        fs::File::open(&self.state).and_then(|dir| dir.sync_all()).at("writing", &self.state)
    }

    /// Puts what there is now on the disk, unless it is there.
    pub(crate) fn keep(&self) -> Result<()> {
        let mut kept = shared(&self.kept);
        let now = self.now();
        if !Arc::ptr_eq(&kept, &now) {
            self.write(&now)?;
            *kept = now;
        }
        Ok(())
    }

    /// Does something on a thread that may take its time, when nobody else changes anything.
    async fn alone<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
        let accounts = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let _changing = changing;
            work(&accounts)
        });
        done.await.map_err(|_| Error::Internal("a thread that changes accounts died"))?
    }

    /// Changes something, all of it or nothing; it is on the disk when this is done.
    async fn edit<T: Send + 'static>(
        self: &Arc<Self>,
        edit: impl FnOnce(&mut Known, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.alone(move |accounts| {
            let mut next = (*accounts.now()).clone();
            let answer = edit(&mut next, (accounts.wall)())?;
            let mut kept = shared(&accounts.kept);
            accounts.write(&next)?;
            *kept = Arc::new(next);
            *shared(&accounts.now) = Arc::clone(&kept);
            Ok(answer)
        })
        .await
    }

    /// Somebody tries to log in. It counts at once, whatever comes of it. One who is let in is so when that is on the disk; one
    /// who is not waits for no disk, by which he could tell a name that counts failures from one that is nobody's.
    async fn attempt<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: impl FnOnce(&mut Known, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let attempted = self.alone(move |accounts| {
            let now = accounts.now();
            let mut next = (*now).clone();
            let answer = attempt(&mut next, (accounts.wall)());
            if next != *now {
                *shared(&accounts.now) = Arc::new(next);
            }
            let answer = answer?;
            accounts.keep()?;
            Ok(answer)
        });
        let attempted = attempted.await;
        if attempted.is_err() {
            let accounts = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = accounts.keep() {
                    tracing::error!("a failure to log in would be forgotten by a restart: {error}");
                }
            });
        }
        attempted
    }
}
