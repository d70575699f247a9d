//! What fingers mean where there is a mouse.

use std::time::{Duration, Instant};

use lucid_desktop::{Button, Input};

/// A finger that stays within so many pixels has not moved.
const SLOP: i32 = 12;
/// One that stays for so long is a long press.
const LONG: Duration = Duration::from_millis(600);
/// So many pixels are a detent of the wheel.
const DETENT: f64 = 40.0;
/// More fingers are not looked at.
const MAX_FINGERS: usize = 10;

/// What one finger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finger {
    Down,
    Moved,
    Up,
    /// Over the screen, not on it.
    Above,
    /// It is not there any more, and was not meant.
    Lost,
}

/// One client's fingers, and what they are about.
///
/// | fingers | mean |
/// | --- | --- |
/// | one taps | a click |
/// | one moves | the left button held, a drag |
/// | one stays | a click with the right button |
/// | two move | both wheels; what is shown follows the fingers |
/// | two tap | a click with the right button, where the first was |
///
/// Each press of a button is let go of, at the latest when no finger is down.
#[derive(Debug, Default)]
pub(super) struct Gestures {
    fingers: Vec<Down>,
    about: About,
}

#[derive(Clone, Copy, Debug)]
struct Down {
    id: u8,
    at: (i32, i32),
}

#[derive(Clone, Copy, Debug, Default)]
enum About {
    /// No finger is down.
    #[default]
    Nothing,
    /// One is, and has not moved from there.
    Press { from: (i32, i32), since: Instant },
    /// One has moved: the left button is held.
    Drag,
    /// Two are.
    Two {
        /// Where the first was.
        from: (i32, i32),
        /// Their middle, as far as it has been scrolled.
        middle: (i32, i32),
        moved: bool,
        since: Instant,
    },
    /// What is still down means nothing.
    Over,
}

impl Gestures {
    /// When one that stays is a long press.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.about {
            About::Press { since, .. } => Some(since + LONG),
            _ => None,
        }
    }

    pub(super) fn look(&mut self, now: Instant, out: &mut Vec<Input>) {
        if let About::Press { from, since } = self.about
            && now >= since + LONG
        {
            click(Button::Right, from, out);
            self.about = About::Over;
        }
    }

    pub(super) fn take(&mut self, id: u8, what: Finger, at: (i32, i32), now: Instant, out: &mut Vec<Input>) {
        self.look(now, out);
        let known = self.fingers.iter().position(|finger| finger.id == id);
        match (what, known) {
            (Finger::Down, None) if self.fingers.len() < MAX_FINGERS => {
                self.fingers.push(Down { id, at });
                self.comes(at, now, out);
            }
            // That it went up was lost.
            (Finger::Moved | Finger::Down, Some(known)) => {
                if let Some(finger) = self.fingers.get_mut(known) {
                    finger.at = at;
                }
                self.moves(out);
            }
            (Finger::Up | Finger::Lost, Some(known)) => {
                self.fingers.remove(known);
                self.goes(what == Finger::Up, now, out);
            }
            (Finger::Above, None) if self.fingers.is_empty() => point(at, out),
            // Of one that is not down, or is one too many.
            _ => {}
        }
    }

    fn comes(&mut self, at: (i32, i32), now: Instant, out: &mut Vec<Input>) {
        self.about = match self.about {
            About::Nothing => {
                point(at, out);
                About::Press { from: at, since: now }
            }
            About::Press { from, since } => About::Two { from, middle: self.middle(), moved: false, since },
            About::Drag => {
                out.push(Input::Button { button: Button::Left, pressed: false });
                About::Over
            }
            About::Two { .. } | About::Over => About::Over,
        };
    }

    fn moves(&mut self, out: &mut Vec<Input>) {
        let now_middle = self.middle();
        match &mut self.about {
            About::Press { from, .. } if is_far(*from, now_middle) => {
                point(*from, out);
                out.push(Input::Button { button: Button::Left, pressed: true });
                point(now_middle, out);
                self.about = About::Drag;
            }
            About::Drag => point(now_middle, out),
            About::Two { middle, moved, .. } if *moved || is_far(*middle, now_middle) => {
                *moved = true;
                // Differences of places that are 29 bits and a sign (2.2.2.4).
                let (dx, dy) = (f64::from(now_middle.0 - middle.0), f64::from(now_middle.1 - middle.1));
                *middle = now_middle;
                out.push(Input::Wheel { vertical: -dy / DETENT, horizontal: -dx / DETENT });
            }
            About::Nothing | About::Press { .. } | About::Two { .. } | About::Over => {}
        }
    }

    fn goes(&mut self, meant: bool, now: Instant, out: &mut Vec<Input>) {
        match self.about {
            About::Press { from, .. } if meant => click(Button::Left, from, out),
            About::Drag => out.push(Input::Button { button: Button::Left, pressed: false }),
            About::Two { from, moved: false, since, .. } if meant && now < since + LONG => {
                click(Button::Right, from, out);
            }
            _ => {}
        }
        self.about = if self.fingers.is_empty() { About::Nothing } else { About::Over };
    }

    /// The middle of the fingers that are down.
    fn middle(&self) -> (i32, i32) {
        let count = i64::try_from(self.fingers.len().max(1)).unwrap_or(1);
        let mean = |side: fn(&Down) -> i32| {
            // Between the least and the largest of what fits.
            (self.fingers.iter().map(|finger| i64::from(side(finger))).sum::<i64>() / count) as i32
        };
        (mean(|finger| finger.at.0), mean(|finger| finger.at.1))
    }
}

fn is_far(from: (i32, i32), to: (i32, i32)) -> bool {
    from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)) > SLOP.unsigned_abs()
}

/// A client may say places outside of its picture; the desktop brings them to the edge.
fn point((x, y): (i32, i32), out: &mut Vec<Input>) {
    let side = |v: i32| u32::try_from(v).unwrap_or(0);
    out.push(Input::PointerMove { x: side(x), y: side(y) });
}

fn click(button: Button, at: (i32, i32), out: &mut Vec<Input>) {
    // The pointer is where the first finger came down, unless something else has moved it.
    if out.last()
        != Some(&Input::PointerMove { x: at.0.max(0).unsigned_abs(), y: at.1.max(0).unsigned_abs() })
    {
        point(at, out);
    }
    out.push(Input::Button { button, pressed: true });
    out.push(Input::Button { button, pressed: false });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of fingers at places, each so many milliseconds after the one before.
    fn run(steps: &[(u8, Finger, (i32, i32), u64)]) -> Vec<Input> {
        let mut gestures = Gestures::default();
        let mut out = Vec::new();
        let mut now = Instant::now();
        for (id, what, at, wait) in steps {
            now += Duration::from_millis(*wait);
            gestures.look(now, &mut out);
            gestures.take(*id, *what, *at, now, &mut out);
        }
        out
    }

    fn at(x: u32, y: u32) -> Input {
        Input::PointerMove { x, y }
    }

    fn clicked(button: Button) -> [Input; 2] {
        [Input::Button { button, pressed: true }, Input::Button { button, pressed: false }]
    }

    use Finger::{Above, Down, Lost, Moved, Up};

    #[test]
    fn a_tap_clicks_where_the_finger_came_down_also_when_it_trembles() {
        let [press, release] = clicked(Button::Left);
        let out = run(&[(1, Down, (50, 60), 0), (1, Moved, (55, 58), 20), (1, Up, (55, 58), 20)]);
        assert_eq!(out, [at(50, 60), press, release]);
    }

    #[test]
    fn a_finger_that_moves_drags_from_where_it_came_down() {
        let [press, release] = clicked(Button::Left);
        let out = run(&[
            (1, Down, (50, 60), 0),
            (1, Moved, (80, 60), 20),
            (1, Moved, (90, 70), 20),
            (1, Up, (90, 70), 900),
        ]);
        assert_eq!(out, [at(50, 60), at(50, 60), press, at(80, 60), at(90, 70), release]);
    }

    #[test]
    fn a_long_press_and_a_tap_of_two_are_the_right_button() {
        let [press, release] = clicked(Button::Right);
        let long = run(&[(1, Down, (50, 60), 0), (1, Moved, (51, 60), 700), (1, Up, (90, 99), 20)]);
        assert_eq!(long, [at(50, 60), press, release]);
        let two =
            [(1, Down, (50, 60), 0), (2, Down, (150, 60), 20), (2, Up, (150, 60), 20), (1, Up, (50, 60), 9)];
        assert_eq!(run(&two), [at(50, 60), press, release]);
    }

    #[test]
    fn two_fingers_scroll_so_that_what_is_shown_follows_them() {
        let out = run(&[
            (1, Down, (100, 300), 0),
            (2, Down, (200, 300), 20),
            (1, Moved, (100, 220), 20),
            (2, Moved, (200, 220), 20),
            (1, Moved, (180, 220), 20),
            (1, Up, (180, 220), 20),
            (2, Moved, (200, 0), 20),
            (2, Up, (200, 0), 20),
        ]);
        let wheel = |vertical, horizontal| Input::Wheel { vertical, horizontal };
        assert_eq!(out, [at(100, 300), wheel(1.0, 0.0), wheel(1.0, 0.0), wheel(0.0, -1.0)]);
    }

    #[test]
    fn what_was_not_meant_does_nothing_and_a_drag_ends_with_a_second_finger() {
        let [press, release] = clicked(Button::Left);
        assert_eq!(run(&[(1, Down, (50, 60), 0), (1, Lost, (50, 60), 20)]), [at(50, 60)]);
        assert_eq!(run(&[(1, Above, (7, -8), 0), (1, Up, (7, 8), 0), (1, Moved, (7, 8), 0)]), [at(7, 0)]);
        let out = run(&[
            (1, Down, (50, 60), 0),
            (1, Moved, (80, 60), 20),
            (2, Down, (9, 9), 20),
            (1, Moved, (200, 200), 20),
            (1, Up, (200, 200), 20),
            (2, Up, (9, 9), 20),
        ]);
        assert_eq!(out, [at(50, 60), at(50, 60), press, at(80, 60), release]);
    }

    #[test]
    fn whatever_fingers_do_no_button_is_pressed_twice_or_held_without_one() {
        let mut seed = 5_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut gestures = Gestures::default();
        let mut now = Instant::now();
        let mut held: Vec<Button> = Vec::new();
        for _ in 0..200_000 {
            let mut out = Vec::new();
            now += Duration::from_millis(random(300));
            let what = [Down, Moved, Up, Above, Lost][random(5) as usize];
            let place = || i32::MIN / 8;
            let at = match random(9) {
                0 => (i32::MAX / 8, place()),
                _ => (random(2000) as i32, random(2000) as i32 - 100),
            };
            gestures.take(random(14) as u8, what, at, now, &mut out);
            assert!(gestures.fingers.len() <= MAX_FINGERS && out.len() <= 8);
            for input in out {
                if let Input::Button { button, pressed } = input {
                    let known = held.iter().position(|other| *other == button);
                    assert_eq!(known.is_some(), !pressed, "{button:?}");
                    match known {
                        Some(known) => drop(held.remove(known)),
                        None => held.push(button),
                    }
                }
            }
            assert!(held.is_empty() || !gestures.fingers.is_empty());
        }
    }
}
