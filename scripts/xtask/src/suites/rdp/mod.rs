//! Real RDP clients, against the services on this machine and against the machine in QEMU.

pub(super) mod clipboard;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

mod administration;
mod cache;
mod clients;
mod desktop;
pub(super) mod drives;
mod film;
mod keyboard;
mod monitors;
mod mouse;
mod sessions;
pub(super) mod sound;
mod touch;
mod window;

use super::Context;
use crate::{
    build,
    client::{Client, Ending, Generation, Login, Mode, Place, foreign_wrapper},
    error::{At, Error, Result},
    journal::Journal,
    machine::{self, Disks, Machine, Options},
    policy,
    progress::{Background, said},
    setup::Project,
    suite::{Picks, Report},
};

/// How many idle connections there are beside the real client.
const IDLE_CONNECTIONS: usize = 200;
/// How many seconds later a real client may be let in because of them.
const IDLE_DELAY: f64 = 1.0;
/// Between two idle connections; see where it is used.
const CONNECTION_PACE: Duration = Duration::from_millis(10);
/// How often a client's time is taken. The shortest counts: FreeRDP measures its own routines at each start, which takes
/// it between 0.3 and 1.5 s, whatever the host does.
const TIMES: usize = 7;
/// Stands in what the broken handshakes send, and may stand in no log.
const MARKER: &str = "mark-of-a-strangers-secret-6153";

/// The colours that are painted, and how they are called in the names of checks. White last: it shows whether the
/// range of the colours is full (limited range turns it into 235).
const COLOURS: [([u8; 3], &str); 4] = [
    ([0x2a, 0x7f, 0x3c], "green"),
    ([0xd4, 0x14, 0x5a], "crimson"),
    ([0x0b, 0x3d, 0x91], "blue"),
    ([0xff, 0xff, 0xff], "white"),
];

/// Every client, security and codec.
static MODES: [Mode; 6] = [
    Mode {
        client: Generation::Two,
        security: "tls",
        codec: "AVC420",
        options: &["/gfx-h264:AVC420"],
        tolerance: 2,
        size: (1280, 720),
    },
    // A size that is no multiple of a macroblock.
    Mode {
        client: Generation::Two,
        security: "nla",
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
        size: (1280, 720),
    },
    Mode {
        client: Generation::Two,
        security: "nla",
        codec: "no codec asked for",
        options: &[],
        tolerance: 2,
        size: (1024, 768),
    },
    Mode {
        client: Generation::Three,
        security: "tls",
        codec: "AVC420",
        options: &["/gfx:AVC420"],
        tolerance: 2,
        size: (1280, 720),
    },
    Mode {
        client: Generation::Three,
        security: "nla",
        codec: "AVC420",
        options: &["/gfx:AVC420"],
        tolerance: 2,
        size: (1280, 720),
    },
];

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let tools = context.tools()?;
    if report.wants("host") {
        on_this_machine(context, &tools, report)?;
    }
    if report.wants("qemu") {
        in_qemu(context, &tools, report)?;
    }
    Ok(())
}

/// What the clients are let loose on.
struct Target<'a> {
    name: &'static str,
    place: Place<'a>,
    login: Login,
    dir: PathBuf,
    screens: PathBuf,
    /// The longest that anything may take.
    bound: Duration,
    /// Whether a connection takes long to open by itself: QEMU's user network needs half a second for each, so
    /// many are opened once and not for every client.
    slow_to_open: bool,
    /// Whether every client and codec is tried, and not only each client, each security and each codec once.
    all_clients: bool,
    /// Whether the checks that take too long for every run are made.
    long: bool,
    /// The program that paints what moves, if the desktop can run it: a program of this machine.
    scene: Option<PathBuf>,
}

impl Target<'_> {
    fn dir(&self, name: &str) -> PathBuf {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.dir.join(name)
    }

    /// Lets a client authenticate and nothing else.
    fn authenticate(&self, name: &str, mode: &Mode, login: &Login) -> Result<Ending> {
        let client = Client::start(self.place, &self.dir(name), mode, login, &["+auth-only"])?;
        client.wait_end(self.bound, self.place.interrupt)
    }

    fn session(&self, name: &str, mode: &Mode) -> Result<Client> {
        let mut client = Client::start(self.place, &self.dir(name), mode, &self.login, &[])?;
        client.wait_desktop(self.bound, self.place.interrupt)?;
        Ok(client)
    }

    /// Starts a service of a check's own, with its log in `dir`, and waits until it answers on its port.
    fn service(&self, command: &Command, port: u16, dir: &Path) -> Result<Background> {
        let log = dir.join("lucid-rdp.log");
        fs::write(&log, "").at("emptying", &log)?;
        let mut service = Background::start(command, &log)?;
        self.place.interrupt.wait_for("the service", self.bound, || {
            service.must_run("serving RDP")?;
            Ok(machine::answers(port).is_ok().then_some(()))
        })?;
        Ok(service)
    }
}

/// The services as they are started on any machine, without QEMU and without root.
fn on_this_machine(context: &Context, tools: &Path, report: &mut Report) -> Result<()> {
    let Context { project, steps, .. } = context;
    let interrupt = &steps.interrupt;
    let dir = project.lucid.join("machine/host");
    if dir.exists() {
        fs::remove_dir_all(&dir).at("emptying", &dir)?;
    }
    for folder in ["state", "run", "home", "runtime"] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder).at("making", &folder)?;
    }
    set_private(&dir.join("runtime"))?;
    let rdp = build::host_program(project, "lucid-rdp");

    let socket = dir.join("desktop.sock");
    let open = policy::write(&dir, &policy::table(""))?;
    let serve_with =
        |port: u16, account: &Path, policy: &Path| serve(&rdp, &dir, &socket, port, account, policy);
    let serve = |port: u16, account: &Path| serve_with(port, account, &open);
    let account = dir.join("account.json");
    let login = Login {
        port: machine::free_port()?,
        user: "tester".to_owned(),
        password: Some("Quiet-Otter-58".to_owned()),
    };
    report.check("host: lucid-rdp refuses to start without an account", || {
        let mut refusals = Vec::new();
        let empty = dir.join("no-accounts.json");
        fs::write(&empty, r#"{"version":1,"accounts":[]}"#).at("writing", &empty)?;
        for file in [&account, &empty] {
            let mut log = Background::start(&serve(login.port, file), &dir.join("refused.log"))?;
            let status =
                interrupt.wait_for("lucid-rdp's refusal", Duration::from_secs(20), || log.ended())?;
            let text = log.output()?;
            if status.success() || !text.contains(&*file.to_string_lossy()) {
                return Err(Error::broken(format!("lucid-rdp {} and said:\n{text}", said(status))));
            }
            refusals.push(status.code().map_or("a signal".to_owned(), |code| format!("status {code}")));
        }
        Ok(refusals.join(", "))
    });

    login.write_account(&account)?;
    // Its environment has nothing of ours, but a home that is this run's alone.
    let home = dir.join("home");
    let mark = format!("HOME={}", home.display());
    let mut desktop = Command::new(build::host_program(project, "lucid-desktop"));
    desktop.arg("--listen").arg(&socket).arg("--home").arg(&home).arg("--runtime").arg(dir.join("runtime"));
    desktop.arg("--sway").arg(foreign_wrapper(project, tools, "usr/bin/sway", &dir.join("sway"))?);
    desktop.arg("--sway-config").arg(sway_config(project, &dir)?);
    // All users of the checks with several, and the kept desktop of the one before.
    desktop.args(["--max", "10"]);
    let sound = sound::Programs::write(project, tools, &dir)?;
    desktop.arg("--pipewire").arg(&sound.pipewire).arg("--wireplumber").arg(&sound.wireplumber);
    let mut desktop = Background::start(&desktop, &dir.join("lucid-desktop.log"))?;
    let mut rdp_service = Background::start(&serve(login.port, &account), &dir.join("lucid-rdp.log"))?;
    interrupt.wait_for("the services", Duration::from_secs(30), || {
        desktop.must_run("serving desktops")?;
        rdp_service.must_run("serving RDP")?;
        Ok((socket.exists() && machine::answers(login.port).is_ok()).then_some(()))
    })?;
    let target = Target {
        name: "host",
        place: Place { project, tools, interrupt },
        login,
        dir: dir.clone(),
        screens: project.lucid.join("screens"),
        bound: Duration::from_secs(30),
        slow_to_open: false,
        all_clients: true,
        long: context.long,
        scene: Some(build::host_program(project, "bench-scene")),
    };
    common(&target, report)?;
    clipboard::check(
        &target,
        &dir.join("runtime"),
        &|port, policy| serve_with(port, &account, policy),
        report,
    )?;
    sound::check(&target, &sound, &|port, policy| serve_with(port, &account, policy), &mark, report)?;
    touch::run(&target, report)?;
    cache::check(&target, report)?;
    drives::check(&target, &home, &|port, policy| serve_with(port, &account, policy), report)?;

    sessions::many_cuts(&target, &rdp_service, report)?;
    window::many_sizes(&target, &rdp_service, report)?;
    administration::run(&target, serve, report)?;
    report.check("host: logging off leaves nothing running", || {
        let client = target.session("logs-off", &MODES[0])?;
        let during = marked(&mark);
        if !during.iter().any(|name| name == "sway") || !during.iter().any(|name| name == "foot") {
            return Err(Error::broken(format!("a session runs without sway and foot: {during:?}")));
        }
        sessions::log_off(&target, client)?;
        let start = Instant::now();
        let mut left = Vec::new();
        interrupt
            .wait_for("the end of the desktop", target.bound, || {
                left = marked(&mark);
                Ok(left.is_empty().then_some(()))
            })
            .map_err(|error| Error::broken(format!("{error}: {left:?} still run")))?;
        Ok(format!("{} gone after {:.1} s", during.join(" "), start.elapsed().as_secs_f64()))
    });
    report.check("host: broken handshakes are logged, and nothing that they sent is", || {
        must_be_logged(&rdp_service.output()?)
    });
    report.check("host: the services still run and have not panicked", || {
        desktop.must_run("serving desktops")?;
        rdp_service.must_run("serving RDP")?;
        for service in [&desktop, &rdp_service] {
            let text = service.output()?;
            if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
                return Err(Error::broken(format!("{}: {line}", service.log.display())));
            }
        }
        Ok("")
    });
    Ok(())
}

/// The desktop's configuration, with the bar's program where it lies in this checkout.
pub(super) fn sway_config(project: &Project, dir: &Path) -> Result<PathBuf> {
    const BAR: &str = "/usr/libexec/lucid-bar";
    let given = project.root.join("image/desktop/etc/sway/config");
    let text = fs::read_to_string(&given).at("reading", &given)?;
    let bar = project.root.join("image/desktop").join(BAR.trim_start_matches('/'));
    let config = dir.join("sway-config");
    fs::write(&config, text.replace(BAR, &bar.to_string_lossy())).at("writing", &config)?;
    Ok(config)
}

/// `lucid-rdp`, as it is started on any machine.
fn serve(program: &Path, dir: &Path, desktop: &Path, port: u16, account: &Path, policy: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--listen").arg(format!("127.0.0.1:{port}"));
    command.arg("--state").arg(dir.join("state")).arg("--run").arg(dir.join("run"));
    command.arg("--account").arg(account).arg("--desktop").arg(desktop).arg("--policy").arg(policy);
    command
}

/// The machine as it is.
fn in_qemu(context: &Context, tools: &Path, report: &mut Report) -> Result<()> {
    let Context { project, steps, .. } = context;
    let interrupt = &steps.interrupt;
    let image = context.image()?;
    let disks = Disks::scratch(&image, &project.lucid.join("machine/rdp"))?;
    disks.provision("[policy]\nprofile = \"standard\"\n")?;
    let mut machine = Machine::start(&disks, &Options::default(), interrupt)?;
    let announcement = machine.wait_ready(0)?;
    let password = announcement.fresh_password().map(str::to_owned);
    let target = Target {
        name: "qemu",
        place: Place { project, tools, interrupt },
        login: Login { port: machine.port, user: announcement.user, password },
        dir: disks.dir.clone(),
        screens: project.lucid.join("screens"),
        bound: Duration::from_secs(120),
        slow_to_open: true,
        // The programs are the same as on this machine, where all of them are.
        all_clients: context.long,
        long: context.long,
        scene: None,
    };
    common(&target, report)?;

    desktop::run(&target, report)?;
    report.check("qemu: logging off gives the desktop's memory back", || {
        let before = machine.steady_memory()?;
        let client = target.session("logs-off", &MODES[0])?;
        let during = machine.steady_memory()?;
        sessions::log_off(&target, client)?;
        // Less than half of what the session took may stay: page cache and allocator keep a little.
        let half = before.available - before.available.saturating_sub(during.available) / 2;
        let after = interrupt.wait_for("the memory of the desktop", target.bound, || {
            let now = machine.steady_memory()?;
            Ok((now.available >= half).then_some(now))
        })?;
        if during.used() <= before.used() {
            return Err(Error::broken("a session took no memory, so its end cannot be seen by memory"));
        }
        Ok(format!("{:.0} MB before, {:.0} with it, {:.0} after", before.used(), during.used(), after.used()))
    });
    report.check("qemu: a client comes in after that, and its desktop is kept", || {
        target.session("after-the-killed", &MODES[0]).map(|_| "")
    });
    if !report.check("qemu: the power button ends the machine", || {
        machine.power_off().map(|spent| format!("{:.1} s", spent.as_secs_f64()))
    }) {
        return Ok(());
    }
    let Some(journal) =
        report.obtain("qemu: its journal can be read", |_| String::new(), || Journal::read(&disks))
    else {
        return Ok(());
    };
    report.check("qemu: no unit failed and nothing ran out of memory", || {
        let failed = journal.failed_units();
        if failed.is_empty() { Ok("") } else { Err(Error::broken(failed.join("\n"))) }
    });
    report.check("qemu: every desktop that was started has ended", || {
        let (started, ended) = journal.started_and_ended("lucid-desktop@");
        let text = format!("{started} started, {ended} ended");
        if started > 0 && started == ended { Ok(text) } else { Err(Error::broken(text)) }
    });
    report.check("qemu: broken handshakes are logged, and nothing that they sent is", || {
        if journal.text().contains(MARKER) {
            return Err(Error::broken("what a broken handshake sent stands in the journal"));
        }
        must_be_logged(&journal.messages("lucid-rdp.service"))
    });
    Ok(())
}

/// The checks that both targets have to pass.
fn common(target: &Target, report: &mut Report) -> Result<()> {
    let [first, .., last] = &MODES;
    for mode in &MODES {
        let again =
            mode.codec.starts_with(first.codec) && mode.name() != first.name() && mode.name() != last.name();
        if target.all_clients || !again {
            paints(target, mode, report)?;
        }
    }
    if target.all_clients {
        clients::run(target, report)?;
    }
    for security in ["tls", "nla"] {
        refusals(target, security, report);
    }
    report.check(
        format!("{}: broken handshakes are dropped and the next client is served", target.name),
        || broken_handshakes(target),
    );
    if target.all_clients {
        report.check(
            format!("{}: {IDLE_CONNECTIONS} idle connections delay no client by a second", target.name),
            || idle_connections(target),
        );
    }
    sessions::run(target, report)?;
    window::run(target, report)?;
    keyboard::run(target, report)?;
    mouse::run(target, report)?;
    monitors::run(target, report)
}

/// A session in which a command that is typed paints the whole background, one colour after the other.
fn paints(target: &Target, mode: &Mode, report: &mut Report) -> Result<()> {
    let name = format!("{}, {}", target.name, mode.name());
    let interrupt = target.place.interrupt;
    let Some(mut client) = paint(target, &name, mode.tolerance, || target.session(&name, mode), report)?
    else {
        return interrupt.check();
    };
    film::check(target, &name, &mut client, film::Expected { size: mode.size, lossy: true }, report)?;
    // For people: what the desktop looks like. Every client has shown its own already.
    if std::ptr::eq(mode, &MODES[0]) {
        client.screen.key("super+f")?;
        client.screen.type_text("clear; uname -srm; ls --color /usr")?;
        client.screen.key("Return")?;
        let picture = client.wait_desktop(target.bound, interrupt)?;
        picture.save(&target.screens.join(format!("desktop-{}.png", target.name)))?;
    }
    // The next client gets a desktop of its own.
    report.check(format!("{name}: logs off"), || sessions::log_off(target, client).map(|()| ""));
    interrupt.check()
}

/// Opens a client, paints the whole background through it, one colour after the other, and gives it back; nothing if it
/// could not be opened.
fn paint(
    target: &Target,
    name: &str,
    tolerance: u8,
    open: impl FnOnce() -> Result<Client>,
    report: &mut Report,
) -> Result<Option<Client>> {
    let Target { place: Place { interrupt, .. }, bound, .. } = target;
    let Some(mut client) = report.obtain(
        format!("{name}: shows the desktop"),
        |_: &Client| String::new(),
        || {
            let client = open()?;
            let file: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            client.screen.picture()?.save(&target.screens.join(format!("{file}.png")))?;
            client.screen.point_to_the_middle()?;
            // Over the compositor's title bar: Super+F is its key for that.
            client.screen.key("super+f")?;
            Ok(client)
        },
    ) else {
        return Ok(None);
    };
    for (colour, called) in COLOURS {
        let painted = report.check(format!("{name}: a typed command paints everything {called}"), || {
            let [r, g, b] = colour;
            // Background by OSC 11, cursor off, screen cleared; `read` keeps the prompt away.
            let command = format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H';read");
            client.screen.type_text(&command)?;
            client.screen.key("Return")?;
            let farthest = client.wait_colour(colour, tolerance, *bound, interrupt)?;
            // And back to a prompt on the usual ground.
            client.screen.key("Return")?;
            client.screen.type_text(r"printf '\e]111\a\e[?25h';clear")?;
            client.screen.key("Return")?;
            client.wait_desktop(*bound, interrupt)?;
            Ok(format!("farthest pixel off by {farthest} of 255"))
        });
        if !painted {
            break;
        }
    }
    Ok(Some(client))
}

/// Wrong password, none, and an account that does not exist.
fn refusals(target: &Target, security: &'static str, report: &mut Report) {
    let Login { port, user, password } = &target.login;
    let wrong = |text: &str| Some(text.to_owned());
    let cases = [
        ("a wrong password", Login { port: *port, user: user.clone(), password: wrong("Wrong-Heron-12") }),
        ("no password", Login { port: *port, user: user.clone(), password: wrong("") }),
        (
            "an unknown user",
            Login { port: *port, user: "nobody-here".to_owned(), password: password.clone() },
        ),
    ];
    for client in [Generation::Two, Generation::Three] {
        let options: &[&str] =
            if client == Generation::Two { &["/gfx-h264:AVC420"] } else { &["/gfx:AVC420"] };
        let mode = Mode { client, security, codec: "AVC420", options, tolerance: 2, size: (1024, 768) };
        for (what, login) in &cases {
            let name = format!(
                "{}, {}, {}: {what} is refused as such",
                target.name,
                client.name(),
                security.to_uppercase()
            );
            report.check(&name, || {
                // Not only authentication: a client that was let in would show a desktop and stay.
                let client = Client::start(target.place, &target.dir(&name), &mode, login, &[])?;
                let ending = client.wait_end(target.bound, target.place.interrupt)?;
                if client_takes_no_reason(&mode) {
                    return refused_silently(&ending);
                }
                refused_properly(&ending)
            });
        }
    }
}

/// FreeRDP 3 does not announce RNS_UD_CS_SUPPORT_ERRINFO_PDU (MS-RDPBCGR 2.2.1.3.2), without which a server must
/// not send a reason after TLS. With NLA the reason comes earlier, and it is told.
fn client_takes_no_reason(mode: &Mode) -> bool {
    mode.client == Generation::Three && mode.security == "tls"
}

/// The client was let go without a desktop, and without a crash.
fn refused_silently(ending: &Ending) -> Result<String> {
    let hung_up = ending.said.contains("ERRCONNECT_CONNECT_TRANSPORT_FAILED");
    if hung_up && ending.status.code().is_some_and(|code| code != 0) {
        Ok(format!("hung up on: this client takes no reason; {}", said(ending.status)))
    } else {
        Err(Error::broken(ending.describe()))
    }
}

/// The client ended with a failure, and told its user that it is the account.
fn refused_properly(ending: &Ending) -> Result<String> {
    const WORDS: [&str; 5] = [
        "ERRCONNECT_LOGON_FAILURE",
        "LOGON_FAILED_BAD_PASSWORD",
        "ERRINFO_SERVER_DENIED_CONNECTION",
        "ERRINFO_SERVER_INSUFFICIENT_PRIVILEGES",
        "ERRCONNECT_AUTHENTICATION_FAILED",
    ];
    let word = WORDS.iter().find(|word| ending.said.contains(**word));
    match word {
        Some(word) if !ending.status.success() => Ok(format!("{word}, {}", said(ending.status))),
        _ => Err(Error::broken(ending.describe())),
    }
}

/// An X.224 connection request that is right, with a cookie (MS-RDPBCGR 2.2.1.1).
fn connection_request(cookie: &str) -> Vec<u8> {
    let cookie = format!("Cookie: mstshash={cookie}\r\n");
    let negotiation = [1, 0, 8, 0, 3, 0, 0, 0];
    let length = 11 + cookie.len() + negotiation.len();
    let mut bytes = vec![3, 0, (length >> 8) as u8, length as u8, (length - 5) as u8, 0xe0, 0, 0, 0, 0, 0];
    bytes.extend(cookie.as_bytes());
    bytes.extend(negotiation);
    bytes
}

/// Sends what no client sends; the server has to hang up each time.
fn broken_handshakes(target: &Target) -> Result<String> {
    let mut picks = Picks::new(7);
    let noise = |picks: &mut Picks, length: usize| -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|_| picks.next() as u8).collect();
        bytes.extend(MARKER.as_bytes());
        bytes
    };
    let good = connection_request(MARKER);
    // What it is, what is sent first, and what is sent after the server's confirmation, if it is to come that far.
    type Case = (&'static str, Vec<u8>, Option<Vec<u8>>);
    let mut cases: Vec<Case> = vec![
        ("the marker as text", format!("{MARKER}\r\n{MARKER}\r\n").into_bytes(), None),
        ("another protocol", format!("GET /{MARKER} HTTP/1.1\r\nHost: {MARKER}\r\n\r\n").into_bytes(), None),
        ("a request cut short", good[..good.len() / 2].to_vec(), None),
        ("a length of 65535", [&[3, 0, 0xff, 0xff], &*noise(&mut picks, 100)].concat(), None),
        ("a length of 0", [&[3, 0, 0, 0], &*noise(&mut picks, 30)].concat(), None),
        ("noise instead of TLS", good.clone(), Some(noise(&mut picks, 400))),
        (
            "a TLS record that holds no hello",
            good.clone(),
            Some([&[22, 3, 1, 0, 80], &*noise(&mut picks, 60)].concat()),
        ),
    ];
    for _ in 0..8 {
        let bytes = noise(&mut picks, 64);
        cases.push(("noise", bytes, None));
    }
    for (what, first, second) in &cases {
        dropped(target, first, second.as_deref())
            .map_err(|error| Error::broken(format!("{what}: {error}")))?;
    }
    let ending = target.authenticate("after-broken-handshakes", &MODES[1], &target.login)?;
    if !ending.status.success() {
        return Err(Error::broken(format!(
            "the next client {} and said:\n{}",
            said(ending.status),
            ending.said
        )));
    }
    Ok(format!("{} kinds and places of damage", cases.len()))
}

/// Sends bytes, ends our side, and waits until the server has ended its own.
fn dropped(target: &Target, first: &[u8], second: Option<&[u8]>) -> Result<()> {
    let broken = |error: std::io::Error| Error::talk("the RDP port", error);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, target.login.port)).map_err(broken)?;
    stream.set_read_timeout(Some(target.bound)).map_err(broken)?;
    stream.write_all(first).map_err(broken)?;
    if let Some(second) = second {
        let mut confirmation = [0; 19];
        stream.read_exact(&mut confirmation).map_err(broken)?;
        stream.write_all(second).map_err(broken)?;
    }
    // The server may have hung up before that.
    let _ = stream.shutdown(Shutdown::Write);
    let mut rest = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut rest) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(Error::talk("the RDP port", format!("it was not closed: {error}"))),
    }
}

/// The log has lines about refused handshakes and nothing of what they sent.
fn must_be_logged(log: &str) -> Result<String> {
    let hex: String = MARKER.bytes().map(|byte| format!("{byte:02x}")).collect();
    if log.contains(MARKER) || log.to_lowercase().contains(&hex) {
        return Err(Error::broken("what a broken handshake sent stands in the log"));
    }
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("malformed") || line.contains("went away")).collect();
    // One for each of the broken handshakes, at least of those that say something.
    if lines.len() < 10 {
        return Err(Error::broken(format!(
            "only {} lines tell of refused handshakes: {lines:?}",
            lines.len()
        )));
    }
    Ok(format!("{} lines", lines.len()))
}

/// The times of several clients, each from its start to its end after authentication, sorted.
fn client_times(
    target: &Target,
    name: &str,
    mut before_each: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        before_each()?;
        let start = Instant::now();
        let ending = target.authenticate(name, &MODES[1], &target.login)?;
        if !ending.status.success() {
            return Err(Error::broken(format!("{name}: {}", ending.describe())));
        }
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// A client's time with and without many connections that say nothing. Those that the server has closed in the
/// meantime are opened anew before each client comes, where that is quick. The shortest times are compared: what delays every client
/// is in them as well, and what else this machine did just then is not.
fn idle_connections(target: &Target) -> Result<String> {
    let alone = client_times(target, "alone", || Ok(()))?;
    let mut idle: Vec<TcpStream> = Vec::new();
    let mut opened = 0;
    let among = client_times(target, "among-idle", || {
        if target.slow_to_open && !idle.is_empty() {
            return Ok(());
        }
        idle.retain(is_open);
        while idle.len() < IDLE_CONNECTIONS {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, target.login.port));
            idle.push(stream.map_err(|error| Error::talk("the RDP port", error))?);
            opened += 1;
            // QEMU's network queues one connection only, and a second one waits for whole seconds.
            thread::sleep(CONNECTION_PACE);
        }
        Ok(())
    })?;
    let figures = |times: &[f64]| {
        let at = |place: usize| times.get(place).copied().unwrap_or(f64::INFINITY);
        (at(0), at(times.len() / 2))
    };
    let ((alone, alone_median), (among, among_median)) = (figures(&alone), figures(&among));
    let text = format!(
        "shortest (median) of {TIMES}: {alone:.2} ({alone_median:.2}) s alone, {among:.2} ({among_median:.2}) s \
         with {IDLE_CONNECTIONS} idle connections ({opened} opened in all, because the server closes some)"
    );
    if among <= alone + IDLE_DELAY { Ok(text) } else { Err(Error::broken(text)) }
}

/// Whether the other side has not closed a connection on which nothing is said.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    stream.set_nonblocking(true).is_ok()
        && stream.peek(&mut byte).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Only its owner may use it.
pub(super) fn set_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("setting the mode of", path)
}

/// The names of all processes with this mark in their environment. Reparented ones count as well.
fn marked(mark: &str) -> Vec<String> {
    let mut names = BTreeSet::new();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
            continue;
        }
        // A process may be gone between the two looks.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            names.insert(program_name(&words));
        }
    }
    names.into_iter().collect()
}

/// What a process runs: the program, or what the loader was told to run.
fn program_name(words: &[u8]) -> String {
    let words: Vec<String> =
        words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let mut rest = words.iter();
    let base = |word: &String| word.rsplit('/').next().unwrap_or(word).to_owned();
    let first = rest.next().map(base).unwrap_or_default();
    if !first.starts_with("ld-linux") {
        return first;
    }
    // `ld-linux … --library-path PATHS PROGRAM …`
    words.get(3).map(base).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_not_taken_for_its_program() {
        let words = b"/t/ld-linux-x86-64.so.2\0--library-path\0/t/lib\0/t/usr/bin/sway\0-c\0x\0";
        assert_eq!(program_name(words), "sway");
        assert_eq!(program_name(b"/usr/bin/foot\0"), "foot");
    }

    #[test]
    fn a_connection_request_tells_its_own_length() {
        let request = connection_request("abc");
        assert_eq!(usize::from(request[3]), request.len());
        assert_eq!(usize::from(request[4]), request.len() - 5);
    }
}
