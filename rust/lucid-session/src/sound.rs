//! Records of the sound stream, each of one piece. Silence is not sent, and so not recorded.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | 0: PCM, 16-bit signed; 1: Opus (RFC 6716), one packet; 2: IMA ADPCM, whole blocks (as in RIFF, format 0x11) |
//! | 1 | channels, 1 or 2 |
//! | 2 | bytes of a block of ADPCM; else 0 |
//! | 4 | frames a second, 8000 to 48000 |
//! | the rest | the sound |

use crate::Error;

/// The most bytes of a record.
pub const MAX_RECORD: usize = 1 << 20;
/// Bytes before the sound.
const HEAD: usize = 8;

/// How a piece of sound is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// 16-bit signed, little-endian, channels interleaved.
    Pcm,
    /// One packet.
    Opus,
    /// Blocks of so many bytes.
    ImaAdpcm(u16),
}

/// A piece of sound, whose bytes lie elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// How it is coded.
    pub coding: Coding,
    /// 1 or 2.
    pub channels: u8,
    /// Frames a second.
    pub rate: u32,
    /// The sound.
    pub bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// When it is not what the format says. The sound is not looked into.
    pub fn read(payload: &'a [u8]) -> Result<Piece<'a>, Error> {
        let wrong = |why| Error { stream: "sound", why };
        let (head, bytes) = payload.split_first_chunk::<HEAD>().ok_or(wrong("it is too short"))?;
        let [coding, channels, b0, b1, rate @ ..] = *head;
        let coding = match (coding, u16::from_le_bytes([b0, b1])) {
            (0, 0) => Coding::Pcm,
            (1, 0) => Coding::Opus,
            (2, block) if block > 0 => Coding::ImaAdpcm(block),
            _ => return Err(wrong("its coding is unknown")),
        };
        let rate = u32::from_le_bytes(rate);
        if !(1..=2).contains(&channels) || !(8000..=48000).contains(&rate) {
            return Err(wrong("its channels or its rate are none that exist"));
        }
        Ok(Piece { coding, channels, rate, bytes })
    }

    /// The payload.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let (coding, block) = match self.coding {
            Coding::Pcm => (0, 0),
            Coding::Opus => (1, 0),
            Coding::ImaAdpcm(block) => (2, block),
        };
        let mut payload = Vec::with_capacity(HEAD + self.bytes.len());
        payload.extend([coding, self.channels]);
        payload.extend(block.to_le_bytes());
        payload.extend(self.rate.to_le_bytes());
        payload.extend_from_slice(self.bytes);
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_read_as_it_was_written_and_what_is_none_is_told_from_one() {
        for coding in [Coding::Pcm, Coding::Opus, Coding::ImaAdpcm(1024)] {
            let piece = Piece { coding, channels: 2, rate: 48000, bytes: b"sound" };
            let payload = piece.write();
            assert_eq!(Piece::read(&payload), Ok(piece));
            for end in 0..HEAD {
                assert!(Piece::read(&payload[..end]).is_err());
            }
            for (at, wrong) in [(0, 3), (1, 0), (1, 3), (7, 1)] {
                let mut payload = payload.clone();
                payload[at] = wrong;
                assert!(Piece::read(&payload).is_err(), "byte {at}");
            }
        }
    }
}
