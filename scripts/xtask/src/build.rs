//! Builds the device's services, the services and tools of this machine, and the disk image.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{At, Error, Result},
    progress::Steps,
    release::{self, Place},
    setup::{DEVICE_TARGET, Project},
};

/// Every program of ours that goes into the image.
pub(crate) const SERVICES: [&str; 8] = [
    "lucid-init",
    "lucid-power",
    "lucid-provision",
    "lucid-desktop",
    "lucid-rdp",
    "lucid-sessiond",
    "lucid-updated",
    "lucid-migrate",
];
/// The kind of device that images are for, unless somebody says otherwise.
pub(crate) const MACHINE: &str = "qemu-arm64";
/// The version that they say they are, likewise.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `scripts/build-image` may be told.
#[derive(clap::Args)]
pub(crate) struct ImageArguments {
    /// The root of trust (1.root.json) whose releases devices with this image take; its path from the checkout's folder.
    /// Without it a root for development that was made here.
    #[arg(long, value_name = "FILE", requires = "version")]
    root: Option<PathBuf>,
    /// The version that the image says it is.
    #[arg(long)]
    version: Option<String>,
    /// The kind of device that it is for.
    #[arg(long, default_value = MACHINE)]
    machine: String,
    /// Take a root that is marked as one for development.
    #[arg(long)]
    development: bool,
}

/// What an image says of itself, and what is other than usual in it.
pub(crate) struct Identity<'a> {
    /// The root of trust.
    pub(crate) root: &'a Path,
    /// Its version.
    pub(crate) version: &'a str,
    /// The kind of device.
    pub(crate) machine: &'a str,
    /// Whether the root may be one for development, and the rest be there at all.
    pub(crate) development: bool,
    /// Files laid over the system tree.
    pub(crate) overlay: Option<&'a Path>,
    /// More words for the kernel's command line.
    pub(crate) cmdline: &'a [&'a str],
    /// Debian's package of another kernel.
    pub(crate) kernel: Option<&'a str>,
}

impl<'a> Identity<'a> {
    /// What is built unless somebody says otherwise.
    pub(crate) fn usual(root: &'a Path) -> Self {
        Self {
            root,
            version: VERSION,
            machine: MACHINE,
            development: true,
            overlay: None,
            cmdline: &[],
            kernel: None,
        }
    }
}

/// When something is compiled.
#[derive(Clone, Copy)]
pub(crate) enum When {
    /// It is waited for.
    Now,
    /// In time that nothing else wants (SCHED_IDLE, sched(7)).
    Idle,
}

/// `cargo`, to be given its words.
pub(crate) fn cargo(project: &Project, when: When) -> std::process::Command {
    match when {
        When::Now => project.command("cargo"),
        When::Idle => {
            let mut cargo = project.command("chrt");
            cargo.args(["--idle", "0", "cargo"]);
            cargo
        }
    }
}

/// What compiles the device's services.
pub(crate) fn compile_services(project: &Project, when: When) -> std::process::Command {
    let mut build = cargo(project, when);
    build.args(["zigbuild", "--release", "--target", DEVICE_TARGET]);
    for service in SERVICES {
        build.args(["--package", service, "--bin", service]);
    }
    build
}

/// Builds the device's services as static programs, and gives their folder.
pub(crate) fn services(project: &Project, steps: &Steps) -> Result<PathBuf> {
    steps.run("building the device's services", &mut compile_services(project, When::Now))?;
    let folder = project.target.join(DEVICE_TARGET).join("release");
    for service in SERVICES {
        must_be_static(&folder.join(service))?;
    }
    Ok(folder)
}

/// An error unless the file is an aarch64 program that needs no loader.
pub(crate) fn must_be_static(path: &Path) -> Result<()> {
    let bytes = fs::read(path).at("reading", path)?;
    match needs_loader(&bytes) {
        Ok(false) => Ok(()),
        Ok(true) => {
            Err(Error::broken(format!("{} is not static: it names a program interpreter", path.display())))
        }
        Err(why) => Err(Error::broken(format!("{} is no program for the device: {why}", path.display()))),
    }
}

/// Whether a 64-bit little-endian aarch64 ELF file has a PT_INTERP header (ELF-64 object file format, version 1.5).
fn needs_loader(elf: &[u8]) -> std::result::Result<bool, &'static str> {
    const EM_AARCH64: u16 = 183;
    const PT_INTERP: u32 = 3;
    let field = |at: usize, length: usize| {
        let bytes = at.checked_add(length).and_then(|end| elf.get(at..end)).ok_or("it is cut short")?;
        Ok::<u64, &str>(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("it is no 64-bit little-endian ELF file");
    }
    if field(18, 2)? != u64::from(EM_AARCH64) {
        return Err("it is for another processor");
    }
    let table = usize::try_from(field(32, 8)?).map_err(|_| "its header table is too far away")?;
    let (size, count) = (field(54, 2)? as usize, field(56, 2)? as usize);
    for index in 0..count {
        let at = table.checked_add(index * size).ok_or("its header table is too far away")?;
        // The whole header must be there, not only its kind.
        field((at + size).saturating_sub(8), 8)?;
        if field(at, 4)? == u64::from(PT_INTERP) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How much of the workspace is built for this machine.
#[derive(Clone, Copy)]
pub(crate) enum Host {
    /// What an image needs: the image tool, and the tool that makes its root of trust; and lucidctl, for whoever uses the
    /// machine.
    Tools,
    /// Everything, exactly as the tests are built: with the same features of every crate, so that nothing is
    /// compiled twice.
    AsForTests,
}

/// Builds programs for this machine, in the profile that the tests use as well.
pub(crate) fn host(project: &Project, steps: &Steps, what: Host) -> Result<()> {
    let mut build = project.command("cargo");
    build.arg("build");
    let step = match what {
        Host::Tools => {
            build.args(["--package", "lucid-image", "--bin", "lucid-image"]);
            build.args(["--package", "lucid-release", "--bin", "lucid-release"]);
            build.args(["--package", "lucidctl", "--bin", "lucidctl"]);
            "building the tools for this machine"
        }
        Host::AsForTests => {
            build.args(["--workspace", "--all-targets"]);
            "building everything for this machine"
        }
    };
    steps.run(step, &mut build).map(drop)
}

/// A program that [`host`] built.
pub(crate) fn host_program(project: &Project, name: &str) -> PathBuf {
    project.target.join("debug").join(name)
}

/// The image tool, to be called.
pub(crate) fn image_tool(project: &Project, words: &[&OsStr]) -> std::process::Command {
    let mut tool = project.command(&host_program(project, "lucid-image").to_string_lossy());
    tool.args(words);
    tool
}

/// Builds services and image with the tools that [`host`] built; gives the image's folder.
pub(crate) fn image(project: &Project, steps: &Steps) -> Result<PathBuf> {
    let root = release::keys(Place { project, steps })?.root;
    image_of(project, steps, &Identity::usual(&root))
}

/// As [`image`], with what somebody asked for.
pub(crate) fn asked_image(project: &Project, steps: &Steps, asked: &ImageArguments) -> Result<PathBuf> {
    let root = match &asked.root {
        Some(root) => root.clone(),
        None => release::keys(Place { project, steps })?.root,
    };
    let identity = Identity {
        version: asked.version.as_deref().unwrap_or(VERSION),
        machine: &asked.machine,
        // The root that was made here is one.
        development: asked.development || asked.root.is_none(),
        ..Identity::usual(&root)
    };
    image_of(project, steps, &identity)
}

fn image_of(project: &Project, steps: &Steps, identity: &Identity<'_>) -> Result<PathBuf> {
    let services = services(project, steps)?;
    let out = project.lucid.join("image");
    assemble(project, steps, &services, &out, identity, "assembling the disk image")?;
    Ok(out)
}

/// Makes, with the image tool that [`host`] built, the tree with programs of Debian 13 that Debian 12 has only in older versions.
pub(crate) fn trixie_tools(project: &Project, steps: &Steps) -> Result<PathBuf> {
    /// The newer clients and compositor, the desktop's sound, and what reads our EROFS.
    const PROGRAMS: &str = "freerdp3-x11,freerdp3-sdl,sway,pipewire,wireplumber,erofs-utils";
    let cache = project.lucid.join("tools");
    let words = ["tools", "--suite", "trixie", "--include", PROGRAMS].map(OsStr::new);
    let mut tool = image_tool(project, &words);
    let step = "getting newer client and compositor";
    steps.run(step, tool.arg(&cache))?;
    // It says on its last line where the tree is.
    let log = steps.log_path(step);
    let said = fs::read_to_string(&log).at("reading", &log)?;
    let tree = said.lines().map(PathBuf::from).rev().find(|path| path.is_dir());
    tree.ok_or_else(|| Error::talk("lucid-image", format!("it did not say where the tools are: {said}")))
}

/// Runs the image tool once.
pub(crate) fn assemble(
    project: &Project,
    steps: &Steps,
    services: &Path,
    out: &Path,
    identity: &Identity<'_>,
    step: &str,
) -> Result<()> {
    let mut tool = image_tool(project, &[OsStr::new("build")]);
    tool.arg("--services").arg(services).arg("--out").arg(out);
    tool.arg("--cache").arg(project.lucid.join("image-cache"));
    tool.arg("--root").arg(identity.root);
    tool.args(["--version", identity.version, "--machine", identity.machine]);
    if identity.development {
        tool.arg("--development");
    }
    if let Some(overlay) = identity.overlay {
        tool.arg("--overlay").arg(overlay);
    }
    for word in identity.cmdline {
        tool.arg(format!("--append={word}"));
    }
    if let Some(kernel) = identity.kernel {
        tool.args(["--kernel", kernel]);
    }
    steps.run(step, &mut tool).map(drop)
}

/// What the image tool wrote down about an image.
pub(crate) struct Contents(serde_json::Value);

impl Contents {
    /// Reads `contents.json` beside the image.
    pub(crate) fn read(image: &Path) -> Result<Self> {
        let path = image.join("contents.json");
        let bytes = fs::read(&path).at("reading", &path)?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Error::talk(path.display().to_string(), error))
    }

    /// A size in bytes.
    pub(crate) fn bytes(&self, key: &str) -> Result<u64> {
        self.0[key].as_u64().ok_or_else(|| Error::talk("contents.json", format!("it has no number {key}")))
    }

    /// The largest files, one a line.
    pub(crate) fn largest(&self) -> Vec<String> {
        let items = self.0["largest"].as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .map(|item| {
                let bytes = item["bytes"].as_u64().unwrap_or_default();
                format!("{:7.2} MB  {}", bytes as f64 / 1e6, item["path"].as_str().unwrap_or("?"))
            })
            .collect()
    }

    /// A text for whoever built it.
    pub(crate) fn describe(&self, image: &Path) -> Result<String> {
        let disk = image.join("lucid.img");
        let size = fs::metadata(&disk).at("reading", &disk)?.len();
        let mb = |key: &str| self.bytes(key).map(|bytes| bytes as f64 / 1e6);
        Ok(format!(
            "\nimage         {} ({:.0} MB)\nsystem        {} {}{}\nroot          {:.1} MB and {:.1} MB of hashes, from {:.1} MB of files\n\
             kernel        {} ({:.1} MB), initramfs {:.1} MB\nroot hash     {}\npackage list  {}\n\n\
             Its largest files, before compression:\n  {}\n",
            disk.display(),
            size as f64 / 1e6,
            self.0["machine"].as_str().unwrap_or("?"),
            self.0["system_version"].as_str().unwrap_or("?"),
            if self.0["development"] == true { ", for development: anybody can sign for it" } else { "" },
            mb("root_bytes")?,
            mb("hash_bytes")?,
            mb("files_bytes")?,
            self.0["kernel"].as_str().unwrap_or("?"),
            mb("kernel_bytes")?,
            mb("initramfs_bytes")?,
            self.0["root_hash"].as_str().unwrap_or("?"),
            image.join("packages.spdx.json").display(),
            self.largest().join("\n  ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kind: u8, machine: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = machine;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = kind;
        bytes
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        assert_eq!(needs_loader(&elf(3, 183)), Ok(true));
        assert_eq!(needs_loader(&elf(1, 183)), Ok(false));
    }

    #[test]
    fn programs_of_other_machines_and_cut_files_are_refused() {
        assert!(needs_loader(&elf(1, 62)).is_err());
        assert!(needs_loader(&elf(1, 183)[..70]).is_err());
        assert!(needs_loader(b"#!/bin/sh\n").is_err());
    }
}
