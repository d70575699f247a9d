//! What the streams of a recorded session hold, version 1.
//!
//! | stream | number | kept | a record holds |
//! | --- | --- | --- | --- |
//! | `video` | 1 | as it is | a key picture, or what the client was sent for one picture: [`video`] |
//! | `audit` | 2 | zstd | whole lines of `lucid-audit`, each with a line feed |
//! | `pointer` | 3 | zstd | movements and shapes of the pointer: [`pointer`] |
//! | `sound` | 4 | as it is | a piece of sound as the client was sent it: [`sound`] |
//!
//! All numbers in records are little-endian. A reader that begins at a key of the video stream needs nothing that came
//! before: the first records of the other streams after it say all of what then holds.

mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod pointer;
pub mod sound;
pub mod video;

pub use error::Error;

/// A stream of a session's recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its number, which each of its records has.
    pub number: u8,
    /// Its name.
    pub name: &'static str,
    /// Whether its records are compressed with zstd.
    pub compressed: bool,
}

/// Pictures.
pub const VIDEO: Stream = Stream { number: 1, name: "video", compressed: false };
/// Events.
pub const AUDIT: Stream = Stream { number: 2, name: "audit", compressed: true };
/// The pointer.
pub const POINTER: Stream = Stream { number: 3, name: "pointer", compressed: true };
/// Sound.
pub const SOUND: Stream = Stream { number: 4, name: "sound", compressed: false };
/// All streams.
pub const STREAMS: [Stream; 4] = [VIDEO, AUDIT, POINTER, SOUND];
/// The most pixels of an edge, of pictures and of where the pointer is.
pub const MAX_EDGE: u16 = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_records_stay_as_they_are() {
        let mut bytes = Vec::new();
        let mut golden = |wanted: &[u8], write: &dyn Fn(&mut Vec<u8>)| {
            bytes.clear();
            write(&mut bytes);
            assert_eq!(bytes, wanted);
        };
        use pointer::{Change, Entry, Shape};
        use sound::{Coding, Piece};
        use video::Record;
        golden(&[0, 128, 2, 224, 1, 7, 8], &|out| {
            Record::Key { width: 640, height: 480, png: &[7, 8] }.write(out)
        });
        golden(&[1, 9], &|out| Record::Frame(&[9]).write(out));
        golden(&[2, 9], &|out| Record::More(&[9]).write(out));
        golden(&[0, 5, 0, 44, 1, 2, 0], &|out| {
            Entry { ms_before: 5, change: Change::Moved(300, 2) }.write(out);
        });
        golden(&[1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4], &|out| {
            let shape = Shape { width: 1, height: 1, hotspot: (0, 0), rgba: &[1, 2, 3, 4] };
            Entry { ms_before: 256, change: Change::Shape(shape) }.write(out);
        });
        golden(&[2, 0, 0], &|out| Entry { ms_before: 0, change: Change::Hidden }.write(out));
        for (coding, head) in [
            (Coding::Pcm, [0, 2, 0, 0]),
            (Coding::Opus, [1, 2, 0, 0]),
            (Coding::ImaAdpcm(1024), [2, 2, 0, 4]),
        ] {
            let wanted = [head.as_slice(), &[0x80, 0xbb, 0, 0, 9]].concat();
            golden(&wanted, &|out| {
                out.extend(Piece { coding, channels: 2, rate: 48000, bytes: &[9] }.write());
            });
        }
    }
}
