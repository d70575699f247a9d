//! What metadata has to keep to, beyond what the specification asks for and the client checks.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp as Time;
use lucid_release_format::metadata::{self, DEVELOPMENT, SPECIFICATION};
use serde_json::Value;
use tough::schema::{RoleType, Root, Signed, Targets};

use crate::document::{self, Kind, canonical};
use crate::error::{Error, Result};
use crate::key::{KeyId, PublicKey};
use crate::release;

/// The four roles, in the order in which people hear of them.
pub const ROLES: [RoleType; 4] = [RoleType::Root, RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp];

/// What people call a role.
#[must_use]
pub fn role_name(role: RoleType) -> &'static str {
    match role {
        RoleType::Root => "root",
        RoleType::Targets => "targets",
        RoleType::Snapshot => "snapshot",
        RoleType::Timestamp => "timestamp",
        RoleType::DelegatedTargets => "delegated",
    }
}

/// Whether a root says that it is for development.
#[must_use]
pub fn is_development(root: &Root) -> bool {
    metadata::is_development(&root._extra)
}

/// Whether a root is one that may be signed: four roles, each with Ed25519 keys of its own, no public key twice, thresholds
/// that can be met, and at least two for root and targets.
///
/// # Errors
/// When it is not; which rule it breaks.
pub fn root(root: &Root) -> Result<()> {
    let broken = |why: String| Err(Error::rule(document::name(root), why));
    if root.spec_version != SPECIFICATION {
        return broken(format!("its specification is {:?}, not {SPECIFICATION}", root.spec_version));
    }
    if !root.consistent_snapshot {
        return broken("its files would have no versions in their names (consistent_snapshot)".into());
    }
    let development = is_development(root);
    let odd = root._extra.get(DEVELOPMENT).is_some_and(|mark| *mark != Value::Bool(true));
    if odd || root._extra.len() != usize::from(development) {
        return broken(format!("it has fields beside its own, of which {DEVELOPMENT}: true alone is known"));
    }
    whole_second(root)?;
    let mut seen = BTreeSet::new();
    for (id, key) in &root.keys {
        let Some(public) = PublicKey::of_tuf(key) else {
            return broken(format!("key {} is no Ed25519 key", hex::encode(id)));
        };
        if !seen.insert(public) {
            return broken(format!(
                "the public key {public} is in it twice, under two ids: one holder would count as two"
            ));
        }
        // An id is a hash over the key's fields: others than ours would make another one.
        if public.id()? != *id {
            return broken(format!("key {} has fields that a key does not have", hex::encode(id)));
        }
    }
    if root.roles.len() != ROLES.len() {
        return broken(format!("it has {} roles, not four", root.roles.len()));
    }
    let mut used: HashMap<&KeyId, RoleType> = HashMap::new();
    for role in ROLES {
        let name = role_name(role);
        let Some(keys) = root.roles.get(&role) else { return broken(format!("it has no role {name}")) };
        if !keys._extra.is_empty() {
            return broken(format!("its role {name} has fields that no role has"));
        }
        for id in &keys.keyids {
            if !root.keys.contains_key(id) {
                return broken(format!("its role {name} names key {}, which is not there", hex::encode(id)));
            }
            if let Some(other) = used.insert(id, role) {
                let other = role_name(other);
                return broken(format!(
                    "key {} is for {other} and for {name}: each is a key of its own",
                    hex::encode(id)
                ));
            }
        }
        let (threshold, count) = (keys.threshold.get(), keys.keyids.len() as u64);
        if threshold > count {
            return broken(format!("{name} asks for {threshold} signatures and has {count} keys"));
        }
        if threshold < 2 && matches!(role, RoleType::Root | RoleType::Targets) && !development {
            return broken(format!("{name} asks for one signature: whoever takes that key has every device"));
        }
    }
    if used.len() != root.keys.len() {
        return broken("it has keys that are for nothing".into());
    }
    Ok(())
}

/// Whether targets are ones that may be signed: releases and nothing else, each with both of its files, under plain names.
///
/// # Errors
/// When they are not; which rule they break.
pub fn targets(targets: &Targets) -> Result<()> {
    let broken = |why: String| Err(Error::rule(document::name(targets), why));
    if targets.spec_version != SPECIFICATION {
        return broken(format!("their specification is {:?}, not {SPECIFICATION}", targets.spec_version));
    }
    if targets.delegations.is_some() {
        return broken("they delegate to others, which no device follows".into());
    }
    if !targets._extra.is_empty() {
        return broken("they have fields that targets do not have".into());
    }
    whole_second(targets)?;
    release::all(targets).map(drop)
}

/// The form in which times are signed.
fn whole_second<T: Kind>(role: &T) -> Result<()> {
    if role.expires().subsec_nanosecond() == 0 {
        return Ok(());
    }
    Err(Error::rule(document::name(role), "its expiry is no whole second"))
}

/// Whether metadata holds at a time.
///
/// # Errors
/// When it has expired; with what to do.
pub fn in_time<T: Kind>(role: &T, now: Time, next: &'static str) -> Result<()> {
    if now < role.expires() {
        return Ok(());
    }
    Err(Error::Expired { what: document::name(role), at: role.expires().to_string(), next })
}

/// How far some metadata is with the signatures that a root asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The root's version.
    pub root: u64,
    /// How many it asks for.
    pub threshold: u64,
    /// The keys whose signatures are good.
    pub by: Vec<KeyId>,
}

impl Standing {
    /// Whether there are enough.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.by.len() as u64 >= self.threshold
    }
}

/// Counts the good signatures.
///
/// # Errors
/// When the metadata has no canonical form, or the root no such role.
pub fn standing<T: Kind>(signed: &Signed<T>, root: &Root) -> Result<Standing> {
    let keys = root
        .roles
        .get(&T::TYPE)
        .ok_or_else(|| Error::rule(document::name(root), format!("it has no role {}", T::NAME)))?;
    let message = canonical(&signed.signed)?;
    let mut by: Vec<KeyId> = Vec::new();
    for signature in &signed.signatures {
        let good = keys.keyids.contains(&signature.keyid)
            && public(root, &signature.keyid).is_some_and(|key| key.verifies(&message, &signature.sig));
        if good && !by.contains(&signature.keyid) {
            by.push(signature.keyid.clone());
        }
    }
    Ok(Standing { root: root.version.get(), threshold: keys.threshold.get(), by })
}

/// The public key of that id in a root.
pub(crate) fn public(root: &Root, id: &KeyId) -> Option<PublicKey> {
    root.keys.get(id).and_then(PublicKey::of_tuf)
}

/// Whether enough have signed, by our own count and by the client's.
///
/// # Errors
/// When too few have.
pub fn enough<T: Kind>(signed: &Signed<T>, root: &Root) -> Result<()> {
    let standing = standing(signed, root)?;
    if !standing.is_enough() {
        return Err(Error::TooFew {
            what: document::name(&signed.signed),
            root: standing.root,
            have: standing.by.len() as u64,
            threshold: standing.threshold,
        });
    }
    root.verify_role(signed)
        .map_err(|error| Error::rule(document::name(&signed.signed), format!("no client takes it: {error}")))
}
