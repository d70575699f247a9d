//! The doors through which bytes of others come in, for the fuzz targets and for a test that replays their corpus. Built with
//! the feature `fuzzing` and for tests alone.

#![allow(clippy::expect_used, reason = "what does not hold and has to ends the run")]

use crate::{Chunk, Index, Place, Release, Verdict, Version};

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
    const DOORS: [Door; 2] = [("release_index", super::release_index), ("release", super::release)];

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
