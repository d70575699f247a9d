//! What the service is doing, on disk before it does it, and what follows from what.
//!
//! `update.json`, one JSON object in a line and the BLAKE3 of that line in hex as a second one: `version` (1), `phase`
//! ([`Phase`]), `floor` (a version: nothing below it is installed), `seed` (32 random bytes in hex, the device's own), `history`
//! (a list of [`Outcome`], the newest last), `refused` (versions that were tried and did not pass, or were left by going back;
//! they are not tried again unless somebody says so), and while something is being installed `source`, from where it comes, in
//! words. An outcome has a `source` too where that is known.
//!
//! ```text
//! idle -> staging -> staged <-> trying -> good -> idle
//!           |          |          |
//!           +--> idle <+----------+   (withdrawn; failed)
//!
//! idle -> trying                      (back to what ran before)
//! ```
//!
//! A try from which the machine comes back without a reason, as after a power cut, is made again, [`MAX_TRIES`] times in all.
//!
//! A rule for every later version of the file: a system that is only being tried writes the version that it has read, and no
//! newer one before it is the one that boots. The old system, to which the machine goes back, has to read why; what it cannot
//! read it begins anew, and tries the same release again, without an end. The same holds for a system to which somebody goes
//! back: what is newly to be remembered is in files of its own ([`crate::held`], [`crate::schedule`]), which older ones do not
//! read.

use lucid_release_format::{Release, Version};
use serde::{Deserialize, Serialize};

use crate::{
    boot::{Booted, Slot},
    error::{Error, Result},
    files::{Store, seal, unseal},
};

/// The file.
pub const FILE: &str = "update.json";
/// Its version.
const VERSION: u32 = 1;
/// The most bytes of it.
const MAX_BYTES: u64 = 256 << 10;
/// So often a system is to be tried of which no try says how it went.
pub const MAX_TRIES: u32 = 3;
/// So many outcomes are kept, the newest.
pub const MAX_HISTORY: usize = 32;
/// So many refused versions are kept, the newest.
const MAX_REFUSED: usize = 32;
/// A reason has at most so many bytes.
const MAX_REASON: usize = 1000;
/// The name of a source has at most so many bytes.
const MAX_SOURCE: usize = 300;

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
        /// How often it was to be tried already, without a word of how that went.
        tries: u32,
    },
    /// The slot is about to be booted once, or is being tried right now.
    Trying {
        /// Which release.
        release: Release,
        /// Which slot.
        slot: Slot,
        /// The boot during which the try was armed.
        boot_id: String,
        /// How often it was to be tried, with this time.
        tries: u32,
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
            | Self::Staged { release, slot, .. }
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
    /// The new system was tried and did not pass: the old one stays. Or it did, and later its slot did not start.
    Failed,
    /// It was given up before it was tried.
    Dropped,
    /// What was kept of updates could not be read, and was begun anew.
    Lost,
}

/// An update that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// To which version; that which runs where nothing else is known.
    pub version: Version,
    /// In which slot.
    pub slot: Slot,
    /// How it ended.
    pub ending: Ending,
    /// Why, in words for people.
    pub reason: String,
    /// When, in seconds since 1970 by the device's clock.
    pub at: u64,
    /// From where it came, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
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
    /// How updates ended, the newest last.
    pub history: Vec<Outcome>,
    /// Tried, and did not pass, or left by going back.
    pub refused: Vec<Version>,
    /// From where comes what is being installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
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
    /// What is in the slot comes from this source from now on.
    From {
        /// Its name.
        source: String,
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
    /// The firmware could not be told to start the slot: that was no try.
    NotArmed,
    /// The new system is well.
    Passed,
    /// The new system is not.
    Failed {
        /// Why.
        reason: String,
        /// When.
        at: u64,
    },
    /// The machine came back with the old system, and the new one has not said why.
    FellBack {
        /// When.
        at: u64,
    },
    /// The slot is the one that boots.
    Committed {
        /// When.
        at: u64,
    },
    /// The firmware went past the slot that was to boot, and the other one boots from now on.
    NotStarting {
        /// What was installed into it; that which runs where that is not known.
        version: Version,
        /// The slot that does not start.
        slot: Slot,
        /// In words.
        reason: String,
        /// When.
        at: u64,
    },
    /// A person wants the system that ran before: the machine is about to be restarted into its slot.
    Back {
        /// That system's release.
        release: Release,
        /// Its slot.
        slot: Slot,
        /// The version that is left; it is not taken again by itself.
        left: Version,
        /// The boot that ends with it.
        boot_id: String,
    },
    /// The slot of the system that ran before is the one that boots again.
    WentBack {
        /// When.
        at: u64,
    },
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
            Self::From { .. } => "from",
            Self::Written => "written",
            Self::Dropped { .. } => "dropped",
            Self::Armed { .. } => "armed",
            Self::NotArmed => "not armed",
            Self::Passed => "passed",
            Self::Failed { .. } => "failed",
            Self::FellBack { .. } => "fell back",
            Self::Committed { .. } => "committed",
            Self::NotStarting { .. } => "not starting",
            Self::Back { .. } => "back",
            Self::WentBack { .. } => "went back",
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
    new.phase = match (state.phase.clone(), event) {
        (Phase::Idle {} | Phase::Staging { .. } | Phase::Staged { .. }, Event::Begin { release, slot }) => {
            new.source = None;
            Phase::Staging { release, slot }
        }
        (phase @ Phase::Staging { .. }, Event::From { mut source }) => {
            source.truncate(source.floor_char_boundary(MAX_SOURCE));
            new.source = Some(source);
            phase
        }
        (Phase::Staging { release, slot }, Event::Written) => Phase::Staged { release, slot, tries: 0 },
        (
            Phase::Staging { release, slot } | Phase::Staged { release, slot, .. },
            Event::Dropped { reason, at },
        ) => {
            new.ended(release.version, slot, Ending::Dropped, reason, at);
            Phase::Idle {}
        }
        (Phase::Staged { release, slot, tries }, Event::Armed { boot_id }) => {
            Phase::Trying { release, slot, boot_id, tries: tries.saturating_add(1) }
        }
        (Phase::Trying { release, slot, tries, .. }, Event::NotArmed) => {
            Phase::Staged { release, slot, tries: tries.saturating_sub(1) }
        }
        (Phase::Trying { release, slot, .. }, Event::Passed) => Phase::Good { release, slot },
        (Phase::Trying { release, slot, .. }, Event::Failed { reason, at }) => {
            new.refuse(release.version);
            new.ended(release.version, slot, Ending::Failed, reason, at);
            Phase::Idle {}
        }
        (Phase::Trying { release, slot, tries, .. }, Event::FellBack { .. }) if tries < MAX_TRIES => {
            Phase::Staged { release, slot, tries }
        }
        (Phase::Trying { release, slot, tries, .. }, Event::FellBack { at }) => {
            let reason = format!("it was to be tried {tries} times, and no try said how it went");
            new.refuse(release.version);
            new.ended(release.version, slot, Ending::Failed, reason, at);
            Phase::Idle {}
        }
        (Phase::Good { release, slot }, Event::Committed { at }) => {
            new.kept(&release, slot, "it was tried and is well", at);
            Phase::Idle {}
        }
        (Phase::Good { release, slot }, Event::WentBack { at }) => {
            new.kept(&release, slot, "it ran before, was gone back to, and is well", at);
            Phase::Idle {}
        }
        // Not by way of `staged`: what somebody asked for is in one write on the disk, with what is left by it.
        (Phase::Idle {}, Event::Back { release, slot, left, boot_id }) => {
            new.refused.retain(|version| *version != release.version);
            new.refuse(left);
            Phase::Trying { release, slot, boot_id, tries: 1 }
        }
        (Phase::Idle {}, Event::NotStarting { version, slot, reason, at }) => {
            new.ended(version, slot, Ending::Failed, reason, at);
            Phase::Idle {}
        }
        (
            phase @ (Phase::Idle {} | Phase::Staging { .. } | Phase::Staged { .. }),
            Event::Allowed { version },
        ) => {
            new.refused.retain(|refused| *refused != version);
            phase
        }
        _ => return Err(impossible),
    };
    Ok(new)
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
    /// The slot that is being tried is the one that boots already, which only a gate that was passed makes it: commit it.
    Passed,
    /// The machine came back with the old system.
    FellBack,
    /// Make the slot the one that boots; restart into it when it does not run.
    Commit,
    /// The slot that would be written is the one that runs.
    Drop,
    /// This is a try that did not pass, or of which nothing is known: restart into the old system.
    Leave,
}

/// Decides it, from what was kept, what was booted, and the slot that boots when nobody asks for a try.
///
/// A system that is only being tried and of which nothing is known is left: by a restart, which needs nothing to be kept.
#[must_use]
pub fn first(state: &State, booted: Booted, default: Slot, boot_id: &str) -> Step {
    let on_trial = booted.tried && default != booted.slot;
    match &state.phase {
        Phase::Trying { slot, .. } if *slot == booted.slot && *slot == default => Step::Passed,
        Phase::Trying { slot, .. } if *slot == booted.slot => Step::Gate,
        Phase::Good { slot, .. } if *slot == booted.slot => Step::Commit,
        _ if on_trial => Step::Leave,
        Phase::Idle {} => Step::Nothing,
        Phase::Staging { slot, .. } | Phase::Staged { slot, .. } if *slot == booted.slot => Step::Drop,
        Phase::Staging { .. } => Step::Stage,
        Phase::Staged { .. } => Step::Try,
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
        Self {
            version: VERSION,
            phase: Phase::Idle {},
            floor,
            seed,
            history: Vec::new(),
            refused: Vec::new(),
            source: None,
        }
    }

    /// That of a device whose own could not be read: nothing below what runs is installed.
    #[must_use]
    pub fn lost(seed: [u8; 32], running: Version, slot: Slot, why: &str, at: u64) -> Self {
        let mut state = Self::new(seed, running);
        let reason = format!("what was kept of updates could not be read ({why}), and was begun anew");
        state.ended(running, slot, Ending::Lost, reason, at);
        state
    }

    /// How the last update ended.
    #[must_use]
    pub fn last(&self) -> Option<&Outcome> {
        self.history.last()
    }

    fn ended(&mut self, version: Version, slot: Slot, ending: Ending, mut reason: String, at: u64) {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        let source = self.source.take();
        self.history.push(Outcome { version, slot, ending, reason, at, source });
        let surplus = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..surplus);
    }

    /// A release boots from now on.
    fn kept(&mut self, release: &Release, slot: Slot, reason: &str, at: u64) {
        self.floor = self.floor.max(release.min_version);
        self.refused.retain(|version| *version != release.version);
        self.ended(release.version, slot, Ending::Installed, reason.to_owned(), at);
    }

    fn refuse(&mut self, version: Version) {
        self.refused.retain(|refused| *refused != version);
        self.refused.push(version);
        let surplus = self.refused.len().saturating_sub(MAX_REFUSED);
        self.refused.drain(..surplus);
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
        let state: Self = serde_json::from_str(unseal(bytes)?).map_err(|error| error.to_string())?;
        if state.version != VERSION {
            return Err(format!("it has version {}, and this program reads {VERSION}", state.version));
        }
        if state.seed.len() != 64 || hex::decode(&state.seed).is_err() {
            return Err("its seed is not 32 bytes in hex".to_owned());
        }
        if state.refused.len() > MAX_REFUSED {
            return Err(format!("it refuses {} versions, more than {MAX_REFUSED}", state.refused.len()));
        }
        if state.history.len() > MAX_HISTORY {
            return Err(format!("it has {} outcomes, more than {MAX_HISTORY}", state.history.len()));
        }
        Ok(state)
    }

    /// As it is written: one line, and its seal.
    ///
    /// # Errors
    /// Never for a state of this module.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let line = serde_json::to_string(self).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(seal(&line))
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
