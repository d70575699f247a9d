//! Files of a recording: their names, how they are replaced, and how much of one is read.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::error::{At, Error, Result};

pub(crate) const OPENING: &str = "opening.json";
pub(crate) const HEADS: &str = "heads.jsonl";
pub(crate) const KEYS: &str = "keys.json";
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const CONSENT: &str = "consent.json";
pub(crate) const APPROVALS: &str = "approvals.jsonl";
pub(crate) const SNAPSHOT: &str = "snapshot.json";
/// Ends the name of a file that is not yet what it will be.
pub(crate) const NEW: &str = ".new";

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).at("writing", dir)
}

/// Puts a file there whole or not at all: written beside, made durable, renamed, and the name made durable.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let new = dir.join(format!("{name}{NEW}"));
    let mut file = File::create(&new).at("making", &new)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).at("writing", &new)?;
    let path = dir.join(name);
    fs::rename(&new, &path).at("replacing", &path)?;
    sync_dir(dir)
}

/// Reads a whole file, unless it is larger than any good one.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(path, limit, &mut bytes)?;
    Ok(bytes)
}

/// The same into a buffer, whose contents are replaced.
pub(crate) fn read_into(path: &Path, limit: u64, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    let file = File::open(path).at("opening", path)?;
    let about = file.metadata().at("reading", path)?;
    // A pipe or a device would never end.
    if !about.is_file() {
        return Err(Error::malformed(path.display().to_string(), "it is not a file"));
    }
    if about.len() > limit {
        return Err(too_large(path, limit));
    }
    // It has this size; more is read only when it grows.
    bytes.reserve_exact(usize::try_from(about.len()).unwrap_or_default());
    file.take(limit + 1).read_to_end(bytes).at("reading", path)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(path, limit));
    }
    Ok(())
}

fn too_large(path: &Path, limit: u64) -> Error {
    Error::malformed(path.display().to_string(), format!("it is larger than {limit} bytes"))
}

/// Whether the error says that there is no such file.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// The names in a directory, sorted, at most so many.
pub(crate) fn names(dir: &Path, limit: usize) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).at("reading", dir)? {
        if names.len() == limit {
            return Err(Error::malformed(
                dir.display().to_string(),
                format!("it has more than {limit} files"),
            ));
        }
        names.push(PathBuf::from(entry.at("reading", dir)?.file_name()));
    }
    names.sort();
    Ok(names)
}
