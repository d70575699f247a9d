//! The picture and what changes in it. Nothing here knows which desktop shows it.
//!
//! Along the top edge stand square marks of [`MARK`] pixels, black or white, which survive every codec: the number of
//! the frame in binary ([`COUNTER_BITS`] marks, lowest bit first), then one mark that turns over with each key of
//! [`Key::Small`] or [`Key::Whole`].

use font8x8::UnicodeFonts as _;

/// The edge of a mark in pixels.
pub(crate) const MARK: usize = 16;
/// How many marks tell the frame's number.
pub(crate) const COUNTER_BITS: usize = 16;

/// A part of the picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// From the left.
    pub x: usize,
    /// From the top.
    pub y: usize,
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// Nothing.
    Still,
    /// A page of text moves up by two pixels, 60 times a second.
    Scroll,
    /// A window with text moves over another, 60 times a second.
    Window,
    /// Soft colours flow over the whole screen, 30 times a second: like a film.
    Video,
}

impl Work {
    /// Pictures in a second.
    #[must_use]
    pub fn rate(self) -> u32 {
        match self {
            Work::Still => 0,
            Work::Scroll | Work::Window => 60,
            Work::Video => 30,
        }
    }
}

/// What a key does, by Linux's number for it (`linux/input-event-codes.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Another work begins (keys 1 to 4).
    Work(Work),
    /// What goes on stops as it is (key H).
    Hold,
    /// One more letter is written, and the last mark turns over (key A).
    Small,
    /// The whole picture is inverted, the last mark with it (key B).
    Whole,
}

impl Key {
    /// The meaning of a key.
    #[must_use]
    pub fn from_evdev(key: u32) -> Option<Key> {
        Some(match key {
            2 => Key::Work(Work::Still),
            3 => Key::Work(Work::Scroll),
            4 => Key::Work(Work::Window),
            5 => Key::Work(Work::Video),
            30 => Key::Small,
            35 => Key::Hold,
            48 => Key::Whole,
            _ => return None,
        })
    }
}

const TEXT: &str = "The quick brown fox jumps over the lazy dog; 0123456789 (and {so} on) = [it] + <goes> / while | the # \
                    page % scrolls & every * line ? differs ! from ~ the @ one $ before ^ it. ";
/// The window that moves.
const WINDOW: (usize, usize) = (640, 400);
const PAPER: [u8; 3] = [0xf4, 0xf4, 0xf0];
const INK: [u8; 3] = [0x1c, 0x22, 0x2c];

/// The picture.
pub struct Picture {
    width: usize,
    height: usize,
    /// Bytes B, G, R, X of each pixel, row after row without gaps.
    pixels: Vec<u8>,
    /// A page of text, higher than the picture, from which the moving parts are cut.
    page: Vec<u8>,
    page_height: usize,
    work: Work,
    /// Frames of the present work.
    step: usize,
    counter: usize,
    letters: usize,
    mark: bool,
    inverted: bool,
}

impl Picture {
    /// A page of text at rest.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Picture {
        let page_height = height * 2;
        let mut picture = Picture {
            width,
            height,
            pixels: vec![0; width * height * 4],
            page: page(width, page_height),
            page_height,
            work: Work::Still,
            step: 0,
            counter: 0,
            letters: 0,
            mark: false,
            inverted: false,
        };
        picture.scrolled();
        picture.marks();
        picture
    }

    /// The picture of a frame of a work that began before anything else did.
    #[must_use]
    pub fn at(width: usize, height: usize, work: Work, frame: usize) -> Picture {
        let mut picture = Picture::new(width, height);
        picture.key(Key::Work(work));
        if let Some(before) = frame.checked_sub(1) {
            (picture.step, picture.counter) = (before, before);
            picture.step();
        }
        picture
    }

    /// The same as a PPM with three bytes for a pixel.
    #[must_use]
    pub fn ppm(&self) -> Vec<u8> {
        let mut bytes = format!("P6\n{} {}\n255\n", self.width, self.height).into_bytes();
        bytes.extend(self.pixels.as_chunks::<4>().0.iter().flat_map(|[b, g, r, _]| [*r, *g, *b]));
        bytes
    }

    /// Bytes B, G, R, X of each pixel.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// What goes on now.
    #[must_use]
    pub fn work(&self) -> Work {
        self.work
    }

    fn whole(&self) -> Area {
        Area { x: 0, y: 0, width: self.width, height: self.height }
    }

    /// Below the marks.
    fn ground(&self) -> Area {
        Area { x: 0, y: MARK, width: self.width, height: self.height - MARK }
    }

    /// A key was pressed; gives what has changed.
    pub fn key(&mut self, key: Key) -> Vec<Area> {
        let changed = match key {
            Key::Work(work) => {
                self.work = work;
                self.step = 0;
                self.inverted = false;
                self.scrolled();
                self.whole()
            }
            Key::Hold => {
                self.work = Work::Still;
                return Vec::new();
            }
            Key::Small => {
                self.mark = !self.mark;
                let columns = (self.width - 32) / 10;
                let (column, row) = (self.letters % columns, self.letters / columns % 10);
                self.letters += 1;
                let area = Area { x: 16 + column * 10, y: self.height / 2 + row * 20, width: 8, height: 16 };
                let letter = TEXT.as_bytes().get(self.letters % TEXT.len()).copied().unwrap_or(b'x');
                glyph(&mut self.pixels, self.width, area, char::from(letter), [0x10, 0x60, 0xc0], PAPER);
                area
            }
            Key::Whole => {
                self.mark = !self.mark;
                self.inverted = !self.inverted;
                for byte in &mut self.pixels {
                    *byte = !*byte;
                }
                self.whole()
            }
        };
        vec![changed, self.marks()]
    }

    /// The next frame of the present work; gives what has changed.
    pub fn step(&mut self) -> Vec<Area> {
        self.step += 1;
        self.counter += 1;
        let changed = match self.work {
            Work::Still => return Vec::new(),
            Work::Scroll => {
                self.scrolled();
                vec![self.ground()]
            }
            Work::Window => self.moved(),
            Work::Video => {
                self.plasma();
                vec![self.ground()]
            }
        };
        [changed, vec![self.marks()]].concat()
    }

    /// The page, two pixels higher with each step.
    fn scrolled(&mut self) {
        let row = self.width * 4;
        for y in MARK..self.height {
            let from = (y + self.step * 2) % self.page_height * row;
            self.pixels[y * row..(y + 1) * row].copy_from_slice(&self.page[from..from + row]);
        }
    }

    /// Where the window is at a step: on a line that turns back at the edges.
    fn place(&self, step: usize) -> Area {
        let turn = |way: usize, room: usize| {
            let at = way % (2 * room);
            if at < room { at } else { 2 * room - at }
        };
        let (width, height) = (WINDOW.0.min(self.width / 2), WINDOW.1.min(self.height / 2));
        let x = turn(step * 7, self.width - width);
        let y = MARK + turn(step * 4, self.height - MARK - height);
        Area { x, y, width, height }
    }

    fn moved(&mut self) -> Vec<Area> {
        let (before, now) = (self.place(self.step - 1), self.place(self.step));
        let row = self.width * 4;
        for y in before.y..before.y + before.height {
            let span = y * row + before.x * 4..y * row + (before.x + before.width) * 4;
            self.pixels[span.clone()].copy_from_slice(&self.page[span]);
        }
        // Its text is that of the page's second half, with a title bar above.
        for line in 0..now.height {
            let to = (now.y + line) * row + now.x * 4;
            let target = &mut self.pixels[to..to + now.width * 4];
            if line < 24 {
                target.as_chunks_mut::<4>().0.fill([0x90, 0x50, 0x20, 0]);
            } else {
                let from = (self.height + line) * row;
                target.copy_from_slice(&self.page[from..from + now.width * 4]);
            }
        }
        vec![before, now]
    }

    fn plasma(&mut self) {
        let time = self.step;
        let wave: Vec<u32> = (0..1024_u32)
            .map(|i| ((f64::from(i) * std::f64::consts::TAU / 1024.0).sin() * 63.0 + 64.0) as u32)
            .collect();
        let at = |phase: usize| wave.get(phase & 1023).copied().unwrap_or(0);
        let row = self.width * 4;
        for y in MARK..self.height {
            let (down, slow) = (at(y * 2 + time * 7), at(y + time * 3));
            for (x, pixel) in
                self.pixels[y * row..(y + 1) * row].as_chunks_mut::<4>().0.iter_mut().enumerate()
            {
                let across = at(x + time * 5);
                let slant = at(x + y + time * 9);
                *pixel = [(across + down) as u8, (slant + slow) as u8, (across + slant) as u8, 0];
            }
        }
    }

    /// Paints the marks.
    fn marks(&mut self) -> Area {
        for bit in 0..=COUNTER_BITS {
            let on = if bit == COUNTER_BITS { self.mark } else { self.counter >> bit & 1 == 1 };
            let value = if on { 255 } else { 0 };
            for y in 0..MARK {
                let start = (y * self.width + bit * MARK) * 4;
                self.pixels[start..start + MARK * 4].fill(value);
            }
        }
        Area { x: 0, y: 0, width: (COUNTER_BITS + 1) * MARK, height: MARK }
    }
}

/// A page of text without end: lines of 20 pixels.
fn page(width: usize, height: usize) -> Vec<u8> {
    let mut pixels = vec![0; width * height * 4];
    pixels.as_chunks_mut::<4>().0.fill([PAPER[2], PAPER[1], PAPER[0], 0]);
    let text: Vec<char> = TEXT.chars().collect();
    for line in 0..height / 20 {
        // Lines of different lengths, as in a log or a program.
        let columns = ((width - 32) / 8) * (40 + line * 37 % 60) / 100;
        for column in 0..columns {
            let letter = text.get((column + line * 29) % text.len()).copied().unwrap_or(' ');
            let area = Area { x: 16 + column * 8, y: line * 20 + 2, width: 8, height: 16 };
            let ink = if (line + column / 9) % 7 == 0 { [0x20, 0x60, 0xa8] } else { INK };
            glyph(&mut pixels, width, area, letter, ink, PAPER);
        }
    }
    pixels
}

/// Writes a letter, 8 pixels wide and 16 high.
fn glyph(pixels: &mut [u8], width: usize, area: Area, letter: char, ink: [u8; 3], paper: [u8; 3]) {
    let rows = font8x8::BASIC_FONTS.get(letter).unwrap_or([0; 8]);
    for y in 0..area.height {
        let bits = rows.get(y / 2).copied().unwrap_or(0);
        for x in 0..area.width {
            let [r, g, b] = if bits >> x & 1 == 1 { ink } else { paper };
            let at = ((area.y + y) * width + area.x + x) * 4;
            pixels[at..at + 4].copy_from_slice(&[b, g, r, 0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_to_have_changed_has_not() {
        let mut picture = Picture::new(1280, 720);
        for work in [Work::Window, Work::Scroll, Work::Video] {
            picture.key(Key::Work(work));
            for _ in 0..40 {
                let mut shown = picture.pixels.clone();
                let changed =
                    if picture.step.is_multiple_of(5) { picture.key(Key::Small) } else { Vec::new() };
                for area in changed.into_iter().chain(picture.step()) {
                    for y in area.y..area.y + area.height {
                        let span = (y * 1280 + area.x) * 4..(y * 1280 + area.x + area.width) * 4;
                        shown[span.clone()].copy_from_slice(&picture.pixels[span]);
                    }
                }
                assert!(shown == picture.pixels, "{work:?}");
            }
        }
    }

    #[test]
    fn the_picture_of_a_frame_is_what_the_work_comes_to() {
        for work in [Work::Window, Work::Scroll, Work::Video] {
            let mut picture = Picture::new(1366, 766);
            picture.key(Key::Work(work));
            for _ in 0..150 {
                picture.step();
            }
            picture.key(Key::Hold);
            assert!(picture.step().is_empty());
            assert!(picture.pixels == Picture::at(1366, 766, work, 150).pixels, "{work:?}");
        }
    }

    #[test]
    fn every_key_turns_the_last_mark_over() {
        let mut picture = Picture::new(640, 480);
        let mark = |p: &Picture| p.pixels[COUNTER_BITS * MARK * 4];
        for key in [Key::Small, Key::Whole, Key::Small, Key::Whole] {
            let before = mark(&picture);
            picture.key(key);
            assert_ne!(mark(&picture), before);
        }
    }
}
