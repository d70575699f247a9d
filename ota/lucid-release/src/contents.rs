//! What the image tool wrote beside an image (`contents.json`), and whether it is what is said of the image.

use std::path::Path;

use lucid_release_format::{Name, Version};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::document::canonical;
use crate::error::{Error, Result};
use crate::files;
use crate::folder::Folder;
use crate::roots::file_name;
use crate::rules;

/// The name of the file, in the folder of the image.
pub const FILE: &str = "contents.json";
/// The most bytes of it; it has some 20 KiB.
const MOST: u64 = 1 << 20;

/// Those of its fields that matter here; others may come.
#[derive(Deserialize)]
struct Contents {
    version: u32,
    machine: String,
    system_version: String,
    development: bool,
    image_sha256: String,
    /// Not written by older image tools.
    release_root_sha256: Option<String>,
}

/// What could be held against what is said of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Its version, its machine and its root of releases.
    All,
    /// Its version and its machine: an older image tool did not write down which root it holds.
    ButRoot,
    /// Nothing: there is no such file beside it.
    Nothing,
}

/// Holds what is said of an image to what stands beside it. `tell` hears how many bytes of how many were hashed.
///
/// # Errors
/// When the image has another version or machine, holds none of the folder's roots, or is for development and the folder is
/// not; when what stands beside it is of another image, or cannot be read.
pub fn check(
    image: &Path,
    machine: &Name,
    version: Version,
    folder: &Folder,
    tell: &dyn Fn(u64, u64),
) -> Result<Checked> {
    let path = files::folder_of(image).join(FILE);
    let Some(bytes) = files::read_if_there(&path, MOST)? else { return Ok(Checked::Nothing) };
    let contents: Contents = serde_json::from_slice(&bytes)
        .map_err(|error| Error::malformed(&path, format!("it is not what the image tool writes: {error}")))?;
    if contents.version != 1 {
        let why = format!("its format is {}; 1 alone is known here", contents.version);
        return Err(Error::malformed(&path, why));
    }
    let refused = |why: String| Err(Error::Image { path: image.to_owned(), why });
    let (_, sha256) = files::measure_telling(image, tell)?;
    // First: all else is said of that image.
    if contents.image_sha256 != hex::encode(sha256) {
        return refused(format!(
            "{} beside it is of another image, or this one was changed after it was built (its SHA-256 is another one); build \
             it again, or move that file away if you know what this image is",
            path.display()
        ));
    }
    if contents.system_version != version.to_string() {
        let own = &contents.system_version;
        return refused(format!(
            "it was built as version {own}, and --version says {version}; name {own}, or build it as {version}"
        ));
    }
    if contents.machine != machine.as_str() {
        let own = &contents.machine;
        return refused(format!(
            "it was built for {own}, and --machine says {machine}; name {own}, or build it for {machine}"
        ));
    }
    let roots = folder.roots()?;
    // A root that does not hold yet may change; until one holds it is the only one.
    let in_force = !roots.in_force.is_empty();
    let roots: Vec<_> = roots.in_force.iter().chain(roots.draft.as_ref().filter(|_| !in_force)).collect();
    let place = folder.path().join(file_name(1));
    let place = place.display();
    if contents.development
        && roots.last().is_some_and(|newest| !rules::is_development(&newest.signed.signed))
    {
        return refused(format!(
            "it is for development, so that anybody can sign for it, and the root of {} is not; build it with --root {place} \
             and without --development",
            folder.path().display()
        ));
    }
    let Some(its_root) = contents.release_root_sha256 else { return Ok(Checked::ButRoot) };
    for root in roots {
        // Over what is signed, and not over the file: that changes when more of its holders sign.
        if its_root == hex::encode(Sha256::digest(canonical(&root.signed.signed)?)) {
            return Ok(Checked::All);
        }
    }
    refused(format!(
        "it holds a root of releases that is none of those in {}: a device with it would take nothing that is signed for these; \
         build it with --root {place}",
        folder.path().display()
    ))
}
