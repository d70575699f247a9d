//! The handle: opening, input, commands to the thread.

use crate::characters::Characters;
use crate::clipboard::{self, Clipboard, ClipboardSink};
use crate::handover::{self, DesktopRequest, KeyboardLayout, Reply};
use crate::keyboard::{Keyboard, Request};
use crate::monitors::{self, Arrangement, Monitor};
use crate::session::{Keyboards, Session};
use crate::{Button, CaptureProtocol, Closed, Error, FrameSink, Input, Rect};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wayland_client::backend::WaylandError;
use wayland_client::protocol::wl_pointer;
use wayland_client::{Connection, DispatchError, EventQueue};
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_v1::ZwpVirtualKeyboardV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

/// How long opening a desktop may take in all.
const OPEN_SECONDS: u64 = 30;
/// The launcher has this long to finish its answer about a keymap once it has begun.
const KEYMAP_SECONDS: u64 = 5;
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

/// What the handle and the thread share.
pub(crate) struct Shared {
    commands: Mutex<Commands>,
    wake: OwnedFd,
    /// The picture's size: width in the upper half.
    size: AtomicU64,
    /// What moves the pointer within each of several monitors; nothing while there is one.
    targets: Mutex<Targets>,
    wakeups: AtomicU64,
    /// Keymaps of characters that the compositor has not taken yet.
    keymaps: AtomicU32,
    /// Where the pointer was put last, from the left in the upper half; [`NOWHERE`] when that is not known.
    pointer: AtomicU64,
}

const NOWHERE: u64 = u64::MAX;

/// What moves the pointer when there are several monitors.
#[derive(Default)]
pub(crate) struct Targets {
    /// Each monitor's place, and a pointer that goes nowhere else.
    pub(crate) monitors: Vec<(Rect, ZwlrVirtualPointerV1)>,
    /// A pointer that goes anywhere.
    pub(crate) anywhere: Option<ZwlrVirtualPointerV1>,
}

/// What the thread is to do.
#[derive(Default)]
pub(crate) struct Commands {
    pub(crate) credits: u32,
    pub(crate) refresh: bool,
    pub(crate) resize: Option<Arrangement>,
    pub(crate) keyboard: Option<KeyboardLayout>,
    pub(crate) stop: bool,
}

impl Shared {
    /// Sends what was asked of the compositor, from any thread.
    pub(crate) fn flush(&self, connection: &Connection) -> Result<(), Error> {
        match connection.flush() {
            Ok(()) => Ok(()),
            Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                self.wake(); // the thread waits until there is room
                Ok(())
            }
            Err(e) => Err(gone(&e)),
        }
    }

    fn new() -> Result<Shared, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(Error::system("making an eventfd"))?;
        Ok(Shared {
            commands: Mutex::default(),
            wake,
            size: AtomicU64::new(0),
            targets: Mutex::default(),
            wakeups: AtomicU64::new(0),
            keymaps: AtomicU32::new(0),
            pointer: AtomicU64::new(NOWHERE),
        })
    }

    fn command(&self, change: impl FnOnce(&mut Commands)) {
        change(&mut lock(&self.commands));
        self.wake();
    }

    pub(crate) fn wake(&self) {
        // The only failure of a valid eventfd is a full counter: then it is readable already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(crate) fn set_size(&self, (width, height): (u32, u32)) {
        self.size.store(u64::from(width) << 32 | u64::from(height), Ordering::Relaxed);
    }

    pub(crate) fn set_targets(&self, targets: Targets) {
        *lock(&self.targets) = targets;
    }

    /// The compositor has taken a keymap of characters.
    pub(crate) fn keymap_taken(&self) {
        self.keymaps.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn set_pointer(&self, place: Option<(u32, u32)>) {
        let place = place.map_or(NOWHERE, |(x, y)| u64::from(x) << 32 | u64::from(y));
        self.pointer.store(place, Ordering::Relaxed);
    }

    /// Where the pointer was put last.
    pub(crate) fn pointer(&self) -> Option<(u32, u32)> {
        match self.pointer.load(Ordering::Relaxed) {
            NOWHERE => None,
            place => Some(((place >> 32) as u32, place as u32)),
        }
    }

    fn size(&self) -> (u32, u32) {
        let size = self.size.load(Ordering::Relaxed);
        ((size >> 32) as u32, size as u32)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks leaves the data half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The keyboard that types characters.
struct Typewriter {
    virtual_keyboard: ZwpVirtualKeyboardV1,
    characters: Characters,
    /// The compositor has its keymap.
    ready: bool,
}

struct Devices {
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
}

/// A running desktop. Dropping it ends the desktop.
pub struct Desktop {
    shared: Arc<Shared>,
    connection: Connection,
    devices: Arc<Mutex<Devices>>,
    clipboard: clipboard::Unbound,
    sound: Option<OwnedFd>,
    drives: Option<OwnedFd>,
    protocol: CaptureProtocol,
    launcher: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// The way to the files of a desktop's user. Does not keep the desktop from ending.
#[derive(Debug)]
pub struct Files {
    launcher: UnixStream,
}

impl Files {
    /// A new connection. The launcher serves a few at a time and closes those beyond.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub fn connect(&self) -> Result<UnixStream, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("making a socket for files"))?;
        handover::send_files_request(&self.launcher, theirs.as_fd())?;
        Ok(ours)
    }
}

impl std::fmt::Debug for Desktop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desktop")
            .field("size", &self.shared.size())
            .field("protocol", &self.protocol)
            .finish()
    }
}

impl Desktop {
    /// Connects to the launcher's socket, asks for a desktop and connects to its compositor. Blocks for
    /// at most 30 s; about half a second is usual.
    ///
    /// `sink` is called on the desktop's own thread, for the first time after
    /// [`request_frame`](Desktop::request_frame).
    ///
    /// # Errors
    /// When the request is outside its limits, the launcher is not there or refuses, or the compositor
    /// lacks something.
    pub fn open(
        socket: &Path,
        request: &DesktopRequest,
        sink: impl FrameSink + 'static,
    ) -> Result<Desktop, Error> {
        let deadline = Instant::now() + Duration::from_secs(OPEN_SECONDS);
        let line = request.to_line()?;
        let doing = || format!("asking the launcher at {} for a desktop", socket.display());
        let mut launcher = UnixStream::connect(socket).map_err(Error::io(doing()))?;
        launcher.set_write_timeout(Some(Duration::from_secs(OPEN_SECONDS))).map_err(Error::io(doing()))?;
        match launcher.write_all(line.as_bytes()) {
            // A launcher that refuses without reading has said why.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.map_err(Error::io(doing()))?,
        }
        let (line, descriptors) =
            handover::receive_line(&launcher, deadline, "waiting for the launcher to start a desktop")?;
        let keymap_size = match Reply::from_line(&line)? {
            Reply::Ready { keymap_size } => keymap_size,
            Reply::Failed { error } => return Err(Error::Launcher { reason: error }),
        };
        let mut descriptors = descriptors.into_iter();
        let (Some(wayland), Some(keymap)) = (descriptors.next(), descriptors.next()) else {
            return Err(Error::Protocol { what: "the reply came without its descriptors".into() });
        };
        let sound = if request.sound { descriptors.next() } else { None };
        let drives = if request.drives { descriptors.next() } else { None };
        if sound.is_some() != request.sound
            || drives.is_some() != request.drives
            || descriptors.next().is_some()
        {
            return Err(Error::Protocol { what: "the reply's descriptors are not those asked for".into() });
        }
        let wayland = UnixStream::from(wayland);
        let mut desktop = Desktop::start(launcher, wayland, keymap, keymap_size, deadline, Box::new(sink))?;
        desktop.sound = sound;
        desktop.drives = drives;
        Ok(desktop)
    }

    fn start(
        launcher: UnixStream,
        wayland: UnixStream,
        keymap: OwnedFd,
        keymap_size: u32,
        deadline: Instant,
        sink: Box<dyn FrameSink>,
    ) -> Result<Desktop, Error> {
        let keyboard = Keyboard::new(&read_keymap(&keymap, keymap_size)?)?;
        let shared = Arc::new(Shared::new()?);
        let connection = Connection::from_socket(wayland)
            .map_err(|e| Error::Compositor { reason: format!("its socket is not usable: {e}") })?;
        let queue = connection.new_event_queue();
        let handle = queue.handle();
        let mut session = Session::new(Arc::clone(&shared), sink);
        let registry = connection.display().get_registry(&handle, ());
        let asking = launcher.try_clone().map_err(Error::io("sharing the launcher's socket"))?;
        let mut events = Events {
            connection: connection.clone(),
            queue,
            shared: Arc::clone(&shared),
            launcher,
            awaited: None,
            answered: false,
        };
        // First the globals; after binding, what the bound ones say (the output's mode, its heads).
        events.barrier(&mut session, deadline)?;
        let (pointer, keyboards, protocol) = session.bind(&registry, &handle)?;
        let virtual_keyboard = keyboards.create();
        virtual_keyboard.keymap(1 /* wl_keyboard.keymap_format.xkb_v1 */, keymap.as_fd(), keymap_size);
        events.barrier(&mut session, deadline)?;
        let clipboard = clipboard::Unbound::new(&session, registry, handle);
        let devices = Devices {
            connection: connection.clone(),
            shared: Arc::clone(&shared),
            started: Instant::now(),
            pointer,
            keyboards,
            typewriter: None,
            virtual_keyboard,
            keyboard,
            held_buttons: Vec::new(),
            wheel_rest: [0.0; 2],
            waiting: None,
        };
        let devices = Arc::new(Mutex::new(devices));
        let typed_on = Arc::clone(&devices);
        let thread = std::thread::Builder::new()
            .name("lucid-desktop".into())
            .spawn(move || {
                let reason = events.serve(&mut session, &typed_on);
                // The launcher kills everything as soon as its socket is closed, of which the desktop has another copy.
                // It may be closed already.
                let _ = events.launcher.shutdown(std::net::Shutdown::Both);
                drop(events);
                session.closed(reason);
            })
            .map_err(Error::io("starting the desktop's thread"))?;
        Ok(Desktop {
            shared,
            connection,
            devices,
            clipboard,
            sound: None,
            drives: None,
            protocol,
            launcher: asking,
            thread: Some(thread),
        })
    }

    /// Hands over what the user does. Cheap (one `sendmsg`), from any thread.
    ///
    /// # Errors
    /// When the connection to the compositor is gone.
    pub fn input(&self, input: Input) -> Result<(), Error> {
        let mut devices = lock(&self.devices);
        if let Some(waiting) = &mut devices.waiting {
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
        devices.give_waiting()?;
        devices.give(input)?;
        devices.flush()
    }

    /// Releases every key and button that is held (after the client lost its focus, say), and forgets what waits for
    /// another layout.
    ///
    /// # Errors
    /// When the connection to the compositor is gone.
    pub fn release_all(&self) -> Result<(), Error> {
        let mut devices = lock(&self.devices);
        if let Some(waiting) = &mut devices.waiting {
            waiting.clear();
        }
        devices.release_all();
        devices.flush()
    }

    /// Asks for one more frame. Frames are given only as they are asked for, one for each call (at most
    /// 1024 are remembered), and only when something has changed. The first frame is the whole picture.
    pub fn request_frame(&self) {
        self.shared.command(|commands| commands.credits = (commands.credits + 1).min(1024));
    }

    /// The whole next frame counts as damaged, and is given (if one is asked for) even when nothing
    /// changes: for a client that has lost its picture.
    pub fn refresh_all(&self) {
        self.shared.command(|commands| commands.refresh = true);
    }

    /// Asks for another size of the output. Returns at once; a later frame has the new size, or
    /// [`FrameSink::resize_failed`] is called. Of several sizes asked for in a row the last one counts.
    ///
    /// # Errors
    /// When the size is not within [`handover::SIZES`].
    pub fn resize(&self, width: u32, height: u32) -> Result<(), Error> {
        self.resize_scaled(width, height, 100)
    }

    /// Like [`resize`](Desktop::resize), and things are shown so large, in percent.
    ///
    /// # Errors
    /// When the size is not within [`handover::SIZES`], or the scale not within [`handover::SCALES`].
    pub fn resize_scaled(&self, width: u32, height: u32, scale: u32) -> Result<(), Error> {
        self.arrange(&[Monitor { place: Rect { x: 0, y: 0, width, height }, scale }])
    }

    /// Like [`resize`](Desktop::resize), with a monitor for each of these places in the picture, which do not overlap;
    /// the first is the one where programs begin. The picture is the smallest one that holds all of them.
    ///
    /// # Errors
    /// When there are none or more than [`MAX_MONITORS`](crate::monitors::MAX_MONITORS), two overlap, none is at the
    /// picture's left or top, or a size or scale is not within its limits.
    pub fn arrange(&self, monitors: &[Monitor]) -> Result<(), Error> {
        let arrangement = Arrangement::new(monitors)?;
        self.shared.command(|commands| commands.resize = Some(arrangement));
        Ok(())
    }

    /// Begins to tell `sink` what happens on the clipboard; until then nothing of it is looked at.
    ///
    /// # Errors
    /// When the compositor has no clipboard protocol, or the connection to it is gone.
    pub fn clipboard(&self, sink: Arc<dyn ClipboardSink>) -> Result<Clipboard, Error> {
        Clipboard::bind(&self.clipboard, &self.connection, &self.shared, sink)
    }

    /// Asks for another keyboard layout. Returns at once; the layout holds some 50 ms later, for which keys that are held
    /// are released. What is given to [`input`](Desktop::input) meanwhile waits for it. One that the launcher cannot make
    /// is told in the log, and the present one stays. Of several in a row the last one counts.
    ///
    /// # Errors
    /// When the layout is not within its limits.
    pub fn set_keyboard(&self, layout: &KeyboardLayout) -> Result<(), Error> {
        layout.check()?;
        // Under this lock, so that the thread does not end the waiting in between.
        let mut devices = lock(&self.devices);
        devices.waiting.get_or_insert_default();
        self.shared.command(|commands| commands.keyboard = Some(layout.clone()));
        Ok(())
    }

    /// The pipe with what programs play, as [`sound`](crate::sound) describes it; once, and only if it was asked for.
    pub fn take_sound(&mut self) -> Option<OwnedFd> {
        self.sound.take()
    }

    /// The kernel's end of the folder for the client's drives (`/dev/fuse`, mounted and not yet initialized); once, and
    /// only if it was asked for. Programs that look at the folder wait until it is served.
    pub fn take_drives(&mut self) -> Option<OwnedFd> {
        self.drives.take()
    }

    /// The way to the files of the desktop's user; see [`files`](crate::files).
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn files(&self) -> Result<Files, Error> {
        let launcher = self.launcher.try_clone().map_err(Error::io("sharing the launcher's socket"))?;
        Ok(Files { launcher })
    }

    /// How the pictures are taken.
    #[must_use]
    pub fn capture_protocol(&self) -> CaptureProtocol {
        self.protocol
    }

    /// The picture's present size in pixels.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        self.shared.size()
    }

    /// How often the desktop's thread has woken up. Stays the same while nothing happens.
    #[must_use]
    pub fn wakeups(&self) -> u64 {
        self.shared.wakeups.load(Ordering::Relaxed)
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        // An error means that the desktop is gone, and its keys with it.
        let _ = self.release_all();
        self.shared.command(|commands| commands.stop = true);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the frame sink panicked");
        }
    }
}

impl Devices {
    fn time(&self) -> u32 {
        self.started.elapsed().as_millis() as u32 // wraps, as Wayland's time stamps do
    }

    fn flush(&self) -> Result<(), Error> {
        self.shared.flush(&self.connection)
    }

    /// Gives what waited for the layout.
    fn give_waiting(&mut self) -> Result<(), Error> {
        for input in self.waiting.take().unwrap_or_default() {
            self.give(input)?;
        }
        Ok(())
    }

    fn give(&mut self, input: Input) -> Result<(), Error> {
        let time = self.time();
        match input {
            Input::Key { evdev, pressed } => {
                let requests = self.keyboard.key(evdev, pressed);
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
        if new || !typewriter.ready {
            typewriter.ready = false;
            let (memory, size) = typewriter.characters.memory()?;
            typewriter.virtual_keyboard.keymap(1 /* xkb_v1 */, memory.as_fd(), size);
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

    fn release_all(&mut self) {
        let time = self.time();
        let requests = self.keyboard.release_all();
        self.type_keys(time, &requests);
        for button in self.held_buttons.clone() {
            self.button(time, button, false);
        }
    }

    /// The keyboard has another layout from now on.
    fn change_keyboard(&mut self, mut keyboard: Keyboard, memory: &OwnedFd, size: u32) {
        let time = self.time();
        let released = self.keyboard.release_all();
        self.type_keys(time, &released);
        let (caps, num, scroll) = self.keyboard.locked();
        self.virtual_keyboard.keymap(1 /* xkb_v1 */, memory.as_fd(), size);
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

fn read_keymap(keymap: &OwnedFd, size: u32) -> Result<Vec<u8>, Error> {
    let mut text = vec![0; size as usize];
    let mut filled = 0;
    while filled < text.len() {
        let read = rustix::io::pread(keymap, &mut text[filled..], filled as u64)
            .map_err(Error::system("reading the keymap of the launcher"))?;
        if read == 0 {
            return Err(Error::Keymap { reason: format!("it has {filled} bytes and not {size}") });
        }
        filled += read;
    }
    if text.pop() != Some(0) || text.contains(&0) {
        return Err(Error::Keymap { reason: "it does not end with its only NUL".into() });
    }
    Ok(text)
}

fn gone(error: &dyn std::fmt::Display) -> Error {
    Error::Compositor { reason: error.to_string() }
}

/// The thread's side: the connection and what wakes it.
struct Events {
    connection: Connection,
    queue: EventQueue<Session>,
    shared: Arc<Shared>,
    launcher: UnixStream,
    /// The layout whose keymap the launcher was asked for last.
    awaited: Option<KeyboardLayout>,
    /// The launcher has said something.
    answered: bool,
}

impl Events {
    /// Everything that was asked before has been answered after this.
    fn barrier(&mut self, session: &mut Session, deadline: Instant) -> Result<(), Error> {
        session.synced = false;
        self.connection.display().sync(&self.queue.handle(), ());
        while !session.synced {
            self.dispatch(session)?;
            if session.synced {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut { doing: "setting up the compositor", seconds: OPEN_SECONDS });
            }
            self.wait(Some(left))?;
        }
        Ok(())
    }

    fn dispatch(&mut self, session: &mut Session) -> Result<(), Error> {
        self.queue.dispatch_pending(session).map_err(|e| match e {
            DispatchError::Backend(e) => gone(&e),
            e @ DispatchError::BadMessage { .. } => gone(&e),
        })?;
        session.take_error()
    }

    /// Flushes, and sleeps until something comes.
    fn wait(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        let mut interest = PollFlags::IN;
        match self.connection.flush() {
            Ok(()) => {}
            Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                interest |= PollFlags::OUT
            }
            Err(e) => return Err(gone(&e)),
        }
        let Some(guard) = self.queue.prepare_read() else {
            return Ok(()); // events are queued already
        };
        let limit =
            limit.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: i64::from(l.subsec_nanos()) });
        let (readable, woken, launcher) = {
            let fd = guard.connection_fd();
            let mut poll = [
                PollFd::new(&fd, interest),
                PollFd::new(&self.shared.wake, PollFlags::IN),
                PollFd::new(&self.launcher, PollFlags::IN),
            ];
            match rustix::event::poll(&mut poll, limit.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::system("waiting for the compositor")(e)),
            }
            let [a, b, c] = poll.map(|p| p.revents());
            (a, b, c)
        };
        self.shared.wakeups.fetch_add(1, Ordering::Relaxed);
        if !woken.is_empty() {
            let mut count = [0; 8];
            match rustix::io::read(&self.shared.wake, &mut count) {
                Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::system("reading the desktop's commands")(e)),
            }
        }
        if readable.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match guard.read() {
                Ok(_) => {}
                Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(gone(&e)),
            }
        }
        if !launcher.is_empty() {
            if self.awaited.is_none() {
                // Unasked it says nothing: it has closed.
                return Err(Error::LauncherGone);
            }
            self.answered = true;
        }
        Ok(())
    }

    /// Asks for another layout's keymap, or takes one that was asked for; what waited for the last one is given then.
    fn change_keyboard(
        &mut self,
        wanted: &mut Option<KeyboardLayout>,
        devices: &Mutex<Devices>,
    ) -> Result<(), Error> {
        if std::mem::take(&mut self.answered) {
            self.take_keymap(devices)?;
        }
        if self.awaited.is_none()
            && let Some(layout) = wanted.take()
        {
            let line = layout.to_line()?;
            match (&self.launcher).write_all(line.as_bytes()) {
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Err(Error::LauncherGone),
                written => written.map_err(Error::io("asking the launcher for a keymap"))?,
            }
            self.awaited = Some(layout);
        }
        let mut devices = lock(devices);
        if devices.waiting.is_some()
            && self.awaited.is_none()
            && lock(&self.shared.commands).keyboard.is_none()
        {
            devices.give_waiting()?;
        }
        Ok(())
    }

    fn take_keymap(&mut self, devices: &Mutex<Devices>) -> Result<(), Error> {
        let Some(layout) = self.awaited.take() else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(KEYMAP_SECONDS);
        let (line, descriptors) =
            match handover::receive_line(&self.launcher, deadline, "waiting for the launcher's keymap") {
                Ok(received) => received,
                Err(Error::Protocol { .. }) => return Err(Error::LauncherGone),
                Err(error) => return Err(error),
            };
        let KeyboardLayout { layout, variant } = layout;
        let size = match Reply::from_line(&line)? {
            Reply::Ready { keymap_size } => keymap_size,
            Reply::Failed { error } => {
                tracing::warn!(layout, variant, "the keyboard layout stays: {error}");
                return Ok(());
            }
        };
        let Ok([memory]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            return Err(Error::Protocol { what: "the keymap came without its descriptor".into() });
        };
        let keyboard = match read_keymap(&memory, size).and_then(|text| Keyboard::new(&text)) {
            Ok(keyboard) => keyboard,
            Err(error) => {
                tracing::warn!(layout, variant, "the keyboard layout stays: {error}");
                return Ok(());
            }
        };
        lock(devices).change_keyboard(keyboard, &memory, size);
        tracing::info!(layout, variant, "the keyboard has another layout");
        Ok(())
    }

    fn serve(&mut self, session: &mut Session, devices: &Mutex<Devices>) -> Closed {
        let mut keyboard = None;
        loop {
            let mut commands = std::mem::take(&mut *lock(&self.shared.commands));
            if commands.stop {
                return Closed::Dropped;
            }
            keyboard = commands.keyboard.take().or(keyboard);
            let handle = self.queue.handle();
            let result = self
                .change_keyboard(&mut keyboard, devices)
                .and_then(|()| self.dispatch(session))
                .and_then(|()| session.step(commands, &handle))
                .and_then(|()| self.wait(None));
            if let Err(error) = result {
                return Closed::Gone(error);
            }
        }
    }
}
