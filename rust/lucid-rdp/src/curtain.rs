//! What stands between the desktop's pictures and the encoder: nothing while a client is shown them, a notice over
//! them when there is something to tell, a closed curtain while there is no client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lucid_desktop::{Frame, Rect};

use crate::notice::Notice;

/// The session's side and the painter's side share it.
#[derive(Clone, Default)]
pub(crate) struct Curtain(Arc<Mutex<State>>);

/// A picture with a notice on it. Empty while there is none.
#[derive(Default)]
pub(crate) struct Overlaid {
    pixels: Vec<u8>,
    damage: Vec<Rect>,
}

#[derive(Default)]
struct State {
    closed: bool,
    notice: Option<Notice>,
}

impl Curtain {
    /// From now on no picture is encoded; those that were asked for are answered with their size alone.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// From now on pictures go out.
    pub(crate) fn open(&self) {
        self.state().closed = false;
    }

    /// Shows this over the desktop, or nothing. Returns whether that is something new.
    pub(crate) fn announce(&self, notice: Option<Notice>) -> bool {
        let mut state = self.state();
        let new = state.notice != notice;
        state.notice = notice;
        new
    }

    /// The picture to encode, or `None` while nobody is shown any. `overlaid` holds it when something stands over it.
    pub(crate) fn pass<'a>(&self, frame: Frame<'a>, overlaid: &'a mut Overlaid) -> Option<Frame<'a>> {
        let state = self.state();
        if state.closed {
            *overlaid = Overlaid::default();
            return None;
        }
        let Some(notice) = &state.notice else {
            *overlaid = Overlaid::default();
            return Some(frame);
        };
        overlaid.pixels.clear();
        overlaid.pixels.extend_from_slice(frame.pixels);
        let place = notice.draw(frame.width, frame.height, frame.stride, &mut overlaid.pixels);
        overlaid.damage.clear();
        overlaid.damage.extend(frame.damage.iter().take(lucid_desktop::MAX_DAMAGE - 1));
        if frame.damage.len() >= lucid_desktop::MAX_DAMAGE {
            overlaid.damage.clear();
            overlaid.damage.push(Rect { x: 0, y: 0, width: frame.width, height: frame.height });
        } else {
            overlaid.damage.extend(place);
        }
        Some(Frame { pixels: &overlaid.pixels, damage: &overlaid.damage, ..frame })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
