//! `lucid-provision names`: which name servers there are, for programs that ask them by themselves.
//!
//! systemd-networkd learns them (DHCP, router advertisements) or is told them (`network.dns`), and keeps them in
//! `/run/systemd/netif/state`, in a line `DNS=10.0.2.3 2001:db8::1`, from which libsystemd reads them too. The resolvers of C
//! libraries read `/etc/resolv.conf`; in the image that leads to the file which is written here.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

use crate::error::Error;
use crate::store::write;

/// The file of networkd, in its directory.
const STATE: &str = "state";
/// It has at most so many bytes.
const MAX_STATE: u64 = 64 * 1024;
/// No resolver reads more servers than these (`MAXNS`).
const MAX_SERVERS: usize = 3;

/// Where both files are.
#[derive(Clone, Debug)]
pub struct Names {
    /// Normally `/run/systemd/netif`.
    pub netif: PathBuf,
    /// Normally `/run/lucid-names/resolv.conf`.
    pub to: PathBuf,
}

/// The name servers in the text of networkd's state. Those that belong to one link only (`fe80::1`, with or without its `%eth0`) are left out: resolvers
/// differ in how these are written.
#[must_use]
pub fn servers(state: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for word in
        state.lines().filter_map(|line| line.strip_prefix("DNS=")).flat_map(str::split_ascii_whitespace)
    {
        // A name for the server's certificate may follow.
        let address = word.split('#').next().unwrap_or_default();
        if let Ok(address) = address.parse::<IpAddr>()
            && !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found.truncate(MAX_SERVERS);
    found
}

/// The text of a `resolv.conf`.
#[must_use]
pub fn resolv_conf(servers: &[IpAddr]) -> String {
    let mut text = String::from("# Written by lucid-provision from what systemd-networkd knows.\n");
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

/// Writes the file now, and again whenever networkd knows something else. `tell` hears what is written. Ends with an error alone.
pub fn follow(names: &Names, mut tell: impl FnMut(&[IpAddr])) -> Error {
    let failed = |source: io::Error| Error::File { doing: "watching", path: names.netif.clone(), source };
    let watch = init(CreateFlags::CLOEXEC)
        .and_then(|watch| {
            // networkd replaces its files whole. Watched before it is read: nothing is missed.
            add_watch(&watch, names.netif.as_path(), WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE)
                .map(|_| watch)
        })
        .map_err(|errno| failed(errno.into()));
    let mut events = match watch {
        Ok(watch) => File::from(watch),
        Err(error) => return error,
    };
    let mut written = None;
    loop {
        let now = match read(&names.netif.join(STATE)) {
            Ok(text) => servers(&text),
            Err(error) => return error,
        };
        if written.as_ref() != Some(&now) {
            if let Err(error) = write(&names.to, resolv_conf(&now).as_bytes(), 0o644) {
                return error;
            }
            tell(&now);
            written = Some(now);
        }
        // Which file it was does not matter: reading once more costs nothing.
        match events.read(&mut [0; 4096]) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return failed(error),
            _ => {}
        }
    }
}

/// What networkd says; nothing before it says anything.
fn read(path: &Path) -> Result<String, Error> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_STATE).read_to_end(&mut bytes)) {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::File { doing: "reading", path: path.to_owned(), source }),
    }
}
