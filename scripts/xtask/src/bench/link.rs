//! The network between client and host: a pair of virtual interfaces whose far end lies in a namespace of its own, so
//! that what crosses is counted.

use std::{fs, net::Ipv4Addr, process::Command};

use crate::{
    error::{At, Error, Result},
    progress::ask_well,
};

const NAMESPACE: &str = "lucid-bench";
const NEAR: &str = "lucid-bench0";
const FAR: &str = "lucid-bench1";
/// The host's address, from the block for benchmarks (RFC 2544).
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 93, 1);
const CLIENT: &str = "198.18.93.2";

/// The link; it is taken down when this is dropped.
pub(super) struct Link;

fn ip(words: &[&str]) -> Result<()> {
    ask_well("setting up the link (as root, with iproute2)", Command::new("ip").args(words), b"").map(drop)
}

impl Link {
    /// Sets the link up.
    pub(super) fn new() -> Result<Self> {
        // One may be left from a run that was killed.
        drop(Link);
        ip(&["netns", "add", NAMESPACE])?;
        let link = Link;
        ip(&["link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", NAMESPACE])?;
        ip(&["address", "add", &format!("{HOST}/30"), "dev", NEAR])?;
        ip(&["link", "set", NEAR, "up"])?;
        ip(&["-n", NAMESPACE, "address", "add", &format!("{CLIENT}/30"), "dev", FAR])?;
        ip(&["-n", NAMESPACE, "link", "set", FAR, "up"])?;
        ip(&["-n", NAMESPACE, "link", "set", "lo", "up"])?;
        Ok(link)
    }

    /// A command as it is run at the client's end.
    pub(super) fn at_the_client(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("ip");
        wrapped.args(["netns", "exec", NAMESPACE]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
    }

    /// Bytes that the host has sent so far, headers included.
    pub(super) fn sent(&self) -> Result<u64> {
        let path = format!("/sys/class/net/{NEAR}/statistics/tx_bytes");
        let text = fs::read_to_string(&path).at("reading", &path)?;
        text.trim().parse().map_err(|error| Error::talk(path, error))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Nothing is left to say it to; what cannot be removed fails the next start with a message.
        let _ = Command::new("ip").args(["link", "del", NEAR]).stderr(std::process::Stdio::null()).status();
        let _ =
            Command::new("ip").args(["netns", "del", NAMESPACE]).stderr(std::process::Stdio::null()).status();
    }
}
