//! Access units as MP4 has them (ISO/IEC 14496-15): each NAL unit with its length before it, parameter sets elsewhere.

use crate::{Error, Result};

/// NAL unit types (ITU-T H.264, table 7-1).
const IDR: u8 = 5;
const SEQUENCE: u8 = 7;
const PICTURE: u8 = 8;
const DELIMITER: u8 = 9;
/// The most bytes of a parameter set; real ones have some twenty.
const MAX_SET: usize = 4096;

/// What a decoder must know before the first picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) sequence: Vec<u8>,
    pub(crate) picture: Vec<u8>,
}

/// One access unit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// NAL units with their lengths in 4 bytes before them, without parameter sets.
    pub(crate) bytes: Vec<u8>,
    pub(crate) idr: bool,
    /// Those that came with it.
    pub(crate) parameters: Option<Parameters>,
}

/// NAL units of an Annex B byte stream, without start codes and the zeros after them.
fn units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    let next = |rest: &[u8]| rest.windows(3).position(|window| window == [0, 0, 1]);
    rest = next(rest).map_or(&[][..], |at| &rest[at + 3..]);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (unit, after) = match next(rest) {
            Some(at) => (&rest[..at], &rest[at + 3..]),
            None => (rest, &[][..]),
        };
        rest = after;
        let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Some(&unit[..end])
    })
    .filter(|unit| !unit.is_empty())
}

impl Unit {
    /// Reads an Annex B byte stream.
    pub(crate) fn read(stream: &[u8]) -> Result<Unit> {
        let mut bytes = Vec::with_capacity(stream.len() + 16);
        let (mut idr, mut sequence, mut picture) = (false, None, None);
        for unit in units(stream) {
            match unit[0] & 31 {
                SEQUENCE | PICTURE if unit.len() > MAX_SET => {
                    return Err(Error::H264("a parameter set is too long"));
                }
                SEQUENCE => sequence = Some(unit.to_vec()),
                PICTURE => picture = Some(unit.to_vec()),
                DELIMITER => {}
                kind => {
                    idr |= kind == IDR;
                    let length =
                        u32::try_from(unit.len()).map_err(|_| Error::H264("a picture is too large"))?;
                    bytes.extend(length.to_be_bytes());
                    bytes.extend_from_slice(unit);
                }
            }
        }
        if bytes.is_empty() {
            return Err(Error::H264("an access unit has no picture"));
        }
        let parameters = sequence.zip(picture).map(|(sequence, picture)| Parameters { sequence, picture });
        Ok(Unit { bytes, idr, parameters })
    }
}

/// Reads and copies bits.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    out: Vec<bool>,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<bool> {
        let byte = self.bytes.get(self.at / 8).ok_or(Error::H264("a sequence parameter set is cut off"))?;
        let bit = byte >> (7 - self.at % 8) & 1 == 1;
        self.at += 1;
        Ok(bit)
    }

    fn copy(&mut self, count: usize) -> Result<u32> {
        let mut value = 0;
        for _ in 0..count {
            let bit = self.bit()?;
            self.out.push(bit);
            value = value << 1 | u32::from(bit);
        }
        Ok(value)
    }

    /// Exp-Golomb (ITU-T H.264, 9.1).
    fn copy_golomb(&mut self) -> Result<u32> {
        let mut zeros = 0;
        while self.copy(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return Err(Error::H264("a number in a sequence parameter set is too large"));
            }
        }
        let rest = self.copy(zeros)?;
        Ok(((1_u64 << zeros) - 1) as u32 + rest)
    }

    fn write_golomb(&mut self, value: u32) {
        let coded = u64::from(value) + 1;
        let bits = 64 - coded.leading_zeros();
        self.out.extend((1..bits).map(|_| false));
        self.out.extend((0..bits).rev().map(|bit| coded >> bit & 1 == 1));
    }
}

/// A sequence parameter set that says how much of its pictures is shown: encoders round sizes up to whole macroblocks,
/// and RDP has other means to cut that off. Slices do not depend on it (ITU-T H.264, 7.3.2.1.1).
pub(crate) fn cropped(sequence: &[u8], width: u16, height: u16) -> Result<Vec<u8>> {
    // Without the bytes that keep start codes out (7.4.1).
    let mut raw = Vec::with_capacity(sequence.len());
    for byte in sequence {
        if !(*byte == 3 && raw.ends_with(&[0, 0])) {
            raw.push(*byte);
        }
    }
    let [header, profile, constraints, level, payload @ ..] = raw.as_slice() else {
        return Err(Error::H264("a sequence parameter set is cut off"));
    };
    if !matches!(profile, 66 | 77 | 88) {
        return Err(Error::H264("the profile is none of Baseline, Main and Extended"));
    }
    let mut bits = Bits { bytes: payload, at: 0, out: Vec::new() };
    bits.copy_golomb()?; // seq_parameter_set_id
    bits.copy_golomb()?; // log2_max_frame_num_minus4
    match bits.copy_golomb()? {
        0 => drop(bits.copy_golomb()?),
        1 => return Err(Error::H264("its order of pictures is of a kind that no encoder of Lucid writes")),
        _ => {}
    }
    bits.copy_golomb()?; // max_num_ref_frames
    bits.copy(1)?; // gaps_in_frame_num_value_allowed_flag
    let coded_width = bits.copy_golomb()?.saturating_add(1).saturating_mul(16);
    let coded_height = bits.copy_golomb()?.saturating_add(1).saturating_mul(16);
    if bits.copy(1)? == 0 {
        return Err(Error::H264("it is interlaced"));
    }
    bits.copy(1)?; // direct_8x8_inference_flag
    if bits.bit()? {
        return Err(Error::H264("its pictures are cut already"));
    }
    let spare = |coded: u32, shown: u16| coded.checked_sub(shown.into()).filter(|spare| *spare < 16);
    let (Some(right), Some(bottom)) = (spare(coded_width, width), spare(coded_height, height)) else {
        return Err(Error::H264("its pictures are not of the size that is shown"));
    };
    // In units of two pixels, since colours have half of the size; an odd edge shows one pixel more.
    let (right, bottom) = (right / 2, bottom / 2);
    let crops = right + bottom > 0;
    bits.out.push(crops);
    if crops {
        [0, right, 0, bottom].into_iter().for_each(|edge| bits.write_golomb(edge));
    }
    // The rest, up to the bit that ends it; more zeros may follow that.
    let last = payload.iter().rposition(|byte| *byte != 0).ok_or(Error::H264("a set has no end"))?;
    let end = last * 8 + 7 - payload[last].trailing_zeros() as usize;
    while bits.at <= end {
        bits.copy(1)?;
    }
    let mut out = vec![*header, *profile, *constraints, *level];
    for byte in bits.out.chunks(8) {
        let byte = byte.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(*bit) << (7 - at));
        if byte <= 3 && out.ends_with(&[0, 0]) {
            out.push(3);
        }
        out.push(byte);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use lucid_video::{Encoder as _, OpenH264, Rect, Settings};

    use super::*;

    fn unit(width: u32, height: u32) -> Unit {
        let mut encoder = OpenH264::new(Settings::desktop(width, height)).unwrap();
        let pixels = vec![90; (width * height * 4) as usize];
        let picture = lucid_video::Picture {
            width,
            height,
            stride: width as usize * 4,
            pixels: &pixels,
            damage: &[Rect { x: 0, y: 0, width, height }],
        };
        Unit::read(encoder.encode(picture).unwrap().bytes).unwrap()
    }

    #[test]
    fn a_cut_sequence_parameter_set_has_the_size_that_is_shown_and_a_decoder_takes_it() {
        for (width, height, shown) in [(640, 480, (640, 480)), (630, 470, (630, 470)), (641, 479, (642, 480))]
        {
            let unit = unit(width, height);
            assert!(unit.idr);
            let parameters = unit.parameters.unwrap();
            let cut = cropped(&parameters.sequence, width as u16, height as u16).unwrap();
            let mut stream = Vec::new();
            for unit in [cut.as_slice(), &parameters.picture, &unit.bytes[4..]] {
                stream.extend([0, 0, 0, 1]);
                stream.extend_from_slice(unit);
            }
            let mut decoder = openh264::decoder::Decoder::new().unwrap();
            let picture = decoder.decode(&stream).unwrap().unwrap();
            use openh264::formats::YUVSource as _;
            assert_eq!(picture.dimensions(), shown);
        }
    }

    #[test]
    fn what_is_no_sequence_parameter_set_is_refused() {
        let parameters = unit(64, 64).parameters.unwrap();
        for end in 0..parameters.sequence.len() - 4 {
            let _ = cropped(&parameters.sequence[..end], 64, 64);
        }
        assert!(cropped(&parameters.sequence[..6], 64, 64).is_err());
        assert!(cropped(&parameters.sequence, 640, 64).is_err());
        assert!(cropped(&[0x67, 66, 0, 30, 0, 0, 0, 0, 0], 64, 64).is_err());
        assert!(
            Unit::read(&[]).is_err() && Unit::read(&[0, 0, 1]).is_err() && Unit::read(&[1, 2, 3]).is_err()
        );
    }
}
