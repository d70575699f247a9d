//! What the sources offer, and what of it this device takes.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp as Time;
use lucid_release_format::{Index, Release, Verdict, Version};

use super::{Asked, KINDS, Service, Slots, now};
use crate::{
    boot::Slot,
    error::{Error, Result},
    have::Have,
    schedule::Offered,
    source::Source,
    state::{Event, Phase},
    trust::{Offer, Offers, Refused, Trust},
    usb::FOLDER,
};

/// A source that offers what was chosen.
pub(super) struct Mirror {
    pub(super) offers: Offers,
    number: usize,
    pub(super) source: Arc<dyn Source>,
}

impl Mirror {
    pub(super) fn offer(&self) -> &Offer {
        &self.offers.releases[self.number]
    }
}

/// A release that may be taken, and from where.
pub struct Chosen {
    release: Release,
    /// At least one; each offers the same.
    pub(super) mirrors: Vec<Mirror>,
}

impl Chosen {
    /// Its description.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Puts those first from whom fetching costs nothing, or with `alone` leaves only them; says whether there are any. Where there
    /// are none, nothing changes.
    pub(super) fn saves(&mut self, alone: bool) -> bool {
        let free = self.mirrors.iter().any(|mirror| !mirror.source.costs());
        if free && alone {
            self.mirrors.retain(|mirror| !mirror.source.costs());
        }
        self.mirrors.sort_by_key(|mirror| mirror.source.costs());
        free
    }
}

/// What is said to a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which.
    pub version: Version,
    /// Whether it is taken.
    pub takes: bool,
    /// Why, in words.
    pub words: String,
    /// When this device's turn comes, in seconds since 1970, where others are first.
    pub turn: Option<u64>,
}

/// What the sources offer, for people.
pub struct Looked {
    /// What may be taken.
    pub chosen: Option<Chosen>,
    /// All releases with what is said to them, the newest first.
    pub said: Vec<Said>,
}

/// Whether a source did not give what it was asked for, which says nothing of what it would have said.
fn is_unasked(error: &Error) -> bool {
    matches!(error, Error::Source(_) | Error::Refused(Refused::Source(_)))
}

/// How many bytes of an archive hold chunks that no slot has. Takes as long as reading the slots does.
fn missing(slots: &dyn Slots, index: &Index) -> Result<u64> {
    let mut have = Have::new();
    for (slot, kind) in [Slot::A, Slot::B].into_iter().flat_map(|slot| KINDS.map(|kind| (slot, kind))) {
        have.cut(&slot.partition(kind), slots.open(slot, kind, false)?)?;
    }
    let (mut counted, mut bytes) = (HashSet::new(), 0);
    for chunk in index.parts().iter().flat_map(|part| &part.chunks) {
        if !have.has(&chunk.hash) && counted.insert(chunk.hash) {
            bytes += u64::from(chunk.place.length);
        }
    }
    Ok(bytes)
}

impl Service {
    /// Looks for a round. There is nothing when no source can be asked and somebody asked for what is staged: that is tried then.
    /// By itself it is not: it may have been withdrawn.
    pub(super) async fn look_for(&mut self, asked: Option<Asked>) -> Result<Option<Looked>> {
        let looked = self.look().await;
        let tries = match self.state.phase {
            Phase::Staged { tries, .. } if looked.as_ref().is_err_and(is_unasked) => Some(tries),
            _ => None,
        };
        let apply = asked == Some(Asked::Apply);
        let unasked = tries.is_some_and(|tries| !apply && (self.parts.settings.automatic || tries > 0));
        if unasked != self.unasked {
            self.unasked = unasked;
            self.show(None);
        }
        match looked {
            Err(error) if apply && tries.is_some() => {
                tracing::warn!(
                    "{error}; what is staged is tried all the same, because somebody asked for it"
                );
                Ok(None)
            }
            looked => looked.map(Some),
        }
    }

    /// Asks all sources what there is. What was learnt is kept before anything of it is used. A source that fails is a warning
    /// as long as another one is well; one that is behind another one says nothing of what there is now.
    ///
    /// # Errors
    /// When no source gives metadata that is believed: that of one that was refused, or else of the last one.
    pub async fn look(&mut self) -> Result<Looked> {
        let mut failed = match self.usb {
            Some(_) => Error::NoStick,
            None => Error::Nothing("no source is given: see --source".to_owned()),
        };
        let (mut good, mut warnings) = (Vec::new(), Vec::new());
        for (number, source) in self.sources().await.into_iter().enumerate() {
            // Several are at hand at once.
            let scratch = self.parts.trust.scratch.join(number.to_string());
            let trust = Trust { scratch, ..self.parts.trust.clone() };
            let cycle = trust.ask(&self.memory, source.clone()).await?;
            for note in &cycle.notes {
                tracing::warn!("{}: {note}", source.name());
            }
            if cycle.memory != self.memory {
                cycle.memory.save(&*self.parts.store)?;
                self.memory = cycle.memory;
                self.trouble("trust.json", None);
            }
            match cycle.offers {
                Ok(offers) => {
                    for (name, why) in &offers.passed_over {
                        tracing::warn!("{name} is passed over: {why}");
                    }
                    good.push((offers, source));
                }
                Err(refused) => {
                    // Nothing but this clock says that.
                    let clock = match refused {
                        Refused::Expired { .. } => format!("; the device's clock says {}", Time::now()),
                        _ => String::new(),
                    };
                    warnings.push(format!("{}: {refused}{clock}", source.name()));
                    // A source that was asked, and refused, is not one that could not be asked.
                    if number == 0 || is_unasked(&failed) {
                        failed = refused.into();
                    }
                }
            }
        }
        let newest = good.iter().map(|(offers, _)| offers.version()).max();
        good.retain(|(offers, source)| {
            let current = Some(offers.version()) == newest;
            if !current {
                warnings.push(format!("{}: it is behind another source", source.name()));
            }
            current
        });
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        self.trouble("sources", (!warnings.is_empty()).then(|| warnings.join("; ")));
        self.show(None);
        if good.is_empty() { Err(failed) } else { Ok(self.choose(good)) }
    }

    /// Those who are asked: the ones that were given, then the USB sticks that are plugged in now.
    async fn sources(&mut self) -> Vec<Arc<dyn Source>> {
        let mut sources = self.parts.sources.clone();
        let Some(usb) = self.usb.clone() else { return sources };
        let mut wrong: Vec<String> = usb.no_driver().into_iter().collect();
        let (sticks, over) = usb.found().unwrap_or_else(|error| {
            wrong.push(format!("looking for USB sticks: {error}"));
            (Vec::new(), None)
        });
        wrong.extend(over);
        for stick in &sticks {
            match usb.source(stick).await {
                Ok(Some(source)) => sources.push(source),
                Ok(None) => tracing::info!("{} has no folder {FOLDER} with releases", stick.name()),
                Err(why) => wrong.push(format!("{}: {why}", stick.name())),
            }
        }
        for wrong in &wrong {
            tracing::warn!("{wrong}");
        }
        self.trouble("USB", (!wrong.is_empty()).then(|| wrong.join("; ")));
        sources
    }

    /// Gives up what is being written or waits to be tried when it is none for this device any more, as far as that is known
    /// without a source. What the clock alone says is no reason: a clock that was set back says that a turn has not come.
    pub(super) fn outgrow(&mut self) -> Result<()> {
        let Some((release, _)) = self.state.phase.about() else { return Ok(()) };
        let said = self.said(release);
        if said.turn.is_some() {
            return Ok(());
        }
        self.withdraw(&Looked { chosen: None, said: vec![said] })
    }

    fn said(&self, release: &Release) -> Said {
        let settings = &self.parts.settings;
        let (machine, running) = (settings.system.machine.as_str(), settings.system.version);
        let (place, floor) = (release.place(&self.state.seed()), self.state.floor);
        let verdict = release.applies(machine, &settings.channel, running, floor, place, now());
        let (takes, words) = if verdict != Verdict::Takes {
            (false, verdict.to_string())
        } else if self.state.refused.contains(&release.version) {
            let words = "it was tried and did not pass, or somebody went back from it; `lucid-updated apply` takes it";
            (false, words.to_owned())
        } else {
            (true, verdict.to_string())
        };
        let turn = match verdict {
            Verdict::NotYet { at } => Some(at),
            _ => None,
        };
        Said { version: release.version, takes, words, turn }
    }

    fn choose(&self, good: Vec<(Offers, Arc<dyn Source>)>) -> Looked {
        let (mut said, mut release) = (Vec::new(), None);
        // Sources of the same version offer the same: it is signed.
        for offer in good.first().into_iter().flat_map(|(offers, _)| &offers.releases) {
            let words = self.said(&offer.release);
            if words.takes && release.is_none() {
                release = Some(offer.release.clone());
            }
            said.push(words);
        }
        let chosen = release.map(|release| {
            let mirrors = good.into_iter().filter_map(|(offers, source)| {
                let number = offers.releases.iter().position(|offer| offer.release == release)?;
                Some(Mirror { offers, number, source })
            });
            let mirrors = mirrors.collect();
            Chosen { release, mirrors }
        });
        Looked { chosen, said }
    }

    /// Says what there is and how much would be fetched, where it is not. That is looked at once for a release: both slots are
    /// read for it.
    pub(super) async fn offer(&mut self, chosen: &Chosen, why: String) -> Result<()> {
        let version = chosen.release.version;
        let bytes = match &self.offered {
            Some(offered) if offered.version == version => offered.bytes,
            _ => self.needs(chosen).await?,
        };
        tracing::info!("{version} is there and is not fetched, {bytes} bytes at most: {why}");
        self.offered = Some(Offered { version, bytes, why });
        self.show(None);
        Ok(())
    }

    /// How many bytes of a release's archive the slots do not have.
    async fn needs(&self, chosen: &Chosen) -> Result<u64> {
        let version = chosen.release.version;
        let mut failed = Error::Nothing("no source offers it any more".to_owned());
        for mirror in &chosen.mirrors {
            match mirror.offers.index(mirror.offer()).await {
                Ok(index) => {
                    let slots = self.parts.slots.clone();
                    let counting = tokio::task::spawn_blocking(move || missing(&*slots, &index));
                    return counting.await.map_err(|error| Error::Internal(error.to_string()))?;
                }
                Err(error) => {
                    tracing::warn!("{}: {version} is not had from it: {error}", mirror.source.name());
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    /// Gives up what is being written or waits to be tried when it is not offered any more, or is not to be taken now.
    pub(super) fn withdraw(&mut self, looked: &Looked) -> Result<()> {
        let (Phase::Staging { release, .. } | Phase::Staged { release, .. }) = &self.state.phase else {
            return Ok(());
        };
        let version = release.version;
        let reason = match looked.said.iter().find(|said| said.version == version) {
            Some(said) if said.takes => return Ok(()),
            Some(said) => said.words.clone(),
            None => "it was withdrawn: no source offers it any more".to_owned(),
        };
        tracing::warn!("{version} is given up: {reason}");
        self.take(Event::Dropped { reason, at: now() })
    }
}
