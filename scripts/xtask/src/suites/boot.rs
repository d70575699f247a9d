//! The whole machine in QEMU, booted from copies of the image.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use super::Context;
use crate::{
    build::{self, Contents},
    client::{Client, Generation, Login, Mode, Place},
    error::{At, Error, Result},
    journal::Journal,
    machine::{Announcement, BOOT_BOUND, Disks, Machine, Memory, Options, Scratch},
    progress::{ask, ask_well},
    suite::{Picks, Report, Timed, timed},
};

/// Of a card that is larger than the image.
const CARD_BYTES: u64 = 2 << 30;
/// The most that is used before a session, in MB.
const IDLE_GOAL: f64 = 120.0;
/// The most that is used with a session's desktop, in MB.
const SESSION_GOAL: f64 = 250.0;
/// RDP-ready in times of the kernel's own time to its first process.
const TIME_GOAL: f64 = 8.0;
/// The longest that one connection of a client may take on a busy machine in QEMU.
const CLIENT_BOUND: Duration = Duration::from_secs(120);
/// Of the damaged place in the middle of the root.
const SEED: u64 = 20_261_122;

/// How clients connect here.
const NLA: Mode = Mode {
    client: Generation::Two,
    security: "nla",
    codec: "AVC420",
    options: &["/gfx-h264:AVC420"],
    tolerance: 2,
    size: (1280, 720),
};

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let image = context.image()?;
    let bench = Bench { context, image: &image };
    first_boot(&bench, report)?;
    provisioned_and_slots(&bench, report)?;
    misfortunes(&bench, report)
}

/// What all parts of the suite need.
#[derive(Clone, Copy)]
struct Bench<'a> {
    context: &'a Context<'a>,
    image: &'a Path,
}

impl<'a> Bench<'a> {
    fn disks(&self, name: &str) -> Result<Scratch> {
        Disks::scratch(self.image, &self.context.project.lucid.join("machine").join(name))
    }

    fn place(&self) -> Place<'a> {
        let Context { project, steps, .. } = self.context;
        Place { project, tools: Path::new(""), interrupt: &steps.interrupt }
    }
}

/// An untouched image on a larger card: times, memory, the power button, what is on the card afterwards.
fn first_boot(bench: &Bench, report: &mut Report) -> Result<()> {
    let interrupt = &bench.context.steps.interrupt;
    let disks = bench.disks("first")?;
    disks.grow(CARD_BYTES)?;
    let started = report.obtain(
        "an untouched image boots to RDP-ready and answers from outside",
        |(machine, _): &(Machine, Announcement)| {
            format!("{:.1} s from QEMU's start", machine.started.elapsed().as_secs_f64())
        },
        || {
            let mut machine = Machine::start(&disks, &Options::default(), interrupt)?;
            let announcement = machine.wait_ready(0)?;
            Ok((machine, announcement))
        },
    );
    let Some((mut machine, announcement)) = started else { return Ok(()) };
    let first_process = report.obtain(
        "the console tells when the first process began",
        |seconds: &f64| format!("{seconds:.2} s of the guest's clock"),
        || first_process(&machine.console()?),
    );
    report.check("before a session at most 120 MB are used", || {
        memory_within(machine.steady_memory()?, IDLE_GOAL)
    });
    report.check("the announcement names an address, a fresh password and the certificate", || {
        let fresh = announcement.fresh_password().is_some();
        let port = announcement.addresses.iter().any(|address| address.ends_with(":3389"));
        let bytes = announcement.fingerprint.split(':').filter(|byte| byte.len() == 2).count();
        if fresh && port && bytes == 32 && !announcement.user.is_empty() {
            return Ok(announcement.addresses.join(" "));
        }
        // The password stays out of the log.
        let Announcement { addresses, user, fingerprint, .. } = &announcement;
        Err(Error::broken(format!(
            "fresh {fresh}, addresses {addresses:?}, user {user:?}, fingerprint {fingerprint:?}"
        )))
    });
    report.check("with a session's desktop at most 250 MB are used", || {
        let login = login(&machine, &announcement)?;
        let mut client = Client::start(bench.place(), &disks.dir.join("client"), &NLA, &login, &[])?;
        client.wait_desktop(CLIENT_BOUND, interrupt)?;
        let figures = memory_within(machine.steady_memory()?, SESSION_GOAL)?;
        client.must_run()?;
        Ok(figures)
    });
    if !report.check("the power button ends it cleanly and by itself", || {
        let seconds = machine.power_off()?.as_secs_f64();
        clean_data(&disks)?;
        Ok(format!("{seconds:.1} s"))
    }) {
        return Ok(());
    }
    report.check("the data partition and its file system have grown to the card", || grown(&disks));
    let Some(journal) = report.obtain(
        "the journal is kept on the data partition",
        |_: &Journal| String::new(),
        || Journal::read(&disks),
    ) else {
        return Ok(());
    };
    report.check("the journal tells how long RDP-ready took and by what", || {
        let ready = journal
            .started_at("lucid-rdp.service")
            .ok_or_else(|| Error::broken("the journal has no start of lucid-rdp.service"))?;
        let first = first_process.ok_or_else(|| Error::broken("there is no time of the first process"))?;
        let mut starts = journal.starts();
        starts.retain(|start| start.at <= ready && start.unit.ends_with(".service"));
        starts.sort_by(|a, b| b.took.total_cmp(&a.took));
        if starts.len() < 3 {
            return Err(Error::broken(format!("it has the starts of only {} services", starts.len())));
        }
        let ratio = ready / first;
        let verdict = if ratio <= TIME_GOAL { "met" } else { "missed" };
        let mut text = format!(
            "lucid-rdp takes clients at {ready:.2} s of the guest's clock, first process at {first:.2} s: \
             {ratio:.1} times (goal: at most {TIME_GOAL}, {verdict}); the slowest services:"
        );
        for start in starts.iter().take(3) {
            let _ =
                write!(text, "\n          {:6.2} s  {} (done at {:.2} s)", start.took, start.unit, start.at);
        }
        Ok(text)
    });
    report.check("the update service runs, and says which version runs in which slot", || {
        let said = journal.messages("lucid-updated.service");
        let wanted = format!("runs {} in slot a", build::VERSION);
        match said.lines().find(|line| line.contains(&wanted)) {
            Some(line) => Ok(format!("says: {line}")),
            None => Err(Error::broken(format!("its journal has no line with {wanted:?}:\n{said}"))),
        }
    });
    report.check("names are asked of the server that DHCP names", || {
        let said = journal.messages("lucid-names.service");
        // QEMU's own.
        match said.lines().find(|line| line.contains("10.0.2.3")) {
            Some(line) => Ok(format!("says: {line}")),
            None => Err(Error::broken(format!("the journal of lucid-names has no such server:\n{said}"))),
        }
    });
    report.check("no unit failed", || {
        let failed: Vec<String> = journal.failed_units();
        if failed.is_empty() { Ok("") } else { Err(Error::broken(failed.join("\n"))) }
    });
    Ok(())
}

/// A card with a `lucid.toml`, and the two slots: A, a try of B, and A again.
fn provisioned_and_slots(bench: &Bench, report: &mut Report) -> Result<()> {
    const NAME: &str = "test-bench";
    const USER: &str = "visitor";
    const PASSWORD: &str = "Nine-Blue-Herons-41";
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 77);
    let interrupt = &bench.context.steps.interrupt;
    let disks = bench.disks("slots")?;
    disks.provision(&format!(
        "name = \"{NAME}\"\n\n[network]\nmethod = \"static\"\naddress = \"{ADDRESS}/24\"\ngateway = \"10.0.2.2\"\ndns = [\"10.0.2.3\"]\n\n\
         [rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n[keyboard]\nlayout = \"us\"\n"
    ))?;
    let options = Options { guest: Some(ADDRESS), ..Options::default() };
    let mut machine = Machine::start(&disks, &options, interrupt)?;
    let Some(announcement) = report.obtain(
        "a lucid.toml gives the account and the address that it asks for",
        |announcement: &Announcement| format!("{} {}", announcement.addresses.join(" "), announcement.user),
        || {
            let announcement = machine.wait_ready(0)?;
            let said = format!("the announcement says {:?} {:?}", announcement.addresses, announcement.user);
            if announcement.fresh_password().is_some() {
                return Err(Error::broken("a password was made although lucid.toml gives one"));
            }
            if announcement.user != USER || announcement.addresses != [format!("{ADDRESS}:3389")] {
                return Err(Error::broken(said));
            }
            Ok(announcement)
        },
    ) else {
        return Ok(());
    };
    let account = Login { port: machine.port, user: announcement.user, password: Some(PASSWORD.to_owned()) };
    report.check("the account of lucid.toml admits a client", || {
        admitted(bench, &disks.dir.join("admitted"), &account)
    });
    report.check("slot A is booted when no try is armed", || booted(&machine.console()?, 'a', false));

    let armed = report.check("a try that was armed boots slot B to RDP-ready, once and as a try", || {
        machine.pause(true)?;
        let mut arm =
            build::image_tool(bench.context.project, &["firmware-try".as_ref(), disks.firmware.as_os_str()]);
        ask_well("arming a try of the other slot", &mut arm, b"")?;
        let before = machine.console()?.len();
        machine.reset()?;
        machine.pause(false)?;
        machine.wait_ready(before)?;
        booted(&machine.console()?[before..], 'b', true)
    });
    if armed {
        report.check("the account is kept over a hard reset", || {
            admitted(bench, &disks.dir.join("again"), &account)
        });
        report.check("after the try a reset boots slot A again", || {
            let before = machine.console()?.len();
            machine.reset()?;
            machine.wait_ready(before)?;
            booted(&machine.console()?[before..], 'a', false)
        });
    }
    if !report.check("after hard resets the power button still ends it cleanly", || {
        let seconds = machine.power_off()?.as_secs_f64();
        clean_data(&disks)?;
        Ok(format!("{seconds:.1} s"))
    }) {
        return Ok(());
    }
    report.check("the password is nowhere on the card afterwards", || {
        let wide: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for partition in disks.partitions()? {
            for needle in [PASSWORD.as_bytes(), &wide] {
                if let Some(at) = disks.find(&partition, needle)? {
                    return Err(Error::broken(format!(
                        "it is in {} at byte {at} of the card",
                        partition.name
                    )));
                }
            }
        }
        // What is not secret is still there for its owner to read.
        let text = disks.fat_file("select", "lucid.toml")?;
        if !text.contains(USER) {
            return Err(Error::broken(format!("lucid.toml lost more than its secrets:\n{text}")));
        }
        Ok("searched as UTF-8 and UTF-16")
    });
    report.check("the machine has the name that lucid.toml gives", || {
        let name = Journal::read(&disks)?.last_boot().host_name();
        if name.as_deref() == Some(NAME) {
            Ok(NAME)
        } else {
            Err(Error::broken(format!("its journal says {name:?}")))
        }
    });
    Ok(())
}

/// One thing that went wrong with the card, and what must come of it.
struct Misfortune {
    property: String,
    folder: &'static str,
    work: fn(&Bench, &Disks) -> Result<String>,
}

/// Everything that is damaged, missing or mistaken; two machines at a time.
fn misfortunes(bench: &Bench, report: &mut Report) -> Result<()> {
    let case = |property: &str, folder, work| Misfortune { property: property.to_owned(), folder, work };
    let cases = [
        case("a flipped bit in the root's superblock stops the boot", "bad-superblock", |bench, disks| {
            flipped(bench, disks, 1024, false)
        }),
        case("a flipped bit in the top of the hash tree stops the boot", "bad-tree", |bench, disks| {
            flipped(bench, disks, Contents::read(bench.image)?.bytes("root_bytes")? + 5, false)
        }),
        case("a flipped bit anywhere in the root is found by a scrub", "bad-middle", |bench, disks| {
            let place = Picks::new(SEED).below(Contents::read(bench.image)?.bytes("root_bytes")?);
            flipped(bench, disks, place, true)
        }),
        case("without a data partition the machine is reachable and says so", "no-data", |bench, disks| {
            disks.delete_partition("data")?;
            reachable(bench, disks, &["nothing will be kept", "the disk has no partition of that name"])
        }),
        case(
            "with a full data partition the machine is reachable and says so",
            "full-data",
            |bench, disks| {
                fill_data(disks)?;
                reachable(bench, disks, &["the data partition is full"])
            },
        ),
        case(
            "with garbage as data partition the machine is reachable and says so",
            "garbage-data",
            |bench, disks| {
                let data = disks.partition("data")?;
                let mut picks = Picks::new(SEED);
                let garbage: Vec<u8> = (0..1 << 18).flat_map(|_| picks.next().to_le_bytes()).collect();
                disks.write(data.start, &garbage)?;
                let outcome = reachable(
                    bench,
                    disks,
                    &["nothing will be kept", "neither blank nor an ext4 file system"],
                )?;
                if disks.read(data.start, garbage.len())? != garbage {
                    return Err(Error::broken("what was on the data partition was written over"));
                }
                Ok(outcome)
            },
        ),
        case(
            "an unknown key in lucid.toml is named with its line, and the machine is reachable",
            "bad-key",
            |bench, disks| {
                disks.provision(
                    "name = \"bench\"\n\n[rdp]\nuser = \"visitor\"\npasword = \"Not-For-Anyone-7\"\n",
                )?;
                reachable(bench, disks, &["lucid.toml", "line 5"])
            },
        ),
        case(
            "a wrong type in lucid.toml is named with its line, and the machine is reachable",
            "bad-type",
            |bench, disks| {
                disks.provision("# A comment.\nname = 7\n")?;
                reachable(bench, disks, &["lucid.toml", "line 2"])
            },
        ),
        case(
            "broken syntax in lucid.toml is named with its line, and the machine is reachable",
            "bad-syntax",
            |bench, disks| {
                disks.provision("name = \"bench\"\n[rdp\nuser = \"visitor\"\n")?;
                reachable(bench, disks, &["lucid.toml", "line 2"])
            },
        ),
    ];
    let shared = Shared { project: bench.context.project, steps: bench.context.steps, image: bench.image };
    let queue = Mutex::new(cases.into_iter());
    let (send, receive) = mpsc::channel::<(String, Timed<String>)>();
    thread::scope(|scope| {
        for _ in 0..2 {
            let (queue, send, shared) = (&queue, send.clone(), &shared);
            scope.spawn(move || {
                let context = shared.context();
                let bench = Bench { context: &context, image: shared.image };
                loop {
                    // A worker that panicked has taken its case out of the queue already.
                    let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                    let Some(case) = next else { break };
                    let outcome = timed(|| (case.work)(&bench, &*bench.disks(case.folder)?));
                    if send.send((case.property, outcome)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        for (property, outcome) in receive {
            report.record(property, outcome);
        }
    });
    bench.context.steps.interrupt.check()
}

/// What may be used by several threads.
struct Shared<'a> {
    project: &'a crate::setup::Project,
    steps: &'a crate::progress::Steps,
    image: &'a Path,
}

impl Shared<'_> {
    fn context(&self) -> Context<'_> {
        Context::new(self.project, self.steps)
    }
}

/// A machine whose root has one wrong bit never serves anyone: the kernel panics, and says why.
fn flipped(bench: &Bench, disks: &Disks, place: u64, scrub: bool) -> Result<String> {
    if scrub {
        let line = disks.fat_file("boot-a", "cmdline.txt")?;
        let file = disks.dir.join("cmdline.txt");
        fs::write(&file, format!("{} lucid.scrub\n", line.trim_end())).at("writing", &file)?;
        let mut put = build::image_tool(bench.context.project, &["put".as_ref(), disks.os.as_os_str()]);
        put.arg("boot-a").arg(&file).arg("cmdline.txt");
        ask_well("asking for a scrub in cmdline.txt", &mut put, b"")?;
    }
    disks.flip(disks.partition("root-a")?.start + place)?;
    let options = Options { end_on_restart: true, ..Options::default() };
    let mut machine = Machine::start(disks, &options, &bench.context.steps.interrupt)?;
    let panic = machine.wait_console("a kernel panic", BOOT_BOUND, 0, |text| {
        let line = text.lines().find(|line| line.contains("Kernel panic"))?;
        Some(line.to_owned())
    })?;
    // `panic=` restarts the machine, which ends this QEMU.
    machine.wait_end(Duration::from_secs(120))?;
    let console = machine.console()?;
    if !console.to_lowercase().contains("verity") || !console.contains("corrupted") {
        return Err(Error::broken(format!("it panicked, but not for a damaged root: {panic}")));
    }
    if console.contains("handing over to systemd") && scrub {
        return Err(Error::broken("the damaged root was handed over to systemd before it was found"));
    }
    if Announcement::parse(&console).is_some() {
        return Err(Error::broken("it announced itself as ready"));
    }
    Ok(format!("byte {place}: {}", panic.split_once("] ").map_or(panic.as_str(), |(_, text)| text)))
}

/// A machine that says all of `words` on its console in one line, and still lets its owner in.
fn reachable(bench: &Bench, disks: &Disks, words: &[&str]) -> Result<String> {
    let mut machine = Machine::start(disks, &Options::default(), &bench.context.steps.interrupt)?;
    let announcement = machine.wait_ready(0)?;
    let what = format!("a line of the console with {words:?}");
    let line = machine.wait_console(&what, Duration::from_secs(20), 0, |text| {
        // A line counts once it is whole.
        let whole = text.rsplit_once('\n')?.0;
        whole
            .lines()
            .find(|line| words.iter().all(|word| line.contains(word)))
            .map(|line| line.trim().to_owned())
    })?;
    admitted(bench, &disks.dir.join("client"), &login(&machine, &announcement)?)?;
    Ok(format!("says: {line}"))
}

/// The account that a machine has made for itself.
fn login(machine: &Machine, announcement: &Announcement) -> Result<Login> {
    let password =
        announcement.fresh_password().ok_or_else(|| Error::broken("the machine made no fresh password"))?;
    Ok(Login { port: machine.port, user: announcement.user.clone(), password: Some(password.to_owned()) })
}

/// A client with this account is let in.
fn admitted(bench: &Bench, dir: &Path, login: &Login) -> Result<String> {
    let place = bench.place();
    let client = Client::start(place, dir, &NLA, login, &["+auth-only"])?;
    let ending = client.wait_end(CLIENT_BOUND, place.interrupt)?;
    if ending.status.success() {
        return Ok(String::new());
    }
    Err(Error::broken(ending.describe()))
}

/// The seconds in lucid-init's first line.
fn first_process(console: &str) -> Result<f64> {
    const BEFORE: &str = "lucid-init: first process at ";
    let found = console.split_once(BEFORE).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    found.ok_or_else(|| Error::broken(format!("the console has no line {BEFORE:?}")))
}

/// Which slot lucid-init says it was booted from.
pub(super) fn booted(console: &str, slot: char, tried: bool) -> Result<String> {
    let line = console
        .lines()
        .rev()
        .find_map(|line| line.split_once("lucid-init: slot ").map(|(_, rest)| rest.trim()))
        .ok_or_else(|| Error::broken("lucid-init did not say which slot was booted"))?;
    let right = line.starts_with(slot) && line.contains("one-shot try") == tried;
    if right {
        Ok(format!("says: slot {line}"))
    } else {
        Err(Error::broken(format!("lucid-init says: slot {line}")))
    }
}

fn memory_within(memory: Memory, goal: f64) -> Result<String> {
    let used = memory.used();
    let text = format!("{used:.0} of {:.0} MB (goal: at most {goal:.0})", memory.total as f64 / 1e6);
    if used <= goal { Ok(text) } else { Err(Error::broken(text)) }
}

/// The data partition's file system was closed, and nothing in it is wrong.
pub(super) fn clean_data(disks: &Disks) -> Result<()> {
    let name = disks.data_name()?;
    let header =
        ask_well("reading the data partition", Command::new("dumpe2fs").args(["-h", &name]), b"")?.text();
    if !header.lines().any(|line| line.starts_with("Filesystem state:") && line.ends_with(" clean"))
        || header.contains("needs_recovery")
    {
        return Err(Error::broken(format!("the data partition was not closed:\n{header}")));
    }
    let check = ask(Command::new("e2fsck").args(["-f", "-n", &name]), b"")?;
    if check.status.success() {
        return Ok(());
    }
    Err(Error::broken(format!("e2fsck finds faults on the data partition:\n{}{}", check.text(), check.err)))
}

/// The data partition reaches to the card's end, and its file system to the partition's.
fn grown(disks: &Disks) -> Result<String> {
    let data = disks.partition("data")?;
    let name = disks.data_name()?;
    let header =
        ask_well("reading the data partition", Command::new("dumpe2fs").args(["-h", &name]), b"")?.text();
    let number = |key: &str| {
        header.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    let system = number("Block count:") * number("Block size:");
    let text = format!(
        "partition to {} of {CARD_BYTES} bytes, file system {:.0} of {:.0} MB",
        data.start + data.length,
        system as f64 / 1e6,
        data.length as f64 / 1e6
    );
    let mib = 1 << 20;
    let right = data.start + data.length + 2 * mib >= CARD_BYTES && system + 32 * mib >= data.length;
    if right { Ok(text) } else { Err(Error::broken(text)) }
}

/// Makes a data partition with what a device leaves there, and without a free block.
pub(super) fn fill_data(disks: &Disks) -> Result<()> {
    let data = disks.partition("data")?;
    let (folder, made): (PathBuf, PathBuf) = (disks.dir.join("filler"), disks.dir.join("data.img"));
    for inside in ["etc", "var/lib", "var/log", "var/cache", "var/tmp"] {
        let inside = folder.join(inside);
        fs::create_dir_all(&inside).at("making", &inside)?;
    }
    let id = folder.join("etc/machine-id");
    fs::write(&id, "3c7f9a52d0b84e6f8a1b2c3d4e5f6071\n").at("writing", &id)?;
    let filler = folder.join("filler");
    let mut size = data.length;
    loop {
        size = size
            .checked_sub(256 << 10)
            .ok_or_else(|| Error::broken("the data partition takes no file at all"))?;
        fs::write(&filler, vec![0x5a; usize::try_from(size).unwrap_or(0)]).at("writing", &filler)?;
        let image = fs::File::create(&made).at("making", &made)?;
        image.set_len(data.length).at("growing", &made)?;
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-L", "lucid-data", "-m", "1", "-d"]).arg(&folder).arg(&made);
        if ask(&mut make, b"")?.status.success() {
            break;
        }
    }
    disks.write(data.start, &fs::read(&made).at("reading", &made)?)?;
    fs::remove_dir_all(&folder).at("deleting", &folder)?;
    fs::remove_file(&made).at("deleting", &made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_line_is_read_with_its_try() {
        let console = "[ 1.0] lucid-init: first process at 1.532 s\n[ 2.0] lucid-init: slot b (one-shot try) on \
                       /dev/vdb: handing over to systemd at 2.1 s\n";
        assert!(booted(console, 'b', true).is_ok());
        assert!(booted(console, 'b', false).is_err());
        assert!(booted(console, 'a', true).is_err());
        assert_eq!(first_process(console).unwrap(), 1.532);
        assert!(first_process("nothing").is_err());
    }
}
