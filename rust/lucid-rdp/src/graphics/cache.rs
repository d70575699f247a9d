//! What a client keeps of what it showed (MS-RDPEGFX 3.3.1.4, the bitmap cache), so that a window that comes back costs
//! a few bytes for each tile and not its pixels.
//!
//! A tile is kept when it is about to be painted over, and only what the client shows exactly: never what came as
//! H.264. So what is typed or scrolls costs nothing here; what goes away at once, and may come back, is named in 28
//! bytes. When it comes back, its tile is recognised by its pixels and painted in 18 bytes.
//!
//! Of what the client keeps this host has a fingerprint alone: 4095 tiles take it less than 1 MB, and the client what
//! [`Room`] says.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;

use lucid_desktop::Rect;

use super::cells::CELL;
use super::motion::Rows;
use super::pixels;
use super::{Command, RESTLESS, RESTLESS_CHANGES, Surface, TILE};
use crate::tiles::split;

/// How much a client keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// 16 MB: the client has said `SMALL_CACHE` or `THINCLIENT`, or speaks version 10.3.
    Small,
    /// 100 MB; of which 67 are used, as there are no more slots.
    Large,
}

/// MS-RDPEGFX 3.3.1.4: a small cache has 4096 slots, numbered from one. A large one has more, but not with every client
/// that should have it, and some count the last one as one too many.
const SLOTS: u16 = 4095;

/// Squares of a tile with so many changes of colour between them are looked for: about twice the bytes that asking
/// for them takes.
const WORTH_FINDING: u32 = 32;
/// And with so many they are kept, as that takes bytes whether they come back or not.
const WORTH_KEEPING: u32 = 96;
/// Bytes that it takes to have a tile kept, and another evicted for it.
const KEEPING: usize = 38;
/// That is at most this part of what a picture may take.
const KEEPING_PART: usize = 4;
/// So many tiles that are not found, and [`MISSES_FOR_HIT`] more for each that is, and no more are looked for: this is
/// a new picture, or a film.
const MISSES: usize = 8;
const MISSES_FOR_HIT: usize = 4;
/// Tiles are taken in so many rounds, each all over the picture.
const ROUNDS: usize = 17;
/// Fewer changed squares are not half of a tile.
const FEW_SQUARES: usize = (TILE / CELL * TILE / CELL / 2) as usize;

impl Room {
    /// In bytes, as MS-RDPEGFX 3.3.1.4 counts them: those of the pixels.
    fn bytes(self) -> usize {
        match self {
            Room::Small => 16 << 20,
            Room::Large => 100 << 20,
        }
    }
}

/// A tile's size and the fingerprint of its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content {
    width: u32,
    height: u32,
    print: [u128; 2],
}

impl Content {
    fn bytes(&self) -> usize {
        self.width as usize * self.height as usize * 4
    }
}

struct Entry {
    slot: u16,
    /// When it was last of use, by the cache's own count.
    used: u64,
}

/// What one client keeps.
pub(crate) struct Cache {
    room: usize,
    bytes: usize,
    entries: HashMap<Content, Entry>,
    /// By when they were last of use.
    order: BTreeMap<u64, Content>,
    count: u64,
    /// Slots that were given back; those from `fresh` on were never used.
    free: Vec<u16>,
    fresh: u16,
    /// For each eight bytes of a tile, and two more.
    secrets: Vec<u64>,
    /// Bytes of pixels that this picture may still have kept, or find to be.
    pixels_left: usize,
    /// And what it may take to say so.
    words_left: usize,
}

impl Cache {
    /// Nothing is kept yet.
    pub(crate) fn new(room: Room) -> Cache {
        let random = RandomState::new();
        let words = u64::from(TILE * TILE / 2 + 2);
        Cache {
            room: room.bytes(),
            bytes: 0,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            count: 0,
            free: Vec::new(),
            fresh: 1,
            secrets: (0..words).map(|word| random.hash_one(word)).collect(),
            pixels_left: 0,
            words_left: 0,
        }
    }

    /// Keeps so much only.
    #[cfg(test)]
    pub(super) fn shrink(&mut self, bytes: usize, slots: u16) {
        self.room = bytes;
        self.fresh = SLOTS + 1 - slots;
    }

    /// The fingerprint: NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) over 64-bit words, twice. Two tiles
    /// of one size that differ have the same with a probability of 2^-128, whatever they are, as long as they are
    /// chosen by somebody who does not know the secrets. Those leave this host in no form.
    fn content(&self, picture: Rows<'_>, place: Rect) -> Content {
        const COLOURS: u64 = 0x00ff_ffff_00ff_ffff;
        let mut print = [0u128; 2];
        let mut secrets = self.secrets.windows(4).step_by(2);
        for y in 0..place.height {
            let (wide, rest) = pixels::row(picture, place, y).as_chunks::<16>();
            let mut last = [0; 16];
            last[..rest.len()].copy_from_slice(rest);
            let last = (!rest.is_empty()).then_some(&last);
            for (pixels, secret) in wide.iter().chain(last).zip(&mut secrets) {
                let both = u128::from_le_bytes(*pixels);
                let (a, b) = (both as u64 & COLOURS, (both >> 64) as u64 & COLOURS);
                let product = |c: u64, d: u64| u128::from(a.wrapping_add(c)) * u128::from(b.wrapping_add(d));
                print[0] = print[0].wrapping_add(product(secret[0], secret[1]));
                print[1] = print[1].wrapping_add(product(secret[2], secret[3]));
            }
        }
        Content { width: place.width, height: place.height, print }
    }

    /// Has the client forget everything.
    pub(super) fn empty(&mut self, commands: &mut Vec<Command>) {
        for (_, entry) in self.entries.drain() {
            self.free.push(entry.slot);
            commands.push(Command::Evict { slot: entry.slot });
        }
        self.order.clear();
        self.bytes = 0;
    }

    /// Where the client has it; it counts as used.
    fn find(&mut self, content: &Content) -> Option<u16> {
        let entry = self.entries.get_mut(content)?;
        self.order.remove(&entry.used);
        self.count += 1;
        entry.used = self.count;
        self.order.insert(self.count, *content);
        Some(entry.slot)
    }

    /// A picture begins, which may take so many bytes. It fills no more than half of what the client keeps, so that the
    /// one before does not go for it, and no more than a part of what it may take names what is kept.
    fn begin(&mut self, budget: usize) {
        self.pixels_left = self.room.min(usize::from(SLOTS) * (TILE * TILE * 4) as usize) / 2;
        self.words_left = budget / KEEPING_PART;
    }

    /// Has the client keep what its surface shows there, unless it does so already; what was of no use for longest
    /// goes for that.
    fn keep(&mut self, content: Content, place: Rect, commands: &mut Vec<Command>) {
        let bytes = content.bytes();
        let Some(left) = self.pixels_left.checked_sub(bytes) else { return };
        self.pixels_left = left;
        if self.find(&content).is_some() {
            return;
        }
        let Some(left) = self.words_left.checked_sub(KEEPING) else { return };
        self.words_left = left;
        while self.bytes + bytes > self.room || self.free.is_empty() && self.fresh > SLOTS {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            let Some(entry) = self.entries.remove(&oldest) else { return };
            self.bytes -= oldest.bytes();
            self.free.push(entry.slot);
            commands.push(Command::Evict { slot: entry.slot });
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        });
        self.count += 1;
        self.bytes += bytes;
        self.order.insert(self.count, content);
        self.entries.insert(content, Entry { slot, used: self.count });
        commands.push(Command::Keep { place, slot, key: self.count });
    }
}

impl Surface {
    /// Paints the changed tiles that the client has kept, and takes them out of `dirty`.
    pub(super) fn recall(&mut self, new: Rows<'_>, budget: usize, now: Instant, commands: &mut Vec<Command>) {
        self.cache.begin(budget);
        if self.cache.entries.is_empty() {
            return;
        }
        let mut misses_left = MISSES;
        for tile in self.changed_tiles() {
            if self.dirty_changes(new, tile) < WORTH_FINDING {
                continue;
            }
            let content = self.cache.content(new, tile);
            let Some(slot) = self.cache.find(&content) else {
                if misses_left == 0 {
                    return;
                }
                misses_left -= 1;
                continue;
            };
            misses_left += MISSES_FOR_HIT;
            self.keep(tile, now, commands);
            commands.push(Command::Recall { slot, place: tile });
            pixels::copy(new, &mut self.mirror, tile);
            for (column, row) in self.dirty.touched(tile) {
                self.dirty.set(column, row, false);
            }
            self.inexact.exact(tile);
        }
    }

    /// Has the client keep the tiles with changes as its surface shows them now.
    pub(super) fn keep_replaced(&mut self, now: Instant, commands: &mut Vec<Command>) {
        if self.dirty.count() < FEW_SQUARES {
            return;
        }
        for tile in self.changed_tiles() {
            self.keep(tile, now, commands);
        }
    }

    fn keep(&mut self, place: Rect, now: Instant, commands: &mut Vec<Command>) {
        let tile = self.tiles[(place.y / TILE * self.width.div_ceil(TILE) + place.x / TILE) as usize];
        let restless = tile.changes >= RESTLESS_CHANGES
            && tile.changed.is_some_and(|changed| now.duration_since(changed) < RESTLESS);
        if self.blank || restless {
            return;
        }
        let shown = Rows { pixels: &self.mirror, stride: self.stride };
        let squares = || self.dirty.touched(place);
        let exact = squares().all(|(column, row)| !self.inexact.is_inexact(column, row));
        let changed = squares().filter(|(column, row)| self.dirty.get(*column, *row)).count();
        // Less than half of it: a letter was typed, or a line was written.
        let much = changed * 2 >= squares().count();
        if much && exact && self.dirty_changes(shown, place) >= WORTH_KEEPING {
            let content = self.cache.content(shown, place);
            self.cache.keep(content, place, commands);
        }
    }

    /// The tiles that may have changed, all over the picture from the first on. For changes of one extent the order is
    /// the same each time: of what is more than the client keeps, the part that is kept is looked for first.
    fn changed_tiles(&self) -> Vec<Rect> {
        let Some(bounds) = self.dirty.bounds() else { return Vec::new() };
        let (x, y) = (bounds.x / TILE * TILE, bounds.y / TILE * TILE);
        let right = (bounds.x + bounds.width).next_multiple_of(TILE).min(self.width);
        let bottom = (bounds.y + bounds.height).next_multiple_of(TILE).min(self.height);
        let tiles: Vec<Rect> =
            split(Rect { x, y, width: right - x, height: bottom - y }, TILE, TILE).collect();
        (0..ROUNDS).flat_map(|round| tiles.iter().skip(round).step_by(ROUNDS)).copied().collect()
    }

    /// How much there is in a tile's changed squares.
    fn dirty_changes(&self, picture: Rows<'_>, tile: Rect) -> u32 {
        let dirty = self.dirty.touched(tile).filter(|(column, row)| self.dirty.get(*column, *row));
        dirty.map(|(column, row)| pixels::changes(picture, self.dirty.rect(column, row))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_differs_by_any_bit_of_a_colour_and_by_the_size_and_by_nothing_else() {
        let cache = Cache::new(Room::Small);
        for (width, height) in [(64, 64), (61, 3), (1, 64), (7, 9)] {
            let stride = 70 * 4;
            let mut pixels: Vec<u8> = (0..stride * 70).map(|at| (at * at % 251) as u8).collect();
            let place = Rect { x: 3, y: 2, width, height };
            let print = |pixels: &[u8], place| cache.content(Rows { pixels, stride }, place);
            let first = print(&pixels, place);
            for y in 0..70 {
                for x in 0..70 {
                    let within =
                        (3..3 + width as usize).contains(&x) && (2..2 + height as usize).contains(&y);
                    for byte in 0..4 {
                        let at = y * stride + x * 4 + byte;
                        let bit = 1 << ((x + y) % 8);
                        pixels[at] ^= bit;
                        assert_eq!(print(&pixels, place) != first, within && byte < 3, "{x},{y} {byte}");
                        pixels[at] ^= bit;
                    }
                }
            }
            if width > 1 {
                assert_ne!(print(&pixels, Rect { width: width - 1, ..place }), first);
            }
            assert_ne!(print(&pixels, Rect { height: height - 1, ..place }), first);
            // Another client's fingerprints are others.
            assert_ne!(Cache::new(Room::Small).content(Rows { pixels: &pixels, stride }, place), first);
        }
    }

    #[test]
    fn equal_rows_that_change_places_have_another_fingerprint() {
        let cache = Cache::new(Room::Small);
        let stride = 64 * 4;
        let rows = |first: u8, second: u8| {
            let mut pixels = vec![7; stride * 64];
            pixels[..stride].fill(first);
            pixels[stride..2 * stride].fill(second);
            cache.content(Rows { pixels: &pixels, stride }, Rect { x: 0, y: 0, width: 64, height: 64 })
        };
        assert_ne!(rows(1, 2), rows(2, 1));
        assert_eq!(rows(1, 2), rows(1, 2));
    }
}
