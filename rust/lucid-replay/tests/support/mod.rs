//! Recordings of sessions whose pictures are known.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "for tests")]

use std::path::{Path, PathBuf};

use ironrdp_core::{Encode as _, WriteCursor};
use ironrdp_egfx::pdu::{
    Avc420Region, Codec1Type, EndFramePdu, GfxPdu, PixelFormat, StartFramePdu, Timestamp, WireToSurface1Pdu,
    encode_avc420_bitmap_stream,
};
use ironrdp_pdu::geometry::ExclusiveRectangle;
use lucid_audit::{Chain, Data, Direction, Entry, Keys};
use lucid_recording::statement::{Compression, Participant, Stream};
use lucid_recording::{
    Hex, Limits, OwnerSecret, Recipient, Recovery, Role, SigningKey, Start, Time, Writer, system_random,
};
use lucid_session::pointer::{Change, Entry as PointerEntry, Shape};
use lucid_session::sound::Piece;
use lucid_session::video::Record;
use lucid_session::{AUDIT, POINTER, SOUND, STREAMS, VIDEO};
use lucid_video::{Encoder as _, OpenH264, Picture, Rect, Settings};

/// When they begin: 1 January 2026.
pub(crate) const BEGAN_MS: u64 = 1_767_225_600_000;
pub(crate) const SESSION: &str = "68ca9baf-17c6-4ef7-b456-0a4455bacf8d";

pub(crate) fn owner() -> OwnerSecret {
    OwnerSecret::from_bytes([0x0a; 32])
}

pub(crate) fn device() -> SigningKey {
    SigningKey::from_seed(&[3; 32]).unwrap()
}

fn time(at_us: u64) -> Time {
    Time { mono_us: at_us, wall_ms: BEGAN_MS + at_us / 1000 }
}

/// A session that is being recorded, and what its client shows.
pub(crate) struct Session {
    pub(crate) dir: PathBuf,
    writer: Option<Writer>,
    chain: Chain,
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// Red, green, blue of each pixel.
    pub(crate) rgb: Vec<u8>,
    now_us: u64,
    frame: u32,
    encoder: Option<OpenH264>,
    /// Every access unit that was sent.
    pub(crate) units: Vec<Vec<u8>>,
}

impl Session {
    /// Chunks are finished at so many bytes.
    pub(crate) fn begin(parent: &Path, width: u16, height: u16, soft: u64) -> Session {
        let streams = STREAMS.map(|stream| Stream {
            compression: if stream.compressed { Compression::Zstd } else { Compression::None },
            id: stream.number,
            name: stream.name.to_owned(),
        });
        let start = Start {
            session: SESSION.parse().unwrap(),
            participants: vec![Participant {
                key: device().public(),
                name: "Ada".to_owned(),
                role: "user".to_owned(),
            }],
            policy: Hex([0; 32]),
            consent: None,
            snapshot: None,
            codec: "MS-RDPEGFX".to_owned(),
            streams: streams.to_vec(),
            recorder: "test 1".to_owned(),
        };
        let recipients = [Recipient { key: owner().public().unwrap(), role: Role::Owner }];
        let limits = Limits { soft, hard: 16 << 20 };
        let writer =
            Writer::create(parent, start, time(0), &recipients, device(), limits, system_random()).unwrap();
        let dir = writer.dir().to_owned();
        let mut session = Session {
            dir,
            writer: Some(writer),
            chain: Chain::new(SESSION.parse().unwrap()),
            width: 0,
            height: 0,
            rgb: Vec::new(),
            now_us: 0,
            frame: 0,
            encoder: None,
            units: Vec::new(),
        };
        session.resize(0, width, height);
        session
    }

    fn append(&mut self, at_us: u64, stream: u8, key: bool, payload: &[u8]) {
        self.now_us = at_us;
        self.writer.as_mut().unwrap().append(stream, time(at_us), key, payload).unwrap();
    }

    /// A black picture of another size.
    pub(crate) fn resize(&mut self, at_us: u64, width: u16, height: u16) {
        (self.width, self.height, self.encoder) = (width, height, None);
        self.rgb = vec![0; usize::from(width) * usize::from(height) * 3];
        self.video(at_us, Record::Key { width, height, png: &[] });
    }

    pub(crate) fn video(&mut self, at_us: u64, record: Record<'_>) {
        let mut payload = Vec::new();
        record.write(&mut payload);
        self.append(at_us, VIDEO.number, matches!(record, Record::Key { .. }), &payload);
    }

    /// What is shown, as a key; in records of at most so many bytes.
    pub(crate) fn key(&mut self, at_us: u64, most: usize) {
        let png = self.png();
        for record in Record::of_key(self.width, self.height, &png, most) {
            self.video(at_us, record);
        }
        self.encoder = None;
    }

    pub(crate) fn png(&self) -> Vec<u8> {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, self.width.into(), self.height.into());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&self.rgb).unwrap();
        writer.finish().unwrap();
        png
    }

    fn frame(&mut self, at_us: u64, pdu: GfxPdu) {
        let pdus = frame(self.frame, pdu);
        self.frame += 1;
        self.video(at_us, Record::Frame(&pdus));
    }

    /// A part of the picture has one colour, and is sent without loss.
    pub(crate) fn tile(&mut self, at_us: u64, (x, y, width, height): (u16, u16, u16, u16), rgb: [u8; 3]) {
        for row in y..y + height {
            let at = (usize::from(row) * usize::from(self.width) + usize::from(x)) * 3;
            self.rgb[at..at + usize::from(width) * 3].as_chunks_mut::<3>().0.fill(rgb);
        }
        let pixels = [rgb[2], rgb[1], rgb[0], 0].repeat(usize::from(width) * usize::from(height));
        let there = ExclusiveRectangle { left: x, top: y, right: x + width, bottom: y + height };
        self.frame(
            at_us,
            GfxPdu::WireToSurface1(WireToSurface1Pdu {
                surface_id: 1,
                codec_id: Codec1Type::Uncompressed,
                pixel_format: PixelFormat::XRgb,
                destination_rectangle: there,
                bitmap_data: pixels,
            }),
        );
    }

    /// The whole picture has one colour but for a bar, and is sent as H.264.
    pub(crate) fn h264(&mut self, at_us: u64, bar: u16, rgb: [u8; 3]) {
        let (width, height) = (u32::from(self.width), u32::from(self.height));
        let mut pixels = Vec::new();
        for at in 0..usize::from(self.width) * usize::from(self.height) {
            let x = at % usize::from(self.width);
            let [r, g, b] =
                if (x as u16) >= bar && (x as u16) < bar.saturating_add(16) { [255; 3] } else { rgb };
            self.rgb[at * 3..at * 3 + 3].copy_from_slice(&[r, g, b]);
            pixels.extend([b, g, r, 0]);
        }
        let encoder =
            self.encoder.get_or_insert_with(|| OpenH264::new(Settings::desktop(width, height)).unwrap());
        let damage = [Rect { x: 0, y: 0, width, height }];
        let picture = Picture { width, height, stride: width as usize * 4, pixels: &pixels, damage: &damage };
        let encoded = encoder.encode(picture).unwrap();
        let region = Avc420Region::new(0, 0, self.width, self.height, encoded.qp, 100);
        let unit = encoded.bytes.to_vec();
        let there = ExclusiveRectangle { left: 0, top: 0, right: self.width, bottom: self.height };
        let pdu = GfxPdu::WireToSurface1(WireToSurface1Pdu {
            surface_id: 1,
            codec_id: Codec1Type::Avc420,
            pixel_format: PixelFormat::XRgb,
            destination_rectangle: there,
            bitmap_data: encode_avc420_bitmap_stream(&[region], &unit),
        });
        self.units.push(unit);
        self.frame(at_us, pdu);
    }

    pub(crate) fn pointer(&mut self, at_us: u64, entries: &[(u16, Change<'_>)]) {
        let mut payload = Vec::new();
        for (ms_before, change) in entries {
            PointerEntry { ms_before: *ms_before, change: *change }.write(&mut payload);
        }
        self.append(at_us, POINTER.number, false, &payload);
    }

    /// A pointer of one colour, whose upper left points.
    pub(crate) fn shape(&mut self, at_us: u64, edge: u16, rgba: [u8; 4], (x, y): (u16, u16)) {
        let rgba = rgba.repeat(usize::from(edge) * usize::from(edge));
        let shape = Shape { width: edge, height: edge, hotspot: (0, 0), rgba: &rgba };
        self.pointer(at_us, &[(0, Change::Shape(shape)), (0, Change::Moved(x, y))]);
    }

    pub(crate) fn sound(&mut self, at_us: u64, piece: Piece<'_>) {
        self.append(at_us, SOUND.number, false, &piece.write());
    }

    pub(crate) fn event(&mut self, at_us: u64, data: Data) {
        let line = self.chain.append(time(at_us), Entry::of_device(data)).unwrap();
        let mut bytes = line.bytes.clone();
        bytes.push(b'\n');
        self.append(at_us, AUDIT.number, false, &bytes);
    }

    pub(crate) fn focus(&mut self, at_us: u64, app: &str, title: &str) {
        let (app_id, title) = (Some(app.try_into_text()), Some(title.try_into_text()));
        self.event(at_us, Data::Focus { app_id, title });
    }

    pub(crate) fn paste(&mut self, at_us: u64, bytes: u64) {
        let r#type = "text/plain".try_into_text();
        self.event(at_us, Data::Clipboard { bytes, direction: Direction::ToDesktop, hash: None, r#type });
    }

    pub(crate) fn input(&mut self, at_us: u64, letters: u32, clicks: u32) {
        let keys = Keys { letters, ..Keys::default() };
        self.event(at_us, Data::Input { clicks, keys, seconds: 10, wheel: 0 });
    }

    /// Something is missing; what comes after begins with a key.
    pub(crate) fn gap(&mut self, from_us: u64, to_us: u64, reason: &str) {
        self.now_us = to_us;
        self.writer.as_mut().unwrap().gap(from_us, time(to_us), reason).unwrap();
        self.commit();
    }

    pub(crate) fn commit(&mut self) {
        self.writer.as_mut().unwrap().commit(time(self.now_us), None).unwrap();
    }

    /// The recorder dies, and the next one begins at a time.
    pub(crate) fn die(&mut self, at_us: u64) {
        self.commit();
        self.writer = None;
        let recovery = Recovery::open(&self.dir, device(), "test 1").unwrap();
        let recipients = [Recipient { key: owner().public().unwrap(), role: Role::Owner }];
        self.now_us = at_us;
        let reason = "the recorder died";
        let limits = Limits::default();
        self.writer =
            Some(recovery.resume(&recipients, time(at_us), reason, limits, system_random()).unwrap());
    }

    pub(crate) fn finish(mut self, at_us: u64) -> PathBuf {
        self.writer.take().unwrap().finish(time(at_us), None).unwrap();
        self.dir
    }
}

trait TryIntoText<T> {
    fn try_into_text(self) -> T;
}

impl<const MOST: usize> TryIntoText<lucid_audit::Text<MOST>> for &str {
    fn try_into_text(self) -> lucid_audit::Text<MOST> {
        lucid_audit::Text::new(self).unwrap()
    }
}

/// A frame of one message.
pub(crate) fn frame(frame_id: u32, pdu: GfxPdu) -> Vec<u8> {
    let timestamp = Timestamp { milliseconds: 0, seconds: 0, minutes: 0, hours: 0 };
    let all = [
        GfxPdu::StartFrame(StartFramePdu { timestamp, frame_id }),
        pdu,
        GfxPdu::EndFrame(EndFramePdu { frame_id }),
    ];
    let mut bytes = Vec::new();
    for pdu in all {
        let mut one = vec![0; pdu.size()];
        pdu.encode(&mut WriteCursor::new(&mut one)).unwrap();
        bytes.extend(one);
    }
    bytes
}

/// Mean square error of two pictures, as PSNR in dB.
pub(crate) fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    if squares == 0 {
        return 99.0;
    }
    10.0 * (255.0 * 255.0 * a.len() as f64 / squares as f64).log10()
}
