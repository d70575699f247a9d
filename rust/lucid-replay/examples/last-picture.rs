//! Plays a recording and writes the last picture that it shows, as a PPM.
//!
//! `cargo run -p lucid-replay --example last-picture -- KEY RECORDING FILE.ppm`; it says how many keys and frames there were.
//! Where a part was lost, playback goes on at the next key, as after any other damage.

use std::{error::Error, fs, path::Path};

use lucid_recording::{OwnerSecret, Reader};
use lucid_replay::{Picture, Player};
use lucid_session::{VIDEO, video::Record};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [key, recording, file] = arguments.as_slice() else {
        return Err("usage: last-picture KEY RECORDING FILE.ppm".into());
    };
    let secret = OwnerSecret::read(Path::new(key))?;
    let reader = Reader::open(Path::new(recording), &secret, None)?;
    let mut player = Player::default();
    let (mut keys, mut frames) = (0, 0);
    for chunk in reader.chunks() {
        let mut records = reader.chunk(chunk.index)?;
        while let Some(record) = records.next()? {
            if record.stream != VIDEO.number {
                continue;
            }
            let record = Record::read(record.payload)?;
            match record {
                Record::Key { .. } => keys += 1,
                Record::Frame(_) => frames += 1,
                Record::More(_) => {}
            }
            player.take(record)?;
        }
    }
    let Some(Picture { width, height, pixels }) = player.picture() else {
        return Err("there is no picture in it".into());
    };
    let mut ppm = format!("P6\n{width} {height}\n255\n").into_bytes();
    ppm.extend(pixels.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]));
    fs::write(file, ppm)?;
    println!("{keys} keys and {frames} frames");
    Ok(())
}
