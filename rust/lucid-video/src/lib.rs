//! Turns pictures of a desktop into H.264 for MS-RDPEGFX (AVC420).
//!
//! Two parts: [`colour`] converts BGRX pixels to planar YUV 4:2:0 (full-range BT.709, which is what
//! MS-RDPEGFX 3.3.8.3.1 decodes), and [`Encoder`] is the one trait behind which encoders stand:
//! [`OpenH264`] in software, [`v4l2`] in hardware. [`Encoders`] chooses between them at run time, and
//! [`Guarded`] goes on in software when hardware fails.

mod annexb;
mod choice;
pub mod colour;
mod guarded;
mod health;
mod openh264;
pub mod v4l2;

pub use crate::openh264::OpenH264;
pub use choice::{Encoders, Wanted};
pub use colour::Rect;
pub use guarded::Guarded;
pub use health::{examine, moving_picture};

use std::path::PathBuf;

/// What an encoder is set up for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Width of the pictures in pixels, 1..=[`MAX_WIDTH`]. Odd widths are allowed.
    pub width: u32,
    /// Height of the pictures in pixels, 1..=[`MAX_HEIGHT`].
    pub height: u32,
    /// The rate that the encoder aims at, in bits per second of full-speed motion.
    pub bitrate_bps: u32,
    /// The most pictures per second that will be handed in.
    pub max_fps: f32,
    /// The finest quantiser (0..=51) the rate control may choose; smaller is better and bigger.
    pub min_qp: u8,
    /// The coarsest quantiser (0..=51) the rate control may choose: a bound on how bad text may look.
    pub max_qp: u8,
    /// What the pictures show.
    pub content: Content,
}

/// What pictures show, and so how they are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A whole desktop with its text; the encoder chooses the quantiser for the rate.
    Desktop,
    /// Only what moves in colours, as videos and photographs do; text goes another way. Encoded in OpenH264's
    /// camera mode, in half of the time. The quantiser is what the caller says ([`Encoder::set_qp`]), and pixels
    /// that were never damaged are not read, not even for the first picture: what shows there has no meaning.
    Motion,
}

/// The widest picture that is accepted (a limit of OpenH264).
pub const MAX_WIDTH: u32 = 3840;
/// The highest picture that is accepted (a limit of OpenH264).
pub const MAX_HEIGHT: u32 = 2160;

impl Settings {
    /// Settings that keep text sharp and flat colours right (within 2 of 255 after a client's conversion
    /// back to RGB) at the given size.
    ///
    /// The quantiser is constant: 12, the finest of OpenH264's screen mode. At 16 flat parts that change
    /// within a picture were off by 3; scrolling text takes a quarter less at 22. Who sends over a slow
    /// link raises `max_qp`.
    #[must_use]
    pub fn desktop(width: u32, height: u32) -> Settings {
        Settings {
            width,
            height,
            bitrate_bps: 20_000_000,
            max_fps: 60.0,
            min_qp: 12,
            max_qp: 12,
            content: Content::Desktop,
        }
    }

    /// Settings for the moving parts of a desktop, at a quantiser to begin with.
    #[must_use]
    pub fn motion(width: u32, height: u32, qp: u8) -> Settings {
        Settings { min_qp: qp, max_qp: qp, content: Content::Motion, ..Settings::desktop(width, height) }
    }

    /// The same with another rate.
    ///
    /// # Errors
    /// When the rate is out of its limits.
    pub fn with_bitrate(self, bitrate_bps: u32) -> Result<Settings, Error> {
        let Settings { width, height, .. } = self;
        if !(10_000..=1_000_000_000).contains(&bitrate_bps) {
            let what = "the rate is not within 10 kbit/s and 1 Gbit/s";
            return Err(Error::Settings { width, height, what });
        }
        Ok(Settings { bitrate_bps, ..self })
    }

    /// The same with another quantiser.
    ///
    /// # Errors
    /// When the quantiser is out of its limits, or the encoder chooses quantisers itself.
    pub fn with_qp(self, qp: u8) -> Result<Settings, Error> {
        let Settings { width, height, content, .. } = self;
        if qp > 51 || content == Content::Desktop {
            let what = "a quantiser is set for motion alone, and at most 51";
            return Err(Error::Settings { width, height, what });
        }
        Ok(Settings { min_qp: qp, max_qp: qp, ..self })
    }
}

/// By what an encoder can be told how much a picture may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// [`Encoder::set_qp`], which holds from the next picture on.
    Quantiser,
    /// [`Encoder::set_bitrate`]; the encoder comes near it after some pictures.
    Bitrate,
}

/// A picture of the whole desktop, with what changed in it since the picture before.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Width in pixels; must be the encoder's.
    pub width: u32,
    /// Height in pixels; must be the encoder's.
    pub height: u32,
    /// Bytes from one row to the next, at least `4 * width`.
    pub stride: usize,
    /// Pixels: bytes B, G, R, X.
    pub pixels: &'a [u8],
    /// What changed since the previous picture. Pixels outside are not read, except that the first
    /// picture of an encoder for [`Content::Desktop`] is always read whole.
    pub damage: &'a [Rect],
}

/// One encoded picture.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// One access unit as an Annex B byte stream; a key frame begins with its SPS and PPS.
    pub bytes: &'a [u8],
    /// Whether this is an IDR picture, decodable without any picture before.
    pub key_frame: bool,
    /// The picture's quantiser (0..=51), for `RDPGFX_AVC420_QUANT_QUALITY`; of hardware that is steered by its rate,
    /// the one that was last asked for.
    pub qp: u8,
}

/// An H.264 encoder. Every picture handed in comes out: none is ever dropped.
pub trait Encoder: Send {
    /// Encodes the next picture. The width and height of the stream are rounded up to multiples of 16
    /// and the added pixels repeat the edge; the receiver crops by its region rectangles.
    ///
    /// # Errors
    /// When the picture does not fit the settings, or the encoder fails.
    fn encode(&mut self, picture: Picture<'_>) -> Result<Encoded<'_>, Error>;
    /// The next picture will be a key frame.
    fn force_key_frame(&mut self);
    /// Changes the rate that is aimed at, from the next picture on.
    ///
    /// # Errors
    /// When the encoder refuses the rate.
    fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), Error>;
    /// Sets the quantiser (0..=51) from the next picture on; for [`Content::Motion`].
    ///
    /// # Errors
    /// When the encoder refuses it, or chooses quantisers itself.
    fn set_qp(&mut self, qp: u8) -> Result<(), Error>;
    /// What of the two above it goes by.
    fn steering(&self) -> Steering;
    /// The encoder's name, to be shown to the user.
    fn name(&self) -> &str;
}

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings out of their limits.
    #[error("setting up an encoder for {width}x{height}: {what}; choose a value within the limits")]
    Settings {
        /// Asked-for width.
        width: u32,
        /// Asked-for height.
        height: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A picture that does not fit.
    #[error("converting a picture of {width}x{height}: {what}; make a new encoder after a change of size")]
    Picture {
        /// The picture's width.
        width: u32,
        /// The picture's height.
        height: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// OpenH264 returned an error.
    #[error("OpenH264, {doing}: error {code}; make a new encoder")]
    OpenH264 {
        /// What was being done.
        doing: &'static str,
        /// OpenH264's return code (`CM_RETURN`).
        code: i32,
    },
    /// OpenH264 returned no picture although skipping is off.
    #[error("OpenH264 encoded nothing for a picture (frame type {frame_type}); make a new encoder")]
    NothingEncoded {
        /// OpenH264's `EVideoFrameType`.
        frame_type: i32,
    },
    /// A video device cannot be had or has failed.
    #[error("encoder device {}, {doing}: {source}", device.display())]
    Device {
        /// Its node.
        device: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A video device is not what is needed.
    #[error("encoder device {}: {what}", device.display())]
    DeviceRefused {
        /// Its node.
        device: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A video device did not answer in time.
    #[error("encoder device {}: no answer within {milliseconds} ms", device.display())]
    DeviceLate {
        /// Its node.
        device: PathBuf,
        /// The time it had.
        milliseconds: u64,
    },
    /// The decoder of the health check did not take what a device wrote.
    #[error("encoder device {}: what it writes cannot be decoded ({source})", device.display())]
    Undecodable {
        /// Its node.
        device: PathBuf,
        /// What OpenH264 said.
        source: ::openh264::Error,
    },
}
