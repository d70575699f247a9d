//! Making a release: its index and its archive.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{Read, Write},
};

use zstd::bulk::Compressor;

use crate::{
    chunker::chunks_of_partition,
    error::{Error, Result},
    index::{Chunk, Hash, Index, Kind, MAX_PART, Part, Place},
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
