//! Keys that sign releases, and their files.
//!
//! A key is an Ed25519 pair (RFC 8032). Its file is JSON, at most 4 KiB, mode 0600 when it is made, all bytes in lower-case
//! hexadecimal digits:
//!
//! | field | |
//! | --- | --- |
//! | `format` | 1 |
//! | `public` | the public half, 32 bytes |
//! | `salt` | 16 random bytes |
//! | `nonce` | 24 random bytes |
//! | `sealed` | the secret seed of 32 bytes and a tag of 16: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03, section 2) |
//!
//! The key that seals is Argon2id (RFC 9106, version 0x13) of the passphrase's UTF-8 and the salt, with 64 MiB of memory, 3
//! passes and 1 lane, 32 bytes of output; associated data are the bytes `lucid release key 1` and the public half. Format 1 has
//! this cost and no other, so that no file can ask for more.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::files;

/// The id of a key: SHA-256 over its canonical JSON (TUF specification 1.0.34, section 4.2).
pub type KeyId = Decoded<Hex>;

/// KiB of memory, passes, lanes.
const COST: (u32, u32, u32) = (64 * 1024, 3, 1);
/// What the associated data begin with.
const WHAT: &[u8] = b"lucid release key 1";
/// The most bytes of a key's file.
const MOST: u64 = 4096;
/// The most bytes of a file with a passphrase.
const MOST_PASSPHRASE: u64 = 1024;
/// The fewest characters of a new passphrase.
const LEAST: usize = 12;

/// What opens a key's file.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// What somebody typed.
    ///
    /// # Errors
    /// When it is empty.
    pub fn new(typed: Zeroizing<String>) -> Result<Self> {
        if typed.is_empty() {
            return Err(Error::Passphrase("it is empty"));
        }
        Ok(Self(typed))
    }

    /// The first line of a file.
    ///
    /// # Errors
    /// When the file cannot be read, or the line is empty.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = Zeroizing::new(files::read(path, MOST_PASSPHRASE)?);
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let text = std::str::from_utf8(line).map_err(|_| Error::malformed(path, "it is not UTF-8"))?;
        Self::new(Zeroizing::new(text.trim_end_matches('\r').to_owned()))
    }

    /// Whether it is long enough for a new key.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> Result<()> {
        if self.0.chars().count() < LEAST {
            return Err(Error::Passphrase("it is too short: 12 characters or more, for instance five words"));
        }
        Ok(())
    }

    fn key(&self, salt: &[u8; 16]) -> Result<Zeroizing<[u8; 32]>> {
        let failed = |error: argon2::Error| Error::Crypto { doing: "Argon2id", why: error.to_string() };
        let (memory, passes, lanes) = COST;
        let params = Params::new(memory, passes, lanes, Some(32)).map_err(failed)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(self.0.as_bytes(), salt, &mut *key)
            .map_err(failed)?;
        Ok(key)
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// The public half of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// As it stands in a root.
    #[must_use]
    pub fn to_tuf(self) -> Key {
        Key::Ed25519 {
            keyval: Ed25519Key { public: self.0.to_vec().into(), _extra: std::collections::HashMap::new() },
            scheme: Ed25519Scheme::Ed25519,
            _extra: std::collections::HashMap::new(),
        }
    }

    /// From a root. None for what is no Ed25519 key.
    #[must_use]
    pub fn of_tuf(key: &Key) -> Option<Self> {
        match key {
            Key::Ed25519 { keyval, .. } => Some(Self(keyval.public.as_ref().try_into().ok()?)),
            _ => None,
        }
    }

    /// What roots and signatures name it by.
    ///
    /// # Errors
    /// When it has no canonical form, which every key has.
    pub fn id(&self) -> Result<KeyId> {
        self.to_tuf()
            .key_id()
            .map_err(|error| Error::Canonical { what: "a public key", source: Box::new(error) })
    }

    /// Whether it signed that message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        bytes(text).map(Self).ok_or_else(|| Error::NoKey(text.to_owned()))
    }
}

/// The id of a key from its 64 digits.
///
/// # Errors
/// When they are not.
pub fn key_id(text: &str) -> Result<KeyId> {
    let id: [u8; 32] = bytes(text).ok_or_else(|| Error::NoKey(text.to_owned()))?;
    Ok(id.to_vec().into())
}

/// A key that signs.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public)
    }
}

impl SecretKey {
    /// From its seed of 32 bytes.
    ///
    /// # Errors
    /// When ring refuses it, which it does for no seed of this length.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|error| Error::Crypto { doing: "making a key of its seed", why: error.to_string() })?;
        let mut public = [0; 32];
        // An Ed25519 public key has 32 bytes.
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { pair, public: PublicKey(public) })
    }

    /// Makes a new key and its file, which must not be there yet.
    ///
    /// # Errors
    /// When the passphrase is too short, or the file is there or cannot be made.
    pub fn create(path: &Path, passphrase: &Passphrase) -> Result<Self> {
        passphrase.check()?;
        let seed = Zeroizing::new(random::<32>()?);
        let key = Self::from_seed(&seed)?;
        let (salt, nonce) = (random::<16>()?, random::<24>()?);
        // So large that it does not grow, which would leave a copy.
        let mut sealed = Zeroizing::new(Vec::with_capacity(48));
        sealed.extend_from_slice(&*seed);
        let cipher = XChaCha20Poly1305::new((&*passphrase.key(&salt)?).into());
        cipher
            .encrypt_in_place((&nonce).into(), &associated(key.public), &mut *sealed)
            .map_err(|error| Error::Crypto { doing: "sealing a key", why: error.to_string() })?;
        let file = File {
            format: 1,
            public: key.public.to_string(),
            salt: hex::encode(salt),
            nonce: hex::encode(nonce),
            sealed: hex::encode(&*sealed),
        };
        let mut text = serde_json::to_string_pretty(&file)
            .map_err(|source| Error::Json { what: "a key's file", source })?;
        text.push('\n');
        files::make_secret(path, text.as_bytes())?;
        Ok(key)
    }

    /// Opens a key's file.
    ///
    /// # Errors
    /// When it cannot be read, is none, or the passphrase is another one.
    pub fn open(path: &Path, passphrase: &Passphrase) -> Result<Self> {
        let file = File::read(path)?;
        let wrong = |what: &str| {
            Error::malformed(path, format!("its {what} has another length, or is not hexadecimal"))
        };
        let salt: [u8; 16] = bytes(&file.salt).ok_or_else(|| wrong("salt"))?;
        let nonce: [u8; 24] = bytes(&file.nonce).ok_or_else(|| wrong("nonce"))?;
        let sealed: [u8; 48] = bytes(&file.sealed).ok_or_else(|| wrong("sealed seed"))?;
        let public: PublicKey = file.public.parse()?;
        let cipher = XChaCha20Poly1305::new((&*passphrase.key(&salt)?).into());
        let mut opened = Zeroizing::new(sealed.to_vec());
        cipher
            .decrypt_in_place((&nonce).into(), &associated(public), &mut *opened)
            .map_err(|_| Error::NotOpened(path.to_owned()))?;
        let seed: &[u8; 32] = opened.first_chunk().ok_or_else(|| wrong("sealed seed"))?;
        let key = Self::from_seed(seed)?;
        if key.public != public {
            return Err(Error::malformed(path, "its two halves do not belong together"));
        }
        Ok(key)
    }

    /// The public half of a key's file, for which no passphrase is needed. Whether it is that key's, opening it says.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn public_of(path: &Path) -> Result<PublicKey> {
        File::read(path)?.public.parse()
    }

    /// What others know it by.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs a message: 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// A key's file, see the module's documentation.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    public: String,
    salt: String,
    nonce: String,
    sealed: String,
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let file: Self = serde_json::from_slice(&files::read(path, MOST)?)
            .map_err(|error| Error::malformed(path, format!("it is no key's file: {error}")))?;
        if file.format != 1 {
            return Err(Error::malformed(
                path,
                format!("its format is {}; 1 alone is known here", file.format),
            ));
        }
        Ok(file)
    }
}

fn associated(public: PublicKey) -> Vec<u8> {
    [WHAT, &public.0[..]].concat()
}

/// Exactly so many bytes from hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex::decode(text).ok()?.try_into().ok()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Crypto {
        doing: "asking the system for random bytes",
        why: error.to_string(),
    })?;
    Ok(bytes)
}
