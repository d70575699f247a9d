//! `autoboot.txt` on the select partition: which slot boots, and which one a one-shot try boots.
//!
//! It is one sector of 512 bytes, text filled up with newlines. To change it, that sector alone is overwritten, in place: the
//! FAT is only read, to find it. A disk writes a sector wholly or not at all, so after a power cut the old text is there or the
//! new one. For disks that do not keep to that, the service keeps a spare copy (`autoboot.bak`) and writes the sector again from
//! it, or by what runs, when it is not as it must be.

use crate::{
    boot::Slot,
    disk::Disk,
    error::{Error, Result},
};

/// The size of the file: one sector.
pub const SIZE: usize = 512;
/// Its name as a FAT directory has it.
const NAME: &[u8; 11] = b"AUTOBOOTTXT";
/// So many entries of the root directory are looked at.
const MAX_ENTRIES: u64 = 4096;
/// Bytes of an entry of a directory.
const ENTRY: u64 = 32;

/// The text by which this slot boots and the other one is tried.
#[must_use]
pub fn text(slot: Slot) -> [u8; SIZE] {
    let text = format!(
        "[all]\ntryboot_a_b=1\nboot_partition={}\n[tryboot]\nboot_partition={}\n",
        slot.number(),
        slot.other().number()
    );
    let mut sector = [b'\n'; SIZE];
    sector[..text.len()].copy_from_slice(text.as_bytes());
    sector
}

/// The slot that boots by this text. It has to name both slots, one of them for tries: anything else is none that this
/// program wrote.
///
/// # Errors
/// When it does not.
pub fn slot(sector: &[u8]) -> Result<Slot> {
    let wrong = |why: String| Error::Autoboot(why);
    let text = str::from_utf8(sector).map_err(|_| wrong("it is no text".to_owned()))?;
    let (mut section, mut all, mut tried, mut ab) = ("all", None, None, false);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let number = line.strip_prefix("boot_partition=").map(|number| match number {
            "2" => Ok(Slot::A),
            "3" => Ok(Slot::B),
            other => Err(wrong(format!("it names the boot partition {other:?}, which is no slot"))),
        });
        match (line, section, number) {
            ("[all]", ..) => section = "all",
            ("[tryboot]", ..) => section = "tryboot",
            ("tryboot_a_b=1", "all", _) => ab = true,
            (_, "all", Some(slot)) => all = Some(slot?),
            (_, _, Some(slot)) => tried = Some(slot?),
            (line, ..) => return Err(wrong(format!("it has the line {line:?}, which is not understood"))),
        }
    }
    match (all, tried) {
        (Some(slot), Some(tried)) if ab && tried == slot.other() => Ok(slot),
        _ => Err(wrong("it does not name one slot to boot and the other one to try".to_owned())),
    }
}

/// Which slot boots.
///
/// # Errors
/// When the file is not there or not as it must be.
pub fn read(select: &dyn Disk) -> Result<Slot> {
    let mut sector = [0; SIZE];
    let at = find(select)?;
    select.read_at(at, &mut sector).map_err(failed("reading"))?;
    slot(&sector)
}

/// Lets this slot boot from now on. Nothing is written when it does already.
///
/// # Errors
/// When the file is not there, or cannot be written, or reads back as something else.
pub fn write(select: &dyn Disk, slot: Slot) -> Result<()> {
    let (at, wanted) = (find(select)?, text(slot));
    let mut sector = [0; SIZE];
    select.read_at(at, &mut sector).map_err(failed("reading"))?;
    if sector != wanted {
        select.write_at(at, &wanted).map_err(failed("writing"))?;
    }
    // Even without a write: that of a life before this one may not be on the medium yet.
    select.sync().map_err(failed("writing"))?;
    select.read_at(at, &mut sector).map_err(failed("reading"))?;
    if sector == wanted { Ok(()) } else { Err(Error::ReadBack("boot selection (autoboot.txt)".to_owned())) }
}

fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Partition { doing, name: "select".to_owned(), source }
}

/// Where the file's sector is, in bytes from the start of the partition (FAT12, FAT16 or FAT32; Microsoft's "FAT: General
/// Overview of On-Disk Format", 1.03).
///
/// # Errors
/// When the partition holds no FAT, or the file is not there or not one sector long.
pub fn find(select: &dyn Disk) -> Result<u64> {
    let wrong = |why: &str| Error::Autoboot(why.to_owned());
    let size = select.size().map_err(failed("reading"))?;
    let read = |at: u64, bytes: &mut [u8]| match at.checked_add(bytes.len() as u64) {
        Some(end) if end <= size => select.read_at(at, bytes).map_err(failed("reading")),
        _ => Err(wrong("the file system points outside of its partition")),
    };
    let mut first = [0; 512];
    read(0, &mut first)?;
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([first[at], first[at + 1]]));
    let u32_at =
        |at: usize| u64::from(u32::from_le_bytes([first[at], first[at + 1], first[at + 2], first[at + 3]]));
    let sector = u16_at(11);
    if first[510..] != [0x55, 0xaa] || ![512, 1024, 2048, 4096].contains(&sector) || first[13] == 0 {
        return Err(wrong("there is no FAT file system"));
    }
    let cluster = u64::from(first[13]) * sector;
    let (reserved, fats, entries) = (u16_at(14) * sector, u64::from(first[16]), u16_at(17));
    // FAT32 has no length in the place where the others have it, and its root directory is a chain of clusters.
    let wide = u16_at(22) == 0;
    let table = if wide { u32_at(36) } else { u16_at(22) } * sector;
    let fixed = reserved + fats * table;
    let data = fixed + (entries * ENTRY).next_multiple_of(sector);
    let place = |number: u64| match number {
        0 | 1 => Err(wrong("the file system names a cluster that there cannot be")),
        number => Ok(data + (number - 2) * cluster),
    };
    let (mut at, mut left, mut number) = (fixed, entries, 0);
    if wide {
        number = u32_at(44) & 0x0fff_ffff;
        (at, left) = (place(number)?, cluster / ENTRY);
    }
    for _ in 0..MAX_ENTRIES {
        if left == 0 {
            if !wide {
                break;
            }
            let mut link = [0; 4];
            read(reserved + number * 4, &mut link)?;
            number = u64::from(u32::from_le_bytes(link)) & 0x0fff_ffff;
            if number >= 0x0fff_fff8 {
                break;
            }
            (at, left) = (place(number)?, cluster / ENTRY);
        }
        let mut entry = [0; ENTRY as usize];
        read(at, &mut entry)?;
        if entry[0] == 0 {
            break;
        }
        // Neither a directory nor a label, of which long names are a kind.
        if entry.starts_with(NAME) && entry[11] & 0x18 == 0 {
            let length = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]);
            if length as usize != SIZE {
                return Err(wrong(&format!("it has {length} bytes instead of {SIZE}")));
            }
            let high = if wide { u64::from(u16::from_le_bytes([entry[20], entry[21]])) } else { 0 };
            let found = place(high << 16 | u64::from(u16::from_le_bytes([entry[26], entry[27]])))?;
            if found.checked_add(SIZE as u64).is_none_or(|end| end > size) {
                return Err(wrong("the file system points outside of its partition"));
            }
            return Ok(found);
        }
        at += ENTRY;
        left -= 1;
    }
    Err(wrong("it is not there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_the_image_and_its_mirror() {
        let image = include_str!("../../../firmware/autoboot.txt");
        assert_eq!(str::from_utf8(&text(Slot::A)).unwrap().trim_end(), image.trim_end());
        assert_eq!(slot(&text(Slot::A)).unwrap(), Slot::A);
        assert_eq!(slot(&text(Slot::B)).unwrap(), Slot::B);
        assert_eq!(slot(image.as_bytes()).unwrap(), Slot::A);
    }

    #[test]
    fn a_text_that_does_not_name_both_slots_is_refused() {
        for text in [
            "",
            "[all]\nboot_partition=2\n[tryboot]\nboot_partition=3\n",
            "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n",
            "[all]\ntryboot_a_b=1\nboot_partition=4\n[tryboot]\nboot_partition=3\n",
            "[all]\ntryboot_a_b=1\nboot_partition=2\n",
            "[all]\ntryboot_a_b=1\nboot_partition=2\n[none]\n[tryboot]\nboot_partition=3\n",
        ] {
            assert!(slot(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(slot(&[0xff; SIZE]).is_err());
    }
}
