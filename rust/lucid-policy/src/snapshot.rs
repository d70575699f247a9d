//! What was decided by when a session began: the policy snapshot.
//!
//! A signed statement ([`lucid_statement::json`]) of the kind `lucid-policy-snapshot`, which lies as `snapshot.json` beside
//! the session's recording, whose opening names the hash of its policy. It names the session, and the device signs it. It
//! holds all that Cedar was given, so that every decision of the session can be made again years later, by this program or
//! another.

use lucid_statement::{PublicKey, SessionId, SigningKey, document, json};
use serde::{Deserialize, Serialize};

use crate::{
    action::Role,
    cedar::{FIXED, SCHEMA, from_cedar},
    error::{Error, Result},
    policy::Policy,
    statement::{DOMAIN, Kind, VERSION},
};

/// The most bytes of a snapshot: the largest table as JSON and as Cedar policies, with room.
pub const MAX_SNAPSHOT: u64 = 1 << 20;

/// Somebody whom Cedar knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// Its name as Cedar writes it, such as `Lucid::Person::"operator"`.
    pub id: String,
    /// Those it is in.
    pub parents: Vec<String>,
}

/// `snapshot.json`, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The policies that the table compiles to, and those that hold whatever it says.
    pub cedar: String,
    /// Everybody whom Cedar knows.
    pub entities: Vec<Entity>,
    /// `lucid-policy-snapshot`.
    pub kind: Kind,
    /// The table.
    pub policy: Policy,
    /// What the policies are over.
    pub schema: String,
    /// Of which session.
    pub session: SessionId,
    /// 1.
    pub version: u16,
    /// When, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

document!(Snapshot, DOMAIN, Kind::PolicySnapshot);

/// Everybody whom Cedar knows, whatever the table says.
pub(crate) fn entities() -> Vec<Entity> {
    let mut entities: Vec<_> = Role::ALL
        .into_iter()
        .flat_map(|role| {
            let (group, person) =
                (format!("Lucid::Role::\"{}\"", role.name()), format!("Lucid::Person::\"{}\"", role.name()));
            [Entity { id: person, parents: vec![group.clone()] }, Entity { id: group, parents: Vec::new() }]
        })
        .collect();
    entities.push(Entity { id: "Lucid::Session::\"this\"".to_owned(), parents: Vec::new() });
    entities.sort_by(|a, b| a.id.cmp(&b.id));
    entities
}

impl Snapshot {
    /// Of a table, as this program decides by it.
    ///
    /// # Errors
    /// When a value of the table is out of its range.
    pub fn new(policy: &Policy, session: SessionId, wall_ms: u64) -> Result<Self> {
        policy.check()?;
        let policy = policy.normalised();
        Ok(Self {
            cedar: policy.to_cedar() + FIXED,
            entities: entities(),
            kind: Kind::PolicySnapshot,
            policy,
            schema: SCHEMA.to_owned(),
            session,
            version: VERSION,
            wall_ms,
        })
    }

    /// Its file.
    ///
    /// # Errors
    /// When it is larger than any.
    pub fn sign(&self, device: &SigningKey) -> Result<Vec<u8>> {
        let bytes = json::sign("the policy snapshot", self, device)?;
        if bytes.len() as u64 > MAX_SNAPSHOT {
            return Err(Error::Large { bytes: bytes.len(), most: MAX_SNAPSHOT as usize });
        }
        Ok(bytes)
    }

    /// Reads its file: it has to be the device's, of that session, and say the same as a table and as policies.
    ///
    /// # Errors
    /// Says what is not so.
    pub fn read(bytes: &[u8], device: &PublicKey, session: SessionId) -> Result<Self> {
        if bytes.len() as u64 > MAX_SNAPSHOT {
            return Err(Error::Large { bytes: bytes.len(), most: MAX_SNAPSHOT as usize });
        }
        let snapshot: Self = json::read_signed("the policy snapshot", bytes, Some(device))?.body;
        if snapshot.session != session {
            return Err(Error::Snapshot("it is of another session"));
        }
        let policies =
            snapshot.cedar.strip_suffix(FIXED).ok_or(Error::Snapshot("what always holds is not in it"))?;
        if from_cedar(policies)? != snapshot.policy {
            return Err(Error::Snapshot("its Cedar policies are not those of its table"));
        }
        if snapshot.schema != SCHEMA || snapshot.entities != entities() {
            return Err(Error::Snapshot("its schema or its entities are not those of this version"));
        }
        Ok(snapshot)
    }
}
