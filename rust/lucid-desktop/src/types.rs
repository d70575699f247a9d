//! What goes over the crate's boundary: pictures out, input in.

/// A rectangle in pixels, within the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

impl Rect {
    /// Whether they have a pixel in common.
    pub fn overlaps(&self, other: Rect) -> bool {
        self.x < other.x + other.width
            && other.x < self.x + self.width
            && self.y < other.y + other.height
            && other.y < self.y + self.height
    }
}

/// A picture of all outputs with what changed since the frame before.
///
/// The pixels are a private copy: the desktop cannot change them while they are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from one row to the next (always `4 * width`).
    pub stride: usize,
    /// BGRX 8888: the bytes of a pixel are B, G, R, and one without meaning.
    pub pixels: &'a [u8],
    /// What changed since the previous delivered frame: at least one and at most
    /// [`MAX_DAMAGE`](crate::MAX_DAMAGE) rectangles, all within the picture. When the size differs
    /// from the previous frame's, it is the whole picture.
    pub damage: &'a [Rect],
}

/// A pointer button.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Button {
    /// `BTN_LEFT`.
    Left,
    /// `BTN_RIGHT`.
    Right,
    /// `BTN_MIDDLE`.
    Middle,
    /// `BTN_SIDE`: "back".
    Back,
    /// `BTN_EXTRA`: "forward".
    Forward,
}

/// What a user does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// A key goes down or up. A press of a key that is down is an auto-repeat and is dropped:
    /// Wayland programs repeat keys themselves.
    Key {
        /// The key as Linux numbers it (`KEY_A` = 30), without XKB's offset of 8; at most 767 (`KEY_MAX`), others are dropped.
        evdev: u32,
        /// Down or up.
        pressed: bool,
    },
    /// The pointer goes to a place of the picture, in pixels; clamped to it, and to the nearest monitor.
    PointerMove {
        /// From the left.
        x: u32,
        /// From the top.
        y: u32,
    },
    /// The pointer goes by a distance, in pixels.
    PointerMoveRelative {
        /// To the right.
        dx: i32,
        /// Down.
        dy: i32,
    },
    /// A button goes down or up.
    Button {
        /// Which.
        button: Button,
        /// Down or up.
        pressed: bool,
    },
    /// The wheel turns; 1.0 is one detent, fractions are allowed, magnitudes are limited to 100.
    Wheel {
        /// Positive scrolls the content down.
        vertical: f64,
        /// Positive scrolls the content to the right.
        horizontal: f64,
    },
    /// A character, whatever keys the keyboard has. Carriage return and line feed are Enter; control characters that
    /// no keyboard has are dropped. What is held of Ctrl, Alt and Super holds for it as well.
    Character(char),
    /// The client's lock keys are in this state and no key is held (MS-RDPBCGR 2.2.8.1.1.3.1.1.5); ours are made equal.
    Locks {
        /// Caps Lock.
        caps: bool,
        /// Num Lock.
        num: bool,
        /// Scroll Lock (has no effect in a keymap that does not know it, which is the usual case).
        scroll: bool,
    },
}

/// Why a desktop ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Closed {
    /// The [`Desktop`](crate::Desktop) was dropped.
    Dropped,
    /// The compositor or its launcher went away.
    Gone(crate::Error),
}

/// How the picture is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureProtocol {
    /// `wlr-screencopy-unstable-v1`, version 3.
    WlrScreencopy,
    /// `ext-image-copy-capture-v1`.
    ExtImageCopyCapture,
}

impl std::fmt::Display for CaptureProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CaptureProtocol::WlrScreencopy => "wlr-screencopy-unstable-v1",
            CaptureProtocol::ExtImageCopyCapture => "ext-image-copy-capture-v1",
        })
    }
}

/// The most bytes of [`Focus::app_id`].
pub const MAX_APP_ID: usize = 256;
/// The most bytes of [`Focus::title`].
pub const MAX_TITLE: usize = 1024;

/// The window that has the focus. Programs choose both texts; longer ones are shortened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Focus {
    /// Which program it is of, where it says.
    pub app_id: Option<String>,
    /// Its title, where it has one.
    pub title: Option<String>,
}

/// Receives what happens, on the desktop's own thread. A slow sink delays the desktop's events, not
/// the input.
pub trait FrameSink: Send {
    /// The next frame; called once for each [`Desktop::request_frame`](crate::Desktop::request_frame).
    fn frame(&mut self, frame: Frame<'_>);
    /// The compositor did not take the size asked for with [`Desktop::arrange`](crate::Desktop::arrange);
    /// the output keeps the size it had. (A size that was taken shows in the next frame.)
    fn resize_failed(&mut self, width: u32, height: u32) {
        tracing::warn!(width, height, "the compositor refused a new size for the output");
    }
    /// What the pointer looks like now; called when it changes. Unless this is
    /// [`Pointer::Picture`](crate::Pointer::Picture), frames do not show it.
    fn pointer(&mut self, pointer: crate::Pointer) {
        tracing::debug!(?pointer, "the pointer's shape");
    }
    /// Another window has the focus, or the one that has it another title; none: no window has it. Called as often as
    /// programs change that, so it must return quickly.
    fn focus(&mut self, focus: Option<&Focus>) {
        tracing::debug!(has_one = focus.is_some(), "the focus");
    }
    /// Something else is shielded from now on: what was given before is not to be shown to anybody anew. The next frame is
    /// damaged as a whole.
    fn forget(&mut self) {}
    /// The desktop has ended; nothing is called after this.
    fn closed(&mut self, reason: Closed);
}
