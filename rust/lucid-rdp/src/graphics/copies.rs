//! Copies within the client's surface (`RDPGFX_SURFACE_TO_SURFACE`, MS-RDPEGFX 2.2.2.5) for what has moved.

use lucid_desktop::Rect;

use super::cells::{CELL, Cells};
use super::motion::{self, Distance, Rows};
use super::pixels;

/// A part of the surface that goes elsewhere; the two may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) from: Rect,
    pub(crate) to: (u32, u32),
}

impl Copy {
    pub(crate) fn target(&self) -> Rect {
        Rect { x: self.to.0, y: self.to.1, ..self.from }
    }
}

/// Fewer changed squares are encoded sooner than a move is found.
const MIN_CELLS: usize = 48;
/// A distance has to explain this many squares.
const MIN_MOVED: usize = 24;
/// Copies in a picture, at most.
const MAX_COPIES: usize = 48;

/// Finds what has moved from `mirror` (the client's surface) to `frame`, and takes it out of `dirty` as far as whole
/// squares are right after the copies, which are to be made in order ([`apply`]).
pub(crate) fn find(mirror: &[u8], frame: Rows<'_>, dirty: &mut Cells) -> Vec<Copy> {
    let mut copies = Vec::new();
    if dirty.count() < MIN_CELLS {
        return copies;
    }
    let Some(area) = dirty.bounds() else { return copies };
    let old = Rows { pixels: mirror, stride: frame.stride };
    // The likeliest first; what is flat fits every distance, so that comparing is dear.
    let mut best: Option<(Cells, Distance)> = None;
    for distance in motion::guess(old, frame, area) {
        let cells = moved(old, frame, dirty, distance);
        let count = cells.count();
        if best.as_ref().is_none_or(|(best, _)| best.count() < count) {
            best = Some((cells, distance));
        }
        if count * 4 >= dirty.count() * 3 {
            break;
        }
    }
    let Some((cells, distance)) = best.filter(|(cells, _)| cells.count() >= MIN_MOVED) else {
        return copies;
    };
    let mut targets: Vec<Rect> = with_unchanged(old, frame, dirty, &cells, distance)
        .rects()
        .into_iter()
        .filter(|r| cells.touched(*r).any(|(column, row)| cells.get(column, row)))
        .map(|r| grow(old, frame, dirty, r, distance))
        .collect();
    targets.sort_by_key(|r| std::cmp::Reverse(r.width * r.height));
    targets.truncate(MAX_COPIES);
    // As memmove does it: what lies ahead goes first.
    targets.sort_by_key(|r| {
        let (x, y) = (i64::from(r.x), i64::from(r.y));
        (if distance.1 > 0 { -y } else { y }, if distance.0 > 0 { -x } else { x })
    });
    for target in targets {
        let from = source(target, distance);
        // What an earlier copy has written over is not there to be copied any more.
        if copies.iter().any(|c: &Copy| overlap(c.target(), from)) {
            continue;
        }
        copies.push(Copy { from, to: (target.x, target.y) });
    }
    for copy in &copies {
        for (column, row) in cells.touched(copy.target()) {
            if cells.get(column, row) && contains(copy.target(), cells.rect(column, row)) {
                dirty.set(column, row, false);
            }
        }
    }
    copies
}

/// Where a target comes from; it is within the picture.
fn source(target: Rect, (dx, dy): Distance) -> Rect {
    Rect { x: target.x.wrapping_add_signed(-dx), y: target.y.wrapping_add_signed(-dy), ..target }
}

/// The dirty squares whose pixels were all found at this distance.
fn moved(old: Rows<'_>, new: Rows<'_>, dirty: &Cells, distance: Distance) -> Cells {
    let mut cells = dirty.clone();
    cells.clear();
    for (column, row) in dirty.marked() {
        if same(old, new, dirty.rect(column, row), distance) {
            cells.set(column, row, true);
        }
    }
    cells
}

/// The same squares, and those between them that are unchanged and would be right after the copy too: fewer and
/// larger rectangles.
fn with_unchanged(old: Rows<'_>, new: Rows<'_>, dirty: &Cells, moved: &Cells, distance: Distance) -> Cells {
    let mut cells = moved.clone();
    let Some(bounds) = moved.bounds() else { return cells };
    for (column, row) in moved.touched(bounds) {
        if !dirty.get(column, row) && same(old, new, dirty.rect(column, row), distance) {
            cells.set(column, row, true);
        }
    }
    cells
}

/// Whether the new pixels of `target` were in the old picture at this distance, all within the picture.
fn same(old: Rows<'_>, new: Rows<'_>, target: Rect, (dx, dy): Distance) -> bool {
    let (x, y) = (i64::from(target.x) - i64::from(dx), i64::from(target.y) - i64::from(dy));
    let (width, height) = ((old.stride / 4) as i64, (old.pixels.len() / old.stride) as i64);
    if x < 0 || y < 0 || x + i64::from(target.width) > width || y + i64::from(target.height) > height {
        return false;
    }
    let from = source(target, (dx, dy));
    (0..target.height).all(|row| pixels::row(old, from, row) == pixels::row(new, target, row))
}

/// Widens a target by single rows and columns into the squares around it.
fn grow(old: Rows<'_>, new: Rows<'_>, dirty: &Cells, start: Rect, distance: Distance) -> Rect {
    let mut r = start;
    // Not further than it has moved, so that it stays clear of what the next copy reads.
    let most = CELL.min(distance.0.unsigned_abs().max(distance.1.unsigned_abs()));
    let is_dirty = |r: Rect| dirty.touched(r).any(|(column, row)| dirty.get(column, row));
    let fits = |edge: Rect| is_dirty(edge) && same(old, new, edge, distance);
    let (right, bottom) = ((old.stride / 4) as u32, (old.pixels.len() / old.stride) as u32);
    for _ in 1..most {
        if r.y == 0 || !fits(Rect { y: r.y - 1, height: 1, ..r }) {
            break;
        }
        r = Rect { y: r.y - 1, height: r.height + 1, ..r };
    }
    for _ in 1..most {
        if r.y + r.height >= bottom || !fits(Rect { y: r.y + r.height, height: 1, ..r }) {
            break;
        }
        r.height += 1;
    }
    for _ in 1..most {
        if r.x == 0 || !fits(Rect { x: r.x - 1, width: 1, ..r }) {
            break;
        }
        r = Rect { x: r.x - 1, width: r.width + 1, ..r };
    }
    for _ in 1..most {
        if r.x + r.width >= right || !fits(Rect { x: r.x + r.width, width: 1, ..r }) {
            break;
        }
        r.width += 1;
    }
    r
}

/// Makes the copies.
pub(crate) fn apply(mirror: &mut [u8], stride: usize, copies: &[Copy]) {
    for copy in copies {
        let bytes = copy.from.width as usize * 4;
        let height = copy.from.height as usize;
        let (from_x, to_x) = (copy.from.x as usize * 4, copy.to.0 as usize * 4);
        for i in 0..height {
            // Downwards the last row goes first.
            let row = if copy.to.1 > copy.from.y { height - 1 - i } else { i };
            let from = (copy.from.y as usize + row) * stride + from_x;
            let to = (copy.to.1 as usize + row) * stride + to_x;
            mirror.copy_within(from..from + bytes, to);
        }
    }
}

fn overlap(a: Rect, b: Rect) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

fn contains(outer: Rect, inner: Rect) -> bool {
    outer.x <= inner.x
        && outer.y <= inner.y
        && outer.x + outer.width >= inner.x + inner.width
        && outer.y + outer.height >= inner.y + inner.height
}
