//! The chain of roots in a folder: `1.root.json`, `2.root.json` and so on, each signed by enough keys of the one before and
//! of its own.

use std::fs;
use std::path::Path;

use tough::schema::Root;

use crate::document::Held;
use crate::error::{At as _, Error, Result};
use crate::rules;

/// What the name of a root's file ends with.
pub const SUFFIX: &str = ".root.json";

/// The roots of a folder.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Those that hold, the oldest first.
    pub in_force: Vec<Held<Root>>,
    /// The one after them, for which too few have signed yet.
    pub draft: Option<Held<Root>>,
}

/// The name of a root's file.
#[must_use]
pub fn file_name(version: u64) -> String {
    format!("{version}{SUFFIX}")
}

impl Roots {
    /// Reads the roots of a folder, and says which of them hold.
    ///
    /// # Errors
    /// When there is none, one is missing between others, or one that others follow is not signed.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(folder).at("reading", folder)? {
            let name = entry.at("reading", folder)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            // A number has one spelling: others would be another file of the same version.
            if let Some(number) = number
                && let Ok(version) = number.parse::<u64>()
                && version.to_string() == number
            {
                versions.push(version);
            }
        }
        versions.sort_unstable();
        let mut roots = Self { in_force: Vec::new(), draft: None };
        for version in versions {
            let path = folder.join(file_name(version));
            let held = Held::<Root>::read(&path)?;
            if held.signed.signed.version.get() != version {
                return Err(Error::malformed(&path, format!("it is root {}", held.signed.signed.version)));
            }
            rules::root(&held.signed.signed)?;
            if let Some(draft) = &roots.draft {
                let draft = draft.path.display();
                return Err(Error::malformed(
                    &path,
                    format!("it follows {draft}, which too few have signed"),
                ));
            }
            let before = roots.in_force.last();
            if let Some(before) = before
                && before.signed.signed.version.get() + 1 != version
            {
                return Err(Error::malformed(&path, "the root before it is not there"));
            }
            let mut good = rules::standing(&held.signed, &held.signed.signed)?.is_enough();
            if let Some(before) = before {
                good &= rules::standing(&held.signed, &before.signed.signed)?.is_enough();
            }
            if good {
                // The client's own count, which refuses a signature that is there twice.
                rules::enough(&held.signed, &held.signed.signed)?;
                roots.in_force.push(held);
            } else {
                roots.draft = Some(held);
            }
        }
        if roots.in_force.is_empty() && roots.draft.is_none() {
            return Err(Error::NoRoot(folder.to_owned()));
        }
        Ok(roots)
    }

    /// The root that holds now.
    #[must_use]
    pub fn newest(&self) -> Option<&Held<Root>> {
        self.in_force.last()
    }

    /// The root that holds now.
    ///
    /// # Errors
    /// When too few have signed the first one.
    pub fn holding(&self, folder: &Path) -> Result<&Held<Root>> {
        if let Some(root) = self.newest() {
            return Ok(root);
        }
        match &self.draft {
            Some(draft) => Err(rules::enough(&draft.signed, &draft.signed.signed)
                .err()
                .unwrap_or_else(|| Error::NoRoot(folder.to_owned()))),
            None => Err(Error::NoRoot(folder.to_owned())),
        }
    }

    /// A root by its version.
    #[must_use]
    pub fn version(&self, version: u64) -> Option<&Held<Root>> {
        self.in_force.iter().chain(&self.draft).find(|held| held.signed.signed.version.get() == version)
    }
}
