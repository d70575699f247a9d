//! What stands between the desktop's pictures and the encoder: nothing while a client is shown them, a closed
//! curtain while there is none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lucid_desktop::Frame;

/// The session's side and the painter's side share it.
#[derive(Clone, Default)]
pub(crate) struct Curtain(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    closed: bool,
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

    /// The picture to encode, or `None` while nobody is shown any.
    pub(crate) fn pass<'a>(&self, frame: Frame<'a>) -> Option<Frame<'a>> {
        (!self.state().closed).then_some(frame)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
