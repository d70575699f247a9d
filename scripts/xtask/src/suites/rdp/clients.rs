//! Clients beside FreeRDP's own for X11: rdesktop, Remmina, FreeRDP 3's for SDL, IronRDP's, and aardwolf.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{COLOURS, Target, film, paint, sessions};
use crate::{
    build,
    client::{Client, Generation, Login, Mode, Screen, foreign},
    error::{At, Error, Result},
    progress::{ask, ask_well, last_lines},
    suite::Report,
};

/// What all of them ask for.
pub(super) const SIZE: (usize, usize) = (1024, 768);

/// A client with a window, in a way in which it is used.
struct Other {
    /// As it is called in the names of checks.
    name: &'static str,
    /// The farthest that a channel of a pixel may be from what was painted.
    tolerance: u8,
    start: fn(&Target, &Path, &Login) -> Result<Client>,
}

/// rdesktop speaks NLA only with Kerberos, which the host has not. It gets lossless bitmaps,
/// whatever depth it asks for. Remmina and the client for SDL are asked for no codec but the pipeline's lossless one.
static OTHERS: [Other; 7] = [
    Other { name: "rdesktop, TLS", tolerance: 0, start: |t, dir, login| rdesktop(t, dir, login, "32") },
    Other {
        name: "rdesktop, TLS, 24 bpp",
        tolerance: 0,
        start: |t, dir, login| rdesktop(t, dir, login, "24"),
    },
    Other {
        name: "rdesktop, TLS, 16 bpp",
        tolerance: 0,
        start: |t, dir, login| rdesktop(t, dir, login, "16"),
    },
    Other { name: "sdl-freerdp3, TLS", tolerance: 2, start: |t, dir, login| sdl(t, dir, login, "tls") },
    Other { name: "sdl-freerdp3, NLA", tolerance: 2, start: |t, dir, login| sdl(t, dir, login, "nla") },
    Other { name: "Remmina, TLS", tolerance: 2, start: |t, dir, login| remmina(t, dir, login, "tls") },
    Other { name: "Remmina, NLA", tolerance: 2, start: |t, dir, login| remmina(t, dir, login, "nla") },
];

/// Every client comes in, shows what is painted and takes what is typed.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    for other in &OTHERS {
        let name = format!("{}, {}", target.name, other.name);
        let open = || {
            let dir = target.dir(&name);
            fs::create_dir_all(&dir).at("making", &dir)?;
            let mut client = (other.start)(target, &dir, &target.login)?;
            client.wait_desktop(target.bound, target.place.interrupt)?;
            Ok(client)
        };
        if let Some(mut client) = paint(target, &name, other.tolerance, open, report)? {
            let expected = film::Expected { size: SIZE, lossy: other.tolerance > 0 };
            film::check(target, &name, &mut client, expected, report)?;
            report.check(format!("{name}: logs off"), || sessions::log_off(target, client).map(|()| ""));
        }
        target.place.interrupt.check()?;
    }
    for watcher in WATCHERS.iter().filter(|watcher| watcher.on_all || !target.slow_to_open) {
        let name = format!("{}, {}: shows the desktop exactly and takes keys", target.name, watcher.name);
        report.check(&name, || watched(target, &target.dir(&name), watcher));
        target.place.interrupt.check()?;
    }
    let name =
        format!("{}, aardwolf, NLA: a wrong password and an unknown user are refused alike", target.name);
    report.check(&name, || refused_alike(target, &target.dir(&name)));
    Ok(())
}

/// A client's command with a home of its own, so that known certificates and settings of whoever runs this stay out.
fn at_home(command: &mut Command, dir: &Path) {
    command.env("HOME", dir);
    for (variable, folder) in
        [("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data"), ("XDG_CACHE_HOME", "cache")]
    {
        command.env(variable, dir.join(folder));
    }
}

fn password(login: &Login) -> &str {
    login.password.as_deref().unwrap_or_default()
}

fn rdesktop(target: &Target, dir: &Path, login: &Login, depth: &str) -> Result<Client> {
    // What it asks about the certificate; it reads the answer where nothing else is read from.
    let answers = dir.join("answers");
    fs::write(&answers, "yes\n".repeat(8)).at("writing", &answers)?;
    let mut command = target.place.project.command("sh");
    at_home(&mut command, dir);
    command.args(["-c", r#"answers=$1; shift; exec rdesktop "$@" <"$answers""#, "sh"]).arg(&answers);
    // `-i` keeps it off NLA: after a certificate that is not RSA's it goes back to TLS, or (one time in four) falls over
    // a pointer that it never set.
    command.args(["-i", "-D", "-k", "en-us", "-a", depth]);
    command.args(["-u", &login.user, "-p", password(login)]);
    command.args(["-g", &format!("{}x{}", SIZE.0, SIZE.1), &format!("127.0.0.1:{}", login.port)]);
    Client::start_on(Screen::start(dir, SIZE, target.place.interrupt)?, command)
}

fn sdl(target: &Target, dir: &Path, login: &Login, security: &'static str) -> Result<Client> {
    let place = target.place;
    let mut command = foreign(place.project, place.tools, "usr/bin/sdl-freerdp3")?;
    command.env("SDL_VIDEODRIVER", "x11");
    let mode = Mode {
        client: Generation::Three,
        security,
        codec: "AVC420",
        options: &["/gfx:AVC420"],
        tolerance: 2,
        size: SIZE,
    };
    Client::start_command(command, place, dir, &mode, login, "127.0.0.1", &[])
}

/// Remmina takes connections from files, with a password that it has written itself, and wants a session bus.
fn remmina(target: &Target, dir: &Path, login: &Login, security: &str) -> Result<Client> {
    let screen = Screen::start(dir, SIZE, target.place.interrupt)?;
    let profile = dir.join("lucid.remmina");
    let text = format!(
        "[remmina]\nname=lucid\nprotocol=RDP\nserver=127.0.0.1:{}\nusername={}\ncert_ignore=1\n\
         resolution_mode=2\nresolution_width={}\nresolution_height={}\nviewmode=4\ndisableclipboard=1\n\
         security={security}\n",
        login.port, login.user, SIZE.0, SIZE.1
    );
    fs::write(&profile, text).at("writing", &profile)?;
    // No toolbar over the picture's upper edge, and no questions.
    let settings = dir.join("config/remmina");
    fs::create_dir_all(&settings).at("making", &settings)?;
    let settings = settings.join("remmina.pref");
    fs::write(&settings, "[remmina_pref]\nfullscreen_toolbar_visibility=2\nperiodic_news_permitted=0\n")
        .at("writing", &settings)?;
    let command = || {
        let mut command = target.place.project.command("dbus-run-session");
        at_home(&mut command, dir);
        // Nobody's screen reader.
        command.env("NO_AT_BRIDGE", "1").env("DISPLAY", screen.display());
        command.args(["--", "remmina"]);
        command
    };
    let mut password_set = command();
    password_set.arg("--update-profile").arg(&profile);
    password_set.args(["--set-option", &format!("password={}", password(login))]);
    ask_well("writing a password for Remmina", &mut password_set, b"")?;
    let mut command = command();
    command.arg("-c").arg(&profile);
    Client::start_on(screen, command)
}

/// A client without a window, which looks by itself: it comes in, presses Return, waits until every pixel has the colour
/// that it is told, and says how far the farthest one was off.
struct Watcher {
    /// As it is called in the names of checks.
    name: &'static str,
    /// Whether it is tried on the machine in QEMU too, which takes it longer: one of each client is.
    on_all: bool,
    /// The command for that; the colour is six hexadecimal digits.
    command: fn(&Target, &Path, &str) -> Result<Command>,
}

static WATCHERS: [Watcher; 4] = [
    Watcher {
        name: "IronRDP, TLS, bitmaps",
        on_all: false,
        command: |t, dir, colour| ironrdp(t, dir, colour, "tls", "bitmaps"),
    },
    Watcher {
        name: "IronRDP, NLA, graphics pipeline",
        on_all: true,
        command: |t, dir, colour| ironrdp(t, dir, colour, "nla", "pipeline"),
    },
    Watcher {
        name: "aardwolf, TLS",
        on_all: false,
        command: |t, dir, colour| aardwolf(t, dir, &t.login, colour, "rdp+plain"),
    },
    // The one that puts NTLM into SPNEGO.
    Watcher {
        name: "aardwolf, NLA",
        on_all: true,
        command: |t, dir, colour| aardwolf(t, dir, &t.login, colour, "rdp+ntlm-password"),
    },
];

/// IronRDP's client, which the workspace builds as it builds the services.
pub(super) fn ironrdp(
    target: &Target,
    dir: &Path,
    colour: &str,
    security: &'static str,
    pictures: &'static str,
) -> Result<Command> {
    let Login { port, user, .. } = &target.login;
    let program = build::host_program(target.place.project, "watch-with-ironrdp");
    let mut client = target.place.project.command(&program.to_string_lossy());
    at_home(&mut client, dir);
    client.args(["--security", security, "--pictures", pictures, "--colour", colour]);
    client.args(["--port", &port.to_string(), "--user", user, "--password", password(&target.login)]);
    client.args(["--width", &SIZE.0.to_string(), "--height", &SIZE.1.to_string()]);
    client.args(["--bound", &target.bound.as_secs().to_string()]);
    Ok(client)
}

/// aardwolf and all that it needs, at versions that were tried together.
const AARDWOLF: [&str; 21] = [
    "aardwolf==0.2.16",
    "arc4==0.5.0",
    "asn1crypto==1.5.1",
    "asn1tools==0.169.0",
    "asyauth==0.0.23",
    "asysocks==0.2.18",
    "bitstruct==8.24.0",
    "cffi==2.1.1",
    "colorama==0.4.6",
    "cryptography==50.0.2",
    "h11==0.16.0",
    "minikerberos==0.4.9",
    "oscrypto==1.3.0",
    "pillow==13.0.0",
    "pycparser==3.12",
    "pycryptodomex==3.24.2",
    "pyparsing==3.3.3",
    "pyperclip==1.11.0",
    "six==1.17.0",
    "tqdm==4.70.1",
    "unicrypto==0.0.12",
];

/// A Python that has aardwolf, in an environment of its own: it is needed for nothing else.
fn python_with_aardwolf(target: &Target) -> Result<PathBuf> {
    let project = target.place.project;
    let venv = project.lucid.join("aardwolf");
    let python = venv.join("bin/python3");
    let stamp = venv.join("lucid-pinned");
    let wanted = AARDWOLF.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    let mut make = project.command("/usr/bin/python3");
    ask_well("making a Python environment", make.args(["-m", "venv", "--clear"]).arg(&venv), b"")?;
    let mut install = project.command(&python.to_string_lossy());
    install.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
    let installed = ask_well("installing aardwolf", install.args(AARDWOLF), b"");
    if let Err(error) = installed {
        return Err(Error::CannotCheck(format!("aardwolf cannot be had from PyPI now: {error}")));
    }
    fs::write(&stamp, wanted).at("writing", &stamp)?;
    Ok(python)
}

fn aardwolf(
    target: &Target,
    dir: &Path,
    login: &Login,
    colour: &str,
    scheme: &'static str,
) -> Result<Command> {
    const SCRIPT: &str = include_str!("watch_with_aardwolf.py");
    let python = python_with_aardwolf(target)?;
    let script = dir.join("watch_with_aardwolf.py");
    fs::write(&script, SCRIPT).at("writing", &script)?;
    let Login { port, user, .. } = login;
    let mut client = target.place.project.command(&python.to_string_lossy());
    at_home(&mut client, dir);
    client.arg(&script).arg(format!("{scheme}://{user}:{}@127.0.0.1:{port}", password(login)));
    client.args([SIZE.0.to_string(), SIZE.1.to_string(), colour.to_owned()]);
    client.arg(target.bound.as_secs().to_string());
    Ok(client)
}

/// What aardwolf says to its user when it is not let in; the reason comes from the host, through SPNEGO.
fn refused_alike(target: &Target, dir: &Path) -> Result<String> {
    /// STATUS_LOGON_FAILURE (MS-ERREF 2.3.1).
    const REASON: &str = "0xc000006d";
    fs::create_dir_all(dir).at("making", dir)?;
    let Login { port, user, password } = &target.login;
    let wrong = Login { port: *port, user: user.clone(), password: Some("Wrong-Heron-12".to_owned()) };
    let unknown = Login { port: *port, user: "nobody-here".to_owned(), password: password.clone() };
    for login in [wrong, unknown] {
        let mut client = aardwolf(target, dir, &login, "000000", "rdp+ntlm-password")?;
        let ending = ask(&mut client, b"")?;
        if ending.status.success() || !ending.err.contains(REASON) {
            return Err(Error::broken(format!("{} was not refused as such: {}", login.user, ending.err)));
        }
    }
    Ok(REASON.to_owned())
}

/// Another client prepares a desktop that turns green at the next key, and leaves it to the one that watches.
fn watched(target: &Target, dir: &Path, watcher: &Watcher) -> Result<String> {
    let ([r, g, b], _) = COLOURS[0];
    let colour = format!("{r:02x}{g:02x}{b:02x}");
    fs::create_dir_all(dir).at("making", dir)?;
    let mut client = (watcher.command)(target, dir, &colour)?;
    let mut first = rdesktop(target, dir, &target.login, "32")?;
    first.wait_desktop(target.bound, target.place.interrupt)?;
    first.screen.point_to_the_middle()?;
    first.screen.key("super+f")?;
    let command = format!(r"printf '\e[?25l';clear;read;printf '\e]11;#{colour}\a\e[?25l\e[2J\e[H';read");
    first.screen.type_text(&command)?;
    first.screen.key("Return")?;
    // Cleared, so that nothing of it is shown any more.
    target.place.interrupt.wait_for("a cleared terminal", target.bound, || {
        first.must_run()?;
        Ok((!first.screen.picture()?.has_prompt()).then_some(()))
    })?;
    first.kill();
    drop(first);

    let shown = ask_well(&format!("watching through {}", watcher.name), &mut client, b"")?;

    // Back to a prompt, and off.
    let mut last = rdesktop(target, dir, &target.login, "32")?;
    last.wait_colour(COLOURS[0].0, 0, target.bound, target.place.interrupt)?;
    last.screen.key("Return")?;
    last.screen.type_text(r"printf '\e]111\a\e[?25h';clear")?;
    last.screen.key("Return")?;
    last.wait_desktop(target.bound, target.place.interrupt)?;
    sessions::log_off(target, last)?;
    Ok(last_lines(&shown.text()).trim().to_owned())
}
