//! The shapes that a pointer may have.

/// A shape by its name in CSS (css-ui-4, 8.1.1), which cursor-shape-v1 and cursor themes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape(u8);

/// Names, and the older ones by which programs ask for the same shape.
const SHAPES: [(&str, &[&str]); 36] = [
    ("default", &["left_ptr", "arrow", "top_left_arrow", "X_cursor", "right_ptr", "dnd-ask"]),
    ("text", &["xterm", "ibeam"]),
    ("pointer", &["hand", "hand1", "hand2", "pointing_hand"]),
    ("wait", &["watch"]),
    ("progress", &["left_ptr_watch", "half-busy"]),
    ("help", &["question_arrow", "whats_this"]),
    ("context-menu", &[]),
    ("crosshair", &["cross", "tcross", "diamond_cross"]),
    ("cell", &["plus"]),
    ("vertical-text", &[]),
    ("alias", &["link", "dnd-link"]),
    ("copy", &["dnd-copy"]),
    ("move", &["fleur", "dnd-move"]),
    ("all-scroll", &["all-resize", "size_all"]),
    ("no-drop", &["dnd-none"]),
    ("not-allowed", &["crossed_circle", "circle", "forbidden"]),
    ("grab", &["openhand"]),
    ("grabbing", &["closedhand"]),
    ("n-resize", &["top_side"]),
    ("s-resize", &["bottom_side"]),
    ("e-resize", &["right_side"]),
    ("w-resize", &["left_side"]),
    ("ne-resize", &["top_right_corner"]),
    ("nw-resize", &["top_left_corner"]),
    ("se-resize", &["bottom_right_corner"]),
    ("sw-resize", &["bottom_left_corner"]),
    ("ns-resize", &["sb_v_double_arrow", "v_double_arrow", "size_ver"]),
    ("ew-resize", &["sb_h_double_arrow", "h_double_arrow", "size_hor"]),
    ("nesw-resize", &["fd_double_arrow", "size_bdiag"]),
    ("nwse-resize", &["bd_double_arrow", "size_fdiag"]),
    ("col-resize", &["split_h"]),
    ("row-resize", &["split_v"]),
    ("zoom-in", &[]),
    ("zoom-out", &[]),
    ("pencil", &["draft"]),
    ("up-arrow", &["center_ptr", "sb_up_arrow"]),
];

impl Shape {
    /// The arrow.
    pub const DEFAULT: Shape = Shape(0);
    /// The beam over text.
    pub const TEXT: Shape = Shape(1);

    /// Every shape.
    pub const ALL: [Shape; SHAPES.len()] = {
        let mut all = [Shape(0); SHAPES.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = Shape(at as u8);
            at += 1;
        }
        all
    };

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        SHAPES.get(usize::from(self.0)).map_or("default", |s| s.0)
    }

    /// Older names for it.
    #[must_use]
    pub fn aliases(self) -> &'static [&'static str] {
        SHAPES.get(usize::from(self.0)).map_or(&[], |s| s.1)
    }

    /// A number between 0 and the number of shapes.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    pub(super) fn by_number(number: u8) -> Option<Shape> {
        (usize::from(number) < SHAPES.len()).then_some(Shape(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_for_two_shapes() {
        let mut names: Vec<_> =
            Shape::ALL.iter().flat_map(|s| s.aliases().iter().copied().chain([s.name()])).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert_eq!((Shape::DEFAULT.name(), Shape::TEXT.name()), ("default", "text"));
    }
}
