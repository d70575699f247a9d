//! Finding the boot disk: `/sys/class/block` says what is there, the kernel's uevent socket says
//! when to look again, so nothing is polled.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::error::{Doing as _, Error};
use crate::slot::{Medium, Slot};

/// Where the kernel lists its block devices.
pub(crate) const SYS_BLOCK: &str = "/sys/class/block";
/// A device's `uevent` file is a few hundred bytes.
const MAX_UEVENT: u64 = 4096;

/// A block device's description in its `uevent` file: lines of `KEY=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uevent {
    /// `MAJOR` and `MINOR`.
    pub(crate) number: (u32, u32),
    /// `DEVTYPE` is `partition`.
    pub(crate) is_partition: bool,
    /// `PARTN`.
    pub(crate) partition: Option<u32>,
    /// `PARTNAME`, the name in the partition table.
    pub(crate) name: Option<String>,
}

impl Uevent {
    /// Reads the text; `None` when it does not describe a block device.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut found = Self::default();
        let (mut major, mut minor) = (None, None);
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            match key {
                "MAJOR" => major = value.parse().ok(),
                "MINOR" => minor = value.parse().ok(),
                "DEVTYPE" => found.is_partition = value == "partition",
                "PARTN" => found.partition = value.parse().ok(),
                "PARTNAME" => found.name = Some(value.to_owned()),
                _ => {}
            }
        }
        found.number = (major?, minor?);
        Some(found)
    }
}

/// A partition of the boot disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// The device file's name, such as `vda4`.
    pub(crate) device: String,
    /// Its number in the partition table.
    pub(crate) number: u32,
    /// Major and minor device number.
    pub(crate) dev: (u32, u32),
}

impl Partition {
    /// The device file.
    pub(crate) fn path(&self) -> String {
        format!("/dev/{}", self.device)
    }
}

/// The boot disk: its name (such as `vda`) and its partitions by their names in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The device file's name, such as `vda`.
    pub(crate) device: String,
    /// By name in the partition table.
    pub(crate) partitions: BTreeMap<String, Partition>,
}

impl Disk {
    /// The device file.
    pub(crate) fn path(&self) -> String {
        format!("/dev/{}", self.device)
    }
}

/// Every disk that has partitions with names, in the order of the disks' names.
pub(crate) fn scan(sys_block: &Path) -> Result<Vec<Disk>, Error> {
    let mut disks: BTreeMap<String, Disk> = BTreeMap::new();
    for entry in fs::read_dir(sys_block).doing(|| format!("listing {}", sys_block.display()))? {
        let entry = entry.doing(|| format!("listing {}", sys_block.display()))?;
        let Ok(device) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        let mut text = String::new();
        // A device may vanish between the listing and the reading: then it is not there.
        if File::open(path.join("uevent")).and_then(|f| f.take(MAX_UEVENT).read_to_string(&mut text)).is_err()
        {
            continue;
        }
        let Some(Uevent { number: dev, is_partition: true, partition: Some(number), name: Some(name) }) =
            Uevent::parse(&text)
        else {
            continue;
        };
        // The link points to …/vda/vda4: the directory above is the disk.
        let Ok(link) = fs::read_link(&path) else { continue };
        let Some(disk) = link.parent().and_then(Path::file_name).and_then(|n| n.to_str()) else { continue };
        disks
            .entry(disk.to_owned())
            .or_insert_with(|| Disk { device: disk.to_owned(), partitions: BTreeMap::new() })
            .partitions
            .entry(name)
            .or_insert(Partition { device, number, dev });
    }
    Ok(disks.into_values().collect())
}

/// The disks that can be the one the firmware booted this slot from.
pub(crate) fn candidates(disks: Vec<Disk>, slot: Slot, medium: Medium) -> Vec<Disk> {
    disks
        .into_iter()
        .filter(|d| medium.fits(&d.device))
        .filter(|d| d.partitions.get(slot.root_name()).is_some_and(|p| p.number == slot.root_number()))
        .collect()
}

/// Tells when a device has come.
pub(crate) struct Watch {
    socket: OwnedFd,
}

impl Watch {
    /// Must be opened before the first look, so that nothing is missed between the two.
    pub(crate) fn open() -> Result<Self, Error> {
        let what = || "listening for the kernel's device events".to_owned();
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )
        .doing(what)?;
        bind(&socket, &SocketAddrNetlink::new(0, 1)).doing(what)?;
        Ok(Self { socket })
    }

    /// Waits for an event, at most until `deadline`. `false`: the time is up.
    pub(crate) fn wait(&self, deadline: Instant) -> Result<bool, Error> {
        let what = || "waiting for the kernel's device events".to_owned();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).doing(what),
            }
        }
        // What the events say does not matter, only that there were some. NOBUFS: there were too many.
        let mut buffer = [0u8; 8192];
        loop {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(Errno::AGAIN) => return Ok(true),
                Err(e) => return Err(e).doing(what),
            }
        }
    }
}

/// Waits for the boot disk. The second value tells what else could have been it.
pub(crate) fn wait_for_disk(
    watch: &Watch,
    slot: Slot,
    medium: Medium,
    limit: Duration,
) -> Result<(Disk, Vec<String>), Error> {
    let deadline = Instant::now() + limit;
    loop {
        let mut found = candidates(scan(Path::new(SYS_BLOCK))?, slot, medium).into_iter();
        if let Some(disk) = found.next() {
            return Ok((disk, found.map(|d| d.device).collect()));
        }
        if !watch.wait(deadline)? {
            return Err(Error::DiskMissing {
                wanted: slot.root_name(),
                seconds: limit.as_secs(),
                seen: devices_seen(),
            });
        }
    }
}

/// Waits until the kernel has announced all of `names` on the disk. `None`: they did not come.
pub(crate) fn wait_for_partitions(
    watch: &Watch,
    disk: &str,
    names: &[String],
    limit: Duration,
) -> Result<Option<Disk>, Error> {
    let deadline = Instant::now() + limit;
    loop {
        let found = scan(Path::new(SYS_BLOCK))?.into_iter().find(|d| d.device == disk);
        if let Some(found) = found.filter(|d| names.iter().all(|n| d.partitions.contains_key(n))) {
            return Ok(Some(found));
        }
        if !watch.wait(deadline)? {
            return Ok(None);
        }
    }
}

fn devices_seen() -> String {
    let Ok(entries) = fs::read_dir(SYS_BLOCK) else { return "none".to_owned() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|e| e.file_name().into_string().ok()).take(32).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VDA4: &str = "MAJOR=254\nMINOR=4\nDEVNAME=vda4\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=4\nPARTUUID=x\nPARTNAME=root-a\n";

    type Parts<'a> = &'a [(&'a str, u32, &'a str)];

    /// A tree like /sys: devices/…/<disk>/<partition> and class/block with links into it.
    fn sys(disks: &[(&str, Parts<'_>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join("class/block");
        fs::create_dir_all(&class).unwrap();
        for (disk, parts) in disks {
            let at = dir.path().join("devices/virtual").join(disk);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("uevent"), "MAJOR=254\nMINOR=0\nDEVTYPE=disk\n").unwrap();
            std::os::unix::fs::symlink(format!("../../devices/virtual/{disk}"), class.join(disk)).unwrap();
            for (device, number, name) in *parts {
                fs::create_dir(at.join(device)).unwrap();
                let text = format!(
                    "MAJOR=254\nMINOR={number}\nDEVNAME={device}\nDEVTYPE=partition\nPARTN={number}\nPARTNAME={name}\n"
                );
                fs::write(at.join(device).join("uevent"), text).unwrap();
                let link = format!("../../devices/virtual/{disk}/{device}");
                std::os::unix::fs::symlink(link, class.join(device)).unwrap();
            }
        }
        dir
    }

    #[test]
    fn a_uevent_file_is_read_as_the_kernel_writes_it() {
        let wanted = Uevent {
            number: (254, 4),
            is_partition: true,
            partition: Some(4),
            name: Some("root-a".to_owned()),
        };
        assert_eq!(Uevent::parse(VDA4), Some(wanted));
        assert_eq!(Uevent::parse("DEVTYPE=partition\nPARTN=4\n"), None);
        assert_eq!(Uevent::parse("MAJOR=x\nMINOR=4\n"), None);
        assert_eq!(Uevent::parse("no equals sign\n"), None);
    }

    #[test]
    fn the_disk_is_the_one_with_the_slots_root_under_its_number() {
        let dir = sys(&[
            ("sda", &[("sda1", 1, "root-a")]),
            (
                "vda",
                &[("vda1", 1, "select"), ("vda4", 4, "root-a"), ("vda5", 5, "root-b"), ("vda6", 6, "data")],
            ),
        ]);
        let disks = scan(&dir.path().join("class/block")).unwrap();
        assert_eq!(disks.len(), 2);
        let found = candidates(disks, Slot::B, Medium::Any);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].device, "vda");
        assert_eq!(found[0].partitions["data"].path(), "/dev/vda6");
        assert_eq!(found[0].partitions["root-a"].dev, (254, 4));
    }

    #[test]
    fn a_stick_with_the_same_image_is_not_taken_for_the_card() {
        let parts: Parts<'_> = &[("p4", 4, "root-a")];
        let stick: Parts<'_> = &[("q4", 4, "root-a")];
        let dir = sys(&[("mmcblk0", parts), ("sda", stick)]);
        let disks = scan(&dir.path().join("class/block")).unwrap();
        let names = |m| -> Vec<String> {
            candidates(disks.clone(), Slot::A, m).into_iter().map(|d| d.device).collect()
        };
        assert_eq!(names(Medium::Sd), ["mmcblk0"]);
        assert_eq!(names(Medium::Usb), ["sda"]);
        assert_eq!(names(Medium::Any), ["mmcblk0", "sda"]);
        assert!(names(Medium::Nvme).is_empty());
    }
}
