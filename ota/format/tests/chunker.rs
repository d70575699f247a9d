//! Cuts follow from the content alone, and a part ends where its partition has nothing more.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    collections::HashSet,
    io::{Read, repeat},
};

use lucid_release_format::{
    Error, Partition,
    chunker::{AVERAGE_CHUNK, MAX_CHUNK, MIN_CHUNK},
    chunks, chunks_of_partition,
};
use support::{Broken, Slow, generated};

/// All chunks of some bytes.
fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
    chunks(bytes, bytes.len() as u64).map(|chunk| chunk.unwrap().1).collect()
}

#[test]
fn chunks_put_together_are_what_was_cut_and_within_their_bounds() {
    let sizes = [0, 1, 2, 4095, 4096, 8191, 8192, 8193, 131_071, 131_072, 131_073, 1 << 20, (3 << 20) + 17];
    for size in sizes {
        for bytes in [generated(7, size), vec![0; size], vec![0xff; size]] {
            let mut next = 0;
            let mut together = Vec::new();
            let mut short = 0;
            for chunk in chunks(bytes.as_slice(), size as u64) {
                let (offset, chunk) = chunk.unwrap();
                assert_eq!(offset, next);
                assert!((1..=MAX_CHUNK as usize).contains(&chunk.len()));
                // Only the last one.
                assert_eq!(short, 0);
                short += usize::from(chunk.len() < MIN_CHUNK as usize);
                next += chunk.len() as u64;
                together.extend(chunk);
            }
            assert!(together == bytes, "{size}");
        }
    }
    let count = cut(&generated(8, 8 << 20)).len();
    let average = (8 << 20) / count;
    assert!((average / 2..average * 2).contains(&(AVERAGE_CHUNK as usize)), "{average}");
}

#[test]
fn cuts_do_not_depend_on_how_the_bytes_come() {
    let bytes = generated(9, 600_000);
    let whole = cut(&bytes);
    assert!(whole.len() > 5);
    for most in [1, 7, 4096, 8191, 131_072, 131_073] {
        let slow = chunks(Slow::new(&bytes, most), bytes.len() as u64);
        assert!(slow.map(|chunk| chunk.unwrap().1).eq(whole.iter().cloned()), "{most}");
        let of_partition = chunks_of_partition(Slow::new(&bytes, most));
        let mut together = Vec::new();
        for chunk in of_partition {
            together.extend(chunk.unwrap().1);
        }
        assert!(together[..bytes.len()] == bytes[..], "{most}");
    }
}

#[test]
fn no_more_is_cut_than_was_asked_for() {
    let bytes = generated(10, 300_000);
    for asked in [0, 1, 100_000, 299_999] {
        let some: Vec<_> = chunks(bytes.as_slice(), asked as u64).map(|chunk| chunk.unwrap().1).collect();
        assert_eq!(some, cut(&bytes[..asked]));
    }
}

#[test]
fn what_is_inserted_changes_the_chunks_around_it_alone() {
    let before = generated(11, 4 << 20);
    let known: HashSet<Vec<u8>> = cut(&before).into_iter().collect();
    for at in [0, 1 << 20, 4 << 20] {
        let after = [&before[..at], b"something new", &before[at..]].concat();
        let new = cut(&after).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!((1..=8).contains(&new), "{new} of {} at {at}", known.len());
    }
}

#[test]
fn a_reader_that_ends_too_early_or_fails_is_an_error_and_then_nothing_comes() {
    let bytes = generated(12, 200_000);
    for missing in [1, 1000, 1 << 40] {
        let mut all = chunks(bytes.as_slice(), 200_000 + missing);
        let mut had = 0;
        let error = loop {
            match all.next().unwrap() {
                Ok((_, chunk)) => had += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(had, 200_000);
        assert!(matches!(error, Error::Short { had: 200_000, bytes } if bytes == 200_000 + missing));
        assert!(all.next().is_none());
    }
    let mut all = chunks(bytes.as_slice().chain(Broken), 300_000);
    let error = all.find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("a bad sector"));
    assert!(all.next().is_none());
    let mut all = chunks_of_partition(Broken);
    assert!(matches!(all.next(), Some(Err(Error::Io { .. }))));
    assert!(all.next().is_none());
}

/// What a part is, said in the plainest way.
fn part(partition: &[u8]) -> Vec<u8> {
    let end = partition.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut part = partition[..end].to_vec();
    part.resize(end.next_multiple_of(4096), 0);
    part
}

#[test]
fn a_part_ends_in_the_block_of_the_last_byte_that_is_not_zero() {
    let edges = [0_usize, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 131_071, 131_072, 200_000];
    for size in [0, 4096, 65_536, 131_072, 204_800] {
        for last in edges {
            for gap in edges {
                let mut partition = vec![0; size];
                for at in [last, last.saturating_sub(gap)] {
                    if let Some(byte) = partition.get_mut(at) {
                        *byte = 1;
                    }
                }
                let due = part(&partition);
                for most in [4096, 50_000, usize::MAX] {
                    let mut read = Vec::new();
                    Partition::new(Slow::new(&partition, most)).read_to_end(&mut read).unwrap();
                    assert!(read == due, "{size} {last} {gap} {most}");
                }
            }
        }
    }
    // Byte by byte, both ways.
    let mut partition = generated(13, 9000);
    partition[3000..6000].fill(0);
    partition.resize(12_288, 0);
    let mut reader = Partition::new(Slow::new(&partition, 1));
    let mut read = Vec::new();
    let mut byte = [0];
    loop {
        match reader.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => read.push(byte[0]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
        }
    }
    assert!(read == part(&partition));
    assert_eq!((reader.read(&mut byte).unwrap(), reader.read(&mut []).unwrap()), (0, 0));
}

#[test]
fn a_slot_is_cut_like_the_partition_that_was_released() {
    let part = generated(14, 81 * 4096);
    let released = cut(&part);
    for zeros in [0, 4096, 1 << 20] {
        let slot = [&part[..], &vec![0; zeros]].concat();
        let found: Vec<_> = chunks_of_partition(slot.as_slice()).map(|chunk| chunk.unwrap().1).collect();
        assert!(found == released, "{zeros}");
    }
    assert!(chunks_of_partition(repeat(0).take(1 << 20)).next().is_none());
}
