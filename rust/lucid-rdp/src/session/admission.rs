//! Which of the client's input may go to the desktop, as the policy says.
//!
//! What may not go is refused and counted. Movements of the pointer beyond the policy's rate are not refused: of those that
//! come too soon the last one goes when its time has come, so that a fast mouse is a slower one and the pointer is where the
//! hand put it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lucid_desktop::{Button, Input};
use lucid_policy::{Action, key_name};

use super::screen::MODIFIERS;
use crate::gates::Holding;

/// Between two reports of what was refused.
const REPORT: Duration = Duration::from_secs(10);

/// Keeps what spans several events.
#[derive(Default)]
pub(super) struct Admission {
    /// Keys that the desktop believes down.
    down: BTreeSet<u32>,
    /// Buttons that it believes down.
    buttons: Vec<Button>,
    /// When a movement last went.
    moved: Option<Instant>,
    /// One that waits for its time.
    waiting: Option<Input>,
    /// How the client's lock keys were when ours could not be made equal.
    locks: Option<Input>,
    refused: Refused,
}

/// What was refused and not told yet.
#[derive(Default)]
struct Refused {
    keys: Counted,
    clicks: Counted,
}

/// How often something was refused since it was told last.
#[derive(Default)]
struct Counted {
    count: u32,
    told: Option<Instant>,
}

impl Admission {
    /// Takes what a client sends; `out` gets what goes to the desktop.
    pub(super) fn take(&mut self, input: Input, holding: &Holding, now: Instant, out: &mut Vec<Input>) {
        match input {
            Input::Key { evdev, pressed: true } => {
                let name = key_name(evdev).unwrap_or_default();
                if holding.permits(&Action::Key(name)) {
                    self.down.insert(evdev);
                    out.push(input);
                } else if !MODIFIERS.contains(&evdev) {
                    // Those do nothing by themselves, and begin what whoever may not type asks for that by.
                    self.refused.keys.count += tried(holding);
                }
            }
            Input::Key { evdev, pressed: false } => {
                // What went down comes up, whatever holds now.
                if self.down.remove(&evdev) {
                    out.push(input);
                }
            }
            Input::Character(character) => {
                if holding.permits(&Action::of_character(character)) {
                    out.push(input);
                } else {
                    self.refused.keys.count += tried(holding);
                }
            }
            Input::Locks { .. } => {
                // Clients send it by themselves.
                let locks = ["CapsLock", "NumLock", "ScrollLock"];
                if locks.iter().all(|name| holding.permits(&Action::Key(name))) {
                    out.push(input);
                } else {
                    self.locks = Some(input);
                }
            }
            Input::PointerMove { .. } | Input::PointerMoveRelative { .. } => {
                self.moves(input, holding, now, out)
            }
            Input::Button { button, pressed: false } => {
                if let Some(place) = self.buttons.iter().position(|down| *down == button) {
                    self.buttons.swap_remove(place);
                    self.hurry(now, out);
                    out.push(input);
                }
            }
            Input::Button { .. } | Input::Wheel { .. } => {
                if !holding.permits(&Action::Point { rate_hz: 0 }) {
                    self.refused.clicks.count += tried(holding);
                    return;
                }
                if let Input::Button { button, .. } = input {
                    self.buttons.push(button);
                }
                self.hurry(now, out);
                out.push(input);
            }
        }
    }

    fn moves(&mut self, input: Input, holding: &Holding, now: Instant, out: &mut Vec<Input>) {
        // A movement alone is no attempt: it is not even counted.
        if !holding.permits(&Action::Point { rate_hz: 0 }) {
            self.waiting = None;
            return;
        }
        let input = match (self.waiting.take(), input) {
            (Some(Input::PointerMoveRelative { dx, dy }), Input::PointerMoveRelative { dx: x, dy: y }) => {
                Input::PointerMoveRelative { dx: dx.saturating_add(x), dy: dy.saturating_add(y) }
            }
            // No client sends both.
            _ => input,
        };
        self.waiting = Some(input);
        out.extend(self.due(holding, now));
    }

    /// The movement whose time has come.
    pub(super) fn due(&mut self, holding: &Holding, now: Instant) -> Option<Input> {
        self.deadline(holding, now).filter(|at| *at <= now)?;
        self.moved = Some(now);
        self.waiting.take()
    }

    /// When a movement that waits may go.
    pub(super) fn deadline(&self, holding: &Holding, now: Instant) -> Option<Instant> {
        self.waiting.as_ref()?;
        let rate = holding.policy().map_or(1, |policy| policy.input.mouse_rate_limit_hz);
        Some(self.moved.map_or(now, |moved| moved + Duration::from_secs(1) / rate.max(1)))
    }

    /// The movement that waits, at once: what comes next is meant for where the pointer is.
    fn hurry(&mut self, now: Instant, out: &mut Vec<Input>) {
        if let Some(moved) = self.waiting.take() {
            self.moved = Some(now);
            out.push(moved);
        }
    }

    /// The client's lock keys, if ours were not made equal and may be now.
    pub(super) fn locks(&mut self, holding: &Holding) -> Option<Input> {
        let mut out = Vec::new();
        let locks = self.locks.take()?;
        self.take(locks, holding, Instant::now(), &mut out);
        out.pop()
    }

    /// Keeps the state of the client's lock keys for later.
    pub(super) fn keep_locks(&mut self, locks: Input) {
        self.locks = Some(locks);
    }

    /// Forgets what is down: the desktop was told that it is not.
    pub(super) fn let_go(&mut self) {
        self.down.clear();
        self.buttons.clear();
        self.waiting = None;
    }

    /// Another policy holds; whether something is down that may not be any more.
    pub(super) fn renew(&mut self, holding: &Holding) -> bool {
        let key = |evdev: &u32| holding.permits(&Action::Key(key_name(*evdev).unwrap_or_default()));
        let keys = self.down.iter().all(key);
        let pointer = holding.permits(&Action::Point { rate_hz: 0 });
        if !pointer {
            self.waiting = None;
        }
        if keys && (pointer || self.buttons.is_empty()) {
            return false;
        }
        self.down.clear();
        self.buttons.clear();
        true
    }

    /// What was refused, by the policy's gate, and how often: of each at once, and then not more often than every ten
    /// seconds.
    pub(super) fn report(&mut self, now: Instant) -> Vec<(&'static str, u32, String)> {
        let Refused { keys, clicks } = &mut self.refused;
        let keys = keys
            .report(now)
            .map(|count| ("input.kb_enabled", count, format!("{count} keys were pressed that may not be")));
        let clicks = clicks.report(now).map(|count| {
            ("input.mouse_enabled", count, format!("{count} clicks or turns of a wheel, which may not be"))
        });
        keys.into_iter().chain(clicks).collect()
    }

    /// When there is something to report.
    pub(super) fn reports_at(&self) -> Option<Instant> {
        [&self.refused.keys, &self.refused.clicks].into_iter().filter_map(Counted::due).min()
    }
}

impl Counted {
    fn report(&mut self, now: Instant) -> Option<u32> {
        if self.count == 0 || self.told.is_some_and(|told| now < told + REPORT) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }

    fn due(&self) -> Option<Instant> {
        self.told.filter(|_| self.count > 0).map(|told| told + REPORT)
    }
}

/// What is typed before anything was decided is lost, and nobody's fault.
fn tried(holding: &Holding) -> u32 {
    holding.policy().is_some().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lucid_policy::Policy;

    use super::*;
    use crate::gates::holding;

    fn take(admission: &mut Admission, holding: &Holding, now: Instant, inputs: &[Input]) -> Vec<Input> {
        let mut out = Vec::new();
        inputs.iter().for_each(|input| admission.take(*input, holding, now, &mut out));
        out
    }

    fn inputs() -> Vec<Input> {
        vec![
            Input::Key { evdev: 30, pressed: true },
            Input::Key { evdev: 30, pressed: false },
            Input::Character('a'),
            Input::Character('\n'),
            Input::Locks { caps: true, num: false, scroll: false },
            Input::PointerMove { x: 1, y: 2 },
            Input::Button { button: Button::Left, pressed: true },
            Input::Button { button: Button::Left, pressed: false },
            Input::Wheel { vertical: 1.0, horizontal: 0.0 },
        ]
    }

    #[test]
    fn nothing_goes_under_strict_or_while_no_policy_holds_and_all_of_it_under_standard() {
        let now = Instant::now();
        for policy in [None, Some(Arc::new(Policy::strict()))] {
            let (_told, closed) = holding(policy);
            let mut admission = Admission::default();
            let decided = closed.policy().is_some();
            assert_eq!(take(&mut admission, &closed, now, &inputs()), []);
            let report = admission.report(now);
            assert!(decided || report.is_empty());
            if !decided {
                continue;
            }
            assert_eq!(
                report.iter().map(|(rule, ..)| *rule).collect::<Vec<_>>(),
                ["input.kb_enabled", "input.mouse_enabled"]
            );
            assert_eq!(admission.report(now), [], "once");
        }
        let (_told, open) = holding(Some(Arc::new(Policy::standard())));
        assert_eq!(take(&mut Admission::default(), &open, now, &inputs()), inputs());
        let print = [Input::Key { evdev: 99, pressed: true }, Input::Key { evdev: 99, pressed: false }];
        assert_eq!(take(&mut Admission::default(), &open, now, &print), []);
    }

    #[test]
    fn who_presses_ctrl_alt_delete_tries_nothing_that_he_may_not() {
        let (_told, closed) = holding(Some(Arc::new(Policy::strict())));
        let (mut admission, now) = (Admission::default(), Instant::now());
        let pressed = MODIFIERS.map(|evdev| Input::Key { evdev, pressed: true });
        assert_eq!(take(&mut admission, &closed, now, &pressed), []);
        assert_eq!(admission.report(now), []);
    }

    #[test]
    fn what_is_down_when_the_page_opens_comes_up_for_nobody() {
        let (_told, open) = holding(Some(Arc::new(Policy::standard())));
        let (mut admission, now) = (Admission::default(), Instant::now());
        let down = [
            Input::Key { evdev: 29, pressed: true },
            Input::PointerMove { x: 1, y: 2 },
            Input::Button { button: Button::Left, pressed: true },
            Input::PointerMove { x: 3, y: 4 },
        ];
        assert_eq!(take(&mut admission, &open, now, &down), down[..3]);
        admission.let_go();
        let up = [
            Input::Key { evdev: 29, pressed: false },
            Input::Button { button: Button::Left, pressed: false },
        ];
        assert_eq!(take(&mut admission, &open, now, &up), []);
        assert_eq!(admission.deadline(&open, now), None);
    }

    #[test]
    fn what_is_down_when_a_gate_closes_is_let_go() {
        let (told, holding) = holding(Some(Arc::new(Policy::standard())));
        let now = Instant::now();
        let mut admission = Admission::default();
        take(&mut admission, &holding, now, &[Input::Key { evdev: 30, pressed: true }]);
        assert!(!admission.renew(&holding));
        told.send_replace(Some(Arc::new(Policy::strict())));
        assert!(admission.renew(&holding));
        assert_eq!(take(&mut admission, &holding, now, &[Input::Key { evdev: 30, pressed: false }]), []);
    }

    #[test]
    fn a_fast_mouse_is_a_slower_one_and_arrives_where_the_hand_put_it() {
        let (_told, holding) = holding(Some(Arc::new(Policy::standard())));
        let began = Instant::now();
        let mut admission = Admission::default();
        let mut out = Vec::new();
        // 1000 movements within a second, of which the policy lets 60 pass.
        for step in 0..1000_u32 {
            let now = began + Duration::from_millis(step.into());
            out.extend(admission.due(&holding, now));
            admission.take(Input::PointerMove { x: step, y: 0 }, &holding, now, &mut out);
        }
        let at = admission.deadline(&holding, began).unwrap();
        out.extend(admission.due(&holding, at));
        assert!((59..=62).contains(&out.len()), "{}", out.len());
        assert_eq!(out.last(), Some(&Input::PointerMove { x: 999, y: 0 }));
        // The first one goes at once, whatever time it is.
        let first = [Input::PointerMove { x: 7, y: 7 }];
        assert_eq!(take(&mut Admission::default(), &holding, Instant::now(), &first), first);
        // A click does not wait, and is not where the pointer was.
        let now = at + Duration::from_millis(1);
        let click =
            [Input::PointerMove { x: 5, y: 5 }, Input::Button { button: Button::Left, pressed: true }];
        assert_eq!(take(&mut admission, &holding, now, &click), click);
    }
}
