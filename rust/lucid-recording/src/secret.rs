//! Keys: the device's, which signs; the owner's, which opens; a part's, which seals.
//!
//! A secret key's file holds 64 lower-case hexadecimal digits and a line feed, and only its owner may read it.

use std::{
    fmt,
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use getrandom::{
    SysRng,
    rand_core::{CryptoRng, Rng, UnwrapErr},
};
use hpke::{Deserializable, Kem, Serializable, kem::X25519HkdfSha256};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    error::{At, Error, Result},
    value::{Hash, Hex, PublicKey, Signature},
};

/// Where keys and salts come from.
pub type Random = Box<dyn CryptoRng + Send>;

/// The system's random bytes. A system that has none (Linux before its first entropy, which blocks instead) ends the
/// program: there is no way to record without.
#[must_use]
pub fn system_random() -> Random {
    Box::new(UnwrapErr(SysRng))
}

/// Context of the derivation of a key commitment.
const COMMITMENT: &str = "lucid recording v1 key commitment";

/// The device's Ed25519 key pair (RFC 8032), which signs what it recorded.
#[derive(Clone)]
pub struct DeviceKey(Arc<Ed25519KeyPair>);

impl DeviceKey {
    /// From the secret seed of 32 bytes.
    ///
    /// # Errors
    /// When ring refuses it, which it does for no seed of this length.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|error| Error::Argument(format!("the device's key is refused: {error}")))?;
        Ok(Self(Arc::new(pair)))
    }

    /// Makes a new key and its file, which must not be there yet.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, random: &mut Random) -> Result<Self> {
        let seed = fresh(random);
        let key = Self::from_seed(&seed)?;
        write_secret(path, &seed)?;
        Ok(key)
    }

    /// Reads the file that [`Self::create`] made.
    ///
    /// # Errors
    /// When it cannot be read, or others may read it as well.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_seed(&*read_secret(path)?)
    }

    /// What others know the device by.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        // An Ed25519 public key has 32 bytes.
        bytes.copy_from_slice(self.0.public_key().as_ref());
        Hex(bytes)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        // An Ed25519 signature has 64 bytes.
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        Hex(bytes)
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", self.public())
    }
}

/// Whether that key made that signature.
pub(crate) fn signed_by(device: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    UnparsedPublicKey::new(&ED25519, device.0).verify(message, &signature.0).is_ok()
}

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
        Self(fresh(random))
    }

    /// Makes a new key and its file, which must not be there yet.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, random: &mut Random) -> Result<Self> {
        let secret = Self::generate(random);
        write_secret(path, &secret.0)?;
        Ok(secret)
    }

    /// Reads the file that [`Self::create`] made.
    ///
    /// # Errors
    /// When it cannot be read, or others may read it as well.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self(read_secret(path)?))
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
        Self(fresh(random))
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

fn fresh(random: &mut Random) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill_bytes(&mut *bytes);
    bytes
}

fn write_secret(path: &Path, bytes: &[u8; 32]) -> Result<()> {
    let mut text = Zeroizing::new([b'\n'; 65]);
    hex::encode_to_slice(bytes, &mut text[..64])
        .map_err(|error| Error::Argument(format!("a key cannot be written: {error}")))?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at("making", path)?;
    file.write_all(&*text).and_then(|()| file.sync_all()).at("writing", path)
}

fn read_secret(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let mut file = OpenOptions::new().read(true).open(path).at("opening", path)?;
    let mode = file.metadata().at("reading", path)?.permissions().mode();
    let malformed = |why: &str| Error::malformed(format!("the key file {}", path.display()), why);
    if mode & 0o077 != 0 {
        return Err(malformed("others may read it: chmod 600"));
    }
    // One byte more than a good file has.
    let mut text = Zeroizing::new([0; 66]);
    let mut length = 0;
    while length < text.len() {
        match file.read(&mut text[length..]).at("reading", path)? {
            0 => break,
            count => length += count,
        }
    }
    let digits = match &text[..length] {
        [digits @ .., b'\n'] => digits,
        digits => digits,
    };
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, &mut *bytes).map_err(|_| malformed("it is not 64 hexadecimal digits"))?;
    Ok(bytes)
}
