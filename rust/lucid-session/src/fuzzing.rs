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
