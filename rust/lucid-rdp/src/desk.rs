//! The desk: what somebody is shown who may do nothing but decide. No desktop, but the requests of all sessions that run, as
//! the session controller says them; what he decides goes there, and it has the last word.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lucid_desktop::Input;
use lucid_ipc::session::recorder_client::RecorderClient;
use lucid_ipc::session::{Decided, DeskDecision, DeskRequest, Waiting, Wanted};
use lucid_ipc::tonic::{Code, Status, Streaming};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Error;
use crate::page::{KEY_DOWN, KEY_ESCAPE, KEY_UP, Layout, Page, UNREAD};
use crate::session::left;

/// The controller has this long for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that are shown at most; the controller tells no more.
const MOST: usize = 64;
/// The words on the page that asks again.
const CONFIRM: [&str; 2] = [" Yes (Enter) ", " No (Esc) "];

// Keys that allow and deny (linux/input-event-codes.h): A, also where a keyboard of France has it; and D.
const KEY_Q: u32 = 16;
const KEY_A: u32 = 30;
const KEY_D: u32 = 32;

/// What was told.
#[derive(Clone, Debug, Default)]
struct Told {
    wanted: Vec<Wanted>,
    /// When.
    at: Option<Instant>,
    /// What came of the last decision.
    said: String,
    /// Why nothing more is told.
    over: Option<String>,
}

/// What somebody is asked again.
struct Confirm {
    wanted: Wanted,
    /// Whether he allows it.
    allow: bool,
    /// Since when it is asked.
    since: Instant,
}

/// The desk of somebody who is connected.
pub(crate) struct Desk {
    told: watch::Receiver<Told>,
    decisions: mpsc::Sender<(Wanted, bool)>,
    carrying: JoinHandle<()>,
    /// The place of the request that is selected.
    place: usize,
    selected: Option<Wanted>,
    /// What he is asked again.
    confirm: Option<Confirm>,
    above: usize,
    said: Option<&'static str>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

impl Desk {
    /// That of this user, if he may decide and nothing else. Must run within a [`tokio::task::LocalSet`].
    pub(crate) async fn open(socket: &Path, user: &str) -> Result<Option<Desk>, Error> {
        let request = DeskRequest { user: user.to_owned() };
        let opened = async {
            let mut client = RecorderClient::new(lucid_ipc::connect(socket).await?);
            match client.desk(request).await {
                Ok(stream) => Ok(Some(stream.into_inner())),
                Err(status) if status.code() == Code::PermissionDenied => Ok(None),
                Err(status) => Err(Error::Recorder(status)),
            }
        };
        let opened = timeout(PATIENCE, opened).await;
        let opened =
            opened.map_err(|_| Error::Internal("the session controller did not answer in time"))??;
        Ok(opened.map(|stream| {
            let (telling, told) = watch::channel(Told::default());
            let (decisions, decided) = mpsc::channel(1);
            let carrying = carry(socket.to_owned(), user.to_owned(), stream, telling, decided);
            Desk::new(told, decisions, tokio::task::spawn_local(carrying))
        }))
    }

    fn new(
        told: watch::Receiver<Told>,
        decisions: mpsc::Sender<(Wanted, bool)>,
        carrying: JoinHandle<()>,
    ) -> Desk {
        Desk { told, decisions, carrying, place: 0, selected: None, confirm: None, above: 0, said: None }
    }

    /// Why it is over, if it is.
    pub(crate) fn over(&self) -> Option<String> {
        self.told.borrow().over.clone()
    }

    /// Waits until something else is told.
    pub(crate) async fn changed(&self) {
        let mut told = self.told.clone();
        if told.changed().await.is_err() {
            // It is over, as was told.
            std::future::pending().await
        }
    }

    /// Finds what is selected in what is told now.
    fn look(&mut self) -> Told {
        let told = self.told.borrow_and_update().clone();
        let find = |wanted: &Wanted| told.wanted.iter().position(|other| same(wanted, other));
        if let Some(place) = self.selected.as_ref().and_then(find) {
            self.place = place;
        }
        self.place = self.place.min(told.wanted.len().saturating_sub(1));
        self.selected = told.wanted.get(self.place).cloned();
        if let Some(Confirm { wanted, .. }) = &self.confirm {
            let now = find(wanted).and_then(|place| told.wanted.get(place));
            let said = match now {
                None => Some("It waits no more: it was decided, its time is over, or its session is."),
                Some(now) if now.what != wanted.what => {
                    Some("It means something else now: look at it again.")
                }
                Some(_) => None,
            };
            if said.is_some() {
                self.confirm = None;
                self.said = said;
            }
        }
        told
    }

    /// Takes what he does, with the pointer there; says whether he leaves.
    pub(crate) fn take(&mut self, input: &Input, layout: Layout, pointer: (u32, u32), now: Instant) -> bool {
        self.look();
        if let Some(Confirm { wanted, allow, since }) = self.confirm.take() {
            match layout.answer(input, pointer) {
                // What was typed for something else does not answer.
                Some(true) if now < since + UNREAD => self.confirm = Some(Confirm { wanted, allow, since }),
                Some(true) => {
                    self.said = match self.decisions.try_send((wanted, allow)) {
                        Ok(()) => None,
                        Err(_) => Some("The decision before is still on its way: try again."),
                    };
                    self.above = 0;
                }
                Some(false) => self.above = 0,
                None => {
                    self.above = layout.scroll(input, self.above).unwrap_or(self.above);
                    self.confirm = Some(Confirm { wanted, allow, since });
                }
            }
            return false;
        }
        match *input {
            Input::Key { evdev: KEY_ESCAPE, pressed: true } | Input::Character('\u{1b}') => return true,
            Input::Key { evdev: KEY_UP, pressed: true } => self.select(self.place.saturating_sub(1)),
            Input::Key { evdev: KEY_DOWN, pressed: true } => self.select(self.place + 1),
            Input::Key { evdev: KEY_A | KEY_Q, pressed: true } | Input::Character('a' | 'A') => {
                self.ask(true, now)
            }
            Input::Key { evdev: KEY_D, pressed: true } | Input::Character('d' | 'D') => self.ask(false, now),
            _ => {}
        }
        false
    }

    fn select(&mut self, place: usize) {
        self.place = place;
        self.selected = None;
        self.said = None;
        self.look();
    }

    /// Asks him again.
    fn ask(&mut self, allow: bool, now: Instant) {
        let Some(wanted) = self.selected.clone() else { return };
        self.said = None;
        if allow && wanted.what.is_empty() {
            self.said = Some("It changes more than is shown here: it can be allowed with a key alone.");
            return;
        }
        self.above = 0;
        self.confirm = Some(Confirm { wanted, allow, since: now });
    }

    /// As it looks now.
    pub(crate) fn page(&mut self, now: Instant) -> Page {
        let told = self.look();
        let passed = told.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if let Some(Confirm { wanted, allow, .. }) = &self.confirm {
            let title = if *allow { "Do you allow this?" } else { "Do you turn this down?" };
            // Without a time that runs: it stands still while he reads.
            let text = asks(wanted, None).into_iter().map(|line| ('-', line)).collect();
            let title = title.to_owned();
            return Page { title, text, asks: Some(CONFIRM), above: self.above, ..Page::default() };
        }
        let mut text = Vec::new();
        let said = self.said.map_or(told.said, str::to_owned);
        if !said.is_empty() {
            text.push(('*', said));
        }
        let first = text.len();
        for (place, wanted) in told.wanted.iter().take(MOST).enumerate() {
            let sign = if place == self.place { '>' } else { ' ' };
            text.push((sign, asks(wanted, Some(passed)).join(" ")));
        }
        if told.wanted.is_empty() {
            text.push((' ', "Nothing waits for a decision.".to_owned()));
        }
        let at = (!told.wanted.is_empty()).then_some(first + self.place);
        let hint = "The arrows select, A allows, D turns down, Esc ends the connection.";
        Page { title: "Lucid: what waits for your decision".to_owned(), text, hint, at, ..Page::default() }
    }
}

fn same(one: &Wanted, other: &Wanted) -> bool {
    (&one.session, &one.request) == (&other.session, &other.request)
}

/// What somebody asks, in lines, and for how long it can be decided on after so much time.
fn asks(wanted: &Wanted, passed: Option<Duration>) -> Vec<String> {
    let Wanted { requester, user, what, reason, seconds, agree, needed, left_seconds, .. } = wanted;
    let whose = if requester == user { String::new() } else { format!(" for the session of {user}") };
    let mut lines = vec![format!("{requester} asks{whose}, for {}:", left(*seconds, Duration::ZERO))];
    lines.extend(what.iter().cloned());
    if what.is_empty() {
        lines.push("(more than is shown here)".to_owned());
    }
    lines.push(format!("Why: {reason}."));
    let until =
        passed.map(|passed| format!("; it can be decided on for {} yet", left(*left_seconds, passed)));
    lines.push(format!("{agree} of {needed} agree{}.", until.unwrap_or_default()));
    lines
}

/// Keeps what is told, and passes on what is decided.
async fn carry(
    socket: PathBuf,
    user: String,
    mut from: Streaming<Waiting>,
    telling: watch::Sender<Told>,
    mut decided: mpsc::Receiver<(Wanted, bool)>,
) {
    loop {
        tokio::select! {
            said = from.message() => {
                let over = match said {
                    Ok(Some(Waiting { wanted })) => {
                        telling.send_modify(|told| {
                            told.wanted = wanted;
                            told.wanted.truncate(MOST);
                            told.at = Some(Instant::now());
                        });
                        continue;
                    }
                    Ok(None) => "the session controller tells nothing any more".to_owned(),
                    Err(status) => status.message().to_owned(),
                };
                tracing::info!(user, "the desk is over: {over}");
                return telling.send_modify(|told| told.over = Some(over));
            }
            decision = decided.recv() => {
                let Some((wanted, allow)) = decision else { return };
                let said = decide(&socket, &user, &wanted, allow).await;
                tracing::info!(user, session = wanted.session, allow, "at the desk: {said}");
                telling.send_modify(|told| told.said = said);
            }
        }
    }
}

/// Decides; gives what came of it.
async fn decide(socket: &Path, user: &str, wanted: &Wanted, allow: bool) -> String {
    let Wanted { session, request, requester, .. } = wanted.clone();
    let decision = DeskDecision { user: user.to_owned(), session, request, allow };
    let answer = async {
        let channel =
            lucid_ipc::connect(socket).await.map_err(|error| Status::unavailable(error.to_string()))?;
        RecorderClient::new(channel).decide_at_desk(decision).await
    };
    match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => match answer.into_inner() {
            Decided { seconds: 0, needed: 0, .. } => format!("Turned down, what {requester} asked for."),
            Decided { seconds: 0, agree, needed } => {
                format!("You agree to what {requester} asks for; {agree} of {needed} do.")
            }
            Decided { seconds, .. } => {
                format!("What {requester} asked for is in effect for {}.", left(seconds, Duration::ZERO))
            }
        },
        Ok(Err(status)) => format!("Not taken: {}.", status.message()),
        Err(_) => "Not taken, as far as is known: the session controller did not answer in time.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(number: u8) -> Wanted {
        Wanted {
            session: "one".to_owned(),
            request: vec![number; 32].into(),
            requester: format!("ada{number}"),
            user: format!("ada{number}"),
            what: vec![format!("Thing {number} passes.")],
            reason: "asked for on the screen".to_owned(),
            seconds: 300,
            needed: 1,
            left_seconds: 600,
            ..Wanted::default()
        }
    }

    struct House {
        desk: Desk,
        telling: watch::Sender<Told>,
        decided: mpsc::Receiver<(Wanted, bool)>,
        now: Instant,
    }

    impl House {
        fn new(wanted: Vec<Wanted>) -> House {
            let (telling, told) = watch::channel(Told { wanted, ..Told::default() });
            let (decisions, decided) = mpsc::channel(1);
            let carrying = tokio::spawn(async {});
            House { desk: Desk::new(told, decisions, carrying), telling, decided, now: Instant::now() }
        }

        /// Reads the page as it was painted, and presses a key; says whether he leaves.
        fn press(&mut self, evdev: u32) -> bool {
            self.now += UNREAD;
            self.hit(evdev)
        }

        /// Presses it without reading.
        fn hit(&mut self, evdev: u32) -> bool {
            let mut pixels = vec![0; 1920 * 1080 * 4];
            let layout = self.desk.page(Instant::now()).draw(1920, 1080, 1920 * 4, &mut pixels);
            self.desk.take(&Input::Key { evdev, pressed: true }, layout, (0, 0), self.now)
        }

        fn tell(&self, wanted: Vec<Wanted>) {
            self.telling.send_modify(|told| told.wanted = wanted);
        }

        fn decided(&mut self) -> Option<(String, bool)> {
            self.decided.try_recv().ok().map(|(wanted, allow)| (wanted.requester, allow))
        }
    }

    const ENTER: u32 = 28;
    const PAGE_DOWN: u32 = 109;

    #[tokio::test]
    async fn what_is_selected_is_decided_on_when_it_was_confirmed_and_nothing_else() {
        let mut house = House::new(vec![wanted(1), wanted(2)]);
        house.press(ENTER);
        house.press(KEY_DOWN);
        house.press(KEY_A);
        assert_eq!(house.decided(), None);
        house.press(KEY_D);
        assert_eq!(
            house.desk.confirm.as_ref().map(|confirm| confirm.allow),
            Some(true),
            "one question at a time"
        );
        house.press(ENTER);
        assert_eq!(house.decided(), Some(("ada2".to_owned(), true)));
        house.press(KEY_UP);
        house.press(KEY_D);
        assert!(!house.press(KEY_ESCAPE), "that was no");
        house.press(ENTER);
        assert_eq!(house.decided(), None);
        house.press(KEY_D);
        house.press(ENTER);
        assert_eq!(house.decided(), Some(("ada1".to_owned(), false)));
        assert!(house.press(KEY_ESCAPE));
    }

    #[tokio::test]
    async fn what_comes_and_goes_meanwhile_changes_nothing_that_is_selected_or_confirmed() {
        let mut house = House::new(vec![wanted(1), wanted(2)]);
        house.press(KEY_DOWN);
        house.press(KEY_A);
        house.tell(vec![wanted(3), wanted(2), wanted(1)]);
        house.press(ENTER);
        assert_eq!(house.decided(), Some(("ada2".to_owned(), true)));
        house.press(KEY_A);
        house.tell(vec![wanted(3), wanted(1)]);
        house.press(ENTER);
        assert_eq!(house.decided(), None, "it waits no more");
        let page = house.desk.page(Instant::now());
        assert!(page.text[0].1.contains("waits no more"), "{page:?}");
        house.tell(Vec::new());
        house.press(KEY_A);
        house.press(ENTER);
        assert_eq!(house.decided(), None);
    }

    #[tokio::test]
    async fn nobody_allows_what_he_has_not_read_or_what_has_another_meaning_now() {
        let mut house = House::new(vec![wanted(1), wanted(2)]);
        house.press(KEY_A);
        house.hit(ENTER);
        assert_eq!(house.decided(), None, "typed for something else");
        let what = vec!["Everything passes.".to_owned()];
        house.tell(vec![Wanted { what, ..wanted(1) }, wanted(2)]);
        house.press(ENTER);
        assert_eq!(house.decided(), None, "it means something else");
        let page = house.desk.page(house.now);
        assert!(page.text[0].1.contains("means something else"), "{page:?}");
        house.press(KEY_A);
        house.press(ENTER);
        assert_eq!(house.decided(), Some(("ada1".to_owned(), true)));
    }

    #[tokio::test]
    async fn who_is_not_shown_all_of_it_does_not_allow_it() {
        let long = Wanted { what: Vec::new(), ..wanted(1) };
        let mut house = House::new(vec![long]);
        house.press(KEY_A);
        house.press(ENTER);
        assert_eq!(house.decided(), None);
        house.press(KEY_D);
        house.press(ENTER);
        assert_eq!(house.decided(), Some(("ada1".to_owned(), false)));
        // Nor before he has seen its end.
        let what = (0..60).map(|line| format!("Sentence {line}.")).collect();
        let mut house = House::new(vec![Wanted { what, ..wanted(1) }]);
        house.press(KEY_A);
        house.press(ENTER);
        assert_eq!(house.decided(), None);
        for _ in 0..3 {
            house.press(PAGE_DOWN);
        }
        house.press(ENTER);
        assert_eq!(house.decided(), Some(("ada1".to_owned(), true)));
    }

    #[tokio::test]
    async fn who_asks_for_what_for_how_long_and_who_agrees_is_said() {
        let mut house = House::new(vec![wanted(1), Wanted { user: "bob".to_owned(), ..wanted(2) }]);
        let page = house.desk.page(Instant::now());
        assert_eq!(page.at, Some(0));
        assert_eq!(
            page.text[0],
            (
                '>',
                "ada1 asks, for 5 min: Thing 1 passes. Why: asked for on the screen. 0 of 1 agree; it can be decided on for \
                 10 min yet."
                    .to_owned()
            )
        );
        assert!(page.text[1].1.starts_with("ada2 asks for the session of bob, for 5 min:"), "{page:?}");
    }
}
