//! The folder of those who release.
//!
//! | | |
//! | --- | --- |
//! | `settings.json` | how long metadata holds ([`Settings`]) |
//! | `1.root.json` … | the roots, all of them, for good |
//! | `targets.json` | the releases: what is published, or a draft that is being signed |
//! | `targets/` | indexes, archives and patches |
//! | `published/` | `targets.json`, `snapshot.json`, `timestamp.json` as they were published last |
//! | `keys/` | keys that were made with the folder; they are better kept elsewhere, each with its holder |

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tough::schema::{Snapshot, Targets, Timestamp};

use crate::document::Held;
use crate::error::{At as _, Error, Result};
use crate::files;
use crate::roots::Roots;

/// The most bytes of `settings.json`.
const MOST: u64 = 4096;

/// How many days metadata holds. Each is cut short where what it stands on ends earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Days {
    /// Roots.
    pub root: u32,
    /// Lists of releases.
    pub targets: u32,
    /// Snapshots.
    pub snapshot: u32,
    /// Timestamps: so long can a device be kept from hearing of a newer release.
    pub timestamp: u32,
}

impl Default for Days {
    fn default() -> Self {
        Self { root: 365, targets: 180, snapshot: 30, timestamp: 30 }
    }
}

/// `settings.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// 1.
    pub format: u32,
    /// How long metadata holds.
    pub days: Days,
}

/// Such a folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    settings: Settings,
}

/// What was published last from a folder.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The releases.
    pub targets: Option<Held<Targets>>,
    /// The snapshot.
    pub snapshot: Option<Held<Snapshot>>,
    /// The timestamp.
    pub timestamp: Option<Held<Timestamp>>,
}

impl Folder {
    /// Makes one, in which there is no root yet.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub fn make(path: &Path, days: Days) -> Result<Self> {
        let folder = Self { path: path.to_owned(), settings: Settings { format: 1, days } };
        let settings = folder.path.join("settings.json");
        if settings.exists() || path.join("1.root.json").exists() {
            return Err(Error::FolderExists(path.to_owned()));
        }
        for part in [folder.path.clone(), folder.targets_folder(), folder.keys()] {
            fs::create_dir_all(&part).at("making", &part)?;
        }
        let mut text = serde_json::to_vec_pretty(&folder.settings)
            .map_err(|source| Error::Json { what: "settings", source })?;
        text.push(b'\n');
        files::replace(&settings, &text)?;
        Ok(folder)
    }

    /// One that was made before.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join("settings.json");
        let text = files::read_if_there(&file, MOST)?.ok_or_else(|| Error::NoFolder(path.to_owned()))?;
        let settings: Settings =
            serde_json::from_slice(&text).map_err(|error| Error::malformed(&file, error.to_string()))?;
        if settings.format != 1 {
            return Err(Error::malformed(
                &file,
                format!("its format is {}; 1 alone is known", settings.format),
            ));
        }
        Ok(Self { path: path.to_owned(), settings })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long metadata holds.
    #[must_use]
    pub fn days(&self) -> Days {
        self.settings.days
    }

    /// Where keys are that were made with the folder.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Where indexes, archives and patches are.
    #[must_use]
    pub fn targets_folder(&self) -> PathBuf {
        self.path.join("targets")
    }

    /// The list of releases.
    #[must_use]
    pub fn targets_file(&self) -> PathBuf {
        self.path.join("targets.json")
    }

    fn published_file(&self, name: &str) -> PathBuf {
        self.path.join("published").join(name)
    }

    /// Its roots.
    ///
    /// # Errors
    /// When they are no chain.
    pub fn roots(&self) -> Result<Roots> {
        Roots::read(&self.path)
    }

    /// What was published last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn published(&self) -> Result<Published> {
        Ok(Published {
            targets: Held::read_if_there(&self.published_file("targets.json"))?,
            snapshot: Held::read_if_there(&self.published_file("snapshot.json"))?,
            timestamp: Held::read_if_there(&self.published_file("timestamp.json"))?,
        })
    }

    /// Keeps what is about to be published: so no version is used twice, even if the power goes in between.
    pub(crate) fn keep(
        &self,
        targets: &Held<Targets>,
        snapshot: &Held<Snapshot>,
        timestamp: &Held<Timestamp>,
    ) -> Result<()> {
        let folder = self.path.join("published");
        fs::create_dir_all(&folder).at("making", &folder)?;
        files::replace(&self.published_file("targets.json"), &targets.bytes)?;
        files::replace(&self.published_file("snapshot.json"), &snapshot.bytes)?;
        files::replace(&self.published_file("timestamp.json"), &timestamp.bytes)
    }
}
