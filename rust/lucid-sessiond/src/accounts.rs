//! Who may use the device: `accounts.json` in the state directory, the file of [`lucid_accounts`], mode 0600.
//!
//! It is changed as a whole: written anew beside it, and renamed when it is on the disk. One change is made at a time, an
//! attempt to log in included, so that a failure counts before the next attempt is looked at, and no flood of attempts takes
//! more than one thread and the 19 MiB of one Argon2id. What is only read waits for nothing.
//!
//! **Whom the device's owner names** on the card is taken over at each start (`--accounts FILE`, at most 64 KiB, the file that
//! lucid-provision writes; [`lucid_accounts::Accounts::provision`]):
//!
//! ```json
//! {"version":1,"accounts":[{"user":"lucid","nt_hash":"<32 hexadecimal digits>"}]}
//! ```

mod service;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use lucid_accounts::{Accounts as Known, MAX_BYTES};
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
}

/// Everybody.
pub(crate) struct Accounts {
    state: PathBuf,
    wall: WallClock,
    /// How many approvers have to agree.
    needed: usize,
    now: Mutex<Arc<Known>>,
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
            for Named { user, nt_hash } in listed.accounts {
                next.provision(&user, nt_hash).map_err(|error| wrong(error.to_string()))?;
            }
        }
        let accounts = Self {
            state: state.to_owned(),
            wall,
            needed,
            now: Mutex::new(Arc::new(next)),
            changing: Arc::default(),
        };
        if *accounts.now() != known {
            accounts.write(&accounts.now())?;
        }
        Ok(Arc::new(accounts))
    }

    fn now(&self) -> Arc<Known> {
        Arc::clone(&shared(&self.now))
    }

    /// Whose keys accept and decide now.
    pub(crate) fn people(&self) -> Arc<People> {
        Arc::new(People::of(&self.now(), self.needed))
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

    /// Changes something on a thread that may take its time, when nobody else does. What has changed is on the disk when this
    /// is done. An attempt counts even where the disk fails (and nobody is let in then); nothing else does.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        is_attempt: bool,
        change: impl FnOnce(&mut Known, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
        let accounts = Arc::clone(self);
        let changed = tokio::task::spawn_blocking(move || {
            let _changing = changing;
            let now = accounts.now();
            let mut next = (*now).clone();
            let answer = change(&mut next, (accounts.wall)());
            if next == *now || !is_attempt && answer.is_err() {
                return answer;
            }
            let next = Arc::new(next);
            if is_attempt {
                *shared(&accounts.now) = Arc::clone(&next);
            }
            accounts.write(&next)?;
            *shared(&accounts.now) = next;
            answer
        });
        changed.await.map_err(|_| Error::Internal("a thread that changes accounts died"))?
    }
}
