//! How much the link to a client bears, learnt from when pictures are acknowledged.
//!
//! A picture's bytes begin to arrive when those before it have arrived, and not before the link's shortest delay has
//! passed since it was sent; from then to its acknowledgement is what its bytes took on the link (and in the
//! client). From that come the bytes a second, what a picture may take, and how many may be under way: enough to
//! keep a long link busy, too few to make a queue on it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pictures under way on a short link.
const FEW: usize = 2;
/// Pictures under way on the longest link.
const MANY: usize = 16;
/// Beyond [`FEW`], one more for so much of the delay.
const EACH: Duration = Duration::from_millis(50);
/// What a picture may take on the link.
const SHARE: f64 = 0.1;
/// Until something has been acknowledged, in bytes.
const UNKNOWN: usize = 64 * 1024;
/// The least and the most that a picture may take, in bytes.
const BUDGET: std::ops::RangeInclusive<usize> = 6 * 1024..=2 * 1024 * 1024;
/// So few bytes take no time on any link.
const SMALL: usize = 2 * 1024;
/// Fewer bytes say little about the link.
const TELLING: usize = 8 * 1024;
/// Times below this are noise.
const MOMENT: Duration = Duration::from_millis(2);
/// How long the shortest delay is believed.
const BELIEVED: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Flight {
    frame: u32,
    sent: Instant,
    bytes: usize,
    /// The rest of the picture follows.
    ahead: bool,
}

/// What is known of the link.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    flying: VecDeque<Flight>,
    /// The shortest delay from sending to the acknowledgement, and since when it is believed.
    shortest: Option<(Duration, Instant)>,
    /// When the last acknowledgement came.
    last: Option<Instant>,
    /// Bytes a second.
    rate: Option<f64>,
}

impl Pace {
    fn under_way(&self) -> usize {
        self.flying.iter().map(|f| f.bytes).sum()
    }

    /// A picture, or the rest of one, was handed to the socket.
    pub(crate) fn sent(&mut self, frame: u32, bytes: usize, now: Instant) {
        self.flying.push_back(Flight { frame, sent: now, bytes, ahead: false });
    }

    /// A part of a picture was handed to the socket. It counts as a picture only together with its rest.
    pub(crate) fn sent_ahead(&mut self, frame: u32, bytes: usize, now: Instant) {
        self.flying.push_back(Flight { frame, sent: now, bytes, ahead: true });
    }

    /// The client has shown a picture, and thus all before it.
    pub(crate) fn acknowledged(&mut self, frame: u32, now: Instant) {
        let Some(at) = self.flying.iter().position(|f| f.frame == frame) else { return };
        let arrived: Vec<_> = self.flying.drain(..=at).collect();
        let (Some(first), Some(last)) = (arrived.first(), arrived.last()) else { return };
        let bytes: usize = arrived.iter().map(|f| f.bytes).sum();
        let delay = now.duration_since(last.sent);
        let shortest = match self.shortest {
            // Only something small tells that the link has become longer.
            Some((shortest, since))
                if shortest <= delay && (bytes > SMALL || now.duration_since(since) < BELIEVED) =>
            {
                shortest
            }
            _ => {
                self.shortest = Some((delay, now));
                delay
            }
        };
        let earliest = first.sent + shortest;
        let began = self.last.map_or(earliest, |last| last.max(earliest));
        self.last = Some(now);
        if bytes >= TELLING {
            self.learn(bytes, now.saturating_duration_since(began));
        }
    }

    /// A piece of so many bytes was taken by the socket after so long; all that is known of clients that do not
    /// acknowledge.
    pub(crate) fn written(&mut self, bytes: usize, took: Duration) {
        // The socket's own memory takes small pieces at once.
        if took >= MOMENT * 10 && bytes >= TELLING && self.shortest.is_none() {
            self.learn(bytes, took);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes under way fit a double")]
    fn learn(&mut self, bytes: usize, took: Duration) {
        let sample = bytes as f64 / took.max(MOMENT).as_secs_f64();
        self.rate = Some(match self.rate {
            // Upwards in a few steps; downwards carefully, as a client that was busy for once is no slow link.
            Some(rate) if sample > rate => rate + (sample - rate) / 2.0,
            Some(rate) => rate + (sample - rate) / 4.0,
            None => sample,
        });
    }

    /// What is under way will not be acknowledged any more.
    pub(crate) fn forget(&mut self) {
        self.flying.clear();
    }

    /// Whether another picture may be sent.
    pub(crate) fn may_send(&self) -> bool {
        let delay = self.shortest.map_or(Duration::ZERO, |(delay, _)| delay);
        let more = usize::try_from(delay.as_millis() / EACH.as_millis()).unwrap_or(MANY);
        let count = FEW + more.min(MANY - FEW);
        let pictures = self.flying.iter().filter(|f| !f.ahead).count();
        if pictures < FEW {
            return true;
        }
        let window = self.rate.map_or(0.0, |rate| rate * (delay.as_secs_f64() + SHARE));
        #[expect(clippy::cast_precision_loss, reason = "bytes under way fit a double")]
        let under_way = self.under_way() as f64;
        pictures < count && under_way < window
    }

    /// From when on the link has nothing to do, though what it took may not be there yet; `None` when that is not known
    /// before the next acknowledgement.
    pub(crate) fn idle_from(&self, now: Instant) -> Option<Instant> {
        let Some(first) = self.flying.front() else { return Some(now) };
        let rate = self.rate.filter(|_| self.flying.len() < MANY)?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a picture fit a double")]
        let takes = |flight: &Flight| Duration::from_secs_f64(flight.bytes as f64 / rate);
        Some(self.flying.iter().fold(first.sent, |free, flight| free.max(flight.sent) + takes(flight)))
    }

    /// What the next picture may take, in bytes, if it can be helped.
    pub(crate) fn budget(&self) -> usize {
        let Some(rate) = self.rate else { return UNKNOWN };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped just after")]
        let bytes = (rate * SHARE) as usize;
        bytes.clamp(*BUDGET.start(), *BUDGET.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of some rate and delay, with a queue: sends whenever it may; returns the pictures' delays.
    fn simulate(rate: f64, delay: Duration, full: impl Fn(usize) -> usize) -> (Pace, Vec<Duration>) {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut now = start;
        let mut free = start;
        let mut acks: VecDeque<(u32, Instant)> = VecDeque::new();
        let mut delays = Vec::new();
        // The session begins with a picture of nothing.
        pace.sent(0, 60, now);
        acks.push_back((0, now + delay));
        let mut frame = 1;
        while now < start + Duration::from_secs(20) {
            while let Some((frame, at)) = acks.front().copied()
                && at <= now
            {
                pace.acknowledged(frame, at);
                acks.pop_front();
            }
            if pace.may_send() {
                let bytes = full(pace.budget());
                pace.sent(frame, bytes, now);
                free = free.max(now) + Duration::from_secs_f64(bytes as f64 / rate);
                delays.push(free + delay - now);
                acks.push_back((frame, free + delay));
                frame += 1;
            }
            now += Duration::from_millis(5);
        }
        (pace, delays)
    }

    #[test]
    fn on_a_slow_and_long_link_pictures_are_small_and_hardly_queue() {
        let delay = Duration::from_millis(400);
        let (pace, delays) = simulate(200_000.0, delay, |budget| budget);
        assert!((10_000..40_000).contains(&pace.budget()), "{}", pace.budget());
        let late = delays.iter().skip(delays.len() / 2).max().unwrap();
        assert!(*late < delay + Duration::from_millis(400), "{late:?}");
        assert!(delays.len() > 60, "{} pictures in 20 s", delays.len());
    }

    #[test]
    fn on_a_fast_link_the_budget_is_large_and_at_most_two_are_under_way() {
        let (pace, _) = simulate(100e6, Duration::from_micros(300), |budget| budget.min(100_000));
        assert!(pace.budget() > 1_000_000, "{}", pace.budget());
        let mut pace = pace;
        pace.forget();
        let now = Instant::now();
        let mut count = 0;
        while pace.may_send() {
            pace.sent(1_000_000 + count, 100, now);
            count += 1;
        }
        assert_eq!(count, 2);
    }

    #[test]
    fn a_long_link_is_idle_when_it_has_taken_all_though_nothing_is_acknowledged() {
        let (mut pace, _) = simulate(200_000.0, Duration::from_millis(400), |budget| budget);
        pace.forget();
        let now = Instant::now() + Duration::from_secs(60);
        assert_eq!(pace.idle_from(now), Some(now));
        pace.sent(1_000_000, 20_000, now);
        pace.sent(1_000_001, 20_000, now);
        let idle = pace.idle_from(now).unwrap().duration_since(now);
        assert!((150..300).contains(&idle.as_millis()), "{idle:?}");
        for number in 2..32 {
            pace.sent(1_000_000 + number, 100, now);
        }
        assert_eq!(pace.idle_from(now), None, "more are under way than any link needs");
        // Of a link of which nothing is known, only the acknowledgement tells.
        let mut pace = Pace::default();
        pace.sent(0, 20_000, now);
        assert_eq!(pace.idle_from(now), None);
        pace.acknowledged(0, now);
        assert_eq!(pace.idle_from(now), Some(now));
    }

    #[test]
    fn a_picture_in_two_parts_is_one() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for picture in 0..2 {
            assert!(pace.may_send());
            pace.sent_ahead(2 * picture, 100, now);
            pace.sent(2 * picture + 1, 100, now);
        }
        assert!(!pace.may_send());
        pace.acknowledged(0, now);
        assert!(!pace.may_send());
        pace.acknowledged(1, now);
        assert!(pace.may_send());
    }

    #[test]
    fn typing_on_a_long_link_is_not_held_up_by_acknowledgements() {
        let (mut pace, _) = simulate(200_000.0, Duration::from_millis(400), |budget| budget);
        pace.forget();
        let now = Instant::now();
        let mut count = 0;
        while pace.may_send() {
            pace.sent(1_000_000 + count, 200, now);
            count += 1;
        }
        assert!(count >= 8, "{count}");
    }
}
