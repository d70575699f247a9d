//! How much was typed and clicked, and never what: keys are counted by classes, where they go to the compositor.

use kbvm::Keysym;

/// Presses by class. Neither which keys they were nor their order or time is kept anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Letters of any script.
    pub letters: u32,
    /// 0 to 9, of any script and of the keypad.
    pub digits: u32,
    /// Punctuation, symbols, dead keys and space.
    pub punctuation: u32,
    /// Arrows, Home, Page Down, Tab, Enter, Backspace, Delete, Escape and the like.
    pub navigation: u32,
    /// F1 and the like.
    pub function: u32,
    /// Shift, Control, Caps Lock and the like.
    pub modifiers: u32,
    /// Every other key.
    pub other: u32,
    /// Presses of the pointer's buttons.
    pub clicks: u32,
    /// Whole steps of the wheels.
    pub wheel: u32,
}

/// What kind of key was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Letter,
    Digit,
    Punctuation,
    Navigation,
    Function,
    Modifier,
    Other,
}

impl Tally {
    /// Nothing was pressed or turned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Tally::default()
    }

    pub(crate) fn key(&mut self, class: Class) {
        let count = match class {
            Class::Letter => &mut self.letters,
            Class::Digit => &mut self.digits,
            Class::Punctuation => &mut self.punctuation,
            Class::Navigation => &mut self.navigation,
            Class::Function => &mut self.function,
            Class::Modifier => &mut self.modifiers,
            Class::Other => &mut self.other,
        };
        *count = count.saturating_add(1);
    }

    pub(crate) fn click(&mut self) {
        self.clicks = self.clicks.saturating_add(1);
    }

    pub(crate) fn turn(&mut self, steps: u32) {
        self.wheel = self.wheel.saturating_add(steps);
    }
}

impl Class {
    /// The class of what a key means in the layout. Ranges are those of `X11/keysymdef.h`.
    pub(crate) fn of(keysym: Keysym) -> Class {
        match keysym.0 {
            // Shift_L to Hyper_R; the levels and groups of ISO 9995; Num Lock, Mode_switch, Scroll Lock.
            0xffe1..=0xffee | 0xfe01..=0xfe13 | 0xff7e..=0xff7f | 0xff14 => Class::Modifier,
            // F1 to F35, which take up to 0xffe0; KP_F1 to KP_F4.
            0xffbe..=0xffe0 | 0xff91..=0xff94 => Class::Function,
            // Backspace, Tab, Return, Escape, Delete; Home to Begin; Insert, Menu; ISO_Left_Tab; those of the keypad.
            0xff08 | 0xff09 | 0xff0d | 0xff1b | 0xffff | 0xff50..=0xff58 | 0xff63 | 0xff67 | 0xfe20 => {
                Class::Navigation
            }
            0xff89 | 0xff8d | 0xff95..=0xff9f => Class::Navigation,
            // Dead keys.
            0xfe50..=0xfe93 => Class::Punctuation,
            _ => keysym.char().map_or(Class::Other, Class::of_character),
        }
    }

    /// The class of a character.
    pub(crate) fn of_character(character: char) -> Class {
        match character {
            '\r' | '\n' | '\t' | '\x08' | '\x1b' | '\x7f' => Class::Navigation,
            c if c.is_control() => Class::Other,
            c if c.is_numeric() => Class::Digit,
            c if c.is_alphabetic() => Class::Letter,
            _ => Class::Punctuation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_character_and_each_key_is_of_one_class() {
        let keysym = |name: &str| Keysym::from_str(name).unwrap();
        for (class, names) in [
            (Class::Letter, &["a", "Z", "adiaeresis", "Cyrillic_ya", "hebrew_aleph", "kana_A"][..]),
            (Class::Digit, &["0", "9", "KP_0", "KP_9"]),
            (
                Class::Punctuation,
                &["space", "minus", "EuroSign", "dead_acute", "KP_Add", "KP_Space", "exclam"],
            ),
            (
                Class::Navigation,
                &["Up", "Home", "Next", "Tab", "ISO_Left_Tab", "Return", "BackSpace", "Delete"],
            ),
            (Class::Navigation, &["Escape", "KP_Enter", "KP_Home", "Menu", "Insert"]),
            (Class::Function, &["F1", "F12", "F35", "KP_F1"]),
            (
                Class::Modifier,
                &["Shift_L", "Control_R", "Caps_Lock", "Num_Lock", "ISO_Level3_Shift", "Super_L"],
            ),
            (Class::Other, &["XF86AudioMute", "Print", "Pause", "NoSymbol"]),
        ] {
            for name in names {
                assert_eq!(Class::of(keysym(name)), class, "{name}");
            }
        }
        for (class, characters) in [
            (Class::Letter, "aZäяאあ漢"),
            (Class::Digit, "09٣"),
            (Class::Punctuation, " .,€→😀"),
            (Class::Navigation, "\r\n\t\x08\x1b\x7f"),
            (Class::Other, "\0\x01"),
        ] {
            for character in characters.chars() {
                assert_eq!(Class::of_character(character), class, "{character:?}");
            }
        }
    }
}
