//! Name servers: from what systemd-networkd writes to what resolvers read.
// The helpers of tests fail a test in the same way as the tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lucid_provision::names::{resolv_conf, servers};

/// As systemd 257 writes it.
const STATE: &str = "# This is private data. Do not parse.\nADMIN_STATE=\nOPER_STATE=routable\nCARRIER_STATE=carrier\n\
                     ADDRESS_STATE=routable\nIPV4_ADDRESS_STATE=routable\nIPV6_ADDRESS_STATE=degraded\nONLINE_STATE=online\n\
                     DNS=10.0.2.3 fec0::3\nDOMAINS=\n";

#[test]
fn the_servers_are_those_of_networkd_each_once_and_three_at_most() {
    let found = |state: &str| servers(state).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(found(STATE), ["10.0.2.3", "fec0::3"]);
    assert_eq!(
        found("DNS=192.0.2.1#dns.example 192.0.2.1 fe80::1%eth0 fe80::2 x 2001:db8::1\n"),
        ["192.0.2.1", "2001:db8::1"]
    );
    assert_eq!(found("DNS=10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4\n"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    for none in ["", "DNS=\n", "DNS", "NTP=10.0.2.3\n", "\0\u{fffd}"] {
        assert_eq!(servers(none), Vec::<std::net::IpAddr>::new(), "{none:?}");
    }
    let text = resolv_conf(&servers(STATE));
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["nameserver 10.0.2.3", "nameserver fec0::3"]);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the file has that server and no other; without one, none.
fn until(path: &Path, server: Option<&str>) {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
        if !text.is_empty() && found == server.into_iter().collect::<Vec<_>>() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "wanted {server:?}, there is {text:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_file_follows_what_networkd_knows() {
    let dir = tempfile::tempdir().unwrap();
    let (netif, to) = (dir.path().join("netif"), dir.path().join("resolv.conf"));
    fs::create_dir(&netif).unwrap();
    let mut names = Command::new(env!("CARGO_BIN_EXE_lucid-provision"));
    names.arg("names").arg("--netif").arg(&netif).arg("--to").arg(&to);
    let mut running = Running(names.spawn().unwrap());
    until(&to, None);
    for server in ["10.0.2.3", "192.0.2.9"] {
        // As networkd does it.
        fs::write(netif.join(".#state"), format!("OPER_STATE=routable\nDNS={server}\n")).unwrap();
        fs::rename(netif.join(".#state"), netif.join("state")).unwrap();
        until(&to, Some(server));
    }
    assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
}

#[test]
fn without_networkds_directory_it_ends_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut names = Command::new(env!("CARGO_BIN_EXE_lucid-provision"));
    names
        .arg("names")
        .arg("--netif")
        .arg(dir.path().join("netif"))
        .arg("--to")
        .arg(dir.path().join("resolv.conf"));
    let output = names.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("watching") && said.contains("netif"), "{said}");
}
