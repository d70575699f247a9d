//! A release that was chosen goes into the slot that does not run.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lucid_release_format::{Index, Release};
use tokio::time::{Instant, sleep};

use super::{Chosen, KINDS, Service, look::Mirror};
use crate::{
    error::{Error, Result},
    have::Have,
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
    /// Writes a release that was chosen into the other slot, or goes on with it. Says whether there was anything to be done.
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
        self.write(&offer.release, &index, &offer.archive, &*mirror.source).await
    }

    /// Writes a release whose index is believed.
    ///
    /// # Errors
    /// When the source or the disk fails: it goes on from there the next time. When what is kept is in memory.
    pub async fn write(
        &mut self,
        release: &Release,
        index: &Index,
        archive: &str,
        source: &dyn Source,
    ) -> Result<()> {
        let (booted, default) = (self.parts.boot.booted()?, self.parts.boot.default()?);
        booted.may_install()?;
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
        tracing::info!("{} goes into slot {}", release.version, slot.name());
        let total = index.parts().iter().map(|part| part.bytes).sum();
        let latest = Mutex::new(Progress { total, ..Progress::default() });
        let slots = self.parts.slots.clone();
        let work = async {
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
            let mut tell = |progress| *latest.lock().unwrap_or_else(PoisonError::into_inner) = progress;
            stage::write(index, archive, &targets, &mut have, source, &mut tell).await
        };
        let mut work = pin!(work);
        let mut logged = Instant::now();
        let written = loop {
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
        let Progress { kept, copied, fetched, .. } = written;
        let peak = peak::memory()
            .map_or_else(|| "an unknown number of".to_owned(), |bytes| (bytes >> 20).to_string());
        tracing::info!(
            "{} is staged: {kept} bytes were there, {copied} were copied, {fetched} were fetched; it took {peak} MB at most",
            release.version,
        );
        self.take(Event::Written)
    }
}
