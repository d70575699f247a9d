//! `lucidctl recording picture`

use std::path::PathBuf;
use std::sync::Arc;

use lucid_recording::{OwnerSecret, PublicKey, Reader};
use lucid_replay::{still, words};

use super::export::{Part, moment};
use super::{must_be_readable, report};
use crate::report::json;
use crate::{Error, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The recording's directory.
    directory: PathBuf,
    /// The file with the secret key of a recipient.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the picture goes, as PNG.
    #[arg(long, value_name = "FILE")]
    png: PathBuf,
    /// Of when: `90`, `1:30`, `1:02:03.5` or `1m 30s` after the session's start. The last picture, if not given.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<u64>,
    /// Leaves the pointer out, which the client drew by itself.
    #[arg(long)]
    no_pointer: bool,
    /// Overwrites a file that is there.
    #[arg(long)]
    force: bool,
    /// The public key of the device that is to have signed, as 64 hexadecimal digits, known from elsewhere.
    #[arg(long, value_name = "HEX")]
    device: Option<PublicKey>,
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Error> {
    let secret = OwnerSecret::read(&arguments.key)?;
    must_be_readable(&arguments.directory)?;
    let reader = Reader::open(&arguments.directory, &secret, arguments.device.as_ref())?;
    let at_us = arguments.at.unwrap_or_else(|| reader.mono_us());
    let mut part = Part::begin(&arguments.png, arguments.force)?;
    let Some(picture) = still(Arc::new(reader), at_us, !arguments.no_pointer)? else {
        return Err(Error::NothingShown(words::time(at_us)));
    };
    let name = arguments.png.display().to_string();
    let (width, height) = (picture.width, picture.height);
    let mut encoder = png::Encoder::new(part.out(), width.into(), height.into());
    encoder.set_color(png::ColorType::Rgba);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&picture.pixels)?;
        writer.finish()
    });
    written.map_err(|error| Error::Write(name.clone(), error.into()))?;
    part.finish()?;
    let still = report::Still { file: name, at_us, width, height };
    print(&if as_json { json(&still) } else { report::still(&still) })
}
