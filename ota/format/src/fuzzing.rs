//! The doors through which bytes of others come in, for the fuzz targets and for a test that replays their corpus. Built with
//! the feature `fuzzing` and for tests alone.

#![allow(clippy::expect_used, reason = "what does not hold and has to ends the run")]

use crate::{
    Change, Chunk, Index, Kind, Part, Patch, Piece, Place, Release, Verdict, Version, patch::MAX_PREFIX,
};

/// What the first byte says of the rest: with 0 it is an index, with 1 one without the hash at its end, which is made here, and
/// with others four bytes (u32, little-endian) of a chunk's length and what the archive gives for it. Panics when an index that
/// is read has another spelling or does not add up, and when anything comes out of the archive that is not the chunk.
pub fn release_index(bytes: &[u8]) {
    match bytes.split_first() {
        None => {}
        Some((0, index)) => read(index),
        Some((1, content)) => read(&[content, blake3::hash(content).as_bytes()].concat()),
        Some((_, archive)) => {
            let Some((raw, stored)) = archive.split_first_chunk::<4>() else { return };
            let length = stored.len() as u32;
            let mut chunk = Chunk {
                hash: *blake3::hash(stored).as_bytes(),
                raw: u32::from_le_bytes(*raw),
                place: Place { offset: 0, length, zstd: false },
            };
            if let Ok(opened) = chunk.open(stored) {
                assert_eq!((opened.as_slice(), length), (stored, chunk.raw), "it is stored as it is");
            }
            // What is packed is nothing whose hash is known here.
            chunk.place.zstd = true;
            chunk.hash = [0; 32];
            assert!(chunk.open(stored).is_err(), "nothing has that hash");
        }
    }
}

fn read(bytes: &[u8]) {
    let Ok(index) = Index::read(bytes) else { return };
    assert!(index.write() == bytes, "an index has one spelling");
    for part in index.parts() {
        let end = part.placed().map(|(offset, chunk)| offset + u64::from(chunk.raw)).last();
        assert_eq!(end, Some(part.bytes), "the chunks are the part");
        assert!(part.chunks.iter().all(|chunk| chunk.place.end() <= index.archive_bytes()));
    }
    let again = Index::new(index.parts().to_vec()).expect("it was read");
    assert!(again == index, "what was read is allowed");
}

/// What the first byte says of the rest: with 0 it is the head of a patch, with 1 one without the hash at its end, which is made
/// here, and with others a frame behind the 64 bytes before it. Panics when a head that is read has another spelling, takes more
/// memory than it may or does not add up, and when a frame makes anything.
pub fn release_patch(bytes: &[u8]) {
    match bytes.split_first() {
        None => {}
        Some((0, head)) => head_of_patch(head),
        Some((1, content)) => head_of_patch(&[content, blake3::hash(content).as_bytes()].concat()),
        Some((_, rest)) => {
            let Some((prefix, stored)) = rest.split_first_chunk::<64>() else { return };
            let place = Place { offset: 0, length: stored.len() as u32, zstd: true };
            // What is packed is nothing whose hash is known here.
            for raw in [1, stored.len() as u32, crate::chunker::MAX_CHUNK, u32::MAX] {
                let chunk = Chunk { hash: [0; 32], raw, place };
                assert!(chunk.open_at(place, prefix, stored).is_err(), "nothing has that hash");
            }
        }
    }
}

/// The change of the golden patch.
fn change() -> Change {
    let chunk = |byte, raw, offset, length, zstd| {
        let place = Place { offset, length, zstd };
        Chunk { hash: [byte; 32], raw, place }
    };
    let (one, two) = (chunk(1, 10_000, 0, 5000, true), chunk(2, 480, 5000, 480, false));
    let root = vec![chunk(3, 131_072, 5480, 132_096, true), two, chunk(4, 3616, 137_576, 3616, false)];
    let parts = vec![
        Part { kind: Kind::Boot, bytes: 20_480, hash: [0xb0; 32], chunks: vec![one, one, two] },
        Part { kind: Kind::Root, bytes: 135_168, hash: [0xb1; 32], chunks: root },
    ];
    let old = [(1, 10_000), (9, 20_000), (8, 30_000), (9, 20_000)];
    let old = old.map(|(byte, raw)| Piece { hash: [byte; 32], raw });
    Change::between(&old, &Index::new(parts).expect("it is the golden one"))
}

fn head_of_patch(head: &[u8]) {
    let change = change();
    // How long all of it is, is said by others: what fits the head.
    let Ok(patch) = Patch::read(head, &change, length(head)) else { return };
    assert!(patch.head(&change) == head, "a head has one spelling");
    let mut next = head.len() as u64;
    for place in patch.frames() {
        assert_eq!(place.offset, next, "frames stand one after the other");
        next = place.end();
    }
    assert_eq!(patch.frames().len(), change.added().len(), "each chunk has its frame");
    for section in patch.sections() {
        let got = section.prefix(&change, |piece| Ok::<_, ()>(vec![0; piece.raw as usize]));
        assert!(got.expect("it is given").len() as u64 <= MAX_PREFIX, "a prefix is bounded");
    }
}

/// The length of the whole patch, where the last numbers of its head are the lengths of three frames.
fn length(head: &[u8]) -> u64 {
    let frames = head.len().checked_sub(32 + 12).and_then(|at| head.get(at..at + 12)).unwrap_or_default();
    let stored = frames.as_chunks::<4>().0.iter().map(|frame| u32::from_le_bytes(*frame) & !(1 << 31));
    head.len() as u64 + stored.map(u64::from).sum::<u64>()
}

/// The description of a release as JSON. Panics when one that is read is not the same after it was written, as JSON and in the
/// list of targets; when it is found under another name; and when some device never takes it, or takes it and does not later.
pub fn release(bytes: &[u8]) {
    let Ok(release) = Release::read(bytes) else { return };
    let written = release.write().expect("it was read");
    assert_eq!(Release::read(written.as_bytes()).expect("it was written"), release);
    let custom = release.to_custom().expect("it was read");
    let name = release.index_name();
    assert_eq!(Release::of_target(&name, &custom).expect("its own name"), Some(release.clone()));
    assert_eq!(Release::of_target(&release.archive_name(), &custom).expect("no index"), None);
    assert!(Release::of_target("lucid-X-0.0.0.index", &custom).is_err(), "another name");
    let (machine, channel) = (release.machine.as_str(), release.channel.as_str());
    let none = Version::default();
    for place in [0, 499, 999, release.place(&[7; 32])] {
        let applies = |now| release.applies(machine, channel, release.min_from, none, place, now);
        let takes = |now| applies(now) == Verdict::Takes;
        let end = release.released + u64::from(u32::MAX);
        let taken = !release.paused && release.min_from < release.version;
        assert_eq!(takes(end), taken, "at the end of the last wave everybody takes it");
        assert!(release.released == 0 || !takes(release.released - 1), "nobody takes what is not released");
        assert!(!takes(release.released) || takes(release.released + 1), "who may take it may later");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    type Door = (&'static str, fn(&[u8]));
    const DOORS: [Door; 3] = [
        ("release_index", super::release_index),
        ("release_patch", super::release_patch),
        ("release", super::release),
    ];

    #[test]
    fn every_input_of_the_corpus_is_borne_and_damaged_ones_as_well() {
        for (name, door) in DOORS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust/fuzz/corpus").join(name);
            let mut inputs = 0;
            for file in fs::read_dir(corpus).unwrap() {
                let input = fs::read(file.unwrap().path()).unwrap();
                door(&input);
                for at in 0..input.len() {
                    door(&input[..at]);
                    let mut damaged = input.clone();
                    for bit in 0..8 {
                        damaged[at] = input[at] ^ (1 << bit);
                        door(&damaged);
                    }
                }
                inputs += 1;
            }
            assert!(inputs > 0, "{name}");
        }
    }
}
