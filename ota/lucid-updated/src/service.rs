//! The service: what is done when, and that it is on disk first.
//!
//! In its directory for what is lost at power-off: `status.json` (what is known, for others), `request` (what somebody wants),
//! `judged` (this boot is no try, or was committed), `leaving` and `mended` (for its own later lives in this boot).

mod attempt;
mod back;
mod failed;
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

use lucid_release_format::{System, Version};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::failed::armed;
pub use self::{
    attempt::{JUDGED, LEAVING, MENDED, SPARE},
    failed::{FAILED, LEFT, failed},
    look::{Chosen, Looked, Said},
    requests::{Asked, REQUEST, ask},
    slots::{KINDS, Partitions, Slots},
    status::{STATUS, Status, history},
};
use crate::{
    boot::BootControl,
    control::{self, Control},
    drain::{self, Drained},
    error::{Error, Result},
    files::{Folder, Store},
    gate::Check,
    held::{self, Holdings},
    journal::Journal,
    schedule::{self, Offered, Plan, Planned, Turn},
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
/// Sticks set off a round so often at most: one with a loose plug is another one whenever it comes back.
const STICKS: Duration = Duration::from_secs(60);
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
    /// The RDP host's control socket, by which people are told of a restart and sessions end before it.
    pub rdp: Option<PathBuf>,
    /// Whether fetching costs: releases are looked for, and fetched when somebody asks.
    pub metered: bool,
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
    /// What is kept of starts.
    pub journal: Arc<dyn Journal>,
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
    /// It was time for it, or what was set of when updates are made has changed.
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
    /// The patch with which, and after which, a source failed in the last run.
    hung: Option<String>,
    /// What the slots were said to hold.
    held: Holdings,
    /// What somebody set of when the machine updates itself.
    plan: Arc<Plan>,
    /// What is there and was not fetched.
    offered: Option<Offered>,
    /// For what this device's turn comes later.
    turn: Option<Turn>,
    /// When the sources are asked next, in seconds since 1970.
    next_look: Option<u64>,
    /// Where USB sticks are sources too, and those that were seen.
    usb: Option<Usb>,
    sticks: Vec<Plugged>,
    /// When one of them set off a round last, and whether another one waits for that.
    stick_round: Option<Instant>,
    stick_waits: bool,
    /// What set the last look off.
    cause: Option<Cause>,
    /// What the round is made for that is under way.
    asked: Option<Asked>,
    /// The socket of others, while it is served.
    control: Option<Control>,
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How the machine is left.
#[derive(Clone, Copy, Debug)]
struct Notice {
    /// How long people are told of a restart before it.
    time: Duration,
    /// Whether somebody asked for it: then what is set meanwhile of when the machine updates itself does not hold it up.
    asked: bool,
}

/// How it is left for what was asked.
fn notice(asked: Option<Asked>) -> Notice {
    let asked = asked == Some(Asked::Apply);
    Notice { time: if asked { drain::NOTICE_ASKED } else { drain::NOTICE }, asked }
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
        let (held, lost) = Holdings::load(&*store);
        if let Some(why) = lost {
            tracing::error!("{} cannot be read ({why}): it is not known what ran before", held::FILE);
            troubles.insert(held::FILE, format!("it cannot be read ({why}): the device cannot go back"));
        }
        let (plan, lost) = Plan::open(store);
        if let Some(why) = lost {
            tracing::error!("{} cannot be read ({why}): lucid.toml alone counts", schedule::FILE);
            troubles.insert(schedule::FILE, format!("it cannot be read ({why}): lucid.toml alone counts"));
        }
        Ok(Self {
            run: Folder::new(parts.settings.run.clone())?,
            parts,
            state,
            memory,
            troubles,
            ready: None,
            waiting: None,
            unasked: false,
            judged: false,
            hung: None,
            held,
            plan: Arc::new(plan),
            offered: None,
            turn: None,
            next_look: None,
            usb: None,
            sticks: Vec::new(),
            stick_round: None,
            stick_waits: false,
            cause: None,
            asked: None,
            control: None,
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
        self.asked = asked;
        if matches!(self.state.phase, Phase::Trying { .. } | Phase::Good { .. }) {
            // The disk or the firmware failed before.
            return self.start().await;
        }
        if asked == Some(Asked::Rollback) {
            return self.back().await;
        }
        self.miss_time()?;
        if self.goes_back() {
            // The power was cut in the try that somebody asked for. No source has to be asked about it.
            return self.leave(Notice { asked: true, ..notice(asked) }).await;
        }
        if asked == Some(Asked::Apply) {
            // Who asks for it wants it tried again.
            for version in self.state.refused.clone() {
                self.take(Event::Allowed { version })?;
            }
        }
        let notice = notice(asked);
        let looked = match self.look_for(asked).await {
            Err(Error::NoStick) => return self.alone(asked).await,
            looked => looked?,
        };
        let Some(looked) = looked else { return self.leave(notice).await };
        for Said { version, words, .. } in &looked.said {
            tracing::info!("{version}: {words}");
        }
        let turn = |said: &Said| said.turn.map(|at| Turn { version: said.version, at });
        self.turn = looked.said.iter().find_map(turn);
        self.withdraw(&looked)?;
        let Some(mut chosen) = looked.chosen else {
            self.offered = None;
            return Ok(After::On);
        };
        let version = chosen.release().version;
        let staged =
            matches!(&self.state.phase, Phase::Staged { release, .. } if release == chosen.release());
        let written = match self.held_back(asked, &mut chosen).filter(|_| !staged) {
            Some(why) => {
                self.offer(&chosen, why).await?;
                false
            }
            None => {
                self.offered = None;
                self.stage(&chosen).await?
            }
        };
        drop(chosen);
        if written {
            // That took its time: what was withdrawn meanwhile is not tried.
            let looked = match self.look_for(asked).await {
                Err(Error::NoStick) => return self.alone(asked).await,
                looked => looked?,
            };
            let Some(looked) = looked else { return self.leave(notice).await };
            self.withdraw(&looked)?;
            if matches!(self.state.phase, Phase::Idle {}) {
                return Ok(After::On);
            }
        }
        if asked == Some(Asked::Apply) || self.may_try() {
            return self.leave(notice).await;
        }
        if !self.parts.settings.automatic && matches!(self.state.phase, Phase::Staged { .. }) {
            tracing::info!("{version} is ready: `lucid-updated apply` restarts into it");
        }
        Ok(After::On)
    }

    /// A round of a device without any source but USB sticks, when there is none. What was staged from one is tried all the same,
    /// for as long as what was believed then holds: nobody else could say that it was withdrawn.
    async fn alone(&mut self, asked: Option<Asked>) -> Result<After> {
        self.offered = None;
        if asked != Some(Asked::Apply) {
            self.outgrow()?;
        }
        if matches!(self.state.phase, Phase::Staged { .. }) {
            if asked == Some(Asked::Apply) {
                return self.leave(notice(asked)).await;
            }
            self.unasked = !self.parts.trust.holds(&self.memory)?;
            if !self.unasked && self.may_try() {
                return self.leave(notice(asked)).await;
            }
            self.show(None);
        }
        if let Phase::Staging { release, .. } = &self.state.phase {
            let version = release.version;
            let words =
                format!("{version} is in its slot in part: plug in a stick that has it, and it goes on");
            // That a stick is there which cannot be read was said by this round.
            let words = match self.troubles.get("USB") {
                Some(unread) => format!("{unread}; {words}"),
                None => words,
            };
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

    /// Where nothing is ready at the time that was set, it is forgotten: what comes later is not what it was set for.
    fn miss_time(&self) -> Result<()> {
        let ready = matches!(self.state.phase, Phase::Staged { .. });
        if !ready && self.plan.get().at.is_some_and(|at| at <= now()) {
            tracing::warn!("nothing was ready at the time that was set for a restart: it is forgotten");
            self.plan.used()?;
        }
        Ok(())
    }

    /// Whether what is staged may be tried now, without anybody asking.
    fn may_try(&mut self) -> bool {
        let settings = &self.parts.settings;
        let Phase::Staged { tries, .. } = self.state.phase else {
            (self.ready, self.waiting) = (None, None);
            return false;
        };
        let (set, now) = (self.plan.get(), now());
        if !settings.automatic && set.set_for(now).is_none() {
            (self.ready, self.waiting) = (None, None);
            // Who asked for it before the power was cut has asked for it.
            return tries > 0;
        }
        let waiting = match set.may(now) {
            // People are waited for once it may be.
            Err(why) => {
                self.ready = None;
                Some(why)
            }
            // Somebody has set it for this time.
            Ok(true) => None,
            Ok(false) => {
                let ready = self.ready.get_or_insert_with(Instant::now).elapsed();
                let sessions = settings.sessions.as_deref().map_or(Ok(0), when::sessions);
                match when::may(set.window.or(settings.window), &sessions, ready, now) {
                    Ok(interrupts) => {
                        if let Some(who) = interrupts {
                            tracing::warn!("the machine restarts although {who}");
                        }
                        None
                    }
                    Err(why) => Some(why),
                }
            }
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

    /// What is staged is tried by a restart. What can fail is done first: nobody's session ends for a restart that does not
    /// follow. Then people are told of it and have so long, their sessions end, and only then the try is armed.
    async fn leave(&mut self, notice: Notice) -> Result<After> {
        let (version, boot_id) = self.before_try().await?;
        let set = self.plan.get();
        self.drain(version, notice.time).await;
        // A pause, or another time, may have been set meanwhile.
        if !notice.asked && self.plan.get() != set && !self.may_try() {
            tracing::warn!("the machine does not restart into {version}: another time was set meanwhile");
            return Ok(After::On);
        }
        self.arm_staged(boot_id)
    }

    /// Lets the RDP host tell those who are connected that the machine restarts, and end their sessions. Whatever becomes of
    /// that, the restart goes on after its time.
    async fn drain(&mut self, version: Version, notice: Duration) {
        let Some(socket) = self.parts.settings.rdp.clone() else { return };
        let most = (notice + drain::GRACE).as_secs();
        self.waiting = Some(format!("sessions are being ended: the machine restarts within {most} s"));
        self.show(None);
        match drain::drain(&socket, &version.to_string(), notice, drain::GRACE).await {
            Drained::All(count) => {
                tracing::info!("{count} sessions were ended before the restart into {version}")
            }
            Drained::NotRunning => tracing::info!("the RDP host does not run: nobody is connected"),
            Drained::Not(why) => tracing::warn!("{why}: the machine restarts into {version} all the same"),
        }
        self.waiting = None;
    }

    /// Why nothing is fetched without somebody asking for it, if so. Where fetching costs, those are asked first with whom it does
    /// not, and without somebody asking for more nobody else.
    fn held_back(&self, asked: Option<Asked>, chosen: &mut Chosen) -> Option<String> {
        let asks = matches!(asked, Some(Asked::Apply | Asked::Download));
        if self.parts.settings.metered && !chosen.saves(!asks) && !asks {
            return Some("fetching costs here, as update.metered of lucid.toml says".to_owned());
        }
        let paused = asked.is_none() && self.plan.get().paused(now()).is_some();
        paused.then(|| "updates are paused".to_owned())
    }

    /// Waits until then, or until somebody wants something, a USB stick is plugged in, or what is staged may be tried after all.
    async fn wait(&mut self, end: Instant) -> (Cause, Option<Asked>) {
        let plan = self.plan.clone();
        loop {
            if let Some(asked) = requests::taken(self.run.path()) {
                return (Cause::Request, Some(asked));
            }
            self.stick_waits |= self.plugged();
            if self.stick_waits && self.stick_round.is_none_or(|at| at.elapsed() >= STICKS) {
                (self.stick_waits, self.stick_round) = (false, Some(Instant::now()));
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
            let wish = async {
                match &mut self.control {
                    Some(control) => control.wish().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = glance => {}
                asked = wish => return (Cause::Request, Some(asked)),
                // Something was set: a round sees what follows from that.
                () = plan.changed() => return (Cause::Itself, None),
            }
        }
    }

    /// Serves the socket. Without it updates go on all the same.
    fn serve(&mut self) {
        let path = self.run.path().join(control::SOCKET);
        let store = self.parts.store.clone();
        match self.status().map(|status| Control::open(&path, &status, self.plan.clone(), store)) {
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

    /// Whether there is anybody to ask, or may be.
    fn has_source(&self) -> bool {
        !self.parts.sources.is_empty() || self.usb.is_some()
    }

    /// Without an end: one round after the other.
    async fn work(&mut self) {
        let every = self.parts.settings.every;
        let (mut started, mut due, mut failures) = (false, Instant::now(), 0_u32);
        loop {
            let (cause, asked) = self.wait(due).await;
            let again = started;
            let mut refused = None;
            let mut done = if started { Ok(After::On) } else { self.start().await };
            if matches!(done, Ok(After::On)) {
                started = true;
                if asked == Some(Asked::Rollback) {
                    match self.back().await {
                        Ok(after) => done = Ok(after),
                        // That is an answer, and no failure that a next round could mend.
                        Err(error) => {
                            tracing::error!("{error}");
                            refused = Some(error.to_string());
                        }
                    }
                    if again && refused.is_some() {
                        // The next look is when it was.
                        self.answered(refused);
                        self.show(None);
                        continue;
                    }
                // Without a source there is nothing to look at, unless somebody asks, who is told so; going back needs none.
                } else if cause != Cause::Itself || again && (self.has_source() || self.goes_back()) {
                    self.cause = Some(cause);
                    done = self.round(asked).await;
                }
            }
            let wait;
            match done {
                Ok(After::Restart) => return self.restart().await,
                Ok(After::On) => {
                    wait = if again { every + jitter(every) } else { FIRST };
                    failures = 0;
                    self.trouble("the last round", None);
                    self.answered(refused);
                }
                Err(error) => {
                    wait = AGAIN.saturating_mul(1 << failures.min(10)).min(every);
                    tracing::error!("{error}; it is tried again in {} s", wait.as_secs());
                    failures += 1;
                    self.trouble("the last round", Some(error.to_string()));
                    self.answered(Some(error.to_string()));
                }
            }
            due = Instant::now() + wait;
            self.next_look = self.has_source().then(|| now().saturating_add(wait.as_secs()));
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
