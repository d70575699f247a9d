//! `lucid-provision apply`: from the card and the store to the files that the services read.
//!
//! Written on every boot below the run directory (normally `/run`):
//!
//! - `lucid-provision/accounts.json` (0600): `{"version":1,"accounts":[{"user":"lucid","nt_hash":"<32 hex>"}]}`, for
//!   lucid-sessiond; `[[users]]` with their `"roles":["approver"]`
//! - `lucid-provision/rdp-account.json` (0600): the user of `rdp.user` alone, for lucid-rdp; empty where it asks lucid-sessiond
//!   instead
//! - `lucid-provision/desktop.json` (0644): `{"version":1,"keyboard":{"layout":"us","variant":""},"name":"lucid"}`
//! - `lucid-provision/announce.json` (0600, removed by `announce`): [`Announcement`]
//! - `lucid-provision/policy.json` (0644): what sessions may do, a policy table
//! - `lucid-provision/rdp.env` (0644): `AUTHORITY="…"`, the options that say who decides that for lucid-rdp, and who may
//!   connect: lucid-sessiond, which also records, or the table and the account alone
//! - `lucid-provision/recorder.env` (0644): `RECIPIENTS="…"`, options of lucid-sessiond; only where it can record
//! - `lucid-provision/update.env` (0644): `LUCID_UPDATE_OPTIONS="…"`, options of lucid-updated
//! - `lucid-provision/usb` (0644): empty; there where USB sticks are taken, for the unit that loads their drivers
//! - `systemd/network/10-lucid.network`
//!
//! In what order: the results are saved before the card is touched, and a secret is wiped only when
//! it has been saved. A wrong `lucid.toml` changes nothing: the device is what it was before.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::card::{Card, Found};
use crate::config::{self, Config, DEFAULT_USER, FILE_HINT, Password, Settings};
use crate::error::Error;
use crate::secret::{NtHash, Secret, random_password};
use crate::store::{Account, Store, User, make_dirs, read_json, write, write_json};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// `boot.json` of lucid-init.
    pub boot: PathBuf,
    /// The select partition, instead of the one that `boot.json` names.
    pub select: Option<PathBuf>,
    /// Normally `/run`.
    pub run: PathBuf,
    /// Normally `/data/lucid/provision`.
    pub data: PathBuf,
}

/// What `announce` needs to know. Removed by it, because it may hold the password.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    /// 1.
    pub version: u32,
    /// The RDP user.
    pub user: String,
    /// A password that the device has just made.
    pub password: Option<Zeroizing<String>>,
    /// The device made the password, now or earlier.
    pub made: bool,
    /// Whether sessions are recorded.
    pub recording: Recording,
    /// What the owner has to know, one sentence each.
    pub notes: Vec<String>,
}

/// Whether sessions are recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recording {
    /// No: there is nobody to open what would be recorded.
    No,
    /// Each one, by the recorder.
    Each,
    /// Each one would be, and none can be: so none begins. Why, for people.
    Impossible(String),
}

/// What came out.
#[derive(Debug)]
pub struct Applied {
    /// What is in force now.
    pub settings: Settings,
    /// What the owner has to know, one sentence each.
    pub notes: Vec<String>,
}

/// The parts of `boot.json` that matter here. More may be in it.
#[derive(Deserialize)]
struct Boot {
    select: Option<PathBuf>,
    data: BootData,
}

#[derive(Deserialize)]
struct BootData {
    state: String,
    var_kept: bool,
    message: String,
}

#[derive(Serialize)]
struct AccountsFile<'a> {
    version: u32,
    accounts: &'a [AccountEntry<'a>],
}

#[derive(Serialize)]
struct AccountEntry<'a> {
    user: &'a str,
    nt_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<&'a [String]>,
}

#[derive(Serialize)]
struct DesktopFile<'a> {
    version: u32,
    keyboard: &'a crate::config::Keyboard,
    name: &'a str,
}

/// Where the account is written for lucid-sessiond.
pub fn accounts_path(run: &Path) -> PathBuf {
    run.join("lucid-provision/accounts.json")
}

/// Where the account is written for lucid-rdp.
pub fn account_path(run: &Path) -> PathBuf {
    run.join("lucid-provision/rdp-account.json")
}

/// Where the recorder's options are written.
pub fn recorder_path(run: &Path) -> PathBuf {
    run.join("lucid-provision/recorder.env")
}

/// Where the hand-over to `announce` is written.
pub fn announcement_path(run: &Path) -> PathBuf {
    run.join("lucid-provision/announce.json")
}

/// Does everything. An error means that the files for the services could not be written; whatever
/// else goes wrong is in the notes.
pub fn apply(places: &Places) -> Result<Applied, Error> {
    let mut notes = Vec::new();
    let boot = read_json::<Boot>(&places.boot).unwrap_or_else(|e| {
        notes.push(e.to_string());
        None
    });
    // Without boot.json (on an ordinary machine) the data directory is taken at its word.
    let lasting = boot.as_ref().is_none_or(|b| b.data.state != "unavailable");
    if let Some(boot) = &boot
        && boot.data.state != "ok"
        && boot.data.state != "made"
    {
        notes.push(boot.data.message.clone());
    }
    let (select, boot_data) = boot.map_or((None, None), |boot| (boot.select, Some(boot.data)));
    let device = places.select.clone().or(select);
    if device.is_none() {
        notes.push("the card has no select partition, so there is no lucid.toml".to_owned());
    }
    let in_memory = boot_data.filter(|data| !data.var_kept).map(|data| data.message);
    let card = device.map(Card::new);

    let mut answer = Vec::new();
    let (bytes, config) = read_card(card.as_ref(), &mut notes, &mut answer);

    let store = Store::new(places.data.clone());
    let known_account = keep(store.account(), &mut notes);
    let stored = store.settings();
    let unknown = if config.is_none() { stored.as_ref().err().map(ToString::to_string) } else { None };
    let known_settings = keep(stored, &mut notes);

    let settings = match &config {
        Some(config) => config.settings.clone(),
        None => known_settings.clone().unwrap_or_default(),
    };
    let (account, fresh) = decide_account(config.as_ref(), known_account.clone(), &mut notes)?;
    let known_users = keep(store.users(), &mut notes);
    let users = decide_users(config.as_ref(), known_users.clone().unwrap_or_default(), &account, &mut notes);
    let was_other = known_users.iter().flatten().any(|user| user.name.eq_ignore_ascii_case(&account.user));

    let mut saved = lasting;
    if lasting {
        let mut save = |result: Result<(), Error>| {
            if let Err(e) = result {
                saved = false;
                notes.push(format!("{e}; the settings will not survive a restart"));
            }
        };
        // What cannot be read is not replaced by a guess: it may have named an owner of recordings.
        if known_settings.as_ref() != Some(&settings) && unknown.is_none() {
            save(store.save_settings(&settings));
        }
        if known_account.as_ref() != Some(&account) {
            save(store.save_account(&account));
        }
        if known_users.unwrap_or_default() != users {
            save(store.save_users(&users));
        }
    } else {
        notes.push("settings and password will not survive a restart".to_owned());
    }

    let recording = match (unknown, in_memory) {
        (Some(why), _) => Recording::Impossible(format!(
            "it is not known who may open what is recorded ({why}); put lucid.toml on the card again"
        )),
        _ if settings.recording.owners.is_empty() => Recording::No,
        (None, Some(why)) => Recording::Impossible(format!("what is recorded would not be kept: {why}")),
        (None, None) => Recording::Each,
    };
    if recording == Recording::No && !users.is_empty() {
        notes.push("[[users]] counts only where sessions are recorded; [recording] has no owner".to_owned());
    }
    write_outputs(&places.run, &settings)?;
    write_accounts(&places.run, (&account, was_other), &users, &recording)?;
    write_recording(&places.run, &settings.recording, &recording)?;
    let mut update = settings.update.clone();
    for key in update.keep_valid() {
        notes.push(format!("update.{key} of the settings that are kept is not understood, and left out"));
    }
    write_update(&places.run, &update, &recording)?;

    let secrets = config.as_ref().map(Config::secrets).unwrap_or_default();
    if let (Some(card), Some(bytes)) = (&card, &bytes)
        && !secrets.is_empty()
    {
        if saved {
            if let Err(e) = card.wipe(bytes, &secrets) {
                notes.push(e.to_string());
                answer.push(e.to_string());
            }
        } else {
            notes
                .push("what is secret stays in lucid.toml, because the device could not store it".to_owned());
        }
    }
    if let Some(card) = &card {
        let text = (!answer.is_empty()).then(|| format!("{}\n{FILE_HINT}\n", answer.join("\n")));
        if let Err(e) = card.answer(text.as_deref()) {
            notes.push(e.to_string());
        }
    }

    let announcement = Announcement {
        version: 1,
        user: account.user.clone(),
        password: fresh.map(|p| Zeroizing::new(p.expose().to_owned())),
        made: account.made,
        recording,
        notes: notes.clone(),
    };
    write_json(&announcement_path(&places.run), &announcement, 0o600)?;
    Ok(Applied { settings, notes })
}

/// Reads and understands the card's file. Every problem goes to `notes`, those that the owner can mend
/// at a computer also to `answer`.
fn read_card(
    card: Option<&Card>,
    notes: &mut Vec<String>,
    answer: &mut Vec<String>,
) -> (Option<Zeroizing<Vec<u8>>>, Option<Config>) {
    let Some(card) = card else { return (None, None) };
    let bytes = match card.read() {
        Ok(Found::Bytes(bytes)) => bytes,
        Ok(Found::Nothing) => return (None, None),
        Ok(Found::Misnamed(name)) => {
            let message = format!("there is a file {name}; rename it to lucid.toml (show file extensions)");
            notes.push(message.clone());
            answer.push(message);
            return (None, None);
        }
        Err(e) => {
            notes.push(e.to_string());
            return (None, None);
        }
    };
    match Config::parse(&bytes) {
        Ok(config) => {
            for problem in &config.unsupported {
                let message = format!("lucid.toml, {problem}");
                notes.push(message.clone());
                answer.push(message);
            }
            (Some(bytes), Some(config))
        }
        Err(problem) => {
            let message = Error::Config(problem).to_string();
            notes.push(format!("{message}; the file was not applied, the settings from before hold"));
            answer.push(message);
            (None, None)
        }
    }
}

fn keep<T>(result: Result<Option<T>, Error>, notes: &mut Vec<String>) -> Option<T> {
    result.unwrap_or_else(|e| {
        notes.push(e.to_string());
        None
    })
}

/// The account that holds now, and the password if the device has just made it.
fn decide_account(
    config: Option<&Config>,
    known: Option<Account>,
    notes: &mut Vec<String>,
) -> Result<(Account, Option<Secret>), Error> {
    let user = config.and_then(|c| c.user.clone());
    match config.map(|c| &c.password) {
        Some(Password::New(password, _)) => {
            let user = user.unwrap_or_else(|| DEFAULT_USER.to_owned());
            let hash: NtHash = password.nt_hash();
            return Ok((Account { user, hash, made: false, shown: true }, None));
        }
        Some(Password::Used) if known.is_none() => notes.push(
            "the password in lucid.toml was used before and the device no longer knows it; a new one was made".to_owned(),
        ),
        _ => {}
    }
    match known {
        // A password that nobody has seen is useless: it is made again.
        Some(account) if !account.made || account.shown => {
            let user = user.unwrap_or_else(|| account.user.clone());
            Ok((Account { user, ..account }, None))
        }
        other => {
            let user = user.or_else(|| other.map(|a| a.user)).unwrap_or_else(|| DEFAULT_USER.to_owned());
            let password = random_password()?;
            Ok((Account { user, hash: password.nt_hash(), made: true, shown: false }, Some(password)))
        }
    }
}

/// Those who may connect as well. Without a file they are those from before.
fn decide_users(
    config: Option<&Config>,
    known: Vec<User>,
    account: &Account,
    notes: &mut Vec<String>,
) -> Vec<User> {
    let Some(config) = config else { return known };
    let mut users = Vec::new();
    for config::User { name, password, roles } in &config.users {
        let before = known.iter().find(|user| user.name.eq_ignore_ascii_case(name));
        let hash = match password {
            Password::New(password, _) => Some(password.nt_hash()),
            Password::Used | Password::Unset => before.map(|user| user.hash.clone()),
        };
        match hash {
            _ if account.user.eq_ignore_ascii_case(name) => {
                notes.push(format!("{name} is in [[users]] and is the user of [rdp]: only that counts"));
            }
            Some(hash) => users.push(User { name: name.clone(), hash, roles: roles.clone() }),
            None => notes.push(format!(
                "the password of {name} in lucid.toml was used before and the device no longer knows it; give a new one"
            )),
        }
    }
    users
}

/// Nobody hears a secret that he does not need: lucid-rdp, which hears the network, none that it can ask for.
///
/// Who was one of `[[users]]` before and is that of `[rdp]` now has its roles, and not those that he had.
fn write_accounts(
    run: &Path,
    (account, was_other): (&Account, bool),
    users: &[User],
    recording: &Recording,
) -> Result<(), Error> {
    let first = ["operator", "owner"].map(str::to_owned);
    let roles = was_other.then_some(first.as_slice());
    let mut entries = vec![AccountEntry { user: &account.user, nt_hash: account.hash.expose(), roles }];
    entries.extend(users.iter().map(|User { name, hash, roles }| AccountEntry {
        user: name,
        nt_hash: hash.expose(),
        roles: Some(roles),
    }));
    let accounts = AccountsFile { version: 1, accounts: &entries };
    write_json(&accounts_path(run), &accounts, 0o600)?;
    let accounts = if *recording == Recording::No { &entries[..1] } else { &[] };
    write_json(&account_path(run), &AccountsFile { version: 1, accounts }, 0o600)
}

fn write_outputs(run: &Path, settings: &Settings) -> Result<(), Error> {
    make_dirs(&run.join("lucid-provision"), 0o755)?;
    let desktop = DesktopFile { version: 1, keyboard: &settings.keyboard, name: &settings.name };
    write_json(&run.join("lucid-provision/desktop.json"), &desktop, 0o644)?;
    write_json(&run.join("lucid-provision/policy.json"), &settings.policy, 0o644)?;
    make_dirs(&run.join("systemd/network"), 0o755)?;
    let network = run.join("systemd/network/10-lucid.network");
    write(&network, network_file(settings).as_bytes(), 0o644)
}

/// What lucid-rdp and lucid-sessiond are to do. Where sessions cannot be recorded, the recorder does not start and
/// lucid-rdp, which cannot reach it, begins none.
fn write_recording(run: &Path, wanted: &config::Recording, recording: &Recording) -> Result<(), Error> {
    let options = match recording {
        // Its unit's own credential.
        Recording::No => {
            "--policy=/run/lucid-provision/policy.json --account=/run/credentials/lucid-rdp.service/rdp-account"
        }
        Recording::Each | Recording::Impossible(_) => "--controller=/run/lucid-sessiond/recorder.sock",
    };
    let rdp = format!("# Written by lucid-provision on every start.\nAUTHORITY=\"{options}\"\n");
    write(&run.join("lucid-provision/rdp.env"), rdp.as_bytes(), 0o644)?;
    let path = recorder_path(run);
    if *recording == Recording::Each {
        let owners = wanted.owners.iter().map(|key| format!("--owner={key}"));
        let options: Vec<_> =
            owners.chain(wanted.observers.iter().map(|key| format!("--observer={key}"))).collect();
        let text =
            format!("# Written by lucid-provision on every start.\nRECIPIENTS=\"{}\"\n", options.join(" "));
        return write(&path, text.as_bytes(), 0o644);
    }
    remove(path)
}

/// Removes a file, if there is one.
fn remove(path: PathBuf) -> Result<(), Error> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { doing: "removing", path, source })
        }
        _ => Ok(()),
    }
}

/// Which releases lucid-updated takes, and whether the recorder has to answer before it keeps one.
fn write_update(run: &Path, update: &config::Update, recording: &Recording) -> Result<(), Error> {
    let mut options: Vec<String> = update.sources.iter().map(|source| format!("--source={source}")).collect();
    if update.usb {
        options.push("--usb".to_owned());
    }
    options.push(format!("--channel={}", update.channel));
    if update.automatic && (update.usb || !update.sources.is_empty()) {
        options.push("--automatic".to_owned());
    }
    options.extend(update.window.iter().map(|window| format!("--window={window}")));
    if update.metered {
        options.push("--metered".to_owned());
    }
    // Where none can be recorded none begins: such a system is not kept either.
    if *recording != Recording::No {
        options.push("--sessiond=/run/lucid-sessiond/recorder.sock".to_owned());
    }
    // systemd splits it at white space, of which no option has any: they are as `lucid.toml` may have them.
    let text = format!(
        "# Written by lucid-provision on every start.\nLUCID_UPDATE_OPTIONS=\"{}\"\n",
        options.join(" ")
    );
    write(&run.join("lucid-provision/update.env"), text.as_bytes(), 0o644)?;
    let usb = run.join("lucid-provision/usb");
    if update.usb { write(&usb, b"", 0o644) } else { remove(usb) }
}

/// The systemd-networkd file for wired networks.
pub fn network_file(settings: &Settings) -> String {
    let network = &settings.network;
    let mut text =
        String::from("# Written by lucid-provision on every start.\n[Match]\nName=en* eth*\n\n[Network]\n");
    match network.address {
        Some((ip, prefix)) => text.push_str(&format!("DHCP=no\nAddress={ip}/{prefix}\n")),
        None => text.push_str("DHCP=yes\n"),
    }
    if let Some(gateway) = network.gateway {
        text.push_str(&format!("Gateway={gateway}\n"));
    }
    for server in &network.dns {
        text.push_str(&format!("DNS={server}\n"));
    }
    text
}

/// Notes that the password has been announced, so that the next start does not make another one.
pub fn mark_shown(data: &Path) -> Result<(), Error> {
    let store = Store::new(data.to_owned());
    match store.account()? {
        Some(account) if account.made && !account.shown => {
            store.save_account(&Account { shown: true, ..account })
        }
        _ => Ok(()),
    }
}
