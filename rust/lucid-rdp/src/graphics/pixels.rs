//! Rectangles of pixels: rows, comparing, copying.

use lucid_desktop::Rect;

use super::clearcodec::Pixel;
use super::motion::Rows;

/// One row of a rectangle, counted from its top.
pub(crate) fn row<'a>(picture: Rows<'a>, rect: Rect, row: u32) -> &'a [u8] {
    let start = (rect.y + row) as usize * picture.stride + rect.x as usize * 4;
    &picture.pixels[start..start + rect.width as usize * 4]
}

/// Whether both pictures are the same there.
pub(crate) fn equal(a: Rows<'_>, b: Rows<'_>, rect: Rect) -> bool {
    (0..rect.height).all(|y| row(a, rect, y) == row(b, rect, y))
}

/// Takes a rectangle over from another picture with rows of the same length.
pub(crate) fn copy(from: Rows<'_>, to: &mut [u8], rect: Rect) {
    for y in 0..rect.height {
        let start = (rect.y + y) as usize * from.stride + rect.x as usize * 4;
        let bytes = rect.width as usize * 4;
        to[start..start + bytes].copy_from_slice(&from.pixels[start..start + bytes]);
    }
}

/// The smallest part of a rectangle outside of which both pictures are the same; none when they are all through.
pub(crate) fn trim(a: Rows<'_>, b: Rows<'_>, rect: Rect) -> Option<Rect> {
    let differs = |y: &u32| row(a, rect, *y) != row(b, rect, *y);
    let top = (0..rect.height).find(differs)?;
    let bottom = (top..rect.height).rev().find(differs).map_or(rect.height, |y| y + 1);
    let (mut left, mut right) = (rect.width as usize, 0);
    for y in top..bottom {
        let (a, b) = (row(a, rect, y).as_chunks::<4>().0, row(b, rect, y).as_chunks::<4>().0);
        let pairs = || a.iter().zip(b);
        left = left.min(pairs().take(left).position(|(a, b)| a != b).unwrap_or(left));
        let after = a.len() - right;
        right += pairs().skip(right).rev().take(after).position(|(a, b)| a != b).map_or(0, |at| after - at);
    }
    // Within the rectangle's width.
    let (left, right) = (left as u32, right as u32);
    Some(Rect { x: rect.x + left, y: rect.y + top, width: right - left, height: bottom - top })
}

/// The pixels of a rectangle, without gaps.
pub(crate) fn collect(picture: Rows<'_>, rect: Rect, out: &mut Vec<Pixel>) {
    out.clear();
    for y in 0..rect.height {
        let pixels = row(picture, rect, y).as_chunks::<4>().0;
        out.extend(pixels.iter().map(|pixel| colour(*pixel)));
    }
}

/// How often the colour changes from a pixel to the next within the rows of a rectangle and down its first column:
/// about as many runs as it has.
pub(crate) fn changes(picture: Rows<'_>, rect: Rect) -> u32 {
    let mut count = 0;
    let mut above = None;
    for y in 0..rect.height {
        let pixels = row(picture, rect, y).as_chunks::<4>().0;
        let pairs = pixels.iter().zip(pixels.iter().skip(1));
        count += pairs.map(|(a, b)| u32::from(colour(*a) != colour(*b))).sum::<u32>();
        let first = pixels.first().map(|pixel| colour(*pixel));
        count += u32::from(y > 0 && first != above);
        above = first;
    }
    count
}

/// The fourth byte has no meaning.
fn colour(pixel: [u8; 4]) -> Pixel {
    u32::from_le_bytes(pixel) & 0x00ff_ffff
}

/// Whether a rectangle has more than `limit` colours (at most 255).
pub(crate) fn has_more_colours(picture: Rows<'_>, rect: Rect, limit: usize, seen: &mut Vec<Pixel>) -> bool {
    // Open addressing; a slot is free where it holds NONE, which no colour is.
    const NONE: Pixel = u32::MAX;
    const SLOTS: usize = 1024;
    seen.clear();
    seen.resize(SLOTS, NONE);
    let mut count = 0;
    for y in 0..rect.height {
        let mut before = NONE;
        for pixel in row(picture, rect, y).as_chunks::<4>().0 {
            let colour = colour(*pixel);
            if colour == before {
                continue;
            }
            before = colour;
            let mut slot = (colour.wrapping_mul(0x9e37_79b1) >> 22) as usize;
            while seen[slot] != NONE && seen[slot] != colour {
                slot = (slot + 1) % SLOTS;
            }
            if seen[slot] == NONE {
                seen[slot] = colour;
                count += 1;
                if count > limit {
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_leaves_the_bounding_box_of_what_differs() {
        let (width, height) = (20u32, 12u32);
        let old = vec![0u8; (width * height * 4) as usize];
        let mut seed = 9u64;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) as u32) % below
        };
        let rect = Rect { x: 3, y: 2, width: 14, height: 9 };
        for _ in 0..500 {
            let mut new = old.clone();
            let mut bounds: Option<(u32, u32, u32, u32)> = None;
            for _ in 0..random(4) {
                let (x, y) = (random(width), random(height));
                new[((y * width + x) * 4 + 1) as usize] = 1;
                if (3..17).contains(&x) && (2..11).contains(&y) {
                    let (l, t, r, b) = bounds.unwrap_or((x, y, x, y));
                    bounds = Some((l.min(x), t.min(y), r.max(x), b.max(y)));
                }
            }
            let rows = |pixels| Rows { pixels, stride: width as usize * 4 };
            let expected =
                bounds.map(|(l, t, r, b)| Rect { x: l, y: t, width: r - l + 1, height: b - t + 1 });
            assert_eq!(trim(rows(&old), rows(&new), rect), expected);
        }
    }
}
