//! `lucidctl recording export`

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lucid_recording::verify::Options;
use lucid_recording::{OwnerSecret, PublicKey, Reader, Verdict, verify};
use lucid_replay::{Export, Wanted, words};

use super::{Bar, must_be_readable, report};
use crate::report::json;
use crate::{Error, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The recording's directory.
    directory: PathBuf,
    /// The file with the secret key of a recipient.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the film goes: fragmented MP4, H.264, with Opus where there is sound. What was sent as H.264 alone is copied;
    /// everything else is encoded so that text stays readable.
    #[arg(long, value_name = "FILE")]
    mp4: PathBuf,
    /// Begins there and not at the beginning: `90`, `1:30`, `1:02:03.5` or `1m 30s` after the session's start.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<u64>,
    /// Ends there and not at the end.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<u64>,
    /// Where the events go: each line as it was recorded (JSON Lines).
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Where the events go as subtitles (WebVTT).
    #[arg(long, value_name = "FILE")]
    subtitles: Option<PathBuf>,
    /// Leaves the pointer out. The client drew it by itself, so a picture that was sent as H.264 alone can then be copied
    /// as it is.
    #[arg(long)]
    no_pointer: bool,
    /// Overwrites files that are there.
    #[arg(long)]
    force: bool,
    /// The public key of the device that is to have signed, as 64 hexadecimal digits, known from elsewhere.
    #[arg(long, value_name = "HEX")]
    device: Option<PublicKey>,
}

/// A time after the session's start, in microseconds: seconds, or minutes or hours before them, or as `1m 30s`.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let wrong = || {
        "a time after the session's start is written as 90, 1:30, 1:02:03.5 or \"1m 30s\", and less than 1000 hours"
            .to_owned()
    };
    let us = if text.ends_with(|last: char| last.is_ascii_alphabetic()) {
        humantime::parse_duration(text).ok().and_then(|time| u64::try_from(time.as_micros()).ok())
    } else {
        clock(text)
    };
    us.filter(|us| *us < 1000 * 3_600_000_000).ok_or_else(wrong)
}

fn clock(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits =
        |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = whole.split(':').collect();
    if parts.len() > 3
        || !parts.iter().all(|part| digits(part, 7))
        || !fraction.is_empty() && !digits(fraction, 6)
    {
        return None;
    }
    if text.ends_with('.')
        || parts.len() > 1 && parts[1..].iter().any(|part| part.len() != 2 || *part >= "60")
    {
        return None;
    }
    let seconds = parts.iter().try_fold(0_u64, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    let micros = format!("{fraction:0<6}").parse::<u64>().ok()?;
    Some(seconds * 1_000_000 + micros)
}

/// A file that has its name only when it is whole.
pub(super) struct Part {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    whole: bool,
}

impl Part {
    pub(super) fn begin(path: &Path, force: bool) -> Result<Part, Error> {
        // Also when a name leads nowhere.
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path.to_owned()));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        let file = File::create(&part).map_err(|e| Error::Write(part.display().to_string(), e))?;
        Ok(Part { path: path.to_owned(), part, file: BufWriter::with_capacity(1 << 20, file), whole: false })
    }

    /// Where its bytes go.
    pub(super) fn out(&mut self) -> &mut BufWriter<File> {
        &mut self.file
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        let failed = |path: &Path| {
            let name = path.display().to_string();
            move |e| Error::Write(name, e)
        };
        self.file.flush().map_err(failed(&self.part))?;
        self.file.get_ref().sync_all().map_err(failed(&self.part))?;
        fs::rename(&self.part, &self.path).map_err(failed(&self.path))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            // Where that fails, its name still says that it is not whole.
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn as_dyn(part: &mut Option<Part>) -> Option<&mut dyn Write> {
    part.as_mut().map(|part| &mut part.file as &mut dyn Write)
}

/// Says whether all of the recording is proved.
pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<bool, Error> {
    let secret = OwnerSecret::read(&arguments.key)?;
    must_be_readable(&arguments.directory)?;
    let reader = Reader::open(&arguments.directory, &secret, arguments.device.as_ref())?;
    let force = arguments.force;
    let begin = |path: &Option<PathBuf>| path.as_deref().map(|path| Part::begin(path, force)).transpose();
    let mut film = Part::begin(&arguments.mp4, force)?;
    let (mut events, mut subtitles) = (begin(&arguments.events)?, begin(&arguments.subtitles)?);

    let mut bar = Bar::new();
    let options = Options { owner: Some(&secret), device: arguments.device };
    let verified = verify(&arguments.directory, options, &mut |progress| {
        bar.show(|| format!("verifying: {}", report::progress(progress)));
    })?;
    let wanted = Wanted {
        from_us: arguments.from.unwrap_or(0),
        to_us: arguments.to.unwrap_or(u64::MAX),
        pointer: !arguments.no_pointer,
    };
    let end_us = wanted.to_us.min(reader.mono_us());
    let failed = |error| named(error, &arguments.mp4);
    let export = Export::prepare(Arc::new(reader), wanted, as_dyn(&mut events), as_dyn(&mut subtitles));
    let export = export.map_err(failed)?;
    let exported = export.film(&mut film.file, &mut |at_us| {
        bar.show(|| format!("exporting: {} of {}", words::time(at_us), words::time(end_us)));
    });
    bar.clear();
    let exported = exported.map_err(failed)?;
    film.finish()?;
    for part in [events, subtitles].into_iter().flatten() {
        part.finish()?;
    }
    let name = |path: &Path| path.display().to_string();
    let exported = report::Exported {
        file: name(&arguments.mp4),
        bytes: exported.bytes,
        from_us: exported.from_us,
        to_us: exported.to_us,
        width: exported.width,
        height: exported.height,
        pictures_copied: exported.copied,
        pictures_encoded: exported.encoded,
        sound: exported.sound,
        sound_left_out: exported.sound_lost,
        events: export.survey.events,
        events_file: arguments.events.as_deref().map(name),
        subtitles_file: arguments.subtitles.as_deref().map(name),
        gaps: export.survey.gaps,
        verdict: verified.verdict,
        device: verified.device,
        device_given: verified.device_given,
    };
    print(&if as_json { json(&exported) } else { report::exported(&exported) })?;
    Ok(verified.verdict == Verdict::Sound)
}

/// Which file could not be written.
fn named(error: lucid_replay::Error, path: &Path) -> Error {
    match error {
        lucid_replay::Error::Write(error) => {
            Error::Write(format!("{} and what belongs to it", path.display()), error)
        }
        error => error.into(),
    }
}
