//! The door through which recordings of others come in, for the fuzz target and for tests. Built with the feature `fuzzing`
//! and for tests alone.

use lucid_session::sound::Piece;
use lucid_session::video::Record;

use crate::Player;
use crate::sound::Track;

/// The largest picture here: what is larger only costs time.
const MAX_PIXELS: u32 = 1 << 20;

/// Payloads of the video stream, one after the other, each with its length in 3 bytes before it, little-endian. Whatever they
/// are, the player takes or refuses them, and what it shows is of the size that it says.
pub fn records(mut bytes: &[u8]) {
    let mut player = Player::default();
    while let Some(([a, b, c], rest)) = bytes.split_first_chunk::<3>() {
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        bytes = rest;
        let Ok(record) = Record::read(payload) else { continue };
        if matches!(record, Record::Key { width, height, .. } if u32::from(width) * u32::from(height) > MAX_PIXELS)
        {
            continue;
        }
        let taken = player.take(record);
        let changed = player.take_changed();
        if let Some(picture) = player.picture() {
            let (width, height) = (usize::from(picture.width), usize::from(picture.height));
            assert_eq!(picture.pixels.len(), width * height * 4, "a picture is not of its size");
            for region in changed {
                assert!(usize::from(region.x) + usize::from(region.width) <= width);
                assert!(usize::from(region.y) + usize::from(region.height) <= height);
            }
        } else {
            assert!(taken.is_err() || matches!(record, Record::Key { .. } | Record::More(_)));
        }
    }
}

/// Pieces of sound, each with its length in 2 bytes before it, little-endian, 20 ms after each other: what comes out is a
/// track without holes.
pub fn pieces(mut bytes: &[u8]) {
    let mut track = Track::new(0);
    let (mut at_us, mut end) = (0, 0);
    while let Some(([a, b], rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes([*a, *b]));
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        (bytes, at_us) = (rest, at_us + 20_000);
        let Ok(piece) = Piece::read(payload) else { continue };
        if track.take(at_us, piece).is_err() {
            continue;
        }
        let Ok((start, packets)) = track.until(at_us) else { return };
        assert_eq!(start, end, "there is a hole");
        end = start + packets.iter().map(|packet| u64::from(packet.duration)).sum::<u64>();
        assert!(packets.iter().all(|packet| packet.duration > 0));
    }
}

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

#[cfg(test)]
mod tests {
    use ironrdp_egfx::pdu::{
        CacheToSurfacePdu, Color, GfxPdu, PixelFormat, Point, SolidFillPdu, SurfaceToCachePdu,
        SurfaceToSurfacePdu, WireToSurface1Pdu,
    };
    use ironrdp_pdu::geometry::ExclusiveRectangle;

    use super::support::frame;
    use super::*;

    fn rectangle(left: u16, top: u16, right: u16, bottom: u16) -> ExclusiveRectangle {
        ExclusiveRectangle { left, top, right, bottom }
    }

    /// Payloads of every message that Lucid sends.
    fn payloads() -> Vec<Vec<u8>> {
        let temp = tempfile::tempdir().unwrap();
        let mut session = support::Session::begin(temp.path(), 64, 48, 8 << 20);
        session.tile(1, (0, 0, 64, 48), [200, 100, 50]);
        session.h264(2, 10, [1, 2, 3]);
        session.h264(3, 20, [1, 2, 3]);
        let png = session.png();
        let units = session.units;
        let wire = |codec_id, bitmap_data| {
            let there = rectangle(0, 0, 64, 48);
            let pixel_format = PixelFormat::XRgb;
            GfxPdu::WireToSurface1(WireToSurface1Pdu {
                surface_id: 1,
                codec_id,
                pixel_format,
                destination_rectangle: there,
                bitmap_data,
            })
        };
        use ironrdp_egfx::pdu::{Avc420Region, Codec1Type, encode_avc420_bitmap_stream};
        let region = Avc420Region::new(0, 0, 64, 48, 12, 100);
        let stream = |unit: &[u8]| encode_avc420_bitmap_stream(std::slice::from_ref(&region), unit);
        let point = |x, y| Point { x, y };
        let pdus = [
            wire(Codec1Type::Uncompressed, [9, 8, 7, 0].repeat(64 * 48)),
            wire(Codec1Type::Avc420, stream(&units[0])),
            wire(Codec1Type::Avc420, stream(&units[1])),
            wire(Codec1Type::Planar, vec![0x20, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            wire(Codec1Type::ClearCodec, vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            GfxPdu::SolidFill(SolidFillPdu {
                surface_id: 1,
                fill_pixel: Color { b: 1, g: 2, r: 3, xa: 0 },
                rectangles: vec![rectangle(1, 1, 9, 9)],
            }),
            GfxPdu::SurfaceToCache(SurfaceToCachePdu {
                surface_id: 1,
                cache_key: 7,
                cache_slot: 3,
                source_rectangle: rectangle(0, 0, 32, 32),
            }),
            GfxPdu::CacheToSurface(CacheToSurfacePdu {
                cache_slot: 3,
                surface_id: 1,
                destination_points: vec![point(20, 10)],
            }),
            GfxPdu::SurfaceToSurface(SurfaceToSurfacePdu {
                source_surface_id: 1,
                destination_surface_id: 1,
                source_rectangle: rectangle(0, 0, 16, 16),
                destination_points: vec![point(40, 20)],
            }),
        ];
        let mut payloads = Vec::new();
        let mut add = |record: Record<'_>| {
            let mut payload = Vec::new();
            record.write(&mut payload);
            payloads.push(payload);
        };
        Record::of_key(64, 48, &png, 100).for_each(&mut add);
        for (number, pdu) in pdus.into_iter().enumerate() {
            add(Record::Frame(&frame(number as u32, pdu)));
        }
        payloads
    }

    fn together(payloads: &[Vec<u8>]) -> Vec<u8> {
        payloads
            .iter()
            .flat_map(|payload| [&(payload.len() as u32).to_le_bytes()[..3], payload].concat())
            .collect()
    }

    #[test]
    fn a_recording_of_anybody_is_played_or_refused_and_nothing_else() {
        let good = payloads();
        records(&together(&good));
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |most: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % most.max(1) as u64) as usize
        };
        let runs: usize =
            std::env::var("LUCID_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(400);
        for _ in 0..runs {
            let mut payloads = good.clone();
            for _ in 0..=random(4) {
                let at = random(payloads.len());
                let payload = &mut payloads[at];
                let near = if random(2) == 0 { 64 } else { usize::MAX };
                let place = random(payload.len().min(near));
                match random(5) {
                    0 => payload[place] ^= 1 << random(8),
                    1 => payload[place] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                    2 => payload.truncate(place.max(1)),
                    3 => payload.insert(place, random(256) as u8),
                    _ => {
                        let other = random(good.len());
                        payloads.insert(at, good[other].clone());
                    }
                }
            }
            records(&together(&payloads));
        }
    }

    #[test]
    fn sound_of_anybody_is_decoded_or_refused_and_nothing_else() {
        let mut all = Vec::new();
        let mut seed = 1_u32;
        for number in 0..6000_u32 {
            let mut random = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed >> 8
            };
            let rate = [8000, 11_025, 44_100, 48_000][random() as usize % 4];
            let block = [1, 4, 7, 8, 9, 512, 1024, u16::MAX][random() as usize % 8];
            let coding = number as u8 % 3;
            let [b0, b1] = if coding == 2 { block.to_le_bytes() } else { [0; 2] };
            let mut payload = vec![coding, 1 + random() as u8 % 2, b0, b1];
            payload.extend(u32::to_le_bytes(rate));
            let length = random() % [4, 40, 2100][random() as usize % 3];
            payload.extend((0..length).map(|_| random() as u8));
            all.extend((payload.len() as u16).to_le_bytes());
            all.extend(payload);
        }
        pieces(&all);
    }
}
