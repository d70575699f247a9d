//! Lossless bitmaps (MS-RDPBCGR 2.2.9.1.1.3.1.2, compressed as in MS-RDPEGDI 3.1.9), for clients that have
//! neither the graphics pipeline nor RemoteFX, and for what has to be exact where there is RemoteFX.

use ironrdp_core::encode_vec;
use ironrdp_graphics::rdp6::BitmapStreamEncoder;
use ironrdp_pdu::bitmap::{BitmapData, BitmapUpdateData, CompressedDataHeader, Compression};
use ironrdp_pdu::geometry::InclusiveRectangle;
use lucid_desktop::{Frame, Rect};

use crate::Error;
use crate::tiles::{cut, split};

/// Pieces are 64 by 64, so that one always fits a fast-path PDU of its own (16 KiB), compressed or not.
const TILE: u32 = 64;
/// A tile's planes and one byte of header per row and plane, with room.
const MAX_TILE: usize = 64 * 64 * 4 + 1024;

/// Encodes damage as bitmap updates.
pub(crate) struct BitmapEncoder {
    pixels: Vec<u8>,
    compressed: Vec<u8>,
}

impl BitmapEncoder {
    pub(crate) fn new() -> BitmapEncoder {
        BitmapEncoder { pixels: Vec::new(), compressed: vec![0; MAX_TILE] }
    }

    /// One update for each piece.
    pub(crate) fn encode(&mut self, frame: &Frame<'_>, damage: &[Rect]) -> Result<Vec<Vec<u8>>, Error> {
        damage.iter().flat_map(|r| split(*r, TILE, TILE)).map(|place| self.tile(frame, place)).collect()
    }

    fn tile(&mut self, frame: &Frame<'_>, place: Rect) -> Result<Vec<u8>, Error> {
        let failed = || Error::Encode("a bitmap");
        cut(frame, place, &mut self.pixels);
        // Rows go bottom-up, and their width is a multiple of four; what is added is cut off by the client.
        let padded = place.width.next_multiple_of(4) as usize;
        let width = place.width as usize;
        let mut rows = Vec::with_capacity(padded * 4 * place.height as usize);
        for row in self.pixels.chunks_exact(width * 4).rev() {
            rows.extend_from_slice(row);
            for _ in width..padded {
                rows.extend_from_slice(&row[(width - 1) * 4..]);
            }
        }
        let len = compress(&rows, padded, &mut self.compressed).ok_or_else(failed)?;
        let small = |v: u32| u16::try_from(v).map_err(|_| failed());
        let padded = u16::try_from(padded).map_err(|_| failed())?;
        let height = small(place.height)?;
        let data = BitmapData {
            rectangle: InclusiveRectangle {
                left: small(place.x)?,
                top: small(place.y)?,
                right: small(place.x + place.width - 1)?,
                bottom: small(place.y + place.height - 1)?,
            },
            width: padded,
            height,
            bits_per_pixel: 32,
            compression_flags: Compression::BITMAP_COMPRESSION,
            compressed_data_header: Some(CompressedDataHeader {
                main_body_size: u16::try_from(len).map_err(|_| failed())?,
                scan_width: padded,
                uncompressed_size: padded * 4 * height,
            }),
            bitmap_data: &self.compressed[..len],
        };
        encode_vec(&BitmapUpdateData { rectangles: vec![data] }).map_err(|_| failed())
    }
}

/// MS-RDPEGDI 2.2.2.5.1, FormatHeader: there is no alpha plane.
const NO_ALPHA: u8 = 0x20;

/// Compresses rows of BGRX pixels into an RDP 6.0 bitmap stream (MS-RDPEGDI 2.2.2.5.1) and gives its length in bytes.
/// Every pixel is opaque, and that is said in a plane of its own: clients with rdesktop's decoder (rdesktop,
/// aardwolf) know no stream without one.
fn compress(rows: &[u8], width: usize, out: &mut [u8]) -> Option<usize> {
    let pixels = rows.chunks_exact(4);
    let plane = |at: usize| pixels.clone().map(move |pixel| pixel[at]);
    let opaque = std::iter::repeat_n(u8::MAX, pixels.len());
    let planes = (plane(2), plane(1), plane(0), opaque);
    let height = pixels.len().checked_div(width)?;
    let len = BitmapStreamEncoder::new(width, height).encode_channels_stream_alpha(planes, out, true).ok()?;
    // ironrdp-graphics writes the plane and says that there is none.
    *out.first_mut()? &= !NO_ALPHA;
    Some(len)
}
