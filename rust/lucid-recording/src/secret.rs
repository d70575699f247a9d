//! Secret keys: the owner's, which opens; a part's, which seals.

use std::{fmt, path::Path};

use hpke::{Deserializable, Kem, Serializable, kem::X25519HkdfSha256};
use lucid_statement::{Hash, Hex, PublicKey, Random, key};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Context of the derivation of a key commitment.
const COMMITMENT: &str = "lucid recording v1 key commitment";

/// The secret X25519 key of an owner, an observer or a recovery recipient.
#[derive(Clone)]
pub struct OwnerSecret(Zeroizing<[u8; 32]>);

impl OwnerSecret {
    /// From its 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new one.
    #[must_use]
    pub fn generate(random: &mut Random) -> Self {
        Self(key::fresh(random))
    }

    /// Makes a new key and its file, which must not be there yet.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, random: &mut Random) -> Result<Self> {
        let secret = Self::generate(random);
        key::write_secret(path, &secret.0)?;
        Ok(secret)
    }

    /// Reads the file that [`Self::create`] made.
    ///
    /// # Errors
    /// When it cannot be read, or others may read it as well.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self(key::read_secret(path)?))
    }

    /// The public key to give to devices.
    ///
    /// # Errors
    /// When the bytes are refused, which happens for none of this length.
    pub fn public(&self) -> Result<PublicKey> {
        let public = X25519HkdfSha256::sk_to_pk(&self.private()?);
        let mut bytes = [0; 32];
        public.write_exact(&mut bytes);
        Ok(Hex(bytes))
    }

    pub(crate) fn private(&self) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey> {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&*self.0)
            .map_err(|error| Error::Argument(format!("the secret key is refused: {error}")))
    }
}

impl fmt::Debug for OwnerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerSecret")
    }
}

/// The random key of one part of a recording.
pub(crate) struct SessionKey(Zeroizing<[u8; 32]>);

impl SessionKey {
    pub(crate) fn generate(random: &mut Random) -> Self {
        Self(key::fresh(random))
    }

    /// The key with this commitment, or none. In constant time.
    pub(crate) fn open(bytes: Zeroizing<[u8; 32]>, commitment: &Hash) -> Option<Self> {
        let key = Self(bytes);
        bool::from(key.commitment().0.ct_eq(&commitment.0)).then_some(key)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What is said of the key in public: BLAKE3 in its mode `derive_key`.
    pub(crate) fn commitment(&self) -> Hash {
        Hex(blake3::derive_key(COMMITMENT, &*self.0))
    }
}
