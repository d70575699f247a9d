//! What is exported is what was recorded: known pictures at known moments, as a decoder of others sees them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lucid_recording::{OwnerSecret, Reader};
use lucid_replay::{Error, Export, Exported, Item, SEGMENT_US, Segments, Show, Wanted, survey};
use lucid_session::pointer::Change;
use lucid_session::sound::{Coding, Piece};
use lucid_session::video::Record;
use openh264::decoder::Decoder;
use openh264::formats::YUVSource as _;
use shiguredo_mp4::boxes::{MfraBox, MoofBox, MoovBox, SampleEntry};
use shiguredo_mp4::{BoxHeader, Decode as _};
use support::{Session, owner, psnr};

const SECOND: u64 = 1_000_000;
/// Text is readable from some 40 dB on.
const GOOD: f64 = 40.0;

fn reader(dir: &Path) -> Arc<Reader> {
    Arc::new(Reader::open(dir, &owner(), None).unwrap())
}

/// A film, and the subtitles and lines of its events.
fn export(dir: &Path, from_us: u64, to_us: u64, pointer: bool) -> (Film, Exported, String, String) {
    let (mut events, mut subtitles, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let wanted = Wanted { from_us, to_us, pointer };
    let export = Export::prepare(reader(dir), wanted, Some(&mut events), Some(&mut subtitles)).unwrap();
    let mut last = from_us;
    let exported = export
        .film(&mut bytes, &mut |at_us| {
            assert!(at_us > last);
            last = at_us;
        })
        .unwrap();
    assert_eq!(bytes.len() as u64, exported.bytes);
    assert_eq!(last, exported.to_us);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (Film::read(&bytes), exported, text(events), text(subtitles))
}

/// A picture or a packet: its start, its end, whether it needs none before, and its bytes.
type Sample = (u64, u64, bool, Vec<u8>);

/// A film, taken apart.
struct Film {
    sequence: Vec<u8>,
    picture: Vec<u8>,
    size: (u16, u16),
    video: Vec<Sample>,
    sound: Vec<Sample>,
    fragments: usize,
    /// What the index names, as times of pictures.
    index: Vec<u64>,
}

impl Film {
    fn read(bytes: &[u8]) -> Film {
        let mut film = Film {
            sequence: Vec::new(),
            picture: Vec::new(),
            size: (0, 0),
            video: Vec::new(),
            sound: Vec::new(),
            fragments: 0,
            index: Vec::new(),
        };
        let (mut at, mut ended) = (0, false);
        let mut starts = Vec::new();
        while at < bytes.len() {
            let (header, _) = BoxHeader::decode(&bytes[at..]).unwrap();
            let size = header.box_size.get() as usize;
            match header.box_type.as_bytes() {
                b"moov" => {
                    let (moov, _) = MoovBox::decode(&bytes[at..]).unwrap();
                    let tables = |track: usize| &moov.trak_boxes[track].mdia_box.minf_box.stbl_box;
                    let SampleEntry::Avc1(entry) = &tables(0).stsd_box.entries[0] else { panic!("no avc1") };
                    film.sequence = entry.avcc_box.sps_list[0].clone();
                    film.picture = entry.avcc_box.pps_list[0].clone();
                    film.size = (entry.visual.width, entry.visual.height);
                }
                b"moof" => {
                    let (moof, _) = MoofBox::decode(&bytes[at..]).unwrap();
                    film.fragments += 1;
                    assert_eq!(moof.mfhd_box.sequence_number as usize, film.fragments);
                    for track in moof.traf_boxes {
                        let is_video = track.tfhd_box.track_id == 1;
                        let samples = if is_video { &mut film.video } else { &mut film.sound };
                        let mut time = track.tfdt_box.unwrap().base_media_decode_time;
                        assert_eq!(time, samples.last().map_or(time, |last| last.1), "a hole in a track");
                        let run = &track.trun_boxes[0];
                        let mut from = at + run.data_offset.unwrap() as usize;
                        if is_video {
                            starts.push((at as u64, time));
                        }
                        for sample in &run.samples {
                            let to = from + sample.size.unwrap() as usize;
                            let end = time + u64::from(sample.duration.unwrap());
                            let key = !sample.flags.unwrap().sample_is_non_sync_sample();
                            samples.push((time, end, key, bytes[from..to].to_vec()));
                            (time, from) = (end, to);
                        }
                    }
                }
                b"mfra" => {
                    let (index, _) = MfraBox::decode(&bytes[at..]).unwrap();
                    assert_eq!(index.mfro_box.size as usize, size);
                    for entry in &index.tfra_boxes[0].entries {
                        assert!(starts.contains(&(entry.moof_offset, entry.time)), "the index leads nowhere");
                        film.index.push(entry.time);
                    }
                    ended = true;
                }
                _ => {}
            }
            at += size;
        }
        assert!(ended && at == bytes.len());
        film
    }

    /// The picture at a moment, as red, green, blue.
    fn at(&self, us: u64) -> Vec<u8> {
        let ticks = us * 9 / 100;
        let found = self.video.iter().rposition(|(from, ..)| *from <= ticks).unwrap();
        assert!(ticks < self.video[found].1, "nothing is shown then");
        let begin = self.video[..=found].iter().rposition(|(_, _, key, _)| *key).unwrap();
        let mut decoder = Decoder::new().unwrap();
        let mut shown = None;
        for (at, (_, _, _, bytes)) in self.video.iter().enumerate().take(found + 1).skip(begin) {
            let mut stream = Vec::new();
            let sets =
                if at == begin { vec![self.sequence.clone(), self.picture.clone()] } else { Vec::new() };
            for unit in sets.iter().map(Vec::as_slice).chain(nals(bytes)) {
                stream.extend([0, 0, 0, 1]);
                stream.extend_from_slice(unit);
            }
            let picture = decoder.decode(&stream).unwrap().unwrap();
            if at == found {
                assert_eq!(picture.dimensions(), (self.size.0.into(), self.size.1.into()));
                shown = Some(rgb(&picture));
            }
        }
        shown.unwrap()
    }

    fn length_us(&self) -> u64 {
        self.video.last().unwrap().1 * 100 / 9
    }
}

fn nals(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (unit, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        bytes = rest;
        Some(unit)
    })
}

/// Full-range BT.709, which the file says it is.
fn rgb(picture: &openh264::decoder::DecodedYUV<'_>) -> Vec<u8> {
    let ((width, height), (luma, chroma, _)) = (picture.dimensions(), picture.strides());
    let mut out = Vec::with_capacity(width * height * 3);
    for at in 0..width * height {
        let (x, y) = (at % width, at / width);
        let small = y / 2 * chroma + x / 2;
        let value = f64::from(picture.y()[y * luma + x]);
        let (u, v) = (f64::from(picture.u()[small]) - 128.0, f64::from(picture.v()[small]) - 128.0);
        for colour in [value + 1.5748 * v, value - 0.1873 * u - 0.4681 * v, value + 1.8556 * u] {
            out.push(colour.round().clamp(0.0, 255.0) as u8);
        }
    }
    out
}

/// One colour all over a tile.
fn colour(number: u64) -> [u8; 3] {
    let shade = (number * 37 % 256) as u8;
    [shade, 255 - shade, 128]
}

#[test]
fn a_known_moment_shows_the_known_picture_and_the_film_is_as_long_as_the_recording() {
    let temp = tempfile::tempdir().unwrap();
    // No multiple of 16: the file says how much of its pictures is shown.
    let mut session = Session::begin(temp.path(), 250, 182, 32 << 10);
    let mut known = Vec::new();
    for number in 1..40_u64 {
        let at = number * 250_000;
        session.tile(at, ((number * 16 % 160) as u16, 40, 80, 60), colour(number));
        if number % 8 == 0 {
            session.key(at + 1000, if number % 16 == 0 { 64 } else { 1 << 20 });
        }
        known.push((at + 125_000, session.rgb.clone()));
    }
    let dir = session.finish(12_345_678);
    let (film, exported, _, _) = export(&dir, 0, u64::MAX, true);
    assert!(reader(&dir).chunks().len() > 2, "no chunk was cut");
    assert!(film.length_us().abs_diff(12_345_678) < 12, "{}", film.length_us());
    assert_eq!((film.size, film.sound.len()), ((250, 182), 0));
    // A key that shows what was shown costs nothing; and each fragment has one picture more.
    assert!(exported.encoded <= 40 + film.fragments as u64, "{exported:?}");
    assert_eq!(film.index.len(), film.fragments);
    for (at, rgb) in &known {
        let quality = psnr(&film.at(*at), rgb);
        assert!(quality > GOOD, "{quality} dB at {at} us");
    }
    // A part of it.
    let (film, exported, _, _) = export(&dir, 3 * SECOND + 100_000, 7 * SECOND, true);
    assert_eq!((exported.from_us, exported.to_us), (3_100_000, 7 * SECOND));
    assert!(film.length_us().abs_diff(3_900_000) < 12);
    for (at, rgb) in known.iter().filter(|(at, _)| (3_100_000..7 * SECOND).contains(at)) {
        assert!(psnr(&film.at(at - 3_100_000), rgb) > GOOD);
    }
}

#[test]
fn h264_alone_is_copied_bit_for_bit_and_shows_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 330, 200, 32 << 10);
    let mut known = Vec::new();
    for number in 0..30_u64 {
        let at = 20_000 + number * 200_000;
        if number % 10 == 9 {
            session.key(at - 1000, 1 << 20);
        }
        session.h264(at, (number * 10) as u16, colour(number));
        known.push((at + 100_000, session.rgb.clone()));
    }
    session.shape(6_100_000, 8, [9, 9, 9, 255], (5, 5));
    let units = session.units.clone();
    let dir = session.finish(7 * SECOND);
    let (film, exported, _, _) = export(&dir, 0, u64::MAX, false);
    assert_eq!((exported.copied, exported.encoded), (30, 0));
    assert_eq!(film.video.len(), units.len());
    for ((_, _, _, bytes), unit) in film.video.iter().zip(&units) {
        // All of it but the parameter sets, in its order.
        let mut rest = unit.as_slice();
        for nal in nals(bytes) {
            let at = rest.windows(nal.len()).position(|window| window == nal).expect("it was changed");
            rest = &rest[at + nal.len()..];
        }
        assert!(rest.is_empty());
    }
    // The client showed nothing before.
    assert_eq!(film.video[0].0, 1800);
    assert!(film.length_us().abs_diff(7 * SECOND) < 12);
    for (at, rgb) in &known {
        let quality = psnr(&film.at(*at), rgb);
        assert!(quality > 30.0, "{quality} dB at {at} us");
    }
    // A pointer has to be drawn, and a part begins between pictures that stand alone.
    assert_eq!(export(&dir, 0, u64::MAX, true).1.copied, 0);
    let (film, exported, _, _) = export(&dir, 3 * SECOND, 4 * SECOND, false);
    assert_eq!(exported.copied, 0);
    let (at, rgb) = known.iter().find(|(at, _)| *at > 3 * SECOND).unwrap();
    assert!(psnr(&film.at(at - 3 * SECOND), rgb) > 30.0);
}

#[test]
fn the_pointer_is_drawn_where_it_was_then_and_what_was_under_it_comes_back() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 320, 240, 8 << 20);
    session.tile(1000, (0, 0, 320, 240), [20, 40, 60]);
    session.shape(10_000, 16, [255, 255, 255, 128], (100, 100));
    // One record tells of what was before it.
    session.pointer(3_000_000, &[(2000, Change::Moved(312, 232)), (1000, Change::Moved(200, 50))]);
    session.pointer(4_000_000, &[(0, Change::Hidden)]);
    let dir = session.finish(5 * SECOND);
    let (film, ..) = export(&dir, 0, u64::MAX, true);
    let pixel = |at: u64, x: usize, y: usize| film.at(at)[(y * 320 + x) * 3..][..3].to_vec();
    let is = |found: Vec<u8>, wanted: [u8; 3]| found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 4);
    let (under, half) = ([20, 40, 60], [138, 148, 158]);
    for (at, there, gone) in [
        (500_000, Some((108, 108)), (318, 238)),
        (1_500_000, Some((316, 236)), (108, 108)),
        (2_500_000, Some((208, 58)), (316, 236)),
        (4_500_000, None, (208, 58)),
    ] {
        if let Some((x, y)) = there {
            assert!(is(pixel(at, x, y), half), "{:?} at {at}", pixel(at, x, y));
        }
        assert!(is(pixel(at, gone.0, gone.1), under), "{:?} at {at}", pixel(at, gone.0, gone.1));
    }
}

#[test]
fn another_size_keeps_the_tracks_size_and_stands_at_the_upper_left() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 320, 160, 8 << 20);
    session.tile(1000, (0, 0, 320, 160), [200, 200, 200]);
    session.resize(2 * SECOND, 200, 240);
    session.tile(2_001_000, (0, 0, 200, 240), [0, 0, 200]);
    let dir = session.finish(4 * SECOND);
    let (film, ..) = export(&dir, 0, u64::MAX, true);
    assert_eq!(film.size, (320, 240));
    for (at, inside, outside) in [(SECOND, (310, 150), (310, 230)), (3 * SECOND, (190, 230), (310, 150))] {
        let picture = film.at(at);
        let pixel = |(x, y): (usize, usize)| &picture[(y * 320 + x) * 3..][..3];
        assert!(pixel(inside).iter().any(|value| *value > 190), "{:?}", pixel(inside));
        assert!(pixel(outside).iter().all(|value| *value < 4), "{:?}", pixel(outside));
    }
}

#[test]
fn what_was_not_recorded_is_seen_and_said_and_the_film_goes_on_at_the_next_key() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 640, 360, 8 << 20);
    session.tile(1000, (0, 0, 640, 360), [250, 250, 250]);
    session.focus(500_000, "foot", "~/notes <&>");
    session.paste(SECOND, 1234);
    session.commit();
    session.gap(2 * SECOND, 3 * SECOND, "the link broke");
    // Decoders know nothing of what it stands on.
    session.tile(3_100_000, (0, 0, 10, 10), [255, 0, 0]);
    session.key(4 * SECOND, 1 << 20);
    session.input(5 * SECOND, 12, 3);
    session.die(9 * SECOND);
    session.key(9 * SECOND, 1 << 20);
    let dir = session.finish(10 * SECOND);
    let (film, exported, lines, subtitles) = export(&dir, 0, u64::MAX, true);
    let ground = |at: u64| film.at(at)[..3].iter().all(|value| *value < 60);
    for (at, missing) in [
        (1_900_000, false),
        (2_100_000, true),
        (3_900_000, true),
        (4_100_000, false),
        (8_900_000, true),
        (9_100_000, false),
    ] {
        assert_eq!(ground(at), missing, "at {at} us");
    }
    assert_eq!(exported.encoded as usize, film.video.len());
    assert_eq!(lines.lines().count(), 3);
    for line in lines.lines() {
        lucid_audit::Event::from_line(line.as_bytes()).unwrap();
    }
    let (begin, end) = subtitles.split_once("00:00:05.000").unwrap();
    assert_eq!(
        begin,
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nfocus: foot — ~/notes &lt;&amp;&gt;\n\n\
         00:00:01.000 --> 00:00:02.500\npasted 1.2 kB of text/plain to the desktop\n\n\
         00:00:02.000 --> 00:00:03.000\nnot recorded: from 0:02.0 to 0:03.0, the link broke\n\n"
    );
    assert!(end.contains("12 letters, 3 clicks") && end.contains("the recorder died"), "{end}");
}

#[test]
fn opus_goes_in_as_it_is_and_other_sound_is_encoded_and_both_are_heard_when_they_were() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 64, 64, 8 << 20);
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Stereo, opus::Application::Audio).unwrap();
    let tone = |piece: u64, rate: u64| -> Vec<i16> {
        let frames = rate / 50;
        (0..frames)
            .flat_map(|at| {
                let phase = (piece * frames + at) as f32 * 440.0 / rate as f32 * std::f32::consts::TAU;
                [(phase.sin() * 9000.0) as i16; 2]
            })
            .collect()
    };
    let mut packets = Vec::new();
    for piece in 0..50 {
        let bytes = encoder.encode_vec(&tone(piece, 48_000), 4000).unwrap();
        let coding = Coding::Opus;
        session.sound(SECOND + piece * 20_000, Piece { coding, channels: 2, rate: 48_000, bytes: &bytes });
        packets.push(bytes);
    }
    session.tile(2_500_000, (0, 0, 10, 10), [9, 9, 9]);
    for piece in 0..50 {
        let bytes: Vec<u8> = tone(piece, 44_100).iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let coding = Coding::Pcm;
        session
            .sound(4 * SECOND + piece * 20_000, Piece { coding, channels: 2, rate: 44_100, bytes: &bytes });
    }
    let dir = session.finish(6 * SECOND);
    let (film, exported, _, _) = export(&dir, 0, u64::MAX, true);
    assert!(exported.sound);
    assert_eq!(film.sound.last().unwrap().1, 6 * 48_000);
    let kept: Vec<_> = film.sound.iter().filter(|sample| packets.contains(&sample.3)).collect();
    assert_eq!(kept.len(), packets.len());
    assert_eq!(kept[0].0, 48_000);
    let mut decoder = opus::Decoder::new(48_000, opus::Channels::Stereo).unwrap();
    let mut loud = Vec::new();
    for (_, _, _, bytes) in &film.sound {
        let mut samples = [0; 5760 * 2];
        let frames = decoder.decode(bytes, &mut samples, false).unwrap();
        loud.push(samples[..frames * 2].iter().any(|sample| sample.unsigned_abs() > 4000));
    }
    for (second, wanted) in [(0, false), (1, true), (2, false), (3, false), (4, true), (5, false)] {
        // Not the first and last pieces, where filters swing.
        let heard = &loud[second * 50 + 3..second * 50 + 47];
        assert!(heard.iter().all(|piece| *piece == wanted), "second {second}: {heard:?}");
    }
}

#[test]
fn a_segment_stands_alone_and_reads_only_the_chunks_that_hold_it() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 320, 240, 16 << 10);
    let mut known = Vec::new();
    for number in 1..60_u64 {
        let at = number * SECOND;
        session.tile(at, ((number * 4 % 200) as u16, 40, 60, 60), colour(number));
        if number % 6 == 0 {
            session.key(at, 1 << 20);
        }
        known.push((at + 500_000, session.rgb.clone()));
    }
    let dir = session.finish(60 * SECOND);
    let show = |bytes: &[u8], number: u64| {
        let end = [0, 0, 0, 16, b'm', b'f', b'r', b'a'];
        assert!(!bytes.windows(8).any(|window| window == end));
        // Without an index, which is for files.
        let mut bytes = bytes.to_vec();
        let index = shiguredo_mp4::boxes::MfraBox {
            tfra_boxes: vec![shiguredo_mp4::boxes::TfraBox {
                version: 1,
                track_id: 1,
                length_size_of_traf_num: 0,
                length_size_of_trun_num: 0,
                length_size_of_sample_num: 0,
                entries: Vec::new(),
            }],
            mfro_box: shiguredo_mp4::boxes::MfroBox { size: 48 },
        };
        bytes.extend(shiguredo_mp4::Encode::encode_to_vec(&index).unwrap());
        let film = Film::read(&bytes);
        assert!(film.length_us().abs_diff(SEGMENT_US) < 12);
        assert!(film.sound.last().unwrap().1 >= SEGMENT_US * 48 / 1000);
        let begin = number * SEGMENT_US;
        for (at, rgb) in known.iter().filter(|(at, _)| (begin..begin + SEGMENT_US).contains(at)) {
            let quality = psnr(&film.at(at - begin), rgb);
            assert!(quality > GOOD, "{quality} dB at {at} us");
        }
    };
    let all = reader(&dir);
    assert!(all.chunks().len() >= 5);
    let mut segments = Segments::new(Arc::clone(&all));
    assert_eq!(segments.count(), 15);
    // One after the other, back, and again.
    for number in [0, 1, 2, 9, 10, 3, 3, 14] {
        show(&segments.make(number).unwrap().bytes, number);
    }
    assert!(matches!(segments.make(15), Err(Error::Range { .. })));
    // From the chunk with the last key before it to that which begins after what is looked ahead.
    let (begin, end) = (8 * SEGMENT_US, 9 * SEGMENT_US + 2 * SECOND);
    let first = all.chunks().iter().rposition(|chunk| chunk.first_us <= begin).unwrap();
    let mut away = 0;
    for (at, chunk) in all.chunks().iter().enumerate() {
        if at < first || chunk.first_us > end && all.chunks()[at - 1].first_us > end {
            fs::remove_file(dir.join(format!("chunk-{:06}", chunk.index))).unwrap();
            away += 1;
        }
    }
    assert!(away > all.chunks().len() / 2, "{away} of {}", all.chunks().len());
    show(&Segments::new(Arc::clone(&all)).make(8).unwrap().bytes, 8);
    assert!(Segments::new(all).make(0).is_err());
}

#[test]
fn order_is_that_of_time_and_what_is_earlier_is_not_given_out_later() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 64, 64, 8 << 20);
    for number in 1..50_u64 {
        session.tile(number * 100_000, (0, 0, 8, 8), colour(number));
        session.pointer(
            number * 100_000 + 10,
            &[(250, Change::Moved(number as u16, 0)), (10, Change::Moved(number as u16, 1))],
        );
    }
    let dir = session.finish(5 * SECOND);
    let mut show = Show::from(reader(&dir), 0).unwrap();
    let (mut last, mut items, mut late) = (0, 0, 0);
    while let Some(moment) = show.next().unwrap() {
        assert!(moment.at_us >= last);
        late += u64::from(matches!(moment.item, Item::Pointer(_)) && moment.at_us % 10_000 != 10);
        (last, items) = (moment.at_us, items + 1);
    }
    assert_eq!(items, 1 + 3 * 49);
    assert!(late <= 2, "{late} came when their record did");
}

#[test]
fn damage_cuts_and_strange_keys_are_told_with_their_place() {
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 64, 64, 4 << 10);
    for number in 1..40_u64 {
        session.tile(number * SECOND, (0, 0, 32, 32), colour(number));
        session.key(number * SECOND + 1000, 1 << 20);
    }
    // What the recorder never writes.
    session.video(40 * SECOND, Record::Frame(&[1, 2, 3]));
    let dir = session.finish(41 * SECOND);
    let error = Reader::open(&dir, &OwnerSecret::from_bytes([1; 32]), None).map(drop).unwrap_err();
    assert!(error.to_string().contains("no recipient"), "{error}");

    let prepared = |from_us, to_us| {
        Export::prepare(reader(&dir), Wanted { from_us, to_us, pointer: true }, None, None)
            .and_then(|export| export.film(&mut std::io::sink(), &mut |_| {}))
    };
    let error = prepared(0, u64::MAX).unwrap_err();
    assert!(matches!(error, Error::At { at_us, .. } if at_us == 40 * SECOND), "{error}");
    assert!(error.to_string().contains("chunk-") && error.to_string().contains("--to"), "{error}");
    prepared(0, 40 * SECOND).unwrap();
    assert!(matches!(prepared(42 * SECOND, u64::MAX), Err(Error::Range { .. })));

    // A byte of a chunk in the middle: what is before it can be had.
    let chunks = reader(&dir).chunks().to_vec();
    let chunk = &chunks[chunks.len() / 2];
    let path = dir.join(format!("chunk-{:06}", chunk.index));
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&path, bad).unwrap();
    let error = prepared(0, 40 * SECOND).unwrap_err();
    assert!(error.to_string().contains(&format!("chunk-{:06}", chunk.index)), "{error}");
    prepared(0, chunk.first_us - SECOND / 2).unwrap();
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(prepared(0, 40 * SECOND).is_err());
}

#[test]
fn what_cannot_be_written_is_an_error() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if bytes.len() > self.0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let temp = tempfile::tempdir().unwrap();
    let mut session = Session::begin(temp.path(), 64, 64, 8 << 20);
    for number in 1..10_u64 {
        session.tile(number * SECOND, (0, 0, 32, 32), colour(number));
    }
    let dir = session.finish(10 * SECOND);
    let wanted = Wanted { from_us: 0, to_us: u64::MAX, pointer: true };
    let export = Export::prepare(reader(&dir), wanted, None, None).unwrap();
    let whole = export.film(&mut Full(usize::MAX), &mut |_| {}).unwrap().bytes as usize;
    for room in (0..whole).step_by(97) {
        assert!(matches!(export.film(&mut Full(room), &mut |_| {}), Err(Error::Write(_))), "{room} bytes");
    }
    let found = survey(&reader(&dir), 0, 2 * SECOND, &mut |_| Ok(())).unwrap();
    assert_eq!((found.frames, found.size), (1, Some((64, 64))));
}
