//! Which window has the focus (wlr-foreign-toplevel-management-unstable-v1).

use wayland_client::protocol::wl_registry::WlRegistry;
use wayland_client::{Connection, Dispatch, event_created_child};
use wayland_protocols_wlr::foreign_toplevel::v1::client::zwlr_foreign_toplevel_handle_v1::{
    self, ZwlrForeignToplevelHandleV1,
};
use wayland_protocols_wlr::foreign_toplevel::v1::client::zwlr_foreign_toplevel_manager_v1::{
    self, ZwlrForeignToplevelManagerV1,
};

use super::{Handle, Session};
use crate::types::{Focus, MAX_APP_ID, MAX_TITLE};

/// Windows that are looked at; of more the focus is not known.
const MAX_WINDOWS: usize = 1024;
/// `state.activated`.
const ACTIVATED: u32 = 2;

/// A window.
struct Window {
    handle: ZwlrForeignToplevelHandleV1,
    /// What its events say, until one says that this is all.
    coming: Known,
    known: Known,
}

#[derive(Clone, Default)]
struct Known {
    focus: Focus,
    has_it: bool,
}

/// All windows.
#[derive(Default)]
pub(super) struct Windows {
    all: Vec<Window>,
    /// Something is other than when the sink was told.
    changed: bool,
    told: Option<Focus>,
}

impl Session {
    /// Without this protocol the focus is not told; everything else works.
    pub(super) fn bind_windows(&mut self, registry: &WlRegistry, handle: &Handle) {
        if let Err(error) = self.bind_global::<ZwlrForeignToplevelManagerV1>(registry, handle, (1, 3)) {
            tracing::warn!("which window has the focus is not known: {error}");
        }
    }

    /// Tells the sink, if another window has the focus or the one that has it another title. Not at each event: the
    /// window that loses it is told of before the one that gets it.
    pub(super) fn tell_focus(&mut self) {
        if !std::mem::take(&mut self.windows.changed) {
            return;
        }
        let focus = self.windows.all.iter().rfind(|window| window.known.has_it).map(|w| &w.known.focus);
        if focus != self.windows.told.as_ref() {
            self.sink.focus(focus);
            self.windows.told = focus.cloned();
        }
    }

    fn window(&mut self, handle: &ZwlrForeignToplevelHandleV1) -> Option<&mut Window> {
        self.windows.all.iter_mut().find(|window| window.handle == *handle)
    }
}

/// The beginning of a text that has so many bytes at most, and ends with a whole character.
fn shortened(text: &str, most: usize) -> Option<String> {
    let text = &text[..text.floor_char_boundary(most)];
    (!text.is_empty()).then(|| text.to_owned())
}

impl Dispatch<ZwlrForeignToplevelManagerV1, ()> for Session {
    fn event(
        session: &mut Session,
        _: &ZwlrForeignToplevelManagerV1,
        event: zwlr_foreign_toplevel_manager_v1::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        if let zwlr_foreign_toplevel_manager_v1::Event::Toplevel { toplevel } = event {
            if session.windows.all.len() < MAX_WINDOWS {
                let known = Known::default();
                session.windows.all.push(Window { handle: toplevel, coming: known.clone(), known });
            } else {
                tracing::warn!(
                    MAX_WINDOWS,
                    "there are too many windows; whether this one has the focus is not told"
                );
                toplevel.destroy();
            }
        }
    }

    event_created_child!(Session, ZwlrForeignToplevelManagerV1, [
        zwlr_foreign_toplevel_manager_v1::EVT_TOPLEVEL_OPCODE => (ZwlrForeignToplevelHandleV1, ()),
    ]);
}

impl Dispatch<ZwlrForeignToplevelHandleV1, ()> for Session {
    fn event(
        session: &mut Session,
        handle: &ZwlrForeignToplevelHandleV1,
        event: zwlr_foreign_toplevel_handle_v1::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        use zwlr_foreign_toplevel_handle_v1::Event;
        if let Event::Closed = event {
            session.windows.all.retain(|window| window.handle != *handle);
            session.windows.changed = true;
            return handle.destroy();
        }
        let Some(window) = session.window(handle) else { return };
        match event {
            Event::AppId { app_id } => window.coming.focus.app_id = shortened(&app_id, MAX_APP_ID),
            Event::Title { title } => window.coming.focus.title = shortened(&title, MAX_TITLE),
            Event::State { state } => {
                let (states, _) = state.as_chunks::<4>();
                window.coming.has_it = states.iter().any(|state| u32::from_ne_bytes(*state) == ACTIVATED);
            }
            Event::Done => {
                window.known = window.coming.clone();
                session.windows.changed = true;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_programs_are_shortened_between_characters() {
        assert_eq!(shortened("", 4), None);
        assert_eq!(shortened("foot", 4).as_deref(), Some("foot"));
        assert_eq!(shortened("footx", 4).as_deref(), Some("foot"));
        assert_eq!(shortened("fooä", 4).as_deref(), Some("foo"));
        assert_eq!(shortened("😀", 3), None);
    }
}
