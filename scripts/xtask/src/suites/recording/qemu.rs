//! Recording on the machine in QEMU: a real client's session, power cuts while one runs, disks that keep nothing.
//!
//! Its programs cannot be killed one by one here, because there is nothing on the machine that could do it: the tests of
//! lucid-sessiond and lucid-rdp kill them on this machine.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Said, Tools, agree, must};
use crate::{
    client::{Client, Generation, Login, Mode, Place},
    error::{At, Error, Result},
    machine::{Announcement, Disks, Machine, Options, Scratch, copy_sparse},
    progress::{Interrupt, Steps, ask, ask_well},
    recordings::{copy, copy_of},
    setup::Project,
    suite::{Picks, Report, Timed, timed},
    suites::{Context, boot},
    writes::Writes,
};

/// Of a card that is larger than the image, as every real one is.
const CARD_BYTES: u64 = 2 << 30;
/// The longest that anything in a session may take on a busy machine in QEMU.
const BOUND: Duration = Duration::from_secs(120);
/// The longest until a recording whose session was cut off is ended: it waits a minute for its session.
const ENDING_BOUND: Duration = Duration::from_secs(240);
/// Power cuts, unless LUCID_POWER_CUTS says how many.
const CUTS: u64 = 3;
/// Heads that are on the disk before a power cut may come, so that there is something to lose.
const HEADS_BEFORE: u64 = 3;
/// After that it comes within so many milliseconds.
const CUT_WITHIN: u64 = 6000;
const SEED: u64 = 20_261_122;
const USER: &str = "visitor";
const PASSWORD: &str = "Six-Grey-Owls-27";
/// What is painted last, and what is not.
const LAST: [u8; 3] = [0x0b, 0x3d, 0x91];
const FIRST: [u8; 3] = [0xd4, 0x14, 0x5a];
/// The farthest that a channel may be from it after H.264.
const TOLERANCE: u8 = 3;
/// Something new is shown all the time.
const BUSY: &str =
    r"i=0; while :; do i=$((i+1)); printf '\e]11;#%06x\a\e[2J' $((i*40503%16777216)); read -t 0.1; done";

/// How clients connect here.
const NLA: Mode = Mode {
    client: Generation::Two,
    security: "nla",
    codec: "AVC420",
    options: &["/gfx-h264:AVC420"],
    tolerance: 2,
    size: (1280, 720),
};

/// What all checks need.
struct Bench<'a> {
    project: &'a Project,
    steps: &'a Steps,
    tools: &'a Tools,
    image: &'a Path,
    /// The owner's secret key, and its public half.
    key: PathBuf,
    public: String,
}

/// The checks.
pub(super) fn run(context: &Context, tools: &Tools, report: &mut Report) -> Result<()> {
    let image = context.image()?;
    let key = tools.work.join("machine.key");
    let made = super::ends(tools.lucidctl(["new-key", "--json"]).arg(&key), 0)?;
    let made: Value = serde_json::from_slice(&made.out)
        .map_err(|error| Error::talk("lucidctl recording new-key", error))?;
    let public = made["public"].as_str().unwrap_or_default().to_owned();
    let bench = Bench { project: context.project, steps: context.steps, tools, image: &image, key, public };
    if let Some((disks, device)) = recorded(&bench, report)? {
        power_cuts(&bench, &disks, &device, report)?;
    }
    not_recorded(&bench, report)
}

impl Bench<'_> {
    fn interrupt(&self) -> &Interrupt {
        &self.steps.interrupt
    }

    /// A card with an account and an owner's key.
    fn card(&self, name: &str) -> Result<Scratch> {
        let disks = Disks::scratch(self.image, &self.project.lucid.join("machine").join(name))?;
        disks.grow(CARD_BYTES)?;
        disks.provision(&format!(
            "[rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n[recording]\nowner = \"{}\"\n",
            self.public
        ))?;
        Ok(disks)
    }

    fn client(&self, machine: &Machine, dir: &Path) -> Result<Client> {
        let place = Place { project: self.project, tools: Path::new(""), interrupt: self.interrupt() };
        let login = Login { port: machine.port, user: USER.to_owned(), password: Some(PASSWORD.to_owned()) };
        Client::start(place, dir, &NLA, &login, &[])
    }

    /// A client with a desktop that is nothing but a terminal.
    fn session(&self, machine: &Machine, dir: &Path) -> Result<Client> {
        let mut client = self.client(machine, dir)?;
        client.wait_desktop(BOUND, self.interrupt())?;
        client.screen.point_to_the_middle()?;
        client.screen.key("super+f")?;
        Ok(client)
    }

    /// What both verifiers say of recordings that were copied off a card, with the owner's key.
    fn verify(&self, directories: &[PathBuf], device: &str) -> Result<Vec<Said>> {
        let key = self.key.to_string_lossy();
        let mut said = Vec::new();
        for (ours, theirs) in self.tools.verify(directories, &["--key", &key, "--device", device])? {
            agree("a recording of the machine", &ours, &theirs)?;
            said.push(ours);
        }
        Ok(said)
    }
}

/// A session with known pictures; gives the card, and the key that signs on it.
fn recorded(bench: &Bench, report: &mut Report) -> Result<Option<(Scratch, String)>> {
    let disks = bench.card("recording")?;
    let mut machine = Machine::start(&disks, &Options::default(), bench.interrupt())?;
    let Some(device) = report.obtain(
        "qemu: a device with an owner's key says that it records, and by which key it signs",
        |device: &String| format!("ed25519 {device}"),
        || {
            let announcement = machine.wait_ready(0)?;
            must("the announcement", announcement.recording.as_str(), Announcement::RECORDED)?;
            machine.wait_console("the device's key", Duration::from_secs(20), 0, |text| {
                Announcement::device_key(text).map(str::to_owned)
            })
        },
    ) else {
        return Ok(None);
    };
    let session = report.check("qemu: a session of a real client is shown as ever", || {
        let mut client = bench.session(&machine, &disks.dir.join("client"))?;
        for [r, g, b] in [FIRST, LAST] {
            // Background by OSC 11, cursor off, screen cleared; `read` keeps the prompt away.
            let command = format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H';read");
            client.screen.type_text(&command)?;
            client.screen.key("Return")?;
            client.wait_colour([r, g, b], TOLERANCE, BOUND, bench.interrupt())?;
            if [r, g, b] != LAST {
                client.screen.key("Return")?;
                client.wait_desktop(BOUND, bench.interrupt()).map(drop).or_else(|error| match error {
                    // A prompt on a bright ground is a prompt as well.
                    Error::Late { .. } => Ok(()),
                    other => Err(other),
                })?;
            }
        }
        client.kill();
        Ok("")
    });
    if !report.check("qemu: the power button ends a machine that records", || {
        machine.power_off().map(|spent| format!("{:.1} s", spent.as_secs_f64()))
    }) || !session
    {
        return Ok(None);
    }
    let sound = report.check("qemu: its recording is proved by both verifiers with the owner's key", || {
        let found = copy(&disks, &bench.tools.work.join("machine"))?;
        must("recordings on the card", found.len(), 1)?;
        let mut figures = String::new();
        for said in bench.verify(&found, &device)? {
            must("the verdict", &said.report["verdict"], &json!("sound"))?;
            must("how it ended", &said.report["ended"], &json!("finished"))?;
            must("gaps", &said.report["gaps"], &json!([]))?;
            let records = said.report["opened"]["records"].as_u64().unwrap_or_default();
            must("whether there are records", records > 0, true)?;
            figures = format!(
                "{records} records, {} heads, {:.1} s",
                said.report["heads"],
                said.report["length_us"].as_f64().unwrap_or_default() / 1e6
            );
        }
        Ok(figures)
    });
    report.check("qemu: it ends with the picture that the client showed last", || {
        let found = copy(&disks, &bench.tools.work.join("machine"))?;
        let recording = found.first().ok_or_else(|| Error::broken("there is no recording"))?;
        let picture = bench.tools.picture(&bench.key, recording, None)?;
        if picture.is_even(LAST, TOLERANCE) {
            return Ok("");
        }
        let file = recording.with_extension("png");
        picture.save(&file)?;
        Err(Error::broken(format!("it is another one: {}", file.display())))
    });
    Ok(sound.then_some((disks, device)))
}

/// What a session's recording says on the disk, and when that was seen.
#[derive(Default)]
struct Seen {
    /// When each head was first written, by its number.
    heads: BTreeMap<u64, Instant>,
}

/// The heads in what was written, as (session, number).
fn heads(data: &[u8]) -> Vec<(String, u64)> {
    const BEFORE: &[u8] = b"\"seq\":";
    const BETWEEN: &[u8] = b",\"session\":\"";
    let mut found = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(BEFORE.len()).position(|bytes| bytes == BEFORE) {
        rest = rest.get(at + BEFORE.len()..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, after) = rest.split_at(digits);
        let session = after.strip_prefix(BETWEEN).and_then(|after| after.get(..36));
        if let (Ok(number), Some(Ok(session))) = (
            std::str::from_utf8(number).unwrap_or_default().parse(),
            session.map(|session| std::str::from_utf8(session)),
        ) {
            found.push((session.to_owned(), number));
        }
    }
    found
}

/// A power cut and what was known just before it.
struct Lost {
    session: String,
    /// So many heads had been acknowledged: another one was being written after them.
    acknowledged: u64,
}

/// The plug is pulled while a session runs, again and again on the same card; then everything is ended and looked at.
fn power_cuts(bench: &Bench, disks: &Disks, device: &str, report: &mut Report) -> Result<()> {
    let cuts = match env::var("LUCID_POWER_CUTS") {
        Err(_) => CUTS,
        Ok(text) => text.parse().map_err(|_| Error::broken("LUCID_POWER_CUTS is no number"))?,
    };
    let mut picks = Picks::new(SEED);
    let mut lost: Vec<Lost> = Vec::new();
    for number in 1..=cuts {
        bench.interrupt().check()?;
        let one = report.obtain(
            format!("qemu: a power cut loses nothing that was acknowledged ({number} of {cuts})"),
            |(_, figures): &(Lost, String)| figures.clone(),
            || power_cut(bench, disks, device, &lost, &mut picks),
        );
        let Some((one, _)) = one else { return Ok(()) };
        lost.push(one);
    }
    report.check("qemu: what was cut off is recovered: ended, proved, its gap marked, playable", || {
        let log = disks.dir.join("writes.log");
        let options = Options { writes: Some(log.clone()), ..Options::default() };
        let mut machine = Machine::start(disks, &options, bench.interrupt())?;
        machine.wait_ready(0)?;
        let mut writes = Writes::open(&log)?;
        let mut open: Vec<&str> = lost.iter().map(|one| one.session.as_str()).collect();
        // Those that the boots between the cuts had time for are ended already.
        let ended = copy(disks, &bench.tools.work.join("between")).unwrap_or_default();
        open.retain(|session| {
            !ended.iter().any(|dir| dir.ends_with(session) && dir.join("manifest.json").exists())
        });
        bench.interrupt().wait_for("the end of the recordings", ENDING_BOUND, || {
            machine.must_run()?;
            writes.advance(|data| {
                if contains(data, b"lucid-recording-manifest") {
                    open.retain(|session| !contains(data, session.as_bytes()));
                }
            })?;
            Ok(open.is_empty().then_some(()))
        })?;
        machine.power_off()?;
        let found = copy(disks, &bench.tools.work.join("machine"))?;
        must("recordings on the card", found.len(), lost.len() + 1)?;
        let mut gap = 0.0;
        for one in &lost {
            let dir = found.iter().find(|dir| dir.ends_with(&one.session));
            let dir = dir.ok_or_else(|| Error::broken(format!("recording {} is gone", one.session)))?;
            let said = bench.verify(std::slice::from_ref(dir), device)?;
            let report = said.first().map(|said| &said.report).unwrap_or(&Value::Null);
            must("the verdict", &report["verdict"], &json!("sound"))?;
            must("how it ended", &report["ended"], &json!("recovered"))?;
            let gaps = report["gaps"].as_array().map(Vec::as_slice).unwrap_or_default();
            must("whether its gap is marked", gaps.is_empty(), false)?;
            let heads = report["heads"].as_u64().unwrap_or_default();
            must("whether all acknowledged heads are there", heads >= one.acknowledged, true)?;
            let mut shown = f64::MAX;
            for one in gaps {
                let us = |key: &str| one[key].as_f64().unwrap_or_default();
                gap = us("to_us") - us("from_us");
                shown = us("from_us").min(shown);
            }
            // What was shown until then is shown.
            let at = Duration::from_secs_f64((shown - 1.0).max(0.0) / 1e6);
            bench.tools.picture(&bench.key, dir, Some(at))?;
        }
        Ok(format!("{} recordings; the last one's gap is {:.1} s", lost.len(), gap / 1e6))
    });
    Ok(())
}

fn contains(data: &[u8], text: &[u8]) -> bool {
    data.windows(text.len()).any(|bytes| bytes == text)
}

/// Starts the machine, has a session on it, and pulls the plug at some moment. The card is then what is left.
fn power_cut(
    bench: &Bench,
    disks: &Disks,
    device: &str,
    before: &[Lost],
    picks: &mut Picks,
) -> Result<(Lost, String)> {
    let log = disks.dir.join("writes.log");
    let base = disks.dir.join("before.img");
    copy_sparse(&disks.os, &base)?;
    let known = copy(disks, &bench.tools.work.join("between"))?;
    let is_known = |session: &str| {
        before.iter().any(|one| one.session == session) || known.iter().any(|dir| dir.ends_with(session))
    };
    let options = Options { writes: Some(log.clone()), ..Options::default() };
    let mut machine = Machine::start(disks, &options, bench.interrupt())?;
    machine.wait_ready(0)?;
    let mut writes = Writes::open(&log)?;
    let mut client = bench.session(&machine, &disks.dir.join("client"))?;
    client.screen.type_text(BUSY)?;
    client.screen.key("Return")?;
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let look = |writes: &mut Writes, seen: &mut BTreeMap<String, Seen>| {
        writes.advance(|data| {
            for (session, number) in heads(data).into_iter().filter(|(session, _)| !is_known(session)) {
                seen.entry(session).or_default().heads.entry(number).or_insert_with(Instant::now);
            }
        })
    };
    let newest = |seen: &BTreeMap<String, Seen>| {
        seen.values().filter_map(|seen| seen.heads.last_key_value().map(|(number, _)| *number)).max()
    };
    bench.interrupt().wait_for("heads of the recording on the disk", BOUND, || {
        client.must_run()?;
        look(&mut writes, &mut seen)?;
        Ok(newest(&seen).filter(|number| *number >= HEADS_BEFORE))
    })?;
    let until = Instant::now() + Duration::from_millis(picks.below(CUT_WITHIN));
    while Instant::now() < until {
        look(&mut writes, &mut seen)?;
        thread::sleep(Duration::from_millis(20));
    }
    let at = Instant::now();
    machine.cut();
    client.kill();
    look(&mut writes, &mut seen)?;
    must("sessions that were recorded", seen.len(), 1)?;
    let Some((session, Seen { heads })) = seen.pop_first() else {
        return Err(Error::broken("no session was recorded"));
    };
    // A head is written when the one before is on the disk and was acknowledged.
    let acknowledged = heads.last_key_value().map_or(0, |(number, _)| *number);

    fs::rename(&base, &disks.os).at("renaming", &base)?;
    let cut = writes.cut(&disks.os, picks)?;
    // Looked at in a copy, so that the machine itself has to mend its card.
    let data = disks.partition("data")?;
    let mut extract = Command::new("dd");
    extract.args(["status=none", "bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse"]);
    extract.arg(format!("if={}", disks.os.display())).arg(format!("of={}", base.display()));
    extract.args([format!("skip={}", data.start), format!("count={}", data.length)]);
    ask_well("copying the data partition", &mut extract, b"")?;
    let check = ask(Command::new("e2fsck").arg("-p").arg(&base), b"")?;
    // Bits 0 and 1 of the status: something was mended, the journal above all.
    if check.status.code().is_none_or(|code| code > 3) {
        return Err(Error::broken(format!("e2fsck cannot mend the card: {}{}", check.text(), check.err)));
    }
    let found = copy_of(&base.to_string_lossy(), &bench.tools.work.join("cut"))?;
    fs::remove_file(&base).at("deleting", &base)?;
    let recording = found
        .iter()
        .find(|dir| dir.ends_with(&session))
        .ok_or_else(|| Error::broken(format!("recording {session} is gone")))?;
    let said = bench.verify(std::slice::from_ref(recording), device)?;
    let report = said.first().map(|said| &said.report).unwrap_or(&Value::Null);
    must("the verdict", &report["verdict"], &json!("unfinished"))?;
    let there = report["heads"].as_u64().unwrap_or_default();
    if there < acknowledged {
        return Err(Error::broken(format!("{acknowledged} heads were acknowledged and {there} are there")));
    }
    let newest = there.checked_sub(1).and_then(|number| heads.get(&number)).or(heads.values().next_back());
    let age = newest.map_or(f64::NAN, |seen| at.saturating_duration_since(*seen).as_secs_f64());
    let figures = format!(
        "{acknowledged} heads acknowledged, {there} there, the newest written {age:.2} s before the cut; {} writes flushed, \
         {} of {} later ones lost or torn",
        cut.kept, cut.lost, cut.in_doubt
    );
    Ok((Lost { session, acknowledged }, figures))
}

/// Cards on which no recording would be kept; both machines at a time.
fn not_recorded(bench: &Bench, report: &mut Report) -> Result<()> {
    type Prepare = fn(&Disks, &mut Options) -> Result<()>;
    let cases: [(&str, &str, Prepare, &str); 2] = [
        (
            "qemu: with a full data partition no session begins, and the console says why",
            "recording-full",
            |disks, _| boot::fill_data(disks),
            "the data partition is full",
        ),
        (
            "qemu: with a card that cannot be written no session begins, and the console says why",
            "recording-read-only",
            |_, options| {
                options.read_only = true;
                Ok(())
            },
            "nothing will be kept after power-off",
        ),
    ];
    let work = |folder: &str, prepare: Prepare, why: &str| {
        let disks = Disks::scratch(bench.image, &bench.project.lucid.join("machine").join(folder))?;
        disks.provision(&format!(
            "[rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n[recording]\nowner = \"{}\"\n",
            bench.public
        ))?;
        let mut options = Options::default();
        prepare(&disks, &mut options)?;
        let mut machine = Machine::start(&disks, &options, bench.interrupt())?;
        let announcement = machine.wait_ready(0)?;
        let said = announcement.recording;
        if !said.starts_with("NO SESSION CAN BEGIN") || !said.contains(why) {
            return Err(Error::broken(format!("the announcement says of recordings: {said}")));
        }
        let ending = bench.client(&machine, &disks.dir.join("client"))?.wait_end(BOUND, bench.interrupt())?;
        if ending.status.success() || !ending.said.contains("ERRINFO_SERVER_DENIED_CONNECTION") {
            return Err(Error::broken(ending.describe()));
        }
        Ok(format!("says: {said}"))
    };
    let outcomes: Vec<(&str, Timed<String>)> = thread::scope(|scope| {
        let running: Vec<_> = cases
            .into_iter()
            .filter(|(property, ..)| report.wants(property))
            .map(|(property, folder, prepare, why)| {
                let work = &work;
                (property, scope.spawn(move || timed(|| work(folder, prepare, why))))
            })
            .collect();
        running
            .into_iter()
            .map(|(property, thread)| {
                let panicked = |_| timed(|| Err(Error::broken("the check panicked")));
                (property, thread.join().unwrap_or_else(panicked))
            })
            .collect()
    });
    for (property, outcome) in outcomes {
        report.record(property, outcome);
    }
    bench.interrupt().check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_in_what_is_written_whatever_is_around_them() {
        let id = "0a8fb1c2-1111-4222-8333-444455556666";
        let data = format!(
            "\0\"seq\":x,\"root\":\"00\",\"seq\":17,\"session\":\"{id}\",\"version\":1\n\"seq\":18,\"session\":\"{id}\"\"seq\":19,\"ses"
        );
        assert_eq!(heads(data.as_bytes()), [(id.to_owned(), 17), (id.to_owned(), 18)]);
    }
}
