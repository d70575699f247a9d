use std::sync::Arc;

use lucid_recording::Reader;

use crate::film::{Film, Making};
use crate::{Error, Result, survey};

/// How long a segment is, in microseconds.
pub const SEGMENT_US: u64 = 4_000_000;
/// The most pictures a second: what a viewer needs, and a slow machine still encodes in time.
const LEAST_US: u64 = 33_000;
/// The size where there is no picture.
const EMPTY: (u16, u16) = (1280, 720);

/// Makes a recording's film piece by piece, as somebody watches it: each segment can be shown without the others, and only
/// the chunks that hold it are read.
pub struct Segments {
    reader: Arc<Reader>,
    /// Goes on where the last segment ended.
    film: Option<Film>,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// A whole MP4, whose times begin at 0.
    pub bytes: Vec<u8>,
    /// Its codecs, as browsers want them named.
    pub codecs: String,
}

impl Segments {
    /// Of a recording.
    #[must_use]
    pub fn new(reader: Arc<Reader>) -> Segments {
        Segments { reader, film: None }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.reader.mono_us().div_ceil(SEGMENT_US)
    }

    /// The segment of that number, from 0. It always has sound, be it silence: a player cannot do with it only now and
    /// then.
    ///
    /// # Errors
    /// When there is no such segment, or what was recorded cannot be shown.
    pub fn make(&mut self, number: u64) -> Result<Segment> {
        let length_us = self.reader.mono_us();
        let from_us = number.saturating_mul(SEGMENT_US);
        let to_us = from_us.saturating_add(SEGMENT_US).min(length_us);
        if from_us >= to_us {
            return Err(Error::Range { from_us, to_us: from_us, length_us });
        }
        let found = survey(&self.reader, from_us, to_us, &mut |_| Ok(()))?;
        let size = found.size.unwrap_or(EMPTY);
        let making = Making { size, pointer: true, sound: true, copied: false, least_us: LEAST_US, to_us };
        // One that failed is not gone on with.
        let mut film = match self.film.take() {
            Some(film) if film.goes_on(from_us, &making) => film.until(to_us),
            _ => Film::new(Arc::clone(&self.reader), from_us, making)?,
        };
        let mut bytes = Vec::new();
        let mut fragments = 0;
        let mut written = Vec::new();
        while let Some(fragment) = film.fragment(SEGMENT_US, SEGMENT_US)? {
            fragments += 1;
            written.extend(fragment.write(fragments)?);
        }
        let tracks = film.tracks(self.reader.opening().wall_ms.saturating_add(from_us / 1000), None)?;
        bytes.extend(tracks.head()?);
        bytes.extend(written);
        self.film = Some(film);
        Ok(Segment { bytes, codecs: tracks.codecs() })
    }
}
