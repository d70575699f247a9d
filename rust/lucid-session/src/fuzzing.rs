//! The door through which bytes of others come in, for the fuzz target and for the test that replays its corpus. Built with
//! the feature `fuzzing` and for tests alone.

use crate::{pointer, sound, video};

/// A record's payload; the first byte names its stream. Panics when what was read is not written as it was.
pub fn record(bytes: &[u8]) {
    let Some((stream, payload)) = bytes.split_first() else { return };
    match stream {
        1 => {
            let Ok(record) = video::Record::read(payload) else { return };
            let mut again = Vec::new();
            record.write(&mut again);
            assert_eq!(again, payload, "a record of the video stream has two spellings");
        }
        3 => {
            let mut again = Vec::new();
            for entry in pointer::entries(payload) {
                let Ok(entry) = entry else { return };
                entry.write(&mut again);
            }
            assert_eq!(again, payload, "a record of the pointer stream has two spellings");
        }
        4 => {
            let Ok(piece) = sound::Piece::read(payload) else { return };
            assert_eq!(piece.write(), payload, "a record of the sound stream has two spellings");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn every_input_of_the_corpus_is_borne_and_damaged_ones_as_well() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/streams");
        let mut inputs = 0;
        for file in fs::read_dir(corpus).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            super::record(&bytes);
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                super::record(&damaged);
                super::record(&bytes[..at]);
            }
            inputs += 1;
        }
        assert!(inputs > 0);
    }
}
