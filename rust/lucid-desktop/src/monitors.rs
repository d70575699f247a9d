//! Several monitors: one output of the compositor for each, and one picture that holds them all.

use crate::handover::{self, SCALES, SIZES};
use crate::{Error, Rect};

/// The most monitors of a desktop. The launcher makes so many outputs; those that no monitor needs are off.
pub const MAX_MONITORS: usize = 4;

/// wlroots rounds scales to these parts (wp-fractional-scale-v1).
const SCALE_PARTS: u64 = 120;

/// The name that the compositor gives to its output with that number, counted from 0.
#[must_use]
pub fn output_name(number: usize) -> String {
    format!("HEADLESS-{}", number + 1)
}

/// A monitor of a desktop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Where it is in the picture, in pixels.
    pub place: Rect,
    /// How large it shows things, in percent, within [`SCALES`].
    pub scale: u32,
}

/// The monitors of a desktop: between one and [`MAX_MONITORS`], the primary one first. They have no pixel in common, and
/// the picture is the smallest that holds all of them; where there is no monitor it is black.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrangement(Vec<Monitor>);

impl Arrangement {
    /// # Errors
    /// Says which limit is exceeded.
    pub(crate) fn new(monitors: &[Monitor]) -> Result<Arrangement, Error> {
        let refused = |what: String| Err(Error::Request { what });
        if !(1..=MAX_MONITORS).contains(&monitors.len()) {
            return refused(format!("{} monitors are not within 1..={MAX_MONITORS}", monitors.len()));
        }
        for (number, monitor) in monitors.iter().enumerate() {
            let Monitor { place, scale } = *monitor;
            handover::check_size(place.width, place.height)?;
            if !SCALES.contains(&scale) {
                let (least, most) = (SCALES.start(), SCALES.end());
                return refused(format!("{scale} % is not within {least}..={most} %"));
            }
            if place.x > *SIZES.end() || place.y > *SIZES.end() {
                return refused(format!("a monitor at {},{} is outside of any picture", place.x, place.y));
            }
            if monitors.iter().take(number).any(|other| other.place.overlaps(place)) {
                return refused("two monitors overlap".into());
            }
        }
        let arrangement = Arrangement(monitors.to_vec());
        let (width, height) = arrangement.extent();
        handover::check_size(width, height)?;
        let start = |side: fn(&Monitor) -> u32| monitors.iter().map(side).min();
        if start(|m| m.place.x) != Some(0) || start(|m| m.place.y) != Some(0) {
            return refused("no monitor is at the picture's left or top".into());
        }
        Ok(arrangement)
    }

    /// One monitor of that size, at 100 %.
    pub(crate) fn single(width: u32, height: u32) -> Result<Arrangement, Error> {
        Arrangement::new(&[Monitor { place: Rect { x: 0, y: 0, width, height }, scale: 100 }])
    }

    pub(crate) fn monitors(&self) -> &[Monitor] {
        &self.0
    }

    /// The monitor, if there is only one.
    pub(crate) fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    /// The picture's size.
    pub(crate) fn extent(&self) -> (u32, u32) {
        let most = |end: fn(&Rect) -> u32| self.0.iter().map(|m| end(&m.place)).max().unwrap_or(0);
        (most(|r| r.x + r.width), most(|r| r.y + r.height))
    }

    /// Where the monitor's output is among the others, in the compositor's units. Where all have one scale they lie as
    /// their pixels do; otherwise those with a larger scale are smaller than their places, and never overlap.
    pub(crate) fn position(&self, monitor: &Monitor) -> (i32, i32) {
        let least = self.0.iter().map(|m| m.scale).min().unwrap_or(100);
        let parts = (u64::from(least) * SCALE_PARTS + 50) / 100;
        // At most as large as what is divided.
        let unit = |pixels: u32| i32::try_from(u64::from(pixels) * SCALE_PARTS / parts).unwrap_or(i32::MAX);
        (unit(monitor.place.x), unit(monitor.place.y))
    }
}

/// The monitor at which a place of the picture is, and the place within it; where there is none, at the nearest one.
pub(crate) fn locate(places: impl Iterator<Item = Rect>, (x, y): (u32, u32)) -> Option<(usize, (u32, u32))> {
    let nearest = |at: u32, start: u32, length: u32| at.clamp(start, start + length - 1);
    places
        .enumerate()
        .map(|(number, place)| {
            let (inner_x, inner_y) = (nearest(x, place.x, place.width), nearest(y, place.y, place.height));
            let far = u64::from(inner_x.abs_diff(x)) + u64::from(inner_y.abs_diff(y));
            (far, number, (inner_x - place.x, inner_y - place.y))
        })
        .min()
        .map(|(_, number, inner)| (number, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(x: u32, y: u32, width: u32, height: u32, scale: u32) -> Monitor {
        Monitor { place: Rect { x, y, width, height }, scale }
    }

    #[test]
    fn monitors_lie_apart_from_the_pictures_corner_on_and_within_the_limits() {
        let good = [monitor(800, 100, 1280, 720, 100), monitor(0, 0, 800, 600, 150)];
        assert_eq!(Arrangement::new(&good).unwrap().extent(), (2080, 820));
        let bad: [&[Monitor]; 9] = [
            &[],
            &[monitor(0, 0, 300, 300, 100); 2],
            &[monitor(0, 0, 800, 600, 100), monitor(799, 599, 800, 600, 100)],
            &[monitor(1, 0, 800, 600, 100)],
            &[monitor(0, 1, 800, 600, 100), monitor(800, 1, 800, 600, 100)],
            &[monitor(0, 0, 8000, 600, 100), monitor(8000, 0, 800, 600, 100)],
            &[monitor(0, 0, 800, 600, 100), monitor(u32::MAX, u32::MAX, 800, 600, 100)],
            &[monitor(0, 0, 800, 600, 99)],
            &[monitor(0, 0, 800, 199, 100)],
        ];
        for monitors in bad {
            assert!(Arrangement::new(monitors).is_err(), "{monitors:?}");
        }
        let many: Vec<_> = (0..5).map(|i| monitor(i * 200, 0, 200, 200, 100)).collect();
        assert!(Arrangement::new(&many).is_err());
        assert!(Arrangement::new(&many[..4]).is_ok());
    }

    #[test]
    fn outputs_of_any_scales_have_places_that_do_not_overlap_and_touch_where_the_scale_is_one() {
        for a in 100..=500 {
            for b in [a, 100, 125, 127, 133, 166, 175, 250, 500] {
                let monitors = [monitor(0, 0, 1366, 768, a), monitor(1366, 0, 1920, 1080, b)];
                let arrangement = Arrangement::new(&monitors).unwrap();
                // As wlroots computes the size of an output.
                let parts = (u64::from(a) * 120 + 50) / 100;
                let width = i32::try_from(1366 * 120 / parts).unwrap();
                let (left, _) = arrangement.position(&monitors[1]);
                assert!(left >= width, "{a} {b}: {left} {width}");
                if a == b {
                    assert_eq!(left, width);
                }
            }
        }
    }

    #[test]
    fn every_place_of_the_picture_is_at_a_monitor() {
        let places = [(100, 0, 200, 300), (300, 50, 400, 250)].map(|(x, y, width, height)| Rect {
            x,
            y,
            width,
            height,
        });
        let at = |x, y| locate(places.iter().copied(), (x, y)).unwrap();
        assert_eq!(at(100, 0), (0, (0, 0)));
        assert_eq!(at(299, 299), (0, (199, 299)));
        assert_eq!(at(300, 50), (1, (0, 0)));
        assert_eq!(at(699, 299), (1, (399, 249)));
        // Beside all of them.
        assert_eq!(at(0, 10), (0, (0, 10)));
        assert_eq!(at(600, 0), (1, (300, 0)));
        assert_eq!(at(u32::MAX, u32::MAX), (1, (399, 249)));
        assert_eq!(locate(std::iter::empty(), (0, 0)), None);
    }
}
