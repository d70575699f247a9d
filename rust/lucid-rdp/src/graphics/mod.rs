//! What a client with the graphics pipeline is told about each picture, chosen so that little has to be encoded:
//!
//! 1. What really differs is found by comparing with the `mirror`, the picture that the client's surface is to show.
//! 2. What the client has shown before and kept comes back from there ([`cache`]).
//! 3. What has only moved is copied on the client's surface ([`copies`], [`motion`]).
//! 4. The rest is cut into tiles. Flat parts become fills and text goes lossless ([`clearcodec`]); what is rich in
//!    colours or never rests becomes H.264 ([`video`]), if there is so much of it that this pays.
//! 5. What went as H.264 and has been still for a moment is repeated exactly ([`refine`]).
//!
//! The work is proportional to what changed, except for the H.264 encoder's, which looks at the whole picture.

mod cache;
mod cells;
mod clearcodec;
mod copies;
mod motion;
mod pixels;
mod refine;
#[cfg(test)]
mod tests;
mod video;

use std::time::{Duration, Instant};

use lucid_desktop::{Frame, Rect};

use crate::Error;
use crate::encoders::VideoEncoders;
use crate::tiles::split;
use cache::Cache;
pub(crate) use cache::Room;
use cells::Cells;
use clearcodec::{ClearCodec, Pixel};
pub(crate) use copies::Copy;
use motion::Rows;
pub(crate) use refine::Inexact;
use video::Video;

/// One step on the way to the next picture; to be done in order.
#[derive(Debug)]
pub(crate) enum Command {
    /// A part of the surface goes elsewhere on it.
    Copy(Copy),
    /// Rectangles of one colour, `0x00RRGGBB`.
    Fill {
        /// The colour.
        pixel: Pixel,
        /// Where; at most 65535.
        rects: Vec<Rect>,
    },
    /// A ClearCodec bitmap.
    Lossless {
        /// Where.
        place: Rect,
        /// Its `CLEARCODEC_BITMAP_STREAM`.
        bytes: Vec<u8>,
    },
    /// A picture of the H.264 stream, of which the rectangles are shown.
    Avc420 {
        /// One access unit, Annex B.
        bytes: Vec<u8>,
        /// What is shown of it.
        rects: Vec<Rect>,
        /// Its quantiser.
        qp: u8,
    },
    /// A part of the surface is kept in a slot, which holds nothing.
    Keep {
        /// Where it is.
        place: Rect,
        /// From one on.
        slot: u16,
        /// Its name in the client's own books; no two have the same.
        key: u64,
    },
    /// What a slot holds is painted.
    Recall {
        /// The slot.
        slot: u16,
        /// Where; of the size that was kept.
        place: Rect,
    },
    /// What a slot holds is forgotten.
    Evict {
        /// The slot.
        slot: u16,
    },
}

impl Command {
    /// About as many bytes as it takes to send.
    pub(crate) fn size(&self) -> usize {
        match self {
            Command::Copy(_) => 26,
            Command::Fill { rects, .. } => 16 + rects.len() * 8,
            Command::Lossless { bytes, .. } => 25 + bytes.len(),
            Command::Avc420 { bytes, rects, .. } => 29 + rects.len() * 10 + bytes.len(),
            Command::Keep { .. } => 28,
            Command::Recall { .. } => 18,
            Command::Evict { .. } => 10,
        }
    }
}

/// How the next picture is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The client decodes H.264.
    pub(crate) avc420: bool,
    /// What the picture may take, in bytes, if it can be helped: H.264 is as coarse as that needs.
    pub(crate) budget: usize,
    /// Parts that are not exact may be repeated now, within the budget.
    pub(crate) refine: bool,
}

/// A picture that the client can be told.
#[derive(Debug)]
pub(crate) struct Drawing {
    /// What to do, in order; none when nothing has changed.
    pub(crate) commands: Vec<Command>,
    /// When a picture with [`Wishes::refine`] would make something exact; `None` when all is.
    pub(crate) refine_in: Option<Duration>,
}

/// The edge of the squares that are judged as one, in pixels.
const TILE: u32 = 64;
/// Tiles with so many colours, and as many changes of colour as [`is_photograph`] says, are photographs.
const MANY_COLOURS: usize = 200;
/// Below so many bytes of lossless tiles in all H.264 is not worth its time (6 to 9 ms at 1920x1080).
const AVC_FROM: usize = 32 * 1024;
/// Changes of a tile in a row, each within [`RESTLESS`] of the one before, that make it count as moving.
const RESTLESS_CHANGES: u8 = 4;
const RESTLESS: Duration = Duration::from_millis(150);
/// A moving tile of fewer bytes, or of no more colours, stays lossless: it is text that scrolls.
const SMALL_TILE: usize = 400;
const FEW_COLOURS: usize = 64;
/// A tile of a film is looked at closely each so many pictures, and taken for one in between.
const LOOK_EACH: u8 = 8;
/// While a film runs and nothing was found to have only moved, that is searched for each so many pictures, at last.
const SEARCH_EACH: u8 = 8;
/// Fewer bytes say nothing about [`Surface::thrift`], which is at most [`MOST_THRIFT`].
const LEARN_FROM: usize = 2 * 1024;
const MOST_THRIFT: usize = 200;
/// What was thought to fit what a picture may take, and takes so many times that, goes on as H.264.
const OVERDRAFT: usize = 2;
/// A refinement takes at most this, in bytes, so that it delays nothing for long.
pub(crate) const REFINEMENT: usize = 512 * 1024;

/// Turns pictures into commands for one client's surface.
pub(crate) struct Surface {
    width: u32,
    height: u32,
    stride: usize,
    /// What the client's surface shows, but for the faults of H.264.
    mirror: Vec<u8>,
    /// The client shows nothing yet, or has lost what it had.
    blank: bool,
    /// What is not exact is to be painted again.
    repeat: bool,
    dirty: Cells,
    inexact: Inexact,
    tiles: Vec<Tile>,
    search: Search,
    cache: Cache,
    clearcodec: ClearCodec,
    encoders: VideoEncoders,
    video: Option<Video>,
    /// What lossless squares really took of what [`Surface::judge`] thought, in hundredths.
    thrift: usize,
    pixels: Vec<Pixel>,
}

/// What is remembered of a tile.
#[derive(Clone, Copy, Default)]
struct Tile {
    changed: Option<Instant>,
    changes: u8,
    /// It is a film, and is taken for one in so many pictures to come.
    film_for: u8,
    /// [`Judged::bytes`], as it was when it was looked at.
    bytes: usize,
}

/// When what has only moved is searched for.
#[derive(Default)]
struct Search {
    /// Searches in a row that found nothing.
    vain: u8,
    /// Pictures until the next.
    wait: u8,
}

impl Search {
    /// Whether this picture is searched; `film` says that most of what changed in it is part of a film.
    fn is_due(&mut self, film: bool) -> bool {
        if !film {
            *self = Search::default();
        }
        let due = self.wait == 0;
        self.wait = self.wait.saturating_sub(1);
        due
    }

    fn ended(&mut self, found: bool) {
        self.vain = if found { 0 } else { (self.vain + 1).min(SEARCH_EACH - 1) };
        self.wait = self.vain;
    }
}

/// A tile with changes, as it is judged.
struct Judged {
    place: Rect,
    /// Its changed squares' bytes, lossless.
    bytes: usize,
    moving: bool,
}

impl Surface {
    /// A surface that shows nothing yet, of a client that has kept nothing yet.
    pub(crate) fn new(width: u32, height: u32, room: Room, encoders: VideoEncoders) -> Surface {
        let stride = width as usize * 4;
        let tiles = (width.div_ceil(TILE) * height.div_ceil(TILE)) as usize;
        Surface {
            width,
            height,
            stride,
            mirror: vec![0; stride * height as usize],
            blank: true,
            repeat: false,
            dirty: Cells::none(width, height),
            inexact: Inexact::none(width, height),
            tiles: vec![Tile::default(); tiles],
            search: Search::default(),
            cache: Cache::new(room),
            clearcodec: ClearCodec::new(),
            encoders,
            video: None,
            thrift: 100,
            pixels: Vec::new(),
        }
    }

    /// Width and height.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Whether the client shows nothing yet.
    pub(crate) fn is_blank(&self) -> bool {
        self.blank
    }

    /// What the client shows, but for the squares that are not exact: B, G, R, X, without gaps.
    pub(crate) fn shown(&self) -> &[u8] {
        &self.mirror
    }

    /// No picture from here on needs what came before, except what [`shown`](Self::shown) says now: whoever has that and
    /// new decoders sees what the client sees. What is not exact there is repeated with the next picture. Gives what the
    /// client has to forget.
    pub(crate) fn cut(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        self.cache.empty(&mut commands);
        self.clearcodec.forget();
        if let Some(video) = &mut self.video {
            video.begin_anew();
        }
        self.repeat = true;
        commands
    }

    /// The client has lost what it showed; its decoders and what it has kept still are as they were.
    pub(crate) fn lost(&mut self) {
        self.blank = true;
        self.inexact.clear();
    }

    /// What leads from the picture before to this one. Only what is damaged is looked at. What is exact goes to `ahead`
    /// before H.264 is encoded, so that a letter does not wait for a film; it comes before what is returned.
    pub(crate) fn draw(
        &mut self,
        frame: &Frame<'_>,
        wishes: Wishes,
        now: Instant,
        mut ahead: impl FnMut(Vec<Command>),
    ) -> Result<Drawing, Error> {
        if (frame.width, frame.height, frame.stride) != (self.width, self.height, self.stride) {
            return Err(Error::Internal("a picture came for a surface of another size"));
        }
        let new = Rows { pixels: frame.pixels, stride: self.stride };
        let mut commands = Vec::new();
        let mut spent = 0;
        self.find_dirty(new, frame.damage);
        let film = self.is_film(now);
        self.recall(new, wishes.budget, now, &mut commands);
        if !self.blank {
            let changed = self.dirty.count();
            let copies = if self.search.is_due(film) {
                let copies = copies::find(&self.mirror, new, &mut self.dirty);
                self.search.ended(!copies.is_empty());
                copies
            } else {
                Vec::new()
            };
            // What only moves is not gone.
            if self.dirty.count() * 2 > changed {
                self.keep_replaced(now, &mut commands);
            }
            copies::apply(&mut self.mirror, self.stride, &copies);
            self.inexact.copied(&copies, now);
            commands.extend(copies.into_iter().map(Command::Copy));
        }
        let repeat = std::mem::take(&mut self.repeat) && !self.inexact.is_empty();
        if !self.dirty.is_empty() || repeat {
            let judged = self.judge(new, now);
            let mut avc = if wishes.avc420 { self.choose(&judged, wishes.budget) } else { None };
            if repeat {
                let cells = avc.get_or_insert_with(|| Cells::none(self.width, self.height));
                self.inexact.marked().for_each(|(column, row)| cells.set(column, row, true));
            }
            let copied = commands.len();
            if let Some(cells) = avc {
                let rects = cells.rects();
                for (column, row) in cells.marked() {
                    self.dirty.set(column, row, false);
                }
                self.lossless(new, usize::MAX, &mut commands)?;
                if !commands.is_empty() {
                    spent += sizes(&commands);
                    ahead(std::mem::take(&mut commands));
                }
                commands.push(self.moving(frame, rects, wishes.budget, now)?);
            } else {
                let most = if wishes.avc420 { wishes.budget * OVERDRAFT } else { usize::MAX };
                let left = self.lossless(new, most, &mut commands)?;
                if !left.is_empty() {
                    self.thrift = (self.thrift * 2).min(MOST_THRIFT);
                    spent += sizes(&commands);
                    ahead(std::mem::take(&mut commands));
                    commands.push(self.moving(frame, left, wishes.budget, now)?);
                } else if judged.iter().all(|t| !t.moving) {
                    self.learn(judged.iter().map(|t| t.bytes).sum(), sizes(&commands[copied..]));
                }
            }
        }
        self.blank = false;
        if wishes.refine {
            spent += sizes(&commands);
            self.refine(new, wishes.budget.min(REFINEMENT).saturating_sub(spent), now, &mut commands)?;
        }
        Ok(Drawing { commands, refine_in: self.inexact.wait(now) })
    }

    /// Marks the squares within the damage that differ from what the client shows.
    fn find_dirty(&mut self, new: Rows<'_>, damage: &[Rect]) {
        self.dirty.clear();
        let old = Rows { pixels: &self.mirror, stride: self.stride };
        let whole = [Rect { x: 0, y: 0, width: self.width, height: self.height }];
        for rect in if self.blank { &whole } else { damage } {
            for (column, row) in self.dirty.touched(*rect) {
                if self.blank
                    || !self.dirty.get(column, row) && !pixels::equal(old, new, self.dirty.rect(column, row))
                {
                    self.dirty.set(column, row, true);
                }
            }
        }
    }

    /// Whether most of what has changed went as H.264 a moment ago.
    fn is_film(&self, now: Instant) -> bool {
        let film = |cell: &(u32, u32)| self.inexact.is_moving(cell.0, cell.1, now);
        let count = self.dirty.marked().filter(film).count();
        count > 0 && count * 4 >= self.dirty.count() * 3
    }

    /// Looks at each tile that has changed.
    fn judge(&mut self, new: Rows<'_>, now: Instant) -> Vec<Judged> {
        let whole = Rect { x: 0, y: 0, width: self.width, height: self.height };
        let mut judged = Vec::new();
        for (index, (place, tile)) in split(whole, TILE, TILE).zip(&mut self.tiles).enumerate() {
            let cells = || self.dirty.touched(place).filter(|(c, r)| self.dirty.get(*c, *r));
            let (mut area, mut was_moving, mut all_moving) = (0, false, true);
            for (column, row) in cells() {
                let cell = self.dirty.rect(column, row);
                area += cell.width * cell.height;
                let moving = self.inexact.is_moving(column, row, now);
                was_moving |= moving;
                all_moving &= moving;
            }
            if area == 0 {
                continue;
            }
            let in_a_row = tile.changed.is_some_and(|changed| now.duration_since(changed) < RESTLESS);
            tile.changes = if in_a_row { tile.changes.saturating_add(1) } else { 1 };
            tile.changed = Some(now);
            if in_a_row && all_moving && tile.film_for > 0 {
                tile.film_for -= 1;
                judged.push(Judged { place, bytes: tile.bytes, moving: true });
                continue;
            }
            let changes: u32 = cells().map(|(c, r)| pixels::changes(new, self.dirty.rect(c, r)) + 1).sum();
            let rich = is_photograph(changes, area);
            let restless = tile.changes >= RESTLESS_CHANGES || was_moving;
            let limit = if restless { FEW_COLOURS } else { MANY_COLOURS };
            let many = (rich || restless) && pixels::has_more_colours(new, place, limit, &mut self.pixels);
            let bytes = lossless_bytes(changes, area, rich && many, self.thrift);
            let moving = many && (rich || bytes > SMALL_TILE);
            // Not all tiles in the same picture.
            let film_for = LOOK_EACH + (index % usize::from(LOOK_EACH)) as u8;
            tile.film_for = if moving && restless { film_for } else { 0 };
            tile.bytes = bytes;
            judged.push(Judged { place, bytes, moving });
        }
        judged
    }

    /// Which of the changed squares go as H.264, if that pays.
    fn choose(&self, judged: &[Judged], budget: usize) -> Option<Cells> {
        let moving: usize = judged.iter().filter(|t| t.moving).map(|t| t.bytes).sum();
        let rest: usize = judged.iter().filter(|t| !t.moving).map(|t| t.bytes).sum();
        // What the link does not bear goes coarse first, and exactly when it is still.
        let too_much = rest > budget;
        if moving < AVC_FROM.min(budget) && !too_much {
            return None;
        }
        let mut cells = Cells::none(self.width, self.height);
        for tile in judged.iter().filter(|t| t.moving || too_much && t.bytes > SMALL_TILE / 4) {
            for (column, row) in self.dirty.touched(tile.place).filter(|(c, r)| self.dirty.get(*c, *r)) {
                cells.set(column, row, true);
            }
        }
        (!cells.is_empty()).then_some(cells)
    }

    /// What was thought to take so many bytes took so many.
    fn learn(&mut self, thought: usize, took: usize) {
        if thought >= LEARN_FROM {
            let now = (self.thrift * took / thought).clamp(5, MOST_THRIFT);
            self.thrift = (self.thrift * 3 + now) / 4;
        }
    }

    /// Sends the dirty squares exactly, until that has taken `most` bytes; gives what is left.
    fn lossless(
        &mut self,
        new: Rows<'_>,
        most: usize,
        commands: &mut Vec<Command>,
    ) -> Result<Vec<Rect>, Error> {
        let (mut spent, mut left) = (0, Vec::new());
        for rect in self.dirty.rects() {
            let old = Rows { pixels: &self.mirror, stride: self.stride };
            let changed = if self.blank { Some(rect) } else { pixels::trim(old, new, rect) };
            let Some(changed) = changed else { continue };
            for part in split(changed, clearcodec::MAX_WIDTH as u32, clearcodec::MAX_HEIGHT as u32) {
                if spent >= most {
                    left.push(part);
                    continue;
                }
                let before = commands.len();
                self.exactly(new, part, commands)?;
                spent += sizes(&commands[before..]);
                pixels::copy(new, &mut self.mirror, part);
            }
        }
        Ok(left)
    }

    /// Sends a rectangle exactly, as a fill if it is of one colour.
    fn exactly(&mut self, new: Rows<'_>, part: Rect, commands: &mut Vec<Command>) -> Result<(), Error> {
        pixels::collect(new, part, &mut self.pixels);
        let Some(first) = self.pixels.first().copied() else {
            return Err(Error::Internal("an empty rectangle was to be painted"));
        };
        if self.pixels.iter().all(|pixel| *pixel == first) {
            match commands.last_mut() {
                Some(Command::Fill { pixel, rects }) if *pixel == first && rects.len() < 1024 => {
                    rects.push(part)
                }
                _ => commands.push(Command::Fill { pixel: first, rects: vec![part] }),
            }
        } else {
            let bytes = self.clearcodec.encode(part.width as usize, &self.pixels);
            commands.push(Command::Lossless { place: part, bytes });
        }
        self.inexact.exact(part);
        Ok(())
    }

    /// Sends rectangles as H.264.
    fn moving(
        &mut self,
        frame: &Frame<'_>,
        rects: Vec<Rect>,
        budget: usize,
        now: Instant,
    ) -> Result<Command, Error> {
        let video = match &mut self.video {
            Some(video) => video,
            none => {
                let pixels = rects.iter().map(|rect| (rect.width * rect.height) as usize).sum();
                none.insert(Video::new(&self.encoders, (self.width, self.height), pixels, budget)?)
            }
        };
        let unit = video.encode(frame, &rects, budget)?;
        let new = Rows { pixels: frame.pixels, stride: self.stride };
        for rect in &rects {
            pixels::copy(new, &mut self.mirror, *rect);
            self.inexact.painted(*rect, now);
        }
        Ok(Command::Avc420 { bytes: unit.bytes, rects, qp: unit.qp })
    }

    /// Repeats still parts exactly, for about `room` bytes.
    fn refine(
        &mut self,
        new: Rows<'_>,
        room: usize,
        now: Instant,
        commands: &mut Vec<Command>,
    ) -> Result<(), Error> {
        let (mut thought, mut text) = (0, true);
        self.dirty.clear();
        for (column, row) in self.inexact.still(now) {
            if thought >= room {
                break;
            }
            let cell = self.dirty.rect(column, row);
            let (changes, area) = (pixels::changes(new, cell) + 1, cell.width * cell.height);
            let rich = is_photograph(changes, area)
                && pixels::has_more_colours(new, cell, FEW_COLOURS, &mut self.pixels);
            text &= !rich;
            thought += lossless_bytes(changes, area, rich, self.thrift);
            self.dirty.set(column, row, true);
        }
        let (before, mut spent) = (commands.len(), 0);
        for rect in self.dirty.rects() {
            for part in split(rect, clearcodec::MAX_WIDTH as u32, clearcodec::MAX_HEIGHT as u32) {
                // The rest comes next time.
                if spent >= room * OVERDRAFT {
                    text = false;
                    break;
                }
                let last = commands.len();
                self.exactly(new, part, commands)?;
                spent += sizes(&commands[last..]);
            }
        }
        if text {
            self.learn(thought, sizes(&commands[before..]));
        }
        Ok(())
    }
}

/// About as many bytes as so many changes of colour on so many pixels take, lossless.
fn lossless_bytes(changes: u32, area: u32, rich: bool, thrift: usize) -> usize {
    // Raw: there is no palette for what is rich in colours.
    if rich { area as usize * 3 } else { (changes * 2).min(area * 3) as usize * thrift / 100 }
}

/// About as many bytes as it takes to send them.
fn sizes(commands: &[Command]) -> usize {
    commands.iter().map(Command::size).sum()
}

/// More than one pixel in eight differs from the one before it.
fn is_photograph(changes: u32, area: u32) -> bool {
    changes * 8 > area
}
