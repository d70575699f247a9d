//! Releases of what is built here: keys for development, variants of the image, a folder for a web server. All of it is done by
//! `lucid-release` and `lucid-image`, as people do it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    build::{self, Identity, MACHINE},
    error::{At, Result},
    progress::Steps,
    setup::{DEVICE_TARGET, Project},
};

/// Of the keys for development, which nobody guards; it is in the open.
const PASSPHRASE: &str = "nobody guards these keys";
/// So long does a root for development hold: a kept machine goes on believing it.
const DAYS_ROOT: &str = "3650";

/// Where images and releases are made, with what [`build::host`] built.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The checkout.
    pub(crate) project: &'a Project,
    /// Logs, and whether we were asked to end.
    pub(crate) steps: &'a Steps,
}

/// A folder of releases with all its keys: one for roots; two for targets, of which both sign.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The first root, which images are built with.
    pub(crate) root: PathBuf,
    /// The folder; its keys are in `keys`.
    pub(crate) folder: PathBuf,
    /// The file with the passphrase of every key.
    pub(crate) passphrase: PathBuf,
}

impl Keys {
    fn at(home: &Path) -> Self {
        let folder = home.join("folder");
        Self { root: folder.join("1.root.json"), folder, passphrase: home.join("passphrase") }
    }

    /// The file of a key, such as `targets-1`.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.folder.join("keys").join(format!("{name}.key"))
    }
}

/// The keys for development of this checkout: made once, and kept in `target/lucid/release`.
pub(crate) fn keys(place: Place<'_>) -> Result<Keys> {
    let home = place.project.lucid.join("release");
    if !home.exists() {
        let fresh = place.project.lucid.join("release.new");
        make_keys(place, &fresh)?;
        // Whole or not at all.
        fs::rename(&fresh, &home).at("naming", &home)?;
    }
    Ok(Keys::at(&home))
}

/// Makes another folder of releases with keys of its own, in a folder `home` which is emptied first.
pub(crate) fn make_keys(place: Place<'_>, home: &Path) -> Result<Keys> {
    if home.exists() {
        fs::remove_dir_all(home).at("emptying", home)?;
    }
    fs::create_dir_all(home).at("making", home)?;
    let keys = Keys::at(home);
    fs::write(&keys.passphrase, format!("{PASSPHRASE}\n")).at("writing", &keys.passphrase)?;
    let mut init = tool(place.project, "init");
    init.arg(&keys.folder).args(["--root-keys", "1", "--root-threshold", "1"]);
    init.args(["--targets-keys", "2", "--targets-threshold", "2", "--days-root", DAYS_ROOT, "--development"]);
    place.steps.run("making keys for development", init.arg("--passphrase-file").arg(&keys.passphrase))?;
    Ok(keys)
}

/// A variant of the image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Build<'a> {
    /// The version that it says it is.
    pub(crate) version: &'a str,
    /// A folder whose files are laid over the system tree.
    pub(crate) overlay: Option<&'a Path>,
    /// More words for the kernel's command line.
    pub(crate) cmdline: &'a [&'a str],
}

/// Builds a variant, with the root for development, from the programs and packages that [`build::image`] left; gives its folder,
/// which is as that one's: `lucid.img`, `firmware.img`.
pub(crate) fn image(place: Place<'_>, build: &Build<'_>) -> Result<PathBuf> {
    let Place { project, steps } = place;
    let words = build.cmdline.join(" ");
    let overlay = build.overlay.map(Path::to_string_lossy).unwrap_or_default();
    let what = blake3::hash(format!("{overlay}\0{words}").as_bytes()).to_hex();
    let name = format!("{}-{}", build.version, &what[..8]);
    let out = project.lucid.join("variants").join(&name);
    let root = keys(place)?.root;
    let identity = Identity {
        root: &root,
        version: build.version,
        machine: MACHINE,
        development: true,
        overlay: build.overlay,
        cmdline: build.cmdline,
        kernel: None,
    };
    let services = project.target.join(DEVICE_TARGET).join("release");
    build::assemble(project, steps, &services, &out, &identity, &format!("assembling the image {name}"))?;
    Ok(out)
}

/// Releases an image, whose folder [`image`] gave: adds it, lets both holders sign, and publishes into the folder `web`.
pub(crate) fn publish(
    place: Place<'_>,
    keys: &Keys,
    image: &Path,
    version: &str,
    min_version: &str,
    web: &Path,
) -> Result<()> {
    let Place { project, steps } = place;
    fs::create_dir_all(web).at("making", web)?;
    let mut add = tool(project, "add");
    add.arg(image.join("lucid.img")).args(["--machine", MACHINE, "--version", version]);
    add.args(["--min-version", min_version]).arg("--dir").arg(&keys.folder);
    steps.run(&format!("making the release {version}"), &mut add)?;
    let draft = keys.folder.join("targets.json");
    for holder in ["targets-1", "targets-2"] {
        let mut sign = tool(project, "sign");
        sign.arg(&draft).arg("--key").arg(keys.key(holder)).arg("--yes");
        sign.arg("--passphrase-file").arg(&keys.passphrase);
        steps.run(&format!("signing {version} with {holder}"), &mut sign)?;
    }
    let mut publish = tool(project, "publish");
    publish.arg(&keys.folder).arg("--to").arg(web);
    publish.arg("--snapshot-key").arg(keys.key("snapshot-1"));
    publish.arg("--timestamp-key").arg(keys.key("timestamp-1"));
    publish.arg("--passphrase-file").arg(&keys.passphrase);
    steps.run(&format!("publishing {version}"), &mut publish).map(drop)
}

/// `lucid-release` with a command.
pub(crate) fn tool(project: &Project, command: impl AsRef<OsStr>) -> Command {
    let mut tool = project.command(&build::host_program(project, "lucid-release").to_string_lossy());
    tool.arg(command);
    tool
}
