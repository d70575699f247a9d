//! What the records of a recording hold.
//!
//! | stream | number | kept | payload of a record |
//! | --- | --- | --- | --- |
//! | `video` | 1 | as it is | see below |
//! | `audit` | 2 | zstd | whole lines of [`lucid_audit`], each with a line feed |
//! | `pointer` | 3 | zstd | as the RDP host sent it |
//! | `sound` | 4 | as it is | as the RDP host sent it |
//!
//! The first byte of a `video` payload says what follows:
//!
//! | byte | what follows |
//! | --- | --- |
//! | 0 | all of the picture; its record is a key. Width and height (u16, little-endian each), then a PNG of 8-bit RGB, or nothing where nothing is shown |
//! | 1 | a frame: the RDPGFX PDUs (MS-RDPEGFX, section 2.2) as the client was sent them, not compressed |
//! | 2 | more of the PNG of the record before; only where it is larger than a record may be |

use lucid_recording::{
    chunk::MAX_PAYLOAD,
    statement::{Compression, Stream},
};

use crate::error::Result;

pub(crate) const VIDEO: u8 = 1;
pub(crate) const AUDIT: u8 = 2;
pub(crate) const POINTER: u8 = 3;
pub(crate) const SOUND: u8 = 4;

const KEY: u8 = 0;
const FRAME: u8 = 1;
const MORE: u8 = 2;
/// The PNG goes to the encoder by so many bytes.
const PIECE: usize = 256 << 10;

/// What the opening says of the video stream.
pub(crate) fn codec(width: u32, height: u32) -> String {
    format!("lucid video 1: keys in PNG, frames as RDPGFX PDUs; begun at {width}x{height}")
}

/// The streams of each recording.
pub(crate) fn streams() -> Vec<Stream> {
    let stream = |id, name: &str, compression| Stream { compression, id, name: name.to_owned() };
    vec![
        stream(VIDEO, "video", Compression::None),
        stream(AUDIT, "audit", Compression::Zstd),
        stream(POINTER, "pointer", Compression::Zstd),
        stream(SOUND, "sound", Compression::None),
    ]
}

/// Puts a frame's payload into a buffer.
pub(crate) fn frame(pdus: &[u8], into: &mut Vec<u8>) {
    into.clear();
    into.push(FRAME);
    into.extend_from_slice(pdus);
}

/// A whole picture, compressed quickly: it has to be ready while frames wait for it.
pub(crate) fn key(width: u16, height: u16, rgb: &[u8]) -> Result<Vec<u8>> {
    let mut payload = vec![KEY];
    payload.extend_from_slice(&width.to_le_bytes());
    payload.extend_from_slice(&height.to_le_bytes());
    if rgb.is_empty() {
        return Ok(payload);
    }
    let mut encoder = png::Encoder::new(&mut payload, width.into(), height.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer_with_size(PIECE)?;
    std::io::Write::write_all(&mut stream, rgb).map_err(png::EncodingError::from)?;
    stream.finish()?;
    writer.finish()?;
    Ok(payload)
}

/// The records of a key: the first is one, the others go on with its PNG.
pub(crate) fn pieces(key: &[u8]) -> impl Iterator<Item = std::borrow::Cow<'_, [u8]>> {
    let (first, rest) = key.split_at(key.len().min(MAX_PAYLOAD));
    let rest = rest.chunks(MAX_PAYLOAD - 1).map(|piece| {
        let mut payload = Vec::with_capacity(piece.len() + 1);
        payload.push(MORE);
        payload.extend_from_slice(piece);
        payload.into()
    });
    std::iter::once(first.into()).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not compress.
    fn noise(count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_picture_comes_out_of_its_records_as_it_went_in_even_one_too_large_for_a_record() {
        for (width, height) in [(1, 1), (33, 17), (4000, 2000)] {
            let rgb = noise(width * height * 3);
            let payload = key(width as u16, height as u16, &rgb).unwrap();
            let records: Vec<_> = pieces(&payload).collect();
            assert_eq!(records.len() > 1, rgb.len() > MAX_PAYLOAD);
            assert!(records.iter().all(|record| record.len() <= MAX_PAYLOAD));
            assert_eq!(records[0][0], KEY);
            assert_eq!(records[0][1..3], (width as u16).to_le_bytes());
            let mut png = records[0][5..].to_vec();
            for more in &records[1..] {
                assert_eq!(more[0], MORE);
                png.extend_from_slice(&more[1..]);
            }
            let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), (width as u32, height as u32));
            assert!(pixels == rgb);
        }
        assert_eq!(key(640, 480, &[]).unwrap(), [0, 128, 2, 224, 1]);
    }
}
