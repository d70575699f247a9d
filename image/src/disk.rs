//! The disk file: its partition table, and its partitions as windows.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;

use crate::error::{At, Error, Result};
use crate::fat::Place;
use crate::layout::{self, Kind, MIB, PARTITIONS, Partition, SECTOR};

/// Attribute of Windows' basic data partitions: no drive letter. The boot slots are not for people.
const NO_DRIVE_LETTER: u64 = 1 << 63;

fn table_error(path: &Path) -> impl Fn(String) -> Error {
    let path = path.to_owned();
    move |why| Error::Table { path: path.clone(), why }
}

/// Makes a sparse disk file with the given partitions in its table.
///
/// # Errors
/// When it cannot be written.
pub fn create(path: &Path, partitions: &[Partition], disk_guid: &str, bytes: u64) -> Result<()> {
    if path.exists() {
        fs::remove_file(path).at("removing", path)?;
    }
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(path).at("making", path)?;
    file.set_len(bytes).at("sizing", path)?;
    let error = table_error(path);
    let sectors = u32::try_from(bytes / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut file).map_err(|why| error(why.to_string()))?;
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(
            file,
            Some(disk_guid.parse().map_err(|why| error(format!("{disk_guid}: {why}")))?),
        )
        .map_err(|why| error(why.to_string()))?;
    let mut entries = std::collections::BTreeMap::new();
    for partition in partitions {
        let first_lba = partition.start() / SECTOR;
        let (kind, flags) = match partition.kind {
            Kind::Select => (partition_types::BASIC, 0),
            Kind::Boot => (partition_types::BASIC, NO_DRIVE_LETTER),
            Kind::Root | Kind::Data => (partition_types::LINUX_FS, 0),
        };
        entries.insert(
            partition.number,
            gpt::partition::Partition {
                part_type_guid: kind,
                part_guid: partition
                    .guid
                    .parse()
                    .map_err(|why| error(format!("{}: {why}", partition.guid)))?,
                first_lba,
                last_lba: first_lba + partition.bytes() / SECTOR - 1,
                flags,
                name: partition.name.to_owned(),
            },
        );
    }
    disk.update_partitions(entries).map_err(|why| error(why.to_string()))?;
    let file = disk.write().map_err(|why| error(why.to_string()))?;
    file.sync_all().at("writing", path)
}

/// What the table of a disk file says of one partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its first byte.
    pub start: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Reads the table; both copies must be good.
///
/// # Errors
/// When there is no good table.
pub fn table(path: &Path) -> Result<Vec<Found>> {
    let error = table_error(path);
    let disk = GptConfig::new()
        .writable(false)
        .only_valid_headers(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open(path)
        .map_err(|why| error(why.to_string()))?;
    Ok(disk
        .partitions()
        .iter()
        .map(|(number, partition)| Found {
            number: *number,
            name: partition.name.clone(),
            start: partition.first_lba * SECTOR,
            bytes: (partition.last_lba + 1).saturating_sub(partition.first_lba) * SECTOR,
        })
        .collect())
}

/// Says where the table of a disk differs from the layout. The data partition may have grown.
///
/// # Errors
/// When a partition is missing, moved, or has another size.
pub fn check_table(path: &Path) -> Result<()> {
    let found = table(path)?;
    for partition in &PARTITIONS {
        let same = found.iter().any(|other| {
            other.number == partition.number
                && other.name == partition.name
                && other.start == partition.start()
                && (other.bytes == partition.bytes()
                    || partition.kind == Kind::Data && other.bytes > partition.bytes())
        });
        if !same {
            return Err(Error::Table {
                path: path.to_owned(),
                why: format!("partition {} ({}) is not as the layout says", partition.number, partition.name),
            });
        }
    }
    Ok(())
}

/// The FAT of a partition of Lucid's disk.
#[must_use]
pub fn fat<'a>(disk: &'a Path, partition: &'a Partition) -> Place<'a> {
    Place { disk, name: partition.name, start: partition.start(), bytes: partition.bytes() }
}

/// Looks a partition up by its name.
///
/// # Errors
/// When the layout has none of that name.
pub fn partition(path: &Path, name: &str) -> Result<&'static Partition> {
    layout::by_name(name).ok_or_else(|| Error::Table {
        path: path.to_owned(),
        why: format!("there is no partition {name}; there are {}", PARTITIONS.map(|p| p.name).join(", ")),
    })
}

/// Writes raw contents at the beginning of a partition.
///
/// # Errors
/// When they do not fit or cannot be written.
pub fn write(path: &Path, partition: &Partition, contents: &[u8], what: &'static str) -> Result<()> {
    let needed = contents.len() as u64;
    if needed > partition.bytes() {
        return Err(Error::Room { what, needed, place: partition.name.into(), room: partition.bytes() });
    }
    let mut file = OpenOptions::new().write(true).open(path).at("opening", path)?;
    file.seek(SeekFrom::Start(partition.start())).at("writing", path)?;
    file.write_all(contents).at("writing", path)
}

/// Reads a whole partition.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path, partition: &Partition) -> Result<Vec<u8>> {
    let mut file = File::open(path).at("opening", path)?;
    file.seek(SeekFrom::Start(partition.start())).at("reading", path)?;
    let mut contents = Vec::new();
    file.take(partition.bytes()).read_to_end(&mut contents).at("reading", path)?;
    if contents.len() as u64 != partition.bytes() {
        return Err(Error::Table { path: path.to_owned(), why: format!("{} is cut off", partition.name) });
    }
    Ok(contents)
}

/// The one partition of the disk that plays the EEPROM in QEMU.
pub const FIRMWARE: Partition = Partition {
    number: 1,
    name: "firmware",
    mib: 8,
    kind: Kind::Select,
    guid: "6c756369-6400-4000-8000-0000000000f1",
};
/// That disk's identity and size.
pub const FIRMWARE_DISK: (&str, u64) = ("6c756369-6400-4000-8000-0000000000f0", 10 * MIB);
