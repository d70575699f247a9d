//! A page in the place of the desktop, that its user has to read and answer, or that tells him why there is none. This host
//! paints it itself, opaque: nothing of the desktop is shown beside it, and nothing that runs there can hide or answer it.

use std::time::Duration;

use lucid_desktop::{Button, Input, Rect};

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

// Keys that it takes (linux/input-event-codes.h).
pub(crate) const KEY_ESCAPE: u32 = 1;
const KEY_ENTER: u32 = 28;
const KEY_SPACE: u32 = 57;
const KEY_KEYPAD_ENTER: u32 = 96;
pub(crate) const KEY_UP: u32 = 103;
const KEY_PAGE_UP: u32 = 104;
pub(crate) const KEY_DOWN: u32 = 108;
const KEY_PAGE_DOWN: u32 = 109;

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// Paragraphs, each with the sign that stands before it.
    pub(crate) text: Vec<(char, String)>,
    /// The words on its buttons, where there is something to answer: yes, and no.
    pub(crate) asks: Option<[&'static str; 2]>,
    /// What else can be done; stands below, where nothing is to be answered.
    pub(crate) hint: &'static str,
    /// So many lines of the text are above the picture.
    pub(crate) above: usize,
    /// The paragraph that is to be seen, wherever it is.
    pub(crate) at: Option<usize>,
}

/// Nobody has read a page that asks him within this time.
pub(crate) const UNREAD: Duration = Duration::from_millis(1000);

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

/// Whether a policy is accepted.
pub(crate) const ACCEPT: [&str; 2] = [" Accept (Enter) ", " Decline (Esc) "];
const MORE: &str = "More below: Page Down";

impl Layout {
    /// What is answered by that input, with the pointer there. Nobody answers what he has not seen to its end.
    pub(crate) fn answer(&self, input: &Input, (x, y): (u32, u32)) -> Option<bool> {
        let on = |place: Option<Rect>| {
            place.is_some_and(|place| place.overlaps(Rect { x, y, width: 1, height: 1 }))
        };
        match *input {
            Input::Key { evdev: KEY_ENTER | KEY_KEYPAD_ENTER, pressed: true } => self.accept.map(|_| true),
            Input::Character('\r' | '\n') => self.accept.map(|_| true),
            Input::Key { evdev: KEY_ESCAPE, pressed: true } | Input::Character('\u{1b}') => Some(false),
            Input::Button { button: Button::Left, pressed: true } if on(self.accept) => Some(true),
            Input::Button { button: Button::Left, pressed: true } if on(self.decline) => Some(false),
            _ => None,
        }
    }

    /// So many lines are above the picture after that input, where it scrolls.
    pub(crate) fn scroll(&self, input: &Input, above: usize) -> Option<usize> {
        let to = match *input {
            Input::Key { evdev: KEY_DOWN, pressed: true } => above + 1,
            Input::Key { evdev: KEY_UP, pressed: true } => above.saturating_sub(1),
            Input::Key { evdev: KEY_PAGE_DOWN | KEY_SPACE, pressed: true } => above + self.lines,
            Input::Key { evdev: KEY_PAGE_UP, pressed: true } => above.saturating_sub(self.lines),
            Input::Wheel { vertical, .. } if vertical > 0.0 => above + 3,
            Input::Wheel { vertical, .. } if vertical < 0.0 => above.saturating_sub(3),
            _ => return None,
        };
        // How far it goes is known when it was painted.
        Some(if self.lines == 0 { to } else { to.min(self.most_above) })
    }
}

impl Page {
    /// One on which each line of a text is a paragraph.
    pub(crate) fn of(title: &str, text: &str) -> Page {
        let text = text.lines().map(|line| ('-', line.to_owned())).collect();
        Page { title: title.to_owned(), text, ..Page::default() }
    }

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
        // Where the paragraph begins and ends that is to be seen.
        let mut seen = None;
        for (place, (sign, paragraph)) in self.text.iter().enumerate() {
            let begin = text.len();
            let mut lines = wrap(paragraph, columns.saturating_sub(2).max(1)).into_iter();
            text.extend(lines.next().map(|line| format!("{sign} {line}")));
            text.extend(lines.map(|line| format!("  {line}")));
            if self.at == Some(place) {
                seen = Some((begin, text.len()));
            }
        }
        // The title, an empty line, the text, an empty line, and what can be done.
        let hint = if self.asks.is_none() { wrap(self.hint, columns) } else { Vec::new() };
        let below = if self.asks.is_some() { 2 } else { hint.len() + usize::from(!hint.is_empty()) };
        let room = rows.saturating_sub(title.len() + 1 + below).max(1);
        let most_above = text.len().saturating_sub(room);
        let above = match seen {
            Some((begin, end)) => self.above.max(end.saturating_sub(room)).min(begin),
            None => self.above,
        };
        let above = above.min(most_above);
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
        for (row, line) in hint.iter().enumerate() {
            put(rows.saturating_sub(hint.len()) + row, 0, line, TITLE);
        }
        let mut layout = Layout { most_above, lines: room, accept: None, decline: None };
        if let Some([accept, decline]) = self.asks {
            let row = rows.saturating_sub(1);
            if above < most_above {
                put(row, 0, MORE, TITLE);
                return layout;
            }
            layout.accept = button(accept, (left, top(row)), (wide, high, stride), pixels);
            // Beside it where there is room, and on the line above where there is none.
            let beside = accept.len() + 2;
            let place = if beside + decline.len() <= columns {
                (left + beside * LETTER.0, top(row))
            } else {
                (left, top(row.saturating_sub(1)))
            };
            layout.decline = button(decline, place, (wide, high, stride), pixels);
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
        let text: String =
            (0..30).map(|line| format!("Sentence {line} says something about this session.\n")).collect();
        let asks = asks.then_some(ACCEPT);
        Page { asks, above, hint: "Esc goes back", ..Page::of("What this session may do", &text) }
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
    fn what_is_to_be_seen_is_within_the_picture() {
        for (at, above) in [(0, usize::MAX), (29, 0), (15, 0), (15, usize::MAX)] {
            let draw = |text: Vec<(char, String)>| {
                let mut pixels = vec![0; 640 * 480 * 4];
                Page { text, at: Some(at), ..page(false, above) }.draw(640, 480, 640 * 4, &mut pixels);
                pixels
            };
            let text = page(false, 0).text;
            let mut other = text.clone();
            other[at].1 = "Something else.".to_owned();
            assert!(draw(text) != draw(other), "{at}");
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
