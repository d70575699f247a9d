//! A release that was chosen goes into the slot that does not run.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lucid_release_format::{Change, Index, Release};
use tokio::time::{Instant, sleep};

use super::{Chosen, KINDS, Service, look::Mirror, now};
use crate::{
    error::{Error, Result},
    have::Have,
    patch::{self, Offered, Patched},
    peak,
    source::Source,
    stage::{self, Progress, Target},
    state::{Event, Phase},
};

/// How far it is is told so often.
const TELL: Duration = Duration::from_secs(1);
/// And it is logged so often.
const LOG: Duration = Duration::from_secs(10);

/// Whether another source may do better.
fn of_source(error: &Error) -> bool {
    matches!(error, Error::Source(_) | Error::Refused(_) | Error::Chunk { .. })
}

impl Service {
    /// Writes a release that was chosen into the other slot, or goes on with it. Says whether that was done now: it was not
    /// where it is there already, or updates were paused meanwhile.
    ///
    /// # Errors
    /// When the disk fails, or every source that offers it: it goes on from there the next time.
    pub async fn stage(&mut self, chosen: &Chosen) -> Result<bool> {
        if matches!(&self.state.phase, Phase::Staged { release, .. } if release == chosen.release()) {
            return Ok(false);
        }
        let mut failed = Error::Nothing("no source offers it any more".to_owned());
        for mirror in &chosen.mirrors {
            match self.stage_from(mirror).await {
                Ok(()) => return Ok(true),
                Err(Error::Paused) => {
                    tracing::info!("updates were paused: writing {} goes on later", chosen.release().version);
                    self.show(None);
                    return Ok(false);
                }
                Err(error) if of_source(&error) => {
                    let version = chosen.release().version;
                    let words = format!("{}: {version} is not had from it: {error}", mirror.source.name());
                    tracing::warn!("{words}");
                    self.trouble("sources", Some(words));
                    failed = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed)
    }

    async fn stage_from(&mut self, mirror: &Mirror) -> Result<()> {
        let offer = mirror.offer();
        let index = mirror.offers.index(offer).await?;
        let running = self.parts.settings.system.version;
        let patch = offer.patches.iter().find(|(from, _)| *from == running).map(|(_, patch)| patch);
        self.write(&offer.release, &index, &offer.archive, patch, &*mirror.source).await
    }

    /// Writes a release whose index is believed. The patch is one from what runs by its name; it is used where it is that, and
    /// smaller than the chunks.
    ///
    /// # Errors
    /// When the source or the disk fails, or updates are paused meanwhile and nobody had asked: it goes on from there the next
    /// time. When what is kept is in memory.
    pub async fn write(
        &mut self,
        release: &Release,
        index: &Index,
        archive: &str,
        offered: Option<&Offered>,
        source: &dyn Source,
    ) -> Result<()> {
        let (booted, default) = (self.parts.boot.booted()?, self.parts.boot.default()?);
        booted.may_install()?;
        self.parts.boot.new_enough()?;
        if booted.slot != default {
            let words = "the slot that runs is not the one that boots, and the other one is what the machine falls back \
                         to: nothing is written before a restart";
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
        let from = source.name();
        if self.state.source.as_ref() != Some(&from) {
            self.take(Event::From { source: from })?;
        }
        self.know_own(booted).await?;
        tracing::info!("{} goes into slot {}", release.version, slot.name());
        let total = index.parts().iter().map(|part| part.bytes).sum();
        let latest = Mutex::new(Progress { total, ..Progress::default() });
        let slots = self.parts.slots.clone();
        let hung = !source.costs() && self.hung.as_ref() == offered.map(|offered| &offered.file);
        let work = async {
            let cutting = tokio::task::spawn_blocking(move || {
                let (mut have, mut running) = (Have::new(), Vec::new());
                // What runs first: it is read-only, and stays.
                for (slot, kind) in
                    [booted.slot, slot].into_iter().flat_map(|slot| KINDS.map(|kind| (slot, kind)))
                {
                    let pieces = have.cut(&slot.partition(kind), slots.open(slot, kind, false)?)?;
                    if slot == booted.slot {
                        running.extend(pieces);
                    }
                }
                Ok::<_, Error>((have, running))
            });
            let (mut have, running) = cutting.await.map_err(|error| Error::Internal(error.to_string()))??;
            if let Some(offered) = offered.filter(|_| hung) {
                let why = "its source failed with it in the last run, and after it".to_owned();
                have.refuse(&Error::Patch { name: offered.file.clone(), why });
            } else if let Some(offered) = offered {
                let change = Change::between(&running, index);
                drop(running);
                patched(&mut have, offered, change, source).await?;
            }
            let mut tell = |progress| *latest.lock().unwrap_or_else(PoisonError::into_inner) = progress;
            let written = stage::write(index, archive, &targets, &mut have, source, &mut tell).await;
            Ok::<_, Error>((written, have.refused))
        };
        let mut work = pin!(work);
        let mut logged = Instant::now();
        let written = loop {
            if self.asked.is_none() && self.plan.get().paused(now()).is_some() {
                return Err(Error::Paused);
            }
            let mut progress = *latest.lock().unwrap_or_else(PoisonError::into_inner);
            progress.memory_peak = peak::memory().unwrap_or(0);
            self.show(Some(progress));
            if logged.elapsed() >= LOG {
                logged = Instant::now();
                tracing::info!("{} of {} bytes are in their places", progress.done, progress.total);
            }
            tokio::select! {
                written = &mut work => break written?,
                // Even while nothing comes.
                () = sleep(TELL) => {}
            }
        };
        let (written, refused) = written;
        // A stick that hangs in its patch may hang in what comes after it: its next run is one without, which costs nothing.
        let again = written.is_err() && refused.is_some() && !source.costs();
        self.hung = offered.filter(|_| again).map(|offered| offered.file.clone());
        self.trouble("the patch", refused);
        let Progress { kept, copied, fetched, patched, .. } = written?;
        let peak = peak::memory()
            .map_or_else(|| "an unknown number of".to_owned(), |bytes| (bytes >> 20).to_string());
        tracing::info!(
            "{} is staged: {kept} bytes were there, {copied} were copied, {fetched} were fetched, {patched} of them as a patch; \
             it took {peak} MB at most",
            release.version,
        );
        // First: what is staged is not taken for what ran in that slot before.
        self.wrote(slot, release, index)?;
        // The time that was set may have come meanwhile.
        self.miss_time()?;
        self.take(Event::Written)
    }
}

/// Takes the patch that is offered, where it is smaller than the chunks. Where it cannot be used, that is remembered.
async fn patched(have: &mut Have, offered: &Offered, change: Change, source: &dyn Source) -> Result<()> {
    let chunks = change.archive_bytes();
    if offered.bytes >= chunks {
        tracing::info!(
            "the patch has {} bytes, and the chunks that are missing {chunks}: these are taken",
            offered.bytes
        );
        return Ok(());
    }
    match Patched::open(offered, change, source).await {
        Ok(patch) => {
            tracing::info!("a patch of {} bytes is taken for {chunks} bytes of chunks", offered.bytes);
            have.patch = Some(patch);
            Ok(())
        }
        Err(error) if patch::is_of_patch(&error) => {
            have.refuse(&error);
            Ok(())
        }
        Err(error) => Err(error),
    }
}
