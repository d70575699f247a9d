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
