//! A picture cut into squares, each marked or not.

use lucid_desktop::Rect;

/// The edge of a square in pixels: a macroblock of H.264.
pub(crate) const CELL: u32 = 16;

/// Marks on the squares of a picture.
#[derive(Clone, Debug)]
pub(crate) struct Cells {
    width: u32,
    height: u32,
    columns: u32,
    marks: Vec<bool>,
    count: usize,
}

impl Cells {
    /// No square of the picture is marked.
    pub(crate) fn none(width: u32, height: u32) -> Cells {
        let (columns, rows) = (width.div_ceil(CELL), height.div_ceil(CELL));
        Cells { width, height, columns, marks: vec![false; (columns * rows) as usize], count: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.marks.fill(false);
        self.count = 0;
    }

    /// How many are marked.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn columns(&self) -> u32 {
        self.columns
    }

    pub(crate) fn rows(&self) -> u32 {
        self.height.div_ceil(CELL)
    }

    pub(crate) fn get(&self, column: u32, row: u32) -> bool {
        self.marks[(row * self.columns + column) as usize]
    }

    pub(crate) fn set(&mut self, column: u32, row: u32, mark: bool) {
        let slot = &mut self.marks[(row * self.columns + column) as usize];
        self.count = self.count + usize::from(mark) - usize::from(*slot);
        *slot = mark;
    }

    /// The square's pixels; those at the right and at the bottom may be cut.
    pub(crate) fn rect(&self, column: u32, row: u32) -> Rect {
        let (x, y) = (column * CELL, row * CELL);
        Rect { x, y, width: CELL.min(self.width - x), height: CELL.min(self.height - y) }
    }

    /// The squares that a rectangle touches, as `(column, row)`.
    pub(crate) fn touched(&self, rect: Rect) -> impl Iterator<Item = (u32, u32)> + use<> {
        let right = (rect.x + rect.width).min(self.width).div_ceil(CELL);
        let bottom = (rect.y + rect.height).min(self.height).div_ceil(CELL);
        let left = rect.x / CELL;
        (rect.y / CELL..bottom).flat_map(move |row| (left..right).map(move |column| (column, row)))
    }

    /// The marked squares.
    pub(crate) fn marked(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let columns = self.columns;
        let at = move |index: usize| (index as u32 % columns, index as u32 / columns);
        self.marks.iter().enumerate().filter(|(_, mark)| **mark).map(move |(index, _)| at(index))
    }

    /// The smallest rectangle around all marked squares.
    pub(crate) fn bounds(&self) -> Option<Rect> {
        let mut bounds: Option<(u32, u32, u32, u32)> = None;
        for (column, row) in self.marked() {
            let (left, top, right, bottom) = bounds.unwrap_or((column, row, column, row));
            bounds = Some((left.min(column), top.min(row), right.max(column), bottom.max(row)));
        }
        let (left, top, right, bottom) = bounds?;
        let last = self.rect(right, bottom);
        let (x, y) = (left * CELL, top * CELL);
        Some(Rect { x, y, width: last.x + last.width - x, height: last.y + last.height - y })
    }

    /// Rectangles that cover the marked squares, each once, and nothing else: runs of a row, joined with the rows
    /// below that have the same run.
    pub(crate) fn rects(&self) -> Vec<Rect> {
        let mut done: Vec<Rect> = Vec::new();
        // Those that may still grow downwards.
        let mut open: Vec<Rect> = Vec::new();
        for row in 0..self.rows() {
            let mut next = Vec::new();
            let mut column = 0;
            while column < self.columns {
                if !self.get(column, row) {
                    column += 1;
                    continue;
                }
                let first = self.rect(column, row);
                let mut width = 0;
                while column < self.columns && self.get(column, row) {
                    width += self.rect(column, row).width;
                    column += 1;
                }
                match open.iter().position(|r| r.x == first.x && r.width == width) {
                    Some(at) => {
                        let above = open.swap_remove(at);
                        next.push(Rect { height: above.height + first.height, ..above });
                    }
                    None => next.push(Rect { width, ..first }),
                }
            }
            done.append(&mut open);
            open = next;
        }
        done.append(&mut open);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_cover_every_marked_square_once_and_nothing_else() {
        let mut seed = 5u64;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) as u32) % below
        };
        for _ in 0..200 {
            let (width, height) = (1 + random(200), 1 + random(200));
            let mut cells = Cells::none(width, height);
            for _ in 0..random(60) {
                let (column, row) = (random(cells.columns()), random(cells.rows()));
                cells.set(column, row, random(4) > 0);
            }
            let mut seen = vec![0u8; (width * height) as usize];
            for r in cells.rects() {
                for y in r.y..r.y + r.height {
                    for x in r.x..r.x + r.width {
                        seen[(y * width + x) as usize] += 1;
                    }
                }
            }
            for y in 0..height {
                for x in 0..width {
                    let marked = cells.get(x / CELL, y / CELL);
                    assert_eq!(seen[(y * width + x) as usize], u8::from(marked));
                }
            }
            assert_eq!(cells.count(), cells.marked().count());
            let bounds = cells.bounds();
            assert_eq!(bounds.is_none(), cells.is_empty());
            for (column, row) in cells.marked() {
                let (inner, outer) = (cells.rect(column, row), bounds.unwrap());
                assert!(inner.x >= outer.x && inner.x + inner.width <= outer.x + outer.width);
                assert!(inner.y >= outer.y && inner.y + inner.height <= outer.y + outer.height);
            }
        }
    }
}
