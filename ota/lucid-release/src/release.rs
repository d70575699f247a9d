//! Releases as targets list them, and whether their files are what they say.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use lucid_release_format::index::MAX_INDEX;
use lucid_release_format::{Index, Release};
use tough::TargetName;
use tough::schema::{Hashes, Target, Targets};

use crate::document;
use crate::error::{At as _, Error, Result};

/// A release and its two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What is said of it.
    pub release: Release,
    /// The index: `lucid-M-V.index`.
    pub index: Target,
    /// The archive: `lucid-M-V.chunks`.
    pub archive: Target,
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
        listed.push(Listed { release, index: index.clone(), archive: archive.clone() });
    }
    if listed.len() * 2 != targets.targets.len() {
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
