//! The privacy shield with a real sway and real terminals: every picture that is given is searched for what it must not
//! show.
//!
//! `LUCID_TEST_SWAY` names another sway (a wrapper script, say) to be tested with.

// The whole file is a test, its helper functions included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lucid_desktop::{
    AFTER_SHOWN, Button, Closed, Desktop, DesktopRequest, Focus, Frame, FrameSink, Input, KeyboardLayout,
    MASK, Monitor, Rect, Shield,
};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The user that a test run by root starts the launcher as.
const NOBODY: u32 = 65534;
/// Far beyond what anything takes: a test that hangs fails, and never passes by time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Windows are tabs, as on the device, and their titles are written in this colour and the next.
const SWAY: &str = "xwayland disable
default_border normal
workspace_layout tabbed
focus_follows_mouse no
floating_modifier Mod4 normal
output * bg #102030 solid_color
";
/// The colour of the windows that nobody may see, which nothing else has.
const SECRET: [u8; 3] = [0xc3, 0x11, 0xa7];
/// The colour of the others.
const PUBLIC: [u8; 3] = [0x0d, 0x88, 0x3c];
const SUPER: u32 = 125;
/// What a terminal runs whose picture never rests.
const RESTLESS: &str = "while :; do echo $RANDOM; sleep .1; done";

/// What the pictures have shown.
#[derive(Default)]
struct Seen {
    frames: usize,
    /// Those in which a pixel had exactly the secret colour, the public one, and those that were masked as a whole.
    secret: usize,
    public: usize,
    masked: usize,
    /// Those that differ within a part that is looked at from what they were.
    changed: usize,
    watched: Option<Rect>,
    last: Vec<u8>,
    size: (u32, u32),
    focus: Vec<Option<Focus>>,
    /// How often what was given before was to be forgotten.
    forgotten: usize,
    closed: Option<String>,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Seen>>);

fn has(pixels: &[u8], [r, g, b]: [u8; 3]) -> bool {
    pixels.as_chunks::<4>().0.iter().any(|pixel| pixel[..3] == [b, g, r])
}

/// The colours of a part of a picture, as far as there is any.
fn part(pixels: &[u8], (width, height): (u32, u32), part: Rect) -> Vec<[u8; 3]> {
    let (right, bottom) = ((part.x + part.width).min(width), (part.y + part.height).min(height));
    let mut colours = Vec::new();
    for y in part.y..bottom {
        for x in part.x..right {
            let at = (y * width + x) as usize * 4;
            colours.push([pixels[at + 2], pixels[at + 1], pixels[at]]);
        }
    }
    colours
}

impl FrameSink for Sink {
    fn frame(&mut self, frame: Frame<'_>) {
        let mut seen = self.0.lock().unwrap();
        let size = (frame.width, frame.height);
        seen.frames += 1;
        seen.secret += usize::from(has(frame.pixels, SECRET));
        seen.public += usize::from(has(frame.pixels, PUBLIC));
        let [r, g, b] = MASK;
        let whole = frame.pixels.as_chunks::<4>().0.iter().all(|pixel| pixel[..3] == [b, g, r]);
        seen.masked += usize::from(whole);
        if let Some(watched) = seen.watched
            && seen.size == size
        {
            seen.changed += usize::from(part(frame.pixels, size, watched) != part(&seen.last, size, watched));
        }
        seen.last = frame.pixels.to_vec();
        seen.size = size;
    }

    fn focus(&mut self, focus: Option<&Focus>) {
        self.0.lock().unwrap().focus.push(focus.cloned());
    }

    fn forget(&mut self) {
        self.0.lock().unwrap().forgotten += 1;
    }

    fn closed(&mut self, reason: Closed) {
        self.0.lock().unwrap().closed = Some(format!("{reason:?}"));
    }
}

/// A desktop whose pictures are all looked at.
struct Bench {
    desktop: Option<Desktop>,
    seen: Arc<Mutex<Seen>>,
    launcher: Child,
    directory: PathBuf,
}

impl Bench {
    /// None, and says so, when a part is missing.
    fn start(test: &str) -> Option<Bench> {
        let sway = std::env::var_os("LUCID_TEST_SWAY").map_or_else(|| "/usr/bin/sway".into(), PathBuf::from);
        for part in [sway.as_path(), Path::new("/usr/bin/foot"), Path::new("/usr/bin/swaymsg")] {
            if !part.exists() {
                eprintln!("skipped: {} is not installed", part.display());
                return None;
            }
        }
        let directory =
            std::env::temp_dir().join(format!("lucid-desktop-shield-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("sway-config"), SWAY).unwrap();
        let foot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/foot.ini");
        std::fs::copy(foot, directory.join("foot.ini")).unwrap();
        let mut launcher = Command::new(env!("CARGO_BIN_EXE_lucid-desktop"));
        if rustix::process::geteuid().is_root() {
            // sway refuses to run as root.
            std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
            launcher.uid(NOBODY).gid(NOBODY);
        }
        let mut launcher = launcher
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
        let socket = directory.join("socket");
        let keyboard = KeyboardLayout { layout: "us".into(), variant: String::new() };
        let request = DesktopRequest { width: 800, height: 600, keyboard, sound: false, drives: false };
        let sink = Sink::default();
        let seen = Arc::clone(&sink.0);
        let desktop = Desktop::open(&socket, &request, sink).unwrap();
        let bench = Bench { desktop: Some(desktop), seen, launcher, directory };
        bench.ask();
        Some(bench)
    }

    /// Asks for more pictures than are given until it is called again: nothing is left out.
    fn ask(&self) {
        (0..1024).for_each(|_| self.desktop().request_frame());
    }

    fn desktop(&self) -> &Desktop {
        self.desktop.as_ref().unwrap()
    }

    fn shield(&self, app_ids: &[&str], rectangles: &[Rect]) {
        let app_ids = app_ids.iter().map(|&id| id.to_owned()).collect();
        self.desktop().shielding().set(&Shield { app_ids, rectangles: rectangles.to_vec() }).unwrap();
    }

    /// The compositor's own socket.
    fn ipc(&self) -> PathBuf {
        let inside = |directory: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()).collect()
        };
        let named =
            |path: &PathBuf, start: &str| path.file_name().unwrap().to_string_lossy().starts_with(start);
        let runtime = inside(&self.directory).into_iter().find(|path| named(path, "lucid-desktop-")).unwrap();
        inside(&runtime).into_iter().find(|path| named(path, "sway-ipc.")).unwrap()
    }

    /// Has the compositor do something, as its user can; what it says.
    fn sway(&self, command: &str) -> String {
        let said = Command::new("/usr/bin/swaymsg").arg("-s").arg(self.ipc()).arg("--").arg(command).output();
        String::from_utf8(said.unwrap().stdout).unwrap()
    }

    fn tree(&self) -> String {
        let said = Command::new("/usr/bin/swaymsg")
            .arg("-s")
            .arg(self.ipc())
            .args(["-t", "get_tree", "--raw"])
            .output();
        String::from_utf8(said.unwrap().stdout).unwrap()
    }

    /// Opens a terminal in one colour that runs a command; returns when it is there.
    fn terminal(&self, app_id: &str, title: &str, colour: [u8; 3], options: &str, command: &str) {
        let before = self.tree().matches("\"pid\"").count();
        let [r, g, b] = colour;
        let script = self.directory.join(format!("run-{before}"));
        let foot = format!(
            "#!/bin/sh\nexec foot --config {}/foot.ini -o colors.background={r:02x}{g:02x}{b:02x} \
             --app-id '{app_id}' --title '{title}' {options} bash -c \"$(cat {}.sh)\"\n",
            self.directory.display(),
            script.display()
        );
        std::fs::write(&script, foot).unwrap();
        std::fs::write(script.with_extension("sh"), command).unwrap();
        self.sway(&format!("exec sh {}", script.display()));
        let id = serde_json::to_string(app_id).unwrap();
        wait_until(title, || {
            let tree = self.tree();
            tree.contains(&format!("\"app_id\":{id}")) || tree.contains(&format!("\"app_id\": {id}"))
        });
    }

    /// Has a window float there. One that paints without a pause may answer with the size that it had before, which the
    /// compositor then believes.
    fn place(&self, app_id: &str, place: Rect) {
        let Rect { x, y, width, height } = place;
        let there = serde_json::json!({"x": x, "y": y, "width": width, "height": height});
        wait_until("a window's place", || {
            self.sway(&format!(
                "[app_id={app_id}] floating enable, border none, resize set {width} {height}, \
                 move position {x} {y}"
            ));
            std::thread::sleep(Duration::from_millis(300));
            let tree = serde_json::from_str(&self.tree()).unwrap_or_default();
            window(&tree, app_id).is_some_and(|window| window["rect"] == there)
        });
    }

    fn secret(&self) {
        self.terminal("secret", "Ledger of the word-in-the-title", SECRET, "", "read x");
    }

    fn seen<T>(&self, look: impl Fn(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Waits until the pictures have shown that.
    fn until(&self, what: &str, shown: impl Fn(&Seen) -> bool) {
        wait_until(what, || self.seen(&shown));
    }

    /// Waits until a picture has come that was made after now.
    fn settle(&self) {
        // What the compositor has been told is painted well before that.
        std::thread::sleep(Duration::from_millis(300));
        let before = self.seen(|seen| seen.frames);
        self.desktop().refresh_all();
        self.until("a picture", |seen| seen.frames > before);
    }

    fn forget(&self) {
        self.ask();
        let mut seen = self.seen.lock().unwrap();
        (seen.frames, seen.secret, seen.public, seen.masked, seen.changed) = (0, 0, 0, 0, 0);
        seen.focus.clear();
    }
}

/// A window of the compositor's tree.
fn window<'a>(node: &'a serde_json::Value, app_id: &str) -> Option<&'a serde_json::Value> {
    if node["app_id"] == app_id {
        return Some(node);
    }
    let children = ["nodes", "floating_nodes"].into_iter().filter_map(|key| node[key].as_array()).flatten();
    children.into_iter().find_map(|child| window(child, app_id))
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.desktop.take());
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

macro_rules! bench {
    ($test:literal) => {
        match Bench::start($test) {
            Some(bench) => bench,
            None => return,
        }
    };
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

/// Does to the windows whatever users can do to them, in an order that only the seed knows.
fn rage(bench: &Bench, mut seed: u64, steps: u32) {
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) as u32) % below
    };
    let desktop = bench.desktop();
    for _ in 0..steps {
        let (x, y) = (random(700), random(500));
        let who = ["secret", "public"][random(4) as usize / 3];
        let window = format!("[app_id=\"^{who}$\"]");
        match random(24) {
            0..3 => drop(bench.sway(&format!("{window} floating toggle"))),
            3..6 => drop(bench.sway(&format!("{window} floating enable, move position {x} {y}"))),
            6..9 => drop(bench.sway(&format!("{window} resize set {} {}", 100 + x, 80 + y))),
            9 => drop(bench.sway(&format!("{window} focus, layout toggle all"))),
            10 => drop(bench.sway(&format!(
                "{window} focus, layout {}",
                ["tabbed", "stacking", "splith"][random(3) as usize]
            ))),
            11 => drop(bench.sway(&format!("{window} focus, split toggle"))),
            12 => drop(bench.sway(&format!(
                "{window} border {}",
                ["none", "normal", "pixel 3", "csd"][random(4) as usize]
            ))),
            13 => drop(bench.sway(&format!("workspace {}", 1 + random(2)))),
            14 => drop(bench.sway(&format!("{window} move container to workspace {}", 1 + random(2)))),
            15 => drop(bench.sway(&format!("{window} move scratchpad, scratchpad show"))),
            16 => drop(bench.sway(&format!("{window} sticky toggle, urgent toggle"))),
            17 => drop(bench.sway(&format!(
                "{window} swap container with con_id 0; {window} move {}",
                ["left", "up"][random(2) as usize]
            ))),
            18..22 => {
                // Dragged, or pulled larger, with the pointer.
                let button = [Button::Left, Button::Right][random(2) as usize];
                desktop.input(Input::PointerMove { x, y }).unwrap();
                desktop.input(Input::Key { evdev: SUPER, pressed: true }).unwrap();
                desktop.input(Input::Button { button, pressed: true }).unwrap();
                for _ in 0..15 {
                    desktop.input(Input::PointerMove { x: random(800), y: random(600) }).unwrap();
                    std::thread::sleep(Duration::from_millis(8));
                }
                desktop.input(Input::Button { button, pressed: false }).unwrap();
                desktop.input(Input::Key { evdev: SUPER, pressed: false }).unwrap();
            }
            22 => desktop
                .arrange(&[Monitor { place: rect(0, 0, 600 + random(300), 500 + random(200)), scale: 100 }])
                .unwrap(),
            _ => {
                drop(bench.sway(&format!("{window} kill")));
                if who == "secret" {
                    bench.secret();
                } else {
                    bench.terminal("public", "Public", PUBLIC, "", RESTLESS);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(u64::from(random(40))));
    }
}

/// Moves the window about over the other one, which has the focus.
fn drift(bench: &Bench) {
    bench.sway("workspace 1");
    for window in ["public", "secret"] {
        bench.sway(&format!(
            "[app_id=\"^{window}$\"] move container to workspace 1, floating disable, fullscreen disable"
        ));
    }
    bench.sway("[app_id=\"^secret$\"] floating enable");
    bench.sway("[app_id=\"^public$\"] focus");
    std::thread::sleep(AFTER_SHOWN);
    for step in 0..60 {
        bench.sway(&format!("[app_id=\"^secret$\"] move position {} {}", step * 11 % 500, step * 7 % 400));
        bench.sway(&format!("[app_id=\"^secret$\"] resize set {} {}", 200 + step * 3, 300 - step));
    }
}

/// Lets a window fill the screen in every way there is, between which the desktop shows again.
fn fill(bench: &Bench) {
    let window = "[app_id=\"^secret$\"]";
    let pause = |extra: u64| std::thread::sleep(AFTER_SHOWN + Duration::from_millis(extra));
    for (how, back) in [
        ("fullscreen enable", "fullscreen disable"),
        ("fullscreen enable global", "fullscreen disable"),
        ("focus, fullscreen toggle", "kill"),
        ("focus, floating enable, fullscreen enable", "floating disable, fullscreen disable"),
        ("focus, fullscreen enable", "split toggle, layout tabbed, fullscreen disable"),
        ("focus, fullscreen enable", "move container to workspace 2, fullscreen disable"),
        ("focus, fullscreen enable", "resize set 300 200, fullscreen disable, move scratchpad"),
    ] {
        if !bench.tree().contains("\"secret\"") {
            bench.secret();
        }
        drop(bench.sway(&format!("{window} {how}")));
        std::thread::sleep(Duration::from_millis(400));
        drop(bench.sway(&format!("{window} {back}")));
        pause(400);
    }
    // One that does so as soon as it is there, and more quickly than anything follows.
    drop(bench.sway(&format!("{window} kill")));
    bench.terminal("secret", "Ledger", SECRET, "--fullscreen", "read x");
    for i in 0..20 {
        drop(bench.sway(&format!("{window} fullscreen toggle")));
        std::thread::sleep(Duration::from_millis(i * 7));
    }
    drop(bench.sway(&format!("{window} fullscreen disable")));
    pause(400);
}

#[test]
fn no_picture_shows_a_pixel_of_a_shielded_window_however_it_moves_and_without_a_shield_they_do() {
    let bench = bench!("moves");
    bench.terminal("public", "Public", PUBLIC, "", RESTLESS);
    for shielded in [true, false] {
        if shielded {
            bench.shield(&["other", "secret"], &[]);
        } else {
            bench.shield(&[], &[]);
        }
        bench.secret();
        bench.settle();
        bench.forget();
        for seed in 1..3 {
            rage(&bench, seed, 60);
            bench.ask();
            fill(&bench);
            drift(&bench);
            bench.ask();
        }
        bench.seen(|seen| {
            let Seen { frames, secret, public, masked, closed, .. } = seen;
            eprintln!("shielded: {shielded}; {frames} pictures, {secret} with the secret, {public} with the other window, {masked} masked");
            assert_eq!(*closed, None);
            assert!(*frames > 40 && *public > 20, "there was nothing to see");
            if shielded {
                assert_eq!(*secret, 0, "of {frames} pictures");
                assert!(*masked > 5, "no window filled the screen");
            } else {
                assert!(*secret > 50, "the test sees nothing");
                assert_eq!(*masked, 0);
            }
        });
        bench.sway("[app_id=\"^secret$\"] kill");
        wait_until("the end of the window", || !bench.tree().contains("\"secret\""));
    }
}

#[test]
fn a_shield_that_changes_holds_for_windows_that_are_there_and_that_come_and_what_it_leaves_out_shows_again() {
    let bench = bench!("changes");
    let odd = "a\"]; $mod \\ä.b";
    for id in ["secret", odd] {
        bench.terminal(id, "Ledger", SECRET, "", "read x");
        for round in 0..3 {
            bench.until("what is not shielded", |seen| has(&seen.last, SECRET));
            let forgotten = bench.seen(|seen| seen.forgotten);
            bench.shield(&["x", id], &[]);
            assert_eq!(bench.seen(|seen| seen.forgotten), forgotten + 1);
            // Whatever came before this is older than the shield; nothing that comes after it is.
            bench.forget();
            bench.settle();
            // An id that only looks like it.
            bench.terminal("secretary", "Public", PUBLIC, "", "read x");
            bench.until("what is not shielded", |seen| has(&seen.last, PUBLIC));
            bench.sway("[app_id=secretary] kill");
            wait_until("the end of the window", || !bench.tree().contains("secretary"));
            if round == 1 {
                bench.sway("[title=Ledger] kill");
                wait_until("the end of the window", || !bench.tree().contains("Ledger"));
                bench.terminal(id, "Ledger", SECRET, "", "read x");
            }
            bench.settle();
            // The same once more is nothing new.
            let frames = bench.seen(|seen| seen.frames);
            bench.shield(&["x", id], &[]);
            bench.seen(|seen| assert_eq!(seen.secret, 0, "{id} {round}"));
            assert!(bench.seen(|seen| seen.frames) >= frames);
            bench.shield(&["x"], &[]);
            bench.until("what is not shielded any more", |seen| has(&seen.last, SECRET));
        }
        bench.sway("[title=Ledger] kill");
        wait_until("the end of the window", || !bench.tree().contains("Ledger"));
    }
}

#[test]
fn neither_the_focus_nor_the_bars_of_windows_tell_the_title_of_a_shielded_one() {
    let bench = bench!("titles");
    bench.terminal("public", "Public", PUBLIC, "", "read x");
    for shielded in [true, false] {
        bench.shield(if shielded { &["secret"] } else { &[] }, &[]);
        let (go, done) = (bench.directory.join("go"), bench.directory.join("done"));
        let titles = format!(
            "printf '\\033[?25l\\033]2;word-in-the-title\\007'; until [ -e {0} ]; do sleep .05; done; rm -f {0}; \
             printf '\\033]2;another word altogether\\007'; echo > {1}; read x",
            go.display(),
            done.display()
        );
        // One tab of two, then beside the other, then over it.
        for layout in
            ["layout tabbed", "layout stacking", "layout splith", "floating enable, move position 50 60"]
        {
            for focus in ["secret", "public"] {
                bench.terminal("secret", "Ledger", SECRET, "", &titles);
                bench.sway(&format!("[app_id=secret] {layout}, focus; [app_id={focus}] focus"));
                wait_until("the title", || bench.tree().contains("word-in-the-title"));
                bench.settle();
                let before = bench.seen(|seen| seen.last.clone());
                bench.seen.lock().unwrap().watched = Some(rect(0, 0, 800, 600));
                bench.forget();
                std::fs::write(&go, "").unwrap();
                wait_until("another title", || done.exists() && bench.tree().contains("another word"));
                bench.settle();
                bench.seen(|seen| {
                    let told = seen.focus.iter().flatten().any(|focus| *focus != Focus::default());
                    if shielded {
                        assert_eq!((seen.changed, seen.secret), (0, 0), "{layout}, focus on {focus}");
                        assert!(before == seen.last, "{layout}, focus on {focus}");
                        assert!(!told, "{:?}", seen.focus);
                    } else {
                        assert!(before != seen.last, "{layout}, focus on {focus}");
                        assert_eq!(told, focus == "secret", "{:?}", seen.focus);
                    }
                });
                bench.seen.lock().unwrap().watched = None;
                let _ = std::fs::remove_file(&done);
                bench.sway("[app_id=secret] kill");
                wait_until("the end of the window", || !bench.tree().contains("\"secret\""));
            }
        }
        // What was told from the first to the last.
        bench.sway("[app_id=public] focus");
    }
}

#[test]
fn a_window_that_is_shielded_while_it_has_the_focus_is_told_as_one_without_a_name_and_as_itself_afterwards() {
    let bench = bench!("focus");
    bench.secret();
    let last = |seen: &Seen| seen.focus.last().cloned().flatten().unwrap_or_default();
    for _ in 0..2 {
        bench.until("its name", |seen| last(seen).app_id.as_deref() == Some("secret"));
        bench.shield(&["secret"], &[]);
        // At once: whoever has shielded it tells nobody its title.
        assert_eq!(bench.seen(|seen| seen.focus.last().cloned()), Some(Some(Focus::default())));
        bench.shield(&[], &[]);
    }
}

#[test]
fn what_happens_below_a_rectangle_changes_nothing_that_is_passed_on() {
    let bench = bench!("rectangles");
    let restless = "printf '\\033[?25l'; while :; do printf '\\033[48;5;%dm%s' $((RANDOM % 256)) $RANDOM; sleep .02; done";
    let masked = rect(100, 80, 420, 330);
    // Entirely below it, then beyond it on all sides.
    for (place, within) in [(rect(110, 90, 400, 300), true), (rect(40, 40, 640, 480), false)] {
        for shielded in [true, false] {
            let masks = [masked];
            bench.shield(&[], if shielded { &masks } else { &[] });
            bench.terminal("public", "Public", PUBLIC, "", restless);
            bench.place("public", place);
            bench.settle();
            bench.seen.lock().unwrap().watched = Some(masked);
            bench.forget();
            std::thread::sleep(Duration::from_secs(2));
            bench.seen(|seen| {
                let colours = part(&seen.last, seen.size, masked);
                if shielded {
                    assert!(colours.iter().all(|colour| *colour == MASK));
                    assert_eq!(seen.changed, 0);
                } else {
                    assert!(seen.changed > 5, "there was nothing to see");
                }
                // What nobody sees costs no picture.
                assert_eq!(seen.frames == 0, shielded && within, "{} pictures", seen.frames);
            });
            bench.seen.lock().unwrap().watched = None;
            bench.sway("[app_id=public] kill");
            wait_until("the end of the window", || !bench.tree().contains("\"public\""));
        }
    }
}

#[test]
fn rectangles_stay_in_their_place_at_every_size_and_across_monitors() {
    let bench = bench!("places");
    bench.terminal("public", "Public", PUBLIC, "", "printf '\\033[?25l'; read x");
    let masks = [rect(500, 100, 400, 50), rect(0, 590, 10, 8192), rect(8191, 8191, 1, 1)];
    bench.shield(&[], &masks);
    let arrangements = [
        vec![rect(0, 0, 800, 600)],
        vec![rect(0, 0, 640, 480)],
        vec![rect(0, 0, 1024, 768)],
        vec![rect(0, 0, 700, 600), rect(700, 0, 500, 400)],
    ];
    for places in arrangements {
        bench.forget();
        let monitors: Vec<Monitor> = places.iter().map(|&place| Monitor { place, scale: 100 }).collect();
        bench.desktop().arrange(&monitors).unwrap();
        let width = places.iter().map(|place| place.x + place.width).max().unwrap();
        let height = places.iter().map(|place| place.y + place.height).max().unwrap();
        bench.until("the new size", |seen| seen.size == (width, height) && has(&seen.last, PUBLIC));
        bench.settle();
        bench.seen(|seen| {
            for mask in masks {
                assert!(part(&seen.last, seen.size, mask).iter().all(|colour| *colour == MASK), "{mask:?}");
            }
            let beside = part(&seen.last, seen.size, rect(499, 99, 1, 52));
            assert!(beside.iter().all(|colour| *colour == PUBLIC), "{places:?}: {beside:?}");
        });
    }
}

#[test]
fn when_the_compositor_cannot_be_told_nothing_is_shown_until_another_shield_holds() {
    let bench = bench!("fails");
    bench.terminal("public", "Public", PUBLIC, "", "read x");
    bench.until("the window", |seen| has(&seen.last, PUBLIC));
    let ipc = bench.ipc();
    let aside = ipc.with_extension("aside");
    std::fs::rename(&ipc, &aside).unwrap();
    let shield = |id: &str| {
        let app_ids = vec![id.to_owned()];
        bench.desktop().shielding().set(&Shield { app_ids, rectangles: Vec::new() })
    };
    let error = shield("secret").unwrap_err().to_string();
    assert!(error.contains("nothing of the desktop is shown"), "{error}");
    // Nor is another program taken for the compositor.
    let imposter = std::os::unix::net::UnixListener::bind(&ipc).unwrap();
    let _ = std::os::unix::fs::chown(&ipc, Some(NOBODY), Some(NOBODY));
    let error = shield("secret").unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    drop(imposter);
    bench.forget();
    bench.settle();
    bench.seen(|seen| assert!(seen.frames > 0 && seen.frames == seen.masked));
    std::fs::rename(&aside, &ipc).unwrap();
    bench.sway("[app_id=public] border none");
    bench.settle();
    bench.seen(|seen| assert_eq!(seen.frames, seen.masked));
    shield("secret").unwrap();
    bench.until("the window", |seen| has(&seen.last, PUBLIC));
    // What is not an id is refused before anybody is asked, and changes nothing.
    bench.forget();
    assert!(shield("").is_err());
    bench.settle();
    bench.seen(|seen| assert_eq!(seen.masked, 0));
}

#[test]
fn a_shield_of_nothing_costs_no_picture_and_asks_nobody() {
    let bench = bench!("nothing");
    bench.terminal("public", "Public", PUBLIC, "", "printf '\\033[?25l'; read x");
    bench.until("the window", |seen| has(&seen.last, PUBLIC));
    bench.settle();
    // Nobody could answer.
    std::fs::remove_file(bench.ipc()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    bench.forget();
    // The picture that is asked for by that wakes it, too.
    std::thread::sleep(Duration::from_millis(500));
    let wakeups = bench.desktop().wakeups();
    for _ in 0..10 {
        bench.shield(&[], &[]);
    }
    std::thread::sleep(Duration::from_millis(500));
    bench.seen(|seen| assert_eq!((seen.frames, seen.forgotten), (0, 0)));
    assert!(bench.desktop().wakeups() <= wakeups + 10);
}

#[test]
fn who_shields_a_desktop_that_ends_is_told() {
    let mut bench = bench!("ends");
    let shielding = bench.desktop().shielding();
    bench.sway("exit");
    bench.until("the end", |seen| seen.closed.is_some());
    for _ in 0..2 {
        assert!(shielding.set(&Shield { app_ids: vec!["secret".into()], rectangles: Vec::new() }).is_err());
        drop(bench.desktop.take());
    }
}

/// What a program with a menu needs of Wayland; it is this test program once more.
mod program {
    use super::SECRET;
    use std::io::Write;
    use std::os::fd::AsFd;
    use wayland_client::globals::{GlobalListContents, registry_queue_init};
    use wayland_client::protocol::{
        wl_buffer::WlBuffer, wl_compositor::WlCompositor, wl_registry::WlRegistry, wl_shm, wl_shm::WlShm,
        wl_shm_pool::WlShmPool, wl_subcompositor::WlSubcompositor, wl_subsurface::WlSubsurface,
        wl_surface::WlSurface,
    };
    use wayland_client::{Connection, Dispatch, QueueHandle, delegate_noop};
    use wayland_protocols::xdg::shell::client::{
        xdg_popup::XdgPopup, xdg_positioner::XdgPositioner, xdg_surface, xdg_surface::XdgSurface,
        xdg_toplevel, xdg_toplevel::XdgToplevel, xdg_wm_base, xdg_wm_base::XdgWmBase,
    };

    struct Program {
        buffer: WlBuffer,
    }

    /// A window, a part of it that is a surface of its own, and a menu that reaches out of it; until it is killed.
    pub(super) fn run() {
        const SIDE: usize = 200;
        let connection = Connection::connect_to_env().unwrap();
        let (globals, mut queue) = registry_queue_init::<Program>(&connection).unwrap();
        let handle = queue.handle();
        let compositor: WlCompositor = globals.bind(&handle, 1..=4, ()).unwrap();
        let subcompositor: WlSubcompositor = globals.bind(&handle, 1..=1, ()).unwrap();
        let shm: WlShm = globals.bind(&handle, 1..=1, ()).unwrap();
        let shell: XdgWmBase = globals.bind(&handle, 1..=1, ()).unwrap();
        let [r, g, b] = SECRET;
        let memory = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::empty()).unwrap();
        let mut file = std::fs::File::from(memory);
        file.write_all(&[b, g, r, 0xff].repeat(SIDE * SIDE)).unwrap();
        let pool = shm.create_pool(file.as_fd(), (SIDE * SIDE * 4) as i32, &handle, ());
        let side = SIDE as i32;
        let buffer = pool.create_buffer(0, side, side, side * 4, wl_shm::Format::Xrgb8888, &handle, ());
        let mut program = Program { buffer: buffer.clone() };

        let window = compositor.create_surface(&handle, ());
        let part = compositor.create_surface(&handle, ());
        let placed = subcompositor.get_subsurface(&part, &window, &handle, ());
        placed.set_position(50, 50);
        placed.set_desync();
        part.attach(Some(&buffer), 0, 0);
        part.commit();
        let surface = shell.get_xdg_surface(&window, &handle, window.clone());
        let toplevel = surface.get_toplevel(&handle, ());
        toplevel.set_app_id("secret".to_owned());
        toplevel.set_title("Ledger".to_owned());
        window.commit();
        queue.roundtrip(&mut program).unwrap();
        queue.roundtrip(&mut program).unwrap();

        let menu = compositor.create_surface(&handle, ());
        let place = shell.create_positioner(&handle, ());
        place.set_size(side, side);
        place.set_anchor_rect(0, 0, 150, 150);
        place.set_offset(120, 120);
        let above = shell.get_xdg_surface(&menu, &handle, menu.clone());
        above.get_popup(Some(&surface), &place, &handle, ());
        menu.commit();
        loop {
            queue.blocking_dispatch(&mut program).unwrap();
        }
    }

    impl Dispatch<XdgSurface, WlSurface> for Program {
        fn event(
            program: &mut Program,
            surface: &XdgSurface,
            event: xdg_surface::Event,
            painted: &WlSurface,
            _: &Connection,
            _: &QueueHandle<Program>,
        ) {
            if let xdg_surface::Event::Configure { serial } = event {
                surface.ack_configure(serial);
                painted.attach(Some(&program.buffer), 0, 0);
                painted.damage(0, 0, i32::MAX, i32::MAX);
                painted.commit();
            }
        }
    }

    impl Dispatch<XdgToplevel, ()> for Program {
        fn event(
            _: &mut Program,
            _: &XdgToplevel,
            event: xdg_toplevel::Event,
            (): &(),
            _: &Connection,
            _: &QueueHandle<Program>,
        ) {
            if let xdg_toplevel::Event::Close = event {
                std::process::exit(0);
            }
        }
    }

    impl Dispatch<XdgWmBase, ()> for Program {
        fn event(
            _: &mut Program,
            shell: &XdgWmBase,
            event: xdg_wm_base::Event,
            (): &(),
            _: &Connection,
            _: &QueueHandle<Program>,
        ) {
            if let xdg_wm_base::Event::Ping { serial } = event {
                shell.pong(serial);
            }
        }
    }

    impl Dispatch<WlRegistry, GlobalListContents> for Program {
        fn event(
            _: &mut Program,
            _: &WlRegistry,
            _: wayland_client::protocol::wl_registry::Event,
            _: &GlobalListContents,
            _: &Connection,
            _: &QueueHandle<Program>,
        ) {
        }
    }

    delegate_noop!(Program: WlCompositor);
    delegate_noop!(Program: WlSubcompositor);
    delegate_noop!(Program: WlSubsurface);
    delegate_noop!(Program: WlShmPool);
    delegate_noop!(Program: XdgPositioner);
    delegate_noop!(Program: ignore WlShm);
    delegate_noop!(Program: ignore WlSurface);
    delegate_noop!(Program: ignore WlBuffer);
    delegate_noop!(Program: ignore XdgPopup);
}

#[test]
fn neither_the_menu_of_a_shielded_window_shows_nor_a_part_that_is_a_surface_of_its_own() {
    const NAME: &str = "neither_the_menu_of_a_shielded_window_shows_nor_a_part_that_is_a_surface_of_its_own";
    if std::env::var_os("LUCID_TEST_PROGRAM").is_some() {
        return program::run();
    }
    let bench = bench!("menu");
    bench.terminal("public", "Public", PUBLIC, "", "read x");
    let myself = std::env::current_exe().unwrap();
    let start = format!("exec env LUCID_TEST_PROGRAM=1 {} --exact {NAME}", myself.display());
    for shielded in [true, false] {
        bench.shield(if shielded { &["secret"] } else { &[] }, &[]);
        bench.forget();
        bench.sway(&start);
        wait_until("the window", || bench.tree().contains("\"secret\""));
        bench.settle();
        bench.sway("[app_id=secret] floating enable, move position 100 100, focus");
        bench.settle();
        // Another workspace, another window, and back.
        for command in ["workspace 2", "workspace 1", "[app_id=public] focus", "[app_id=secret] focus"] {
            bench.sway(command);
            bench.settle();
        }
        bench.sway("[app_id=public] focus");
        std::thread::sleep(AFTER_SHOWN);
        bench.settle();
        bench.until("the other window", |seen| has(&seen.last, PUBLIC));
        bench.seen(|seen| {
            assert_eq!(seen.secret > 0, !shielded, "{} of {} pictures", seen.secret, seen.frames)
        });
        bench.sway("[app_id=secret] kill");
        wait_until("the end of the window", || !bench.tree().contains("\"secret\""));
    }
}
