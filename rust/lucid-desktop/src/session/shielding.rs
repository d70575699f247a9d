//! What is [shielded](crate::shield) in the picture.

use std::time::{Duration, Instant};

use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::{Connection, Dispatch};

use super::{Handle, Session};
use crate::damage::clip;
use crate::shield::{AFTER_SHOWN, MASK, Shield};
use crate::{Error, Rect};

/// A pixel of the mask.
const PIXEL: [u8; 4] = [MASK[2], MASK[1], MASK[0], 0xff];
/// After each of these periods the compositor has to answer, so that time in which it stands still does not count.
const PERIODS: u32 = 5;

/// What holds.
#[derive(Default)]
pub(super) struct Shielded {
    shield: Shield,
    /// The compositor may still paint what it should not, or not yet what it should.
    pending: bool,
    /// It could not be had.
    failed: bool,
    /// The compositor may paint something of a shielded window, or may do so still.
    full: bool,
    /// It has no reason to any more.
    ending: Option<Ending>,
}

struct Ending {
    periods_left: u32,
    /// When the present period ends; none while the compositor has not answered.
    due: Option<Instant>,
}

/// Marks the callback of a period.
struct Period;

impl Shielded {
    pub(super) fn app_ids(&self) -> &[String] {
        &self.shield.app_ids
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }

    /// What is masked of an output, in its own pixels.
    pub(super) fn masks(&self, origin: (u32, u32), size: (u32, u32)) -> Vec<Rect> {
        if self.full || self.failed {
            return vec![Rect { x: 0, y: 0, width: size.0, height: size.1 }];
        }
        let int = |v: u32| i32::try_from(v).unwrap_or(i32::MAX);
        let place = |r: &Rect| {
            let (x, y) = (int(r.x) - int(origin.0), int(r.y) - int(origin.1));
            clip(x, y, int(r.width), int(r.height), size)
        };
        self.shield.rectangles.iter().filter_map(place).collect()
    }
}

impl Session {
    /// Takes up a shield. Nothing is shown any more until [`shielded`](Self::shielded); unless nothing changes, which who
    /// asks says of the compositor.
    pub(crate) fn shield(&mut self, shield: Shield, same: bool) -> Result<(), Error> {
        if !shield.app_ids.is_empty() && !self.windows.are_told {
            self.shield_failed();
            return Err(Error::Missing { interface: "zwlr_foreign_toplevel_manager_v1" });
        }
        if same && self.shielded.shield == shield && !self.shielded.failed {
            return Ok(());
        }
        self.shielded.shield = shield;
        self.shielded.pending = true;
        self.shielded.failed = false;
        self.take_anew();
        self.sink.forget();
        self.look_for_windows();
        self.windows.changed = true;
        self.tell_focus();
        Ok(())
    }

    /// The compositor paints what it should and nothing else.
    pub(crate) fn shielded(&mut self) {
        self.shielded.pending = false;
    }

    /// It does not: nothing is shown.
    pub(crate) fn shield_failed(&mut self) {
        self.shielded.pending = false;
        self.shielded.failed = true;
        self.mask_all();
    }

    /// Masks everything as soon as the compositor may paint something of a shielded window.
    pub(super) fn look_for_windows(&mut self) {
        if self.windows.may_show(&self.shielded.shield.app_ids) {
            self.shielded.ending = None;
            if !std::mem::replace(&mut self.shielded.full, true) {
                self.mask_all();
            }
        } else if self.shielded.full && self.shielded.ending.is_none() {
            self.shielded.ending = Some(Ending { periods_left: PERIODS, due: Some(Instant::now()) });
        }
    }

    /// Shows the desktop again when the compositor has no reason any more to paint a shielded window, and has had its time.
    pub(super) fn end_mask(&mut self, connection: &Connection, handle: &Handle) {
        let Some(ending) = &mut self.shielded.ending else { return };
        if ending.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        if ending.periods_left == 0 {
            self.shielded.ending = None;
            self.shielded.full = false;
            return self.take_anew();
        }
        ending.periods_left -= 1;
        ending.due = None;
        connection.display().sync(handle, Period);
    }

    /// How long the thread may sleep, if it has to do something then.
    pub(crate) fn wakes_in(&self) -> Option<Duration> {
        let due = self.shielded.ending.as_ref()?.due?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Paints over the whole picture.
    fn mask_all(&mut self) {
        if !self.picture.is_empty() {
            self.picture.as_chunks_mut().0.fill(PIXEL);
            self.damage.all(self.picture_size);
        }
    }

    /// Forgets what the picture shows, and gives none until everything is taken anew.
    fn take_anew(&mut self) {
        self.mask_all();
        self.complete = false;
        for output in &mut self.outputs {
            output.start_over();
        }
    }
}

/// Paints over what is masked of some rows of an output, from the row `y` on; they may be the other way round.
pub(super) fn paint(band: &mut [u8], stride: usize, y: u32, y_invert: bool, masks: &[Rect]) {
    let rows = band.len() / stride;
    for mask in masks {
        for (i, row) in band.chunks_exact_mut(stride).enumerate() {
            let at = y as usize + if y_invert { rows - 1 - i } else { i };
            let (left, right) = (mask.x as usize * 4, (mask.x + mask.width) as usize * 4);
            if (mask.y as usize..(mask.y + mask.height) as usize).contains(&at)
                && let Some(pixels) = row.get_mut(left..right)
            {
                pixels.as_chunks_mut().0.fill(PIXEL);
            }
        }
    }
}

impl Dispatch<WlCallback, Period> for Session {
    fn event(
        session: &mut Session,
        _: &WlCallback,
        _: wl_callback::Event,
        _: &Period,
        _: &Connection,
        _: &Handle,
    ) {
        if let Some(ending) = session.shielded.ending.as_mut().filter(|ending| ending.due.is_none()) {
            ending.due = Some(Instant::now() + AFTER_SHOWN / PERIODS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_masked_of_an_output_is_painted_over_and_nothing_else_whichever_way_its_rows_go() {
        let rect = |x, y, width, height| Rect { x, y, width, height };
        let mut shielded = Shielded::default();
        assert_eq!(shielded.masks((0, 0), (10, 10)), []);
        shielded.shield.rectangles = vec![rect(8, 3, 4, 2), rect(30, 0, 8192, 1), rect(0, 0, 1, 1)];
        let masks = shielded.masks((10, 2), (10, 10));
        assert_eq!(masks, [rect(0, 1, 2, 2)]);
        assert_eq!(shielded.masks((20, 0), (12, 10)), [rect(10, 0, 2, 1)]);
        for y_invert in [false, true] {
            // Rows 2 and 3 of it, with a row's end that belongs to nothing.
            let mut band = vec![7; 44 * 2];
            paint(&mut band, 44, 2, y_invert, &masks);
            let masked = if y_invert { 44..52 } else { 0..8 };
            for (at, byte) in band.iter().enumerate() {
                assert_eq!(*byte != 7, masked.contains(&at), "{at}");
            }
        }
        shielded.full = true;
        assert_eq!(shielded.masks((10, 2), (10, 10)), [rect(0, 0, 10, 10)]);
    }
}
