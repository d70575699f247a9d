//! From RDP's input events to the desktop's.
//!
//! Sources: MS-RDPBCGR 2.2.8.1.1.3 (slow path), 2.2.8.1.2.2 (fast path); scan codes are set 1 as keyboards
//! send them, key codes are Linux's (`linux/input-event-codes.h`).

use ironrdp_pdu::input::fast_path::{FastPathInputEvent, KeyboardFlags, SynchronizeFlags};
use ironrdp_pdu::input::mouse::PointerFlags;
use ironrdp_pdu::input::mouse_rel::PointerRelFlags;
use ironrdp_pdu::input::mouse_x::PointerXFlags;
use ironrdp_pdu::input::scan_code::KeyboardFlags as SlowKeyboardFlags;
use ironrdp_pdu::input::sync::SyncToggleFlags;
use ironrdp_pdu::input::unicode::KeyboardFlags as UnicodeFlags;
use ironrdp_pdu::input::{InputEvent, MousePdu, MouseRelPdu, MouseXPdu};
use lucid_desktop::{Button, Input};

/// RDP counts 120 for one detent of a wheel.
const WHEEL_DETENT: f64 = 120.0;

/// Turns one client's events into the desktop's. Keeps what spans several events.
#[derive(Debug, Default)]
pub(crate) struct Translator {
    /// The first half of Pause (E1 1D) has been seen; the second half is 45.
    pause: bool,
    /// The first half of a surrogate pair.
    high: Option<u16>,
}

impl Translator {
    /// A fast-path event.
    pub(crate) fn fast(&mut self, event: FastPathInputEvent, out: &mut Vec<Input>) {
        match event {
            FastPathInputEvent::KeyboardEvent(flags, code) => self.key(
                code,
                flags.contains(KeyboardFlags::EXTENDED),
                flags.contains(KeyboardFlags::EXTENDED1),
                !flags.contains(KeyboardFlags::RELEASE),
                out,
            ),
            FastPathInputEvent::UnicodeKeyboardEvent(flags, code) => {
                self.unicode(code, !flags.contains(KeyboardFlags::RELEASE), out);
            }
            FastPathInputEvent::MouseEvent(mouse) => pointer(mouse, out),
            FastPathInputEvent::MouseEventEx(mouse) => extended_pointer(mouse, out),
            FastPathInputEvent::MouseEventRel(mouse) => relative_pointer(mouse, out),
            FastPathInputEvent::SyncEvent(flags) => out.push(Input::Locks {
                caps: flags.contains(SynchronizeFlags::CAPS_LOCK),
                num: flags.contains(SynchronizeFlags::NUM_LOCK),
                scroll: flags.contains(SynchronizeFlags::SCROLL_LOCK),
            }),
            FastPathInputEvent::QoeEvent(_) => {}
        }
    }

    /// A slow-path event.
    pub(crate) fn slow(&mut self, event: InputEvent, out: &mut Vec<Input>) {
        match event {
            InputEvent::ScanCode(key) => {
                // Scan codes have 7 bits; a larger one is no key.
                if let Ok(code) = u8::try_from(key.key_code) {
                    self.key(
                        code,
                        key.flags.contains(SlowKeyboardFlags::EXTENDED),
                        key.flags.contains(SlowKeyboardFlags::EXTENDED_1),
                        !key.flags.contains(SlowKeyboardFlags::RELEASE),
                        out,
                    );
                }
            }
            InputEvent::Unicode(key) => {
                let pressed = !key.flags.contains(UnicodeFlags::RELEASE);
                self.unicode(key.unicode_code, pressed, out);
            }
            InputEvent::Sync(sync) => out.push(Input::Locks {
                caps: sync.flags.contains(SyncToggleFlags::CAPS_LOCK),
                num: sync.flags.contains(SyncToggleFlags::NUM_LOCK),
                scroll: sync.flags.contains(SyncToggleFlags::SCROLL_LOCK),
            }),
            InputEvent::Mouse(mouse) => pointer(mouse, out),
            InputEvent::MouseX(mouse) => extended_pointer(mouse, out),
            InputEvent::MouseRel(mouse) => relative_pointer(mouse, out),
            InputEvent::Unused(_) => {}
        }
    }

    fn key(&mut self, code: u8, extended: bool, extended1: bool, pressed: bool, out: &mut Vec<Input>) {
        if extended1 && code == 0x1d {
            self.pause = true;
            return;
        }
        let evdev = if std::mem::take(&mut self.pause) && code == 0x45 {
            Some(KEY_PAUSE)
        } else {
            evdev(code, extended)
        };
        match evdev {
            Some(evdev) => out.push(Input::Key { evdev, pressed }),
            None => tracing::debug!(extended, "a scan code that no key has"),
        }
    }

    /// A unit of UTF-16 (MS-RDPBCGR 2.2.8.1.1.3.1.1.2). Each press types it; releases say nothing more, and some
    /// clients send none.
    fn unicode(&mut self, code: u16, pressed: bool, out: &mut Vec<Input>) {
        if !pressed {
            return;
        }
        let high = self.high.take();
        // A half that does not find its other one is nothing.
        let units = [high, Some(code)].into_iter().flatten();
        for unit in char::decode_utf16(units) {
            match unit {
                Ok(character) => out.push(Input::Character(character)),
                Err(half) if (0xd800..0xdc00).contains(&half.unpaired_surrogate()) => {
                    self.high = Some(half.unpaired_surrogate());
                }
                Err(_) => {}
            }
        }
    }
}

const KEY_PAUSE: u32 = 119;

/// The Linux key of a set-1 scan code; `extended` is the prefix E0.
fn evdev(code: u8, extended: bool) -> Option<u32> {
    let key = match (extended, code) {
        // Linux numbers its first keys after the scan codes: Escape to F10, Num Lock, the keypad, F11, F12.
        (false, 0x01..=0x53 | 0x56..=0x58) => u32::from(code),
        (false, 0x54) => 99,                                  // SysRq (Alt + Print)
        (false, 0x59) => 117,                                 // keypad =
        (false, 0x5c) => 95,                                  // keypad , (Japanese)
        (false, 0x64..=0x6e) => 183 + u32::from(code - 0x64), // F13 to F23
        (false, 0x70) => 93,                                  // Katakana/Hiragana
        (false, 0x73) => 89,                                  // Ro
        (false, 0x76) => 194,                                 // F24
        (false, 0x77) => 91,                                  // Hiragana
        (false, 0x78) => 90,                                  // Katakana
        (false, 0x79) => 92,                                  // Henkan
        (false, 0x7b) => 94,                                  // Muhenkan
        (false, 0x7d) => 124,                                 // Yen
        (false, 0x7e) => 121,                                 // keypad , (Brazilian)
        (true, 0x10) => 165,                                  // previous track
        (true, 0x19) => 163,                                  // next track
        (true, 0x1c) => 96,                                   // keypad Enter
        (true, 0x1d) => 97,                                   // right Ctrl
        (true, 0x20) => 113,                                  // mute
        (true, 0x21) => 140,                                  // calculator
        (true, 0x22) => 164,                                  // play, pause
        (true, 0x24) => 166,                                  // stop
        (true, 0x2e) => 114,                                  // volume down
        (true, 0x30) => 115,                                  // volume up
        (true, 0x32) => 172,                                  // home page
        (true, 0x35) => 98,                                   // keypad /
        (true, 0x37) => 99,                                   // Print
        (true, 0x38) => 100,                                  // right Alt, AltGr
        (true, 0x45) => 69,                                   // Num Lock, as some clients send it
        (true, 0x46) => KEY_PAUSE,                            // Ctrl + Break
        (true, 0x47) => 102,                                  // Home
        (true, 0x48) => 103,                                  // Up
        (true, 0x49) => 104,                                  // Page Up
        (true, 0x4b) => 105,                                  // Left
        (true, 0x4d) => 106,                                  // Right
        (true, 0x4f) => 107,                                  // End
        (true, 0x50) => 108,                                  // Down
        (true, 0x51) => 109,                                  // Page Down
        (true, 0x52) => 110,                                  // Insert
        (true, 0x53) => 111,                                  // Delete
        (true, 0x5b) => 125,                                  // left Super
        (true, 0x5c) => 126,                                  // right Super
        (true, 0x5d) => 127,                                  // Menu
        (true, 0x65) => 217,                                  // search
        (true, 0x66) => 156,                                  // bookmarks
        (true, 0x67) => 173,                                  // refresh
        (true, 0x68) => 128,                                  // stop loading
        (true, 0x69) => 159,                                  // forward
        (true, 0x6a) => 158,                                  // back
        (true, 0x6b) => 157,                                  // computer
        (true, 0x6c) => 155,                                  // mail
        (true, 0x6d) => 226,                                  // media
        _ => return None,
    };
    Some(key)
}

fn pointer(mouse: MousePdu, out: &mut Vec<Input>) {
    // MS-RDPBCGR 2.2.8.1.1.3.1.1.3: a wheel event carries no position.
    let units = f64::from(mouse.number_of_wheel_rotation_units) / WHEEL_DETENT;
    if mouse.flags.contains(PointerFlags::VERTICAL_WHEEL) {
        // RDP counts away from the user as positive, the desktop counts downwards.
        out.push(Input::Wheel { vertical: -units, horizontal: 0.0 });
        return;
    }
    if mouse.flags.contains(PointerFlags::HORIZONTAL_WHEEL) {
        out.push(Input::Wheel { vertical: 0.0, horizontal: units });
        return;
    }
    out.push(Input::PointerMove { x: mouse.x_position.into(), y: mouse.y_position.into() });
    let pressed = mouse.flags.contains(PointerFlags::DOWN);
    for (flag, button) in [
        (PointerFlags::LEFT_BUTTON, Button::Left),
        (PointerFlags::RIGHT_BUTTON, Button::Right),
        (PointerFlags::MIDDLE_BUTTON_OR_WHEEL, Button::Middle),
    ] {
        if mouse.flags.contains(flag) {
            out.push(Input::Button { button, pressed });
        }
    }
}

fn extended_pointer(mouse: MouseXPdu, out: &mut Vec<Input>) {
    out.push(Input::PointerMove { x: mouse.x_position.into(), y: mouse.y_position.into() });
    let pressed = mouse.flags.contains(PointerXFlags::DOWN);
    for (flag, button) in [(PointerXFlags::BUTTON1, Button::Back), (PointerXFlags::BUTTON2, Button::Forward)]
    {
        if mouse.flags.contains(flag) {
            out.push(Input::Button { button, pressed });
        }
    }
}

fn relative_pointer(mouse: MouseRelPdu, out: &mut Vec<Input>) {
    if mouse.x_delta != 0 || mouse.y_delta != 0 {
        out.push(Input::PointerMoveRelative { dx: mouse.x_delta.into(), dy: mouse.y_delta.into() });
    }
    let pressed = mouse.flags.contains(PointerRelFlags::DOWN);
    for (flag, button) in [
        (PointerRelFlags::BUTTON1, Button::Left),
        (PointerRelFlags::BUTTON2, Button::Right),
        (PointerRelFlags::BUTTON3, Button::Middle),
        (PointerRelFlags::XBUTTON1, Button::Back),
        (PointerRelFlags::XBUTTON2, Button::Forward),
    ] {
        if mouse.flags.contains(flag) {
            out.push(Input::Button { button, pressed });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironrdp_pdu::input::unicode::UnicodePdu;

    fn fast(event: FastPathInputEvent) -> Vec<Input> {
        let mut out = Vec::new();
        Translator::default().fast(event, &mut out);
        out
    }

    fn mouse(flags: PointerFlags, units: i16) -> FastPathInputEvent {
        FastPathInputEvent::MouseEvent(MousePdu {
            flags,
            number_of_wheel_rotation_units: units,
            x_position: 7,
            y_position: 9,
        })
    }

    #[test]
    fn every_button_arrives_as_itself_on_the_classic_path() {
        for (flag, button) in [
            (PointerFlags::LEFT_BUTTON, Button::Left),
            (PointerFlags::RIGHT_BUTTON, Button::Right),
            (PointerFlags::MIDDLE_BUTTON_OR_WHEEL, Button::Middle),
        ] {
            for pressed in [true, false] {
                let flags = if pressed { flag | PointerFlags::DOWN } else { flag };
                assert_eq!(
                    fast(mouse(flags, 0)),
                    [Input::PointerMove { x: 7, y: 9 }, Input::Button { button, pressed }]
                );
            }
        }
        for (flag, button) in
            [(PointerXFlags::BUTTON1, Button::Back), (PointerXFlags::BUTTON2, Button::Forward)]
        {
            let event = MouseXPdu { flags: flag | PointerXFlags::DOWN, x_position: 7, y_position: 9 };
            assert_eq!(
                fast(FastPathInputEvent::MouseEventEx(event)),
                [Input::PointerMove { x: 7, y: 9 }, Input::Button { button, pressed: true }]
            );
        }
    }

    #[test]
    fn both_wheels_turn_the_right_way_and_move_nothing() {
        assert_eq!(
            fast(mouse(PointerFlags::VERTICAL_WHEEL, 120)),
            [Input::Wheel { vertical: -1.0, horizontal: 0.0 }]
        );
        assert_eq!(
            fast(mouse(PointerFlags::VERTICAL_WHEEL | PointerFlags::WHEEL_NEGATIVE, -120)),
            [Input::Wheel { vertical: 1.0, horizontal: 0.0 }]
        );
        assert_eq!(
            fast(mouse(PointerFlags::HORIZONTAL_WHEEL, 60)),
            [Input::Wheel { vertical: 0.0, horizontal: 0.5 }]
        );
    }

    #[test]
    fn characters_come_from_units_and_pairs_and_from_presses_alone() {
        let mut translator = Translator::default();
        let mut out = Vec::new();
        let mut send = |code, pressed, slow| {
            let release = if pressed { 0 } else { 0x8000 };
            if slow {
                let flags = UnicodeFlags::from_bits_retain(release);
                translator.slow(InputEvent::Unicode(UnicodePdu { flags, unicode_code: code }), &mut out);
            } else {
                let flags = if pressed { KeyboardFlags::empty() } else { KeyboardFlags::RELEASE };
                translator.fast(FastPathInputEvent::UnicodeKeyboardEvent(flags, code), &mut out);
            }
        };
        for slow in [false, true] {
            // A letter; a pair with the releases between and after; halves without their other one; a letter.
            for (code, pressed) in [
                (0xe9, true),
                (0xe9, false),
                (0xd83e, true),
                (0xd83e, false),
                (0xdd80, true),
                (0xdd80, false),
                (0xdd80, true),
                (0xd83e, true),
                (0xd83e, true),
                (0xdd80, true),
                (0xd83e, true),
                (0x416, true),
            ] {
                send(code, pressed, slow);
            }
        }
        let typed: String = out
            .iter()
            .map(|input| match input {
                Input::Character(character) => *character,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(typed, "é🦀🦀Жé🦀🦀Ж");
    }

    #[test]
    fn keys_with_and_without_prefix_are_told_apart() {
        let key = |flags, code| fast(FastPathInputEvent::KeyboardEvent(flags, code));
        assert_eq!(key(KeyboardFlags::empty(), 0x1e), [Input::Key { evdev: 30, pressed: true }]);
        assert_eq!(key(KeyboardFlags::RELEASE, 0x1d), [Input::Key { evdev: 29, pressed: false }]);
        assert_eq!(key(KeyboardFlags::EXTENDED, 0x1d), [Input::Key { evdev: 97, pressed: true }]);
        assert_eq!(key(KeyboardFlags::EXTENDED, 0x38), [Input::Key { evdev: 100, pressed: true }]);
        assert_eq!(key(KeyboardFlags::empty(), 0x48), [Input::Key { evdev: 72, pressed: true }]);
        assert_eq!(key(KeyboardFlags::EXTENDED, 0x48), [Input::Key { evdev: 103, pressed: true }]);
        assert_eq!(key(KeyboardFlags::empty(), 0x7f), []);
    }

    #[test]
    fn pause_is_pause_and_not_num_lock() {
        let mut translator = Translator::default();
        let mut out = Vec::new();
        for (flags, code) in [
            (KeyboardFlags::EXTENDED1, 0x1d),
            (KeyboardFlags::empty(), 0x45),
            (KeyboardFlags::EXTENDED1 | KeyboardFlags::RELEASE, 0x1d),
            (KeyboardFlags::RELEASE, 0x45),
            (KeyboardFlags::empty(), 0x45),
        ] {
            translator.fast(FastPathInputEvent::KeyboardEvent(flags, code), &mut out);
        }
        assert_eq!(
            out,
            [
                Input::Key { evdev: KEY_PAUSE, pressed: true },
                Input::Key { evdev: KEY_PAUSE, pressed: false },
                Input::Key { evdev: 69, pressed: true },
            ]
        );
    }

    #[test]
    fn no_scan_code_maps_outside_of_what_xkb_carries() {
        for code in 0..=u8::MAX {
            for extended in [false, true] {
                if let Some(key) = evdev(code, extended) {
                    assert!((1..=247).contains(&key), "{code:#x} {extended} {key}");
                }
            }
        }
    }
}
