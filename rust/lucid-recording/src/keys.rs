//! `keys.json`: the session keys of all parts, wrapped for each recipient.
//!
//! Canonical JSON ([`lucid_statement::json`]), not signed, because an owner may replace it: [`rewrap`]. It is written beside,
//! made durable and renamed. Damage to it is found when a key is used: the wrapped key does not open, or what is
//! within does not fit the commitment that the signed heads and the chunks' headers hold.
//!
//! A session key (32 random bytes) is wrapped by HPKE (RFC 9180) in base mode, in one shot: DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256, ChaCha20Poly1305. `info` is `lucid recording v1 session key` ‖ session id (16 bytes) ‖ part (u32,
//! little-endian); the associated data is the key's commitment.
//!
//! There are 1 to 16 recipients, each once, and the file has at most 6 MiB.

use std::{fs::File, path::Path};

use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal_with_rng,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use lucid_statement::{
    Hash, Hex, PublicKey, Random, SessionId, document,
    json::{self, VERSION},
};

use crate::{
    error::{At, Error, Result},
    files,
    reader::Contents,
    secret::{OwnerSecret, SessionKey},
    statement::{DOMAIN, Kind, MAX_PARTS},
    writer::lock,
};

/// The most recipients of a recording.
pub const MAX_RECIPIENTS: usize = 16;
/// The most bytes of the file: all recipients with all parts of 230 bytes, with room.
const MAX_KEYS: u64 = 6 << 20;
/// Begins the `info` of HPKE.
const INFO: &[u8] = b"lucid recording v1 session key";

/// Why somebody can open the recording: `owner`, `observer`, `recovery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It is his.
    Owner,
    /// He was to watch.
    Observer,
    /// When the owner's key is lost.
    Recovery,
}

/// Somebody who can open the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// His X25519 public key.
    pub key: PublicKey,
    /// Why.
    pub role: Role,
}

/// A session key for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrapped {
    /// HPKE's encapsulated key.
    pub encapsulated: Hex<32>,
    /// Of which part it is the key.
    pub part: u32,
    /// The sealed key with its tag.
    pub sealed: Hex<48>,
}

/// All keys of one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientKeys {
    /// His X25519 public key.
    pub key: PublicKey,
    /// By rising part.
    pub parts: Vec<Wrapped>,
    /// Why he can open it.
    pub role: Role,
}

/// The contents of `keys.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// `lucid-recording-keys`.
    pub kind: Kind,
    /// For whom.
    pub recipients: Vec<RecipientKeys>,
    /// Of which session.
    pub session: SessionId,
    /// 1.
    pub version: u16,
}

document!(Keys, DOMAIN, Kind::Keys);

impl Keys {
    pub(crate) fn new(session: SessionId) -> Self {
        Self { kind: Kind::Keys, recipients: Vec::new(), session, version: VERSION }
    }

    /// Reads the file of a recording.
    ///
    /// # Errors
    /// When it is not there, or not of version 1 of the format.
    pub fn read(dir: &Path) -> Result<Self> {
        let keys: Self = json::read(files::KEYS, &files::read(&dir.join(files::KEYS), MAX_KEYS)?)?;
        let malformed = |why: &str| Err(Error::malformed(files::KEYS, why));
        if keys.recipients.is_empty() || keys.recipients.len() > MAX_RECIPIENTS {
            return malformed("it is for nobody, or for too many");
        }
        for (place, recipient) in keys.recipients.iter().enumerate() {
            if keys.recipients[..place].iter().any(|other| other.key == recipient.key) {
                return malformed("it names a recipient twice");
            }
            if recipient.parts.len() > MAX_PARTS || !recipient.parts.is_sorted_by(|a, b| a.part < b.part) {
                return malformed("a recipient's parts are not in order");
            }
        }
        Ok(keys)
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        files::replace(dir, files::KEYS, &json::to_bytes(files::KEYS, self)?)
    }

    /// Wraps the key of a part for some recipients; what was there of that part is forgotten.
    pub(crate) fn add(
        &mut self,
        part: u32,
        key: &SessionKey,
        recipients: &[Recipient],
        random: &mut Random,
    ) -> Result<()> {
        for known in &mut self.recipients {
            known.parts.retain(|wrapped| wrapped.part < part);
        }
        for recipient in recipients {
            let wrapped = wrap(self.session, part, key, recipient, random)?;
            match self.recipients.iter_mut().find(|known| known.key == recipient.key) {
                Some(known) => known.parts.push(wrapped),
                None => self.recipients.push(RecipientKeys {
                    key: recipient.key,
                    parts: vec![wrapped],
                    role: recipient.role,
                }),
            }
        }
        if self.recipients.len() > MAX_RECIPIENTS {
            return Err(Error::Argument(format!("a recording is for {MAX_RECIPIENTS} recipients at most")));
        }
        Ok(())
    }

    /// The key of a part, if the secret is a recipient's.
    pub(crate) fn open(
        &self,
        dir: &Path,
        secret: &OwnerSecret,
        part: u32,
        commitment: &Hash,
    ) -> Result<SessionKey> {
        let path = dir.join(files::KEYS);
        let public = secret.public()?;
        let Some(recipient) = self.recipients.iter().find(|recipient| recipient.key == public) else {
            return Err(Error::NotARecipient { path, public: public.to_string() });
        };
        let broken = |why| Error::Wrapped { path: path.clone(), part, why };
        let wrapped = recipient
            .parts
            .iter()
            .find(|wrapped| wrapped.part == part)
            .ok_or_else(|| broken("it is not there for this recipient"))?;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&wrapped.encapsulated.0)
            .map_err(|_| broken("the encapsulated key is none"))?;
        let plain = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret.private()?,
            &encapsulated,
            &info(self.session, part),
            &wrapped.sealed.0,
            &commitment.0,
        );
        let plain = Zeroizing::new(plain.map_err(|_| broken("it was changed, or is another part's"))?);
        let mut bytes = Zeroizing::new([0; 32]);
        if plain.len() != bytes.len() {
            return Err(broken("what is within is no key"));
        }
        bytes.copy_from_slice(&plain);
        SessionKey::open(bytes, commitment).ok_or_else(|| broken("it is not the key of the chunks"))
    }
}

fn info(session: SessionId, part: u32) -> Vec<u8> {
    [INFO, session.bytes(), &part.to_le_bytes()].concat()
}

fn wrap(
    session: SessionId,
    part: u32,
    key: &SessionKey,
    recipient: &Recipient,
    random: &mut Random,
) -> Result<Wrapped> {
    let refused = |why: &dyn std::fmt::Display| {
        Error::Argument(format!("a key cannot be wrapped for the recipient {}: {why}", recipient.key))
    };
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&recipient.key.0)
        .map_err(|error| refused(&error))?;
    let (encapsulated, sealed) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        &info(session, part),
        key.bytes(),
        &key.commitment().0,
        random,
    )
    .map_err(|error| refused(&error))?;
    let mut wrapped = Wrapped { encapsulated: Hex([0; 32]), part, sealed: Hex([0; 48]) };
    encapsulated.write_exact(&mut wrapped.encapsulated.0);
    if sealed.len() != wrapped.sealed.0.len() {
        return Err(refused(&"the sealed key has another length"));
    }
    wrapped.sealed.0.copy_from_slice(&sealed);
    Ok(wrapped)
}

/// Recipients that a recording can be made for.
pub(crate) fn check_recipients(recipients: &[Recipient]) -> Result<()> {
    if recipients.is_empty() || recipients.len() > MAX_RECIPIENTS {
        return Err(Error::Argument(format!(
            "a recording is for 1 to {MAX_RECIPIENTS} recipients, not {}",
            recipients.len()
        )));
    }
    for (place, recipient) in recipients.iter().enumerate() {
        if recipients[..place].iter().any(|other| other.key == recipient.key) {
            return Err(Error::Argument(format!("the recipient {} is given twice", recipient.key)));
        }
    }
    Ok(())
}

/// Replaces the recipients of a recording, for instance after a change of the owner's key: every part's key is opened
/// with the old secret and wrapped for the new ones. The recording itself is not touched, and not read.
///
/// # Errors
/// When it is being written, a part's key does not open, or the disk fails; then the file is as before.
pub fn rewrap(dir: &Path, old: &OwnerSecret, recipients: &[Recipient], random: &mut Random) -> Result<()> {
    check_recipients(recipients)?;
    let path = dir.join(files::HEADS);
    let log = File::open(&path).at("opening", &path)?;
    lock(dir, &log)?;
    let contents = Contents::read(dir, None)?;
    let keys = Keys::read(dir)?;
    if keys.session != contents.opening.session {
        return Err(Error::malformed(files::KEYS, "it is of another session"));
    }
    let mut new = Keys::new(keys.session);
    for (part, commitment) in contents.commitments.iter().enumerate() {
        // There are fewer than MAX_PARTS.
        let part = part as u32;
        new.add(part, &keys.open(dir, old, part, commitment)?, recipients, random)?;
    }
    new.write(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9180, appendix A.2.1.1, the first encryption: base mode of the suite that is used here.
    #[test]
    fn wrapping_is_that_of_the_rfc() {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let secret: [u8; 32] =
            bytes("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb").try_into().unwrap();
        let secret = OwnerSecret::from_bytes(secret);
        let public = "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a";
        assert_eq!(secret.public().unwrap().to_string(), public);
        let encapsulated = bytes("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let sealed =
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28";
        let plain = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret.private().unwrap(),
            &<X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&encapsulated).unwrap(),
            b"Ode on a Grecian Urn",
            &bytes(sealed),
            b"Count-0",
        );
        assert_eq!(plain.unwrap(), b"Beauty is truth, truth beauty");
    }
}
