//! Fingers on the client's screen (MS-RDPEI). The compositor has no way to be given touches (wlroots 0.18 has no protocol
//! for that), so they do what they mean on a desktop that is used with a mouse: see [`Gestures`].

mod gestures;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ironrdp_rdpei::pdu::{RdpInputProtocolVersion, TouchContactFlags, TouchEventPdu};
use ironrdp_rdpei::{RdpeiHandler, RdpeiServer};
use lucid_desktop::Input;

use gestures::{Finger, Gestures};

/// Inputs that the session has not taken yet; beyond that only those of buttons, so that none stays down.
const MAX_WAITING: usize = 1024;

/// The channel's end on this side, and what comes out of it.
pub(crate) fn channel() -> (RdpeiServer, Touches) {
    let touches = Touches::default();
    // Without pens, which come with version 2.
    let server =
        RdpeiServer::new(Box::new(touches.clone())).with_protocol_version(RdpInputProtocolVersion::V101);
    (server, touches)
}

/// What a client's fingers do.
#[derive(Clone, Default)]
pub(crate) struct Touches(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    gestures: Gestures,
    inputs: Vec<Input>,
}

impl Touches {
    /// What they have done since the last time.
    pub(crate) fn take(&self) -> Vec<Input> {
        std::mem::take(&mut self.state().inputs)
    }

    /// When to [look](Self::look) again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.state().gestures.deadline()
    }

    /// Does what a finger means that just stays where it is.
    pub(crate) fn look(&self, now: Instant) {
        let state = &mut *self.state();
        state.gestures.look(now, &mut state.inputs);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RdpeiHandler for Touches {
    fn touch(&mut self, event: TouchEventPdu) {
        let now = Instant::now();
        let state = &mut *self.state();
        for contact in event.frames.iter().flat_map(|frame| &frame.contacts) {
            if let Some(finger) = finger(contact.contact_flags) {
                state.gestures.take(
                    contact.contact_id,
                    finger,
                    (contact.x, contact.y),
                    now,
                    &mut state.inputs,
                );
            }
            if state.inputs.len() > MAX_WAITING {
                state.inputs.retain(|input| matches!(input, Input::Button { .. }));
            }
        }
    }
}

/// What a contact's flags mean (2.2.3.3.1.1); nothing if they may not stand together.
fn finger(flags: TouchContactFlags) -> Option<Finger> {
    if !flags.is_legal() {
        return None;
    }
    Some(if flags.contains(TouchContactFlags::CANCELED) {
        Finger::Lost
    } else if flags.contains(TouchContactFlags::DOWN) {
        Finger::Down
    } else if flags.contains(TouchContactFlags::UP) {
        Finger::Up
    } else if flags.contains(TouchContactFlags::INCONTACT) {
        Finger::Moved
    } else if flags.contains(TouchContactFlags::INRANGE) {
        Finger::Above
    } else {
        Finger::Lost
    })
}

#[cfg(test)]
mod tests {
    use ironrdp_core::encode_vec;
    use ironrdp_dvc::DvcProcessor as _;
    use ironrdp_rdpei::pdu::{CsReadyFlags, CsReadyPdu, RdpeiPdu, TouchContact, TouchFrame};
    use lucid_desktop::Button;

    use super::*;

    fn event(contacts: Vec<TouchContact>) -> Vec<u8> {
        encode_vec(&RdpeiPdu::Touch(TouchEventPdu::new(0, vec![TouchFrame::new(0, contacts)]))).unwrap()
    }

    #[test]
    fn a_tap_as_a_client_sends_it_is_a_click_there() {
        let (mut channel, touches) = channel();
        assert_eq!(channel.start(1).unwrap().len(), 1);
        let ready = CsReadyPdu::new(CsReadyFlags::empty(), RdpInputProtocolVersion::V101, 10);
        channel.process(1, &encode_vec(&RdpeiPdu::CsReady(ready)).unwrap()).unwrap();
        let down = TouchContactFlags::DOWN | TouchContactFlags::INRANGE | TouchContactFlags::INCONTACT;
        for flags in [down, TouchContactFlags::UP] {
            channel.process(1, &event(vec![TouchContact::new(0, 300, 200, flags)])).unwrap();
        }
        let button = Button::Left;
        assert_eq!(
            touches.take(),
            [
                Input::PointerMove { x: 300, y: 200 },
                Input::Button { button, pressed: true },
                Input::Button { button, pressed: false },
            ]
        );
        assert!(touches.take().is_empty());
    }

    #[test]
    fn any_number_of_touches_takes_a_bounded_room_and_leaves_no_button_down() {
        let (mut channel, touches) = channel();
        let flags = |bits| TouchContactFlags::from_bits_truncate(bits);
        for round in 0..2000_i32 {
            let contacts = (0..20)
                .map(|at| {
                    let place = (round * 37 + i32::from(at) * 91) % 4000 - 100;
                    TouchContact::new(at % 5, place, place / 2, flags([0x19, 0x1a, 0x04][round as usize % 3]))
                })
                .collect();
            channel.process(1, &event(contacts)).unwrap();
        }
        let up = (0..5).map(|id| TouchContact::new(id, 0, 0, flags(0x24))).collect();
        channel.process(1, &event(up)).unwrap();
        let inputs = touches.take();
        let pressed = |pressed| {
            inputs
                .iter()
                .filter(|input| matches!(input, Input::Button { pressed: p, .. } if *p == pressed))
                .count()
        };
        assert_eq!(pressed(true), pressed(false));
    }

    #[test]
    fn no_damage_makes_it_fail() {
        let good = event(vec![TouchContact::new(3, 100, 70_000, TouchContactFlags::UP); 4]);
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let (mut channel, _) = channel();
                let mut damaged = good.clone();
                damaged[at] = value;
                let _ = channel.process(1, &damaged);
            }
            let _ = channel().0.process(1, &good[..at]);
        }
    }
}
