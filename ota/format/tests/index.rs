//! An index has one spelling, and nothing comes out of an archive that is not in the index.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use lucid_release_format::{
    Chunk, Error, Index, Kind, Part, Place,
    chunker::MAX_CHUNK,
    index::{MAX_CHUNKS, MAX_INDEX, MAX_PART, MAX_STORED},
};
use support::{generated, index, parts, sealed};

/// A part of these kinds of chunks: the number of each says its hash, length and form.
fn part(kind: Kind, numbers: &[u8], places: &mut [Option<Place>; 3], end: &mut u64) -> Part {
    let mut chunks = Vec::new();
    for number in numbers {
        let (raw, length, zstd) = match number {
            0 => (4096, 4096, false),
            1 => (8192, 1, true),
            _ => (MAX_CHUNK, MAX_STORED, true),
        };
        let place = *places[usize::from(*number)].get_or_insert(Place { offset: *end, length, zstd });
        *end = place.end().max(*end);
        chunks.push(Chunk { hash: [*number; 32], raw, place });
    }
    let bytes = chunks.iter().map(|chunk| u64::from(chunk.raw)).sum();
    Part { kind, bytes, hash: [0xaa; 32], chunks }
}

/// All lists of up to `most` numbers below three.
fn lists(most: usize) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..most {
        let to = all.len();
        for at in from..to {
            for number in 0..3 {
                let mut longer: Vec<u8> = all[at].clone();
                longer.push(number);
                all.push(longer);
            }
        }
        from = to;
    }
    all
}

#[test]
fn every_small_index_is_read_as_it_was_written() {
    let mut count = 0;
    for boot in lists(3) {
        for root in lists(3) {
            let (mut places, mut end) = ([None; 3], 0);
            let mut parts = Vec::new();
            for (kind, numbers) in [(Kind::Boot, &boot), (Kind::Root, &root)] {
                if !numbers.is_empty() {
                    parts.push(part(kind, numbers, &mut places, &mut end));
                }
            }
            if parts.is_empty() {
                continue;
            }
            let index = Index::new(parts.clone()).unwrap();
            assert_eq!((index.parts(), index.archive_bytes()), (parts.as_slice(), end));
            assert_eq!(index.part(Kind::Boot), parts.iter().find(|part| part.kind == Kind::Boot));
            assert_eq!(index.part(Kind::Root), parts.iter().find(|part| part.kind == Kind::Root));
            let bytes = index.write();
            assert_eq!(bytes.len(), 12 + 45 * parts.len() + 40 * (boot.len() + root.len()) + 32);
            assert_eq!(Index::read(&bytes).unwrap(), index);
            count += 1;
        }
    }
    assert_eq!(count, 40 * 40 - 1);
}

#[test]
fn chunks_are_placed_one_after_the_other_in_their_part() {
    let parts = parts();
    let offsets = |part: &Part| part.placed().map(|(offset, _)| offset).collect::<Vec<_>>();
    assert_eq!(offsets(&parts[0]), [0, 10_000, 20_000]);
    assert_eq!(offsets(&parts[1]), [0, 131_072, 131_552]);
    assert!(parts[0].placed().map(|(_, chunk)| chunk).eq(&parts[0].chunks));
}

#[test]
fn an_index_with_any_bit_changed_or_any_byte_more_or_less_is_refused() {
    let good = index().write();
    for at in 0..good.len() {
        assert!(Index::read(&good[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            assert!(Index::read(&damaged).is_err(), "bit {bit} of {at}");
        }
    }
    assert!(Index::read(&[&good[..], &[0]].concat()).is_err());
    assert!(Index::read(&[&[0], &good[..]].concat()).is_err());
    assert!(Index::read(&vec![0; MAX_INDEX + 1]).is_err());
}

/// Where in the golden index something stands: the first part's kind, bytes and number of chunks, its chunks, the second part.
const KIND: usize = 12;
const BYTES: usize = 13;
const COUNT: usize = 53;
const CHUNKS: usize = 57;
const ROOT: usize = 177;

/// Where the length of a chunk of the first part stands, and what it takes in the archive four bytes later.
const fn raw(chunk: usize) -> usize {
    CHUNKS + 40 * chunk + 32
}

#[test]
fn what_the_format_does_not_allow_is_refused_though_the_hash_is_right() {
    let good = index().write();
    let good = &good[..good.len() - 32];
    assert_eq!(good.len(), 342);
    let zstd = 1_u32 << 31;
    let long = |value: u64| value.to_le_bytes().to_vec();
    let int = |value: u32| value.to_le_bytes().to_vec();
    let changes = [
        ("no parts", 10, vec![0, 0]),
        ("a part less than there is", 10, vec![1, 0]),
        ("a part more than there is", 10, vec![3, 0]),
        ("as many parts as can be said", 10, vec![255, 255]),
        ("kind 0", KIND, vec![0]),
        ("root twice", KIND, vec![2]),
        ("kind 3", KIND, vec![3]),
        ("boot twice", ROOT, vec![1]),
        ("kind 3 at last", ROOT, vec![3]),
        ("a part of no bytes", BYTES, long(0)),
        ("a part of a byte more", BYTES, long(20_481)),
        ("a part of more than its chunks", BYTES, long(24_576)),
        ("a part of less than its chunks", BYTES, long(16_384)),
        ("a part of too many bytes", BYTES, long(MAX_PART + 4096)),
        ("a part of as many bytes as can be said", BYTES, long(u64::MAX)),
        ("no chunks", COUNT, int(0)),
        ("a chunk less", COUNT, int(2)),
        ("a chunk more", COUNT, int(4)),
        ("as many chunks as can be said", COUNT, int(u32::MAX)),
        ("a chunk of no bytes", raw(0), int(0)),
        ("a chunk of too many bytes", raw(0), int(MAX_CHUNK + 1)),
        ("a chunk of as many bytes as can be said", raw(0), int(u32::MAX)),
        ("the same chunk in another length", raw(1), int(9999)),
        ("a chunk that is to be stored before and is not", raw(0) + 4, int(0)),
        ("another chunk that is to be stored before and is not", CHUNKS + 40, vec![9]),
        ("a chunk that is packed to nothing", raw(0) + 4, int(zstd)),
        ("a chunk that is packed to too much", raw(0) + 4, int(zstd | (MAX_STORED + 1))),
        ("a chunk that is stored as it is, and shorter", raw(0) + 4, int(9999)),
        ("a chunk that is stored as it is, and longer", raw(0) + 4, int(10_001)),
        ("a chunk that is stored twice", raw(1) + 4, int(zstd | 5000)),
    ];
    for (what, at, bytes) in changes {
        let mut changed = good.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(&bytes);
        assert!(matches!(Index::read(&sealed(&changed)), Err(Error::Index { .. })), "{what}");
    }
    for end in 0..good.len() {
        assert!(Index::read(&sealed(&good[..end])).is_err(), "it ends at {end}");
    }
    assert!(Index::read(&sealed(&[good, &[0]].concat())).is_err());
    assert!(Index::read(&sealed(good)).is_ok());
}

#[test]
fn an_index_of_a_later_version_is_told_from_a_damaged_one() {
    let mut later = index().write();
    later[8] = 2;
    assert!(matches!(Index::read(&later), Err(Error::Format { version: 2, .. })));
}

#[test]
fn an_index_is_not_made_of_parts_that_could_not_be_read() {
    let change = |change: fn(&mut Vec<Part>)| {
        let mut parts = parts();
        change(&mut parts);
        Index::new(parts)
    };
    assert!(change(|_| {}).is_ok());
    let changes: [fn(&mut Vec<Part>); 12] = [
        |parts| parts.clear(),
        |parts| parts.reverse(),
        |parts| parts[1].kind = Kind::Boot,
        |parts| parts.push(parts[1].clone()),
        |parts| parts[0].bytes += 4096,
        |parts| parts[0].chunks.clear(),
        |parts| parts[0].chunks[0].place.offset = 1,
        |parts| parts[0].chunks[1].place.offset = 5000,
        |parts| parts[0].chunks[1].place.zstd = false,
        |parts| parts[1].chunks[0].place.offset += 1,
        |parts| parts[1].chunks[0].place.length = 0,
        |parts| parts[1].chunks[0].place.zstd = false,
    ];
    for (number, wrong) in changes.into_iter().enumerate() {
        assert!(matches!(change(wrong), Err(Error::Index { .. })), "change {number}");
    }
}

#[test]
fn the_largest_index_is_read_and_a_larger_one_is_not_made() {
    let mut end = 0;
    let mut part = |kind: Kind| {
        let chunks: Vec<Chunk> = (0..MAX_CHUNKS)
            .map(|number| {
                let mut hash = [kind as u8; 32];
                hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
                let place = Place { offset: end, length: 4096, zstd: false };
                end = place.end();
                Chunk { hash, raw: 4096, place }
            })
            .collect();
        Part { kind, bytes: 4096 * MAX_CHUNKS as u64, hash: [0; 32], chunks }
    };
    let mut parts = vec![part(Kind::Boot), part(Kind::Root)];
    let index = Index::new(parts.clone()).unwrap();
    let bytes = index.write();
    assert!(bytes.len() <= MAX_INDEX);
    assert!(Index::read(&bytes).unwrap() == index);
    let root = &mut parts[1];
    root.chunks.push(root.chunks[0]);
    root.bytes += 4096;
    assert!(Index::new(parts).is_err());
}

/// The chunk of these bytes, stored like this.
fn chunk(bytes: &[u8], stored: &[u8], zstd: bool) -> Chunk {
    let place = Place { offset: 0, length: stored.len() as u32, zstd };
    Chunk { hash: *blake3::hash(bytes).as_bytes(), raw: bytes.len() as u32, place }
}

#[test]
fn a_chunk_comes_out_of_the_archive_as_it_went_in_or_not_at_all() {
    let mut bytes = generated(3, 3000);
    bytes.extend_from_within(..2000);
    let packed = zstd::bulk::compress(&bytes, 19).unwrap();
    assert!(packed.len() < bytes.len());
    for (stored, zstd) in [(&packed, true), (&bytes, false)] {
        let chunk = chunk(&bytes, stored, zstd);
        assert_eq!(chunk.open(stored).unwrap(), bytes);
        for at in 0..stored.len() {
            assert!(chunk.open(&stored[..at]).is_err(), "cut at {at}");
            let mut damaged = stored.clone();
            damaged[at] ^= 1 << (at % 8);
            match chunk.open(&damaged) {
                Ok(opened) => assert_eq!(opened, bytes, "damaged at {at}"),
                Err(error) => assert!(matches!(error, Error::Chunk { .. })),
            }
            // Nor when the index says that it is shorter in the archive.
            let mut shorter = chunk;
            shorter.place.length = at as u32;
            assert!(shorter.open(&stored[..at]).is_err(), "shorter by {at}");
        }
        let longer = [&stored[..], &[0]].concat();
        assert!(chunk.open(&longer).is_err());
        let mut wrong = chunk;
        wrong.place.length += 1;
        assert!(wrong.open(&longer).is_err());
        for raw in [0, 1, chunk.raw - 1, chunk.raw + 1, MAX_CHUNK, MAX_CHUNK + 1, u32::MAX] {
            assert!(Chunk { raw, ..chunk }.open(stored).is_err(), "of {raw} bytes");
        }
        assert!(Chunk { hash: [0; 32], ..chunk }.open(stored).is_err());
    }
    assert!(chunk(&bytes, &packed, false).open(&packed).is_err());
    assert!(chunk(&bytes, &bytes, true).open(&bytes).is_err());
}

#[test]
fn a_chunk_is_one_frame() {
    let (one, two) = (generated(4, 1000), generated(5, 1000));
    let [first, second] = [&one, &two].map(|bytes| zstd::bulk::compress(bytes, 3).unwrap());
    let (bytes, stored) = ([&one[..], &two[..]].concat(), [&first[..], &second[..]].concat());
    assert!(chunk(&bytes, &stored, true).open(&stored).is_err());
    // A frame to be skipped: its magic number, its length, and four bytes.
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    for stored in [[&skipped[..], &first[..]].concat(), [&first[..], &skipped[..]].concat()] {
        assert!(chunk(&one, &stored, true).open(&stored).is_err());
    }
    assert!(chunk(&one, &first, true).open(&first).is_ok());
}

#[test]
fn what_unpacks_to_more_than_the_chunk_is_refused() {
    let zeros = vec![0; 64 << 20];
    let bomb = zstd::bulk::compress(&zeros, 3).unwrap();
    for raw in [1, 4096, MAX_CHUNK as usize] {
        assert!(chunk(&zeros[..raw], &bomb, true).open(&bomb).is_err(), "{raw}");
    }
}

#[test]
fn a_chunk_is_its_bytes_alone() {
    let bytes = generated(6, 100);
    let chunk = chunk(&bytes, &bytes, false);
    assert!(chunk.is(&bytes));
    assert!(!chunk.is(&bytes[..99]));
    assert!(!chunk.is(&[]));
    assert!(!Chunk { raw: 99, ..chunk }.is(&bytes));
    assert!(!Chunk { hash: [0; 32], ..chunk }.is(&bytes));
}
