//! Text for every console that the kernel uses: the screen and the serial line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// The kernel's list of consoles.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// A serial line whose other side does not read is given up after this time.
const LIMIT: Duration = Duration::from_secs(10);

/// The devices of all consoles.
pub fn active() -> io::Result<Vec<PathBuf>> {
    Ok(devices(&fs::read_to_string(ACTIVE)?))
}

/// From the kernel's list, such as `tty0 ttyAMA0`.
fn devices(list: &str) -> Vec<PathBuf> {
    list.split_ascii_whitespace()
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric()))
        .map(|name| Path::new("/dev").join(name))
        .collect()
}

/// Writes to every one of them. The errors are those of the consoles that did not take it.
pub fn write_all(consoles: &[PathBuf], text: &str) -> Vec<(PathBuf, io::Error)> {
    let write = |path: &PathBuf| {
        let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32;
        let file = OpenOptions::new().append(true).custom_flags(flags).open(path)?;
        write_bounded(&file, text.as_bytes())
    };
    consoles.iter().filter_map(|path| write(path).err().map(|e| (path.clone(), e))).collect()
}

fn write_bounded(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
                if left.is_zero() || poll(&mut [PollFd::new(&file, PollFlags::OUT)], Some(&timeout))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_gives_device_files_and_nothing_outside_dev() {
        let wanted = [PathBuf::from("/dev/tty0"), PathBuf::from("/dev/ttyAMA0")];
        assert_eq!(devices("tty0 ttyAMA0\n"), wanted);
        assert!(devices("../etc/passwd").is_empty());
    }

    #[test]
    fn a_console_that_fails_is_named_and_the_others_are_written() {
        let good = tempfile::NamedTempFile::new().unwrap();
        let paths = [PathBuf::from("/nowhere/tty9"), good.path().to_owned()];
        let failed = write_all(&paths, "text\n");
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0, paths[0]);
        assert_eq!(fs::read_to_string(good.path()).unwrap(), "text\n");
    }
}
