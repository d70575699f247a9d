//! The static channel `rdpsnd` (MS-RDPEA): agrees on a format, and collects confirmations for the session.

use super::formats::{self, Agreed};
use crate::{Error, chunk};
use ironrdp_core::{decode, impl_as_any};
use ironrdp_pdu::PduResult;
use ironrdp_pdu::gcc::ChannelName;
use ironrdp_rdpsnd::pdu::{
    AudioFormatFlags, ClientAudioFormatPdu, ClientAudioOutputPdu, ServerAudioFormatPdu, ServerAudioOutputPdu,
    TrainingPdu, Version, Wave2Pdu, WaveDataPdu, WavePdu,
};
use ironrdp_svc::{CompressionCondition, StaticVirtualChannel, SvcMessage, SvcProcessor, SvcServerProcessor};

/// The longest message, in bytes: a client's list of formats. Windows sends some 30 formats of 18 to 50 bytes.
const LONGEST: u32 = 32 * 1024;
/// Messages that were not looked at. They are looked at after each piece that is read, so there is never more than one.
const MAX_RECEIVED: usize = 16;

/// What the session is told.
#[derive(Debug)]
pub(super) enum Received {
    /// The client takes sound, in these formats.
    Ready { agreed: Vec<Agreed>, wave: Wave },
    /// The client has the piece of this number.
    Confirmed(u8),
}

/// How pieces are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wave {
    /// In two messages, 2.2.3.3 and 2.2.3.4.
    One,
    /// In one, 2.2.3.10: to clients of version 8 and above.
    Two,
}

impl Wave {
    /// The messages with a piece; `time` in milliseconds.
    pub(super) fn messages(
        self,
        block_no: u8,
        format_no: u16,
        time: u32,
        data: Vec<u8>,
    ) -> Result<Vec<SvcMessage>, Error> {
        let timestamp = time as u16;
        match self {
            Wave::Two => {
                let wave =
                    Wave2Pdu { timestamp, format_no, block_no, audio_timestamp: time, data: data.into() };
                Ok(vec![ServerAudioOutputPdu::Wave2(wave).into()])
            }
            Wave::One => {
                let length = u16::try_from(data.len()).ok().filter(|n| *n <= WavePdu::MAX_AUDIO_LENGTH);
                let (Some(audio_length), Some((first, rest))) = (length, data.split_first_chunk::<4>())
                else {
                    return Err(Error::Encode("sound"));
                };
                let info = WavePdu { timestamp, format_no, block_no, data_prefix: *first, audio_length };
                let rest = WaveDataPdu { data: rest.to_vec() };
                Ok(vec![ServerAudioOutputPdu::Wave(info).into(), rest.into()])
            }
        }
    }
}

#[derive(Debug)]
enum State {
    /// The client has been told what there is.
    Offered,
    /// And has chosen, and was asked how quick it is.
    Training {
        agreed: Vec<Agreed>,
        wave: Wave,
    },
    Ready,
    /// It takes no sound, or does not keep to the protocol.
    Off,
}

/// The channel's end on this host.
#[derive(Debug)]
pub(crate) struct Channel {
    state: State,
    received: Vec<Received>,
}

impl_as_any!(Channel);

impl Channel {
    const NAME: ChannelName = ChannelName::from_static(b"rdpsnd\0\0");

    pub(crate) fn new() -> Channel {
        Channel { state: State::Offered, received: Vec::new() }
    }

    /// What has come since the last time.
    pub(super) fn take(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.received)
    }

    fn choose(&mut self, client: &ClientAudioFormatPdu) -> Vec<SvcMessage> {
        let agreed = formats::agreed(&client.formats);
        if agreed.is_empty() || !client.flags.contains(AudioFormatFlags::ALIVE) {
            tracing::info!(
                formats = client.formats.len(),
                "the client takes no sound, or none that there is"
            );
            self.state = State::Off;
            return Vec::new();
        }
        let wave = if client.version >= Version::V8 { Wave::Two } else { Wave::One };
        self.state = State::Training { agreed, wave };
        // Only to know that the client has come so far; how quick it is, confirmations tell.
        vec![ServerAudioOutputPdu::Training(TrainingPdu { timestamp: 0, data: Vec::new() }).into()]
    }
}

/// Looks at one piece of a message before it is put together: what is too large is never held. Passes other channels'.
pub(crate) fn bound(channel: &StaticVirtualChannel, piece: &[u8]) -> Result<(), Error> {
    chunk::bound::<Channel>(channel, piece, LONGEST, "a piece of a sound message")
}

impl SvcProcessor for Channel {
    fn channel_name(&self) -> ChannelName {
        Self::NAME
    }

    fn compression_condition(&self) -> CompressionCondition {
        CompressionCondition::Never
    }

    fn start(&mut self) -> PduResult<Vec<SvcMessage>> {
        let formats = ServerAudioFormatPdu { version: Version::V8, formats: formats::offered() };
        Ok(vec![ServerAudioOutputPdu::AudioFormat(formats).into()])
    }

    fn process(&mut self, payload: &[u8]) -> PduResult<Vec<SvcMessage>> {
        let Ok(message) = decode::<ClientAudioOutputPdu>(payload) else {
            // Also of a version that is not known yet. The desktop is worth more than its sound.
            if !matches!(self.state, State::Off) {
                tracing::warn!("the client's sound messages are not understood; it gets no sound");
                self.state = State::Off;
            }
            return Ok(Vec::new());
        };
        match (&self.state, message) {
            (State::Offered, ClientAudioOutputPdu::AudioFormat(client)) => return Ok(self.choose(&client)),
            (State::Training { .. }, ClientAudioOutputPdu::TrainingConfirm(_)) => {
                if let State::Training { agreed, wave } = std::mem::replace(&mut self.state, State::Ready) {
                    self.received.push(Received::Ready { agreed, wave });
                }
            }
            (State::Ready, ClientAudioOutputPdu::WaveConfirm(confirm))
                if self.received.len() < MAX_RECEIVED =>
            {
                self.received.push(Received::Confirmed(confirm.block_no));
            }
            // What quality the client would like, and what comes at the wrong time.
            _ => {}
        }
        Ok(Vec::new())
    }
}

impl SvcServerProcessor for Channel {}

#[cfg(test)]
pub(super) mod tests;
