//! The two slots, and the ways in which the boot firmware is told which one to start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use lucid_release_format::Kind;
use serde::{Deserialize, Serialize};

use crate::{
    autoboot,
    disk::Disk,
    error::{At, Error, Result},
    usb,
};

/// systemd starts `reboot.target` on SIGRTMIN+5 (systemd(1), "Signals"). It counts from the C library that it was built
/// with, glibc, where SIGRTMIN is 34; musl, which this is built with, has 35.
const REBOOT: i32 = 34 + 5;
/// What systemd gives to the kernel with the restart (systemctl(1), `--reboot-argument=`).
pub const REBOOT_ARGUMENT: &str = "/run/systemd/reboot-param";
/// The argument that the Raspberry Pi kernel passes on to the firmware as a one-shot try.
const TRY: &str = "0 tryboot";
/// What the machine is, as the firmware tells the kernel: strings with a zero byte after each (Devicetree Specification 0.4,
/// 2.3.1).
pub const COMPATIBLE: &str = "/proc/device-tree/compatible";
/// When the boot firmware in the EEPROM was built, as it tells the kernel: seconds since 1970, u32, big-endian.
pub const EEPROM_BUILT: &str = "/proc/device-tree/chosen/bootloader/build-timestamp";
/// 2025-08-27T00:00:00Z: of that day is the first one whose tries can be relied upon.
const EEPROM_SINCE: u32 = 1_756_252_800;
/// The partition of the disk that plays the firmware in QEMU.
pub const FIRMWARE: &str = "firmware";
/// Why nothing is installed where what is kept does not last. lucid-init's message says more.
pub const IN_MEMORY: &str = "what is kept is in memory, because the data partition is full or cannot be used";
/// `boot.json` and the boot's id have at most so many bytes.
const MAX_BYTES: u64 = 64 << 10;

/// One of the two systems on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// Boot partition 2, root partition 4.
    A,
    /// Boot partition 3, root partition 5.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `a` or `b`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Its boot partition's number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::A => 2,
            Self::B => 3,
        }
    }

    /// The name of one of its partitions in the partition table.
    #[must_use]
    pub fn partition(self, kind: Kind) -> String {
        format!("{kind}-{}", self.name())
    }
}

/// What the firmware started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booted {
    /// Which slot.
    pub slot: Slot,
    /// Whether it is a one-shot try.
    pub tried: bool,
    /// Whether what is written into `/var` is there after a restart.
    pub kept: bool,
}

impl Booted {
    /// Whether anything may be installed: what is not kept over a restart is done again after it, without an end.
    ///
    /// # Errors
    /// When what is kept is in memory.
    pub fn may_install(self) -> Result<()> {
        if self.kept { Ok(()) } else { Err(Error::Nothing(format!("{IN_MEMORY}: nothing is installed"))) }
    }
}

/// How the boot firmware is asked and told.
pub trait BootControl: Send + Sync {
    /// What it started.
    ///
    /// # Errors
    /// When that cannot be read.
    fn booted(&self) -> Result<Booted>;
    /// The kernel's id of this boot.
    ///
    /// # Errors
    /// When it cannot be read.
    fn boot_id(&self) -> Result<String>;
    /// Whether it is one whose tries can be relied upon.
    ///
    /// # Errors
    /// When it is too old, or does not say how old it is, with what to do.
    fn new_enough(&self) -> Result<()>;
    /// Which slot it starts when nobody asks for a try.
    ///
    /// # Errors
    /// When that cannot be read.
    fn default(&self) -> Result<Slot>;
    /// Lets it start this slot from now on; durable when this is done.
    ///
    /// # Errors
    /// When it cannot be written; then the old choice or the new one holds.
    fn set_default(&self, slot: Slot) -> Result<()>;
    /// Lets the next restart, and no other, start this slot.
    ///
    /// # Errors
    /// When it cannot be armed.
    fn arm(&self, slot: Slot) -> Result<()>;
    /// Restarts the machine in order. Returns before that.
    ///
    /// # Errors
    /// When nobody could be asked.
    fn restart(&self) -> Result<()>;
}

/// What arms a try.
#[derive(Clone, Debug)]
pub enum Arming {
    /// A Raspberry Pi: the argument of the restart, which systemd takes from this file.
    Pi {
        /// [`REBOOT_ARGUMENT`].
        argument: PathBuf,
    },
    /// QEMU: a file `tryboot` on the FAT of the disk that plays the firmware.
    StandIn {
        /// That FAT's partition.
        firmware: PathBuf,
    },
}

impl Arming {
    /// That of this machine, by its device tree ([`COMPATIBLE`]): a Raspberry Pi says so; anything else is the stand-in, which
    /// has its partition below `sys` (`/sys/class/block`).
    ///
    /// # Errors
    /// When the device tree cannot be read, or a machine that is no Raspberry Pi has no such partition.
    pub fn find(compatible: &Path, sys: &Path) -> Result<Self> {
        let said = match bytes(compatible) {
            // A machine without a device tree is no Raspberry Pi.
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            said => said?,
        };
        if said.split(|byte| *byte == 0).any(|name| name.starts_with(b"raspberrypi,")) {
            return Ok(Self::Pi { argument: REBOOT_ARGUMENT.into() });
        }
        match partition(sys, None, FIRMWARE) {
            Ok(firmware) => Ok(Self::StandIn { firmware }),
            Err(Error::NoPartition { place, .. }) => Err(Error::NoFirmware { place }),
            Err(error) => Err(error),
        }
    }
}

/// This machine.
pub struct Machine {
    /// What lucid-init found (`/run/lucid/boot.json`).
    pub boot: PathBuf,
    /// The partition of `autoboot.txt`.
    pub select: Arc<dyn Disk>,
    /// What arms a try.
    pub arming: Arming,
    /// Where it says when it was built: [`EEPROM_BUILT`].
    pub built: PathBuf,
}

/// What is needed of `boot.json`.
#[derive(Deserialize)]
struct Found {
    slot: Slot,
    tryboot: bool,
    /// An older one does not have it.
    data: Option<Data>,
}

/// What is needed of what became of the data partition.
#[derive(Deserialize)]
struct Data {
    var_kept: bool,
}

/// What lucid-init found, from `boot.json`.
///
/// # Errors
/// When it cannot be read.
pub fn booted(boot: &Path) -> Result<Booted> {
    let Found { slot, tryboot, data } = json(boot)?;
    Ok(Booted { slot, tried: tryboot, kept: data.is_none_or(|data| data.var_kept) })
}

/// Asks the service manager to restart the machine. Returns before that.
///
/// # Errors
/// When it could not be asked.
#[allow(unsafe_code)]
pub fn restart() -> Result<()> {
    // SAFETY: kill(2) takes two numbers and touches no memory of this process.
    if unsafe { libc::kill(1, REBOOT) } == 0 {
        Ok(())
    } else {
        Err(Error::Restart(io::Error::last_os_error()))
    }
}

/// The boot disk's device file, from `boot.json`.
///
/// # Errors
/// When it cannot be read.
pub fn disk(boot: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Found {
        disk: PathBuf,
    }
    Ok(json::<Found>(boot)?.disk)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&bytes(path)?)
        .map_err(|error| Error::Invalid { path: path.to_owned(), why: error.to_string() })
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)).at("reading", path)?;
    Ok(bytes)
}

impl BootControl for Machine {
    fn booted(&self) -> Result<Booted> {
        booted(&self.boot)
    }

    fn boot_id(&self) -> Result<String> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        Ok(String::from_utf8_lossy(&bytes(path)?).trim().to_owned())
    }

    fn new_enough(&self) -> Result<()> {
        // QEMU's stand-in says it as well; one that does not say it is no Raspberry Pi's.
        let stands_in = matches!(self.arming, Arming::StandIn { .. });
        let why = match bytes(&self.built).map(|bytes| <[u8; 4]>::try_from(bytes).map(u32::from_be_bytes)) {
            Ok(Ok(built)) if built >= EEPROM_SINCE => return Ok(()),
            Ok(Ok(built)) => format!("it was built on {}", day(built)),
            Ok(Err(bytes)) => {
                format!("{} has {} bytes and not 4", self.built.display(), bytes.len())
            }
            Err(Error::File { source, .. }) if stands_in && source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(error) => format!("it does not say when it was built ({error})"),
        };
        Err(Error::Eeprom { why, since: day(EEPROM_SINCE) })
    }

    fn default(&self) -> Result<Slot> {
        autoboot::read(&*self.select)
    }

    fn set_default(&self, slot: Slot) -> Result<()> {
        autoboot::write(&*self.select, slot)
    }

    fn arm(&self, slot: Slot) -> Result<()> {
        if slot == self.default()? {
            let why = "it is the slot that boots anyway, and a try starts the other one".to_owned();
            return Err(Error::Arm { slot: slot.name(), why });
        }
        match &self.arming {
            Arming::Pi { argument } => {
                if let Some(dir) = argument.parent() {
                    fs::create_dir_all(dir).at("making", dir)?;
                }
                fs::write(argument, TRY).at("writing", argument)
            }
            Arming::StandIn { firmware } => flag(firmware).at("arming a try on", firmware),
        }
    }

    fn restart(&self) -> Result<()> {
        restart()
    }
}

/// The day of a time in seconds since 1970, as in 2025-08-27.
fn day(at: u32) -> String {
    let time = jiff::Timestamp::from_second(at.into());
    time.map_or_else(|error| error.to_string(), |time| time.to_string().chars().take(10).collect())
}

/// Leaves the file by which the stand-in starts a try.
fn flag(firmware: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(firmware)?;
    let disk = file.try_clone()?;
    let fs = fatfs::FileSystem::new(file, fatfs::FsOptions::new())?;
    {
        let root = fs.root_dir();
        let mut flag = root.create_file("tryboot")?;
        flag.truncate()?;
        flag.write_all(b"1\n")?;
        flag.flush()?;
    }
    fs.unmount()?;
    disk.sync_all()
}

/// The device file of a partition by its name in the partition table, as the kernel shows it below `sys`
/// (`/sys/class/block`); on this disk, or on any that is no USB stick when none is given.
///
/// # Errors
/// When there is none of that name.
pub fn partition(sys: &Path, disk: Option<&Path>, name: &str) -> Result<PathBuf> {
    let disk = disk.and_then(Path::file_name);
    let dir = disk.map_or_else(|| sys.to_owned(), |disk| sys.join(disk));
    for entry in fs::read_dir(&dir).at("reading", &dir)? {
        let entry = entry.at("reading", &dir)?;
        // A stranger's stick may have partitions of any name.
        if disk.is_none() && fs::canonicalize(entry.path()).is_ok_and(|real| usb::is_usb(&real)) {
            continue;
        }
        // What is no partition has no such file.
        let Ok(about) = fs::read_to_string(entry.path().join("uevent")) else { continue };
        if about.lines().any(|line| line.strip_prefix("PARTNAME=") == Some(name)) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(Error::NoPartition { name: name.to_owned(), place: format!("in {}", dir.display()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_found_by_their_names_on_the_disk_that_was_booted() {
        let sys = tempfile::tempdir().unwrap();
        for (disk, part, name) in
            [("vda", "vda1", "firmware"), ("vdb", "vdb3", "boot-b"), ("vdb", "vdb5", "root-b")]
        {
            for dir in [sys.path().join(disk).join(part), sys.path().join(part)] {
                fs::create_dir_all(&dir).unwrap();
                let about = format!("MAJOR=254\nDEVNAME={part}\nDEVTYPE=partition\nPARTNAME={name}\n");
                fs::write(dir.join("uevent"), about).unwrap();
            }
        }
        let disk = Path::new("/dev/vdb");
        let found = partition(sys.path(), Some(disk), &Slot::B.partition(Kind::Root)).unwrap();
        assert_eq!(found, Path::new("/dev/vdb5"));
        assert_eq!(partition(sys.path(), None, "firmware").unwrap(), Path::new("/dev/vda1"));
        assert!(matches!(partition(sys.path(), Some(disk), "boot-a"), Err(Error::NoPartition { .. })));
    }

    #[test]
    fn a_raspberry_pi_is_known_by_its_device_tree_and_anything_else_needs_the_stand_in() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, sys) = (dir.path().join("compatible"), dir.path().join("sys"));
        fs::create_dir_all(sys.join("vda1")).unwrap();
        let find = || Arming::find(&tree, &sys);
        assert!(matches!(find().unwrap_err(), Error::NoFirmware { .. }));
        for said in [&b""[..], b"linux,dummy-virt\0", b"other,raspberrypi,5\0"] {
            fs::write(&tree, said).unwrap();
            let error = find().unwrap_err();
            assert!(matches!(&error, Error::NoFirmware { .. }), "{error}");
            assert!(error.to_string().contains("--firmware"), "{error}");
        }
        fs::remove_file(&tree).unwrap();
        fs::write(sys.join("vda1/uevent"), "PARTNAME=firmware\n").unwrap();
        assert!(
            matches!(find().unwrap(), Arming::StandIn { firmware } if firmware == Path::new("/dev/vda1"))
        );
        // The partition of a disk that was plugged in says nothing.
        fs::write(&tree, b"raspberrypi,5-model-b\0brcm,bcm2712\0").unwrap();
        assert!(matches!(find().unwrap(), Arming::Pi { .. }));
    }

    #[test]
    fn a_boot_firmware_that_is_too_old_or_does_not_say_how_old_it_is_is_refused_with_what_to_do() {
        struct Nothing;
        impl Disk for Nothing {
            fn size(&self) -> io::Result<u64> {
                Ok(0)
            }

            fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }

            fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
                Err(io::ErrorKind::ReadOnlyFilesystem.into())
            }

            fn sync(&self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("build-timestamp");
        let machine = |arming| Machine {
            boot: PathBuf::new(),
            select: Arc::new(Nothing),
            arming,
            built: built.clone(),
        };
        let pi = machine(Arming::Pi { argument: PathBuf::new() });
        let stand_in = machine(Arming::StandIn { firmware: PathBuf::new() });
        let why = |machine: &Machine| machine.new_enough().unwrap_err().to_string();
        assert!(why(&pi).contains("it does not say when it was built"), "{}", why(&pi));
        stand_in.new_enough().unwrap();
        for (bytes, said) in [
            // A day earlier to the second, and one of 2024.
            (&[0x68_u8, 0xae, 0x4a, 0x7f][..], "it was built on 2025-08-26"),
            (&[0x66, 0x00, 0x00, 0x00][..], "it was built on 2024-03-24"),
            (&[0x68, 0xae, 0x4a][..], "3 bytes and not 4"),
            (&[0; 8][..], "8 bytes and not 4"),
        ] {
            fs::write(&built, bytes).unwrap();
            for machine in [&pi, &stand_in] {
                let why = why(machine);
                assert!(why.contains(said) && why.contains("rpi-eeprom-update"), "{why}");
            }
        }
        for bytes in [[0x68_u8, 0xae, 0x4a, 0x80], [0xff; 4]] {
            fs::write(&built, bytes).unwrap();
            pi.new_enough().unwrap();
            stand_in.new_enough().unwrap();
        }
    }

    #[test]
    fn boot_json_of_lucid_init_is_understood() {
        let path =
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../rust/lucid-init/tests/golden/boot.json"));
        assert_eq!(booted(path).unwrap(), Booted { slot: Slot::B, tried: true, kept: false });
        assert_eq!(disk(path).unwrap(), Path::new("/dev/vda"));
    }

    #[test]
    fn a_boot_json_that_does_not_say_whether_var_is_kept_is_of_a_system_that_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot.json");
        for (data, kept) in [
            ("", true),
            (r#","data":{"state":"ok","var_kept":true,"message":"m"}"#, true),
            (r#","data":{"state":"ok","var_kept":false,"message":"m"}"#, false),
        ] {
            fs::write(&path, format!(r#"{{"slot":"a","tryboot":false{data}}}"#)).unwrap();
            assert_eq!(booted(&path).unwrap(), Booted { slot: Slot::A, tried: false, kept }, "{data}");
        }
    }
}
