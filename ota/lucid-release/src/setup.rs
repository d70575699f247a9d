//! A new folder of releases: keys of those who have none yet, and the first root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp as Time;
use tough::schema::Root;

use crate::document::Held;
use crate::draft::{Holders, Plan, first_root};
use crate::error::{Error, Result};
use crate::folder::{Days, Folder};
use crate::key::{Passphrase, PublicKey, SecretKey};
use crate::rules::{ROLES, role_name};

/// The keys of a role: those that their holders made, and as many new ones as are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The public halves of those that there are.
    pub given: Vec<PublicKey>,
    /// How many keys the role has.
    pub count: usize,
    /// How many have to sign.
    pub threshold: u64,
}

/// A folder that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The keys of each role, in the order of [`ROLES`]: root, targets, snapshot, timestamp.
    pub roles: [Wanted; 4],
    /// How long metadata holds.
    pub days: Days,
    /// Whether nobody guards the keys.
    pub development: bool,
}

impl Setup {
    /// How many keys of root and of targets would be made here, though nobody would be their only holder then. None where
    /// the folder is for development.
    #[must_use]
    pub fn made_here(&self) -> Vec<(&'static str, usize, usize)> {
        let people = ROLES.into_iter().zip(&self.roles).take(2).filter(|_| !self.development);
        let missing = people.map(|(role, wanted)| {
            (role_name(role), wanted.count.saturating_sub(wanted.given.len()), wanted.count)
        });
        missing.filter(|(_, missing, _)| *missing > 0).collect()
    }
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The first root, with the signatures of the new keys.
    pub root: Held<Root>,
    /// The new keys' files.
    pub keys: Vec<(PathBuf, PublicKey)>,
}

/// Makes the folder. The passphrase of the new keys is asked for if there is one to be made.
///
/// # Errors
/// When the folder is there already, the root would break a rule, or something cannot be written.
pub fn init(
    path: &Path,
    setup: &Setup,
    passphrase: &dyn Fn() -> Result<Passphrase>,
    now: Time,
    tell: &dyn Fn(&str),
) -> Result<Made> {
    let mut seen = BTreeSet::new();
    for (role, wanted) in ROLES.into_iter().zip(&setup.roles) {
        let name = role_name(role);
        if let Some(twice) = wanted.given.iter().find(|key| !seen.insert(**key)) {
            return Err(Error::Arguments(format!(
                "the public half {twice} is named twice: each holder, and each role, has a key of its own"
            )));
        }
        if wanted.given.len() > wanted.count {
            let given = wanted.given.len();
            return Err(Error::Arguments(format!(
                "{name} is to have {} keys, and {given} are named",
                wanted.count
            )));
        }
        // Before anybody types a passphrase.
        if wanted.threshold == 0 || wanted.threshold > wanted.count as u64 {
            let (threshold, count) = (wanted.threshold, wanted.count);
            return Err(Error::Arguments(format!(
                "{name}: {threshold} signatures of {count} keys cannot be"
            )));
        }
    }
    let missing: usize = setup.roles.iter().map(|wanted| wanted.count - wanted.given.len()).sum();
    let passphrase = if missing > 0 { Some(passphrase()?) } else { None };
    let folder = Folder::make(path, setup.days)?;
    let mut made = Vec::new();
    let mut at_hand = Vec::new();
    let mut holders = Vec::new();
    for (role, wanted) in ROLES.into_iter().zip(&setup.roles) {
        let mut keys = wanted.given.clone();
        while let Some(passphrase) = passphrase.as_ref().filter(|_| keys.len() < wanted.count) {
            let file = folder.keys().join(format!("{}-{}.key", role_name(role), keys.len() + 1));
            tell(&format!("making {}", file.display()));
            let key = SecretKey::create(&file, passphrase)?;
            keys.push(key.public());
            made.push((file, key.public()));
            at_hand.push(key);
        }
        holders.push(Holders { keys, threshold: wanted.threshold });
    }
    let [root, targets, snapshot, timestamp] = <[Holders; 4]>::try_from(holders)
        .map_err(|_| Error::Arguments("a root has four roles".to_owned()))?;
    let plan = Plan { root, targets, snapshot, timestamp, development: setup.development };
    let root = first_root(&folder, &plan, &at_hand, now)?;
    Ok(Made { root, keys: made })
}
