//! On the machine in QEMU, with the policies that `lucid.toml` names. What others approve is not tried here: nobody but the
//! device itself can ask its controller, and nothing on the card does yet.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use serde_json::Value;

use super::{SETTLED, refused};
use crate::{
    client::{Client, Generation, Login, Mode, Place},
    error::{At, Error, Result},
    machine::{Disks, Machine, Options},
    progress::{Background, ask_well},
    recordings::copy,
    suite::Report,
    suites::{Context, recording::Tools},
};

/// Of a card that is larger than the image, as every real one is.
const CARD_BYTES: u64 = 2 << 30;
/// The longest that anything in a session may take on a busy machine in QEMU.
const BOUND: Duration = Duration::from_secs(120);
/// So much more slowly things pass there.
const SETTLED_THERE: Duration = Duration::from_secs(6);
const USER: &str = "visitor";
const PASSWORD: &str = "Six-Grey-Owls-27";
/// What the terminal turns to when keys pass.
const COLOUR: [u8; 3] = [0x0b, 0x3d, 0x91];
const TOLERANCE: u8 = 3;

static MODE: Mode = Mode {
    client: Generation::Two,
    security: "nla",
    codec: "AVC420",
    options: &["/gfx-h264:AVC420", "+clipboard"],
    tolerance: 2,
    size: (1024, 768),
};

/// A profile, whether keys and clicks pass under it, and what has to be told as refused.
struct Profile {
    name: &'static str,
    says: &'static str,
    input: bool,
    refused: &'static [&'static str],
}

static PROFILES: [Profile; 2] = [
    Profile {
        name: "strict",
        says: "nothing passes",
        input: false,
        refused: &["violation input.kb_enabled", "violation input.mouse_enabled", "clipboard to_desktop"],
    },
    Profile {
        name: "standard",
        says: "keys and clicks pass, nothing that is copied does, no program runs that its user brings",
        input: true,
        refused: &["clipboard to_desktop"],
    },
];

/// The checks.
pub(super) fn check(context: &Context, tools: &Tools, report: &mut Report) -> Result<()> {
    let wanted = |profile: &&Profile| report.wants(&name(profile));
    if !PROFILES.iter().any(|profile| wanted(&profile)) {
        return Ok(());
    }
    let image = context.image()?;
    let owner = tools.work.join("policy.key");
    let public = tools.owner_key(&owner)?;
    for profile in &PROFILES {
        report.check(name(profile), || session(context, tools, &image, (&owner, &public), profile));
        context.steps.interrupt.check()?;
    }
    Ok(())
}

fn name(profile: &Profile) -> String {
    format!("qemu: under {} {}; what was tried is in the events", profile.name, profile.says)
}

fn session(
    context: &Context,
    tools: &Tools,
    image: &Path,
    (owner, public): (&Path, &str),
    profile: &Profile,
) -> Result<String> {
    let (project, interrupt) = (context.project, &context.steps.interrupt);
    let disks = Disks::scratch(image, &project.lucid.join(format!("machine/policy-{}", profile.name)))?;
    disks.grow(CARD_BYTES)?;
    disks.provision(&format!(
        "[rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n[policy]\nprofile = \"{}\"\n\n[recording]\n\
         owner = \"{public}\"\n",
        profile.name
    ))?;
    let mut machine = Machine::start(&disks, &Options::default(), interrupt)?;
    machine.wait_ready(0)?;
    let place = Place { project, tools: Path::new(""), interrupt };
    let login = Login { port: machine.port, user: USER.to_owned(), password: Some(PASSWORD.to_owned()) };
    let mut client = Client::start(place, &disks.dir.join("client"), &MODE, &login, &[])?;
    client.wait_desktop(BOUND, interrupt)?;
    let file = disks.dir.join("copied");
    fs::write(&file, "secret of the client").at("writing", &file)?;
    let mut copied = client.screen.command("timeout");
    copied.args(["60", "xclip", "-quiet", "-selection", "clipboard", "-t", "UTF8_STRING", "-i"]).arg(&file);
    let _copied = Background::start(&copied, &disks.dir.join("xclip.log"))?;
    thread::sleep(SETTLED);
    client.screen.point_to_the_middle()?;
    client.screen.click("1")?;
    // Over the compositor's title bar: Super+F is its key for that.
    client.screen.key("super+f")?;
    let [r, g, b] = COLOUR;
    // Only where a copy of a program that runs does not.
    let shows = format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H'");
    client.screen.type_text(&format!("cp /usr/bin/true t; chmod +x t; true && ! ./t && {shows}; read"))?;
    client.screen.key("Return")?;
    if profile.input {
        client.wait_colour(COLOUR, TOLERANCE, BOUND, interrupt)?;
    } else {
        thread::sleep(SETTLED_THERE);
        let picture = client.screen.picture()?;
        if !picture.has_prompt() {
            let path = disks.dir.join("passed.ppm");
            picture.save(&path)?;
            return Err(Error::broken(format!("something passed: {}", path.display())));
        }
    }
    client.kill();
    machine.power_off()?;
    let found = copy(&disks, &tools.work.join(format!("policy-{}", profile.name)))?;
    let [recording] = found.as_slice() else {
        return Err(Error::broken(format!("{} recordings instead of one", found.len())));
    };
    let told = refused(&events(tools, owner, recording)?);
    for attempt in profile.refused {
        if !told.iter().any(|told| told == attempt) {
            return Err(Error::broken(format!("no event tells of {attempt}, but of {told:?}")));
        }
    }
    if profile.input && told.iter().any(|told| told.contains("input.")) {
        return Err(Error::broken(format!("what is allowed is told as refused: {told:?}")));
    }
    Ok(format!("{} attempts in the events", told.len()))
}

fn events(tools: &Tools, owner: &Path, recording: &Path) -> Result<Vec<Value>> {
    let (film, path) = (recording.with_extension("mp4"), recording.with_extension("jsonl"));
    let mut export: Command = tools.lucidctl(["export", "--force", "--key"]);
    export.arg(owner).arg("--mp4").arg(&film).arg("--events").arg(&path).arg(recording);
    ask_well("exporting a recording", &mut export, b"")?;
    let text = fs::read_to_string(&path).at("reading", &path)?;
    let lines = text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>();
    lines.map_err(|error| Error::talk("lucidctl recording export", error))
}
