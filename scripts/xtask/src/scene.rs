//! What the scene (`scripts/bench-scene`) says of itself: its keys, and the marks along its top edge, which survive every
//! codec: the number of its frame, and one that turns over with each letter and each inversion.

use std::path::Path;

use crate::{client::Picture, error::Result, progress::ask_well, setup::Project};

/// The edge of a mark in pixels, as in the scene.
pub(crate) const MARK: usize = 16;
/// How many marks there are: 16 for the frame's number, lowest bit first, and the one that turns over.
pub(crate) const MARKS: usize = 17;

/// The scene's keys, as Linux numbers them.
pub(crate) mod key {
    /// Nothing moves.
    pub(crate) const STILL: u8 = 2;
    /// Text scrolls.
    pub(crate) const SCROLL: u8 = 3;
    /// A window moves.
    pub(crate) const WINDOW: u8 = 4;
    /// A film.
    pub(crate) const VIDEO: u8 = 5;
    /// One letter.
    pub(crate) const SMALL: u8 = 30;
    /// Everything.
    pub(crate) const WHOLE: u8 = 48;
}

/// What the marks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The number of the frame.
    pub(crate) frame: u16,
    /// Turned over by each letter and each inversion.
    pub(crate) turned: bool,
}

impl Marks {
    /// Reads them from the pixels in their middles, from the left; nothing while one is neither black nor white.
    pub(crate) fn read(middles: [[u8; 3]; MARKS]) -> Option<Self> {
        let mut bits = 0_u32;
        for (place, channels) in middles.iter().enumerate() {
            match (channels.iter().min(), channels.iter().max()) {
                (Some(200..), _) => bits |= 1 << place,
                (_, Some(..=55)) => {}
                _ => return None,
            }
        }
        let turned = bits >> (MARKS - 1) == 1;
        Some(Self { frame: bits as u16, turned })
    }
}

/// What the scene shows at a frame of a work (`video`, `window`), when nothing went on before it.
pub(crate) fn painted(
    project: &Project,
    program: &Path,
    work: &str,
    frame: u16,
    (width, height): (usize, usize),
    dir: &Path,
) -> Result<Picture> {
    let file = dir.join("painted.ppm");
    let mut scene = project.command(&program.to_string_lossy());
    scene.args(["--work", work, "--frame", &frame.to_string(), "--size", &format!("{width}x{height}")]);
    ask_well("painting what the scene shows", scene.arg("--write").arg(&file), b"")?;
    Picture::read_ppm(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_and_grey_is_none() {
        let mut middles = [[3, 0, 9]; MARKS];
        middles[0] = [250, 255, 240];
        middles[9] = [255; 3];
        assert_eq!(Marks::read(middles), Some(Marks { frame: 513, turned: false }));
        middles[16] = [255; 3];
        assert_eq!(Marks::read(middles), Some(Marks { frame: 513, turned: true }));
        middles[4] = [255, 120, 255];
        assert_eq!(Marks::read(middles), None);
    }
}
