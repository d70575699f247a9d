//! Writes a recording whose pictures are known, for what is to be held to them.
//!
//! `cargo run -p lucid-replay --example session -- DIRECTORY [SECONDS]` makes a recording of 640 by 480 pixels below
//! `DIRECTORY`, whose owner's secret key is 32 bytes of 0x0a, and prints where it is. From second `n` to `n + 1` the
//! rectangle at (32, 32), 64 by 64 pixels, has the colour (n * 16 % 256, 255 - n * 16 % 256, 128); from 8 s to 9 s nothing
//! was recorded; the pointer, a red square of 8 pixels, is at (200 + n % 400, 300).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a tool of the tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;

use lucid_session::pointer::Change;
use lucid_session::sound::{Coding, Piece};
use support::Session;

const SECOND: u64 = 1_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(dir) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: session DIRECTORY [SECONDS]");
        std::process::exit(2);
    };
    let seconds: u64 = arguments.next().map_or(20, |text| text.parse().expect("SECONDS is a number"));
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    let mut session = Session::begin(&dir, 640, 480, 64 << 10);
    session.tile(1000, (0, 0, 640, 480), [40, 60, 80]);
    session.shape(2000, 8, [255, 0, 0, 255], (200, 300));
    session.focus(500_000, "foot", "~/notes");
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Stereo, opus::Application::Audio).unwrap();
    let mut phase = 0_f32;
    for second in 1..seconds {
        let at = second * SECOND;
        if second == 8 {
            session.commit();
            continue;
        }
        if second == 9 {
            session.gap(8 * SECOND, at, "the link to the recorder broke");
            session.key(at, 1 << 20);
        }
        let shade = (second * 16 % 256) as u8;
        session.tile(at, (32, 32, 64, 64), [shade, 255 - shade, 128]);
        session.pointer(at + 400_000, &[(400, Change::Moved(200 + (second % 400) as u16, 300))]);
        if second % 5 == 0 {
            session.key(at + 410_000, 4096);
            session.shape(at + 411_000, 8, [255, 0, 0, 255], (200 + (second % 400) as u16, 300));
            session.input(at + 420_000, 12, 3);
            session.paste(at + 430_000, 1234);
        }
        if (2..5).contains(&second) {
            for piece in 0..25 {
                let samples: Vec<i16> = (0..960)
                    .flat_map(|_| {
                        phase += 440.0 * std::f32::consts::TAU / 48_000.0;
                        [(phase.sin() * 8000.0) as i16; 2]
                    })
                    .collect();
                let bytes = encoder.encode_vec(&samples, 4000).unwrap();
                let piece_at = at + 440_000 + piece * 20_000;
                session.sound(
                    piece_at,
                    Piece { coding: Coding::Opus, channels: 2, rate: 48_000, bytes: &bytes },
                );
            }
        }
        session.commit();
    }
    println!("{}", session.finish(seconds * SECOND).display());
}
