//! The page that a session's user opens over his desktop: what holds, and what he can ask for.
//!
//! Ctrl+Alt+Delete opens it, whatever the policy says of keys. This host takes it before anything else does, so nothing that
//! runs on the desktop sees it pressed, can press it, or can paint this page in its stead: who presses it knows to whom he
//! speaks.

use std::time::{Duration, Instant};

use lucid_desktop::Input;
use lucid_ipc::session::Wanted;
use lucid_policy::ask::{GATES, Gate};
use lucid_policy::{Policy, explain};

use crate::page::{KEY_ESCAPE, Layout, Page};
use crate::recording::Asked;

/// Left and right Ctrl, left and right Alt (linux/input-event-codes.h).
pub(super) const MODIFIERS: [u32; 4] = [29, 97, 56, 100];
const KEY_DELETE: u32 = 111;
const KEY_KEYPAD_DOT: u32 = 83;
/// 1 to 9 above the letters.
const KEY_1: u32 = 2;
const KEY_9: u32 = 10;
/// Requests that are shown at most; the controller has no more.
const MOST: usize = 16;

/// Sees Ctrl+Alt+Delete pressed.
#[derive(Debug, Default)]
pub(super) struct Attention([bool; 4]);

impl Attention {
    /// Whether this input completes it.
    pub(super) fn see(&mut self, input: &Input) -> bool {
        match *input {
            Input::Key { evdev: KEY_DELETE | KEY_KEYPAD_DOT, pressed: true } => {
                let [left_ctrl, right_ctrl, left_alt, right_alt] = self.0;
                return (left_ctrl || right_ctrl) && (left_alt || right_alt);
            }
            Input::Key { evdev, pressed } => {
                if let Some(place) = MODIFIERS.iter().position(|modifier| *modifier == evdev) {
                    self.0[place] = pressed;
                }
            }
            // The client has the focus again, and nothing is down there.
            Input::Locks { .. } => self.0 = [false; 4],
            _ => {}
        }
        false
    }
}

/// What the page does.
#[derive(Clone, Copy)]
pub(super) enum Act {
    Nothing,
    /// The desktop is shown again.
    Close,
    /// That is asked for.
    Ask(&'static Gate),
}

/// The page, while it is open.
#[derive(Default)]
pub(super) struct Screen {
    above: usize,
    /// What this host has to say.
    said: Option<&'static str>,
    /// How much the controller had said when that was said.
    heard: Option<u64>,
    /// The gate whose digit was pressed last.
    asked: Option<&'static str>,
}

impl Screen {
    /// Takes what its user does; `holds` is the policy, if one does, and `asked` what was asked for, if anybody can be.
    pub(super) fn take(
        &mut self,
        input: &Input,
        layout: Layout,
        holds: Option<&Policy>,
        asked: Option<&Asked>,
    ) -> Act {
        if matches!(*input, Input::Key { evdev: KEY_ESCAPE, pressed: true } | Input::Character('\u{1b}')) {
            return Act::Close;
        }
        if let Some(above) = layout.scroll(input, self.above) {
            self.above = above;
            return Act::Nothing;
        }
        let Some(gate) = gate(input) else { return Act::Nothing };
        let number = asked.map(|asked| asked.requests.number);
        // A key that is held down asks once.
        let before = self.asked.replace(gate.name);
        if self.heard == number && before == Some(gate.name) {
            return Act::Nothing;
        }
        self.above = 0;
        self.heard = number;
        let (said, act) = match (holds, asked) {
            (_, None) => ("Nothing can be asked for: nobody decides here.", Act::Nothing),
            (None, _) => ("Nobody can be asked just now.", Act::Nothing),
            (Some(policy), _) if !gate.is_closed(policy) => ("That is allowed already.", Act::Nothing),
            _ => ("It is being asked for.", Act::Ask(gate)),
        };
        self.said = Some(said);
        act
    }

    /// As it looks now.
    pub(super) fn page(&self, holds: Option<&Policy>, asked: Option<&Asked>, now: Instant) -> Page {
        let mut text = Vec::new();
        let number = asked.map(|asked| asked.requests.number);
        let news = asked.map(|asked| asked.requests.news.as_str()).filter(|news| !news.is_empty());
        if let Some(said) = self.said.filter(|_| self.heard == number).or(news) {
            text.push(('>', said.to_owned()));
        }
        if let Some(Asked { requests, at }) = asked {
            let passed = at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at.into_std()));
            text.extend(requests.wanted.iter().take(MOST).map(|wanted| ('*', line(wanted, passed))));
        }
        if let Some(policy) =
            holds.filter(|policy| asked.is_some() && GATES.iter().any(|gate| gate.is_closed(policy)))
        {
            text.push((' ', "What you can ask for, for 5 minutes, by pressing its digit:".to_owned()));
            let closed = GATES.iter().zip('1'..).filter(|(gate, _)| gate.is_closed(policy));
            text.extend(closed.map(|(gate, digit)| (digit, format!("to {}", gate.words))));
        }
        match holds {
            Some(policy) => {
                text.push((' ', "What holds now:".to_owned()));
                text.extend(explain(policy).into_iter().map(|sentence| ('-', sentence)));
            }
            None => text.push((' ', "Nothing is allowed just now: nobody says what may be.".to_owned())),
        }
        let hint = "A digit asks, the arrows scroll, Esc goes back to the desktop.";
        Page { title: "Lucid: this session".to_owned(), text, hint, above: self.above, ..Page::default() }
    }
}

/// The gate whose digit is pressed.
fn gate(input: &Input) -> Option<&'static Gate> {
    let place = match *input {
        Input::Key { evdev: evdev @ KEY_1..=KEY_9, pressed: true } => evdev - KEY_1,
        Input::Character(digit @ '1'..='9') => u32::from(digit) - u32::from('1'),
        _ => return None,
    };
    GATES.get(place as usize)
}

/// A request, for the one in whose session it is.
fn line(wanted: &Wanted, passed: Duration) -> String {
    let Wanted { requester, user, what, agree, needed, in_effect, left_seconds, .. } = wanted;
    let what = if what.is_empty() { "a long list".to_owned() } else { what.join(" ") };
    let left = left(*left_seconds, passed);
    if *in_effect {
        return format!("In effect for {left} yet: {what}");
    }
    let by = if requester == user { String::new() } else { format!(", which {requester} asks for") };
    format!("Waits for a decision, {left} yet ({agree} of {needed} agree){by}: {what}")
}

/// How long it is yet, coarsely: a number that moves costs a picture each time.
pub(crate) fn left(seconds: u32, passed: Duration) -> String {
    let seconds = u64::from(seconds).saturating_sub(passed.as_secs());
    let seconds = if seconds > 10 { seconds.div_ceil(10) * 10 } else { seconds };
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use lucid_ipc::session::Requests;

    use super::*;

    fn key(evdev: u32, pressed: bool) -> Input {
        Input::Key { evdev, pressed }
    }

    #[test]
    fn only_ctrl_alt_delete_is_the_sequence_and_of_what_is_down_now() {
        for ctrl in [29, 97] {
            for alt in [56, 100] {
                for delete in [111, 83] {
                    let mut attention = Attention::default();
                    let mut see = |evdev, pressed| attention.see(&key(evdev, pressed));
                    assert!(!see(delete, true) && !see(delete, false));
                    assert!(!see(ctrl, true) && !see(delete, true) && !see(delete, false));
                    assert!(!see(alt, true) && see(delete, true) && !see(delete, false));
                    assert!(see(delete, true), "again");
                    assert!(!see(ctrl, false) && !see(delete, true));
                }
            }
        }
        let mut attention = Attention::default();
        let locks = Input::Locks { caps: false, num: false, scroll: false };
        for input in [key(29, true), key(56, true), locks, key(111, true), Input::Character('\u{7f}')] {
            assert!(!attention.see(&input), "{input:?}");
        }
    }

    fn asked(news: &str, number: u64, wanted: Vec<Wanted>) -> Asked {
        let requests = Requests { wanted, news: news.to_owned(), number };
        Asked { requests, at: Some(tokio::time::Instant::now()) }
    }

    fn says(page: &Page, what: &str) -> bool {
        page.text.iter().any(|(sign, text)| format!("{sign} {text}").contains(what))
    }

    #[test]
    fn what_is_closed_can_be_asked_for_by_a_digit_that_stays_its_own() {
        let (strict, standard) = (Policy::strict(), Policy::standard());
        let nothing = asked("", 0, Vec::new());
        let mut screen = Screen::default();
        let now = Instant::now();
        for policy in [&strict, &standard] {
            let page = screen.page(Some(policy), Some(&nothing), now);
            for (gate, digit) in GATES.iter().zip('1'..) {
                let line = format!("{digit} to {}", gate.words);
                assert_eq!(says(&page, &line), gate.is_closed(policy), "{line}");
            }
            assert!(explain(policy).iter().all(|sentence| says(&page, sentence)));
        }
        let mut press =
            |input: Input, policy, asked| match screen.take(&input, Layout::default(), policy, asked) {
                Act::Ask(gate) => Some(gate.name),
                Act::Nothing | Act::Close => None,
            };
        assert_eq!(press(key(2, true), Some(&standard), Some(&nothing)), Some("copy-from-desktop"));
        assert_eq!(press(key(2, false), Some(&standard), Some(&nothing)), None);
        assert_eq!(press(Input::Character('9'), Some(&strict), Some(&nothing)), Some("pointer"));
        assert_eq!(press(key(10, true), Some(&standard), Some(&nothing)), None, "it is open");
        assert_eq!(press(key(2, true), None, Some(&nothing)), None, "nobody says what holds");
        assert_eq!(press(key(2, true), Some(&strict), None), None, "nobody could be asked");
        assert!(matches!(screen.take(&key(1, true), Layout::default(), None, None), Act::Close));
    }

    #[test]
    fn what_came_of_it_and_what_is_in_effect_for_how_long_is_said() {
        let strict = Policy::strict();
        let mut screen = Screen::default();
        let now = Instant::now();
        let before = asked("Refused.", 1, Vec::new());
        screen.take(&key(2, true), Layout::default(), Some(&strict), Some(&before));
        assert!(says(&screen.page(Some(&strict), Some(&before), now), "> It is being asked for."));
        let again = screen.take(&key(2, true), Layout::default(), Some(&strict), Some(&before));
        assert!(matches!(again, Act::Nothing), "it is held down");
        let wanted = Wanted {
            what: vec!["Something passes.".to_owned()],
            in_effect: true,
            left_seconds: 299,
            needed: 1,
            ..Wanted::default()
        };
        let waits = Wanted { in_effect: false, ..wanted.clone() };
        // The same again is news as well.
        let after = asked("Refused.", 2, vec![wanted, waits]);
        let page = screen.page(Some(&strict), Some(&after), now);
        assert!(says(&page, "> Refused."));
        assert!(says(&page, "* In effect for 5 min yet: Something passes."), "{page:?}");
        assert!(says(&page, "* Waits for a decision, 5 min yet (0 of 1 agree): Something passes."));
        let later = screen.page(Some(&strict), Some(&after), now + Duration::from_secs(295));
        assert!(says(&later, "In effect for 4 s yet") || says(&later, "In effect for 5 s yet"), "{later:?}");
    }
}
