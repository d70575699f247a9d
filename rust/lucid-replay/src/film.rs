//! Makes fragments of MP4 of what was recorded.

use std::sync::Arc;

use lucid_recording::Reader;
use lucid_recording::statement::Gap;
use lucid_session::sound::Piece;
use lucid_session::video::Record;
use lucid_video::{Encoder as _, MAX_HEIGHT, MAX_WIDTH, OpenH264, Settings};

use crate::canvas::{Canvas, Cursor};
use crate::h264::{Parameters, Unit, cropped};
use crate::mp4::{Fragment, Sample, Tracks, video_ticks};
use crate::sound::Track;
use crate::words;
use crate::{Error, Item, Moment, Player, Result, Show};

/// The shortest time that a picture is shown: a tick of the track, rounded up.
const TICK_US: u64 = 12;

/// How a film is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Making {
    /// Size of its pictures; what is smaller stands at the upper left, on black.
    pub(crate) size: (u16, u16),
    /// Whether the pointer is drawn.
    pub(crate) pointer: bool,
    /// Whether there is a track of sound.
    pub(crate) sound: bool,
    /// The pictures are taken as they were encoded for the client. That must be known to be possible.
    pub(crate) copied: bool,
    /// Pictures that follow each other sooner are shown as one, in microseconds.
    pub(crate) least_us: u64,
    /// Where it ends.
    pub(crate) to_us: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) copied: u64,
    pub(crate) encoded: u64,
    pub(crate) sound_lost: u64,
}

/// A film from one time to another, made fragment by fragment.
pub(crate) struct Film {
    show: Show,
    next: Option<Moment>,
    making: Making,
    player: Player,
    cursor: Cursor,
    canvas: Canvas,
    /// Of the picture on the canvas.
    shown: Option<(u16, u16)>,
    /// Nothing is shown until the next key.
    waits_for_key: bool,
    encoder: Option<OpenH264>,
    parameters: Option<Parameters>,
    track: Track,
    /// Where it begins, and where the next fragment does.
    from_us: u64,
    at_us: u64,
    pub(crate) done: Done,
}

impl Film {
    /// From a time on.
    pub(crate) fn new(reader: Arc<Reader>, from_us: u64, making: Making) -> Result<Film> {
        let (width, height) = making.size;
        let fits = u32::from(width) <= MAX_WIDTH && u32::from(height) <= MAX_HEIGHT;
        if !making.copied && !fits {
            return Err(Error::TooLarge { width, height });
        }
        let mut show = Show::from(reader, from_us)?;
        let next = show.next()?;
        let mut film = Film {
            show,
            next,
            making,
            player: Player::default(),
            cursor: Cursor::default(),
            canvas: Canvas::new(making.size.0, making.size.1),
            shown: None,
            waits_for_key: false,
            encoder: None,
            parameters: None,
            track: Track::new(from_us),
            from_us,
            at_us: from_us,
            done: Done::default(),
        };
        // What is shown when it begins.
        while !making.copied && film.next.as_ref().is_some_and(|next| next.at_us <= from_us) {
            film.apply()?;
        }
        Ok(film)
    }

    /// Whether a film that is to begin there, and is made so, can go on with this one.
    pub(crate) fn goes_on(&self, from_us: u64, making: &Making) -> bool {
        self.at_us == from_us && self.making == Making { to_us: self.making.to_us, ..*making }
    }

    /// Goes on up to another time, as a film of its own whose times begin anew.
    pub(crate) fn until(mut self, to_us: u64) -> Film {
        (self.making.to_us, self.from_us) = (to_us, self.at_us);
        self.track.begin_again(self.at_us);
        self
    }

    /// Where the next fragment begins.
    pub(crate) fn at_us(&self) -> u64 {
        self.at_us
    }

    /// What the fragments' head is to say; known after the first of them.
    pub(crate) fn tracks(&self, began_ms: u64, length_us: Option<u64>) -> Result<Tracks> {
        let (width, height) = self.making.size;
        let Parameters { sequence, picture } =
            self.parameters.as_ref().ok_or(Error::H264("there is no picture"))?;
        let parameters = Parameters { sequence: cropped(sequence, width, height)?, picture: picture.clone() };
        Ok(Tracks { width, height, parameters, sound: self.making.sound, began_ms, length_us })
    }

    /// The next fragment: not shorter than `least`, unless the film ends, nor longer than `most`, and where there is a
    /// choice, it ends where the picture changes. None at the end.
    pub(crate) fn fragment(&mut self, least_us: u64, most_us: u64) -> Result<Option<Fragment>> {
        if self.at_us >= self.making.to_us {
            return Ok(None);
        }
        let begin = self.at_us;
        let enough = begin.saturating_add(least_us).min(self.making.to_us);
        let most = begin.saturating_add(most_us).min(self.making.to_us);
        let mut pictures: Vec<(u64, Sample)> = Vec::new();
        if self.making.copied {
            self.at_us = self.copy(enough, most, &mut pictures)?;
        } else {
            self.at_us = self.compose(begin, enough, most, &mut pictures)?;
        }
        let relative = |at_us: u64| video_ticks(at_us - self.from_us);
        let mut fragment = Fragment {
            video_start: pictures.first().map_or(0, |(at_us, _)| relative(*at_us)),
            ..Fragment::default()
        };
        let ends: Vec<u64> = pictures.iter().skip(1).map(|(at_us, _)| *at_us).chain([self.at_us]).collect();
        for ((at_us, mut sample), end) in pictures.into_iter().zip(ends) {
            sample.duration = u32::try_from(relative(end).saturating_sub(relative(at_us)))
                .map_err(|_| Error::H264("a picture is shown for more than 13 hours"))?;
            fragment.video.push(sample);
        }
        if self.making.sound {
            let (start, packets) = if self.at_us >= self.making.to_us {
                self.track.rest(self.at_us)?
            } else {
                self.track.until(self.at_us)?
            };
            (fragment.sound_start, fragment.sound) = (start, packets);
        }
        self.done.sound_lost = self.track.lost;
        Ok(Some(fragment))
    }

    fn compose(
        &mut self,
        begin: u64,
        enough: u64,
        most: u64,
        pictures: &mut Vec<(u64, Sample)>,
    ) -> Result<u64> {
        while self.next.as_ref().is_some_and(|next| next.at_us <= begin) {
            self.apply()?;
        }
        // Each fragment stands alone.
        pictures.push((begin, self.encode(true)?));
        let mut changed: Option<u64> = None;
        loop {
            let next = self.next.as_ref().filter(|next| next.at_us < most);
            let next = next.map(|next| {
                (next.at_us, matches!(next.item, Item::Video(_) | Item::Pointer(_) | Item::Gap(_)))
            });
            if let Some(since) = changed
                && next.is_none_or(|(at_us, _)| at_us >= since.saturating_add(self.making.least_us))
            {
                // What changes at the very end is shown by the next fragment.
                if since + TICK_US <= most {
                    pictures.push((since, self.encode(false)?));
                }
                changed = None;
            }
            let Some((at_us, visible)) = next else { return Ok(most) };
            if visible && at_us >= enough && changed.is_none() {
                return Ok(at_us);
            }
            self.apply()?;
            if changed.is_none() && self.canvas.is_damaged() {
                // Not before the picture that is shown already.
                changed = Some(at_us.max(pictures.last().map_or(begin, |(last, _)| last + TICK_US)));
            }
        }
    }

    /// Takes what comes next into account.
    fn apply(&mut self) -> Result<()> {
        let Some(Moment { at_us, chunk, record, item }) = self.next.take() else { return Ok(()) };
        self.next = self.show.next()?;
        self.applied(at_us, item).map_err(|error| error.at(chunk, record, at_us))
    }

    fn applied(&mut self, at_us: u64, item: Item) -> Result<()> {
        match item {
            Item::Video(payload) => {
                let record = Record::read(&payload)?;
                match record {
                    Record::Key { .. } => self.waits_for_key = false,
                    _ if self.waits_for_key => return Ok(()),
                    _ => {}
                }
                self.player.take(record)?;
                self.refresh();
            }
            Item::Pointer(change) => {
                self.cursor.change(change);
                if self.making.pointer && !self.waits_for_key {
                    self.refresh();
                }
            }
            Item::Gap(gap) => {
                self.waits_for_key = true;
                self.canvas.card(&card(&gap));
            }
            Item::Sound(payload) if self.making.sound && at_us >= self.from_us => {
                self.track.take(at_us, Piece::read(&payload)?)?;
            }
            Item::Sound(_) | Item::Event(..) => {}
        }
        Ok(())
    }

    fn refresh(&mut self) {
        let changed = self.player.take_changed();
        let Some(picture) = self.player.picture() else { return };
        let size = Some((picture.width, picture.height));
        let size_changed = std::mem::replace(&mut self.shown, size) != size;
        let cursor = self.making.pointer.then_some(&self.cursor);
        self.canvas.show(picture, &changed, size_changed, cursor);
    }

    fn encode(&mut self, key: bool) -> Result<Sample> {
        let Canvas { width, height, .. } = self.canvas;
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(OpenH264::new(Settings::desktop(width, height))?),
        };
        if key {
            encoder.force_key_frame();
        }
        let damage = self.canvas.take_damage();
        let picture = lucid_video::Picture {
            width,
            height,
            stride: width as usize * 4,
            pixels: &self.canvas.pixels,
            damage: &damage,
        };
        let encoded = encoder.encode(picture)?;
        let unit = Unit::read(encoded.bytes)?;
        self.done.encoded += 1;
        self.sample(unit)
    }

    fn sample(&mut self, unit: Unit) -> Result<Sample> {
        if let Some(parameters) = unit.parameters {
            match &self.parameters {
                Some(known) if *known != parameters => {
                    return Err(Error::H264("an encoder has changed its parameters within a film"));
                }
                _ => self.parameters = Some(parameters),
            }
        }
        Ok(Sample { bytes: unit.bytes, duration: 0, key: unit.idr })
    }

    /// As they were encoded. A fragment begins with a picture that needs none before where there is one in time.
    fn copy(&mut self, enough: u64, most: u64, pictures: &mut Vec<(u64, Sample)>) -> Result<u64> {
        loop {
            let Some(next) = self.next.as_ref().filter(|next| next.at_us < self.making.to_us) else {
                return Ok(self.making.to_us);
            };
            let at_us = next.at_us;
            let frame = match &next.item {
                Item::Video(payload) => match Record::read(payload)? {
                    Record::Frame(pdus) => whole_picture(pdus, self.making.size)?,
                    _ => None,
                },
                _ => None,
            };
            let Some(unit) = frame else {
                self.apply_sound()?;
                continue;
            };
            let full = !pictures.is_empty() && (at_us >= most || unit.idr && at_us >= enough);
            if full {
                return Ok(at_us);
            }
            self.next = self.show.next()?;
            let at_us = at_us.max(pictures.last().map_or(self.at_us, |(last, _)| last + TICK_US));
            let sample = self.sample(unit)?;
            self.done.copied += 1;
            pictures.push((at_us, sample));
        }
    }

    fn apply_sound(&mut self) -> Result<()> {
        if matches!(self.next, Some(Moment { item: Item::Sound(_), .. })) {
            return self.apply();
        }
        self.next = self.show.next()?;
        Ok(())
    }
}

/// What stands where nothing was recorded.
fn card(gap: &Gap) -> Vec<String> {
    vec!["not recorded".to_owned(), words::span(gap.from_us, gap.to_us), gap.reason.clone()]
}

/// The access unit of a frame that is one H.264 picture of the whole surface, and nothing else.
pub(crate) fn whole_picture(pdus: &[u8], size: (u16, u16)) -> Result<Option<Unit>> {
    use ironrdp_core::{Decode as _, ReadCursor};
    use ironrdp_egfx::pdu::{Avc420BitmapStream, Codec1Type, GfxPdu};
    let mut cursor = ReadCursor::new(pdus);
    let mut found = None;
    while !cursor.is_empty() {
        let pdu = GfxPdu::decode(&mut cursor).map_err(|error| Error::Frame(error.to_string()))?;
        match pdu {
            GfxPdu::StartFrame(_) | GfxPdu::EndFrame(_) => {}
            GfxPdu::WireToSurface1(pdu) if found.is_none() && pdu.codec_id == Codec1Type::Avc420 => {
                let (width, height) = size;
                let there = &pdu.destination_rectangle;
                if (there.left, there.top, there.right, there.bottom) != (0, 0, width, height) {
                    return Ok(None);
                }
                let stream = Avc420BitmapStream::decode(&mut ReadCursor::new(&pdu.bitmap_data))
                    .map_err(|error| Error::Frame(error.to_string()))?;
                let covers = stream.rectangles.iter().any(|shown| {
                    (shown.left, shown.top) == (0, 0) && shown.right >= width && shown.bottom >= height
                });
                if !covers {
                    return Ok(None);
                }
                found = Some(Unit::read(stream.data)?);
            }
            _ => return Ok(None),
        }
    }
    Ok(found)
}
