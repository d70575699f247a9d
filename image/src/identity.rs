//! What an image says of itself, and whom a device with it believes: `/usr/share/lucid/system.json` ([`System`]) and
//! `/usr/share/lucid/root.json`, the first root of trust (The Update Framework's).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use lucid_release_format::metadata::{MAX_ROOT, is_development};
use lucid_release_format::{Name, System, Version};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::{At, Error, Result};

/// The form of what services keep that they read and write. Raised with a program in `/usr/libexec/lucid/migrations` that brings
/// what is kept to it (`ota/lucid-migrate`).
const DATA: u32 = 1;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The kind of device that the image is for.
    pub machine: Name,
    /// Its version.
    pub version: Version,
    /// The root of trust.
    pub root: Root,
}

impl Identity {
    /// What `system.json` says in an image of that time.
    #[must_use]
    pub fn system(&self, built: i64) -> System {
        System { machine: self.machine.clone(), version: self.version, built, data: DATA }
    }
}

/// A root of trust.
#[derive(Debug, Clone)]
pub struct Root {
    /// The file, as it is.
    pub bytes: Vec<u8>,
    /// Whether it is marked as one whose keys nobody guards.
    pub development: bool,
    /// SHA-256 of what is signed of it, so it stays when more of its holders sign: the code that `lucid-release inspect` shows.
    pub signed_sha256: String,
}

impl Root {
    /// Reads one. Its signatures are counted and not checked: `lucid-release inspect` does that.
    ///
    /// # Errors
    /// When it is none, too few have signed it, or it is for development and `development` is not wanted.
    pub fn read(path: &Path, development: bool) -> Result<Self> {
        let mut bytes = Vec::new();
        let file = File::open(path).at("opening", path)?;
        file.take(MAX_ROOT + 1).read_to_end(&mut bytes).at("reading", path)?;
        let root = Self::parse(bytes).map_err(|why| Error::Format { path: path.to_owned(), why })?;
        if root.development && !development {
            let why = "is a root for development, whose keys nobody guards; give the root of your releases, or build with \
                       --development an image for nobody else";
            return Err(Error::Format { path: path.to_owned(), why: why.into() });
        }
        Ok(root)
    }

    fn parse(bytes: Vec<u8>) -> std::result::Result<Self, String> {
        if bytes.len() as u64 > MAX_ROOT {
            return Err(format!("has more than {MAX_ROOT} bytes, which no root has; give 1.root.json"));
        }
        let no_root =
            |why: &str| format!("is no root of trust: {why}; give the 1.root.json of `lucid-release init`");
        let mut file: Value = serde_json::from_slice(&bytes).map_err(|error| no_root(&error.to_string()))?;
        file.sort_all_objects();
        let signed = file["signed"].as_object().ok_or_else(|| no_root("it has no object \"signed\""))?;
        if signed.get("_type").and_then(Value::as_str) != Some("root") {
            return Err(no_root("its type is another one"));
        }
        let threshold = file["signed"]["roles"]["root"]["threshold"].as_u64();
        let threshold = threshold.ok_or_else(|| no_root("it does not say how many sign it"))?;
        let have = file["signatures"].as_array().map_or(0, Vec::len) as u64;
        if threshold == 0 || have < threshold {
            return Err(format!(
                "has {have} signatures and asks for {threshold}: no device would believe it; let its holders sign it \
                 (`lucid-release sign`)"
            ));
        }
        let members: HashMap<String, Value> =
            signed.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        // Of a root that `lucid-release` makes this is the canonical form, which is what is signed: sorted names, no space between
        // them, whole numbers, and no letter that JSON writes in two ways.
        let canonical = serde_json::to_vec(&file["signed"]).map_err(|error| no_root(&error.to_string()))?;
        let signed_sha256 = hex::encode(Sha256::digest(canonical));
        Ok(Self { development: is_development(&members), bytes, signed_sha256 })
    }
}
