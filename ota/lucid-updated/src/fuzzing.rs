//! Doors for fuzz targets: each takes any bytes, and fails only by what is a mistake in this crate.

use std::{io, sync::Arc};

use crate::{
    autoboot, before::Before, boot::Slot, disk::Disk, files, held::Holdings, journal, schedule::Schedule,
    service::armed, state::State, trust::Memory, volume::Volume,
};

/// A partition that is read only.
struct Bytes<T>(T);

impl<T: AsRef<[u8]> + Send + Sync> Disk for Bytes<T> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.as_ref().len() as u64)
    }

    fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let end = at.checked_add(bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(self.0.as_ref().get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A select partition: what is found is within it.
pub fn select(bytes: &[u8]) {
    if let Ok(at) = autoboot::find(&Bytes(bytes)) {
        assert!(at + autoboot::SIZE as u64 <= bytes.len() as u64);
    }
}

/// The file system of a stick: a file that is found is within it, to its last byte and not beyond.
pub fn stick(bytes: &[u8]) {
    let Ok(volume) = Volume::open(Arc::new(Bytes(bytes.to_vec()))) else { return };
    for path in [["lucid", "metadata", "timestamp.json"], ["lucid", "targets", "b.chunks"]] {
        let Ok(Some(file)) = volume.file(&path) else { continue };
        let mut read = vec![0; usize::try_from(file.length()).unwrap_or(usize::MAX).min(bytes.len())];
        assert!(file.length() <= bytes.len() as u64 && volume.read(&file, 0, &mut read).is_ok());
        assert!(volume.read(&file, file.length(), &mut [0]).is_err());
    }
}

/// The text of `autoboot.txt`: one that is understood names the slot that is read from it.
pub fn text(bytes: &[u8]) {
    if let Ok(slot) = autoboot::slot(bytes) {
        assert!(matches!(autoboot::slot(&autoboot::text(slot)), Ok(Slot::A | Slot::B)));
    }
}

/// What journalctl says: what is kept of it is bounded, and nothing in it that a terminal would obey; the word of a failed try.
pub fn journal(bytes: &[u8]) {
    if let Ok(start) = journal::read(bytes, "a0", "b0") {
        let size: usize = start.lines.iter().map(|line| line.len() + 1).sum();
        assert!(size <= journal::MAX_TEXT && start.lines.len() <= journal::MAX_LINES);
        assert!(start.boot != "a0" && start.boot != "b0" && start.boot.len() <= 64);
        assert!(!start.lines.iter().any(|line| line.contains(char::is_control)));
    }
    if let Ok(Some((id, slow))) = armed(bytes) {
        assert!(!id.contains(char::is_control) && slow < 3);
    }
}

/// `update.json`, `trust.json`, `slots.json`, `schedule.json` and `before.json`: what is understood comes back when it is
/// written and read again. The first line is taken with the seal that it should have too: no fuzzer finds one.
pub fn kept(bytes: &[u8]) {
    read(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        read(&files::seal(text.lines().next().unwrap_or_default()));
    }
}

fn read(bytes: &[u8]) {
    if let Ok(state) = State::from_bytes(bytes) {
        let again = state.to_bytes().map(|bytes| State::from_bytes(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == state));
    }
    if let Ok(holdings) = Holdings::from_bytes(bytes) {
        let again = holdings.to_bytes().map(|bytes| Holdings::from_bytes(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == holdings));
    }
    if let Ok(schedule) = Schedule::from_bytes(bytes) {
        let again = schedule.to_bytes().map(|bytes| Schedule::from_bytes(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == schedule));
    }
    if let Ok(before) = Before::from_bytes(bytes) {
        let again = before.to_bytes().map(|bytes| Before::from_bytes(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == before));
    }
    if let Ok(memory) = Memory::from_bytes(bytes) {
        let again = memory.to_bytes().map(|bytes| Memory::from_bytes(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == memory));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_states_of_the_corpus_are_understood() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust/fuzz/corpus/update_kept");
        let state = fs::read(corpus.join("good-state")).unwrap();
        assert!(State::from_bytes(&state).is_ok());
        let memory = fs::read(corpus.join("good-memory")).unwrap();
        assert!(Memory::from_bytes(&memory).is_ok());
        let slots = fs::read(corpus.join("good-slots")).unwrap();
        assert!(Holdings::from_bytes(&slots).is_ok());
        let schedule = fs::read(corpus.join("good-schedule")).unwrap();
        assert!(Schedule::from_bytes(&schedule).is_ok());
        let said = fs::read(corpus.join("../update_journal/good")).unwrap();
        assert_eq!(journal::read(&said[..], "a0", "b0").map(|start| start.lines.len()), Ok(2));
        journal(&said);
        // Its seal is made by the door.
        let before = fs::read(corpus.join("before")).unwrap();
        let line = str::from_utf8(&before).unwrap().lines().next().unwrap();
        assert!(Before::from_bytes(&files::seal(line)).is_ok());
        for bytes in [&state, &memory, &slots, &schedule, &before] {
            kept(bytes);
            for end in 0..bytes.len() {
                kept(&bytes[..end]);
            }
        }
    }

    #[test]
    fn the_sticks_of_the_corpus_have_a_release_and_damage_to_them_is_found() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust/fuzz/corpus/update_stick");
        for name in ["good-exfat", "good-fat32"] {
            let good = fs::read(corpus.join(name)).unwrap();
            let volume = Volume::open(Arc::new(Bytes(good.clone()))).unwrap();
            assert!(volume.file(&["LUCID", "metadata", "Timestamp.json"]).unwrap().is_some(), "{name}");
            assert!(volume.file(&["lucid", "metadata"]).unwrap().is_none(), "{name}");
            stick(&good);
            // The first sector, the table of clusters, and the directories.
            for at in (0..512).chain((4096..20_000).step_by(3)) {
                let mut bad = good.clone();
                bad[at] ^= 0xff;
                stick(&bad);
            }
        }
    }

    #[test]
    fn the_doors_take_bytes_that_are_nothing() {
        for bytes in [&b""[..], b"{}", &[0xff; 600], &autoboot::text(Slot::B)] {
            select(bytes);
            stick(bytes);
            text(bytes);
            kept(bytes);
            journal(bytes);
        }
    }
}
