//! The list of copied files as it crosses the connection: CLIPRDR_FILELIST (MS-RDPECLIP 2.2.5.2.3).

use ironrdp_cliprdr::pdu::{ClipboardFileAttributes, FileDescriptor, PackedFileList};
use lucid_desktop::files::{Entry, MAX_ENTRIES, check, check_path};

/// The longest list, in bytes: a count, and 592 for each (CLIPRDR_FILEDESCRIPTOR).
pub(crate) const LARGEST: usize = 4 + MAX_ENTRIES * 592;
/// FILETIME counts 100 ns from 1601 on.
const TICKS: i64 = 10_000_000;
const FROM_1601_TO_1970: i64 = 11_644_473_600;

/// A file or folder of the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) entry: Entry,
    /// Else it has to be asked for.
    pub(crate) size_known: bool,
}

/// Reads a client's list. Names are checked: none leads out of the folder into which all goes.
pub(crate) fn from_client(data: &[u8]) -> Result<Vec<Wanted>, &'static str> {
    if data.len() > LARGEST {
        return Err("there are more than 4096 files and folders");
    }
    let list: PackedFileList = ironrdp_core::decode(data).map_err(|_| "the list of files is malformed")?;
    let wanted = list.files.iter().map(one).collect::<Result<Vec<Wanted>, _>>()?;
    let entries: Vec<Entry> = wanted.iter().map(|wanted| wanted.entry.clone()).collect();
    check(&entries)?;
    Ok(wanted)
}

fn one(file: &FileDescriptor) -> Result<Wanted, &'static str> {
    if file.name.contains('/') {
        return Err("a name leads to another folder");
    }
    let path = file.name.replace('\\', "/");
    check_path(&path)?;
    let folder = file.attributes.is_some_and(|a| a.contains(ClipboardFileAttributes::DIRECTORY));
    let size = if folder { Some(0) } else { file.file_size };
    let modified = file.last_write_time.filter(|time| *time != 0).and_then(|time| i64::try_from(time).ok());
    let modified = modified.map_or(0, |time| time / TICKS - FROM_1601_TO_1970);
    let entry = Entry { path, size: size.unwrap_or(0), folder, modified };
    Ok(Wanted { entry, size_known: size.is_some() })
}

/// Makes the list for a client.
pub(crate) fn for_client(entries: &[Entry]) -> Result<Vec<u8>, &'static str> {
    check(entries)?;
    let files = entries.iter().map(|entry| {
        let attributes =
            if entry.folder { ClipboardFileAttributes::DIRECTORY } else { ClipboardFileAttributes::NORMAL };
        let mut file = FileDescriptor::new(entry.path.replace('/', "\\")).with_attributes(attributes);
        if !entry.folder {
            file = file.with_file_size(entry.size);
        }
        let time = entry.modified.checked_add(FROM_1601_TO_1970).and_then(|time| time.checked_mul(TICKS));
        match time.and_then(|time| u64::try_from(time).ok()) {
            Some(time) if entry.modified != 0 => file.with_last_write_time(time),
            _ => file,
        }
    });
    let list = PackedFileList { files: files.collect() };
    ironrdp_core::encode_vec(&list).map_err(|_| "the list of files cannot be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, size: u64, folder: bool) -> Entry {
        Entry { path: path.into(), size, folder, modified: 1_700_000_000 }
    }

    #[test]
    fn a_list_comes_back_as_it_was_in_every_script() {
        let long = "x".repeat(250) + "/漢字.txt";
        let entries = [
            entry("Grüße", 0, true),
            entry("Grüße/漢字 👍.txt", 5_000_000_000, false),
            entry("שלום", 0, false),
            entry(&long, 1, false),
        ];
        let wire = for_client(&entries).unwrap();
        assert_eq!(wire.len(), 4 + 4 * 592);
        let back = from_client(&wire).unwrap();
        assert!(back.iter().all(|wanted| wanted.size_known));
        assert_eq!(back.into_iter().map(|wanted| wanted.entry).collect::<Vec<_>>(), entries);
    }

    fn wire(names: &[&str]) -> Vec<u8> {
        let files = names.iter().map(|name| FileDescriptor::new(*name).with_file_size(1)).collect();
        ironrdp_core::encode_vec(&PackedFileList { files }).unwrap()
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        assert!(from_client(&wire(&["a\\b", "c"])).is_ok());
        for bad in [
            "..\\a",
            "a\\..\\..\\b",
            "..",
            ".",
            "\\a",
            "a\\",
            "a\\\\b",
            "/etc/passwd",
            "a/b",
            "../a",
            "C:\\a",
            "a:b",
            "\\\\server\\share",
            "a\nb",
            "",
        ] {
            assert!(from_client(&wire(&["good", bad])).is_err(), "{bad:?}");
        }
        assert!(from_client(&wire(&["a", "a"])).is_err());
        assert!(from_client(&wire(&[])).is_err());
    }

    #[test]
    fn a_size_that_is_not_said_is_asked_for() {
        let files = vec![FileDescriptor::new("a")];
        let back = from_client(&ironrdp_core::encode_vec(&PackedFileList { files }).unwrap()).unwrap();
        assert!(matches!(&back[..], [Wanted { size_known: false, .. }]));
    }

    #[test]
    fn damaged_lists_are_refused_or_harmless() {
        let good = wire(&["folder\\file", "漢字", "x"]);
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as usize
        };
        let mut taken = 0;
        for _ in 0..50_000 {
            let mut damaged = good.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % damaged.len();
                damaged[at] = random() as u8;
            }
            if random() % 4 == 0 {
                damaged.truncate(random() % damaged.len());
            }
            if let Ok(list) = from_client(&damaged) {
                taken += 1;
                assert!(list.iter().all(|wanted| check_path(&wanted.entry.path).is_ok()));
            }
        }
        assert!(taken > 100, "{taken}");
    }
}
