//! Making a release: its index and its archive, and its patches.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{Read, Write},
    ops::Range,
};

use zstd::{bulk::Compressor, zstd_safe::CParameter};

use crate::{
    chunker::chunks_of_partition,
    error::{Error, Result},
    index::{Chunk, Hash, Index, Kind, MAX_PART, Part, Place},
    patch::{Change, MAX_PREFIX, Patch, Piece, Section},
};

/// The level at which zstd packs what is released: slow to pack, and no slower to unpack.
pub const LEVEL: i32 = 19;

/// Cuts the partitions, writes each chunk that is not there yet to the archive, packed where that is smaller, and gives the
/// index. The readers are of whole partitions, from their first byte; [`Kind::Boot`] comes before [`Kind::Root`].
/// The same partitions make the same bytes, with the same version of zstd. Packing takes a while (a few megabytes each second
/// at [`LEVEL`]): how far it is, the caller sees by his readers.
///
/// # Errors
/// When a partition holds nothing, or more than a part may have; when a kind comes twice or in another order; when a reader or
/// the writer fails. What the archive holds then is of no use.
pub fn release<R: Read>(
    partitions: impl IntoIterator<Item = (Kind, R)>,
    mut archive: impl Write,
    level: i32,
) -> Result<Index> {
    let packing = |source| Error::Io { doing: "packing a chunk", source };
    let writing = |source| Error::Io { doing: "writing the archive", source };
    let mut compressor = Compressor::new(level).map_err(packing)?;
    let mut places: HashMap<Hash, Place> = HashMap::new();
    let mut end = 0;
    let mut parts = Vec::new();
    for (kind, partition) in partitions {
        let mut part = Part { kind, bytes: 0, hash: [0; 32], chunks: Vec::new() };
        let mut whole = blake3::Hasher::new();
        for chunk in chunks_of_partition(partition) {
            let (offset, raw) = chunk?;
            part.bytes = offset + raw.len() as u64;
            if part.bytes > MAX_PART {
                let why = format!("it holds more than {MAX_PART} bytes");
                return Err(Error::Part { kind, why });
            }
            whole.update(&raw);
            let hash = *blake3::hash(&raw).as_bytes();
            let place = match places.entry(hash) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let packed = compressor.compress(&raw).map_err(packing)?;
                    let zstd = packed.len() < raw.len();
                    let stored = if zstd { &packed } else { &raw };
                    archive.write_all(stored).map_err(writing)?;
                    let place = Place { offset: end, length: stored.len() as u32, zstd };
                    end += u64::from(place.length);
                    *new.insert(place)
                }
            };
            part.chunks.push(Chunk { hash, raw: raw.len() as u32, place });
        }
        if part.chunks.is_empty() {
            return Err(Error::Part { kind, why: "it holds nothing but zeros".to_owned() });
        }
        part.hash = *whole.finalize().as_bytes();
        parts.push(part);
    }
    archive.flush().map_err(writing)?;
    Index::new(parts)
}

/// So many added bytes have a prefix in common: a prefix is gone through once for all of them.
const SECTION: u64 = 4 << 20;
/// So many of the added bytes before it are in a section's prefix.
const BEFORE: u64 = 4 << 20;
/// What zstd remembers of a prefix: each place of it (2 to the 25th, of which half are used), where [`LEVEL`] has half as many.
const CHAIN: u32 = 25;
/// And by so many beginnings, as a power of two.
const HASH: u32 = 23;

/// Makes the patch of a change, or none where nothing is added. `old` and `new` give the bytes of removed and of added chunks;
/// each is asked for more than once. `tell` hears how many of the added bytes of how many are packed. Every frame is unpacked
/// again before it counts.
///
/// # Errors
/// When a chunk is not had, or has too many for a patch.
pub fn patch(
    change: &Change,
    old: &mut dyn FnMut(Piece) -> Result<Vec<u8>>,
    new: &mut dyn FnMut(Piece) -> Result<Vec<u8>>,
    level: i32,
    tell: &dyn Fn(u64, u64),
) -> Result<Option<Vec<u8>>> {
    let packing = |source| Error::Io { doing: "packing a patch", source };
    let (removed, added) = (change.removed(), change.added());
    if added.is_empty() {
        return Ok(None);
    }
    let all: u64 = added.iter().map(|chunk| u64::from(chunk.raw)).sum();
    let whole: u64 = removed.iter().map(|piece| u64::from(piece.raw)).sum();
    // Where all of the old goes into each prefix, nobody has to choose.
    let known = if whole + BEFORE < MAX_PREFIX { Known::default() } else { Known::of(removed, old)? };
    let (mut sections, mut stored, mut frames) = (Vec::new(), Vec::new(), Vec::new());
    let (mut next, mut done) = (0, 0);
    while next < added.len() {
        let own = next..up_to(&added[next..], SECTION) + next;
        let before = next - up_to_back(&added[..next], BEFORE)..next;
        let taken: u64 = added[before.clone()].iter().map(|chunk| u64::from(chunk.raw)).sum();
        let room = MAX_PREFIX - 1 - taken;
        let mut raws = Vec::new();
        for chunk in &added[own.clone()] {
            raws.push(new(chunk.into())?);
        }
        let removed = if whole <= room {
            0..removed.len()
        } else {
            known.window(removed, &raws, room, next * removed.len() / added.len())
        };
        let section = Section { removed, before, frames: own.clone() };
        // Hashes tell both apart: what was removed is not added.
        let mut get = |piece: Piece| if is_added(change, &section, &piece) { new(piece) } else { old(piece) };
        let prefix = section.prefix(change, &mut get)?;
        let mut compressor = Compressor::with_dictionary(level, &prefix).map_err(packing)?;
        for parameter in [CParameter::ChainLog(CHAIN), CParameter::HashLog(HASH)] {
            compressor.set_parameter(parameter).map_err(packing)?;
        }
        for (chunk, raw) in added[own].iter().zip(raws) {
            let packed = compressor.compress(&raw).map_err(packing)?;
            let zstd = packed.len() < raw.len();
            let frame = if zstd { packed } else { raw };
            let place = Place { offset: 0, length: frame.len() as u32, zstd };
            chunk.open_at(place, &prefix, &frame)?;
            stored.push((place.length, zstd));
            frames.extend_from_slice(&frame);
            done += u64::from(chunk.raw);
            tell(done, all);
        }
        next = section.frames.end;
        sections.push(section);
    }
    let mut bytes = Patch::new(change, sections, &stored)?.head(change);
    bytes.extend_from_slice(&frames);
    Ok(Some(bytes))
}

/// Whether a piece of a section's prefix is of the new release.
fn is_added(change: &Change, section: &Section, piece: &Piece) -> bool {
    change.added()[section.before.clone()].iter().any(|chunk| chunk.hash == piece.hash)
}

/// How many of the first chunks have so many bytes at most; one at least.
fn up_to(chunks: &[Chunk], most: u64) -> usize {
    let mut sum = 0;
    let fit = chunks.iter().take_while(|chunk| {
        sum += u64::from(chunk.raw);
        sum <= most
    });
    fit.count().max(1)
}

/// How many of the last chunks have so many bytes at most.
fn up_to_back(chunks: &[Chunk], most: u64) -> usize {
    let mut sum = 0;
    let fit = chunks.iter().rev().take_while(|chunk| {
        sum += u64::from(chunk.raw);
        sum <= most
    });
    fit.count()
}

/// What the removed chunks hold, by hashes of 64 bytes at one of 256 places, which the content chooses.
#[derive(Default)]
struct Known(HashMap<u64, u32>);

impl Known {
    fn of(removed: &[Piece], old: &mut dyn FnMut(Piece) -> Result<Vec<u8>>) -> Result<Self> {
        let mut known = HashMap::new();
        for (number, piece) in removed.iter().enumerate() {
            for feature in features(&old(*piece)?) {
                known.entry(feature).or_insert(number as u32);
            }
        }
        Ok(Self(known))
    }

    /// The removed chunks in a row, of so many bytes at most, that have most in common with these; where nothing is in common,
    /// those from `otherwise` on.
    fn window(&self, removed: &[Piece], raws: &[Vec<u8>], room: u64, otherwise: usize) -> Range<usize> {
        let mut votes = vec![0_u64; removed.len()];
        for feature in raws.iter().flat_map(|raw| features(raw)) {
            if let Some(vote) = self.0.get(&feature).and_then(|number| votes.get_mut(*number as usize)) {
                *vote += 1;
            }
        }
        let (mut start, mut bytes, mut sum) = (0, 0, 0);
        let (mut best, mut most) = (0..0, 0);
        for (end, piece) in removed.iter().enumerate() {
            bytes += u64::from(piece.raw);
            sum += votes[end];
            while bytes > room {
                bytes -= u64::from(removed[start].raw);
                sum -= votes[start];
                start += 1;
            }
            if sum > most {
                (best, most) = (start..end + 1, sum);
            }
        }
        if most > 0 {
            return best;
        }
        let mut bytes = 0;
        let fit = removed[otherwise..].iter().take_while(|piece| {
            bytes += u64::from(piece.raw);
            bytes <= room
        });
        otherwise..otherwise + fit.count()
    }
}

/// Hashes of the 64 bytes before some places, as a rolling hash chooses them.
fn features(bytes: &[u8]) -> Vec<u64> {
    let (mut hash, mut found) = (0_u64, Vec::new());
    for byte in bytes {
        let mixed = (u64::from(*byte) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash << 1).wrapping_add(mixed ^ (mixed >> 29));
        // One place of a run is enough.
        if hash >> 56 == 0 && found.last() != Some(&hash) {
            found.push(hash);
        }
    }
    found
}
