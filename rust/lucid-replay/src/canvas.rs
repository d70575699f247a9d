//! What is encoded: the picture, the pointer on it, or words where nothing was recorded.

use lucid_video::Rect;
use spleen_font::{FONT_12X24, PSF2Font};

use crate::player::{Picture, Region};
use crate::show::Pointer;

/// A letter's size in pixels.
const LETTER: (u32, u32) = (12, 24);
const LINE: u32 = 34;
/// Colours as B, G, R, X: dark slate, and pale letters.
const GROUND: [u8; 4] = [0x30, 0x26, 0x20, 0];
const INK: [u8; 4] = [0xf0, 0xec, 0xe8, 0];
/// Of more, the whole picture is named.
const MAX_DAMAGE: usize = 256;

/// How the pointer is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    at: Option<(u16, u16)>,
    shape: Option<Shape>,
}

#[derive(Clone, Debug)]
struct Shape {
    width: u16,
    height: u16,
    hotspot: (u16, u16),
    rgba: Vec<u8>,
}

impl Cursor {
    pub(crate) fn change(&mut self, change: Pointer) {
        match change {
            Pointer::Moved(x, y) => self.at = Some((x, y)),
            Pointer::Shape { width, height, hotspot, rgba } => {
                self.shape = Some(Shape { width, height, hotspot, rgba });
            }
            Pointer::Hidden => self.shape = None,
        }
    }
}

/// A picture of one size.
pub(crate) struct Canvas {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// B, G, R, X.
    pub(crate) pixels: Vec<u8>,
    damage: Vec<Rect>,
    /// Where the pointer is drawn.
    pointer: Option<Rect>,
    /// Words stand there, and no picture.
    card: bool,
}

impl Canvas {
    /// Black.
    pub(crate) fn new(width: u16, height: u16) -> Canvas {
        let (width, height) = (u32::from(width), u32::from(height));
        let whole = Rect { x: 0, y: 0, width, height };
        let pixels = vec![0; (width * height * 4) as usize];
        Canvas { width, height, pixels, damage: vec![whole], pointer: None, card: false }
    }

    /// What has changed since this was last asked for.
    pub(crate) fn take_damage(&mut self) -> Vec<Rect> {
        std::mem::take(&mut self.damage)
    }

    pub(crate) fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    fn damaged(&mut self, rect: Rect) {
        if self.damage.len() >= MAX_DAMAGE {
            self.damage = vec![Rect { x: 0, y: 0, width: self.width, height: self.height }];
        } else if rect.width > 0 && rect.height > 0 {
            self.damage.push(rect);
        }
    }

    fn fill(&mut self, colour: [u8; 4]) {
        self.pixels.as_chunks_mut::<4>().0.fill(colour);
        (self.pointer, self.damage) = (None, Vec::new());
        self.damaged(Rect { x: 0, y: 0, width: self.width, height: self.height });
    }

    /// Brings it up to date; `size_changed` says that the picture is of another size than the last one.
    pub(crate) fn show(
        &mut self,
        picture: &Picture,
        changed: &[Region],
        size_changed: bool,
        cursor: Option<&Cursor>,
    ) {
        let whole = [picture.whole()];
        let mut changed = changed;
        if size_changed || std::mem::take(&mut self.card) {
            self.fill([0; 4]);
            changed = &whole;
        }
        let wanted = cursor.and_then(|cursor| self.place(picture, cursor));
        for region in changed {
            self.copy(picture, region);
        }
        if let Some(old) = self.pointer.take() {
            // What was under it.
            let edge = |edge: u32| u16::try_from(edge).unwrap_or(u16::MAX);
            let region =
                Region { x: edge(old.x), y: edge(old.y), width: edge(old.width), height: edge(old.height) };
            self.copy(picture, &region);
        }
        if let (Some(rect), Some(cursor)) = (wanted, cursor) {
            self.draw(rect, cursor);
            self.pointer = Some(rect);
            self.damaged(rect);
        }
    }

    /// Copies a part of a picture, which is at the upper left.
    fn copy(&mut self, picture: &Picture, region: &Region) {
        let right = (u32::from(region.x) + u32::from(region.width)).min(picture.width.into()).min(self.width);
        let bottom =
            (u32::from(region.y) + u32::from(region.height)).min(picture.height.into()).min(self.height);
        let (x, y) = (u32::from(region.x), u32::from(region.y));
        if x >= right || y >= bottom {
            return;
        }
        let bytes = ((right - x) * 4) as usize;
        for row in y..bottom {
            let from = ((row * u32::from(picture.width) + x) * 4) as usize;
            let to = ((row * self.width + x) * 4) as usize;
            let (Some(source), Some(target)) =
                (picture.pixels.get(from..from + bytes), self.pixels.get_mut(to..to + bytes))
            else {
                return;
            };
            let pixels = source.as_chunks::<4>().0.iter().zip(target.as_chunks_mut::<4>().0);
            for ([r, g, b, _], target) in pixels {
                *target = [*b, *g, *r, 0];
            }
        }
        self.damaged(Rect { x, y, width: right - x, height: bottom - y });
    }

    /// Where the pointer's shape meets the picture.
    fn place(&self, picture: &Picture, cursor: &Cursor) -> Option<Rect> {
        let ((x, y), Shape { width, height, hotspot, .. }) = (cursor.at?, cursor.shape.as_ref()?);
        let begin = |at: u16, points: u16| u32::from(at.saturating_sub(points));
        let end = |at: u16, points: u16, size: u16, shown: u16, most: u32| {
            (i64::from(at) - i64::from(points) + i64::from(size)).clamp(0, i64::from(shown).min(most.into()))
                as u32
        };
        let (left, top) = (begin(x, hotspot.0), begin(y, hotspot.1));
        let right = end(x, hotspot.0, *width, picture.width, self.width);
        let bottom = end(y, hotspot.1, *height, picture.height, self.height);
        (left < right && top < bottom).then(|| Rect {
            x: left,
            y: top,
            width: right - left,
            height: bottom - top,
        })
    }

    fn draw(&mut self, rect: Rect, cursor: &Cursor) {
        let (Some((x, y)), Some(Shape { width, hotspot, rgba, .. })) = (cursor.at, cursor.shape.as_ref())
        else {
            return;
        };
        for row in rect.y..rect.y + rect.height {
            for column in rect.x..rect.x + rect.width {
                let from = (column + u32::from(hotspot.0)).checked_sub(x.into());
                let down = (row + u32::from(hotspot.1)).checked_sub(y.into());
                let (Some(from), Some(down)) = (from, down) else { continue };
                let at = ((down * u32::from(*width) + from) * 4) as usize;
                let to = ((row * self.width + column) * 4) as usize;
                let (Some([r, g, b, alpha]), Some(target)) = (
                    rgba.get(at..at + 4).and_then(|pixel| <[u8; 4]>::try_from(pixel).ok()),
                    self.pixels.get_mut(to..to + 4),
                ) else {
                    continue;
                };
                for (under, over) in target.iter_mut().zip([b, g, r]) {
                    let (over, under_, alpha) = (u32::from(over), u32::from(*under), u32::from(alpha));
                    *under = ((over * alpha + under_ * (255 - alpha) + 127) / 255) as u8;
                }
            }
        }
    }

    /// A plain picture with words in the middle.
    pub(crate) fn card(&mut self, lines: &[String]) {
        self.fill(GROUND);
        self.card = true;
        let Ok(mut font) = PSF2Font::new(FONT_12X24) else { return };
        let most = (self.width / LETTER.0) as usize;
        let mut fitting = Vec::new();
        for line in lines {
            let letters: Vec<char> = line.chars().collect();
            fitting.extend(letters.chunks(most.max(1)).map(<[char]>::to_vec));
        }
        let mut top = (self.height / 2).saturating_sub(fitting.len() as u32 * LINE / 2);
        for letters in fitting {
            let mut left = (self.width.saturating_sub(letters.len() as u32 * LETTER.0)) / 2;
            for letter in letters {
                let mut utf8 = [0; 4];
                let known = font.glyph_for_utf8(letter.encode_utf8(&mut utf8).as_bytes()).is_some();
                let bytes = if known { letter.encode_utf8(&mut utf8).as_bytes() } else { b"?" };
                if let Some(glyph) = font.glyph_for_utf8(bytes) {
                    for (y, dots) in glyph.enumerate() {
                        for (x, _) in dots.enumerate().filter(|(_, on)| *on) {
                            let (x, y) = (left + x as u32, top + y as u32);
                            let at = ((y * self.width + x) * 4) as usize;
                            if let (true, Some(pixel)) = (x < self.width, self.pixels.get_mut(at..at + 4)) {
                                pixel.copy_from_slice(&INK);
                            }
                        }
                    }
                }
                left += LETTER.0;
            }
            top += LINE;
        }
    }
}
