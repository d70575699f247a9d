//! Growing the data partition to the size of the disk.
//!
//! The image is smaller than most cards. On the first boot the backup of the partition table moves
//! to the disk's end and the last partition, `data`, gets all space in between. A card that was
//! copied to a larger one grows in the same way. Nothing else in the table changes.
//!
//! The `gpt` crate makes the new table in memory, on top of what the disk holds; the changed sectors
//! are then written in an order in which a power cut does not lose the table: first the new backup,
//! and when that is on the medium, the primary in one write. The same way mends a damaged copy.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use gpt::mbr::{PartRecord, ProtectiveMBR};

/// Bytes of a sector. Cards, sticks and virtual disks have 512; the image tool lays out for it.
pub(crate) const SECTOR: u64 = 512;
/// The data partition ends on a multiple of this many sectors (1 MiB).
const ALIGN: u64 = 2048;
/// The only size of an entry that is in use.
const ENTRY_BYTES: u32 = 128;
/// Far more than the six that are used; keeps a damaged header from asking for all memory.
const MAX_ENTRIES: u32 = 1024;
/// The name of the partition that grows.
pub(crate) const DATA: &str = "data";

/// What stands in the table, and what should change.
#[derive(Debug)]
pub(crate) struct Table {
    /// The names of all partitions.
    pub(crate) names: BTreeSet<String>,
    /// What to write, if anything.
    pub(crate) change: Option<Change>,
}

/// A change of the table.
#[derive(Debug)]
pub(crate) struct Change {
    /// For the log.
    pub(crate) reason: String,
    /// The data partition's number, first sector and new number of sectors, when it grows.
    pub(crate) data: Option<(u32, u64, u64)>,
    /// Byte offsets and bytes, in the order of the disk.
    writes: Vec<(u64, Vec<u8>)>,
}

/// Reads the table of a disk and works out what should change. Nothing is written.
pub(crate) fn examine<D: Read + Seek + std::fmt::Debug>(mut disk: D) -> Result<Table, String> {
    let text = |e: io::Error| format!("reading the disk: {e}");
    let sectors = disk.seek(SeekFrom::End(0)).map_err(text)? / SECTOR;
    if sectors < 3 * ALIGN {
        return Err(format!("the disk has only {sectors} sectors"));
    }
    let primary = check_copy(&mut disk, 1, sectors);
    let backup = check_copy(&mut disk, sectors - 1, sectors);
    let mut view = Overlay { disk, sectors, position: 0, changed: BTreeMap::new() };
    match (&primary, &backup) {
        (Err(p), Err(_)) => return Err(format!("no usable partition table: {p}")),
        // Make the crate read the backup: it does not check the entries' sum itself.
        (Err(_), Ok(_)) => {
            view.changed.insert(1, [0; SECTOR as usize]);
        }
        (Ok(_), _) => {}
    }

    let mut gpt = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open_from_device(view)
        .map_err(|e| e.to_string())?;
    let mut partitions = gpt.partitions().clone();
    let names: BTreeSet<String> = partitions.values().map(|p| p.name.clone()).collect();

    // Header and entries (32 sectors) of the backup at the end, the last usable sector before them.
    let last_usable = sectors - 1 - u64::from(ENTRY_BYTES) * 128 / SECTOR - 1;
    let new_end = (last_usable + 1) / ALIGN * ALIGN - 1;
    let is_last = |first: u64| partitions.values().all(|p| p.first_lba <= first);
    let mut data = None;
    let growing = partitions
        .iter()
        .find(|(_, p)| p.name == DATA && p.last_lba < new_end && is_last(p.first_lba))
        .map(|(number, p)| (*number, p.first_lba, new_end + 1 - p.first_lba));
    let entries = gpt.header().num_parts;
    if entries != 128 && (growing.is_some() || primary.is_err() || backup.is_err()) {
        return Err(format!("the table has {entries} entries and not 128, so it is left alone"));
    }
    if let Some((number, first, length)) = growing
        && let Some(partition) = partitions.get_mut(&number)
    {
        partition.last_lba = first + length - 1;
        data = Some((number, first, length));
    }
    let reason = match (&primary, &backup, data) {
        (Err(e), _, _) => {
            format!("the primary partition table is damaged ({e}), written again from the backup")
        }
        (_, _, Some((_, _, length))) => {
            format!("the data partition grows to {} MiB, the size of the disk", (length * SECTOR) >> 20)
        }
        (_, Err(e), _) => format!("the backup partition table is not usable ({e}), written again"),
        (Ok(_), Ok(_), None) => return Ok(Table { names, change: None }),
    };
    check_contiguous(&partitions)?;
    gpt.update_partitions(partitions).map_err(|e| e.to_string())?;
    let mut view = gpt.write().map_err(|e| e.to_string())?;
    update_protective_mbr(&mut view)?;
    Ok(Table { names, change: Some(Change { reason, data, writes: view.into_writes() }) })
}

impl Change {
    /// Writes the change. `sync` must not return before the medium has it.
    pub(crate) fn apply<D: Write + Seek>(
        &self,
        mut disk: D,
        mut sync: impl FnMut(&mut D) -> io::Result<()>,
    ) -> io::Result<()> {
        // From the end of the disk to its beginning: the backup first, the primary last.
        for (offset, bytes) in self.writes.iter().rev() {
            disk.seek(SeekFrom::Start(*offset))?;
            disk.write_all(bytes)?;
            disk.flush()?;
            sync(&mut disk)?;
        }
        Ok(())
    }
}

/// The crate writes the entries one after another, so an unused entry between two used ones would
/// renumber partitions. The image tool makes no such table.
fn check_contiguous(partitions: &BTreeMap<u32, gpt::partition::Partition>) -> Result<(), String> {
    if partitions.keys().copied().eq(1..=partitions.len() as u32) {
        Ok(())
    } else {
        Err("the partition numbers have gaps, so the table is left alone".to_owned())
    }
}

/// Checks one copy of the table: signature, place, both sums, and sizes that the crate relies on.
fn check_copy<D: Read + Seek>(disk: &mut D, lba: u64, sectors: u64) -> Result<(), String> {
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let mut header = [0u8; SECTOR as usize];
    let read = |disk: &mut D, at: u64, bytes: &mut [u8]| {
        disk.seek(SeekFrom::Start(at))
            .and_then(|_| disk.read_exact(bytes))
            .map_err(|e| format!("reading it: {e}"))
    };
    read(disk, lba * SECTOR, &mut header)?;
    // Offsets: UEFI specification 2.10, table 5.5.
    if &header[..8] != b"EFI PART" {
        return Err("no signature".to_owned());
    }
    if u32_at(&header, 12) != 92 {
        return Err("unknown header size".to_owned());
    }
    let mut zeroed = header;
    zeroed[16..20].fill(0);
    if sum.checksum(&zeroed[..92]) != u32_at(&header, 16) {
        return Err("wrong header checksum".to_owned());
    }
    if u64_at(&header, 24) != lba {
        return Err("header of another place".to_owned());
    }
    let (start, entries, size) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
    if size != ENTRY_BYTES || entries > MAX_ENTRIES {
        return Err(format!("{entries} entries of {size} bytes"));
    }
    let length = u64::from(entries) * u64::from(size);
    if start < 2 || start.checked_add(length.div_ceil(SECTOR)).is_none_or(|end| end > sectors) {
        return Err("entries outside the disk".to_owned());
    }
    let mut bytes = vec![0u8; length as usize];
    read(disk, start * SECTOR, &mut bytes)?;
    if sum.checksum(&bytes) != u32_at(&header, 88) {
        return Err("wrong checksum of the entries".to_owned());
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Sector 0 tells old tools that the whole disk is taken. Only rewritten when it says that already.
fn update_protective_mbr<D: Read + Seek + std::fmt::Debug>(view: &mut Overlay<D>) -> Result<(), String> {
    let Ok(mut mbr) = ProtectiveMBR::from_disk(view, LogicalBlockSize::Lb512) else { return Ok(()) };
    if mbr.partition(0).is_none_or(|p| p.os_type != 0xee) {
        return Ok(());
    }
    let size = u32::try_from(view.sectors - 1).unwrap_or(u32::MAX);
    mbr.set_partition(0, PartRecord::new_protective(Some(size)));
    mbr.overwrite_lba0(view).map_err(|e| format!("the protective MBR: {e}"))?;
    Ok(())
}

/// A disk as it would be after some writes.
struct Overlay<D> {
    disk: D,
    sectors: u64,
    position: u64,
    changed: BTreeMap<u64, [u8; SECTOR as usize]>,
}

impl<D> std::fmt::Debug for Overlay<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("sectors", &self.sectors).finish_non_exhaustive()
    }
}

impl<D: Read + Seek> Overlay<D> {
    fn sector(&mut self, lba: u64) -> io::Result<[u8; SECTOR as usize]> {
        if let Some(bytes) = self.changed.get(&lba) {
            return Ok(*bytes);
        }
        let mut bytes = [0u8; SECTOR as usize];
        self.disk.seek(SeekFrom::Start(lba * SECTOR))?;
        self.disk.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The sector under the position, the offset in it, and how many of `length` bytes lie in it.
    fn here(&self, length: usize) -> Option<(u64, usize, usize)> {
        let (lba, offset) = (self.position / SECTOR, (self.position % SECTOR) as usize);
        (lba < self.sectors && length > 0).then(|| (lba, offset, length.min(SECTOR as usize - offset)))
    }

    /// Neighbouring sectors joined.
    fn into_writes(self) -> Vec<(u64, Vec<u8>)> {
        let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
        for (lba, bytes) in self.changed {
            match writes.last_mut() {
                Some((at, run)) if *at + run.len() as u64 == lba * SECTOR => run.extend_from_slice(&bytes),
                _ => writes.push((lba * SECTOR, bytes.to_vec())),
            }
        }
        writes
    }
}

impl<D: Read + Seek> Read for Overlay<D> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some((lba, offset, n)) = self.here(into.len()) else { return Ok(0) };
        let bytes = self.sector(lba)?;
        into[..n].copy_from_slice(&bytes[offset..offset + n]);
        self.position += n as u64;
        Ok(n)
    }
}

impl<D: Read + Seek> Write for Overlay<D> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let Some((lba, offset, n)) = self.here(from.len()) else { return Ok(0) };
        let mut bytes = self.sector(lba)?;
        bytes[offset..offset + n].copy_from_slice(&from[..n]);
        self.changed.insert(lba, bytes);
        self.position += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D> Seek for Overlay<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => (self.sectors * SECTOR).checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const MIB: u64 = 1 << 20;

    /// A disk as the image tool lays it out, but small: six partitions, the last is `data`.
    fn image() -> Vec<u8> {
        let sizes = [("select", 1), ("boot-a", 1), ("boot-b", 1), ("root-a", 2), ("root-b", 2), ("data", 4)];
        let mut bytes = vec![0u8; (13 * MIB) as usize];
        let mut device = Cursor::new(&mut bytes);
        ProtectiveMBR::with_lb_size((13 * MIB / SECTOR - 1) as u32).overwrite_lba0(&mut device).unwrap();
        let mut gpt = gpt::GptConfig::new().writable(true).create_from_device(device, None).unwrap();
        for (name, mib) in sizes {
            gpt.add_partition(name, mib * MIB, gpt::partition_types::LINUX_FS, 0, Some(ALIGN)).unwrap();
        }
        gpt.write().unwrap();
        bytes
    }

    fn apply(bytes: &mut Vec<u8>, change: &Change) {
        change.apply(Cursor::new(bytes), |_| Ok(())).unwrap();
    }

    fn open(bytes: &mut Vec<u8>) -> gpt::GptDisk<Cursor<&mut Vec<u8>>> {
        gpt::GptConfig::new().only_valid_headers(true).open_from_device(Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn a_table_that_fits_its_disk_stays_as_it_is() {
        let mut bytes = image();
        let table = examine(Cursor::new(&mut bytes)).unwrap();
        assert!(table.change.is_none(), "{:?}", table.change);
        assert_eq!(table.names.len(), 6);
    }

    #[test]
    fn on_a_larger_disk_only_the_data_partition_grows() {
        let mut bytes = image();
        let before = open(&mut bytes).partitions().clone();
        bytes.resize((64 * MIB + 5 * SECTOR) as usize, 0xa5);
        let change = examine(Cursor::new(&mut bytes)).unwrap().change.unwrap();
        let (number, first, length) = change.data.unwrap();
        assert_eq!(number, 6);
        assert_eq!((first + length) % ALIGN, 0);
        apply(&mut bytes, &change);
        let guid;
        let after = {
            let gpt = open(&mut bytes);
            guid = *gpt.guid();
            assert_eq!(gpt.primary_header().unwrap().backup_lba, 64 * MIB / SECTOR + 4);
            assert_eq!(gpt.backup_header().unwrap().current_lba, 64 * MIB / SECTOR + 4);
            gpt.partitions().clone()
        };
        for (n, old) in &before {
            let mut wanted = old.clone();
            if *n == 6 {
                assert!(old.last_lba < first + length - 1);
                wanted.last_lba = first + length - 1;
            }
            assert_eq!(after[n], wanted, "partition {n}");
        }
        assert_eq!(after[&6].last_lba, 64 * MIB / SECTOR - ALIGN - 1);
        assert!(!guid.is_nil());
        let sectors = bytes.len() as u64 / SECTOR;
        check_copy(&mut Cursor::new(&mut bytes), 1, sectors).unwrap();
        check_copy(&mut Cursor::new(&mut bytes), sectors - 1, sectors).unwrap();
        // Sector 0 names the whole disk.
        assert_eq!(u64::from(u32_at(&bytes, 446 + 12)), sectors - 1);
        assert!(examine(Cursor::new(&mut bytes)).unwrap().change.is_none());
    }

    #[test]
    fn the_sectors_of_the_partitions_are_never_written() {
        let mut bytes = image();
        bytes.resize((64 * MIB) as usize, 0);
        let change = examine(Cursor::new(&mut bytes)).unwrap().change.unwrap();
        let last = bytes.len() as u64 - 33 * SECTOR;
        for (at, run) in &change.writes {
            let end = at + run.len() as u64;
            assert!(end <= 34 * SECTOR || *at >= last, "{at}..{end}");
        }
    }

    #[test]
    fn a_power_cut_between_the_writes_leaves_a_readable_table_that_is_finished_next_time() {
        let mut whole = image();
        whole.resize((64 * MIB) as usize, 0);
        let change = examine(Cursor::new(&mut whole)).unwrap().change.unwrap();
        let mut done = whole.clone();
        apply(&mut done, &change);
        for count in 0..change.writes.len() {
            for torn in [0usize, 512, 1024, 1536] {
                let mut bytes = whole.clone();
                let mut order = change.writes.iter().rev();
                for (at, run) in order.by_ref().take(count) {
                    bytes[*at as usize..*at as usize + run.len()].copy_from_slice(run);
                }
                let (at, run) = order.next().unwrap();
                let n = torn.min(run.len());
                bytes[*at as usize..*at as usize + n].copy_from_slice(&run[..n]);
                let again = examine(Cursor::new(&mut bytes)).unwrap();
                if let Some(change) = again.change {
                    apply(&mut bytes, &change);
                }
                assert!(bytes == done, "cut after {count} writes and {torn} bytes");
            }
        }
    }

    #[test]
    fn a_damaged_primary_or_backup_is_mended_from_the_other() {
        let good = image();
        let end = good.len();
        for at in [512 + 60, 1024 + 5, end - 512 + 30, end - 33 * 512 + 9] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            let change = examine(Cursor::new(&mut bytes)).unwrap().change.expect("damage is seen");
            apply(&mut bytes, &change);
            assert!(bytes == good, "byte {at}");
        }
    }

    #[test]
    fn random_damage_never_panics_and_never_touches_partitions() {
        // A fixed xorshift: the same damage on every run.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let good = image();
        let end = good.len();
        for _ in 0..600 {
            let mut bytes = good.clone();
            for _ in 0..=next() % 6 {
                let byte = next() as u8;
                let from = if next() % 2 == 0 { 512 } else { end - 33 * 512 };
                bytes[from + (next() % (32 * 512)) as usize] = byte;
            }
            if let Ok(Table { change: Some(change), .. }) = examine(Cursor::new(&mut bytes)) {
                for (at, run) in &change.writes {
                    let past = at + run.len() as u64;
                    assert!(past <= 34 * SECTOR || *at >= end as u64 - 33 * SECTOR);
                }
            }
        }
    }

    #[test]
    fn a_disk_without_a_table_is_an_error_and_not_a_new_table() {
        let mut bytes = vec![0u8; (8 * MIB) as usize];
        assert!(examine(Cursor::new(&mut bytes)).unwrap_err().contains("no usable partition table"));
        assert!(examine(Cursor::new(&mut vec![0u8; 100])).is_err());
    }
}
