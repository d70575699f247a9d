//! Drafts: lists of releases and roots that are still to be signed. A draft that changes loses its signatures, and keeps the
//! version that follows the last one that holds.

use std::collections::HashMap;
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp as Time;
use lucid_release_format::metadata::{DEVELOPMENT, SPECIFICATION};
use lucid_release_format::release::ALL;
use lucid_release_format::{Change, Index, Name, Release, Version, Wave, build, index, patch};
use tough::schema::{RoleKeys, RoleType, Root, Signed, Targets};

use crate::contents::{self, Checked};
use crate::document::{Held, days_after};
use crate::error::{At as _, Error, Result};
use crate::files::{self, Measured};
use crate::folder::{Days, Folder};
use crate::image;
use crate::key::{KeyId, PublicKey, SecretKey};
use crate::release::{self, Cut, target, target_name};
use crate::roots::{self, Roots};
use crate::rules;
use crate::sign;

/// The keys of one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// Their public halves, in the order in which they stand in the root.
    pub keys: Vec<PublicKey>,
    /// How many have to sign.
    pub threshold: u64,
}

/// Who is to sign what, in the first root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The roots themselves.
    pub root: Holders,
    /// The list of releases.
    pub targets: Holders,
    /// Snapshots.
    pub snapshot: Holders,
    /// Timestamps.
    pub timestamp: Holders,
    /// Whether nobody guards the keys: a device takes such a root only if its image was built with it.
    pub development: bool,
}

/// A version, or a number that counts signatures: not 0.
pub(crate) fn counted(number: u64) -> Result<NonZeroU64> {
    NonZeroU64::new(number).ok_or_else(|| Error::Arguments("versions and thresholds begin with 1".into()))
}

/// The first root, signed by those keys of it that are at hand.
///
/// # Errors
/// When it breaks a rule, or cannot be written.
pub fn first_root(folder: &Folder, plan: &Plan, at_hand: &[SecretKey], now: Time) -> Result<Held<Root>> {
    let mut root = Root {
        spec_version: SPECIFICATION.to_owned(),
        consistent_snapshot: true,
        version: counted(1)?,
        expires: days_after(now, folder.days().root)?,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    if plan.development {
        root._extra.insert(DEVELOPMENT.to_owned(), true.into());
    }
    let roles = [&plan.root, &plan.targets, &plan.snapshot, &plan.timestamp];
    for (role, holders) in rules::ROLES.into_iter().zip(roles) {
        let mut keyids = Vec::new();
        for key in &holders.keys {
            let id = key.id()?;
            if root.keys.insert(id.clone(), key.to_tuf()).is_some() {
                return Err(Error::rule("root 1", format!("the public key {key} is in it twice")));
            }
            keyids.push(id);
        }
        let threshold = counted(holders.threshold)?;
        root.roles.insert(role, RoleKeys { keyids, threshold, _extra: HashMap::new() });
    }
    rules::root(&root)?;
    let signed = Signed { signed: root.clone(), signatures: Vec::new() };
    let mut held = Held::new(folder.path().join(roots::file_name(1)), signed)?;
    let root_keys = &plan.root.keys;
    for key in at_hand.iter().filter(|key| root_keys.contains(&key.public())) {
        if let Some(signed) = sign::add(&held, std::slice::from_ref(&root), key)? {
            held = signed;
        }
    }
    held.write()?;
    Ok(held)
}

/// What is to be released.
#[derive(Clone, Debug)]
pub struct Addition<'a> {
    /// The disk image.
    pub image: &'a Path,
    /// The kind of device.
    pub machine: Name,
    /// Its version.
    pub version: Version,
    /// Which devices follow it.
    pub channel: Name,
    /// What a device never goes below, once it has committed this release.
    pub min_version: Version,
    /// What a device has to run at least.
    pub min_from: Version,
    /// Who may take it when; to everybody at once where it is empty.
    pub waves: Vec<Wave>,
    /// From what there are to be patches, where they are smaller than the chunks.
    pub patch_from: Vec<PatchFrom>,
    /// How hard zstd tries, 1 to 22 (`lucid_release_format::build::LEVEL`).
    pub level: i32,
}

/// What a patch starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchFrom {
    /// A release whose files are in the folder.
    Release(Version),
    /// The image of a version, wherever its release is.
    Image(Version, PathBuf),
}

impl PatchFrom {
    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Release(version) | Self::Image(version, _) => *version,
        }
    }
}

/// `VERSION`, or `VERSION=IMAGE`.
///
/// # Errors
/// When it says something else.
pub fn patch_from(text: &str) -> Result<PatchFrom> {
    let (version, image) = match text.split_once('=') {
        Some((version, image)) => (version, Some(image)),
        None => (text, None),
    };
    let version = version.parse::<Version>().map_err(|error| {
        Error::Arguments(format!(
            "{text:?} is nothing to patch from ({error}): write 1.2.3, or 1.2.3=FILE.img"
        ))
    })?;
    Ok(image.map_or(PatchFrom::Release(version), |image| PatchFrom::Image(version, image.into())))
}

/// A patch that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchTried {
    /// The version that it starts from.
    pub from: Version,
    /// How many bytes it has; none where the release has nothing that the old one does not have.
    pub bytes: Option<u64>,
    /// How many bytes of the archive a device fetches without it.
    pub chunks: u64,
}

impl PatchTried {
    /// Whether it is worth having.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.bytes.is_some_and(|bytes| bytes < self.chunks)
    }
}

/// What [`add`] made.
#[derive(Debug)]
pub struct Added {
    /// The draft.
    pub held: Held<Targets>,
    /// The index.
    pub index: Index,
    /// The patches, and those that are not worth having.
    pub patches: Vec<PatchTried>,
    /// What of the image could be checked.
    pub checked: Checked,
}

/// The newest version before one whose release is in the folder, with its files.
///
/// # Errors
/// When the folder cannot be read.
pub fn newest_before(folder: &Folder, machine: &Name, version: Version) -> Result<Option<Version>> {
    let place = folder.targets_folder();
    let there = |release: &Release| {
        place.join(release.index_name()).exists() && place.join(release.archive_name()).exists()
    };
    let releases = release::all(&base(folder)?)?.into_iter().map(|listed| listed.release);
    Ok(releases
        .filter(|release| release.machine == *machine && release.version < version && there(release))
        .map(|release| release.version)
        .max())
}

/// What a patch starts from, as chunks. An image is cut into a folder that vanishes with the second.
fn older(
    folder: &Folder,
    release: &Release,
    from: &PatchFrom,
    tell: &dyn Fn(u64, u64),
) -> Result<(Cut, Option<tempfile::TempDir>)> {
    match from {
        PatchFrom::Release(version) => {
            let old = Release { version: *version, ..release.clone() };
            let place = folder.targets_folder();
            let (index, archive) = (old.index_name(), old.archive_name());
            let bytes = files::read(&place.join(&index), index::MAX_INDEX as u64)?;
            let read = Index::read(&bytes).map_err(|source| Error::Release { what: index, source })?;
            Ok((Cut::new(read, &place.join(archive))?, None))
        }
        PatchFrom::Image(_, image) => {
            let scratch = tempfile::tempdir().at("making a folder in", &std::env::temp_dir())?;
            let archive = scratch.path().join("archive");
            let file = File::create(&archive).at("making", &archive)?;
            // Nobody keeps it.
            let read = image::cut(image, std::io::BufWriter::new(file), 1, tell)?;
            Ok((Cut::new(read, &archive)?, Some(scratch)))
        }
    }
}

/// Makes a patch, and says how many bytes a device fetches with it and without.
fn patch_of(old: &Cut, new: &Cut, level: i32, tell: &dyn Fn(u64, u64)) -> Result<(Option<Vec<u8>>, u64)> {
    let change = Change::between(&patch::pieces(&old.index), &new.index);
    let made =
        build::patch(&change, &mut |piece| old.chunk(piece), &mut |piece| new.chunk(piece), level, tell);
    let made = made.map_err(|source| Error::Release { what: "a patch".to_owned(), source })?;
    Ok((made, change.archive_bytes()))
}

/// Makes index and archive of an image, its patches, and a draft that lists them. `tell` hears what is done (`hashed`, `packed`),
/// and to how many bytes of how many.
///
/// # Errors
/// When there is such a release, or the image is not fit for one or another one than is said, or something cannot be written.
pub fn add(
    folder: &Folder,
    addition: &Addition<'_>,
    now: Time,
    tell: &dyn Fn(&str, u64, u64),
) -> Result<Added> {
    let everybody = vec![Wave { after: 0, share: ALL }];
    let release = Release {
        channel: addition.channel.clone(),
        machine: addition.machine.clone(),
        min_from: addition.min_from,
        min_version: addition.min_version,
        paused: false,
        released: u64::try_from(now.as_second()).unwrap_or_default(),
        version: addition.version,
        waves: if addition.waves.is_empty() { everybody } else { addition.waves.clone() },
    };
    let (index_name, archive_name) = (release.index_name(), release.archive_name());
    // Before anything that takes long.
    let custom = release.to_custom().map_err(|source| Error::Release { what: index_name.clone(), source })?;
    if base(folder)?.targets.contains_key(&target_name(&index_name)?) {
        return Err(Error::ReleaseExists(index_name));
    }
    let mut versions: Vec<Version> = addition.patch_from.iter().map(PatchFrom::version).collect();
    versions.sort_unstable();
    if versions.last().is_some_and(|last| *last >= addition.version) || !versions.is_sorted_by(|a, b| a < b) {
        let why = format!("a patch to {} starts from older versions, from each once", addition.version);
        return Err(Error::Arguments(why));
    }
    let hashed = |done, all| tell("hashed", done, all);
    let checked = contents::check(addition.image, &addition.machine, addition.version, folder, &hashed)?;
    let tell = &|done, all| tell("packed", done, all);
    let mut olds = Vec::new();
    for from in &addition.patch_from {
        olds.push((from.version(), older(folder, &release, from, tell)?));
    }
    let place = folder.targets_folder();
    fs::create_dir_all(&place).at("making", &place)?;
    let unfinished = place.join(format!(".{archive_name}.unfinished"));
    let mut archive = Measured::new(File::create(&unfinished).at("making", &unfinished)?);
    let index = image::cut(addition.image, &mut archive, addition.level, tell)?;
    let (file, length, sha256) = archive.finish();
    file.sync_all().at("writing", &unfinished)?;
    files::rename(&unfinished, &place.join(&archive_name))?;
    let index_file = place.join(&index_name);
    files::replace(&index_file, &index.write())?;
    let mut index_target = {
        let (length, sha256) = files::measure(&index_file)?;
        target(length, sha256)
    };
    index_target.custom = custom;
    let (mut tried, mut patches) = (Vec::new(), Vec::new());
    if !olds.is_empty() {
        let new = Cut::new(index.clone(), &place.join(&archive_name))?;
        for (from, (old, _scratch)) in &olds {
            let (made, chunks) = patch_of(old, &new, addition.level, tell)?;
            let one = PatchTried { from: *from, bytes: made.as_ref().map(|made| made.len() as u64), chunks };
            if let Some(made) = made.filter(|_| one.is_taken()) {
                let name = release.patch_name(*from);
                let file = place.join(&name);
                files::replace(&file, &made)?;
                let (length, sha256) = files::measure(&file)?;
                patches.push((target_name(&name)?, target(length, sha256)));
            }
            tried.push(one);
        }
    }
    let held = edit(folder, now, |targets| {
        targets.targets.insert(target_name(&index_name)?, index_target);
        targets.targets.insert(target_name(&archive_name)?, target(length, sha256));
        targets.targets.extend(patches);
        Ok(())
    })?;
    Ok(Added { held, index, patches: tried, checked })
}

/// A draft without a release: no device takes it up any more.
///
/// # Errors
/// When there is none of that version (for that machine).
pub fn withdraw(
    folder: &Folder,
    version: Version,
    machine: Option<&Name>,
    now: Time,
) -> Result<Held<Targets>> {
    edit(folder, now, |targets| {
        for release in chosen(targets, version, machine)? {
            targets.targets.remove(&target_name(&release.index_name())?);
            targets.targets.remove(&target_name(&release.archive_name())?);
            targets.targets.retain(|name, _| release.patch_from(name.raw()).is_none());
        }
        Ok(())
    })
}

/// A draft in which a release is paused, or goes on.
///
/// # Errors
/// When there is none of that version (for that machine), or it is so already.
pub fn pause(
    folder: &Folder,
    version: Version,
    machine: Option<&Name>,
    paused: bool,
    now: Time,
) -> Result<Held<Targets>> {
    edit(folder, now, |targets| {
        let releases = chosen(targets, version, machine)?;
        if releases.iter().all(|release| release.paused == paused) {
            let state = if paused { "is paused" } else { "is not paused" };
            return Err(Error::AsItIs(format!("{version} {state}")));
        }
        for mut release in releases {
            release.paused = paused;
            let name = release.index_name();
            let custom =
                release.to_custom().map_err(|source| Error::Release { what: name.clone(), source })?;
            if let Some(target) = targets.targets.get_mut(&target_name(&name)?) {
                target.custom = custom;
            }
        }
        Ok(())
    })
}

/// A draft with the same releases, which holds longer.
///
/// # Errors
/// When it cannot be written.
pub fn renew(folder: &Folder, now: Time) -> Result<Held<Targets>> {
    edit(folder, now, |_| Ok(()))
}

fn chosen(targets: &Targets, version: Version, machine: Option<&Name>) -> Result<Vec<Release>> {
    let releases: Vec<_> = release::all(targets)?
        .into_iter()
        .map(|listed| listed.release)
        .filter(|release| release.version == version && machine.is_none_or(|name| *name == release.machine))
        .collect();
    if releases.is_empty() {
        let machine = machine.map(|name| format!(" for {name}")).unwrap_or_default();
        return Err(Error::NoSuchRelease(format!("{version}{machine}")));
    }
    Ok(releases)
}

/// What the next draft is made of: the draft that is there, or what was published.
fn base(folder: &Folder) -> Result<Targets> {
    let published = folder.published()?.targets;
    let next = published.as_ref().map_or(1, |held| held.signed.signed.version.get() + 1);
    let file = folder.targets_file();
    let draft = Held::<Targets>::read_if_there(&file)?;
    let mut targets = match (draft, published) {
        (Some(draft), _) if draft.signed.signed.version.get() == next => draft.signed.signed,
        (Some(draft), Some(published)) if draft.signed.signed == published.signed.signed => {
            published.signed.signed
        }
        (Some(draft), _) => {
            return Err(Error::OutOfStep {
                what: file.display().to_string(),
                version: draft.signed.signed.version.get(),
                expected: next,
                next: "move it away and make the draft again",
            });
        }
        (None, Some(published)) => published.signed.signed,
        (None, None) => {
            let mut targets = Targets::new(SPECIFICATION.to_owned(), counted(next)?, Time::UNIX_EPOCH);
            // A new one has an empty list of delegations, of which no device follows any.
            targets.delegations = None;
            targets
        }
    };
    targets.version = counted(next)?;
    Ok(targets)
}

/// Makes a draft of what there is and a change to it.
fn edit(
    folder: &Folder,
    now: Time,
    change: impl FnOnce(&mut Targets) -> Result<()>,
) -> Result<Held<Targets>> {
    let mut targets = base(folder)?;
    change(&mut targets)?;
    let roots = folder.roots()?;
    let root = roots.newest().or(roots.draft.as_ref());
    let root = &root.ok_or_else(|| Error::NoRoot(folder.path().to_owned()))?.signed.signed;
    rules::in_time(root, now, "make a new one with `lucid-release rotate-root`")?;
    targets.expires = days_after(now, folder.days().targets)?.min(root.expires);
    rules::targets(&targets)?;
    let held = Held::new(folder.targets_file(), Signed { signed: targets, signatures: Vec::new() })?;
    held.write()?;
    Ok(held)
}

/// The id of a key of a root that somebody named by it, or by the public half.
fn key_named(root: &Root, named: &KeyId) -> Option<KeyId> {
    if root.keys.contains_key(named) {
        return Some(named.clone());
    }
    let is_it = |key| PublicKey::of_tuf(key).is_some_and(|public| public.0[..] == named[..]);
    root.keys.iter().find(|(_, key)| is_it(key)).map(|(id, _)| id.clone())
}

/// What becomes other in the next root.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The role that gets keys or another threshold.
    pub role: RoleType,
    /// Its new keys.
    pub add: Vec<PublicKey>,
    /// Keys that go, of whichever role: by their ids, or by their public halves, which have as many digits.
    pub remove: Vec<KeyId>,
    /// How many of that role have to sign.
    pub threshold: Option<u64>,
    /// How long it holds.
    pub days: Days,
}

/// A draft of the next root. Made again before it is signed, it goes on from the draft; so several roles can change in one
/// root. Without any change it holds longer, and nothing else.
///
/// # Errors
/// When it would break a rule, such as a threshold that cannot be met.
pub fn rotate_root(folder: &Folder, rotation: &Rotation, now: Time) -> Result<Held<Root>> {
    let roots: Roots = folder.roots()?;
    let holding = roots.holding(folder.path())?;
    let version = holding.signed.signed.version.get() + 1;
    let mut root = roots.draft.as_ref().unwrap_or(holding).signed.signed.clone();
    root.version = counted(version)?;
    root.expires = days_after(now, rotation.days.root)?;
    let what = format!("root {version}");
    for named in &rotation.remove {
        let Some(id) = &key_named(&root, named) else {
            let why = "is neither the id nor the public half of one of its keys; `lucid-release inspect` shows them";
            return Err(Error::rule(
                what,
                format!("there is no key to remove: {} {why}", hex::encode(named)),
            ));
        };
        root.keys.remove(id);
        for keys in root.roles.values_mut() {
            keys.keyids.retain(|other| other != id);
        }
    }
    let name = rules::role_name(rotation.role);
    let Some(keys) = root.roles.get_mut(&rotation.role) else {
        return Err(Error::rule(what, format!("there is no role {name}")));
    };
    for key in &rotation.add {
        let id = key.id()?;
        if root.keys.insert(id.clone(), key.to_tuf()).is_some() {
            return Err(Error::rule(what, format!("the public key {key} is in it already")));
        }
        keys.keyids.push(id);
    }
    if let Some(threshold) = rotation.threshold {
        keys.threshold = counted(threshold)?;
    }
    rules::root(&root)?;
    let path = folder.path().join(roots::file_name(version));
    let held = Held::new(path, Signed { signed: root, signatures: Vec::new() })?;
    held.write()?;
    Ok(held)
}

/// `AFTER:SHARE`: seconds since the release, or a number with `m`, `h` or `d`; of 1000 devices how many.
///
/// # Errors
/// When it says something else.
pub fn wave(text: &str) -> Result<Wave> {
    let refused =
        || Error::Arguments(format!("{text:?} is no wave: write for instance 0:100, 12h:500 or 3d:1000"));
    let (after, share) = text.split_once(':').ok_or_else(refused)?;
    let (number, unit) = match after.char_indices().next_back() {
        Some((at, 'm')) => (&after[..at], 60),
        Some((at, 'h')) => (&after[..at], 3600),
        Some((at, 'd')) => (&after[..at], 86_400),
        _ => (after, 1),
    };
    let after = u32::from_str(number).ok().and_then(|number| number.checked_mul(unit)).ok_or_else(refused)?;
    Ok(Wave { after, share: share.parse().map_err(|_| refused())? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    #[test]
    fn waves_are_written_in_seconds_or_with_a_unit() {
        for (text, after, share) in [
            ("0:100", 0, 100),
            ("90:500", 90, 500),
            ("5m:1", 300, 1),
            ("12h:500", 43_200, 500),
            ("3d:1000", 259_200, 1000),
        ] {
            assert_eq!(wave(text).unwrap(), Wave { after, share });
        }
        for text in ["", "0", ":", "0:", ":5", "d:5", "-1:5", "1w:5", "99999d:5", "1:99999", "1:2:3", "1ä:5"]
        {
            assert!(wave(text).is_err(), "{text}");
        }
    }
}
