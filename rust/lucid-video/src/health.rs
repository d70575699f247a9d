//! The health check of a hardware encoder: it has to do, on a small moving picture, all that is going to be asked of
//! it.

use std::path::Path;

use openh264::decoder::Decoder;
use openh264::formats::YUVSource as _;

use crate::colour::I420;
use crate::v4l2::{Coded, Patience, V4l2};
use crate::{Encoder, Error, Picture, Rect, Settings, Steering, annexb};

/// Small, but as large as the largest minimum that is known (`vicodec`).
const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
/// Two quantisers that have to make a difference.
const FINE: u8 = 20;
const COARSE: u8 = 44;
/// Two rates that have to, in bits per second.
const HIGH: u32 = 8_000_000;
const LOW: u32 = 400_000;
/// How far off a luma sample of the fine quantiser may be in the mean, of 255.
const TOLERANCE: u64 = 8;

/// Tries a device out; gives by what it is steered.
///
/// # Errors
/// When it does not do what it must, with the reason.
pub fn examine(device: &Path, coded: Coded, patience: Patience) -> Result<Steering, Error> {
    examine_with(device, coded, |settings, steering| {
        let encoder = V4l2::open(device, coded, settings, steering, patience)?;
        Ok(Box::new(encoder) as Box<dyn Encoder>)
    })
}

/// Something that sets a device up.
trait Open: FnMut(Settings, Steering) -> Result<Box<dyn Encoder>, Error> {}
impl<F: FnMut(Settings, Steering) -> Result<Box<dyn Encoder>, Error>> Open for F {}

fn examine_with(device: &Path, coded: Coded, mut open: impl Open) -> Result<Steering, Error> {
    // By its quantiser if that has an effect at once, otherwise by its rate.
    match steered_by(device, coded, Steering::Quantiser, &mut open) {
        Ok(()) => Ok(Steering::Quantiser),
        Err(first @ (Error::DeviceLate { .. } | Error::Undecodable { .. })) => Err(first),
        Err(first) => match steered_by(device, coded, Steering::Bitrate, &mut open) {
            Ok(()) => Ok(Steering::Bitrate),
            Err(Error::DeviceRefused { what: "it lets nobody choose the rate", .. }) => Err(first),
            Err(second) => Err(second),
        },
    }
}

fn steered_by(device: &Path, coded: Coded, steering: Steering, open: &mut impl Open) -> Result<(), Error> {
    let settings = Settings::motion(WIDTH, HEIGHT, FINE).with_bitrate(HIGH)?;
    let mut trial = Trial {
        device,
        coded,
        encoder: open(settings, steering)?,
        decoder: Decoder::new().map_err(|source| undecodable(device, source))?,
        shown: 0,
    };
    let fine = trial.pictures(8, &[0])?;
    // What it settled for counts, not how it began.
    trial.encoder.force_key_frame();
    match steering {
        Steering::Quantiser => trial.encoder.set_qp(COARSE)?,
        Steering::Bitrate => trial.encoder.set_bitrate(LOW)?,
    }
    let coarse = trial.pictures(8, &[0])?;
    if coarse * 3 > fine * 2 {
        let what = match steering {
            Steering::Quantiser => "its pictures do not become smaller with a coarser quantiser",
            Steering::Bitrate => "its pictures do not become smaller with a lower rate",
        };
        return Err(Error::DeviceRefused { device: device.to_owned(), what });
    }
    Ok(())
}

fn undecodable(device: &Path, source: openh264::Error) -> Error {
    Error::Undecodable { device: device.to_owned(), source }
}

struct Trial<'a> {
    device: &'a Path,
    coded: Coded,
    encoder: Box<dyn Encoder>,
    decoder: Decoder,
    shown: u32,
}

impl Trial<'_> {
    /// Encodes so many pictures, of which those named have to be key frames and all others must not; gives the bytes of
    /// the second half.
    fn pictures(&mut self, count: usize, key_frames: &[usize]) -> Result<usize, Error> {
        let refused = |what| Error::DeviceRefused { device: self.device.to_owned(), what };
        let whole = [Rect { x: 0, y: 0, width: WIDTH, height: HEIGHT }];
        let mut bytes = 0;
        for number in 0..count {
            let pixels = moving_picture(WIDTH, HEIGHT, self.shown);
            self.shown += 1;
            let picture = Picture {
                width: WIDTH,
                height: HEIGHT,
                stride: WIDTH as usize * 4,
                pixels: &pixels,
                damage: &whole,
            };
            let fine = self.encoder.encode(picture)?;
            if fine.key_frame != key_frames.contains(&number) {
                return Err(refused(if fine.key_frame {
                    "it makes key frames that nobody asked for"
                } else {
                    "it makes no key frame when asked for one"
                }));
            }
            if number >= count / 2 {
                bytes += fine.bytes.len();
            }
            if self.coded == Coded::H264 {
                let kinds: Vec<u8> = annexb::units(fine.bytes).map(|(kind, _)| kind).collect();
                if fine.key_frame && !(kinds.contains(&7) && kinds.contains(&8)) {
                    return Err(refused("its key frame has no parameter sets"));
                }
                let decoded = self.decoder.decode(fine.bytes).map_err(|e| undecodable(self.device, e))?;
                let decoded = decoded.ok_or_else(|| refused("it does not write one picture for each"))?;
                let mut planes = I420::new(WIDTH, HEIGHT)?;
                planes.convert(picture)?;
                let (width, height) = decoded.dimensions();
                if (width, height) != planes.coded_size() {
                    return Err(refused("it writes pictures of another size"));
                }
                // Only as it begins: what comes later may be coarse on purpose.
                if self.shown == 1 {
                    let (stride, _, _) = decoded.strides();
                    let ours = planes.y().chunks_exact(width);
                    let theirs = decoded.y().chunks(stride).take(height);
                    let off: u64 = ours
                        .zip(theirs)
                        .flat_map(|(a, b)| a.iter().zip(b))
                        .map(|(a, b)| u64::from(a.abs_diff(*b)))
                        .sum();
                    if off > TOLERANCE * (width * height) as u64 {
                        return Err(refused("what it writes shows another picture"));
                    }
                }
            }
        }
        Ok(bytes)
    }
}

/// Something in colours that moves: picture `number` of it, BGRX.
#[must_use]
pub fn moving_picture(width: u32, height: u32, number: u32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity((width * height * 4) as usize);
    for y in 0..height {
        for x in 0..width {
            // Grain that no motion vector finds again: what it takes depends on the quantiser alone.
            let grain = (x * 0x9e37 + y * 0x79b9 + number * 0x7f4a + 1).wrapping_mul(0x85eb_ca6b) >> 28;
            let (x, y) = (x + 5 * number, y + 2 * number);
            // Soft colours with edges in them.
            let block = if (x / 48 + y / 40) % 2 == 0 { 64 } else { 0 };
            let wave = |at: u32, period: u32| {
                let phase = at % period;
                phase.min(period - phase) * 255 / period
            };
            let blue = wave(x, 320) + block + grain;
            let green = wave(y, 240) + 64 + grain;
            let red = wave(x + y, 400) + (64 - block) + grain;
            pixels.extend([blue.min(255) as u8, green.min(255) as u8, red.min(255) as u8, 0]);
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoded, OpenH264};

    /// H.264 from software in the place of hardware, with a fault.
    struct Faulty {
        works: OpenH264,
        fault: Fault,
        bytes: Vec<u8>,
        count: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        None,
        IgnoresQuantiser,
        IgnoresKeyFrameRequests,
        PeriodicKeyFrames,
        NoParameterSets,
        Garbage,
        NothingDecodable,
        AnotherPicture,
        SaysItIsAKeyFrame,
    }

    impl Encoder for Faulty {
        fn encode(&mut self, picture: Picture<'_>) -> Result<Encoded<'_>, Error> {
            self.count += 1;
            if self.fault == Fault::PeriodicKeyFrames && self.count == 5 {
                self.works.force_key_frame();
            }
            let grey = vec![0x80; picture.pixels.len()];
            let pixels = if self.fault == Fault::AnotherPicture { &grey } else { picture.pixels };
            let encoded = self.works.encode(Picture { pixels, ..picture })?;
            let (mut key_frame, qp) = (encoded.key_frame, encoded.qp);
            self.bytes = encoded.bytes.to_vec();
            match self.fault {
                Fault::NoParameterSets => {
                    let slices = annexb::units(&self.bytes).filter(|(kind, _)| *kind < 6);
                    self.bytes = slices.flat_map(|(_, unit)| unit.to_vec()).collect();
                }
                Fault::Garbage => self.bytes.iter_mut().skip(60).for_each(|byte| *byte ^= 0x5a),
                Fault::NothingDecodable => {
                    let headers = annexb::units(&self.bytes).filter(|(kind, _)| *kind > 6);
                    self.bytes = headers.flat_map(|(_, unit)| unit.to_vec()).collect();
                }
                Fault::SaysItIsAKeyFrame => key_frame = true,
                _ => {}
            }
            Ok(Encoded { bytes: &self.bytes, key_frame, qp })
        }

        fn force_key_frame(&mut self) {
            if self.fault != Fault::IgnoresKeyFrameRequests {
                self.works.force_key_frame();
            }
        }

        fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), Error> {
            // Once it is set, a rate is kept by a coarser quantiser.
            if bitrate_bps == LOW { self.works.set_qp(COARSE) } else { Ok(()) }
        }

        fn set_qp(&mut self, qp: u8) -> Result<(), Error> {
            if self.fault == Fault::IgnoresQuantiser { Ok(()) } else { self.works.set_qp(qp) }
        }

        fn steering(&self) -> Steering {
            Steering::Quantiser
        }

        fn name(&self) -> &str {
            "faulty"
        }
    }

    fn verdict(fault: Fault) -> Result<Steering, Error> {
        examine_with(Path::new("/dev/faulty"), Coded::H264, |settings, _| {
            let works = OpenH264::new(settings)?;
            Ok(Box::new(Faulty { works, fault, bytes: Vec::new(), count: 0 }))
        })
    }

    #[test]
    fn a_good_encoder_passes_and_one_that_knows_only_rates_is_steered_by_them() {
        assert_eq!(verdict(Fault::None).unwrap(), Steering::Quantiser);
        assert_eq!(verdict(Fault::IgnoresQuantiser).unwrap(), Steering::Bitrate);
    }

    #[test]
    fn every_fault_is_found_and_named() {
        for (fault, said) in [
            (Fault::IgnoresKeyFrameRequests, "no key frame when asked for one"),
            (Fault::PeriodicKeyFrames, "key frames that nobody asked for"),
            (Fault::NoParameterSets, "no parameter sets"),
            (Fault::Garbage, ""),
            (Fault::NothingDecodable, ""),
            (Fault::AnotherPicture, "shows another picture"),
            (Fault::SaysItIsAKeyFrame, "key frames that nobody asked for"),
        ] {
            let error = verdict(fault).expect_err(&format!("{fault:?}")).to_string();
            assert!(
                error.starts_with("encoder device /dev/faulty") && error.contains(said),
                "{fault:?}: {error}"
            );
        }
    }
}
