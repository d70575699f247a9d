//! Which of the client's input is for the host itself: clicks on what it shows over the desktop.

use lucid_desktop::{Button, Input};

use crate::curtain::Curtain;

/// Keeps what spans several events.
#[derive(Debug, Default)]
pub(super) struct Clicks {
    /// Where the client's pointer is.
    pointer: (u32, u32),
    /// Has gone down on the notice: the desktop is not told that it comes up.
    held: Option<Button>,
}

/// Whose an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Desktop,
    /// The host's, and means nothing.
    Nobody,
    /// The host's: the notice is clicked.
    Notice,
}

impl Clicks {
    /// What is down is another's business: a page stands over everything.
    pub(super) fn let_go(&mut self) {
        self.held = None;
    }

    pub(super) fn see(&mut self, input: &Input, curtain: &Curtain) -> For {
        match *input {
            Input::PointerMove { x, y } => {
                self.pointer = (x, y);
                For::Desktop
            }
            Input::Button { button, pressed: true } if curtain.tells_at(self.pointer) => {
                self.held = Some(button);
                if button == Button::Left { For::Notice } else { For::Nobody }
            }
            Input::Button { button, pressed: false } if self.held == Some(button) => {
                self.held = None;
                For::Nobody
            }
            _ => For::Desktop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curtain::Overlaid;
    use crate::notice::Notice;
    use lucid_desktop::Frame;

    #[test]
    fn only_clicks_on_the_notice_that_is_shown_are_kept_from_the_desktop() {
        let curtain = Curtain::default();
        let (width, height) = (400, 300);
        let pixels = vec![0; 400 * 300 * 4];
        let show = |notice: Option<&Notice>| {
            curtain.tell(notice);
            let frame = Frame { width, height, stride: 1600, pixels: &pixels, damage: &[] };
            curtain.pass(frame, &mut Overlaid::default()).is_some()
        };
        let mut clicks = Clicks::default();
        let press = |button| Input::Button { button, pressed: true };
        let release = |button| Input::Button { button, pressed: false };
        let mut at = |x, y, inputs: &[Input]| -> Vec<For> {
            let moved = [Input::PointerMove { x, y }];
            moved.iter().chain(inputs).map(|input| clicks.see(input, &curtain)).skip(1).collect()
        };
        let (left, right) = (Button::Left, Button::Right);
        let click = [press(left), release(left)];
        assert_eq!(at(200, 10, &click), [For::Desktop; 2]);
        assert!(show(Some(&Notice { title: "Copying".into(), text: "Click".into() })));
        assert_eq!(at(200, 10, &click), [For::Notice, For::Nobody]);
        assert_eq!(at(200, 10, &[press(right), release(right)]), [For::Nobody; 2]);
        assert_eq!(at(200, 290, &click), [For::Desktop; 2]);
        // Begun on it, ended elsewhere: and the other way round.
        assert_eq!(at(200, 10, &[press(left)]), [For::Notice]);
        assert_eq!(at(200, 290, &[release(left), press(left)]), [For::Nobody, For::Desktop]);
        assert_eq!(at(200, 10, &[release(left)]), [For::Desktop]);
        // Why something was refused stands over that, and is clicked away as well.
        curtain.refuse(Some(Notice { title: "That is not allowed".into(), text: String::new() }));
        assert_eq!(at(200, 10, &click), [For::Desktop; 2], "it was not painted yet");
        assert!(show(Some(&Notice { title: "Copying".into(), text: "Click".into() })));
        assert_eq!(at(200, 10, &click), [For::Notice, For::Nobody]);
        curtain.refuse(None);
        // What the session has to say is not clicked away, and nothing is there when it is over.
        assert!(curtain.announce(Some(Notice { title: "This session ends".into(), text: String::new() })));
        assert!(show(Some(&Notice { title: "Copying".into(), text: "Click".into() })));
        assert_eq!(at(200, 10, &click), [For::Desktop; 2]);
        assert!(curtain.announce(None));
        assert!(show(None));
        assert_eq!(at(200, 10, &click), [For::Desktop; 2]);
    }
}
