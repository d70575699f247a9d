//! Killing everything that a desktop has started.

use super::LauncherError;
use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::{BTreeMap, BTreeSet};

/// Every process with its parent, from `/proc`.
fn parents() -> Result<BTreeMap<i32, i32>, LauncherError> {
    let failed = |e| LauncherError::io("listing the desktop's processes in /proc")(e);
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else { continue };
        // A process may end between the two reads.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // proc_pid_stat(5): "pid (comm) state ppid ..."; comm may hold spaces and parentheses.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// All processes below `roots`, them included.
fn below(parents: &BTreeMap<i32, i32>, roots: impl IntoIterator<Item = i32>) -> BTreeSet<i32> {
    let mut found: BTreeSet<i32> = roots.into_iter().collect();
    loop {
        let before = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| found.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

fn kill(pids: impl IntoIterator<Item = i32>) {
    for pid in pids.into_iter().filter_map(Pid::from_raw) {
        // It may have ended by itself, and a set-user-id program may be out of reach: the wait for it
        // below, or the control group around us, has the last word.
        if let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = pid.as_raw_nonzero(), %error, "a process of the desktop could not be killed");
        }
    }
}

fn children(parents: &BTreeMap<i32, i32>) -> Vec<i32> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    parents.iter().filter(|(_, parent)| **parent == me).map(|(pid, _)| *pid).collect()
}

/// Kills all descendants of this process (a subreaper) and reaps them, until there are none.
pub(super) fn kill_all() -> Result<(), LauncherError> {
    loop {
        let parents = parents()?;
        kill(below(&parents, children(&parents)));
        // What was killed becomes our child and ends; what it started meanwhile does so in the next turn.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(e) => return Err(LauncherError::system("waiting for the desktop's processes to end")(e)),
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

/// Kills all processes that have become our children without our having started them: what a launcher
/// that was itself killed has left behind. They are reaped as they end.
pub(super) fn kill_orphans(own: &BTreeSet<i32>) -> Result<(), LauncherError> {
    loop {
        let parents = parents()?;
        let orphans: Vec<i32> = children(&parents).into_iter().filter(|pid| !own.contains(pid)).collect();
        if orphans.is_empty() {
            return Ok(());
        }
        kill(below(&parents, orphans.iter().copied()));
        for pid in orphans.into_iter().filter_map(Pid::from_raw) {
            match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
                Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::CHILD) => {}
                Err(e) => return Err(LauncherError::system("waiting for orphans to end")(e)),
            }
        }
    }
}
