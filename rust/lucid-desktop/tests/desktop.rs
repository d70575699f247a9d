//! The whole way with a real sway and a real terminal: launcher, pictures, input, end.
//!
//! `LUCID_TEST_SWAY` names another sway (a wrapper script, say) to be tested with.

// The whole file is a test, its helper functions included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lucid_desktop::{
    Button, CaptureProtocol, Closed, Desktop, DesktopRequest, Error, Focus, Frame, FrameSink, Input,
    KeyboardLayout, Monitor, Pointer, Rect, Tally, pointer::Shape,
};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// The user that a test run by root starts the launcher as.
const NOBODY: u32 = 65534;

/// Far beyond what anything takes: a test that hangs fails, and never passes by time.
const PATIENCE: Duration = Duration::from_secs(30);

fn sway() -> PathBuf {
    std::env::var_os("LUCID_TEST_SWAY").map_or_else(|| "/usr/bin/sway".into(), PathBuf::from)
}

/// Whether sway and foot are here; says so when they are not.
fn parts_are_here() -> bool {
    for part in [sway(), "/usr/bin/foot".into(), "/usr/bin/xkbcli".into()] {
        if !part.exists() {
            eprintln!("skipped: {} is not installed", part.display());
            return false;
        }
    }
    true
}

macro_rules! needs_sway {
    () => {
        if !parts_are_here() {
            return;
        }
    };
}

/// For what sway of Debian 12 (1.7) refuses: to switch an output off again.
macro_rules! needs_sway_of_the_device {
    () => {
        needs_sway!();
        if std::env::var_os("LUCID_TEST_SWAY").is_none() {
            eprintln!("skipped: LUCID_TEST_SWAY names no newer sway");
            return;
        }
    };
}

/// A launcher on a socket in a directory of its own.
struct Launcher {
    directory: PathBuf,
    process: Child,
}

impl Launcher {
    fn start(test: &str, extra: &[&str]) -> Launcher {
        let directory =
            std::env::temp_dir().join(format!("lucid-desktop-test-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
        for file in ["sway-config", "foot.ini"] {
            std::fs::copy(files.join(file), directory.join(file)).unwrap();
        }
        let mut process = Command::new(env!("CARGO_BIN_EXE_lucid-desktop"));
        if rustix::process::geteuid().is_root() {
            // sway refuses to run as root.
            std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
            process.uid(NOBODY).gid(NOBODY);
        }
        let process = process
            .arg("--listen")
            .arg(directory.join("socket"))
            .arg("--sway-config")
            .arg(directory.join("sway-config"))
            .arg("--sway")
            .arg(sway())
            .arg("--home")
            .arg(&directory)
            .arg("--runtime")
            .arg(&directory)
            .args(extra)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut launcher = Launcher { directory, process };
        launcher.wait_for_line("waiting for connections");
        launcher
    }

    /// Reads what the launcher says up to a line; the rest goes to the test's own output.
    fn wait_for_line(&mut self, what: &str) {
        use std::io::BufRead;
        let mut lines = std::io::BufReader::new(self.process.stderr.take().unwrap()).lines();
        loop {
            let line = lines.next().expect("the launcher ended").unwrap();
            eprintln!("{line}");
            if line.contains(what) {
                break;
            }
        }
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{line}");
            }
        });
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn open(&self, width: u32, height: u32, layout: &str) -> Screen {
        Screen::open(&self.socket(), width, height, layout)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

enum Event {
    Frame { size: (u32, u32), pixels: Vec<u8>, damage: Vec<Rect> },
    ResizeFailed(u32, u32),
    Pointer(Pointer),
    Focus(Option<Focus>),
    Closed(String),
}

struct Sink {
    events: Sender<Event>,
}

impl FrameSink for Sink {
    fn frame(&mut self, frame: Frame<'_>) {
        assert_eq!(frame.stride, frame.width as usize * 4);
        assert_eq!(frame.pixels.len(), frame.stride * frame.height as usize);
        let size = (frame.width, frame.height);
        let _ = self.events.send(Event::Frame {
            size,
            pixels: frame.pixels.to_vec(),
            damage: frame.damage.to_vec(),
        });
    }

    fn resize_failed(&mut self, width: u32, height: u32) {
        let _ = self.events.send(Event::ResizeFailed(width, height));
    }

    fn pointer(&mut self, pointer: Pointer) {
        let _ = self.events.send(Event::Pointer(pointer));
    }

    fn focus(&mut self, focus: Option<&Focus>) {
        let _ = self.events.send(Event::Focus(focus.cloned()));
    }

    fn closed(&mut self, reason: Closed) {
        let _ = self.events.send(Event::Closed(format!("{reason:?}")));
    }
}

/// A desktop as a client sees it: built from the damaged rectangles alone.
struct Screen {
    desktop: Desktop,
    received: Receiver<Event>,
    size: (u32, u32),
    pixels: Vec<u8>,
    frames: usize,
    /// Frames without any change were asked for.
    repeats: bool,
    /// What was told last.
    pointer: Option<Pointer>,
    focus: Option<Focus>,
}

impl Screen {
    fn open(socket: &Path, width: u32, height: u32, layout: &str) -> Self {
        let keyboard = KeyboardLayout { layout: layout.into(), variant: String::new() };
        let request = DesktopRequest { width, height, keyboard, sound: false, drives: false };
        let (events, received) = channel();
        Self {
            desktop: Desktop::open(socket, &request, Sink { events }).unwrap(),
            received,
            size: (0, 0),
            pixels: Vec::new(),
            frames: 0,
            repeats: false,
            pointer: None,
            focus: None,
        }
    }

    /// The next frame; everything outside of its damage must be as before.
    fn next(&mut self) -> Vec<Rect> {
        loop {
            if let Some(damage) = self.next_event("frame") {
                return damage;
            }
        }
    }

    /// Waits until the pointer has been told to look so.
    fn until_pointer(&mut self, pointer: Pointer) {
        self.desktop.request_frame();
        while self.pointer != Some(pointer) {
            if self.next_event("pointer").is_some() {
                self.desktop.request_frame();
            }
        }
    }

    /// Waits until a window with this title has been told to have the focus.
    fn until_title(&mut self, title: &str) -> Focus {
        loop {
            match &self.focus {
                Some(focus) if focus.title.as_deref() == Some(title) => return focus.clone(),
                _ => self.next_event(title),
            };
        }
    }

    fn resize(&self, width: u32, height: u32) -> Result<(), Error> {
        self.resize_scaled(width, height, 100)
    }

    /// One monitor of that size and scale, in percent.
    fn resize_scaled(&self, width: u32, height: u32, scale: u32) -> Result<(), Error> {
        self.desktop.arrange(&[Monitor { place: rect(0, 0, width, height), scale }])
    }

    /// Types until the terminal hides the pointer: one that is put to its pixel at a new scale shows again. Where that
    /// comes before a frame without it, the terminal takes it for hidden until it moves.
    fn hide_pointer_by_typing(&mut self) {
        let mut tries = 0;
        while self.pointer != Some(Pointer::Picture) {
            tries += 1;
            if tries % 10 == 0 {
                self.desktop.input(Input::PointerMove { x: 300 + tries % 100, y: 300 }).unwrap();
            }
            self.type_text(" ");
            self.desktop.request_frame();
            self.next_event("pointer that is hidden");
        }
    }

    /// The damage, if it was a frame.
    fn next_event(&mut self, wanted: &str) -> Option<Vec<Rect>> {
        let event = self.received.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let path = self.save();
            panic!(
                "no {wanted} came after the frame in {}; the pointer is {:?}",
                path.display(),
                self.pointer
            )
        });
        match event {
            Event::Pointer(pointer) => {
                self.pointer = Some(pointer);
                None
            }
            Event::Focus(focus) => {
                self.focus = focus;
                None
            }
            Event::Frame { size, pixels, damage } => {
                assert!(damage.len() <= lucid_desktop::MAX_DAMAGE);
                assert!(!damage.is_empty() || self.repeats, "a frame came for nothing");
                for r in &damage {
                    assert!(
                        r.width > 0 && r.height > 0 && r.x + r.width <= size.0 && r.y + r.height <= size.1
                    );
                }
                if size != self.size {
                    assert_eq!(damage, [Rect { x: 0, y: 0, width: size.0, height: size.1 }]);
                    self.size = size;
                    self.pixels = vec![0; pixels.len()];
                }
                let stride = size.0 as usize * 4;
                for r in &damage {
                    for y in r.y as usize..(r.y + r.height) as usize {
                        let row = y * stride + r.x as usize * 4..y * stride + (r.x + r.width) as usize * 4;
                        self.pixels[row.clone()].copy_from_slice(&pixels[row]);
                    }
                }
                assert!(self.pixels == pixels, "something changed outside of the damage");
                self.frames += 1;
                Some(damage)
            }
            Event::ResizeFailed(w, h) => panic!("the size {w}x{h} was refused"),
            Event::Closed(reason) => panic!("the desktop closed: {reason}"),
        }
    }

    fn ask(&mut self) -> Vec<Rect> {
        self.desktop.request_frame();
        self.next()
    }

    fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = (y as usize * self.size.0 as usize + x as usize) * 4;
        [self.pixels[at + 2], self.pixels[at + 1], self.pixels[at]]
    }

    /// Whether every pixel has the colour.
    fn flat(&self, rgb: [u8; 3]) -> bool {
        let bgr = [rgb[2], rgb[1], rgb[0]];
        !self.pixels.is_empty() && self.pixels.chunks_exact(4).all(|p| p[..3] == bgr)
    }

    /// Whether every pixel of a rectangle has the colour.
    fn flat_in(&self, r: Rect, rgb: [u8; 3]) -> bool {
        r.x + r.width <= self.size.0
            && r.y + r.height <= self.size.1
            && (r.y..r.y + r.height).all(|y| (r.x..r.x + r.width).all(|x| self.pixel(x, y) == rgb))
    }

    fn click(&self, x: u32, y: u32) {
        self.desktop.input(Input::PointerMove { x, y }).unwrap();
        for pressed in [true, false] {
            self.desktop.input(Input::Button { button: Button::Left, pressed }).unwrap();
        }
    }

    /// Whether the picture is another one's.
    fn equals(&self, other: &[u8]) -> bool {
        let mut pairs = self.pixels.chunks_exact(4).zip(other.chunks_exact(4));
        self.pixels.len() == other.len() && pairs.all(|(a, b)| a[..3] == b[..3])
    }

    /// Keeps the picture as a file, for whoever looks into a failure.
    fn save(&self) -> PathBuf {
        let path = std::env::temp_dir().join(format!("lucid-desktop-test-{}.ppm", std::process::id()));
        let mut file = format!("P6 {} {} 255\n", self.size.0, self.size.1).into_bytes();
        file.extend(self.pixels.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0]]));
        std::fs::write(&path, file).unwrap();
        path
    }

    /// How many pixels have the colour, in percent.
    fn share(&self, rgb: [u8; 3]) -> usize {
        let bgr = [rgb[2], rgb[1], rgb[0]];
        let same = self.pixels.chunks_exact(4).filter(|p| p[..3] == bgr).count();
        same * 100 / (self.pixels.len() / 4).max(1)
    }

    fn until(&mut self, what: impl Fn(&Screen) -> bool) {
        while !what(self) {
            self.ask();
        }
    }

    /// Waits for the terminal with its prompt: its background, and something on it.
    fn terminal(&mut self) {
        let at = POINTER;
        self.desktop.input(Input::PointerMove { x: at, y: at }).unwrap();
        let background = [0x10, 0x10, 0x10];
        self.until(|s| s.share(background) > 50 && s.pixels.chunks_exact(4).any(|p| p[0] > 0xc0));
    }

    fn type_text(&self, text: &str) {
        for c in text.chars() {
            let (keys, last) = us_key(c);
            for key in &keys {
                self.key(*key, true);
            }
            self.key(last, true);
            self.key(last, false);
            for key in &keys {
                self.key(*key, false);
            }
        }
    }

    fn key(&self, evdev: u32, pressed: bool) {
        self.desktop.input(Input::Key { evdev, pressed }).unwrap();
    }

    fn tap(&self, evdev: u32) {
        self.key(evdev, true);
        self.key(evdev, false);
    }
}

/// Where the pointer rests, from the left and from the top.
const POINTER: u32 = 60;

const SHIFT: u32 = 42;
const ALT_GR: u32 = 100;
const CAPS: u32 = 58;
const ENTER: u32 = 28;

/// The keys that write a character with the layout `us`.
fn us_key(c: char) -> (Vec<u32>, u32) {
    let rows = [
        (1, "\x1b1234567890-=", "\x1b!@#$%^&*()_+"),
        (16, "qwertyuiop[]\n", "QWERTYUIOP{}\n"),
        (30, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
        (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
        (57, " ", " "),
    ];
    for (first, plain, shifted) in rows {
        if let Some(at) = plain.chars().position(|p| p == c) {
            return (vec![], first + at as u32);
        }
        if let Some(at) = shifted.chars().position(|p| p == c) {
            return (vec![SHIFT], first + at as u32);
        }
    }
    panic!("no key for {c:?}");
}

/// A command that paints the whole terminal in a colour (and hides its cursor).
fn paint(hex: &str) -> String {
    format!("printf '\\033]11;#{hex}\\007\\033[?25l\\033[2J'; read x\n")
}

/// Waits until a file holds something, by its own events.
fn wait_for_file(path: &Path, holds: impl Fn(&str) -> bool) -> String {
    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::fs::inotify;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::MODIFY | inotify::WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&inotify, path.parent().unwrap(), flags).unwrap();
    loop {
        let text = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        if holds(&text) {
            return text;
        }
        let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut [PollFd::new(&inotify, PollFlags::IN)], Some(&limit)).unwrap();
        assert!(ready > 0, "{} holds only {text:?}", path.display());
        let mut buffer = [0; 4096];
        rustix::io::read(&inotify, &mut buffer).unwrap();
    }
}

/// Every process below `root` that has not ended, by name.
fn descendants(root: u32) -> BTreeSet<(u32, String)> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let name = stat[stat.find('(').unwrap() + 1..stat.rfind(')').unwrap()].to_owned();
        let rest: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..].split_whitespace().collect();
        // An ended process that nobody has waited for yet has ended all the same.
        let ended = matches!(rest[0], "Z" | "X");
        parents.push((pid, rest[1].parse::<u32>().unwrap(), name, ended));
    }
    let mut family = BTreeSet::from([root]);
    loop {
        let before = family.len();
        family.extend(
            parents.iter().filter(|(_, parent, ..)| family.contains(parent)).map(|p| p.0).collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    family.remove(&root);
    let running = parents.into_iter().filter(|(pid, _, _, ended)| family.contains(pid) && !ended);
    running.map(|(pid, _, name, _)| (pid, name)).collect()
}

/// A process, and what is readable when it has ended.
type Watched = (String, rustix::fd::OwnedFd);

/// Blocks until all of the processes have ended.
fn wait_for_end(watched: &[Watched]) {
    use rustix::event::{PollFd, PollFlags, Timespec};
    for (process, fd) in watched {
        let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap();
        assert!(ready > 0, "still running: {process:?}");
    }
}

/// Those of the processes that still run: the shell behind a pipeline may have ended since they were listed.
fn watch(processes: &BTreeSet<(u32, String)>) -> Vec<Watched> {
    let mut watched = Vec::new();
    for (pid, name) in processes {
        let id = rustix::process::Pid::from_raw(*pid as i32).unwrap();
        match rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()) {
            Ok(fd) => watched.push((format!("{name} ({pid})"), fd)),
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("pidfd_open of {name} ({pid}): {error}"),
        }
    }
    watched
}

fn names(processes: &BTreeSet<(u32, String)>) -> Vec<&str> {
    processes.iter().map(|(_, name)| name.as_str()).collect()
}

#[test]
fn typed_keys_paint_the_terminal_in_exactly_the_colour_asked_for_corners_included() {
    needs_sway!();
    let launcher = Launcher::start("paint", &[]);
    let mut screen = launcher.open(1001, 601, "us");
    let damage = screen.ask();
    assert_eq!(damage, [Rect { x: 0, y: 0, width: 1001, height: 601 }]);
    eprintln!("captured by {}", screen.desktop.capture_protocol());
    screen.terminal();
    for (hex, rgb) in [("c81e5a", [0xc8, 0x1e, 0x5a]), ("ffffff", [255; 3]), ("0000ff", [0, 0, 255])] {
        screen.type_text(&paint(hex));
        screen.until(|s| s.flat(rgb));
        for (x, y) in [(0, 0), (1000, 0), (0, 600), (1000, 600)] {
            assert_eq!(screen.pixel(x, y), rgb);
        }
        screen.tap(ENTER);
    }
}

#[test]
fn while_nothing_changes_nothing_is_delivered_and_the_thread_sleeps() {
    needs_sway!();
    let launcher = Launcher::start("idle", &[]);
    let mut screen = launcher.open(800, 600, "us");
    screen.terminal();
    screen.type_text(&paint("204060"));
    screen.until(|s| s.flat([0x20, 0x40, 0x60]));
    // A frame is asked for and stays due. What is still on its way (the pointer's first picture, say)
    // comes first: quiet means that a whole pause goes by without a wake-up.
    screen.desktop.request_frame();
    let mut before = u64::MAX;
    for _ in 0..100 {
        let now = screen.desktop.wakeups();
        if now == before {
            break;
        }
        before = now;
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(screen.desktop.wakeups(), before, "the thread never comes to rest");
    let came = screen.received.try_iter().count();
    assert!(came <= 1);
    if came == 1 {
        screen.desktop.request_frame();
        std::thread::sleep(Duration::from_millis(500));
    }
    let (wakeups, ticks) = (screen.desktop.wakeups(), thread_ticks());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(screen.desktop.wakeups(), wakeups, "the thread woke up although nothing happened");
    assert_eq!(thread_ticks(), ticks, "the thread used the processor although nothing happened");
    assert!(screen.received.try_recv().is_err(), "a frame came although nothing happened");
    // And it is not asleep for good.
    screen.tap(ENTER);
    screen.type_text(&paint("f01020"));
    screen.next();
    screen.until(|s| s.flat([0xf0, 0x10, 0x20]));
}

/// Processor time of the thread called lucid-desktop, in ticks.
fn thread_ticks() -> u64 {
    let mut total = None;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        if stat.contains("(lucid-desktop)") {
            let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..].split_whitespace().collect();
            *total.get_or_insert(0) +=
                fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    total.expect("the desktop's thread is not there")
}

#[test]
fn the_pointer_is_told_by_its_name_and_moving_it_changes_no_pixel() {
    needs_sway!();
    let launcher = Launcher::start("pointer", &[]);
    let mut screen = launcher.open(800, 600, "us");
    screen.terminal();
    screen.until_pointer(Pointer::Shape(Shape::TEXT));
    screen.type_text(&paint("204060"));
    // Nowhere is a pointer in the picture.
    screen.until(|s| s.flat([0x20, 0x40, 0x60]));
    let frames = screen.frames;
    screen.desktop.request_frame();
    let places = (0..40).map(|i| (300 + i * 12, 590 - i * 7)).chain([(799, 599), (799, 0), (0, 599), (0, 0)]);
    for (x, y) in places {
        let wakeups = screen.desktop.wakeups();
        screen.desktop.input(Input::PointerMove { x, y }).unwrap();
        // The compositor paints the pointer anew, which wakes the thread.
        for _ in 0..200 {
            if screen.desktop.wakeups() != wakeups {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_ne!(screen.desktop.wakeups(), wakeups, "nothing was painted at {x},{y}");
    }
    // What comes next is what is typed.
    screen.tap(ENTER);
    screen.type_text("printf '\\033]22;crosshair\\007'\n");
    let damage = screen.next();
    assert_eq!(screen.frames, frames + 1, "a frame came while only the pointer moved");
    let moved = Rect { x: 300, y: 300, width: 500, height: 300 };
    let corner = damage.iter().all(|r| r.x + r.width <= moved.x || r.y + r.height <= moved.y);
    assert!(corner, "{damage:?}");
}

#[test]
fn a_pointer_that_a_program_changes_or_hides_is_told_without_a_move() {
    needs_sway!();
    let launcher = Launcher::start("shapes", &[]);
    let file = launcher.directory.join("foot.ini");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[mouse]\nhide-when-typing=yes\n")).unwrap();
    let mut screen = launcher.open(800, 600, "us");
    screen.terminal();
    screen.until_pointer(Pointer::Shape(Shape::TEXT));
    screen.type_text("a");
    screen.until_pointer(Pointer::Picture);
    screen.desktop.input(Input::PointerMove { x: 400, y: 300 }).unwrap();
    screen.until_pointer(Pointer::Shape(Shape::TEXT));
    // Mouse reporting: foot shows the arrow then.
    screen.type_text("; printf '\\033[?1000h'\n");
    screen.until_pointer(Pointer::Picture);
    screen.desktop.input(Input::PointerMove { x: 410, y: 300 }).unwrap();
    screen.until_pointer(Pointer::Shape(Shape::DEFAULT));
}

#[test]
fn the_window_with_the_focus_is_told_with_every_title_that_it_gets() {
    needs_sway!();
    let launcher = Launcher::start("focus", &[]);
    let mut screen = launcher.open(400, 300, "us");
    screen.terminal();
    screen.type_text("printf '\\033]2;Ledger \\303\\244\\007'\n");
    let ledger = screen.until_title("Ledger ä");
    assert_eq!(ledger.app_id.as_deref(), Some("foot"));
    // A second terminal takes the focus, and gives it back when it ends.
    screen.tap(F5);
    screen.until_title("foot");
    screen.type_text("printf '\\033]2;%s\\007' $(seq -s x 1000)\n");
    let long: String = (1..=1000).map(|n| n.to_string()).collect::<Vec<_>>().join("x");
    screen.until_title(&long[..lucid_desktop::MAX_TITLE]);
    screen.type_text("exit\n");
    screen.until_title("Ledger ä");
    screen.type_text("exit\n");
    while screen.focus.is_some() {
        screen.next_event("focus of nothing");
    }
}

#[test]
fn what_is_typed_and_clicked_is_counted_by_classes_once() {
    needs_sway!();
    let launcher = Launcher::start("tally", &[]);
    let mut screen = launcher.open(400, 300, "us");
    screen.terminal();
    assert!(screen.desktop.take_tally().is_empty());
    screen.type_text("Ab1 \n");
    for character in "é7€".chars() {
        screen.desktop.input(Input::Character(character)).unwrap();
    }
    screen.click(10, 10);
    for (vertical, horizontal) in [(2.0, 0.0), (-0.5, 0.0), (-0.5, -1.0)] {
        screen.desktop.input(Input::Wheel { vertical, horizontal }).unwrap();
    }
    let counted = screen.desktop.take_tally();
    let expected = Tally {
        letters: 3,
        digits: 2,
        punctuation: 2,
        navigation: 1,
        modifiers: 1,
        clicks: 1,
        wheel: 4,
        ..Tally::default()
    };
    assert_eq!(counted, expected);
    assert!(screen.desktop.take_tally().is_empty());
}

#[test]
fn a_refresh_gives_the_whole_picture_without_any_change() {
    needs_sway!();
    let launcher = Launcher::start("refresh", &[]);
    let mut screen = launcher.open(640, 480, "us");
    screen.terminal();
    screen.type_text(&paint("204060"));
    screen.until(|s| s.flat([0x20, 0x40, 0x60]));
    for _ in 0..3 {
        screen.desktop.refresh_all();
        assert_eq!(screen.ask(), [Rect { x: 0, y: 0, width: 640, height: 480 }]);
        assert!(screen.flat([0x20, 0x40, 0x60]));
    }
}

#[test]
fn a_repeated_frame_comes_without_any_change_and_without_damage() {
    needs_sway!();
    let launcher = Launcher::start("repeat", &[]);
    let mut screen = launcher.open(640, 480, "us");
    screen.terminal();
    screen.type_text(&paint("206040"));
    screen.until(|s| s.flat([0x20, 0x60, 0x40]));
    for _ in 0..3 {
        screen.repeats = true;
        screen.desktop.repeat_frame();
        assert_eq!(screen.ask(), []);
        assert!(screen.flat([0x20, 0x60, 0x40]));
    }
}

#[test]
fn the_output_takes_every_size_asked_for_and_the_last_one_stays() {
    needs_sway!();
    let launcher = Launcher::start("resize", &[]);
    let mut screen = launcher.open(640, 480, "us");
    screen.terminal();
    screen.type_text(&paint("30c030"));
    for size in [(1024, 768), (333, 777), (1921, 1081), (200, 200)] {
        screen.resize(size.0, size.1).unwrap();
        screen.until(|s| s.size == size && s.flat([0x30, 0xc0, 0x30]));
        assert_eq!(screen.desktop.size(), size);
    }
    for width in 400..460 {
        screen.resize(width, 300).unwrap();
    }
    screen.until(|s| s.size == (459, 300) && s.flat([0x30, 0xc0, 0x30]));
    assert!(screen.resize(199, 300).is_err());
    assert!(screen.resize(300, 8193).is_err());
}

#[test]
fn a_scaled_output_shows_less_in_as_many_pixels_and_the_pointer_as_ever() {
    needs_sway!();
    let launcher = Launcher::start("scale", &[]);
    let file = launcher.directory.join("foot.ini");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[mouse]\nhide-when-typing=yes\n")).unwrap();
    let mut screen = launcher.open(1600, 1200, "us");
    screen.terminal();
    screen.type_text("while :; do stty size > size; mv size rows; sleep .1; done &\n");
    let rows = launcher.directory.join("rows");
    let cells = |text: &str| {
        let mut numbers = text.split_whitespace().map(|n| n.parse::<u32>().unwrap());
        Some((numbers.next()?, numbers.next()?))
    };
    let plain = cells(&wait_for_file(&rows, |text| cells(text).is_some())).unwrap();
    // Before 1.10 sway paints the pointer with the next whole scale and shrinks it, so its code cannot be read, and
    // forgets what it looks like when the scale becomes less.
    let others: &[u32] = if std::env::var_os("LUCID_TEST_SWAY").is_some() { &[150, 125, 100] } else { &[] };
    for &scale in [200, 300].iter().chain(others) {
        screen.resize_scaled(1600, 1200, scale).unwrap();
        let near = |a: u32, b: u32| (a * scale / 100).abs_diff(b) * 20 <= b + 20 * scale / 100;
        wait_for_file(&rows, |text| {
            cells(text).is_some_and(|now| near(now.0, plain.0) && near(now.1, plain.1))
        });
        // Hidden while something is typed, and told by its name again wherever it goes.
        for (x, y) in [(700, 500), (801, 633), (90, 1101)] {
            screen.hide_pointer_by_typing();
            screen.desktop.input(Input::PointerMove { x, y }).unwrap();
            screen.until_pointer(Pointer::Shape(Shape::TEXT));
        }
        assert_eq!(screen.size, (1600, 1200));
    }
    assert!(screen.resize_scaled(1600, 1200, 99).is_err());
    assert!(screen.resize_scaled(1600, 1200, 501).is_err());
}

const F5: u32 = 63;
const F6: u32 = 64;
const F7: u32 = 65;

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

fn at_100(places: &[Rect]) -> Vec<Monitor> {
    places.iter().map(|place| Monitor { place: *place, scale: 100 }).collect()
}

/// A desktop with two monitors, the second one at the left and above, each with a terminal in a colour of its own.
fn two_monitors(launcher: &Launcher, [first, second]: [Rect; 2], colours: [(&str, [u8; 3]); 2]) -> Screen {
    let mut screen = launcher.open(first.width, first.height, "us");
    screen.terminal();
    screen.type_text(&paint(colours[0].0));
    screen.until(|s| s.flat(colours[0].1));
    screen.desktop.arrange(&at_100(&[first, second])).unwrap();
    screen.until(|s| s.flat_in(first, colours[0].1));
    screen.click(second.x + 50, second.y + 60);
    screen.tap(F5);
    screen.until(|s| s.flat_in(Rect { y: second.y + second.height - 100, height: 100, ..second }, [0x10; 3]));
    screen.until_pointer(Pointer::Shape(Shape::TEXT));
    screen.type_text(&paint(colours[1].0));
    screen.until(|s| s.flat_in(second, colours[1].1));
    screen
}

#[test]
fn each_monitor_is_an_output_at_its_place_with_windows_input_and_pointer_of_its_own() {
    needs_sway_of_the_device!();
    const GREEN: (&str, [u8; 3]) = ("20c040", [0x20, 0xc0, 0x40]);
    const RED: (&str, [u8; 3]) = ("c02010", [0xc0, 0x20, 0x10]);
    const BLUE: (&str, [u8; 3]) = ("1030e0", [0x10, 0x30, 0xe0]);
    let launcher = Launcher::start("monitors", &[]);
    let (first, second) = (rect(601, 100, 800, 600), rect(0, 0, 601, 400));
    let mut screen = two_monitors(&launcher, [first, second], [GREEN, RED]);
    assert_eq!((screen.size, screen.desktop.size()), ((1401, 700), (1401, 700)));
    // Each terminal reaches to its monitor's corners, and where there is no monitor it is black.
    assert!(screen.flat_in(first, GREEN.1));
    assert!(screen.flat_in(rect(0, 400, 601, 300), [0; 3]) && screen.flat_in(rect(601, 0, 800, 100), [0; 3]));
    // Nothing of the pointer stays anywhere, wherever it goes: across the edge, at it, beside all monitors.
    let edge = (595..605).flat_map(|x| [(x, 150), (x, 390)]);
    for (x, y) in edge.chain([(1400, 699), (0, 0), (300, 399), (300, 650), (1000, 50), (300, 200)]) {
        screen.desktop.request_frame();
        screen.desktop.input(Input::PointerMove { x, y }).unwrap();
        while screen.received.recv_timeout(Duration::from_millis(40)).is_ok() {}
    }
    screen.desktop.refresh_all();
    screen.until(|s| s.flat_in(first, GREEN.1) && s.flat_in(second, RED.1));
    // What is typed goes to where was clicked last.
    screen.click(first.x + 400, first.y + 300);
    screen.tap(ENTER);
    screen.type_text(&paint(BLUE.0));
    screen.until(|s| s.flat_in(first, BLUE.1) && s.flat_in(second, RED.1));
    // A mouse that tells no places leaves one monitor for the other.
    screen.desktop.input(Input::PointerMoveRelative { dx: -700, dy: -200 }).unwrap();
    for pressed in [true, false] {
        screen.desktop.input(Input::Button { button: Button::Left, pressed }).unwrap();
    }
    screen.tap(ENTER);
    screen.type_text(&paint(GREEN.0));
    screen.until(|s| s.flat_in(first, BLUE.1) && s.flat_in(second, GREEN.1));

    // One is taken away: its window is on the other. Then there are two again, at another place and scale.
    let alone = rect(0, 0, 800, 600);
    screen.resize(800, 600).unwrap();
    screen.until(|s| s.size == (800, 600));
    screen.tap(F7);
    screen.until(|s| s.flat(BLUE.1));
    screen.tap(F6);
    screen.until(|s| s.flat(GREEN.1));
    screen.tap(F7);
    screen.until(|s| s.flat(BLUE.1));
    let large = Monitor { place: rect(800, 200, 1000, 400), scale: 200 };
    screen.desktop.arrange(&[Monitor { place: alone, scale: 100 }, large]).unwrap();
    screen.until(|s| s.size == (1800, 600) && s.flat_in(alone, BLUE.1) && s.flat_in(large.place, [0; 3]));
    screen.click(1790, 590);
    screen.tap(F5);
    screen.until(|s| s.flat_in(rect(800, 500, 1000, 100), [0x10; 3]));
    screen.until_pointer(Pointer::Shape(Shape::TEXT));
    screen.type_text(&paint(RED.0));
    screen.until(|s| s.flat_in(alone, BLUE.1) && s.flat_in(large.place, RED.1));
}

#[test]
fn monitors_that_come_and_go_many_times_leave_nothing_behind() {
    needs_sway_of_the_device!();
    const COLOURS: [(&str, [u8; 3]); 2] = [("20c040", [0x20, 0xc0, 0x40]), ("c02010", [0xc0, 0x20, 0x10])];
    let launcher = Launcher::start("monitors-many", &[]);
    let (first, second) = (rect(400, 0, 600, 500), rect(0, 0, 400, 300));
    let mut screen = two_monitors(&launcher, [first, second], COLOURS);
    let red = COLOURS[1].1;
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for round in 0..12 {
        if round == 2 {
            before = descriptors();
        }
        // What was done last was done on the second one, so it is that one's window.
        screen.resize(500, 400).unwrap();
        screen.until(|s| s.size == (500, 400) && s.flat(red));
        let four =
            [rect(0, 0, 500, 400), rect(500, 0, 300, 200), rect(500, 200, 300, 200), rect(0, 400, 800, 200)];
        screen.desktop.arrange(&at_100(&four)).unwrap();
        let empty = |s: &Screen, places: &[Rect]| places.iter().all(|place| s.flat_in(*place, [0; 3]));
        screen.until(|s| s.size == (800, 600) && s.flat_in(four[0], red) && empty(s, &four[1..]));
        screen.desktop.arrange(&at_100(&[first, second])).unwrap();
        screen.until(|s| s.size == (1000, 500) && s.flat_in(first, red) && empty(s, &[second]));
    }
    // One for each round would be ten more.
    assert!(descriptors() <= before + 4, "{before} descriptors became {}", descriptors());
    let good = at_100(&[first, second]);
    for bad in [&[][..], &good[..1], &[good[0], good[0]]] {
        assert!(screen.desktop.arrange(bad).is_err());
    }
}

/// What sway says that its outputs are, and where.
fn outputs(launcher: &Launcher, command: &[&str]) -> String {
    let is_socket = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("sway-ipc.");
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let directories: Vec<PathBuf> = entries(&launcher.directory).collect();
    let socket = directories.iter().flat_map(|path| entries(path)).find(is_socket).unwrap();
    let said = Command::new("swaymsg").arg("-s").arg(&socket).arg("-p").args(command).output().unwrap();
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn a_program_that_switches_monitors_off_or_moves_them_has_them_changed_back() {
    needs_sway_of_the_device!();
    const COLOURS: [(&str, [u8; 3]); 2] = [("20c040", [0x20, 0xc0, 0x40]), ("c02010", [0xc0, 0x20, 0x10])];
    let launcher = Launcher::start("monitors-changed", &[]);
    let (first, second) = (rect(400, 0, 600, 500), rect(0, 0, 400, 300));
    let mut screen = two_monitors(&launcher, [first, second], COLOURS);
    let is_right = |said: &str| {
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        lines.iter().filter(|line| line.starts_with("Current mode: ")).count() == 2
            && ["Current mode: 600x500", "Current mode: 400x300", "Position: 400,0", "Position: 0,0"]
                .iter()
                .all(|wanted| lines.iter().any(|line| line.starts_with(wanted)))
    };
    assert!(is_right(&outputs(&launcher, &["-t", "get_outputs"])));
    let changes = [
        "HEADLESS-1 mode --custom 300x300",
        "HEADLESS-2 pos 5000 0",
        "HEADLESS-2 disable",
        "HEADLESS-2 disable",
        "HEADLESS-1 disable",
    ];
    for change in changes {
        screen.tap(ENTER);
        screen.type_text("exit\n");
        screen.until(|s| s.flat_in(second, [0; 3]));
        outputs(&launcher, &["output", change]);
        let mut said = String::new();
        for _ in 0..600 {
            said = outputs(&launcher, &["-t", "get_outputs"]);
            if is_right(&said) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(is_right(&said), "{change}: {said}");
        // A frame comes when the desktop knows as well, at the latest the second one.
        for _ in 0..2 {
            screen.desktop.refresh_all();
            screen.ask();
        }
        // Its pictures and its input are where they were.
        screen.click(second.x + 300, second.y + 200);
        if change == changes[4] {
            // On which one the first one's window is now is up to sway.
            break;
        }
        screen.tap(F5);
        screen.until(|s| s.flat_in(rect(0, 200, 400, 100), [0x10; 3]));
        screen.type_text(&paint("7010e0"));
        screen.until(|s| s.flat_in(second, [0x70, 0x10, 0xe0]) && s.flat_in(first, COLOURS[0].1));
        assert_eq!(screen.size, (1000, 500));
    }
}

#[test]
fn the_picture_built_from_damage_equals_a_fresh_one_after_many_changes() {
    needs_sway!();
    let launcher = Launcher::start("damage", &[]);
    let mut screen = launcher.open(900, 700, "us");
    screen.terminal();
    let mut partial = 0;
    for i in 0..20 {
        screen.type_text(&format!(
            "printf '\\033[{};{}H\\033[4{}m%s\\033[0m' line{i}\n",
            i + 2,
            i * 3 + 1,
            i % 7 + 1
        ));
        let damage = screen.ask();
        partial += usize::from(!damage.iter().any(|r| r.width == 900 && r.height == 700));
    }
    assert!(partial > 15, "only {partial} of 20 frames were less than the whole picture");
    // A mark at the end: when it is painted, so is everything before it.
    screen.type_text(
        "printf '\\033[48;2;1;200;3m\\033[2J\\033[?25l\\033[20;20H\\033[48;2;90;9;9mdone'; read x\n",
    );
    screen.until(|s| s.share([90, 9, 9]) > 0 || s.pixels.chunks_exact(4).any(|p| p[..3] == [9, 9, 90]));
    screen.until(|s| s.share([1, 200, 3]) > 95);
    // Painted and taken anew: a change of size and back.
    let kept = screen.pixels.clone();
    screen.resize(901, 700).unwrap();
    screen.until(|s| s.size == (901, 700));
    screen.resize(900, 700).unwrap();
    screen.until(|s| s.size == (900, 700) && s.equals(&kept));
}

#[test]
fn capitals_and_third_level_characters_of_a_german_keyboard_arrive() {
    needs_sway!();
    let launcher = Launcher::start("german", &[]);
    let mut screen = launcher.open(640, 480, "de");
    screen.terminal();
    let d = &screen;
    // cat > out
    for key in [46, 30, 20, 57] {
        d.tap(key);
    }
    d.tap(86); // <
    d.key(14, true); // and back again: Backspace
    d.key(14, false);
    d.key(SHIFT, true);
    d.tap(86); // >
    d.key(SHIFT, false);
    for key in [57, 24, 22, 20, ENTER] {
        d.tap(key);
    }
    // The shell has given the terminal to cat.
    let out = launcher.directory.join("out");
    wait_for_file(&out, |_| out.exists());
    // qQ
    d.tap(16);
    d.key(SHIFT, true);
    d.tap(16);
    d.key(SHIFT, false);
    // z and y are exchanged; umlauts
    for key in [21, 44, 39, 40, 26, 12] {
        d.tap(key);
    }
    // AltGr: @ { [ ] } \ ~ | and the euro sign
    d.key(ALT_GR, true);
    for key in [16, 8, 9, 10, 11, 12, 27, 86, 18] {
        d.tap(key);
    }
    d.key(ALT_GR, false);
    // Caps Lock by its key, and as a state of the client's
    d.tap(CAPS);
    d.tap(30);
    d.tap(CAPS);
    d.tap(30);
    d.desktop.input(Input::Locks { caps: true, num: false, scroll: false }).unwrap();
    d.tap(48);
    d.desktop.input(Input::Locks { caps: false, num: true, scroll: true }).unwrap();
    d.tap(48);
    // The key pad follows Num Lock.
    d.tap(79);
    d.tap(ENTER);
    let text = wait_for_file(&out, |text| text.contains('\n'));
    assert_eq!(text, "qQzyöäüß@{[]}\\~|€AaBb1\n");
}

#[test]
fn the_layout_changes_for_the_next_key_and_one_that_there_is_not_changes_nothing() {
    needs_sway!();
    let launcher = Launcher::start("layouts", &[]);
    let mut screen = launcher.open(640, 480, "us");
    screen.terminal();
    screen.type_text("cat > out\n");
    let out = launcher.directory.join("out");
    wait_for_file(&out, |_| out.exists());
    let d = &screen.desktop;
    let mut expected = String::new();
    // What the keys of y, z and ; write, with Caps Lock on and a key held across the change.
    d.input(Input::Locks { caps: true, num: true, scroll: false }).unwrap();
    for (layout, variant, text) in [
        ("de", "", "ZYÖ"),
        ("us", "", "YZ;"),
        ("xx", "", "YZ;"),
        ("fr", "", "YWM"),
        ("de", "neo", "küd"),
        ("us", "", "yz;"),
    ] {
        screen.key(SHIFT, true);
        let layout = KeyboardLayout { layout: layout.into(), variant: variant.into() };
        d.set_keyboard(&layout).unwrap();
        // At once: what is typed waits for the layout.
        screen.key(SHIFT, false);
        for key in [21, 44, 39, ENTER] {
            screen.tap(key);
        }
        expected.push_str(text);
        expected.push('\n');
        let typed = wait_for_file(&out, |all| all.len() >= expected.len() && all.ends_with('\n'));
        assert_eq!(typed, expected);
    }
    // Nothing is held, and neo has taken Caps Lock off, which it has not.
    screen.tap(30);
    screen.tap(ENTER);
    wait_for_file(&out, |text| text.ends_with("\na\n"));
}

#[test]
fn characters_of_any_script_arrive_in_order_among_keys() {
    needs_sway!();
    let launcher = Launcher::start("characters", &[]);
    let mut screen = launcher.open(640, 480, "us");
    screen.terminal();
    screen.type_text("cat > out\n");
    let out = launcher.directory.join("out");
    wait_for_file(&out, |_| out.exists());
    let d = &screen;
    let characters = |text: &str| {
        for c in text.chars() {
            d.desktop.input(Input::Character(c)).unwrap();
        }
    };
    let mut expected = String::new();
    // Keys and characters in turn; Shift and Caps Lock of the keys leave the characters as they are.
    for (key, letter, text) in [(30, 'a', "é"), (48, 'b', "Ж"), (46, 'c', "漢字"), (32, 'd', "😀🦀")]
    {
        d.tap(key);
        characters(text);
        expected.push(letter);
        expected.push_str(text);
    }
    d.key(SHIFT, true);
    characters("xß");
    d.tap(30);
    d.key(SHIFT, false);
    d.tap(CAPS);
    characters("q");
    d.tap(16);
    d.tap(CAPS);
    expected.push_str("xßAqQ");
    // What is no character to type, and Backspace.
    characters("\0\u{9f}z\u{8}\r");
    // Far more than there are keys, each more than once, in lines that a terminal takes whole.
    let many: Vec<char> =
        ('\u{100}'..'\u{180}').chain('\u{391}'..='\u{3a1}').chain('\u{4e00}'..'\u{5100}').collect();
    expected.push('\n');
    for line in many.chunks(100) {
        let line: String = line.iter().chain(line.iter().rev()).chain([&'\n']).collect();
        characters(&line);
        expected.push_str(&line);
        // What was typed is shown before more is.
        wait_for_file(&out, |text| text.len() >= expected.len());
    }
    let text = wait_for_file(&out, |text| text.len() >= expected.len());
    assert_eq!(text, expected);
    // Ctrl makes a command of a character too: the end of cat, and of the shell's next one.
    d.key(29, true);
    characters("c");
    d.key(29, false);
    screen.type_text("echo done > done\n");
    let done = launcher.directory.join("done");
    wait_for_file(&done, |text| text == "done\n");
}

#[test]
fn held_keys_and_buttons_are_released_together_and_repeats_are_dropped() {
    needs_sway!();
    let launcher = Launcher::start("release", &[]);
    let mut screen = launcher.open(640, 480, "us");
    screen.terminal();
    screen.type_text("cat > out\n");
    let out = launcher.directory.join("out");
    wait_for_file(&out, |_| out.exists());
    screen.key(SHIFT, true);
    screen.key(SHIFT, true);
    screen.tap(30);
    screen.desktop.release_all().unwrap();
    screen.tap(30);
    // The client has the keyboard again, and says that nothing is held.
    screen.key(SHIFT, true);
    screen.desktop.input(Input::Locks { caps: false, num: false, scroll: false }).unwrap();
    screen.tap(48);
    // A release without a press, and keys that there are not.
    screen.key(31, false);
    screen.key(100_000, true);
    screen.key(u32::MAX, true);
    screen.tap(ENTER);
    let text = wait_for_file(&out, |text| text.contains('\n'));
    assert_eq!(text, "Aab\n");
}

#[test]
fn all_five_buttons_both_wheels_and_the_pointers_place_arrive() {
    needs_sway!();
    let launcher = Launcher::start("mouse", &[]);
    // Whole cells: the font of foot.ini has 8 x 17 pixels a cell, and a click beside the last one says nothing.
    let mut screen = launcher.open(800, 595, "us");
    screen.terminal();
    // xterm's mouse reports: ESC [ < code ; column ; row M (press) or m (release)
    screen.type_text(
        "stty raw -echo; printf '\\033[?1000h\\033[?1006h\\033]11;#402010\\007\\033[2J'; cat -v > out\n",
    );
    screen.until(|s| s.share([0x40, 0x20, 0x10]) > 90);
    let d = &screen.desktop;
    d.input(Input::PointerMove { x: 0, y: 0 }).unwrap();
    for button in [Button::Left, Button::Middle, Button::Right, Button::Back, Button::Forward] {
        d.input(Input::Button { button, pressed: true }).unwrap();
        d.input(Input::Button { button, pressed: false }).unwrap();
    }
    let out = launcher.directory.join("out");
    let text = wait_for_file(&out, |text| text.matches('m').count() == 5);
    let expected = [0, 1, 2, 128, 129].map(|code| format!("^[[<{code};1;1M^[[<{code};1;1m")).concat();
    assert_eq!(text, expected);
    // One detent each: down 65, up 64, right 67, left 66. foot scrolls several lines for each detent.
    let mut before = text.len();
    for (vertical, horizontal, code) in [(1.0, 0.0, 65), (-1.0, 0.0, 64), (0.0, 1.0, 67), (0.0, -1.0, 66)] {
        d.input(Input::Wheel { vertical, horizontal }).unwrap();
        // The next button draws the line.
        d.input(Input::Button { button: Button::Left, pressed: true }).unwrap();
        d.input(Input::Button { button: Button::Left, pressed: false }).unwrap();
        let text = wait_for_file(&out, |text| text[before..].ends_with("^[[<0;1;1m"));
        let reports = text[before..].strip_suffix("^[[<0;1;1M^[[<0;1;1m").unwrap();
        let (press, release) = (format!("^[[<{code};1;1M"), format!("^[[<{code};1;1m"));
        assert!(reports.contains(&press), "{reports}");
        assert_eq!(reports.replace(&press, "").replace(&release, ""), "");
        before = text.len();
    }
    // The far corner, absolutely and by a move beyond the edge.
    d.input(Input::PointerMove { x: 100_000, y: 100_000 }).unwrap();
    d.input(Input::Button { button: Button::Left, pressed: true }).unwrap();
    d.input(Input::Button { button: Button::Left, pressed: false }).unwrap();
    let text = wait_for_file(&out, |text| text[before..].ends_with('m'));
    let corner = text[before..].to_owned();
    assert!(corner.starts_with("^[[<0;") && !corner.contains(";1;") && !corner.contains(";1M"), "{corner}");
    before = text.len();
    d.input(Input::PointerMove { x: 0, y: 0 }).unwrap();
    d.input(Input::PointerMoveRelative { dx: 5000, dy: 5000 }).unwrap();
    d.input(Input::Button { button: Button::Left, pressed: true }).unwrap();
    d.input(Input::Button { button: Button::Left, pressed: false }).unwrap();
    let text = wait_for_file(&out, |text| text[before..].ends_with('m'));
    assert_eq!(text[before..], corner);
}

/// A desktop whose user has started something that outlives its terminal.
fn with_a_stubborn_process(launcher: &Launcher, screen: &mut Screen) -> BTreeSet<(u32, String)> {
    screen.terminal();
    screen.type_text("(setsid sh -c 'trap \"\" HUP TERM INT; echo x > up; sleep 12345' &); read x\n");
    wait_for_file(&launcher.directory.join("up"), |text| text == "x\n");
    // The shell has said so before it starts its sleep.
    let processes = loop {
        let processes = descendants(launcher.process.id());
        if names(&processes).contains(&"sleep") {
            break processes;
        }
        std::thread::yield_now();
    };
    for name in ["foot", "bash", "sleep"] {
        assert!(names(&processes).contains(&name), "{name} is not among {processes:?}");
    }
    processes
}

fn runtime_directories(launcher: &Launcher) -> usize {
    let entries = std::fs::read_dir(&launcher.directory).unwrap().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with("lucid-desktop-")).count()
}

#[test]
fn when_the_desktop_is_dropped_nothing_is_left_running() {
    needs_sway!();
    let launcher = Launcher::start("dropped", &[]);
    let mut screen = launcher.open(640, 480, "us");
    let processes = with_a_stubborn_process(&launcher, &mut screen);
    let watched = watch(&processes);
    assert_eq!(runtime_directories(&launcher), 1);
    let Screen { desktop, received, .. } = screen;
    drop(desktop);
    let last = received.iter().last().unwrap();
    assert!(matches!(last, Event::Closed(reason) if reason == "Dropped"));
    wait_for_end(&watched);
    assert_eq!(runtime_directories(&launcher), 0);
}

#[test]
fn when_the_launchers_child_is_killed_nothing_is_left_running_and_the_client_is_told() {
    needs_sway!();
    let launcher = Launcher::start("killed-child", &[]);
    let mut screen = launcher.open(640, 480, "us");
    let processes = with_a_stubborn_process(&launcher, &mut screen);
    let watched = watch(&processes);
    let child = processes.iter().find(|(_, name)| name == "lucid-desktop").unwrap().0;
    let child = rustix::process::Pid::from_raw(child as i32).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    wait_for_end(&watched);
    let last = screen.received.iter().last().unwrap();
    assert!(matches!(&last, Event::Closed(reason) if reason.starts_with("Gone")));
    assert!(screen.desktop.input(Input::PointerMove { x: 1, y: 1 }).is_err());
    // The launcher goes on, and has cleaned up.
    let mut screen = launcher.open(640, 480, "us");
    screen.ask();
    assert_eq!(runtime_directories(&launcher), 1);
}

#[test]
fn when_the_launcher_is_killed_nothing_is_left_running() {
    needs_sway!();
    let mut launcher = Launcher::start("killed-launcher", &[]);
    let mut screen = launcher.open(640, 480, "us");
    let processes = with_a_stubborn_process(&launcher, &mut screen);
    let watched = watch(&processes);
    launcher.process.kill().unwrap();
    wait_for_end(&watched);
    let last = screen.received.iter().last().unwrap();
    assert!(matches!(&last, Event::Closed(reason) if reason.starts_with("Gone")));
}

#[test]
fn when_the_compositor_ends_the_client_is_told_and_nothing_is_left_running() {
    needs_sway!();
    let launcher = Launcher::start("exit", &[]);
    let mut screen = launcher.open(640, 480, "us");
    let processes = with_a_stubborn_process(&launcher, &mut screen);
    let watched = watch(&processes);
    screen.tap(ENTER);
    screen.type_text("swaymsg exit");
    // It may be gone before the key comes up.
    screen.key(ENTER, true);
    wait_for_end(&watched);
    let last = screen.received.iter().last().unwrap();
    assert!(matches!(&last, Event::Closed(reason) if reason.starts_with("Gone")));
}

#[test]
fn a_client_that_is_killed_leaves_nothing_running() {
    needs_sway!();
    // The client is this test program once more, so that it can be killed like one.
    if let Some(socket) = std::env::var_os("LUCID_TEST_CLIENT_OF") {
        let mut screen = Screen::open(Path::new(&socket), 640, 480, "us");
        screen.terminal();
        screen.type_text("(setsid sh -c 'trap \"\" HUP TERM INT; echo x > up; sleep 12345' &); read x\n");
        loop {
            screen.ask();
        }
    }
    let launcher = Launcher::start("killed-client", &[]);
    let mut client = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_client_that_is_killed_leaves_nothing_running", "--nocapture"])
        .env("LUCID_TEST_CLIENT_OF", launcher.socket())
        .spawn()
        .unwrap();
    wait_for_file(&launcher.directory.join("up"), |text| text == "x\n");
    let processes = descendants(launcher.process.id());
    let watched = watch(&processes);
    assert!(names(&processes).contains(&"foot"), "{processes:?}");
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for_end(&watched);
    assert_eq!(descendants(launcher.process.id()), BTreeSet::new());
}

#[test]
fn more_desktops_than_allowed_are_refused_with_a_reason_and_one_that_ends_makes_room() {
    needs_sway!();
    let launcher = Launcher::start("max", &["--max", "2"]);
    let first = launcher.open(300, 300, "us");
    let _second = launcher.open(300, 300, "us");
    let keyboard = KeyboardLayout { layout: "us".into(), variant: String::new() };
    let request = DesktopRequest { width: 300, height: 300, keyboard, sound: false, drives: false };
    let open = || Desktop::open(&launcher.socket(), &request, Sink { events: channel().0 });
    let error = open().unwrap_err().to_string();
    assert!(error.contains("2 desktops run already"), "{error}");
    let child = names(&descendants(launcher.process.id())).iter().filter(|n| **n == "lucid-desktop").count();
    assert_eq!(child, 2);
    let processes = descendants(launcher.process.id());
    let watched = watch(&processes);
    drop(first);
    // The first connection's process is one of the two; wait until one of them has ended.
    let ended = || {
        watched.iter().any(|(name, fd)| {
            use rustix::event::{PollFd, PollFlags, Timespec};
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            name.starts_with("lucid-desktop ")
                && rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).unwrap() > 0
        })
    };
    while !ended() {
        std::thread::yield_now();
    }
    open().unwrap();
}

#[test]
fn a_layout_that_does_not_exist_and_a_sway_that_does_not_start_are_told_to_the_client() {
    needs_sway!();
    let launcher = Launcher::start("layout", &[]);
    let keyboard = KeyboardLayout { layout: "nosuch".into(), variant: String::new() };
    let request = DesktopRequest { width: 640, height: 480, keyboard, sound: false, drives: false };
    let sink = || Sink { events: channel().0 };
    let error = Desktop::open(&launcher.socket(), &request, sink()).unwrap_err().to_string();
    assert!(error.contains("layout \"nosuch\""), "{error}");
    std::fs::remove_file(launcher.directory.join("sway-config")).unwrap();
    let keyboard = KeyboardLayout { layout: "us".into(), variant: String::new() };
    let request = DesktopRequest { keyboard, ..request };
    let error = Desktop::open(&launcher.socket(), &request, sink()).unwrap_err().to_string();
    assert!(error.contains("--sway-config"), "{error}");
    // The processes of the two connections end by themselves.
    let processes = descendants(launcher.process.id());
    wait_for_end(&watch(&processes));
}

#[test]
fn what_is_not_a_request_is_refused_and_starts_nothing() {
    use std::io::{Read, Write};
    needs_sway!();
    let launcher = Launcher::start("garbage", &[]);
    let long = "x".repeat(5000);
    for line in [
        "hello\n",
        "{\"version\":1,\"width\":640,\"height\":480,\"keyboard\":{\"layout\":\"us\",\"variant\":\"\"},\"sound\":false}\n",
        "{\"version\":4,\"width\":100,\"height\":480,\"keyboard\":{\"layout\":\"us\",\"variant\":\"\"},\"sound\":false}\n",
        "{\"version\":4,\"width\":640,\"height\":480,\"keyboard\":{\"layout\":\"$(id)\",\"variant\":\"\"},\"sound\":false}\n",
        long.as_str(),
    ] {
        let mut socket = std::os::unix::net::UnixStream::connect(launcher.socket()).unwrap();
        socket.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // A peer that has not read everything resets the connection after its answer.
        let _ = socket.read_to_string(&mut answer);
        assert!(answer.starts_with("{\"version\":4,\"error\":\""), "{line}: {answer}");
    }
}

#[test]
fn the_newer_capture_protocol_is_used_where_there_is_one() {
    needs_sway!();
    let launcher = Launcher::start("protocol", &[]);
    let screen = launcher.open(300, 300, "us");
    let version = Command::new(sway()).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let number: Vec<u32> = version
        .rsplit("version ")
        .next()
        .unwrap()
        .trim()
        .split(['.', '-', ' '])
        .map_while(|n| n.parse().ok())
        .collect();
    let expected = if number >= vec![1, 11] {
        CaptureProtocol::ExtImageCopyCapture
    } else {
        CaptureProtocol::WlrScreencopy
    };
    assert_eq!(screen.desktop.capture_protocol(), expected, "{version}");
}

#[test]
fn a_connection_from_systemd_gets_one_desktop_and_the_launcher_ends_well_with_it() {
    use lucid_desktop::handover::{Reply, receive_line};
    use std::io::Write;
    needs_sway!();
    let launcher = Launcher::start("systemd", &[]); // for its directory
    let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_lucid-desktop"));
    if rustix::process::geteuid().is_root() {
        process.uid(NOBODY).gid(NOBODY);
    }
    // As systemd does with Accept=yes and StandardInput=socket.
    let mut process = process
        .arg("--sway-config")
        .arg(launcher.directory.join("sway-config"))
        .arg("--sway")
        .arg(sway())
        .arg("--home")
        .arg(&launcher.directory)
        .env("RUNTIME_DIRECTORY", &launcher.directory)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(server)))
        .spawn()
        .unwrap();
    let keyboard = KeyboardLayout { layout: "us".into(), variant: String::new() };
    let request = DesktopRequest { width: 640, height: 480, keyboard, sound: false, drives: false };
    client.write_all(request.to_line().unwrap().as_bytes()).unwrap();
    let (line, descriptors) = receive_line(&client, std::time::Instant::now() + PATIENCE, "waiting").unwrap();
    assert!(matches!(Reply::from_line(&line).unwrap(), Reply::Ready { .. }));
    assert_eq!(descriptors.len(), 2);
    let processes = descendants(process.id());
    let watched = watch(&processes);
    assert!(!processes.is_empty());
    drop(client);
    assert!(process.wait().unwrap().success());
    wait_for_end(&watched);
    assert_eq!(runtime_directories(&launcher), 0);
}

#[test]
fn without_a_connection_and_without_listen_the_launcher_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_lucid-desktop")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--listen PATH"));
}
