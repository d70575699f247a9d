//! Time of conversion and encoding on this machine:
//! `cargo run --release -p lucid-video --example speed [WIDTH HEIGHT]`.
//!
//! The conversion is set against a plain scalar one in floating point, in the same run.

use lucid_video::colour::I420;
use lucid_video::{Encoder, OpenH264, Picture, Rect, Settings};
use std::hint::black_box;
use std::time::Instant;

/// The shortest of many runs in milliseconds: what the code takes when nothing else runs.
fn shortest(mut work: impl FnMut()) -> f64 {
    let run = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..61).map(run).fold(f64::INFINITY, f64::min)
}

fn scalar(pixels: &[u8], width: usize, height: usize, planes: &mut [Vec<u8>; 3]) {
    let rgb = |x: usize, y: usize| {
        let p = &pixels[(y * width + x) * 4..];
        [f64::from(p[2]), f64::from(p[1]), f64::from(p[0])]
    };
    let luma = |[r, g, b]: [f64; 3]| 0.2126 * r + 0.7152 * g + 0.0722 * b;
    for y in 0..height {
        for x in 0..width {
            planes[0][y * width + x] = (luma(rgb(x, y)) + 0.5) as u8;
        }
    }
    for y in 0..height / 2 {
        for x in 0..width / 2 {
            let four =
                [rgb(2 * x, 2 * y), rgb(2 * x + 1, 2 * y), rgb(2 * x, 2 * y + 1), rgb(2 * x + 1, 2 * y + 1)];
            let mean = [0, 1, 2].map(|i| four.iter().map(|p| p[i]).sum::<f64>() / 4.0);
            planes[1][y * width / 2 + x] = (128.5 + (mean[2] - luma(mean)) / 1.8556) as u8;
            planes[2][y * width / 2 + x] = (128.5 + (mean[0] - luma(mean)) / 1.5748) as u8;
        }
    }
}

/// Rows of something like text, scrolled by `shift`.
fn text(width: usize, height: usize, shift: usize) -> Vec<u8> {
    let mut pixels = vec![0x10; width * height * 4];
    for y in 0..height {
        let line = (y + shift) / 17;
        for x in 0..width {
            let (column, bit) = (x / 8, (x % 8) + ((y + shift) % 17) * 8);
            let glyph = (line * 31 + column * 17).wrapping_mul(0x9e37_79b9) >> 3;
            if (y + shift) % 17 > 3 && glyph >> (bit % 27) & 1 == 1 && column % 7 != 0 && x % 8 > 0 {
                pixels[(y * width + x) * 4..][..4].fill(0xe0);
            }
        }
    }
    pixels
}

fn whole_picture<'a>(pixels: &'a [u8], width: u32, damage: &'a [Rect]) -> Picture<'a> {
    let stride = width as usize * 4;
    Picture { width, height: (pixels.len() / stride) as u32, stride, pixels, damage }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<u32> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let (width, height) = match arguments[..] {
        [width, height] => (width & !1, height & !1),
        _ => (1920, 1080),
    };
    let (w, h) = (width as usize, height as usize);
    let pixels = text(w, h, 0);
    let whole = [Rect { x: 0, y: 0, width, height }];

    let mut planes = I420::new(width, height)?;
    let ours =
        shortest(|| planes.convert(black_box(whole_picture(&pixels, width, &whole))).unwrap_or_default());
    let mut buffers = [vec![0; w * h], vec![0; w * h / 4], vec![0; w * h / 4]];
    let plain = shortest(|| scalar(black_box(&pixels), w, h, black_box(&mut buffers)));
    let nanoseconds = ours * 1e6 / (w * h) as f64;
    println!("conversion {width}x{height}: {ours:.2} ms, {nanoseconds:.3} ns/pixel");
    println!("scalar f64: {plain:.2} ms; ratio {:.1}", plain / ours);

    for (name, count) in [("scrolling text", 120), ("the same picture", 60), ("a small change", 60)] {
        let mut encoder = OpenH264::new(Settings::desktop(width, height))?;
        encoder.encode(whole_picture(&pixels, width, &whole))?;
        let (mut bytes, mut qps, mut times) = (0, 0, Vec::new());
        let mut changed = pixels.clone();
        for i in 0..count {
            let small = [Rect { x: 16 * (i as u32 % 40), y: 32, width: 8, height: 17 }];
            let mut damage = &whole[..];
            match name {
                "scrolling text" => changed = text(w, h, (i + 1) * 17),
                "a small change" => {
                    damage = &small;
                    for row in 32..49 {
                        changed[(row * w + small[0].x as usize) * 4..][..32].fill(i as u8);
                    }
                }
                _ => damage = &[],
            }
            let start = Instant::now();
            let encoded = encoder.encode(Picture { damage, ..whole_picture(&changed, width, &whole) })?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            bytes += encoded.bytes.len();
            qps += usize::from(encoded.qp);
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{}, {name}: {:.2} ms (shortest), {:.2} ms (median), {} bytes and quantiser {} a picture",
            encoder.name(),
            times[0],
            times[times.len() / 2],
            bytes / count,
            qps / count
        );
    }
    Ok(())
}
