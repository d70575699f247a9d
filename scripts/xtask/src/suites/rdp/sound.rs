//! Sound from the desktop to a real client, on this machine: two tones are played in the desktop, one for each ear, and
//! looked for in what the client's own sound server was given.

use std::{
    f64::consts::TAU,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Mode, Target, marked};
use crate::{
    client::{Client, Generation, Login, foreign_wrapper},
    error::{At, Error, Result},
    machine, policy,
    progress::{Background, Interrupt},
    setup::Project,
    suite::Report,
};

/// Frames a second of everything here.
pub(in crate::suites) const RATE: usize = 48_000;
/// The tones for the left and the right ear, in Hz.
const TONES: [f64; 2] = [1000.0, 440.0];
/// How long they are played.
const SECONDS: usize = 3;
/// How loud, of 32767.
const LOUDNESS: f64 = 8000.0;
/// Frames that are looked at together: whole waves of both tones.
const WINDOW: usize = RATE / 10;
/// How much of a tone has to be heard. Clients play with a buffer of their own that may run dry on a busy machine.
const HEARD: f64 = 0.7;

/// Each with what plays, and as what it has to come: FreeRDP 3 knows Opus.
static CLIENTS: [(Mode, Player, &str); 2] = [
    (
        Mode {
            client: Generation::Two,
            security: "tls",
            codec: "sound",
            options: &["/sound:sys:pulse,latency:400"],
            tolerance: 2,
            size: (800, 600),
        },
        Player::PulseAudio,
        "PCM",
    ),
    (
        Mode {
            client: Generation::Three,
            security: "nla",
            codec: "sound",
            options: &["/sound:sys:pulse,latency:400"],
            tolerance: 2,
            size: (800, 600),
        },
        Player::PipeWire,
        "OPUS",
    ),
];

/// What plays in the desktop: programs speak either protocol.
#[derive(Clone, Copy, Debug)]
pub(in crate::suites) enum Player {
    /// `paplay`.
    PulseAudio,
    /// `pw-cat`.
    PipeWire,
}

/// Scripts at paths for the sound programs of another Debian release.
pub(in crate::suites) struct Programs {
    /// The desktop's sound server.
    pub(in crate::suites) pipewire: PathBuf,
    /// What links programs to its device.
    pub(in crate::suites) wireplumber: PathBuf,
    player: PathBuf,
}

impl Programs {
    /// Writes them into `dir`.
    pub(in crate::suites) fn write(project: &Project, tree: &Path, dir: &Path) -> Result<Self> {
        let write = |program: &str| -> Result<PathBuf> {
            let inner = foreign_wrapper(
                project,
                tree,
                &format!("usr/bin/{program}"),
                &dir.join(format!("{program}-itself")),
            )?;
            let libraries = tree.join("usr/lib/x86_64-linux-gnu");
            let share = tree.join("usr/share");
            // Where they are built to look for their parts is not where these are.
            let text = [
                ("PIPEWIRE_MODULE_DIR", libraries.join("pipewire-0.3")),
                ("SPA_PLUGIN_DIR", libraries.join("spa-0.2")),
                ("SPA_DATA_DIR", share.join("spa-0.2")),
                ("PIPEWIRE_CONFIG_DIR", share.join("pipewire")),
                ("WIREPLUMBER_MODULE_DIR", libraries.join("wireplumber-0.5")),
                ("WIREPLUMBER_DATA_DIR", share.join("wireplumber")),
                ("XDG_DATA_DIRS", share),
            ]
            .map(|(name, path)| format!("export {name}='{}'\n", path.display()))
            .concat();
            let outer = dir.join(program);
            fs::copy(&inner, &outer).at("writing", &outer)?;
            fs::write(&outer, format!("#!/bin/sh\n{text}exec '{}' \"$@\"\n", inner.display()))
                .at("writing", &outer)?;
            Ok(outer)
        };
        Ok(Self {
            pipewire: write("pipewire")?,
            wireplumber: write("wireplumber")?,
            player: write("pw-cat")?,
        })
    }

    /// What to type to play a file.
    pub(in crate::suites) fn play(&self, player: Player, file: &Path) -> String {
        match player {
            Player::PulseAudio => format!("paplay {}", file.display()),
            Player::PipeWire => format!("{} -p {}", self.player.display(), file.display()),
        }
    }
}

/// The client's own sound server, which has no device, and a recording of what it is given.
pub(in crate::suites) struct Ear {
    _server: Background,
    _recorder: Background,
    /// Where clients find it: their `PULSE_SERVER`.
    pub(in crate::suites) socket: String,
    recording: PathBuf,
}

impl Ear {
    /// Starts one in `dir`.
    pub(in crate::suites) fn start(interrupt: &Interrupt, bound: Duration, dir: &Path) -> Result<Self> {
        let home = dir.join("ear");
        fs::create_dir_all(&home).at("making", &home)?;
        let socket = home.join("socket");
        let recording = home.join("recording");
        let mut command = Command::new("pulseaudio");
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &home);
        command.args(["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]);
        command.args(["-L", &format!("module-null-sink sink_name=ear rate={RATE} channels=2")]);
        let module = format!("module-native-protocol-unix socket={} auth-anonymous=1", socket.display());
        command.args(["-L", &module]);
        let mut server = Background::start(&command, &dir.join("pulseaudio.log"))?;
        interrupt.wait_for("the client's sound server", bound, || {
            server.must_run("serving sound")?;
            Ok(socket.exists().then_some(()))
        })?;
        let socket = format!("unix:{}", socket.display());
        let mut command = Command::new("parec");
        command.env("HOME", &home).env("PULSE_SERVER", &socket);
        command.args([
            "--device=ear.monitor",
            "--raw",
            "--format=s16le",
            "--channels=2",
            "--latency-msec=50",
        ]);
        command.arg(format!("--rate={RATE}")).arg(&recording);
        let mut recorder = Background::start(&command, &dir.join("parec.log"))?;
        interrupt.wait_for("the recording", bound, || {
            recorder.must_run("recording sound")?;
            Ok(fs::metadata(&recording).is_ok_and(|file| file.len() > 0).then_some(()))
        })?;
        Ok(Self { _server: server, _recorder: recorder, socket, recording })
    }

    /// What was heard from a place in the recording on.
    pub(in crate::suites) fn heard(&self, from: usize) -> Result<Heard> {
        let bytes = fs::read(&self.recording).at("reading", &self.recording)?;
        Ok(Heard::new(bytes.get(from..).unwrap_or_default()))
    }

    /// The present end of the recording, in bytes, at a whole frame.
    fn now(&self) -> Result<usize> {
        Ok(fs::metadata(&self.recording).at("looking at", &self.recording)?.len() as usize / 4 * 4)
    }

    /// Waits until so much more was recorded.
    fn listen(&self, target: &Target, seconds: usize) -> Result<()> {
        let until = self.now()? + seconds * RATE * 4;
        target
            .place
            .interrupt
            .wait_for("the recording", target.bound, || Ok((self.now()? >= until).then_some(())))
    }
}

/// Windows of a recording.
#[derive(Debug, Default)]
pub(in crate::suites) struct Heard {
    /// With the right tone in each ear and little else.
    right: usize,
    /// With anything but silence.
    any: usize,
}

impl Heard {
    /// Of 16-bit samples for two ears.
    pub(in crate::suites) fn new(bytes: &[u8]) -> Self {
        let samples: Vec<f64> =
            bytes.as_chunks().0.iter().map(|sample| f64::from(i16::from_le_bytes(*sample))).collect();
        let mut heard = Self::default();
        for window in samples.chunks_exact(WINDOW * 2) {
            let ears = [0, 1].map(|ear| window.iter().skip(ear).step_by(2).copied().collect::<Vec<_>>());
            heard.any += usize::from(window.iter().any(|sample| *sample != 0.0));
            let right = ears.iter().zip(TONES).all(|(ear, tone)| {
                let all = ear.iter().map(|sample| sample * sample).sum::<f64>() / WINDOW as f64;
                all > LOUDNESS * LOUDNESS / 8.0 && power(ear, tone) > 0.95 * all
            });
            heard.right += usize::from(right);
        }
        heard
    }

    fn describe(&self) -> String {
        let seconds = |windows: usize| windows as f64 * WINDOW as f64 / RATE as f64;
        format!(
            "{:.1} s of {SECONDS} s heard, {:.1} s with any sound",
            seconds(self.right),
            seconds(self.any)
        )
    }

    /// Whether nothing was.
    pub(in crate::suites) fn is_silent(&self) -> bool {
        self.any == 0
    }

    /// Whether both tones were heard for most of their time.
    pub(in crate::suites) fn tones(&self) -> Result<String> {
        if self.right as f64 * WINDOW as f64 >= HEARD * (SECONDS * RATE) as f64 {
            Ok(self.describe())
        } else {
            Err(Error::broken(self.describe()))
        }
    }
}

/// The power of one frequency (Goertzel), as part of the mean square.
fn power(samples: &[f64], frequency: f64) -> f64 {
    let turn = 2.0 * (TAU * frequency / RATE as f64).cos();
    let (last, before) =
        samples.iter().fold((0.0, 0.0), |(last, before), sample| (sample + turn * last - before, last));
    let count = samples.len() as f64;
    2.0 * (last * last + before * before - turn * last * before) / (count * count)
}

/// Both tones as a WAV file.
pub(in crate::suites) fn tones() -> Vec<u8> {
    let frames = SECONDS * RATE;
    let size = (frames * 4) as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((size + 36).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0");
    bytes.extend((RATE as u32).to_le_bytes());
    bytes.extend((RATE as u32 * 4).to_le_bytes());
    bytes.extend(b"\x04\0\x10\0data");
    bytes.extend(size.to_le_bytes());
    for frame in 0..frames {
        for tone in TONES {
            let sample = LOUDNESS * (TAU * tone * frame as f64 / RATE as f64).sin();
            bytes.extend((sample as i16).to_le_bytes());
        }
    }
    bytes
}

/// A service of its own, with its desktops.
struct Setting<'a> {
    target: &'a Target<'a>,
    programs: &'a Programs,
    dir: PathBuf,
    login: Login,
    rdp: Background,
}

impl<'a> Setting<'a> {
    fn start(
        target: &'a Target<'a>,
        programs: &'a Programs,
        serve: &dyn Fn(u16, &Path) -> Command,
        name: &str,
        ways: &str,
    ) -> Result<Self> {
        let dir = target.dir(name);
        fs::create_dir_all(&dir).at("making", &dir)?;
        let login = Login { port: machine::free_port()?, ..target.login.clone() };
        let policy = policy::write(&dir, &policy::table(ways))?;
        let rdp = target.service(&serve(login.port, &policy), login.port, &dir)?;
        Ok(Self { target, programs, dir, login, rdp })
    }

    /// A client with an ear.
    fn client(&mut self, name: &str, mode: &Mode) -> Result<(Client, Ear)> {
        let Target { place, bound, .. } = self.target;
        self.rdp.must_run("serving RDP")?;
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).at("making", &dir)?;
        let ear = Ear::start(place.interrupt, *bound, &dir)?;
        let mut command = mode.client.command(place)?;
        command.env("PULSE_SERVER", &ear.socket);
        let mut client = Client::start_command(command, *place, &dir, mode, &self.login, "127.0.0.1", &[])?;
        client.wait_desktop(*bound, place.interrupt)?;
        Ok((client, ear))
    }

    /// Types a command that plays the tones so many times, and gives the file that says how it ended.
    fn begin(&self, client: &Client, player: Player, times: usize) -> Result<PathBuf> {
        let (file, done) = (self.dir.join("tones.wav"), self.dir.join("done"));
        fs::write(&file, tones()).at("writing", &file)?;
        if done.exists() {
            fs::remove_file(&done).at("removing", &done)?;
        }
        let play = vec![self.programs.play(player, &file); times].join(" && ");
        client.screen.point_to_the_middle()?;
        client.screen.type_text(&format!("{play}; echo $? > {}", done.display()))?;
        client.screen.key("Return")?;
        Ok(done)
    }

    /// Waits until it has ended, and gives its status.
    fn end(&self, done: &Path) -> Result<String> {
        self.target.place.interrupt.wait_for("the end of what plays", self.target.bound, || {
            Ok(fs::read_to_string(done).ok().filter(|text| text.ends_with('\n')))
        })
    }

    /// Plays the tones once and gives what was heard.
    fn play(&self, client: &Client, ear: &Ear, player: Player) -> Result<Heard> {
        let from = ear.now()?;
        let done = self.begin(client, player, 1)?;
        let status = self.end(&done)?;
        if status.trim() != "0" {
            return Err(Error::broken(format!("the player in the desktop ended with status {status}")));
        }
        ear.listen(self.target, 1)?;
        ear.heard(from)
    }
}

/// Runs the checks. `serve` gives a service of this machine for a port; `mark` stands in the environment of what runs
/// in its desktops.
pub(super) fn check(
    target: &Target,
    programs: &Programs,
    serve: &dyn Fn(u16, &Path) -> Command,
    mark: &str,
    report: &mut Report,
) -> Result<()> {
    for (mode, player, format) in &CLIENTS {
        let name = format!("{}, {}, sound", target.name, mode.client.name());
        let setting = report.obtain(
            format!("{name}: a service that may send it"),
            |_: &Setting| String::new(),
            || Setting::start(target, programs, serve, &name, "sound-to-client"),
        );
        let Some(mut setting) = setting else { continue };
        let mut first = None;
        report.check(format!("{name}: what {player:?} plays is heard, in the right ears"), || {
            let (client, ear) = setting.client("first", mode)?;
            let heard = setting.play(&client, &ear, *player)?.tones();
            first = Some((client, ear));
            let log = setting.rdp.output()?;
            if !log.lines().any(|line| line.contains("sound goes out") && line.ends_with(format)) {
                return Err(Error::broken(format!("it does not come as {format}")));
            }
            heard.map(|heard| format!("{format}, {heard}"))
        });
        if !target.long && mode.client == Generation::Two {
            continue;
        }
        report.check(
            format!("{name}: a client that takes over hears what plays, and the first no longer"),
            || {
                let (client, first_ear) =
                    first.take().ok_or_else(|| Error::broken("there is no first client"))?;
                let done = setting.begin(&client, *player, 4)?;
                target.place.interrupt.wait_for("the tones", target.bound, || {
                    Ok((first_ear.heard(0)?.right > 0).then_some(()))
                })?;
                let (second, ear) = setting.client("second", mode)?;
                let (from, first_from) = (ear.now()?, first_ear.now()?);
                setting.end(&done)?;
                ear.listen(target, 1)?;
                let (heard, still) = (ear.heard(from)?, first_ear.heard(first_from)?);
                if still.any > WINDOWS_OF_A_SECOND {
                    return Err(Error::broken(format!("the first client: {}", still.describe())));
                }
                if heard.right == 0 {
                    return Err(Error::broken(format!("the second client: {}", heard.describe())));
                }
                let heard = setting.play(&second, &ear, *player)?;
                heard.tones()
            },
        );
        target.place.interrupt.check()?;
    }
    let name = format!("{}, sound", target.name);
    report.check(format!("{name}: without its way there is no PipeWire, and nothing is heard"), || {
        let [(mode, player, _), _] = &CLIENTS;
        target.place.interrupt.wait_for("the end of earlier desktops", target.bound, || {
            Ok(marked(mark).is_empty().then_some(()))
        })?;
        let mut setting = Setting::start(target, programs, serve, &format!("{name}, closed"), "")?;
        let (client, ear) = setting.client("first", mode)?;
        let from = ear.now()?;
        let status = setting.end(&setting.begin(&client, *player, 1)?)?;
        let running = marked(mark);
        ear.listen(target, 1)?;
        let heard = ear.heard(from)?;
        if status.trim() == "0" || heard.any > 0 {
            return Err(Error::broken(format!("the player ended with {status}; {}", heard.describe())));
        }
        match running.iter().find(|name| matches!(name.as_str(), "pipewire" | "wireplumber")) {
            Some(program) => Err(Error::broken(format!("{program} runs: {running:?}"))),
            None => Ok(running.join(" ")),
        }
    });
    Ok(())
}

/// What a client has in its own buffer when it is told to go.
const WINDOWS_OF_A_SECOND: usize = RATE / WINDOW;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_are_recognised_each_in_its_own_ear_alone() {
        let wav = tones();
        let right = wav.get(44..).unwrap();
        assert_eq!(Heard::new(right).right, SECONDS * 10);
        let swapped: Vec<u8> =
            right.as_chunks::<4>().0.iter().flat_map(|[a, b, c, d]| [*c, *d, *a, *b]).collect();
        let heard = Heard::new(&swapped);
        assert_eq!((heard.right, heard.any), (0, SECONDS * 10));
        assert!(heard.tones().is_err());
        let silence = Heard::new(&vec![0; right.len()]);
        assert_eq!((silence.right, silence.any), (0, 0));
    }
}
