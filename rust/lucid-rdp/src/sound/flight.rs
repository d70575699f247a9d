//! What is under way to the client: sent and not confirmed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much longer than the quickest of late a confirmation may take before sending pauses. A client confirms when it
/// has played, or is about to play, so this is the backlog of the link.
const SLACK: Duration = Duration::from_millis(400);
/// How long the first confirmation may take: a client opens its device first.
const PATIENCE: Duration = Duration::from_secs(2);
/// The quickest confirmation counts for one to two of these.
const MEMORY: Duration = Duration::from_secs(5);
/// What is not confirmed by then never will be; longer than it takes on any link that is of use.
const LOST: Duration = Duration::from_secs(10);
/// The most pieces under way; fewer than the numbers that there are for them.
const MOST: usize = 200;

/// Pieces under way, oldest first.
#[derive(Debug, Default)]
pub(super) struct Flight {
    sent: VecDeque<(u8, Instant)>,
    next: u8,
    /// The quickest confirmation of this time and of the time before.
    quickest: [Option<Duration>; 2],
    since: Option<Instant>,
}

impl Flight {
    /// Whether one more may be sent.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        let allowed = self.quickest.iter().flatten().min().map_or(PATIENCE, |quickest| *quickest + SLACK);
        self.sent.len() < MOST
            && self.sent.front().is_none_or(|(_, at)| now.saturating_duration_since(*at) < allowed)
    }

    /// One is being sent; returns its number.
    pub(super) fn sent(&mut self, now: Instant) -> u8 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.sent.push_back((number, now));
        number
    }

    /// The client has this one, and those before, which came before.
    pub(super) fn confirmed(&mut self, number: u8, now: Instant) {
        // Twice, or made up.
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == number) else { return };
        let Some((_, sent)) = self.sent.drain(..=at).next_back() else { return };
        let took = now.saturating_duration_since(sent);
        tracing::trace!(number, took = took.as_millis() as u64, left = self.sent.len(), "confirmed");
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= MEMORY) {
            self.since = Some(now);
            self.quickest = [None, self.quickest[0]];
        }
        self.quickest[0] = Some(self.quickest[0].map_or(took, |quickest| quickest.min(took)));
    }

    /// Gives up what the client owes for too long.
    pub(super) fn forget(&mut self, now: Instant) {
        while self.sent.front().is_some_and(|(_, at)| now.saturating_duration_since(*at) >= LOST) {
            self.sent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_millis(20);

    /// A minute of sound over a link that takes `delay` and carries one piece in `pace`; returns pieces sent and the
    /// longest that one took.
    fn play(delay: Duration, pace: Duration) -> (u32, Duration) {
        let start = Instant::now();
        let (mut flight, mut sent, mut longest) = (Flight::default(), 0, Duration::ZERO);
        let mut arrivals: VecDeque<(u8, Instant, Instant)> = VecDeque::new();
        let mut free = start;
        for tick in 0..3000 {
            let now = start + PIECE * tick;
            while let Some((number, began, at)) = arrivals.front().copied().filter(|(.., at)| *at <= now) {
                arrivals.pop_front();
                longest = longest.max(at - began);
                flight.confirmed(number, now);
            }
            flight.forget(now);
            if flight.may_send(now) {
                sent += 1;
                free = free.max(now) + pace;
                arrivals.push_back((flight.sent(now), now, free + delay));
            }
        }
        (sent, longest)
    }

    #[test]
    fn on_a_link_that_is_fast_enough_nothing_is_left_out_however_long_it_is() {
        for delay in [0, 50, 300, 1500] {
            let (sent, _) = play(Duration::from_millis(delay), Duration::from_millis(10));
            assert_eq!(sent, 3000, "{delay} ms");
        }
    }

    #[test]
    fn on_a_link_that_is_too_slow_what_it_carries_is_sent_and_no_backlog_grows() {
        let (sent, longest) = play(Duration::from_millis(100), Duration::from_millis(40));
        assert!((1400..1600).contains(&sent), "{sent}");
        assert!(longest < PATIENCE * 2 + SLACK, "{longest:?}");
    }

    #[test]
    fn a_client_that_confirms_nothing_gets_little_and_costs_little() {
        let (sent, _) = play(Duration::from_secs(3600), Duration::ZERO);
        assert!((100..=1000).contains(&sent), "{sent}");
    }

    #[test]
    fn confirmations_that_are_made_up_or_come_twice_change_nothing() {
        let now = Instant::now();
        let mut flight = Flight::default();
        for number in 0..=255 {
            flight.confirmed(number, now);
        }
        assert!(flight.may_send(now) && flight.quickest == [None; 2]);
        let first = flight.sent(now);
        flight.sent(now);
        flight.confirmed(first, now + PIECE);
        flight.confirmed(first, now + PATIENCE);
        flight.confirmed(first.wrapping_sub(1), now + PATIENCE);
        assert_eq!(flight.sent.len(), 1);
        assert_eq!(flight.quickest[0], Some(PIECE));
    }

    #[test]
    fn never_more_is_under_way_than_numbers_can_tell_apart() {
        let now = Instant::now();
        let mut flight = Flight::default();
        let mut sent = 0;
        while flight.may_send(now) {
            flight.sent(now);
            sent += 1;
        }
        assert_eq!(sent, MOST);
        const { assert!(MOST < 256) };
    }
}
