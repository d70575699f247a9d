//! RemoteFX (MS-RDPRFX) in surface commands, for clients without the graphics pipeline. What has been still for a moment
//! is repeated exactly, as bitmaps.

use std::time::{Duration, Instant};

use ironrdp_core::{Encode as _, WriteCursor, encode_vec};
use ironrdp_graphics::color_conversion::to_64x64_ycbcr_tile;
use ironrdp_graphics::image_processing::PixelFormat;
use ironrdp_graphics::{dwt, rlgr, subband_reconstruction};
use ironrdp_pdu::codecs::rfx::{
    Block, ChannelsPdu, CodecChannel, CodecVersionsPdu, ContextPdu, EntropyAlgorithm, FrameBeginPdu,
    FrameEndPdu, OperatingMode, Quant, RegionPdu, RfxChannel, RfxRectangle, SyncPdu, Tile, TileSetPdu,
};
use ironrdp_pdu::fast_path::UpdateCode;
use ironrdp_pdu::geometry::ExclusiveRectangle;
use ironrdp_pdu::rdp::capability_sets::EntropyBits;
use ironrdp_pdu::surface_commands::{ExtendedBitmapDataPdu, SurfaceBitsPdu, SurfaceCommand};
use lucid_desktop::{Frame, Rect};

use crate::Error;
use crate::bitmap::BitmapEncoder;
use crate::capabilities::RemoteFx;
use crate::fastpath::Update;
use crate::graphics::Inexact;
use crate::tiles::split;

/// Tiles are 64 pixels wide and high (MS-RDPRFX 2.2.2.3.4).
const TILE: u32 = 64;
/// A component of a tile has 64 * 64 coefficients of up to 16 bits, and the entropy coder may lengthen noise.
const MAX_COMPONENT: usize = 64 * 64 * 4;
/// What surrounds the tiles of a message, at most: headers, and the region's rectangles.
const OVERHEAD: usize = 2048;

/// Where the coarsest sub-band begins in a tile (MS-RDPRFX 3.1.8.1.5): after three finer levels.
const LL3: usize = 4032;
/// The finest steps that MS-RDPRFX 2.2.2.1.5 allows for what the eye sees, coarser ones for finest detail:
/// the values of the specification's own examples.
const QUANT: Quant = Quant { ll3: 6, lh3: 6, hl3: 6, hh3: 6, lh2: 7, hl2: 7, hh2: 8, lh1: 8, hl1: 8, hh1: 9 };

/// RemoteFX, and lossless bitmaps of what has been still since.
pub(crate) struct RefinedRemoteFx {
    remotefx: RemoteFxEncoder,
    bitmaps: BitmapEncoder,
    inexact: Inexact,
}

impl RefinedRemoteFx {
    pub(crate) fn new(client: RemoteFx, (width, height): (u32, u32)) -> RefinedRemoteFx {
        RefinedRemoteFx {
            remotefx: RemoteFxEncoder::new(client),
            bitmaps: BitmapEncoder::new(),
            inexact: Inexact::none(width, height),
        }
    }

    /// Encodes what is damaged, in surface commands of at most `max_update` bytes each, and then still parts exactly, for
    /// about `room` bytes. Gives the updates, and how long until the next ones would make something exact.
    pub(crate) fn encode(
        &mut self,
        frame: &Frame<'_>,
        max_update: usize,
        room: usize,
        now: Instant,
    ) -> Result<(Vec<Update>, Option<Duration>), Error> {
        let commands = self.remotefx.encode(frame, frame.damage, max_update)?.into_iter();
        let mut updates: Vec<_> = commands.map(|payload| (UpdateCode::SurfaceCommands, payload)).collect();
        for rect in frame.damage {
            self.inexact.painted(*rect, now);
        }
        if room == 0 {
            return Ok((updates, self.inexact.wait(now)));
        }
        let mut spent = 0;
        for part in self.inexact.still_parts(now).into_iter().flat_map(|rect| split(rect, TILE, TILE)) {
            // The rest comes next time.
            if spent >= room {
                break;
            }
            for payload in self.bitmaps.encode(frame, &[part])? {
                spent += payload.len();
                updates.push((UpdateCode::Bitmap, payload));
            }
            self.inexact.exact(part);
        }
        Ok((updates, self.inexact.wait(now)))
    }
}

/// Encodes damaged tiles.
struct RemoteFxEncoder {
    codec_id: u8,
    entropy: EntropyAlgorithm,
    frame: u32,
    planes: Box<[[i16; 4096]; 3]>,
    scratch: Box<[i16; 4096]>,
    pixels: Vec<u8>,
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
    fn new(client: RemoteFx) -> RemoteFxEncoder {
        let entropy = match client.entropy {
            EntropyBits::Rlgr1 => EntropyAlgorithm::Rlgr1,
            EntropyBits::Rlgr3 => EntropyAlgorithm::Rlgr3,
        };
        RemoteFxEncoder {
            codec_id: client.codec_id,
            entropy,
            frame: 0,
            planes: Box::new([[0; 4096]; 3]),
            scratch: Box::new([0; 4096]),
            pixels: Vec::new(),
        }
    }

    /// Encodes every tile that the damage touches, as surface commands of at most `max_update` bytes each.
    /// The region in each names the damage, so that a client changes nothing else.
    fn encode(
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
        whole_tile(frame, Rect { x, y, width, height }, &mut self.pixels);
        let [luma, cb, cr] = &mut *self.planes;
        to_64x64_ycbcr_tile(&self.pixels, TILE, TILE, TILE * 4, PixelFormat::BgrX32, luma, cb, cr)
            .map_err(|_| failed())?;
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (part, plane) in parts.iter_mut().zip([luma, cb, cr]) {
            part.resize(MAX_COMPONENT, 0);
            dwt::encode(plane, self.scratch.as_mut_slice());
            quantise(plane, &QUANT);
            subband_reconstruction::encode(&mut plane[LL3..]);
            let len = rlgr::encode(self.entropy, plane, part).map_err(|_| failed())?;
            part.truncate(len);
            part.shrink_to_fit();
        }
        let small = |v: u32| u16::try_from(v).map_err(|_| failed());
        Ok(OwnedTile { x: small(column)?, y: small(row)?, parts })
    }

    fn message(
        &mut self,
        frame: &Frame<'_>,
        rectangles: &[RfxRectangle],
        tiles: &[OwnedTile],
    ) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Encode("RemoteFX");
        let width = u16::try_from(frame.width).map_err(|_| Error::Encode("RemoteFX"))?;
        let height = u16::try_from(frame.height).map_err(|_| Error::Encode("RemoteFX"))?;
        let mut blocks = Vec::new();
        // MS-RDPRFX 3.1.8.1: the headers come once, before the first frame.
        if self.frame == 0 {
            let signed = |v: u16| i16::try_from(v).map_err(|_| Error::Encode("RemoteFX"));
            blocks.push(Block::Sync(SyncPdu));
            blocks.push(Block::CodecVersions(CodecVersionsPdu));
            blocks.push(Block::Channels(ChannelsPdu(vec![RfxChannel {
                width: signed(width)?,
                height: signed(height)?,
            }])));
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
            quants: vec![QUANT],
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

/// Copies a tile, and repeats its last column and row where the picture ends within it.
fn whole_tile(frame: &Frame<'_>, place: Rect, out: &mut Vec<u8>) {
    const ROW: usize = TILE as usize * 4;
    out.clear();
    let width = place.width as usize * 4;
    for y in place.y..place.y + place.height {
        let start = y as usize * frame.stride + place.x as usize * 4;
        let row = &frame.pixels[start..start + width];
        out.extend_from_slice(row);
        for _ in place.width..TILE {
            out.extend_from_slice(&row[width - 4..]);
        }
    }
    for _ in place.height..TILE {
        out.extend_from_within(out.len() - ROW..);
    }
}

/// Divides each sub-band by its step, to the nearest (MS-RDPRFX 3.1.8.1.5). ironrdp-graphics' own rounds down,
/// which turns every small negative coefficient into a whole step of noise.
fn quantise(plane: &mut [i16; 4096], quant: &Quant) {
    let mut rest = plane.as_mut_slice();
    for (len, step) in [
        (1024, quant.hl1),
        (1024, quant.lh1),
        (1024, quant.hh1),
        (256, quant.hl2),
        (256, quant.lh2),
        (256, quant.hh2),
        (64, quant.hl3),
        (64, quant.lh3),
        (64, quant.hh3),
        (64, quant.ll3),
    ] {
        let (band, after) = rest.split_at_mut(len);
        let shift = step - 1;
        let half = 1 << (shift - 1);
        for value in band {
            *value = value.saturating_add(half) >> shift;
        }
        rest = after;
    }
}

fn rectangle(r: &Rect) -> Result<RfxRectangle, Error> {
    let small = |v: u32| u16::try_from(v).map_err(|_| Error::Encode("RemoteFX"));
    Ok(RfxRectangle { x: small(r.x)?, y: small(r.y)?, width: small(r.width)?, height: small(r.height)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironrdp_graphics::color_conversion::{YCbCrBuffer, ycbcr_to_rgba};
    use ironrdp_graphics::quantization;
    use ironrdp_pdu::bitmap::BitmapUpdateData;
    use ironrdp_pdu::geometry::InclusiveRectangle;

    /// Encodes a picture of at most one tile and decodes it as a client does.
    fn round_trip(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
        let client = RemoteFx { codec_id: 3, entropy: EntropyBits::Rlgr3 };
        let mut encoder = RemoteFxEncoder::new(client);
        let frame = Frame { width, height, stride: width as usize * 4, pixels, damage: &[] };
        let tile = encoder.tile(&frame, 0, 0).unwrap();
        let mut planes = [[0i16; 4096]; 3];
        let mut scratch = [0i16; 4096];
        for (plane, part) in planes.iter_mut().zip(&tile.parts) {
            rlgr::decode(EntropyAlgorithm::Rlgr3, part, plane).unwrap();
            subband_reconstruction::decode(&mut plane[LL3..]);
            quantization::decode(plane, &QUANT);
            dwt::decode(plane, &mut scratch);
        }
        let [y, cb, cr] = &planes;
        let mut out = vec![0; 4096 * 4];
        ycbcr_to_rgba(YCbCrBuffer { y, cb, cr }, &mut out).unwrap();
        out
    }

    #[test]
    fn a_flat_colour_comes_back_within_2_up_to_the_last_row_and_column_of_a_cut_tile() {
        for level in 0..6 * 6 * 6u32 {
            let channel = |v: u32| (v % 6 * 51) as u8;
            let (r, g, b) = (channel(level), channel(level / 6), channel(level / 36));
            for (width, height) in [(64, 64), (64, 16), (1, 1), (37, 63)] {
                let pixels: Vec<u8> = [b, g, r, 0].repeat((width * height) as usize);
                let out = round_trip(width, height, &pixels);
                for y in 0..height {
                    for x in 0..width {
                        let at = (y * 64 + x) as usize * 4;
                        for (got, want) in out[at..at + 3].iter().zip([r, g, b]) {
                            assert!(
                                got.abs_diff(want) <= 2,
                                "{r},{g},{b} came back as {:?}",
                                &out[at..at + 3]
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_been_still_is_repeated_as_bitmaps_once_and_the_rest_waits_for_room() {
        let (width, height) = (200u32, 100u32);
        let pixels: Vec<u8> = (0..width * height * 4).map(|at| (at.wrapping_mul(at) / 7) as u8).collect();
        let damage = [Rect { x: 0, y: 0, width, height }];
        let whole = Frame { width, height, stride: width as usize * 4, pixels: &pixels, damage: &damage };
        let still = Frame { damage: &[], ..whole };
        let client = RemoteFx { codec_id: 3, entropy: EntropyBits::Rlgr3 };
        let mut encoder = RefinedRemoteFx::new(client, (width, height));
        let start = Instant::now();
        let (updates, wait) = encoder.encode(&whole, 1 << 20, 1 << 20, start).unwrap();
        assert!(updates.iter().all(|(code, _)| *code == UpdateCode::SurfaceCommands));
        let later = start + wait.unwrap();
        let (updates, _) = encoder.encode(&still, 1 << 20, 0, later).unwrap();
        assert!(updates.is_empty());
        let (first, wait) = encoder.encode(&still, 1 << 20, 1, later).unwrap();
        assert!(wait.is_some_and(|wait| wait.is_zero()) && first.len() == 1);
        let (rest, wait) = encoder.encode(&still, 1 << 20, 1 << 20, later).unwrap();
        assert_eq!(wait, None);
        let mut seen = vec![0; (width * height) as usize];
        for (code, payload) in first.iter().chain(&rest) {
            assert_eq!(*code, UpdateCode::Bitmap);
            let update: BitmapUpdateData = ironrdp_core::decode(payload).unwrap();
            for InclusiveRectangle { left, top, right, bottom } in
                update.rectangles.iter().map(|r| r.rectangle.clone())
            {
                for y in top..=bottom {
                    (left..=right).for_each(|x| seen[usize::from(y) * width as usize + usize::from(x)] += 1);
                }
            }
        }
        assert!(seen.iter().all(|times| *times == 1));
    }

    #[test]
    fn no_message_is_larger_than_the_client_takes_and_every_damaged_tile_is_sent() {
        let (width, height) = (512u32, 512u32);
        let mut state = 1u32;
        let pixels: Vec<u8> = (0..width * height * 4)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let frame = Frame { width, height, stride: width as usize * 4, pixels: &pixels, damage: &[] };
        let mut encoder = RemoteFxEncoder::new(RemoteFx { codec_id: 3, entropy: EntropyBits::Rlgr1 });
        let limit = 128 * 1024;
        let messages = encoder.encode(&frame, &[Rect { x: 0, y: 0, width, height }], limit).unwrap();
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|m| m.len() <= limit));
    }
}
