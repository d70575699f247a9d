//! Real RDP clients: xfreerdp on an X server of its own that has no screen, driven by xdotool, and what its window
//! shows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use md4::{Digest, Md4};

use crate::{
    error::{At, Error, Result},
    progress::{Background, Interrupt, ask_well, last_lines, said},
    scene::{MARK, Marks},
    setup::Project,
};

/// Which generation of FreeRDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// xfreerdp 2.11 of Debian 12.
    Two,
    /// xfreerdp 3 of Debian 13, from the tools tree.
    Three,
}

impl Generation {
    /// How it is called in the names of checks.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Generation::Two => "xfreerdp 2",
            Generation::Three => "xfreerdp 3",
        }
    }

    /// The option for an American keyboard, which is what the X server has.
    fn us_keyboard(self) -> &'static str {
        match self {
            Generation::Two => "/kbd:0x409",
            Generation::Three => "/kbd:layout:0x409",
        }
    }

    /// The command, without arguments.
    pub(crate) fn command(self, place: &Place) -> Result<Command> {
        match self {
            Generation::Two => Ok(place.project.command("xfreerdp")),
            Generation::Three => foreign(place.project, place.tools, "usr/bin/xfreerdp3"),
        }
    }
}

/// Where clients come from.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The checkout.
    pub(crate) project: &'a Project,
    /// The tree with programs of Debian 13.
    pub(crate) tools: &'a Path,
    /// Ctrl-C.
    pub(crate) interrupt: &'a Interrupt,
}

/// A command for a program in a tree of another Debian release, run with that tree's own loader and libraries.
pub(crate) fn foreign(project: &Project, tree: &Path, program: &str) -> Result<Command> {
    let path = tree.join(program);
    if !path.exists() {
        return Err(Error::CannotCheck(format!(
            "{} is missing; `lucid-image tools` makes that tree",
            path.display()
        )));
    }
    let mut command = project.command(&tree.join("usr/lib64/ld-linux-x86-64.so.2").to_string_lossy());
    // Some libraries lie in folders that only their users' own search path names.
    let mut libraries = tree.join("usr/lib/x86_64-linux-gnu").into_os_string();
    libraries.push(":");
    libraries.push(tree.join("usr/lib/x86_64-linux-gnu/pulseaudio"));
    command.arg("--library-path").arg(&libraries).arg(&path);
    Ok(command)
}

/// A script at `wrapper` that runs a program of such a tree, for what takes a path and no command.
pub(crate) fn foreign_wrapper(
    project: &Project,
    tree: &Path,
    program: &str,
    wrapper: &Path,
) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let command = foreign(project, tree, program)?;
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
        .collect();
    fs::write(wrapper, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).at("writing", wrapper)?;
    fs::set_permissions(wrapper, fs::Permissions::from_mode(0o755)).at("setting the mode of", wrapper)?;
    Ok(wrapper.to_owned())
}

/// Whom to talk to, as whom.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    /// The port on this machine.
    pub(crate) port: u16,
    /// The account.
    pub(crate) user: String,
    /// Its password, if one is given at all.
    pub(crate) password: Option<String>,
}

impl Login {
    /// Writes the account file of lucid-rdp with that one account.
    pub(crate) fn write_account(&self, path: &Path) -> Result<()> {
        write_accounts(std::slice::from_ref(self), path)
    }
}

/// Writes the account file of lucid-rdp.
pub(crate) fn write_accounts(logins: &[Login], path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let account = |login: &Login| {
        let password = login.password.as_deref().unwrap_or_default();
        let wide: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hash: String = Md4::digest(&wide).iter().map(|byte| format!("{byte:02x}")).collect();
        serde_json::json!({"user": login.user, "nt_hash": hash})
    };
    let accounts: Vec<_> = logins.iter().map(account).collect();
    let text = serde_json::json!({"version": 1, "accounts": accounts}).to_string();
    fs::write(path, text).at("writing", path)?;
    let only_ours = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, only_ours).at("setting the mode of", path)
}

/// How a client connects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// Which client.
    pub(crate) client: Generation,
    /// `tls` or `nla`.
    pub(crate) security: &'static str,
    /// Called so in the names of checks.
    pub(crate) codec: &'static str,
    /// The client's own options for it.
    pub(crate) options: &'static [&'static str],
    /// The farthest that a channel of a pixel may be from what was painted.
    pub(crate) tolerance: u8,
    /// The size of the desktop.
    pub(crate) size: (usize, usize),
}

impl Mode {
    /// Gives a client what it needs to connect, but for a size.
    pub(crate) fn arguments(
        &self,
        command: &mut Command,
        dir: &Path,
        login: &Login,
        address: &str,
        more: &[&str],
    ) {
        command
            // Known certificates and settings of whoever runs this stay out.
            .env("HOME", dir)
            .env("XDG_CONFIG_HOME", dir)
            .arg(format!("/v:{address}:{}", login.port))
            .arg(format!("/u:{}", login.user))
            .args(login.password.iter().map(|password| format!("/p:{password}")))
            .arg(format!("/sec:{}", self.security))
            .args(["/cert:ignore", "-decorations"])
            .args(self.options)
            .args(more);
        if !self.options.iter().any(|option| option.starts_with("/kbd:")) {
            command.arg(self.client.us_keyboard());
        }
    }

    /// The name in checks.
    pub(crate) fn name(&self) -> String {
        format!("{}, {}, {}", self.client.name(), self.security.to_uppercase(), self.codec)
    }
}

/// An X server without a screen.
pub(crate) struct Screen {
    /// Ends with this.
    _server: Background,
    number: String,
    size: (usize, usize),
    /// How much of it the client's window takes, from the top left.
    view: (usize, usize),
    dir: PathBuf,
}

impl Screen {
    /// Starts one of that size; it takes a free number itself.
    pub(crate) fn start(dir: &Path, size: (usize, usize), interrupt: &Interrupt) -> Result<Self> {
        fs::create_dir_all(dir).at("making", dir)?;
        let log = dir.join("xvfb.log");
        fs::write(&log, "").at("emptying", &log)?;
        let mut server = Command::new("Xvfb");
        server.args(["-displayfd", "1", "-nolisten", "tcp", "-noreset", "-screen", "0"]);
        server.arg(format!("{}x{}x24", size.0, size.1));
        let (server, number) = serving(&server, &log, "an X server (Xvfb)", interrupt)?;
        Ok(Self { _server: server, number, size, view: size, dir: dir.to_owned() })
    }

    /// Starts one with several monitors, the primary one first; left, top, width and height of each are among the modes
    /// that every X server knows.
    pub(crate) fn with_monitors(
        dir: &Path,
        monitors: &[(usize, usize, usize, usize)],
        interrupt: &Interrupt,
    ) -> Result<Self> {
        // Only a driver for graphics cards that are none has several monitors; Xvfb has one.
        const CONFIG: &str = r#"
Section "ServerFlags"
  Option "AutoAddDevices" "false"
  Option "AutoAddGPU" "false"
  Option "DontVTSwitch" "true"
EndSection
Section "Device"
  Identifier "D"
  Driver "dummy"
  VideoRam 65536
EndSection
Section "Monitor"
  Identifier "M"
  HorizSync 5.0-1000.0
  VertRefresh 5.0-200.0
EndSection
Section "Screen"
  Identifier "S"
  Device "D"
  Monitor "M"
  DefaultDepth 24
EndSection
"#;
        fs::create_dir_all(dir).at("making", dir)?;
        let (config, log) = (dir.join("xorg.conf"), dir.join("xorg.log"));
        fs::write(&config, CONFIG).at("writing", &config)?;
        fs::write(&log, "").at("emptying", &log)?;
        let mut server = Command::new("Xorg");
        // A relative name, which whoever is not root may give as well.
        server.args(["-displayfd", "1", "-nolisten", "tcp", "-noreset", "-novtswitch", "-sharevts"]);
        server.args(["-config", "xorg.conf", "-logfile", "xorg-server.log"]).current_dir(dir);
        let (server, number) = serving(&server, &log, "an X server with several monitors (Xorg)", interrupt)?;
        let end =
            |side: fn(&(usize, usize, usize, usize)) -> usize| monitors.iter().map(side).max().unwrap_or(0);
        let size = (end(|m| m.0 + m.2), end(|m| m.1 + m.3));
        let screen = Self { _server: server, number, size, view: size, dir: dir.to_owned() };
        let mut modes = screen.command("xrandr");
        for (number, (left, top, width, height)) in monitors.iter().enumerate() {
            let (output, mode) = (format!("DUMMY{number}"), format!("{width}x{height}"));
            if number > 0 {
                let mut add = screen.command("xrandr");
                ask_well("adding a mode", add.args(["--addmode", &output, &mode]), b"")?;
            }
            modes.args(["--output", &output, "--mode", &mode, "--pos", &format!("{left}x{top}")]);
            if number == 0 {
                modes.arg("--primary");
            }
        }
        ask_well("giving an X server its monitors", &mut modes, b"")?;
        Ok(screen)
    }

    /// A program on this screen.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", self.display());
        command
    }

    /// Its name for X11 programs.
    pub(crate) fn display(&self) -> String {
        format!(":{}", self.number)
    }

    /// What is in the client's window now.
    pub(crate) fn picture(&self) -> Result<Picture> {
        let mut import = self.command("import");
        import.args(["-silent", "-window", "root", "-depth", "8", "rgb:-"]);
        let rgb = ask_well("reading the screen", &mut import, b"")?.out;
        let (width, height) = self.size;
        if rgb.len() != width * height * 3 {
            return Err(Error::talk("import", format!("{} bytes for {width}x{height} pixels", rgb.len())));
        }
        let rows = rgb.chunks_exact(width * 3).take(self.view.1);
        let rgb = rows.flat_map(|row| row.iter().take(self.view.0 * 3).copied()).collect();
        Ok(Picture { width: self.view.0, height: self.view.1, rgb })
    }

    /// Drags the edge of the client's window, as a window manager does it, within the screen. FreeRDP makes both sides
    /// even.
    pub(crate) fn resize_window(&mut self, size: (usize, usize)) -> Result<()> {
        let (width, height) = (size.0.min(self.size.0), size.1.min(self.size.1));
        let mut xdotool = self.command("xdotool");
        xdotool.args(["search", "--onlyvisible", "--name", "FreeRDP", "windowsize"]);
        ask_well("resizing a window", xdotool.args([width.to_string(), height.to_string()]), b"")?;
        self.view = (width, height);
        self.point_to_the_middle()
    }

    /// Types text into what has the keyboard.
    pub(crate) fn type_text(&self, text: &str) -> Result<()> {
        let mut xdotool = self.command("xdotool");
        ask_well("typing", xdotool.args(["type", "--clearmodifiers", "--delay", "25", "--", text]), b"")
            .map(drop)
    }

    /// Moves the pointer into the middle, from beside it: a new X server has it there, and then nobody is told.
    pub(crate) fn point_to_the_middle(&self) -> Result<()> {
        let (x, y) = ((self.view.0 / 2).to_string(), (self.view.1 / 2).to_string());
        let mut xdotool = self.command("xdotool");
        xdotool.args(["mousemove", "40", "40", "mousemove", &x, &y]);
        ask_well("moving the pointer", &mut xdotool, b"").map(drop)
    }

    /// Moves the pointer there and clicks.
    pub(crate) fn click_at(&self, x: usize, y: usize) -> Result<()> {
        let mut xdotool = self.command("xdotool");
        xdotool.args(["mousemove", &x.to_string(), &y.to_string(), "click", "1"]);
        ask_well("clicking", &mut xdotool, b"").map(drop)
    }

    /// Presses and releases keys by their places on the keyboard, as X numbers them.
    pub(crate) fn codes(&self, codes: &[&str]) -> Result<()> {
        ask_well("pressing keys", self.command("xdotool").args(["key", "--delay", "30"]).args(codes), b"")
            .map(drop)
    }

    /// Presses a key while another one is held.
    pub(crate) fn code_with(&self, held: &str, code: &str) -> Result<()> {
        let words = ["keydown", held, "key", "--delay", "30", code, "keyup", held];
        ask_well("pressing keys", self.command("xdotool").args(words), b"").map(drop)
    }

    /// Clicks a button of the mouse, as X numbers them.
    pub(crate) fn click(&self, button: &str) -> Result<()> {
        ask_well("clicking", self.command("xdotool").args(["click", button]), b"").map(drop)
    }

    /// Gives the X server's keyboard a layout.
    pub(crate) fn layout(&self, layout: &str) -> Result<()> {
        ask_well("choosing a keyboard layout", self.command("setxkbmap").arg(layout), b"").map(drop)
    }

    /// Presses and releases a key.
    pub(crate) fn key(&self, name: &str) -> Result<()> {
        ask_well("pressing a key", self.command("xdotool").args(["key", "--clearmodifiers", name]), b"")
            .map(drop)
    }
}

/// Starts an X server, and waits for the number that it says.
fn serving(server: &Command, log: &Path, what: &str, interrupt: &Interrupt) -> Result<(Background, String)> {
    let mut server = Background::start(server, log)?;
    let number = interrupt.wait_for(what, Duration::from_secs(30), || {
        server.must_run("starting an X server")?;
        let text = server.output()?;
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let is_number = |line: &&str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
        Ok(lines.find(is_number).map(str::to_owned))
    })?;
    Ok((server, number))
}

/// A client that is running.
pub(crate) struct Client {
    program: Background,
    /// Its own screen.
    pub(crate) screen: Screen,
}

/// How a client ended.
pub(crate) struct Ending {
    /// Its status.
    pub(crate) status: ExitStatus,
    /// Everything it said.
    pub(crate) said: String,
}

impl Ending {
    /// How it ended and the last of what it said, for a message.
    pub(crate) fn describe(&self) -> String {
        format!("the client {} and said:\n{}", said(self.status), last_lines(&self.said))
    }
}

impl Client {
    /// Starts a client with a screen of its own in `dir`.
    pub(crate) fn start(place: Place, dir: &Path, mode: &Mode, login: &Login, more: &[&str]) -> Result<Self> {
        let command = mode.client.command(&place)?;
        Self::start_command(command, place, dir, mode, login, "127.0.0.1", more)
    }

    /// Starts a client of a host at another address, as the command that [`Generation::command`] gave or a wrapped one.
    pub(crate) fn start_command(
        command: Command,
        place: Place,
        dir: &Path,
        mode: &Mode,
        login: &Login,
        address: &str,
        more: &[&str],
    ) -> Result<Self> {
        let screen = Screen::start(dir, mode.size, place.interrupt)?;
        Self::start_in(screen, command, mode, login, address, more)
    }

    /// The same on a screen that is there, of the mode's size.
    pub(crate) fn start_in(
        screen: Screen,
        mut command: Command,
        mode: &Mode,
        login: &Login,
        address: &str,
        more: &[&str],
    ) -> Result<Self> {
        command.arg(format!("/size:{}x{}", mode.size.0, mode.size.1));
        mode.arguments(&mut command, &screen.dir, login, address, more);
        Self::start_on(screen, command)
    }

    /// Starts any program as a client on a screen.
    pub(crate) fn start_on(screen: Screen, mut command: Command) -> Result<Self> {
        command.env("DISPLAY", screen.display());
        let log = screen.dir.join("client.log");
        fs::write(&log, "").at("emptying", &log)?;
        let program = Background::start(&command, &log)?;
        Ok(Self { program, screen })
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait_end(mut self, bound: Duration, interrupt: &Interrupt) -> Result<Ending> {
        let waited = interrupt.wait_for("the client's end", bound, || self.program.ended());
        let said = self.program.output()?;
        match waited {
            Ok(status) => Ok(Ending { status, said }),
            Err(Error::Late { what, seconds, details }) => Err(Error::Late {
                what,
                seconds,
                details: format!("{details}; it said:\n{}", last_lines(&said)),
            }),
            Err(other) => Err(other),
        }
    }

    /// Whether it ends by itself before so much time is over.
    pub(crate) fn ends_within(&mut self, bound: Duration) -> Result<bool> {
        let until = Instant::now() + bound;
        while self.program.ended()?.is_none() {
            if Instant::now() > until {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(true)
    }

    /// An error with what it said, when it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.program.must_run("keeping an RDP session")
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }

    /// Ends it without any good-bye.
    pub(crate) fn kill(&mut self) {
        self.program.kill();
    }

    /// Ends it so, and gives its screen to another one.
    pub(crate) fn into_screen(mut self) -> Screen {
        self.kill();
        self.screen
    }

    /// Waits until a terminal with a prompt is shown and nothing changes any more.
    pub(crate) fn wait_desktop(&mut self, bound: Duration, interrupt: &Interrupt) -> Result<Picture> {
        let mut last: Option<Picture> = None;
        let mut alike = 0;
        let outcome = interrupt.wait_for("a desktop with a terminal in the client's window", bound, || {
            self.must_run()?;
            let picture = self.screen.picture()?;
            let asks = self.accept(&picture)?;
            alike = if last.as_ref() == Some(&picture) { alike + 1 } else { 0 };
            let ready = !asks && alike >= 3 && picture.has_prompt();
            last = Some(picture);
            Ok(if ready { last.take() } else { None })
        });
        self.explain(outcome, last.as_ref())
    }

    /// Accepts the policy if the picture asks for that; says whether it does.
    pub(crate) fn accept(&self, picture: &Picture) -> Result<bool> {
        let asks = picture.asks();
        if asks {
            // It is taken once the page has been shown for a while, and has been read to its end.
            self.screen.key("Next")?;
            self.screen.key("Return")?;
        }
        Ok(asks)
    }

    /// Waits until the whole window, corners and edges included, is within `tolerance` of `colour`, and gives the
    /// farthest that any pixel is from it.
    pub(crate) fn wait_colour(
        &mut self,
        colour: [u8; 3],
        tolerance: u8,
        bound: Duration,
        interrupt: &Interrupt,
    ) -> Result<u8> {
        let mut last: Option<Picture> = None;
        let what = format!(
            "the colour #{:02x}{:02x}{:02x} everywhere in the client's window",
            colour[0], colour[1], colour[2]
        );
        let outcome = interrupt.wait_for(&what, bound, || {
            self.must_run()?;
            let picture = self.screen.picture()?;
            let farthest = picture.farthest(colour);
            last = Some(picture);
            Ok((farthest <= tolerance).then_some(farthest))
        });
        let outcome = match (outcome, &last) {
            (Err(Error::Late { what, seconds, details }), Some(picture)) => Err(Error::Late {
                what,
                seconds,
                details: format!("{details}: {}", picture.describe(colour, tolerance)),
            }),
            (outcome, _) => outcome,
        };
        self.explain(outcome, last.as_ref())
    }

    /// Waits until the whole window is of one colour, to within `tolerance`, that is the right one.
    pub(crate) fn wait_only_colour(
        &mut self,
        what: &str,
        tolerance: u8,
        bound: Duration,
        interrupt: &Interrupt,
        is_right: impl Fn([u8; 3]) -> bool,
    ) -> Result<[u8; 3]> {
        self.wait_picture(what, bound, interrupt, |picture| {
            Ok(picture.only_colour(tolerance).filter(|colour| is_right(*colour)))
        })
    }

    /// Waits until something is found in what the window shows; what it showed last is kept where it does not come.
    pub(crate) fn wait_picture<T>(
        &mut self,
        what: &str,
        bound: Duration,
        interrupt: &Interrupt,
        mut find: impl FnMut(&Picture) -> Result<Option<T>>,
    ) -> Result<T> {
        let mut last: Option<Picture> = None;
        let outcome = interrupt.wait_for(what, bound, || {
            self.must_run()?;
            find(last.insert(self.screen.picture()?))
        });
        self.explain(outcome, last.as_ref())
    }

    /// Keeps what was seen, when something did not come.
    fn explain<T>(&self, outcome: Result<T>, last: Option<&Picture>) -> Result<T> {
        match outcome {
            Err(Error::Late { what, seconds, mut details }) => {
                if let Some(picture) = last {
                    let path = self.screen.dir.join("last-seen.png");
                    picture.save(&path)?;
                    details.push_str(&format!("; the last picture is {}", path.display()));
                }
                details
                    .push_str(&format!("; the client said:\n{}", crate::progress::tail(&self.program.log)));
                Err(Error::Late { what, seconds, details })
            }
            other => other,
        }
    }
}

/// The pixels of a screen, three bytes each.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    /// Reads a PPM with three bytes for a pixel, as programs of ours write it.
    pub(crate) fn read_ppm(path: &Path) -> Result<Picture> {
        let bytes = fs::read(path).at("reading", path)?;
        let wrong = || Error::talk(path.display().to_string(), "it is no such PPM");
        let mut rest = bytes.as_slice();
        let mut line = || {
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(wrong)?;
            let (text, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            std::str::from_utf8(text).map_err(|_| wrong())
        };
        let (magic, size, most) = (line()?, line()?, line()?);
        let sides: Vec<usize> = size.split(' ').filter_map(|side| side.parse().ok()).collect();
        match (magic, sides.as_slice(), most) {
            ("P6", &[width, height], "255") if rest.len() == width * height * 3 => {
                Ok(Picture { width, height, rgb: rest.to_vec() })
            }
            _ => Err(wrong()),
        }
    }

    fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        self.rgb.get(at..at + 3).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
    }

    /// What the scene's marks say; nothing where it is not shown.
    pub(crate) fn marks(&self) -> Option<Marks> {
        Marks::read(std::array::from_fn(|mark| self.pixel(mark * MARK + MARK / 2, MARK / 2)))
    }

    /// How much two pictures of one size are alike, the pointer's place in the middle left out: the peak signal-to-noise
    /// ratio over all three channels in decibels, infinite when they are equal; and the farthest that a channel is off.
    pub(crate) fn likeness(&self, other: &Picture) -> Result<(f64, u8)> {
        if (self.width, self.height) != (other.width, other.height) {
            return Err(Error::broken(format!(
                "a picture of {}x{} pixels cannot be compared with one of {}x{}",
                self.width, self.height, other.width, other.height
            )));
        }
        let (mut squares, mut channels, mut farthest) = (0_u64, 0_u64, 0);
        for ((_, ours), (_, theirs)) in self.without_pointer().zip(other.without_pointer()) {
            for (a, b) in ours.iter().zip(theirs) {
                let off = a.abs_diff(b);
                farthest = farthest.max(off);
                squares += u64::from(off).pow(2);
                channels += 1;
            }
        }
        Ok((10.0 * (255.0_f64.powi(2) * channels as f64 / squares as f64).log10(), farthest))
    }

    /// A part of it.
    pub(crate) fn part(&self, (left, top, width, height): (usize, usize, usize, usize)) -> Picture {
        let rows = self.rgb.chunks_exact(self.width * 3).skip(top).take(height);
        let rgb = rows.flat_map(|row| row.iter().skip(left * 3).take(width * 3).copied()).collect();
        Picture { width, height, rgb }
    }

    /// Whether all of it is of a colour, to within `tolerance`, corners included; a pointer may be anywhere else.
    pub(crate) fn is_even(&self, colour: [u8; 3], tolerance: u8) -> bool {
        let (right, bottom) = (self.width - 1, self.height - 1);
        let corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)];
        corners.iter().all(|(x, y)| distance(self.pixel(*x, *y), colour) <= tolerance)
            && self.share(colour, tolerance) > 0.999
    }

    /// The farthest that any channel of any pixel is from a colour, the pointer's place in the middle left out.
    pub(crate) fn farthest(&self, colour: [u8; 3]) -> u8 {
        self.without_pointer().map(|(_, pixel)| distance(pixel, colour)).max().unwrap_or(u8::MAX)
    }

    /// All pixels with their places, except those of the pointer, which was put into the middle.
    fn without_pointer(&self) -> impl Iterator<Item = ((usize, usize), [u8; 3])> {
        /// The pointer's picture is drawn by the compositor and reaches no farther than this.
        const REACH: usize = 32;
        let (pixels, _) = self.rgb.as_chunks::<3>();
        let (width, middle) = (self.width, (self.width / 2, self.height / 2));
        let places = (0..pixels.len()).map(move |at| (at % width, at / width));
        places
            .zip(pixels.iter().copied())
            .filter(move |((x, y), _)| x.abs_diff(middle.0) > REACH || y.abs_diff(middle.1) > REACH)
    }

    /// The colour that every pixel has, to within `tolerance`, the pointer's place in the middle left out.
    pub(crate) fn only_colour(&self, tolerance: u8) -> Option<[u8; 3]> {
        let colour = self.pixel(0, 0);
        (self.farthest(colour) <= tolerance).then_some(colour)
    }

    /// Whether it is the page on which the host asks whether its user accepts the policy: the page's ground in the corners.
    pub(crate) fn asks(&self) -> bool {
        const GROUND: [u8; 3] = [0x18, 0x20, 0x30];
        // A terminal on the card is as near as 7.
        const TOLERANCE: u8 = 4;
        let corners = [(1, 1), (self.width.saturating_sub(2), self.height.saturating_sub(2))];
        corners.iter().all(|(x, y)| distance(self.pixel(*x, *y), GROUND) <= TOLERANCE)
    }

    /// Whether a notice of the host stands over the desktop.
    pub(crate) fn has_notice(&self) -> bool {
        const GROUND: [u8; 3] = [0x50, 0x30, 0x10];
        const TOLERANCE: u8 = 2;
        self.share(GROUND, TOLERANCE) > 0.01
    }

    /// Whether something is written at the top left on an otherwise even ground: a terminal's prompt.
    pub(crate) fn has_prompt(&self) -> bool {
        // Not in the middle, where the pointer is.
        let ground = self.pixel(self.width * 3 / 4, self.height * 3 / 4);
        let (pixels, _) = self.rgb.as_chunks::<3>();
        let even = pixels.iter().filter(|pixel| distance(**pixel, ground) <= 8).count();
        let written = (0..self.height.min(60))
            .flat_map(|y| (0..self.width.min(400)).map(move |x| (x, y)))
            .filter(|(x, y)| distance(self.pixel(*x, *y), ground) > 64)
            .count();
        even * 100 >= pixels.len() * 80 && written >= 20
    }

    /// Where a picture differs from a colour, in words.
    fn describe(&self, colour: [u8; 3], tolerance: u8) -> String {
        let all = self.without_pointer().count();
        let wrong: Vec<_> =
            self.without_pointer().filter(|(_, pixel)| distance(*pixel, colour) > tolerance).collect();
        let (right_edge, bottom) = (self.width - 1, self.height - 1);
        let corners = [(0, 0), (right_edge, 0), (0, bottom), (right_edge, bottom)].map(|(x, y)| {
            let [r, g, b] = self.pixel(x, y);
            format!("({x},{y}) #{r:02x}{g:02x}{b:02x}")
        });
        let first_wrong =
            wrong.first().map(|((x, y), _)| format!("; first other pixel at ({x},{y})")).unwrap_or_default();
        format!(
            "{:.3} % of the pixels are within {tolerance}; corners {}{first_wrong}; farthest {}",
            100.0 * (all - wrong.len()) as f64 / all as f64,
            corners.join(" "),
            self.farthest(colour)
        )
    }

    /// How much of the window is within `tolerance` of a colour, from 0 to 1.
    pub(crate) fn share(&self, colour: [u8; 3], tolerance: u8) -> f64 {
        let (pixels, _) = self.rgb.as_chunks::<3>();
        let alike = pixels.iter().filter(|pixel| distance(**pixel, colour) <= tolerance).count();
        alike as f64 / pixels.len() as f64
    }

    /// Writes it as a PNG.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).at("making", dir)?;
        }
        let mut convert = Command::new("convert");
        convert.args(["-size", &format!("{}x{}", self.width, self.height), "-depth", "8", "rgb:-"]).arg(path);
        ask_well("writing a screenshot", &mut convert, &self.rgb).map(drop)
    }
}

fn distance(a: [u8; 3], b: [u8; 3]) -> u8 {
    a.iter().zip(b).map(|(a, b)| a.abs_diff(b)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(colour: [u8; 3]) -> Picture {
        Picture { width: 640, height: 480, rgb: colour.repeat(640 * 480) }
    }

    #[test]
    fn one_wrong_pixel_in_the_last_corner_is_found() {
        let mut picture = even([42, 127, 60]);
        assert_eq!(picture.farthest([42, 127, 60]), 0);
        *picture.rgb.last_mut().unwrap() = 0;
        assert_eq!(picture.farthest([42, 127, 60]), 60);
        assert!(picture.describe([42, 127, 60], 2).contains("first other pixel at (639,479)"));
    }

    #[test]
    fn equal_pictures_are_infinitely_alike_and_one_step_everywhere_is_48_decibels() {
        let picture = even([42, 127, 60]);
        assert_eq!(picture.likeness(&picture).unwrap(), (f64::INFINITY, 0));
        let (decibels, farthest) = picture.likeness(&even([43, 126, 61])).unwrap();
        assert!((decibels - 48.13).abs() < 0.01 && farthest == 1, "{decibels} {farthest}");
        assert!(picture.likeness(&picture.part((0, 0, 100, 100))).is_err());
    }

    #[test]
    fn an_even_ground_is_no_prompt_and_writing_on_it_is() {
        let mut picture = even([0, 0, 0]);
        assert!(!picture.has_prompt());
        picture.rgb[3 * 640..3 * 640 + 90].fill(255);
        assert!(picture.has_prompt());
    }

    #[test]
    fn an_account_holds_the_known_hash_of_a_known_password() {
        let dir = std::env::temp_dir().join(format!("xtask-account-{}", std::process::id()));
        let login = Login { port: 0, user: "a".to_owned(), password: Some("password".to_owned()) };
        login.write_account(&dir).unwrap();
        let text = fs::read_to_string(&dir).unwrap();
        fs::remove_file(&dir).unwrap();
        // MS-NLMP 4.2.2.1.2 uses "Password"; this is the hash of "password".
        assert!(text.contains("8846f7eaee8fb117ad06bdd830b7586c"), "{text}");
    }
}
