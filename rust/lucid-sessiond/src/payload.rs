//! What a recording says of its streams ([`lucid_session`] says what their records hold), and key pictures.

use lucid_recording::statement::{Compression, Stream};
use lucid_session::STREAMS;

use crate::error::Result;

/// The most bytes of what is said of the encoder.
const MAX_ENCODER: usize = 96;
/// The PNG goes to the encoder by so many bytes.
const PIECE: usize = 256 << 10;

/// What the opening says of the video stream.
pub(crate) fn codec(width: u32, height: u32, encoder: &str) -> String {
    let encoder = &encoder[..encoder.floor_char_boundary(MAX_ENCODER)];
    format!("lucid video 1: keys in PNG, frames as RDPGFX PDUs; begun at {width}x{height}; H.264: {encoder}")
}

/// The streams of each recording.
pub(crate) fn streams() -> Vec<Stream> {
    let stream = |stream: lucid_session::Stream| Stream {
        compression: if stream.compressed { Compression::Zstd } else { Compression::None },
        id: stream.number,
        name: stream.name.to_owned(),
    };
    STREAMS.map(stream).into()
}

/// A whole picture as PNG, compressed quickly: it has to be ready while frames wait for it. Nothing for no pixels.
pub(crate) fn png(width: u16, height: u16, rgb: &[u8]) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    if rgb.is_empty() {
        return Ok(png);
    }
    let mut encoder = png::Encoder::new(&mut png, width.into(), height.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer_with_size(PIECE)?;
    std::io::Write::write_all(&mut stream, rgb).map_err(png::EncodingError::from)?;
    stream.finish()?;
    writer.finish()?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_comes_out_of_its_png_as_it_went_in() {
        for (width, height) in [(1, 1), (33, 17), (1000, 700)] {
            // Bytes that do not compress.
            let mut rgb = vec![0; width * height * 3];
            blake3::Hasher::new().finalize_xof().fill(&mut rgb);
            let png = png(width as u16, height as u16, &rgb).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), (width as u32, height as u32));
            assert!(pixels == rgb);
        }
        assert!(png(640, 480, &[]).unwrap().is_empty());
    }
}
