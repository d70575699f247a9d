//! What is out of the ordinary: marks of it, and how long somebody waits because of it.
//!
//! Each [`Kind`] has a [`Limit`]: so many times within so long. Who reaches it gets a [`Mark`], which goes on until he
//! has rested for that long. Marks are for people (`lucidctl status`) and close nothing. What slows somebody down:
//!
//! - **An address** whose logins fail, or whose handshakes come to nothing, waits before the next one is answered: longer
//!   with each of the last minute, and never for longer than eight seconds. Nobody is locked out, and a minute of rest
//!   forgives everything. A right password forgives nothing: it would pay for guessing others. Connections that say
//!   nothing make nobody wait, as they cost a socket alone, of which there are few.
//! - **Loopback** waits for a second at most: an onion service hands all of its clients on from there, and a stranger's
//!   failures must not keep everybody else out. Against guessing from there the passwords themselves have to do.
//! - **A session's** pastes and sizes beyond the limit wait until they are within it again: see [`Anomalies::free_at`].
//!
//! Nothing here has a clock: what time it is, is said by the caller. A clock that goes back stands still.
//!
//! Everything is bounded: [`MOST_MARKS`], [`MOST_SUBJECTS`] of each kind, and of each no more times than count.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// So many marks are kept; of more, those go that were seen last the longest time ago.
const MOST_MARKS: usize = 64;
/// So many addresses, users or sessions are counted of each kind; of more, those go that did nothing for the longest.
const MOST_SUBJECTS: usize = 256;
/// Characters of a user's name.
const MOST_NAME: usize = 64;

/// How long an address that has to wait is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Logins that may fail within that time without a wait: somebody who looks for the right one of his passwords.
const FREE_LOGINS: usize = 5;
/// Handshakes that may come to nothing without one. A client makes two or three before its user has accepted the
/// certificate and typed the password, and several people may come from one address.
const FREE_HANDSHAKES: usize = 30;
/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// So often it doubles: up to eight seconds, which every known client waits for an answer.
const DOUBLINGS: u32 = 5;
/// And for loopback: up to a second.
const DOUBLINGS_ON_LOOPBACK: u32 = 2;

/// What may be out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Logins with a wrong password or the name of nobody: of one address, and of one user from anywhere.
    FailedLogins,
    /// Connections of one address that ended before anybody had proved who he is, failed logins aside.
    ConnectionBurst,
    /// What was pasted in a session, either way. What is large counts for several: see [`PASTE`].
    ClipboardBurst,
    /// The sizes that a client had its desktop take.
    ResizeBurst,
    /// What the policy refused in a session.
    ViolationBurst,
}

/// How often within which time is out of the ordinary.
#[derive(Clone, Copy, Debug)]
struct Limit {
    times: usize,
    within: Duration,
}

impl Kind {
    /// As people and programs are told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::FailedLogins => "failed-logins",
            Kind::ConnectionBurst => "connection-burst",
            Kind::ClipboardBurst => "clipboard-burst",
            Kind::ResizeBurst => "resize-burst",
            Kind::ViolationBurst => "violation-burst",
        }
    }

    const fn limit(self) -> Limit {
        let (times, seconds) = match self {
            // What others take for an attack as well (fail2ban); longer than a wait is remembered, so that somebody who
            // guesses slowly enough to wait for nothing is seen.
            Kind::FailedLogins => (5, 600),
            // Ten logins of a client that makes three connections for each: no person does that.
            Kind::ConnectionBurst => (30, 60),
            // An office program asks for what it pastes in three forms, and nobody's hand does that twice a second.
            Kind::ClipboardBurst => (50, 10),
            // A dragged edge has two sizes a second drawn (see `display`), a hand that lets go of it each time four.
            Kind::ResizeBurst => (60, 10),
            // Some twenty seconds of typing where nothing may be typed: by then everybody has noticed.
            Kind::ViolationBurst => (100, 60),
        };
        Limit { times, within: Duration::from_secs(seconds) }
    }
}

/// So many bytes of one paste count as one more. With the limit of pastes: 200 MiB within ten seconds.
pub(crate) const PASTE: usize = 4 << 20;

/// Whom a mark is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Whoever comes from there: one address, or a network of IPv6 (see [`address`]).
    Address(IpAddr),
    /// Whoever says to be this user, whom there is.
    User(String),
    /// Whoever says to be somebody whom there is not. What he said is kept nowhere: it may be a password.
    NoUser,
    /// The session with that number.
    Session(u32),
}

impl Who {
    /// As whom a client came.
    pub(crate) fn user(name: Option<&str>) -> Who {
        name.map_or(Who::NoUser, |name| Who::User(name.chars().take(MOST_NAME).collect()))
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Address(IpAddr::V6(network)) if !is_of_one_link(*network) => write!(f, "{network}/64"),
            Who::Address(address) => write!(f, "{address}"),
            Who::User(name) => write!(f, "the user {name}"),
            Who::NoUser => f.write_str("users that there are not"),
            Who::Session(id) => write!(f, "session {id}"),
        }
    }
}

/// What is counted as one address. Of IPv6 that is a network of 64 bits, as everybody has one of these to himself; but not
/// of addresses that are of one link or this machine, where neighbours share it.
fn address(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) if !is_of_one_link(v6) => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & u128::MAX << 64))
        }
        other => other,
    }
}

fn is_of_one_link(v6: Ipv6Addr) -> bool {
    v6.is_unicast_link_local() || v6.is_loopback()
}

/// Something that was out of the ordinary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) kind: Kind,
    pub(crate) who: Who,
    /// How often it was seen from `first` to `last`.
    pub(crate) times: u64,
    pub(crate) first: Instant,
    pub(crate) last: Instant,
}

/// When something happened: the newest times.
#[derive(Default)]
struct Times(VecDeque<Instant>);

impl Times {
    /// So many at once; of all, the newest are kept. Returns when that was.
    fn add(&mut self, times: usize, keep: usize, now: Instant) -> Instant {
        let now = self.0.back().map_or(now, |last| now.max(*last));
        self.0.extend(std::iter::repeat_n(now, times.min(keep)));
        self.0.drain(..self.0.len().saturating_sub(keep));
        now
    }

    /// Those of the last while, the oldest first.
    fn of_last(&self, while_: Duration, now: Instant) -> impl ExactSizeIterator<Item = Instant> {
        let before = self.0.partition_point(|at| now.saturating_duration_since(*at) >= while_);
        self.0.range(before..).copied()
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// What becomes a mark.
    Kind(Kind),
    /// Handshakes of an address that came to nothing, after the client had said something.
    Handshakes,
}

impl Counted {
    /// So many times count: enough for the longest wait, and for the limit.
    const fn keep(self) -> usize {
        let waits = DOUBLINGS as usize + 1;
        match self {
            Counted::Kind(kind) => kind.limit().times + waits,
            Counted::Handshakes => FREE_HANDSHAKES + waits,
        }
    }
}

// The longest wait is reached with what is kept of failed logins.
const _: () = assert!(FREE_LOGINS <= Kind::FailedLogins.limit().times);

struct Subject {
    counted: Counted,
    who: Who,
    times: Times,
}

/// Everything that is counted, and the marks of it.
#[derive(Default)]
pub(crate) struct Anomalies {
    subjects: Vec<Subject>,
    marks: Vec<Mark>,
}

impl Anomalies {
    /// A login failed: from there, as that user, if that is known. Returns the marks that begin with it.
    pub(crate) fn failed_login(&mut self, peer: IpAddr, user: Option<Who>, now: Instant) -> Vec<Mark> {
        let who = [Some(Who::Address(address(peer))), user];
        who.into_iter().flatten().filter_map(|who| self.note(Kind::FailedLogins, who, 1, now)).collect()
    }

    /// A connection ended before anybody had proved who he is; `spoke` if its client had said something. Returns the mark
    /// that begins with it.
    pub(crate) fn unauthenticated(&mut self, peer: IpAddr, spoke: bool, now: Instant) -> Option<Mark> {
        let who = Who::Address(address(peer));
        if spoke {
            self.add(Counted::Handshakes, &who, 1, now);
        }
        self.note(Kind::ConnectionBurst, who, 1, now)
    }

    /// Something was seen so many times, just now. Returns the mark that begins with it.
    pub(crate) fn note(&mut self, kind: Kind, who: Who, times: usize, now: Instant) -> Option<Mark> {
        if times == 0 {
            return None;
        }
        let limit = kind.limit();
        let (now, within, first) = {
            let (now, all) = self.add(Counted::Kind(kind), &who, times, now);
            let mut seen = all.of_last(limit.within, now);
            (now, seen.len(), seen.next().unwrap_or(now))
        };
        let goes_on = |mark: &&mut Mark| {
            (mark.kind, &mark.who) == (kind, &who) && now.saturating_duration_since(mark.last) < limit.within
        };
        if let Some(mark) = self.marks.iter_mut().find(goes_on) {
            mark.times = mark.times.saturating_add(times as u64);
            mark.last = now;
            return None;
        }
        if within < limit.times {
            return None;
        }
        if self.marks.len() >= MOST_MARKS {
            let oldest = self.marks.iter().enumerate().min_by_key(|(_, mark)| mark.last);
            if let Some((oldest, _)) = oldest {
                self.marks.remove(oldest);
            }
        }
        let mark = Mark { kind, who, times: within.max(times) as u64, first, last: now };
        self.marks.push(mark.clone());
        Some(mark)
    }

    /// How long the next handshake from there waits for its answer.
    pub(crate) fn wait(&self, peer: IpAddr, now: Instant) -> Duration {
        let address = address(peer);
        let most = if address.is_loopback() { DOUBLINGS_ON_LOOPBACK } else { DOUBLINGS };
        let who = Who::Address(address);
        let beyond = |counted, free: usize| {
            let times = self.times(counted, &who).map_or(0, |times| times.of_last(REMEMBERED, now).len());
            (times + 1).saturating_sub(free)
        };
        let beyond = beyond(Counted::Kind(Kind::FailedLogins), FREE_LOGINS)
            .max(beyond(Counted::Handshakes, FREE_HANDSHAKES));
        match u32::try_from(beyond).unwrap_or(u32::MAX).checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_WAIT * (1 << doublings.min(most)),
        }
    }

    /// When one more of a kind is within its limit, if it is not now.
    pub(crate) fn free_at(&self, kind: Kind, who: &Who, now: Instant) -> Option<Instant> {
        let limit = kind.limit();
        let mut newest = self.times(Counted::Kind(kind), who)?.of_last(limit.within, now);
        // So many are left when this one has gone.
        let goes = newest.len().checked_sub(limit.times)?;
        newest.nth(goes).map(|at| at + limit.within)
    }

    /// The marks, in the order in which they began.
    pub(crate) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    fn times(&self, counted: Counted, who: &Who) -> Option<&Times> {
        self.subjects.iter().find(|of| (of.counted, &of.who) == (counted, who)).map(|of| &of.times)
    }

    /// Counts; returns when that was, and all of the kind.
    fn add(&mut self, counted: Counted, who: &Who, times: usize, now: Instant) -> (Instant, &Times) {
        let found = self.subjects.iter().position(|of| (of.counted, &of.who) == (counted, who));
        let place = found.unwrap_or_else(|| {
            let alike = |of: &Subject| of.counted == counted && discriminant(&of.who) == discriminant(who);
            let others = self.subjects.iter().enumerate().filter(|(_, of)| alike(of));
            if others.clone().count() >= MOST_SUBJECTS
                && let Some((oldest, _)) = others.min_by_key(|(_, of)| of.times.0.back().copied())
            {
                self.subjects.swap_remove(oldest);
            }
            self.subjects.push(Subject { counted, who: who.clone(), times: Times::default() });
            self.subjects.len() - 1
        });
        let times_of = &mut self.subjects[place].times;
        let now = times_of.add(times, counted.keep(), now);
        (now, times_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 5] = [
        Kind::FailedLogins,
        Kind::ConnectionBurst,
        Kind::ClipboardBurst,
        Kind::ResizeBurst,
        Kind::ViolationBurst,
    ];
    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// xorshift.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn a_mark_begins_with_as_many_as_the_limit_says_within_its_time_and_with_none_before() {
        for kind in KINDS {
            let Limit { times, within } = kind.limit();
            let began = Instant::now();
            // Just too slow: the first has gone whenever the last one comes.
            let slow = within.div_f64(times as f64 - 1.0) + Duration::from_millis(1);
            let fast = within.div_f64(times as f64);
            let mut anomalies = Anomalies::default();
            for step in 0..1000_u32 {
                assert_eq!(anomalies.note(kind, Who::Session(1), 1, began + slow * step), None, "{kind:?}");
            }
            for step in 0..1000_u32 {
                let begun = anomalies.note(kind, Who::Session(2), 1, began + fast * step);
                assert_eq!(begun.is_some(), step as usize + 1 == times, "{kind:?}, {step}");
            }
            let first =
                Mark { kind, who: Who::Session(2), times: 1000, first: began, last: began + fast * 999 };
            assert_eq!(anomalies.marks(), [first]);
        }
    }

    #[test]
    fn a_mark_goes_on_until_there_was_a_rest_and_then_another_one_may_begin() {
        let Limit { times, within } = Kind::ClipboardBurst.limit();
        let (mut anomalies, mut now) = (Anomalies::default(), Instant::now());
        let who = Who::Session(1);
        assert!(anomalies.note(Kind::ClipboardBurst, who.clone(), times, now).is_some());
        now += within - Duration::from_millis(1);
        assert_eq!(anomalies.note(Kind::ClipboardBurst, who.clone(), 1, now), None);
        assert_eq!(anomalies.marks()[0].times, times as u64 + 1);
        now += within;
        for _ in 1..times {
            assert_eq!(anomalies.note(Kind::ClipboardBurst, who.clone(), 1, now), None);
        }
        assert!(anomalies.note(Kind::ClipboardBurst, who, 1, now).is_some());
        assert_eq!(anomalies.marks().iter().map(|mark| mark.times).collect::<Vec<_>>(), [51, 50]);
    }

    #[test]
    fn what_waits_for_its_time_is_never_more_often_than_the_limit_says_in_any_window() {
        for kind in [Kind::ClipboardBurst, Kind::ResizeBurst] {
            let Limit { times, within } = kind.limit();
            let (mut anomalies, mut now, mut state) = (Anomalies::default(), Instant::now(), 7);
            let mut done = Vec::new();
            for _ in 0..5000 {
                now += Duration::from_millis(next(&mut state) % 100);
                if let Some(free) = anomalies.free_at(kind, &Who::Session(1), now) {
                    assert!(free > now && free <= now + within);
                    now = free;
                    assert_eq!(anomalies.free_at(kind, &Who::Session(1), now), None);
                }
                anomalies.note(kind, Who::Session(1), 1, now);
                done.push(now);
            }
            assert!(done.windows(times + 1).all(|window| window[times] - window[0] >= within));
            assert_eq!(anomalies.free_at(kind, &Who::Session(2), now), None, "another session");
        }
        // What counts for many is waited for as a whole, and no longer than the window.
        let (mut anomalies, now) = (Anomalies::default(), Instant::now());
        anomalies.note(Kind::ClipboardBurst, Who::Session(1), usize::MAX, now);
        let free = anomalies.free_at(Kind::ClipboardBurst, &Who::Session(1), now + SECOND);
        assert_eq!(free, Some(now + Kind::ClipboardBurst.limit().within));
    }

    #[test]
    fn an_address_waits_longer_with_each_failure_never_for_long_and_a_minute_forgives() {
        for (peer, waits) in [
            ("192.0.2.7", [0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000]),
            ("127.0.0.1", [0, 250, 500, 1000, 1000, 1000, 1000, 1000, 1000]),
            ("::1", [0, 250, 500, 1000, 1000, 1000, 1000, 1000, 1000]),
            ("::ffff:127.0.0.1", [0, 250, 500, 1000, 1000, 1000, 1000, 1000, 1000]),
        ] {
            let peer = ip(peer);
            for logins in [true, false] {
                let (mut anomalies, now) = (Anomalies::default(), Instant::now());
                let fail = |anomalies: &mut Anomalies| {
                    if logins {
                        anomalies.failed_login(peer, None, now);
                    } else {
                        anomalies.unauthenticated(peer, true, now);
                    }
                };
                let free = if logins { FREE_LOGINS } else { FREE_HANDSHAKES };
                (1..free).for_each(|_| fail(&mut anomalies));
                for wait in waits {
                    assert_eq!(anomalies.wait(peer, now), Duration::from_millis(wait), "{peer}");
                    fail(&mut anomalies);
                }
                assert_eq!(anomalies.wait(ip("192.0.2.8"), now), Duration::ZERO, "somebody else");
                assert!(anomalies.wait(peer, now + REMEMBERED - SECOND) > Duration::ZERO);
                assert_eq!(anomalies.wait(peer, now + REMEMBERED), Duration::ZERO);
            }
        }
    }

    #[test]
    fn who_says_nothing_makes_nobody_wait_and_is_seen() {
        let (mut anomalies, now, peer) = (Anomalies::default(), Instant::now(), ip("192.0.2.7"));
        for _ in 0..1000 {
            anomalies.unauthenticated(peer, false, now);
        }
        assert_eq!(anomalies.wait(peer, now), Duration::ZERO);
        assert!(matches!(anomalies.marks(), [Mark { kind: Kind::ConnectionBurst, times: 1000, .. }]));
    }

    #[test]
    fn failed_logins_are_told_by_address_and_by_user_and_what_nobody_is_called_is_kept_nowhere() {
        let (mut anomalies, now) = (Anomalies::default(), Instant::now());
        // A user is guessed at from everywhere.
        for host in 1..=5 {
            let begun =
                anomalies.failed_login(IpAddr::from([192, 0, 2, host]), Some(Who::user(Some("ada"))), now);
            assert_eq!(begun.len(), usize::from(host == 5));
        }
        // And an address guesses at names.
        for _ in 0..5 {
            anomalies.failed_login(ip("192.0.2.9"), Some(Who::user(None)), now);
        }
        let marked: Vec<_> = anomalies.marks().iter().map(|mark| mark.who.to_string()).collect();
        assert_eq!(marked, ["the user ada", "192.0.2.9", "users that there are not"]);
        let Who::User(name) = Who::user(Some(&"ä".repeat(1000))) else { panic!("no user") };
        assert_eq!(name.chars().count(), MOST_NAME);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_neighbours_are_not() {
        let same = |a, b| address(ip(a)) == address(ip(b));
        assert!(same("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:ffff::1"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:192.0.2.7", "192.0.2.7") && !same("192.0.2.7", "192.0.2.8"));
        assert!(!same("fe80::1", "fe80::2") && !same("::1", "::2"));
        let shown = |text| Who::Address(address(ip(text))).to_string();
        assert_eq!(shown("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(
            [shown("fe80::1"), shown("::1"), shown("::ffff:192.0.2.7")],
            ["fe80::1", "::1", "192.0.2.7"]
        );
    }

    #[test]
    fn whatever_comes_everything_stays_bounded_and_the_newest_marks_are_kept() {
        let (mut anomalies, mut now, mut state) = (Anomalies::default(), Instant::now(), 7);
        for round in 0..20_000_u32 {
            now += Duration::from_millis(next(&mut state) % 5);
            let peer = IpAddr::from(u32::to_be_bytes(0x0a00_0000 + next(&mut state) as u32 % 2000));
            let user = Some(Who::user(Some(&(next(&mut state) % 1000).to_string())));
            anomalies.failed_login(peer, user, now);
            anomalies.unauthenticated(peer, round.is_multiple_of(2), now);
            let kind = KINDS[next(&mut state) as usize % KINDS.len()];
            anomalies.note(kind, Who::Session(round % 1000), next(&mut state) as usize % 200, now);
        }
        let newest = anomalies.marks().iter().map(|mark| mark.last).max();
        assert_eq!(anomalies.marks().len(), MOST_MARKS);
        assert!(newest.is_some_and(|newest| now - newest < SECOND));
        // Failed logins are of three sorts (addresses, users, sessions here), connections of two, handshakes of one.
        assert!(anomalies.subjects.len() <= 9 * MOST_SUBJECTS);
        assert!(anomalies.subjects.iter().all(|of| of.times.0.len() <= of.counted.keep()));
    }

    #[test]
    fn a_flood_of_addresses_pushes_out_neither_users_nor_sessions_and_no_address_that_comes_again() {
        let (mut anomalies, now, guesser) = (Anomalies::default(), Instant::now(), ip("198.51.100.1"));
        for number in 0..10_000_u32 {
            let at = now + Duration::from_millis(number.into());
            anomalies.failed_login(IpAddr::from(u32::to_be_bytes(0x0a00_0000 + number)), None, at);
            if number.is_multiple_of(100) {
                anomalies.failed_login(guesser, Some(Who::user(Some("ada"))), at);
            }
        }
        assert!(anomalies.wait(guesser, now + 10 * SECOND) > Duration::ZERO);
        assert!(anomalies.marks().iter().any(|mark| mark.who == Who::user(Some("ada"))));
    }

    #[test]
    fn a_clock_that_jumps_ends_no_wait_before_its_time_and_makes_none_longer() {
        let (began, peer, mut state) = (Instant::now() + 100_000 * SECOND, ip("192.0.2.7"), 7);
        let mut anomalies = Anomalies::default();
        for _ in 0..5000 {
            // Up to a day forth and back.
            let now = began + Duration::from_millis(next(&mut state) % 86_400_000) - 50_000 * SECOND;
            anomalies.failed_login(peer, Some(Who::NoUser), now);
            anomalies.note(Kind::ClipboardBurst, Who::Session(1), 3, now);
            assert!(anomalies.wait(peer, now) <= Duration::from_secs(8));
        }
        for mark in anomalies.marks() {
            assert!(mark.first <= mark.last && mark.times > 0, "{mark:?}");
        }
        // Back again: it stands still, and what was counted counts.
        let last = anomalies.marks().iter().map(|mark| mark.last).max().unwrap();
        for _ in 0..5 {
            anomalies.failed_login(peer, None, began - 90_000 * SECOND);
        }
        assert!(anomalies.wait(peer, began - 90_000 * SECOND) > Duration::ZERO);
        assert!(anomalies.marks().iter().all(|mark| mark.last <= last));
        // Far ahead: everything is over.
        let ahead = last + 86_400 * SECOND;
        assert_eq!(anomalies.wait(peer, ahead), Duration::ZERO);
        assert_eq!(anomalies.free_at(Kind::ClipboardBurst, &Who::Session(1), ahead), None);
    }
}
