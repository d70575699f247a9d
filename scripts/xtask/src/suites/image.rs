//! The disk image without booting it.

use std::{ffi::OsStr, fs, io::Read, os::unix::fs::PermissionsExt, path::Path, process::Command};

use super::Context;
use crate::{
    build::{self, Contents, Identity, assemble, image_tool},
    client::foreign,
    error::{At, Error, Result},
    machine::Disks,
    progress::{ask, ask_well},
    release::{self, Place},
    setup::DEVICE_TARGET,
    suite::{Picks, Report},
};

/// How many places of the root are damaged, each at a time.
const DAMAGED_PLACES: u64 = 40;
/// The most that the root may have, hashes not counted.
const ROOT_GOAL: u64 = 80_000_000;
/// Of the places, in every run the same ones.
const SEED: u64 = 20_261_121;

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let Context { project, steps, .. } = context;
    let image = context.image()?;
    report.check("every service on the device is one static program", || {
        let folder = project.target.join(DEVICE_TARGET).join("release");
        let mut sizes = Vec::new();
        for service in build::SERVICES {
            let path = folder.join(service);
            build::must_be_static(&path)?;
            sizes.push(format!(
                "{service} {:.1} MB",
                fs::metadata(&path).at("reading", &path)?.len() as f64 / 1e6
            ));
        }
        Ok(sizes.join(", "))
    });
    let again = project.lucid.join("image-again");
    report.check("the same inputs give the same image, bit for bit", || {
        if again.exists() {
            fs::remove_dir_all(&again).at("emptying", &again)?;
        }
        let services = project.target.join(DEVICE_TARGET).join("release");
        let root = release::keys(Place { project, steps })?.root;
        let step = "assembling the disk image a second time";
        assemble(project, steps, &services, &again, &Identity::usual(&root), step)?;
        let mut compared = Vec::new();
        for entry in fs::read_dir(&image).at("listing", &image)? {
            let name = entry.at("listing", &image)?.file_name();
            if !image.join(&name).is_file() {
                continue;
            }
            let mut compare = Command::new("cmp");
            ask_well("comparing two builds", compare.arg(image.join(&name)).arg(again.join(&name)), b"")?;
            compared.push(name.to_string_lossy().into_owned());
        }
        if !compared.iter().any(|name| name == "lucid.img") {
            return Err(Error::broken("there is no lucid.img among the results"));
        }
        compared.sort();
        Ok(compared.join(", "))
    });
    report.check("a root for development is taken by an image for development alone", || {
        let root = release::keys(Place { project, steps })?.root;
        let out = project.lucid.join("image-refused");
        let mut build =
            image_tool(project, &["build", "--version", "9.9.9", "--machine", "m"].map(OsStr::new));
        build.arg("--root").arg(&root).arg("--services").arg(&out).arg("--out").arg(&out);
        let answer = ask(&mut build, b"")?;
        if answer.status.success() || !answer.err.contains("for development") || out.exists() {
            return Err(Error::broken(format!("it was not refused for what it is: {}", answer.err)));
        }
        Ok("")
    });
    report.check("an undamaged image verifies", || {
        ask_well("verifying the image", &mut verify(context, &image.join("lucid.img")), b"").map(|_| "")
    });
    report.check("a flipped bit anywhere in a used root partition is found", || {
        let disks = Disks::scratch(&image, &project.lucid.join("machine/damaged"))?;
        let root = disks.partition("root-a")?;
        let used = used_bytes(&disks, root.start, root.length)?;
        let mut picks = Picks::new(SEED);
        // The ends of what is used are always among them.
        let mut places = vec![0, 1024, used - 1];
        places.extend((0..DAMAGED_PLACES).map(|_| picks.below(used)));
        for place in &places {
            steps.interrupt.check()?;
            disks.flip(root.start + place)?;
            let answer = ask(&mut verify(context, &disks.os), b"")?;
            disks.flip(root.start + place)?;
            if answer.status.success() {
                return Err(Error::broken(format!("a flipped bit at byte {place} of root-a was not found")));
            }
        }
        ask_well("verifying the mended image", &mut verify(context, &disks.os), b"")?;
        Ok(format!("{} places of {:.1} MB, seed {SEED}", places.len(), used as f64 / 1e6))
    });
    report.check("the root with the desktop is at most 80 MB", || {
        let contents = Contents::read(&image)?;
        let root = contents.bytes("root_bytes")?;
        let text = format!(
            "{:.1} MB (goal: at most {:.0} MB) and {:.1} MB of hashes; the largest files before compression:\n          {}",
            root as f64 / 1e6,
            ROOT_GOAL as f64 / 1e6,
            contents.bytes("hash_bytes")? as f64 / 1e6,
            contents.largest().join("\n          ")
        );
        if root > ROOT_GOAL { Err(Error::broken(text)) } else { Ok(text) }
    });
    report.check("the system side has no shell, interpreter or package manager", || sealed(context, &image));
    report.check("the card carries nothing of QEMU's", || {
        let disks = Disks::kept(&image);
        let mut names = Vec::new();
        for partition in ["select", "boot-a", "boot-b"] {
            for file in disks.fat_files(partition)? {
                let lower = file.to_lowercase();
                if ["boot.scr", "u-boot", "uboot", "qemu", "extlinux", "tryboot"]
                    .iter()
                    .any(|sign| lower.contains(sign))
                {
                    return Err(Error::broken(format!("{partition} holds {file}")));
                }
                names.push(format!("{partition}/{file}"));
            }
        }
        if names.is_empty() {
            return Err(Error::broken("its FAT partitions hold no file at all"));
        }
        Ok(names.join(" "))
    });
    Ok(())
}

/// Takes the root out of the image again and looks at everything that can be run outside the desktop.
fn sealed(context: &Context, image: &Path) -> Result<String> {
    let Context { project, .. } = context;
    let disks = Disks::kept(image);
    let dir = project.lucid.join("machine/root");
    if dir.exists() {
        fs::remove_dir_all(&dir).at("emptying", &dir)?;
    }
    fs::create_dir_all(&dir).at("making", &dir)?;
    let length = usize::try_from(Contents::read(image)?.bytes("root_bytes")?).unwrap_or(usize::MAX);
    let erofs = dir.join("root.erofs");
    fs::write(&erofs, disks.read(disks.partition("root-a")?.start, length)?).at("writing", &erofs)?;
    let tree = dir.join("tree");
    let mut extract = foreign(project, &context.tools()?, "usr/bin/fsck.erofs")?;
    extract.arg("--no-preserve").arg(format!("--extract={}", tree.display())).arg(&erofs);
    ask_well("taking the root out of the image", &mut extract, b"")?;
    let mut found = Vec::new();
    programs(&tree, &tree, &mut found)?;
    found.sort();
    fs::remove_dir_all(&dir).at("deleting", &dir)?;
    if found.is_empty() {
        return Err(Error::broken("nothing on the system side can be run at all"));
    }
    let wrong: Vec<&str> = found.iter().filter_map(|program| program.wrong.as_deref()).collect();
    if !wrong.is_empty() {
        return Err(Error::broken(wrong.join("\n")));
    }
    let names: Vec<&str> = found.iter().map(|program| program.path.as_str()).collect();
    Ok(format!("{} executables:\n          {}", names.len(), names.join("\n          ")))
}

/// A file that can be run.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Program {
    path: String,
    wrong: Option<String>,
}

/// Collects the programs below `dir`, except those of the desktop. Libraries are no programs; scripts are wrong in any
/// case, for what would run them is not there or must not be.
fn programs(top: &Path, dir: &Path, found: &mut Vec<Program>) -> Result<()> {
    for entry in fs::read_dir(dir).at("listing", dir)? {
        let entry = entry.at("listing", dir)?;
        let path = entry.path();
        let inside = path.strip_prefix(top).unwrap_or(&path).to_string_lossy().into_owned();
        let kind = entry.file_type().at("reading", &path)?;
        if kind.is_dir() {
            // Units are no programs, and their links are no names of any.
            if inside != "desktop" && inside != "usr/lib/systemd/system" {
                programs(top, &path, found)?;
            }
            continue;
        }
        // A link may give a forbidden name to an allowed program (as busybox does): its name counts as well.
        let runs = kind.is_symlink()
            || (kind.is_file() && entry.metadata().at("reading", &path)?.permissions().mode() & 0o111 != 0);
        let name = entry.file_name().to_string_lossy().into_owned();
        let in_path = ["bin/", "sbin/", "usr/bin/", "usr/sbin/", "usr/lib/systemd/", "usr/libexec/"]
            .iter()
            .any(|folder| inside.starts_with(folder));
        if !runs || (kind.is_symlink() && !in_path) {
            continue;
        }
        let mut wrong =
            forbidden(&name).then(|| format!("{inside} is a shell, an interpreter or a package manager"));
        if kind.is_file() {
            let mut start = Vec::new();
            let file = fs::File::open(&path).at("opening", &path)?;
            file.take(20).read_to_end(&mut start).at("reading", &path)?;
            if start.starts_with(b"#!") {
                wrong = Some(format!("{inside} is a script"));
            } else if !start.starts_with(b"\x7fELF") || name.contains(".so") {
                continue;
            }
        }
        found.push(Program { path: inside, wrong });
    }
    Ok(())
}

/// Whether a program of that name can run what it is told, or install something.
fn forbidden(name: &str) -> bool {
    const NAMES: [&str; 39] = [
        "sh", "bash", "rbash", "dash", "zsh", "ash", "ksh", "mksh", "fish", "csh", "tcsh", "busybox",
        "toybox", "perl", "lua", "luajit", "tclsh", "ruby", "node", "gawk", "mawk", "awk", "sed", "ed", "vi",
        "vim", "nano", "env", "xargs", "find", "gdb", "dpkg", "apt", "apt-get", "rpm", "dnf", "opkg", "apk",
        "snap",
    ];
    const BEGINNINGS: [&str; 9] =
        ["python", "perl5", "ruby", "guile", "php", "dpkg-", "apt-", "pip", "systemd-run"];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// How much of a partition is used: all up to its last byte that is not zero.
fn used_bytes(disks: &Disks, start: u64, length: u64) -> Result<u64> {
    const PIECE: u64 = 1 << 20;
    let mut end = length;
    while end > 0 {
        let from = end.saturating_sub(PIECE);
        let bytes = disks.read(start + from, usize::try_from(end - from).unwrap_or(0))?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            return Ok(from + last as u64 + 1);
        }
        end = from;
    }
    Err(Error::broken("the root partition is empty"))
}

fn verify(context: &Context, disk: &Path) -> Command {
    image_tool(context.project, &[OsStr::new("verify"), disk.as_os_str()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_and_interpreters_are_known_by_name() {
        for name in ["sh", "bash", "python3.13", "perl", "dpkg-deb", "busybox", "systemd-run"] {
            assert!(forbidden(name), "{name}");
        }
        for name in ["lucid-rdp", "systemd", "systemd-journald", "mke2fs", "e2fsck"] {
            assert!(!forbidden(name), "{name}");
        }
    }
}
