//! The dm-verity tree, made in memory.
//!
//! Format (kernel documentation, `device-mapper/verity.rst`): hash type 1 (`sha256(salt || block)`),
//! 4096-byte data and hash blocks, 128 digests to a hash block, the rest of a hash block zero.
//! No superblock: the tree begins directly behind the data, its top level first.

use sha2::{Digest, Sha256};

/// Size of a data block and of a hash block.
pub const BLOCK: usize = 4096;
/// Digests in one hash block.
const FANOUT: usize = BLOCK / 32;

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The tree of some data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What the kernel is told on its command line.
    pub root: Hash,
    /// The hash blocks in the order in which they lie on the disk.
    pub blocks: Vec<u8>,
}

/// `sha256(salt || block)`.
#[must_use]
pub fn digest(salt: &[u8], block: &[u8]) -> Hash {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

/// Packs digests into hash blocks.
fn pack(hashes: &[Hash]) -> Vec<u8> {
    let mut blocks = vec![0; hashes.len().div_ceil(FANOUT) * BLOCK];
    for (slot, hash) in blocks.chunks_exact_mut(32).zip(hashes) {
        slot.copy_from_slice(hash);
    }
    blocks
}

/// Makes the tree of `data`, whose length is a multiple of [`BLOCK`] and at least one block.
#[must_use]
pub fn tree(data: &[u8], salt: &[u8]) -> Tree {
    let mut hashes: Vec<Hash> = data.chunks(BLOCK).map(|block| digest(salt, block)).collect();
    let mut levels = Vec::new();
    while hashes.len() > 1 {
        let level = pack(&hashes);
        hashes = level.chunks_exact(BLOCK).map(|block| digest(salt, block)).collect();
        levels.push(level);
    }
    let blocks = levels.into_iter().rev().flatten().collect();
    Tree { root: hashes.first().copied().unwrap_or_default(), blocks }
}

/// The part of the kernel command line that names the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Number of data blocks; the tree begins behind them.
    pub data_blocks: u64,
    /// Salt of every digest.
    pub salt: Vec<u8>,
    /// Digest of the top block.
    pub root: Hash,
}

impl Parameters {
    /// Finds `lucid.verity=v1,<data blocks>,<salt>,<root hash>` in a kernel command line.
    ///
    /// # Errors
    /// Says what is missing or malformed.
    pub fn parse(command_line: &str) -> Result<Self, String> {
        let value = command_line
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("lucid.verity="))
            .ok_or("no lucid.verity= in the command line")?;
        let mut parts = value.split(',');
        let (Some("v1"), Some(blocks), Some(salt), Some(root), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("lucid.verity={value} is not v1,<blocks>,<salt>,<root hash>"));
        };
        let data_blocks =
            blocks.parse().map_err(|error| format!("lucid.verity: data blocks {blocks}: {error}"))?;
        let salt = hex::decode(salt).map_err(|error| format!("lucid.verity: salt: {error}"))?;
        let mut hash = Hash::default();
        hex::decode_to_slice(root, &mut hash).map_err(|error| format!("lucid.verity: root hash: {error}"))?;
        Ok(Self { data_blocks, salt, root: hash })
    }

    /// Bytes of data, where the tree begins; `None` when no disk could hold it.
    #[must_use]
    pub fn data_bytes(&self) -> Option<u64> {
        self.data_blocks.checked_mul(BLOCK as u64)
    }

    /// Number of hash blocks.
    #[must_use]
    pub fn hash_blocks(&self) -> u64 {
        let (mut level, mut sum) = (self.data_blocks, 0);
        while level > 1 {
            level = level.div_ceil(FANOUT as u64);
            sum += level;
        }
        sum
    }

    /// As it stands in the command line.
    #[must_use]
    pub fn to_argument(&self) -> String {
        format!("v1,{},{},{}", self.data_blocks, hex::encode(&self.salt), hex::encode(self.root))
    }

    /// Checks every block of a root partition's contents, which end with the tree.
    ///
    /// # Errors
    /// Names the first block that is not what it was when the image was made.
    pub fn check(&self, contents: &[u8]) -> Result<(), String> {
        let data_bytes = self
            .data_bytes()
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0 && *bytes <= contents.len())
            .ok_or_else(|| format!("{} data blocks do not fit into the partition", self.data_blocks))?;
        let (data, hashes) = contents.split_at(data_bytes);
        let mut level_blocks = Vec::new();
        let mut count = data.len() / BLOCK;
        while count > 1 {
            count = count.div_ceil(FANOUT);
            level_blocks.push(count);
        }
        if hashes.len() != level_blocks.iter().sum::<usize>() * BLOCK {
            return Err(format!("the hash tree has {} bytes, which is not its size", hashes.len()));
        }
        // From the top down: a level is believed once the level above has confirmed it.
        let mut expected = vec![self.root];
        let mut rest = hashes;
        for count in level_blocks.iter().rev() {
            let (level, below) = rest.split_at(count * BLOCK);
            let offset = contents.len() - rest.len();
            if let Some(bad) = first_bad(level, &expected, &self.salt) {
                return Err(format!("hash block at byte {} of the partition is wrong", offset + bad * BLOCK));
            }
            expected = level.chunks_exact(32).map(|chunk| chunk.try_into().unwrap_or_default()).collect();
            rest = below;
        }
        match first_bad(data, &expected, &self.salt) {
            Some(bad) => Err(format!("data block {bad} at byte {} of the partition is wrong", bad * BLOCK)),
            None => Ok(()),
        }
    }
}

/// The first block of `level` whose digest is not the expected one.
fn first_bad(level: &[u8], expected: &[Hash], salt: &[u8]) -> Option<usize> {
    level
        .chunks(BLOCK)
        .enumerate()
        .find(|(index, block)| expected.get(*index) != Some(&digest(salt, block)))
        .map(|(index, _)| index)
}
