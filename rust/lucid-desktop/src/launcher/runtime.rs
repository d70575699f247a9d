//! The desktop's private runtime directory, and the compositor's sockets that appear in it.

use super::{Compositor, LauncherError, wait};
use rustix::fs::inotify;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A directory that only the desktop's user may enter; removed when dropped.
pub(super) struct RuntimeDirectory {
    path: PathBuf,
}

/// The name of a launcher's directory.
fn name(launcher: u32) -> String {
    format!("lucid-desktop-{launcher}")
}

impl RuntimeDirectory {
    pub(super) fn make(base: &Path) -> Result<RuntimeDirectory, LauncherError> {
        let path = base.join(name(std::process::id()));
        // A launcher of the same number may have been killed and have left its directory.
        Self::remove_of(base, std::process::id())?;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(LauncherError::io(format!("making the directory {}", path.display())))?;
        Ok(RuntimeDirectory { path })
    }

    /// Removes what a killed launcher has left behind.
    pub(super) fn remove_of(base: &Path, launcher: u32) -> Result<(), LauncherError> {
        let path = base.join(name(launcher));
        match std::fs::remove_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(LauncherError::io(format!("removing the directory {}", path.display()))(e)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Watches for sockets from now on.
    pub(super) fn watch(&self) -> Result<Announcement, LauncherError> {
        let doing = "watching the runtime directory";
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(LauncherError::system(doing))?;
        inotify::add_watch(&inotify, &self.path, inotify::WatchFlags::CREATE)
            .map_err(LauncherError::system(doing))?;
        Ok(Announcement { inotify })
    }
}

impl Drop for RuntimeDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the runtime directory could not be removed");
        }
    }
}

/// Tells when something appears in the runtime directory.
pub(super) struct Announcement {
    inotify: OwnedFd,
}

impl Announcement {
    /// Connects to the compositor as soon as it listens. None when the client is gone.
    ///
    /// Between the Wayland socket's appearance and its listening a connection is refused. sway makes its
    /// IPC socket after that, whose appearance causes the next try.
    pub(super) fn connect(
        self,
        runtime: &RuntimeDirectory,
        client: &UnixStream,
        compositor: &Compositor,
        deadline: Instant,
    ) -> Result<Option<UnixStream>, LauncherError> {
        loop {
            if let Some(connected) = try_connect(runtime.path())? {
                return Ok(Some(connected));
            }
            let [appeared, client, ended] = wait([&self.inotify, client, &compositor.ended], Some(deadline))?;
            if !ended.is_empty() {
                return Err(LauncherError::CompositorEnded(compositor.outcome()));
            }
            if !client.is_empty() {
                return Ok(None);
            }
            if appeared.is_empty() {
                return Err(LauncherError::CompositorSlow);
            }
            self.clear()?;
        }
    }

    fn clear(&self) -> Result<(), LauncherError> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(LauncherError::system("watching the runtime directory")(e)),
            }
        }
    }
}

fn try_connect(directory: &Path) -> Result<Option<UnixStream>, LauncherError> {
    let doing = || "looking for the compositor's socket".to_owned();
    for entry in std::fs::read_dir(directory).map_err(LauncherError::io(doing()))? {
        let name = entry.map_err(LauncherError::io(doing()))?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("wayland-")).map(str::parse::<u32>);
        if !matches!(number, Some(Ok(_))) {
            continue;
        }
        match UnixStream::connect(directory.join(&name)) {
            Ok(socket) => return Ok(Some(socket)),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(LauncherError::io(doing())(e)),
        }
    }
    Ok(None)
}
