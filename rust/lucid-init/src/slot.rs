//! Which of the two systems the boot firmware started.
//!
//! The firmware leaves its answer in the device tree: `/chosen/bootloader/partition`,
//! `/chosen/bootloader/tryboot` and, on a Raspberry Pi, `/chosen/bootloader/boot-mode`; each is one
//! 32-bit big-endian number.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::error::Error;

/// One of the two systems on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Boot partition 2, root partition 4.
    A,
    /// Boot partition 3, root partition 5.
    B,
}

impl Slot {
    /// Its name in `boot.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Its root partition's name in the partition table.
    pub(crate) fn root_name(self) -> &'static str {
        match self {
            Self::A => "root-a",
            Self::B => "root-b",
        }
    }

    /// Its root partition's number.
    pub(crate) fn root_number(self) -> u32 {
        match self {
            Self::A => 4,
            Self::B => 5,
        }
    }
}

/// What the firmware's boot medium is, from `boot-mode` (the digits of the EEPROM's `BOOT_ORDER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// SD card or eMMC (1).
    Sd,
    /// USB mass storage (4, 5).
    Usb,
    /// NVMe (6).
    Nvme,
    /// Not told, or something else: any disk will do.
    Any,
}

impl Medium {
    /// Whether a disk of this name (as in `/sys/class/block`) can be the medium.
    pub(crate) fn fits(self, disk: &str) -> bool {
        match self {
            Self::Sd => disk.starts_with("mmcblk"),
            Self::Usb => disk.starts_with("sd"),
            Self::Nvme => disk.starts_with("nvme"),
            Self::Any => true,
        }
    }
}

/// What the firmware said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Booted {
    /// The slot.
    pub(crate) slot: Slot,
    /// The boot partition's number.
    pub(crate) partition: u32,
    /// Whether this is a one-shot try.
    pub(crate) tryboot: bool,
    /// Where the firmware read the boot partition from.
    pub(crate) medium: Medium,
}

impl Booted {
    /// Reads the properties in `dir` (`/proc/device-tree/chosen/bootloader`).
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let partition = required(dir, "partition")?;
        let slot = match partition {
            2 => Slot::A,
            3 => Slot::B,
            other => return Err(wrong(format!("the firmware says boot partition {other}, not 2 or 3"))),
        };
        let tryboot = match required(dir, "tryboot")? {
            0 => false,
            1 => true,
            other => return Err(wrong(format!("the firmware says tryboot {other}, not 0 or 1"))),
        };
        let medium = match property(dir, "boot-mode")? {
            Some(1) => Medium::Sd,
            Some(4 | 5) => Medium::Usb,
            Some(6) => Medium::Nvme,
            _ => Medium::Any,
        };
        Ok(Self { slot, partition, tryboot, medium })
    }
}

fn required(dir: &Path, name: &str) -> Result<u32, Error> {
    property(dir, name)?.ok_or_else(|| wrong(format!("{} is missing", dir.join(name).display())))
}

fn property(dir: &Path, name: &str) -> Result<Option<u32>, Error> {
    let path = dir.join(name);
    let mut bytes = Vec::with_capacity(5);
    match File::open(&path).and_then(|f| f.take(5).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrong(format!("{}: {e}", path.display()))),
    }
    let number = <[u8; 4]>::try_from(&bytes[..])
        .map_err(|_| wrong(format!("{} does not hold 4 bytes", path.display())))?;
    Ok(Some(u32::from_be_bytes(number)))
}

fn wrong(reason: String) -> Error {
    Error::Slot { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    type Files<'a> = &'a [(&'a str, &'a [u8])];

    fn tree(files: Files<'_>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn the_slot_and_the_try_are_read_big_endian() {
        let dir =
            tree(&[("partition", &[0, 0, 0, 3]), ("tryboot", &[0, 0, 0, 1]), ("boot-mode", &[0, 0, 0, 6])]);
        let booted = Booted::read(dir.path()).unwrap();
        assert_eq!(booted, Booted { slot: Slot::B, partition: 3, tryboot: true, medium: Medium::Nvme });
        assert!(booted.medium.fits("nvme0n1") && !booted.medium.fits("sda"));
    }

    #[test]
    fn without_a_boot_mode_any_disk_fits() {
        let dir = tree(&[("partition", &[0, 0, 0, 2]), ("tryboot", &[0; 4])]);
        let booted = Booted::read(dir.path()).unwrap();
        assert_eq!(booted, Booted { slot: Slot::A, partition: 2, tryboot: false, medium: Medium::Any });
        assert!(booted.medium.fits("vda"));
    }

    #[test]
    fn a_missing_or_odd_property_is_refused_by_name() {
        let two: &[u8] = &[0, 0, 0, 2];
        let zero: &[u8] = &[0; 4];
        let cases: [(Files<'_>, &str); 5] = [
            (&[("tryboot", zero)], "partition is missing"),
            (&[("partition", two)], "tryboot is missing"),
            (&[("partition", &[2, 0, 0, 0]), ("tryboot", zero)], "boot partition 33554432"),
            (&[("partition", two), ("tryboot", &[0, 0, 1])], "tryboot does not hold 4 bytes"),
            (&[("partition", &[0, 0, 0, 2, 0]), ("tryboot", zero)], "partition does not hold 4 bytes"),
        ];
        for (files, part) in cases {
            let dir = tree(files);
            let message = Booted::read(dir.path()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
