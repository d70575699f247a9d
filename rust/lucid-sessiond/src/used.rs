//! The ids of sessions that began: each is used once, and refused for ever after.
//!
//! `used-sessions` in the state directory, version 1: `lucid used sessions 1`, then one UUID in lower-case letters for each,
//! all with a line feed. A line is on the disk before its session begins. What a power cut left of the last one is taken
//! away: that session has not begun.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use lucid_recording::SessionId;

use crate::error::{At as _, Error, Result};

/// The first line.
const FIRST: &str = "lucid used sessions 1\n";
/// A UUID with its line feed.
const LINE: usize = 37;
/// The most bytes of the file: more than three million sessions.
const MOST: u64 = 128 << 20;

pub(crate) struct Used {
    file: File,
    path: PathBuf,
    ids: HashSet<SessionId>,
}

impl Used {
    /// Reads the file, or makes it. Sessions whose recordings are there are used, whatever the file says.
    pub(crate) fn open(state: &Path, recorded: impl IntoIterator<Item = SessionId>) -> Result<Self> {
        let path = state.join("used-sessions");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = file.at("opening", &path)?;
        let malformed = |why: String| Error::Used { path: path.clone(), why };
        let mut bytes = Vec::new();
        (&mut file).take(MOST + 1).read_to_end(&mut bytes).at("reading", &path)?;
        if bytes.len() as u64 > MOST {
            return Err(malformed(format!("it has more than {MOST} bytes")));
        }
        let mut ids = HashSet::new();
        if FIRST.as_bytes().starts_with(&bytes) {
            // New, or its first line was never whole.
            file.set_len(0).and_then(|()| file.rewind()).at("emptying", &path)?;
            file.write_all(FIRST.as_bytes()).and_then(|()| file.sync_all()).at("writing", &path)?;
            File::open(state).and_then(|dir| dir.sync_all()).at("writing", state)?;
        } else {
            let lines = bytes.strip_prefix(FIRST.as_bytes());
            let lines = lines.ok_or_else(|| malformed("it does not begin as such a file does".to_owned()))?;
            let whole = lines.len() - lines.len() % LINE;
            for (number, line) in lines[..whole].chunks(LINE).enumerate() {
                let id =
                    std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n')?.parse().ok());
                ids.insert(id.ok_or_else(|| malformed(format!("line {} is no session's id", number + 2)))?);
            }
            let end = (FIRST.len() + whole) as u64;
            if whole < lines.len() {
                file.set_len(end).and_then(|()| file.sync_all()).at("mending", &path)?;
            }
            file.seek(SeekFrom::Start(end)).at("reading", &path)?;
        }
        ids.extend(recorded);
        Ok(Self { file, path, ids })
    }

    /// Uses an id; durable when this is done.
    ///
    /// # Errors
    /// When it was used before, or the disk fails: then it may be used or not, and must not be.
    pub(crate) fn take(&mut self, id: SessionId) -> Result<()> {
        if !self.ids.insert(id) {
            return Err(Error::UsedSession(id));
        }
        let before = self.file.stream_position().at("writing", &self.path)?;
        let written = writeln!(self.file, "{id}").and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is half there would make the next line another one.
            let back = self.file.set_len(before).and_then(|()| self.file.seek(SeekFrom::Start(before)));
            back.at("mending", &self.path)?;
            return Err(error).at("writing", &self.path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use std::fs;

    use super::*;

    fn id(last: u8) -> SessionId {
        format!("00000000-0000-4000-8000-0000000000{last:02x}").parse().unwrap()
    }

    #[test]
    fn a_used_id_is_refused_for_ever_also_after_a_restart_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut used = Used::open(dir.path(), []).unwrap();
        used.take(id(1)).unwrap();
        assert!(matches!(used.take(id(1)), Err(Error::UsedSession(_))));
        drop(used);
        let path = dir.path().join("used-sessions");
        let whole = fs::read(&path).unwrap();
        for torn in 1..LINE {
            let second = format!("{}\n", id(2));
            fs::write(&path, [whole.as_slice(), &second.as_bytes()[..torn]].concat()).unwrap();
            let mut used = Used::open(dir.path(), [id(3)]).unwrap();
            assert!(used.take(id(1)).is_err() && used.take(id(3)).is_err());
            used.take(id(2)).unwrap();
            assert!(Used::open(dir.path(), []).unwrap().take(id(2)).is_err(), "torn after {torn}");
        }
        for torn in 0..FIRST.len() {
            fs::write(&path, &FIRST.as_bytes()[..torn]).unwrap();
            Used::open(dir.path(), []).unwrap().take(id(1)).unwrap();
            assert!(Used::open(dir.path(), []).unwrap().take(id(1)).is_err());
        }
        let malformed =
            [b"something else\n".as_slice(), &[FIRST.as_bytes(), &[b'x'; LINE]].concat()].map(<[u8]>::to_vec);
        for bytes in malformed {
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(Used::open(dir.path(), []), Err(Error::Used { .. })));
            assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
        }
    }
}
