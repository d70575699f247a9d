//! Records of the video stream.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | 0: a key, 1: a frame, 2: more of the key before |
//! | **a key** | what the client shows now; all decoders begin anew, and nothing that was kept is used again |
//! | 2 | width in pixels, 1 to 8192 |
//! | 2 | height in pixels, 1 to 8192 |
//! | the rest | a PNG of that size, 8-bit RGB; nothing where the client shows nothing yet (all black) |
//! | **a frame** | |
//! | the rest | the PDUs of MS-RDPEGFX 2.2.2 from one `RDPGFX_START_FRAME_PDU` to its `RDPGFX_END_FRAME_PDU`, in the order in which the client was sent them, without the wrapping of 2.2.5; all name one surface, which is of the key's size |
//! | **more** | only where a PNG is larger than a record may be; it follows the key or another "more" at once |
//! | the rest | the next bytes of the PNG |
//!
//! A part of the picture that the client was shown as H.264 is sent again after a key, as a picture that needs none before.

use crate::{Error, MAX_EDGE};

const KEY: u8 = 0;
const FRAME: u8 = 1;
const MORE: u8 = 2;
/// Bytes of a key before its PNG.
const HEAD: usize = 5;

/// A record, whose bytes lie elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// What the client shows now.
    Key {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
        /// A PNG or its beginning, or nothing.
        png: &'a [u8],
    },
    /// Graphics PDUs.
    Frame(&'a [u8]),
    /// More of the PNG.
    More(&'a [u8]),
}

impl<'a> Record<'a> {
    /// Reads a payload. Neither PNG nor PDUs are looked into.
    ///
    /// # Errors
    /// When it is not what the format says.
    pub fn read(payload: &'a [u8]) -> Result<Record<'a>, Error> {
        let wrong = |why| Error { stream: "video", why };
        match payload {
            [KEY, w0, w1, h0, h1, png @ ..] => {
                let (width, height) = (u16::from_le_bytes([*w0, *w1]), u16::from_le_bytes([*h0, *h1]));
                if !(1..=MAX_EDGE).contains(&width) || !(1..=MAX_EDGE).contains(&height) {
                    return Err(wrong("a key's size is not within 1 and 8192 pixels"));
                }
                Ok(Record::Key { width, height, png })
            }
            [FRAME, pdus @ ..] => Ok(Record::Frame(pdus)),
            [MORE, png @ ..] => Ok(Record::More(png)),
            [KEY, ..] => Err(wrong("a key ends within its size")),
            [] => Err(wrong("it is empty")),
            _ => Err(wrong("it is none of a key, a frame, and more of a key")),
        }
    }

    /// Puts the payload into a buffer, whose content is lost.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.clear();
        match self {
            Record::Key { width, height, png } => {
                into.reserve(HEAD + png.len());
                into.push(KEY);
                into.extend(width.to_le_bytes());
                into.extend(height.to_le_bytes());
                into.extend_from_slice(png);
            }
            Record::Frame(bytes) | Record::More(bytes) => {
                into.reserve(1 + bytes.len());
                into.push(if matches!(self, Record::Frame(_)) { FRAME } else { MORE });
                into.extend_from_slice(bytes);
            }
        }
    }

    /// The records of a key, none of which is longer than `most` bytes, which are more than five.
    pub fn of_key(width: u16, height: u16, png: &'a [u8], most: usize) -> impl Iterator<Item = Record<'a>> {
        let (first, rest) = png.split_at(png.len().min(most - HEAD));
        let rest = rest.chunks(most - 1).map(Record::More);
        std::iter::once(Record::Key { width, height, png: first }).chain(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_key_of_any_size_comes_out_of_its_records() {
        let mut payload = Vec::new();
        for record in [
            Record::Key { width: 640, height: 8192, png: b"png" },
            Record::Key { width: 1, height: 1, png: b"" },
            Record::Frame(b"pdus"),
            Record::More(b"rest"),
        ] {
            record.write(&mut payload);
            assert_eq!(Record::read(&payload), Ok(record));
        }
        Record::Key { width: 640, height: 480, png: &[] }.write(&mut payload);
        assert_eq!(payload, [0, 128, 2, 224, 1]);
        for (length, most) in [(0, 6), (1, 6), (2, 6), (100, 6), (100, 64), (59, 64), (60, 64)] {
            let png: Vec<u8> = (0..length).collect();
            let (mut back, mut records) = (Vec::new(), 0);
            for record in Record::of_key(7, 9, &png, most) {
                record.write(&mut payload);
                assert!(payload.len() <= most);
                match Record::read(&payload).unwrap() {
                    Record::Key { width: 7, height: 9, png } if records == 0 => back.extend_from_slice(png),
                    Record::More(png) if records > 0 => back.extend_from_slice(png),
                    other => panic!("{other:?}"),
                }
                records += 1;
            }
            assert_eq!(back, png);
            assert_eq!(records > 1, usize::from(length) + HEAD > most, "{length} bytes, {most} at most");
        }
    }

    #[test]
    fn what_is_no_record_is_told_from_one() {
        for wrong in [&[][..], &[0], &[0, 1, 0, 1], &[0, 0, 0, 1, 0], &[0, 1, 0, 1, 32], &[3, 1], &[255]] {
            assert!(Record::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
