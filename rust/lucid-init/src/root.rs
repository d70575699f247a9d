//! The mounts of the initramfs, the verified root, and the change into it.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Advice, CWD};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};

use crate::error::{Doing as _, Error};

/// Where the root is mounted before it becomes `/`.
const NEW_ROOT: &str = "/sysroot";

/// Mounts `/dev`, `/proc` and `/sys`; the kernel log is usable afterwards.
pub(crate) fn mount_kernel_file_systems() -> Result<(), Error> {
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (kind, target, flags) in [
        ("devtmpfs", "/dev", plain),
        ("proc", "/proc", plain | MountFlags::NODEV),
        // Read-only: nobody on this device has to set anything there, and it is how systemd-networkd knows
        // that no udev runs (udev_available() in systemd's udev-util.c).
        ("sysfs", "/sys", plain | MountFlags::NODEV | MountFlags::RDONLY),
    ] {
        make_dir(target, 0o755)?;
        match mount(kind, target, kind, flags, None) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(e) => return Err(e).doing(|| format!("mounting {kind} on {target}")),
        }
    }
    Ok(())
}

/// Makes a directory and accepts that it is there.
pub(crate) fn make_dir(path: &str, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e).doing(|| format!("making the directory {path}")),
    }
}

/// Mounts the verified device as the new root.
pub(crate) fn mount_root(device: &str) -> Result<(), Error> {
    make_dir(NEW_ROOT, 0o755)?;
    mount(device, NEW_ROOT, "erofs", MountFlags::RDONLY, None)
        .doing(|| format!("mounting {device} as an EROFS root"))
}

/// Reads the whole device once, so that every block is checked against the root hash: a wrong one
/// panics in the kernel. Returns the number of bytes. The page cache is given back as it goes.
pub(crate) fn scrub(device: &str) -> Result<u64, Error> {
    let mut file = File::open(device).doing(|| format!("opening {device}"))?;
    let mut buffer = vec![0u8; 1 << 20];
    let mut done = 0u64;
    loop {
        let n = file.read(&mut buffer).doing(|| format!("reading {device} at byte {done}"))?;
        if n == 0 {
            return Ok(done);
        }
        // Advice only: without it the pages are merely reclaimed later.
        let _ = rustix::fs::fadvise(&file, done, std::num::NonZeroU64::new(n as u64), Advice::DontNeed);
        done += n as u64;
    }
}

/// Makes the new root `/`: takes the kernel's file systems along, mounts `/run`, gives back the
/// memory of the initramfs.
pub(crate) fn switch() -> Result<(), Error> {
    for name in ["dev", "proc", "sys"] {
        let (from, to) = (format!("/{name}"), format!("{NEW_ROOT}/{name}"));
        mount_move(&from, &to).doing(|| format!("moving {from} to {to}"))?;
    }
    let run = format!("{NEW_ROOT}/run");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", &run, "tmpfs", flags, c"mode=0755,size=20%").doing(|| format!("mounting {run}"))?;

    let device = fs::metadata("/").doing(|| "looking at the initramfs".to_owned())?.dev();
    empty(Path::new("/"), device);

    let what = || format!("making {NEW_ROOT} the root");
    chdir(NEW_ROOT).doing(what)?;
    mount_move(".", "/").doing(what)?;
    chroot(".").doing(what)?;
    chdir("/").doing(what)?;
    rustix::fs::access("/proc/self", rustix::fs::Access::EXISTS)
        .and_then(|()| {
            rustix::fs::accessat(CWD, "/dev/kmsg", rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
        })
        .doing(|| "looking for /proc and /dev in the new root".to_owned())
}

/// Removes everything below `dir` that is on `device`. What cannot be removed only keeps its memory.
fn empty(dir: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != device {
            continue;
        }
        if meta.is_dir() {
            empty(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}
