//! Sessions of real clients on this machine, recorded: what was shown is what is played, what crossed is told
//! ([`crossing`]), and whatever dies, what there is of the recording holds ([`kills`]).

mod crossing;
mod kills;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::{Tools, agree, must};
use crate::{
    build,
    client::{Client, Generation, Login, Mode, Picture, Place, foreign_wrapper},
    error::{At, Error, Result},
    machine, policy,
    progress::{Background, ask_well},
    suite::Report,
    suites::{Context, rdp},
};

/// What may cross beside pictures and input.
const WAYS: &str = "clipboard-to-desktop";
/// The longest that a session is taken up again after.
const RESUME_FOR: &str = "3s";
/// What is on the screen is in the recording no later than this.
const SETTLED: Duration = Duration::from_millis(1500);

/// The clients whose sessions are recorded: with H.264, exactly, and without the graphics pipeline.
static MODES: [Mode; 4] = [
    Mode {
        client: Generation::Three,
        security: "nla",
        codec: "AVC420",
        options: &["/gfx:AVC420"],
        tolerance: 2,
        size: (1280, 720),
    },
    Mode {
        client: Generation::Two,
        security: "tls",
        codec: "AVC420, odd size",
        options: &["/gfx-h264:AVC420"],
        tolerance: 2,
        size: (1366, 766),
    },
    Mode {
        client: Generation::Two,
        security: "tls",
        codec: "RemoteFX",
        options: &["/rfx"],
        tolerance: 2,
        size: (1024, 768),
    },
    Mode {
        client: Generation::Two,
        security: "tls",
        codec: "no codec asked for",
        options: &[],
        tolerance: 2,
        size: (1024, 768),
    },
];

/// Green, and white: whether the range of the colours is full.
const COLOURS: [[u8; 3]; 2] = [[0x2a, 0x7f, 0x3c], [0xff, 0xff, 0xff]];

/// The services of a check.
pub(in crate::suites) struct House<'a> {
    tools: &'a Tools,
    pub(in crate::suites) place: Place<'a>,
    pub(in crate::suites) dir: PathBuf,
    pub(in crate::suites) login: Login,
    /// The file with the owner's key, and its public half.
    owner: PathBuf,
    public: String,
    pub(in crate::suites) sound: rdp::sound::Programs,
    desktop: Option<Background>,
    pub(in crate::suites) recorder: Option<Background>,
    rdp: Option<Background>,
    /// What its sessions may do.
    pub(in crate::suites) policy: Value,
    pub(in crate::suites) bound: Duration,
}

/// Runs the checks.
pub(super) fn check(context: &Context, tools: &Tools, report: &mut Report) -> Result<()> {
    let trixie = context.tools()?;
    let Some(mut house) = report.obtain(
        "host: the recorder, a desktop and the RDP host start",
        |_: &House| String::new(),
        || House::start(context, &trixie, tools),
    ) else {
        return Ok(());
    };
    for mode in &MODES {
        report.check(format!("host, {}: the recording shows what the client showed", mode.name()), || {
            house.shows(mode)
        });
        context.steps.interrupt.check()?;
    }
    report.check(
        "host: the events say what was done and pasted, and not what was typed; the film shows it",
        || house.tells(),
    );
    report.check("host: without its recorder no session begins, and one that runs waits for it", || {
        house.waits()
    });
    report.check("host: an RDP host that stops in order leaves no gap", || house.stops());
    report.check("host: a session's sound, drives and pasted files are in its recording", || house.crosses());
    kills::check(&mut house, report)?;
    report.check("host: the services have not panicked", || house.calm());
    Ok(())
}

impl<'a> House<'a> {
    pub(in crate::suites) fn start(context: &'a Context, trixie: &'a Path, tools: &'a Tools) -> Result<Self> {
        let Context { project, steps, .. } = context;
        let dir = tools.work.join("host");
        for folder in ["state", "run", "home", "runtime", "recorder", "recorder-run"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).at("making", &folder)?;
        }
        rdp::set_private(&dir.join("runtime"))?;
        let login = Login {
            port: machine::free_port()?,
            user: "tester".to_owned(),
            password: Some("Quiet-Otter-58".to_owned()),
        };
        login.write_account(&dir.join("account.json"))?;
        let owner = dir.join("owner.key");
        let public = tools.owner_key(&owner)?;
        let sound = rdp::sound::Programs::write(project, trixie, &dir)?;
        let place = Place { project, tools: trixie, interrupt: &steps.interrupt };
        let bound = Duration::from_secs(30);
        let mut house = Self {
            tools,
            place,
            dir,
            login,
            owner,
            public,
            sound,
            desktop: None,
            recorder: None,
            rdp: None,
            policy: policy::table(WAYS),
            bound,
        };
        house.start_desktop()?;
        house.start_recorder()?;
        house.start_rdp()?;
        Ok(house)
    }

    pub(in crate::suites) fn socket(&self) -> PathBuf {
        self.dir.join("recorder-run/recorder.sock")
    }

    fn recordings(&self) -> PathBuf {
        self.dir.join("recorder/recordings")
    }

    fn start_desktop(&mut self) -> Result<()> {
        let (dir, Place { project, tools, interrupt }) = (&self.dir, self.place);
        let socket = dir.join("desktop.sock");
        // That of one which was killed says nothing of this one.
        if socket.exists() {
            fs::remove_file(&socket).at("removing", &socket)?;
        }
        let mut command = Command::new(build::host_program(project, "lucid-desktop"));
        command.arg("--listen").arg(&socket).arg("--home").arg(dir.join("home"));
        command.arg("--runtime").arg(dir.join("runtime"));
        command.arg("--sway").arg(foreign_wrapper(project, tools, "usr/bin/sway", &dir.join("sway"))?);
        command.arg("--sway-config").arg(rdp::sway_config(project, dir)?);
        command.arg("--pipewire").arg(&self.sound.pipewire).arg("--wireplumber").arg(&self.sound.wireplumber);
        let mut desktop = Background::start(&command, &dir.join("lucid-desktop.log"))?;
        interrupt.wait_for("the desktops' socket", self.bound, || {
            desktop.must_run("serving desktops")?;
            Ok(socket.exists().then_some(()))
        })?;
        self.desktop = Some(desktop);
        Ok(())
    }

    pub(in crate::suites) fn start_recorder(&mut self) -> Result<()> {
        let mut recorder = self.spawn_recorder()?;
        let socket = self.socket();
        self.place.interrupt.wait_for("the recorder", self.bound, || {
            recorder.must_run("recording")?;
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(()))
        })?;
        self.recorder = Some(recorder);
        Ok(())
    }

    /// Starts it and waits for nothing.
    fn spawn_recorder(&self) -> Result<Background> {
        let mut command = Command::new(build::host_program(self.place.project, "lucid-sessiond"));
        command.arg("--state").arg(self.dir.join("recorder")).arg("--run").arg(self.dir.join("recorder-run"));
        command.args(["--owner", &self.public, "--resume-for", RESUME_FOR]);
        command.arg("--policy").arg(policy::write(&self.dir, &self.policy)?);
        command.arg("--accounts").arg(self.dir.join("account.json"));
        Background::start(&command, &self.dir.join("lucid-sessiond.log"))
    }

    fn start_rdp(&mut self) -> Result<()> {
        let dir = &self.dir;
        let mut command = Command::new(build::host_program(self.place.project, "lucid-rdp"));
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.login.port));
        command.arg("--state").arg(dir.join("state")).arg("--run").arg(dir.join("run"));
        command.arg("--desktop").arg(dir.join("desktop.sock")).arg("--controller").arg(self.socket());
        let mut service = Background::start(&command, &dir.join("lucid-rdp.log"))?;
        let port = self.login.port;
        self.place.interrupt.wait_for("the RDP host", self.bound, || {
            service.must_run("serving RDP")?;
            Ok(machine::answers(port).is_ok().then_some(()))
        })?;
        self.rdp = Some(service);
        Ok(())
    }

    /// Both services anew, under another policy.
    pub(in crate::suites) fn restart(&mut self, policy: Value) -> Result<()> {
        self.policy = policy;
        drop(self.rdp.take());
        drop(self.recorder.take());
        self.start_recorder()?;
        self.start_rdp()
    }

    pub(in crate::suites) fn session(&self, name: &str, mode: &Mode) -> Result<Client> {
        let dir = self.dir.join(format!("client-{name}"));
        let mut client = Client::start(self.place, &dir, mode, &self.login, &[])?;
        client.wait_desktop(self.bound, self.place.interrupt)?;
        client.screen.point_to_the_middle()?;
        // Over the compositor's title bar: Super+F is its key for that.
        client.screen.key("super+f")?;
        Ok(client)
    }

    /// The one recording that is there, when no session runs; a check begins with none.
    pub(in crate::suites) fn only(&self) -> Result<PathBuf> {
        let all = self.all()?;
        match all.as_slice() {
            [one] => Ok(one.clone()),
            all => Err(Error::broken(format!("{} recordings instead of one: {all:?}", all.len()))),
        }
    }

    pub(in crate::suites) fn all(&self) -> Result<Vec<PathBuf>> {
        let dir = self.recordings();
        let mut all = Vec::new();
        for entry in fs::read_dir(&dir).at("reading", &dir)? {
            all.push(entry.at("reading", &dir)?.path());
        }
        Ok(all)
    }

    /// Waits until every recording has its end, has both verifiers say that all of it is proved, with every record opened,
    /// and gives what one of them said.
    pub(in crate::suites) fn proved(&self) -> Result<Vec<Value>> {
        let all = self.all()?;
        self.place.interrupt.wait_for("the end of the recordings", self.bound, || {
            Ok(all.iter().all(|dir| dir.join("manifest.json").exists()).then_some(()))
        })?;
        let key = self.owner.to_string_lossy();
        let mut reports = Vec::new();
        for (ours, theirs) in self.tools.verify(&all, &["--key", &key])? {
            agree("a session's recording", &ours, &theirs)?;
            must("its verdict", &ours.report["verdict"], &Value::from("sound"))?;
            reports.push(ours.report);
        }
        Ok(reports)
    }

    pub(in crate::suites) fn forget(&self) -> Result<()> {
        for dir in self.all()? {
            fs::remove_dir_all(&dir).at("removing", &dir)?;
        }
        Ok(())
    }

    fn shows(&mut self, mode: &Mode) -> Result<String> {
        self.forget()?;
        let mut client = self.session("shows", mode)?;
        let mut moments = Vec::new();
        for colour in COLOURS {
            let [r, g, b] = colour;
            // Background by OSC 11, cursor off, screen cleared; `read` keeps the prompt away.
            client
                .screen
                .type_text(&format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H';read"))?;
            client.screen.key("Return")?;
            client.wait_colour(colour, mode.tolerance, self.bound, self.place.interrupt)?;
            // It is sent as H.264 at first, and made exact soon after.
            thread::sleep(SETTLED);
            moments.push((wall_ms()?, colour));
            client.screen.key("Return")?;
            client.screen.type_text(r"printf '\e]111\a\e[?25h';clear")?;
            client.screen.key("Return")?;
            client.wait_desktop(self.bound, self.place.interrupt)?;
        }
        self.log_off(client)?;
        let reports = self.proved()?;
        let recording = self.only()?;
        let began = began_ms(&recording)?;
        let mut farthest = 0;
        for (at, colour) in moments {
            let at = Duration::from_millis(at.saturating_sub(began));
            let picture = self.tools.picture(&self.owner, &recording, Some(at))?;
            farthest = farthest.max(picture.farthest(colour));
        }
        let records = &reports[0]["opened"]["records"];
        if farthest > 3 {
            return Err(Error::broken(format!("the farthest pixel is off by {farthest} of 255")));
        }
        Ok(format!("{records} records, farthest pixel off by {farthest} of 255"))
    }

    fn tells(&mut self) -> Result<String> {
        const PASTED: &str = "Ein Satz, der eingefügt wird: 4711, ελληνικά.";
        const TYPED: &str = "marsh-harrier-83";
        const COLOUR: [u8; 3] = [0x0b, 0x3d, 0x91];
        self.forget()?;
        let mode = Mode { options: &["/gfx-h264:AVC420", "+clipboard"], size: (1280, 720), ..MODES[1] };
        let mut client = self.session("tells", &mode)?;
        let text = self.dir.join("pasted.txt");
        fs::write(&text, PASTED).at("writing", &text)?;
        let mut copy = client.screen.command("timeout");
        copy.args(["60", "xclip", "-quiet", "-selection", "clipboard", "-t", "UTF8_STRING", "-i"]).arg(&text);
        let _holder = Background::start(&copy, &self.dir.join("xclip.log"))?;
        client.screen.type_text(&format!("echo {TYPED} >typed"))?;
        client.screen.key("Return")?;
        let home = self.dir.join("home");
        self.place.interrupt.wait_for("what is pasted", self.bound, || {
            // A client that was asked too soon owes its answer.
            client.screen.type_text("timeout 3 wl-paste -n >pasted")?;
            client.screen.key("Return")?;
            thread::sleep(Duration::from_secs(1));
            Ok((content(&home, "pasted").is_some_and(|found| found == PASTED)).then_some(()))
        })?;
        let [r, g, b] = COLOUR;
        client.screen.type_text(&format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H';read"))?;
        client.screen.key("Return")?;
        client.wait_colour(COLOUR, mode.tolerance, self.bound, self.place.interrupt)?;
        thread::sleep(SETTLED);
        let at = wall_ms()?;
        thread::sleep(SETTLED);
        client.screen.key("Return")?;
        self.log_off(client)?;
        self.proved()?;

        let recording = self.only()?;
        let (film, text, lines) = self.export(&recording)?;
        for secret in [TYPED, PASTED, "4711"] {
            must("what was typed or pasted is in the events", text.contains(secret), false)?;
        }
        let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
        for kind in ["connect", "authenticate", "focus", "input", "clipboard", "disconnect", "end"] {
            must(&format!("events of the kind {kind}"), of(kind).is_empty(), false)?;
        }
        let focus = of("focus").iter().any(|line| line["data"]["app_id"] == "foot");
        must("the terminal had the focus", focus, true)?;
        let hash = blake3::hash(PASTED.as_bytes()).to_hex().to_string();
        let pasted = of("clipboard").iter().any(|line| {
            let data = &line["data"];
            data["direction"] == "to_desktop"
                && data["bytes"] == PASTED.len()
                && data["hash"] == hash.as_str()
        });
        must("what was pasted is told with its size and hash", pasted, true)?;
        let letters: u64 =
            of("input").iter().filter_map(|line| line["data"]["keys"]["letters"].as_u64()).sum();
        must("as many letters were typed at least", letters >= 15, true)?;

        let seconds = at.saturating_sub(began_ms(&recording)?) as f64 / 1000.0;
        let (shown, picture) = (self.dir.join("film.ppm"), format!("fps=4,trim=start={seconds:.3}"));
        let mut decode = Command::new("ffmpeg");
        decode.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(&film).args(["-vf", &picture]);
        ask_well("decoding the film", decode.args(["-frames:v", "1"]).arg(&shown), b"")?;
        let farthest = Picture::read_ppm(&shown)?.farthest(COLOUR);
        if farthest > 6 {
            return Err(Error::broken(format!(
                "the film's farthest pixel at {seconds} s is off by {farthest} of 255"
            )));
        }
        Ok(format!(
            "{} events, {letters} letters; the film's farthest pixel off by {farthest} of 255",
            lines.len()
        ))
    }

    /// A recording as a film, and its events: as a text, and each.
    pub(in crate::suites) fn export(&self, recording: &Path) -> Result<(PathBuf, String, Vec<Value>)> {
        let (film, events) = (self.dir.join("film.mp4"), self.dir.join("film.jsonl"));
        let mut export = self.tools.lucidctl(["export", "--force", "--key"]);
        export.arg(&self.owner).arg("--mp4").arg(&film).arg("--events").arg(&events).arg(recording);
        ask_well("exporting a recording", &mut export, b"")?;
        let text = fs::read_to_string(&events).at("reading", &events)?;
        let lines = text
            .lines()
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::talk("lucidctl recording export", error))?;
        Ok((film, text, lines))
    }

    pub(in crate::suites) fn log_off(&self, client: Client) -> Result<()> {
        client.screen.type_text("swaymsg exit")?;
        client.screen.key("Return")?;
        client.wait_end(self.bound, self.place.interrupt).map(drop)
    }

    fn waits(&mut self) -> Result<String> {
        self.forget()?;
        let client = self.session("waits", &MODES[0])?;
        thread::sleep(SETTLED);
        if let Some(mut recorder) = self.recorder.take() {
            recorder.kill();
        }
        // Typed while nobody records: it does nothing, now and later.
        thread::sleep(Duration::from_millis(500));
        client.screen.type_text("touch was-typed-unrecorded\n")?;
        thread::sleep(Duration::from_secs(1));
        self.start_recorder()?;
        let marker = self.dir.join("home");
        self.place.interrupt.wait_for("the session to go on", self.bound, || {
            client.screen.type_text("touch goes-on")?;
            client.screen.key("Return")?;
            thread::sleep(Duration::from_millis(300));
            Ok(content(&marker, "goes-on").is_some().then_some(()))
        })?;
        must(
            "what was typed unrecorded has happened",
            content(&marker, "was-typed-unrecorded").is_some(),
            false,
        )?;
        self.log_off(client)?;
        let reports = self.proved()?;
        let gaps = reports[0]["gaps"].as_array().map_or(0, Vec::len);
        must("gaps", gaps, 1)?;

        if let Some(mut recorder) = self.recorder.take() {
            recorder.kill();
        }
        let refused =
            Client::start(self.place, &self.dir.join("client-refused"), &MODES[1], &self.login, &[])?;
        let ending = refused.wait_end(self.bound, self.place.interrupt)?;
        self.start_recorder()?;
        if ending.status.success() {
            return Err(Error::broken(format!("a client came in unrecorded: {}", ending.describe())));
        }
        // Nothing is left of that.
        self.forget()?;
        self.log_off(self.session("let-in", &MODES[0])?)?;
        self.proved()?;
        Ok("one gap, which both verifiers name".to_owned())
    }

    fn stops(&mut self) -> Result<String> {
        self.forget()?;
        // One with its client, and one whose client has gone; the second client is the same user's.
        for gone in [false, true] {
            let mut client = self.session("stops", &MODES[0])?;
            if gone {
                client.kill();
            }
            drop(self.rdp.take());
            self.start_rdp()?;
        }
        let reports = self.proved()?;
        must("recordings", reports.len(), 2)?;
        for report in &reports {
            must("gaps", report["gaps"].as_array().map_or(0, Vec::len), 0)?;
            must("how it ended", &report["ended"], &Value::from("finished"))?;
        }
        Ok(String::new())
    }

    fn calm(&mut self) -> Result<String> {
        for service in [&mut self.desktop, &mut self.recorder, &mut self.rdp].into_iter().flatten() {
            service.must_run("serving")?;
            let text = service.output()?;
            if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
                return Err(Error::broken(format!("{}: {line}", service.log.display())));
            }
        }
        self.forget()?;
        Ok(String::new())
    }
}

/// What is in a file of that name, wherever below.
fn content(dir: &Path, name: &str) -> Option<String> {
    fs::read_dir(dir).into_iter().flatten().flatten().find_map(|entry| {
        if entry.file_name() == name {
            return fs::read_to_string(entry.path()).ok();
        }
        entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| content(&entry.path(), name)).flatten()
    })
}

fn wall_ms() -> Result<u64> {
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| Error::talk("the clock", error))?;
    u64::try_from(now.as_millis()).map_err(|error| Error::talk("the clock", error))
}

/// When a recording began, in milliseconds since the Unix epoch.
fn began_ms(recording: &Path) -> Result<u64> {
    let path = recording.join("opening.json");
    let opening: Value = serde_json::from_slice(&fs::read(&path).at("reading", &path)?)
        .map_err(|error| Error::talk("opening.json", error))?;
    let body = opening.get("body").unwrap_or(&opening);
    body["wall_ms"].as_u64().ok_or_else(|| Error::broken(format!("{} has no time", path.display())))
}
