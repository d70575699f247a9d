//! What the slots hold, so that the device can go back to the system that ran before.
//!
//! `slots.json`, sealed as `update.json`: one JSON object in a line and its BLAKE3 as a second one: `version` (1), and `a` and
//! `b`, each [`Held`] or null. It is a word of what was once so, and is held to the partitions themselves before anything is done
//! by it: a slot that was written since, by whatever system, is not what it says.
//!
//! A device cannot go back to a system that reads an earlier form of what services keep: `lucid-migrate` copies what is kept
//! before it changes its form, and removes the copy once the later system is kept. So the form that each reads is here too.

use lucid_release_format::{Kind, Release};
use serde::{Deserialize, Serialize};

use crate::{
    boot::Slot,
    disk::{Disk, Reader},
    error::{Error, Result},
    files::{Store, seal, unseal},
};

/// The file.
pub const FILE: &str = "slots.json";
/// Its version.
const VERSION: u32 = 1;
/// The most bytes of it: two releases, of 8 KiB at most each, and a little more.
const MAX_BYTES: u64 = 32 << 10;
/// So much of a partition is read at once.
const PIECE: usize = 1 << 20;

/// What a partition holds: these bytes from its start, and zeros behind them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// How many.
    pub bytes: u64,
    /// Their BLAKE3, in hex.
    hash: String,
}

impl Content {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: u64, hash: [u8; 32]) -> Self {
        Self { bytes, hash: hex::encode(hash) }
    }

    /// All that a partition holds. Takes as long as reading it does.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(disk: &dyn Disk, name: &str) -> Result<Self> {
        let failed = |source| Error::Partition { doing: "reading", name: name.to_owned(), source };
        let bytes = disk.size().map_err(failed)?;
        let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE]);
        let mut reader = Reader::new(disk, bytes);
        loop {
            let count = std::io::Read::read(&mut reader, &mut piece).map_err(failed)?;
            if count == 0 {
                return Ok(Self::new(bytes, *hasher.finalize().as_bytes()));
            }
            hasher.update(&piece[..count]);
        }
    }

    /// Their BLAKE3; none where the file did not say one.
    #[must_use]
    pub fn hash(&self) -> Option<[u8; 32]> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.hash, &mut hash).ok().map(|()| hash)
    }
}

/// A system in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Its description; of the one that the card came with, as it would have been.
    pub release: Release,
    /// Its boot partition.
    pub boot: Content,
    /// Its root partition.
    pub root: Content,
    /// The form of what services keep that it reads. It says so itself when it boots by itself; none: it never did.
    pub data: Option<u32>,
}

impl Held {
    /// What a partition holds.
    #[must_use]
    pub fn content(&self, kind: Kind) -> &Content {
        match kind {
            Kind::Boot => &self.boot,
            Kind::Root => &self.root,
        }
    }
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holdings {
    version: u32,
    a: Option<Held>,
    b: Option<Held>,
}

impl Default for Holdings {
    fn default() -> Self {
        Self { version: VERSION, a: None, b: None }
    }
}

impl Holdings {
    /// What a slot was said to hold.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Held> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
        }
    }

    /// With another word on a slot.
    #[must_use]
    pub fn with(&self, slot: Slot, held: Option<Held>) -> Self {
        let mut new = self.clone();
        match slot {
            Slot::A => new.a = held,
            Slot::B => new.b = held,
        }
        new
    }

    /// Whether a slot holds this release, and it booted by itself before.
    #[must_use]
    pub fn ran(&self, slot: Slot, release: &Release) -> bool {
        self.get(slot).is_some_and(|held| held.data.is_some() && held.release == *release)
    }

    /// Reads it.
    ///
    /// # Errors
    /// In words, when the bytes are not such a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let holdings: Self = serde_json::from_str(unseal(bytes)?).map_err(|error| error.to_string())?;
        if holdings.version != VERSION {
            return Err(format!("it has version {}, and this program reads {VERSION}", holdings.version));
        }
        for held in [&holdings.a, &holdings.b].into_iter().flatten() {
            for content in [&held.boot, &held.root] {
                if content.hash().is_none() {
                    return Err("a hash in it is not 32 bytes in hex".to_owned());
                }
            }
        }
        Ok(holdings)
    }

    /// As it is written: one line, and its seal.
    ///
    /// # Errors
    /// Never for what this module makes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let line = serde_json::to_string(self).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(seal(&line))
    }

    /// What is kept; what cannot be read is as if it were not there, with the reason. Nothing but going back depends on it.
    pub fn load(store: &dyn Store) -> (Self, Option<String>) {
        let read = match store.read(FILE, MAX_BYTES) {
            Ok(None) => return (Self::default(), None),
            Ok(Some(bytes)) => Self::from_bytes(&bytes),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(holdings) => (holdings, None),
            Err(why) => (Self::default(), Some(why)),
        }
    }

    /// Keeps it; durable when this is done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, store: &dyn Store) -> Result<()> {
        store.replace(FILE, &self.to_bytes()?)
    }
}
