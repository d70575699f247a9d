//! The recorder's own clock: callers are not asked what time it is.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lucid_recording::Time;

/// Gives milliseconds since the Unix epoch. Tests have clocks of their own.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A time without the recorder is believed up to so much: more is a clock that was set meanwhile.
const LONGEST_ABSENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The clock of the system; 0 before 1970.
#[must_use]
pub fn system_clock() -> WallClock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, milliseconds))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time of one session.
#[derive(Clone)]
pub(crate) struct Clock {
    wall: WallClock,
    origin: Instant,
    origin_us: u64,
}

impl Clock {
    /// A session that begins now.
    pub(crate) fn new(wall: WallClock) -> Self {
        Self { wall, origin: Instant::now(), origin_us: 0 }
    }

    /// A session that was recorded up to then, before the recorder died. The time between is what the wall clock says
    /// of it, or none where that cannot be.
    pub(crate) fn after(wall: WallClock, last: Time) -> Self {
        let absence = wall().saturating_sub(last.wall_ms);
        let absence = if absence > milliseconds(LONGEST_ABSENCE) { 0 } else { absence };
        Self { wall, origin: Instant::now(), origin_us: last.mono_us.saturating_add(absence * 1000) }
    }

    /// Now. Its `mono_us` never goes back.
    pub(crate) fn now(&self) -> Time {
        let since = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        Time { wall_ms: self.wall_ms(), mono_us: self.origin_us.saturating_add(since) }
    }

    /// When it was that time of the session; its beginning, for one before.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_micros(time.mono_us.saturating_sub(self.origin_us))
    }

    pub(crate) fn wall_ms(&self) -> u64 {
        (self.wall)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_a_recorder_counts_unless_the_clock_was_set() {
        let at = |now: u64| {
            let last = Time { wall_ms: 10_000_000, mono_us: 5_000 };
            Clock::after(Arc::new(move || now), last).now().mono_us
        };
        let about = |us: u64| us..us + 10_000_000;
        assert!(about(5_000 + 2_000_000).contains(&at(10_002_000)));
        assert!(about(5_000).contains(&at(10_000_000 - 3_600_000)));
        assert!(about(5_000).contains(&at(10_000_000 + 31_536_000_000)));
    }
}
