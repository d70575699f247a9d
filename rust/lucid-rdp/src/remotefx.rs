//! RemoteFX (MS-RDPRFX) in surface commands, for clients without the graphics pipeline.

use ironrdp_core::{Encode as _, WriteCursor, encode_vec};
use ironrdp_graphics::color_conversion::to_64x64_ycbcr_tile;
use ironrdp_graphics::image_processing::PixelFormat;
use ironrdp_graphics::rfx_encode_component;
use ironrdp_pdu::codecs::rfx::{
    Block, ChannelsPdu, CodecChannel, CodecVersionsPdu, ContextPdu, EntropyAlgorithm, FrameBeginPdu, FrameEndPdu,
    OperatingMode, Quant, RegionPdu, RfxChannel, RfxRectangle, SyncPdu, Tile, TileSetPdu,
};
use ironrdp_pdu::geometry::ExclusiveRectangle;
use ironrdp_pdu::rdp::capability_sets::EntropyBits;
use ironrdp_pdu::surface_commands::{ExtendedBitmapDataPdu, SurfaceBitsPdu, SurfaceCommand};
use lucid_desktop::{Frame, Rect};

use crate::Error;
use crate::capabilities::RemoteFx;

/// Tiles are 64 pixels wide and high (MS-RDPRFX 2.2.2.3.4).
const TILE: u32 = 64;
/// A component of a tile has 64 * 64 coefficients of up to 16 bits, and the entropy coder may lengthen noise.
const MAX_COMPONENT: usize = 64 * 64 * 4;
/// What surrounds the tiles of a message, at most: headers, and the region's rectangles.
const OVERHEAD: usize = 2048;

/// Encodes damaged tiles.
pub(crate) struct RemoteFxEncoder {
    codec_id: u8,
    entropy: EntropyAlgorithm,
    frame: u32,
    planes: Box<[[i16; 4096]; 3]>,
}

struct OwnedTile {
    x: u16,
    y: u16,
    parts: [Vec<u8>; 3],
}

impl OwnedTile {
    fn size(&self) -> usize {
        // MS-RDPRFX 2.2.2.3.4.1: 19 bytes before the data.
        19 + self.parts.iter().map(Vec::len).sum::<usize>()
    }
}

impl RemoteFxEncoder {
    pub(crate) fn new(client: RemoteFx) -> RemoteFxEncoder {
        let entropy = match client.entropy {
            EntropyBits::Rlgr1 => EntropyAlgorithm::Rlgr1,
            EntropyBits::Rlgr3 => EntropyAlgorithm::Rlgr3,
        };
        RemoteFxEncoder { codec_id: client.codec_id, entropy, frame: 0, planes: Box::new([[0; 4096]; 3]) }
    }

    /// Encodes every tile that the damage touches, as surface commands of at most `max_update` bytes each.
    /// The region in each names the damage, so that a client changes nothing else.
    pub(crate) fn encode(
        &mut self,
        frame: &Frame<'_>,
        damage: &[Rect],
        max_update: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let columns = frame.width.div_ceil(TILE);
        let rows = frame.height.div_ceil(TILE);
        let mut touched = vec![false; (columns * rows) as usize];
        for r in damage {
            for row in r.y / TILE..=((r.y + r.height - 1) / TILE).min(rows - 1) {
                for column in r.x / TILE..=((r.x + r.width - 1) / TILE).min(columns - 1) {
                    touched[(row * columns + column) as usize] = true;
                }
            }
        }
        let rectangles: Vec<_> = damage.iter().map(rectangle).collect::<Result<_, _>>()?;

        let mut commands = Vec::new();
        let mut tiles = Vec::new();
        let mut size = 0;
        for (index, _) in touched.iter().enumerate().filter(|(_, touched)| **touched) {
            // At most 128 * 128 tiles.
            let index = u32::try_from(index).map_err(|_| Error::Encode("RemoteFX"))?;
            let tile = self.tile(frame, index % columns, index / columns)?;
            if !tiles.is_empty() && size + tile.size() + OVERHEAD > max_update {
                commands.push(self.message(frame, &rectangles, &tiles)?);
                tiles.clear();
                size = 0;
            }
            size += tile.size();
            tiles.push(tile);
        }
        if !tiles.is_empty() {
            commands.push(self.message(frame, &rectangles, &tiles)?);
        }
        Ok(commands)
    }

    fn tile(&mut self, frame: &Frame<'_>, column: u32, row: u32) -> Result<OwnedTile, Error> {
        let failed = || Error::Encode("RemoteFX");
        let (x, y) = (column * TILE, row * TILE);
        let width = TILE.min(frame.width - x);
        let height = TILE.min(frame.height - y);
        let start = y as usize * frame.stride + x as usize * 4;
        let stride = u32::try_from(frame.stride).map_err(|_| failed())?;
        let [luma, cb, cr] = &mut *self.planes;
        to_64x64_ycbcr_tile(&frame.pixels[start..], width, height, stride, PixelFormat::BgrX32, luma, cb, cr)
            .map_err(|_| failed())?;
        let quant = Quant::default();
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (part, plane) in parts.iter_mut().zip([luma, cb, cr]) {
            part.resize(MAX_COMPONENT, 0);
            let len = rfx_encode_component(plane, part, &quant, self.entropy).map_err(|_| failed())?;
            part.truncate(len);
            part.shrink_to_fit();
        }
        let small = |v: u32| u16::try_from(v).map_err(|_| failed());
        Ok(OwnedTile { x: small(column)?, y: small(row)?, parts })
    }

    fn message(&mut self, frame: &Frame<'_>, rectangles: &[RfxRectangle], tiles: &[OwnedTile]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Encode("RemoteFX");
        let width = u16::try_from(frame.width).map_err(|_| Error::Encode("RemoteFX"))?;
        let height = u16::try_from(frame.height).map_err(|_| Error::Encode("RemoteFX"))?;
        let mut blocks = Vec::new();
        // MS-RDPRFX 3.1.8.1: the headers come once, before the first frame.
        if self.frame == 0 {
            let signed = |v: u16| i16::try_from(v).map_err(|_| Error::Encode("RemoteFX"));
            blocks.push(Block::Sync(SyncPdu));
            blocks.push(Block::CodecVersions(CodecVersionsPdu));
            blocks.push(Block::Channels(ChannelsPdu(vec![RfxChannel { width: signed(width)?, height: signed(height)? }])));
            blocks.push(Block::CodecChannel(CodecChannel::Context(ContextPdu {
                flags: OperatingMode::IMAGE_MODE,
                entropy_algorithm: self.entropy,
            })));
        }
        blocks.push(Block::CodecChannel(CodecChannel::FrameBegin(FrameBeginPdu {
            index: self.frame,
            number_of_regions: 1,
        })));
        blocks.push(Block::CodecChannel(CodecChannel::Region(RegionPdu { rectangles: rectangles.to_vec() })));
        blocks.push(Block::CodecChannel(CodecChannel::TileSet(TileSetPdu {
            entropy_algorithm: self.entropy,
            quants: vec![Quant::default()],
            tiles: tiles
                .iter()
                .map(|t| Tile {
                    y_quant_index: 0,
                    cb_quant_index: 0,
                    cr_quant_index: 0,
                    x: t.x,
                    y: t.y,
                    y_data: &t.parts[0],
                    cb_data: &t.parts[1],
                    cr_data: &t.parts[2],
                })
                .collect(),
        })));
        blocks.push(Block::CodecChannel(CodecChannel::FrameEnd(FrameEndPdu)));
        self.frame = self.frame.wrapping_add(1).max(1);

        let mut data = vec![0; blocks.iter().map(ironrdp_core::size).sum()];
        let mut cursor = WriteCursor::new(&mut data);
        for block in &blocks {
            block.encode(&mut cursor).map_err(failed)?;
        }
        let command = SurfaceCommand::SetSurfaceBits(SurfaceBitsPdu {
            destination: ExclusiveRectangle { left: 0, top: 0, right: width, bottom: height },
            extended_bitmap_data: ExtendedBitmapDataPdu {
                bpp: 32,
                codec_id: self.codec_id,
                width,
                height,
                header: None,
                data: &data,
            },
        });
        encode_vec(&command).map_err(failed)
    }
}

fn rectangle(r: &Rect) -> Result<RfxRectangle, Error> {
    let small = |v: u32| u16::try_from(v).map_err(|_| Error::Encode("RemoteFX"));
    Ok(RfxRectangle { x: small(r.x)?, y: small(r.y)?, width: small(r.width)?, height: small(r.height)? })
}
