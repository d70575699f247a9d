//! The conversion against a plain reference in floating point, at every sample.

// The whole file is a test, its helper functions included.
#![allow(clippy::unwrap_used)]

use lucid_video::colour::I420;
use lucid_video::{Picture, Rect};

/// A small generator; its seed is printed by the assertion that fails.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(limit)) as u32
    }

    fn pixels(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|_| self.below(256) as u8).collect()
    }
}

/// Rounds half upwards; what floating point makes of a tie is off by far less than 1e-7.
fn round(value: f64) -> u8 {
    (value + 0.5 + 1e-7).floor().clamp(0.0, 255.0) as u8
}

/// The three planes of the coded size, sample by sample, by the book.
fn reference(picture: Picture<'_>) -> [Vec<u8>; 3] {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let (coded_width, coded_height) = (width.next_multiple_of(16), height.next_multiple_of(16));
    let rgb = |x: usize, y: usize| {
        let at = y.min(height - 1) * picture.stride + x.min(width - 1) * 4;
        let p = &picture.pixels[at..at + 3];
        [f64::from(p[2]), f64::from(p[1]), f64::from(p[0])]
    };
    let luma = |[r, g, b]: [f64; 3]| 0.2126 * r + 0.7152 * g + 0.0722 * b;
    let mut planes = [Vec::new(), Vec::new(), Vec::new()];
    for y in 0..coded_height {
        planes[0].extend((0..coded_width).map(|x| round(luma(rgb(x, y)))));
    }
    for y in 0..coded_height / 2 {
        for x in 0..coded_width / 2 {
            // Beyond the picture, the last sample is repeated.
            let (x, y) = (x.min((width - 1) / 2) * 2, y.min((height - 1) / 2) * 2);
            let four = [rgb(x, y), rgb(x + 1, y), rgb(x, y + 1), rgb(x + 1, y + 1)];
            let mean = [0, 1, 2].map(|i| four.iter().map(|p| p[i]).sum::<f64>() / 4.0);
            planes[1].push(round(128.0 + (mean[2] - luma(mean)) / 1.8556));
            planes[2].push(round(128.0 + (mean[0] - luma(mean)) / 1.5748));
        }
    }
    planes
}

fn assert_equal(planes: &I420, reference: &[Vec<u8>; 3], what: &str) {
    for (name, is, should) in [
        ("Y", planes.y(), &reference[0]),
        ("Cb", planes.u(), &reference[1]),
        ("Cr", planes.v(), &reference[2]),
    ] {
        assert_eq!(is.len(), should.len());
        let differs = is.iter().zip(should).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{name} of {what}");
    }
}

#[test]
fn every_sample_equals_the_reference_at_all_small_sizes_last_row_and_column_included() {
    let mut random = Random(1);
    for width in 1..=35 {
        for height in 1..=35 {
            let stride = width as usize * 4 + random.below(3) as usize * 4;
            let pixels = random.pixels(stride * height as usize);
            let picture = Picture { width, height, stride, pixels: &pixels, damage: &[] };
            let mut planes = I420::new(width, height).unwrap();
            planes.convert(picture).unwrap();
            assert_equal(&planes, &reference(picture), &format!("{width}x{height}"));
        }
    }
}

#[test]
fn every_sample_of_a_large_odd_picture_equals_the_reference() {
    let mut random = Random(2);
    let (width, height) = (1367, 769);
    let stride = width as usize * 4;
    let pixels = random.pixels(stride * height as usize);
    let picture = Picture { width, height, stride, pixels: &pixels, damage: &[] };
    let mut planes = I420::new(width, height).unwrap();
    planes.convert(picture).unwrap();
    assert_equal(&planes, &reference(picture), "the large picture");
}

#[test]
fn converting_only_what_was_damaged_equals_converting_everything() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let (width, height) = (1 + random.below(70), 1 + random.below(70));
        let stride = width as usize * 4;
        let mut pixels = random.pixels(stride * height as usize);
        let mut planes = I420::new(width, height).unwrap();
        planes.convert(Picture { width, height, stride, pixels: &pixels, damage: &[] }).unwrap();
        for _ in 0..5 {
            let mut damage = Vec::new();
            for _ in 0..random.below(4) {
                let (x, y) = (random.below(width), random.below(height));
                let rect =
                    Rect { x, y, width: 1 + random.below(width - x), height: 1 + random.below(height - y) };
                for row in y..y + rect.height {
                    let at = row as usize * stride + x as usize * 4;
                    let new = random.pixels(rect.width as usize * 4);
                    pixels[at..at + new.len()].copy_from_slice(&new);
                }
                damage.push(rect);
            }
            let picture = Picture { width, height, stride, pixels: &pixels, damage: &damage };
            planes.convert_damage(picture).unwrap();
            assert_equal(&planes, &reference(picture), &format!("seed {seed}, {width}x{height}, {damage:?}"));
        }
    }
}

#[test]
fn damage_beyond_the_picture_is_cut_and_pictures_that_do_not_fit_are_refused() {
    let pixels = vec![7; 10 * 10 * 4];
    let mut planes = I420::new(10, 10).unwrap();
    let odd = [
        Rect { x: 5, y: 5, width: u32::MAX, height: u32::MAX },
        Rect { x: u32::MAX, y: 0, width: 1, height: 1 },
        Rect { x: 0, y: 10, width: 4, height: 4 },
        Rect { x: 3, y: 3, width: 0, height: 9 },
    ];
    let picture = Picture { width: 10, height: 10, stride: 40, pixels: &pixels, damage: &odd };
    planes.convert_damage(picture).unwrap();
    for wrong in [
        Picture { width: 11, ..picture },
        Picture { height: 9, ..picture },
        Picture { stride: 39, ..picture },
        Picture { pixels: &pixels[..399], ..picture },
        Picture { stride: usize::MAX, ..picture },
    ] {
        assert!(planes.convert_damage(wrong).is_err());
    }
    for (width, height) in [(0, 5), (5, 0), (3841, 5), (5, 2161)] {
        assert!(I420::new(width, height).is_err());
    }
}
