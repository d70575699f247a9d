//! Parts of a picture.

use lucid_desktop::{Frame, Rect};

/// Cuts a rectangle into pieces of at most `width` by `height`.
pub(crate) fn split(rect: Rect, width: u32, height: u32) -> impl Iterator<Item = Rect> {
    let columns = rect.width.div_ceil(width);
    let rows = rect.height.div_ceil(height);
    (0..rows).flat_map(move |row| {
        (0..columns).map(move |column| Rect {
            x: rect.x + column * width,
            y: rect.y + row * height,
            width: width.min(rect.width - column * width),
            height: height.min(rect.height - row * height),
        })
    })
}

/// Copies a rectangle of the frame, row after row, without gaps.
pub(crate) fn cut(frame: &Frame<'_>, place: Rect, out: &mut Vec<u8>) {
    out.clear();
    let (x, width) = (place.x as usize * 4, place.width as usize * 4);
    for y in place.y..place.y + place.height {
        let start = y as usize * frame.stride + x;
        out.extend_from_slice(&frame.pixels[start..start + width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_rectangle_once_and_nothing_else() {
        for (w, h) in [(1, 1), (64, 64), (65, 63), (300, 130)] {
            let rect = Rect { x: 5, y: 7, width: w, height: h };
            let mut seen = vec![0u8; 400 * 400];
            for piece in split(rect, 64, 64) {
                assert!(piece.width <= 64 && piece.height <= 64 && piece.width > 0 && piece.height > 0);
                for y in piece.y..piece.y + piece.height {
                    for x in piece.x..piece.x + piece.width {
                        seen[(y * 400 + x) as usize] += 1;
                    }
                }
            }
            for y in 0..400 {
                for x in 0..400 {
                    let inside = (5..5 + w).contains(&x) && (7..7 + h).contains(&y);
                    assert_eq!(seen[(y * 400 + x) as usize], u8::from(inside), "{x},{y} of {w}x{h}");
                }
            }
        }
    }
}
