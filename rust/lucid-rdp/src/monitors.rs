//! A client's monitors (MS-RDPBCGR 2.2.1.3.6 and 2.2.1.3.9, MS-RDPEDISP 2.2.2.2.1): one picture that holds all of them,
//! in which each has its place. Where there is no monitor nothing is shown.

use ironrdp_acceptor::DesktopSize;
use ironrdp_displaycontrol::pdu::DisplayControlMonitorLayout;
use ironrdp_pdu::gcc::{self, ClientGccBlocks, MonitorFlags};
use lucid_desktop::monitors::MAX_MONITORS;
use lucid_desktop::{Monitor, Rect};

use crate::display;

/// Where a desktop's monitors are, the primary one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    monitors: [Monitor; MAX_MONITORS],
    count: usize,
}

/// A monitor as a client describes it.
#[derive(Clone, Copy, Debug)]
struct Described {
    left: i64,
    top: i64,
    width: i64,
    height: i64,
    primary: bool,
    /// In percent.
    scale: u32,
}

impl Described {
    fn right(&self) -> i64 {
        self.left + self.width
    }

    fn bottom(&self) -> i64 {
        self.top + self.height
    }

    fn overlaps(&self, other: &Described) -> bool {
        self.left < other.right()
            && other.left < self.right()
            && self.top < other.bottom()
            && other.top < self.bottom()
    }

    /// Has a point of the edge in common.
    fn touches(&self, other: &Described) -> bool {
        self.left <= other.right()
            && other.left <= self.right()
            && self.top <= other.bottom()
            && other.top <= self.bottom()
    }
}

impl Layout {
    /// One monitor; the scale in percent.
    pub(crate) fn one(size: DesktopSize, scale: u32) -> Layout {
        let place = Rect { x: 0, y: 0, width: size.width.into(), height: size.height.into() };
        Layout { monitors: [Monitor { place, scale }; MAX_MONITORS], count: 1 }
    }

    /// The monitors of a client's first settings; none if there is only one, or if they are outside of this host's
    /// limits. A monitor whose scale it does not say has the given one, in percent.
    pub(crate) fn announced(blocks: &ClientGccBlocks, scale: u32, most: DesktopSize) -> Option<Layout> {
        let monitors = &blocks.monitor.as_ref()?.monitors;
        let more = blocks.monitor_extended.as_ref().map(|more| &more.extended_monitors_info);
        let more = more.filter(|more| more.len() == monitors.len());
        let described: Vec<Described> = monitors
            .iter()
            .enumerate()
            .map(|(number, monitor)| Described {
                left: monitor.left.into(),
                top: monitor.top.into(),
                // Right and bottom are within the monitor.
                width: i64::from(monitor.right) - i64::from(monitor.left) + 1,
                height: i64::from(monitor.bottom) - i64::from(monitor.top) + 1,
                primary: monitor.flags.contains(MonitorFlags::PRIMARY),
                scale: more
                    .and_then(|more| more.get(number))
                    .and_then(|info| display::scale(info.desktop_scale_factor, info.device_scale_factor))
                    .unwrap_or(scale),
            })
            .collect();
        Layout::of(&described, most)
    }

    /// The monitors that a client says it has now, like [`announced`](Layout::announced).
    ///
    /// # Errors
    /// Says which rule of MS-RDPEDISP (2.2.2.2.1, 3.1.5.2) they break.
    pub(crate) fn changed(
        layout: &DisplayControlMonitorLayout,
        most: DesktopSize,
    ) -> Result<Option<Layout>, &'static str> {
        let mut described = Vec::new();
        for monitor in layout.monitors() {
            let (left, top) = monitor.position().ok_or("the primary monitor is not at 0,0")?;
            let (width, height) = monitor.dimensions();
            let device = monitor.device_scale_factor().map(|factor| factor.value());
            let scale = monitor.desktop_scale_factor().zip(device);
            described.push(Described {
                left: left.into(),
                top: top.into(),
                width: width.into(),
                height: height.into(),
                primary: monitor.is_primary(),
                scale: scale.and_then(|(desktop, device)| display::scale(desktop, device)).unwrap_or(100),
            });
        }
        if described.len() < 2 {
            return Ok(None);
        }
        if described.iter().filter(|monitor| monitor.primary).count() != 1 {
            return Err("not exactly one monitor is the primary one");
        }
        // There may be 1024 of them.
        if described.len() <= MAX_MONITORS {
            for (number, monitor) in described.iter().enumerate() {
                let mut others = described.iter().enumerate().filter(|(other, _)| *other != number);
                if others.clone().any(|(_, other)| monitor.overlaps(other)) {
                    return Err("two monitors overlap");
                }
                if !others.any(|(_, other)| monitor.touches(other)) {
                    return Err("a monitor touches no other");
                }
            }
        }
        Ok(Layout::of(&described, most))
    }

    fn of(described: &[Described], most: DesktopSize) -> Option<Layout> {
        if described.len() < 2 {
            return None;
        }
        let refused = |why: &str| {
            tracing::warn!(monitors = described.len(), "the client's monitors are shown as one: {why}");
            None
        };
        if described.len() > MAX_MONITORS {
            return refused("there are too many");
        }
        let left = described.iter().map(|m| m.left).min()?;
        let top = described.iter().map(|m| m.top).min()?;
        let right = described.iter().map(Described::right).max()?;
        let bottom = described.iter().map(Described::bottom).max()?;
        if right - left > most.width.into() || bottom - top > most.height.into() {
            return refused("together they are too large");
        }
        let first = described.iter().position(|monitor| monitor.primary).unwrap_or(0);
        let mut layout = Layout::one(most, 100);
        layout.count = described.len();
        let order = std::iter::once(first).chain((0..described.len()).filter(|number| *number != first));
        for (slot, monitor) in layout.monitors.iter_mut().zip(order.filter_map(|at| described.get(at))) {
            let others = described.iter().filter(|other| other.overlaps(monitor)).count();
            let side = |length: i64| {
                u32::try_from(length).ok().filter(|side| lucid_desktop::handover::SIZES.contains(side))
            };
            let (Some(width), Some(height)) = (side(monitor.width), side(monitor.height)) else {
                return refused("one is too small or too large");
            };
            // It overlaps itself.
            if others != 1 {
                return refused("two overlap");
            }
            let (x, y) = (u32::try_from(monitor.left - left).ok()?, u32::try_from(monitor.top - top).ok()?);
            *slot = Monitor { place: Rect { x, y, width, height }, scale: monitor.scale };
        }
        Some(layout)
    }

    /// The picture's size.
    pub(crate) fn size(&self) -> DesktopSize {
        let side = |end: fn(&Rect) -> u32| {
            let most = self.monitors().iter().map(|monitor| end(&monitor.place)).max();
            most.and_then(|side| u16::try_from(side).ok()).unwrap_or_default()
        };
        DesktopSize { width: side(|r| r.x + r.width), height: side(|r| r.y + r.height) }
    }

    pub(crate) fn monitors(&self) -> &[Monitor] {
        self.monitors.get(..self.count).unwrap_or(&self.monitors)
    }

    /// The primary monitor's scale, in percent.
    pub(crate) fn scale(&self) -> u32 {
        self.monitors[0].scale
    }

    pub(crate) fn is_single(&self) -> bool {
        self.count == 1
    }

    /// As a client is told (MS-RDPBCGR 2.2.12.1.1, MS-RDPEGFX 2.2.2.14): the primary monitor is at 0,0.
    pub(crate) fn told(&self) -> Vec<gcc::Monitor> {
        let origin = self.monitors[0].place;
        // All are within 16 bits.
        let from = |at: u32, origin: u32| at as i32 - origin as i32;
        let monitors = self.monitors().iter().enumerate();
        monitors
            .map(|(number, Monitor { place, .. })| gcc::Monitor {
                left: from(place.x, origin.x),
                top: from(place.y, origin.y),
                right: from(place.x + place.width - 1, origin.x),
                bottom: from(place.y + place.height - 1, origin.y),
                flags: if number == 0 { MonitorFlags::PRIMARY } else { MonitorFlags::empty() },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironrdp_displaycontrol::pdu::MonitorLayoutEntry;

    const MOST: DesktopSize = DesktopSize { width: 3840, height: 2160 };

    fn described(left: i64, top: i64, width: i64, height: i64, primary: bool) -> Described {
        Described { left, top, width, height, primary, scale: 100 }
    }

    fn places(layout: &Layout) -> Vec<(u32, u32, u32, u32)> {
        layout.monitors().iter().map(|m| (m.place.x, m.place.y, m.place.width, m.place.height)).collect()
    }

    #[test]
    fn the_primary_monitor_is_the_first_and_the_picture_begins_at_the_leftmost_and_topmost() {
        let monitors = [described(-601, -100, 601, 400, false), described(0, 0, 800, 600, true)];
        let layout = Layout::of(&monitors, MOST).unwrap();
        assert_eq!(places(&layout), [(601, 100, 800, 600), (0, 0, 601, 400)]);
        assert_eq!(layout.size(), DesktopSize { width: 1401, height: 700 });
        let told: Vec<_> = layout.told().iter().map(|m| (m.left, m.top, m.right, m.bottom)).collect();
        assert_eq!(told, [(0, 0, 799, 599), (-601, -100, -1, 299)]);
        assert!(layout.told()[0].flags.contains(MonitorFlags::PRIMARY));
        assert!(!layout.is_single() && Layout::one(MOST, 100).is_single());
    }

    #[test]
    fn monitors_outside_of_the_limits_are_shown_as_one() {
        let good = described(0, 0, 800, 600, true);
        for other in [
            described(799, 0, 800, 600, false),
            described(800, 0, 3041, 600, false),
            described(800, 0, 800, 2161, false),
            described(800, 0, 199, 600, false),
            described(800, 0, -800, 600, false),
            described(i32::MIN.into(), 0, 800, 600, false),
            described(0, 0, 1 << 32, 1 << 32, false),
        ] {
            assert_eq!(Layout::of(&[good, other], MOST), None, "{other:?}");
        }
        assert_eq!(Layout::of(&[good], MOST), None);
        let row: Vec<_> = (0..5).map(|i| described(i * 200, 0, 200, 200, i == 0)).collect();
        assert_eq!(Layout::of(&row, MOST), None);
        assert_eq!(Layout::of(&row[..4], MOST).map(|layout| layout.monitors().len()), Some(4));
    }

    #[test]
    fn whatever_a_client_says_its_layout_is_within_the_limits_and_takes_the_desktop() {
        let mut state = 11_u64;
        let mut random = |below: i64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(state >> 33).unwrap() % below
        };
        let mut several = 0;
        for _ in 0..200_000 {
            let count = random(6);
            let monitors: Vec<_> = (0..count)
                .map(|i| {
                    let far = [3, 3000, 1 << 31][random(3) as usize];
                    let side = [900, 9000][random(2) as usize];
                    described(
                        i * random(1500) - random(far),
                        random(far),
                        random(side),
                        random(side),
                        random(3) == 0,
                    )
                })
                .collect();
            if let Some(layout) = Layout::of(&monitors, MOST) {
                several += 1;
                let size = layout.size();
                assert!(size.width <= MOST.width && size.height <= MOST.height);
                assert!((2..=MAX_MONITORS).contains(&layout.monitors().len()));
                for (number, monitor) in layout.monitors().iter().enumerate() {
                    let Rect { x, y, width, height } = monitor.place;
                    assert!(width >= 200 && x + width <= size.width.into());
                    assert!(height >= 200 && y + height <= size.height.into());
                    let apart = |other: &Monitor| {
                        let o = other.place;
                        x + width <= o.x || o.x + o.width <= x || y + height <= o.y || o.y + o.height <= y
                    };
                    assert!(layout.monitors()[..number].iter().all(apart));
                }
            }
        }
        assert!(several > 100, "{several}");
    }

    #[test]
    fn a_layout_that_breaks_the_rules_is_refused_with_a_reason() {
        let entry = |primary: bool, left, top| {
            let entry = if primary {
                MonitorLayoutEntry::new_primary(800, 600)
            } else {
                MonitorLayoutEntry::new_secondary(800, 600)
            };
            entry.unwrap().with_position(left, top).unwrap()
        };
        let good = DisplayControlMonitorLayout::new(&[entry(true, 0, 0), entry(false, -800, 20)]).unwrap();
        let layout = Layout::changed(&good, MOST).unwrap().unwrap();
        assert_eq!(places(&layout), [(800, 0, 800, 600), (0, 20, 800, 600)]);
        let alone = DisplayControlMonitorLayout::new(&[entry(true, 0, 0)]).unwrap();
        assert_eq!(Layout::changed(&alone, MOST), Ok(None));
        // Nothing that encodes breaks them, so its bytes are changed: the second monitor's left edge and its flags.
        let bytes = ironrdp_core::encode_vec(&good).unwrap();
        let second = 8 + 40;
        let with = |at: usize, value: i32| {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let layout: DisplayControlMonitorLayout = ironrdp_core::decode(&bytes).unwrap();
            Layout::changed(&layout, MOST)
        };
        assert_eq!(with(second + 4, -800).map(|layout| layout.is_some()), Ok(true));
        assert_eq!(with(second + 4, -799), Err("two monitors overlap"));
        assert_eq!(with(second + 4, -801), Err("a monitor touches no other"));
        assert!(with(second, 1).is_err());
        assert!(with(8, 0).is_err());
    }
}
