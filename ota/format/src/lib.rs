//! What a release is: its description, its index of chunks, and how parts of a disk are cut.
//!
//! A release is up to two **parts** of the disk image ([`Kind`]): the FAT of a boot slot, and the EROFS of a root slot with its
//! verity tree. A part is the bytes of its partition from the start to the last one that is not zero, and zeros after it up to
//! a multiple of 4096 ([`Partition`]). Whoever writes a part into a partition makes all bytes behind it zeros, so that a slot
//! is, byte for byte, the partition that was released. Both slots of a kind are alike, so a release does not say to which it
//! goes.
//!
//! | | | |
//! | --- | --- | --- |
//! | [`Release`] | JSON, signed with the list of all releases | for whom it is, since when, what a device has to run before |
//! | [`mod@index`] | `lucid-M-V.index` | each part as a list of chunks, with their hashes and places in the archive |
//! | the archive | `lucid-M-V.chunks` | the chunks, packed, each once, one after the other |
//! | [`mod@patch`] | `lucid-M-V-from-W.patch` | the same chunks once more, packed with the help of an older release `W` |
//! | [`System`] | `system.json` | what an image says of itself |
//! | [`mod@metadata`] | | bounds and marks of the signed metadata, for both sides |
//! | [`mod@chunker`] | | where a part is cut: what a device has already is cut alike |
//!
//! So a device reads of the archive what it has nowhere, and writes nothing whose hash is not in the index.
//!
//! Nothing here has a clock, randomness, a file or a network: the caller says what time it is, and brings readers and writers.

pub mod build;
pub mod chunker;
mod cursor;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod index;
pub mod metadata;
pub mod patch;
pub mod release;
mod system;
mod version;

pub use chunker::{Chunks, Partition, chunks, chunks_of_partition};
pub use error::{Error, Result};
pub use index::{Chunk, Hash, Index, Kind, Part, Place};
pub use patch::{Change, Patch, Piece};
pub use release::{Name, Release, Verdict, Wave};
pub use system::System;
pub use version::Version;
