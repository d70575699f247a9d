//! The kernel's parts: the image, the Pi 5's device trees, and the modules, of which few are used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};

/// What `lucid-init` loads before the root is mounted, in this order. A module's own needs are
/// put before it.
pub const INITRAMFS_MODULES: [&str; 10] = [
    "virtio_blk", // QEMU's disk
    // The Pi 5's card: its controller, and the pins and supplies that the card's slot hangs on.
    "pinctrl_brcmstb",
    "gpio_brcmstb",
    "gpio_regulator",
    "sdhci_brcmstb",
    "dm_mod",
    "dm_verity",
    "erofs",
    "ext4",
    "overlay", // for a data partition that is full
];

/// What services load later: on every machine, on a Pi 5 only, and where USB sticks are taken (see the units).
pub const SYSTEM_MODULES: [&str; 20] = [
    "virtio_net",     // QEMU's network
    "virtio_balloon", // gives memory back to the host
    "virtio_rng",     // the host's randomness
    "evdev",          // the power button, read by lucid-power
    "gpio_keys",      // the power button of QEMU and of the Pi 5
    "i6300esb",       // QEMU's watchdog
    "bcm2835_wdt",    // the Pi's watchdog
    "rp1_pci",        // the Pi 5's peripheral chip, then its clocks, pins, network and USB
    "clk_rp1",
    "pinctrl_rp1",
    "macb",
    "dwc3",
    "xhci_plat_hcd",
    "r8152", // the common USB network adapters
    "ax88179_178a",
    "cdc_ether",
    // USB sticks as disks (lucid-usb.service). No driver of a file system: lucid-updated reads those itself.
    "xhci_pci", // QEMU's USB
    "sd_mod",
    "usb_storage",
    "uas",
];

/// The kernel's files in Debian's tree.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release, as `uname -r` says.
    pub release: String,
    directory: PathBuf,
    index: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
}

/// A module ready to be loaded.
#[derive(Debug, Clone)]
pub struct Module {
    /// Its name with underscores.
    pub name: String,
    /// Its path below the kernel's module directory, without `.xz`.
    pub path: PathBuf,
    /// The plain ELF file.
    pub bytes: Vec<u8>,
}

/// The kernel treats both characters as one in names of modules.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

impl Kernel {
    /// Finds the one kernel of a Debian tree.
    ///
    /// # Errors
    /// When there is none or more than one.
    pub fn find(debian: &Path) -> Result<Self> {
        let modules = debian.join("usr/lib/modules");
        let mut releases = fs::read_dir(&modules)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .at("listing", &modules)?
            .into_iter();
        let (Some(entry), None) = (releases.next(), releases.next()) else {
            return Err(Error::Format { path: modules, why: "does not hold exactly one kernel".into() });
        };
        let directory = entry.path();
        let mut index = BTreeMap::new();
        let order = directory.join("modules.order");
        for line in fs::read_to_string(&order).at("reading", &order)?.lines() {
            let path = PathBuf::from(line);
            if let Some(stem) = path.file_stem() {
                index.insert(canonical(&stem.to_string_lossy()), path.with_extension("ko.xz"));
            }
        }
        let builtin = directory.join("modules.builtin");
        let builtin = fs::read_to_string(&builtin)
            .at("reading", &builtin)?
            .lines()
            .filter_map(|line| Path::new(line).file_stem().map(|stem| canonical(&stem.to_string_lossy())))
            .collect();
        Ok(Self { release: entry.file_name().to_string_lossy().into_owned(), directory, index, builtin })
    }

    /// The kernel as the boot firmware loads it.
    ///
    /// # Errors
    /// When it is not a plain arm64 image.
    pub fn image(&self) -> Result<Vec<u8>> {
        let path = self.directory.join("vmlinuz");
        let bytes = fs::read(&path).at("reading", &path)?;
        // Documentation/arch/arm64/booting.rst: magic "ARM\x64" at byte 56.
        if bytes.get(56..60) == Some(b"ARM\x64") {
            Ok(bytes)
        } else {
            Err(Error::Format { path, why: "is not a plain arm64 kernel image".into() })
        }
    }

    /// A device tree of Broadcom's directory.
    ///
    /// # Errors
    /// When the kernel does not have it.
    pub fn device_tree(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join("dtb/broadcom").join(name);
        fs::read(&path).at("reading", &path)
    }

    /// The modules named and all they need, each after what it needs. What is built into the
    /// kernel is left out.
    ///
    /// # Errors
    /// When a module does not exist or cannot be read.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut done: Vec<Module> = Vec::new();
        for name in names {
            self.add(&canonical(name), &mut done, 0)?;
        }
        Ok(done)
    }

    fn add(&self, name: &str, done: &mut Vec<Module>, depth: u32) -> Result<()> {
        let error = |why: String| Error::Module { module: name.to_owned(), why };
        if depth > 16 {
            return Err(error("needs itself".into()));
        }
        if done.iter().any(|module| module.name == name) || self.builtin.iter().any(|other| other == name) {
            return Ok(());
        }
        let relative = self.index.get(name).ok_or_else(|| error("this kernel does not have it".into()))?;
        let path = self.directory.join(relative);
        let packed = fs::read(&path).at("reading", &path)?;
        let mut bytes = Vec::new();
        lzma_rs::xz_decompress(&mut packed.as_slice(), &mut bytes)
            .map_err(|why| error(format!("{why:?}")))?;
        for needed in depends(&bytes).map_err(error)? {
            self.add(&canonical(&needed), done, depth + 1)?;
        }
        done.push(Module { name: name.to_owned(), path: relative.with_extension(""), bytes });
        Ok(())
    }

    /// Copies what `depmod` reads.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy_lists(&self, to: &Path) -> Result<()> {
        for name in ["modules.builtin", "modules.builtin.modinfo"] {
            crate::tree::install(&self.directory.join(name), &to.join(name), 0o644)?;
        }
        // modules.order would name modules that are not here.
        crate::tree::write(&to.join("modules.order"), b"")
    }
}

/// Reads `depends=` out of a module's `.modinfo` section, a list of NUL-terminated strings.
fn depends(module: &[u8]) -> std::result::Result<Vec<String>, String> {
    let elf = goblin::elf::Elf::parse(module).map_err(|error| error.to_string())?;
    let section = elf
        .section_headers
        .iter()
        .find(|section| elf.shdr_strtab.get_at(section.sh_name) == Some(".modinfo"))
        .and_then(goblin::elf::SectionHeader::file_range)
        .and_then(|range| module.get(range))
        .ok_or("has no .modinfo")?;
    Ok(section
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}
