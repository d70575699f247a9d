//! The cursor theme of a desktop: codes instead of drawings, see `lucid_desktop::pointer`.
//!
//! File format: Xcursor(3), "CURSOR FILES".

use super::LauncherError;
use lucid_desktop::pointer::{self, CODE_SIDE, Shape};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The theme's name.
pub(super) const THEME: &str = "lucid";
/// The nominal size at 100 %, which is what Xcursor takes by itself.
pub(super) const SIZE: u32 = 24;
/// Toolkits that are not asked to take another theme take one of these.
const OTHER_NAMES: [&str; 2] = ["default", "Adwaita"];

/// Nominal sizes and the images' sides. A program on an output with scale n takes the n-fold size, and its image has
/// to be a multiple of n.
const SIZES: [(u32, u32); 5] =
    [(SIZE, CODE_SIDE), (2 * SIZE, CODE_SIDE), (3 * SIZE, CODE_SIDE), (4 * SIZE, 8), (5 * SIZE, 10)];

/// Writes the theme below `parent` and returns the directory that themes are looked for in.
pub(super) fn write(parent: &Path) -> Result<PathBuf, LauncherError> {
    let icons = parent.join("icons");
    let theme = icons.join(THEME);
    let cursors = theme.join("cursors");
    let doing = |path: &Path| LauncherError::io(format!("writing the cursor theme, {}", path.display()));
    std::fs::create_dir_all(&cursors).map_err(doing(&cursors))?;
    let index = theme.join("index.theme");
    std::fs::write(&index, "[Icon Theme]\nName=Lucid\n").map_err(doing(&index))?;
    for other in OTHER_NAMES {
        let link = icons.join(other);
        symlink(THEME, &link).map_err(doing(&link))?;
    }
    for shape in Shape::ALL {
        let file = cursors.join(shape.name());
        std::fs::write(&file, cursor_file(shape)).map_err(doing(&file))?;
        for alias in shape.aliases() {
            let link = cursors.join(alias);
            symlink(shape.name(), &link).map_err(doing(&link))?;
        }
    }
    Ok(icons)
}

/// A cursor file with one image for each size; all numbers are little-endian 32 bits.
fn cursor_file(shape: Shape) -> Vec<u8> {
    const IMAGE: u32 = 0xfffd_0002;
    const FILE_HEADER: u32 = 16;
    const CONTENTS_ENTRY: u32 = 12;
    const IMAGE_HEADER: u32 = 36;
    let [upper, lower] = pointer::code(shape);
    let mut words = vec![u32::from_le_bytes(*b"Xcur"), FILE_HEADER, 0x1_0000, SIZES.len() as u32];
    let mut at = FILE_HEADER + CONTENTS_ENTRY * SIZES.len() as u32;
    for (nominal, side) in SIZES {
        words.extend([IMAGE, nominal, at]);
        at += IMAGE_HEADER + side * side * 4;
    }
    for (nominal, side) in SIZES {
        // Version 1, the hotspot in the upper left corner, no animation.
        words.extend([IMAGE_HEADER, IMAGE, nominal, 1, side, side, 0, 0, 0]);
        for row in 0..side {
            let colour = if row < side / 2 { upper } else { lower };
            words.extend(std::iter::repeat_n(0xff00_0000 | colour, side as usize));
        }
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_file_is_as_long_as_its_table_says_and_fits_every_scale() {
        let file = cursor_file(Shape::DEFAULT);
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let mut end = 16 + 12 * SIZES.len();
        for (i, (nominal, side)) in SIZES.iter().enumerate() {
            assert_eq!(word(16 + 12 * i + 4), *nominal);
            let at = word(16 + 12 * i + 8) as usize;
            assert_eq!(at, end);
            assert_eq!((word(at + 16), word(at + 20)), (*side, *side));
            assert_eq!(side % (nominal / SIZE), 0);
            end = at + 36 + (side * side * 4) as usize;
        }
        assert_eq!(end, file.len());
    }
}
