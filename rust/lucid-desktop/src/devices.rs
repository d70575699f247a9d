//! What the user does becomes what the compositor's virtual devices do.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use wayland_client::Connection;
use wayland_client::protocol::wl_pointer;
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_v1::ZwpVirtualKeyboardV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

use crate::characters::Characters;
use crate::keyboard::{Keyboard, Request};
use crate::session::Keyboards;
use crate::shared::{Shared, lock};
use crate::tally::Class;
use crate::{Button, Error, Input, Tally, monitors};

/// `wl_keyboard.keymap_format.xkb_v1`.
const XKB_V1: u32 = 1;
/// Keymaps under way to the compositor, each with a descriptor; so many come of no typing.
const MAX_KEYMAPS: u32 = 128;
/// What a user may do while another layout is on its way; more is not kept waiting.
const MAX_WAITING: usize = 256;
/// What a wheel's detent scrolls, in Wayland's units (libinput's 15 degrees).
const DETENT: f64 = 15.0;
/// The most detents in one event.
const MAX_DETENTS: f64 = 100.0;

// linux/input-event-codes.h
const BTN_LEFT: u32 = 0x110;
const BTN_RIGHT: u32 = 0x111;
const BTN_MIDDLE: u32 = 0x112;
const BTN_SIDE: u32 = 0x113;
const BTN_EXTRA: u32 = 0x114;

impl Button {
    fn code(self) -> u32 {
        match self {
            Button::Left => BTN_LEFT,
            Button::Right => BTN_RIGHT,
            Button::Middle => BTN_MIDDLE,
            Button::Back => BTN_SIDE,
            Button::Forward => BTN_EXTRA,
        }
    }
}

/// The keyboard that types characters.
struct Typewriter {
    virtual_keyboard: ZwpVirtualKeyboardV1,
    characters: Characters,
    /// The compositor has its keymap.
    ready: bool,
}

/// The keyboards and the pointer, with what is held of them.
pub(crate) struct Devices {
    connection: Connection,
    shared: Arc<Shared>,
    started: Instant,
    pointer: ZwlrVirtualPointerV1,
    keyboards: Keyboards,
    /// Made when a client types characters.
    typewriter: Option<Typewriter>,
    virtual_keyboard: ZwpVirtualKeyboardV1,
    keyboard: Keyboard,
    held_buttons: Vec<Button>,
    /// The part of a detent that has been scrolled but not yet counted, vertical and horizontal.
    wheel_rest: [f64; 2],
    /// What the user does while another layout is on its way.
    waiting: Option<Vec<Input>>,
    /// What was typed and clicked since somebody asked.
    tally: Tally,
}

impl Devices {
    /// `keymap` is the virtual keyboard's, of so many bytes; what it holds is the keyboard.
    pub(crate) fn new(
        connection: Connection,
        shared: Arc<Shared>,
        pointer: ZwlrVirtualPointerV1,
        keyboards: Keyboards,
        keyboard: Keyboard,
        keymap: (&OwnedFd, u32),
    ) -> Devices {
        let virtual_keyboard = keyboards.create();
        virtual_keyboard.keymap(XKB_V1, keymap.0.as_fd(), keymap.1);
        Devices {
            connection,
            shared,
            started: Instant::now(),
            pointer,
            keyboards,
            typewriter: None,
            virtual_keyboard,
            keyboard,
            held_buttons: Vec::new(),
            wheel_rest: [0.0; 2],
            waiting: None,
            tally: Tally::default(),
        }
    }

    /// Does what the user does, or keeps it until the layout that is on its way has come.
    pub(crate) fn input(&mut self, input: Input) -> Result<(), Error> {
        if let Some(waiting) = &mut self.waiting {
            if waiting.len() < MAX_WAITING {
                if let (Some(Input::PointerMove { .. }), Input::PointerMove { .. }) = (waiting.last(), input)
                {
                    waiting.pop();
                }
                waiting.push(input);
                return Ok(());
            }
            tracing::warn!("the keyboard's layout takes too long; what comes is typed in the present one");
        }
        self.give_waiting()?;
        self.give(input)?;
        self.flush()
    }

    /// What the user does waits for another layout from now on.
    pub(crate) fn wait_for_layout(&mut self) {
        self.waiting.get_or_insert_default();
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Releases all that is held, and forgets what waits.
    pub(crate) fn release_all(&mut self) -> Result<(), Error> {
        if let Some(waiting) = &mut self.waiting {
            waiting.clear();
        }
        self.release();
        self.flush()
    }

    /// What was typed and clicked since this was called last.
    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn time(&self) -> u32 {
        self.started.elapsed().as_millis() as u32 // wraps, as Wayland's time stamps do
    }

    fn flush(&self) -> Result<(), Error> {
        self.shared.flush(&self.connection)
    }

    /// Gives what waited for the layout.
    pub(crate) fn give_waiting(&mut self) -> Result<(), Error> {
        for input in self.waiting.take().unwrap_or_default() {
            self.give(input)?;
        }
        Ok(())
    }

    fn give(&mut self, input: Input) -> Result<(), Error> {
        let time = self.time();
        match input {
            Input::Key { evdev, pressed } => {
                let class = self.keyboard.class(evdev);
                let requests = self.keyboard.key(evdev, pressed);
                // A repeat gives none.
                if pressed && !requests.is_empty() {
                    self.tally.key(class);
                }
                self.type_keys(time, &requests);
            }
            Input::Character(character) => self.type_character(time, character)?,
            Input::Locks { caps, num, scroll } => {
                let mut requests = self.keyboard.release_all();
                requests.extend(self.keyboard.locks(caps, num, scroll));
                self.type_keys(time, &requests);
            }
            Input::PointerMove { x, y } => {
                let (width, height) = self.shared.size();
                if width > 0 && height > 0 {
                    let (x, y) = (x.min(width - 1), y.min(height - 1));
                    self.shared.set_pointer(Some((x, y)));
                    let targets = lock(&self.shared.targets);
                    let located = monitors::locate(targets.monitors.iter().map(|(place, _)| *place), (x, y));
                    match located.and_then(|(number, inner)| Some((targets.monitors.get(number)?, inner))) {
                        Some(((place, pointer), (x, y))) => {
                            self.shared.set_pointer(Some((place.x + x, place.y + y)));
                            pointer.motion_absolute(time, x, y, place.width, place.height);
                            pointer.frame();
                        }
                        None => {
                            self.pointer.motion_absolute(time, x, y, width, height);
                            self.pointer.frame();
                        }
                    }
                }
            }
            Input::PointerMoveRelative { dx, dy } => {
                let limit = |d: i32| f64::from(d.clamp(-8192, 8192));
                self.shared.set_pointer(None);
                let targets = lock(&self.shared.targets);
                let pointer = targets.anywhere.as_ref().unwrap_or(&self.pointer);
                pointer.motion(time, limit(dx), limit(dy));
                pointer.frame();
            }
            Input::Button { button, pressed } => self.button(time, button, pressed),
            Input::Wheel { vertical, horizontal } => self.wheel(time, [vertical, horizontal]),
        }
        Ok(())
    }

    /// A character is a key of a keyboard of its own, pressed and released at once.
    fn type_character(&mut self, time: u32, character: char) -> Result<(), Error> {
        let typewriter = self.typewriter.get_or_insert_with(|| Typewriter {
            virtual_keyboard: self.keyboards.create(),
            characters: Characters::new(),
            ready: false,
        });
        if self.shared.keymaps.load(Ordering::Relaxed) >= MAX_KEYMAPS && !typewriter.characters.has(character)
        {
            tracing::warn!("the compositor takes keymaps too slowly; a character is lost");
            return Ok(());
        }
        let Some((evdev, new)) = typewriter.characters.key(character) else { return Ok(()) };
        self.tally.key(Class::of_character(character));
        if new || !typewriter.ready {
            typewriter.ready = false;
            let (memory, size) = typewriter.characters.memory()?;
            typewriter.virtual_keyboard.keymap(XKB_V1, memory.as_fd(), size);
            self.shared.keymaps.fetch_add(1, Ordering::Relaxed);
            self.keyboards.count_when_taken(&self.connection);
            typewriter.ready = true;
        }
        let commanding = self.keyboard.commanding();
        typewriter.virtual_keyboard.modifiers(commanding, 0, 0, 0);
        typewriter.virtual_keyboard.key(time, evdev, 1);
        typewriter.virtual_keyboard.key(time, evdev, 0);
        // What is held holds again for whatever comes next, a click for instance. Not always: programs read a keymap
        // whenever the keyboard is another one.
        if let Some(held) = self.keyboard.held_modifiers() {
            self.type_keys(time, &[held]);
        }
        Ok(())
    }

    fn release(&mut self) {
        let time = self.time();
        let requests = self.keyboard.release_all();
        self.type_keys(time, &requests);
        for button in self.held_buttons.clone() {
            self.button(time, button, false);
        }
    }

    /// The keyboard has another layout from now on.
    pub(crate) fn change_keyboard(&mut self, mut keyboard: Keyboard, memory: &OwnedFd, size: u32) {
        let time = self.time();
        let released = self.keyboard.release_all();
        self.type_keys(time, &released);
        let (caps, num, scroll) = self.keyboard.locked();
        self.virtual_keyboard.keymap(XKB_V1, memory.as_fd(), size);
        let locks = keyboard.locks(caps, num, scroll);
        self.type_keys(time, &locks);
        self.keyboard = keyboard;
    }

    fn type_keys(&self, time: u32, requests: &[Request]) {
        for request in requests {
            match *request {
                Request::Key { evdev, pressed } => self.virtual_keyboard.key(time, evdev, u32::from(pressed)),
                Request::Modifiers { depressed, latched, locked, group } => {
                    self.virtual_keyboard.modifiers(depressed, latched, locked, group);
                }
            }
        }
    }

    fn button(&mut self, time: u32, button: Button, pressed: bool) {
        let held = self.held_buttons.iter().position(|&b| b == button);
        let state = match (held, pressed) {
            (None, true) => {
                self.held_buttons.push(button);
                self.tally.click();
                wl_pointer::ButtonState::Pressed
            }
            (Some(at), false) => {
                self.held_buttons.swap_remove(at);
                wl_pointer::ButtonState::Released
            }
            _ => return,
        };
        self.pointer.button(time, button.code(), state);
        self.pointer.frame();
    }

    fn wheel(&mut self, time: u32, detents: [f64; 2]) {
        let axes = [wl_pointer::Axis::VerticalScroll, wl_pointer::Axis::HorizontalScroll];
        let mut any = false;
        for ((axis, amount), rest) in axes.into_iter().zip(detents).zip(&mut self.wheel_rest) {
            if amount == 0.0 || !amount.is_finite() {
                continue;
            }
            let amount = amount.clamp(-MAX_DETENTS, MAX_DETENTS);
            if *rest * amount < 0.0 {
                *rest = 0.0; // turned back: what was left of the other way does not count
            }
            *rest += amount;
            let whole = rest.trunc();
            *rest -= whole;
            self.tally.turn(whole.abs() as u32 /* at most 101 */);
            self.pointer.axis_source(wl_pointer::AxisSource::Wheel);
            if whole == 0.0 {
                self.pointer.axis(time, axis, amount * DETENT);
            } else {
                self.pointer.axis_discrete(time, axis, amount * DETENT, whole as i32);
            }
            any = true;
        }
        if any {
            self.pointer.frame();
        }
    }
}
