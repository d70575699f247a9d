//! How sessions begin: with a policy that their user has accepted, and an id that nobody has used.
//!
//! A session is [`Prepared`], then accepted, by a key or on the screen, and then [`Consented`]: only that can begin.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use lucid_policy::{
    Policy,
    consent::{Accepted, Expected, Receipt, Refused, terms},
};
use lucid_recording::{Hash, PublicKey, SessionId, SigningKey, system_random};
use lucid_statement::key::fresh;

use crate::{
    clock::WallClock,
    error::{Error, Result},
    people::People,
    shared,
    used::Used,
};

/// How long a prepared session waits for its user.
pub(crate) const WAITS: Duration = Duration::from_secs(3600);
/// How long somebody has to accept on the screen.
pub(crate) const ASKED: Duration = Duration::from_secs(300);
/// Prepared sessions at a time.
const MOST: usize = 64;

/// A session that nobody has accepted yet.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) id: SessionId,
    pub(crate) user: String,
    pub(crate) policy: Policy,
    pub(crate) terms: String,
    pub(crate) key: SigningKey,
    policy_hash: Hash,
    terms_hash: Hash,
}

/// A session that may begin, once.
pub(crate) struct Consented {
    pub(crate) id: SessionId,
    pub(crate) user: String,
    pub(crate) policy: Policy,
    pub(crate) policy_hash: Hash,
    /// Its own key.
    pub(crate) key: PublicKey,
    /// The signed receipt.
    pub(crate) receipt: Vec<u8>,
}

struct Waiting {
    prepared: Prepared,
    until: Instant,
    receipt: Option<Vec<u8>>,
}

/// Makes sessions ready to begin.
pub(crate) struct Consents {
    /// What holds where nobody says otherwise, and what no session may exceed.
    policy: Policy,
    /// Who can open what is recorded, beside the owner.
    observers: Vec<PublicKey>,
    /// What the owner adds to the terms.
    added: String,
    device: SigningKey,
    wall: WallClock,
    waiting: Mutex<HashMap<SessionId, Waiting>>,
    used: Mutex<Used>,
}

impl Consents {
    pub(crate) fn new(
        policy: Policy,
        observers: Vec<PublicKey>,
        added: String,
        device: SigningKey,
        wall: WallClock,
        used: Used,
    ) -> Self {
        Self { policy, observers, added, device, wall, waiting: Mutex::default(), used: Mutex::new(used) }
    }

    /// A new session, under the device's policy or another one.
    pub(crate) fn prepare(&self, user: &str, policy: Option<Policy>) -> Result<Prepared> {
        let mut random = system_random();
        let mut bytes = [0; 16];
        random.fill_bytes(&mut bytes);
        let id = SessionId::new(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())?;
        let policy = match policy {
            Some(policy) if !policy.is_within(&self.policy) => return Err(Error::Wider),
            Some(policy) => policy,
            None => self.policy.clone(),
        };
        let terms = terms(&policy, &self.observers, &self.added);
        Ok(Prepared {
            id,
            user: user.to_owned(),
            policy_hash: policy.hash()?,
            terms_hash: blake3::hash(terms.as_bytes()).into(),
            key: SigningKey::from_seed(&fresh(&mut random))?,
            policy,
            terms,
        })
    }

    /// Keeps a prepared session for its user.
    pub(crate) fn keep(&self, prepared: Prepared) -> Result<()> {
        let mut waiting = shared(&self.waiting);
        let now = Instant::now();
        waiting.retain(|_, waiting| waiting.until > now);
        if waiting.len() >= MOST {
            return Err(Error::TooManyPrepared(MOST));
        }
        waiting.insert(prepared.id, Waiting { prepared, until: now + WAITS, receipt: None });
        Ok(())
    }

    /// Takes the receipt of a prepared session.
    pub(crate) fn accept(&self, bytes: &[u8], people: &People) -> Result<SessionId> {
        let claimed = Receipt::read(bytes)?;
        if claimed.accepted != Accepted::Signature {
            return Err(Refused::Forged.into());
        }
        let mut waiting = shared(&self.waiting);
        let now = Instant::now();
        waiting.retain(|_, waiting| waiting.until > now);
        let Some(waiting) = waiting.get_mut(&claimed.session) else {
            return Err(Error::NotPrepared(claimed.session));
        };
        let Prepared { id, user, policy_hash, terms_hash, key, .. } = &waiting.prepared;
        let expected = Expected {
            user,
            session: *id,
            session_key: key.public(),
            policy: *policy_hash,
            terms: *terms_hash,
            signers: people.keys(user),
            now_ms: (self.wall)(),
        };
        Receipt::take(bytes, &expected)?;
        waiting.receipt = Some(bytes.to_vec());
        Ok(*id)
    }

    /// The session that its user has accepted before, if there is one. Its id is used by this.
    pub(crate) fn accepted(&self, user: &str) -> Result<Option<Consented>> {
        let mut waiting = shared(&self.waiting);
        let now = Instant::now();
        waiting.retain(|_, waiting| waiting.until > now);
        let accepted =
            waiting.iter().filter(|(_, waiting)| waiting.prepared.user == user && waiting.receipt.is_some());
        // The one that was prepared first.
        let Some(id) = accepted.min_by_key(|(_, waiting)| waiting.until).map(|(id, _)| *id) else {
            return Ok(None);
        };
        let Some(Waiting { prepared, receipt: Some(receipt), .. }) = waiting.remove(&id) else {
            return Ok(None);
        };
        self.consented(prepared, receipt).map(Some)
    }

    /// Somebody has accepted on the screen: the device's key signs that it saw it.
    pub(crate) fn on_screen(&self, prepared: Prepared) -> Result<Consented> {
        let Prepared { id, user, policy_hash, terms_hash, key, .. } = &prepared;
        let hashes = (*policy_hash, *terms_hash);
        let receipt = Receipt::new(
            Accepted::Screen,
            (*id, key.public()),
            user,
            hashes,
            self.device.public(),
            (self.wall)(),
        );
        let receipt = receipt.sign(&self.device)?;
        self.consented(prepared, receipt)
    }

    fn consented(&self, prepared: Prepared, receipt: Vec<u8>) -> Result<Consented> {
        let Prepared { id, user, policy, policy_hash, key, .. } = prepared;
        shared(&self.used).take(id)?;
        Ok(Consented { id, user, policy, policy_hash, key: key.public(), receipt })
    }
}
