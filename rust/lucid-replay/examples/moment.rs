//! temporary
use std::{error::Error, fs, path::Path};

use lucid_recording::{OwnerSecret, Reader};
use lucid_replay::{Picture, Player};
use lucid_session::{VIDEO, video::Record};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [key, recording, at, file] = arguments.as_slice() else {
        return Err("usage: moment KEY RECORDING SECONDS FILE.ppm".into());
    };
    let at: f64 = at.to_str().ok_or("seconds")?.parse()?;
    let at = (at * 1e6) as u64;
    let secret = OwnerSecret::read(Path::new(key))?;
    let reader = Reader::open(Path::new(recording), &secret, None)?;
    let mut player = Player::default();
    let mut records = reader.seek(at)?;
    while let Some(record) = records.next()? {
        if record.mono_us > at {
            break;
        }
        if record.stream == VIDEO.number {
            player.take(Record::read(record.payload)?)?;
        }
    }
    let Some(Picture { width, height, pixels }) = player.picture() else {
        return Err("there is no picture in it".into());
    };
    let mut ppm = format!("P6\n{width} {height}\n255\n").into_bytes();
    ppm.extend(pixels.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]));
    fs::write(file, ppm)?;
    Ok(())
}
