//! The folder for the client's drives: a FUSE file system in the desktop's home, which whoever asked for the desktop
//! serves.
//!
//! Mounting needs rights that a user has in a user namespace of its own, so this process goes into one (with the same
//! user and group), and into a mount namespace, before it starts anything. Nothing that it starts has these rights,
//! unless it is root's. The mount is for this desktop alone and goes with its last process. In the namespace there
//! is no other user, so programs that become root (`sudo`) cannot.

use super::{Launcher, LauncherError};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

/// The folder, in the desktop's home.
const FOLDER: &str = "Client";

impl Launcher {
    /// Mounts it and returns the kernel's end, which is not served yet: who looks into the folder waits.
    pub(super) fn mount_drives(&self) -> Result<OwnedFd, LauncherError> {
        let folder = self.paths.home.join(FOLDER);
        std::fs::create_dir_all(&folder)
            .map_err(LauncherError::io(format!("making {}", folder.display())))?;
        let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        #[expect(deprecated, reason = "only UnshareFlags::FILES is unsafe")]
        rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(
            LauncherError::system(
                "making namespaces for the client's drives; allow user namespaces, or do not allow drives",
            ),
        )?;
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{user} {user} 1")),
            ("gid_map", format!("{group} {group} 1")),
        ] {
            let file = format!("/proc/self/{file}");
            std::fs::write(&file, text).map_err(LauncherError::io(format!("writing {file}")))?;
        }
        let device =
            rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
                .map_err(LauncherError::system("opening /dev/fuse for the client's drives"))?;
        let options = format!("fd={},rootmode=40000,user_id={user},group_id={group}", device.as_raw_fd());
        let options = CString::new(options).map_err(|e| LauncherError::io("mounting")(e.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
        rustix::mount::mount("client", &folder, "fuse.client", flags, options.as_c_str()).map_err(
            LauncherError::system(format!("mounting the client's drives on {}", folder.display())),
        )?;
        // The desktop's programs run as the same user and must not reach into this process for the kernel's end.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(LauncherError::system("closing the launcher to the desktop's programs"))?;
        Ok(device)
    }
}
