//! That somebody accepted a policy: the consent receipt.
//!
//! A session begins with one. It is a signed statement ([`lucid_statement::json`]) of the kind `lucid-consent-receipt`, and
//! lies as `consent.json` beside the session's recording, whose opening names its hash.

use lucid_statement::{Hash, PublicKey, SessionId, Signed, SigningKey, document, json};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    policy::Policy,
    statement::{DOMAIN, Kind, MAX_TEXT, VERSION, is_text},
    words::explain,
};

/// The most bytes of a receipt.
pub const MAX_RECEIPT: u64 = 4 << 10;
/// The most bytes of what an owner adds to the terms.
pub const MAX_TERMS: usize = 4 << 10;
/// A receipt is good for so long after its time, in milliseconds: a day.
const GOOD_FOR_MS: u64 = 86_400_000;
/// And so long before it, as clocks differ: five minutes.
const AHEAD_MS: u64 = 300_000;

/// How a policy was accepted: `screen`, `signature`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accepted {
    /// On the screen, before anything else was shown; the device's key signs that it saw it.
    Screen,
    /// By the key of whoever accepts.
    Signature,
}

/// `consent.json`, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// How.
    pub accepted: Accepted,
    /// `lucid-consent-receipt`.
    pub kind: Kind,
    /// Hash of the policy ([`Policy::hash`]).
    pub policy: Hash,
    /// For which session, once.
    pub session: SessionId,
    /// The Ed25519 key that was made for that session.
    pub session_key: PublicKey,
    /// The Ed25519 key that signs this.
    pub signer: PublicKey,
    /// BLAKE3 of the [`terms`].
    pub terms: Hash,
    /// Who accepts, as he authenticates; 1 to 256 bytes.
    pub user: String,
    /// 1.
    pub version: u16,
    /// When, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

document!(Receipt, DOMAIN, Kind::ConsentReceipt);

/// What a receipt has to say.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// Who is there.
    pub user: &'a str,
    /// The session that is to begin.
    pub session: SessionId,
    /// Its key.
    pub session_key: PublicKey,
    /// Hash of the policy under which it will run.
    pub policy: Hash,
    /// Hash of its terms.
    pub terms: Hash,
    /// The keys that may sign for him.
    pub signers: &'a [PublicKey],
    /// What time it is, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// Why a receipt is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no receipt, or changed since it was signed.
    #[error("it is no receipt, or was changed after it was signed")]
    Forged,
    /// Whoever signed it may not sign for that user.
    #[error("the key that signed it is none of this user's: add it with `lucidctl user key`")]
    Signer,
    /// It is another user's.
    #[error("it is of another user")]
    User,
    /// It is for another session; each is used once.
    #[error("it is for another session: accept again for this one")]
    Session,
    /// It is for another policy.
    #[error("it accepts another policy than the one that holds: read that, and accept again")]
    Policy,
    /// The terms have changed.
    #[error("it accepts other terms than those that hold: read them, and accept again")]
    Terms,
    /// It is older than a day.
    #[error("it is older than a day: accept again")]
    Old,
    /// It is of a later time.
    #[error("it is of a later time than this device's: look at both clocks")]
    Early,
}

/// What is accepted, as text in lines: that the session is recorded, who can open that besides its owner, by his key, what the
/// policy means, and what the owner adds. Who looks at a receipt years later makes it again from the policy and the
/// recording's participants, and compares the hashes.
#[must_use]
pub fn terms(policy: &Policy, observers: &[PublicKey], added: &str) -> String {
    let mut text = String::from("This session is recorded: what is shown, and what is done.\n");
    for observer in observers {
        text.push_str("Besides the owner, whoever has this key can open what is recorded: ");
        text.push_str(&observer.to_string());
        text.push('\n');
    }
    for sentence in explain(policy) {
        text.push_str(&sentence);
        text.push('\n');
    }
    if !added.is_empty() {
        text.push_str(added.trim_end());
        text.push('\n');
    }
    text
}

impl Receipt {
    /// A receipt to sign.
    #[must_use]
    pub fn new(
        accepted: Accepted,
        (session, session_key): (SessionId, PublicKey),
        user: &str,
        (policy, terms): (Hash, Hash),
        signer: PublicKey,
        wall_ms: u64,
    ) -> Self {
        Self {
            accepted,
            kind: Kind::ConsentReceipt,
            policy,
            session,
            session_key,
            signer,
            terms,
            user: user.to_owned(),
            version: VERSION,
            wall_ms,
        }
    }

    /// Its file.
    ///
    /// # Errors
    /// When the key is not its signer, or the user's name is none.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>> {
        if self.signer != key.public() || !is_text(&self.user, MAX_TEXT) {
            return Err(Error::Argument(
                "a receipt names who accepts, and is signed by the key that it names",
            ));
        }
        Ok(json::sign("the consent receipt", self, key)?)
    }

    /// Reads its file, and holds the signature to the key that it names.
    ///
    /// # Errors
    /// When it is no receipt, or was changed.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let what = "the consent receipt";
        if bytes.len() as u64 > MAX_RECEIPT {
            return Err(Error::Large { bytes: bytes.len(), most: MAX_RECEIPT as usize });
        }
        let statement: Signed<Self> = json::read_signed(what, bytes, None)?;
        json::check(what, &statement, &statement.body.signer)?;
        if !is_text(&statement.body.user, MAX_TEXT) {
            return Err(Error::Argument("a receipt names who accepts"));
        }
        Ok(statement.body)
    }

    /// Takes a receipt for a session, or says why not.
    ///
    /// # Errors
    /// When it is not exactly what is expected.
    pub fn take(bytes: &[u8], expected: &Expected<'_>) -> Result<Self, Refused> {
        let receipt = Self::read(bytes).map_err(|_| Refused::Forged)?;
        let fits = [
            (expected.signers.contains(&receipt.signer), Refused::Signer),
            (receipt.user == expected.user, Refused::User),
            (receipt.session == expected.session, Refused::Session),
            (receipt.session_key == expected.session_key, Refused::Session),
            (receipt.policy == expected.policy, Refused::Policy),
            (receipt.terms == expected.terms, Refused::Terms),
            (receipt.wall_ms.saturating_add(GOOD_FOR_MS) >= expected.now_ms, Refused::Old),
            (receipt.wall_ms <= expected.now_ms.saturating_add(AHEAD_MS), Refused::Early),
        ];
        match fits.into_iter().find(|(fits, _)| !fits) {
            Some((_, refused)) => Err(refused),
            None => Ok(receipt),
        }
    }
}
