//! What a source says is believed only as far as its signed metadata goes: The Update Framework
//! (<https://theupdateframework.io>), by the crate `tough`. This module adds what `tough` leaves to its caller:
//!
//! - The **memory**, `trust.json`: the roots after the image's own, the newest timestamp and snapshot, and the latest time at
//!   which all was well. It is kept by us, as a whole, whether `tough` went to the end or not; `tough` itself works on a copy
//!   that is thrown away.
//! - The **gate** through which every file comes: which names there are, how many bytes each may have and all together; that a
//!   root is missing only where the source says so; that a timestamp of the same version is the one that is known.
//! - What a root has to be beyond its signatures, and what a release's targets have to be.
//! - A name for each reason for which something is refused.

mod gate;
mod memory;
mod refused;

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp as Time;
use lucid_release_format::{
    Index, Release, Version,
    index::MAX_INDEX,
    metadata::{
        MAX_ROOT, MAX_ROOTS, MAX_SNAPSHOT, MAX_TARGETS, MAX_TIMESTAMP, SPECIFICATION, is_development,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tough::{
    ExpirationEnforcement, IntoVec as _, Repository, RepositoryLoader, TargetName,
    schema::{self, Role, RoleType, Root, Signed, Targets, Timestamp, key::Key},
};
use url::Url;

use self::gate::Gate;
pub use self::{
    memory::{FILE, Kept, Memory},
    refused::Refused,
};
use crate::{
    error::{At, Error, Result},
    patch::Offered,
    source::Source,
};

/// A clock that is set right may step back by so many seconds.
const STEP: i64 = 10;
/// What is wrong with a list whose releases others may name.
const DELEGATES: &str = "it delegates to others, which is not done here";
/// Where the gate is, for `tough`. Nobody is asked for this name.
const BASE: &str = "https://source.invalid/";

/// What a device believes to begin with.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The root that its image was built with.
    pub root: Vec<u8>,
    /// A folder in memory for what is thrown away.
    pub scratch: PathBuf,
    /// When its image was built, in seconds since 1970: it cannot be earlier.
    pub built: i64,
}

/// What a source offers.
pub struct Offer {
    /// The release.
    pub release: Release,
    /// The file of its archive, as the source has it.
    pub archive: String,
    /// How many bytes that has.
    pub archive_bytes: u64,
    /// Its patches, by the version that they start from.
    pub patches: Vec<(Version, Offered)>,
    index: TargetName,
}

/// A source whose metadata is good.
pub struct Offers {
    /// Its releases, the newest first.
    pub releases: Vec<Offer>,
    /// What is none, and why: perhaps of a later format.
    pub passed_over: Vec<(String, String)>,
    repository: Repository,
    latest: i64,
    scratch: Scratch,
}

impl fmt::Debug for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = self.releases.iter().map(|offer| offer.release.version.to_string());
        f.debug_list().entries(versions).finish()
    }
}

/// What came of asking a source.
#[derive(Debug)]
pub struct Cycle {
    /// What is to be remembered, however it ended.
    pub memory: Memory,
    /// What people should know.
    pub notes: Vec<String>,
    /// What it offers.
    pub offers: Result<Offers, Refused>,
}

/// A folder that goes with this.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: &Path) -> Result<Self> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("removing", path),
            _ => {}
        }
        fs::create_dir_all(path).at("making", path)?;
        Ok(Self(path.to_owned()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, bytes).at("writing", &path)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("reading", &path),
        }
    }

    /// The time before which `tough` believes no clock.
    fn set_time(&self, latest: i64) -> Result<()> {
        let time = seconds(latest.saturating_sub(STEP));
        self.write("latest_known_time.json", format!("\"{time}\"").as_bytes())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("removing {}: {error}", self.0.display());
        }
    }
}

fn seconds(seconds: i64) -> Time {
    Time::from_second(seconds).unwrap_or(Time::UNIX_EPOCH)
}

/// How a role is called.
fn role(role: RoleType) -> &'static str {
    match role {
        RoleType::Root => "root",
        RoleType::Snapshot => "snapshot",
        RoleType::Targets => "list of targets",
        RoleType::Timestamp => "timestamp",
        RoleType::DelegatedTargets => "delegated list of targets",
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<Signed<T>> {
    serde_json::from_slice(bytes).ok()
}

/// Whether a root names these keys for the metadata.
fn good<T: Role + DeserializeOwned>(root: &Root, bytes: &[u8]) -> bool {
    parse::<T>(bytes).is_some_and(|signed| root.verify_role(&signed).is_ok())
}

/// A root that holds by itself.
fn own(bytes: &[u8]) -> Result<Signed<Root>, String> {
    let root: Signed<Root> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    root.signed.verify_role(&root).map_err(|error| error.to_string())?;
    Ok(root)
}

/// Whether the keys of what changes often are the same: where they are not, what was seen before counts no more
/// (specification, 5.3.11).
fn same_online_keys(one: &Root, other: &Root) -> bool {
    [RoleType::Timestamp, RoleType::Snapshot].into_iter().all(|role| one.keys(role).eq(other.keys(role)))
}

/// What a root has to be beyond its signatures.
fn check_root(root: &Root, image: &Root) -> Result<(), Refused> {
    let wrong = |why: String| Err(Refused::Malformed { role: "root", why });
    if root.spec_version != SPECIFICATION {
        return wrong(format!("it follows version {:?} of the specification", root.spec_version));
    }
    if !root.consistent_snapshot {
        return wrong("it does not ask for consistent snapshots".to_owned());
    }
    if is_development(&root._extra) && !is_development(&image._extra) {
        return Err(Refused::Development(root.version.get()));
    }
    let mut seen = HashSet::new();
    for key in root.keys.values() {
        let Key::Ed25519 { keyval, .. } = key else {
            return wrong("it has a key that is not Ed25519".to_owned());
        };
        // With something beside it a key has another id, and would count twice.
        if !seen.insert(keyval.public.to_vec()) {
            return wrong("it has a key twice".to_owned());
        }
    }
    for (kind, keys) in &root.roles {
        let known: HashSet<_> = keys.keyids.iter().filter(|id| root.keys.contains_key(*id)).collect();
        if keys.threshold.get() > known.len() as u64 {
            return wrong(format!("its {} has fewer keys than it needs signatures", role(*kind)));
        }
    }
    Ok(())
}

/// From where the next cycle begins.
struct Start {
    image: Signed<Root>,
    root: Signed<Root>,
    bytes: Vec<u8>,
    timestamp: Option<Vec<u8>>,
    snapshot: Option<Vec<u8>>,
    /// The roots of the memory that follow from the image's.
    roots: Vec<Vec<u8>>,
}

impl Trust {
    /// The newest root that follows from the image's by the memory, link by link: nothing on the data partition is believed
    /// because it is there.
    fn start(&self, memory: &Memory, notes: &mut Vec<String>) -> Result<Start> {
        let image = own(&self.root).map_err(|why| Refused::Malformed { role: "root of the image", why })?;
        let mut start = Start {
            root: image.clone(),
            image,
            bytes: self.root.clone(),
            timestamp: memory.timestamp.clone(),
            snapshot: memory.snapshot.clone(),
            roots: Vec::new(),
        };
        let mut before = None;
        for bytes in &memory.roots {
            let current = start.root.signed.version.get();
            let linked = own(bytes).and_then(|next| {
                let version = next.signed.version.get();
                if version <= current {
                    before = Some(next);
                    return Ok(None);
                }
                if version != current + 1 {
                    return Err(format!("root {version} does not follow root {current}"));
                }
                start.root.signed.verify_role(&next).map_err(|error| error.to_string())?;
                Ok(Some(next))
            });
            match linked {
                Ok(None) => {}
                Ok(Some(next)) => {
                    start.root = next;
                    start.bytes.clone_from(bytes);
                    start.roots.push(bytes.clone());
                }
                Err(why) => {
                    notes.push(format!("a root that was kept is not believed ({why}): it is fetched again"));
                    break;
                }
            }
        }
        // The image may have brought a newer root than was seen before, with other keys for what changes often.
        let newer = start.roots.is_empty();
        if before.is_some_and(|root| newer && !same_online_keys(&root.signed, &start.root.signed)) {
            (start.timestamp, start.snapshot) = (None, None);
        }
        Ok(start)
    }

    /// Asks a source for its metadata and checks all of it. What is remembered then is to be kept before anything is done with
    /// what is offered.
    ///
    /// # Errors
    /// When the device itself fails: its disk, or its image's root. What a source does is in the answer.
    pub async fn ask(&self, memory: &Memory, source: Arc<dyn Source>) -> Result<Cycle> {
        let mut notes = Vec::new();
        let start = self.start(memory, &mut notes)?;
        let latest = memory.latest.max(self.built);
        let now = Time::now();
        if now.as_second() < latest.saturating_sub(STEP) {
            let refused = Refused::ClockBack { now: seconds(now.as_second()), latest: seconds(latest) };
            return Ok(Cycle { memory: memory.clone(), notes, offers: Err(refused) });
        }
        let scratch = Scratch::new(&self.scratch)?;
        scratch.set_time(latest)?;
        for (name, bytes) in [("timestamp.json", &start.timestamp), ("snapshot.json", &start.snapshot)] {
            if let Some(bytes) = bytes {
                scratch.write(name, bytes)?;
            }
        }
        let known = start.timestamp.clone().filter(|bytes| good::<Timestamp>(&start.root.signed, bytes));
        let gate = Gate::new(source, known);
        let base = |path: &str| {
            Url::parse(&format!("{BASE}{path}/")).map_err(|error| Error::Internal(error.to_string()))
        };
        let loaded = RepositoryLoader::new(&start.bytes, base("metadata")?, base("targets")?)
            .transport(gate.clone())
            .limits(tough::Limits {
                max_root_size: MAX_ROOT,
                max_targets_size: MAX_TARGETS,
                max_timestamp_size: MAX_TIMESTAMP,
                max_snapshot_size: MAX_SNAPSHOT,
                max_root_updates: MAX_ROOTS,
            })
            .datastore(scratch.0.clone())
            .expiration_enforcement(ExpirationEnforcement::Safe)
            .load()
            .await;
        notes.append(&mut gate.seen().notes);
        let accepted = gate.accepted(&start, &scratch)?;
        let passes = check_root(&accepted.root.signed, &start.image.signed);
        let checked = match (loaded, &passes) {
            (Ok(repository), Ok(())) => releases(&repository).map(|found| (repository, found)),
            (Ok(_), Err(why)) => Err(why.clone()),
            (Err(error), _) => {
                let refused = gate.refused(&start, &accepted, error);
                // What is wrong with the root explains what is wrong with the rest.
                let follows = matches!(refused, Refused::Forged { .. } | Refused::Malformed { .. });
                Err(passes.as_ref().err().filter(|_| follows).cloned().unwrap_or(refused))
            }
        };
        // A root that does not pass is not kept: the one after it may, and is reached through it again.
        let kept = if passes.is_ok() { accepted.memory } else { memory.clone() };
        let mut new = Memory { latest: memory.latest, ..kept };
        let offers = match checked {
            Err(refused) => Err(refused),
            Ok((repository, (releases, passed_over))) => {
                // Only now, that the metadata's expiry bounds it from above as well.
                new.latest = new.latest.max(now.as_second());
                Ok(Offers { releases, passed_over, repository, latest, scratch })
            }
        };
        Ok(Cycle { memory: new, notes, offers })
    }
}

/// The releases of a repository, the newest first, and what is none.
type Found = (Vec<Offer>, Vec<(String, String)>);

fn releases(repository: &Repository) -> Result<Found, Refused> {
    let wrong = |role: &'static str, why: &str| Err(Refused::Malformed { role, why: why.to_owned() });
    let (timestamp, snapshot) = (&repository.timestamp().signed, &repository.snapshot().signed);
    let targets = &repository.targets().signed;
    for meta in timestamp.meta.values().chain(snapshot.meta.values()) {
        if meta.length.is_none() || meta.hashes.is_none() {
            return wrong("metadata", "a file is listed without its length or its hash");
        }
    }
    let versions = [&timestamp.spec_version, &snapshot.spec_version, &targets.spec_version];
    if versions.into_iter().any(|version| version != SPECIFICATION) {
        return wrong("metadata", "it follows another version of the specification");
    }
    if targets.delegations.as_ref().is_some_and(|delegations| !delegations.roles.is_empty()) {
        return wrong("list of targets", DELEGATES);
    }
    let (mut offers, mut passed_over) = (Vec::new(), Vec::new());
    for (name, target) in &targets.targets {
        match offer(targets, name, target) {
            Ok(None) => {}
            Ok(Some(offer)) => offers.push(offer),
            Err(why) => passed_over.push((name.raw().chars().take(80).collect::<String>(), why)),
        }
    }
    offers.sort_by_key(|offer: &Offer| std::cmp::Reverse(offer.release.version));
    passed_over.sort_unstable();
    Ok((offers, passed_over))
}

fn offer(targets: &Targets, name: &TargetName, target: &schema::Target) -> Result<Option<Offer>, String> {
    let release = Release::of_target(name.raw(), &target.custom).map_err(|error| error.to_string())?;
    let Some(release) = release else { return Ok(None) };
    if target.length > MAX_INDEX as u64 {
        return Err(format!("its index would have {} bytes", target.length));
    }
    let archive = release.archive_name();
    let found = targets.targets.iter().find(|(name, _)| name.raw() == archive);
    let Some((_, about)) = found else { return Err(format!("there is no {archive} to it")) };
    let file = format!("{}.{archive}", hex::encode(&about.hashes.sha256));
    let patch = |(name, about): (&TargetName, &schema::Target)| {
        let from = release.patch_from(name.raw())?;
        let file = format!("{}.{}", hex::encode(&about.hashes.sha256), name.raw());
        Some((from, Offered { file, bytes: about.length }))
    };
    let patches = targets.targets.iter().filter_map(patch).collect();
    Ok(Some(Offer { release, archive: file, archive_bytes: about.length, patches, index: name.clone() }))
}

impl Offers {
    /// The versions of the root and of the list of releases: of two sources of the same releases, the one that is behind has
    /// less.
    #[must_use]
    pub fn version(&self) -> (u64, u64) {
        let Signed { signed: root, .. } = self.repository.root();
        (root.version.get(), self.repository.targets().signed.version.get())
    }

    /// The index of a release that is offered.
    ///
    /// # Errors
    /// When it is not had, or is not what was signed.
    pub async fn index(&self, offer: &Offer) -> Result<Index> {
        let name = offer.index.raw();
        let wrong = |why: String| Refused::Release { name: name.to_owned(), why };
        // A clock that was set right by a little since the metadata was fetched is no attack.
        self.scratch.set_time(self.latest)?;
        let stream = self.repository.read_target(&offer.index).await;
        let stream = stream.map_err(|error| Gate::target(name, error))?;
        let stream = stream.ok_or_else(|| wrong("it is not listed".to_owned()))?;
        let bytes = stream.into_vec().await.map_err(|error| Gate::target(name, error))?;
        let index = Index::read(&bytes).map_err(|error| wrong(error.to_string()))?;
        if index.archive_bytes() != offer.archive_bytes {
            let (one, other) = (index.archive_bytes(), offer.archive_bytes);
            return Err(wrong(format!(
                "its index is of an archive of {one} bytes, and its archive has {other}"
            ))
            .into());
        }
        Ok(index)
    }
}

/// What is known of the roots, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The version of the root that holds.
    pub root: u64,
    /// When it expires.
    pub root_expires: String,
    /// Whether it is for development.
    pub development: bool,
    /// The newest timestamp's version, and when it expires.
    pub timestamp: Option<(u64, String)>,
    /// When a source was well last.
    pub checked: Option<String>,
}

impl Trust {
    /// Whether what was believed last holds by the clock: the root, and the newest timestamp that was seen. By one that was set
    /// back nothing does.
    ///
    /// # Errors
    /// When the image's root is none.
    pub fn holds(&self, memory: &Memory) -> Result<bool> {
        let (start, now) = (self.start(memory, &mut Vec::new())?, Time::now());
        let timestamp = start.timestamp.as_deref().and_then(parse::<Timestamp>);
        let timestamp = timestamp.is_some_and(|timestamp| now < timestamp.signed.expires);
        let back = now.as_second() < memory.latest.max(self.built).saturating_sub(STEP);
        Ok(!back && timestamp && now < start.root.signed.expires)
    }

    /// What holds at present.
    ///
    /// # Errors
    /// When the image's root is none.
    pub fn standing(&self, memory: &Memory) -> Result<Standing> {
        let start = self.start(memory, &mut Vec::new())?;
        let timestamp = start.timestamp.as_deref().and_then(parse::<Timestamp>);
        let timestamp = timestamp.map(|timestamp| {
            let Timestamp { version, expires, .. } = timestamp.signed;
            (version.get(), expires.to_string())
        });
        Ok(Standing {
            root: start.root.signed.version.get(),
            root_expires: start.root.signed.expires.to_string(),
            development: is_development(&start.root.signed._extra),
            timestamp,
            checked: (memory.latest > 0).then(|| seconds(memory.latest).to_string()),
        })
    }
}
