//! What crosses in a session beside pictures and input: sound, files of a drive that the client shares, and pasted files.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::{House, WAYS, must};
use crate::{
    client::{Client, Generation, Mode},
    error::{At, Error, Result},
    policy,
    progress::{Background, ask_well},
    suite::Picks,
    suites::rdp::{
        clipboard::files::{LIST, list},
        drives,
        sound::{Ear, Heard, Player, RATE, tones},
    },
};

/// What is open, and a client that has all of it.
const OPEN: &str = "sound-to-client,drives-write,clipboard-files-to-desktop";
static MODE: Mode = Mode {
    client: Generation::Three,
    security: "nla",
    codec: "everything",
    options: &["/gfx:AVC420", "/sound:sys:pulse,latency:400", "/clipboard"],
    tolerance: 2,
    size: (1280, 720),
};
/// What the client calls its drive.
const DRIVE: &str = "papers";
/// Files of the client's drive that a program reads and one that it makes, and one that is pasted; with their bytes.
const READ: (&str, usize) = ("Grüße 漢字.bin", 300_001);
const MADE: (&str, usize) = ("from the desktop.bin", 200_003);
const PASTED: (&str, usize) = ("Brief ä.bin", 150_007);
/// All of it, with some seconds of sound.
const BOUND: Duration = Duration::from_secs(90);

/// A file without order in it.
fn write(path: &Path, (_, bytes): (&str, usize), seed: u64) -> Result<Vec<u8>> {
    let mut picks = Picks::new(seed);
    let content: Vec<u8> = (0..bytes).map(|_| picks.next() as u8).collect();
    fs::write(path, &content).at("writing", path)?;
    Ok(content)
}

/// An event of the kind `file`: by which way, in which direction, which one, and what was in it.
struct Told<'a> {
    resource: &'a str,
    direction: &'a str,
    name: String,
    content: &'a [u8],
}

impl Told<'_> {
    /// An error unless one of the events is this.
    fn find(&self, events: &[Value]) -> Result<()> {
        let hash = blake3::hash(self.content).to_hex().to_string();
        let files = || events.iter().filter(|event| event["kind"] == "file");
        let found = files().any(|event| {
            let data = &event["data"];
            event["outcome"] == "allowed"
                && event["resource"] == self.resource
                && data["direction"] == self.direction
                && data["name"] == self.name.as_str()
                && data["bytes"] == self.content.len()
                && data["hash"] == hash.as_str()
        });
        if found {
            return Ok(());
        }
        let told: Vec<String> = files().map(Value::to_string).collect();
        Err(Error::broken(format!(
            "no event tells of {:?} by {}, {}, {} bytes, {hash}; of files there is told:\n{}",
            self.name,
            self.resource,
            self.direction,
            self.content.len(),
            told.join("\n")
        )))
    }
}

impl House<'_> {
    /// Has everything cross in one session, and looks for it in the recording.
    pub(super) fn crosses(&mut self) -> Result<String> {
        drives::possible()?;
        self.forget()?;
        self.restart(policy::table(OPEN))?;
        let crossed = self.cross();
        self.restart(policy::table(WAYS))?;
        crossed
    }

    fn cross(&self) -> Result<String> {
        let (dir, home) = (self.dir.join("client-crosses"), self.dir.join("home"));
        let shared = dir.join("shared");
        fs::create_dir_all(&shared).at("making", &shared)?;
        let read = write(&shared.join(READ.0), READ, 1)?;
        let made = write(&home.join("made"), MADE, 2)?;
        let pasted = write(&dir.join(PASTED.0), PASTED, 3)?;
        let wav = home.join("tones.wav");
        fs::write(&wav, tones()).at("writing", &wav)?;
        self.write_script(&wav)?;

        let interrupt = self.place.interrupt;
        let ear = Ear::start(interrupt, self.bound, &dir)?;
        let mut command = MODE.client.command(&self.place)?;
        command.env("PULSE_SERVER", &ear.socket);
        let drive = format!("/drive:{DRIVE},{}", shared.display());
        let mut client =
            Client::start_command(command, self.place, &dir, &MODE, &self.login, "127.0.0.1", &[&drive])?;
        client.wait_desktop(self.bound, interrupt)?;
        let copied = dir.join("copied");
        fs::write(&copied, list(&[&dir.join(PASTED.0)])).at("writing", &copied)?;
        let mut copy = client.screen.command("timeout");
        let seconds = (BOUND.as_secs() + 30).to_string();
        copy.args([&seconds, "xclip", "-quiet", "-selection", "clipboard", "-t", LIST, "-i"]).arg(&copied);
        let _holder = Background::start(&copy, &dir.join("xclip.log"))?;
        client.screen.type_text("sh -eu cross.sh 2>crossing.log; echo $? >crossed")?;
        client.screen.key("Return")?;
        let crossed = home.join("crossed");
        let status = interrupt.wait_for("the end of what crosses", BOUND, || {
            client.must_run()?;
            Ok(fs::read_to_string(&crossed).ok().filter(|text| text.ends_with('\n')))
        });
        let status = status.and_then(|status| match status.trim() {
            "0" => Ok(()),
            other => Err(Error::broken(format!("the script in the desktop ended with {other}"))),
        });
        status.map_err(|error| {
            let log = crate::progress::tail(&home.join("crossing.log"));
            Error::broken(format!("{error}; it said:\n{log}"))
        })?;
        for (what, path, content) in [
            ("what was read of the drive", home.join("read"), &read),
            ("what was written to the drive", shared.join(MADE.0), &made),
            ("what was pasted", home.join("pasted"), &pasted),
        ] {
            let found = fs::read(&path).at("reading", &path)?;
            must(&format!("{what} is what was sent"), found == *content, true)?;
        }
        self.log_off(client)?;
        let reports = self.proved()?;

        let (film, _, events) = self.export(&self.only()?)?;
        let of = |resource, direction, name: &str, content| {
            let name = if resource == "drive" { format!("{DRIVE}/{name}") } else { name.to_owned() };
            Told { resource, direction, name, content }
        };
        of("drive", "to_desktop", READ.0, read.as_slice()).find(&events)?;
        of("drive", "to_client", MADE.0, made.as_slice()).find(&events)?;
        of("clipboard", "to_desktop", PASTED.0, pasted.as_slice()).find(&events)?;
        let heard = self.heard_in(&film)?.tones()?;
        let records = &reports[0]["opened"]["records"];
        Ok(format!("{records} records, {} events; in the film {heard}", events.len()))
    }

    /// What the desktop's user does.
    fn write_script(&self, wav: &Path) -> Result<()> {
        let path = self.dir.join("home/cross.sh");
        let play = self.sound.play(Player::PipeWire, wav);
        let text = format!(
            r#"drive='{folder}/{DRIVE}'
until [ -e "$drive/{read}" ]; do sleep 0.2; done
cp "$drive/{read}" read
cp made "$drive/{made}"
{play}
# A client that was asked too soon owes its answer.
until timeout 10 wl-paste --no-newline --type {LIST} >list && grep -q '^file://' list; do sleep 0.2; done
cp "$(find .cache/lucid-from-client -name '{pasted}')" pasted
"#,
            folder = drives::FOLDER,
            read = READ.0,
            made = MADE.0,
            pasted = PASTED.0,
        );
        fs::write(&path, text).at("writing", &path)
    }

    /// What is to be heard in a film.
    fn heard_in(&self, film: &Path) -> Result<Heard> {
        let path = self.dir.join("film.pcm");
        let mut decode = Command::new("ffmpeg");
        decode.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(film);
        decode.args(["-map", "0:a:0", "-f", "s16le", "-ac", "2", "-ar", &RATE.to_string()]).arg(&path);
        ask_well("decoding the film's sound", &mut decode, b"")?;
        Ok(Heard::new(&fs::read(&path).at("reading", &path)?))
    }
}
