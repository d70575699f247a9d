//! What the service is doing, on disk before it does it, and what follows from what.
//!
//! `update.json`, one JSON object: `version` (1), `phase` ([`Phase`]), `floor` (a version: nothing below it is installed),
//! `seed` (32 random bytes in hex, the device's own), `last` ([`Outcome`] or null), `refused` (versions that were tried and did
//! not pass; they are not tried again unless somebody says so).
//!
//! ```text
//! idle -> staging -> staged -> trying -> good -> idle
//!           |          |         |
//!           +--> idle <+---------+   (withdrawn; failed)
//! ```

use lucid_release_format::{Release, Version};
use serde::{Deserialize, Serialize};

use crate::{
    boot::{Booted, Slot},
    error::{Error, Result},
    files::Store,
};

/// The file.
pub const FILE: &str = "update.json";
/// Its version.
const VERSION: u32 = 1;
/// The most bytes of it.
const MAX_BYTES: u64 = 64 << 10;
/// So many refused versions are kept, the newest.
const MAX_REFUSED: usize = 32;
/// A reason has at most so many bytes.
const MAX_REASON: usize = 1000;

/// What is being done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase", deny_unknown_fields)]
pub enum Phase {
    /// Nothing: the other slot may hold anything.
    Idle {},
    /// The slot is being written; nothing of it may be booted.
    Staging {
        /// With what.
        release: Release,
        /// Which slot.
        slot: Slot,
    },
    /// The slot holds the release, read back and compared.
    Staged {
        /// Which release.
        release: Release,
        /// Which slot.
        slot: Slot,
    },
    /// The slot is about to be booted once, or is being tried right now.
    Trying {
        /// Which release.
        release: Release,
        /// Which slot.
        slot: Slot,
        /// The boot during which the try was armed.
        boot_id: String,
    },
    /// The slot passed; it is becoming the one that boots.
    Good {
        /// Which release.
        release: Release,
        /// Which slot.
        slot: Slot,
    },
}

impl Phase {
    /// The release and the slot that it is about.
    #[must_use]
    pub fn about(&self) -> Option<(&Release, Slot)> {
        match self {
            Self::Idle {} => None,
            Self::Staging { release, slot }
            | Self::Staged { release, slot }
            | Self::Trying { release, slot, .. }
            | Self::Good { release, slot } => Some((release, *slot)),
        }
    }

    /// In one word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle {} => "idle",
            Self::Staging { .. } => "staging",
            Self::Staged { .. } => "staged",
            Self::Trying { .. } => "trying",
            Self::Good { .. } => "good",
        }
    }
}

/// How an update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// The new system runs and boots from now on.
    Installed,
    /// The new system was tried and did not pass: the old one stays.
    Failed,
    /// It was given up before it was tried.
    Dropped,
}

/// The last update that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// To which version.
    pub version: Version,
    /// How it ended.
    pub ending: Ending,
    /// Why, in words for people.
    pub reason: String,
    /// When, in seconds since 1970 by the device's clock.
    pub at: u64,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// What is being done.
    pub phase: Phase,
    /// Nothing below this is installed, whoever signs it.
    pub floor: Version,
    seed: String,
    /// How the last update ended.
    pub last: Option<Outcome>,
    /// Tried, and did not pass.
    pub refused: Vec<Version>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A release is chosen, and goes into this slot.
    Begin {
        /// The release.
        release: Release,
        /// The slot that does not run.
        slot: Slot,
    },
    /// All of it is in the slot and was read back.
    Written,
    /// It is given up before it was tried.
    Dropped {
        /// Why.
        reason: String,
        /// When.
        at: u64,
    },
    /// The machine is about to be restarted into the slot.
    Armed {
        /// The boot that ends with it.
        boot_id: String,
    },
    /// The new system is well.
    Passed {
        /// When.
        at: u64,
    },
    /// The new system is not, or the machine came back with the old one.
    Failed {
        /// Why.
        reason: String,
        /// When.
        at: u64,
    },
    /// The slot is the one that boots.
    Committed,
    /// A person wants a version to be tried again.
    Allowed {
        /// Which.
        version: Version,
    },
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Written => "written",
            Self::Dropped { .. } => "dropped",
            Self::Armed { .. } => "armed",
            Self::Passed { .. } => "passed",
            Self::Failed { .. } => "failed",
            Self::Committed => "committed",
            Self::Allowed { .. } => "allowed",
        }
    }
}

/// An event that cannot come in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} cannot come while the update is {phase}")]
pub struct Impossible {
    /// The phase.
    pub phase: &'static str,
    /// The event.
    pub event: &'static str,
}

/// What follows from an event. Nothing else changes a state.
///
/// # Errors
/// When the event cannot come in this phase.
pub fn next(state: &State, event: Event) -> Result<State, Impossible> {
    let mut new = state.clone();
    let impossible = Impossible { phase: state.phase.name(), event: event.name() };
    let about = state.phase.about().map(|(release, slot)| (release.clone(), slot));
    new.phase = match (&state.phase, event, about) {
        (
            Phase::Idle {} | Phase::Staging { .. } | Phase::Staged { .. },
            Event::Begin { release, slot },
            _,
        ) => Phase::Staging { release, slot },
        (Phase::Staging { .. }, Event::Written, Some((release, slot))) => Phase::Staged { release, slot },
        (
            Phase::Staging { .. } | Phase::Staged { .. },
            Event::Dropped { reason, at },
            Some((Release { version, .. }, _)),
        ) => {
            new.last = Some(outcome(version, Ending::Dropped, reason, at));
            Phase::Idle {}
        }
        (Phase::Staged { .. }, Event::Armed { boot_id }, Some((release, slot))) => {
            Phase::Trying { release, slot, boot_id }
        }
        (Phase::Trying { .. }, Event::Passed { at }, Some((release, slot))) => {
            new.floor = state.floor.max(release.min_version);
            new.refused.retain(|version| *version != release.version);
            let reason = "it was tried and is well".to_owned();
            new.last = Some(outcome(release.version, Ending::Installed, reason, at));
            Phase::Good { release, slot }
        }
        (Phase::Trying { .. }, Event::Failed { reason, at }, Some((Release { version, .. }, _))) => {
            new.last = Some(outcome(version, Ending::Failed, reason, at));
            new.refused.retain(|refused| *refused != version);
            new.refused.push(version);
            let surplus = new.refused.len().saturating_sub(MAX_REFUSED);
            new.refused.drain(..surplus);
            Phase::Idle {}
        }
        (Phase::Good { .. }, Event::Committed, _) => Phase::Idle {},
        (Phase::Idle {} | Phase::Staging { .. } | Phase::Staged { .. }, Event::Allowed { version }, _) => {
            new.refused.retain(|refused| *refused != version);
            state.phase.clone()
        }
        _ => return Err(impossible),
    };
    Ok(new)
}

fn outcome(version: Version, ending: Ending, reason: String, at: u64) -> Outcome {
    let mut reason = reason;
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    Outcome { version, ending, reason, at }
}

/// What has to be done first when the service starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Go on writing, once the release is known again.
    Stage,
    /// The slot can be tried.
    Try,
    /// The try was armed and the machine has not been restarted since: arm it again and restart.
    Arm,
    /// This is the try: see whether it is well.
    Gate,
    /// The machine came back with the old system.
    FellBack,
    /// Make the slot the one that boots; restart into it when it does not run.
    Commit,
    /// The slot that would be written is the one that runs.
    Drop,
    /// This is a try that did not pass: restart into the old system.
    Leave,
}

/// Decides it, from what was kept and what was booted.
#[must_use]
pub fn first(state: &State, booted: Booted, boot_id: &str, running: Version) -> Step {
    match &state.phase {
        Phase::Idle {} => match &state.last {
            Some(last) if booted.tried && last.ending == Ending::Failed && last.version == running => {
                Step::Leave
            }
            _ => Step::Nothing,
        },
        Phase::Staging { slot, .. } | Phase::Staged { slot, .. } if *slot == booted.slot => Step::Drop,
        Phase::Staging { .. } => Step::Stage,
        Phase::Staged { .. } => Step::Try,
        Phase::Trying { slot, .. } if *slot == booted.slot => Step::Gate,
        Phase::Trying { boot_id: armed, .. } if armed == boot_id => Step::Arm,
        Phase::Trying { .. } => Step::FellBack,
        Phase::Good { .. } => Step::Commit,
    }
}

impl State {
    /// That of a device that never had one.
    #[must_use]
    pub fn new(seed: [u8; 32], floor: Version) -> Self {
        let seed = hex::encode(seed);
        Self { version: VERSION, phase: Phase::Idle {}, floor, seed, last: None, refused: Vec::new() }
    }

    /// The device's own random bytes: its place in the waves of a release follows from them.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        // Reading has checked it.
        if hex::decode_to_slice(&self.seed, &mut seed).is_err() {
            seed = *blake3::hash(self.seed.as_bytes()).as_bytes();
        }
        seed
    }

    /// Reads it.
    ///
    /// # Errors
    /// In words, when the bytes are not such a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if state.version != VERSION {
            return Err(format!("it has version {}, and this program reads {VERSION}", state.version));
        }
        if state.seed.len() != 64 || hex::decode(&state.seed).is_err() {
            return Err("its seed is not 32 bytes in hex".to_owned());
        }
        if state.refused.len() > MAX_REFUSED {
            return Err(format!("it refuses {} versions, more than {MAX_REFUSED}", state.refused.len()));
        }
        Ok(state)
    }

    /// As it is written: one line.
    ///
    /// # Errors
    /// Never for a state of this module.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| Error::Internal(error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// What is kept, or why there is nothing that can be used.
    ///
    /// # Errors
    /// When the disk does not give it.
    pub fn load(store: &dyn Store) -> Result<Kept> {
        match store.read(FILE, MAX_BYTES) {
            Ok(None) => Ok(Kept::Nothing),
            Ok(Some(bytes)) => {
                Ok(Self::from_bytes(&bytes).map_or_else(Kept::Lost, |state| Kept::State(Box::new(state))))
            }
            Err(Error::Invalid { why, .. }) => Ok(Kept::Lost(why)),
            Err(error) => Err(error),
        }
    }

    /// Keeps it; durable when this is done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, store: &dyn Store) -> Result<()> {
        store.replace(FILE, &self.to_bytes()?)
    }
}

/// What there was of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// No file.
    Nothing,
    /// A file that is none, and why.
    Lost(String),
    /// This.
    State(Box<State>),
}
