//! What the client's window is like while it is connected: the Display Control channel (MS-RDPEDISP).
//!
//! A client that drags its window's edge says a new size at every step. Only the last one counts, and only when the
//! client has rested for a moment, so that no step is drawn for nothing.

use std::future::pending;
use std::time::Duration;

use ironrdp_acceptor::DesktopSize;
use ironrdp_core::{decode, impl_as_any};
use ironrdp_displaycontrol::CHANNEL_NAME;
use ironrdp_displaycontrol::pdu::{
    DisplayControlCapabilities, DisplayControlMonitorLayout, DisplayControlPdu,
};
use ironrdp_dvc::{DvcMessage, DvcProcessor, DvcServerProcessor};
use ironrdp_pdu::{PduResult, decode_err};
use lucid_desktop::monitors::MAX_MONITORS;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::monitors::Layout;

/// How long a client has to rest for its wish to be done.
const REST: Duration = Duration::from_millis(60);
/// A client that never rests gets a wish done so often nevertheless.
const RESTLESS: Duration = Duration::from_millis(500);

/// How many monitors a client may have.
const MONITORS: u32 = MAX_MONITORS as u32;

/// The smallest side that a client may have, in pixels (MS-RDPEDISP 2.2.2.2.1).
const MIN_SIDE: u32 = 200;

/// What a client wants its desktop to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Within this host's limits.
    pub(crate) size: DesktopSize,
    /// How large things are, in percent; none if it does not say.
    pub(crate) scale: Option<u32>,
    /// Its monitors, if it has several; then the size is that of all of them.
    pub(crate) several: Option<Layout>,
}

/// A client's scale (MS-RDPBCGR 2.2.1.3.2 and MS-RDPEDISP 2.2.2.2.1, which have the same two fields): both have to be
/// valid, or neither counts.
pub(crate) fn scale(desktop: u32, device: u32) -> Option<u32> {
    (lucid_desktop::handover::SCALES.contains(&desktop) && matches!(device, 100 | 140 | 180))
        .then_some(desktop)
}

/// The channel's end on this side, and what comes out of it.
pub(crate) fn control(most: DesktopSize) -> (Control, Wishes) {
    let (wished, wishes) = watch::channel(None);
    (Control { most, wished }, Wishes { wishes, since: None, due: None })
}

/// The Display Control channel.
pub(crate) struct Control {
    most: DesktopSize,
    wished: watch::Sender<Option<Wish>>,
}

impl_as_any!(Control);

impl DvcProcessor for Control {
    fn channel_name(&self) -> &str {
        CHANNEL_NAME
    }

    fn start(&mut self, _channel_id: u32) -> PduResult<Vec<DvcMessage>> {
        // In all as many pixels as the largest desktop has (MS-RDPEDISP 2.2.2.1: the product of the three).
        let capabilities = DisplayControlCapabilities::new(
            MONITORS,
            u32::from(self.most.width) / 2,
            u32::from(self.most.height) / (MONITORS / 2),
        )
        .map_err(|e| decode_err!(e))?;
        Ok(vec![Box::new(DisplayControlPdu::from(capabilities))])
    }

    fn process(&mut self, _channel_id: u32, payload: &[u8]) -> PduResult<Vec<DvcMessage>> {
        match decode(payload) {
            Ok(DisplayControlPdu::MonitorLayout(layout)) => {
                if let Some(wish) = wish(&layout, self.most) {
                    self.wished.send_replace(Some(wish));
                }
            }
            Ok(DisplayControlPdu::Caps(_)) => tracing::debug!("a client says what only a server may"),
            // Sizes outside of what MS-RDPEDISP allows, among others: no reason to lose the connection.
            Err(error) => tracing::debug!(%error, "a monitor layout that cannot be read; the size stays"),
        }
        Ok(Vec::new())
    }
}

impl DvcServerProcessor for Control {}

/// What a layout is like; of monitors that are outside of this host's limits the primary one alone, within them.
fn wish(layout: &DisplayControlMonitorLayout, most: DesktopSize) -> Option<Wish> {
    match Layout::changed(layout, most) {
        Ok(None) => {}
        Ok(Some(several)) => return Some(Wish { size: several.size(), scale: None, several: Some(several) }),
        Err(why) => {
            tracing::warn!("a client's monitors stay as they are: {why}");
            return None;
        }
    }
    let monitors = layout.monitors();
    let monitor = monitors.iter().find(|m| m.is_primary()).or(monitors.first())?;
    let (width, height) = monitor.dimensions();
    let side = |side: u32, most: u16| u16::try_from(side.clamp(MIN_SIDE, most.into())).unwrap_or(most);
    // Widths are even (2.2.2.2.1), and so is the widest.
    let size = DesktopSize { width: side(width, most.width) & !1, height: side(height, most.height) };
    let device = monitor.device_scale_factor().map(|factor| factor.value());
    let scale =
        monitor.desktop_scale_factor().zip(device).and_then(|(desktop, device)| scale(desktop, device));
    Some(Wish { size, scale, several: None })
}

/// The sizes that a client wishes for.
#[derive(Debug)]
pub(crate) struct Wishes {
    wishes: watch::Receiver<Option<Wish>>,
    /// When the first wish came that is not done, and when the last of them is due.
    since: Option<Instant>,
    due: Option<Instant>,
}

impl Wishes {
    /// Waits for the next wish on which the client rests. May be dropped at any time and loses nothing.
    pub(crate) async fn next(&mut self) -> Wish {
        loop {
            let due = self.due;
            let rested = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let wishes = &mut self.wishes;
            let changed = async {
                // The channel may be gone; what it wished for last is still done.
                if wishes.changed().await.is_err() {
                    pending().await
                }
            };
            tokio::select! {
                () = changed => {
                    let now = Instant::now();
                    let since = *self.since.get_or_insert(now);
                    self.due = Some((now + REST).min(since + RESTLESS));
                }
                () = rested => {
                    (self.since, self.due) = (None, None);
                    if let Some(wish) = *self.wishes.borrow_and_update() {
                        return wish;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironrdp_core::encode_vec;
    use ironrdp_displaycontrol::pdu::MonitorLayoutEntry;

    const MOST: DesktopSize = DesktopSize { width: 3840, height: 2160 };

    fn layout(width: u32, height: u32) -> Vec<u8> {
        let monitor = MonitorLayoutEntry::new_primary(width, height).unwrap();
        encode_vec(&DisplayControlPdu::from(DisplayControlMonitorLayout::new(&[monitor]).unwrap())).unwrap()
    }

    async fn next(wishes: &mut Wishes) -> (u16, u16) {
        let size = wishes.next().await.size;
        (size.width, size.height)
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_storm_of_sizes_few_are_done_and_the_last_one_always() {
        let (mut control, mut wishes) = control(MOST);
        let storm = async {
            for step in 0..200 {
                control.process(1, &layout(800 + step * 2, 600 + step)).unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            control.process(1, &layout(1000, 700)).unwrap();
        };
        let done = async {
            let mut done = Vec::new();
            while done.last() != Some(&(1000, 700)) {
                done.push(next(&mut wishes).await);
            }
            done
        };
        let ((), done) = tokio::join!(storm, done);
        // Two seconds of dragging.
        assert!((2..=5).contains(&done.len()), "{done:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_may_be_given_up_at_any_time() {
        let (mut control, mut wishes) = control(MOST);
        control.process(1, &layout(1024, 768)).unwrap();
        let mut tries = 0;
        let size = loop {
            tries += 1;
            if let Ok(size) = tokio::time::timeout(Duration::from_millis(7), wishes.next()).await {
                break size.size;
            }
        };
        assert_eq!((size.width, size.height), (1024, 768));
        assert!((2..20).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_is_done_though_its_channel_is_closed_meanwhile() {
        let (mut control, mut wishes) = control(MOST);
        control.process(1, &layout(1024, 768)).unwrap();
        drop(control);
        assert_eq!(next(&mut wishes).await, (1024, 768));
    }

    #[tokio::test(start_paused = true)]
    async fn no_size_outside_of_the_limits_comes_through() {
        let most = DesktopSize { width: 1921, height: 1080 };
        for (asked, done) in
            [((8192, 8192), (1920, 1080)), ((200, 200), (200, 200)), ((640, 1081), (640, 1080))]
        {
            let (mut control, mut wishes) = control(most);
            control.process(1, &layout(asked.0, asked.1)).unwrap();
            assert_eq!(next(&mut wishes).await, done);
        }
    }

    #[test]
    fn what_is_damaged_ends_nothing_and_keeps_within_the_limits() {
        let good = layout(1024, 768);
        let mut state = 7_u32;
        for _ in 0..20_000 {
            let mut damaged = good.clone();
            for _ in 0..1 + state % 4 {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let at = state as usize % damaged.len();
                damaged[at] = (state >> 8) as u8;
            }
            damaged.truncate(if state.is_multiple_of(5) {
                state as usize % (good.len() + 1)
            } else {
                good.len()
            });
            let (mut control, wishes) = control(MOST);
            control.process(1, &damaged).unwrap();
            let wish = *wishes.wishes.borrow();
            if let Some(Wish { size, scale, .. }) = wish {
                assert!(scale.is_none_or(|scale| (100..=500).contains(&scale)));
                assert!((200..=3840).contains(&size.width) && size.width % 2 == 0);
                assert!((200..=2160).contains(&size.height));
            }
        }
    }
}
