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
/// `state.fullscreen`.
const FULLSCREEN: u32 = 3;

/// A window.
struct Window {
    handle: ZwlrForeignToplevelHandleV1,
    /// What its events say, until one says that this is all.
    coming: Known,
    known: Known,
    /// One has said so.
    introduced: bool,
}

#[derive(Clone, Default)]
struct Known {
    focus: Focus,
    has_it: bool,
    fills_screen: bool,
}

impl Known {
    fn is_of(&self, app_ids: &[String]) -> bool {
        self.focus.app_id.as_ref().is_some_and(|id| app_ids.contains(id))
    }
}

/// All windows.
#[derive(Default)]
pub(super) struct Windows {
    all: Vec<Window>,
    /// Something is other than when the sink was told.
    pub(super) changed: bool,
    told: Option<Focus>,
    /// The compositor tells of them.
    pub(super) are_told: bool,
    /// It paints their menus whatever their opacity, as sway does since 1.10.
    menus_show: bool,
    /// There were too many of them to look at all.
    too_many: bool,
}

impl Windows {
    /// Whether the compositor may paint something of one with such an id: it fills the screen, or can have a menu open.
    pub(super) fn may_show(&self, app_ids: &[String]) -> bool {
        let shows = |Window { coming, known, introduced, .. }: &Window| {
            let now = [coming, known];
            now.iter().any(|now| now.fills_screen || self.menus_show && now.has_it)
                && (!introduced || now.iter().any(|now| now.is_of(app_ids)))
        };
        !app_ids.is_empty() && (self.too_many || self.all.iter().any(shows))
    }
}

impl Session {
    /// Without this protocol the focus is not told and no window can be shielded; everything else works.
    pub(super) fn bind_windows(&mut self, registry: &WlRegistry, handle: &Handle) {
        // It came with the same release.
        self.windows.menus_show = self.global("wp_alpha_modifier_v1").is_some();
        match self.bind_global::<ZwlrForeignToplevelManagerV1>(registry, handle, (2, 3)) {
            Ok(_) => self.windows.are_told = true,
            Err(error) => tracing::warn!("which window has the focus is not known: {error}"),
        }
    }

    /// Tells the sink, if another window has the focus or the one that has it another title. Not at each event: the
    /// window that loses it is told of before the one that gets it.
    pub(super) fn tell_focus(&mut self) {
        if !std::mem::take(&mut self.windows.changed) {
            return;
        }
        let known = self.windows.all.iter().map(|window| &window.known).rfind(|known| known.has_it);
        let shielded = Focus::default();
        let app_ids = self.shielded.app_ids();
        let focus = known.map(|known| if known.is_of(app_ids) { &shielded } else { &known.focus });
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
                let window = Window { handle: toplevel, coming: known.clone(), known, introduced: false };
                session.windows.all.push(window);
            } else {
                tracing::warn!(
                    MAX_WINDOWS,
                    "there are too many windows; whether this one has the focus is not told"
                );
                toplevel.destroy();
                session.windows.too_many = true;
                session.look_for_windows();
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
            session.look_for_windows();
            return handle.destroy();
        }
        let Some(window) = session.window(handle) else { return };
        match event {
            Event::AppId { app_id } => window.coming.focus.app_id = shortened(&app_id, MAX_APP_ID),
            Event::Title { title } => window.coming.focus.title = shortened(&title, MAX_TITLE),
            Event::State { state } => {
                let (states, _) = state.as_chunks::<4>();
                let has = |wanted| states.iter().any(|state| u32::from_ne_bytes(*state) == wanted);
                (window.coming.has_it, window.coming.fills_screen) = (has(ACTIVATED), has(FULLSCREEN));
            }
            Event::Done => {
                window.known = window.coming.clone();
                window.introduced = true;
                session.windows.changed = true;
            }
            _ => return,
        }
        // At each event: a picture that shows the window may be the next.
        session.look_for_windows();
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
