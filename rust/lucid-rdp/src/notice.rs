//! A notice over the desktop. This host paints it into the picture itself: it shows with every client, and nothing
//! that runs on the desktop can hide it.

use lucid_desktop::Rect;
use spleen_font::{FONT_12X24, PSF2Font};

/// A letter's size in pixels.
pub(crate) const LETTER: (usize, usize) = (12, 24);
/// Letters in a line at most.
const LINE: usize = 64;
/// Lines of text at most; what does not fit is cut.
const LINES: usize = 5;
const MARGIN: usize = 20;
/// Colours as B, G, R, X: dark amber ground, light letters, a brighter edge.
const GROUND: [u8; 4] = [0x10, 0x30, 0x50, 0];
const EDGE: [u8; 4] = [0x30, 0xa0, 0xf0, 0];
const INK: [u8; 4] = [0xf0, 0xf4, 0xff, 0];

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) title: String,
    pub(crate) text: String,
}

impl Notice {
    /// Paints it into a picture (BGRX, `stride` bytes a row), at the top in the middle; returns where.
    pub(crate) fn draw(&self, width: u32, height: u32, stride: usize, pixels: &mut [u8]) -> Option<Rect> {
        let (width, height) = (width as usize, height as usize);
        let columns = (width.saturating_sub(2 * MARGIN + 8) / LETTER.0).min(LINE);
        if columns == 0 {
            return None;
        }
        let mut lines = wrap(&self.title, columns);
        lines.extend(wrap(&self.text, columns));
        lines.truncate(LINES);
        let longest = lines.iter().map(|l| l.chars().count()).max()?;
        let box_width = longest * LETTER.0 + 2 * MARGIN;
        let box_height = (lines.len() * LETTER.1 + 2 * MARGIN).min(height);
        let left = (width - box_width) / 2;
        let mut set = |x: usize, y: usize, colour: [u8; 4]| {
            let at = y * stride + x * 4;
            if y < height
                && x < width
                && let Some(pixel) = pixels.get_mut(at..at + 4)
            {
                pixel.copy_from_slice(&colour);
            }
        };
        for y in 0..box_height {
            for x in 0..box_width {
                let edge = x < 2 || x >= box_width - 2 || y >= box_height - 2;
                set(left + x, y, if edge { EDGE } else { GROUND });
            }
        }
        for (row, line) in lines.iter().enumerate() {
            let place = (left + MARGIN, MARGIN + row * LETTER.1);
            letters(line, place, INK, (width, height, stride), pixels);
        }
        let side = |v: usize| u32::try_from(v).ok();
        Some(Rect { x: side(left)?, y: 0, width: side(box_width)?, height: side(box_height)? })
    }
}

/// Paints letters into a picture of so many pixels (BGRX, rows of so many bytes), from a place on.
pub(crate) fn letters(
    text: &str,
    (left, top): (usize, usize),
    ink: [u8; 4],
    (width, height, stride): (usize, usize, usize),
    pixels: &mut [u8],
) {
    let Ok(mut font) = PSF2Font::new(FONT_12X24) else { return };
    for (column, letter) in text.chars().enumerate() {
        let mut utf8 = [0; 4];
        let known = font.glyph_for_utf8(letter.encode_utf8(&mut utf8).as_bytes()).is_some();
        let letter = if known { letter.encode_utf8(&mut utf8).as_bytes() } else { b"?" };
        let Some(glyph) = font.glyph_for_utf8(letter) else { continue };
        for (y, dots) in glyph.enumerate().take(LETTER.1) {
            for (x, _) in dots.enumerate().take(LETTER.0).filter(|(_, on)| *on) {
                let (x, y) = (left + column * LETTER.0 + x, top + y);
                let at = y * stride + x * 4;
                if x < width
                    && y < height
                    && let Some(pixel) = pixels.get_mut(at..at + 4)
                {
                    pixel.copy_from_slice(&ink);
                }
            }
        }
    }
}

/// Breaks a text into lines at spaces; a word that is longer than a line is broken.
pub(crate) fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > 0 && used + 1 + word.len() > letters {
            lines.push(std::mem::take(&mut line));
        }
        while word.len() > letters {
            lines.push(word.drain(..letters).collect());
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_the_picture_whatever_the_sizes() {
        for (width, height) in [(200, 200), (201, 203), (1280, 720), (8192, 200)] {
            for text in ["", "a", &"word ".repeat(60), &"x".repeat(500), "ä€\u{1f600}"] {
                let notice = Notice { title: "This session ends in 60 s".into(), text: text.into() };
                let stride = width as usize * 4 + 16;
                let mut pixels = vec![7; stride * height as usize];
                let place = notice.draw(width, height, stride, &mut pixels).unwrap();
                assert!(place.x + place.width <= width && place.height <= height);
                for (y, row) in pixels.chunks(stride).enumerate() {
                    for (x, pixel) in row.chunks(4).enumerate() {
                        let (x, y) = (x as u32, y as u32);
                        let inside = (place.x..place.x + place.width).contains(&x) && y < place.height;
                        assert!(inside || pixel == [7; 4], "{x},{y} of {width}x{height}");
                    }
                }
                assert!(pixels.chunks(4).any(|p| p == INK));
            }
        }
    }

    #[test]
    fn lines_are_broken_at_spaces_and_never_longer_than_allowed() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert!(wrap("  ", 4).is_empty());
    }
}
