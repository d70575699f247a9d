//! What a session does beside what it shows, for its recording: events ([`lucid_ipc::session::Event`]), and the queue in
//! which they wait together with what the pointer does and what is heard.
//!
//! **A recording is one desktop's life**, with as many connections as its user makes meanwhile: `connect`,
//! `authenticate` and `disconnect` mark them, and what happens in between without a client (another window gets the
//! focus) is in it as well. A client that is not let in has no session: that is in the log (`refused: …`) and in no
//! recording.
//!
//! Of input there are counts of a [`Period`], and never keys. Whatever crosses is told when it has crossed, or was
//! refused, or has failed. What the desktop's programs do with files of the client's drives beside reading and writing
//! (names, times, deletion) is not told.
//!
//! Who notices something may not wait, or runs elsewhere: so events are [noted](Log::note), and whoever carries the
//! session waits until the recorder has room before it goes on. Nothing is dropped, and no more is noted meanwhile. While
//! the recorder is away nothing crosses, and what was noted waits for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lucid_desktop::Tally;
use lucid_ipc::session::event::Data;
use lucid_ipc::session::to_recorder::Item;
use lucid_ipc::session::{
    Actor, Authenticate, Clipboard, Connect, Direction, Disconnect, Event, File, Focus, Input, Outcome,
    Resize, Violation,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::anomalies::Kind;
use crate::guard::Watch;
use crate::notice::Notice;
use crate::recording::State;
use crate::refusal;

/// How long input is counted together.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two events of the focus.
const FOCUS_PACE: Duration = Duration::from_secs(1);

/// Where things are noted for the recording of a session, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<Inner>);

#[derive(Default)]
struct Inner {
    to: RefCell<Option<To>>,
    /// What waits for room there.
    noted: RefCell<VecDeque<Item>>,
    /// Who counts what was refused.
    watch: Option<Watch>,
    /// What was refused last, for who sits before the screen.
    refusal: watch::Sender<Option<Notice>>,
}

/// A recording's queue.
#[derive(Clone)]
pub(crate) struct To {
    pub(crate) items: mpsc::Sender<Item>,
    pub(crate) state: watch::Receiver<State>,
}

impl To {
    /// As [`Log::tell`], from a thread of the runtime that may block.
    pub(crate) fn tell(mut self, item: Item) {
        tokio::runtime::Handle::current().block_on(async {
            if let Some(room) = self.room().await {
                room.send(item);
            }
        });
    }

    /// Waits while the recorder is away, and until there is room; none when the recording is off, which its state says.
    async fn room(&mut self) -> Option<mpsc::OwnedPermit<Item>> {
        loop {
            let waits = |state: &State| matches!(state, State::Paused | State::Asking(_));
            self.state.wait_for(|state| !waits(state)).await.ok()?;
            // Looked at again: what comes in while it is away is thrown away.
            let room = self.items.clone().reserve_owned().await.ok()?;
            if !waits(&self.state.borrow()) {
                return Some(room);
            }
        }
    }
}

impl Log {
    /// Of a session that is watched.
    pub(crate) fn new(watch: Watch) -> Log {
        Log(Rc::new(Inner { watch: Some(watch), ..Inner::default() }))
    }

    /// Something was refused so often, beside the violations that are noted.
    pub(crate) fn refused(&self, times: usize) {
        if let Some(watch) = &self.0.watch {
            watch.note(Kind::ViolationBurst, times);
        }
    }

    /// What is refused from now on, in words for whoever tries it.
    pub(crate) fn refusals(&self) -> watch::Receiver<Option<Notice>> {
        self.0.refusal.subscribe()
    }

    /// Where it goes from now on.
    pub(crate) fn set(&self, to: Option<To>) {
        *self.0.to.borrow_mut() = to;
    }

    /// Whether anybody wants it; what is not wanted need not be made.
    pub(crate) fn is_on(&self) -> bool {
        self.0.to.borrow().is_some()
    }

    /// For a thread of its own, which may wait.
    pub(crate) fn to(&self) -> Option<To> {
        self.0.to.borrow().clone()
    }

    /// Keeps something until the next [`flush`](Log::flush).
    pub(crate) fn note(&self, item: Item) {
        if let Item::Event(Event { data: Some(Data::Violation(_)), .. }) = item {
            self.refused(1);
        }
        if let Some(notice) = refusal::notice(&item) {
            self.0.refusal.send_replace(Some(notice));
        }
        self.note_quietly(item);
    }

    /// Keeps something for the recording alone.
    pub(crate) fn note_quietly(&self, item: Item) {
        if self.is_on() {
            self.0.noted.borrow_mut().push_back(item);
        }
    }

    /// Waits until the recorder has room for all that is noted. May be dropped: what has not gone stays noted.
    pub(crate) async fn flush(&self) {
        while !self.0.noted.borrow().is_empty() {
            let mut to = self.to();
            let room = match &mut to {
                Some(to) => to.room().await,
                None => None,
            };
            let Some(room) = room else { return self.0.noted.borrow_mut().clear() };
            if let Some(item) = self.0.noted.borrow_mut().pop_front() {
                room.send(item);
            }
        }
    }

    /// Waits until the recorder has room for it. For tasks of their own.
    pub(crate) async fn tell(&self, item: Item) {
        if let Some(mut to) = self.to()
            && let Some(room) = to.room().await
        {
            room.send(item);
        }
    }
}

fn event(actor: Actor, outcome: Outcome, resource: &str, data: Data) -> Item {
    Item::Event(Event {
        actor: actor.into(),
        outcome: outcome.into(),
        resource: resource.to_owned(),
        data: Some(data),
    })
}

/// A client connected.
pub(crate) fn connect(address: String, security: String) -> Item {
    event(Actor::Client, Outcome::Allowed, "session", Data::Connect(Connect { address, security }))
}

/// It proved who it is. (Who does not has no session, and so no recording: see the log.)
pub(crate) fn authenticate(user: String, method: &str) -> Item {
    let data = Data::Authenticate(Authenticate { user, method: method.to_owned() });
    event(Actor::Client, Outcome::Allowed, "session", data)
}

/// It is gone, and why.
pub(crate) fn disconnect(actor: Actor, reason: String) -> Item {
    event(actor, Outcome::Allowed, "session", Data::Disconnect(Disconnect { reason }))
}

/// It shows another size, or other monitors.
pub(crate) fn resize((width, height): (u32, u32), monitors: usize) -> Item {
    let monitors = u32::try_from(monitors).unwrap_or(u32::MAX);
    event(Actor::Client, Outcome::Allowed, "desktop", Data::Resize(Resize { width, height, monitors }))
}

/// Another window has the focus, or another title.
fn focus(focus: Option<lucid_desktop::Focus>) -> Item {
    let lucid_desktop::Focus { app_id, title } = focus.unwrap_or_default();
    event(Actor::Device, Outcome::Allowed, "desktop", Data::Focus(Focus { app_id, title }))
}

/// A rule was about to be broken: `rule` is what the policy calls it.
pub(crate) fn violation(actor: Actor, rule: &str, detail: String) -> Item {
    let data = Data::Violation(Violation { rule: rule.to_owned(), detail });
    event(actor, Outcome::Refused, "session", data)
}

/// Something was pasted, or was to be. A client that pastes and one that gives are both the client.
pub(crate) fn clipboard(
    outcome: Outcome,
    direction: Direction,
    kind: &str,
    bytes: u64,
    hash: Option<blake3::Hash>,
) -> Item {
    let data = Data::Clipboard(Clipboard {
        direction: direction.into(),
        r#type: kind.to_owned(),
        bytes,
        hash: bytes_of(hash).into(),
    });
    event(Actor::Client, outcome, "clipboard", data)
}

/// A file has crossed, or not: by the clipboard or a drive, as `resource` says.
pub(crate) fn file(
    outcome: Outcome,
    resource: &str,
    direction: Direction,
    name: String,
    bytes: u64,
    hash: Option<blake3::Hash>,
) -> Item {
    let data = Data::File(File { direction: direction.into(), name, bytes, hash: bytes_of(hash).into() });
    event(Actor::Client, outcome, resource, data)
}

fn bytes_of(hash: Option<blake3::Hash>) -> Vec<u8> {
    hash.map(|hash| hash.as_bytes().to_vec()).unwrap_or_default()
}

/// Counts of what was typed and clicked. Periods begin at multiples of ten seconds since the connection did, whenever it
/// is that somebody types: so a period's time tells nothing of what is in it.
pub(crate) struct Period {
    began: Instant,
    input: bool,
}

impl Period {
    pub(crate) fn new(now: Instant) -> Period {
        Period { began: now, input: false }
    }

    /// There is input.
    pub(crate) fn input(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.input, true) {
            let whole = (now - self.began).as_secs() / PERIOD.as_secs();
            self.began += Duration::from_secs(whole * PERIOD.as_secs());
        }
    }

    /// When to end it; never while there is no input.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.input.then(|| self.began + PERIOD)
    }

    /// Ends it, with what was counted; nothing is told when that is nothing.
    pub(crate) fn end(&mut self, counted: Tally, now: Instant) -> Option<Item> {
        let seconds = (now - self.began).as_secs_f64().ceil().max(1.0) as u32;
        (self.began, self.input) = (self.due().unwrap_or(now).min(now), false);
        if counted.is_empty() {
            return None;
        }
        let Tally { letters, digits, punctuation, navigation, function, modifiers, other, clicks, wheel } =
            counted;
        let data = Data::Input(Input {
            seconds,
            letters,
            digits,
            punctuation,
            navigation,
            function,
            modifiers,
            other,
            clicks,
            wheel,
        });
        Some(event(Actor::Client, Outcome::Allowed, "desktop", data))
    }
}

/// What the desktop's thread says of the focus. Only the newest counts.
#[derive(Clone, Default)]
pub(crate) struct Newest(Arc<(Mutex<Option<Option<lucid_desktop::Focus>>>, Notify)>);

impl Newest {
    /// Another window has the focus, or another title.
    pub(crate) fn set(&self, focus: Option<lucid_desktop::Focus>) {
        let (newest, changed) = &*self.0;
        *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(focus);
        changed.notify_one();
    }

    fn peek(&self) -> bool {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn take(&self) -> Option<Option<lucid_desktop::Focus>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The focus, as it is told: not more often than once a second, and what is left out is older than what is told.
pub(crate) struct Focused {
    newest: Newest,
    told: Option<lucid_desktop::Focus>,
    at: Option<Instant>,
}

impl Focused {
    pub(crate) fn new(newest: Newest) -> Focused {
        Focused { newest, told: None, at: None }
    }

    /// Waits for something to tell; may be dropped and called again.
    pub(crate) async fn changed(&mut self) -> Item {
        loop {
            if !self.newest.peek() {
                self.newest.0.1.notified().await;
                continue;
            }
            if let Some(at) = self.at {
                tokio::time::sleep_until(at + FOCUS_PACE).await;
            }
            if let Some(item) = self.rest() {
                return item;
            }
        }
    }

    /// What has not been told yet, at once.
    pub(crate) fn rest(&mut self) -> Option<Item> {
        let newest = self.newest.take()?;
        if newest == self.told {
            return None;
        }
        self.told.clone_from(&newest);
        self.at = Some(Instant::now());
        Some(focus(newest))
    }

    /// What holds, where a recording begins or goes on after a gap.
    pub(crate) fn again(&mut self) -> Option<Item> {
        self.rest().or_else(|| self.told.clone().map(|told| focus(Some(told))))
    }
}

/// The bytes of one file as they cross, with their hash as long as they come in order from the beginning.
pub(crate) struct Crossing {
    bytes: u64,
    in_order: Option<Box<blake3::Hasher>>,
}

impl Default for Crossing {
    fn default() -> Crossing {
        Crossing { bytes: 0, in_order: Some(Box::default()) }
    }
}

impl Crossing {
    /// A piece has crossed.
    pub(crate) fn piece(&mut self, offset: u64, data: &[u8]) {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        match &mut self.in_order {
            Some(hasher) if hasher.count() == offset => {
                hasher.update(data);
            }
            Some(_) if data.is_empty() => {}
            _ => self.in_order = None,
        }
    }

    /// What is there is gone, and the file begins anew.
    pub(crate) fn begin_anew(&mut self) {
        self.in_order = Some(Box::default());
    }

    /// The hash of all that has crossed, if that was in order.
    pub(crate) fn so_far(&self) -> Option<blake3::Hash> {
        self.in_order.as_ref().map(|hasher| hasher.finalize())
    }

    /// How many have crossed, those that have more than once included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The hash of a file of this size, if it has crossed whole and in order.
    pub(crate) fn hash(&self, size: u64) -> Option<blake3::Hash> {
        self.in_order.as_ref().filter(|hasher| hasher.count() == size).map(|hasher| hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(item: Item) -> Data {
        match item {
            Item::Event(Event { data: Some(data), .. }) => data,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_somebody_types_within_a_period_shows_in_no_event() {
        let tally = Tally { letters: 3, ..Tally::default() };
        let mut told = Vec::new();
        for after in [0.0, 0.5, 4.0, 9.9] {
            let began = Instant::now();
            let mut period = Period::new(began);
            assert_eq!(period.due(), None);
            // In the third period.
            let at = began + Duration::from_secs_f64(20.0 + after);
            period.input(at);
            period.input(at);
            let due = period.due().unwrap();
            told.push((due - began, data(period.end(tally, due).unwrap())));
            assert_eq!(period.due(), None);
            assert_eq!(period.end(Tally::default(), due), None);
        }
        assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
        assert_eq!(told[0].0, Duration::from_secs(30));
        assert!(matches!(told[0].1, Data::Input(Input { seconds: 10, letters: 3, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_period_that_is_cut_off_by_the_end_lasts_as_long_as_it_did_and_a_second_at_least() {
        let began = Instant::now();
        for (after, lasted) in [(0, 1), (1, 1), (2500, 3), (12_300, 3)] {
            let mut period = Period::new(began);
            let now = began + Duration::from_millis(after);
            period.input(now);
            let told = data(period.end(Tally { clicks: 1, ..Tally::default() }, now).unwrap());
            assert!(matches!(told, Data::Input(Input { seconds, .. }) if seconds == lasted), "{told:?}");
        }
    }

    fn titled(title: &str) -> Option<lucid_desktop::Focus> {
        Some(lucid_desktop::Focus { app_id: Some("foot".into()), title: Some(title.into()) })
    }

    #[tokio::test(start_paused = true)]
    async fn of_titles_that_change_quickly_one_a_second_is_told_and_the_last_one_always() {
        let newest = Newest::default();
        let mut focused = Focused::new(newest.clone());
        let began = Instant::now();
        let mut told = Vec::new();
        for number in 0..250 {
            newest.set(titled(&number.to_string()));
            if let Ok(item) = tokio::time::timeout(Duration::from_millis(10), focused.changed()).await {
                told.push(data(item));
            }
        }
        // 2.5 s: at once, after one second, and after two.
        assert_eq!(told.len(), 3, "{told:?}");
        told.push(data(focused.changed().await));
        assert!(matches!(told.last(), Some(Data::Focus(focus)) if focus.title.as_deref() == Some("249")));
        assert!(began.elapsed() <= Duration::from_secs(4));
        // The same again is nothing new; an end comes through without waiting.
        newest.set(titled("249"));
        assert!(focused.rest().is_none());
        newest.set(None);
        assert!(matches!(data(focused.rest().unwrap()), Data::Focus(Focus { app_id: None, title: None })));
        assert!(focused.rest().is_none() && focused.again().is_none());
        newest.set(titled("x"));
        assert!(focused.again().is_some() && focused.again().is_some());
    }

    #[test]
    fn only_a_file_that_has_crossed_whole_and_in_order_has_a_hash() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let whole = Some(blake3::hash(&bytes));
        let cross = |pieces: &[(usize, usize)]| {
            let mut crossing = Crossing::default();
            pieces.iter().for_each(|(from, to)| crossing.piece(*from as u64, &bytes[*from..*to]));
            (crossing.bytes(), crossing.hash(5000))
        };
        assert_eq!(cross(&[(0, 5000)]), (5000, whole));
        assert_eq!(cross(&[(0, 1), (1, 4096), (4096, 4096), (4096, 5000)]), (5000, whole));
        assert_eq!(cross(&[(0, 4999)]), (4999, None));
        assert_eq!(cross(&[(0, 4096), (0, 4096), (4096, 5000)]), (9096, None));
        assert_eq!(cross(&[(4096, 5000), (0, 4096)]), (5000, None));
        assert_eq!(Crossing::default().hash(0), Some(blake3::hash(b"")));
    }

    #[tokio::test]
    async fn what_is_refused_is_counted_though_nobody_records_it() {
        let guard = crate::guard::Guard::new(watch::Sender::new(0));
        let log = Log::new(guard.of_session(1));
        for number in 0..60 {
            log.note(violation(Actor::Client, "input.kb_enabled", String::new()));
            log.note(resize((number, number), 1));
        }
        assert!(guard.marks().is_empty());
        log.refused(40);
        assert!(
            matches!(&guard.marks()[..], [mark] if mark.kind == Kind::ViolationBurst && mark.times == 100)
        );
    }

    #[tokio::test]
    async fn what_is_noted_is_told_in_order_and_none_is_lost_while_the_recorder_has_no_room() {
        let log = Log::default();
        // Nobody wants it.
        log.note(connect(String::new(), String::new()));
        log.flush().await;
        let ((items, mut from), (_told, state)) = (mpsc::channel(2), watch::channel(State::On(0)));
        log.set(Some(To { items, state }));
        for number in 0..5 {
            log.note(resize((number, number), 1));
        }
        for number in 0..5 {
            // It is given up each time, with room for two.
            let _ = tokio::time::timeout(Duration::ZERO, log.flush()).await;
            let told = data(from.recv().await.unwrap());
            assert!(matches!(told, Data::Resize(Resize { width, .. }) if width == number), "{told:?}");
        }
        assert!(from.try_recv().is_err());
        log.set(None);
        assert!(from.recv().await.is_none() && !log.is_on());
    }
}
