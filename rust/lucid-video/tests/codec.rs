//! What comes out of a decoder, after the way of MS-RDPEGFX 3.3.8.3.1 back to RGB.

// The whole file is a test, its helper functions included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lucid_video::{Encoder, OpenH264, Picture, Rect, Settings, moving_picture};
use openh264::decoder::Decoder;
use openh264::formats::YUVSource;
use std::ops::Range;

/// A decoded picture of the coded size.
struct Decoded {
    width: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl Decoded {
    /// Back to RGB in the integers that FreeRDP uses (`YUV2R`, `YUV2G`, `YUV2B` of its prim_YUV.c).
    fn rgb(&self, x: usize, y: usize) -> [i32; 3] {
        let luma = 256 * i32::from(self.y[y * self.width + x]);
        let chroma = y / 2 * (self.width / 2) + x / 2;
        let (d, e) = (i32::from(self.u[chroma]) - 128, i32::from(self.v[chroma]) - 128);
        let cut = |v: i32| (v >> 8).clamp(0, 255);
        [cut(luma + 403 * e), cut(luma - 48 * d - 120 * e), cut(luma + 475 * d)]
    }

    /// Back to RGB by the matrix itself.
    fn rgb_exact(&self, x: usize, y: usize) -> [i32; 3] {
        let luma = f64::from(self.y[y * self.width + x]);
        let chroma = y / 2 * (self.width / 2) + x / 2;
        let (d, e) = (f64::from(self.u[chroma]) - 128.0, f64::from(self.v[chroma]) - 128.0);
        let cut = |v: f64| v.round().clamp(0.0, 255.0) as i32;
        [cut(luma + 1.5748 * e), cut(luma - 0.187_324 * d - 0.468_124 * e), cut(luma + 1.8556 * d)]
    }
}

fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Decoded {
    let yuv = decoder.decode(bytes).unwrap().expect("one access unit gives one picture at once");
    let (width, height) = yuv.dimensions();
    let (ys, us, vs) = yuv.strides();
    let plane = |p: &[u8], stride: usize, w: usize, h: usize| {
        (0..h).flat_map(|row| p[row * stride..row * stride + w].to_vec()).collect::<Vec<u8>>()
    };
    Decoded {
        width,
        y: plane(yuv.y(), ys, width, height),
        u: plane(yuv.u(), us, width / 2, height / 2),
        v: plane(yuv.v(), vs, width / 2, height / 2),
    }
}

const WIDTH: u32 = 83;
const HEIGHT: u32 = 61;
const WHOLE: [Rect; 1] = [Rect { x: 0, y: 0, width: WIDTH, height: HEIGHT }];

fn flat([r, g, b]: [u8; 3]) -> Vec<u8> {
    [b, g, r, 0].repeat((WIDTH * HEIGHT) as usize)
}

fn picture(pixels: &[u8]) -> Picture<'_> {
    Picture { width: WIDTH, height: HEIGHT, stride: WIDTH as usize * 4, pixels, damage: &WHOLE }
}

/// All colours of a grid of 9 values a channel.
fn grid() -> Vec<[u8; 3]> {
    let values = [0_u8, 32, 64, 96, 128, 160, 192, 224, 255];
    let mut colours = Vec::new();
    for r in values {
        for g in values {
            colours.extend(values.map(|b| [r, g, b]));
        }
    }
    colours
}

/// The largest error of all channels of all pixels, by either way back to RGB.
fn largest_error(decoded: &Decoded, colour: [u8; 3], (columns, rows): (Range<usize>, Range<usize>)) -> i32 {
    let mut largest = 0;
    for y in rows {
        for x in columns.clone() {
            for rgb in [decoded.rgb(x, y), decoded.rgb_exact(x, y)] {
                for (is, should) in rgb.into_iter().zip(colour) {
                    largest = largest.max((is - i32::from(should)).abs());
                }
            }
        }
    }
    largest
}

/// The grid in an order with far jumps from one colour to the next.
fn shuffled_grid() -> Vec<[u8; 3]> {
    let mut colours = grid();
    let mut seed = 1_usize;
    for i in (1..colours.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        colours.swap(i, (seed >> 33) % (i + 1));
    }
    colours
}

#[test]
fn every_flat_colour_comes_back_within_2_of_255_in_key_frames_and_in_changes() {
    for key_frames in [true, false] {
        let mut encoder = OpenH264::new(Settings::desktop(WIDTH, HEIGHT)).unwrap();
        let mut decoder = Decoder::new().unwrap();
        for colour in shuffled_grid() {
            if key_frames {
                encoder.force_key_frame();
            }
            let pixels = flat(colour);
            let encoded = encoder.encode(picture(&pixels)).unwrap();
            assert!(encoded.key_frame || !key_frames);
            let decoded = decode(&mut decoder, encoded.bytes);
            let all = (0..WIDTH as usize, 0..HEIGHT as usize);
            let error = largest_error(&decoded, colour, all);
            assert!(error <= 2, "{colour:?} is off by {error} (key frames: {key_frames})");
        }
    }
}

#[test]
fn every_flat_colour_comes_back_within_2_of_255_when_only_a_part_changes() {
    let mut encoder = OpenH264::new(Settings::desktop(WIDTH, HEIGHT)).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let ground = [40, 90, 200];
    let mut pixels = flat(ground);
    decode(&mut decoder, encoder.encode(picture(&pixels)).unwrap().bytes);
    // Whole macroblocks: a block that holds two colours is not flat.
    let part = Rect { x: 16, y: 16, width: 32, height: 16 };
    let mut inter = 0;
    for colour in shuffled_grid() {
        let [r, g, b] = colour;
        for y in part.y..part.y + part.height {
            for x in part.x..part.x + part.width {
                let at = ((y * WIDTH + x) * 4) as usize;
                pixels[at..at + 4].copy_from_slice(&[b, g, r, 0]);
            }
        }
        let encoded = encoder.encode(Picture { damage: &[part], ..picture(&pixels) }).unwrap();
        inter += usize::from(!encoded.key_frame);
        let decoded = decode(&mut decoder, encoded.bytes);
        // Without the three pixels next to the other colour, which the codec's own filter smooths.
        let error = largest_error(&decoded, colour, (19..45, 19..29));
        assert!(error <= 2, "{colour:?} is off by {error}");
        let error = largest_error(&decoded, ground, (51..WIDTH as usize, 0..HEIGHT as usize));
        assert!(error <= 2, "the ground beside {colour:?} is off by {error}");
    }
    assert!(inter > 700, "only {inter} pictures were no key frames");
}

#[test]
fn black_is_0_and_white_is_255() {
    for grey in [0, 255] {
        let mut encoder = OpenH264::new(Settings::desktop(WIDTH, HEIGHT)).unwrap();
        let pixels = flat([grey; 3]);
        let decoded = decode(&mut Decoder::new().unwrap(), encoder.encode(picture(&pixels)).unwrap().bytes);
        for y in 0..HEIGHT as usize {
            for x in 0..WIDTH as usize {
                assert_eq!(decoded.rgb(x, y), [i32::from(grey); 3]);
                assert_eq!(decoded.rgb_exact(x, y), [i32::from(grey); 3]);
            }
        }
    }
}

/// NAL unit types of an Annex B stream (ITU-T H.264, table 7-1), with the bytes after each start code.
fn nal_units(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let starts: Vec<usize> =
        (0..bytes.len().saturating_sub(3)).filter(|&i| bytes[i..i + 3] == [0, 0, 1]).collect();
    assert!(starts.first().is_some_and(|&s| s <= 1), "the stream does not begin with a start code");
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts.iter().zip(ends).map(|(&start, end)| (bytes[start + 3] & 31, &bytes[start + 3..end])).collect()
}

#[test]
fn key_frames_come_first_and_when_asked_for_and_carry_their_parameter_sets() {
    let mut encoder = OpenH264::new(Settings::desktop(WIDTH, HEIGHT)).unwrap();
    let mut parameter_sets = Vec::new();
    let mut pixels = flat([10, 20, 30]);
    for i in 0..700_u32 {
        // Something small changes each time.
        let at = (i as usize * 52) % (pixels.len() / 4) * 4;
        pixels[at..at + 3].copy_from_slice(&[i as u8, 0, 255]);
        let wanted = i == 0 || i == 300 || i == 301;
        if wanted {
            encoder.force_key_frame();
        }
        let encoded = encoder.encode(picture(&pixels)).unwrap();
        assert_eq!(encoded.key_frame, wanted, "picture {i}");
        let units = nal_units(encoded.bytes);
        let kinds: Vec<u8> = units.iter().map(|u| u.0).collect();
        assert_eq!(kinds, if wanted { vec![7, 8, 5] } else { vec![1] }, "picture {i}");
        if wanted {
            parameter_sets.push((units[0].1.to_vec(), units[1].1.to_vec()));
        }
    }
    assert!(parameter_sets.windows(2).all(|pair| pair[0] == pair[1]));
    // Where everything changes the encoder may choose a key frame itself, and says so.
    for colour in [[255, 0, 0], [0, 255, 0]] {
        let encoded = encoder.encode(Picture { pixels: &flat(colour), ..picture(&[]) }).unwrap();
        assert_eq!(nal_units(encoded.bytes).iter().any(|u| u.0 == 5), encoded.key_frame);
    }
}

/// Reads bits of an RBSP (ITU-T H.264, 7.2 and 9.1).
struct Bits {
    bits: Vec<bool>,
    at: usize,
}

impl Bits {
    fn new(nal: &[u8]) -> Bits {
        let mut bytes: Vec<u8> = Vec::new();
        for &byte in &nal[1..] {
            if !(byte == 3 && bytes.ends_with(&[0, 0])) {
                bytes.push(byte);
            }
        }
        Bits { bits: bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1 == 1)).collect(), at: 0 }
    }

    fn u(&mut self, count: usize) -> u32 {
        self.at += count;
        self.bits[self.at - count..self.at].iter().fold(0, |v, &bit| v << 1 | u32::from(bit))
    }

    fn ue(&mut self) -> u32 {
        let mut zeros = 0;
        while self.u(1) == 0 {
            zeros += 1;
        }
        (1 << zeros) - 1 + self.u(zeros)
    }
}

#[test]
fn the_stream_says_that_it_is_full_range_bt_709_and_what_moves_is_coded_with_cabac() {
    says_what_it_is(Settings::desktop(WIDTH, HEIGHT), 66, false);
    says_what_it_is(Settings::motion(WIDTH, HEIGHT, 30), 77, true);
    // With two slices.
    says_what_it_is(Settings::motion(1280, 720, 30), 77, true);
}

fn says_what_it_is(settings: Settings, profile: u32, cabac: bool) {
    let Settings { width, height, .. } = settings;
    let mut encoder = OpenH264::new(settings).unwrap();
    let pixels = [1, 2, 3, 0].repeat((width * height) as usize);
    let damage = [Rect { x: 0, y: 0, width, height }];
    let stride = width as usize * 4;
    let picture = Picture { width, height, stride, pixels: &pixels, damage: &damage };
    let encoded = encoder.encode(picture).unwrap();
    let units = nal_units(encoded.bytes);
    // seq_parameter_set_data, 7.3.2.1.1
    let mut sps = Bits::new(units[0].1);
    assert_eq!(sps.u(8), profile, "66 is Baseline, 77 is Main");
    sps.u(16); // constraints, level
    sps.ue(); // id
    sps.ue(); // log2_max_frame_num
    let order = sps.ue();
    match order {
        0 => drop(sps.ue()),
        2 => {}
        other => panic!("pic_order_cnt_type {other}"),
    }
    sps.ue(); // max_num_ref_frames
    sps.u(1); // gaps
    assert_eq!((sps.ue() + 1) * 16, width.next_multiple_of(16));
    assert_eq!((sps.ue() + 1) * 16, height.next_multiple_of(16));
    assert_eq!(sps.u(1), 1, "frames only");
    sps.u(1); // direct_8x8
    assert_eq!(sps.u(1), 0, "no cropping: RDP crops by its region rectangles");
    assert_eq!(sps.u(1), 1, "VUI");
    if sps.u(1) == 1 && sps.u(8) == 255 {
        sps.u(32);
    }
    if sps.u(1) == 1 {
        sps.u(1);
    }
    assert_eq!(sps.u(1), 1, "video signal type");
    sps.u(3); // video_format
    assert_eq!(sps.u(1), 1, "full range");
    assert_eq!(sps.u(1), 1, "colour description");
    assert_eq!([sps.u(8), sps.u(8), sps.u(8)], [1, 1, 1], "BT.709 primaries, transfer, matrix");
    // pic_parameter_set_rbsp, 7.3.2.2
    let mut pps = Bits::new(units[1].1);
    pps.ue(); // its id
    pps.ue(); // the SPS's id
    assert_eq!(pps.u(1) == 1, cabac);
}

#[test]
fn no_picture_is_dropped_however_low_the_rate_and_the_quantiser_keeps_its_bounds() {
    let settings =
        Settings { bitrate_bps: 10_000, min_qp: 10, max_qp: 30, ..Settings::desktop(WIDTH, HEIGHT) };
    let mut encoder = OpenH264::new(settings).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let mut seed = 5_u32;
    for i in 0..200 {
        let pixels: Vec<u8> = (0..WIDTH * HEIGHT * 4)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        if i == 100 {
            encoder.set_bitrate(50_000_000).unwrap();
        }
        let encoded = encoder.encode(picture(&pixels)).unwrap();
        assert!((10..=30).contains(&encoded.qp), "quantiser {}", encoded.qp);
        decode(&mut decoder, encoded.bytes);
    }
    assert!(encoder.set_bitrate(1).is_err());
}

#[test]
fn a_damaged_part_arrives_and_the_rest_stays() {
    let mut encoder = OpenH264::new(Settings::desktop(WIDTH, HEIGHT)).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let mut pixels = flat([20, 40, 60]);
    decode(&mut decoder, encoder.encode(picture(&pixels)).unwrap().bytes);
    // The last column and row, where a picture that is cut short shows.
    let damage = [
        Rect { x: WIDTH - 1, y: 0, width: 1, height: HEIGHT },
        Rect { x: 0, y: HEIGHT - 1, width: WIDTH, height: 1 },
    ];
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            if x == WIDTH - 1 || y == HEIGHT - 1 {
                let at = ((y * WIDTH + x) * 4) as usize;
                pixels[at..at + 4].copy_from_slice(&[250, 250, 250, 0]);
            }
        }
    }
    let changed = Picture { damage: &damage, ..picture(&pixels) };
    let decoded = decode(&mut decoder, encoder.encode(changed).unwrap().bytes);
    let near = |rgb: [i32; 3], grey: i32| rgb.iter().all(|v| (v - grey).abs() <= 12);
    for y in 0..HEIGHT as usize {
        assert!(
            near(decoded.rgb(WIDTH as usize - 1, y), 250),
            "row {y}: {:?}",
            decoded.rgb(WIDTH as usize - 1, y)
        );
    }
    for x in 0..WIDTH as usize {
        assert!(near(decoded.rgb(x, HEIGHT as usize - 1), 250), "column {x}");
    }
    let [r, g, b] = decoded.rgb(10, 10);
    assert!((r - 20).abs() <= 2 && (g - 40).abs() <= 2 && (b - 60).abs() <= 2);
}

#[test]
fn settings_beyond_their_limits_are_refused() {
    let good = Settings::desktop(WIDTH, HEIGHT);
    for wrong in [
        Settings { width: 0, ..good },
        Settings { height: 2161, ..good },
        Settings { bitrate_bps: 0, ..good },
        Settings { bitrate_bps: u32::MAX, ..good },
        Settings { max_fps: f32::NAN, ..good },
        Settings { max_qp: 52, ..good },
        Settings { min_qp: 30, max_qp: 20, ..good },
    ] {
        assert!(OpenH264::new(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn large_moving_pictures_come_in_a_slice_for_each_thread_and_stay_whole_while_the_quantiser_changes() {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
    let (width, height) = (1280, 722);
    let whole = [Rect { x: 0, y: 0, width, height }];
    let mut encoder = OpenH264::new(Settings::motion(width, height, 24)).unwrap();
    let mut decoder = Decoder::new().unwrap();
    for number in 0..12 {
        let pixels = moving_picture(width, height, number);
        let picture = Picture { width, height, stride: width as usize * 4, pixels: &pixels, damage: &whole };
        if number == 8 {
            encoder.force_key_frame();
        }
        encoder.set_qp(24 + number as u8 % 3).unwrap();
        let encoded = encoder.encode(picture).unwrap();
        let key_frame = number == 0 || number == 8;
        let kinds: Vec<u8> = nal_units(encoded.bytes).iter().map(|unit| unit.0).collect();
        let expected = if key_frame { [vec![7, 8], vec![5; threads]].concat() } else { vec![1; threads] };
        assert_eq!(kinds, expected, "picture {number}");
        assert_eq!(encoded.key_frame, key_frame);
        let decoded = decode(&mut decoder, encoded.bytes);
        let (mut sum, mut count) = (0, 0);
        for y in (0..height as usize).step_by(7) {
            for x in (0..width as usize).step_by(5) {
                let at = (y * width as usize + x) * 4;
                let [b, g, r] = [0, 1, 2].map(|i| i32::from(pixels[at + i]));
                let luma = (2126 * r + 7152 * g + 722 * b + 5000) / 10_000;
                sum += (i32::from(decoded.y[y * decoded.width + x]) - luma).abs();
                count += 1;
            }
        }
        assert!(sum < 4 * count, "picture {number} is off by {} in the mean", sum / count);
    }
    // Slices alone would gain nothing.
    let own: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .filter(|name| name.starts_with("OpenH264") || name.starts_with("large_moving"))
        .collect();
    assert!(threads == 1 || own.len() > threads, "{own:?}");
}
