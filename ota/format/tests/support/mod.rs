//! What the tests share: data that is the same in every run, and a release whose every byte is known.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use std::io::{self, ErrorKind, Read};

use lucid_release_format::{
    Change, Chunk, Index, Kind, Part, Patch, Piece, Place, Release, Version, Wave, patch::Section,
};

/// Bytes of Marsaglia's xorshift64 (13, 7, 17), each number little-endian, from a seed that is not zero.
pub fn generated(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut made = Vec::with_capacity(bytes + 8);
    while made.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        made.extend_from_slice(&state.to_le_bytes());
    }
    made.truncate(bytes);
    made
}

/// 16 MiB whose cuts are kept: 8 MiB that nothing packs, 2 MiB of zeros, 4 MiB of 32 different bytes, and the first 2 MiB
/// again.
pub fn data() -> Vec<u8> {
    let random = generated(1, 8 << 20);
    let low: Vec<u8> = generated(2, 4 << 20).into_iter().map(|byte| byte & 0x1f).collect();
    [&random[..], &vec![0; 2 << 20], &low, &random[..2 << 20]].concat()
}

/// A content of an index with the hash at its end.
pub fn sealed(content: &[u8]) -> Vec<u8> {
    [content, blake3::hash(content).as_bytes()].concat()
}

/// The parts of the golden index. The hashes are no hashes of anything.
pub fn parts() -> Vec<Part> {
    let chunk = |byte, raw, offset, length, zstd| {
        let place = Place { offset, length, zstd };
        Chunk { hash: [byte; 32], raw, place }
    };
    let (one, two) = (chunk(1, 10_000, 0, 5000, true), chunk(2, 480, 5000, 480, false));
    let boot = vec![one, one, two];
    let root = vec![chunk(3, 131_072, 5480, 132_096, true), two, chunk(4, 3616, 137_576, 3616, false)];
    vec![
        Part { kind: Kind::Boot, bytes: 20_480, hash: [0xb0; 32], chunks: boot },
        Part { kind: Kind::Root, bytes: 135_168, hash: [0xb1; 32], chunks: root },
    ]
}

/// The golden index.
pub fn index() -> Index {
    Index::new(parts()).unwrap()
}

/// The change that the golden patch is for: to the golden index, from a release that has one of its chunks.
pub fn change() -> Change {
    let old = [(1, 10_000), (9, 20_000), (8, 30_000), (9, 20_000)];
    Change::between(&old.map(|(byte, raw)| Piece { hash: [byte; 32], raw }), &index())
}

/// The golden patch.
pub fn golden_patch() -> Patch {
    let sections = vec![
        Section { removed: 0..2, before: 0..0, frames: 0..2 },
        Section { removed: 1..2, before: 1..2, frames: 2..3 },
    ];
    Patch::new(&change(), sections, &[(100, true), (5000, true), (3616, false)]).unwrap()
}

/// The golden description.
pub fn release() -> Release {
    Release {
        channel: "stable".parse().unwrap(),
        machine: "qemu-arm64".parse().unwrap(),
        min_from: Version::new(0, 1, 0),
        min_version: Version::new(0, 1, 0),
        paused: false,
        released: 1_795_400_000,
        version: Version::new(0, 2, 0),
        waves: vec![Wave { after: 0, share: 100 }, Wave { after: 86_400, share: 1000 }],
    }
}

/// Gives at most so many bytes at once, and is interrupted before each.
pub struct Slow<'a> {
    bytes: &'a [u8],
    most: usize,
    interrupted: bool,
}

impl<'a> Slow<'a> {
    pub fn new(bytes: &'a [u8], most: usize) -> Self {
        Self { bytes, most, interrupted: false }
    }
}

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(ErrorKind::Interrupted.into());
        }
        let most = self.most.min(out.len());
        self.bytes.read(&mut out[..most])
    }
}

/// Fails, as a disk does, after what is before it was read.
pub struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("a bad sector"))
    }
}
