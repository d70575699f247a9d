//! Characters that no key of the user's keyboard need have: a second keyboard, whose keys get them as they come.
//!
//! Programs get characters from keys and a keymap. The keymap of this keyboard has a key for each character; one that
//! it lacks takes the place of the one that has been there longest, and the compositor is given the new keymap before
//! the key. It has no modifiers, so that a key means the same whatever is held on the other keyboard.

use crate::Error;
use crate::keyboard::MAX_KEY;
use rustix::fs::{MemfdFlags, SealFlags};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;

/// The first key, in Linux' numbering: from here on no keyboard has keys (`BTN_MISC`), so no program takes one for a key
/// with a meaning of its own.
const FIRST: u32 = 0x100;
/// Keys that there can be.
const KEYS: usize = (MAX_KEY - FIRST + 1) as usize;
/// Characters from the start: what Western texts need, so that they cost no keymap.
const FROM_THE_START: [std::ops::RangeInclusive<char>; 2] = ['\u{20}'..='\u{7e}', '\u{a0}'..='\u{ff}'];

/// Which key has which character.
pub(crate) struct Characters {
    keys: Vec<char>,
    places: HashMap<char, usize>,
    /// The key that is given to the next new character when all are taken.
    next: usize,
}

impl Characters {
    pub(crate) fn new() -> Characters {
        let keys: Vec<char> =
            FROM_THE_START.into_iter().flatten().chain(['\n', '\t', '\x08', '\x1b']).collect();
        let places = keys.iter().enumerate().map(|(at, c)| (*c, at)).collect();
        Characters { keys, places, next: 0 }
    }

    /// The key of a character, and whether the keymap is another one for it. None for what is no character to type.
    pub(crate) fn key(&mut self, character: char) -> Option<(u32, bool)> {
        let character = if character == '\r' { '\n' } else { character };
        keysym(character)?;
        let (at, new) = match self.places.get(&character) {
            Some(at) => (*at, false),
            None if self.keys.len() < KEYS => {
                self.keys.push(character);
                (self.keys.len() - 1, true)
            }
            None => {
                let at = self.next;
                self.next = (at + 1) % KEYS;
                let before = std::mem::replace(self.keys.get_mut(at)?, character);
                self.places.remove(&before);
                (at, true)
            }
        };
        if new {
            self.places.insert(character, at);
        }
        Some((FIRST + u32::try_from(at).ok()?, new))
    }

    /// Whether it has a key for a character.
    pub(crate) fn has(&self, character: char) -> bool {
        self.places.contains_key(&character)
    }

    /// The keymap as XKB v1 text.
    fn keymap(&self) -> String {
        let mut codes = String::new();
        let mut symbols = String::new();
        for (at, character) in self.keys.iter().enumerate() {
            let Some(keysym) = keysym(*character) else { continue };
            // XKB's numbers are Linux' plus 8. Writing to a string does not fail.
            let _ = write!(codes, "<C{at}>={};", FIRST as usize + at + 8);
            let _ = write!(symbols, "key<C{at}>{{[{keysym}]}};");
        }
        let maximum = MAX_KEY + 8;
        format!(
            "xkb_keymap {{\n\
             xkb_keycodes \"lucid\" {{minimum=8;maximum={maximum};{codes}}};\n\
             xkb_types \"lucid\" {{type \"ONE_LEVEL\" {{modifiers=none;level_name[Level1]=\"Any\";}};}};\n\
             xkb_compatibility \"lucid\" {{interpret.useModMapMods=AnyLevel;}};\n\
             xkb_symbols \"lucid\" {{{symbols}}};\n\
             }};\n"
        )
    }

    /// The keymap in memory that can no longer change, and its bytes with the final NUL.
    pub(crate) fn memory(&self) -> Result<(OwnedFd, u32), Error> {
        let mut text = self.keymap().into_bytes();
        text.push(0);
        let doing = "putting a keymap into memory";
        let memory =
            rustix::fs::memfd_create("lucid-characters", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
                .map_err(Error::system(doing))?;
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&memory, rest))
                .map_err(Error::system(doing))?;
            rest = rest.get(written..).unwrap_or_default();
        }
        let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, all).map_err(Error::system(doing))?;
        Ok((memory, text.len() as u32 /* some 25 KB at the most */))
    }
}

/// XKB's name of what a character's key gives; none for other control characters than those that keyboards have.
fn keysym(character: char) -> Option<String> {
    let name = match character {
        '\n' | '\r' => "Return",
        '\t' => "Tab",
        '\x08' => "BackSpace",
        '\x1b' => "Escape",
        '\x7f' => "Delete",
        _ if character.is_control() => return None,
        // libxkbcommon takes U and the code point for any other (xkb_keysym_from_name).
        _ => return Some(format!("U{:04X}", u32::from(character))),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn every_character_keeps_its_key_until_all_keys_are_taken_and_no_two_share_one() {
        let mut characters = Characters::new();
        let mut held: HashMap<u32, char> =
            characters.places.iter().map(|(c, at)| (FIRST + *at as u32, *c)).collect();
        for character in ('\u{20}'..'\u{3000}').chain('\u{1f300}'..'\u{1f600}').filter(|c| !c.is_control()) {
            let (key, new) = characters.key(character).unwrap();
            assert!((FIRST..=MAX_KEY).contains(&key));
            assert_eq!(new, held.get(&key) != Some(&character), "{character:?}");
            held.insert(key, character);
            assert_eq!(characters.key(character), Some((key, false)));
        }
        assert_eq!(held.len(), KEYS);
        assert_eq!(characters.places.len(), KEYS);
    }

    #[test]
    fn control_characters_are_the_keys_that_keyboards_have_or_nothing() {
        let mut characters = Characters::new();
        assert_eq!(characters.key('\r').map(|(key, _)| key), characters.key('\n').map(|(key, _)| key));
        for character in ['\0', '\x01', '\x1f', '\u{80}', '\u{9f}'] {
            assert_eq!(characters.key(character), None);
        }
    }

    #[test]
    fn the_keymap_is_one_with_as_many_keys_as_there_can_be() {
        let mut characters = Characters::new();
        for character in ('\u{100}'..'\u{600}').chain(['\u{10ffff}', '\u{1f600}']) {
            characters.key(character);
        }
        let text = characters.keymap();
        crate::keyboard::Keyboard::new(text.as_bytes()).unwrap();
        // And as programs read it.
        let child = Command::new("xkbcli")
            .args(["compile-keymap", "--verbose", "--from-xkb"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(mut child) => {
                let mut input = child.stdin.take().unwrap();
                let writing = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
                let output = child.wait_with_output().unwrap();
                writing.join().unwrap();
                // Its status is no use: some releases end with 1 whatever they read.
                let (read, said) =
                    [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).into();
                assert_eq!(read.matches("key <C").count(), KEYS, "{said}");
            }
            Err(error) => eprintln!("skipped: xkbcli: {error}"),
        }
    }
}
