//! `lucid-provision announce`: says on every console how to connect.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qrcodegen::{QrCode, QrCodeEcc};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::apply::{Announcement, Recording, announcement_path, mark_shown};
use crate::console;
use crate::error::Error;
use crate::store::read_json;

/// How often the two conditions are looked at.
const STEP: Duration = Duration::from_millis(200);
/// The most characters of what the recorder says.
const MAX_PROBLEM: usize = 500;
/// Light modules around a QR code (ISO/IEC 18004: four).
const QUIET: i32 = 4;

/// What `lucid-rdp` says about itself. More may be in it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The TCP port.
    pub port: u16,
    /// SHA-256 of the certificate, hexadecimal with colons.
    pub certificate_sha256: String,
    /// Clients are accepted.
    pub ready: bool,
}

/// What `lucid-sessiond` says about itself. More may be in it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Recorder {
    /// The Ed25519 key that signs recordings, hexadecimal.
    pub device_key: Option<String>,
    /// What keeps sessions from beginning.
    pub problem: Option<String>,
}

/// Everything that is shown.
pub struct Block<'a> {
    /// The addresses that can be reached.
    pub addresses: &'a [Ipv4Addr],
    /// From `lucid-rdp`.
    pub status: &'a Status,
    /// From `lucid-sessiond`, where it says something.
    pub recorder: Option<&'a Recorder>,
    /// From `apply`.
    pub announcement: &'a Announcement,
}

impl Block<'_> {
    fn fingerprint(&self) -> String {
        self.status.certificate_sha256.to_ascii_uppercase()
    }

    /// The text for a console. It may hold the password.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::from("\nLucid is ready.\n"));
        if self.addresses.is_empty() {
            text.push_str("  address      no network yet\n");
        }
        for address in self.addresses {
            text.push_str(&format!("  address      {address}:{}\n", self.status.port));
        }
        text.push_str(&format!("  user         {}\n", self.announcement.user));
        text.push_str("  password     ");
        text.push_str(match &self.announcement.password {
            Some(password) => password,
            None if self.announcement.made => "as shown at first boot",
            None => "as set in lucid.toml",
        });
        text.push_str(&format!("\n  fingerprint  sha256 {}\n", self.fingerprint()));
        text.push_str(&format!("  recording    {}\n", self.recording()));
        if let Some(key) = self.recorder.and_then(|recorder| recorder.device_key.as_ref()) {
            text.push_str(&format!("  device key   ed25519 {key}\n"));
        }
        for note in &self.announcement.notes {
            text.push_str(&format!("  note         {}\n", plain(note)));
        }
        if let Some(code) = self.code() {
            text.push('\n');
            text.push_str(&code);
        }
        text
    }

    /// Whether sessions are recorded, in words.
    pub fn recording(&self) -> String {
        let problem = match (&self.announcement.recording, self.recorder) {
            (Recording::No, _) => return "no: lucid.toml names no owner's key".to_owned(),
            (Recording::Impossible(why), _) => why,
            (Recording::Each, Some(Recorder { problem: Some(why), .. })) => why,
            (Recording::Each, Some(Recorder { device_key: Some(_), problem: None })) => {
                return "every session is recorded".to_owned();
            }
            (Recording::Each, _) => "the recorder has not started; the journal of lucid-sessiond says why",
        };
        let problem: String = plain(problem).chars().take(MAX_PROBLEM).collect();
        format!("NO SESSION CAN BEGIN, because none can be recorded: {problem}")
    }

    /// The QR code, when there is a password to show.
    fn code(&self) -> Option<Zeroizing<String>> {
        let password = self.announcement.password.as_ref()?;
        let mut text = Zeroizing::new(String::from("Lucid\n"));
        for address in self.addresses {
            text.push_str(&format!("address {address}:{}\n", self.status.port));
        }
        text.push_str(&format!("user {}\npassword ", self.announcement.user));
        text.push_str(password);
        text.push_str(&format!("\nsha256 {}\n", self.fingerprint()));
        QrCode::encode_text(&text, QrCodeEcc::Low).ok().map(|code| half_blocks(&code))
    }
}

/// Text that cannot move a console's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Two rows of modules in one row of characters, dark on light whatever the console's colours are.
fn half_blocks(code: &QrCode) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    let edge = code.size() + QUIET;
    let mut y = -QUIET;
    while y < edge {
        text.push_str("\u{1b}[30;47m");
        for x in -QUIET..edge {
            // Outside the code `get_module` is light.
            text.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (false, false) => ' ',
                (true, false) => '▀',
                (false, true) => '▄',
                (true, true) => '█',
            });
        }
        text.push_str("\u{1b}[0m\n");
        y += 2;
    }
    text
}

/// What is announced, where from, and for how long to wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// Normally `/run`.
    pub run: PathBuf,
    /// Normally `/data/lucid/provision`.
    pub data: PathBuf,
    /// Normally `/run/lucid-rdp/status.json`.
    pub status: PathBuf,
    /// Normally `/run/lucid-sessiond/status.json`.
    pub recorder: PathBuf,
    /// Devices instead of the kernel's consoles.
    pub consoles: Vec<PathBuf>,
    /// How long to wait for the service and for an address, together.
    pub limit: Duration,
}

/// Waits, prints, forgets. Returns what the journal may know: no password.
pub fn announce(options: &Options) -> Result<String, Error> {
    let path = announcement_path(&options.run);
    let announcement =
        read_json::<Announcement>(&path)?.ok_or(Error::NothingToAnnounce { path: path.clone() })?;
    let consoles = if options.consoles.is_empty() {
        console::active().map_err(|source| Error::File {
            doing: "reading",
            path: "/sys/class/tty/console/active".into(),
            source,
        })?
    } else {
        options.consoles.clone()
    };
    let deadline = Instant::now() + options.limit;
    let Some(status) = wait(deadline, || ready(&options.status)) else {
        let error = Error::NotReady { path: options.status.clone(), seconds: options.limit.as_secs() };
        // The hand-over stays, so that a later try can still show the password.
        for (path, e) in console::write_all(&consoles, &format!("\nLucid is not ready: {error}\n")) {
            eprintln!("lucid-provision: writing to {}: {e}", path.display());
        }
        return Err(error);
    };
    let recorder = match announcement.recording {
        Recording::Each => wait(deadline, || recorder(&options.recorder)),
        Recording::No | Recording::Impossible(_) => None,
    };
    let addresses = wait(deadline, || Some(addresses()).filter(|a| !a.is_empty())).unwrap_or_default();
    let recorder = recorder.as_ref();
    let block = Block { addresses: &addresses, status: &status, recorder, announcement: &announcement };
    let mut failed = console::write_all(&consoles, &block.text());
    if failed.len() == consoles.len()
        && let Some((path, source)) = failed.pop()
    {
        // Nobody has seen it: the hand-over stays for another try.
        return Err(Error::File { doing: "writing to the console", path, source });
    }
    let mut report = format!(
        "announced to user {} on {} of {} consoles, {} addresses; recording: {}",
        announcement.user,
        consoles.len() - failed.len(),
        consoles.len(),
        addresses.len(),
        block.recording()
    );
    for (path, e) in &failed {
        report.push_str(&format!("; {}: {e}", path.display()));
    }
    if announcement.password.is_some()
        && let Err(e) = mark_shown(&options.data)
    {
        report.push_str(&format!("; the next start will make a new password: {e}"));
    }
    fs::remove_file(&path).map_err(|source| Error::File { doing: "removing", path, source })?;
    Ok(report)
}

fn wait<T>(deadline: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

/// The status, if the service is ready. A file that is not there or half written is not ready.
fn ready(path: &Path) -> Option<Status> {
    let status = read_json::<Status>(path).ok().flatten()?;
    let print = &status.certificate_sha256;
    let sound = print.len() <= 128 && print.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    (status.ready && sound).then_some(status)
}

/// What the recorder says, once it says something. A file that is not there or half written says nothing yet.
fn recorder(path: &Path) -> Option<Recorder> {
    let recorder = read_json::<Recorder>(path).ok().flatten()?;
    let key = recorder.device_key.as_ref();
    let sound = key.is_none_or(|key| key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit()));
    (sound && (recorder.device_key.is_some() || recorder.problem.is_some())).then_some(recorder)
}

/// The machine's IPv4 addresses; `lucid-rdp` listens on IPv4.
fn addresses() -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|interface| match interface.ip() {
            IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_link_local() => Some(ip),
            _ => None,
        })
        .collect();
    found.sort();
    found.dedup();
    found.truncate(8);
    found
}
