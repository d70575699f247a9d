//! What the payload of a record of the video stream is, version 1.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | 0: a key, 1: a frame |
//! | **a key** | what the client shows now; all decoders begin anew, and nothing it has kept is used again |
//! | 2 | width in pixels, little endian, 1 to 8192 |
//! | 2 | height in pixels, little endian, 1 to 8192 |
//! | the rest | a PNG of that size, 8-bit RGB; nothing, if the client shows nothing yet (all black) |
//! | **a frame** | |
//! | the rest | the PDUs of MS-RDPEGFX 2.2.2 from one `RDPGFX_START_FRAME_PDU` to its `RDPGFX_END_FRAME_PDU`, in the order in which the client was sent them, without the wrapping of 2.2.5; all name one surface, which is of the key's size |
//!
//! A part of the picture that the client was shown as H.264 is sent again after a key, as a picture that needs none before.

use crate::Error;

/// The most pixels of an edge.
pub const MAX_EDGE: u16 = 8192;

/// A record of the video stream, whose bytes lie elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// What the client shows now.
    Key {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
        /// A PNG, or nothing.
        png: &'a [u8],
    },
    /// Graphics PDUs.
    Frame(&'a [u8]),
}

impl<'a> Record<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// When it is not what the format says. Neither PNG nor PDUs are looked into.
    pub fn read(payload: &'a [u8]) -> Result<Record<'a>, Error> {
        match payload {
            [0, w0, w1, h0, h1, png @ ..] => {
                let (width, height) = (u16::from_le_bytes([*w0, *w1]), u16::from_le_bytes([*h0, *h1]));
                if !(1..=MAX_EDGE).contains(&width) || !(1..=MAX_EDGE).contains(&height) {
                    return Err(Error::Record("a key's size is not within 1 and 8192 pixels"));
                }
                Ok(Record::Key { width, height, png })
            }
            [1, pdus @ ..] => Ok(Record::Frame(pdus)),
            [0, ..] => Err(Error::Record("a key ends within its size")),
            [] => Err(Error::Record("it is empty")),
            _ => Err(Error::Record("it is neither a key nor a frame")),
        }
    }

    /// The payload.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        match self {
            Record::Key { width, height, png } => {
                [&[0], width.to_le_bytes().as_slice(), &height.to_le_bytes(), png].concat()
            }
            Record::Frame(pdus) => [&[1], *pdus].concat(),
        }
    }
}
