//! The memory, `trust.json`.
//!
//! It is two lines: one JSON object (`version` 1, `roots`: the texts of the roots in order of their versions,
//! `timestamp` and `snapshot`: their texts or null, `latest`: seconds since 1970), then the BLAKE3 of that line in hex.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    files::{Store, seal, unseal},
};

/// The file.
pub const FILE: &str = "trust.json";
/// Its version.
const VERSION: u32 = 1;
/// The most bytes of it.
const MAX_BYTES: u64 = 8 << 20;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The roots that were accepted after the image's own, in order of their versions.
    pub roots: Vec<Vec<u8>>,
    /// The newest timestamp.
    pub timestamp: Option<Vec<u8>>,
    /// The newest snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// When all was well last, in seconds since 1970.
    pub latest: i64,
}

/// What there was of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// No file.
    Nothing,
    /// A file that is none, and why. The floor of the state and the running version go on protecting.
    Lost(String),
    /// This.
    Memory(Memory),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u32,
    roots: Vec<String>,
    timestamp: Option<String>,
    snapshot: Option<String>,
    latest: i64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// In words, when the bytes are not such a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_str(unseal(bytes)?).map_err(|error| error.to_string())?;
        if wire.version != VERSION {
            return Err(format!("it has version {}, and this program reads {VERSION}", wire.version));
        }
        Ok(Self {
            roots: wire.roots.into_iter().map(String::into_bytes).collect(),
            timestamp: wire.timestamp.map(String::into_bytes),
            snapshot: wire.snapshot.map(String::into_bytes),
            latest: wire.latest,
        })
    }

    /// As it is written.
    ///
    /// # Errors
    /// When something in it is no text, which nothing is that was accepted.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let text = |bytes: &Vec<u8>| {
            String::from_utf8(bytes.clone()).map_err(|error| Error::Internal(error.to_string()))
        };
        let wire = Wire {
            version: VERSION,
            roots: self.roots.iter().map(text).collect::<Result<_>>()?,
            timestamp: self.timestamp.as_ref().map(text).transpose()?,
            snapshot: self.snapshot.as_ref().map(text).transpose()?,
            latest: self.latest,
        };
        let line = serde_json::to_string(&wire).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(seal(&line))
    }

    /// What is kept, or why there is nothing that can be used.
    ///
    /// # Errors
    /// When the disk does not give it.
    pub fn load(store: &dyn Store) -> Result<Kept> {
        match store.read(FILE, MAX_BYTES) {
            Ok(None) => Ok(Kept::Nothing),
            Ok(Some(bytes)) => Ok(Self::from_bytes(&bytes).map_or_else(Kept::Lost, Kept::Memory)),
            Err(Error::Invalid { why, .. }) => Ok(Kept::Lost(why)),
            Err(error) => Err(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_comes_back_and_a_changed_one_is_seen() {
        let memory = Memory {
            roots: vec![b"{\"a\":1}\n".to_vec()],
            timestamp: Some(b"{}".to_vec()),
            snapshot: None,
            latest: 1_795_400_000,
        };
        let bytes = memory.to_bytes().unwrap();
        assert_eq!(Memory::from_bytes(&bytes).unwrap(), memory);
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Memory::from_bytes(&changed).is_err(), "byte {at}");
            assert!(Memory::from_bytes(&bytes[..at]).is_err(), "up to byte {at}");
        }
    }
}
