//! The track of sound: packets of Opus without holes. What was recorded as Opus goes in as it is.

use ironrdp_rdpsnd::codec::{AudioDecoder, ima_adpcm_format};
use ironrdp_rdpsnd::pdu::{AudioFormat, WaveFormat};
use lucid_session::sound::{Coding, Piece};

use crate::Result;
use crate::mp4::{SOUND_SCALE, Sample};

/// A packet of Opus with 20 ms of silence: full band, two channels, and a frame that says so (RFC 6716, 3.1).
pub(crate) const SILENCE: [u8; 3] = [0xfc, 0xff, 0xfe];
/// What Opus takes at a time: 20 ms.
const PIECE: u64 = SOUND_SCALE as u64 / 50;
/// Sound comes in bursts; only what comes later than this after the sound before it has silence before it.
const LATE: u64 = SOUND_SCALE as u64 / 5;
/// A client plays what it is sent one after the other. What would be so late that no client had it is left out.
const EARLY: u64 = SOUND_SCALE as u64 * 2;
/// The longest packet (RFC 6716, 2.1.4).
const LONGEST: u64 = SOUND_SCALE as u64 * 120 / 1000;
/// Bits a second of what is encoded here: more than enough for two channels.
const RATE: i32 = 128_000;
const MAX_PACKET: usize = 4000;

/// Makes a track of pieces.
pub(crate) struct Track {
    /// The session's time at which the track begins, in microseconds.
    began_us: u64,
    /// Packets that are ready, the first of which begins at `start`.
    ready: std::collections::VecDeque<Sample>,
    /// All in frames since the beginning.
    start: u64,
    end: u64,
    /// Decoded, two channels, at the track's rate; begins at `end`.
    raw: Vec<i16>,
    encoder: Option<opus::Encoder>,
    /// Pieces that were left out.
    pub(crate) lost: u64,
}

impl Track {
    pub(crate) fn new(began_us: u64) -> Track {
        Track {
            began_us,
            ready: Default::default(),
            start: 0,
            end: 0,
            raw: Vec::new(),
            encoder: None,
            lost: 0,
        }
    }

    fn frames(&self, at_us: u64) -> u64 {
        let us = u128::from(at_us.saturating_sub(self.began_us));
        (us * u128::from(SOUND_SCALE) / 1_000_000) as u64
    }

    fn now(&self) -> u64 {
        self.end + self.raw.len() as u64 / 2
    }

    fn add(&mut self, bytes: Vec<u8>, duration: u64) {
        self.end += duration;
        self.ready.push_back(Sample { bytes, duration: duration as u32, key: true });
    }

    /// What is left over belongs to a track that begins there.
    pub(crate) fn begin_again(&mut self, began_us: u64) {
        let over = self.frames(began_us);
        self.began_us = began_us;
        self.start = self.start.saturating_sub(over);
        self.end = self.start + self.ready.iter().map(|sample| u64::from(sample.duration)).sum::<u64>();
    }

    /// Takes a piece.
    pub(crate) fn take(&mut self, at_us: u64, piece: Piece<'_>) -> Result<()> {
        let at = self.frames(at_us);
        if self.now() > at + EARLY {
            self.lost += 1;
            return Ok(());
        }
        if at > self.now() + LATE {
            self.silence(at)?;
        }
        if piece.coding == Coding::Opus {
            self.flush()?;
            let frames = opus::packet::get_nb_samples(piece.bytes, SOUND_SCALE)? as u64;
            if frames == 0 || frames > LONGEST {
                return Err(lucid_session::Error { stream: "sound", why: "a packet has no length" }.into());
            }
            self.add(piece.bytes.to_vec(), frames);
            return Ok(());
        }
        let wrong = |_| lucid_session::Error { stream: "sound", why: "it cannot be decoded" };
        let channels = u16::from(piece.channels);
        // ironrdp-rdpsnd 0.11 panics at a block that is shorter than its own head of 4 bytes a channel.
        if matches!(piece.coding, Coding::ImaAdpcm(block) if block <= 4 * channels) {
            let why = "a block of it is too short";
            return Err(lucid_session::Error { stream: "sound", why }.into());
        }
        let format = match piece.coding {
            Coding::ImaAdpcm(block) => ima_adpcm_format(channels, piece.rate, block),
            _ => AudioFormat {
                format: WaveFormat::PCM,
                n_channels: channels,
                n_samples_per_sec: piece.rate,
                n_avg_bytes_per_sec: piece.rate * 2 * u32::from(channels),
                n_block_align: 2 * channels,
                bits_per_sample: 16,
                data: None,
            },
        };
        let mut samples = Vec::new();
        AudioDecoder::new(&format).map_err(wrong)?.decode(piece.bytes, &mut samples).map_err(wrong)?;
        self.raw.extend(resampled(&samples, piece.channels, piece.rate));
        self.encode(false)
    }

    /// Encodes whole pieces, and in the end what is less.
    fn encode(&mut self, all: bool) -> Result<()> {
        let length = PIECE as usize * 2;
        while self.raw.len() >= length || all && !self.raw.is_empty() {
            let mut piece: Vec<i16> = self.raw.drain(..length.min(self.raw.len())).collect();
            piece.resize(length, 0);
            let encoder = match &mut self.encoder {
                Some(encoder) => encoder,
                none => {
                    let (stereo, kind) = (opus::Channels::Stereo, opus::Application::Audio);
                    let mut encoder = opus::Encoder::new(SOUND_SCALE, stereo, kind)?;
                    encoder.set_bitrate(opus::Bitrate::Bits(RATE))?;
                    none.insert(encoder)
                }
            };
            let packet = encoder.encode_vec(&piece, MAX_PACKET)?;
            self.add(packet, PIECE);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.encode(true)
    }

    fn silence(&mut self, until: u64) -> Result<()> {
        self.flush()?;
        while self.end + PIECE <= until {
            self.add(SILENCE.to_vec(), PIECE);
        }
        Ok(())
    }

    /// The packets that begin before a time, and when the first of them does.
    pub(crate) fn until(&mut self, at_us: u64) -> Result<(u64, Vec<Sample>)> {
        let until = self.frames(at_us);
        if until > self.now() + LATE {
            self.silence(until)?;
        }
        let start = self.start;
        let mut samples = Vec::new();
        while self.start < until
            && let Some(sample) = self.ready.pop_front()
        {
            self.start += u64::from(sample.duration);
            samples.push(sample);
        }
        Ok((start, samples))
    }

    /// The same up to the track's end, which is where the pictures end.
    pub(crate) fn rest(&mut self, at_us: u64) -> Result<(u64, Vec<Sample>)> {
        self.silence(self.frames(at_us))?;
        self.until(at_us)
    }
}

/// Two channels at the track's rate. Lucid records 48000 frames a second; for others, straight lines between samples do.
fn resampled(samples: &[i16], channels: u8, rate: u32) -> Vec<i16> {
    let channels = usize::from(channels.max(1));
    let frames: Vec<[i16; 2]> =
        samples.chunks_exact(channels).map(|frame| [frame[0], frame[channels - 1]]).collect();
    if rate == SOUND_SCALE {
        return frames.into_iter().flatten().collect();
    }
    let count = frames.len() as u64 * u64::from(SOUND_SCALE) / u64::from(rate.max(1));
    (0..count)
        .flat_map(|at| {
            let place = at * u64::from(rate);
            let (whole, part) = ((place / 48_000) as usize, (place % 48_000) as i64);
            let here = frames.get(whole).copied().unwrap_or_default();
            let next = frames.get(whole + 1).copied().unwrap_or(here);
            [0, 1].map(|side| {
                let (here, next) = (i64::from(here[side]), i64::from(next[side]));
                (here + (next - here) * part / 48_000) as i16
            })
        })
        .collect()
}
