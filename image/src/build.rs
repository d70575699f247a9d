//! Makes the image, step by step.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::apt::Archive;
use crate::cpio;
use crate::debian::{DebianTree, Request, Tools, run};
use crate::disk::{self, FIRMWARE, FIRMWARE_DISK};
use crate::error::{At, Error, Result};
use crate::fat::Place;
use crate::identity::Identity;
use crate::kernel::{INITRAMFS_MODULES, Kernel, SYSTEM_MODULES};
use crate::layout::{self, Kind, PARTITIONS};
use crate::spdx;
use crate::tree::{self, Side};
use crate::verity;

/// Debian's release that the userland comes from.
const SUITE: &str = "trixie";

/// What both trees and the kernel are picked from.
const PACKAGES: [&str; 30] = [
    "bash",
    "coreutils",
    "e2fsprogs",
    "findutils",
    "fontconfig-config",
    "fonts-dejavu-core",
    // Chinese, Japanese and Korean in 4 MB; Noto's would be 90.
    "fonts-droid-fallback",
    "fonts-noto-core",
    "foot",
    "foot-terminfo",
    "fuzzel",
    "grep",
    "kmod",
    "less",
    "libc-bin",
    "libxkbcommon-tools",
    "mc",
    // Of which only umount is used.
    "mount",
    // The only kernel in reach that serves both QEMU and a Pi 5.
    "linux-image-arm64/trixie-backports",
    "nano",
    "ncurses-base",
    "ncurses-bin",
    "pipewire",
    "procps",
    "sed",
    "sway",
    "swaybg",
    "systemd",
    "wireplumber",
    "xkb-data",
];

/// Our programs, and where each goes. `lucid-init` goes into the initramfs.
const SERVICES: [(&str, &str); 7] = [
    ("lucid-rdp", "usr/bin/lucid-rdp"),
    ("lucid-sessiond", "usr/bin/lucid-sessiond"),
    ("lucid-provision", "usr/bin/lucid-provision"),
    ("lucid-power", "usr/bin/lucid-power"),
    ("lucid-updated", "usr/bin/lucid-updated"),
    ("lucid-migrate", "usr/bin/lucid-migrate"),
    ("lucid-desktop", "desktop/usr/bin/lucid-desktop"),
];

/// Directories that `lucid-init` and services mount upon.
const SYSTEM_DIRECTORIES: [&str; 9] =
    ["proc", "sys", "dev", "run", "tmp", "var", "data", "etc", "usr/lib/modules"];
const DESKTOP_DIRECTORIES: [&str; 9] =
    ["proc", "sys", "dev", "run", "tmp", "var", "home/user", "etc", "root"];

/// EROFS: a fixed identity, see [`layout::DISK_GUID`].
const EROFS_UUID: &str = "6c756369-6400-4000-8000-00000000e0f5";

/// What the image is, in figures ([`Contents`]): this file beside it.
const CONTENTS: &str = "contents.json";
/// The most bytes of it that are read; some 20 KiB are written.
const MAX_CONTENTS: u64 = 1 << 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Build {
    /// Where our programs lie, built for the device.
    pub services: PathBuf,
    /// Where the results go.
    pub out: PathBuf,
    /// Where Debian's trees are kept.
    pub cache: PathBuf,
    /// The repository: `image/`, `firmware/` and `Cargo.lock` are read.
    pub repository: PathBuf,
    /// What the image says of itself.
    pub identity: Identity,
    /// What a test wants to be otherwise.
    pub changes: Changes,
}

/// What is otherwise in an image for tests.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// A directory whose files are laid over the system tree after everything else.
    pub overlay: Option<PathBuf>,
    /// More words for the kernel's command line.
    pub append: Vec<String>,
    /// Debian's package of another kernel.
    pub kernel: Option<String>,
}

/// `contents.json`: what the image is, in figures.
#[derive(Debug, Clone, Serialize)]
pub struct Contents {
    /// Version of this format: 1.
    pub version: u32,
    /// The kind of device that the image is for.
    pub machine: String,
    /// The version that it says it is.
    pub system_version: String,
    /// Whether whoever has the keys for development can sign what a device with it takes.
    pub development: bool,
    /// SHA-256 of what is signed of the root of releases that it holds.
    pub release_root_sha256: String,
    /// SHA-256 of the whole image.
    pub image_sha256: String,
    /// Kernel release.
    pub kernel: String,
    /// Dm-verity's root hash of the root partition.
    pub root_hash: String,
    /// Bytes of the root: EROFS without the hash tree.
    pub root_bytes: u64,
    /// Bytes of its hash tree.
    pub hash_bytes: u64,
    /// Bytes of the files in the root before compression; what both trees share is counted once.
    pub files_bytes: u64,
    /// Bytes of the kernel.
    pub kernel_bytes: u64,
    /// Bytes of the compressed initramfs.
    pub initramfs_bytes: u64,
    /// The ten largest files of the root, before compression.
    pub largest: Vec<Largest>,
    /// Every file of the system side that can be run or is an ELF file.
    pub system_executables: Vec<String>,
}

/// One of the largest files.
#[derive(Debug, Clone, Serialize)]
pub struct Largest {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// Says how long each step took.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

impl Build {
    /// Makes everything.
    ///
    /// # Errors
    /// Says which step failed and why.
    pub fn run(&self) -> Result<Contents> {
        for name in SERVICES.iter().map(|(name, _)| *name).chain(["lucid-init"]) {
            let path = self.services.join(name);
            if !path.is_file() {
                return Err(Error::Service { path });
            }
        }
        let mut steps = Steps(Instant::now());
        fs::create_dir_all(&self.out).at("making", &self.out)?;
        let archive = Archive::of_this_machine(Path::new("/etc/apt"))?;
        let tools = Tools::for_images(&archive, &self.cache)?;
        steps.done("tools");
        let debian = Request {
            name: "userland".into(),
            architecture: "arm64".into(),
            suite: SUITE.into(),
            backports: true,
            packages: PACKAGES
                .iter()
                .map(|name| match &self.changes.kernel {
                    Some(kernel) if name.starts_with("linux-image-") => kernel.clone(),
                    _ => (*name).to_owned(),
                })
                .collect(),
        }
        .fetch(&archive, &self.cache)?;
        let kernel = Kernel::find(&debian.root)?;
        steps.done("Debian packages");

        let epoch = newest(&debian.root)?;
        let packages = self.packages(&debian, epoch)?;
        let staging = self.cache.join("staging");
        self.compose(&staging, &debian, &kernel, &tools)?;
        self.describe(&staging, &packages, epoch)?;
        steps.done("root tree");
        let erofs_path = self.cache.join("root.erofs");
        make_erofs(&tools, &staging, &erofs_path, epoch)?;
        let mut root = fs::read(&erofs_path).at("reading", &erofs_path)?;
        steps.done("EROFS");

        root.resize(root.len().next_multiple_of(verity::BLOCK), 0);
        let root_bytes = root.len() as u64;
        let salt = Sha256::digest(&root).to_vec();
        let made = verity::tree(&root, &salt);
        let parameters =
            verity::Parameters { data_blocks: root_bytes / verity::BLOCK as u64, salt, root: made.root };
        root.extend_from_slice(&made.blocks);
        steps.done("verity tree");

        let boot = self.boot_files(&kernel, &parameters)?;
        steps.done("kernel and initramfs");
        let image = self.out.join("lucid.img");
        self.write_disk(&image, &root, &boot)?;
        self.write_firmware(&tools, epoch)?;
        let image_sha256 = sha256_of(&image)?;
        steps.done("disk image");

        let items = tree::items(&staging)?;
        let mut largest: Vec<Largest> = items
            .iter()
            .filter(|item| !item.again)
            .map(|item| Largest { path: item.path.clone(), bytes: item.bytes })
            .collect();
        largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        largest.truncate(10);
        let size_of =
            |name: &str| boot.iter().find(|(other, _)| other == name).map_or(0, |(_, b)| b.len() as u64);
        let contents = Contents {
            version: 1,
            machine: self.identity.machine.to_string(),
            system_version: self.identity.version.to_string(),
            development: self.identity.root.development,
            release_root_sha256: self.identity.root.signed_sha256.clone(),
            image_sha256,
            kernel: kernel.release,
            root_hash: hex::encode(parameters.root),
            root_bytes,
            hash_bytes: made.blocks.len() as u64,
            files_bytes: items.iter().filter(|item| !item.again).map(|item| item.bytes).sum(),
            kernel_bytes: size_of("kernel_2712.img"),
            initramfs_bytes: size_of("initramfs"),
            largest,
            system_executables: items
                .iter()
                .filter(|item| item.executable && !item.path.starts_with("desktop/"))
                .map(|item| item.path.clone())
                .collect(),
        };
        self.write_json(CONTENTS, &contents)?;
        let list = self.out.join("packages.spdx.json");
        fs::write(&list, &packages).at("writing", &list)?;
        Ok(contents)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.out.join(name);
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::Format { path: path.clone(), why: error.to_string() })?;
        fs::write(&path, text + "\n").at("writing", &path)
    }

    fn text(&self, path: &str) -> Result<String> {
        let path = self.repository.join(path);
        fs::read_to_string(&path).at("reading", &path)
    }

    /// The SPDX list as it stands in the image.
    fn packages(&self, debian: &DebianTree, epoch: i64) -> Result<Vec<u8>> {
        let lock = self.repository.join("Cargo.lock");
        let crates = spdx::crates(&self.text("Cargo.lock")?)
            .map_err(|why| Error::Format { path: lock.clone(), why })?;
        let overlay = self.changes.overlay.as_deref().map(tree::digest).transpose()?;
        let about =
            spdx::About { version: &self.identity.version.to_string(), overlay: overlay.as_deref(), epoch };
        let document = spdx::document(&debian.packages, &crates, &about);
        let mut text = serde_json::to_vec_pretty(&document)
            .map_err(|error| Error::Format { path: lock, why: error.to_string() })?;
        text.push(b'\n');
        Ok(text)
    }

    /// Puts the root together in `staging`.
    fn compose(&self, staging: &Path, debian: &DebianTree, kernel: &Kernel, tools: &Tools) -> Result<()> {
        if staging.exists() {
            fs::remove_dir_all(staging).at("removing", staging)?;
        }
        let image = self.repository.join("image");
        let sides = [
            ("system", staging.to_owned(), SYSTEM_DIRECTORIES.as_slice()),
            ("desktop", staging.join("desktop"), DESKTOP_DIRECTORIES.as_slice()),
        ];
        for (name, target, directories) in sides {
            let list = self.text(&format!("image/{name}.files"))?;
            tree::compose(&Side { name, list: &list, directories }, &debian.root, &target)?;
            tree::overlay(&image.join(name), &target)?;
        }
        for (name, target) in SERVICES {
            tree::install(&self.services.join(name), &staging.join(target), 0o755)?;
        }
        let modules = Path::new("usr/lib/modules").join(&kernel.release);
        let modules = staging.join(modules);
        for module in kernel.modules(&SYSTEM_MODULES)? {
            tree::write(&modules.join(&module.path), &module.bytes)?;
        }
        kernel.copy_lists(&modules)?;
        run(tools.command("usr/sbin/depmod").arg("-b").arg(staging.join("usr")).arg(&kernel.release))
            .map(drop)
    }

    /// Puts into the root what the image says of itself, and last what a test wants to be otherwise.
    fn describe(&self, staging: &Path, packages: &[u8], epoch: i64) -> Result<()> {
        let about = staging.join("usr/share/lucid");
        tree::write(&about.join("packages.spdx.json"), packages)?;
        tree::write(&about.join("root.json"), &self.identity.root.bytes)?;
        tree::write(&about.join("system.json"), &self.identity.system(epoch).to_bytes())?;
        self.changes.overlay.as_deref().map_or(Ok(()), |overlay| tree::overlay(overlay, staging))
    }

    /// The files of a boot slot, by name.
    fn boot_files(&self, kernel: &Kernel, parameters: &verity::Parameters) -> Result<Vec<(String, Vec<u8>)>> {
        let template = self.text("firmware/cmdline.txt")?;
        let mut command_line = template.trim_end().replace("@VERITY@", &parameters.to_argument());
        for word in &self.changes.append {
            command_line = command_line + " " + word;
        }
        if !command_line.contains("lucid.verity=") || command_line.contains(['@', '\n']) {
            return Err(Error::Format {
                path: self.repository.join("firmware/cmdline.txt"),
                why: "is not one line with lucid.verity=@VERITY@".into(),
            });
        }
        Ok(vec![
            ("config.txt".into(), self.text("firmware/config.txt")?.into_bytes()),
            ("cmdline.txt".into(), (command_line + "\n").into_bytes()),
            ("kernel_2712.img".into(), kernel.image()?),
            ("initramfs".into(), self.initramfs(kernel)?),
            ("bcm2712-rpi-5-b.dtb".into(), kernel.device_tree("bcm2712-rpi-5-b.dtb")?),
            // The firmware's name and the kernel's name for the D0 stepping.
            ("bcm2712d0-rpi-5-b.dtb".into(), kernel.device_tree("bcm2712-d-rpi-5-b.dtb")?),
        ])
    }

    fn initramfs(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let init = self.services.join("lucid-init");
        let bytes = fs::read(&init).at("reading", &init)?;
        let format = |why: String| Error::Format { path: init.clone(), why };
        let mut archive = cpio::Archive::default();
        for directory in ["dev", "proc", "sys", "run", "root", "modules"] {
            archive.directory(directory).map_err(format)?;
        }
        archive.character("dev/console", 0o600, 5, 1).map_err(format)?;
        archive.file("init", 0o755, &bytes).map_err(format)?;
        for (number, module) in kernel.modules(&INITRAMFS_MODULES)?.iter().enumerate() {
            let name = format!("modules/{number:02}-{}.ko", module.name);
            archive.file(&name, 0o644, &module.bytes).map_err(format)?;
        }
        zstd::bulk::compress(&archive.finish().map_err(format)?, 19).at("compressing", &init)
    }

    fn write_disk(&self, image: &Path, root: &[u8], boot: &[(String, Vec<u8>)]) -> Result<()> {
        let partial = image.with_extension("img.partial");
        disk::create(&partial, &PARTITIONS, layout::DISK_GUID, layout::disk_bytes())?;
        for partition in &PARTITIONS {
            let fat = disk::fat(&partial, partition);
            match partition.kind {
                Kind::Select => {
                    fat.format(partition.number, partition.name)?;
                    let autoboot =
                        layout::autoboot(&self.text("firmware/autoboot.txt")?).ok_or(Error::Room {
                            what: "firmware/autoboot.txt",
                            needed: layout::AUTOBOOT_SIZE as u64 + 1,
                            place: "its sector".into(),
                            room: layout::AUTOBOOT_SIZE as u64,
                        })?;
                    fat.put("autoboot.txt", &autoboot)?;
                }
                Kind::Boot => {
                    fat.format(partition.number, partition.name)?;
                    for (name, contents) in boot {
                        fat.put(name, contents)?;
                    }
                }
                Kind::Root => disk::write(&partial, partition, root, "the root")?,
                Kind::Data => {}
            }
        }
        fs::rename(&partial, image).at("renaming to", image)
    }

    /// The disk that plays the EEPROM in QEMU.
    fn write_firmware(&self, tools: &Tools, epoch: i64) -> Result<()> {
        let script = self.cache.join("boot.scr");
        run(tools
            .command("usr/bin/mkimage")
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .args(["-A", "arm64", "-T", "script", "-C", "none", "-n", "Lucid EEPROM stand-in", "-d"])
            .arg(self.repository.join("firmware/qemu/eeprom.cmd"))
            .arg(&script))?;
        let image = self.out.join("firmware.img");
        disk::create(&image, &[FIRMWARE], FIRMWARE_DISK.0, FIRMWARE_DISK.1)?;
        let fat = firmware(&image);
        fat.format(0xf1, FIRMWARE.name)?;
        fat.put("boot.scr", &fs::read(&script).at("reading", &script)?)
    }
}

/// The FAT of the disk that plays the EEPROM.
#[must_use]
pub fn firmware(image: &Path) -> Place<'_> {
    disk::fat(image, &FIRMWARE)
}

/// The time that the whole image carries: that of the newest file among Debian's packages, unless
/// `SOURCE_DATE_EPOCH` says another.
fn newest(root: &Path) -> Result<i64> {
    if let Some(epoch) = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()) {
        return Ok(epoch);
    }
    let mut newest = 0;
    for part in ["usr/bin", "usr/sbin", "usr/lib/systemd", "usr/lib/modules", "usr/lib/aarch64-linux-gnu"] {
        let directory = root.join(part);
        for entry in fs::read_dir(&directory).at("listing", &directory)? {
            let path = entry.at("listing", &directory)?.path();
            let meta = fs::symlink_metadata(&path).at("reading", &path)?;
            // Directories of the cache carry the time of unpacking, links too.
            if meta.is_file() {
                let time = meta.modified().at("reading", &path)?;
                let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                newest = newest.max(i64::try_from(seconds).unwrap_or(0));
            }
        }
    }
    Ok(newest)
}

/// Level 3 with clusters of 32 KiB takes 3 s and gives 27 MB; level 15 takes two minutes for 22 MB, and
/// larger clusters make every small read slower.
fn make_erofs(tools: &Tools, staging: &Path, to: &Path, epoch: i64) -> Result<()> {
    if to.exists() {
        fs::remove_file(to).at("removing", to)?;
    }
    let mut command: Command = tools.command("usr/bin/mkfs.erofs");
    command
        .args(["--quiet", "-zzstd,level=3", "-C32768", "-Eztailpacking", "-x-1", "--all-root"])
        .args(["-T", &epoch.to_string(), "-U", EROFS_UUID, "-L", "lucid"])
        .arg(to)
        .arg(staging);
    run(&mut command).map(|_| ())
}

/// Does something to an image. Where the `contents.json` beside it was of this image before, it is so afterwards: it says the
/// new SHA-256, and is otherwise as it was.
///
/// # Errors
/// When the image or the file cannot be read or written; whatever `does` fails with.
pub fn changing<T>(image: &Path, does: impl FnOnce() -> Result<T>) -> Result<T> {
    let path = image.with_file_name(CONTENTS);
    let mut text = String::new();
    match fs::File::open(&path) {
        Ok(file) => drop(file.take(MAX_CONTENTS + 1).read_to_string(&mut text).at("reading", &path)?),
        Err(error) if error.kind() == ErrorKind::NotFound => return does(),
        Err(error) => return Err(error).at("opening", &path),
    }
    let before = sha256_of(image)?;
    let done = does()?;
    // Of another image, it stays as it is.
    if text.len() as u64 <= MAX_CONTENTS && text.contains(&before) {
        let new = image.with_file_name(format!("{CONTENTS}.partial"));
        fs::write(&new, text.replace(&before, &sha256_of(image)?)).at("writing", &new)?;
        fs::rename(&new, &path).at("renaming to", &path)?;
    }
    Ok(done)
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).at("opening", path)?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).at("reading", path)?;
    Ok(hex::encode(hash.finalize()))
}
