//! What a session may do: its user accepts it before anything is shown, the device enforces exactly that, and a change holds
//! only when others approve it, for its time. With a real client, compositor and services of this machine, and on the machine
//! in QEMU ([`qemu`]).

mod qemu;
mod shield;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    Context,
    rdp::{
        clipboard::wayland,
        drives,
        sound::{Ear, Player, tones},
    },
    recording::{Tools, host::House},
};
use crate::{
    build,
    client::{Client, Generation, Mode},
    error::{At, Error, Result},
    policy::table,
    progress::{Answer, Background, ask, ask_well},
    suite::Report,
};

static MODE: Mode = Mode {
    client: Generation::Three,
    security: "nla",
    codec: "AVC420",
    options: &["/gfx:AVC420", "/clipboard"],
    tolerance: 3,
    size: (1024, 768),
};

/// With all that a client may bring.
static EVERYTHING: Mode = Mode {
    codec: "everything",
    options: &["/gfx:AVC420", "/clipboard", "/sound:sys:pulse,latency:400"],
    ..MODE
};
/// What the client calls its drive, and a file on it.
const DRIVE: &str = "papers";
const FILE: &str = "secret.txt";

/// Longer than a page is shown before it takes an answer.
const READ: Duration = Duration::from_millis(1500);
/// What passes at all has passed by then.
const SETTLED: Duration = Duration::from_millis(1500);
/// How long an approval of these checks holds.
const APPROVED: Duration = Duration::from_secs(8);

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    context.host()?;
    report.check("each gate under each profile: closed, asked for, approved, and closed again", || {
        gates(context)
    });
    let tools = Tools::make(context)?;
    if report.wants("host") {
        host(context, &tools, report)?;
    }
    qemu::check(context, &tools, report)
}

fn host(context: &Context, tools: &Tools, report: &mut Report) -> Result<()> {
    let trixie = context.tools()?;
    let Some(mut suite) = report.obtain(
        "host: the services start, with people who accept and approve",
        |_: &Suite| String::new(),
        || Suite::start(context, &trixie, tools),
    ) else {
        return Ok(());
    };
    report.check(
        "host: nothing of the desktop is shown before its user accepts, and nothing begins if he does not",
        || suite.declines(),
    );
    report.check("host: under Strict nothing passes, and each attempt is in the events", || suite.strict());
    report.check(
        "host: under Standard keys, clicks and sound pass, and nothing that is copied or on a drive does",
        || suite.standard(),
    );
    report.check(
        "host: a policy that was accepted by a key is not asked for, and no other key's receipt is taken",
        || suite.receipts(),
    );
    report.check("host: an approval by another opens one gate at once, for its time, and no longer", || {
        suite.approvals()
    });
    report.check("host: without its controller every gate is closed, and it is told when it goes on", || {
        suite.gone(Signal::KILL)
    });
    report.check("host: a controller that hangs closes every gate", || suite.gone(Signal::STOP));
    report.check("host: what is shielded is in no picture, on the screen or in the recording", || {
        shield::check(&mut suite)
    });
    Ok(())
}

/// The library's own table, which holds every decision to what it should be.
fn gates(context: &Context) -> Result<String> {
    // Built with everything else: cargo alone would build Cedar once more, with the features of this package alone.
    let mut command = Command::new(build::host_program(context.project, "examples/gates"));
    let answer = ask_well("asking every gate", &mut command, b"")?;
    let text = answer.text();
    let (table, figures) = text.trim_end().rsplit_once('\n').unwrap_or_default();
    println!("{}", table.trim_end());
    Ok(figures.to_owned())
}

/// What was refused, of events: the kind of each, and its rule or direction.
fn refused(events: &[Value]) -> Vec<String> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let refused = events.iter().filter(|event| event["outcome"] == "refused");
    refused
        .filter_map(|event| {
            let what = word(&event["data"]["rule"]).or_else(|| word(&event["data"]["direction"]))?;
            Some(format!("{} {what}", word(&event["kind"])?))
        })
        .collect()
}

struct Suite<'a> {
    house: House<'a>,
    lucidctl: PathBuf,
    screens: PathBuf,
}

fn public(lucidctl: &Path, file: &Path) -> Result<String> {
    let mut command = Command::new(lucidctl);
    let made = ask_well("making a key", command.args(["--json", "session", "new-key"]).arg(file), b"")?;
    let made: Value = serde_json::from_slice(&made.out).map_err(|error| Error::talk("lucidctl", error))?;
    Ok(made["public"].as_str().unwrap_or_default().to_owned())
}

impl<'a> Suite<'a> {
    fn start(context: &'a Context, trixie: &'a Path, tools: &'a Tools) -> Result<Self> {
        let house = House::start(context, trixie, tools)?;
        let screens = context.project.lucid.join("screens/policy");
        fs::create_dir_all(&screens).at("making", &screens)?;
        let suite = Self { house, lucidctl: tools.lucidctl.clone(), screens };
        let user = suite.house.login.user.as_str();
        suite.said(&["user", "add", "bob", "--role", "approver"])?;
        // He has the desktop as well.
        suite.said(&["user", "roles", user, "operator", "owner", "approver"])?;
        for name in [user, "bob"] {
            let key = public(&suite.lucidctl, &suite.key(name))?;
            suite.said(&["user", "key", name, "add", &key])?;
        }
        Ok(suite)
    }

    fn key(&self, name: &str) -> PathBuf {
        self.house.dir.join(format!("{name}.key"))
    }

    /// `lucidctl`, asking this controller.
    fn ask(&self, words: &[&str]) -> Result<Answer> {
        let mut command = Command::new(&self.lucidctl);
        command.arg("--json").args(words).arg("--controller").arg(self.house.socket());
        ask(&mut command, b"")
    }

    fn said(&self, words: &[&str]) -> Result<Value> {
        let answer = self.ask(words)?;
        if !answer.status.success() {
            return Err(Error::broken(format!(
                "lucidctl {}: {}{}",
                words.join(" "),
                answer.text(),
                answer.err
            )));
        }
        serde_json::from_slice(&answer.out).map_err(|error| Error::talk("lucidctl", error))
    }

    /// What was refused, in words.
    fn refused(&self, words: &[&str], why: &str) -> Result<()> {
        let answer = self.ask(words)?;
        if answer.status.success() || !answer.err.contains(why) {
            let said = format!("{}{}", answer.text(), answer.err);
            return Err(Error::broken(format!(
                "lucidctl {} said {said:?} instead of {why:?}",
                words.join(" ")
            )));
        }
        Ok(())
    }

    fn client(&self, name: &str) -> Result<Client> {
        let dir = self.house.dir.join(format!("client-{name}"));
        Client::start(self.house.place, &dir, &MODE, &self.house.login, &[])
    }

    /// A client whose user has accepted, when the desktop is there.
    fn session(&self, name: &str) -> Result<Client> {
        let mut client = self.client(name)?;
        client.wait_desktop(self.house.bound, self.house.place.interrupt)?;
        client.screen.point_to_the_middle()?;
        Ok(client)
    }

    /// A program beside the desktop's own, on its compositor.
    fn on_desktop(&self, program: &str) -> Result<Command> {
        let runtime = self.house.dir.join("runtime");
        let socket = wayland(&runtime)?.ok_or_else(|| Error::broken("the desktop has no socket"))?;
        let mut command = Command::new("timeout");
        command.args(["10", program]).env("WAYLAND_DISPLAY", &socket);
        command.env("XDG_RUNTIME_DIR", socket.parent().unwrap_or(&runtime));
        Ok(command)
    }

    /// Copies on the desktop, until what is given back is dropped.
    fn copies(&self, text: &str) -> Result<Background> {
        let file = self.house.dir.join("copied-on-desktop");
        fs::write(&file, text).at("writing", &file)?;
        let mut command = self.on_desktop("sh")?;
        command.args([
            "-c",
            r#"exec timeout 60 wl-copy --foreground --type "text/plain;charset=utf-8" < "$1""#,
            "sh",
        ]);
        let holder = Background::start(command.arg(&file), &self.house.dir.join("wl-copy.log"))?;
        thread::sleep(SETTLED);
        Ok(holder)
    }

    /// What the client pastes.
    fn pasted_at(&self, client: &Client) -> Result<String> {
        let mut command = client.screen.command("timeout");
        command.args(["10", "xclip", "-o", "-selection", "clipboard", "-t", "UTF8_STRING"]);
        Ok(ask(&mut command, b"")?.text())
    }

    fn made(&self, name: &str) -> bool {
        self.house.dir.join("home").join(name).exists()
    }

    fn type_line(client: &Client, line: &str) -> Result<()> {
        client.screen.type_text(line)?;
        client.screen.key("Return")?;
        thread::sleep(SETTLED);
        Ok(())
    }

    /// The session that runs, as `lucidctl` names it.
    fn running(&self) -> Result<String> {
        let only = self.house.only()?;
        Ok(only.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// What was refused, in the events of the only recording.
    fn refusals(&self) -> Result<Vec<String>> {
        self.house.proved()?;
        let (_, _, lines) = self.house.export(&self.house.only()?)?;
        Ok(refused(&lines))
    }

    fn declines(&mut self) -> Result<String> {
        self.house.forget()?;
        self.house.restart(table(""))?;
        let mut client = self.client("declines")?;
        let picture = client.wait_picture(
            "the page that asks",
            self.house.bound,
            self.house.place.interrupt,
            |picture| Ok(picture.asks().then(|| picture.clone())),
        )?;
        let screen = self.screens.join("asks.ppm");
        picture.save(&screen)?;
        thread::sleep(READ);
        if !self.house.all()?.is_empty() {
            return Err(Error::broken("a recording began before anybody accepted"));
        }
        client.screen.key("Escape")?;
        let began = Instant::now();
        if !client.ends_within(self.house.bound)? {
            return Err(Error::broken("who declines stays connected"));
        }
        if !self.house.all()?.is_empty() {
            return Err(Error::broken("who declines has a recording"));
        }
        Ok(format!("told why for {:.1} s; {}", began.elapsed().as_secs_f64(), screen.display()))
    }

    /// A client that has everything, and what hears what it plays; it shares [`FILE`].
    fn everything(&self, name: &str) -> Result<(Client, Ear, PathBuf)> {
        let House { place, bound, login, .. } = &self.house;
        let dir = self.house.dir.join(format!("client-{name}"));
        let shared = dir.join("shared");
        fs::create_dir_all(&shared).at("making", &shared)?;
        let file = shared.join(FILE);
        fs::write(&file, "secret of the client's drive").at("writing", &file)?;
        let ear = Ear::start(place.interrupt, *bound, &dir)?;
        let mut command = EVERYTHING.client.command(place)?;
        command.env("PULSE_SERVER", &ear.socket);
        let drive = format!("/drive:{DRIVE},{}", shared.display());
        let mut client =
            Client::start_command(command, *place, &dir, &EVERYTHING, login, "127.0.0.1", &[&drive])?;
        client.wait_desktop(*bound, place.interrupt)?;
        client.screen.point_to_the_middle()?;
        Ok((client, ear, shared))
    }

    /// Plays in the desktop, until that is done.
    fn plays(&self) -> Result<()> {
        let wav = self.house.dir.join("home/tones.wav");
        fs::write(&wav, tones()).at("writing", &wav)?;
        let mut command = self.on_desktop("sh")?;
        command.args(["-c", &self.house.sound.play(Player::PipeWire, &wav)]);
        ask_well("playing in the desktop", &mut command, b"")?;
        thread::sleep(SETTLED);
        Ok(())
    }

    /// Whether a program of the desktop can read, or write, on the client's drive.
    fn uses_drive(&self, shared: &Path) -> Result<[bool; 2]> {
        let folder = drives::folder(&self.house.dir.join("home"))
            .ok_or_else(|| Error::broken("the desktop has no folder for drives"))?;
        let drive = folder.join(DRIVE);
        let mut read = Command::new("timeout");
        let read = ask(read.args(["10", "cat"]).arg(drive.join(FILE)), b"")?;
        let mut write = Command::new("timeout");
        ask(write.args(["10", "cp", "/etc/hostname"]).arg(drive.join("made")), b"")?;
        Ok([read.text().contains("secret"), shared.join("made").exists()])
    }

    fn strict(&mut self) -> Result<String> {
        drives::possible()?;
        self.house.forget()?;
        self.house.restart(json!({}))?;
        let (mut client, ear, shared) = self.everything("strict")?;
        let holder = self.copies("secret of the desktop")?;
        Self::type_line(&client, "touch typed-under-strict")?;
        let told = self.told_why(&mut client, "refused")?;
        client.screen.click("1")?;
        let pasted = self.pasted_at(&client)?;
        let mut copy = client.screen.command("timeout");
        copy.args(["20", "xclip", "-quiet", "-selection", "clipboard", "-t", "UTF8_STRING", "-i"]);
        let file = self.house.dir.join("copied-at-client");
        fs::write(&file, "secret of the client").at("writing", &file)?;
        let _copied = Background::start(copy.arg(&file), &self.house.dir.join("xclip.log"))?;
        thread::sleep(SETTLED);
        drop(holder);
        let mut paste = self.on_desktop("wl-paste")?;
        let there = ask(paste.arg("-n"), b"")?.text();
        let [reads, writes] = self.uses_drive(&shared)?;
        self.plays()?;
        for (what, passed) in [
            ("a file of the client's drive", reads),
            ("a file to the client's drive", writes),
            ("sound", !ear.heard(0)?.is_silent()),
            ("a key", self.made("typed-under-strict")),
            ("a paste at the client", pasted.contains("secret")),
            ("a paste on the desktop", there.contains("secret")),
        ] {
            if passed {
                return Err(Error::broken(format!("{what} passed under Strict")));
            }
        }
        let session = self.running()?;
        self.said(&["session", "end", &session, "--message", "enough"])?;
        drop(client);
        let refused = self.refusals()?;
        for attempt in [
            "violation input.kb_enabled",
            "violation input.mouse_enabled",
            "violation system.audio_out",
            "clipboard to_client",
            "clipboard to_desktop",
            "file to_desktop",
        ] {
            if !refused.iter().any(|told| told == attempt) {
                return Err(Error::broken(format!("no event tells of {attempt}, but of {refused:?}")));
            }
        }
        Ok(format!("{} attempts in the events; {told}", refused.len()))
    }

    /// Why something did not happen stands over the desktop, for a while.
    fn told_why(&self, client: &mut Client, name: &str) -> Result<String> {
        let House { place, bound, .. } = &self.house;
        let mut notice = |what: &str, is_there: bool| {
            client.wait_picture(what, *bound, place.interrupt, |picture| {
                Ok((picture.has_notice() == is_there).then(|| picture.clone()))
            })
        };
        let screen = self.screens.join(format!("{name}.ppm"));
        notice("why nothing happened", true)?.save(&screen)?;
        notice("the desktop without why", false)?;
        Ok(format!("told why for a while: {}", screen.display()))
    }

    fn standard(&mut self) -> Result<String> {
        self.house.forget()?;
        let mut standard = table("sound-to-client");
        standard["input"]["kb_blocklist"] = json!(["PrintScreen"]);
        self.house.restart(standard)?;
        let (client, ear, shared) = self.everything("standard")?;
        Self::type_line(&client, "touch typed-under-standard")?;
        let _holder = self.copies("secret of the desktop")?;
        let pasted = self.pasted_at(&client)?;
        if !self.made("typed-under-standard") || pasted.contains("secret") {
            return Err(Error::broken("typing did not pass, or a paste did"));
        }
        if self.uses_drive(&shared)? != [false, false] {
            return Err(Error::broken("the client's drive could be used"));
        }
        self.plays()?;
        let heard = ear.heard(0)?.tones()?;
        self.house.log_off(client)?;
        let refused = self.refusals()?;
        if refused.iter().any(|told| told.contains("input.") || told.contains("audio")) {
            return Err(Error::broken(format!("what is allowed is told as refused: {refused:?}")));
        }
        Ok(heard)
    }

    fn receipts(&mut self) -> Result<String> {
        self.house.forget()?;
        self.house.restart(table(""))?;
        let user = self.house.login.user.clone();
        let (own, bobs) = (self.key(&user), self.key("bob"));
        let accept = |key: &Path| {
            let key = key.to_string_lossy().into_owned();
            [
                "session".to_owned(),
                "accept".into(),
                "--yes".into(),
                "--user".into(),
                user.clone(),
                "--key".into(),
                key,
            ]
        };
        let words = accept(&bobs);
        self.refused(&words.each_ref().map(String::as_str), "none of this user's")?;
        let words = accept(&own);
        let accepted = self.said(&words.each_ref().map(String::as_str))?;
        let mut client = self.client("receipts")?;
        let asked =
            client.wait_picture("a desktop", self.house.bound, self.house.place.interrupt, |picture| {
                Ok((picture.asks() || picture.has_prompt()).then(|| picture.asks()))
            })?;
        if asked {
            return Err(Error::broken("who has accepted by his key is asked again"));
        }
        let session = self.running()?;
        if accepted["session"] != session.as_str() {
            return Err(Error::broken(format!(
                "another session began than was accepted: {session}, {accepted}"
            )));
        }
        self.house.log_off(client)?;
        self.house.proved()?;
        Ok(session)
    }

    fn approvals(&mut self) -> Result<String> {
        const CHANGE: &str = "clipboard.host_to_remote=true";
        self.house.forget()?;
        self.house.restart(table(""))?;
        let user = self.house.login.user.clone();
        let client = self.session("approvals")?;
        let holder = self.copies("a number: 4711")?;
        let pastes = |suite: &Self| Ok::<_, Error>(suite.pasted_at(&client)?.contains("4711"));
        if pastes(self)? {
            return Err(Error::broken("a paste passed before anybody approved it"));
        }
        let session = self.running()?;
        let (own, bobs) = (self.key(&user), self.key("bob"));
        let (own, bobs) = (own.to_string_lossy(), bobs.to_string_lossy());
        let span = format!("{}s", APPROVED.as_secs());
        let request = |by: &str, key: &str| {
            let words = [
                "approve", "request", &session, CHANGE, "--reason", "a number", "--as", by, "--key", key,
                "--for",
            ];
            words.iter().map(|word| (*word).to_owned()).chain([span.clone()]).collect::<Vec<_>>()
        };
        let words = request(&user, &bobs);
        self.refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), "none of the requester's")?;
        let words = request(&user, &own);
        let asked = self.said(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let number = asked["number"].to_string();
        let decide = |by, key| ["approve", "decide", &session, &number, "--yes", "--as", by, "--key", key];
        self.refused(&decide(&user, &own), "asked for himself")?;
        if pastes(self)? {
            return Err(Error::broken("what was asked for passes before it is approved"));
        }
        let decided = self.said(&decide("bob", &bobs))?;
        let began = Instant::now();
        if decided["seconds"] != APPROVED.as_secs() {
            return Err(Error::broken(format!("the decision is not in effect: {decided}")));
        }
        self.house
            .place
            .interrupt
            .wait_for("what was approved", self.house.bound, || Ok(pastes(self)?.then_some(())))?;
        let opened = began.elapsed();
        if opened > APPROVED {
            return Err(Error::broken("it passed only after its time"));
        }
        self.refused(&decide("bob", &bobs), "no request")?;
        thread::sleep((APPROVED + SETTLED).saturating_sub(began.elapsed()));
        // What the client has pasted it may keep: another text is copied.
        drop(holder);
        let _other = self.copies("another number: 4712")?;
        let late = self.pasted_at(&client)?;
        if late.contains("4712") {
            return Err(Error::broken("a paste passed after the approval's time"));
        }
        self.house.log_off(client)?;
        self.house.proved()?;
        let (_, _, lines) = self.house.export(&self.house.only()?)?;
        let told = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
        let (requests, approvals, lapses) = (told("request"), told("approve"), told("lapse"));
        if (requests, approvals, lapses) != (1, 1, 1) {
            return Err(Error::broken(format!(
                "{requests} requests, {approvals} approvals, {lapses} ends are told"
            )));
        }
        self.evidence()?;
        Ok(format!("pasted {} ms after the approval, with what asking takes", opened.as_millis()))
    }

    /// Years later: who accepted what, and who changed it; and that each of these files is held to its signatures.
    fn evidence(&self) -> Result<()> {
        let recording = self.house.only()?;
        let look = |dir: &Path| {
            let mut command = Command::new(&self.lucidctl);
            let answer = ask(command.args(["--json", "recording", "policy"]).arg(dir), b"")?;
            let said: Value =
                serde_json::from_slice(&answer.out).map_err(|error| Error::talk("lucidctl", error))?;
            Ok::<_, Error>((answer.status.success(), said))
        };
        let (holds, said) = look(&recording)?;
        if !holds
            || said["changes"].as_array().map_or(0, Vec::len) != 2
            || said["consent"]["accepted"] != "screen"
        {
            return Err(Error::broken(format!("what was accepted and approved does not hold: {said}")));
        }
        let changed = self.house.dir.join("changed");
        for (file, from, to) in [
            ("approvals.jsonl", "\"seconds\":8", "\"seconds\":9"),
            ("approvals.jsonl", "\"verdict\":\"allow\"", "\"verdict\":\"deny\""),
            ("consent.json", "\"accepted\":\"screen\"", "\"accepted\":\"signature\""),
            ("snapshot.json", "\"host_to_remote\":false", "\"host_to_remote\":true"),
        ] {
            ask_well("emptying", Command::new("rm").arg("-rf").arg(&changed), b"")?;
            ask_well("copying", Command::new("cp").arg("-r").arg(&recording).arg(&changed), b"")?;
            let path = changed.join(file);
            let text = fs::read_to_string(&path).at("reading", &path)?;
            fs::write(&path, text.replacen(from, to, 1)).at("writing", &path)?;
            let (holds, said) = look(&changed)?;
            if holds || text == fs::read_to_string(&path).at("reading", &path)? {
                return Err(Error::broken(format!("a change of {file} is not found: {said}")));
            }
        }
        Ok(())
    }

    /// The controller goes away, or hangs, and comes back.
    fn gone(&mut self, signal: Signal) -> Result<String> {
        self.house.forget()?;
        self.house.restart(table(""))?;
        let hangs = signal == Signal::STOP;
        let name = if hangs { "hangs" } else { "gone" };
        let client = self.session(name)?;
        let before = format!("{name}-before");
        Self::type_line(&client, &format!("touch {before}"))?;
        let Some(controller) = &self.house.recorder else { return Err(Error::broken("no controller runs")) };
        let pid = i32::try_from(controller.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::broken("the controller has no process"))?;
        let send = |signal| kill_process(pid, signal).map_err(|error| Error::broken(error.to_string()));
        send(signal)?;
        // Whoever hangs is believed for as long as what he said last holds.
        thread::sleep(if hangs { Duration::from_secs(8) } else { SETTLED });
        let during = format!("{name}-during");
        Self::type_line(&client, &format!("touch {during}"))?;
        if hangs {
            send(Signal::CONT)?;
        } else {
            drop(self.house.recorder.take());
            self.house.start_recorder()?;
        }
        let after = format!("{name}-after");
        self.house.place.interrupt.wait_for("that keys pass again", self.house.bound, || {
            Self::type_line(&client, &format!("touch {after}"))?;
            Ok(self.made(&after).then_some(()))
        })?;
        if !self.made(&before) || self.made(&during) {
            return Err(Error::broken(
                "what was typed without a controller arrived, or what was typed before did not",
            ));
        }
        self.house.log_off(client)?;
        self.house.proved()?;
        Ok(String::new())
    }
}
