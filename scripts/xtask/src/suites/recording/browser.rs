//! The page of `lucidctl recording play` in real browsers, each where it is installed: Chromium is driven by its WebDriver
//! program (HTTP), Firefox by its own protocol Marionette, whose commands are WebDriver's. Both without a screen.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Tools, must, session};
use crate::{
    error::{At, Error, Result},
    machine::free_port,
    progress::{Background, Interrupt},
    suite::Report,
    suites::Context,
};

/// Within this a browser starts, and the page shows what it is to show.
const BOUND: Duration = Duration::from_secs(60);
/// The most by which a colour may be off: each browser converts by itself. Firefox with Debian 12's libavcodec takes the
/// full range for the limited one, whatever the stream and its container say.
const NEAR: u8 = 6;
const NEAR_IN_FIREFOX: u8 = 20;

/// What is to be seen at a time.
struct Moment {
    /// In seconds.
    at: f64,
    /// The colour at (64, 64).
    colour: [u8; 3],
    /// Where the pointer is, if there is a picture.
    pointer: Option<(u16, u16)>,
}

const MOMENTS: [Moment; 4] = [
    Moment { at: 5.5, colour: [80, 175, 128], pointer: Some((209, 304)) },
    Moment { at: 15.9, colour: [240, 15, 128], pointer: Some((219, 304)) },
    // The ground on which it says that nothing was recorded.
    Moment { at: 8.5, colour: [32, 38, 48], pointer: None },
    Moment { at: 2.5, colour: [32, 223, 128], pointer: Some((206, 304)) },
];

/// What the page shows. The pixels are those of the video.
const STATE: &str = r#"
    const $ = (id) => document.getElementById(id), video = $("video");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth || 1, video.videoHeight || 1];
    const to = canvas.getContext("2d", { willReadFrequently: true });
    to.drawImage(video, 0, 0);
    const pixels = [[64, 64], [POINTER], [400, 400]].map(([x, y]) => [...to.getImageData(x, y, 1, 1).data].slice(0, 3));
    return {
        at: video.currentTime, size: [video.videoWidth, video.videoHeight],
        still: video.readyState >= 2 && !video.seeking && $("message").hidden, says: $("message").textContent,
        verdict: $("verdict").className, words: $("word").textContent, count: $("count").textContent,
        rows: [...document.querySelectorAll(".row span")].map((row) => row.textContent),
        now: document.querySelector(".row.now span")?.textContent ?? null, pixels,
        heard: video.webkitAudioDecodedByteCount ?? (video.mozHasAudio ? 1 : 0),
    };
"#;

/// The browsers.
#[derive(Clone, Copy)]
enum Kind {
    Chromium,
    Firefox,
}

/// Runs the checks.
pub(super) fn check(context: &Context, tools: &Tools, report: &mut Report) {
    for (kind, name) in [(Kind::Chromium, "Chromium"), (Kind::Firefox, "Firefox")] {
        report.check(
            format!("page, {name}: it shows a recording's pictures, sound and events, and finds moments"),
            || page(context, tools, kind),
        );
    }
}

fn page(context: &Context, tools: &Tools, kind: Kind) -> Result<String> {
    let interrupt = &context.steps.interrupt;
    let programs = kind.programs()?;
    let dir = tools.work.join("page");
    if dir.exists() {
        fs::remove_dir_all(&dir).at("emptying", &dir)?;
    }
    fs::create_dir_all(&dir).at("making", &dir)?;
    let recording = session(context, &dir)?;
    let mut play = tools.lucidctl(["play", "--json", "--no-browser", "--key"]);
    play.arg(&tools.owner).arg(&recording);
    let mut play = Background::start(&play, &dir.join("play.log"))?;
    let address = interrupt.wait_for("the page's address", BOUND, || {
        play.must_run("playing a recording")?;
        let said: Option<Value> = play.output()?.lines().find_map(|line| serde_json::from_str(line).ok());
        Ok(said.and_then(|said| said["address"].as_str().map(str::to_owned)))
    })?;
    let mut browser = Browser::start(kind, &programs, &dir, interrupt)?;
    browser.open(&address)?;

    let proved = browser.until(interrupt, "the verdict", |state| state["verdict"] == "sound")?;
    must("the verdict's words", &proved["words"], &json!("PROVED: unchanged, with gaps"))?;
    let events = proved["rows"].as_array().map_or(0, Vec::len);
    must("the events' count", &proved["count"], &json!(events.to_string()))?;

    let near = match kind {
        Kind::Chromium => NEAR,
        Kind::Firefox => NEAR_IN_FIREFOX,
    };
    let mut farthest = 0;
    for Moment { at, colour, pointer } in MOMENTS {
        browser.run(&format!("document.getElementById('video').currentTime = {at};"))?;
        let (x, y) = pointer.unwrap_or((64, 64));
        let state =
            browser.until_pointing(interrupt, &format!("what is shown at {at} s"), (x, y), |state| {
                state["still"] == true && state["at"].as_f64().is_some_and(|found| (found - at).abs() < 0.001)
            })?;
        must("the video's size", &state["size"], &json!([640, 480]))?;
        let wanted = [Some(colour), pointer.map(|_| [255, 0, 0]), pointer.map(|_| [40, 60, 80])];
        for (found, wanted) in state["pixels"].as_array().into_iter().flatten().zip(wanted) {
            let Some(wanted) = wanted else { continue };
            for (number, wanted) in wanted.into_iter().enumerate() {
                let found = found[number].as_u64().and_then(|found| u8::try_from(found).ok()).unwrap_or(0);
                farthest = farthest.max(found.abs_diff(wanted));
            }
            if farthest > near {
                return Err(Error::broken(format!(
                    "at {at} s, {found} is shown and not {wanted:?}: {state}"
                )));
            }
        }
    }

    // An event that is clicked on is shown, and marked.
    browser.run(CLICK)?;
    let state = browser.until(interrupt, "the event that was clicked on", |state| state["still"] == true)?;
    must("the event that is marked", &state["now"], &json!("pasted 1.2 kB of text/plain to the desktop"))?;
    let found = state["at"].as_f64().unwrap_or_default();
    must("the time of that event", (found - 5.43).abs() < 0.001, true)?;

    browser.run(&search("focus ~/notes"))?;
    let state = browser.until(interrupt, "what is searched for", |state| state["now"] != Value::Null)?;
    must("what the search leaves", &state["rows"], &json!(["focus: foot — ~/notes"]))?;
    must("its count", &state["count"], &json!(format!("1 of {events}")))?;
    browser.run(&search(""))?;

    // It plays on over the ends of segments, with sound.
    browser.run(
        "const v = document.getElementById('video'); v.currentTime = 3.5; v.playbackRate = 2; v.play();",
    )?;
    browser.until(interrupt, "the end of the next segment", |state| state["at"].as_f64() > Some(8.2))?;
    browser.run("document.getElementById('video').pause();")?;
    let stopped = browser.run(&state_at((64, 64)))?;
    must("sound was decoded", stopped["heard"].as_u64() > Some(0), true)?;
    let complaints = browser.complaints()?;
    must("complaints on the browser's console", complaints, Vec::<String>::new())?;
    Ok(format!("{events} events, farthest pixel off by {farthest} of 255"))
}

/// A click on the first paste, as a hand makes it.
const CLICK: &str = r#"
    const row = [...document.querySelectorAll(".row.data")][0], box = row.getBoundingClientRect();
    const there = { bubbles: true, detail: 1, clientX: box.left + 20, clientY: box.top + 20 };
    row.querySelector("span").dispatchEvent(new MouseEvent("click", there));
"#;

fn search(words: &str) -> String {
    format!(
        "const s = document.getElementById('search'); s.value = '{words}'; s.dispatchEvent(new Event('input'));"
    )
}

fn state_at((x, y): (u16, u16)) -> String {
    STATE.replace("POINTER", &format!("{x}, {y}"))
}

impl Kind {
    /// The programs that it takes.
    fn programs(self) -> Result<PathBuf> {
        let (names, package): (&[&str], _) = match self {
            Kind::Chromium => (&["chromedriver"], "chromium-driver"),
            Kind::Firefox => (&["firefox-esr", "firefox"], "firefox-esr"),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .flat_map(|dir| names.iter().map(move |name| dir.join(name)))
            .find(|program| program.is_file());
        found.ok_or_else(|| {
            Error::CannotCheck(format!("there is no {} here; Debian's package {package} has it", names[0]))
        })
    }
}

/// A browser that does what it is told, and ends with this.
struct Browser {
    _program: Background,
    wire: Wire,
}

/// How it is told.
enum Wire {
    /// The port, and the session's path.
    Http(u16, String),
    /// The connection, and the number of the last command.
    Marionette(BufReader<TcpStream>, u64),
}

impl Browser {
    fn start(kind: Kind, program: &Path, dir: &Path, interrupt: &Interrupt) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        let home = dir.join("home");
        fs::create_dir_all(&home).at("making", &home)?;
        command.env("HOME", &home).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        match kind {
            Kind::Chromium => command.arg(format!("--port={port}")),
            Kind::Firefox => {
                let settings = home.join("user.js");
                let text = format!(
                    "user_pref(\"marionette.port\", {port});\nuser_pref(\"media.autoplay.default\", 0);\n"
                );
                fs::write(&settings, text).at("writing", &settings)?;
                command.args(["--headless", "--marionette", "--no-remote", "--profile"]).arg(&home)
            }
        };
        let mut program = Background::start(&command, &dir.join("browser.log"))?;
        let stream = interrupt.wait_for("the browser", BOUND, || {
            program.must_run("being a browser")?;
            Ok(connect(port).ok())
        })?;
        let wire = match kind {
            Kind::Chromium => {
                let options = json!({ "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                    "--autoplay-policy=no-user-gesture-required", "--window-size=1280,800"] });
                let wanted = json!({ "capabilities": { "alwaysMatch": {
                    "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } } } });
                let made = http(port, "POST", "/session", &wanted)?;
                Wire::Http(port, format!("/session/{}", made["sessionId"].as_str().unwrap_or_default()))
            }
            Kind::Firefox => {
                let mut stream = BufReader::new(stream);
                read_marionette(&mut stream)?;
                Wire::Marionette(stream, 0)
            }
        };
        let mut browser = Self { _program: program, wire };
        if matches!(kind, Kind::Firefox) {
            browser.marionette("WebDriver:NewSession", &json!({ "capabilities": {} }))?;
        }
        Ok(browser)
    }

    fn marionette(&mut self, name: &str, parameters: &Value) -> Result<Value> {
        let Wire::Marionette(stream, number) = &mut self.wire else {
            return Err(Error::talk("the browser", "it has another protocol"));
        };
        *number += 1;
        let message = json!([0, *number, name, parameters]).to_string();
        write!(stream.get_mut(), "{}:{message}", message.len()).map_err(broken)?;
        let answer = read_marionette(stream)?;
        match &answer[2] {
            Value::Null => Ok(answer[3].clone()),
            error => Err(Error::talk("Firefox", error)),
        }
    }

    fn open(&mut self, address: &str) -> Result<()> {
        let url = json!({ "url": address });
        match &self.wire {
            Wire::Http(port, session) => http(*port, "POST", &format!("{session}/url"), &url).map(drop),
            Wire::Marionette(..) => self.marionette("WebDriver:Navigate", &url).map(drop),
        }
    }

    /// What a script returns that is run in the page.
    fn run(&mut self, script: &str) -> Result<Value> {
        let asked = json!({ "script": script, "args": [], "sandbox": null });
        match &self.wire {
            Wire::Http(port, session) => http(*port, "POST", &format!("{session}/execute/sync"), &asked),
            Wire::Marionette(..) => Ok(self.marionette("WebDriver:ExecuteScript", &asked)?["value"].clone()),
        }
    }

    /// The page's state as soon as it is so.
    fn until(&mut self, interrupt: &Interrupt, what: &str, so: impl Fn(&Value) -> bool) -> Result<Value> {
        self.until_pointing(interrupt, what, (64, 64), so)
    }

    /// The same with the pixel of a place as the second.
    fn until_pointing(
        &mut self,
        interrupt: &Interrupt,
        what: &str,
        place: (u16, u16),
        so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let script = state_at(place);
        let mut last = Value::Null;
        let found = interrupt.wait_for(what, BOUND, || {
            last = self.run(&script)?;
            Ok(so(&last).then(|| last.clone()))
        });
        found.map_err(|error| match error {
            Error::Late { what, seconds, .. } => Error::Late { what, seconds, details: format!(": {last}") },
            error => error,
        })
    }

    /// What stands on the console as an error; Firefox does not tell.
    fn complaints(&mut self) -> Result<Vec<String>> {
        let Wire::Http(port, session) = &self.wire else { return Ok(Vec::new()) };
        let log = http(*port, "POST", &format!("{session}/se/log"), &json!({ "type": "browser" }))?;
        let lines = log.as_array().into_iter().flatten().filter(|line| line["level"] == "SEVERE");
        Ok(lines.map(|line| line["message"].to_string()).collect())
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::talk("the browser", error)
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(broken)?;
    stream.set_read_timeout(Some(BOUND)).map_err(broken)?;
    Ok(stream)
}

/// Asks a WebDriver program; gives the value of its answer.
fn http(port: u16, method: &str, path: &str, body: &Value) -> Result<Value> {
    let mut stream = BufReader::new(connect(port)?);
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all((head + &body).as_bytes()).map_err(broken)?;
    let (mut length, mut line) = (0, String::new());
    while stream.read_line(&mut line).map_err(broken)? > 2 {
        if let Some((_, value)) =
            line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse().map_err(|error| Error::talk("the browser", error))?;
        }
        line.clear();
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).map_err(broken)?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| Error::talk("the browser", error))?;
    match answer["value"].get("error") {
        Some(_) => Err(Error::talk("Chromium", &answer["value"])),
        None => Ok(answer["value"].clone()),
    }
}

/// A message of Marionette: its length in decimal digits, a colon, and JSON.
fn read_marionette(stream: &mut BufReader<TcpStream>) -> Result<Value> {
    let mut length = Vec::new();
    stream.read_until(b':', &mut length).map_err(broken)?;
    let digits = String::from_utf8_lossy(&length);
    let length: usize =
        digits.trim_end_matches(':').parse().map_err(|error| Error::talk("Firefox", error))?;
    let mut message = vec![0; length];
    stream.read_exact(&mut message).map_err(broken)?;
    serde_json::from_slice(&message).map_err(|error| Error::talk("Firefox", error))
}
