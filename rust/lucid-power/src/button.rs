//! Finds the input devices that have a power key and waits for somebody to press one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// `EV_KEY` (Linux `include/uapi/linux/input-event-codes.h`).
const EV_KEY: u16 = 1;
/// `KEY_POWER`.
const KEY_POWER: u16 = 116;
/// The value of a key event when the key goes down; 0 is up, 2 is repeated.
const PRESSED: i32 = 1;
/// `sizeof(struct input_event)` on 64-bit machines: two 64-bit numbers of time, type, code, value.
const EVENT_BYTES: usize = 24;

/// Something that cannot be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The directory of the input devices cannot be watched.
    #[error("watching {path} for input devices: {source}", path = path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("waiting for the power key: {0}")]
    Wait(io::Error),
    /// The service manager could not be told.
    #[error("asking the service manager (process 1) to power off: {0}; the unit must grant CAP_KILL")]
    Signal(io::Error),
}

/// Whether a run of `struct input_event` holds a press of the power key. An incomplete event at the
/// end does not count; the kernel never gives one.
pub(crate) fn holds_press(bytes: &[u8]) -> bool {
    bytes.chunks_exact(EVENT_BYTES).any(|event| {
        let kind = u16::from_ne_bytes([event[16], event[17]]);
        let code = u16::from_ne_bytes([event[18], event[19]]);
        let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
        kind == EV_KEY && code == KEY_POWER && value == PRESSED
    })
}

/// Whether a device can report the power key, from its `capabilities/key` in `/sys`: hexadecimal
/// numbers of 64 bits, the last one holds the keys 0 to 63.
pub(crate) fn has_power_key(capabilities: &str) -> bool {
    let (word, bit) = (usize::from(KEY_POWER) / 64, u32::from(KEY_POWER) % 64);
    capabilities
        .split_ascii_whitespace()
        .rev()
        .nth(word)
        .and_then(|w| u64::from_str_radix(w, 16).ok())
        .is_some_and(|w| w >> bit & 1 == 1)
}

/// All power keys of the machine.
pub(crate) struct Buttons {
    devices: PathBuf,
    sys: PathBuf,
    open: BTreeMap<PathBuf, File>,
    watch: OwnedFd,
}

impl Buttons {
    /// `devices` is `/dev/input`, `sys` is `/sys/class/input`. `devices` need not be there yet, its
    /// parent must be.
    pub(crate) fn find(devices: &Path, sys: &Path) -> Result<Self, Error> {
        let error = |source: io::Error| Error::Watch { path: devices.to_owned(), source };
        let watch =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| error(e.into()))?;
        let mut buttons =
            Self { devices: devices.to_owned(), sys: sys.to_owned(), open: BTreeMap::new(), watch };
        buttons.look()?;
        Ok(buttons)
    }

    /// How many devices are read.
    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// Watches what is there to watch, then opens what is new: in this order nothing is missed.
    fn look(&mut self) -> Result<(), Error> {
        let error =
            |path: &Path, source: Errno| Error::Watch { path: path.to_owned(), source: source.into() };
        // ATTRIB: a device may get its permissions after it was made.
        let flags = WatchFlags::CREATE | WatchFlags::ATTRIB;
        match inotify::add_watch(&self.watch, &self.devices, flags) {
            Ok(_) => {}
            Err(Errno::NOENT) => {
                let parent = self.devices.parent().unwrap_or(Path::new("/"));
                inotify::add_watch(&self.watch, parent, WatchFlags::CREATE).map_err(|e| error(parent, e))?;
                // Made in between?
                match inotify::add_watch(&self.watch, &self.devices, flags) {
                    Ok(_) => {}
                    Err(Errno::NOENT) => return Ok(()),
                    Err(e) => return Err(error(&self.devices, e)),
                }
            }
            Err(e) => return Err(error(&self.devices, e)),
        }
        let listing = fs::read_dir(&self.devices)
            .map_err(|source| Error::Watch { path: self.devices.clone(), source })?;
        for entry in listing.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if self.open.contains_key(&path) || !name.to_string_lossy().starts_with("event") {
                continue;
            }
            let mut text = String::new();
            let known = File::open(self.sys.join(&name).join("device/capabilities/key"))
                .and_then(|f| f.take(4096).read_to_string(&mut text));
            if known.is_err() || !has_power_key(&text) {
                continue;
            }
            let flags = OFlags::NONBLOCK.bits() as i32;
            match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
                Ok(file) => {
                    self.open.insert(path, file);
                }
                Err(e) => eprintln!("lucid-power: opening {}: {e}", path.display()),
            }
        }
        Ok(())
    }

    /// Sleeps until a power key is pressed or a device came or went. `true`: pressed.
    pub(crate) fn wait(&mut self) -> Result<bool, Error> {
        let ready: Vec<bool> = {
            let mut fds = vec![PollFd::new(&self.watch, PollFlags::IN)];
            fds.extend(self.open.values().map(|f| PollFd::from_borrowed_fd(f.as_fd(), PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => return Ok(false),
                Err(e) => return Err(Error::Wait(e.into())),
            }
            fds.iter().map(|f| !f.revents().is_empty()).collect()
        };
        let (mut pressed, mut gone) = (false, Vec::new());
        for ((path, file), _) in self.open.iter_mut().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let mut bytes = [0u8; EVENT_BYTES * 32];
            match file.read(&mut bytes) {
                Ok(0) => gone.push(path.clone()),
                Ok(n) => pressed |= holds_press(&bytes[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // The device was unplugged (ENODEV), or is of no use any more.
                Err(_) => gone.push(path.clone()),
            }
        }
        for path in gone {
            self.open.remove(&path);
        }
        if ready[0] {
            self.drain()?;
            self.look()?;
        }
        Ok(pressed)
    }

    /// What happened in the directory does not matter, only that something did.
    fn drain(&self) -> Result<(), Error> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        loop {
            match events.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(Error::Wait(e.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    /// As the kernel of a little-endian 64-bit machine writes it: seconds, microseconds, type, code, value.
    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0x10, 0x32, 0x54, 0x66, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_golden_bytes_of_a_press_are_a_press() {
        let golden: [u8; 24] =
            [0x10, 0x32, 0x54, 0x66, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x74, 0, 1, 0, 0, 0];
        assert_eq!(event(1, 116, 1), golden);
        assert!(holds_press(&golden));
    }

    #[test]
    fn release_repeat_other_keys_and_other_events_are_not_a_press() {
        for (kind, code, value) in [(1, 116, 0), (1, 116, 2), (1, 115, 1), (2, 116, 1), (0, 0, 0)] {
            assert!(!holds_press(&event(kind, code, value)), "{kind} {code} {value}");
        }
        assert!(!holds_press(&event(1, 116, 1)[..23]));
        assert!(!holds_press(&[]));
        let run = [event(1, 30, 1), event(0, 0, 0), event(1, 116, 1), event(0, 0, 0)].concat();
        assert!(holds_press(&run));
    }

    #[test]
    fn the_power_key_is_found_in_the_capabilities() {
        // gpio-keys of QEMU's virt machine (KEY_POWER only), and a PC's AT keyboard.
        assert!(has_power_key("10000000000000 0\n"));
        assert!(has_power_key("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe\n"));
        // A mouse, nothing, and nonsense.
        assert!(!has_power_key("1f0000 0 0 0 0\n"));
        assert!(!has_power_key("0\n"));
        assert!(!has_power_key(""));
        assert!(!has_power_key("power key\n"));
        assert!(!has_power_key("fffffffffffffffff 0"));
    }

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            fs::create_dir(machine.0.path().join("dev")).unwrap();
            machine
        }

        fn devices(&self) -> PathBuf {
            self.0.path().join("dev/input")
        }

        fn sys(&self) -> PathBuf {
            self.0.path().join("sys")
        }

        /// A device as a FIFO; the returned end writes its events.
        fn plug(&self, name: &str, keys: &str) -> File {
            let capabilities = self.sys().join(name).join("device/capabilities");
            fs::create_dir_all(&capabilities).unwrap();
            fs::write(capabilities.join("key"), keys).unwrap();
            fs::create_dir_all(self.devices()).unwrap();
            let path = self.devices().join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            OpenOptions::new().read(true).write(true).open(path).unwrap()
        }
    }

    #[test]
    fn a_press_is_seen_on_a_device_that_was_there() {
        let machine = Machine::new();
        let mut power = machine.plug("event0", "10000000000000 0");
        let _mouse = machine.plug("event1", "1f0000 0 0 0 0");
        let mut buttons = Buttons::find(&machine.devices(), &machine.sys()).unwrap();
        assert_eq!(buttons.count(), 1);
        power.write_all(&event(1, 116, 0)).unwrap();
        assert!(!buttons.wait().unwrap());
        power.write_all(&event(1, 116, 1)).unwrap();
        assert!(buttons.wait().unwrap());
    }

    #[test]
    fn a_device_that_comes_late_is_found_even_when_the_directory_is_late() {
        let machine = Machine::new();
        let mut buttons = Buttons::find(&machine.devices(), &machine.sys()).unwrap();
        assert_eq!(buttons.count(), 0);
        let mut power = machine.plug("event7", "10000000000000 0");
        while buttons.count() == 0 {
            assert!(!buttons.wait().unwrap());
        }
        power.write_all(&event(1, 116, 1)).unwrap();
        while !buttons.wait().unwrap() {}
    }

    #[test]
    fn a_device_that_goes_is_forgotten() {
        let machine = Machine::new();
        let power = machine.plug("event0", "10000000000000 0");
        let mut buttons = Buttons::find(&machine.devices(), &machine.sys()).unwrap();
        assert_eq!(buttons.count(), 1);
        drop(power);
        fs::remove_file(machine.devices().join("event0")).unwrap();
        while buttons.count() > 0 {
            assert!(!buttons.wait().unwrap());
        }
    }
}
