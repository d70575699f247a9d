//! The privacy shield: windows and parts of the picture that are never shown.
//!
//! **Windows** are shielded by the application id that they give. The compositor itself does not paint them: the launcher
//! tells it to give them opacity 0 and a title that says nothing, so where they are and how they move does not matter.
//! What lies below them shows instead. There are two things that a compositor paints all the same, and while one of them
//! may be there, the whole picture is masked, until [`AFTER_SHOWN`] after the compositor says that it is over:
//! - a shielded window that fills the screen, on any workspace (sway 1.7);
//! - menus and the like of a shielded window (sway 1.10 and newer): while one has the focus.
//!
//! **Rectangles** are painted over in the private copy of the picture, before anything compares or sees it.
//!
//! Of a shielded window that has the focus neither application id nor title is told. The shape of the pointer over it is.
//!
//! # What it holds against
//! Whoever sees the session or its recording does not see what a shielded program shows, whatever is done with its
//! windows. It does not hold against who wants to show it from within the desktop and can run programs there, which are
//! the same user's: they can give the window another id from the start, read the other program's memory, or tell the
//! compositor otherwise (`swaymsg opacity 1`). Nor does it cover
//! - what a program shows before it gives its id, or while it fills the screen and gave it only after its window was
//!   there (sway 1.7 tells nobody of that);
//! - what is dragged out of a window with the pointer, and notifications: these are no windows;
//! - with sway 1.10 and newer, the tips that a window without the focus shows when the pointer rests over it;
//! - windows of X11, which the device does not have.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::shared::{Shared, lock};
use crate::{Error, Rect};

/// The most application ids, and the most rectangles.
pub const MAX_SHIELDED: usize = 64;
/// The longest application id, in bytes.
pub const MAX_SHIELDED_ID: usize = 255;
/// What is painted over rectangles, and over everything where that has to be: R, G, B.
pub const MASK: [u8; 3] = [0x40, 0x40, 0x40];
/// How long the whole picture stays masked after that, at least. The compositor gives windows 200 ms to follow a change,
/// which may have to wait for the one before.
pub const AFTER_SHOWN: Duration = Duration::from_millis(1250);

/// Right and bottom edges of rectangles are within this.
const MAX_EDGE: u32 = 1 << 16;
/// The launcher has this long for all ids together; it takes milliseconds, or what a keymap takes.
const APPLY_TIME: Duration = Duration::from_secs(30);

/// What is never shown. Nothing, to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shield {
    /// Application ids of windows, each 1 to [`MAX_SHIELDED_ID`] bytes without control characters; at most
    /// [`MAX_SHIELDED`].
    pub app_ids: Vec<String>,
    /// Parts of the picture, at most [`MAX_SHIELDED`]. They may reach out of it, or lie beside it.
    pub rectangles: Vec<Rect>,
}

impl Shield {
    /// Whether it hides nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.app_ids.is_empty() && self.rectangles.is_empty()
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// Says which limit is exceeded.
    pub fn check(&self) -> Result<(), Error> {
        let Shield { app_ids, rectangles } = self;
        if app_ids.len().max(rectangles.len()) > MAX_SHIELDED {
            let what = format!("a shield has at most {MAX_SHIELDED} application ids and as many rectangles");
            return Err(Error::Request { what });
        }
        app_ids.iter().try_for_each(|id| check_app_id(id))?;
        let within = |start: u32, length: u32| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= MAX_EDGE)
        };
        match rectangles.iter().find(|r| !within(r.x, r.width) || !within(r.y, r.height)) {
            Some(rect) => Err(Error::Request { what: format!("{rect:?} is no rectangle to shield") }),
            None => Ok(()),
        }
    }
}

/// Checks an application id that is to be shielded.
pub(crate) fn check_app_id(id: &str) -> Result<(), Error> {
    if (1..=MAX_SHIELDED_ID).contains(&id.len()) && !id.chars().any(char::is_control) {
        return Ok(());
    }
    let what = format!(
        "an application id to shield has 1 to {MAX_SHIELDED_ID} bytes and no control characters, unlike {id:?}"
    );
    Err(Error::Request { what })
}

/// The way to a desktop's shield. Does not keep the desktop from ending.
#[derive(Clone)]
pub struct Shielding {
    shared: Arc<Shared>,
    /// One after the other.
    turn: Arc<Mutex<()>>,
}

/// What the desktop's thread is given.
pub(crate) struct Order {
    pub(crate) shield: Shield,
    pub(crate) done: SyncSender<Result<(), Error>>,
}

impl std::fmt::Debug for Shielding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shielding").finish_non_exhaustive()
    }
}

impl Shielding {
    pub(crate) fn new(shared: Arc<Shared>) -> Shielding {
        Shielding { shared, turn: Arc::default() }
    }

    /// From when this returns, no frame shows what is shielded, and nothing else is: what the last shield hid and this
    /// one does not shows again. No frame is given meanwhile. Blocks for some milliseconds, and for 30 s at most.
    ///
    /// # Errors
    /// When it is not within its limits, or the desktop cannot shield that. Then every frame is masked as a whole until
    /// another shield is taken.
    pub fn set(&self, shield: &Shield) -> Result<(), Error> {
        shield.check()?;
        let _turn = lock(&self.turn);
        let (done, waiting) = sync_channel(1);
        let order = Order { shield: shield.clone(), done };
        self.shared.command(|commands| commands.shield = Some(order).filter(|_| !commands.over));
        waiting.recv_timeout(APPLY_TIME).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                Err(Error::TimedOut { doing: "shielding windows", seconds: APPLY_TIME.as_secs() })
            }
            RecvTimeoutError::Disconnected => {
                Err(Error::Compositor { reason: "the desktop ended while windows were shielded".into() })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shield_beyond_its_limits_is_refused() {
        let ids = |ids: &[&str]| Shield {
            app_ids: ids.iter().map(|&id| id.to_owned()).collect(),
            rectangles: Vec::new(),
        };
        let (longest, long) = ("x".repeat(255), "x".repeat(256));
        assert!(ids(&["a", "org.gnome.Terminal", "a\"b]; $mod ä", &longest]).check().is_ok());
        for id in ["", "a\nb", "\u{7f}", &long] {
            assert!(ids(&[id]).check().is_err(), "{id:?}");
        }
        assert!(ids(&["a"; 64]).check().is_ok());
        assert!(ids(&["a"; 65]).check().is_err());
        let rect = |x, y, width, height| Shield {
            app_ids: Vec::new(),
            rectangles: vec![Rect { x, y, width, height }],
        };
        assert!(rect(8191, 8191, 8192, 8192).check().is_ok());
        for bad in [rect(0, 0, 0, 1), rect(0, 0, 1, 0), rect(u32::MAX, 0, 1, 1), rect(0, 1, 1, u32::MAX)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
