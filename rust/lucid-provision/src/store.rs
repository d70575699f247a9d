//! What the device remembers about its provisioning, in `/data/lucid/provision/`.
//!
//! - `account.json` (0600): `{"version":1,"user":"lucid","nt_hash":"<32 hex>","made":true,"shown":false}`.
//!   `made`: the device made the password itself; `shown`: it has been announced, so it is not replaced.
//! - `users.json` (0600): `{"version":1,"users":[{"name":"bob","nt_hash":"<32 hex>","roles":["approver"]}]}`.
//! - `settings.json` (0644): `{"version":1,"settings":{…}}`, the last good [`Settings`].
//!
//! What a later release has stored besides (other fields of these) is passed over: after a fall-back to this one everything that it
//! knows holds, and the files stay as they are until something in them changes.
//!
//! Files are replaced whole: written beside, synced, renamed, directory synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{MAX_USERS, Settings, is_user};
use crate::error::Error;
use crate::secret::NtHash;

/// The largest JSON file of ours.
const MAX_JSON: u64 = 64 * 1024;

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The RDP user.
    pub user: String,
    /// What the password is checked against.
    pub hash: NtHash,
    /// The device made the password.
    pub made: bool,
    /// A made password has been announced.
    pub shown: bool,
}

/// Who may connect as well, as somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As he authenticates.
    pub name: String,
    /// What the password is checked against.
    pub hash: NtHash,
    /// What he may be.
    pub roles: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct UsersFile {
    version: u32,
    users: Vec<UserEntry>,
}

#[derive(Serialize, Deserialize)]
struct UserEntry {
    name: String,
    nt_hash: Zeroizing<String>,
    roles: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct AccountFile {
    version: u32,
    user: String,
    nt_hash: Zeroizing<String>,
    made: bool,
    shown: bool,
}

#[derive(Serialize, Deserialize)]
struct SettingsFile {
    version: u32,
    settings: Settings,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Uses `dir`, which is made when something is saved.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The account, if there is one.
    pub fn account(&self) -> Result<Option<Account>, Error> {
        let path = self.dir.join("account.json");
        let Some(file) = read_json::<AccountFile>(&path)? else { return Ok(None) };
        let hash = NtHash::parse(&file.nt_hash).filter(|_| file.version == 1 && is_user(&file.user));
        let hash =
            hash.ok_or_else(|| Error::Stored { path, reason: "its values are not valid".to_owned() })?;
        Ok(Some(Account { user: file.user, hash, made: file.made, shown: file.shown }))
    }

    /// Those who may connect as well, if there is a list of them.
    pub fn users(&self) -> Result<Option<Vec<User>>, Error> {
        let path = self.dir.join("users.json");
        let Some(file) = read_json::<UsersFile>(&path)? else { return Ok(None) };
        let user = |entry: UserEntry| {
            let hash = NtHash::parse(&entry.nt_hash).filter(|_| is_user(&entry.name))?;
            Some(User { name: entry.name, hash, roles: entry.roles })
        };
        let known = file.version == 1 && file.users.len() <= MAX_USERS;
        let users = known.then(|| file.users.into_iter().map(user).collect::<Option<Vec<_>>>()).flatten();
        users.map(Some).ok_or_else(|| Error::Stored { path, reason: "its values are not valid".to_owned() })
    }

    /// Saves them.
    pub fn save_users(&self, users: &[User]) -> Result<(), Error> {
        let entry = |user: &User| UserEntry {
            name: user.name.clone(),
            nt_hash: Zeroizing::new(user.hash.expose().to_owned()),
            roles: user.roles.clone(),
        };
        let file = UsersFile { version: 1, users: users.iter().map(entry).collect() };
        make_dirs(&self.dir, 0o700)?;
        write_json(&self.dir.join("users.json"), &file, 0o600)
    }

    /// The settings, if there are some.
    pub fn settings(&self) -> Result<Option<Settings>, Error> {
        let path = self.dir.join("settings.json");
        match read_json::<SettingsFile>(&path)? {
            Some(file) if file.version == 1 && file.settings.recording.is_valid() => Ok(Some(file.settings)),
            Some(file) if file.version == 1 => {
                Err(Error::Stored { path, reason: "a key in it is not 64 hexadecimal digits".to_owned() })
            }
            Some(_) => Err(Error::Stored { path, reason: "its version is not 1".to_owned() }),
            None => Ok(None),
        }
    }

    /// Saves the account.
    pub fn save_account(&self, account: &Account) -> Result<(), Error> {
        let file = AccountFile {
            version: 1,
            user: account.user.clone(),
            nt_hash: Zeroizing::new(account.hash.expose().to_owned()),
            made: account.made,
            shown: account.shown,
        };
        make_dirs(&self.dir, 0o700)?;
        write_json(&self.dir.join("account.json"), &file, 0o600)
    }

    /// Saves the settings.
    pub fn save_settings(&self, settings: &Settings) -> Result<(), Error> {
        make_dirs(&self.dir, 0o700)?;
        let file = SettingsFile { version: 1, settings: settings.clone() };
        write_json(&self.dir.join("settings.json"), &file, 0o644)
    }
}

/// Makes a directory with its parents.
pub fn make_dirs(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| Error::File {
        doing: "making",
        path: path.to_owned(),
        source,
    })
}

/// Reads a JSON file of ours; `None` when there is none.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, Error> {
    let mut bytes = Zeroizing::new(Vec::new());
    match File::open(path).and_then(|f| f.take(MAX_JSON).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { doing: "reading", path: path.to_owned(), source }),
    }
    // The place and kind of the mistake, not the text around it.
    serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Stored {
        path: path.to_owned(),
        reason: format!("line {}, column {}: not what this version writes", e.line(), e.column()),
    })
}

/// Replaces a JSON file.
pub fn write_json<T: Serialize>(path: &Path, value: &T, mode: u32) -> Result<(), Error> {
    let error = |source| Error::File { doing: "writing", path: path.to_owned(), source };
    let mut bytes = Zeroizing::new(serde_json::to_vec(value).map_err(|e| error(e.into()))?);
    bytes.push(b'\n');
    write(path, &bytes, mode)
}

/// Replaces a file so that after a power cut either the old or the new one is there.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let error = |source| Error::File { doing: "writing", path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    // Not an old one with an old mode.
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all())
        .map_err(error)
}
