//! On the machine in QEMU, with the policies and the people that `lucid.toml` names: what they may, and what one of them asks
//! for and another one allows, each with nothing but an RDP client.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use serde_json::Value;

use super::{SETTLED, refused};
use crate::{
    client::{Client, Generation, Login, Mode, Place},
    error::{At, Error, Result},
    machine::{Disks, Machine, Options, Scratch},
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
/// Who may only decide.
const APPROVER: &str = "bob";
const APPROVED: &str = "qemu: what its user asks for on the screen passes when an approver allows it on his";
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
    if !PROFILES.iter().any(|profile| wanted(&profile)) && !report.wants(APPROVED) {
        return Ok(());
    }
    let image = context.image()?;
    let owner = tools.work.join("policy.key");
    let public = tools.owner_key(&owner)?;
    for profile in &PROFILES {
        report.check(name(profile), || session(context, tools, &image, (&owner, &public), profile));
        context.steps.interrupt.check()?;
    }
    report.check(APPROVED, || approved(context, tools, &image, &public));
    Ok(())
}

/// A machine of its own, whose `lucid.toml` says this.
fn machine(context: &Context, image: &Path, name: &str, says: &str) -> Result<(Scratch, Machine)> {
    let disks = Disks::scratch(image, &context.project.lucid.join(format!("machine/policy-{name}")))?;
    disks.grow(CARD_BYTES)?;
    disks.provision(&format!("[rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n{says}"))?;
    let mut machine = Machine::start(&disks, &Options::default(), &context.steps.interrupt)?;
    machine.wait_ready(0)?;
    Ok((disks, machine))
}

/// Has a client's clipboard hold a text.
fn holds(client: &Client, dir: &Path, text: &str) -> Result<Background> {
    let file = dir.join("copied");
    fs::write(&file, text).at("writing", &file)?;
    let mut copied = client.screen.command("timeout");
    copied.args(["300", "xclip", "-quiet", "-selection", "clipboard", "-t", "UTF8_STRING", "-i"]).arg(&file);
    let holder = Background::start(&copied, &dir.join("xclip.log"))?;
    thread::sleep(SETTLED);
    Ok(holder)
}

/// Its user presses Ctrl+Alt+Delete and asks to paste on the desktop; an approver's client shows that, and he allows it.
fn approved(context: &Context, tools: &Tools, image: &Path, public: &str) -> Result<String> {
    let (project, interrupt) = (context.project, &context.steps.interrupt);
    let (disks, mut machine) = machine(
        context,
        image,
        "approved",
        &format!(
            "[[users]]\nname = \"{APPROVER}\"\npassword = \"{PASSWORD}\"\nroles = [\"approver\"]\n\n[policy]\n\
             profile = \"standard\"\n\n[recording]\nowner = \"{public}\"\n"
        ),
    )?;
    let place = Place { project, tools: Path::new(""), interrupt };
    let start = |user: &str| {
        let login = Login { port: machine.port, user: user.to_owned(), password: Some(PASSWORD.to_owned()) };
        Client::start(place, &disks.dir.join(user), &MODE, &login, &[])
    };
    let mut client = start(USER)?;
    client.wait_desktop(BOUND, interrupt)?;
    let mut desk = start(APPROVER)?;
    let page = |client: &mut Client, what: &str, is_there: bool| {
        client.wait_picture(what, BOUND, interrupt, |picture| {
            Ok((picture.asks() == is_there).then(|| picture.clone()))
        })
    };
    page(&mut desk, "the approver's page", true)?;
    client.screen.point_to_the_middle()?;
    client.screen.click("1")?;
    client.screen.key("super+f")?;
    let [r, g, b] = COLOUR;
    let text = format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H'; read");
    let pastes = |client: &Client| {
        client.screen.key("ctrl+shift+v")?;
        thread::sleep(SETTLED_THERE);
        client.screen.key("Return")
    };
    let refused = holds(&client, &disks.dir, &text)?;
    pastes(&client)?;
    thread::sleep(SETTLED_THERE);
    if !client.screen.picture()?.has_prompt() {
        return Err(Error::broken("a paste passed before anybody allowed it"));
    }
    drop(refused);
    client.screen.key("ctrl+alt+Delete")?;
    page(&mut client, "the page that Ctrl+Alt+Delete opens", true)?;
    let nothing = desk.screen.picture()?;
    // To paste on the desktop.
    client.screen.key("2")?;
    desk.wait_picture("the request on the approver's page", BOUND, interrupt, |picture| {
        Ok((picture.asks() && *picture != nothing).then_some(()))
    })?;
    desk.screen.key("a")?;
    thread::sleep(SETTLED_THERE);
    desk.screen.key("Return")?;
    thread::sleep(SETTLED_THERE);
    client.screen.key("Escape")?;
    page(&mut client, "the desktop after the page", false)?;
    let _copied = holds(&client, &disks.dir, &text)?;
    pastes(&client)?;
    client.wait_colour(COLOUR, TOLERANCE, BOUND, interrupt)?;
    desk.screen.key("Escape")?;
    if !desk.ends_within(BOUND)? {
        return Err(Error::broken("the approver's Escape does not end his connection"));
    }
    client.kill();
    machine.power_off()?;
    let found = copy(&disks, &tools.work.join("policy-approved"))?;
    let [recording] = found.as_slice() else {
        return Err(Error::broken(format!("{} recordings instead of one", found.len())));
    };
    let mut look = Command::new(&tools.lucidctl);
    look.args(["--json", "recording", "policy"]).arg(recording);
    let said = ask_well("looking at who allowed what", &mut look, b"")?;
    let said: Value = serde_json::from_slice(&said.out).map_err(|error| Error::talk("lucidctl", error))?;
    let of = |kind: &str| {
        let changes = said["changes"].as_array().into_iter().flatten();
        changes.filter(|change| change["kind"] == kind && change["on_screen"] == true).collect::<Vec<_>>()
    };
    match (of("request").as_slice(), of("decision").as_slice()) {
        ([asked], [decided]) if asked["requester"] == USER && decided["approver"] == APPROVER => {
            Ok(format!("{USER} asked, {APPROVER} allowed it, and a paste passed"))
        }
        _ => Err(Error::broken(format!("what was asked for and decided is told otherwise: {said}"))),
    }
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
    let says = format!("[policy]\nprofile = \"{}\"\n\n[recording]\nowner = \"{public}\"\n", profile.name);
    let (disks, mut machine) = machine(context, image, profile.name, &says)?;
    let place = Place { project, tools: Path::new(""), interrupt };
    let login = Login { port: machine.port, user: USER.to_owned(), password: Some(PASSWORD.to_owned()) };
    let mut client = Client::start(place, &disks.dir.join("client"), &MODE, &login, &[])?;
    client.wait_desktop(BOUND, interrupt)?;
    let _copied = holds(&client, &disks.dir, "secret of the client")?;
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
