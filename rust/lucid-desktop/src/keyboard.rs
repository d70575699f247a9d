//! Which modifiers and lock states follow from the keys.
//!
//! A virtual keyboard's client has to tell the compositor the modifiers itself
//! (`zwp_virtual_keyboard_v1.modifiers`), so the keymap that the compositor uses is run here as well.

use crate::Error;
use crate::tally::Class;
use kbvm::lookup::LookupTable;
use kbvm::state_machine::{Direction, Event, State, StateMachine};
use kbvm::{Components, Keycode, ModifierMask, xkb};
use std::collections::BTreeSet;

/// The highest key number of Linux (`KEY_MAX`).
pub(crate) const MAX_KEY: u32 = 0x2ff;

/// A request for the virtual keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `key`, in Linux' numbering.
    Key { evdev: u32, pressed: bool },
    /// `modifiers`.
    Modifiers { depressed: u32, latched: u32, locked: u32, group: u32 },
}

const KEY_CAPSLOCK: u32 = 58;
const KEY_NUMLOCK: u32 = 69;
const KEY_SCROLLLOCK: u32 = 70;

/// What the reader finds odd in a keymap but can live with.
struct Quiet;

impl xkb::diagnostic::DiagnosticHandler for Quiet {
    fn filter(&self, _: xkb::diagnostic::DiagnosticKind, is_fatal: bool) -> bool {
        !is_fatal // a fatal one is returned as the error
    }

    fn handle(&mut self, diagnostic: xkb::diagnostic::Diagnostic) {
        tracing::debug!(%diagnostic, "keymap");
    }
}

/// A keyboard with its keymap.
pub(crate) struct Keyboard {
    machine: StateMachine,
    /// What its keys mean.
    table: LookupTable,
    state: State,
    components: Components,
    held: BTreeSet<u32>,
    num_mask: ModifierMask,
    scroll_mask: ModifierMask,
}

impl Keyboard {
    /// Reads a keymap of XKB v1 text (without the NUL).
    pub(crate) fn new(text: &[u8]) -> Result<Keyboard, Error> {
        let mut context = xkb::Context::builder();
        // The text is complete: nothing is to be looked up on this machine.
        context.clear();
        context.enable_environment(false);
        let keymap = context
            .build()
            .keymap_from_bytes(Quiet, None, text)
            .map_err(|e| Error::Keymap { reason: e.to_string() })?;
        let virtual_mask = |name: &str| {
            keymap.virtual_modifiers().find(|m| m.name() == name).map_or(ModifierMask(0), |m| m.mask())
        };
        let (num_mask, scroll_mask) = (virtual_mask("NumLock"), virtual_mask("ScrollLock"));
        let builder = keymap.to_builder();
        let (machine, table) = (builder.build_state_machine(), builder.build_lookup_table());
        let state = machine.create_state();
        let components = Components::default();
        Ok(Keyboard { machine, table, state, components, held: BTreeSet::new(), num_mask, scroll_mask })
    }

    fn modifiers(&self) -> Request {
        Request::Modifiers {
            depressed: self.components.mods_pressed.0,
            latched: self.components.mods_latched.0,
            locked: self.components.mods_locked.0,
            group: self.components.group.0,
        }
    }

    /// What kind of key it is now, with what is held and locked.
    pub(crate) fn class(&self, evdev: u32) -> Class {
        let Components { group, mods, .. } = self.components;
        let means = self.table.lookup(group, mods, Keycode::from_evdev(evdev));
        means.into_iter().next().map_or(Class::Other, |meaning| Class::of(meaning.keysym()))
    }

    /// A key goes down or up. Repeated presses and releases without a press give nothing.
    pub(crate) fn key(&mut self, evdev: u32, pressed: bool) -> Vec<Request> {
        if evdev > MAX_KEY || !(if pressed { self.held.insert(evdev) } else { self.held.remove(&evdev) }) {
            return Vec::new();
        }
        self.turn(evdev, pressed)
    }

    fn turn(&mut self, evdev: u32, pressed: bool) -> Vec<Request> {
        let direction = if pressed { Direction::Down } else { Direction::Up };
        let mut events = Vec::new();
        self.machine.handle_key(&mut self.state, &mut events, Keycode::from_evdev(evdev), direction);
        let mut requests = Vec::new();
        let mut changed = false;
        for event in events {
            changed |= self.components.apply_event(event);
            let (key, pressed) = match event {
                Event::KeyDown(key) => (key, true),
                Event::KeyUp(key) => (key, false),
                _ => continue,
            };
            if std::mem::take(&mut changed) {
                requests.push(self.modifiers());
            }
            requests.push(Request::Key { evdev: key.to_evdev(), pressed });
        }
        if changed {
            requests.push(self.modifiers());
        }
        requests
    }

    /// Which locks are on: Caps Lock, Num Lock, Scroll Lock.
    pub(crate) fn locked(&self) -> (bool, bool, bool) {
        let on = |mask: ModifierMask| self.components.mods_locked.0 & mask.0 != 0;
        (on(ModifierMask::LOCK), on(self.num_mask), on(self.scroll_mask))
    }

    /// Makes the locks equal to the client's.
    pub(crate) fn locks(&mut self, caps: bool, num: bool, scroll: bool) -> Vec<Request> {
        let before = self.components.mods_locked;
        let wanted = [
            (KEY_CAPSLOCK, ModifierMask::LOCK, caps),
            (KEY_NUMLOCK, self.num_mask, num),
            (KEY_SCROLLLOCK, self.scroll_mask, scroll),
        ];
        for (key, mask, on) in wanted {
            let is = self.components.mods_locked.0 & mask.0 != 0;
            if mask.0 != 0 && is != on && !self.held.contains(&key) {
                // Only the lock is taken over: no program sees a key that nobody pressed.
                self.turn(key, true);
                self.turn(key, false);
            }
        }
        if self.components.mods_locked == before { Vec::new() } else { vec![self.modifiers()] }
    }

    /// The modifiers that turn a character into a command: Control, Mod1 (Alt) and Mod4 (Super), as X11 numbers them.
    pub(crate) fn commanding(&self) -> u32 {
        self.components.mods_pressed.0 & (1 << 2 | 1 << 3 | 1 << 6)
    }

    /// The modifiers, if there are keys held for any.
    pub(crate) fn held_modifiers(&self) -> Option<Request> {
        (self.components.mods_pressed.0 != 0).then(|| self.modifiers())
    }

    /// Releases whatever is held.
    pub(crate) fn release_all(&mut self) -> Vec<Request> {
        let held: Vec<u32> = self.held.iter().copied().collect();
        held.into_iter().flat_map(|evdev| self.key(evdev, false)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keymap of a layout, by xkbcli; none (with a word about it) where that is missing.
    fn keyboard(layout: &str, variant: &str) -> Option<Keyboard> {
        let arguments = ["compile-keymap", "--layout", layout, "--variant", variant];
        match std::process::Command::new("xkbcli").args(arguments).output() {
            Ok(output) => {
                assert!(output.status.success());
                Some(Keyboard::new(&output.stdout).unwrap())
            }
            Err(error) => {
                eprintln!("skipped: xkbcli: {error}");
                None
            }
        }
    }

    fn modifiers(depressed: u32, latched: u32, locked: u32, group: u32) -> Request {
        Request::Modifiers { depressed, latched, locked, group }
    }

    const LEFT_CONTROL: u32 = 29;
    const LEFT_SHIFT: u32 = 42;
    const LEFT_ALT: u32 = 56;
    const RIGHT_ALT: u32 = 100;
    const LEFT_META: u32 = 125;

    /// The depressed modifiers while a key is held.
    fn depressed(keyboard: &mut Keyboard, evdev: u32) -> u32 {
        let requests = keyboard.key(evdev, true);
        let mask = requests.iter().find_map(|r| match r {
            Request::Modifiers { depressed, .. } => Some(*depressed),
            Request::Key { .. } => None,
        });
        assert!(requests.contains(&Request::Key { evdev, pressed: true }));
        keyboard.key(evdev, false);
        mask.unwrap_or(0)
    }

    #[test]
    fn each_modifier_key_sets_the_modifier_of_the_keymap() {
        let Some(mut us) = keyboard("us", "") else { return };
        for (key, mask) in
            [(LEFT_SHIFT, 1), (LEFT_CONTROL, 4), (LEFT_ALT, 8), (LEFT_META, 64), (RIGHT_ALT, 8)]
        {
            assert_eq!(depressed(&mut us, key) & 0xff, mask, "key {key}");
        }
        let Some(mut de) = keyboard("de", "") else { return };
        assert_eq!(depressed(&mut de, RIGHT_ALT) & 0xff, 128);
        // neo: Caps Lock is its third level, and a digit-row key its fourth.
        let Some(mut neo) = keyboard("de", "neo") else { return };
        assert_eq!(depressed(&mut neo, KEY_CAPSLOCK) & 0xff, 128);
    }

    #[test]
    fn locks_follow_their_keys_and_the_clients_state() {
        let Some(mut us) = keyboard("us", "") else { return };
        us.key(KEY_CAPSLOCK, true);
        us.key(KEY_CAPSLOCK, false);
        assert_eq!(us.components.mods_locked.0, 2);
        assert_eq!(us.locks(true, false, false), []);
        assert_eq!(us.locks(false, true, true), [modifiers(0, 0, 16, 0)]);
        assert_eq!(us.locks(true, true, false), [modifiers(0, 0, 18, 0)]);
        assert_eq!(us.locks(false, false, false), [modifiers(0, 0, 0, 0)]);
        // Where the key does something else, nothing comes of it.
        let Some(mut neo) = keyboard("de", "neo") else { return };
        assert_eq!(neo.locks(true, false, false), []);
        assert!(neo.held.is_empty());
    }

    #[test]
    fn releasing_everything_leaves_no_key_and_no_modifier() {
        let Some(mut us) = keyboard("us", "") else { return };
        for key in [LEFT_SHIFT, LEFT_CONTROL, 30] {
            us.key(key, true);
        }
        assert_eq!(us.key(30, true), [], "a repeat");
        let requests = us.release_all();
        let released = |evdev| requests.contains(&Request::Key { evdev, pressed: false });
        assert!(released(LEFT_SHIFT) && released(LEFT_CONTROL) && released(30));
        assert_eq!(us.components.mods.0, 0);
        assert_eq!(us.release_all(), []);
        assert_eq!(us.key(30, false), [], "a release without a press");
    }

    #[test]
    fn every_layout_key_that_there_can_be_is_passed_on_once() {
        let Some(mut us) = keyboard("us", "") else { return };
        for evdev in 1..=MAX_KEY {
            let down = us.key(evdev, true).iter().filter(|r| matches!(r, Request::Key { .. })).count();
            let up = us.key(evdev, false).iter().filter(|r| matches!(r, Request::Key { .. })).count();
            assert_eq!((down, up), (1, 1), "key {evdev}");
        }
        assert_eq!(us.key(MAX_KEY + 1, true), []);
        assert_eq!(us.key(u32::MAX, true), []);
    }

    /// What typing these keys counts, with Shift held for those that are marked.
    fn counted(keyboard: &mut Keyboard, keys: &[(u32, bool)]) -> crate::Tally {
        let mut tally = crate::Tally::default();
        let mut press = |keyboard: &mut Keyboard, evdev| {
            let class = keyboard.class(evdev);
            if !keyboard.key(evdev, true).is_empty() {
                tally.key(class);
            }
        };
        for (evdev, shifted) in keys {
            if *shifted {
                press(keyboard, LEFT_SHIFT);
            }
            press(keyboard, *evdev);
            keyboard.key(*evdev, false);
            keyboard.key(LEFT_SHIFT, false);
        }
        tally
    }

    #[test]
    fn a_key_counts_as_what_it_means_in_the_layout() {
        let Some(mut us) = keyboard("us", "") else { return };
        // The key right of P, the one right of 0, 7, Left, F5, mute.
        let keys = [(26, false), (12, true), (8, false), (105, false), (63, false), (113, false)];
        let tally = counted(&mut us, &keys);
        let expected = crate::Tally {
            punctuation: 2,
            modifiers: 1,
            digits: 1,
            navigation: 1,
            function: 1,
            other: 1,
            ..Default::default()
        };
        assert_eq!(tally, expected);
        let Some(mut de) = keyboard("de", "") else { return };
        // ü, ?, and / with Shift.
        let tally = counted(&mut de, &keys[..3]);
        assert_eq!((tally.letters, tally.punctuation, tally.digits), (1, 1, 1));
        assert_eq!(counted(&mut de, &[(8, true)]).punctuation, 1);
        // Caps Lock changes no class, and a repeat counts no further time.
        us.key(KEY_CAPSLOCK, true);
        us.key(KEY_CAPSLOCK, false);
        us.key(30, true);
        assert_eq!(counted(&mut us, &[(30, false), (31, false)]).letters, 1);
    }

    #[test]
    fn two_texts_of_the_same_classes_count_the_same() {
        let Some(mut us) = keyboard("us", "") else { return };
        // Keys of the letters, digits, and of punctuation that stands the same with Shift.
        let classes: [&[u32]; 3] =
            [&[16, 17, 18, 19, 20, 30, 31, 32, 44, 45, 46], &[2, 3, 4, 5, 9, 11], &[39, 40, 51, 52, 57]];
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..200 {
            let mut shape = Vec::new();
            for _ in 0..40 {
                let class = random(3);
                shape.push((class, class != 1 && random(2) == 0));
            }
            let mut texts = [shape.clone(), shape].map(|shape| {
                shape
                    .into_iter()
                    .map(|(class, shifted)| (classes[class][random(classes[class].len())], shifted))
                    .collect::<Vec<_>>()
            });
            // In another order as well.
            for at in (1..texts[1].len()).rev() {
                texts[1].swap(at, random(at + 1));
            }
            assert_ne!(texts[0], texts[1]);
            assert_eq!(counted(&mut us, &texts[0]), counted(&mut us, &texts[1]));
        }
    }

    #[test]
    fn what_is_no_keymap_is_an_error() {
        for text in ["", "xkb_keymap", "xkb_keymap {", "hello", "xkb_keymap { include \"us\" };", "\u{fffd}"]
        {
            assert!(Keyboard::new(text.as_bytes()).is_err(), "{text}");
        }
    }
}
