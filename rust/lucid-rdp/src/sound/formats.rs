//! What sound goes out as.
//!
//! PCM is exact and takes 1.5 Mbit/s; IMA ADPCM takes a quarter of that and is heard to be worse only by attentive
//! ears. Every wave names its format (MS-RDPEA 2.2.3.3), so it can change at any time: PCM as long as the link carries
//! it, ADPCM when it does not.

use std::time::{Duration, Instant};

use ironrdp_rdpsnd::codec::{AudioEncoder, ima_adpcm_format};
use ironrdp_rdpsnd::pdu::{AudioFormat, WaveFormat};
use lucid_desktop::sound::{CHANNELS, FRAME, RATE};

use crate::Error;

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
    vec![pcm, ima_adpcm_format(CHANNELS, RATE, BLOCK)]
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

/// Encodes with the best format that the link carries.
#[derive(Debug)]
pub(super) struct Encoder {
    /// The best one and the one that takes least, with their encoders; one format can be both.
    formats: [(Agreed, AudioEncoder); 2],
    frugal: bool,
    /// What was lost since when.
    lost: (Duration, Instant),
    /// When to try the best again, and the time for the next try.
    retry: (Instant, Duration),
}

impl Encoder {
    /// With formats that both sides know, the best first; `None` if there is none.
    pub(super) fn new(agreed: &[Agreed], now: Instant) -> Result<Option<Encoder>, Error> {
        let (Some(best), Some(least)) = (agreed.first(), agreed.last()) else { return Ok(None) };
        let with = |agreed: &Agreed| {
            let encoder = AudioEncoder::new(&agreed.format).map_err(|_| Error::Encode("sound"))?;
            Ok::<_, Error>((agreed.clone(), encoder))
        };
        let formats = [with(best)?, with(least)?];
        Ok(Some(Encoder { formats, frugal: false, lost: (Duration::ZERO, now), retry: (now, RETRY) }))
    }

    /// The format in use.
    pub(super) fn format(&self) -> &Agreed {
        let [best, least] = &self.formats;
        if self.frugal { &least.0 } else { &best.0 }
    }

    /// A wave for these samples, with its format's number; empty while a block is not full.
    pub(super) fn encode(&mut self, samples: &[i16], now: Instant) -> (u16, Vec<u8>) {
        if self.frugal && now >= self.retry.0 {
            self.turn(false, now);
        }
        let [best, least] = &mut self.formats;
        let (agreed, encoder) = if self.frugal { least } else { best };
        let mut wave = Vec::new();
        encoder.encode(samples, &mut wave);
        (agreed.number, wave)
    }

    /// So much had to be left out, because the link or the client was behind.
    pub(super) fn lost(&mut self, time: Duration, now: Instant) {
        let (lost, since) = &mut self.lost;
        if now.saturating_duration_since(*since) > COUNTED {
            (*lost, *since) = (Duration::ZERO, now);
        }
        *lost += time;
        if *lost >= TOO_MUCH && !self.frugal {
            let wait = self.retry.1;
            self.retry = (now + wait, (wait * 2).min(LAST_RETRY));
            self.turn(true, now);
        }
    }

    fn turn(&mut self, frugal: bool, now: Instant) {
        self.frugal = frugal;
        self.lost = (Duration::ZERO, now);
        let [best, least] = &self.formats;
        if best.0 != least.0 {
            tracing::debug!(format = %self.format().format.format, "sound goes on in another format");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_millis(20);

    #[test]
    fn the_best_format_that_the_client_knows_comes_first_with_its_number_there() {
        let [pcm, adpcm] = <[AudioFormat; 2]>::try_from(offered()).unwrap();
        let unknown = AudioFormat { n_samples_per_sec: 8000, ..pcm.clone() };
        let numbers = |theirs: &[&AudioFormat]| -> Vec<u16> {
            let theirs: Vec<_> = theirs.iter().map(|f| (*f).clone()).collect();
            agreed(&theirs).iter().map(|agreed| agreed.number).collect()
        };
        assert_eq!(numbers(&[&unknown, &adpcm, &pcm]), [2, 1]);
        assert_eq!(numbers(&[&adpcm]), [0]);
        assert!(numbers(&[&unknown]).is_empty());
        let many = vec![&unknown; 70_000];
        assert!(numbers(&[&many[..], &[&pcm]].concat()).is_empty());
    }

    #[test]
    fn a_link_that_loses_much_gets_adpcm_and_later_another_chance_that_comes_ever_later() {
        let mut now = Instant::now();
        let mut encoder = Encoder::new(&agreed(&offered()), now).unwrap().unwrap();
        let silence = [0; 960 * 2];
        assert_eq!(encoder.encode(&silence, now).0, 0);
        // Now and then a little is no reason.
        for _ in 0..100 {
            now += Duration::from_secs(1);
            encoder.lost(PIECE, now);
        }
        assert_eq!(encoder.encode(&silence, now).0, 0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            for _ in 0..30 {
                now += PIECE;
                encoder.lost(PIECE, now);
            }
            let start = now;
            while encoder.encode(&silence, now).0 == 1 {
                now += PIECE;
            }
            waits.push((now - start).as_secs_f64().round() as u64);
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 960, 960, 960]);
    }

    #[test]
    fn adpcm_takes_a_quarter_and_a_client_with_one_format_keeps_it() {
        let mut now = Instant::now();
        let theirs = agreed(&offered());
        for (agreed, most) in [(&theirs[1..], 49_000), (&theirs[..1], 192_000)] {
            let mut encoder = Encoder::new(agreed, now).unwrap().unwrap();
            let mut bytes = 0;
            for _ in 0..50 {
                encoder.lost(PIECE * 10, now);
                let (number, wave) = encoder.encode(&[1000; 960 * 2], now);
                assert_eq!(number, agreed[0].number);
                assert!(wave.len() <= usize::from(u16::MAX) - 100);
                bytes += wave.len();
                now += PIECE;
            }
            assert!(bytes <= most && bytes > most * 9 / 10, "{bytes}");
        }
        assert!(Encoder::new(&[], now).unwrap().is_none());
    }
}
