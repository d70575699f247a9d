use std::io::Write;
use std::sync::Arc;

use lucid_recording::Reader;

use crate::film::{Film, Making};
use crate::mp4::Index;
use crate::words::{self, Subtitles};
use crate::{Error, Item, Moment, Result, Survey, survey};

/// A fragment is about so long, in microseconds.
const FRAGMENT_US: u64 = 2_000_000;
/// A picture that does not change is repeated after so long; and with sound, which needs room in memory, sooner.
const STILL_US: u64 = 600_000_000;
const STILL_WITH_SOUND_US: u64 = 10_000_000;

/// What changes within a millisecond is one picture.
const TOGETHER_US: u64 = 1000;

/// What is wanted of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// From when on, in microseconds since the session's start.
    pub from_us: u64,
    /// Up to when.
    pub to_us: u64,
    /// Whether the pointer is drawn. The client drew it by itself.
    pub pointer: bool,
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// From when on, in microseconds since the session's start.
    pub from_us: u64,
    /// Up to when.
    pub to_us: u64,
    /// Size of the pictures.
    pub width: u16,
    /// Size of the pictures.
    pub height: u16,
    /// Pictures that went in as the client was sent them.
    pub copied: u64,
    /// Pictures that were composed and encoded.
    pub encoded: u64,
    /// Whether there is sound.
    pub sound: bool,
    /// Pieces of sound that came in such numbers that no client played them in time.
    pub sound_lost: u64,
    /// Bytes of the film.
    pub bytes: u64,
}

/// A recording of which a part is exported.
pub struct Export {
    reader: Arc<Reader>,
    wanted: Wanted,
    /// What there is to export.
    pub survey: Survey,
}

impl Export {
    /// Looks through the part that is wanted, and writes its events: each line as it is to `events`, and what people
    /// read to `subtitles`.
    ///
    /// # Errors
    /// When there is nothing in that part, a record is malformed, or a file cannot be written.
    pub fn prepare(
        reader: Arc<Reader>,
        wanted: Wanted,
        mut events: Option<&mut dyn Write>,
        subtitles: Option<&mut dyn Write>,
    ) -> Result<Export> {
        let length_us = reader.mono_us();
        let wanted = Wanted { to_us: wanted.to_us.min(length_us), ..wanted };
        let Wanted { from_us, to_us, .. } = wanted;
        if from_us >= to_us {
            return Err(Error::Range { from_us, to_us, length_us });
        }
        let mut subtitles = subtitles.map(|out| Subtitles::new(out, from_us, to_us)).transpose()?;
        let survey = survey(&reader, from_us, to_us, &mut |moment: &Moment| {
            match &moment.item {
                Item::Event(event, line) => {
                    if let Some(events) = &mut events {
                        events.write_all(line)?;
                        events.write_all(b"\n")?;
                    }
                    // The recording itself says it at the time where it is.
                    let is_gap = matches!(event.data, lucid_audit::Data::Gap { .. });
                    if let (Some(subtitles), false) = (&mut subtitles, is_gap) {
                        subtitles.add(moment.at_us, None, &words::event(event))?;
                    }
                }
                Item::Gap(gap) => {
                    if let Some(subtitles) = &mut subtitles {
                        let text = words::gap(gap.from_us, gap.to_us, &gap.reason);
                        let until = (gap.to_us > moment.at_us).then_some(gap.to_us);
                        subtitles.add(moment.at_us, until, &text)?;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        if let Some(events) = events {
            events.flush()?;
        }
        if let Some(subtitles) = subtitles {
            subtitles.finish()?;
        }
        if survey.size.is_none() && survey.gaps == 0 {
            return Err(Error::Range { from_us, to_us, length_us });
        }
        Ok(Export { reader, wanted, survey })
    }

    /// Writes the film, from its beginning to its end. `progress` hears how far it is, in microseconds of the session.
    ///
    /// # Errors
    /// When a record is malformed, a picture is larger than an encoder takes, or the file cannot be written.
    pub fn film(&self, out: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<Exported> {
        let Wanted { from_us, to_us, pointer } = self.wanted;
        let draws = pointer && self.survey.pointer;
        let size = self.survey.size.unwrap_or((1280, 720));
        let sound = self.survey.sound;
        let copied = self.survey.h264_alone && !draws;
        let making = Making { size, pointer, sound, copied, least_us: TOGETHER_US, to_us };
        let mut film = Film::new(Arc::clone(&self.reader), from_us, making)?;
        let (mut bytes, mut number, mut index) = (0, 0, Index::default());
        let began_ms = self.reader.opening().wall_ms.saturating_add(from_us / 1000);
        let most = if sound { STILL_WITH_SOUND_US } else { STILL_US };
        let most = if copied { FRAGMENT_US } else { most };
        while let Some(fragment) = film.fragment(FRAGMENT_US, most)? {
            if number == 0 {
                let head = film.tracks(began_ms, Some(to_us - from_us))?.head()?;
                out.write_all(&head)?;
                bytes += head.len() as u64;
            }
            number += 1;
            let written = fragment.write(number)?;
            index.note(&fragment, bytes);
            out.write_all(&written)?;
            bytes += written.len() as u64;
            progress(film.at_us());
        }
        let last = index.write()?;
        out.write_all(&last)?;
        out.flush()?;
        Ok(Exported {
            from_us,
            to_us,
            width: size.0,
            height: size.1,
            copied: film.done.copied,
            encoded: film.done.encoded,
            sound,
            sound_lost: film.done.sound_lost,
            bytes: bytes + last.len() as u64,
        })
    }
}
