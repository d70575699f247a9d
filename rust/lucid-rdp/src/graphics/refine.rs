//! What the client shows only nearly right, since it came as H.264 or RemoteFX, and since when it has been still.

use std::time::{Duration, Instant};

use lucid_desktop::Rect;

use super::cells::Cells;
use super::copies::Copy;

/// A part that has not changed for so long is shown exactly.
const STILL: Duration = Duration::from_millis(300);

/// The squares that are not exact.
pub(crate) struct Inexact {
    cells: Cells,
    /// When each square was last painted so.
    since: Vec<Option<Instant>>,
}

impl Inexact {
    pub(crate) fn none(width: u32, height: u32) -> Inexact {
        let cells = Cells::none(width, height);
        let since = vec![None; (cells.columns() * cells.rows()) as usize];
        Inexact { cells, since }
    }

    fn index(&self, (column, row): (u32, u32)) -> usize {
        (row * self.cells.columns() + column) as usize
    }

    /// H.264 or RemoteFX was painted there.
    pub(crate) fn painted(&mut self, rect: Rect, now: Instant) {
        for (column, row) in self.cells.touched(rect) {
            self.cells.set(column, row, true);
            let index = self.index((column, row));
            self.since[index] = Some(now);
        }
    }

    /// Lossless pixels were painted there: squares that lie within are exact.
    pub(crate) fn exact(&mut self, rect: Rect) {
        for (column, row) in self.cells.touched(rect) {
            let cell = self.cells.rect(column, row);
            let within = cell.x >= rect.x
                && cell.y >= rect.y
                && cell.x + cell.width <= rect.x + rect.width
                && cell.y + cell.height <= rect.y + rect.height;
            if within {
                self.cells.set(column, row, false);
            }
        }
    }

    /// A part was copied, with its faults. Copies that were made together have to come together, as what they say of
    /// the squares is that of before.
    pub(crate) fn copied(&mut self, copies: &[Copy], now: Instant) {
        if self.cells.is_empty() {
            return;
        }
        let before = self.cells.clone();
        for copy in copies {
            for (column, row) in self.cells.touched(copy.target()) {
                let cell = self.cells.rect(column, row);
                // The part of the square that was written, and where that came from.
                let (x, y) = (cell.x.max(copy.to.0), cell.y.max(copy.to.1));
                let target = copy.target();
                let right = (cell.x + cell.width).min(target.x + target.width);
                let bottom = (cell.y + cell.height).min(target.y + target.height);
                let from = Rect {
                    x: x - copy.to.0 + copy.from.x,
                    y: y - copy.to.1 + copy.from.y,
                    width: right - x,
                    height: bottom - y,
                };
                if before.touched(from).any(|(column, row)| before.get(column, row)) {
                    self.painted(Rect { x, y, width: right - x, height: bottom - y }, now);
                } else {
                    self.exact(Rect { x, y, width: right - x, height: bottom - y });
                }
            }
        }
    }

    /// Everything is unknown to the client: it gets it anew.
    pub(crate) fn clear(&mut self) {
        self.cells.clear();
    }

    /// Whether all is exact.
    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The squares that are not exact, as `(column, row)`.
    pub(crate) fn marked(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.cells.marked()
    }

    /// Whether a square is not exact.
    pub(crate) fn is_inexact(&self, column: u32, row: u32) -> bool {
        self.cells.get(column, row)
    }

    /// Whether H.264 was painted there lately.
    pub(crate) fn is_moving(&self, column: u32, row: u32, now: Instant) -> bool {
        self.cells.get(column, row)
            && self.since[self.index((column, row))].is_some_and(|since| now.duration_since(since) < STILL)
    }

    /// The inexact squares that have been still for long enough.
    pub(crate) fn still(&self, now: Instant) -> Vec<(u32, u32)> {
        self.cells.marked().filter(|(column, row)| !self.is_moving(*column, *row, now)).collect()
    }

    /// The same as rectangles.
    pub(crate) fn still_parts(&self, now: Instant) -> Vec<Rect> {
        let mut still = self.cells.clone();
        still.clear();
        self.still(now).into_iter().for_each(|(column, row)| still.set(column, row, true));
        still.rects()
    }

    /// How long until the first inexact square has been still for long enough; `None` when all are exact.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        self.cells
            .marked()
            .map(|cell| {
                let since = self.since[self.index(cell)].unwrap_or(now);
                STILL.saturating_sub(now.duration_since(since))
            })
            .min()
    }
}
