//! The device as it is seen from outside: what its update service says on the console, and what is on its card.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::Bench;
use crate::{
    client::{Client, Generation, Login, Mode, Place},
    error::{At, Error, Result},
    journal::dump_of,
    machine::{Disks, Machine},
    progress::{ask, ask_well},
};

/// What lucid-updated says: a slot is being written,
pub(super) const BEGUN: &str = " goes into slot ";
/// all of a release is in its slot,
pub(super) const STAGED: &str = " is staged: ";
/// the new system is kept,
pub(super) const KEPT: &str = " is well, and is kept";
/// the new system is not,
pub(super) const UNWELL: &str = " is not well (";
/// it did not come so far, which is found out by the old one,
pub(super) const CAME_BACK: &str = ": no word of how it went";
/// and it is not tried any more.
pub(super) const REFUSED: &str = "it was tried and did not pass";
/// What the device says when it runs the newest release.
pub(super) const OVER: &str = "it is not newer than what the device runs";
/// What the stand-in for the EEPROM says when it tries a slot, and when it starts one as ever.
pub(super) const TRIES_A: &str = "Lucid: partition 2, try 1";
pub(super) const TRIES_B: &str = "Lucid: partition 3, try 1";
pub(super) const STARTS_A: &str = "Lucid: partition 2, try 0";
pub(super) const STARTS_B: &str = "Lucid: partition 3, try 0";
/// Where the update service keeps its state, on the data partition.
const STATE: &str = "/var/lib/lucid-updated";
/// The longest that a release may take to be staged on a busy machine in QEMU.
pub(super) const STAGE_BOUND: Duration = Duration::from_secs(900);
/// The longest until a new system is kept or given up, and the machine has restarted.
pub(super) const TRY_BOUND: Duration = Duration::from_secs(420);
/// The longest that one connection of a client may take.
pub(super) const CLIENT_BOUND: Duration = Duration::from_secs(120);
/// The account of every card here.
pub(super) const USER: &str = "visitor";
pub(super) const PASSWORD: &str = "Five-Tall-Storks-63";

/// How clients connect here.
const NLA: Mode = Mode {
    client: Generation::Two,
    security: "nla",
    codec: "AVC420",
    options: &["/gfx-h264:AVC420"],
    tolerance: 2,
    size: (1280, 720),
};

/// Waits for a line of the console with all of `words`, from byte `from` of its text on. Gives the line, and where it ends.
pub(super) fn line(
    machine: &mut Machine,
    bound: Duration,
    from: usize,
    words: &[&str],
) -> Result<(String, usize)> {
    let what = format!("a line of the console with {words:?}");
    machine.wait_console(&what, bound, from, |text| find(text, words).map(|(line, end)| (line, from + end)))
}

/// The first whole line of a text with all of `words`, and where it ends.
pub(super) fn find(text: &str, words: &[&str]) -> Option<(String, usize)> {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        if line.ends_with('\n') && words.iter().all(|word| line.contains(word)) {
            return Some((said(line), end));
        }
    }
    None
}

/// A line without the time, the program and the module that stand before what is said.
fn said(line: &str) -> String {
    line.split_once("lucid_updated::").map_or(line, |(_, rest)| rest).trim().to_owned()
}

/// How staging went, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    /// That were in their places.
    pub(super) kept: u64,
    /// That were elsewhere on the card.
    pub(super) copied: u64,
    /// That were fetched, packed as they are.
    pub(super) fetched: u64,
    /// Of those, that came out of a patch, without its head.
    pub(super) patched: u64,
    /// The most memory that the service has had, in MiB.
    pub(super) peak: u64,
}

impl Staged {
    /// Reads it from what lucid-updated says.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let numbers = line.split_once(STAGED).map(|(_, rest)| {
            let words = rest.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
            words.map(str::parse).collect::<std::result::Result<Vec<u64>, _>>()
        });
        match numbers {
            Some(Ok(numbers)) => match numbers[..] {
                [kept, copied, fetched, patched, peak] => Ok(Self { kept, copied, fetched, patched, peak }),
                _ => Err(Error::broken(format!("{line:?} does not have five numbers"))),
            },
            _ => Err(Error::broken(format!("{line:?} does not say how a release was staged"))),
        }
    }
}

/// Files by their names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Copies a part of a card's image, without room for what is empty.
pub(super) fn extract(card: &Path, start: u64, length: u64, to: &Path) -> Result<()> {
    let mut copy = Command::new("dd");
    copy.args(["status=none", "bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse"]);
    copy.arg(format!("if={}", card.display())).arg(format!("of={}", to.display()));
    copy.args([format!("skip={start}"), format!("count={length}")]);
    ask_well("copying a part of the card", &mut copy, b"").map(drop)
}

/// What the update service keeps, on the image of a data partition, which is mended first, as the machine itself does before it
/// mounts it. `copied` is emptied for the files.
pub(super) fn kept_files(image: &Path, copied: &Path) -> Result<Files> {
    if copied.exists() {
        fs::remove_dir_all(copied).at("emptying", copied)?;
    }
    fs::create_dir_all(copied).at("making", copied)?;
    mend(image)?;
    dump_of(&image.to_string_lossy(), STATE, copied)?;
    let folder = copied.join("lucid-updated");
    let mut files = Files::new();
    for entry in fs::read_dir(&folder).at("reading", &folder)? {
        let path = entry.at("reading", &folder)?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, fs::read(&path).at("reading", &path)?);
        }
    }
    Ok(files)
}

fn mend(image: &Path) -> Result<()> {
    // Bits 0 and 1 of the status: something was mended.
    let check = ask(Command::new("e2fsck").arg("-p").arg(image), b"")?;
    if check.status.code().is_none_or(|code| code > 3) {
        let said = format!("{}{}", check.text(), check.err);
        return Err(Error::broken(format!("e2fsck cannot mend the data partition: {said}")));
    }
    Ok(())
}

/// Puts a file beside what the update service keeps on the card of a machine that is off; there is none of that name yet.
pub(super) fn put_kept(disks: &Disks, name: &str, bytes: &[u8]) -> Result<()> {
    let (image, file) = (disks.dir.join("data.img"), disks.dir.join(name));
    let data = disks.partition("data")?;
    extract(&disks.os, data.start, data.length, &image)?;
    mend(&image)?;
    fs::write(&file, bytes).at("writing", &file)?;
    let mut debugfs = Command::new("debugfs");
    debugfs.arg("-w").arg("-R").arg(format!("write {} {STATE}/{name}", file.display())).arg(&image);
    let answer = ask(&mut debugfs, b"")?;
    // It ends well even when it could not; its first line is its version.
    if !answer.status.success() || answer.err.lines().skip(1).any(|line| !line.trim().is_empty()) {
        return Err(Error::talk(
            "debugfs",
            format!("putting {name} onto the data partition: {}", answer.err),
        ));
    }
    let mut copy = Command::new("dd");
    copy.args(["status=none", "bs=1M", "conv=notrunc", "oflag=seek_bytes"]);
    copy.arg(format!("if={}", image.display())).arg(format!("of={}", disks.os.display()));
    ask_well("putting the data partition back", copy.arg(format!("seek={}", data.start)), b"")?;
    for path in [&image, &file] {
        fs::remove_file(path).at("deleting", path)?;
    }
    Ok(())
}

/// The line of a sealed file, if there is one of that name: a line, and its BLAKE3 as another one.
pub(super) fn sealed(files: &Files, name: &str) -> Result<Option<String>> {
    let Some(bytes) = files.get(name) else { return Ok(None) };
    let text = String::from_utf8_lossy(bytes);
    let (line, seal) = text.split_once('\n').unwrap_or((&*text, ""));
    if seal.trim_end() != blake3::hash(line.as_bytes()).to_hex().as_str() {
        return Err(Error::broken(format!("{name} is not whole: {text:?}")));
    }
    Ok(Some(line.to_owned()))
}

/// What the update service has kept, `update.json`.
pub(super) struct State {
    state: Value,
    /// All that is there.
    files: Files,
}

impl State {
    /// Reads it off the card of a machine that is off, however that came about; the card itself is not changed.
    pub(super) fn read(disks: &Disks) -> Result<Self> {
        let image = disks.dir.join("data.img");
        let data = disks.partition("data")?;
        extract(&disks.os, data.start, data.length, &image)?;
        let files = kept_files(&image, &disks.dir.join("state"))?;
        fs::remove_file(&image).at("deleting", &image)?;
        Self::of(&files)
    }

    /// What the files say that the update service has kept.
    pub(super) fn of(files: &Files) -> Result<Self> {
        let Some(line) = sealed(files, "update.json")? else {
            return Err(Error::broken("there is no update.json"));
        };
        let state: Value = serde_json::from_str(&line)
            .map_err(|error| Error::broken(format!("update.json cannot be read: {error}")))?;
        if state["version"] != 1 || state["phase"]["is"].as_str().is_none() {
            return Err(Error::broken(format!("update.json is none of version 1: {state}")));
        }
        Ok(Self { state, files: files.clone() })
    }

    /// How updates ended, as versions and words, the newest last.
    pub(super) fn endings(&self) -> Vec<(&str, &str)> {
        let history = self.state["history"].as_array().map(Vec::as_slice).unwrap_or_default();
        history
            .iter()
            .map(|outcome| {
                (
                    outcome["version"].as_str().unwrap_or_default(),
                    outcome["ending"].as_str().unwrap_or_default(),
                )
            })
            .collect()
    }

    /// What is being done: `idle`, `staging` and so on.
    pub(super) fn phase(&self) -> &str {
        self.state["phase"]["is"].as_str().unwrap_or_default()
    }

    /// The release and the slot that it is done with.
    pub(super) fn about(&self) -> Option<(&str, &str)> {
        let phase = &self.state["phase"];
        Some((phase["release"]["version"].as_str()?, phase["slot"].as_str()?))
    }

    /// The version of the last update that ended, how it ended, and why.
    pub(super) fn last(&self) -> Option<(&str, &str, &str)> {
        let last = self.state["history"].as_array()?.last()?;
        Some((last["version"].as_str()?, last["ending"].as_str()?, last["reason"].as_str()?))
    }

    /// The journal that was kept of the start that failed last (1), or of one before.
    pub(super) fn journal(&self, number: usize) -> Result<String> {
        let name = format!("failed-{number}.txt");
        match self.files.get(&name) {
            Some(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            None => Err(Error::broken(format!("the card has no {name}"))),
        }
    }

    /// The line of another sealed file of the service, if there is one of that name.
    pub(super) fn file(&self, name: &str) -> Result<Option<String>> {
        sealed(&self.files, name)
    }

    /// From where the last update came that ended.
    pub(super) fn source(&self) -> Option<&str> {
        self.state["history"].as_array()?.last()?["source"].as_str()
    }

    /// An error unless nothing is being done and the last update, to this version, ended so.
    pub(super) fn must_have_ended(&self, version: &str, ending: &str) -> Result<&str> {
        match (self.phase(), self.last()) {
            ("idle", Some((of, how, why))) if of == version && how == ending => Ok(why),
            _ => Err(Error::broken(format!(
                "update.json does not say that {version} ended as {ending}: {}",
                self.state
            ))),
        }
    }
}

/// The slot that the card boots when nobody asks for a try.
pub(super) fn default_slot(disks: &Disks) -> Result<char> {
    let text = disks.fat_file("select", "autoboot.txt")?;
    named_slot(text.as_bytes()).ok_or_else(|| {
        Error::broken(format!(
            "autoboot.txt ({} bytes) is not one of the two that there are:\n{text}",
            text.len()
        ))
    })
}

/// The slot that boots by a sector of `autoboot.txt`, where it is one of the two that there are.
pub(super) fn named_slot(sector: &[u8]) -> Option<char> {
    let text = String::from_utf8_lossy(sector);
    let named = [('a', 2, 3), ('b', 3, 2)].into_iter().find(|(_, this, other)| {
        let wanted =
            format!("[all]\ntryboot_a_b=1\nboot_partition={this}\n[tryboot]\nboot_partition={other}\n");
        sector.len() == 512 && text.trim_end() == wanted.trim_end()
    });
    named.map(|(slot, ..)| slot)
}

/// Whether a slot holds, to the last byte, what an image has in slot A.
pub(super) fn holds(disks: &Disks, slot: &str, image: &Disks) -> Result<bool> {
    for kind in ["boot", "root"] {
        let (there, wanted) =
            (disks.partition(&format!("{kind}-{slot}"))?, image.partition(&format!("{kind}-a"))?);
        let mut compare = Command::new("cmp");
        compare.args(["--silent", "--bytes", &wanted.length.to_string()]);
        compare.args(["--ignore-initial", &format!("{}:{}", there.start, wanted.start)]);
        match ask(compare.arg(&disks.os).arg(&image.os), b"")?.status.code() {
            Some(0) => {}
            Some(1) => return Ok(false),
            _ => return Err(Error::talk("cmp", format!("comparing {} with an image", there.name))),
        }
    }
    Ok(true)
}

/// Puts into a slot what an image has in slot A, as staging would have.
pub(super) fn fill(disks: &Disks, slot: &str, image: &Disks) -> Result<()> {
    for kind in ["boot", "root"] {
        let (there, wanted) =
            (disks.partition(&format!("{kind}-{slot}"))?, image.partition(&format!("{kind}-a"))?);
        let mut copy = Command::new("dd");
        copy.args(["status=none", "bs=1M", "conv=notrunc"]);
        copy.args(["iflag=skip_bytes,count_bytes", "oflag=seek_bytes"]);
        copy.arg(format!("if={}", image.os.display())).arg(format!("of={}", disks.os.display()));
        copy.args([format!("skip={}", wanted.start), format!("seek={}", there.start)]);
        copy.arg(format!("count={}", wanted.length));
        ask_well("filling a slot", &mut copy, b"")?;
    }
    Ok(())
}

/// Makes a slot blank.
pub(super) fn clear(disks: &Disks, slot: &str) -> Result<()> {
    for kind in ["boot", "root"] {
        let there = disks.partition(&format!("{kind}-{slot}"))?;
        let mut clear = Command::new("fallocate");
        clear.arg("--punch-hole");
        clear.args(["--offset", &there.start.to_string(), "--length", &there.length.to_string()]);
        ask_well("clearing a slot", clear.arg(&disks.os), b"")?;
    }
    Ok(())
}

/// Starts a client with the card's account, in a folder of its own.
pub(super) fn client(bench: &Bench, machine: &Machine, dir: &Path, more: &[&str]) -> Result<Client> {
    let place = Place { project: bench.project, tools: Path::new(""), interrupt: &bench.steps.interrupt };
    let login = Login { port: machine.port, user: USER.to_owned(), password: Some(PASSWORD.to_owned()) };
    Client::start(place, dir, &NLA, &login, more)
}

/// A client with the card's account is let in.
pub(super) fn admits(bench: &Bench, machine: &Machine, dir: &Path) -> Result<()> {
    let client = client(bench, machine, dir, &["+auth-only"])?;
    let ending = client.wait_end(CLIENT_BOUND, &bench.steps.interrupt)?;
    if ending.status.success() { Ok(()) } else { Err(Error::broken(ending.describe())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "[   31.482911] lucid-updated[213]:  INFO lucid_updated::service: 1.1.0 is staged: 12 bytes \
                        were there, 345 were copied, 6 were fetched, 2 of them as a patch; it took 21 MB at most\n";

    #[test]
    fn a_line_is_found_once_it_is_whole() {
        let text = format!("first\n{LINE}");
        for cut in 0..text.len() {
            assert!(find(&text[..cut], &[STAGED]).is_none(), "cut at {cut}");
        }
        let (line, end) = find(&text, &["1.1.0", STAGED]).unwrap();
        assert_eq!(end, text.len());
        assert!(line.starts_with("service: 1.1.0 is staged"), "{line}");
        assert!(find(&text, &["1.2.0", STAGED]).is_none());
    }

    #[test]
    fn what_was_staged_is_read() {
        let staged = Staged { kept: 12, copied: 345, fetched: 6, patched: 2, peak: 21 };
        assert_eq!(Staged::parse(LINE).unwrap(), staged);
        assert!(Staged::parse("1.1.0 is staged: all").is_err());
    }
}
