use std::collections::BTreeMap;
use std::sync::Arc;

use lucid_audit::Event;
use lucid_recording::statement::Gap;
use lucid_recording::{Reader, Records};
use lucid_session::{AUDIT, POINTER, SOUND, STREAMS, VIDEO, pointer, sound};

use crate::{Error, Result};

/// A record may speak of what was before it; entries of the pointer do. What comes after is held back for so long.
const LOOKAHEAD_US: u64 = 2_000_000;
/// The most bytes that are held back; then what is earliest goes first, and what turns out to be earlier still comes late.
const MAX_WAITING: usize = 24 << 20;

/// What became of the pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// It is here now: from the left, from the top.
    Moved(u16, u16),
    /// It looks so, and is drawn.
    Shape {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
        /// Which of its pixels points: from the left, from the top.
        hotspot: (u16, u16),
        /// Red, green, blue, alpha.
        rgba: Vec<u8>,
    },
    /// It is not drawn.
    Hidden,
}

/// Something that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A payload of the video stream ([`lucid_session::video::Record`]).
    Video(Vec<u8>),
    /// What became of the pointer.
    Pointer(Pointer),
    /// A payload of the sound stream ([`lucid_session::sound::Piece`]).
    Sound(Vec<u8>),
    /// An event, and its line as it is, without a line feed.
    Event(Box<Event>, Vec<u8>),
    /// Something may be missing from here on; what comes after it begins with a key.
    Gap(Gap),
}

impl Item {
    fn size(&self) -> usize {
        64 + match self {
            Item::Video(bytes) | Item::Sound(bytes) => bytes.len(),
            Item::Pointer(Pointer::Shape { rgba, .. }) => rgba.len(),
            Item::Event(_, line) => 4 * line.len(),
            Item::Pointer(_) | Item::Gap(_) => 64,
        }
    }
}

/// An item, and where and when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// In microseconds since the session's start; never less than that of the one before.
    pub at_us: u64,
    /// The chunk's number.
    pub chunk: u32,
    /// The record's number in it.
    pub record: u64,
    /// What.
    pub item: Item,
}

/// Walks a recording from a time on, in order of time. Only the chunks that are needed are read, and one at a time is in
/// memory, with what two seconds take beside it.
pub struct Show {
    reader: Arc<Reader>,
    records: Option<Records>,
    next_chunk: u32,
    /// By time, and then in the order in which it was recorded.
    waiting: BTreeMap<(u64, u64), Moment>,
    order: u64,
    bytes: usize,
    /// Of the newest record that was read, and of the latest that was given out.
    read_us: u64,
    given_us: u64,
    /// The next gap.
    gap: usize,
    over: bool,
    /// Comes after what is good before it.
    failed: Option<Error>,
}

impl Show {
    /// From the last key at or before a time on.
    ///
    /// # Errors
    /// When the recording is none of a session, or the chunk cannot be read.
    pub fn from(reader: Arc<Reader>, mono_us: u64) -> Result<Show> {
        for wanted in STREAMS {
            let found = reader.opening().streams.iter().find(|stream| stream.id == wanted.number);
            if let Some(found) = found.filter(|found| found.name != wanted.name) {
                let (number, found) = (wanted.number, found.name.clone());
                return Err(Error::Streams { number, found, wanted: wanted.name });
            }
        }
        let records = if reader.chunks().is_empty() { None } else { Some(reader.seek(mono_us)?) };
        let chunk = records.as_ref().map_or(0, |records| records.entry().index);
        // What the chunk begins after is over; but before the first one something may be missing, too.
        let begins = records.as_ref().filter(|_| chunk > 0).map_or(0, |records| records.entry().first_us);
        let gap = reader.gaps().iter().position(|gap| gap.to_us > begins).unwrap_or(reader.gaps().len());
        Ok(Show {
            gap,
            over: records.is_none(),
            failed: None,
            records,
            next_chunk: chunk + 1,
            waiting: BTreeMap::new(),
            order: 0,
            bytes: 0,
            read_us: begins,
            given_us: 0,
            reader,
        })
    }

    /// The recording.
    #[must_use]
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// What comes next; none at the end.
    ///
    /// # Errors
    /// When a chunk or a record is not what the format says. Nothing comes after that.
    #[expect(clippy::should_implement_trait, reason = "after an error it is over, which no iterator says")]
    pub fn next(&mut self) -> Result<Option<Moment>> {
        loop {
            if let Some(first) = self.waiting.first_entry()
                && (self.over
                    || self.bytes > MAX_WAITING
                    || first.key().0.saturating_add(LOOKAHEAD_US) <= self.read_us)
            {
                let moment = first.remove();
                self.bytes -= moment.item.size();
                self.given_us = moment.at_us;
                return Ok(Some(moment));
            }
            if self.over {
                return self.failed.take().map_or(Ok(None), Err);
            }
            if let Err(error) = self.read() {
                (self.over, self.records, self.failed) = (true, None, Some(error));
            }
        }
    }

    /// Reads one record, or goes on to the next chunk.
    fn read(&mut self) -> Result<()> {
        let Some(records) = &mut self.records else {
            if self.next_chunk as usize >= self.reader.chunks().len() {
                self.gaps_until(u64::MAX);
                self.over = true;
                return Ok(());
            }
            self.records = Some(self.reader.chunk(self.next_chunk)?);
            self.next_chunk += 1;
            return Ok(());
        };
        let chunk = records.entry().index;
        let Some(record) = records.next()? else {
            self.records = None;
            return Ok(());
        };
        let (number, at_us) = (record.number, record.mono_us);
        let mut items = Vec::new();
        read_items(record.stream, at_us, record.payload, &mut items)
            .map_err(|error| error.at(chunk, number, at_us))?;
        self.gaps_until(at_us);
        self.read_us = at_us;
        for (at_us, item) in items {
            self.push(at_us, chunk, number, item);
        }
        Ok(())
    }

    fn push(&mut self, at_us: u64, chunk: u32, record: u64, item: Item) {
        let at_us = at_us.max(self.given_us);
        self.bytes += item.size();
        self.order += 1;
        self.waiting.insert((at_us, self.order), Moment { at_us, chunk, record, item });
    }

    /// Those that end at or before a time. One begins where something may be missing, or where what there is ends.
    fn gaps_until(&mut self, mono_us: u64) {
        while let Some(gap) = self.reader.gaps().get(self.gap).filter(|gap| gap.to_us <= mono_us).cloned() {
            self.gap += 1;
            let at_us = gap.from_us.max(self.read_us).min(gap.to_us);
            self.push(at_us, self.next_chunk.saturating_sub(1), 0, Item::Gap(gap));
        }
    }
}

/// What a record holds, with its times.
fn read_items(stream: u8, at_us: u64, payload: &[u8], items: &mut Vec<(u64, Item)>) -> Result<()> {
    let too_long = |stream, most| match payload.len() > most {
        true => Err(lucid_session::Error { stream, why: "it is longer than a record may be" }),
        false => Ok(()),
    };
    if stream == VIDEO.number {
        items.push((at_us, Item::Video(payload.to_vec())));
    } else if stream == SOUND.number {
        too_long("sound", sound::MAX_RECORD)?;
        items.push((at_us, Item::Sound(payload.to_vec())));
    } else if stream == POINTER.number {
        too_long("pointer", pointer::MAX_RECORD)?;
        for entry in pointer::entries(payload) {
            let entry = entry?;
            let change = match entry.change {
                pointer::Change::Moved(x, y) => Pointer::Moved(x, y),
                pointer::Change::Shape(pointer::Shape { width, height, hotspot, rgba }) => {
                    Pointer::Shape { width, height, hotspot, rgba: rgba.to_vec() }
                }
                pointer::Change::Hidden => Pointer::Hidden,
            };
            let before_us = u64::from(entry.ms_before) * 1000;
            items.push((at_us.saturating_sub(before_us), Item::Pointer(change)));
        }
    } else if stream == AUDIT.number {
        for line in payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event = Event::from_line(line).map_err(Error::Event)?;
            items.push((event.mono_us.min(at_us), Item::Event(Box::new(event), line.to_vec())));
        }
    }
    Ok(())
}
