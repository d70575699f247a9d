//! The files socket: how the program that serves a desktop lists, reads and writes files of the desktop's user, which
//! it cannot see itself.
//!
//! [`Desktop::files`](crate::Desktop::files) gives one end, the launcher serves the other one inside of the desktop's
//! sandbox, as the desktop's user. Requests and answers take turns; each is a frame: length of the header and of the
//! data (u32, little endian, bytes; at most [`MAX_HEADER`] and [`MAX_DATA`]), the header (JSON), the data.
//!
//! Neither side trusts the other: both check names ([`check_path`]) and lists ([`check`]).

use serde::{Deserialize, Serialize};

/// The longest header, in bytes: a list of [`MAX_ENTRIES`].
pub const MAX_HEADER: usize = 4 << 20;
/// The most data of one frame, in bytes.
pub const MAX_DATA: usize = 1 << 20;
/// The most files and folders of one list.
pub const MAX_ENTRIES: usize = 4096;
/// The longest path, in UTF-16 code units: what MS-RDPECLIP's FILEDESCRIPTORW has room for, without its final NUL.
pub const MAX_PATH: usize = 259;
/// The deepest path, in names.
pub const MAX_DEPTH: usize = 32;
/// The longest name, in bytes of UTF-8: what Linux' file systems take.
const MAX_NAME: usize = 255;

/// A file or a folder that is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Names from the copied one down, with `/` in between.
    pub path: String,
    /// Bytes; 0 for a folder.
    pub size: u64,
    /// It is a folder.
    pub folder: bool,
    /// When it was changed last, in seconds since 1970; 0: not known.
    pub modified: i64,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Request {
    /// List the files that the data names (`text/uri-list` or `x-special/gnome-copied-files`) and, of folders, what is
    /// in them. Replaces the former list.
    List,
    /// Read from a file of the list.
    Read {
        /// Its place in the list.
        index: u32,
        /// In bytes.
        offset: u64,
        /// In bytes, at most [`MAX_DATA`].
        length: u32,
    },
    /// Make room for these; what was begun before and is not finished is thrown away.
    Begin {
        /// Files and folders.
        entries: Vec<Entry>,
    },
    /// The data is the next piece of a file.
    Write {
        /// Its place among those that were begun.
        index: u32,
        /// In bytes; there are no gaps.
        offset: u64,
    },
    /// All is written.
    Finish,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Answer {
    /// To [`Request::List`].
    Listed {
        /// Files and folders, folders before what is in them.
        entries: Vec<Entry>,
        /// How many were left out, being neither: symbolic links, sockets, devices.
        left_out: u32,
    },
    /// To [`Request::Read`]; fewer bytes than asked for only at the file's end.
    Data,
    /// To [`Request::Begin`] and [`Request::Write`].
    Done,
    /// To [`Request::Finish`].
    Finished {
        /// Where the copied ones are, as `file:` URIs.
        uris: Vec<String>,
    },
    /// It was not done.
    Refused {
        /// Why, for people; without names of files.
        why: String,
    },
}

/// Checks a path: no name that leads elsewhere on Linux or Windows, none that is too long for either.
///
/// # Errors
/// Says what is wrong, without the name.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.encode_utf16().count() > MAX_PATH {
        return Err("a path is longer than 259 UTF-16 code units");
    }
    if path.split('/').count() > MAX_DEPTH {
        return Err("folders are nested too deeply");
    }
    for name in path.split('/') {
        if name.is_empty() || name == "." || name == ".." {
            return Err("a name leads to another folder");
        }
        if name.len() > MAX_NAME {
            return Err("a name is longer than 255 bytes");
        }
        if name.chars().any(|c| matches!(c, '\\' | ':') || c.is_control()) {
            return Err(
                "a name has a character that is not a name's everywhere (\\, : or a control character)",
            );
        }
    }
    Ok(())
}

/// Checks a list; gives the bytes of all its files.
///
/// # Errors
/// Says what is wrong, without names.
pub fn check(entries: &[Entry]) -> Result<u64, &'static str> {
    if entries.is_empty() {
        return Err("there is no file");
    }
    if entries.len() > MAX_ENTRIES {
        return Err("there are more than 4096 files and folders");
    }
    let mut paths = std::collections::HashSet::new();
    let mut all = 0_u64;
    for entry in entries {
        check_path(&entry.path)?;
        if !paths.insert(entry.path.as_str()) {
            return Err("two have the same name");
        }
        if entry.folder && entry.size != 0 {
            return Err("a folder has a size");
        }
        all = all.checked_add(entry.size).ok_or("the files are too large")?;
    }
    Ok(all)
}

/// A frame, for writing.
///
/// # Errors
/// When it would be larger than a frame may be.
pub fn frame(header: &impl Serialize, data: &[u8]) -> Result<Vec<u8>, crate::Error> {
    let wrong = |what: String| crate::Error::Protocol { what };
    let header =
        serde_json::to_vec(header).map_err(|e| wrong(format!("a files frame could not be written: {e}")))?;
    if header.len() > MAX_HEADER || data.len() > MAX_DATA {
        return Err(wrong(format!(
            "a files frame of {} and {} bytes is too large",
            header.len(),
            data.len()
        )));
    }
    let mut frame = Vec::with_capacity(8 + header.len() + data.len());
    frame.extend_from_slice(&(header.len() as u32).to_le_bytes());
    frame.extend_from_slice(&(data.len() as u32).to_le_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(data);
    Ok(frame)
}

/// The lengths of header and data, from a frame's first bytes.
///
/// # Errors
/// When they are larger than a frame may be.
pub fn lengths(first: [u8; 8]) -> Result<(usize, usize), crate::Error> {
    let [a, b, c, d, e, f, g, h] = first;
    let lengths = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if lengths.0 <= MAX_HEADER && lengths.1 <= MAX_DATA {
        return Ok(lengths);
    }
    Err(crate::Error::Protocol {
        what: format!("a files frame announces {} and {} bytes", lengths.0, lengths.1),
    })
}

/// Reads a header.
///
/// # Errors
/// When it is not of this protocol.
pub fn header<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, crate::Error> {
    // The message could quote what was sent.
    serde_json::from_slice(bytes).map_err(|e| crate::Error::Protocol {
        what: format!("a files frame is malformed at line {}, column {}", e.line(), e.column()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_script_pass_and_names_that_lead_elsewhere_do_not() {
        for good in ["a", "Grüße/漢字/שלום.txt", "👩‍👩‍👧‍👦", "...", "a b", ".hidden", &"x".repeat(255)]
        {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        let long = "é".repeat(128);
        let far = ["a/"; 40].concat() + "b";
        let wide = format!("{}/{}", "x".repeat(200), "y".repeat(59));
        for bad in [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            "a/../b",
            "../a",
            "a\\b",
            "..\\a",
            "C:a",
            "a:b",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{85}b",
            &long,
            &far,
            &wide,
            &"x".repeat(256),
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_are_bounded_in_count_and_bytes_and_have_no_name_twice() {
        let file = |path: &str, size| Entry { path: path.into(), size, folder: false, modified: 0 };
        assert_eq!(check(&[file("a", 1), file("b", 2)]), Ok(3));
        assert!(check(&[]).is_err());
        assert!(check(&[file("a", 1), file("a", 1)]).is_err());
        assert!(check(&[file("a", u64::MAX), file("b", 1)]).is_err());
        assert!(check(&[Entry { folder: true, ..file("a", 1) }]).is_err());
        let many: Vec<Entry> = (0..=MAX_ENTRIES).map(|at| file(&at.to_string(), 0)).collect();
        assert!(check(&many).is_err());
        assert_eq!(check(&many[1..]), Ok(0));
    }

    #[test]
    fn the_largest_list_fits_into_a_frame() {
        let entries = (0..MAX_ENTRIES)
            .map(|at| Entry {
                path: format!(
                    "{at:05}{}/{}/{}/{}",
                    "漢".repeat(59),
                    "字".repeat(64),
                    "漢".repeat(64),
                    "字".repeat(64)
                ),
                size: 1 << 40,
                folder: false,
                modified: i64::MAX,
            })
            .collect::<Vec<_>>();
        check(&entries).unwrap();
        let bytes = frame(&Answer::Listed { entries, left_out: u32::MAX }, &[]).unwrap();
        let (header_length, data) = lengths(bytes[..8].try_into().unwrap()).unwrap();
        assert_eq!((header_length, data), (bytes.len() - 8, 0));
        assert!(matches!(header(&bytes[8..]).unwrap(), Answer::Listed { .. }));
        assert!(lengths([0, 0, 0, 1, 0, 0, 0, 0]).is_err() && lengths([0, 0, 0, 0, 0, 0, 0, 1]).is_err());
        assert!(header::<Request>(b"{}").is_err());
    }
}
