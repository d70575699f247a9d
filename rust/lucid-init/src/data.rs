//! The data partition: everything that changes on the device.
//!
//! Blank: a file system is made. ext4: checked when it was not closed cleanly, grown when the
//! partition is larger. Anything else is never touched: `/data` is then in memory, and every message
//! says so. Whatever happens here, the boot goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, chmod, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};

use crate::error::{Doing as _, Error};
use crate::ext4::{self, Contents, Superblock};
use crate::log;
use crate::report::{Data, DataState};
use crate::root::make_dir;
use crate::tool::{self, Outcome};

/// Making a file system writes little; a bad card is slow.
const MAKE_LIMIT: Duration = Duration::from_secs(120);
/// A whole check of a large, slow card.
const CHECK_LIMIT: Duration = Duration::from_secs(900);
/// Growing a mounted file system.
const GROW_LIMIT: Duration = Duration::from_secs(300);
/// A smaller difference between partition and file system is not worth a tool's start: an ext4 file
/// system cannot always use the last, incomplete block group.
const GROW_FROM: u64 = 16 << 20;
/// From this size on the journal gets a fixed size, so that making it stays quick on large cards.
const FIXED_JOURNAL_FROM: u64 = 1 << 30;
/// Below this much space for ordinary users, or this many free inodes, the file system counts as full.
const FULL_BYTES: u64 = 1 << 20;
/// See [`FULL_BYTES`].
const FULL_INODES: u64 = 64;
/// `/data` in memory, when there is no partition for it.
const MEMORY_DATA: &std::ffi::CStr = c"mode=0755,size=64M";
/// `/var` in memory, when the data partition is full.
const MEMORY_VAR: &std::ffi::CStr = c"mode=0755,size=32M";
/// Directories that the services expect, with their modes.
const VAR_DIRS: [(&str, u32); 4] = [("lib", 0o755), ("log", 0o755), ("cache", 0o755), ("tmp", 0o1777)];

/// Makes `/data`, `/var` and `/etc/machine-id` usable, in the worst case in memory.
pub(crate) fn prepare(partition: Option<&str>) -> Result<Data, Error> {
    let attempt = match partition {
        Some(path) => mount_partition(path),
        None => Err(Error::Data {
            partition: "the data partition".to_owned(),
            reason: "the disk has no partition of that name".to_owned(),
        }),
    };
    let mut data = match attempt {
        Ok(data) => data,
        Err(e) => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("tmpfs", "/data", "tmpfs", flags, MEMORY_DATA)
                .doing(|| "mounting memory on /data".to_owned())?;
            let message = format!("nothing will be kept after power-off, /data is in memory: {e}");
            Data { state: DataState::Unavailable, var_kept: false, message }
        }
    };
    let LaidOut { var_on_data, problem } = lay_out()?;
    data.var_kept &= var_on_data;
    if let Some(problem) = problem {
        data.message = format!("{}; {problem}", data.message);
        log::error(&format!("data: {}", data.message));
    } else if data.state == DataState::Unavailable {
        log::error(&format!("data: {}", data.message));
    } else {
        log::info(&format!("data: {}", data.message));
    }
    Ok(data)
}

/// Brings the partition into a usable state and mounts it on `/data`.
fn mount_partition(path: &str) -> Result<Data, Error> {
    let size = File::open(path)
        .and_then(|mut f| std::io::Seek::seek(&mut f, std::io::SeekFrom::End(0)))
        .doing(|| format!("opening {path}"))?;
    let file = File::open(path).doing(|| format!("opening {path}"))?;
    let contents = ext4::probe(file).doing(|| format!("reading {path}"))?;
    let (mut state, mut message, mut checked) = (DataState::Ok, "in order".to_owned(), false);
    let fs_bytes = match contents {
        Contents::Blank => {
            make(path, size)?;
            state = DataState::Made;
            message = format!("{path} was blank, a file system of {} MiB was made", size >> 20);
            size
        }
        Contents::Ext4(sb) => {
            if sb.damaged || sb.needs_recovery {
                checked = true;
                let repaired = check(path)?;
                if sb.damaged {
                    state = DataState::Repaired;
                    message = format!("{path} was damaged and has been repaired");
                } else if repaired {
                    state = DataState::Repaired;
                    message =
                        format!("an unclean stop had left small damage on {path}, which has been repaired");
                } else {
                    message = "in order after an unclean stop, the journal was replayed".to_owned();
                }
            }
            sb.bytes
        }
        Contents::Foreign => {
            return Err(Error::Data {
                partition: path.to_owned(),
                reason: "it is neither blank nor an ext4 file system, so it was left untouched; save what is on it, then blank its first MiB"
                    .to_owned(),
            });
        }
    };
    if let Err(first) = mount_ext4(path) {
        if checked || state == DataState::Made {
            return Err(first);
        }
        // The superblock looked clean, the rest is not.
        check(path)?;
        mount_ext4(path)?;
        state = DataState::Repaired;
        message = format!("{path} could not be mounted and has been repaired");
    }
    if size.saturating_sub(fs_bytes) >= GROW_FROM {
        match grow(path) {
            Ok(()) => message = format!("{message}; grown to {} MiB", size >> 20),
            // Smaller than it could be, but usable.
            Err(e) => message = format!("{message}; not grown to {} MiB: {e}", size >> 20),
        }
    }
    Ok(Data { state, var_kept: true, message })
}

fn mount_ext4(path: &str) -> Result<(), Error> {
    let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
    // commit: up to 15 s of changes that nobody asked to be synced may be lost, for fewer writes. A
    // file system whose journal the checker had to remove takes no such option.
    let contents = File::open(path).and_then(ext4::probe).doing(|| format!("reading {path}"))?;
    let options = match contents {
        Contents::Ext4(Superblock { has_journal: false, .. }) => c"errors=remount-ro",
        _ => c"errors=remount-ro,commit=15",
    };
    mount(path, "/data", "ext4", flags, options).doing(|| format!("mounting {path} on /data"))
}

fn make(path: &str, size: u64) -> Result<(), Error> {
    let mut arguments = vec!["-q", "-F", "-t", "ext4", "-L", "lucid-data", "-m", "1"];
    // The inode tables are zeroed later by the kernel; the journal, which is small, at once.
    arguments.extend(["-E", "lazy_itable_init=1,lazy_journal_init=0,nodiscard"]);
    if size >= FIXED_JOURNAL_FROM {
        arguments.extend(["-J", "size=32"]);
    }
    arguments.push(path);
    let Outcome { code, said } = tool::run("/usr/sbin/mke2fs", &arguments, MAKE_LIMIT)?;
    if code != Some(0) {
        return Err(failed(&format!("mke2fs {path}"), code, &said));
    }
    Ok(())
}

/// Checks and repairs. `true`: something had to be repaired. Exit codes: e2fsck(8), a sum of
/// 1 repaired, 2 repaired and reboot (nothing is mounted here), 4 not repaired, 8 and more: failed.
fn check(path: &str) -> Result<bool, Error> {
    let first = tool::run("/usr/sbin/e2fsck", &["-p", path], CHECK_LIMIT)?;
    log::info(&format!("e2fsck -p: {}", first.said));
    match first.code {
        // Replaying the journal alone is 0.
        Some(0) => return Ok(false),
        Some(1..=3) => return Ok(true),
        // 4: needs decisions; 8: not even its superblock is readable, -y tries the copies.
        Some(4..=8) => {}
        code => return Err(failed(&format!("e2fsck -p {path}"), code, &first.said)),
    }
    let second = tool::run("/usr/sbin/e2fsck", &["-y", path], CHECK_LIMIT)?;
    log::info(&format!("e2fsck -y: {}", second.said));
    match second.code {
        Some(0..=3) => Ok(true),
        code => Err(failed(&format!("e2fsck -y {path}"), code, &second.said)),
    }
}

/// Grows the mounted file system to its partition.
fn grow(path: &str) -> Result<(), Error> {
    let Outcome { code, said } = tool::run("/usr/sbin/resize2fs", &[path], GROW_LIMIT)?;
    if code == Some(0) { Ok(()) } else { Err(failed(&format!("resize2fs {path}"), code, &said)) }
}

fn failed(tool: &str, code: Option<i32>, said: &str) -> Error {
    let how = code.map_or_else(|| "ended by a signal".to_owned(), |c| format!("exit code {c}"));
    Error::Tool { tool: tool.to_owned(), reason: format!("{how}: {said}") }
}

/// What [`lay_out`] came to.
struct LaidOut {
    /// What changes in `/var` goes to `/data`.
    var_on_data: bool,
    /// What went to memory instead, in a sentence.
    problem: Option<String>,
}

/// Binds `/data/var` and the machine id to their places. What the data partition cannot hold goes to
/// memory; the returned sentence says so.
fn lay_out() -> Result<LaidOut, Error> {
    make_dir("/run/lucid", 0o755)?;
    let mut problems = Vec::new();
    let mut var_on_data = false;
    match make_dirs("/data/var") {
        Ok(()) if is_full()? => match overlay_var() {
            Ok(()) => problems.push(
                "the data partition is full: what changes in /var is in memory until there is space"
                    .to_owned(),
            ),
            Err(e) => {
                memory_var()?;
                problems.push(format!("the data partition is full and /var is empty and in memory: {e}"));
            }
        },
        Ok(()) => {
            mount_bind("/data/var", "/var").doing(|| "binding /data/var to /var".to_owned())?;
            var_on_data = true;
        }
        Err(e) => {
            memory_var()?;
            problems.push(format!("/var is empty and in memory: {e}"));
        }
    }
    if let Err(e) = bind_machine_id("/data/etc") {
        match bind_machine_id("/run/lucid/etc") {
            Ok(()) => problems.push(format!("the machine id is new and lost at power-off: {e}")),
            Err(again) => problems.push(format!("there is no machine id: {e}; {again}")),
        }
    }
    let problem = (!problems.is_empty()).then(|| problems.join("; "));
    Ok(LaidOut { var_on_data, problem })
}

fn make_dirs(var: &str) -> Result<(), Error> {
    make_dir(var, 0o755)?;
    for (name, mode) in VAR_DIRS {
        let path = format!("{var}/{name}");
        if !Path::new(&path).exists() {
            make_dir(&path, mode)?;
            // The sticky bit and the umask: said again.
            chmod(&path, Mode::from_raw_mode(mode)).doing(|| format!("setting the mode of {path}"))?;
        }
    }
    Ok(())
}

fn is_full() -> Result<bool, Error> {
    let stat = statvfs("/data").doing(|| "asking for the free space of /data".to_owned())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) < FULL_BYTES || stat.f_ffree < FULL_INODES)
}

fn memory_var() -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/var", "tmpfs", flags, MEMORY_VAR).doing(|| "mounting memory on /var".to_owned())?;
    make_dirs("/var")
}

/// What is in `/data/var` stays readable (keys, above all); changes go to memory.
fn overlay_var() -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let base = "/run/lucid/var";
    make_dir(base, 0o700)?;
    mount("tmpfs", base, "tmpfs", flags, MEMORY_VAR).doing(|| format!("mounting memory on {base}"))?;
    make_dir("/run/lucid/var/upper", 0o755)?;
    make_dir("/run/lucid/var/work", 0o700)?;
    let options = c"lowerdir=/data/var,upperdir=/run/lucid/var/upper,workdir=/run/lucid/var/work";
    mount("overlay", "/var", "overlay", flags, options).doing(|| "overlaying /var with memory".to_owned())
}

/// Makes the machine id once (32 hexadecimal digits and a newline, as machine-id(5) describes) and
/// binds it over the empty file of the read-only root.
fn bind_machine_id(dir: &str) -> Result<(), Error> {
    make_dir(dir, 0o755)?;
    let path = format!("{dir}/machine-id");
    let mut bytes = Vec::new();
    let known = File::open(&path).and_then(|f| f.take(64).read_to_end(&mut bytes));
    if known.is_err() || !is_machine_id(&bytes) {
        let text = new_machine_id()?;
        let fresh = format!("{path}.new");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o444)
            .open(&fresh)
            .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
            .and_then(|()| fs::rename(&fresh, &path))
            .and_then(|()| File::open(dir)?.sync_all())
            .doing(|| format!("writing {path}"))?;
    }
    mount_bind(&path, "/etc/machine-id").doing(|| format!("binding {path} to /etc/machine-id"))
}

fn is_machine_id(bytes: &[u8]) -> bool {
    let Some(digits) = bytes.strip_suffix(b"\n") else { return false };
    digits.len() == 32
        && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && digits.iter().any(|b| *b != b'0')
}

fn new_machine_id() -> Result<String, Error> {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).doing(|| "asking the kernel for random bytes".to_owned()),
        }
    }
    // A version 4 UUID, as systemd makes it.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_machine_id_is_valid_and_another_one_each_time() {
        let (one, two) = (new_machine_id().unwrap(), new_machine_id().unwrap());
        assert!(is_machine_id(one.as_bytes()) && is_machine_id(two.as_bytes()));
        assert_ne!(one, two);
        assert_eq!(one.as_bytes()[12], b'4');
    }

    #[test]
    fn a_damaged_machine_id_is_not_accepted() {
        let bad: [&[u8]; 6] = [
            b"",
            b"0123456789abcdef0123456789abcdef",
            b"0123456789abcdef0123456789abcde\n",
            b"0123456789ABCDEF0123456789abcdef\n",
            b"00000000000000000000000000000000\n",
            b"uninitialized\n",
        ];
        for text in bad {
            assert!(!is_machine_id(text), "{text:?}");
        }
    }
}
