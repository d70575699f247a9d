//! Systems that do not come up: the machine is back on the old one by itself, and says why.
//!
//! Each case starts from a copy of the card on which a try of slot B is armed. What would be wrong with the new system is put
//! into that slot while the machine is off, as staging a release with that fault would have left it.
//!
//! A system that says why it is not well is given up at once. One from which the machine comes back without a word may have been
//! cut off, so the device itself tries it three times before it gives it up.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use super::{
    Bench, SECOND as VERSION,
    device::{self, CAME_BACK, REFUSED, STARTS_A, State, TRIES_B, TRY_BOUND, UNWELL, default_slot, fill},
    releases::Change,
    web::Web,
};
use crate::{
    error::{Error, Result},
    machine::{BOOT_BOUND, Disks, Machine},
    suite::{Report, Timed, timed},
    suites::boot,
};

/// The board's EEPROM restarts a machine whose kernel does not take the watchdog over; on QEMU's `virt` nothing runs before the
/// kernel's driver, so the suite plays it, after so long.
const EEPROM_WATCHDOG: Duration = Duration::from_secs(15);
/// So often is a system tried that does not say why it was left.
const TRIES: usize = 3;

/// How the machine came back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The new system has seen that it is not well, for one of these reasons.
    Gate(&'static [&'static str]),
    /// The new system could not say anything any more; the console has all of these words.
    Restart(&'static [&'static str]),
    /// Nor can the kernel restart it.
    Hang,
}

/// A fault.
struct Fault {
    property: &'static str,
    folder: &'static str,
    /// Only with `--long`.
    long: bool,
    way: Way,
    /// What the journal of the try has that was kept, as text; nothing: why there is none.
    kept: &'static [&'static str],
    make: fn(&Bench, &Disks) -> Result<()>,
}

const FAULTS: [Fault; 8] = [
    Fault {
        property: "fault: where the RDP host does not start the old system is back, and says so",
        folder: "no-rdp",
        long: true,
        way: Way::Gate(&["the RDP host answers", "all services have started"]),
        kept: &["no-such-option", "passed: the recorder seals a test record"],
        make: |bench, disks| replaced(bench, disks, "no-rdp", &[no_rdp()]),
    },
    Fault {
        property: "fault: where the root does not verify the old system is back, and says so",
        folder: "bad-root",
        long: true,
        way: Way::Restart(&["corrupted", "Kernel panic"]),
        kept: &[],
        // In its superblock.
        make: |_, disks| disks.flip(disks.partition("root-b")?.start + 1024),
    },
    Fault {
        property: "fault: where the kernel hangs before user space the old system is back, and says so (the suite plays \
                   the EEPROM's watchdog)",
        folder: "no-kernel",
        long: true,
        way: Way::Hang,
        kept: &[],
        make: |_, disks| disks.put("boot-b", "kernel_2712.img", &looping_kernel()),
    },
    Fault {
        property: "fault: where lucid-updated never starts the old system is back, and says so",
        folder: "no-updated",
        long: true,
        way: Way::Restart(&[]),
        kept: &["lucid-updated.service"],
        make: |bench, disks| {
            let unit = "usr/lib/systemd/system/lucid-updated.service.d/70-fault.conf";
            let timer = "usr/lib/systemd/system/lucid-try.timer.d/70-fault.conf";
            let changes = [
                Change::text(unit, "[Service]\nExecStart=\nExecStart=/usr/bin/lucid-updated nothing\n"),
                Change::text(timer, "[Timer]\nOnBootSec=\nOnBootSec=45s\n"),
            ];
            replaced(bench, disks, "no-updated", &changes)
        },
    },
    Fault {
        property: "fault: where the kernel panics the old system is back, and says so",
        folder: "panic",
        long: true,
        way: Way::Restart(&["Kernel panic"]),
        kept: &[],
        make: |_, disks| {
            let line = disks.fat_file("boot-b", "cmdline.txt")?;
            // There is no such program, and no root that the kernel itself could mount.
            let line = format!("{} rdinit=/nothing\n", line.trim_end());
            disks.put("boot-b", "cmdline.txt", line.as_bytes())
        },
    },
    Fault {
        property: "fault: where the recorder cannot write the old system is back, and says so",
        folder: "no-recorder",
        long: false,
        way: Way::Gate(&["the recorder seals a test record: it is not written"]),
        kept: &["lucid-sessiond"],
        make: |bench, disks| {
            let unit = "usr/lib/systemd/system/lucid-sessiond.service.d/70-fault.conf";
            // It starts and answers, says that there is room, and nothing but a record finds out.
            let text = "[Service]\nReadOnlyPaths=/var/lib/lucid-sessiond/recordings\n";
            replaced(bench, disks, "no-recorder", &[Change::text(unit, text)])
        },
    },
    Fault {
        property: "fault: where the start hangs before the basic system is up a timer brings the old system back, which says so",
        folder: "hang-early",
        long: true,
        way: Way::Restart(&[]),
        kept: &["systemd-sysctl.service"],
        make: |bench, disks| {
            let unit = "usr/lib/systemd/system/systemd-sysctl.service.d/70-fault.conf";
            let never = "[Service]\nExecStart=\nExecStart=/usr/bin/wait\nTimeoutStartSec=infinity\n";
            let timer = "usr/lib/systemd/system/lucid-try.timer.d/70-fault.conf";
            let changes = [
                Change::text(unit, never),
                Change::text(timer, "[Timer]\nOnBootSec=\nOnBootSec=25s\n"),
                Change { path: "usr/bin/wait", bytes: program(&WAIT), program: true },
            ];
            replaced(bench, disks, "hang-early", &changes)
        },
    },
    Fault {
        property: "fault: where the service manager hangs after the RDP host has answered the watchdog brings the old system \
                   back, which says so",
        folder: "hang",
        long: true,
        way: Way::Restart(&[]),
        kept: &["passed: the RDP host answers"],
        make: |bench, disks| {
            let changes = [
                // Until then nothing is kept: the last check waits.
                Change::text(
                    "usr/lib/systemd/system/lucid-settled.service.d/70-fault.conf",
                    "[Service]\nExecStart=\nExecStart=/usr/bin/lucid-updated nothing\n",
                ),
                Change::text(
                    "usr/lib/systemd/system/lucid-power.service.d/70-fault.conf",
                    "[Unit]\nWants=hang.timer\n",
                ),
                Change::text(
                    "usr/lib/systemd/system/hang.timer",
                    "[Unit]\nDefaultDependencies=no\nAfter=lucid-rdp.service lucid-updated.service\n\n\
                     [Timer]\nOnActiveSec=25s\nAccuracySec=1s\n",
                ),
                Change::text(
                    "usr/lib/systemd/system/hang.service",
                    "[Unit]\nDefaultDependencies=no\n\n[Service]\nType=oneshot\nExecStart=/usr/bin/hang\n",
                ),
                Change { path: "usr/bin/hang", bytes: program(&FREEZE), program: true },
            ];
            replaced(bench, disks, "hang", &changes)
        },
    },
];

/// The RDP host does not start.
pub(super) fn no_rdp() -> Change {
    Change::text(
        "usr/lib/systemd/system/lucid-rdp.service.d/70-fault.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/lucid-rdp --no-such-option\n",
    )
}

/// Puts a system of the same version with these changes into slot B.
fn replaced(bench: &Bench, disks: &Disks, name: &str, changes: &[Change]) -> Result<()> {
    fill(disks, "b", &bench.releases.image(name, VERSION, changes)?)
}

/// An arm64 kernel that does nothing: its header (Documentation/arch/arm64/booting.rst), which begins with a branch to itself.
fn looping_kernel() -> Vec<u8> {
    const SIZE: u64 = 4096;
    /// Little-endian, pages of 4 KiB, anywhere in memory.
    const FLAGS: u64 = 0b1010;
    let mut image = 0x1400_0000_u64.to_le_bytes().to_vec();
    for field in [0, SIZE, FLAGS, 0, 0, 0] {
        image.extend(field.to_le_bytes());
    }
    image.extend(*b"ARM\x64");
    image.resize(SIZE as usize, 0);
    image
}

/// Sends SIGSEGV to process 1: kill(1, SIGSEGV); exit(0). The service manager takes that for a mistake of its own, and stands
/// still from then on (systemd(1), "Signals"); a plain SIGSTOP does nothing to process 1.
const FREEZE: [u32; 7] = [
    0xd280_0020, // mov x0, #1
    0xd280_0161, // mov x1, #11
    0xd280_1028, // mov x8, #129
    0xd400_0001, // svc #0
    0xd280_0000, // mov x0, #0
    0xd280_0ba8, // mov x8, #93
    0xd400_0001, // svc #0
];

/// Waits for ever: ppoll(NULL, 0, NULL, NULL, 0), again and again.
const WAIT: [u32; 8] = [
    0xd280_0000, // mov x0, #0
    0xd280_0001, // mov x1, #0
    0xd280_0002, // mov x2, #0
    0xd280_0003, // mov x3, #0
    0xd280_0004, // mov x4, #0
    0xd280_0928, // mov x8, #73
    0xd400_0001, // svc #0
    0x17ff_fff9, // b, seven instructions back
];

/// A static arm64 program of these instructions.
fn program(code: &[u32]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64 * 4;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_AARCH64, version 1.
    elf.extend([2, 0, 183, 0, 1, 0, 0, 0]);
    // Entry, program headers, no section headers.
    for number in [BASE + HEADERS, 64, 0] {
        elf.extend(number.to_le_bytes());
    }
    // Flags; then sizes and counts of the headers.
    elf.extend(0_u32.to_le_bytes());
    for number in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend(number.to_le_bytes());
    }
    // PT_LOAD, to be read and run.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0, BASE, BASE, size, size, 0x1_0000] {
        elf.extend(number.to_le_bytes());
    }
    elf.extend(code.iter().flat_map(|instruction| instruction.to_le_bytes()));
    elf
}

/// The group's checks; two machines at a time.
pub(super) fn run(bench: &Bench, web: &mut Web, report: &mut Report) -> Result<()> {
    // The old system finds what it has fallen back from, and nothing else.
    web.serve(&bench.first_release()?)?;
    let wanted =
        FAULTS.into_iter().filter(|fault| (bench.long || !fault.long) && report.wants(fault.property));
    let mut cards = Vec::new();
    for fault in wanted.collect::<Vec<_>>() {
        // Images are made one after another: they share what they are made of.
        match prepared(bench, &fault) {
            Ok(disks) => cards.push((fault, disks)),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                report.check(fault.property, || Err::<&str, _>(error));
            }
        }
    }
    let queue = Mutex::new(cards.into_iter());
    let (send, receive) = mpsc::channel::<(&str, Timed<String>)>();
    thread::scope(|scope| {
        for _ in 0..2 {
            let (queue, send) = (&queue, send.clone());
            scope.spawn(move || {
                loop {
                    // A worker that panicked has taken its case out of the queue already.
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((fault, disks)) = next else { break };
                    let outcome = timed(|| falls_back(bench, &disks, &fault));
                    if send.send((fault.property, outcome)).is_err() {
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
    bench.steps.interrupt.check()
}

/// The card of a case.
fn prepared(bench: &Bench, fault: &Fault) -> Result<crate::machine::Scratch> {
    let disks = Disks::scratch(&bench.armed(), &bench.machine(fault.folder))?;
    (fault.make)(bench, &disks)?;
    Ok(disks)
}

/// The tries fail in the way that is expected, and in the end the old system is there and has kept why.
fn falls_back(bench: &Bench, disks: &Disks, fault: &Fault) -> Result<String> {
    let mut machine = Machine::start(disks, &bench.options(), &bench.steps.interrupt)?;
    let (_, first) = device::line(&mut machine, BOOT_BOUND, 0, &[TRIES_B])?;
    let (mut from, mut tries) = (first, 1);
    let old = loop {
        if fault.way == Way::Hang {
            let (_, started) = device::line(&mut machine, BOOT_BOUND, from, &["Starting kernel"])?;
            thread::sleep(EEPROM_WATCHDOG);
            if machine.console()?.get(started..).is_some_and(|after| after.contains("lucid-init")) {
                return Err(Error::broken("user space was reached, so nothing hangs before it"));
            }
            machine.reset()?;
        }
        let (_, back) = device::line(&mut machine, TRY_BOUND, from, &[STARTS_A])?;
        // The old system looks what there is, and tries again or says that it does not.
        let what = "another try, or that there is none";
        let again = machine.wait_console(what, TRY_BOUND, back, |text| {
            let (again, over) = (device::find(text, &[TRIES_B]), device::find(text, &[VERSION, REFUSED]));
            again.map(|(_, at)| Some(back + at)).or(over.map(|_| None))
        })?;
        match again {
            Some(at) => (from, tries) = (at, tries + 1),
            None => break back,
        }
    };
    let console = machine.console()?;
    let (_, back) = device::line(&mut machine, BOOT_BOUND, first, &[STARTS_A])?;
    let of_the_try = console.get(first..back).unwrap_or_default();
    machine.wait_ready(old)?;
    boot::booted(machine.console()?.get(old..).unwrap_or_default(), 'a', false)?;
    let seconds = machine.started.elapsed().as_secs_f64();
    machine.power_off()?;

    let state = State::read(disks)?;
    let reason = state.must_have_ended(VERSION, "failed")?;
    let journal = state.journal(1)?;
    let head = format!("release {VERSION} in slot b\nreason: {reason}\n");
    let wanted: &[&str] = if fault.kept.is_empty() { &["no journal: "] } else { fault.kept };
    if let Some(missing) = [head.as_str()].iter().chain(wanted).find(|wanted| !journal.contains(**wanted)) {
        return Err(Error::broken(format!(
            "the journal that was kept of the try does not have {missing:?}; its end:\n{}",
            crate::progress::last_lines(&journal)
        )));
    }
    if default_slot(disks)? != 'a' {
        return Err(Error::broken("the slot that did not pass is the one that boots"));
    }
    let judged = of_the_try.contains(UNWELL);
    let right = match fault.way {
        Way::Gate(reasons) => tries == 1 && judged && reasons.iter().any(|wanted| reason.contains(wanted)),
        Way::Restart(words) => {
            let said = words.iter().all(|word| of_the_try.contains(word)) && console.contains(CAME_BACK);
            tries == TRIES && !judged && said
        }
        Way::Hang => tries == TRIES && !judged && console.contains(CAME_BACK),
    };
    let kept = journal.lines().count();
    let figures = format!(
        "{tries} tries, back for good after {seconds:.0} s, and says: {reason}; {kept} lines are kept of it"
    );
    if right {
        return Ok(figures);
    }
    let tail = crate::progress::last_lines(of_the_try);
    Err(Error::broken(format!(
        "it came back in another way than it had to ({figures}); the end of the first try:\n{tail}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_that_loops_has_its_marks_where_they_belong() {
        let image = looping_kernel();
        assert_eq!(image[..4], 0x1400_0000_u32.to_le_bytes());
        assert_eq!(image[16..24], 4096_u64.to_le_bytes());
        assert_eq!(&image[56..60], b"ARM\x64");
        assert_eq!(image.len(), 4096);
    }

    #[test]
    fn the_program_that_stops_process_1_is_one_for_the_device() {
        let elf = program(&FREEZE);
        assert_eq!(elf.len(), 64 + 56 + 28);
        assert_eq!(elf[24..32], 0x40_0078_u64.to_le_bytes());
        assert_eq!(elf[32..40], 64_u64.to_le_bytes());
        // Of one header, 64 bytes and 56 each.
        assert_eq!(elf[52..58], [64, 0, 56, 0, 1, 0]);
        assert_eq!(elf[96..104], 148_u64.to_le_bytes());
    }
}
