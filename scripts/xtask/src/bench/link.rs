//! The network between client and host: a pair of virtual interfaces whose far end lies in a namespace of its own,
//! as fast as the machine or as slow as asked.

use std::{fs, process::Command};

use crate::{
    error::{At, Error, Result},
    progress::ask_well,
};

const NAMESPACE: &str = "lucid-bench";
const NEAR: &str = "lucid-bench0";
const FAR: &str = "lucid-bench1";
/// The host's address, from the block for benchmarks (RFC 2544).
pub(super) const HOST: &str = "198.18.93.1";
const CLIENT: &str = "198.18.93.2";

/// How slow the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Milliseconds of delay each way.
    pub(super) delay_ms: u32,
    /// Kilobytes a second each way.
    pub(super) kilobytes_per_second: u32,
}

/// The link; it is taken down when this is dropped.
pub(super) struct Link;

fn ip(words: &[&str]) -> Result<()> {
    ask_well("setting up the link (as root, with iproute2)", Command::new("ip").args(words), b"").map(drop)
}

impl Link {
    /// Sets the link up, as fast as it goes.
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

    /// Makes it slow, both ways.
    pub(super) fn shape(&self, shape: Shape) -> Result<()> {
        let delay = format!("{}ms", shape.delay_ms);
        let rate = format!("{}kbit", shape.kilobytes_per_second * 8);
        for prefix in [&["-n", NAMESPACE][..], &[]] {
            let device = if prefix.is_empty() { NEAR } else { FAR };
            let mut tc = Command::new("tc");
            tc.args(prefix).args(["qdisc", "replace", "dev", device, "root", "netem"]);
            tc.args(["delay", &delay, "rate", &rate, "limit", "10000"]);
            ask_well("slowing the link down (tc, kernel module sch_netem)", &mut tc, b"")?;
        }
        Ok(())
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
