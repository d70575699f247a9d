//! The service: what is done when, and that it is on disk first.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lucid_release_format::{Index, Kind, Release, Verdict, Version};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    boot::{self, BootControl, Slot},
    disk::{Device, Disk},
    error::{At as _, Error, Result},
    files::Store,
    gate::{self, Check},
    have::Have,
    source::Source,
    stage::{self, Progress, Target},
    state::{self, Ending, Event, Outcome, Phase, State, Step, first, next},
    trust::{self, Memory, Offer, Offers, Standing, Trust},
};

/// The parts of a slot.
pub const KINDS: [Kind; 2] = [Kind::Boot, Kind::Root];
/// Somebody's wish, in the state's directory: `check` or `apply`.
pub const REQUEST: &str = "request";
/// How far staging is, in the directory for what is lost at power-off.
pub const PROGRESS: &str = "progress.json";
/// A wish is looked for so often.
const GLANCE: Duration = Duration::from_secs(2);
/// After a failure it is tried again after so long, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(60);
/// The progress is told so often.
const TELL: Duration = Duration::from_secs(2);

/// Opens the slots' partitions.
pub trait Slots: Send + Sync {
    /// One of them.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    fn open(&self, slot: Slot, kind: Kind, write: bool) -> Result<Arc<dyn Disk>>;
}

/// Partitions of this machine.
#[derive(Clone, Debug)]
pub struct Partitions {
    /// Those whose files were given.
    pub given: HashMap<String, PathBuf>,
    /// The disk on which the others are.
    pub disk: Option<PathBuf>,
    /// Where the kernel shows them (`/sys/class/block`).
    pub sys: PathBuf,
}

impl Partitions {
    /// The device file of a partition.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        match (self.given.get(name), &self.disk) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(disk)) => boot::partition(&self.sys, Some(disk), name),
            (None, None) => {
                let place = "because no disk is given".to_owned();
                Err(Error::NoPartition { name: name.to_owned(), place })
            }
        }
    }
}

impl Slots for Partitions {
    fn open(&self, slot: Slot, kind: Kind, write: bool) -> Result<Arc<dyn Disk>> {
        let path = self.path(&slot.partition(kind))?;
        Ok(Arc::new(if write { Device::write(&path)? } else { Device::read(&path)? }))
    }
}

/// What this device is, and how it is to be kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its kind.
    pub machine: String,
    /// The channel that its owner follows.
    pub channel: String,
    /// What runs.
    pub running: Version,
    /// A new system has to be well within this time.
    pub within: Duration,
    /// How often a source is asked.
    pub every: Duration,
    /// Whether what is staged is tried at once, without anybody asking.
    pub automatic: bool,
    /// The directory of wishes.
    pub requests: PathBuf,
    /// The directory for what is lost at power-off.
    pub run: PathBuf,
}

/// What the service works with.
pub struct Parts {
    /// Files that are kept.
    pub store: Arc<dyn Store>,
    /// The firmware.
    pub boot: Arc<dyn BootControl>,
    /// The slots.
    pub slots: Arc<dyn Slots>,
    /// What is believed.
    pub trust: Trust,
    /// Who is asked, in this order, until one is well.
    pub sources: Vec<Arc<dyn Source>>,
    /// What a new system has to pass.
    pub checks: Vec<Box<dyn Check>>,
    /// What this device is.
    pub settings: Settings,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Yes.
    On,
    /// The machine restarts: nothing more is to be done.
    Restart,
}

/// A release that may be taken, and from where.
pub struct Chosen {
    offers: Offers,
    number: usize,
    source: Arc<dyn Source>,
}

impl Chosen {
    fn offer(&self) -> &Offer {
        &self.offers.releases[self.number]
    }

    /// Its description.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.offer().release
    }
}

/// What a source offers, for people.
pub struct Looked {
    /// What may be taken.
    pub chosen: Option<Chosen>,
    /// All releases with what is said to them, the newest first.
    pub verdicts: Vec<(Version, String)>,
}

/// The service at work. Whoever has it has locked the directory of its state.
pub struct Service {
    parts: Parts,
    state: State,
    memory: Memory,
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Service {
    /// Reads what is kept. What cannot be read is begun anew, and that is said.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(parts: Parts) -> Result<Self> {
        let running = parts.settings.running;
        let fresh = || -> Result<State> {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)
                .map_err(|error| Error::Internal(format!("no random bytes: {error}")))?;
            Ok(State::new(seed, running))
        };
        let state = match State::load(&*parts.store)? {
            state::Kept::State(state) => *state,
            state::Kept::Nothing => {
                let state = fresh()?;
                state.save(&*parts.store)?;
                state
            }
            state::Kept::Lost(why) => {
                tracing::error!("what was kept of updates cannot be read ({why}): it is begun anew");
                let mut state = fresh()?;
                let reason =
                    format!("what was kept of updates could not be read ({why}), and was begun anew");
                state.last = Some(Outcome { version: running, ending: Ending::Dropped, reason, at: now() });
                state.save(&*parts.store)?;
                state
            }
        };
        let memory = match Memory::load(&*parts.store)? {
            trust::Kept::Memory(memory) => memory,
            trust::Kept::Nothing => Memory::default(),
            trust::Kept::Lost(why) => {
                tracing::error!(
                    "what was remembered of releases cannot be read ({why}): it begins again with the image's root"
                );
                Memory::default()
            }
        };
        Ok(Self { parts, state, memory })
    }

    /// What is being done.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes an event to its end: the state that follows is on disk when this is done.
    fn take(&mut self, event: Event) -> Result<()> {
        let new = next(&self.state, event)?;
        new.save(&*self.parts.store)?;
        self.state = new;
        Ok(())
    }

    /// Does what the last life of the service, or of the machine, left to be done.
    ///
    /// # Errors
    /// When the disk or the firmware fails.
    pub async fn start(&mut self) -> Result<After> {
        let boot = self.parts.boot.clone();
        let (booted, boot_id) = (boot.booted()?, boot.boot_id()?);
        let step = first(&self.state, booted, &boot_id, self.parts.settings.running);
        let about = self.state.phase.about().map(|(release, slot)| (release.version, slot));
        match (step, about) {
            (Step::Leave, _) => {
                boot.restart()?;
                Ok(After::Restart)
            }
            (Step::Drop, _) => {
                let reason = "the slot that it was to be written into is the one that runs".to_owned();
                self.take(Event::Dropped { reason, at: now() })?;
                Ok(After::On)
            }
            (Step::Arm, Some((_, slot))) => self.arm(slot),
            (Step::Gate, Some((version, _))) => {
                tracing::info!("{version} is being tried");
                match gate::pass(&self.parts.checks, self.parts.settings.within).await {
                    Ok(()) => {
                        tracing::info!("{version} is well, and is kept");
                        self.take(Event::Passed { at: now() })?;
                        self.commit()
                    }
                    Err(unwell) => {
                        tracing::error!("{version} is not well ({unwell}): back to the old system");
                        self.take(Event::Failed { reason: unwell.to_string(), at: now() })?;
                        boot.restart()?;
                        Ok(After::Restart)
                    }
                }
            }
            (Step::FellBack, _) => {
                let reason = "the machine came back with the old system: the new one did not start, or power was cut \
                              while it was tried";
                tracing::error!("{reason}");
                self.take(Event::Failed { reason: reason.to_owned(), at: now() })?;
                Ok(After::On)
            }
            (Step::Commit, _) => self.commit(),
            (Step::Nothing | Step::Stage | Step::Try | Step::Arm | Step::Gate, _) => Ok(After::On),
        }
    }

    /// Lets the slot that passed be the one that boots. Doing it again does no harm.
    fn commit(&mut self) -> Result<After> {
        let Phase::Good { slot, .. } = self.state.phase else { return Ok(After::On) };
        let booted = self.parts.boot.booted()?;
        self.parts.boot.set_default(slot)?;
        self.take(Event::Committed)?;
        if booted.slot == slot {
            return Ok(After::On);
        }
        // Power was cut after it had passed: the old system runs, and the new one is what is to run.
        self.parts.boot.restart()?;
        Ok(After::Restart)
    }

    fn arm(&mut self, slot: Slot) -> Result<After> {
        if let Err(error) = self.parts.boot.arm(slot) {
            self.take(Event::Failed { reason: error.to_string(), at: now() })?;
            return Err(error);
        }
        self.parts.boot.restart()?;
        Ok(After::Restart)
    }

    /// Restarts the machine into what is staged, once.
    ///
    /// # Errors
    /// When nothing is staged, or the firmware cannot be told.
    pub fn try_staged(&mut self) -> Result<After> {
        let Phase::Staged { slot, .. } = self.state.phase else {
            return Err(Error::Nothing("nothing is staged that could be tried".to_owned()));
        };
        let boot_id = self.parts.boot.boot_id()?;
        self.take(Event::Armed { boot_id })?;
        self.arm(slot)
    }

    /// Asks the sources what there is. What was learnt is kept before anything of it is used.
    ///
    /// # Errors
    /// When no source gives metadata that is believed: that of the last one.
    pub async fn look(&mut self) -> Result<Looked> {
        let mut failed = Error::Nothing("no source is given: see --source".to_owned());
        for source in self.parts.sources.clone() {
            let cycle = self.parts.trust.ask(&self.memory, source.clone()).await?;
            for note in &cycle.notes {
                tracing::warn!("{}: {note}", source.name());
            }
            if cycle.memory != self.memory {
                cycle.memory.save(&*self.parts.store)?;
                self.memory = cycle.memory;
            }
            match cycle.offers {
                Ok(offers) => {
                    for (name, why) in &offers.passed_over {
                        tracing::warn!("{name} is passed over: {why}");
                    }
                    return Ok(self.choose(offers, source));
                }
                Err(refused) => {
                    tracing::warn!("{}: {refused}", source.name());
                    failed = refused.into();
                }
            }
        }
        Err(failed)
    }

    fn verdict(&self, release: &Release) -> (bool, String) {
        let Settings { machine, channel, running, .. } = &self.parts.settings;
        let place = release.place(&self.state.seed());
        let verdict = release.applies(machine, channel, *running, self.state.floor, place, now());
        if verdict != Verdict::Takes {
            return (false, verdict.to_string());
        }
        if self.state.refused.contains(&release.version) {
            return (false, "it was tried and did not pass; `lucid-updated apply` tries it again".to_owned());
        }
        (true, verdict.to_string())
    }

    fn choose(&self, offers: Offers, source: Arc<dyn Source>) -> Looked {
        let mut number = None;
        let mut verdicts = Vec::new();
        for (at, offer) in offers.releases.iter().enumerate() {
            let (takes, words) = self.verdict(&offer.release);
            if takes && number.is_none() {
                number = Some(at);
            }
            verdicts.push((offer.release.version, words));
        }
        Looked { chosen: number.map(|number| Chosen { offers, number, source }), verdicts }
    }

    /// Writes a release that was chosen into the other slot, or goes on with it.
    ///
    /// # Errors
    /// When a source or the disk fails: it goes on from there the next time.
    pub async fn stage(&mut self, chosen: &Chosen) -> Result<()> {
        let offer = chosen.offer();
        if matches!(&self.state.phase, Phase::Staged { release, .. } if *release == offer.release) {
            return Ok(());
        }
        let index = chosen.offers.index(offer).await?;
        self.write(&offer.release, &index, &offer.archive, &*chosen.source).await
    }

    /// Writes a release whose index is believed.
    ///
    /// # Errors
    /// As [`Service::stage`].
    pub async fn write(
        &mut self,
        release: &Release,
        index: &Index,
        archive: &str,
        source: &dyn Source,
    ) -> Result<()> {
        let (booted, default) = (self.parts.boot.booted()?, self.parts.boot.default()?);
        if booted.slot != default {
            let words = "the system that runs is only being tried, and the other slot is the one to fall back to: \
                         nothing is written before a restart";
            return Err(Error::Nothing(words.to_owned()));
        }
        let slot = booted.slot.other();
        let mut targets = Vec::new();
        for kind in KINDS {
            let disk = self.parts.slots.open(slot, kind, true)?;
            targets.push(Target { kind, name: slot.partition(kind), disk });
        }
        stage::check_room(index, &targets)?;
        let goes_on = matches!(&self.state.phase, Phase::Staging { release: old, slot: into }
            if old == release && *into == slot);
        if !goes_on {
            self.take(Event::Begin { release: release.clone(), slot })?;
        }
        tracing::info!("{} goes into slot {}", release.version, slot.name());
        let slots = self.parts.slots.clone();
        let cutting = tokio::task::spawn_blocking(move || {
            let mut have = Have::new();
            // What runs first: it is read-only, and stays.
            for (slot, kind) in
                [booted.slot, slot].into_iter().flat_map(|slot| KINDS.map(|kind| (slot, kind)))
            {
                have.cut(&slot.partition(kind), slots.open(slot, kind, false)?)?;
            }
            Ok::<_, Error>(have)
        });
        let mut have = cutting.await.map_err(|error| Error::Internal(error.to_string()))??;
        let told = self.parts.settings.run.join(PROGRESS);
        let mut last: Option<Instant> = None;
        let mut tell = |progress: Progress| {
            if last.is_none_or(|last| last.elapsed() >= TELL) {
                last = Some(Instant::now());
                write_progress(&told, &progress);
                tracing::info!("{} of {} bytes are in their places", progress.done, progress.total);
            }
        };
        let written = stage::write(index, archive, &targets, &mut have, source, &mut tell).await;
        if let Err(error) = fs::remove_file(&told)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("removing {}: {error}", told.display());
        }
        let progress = written?;
        tracing::info!(
            "{} is staged: {} bytes were there, {} were copied, {} were fetched",
            release.version,
            progress.kept,
            progress.copied,
            progress.fetched
        );
        self.take(Event::Written)
    }

    /// One look at the sources, and what follows from it.
    ///
    /// # Errors
    /// When something failed that the next round may do better.
    pub async fn round(&mut self, asked: Option<Asked>) -> Result<After> {
        if asked == Some(Asked::Apply) {
            // Who asks for it wants it tried again.
            for version in self.state.refused.clone() {
                self.take(Event::Allowed { version })?;
            }
        }
        let looked = self.look().await?;
        for (version, words) in &looked.verdicts {
            tracing::info!("{version}: {words}");
        }
        let about = self.state.phase.about().map(|(release, _)| release.version);
        if let Some(version) = about {
            // What is not offered any more, or is stopped, is not tried.
            let taken = looked.chosen.as_ref().is_some_and(|chosen| chosen.release().version >= version);
            if !taken {
                let words = looked.verdicts.iter().find(|(other, _)| *other == version);
                let reason = words.map_or_else(|| "it was withdrawn".to_owned(), |(_, words)| words.clone());
                tracing::warn!("{version} is given up: {reason}");
                self.take(Event::Dropped { reason, at: now() })?;
            }
        }
        let Some(chosen) = looked.chosen else { return Ok(After::On) };
        if asked == Some(Asked::Check) && !self.parts.settings.automatic {
            tracing::info!("{} can be taken", chosen.release().version);
        }
        self.stage(&chosen).await?;
        if self.parts.settings.automatic || asked == Some(Asked::Apply) {
            return self.try_staged();
        }
        tracing::info!("{} is ready: `lucid-updated apply` restarts into it", chosen.release().version);
        Ok(After::On)
    }

    /// Runs until it is told to stop, or the machine restarts.
    ///
    /// # Errors
    /// When it cannot begin.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = pin!(stop);
        // Before the gate, which may wait until all services have started.
        if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
            tracing::warn!("telling the service manager: {error}");
        }
        let mut after = tokio::select! {
            () = &mut stop => return Ok(()),
            after = self.start() => after?,
        };
        let (mut wait, mut failures) = (Duration::from_secs(5), 0_u32);
        while after == After::On {
            let every = self.parts.settings.every;
            let round = async {
                let asked = wish(&self.parts.settings.requests, wait).await;
                // Without a source there is nothing to look at, unless somebody asks, who is told so.
                if self.parts.sources.is_empty() && asked.is_none() {
                    return Ok(After::On);
                }
                self.round(asked).await
            };
            let done = tokio::select! {
                () = &mut stop => return Ok(()),
                done = round => done,
            };
            (after, wait) = match done {
                Ok(after) => {
                    failures = 0;
                    (after, every + jitter(every))
                }
                Err(error) => {
                    let wait = AGAIN.saturating_mul(1 << failures.min(10)).min(every);
                    tracing::error!("{error}; it is tried again in {} s", wait.as_secs());
                    failures += 1;
                    (After::On, wait)
                }
            };
        }
        tracing::info!("the machine restarts");
        stop.await;
        Ok(())
    }
}

/// Up to an eighth of it, so that devices do not come all at once.
fn jitter(every: Duration) -> Duration {
    let mut byte = [0];
    match getrandom::fill(&mut byte) {
        Ok(()) => every / 8 * u32::from(byte[0]) / 255,
        Err(_) => Duration::ZERO,
    }
}

fn write_progress(path: &Path, progress: &Progress) {
    let written =
        serde_json::to_vec(progress).map_err(io::Error::other).and_then(|bytes| fs::write(path, bytes));
    if let Err(error) = written {
        tracing::warn!("writing {}: {error}", path.display());
    }
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To look, and to stage what there is.
    Check,
    /// To restart into it as well.
    Apply,
}

impl Asked {
    fn word(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Apply => "apply",
        }
    }
}

/// Leaves a wish for the service that runs.
///
/// # Errors
/// When it cannot be written.
pub fn ask(requests: &Path, asked: Asked) -> Result<()> {
    let path = requests.join(REQUEST);
    fs::write(&path, asked.word()).at("writing", &path)
}

/// Waits so long, or until somebody wants something.
async fn wish(requests: &Path, wait: Duration) -> Option<Asked> {
    let (path, since) = (requests.join(REQUEST), Instant::now());
    loop {
        if let Ok(word) = fs::read_to_string(&path) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::error!("removing {}: {error}", path.display());
                return None;
            }
            match word.trim() {
                "check" => return Some(Asked::Check),
                "apply" => return Some(Asked::Apply),
                other => tracing::warn!("nobody knows what {other:?} means in {}", path.display()),
            }
        }
        let left = wait.saturating_sub(since.elapsed());
        if left.is_zero() {
            return None;
        }
        sleep(left.min(GLANCE)).await;
    }
}

/// All that is known, from what is on disk.
#[derive(Debug, Serialize)]
pub struct Status {
    /// What runs.
    pub running: Version,
    /// In which slot.
    pub slot: Slot,
    /// Whether it is only being tried.
    pub tried: bool,
    /// What is being done.
    pub phase: Phase,
    /// How far that is.
    pub progress: Option<serde_json::Value>,
    /// Nothing below it is installed.
    pub floor: Version,
    /// How the last update ended.
    pub last: Option<Outcome>,
    /// Tried, and did not pass.
    pub refused: Vec<Version>,
    /// What is believed.
    pub trust: Standing,
    /// What of this could not be read.
    pub troubles: Vec<String>,
}

impl Status {
    /// Reads it. Nothing is changed, and the service may be running.
    ///
    /// # Errors
    /// When the disk fails, or the image's root is none.
    pub fn read(
        store: &dyn Store,
        boot: &dyn BootControl,
        trust: &Trust,
        running: Version,
        run: &Path,
    ) -> Result<Self> {
        let mut troubles = Vec::new();
        let state = match State::load(store)? {
            state::Kept::State(state) => *state,
            state::Kept::Nothing => State::new([0; 32], running),
            state::Kept::Lost(why) => {
                troubles.push(format!("{}: {why}", state::FILE));
                State::new([0; 32], running)
            }
        };
        let memory = match Memory::load(store)? {
            trust::Kept::Memory(memory) => memory,
            trust::Kept::Nothing => Memory::default(),
            trust::Kept::Lost(why) => {
                troubles.push(format!("{}: {why}", trust::FILE));
                Memory::default()
            }
        };
        let booted = boot.booted()?;
        let progress = match fs::read(run.join(PROGRESS)) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            Err(_) => None,
        };
        Ok(Self {
            running,
            slot: booted.slot,
            tried: booted.tried,
            phase: state.phase,
            progress,
            floor: state.floor,
            last: state.last,
            refused: state.refused,
            trust: trust.standing(&memory)?,
            troubles,
        })
    }

    /// In words, a line for each thing.
    #[must_use]
    pub fn words(&self) -> String {
        let tried = if self.tried { ", which is only being tried" } else { "" };
        let mut lines = vec![format!("runs {} in slot {}{tried}", self.running, self.slot.name())];
        lines.push(match &self.phase {
            Phase::Idle {} => "nothing is being installed".to_owned(),
            Phase::Staging { release, slot } => {
                format!("{} is being written into slot {}", release.version, slot.name())
            }
            Phase::Staged { release, slot } => {
                format!("{} is in slot {} and has not been tried", release.version, slot.name())
            }
            Phase::Trying { release, slot, .. } => {
                format!("{} is being tried in slot {}", release.version, slot.name())
            }
            Phase::Good { release, slot } => {
                format!("{} in slot {} is well and becomes the one that boots", release.version, slot.name())
            }
        });
        if let Some(progress) = &self.progress {
            lines.push(format!("{} of {} bytes are in their places", progress["done"], progress["total"]));
        }
        if let Some(last) = &self.last {
            let ending = match last.ending {
                Ending::Installed => "was installed",
                Ending::Failed => "did not pass",
                Ending::Dropped => "was given up",
            };
            lines.push(format!("{} {ending}: {}", last.version, last.reason));
        }
        lines.push(format!("nothing below {} is installed", self.floor));
        if !self.refused.is_empty() {
            let versions: Vec<String> = self.refused.iter().map(Version::to_string).collect();
            lines.push(format!("not tried again by itself: {}", versions.join(", ")));
        }
        let Standing { root, root_expires, development, timestamp, checked } = &self.trust;
        let development = if *development { " (for development)" } else { "" };
        lines.push(format!("believes root {root}{development}, which expires {root_expires}"));
        if let Some((version, expires)) = timestamp {
            lines.push(format!("the newest timestamp seen is {version}, which expires {expires}"));
        }
        let never = "no source has been well yet".to_owned();
        lines.push(checked.as_ref().map_or(never, |at| format!("a source was well last at {at}")));
        lines.extend(self.troubles.iter().map(|trouble| format!("could not be read: {trouble}")));
        lines.join("\n")
    }
}
