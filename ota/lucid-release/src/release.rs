//! Releases as targets list them, and whether their files are what they say.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use lucid_release_format::index::MAX_INDEX;
use lucid_release_format::{Change, Chunk, Index, Patch, Piece, Release, Version, patch};
use tough::TargetName;
use tough::schema::{Hashes, Target, Targets};

use crate::document;
use crate::error::{At as _, Error, Result};

/// A patch of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patched {
    /// The version that it starts from.
    pub from: Version,
    /// The patch: `lucid-M-V-from-W.patch`.
    pub target: Target,
}

/// A release and its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What is said of it.
    pub release: Release,
    /// The index: `lucid-M-V.index`.
    pub index: Target,
    /// The archive: `lucid-M-V.chunks`.
    pub archive: Target,
    /// Its patches, by the version that they start from.
    pub patches: Vec<Patched>,
}

impl Listed {
    /// The names of its targets, with them.
    #[must_use]
    pub fn files(&self) -> Vec<(String, &Target)> {
        let Self { release, index, archive, patches } = self;
        let mut files = vec![(release.index_name(), index), (release.archive_name(), archive)];
        files.extend(patches.iter().map(|patch| (release.patch_name(patch.from), &patch.target)));
        files
    }
}

/// The releases of some targets, by machine and version.
///
/// # Errors
/// When there is a target that belongs to no release, or a release without its archive.
pub fn all(targets: &Targets) -> Result<Vec<Listed>> {
    let what = document::name(targets);
    let mut listed = Vec::new();
    for (name, index) in &targets.targets {
        let name = name.raw();
        plain(&what, name, index)?;
        let found = Release::of_target(name, &index.custom)
            .map_err(|source| Error::Release { what: format!("{what}: {name}"), source })?;
        let Some(release) = found else { continue };
        if index.length > MAX_INDEX as u64 {
            return Err(Error::rule(
                &what,
                format!("{name} has {} bytes, more than an index may", index.length),
            ));
        }
        let archive = targets
            .targets
            .get(&target_name(&release.archive_name())?)
            .ok_or_else(|| Error::rule(&what, format!("{} is missing", release.archive_name())))?;
        if !archive.custom.is_empty() {
            return Err(Error::rule(&what, format!("{} has custom fields", release.archive_name())));
        }
        let mut patches = Vec::new();
        for (name, target) in &targets.targets {
            let Some(from) = release.patch_from(name.raw()) else { continue };
            if !target.custom.is_empty() {
                return Err(Error::rule(&what, format!("{} has custom fields", name.raw())));
            }
            patches.push(Patched { from, target: target.clone() });
        }
        patches.sort_by_key(|patch| patch.from);
        listed.push(Listed { release, index: index.clone(), archive: archive.clone(), patches });
    }
    if listed.iter().map(|listed| listed.files().len()).sum::<usize>() != targets.targets.len() {
        return Err(Error::rule(&what, "there are targets that belong to no release"));
    }
    listed.sort_by(|a, b| {
        (&a.release.machine, a.release.version).cmp(&(&b.release.machine, b.release.version))
    });
    Ok(listed)
}

/// A target has a flat name of few letters, one hash, and nothing that others could read in another way.
fn plain(what: &str, name: &str, target: &Target) -> Result<()> {
    let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let sound = name.len() <= 128
        && name.bytes().all(good)
        && target.hashes.sha256.len() == 32
        && target.hashes._extra.is_empty()
        && target._extra.is_empty();
    if sound { Ok(()) } else { Err(Error::rule(what, format!("{name:?} is no target of a release"))) }
}

/// The name of a target, which is one by its letters.
pub(crate) fn target_name(name: &str) -> Result<TargetName> {
    TargetName::new(name).map_err(|error| Error::rule(name, error.to_string()))
}

/// A target of that length and SHA-256.
pub(crate) fn target(length: u64, sha256: [u8; 32]) -> Target {
    Target {
        length,
        hashes: Hashes { sha256: sha256.to_vec().into(), _extra: HashMap::new() },
        custom: HashMap::new(),
        _extra: HashMap::new(),
    }
}

/// The file of a target on the web: `SHA256.NAME`.
pub(crate) fn web_name(name: &str, target: &Target) -> String {
    format!("{}.{name}", hex::encode(&target.hashes.sha256))
}

/// Reads an index and every chunk of its archive, and puts the parts together as a device would.
///
/// # Errors
/// When a chunk is not there or another one, or a part comes out other than the index says.
pub fn prove(what: &str, index: &[u8], archive: &Path) -> Result<Index> {
    let wrong = |why: String| Error::Archive { what: what.to_owned(), why };
    let broken = |source| Error::Release { what: what.to_owned(), source };
    let index = Index::read(index).map_err(broken)?;
    let file = File::open(archive).at("opening", archive)?;
    let length = file.metadata().at("reading", archive)?.len();
    if length != index.archive_bytes() {
        return Err(wrong(format!(
            "the archive has {length} bytes, and the index says {}",
            index.archive_bytes()
        )));
    }
    for part in index.parts() {
        let mut whole = blake3::Hasher::new();
        for chunk in &part.chunks {
            let mut stored = vec![0; chunk.place.length as usize];
            file.read_exact_at(&mut stored, chunk.place.offset).at("reading", archive)?;
            whole.update(&chunk.open(&stored).map_err(broken)?);
        }
        if *whole.finalize().as_bytes() != part.hash {
            return Err(wrong(format!("the {} comes out other than it was", part.kind)));
        }
    }
    Ok(index)
}

/// An index and the archive to it, whose chunks can be had.
#[derive(Debug)]
pub struct Cut {
    /// The index.
    pub index: Index,
    archive: PathBuf,
    file: File,
    places: HashMap<[u8; 32], Chunk>,
}

impl Cut {
    /// Of an index and the file of its archive.
    ///
    /// # Errors
    /// When that cannot be opened.
    pub fn new(index: Index, archive: &Path) -> Result<Self> {
        let file = File::open(archive).at("opening", archive)?;
        let chunks = index.parts().iter().flat_map(|part| &part.chunks);
        let places = chunks.map(|chunk| (chunk.hash, *chunk)).collect();
        Ok(Self { index, archive: archive.to_owned(), file, places })
    }

    /// The bytes of one of its chunks.
    ///
    /// # Errors
    /// When it is none of its own, or the archive does not have it.
    pub fn chunk(&self, piece: Piece) -> lucid_release_format::Result<Vec<u8>> {
        let failed = |source| lucid_release_format::Error::Io { doing: "reading an archive", source };
        let other = || failed(std::io::Error::other(format!("{} has no such chunk", self.archive.display())));
        let chunk = self.places.get(&piece.hash).ok_or_else(other)?;
        let mut stored = vec![0; chunk.place.length as usize];
        self.file.read_exact_at(&mut stored, chunk.place.offset).map_err(failed)?;
        chunk.open(&stored)
    }
}

/// Makes with a patch every chunk that it is for, as a device would.
///
/// # Errors
/// When it is no patch from the one release to the other, or makes anything else.
pub fn prove_patch(what: &str, old: &Cut, new: &Cut, bytes: &[u8]) -> Result<()> {
    let proved = || -> lucid_release_format::Result<()> {
        let change = Change::between(&patch::pieces(&old.index), &new.index);
        let length = Patch::head_bytes(bytes)?;
        let head = bytes.get(..length).unwrap_or(bytes);
        let read = Patch::read(head, &change, bytes.len() as u64)?;
        for section in read.sections() {
            // What was removed is in the old release alone.
            let get = |piece: Piece| {
                let cut = if new.places.contains_key(&piece.hash) { new } else { old };
                cut.chunk(piece)
            };
            let prefix = section.prefix(&change, get)?;
            for frame in section.frames.clone() {
                let (chunk, place) = (&change.added()[frame], read.frames()[frame]);
                let stored = bytes.get(place.offset as usize..place.end() as usize).unwrap_or_default();
                chunk.open_at(place, &prefix, stored)?;
            }
        }
        Ok(())
    };
    proved().map_err(|source| Error::Release { what: what.to_owned(), source })
}
