//! Publishing: a snapshot and a timestamp over what enough holders have signed, checked as a device would, and then written
//! into a folder that a web server gives out.
//!
//! | in the web folder | |
//! | --- | --- |
//! | `metadata/N.root.json` | every root there ever was: a device may have been off for years |
//! | `metadata/N.targets.json`, `metadata/N.snapshot.json` | |
//! | `metadata/timestamp.json` | written last: until then devices see what there was before |
//! | `targets/SHA256.NAME` | indexes, archives and patches |
//!
//! No file there is ever removed by this program, and each gets its name when it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp as Time;
use lucid_release_format::metadata::SPECIFICATION;
use tough::ExpirationEnforcement;
use tough::schema::{Root, Signed, Snapshot, Target, Targets, Timestamp};

use crate::client::{Client, Files, METADATA, Source, TARGETS};
use crate::document::{Held, Kind as _, canonical, days_after};
use crate::draft::counted;
use crate::error::{At as _, Error, Result};
use crate::files;
use crate::folder::{Folder, Published};
use crate::key::SecretKey;
use crate::release::{self, Listed, web_name};
use crate::roots::{Roots, file_name};
use crate::rules;
use crate::sign;

/// The keys that sign by themselves, each time something is published.
#[derive(Debug)]
pub struct Keys<'a> {
    /// For snapshots.
    pub snapshot: &'a [SecretKey],
    /// For timestamps.
    pub timestamp: &'a [SecretKey],
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// The root that holds.
    pub root: u64,
    /// The list of releases.
    pub targets: u64,
    /// The snapshot.
    pub snapshot: u64,
    /// The timestamp.
    pub timestamp: u64,
    /// Until when devices take all of this for current, as in RFC 3339: before then, `refresh`.
    pub until: String,
    /// How many files were written.
    pub files: usize,
    /// The next root, which was not published, as too few have signed it.
    pub waiting: Option<Waiting>,
}

/// A root that is not published yet.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Waiting {
    /// Its file.
    pub file: String,
    /// Its version.
    pub version: u64,
    /// For how many signatures each root asks that too few have signed it for, and how many it has.
    pub lacks: Vec<Lack>,
}

/// Too few signatures for a root.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Lack {
    /// The version of the root that asks: the one before, or itself.
    pub root: u64,
    /// How many it asks for.
    pub threshold: u64,
    /// How many there are.
    pub have: u64,
}

/// Publishes the list of releases of a folder.
///
/// # Errors
/// When too few have signed, something expired or does not follow what was published before, files are missing or broken, or
/// a device would refuse it. Nothing is written then.
pub fn publish(folder: &Folder, web: &Path, keys: &Keys<'_>, now: Time, tell: &dyn Fn(&str)) -> Result<Done> {
    let published = folder.published()?;
    let mut targets = Held::<Targets>::read(&folder.targets_file())?;
    let version = targets.signed.signed.version.get();
    match &published.targets {
        Some(last) if canonical(&last.signed.signed)? == canonical(&targets.signed.signed)? => {
            // The bytes that others have hashed already.
            targets = last.clone();
        }
        last => {
            let expected = last.as_ref().map_or(1, |last| last.signed.signed.version.get() + 1);
            if version != expected {
                let what = targets.path.display().to_string();
                let next = "make the draft again";
                return Err(Error::OutOfStep { what, version, expected, next });
            }
        }
    }
    go(folder, web, keys, &published, &targets, now, tell)
}

/// Publishes once more what was published last, so that it holds longer.
///
/// # Errors
/// As [`publish`].
pub fn refresh(folder: &Folder, web: &Path, keys: &Keys<'_>, now: Time, tell: &dyn Fn(&str)) -> Result<Done> {
    let published = folder.published()?;
    let Some(targets) = published.targets.clone() else {
        return Err(Error::Arguments(
            "nothing was published from this folder yet: `lucid-release publish`".into(),
        ));
    };
    go(folder, web, keys, &published, &targets, now, tell)
}

fn go(
    folder: &Folder,
    web: &Path,
    keys: &Keys<'_>,
    published: &Published,
    targets: &Held<Targets>,
    now: Time,
    tell: &dyn Fn(&str),
) -> Result<Done> {
    let roots = folder.roots()?;
    let root = roots.holding(folder.path())?;
    let first = chain_from_one(folder, &roots)?;
    rules::in_time(&root.signed.signed, now, "make a new one with `lucid-release rotate-root`")?;
    rules::targets(&targets.signed.signed)?;
    signed_by_enough(targets, &roots, &root.signed.signed)?;
    rules::in_time(&targets.signed.signed, now, "`lucid-release renew` makes a draft that holds longer")?;
    in_step(web, published)?;

    let (snapshot, timestamp) = over(folder, published, targets, &root.signed.signed, keys, now)?;
    let releases = release::all(&targets.signed.signed)?;
    let mut new = Vec::new();
    for listed in &releases {
        new.extend(sources(folder, web, listed)?);
    }
    for held in &roots.in_force {
        let name = format!("{METADATA}/{}", file_name(held.signed.signed.version.get()));
        not_taken(&web.join(&name), held)?;
        new.push((name, Source::Bytes(held.bytes.clone())));
    }
    let numbered = |version: u64, kind: &str| format!("{METADATA}/{version}.{kind}.json");
    let targets_version = targets.signed.signed.version.get();
    let snapshot_version = snapshot.signed.signed.version.get();
    new.push((numbered(targets_version, "targets"), Source::Bytes(targets.bytes.clone())));
    new.push((numbered(snapshot_version, "snapshot"), Source::Bytes(snapshot.bytes.clone())));
    new.push((format!("{METADATA}/timestamp.json"), Source::Bytes(timestamp.bytes.clone())));

    tell("checking all of it as a device would");
    as_a_device(web, &first.bytes, &new, published, &releases, tell)?;

    folder.keep(targets, &snapshot, &timestamp)?;
    let files = write(web, &new, tell)?;
    // What is on the disk now, and nothing else.
    Client::load(&first.bytes, Files::new(web, []), None, ExpirationEnforcement::Safe)?;
    Ok(Done {
        root: root.signed.signed.version.get(),
        targets: targets_version,
        snapshot: snapshot_version,
        timestamp: timestamp.signed.signed.version.get(),
        until: timestamp.signed.signed.expires.to_string(),
        files,
        waiting: roots.draft.as_ref().map(|draft| waiting(draft, &root.signed.signed)).transpose()?,
    })
}

/// Of the next root: what it lacks.
fn waiting(draft: &Held<Root>, before: &Root) -> Result<Waiting> {
    let mut lacks = Vec::new();
    for root in [before, &draft.signed.signed] {
        let standing = rules::standing(&draft.signed, root)?;
        if !standing.is_enough() {
            let have = standing.by.len() as u64;
            lacks.push(Lack { root: standing.root, threshold: standing.threshold, have });
        }
    }
    let version = draft.signed.signed.version.get();
    Ok(Waiting { file: draft.path.display().to_string(), version, lacks })
}

/// Whether enough have signed the list for the root that holds.
fn signed_by_enough(targets: &Held<Targets>, roots: &Roots, root: &Root) -> Result<()> {
    let (what, root, have, threshold) = match rules::enough(&targets.signed, root) {
        Err(Error::TooFew { what, root, have, threshold }) => (what, root, have, threshold),
        other => return other,
    };
    for before in roots.in_force.iter().rev().skip(1) {
        if rules::standing(&targets.signed, &before.signed.signed)?.is_enough() {
            let before = before.signed.signed.version.get();
            return Err(Error::RootChanged { what, root, have, threshold, before });
        }
    }
    Err(Error::TooFew { what, root, have, threshold })
}

/// The first root, from which every device can come to the newest one.
fn chain_from_one<'a>(folder: &Folder, roots: &'a Roots) -> Result<&'a Held<Root>> {
    let missing = folder.path().join(file_name(1));
    let gone = || Error::RootMissing { missing, needed_for: "the roots after it".to_owned() };
    roots.in_force.first().filter(|held| held.signed.signed.version.get() == 1).ok_or_else(gone)
}

/// Whether the web folder has what was published from here, or less: an interrupted run leaves less.
fn in_step(web: &Path, published: &Published) -> Result<()> {
    let path = web.join(METADATA).join("timestamp.json");
    let Some(theirs) = Held::<Timestamp>::read_if_there(&path)? else { return Ok(()) };
    let ours = published.timestamp.as_ref();
    let our_version = ours.map_or(0, |held| held.signed.signed.version.get());
    let their_version = theirs.signed.signed.version.get();
    if their_version > our_version {
        return Err(Error::Ahead { web: web.to_owned(), theirs: their_version, ours: our_version });
    }
    if their_version == our_version && ours.is_some_and(|ours| ours.bytes != theirs.bytes) {
        return Err(Error::Taken(path));
    }
    Ok(())
}

/// A root that is on the web already has the same content; more signatures may have come.
fn not_taken(path: &Path, root: &Held<Root>) -> Result<()> {
    match Held::<Root>::read_if_there(path)? {
        Some(there) if canonical(&there.signed.signed)? != canonical(&root.signed.signed)? => {
            Err(Error::Taken(path.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The snapshot over these targets, and the timestamp over that, each with the version after the last one.
fn over(
    folder: &Folder,
    published: &Published,
    targets: &Held<Targets>,
    root: &Root,
    keys: &Keys<'_>,
    now: Time,
) -> Result<(Held<Snapshot>, Held<Timestamp>)> {
    let days = folder.days();
    let place = folder.path().join("published");
    let roots = std::slice::from_ref(root);

    let last = published.snapshot.as_ref().map_or(0, |held| held.signed.signed.version.get());
    let expires = days_after(now, days.snapshot)?.min(targets.signed.signed.expires);
    let mut snapshot = Snapshot::new(SPECIFICATION.to_owned(), counted(last + 1)?, expires);
    snapshot.meta.insert("targets.json".to_owned(), targets.meta());
    let signed = Signed { signed: snapshot, signatures: Vec::new() };
    let mut snapshot = Held::new(place.join("snapshot.json"), signed)?;
    for key in keys.snapshot {
        if let Some(signed) = sign::add(&snapshot, roots, key)? {
            snapshot = signed;
        }
    }
    rules::enough(&snapshot.signed, root)?;

    let last = published.timestamp.as_ref().map_or(0, |held| held.signed.signed.version.get());
    let expires = days_after(now, days.timestamp)?.min(expires);
    let mut timestamp = Timestamp::new(SPECIFICATION.to_owned(), counted(last + 1)?, expires);
    timestamp.meta.insert("snapshot.json".to_owned(), snapshot.meta());
    let signed = Signed { signed: timestamp, signatures: Vec::new() };
    let mut timestamp = Held::new(place.join("timestamp.json"), signed)?;
    for key in keys.timestamp {
        if let Some(signed) = sign::add(&timestamp, roots, key)? {
            timestamp = signed;
        }
    }
    rules::enough(&timestamp.signed, root)?;
    Ok((snapshot, timestamp))
}

/// Where the files of a release come from: this folder, or else the web folder, which has them already.
fn sources(folder: &Folder, web: &Path, listed: &Listed) -> Result<Vec<(String, Source)>> {
    let mut sources = Vec::new();
    for (name, target) in listed.files() {
        let web_name = format!("{TARGETS}/{}", web_name(&name, target));
        let here = folder.targets_folder().join(&name);
        if here.exists() {
            let (length, sha256) = files::measure(&here)?;
            if length != target.length || sha256[..] != target.hashes.sha256[..] {
                let why = format!("{} is not what was signed", here.display());
                return Err(Error::Archive { what: name, why });
            }
            sources.push((web_name, Source::File(here)));
        } else if !web.join(&web_name).exists() {
            let why = format!("neither {} nor {} is there", here.display(), web.join(&web_name).display());
            return Err(Error::Archive { what: name, why });
        }
    }
    Ok(sources)
}

/// Loads what is to be published: as a device that knows the first root alone, and as one that knows what is there now.
fn as_a_device(
    web: &Path,
    root: &[u8],
    new: &[(String, Source)],
    published: &Published,
    releases: &[Listed],
    tell: &dyn Fn(&str),
) -> Result<()> {
    let files = || Files::new(web, new.iter().cloned());
    let client = Client::load(root, files(), None, ExpirationEnforcement::Safe)?;
    let known = match &published.targets {
        Some(held) => release::all(&held.signed.signed)?,
        None => Vec::new(),
    };
    for listed in releases {
        let there = |target: &Target, name: String| web.join(TARGETS).join(web_name(&name, target)).exists();
        let is_new = !known.iter().any(|one| one.files() == listed.files())
            || listed.files().into_iter().any(|(name, target)| !there(target, name));
        if is_new {
            tell(&format!("reading {} to its end", listed.release.archive_name()));
            client.read(listed, true)?;
            client.read_patches(listed, tell)?;
        }
    }
    if !web.join(METADATA).join("timestamp.json").exists() {
        return Ok(());
    }
    let memory = tempfile::tempdir().at("making a folder in", &std::env::temp_dir())?;
    // What is there may have expired, and is then no less known to devices.
    let now = Client::load(root, Files::new(web, []), Some(memory.path()), ExpirationEnforcement::Unsafe);
    if let Err(error) = now {
        tell(&format!("what {} holds now is broken, and is made whole: {error}", web.display()));
        return Ok(());
    }
    Client::load(root, files(), Some(memory.path()), ExpirationEnforcement::Safe).map(drop)
}

/// Writes what is not there yet, in order, the timestamp last. Says how many files that were.
fn write(web: &Path, new: &[(String, Source)], tell: &dyn Fn(&str)) -> Result<usize> {
    for folder in [METADATA, TARGETS].map(|name| web.join(name)) {
        fs::create_dir_all(&folder).at("making", &folder)?;
    }
    let mut count = 0;
    for (name, source) in new {
        let path = web.join(name);
        match source {
            Source::Bytes(bytes) => {
                if files::read_if_there(&path, Targets::MOST)?.as_ref() == Some(bytes) {
                    continue;
                }
                files::replace(&path, bytes)?;
            }
            Source::File(from) => {
                if path.exists() && files::measure(&path)? == files::measure(from)? {
                    continue;
                }
                tell(&format!("writing {}", path.display()));
                files::copy(from, &path)?;
            }
        }
        count += 1;
    }
    Ok(count)
}

/// Loads a web folder as a device that knows one root, and reads every release to its end.
///
/// # Errors
/// When a device would refuse anything of it.
pub fn verify(web: &Path, root: &Path, tell: &dyn Fn(&str)) -> Result<BTreeMap<String, u64>> {
    let root = Held::<Root>::read(root)?;
    let client = Client::load(&root.bytes, Files::new(web, []), None, ExpirationEnforcement::Safe)?;
    let repository = client.repository();
    for listed in release::all(&repository.targets().signed)? {
        tell(&format!("reading {} to its end", listed.release.archive_name()));
        client.read(&listed, true)?;
        client.read_patches(&listed, tell)?;
    }
    Ok(BTreeMap::from([
        ("root".to_owned(), repository.root().signed.version.get()),
        ("targets".to_owned(), repository.targets().signed.version.get()),
        ("snapshot".to_owned(), repository.snapshot().signed.version.get()),
        ("timestamp".to_owned(), repository.timestamp().signed.version.get()),
    ]))
}
