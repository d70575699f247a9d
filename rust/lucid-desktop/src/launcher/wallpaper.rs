//! The wallpaper: says on which machine one is, and how to open a program. It is a picture of some lines that the
//! desktop shows in the middle of a ground of the same colour, so that it is sharp in every size.

use std::path::Path;

use spleen_font::{FONT_12X24, PSF2Font};

use super::LauncherError;

/// Its name in the runtime directory; the compositor's configuration names it.
const NAME: &str = "wallpaper.png";
/// A letter of the font, in pixels.
const LETTER: (usize, usize) = (12, 24);
/// The machine's name is written this many times larger.
const LARGE: usize = 3;
/// Longer names are cut, in letters.
const LONGEST: usize = 24;
/// Ground and letters, as R, G, B. The compositor's configuration has the same ground.
const PALETTE: [u8; 9] = [0x1f, 0x24, 0x30, 0x8f, 0xa3, 0xbf, 0xd9, 0xdc, 0xe3];
const GREY: u8 = 1;
const LIGHT: u8 = 2;
/// What stands below the name.
const LINES: [&str; 5] = [
    "",
    "Apps at the bottom right, or Super+D or Alt+F2, opens a program",
    "Super+Enter a terminal      Super+E the files",
    "Super+F whole screen        Super+Tab the next window",
    "Super+Q closes a window     Super+Shift+E logs off",
];

/// Draws it and writes it into the runtime directory.
pub(super) fn write(runtime: &Path) -> Result<(), LauncherError> {
    let machine = rustix::system::uname();
    let path = runtime.join(NAME);
    let failed = LauncherError::io(format!("writing {}", path.display()));
    let picture = Picture::of(&machine.nodename().to_string_lossy());
    picture.png().and_then(|bytes| std::fs::write(&path, bytes)).map_err(failed)
}

/// One byte a pixel: an index into [`PALETTE`].
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    fn of(machine: &str) -> Picture {
        let name: String = machine.chars().take(LONGEST).collect();
        let longest = LINES.iter().map(|line| line.len()).max().unwrap_or_default();
        let width = (name.chars().count() * LARGE).max(longest) * LETTER.0;
        let height = (LARGE + LINES.len()) * LETTER.1;
        let mut picture = Picture { width, height, pixels: vec![0; width * height] };
        picture.line(&name, 0, LARGE, LIGHT);
        for (row, line) in LINES.iter().enumerate() {
            picture.line(line, (LARGE + row) * LETTER.1, 1, GREY);
        }
        picture
    }

    /// Writes a line in the middle; each dot of the font becomes a square of `scale` pixels.
    fn line(&mut self, text: &str, top: usize, scale: usize, ink: u8) {
        let Ok(mut font) = PSF2Font::new(FONT_12X24) else { return };
        let left = (self.width - text.chars().count() * LETTER.0 * scale) / 2;
        for (column, letter) in text.chars().enumerate() {
            let mut utf8 = [0; 4];
            let Some(glyph) = font.glyph_for_utf8(letter.encode_utf8(&mut utf8).as_bytes()) else { continue };
            for (y, dots) in glyph.enumerate().take(LETTER.1) {
                for (x, on) in dots.enumerate().take(LETTER.0) {
                    if !on {
                        continue;
                    }
                    let x = left + (column * LETTER.0 + x) * scale;
                    for row in 0..scale {
                        let at = (top + y * scale + row) * self.width + x;
                        if let Some(dots) = self.pixels.get_mut(at..at + scale) {
                            dots.fill(ink);
                        }
                    }
                }
            }
        }
    }

    fn png(&self) -> std::io::Result<Vec<u8>> {
        let side = |pixels: usize| u32::try_from(pixels).map_err(std::io::Error::other);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_palette(PALETTE.as_slice());
        let mut writer = encoder.write_header().map_err(std::io::Error::other)?;
        writer.write_image_data(&self.pixels).map_err(std::io::Error::other)?;
        writer.finish().map_err(std::io::Error::other)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_machine_is_called_its_wallpaper_is_a_picture_with_writing() {
        for name in ["lucid", "", "a-name-that-is-longer-than-any-that-fits-on-it", "größer-日本"] {
            let bytes = Picture::of(name).png().unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let frame = reader.next_frame(&mut pixels).unwrap();
            assert!((600..1000).contains(&frame.width) && frame.height == 192, "{name}");
            assert_eq!(pixels.contains(&LIGHT), !name.is_empty(), "{name}");
            assert!(pixels.contains(&GREY));
        }
    }
}
