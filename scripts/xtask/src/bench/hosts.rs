//! The hosts that are compared: Lucid's services, and xrdp with xorgxrdp in a Debian 13 of their own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    cost::{self, Cost},
    link::HOST,
};
use crate::{
    build,
    client::{Login, foreign_wrapper},
    error::{At, Result},
    machine, policy,
    progress::{Background, Interrupt, Steps, ask_well},
    setup::Project,
};

/// Within this a host answers.
const START: Duration = Duration::from_secs(30);
/// The account on both.
const USER: &str = "bench";
const PASSWORD: &str = "Quiet-Otter-58";

/// The program that records sessions.
pub(super) const RECORDER: &str = "lucid-sessiond";

/// A host that is running.
pub(super) struct Host {
    /// Its name and version.
    pub(super) name: String,
    /// How to come in.
    pub(super) login: Login,
    /// By name.
    programs: Vec<(&'static str, Background)>,
}

impl Host {
    /// What all its processes have cost so far, with all that they start.
    pub(super) fn cost(&self) -> Cost {
        self.cost_of(|_| true)
    }

    /// What its recorder has cost so far.
    pub(super) fn recorder_cost(&self) -> Cost {
        self.cost_of(|name| name == RECORDER)
    }

    fn cost_of(&self, is_meant: impl Fn(&str) -> bool) -> Cost {
        let meant = self.programs.iter().filter(|(name, _)| is_meant(name));
        cost::of(&meant.map(|(_, program)| program.id()).collect::<Vec<_>>())
    }

    fn start(
        name: &str,
        port: u16,
        commands: &[(&'static str, Command)],
        dir: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let mut programs = Vec::new();
        for (program, command) in commands {
            let log = dir.join(format!("{program}.log"));
            programs.push((*program, Background::start(command, &log)?));
        }
        interrupt.wait_for(name, START, || {
            for (_, program) in &mut programs {
                program.must_run(&format!("serving as {name}"))?;
            }
            Ok(std::net::TcpStream::connect((HOST, port)).is_ok().then_some(()))
        })?;
        let login = Login { port, user: USER.to_owned(), password: Some(PASSWORD.to_owned()) };
        Ok(Self { name: name.to_owned(), login, programs })
    }
}

/// Empties and makes a folder.
fn fresh(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).at("emptying", dir)?;
    }
    fs::create_dir_all(dir).at("making", dir)
}

/// Makes a root of Debian 13 with some packages, for programs that Lucid is measured beside.
pub(super) fn debian(project: &Project, steps: &Steps, root: &Path, packages: &str) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root).at("emptying", root)?;
    }
    let words = ["sources", "--suite", "trixie", "--backports"].map(std::ffi::OsStr::new);
    let mut tool = build::image_tool(project, &words);
    let sources = ask_well("reading where Debian's packages come from", &mut tool, b"")?.out;
    let list = root.with_extension("list");
    fs::write(&list, sources).at("writing", &list)?;
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args(["--variant=minbase", &format!("--include={packages}"), "trixie"]).arg(root).arg(&list);
    steps.run("installing what is measured beside Lucid into a root of its own", &mut bootstrap).map(drop)
}

/// Lucid's services with the compositor that the device has, and the scene instead of a terminal.
pub(super) struct Lucid {
    name: String,
    dir: PathBuf,
    programs: PathBuf,
    sway: PathBuf,
}

impl Lucid {
    /// Builds the services as they are released, for this machine, and other programs of ours besides.
    pub(super) fn prepare(project: &Project, steps: &Steps, tools: &Path, besides: &[&str]) -> Result<Self> {
        let mut cargo = project.command("cargo");
        cargo.args(["build", "--release"]);
        for package in ["lucid-rdp", "lucid-desktop", "bench-scene"].iter().chain(besides) {
            cargo.args(["--package", package]);
        }
        steps.run("building the services as they are released", &mut cargo)?;
        let dir = project.lucid.join("bench/lucid");
        fresh(&dir)?;
        let programs = project.target.join("release");
        let sway = foreign_wrapper(project, tools, "usr/bin/sway", &dir.join("sway"))?;
        let scene = programs.join("bench-scene");
        let config =
            format!("xwayland disable\ndefault_border none\nswaybg_command -\nexec '{}'\n", scene.display());
        let path = dir.join("sway-config");
        fs::write(&path, config).at("writing", &path)?;
        let name = format!("Lucid {}", env!("CARGO_PKG_VERSION"));
        Ok(Self { name, dir, programs, sway })
    }

    /// The same with other programs.
    pub(super) fn of(&self, programs: &Path) -> Result<Self> {
        let programs = fs::canonicalize(programs).at("looking for programs in", programs)?;
        let name = "another build of Lucid".to_owned();
        Ok(Self { name, dir: self.dir.clone(), programs, sway: self.sway.clone() })
    }

    /// A program of ours, as released.
    pub(super) fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// A file beside what the services keep.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the recorder keeps what it has recorded since the services were started.
    pub(super) fn recordings(&self) -> PathBuf {
        self.file("recorder/recordings")
    }

    /// Starts them; with the recorder, where recordings have an owner's key to be sealed to.
    pub(super) fn start(&self, owner: Option<&str>, interrupt: &Interrupt) -> Result<Host> {
        for folder in ["state", "run", "home", "runtime", "recorder"] {
            fresh(&self.file(folder))?;
        }
        fs::set_permissions(self.file("runtime"), fs::Permissions::from_mode(0o700))
            .at("protecting", self.file("runtime"))?;
        let port = machine::free_port()?;
        let login = Login { port, user: USER.to_owned(), password: Some(PASSWORD.to_owned()) };
        login.write_account(&self.file("account.json"))?;
        let mut desktop = self.program("lucid-desktop");
        desktop.arg("--listen").arg(self.file("desktop.sock")).arg("--home").arg(self.file("home"));
        desktop.arg("--runtime").arg(self.file("runtime")).arg("--sway").arg(&self.sway);
        desktop.arg("--sway-config").arg(self.file("sway-config"));
        let mut rdp = self.program("lucid-rdp");
        rdp.arg("--listen").arg(format!("{HOST}:{port}")).arg("--state").arg(self.file("state"));
        rdp.arg("--run").arg(self.file("run")).arg("--desktop").arg(self.file("desktop.sock"));
        let policy = policy::write(&self.dir, &policy::table(""))?;
        let mut name = self.name.clone();
        let mut commands = vec![("lucid-desktop", desktop)];
        if let Some(owner) = owner {
            name.push_str(", recorded");
            let mut recorder = self.program(RECORDER);
            recorder.arg("--state").arg(self.file("recorder")).arg("--run").arg(self.file("recorder"));
            recorder.args(["--owner", owner]).arg("--policy").arg(&policy);
            recorder.arg("--accounts").arg(self.file("account.json"));
            rdp.arg("--controller").arg(self.file("recorder/recorder.sock"));
            commands.push((RECORDER, recorder));
        } else {
            rdp.arg("--policy").arg(&policy).arg("--account").arg(self.file("account.json"));
        }
        commands.push(("lucid-rdp", rdp));
        Host::start(&name, port, &commands, &self.dir, interrupt)
    }
}

/// xrdp as Debian packages it, with H.264 by x264.
pub(super) struct Xrdp {
    root: PathBuf,
    dir: PathBuf,
    version: String,
}

/// What its root is made of.
const PACKAGES: &str = "xrdp/trixie-backports,xorgxrdp/trixie-backports,xserver-xorg-core";

impl Xrdp {
    /// Installs it into a root of its own.
    pub(super) fn prepare(project: &Project, steps: &Steps) -> Result<Self> {
        let dir = project.lucid.join("bench/xrdp");
        fs::create_dir_all(&dir).at("making", &dir)?;
        let root = dir.join("root");
        let done = dir.join("installed");
        if !done.exists() {
            debian(project, steps, &root, PACKAGES)?;
            for words in [
                &["useradd", "--create-home", USER][..],
                // Its certificate's key belongs to that group.
                &["usermod", "--append", "--groups", "ssl-cert", "xrdp"],
            ] {
                ask_well("setting xrdp's users up", Command::new("chroot").arg(&root).args(words), b"")?;
            }
            let line = format!("{USER}:{PASSWORD}\n");
            ask_well(
                "setting a password",
                Command::new("chroot").arg(&root).arg("chpasswd"),
                line.as_bytes(),
            )?;
            fs::write(&done, "").at("writing", &done)?;
        }
        let scene = project.target.join("release/bench-scene");
        let copy = root.join("usr/bin/bench-scene");
        fs::copy(&scene, &copy).at("copying the scene to", &copy)?;
        let start = root.join("etc/xrdp/startwm.sh");
        fs::write(&start, "#!/bin/sh\nexec /usr/bin/bench-scene --on x11\n").at("writing", &start)?;
        let mut query = Command::new("chroot");
        query.arg(&root).args(["dpkg-query", "-W", "-f", "${Version}", "xrdp"]);
        let version = ask_well("asking for xrdp's version", &mut query, b"")?.text();
        Ok(Self { root, dir, version: version.trim().to_owned() })
    }

    /// Starts it: in its own root, with its own `/run`, `/tmp` and `/dev/shm`, which go with it. The namespace's first
    /// process stays a shell of root's, so that it, and all with it, is killed with `unshare`: xrdp gives up root, and
    /// with that the signal of its parent's death.
    pub(super) fn start(&self, interrupt: &Interrupt) -> Result<Host> {
        let port = machine::free_port()?;
        let mut listener_seen = false;
        self.settings("xrdp.ini", |line| match line.split_once('=')?.0 {
            // The first is the listener's, the others are those of other kinds of session.
            "port" if !std::mem::replace(&mut listener_seen, true) => Some(format!("port={port}")),
            "autorun" => Some("autorun=Xorg".to_owned()),
            "EnableSyslog" => Some("EnableSyslog=false".to_owned()),
            _ => None,
        })?;
        self.settings("sesman.ini", |line| match line.split_once('=')?.0 {
            "EnableSyslog" => Some("EnableSyslog=false".to_owned()),
            // X servers of one network namespace must not share a number: those of tests count from 0, and 63 is the last here.
            "X11DisplayOffset" => Some("X11DisplayOffset=50".to_owned()),
            _ => None,
        })?;
        let script = format!(
            "set -e; cd '{root}'
             mount --bind /dev dev; mount -t proc proc proc
             for dir in dev/shm run tmp; do mkdir -p $dir; mount -t tmpfs -o mode=1777 tmpfs $dir; done
             exec chroot . sh -ec 'mkdir -p /run/xrdp/sockdir; chown -R xrdp:xrdp /run/xrdp
             chmod 3777 /run/xrdp/sockdir; xrdp-sesman -n & sleep 1; xrdp -n & wait $!'",
            root = self.root.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", "-c", &script]);
        let name = format!("xrdp {}", self.version);
        Host::start(&name, port, &[("xrdp", command)], &self.dir, interrupt)
    }

    /// Changes lines of one of its files.
    fn settings(&self, name: &str, mut change: impl FnMut(&str) -> Option<String>) -> Result<()> {
        let path = self.root.join("etc/xrdp").join(name);
        let text = fs::read_to_string(&path).at("reading", &path)?;
        let lines: Vec<String> =
            text.lines().map(|line| change(line).unwrap_or_else(|| line.to_owned())).collect();
        fs::write(&path, lines.join("\n") + "\n").at("writing", &path)
    }
}
