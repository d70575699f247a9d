//! What is known, for people and for other programs.

use std::path::Path;

use lucid_release_format::Version;
use serde::{Deserialize, Serialize};

use super::{Cause, Planned, Service};
use crate::{
    boot::{Booted, Slot},
    error::Result,
    files::{Folder, Store},
    peak, schedule,
    stage::Progress,
    state::{self, Ending, Outcome, Phase, State},
    trust::{self, Memory, Standing, Trust},
};

/// The file in which the service says it, in the directory for what is lost at power-off.
pub const STATUS: &str = "status.json";
/// What is wrong where nobody does what the files say is being done.
const NOT_RUNNING: &str = "the service is not running";
/// What a restart waits for where no source says whether what is staged was withdrawn.
const UNASKED: &str = "the restart waits: no source can be asked whether what is staged was withdrawn; \
                       `lucid-updated apply` restarts all the same";
/// The most bytes of it that are read.
const MAX_BYTES: u64 = 1 << 20;

/// All that is known.
#[derive(Debug, Serialize)]
pub struct Status {
    /// What runs.
    pub running: Version,
    /// In which slot.
    pub slot: Slot,
    /// Whether the firmware started it as a try.
    pub tried: bool,
    /// What is being done.
    pub phase: Phase,
    /// From where that comes.
    pub source: Option<String>,
    /// What set the last look at the sources off.
    pub cause: Option<Cause>,
    /// How far that is.
    pub progress: Option<Progress>,
    /// For what a restart waits.
    pub waiting: Option<String>,
    /// Nothing below it is installed.
    pub floor: Version,
    /// How updates ended, the newest last.
    pub history: Vec<Outcome>,
    /// Tried, and did not pass, or left by going back.
    pub refused: Vec<Version>,
    /// When what will be done; nothing is said where the service does not run.
    pub planned: Option<Planned>,
    /// What is believed, where that can be said.
    pub trust: Option<Standing>,
    /// The most memory that the service has had, in bytes.
    pub memory_peak: Option<u64>,
    /// What is not as it should be.
    pub troubles: Vec<String>,
}

/// What only the service knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    planned: Option<Planned>,
    cause: Option<Cause>,
    progress: Option<Progress>,
    waiting: Option<String>,
    memory_peak: Option<u64>,
    troubles: Vec<String>,
}

/// Reads what is kept, or what is so without it, and what is wrong with it.
fn kept(store: &dyn Store, running: Version) -> Result<(State, Memory, Vec<String>)> {
    let mut troubles = Vec::new();
    let mut lost = |file: &str, why: String| troubles.push(format!("{file} cannot be read: {why}"));
    let state = match State::load(store)? {
        state::Kept::State(state) => *state,
        state::Kept::Nothing => State::new([0; 32], running),
        state::Kept::Lost(why) => {
            lost(state::FILE, why);
            State::new([0; 32], running)
        }
    };
    let memory = match Memory::load(store)? {
        trust::Kept::Memory(memory) => memory,
        trust::Kept::Nothing => Memory::default(),
        trust::Kept::Lost(why) => {
            lost(trust::FILE, why);
            Memory::default()
        }
    };
    Ok((state, memory, troubles))
}

/// How updates ended, from what is on disk, the newest last.
///
/// # Errors
/// When the disk fails, or what was kept cannot be read.
pub fn history(store: &dyn Store) -> Result<Vec<Outcome>> {
    match State::load(store)? {
        state::Kept::State(state) => Ok(state.history),
        state::Kept::Nothing => Ok(Vec::new()),
        state::Kept::Lost(why) => Err(crate::Error::Invalid { path: state::FILE.into(), why }),
    }
}

impl Outcome {
    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let ending = match self.ending {
            Ending::Installed => "was installed",
            Ending::Failed => "did not pass",
            Ending::Dropped => "was given up",
            Ending::Lost => "goes on without what was known",
        };
        let source = self.source.as_ref().map(|source| format!(" (from {source})")).unwrap_or_default();
        format!("{} in slot {} {ending}: {}{source}", self.version, self.slot.name(), self.reason)
    }
}

impl Status {
    fn of(state: &State, memory: &Memory, booted: Booted, trust: &Trust, running: Version) -> Self {
        let mut troubles = Vec::new();
        let standing = match trust.standing(memory) {
            Ok(standing) => Some(standing),
            Err(error) => {
                troubles.push(error.to_string());
                None
            }
        };
        Self {
            running,
            slot: booted.slot,
            tried: booted.tried,
            phase: state.phase.clone(),
            source: state.source.clone(),
            cause: None,
            progress: None,
            waiting: None,
            floor: state.floor,
            history: state.history.clone(),
            refused: state.refused.clone(),
            planned: None,
            trust: standing,
            memory_peak: None,
            troubles,
        }
    }

    /// Reads it from what is on disk. Nothing is changed, and the service may be running; where it is not, nothing is under way,
    /// and that is said.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(
        store: &dyn Store,
        booted: Booted,
        trust: &Trust,
        running: Version,
        run: &Path,
    ) -> Result<Self> {
        let (state, memory, mut troubles) = kept(store, running)?;
        let mut status = Self::of(&state, &memory, booted, trust, running);
        let folder = Folder::of(run.to_owned());
        let runs = folder.locked()?;
        if !runs {
            troubles.push(NOT_RUNNING.to_owned());
        }
        let told = folder.read(STATUS, MAX_BYTES)?;
        let told = told.map_or_else(
            || Ok(Told::default()),
            |bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        );
        match told {
            Ok(Told { planned, cause, progress, waiting, memory_peak, troubles: others }) => {
                status.planned = planned.filter(|_| runs);
                status.cause = cause.filter(|_| runs);
                status.progress = progress.filter(|_| runs && matches!(state.phase, Phase::Staging { .. }));
                status.waiting = waiting.filter(|_| runs && matches!(state.phase, Phase::Staged { .. }));
                status.memory_peak = memory_peak;
                troubles.extend(others);
            }
            Err(why) => troubles.push(format!("{} cannot be read: {why}", run.join(STATUS).display())),
        }
        for trouble in troubles {
            if !status.troubles.contains(&trouble) {
                status.troubles.push(trouble);
            }
        }
        Ok(status)
    }

    /// In words, a line for each thing.
    #[must_use]
    pub fn words(&self) -> String {
        let tried = if self.tried { ", started as a try" } else { "" };
        let mut lines = vec![format!("runs {} in slot {}{tried}", self.running, self.slot.name())];
        lines.push(match &self.phase {
            Phase::Idle {} => "nothing is being installed".to_owned(),
            Phase::Staging { release, slot } => {
                format!("{} is being written into slot {}", release.version, slot.name())
            }
            Phase::Staged { release, slot, tries: 0 } => {
                format!("{} is in slot {} and has not been tried", release.version, slot.name())
            }
            Phase::Staged { release, slot, tries } => format!(
                "{} is in slot {}, was to be tried {tries} times, of which no try said how it went, and is tried again",
                release.version,
                slot.name()
            ),
            Phase::Trying { release, slot, tries, .. } => {
                format!("{} is being tried in slot {} (try {tries})", release.version, slot.name())
            }
            Phase::Good { release, slot } => {
                format!("{} in slot {} is well and becomes the one that boots", release.version, slot.name())
            }
        });
        lines.extend(self.source.as_ref().map(|source| format!("it comes from {source}")));
        if let Some(progress) = &self.progress {
            lines.push(format!("{} of {} bytes are in their places", progress.done, progress.total));
        }
        lines.extend(self.waiting.clone());
        if let Some(Planned { offered: Some(offered), .. }) = &self.planned {
            let schedule::Offered { version, bytes, why } = offered;
            lines.push(format!(
                "{version} is there and is not fetched ({bytes} bytes at most): {why}; `lucid-updated apply` does it"
            ));
        }
        lines.extend(self.history.last().map(Outcome::words));
        lines.push(format!("nothing below {} is installed", self.floor));
        if !self.refused.is_empty() {
            let versions: Vec<String> = self.refused.iter().map(Version::to_string).collect();
            lines.push(format!("not tried again by itself: {}", versions.join(", ")));
        }
        if let Some(Standing { root, root_expires, development, timestamp, checked }) = &self.trust {
            let development = if *development { " (for development)" } else { "" };
            lines.push(format!("believes root {root}{development}, which expires {root_expires}"));
            if let Some((version, expires)) = timestamp {
                lines.push(format!("the newest timestamp seen is {version}, which expires {expires}"));
            }
            let never = "no source has been well yet".to_owned();
            lines.push(checked.as_ref().map_or(never, |at| format!("a source was well last at {at}")));
        }
        lines.extend(self.cause.map(|cause| {
            let why = match cause {
                Cause::Itself => "it was time for it",
                Cause::Request => "somebody asked for it",
                Cause::Stick => "a USB stick was plugged in",
            };
            format!("the last look at the sources: {why}")
        }));
        lines.extend(self.troubles.iter().map(|trouble| format!("trouble: {trouble}")));
        lines.join("\n")
    }
}

impl Service {
    /// All that is known now.
    ///
    /// # Errors
    /// When it cannot be read what was booted.
    pub fn status(&self) -> Result<Status> {
        let booted = self.parts.boot.booted()?;
        let running = self.parts.settings.system.version;
        let mut status = Status::of(&self.state, &self.memory, booted, &self.parts.trust, running);
        status.waiting = if self.unasked { Some(UNASKED.to_owned()) } else { self.waiting.clone() };
        status.cause = self.cause;
        let settings = &self.parts.settings;
        status.planned = Some(Planned {
            next_look: self.next_look,
            automatic: settings.automatic,
            metered: settings.metered,
            ground: settings.window,
            set: self.plan.get(),
            offered: self.offered.clone(),
            turn: self.turn,
        });
        status.memory_peak = peak::memory();
        status.troubles.extend(self.troubles.iter().map(|(about, why)| format!("{about}: {why}")));
        Ok(status)
    }

    /// Lets others see it. Where that fails nothing else is held up.
    pub(super) fn show(&self, progress: Option<Progress>) {
        let shown = self.status().and_then(|mut status| {
            status.progress = progress;
            if let Some(control) = &self.control {
                control.show(&status);
            }
            let bytes =
                serde_json::to_vec(&status).map_err(|error| crate::Error::Internal(error.to_string()))?;
            self.run.publish(STATUS, &bytes)
        });
        if let Err(error) = shown {
            tracing::warn!("the status cannot be shown: {error}");
        }
    }

    /// Remembers what is wrong with a thing, or that nothing is any more.
    pub(super) fn trouble(&mut self, about: &'static str, why: Option<String>) {
        match why {
            Some(why) => self.troubles.insert(about, why),
            None => self.troubles.remove(about),
        };
    }
}
