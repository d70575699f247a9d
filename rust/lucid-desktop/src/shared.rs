//! What the handle of a desktop and its thread share.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::EventfdFlags;
use wayland_client::Connection;
use wayland_client::backend::WaylandError;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

use crate::handover::KeyboardLayout;
use crate::monitors::Arrangement;
use crate::shield::Order;
use crate::{Error, Rect};

/// Both sides have one.
pub(crate) struct Shared {
    pub(crate) commands: Mutex<Commands>,
    pub(crate) wake: OwnedFd,
    /// The picture's size: width in the upper half.
    size: AtomicU64,
    /// What moves the pointer within each of several monitors; nothing while there is one.
    pub(crate) targets: Mutex<Targets>,
    pub(crate) wakeups: AtomicU64,
    /// Keymaps of characters that the compositor has not taken yet.
    pub(crate) keymaps: AtomicU32,
    /// Where the pointer was put last, from the left in the upper half; [`NOWHERE`] when that is not known.
    pointer: AtomicU64,
}

const NOWHERE: u64 = u64::MAX;

/// What moves the pointer when there are several monitors.
#[derive(Default)]
pub(crate) struct Targets {
    /// Each monitor's place, and a pointer that goes nowhere else.
    pub(crate) monitors: Vec<(Rect, ZwlrVirtualPointerV1)>,
    /// A pointer that goes anywhere.
    pub(crate) anywhere: Option<ZwlrVirtualPointerV1>,
}

/// What the thread is to do.
#[derive(Default)]
pub(crate) struct Commands {
    pub(crate) credits: u32,
    pub(crate) refresh: bool,
    pub(crate) repeat: bool,
    pub(crate) resize: Option<Arrangement>,
    pub(crate) keyboard: Option<KeyboardLayout>,
    pub(crate) shield: Option<Order>,
    pub(crate) stop: bool,
    /// The thread takes no more.
    pub(crate) over: bool,
}

impl Shared {
    /// Sends what was asked of the compositor, from any thread.
    pub(crate) fn flush(&self, connection: &Connection) -> Result<(), Error> {
        match connection.flush() {
            Ok(()) => Ok(()),
            Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                self.wake(); // the thread waits until there is room
                Ok(())
            }
            Err(e) => Err(gone(&e)),
        }
    }

    pub(crate) fn new() -> Result<Shared, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(Error::system("making an eventfd"))?;
        Ok(Shared {
            commands: Mutex::default(),
            wake,
            size: AtomicU64::new(0),
            targets: Mutex::default(),
            wakeups: AtomicU64::new(0),
            keymaps: AtomicU32::new(0),
            pointer: AtomicU64::new(NOWHERE),
        })
    }

    pub(crate) fn command(&self, change: impl FnOnce(&mut Commands)) {
        change(&mut lock(&self.commands));
        self.wake();
    }

    pub(crate) fn wake(&self) {
        // The only failure of a valid eventfd is a full counter: then it is readable already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(crate) fn set_size(&self, (width, height): (u32, u32)) {
        self.size.store(u64::from(width) << 32 | u64::from(height), Ordering::Relaxed);
    }

    pub(crate) fn set_targets(&self, targets: Targets) {
        *lock(&self.targets) = targets;
    }

    /// The compositor has taken a keymap of characters.
    pub(crate) fn keymap_taken(&self) {
        self.keymaps.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn set_pointer(&self, place: Option<(u32, u32)>) {
        let place = place.map_or(NOWHERE, |(x, y)| u64::from(x) << 32 | u64::from(y));
        self.pointer.store(place, Ordering::Relaxed);
    }

    /// Where the pointer was put last.
    pub(crate) fn pointer(&self) -> Option<(u32, u32)> {
        match self.pointer.load(Ordering::Relaxed) {
            NOWHERE => None,
            place => Some(((place >> 32) as u32, place as u32)),
        }
    }

    pub(crate) fn size(&self) -> (u32, u32) {
        let size = self.size.load(Ordering::Relaxed);
        ((size >> 32) as u32, size as u32)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks leaves the data half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn gone(error: &dyn std::fmt::Display) -> Error {
    Error::Compositor { reason: error.to_string() }
}
