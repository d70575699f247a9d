//! `lucid.toml`, version 1: how the owner of a card tells the device what to be.
//!
//! The file lies on the card's first partition (`select`, FAT), is UTF-8 (a byte order mark and
//! Windows line ends are accepted), at most 64 KiB, and TOML 1.0. Every key may be left out:
//!
//! | key | value | default |
//! | --- | --- | --- |
//! | `version` | `1` | `1` |
//! | `name` | host name: 1 to 63 letters, digits, `-`; no `-` at either end (RFC 1123) | `"lucid"` |
//! | `network.method` | `"dhcp"` or `"static"` | `"dhcp"` |
//! | `network.address` | address and prefix, such as `"192.168.1.20/24"`; with `static` only, and needed there | |
//! | `network.gateway` | address; with `static` only | none |
//! | `network.dns` | up to 4 addresses | from DHCP |
//! | `network.wifi` | `ssid`, `passphrase`, `country`: checked, **not used by this version**, and reported | |
//! | `rdp.user` | 1 to 32 letters, digits, `.`, `_`, `-`; begins with a letter or digit | `"lucid"` |
//! | `rdp.password` | 8 to 128 characters, or `"(used)"` | made by the device |
//! | `[[users]]` | others who may connect, at most 16; only where sessions are recorded: | none |
//! | … `name` | as `rdp.user`, and another one | needed |
//! | … `password` | as `rdp.password` | needed |
//! | … `roles` | a list of `"operator"` and `"owner"` (have a desktop), `"approver"` (decides what sessions may do beyond the policy; on a screen of his own where he has no desktop), `"observer"`; an empty list keeps him out | needed |
//! | `keyboard.layout` | XKB layout: 1 to 32 of `a-z 0-9 _ -` | `"us"` |
//! | `keyboard.variant` | XKB variant: up to 32 of `a-z A-Z 0-9 _ -` | `""` |
//! | `recording.owner` | who can open what is recorded: a public key of `lucidctl recording new-key`, 64 hexadecimal digits, or a list of them | nobody: nothing is recorded |
//! | `recording.observers` | a list of public keys of others who can | none |
//! | `policy.profile` | what sessions may do: `"strict"` (nothing but looking on) or `"standard"` (pointer, keyboard, sound) | `"strict"` |
//! | `policy.input.…` and the like | what is to be otherwise than the profile says, by the keys of a policy table (`lucidctl policy new` prints one) | |
//! | `update.source` | where releases come from: an `http://` or `https://` address without name, password, `?` or `#`, or a list of up to 4 | no server: USB sticks alone |
//! | `update.usb` | whether USB sticks with a folder `lucid` are sources too | `true` |
//! | `update.channel` | which releases: 1 to 32 of `a-z 0-9 -` | `"stable"` |
//! | `update.automatic` | whether the device restarts into them by itself | `true` |
//! | `update.window` | when it does so, UTC: `"02:00-04:00"`; may pass midnight | at any time |
//! | `update.metered` | whether fetching costs: then releases are looked for, and fetched only when somebody asks, or from a USB stick | `false` |
//!
//! With an owner's key every session is recorded, and none begins or goes on that cannot be. Without one none is
//! recorded, which the consoles say. Owners and observers are at most 16, each once.
//!
//! Any other key is an error, so a typing error never goes unnoticed.
//!
//! **Secrets.** When the device has stored what it needs, the value of each password is overwritten on
//! the card by `"(used)"` and spaces, so that the file keeps its length and stays valid. `"(used)"` then
//! means: keep the password that the device knows. (A password has at least 8 characters and therefore
//! 10 bytes with its quotes; the mark has 8 bytes and always fits.)
//!
//! The tables are walked here and not by serde, because serde's messages repeat a value of the wrong
//! type, and that may be a password.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use lucid_policy::Policy;
use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Problem;
use crate::secret::Secret;

/// The largest file that is read.
pub const MAX_BYTES: usize = 64 * 1024;
/// The most keys that can open a recording, as the format of recordings has it.
const MAX_RECIPIENTS: usize = 16;
/// The most users beside `rdp.user`.
pub const MAX_USERS: usize = 16;
/// The most sources of releases.
const MAX_SOURCES: usize = 4;
/// The most bytes of a source's address.
const MAX_SOURCE: usize = 512;
/// Who connects when nobody says otherwise.
pub(crate) const DEFAULT_USER: &str = "lucid";
/// What somebody may be.
const ROLES: [&str; 4] = ["approver", "observer", "operator", "owner"];
/// What stands in the place of a secret that has been used, with its quotes.
pub const USED: &str = "\"(used)\"";
/// What helps the reader of a message on the card.
pub const FILE_HINT: &str = "Lines and columns count from 1. Mend lucid.toml on this partition and start the \
                             device again; this file vanishes when all is well.";
/// The same as [`USED`], as the parser gives it.
const USED_VALUE: &str = "(used)";

/// What the file says about the network.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Network {
    /// A fixed address with its prefix length; `None`: DHCP.
    pub address: Option<(IpAddr, u8)>,
    /// The router, with a fixed address.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

/// The keyboard that people type on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Keyboard {
    /// XKB layout.
    pub layout: String,
    /// XKB variant; empty for none.
    pub variant: String,
}

/// Who can open what is recorded. Nobody: nothing is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recording {
    /// X25519 public keys of the owners, 64 lower-case hexadecimal digits each.
    pub owners: Vec<String>,
    /// Those of others who can open it too; none without an owner.
    pub observers: Vec<String>,
}

impl Recording {
    /// Whether all keys are such: they become words of a command line.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let hex = |key: &String| {
            key.len() == 64
                && key.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
        };
        self.owners.iter().chain(&self.observers).all(hex)
    }
}

/// Which releases the device takes, and when.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Update {
    /// Where they come from, in the order in which they are asked. None: from USB sticks alone.
    pub sources: Vec<String>,
    /// Whether USB sticks are sources too.
    pub usb: bool,
    /// The channel that is followed.
    pub channel: String,
    /// Whether the device restarts into them by itself.
    pub automatic: bool,
    /// When it does so, as in `02:00-04:00` (UTC); at any time without.
    pub window: Option<String>,
    /// Whether fetching costs: nothing but what somebody asks for is fetched.
    pub metered: bool,
}

impl Update {
    /// Takes out what `lucid.toml` may not say, and gives its keys: what was stored by a later release, or was changed on the disk,
    /// becomes no part of a command line.
    pub fn keep_valid(&mut self) -> Vec<&'static str> {
        let mut out = Vec::new();
        let sources = self.sources.len();
        self.sources.retain(|source| is_source(source));
        self.sources.truncate(MAX_SOURCES);
        if self.sources.len() != sources {
            out.push("source");
        }
        if !is_channel(&self.channel) {
            self.channel = Self::default().channel;
            // Another channel than its own is nothing that a device goes to by itself.
            self.sources.clear();
            self.usb = false;
            out.push("channel");
        }
        if self.window.as_deref().is_some_and(|window| !is_window(window)) {
            self.window = None;
            self.automatic = false;
            out.push("window");
        }
        out
    }
}

impl Default for Update {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            usb: true,
            channel: "stable".to_owned(),
            automatic: true,
            window: None,
            metered: false,
        }
    }
}

/// Everything in the file that is not secret.
///
/// What a later release has stored besides is passed over, so that a device that falls back to this one keeps all that this one
/// knows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// The host name, in lower case.
    pub name: String,
    /// The network.
    pub network: Network,
    /// The keyboard.
    pub keyboard: Keyboard,
    /// Recordings. Settings that were stored before there were any have none.
    #[serde(default)]
    pub recording: Recording,
    /// What sessions may do. In settings that were stored before there were policies: nothing but looking on.
    #[serde(default, deserialize_with = "policy_of_any_release")]
    pub policy: Policy,
    /// Updates. Settings that were stored before there were any have no source.
    #[serde(default)]
    pub update: Update,
}

/// The policy of stored settings. A table that people write has no unknown keys; one that a later release stored may. What they
/// would forbid is not known here, so nothing but looking on is left then.
fn policy_of_any_release<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
    let table = serde_json::Value::deserialize(deserializer)?;
    let known = serde_json::to_value(Policy::strict()).map_err(D::Error::custom)?;
    if !only_known(&table, &known) {
        return Ok(Policy::strict());
    }
    serde_json::from_value(table).map_err(D::Error::custom)
}

/// Whether a table has nothing that the other one does not have.
fn only_known(table: &serde_json::Value, known: &serde_json::Value) -> bool {
    match (table, known) {
        (serde_json::Value::Object(table), serde_json::Value::Object(known)) => {
            table.iter().all(|(key, value)| known.get(key).is_some_and(|known| only_known(value, known)))
        }
        _ => true,
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "lucid".to_owned(),
            network: Network { address: None, gateway: None, dns: Vec::new() },
            keyboard: Keyboard { layout: "us".to_owned(), variant: String::new() },
            recording: Recording::default(),
            policy: Policy::strict(),
            update: Update::default(),
        }
    }
}

/// What stands for `rdp.password`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// Nothing: the device keeps the one it has, or makes one.
    Unset,
    /// The mark of a password that was used before: the device keeps the one it has.
    Used,
    /// A new one, and the bytes of the file (quotes included) that hold it.
    New(Secret, Range<usize>),
}

/// Somebody who may connect beside `rdp.user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As he authenticates.
    pub name: String,
    /// Never [`Password::Unset`].
    pub password: Password,
    /// What he may be, sorted.
    pub roles: Vec<String>,
}

/// A whole valid file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// All that is not secret.
    pub settings: Settings,
    /// `rdp.user`, if given.
    pub user: Option<String>,
    /// `rdp.password`.
    pub password: Password,
    /// `[[users]]`.
    pub users: Vec<User>,
    /// What was understood but cannot be done by this version.
    pub unsupported: Vec<Problem>,
}

impl Config {
    /// All secrets of the file that have not been used, by their places in it.
    pub fn secrets(&self) -> Vec<Range<usize>> {
        let passwords = std::iter::once(&self.password).chain(self.users.iter().map(|user| &user.password));
        passwords
            .filter_map(|password| match password {
                Password::New(_, span) => Some(span.clone()),
                Password::Unset | Password::Used => None,
            })
            .collect()
    }

    /// Reads a whole file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.len() > MAX_BYTES {
            return Err(Problem {
                place: None,
                message: format!("the file has {} bytes, at most {MAX_BYTES} are allowed", bytes.len()),
            });
        }
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(Problem {
                place: None,
                message: "the file is UTF-16 text; save it as UTF-8 (in Notepad: Save as, Encoding: UTF-8)"
                    .to_owned(),
            });
        }
        let skipped = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let body = &bytes[skipped..];
        let text = match std::str::from_utf8(body) {
            Ok(text) => text,
            Err(e) => {
                let good = std::str::from_utf8(&body[..e.valid_up_to()]).unwrap_or_default();
                return Err(Problem {
                    place: Some(place(good, good.len())),
                    message: "this is not UTF-8 text; save the file as UTF-8".to_owned(),
                });
            }
        };
        Walk { text, skipped }.file()
    }
}

/// Puts what the second has in the place of what the first has, table by table.
fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Line and column, from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;
type Value<'a> = Spanned<DeValue<'a>>;

struct Walk<'a> {
    text: &'a str,
    /// Bytes of a byte order mark before the text.
    skipped: usize,
}

impl Walk<'_> {
    fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem { place: Some(place(self.text, span.start)), message: message.into() }
    }

    fn file(&self) -> Result<Config, Problem> {
        let document = DeTable::parse(self.text).map_err(|e| {
            // The parser's messages are fixed texts without parts of the file.
            let message = e.message().lines().next().unwrap_or("not valid TOML").to_owned();
            match e.span() {
                Some(span) => self.problem(span, format!("not valid TOML: {message}")),
                None => Problem { place: None, message: format!("not valid TOML: {message}") },
            }
        })?;
        let mut config = Config {
            settings: Settings::default(),
            user: None,
            password: Password::Unset,
            users: Vec::new(),
            unsupported: Vec::new(),
        };
        let mut users = None;
        for (key, value) in document.get_ref() {
            match key.get_ref().as_ref() {
                "version" => self.version(value)?,
                "name" => config.settings.name = self.name(value)?,
                "network" => self.network(value, &mut config)?,
                "rdp" => self.rdp(value, &mut config)?,
                "users" => users = Some(value),
                "keyboard" => self.keyboard(value, &mut config)?,
                "recording" => config.settings.recording = self.recording(value)?,
                "policy" => config.settings.policy = self.policy(value)?,
                "update" => config.settings.update = self.update(value)?,
                _ => {
                    return Err(self.unknown(
                        key,
                        "",
                        "version, name, network, rdp, users, keyboard, recording, policy, update",
                    ));
                }
            }
        }
        // They have to have other names than the one of [rdp], where that says one.
        if let Some(users) = users {
            config.users = self.users(users, config.user.as_deref())?;
        }
        Ok(config)
    }

    fn users(&self, value: &Value<'_>, first: Option<&str>) -> Result<Vec<User>, Problem> {
        let DeValue::Array(list) = value.get_ref() else {
            let message =
                format!("users must be tables, each written [[users]], not {}", kind(value.get_ref()));
            return Err(self.problem(value.span(), message));
        };
        if list.len() > MAX_USERS {
            let message = format!("there are {} [[users]], at most {MAX_USERS} are allowed", list.len());
            return Err(self.problem(value.span(), message));
        }
        let mut users: Vec<User> = Vec::new();
        for value in list.iter() {
            let user = self.one_user(value)?;
            let same = |other: &str| other.eq_ignore_ascii_case(&user.name);
            if first.is_some_and(same) || users.iter().any(|other| same(&other.name)) {
                let message = format!("the user {} is there twice; once is enough", quoted(&user.name));
                return Err(self.problem(value.span(), message));
            }
            users.push(user);
        }
        Ok(users)
    }

    fn one_user(&self, value: &Value<'_>) -> Result<User, Problem> {
        let (mut name, mut password, mut roles) = (None, None, None);
        for (key, value) in self.table("users", value)? {
            match key.get_ref().as_ref() {
                "name" => name = Some(self.user("users.name", value)?),
                "password" => password = Some(self.password("users.password", value)?),
                "roles" => roles = Some(self.roles(value)?),
                _ => return Err(self.unknown(key, "users", "name, password, roles")),
            }
        }
        match (name, password, roles) {
            (Some(name), Some(password), Some(roles)) => Ok(User { name, password, roles }),
            _ => Err(self.problem(value.span(), "each of [[users]] needs a name, a password and roles")),
        }
    }

    fn roles(&self, value: &Value<'_>) -> Result<Vec<String>, Problem> {
        let DeValue::Array(list) = value.get_ref() else {
            let message =
                format!("users.roles must be a list, such as [\"approver\"], not {}", kind(value.get_ref()));
            return Err(self.problem(value.span(), message));
        };
        let mut roles = Vec::new();
        for value in list.iter() {
            let role = self.string("an entry of users.roles", value)?;
            if !ROLES.contains(&role) {
                let message = format!("{} is no role; there are {}", quoted(role), ROLES.join(", "));
                return Err(self.problem(value.span(), message));
            }
            roles.push(role.to_owned());
        }
        roles.sort();
        roles.dedup();
        Ok(roles)
    }

    /// The name of somebody who may connect.
    fn user(&self, name: &str, value: &Value<'_>) -> Result<String, Problem> {
        let text = self.string(name, value)?;
        if is_user(text) {
            return Ok(text.to_owned());
        }
        let message = format!(
            "{name} is {}; it must be 1 to 32 letters, digits, ., _ or - and begin with a letter or digit",
            quoted(text)
        );
        Err(self.problem(value.span(), message))
    }

    fn password(&self, name: &str, value: &Value<'_>) -> Result<Password, Problem> {
        let text = self.string(name, value)?;
        let (length, span) = (text.chars().count(), value.span());
        if text == USED_VALUE {
            Ok(Password::Used)
        } else if !(8..=128).contains(&length) {
            let message = format!("{name} has {length} characters; it must have 8 to 128");
            Err(self.problem(span, message))
        } else if text.chars().any(char::is_control) {
            Err(self.problem(span, format!("{name} has a control character in it")))
        } else {
            let in_file = span.start + self.skipped..span.end + self.skipped;
            Ok(Password::New(Secret::new(text.to_owned()), in_file))
        }
    }

    fn unknown(&self, key: &Key<'_>, table: &str, allowed: &str) -> Problem {
        let found: String = key.get_ref().chars().take(40).collect();
        let place = if table.is_empty() { String::new() } else { format!(" in [{table}]") };
        self.problem(key.span(), format!("unknown key {:?}{place}; allowed there: {allowed}", found))
    }

    fn table<'v>(&self, name: &str, value: &'v Value<'_>) -> Result<&'v DeTable<'v>, Problem> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            other => Err(self.problem(
                value.span(),
                format!("{name} must be a table, written [{name}], not {}", kind(other)),
            )),
        }
    }

    fn string<'v>(&self, name: &str, value: &'v Value<'_>) -> Result<&'v str, Problem> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text),
            other => Err(self.problem(
                value.span(),
                format!("{name} must be text in quotation marks, not {}", kind(other)),
            )),
        }
    }

    fn version(&self, value: &Value<'_>) -> Result<(), Problem> {
        match value.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 && n.as_str() == "1" => Ok(()),
            DeValue::Integer(_) => {
                Err(self.problem(value.span(), "version must be 1, the only one that this device knows"))
            }
            other => {
                Err(self.problem(value.span(), format!("version must be the number 1, not {}", kind(other))))
            }
        }
    }

    fn name(&self, value: &Value<'_>) -> Result<String, Problem> {
        let text = self.string("name", value)?;
        let good = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good {
            Ok(text.to_ascii_lowercase())
        } else {
            Err(self.problem(
                value.span(),
                format!(
                    "name is {}; it must be 1 to 63 letters, digits or -, without - at either end",
                    quoted(text)
                ),
            ))
        }
    }

    fn network(&self, value: &Value<'_>, config: &mut Config) -> Result<(), Problem> {
        let table = self.table("network", value)?;
        let (mut fixed, mut address, mut gateway) = (false, None, None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "method" => match self.string("network.method", value)? {
                    "dhcp" => fixed = false,
                    "static" => fixed = true,
                    other => {
                        let message =
                            format!("network.method is {}; it must be \"dhcp\" or \"static\"", quoted(other));
                        return Err(self.problem(value.span(), message));
                    }
                },
                "address" => address = Some((self.address(value)?, value.span())),
                "gateway" => gateway = Some((self.ip("network.gateway", value)?, value.span())),
                "dns" => config.settings.network.dns = self.dns(value)?,
                "wifi" => {
                    self.wifi(value)?;
                    let message = "[network.wifi] is not supported by this image yet, the device uses its \
                                   network cable only; the passphrase stays on the card as it is";
                    config.unsupported.push(self.problem(key.span(), message));
                }
                _ => return Err(self.unknown(key, "network", "method, address, gateway, dns, wifi")),
            }
        }
        if !fixed {
            if let Some((what, span)) = address
                .map(|(_, span)| ("address", span))
                .or_else(|| gateway.map(|(_, span)| ("gateway", span)))
            {
                let message = format!("network.{what} is only allowed with method = \"static\"");
                return Err(self.problem(span, message));
            }
            return Ok(());
        }
        let Some(((ip, prefix), _)) = address else {
            let message = "method = \"static\" needs an address, such as address = \"192.168.1.20/24\"";
            return Err(self.problem(value.span(), message));
        };
        if let Some((gateway, span)) = &gateway
            && !reachable(ip, prefix, *gateway)
        {
            let message =
                format!("network.gateway {gateway} is not in the network of {ip}/{prefix}, or is it itself");
            return Err(self.problem(span.clone(), message));
        }
        config.settings.network.address = Some((ip, prefix));
        config.settings.network.gateway = gateway.map(|(ip, _)| ip);
        Ok(())
    }

    fn address(&self, value: &Value<'_>) -> Result<(IpAddr, u8), Problem> {
        let text = self.string("network.address", value)?;
        let parsed = text.split_once('/').and_then(|(ip, prefix)| {
            let plain = prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
            let (ip, prefix) = (ip.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok().filter(|_| plain)?);
            let longest = if ip.is_ipv4() { 32 } else { 128 };
            ((1..=longest).contains(&prefix) && usable(ip) && !is_edge(ip, prefix)).then_some((ip, prefix))
        });
        parsed.ok_or_else(|| {
            let message = format!(
                "network.address is {}; it must be a host's address and prefix, such as \"192.168.1.20/24\"",
                quoted(text)
            );
            self.problem(value.span(), message)
        })
    }

    fn ip(&self, name: &str, value: &Value<'_>) -> Result<IpAddr, Problem> {
        let text = self.string(name, value)?;
        text.parse().ok().filter(|ip| usable(*ip)).ok_or_else(|| {
            let message =
                format!("{name} is {}; it must be an address, such as \"192.168.1.1\"", quoted(text));
            self.problem(value.span(), message)
        })
    }

    fn dns(&self, value: &Value<'_>) -> Result<Vec<IpAddr>, Problem> {
        let DeValue::Array(list) = value.get_ref() else {
            let message = format!(
                "network.dns must be a list, such as [\"192.168.1.1\"], not {}",
                kind(value.get_ref())
            );
            return Err(self.problem(value.span(), message));
        };
        if list.len() > 4 {
            let message = format!("network.dns has {} addresses, at most 4 are allowed", list.len());
            return Err(self.problem(value.span(), message));
        }
        list.iter().map(|item| self.ip("an entry of network.dns", item)).collect()
    }

    fn wifi(&self, value: &Value<'_>) -> Result<(), Problem> {
        let table = self.table("network.wifi", value)?;
        let mut ssid = false;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "ssid" => {
                    if !(1..=32).contains(&self.string("network.wifi.ssid", value)?.len()) {
                        return Err(self.problem(value.span(), "network.wifi.ssid must have 1 to 32 bytes"));
                    }
                    ssid = true;
                }
                "passphrase" => {
                    let text = self.string("network.wifi.passphrase", value)?;
                    if !(8..=63).contains(&text.len()) || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
                        let message = "network.wifi.passphrase must have 8 to 63 printable ASCII characters";
                        return Err(self.problem(value.span(), message));
                    }
                }
                "country" => {
                    let text = self.string("network.wifi.country", value)?;
                    if text.len() != 2 || !text.bytes().all(|b| b.is_ascii_uppercase()) {
                        let message = format!(
                            "network.wifi.country is {}; it must be two capital letters, such as \"DE\"",
                            quoted(text)
                        );
                        return Err(self.problem(value.span(), message));
                    }
                }
                _ => return Err(self.unknown(key, "network.wifi", "ssid, passphrase, country")),
            }
        }
        if ssid { Ok(()) } else { Err(self.problem(value.span(), "[network.wifi] needs an ssid")) }
    }

    fn rdp(&self, value: &Value<'_>, config: &mut Config) -> Result<(), Problem> {
        for (key, value) in self.table("rdp", value)? {
            match key.get_ref().as_ref() {
                "user" => config.user = Some(self.user("rdp.user", value)?),
                "password" => config.password = self.password("rdp.password", value)?,
                _ => return Err(self.unknown(key, "rdp", "user, password")),
            }
        }
        Ok(())
    }

    fn policy(&self, value: &Value<'_>) -> Result<Policy, Problem> {
        let mut policy = Policy::strict();
        let mut changes = serde_json::Map::new();
        for (key, value) in self.table("policy", value)? {
            match key.get_ref().as_ref() {
                "profile" => match self.string("policy.profile", value)? {
                    "strict" => {}
                    "standard" => policy = Policy::standard(),
                    other => {
                        let message = format!(
                            "policy.profile is {}; it must be \"strict\" or \"standard\"",
                            quoted(other)
                        );
                        return Err(self.problem(value.span(), message));
                    }
                },
                other => {
                    let changed = self.json(&format!("policy.{other}"), value)?;
                    changes.insert(other.to_owned(), changed);
                }
            }
        }
        let failed = |error: &dyn std::fmt::Display| self.problem(value.span(), format!("[policy]: {error}"));
        let mut table = serde_json::to_value(&policy).map_err(|error| failed(&error))?;
        merge(&mut table, serde_json::Value::Object(changes));
        let table = serde_json::to_vec(&table).map_err(|error| failed(&error))?;
        Policy::parse(&table).map_err(|error| failed(&error))
    }

    /// The same as JSON, which has no dates and here no fractions.
    fn json(&self, name: &str, value: &Value<'_>) -> Result<serde_json::Value, Problem> {
        Ok(match value.get_ref() {
            DeValue::Boolean(value) => (*value).into(),
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => number.into(),
                Err(_) => {
                    return Err(self.problem(value.span(), format!("{name} is larger than any number here")));
                }
            },
            DeValue::Array(list) => {
                let list: Result<Vec<_>, _> = list.iter().map(|value| self.json(name, value)).collect();
                list?.into()
            }
            DeValue::Table(_) => {
                let mut table = serde_json::Map::new();
                for (key, value) in self.table(name, value)? {
                    let key = key.get_ref();
                    table.insert(key.to_string(), self.json(&format!("{name}.{key}"), value)?);
                }
                table.into()
            }
            other => {
                return Err(
                    self.problem(value.span(), format!("{name} is {}, which no policy has", kind(other)))
                );
            }
        })
    }

    fn recording(&self, value: &Value<'_>) -> Result<Recording, Problem> {
        let mut recording = Recording::default();
        // In their order in the file, for the place of a message.
        let mut keys: Vec<(String, Range<usize>)> = Vec::new();
        for (key, value) in self.table("recording", value)? {
            let (list, into) = match (key.get_ref().as_ref(), value.get_ref()) {
                ("owner", DeValue::Array(list)) => (list.iter().collect(), &mut recording.owners),
                ("owner", _) => (vec![value], &mut recording.owners),
                ("observers", DeValue::Array(list)) => (list.iter().collect(), &mut recording.observers),
                ("observers", other) => {
                    let message = format!(
                        "recording.observers must be a list of public keys, such as [\"2f83…\"], not {}",
                        kind(other)
                    );
                    return Err(self.problem(value.span(), message));
                }
                _ => return Err(self.unknown(key, "recording", "owner, observers")),
            };
            let name = format!("recording.{}", key.get_ref());
            if list.is_empty() {
                let message = format!("{name} is an empty list; give a public key, or remove this line");
                return Err(self.problem(value.span(), message));
            }
            for value in list {
                let public = self.public_key(&name, value)?;
                keys.push((public.clone(), value.span()));
                into.push(public);
            }
        }
        keys.sort_by_key(|(_, span)| span.start);
        for (place, (key, span)) in keys.iter().enumerate() {
            if keys[..place].iter().any(|(earlier, _)| earlier == key) {
                return Err(
                    self.problem(span.clone(), "this public key is in [recording] twice; once is enough")
                );
            }
            if place == MAX_RECIPIENTS {
                let message = format!(
                    "[recording] has {} public keys, at most {MAX_RECIPIENTS} are allowed",
                    keys.len()
                );
                return Err(self.problem(span.clone(), message));
            }
        }
        if recording.owners.is_empty() && !recording.observers.is_empty() {
            let message = "[recording] has observers and needs an owner, the public key of whoever may open what is recorded";
            return Err(self.problem(value.span(), message));
        }
        Ok(recording)
    }

    /// The public half of a key pair. The message does not repeat it: somebody may have put the secret half there.
    fn public_key(&self, name: &str, value: &Value<'_>) -> Result<String, Problem> {
        let text = self.string(name, value)?;
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        let wrong = if !digits || text.len() != 64 {
            let others = if digits { "" } else { ", and not all of them are such digits" };
            let count = text.chars().count();
            format!("must be a public key of 64 hexadecimal digits; it has {count} characters{others}")
        } else if text.bytes().all(|b| b == b'0') {
            "is nobody's public key".to_owned()
        } else {
            return Ok(text.to_ascii_lowercase());
        };
        let hint = "`lucidctl recording new-key FILE`, on your own machine, makes a key pair and prints the public half";
        Err(self.problem(value.span(), format!("{name} {wrong}; {hint}")))
    }

    fn update(&self, value: &Value<'_>) -> Result<Update, Problem> {
        let mut update = Update::default();
        let mut other = None;
        for (key, value) in self.table("update", value)? {
            match key.get_ref().as_ref() {
                "source" => {
                    update.sources = self.sources(value)?;
                    continue;
                }
                "channel" => {
                    let text = self.string("update.channel", value)?;
                    if !is_channel(text) {
                        let message = format!(
                            "update.channel is {}; it must be 1 to 32 of a to z, 0 to 9 and -, such as \"stable\"",
                            quoted(text)
                        );
                        return Err(self.problem(value.span(), message));
                    }
                    update.channel = text.to_owned();
                }
                "usb" => {
                    update.usb = self.yes_or_no("update.usb", value)?;
                    continue;
                }
                "automatic" => update.automatic = self.yes_or_no("update.automatic", value)?,
                "metered" => update.metered = self.yes_or_no("update.metered", value)?,
                "window" => {
                    let text = self.string("update.window", value)?;
                    if !is_window(text) {
                        let message = format!(
                            "update.window is {}; it must be two different times of day, such as \"02:00-04:00\" (UTC)",
                            quoted(text)
                        );
                        return Err(self.problem(value.span(), message));
                    }
                    update.window = Some(text.to_owned());
                }
                _ => {
                    let allowed = "source, usb, channel, automatic, window, metered";
                    return Err(self.unknown(key, "update", allowed));
                }
            }
            other = Some(key.span());
        }
        match other {
            Some(span) if update.sources.is_empty() && !update.usb => Err(self.problem(
                span,
                "[update] has no source, and usb = false; give one, such as source = \"https://example.org/lucid\"",
            )),
            _ => Ok(update),
        }
    }

    fn yes_or_no(&self, key: &str, value: &Value<'_>) -> Result<bool, Problem> {
        match value.get_ref() {
            DeValue::Boolean(yes) => Ok(*yes),
            other => {
                let message = format!("{key} must be true or false, not {}", kind(other));
                Err(self.problem(value.span(), message))
            }
        }
    }

    fn sources(&self, value: &Value<'_>) -> Result<Vec<String>, Problem> {
        let list: Vec<&Value<'_>> = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        if list.is_empty() || list.len() > MAX_SOURCES {
            let message = format!("update.source has {} addresses; give 1 to {MAX_SOURCES}", list.len());
            return Err(self.problem(value.span(), message));
        }
        let mut sources: Vec<String> = Vec::new();
        for value in list {
            let text = self.string("update.source", value)?;
            if !is_source(text) {
                // Not repeated: somebody may have put a password into it.
                let message = "update.source must be an address such as \"https://example.org/lucid\", without a \
                               name, a password, ? or #";
                return Err(self.problem(value.span(), message));
            }
            if sources.iter().any(|earlier| earlier == text) {
                return Err(self.problem(value.span(), "this source is there twice; once is enough"));
            }
            sources.push(text.to_owned());
        }
        Ok(sources)
    }

    fn keyboard(&self, value: &Value<'_>, config: &mut Config) -> Result<(), Problem> {
        for (key, value) in self.table("keyboard", value)? {
            let good = |text: &str, least: usize, capitals: bool| {
                (least..=32).contains(&text.len())
                    && text.bytes().all(|b| {
                        b.is_ascii_lowercase()
                            || b.is_ascii_digit()
                            || matches!(b, b'_' | b'-')
                            || capitals && b.is_ascii_uppercase()
                    })
            };
            match key.get_ref().as_ref() {
                "layout" => {
                    let text = self.string("keyboard.layout", value)?;
                    if !good(text, 1, false) {
                        let message = format!(
                            "keyboard.layout is {}; it must be the name of an XKB layout, such as \"us\" or \"de\"",
                            quoted(text)
                        );
                        return Err(self.problem(value.span(), message));
                    }
                    config.settings.keyboard.layout = text.to_owned();
                }
                "variant" => {
                    let text = self.string("keyboard.variant", value)?;
                    if !good(text, 0, true) {
                        let message = format!(
                            "keyboard.variant is {}; it must be the name of an XKB variant, such as \"nodeadkeys\"",
                            quoted(text)
                        );
                        return Err(self.problem(value.span(), message));
                    }
                    config.settings.keyboard.variant = text.to_owned();
                }
                _ => return Err(self.unknown(key, "keyboard", "layout, variant")),
            }
        }
        Ok(())
    }
}

/// Whether a text can be the name of an RDP user.
pub fn is_user(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// Whether lucid-updated takes a text as the name of a channel.
fn is_channel(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Two times of day, `HH:MM-HH:MM`, that are not the same.
fn is_window(text: &str) -> bool {
    let number = |text: &str, most: u8| {
        text.len() == 2
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u8>().is_ok_and(|n| n <= most)
    };
    let time = |text: &str| text.split_once(':').is_some_and(|(h, m)| number(h, 23) && number(m, 59));
    text.split_once('-').is_some_and(|(from, to)| time(from) && time(to) && from != to)
}

/// Whether a text is a plain address of a web server's folder. It becomes a word of a unit's command line, so what has a meaning
/// there (white space, quotes, backslashes) is in none.
fn is_source(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (known, port) = match place.strip_prefix('[').map(|inner| inner.split_once(']')) {
        Some(Some((host, port))) => (host.parse::<Ipv6Addr>().is_ok(), port),
        Some(None) => return false,
        None => {
            let (host, port) = place.split_at(place.find(':').unwrap_or(place.len()));
            (is_host(host), port)
        }
    };
    let port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    let path =
        path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/'));
    text.len() <= MAX_SOURCE && known && port && path
}

/// A host's name or IPv4 address. A name does not end with a number (RFC 3696, section 2), as an address does.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let digits = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if digits {
        return text.parse::<Ipv4Addr>().is_ok();
    }
    text.len() <= 253 && text.split('.').all(label)
}

/// A value for a message: cut, and with control characters escaped. Not for secrets.
fn quoted(text: &str) -> String {
    if text.chars().count() > 40 {
        format!("{:?}…", text.chars().take(40).collect::<String>())
    } else {
        format!("{text:?}")
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn usable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}

/// The network's own address or its broadcast address.
fn is_edge(ip: IpAddr, prefix: u8) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    prefix <= 30 && (u32::from(ip) & hosts == 0 || u32::from(ip) & hosts == hosts)
}

/// Whether a gateway is another host of the same network. IPv6 routers are link-local as a rule.
fn reachable(ip: IpAddr, prefix: u8, gateway: IpAddr) -> bool {
    match (ip, gateway) {
        (IpAddr::V4(ip), IpAddr::V4(gateway)) => {
            let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            ip != gateway && (u32::from(ip) ^ u32::from(gateway)) & !hosts == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(gateway)) => {
            let hosts = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            let local = gateway.segments()[0] & 0xffc0 == 0xfe80;
            ip != gateway && (local || (u128::from(ip) ^ u128::from(gateway)) & !hosts == 0)
        }
        _ => false,
    }
}

/// The bytes that take the place of a secret of `length` bytes, quotes included.
/// `None`: too short, which no valid password is.
pub fn mark(length: usize) -> Option<Vec<u8>> {
    let mut bytes = USED.as_bytes().to_vec();
    (length >= bytes.len()).then(|| {
        bytes.resize(length, b' ');
        bytes
    })
}
