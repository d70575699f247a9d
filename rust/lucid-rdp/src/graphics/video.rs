//! The moving parts of a picture as H.264 (AVC420), at a quantiser that makes them fit.

use lucid_desktop::{Frame, Rect};
use lucid_video::{Encoder as _, Guarded, Picture, Settings, Steering};

use crate::Error;
use crate::encoders::VideoEncoders;

/// The finest quantiser of what moves: some 50 dB of luma in a soft film, more of which nobody sees while it moves. What
/// stands still is sent exactly soon after.
const MIN_QP: u8 = 30;
/// The coarsest: things can still be told apart.
const MAX_QP: u8 = 46;
/// What a picture may take when the link bears more, in bytes: 10 Mbit/s at 30 pictures a second.
const TARGET: usize = 40 * 1024;

/// One stream for the whole surface; the parts that it does not paint stay as they are in it.
pub(crate) struct Video {
    encoders: VideoEncoders,
    encoder: Guarded,
    qp: u8,
}

/// One access unit.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) bytes: Vec<u8>,
    pub(crate) qp: u8,
}

impl Video {
    /// A stream that begins with a picture of `pixels` changed pixels, of about `budget` bytes.
    pub(crate) fn new(
        encoders: &VideoEncoders,
        (width, height): (u32, u32),
        pixels: usize,
        budget: usize,
    ) -> Result<Video, Error> {
        // Photographs take some 0.12 bytes a pixel at a quantiser of 30, and half for each 6 above.
        let mut qp = 30;
        let mut guess = pixels * 12 / 100;
        while guess > target(budget) && qp < MAX_QP {
            guess = guess * 89 / 100;
            qp += 1;
        }
        let settings = Settings::motion(width, height, qp).with_bitrate(rate(target(budget)))?;
        Ok(Video { encoder: encoders.open(settings)?, encoders: encoders.clone(), qp })
    }

    /// Makes the next picture a key frame.
    pub(crate) fn begin_anew(&mut self) {
        self.encoder.force_key_frame();
    }

    /// Encodes the given rectangles of the frame.
    pub(crate) fn encode(&mut self, frame: &Frame<'_>, rects: &[Rect], budget: usize) -> Result<Unit, Error> {
        let damage: Vec<_> = rects
            .iter()
            .map(|r| lucid_video::Rect { x: r.x, y: r.y, width: r.width, height: r.height })
            .collect();
        let picture = Picture {
            width: frame.width,
            height: frame.height,
            stride: frame.stride,
            pixels: frame.pixels,
            damage: &damage,
        };
        match self.encoder.steering() {
            Steering::Quantiser => {}
            Steering::Bitrate => self.encoder.set_bitrate(rate(target(budget)))?,
        }
        // If hardware fails at this picture, software begins with this.
        self.encoder.set_qp(self.qp)?;
        let encoded = self.encoder.encode(picture)?;
        let unit = Unit { bytes: encoded.bytes.to_vec(), qp: encoded.qp };
        self.encoders.look_after(&mut self.encoder);
        self.qp = next_qp(self.qp, unit.bytes.len(), target(budget));
        Ok(unit)
    }
}

fn target(budget: usize) -> usize {
    budget.min(TARGET)
}

/// The rate in bits per second at which 30 pictures a second take so many bytes each.
fn rate(bytes: usize) -> u32 {
    u32::try_from(bytes * 8 * 30).unwrap_or(u32::MAX).clamp(100_000, 100_000_000)
}

/// Six steps of the quantiser halve a picture; half of the way is gone at once upwards and little by little down.
fn next_qp(qp: u8, bytes: usize, target: usize) -> u8 {
    let step: i16 = match bytes * 100 / target.max(1) {
        400.. => 8,
        200..400 => 5,
        140..200 => 3,
        105..140 => 1,
        70..105 => 0,
        35..70 => -1,
        _ => -2,
    };
    let next = i16::from(qp) + step;
    next.clamp(MIN_QP.into(), MAX_QP.into()) as u8
}
