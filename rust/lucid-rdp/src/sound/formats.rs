//! What sound goes out as.
//!
//! Opus where the client knows it: nobody hears a difference, and it takes a sixteenth. Else PCM, which is exact and takes
//! 1.5 Mbit/s; and IMA ADPCM, a quarter of that, while the link does not carry PCM. Every wave names its format
//! (MS-RDPEA 2.2.3.3), so it can change at any time.

use std::time::{Duration, Instant};

use ironrdp_rdpsnd::codec::{AudioEncoder, ima_adpcm_format};
use ironrdp_rdpsnd::pdu::{AudioFormat, WaveFormat};
use lucid_desktop::sound::{CHANNELS, FRAME, RATE};
use lucid_session::sound::{Coding, Piece};

use crate::Error;

/// Bits a second of Opus.
const OPUS: u32 = 96_000;
/// How hard Opus tries, of 10: half of the time that 10 takes.
const EFFORT: i32 = 5;
/// The longest packet of Opus that is of use, in bytes; 240 are usual.
const OPUS_PACKET: usize = 1500;
/// Bytes of one block of ADPCM: 21 ms.
const BLOCK: u16 = 1024;
/// Losses are counted for so long.
const COUNTED: Duration = Duration::from_secs(5);
/// A link that loses so much of what plays meanwhile does not carry it.
const TOO_MUCH: Duration = Duration::from_millis(500);
/// After this time it is tried again whether the link carries more, and after each failure twice as long.
const RETRY: Duration = Duration::from_secs(60);
/// But no later than this.
const LAST_RETRY: Duration = Duration::from_secs(960);

/// What can be sent, the best first.
pub(super) fn offered() -> Vec<AudioFormat> {
    let pcm = AudioFormat {
        format: WaveFormat::PCM,
        n_channels: CHANNELS,
        n_samples_per_sec: RATE,
        n_avg_bytes_per_sec: RATE * FRAME as u32,
        n_block_align: FRAME as u16,
        bits_per_sample: 16,
        data: None,
    };
    let opus = AudioFormat { format: WaveFormat::OPUS, n_avg_bytes_per_sec: OPUS / 8, ..pcm.clone() };
    vec![opus, pcm, ima_adpcm_format(CHANNELS, RATE, BLOCK)]
}

/// A format that both sides know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) format: AudioFormat,
    /// Its number in the client's list.
    pub(super) number: u16,
}

/// The formats that both know, the best first.
pub(super) fn agreed(theirs: &[AudioFormat]) -> Vec<Agreed> {
    let number = |format: &AudioFormat| {
        u16::try_from(theirs.iter().position(|theirs| theirs.matches_for_negotiation(format))?).ok()
    };
    let known = offered().into_iter();
    known.filter_map(|format| number(&format).map(|number| Agreed { format, number })).collect()
}

#[derive(Debug)]
enum Codec {
    Opus(opus::Encoder),
    Other(AudioEncoder),
}

impl Codec {
    fn new(format: &AudioFormat) -> Result<Codec, Error> {
        if format.format != WaveFormat::OPUS {
            return AudioEncoder::new(format).map(Codec::Other).map_err(|_| Error::Encode("sound"));
        }
        let made = || {
            let mut encoder = opus::Encoder::new(RATE, opus::Channels::Stereo, opus::Application::Audio)?;
            encoder.set_bitrate(opus::Bitrate::Bits(OPUS as i32))?;
            encoder.set_complexity(EFFORT)?;
            Ok::<_, opus::Error>(encoder)
        };
        made().map(Codec::Opus).map_err(|_| Error::Encode("sound"))
    }

    fn encode(&mut self, samples: &[i16]) -> Result<Vec<u8>, Error> {
        match self {
            Codec::Opus(encoder) => {
                encoder.encode_vec(samples, OPUS_PACKET).map_err(|_| Error::Encode("sound"))
            }
            Codec::Other(encoder) => {
                let mut wave = Vec::new();
                encoder.encode(samples, &mut wave);
                Ok(wave)
            }
        }
    }
}

/// Encodes with the best format that the link carries.
#[derive(Debug)]
pub(super) struct Encoder {
    /// The best one, and the one that takes least if that is another one.
    best: (Agreed, Codec),
    least: Option<(Agreed, Codec)>,
    frugal: bool,
    /// What was lost since when.
    lost: (Duration, Instant),
    /// When to try the best again, and the time for the next try.
    retry: (Instant, Duration),
}

impl Encoder {
    /// With formats that both sides know, the best first; `None` if there is none.
    pub(super) fn new(agreed: &[Agreed], now: Instant) -> Result<Option<Encoder>, Error> {
        let Some((best, others)) = agreed.split_first() else { return Ok(None) };
        let with = |agreed: &Agreed| Ok::<_, Error>((agreed.clone(), Codec::new(&agreed.format)?));
        // Nothing takes less than Opus.
        let least = others.last().filter(|_| best.format.format != WaveFormat::OPUS);
        Ok(Some(Encoder {
            best: with(best)?,
            least: least.map(with).transpose()?,
            frugal: false,
            lost: (Duration::ZERO, now),
            retry: (now, RETRY),
        }))
    }

    fn current(&mut self) -> &mut (Agreed, Codec) {
        match &mut self.least {
            Some(least) if self.frugal => least,
            _ => &mut self.best,
        }
    }

    /// The format in use.
    pub(super) fn format(&mut self) -> WaveFormat {
        self.current().0.format.format
    }

    /// A wave for these samples (20 ms), with its format's number; empty while a block is not full.
    pub(super) fn encode(&mut self, samples: &[i16], now: Instant) -> Result<(u16, Vec<u8>), Error> {
        if self.frugal && now >= self.retry.0 {
            self.turn(false, now);
        }
        let (agreed, codec) = self.current();
        Ok((agreed.number, codec.encode(samples)?))
    }

    /// How what was encoded last is coded, for the recording.
    pub(super) fn piece<'a>(&mut self, bytes: &'a [u8]) -> Piece<'a> {
        let format = &self.current().0.format;
        let coding = match format.format {
            WaveFormat::OPUS => Coding::Opus,
            WaveFormat::PCM => Coding::Pcm,
            // The third that is offered.
            _ => Coding::ImaAdpcm(format.n_block_align),
        };
        let channels = u8::try_from(format.n_channels).unwrap_or(u8::MAX);
        Piece { coding, channels, rate: format.n_samples_per_sec, bytes }
    }

    /// So much had to be left out, because the link or the client was behind.
    pub(super) fn lost(&mut self, time: Duration, now: Instant) {
        let (lost, since) = &mut self.lost;
        if now.saturating_duration_since(*since) > COUNTED {
            (*lost, *since) = (Duration::ZERO, now);
        }
        *lost += time;
        if *lost >= TOO_MUCH && !self.frugal && self.least.is_some() {
            let wait = self.retry.1;
            self.retry = (now + wait, (wait * 2).min(LAST_RETRY));
            self.turn(true, now);
        }
    }

    fn turn(&mut self, frugal: bool, now: Instant) {
        self.frugal = frugal;
        self.lost = (Duration::ZERO, now);
        let format = self.format();
        tracing::debug!(%format, "sound goes on in another format");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_millis(20);

    #[test]
    fn the_best_format_that_the_client_knows_comes_first_with_its_number_there() {
        let [opus, pcm, adpcm] = <[AudioFormat; 3]>::try_from(offered()).unwrap();
        let unknown = AudioFormat { n_samples_per_sec: 8000, ..pcm.clone() };
        let numbers = |theirs: &[&AudioFormat]| -> Vec<u16> {
            let theirs: Vec<_> = theirs.iter().map(|f| (*f).clone()).collect();
            agreed(&theirs).iter().map(|agreed| agreed.number).collect()
        };
        assert_eq!(numbers(&[&unknown, &adpcm, &pcm]), [2, 1]);
        assert_eq!(numbers(&[&pcm, &adpcm, &unknown, &opus]), [3, 0, 1]);
        assert_eq!(numbers(&[&adpcm]), [0]);
        assert!(numbers(&[&unknown]).is_empty());
        let many = vec![&unknown; 70_000];
        assert!(numbers(&[&many[..], &[&pcm]].concat()).is_empty());
    }

    #[test]
    fn a_link_that_loses_much_gets_adpcm_and_later_another_chance_that_comes_ever_later() {
        let mut now = Instant::now();
        let mut encoder = Encoder::new(&agreed(&offered()[1..]), now).unwrap().unwrap();
        let silence = [0; 960 * 2];
        assert_eq!(encoder.encode(&silence, now).unwrap().0, 0);
        // Now and then a little is no reason.
        for _ in 0..100 {
            now += Duration::from_secs(1);
            encoder.lost(PIECE, now);
        }
        assert_eq!(encoder.encode(&silence, now).unwrap().0, 0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            for _ in 0..30 {
                now += PIECE;
                encoder.lost(PIECE, now);
            }
            let start = now;
            while encoder.encode(&silence, now).unwrap().0 == 1 {
                now += PIECE;
            }
            waits.push((now - start).as_secs_f64().round() as u64);
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 960, 960, 960]);
    }

    #[test]
    fn opus_takes_a_sixteenth_and_adpcm_a_quarter_and_a_client_with_one_format_keeps_it() {
        let mut now = Instant::now();
        let mut seed = 1_u32;
        // Noise: nothing takes more.
        let samples = |seed: &mut u32| -> Vec<i16> {
            let next = |_| {
                *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (*seed >> 18) as i16
            };
            (0..960 * 2).map(next).collect()
        };
        let theirs = agreed(&offered());
        for (agreed, least, most) in
            [(&theirs[..], 8_000, 13_500), (&theirs[1..2], 190_000, 192_000), (&theirs[2..], 45_000, 49_000)]
        {
            let mut encoder = Encoder::new(agreed, now).unwrap().unwrap();
            let mut bytes = 0;
            for _ in 0..50 {
                encoder.lost(PIECE * 10, now);
                let (number, wave) = encoder.encode(&samples(&mut seed), now).unwrap();
                assert_eq!(number, agreed[0].number);
                assert!(wave.len() <= usize::from(u16::MAX) - 100);
                bytes += wave.len();
                now += PIECE;
            }
            assert!((least..=most).contains(&bytes), "{bytes}");
        }
        assert!(Encoder::new(&[], now).unwrap().is_none());
    }
}
