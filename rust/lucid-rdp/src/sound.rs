//! Sound from the desktop to the client: what programs play comes out of the sandbox through a pipe and goes to the
//! client by MS-RDPEA, while its gate ([`Gates`](crate::gates::Gates)) is open.
//!
//! Sound is worth something only now: what waits too long is thrown away, oldest first. The client confirms what it has
//! taken, and while it is behind nothing more is sent, so that a slow link carries pictures and not a backlog of sound.
//! Silence is not sent.

mod channel;
mod flight;
mod formats;
mod source;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironrdp_acceptor::AcceptorResult;
use ironrdp_svc::server_encode_svc_messages;
use lucid_desktop::sound::{CHANNELS, RATE};
use lucid_ipc::session::Actor;
use lucid_ipc::session::to_recorder::Item;
use lucid_policy::Action;

use crate::Error;
use crate::audit::{self, Log};
use crate::gates::Holding;
pub(crate) use channel::{Channel, bound};
use channel::{Received, Wave};
use flight::Flight;
use formats::Encoder;
pub(crate) use source::Source;

/// Frames that go out together: 20 ms, which is also what PipeWire writes at once and what Opus takes.
const PIECE: usize = RATE as usize / 50;
/// How long a piece lasts.
const LASTS: Duration = Duration::from_millis(20);
/// Pieces that wait to be sent: 200 ms.
const MAX_WAITING: usize = 10;
/// Silent pieces that are sent before silence is no longer: what sounded must have an end at the client.
const LAST_SILENCE: u32 = 10;

/// What plays for one client; does nothing without a gate, a desktop with sound, and a client that wants it.
pub(crate) struct Sound(Option<Open>);

struct Open {
    source: Rc<Source>,
    channel_id: u16,
    user_id: u16,
    began: Instant,
    /// Once the client has said what it takes.
    encoder: Option<(Encoder, Wave)>,
    /// Less than a piece.
    part: Vec<i16>,
    waiting: VecDeque<Vec<i16>>,
    silent: u32,
    flight: Flight,
    lost: Duration,
    /// What may pass.
    holding: Holding,
    /// It was told that something played which may not be heard.
    refusal_told: bool,
    /// Where what is sent is recorded.
    log: Log,
}

impl Sound {
    /// Begins, if there is sound and the client has the channel.
    pub(crate) fn start(
        result: &AcceptorResult,
        source: Option<&Rc<Source>>,
        holding: Holding,
        log: Log,
    ) -> Sound {
        let channel_id = result.static_channels.get_channel_id_by_type::<Channel>();
        let (Some(source), Some(channel_id)) = (source, channel_id) else { return Sound(None) };
        Sound(Some(Open {
            source: Rc::clone(source),
            channel_id,
            user_id: result.user_channel_id,
            began: Instant::now(),
            encoder: None,
            part: Vec::new(),
            waiting: VecDeque::new(),
            silent: 0,
            flight: Flight::default(),
            lost: Duration::ZERO,
            holding,
            refusal_told: false,
            log,
        }))
    }

    /// Waits until something plays; may be dropped and called again.
    pub(crate) async fn playing(&self) {
        match &self.0 {
            Some(open) if open.encoder.is_some() => open.source.readable().await,
            _ => std::future::pending().await,
        }
    }

    /// Takes what plays.
    pub(crate) fn take(&mut self) {
        if let Some(open) = &mut self.0 {
            open.take(Instant::now());
        }
    }

    /// Sees to what the client has sent.
    pub(crate) fn received(&mut self, result: &mut AcceptorResult) -> Result<(), Error> {
        let Some(open) = &mut self.0 else { return Ok(()) };
        let Some(channel) = result
            .static_channels
            .get_by_type_mut::<Channel>()
            .and_then(|channel| channel.channel_processor_downcast_mut::<Channel>())
        else {
            return Ok(());
        };
        for received in channel.take() {
            match received {
                Received::Ready { agreed, wave } => {
                    open.encoder = Encoder::new(&agreed, Instant::now())?.map(|encoder| (encoder, wave));
                    if let Some((encoder, _)) = &mut open.encoder {
                        tracing::info!(format = %encoder.format(), "sound goes out");
                    }
                    // Of the time before.
                    open.source.drain();
                }
                Received::Confirmed(block) => open.flight.confirmed(block, Instant::now()),
            }
        }
        Ok(())
    }

    /// Another policy holds: what waits under one that closes the gate is thrown away.
    pub(crate) fn renew(&mut self) {
        if let Some(open) = &mut self.0 {
            open.refusal_told = false;
            if !open.holding.permits(&Action::PlaySound) {
                open.waiting.clear();
            }
        }
    }

    /// Whether something may be written to the client now.
    pub(crate) fn has_output(&self) -> bool {
        self.0.as_ref().is_some_and(|open| !open.waiting.is_empty() && open.flight.may_send(Instant::now()))
    }

    /// The next piece for the client.
    pub(crate) fn output(&mut self) -> Result<Vec<u8>, Error> {
        self.0.as_mut().map_or(Ok(Vec::new()), |open| open.send(Instant::now()))
    }
}

impl Open {
    fn take(&mut self, now: Instant) {
        self.source.read(&mut self.part);
        self.flight.forget(now);
        let piece = PIECE * usize::from(CHANNELS);
        while self.part.len() >= piece {
            let rest = self.part.split_off(piece);
            let piece = std::mem::replace(&mut self.part, rest);
            self.silent = if piece.iter().all(|sample| *sample == 0) { self.silent + 1 } else { 0 };
            if self.silent > LAST_SILENCE {
                continue;
            }
            if !self.holding.permits(&Action::PlaySound) {
                self.refused();
                continue;
            }
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.pop_front();
                self.lost += LASTS;
                if let Some((encoder, _)) = &mut self.encoder {
                    encoder.lost(LASTS, now);
                }
            }
            self.waiting.push_back(piece);
        }
    }

    /// Something plays that may not be heard. Told once, until that changes.
    fn refused(&mut self) {
        if self.silent == 0 && !std::mem::replace(&mut self.refusal_told, true) {
            let detail = "a program plays sound, which the client may not hear".to_owned();
            self.log.note(audit::violation(Actor::Device, "system.audio_out", detail));
        }
    }

    fn send(&mut self, now: Instant) -> Result<Vec<u8>, Error> {
        let (Some((encoder, wave)), Some(piece)) = (&mut self.encoder, self.waiting.pop_front()) else {
            return Ok(Vec::new());
        };
        let (format, data) = encoder.encode(&piece, now)?;
        if data.is_empty() {
            return Ok(Vec::new());
        }
        if self.log.is_on() {
            let bytes = encoder.piece(&data).write().into();
            self.log.note(Item::Sound(lucid_ipc::session::Sound { bytes }));
        }
        // It wraps after 49 days; only differences matter to the client.
        let time = now.duration_since(self.began).as_millis() as u32;
        tracing::trace!(time, waiting = self.waiting.len(), bytes = data.len(), "sound is sent");
        let messages = wave.messages(self.flight.sent(now), format, time, data)?;
        server_encode_svc_messages(messages, self.channel_id, self.user_id)
            .map_err(|_| Error::Encode("sound"))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.lost.is_zero() {
            tracing::info!(
                milliseconds = self.lost.as_millis() as u64,
                "sound was left out, because the client or the link was slow"
            );
        }
    }
}

#[cfg(test)]
mod tests;
