//! IronRDP's graphics client, fed with records.

use std::io::Cursor;

use ironrdp_core::{Decode as _, Encode as _, ReadCursor, WriteCursor};
use ironrdp_dvc::DvcProcessor as _;
use ironrdp_egfx::client::{GraphicsPipelineClient, GraphicsPipelineHandler};
use ironrdp_egfx::decode::OpenH264Decoder;
use ironrdp_egfx::pdu::{
    CapabilitiesConfirmPdu, CapabilitiesV107Flags, CapabilitySet, Codec1Type, CreateSurfacePdu, GfxPdu,
    MapSurfaceToOutputPdu, PixelFormat, ResetGraphicsPdu, WireToSurface1Pdu,
};
use ironrdp_graphics::zgfx::wrap_uncompressed;
use ironrdp_pdu::geometry::ExclusiveRectangle;

use lucid_session::video::Record;

use crate::Error;

/// What is shown at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: u16,
    /// In pixels.
    pub height: u16,
    /// Red, green, blue, 255 of each pixel, row after row from the top, without gaps.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// All of it.
    #[must_use]
    pub fn whole(&self) -> Region {
        Region { x: 0, y: 0, width: self.width, height: self.height }
    }
}

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// From the left.
    pub x: u16,
    /// From the top.
    pub y: u16,
    /// Width.
    pub width: u16,
    /// Height.
    pub height: u16,
}

/// The most regions that are told apart; of more, the whole picture is named.
const MAX_REGIONS: usize = 1024;

/// Plays records in their order, from a key on.
#[derive(Default)]
pub struct Player {
    picture: Option<Picture>,
    /// What has changed since it was last asked for.
    changed: Vec<Region>,
    /// A key whose PNG goes on in the next record: its size, and what there is of it.
    key: Option<(u16, u16, Vec<u8>)>,
    /// Of the present key; made with the first frame, which tells the surface's number.
    client: Option<GraphicsPipelineClient>,
}

/// How a PNG ends (RFC 2083, 4.1.4): an empty chunk IEND with its sum.
const PNG_END: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];
/// A PNG takes no more than so many bytes for a pixel, and as many for each row, and [`PNG_MORE`].
const PNG_PIXEL: usize = 4;
const PNG_MORE: usize = 64 << 10;

/// The client's callbacks are not needed: what it composes is asked for.
struct Silent;

impl GraphicsPipelineHandler for Silent {}

impl Player {
    /// Takes one record. The picture is up to date afterwards, unless the key goes on in the next record.
    ///
    /// # Errors
    /// When it is malformed, or a frame that cannot be decoded without anything missing. The picture is then what it
    /// was; a later key mends that.
    pub fn take(&mut self, record: Record<'_>) -> Result<(), Error> {
        match record {
            Record::Key { width, height, png } => {
                self.key = None;
                if png.is_empty() {
                    self.show(width, height, black(width, height));
                    return Ok(());
                }
                self.more(width, height, png.to_vec())
            }
            Record::More(more) => {
                let Some((width, height, mut png)) = self.key.take() else { return Err(Error::NoKey) };
                png.extend_from_slice(more);
                self.more(width, height, png)
            }
            Record::Frame(_) if self.key.take().is_some() => Err(Error::Key),
            Record::Frame(pdus) => self.frame(pdus),
        }
    }

    /// Shows a key, or waits for the rest of it.
    fn more(&mut self, width: u16, height: u16, png: Vec<u8>) -> Result<(), Error> {
        if png.ends_with(&PNG_END) {
            self.show(width, height, read_png(&png, width, height)?);
            return Ok(());
        }
        if png.len() > (usize::from(width) + 1) * usize::from(height) * PNG_PIXEL + PNG_MORE {
            return Err(Error::Key);
        }
        self.key = Some((width, height, png));
        Ok(())
    }

    fn show(&mut self, width: u16, height: u16, pixels: Vec<u8>) {
        self.client = None;
        let picture = Picture { width, height, pixels };
        // A key repeats what was shown, unless something was missed.
        if self.picture.as_ref() != Some(&picture) {
            self.changed = vec![picture.whole()];
        }
        self.picture = Some(picture);
    }

    /// What has changed in the picture since this was last asked for.
    pub fn take_changed(&mut self) -> Vec<Region> {
        std::mem::take(&mut self.changed)
    }

    /// What is shown now; nothing before the first key.
    #[must_use]
    pub fn picture(&self) -> Option<&Picture> {
        self.picture.as_ref()
    }

    fn frame(&mut self, pdus: &[u8]) -> Result<(), Error> {
        let picture = self.picture.as_mut().ok_or(Error::NoKey)?;
        let client = match &mut self.client {
            Some(client) => client,
            none => match surface_of(pdus)? {
                Some(surface) => none.insert(begin(picture, surface)?),
                // It paints nothing.
                None => return Ok(()),
            },
        };
        let dropped = client.dropped_updates();
        feed(client, pdus)?;
        if client.dropped_updates() != dropped {
            return Err(Error::Frame("a part of it is malformed".to_owned()));
        }
        let outside = || Error::Frame("it paints outside of the picture".to_owned());
        for update in client.drain_output() {
            let region = &update.region;
            let within = region.left < region.right && region.top < region.bottom;
            if !within || region.right > picture.width || region.bottom > picture.height {
                return Err(outside());
            }
            let (width, height) = (region.right - region.left, region.bottom - region.top);
            let bytes = usize::from(width) * 4;
            for (row, pixels) in update.data.chunks_exact(bytes).take(height.into()).enumerate() {
                let y = usize::from(region.top) + row;
                let at = (y * usize::from(picture.width) + usize::from(region.left)) * 4;
                picture.pixels.get_mut(at..at + bytes).ok_or_else(outside)?.copy_from_slice(pixels);
            }
            if self.changed.len() >= MAX_REGIONS {
                self.changed = vec![picture.whole()];
            } else {
                self.changed.push(Region { x: region.left, y: region.top, width, height });
            }
        }
        Ok(())
    }
}

fn black(width: u16, height: u16) -> Vec<u8> {
    [0, 0, 0, 255].repeat(usize::from(width) * usize::from(height))
}

/// A client that shows the picture already.
fn begin(picture: &Picture, surface_id: u16) -> Result<GraphicsPipelineClient, Error> {
    let decoder = OpenH264Decoder::new().map_err(|error| Error::Decoder(error.to_string()))?;
    let mut client = GraphicsPipelineClient::new(Box::new(Silent), Some(Box::new(decoder)));
    let (width, height) = (picture.width, picture.height);
    // What clients of the large cache say of themselves; keys are the only ones that know less.
    let confirmed = CapabilitySet::V10_7 { flags: CapabilitiesV107Flags::empty() };
    let mut pixels = picture.pixels.clone();
    pixels.as_chunks_mut::<4>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
    let first = [
        GfxPdu::CapabilitiesConfirm(CapabilitiesConfirmPdu::from_typed(&confirmed)),
        GfxPdu::ResetGraphics(ResetGraphicsPdu {
            width: width.into(),
            height: height.into(),
            monitors: Vec::new(),
        }),
        GfxPdu::CreateSurface(CreateSurfacePdu {
            surface_id,
            width,
            height,
            pixel_format: PixelFormat::XRgb,
        }),
        GfxPdu::MapSurfaceToOutput(MapSurfaceToOutputPdu {
            surface_id,
            output_origin_x: 0,
            output_origin_y: 0,
        }),
        GfxPdu::WireToSurface1(WireToSurface1Pdu {
            surface_id,
            codec_id: Codec1Type::Uncompressed,
            pixel_format: PixelFormat::XRgb,
            destination_rectangle: ExclusiveRectangle { left: 0, top: 0, right: width, bottom: height },
            bitmap_data: pixels,
        }),
    ];
    for pdu in first {
        let mut bytes = vec![0; pdu.size()];
        pdu.encode(&mut WriteCursor::new(&mut bytes)).map_err(|error| Error::Frame(error.to_string()))?;
        feed(&mut client, &bytes)?;
    }
    drop(client.drain_output());
    Ok(client)
}

fn feed(client: &mut GraphicsPipelineClient, pdus: &[u8]) -> Result<(), Error> {
    // What it would answer goes nowhere.
    client.process(0, &wrap_uncompressed(pdus)).map(drop).map_err(|error| Error::Frame(error.to_string()))
}

/// The surface that a frame paints.
fn surface_of(pdus: &[u8]) -> Result<Option<u16>, Error> {
    let mut cursor = ReadCursor::new(pdus);
    while !cursor.is_empty() {
        let pdu = GfxPdu::decode(&mut cursor).map_err(|error| Error::Frame(error.to_string()))?;
        let surface = match pdu {
            GfxPdu::WireToSurface1(pdu) => pdu.surface_id,
            GfxPdu::SolidFill(pdu) => pdu.surface_id,
            GfxPdu::SurfaceToSurface(pdu) => pdu.destination_surface_id,
            GfxPdu::SurfaceToCache(pdu) => pdu.surface_id,
            GfxPdu::CacheToSurface(pdu) => pdu.surface_id,
            _ => continue,
        };
        return Ok(Some(surface));
    }
    Ok(None)
}

/// The pixels of a key, as a picture has them.
fn read_png(png: &[u8], width: u16, height: u16) -> Result<Vec<u8>, Error> {
    let limits = png::Limits { bytes: usize::from(width) * usize::from(height) * 4 + (1 << 20) };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(png), limits).read_info()?;
    let info = reader.info();
    if (info.width, info.height) != (width.into(), height.into())
        || (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight)
    {
        return Err(Error::Key);
    }
    let mut rgb = vec![0; usize::from(width) * usize::from(height) * 3];
    reader.next_frame(&mut rgb)?;
    Ok(rgb.as_chunks::<3>().0.iter().flat_map(|[r, g, b]| [*r, *g, *b, 255]).collect())
}
