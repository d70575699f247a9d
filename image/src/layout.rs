//! The disk, written down once. Nothing else in Lucid knows an offset: the device finds its
//! partitions by these names, and `firmware/` by their numbers (2 and 3 are the boot slots).

/// Size of one logical sector; the table, the FATs and the boot firmware all use it.
pub const SECTOR: u64 = 512;
/// One mebibyte; every partition begins and ends on a multiple of it.
pub const MIB: u64 = 1 << 20;
/// The largest name that `put` and `get` accept, and the size of `autoboot.txt`: one sector.
pub const AUTOBOOT_SIZE: usize = 512;

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A FAT that people open on their own computers: `autoboot.txt` and `lucid.toml`.
    Select,
    /// A FAT with kernel, device trees, initramfs and command line; hidden from desktops.
    Boot,
    /// EROFS followed by its dm-verity tree.
    Root,
    /// Made on the device at its first start.
    Data,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the table, counted from one.
    pub number: u32,
    /// Its name in the table.
    pub name: &'static str,
    /// Its size in MiB.
    pub mib: u64,
    /// What it holds.
    pub kind: Kind,
    /// Its identity in the table: fixed, so that the same inputs give the same image.
    pub guid: &'static str,
}

/// The identity of the disk.
pub const DISK_GUID: &str = "6c756369-6400-4000-8000-000000000000";

/// The six partitions in the order in which they lie on the disk.
pub const PARTITIONS: [Partition; 6] = [
    Partition {
        number: 1,
        name: "select",
        mib: 8,
        kind: Kind::Select,
        guid: "6c756369-6400-4000-8000-000000000001",
    },
    Partition {
        number: 2,
        name: "boot-a",
        mib: 128,
        kind: Kind::Boot,
        guid: "6c756369-6400-4000-8000-000000000002",
    },
    Partition {
        number: 3,
        name: "boot-b",
        mib: 128,
        kind: Kind::Boot,
        guid: "6c756369-6400-4000-8000-000000000003",
    },
    Partition {
        number: 4,
        name: "root-a",
        mib: 256,
        kind: Kind::Root,
        guid: "6c756369-6400-4000-8000-000000000004",
    },
    Partition {
        number: 5,
        name: "root-b",
        mib: 256,
        kind: Kind::Root,
        guid: "6c756369-6400-4000-8000-000000000005",
    },
    Partition {
        number: 6,
        name: "data",
        mib: 64,
        kind: Kind::Data,
        guid: "6c756369-6400-4000-8000-000000000006",
    },
];

impl Partition {
    /// Where it begins, in bytes: the first one after the first MiB, each after the one before.
    #[must_use]
    pub fn start(&self) -> u64 {
        let before: u64 = PARTITIONS.iter().filter(|p| p.number < self.number).map(|p| p.mib).sum();
        (1 + before) * MIB
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.mib * MIB
    }
}

/// The size of the whole image: one MiB for the table at each end.
#[must_use]
pub fn disk_bytes() -> u64 {
    PARTITIONS.iter().map(|p| p.mib).sum::<u64>() * MIB + 2 * MIB
}

/// The partition of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Partition> {
    PARTITIONS.iter().find(|p| p.name == name)
}

/// `autoboot.txt`: boots slot A, tries slot B when a try was asked for. One sector, filled
/// up with newlines (blank lines mean nothing to the firmware), so that it is overwritten in
/// place without touching the FAT.
#[must_use]
pub fn autoboot(template: &str) -> Option<[u8; AUTOBOOT_SIZE]> {
    let mut sector = [b'\n'; AUTOBOOT_SIZE];
    sector.get_mut(..template.len())?.copy_from_slice(template.as_bytes());
    Some(sector)
}
