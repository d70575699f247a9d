//! The gate through which `tough` gets every file: which names there are, how many bytes each may have and all together; and
//! what became of each, told by its name.

use std::{
    collections::HashMap,
    error::Error as _,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use lucid_release_format::{
    index::MAX_INDEX,
    metadata::{MAX_ROOT, MAX_SNAPSHOT, MAX_TARGETS, MAX_TIMESTAMP},
};
use serde::de::DeserializeOwned;
use tough::{
    Transport, TransportError, TransportErrorKind, TransportStream,
    schema::{
        self, RoleType, Root, Signed, Snapshot, Targets, Timestamp,
        decoded::{Decoded, Hex},
    },
};
use url::Url;

use super::{DELEGATES, Memory, Refused, Scratch, Start, good, parse, role, same_online_keys};
use crate::{
    error::Result,
    source::{Failed, Folder, Source},
};

/// The most bytes of one cycle, all files together.
const MAX_CYCLE: u64 = 16 << 20;

/// What `tough` has accepted, whether it came to the end or not.
pub(super) struct Accepted {
    pub(super) root: Signed<Root>,
    pub(super) memory: Memory,
}

/// What came through the gate.
#[derive(Default)]
pub(super) struct Seen {
    /// Files by what they are: `root 2`, `timestamp`, …
    files: HashMap<String, Bytes>,
    pub(super) notes: Vec<String>,
}

struct Inner {
    source: Arc<dyn Source>,
    /// The timestamp that is known, where the root still names its keys.
    known: Option<Vec<u8>>,
    /// How many bytes came so far.
    total: AtomicU64,
    seen: Mutex<Seen>,
}

/// Through here `tough` gets every file.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.0.source).finish()
    }
}

/// What may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Root(u64),
    Timestamp,
    Snapshot,
    Targets,
    Target,
}

impl Asked {
    /// By the path of a URL; with the folder and the name in it.
    fn of(path: &str) -> Option<(Self, Folder, &str)> {
        let (folder, name) = path.strip_prefix('/')?.split_once('/')?;
        if !crate::source::flat(name) {
            return None;
        }
        match folder {
            "metadata" if name == "timestamp.json" => Some((Self::Timestamp, Folder::Metadata, name)),
            "metadata" => {
                let (version, kind) = name.split_once('.')?;
                let number: u64 = version.parse().ok().filter(|number| *number > 0)?;
                // Neither a sign nor a zero before it.
                if number.to_string() != version {
                    return None;
                }
                let asked = match kind {
                    "root.json" => Self::Root(number),
                    "snapshot.json" => Self::Snapshot,
                    "targets.json" => Self::Targets,
                    _ => return None,
                };
                Some((asked, Folder::Metadata, name))
            }
            "targets" => {
                let (hash, rest) = name.split_once('.')?;
                let hex = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
                (hex && rest.ends_with(".index")).then_some((Self::Target, Folder::Targets, name))
            }
            _ => None,
        }
    }

    fn cap(&self) -> u64 {
        match self {
            Self::Root(_) => MAX_ROOT,
            Self::Timestamp => MAX_TIMESTAMP,
            Self::Snapshot => MAX_SNAPSHOT,
            Self::Targets => MAX_TARGETS,
            Self::Target => MAX_INDEX as u64,
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Root(version) => format!("root {version}"),
            Self::Timestamp => "timestamp".to_owned(),
            Self::Snapshot => "snapshot".to_owned(),
            Self::Targets => "targets".to_owned(),
            Self::Target => "target".to_owned(),
        }
    }
}

#[async_trait]
impl Transport for Gate {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let other = |failed: Failed| TransportError::new_with_cause(TransportErrorKind::Other, &url, failed);
        let Some((asked, folder, name)) = Asked::of(url.path()) else {
            return Err(other(Failed::Name { name: url.path().chars().take(80).collect() }));
        };
        let item = match self.get(&asked, folder, name).await {
            Ok(bytes) => Ok(bytes),
            Err(failed @ Failed::Missing { .. }) => {
                return Err(TransportError::new_with_cause(TransportErrorKind::FileNotFound, &url, failed));
            }
            // For tough a root that cannot be asked for is the end of the roots, and it would go on with the old one: it is
            // given a file instead that breaks off.
            Err(failed) if matches!(asked, Asked::Root(_)) => Err(other(failed)),
            Err(failed) => return Err(other(failed)),
        };
        let stream: TransportStream = Box::pin(tokio_stream::once(item));
        Ok(stream)
    }
}

impl Gate {
    /// Before a source, where this timestamp is known; the root still names its keys.
    pub(super) fn new(source: Arc<dyn Source>, known: Option<Vec<u8>>) -> Self {
        Self(Arc::new(Inner { source, known, total: AtomicU64::new(0), seen: Mutex::default() }))
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self, asked: &Asked, folder: Folder, name: &str) -> Result<Bytes, Failed> {
        // The list of targets is the last of the metadata: what is asked for after it is what the list delegates to.
        if folder == Folder::Metadata && self.seen().files.contains_key(&Asked::Targets.key()) {
            return Err(Failed::Name { name: name.to_owned() });
        }
        let left = MAX_CYCLE.saturating_sub(self.0.total.load(Ordering::Relaxed));
        let mut bytes = self.0.source.whole(folder, name, asked.cap().min(left)).await?;
        self.0.total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut seen = self.seen();
        if *asked == Asked::Timestamp {
            // Of one version there is one timestamp: the one that is known (specification, 5.4.3.1). With a new root there
            // may be new keys, and versions that begin again.
            let rotated = seen.files.keys().any(|key| key.starts_with("root "));
            let version = |bytes: &[u8]| parse::<Timestamp>(bytes).map(|signed| signed.signed.version);
            let known = self.0.known.as_ref().filter(|known| !rotated && known[..] != bytes[..]);
            if let Some(known) = known
                && version(known).is_some()
                && version(known) == version(&bytes)
            {
                let note =
                    "the source has another timestamp of the version that is known: the known one holds";
                seen.notes.push(note.to_owned());
                bytes = Bytes::copy_from_slice(known);
            }
        }
        seen.files.insert(asked.key(), bytes.clone());
        Ok(bytes)
    }

    /// What of all that came through is in the scratch folder, where `tough` puts what it accepts; the bytes are ours, as they
    /// were signed.
    pub(super) fn accepted(&self, start: &Start, scratch: &Scratch) -> Result<Accepted> {
        let seen = self.seen();
        let mut accepted = Accepted {
            root: start.root.clone(),
            memory: Memory { roots: start.roots.clone(), ..Memory::default() },
        };
        let newest = scratch.read("root.json")?.and_then(|bytes| parse::<Root>(&bytes));
        if let Some(newest) = newest {
            for version in start.root.signed.version.get() + 1..=newest.signed.version.get() {
                let Some(bytes) = seen.files.get(&Asked::Root(version).key()) else { break };
                let Some(root) = parse::<Root>(bytes) else { break };
                accepted.memory.roots.push(bytes.to_vec());
                accepted.root = root;
            }
        }
        let fetched = |asked: Asked| seen.files.get(&asked.key()).map(|bytes| bytes.to_vec());
        // After a change of keys what was seen before counts no more, also where tough stopped before it removed that: at a root
        // that has expired, or after as many roots as are followed at once.
        let same_keys = same_online_keys(&start.root.signed, &accepted.root.signed);
        let before = |bytes: &Option<Vec<u8>>| bytes.clone().filter(|_| same_keys);
        let (timestamp, snapshot) = (before(&start.timestamp), before(&start.snapshot));
        accepted.memory.timestamp =
            same::<Timestamp>(scratch.read("timestamp.json")?, fetched(Asked::Timestamp), timestamp);
        accepted.memory.snapshot =
            same::<Snapshot>(scratch.read("snapshot.json")?, fetched(Asked::Snapshot), snapshot);
        Ok(accepted)
    }

    /// The name of what went wrong while the metadata was read.
    pub(super) fn refused(&self, start: &Start, accepted: &Accepted, error: tough::error::Error) -> Refused {
        use tough::error::Error as E;
        let rollback = |what: &str, seen, offered| Refused::Rollback { what: what.to_owned(), seen, offered };
        let malformed = |kind: RoleType, why: String| Refused::Malformed { role: role(kind), why };
        match error {
            E::VerifyMetadata { role: kind, source, .. } => match source {
                schema::Error::SignatureThreshold { threshold, valid, .. } => {
                    let current = accepted.root.signed.version.get();
                    match self.once_good(start, accepted, kind) {
                        Some(root) => Refused::Revoked { role: role(kind), root, current },
                        None => Refused::Forged { role: role(kind), valid, threshold },
                    }
                }
                schema::Error::DuplicateKeyId { .. } => {
                    malformed(kind, "it has two signatures of one key".to_owned())
                }
                source => malformed(kind, source.to_string()),
            },
            E::OlderMetadata { role: RoleType::Root, current_version, new_version, .. } => {
                let why = format!(
                    "it has version {new_version} and stands where the one after {current_version} should"
                );
                malformed(RoleType::Root, why)
            }
            E::OlderMetadata { role: kind, current_version, new_version, .. } => {
                rollback(role(kind), current_version, new_version)
            }
            E::OlderSnapshotInTimestamp { snapshot_new, snapshot_old, .. } => {
                rollback("snapshot that the timestamp names", snapshot_old, snapshot_new)
            }
            E::SnapshotRoleRollback { old_role_version, new_role_version, .. } => {
                rollback("list of targets that the snapshot names", old_role_version, new_role_version)
            }
            E::SnapshotRoleMissing { role: name, old_version, .. } => {
                let name: String = name.chars().take(80).collect();
                let why = format!("it does not list {name} any more, which version {old_version} did");
                malformed(RoleType::Snapshot, why)
            }
            E::TimestampMetaLength { .. } | E::MissingSnapshotMeta { .. } => {
                malformed(RoleType::Timestamp, "it has to name the snapshot, and that alone".to_owned())
            }
            E::SnapshotTargetsMetaMissing { .. } => {
                malformed(RoleType::Snapshot, "it does not name the list of targets".to_owned())
            }
            E::ExpiredMetadata { role: kind, .. } => Refused::Expired { role: role(kind) },
            E::VersionMismatch { role: kind, .. } => Refused::Mixed { what: format!("the {}", role(kind)) },
            E::MaxUpdatesExceeded { max_root_updates, .. } => Refused::Roots(max_root_updates),
            E::ParseMetadata { role: kind, source, .. } => malformed(kind, source.to_string()),
            E::SystemTimeSteppedBackward { sys_time, latest_known_time } => {
                Refused::ClockBack { now: sys_time, latest: latest_known_time }
            }
            E::Transport { url, source, .. } => match transport(&url, &source) {
                // All names but those of delegated lists are fixed, where the root asks for consistent snapshots.
                Refused::Source(Failed::Name { .. }) => malformed(RoleType::Targets, DELEGATES.to_owned()),
                refused => refused,
            },
            error => Refused::Other(error.to_string()),
        }
    }

    /// The newest root before the one that holds by which a file that was just refused would have been good, where it is signed
    /// with a key that this root had for it and the one that holds has not. Where a threshold was raised alone, nothing was
    /// revoked.
    fn once_good(&self, start: &Start, accepted: &Accepted, kind: RoleType) -> Option<u64> {
        let key = match kind {
            RoleType::Timestamp => Asked::Timestamp.key(),
            RoleType::Snapshot => Asked::Snapshot.key(),
            RoleType::Targets => Asked::Targets.key(),
            RoleType::Root => Asked::Root(accepted.root.signed.version.get() + 1).key(),
            RoleType::DelegatedTargets => return None,
        };
        let bytes = self.seen().files.get(&key)?.clone();
        let signatures = parse::<serde_json::Value>(&bytes)?.signatures;
        let current = &accepted.root.signed;
        let has = |root: &Root, id: &Decoded<Hex>| {
            root.roles.get(&kind).is_some_and(|keys| keys.keyids.contains(id))
        };
        let roots = accepted.memory.roots.iter().rev().filter_map(|bytes| parse::<Root>(bytes));
        let mut roots = roots.chain([start.root.clone(), start.image.clone()]);
        let found = roots.find(|root| {
            root.signed.version < current.version
                && signatures.iter().any(|by| has(&root.signed, &by.keyid) && !has(current, &by.keyid))
                && match kind {
                    RoleType::Timestamp => good::<Timestamp>(&root.signed, &bytes),
                    RoleType::Snapshot => good::<Snapshot>(&root.signed, &bytes),
                    RoleType::Targets => good::<Targets>(&root.signed, &bytes),
                    _ => good::<Root>(&root.signed, &bytes),
                }
        });
        found.map(|root| root.signed.version.get())
    }

    /// The name of what went wrong with a target.
    pub(super) fn target(name: &str, error: tough::error::Error) -> Refused {
        use tough::error::Error as E;
        match error {
            E::ExpiredMetadata { role: kind, .. } => Refused::Expired { role: role(kind) },
            E::SystemTimeSteppedBackward { sys_time, latest_known_time } => {
                Refused::ClockBack { now: sys_time, latest: latest_known_time }
            }
            E::Transport { url, source, .. } => match transport(&url, &source) {
                Refused::Mixed { .. } => Refused::Changed { name: name.to_owned() },
                refused => refused,
            },
            error => Refused::Other(error.to_string()),
        }
    }
}

/// The bytes of what `tough` has written: what was fetched, when that is what it is, or what was there before.
fn same<T>(written: Option<Vec<u8>>, fetched: Option<Vec<u8>>, before: Option<Vec<u8>>) -> Option<Vec<u8>>
where
    T: DeserializeOwned + PartialEq,
{
    let written = parse::<T>(&written?)?;
    let is = |bytes: &Vec<u8>| parse::<T>(bytes).is_some_and(|signed| signed == written);
    fetched.filter(is).or(before.filter(is))
}

/// The name of what went wrong with a file.
fn transport(url: &Url, error: &TransportError) -> Refused {
    let name = || url.path().rsplit('/').next().unwrap_or_default().to_owned();
    let Some(cause) = error.source() else { return Refused::Other(error.to_string()) };
    if let Some(failed) = cause.downcast_ref::<Failed>() {
        return match failed {
            Failed::Endless { name, cap } => Refused::Endless { name: name.clone(), cap: *cap },
            failed => Refused::Source(failed.clone()),
        };
    }
    match cause.downcast_ref::<tough::error::Error>() {
        Some(tough::error::Error::HashMismatch { .. }) => Refused::Mixed { what: name() },
        Some(tough::error::Error::MaxSizeExceeded { max_size, .. }) => {
            Refused::Endless { name: name(), cap: *max_size }
        }
        _ => Refused::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_for_but_what_a_repository_has() {
        let hash = "ab".repeat(32);
        let target = format!("/targets/{hash}.lucid-qemu-arm64-1.2.3.index");
        for (path, asked) in [
            ("/metadata/timestamp.json", Asked::Timestamp),
            ("/metadata/2.root.json", Asked::Root(2)),
            ("/metadata/17.snapshot.json", Asked::Snapshot),
            ("/metadata/3.targets.json", Asked::Targets),
            (target.as_str(), Asked::Target),
        ] {
            assert_eq!(Asked::of(path).map(|(asked, ..)| asked), Some(asked), "{path}");
        }
        for path in [
            "/metadata/root.json",
            "/metadata/02.root.json",
            "/metadata/0.root.json",
            "/metadata/+2.root.json",
            "/metadata/2.other.json",
            "/metadata/a/2.root.json",
            "/metadata/..%2f2.root.json",
            "/targets/lucid-qemu-arm64-1.2.3.index",
            "/targets/ab.lucid-qemu-arm64-1.2.3.index",
            "/other/timestamp.json",
            "/",
            "",
        ] {
            assert_eq!(Asked::of(path), None, "{path}");
        }
    }
}
