//! What metadata says, for people and for programs.
//!
//! The fields of the JSON are stable: some may be added, none is renamed, removed or given another meaning. Times are as in RFC
//! 3339; what does not apply is `null` or empty.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp as Time;
use lucid_release_format::release::ALL;
use lucid_release_format::{Release, Version};
use serde::Serialize;
use tough::schema::{Metafile, RoleType, Root, Snapshot, Targets, Timestamp};

use crate::client::METADATA;
use crate::document::{self, Document, Held, Kind};
use crate::error::{Error, Result};
use crate::key::{KeyId, PublicKey};
use crate::release::{self, Listed};
use crate::roots::Roots;
use crate::rules;

/// `lucid-release inspect --json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Roots first, then targets, snapshot, timestamp.
    pub files: Vec<About>,
}

/// One file of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct About {
    /// Where it is.
    pub file: String,
    /// `root`, `targets`, `snapshot` or `timestamp`.
    pub kind: &'static str,
    /// Its version.
    pub version: u64,
    /// When it ends.
    pub expires: String,
    /// Whether it has ended.
    pub expired: bool,
    /// SHA-256 of what is signed.
    pub code: String,
    /// How far it is, for each root that asks.
    pub signed: Vec<SignedBy>,
    /// Whether its root, or it itself, is for development.
    pub development: bool,
    /// Of a root: who signs what.
    pub roles: Vec<Role>,
    /// Of targets: the releases.
    pub releases: Vec<ReleaseAbout>,
    /// Of a snapshot and a timestamp: the file that it names.
    pub names: Option<Names>,
}

/// Who of those that a root asks for have signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignedBy {
    /// The version of the root.
    pub root: u64,
    /// How many it asks for.
    pub threshold: u64,
    /// The ids of the keys that have.
    pub keys: Vec<String>,
    /// Whether that is enough.
    pub enough: bool,
}

/// A role of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Role {
    /// Its name.
    pub role: &'static str,
    /// How many have to sign.
    pub threshold: u64,
    /// Who may.
    pub keys: Vec<KeyAbout>,
}

/// A key of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyAbout {
    /// Its id: what signatures and `rotate-root --remove` name it by.
    pub id: String,
    /// Its public half: what `key show` prints.
    pub public: String,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleaseAbout {
    /// What is said of it.
    pub release: Release,
    /// Bytes of its index.
    pub index_bytes: u64,
    /// SHA-256 of it.
    pub index_sha256: String,
    /// Bytes of its archive.
    pub archive_bytes: u64,
    /// SHA-256 of it.
    pub archive_sha256: String,
    /// Its patches.
    pub patches: Vec<PatchAbout>,
}

/// A patch of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PatchAbout {
    /// The version that it starts from.
    pub from: Version,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: String,
}

/// A file that another one names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Names {
    /// Its name.
    pub file: String,
    /// Its version.
    pub version: u64,
    /// Its bytes.
    pub bytes: Option<u64>,
    /// SHA-256 of it.
    pub sha256: Option<String>,
}

impl From<&Listed> for ReleaseAbout {
    fn from(listed: &Listed) -> Self {
        Self {
            release: listed.release.clone(),
            index_bytes: listed.index.length,
            index_sha256: hex::encode(&listed.index.hashes.sha256),
            archive_bytes: listed.archive.length,
            archive_sha256: hex::encode(&listed.archive.hashes.sha256),
            patches: listed
                .patches
                .iter()
                .map(|patch| PatchAbout {
                    from: patch.from,
                    bytes: patch.target.length,
                    sha256: hex::encode(&patch.target.hashes.sha256),
                })
                .collect(),
        }
    }
}

impl Names {
    fn of(meta: &std::collections::HashMap<String, Metafile>) -> Option<Self> {
        let (file, meta) = meta.iter().next()?;
        Some(Self {
            file: file.clone(),
            version: meta.version.get(),
            bytes: meta.length,
            sha256: meta.hashes.as_ref().map(|hashes| hex::encode(&hashes.sha256)),
        })
    }
}

fn about<T: Kind>(held: &Held<T>, roots: &[Root], now: Time) -> Result<About> {
    let role = &held.signed.signed;
    let mut signed = Vec::new();
    for root in roots {
        let standing = rules::standing(&held.signed, root)?;
        signed.push(SignedBy {
            root: standing.root,
            threshold: standing.threshold,
            enough: standing.is_enough(),
            keys: standing.by.iter().map(hex::encode).collect(),
        });
    }
    Ok(About {
        file: held.path.display().to_string(),
        kind: T::NAME,
        version: role.version().get(),
        expires: role.expires().to_string(),
        expired: role.expires() <= now,
        code: document::code(role)?,
        signed,
        development: roots.iter().any(rules::is_development),
        roles: Vec::new(),
        releases: Vec::new(),
        names: None,
    })
}

/// What one file says; `roots` are those that ask for its signatures.
fn about_document(document: &Document, roots: &[Root], now: Time) -> Result<About> {
    match document {
        Document::Root(held) => {
            let mut about = about(held, roots, now)?;
            about.development = rules::is_development(&held.signed.signed);
            about.roles = roles(&held.signed.signed);
            Ok(about)
        }
        Document::Targets(held) => {
            let mut about = about(held, roots, now)?;
            about.releases = releases(&held.signed.signed)?;
            Ok(about)
        }
        Document::Snapshot(held) => {
            let mut about = about(held, roots, now)?;
            about.names = Names::of(&held.signed.signed.meta);
            Ok(about)
        }
        Document::Timestamp(held) => {
            let mut about = about(held, roots, now)?;
            about.names = Names::of(&held.signed.signed.meta);
            Ok(about)
        }
    }
}

fn roles(root: &Root) -> Vec<Role> {
    let of = |role: RoleType| {
        let keys = root.roles.get(&role)?;
        let key = |id: &KeyId| {
            let public = rules::public(root, id).as_ref().map(PublicKey::to_string).unwrap_or_default();
            KeyAbout { id: hex::encode(id), public }
        };
        Some(Role {
            role: rules::role_name(role),
            threshold: keys.threshold.get(),
            keys: keys.keyids.iter().map(key).collect(),
        })
    };
    rules::ROLES.into_iter().filter_map(of).collect()
}

fn releases(targets: &Targets) -> Result<Vec<ReleaseAbout>> {
    Ok(release::all(targets)?.iter().map(ReleaseAbout::from).collect())
}

/// What a folder of releases, a web folder or a file says.
///
/// # Errors
/// When it cannot be read, or breaks a rule.
pub fn inspect(path: &Path, now: Time) -> Result<Report> {
    if !path.is_dir() {
        let document = Document::read(path)?;
        // Its roots may not be there; then nothing is said of its signatures.
        let roots = match Roots::read(crate::files::folder_of(path)) {
            Err(Error::NoRoot(_)) => None,
            roots => Some(roots?),
        };
        let asks = asking(&document, roots.as_ref());
        return Ok(Report { files: vec![about_document(&document, &asks, now)?] });
    }
    let is_web = path.join(METADATA).is_dir();
    let folder = if is_web { path.join(METADATA) } else { path.to_owned() };
    let roots = Roots::read(&folder)?;
    let mut documents: Vec<Document> =
        roots.in_force.iter().chain(&roots.draft).cloned().map(Document::Root).collect();
    if is_web {
        // The timestamp names the snapshot, and that the targets.
        let timestamp = Held::<Timestamp>::read(&folder.join("timestamp.json"))?;
        if let Some(names) = Names::of(&timestamp.signed.signed.meta) {
            let snapshot = Held::<Snapshot>::read(&folder.join(format!("{}.snapshot.json", names.version)))?;
            if let Some(names) = Names::of(&snapshot.signed.signed.meta) {
                let targets = Held::read(&folder.join(format!("{}.targets.json", names.version)))?;
                documents.push(Document::Targets(targets));
            }
            documents.push(Document::Snapshot(snapshot));
        }
        documents.push(Document::Timestamp(timestamp));
    } else {
        let published = folder.join("published");
        let files =
            [folder.join("targets.json"), published.join("snapshot.json"), published.join("timestamp.json")];
        for file in files.iter().filter(|file| file.exists()) {
            documents.push(Document::read(file)?);
        }
    }
    let about = |document: &Document| about_document(document, &asking(document, Some(&roots)), now);
    Ok(Report { files: documents.iter().map(about).collect::<Result<_>>()? })
}

/// The roots that ask for the signatures of some metadata.
fn asking(document: &Document, roots: Option<&Roots>) -> Vec<Root> {
    match document {
        Document::Root(held) => {
            let version = held.signed.signed.version.get();
            let before = roots.and_then(|roots| roots.version(version.saturating_sub(1)));
            let before = before.map(|before| before.signed.signed.clone());
            before.into_iter().chain([held.signed.signed.clone()]).collect()
        }
        _ => roots.and_then(Roots::newest).map(|root| root.signed.signed.clone()).into_iter().collect(),
    }
}

/// A span of seconds in its largest unit that comes out whole.
fn span(seconds: u32) -> String {
    match seconds {
        0 => "at once".to_owned(),
        _ if seconds.is_multiple_of(86_400) => format!("after {} d", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("after {} h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("after {} min", seconds / 60),
        _ => format!("after {seconds} s"),
    }
}

fn release_words(out: &mut String, word: &str, about: &ReleaseAbout) {
    let release = &about.release;
    let paused = if release.paused { ", paused: nobody takes it now" } else { "" };
    let (version, machine, channel) = (release.version, &release.machine, &release.channel);
    let _ = writeln!(out, "  {word}{version} for {machine}, channel {channel}{paused}");
    let floor = release.min_version;
    let _ = writeln!(
        out,
        "    for devices that run {} or later; whoever has it never goes below {floor}",
        release.min_from
    );
    let waves: Vec<_> =
        release.waves.iter().map(|wave| format!("{} of {ALL} {}", wave.share, span(wave.after))).collect();
    let _ = writeln!(out, "    to {}", waves.join(", "));
    let _ = writeln!(out, "    index    {:>10} bytes  sha256 {}", about.index_bytes, about.index_sha256);
    let _ = writeln!(out, "    archive  {:>10} bytes  sha256 {}", about.archive_bytes, about.archive_sha256);
    for PatchAbout { from, bytes, sha256 } in &about.patches {
        let _ = writeln!(out, "    patch    {bytes:>10} bytes  sha256 {sha256}  from {from}");
    }
}

/// A file in words.
fn words(out: &mut String, about: &About) {
    let expired = if about.expired { " (over)" } else { "" };
    let development = if about.development { ", for development" } else { "" };
    let _ = writeln!(
        out,
        "{} {}, expires {}{expired}{development}   {}",
        about.kind, about.version, about.expires, about.file
    );
    for role in &about.roles {
        let _ = writeln!(out, "  {}: {} of {} keys", role.role, role.threshold, role.keys.len());
        for key in &role.keys {
            let _ = writeln!(out, "    {}  id {}", key.public, key.id);
        }
    }
    if let Some(names) = &about.names {
        let _ = writeln!(out, "  names {} of version {}", names.file, names.version);
    }
    for release in &about.releases {
        release_words(out, "", release);
    }
    for signed in &about.signed {
        let enough = if signed.enough { "enough" } else { "not enough" };
        let count = signed.keys.len();
        let _ = writeln!(
            out,
            "  signed by {count} of the {} that root {} asks for: {enough}",
            signed.threshold, signed.root
        );
        for key in &signed.keys {
            let _ = writeln!(out, "    {key}");
        }
    }
}

impl Report {
    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        let mut out = String::new();
        for about in &self.files {
            words(&mut out, about);
        }
        out
    }
}

/// What somebody reads before he signs: all of it, what is other than before, and the code to compare.
pub(crate) fn words_before_signing(
    document: &Document,
    roots: &[Root],
    before: Option<&Document>,
    now: Time,
) -> Result<String> {
    let about = about_document(document, roots, now)?;
    let mut out = String::new();
    words(&mut out, &about);
    match (document, before) {
        (Document::Targets(held), Some(Document::Targets(before))) => {
            let old = releases(&before.signed.signed)?;
            let (old_version, version) =
                (before.signed.signed.version.get(), held.signed.signed.version.get());
            let _ = writeln!(out, "Against targets {old_version}, which were published last:");
            let mut changed = false;
            for release in &about.releases {
                let known = old.iter().find(|other| is_same_version(other, release));
                match known {
                    Some(other) if other == release => continue,
                    Some(_) => release_words(&mut out, "changed: ", release),
                    None => release_words(&mut out, "new: ", release),
                }
                changed = true;
            }
            for other in &old {
                if !about.releases.iter().any(|release| is_same_version(other, release)) {
                    release_words(&mut out, "withdrawn: ", other);
                    changed = true;
                }
            }
            if !changed {
                let _ = writeln!(out, "  the same releases");
            }
            if version <= old_version {
                let _ = writeln!(out, "  CAREFUL: it is not newer");
            }
        }
        (Document::Root(held), Some(Document::Root(before))) => {
            let _ = writeln!(out, "Against root {}:", before.signed.signed.version);
            root_changes(&mut out, &before.signed.signed, &held.signed.signed);
        }
        _ => {}
    }
    let _ = writeln!(out, "The others who sign must see the same code:\n  {}", about.code);
    Ok(out)
}

fn is_same_version(one: &ReleaseAbout, other: &ReleaseAbout) -> bool {
    (&one.release.machine, one.release.version) == (&other.release.machine, other.release.version)
}

fn root_changes(out: &mut String, before: &Root, after: &Root) {
    let (old, new) = (roles(before), roles(after));
    let before_it = out.len();
    for (old, new) in old.iter().zip(&new) {
        if old.threshold != new.threshold {
            let _ =
                writeln!(out, "  {}: {} signatures instead of {}", new.role, new.threshold, old.threshold);
        }
        for key in new.keys.iter().filter(|key| !old.keys.contains(key)) {
            let _ = writeln!(out, "  {}: new key {}", new.role, key.public);
        }
        for key in old.keys.iter().filter(|key| !new.keys.contains(key)) {
            let _ = writeln!(out, "  {}: without key {}", new.role, key.public);
        }
    }
    if rules::is_development(before) != rules::is_development(after) {
        let _ = writeln!(out, "  another mark of development");
    }
    if out.len() == before_it {
        let _ = writeln!(out, "  the same keys");
    }
}
