//! The clipboard of a real sway, with `wl-copy` and `wl-paste` of wl-clipboard as the desktop's programs.
//!
//! `LUCID_TEST_SWAY` names another sway (a wrapper script, say) to be tested with.

// The whole file is a test, its helper functions included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lucid_desktop::{
    Clipboard, ClipboardOffer, ClipboardSink, Closed, Desktop, DesktopRequest, Frame, FrameSink,
    KeyboardLayout, MAX_MIME_TYPES, Paste,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The user that a test run by root starts the launcher as.
const NOBODY: u32 = 65534;
/// Far beyond what anything takes: a test that hangs fails, and never passes by time.
const PATIENCE: Duration = Duration::from_secs(30);

enum Event {
    Offered(Option<ClipboardOffer>),
    Asked(Paste),
}

struct Told(Mutex<Sender<Event>>);

impl ClipboardSink for Told {
    fn offered(&self, offer: Option<ClipboardOffer>) {
        // The test may have ended.
        let _ = self.0.lock().unwrap().send(Event::Offered(offer));
    }
    fn asked(&self, paste: Paste) {
        let _ = self.0.lock().unwrap().send(Event::Asked(paste));
    }
}

struct NoPictures;

impl FrameSink for NoPictures {
    fn frame(&mut self, _: Frame<'_>) {}
    fn closed(&mut self, _: Closed) {}
}

/// A desktop with somebody who listens to its clipboard, and whoever runs in it.
struct Bench {
    clipboard: Clipboard,
    events: Receiver<Event>,
    desktop: Option<Desktop>,
    programs: Vec<Child>,
    launcher: Child,
    directory: PathBuf,
}

impl Bench {
    /// None, and says so, when a part is missing.
    fn start(test: &str) -> Option<Bench> {
        let sway = std::env::var_os("LUCID_TEST_SWAY").map_or_else(|| "/usr/bin/sway".into(), PathBuf::from);
        for part in [sway.as_path(), Path::new("/usr/bin/wl-copy"), Path::new("/usr/bin/xkbcli")] {
            if !part.exists() {
                eprintln!("skipped: {} is not installed", part.display());
                return None;
            }
        }
        let directory =
            std::env::temp_dir().join(format!("lucid-desktop-clipboard-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/sway-config");
        std::fs::copy(config, directory.join("sway-config")).unwrap();
        std::fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/foot.ini"),
            directory.join("foot.ini"),
        )
        .unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut launcher = as_nobody(env!("CARGO_BIN_EXE_lucid-desktop"))
            .arg("--listen")
            .arg(directory.join("socket"))
            .arg("--sway-config")
            .arg(directory.join("sway-config"))
            .arg("--sway")
            .arg(sway)
            .arg("--home")
            .arg(&directory)
            .arg("--runtime")
            .arg(&directory)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(launcher.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("waiting for connections")));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        let keyboard = KeyboardLayout { layout: "us".into(), variant: String::new() };
        let request = DesktopRequest { width: 640, height: 480, keyboard, sound: false, drives: false };
        let desktop = Desktop::open(&directory.join("socket"), &request, NoPictures).unwrap();
        let (sender, events) = channel();
        let clipboard = desktop.clipboard(Arc::new(Told(Mutex::new(sender)))).unwrap();
        let bench =
            Bench { clipboard, events, desktop: Some(desktop), programs: Vec::new(), launcher, directory };
        // What is there in the beginning.
        assert!(matches!(bench.next(), Event::Offered(None)));
        Some(bench)
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("nothing was told")
    }

    fn offered(&self) -> ClipboardOffer {
        loop {
            match self.next() {
                Event::Offered(Some(offer)) => return offer,
                Event::Offered(None) => {}
                Event::Asked(paste) => panic!("{paste:?}"),
            }
        }
    }

    fn asked(&self) -> Paste {
        match self.next() {
            Event::Asked(paste) => paste,
            Event::Offered(offer) => panic!("{offer:?}"),
        }
    }

    fn program(&self, name: &str) -> Command {
        let runtime = std::fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.join("sway-config").exists() && path.is_dir())
            .unwrap();
        let display = std::fs::read_dir(&runtime)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .find(|name| name.strip_prefix("wayland-").is_some_and(|n| n.parse::<u32>().is_ok()))
            .unwrap();
        let mut command = as_nobody(name);
        command.env("XDG_RUNTIME_DIR", runtime).env("WAYLAND_DISPLAY", display);
        command.env("HOME", &self.directory).current_dir(&self.directory);
        command
    }

    /// Copies in the desktop, with a program that stays.
    fn copy(&mut self, mime_type: &str, content: &[u8]) {
        let mut child = self
            .program("wl-copy")
            .args(["--foreground", "--type", mime_type])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        self.programs.push(child);
    }

    /// Begins to paste in the desktop.
    fn paste(&self, mime_type: &str) -> std::thread::JoinHandle<Vec<u8>> {
        let mut command = self.program("wl-paste");
        command.args(["--no-newline", "--type", mime_type]);
        std::thread::spawn(move || command.output().unwrap().stdout)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.desktop.take());
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// sway refuses to run as root.
fn as_nobody(program: &str) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Reads a pipe that does not block, to its end.
fn read_all(pipe: OwnedFd) -> Vec<u8> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut file = std::fs::File::from(pipe);
    let (mut content, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        let mut part = [0; 65536];
        match file.read(&mut part) {
            Ok(0) => return content,
            Ok(read) => content.extend_from_slice(&part[..read]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(&file, PollFlags::IN)];
                poll(&mut ready, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
                assert!(Instant::now() < deadline, "the program writes no more");
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn what_a_program_copies_is_told_by_its_types_and_read_when_it_is_wanted() {
    let Some(mut bench) = Bench::start("copy") else { return };
    for content in ["x".to_owned(), "Grüße 漢字 👍\n".repeat(100_000), String::new()] {
        bench.copy("text/plain;charset=utf-8", content.as_bytes());
        let offer = bench.offered();
        // It offers text under other names as well.
        assert_eq!(offer.mime_types()[0], "text/plain;charset=utf-8");
        // As often as it is wanted, and in a type that is not there as nothing.
        for _ in 0..2 {
            let read = read_all(offer.receive("text/plain;charset=utf-8").unwrap());
            assert!(read == content.as_bytes());
        }
    }
    bench.copy("image/png", b"not really");
    let offer = bench.offered();
    assert_eq!(offer.mime_types(), ["image/png"]);
    assert_eq!(read_all(offer.receive("image/png").unwrap()), b"not really");
}

#[test]
fn an_offer_whose_program_has_ended_gives_nothing_and_does_not_hang() {
    let Some(mut bench) = Bench::start("ended") else { return };
    bench.copy("text/plain", b"gone soon");
    let offer = bench.offered();
    let mut program = bench.programs.pop().unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(matches!(bench.next(), Event::Offered(None)));
    assert_eq!(read_all(offer.receive("text/plain").unwrap()), b"");
}

#[test]
fn a_program_that_never_writes_delays_nobody_else() {
    let Some(mut bench) = Bench::start("silent") else { return };
    bench.copy("text/plain", b"never given");
    let offer = bench.offered();
    let stopped = rustix::process::Pid::from_child(bench.programs.last().unwrap());
    rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
    let silent = offer.receive("text/plain").unwrap();
    let mut part = [0; 16];
    assert_eq!(rustix::io::read(&silent, &mut part), Err(rustix::io::Errno::AGAIN));
    // The others go on.
    bench.clipboard.offer(1, &["text/plain"]).unwrap();
    let pasted = bench.paste("text/plain");
    bench.asked().write(b"of the client", PATIENCE).unwrap();
    assert_eq!(pasted.join().unwrap(), b"of the client");
    assert_eq!(rustix::io::read(&silent, &mut part), Err(rustix::io::Errno::AGAIN));
}

#[test]
fn what_is_offered_is_asked_for_by_number_and_type_when_a_program_pastes_and_not_before() {
    let Some(bench) = Bench::start("offer") else { return };
    let content = "from the client 漢字\n".repeat(50_000);
    for number in [7, 8] {
        bench.clipboard.offer(number, &["text/html", "text/plain;charset=utf-8"]).unwrap();
        let listed = bench.program("wl-paste").arg("--list-types").output().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        assert!(listed.contains("text/html\n") && listed.contains("text/plain;charset=utf-8\n"), "{listed}");
        let pasted = bench.paste("text/html");
        let paste = bench.asked();
        assert_eq!((paste.number, paste.mime_type.as_str()), (number, "text/html"));
        paste.write(content.as_bytes(), PATIENCE).unwrap();
        assert!(pasted.join().unwrap() == content.as_bytes());
    }
    // A wish that is dropped is an empty answer.
    let pasted = bench.paste("text/html");
    drop(bench.asked());
    assert_eq!(pasted.join().unwrap(), b"");
}

#[test]
fn what_is_offered_does_not_come_back_as_an_offer_and_can_be_withdrawn() {
    let Some(mut bench) = Bench::start("echo") else { return };
    for number in 0..20 {
        bench.clipboard.offer(number, &["text/plain"]).unwrap();
    }
    bench.copy("text/plain", b"of a program");
    // The first that is told of is the program's.
    assert_eq!(read_all(bench.offered().receive("text/plain").unwrap()), b"of a program");
    bench.clipboard.offer(20, &["text/plain"]).unwrap();
    bench.clipboard.withdraw().unwrap();
    assert!(matches!(bench.next(), Event::Offered(None)));
    assert!(!bench.program("wl-paste").arg("--list-types").output().unwrap().status.success());
}

#[test]
fn a_program_that_does_not_read_is_given_up_and_one_that_closes_is_noticed() {
    let Some(bench) = Bench::start("unread") else { return };
    bench.clipboard.offer(1, &["text/plain"]).unwrap();
    let much = vec![b'z'; 4 << 20];
    let mut lazy =
        bench.program("wl-paste").args(["--type", "text/plain"]).stdout(Stdio::piped()).spawn().unwrap();
    // Its output is not read, so it stops to read its pipe.
    let error = bench.asked().write(&much, Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().contains("giving the clipboard's content"), "{error}");
    lazy.kill().unwrap();
    lazy.wait().unwrap();

    let mut leaving =
        bench.program("wl-paste").args(["--type", "text/plain"]).stdout(Stdio::piped()).spawn().unwrap();
    let paste = bench.asked();
    // It pastes by way of `cat`, which ends as nobody takes what it writes.
    drop(leaving.stdout.take());
    leaving.kill().unwrap();
    leaving.wait().unwrap();
    let began = Instant::now();
    assert!(paste.write(&much, PATIENCE).is_err());
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn types_of_an_offer_are_bounded_and_a_storm_of_offers_ends_with_the_last() {
    let Some(mut bench) = Bench::start("storm") else { return };
    bench.copy(&format!("application/{}", "x".repeat(300)), b"a name that is too long");
    assert!(bench.offered().mime_types().is_empty());
    // Each returns when it holds the clipboard, and ends when the next one does.
    let script = "for at in $(seq 0 59); do wl-copy -- $at; done";
    let storm = bench.program("sh").args(["-c", script]).stderr(Stdio::null()).spawn().unwrap();
    bench.programs.push(storm);
    let mut last = None;
    while last.as_deref() != Some(b"59".as_slice()) {
        let offer = bench.offered();
        assert!(offer.mime_types().len() <= MAX_MIME_TYPES);
        last = Some(read_all(offer.receive("text/plain").unwrap()));
    }
}
