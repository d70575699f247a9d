//! Keys that sign, and the files of secret keys.
//!
//! A secret key's file holds 64 lower-case hexadecimal digits and a line feed, and only its owner may read it.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use getrandom::{
    SysRng,
    rand_core::{CryptoRng, Rng, UnwrapErr},
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    value::{Hex, PublicKey, Signature},
};

/// Where keys and salts come from.
pub type Random = Box<dyn CryptoRng + Send>;

/// The system's random bytes. A system that has none (Linux before its first entropy, which blocks instead) ends the
/// program: there is no way to record without.
#[must_use]
pub fn system_random() -> Random {
    Box::new(UnwrapErr(SysRng))
}

/// An Ed25519 key pair (RFC 8032): a device's, which signs what it recorded, or a person's.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

impl SigningKey {
    /// From the secret seed of 32 bytes.
    ///
    /// # Errors
    /// When ring refuses it, which it does for no seed of this length.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|error| Error::Argument(format!("the signing key is refused: {error}")))?;
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

    /// What others know it by.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        // An Ed25519 public key has 32 bytes.
        bytes.copy_from_slice(self.0.public_key().as_ref());
        Hex(bytes)
    }

    /// Signs a message, which has to say what it is ([`crate::json::sign`] does).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        // An Ed25519 signature has 64 bytes.
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        Hex(bytes)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// A new secret key of 32 bytes.
#[must_use]
pub fn fresh(random: &mut Random) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill_bytes(&mut *bytes);
    bytes
}

fn failed<T>(result: io::Result<T>, doing: &'static str, path: &Path) -> Result<T> {
    result.map_err(|source| Error::Io { doing, path: path.to_owned(), source })
}

/// Makes the file of a secret key, which must not be there yet.
///
/// # Errors
/// When it cannot be made.
pub fn write_secret(path: &Path, bytes: &[u8; 32]) -> Result<()> {
    let mut text = Zeroizing::new([b'\n'; 65]);
    hex::encode_to_slice(bytes, &mut text[..64])
        .map_err(|error| Error::Argument(format!("a key cannot be written: {error}")))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = failed(file, "making", path)?;
    failed(file.write_all(&*text).and_then(|()| file.sync_all()), "writing", path)
}

/// Reads the file of a secret key.
///
/// # Errors
/// When it cannot be read, others may read it as well, or it holds something else.
pub fn read_secret(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let mut file = failed(OpenOptions::new().read(true).open(path), "opening", path)?;
    let mode = failed(file.metadata(), "reading", path)?.permissions().mode();
    let malformed = |why: &str| Error::malformed(&format!("the key file {}", path.display()), why);
    if mode & 0o077 != 0 {
        return Err(malformed("others may read it: chmod 600"));
    }
    // One byte more than a good file has.
    let mut text = Zeroizing::new([0; 66]);
    let mut length = 0;
    while length < text.len() {
        match failed(file.read(&mut text[length..]), "reading", path)? {
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
