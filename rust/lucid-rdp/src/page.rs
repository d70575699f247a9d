//! A page in the place of the desktop, that its user has to read and answer, or that tells him why there is none. This host
//! paints it itself, opaque: nothing of the desktop is shown beside it, and nothing that runs there can hide or answer it.

use lucid_desktop::Rect;

use crate::notice::{LETTER, letters, wrap};

/// From the picture's edges, in pixels.
const MARGIN: usize = 16;
/// Letters in a line at most: longer ones are hard to read.
const LONGEST: usize = 78;
/// Colours as B, G, R, X.
const GROUND: [u8; 4] = [0x30, 0x20, 0x18, 0];
const INK: [u8; 4] = [0xf0, 0xf0, 0xf0, 0];
const TITLE: [u8; 4] = [0x60, 0xc8, 0xff, 0];
const BUTTON: [u8; 4] = [0x80, 0x58, 0x30, 0];

/// What is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// Paragraphs, one in a line.
    pub(crate) text: String,
    /// Whether there is something to answer.
    pub(crate) asks: bool,
    /// So many lines of the text are above the picture.
    pub(crate) above: usize,
}

/// Where things are on a page that was painted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Lines that are there to be scrolled away at most.
    pub(crate) most_above: usize,
    /// Lines that are seen at once.
    pub(crate) lines: usize,
    pub(crate) accept: Option<Rect>,
    pub(crate) decline: Option<Rect>,
}

const ACCEPT: &str = " Accept (Enter) ";
const DECLINE: &str = " Decline (Esc) ";
const MORE: &str = "More below: Page Down";

impl Page {
    /// Paints it over the whole picture (BGRX, `stride` bytes a row).
    pub(crate) fn draw(&self, width: u32, height: u32, stride: usize, pixels: &mut [u8]) -> Layout {
        let (wide, high) = (width as usize, height as usize);
        for row in pixels.chunks_mut(stride).take(high) {
            for pixel in row.chunks_exact_mut(4).take(wide) {
                pixel.copy_from_slice(&GROUND);
            }
        }
        let columns = (wide.saturating_sub(2 * MARGIN) / LETTER.0).clamp(1, LONGEST);
        let rows = high.saturating_sub(2 * MARGIN) / LETTER.1;
        let title = wrap(&self.title, columns);
        let mut text = Vec::new();
        for paragraph in self.text.lines() {
            let mut lines = wrap(paragraph, columns.saturating_sub(2).max(1)).into_iter();
            text.extend(lines.next().map(|line| format!("- {line}")));
            text.extend(lines.map(|line| format!("  {line}")));
        }
        // The title, an empty line, the text, an empty line, and what can be done.
        let below = if self.asks { 2 } else { 0 };
        let room = rows.saturating_sub(title.len() + 1 + below).max(1);
        let most_above = text.len().saturating_sub(room);
        let above = self.above.min(most_above);
        let left = (wide.saturating_sub(columns * LETTER.0)) / 2;
        let top = |row: usize| MARGIN + row * LETTER.1;
        let mut put = |row: usize, column: usize, line: &str, ink| {
            letters(line, (left + column * LETTER.0, top(row)), ink, (wide, high, stride), pixels);
        };
        for (row, line) in title.iter().enumerate() {
            put(row, 0, line, TITLE);
        }
        for (row, line) in text.iter().skip(above).take(room).enumerate() {
            put(title.len() + 1 + row, 0, line, INK);
        }
        let mut layout = Layout { most_above, lines: room, accept: None, decline: None };
        if self.asks {
            let row = rows.saturating_sub(1);
            if above < most_above {
                put(row, 0, MORE, TITLE);
                return layout;
            }
            layout.accept = button(ACCEPT, (left, top(row)), (wide, high, stride), pixels);
            // Beside it where there is room, and on the line above where there is none.
            let beside = ACCEPT.len() + 2;
            let place = if beside + DECLINE.len() <= columns {
                (left + beside * LETTER.0, top(row))
            } else {
                (left, top(row.saturating_sub(1)))
            };
            layout.decline = button(DECLINE, place, (wide, high, stride), pixels);
        }
        layout
    }
}

/// Paints a button with its words, as far as it is within the picture.
fn button(
    words: &str,
    (left, top): (usize, usize),
    (wide, high, stride): (usize, usize, usize),
    pixels: &mut [u8],
) -> Option<Rect> {
    let (right, bottom) = ((left + words.len() * LETTER.0).min(wide), (top + LETTER.1).min(high));
    for y in top..bottom {
        for pixel in pixels.get_mut(y * stride + left * 4..y * stride + right * 4)?.chunks_exact_mut(4) {
            pixel.copy_from_slice(&BUTTON);
        }
    }
    letters(words, (left, top), INK, (wide, high, stride), pixels);
    let side = |length: usize| u32::try_from(length).ok();
    let (width, height) = (right.checked_sub(left)?, bottom.checked_sub(top)?);
    Some(Rect { x: side(left)?, y: side(top)?, width: side(width)?, height: side(height)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(asks: bool, above: usize) -> Page {
        let text =
            (0..30).map(|line| format!("Sentence {line} says something about this session.\n")).collect();
        Page { title: "What this session may do".to_owned(), text, asks, above }
    }

    #[test]
    fn nothing_of_the_desktop_is_left_whatever_the_sizes() {
        for (width, height) in [(1, 1), (200, 200), (201, 203), (640, 480), (1920, 1080), (8192, 200)] {
            for page in [page(true, 0), page(true, usize::MAX), page(false, 3)] {
                let stride = width as usize * 4 + 16;
                let mut pixels = vec![7; stride * height as usize];
                let layout = page.draw(width, height, stride, &mut pixels);
                for (row, line) in pixels.chunks(stride).enumerate() {
                    for (column, pixel) in line.chunks(4).enumerate() {
                        let beyond = column >= width as usize;
                        assert_eq!(pixel == [7; 4], beyond, "{column},{row} of {width}x{height}");
                    }
                }
                for place in [layout.accept, layout.decline].into_iter().flatten() {
                    assert!(place.x + place.width <= width && place.y + place.height <= height);
                }
            }
        }
    }

    #[test]
    fn nobody_accepts_before_he_has_seen_the_end() {
        let mut pixels = vec![0; 640 * 480 * 4];
        let mut draw = |above| page(true, above).draw(640, 480, 640 * 4, &mut pixels);
        let first = draw(0);
        assert!(first.most_above > 0 && first.accept.is_none() && first.decline.is_none());
        let last = draw(first.most_above);
        assert!(last.accept.is_some() && last.decline.is_some());
        assert!(!last.accept.unwrap().overlaps(last.decline.unwrap()));
        let mut large = vec![0; 1920 * 1080 * 4];
        let whole = page(true, 0).draw(1920, 1080, 1920 * 4, &mut large);
        assert!(whole.most_above == 0 && whole.accept.is_some());
    }
}
