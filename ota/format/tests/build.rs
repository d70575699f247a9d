//! What was released comes out of the index and the archive, and each different chunk is stored once.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    collections::HashSet,
    io::{self, Read, Write},
};

use lucid_release_format::{
    Error, Index, Kind, build,
    index::{MAX_PART, MAX_STORED},
};
use support::{Broken, generated};

/// Quicker than what is released with.
const LEVEL: i32 = 3;

fn built(parts: &[(Kind, &[u8])]) -> (Index, Vec<u8>) {
    let mut archive = Vec::new();
    let index = build::release(parts.iter().copied(), &mut archive, LEVEL).unwrap();
    (index, archive)
}

/// A part with much in it that is there twice, that packs well, and that does not pack.
fn part() -> Vec<u8> {
    let random = generated(15, 150 * 4096);
    let low: Vec<u8> = generated(16, 100 * 4096).into_iter().map(|byte| byte & 3).collect();
    let mut part = [&random[..], &low, &vec![0; 100 * 4096], &random, b"the end"].concat();
    part.resize(part.len().next_multiple_of(4096), 0);
    part
}

#[test]
fn parts_come_out_of_index_and_archive_as_they_went_in() {
    let (boot, root) = (generated(17, 30 * 4096), part());
    let sources = [(Kind::Boot, boot.as_slice()), (Kind::Root, root.as_slice())];
    for sources in [&sources[..], &sources[..1], &sources[1..]] {
        let (index, archive) = built(sources);
        assert_eq!(index.archive_bytes(), archive.len() as u64);
        assert_eq!(Index::read(&index.write()).unwrap(), index);
        assert_eq!(index.parts().len(), sources.len());
        for (part, (kind, source)) in index.parts().iter().zip(sources) {
            assert_eq!((part.kind, part.bytes), (*kind, source.len() as u64));
            assert_eq!(part.hash, *blake3::hash(source).as_bytes());
            let mut together = Vec::new();
            for (offset, chunk) in part.placed() {
                assert_eq!(offset, together.len() as u64);
                let place = chunk.place;
                assert!(place.length <= MAX_STORED);
                let stored = &archive[place.offset as usize..place.end() as usize];
                together.extend(chunk.open(stored).unwrap());
            }
            assert!(together == *source);
        }
    }
}

#[test]
fn each_different_chunk_is_stored_once_in_whichever_part_and_packed_where_that_is_smaller() {
    let root = part();
    let root = root.as_slice();
    let (index, archive) = built(&[(Kind::Boot, root), (Kind::Root, root)]);
    let (alone, archive_alone) = built(&[(Kind::Root, root)]);
    assert!(archive == archive_alone);
    assert_eq!(index.parts()[1].chunks, alone.parts()[0].chunks);
    let chunks = &alone.parts()[0].chunks;
    let places: HashSet<u64> = chunks.iter().map(|chunk| chunk.place.offset).collect();
    assert!(places.len() < chunks.len());
    assert!(chunks.iter().any(|chunk| !chunk.place.zstd) && chunks.iter().any(|chunk| chunk.place.zstd));
    for chunk in chunks {
        assert!(if chunk.place.zstd {
            chunk.place.length < chunk.raw
        } else {
            chunk.place.length == chunk.raw
        });
    }
}

#[test]
fn the_same_partitions_make_the_same_bytes_and_zeros_after_them_make_no_difference() {
    let root = part();
    let longer = [&root[..], &vec![0; 5 << 20]].concat();
    let (index, archive) = built(&[(Kind::Root, root.as_slice())]);
    for again in [built(&[(Kind::Root, root.as_slice())]), built(&[(Kind::Root, longer.as_slice())])] {
        assert!(again == (index.clone(), archive.clone()));
    }
}

#[test]
fn a_partition_that_is_empty_or_too_large_is_not_released() {
    let release =
        |reader: Box<dyn Read>| build::release([(Kind::Boot, reader)], io::sink(), LEVEL).unwrap_err();
    for zeros in [0, 1, 1 << 20] {
        let error = release(Box::new(io::repeat(0).take(zeros)));
        assert!(matches!(error, Error::Part { kind: Kind::Boot, .. }), "{zeros}");
    }
    let error = release(Box::new(io::repeat(1).take(MAX_PART + 1)));
    assert!(matches!(error, Error::Part { kind: Kind::Boot, .. }));
    assert!(matches!(release(Box::new(Broken)), Error::Io { .. }));
}

#[test]
fn parts_in_another_order_are_not_released() {
    let bytes = generated(18, 4096);
    let (boot, root) = ((Kind::Boot, bytes.as_slice()), (Kind::Root, bytes.as_slice()));
    for parts in [vec![], vec![root, boot], vec![boot, boot], vec![boot, root, root]] {
        let error = build::release(parts, io::sink(), LEVEL).unwrap_err();
        assert!(matches!(error, Error::Index { .. }));
    }
}

/// Has room for so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = bytes.len().min(self.0);
        self.0 -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_archive_that_cannot_be_written_makes_no_index() {
    let root = part();
    let (_, archive) = built(&[(Kind::Root, root.as_slice())]);
    let written = |room| build::release([(Kind::Root, root.as_slice())], Full(room), LEVEL);
    for room in [0, 1, archive.len() / 2, archive.len() - 1] {
        assert!(matches!(written(room), Err(Error::Io { .. })), "{room}");
    }
    assert!(written(archive.len()).is_ok());
}
