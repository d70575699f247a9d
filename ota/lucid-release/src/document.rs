//! TUF metadata as files: read strictly, written so that the same content gives the same bytes.
//!
//! A file is `{"signatures": […], "signed": {…}}`, pretty JSON with sorted names and a line feed at the end. A signature is
//! over the canonical JSON of `signed`, not over the file.

use std::path::{Path, PathBuf};

use jiff::Timestamp as Time;
use lucid_release_format::metadata::{MAX_ROOT, MAX_SNAPSHOT, MAX_TARGETS, MAX_TIMESTAMP};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tough::schema::{Hashes, Metafile, Role, Root, Signed, Snapshot, Targets, Timestamp};

use crate::error::{Error, Result};
use crate::files;

/// One of the four kinds of metadata. A device takes no file that is larger.
pub trait Kind: Role + Serialize + DeserializeOwned + Clone + PartialEq {
    /// What `_type` and people call it.
    const NAME: &'static str;
    /// The most bytes of a file.
    const MOST: u64;
}

impl Kind for Root {
    const NAME: &'static str = "root";
    const MOST: u64 = MAX_ROOT;
}

impl Kind for Targets {
    const NAME: &'static str = "targets";
    const MOST: u64 = MAX_TARGETS;
}

impl Kind for Snapshot {
    const NAME: &'static str = "snapshot";
    const MOST: u64 = MAX_SNAPSHOT;
}

impl Kind for Timestamp {
    const NAME: &'static str = "timestamp";
    const MOST: u64 = MAX_TIMESTAMP;
}

/// Metadata and the bytes of its file.
#[derive(Clone, Debug)]
pub struct Held<T> {
    /// Where it was read.
    pub path: PathBuf,
    /// The bytes of the file: what others hash.
    pub bytes: Vec<u8>,
    /// What they say.
    pub signed: Signed<T>,
}

impl<T: Kind> Held<T> {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not such metadata.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, files::read(path, T::MOST)?)
    }

    /// The same, where there may be none.
    ///
    /// # Errors
    /// When it is there and cannot be read, or is not such metadata.
    pub fn read_if_there(path: &Path) -> Result<Option<Self>> {
        files::read_if_there(path, T::MOST)?.map(|bytes| Self::parse(path, bytes)).transpose()
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let malformed = |error: serde_json::Error| Error::malformed(path, error.to_string());
        let value: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
        let kind = value.pointer("/signed/_type").and_then(Value::as_str).unwrap_or("nothing");
        if kind != T::NAME {
            return Err(Error::malformed(path, format!("it is {kind}, and {} was expected", T::NAME)));
        }
        let signed: Signed<T> = serde_json::from_slice(&bytes).map_err(malformed)?;
        // What a signature covers is written anew from what was read: nothing may be lost on the way.
        if serde_json::to_value(&signed).map_err(malformed)? != value {
            return Err(Error::malformed(
                path,
                "it says what this program does not know, or says it in another way",
            ));
        }
        Ok(Self { path: path.to_owned(), bytes, signed })
    }

    /// As it will be in its file.
    ///
    /// # Errors
    /// When it cannot be written as JSON, or no device would take it for its size.
    pub fn new(path: PathBuf, signed: Signed<T>) -> Result<Self> {
        let failed = |source| Error::Json { what: T::NAME, source };
        let mut value = serde_json::to_value(&signed).map_err(failed)?;
        value.sort_all_objects();
        let mut bytes = serde_json::to_vec_pretty(&value).map_err(failed)?;
        bytes.push(b'\n');
        if bytes.len() as u64 > T::MOST {
            return Err(Error::TooLarge { path, most: T::MOST });
        }
        Ok(Self { path, bytes, signed })
    }

    /// Writes it where it belongs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<()> {
        files::replace(&self.path, &self.bytes)
    }

    /// What others say of the file.
    #[must_use]
    pub fn meta(&self) -> Metafile {
        let sha256 = Sha256::digest(&self.bytes).to_vec().into();
        Metafile {
            length: Some(self.bytes.len() as u64),
            hashes: Some(Hashes { sha256, _extra: std::collections::HashMap::new() }),
            version: self.signed.signed.version(),
            _extra: std::collections::HashMap::new(),
        }
    }
}

/// What is signed of some metadata.
///
/// # Errors
/// When it has no canonical form, as numbers with a fraction have none.
pub fn canonical<T: Kind>(role: &T) -> Result<Vec<u8>> {
    role.canonical_form().map_err(|error| Error::Canonical { what: T::NAME, source: Box::new(error) })
}

/// What those who sign compare with each other: SHA-256 of what is signed, in eight groups of eight digits.
///
/// # Errors
/// When there is no canonical form.
pub fn code<T: Kind>(role: &T) -> Result<String> {
    let digits = hex::encode(Sha256::digest(canonical(role)?));
    let groups: Vec<_> = digits.as_bytes().chunks(8).map(String::from_utf8_lossy).collect();
    Ok(groups.join(" "))
}

/// "targets 3"
#[must_use]
pub fn name<T: Kind>(role: &T) -> String {
    format!("{} {}", T::NAME, role.version())
}

/// Metadata of whichever kind.
#[derive(Clone, Debug)]
pub enum Document {
    /// Whose keys sign what.
    Root(Held<Root>),
    /// The releases.
    Targets(Held<Targets>),
    /// Which targets there are.
    Snapshot(Held<Snapshot>),
    /// Which snapshot there is.
    Timestamp(Held<Timestamp>),
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no metadata.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read(path, Targets::MOST)?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| Error::malformed(path, error.to_string()))?;
        match value.pointer("/signed/_type").and_then(Value::as_str) {
            Some(Root::NAME) => Held::read(path).map(Self::Root),
            Some(Targets::NAME) => Held::read(path).map(Self::Targets),
            Some(Snapshot::NAME) => Held::read(path).map(Self::Snapshot),
            Some(Timestamp::NAME) => Held::read(path).map(Self::Timestamp),
            _ => Err(Error::malformed(path, "it is neither a root nor targets, snapshot or timestamp")),
        }
    }
}

/// So many days later, in whole seconds.
///
/// # Errors
/// When that is no time any more.
pub fn days_after(now: Time, days: u32) -> Result<Time> {
    Time::from_second(now.as_second().saturating_add(i64::from(days) * 86_400))
        .map_err(|error| Error::Arguments(format!("{days} days from now: {error}")))
}
