//! What stands between the desktop's pictures and the encoder: nothing while a client is shown them, a notice over
//! them when there is something to tell, a closed curtain while there is no client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lucid_desktop::{Frame, Rect};

use crate::notice::Notice;
use crate::page::{Layout, Page};

/// The session's side and the painter's side share it.
#[derive(Clone, Default)]
pub(crate) struct Curtain(Arc<Mutex<State>>);

/// A picture with a notice on it. Empty while there is none.
#[derive(Default)]
pub(crate) struct Overlaid {
    pixels: Vec<u8>,
    damage: Vec<Rect>,
    /// What stood there last.
    last: Option<Notice>,
    /// The page that stood in its place, what stood over that, and the picture's size.
    page: Option<(Page, Option<Notice>, u32, u32)>,
}

#[derive(Default)]
struct State {
    closed: bool,
    notice: Option<Notice>,
    /// What its user has tried and may not; what the session has to say goes first.
    refusal: Option<Notice>,
    /// Of something that the user may stop; stands there when there is nothing else.
    progress: Option<Notice>,
    /// Where one of those two is in the picture, while it is there.
    told_at: Option<Rect>,
    /// Stands in the place of the desktop.
    page: Option<Page>,
    /// Where things are on it, once it was painted.
    page_at: Layout,
}

impl State {
    /// What stands over the desktop.
    fn told(&self) -> Option<&Notice> {
        self.notice.as_ref().or(self.refusal.as_ref()).or(self.progress.as_ref())
    }
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

    /// Shows this in the place of the desktop, or the desktop.
    pub(crate) fn turn_to(&self, page: Option<Page>) {
        let mut state = self.state();
        state.page = page;
        state.page_at = Layout::default();
    }

    /// The page that stands there, and where things are on it.
    pub(crate) fn page(&self) -> Option<(Page, Layout)> {
        let state = self.state();
        state.page.clone().map(|page| (page, state.page_at))
    }

    /// Tells its user that something was refused, or takes that away.
    pub(crate) fn refuse(&self, refusal: Option<Notice>) {
        let mut state = self.state();
        state.refusal = refusal;
        state.told_at = None;
    }

    /// Shows how far something is, that a click on it stops. Returns whether that is something new.
    pub(crate) fn tell(&self, progress: Option<&Notice>) -> bool {
        let mut state = self.state();
        let new = state.progress.as_ref() != progress;
        if new {
            state.progress = progress.cloned();
        }
        if progress.is_none() {
            state.told_at = None;
        }
        new
    }

    /// Whether what was told so stands there.
    pub(crate) fn tells_at(&self, (x, y): (u32, u32)) -> bool {
        let place = self.state().told_at;
        place.is_some_and(|place| place.overlaps(Rect { x, y, width: 1, height: 1 }))
    }

    /// The picture to encode, or `None` while nobody is shown any. `overlaid` holds it when something stands over it.
    pub(crate) fn pass<'a>(&self, frame: Frame<'a>, overlaid: &'a mut Overlaid) -> Option<Frame<'a>> {
        let mut state = self.state();
        if state.closed {
            *overlaid = Overlaid::default();
            return None;
        }
        if let Some(page) = state.page.clone() {
            overlaid.pixels.resize(frame.pixels.len(), 0);
            state.page_at = page.draw(frame.width, frame.height, frame.stride, &mut overlaid.pixels);
            // Such as that the session ends soon.
            let notice = state.notice.clone();
            if let Some(notice) = &notice {
                notice.draw(frame.width, frame.height, frame.stride, &mut overlaid.pixels);
            }
            overlaid.damage.clear();
            let whole = Rect { x: 0, y: 0, width: frame.width, height: frame.height };
            // What changes below it is not its matter.
            let shown = Some((page, notice, frame.width, frame.height));
            // Who has lost the picture has all of it repeated.
            if overlaid.page != shown || frame.damage.contains(&whole) {
                overlaid.damage.push(whole);
            }
            overlaid.page = shown;
            overlaid.last = None;
            return Some(Frame { pixels: &overlaid.pixels, damage: &overlaid.damage, ..frame });
        }
        let Some(notice) = state.told().cloned() else {
            *overlaid = Overlaid::default();
            return Some(frame);
        };
        overlaid.pixels.clear();
        overlaid.pixels.extend_from_slice(frame.pixels);
        let place = notice.draw(frame.width, frame.height, frame.stride, &mut overlaid.pixels);
        state.told_at = place.filter(|_| state.notice.is_none());
        overlaid.damage.clear();
        overlaid.damage.extend(frame.damage.iter().take(lucid_desktop::MAX_DAMAGE - 1));
        if frame.damage.len() >= lucid_desktop::MAX_DAMAGE {
            overlaid.damage.clear();
            overlaid.damage.push(Rect { x: 0, y: 0, width: frame.width, height: frame.height });
        } else {
            // Where nothing is new it is shown already; a picture that only makes things exact has no damage at all.
            let new = overlaid.last.as_ref() != Some(&notice);
            overlaid.damage.extend(place.filter(|p| new || frame.damage.iter().any(|d| d.overlaps(*p))));
        }
        overlaid.last = Some(notice);
        Some(Frame { pixels: &overlaid.pixels, damage: &overlaid.damage, ..frame })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_that_is_shown_already_damages_nothing_until_something_changes_under_it() {
        let notice = |title: &str| Notice { title: title.to_owned(), text: String::new() };
        let (width, height) = (640, 480);
        let pixels = vec![0; (width * height * 4) as usize];
        let whole = [Rect { x: 0, y: 0, width, height }];
        let (curtain, mut overlaid) = (Curtain::default(), Overlaid::default());
        let mut damage = |curtain: &Curtain, damage: &[Rect]| {
            let frame = Frame { width, height, stride: width as usize * 4, pixels: &pixels, damage };
            curtain.pass(frame, &mut overlaid).unwrap().damage.to_vec()
        };
        curtain.announce(Some(notice("one")));
        let shown = damage(&curtain, &whole);
        let place = shown[1];
        assert_eq!(shown.len(), 2);
        assert_eq!(damage(&curtain, &[]), []);
        let beside = Rect { x: 0, y: height - 1, width: 1, height: 1 };
        assert_eq!(damage(&curtain, &[beside]), [beside]);
        let under = Rect { x: place.x, y: place.y, width: 1, height: 1 };
        assert_eq!(damage(&curtain, &[under]), [under, place]);
        curtain.announce(Some(notice("two")));
        assert_eq!(damage(&curtain, &[]).len(), 1);
        assert_eq!(damage(&curtain, &[]), []);
    }
}
