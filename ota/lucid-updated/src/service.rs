//! The service: what is done when, and that it is on disk first.
//!
//! In its directory for what is lost at power-off: `status.json` (what is known, for others), `request` (what somebody wants),
//! `judged` (this boot is no try, or was committed), `leaving` and `mended` (for its own later lives in this boot).

mod attempt;
mod look;
mod requests;
mod slots;
mod status;
mod write;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lucid_release_format::System;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

pub use self::{
    attempt::{JUDGED, LEAVING, MENDED, SPARE},
    look::{Chosen, Looked, Said},
    requests::{Asked, REQUEST, ask},
    slots::{KINDS, Partitions, Slots},
    status::{STATUS, Status, history},
};
use crate::{
    boot::BootControl,
    control::{self, Control},
    error::{Error, Result},
    files::{Folder, Store},
    gate::Check,
    source::Source,
    state::{self, Event, Phase, State, next},
    trust::{self, Memory, Trust},
    usb::{Plugged, Usb},
    when::{self, Window},
};

/// A wish, and whether a restart has to wait still, is looked for so often.
const GLANCE: Duration = Duration::from_secs(2);
/// The first look is so long after the start.
const FIRST: Duration = Duration::from_secs(5);
/// After a failure it is tried again after so long, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(60);

/// What this device is, and how it is to be kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What runs.
    pub system: System,
    /// The channel that its owner follows.
    pub channel: String,
    /// A new system has to be well within this time.
    pub within: Duration,
    /// How often the sources are asked.
    pub every: Duration,
    /// Whether what is staged is tried without anybody asking.
    pub automatic: bool,
    /// When the machine may restart by itself.
    pub window: Option<Window>,
    /// Where the RDP host says how many sessions there are; the machine does not restart by itself while there are any.
    pub sessions: Option<PathBuf>,
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
    /// Who is asked: all of them, in this order.
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
    /// The machine has to be restarted ([`Service::restart`]), and nothing else is to be done.
    Restart,
}

/// What set a look at the sources off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// It was time for it.
    Itself,
    /// Somebody asked for it.
    Request,
    /// A USB stick was plugged in.
    Stick,
}

/// The service at work. Whoever has it has locked its directory for what is lost at power-off.
pub struct Service {
    parts: Parts,
    run: Folder,
    state: State,
    memory: Memory,
    /// What is wrong, by what it is about.
    troubles: BTreeMap<&'static str, String>,
    /// Since when what is staged could be tried.
    ready: Option<Instant>,
    /// For what it waits.
    waiting: Option<String>,
    /// No source could be asked in the last round, and so what is staged was not tried.
    unasked: bool,
    judged: bool,
    /// Where USB sticks are sources too, and those that were seen.
    usb: Option<Usb>,
    sticks: Vec<Plugged>,
    /// What set the last look off.
    cause: Option<Cause>,
    /// The socket of others, while it is served.
    control: Option<Control>,
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A seed for a device that has none.
fn seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::Internal(format!("no random bytes: {error}")))?;
    Ok(seed)
}

impl Service {
    /// Reads what is kept. What cannot be read is begun anew, and that is said; but not by a system that is only being tried:
    /// what it cannot read, the old one may.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(parts: Parts) -> Result<Self> {
        let booted = parts.boot.booted()?;
        let on_trial = attempt::on_trial(&*parts.boot, booted);
        let (running, store) = (parts.settings.system.version, parts.store.clone());
        let mut troubles = BTreeMap::new();
        let kept = match State::load(&*store) {
            Err(error) if on_trial => state::Kept::Lost(error.to_string()),
            kept => kept?,
        };
        let (state, new) = match kept {
            state::Kept::State(state) => (*state, false),
            state::Kept::Nothing => (State::new(seed()?, running), true),
            state::Kept::Lost(why) => {
                tracing::error!("what was kept of updates cannot be read ({why}): it is begun anew");
                (State::lost(seed()?, running, booted.slot, &why, now()), true)
            }
        };
        if new && !on_trial {
            state.save(&*store)?;
        }
        let kept = match Memory::load(&*store) {
            Err(error) if on_trial => trust::Kept::Lost(error.to_string()),
            kept => kept?,
        };
        let memory = match kept {
            trust::Kept::Memory(memory) => memory,
            trust::Kept::Nothing => Memory::default(),
            trust::Kept::Lost(why) => {
                let why = format!("it cannot be read ({why}), and begins again with the image's root");
                tracing::error!("what was remembered of releases: {why}");
                troubles.insert(trust::FILE, why);
                Memory::default()
            }
        };
        let run = Folder::new(parts.settings.run.clone())?;
        let (ready, waiting, unasked, judged, control) = (None, None, false, false, None);
        let (usb, sticks, cause) = (None, Vec::new(), None);
        Ok(Self {
            parts,
            run,
            state,
            memory,
            troubles,
            ready,
            waiting,
            unasked,
            judged,
            usb,
            sticks,
            cause,
            control,
        })
    }

    /// The same, with USB sticks as sources.
    #[must_use]
    pub fn with_usb(self, usb: Usb) -> Self {
        Self { usb: Some(usb), ..self }
    }

    /// The same, with something that its owner is to know as long as it runs.
    #[must_use]
    pub fn with_trouble(mut self, about: &'static str, why: String) -> Self {
        self.trouble(about, Some(why));
        self
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
        self.show(None);
        Ok(())
    }

    /// One look at the sources, and what follows from it.
    ///
    /// # Errors
    /// When something failed that the next round may do better.
    pub async fn round(&mut self, asked: Option<Asked>) -> Result<After> {
        if matches!(self.state.phase, Phase::Trying { .. } | Phase::Good { .. }) {
            // The disk or the firmware failed before.
            return self.start().await;
        }
        if asked == Some(Asked::Apply) {
            // Who asks for it wants it tried again.
            for version in self.state.refused.clone() {
                self.take(Event::Allowed { version })?;
            }
        }
        let looked = match self.look_for(asked).await {
            Err(Error::NoStick) => return self.alone(asked),
            looked => looked?,
        };
        let Some(looked) = looked else { return self.try_staged() };
        for Said { version, words, .. } in &looked.said {
            tracing::info!("{version}: {words}");
        }
        self.withdraw(&looked)?;
        let Some(chosen) = looked.chosen else { return Ok(After::On) };
        let version = chosen.release().version;
        let written = self.stage(&chosen).await?;
        drop(chosen);
        if written {
            // That took its time: what was withdrawn meanwhile is not tried.
            let looked = match self.look_for(asked).await {
                Err(Error::NoStick) => return self.alone(asked),
                looked => looked?,
            };
            let Some(looked) = looked else { return self.try_staged() };
            self.withdraw(&looked)?;
            if matches!(self.state.phase, Phase::Idle {}) {
                return Ok(After::On);
            }
        }
        if asked == Some(Asked::Apply) || self.may_try() {
            return self.try_staged();
        }
        if !self.parts.settings.automatic {
            tracing::info!("{version} is ready: `lucid-updated apply` restarts into it");
        }
        Ok(After::On)
    }

    /// A round of a device without any source but USB sticks, when there is none. What was staged from one is tried all the same,
    /// for as long as what was believed then holds: nobody else could say that it was withdrawn.
    fn alone(&mut self, asked: Option<Asked>) -> Result<After> {
        if matches!(self.state.phase, Phase::Staged { .. }) {
            if asked == Some(Asked::Apply) {
                return self.try_staged();
            }
            self.unasked = !self.parts.trust.holds(&self.memory)?;
            if !self.unasked && self.may_try() {
                return self.try_staged();
            }
            self.show(None);
        }
        if let Phase::Staging { release, .. } = &self.state.phase {
            let version = release.version;
            let words =
                format!("{version} is in its slot in part: plug in a stick that has it, and it goes on");
            self.trouble("USB", Some(words));
        }
        // Who asks is told.
        if asked.is_some() { Err(Error::NoStick) } else { Ok(After::On) }
    }

    /// Whether a USB stick was plugged in since this was asked last.
    fn plugged(&mut self) -> bool {
        let Some(usb) = &self.usb else { return false };
        let there = match usb.there() {
            Ok(there) => there,
            Err(error) => {
                self.trouble("USB", Some(format!("looking for USB sticks: {error}")));
                return false;
            }
        };
        let new: Vec<String> =
            there.iter().filter(|stick| !self.sticks.contains(stick)).map(Plugged::name).collect();
        if there.is_empty() && !self.sticks.is_empty() {
            tracing::info!("no USB stick is plugged in any more");
            self.trouble("USB", None);
        }
        self.sticks = there;
        for name in &new {
            tracing::info!("{name} was plugged in");
        }
        !new.is_empty()
    }

    /// Whether what is staged may be tried now, without anybody asking.
    fn may_try(&mut self) -> bool {
        let settings = &self.parts.settings;
        let Phase::Staged { tries, .. } = self.state.phase else {
            (self.ready, self.waiting) = (None, None);
            return false;
        };
        if !settings.automatic {
            // Who asked for it before the power was cut has asked for it.
            return tries > 0;
        }
        let ready = self.ready.get_or_insert_with(Instant::now).elapsed();
        let sessions = settings.sessions.as_deref().map_or(Ok(0), when::sessions);
        let waiting = match when::may(settings.window, &sessions, ready, now()) {
            Ok(interrupts) => {
                if let Some(who) = interrupts {
                    tracing::warn!("the machine restarts although {who}");
                }
                None
            }
            Err(why) => Some(why),
        };
        if waiting != self.waiting {
            if let Some(why) = &waiting {
                tracing::info!("{why}");
            }
            self.waiting = waiting;
            self.show(None);
        }
        self.waiting.is_none()
    }

    /// Waits so long, or until somebody wants something, a USB stick is plugged in, or what is staged may be tried after all.
    async fn wait(&mut self, wait: Duration) -> (Cause, Option<Asked>) {
        let end = Instant::now() + wait;
        loop {
            if let Some(asked) = requests::taken(self.run.path()) {
                return (Cause::Request, Some(asked));
            }
            if self.plugged() {
                return (Cause::Stick, None);
            }
            // While no source can be asked, another round would end as the last one.
            if !self.unasked && self.waiting.is_some() && self.may_try() {
                return (Cause::Itself, None);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (Cause::Itself, None);
            }
            let glance = sleep(left.min(GLANCE));
            match &mut self.control {
                Some(control) => {
                    tokio::select! {
                        () = glance => {}
                        asked = control.wish() => return (Cause::Request, Some(asked)),
                    }
                }
                None => glance.await,
            }
        }
    }

    /// Serves the socket. Without it updates go on all the same.
    fn serve(&mut self) {
        let path = self.run.path().join(control::SOCKET);
        match self.status().map(|status| Control::open(&path, &status)) {
            Ok(Ok(control)) => self.control = Some(control),
            Ok(Err(error)) => tracing::error!("{error}; `lucidctl update` cannot ask"),
            Err(error) => tracing::error!("{error}; the control socket is not served"),
        }
    }

    /// A wish of the socket is done, if that is what was being done.
    fn answered(&mut self, failed: Option<String>) {
        if let Some(control) = &mut self.control {
            control.done(failed);
        }
    }

    /// Runs until it is told to stop; the machine may restart before. What fails is tried again.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        self.serve();
        match self.status() {
            Ok(Status { running, slot, tried, .. }) => {
                let tried = if tried { ", which is only being tried" } else { "" };
                tracing::info!("runs {running} in slot {}{tried}", slot.name());
            }
            Err(error) => tracing::warn!("looking what runs: {error}"),
        }
        // Before the gate, which may wait until all services have started.
        if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
            tracing::warn!("telling the service manager: {error}");
        }
        let stop = pin!(stop);
        tokio::select! { () = stop => {}, () = self.work() => {} }
    }

    /// Without an end: one round after the other.
    async fn work(&mut self) {
        let every = self.parts.settings.every;
        let (mut started, mut wait, mut failures) = (false, Duration::ZERO, 0_u32);
        loop {
            let (cause, asked) = self.wait(wait).await;
            let again = started;
            let mut done = if started { Ok(After::On) } else { self.start().await };
            if matches!(done, Ok(After::On)) {
                started = true;
                // Without a source there is nothing to look at, unless somebody asks, who is told so.
                let has_source = !self.parts.sources.is_empty() || self.usb.is_some();
                if cause != Cause::Itself || again && has_source {
                    self.cause = Some(cause);
                    done = self.round(asked).await;
                }
            }
            match done {
                Ok(After::Restart) => self.restart().await,
                Ok(After::On) => {
                    wait = if again { every + jitter(every) } else { FIRST };
                    failures = 0;
                    self.trouble("the last round", None);
                    self.answered(None);
                }
                Err(error) => {
                    wait = AGAIN.saturating_mul(1 << failures.min(10)).min(every);
                    tracing::error!("{error}; it is tried again in {} s", wait.as_secs());
                    failures += 1;
                    self.trouble("the last round", Some(error.to_string()));
                    self.answered(Some(error.to_string()));
                }
            }
            self.show(None);
        }
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
