//! The try of a new system: into it, what is looked at in it, and out of it. Whatever fails in a system that is only being
//! tried, it is left by a restart, which needs neither the disk nor anything that is kept: the firmware tries once.

use std::time::Duration;

use lucid_release_format::Version;
use tokio::time::sleep;

use super::{After, Service, now};
use crate::{
    autoboot,
    before::Before,
    boot::{BootControl, Booted, Slot},
    error::{Error, Result},
    files::Store as _,
    gate,
    state::{Ending, Event, Phase, Step, first},
};

/// The spare copy of the sector of `autoboot.txt`, beside what else is kept.
pub const SPARE: &str = "autoboot.bak";
/// Says to others that this boot needs no judge any more, in the directory for what is lost at power-off.
pub const JUDGED: &str = "judged";
/// Says to a later life of the service that this boot was to end with a restart into what was committed, in the same directory.
pub const LEAVING: &str = "leaving";
/// Says that in this boot `autoboot.txt` was found to be damaged: what the firmware started says nothing of the slots.
pub const MENDED: &str = "mended";
/// The id of a boot has at most so many bytes.
const MAX_ID: u64 = 128;
/// The machine has so long to go down before it is asked again.
const DOWN: Duration = Duration::from_secs(120);
/// Who could not be asked to restart it is asked again after so long.
const AGAIN: Duration = Duration::from_secs(10);

fn nothing_staged() -> Error {
    Error::Nothing("nothing is staged that could be tried".to_owned())
}

/// Whether the system that runs is left by a restart: it was tried, and does not boot by itself.
pub(super) fn on_trial(boot: &dyn BootControl, booted: Booted) -> bool {
    booted.tried && !matches!(boot.default(), Ok(slot) if slot == booted.slot)
}

impl Service {
    /// Does what the last life of the service, or of the machine, left to be done.
    ///
    /// # Errors
    /// When the disk or the firmware fails in a system that boots by itself. One that is only being tried is left then.
    pub async fn start(&mut self) -> Result<After> {
        let booted = self.parts.boot.booted()?;
        match self.mend(booted) {
            Ok(()) => self.trouble("autoboot.txt", None),
            Err(error) => {
                tracing::error!("{error}");
                self.trouble("autoboot.txt", Some(error.to_string()));
            }
        }
        let firmware = self.parts.boot.new_enough().err().map(|error| error.to_string());
        if let Some(why) = &firmware {
            tracing::error!("{why}");
        }
        self.trouble("the boot firmware", firmware);
        if !on_trial(&*self.parts.boot, booted) {
            self.judge();
        }
        self.show(None);
        let begun = match self.begin(booted).await {
            Ok(After::On) => self.take_over(booted).map(|()| After::On),
            begun => begun,
        };
        if !on_trial(&*self.parts.boot, booted) {
            self.collect().await;
        }
        let after = match begun {
            Err(error) if on_trial(&*self.parts.boot, booted) => {
                tracing::error!("{error}; this system is only being tried, and is left");
                self.trouble("the try", Some(error.to_string()));
                After::Restart
            }
            begun => begun?,
        };
        if after == After::On
            && booted.kept
            && !on_trial(&*self.parts.boot, booted)
            // Without it the device cannot go back later; nothing else is worse for it.
            && let Err(error) = self.settle(booted)
        {
            tracing::error!("{error}");
            self.trouble(crate::held::FILE, Some(error.to_string()));
        }
        self.show(None);
        Ok(after)
    }

    /// What a system that boots by itself sees to: what is said of its slot, and that it is none that is not taken.
    fn settle(&mut self, booted: Booted) -> Result<()> {
        self.owns(booted)?;
        let version = self.parts.settings.system.version;
        // While the device goes back, what runs is what is to be left.
        let refused = self.state.refused.contains(&version) && !self.is_back();
        if refused
            && matches!(self.state.phase, Phase::Idle {} | Phase::Staging { .. } | Phase::Staged { .. })
        {
            self.take(Event::Allowed { version })?;
        }
        Ok(())
    }

    async fn begin(&mut self, booted: Booted) -> Result<After> {
        if self.marked(LEAVING)? {
            return Ok(After::Restart);
        }
        // Where that cannot be read: what was tried is not what boots.
        let unread = if booted.tried { booted.slot.other() } else { booted.slot };
        let named = self.parts.boot.default();
        let default = *named.as_ref().unwrap_or(&unread);
        let step = first(&self.state, booted, default, &self.parts.boot.boot_id()?);
        // An `autoboot.txt` that cannot be read, or was mended in this boot, does not say that anything has passed.
        let silent = named.is_err() || self.marked(MENDED)?;
        let step = if step == Step::Passed && silent { Step::Gate } else { step };
        let about = self.state.phase.about().map(|(release, slot)| (release.version, slot));
        match (step, about) {
            (Step::Leave, _) => {
                let why = "this system is only being tried, and what is kept says nothing of a try: back to the old one";
                tracing::error!("{why}");
                self.trouble("the try", Some(why.to_owned()));
                Ok(After::Restart)
            }
            (Step::Drop, _) => {
                let reason = "the slot that it was to be written into is the one that runs".to_owned();
                self.take(Event::Dropped { reason, at: now() })?;
                Ok(After::On)
            }
            (Step::Arm, Some((_, slot))) => self.arm(slot),
            (Step::Gate, Some((version, _))) => self.gate(version, booted).await,
            (Step::Passed, Some((version, _))) => {
                tracing::info!("{version} is the one that boots: it has passed");
                self.take(Event::Passed)?;
                self.commit(booted)
            }
            (Step::FellBack, Some((version, _))) => {
                tracing::warn!(
                    "{version} was to be tried, and what runs is the old system: no word of how it went"
                );
                self.left();
                self.take(Event::FellBack { at: now() })?;
                Ok(After::On)
            }
            (Step::Commit, _) => self.commit(booted),
            (
                Step::Nothing
                | Step::Stage
                | Step::Try
                | Step::Arm
                | Step::Gate
                | Step::Passed
                | Step::FellBack,
                _,
            ) => Ok(After::On),
        }
    }

    /// Where the firmware went past the slot that was to boot, what it started in its place boots from now on: nothing could be
    /// written otherwise, at no start.
    fn take_over(&mut self, booted: Booted) -> Result<()> {
        // Where that cannot be read it was said.
        let Ok(default) = self.parts.boot.default() else { return Ok(()) };
        let idle = matches!(self.state.phase, Phase::Idle {});
        if booted.tried || booted.slot == default || !idle || self.marked(MENDED)? {
            return Ok(());
        }
        self.parts.boot.set_default(booted.slot)?;
        let (dead, other) = (default.name(), booted.slot.name());
        let reason =
            format!("slot {dead}, which was to boot, does not start; slot {other} boots from now on");
        tracing::error!("{reason}");
        self.trouble("slots", Some(reason.clone()));
        self.spare(booted.slot)?;
        let mut installed = self.state.history.iter().rev();
        let installed =
            installed.find(|outcome| outcome.slot == default && outcome.ending == Ending::Installed);
        let version = installed.map_or(self.parts.settings.system.version, |outcome| outcome.version);
        self.take(Event::NotStarting { version, slot: default, reason, at: now() })
    }

    /// Leaves a word for a later life of the service in this boot.
    fn mark(&self, name: &str) -> Result<()> {
        self.run.publish(name, self.parts.boot.boot_id()?.as_bytes())
    }

    /// Whether there is such a word, of this boot.
    fn marked(&self, name: &str) -> Result<bool> {
        let id = self.parts.boot.boot_id()?;
        Ok(self.run.read(name, MAX_ID)?.is_some_and(|found| found == id.as_bytes()))
    }

    async fn gate(&mut self, version: Version, booted: Booted) -> Result<After> {
        tracing::info!("{version} is being tried");
        let armed = match &self.state.phase {
            Phase::Trying { boot_id, .. } => boot_id.as_str(),
            _ => "",
        };
        let before = Before::load(&*self.parts.store, armed);
        let Err(unwell) = gate::pass(&self.parts.checks, &before, self.parts.settings.within).await else {
            tracing::info!("{version} is well, and is kept");
            self.take(Event::Passed)?;
            return self.commit(booted);
        };
        tracing::error!("{version} is not well ({unwell})");
        let back = if self.is_back() { "it ran before and was gone back to: " } else { "" };
        let reason = format!("{back}{unwell}");
        let mut said = format!("{version} is not well: {reason}");
        if on_trial(&*self.parts.boot, booted) {
            self.left();
        }
        let kept = self.take(Event::Failed { reason, at: now() });
        if let Err(error) = &kept {
            tracing::error!("why {version} is not well cannot be kept: {error}");
            said = format!("{said}; that cannot be kept: {error}");
        }
        self.trouble("the try", Some(said));
        if on_trial(&*self.parts.boot, booted) {
            // Whatever was kept: the old system boots by itself.
            return Ok(After::Restart);
        }
        kept.map(|()| After::On)
    }

    /// Lets the slot that passed be the one that boots. Doing it again does no harm.
    fn commit(&mut self, booted: Booted) -> Result<After> {
        let Phase::Good { slot, .. } = self.state.phase else { return Ok(After::On) };
        self.parts.boot.set_default(slot)?;
        self.spare(slot)?;
        if booted.slot != slot {
            // With nothing more to do in it, this boot looks as one in which the slot that boots did not start.
            self.mark(LEAVING)?;
        }
        self.take(self.committed(now()))?;
        if booted.slot == slot {
            self.judge();
            return Ok(After::On);
        }
        // Power was cut after it had passed: the old system runs, and the new one is what is to run.
        Ok(After::Restart)
    }

    pub(super) fn arm(&mut self, slot: Slot) -> Result<After> {
        if let Err(error) = self.parts.boot.arm(slot) {
            self.take(Event::NotArmed)?;
            return Err(error);
        }
        Ok(After::Restart)
    }

    /// Lets the next restart start what is staged, once.
    ///
    /// # Errors
    /// When nothing is staged, what is kept is in memory, or the firmware is too old or cannot be told.
    pub async fn try_staged(&mut self) -> Result<After> {
        let (_, boot_id) = self.before_try().await?;
        self.arm_staged(boot_id)
    }

    /// What has to be so, and is kept, before what is staged is tried: which version that is, and which boot ends with it.
    pub(super) async fn before_try(&self) -> Result<(Version, String)> {
        self.parts.boot.booted()?.may_install()?;
        self.parts.boot.new_enough()?;
        let Phase::Staged { release, .. } = &self.state.phase else { return Err(nothing_staged()) };
        let version = release.version;
        let boot_id = self.parts.boot.boot_id()?;
        self.note_before(&boot_id).await?;
        Ok((version, boot_id))
    }

    /// Arms the try of what is staged; a time that was set is used up by it.
    pub(super) fn arm_staged(&mut self, boot_id: String) -> Result<After> {
        let Phase::Staged { slot, .. } = self.state.phase else { return Err(nothing_staged()) };
        self.take(Event::Armed { boot_id })?;
        // After that: cut off before, the try is made at the time that was set, and not whenever somebody asks for it again.
        if let Err(error) = self.plan.used() {
            tracing::error!("{error}: the time that was set for this restart may count once more");
        }
        self.arm(slot)
    }

    /// Keeps how the system that is left is, for the gate of the other one, and that this boot ends with the try of that.
    pub(super) async fn note_before(&self, boot_id: &str) -> Result<()> {
        let mut before = Before::of_boot(boot_id);
        for check in &self.parts.checks {
            check.note(&mut before).await;
        }
        before.save(&*self.parts.store)
    }

    /// Restarts the machine: asks for it until it is gone, and does nothing else.
    pub async fn restart(&self) {
        loop {
            match self.parts.boot.restart() {
                Ok(()) => {
                    tracing::info!("the machine restarts");
                    sleep(DOWN).await;
                    tracing::error!(
                        "the machine has not restarted within {} s: it is asked again",
                        DOWN.as_secs()
                    );
                }
                Err(error) => {
                    tracing::error!("{error}; it is asked again in {} s", AGAIN.as_secs());
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Sees to it that the sector of `autoboot.txt` is as it must be, and that there is a spare copy.
    fn mend(&self, booted: Booted) -> Result<()> {
        let slot = match self.parts.boot.default() {
            Err(Error::Autoboot(why)) => {
                let spare = self.parts.store.read(SPARE, autoboot::SIZE as u64).unwrap_or_else(|error| {
                    tracing::warn!("{error}: there is no spare copy of autoboot.txt");
                    None
                });
                let spare = spare.and_then(|sector| autoboot::slot(&sector).ok());
                // What was tried is not what boots; what was started untried is.
                let Some(slot) = spare.or((!booted.tried).then_some(booted.slot)) else {
                    return Err(Error::Autoboot(why));
                };
                self.mark(MENDED)?;
                self.parts.boot.set_default(slot)?;
                tracing::warn!(
                    "autoboot.txt was not as it must be ({why}), and names slot {} again",
                    slot.name()
                );
                slot
            }
            slot => slot?,
        };
        self.spare(slot)
    }

    /// Keeps a spare copy of the sector by which this slot boots.
    fn spare(&self, slot: Slot) -> Result<()> {
        let (store, text) = (&self.parts.store, autoboot::text(slot));
        match store.read(SPARE, autoboot::SIZE as u64) {
            Ok(Some(kept)) if kept == text => Ok(()),
            // What cannot be read is written again.
            _ => store.replace(SPARE, &text),
        }
    }

    /// Says that this boot needs no judge: it is no try, or was committed.
    fn judge(&mut self) {
        if self.judged {
            return;
        }
        match self.run.publish(JUDGED, b"") {
            Ok(()) => self.judged = true,
            Err(error) => {
                tracing::error!("{error}: lucid-try.service may restart a machine that is well");
            }
        }
    }
}
