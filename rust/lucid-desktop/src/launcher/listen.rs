//! Accepting connections on a socket of our own (on hosts without systemd's).

use super::descendants::kill_orphans;
use super::runtime::RuntimeDirectory;
use super::{Launcher, LauncherError, pidfd};
use lucid_desktop::handover::{Reply, send_reply};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// A child that serves one connection.
struct Served {
    pid: Pid,
    ended: OwnedFd,
}

impl Launcher {
    /// Accepts connections until the process is ended.
    pub(crate) fn listen(&self, path: &Path, max: usize) -> Result<(), LauncherError> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(LauncherError::system("becoming the reaper of the desktops' processes"))?;
        let listener = bind(path)?;
        tracing::info!(path = %path.display(), max, "waiting for connections");
        let mut served: Vec<Served> = Vec::new();
        loop {
            let (connection, ended) = wait_for_any(&listener, &served)?;
            for at in ended.into_iter().rev() {
                self.clean_up(&served.swap_remove(at), &served)?;
            }
            if !connection {
                continue;
            }
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // The client has gone again, or descriptors are short: the others go on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    continue;
                }
            };
            if served.len() >= max {
                tracing::warn!(max, "a connection was refused: enough desktops run");
                let error = format!("{max} desktops run already; close one, or raise --max");
                if let Err(error) = send_reply(&socket, &Reply::Failed { error }, &[]) {
                    tracing::debug!(%error, "the client did not take the reason");
                }
                continue;
            }
            match self.serve_in_child(socket) {
                Ok(child) => served.push(child),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    fn serve_in_child(&self, socket: UnixStream) -> Result<Served, LauncherError> {
        let doing = || "starting a process for a connection".to_owned();
        let myself =
            std::env::current_exe().map_err(LauncherError::io("finding the launcher's own program"))?;
        let child = Command::new(myself)
            .arg("serve-connection")
            .args(["--parent", &std::process::id().to_string()])
            .arg("--sway-config")
            .arg(&self.paths.sway_config)
            .arg("--sway")
            .arg(&self.paths.sway)
            .arg("--pipewire")
            .arg(&self.paths.pipewire)
            .arg("--wireplumber")
            .arg(&self.paths.wireplumber)
            .arg("--xkbcli")
            .arg(&self.paths.xkbcli)
            .arg("--home")
            .arg(&self.paths.home)
            .arg("--runtime")
            .arg(&self.runtime)
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .spawn()
            .map_err(LauncherError::io(doing()))?;
        let pid = Pid::from_child(&child);
        Ok(Served { pid, ended: pidfd(pid)? })
    }

    /// After the end of a connection's process: if it was killed, it has left things behind.
    fn clean_up(&self, ended: &Served, others: &[Served]) -> Result<(), LauncherError> {
        match rustix::process::waitpid(Some(ended.pid), WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::CHILD) => {}
            Err(e) => return Err(LauncherError::system("waiting for a connection's process")(e)),
        }
        let own: BTreeSet<i32> = others.iter().map(|s| s.pid.as_raw_nonzero().get()).collect();
        kill_orphans(&own)?;
        RuntimeDirectory::remove_of(&self.runtime, ended.pid.as_raw_nonzero().get().unsigned_abs())
    }
}

/// Whether there is a connection, and which children have ended (in ascending order).
fn wait_for_any(listener: &UnixListener, served: &[Served]) -> Result<(bool, Vec<usize>), LauncherError> {
    let mut poll = vec![PollFd::new(listener, PollFlags::IN)];
    poll.extend(served.iter().map(|s| PollFd::from_borrowed_fd(s.ended.as_fd(), PollFlags::IN)));
    match rustix::event::poll(&mut poll, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(LauncherError::system("waiting for connections")(e)),
    }
    let mut ready = poll.iter().map(|p| !p.revents().is_empty());
    let connection = ready.next().unwrap_or(false);
    Ok((connection, ready.enumerate().filter(|(_, ended)| *ended).map(|(at, _)| at).collect()))
}

/// Listens on `path`, for this user only. A socket that a former launcher has left is replaced.
fn bind(path: &Path) -> Result<UnixListener, LauncherError> {
    let doing = || format!("listening on {}", path.display());
    let left = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if left && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).map_err(LauncherError::io(doing()))?;
    }
    let listener = UnixListener::bind(path).map_err(LauncherError::io(doing()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(LauncherError::io(doing()))?;
    Ok(listener)
}
