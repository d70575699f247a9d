//! Back to the system in the other slot, because somebody asks for it, and what has to be known for that.

use std::sync::Arc;

use lucid_release_format::{Index, Kind, Part, Release, Version, Wave};

use super::{After, KINDS, Service, Slots};
use crate::{
    boot::{Booted, Slot},
    drain,
    error::{Error, Result},
    held::{Content, FILE, Held},
    stage::{self, Target},
    state::{Event, Phase},
};

impl Service {
    /// Restarts into the system that ran before, which is tried as a new one is. It is held to what it was when it was kept.
    ///
    /// # Errors
    /// When it is not there as a whole, or must not run; then nothing has changed. When the disk or the firmware fails.
    pub(super) async fn back(&mut self) -> Result<After> {
        let booted = self.parts.boot.booted()?;
        booted.may_install()?;
        self.parts.boot.new_enough()?;
        let slot = booted.slot.other();
        let held = self.back_to(booted).map_err(Error::Nothing)?;
        let version = held.release.version;
        let over = match &self.state.phase {
            Phase::Staging { release, .. } => Some(release.version),
            _ => None,
        };
        for kind in KINDS {
            let (content, name) = (held.content(kind), slot.partition(kind));
            let hash =
                content.hash().ok_or_else(|| Error::Internal(format!("{FILE} has no hash of {name}")))?;
            let disk = self.parts.slots.open(slot, kind, false)?;
            let part = Part { kind, bytes: content.bytes, hash, chunks: Vec::new() };
            match stage::read_back(&part, &Target { kind, name, disk }).await {
                Err(Error::ReadBack(what)) => {
                    let name = slot.name();
                    let why = match over {
                        Some(new) => format!(
                            "{new} is being written into slot {name}, and the {what} does not hold {version}, which ran \
                             before, any more; the update goes on once a source gives what is missing"
                        ),
                        None => format!(
                            "slot {name} does not hold {version} as a whole any more, its {what} was written since"
                        ),
                    };
                    return Err(Error::Nothing(format!("the device cannot go back: {why}")));
                }
                read => read?,
            }
        }
        let left = self.parts.settings.system.version;
        tracing::warn!("somebody asks for {version}, which ran before {left}: the machine goes back to it");
        // What can fail comes before sessions end.
        let boot_id = self.parts.boot.boot_id()?;
        self.note_before(&boot_id).await?;
        self.drain(version, drain::NOTICE_ASKED).await;
        if over.is_some() {
            let reason = format!("somebody asked for {version}, of which nothing was written over yet");
            self.take(Event::Dropped { reason, at: super::now() })?;
        }
        self.take(Event::Back { release: held.release, slot, left, boot_id })?;
        let armed = self.arm(slot);
        if let Err(error) = &armed {
            // It was no try, and nobody waits for another one.
            let reason = format!("it was to be gone back to: {error}");
            self.take(Event::Dropped { reason, at: super::now() })?;
            self.take(Event::Allowed { version: left })?;
        }
        armed
    }

    /// What the device would go back to, or why it cannot.
    fn back_to(&self, booted: Booted) -> Result<Held, String> {
        let refuse = |why: String| Err(format!("the device cannot go back: {why}"));
        let slot = booted.slot.other();
        let name = slot.name();
        // What is being written may have changed nothing yet, which the partitions themselves say.
        let staging = matches!(self.state.phase, Phase::Staging { .. });
        let holds = if staging { "held" } else { "holds" };
        if let Some((release, _)) = self.state.phase.about().filter(|_| !staging) {
            let version = release.version;
            return refuse(match self.state.phase {
                Phase::Staged { .. } => format!(
                    "slot {name} holds {version}, which waits to be tried, and not what ran before; \
                     `lucidctl update apply` restarts into it"
                ),
                _ => format!("the try of {version} has not ended"),
            });
        }
        match self.parts.boot.default() {
            Ok(default) if default == booted.slot => {}
            Ok(_) => return refuse("the slot that runs is not the one that boots; restart first".to_owned()),
            Err(error) => return refuse(error.to_string()),
        }
        let Some(held) = self.held.get(slot) else {
            return refuse(format!("it is not known that slot {name} holds a whole system ({FILE})"));
        };
        let (version, floor) = (held.release.version, self.state.floor);
        let Some(data) = held.data else {
            return refuse(format!("slot {name} {holds} {version}, which was never kept"));
        };
        if version < floor {
            return refuse(format!(
                "slot {name} {holds} {version}, and a release that was kept rules out everything below {floor}"
            ));
        }
        let own = self.parts.settings.system.data;
        if data < own {
            return refuse(format!(
                "{version} reads form {data} of what services keep, and that is in form {own} since the system that runs was \
                 kept, when the copy from before was removed; release a newer version instead"
            ));
        }
        Ok(held.clone())
    }

    /// Whether what is being done is to go back to a system that ran before.
    pub(super) fn is_back(&self) -> bool {
        self.state.phase.about().is_some_and(|(release, slot)| self.held.ran(slot, release))
    }

    /// Whether somebody wants to go back to what is staged: the power was cut in its try.
    pub(super) fn goes_back(&self) -> bool {
        matches!(self.state.phase, Phase::Staged { tries, .. } if tries > 0) && self.is_back()
    }

    /// What is said when a system becomes the one that boots: of one that ran before, something else than of a new one.
    pub(super) fn committed(&self, at: u64) -> Event {
        if self.is_back() { Event::WentBack { at } } else { Event::Committed { at } }
    }

    /// Remembers another word on a slot.
    fn hold(&mut self, slot: Slot, held: Option<Held>) -> Result<()> {
        let new = self.held.with(slot, held);
        if new != self.held {
            new.save(&*self.parts.store)?;
            self.held = new;
            self.trouble(FILE, None);
        }
        Ok(())
    }

    /// A system that boots by itself says so of its slot, and which form of data it reads. What is said of a slot by a system
    /// that was there before is forgotten.
    pub(super) fn owns(&mut self, booted: Booted) -> Result<()> {
        let system = &self.parts.settings.system;
        let (version, data) = (system.version, system.data);
        let Some(held) = self.held.get(booted.slot).cloned() else { return Ok(()) };
        let own = (held.release.version == version).then_some(Held { data: Some(data), ..held });
        self.hold(booted.slot, own)
    }

    /// Before the other slot is written: what the one that runs holds. The card came with it, and nobody has said it before.
    pub(super) async fn know_own(&mut self, booted: Booted) -> Result<()> {
        if self.held.get(booted.slot).is_some() {
            return Ok(());
        }
        let slots = self.parts.slots.clone();
        let reading = tokio::task::spawn_blocking(move || contents(&slots, booted.slot));
        let [boot, root] = reading.await.map_err(|error| Error::Internal(error.to_string()))??;
        let release = self.as_released()?;
        let data = Some(self.parts.settings.system.data);
        self.hold(booted.slot, Some(Held { release, boot, root, data }))
    }

    /// A slot holds a release, which never ran.
    pub(super) fn wrote(&mut self, slot: Slot, release: &Release, index: &Index) -> Result<()> {
        let content = |kind| {
            let part = index.part(kind).ok_or(Error::NoPart(kind))?;
            Ok::<_, Error>(Content::new(part.bytes, part.hash))
        };
        let (boot, root) = (content(Kind::Boot)?, content(Kind::Root)?);
        self.hold(slot, Some(Held { release: release.clone(), boot, root, data: None }))
    }

    /// What runs, as it would have been described had it been a release for this device.
    fn as_released(&self) -> Result<Release> {
        let settings = &self.parts.settings;
        let channel = settings.channel.parse();
        let channel = channel.map_err(|error| Error::Internal(format!("the channel: {error}")))?;
        Ok(Release {
            channel,
            machine: settings.system.machine.clone(),
            min_from: Version::default(),
            min_version: Version::default(),
            paused: false,
            released: u64::try_from(settings.system.built).unwrap_or(0),
            version: settings.system.version,
            waves: vec![Wave { after: 0, share: 1000 }],
        })
    }
}

/// What the partitions of a slot hold.
fn contents(slots: &Arc<dyn Slots>, slot: Slot) -> Result<[Content; 2]> {
    let content = |kind| {
        let name = slot.partition(kind);
        Content::of(&*slots.open(slot, kind, false)?, &name)
    };
    Ok([content(Kind::Boot)?, content(Kind::Root)?])
}
