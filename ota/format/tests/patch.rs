//! A patch makes the chunks that a release adds, behind what the one before it had; whatever else it is, it makes nothing.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use lucid_release_format::{
    Change, Error, Index, Kind, Patch, Piece, Place,
    build::{self, patch},
    index::MAX_STORED,
    patch::{MAX_PREFIX, MAX_SECTIONS, START, Section, pieces},
};
use support::{change, generated, golden_patch, sealed};

/// Quicker than what is released with.
const LEVEL: i32 = 1;

/// A release, and the bytes of its chunks.
struct Release {
    index: Index,
    archive: Vec<u8>,
}

impl Release {
    fn of(root: &[u8]) -> Self {
        let mut archive = Vec::new();
        let index = build::release([(Kind::Root, root)], &mut archive, LEVEL).unwrap();
        Self { index, archive }
    }

    fn chunk(&self, piece: Piece) -> Result<Vec<u8>, Error> {
        let mut chunks = self.index.parts().iter().flat_map(|part| &part.chunks);
        let chunk = chunks.find(|chunk| chunk.hash == piece.hash).unwrap();
        chunk.open(&self.archive[chunk.place.offset as usize..chunk.place.end() as usize])
    }
}

/// The patch from one to another, and what it is for.
fn made(old: &Release, new: &Release) -> (Change, Option<Vec<u8>>) {
    let change = Change::between(&pieces(&old.index), &new.index);
    let bytes = patch(&change, &mut |p| old.chunk(p), &mut |p| new.chunk(p), LEVEL, &|_, _| {}).unwrap();
    (change, bytes)
}

fn read(bytes: &[u8], change: &Change) -> Result<Patch, Error> {
    let head = Patch::head_bytes(bytes)?;
    Patch::read(&bytes[..head.min(bytes.len())], change, bytes.len() as u64)
}

/// So many bytes that do not pack, and the same with one changed here and there: no chunk of the one is in the other.
fn touched(seed: u64, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let old = generated(seed, bytes);
    let mut new = old.clone();
    for at in (0..new.len()).step_by(6000) {
        new[at] ^= 1;
    }
    (old, new)
}

/// Makes all of a patch, as a device does.
fn makes(bytes: &[u8], change: &Change, old: &Release, new: &Release) {
    let patch = read(bytes, change).unwrap();
    assert_eq!(patch.bytes(), bytes.len() as u64);
    for (number, section) in patch.sections().iter().enumerate() {
        let added = &change.added()[section.before.clone()];
        let get = |piece: Piece| {
            let is_new = added.iter().any(|chunk| chunk.hash == piece.hash);
            if is_new { new.chunk(piece) } else { old.chunk(piece) }
        };
        let prefix = section.prefix(change, get).unwrap();
        assert!(prefix.len() as u64 <= MAX_PREFIX);
        for frame in section.frames.clone() {
            assert_eq!(patch.section_of(frame), number);
            let place = patch.frames()[frame];
            let stored = &bytes[place.offset as usize..place.end() as usize];
            let chunk = &change.added()[frame];
            assert!(chunk.is(&chunk.open_at(place, &prefix, stored).unwrap()));
            // What is so small is made of the prefix, and behind other bytes it is another thing.
            if place.zstd && stored.len() * 4 < chunk.raw as usize {
                assert!(chunk.open_at(place, &[0; 64], stored).is_err());
            }
        }
    }
}

#[test]
fn a_patch_makes_all_that_is_added_with_far_fewer_bytes() {
    let (old, new) = touched(31, 9 << 20);
    let (old, new) = (Release::of(&old), Release::of(&new));
    let (change, bytes) = made(&old, &new);
    let bytes = bytes.unwrap();
    assert!(bytes.len() as u64 * 10 < change.archive_bytes(), "{}", bytes.len());
    makes(&bytes, &change, &old, &new);
    let patch = read(&bytes, &change).unwrap();
    assert!(patch.sections().len() > 2, "{:?}", patch.sections());
    assert!(patch.sections()[1].before.len() > 10, "{:?}", patch.sections());
}

#[test]
fn where_the_old_is_more_than_a_prefix_holds_each_section_takes_what_it_has_most_in_common_with() {
    let (old, new) = touched(32, 24 << 20);
    // What was last is first.
    let mut new = new;
    new.rotate_left(12 << 20);
    let (old, new) = (Release::of(&old), Release::of(&new));
    let (change, bytes) = made(&old, &new);
    let bytes = bytes.unwrap();
    assert!(bytes.len() as u64 * 5 < change.archive_bytes(), "{}", bytes.len());
    makes(&bytes, &change, &old, &new);
}

#[test]
fn what_is_new_altogether_is_a_patch_as_well() {
    let (old, new) = (Release::of(&generated(33, 1 << 20)), Release::of(&generated(34, 300_000)));
    let (change, bytes) = made(&old, &new);
    makes(&bytes.unwrap(), &change, &old, &new);
}

#[test]
fn where_nothing_is_added_there_is_no_patch() {
    let root = generated(35, 2 << 20);
    let (old, new) = (Release::of(&root), Release::of(&root));
    let (change, bytes) = made(&old, &new);
    assert!(bytes.is_none() && change.added().is_empty() && change.removed().is_empty());
}

#[test]
fn a_change_is_what_only_one_of_two_has_each_once() {
    let change = change();
    let removed: Vec<u8> = change.removed().iter().map(|piece| piece.hash[0]).collect();
    let added: Vec<u8> = change.added().iter().map(|chunk| chunk.hash[0]).collect();
    assert_eq!((removed, added), (vec![9, 8], vec![2, 3, 4]));
    assert_eq!(change.archive_bytes(), 480 + 132_096 + 3616);
}

#[test]
fn what_is_read_is_written_again() {
    let (change, patch) = (change(), golden_patch());
    let head = patch.head(&change);
    assert_eq!(Patch::head_bytes(&head[..START]).unwrap(), head.len());
    assert_eq!(Patch::read(&head, &change, patch.bytes()).unwrap(), patch);
}

#[test]
fn a_damaged_head_is_refused_and_one_of_another_length() {
    let (change, patch) = (change(), golden_patch());
    let head = patch.head(&change);
    for at in 0..head.len() {
        for bit in 0..8 {
            let mut bad = head.clone();
            bad[at] ^= 1 << bit;
            assert!(Patch::read(&bad, &change, patch.bytes()).is_err(), "byte {at}, bit {bit}");
        }
        assert!(Patch::read(&head[..at], &change, patch.bytes()).is_err(), "up to byte {at}");
    }
    assert!(Patch::read(&[&head[..], b"x"].concat(), &change, patch.bytes()).is_err());
    for length in [0, patch.bytes() - 1, patch.bytes() + 1, u64::MAX] {
        assert!(Patch::read(&head, &change, length).is_err(), "{length}");
    }
}

#[test]
fn a_patch_is_for_one_old_release_and_for_one_new_one() {
    let head = golden_patch().head(&change());
    let bytes = golden_patch().bytes();
    let piece = |byte| Piece { hash: [byte; 32], raw: 1 };
    let other = Change::between(&[piece(1), piece(9), piece(8)], &support::index());
    let error = Patch::read(&head, &other, bytes).unwrap_err();
    assert!(error.to_string().contains("starts from another release"), "{error}");
    let old = [(1, 10_000), (9, 20_000), (8, 30_000), (9, 20_000)];
    let old = old.map(|(byte, raw)| Piece { hash: [byte; 32], raw });
    let other = Index::new(support::parts()[..1].to_vec()).unwrap();
    let error = Patch::read(&head, &Change::between(&old, &other), bytes).unwrap_err();
    assert!(error.to_string().contains("makes another release"), "{error}");
}

/// The golden head with some numbers changed and its hash made anew: at which byte, and which.
fn changed(numbers: &[(usize, u32)]) -> Vec<u8> {
    let mut head = golden_patch().head(&change());
    head.truncate(head.len() - 32);
    for (at, number) in numbers {
        head[*at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    sealed(&head)
}

#[test]
fn numbers_that_lie_are_refused() {
    const SECTIONS: usize = 86;
    const FRAMES: usize = SECTIONS + 2 * 16;
    let (change, bytes) = (change(), golden_patch().bytes());
    assert!(Patch::read(&changed(&[]), &change, bytes).is_ok());
    let far = u32::MAX;
    let lies: [&[(usize, u32)]; 17] = [
        // The head's length.
        &[(10, 0)],
        &[(10, far)],
        // How many sections and frames.
        &[(78, 0)],
        &[(78, far)],
        &[(82, 0)],
        &[(82, far)],
        &[(78, 1), (82, 7)],
        // Removed chunks that are none.
        &[(SECTIONS, 3)],
        &[(SECTIONS, far), (SECTIONS + 4, far)],
        &[(SECTIONS + 4, 3)],
        // Added chunks that do not come before.
        &[(SECTIONS + 8, 1)],
        &[(SECTIONS + 24, 3)],
        // Sections without frames, or with those of others: the wrong order.
        &[(SECTIONS + 12, 0)],
        &[(SECTIONS + 12, 3)],
        &[(SECTIONS + 12, far)],
        // Frames with lengths that they cannot have.
        &[(FRAMES, 0)],
        &[(FRAMES, MAX_STORED + 1)],
    ];
    for lie in lies {
        assert!(Patch::read(&changed(lie), &change, bytes).is_err(), "{lie:?}");
    }
}

#[test]
fn no_prefix_is_more_than_a_device_keeps_in_memory_and_no_head_is_too_long() {
    let many = |count: usize| -> Vec<Piece> {
        let piece = |number: usize| {
            let mut hash = [0xff; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            Piece { hash, raw: 128 << 10 }
        };
        (0..count).map(piece).collect()
    };
    let mut old = many(200);
    old.push(Piece { hash: [1; 32], raw: 10_000 });
    let change = Change::between(&old, &support::index());
    let section = |removed, frames| Section { removed, before: 0..0, frames };
    let stored = [(480, false), (131_072, false), (3616, false)];
    let of = |removed| Patch::new(&change, vec![section(removed, 0..3)], &stored);
    assert!(of(0..127).is_ok());
    assert!(of(72..199).is_ok());
    for removed in [0..128, 0..200, 100..201] {
        assert!(matches!(of(removed.clone()), Err(Error::Patch { .. })), "{removed:?}");
    }
    let sections = vec![section(0..1, 0..3); MAX_SECTIONS + 1];
    assert!(matches!(Patch::new(&change, sections, &stored), Err(Error::Patch { .. })));
    assert!(matches!(Patch::new(&change, vec![], &stored), Err(Error::Patch { .. })));
    assert!(matches!(Patch::new(&change, vec![section(0..1, 0..3)], &stored[..2]), Err(Error::Patch { .. })));
}

#[test]
fn a_frame_that_is_a_bomb_or_another_chunk_makes_nothing() {
    let new = Release::of(&generated(36, 100_000));
    let chunk = new.index.parts()[0].chunks[0];
    let raw = new.chunk((&chunk).into()).unwrap();
    let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, LEVEL).unwrap();
    let bomb = packed(&vec![0; 64 << 20]);
    let (good, empty) = (packed(&raw), packed(b""));
    let opens = |stored: &[u8], zstd| {
        let place = Place { offset: 0, length: stored.len() as u32, zstd };
        chunk.open_at(place, &[0; 1000], stored)
    };
    assert!(opens(&raw, false).unwrap() == raw && opens(&good, true).unwrap() == raw);
    for bad in
        [bomb, [&good[..], &empty].concat(), [&good[..], &good].concat(), good[1..].to_vec(), vec![], empty]
    {
        assert!(matches!(opens(&bad, true), Err(Error::Chunk { .. })));
    }
    assert!(matches!(opens(&good, false), Err(Error::Chunk { .. })));
    // Whatever the place says is there has to be there.
    let place = Place { offset: 0, length: good.len() as u32 + 1, zstd: true };
    assert!(chunk.open_at(place, &[0], &good).is_err());
}
