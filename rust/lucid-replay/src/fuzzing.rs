//! The doors through which pictures and sound of recordings of others come in, for the fuzz targets in
//! `../fuzz` and for the tests that replay their corpus. Built with the feature `fuzzing` and for tests alone.

use lucid_session::sound::Piece;
use lucid_session::video::Record;

use crate::Player;
use crate::sound::Track;

/// The largest picture here: what is larger only costs time.
const MAX_PIXELS: u32 = 1 << 20;

/// Payloads of the video stream, one after the other, each with its length in 3 bytes before it, little-endian. Whatever they
/// are, the player takes or refuses them, and what it shows is of the size that it says.
pub fn records(bytes: &[u8]) {
    play(bytes);
}

/// How many were taken, and how many were not.
fn play(mut bytes: &[u8]) -> (usize, usize) {
    let mut player = Player::default();
    let mut counts = (0, 0);
    while let Some(([a, b, c], rest)) = bytes.split_first_chunk::<3>() {
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        bytes = rest;
        counts.1 += 1;
        let Ok(record) = Record::read(payload) else { continue };
        if matches!(record, Record::Key { width, height, .. } if u32::from(width) * u32::from(height) > MAX_PIXELS)
        {
            continue;
        }
        let taken = player.take(record);
        if taken.is_ok() {
            counts = (counts.0 + 1, counts.1 - 1);
        }
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
    counts
}

/// Pieces of sound, each with its length in 2 bytes before it, little-endian, 20 ms after each other: what comes out is a
/// track without holes.
pub fn pieces(bytes: &[u8]) {
    hear(bytes);
}

/// How many were taken, and how many were not.
fn hear(mut bytes: &[u8]) -> (usize, usize) {
    let mut track = Track::new(0);
    let (mut at_us, mut end) = (0, 0);
    let mut counts = (0, 0);
    while let Some(([a, b], rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes([*a, *b]));
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        (bytes, at_us) = (rest, at_us + 20_000);
        counts.1 += 1;
        let Ok(piece) = Piece::read(payload) else { continue };
        if track.take(at_us, piece).is_err() {
            continue;
        }
        counts = (counts.0 + 1, counts.1 - 1);
        let Ok((start, packets)) = track.until(at_us) else { return counts };
        assert_eq!(start, end, "there is a hole");
        end = start + packets.iter().map(|packet| u64::from(packet.duration)).sum::<u64>();
        assert!(packets.iter().all(|packet| packet.duration > 0));
    }
    counts
}

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use ironrdp_egfx::pdu::{
        Avc420Region, CacheToSurfacePdu, Codec1Type, Color, EvictCacheEntryPdu, GfxPdu, PixelFormat, Point,
        SolidFillPdu, SurfaceToCachePdu, SurfaceToSurfacePdu, WireToSurface1Pdu, encode_avc420_bitmap_stream,
    };
    use ironrdp_graphics::clearcodec::ClearCodecEncoder;
    use ironrdp_pdu::geometry::ExclusiveRectangle;
    use lucid_session::sound::Coding;

    use super::support::frame;
    use super::*;

    fn rectangle(left: u16, top: u16, right: u16, bottom: u16) -> ExclusiveRectangle {
        ExclusiveRectangle { left, top, right, bottom }
    }

    /// Payloads of every message that Lucid sends, and of one in a codec that it does not use. The first ones, as many as is
    /// said, are a key.
    fn payloads() -> (usize, Vec<(&'static str, Vec<u8>)>) {
        let temp = tempfile::tempdir().unwrap();
        let mut session = support::Session::begin(temp.path(), 64, 48, 8 << 20);
        session.tile(1, (0, 0, 64, 48), [200, 100, 50]);
        session.h264(2, 10, [1, 2, 3]);
        session.h264(3, 20, [1, 2, 3]);
        let png = session.png();
        let units = session.units;
        let wire = |codec_id, there: &ExclusiveRectangle, bitmap_data| {
            GfxPdu::WireToSurface1(WireToSurface1Pdu {
                surface_id: 1,
                codec_id,
                pixel_format: PixelFormat::XRgb,
                destination_rectangle: there.clone(),
                bitmap_data,
            })
        };
        let region = Avc420Region::new(0, 0, 64, 48, 12, 100);
        let stream = |unit: &[u8]| encode_avc420_bitmap_stream(std::slice::from_ref(&region), unit);
        let point = |x, y| Point { x, y };
        let (whole, part) = (rectangle(0, 0, 64, 48), rectangle(4, 8, 20, 24));
        // Letters, as it were.
        let letters: Vec<u8> = (0..16 * 16_usize)
            .flat_map(|at| if at % 7 < 2 || at / 16 == 9 { [255, 250, 240, 0] } else { [30, 20, 10, 0] })
            .collect();
        let mut lossless = ClearCodecEncoder::new();
        let clear = lossless.encode(&letters, 16, 16);
        let again = lossless.encode(&letters, 16, 16);
        let pdus = [
            ("plain", wire(Codec1Type::Uncompressed, &part, [9, 8, 7, 0].repeat(16 * 16))),
            ("h264", wire(Codec1Type::Avc420, &whole, stream(&units[0]))),
            ("h264-more", wire(Codec1Type::Avc420, &whole, stream(&units[1]))),
            ("planar", wire(Codec1Type::Planar, &part, [&[0x20][..], &[7; 3 * 16 * 16 + 1]].concat())),
            ("clear", wire(Codec1Type::ClearCodec, &part, clear)),
            ("clear-again", wire(Codec1Type::ClearCodec, &part, again)),
            (
                "fill",
                GfxPdu::SolidFill(SolidFillPdu {
                    surface_id: 1,
                    fill_pixel: Color { b: 1, g: 2, r: 3, xa: 0 },
                    rectangles: vec![rectangle(1, 1, 9, 9)],
                }),
            ),
            (
                "keep",
                GfxPdu::SurfaceToCache(SurfaceToCachePdu {
                    surface_id: 1,
                    cache_key: 7,
                    cache_slot: 3,
                    source_rectangle: rectangle(0, 0, 32, 32),
                }),
            ),
            (
                "kept",
                GfxPdu::CacheToSurface(CacheToSurfacePdu {
                    cache_slot: 3,
                    surface_id: 1,
                    destination_points: vec![point(20, 10)],
                }),
            ),
            (
                "copy",
                GfxPdu::SurfaceToSurface(SurfaceToSurfacePdu {
                    source_surface_id: 1,
                    destination_surface_id: 1,
                    source_rectangle: rectangle(0, 0, 16, 16),
                    destination_points: vec![point(40, 20)],
                }),
            ),
            ("evict", GfxPdu::EvictCacheEntry(EvictCacheEntryPdu { cache_slot: 3 })),
        ];
        let mut payloads = Vec::new();
        let mut add = |name, record: Record<'_>| {
            let mut payload = Vec::new();
            record.write(&mut payload);
            payloads.push((name, payload));
        };
        let count = Record::of_key(64, 48, &png, 100).count();
        Record::of_key(64, 48, &png, 100).for_each(|record| add("key", record));
        for (number, (name, pdu)) in pdus.into_iter().enumerate() {
            add(name, Record::Frame(&frame(number as u32, pdu)));
        }
        (count, payloads)
    }

    fn together<'a>(payloads: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
        let one = |payload: &Vec<u8>| [&(payload.len() as u32).to_le_bytes()[..3], payload].concat();
        payloads.into_iter().flat_map(one).collect()
    }

    fn corpus(door: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(door)
    }

    #[test]
    fn every_input_of_the_corpus_is_borne_and_damaged_ones_as_well() {
        type Door = fn(&[u8]) -> (usize, usize);
        for (name, door) in [("pictures", play as Door), ("sounds", hear)] {
            let mut good = 0;
            for file in fs::read_dir(corpus(name)).unwrap() {
                let path = file.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                let (taken, refused) = door(&bytes);
                // What the fuzzer begins with goes all the way.
                if path.file_name().unwrap().to_str().unwrap().starts_with("good-") {
                    assert!(taken > 0 && refused == 0, "{}: {taken}, {refused}", path.display());
                    good += 1;
                }
                for at in (0..bytes.len()).step_by(1 + bytes.len() / 8) {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 1 << (at % 8);
                    door(&damaged);
                    door(&bytes[..at]);
                }
            }
            assert!(good > 0, "{name}");
        }
    }

    #[test]
    #[ignore = "writes the seeds of the corpus"]
    fn write_the_seeds() {
        let write = |door: &str, name: &str, bytes: &[u8]| {
            fs::create_dir_all(corpus(door)).unwrap();
            fs::write(corpus(door).join(format!("good-{name}")), bytes).unwrap();
        };
        let (count, all) = payloads();
        let payloads: Vec<&Vec<u8>> = all.iter().map(|(_, payload)| payload).collect();
        let (key, frames) = payloads.split_at(count);
        write("pictures", "all", &together(payloads.iter().copied()));
        // Without a picture: black.
        let mut black = Vec::new();
        Record::Key { width: 64, height: 48, png: &[] }.write(&mut black);
        for (at, payload) in frames.iter().enumerate() {
            // What stands on the one before comes with it.
            let before =
                if matches!(all[count + at].0, "h264-more" | "clear-again" | "kept") { at - 1 } else { at };
            let these = [&black].into_iter().chain(frames[before..at].iter().copied()).chain([*payload]);
            write("pictures", all[count + at].0, &together(these));
        }
        write("pictures", "key", &together(key.iter().copied()));

        let piece = |coding, channels, rate, bytes: &[u8]| {
            let payload = Piece { coding, channels, rate, bytes }.write();
            [&(payload.len() as u16).to_le_bytes(), &payload[..]].concat()
        };
        let (stereo, kind) = (opus::Channels::Stereo, opus::Application::Audio);
        let mut encoder = opus::Encoder::new(48_000, stereo, kind).unwrap();
        encoder.set_bitrate(opus::Bitrate::Bits(32_000)).unwrap();
        let samples: Vec<i16> = (0..1920_i16).map(|at| (at % 96) * 200 - 9000).collect();
        let packet = encoder.encode_vec(&samples, 400).unwrap();
        let silence = crate::sound::SILENCE;
        let opus =
            [packet.as_slice(), &silence].map(|packet| piece(Coding::Opus, 2, 48_000, packet)).concat();
        let pcm = [(2, 48_000), (1, 8000), (2, 44_100), (1, 11_025)];
        let pcm = pcm.map(|(channels, rate)| piece(Coding::Pcm, channels, rate, &[1, 2, 3, 250].repeat(40)));
        let pcm = pcm.concat();
        let block =
            |channels: usize| [0, 1, 20, 0].repeat(channels).into_iter().chain((0..28).cycle().take(56));
        let adpcm = [(1, 8000), (2, 22_050)].map(|(channels, rate)| {
            let block: Vec<u8> = block(channels.into()).collect();
            piece(Coding::ImaAdpcm(block.len() as u16), channels, rate, &block.repeat(2))
        });
        let adpcm = adpcm.concat();
        write("sounds", "all", &[&opus[..], &pcm, &adpcm, &opus].concat());
        write("sounds", "opus", &opus);
        write("sounds", "pcm", &pcm);
        write("sounds", "adpcm", &adpcm);
    }

    #[test]
    fn a_recording_of_anybody_is_played_or_refused_and_nothing_else() {
        let good: Vec<Vec<u8>> = payloads().1.into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(play(&together(&good)), (good.len(), 0));
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
