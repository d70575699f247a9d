//! Several users at once, what `lucidctl` tells about them, and how sessions are ended for them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{MODES, Target};
use crate::{
    build,
    client::{Client, Login, Mode, write_accounts},
    error::{Error, Result},
    machine,
    progress::{Answer, Background, ask, ask_well},
    suite::Report,
};

/// Each has a desktop of their own, painted in a colour of their own.
const USERS: [(&str, &str, [u8; 3]); 8] = [
    ("ada", "#2a7f3c", [0x2a, 0x7f, 0x3c]),
    ("grace", "#d4145a", [0xd4, 0x14, 0x5a]),
    ("edsger", "#0b3d91", [0x0b, 0x3d, 0x91]),
    ("barbara", "#ff8800", [0xff, 0x88, 0x00]),
    ("donald", "#00a0a0", [0x00, 0xa0, 0xa0]),
    ("frances", "#7030c0", [0x70, 0x30, 0xc0]),
    ("leslie", "#c0c0c0", [0xc0, 0xc0, 0xc0]),
    ("radia", "#604000", [0x60, 0x40, 0x00]),
];
/// The longest that a user may do nothing, in the check of that.
const IDLE: Duration = Duration::from_secs(20);

/// The checks, with services of their own beside the same desktops: `serve` gives the RDP host's command.
pub(super) fn run(target: &Target, serve: impl Fn(u16, &Path) -> Command, report: &mut Report) -> Result<()> {
    let several = format!("{}: {} users at once have desktops of their own", target.name, USERS.len());
    let ended = format!("{}: an administrator's message stands on the desktop that is ended", target.name);
    let idle = format!("{}: an idle session is announced, kept by a key, and ended", target.name);
    if ![&several, &ended, &idle].iter().any(|name| report.wants(name)) {
        return Ok(());
    }
    let host = Host::start(target, &serve, "several", &[])?;
    let mut sessions = Vec::new();
    report.check(&several, || {
        let start = Instant::now();
        sessions = all_at_once(target, &host)?;
        Ok(format!(
            "{} desktops painted and told apart after {:.1} s",
            sessions.len(),
            start.elapsed().as_secs_f64()
        ))
    });
    if !sessions.is_empty() {
        report.check(&ended, || ended_with_a_message(target, &host, &mut sessions));
    }
    drop(sessions);
    drop(host);
    // A second host of the same desktops, because limits are an option of its start.
    report.check(&idle, || {
        let limit = format!("{}s", IDLE.as_secs());
        let host = Host::start(target, &serve, "idle", &["--idle-limit", &limit])?;
        idles(target, &host)
    });
    target.place.interrupt.check()
}

/// An RDP host for all users.
struct Host {
    /// Ends with this.
    _service: Background,
    logins: Vec<Login>,
    lucidctl: PathBuf,
    control: PathBuf,
}

impl Host {
    fn start(
        target: &Target,
        serve: &impl Fn(u16, &Path) -> Command,
        name: &str,
        options: &[&str],
    ) -> Result<Self> {
        let port = machine::free_port()?;
        let logins: Vec<Login> = USERS
            .iter()
            .map(|(user, ..)| Login {
                port,
                user: (*user).to_owned(),
                password: Some(format!("Calm-Heron-{user}-7")),
            })
            .collect();
        let account = target.dir(name).with_extension("accounts.json");
        write_accounts(&logins, &account)?;
        let control = target.dir(name).with_extension("sock");
        let mut command = serve(port, &account);
        command
            .arg("--control")
            .arg(&control)
            .args(["--max-sessions", &USERS.len().to_string()])
            .args(options);
        let mut service = Background::start(&command, &target.dir(name).with_extension("log"))?;
        target.place.interrupt.wait_for("the RDP host", Duration::from_secs(30), || {
            service.must_run("serving RDP")?;
            Ok((control.exists() && machine::answers(port).is_ok()).then_some(()))
        })?;
        let lucidctl = build::host_program(target.place.project, "lucidctl");
        Ok(Self { _service: service, logins, lucidctl, control })
    }

    /// What `lucidctl` answers.
    fn ctl(&self, arguments: &[&str]) -> Result<Answer> {
        ask(Command::new(&self.lucidctl).arg("--socket").arg(&self.control).args(arguments), b"")
    }

    /// The sessions, as `lucidctl status --json` tells them.
    fn sessions(&self) -> Result<Vec<Value>> {
        let mut command = Command::new(&self.lucidctl);
        command.arg("--socket").arg(&self.control).args(["status", "--json"]);
        let out = ask_well("asking for the status", &mut command, b"")?.out;
        let status: Value = serde_json::from_slice(&out).map_err(|error| Error::talk("lucidctl", error))?;
        let sessions = status["sessions"].as_array().cloned();
        sessions.ok_or_else(|| Error::talk("lucidctl", "a status without sessions"))
    }

    fn client(&self, target: &Target, user: usize) -> Result<Client> {
        let login =
            self.logins.get(user).ok_or_else(|| Error::broken("there is no such user in these checks"))?;
        // Small, because eight of them are painted and looked at by the same processors.
        let mode = Mode { size: (800, 600), ..MODES[0] };
        Client::start(target.place, &target.dir(&login.user), &mode, login, &[])
    }
}

fn all_at_once(target: &Target, host: &Host) -> Result<Vec<Client>> {
    let interrupt = target.place.interrupt;
    // Many share what one has otherwise.
    let bound = target.bound * 4;
    let mut clients = (0..USERS.len()).map(|user| host.client(target, user)).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.wait_desktop(bound, interrupt)?;
    }
    for (client, (_, colour, _)) in clients.iter().zip(USERS) {
        client.screen.point_to_the_middle()?;
        client.screen.key("super+f")?;
        client.screen.type_text(&format!(r"printf '\e]11;{colour}\a\e[?25l\e[2J\e[H';read"))?;
        client.screen.key("Return")?;
    }
    for (client, (.., colour)) in clients.iter_mut().zip(USERS) {
        client.wait_colour(colour, MODES[0].tolerance, bound, interrupt)?;
    }
    let told = host.sessions()?;
    for (user, ..) in USERS {
        let session = told.iter().find(|session| session["user"] == user);
        if session.is_none_or(|session| session["state"] != "connected" || session["width"] != 800) {
            return Err(Error::broken(format!("lucidctl does not tell of {user}'s session: {told:?}")));
        }
    }
    Ok(clients)
}

fn ended_with_a_message(target: &Target, host: &Host, clients: &mut Vec<Client>) -> Result<String> {
    let interrupt = target.place.interrupt;
    let (user, _, colour) = USERS[USERS.len() - 1];
    let mut client = clients.pop().ok_or_else(|| Error::broken("no client is left"))?;
    let id = id_of(host, user)?;
    let end = ["sessions", "end", &id, "--message", "The device is being moved", "--in", "8s"];
    let answer = host.ctl(&end)?;
    if !answer.status.success() {
        return Err(Error::broken(format!("lucidctl {}: {}", end.join(" "), answer.err)));
    }
    shows_notice(&mut client, target)?;
    client.screen.picture()?.save(&target.screens.join("notice.png"))?;
    let ending = client.wait_end(target.bound, interrupt)?;
    if !ending.said.contains("ERRINFO_RPC_INITIATED_LOGOFF") {
        return Err(Error::broken(format!("it was not told why: {}", ending.describe())));
    }
    interrupt.wait_for("the session's end in lucidctl", target.bound, || {
        Ok(host.sessions()?.iter().all(|session| session["user"] != user).then_some(()))
    })?;
    // Nobody else has seen anything of it.
    for (client, (.., colour)) in clients.iter_mut().zip(USERS) {
        client.wait_colour(colour, MODES[0].tolerance, target.bound, interrupt)?;
    }
    let gone = host.ctl(&["sessions", "end", &id])?;
    if gone.status.code() != Some(5) {
        return Err(Error::broken(format!("ending it once more: {}, {}", gone.status, gone.err)));
    }
    // What the user sees next time is a new desktop.
    let mut next = host.client(target, USERS.len() - 1)?;
    let picture = next.wait_desktop(target.bound * 4, interrupt)?;
    if picture.share(colour, MODES[0].tolerance) > 0.5 {
        return Err(Error::broken("the desktop that was ended is shown again"));
    }
    Ok("ERRINFO_RPC_INITIATED_LOGOFF".to_owned())
}

fn idles(target: &Target, host: &Host) -> Result<String> {
    let interrupt = target.place.interrupt;
    let mut client = host.client(target, 0)?;
    shows_notice(&mut client, target)?;
    let id = id_of(host, USERS[0].0)?;
    let ends_in = || -> Result<u64> {
        let shown = host.ctl(&["sessions", "show", &id, "--json"])?;
        let session: Value = serde_json::from_str(&shown.text())
            .map_err(|error| Error::talk("lucidctl", format!("{error}: {}", shown.err)))?;
        session["ends_in_seconds"].as_u64().ok_or_else(|| Error::broken(format!("no end is told: {session}")))
    };
    interrupt.wait_for("half of the idle limit", target.bound, || {
        Ok((ends_in()? <= IDLE.as_secs() / 2).then_some(()))
    })?;
    client.screen.key("Shift_L")?;
    interrupt.wait_for("the key's effect", target.bound, || {
        client.must_run()?;
        Ok((ends_in()? > IDLE.as_secs() / 2).then_some(()))
    })?;
    let ending = client.wait_end(target.bound + IDLE, interrupt)?;
    if !ending.said.contains("ERRINFO_IDLE_TIMEOUT") {
        return Err(Error::broken(format!("it was not told why: {}", ending.describe())));
    }
    Ok("ERRINFO_IDLE_TIMEOUT".to_owned())
}

/// The number of a user's session.
fn id_of(host: &Host, user: &str) -> Result<String> {
    let sessions = host.sessions()?;
    let session = sessions.iter().find(|session| session["user"] == user);
    let id = session.and_then(|session| session["id"].as_u64());
    id.map(|id| id.to_string()).ok_or_else(|| Error::broken(format!("{user} has no session: {sessions:?}")))
}

/// Waits for a notice over the desktop.
fn shows_notice(client: &mut Client, target: &Target) -> Result<()> {
    target.place.interrupt.wait_for("a notice on the desktop", target.bound, || {
        client.must_run()?;
        Ok(has_notice(client)?.then_some(()))
    })
}

/// Whether there is one.
pub(super) fn has_notice(client: &Client) -> Result<bool> {
    Ok(client.screen.picture()?.has_notice())
}
