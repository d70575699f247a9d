//! Images in several versions, and the folder from which they are given out.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{FIRST, device};
use crate::{
    error::{At, Error, Result},
    machine::{Disks, copy_sparse},
    progress::{Steps, ask_well},
    release::{self, Build, Keys, Place},
    setup::Project,
    suite::Picks,
};

/// A system that looks for releases often, tries them by itself and judges all that it has.
pub(super) const AUTOMATIC: &str = "--automatic --sessiond=/run/lucid-sessiond/recorder.sock --every=10s";

/// A file of the system in which an image differs from the one that is built for everybody.
#[derive(Clone)]
pub(super) struct Change {
    /// From the root.
    pub(super) path: &'static str,
    pub(super) bytes: Vec<u8>,
    /// Whether it can be run.
    pub(super) program: bool,
}

impl Change {
    /// A text.
    pub(super) fn text(path: &'static str, text: impl Into<String>) -> Self {
        Self { path, bytes: text.into().into_bytes(), program: false }
    }
}

/// The repository of a run: the keys are those of every development image, and nothing was published with them before.
pub(super) struct Releases<'a> {
    place: Place<'a>,
    work: PathBuf,
    keys: Keys,
    web: PathBuf,
    port: u16,
}

impl<'a> Releases<'a> {
    pub(super) fn make(project: &'a Project, steps: &'a Steps, work: &Path, port: u16) -> Result<Self> {
        let place = Place { project, steps };
        let kept = release::keys(place)?;
        let folder = work.join("releases");
        let mut copy = Command::new("cp");
        ask_well("copying the keys", copy.arg("-a").arg(&kept.folder).arg(&folder), b"")?;
        for name in ["targets", "published"] {
            let old = folder.join(name);
            if old.exists() {
                fs::remove_dir_all(&old).at("removing", &old)?;
            }
        }
        let draft = folder.join("targets.json");
        if draft.exists() {
            fs::remove_file(&draft).at("removing", &draft)?;
        }
        let keys = Keys { folder, ..kept };
        Ok(Self { place, work: work.to_owned(), keys, web: work.join("web"), port })
    }

    /// A repository of its own, which goes on from what was published when it was asked for first; images are shared.
    pub(super) fn fork(&self, name: &str) -> Result<Self> {
        let (folder, web) =
            (self.work.join(format!("releases-{name}")), self.work.join(format!("web-{name}")));
        if !folder.exists() {
            let mut copy = Command::new("cp");
            ask_well("copying the releases", copy.arg("-a").arg(&self.keys.folder).arg(&folder), b"")?;
            self.copy(&format!("web-{name}"))?;
        }
        let keys = Keys { folder, ..self.keys.clone() };
        Ok(Self { place: self.place, work: self.work.clone(), keys, web, port: self.port })
    }

    /// The folder that a web server gives out.
    pub(super) fn web(&self) -> PathBuf {
        self.web.clone()
    }

    /// The files by which a system's update service asks us for releases and has these options besides, in place of what
    /// lucid-provision makes of `lucid.toml`.
    pub(super) fn settings(&self, options: &str) -> [Change; 2] {
        let options = format!(
            "LUCID_UPDATE_OPTIONS=\"--source=http://10.0.2.2:{} --channel=stable {options}\"\n",
            self.port
        );
        [
            Change::text("usr/share/lucid/update-test.env", options),
            Change::text(
                "usr/lib/systemd/system/lucid-updated.service.d/60-test.conf",
                "[Service]\nEnvironmentFile=/usr/share/lucid/update-test.env\n",
            ),
        ]
    }

    /// An image of that version with these changes, made once for each name. Its update service says on the console what goes
    /// into the journal too. In all but the first version, which does as `lucid.toml` says and no more, it looks for releases
    /// every ten seconds and judges a new system within 75 s.
    pub(super) fn image(&self, name: &str, version: &str, changes: &[Change]) -> Result<Disks> {
        let made = Disks::kept(&self.work.join(format!("image-{name}")));
        if made.firmware.exists() {
            return Ok(made);
        }
        let overlay = self.work.join(format!("overlay-{name}"));
        let service = "[Service]\nStandardError=journal+console\n";
        let mut always =
            vec![Change::text("usr/lib/systemd/system/lucid-updated.service.d/50-test.conf", service)];
        if version != FIRST {
            always.extend(self.settings(&format!("{AUTOMATIC} --within=75s")));
        }
        for Change { path, bytes, program } in always.iter().chain(changes) {
            let path = overlay.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).at("making", parent)?;
            }
            fs::write(&path, bytes).at("writing", &path)?;
            let mode = if *program { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).at("setting the mode of", &path)?;
        }
        let build = Build { version, overlay: Some(overlay.as_path()), cmdline: &[] };
        let built = release::image(self.place, &build)?;
        fs::create_dir_all(&made.dir).at("making", &made.dir)?;
        copy_sparse(&built.join("lucid.img"), &made.os)?;
        copy_sparse(&built.join("firmware.img"), &made.firmware)?;
        Ok(made)
    }

    /// Makes that version, has it signed by two and publishes it. Devices that have taken it go below it no more.
    pub(super) fn publish(&self, version: &str) -> Result<()> {
        self.publish_image(&self.image(version, version, &[])?, version)
    }

    /// The same with an image of that version that was made already.
    pub(super) fn publish_image(&self, image: &Disks, version: &str) -> Result<()> {
        release::publish(self.place, &self.keys, &image.dir, version, version, &self.web())
    }

    /// The archive of a version, in a folder that is given out.
    pub(super) fn archive(&self, web: &Path, version: &str) -> Result<PathBuf> {
        let is_archive = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "chunks");
        self.contents(web, version)?.into_iter().find(is_archive).ok_or_else(|| {
            Error::broken(format!("{} has no archive of {version}", web.join("targets").display()))
        })
    }

    /// The files of which a version is made, in a folder that is given out: its archive, and patches to it.
    pub(super) fn contents(&self, web: &Path, version: &str) -> Result<Vec<PathBuf>> {
        let targets = web.join("targets");
        let (archive, patch) = (format!("-{version}.chunks"), format!("-{version}-from-"));
        let mut found = Vec::new();
        for entry in fs::read_dir(&targets).at("reading", &targets)? {
            let entry = entry.at("reading", &targets)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(&archive) || (name.ends_with(".patch") && name.contains(&patch)) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// A copy of what is given out now.
    pub(super) fn copy(&self, name: &str) -> Result<PathBuf> {
        let copy = self.work.join(name);
        ask_well("copying what is given out", Command::new("cp").arg("-a").arg(self.web()).arg(&copy), b"")?;
        Ok(copy)
    }

    /// Publishes a release that is nothing but noise, for machines of some kind, signed as every other.
    pub(super) fn publish_noise(&self, machine: &str, version: &str) -> Result<()> {
        let image = noise(&self.work.join("noise.img"))?;
        let tool = |command: &str| release::tool(self.place.project, command);
        let mut add = tool("add");
        add.arg(&image).args(["--machine", machine, "--version", version, "--dir"]).arg(&self.keys.folder);
        ask_well("making a release", &mut add, b"")?;
        for holder in ["targets-1", "targets-2"] {
            let mut sign = tool("sign");
            sign.arg(self.keys.folder.join("targets.json"))
                .arg("--yes")
                .arg("--key")
                .arg(self.keys.key(holder));
            ask_well("signing a release", sign.arg("--passphrase-file").arg(&self.keys.passphrase), b"")?;
        }
        let mut publish = tool("publish");
        publish.arg(&self.keys.folder).arg("--to").arg(self.web());
        publish.arg("--snapshot-key").arg(self.keys.key("snapshot-1"));
        publish.arg("--timestamp-key").arg(self.keys.key("timestamp-1"));
        publish.arg("--passphrase-file").arg(&self.keys.passphrase);
        ask_well("publishing a release", &mut publish, b"").map(drop)
    }
}

/// A small disk with the partitions that a release is made of, and noise in them.
fn noise(image: &Path) -> Result<PathBuf> {
    const MIB: u64 = 1 << 20;
    let mut file = fs::File::create(image).at("making", image)?;
    let mut picks = Picks::new(1);
    let bytes: Vec<u8> = (0..4 * MIB / 8).flat_map(|_| picks.next().to_le_bytes()).collect();
    file.write_all(&bytes).at("writing", image)?;
    let table = "label: gpt\nstart=2048, size=2048, name=boot-a\nstart=4096, size=2048, name=root-a\n";
    let mut make = Command::new("sfdisk");
    ask_well(
        "making a partition table",
        make.args(["--quiet", "--wipe=always"]).arg(image),
        table.as_bytes(),
    )?;
    Ok(image.to_owned())
}

/// Damages every chunk of an archive.
pub(super) fn damage(archive: &Path) -> Result<()> {
    let mut bytes = fs::read(archive).at("reading", archive)?;
    // Chunks have some KiB when they are packed.
    bytes.iter_mut().step_by(256).for_each(|byte| *byte ^= 0x10);
    fs::write(archive, bytes).at("writing", archive)
}

/// How much of an archive a device fetches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// What it does not have: a tenth at most.
    Small,
    /// All but what is empty: nine tenths at least.
    Whole,
}

/// An error unless so much of an archive, and in parts, was asked for as the device says that it has fetched, and that is the
/// share that it has to be.
pub(super) fn must_be_fetched(
    asked: &[super::web::Request],
    archive: &Path,
    staged: device::Staged,
    share: Share,
) -> Result<String> {
    let whole = fs::metadata(archive).at("looking at", archive)?.len();
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let (patches, of_it): (Vec<_>, Vec<_>) = asked
        .iter()
        .filter(|request| request.path.ends_with(".patch") || request.path.ends_with(&*name))
        .partition(|request| request.path.ends_with(".patch"));
    let bytes = |of: &[&super::web::Request]| of.iter().map(|request| request.bytes).sum::<u64>();
    let (patched, chunks) = (bytes(&patches), bytes(&of_it));
    if patches.iter().chain(&of_it).any(|request| request.status != 206 || !request.range) {
        return Err(Error::broken("the archive, or a patch, was not asked for in parts alone"));
    }
    let sent = patched + chunks;
    // The head of a patch is counted by nobody but the server.
    if sent == 0 || chunks + staged.patched != staged.fetched || patched < staged.patched {
        let questions = patches.len() + of_it.len();
        return Err(Error::broken(format!(
            "{sent} bytes were sent in {questions} answers, {patched} of them of a patch, and the device says that it has \
             fetched {}, {} of them of a patch",
            staged.fetched, staged.patched
        )));
    }
    let right = match share {
        Share::Small => sent <= whole / 10,
        Share::Whole => sent >= whole / 10 * 9,
    };
    if !right {
        return Err(Error::broken(format!(
            "{sent} bytes of {whole} were fetched, which is no {share:?} share"
        )));
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    Ok(format!(
        "{:.2} MB fetched in {} parts of an archive of {:.1} MB; {:.1} MB were in their places, {:.1} MB copied",
        mb(sent),
        patches.len() + of_it.len(),
        mb(whole),
        mb(staged.kept),
        mb(staged.copied)
    ))
}
