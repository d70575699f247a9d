//! The pointer's shape, read off the picture.
//!
//! No compositor of wlroots 0.18 says which shape the pointer has, and its headless outputs know software cursors
//! alone: the pointer is always part of the picture. So desktops get a cursor theme of Lucid's own, whose images are
//! no drawings but **codes**: a few pixels in two colours that tell which shape is meant. Whoever sets a shape by its
//! name (the compositor, cursor-shape-v1, a program that loads the theme) thereby writes it into the picture, at the
//! pointer's place, where it is read and taken out again. What remains is a picture without a pointer, and the shape's
//! name, which the client of the desktop draws itself.
//!
//! A program that draws a pointer of its own, or none, leaves no code: then the pointer is [`Pointer::Picture`], and
//! what the program drew stays in the picture.

mod shape;

pub use shape::Shape;

use crate::Rect;

/// What the pointer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pointer {
    /// A shape of the theme; the picture does not show it.
    Shape(Shape),
    /// The program has drawn a pointer into the picture, or hides it.
    Picture,
}

/// Width and height of a code at its usual size; the upper half has one colour, the lower half another.
pub const CODE_SIDE: u32 = 6;
/// The largest side of a code in a picture (images for outputs at 500 % are 10 wide), with a pixel for rounding.
pub(crate) const MAX_CODE_SIDE: u32 = 11;
/// The hotspot is the code's upper left corner; rounding puts it up to so many pixels beside the pointer's place.
const SLACK: u32 = 2;

/// The two colours of a shape's code as `0xRRGGBB`, upper half first.
#[must_use]
pub fn code(shape: Shape) -> [u32; 2] {
    let upper = 0xc1_003e | u32::from(shape.number()) << 8;
    [upper, !upper & 0xff_ffff]
}

/// The shape whose upper half has that colour.
fn by_upper(pixel: u32) -> Option<Shape> {
    if pixel & 0xff_00ff != 0xc1_003e {
        return None;
    }
    Shape::by_number((pixel >> 8 & 0xff) as u8)
}

/// A piece of a picture: BGRX pixels, row after row.
pub(crate) struct Piece<'a> {
    pub(crate) place: Rect,
    pub(crate) pixels: &'a [u8],
}

impl Piece<'_> {
    /// The pixel as `0xRRGGBB`.
    fn pixel(&self, x: u32, y: u32) -> Option<u32> {
        if x >= self.place.width || y >= self.place.height {
            return None;
        }
        let at = (y as usize * self.place.width as usize + x as usize) * 4;
        let bytes = self.pixels.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) & 0xff_ffff)
    }

    /// The first code that is wholly in the piece, and the rectangle that it covers (in the picture).
    pub(crate) fn find(&self) -> Option<(Shape, Rect)> {
        for y in 0..self.place.height {
            let row = y as usize * self.place.width as usize * 4;
            let row = self.pixels.get(row..row + self.place.width as usize * 4)?;
            let (pixels, _) = row.as_chunks::<4>();
            for (x, pixel) in (0..).zip(pixels) {
                if pixel[2] == 0xc1
                    && pixel[0] == 0x3e
                    && let Some(shape) = by_upper(u32::from_le_bytes(*pixel) & 0xff_ffff)
                    && let Some(found) = self.code_at(shape, x, y)
                {
                    return Some((shape, found));
                }
            }
        }
        None
    }

    /// Whether a pixel has one of the colours of a shape's code.
    pub(crate) fn shows_part(&self, shape: Shape) -> bool {
        let colours = code(shape);
        let (pixels, _) = self.pixels.as_chunks::<4>();
        pixels.iter().any(|pixel| colours.contains(&(u32::from_le_bytes(*pixel) & 0xff_ffff)))
    }

    /// The extent of a code whose first pixel of the pure upper colour is at that place. Scaling blends a pixel at
    /// each edge, which belongs to the code as well.
    fn code_at(&self, shape: Shape, left: u32, top: u32) -> Option<Rect> {
        let [upper, lower] = code(shape);
        let run = |colour: u32, mut x: u32, mut y: u32, right: bool| {
            let mut length = 0;
            while length <= MAX_CODE_SIDE && self.pixel(x, y) == Some(colour) {
                length += 1;
                if right { x += 1 } else { y += 1 }
            }
            length
        };
        let width = run(upper, left, top, true);
        let height = run(upper, left, top, false);
        // Between the halves a blended row may lie.
        let second = (height..=height + 1).find(|dy| self.pixel(left, top + dy) == Some(lower))?;
        let below = run(lower, left, top + second, false);
        if !(2..=MAX_CODE_SIDE).contains(&width) || below == 0 || second + below > MAX_CODE_SIDE {
            return None;
        }
        // One more on each side, where scaling may have blended.
        let exact = width == second + below && width.is_multiple_of(2);
        let margin = u32::from(!exact);
        let x = (self.place.x + left).saturating_sub(margin);
        let y = (self.place.y + top).saturating_sub(margin);
        let right = self.place.x + left + width + margin;
        let bottom = self.place.y + top + second + below + margin;
        Some(Rect { x, y, width: right - x, height: bottom - y })
    }
}

/// Where a code may be when the pointer was put to that place.
pub(crate) fn surroundings((x, y): (u32, u32), picture: (u32, u32)) -> Option<Rect> {
    surroundings_beside((i32::try_from(x).ok()?, i32::try_from(y).ok()?), picture)
}

/// The same for a place that may be outside of the picture.
pub(crate) fn surroundings_beside((x, y): (i32, i32), picture: (u32, u32)) -> Option<Rect> {
    let reach = i32::try_from(SLACK + MAX_CODE_SIDE + SLACK + 1).ok()?;
    let slack = i32::try_from(SLACK).ok()?;
    crate::damage::clip(x - slack, y - slack, reach, reach, picture)
}

/// What holds every code that touches a rectangle of the picture, and a pixel more.
pub(crate) fn reach(rect: Rect, picture: (u32, u32)) -> Option<Rect> {
    let reach = i32::try_from(MAX_CODE_SIDE + SLACK + 1).ok()?;
    let int = |v: u32| i32::try_from(v).ok();
    crate::damage::clip(
        int(rect.x)? - reach,
        int(rect.y)? - reach,
        int(rect.width)? + 2 * reach,
        int(rect.height)? + 2 * reach,
        picture,
    )
}

/// Whether what was found in a piece of the picture may go on outside of it.
pub(crate) fn is_cut_by(found: Rect, piece: Rect, (width, height): (u32, u32)) -> bool {
    let (right, bottom) = (found.x + found.width, found.y + found.height);
    let (piece_right, piece_bottom) = (piece.x + piece.width, piece.y + piece.height);
    (found.x <= piece.x && piece.x > 0)
        || (found.y <= piece.y && piece.y > 0)
        || (right >= piece_right && piece_right < width)
        || (bottom >= piece_bottom && piece_bottom < height)
}

/// Whether a code at that place is cut by the picture's edge, so that it cannot be read.
pub(crate) fn is_cut((x, y): (u32, u32), (width, height): (u32, u32)) -> bool {
    x + MAX_CODE_SIDE + SLACK >= width || y + MAX_CODE_SIDE + SLACK >= height
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with a code in it.
    fn picture(shape: Shape, at: (u32, u32), side: u32) -> Vec<u8> {
        let mut pixels = vec![0x77; 40 * 30 * 4];
        let [upper, lower] = code(shape);
        for dy in 0..side {
            for dx in 0..side {
                let colour = if dy < side / 2 { upper } else { lower };
                let at = (((at.1 + dy) * 40 + at.0 + dx) * 4) as usize;
                pixels[at..at + 4].copy_from_slice(&(colour | 0x5500_0000).to_le_bytes());
            }
        }
        pixels
    }

    #[test]
    fn every_shape_is_read_back_at_every_size_with_its_extent() {
        let place = Rect { x: 100, y: 200, width: 40, height: 30 };
        for shape in Shape::ALL {
            for side in [6, 8, 10] {
                let pixels = picture(shape, (3, 4), side);
                let found = Piece { place, pixels: &pixels }.find();
                assert_eq!(found, Some((shape, Rect { x: 103, y: 204, width: side, height: side })));
            }
        }
    }

    #[test]
    fn a_lone_colour_or_a_cut_code_is_no_code() {
        let place = Rect { x: 0, y: 0, width: 40, height: 30 };
        let [upper, _] = code(Shape::TEXT);
        let flat = upper.to_le_bytes().repeat(40 * 30);
        assert_eq!(Piece { place, pixels: &flat }.find(), None);
        assert_eq!(Piece { place, pixels: &[] }.find(), None);
    }

    #[test]
    fn whatever_the_picture_holds_finding_ends_within_it() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u32
        };
        let colours: Vec<u32> = Shape::ALL.iter().take(2).flat_map(|s| code(*s)).collect();
        for _ in 0..2000 {
            let (width, height) = (1 + random() % 20, 1 + random() % 20);
            let place = Rect { x: random() % 5, y: random() % 5, width, height };
            let pixels: Vec<u8> = (0..width * height)
                .flat_map(|_| colours[random() as usize % colours.len()].to_le_bytes())
                .collect();
            if let Some((_, r)) = (Piece { place, pixels: &pixels }).find() {
                assert!(r.width > 0 && r.height > 0 && r.width <= 14 && r.height <= 14);
            }
        }
    }
}
