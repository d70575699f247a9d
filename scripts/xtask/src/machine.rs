//! A machine in QEMU: its own copy of the disks, its control socket, what its console says.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::Deref,
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    error::{At, Error, Result},
    progress::{Background, Interrupt, ask_well},
    writes,
};

/// What runs before the kernel, from Debian's u-boot-qemu.
const U_BOOT: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";
/// The quickest of QEMU's cores under emulation, of those that our kernel and services run on.
pub(crate) const CPU: &str = "cortex-a72";
/// The longest that a boot may take on a busy machine.
pub(crate) const BOOT_BOUND: Duration = Duration::from_secs(240);
/// The longest that a clean end may take before QEMU is told to stop.
const POWER_OFF_BOUND: Duration = Duration::from_secs(60);
/// How long the power button may seem to do nothing before it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(8);
/// The card of a machine with a log of writes, and that log, as QEMU's block devices.
const CARD: &str = "card";
const LOG: &str = "log";
/// The USB port of a machine that has one, and the stick in it.
const PORT: &str = "xhci";
const STICK: &str = "stick";
/// The longest until QEMU has let go of a stick that was pulled out.
const PULL_BOUND: Duration = Duration::from_secs(30);
/// First line of what the announce service prints on every console.
const ANNOUNCE: &str = "Lucid is ready.";
/// What the announcement's last line for every machine is about.
const RECORDING: &str = "recording";

/// The disks of one machine.
#[derive(Clone)]
pub(crate) struct Disks {
    /// The folder of the machine.
    pub(crate) dir: PathBuf,
    /// The card: everything that Lucid is.
    pub(crate) os: PathBuf,
    /// QEMU's stand-in for the board's EEPROM.
    pub(crate) firmware: PathBuf,
}

/// Disks that are deleted when this is dropped, a fifth of a gigabyte each time; console and journal stay.
pub(crate) struct Scratch(Disks);

impl Deref for Scratch {
    type Target = Disks;

    fn deref(&self) -> &Disks {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for disk in [&self.0.os, &self.0.firmware] {
            if let Err(error) = fs::remove_file(disk) {
                eprintln!("deleting {}: {error}; it may be deleted by hand", disk.display());
            }
        }
    }
}

/// A partition as `sfdisk` reads it.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// Its number, from 1.
    pub(crate) number: usize,
    /// Its name in the GPT.
    pub(crate) name: String,
    /// First byte.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) length: u64,
}

impl Disks {
    /// Copies an image into `dir`, which is emptied first.
    pub(crate) fn copy(image: &Path, dir: &Path) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).at("emptying", dir)?;
        }
        fs::create_dir_all(dir).at("making", dir)?;
        let disks = Self::kept(dir);
        copy_sparse(&image.join("lucid.img"), &disks.os)?;
        copy_sparse(&image.join("firmware.img"), &disks.firmware)?;
        Ok(disks)
    }

    /// As [`Disks::copy`], for as long as a test needs them.
    pub(crate) fn scratch(image: &Path, dir: &Path) -> Result<Scratch> {
        Self::copy(image, dir).map(Scratch)
    }

    /// The disks that lie in `dir` already.
    pub(crate) fn kept(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), os: dir.join("lucid.img"), firmware: dir.join("firmware.img") }
    }

    /// Makes the card larger, as a real one is larger than the image.
    pub(crate) fn grow(&self, bytes: u64) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.os).at("opening", &self.os)?;
        file.set_len(bytes).at("growing", &self.os)
    }

    /// All partitions, read by `sfdisk`.
    pub(crate) fn partitions(&self) -> Result<Vec<Partition>> {
        let answer =
            ask_well("reading the partition table", Command::new("sfdisk").arg("--json").arg(&self.os), b"")?;
        let wrong = || Error::talk("sfdisk", "its answer holds no partition table");
        let table: Value =
            serde_json::from_slice(&answer.out).map_err(|error| Error::talk("sfdisk", error))?;
        let sector = table["partitiontable"]["sectorsize"].as_u64().unwrap_or(512);
        let list = table["partitiontable"]["partitions"].as_array().ok_or_else(wrong)?;
        list.iter()
            .enumerate()
            .map(|(index, entry)| {
                Ok(Partition {
                    number: index + 1,
                    name: entry["name"].as_str().unwrap_or_default().to_owned(),
                    start: entry["start"].as_u64().ok_or_else(wrong)? * sector,
                    length: entry["size"].as_u64().ok_or_else(wrong)? * sector,
                })
            })
            .collect()
    }

    /// The partition of that name.
    pub(crate) fn partition(&self, name: &str) -> Result<Partition> {
        let all = self.partitions()?;
        let names: Vec<&str> = all.iter().map(|partition| partition.name.as_str()).collect();
        let wanted = all.iter().find(|partition| partition.name == name).cloned();
        wanted.ok_or_else(|| {
            Error::broken(format!("{} has no partition {name}, only {}", self.os.display(), names.join(", ")))
        })
    }

    /// Takes a partition out of the table.
    pub(crate) fn delete_partition(&self, name: &str) -> Result<()> {
        let number = self.partition(name)?.number.to_string();
        let mut delete = Command::new("sfdisk");
        delete.args(["--no-reread", "--no-tell-kernel", "--delete"]).arg(&self.os).arg(number);
        ask_well("deleting a partition", &mut delete, b"").map(drop)
    }

    /// Reads bytes of the card.
    pub(crate) fn read(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let file = File::open(&self.os).at("opening", &self.os)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).at("reading", &self.os)?;
        Ok(bytes)
    }

    /// Writes bytes to the card.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.os).at("opening", &self.os)?;
        file.write_all_at(bytes, at).at("writing", &self.os)
    }

    /// Turns one bit of the card over.
    pub(crate) fn flip(&self, at: u64) -> Result<()> {
        let byte = self.read(at, 1)?;
        self.write(at, &[byte.first().copied().unwrap_or_default() ^ 0x10])
    }

    /// Puts `text` as `lucid.toml` onto the card's `select` partition, as a user does on any computer.
    pub(crate) fn provision(&self, text: &str) -> Result<()> {
        self.put("select", "lucid.toml", text.as_bytes())
    }

    /// Puts a file onto the card's FAT partition `name`, in place of one that is there.
    pub(crate) fn put(&self, name: &str, path: &str, bytes: &[u8]) -> Result<()> {
        let source = self.dir.join(path);
        fs::write(&source, bytes).at("writing", &source)?;
        let mut copy = Command::new("mcopy");
        copy.env("MTOOLS_SKIP_CHECK", "1").arg("-o").arg("-i").arg(self.mtools_name(name)?);
        ask_well("putting a file onto the card", copy.arg(&source).arg(format!("::{path}")), b"")?;
        fs::remove_file(&source).at("deleting", &source)
    }

    /// What the card's FAT partition `name` holds, one path a line.
    pub(crate) fn fat_files(&self, name: &str) -> Result<Vec<String>> {
        let mut list = Command::new("mdir");
        list.env("MTOOLS_SKIP_CHECK", "1")
            .args(["-b", "-/", "-a", "-i"])
            .arg(self.mtools_name(name)?)
            .arg("::");
        let text = ask_well("listing a FAT partition", &mut list, b"")?.text();
        Ok(text.lines().map(|line| line.trim().trim_start_matches("::/").to_owned()).collect())
    }

    /// One file of the card's FAT partition `name`.
    pub(crate) fn fat_file(&self, name: &str, path: &str) -> Result<String> {
        let mut read = Command::new("mtype");
        read.env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(self.mtools_name(name)?).arg(format!("::{path}"));
        Ok(ask_well("reading from a FAT partition", &mut read, b"")?.text())
    }

    fn mtools_name(&self, name: &str) -> Result<String> {
        Ok(format!("{}@@{}", self.os.display(), self.partition(name)?.start))
    }

    /// How e2fsprogs call the data partition inside the card.
    pub(crate) fn data_name(&self) -> Result<String> {
        Ok(format!("{}?offset={}", self.os.display(), self.partition("data")?.start))
    }

    /// Where `needle` lies on the card between two bytes, if anywhere.
    pub(crate) fn find(&self, range: &Partition, needle: &[u8]) -> Result<Option<u64>> {
        const PIECE: usize = 1 << 20;
        let mut file = File::open(&self.os).at("opening", &self.os)?;
        file.seek(SeekFrom::Start(range.start)).at("reading", &self.os)?;
        let mut file = file.take(range.length);
        let mut window: Vec<u8> = Vec::with_capacity(PIECE + needle.len());
        let mut window_at = range.start;
        loop {
            let mut piece = vec![0; PIECE];
            let got = file.read(&mut piece).at("reading", &self.os)?;
            if got == 0 {
                return Ok(None);
            }
            window.extend_from_slice(piece.get(..got).unwrap_or_default());
            if let Some(at) = window.windows(needle.len()).position(|found| found == needle) {
                return Ok(Some(window_at + at as u64));
            }
            let keep = window.len().min(needle.len().saturating_sub(1));
            window_at += (window.len() - keep) as u64;
            window.drain(..window.len() - keep);
        }
    }
}

/// Copies a disk, without room for what is empty.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.args(["--reflink=auto", "--sparse=always"]).arg(from).arg(to);
    ask_well("copying a disk", &mut copy, b"").map(drop)
}

/// How a machine is started.
#[derive(Clone)]
pub(crate) struct Options {
    /// QEMU's name of the processor.
    pub(crate) cpu: String,
    /// The port of this machine that leads to the guest's 3389; any free one if none.
    pub(crate) port: Option<u16>,
    /// The guest's address, if it is not the one that QEMU's DHCP gives.
    pub(crate) guest: Option<Ipv4Addr>,
    /// Whether QEMU ends when the guest restarts.
    pub(crate) end_on_restart: bool,
    /// A log of everything that the card is told to write ([`crate::writes`]).
    pub(crate) writes: Option<PathBuf>,
    /// The card cannot be written to.
    pub(crate) read_only: bool,
    /// There is a hardware watchdog, which restarts a machine that has stopped feeding it.
    pub(crate) watchdog: bool,
    /// The time at which the machine's clock begins, as QEMU's `-rtc base=` takes it; this machine's if none.
    pub(crate) clock: Option<String>,
    /// There is a USB port ([`Machine::plug`]).
    pub(crate) usb: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cpu: CPU.to_owned(),
            port: None,
            guest: None,
            end_on_restart: false,
            writes: None,
            read_only: false,
            watchdog: false,
            clock: None,
            usb: false,
        }
    }
}

/// What the announce service says.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    /// `address:port` of each address.
    pub(crate) addresses: Vec<String>,
    /// The account's name.
    pub(crate) user: String,
    /// The password, or where it was said.
    pub(crate) password: String,
    /// SHA-256 of the certificate, `AA:BB:…`.
    pub(crate) fingerprint: String,
    /// Whether sessions are recorded, in words.
    pub(crate) recording: String,
}

impl Announcement {
    /// What is said where sessions are recorded.
    pub(crate) const RECORDED: &str = "every session is recorded";

    /// The key that signs recordings, in the newest announcement of a console's text.
    pub(crate) fn device_key(console: &str) -> Option<&str> {
        let block = &console[console.rfind(ANNOUNCE)?..];
        let rest = block.split_once("device key   ed25519 ")?.1;
        rest.get(..64).filter(|key| key.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// The newest announcement in a console's text, once it is whole.
    pub(crate) fn parse(console: &str) -> Option<Self> {
        let block = &console[console.rfind(ANNOUNCE)?..];
        let mut found = Self {
            addresses: Vec::new(),
            user: String::new(),
            password: String::new(),
            fingerprint: String::new(),
            recording: String::new(),
        };
        let mut lines = block.lines().skip(1);
        // A line counts once the next one has begun: before that it may be cut.
        let whole = block.matches('\n').count().saturating_sub(1);
        for line in lines.by_ref().take(whole) {
            // Messages of the kernel may stand between ours.
            let Some((key, value)) = line.trim().split_once(char::is_whitespace) else { continue };
            let value = value.trim();
            match key {
                "address" => found.addresses.push(value.to_owned()),
                "user" => found.user = value.to_owned(),
                "password" => found.password = value.to_owned(),
                "fingerprint" => {
                    let hex = value.strip_prefix("sha256").unwrap_or(value).trim();
                    found.fingerprint = hex.to_owned();
                }
                RECORDING => {
                    found.recording = value.to_owned();
                    return Some(found);
                }
                _ => {}
            }
        }
        None
    }

    /// The password, if it is one that was made just now and is shown.
    pub(crate) fn fresh_password(&self) -> Option<&str> {
        (!self.password.starts_with("as ")).then_some(self.password.as_str())
    }
}

/// The guest's memory as its own kernel counts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Bytes of the whole.
    pub(crate) total: u64,
    /// Bytes that programs could still have.
    pub(crate) available: u64,
}

impl Memory {
    /// Megabytes used.
    pub(crate) fn used(&self) -> f64 {
        self.total.saturating_sub(self.available) as f64 / 1e6
    }
}

/// A running machine; it ends when this is dropped.
pub(crate) struct Machine {
    qemu: Background,
    qmp: Qmp,
    /// What its serial port said.
    pub(crate) console: PathBuf,
    /// The port here that leads to its 3389.
    pub(crate) port: u16,
    /// When QEMU was started.
    pub(crate) started: Instant,
    interrupt: Interrupt,
}

impl Machine {
    /// Starts QEMU on these disks.
    pub(crate) fn start(disks: &Disks, options: &Options, interrupt: &Interrupt) -> Result<Self> {
        let port = match options.port {
            Some(port) => port,
            None => free_port()?,
        };
        let console = disks.dir.join("console.log");
        // QEMU appends nothing: an old log would be taken for this run's.
        fs::write(&console, "").at("emptying", &console)?;
        let socket = disks.dir.join("qmp.sock");
        if socket.exists() {
            fs::remove_file(&socket).at("deleting", &socket)?;
        }
        let drive = |id: &str, path: &Path| {
            // Commas separate QEMU's own options.
            let file = path.to_string_lossy().replace(',', ",,");
            format!("if=none,id={id},format=raw,cache=writeback,file={file}")
        };
        let card = match &options.writes {
            None if options.read_only => vec!["-drive".to_owned(), drive("card", &disks.os) + ",readonly=on"],
            None => vec!["-drive".to_owned(), drive("card", &disks.os)],
            Some(log) => {
                writes::empty(log)?;
                // This machine goes on running, so what QEMU itself would flush may stay in memory.
                let file =
                    |path: &Path| json!({"driver": "file", "filename": path, "cache": {"no-flush": true}});
                // The device is given what is above the log, so that something can be put between them.
                let node = json!({
                    "driver": "raw",
                    "node-name": CARD,
                    "file": {
                        "driver": "blklogwrites",
                        "node-name": LOG,
                        "log-sector-size": 512,
                        "file": file(&disks.os),
                        "log": file(log),
                    },
                });
                vec!["-blockdev".to_owned(), node.to_string()]
            }
        };
        let guest = options.guest.map(|address| address.to_string()).unwrap_or_default();
        let mut qemu = Command::new("qemu-system-aarch64");
        qemu.args(["-M", "virt,acpi=off", "-cpu", &options.cpu, "-smp", "2", "-m", "1024", "-bios", U_BOOT])
            .args(["-nodefaults", "-display", "none", "-monitor", "none"])
            .args([
                "-chardev",
                &format!("file,id=console,path={}", console.display()),
                "-serial",
                "chardev:console",
            ])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
            .args(["-drive", &drive("firmware", &disks.firmware), "-device", "virtio-blk-pci,drive=firmware"])
            .args(card)
            .args(["-device", "virtio-blk-pci,drive=card"])
            .args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-{guest}:3389")])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci,id=balloon"]);
        if options.watchdog {
            qemu.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        if options.usb {
            qemu.args(["-device", &format!("qemu-xhci,id={PORT}")]);
        }
        if let Some(clock) = &options.clock {
            qemu.args(["-rtc", &format!("base={clock}")]);
        }
        if options.end_on_restart {
            qemu.arg("-no-reboot");
        }
        let started = Instant::now();
        let mut qemu = Background::start(&qemu, &disks.dir.join("qemu.log"))?;
        let stream = interrupt.wait_for("QEMU's control socket", Duration::from_secs(20), || {
            qemu.must_run("starting QEMU")?;
            Ok(UnixStream::connect(&socket).ok())
        })?;
        let qmp = Qmp::greet(stream)?;
        Ok(Self { qemu, qmp, console, port, started, interrupt: interrupt.clone() })
    }

    /// Everything that the console said so far.
    pub(crate) fn console(&self) -> Result<String> {
        // U-Boot clears lines and colours them; the rest of us reads plain text.
        let bytes = fs::read(&self.console).at("reading", &self.console)?;
        Ok(plain(&String::from_utf8_lossy(&bytes)))
    }

    /// Waits until `find` sees what it wants in the console's text from byte `from` on.
    pub(crate) fn wait_console<T>(
        &mut self,
        what: &str,
        bound: Duration,
        from: usize,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let interrupt = self.interrupt.clone();
        interrupt
            .wait_for(what, bound, || {
                let ended = self.qemu.ended()?;
                let text = self.console()?;
                let text = text.get(from..).unwrap_or_default();
                if let Some(found) = find(text) {
                    return Ok(Some(found));
                }
                if ended.is_some() {
                    self.qemu.must_run(&format!("waiting for {what}"))?;
                }
                Ok(None)
            })
            .map_err(|error| self.with_console(error))
    }

    fn with_console(&self, error: Error) -> Error {
        let end =
            format!("; the end of {}:\n{}", self.console.display(), crate::progress::tail(&self.console));
        match error {
            Error::Late { what, seconds, details } => Error::Late { what, seconds, details: details + &end },
            Error::Program { doing, program, status, details } => {
                Error::Program { doing, program, status, details: details + &end }
            }
            other => other,
        }
    }

    /// Waits for the announcement on the console, from byte `from` of its text on, and then for an answer from outside.
    pub(crate) fn wait_ready(&mut self, from: usize) -> Result<Announcement> {
        let announcement =
            self.wait_console("the announcement on the console", BOOT_BOUND, from, Announcement::parse)?;
        let port = self.port;
        let interrupt = self.interrupt.clone();
        interrupt
            .wait_for("an answer of the RDP port", Duration::from_secs(30), || Ok(answers(port).ok()))
            .map_err(|error| self.with_console(error))?;
        Ok(announcement)
    }

    /// Waits until QEMU has ended by itself.
    pub(crate) fn wait_end(&mut self, bound: Duration) -> Result<Duration> {
        let start = Instant::now();
        let interrupt = self.interrupt.clone();
        interrupt
            .wait_for("the machine's end", bound, || self.qemu.ended())
            .map_err(|error| self.with_console(error))
            .map(|_| start.elapsed())
    }

    /// An error when QEMU has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.qemu.must_run("running the machine")
    }

    /// Whether QEMU has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.qemu.ended()?.is_some())
    }

    /// Presses the power button and waits until the machine is off. A button that nobody listens to yet is pressed
    /// again, as people do.
    pub(crate) fn power_off(&mut self) -> Result<Duration> {
        let start = Instant::now();
        loop {
            self.qmp.command("system_powerdown", &json!({}))?;
            match self.wait_end(PRESS_AGAIN) {
                Ok(_) => return Ok(start.elapsed()),
                Err(Error::Late { .. }) if start.elapsed() < POWER_OFF_BOUND => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the machine: the power button first, then QEMU's own way, then by force. Says how it went. This is what
    /// happens after Ctrl-C, so another one does not keep it from its end.
    pub(crate) fn end(mut self) -> String {
        self.interrupt = Interrupt::never();
        match self.power_off() {
            Ok(spent) => return format!("The machine shut down cleanly in {:.1} s.", spent.as_secs_f64()),
            Err(error) => eprintln!("{error}"),
        }
        if self.qmp.command("quit", &json!({})).is_err() || self.wait_end(PRESS_AGAIN).is_err() {
            self.qemu.kill();
        }
        "The machine did not shut down; QEMU was ended, which is like pulling its plug.".to_owned()
    }

    /// Pulls the plug: QEMU ends at once. What the machine's disk keeps of it is another matter ([`crate::writes`]).
    pub(crate) fn cut(mut self) {
        self.qemu.kill();
    }

    /// From now on every write to the card fails, and nothing of it is done; what is on it can be read. The machine has to
    /// have a log of its writes, in which no such write is.
    pub(crate) fn fail_writes(&mut self) -> Result<()> {
        const FAILING: &str = "failing";
        const EIO: u32 = 5;
        // "none" is what happens when the device is added.
        let rule = |what| json!({"event": "none", "iotype": what, "errno": EIO});
        let rules = ["write", "write-zeroes", "discard"].map(rule);
        let node = json!({"driver": "blkdebug", "node-name": FAILING, "image": LOG, "inject-error": rules});
        self.qmp.command("blockdev-add", &node)?;
        let between = json!({"options": [{"driver": "raw", "node-name": CARD, "file": FAILING}]});
        self.qmp.command("blockdev-reopen", &between).map(drop)
    }

    /// Plugs a USB stick with these bytes into the machine's port.
    pub(crate) fn plug(&mut self, image: &Path) -> Result<()> {
        let file = json!({"driver": "file", "filename": image});
        let node = json!({"driver": "raw", "node-name": STICK, "file": file});
        self.qmp.command("blockdev-add", &node)?;
        let bus = format!("{PORT}.0");
        let stick =
            json!({"driver": "usb-storage", "id": STICK, "bus": bus, "drive": STICK, "removable": true});
        self.qmp.command("device_add", &stick).map(drop)
    }

    /// Pulls it out, whatever the machine does with it.
    pub(crate) fn pull(&mut self) -> Result<()> {
        self.qmp.command("device_del", &json!({"id": STICK}))?;
        let interrupt = self.interrupt.clone();
        interrupt.wait_for("the end of a stick that was pulled out", PULL_BOUND, || {
            // As long as the device is not gone, QEMU says that its image is used.
            Ok(self.qmp.command("blockdev-del", &json!({"node-name": STICK})).ok())
        })?;
        Ok(())
    }

    /// Presses the reset button.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.qmp.command("system_reset", &json!({})).map(drop)
    }

    /// Stops or continues the machine's processors.
    pub(crate) fn pause(&mut self, paused: bool) -> Result<()> {
        self.qmp.command(if paused { "stop" } else { "cont" }, &json!({})).map(drop)
    }

    /// The guest's memory once it has been steady (within 1 MiB) over three reports in a row.
    pub(crate) fn steady_memory(&mut self) -> Result<Memory> {
        let path = "/machine/peripheral/balloon";
        let every = json!({"path": path, "property": "guest-stats-polling-interval", "value": 1});
        self.qmp.command("qom-set", &every)?;
        let mut last: Vec<(u64, Memory)> = Vec::new();
        let interrupt = self.interrupt.clone();
        let ask = json!({"path": path, "property": "guest-stats"});
        interrupt.wait_for(
            "a steady report of the guest's memory (virtio-balloon)",
            Duration::from_secs(60),
            || {
                let report = self.qmp.command("qom-get", &ask)?;
                let at = report["last-update"].as_u64().unwrap_or(0);
                let stats = &report["stats"];
                // A figure that the guest never gave is -1, which is none.
                if let (Some(total), Some(available)) =
                    (stats["stat-total-memory"].as_u64(), stats["stat-available-memory"].as_u64())
                    && at > 0
                    && total < u64::MAX
                    && available < u64::MAX
                    && last.last().is_none_or(|(before, _)| *before < at)
                {
                    last.push((at, Memory { total, available }));
                }
                let newest = last.get(last.len().saturating_sub(3)..).unwrap_or_default();
                let figures: Vec<u64> = newest.iter().map(|(_, memory)| memory.available).collect();
                let spread = figures.iter().max().unwrap_or(&0) - figures.iter().min().unwrap_or(&0);
                Ok((newest.len() == 3 && spread <= 1 << 20)
                    .then(|| newest.last().map(|(_, memory)| *memory))
                    .flatten())
            },
        )
    }
}

/// Text without terminal control sequences and carriage returns.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.peek() == Some(&'[') => {
                rest.next();
                while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\x1b' => {
                rest.next();
            }
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

/// A port of this machine that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    let socket =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| Error::talk("the network", error))?;
    Ok(socket.local_addr().map_err(|error| Error::talk("the network", error))?.port())
}

/// Sends an X.224 connection request (MS-RDPBCGR 2.2.1.1, asking for TLS or CredSSP) and reads the confirmation.
pub(crate) fn answers(port: u16) -> Result<()> {
    /// TPKT header, X.224 connection request, RDP_NEG_REQ with SSL | HYBRID.
    const REQUEST: [u8; 19] = [3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 3, 0, 0, 0];
    let with = format!("port {port}");
    let broken = |error: std::io::Error| Error::talk(with.clone(), error);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(broken)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(broken)?;
    stream.write_all(&REQUEST).map_err(broken)?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).map_err(broken)?;
    // The code of a connection confirmation is 0xd.
    if answer[0] == 3 && answer[5] >> 4 == 0xd {
        Ok(())
    } else {
        Err(Error::talk(with, format!("no X.224 connection confirmation but {answer:02x?}")))
    }
}

/// QEMU's control protocol: one JSON object a line.
struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    fn greet(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|error| Error::talk("QEMU", error))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        qmp.line()?;
        qmp.command("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let got = self.reader.read_line(&mut line).map_err(|error| Error::talk("QEMU", error))?;
        if got == 0 {
            return Err(Error::talk("QEMU", "it closed its control socket"));
        }
        serde_json::from_str(&line).map_err(|error| Error::talk("QEMU", error))
    }

    fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let mut text = json!({"execute": name, "arguments": arguments}).to_string();
        text.push('\n');
        self.reader.get_mut().write_all(text.as_bytes()).map_err(|error| Error::talk("QEMU", error))?;
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(Error::talk("QEMU", format!("{name}: {error}")));
            }
            // Anything else is an event.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "noise\nLucid is ready.\n  address      192.168.1.20:3389\n  user         lucid\n\
                         [   12.3] a kernel line\n  password     abcd-efgh-ijkl\n  fingerprint  sha256 AA:BB\n  \
                         recording    every session is recorded\n";

    #[test]
    fn an_announcement_is_read_once_it_is_whole() {
        for cut in 0..BLOCK.len() {
            assert!(Announcement::parse(&BLOCK[..cut]).is_none(), "cut at {cut}");
        }
        let found = Announcement::parse(BLOCK).unwrap();
        assert_eq!(found.addresses, ["192.168.1.20:3389"]);
        assert_eq!(found.user, "lucid");
        assert_eq!(found.fresh_password(), Some("abcd-efgh-ijkl"));
        assert_eq!(found.fingerprint, "AA:BB");
        assert_eq!(found.recording, Announcement::RECORDED);
        let key = "6e".repeat(32);
        assert_eq!(Announcement::device_key(&format!("{BLOCK}  device key   ed25519 {key}\n")), Some(&*key));
        assert_eq!(Announcement::device_key(BLOCK), None);
    }

    #[test]
    fn the_newest_announcement_counts_and_an_old_password_is_no_password() {
        let text = format!("{BLOCK}{}", BLOCK.replace("abcd-efgh-ijkl", "as shown at first boot"));
        assert_eq!(Announcement::parse(&text).unwrap().fresh_password(), None);
    }

    #[test]
    fn control_sequences_leave_the_console_text() {
        assert_eq!(plain("\x1b[0;32mok\x1b[0m\r\nnext\x1b7"), "ok\nnext");
    }
}
