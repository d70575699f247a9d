//! Finds by what distance a part of the picture has moved: scrolled text, a dragged window.
//!
//! Some places of the old picture that are rich in detail are remembered by the hashes of short rows of pixels
//! (anchors); a sweep over every few rows of the new picture, with a rolling hash, finds them again wherever they
//! went, and every find votes for a distance. The answer is a guess: whoever uses it compares the pixels.

use std::collections::HashMap;

use lucid_desktop::Rect;

/// Pixels of an anchor's row.
const LENGTH: usize = 32;
/// Rows of an anchor, all remembered; the sweep looks at every [`STEP`]th row and so meets some of them.
const ROWS: usize = 16;
const STEP: usize = 8;
/// Anchors are spread over the area in so many columns and rows.
const GRID: (usize, usize) = (6, 6);
/// Places that are tried for each anchor.
const TRIES: usize = 6;
/// Changes of colour within a row that make it worth remembering.
const DETAIL: usize = 4;
/// Votes below this are chance.
const MIN_VOTES: u32 = 3;
/// Finds after which the sweep ends: a pattern that repeats everywhere says nothing more.
const MAX_FINDS: usize = 20_000;
/// Distances that are handed on.
const CANDIDATES: usize = 3;

/// The base of the rolling hash; odd.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// To the right and down, in pixels.
pub(crate) type Distance = (i32, i32);

/// A picture's pixels as rows of BGRX.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) pixels: &'a [u8],
    pub(crate) stride: usize,
}

impl Rows<'_> {
    fn row(&self, x: usize, y: usize, width: usize) -> &[[u8; 4]] {
        self.pixels[y * self.stride + x * 4..][..width * 4].as_chunks().0
    }
}

/// The likeliest distances by which something within `area` moved from the old picture to the new one.
pub(crate) fn guess(old: Rows<'_>, new: Rows<'_>, area: Rect) -> Vec<Distance> {
    let (left, top) = (area.x as usize, area.y as usize);
    let (width, height) = (area.width as usize, area.height as usize);
    if width < LENGTH || height < ROWS {
        return Vec::new();
    }
    let anchors = Anchors::choose(old, new, (left, top), (width, height));
    if anchors.table.is_empty() {
        return Vec::new();
    }
    let mut votes: HashMap<Distance, u32> = HashMap::new();
    let mut finds = 0;
    for y in (top..top + height).step_by(STEP) {
        let row = new.row(left, y, width);
        let mut hash = row[..LENGTH].iter().fold(0, |hash, pixel| push(hash, *pixel));
        for x in 0.. {
            if anchors.may_have(hash)
                && let Some(places) = anchors.table.get(&hash)
            {
                for (from_x, from_y) in places {
                    // Pictures are at most 8192 pixels wide and high.
                    let distance = ((left + x) as i32 - *from_x as i32, y as i32 - *from_y as i32);
                    if distance != (0, 0) {
                        *votes.entry(distance).or_default() += 1;
                        finds += 1;
                    }
                }
            }
            let Some(next) = row.get(x + LENGTH) else { break };
            hash = push(hash.wrapping_sub(value(row[x]).wrapping_mul(anchors.leaving)), *next);
        }
        if finds > MAX_FINDS {
            break;
        }
    }
    let mut best: Vec<_> = votes.into_iter().filter(|(_, votes)| *votes >= MIN_VOTES).collect();
    best.sort_by_key(|((x, y), votes)| (std::cmp::Reverse(*votes), x.unsigned_abs() + y.unsigned_abs()));
    best.truncate(CANDIDATES);
    best.into_iter().map(|(distance, _)| distance).collect()
}

fn value(pixel: [u8; 4]) -> u64 {
    // The fourth byte has no meaning.
    u64::from(u32::from_le_bytes(pixel) & 0x00ff_ffff) + 1
}

fn push(hash: u64, pixel: [u8; 4]) -> u64 {
    hash.wrapping_mul(BASE).wrapping_add(value(pixel))
}

struct Anchors {
    /// Hash of a row to where it was.
    table: HashMap<u64, Vec<(u32, u32)>>,
    /// One bit for each value of the hash's highest 16 bits that is in the table.
    filter: Vec<u64>,
    /// What a pixel's value has been multiplied with when it leaves the window.
    leaving: u64,
}

impl Anchors {
    fn choose(
        old: Rows<'_>,
        new: Rows<'_>,
        (left, top): (usize, usize),
        (width, height): (usize, usize),
    ) -> Anchors {
        let leaving = (1..LENGTH).fold(1, |power: u64, _| power.wrapping_mul(BASE));
        let mut anchors = Anchors { table: HashMap::new(), filter: vec![0; 1024], leaving };
        let (cell_width, cell_height) = (width / GRID.0, height / GRID.1);
        for cell in 0..GRID.0 * GRID.1 {
            let (cell_x, cell_y) = (cell % GRID.0 * cell_width, cell / GRID.0 * cell_height);
            let place = |at: usize| {
                // Spread along the diagonals of the cell.
                let x = cell_x + cell_width * at / TRIES;
                let y = cell_y + cell_height * (at * 5 % TRIES) / TRIES;
                (left + x.min(width - LENGTH), top + y.min(height - ROWS))
            };
            let worth = |(x, y): (usize, usize)| {
                let rows = y..y + ROWS;
                rows.filter(|y| is_rich(old, new, x, *y)).count()
            };
            let best =
                (0..TRIES).map(place).map(|place| (worth(place), place)).max_by_key(|(worth, _)| *worth);
            if let Some((1.., place)) = best {
                anchors.remember(old, new, place);
            }
        }
        anchors
    }

    fn remember(&mut self, old: Rows<'_>, new: Rows<'_>, (x, top): (usize, usize)) {
        for y in (top..top + ROWS).filter(|y| is_rich(old, new, x, *y)) {
            let hash = old.row(x, y, LENGTH).iter().fold(0, |hash, pixel| push(hash, *pixel));
            let places = self.table.entry(hash).or_default();
            if places.len() < 4 {
                places.push((x as u32, y as u32));
            }
            self.filter[(hash >> 58) as usize * 16 + (hash >> 54 & 15) as usize] |= 1 << (hash >> 48 & 63);
        }
    }

    fn may_have(&self, hash: u64) -> bool {
        self.filter[(hash >> 54) as usize] >> (hash >> 48 & 63) & 1 == 1
    }
}

/// Whether the old row has detail, and the new picture has something else at its place.
fn is_rich(old: Rows<'_>, new: Rows<'_>, x: usize, y: usize) -> bool {
    let row = old.row(x, y, LENGTH);
    row.windows(2).filter(|pair| pair[0] != pair[1]).count() >= DETAIL && row != new.row(x, y, LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 640;
    const HEIGHT: usize = 480;

    /// Lines of something like text.
    fn text(seed: usize) -> Vec<u8> {
        let mut pixels = vec![0x20; WIDTH * HEIGHT * 4];
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let glyph = fold((y / 20 * 1000 + x / 9 + seed * 1_000_000) as u64);
                if y % 20 > 4 && x % 9 > 0 && glyph >> ((x % 9 + y % 20 * 8) % 29) & 1 == 1 {
                    pixels[(y * WIDTH + x) * 4..][..4].fill(0xd0);
                }
            }
        }
        pixels
    }

    fn fold(value: u64) -> u64 {
        let product = u128::from(value + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        (product >> 64) as u64 ^ product as u64
    }

    fn rows(pixels: &[u8]) -> Rows<'_> {
        Rows { pixels, stride: WIDTH * 4 }
    }

    #[test]
    fn a_moved_part_is_found_in_every_direction() {
        let old = text(0);
        for (dx, dy) in [(0, -20), (0, 7), (0, -110), (33, 0), (-5, 11), (61, -40), (-120, -90), (1, 1)] {
            // A window of 300 by 220 on another background moves.
            let (x, y) = (160usize, 130usize);
            let mut before = text(7);
            let mut after = text(7);
            for row in 0..220 {
                let content = &old[((row + 40) * WIDTH + 50) * 4..][..300 * 4];
                before[((y + row) * WIDTH + x) * 4..][..300 * 4].copy_from_slice(content);
                let to_y = ((y + row) as i32 + dy) as usize;
                let to = to_y * WIDTH + (x as i32 + dx) as usize;
                after[to * 4..][..300 * 4].copy_from_slice(content);
            }
            let area = Rect { x: 0, y: 0, width: WIDTH as u32, height: HEIGHT as u32 };
            assert_eq!(guess(rows(&before), rows(&after), area).first(), Some(&(dx, dy)));
        }
    }

    #[test]
    fn nothing_is_found_in_flat_colours_or_in_areas_too_small() {
        let (old, new) = (vec![1; WIDTH * HEIGHT * 4], vec![2; WIDTH * HEIGHT * 4]);
        for (width, height) in [(640, 480), (31, 480), (640, 15), (1, 1)] {
            let area = Rect { x: 0, y: 0, width, height };
            assert!(guess(rows(&old), rows(&new), area).is_empty());
        }
    }
}
