//! What full chroma (AVC444v2, MS-RDPEGFX 2.2.4.6) would cost with OpenH264, beside the AVC420 that is sent:
//! `cargo run --release -p lucid-video --example chroma`.
//!
//! AVC444v2 splits a picture into two views of the same size, the second one with the chroma that the first has not, and
//! a client decodes both with one decoder (MS-RDPEGFX 3.3.8.3.3): each is predicted from what was decoded before it.
//! OpenH264 predicts from the last reference picture and takes no other wish, which is the other view. The third line is
//! what an encoder would need that kept a reference for each view; no client decodes what is encoded for it here.

use std::time::{Duration, Instant};

use openh264::OpenH264API;
use openh264::encoder::{Complexity, Encoder, EncoderConfig, IntraFramePeriod, RateControlMode, UsageType};
use openh264::formats::YUVSlices;

const WIDTH: usize = 1920;
const HEIGHT: usize = 1080;
const PICTURES: usize = 60;

/// One view: luma, and two planes of a quarter of its size.
struct View([Vec<u8>; 3]);

/// Y, U and V of each pixel.
type Full = [Vec<u8>; 3];

/// Soft colours that flow, as in the bench's film.
fn film(time: usize) -> Full {
    let wave = |phase: usize| (phase as f64 / 1024.0 * std::f64::consts::TAU).sin() * 63.0 + 64.0;
    let waves: Vec<f64> = (0..1024).map(wave).collect();
    let at = |phase: usize| waves[phase & 1023];
    let mut planes = [(); 3].map(|()| Vec::with_capacity(WIDTH * HEIGHT));
    for (y, x) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (y, x))) {
        let (down, slow) = (at(y * 2 + time * 7), at(y + time * 3));
        let (across, slant) = (at(x + time * 5), at(x + y + time * 9));
        let (b, g, r) = (across + down, slant + slow, across + slant);
        let luma = 0.2126 * r + 0.7152 * g + 0.0722 * b;
        planes[0].push(luma as u8);
        planes[1].push((128.0 + (b - luma) / 1.8556) as u8);
        planes[2].push((128.0 + (r - luma) / 1.5748) as u8);
    }
    planes
}

/// MS-RDPEGFX 3.3.8.3.2: all luma, and the mean chroma of four pixels.
fn first_view(full: &Full) -> View {
    let mean = |plane: &[u8]| {
        let four = |x: usize, y: usize| {
            let at = 2 * y * WIDTH + 2 * x;
            let sum: u32 =
                [at, at + 1, at + WIDTH, at + WIDTH + 1].iter().map(|i| u32::from(plane[*i])).sum();
            (sum / 4) as u8
        };
        (0..HEIGHT / 2).flat_map(|y| (0..WIDTH / 2).map(move |x| four(x, y))).collect()
    };
    View([full[0].clone(), mean(&full[1]), mean(&full[2])])
}

/// MS-RDPEGFX 3.3.8.3.3: the chroma of odd columns as luma (U left, V right), of even columns in odd rows as chroma.
fn second_view(full: &Full) -> View {
    let halves = |left: &dyn Fn(usize, usize) -> u8, right: &dyn Fn(usize, usize) -> u8, width, height| {
        let mut plane = Vec::with_capacity(width * height);
        for y in 0..height {
            plane.extend((0..width / 2).map(|x| left(x, y)));
            plane.extend((0..width / 2).map(|x| right(x, y)));
        }
        plane
    };
    let (u, v) = (|x: usize, y: usize| full[1][y * WIDTH + x], |x: usize, y: usize| full[2][y * WIDTH + x]);
    let luma = halves(&|x, y| u(2 * x + 1, y), &|x, y| v(2 * x + 1, y), WIDTH, HEIGHT);
    let (w, h) = (WIDTH / 2, HEIGHT / 2);
    let first = halves(&|x, y| u(4 * x, 2 * y + 1), &|x, y| v(4 * x, 2 * y + 1), w, h);
    let second = halves(&|x, y| u(4 * x + 2, 2 * y + 1), &|x, y| v(4 * x + 2, 2 * y + 1), w, h);
    View([luma, first, second])
}

fn encoder() -> Result<Encoder, openh264::Error> {
    let config = EncoderConfig::new()
        .usage_type(UsageType::CameraVideoRealTime)
        .complexity(Complexity::Low)
        .rate_control_mode(RateControlMode::Off)
        .intra_frame_period(IntraFramePeriod::from_num_frames(0))
        .skip_frames(false)
        .scene_change_detect(false)
        .adaptive_quantization(false)
        .background_detection(false)
        .num_threads(1);
    Encoder::with_api_config(OpenH264API::from_source(), config)
}

/// Bytes and time of one view.
fn encode(encoder: &mut Encoder, View([y, u, v]): &View) -> Result<(usize, Duration), openh264::Error> {
    let source = YUVSlices::new((y, u, v), (WIDTH, HEIGHT), (WIDTH, WIDTH / 2, WIDTH / 2));
    let start = Instant::now();
    let bytes = encoder.encode(&source)?.to_vec().len();
    Ok((bytes, start.elapsed()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut half, mut full, mut first, mut second) = (encoder()?, encoder()?, encoder()?, encoder()?);
    let mut sums = [(0, Duration::ZERO); 3];
    for time in 0..PICTURES {
        let picture = film(time);
        let (one, two) = (first_view(&picture), second_view(&picture));
        let taken = [
            vec![encode(&mut half, &one)?],
            vec![encode(&mut full, &one)?, encode(&mut full, &two)?],
            vec![encode(&mut first, &one)?, encode(&mut second, &two)?],
        ];
        // The key frame is left out.
        if time > 0 {
            for (sum, views) in sums.iter_mut().zip(taken) {
                for (bytes, spent) in views {
                    *sum = (sum.0 + bytes, sum.1 + spent);
                }
            }
        }
    }
    let names = ["AVC420", "AVC444v2, one encoder", "AVC444v2, a reference for each view"];
    let (bytes, spent) = sums[0];
    println!("{WIDTH}x{HEIGHT}, {} pictures, one thread, the same quantiser", PICTURES - 1);
    for (name, (b, s)) in names.iter().zip(sums) {
        let each = (PICTURES - 1) as f64;
        println!(
            "{name}: {:.0} bytes ({:.2} times AVC420's) and {:.1} ms ({:.2} times) a picture",
            b as f64 / each,
            b as f64 / bytes as f64,
            s.as_secs_f64() * 1e3 / each,
            s.as_secs_f64() / spent.as_secs_f64()
        );
    }
    Ok(())
}
