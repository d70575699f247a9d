//! Recording on the machine in QEMU: a real client's session, power cuts while one runs, disks that keep nothing.
//!
//! Its programs cannot be killed one by one here, because there is nothing on the machine that could do it: the tests of
//! lucid-sessiond and lucid-rdp kill them on this machine.

mod failing;
mod left;
mod power;
mod watch;

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::json;

use super::{Said, Tools, agree, must};
use crate::{
    client::{Client, Generation, Login, Mode, Place},
    error::{Error, Result},
    machine::{Announcement, Disks, Machine, Options, Scratch},
    progress::{Interrupt, Steps},
    recordings::copy,
    setup::Project,
    suite::{Report, Timed, timed},
    suites::{Context, boot},
};

/// Of a card that is larger than the image, as every real one is.
const CARD_BYTES: u64 = 2 << 30;
/// The longest that anything in a session may take on a busy machine in QEMU.
const BOUND: Duration = Duration::from_secs(120);
/// Heads of a busy session that are on the disk before anything is done to it.
const HEADS_BEFORE: u64 = 3;
const USER: &str = "visitor";
const PASSWORD: &str = "Six-Grey-Owls-27";
/// What is painted last, and what is not.
const LAST: [u8; 3] = [0x0b, 0x3d, 0x91];
const FIRST: [u8; 3] = [0xd4, 0x14, 0x5a];
/// The farthest that a channel may be from it after H.264.
const TOLERANCE: u8 = 3;
/// Something new is shown all the time.
const BUSY: &str =
    r"i=0; while :; do i=$((i+1)); printf '\e]11;#%06x\a\e[2J' $((i*40503%16777216)); read -t 0.1; done";

/// How clients connect here.
const NLA: Mode = Mode {
    client: Generation::Two,
    security: "nla",
    codec: "AVC420",
    options: &["/gfx-h264:AVC420"],
    tolerance: 2,
    size: (1280, 720),
};

/// What all checks need.
struct Bench<'a> {
    project: &'a Project,
    steps: &'a Steps,
    tools: &'a Tools,
    image: &'a Path,
    /// The owner's secret key, and its public half.
    key: PathBuf,
    public: String,
}

/// The checks.
pub(super) fn run(context: &Context, tools: &Tools, report: &mut Report) -> Result<()> {
    let image = context.image()?;
    let key = tools.work.join("machine.key");
    let public = tools.owner_key(&key)?;
    let bench = Bench { project: context.project, steps: context.steps, tools, image: &image, key, public };
    if let Some((disks, device)) = recorded(&bench, report)? {
        power::cuts(&bench, &disks, &device, report)?;
    }
    failing::check(&bench, report)?;
    not_recorded(&bench, report)
}

impl Bench<'_> {
    fn interrupt(&self) -> &Interrupt {
        &self.steps.interrupt
    }

    /// A card with an account and an owner's key.
    fn card(&self, name: &str) -> Result<Scratch> {
        let disks = Disks::scratch(self.image, &self.project.lucid.join("machine").join(name))?;
        disks.grow(CARD_BYTES)?;
        disks.provision(&format!(
            "[rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n[policy]\nprofile = \"standard\"\n\n[recording]\nowner = \"{}\"\n",
            self.public
        ))?;
        Ok(disks)
    }

    /// The key that signs on a machine that has said that it is ready.
    fn device(&self, machine: &mut Machine) -> Result<String> {
        machine.wait_console("the device's key", Duration::from_secs(20), 0, |text| {
            Announcement::device_key(text).map(str::to_owned)
        })
    }

    fn client(&self, machine: &Machine, dir: &Path) -> Result<Client> {
        let place = Place { project: self.project, tools: Path::new(""), interrupt: self.interrupt() };
        let login = Login { port: machine.port, user: USER.to_owned(), password: Some(PASSWORD.to_owned()) };
        Client::start(place, dir, &NLA, &login, &[])
    }

    /// A client with a desktop that is nothing but a terminal.
    fn session(&self, machine: &Machine, dir: &Path) -> Result<Client> {
        let mut client = self.client(machine, dir)?;
        client.wait_desktop(BOUND, self.interrupt())?;
        client.screen.point_to_the_middle()?;
        client.screen.key("super+f")?;
        Ok(client)
    }

    /// A session in which something new is shown all the time, and of which some heads are on the disk, so that there is
    /// something to lose. `newest` says which the newest head is that was seen there.
    fn busy_session(
        &self,
        machine: &Machine,
        dir: &Path,
        newest: impl Fn() -> Option<u64>,
    ) -> Result<Client> {
        let mut client = self.session(machine, dir)?;
        client.screen.type_text(BUSY)?;
        client.screen.key("Return")?;
        let wanted = newest().unwrap_or(0) + HEADS_BEFORE;
        self.interrupt().wait_for("heads of the recording on the disk", BOUND, || {
            client.must_run()?;
            Ok(newest().filter(|number| *number >= wanted))
        })?;
        Ok(client)
    }

    /// What both verifiers say of recordings that were copied off a card, with the owner's key.
    fn verify(&self, directories: &[PathBuf], device: &str) -> Result<Vec<Said>> {
        let key = self.key.to_string_lossy();
        let mut said = Vec::new();
        for (ours, theirs) in self.tools.verify(directories, &["--key", &key, "--device", device])? {
            agree("a recording of the machine", &ours, &theirs)?;
            said.push(ours);
        }
        Ok(said)
    }
}

/// A session with known pictures; gives the card, and the key that signs on it.
fn recorded(bench: &Bench, report: &mut Report) -> Result<Option<(Scratch, String)>> {
    let disks = bench.card("recording")?;
    let mut machine = Machine::start(&disks, &Options::default(), bench.interrupt())?;
    let Some(device) = report.obtain(
        "qemu: a device with an owner's key says that it records, and by which key it signs",
        |device: &String| format!("ed25519 {device}"),
        || {
            let announcement = machine.wait_ready(0)?;
            must("the announcement", announcement.recording.as_str(), Announcement::RECORDED)?;
            bench.device(&mut machine)
        },
    ) else {
        return Ok(None);
    };
    let session = report.check("qemu: a session of a real client is shown as ever", || {
        let mut client = bench.session(&machine, &disks.dir.join("client"))?;
        for [r, g, b] in [FIRST, LAST] {
            // Background by OSC 11, cursor off, screen cleared; `read` keeps the prompt away.
            let command = format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H';read");
            client.screen.type_text(&command)?;
            client.screen.key("Return")?;
            client.wait_colour([r, g, b], TOLERANCE, BOUND, bench.interrupt())?;
            if [r, g, b] != LAST {
                client.screen.key("Return")?;
                client.wait_desktop(BOUND, bench.interrupt()).map(drop).or_else(|error| match error {
                    // A prompt on a bright ground is a prompt as well.
                    Error::Late { .. } => Ok(()),
                    other => Err(other),
                })?;
            }
        }
        client.kill();
        Ok("")
    });
    if !report.check("qemu: the power button ends a machine that records", || {
        machine.power_off().map(|spent| format!("{:.1} s", spent.as_secs_f64()))
    }) || !session
    {
        return Ok(None);
    }
    let sound = report.check("qemu: its recording is proved by both verifiers with the owner's key", || {
        let found = copy(&disks, &bench.tools.work.join("machine"))?;
        must("recordings on the card", found.len(), 1)?;
        let mut figures = String::new();
        for said in bench.verify(&found, &device)? {
            must("the verdict", &said.report["verdict"], &json!("sound"))?;
            must("how it ended", &said.report["ended"], &json!("finished"))?;
            must("gaps", &said.report["gaps"], &json!([]))?;
            let records = said.report["opened"]["records"].as_u64().unwrap_or_default();
            must("whether there are records", records > 0, true)?;
            figures = format!(
                "{records} records, {} heads, {:.1} s",
                said.report["heads"],
                said.report["length_us"].as_f64().unwrap_or_default() / 1e6
            );
        }
        Ok(figures)
    });
    report.check("qemu: it ends with the picture that the client showed last", || {
        let found = copy(&disks, &bench.tools.work.join("machine"))?;
        let recording = found.first().ok_or_else(|| Error::broken("there is no recording"))?;
        let picture = bench.tools.picture(&bench.key, recording, None)?;
        if picture.is_even(LAST, TOLERANCE) {
            return Ok("");
        }
        let file = recording.with_extension("png");
        picture.save(&file)?;
        Err(Error::broken(format!("it is another one: {}", file.display())))
    });
    Ok(sound.then_some((disks, device)))
}

/// Cards on which no recording would be kept; both machines at a time.
fn not_recorded(bench: &Bench, report: &mut Report) -> Result<()> {
    type Prepare = fn(&Disks, &mut Options) -> Result<()>;
    let cases: [(&str, &str, Prepare, &str); 2] = [
        (
            "qemu: with a full data partition no session begins, and the console says why",
            "recording-full",
            |disks, _| boot::fill_data(disks),
            "the data partition is full",
        ),
        (
            "qemu: with a card that cannot be written no session begins, and the console says why",
            "recording-read-only",
            |_, options| {
                options.read_only = true;
                Ok(())
            },
            "nothing will be kept after power-off",
        ),
    ];
    let work = |folder: &str, prepare: Prepare, why: &str| {
        let disks = Disks::scratch(bench.image, &bench.project.lucid.join("machine").join(folder))?;
        disks.provision(&format!(
            "[rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n[policy]\nprofile = \"standard\"\n\n[recording]\nowner = \"{}\"\n",
            bench.public
        ))?;
        let mut options = Options::default();
        prepare(&disks, &mut options)?;
        let mut machine = Machine::start(&disks, &options, bench.interrupt())?;
        let announcement = machine.wait_ready(0)?;
        let said = announcement.recording;
        if !said.starts_with("NO SESSION CAN BEGIN") || !said.contains(why) {
            return Err(Error::broken(format!("the announcement says of recordings: {said}")));
        }
        let ending = bench.client(&machine, &disks.dir.join("client"))?.wait_end(BOUND, bench.interrupt())?;
        // The controller is not there, which keeps the accounts too.
        if ending.status.success() || !ending.said.contains("STATUS_NO_LOGON_SERVERS") {
            return Err(Error::broken(ending.describe()));
        }
        Ok(format!("says: {said}"))
    };
    let outcomes: Vec<(&str, Timed<String>)> = thread::scope(|scope| {
        let running: Vec<_> = cases
            .into_iter()
            .filter(|(property, ..)| report.wants(property))
            .map(|(property, folder, prepare, why)| {
                let work = &work;
                (property, scope.spawn(move || timed(|| work(folder, prepare, why))))
            })
            .collect();
        running
            .into_iter()
            .map(|(property, thread)| {
                let panicked = |_| timed(|| Err(Error::broken("the check panicked")));
                (property, thread.join().unwrap_or_else(panicked))
            })
            .collect()
    });
    for (property, outcome) in outcomes {
        report.record(property, outcome);
    }
    bench.interrupt().check()
}
