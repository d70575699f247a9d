//! The clipboard between a real client's X server and the desktop, on this machine: `xclip` on one side, `wl-copy` and
//! `wl-paste` on the other.

pub(in crate::suites) mod files;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Mode, Target};
use crate::{
    client::{Client, Generation, Login},
    error::{At, Error, Result},
    machine, policy,
    progress::{Background, ask},
    suite::{Picks, Report},
};

/// The most that may cross in these checks, in bytes; the wire has two for each letter. Beyond 1 MiB `xclip` gives its
/// content in steps, which FreeRDP does not take.
const LIMIT: usize = 1_900_000;
/// Letters that are too many for it.
const TOO_MANY: usize = 960_000;
/// What one side offers of the other's text, as the desktop's programs call it.
const TEXT: &str = "text/plain;charset=utf-8";
/// Stands beside what came from the client.
const FROM_CLIENT: &str = "application/x-lucid-from-client";
const ASKS_CLIENT: &str = "a program pastes: the client is asked";
/// Within this a paste has come, or comes no more: FreeRDP 2 owes its programs some answers. Files take longer.
const PASTE: Duration = Duration::from_secs(10);
const REFUSED: &str = "larger than the clipboard's limit";
const ASKS_PROGRAM: &str = "the client pastes: the program is asked";

static CLIENTS: [Mode; 2] = [
    Mode {
        client: Generation::Two,
        security: "tls",
        codec: "clipboard",
        options: &["+clipboard"],
        tolerance: 2,
        size: (800, 600),
    },
    Mode {
        client: Generation::Three,
        security: "nla",
        codec: "clipboard",
        options: &["/clipboard"],
        tolerance: 2,
        size: (800, 600),
    },
];

/// Texts that a clipboard may spoil.
const TEXTS: [(&str, &str); 5] = [
    ("one byte", "x"),
    ("European scripts", "Grüße, naïve Ångström, Ελληνικά, Кириллица"),
    ("scripts from right to left", "שלום עולם, مرحبا بالعالم"),
    ("East Asian scripts", "漢字かな交じり文、한국어、ไทย"),
    ("letters outside of the first 65536, in lines", "👩‍👩‍👧‍👦\n𝔘𝔫𝔦𝔠𝔬𝔡𝔢\n\n\tend 🏳️‍🌈"),
];

/// What the checks stand on: services with some ways open, and a client.
struct Setting<'a> {
    target: &'a Target<'a>,
    runtime: &'a Path,
    dir: PathBuf,
    rdp: Background,
    client: Client,
    generation: Generation,
    /// Of the client's window.
    size: (usize, usize),
    /// What holds the selection of the X server, and of the desktop.
    holders: [Option<Background>; 2],
    count: usize,
}

/// Where something is copied or pasted.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Desktop,
}

impl Side {
    fn other(self) -> Side {
        if self == Side::Client { Side::Desktop } else { Side::Client }
    }

    fn name(self) -> &'static str {
        if self == Side::Client { "client" } else { "desktop" }
    }
}

impl<'a> Setting<'a> {
    /// `serve` gives a service for a port; `runtime` is where desktops have their sockets.
    fn start(
        target: &'a Target<'a>,
        runtime: &'a Path,
        serve: &dyn Fn(u16, &Path) -> Command,
        mode: &Mode,
        ways: &str,
    ) -> Result<Self> {
        let interrupt = target.place.interrupt;
        let name = format!("clipboard {} {ways}", mode.client.name());
        let dir = target.dir(&name);
        fs::create_dir_all(&dir).at("making", &dir)?;
        // The desktop is known by being the only one.
        interrupt.wait_for("the end of earlier desktops", target.bound, || {
            Ok(wayland(runtime)?.is_none().then_some(()))
        })?;
        let login = Login { port: machine::free_port()?, ..target.login.clone() };
        let mut table = policy::table(ways);
        table["clipboard"]["max_bytes"] = LIMIT.into();
        table["file"]["max_size_mb"] = (files::LIMIT >> 20).into();
        let mut command = serve(login.port, &policy::write(&dir, &table)?);
        command.env("LUCID_LOG", "warn,lucid_rdp=info,lucid_rdp::clipboard=debug");
        let rdp = target.service(&command, login.port, &dir)?;
        let mut client = Client::start(target.place, &dir, mode, &login, &[])?;
        client.wait_desktop(target.bound, interrupt)?;
        let generation = mode.client;
        let size = mode.size;
        Ok(Self { target, runtime, dir, rdp, client, generation, size, holders: [None, None], count: 0 })
    }

    fn command(&self, side: Side, program: &str, within: Duration) -> Result<Command> {
        match side {
            Side::Client => {
                let mut command = self.client.screen.command("timeout");
                command.args([&within.as_secs().to_string(), program]);
                Ok(command)
            }
            Side::Desktop => {
                let socket =
                    wayland(self.runtime)?.ok_or_else(|| Error::broken("the desktop has no socket"))?;
                let mut command = Command::new("timeout");
                command.args([&within.as_secs().to_string(), program]);
                command.env("WAYLAND_DISPLAY", &socket);
                command.env("XDG_RUNTIME_DIR", socket.parent().unwrap_or(self.runtime));
                Ok(command)
            }
        }
    }

    /// Copies something; the program that offers it runs until the next one on that side.
    fn copy(&mut self, side: Side, kind: &str, content: &[u8]) -> Result<()> {
        self.count += 1;
        let file = self.dir.join(format!("copied-{}", self.count));
        fs::write(&file, content).at("writing", &file)?;
        let mut command = self.command(side, "sh", self.target.bound)?;
        // No time limit for who has to stay.
        let seconds = "600";
        match side {
            Side::Client => {
                let kind = if kind == TEXT { "UTF8_STRING" } else { kind };
                command = self.client.screen.command("timeout");
                command
                    .args([seconds, "xclip", "-quiet", "-selection", "clipboard", "-t", kind, "-i"])
                    .arg(file);
            }
            Side::Desktop => {
                let script = r#"exec timeout "$1" wl-copy --foreground --type "$2" < "$3""#;
                command.args(["-c", script, "sh", seconds, kind]).arg(file);
            }
        }
        let holder = Background::start(&command, &self.dir.join("holders.log"))?;
        if let Some(slot) = self.holders.get_mut(side as usize) {
            // The former one has lost its selection and ends by itself.
            *slot = Some(holder);
        }
        Ok(())
    }

    /// The names under which something can be pasted.
    fn kinds(&self, side: Side) -> Result<Vec<String>> {
        let mut command = match side {
            Side::Client => self.command(side, "xclip", PASTE)?,
            Side::Desktop => self.command(side, "wl-paste", PASTE)?,
        };
        match side {
            Side::Client => command.args(["-o", "-selection", "clipboard", "-t", "TARGETS"]),
            Side::Desktop => command.arg("--list-types"),
        };
        // With nothing to paste they fail.
        Ok(ask(&mut command, b"")?.text().lines().map(str::to_owned).collect())
    }

    fn paste(&self, side: Side, kind: &str) -> Result<Vec<u8>> {
        // The client's files are fetched before the program that pastes them on the desktop is answered.
        let fetched = kind == files::LIST && side == Side::Desktop;
        let within = if fetched { self.target.bound } else { PASTE };
        let mut command;
        match side {
            Side::Client => {
                command = self.command(side, "xclip", within)?;
                let kind = if kind == TEXT { "UTF8_STRING" } else { kind };
                command.args(["-o", "-selection", "clipboard", "-t", kind]);
            }
            Side::Desktop => {
                command = self.command(side, "wl-paste", within)?;
                command.args(["--no-newline", "--type", kind]);
            }
        }
        Ok(ask(&mut command, b"")?.out)
    }

    /// How often the service has said something.
    fn said(&self, what: &str) -> Result<usize> {
        Ok(self.rdp.output()?.matches(what).count())
    }

    /// Waits until what `side` has copied is offered on the other side.
    fn wait_offered(&self, side: Side, kind: &str) -> Result<()> {
        let kind = match (side, kind) {
            (Side::Desktop, TEXT) => "UTF8_STRING",
            (Side::Desktop, "image/png") => "image/bmp",
            (_, kind) => kind,
        };
        let what = format!("{kind} of the {} on the other side", side.name());
        self.target.place.interrupt.wait_for(&what, self.target.bound, || {
            let kinds = self.kinds(side.other())?;
            let has = |wanted: &str| kinds.iter().any(|kind| kind == wanted);
            Ok((has(kind) && has(FROM_CLIENT) == (side == Side::Client)).then_some(()))
        })
    }

    /// Copies on one side and pastes on the other.
    fn crosses(&mut self, from: Side, kind: &str, content: &[u8]) -> Result<String> {
        self.copy(from, kind, content)?;
        self.wait_offered(from, kind)?;
        self.wait_pasted(from, kind, content)
    }

    /// Pastes what `from` has copied until it is that: FreeRDP tells of a new owner a little later.
    fn wait_pasted(&self, from: Side, kind: &str, content: &[u8]) -> Result<String> {
        let mut last = Vec::new();
        let outcome = self.target.place.interrupt.wait_for("what was copied", self.target.bound, || {
            last = self.paste(from.other(), kind)?;
            Ok((last == content).then_some(()))
        });
        match outcome {
            Ok(()) => Ok(format!("{} bytes", content.len())),
            Err(Error::Late { .. }) => {
                let same = last.iter().zip(content).take_while(|(a, b)| a == b).count();
                let (there, here) = (last.len(), content.len());
                Err(Error::broken(format!("{there} of {here} bytes came, the first {same} as copied")))
            }
            Err(other) => Err(other),
        }
    }
}

impl Drop for Setting<'_> {
    fn drop(&mut self) {
        // A killed FreeRDP 3 leaves its file system behind. Without one this fails.
        self.client.kill();
        let mount = format!("/tmp/com.freerdp.client.cliprdr.{}", self.client.id());
        let _ = ask(Command::new("umount").args(["-l", &mount]), b"");
        let _ = fs::remove_dir(mount);
    }
}

/// The socket of the only desktop that runs.
pub(in crate::suites) fn wayland(runtime: &Path) -> Result<Option<PathBuf>> {
    for desktop in fs::read_dir(runtime).at("looking for desktops in", runtime)?.flatten() {
        // It may end between the two looks.
        let Ok(entries) = fs::read_dir(desktop.path()) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_prefix("wayland-").is_some_and(|n| n.parse::<u32>().is_ok()) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// Text without order, in many scripts.
fn long_text(letters: usize) -> String {
    let mut picks = Picks::new(7);
    (0..letters)
        .map(|at| match picks.below(8) {
            _ if at % 80 == 79 => '\n',
            0 => char::from_u32(0x4e00 + picks.below(5000) as u32).unwrap_or('x'),
            1 => char::from_u32(0x0400 + picks.below(200) as u32).unwrap_or('x'),
            _ => char::from(b'a' + picks.below(26) as u8),
        })
        .collect()
}

/// Runs the checks. `serve` gives a service of this machine for a port, `runtime` is its desktops' directory.
pub(super) fn check(
    target: &Target,
    runtime: &Path,
    serve: &dyn Fn(u16, &Path) -> Command,
    report: &mut Report,
) -> Result<()> {
    const BOTH: &str = "clipboard-to-desktop,clipboard-to-client";
    for mode in &CLIENTS {
        let name = format!("{}, {}, clipboard", target.name, mode.client.name());
        let started = report.obtain(
            format!("{name}: a session with both ways open"),
            |_: &Setting| String::new(),
            || Setting::start(target, runtime, serve, mode, BOTH),
        );
        if let Some(setting) = started {
            both_ways(&name, setting, report)?;
        }
        for open in [Side::Client, Side::Desktop] {
            one_way(&name, target, runtime, serve, mode, open, report);
        }
        if report.wants(&format!("{name}, files")) {
            files::check(&name, target, runtime, serve, mode, report)?;
        }
        target.place.interrupt.check()?;
    }
    Ok(())
}

fn both_ways(name: &str, mut setting: Setting, report: &mut Report) -> Result<()> {
    for from in [Side::Client, Side::Desktop] {
        let way = format!("{name}: {} to {}", from.name(), from.other().name());
        let asks = if from == Side::Client { ASKS_CLIENT } else { ASKS_PROGRAM };
        report.check(format!("{way}: nothing crosses before somebody pastes"), || {
            let before = setting.said(asks)?;
            setting.copy(from, TEXT, b"only when it is wanted")?;
            setting.wait_offered(from, TEXT)?;
            let offered = setting.said(asks)?;
            setting.wait_pasted(from, TEXT, b"only when it is wanted")?;
            let after = setting.said(asks)?;
            if offered != before || after <= offered {
                return Err(Error::broken(format!(
                    "asked {before} times before, {offered} when it was offered, {after} when it was pasted"
                )));
            }
            Ok("")
        });
        for (what, text) in TEXTS {
            report.check(format!("{way}: {what}"), || setting.crosses(from, TEXT, text.as_bytes()));
        }
        for letters in [70_000, 700_000] {
            let text = long_text(letters);
            report
                .check(format!("{way}: {letters} letters"), || setting.crosses(from, TEXT, text.as_bytes()));
        }
        report.check(format!("{way}: more than the limit is refused, and what comes next is not"), || {
            setting.copy(from, TEXT, &vec![b'y'; TOO_MANY])?;
            setting.wait_offered(from, TEXT)?;
            let interrupt = setting.target.place.interrupt;
            let before = setting.said(REFUSED)?;
            interrupt.wait_for("the refusal in the log", setting.target.bound, || {
                let pasted = setting.paste(from.other(), TEXT)?;
                if pasted.len() >= TOO_MANY {
                    return Err(Error::broken(format!("{} bytes came", pasted.len())));
                }
                Ok((setting.said(REFUSED)? > before).then_some(()))
            })?;
            setting.crosses(from, TEXT, b"small again")
        });
    }
    report.check(format!("{name}: client to desktop: HTML"), || {
        setting.crosses(Side::Client, "text/html", "<p>Grüße <b>漢字</b></p>".as_bytes())
    });
    report.check(format!("{name}: desktop to client: HTML"), || {
        let html = "<p>Grüße <b>漢字</b></p>";
        setting.copy(Side::Desktop, "text/html", html.as_bytes())?;
        setting.wait_offered(Side::Desktop, "text/html")?;
        // FreeRDP gives the whole document, in which it stands.
        let there = setting.paste(Side::Client, "text/html")?;
        let there = String::from_utf8_lossy(&there);
        if there.contains(html) { Ok("") } else { Err(Error::broken(format!("it gave {there:?}"))) }
    });
    pictures(name, &mut setting, report);
    report.check(
        format!("{name}: client to desktop: a program that pastes at once gets all that is copied"),
        || pastes_at_once(&mut setting),
    );
    report.check(format!("{name}: nothing that was copied stands in the log"), || {
        let log = setting.rdp.output()?;
        let told =
            ["only when it is wanted", "Grüße", "small again"].iter().find(|text| log.contains(**text));
        told.map_or(Ok(""), |text| Err(Error::broken(format!("{text:?} stands in the log"))))
    });
    setting.client.must_run()
}

/// Clipboard managers paste as soon as something is offered. FreeRDP offers everything first and looks at what there is
/// then, and gets that wrong when it is asked in between.
fn pastes_at_once(setting: &mut Setting) -> Result<String> {
    const TIMES: usize = 20;
    let seen = setting.dir.join("pasted-at-once");
    fs::write(&seen, "").at("emptying", &seen)?;
    let mut watch = setting.command(Side::Desktop, "wl-paste", setting.target.bound)?;
    watch.args(["--no-newline", "--type", TEXT, "--watch", "sh", "-c", r#"cat >> "$0""#]).arg(&seen);
    let mut watch = Background::start(&watch, &setting.dir.join("watch.log"))?;
    for time in 0..TIMES {
        let text = format!("copied for the {time}. time;");
        setting.copy(Side::Client, TEXT, text.as_bytes())?;
        setting.target.place.interrupt.wait_for(&text, setting.target.bound, || {
            watch.must_run("watching the clipboard")?;
            let seen = fs::read_to_string(&seen).at("reading", &seen)?;
            Ok(seen.ends_with(&text).then_some(()))
        })?;
    }
    Ok(format!("{TIMES} times"))
}

/// A picture in which every pixel is another one. FreeRDP knows pictures as BMP.
fn pictures(name: &str, setting: &mut Setting, report: &mut Report) {
    let pixels = |bytes: &[u8]| -> Result<Vec<u8>> {
        let mut convert = Command::new("convert");
        convert.args(["-", "-depth", "8", "rgb:-"]);
        Ok(ask(&mut convert, bytes)?.out)
    };
    let make = |kind: &str| -> Result<Vec<u8>> {
        let mut convert = Command::new("convert");
        convert.args(["-seed", "7", "-size", "701x333", "plasma:", "-depth", "8", "-type", "TrueColor"]);
        Ok(ask(convert.arg(kind), b"")?.out)
    };
    for (from, copied, pasted) in [(Side::Client, "bmp", "image/png"), (Side::Desktop, "png", "image/bmp")] {
        let way = format!("{name}: {} to {}: every pixel of a picture", from.name(), from.other().name());
        report.check(way, || {
            let picture = make(&format!("{copied}:-"))?;
            let expected = pixels(&picture)?;
            setting.copy(from, &format!("image/{copied}"), &picture)?;
            setting.wait_offered(from, "image/png")?;
            let there = pixels(&setting.paste(from.other(), pasted)?)?;
            if there == expected && there.len() == 701 * 333 * 3 {
                Ok(format!("{} pixels", there.len() / 3))
            } else {
                Err(Error::broken(format!(
                    "{} bytes of pixels came, {} were expected",
                    there.len(),
                    expected.len()
                )))
            }
        });
    }
}

/// With one way open, what goes that way shows that what went the other way before has been seen and refused.
fn one_way(
    name: &str,
    target: &Target,
    runtime: &Path,
    serve: &dyn Fn(u16, &Path) -> Command,
    mode: &Mode,
    open: Side,
    report: &mut Report,
) {
    let closed = open.other();
    let (from, to) = (open.name(), closed.name());
    let named = format!("{name}: with only {from} to {to} open, nothing comes from the {to}");
    report.check(named, || {
        let mut setting = Setting::start(target, runtime, serve, mode, &format!("clipboard-to-{to}"))?;
        setting.copy(closed, TEXT, b"must stay here")?;
        target.place.interrupt.wait_for("the selection where it was made", target.bound, || {
            Ok((setting.paste(closed, TEXT)? == b"must stay here").then_some(()))
        })?;
        setting.crosses(open, TEXT, b"may pass")?;
        // What was copied first has been told by now, and its own side has been told of the second.
        let asked = if closed == Side::Client { ASKS_CLIENT } else { ASKS_PROGRAM };
        let asked = setting.said(asked)?;
        let there = setting.paste(open, TEXT)?;
        if asked > 0 || there != b"may pass" {
            return Err(Error::broken(format!("{to} was asked {asked} times for what it has")));
        }
        setting.client.must_run().map(|()| "")
    });
}
