//! A card as a cut leaves it, looked at without being started: which slot boots, what the slots hold, what the update service
//! says.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{Bench, Life, Story, emptied, points::Point};
use crate::{
    error::{At, Error, Result},
    machine::{Disks, Partition},
    suite::Picks,
    suites::update::device::{self, Files, State},
    writes::{Cut, Piece, Replay, Writes},
};

/// The sector of `autoboot.txt`.
pub(super) const SECTOR: usize = 512;
pub(super) type Sector = [u8; SECTOR];
/// Slots are hashed in blocks of so many bytes: what a few writes change is hashed anew quickly.
const BLOCK: u64 = 1 << 20;
/// With these words the sector begins.
const TEXT: &[u8] = b"[all]\ntryboot_a_b=1\nboot_partition=";

/// Bytes, and where on the card they are.
pub(super) type Placed = (u64, Vec<u8>);

/// Lays pieces over bytes that begin at a place of the card.
pub(super) fn lay(bytes: &mut [u8], at: u64, over: &[Placed]) {
    let end = at + bytes.len() as u64;
    for (from, piece) in over {
        let (first, last) = ((*from).max(at), (from + piece.len() as u64).min(end));
        if first < last {
            let piece = &piece[(first - from) as usize..(last - from) as usize];
            bytes[(first - at) as usize..(last - at) as usize].copy_from_slice(piece);
        }
    }
}

/// Where things are on a card.
pub(super) struct Layout {
    /// The sector of `autoboot.txt`.
    pub(super) sector: u64,
    /// The boot and the root partition of slot A, and of slot B.
    pub(super) slots: [[Partition; 2]; 2],
    /// Where the data partition begins, which is the last one.
    pub(super) data: u64,
    end: u64,
}

impl Layout {
    pub(super) fn of(card: &Disks) -> Result<Self> {
        let all = card.partitions()?;
        let wrong = |what: &str| Error::broken(format!("{} has no {what}", card.os.display()));
        let named =
            |name: &str| all.iter().find(|part| part.name == name).cloned().ok_or_else(|| wrong(name));
        let sector = card.find(&named("select")?, TEXT)?.filter(|at| at % SECTOR as u64 == 0);
        let slots = [[named("boot-a")?, named("root-a")?], [named("boot-b")?, named("root-b")?]];
        if slots.as_flattened().iter().any(|part| part.start % BLOCK != 0 || part.length % BLOCK != 0) {
            return Err(wrong("slots that begin and end on a mebibyte"));
        }
        let end = fs::metadata(&card.os).at("looking at", &card.os)?.len();
        Ok(Self {
            sector: sector.ok_or_else(|| wrong("sector of autoboot.txt"))?,
            slots,
            data: named("data")?.start,
            end,
        })
    }

    /// The part of the card that has both slots.
    fn of_slots(&self) -> Range<u64> {
        let all = self.slots.as_flattened();
        let start = all.iter().map(|part| part.start).min().unwrap_or_default();
        start..all.iter().map(|part| part.start + part.length).max().unwrap_or_default()
    }

    /// The sector of `autoboot.txt`.
    pub(super) fn of_sector(&self) -> Range<u64> {
        self.sector..self.sector + SECTOR as u64
    }
}

/// The hashes of a part of a card, block by block.
struct Blocks {
    file: File,
    path: PathBuf,
    part: Range<u64>,
    hashes: Vec<blake3::Hash>,
    /// Those that were written since they were hashed.
    stale: BTreeSet<usize>,
}

impl Blocks {
    /// Of an image of a card, or of its beginning. The part begins and ends on a block.
    fn of(image: &Path, part: Range<u64>) -> Result<Self> {
        let file = File::open(image).at("opening", image)?;
        let count = ((part.end - part.start) / BLOCK) as usize;
        let (hashes, stale) = (vec![blake3::Hash::from_bytes([0; 32]); count], (0..count).collect());
        let mut blocks = Self { file, path: image.to_owned(), part, hashes, stale };
        blocks.refresh()?;
        Ok(blocks)
    }

    /// The blocks that some bytes of the card are in.
    fn touched(&self, at: u64, length: u64) -> Range<usize> {
        let Range { start, end } = self.part;
        let (first, last) = (at.clamp(start, end) - start, (at + length).clamp(start, end) - start);
        (first / BLOCK) as usize..last.div_ceil(BLOCK) as usize
    }

    fn hash(&self, number: usize, over: &[Placed]) -> Result<blake3::Hash> {
        let at = self.part.start + number as u64 * BLOCK;
        let mut bytes = vec![0; BLOCK as usize];
        self.file.read_exact_at(&mut bytes, at).at("reading", &self.path)?;
        lay(&mut bytes, at, over);
        Ok(blake3::hash(&bytes))
    }

    fn refresh(&mut self) -> Result<()> {
        while let Some(number) = self.stale.pop_first() {
            self.hashes[number] = self.hash(number, &[])?;
        }
        Ok(())
    }

    /// The hash of what a slot holds with these pieces laid over it.
    fn slot(&self, parts: &[Partition; 2], over: &[Placed]) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        for number in parts.iter().flat_map(|part| self.touched(part.start, part.length)) {
            let begin = self.part.start + number as u64 * BLOCK;
            let other = |(at, piece): &Placed| *at < begin + BLOCK && begin < at + piece.len() as u64;
            let hash = if over.iter().any(other) { self.hash(number, over)? } else { self.hashes[number] };
            hasher.update(hash.as_bytes());
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

/// The systems that a slot may hold, by the hashes of whole slots.
pub(super) struct Systems {
    story: Story,
    known: Vec<(&'static str, [u8; 32])>,
}

impl Systems {
    /// Those of an update.
    pub(super) fn of(bench: &Bench, story: Story) -> Result<Self> {
        let mut known = Vec::new();
        for slot in ['a', 'b'] {
            let version = story.version(slot);
            let image = if version == super::BAD {
                super::bad_system(bench)?
            } else {
                bench.releases.image(version, version, &[])?
            };
            let layout = Layout::of(&image)?;
            let hash = Blocks::of(&image.os, layout.of_slots())?.slot(&layout.slots[0], &[])?;
            known.push((version, hash));
        }
        Ok(Self { story, known })
    }

    fn named(&self, hash: &[u8; 32]) -> Option<&'static str> {
        self.known.iter().find(|(_, of)| of == hash).map(|(version, _)| *version)
    }
}

/// The data partition of a card, which follows the log of a life.
pub(super) struct Data {
    replay: Replay,
    dir: PathBuf,
}

impl Data {
    /// As it was before that life, with its files in `dir`.
    pub(super) fn new(life: &Life, dir: &Path) -> Result<Self> {
        let (image, part) = (dir.join("data.img"), life.layout.data..life.layout.end);
        portion(&life.before.os, &part, &image)?;
        Ok(Self { replay: Replay::new(&image, part)?, dir: dir.to_owned() })
    }

    /// What the update service has kept when a cut after `at` entries of the log is over.
    pub(super) fn files(&mut self, writes: &Writes, at: usize, seed: u64) -> Result<Files> {
        let copy = self.dir.join("cut.img");
        self.replay.cut_to(writes, at, &mut Picks::new(seed), &copy)?;
        device::kept_files(&copy, &self.dir.join("state"))
    }
}

/// Copies a part of a card's image; what is empty at its end counts.
fn portion(card: &Path, part: &Range<u64>, to: &Path) -> Result<()> {
    device::extract(card, part.start, part.end - part.start, to)?;
    let file = OpenOptions::new().write(true).open(to).at("opening", to)?;
    file.set_len(part.end - part.start).at("growing", to)
}

/// A card that follows the log of a life.
struct Card<'a> {
    life: &'a Life,
    /// All before the data partition.
    system: Replay,
    blocks: Blocks,
    data: Data,
    /// So many entries of the log are on it.
    settled: usize,
}

/// What decides of a card.
pub(super) struct Look {
    sector: Sector,
    slots: [[u8; 32]; 2],
    files: Files,
}

impl<'a> Card<'a> {
    fn new(life: &'a Life, dir: &Path) -> Result<Self> {
        let dir = emptied(dir)?;
        let (image, part) = (dir.join("system.img"), 0..life.layout.data);
        portion(&life.before.os, &part, &image)?;
        let blocks = Blocks::of(&image, life.layout.of_slots())?;
        let system = Replay::new(&image, part)?;
        Ok(Self { life, system, blocks, data: Data::new(life, &dir)?, settled: 0 })
    }

    /// What a cut leaves. Later calls may not go back.
    fn look(&mut self, point: &Point) -> Result<(Look, Cut)> {
        let Life { layout, writes, .. } = self.life;
        let flushed = writes.flushed(point.at);
        for Piece { at, length, .. } in (self.settled..flushed).filter_map(|number| writes.piece(number)) {
            let touched = self.blocks.touched(at, length);
            self.blocks.stale.extend(touched);
        }
        self.settled = flushed;
        self.system.settle(writes, point.at)?;
        self.blocks.refresh()?;
        let (cut, pieces) = writes.left(point.at, &mut Picks::new(point.seed));
        let over = pieces.iter().map(|piece| Ok::<Placed, Error>((piece.at, writes.bytes(piece)?)));
        let mut over = over.collect::<Result<Vec<Placed>>>()?;
        if let Some(sector) = point.sector {
            over.push((layout.sector, sector.to_vec()));
        }
        let mut sector = [0; SECTOR];
        let Blocks { file, path, .. } = &self.blocks;
        file.read_exact_at(&mut sector, layout.sector).at("reading", path)?;
        lay(&mut sector, layout.sector, &over);
        let [a, b] = &layout.slots;
        let slots = [self.blocks.slot(a, &over)?, self.blocks.slot(b, &over)?];
        let files = self.data.files(writes, point.at, point.seed)?;
        Ok((Look { sector, slots, files }, cut))
    }
}

impl Look {
    /// At a card that is there as a whole, of a machine that is off.
    pub(super) fn at(card: &Disks) -> Result<Self> {
        let layout = Layout::of(card)?;
        let blocks = Blocks::of(&card.os, layout.of_slots())?;
        let mut sector = [0; SECTOR];
        blocks.file.read_exact_at(&mut sector, layout.sector).at("reading", &card.os)?;
        let [a, b] = &layout.slots;
        let slots = [blocks.slot(a, &[])?, blocks.slot(b, &[])?];
        let image = card.dir.join("data.img");
        portion(&card.os, &(layout.data..layout.end), &image)?;
        let files = device::kept_files(&image, &card.dir.join("state"))?;
        fs::remove_file(&image).at("deleting", &image)?;
        Ok(Self { sector, slots, files })
    }

    /// The slot that boots holds a whole system, and what is said of the slots and of past updates is so; `torn` says that the
    /// sector is one that was torn. Gives that in words.
    pub(super) fn truth(&self, systems: &Systems, torn: bool) -> Result<String> {
        let Systems { story, .. } = systems;
        let Some(slot) = firmware(&self.sector) else {
            return Err(Error::broken(format!("autoboot.txt names no slot: {:?}", self.text())));
        };
        if !torn && device::named_slot(&self.sector) != Some(slot) {
            return Err(Error::broken(format!("autoboot.txt is none of the two: {:?}", self.text())));
        }
        let held = |slot: char| systems.named(&self.slots[usize::from(slot == 'b')]);
        let Some(boots) = held(slot) else {
            return Err(Error::broken(format!("slot {slot} boots, and holds no whole system")));
        };
        let state = State::of(&self.files)?;
        let (phase, (new, into)) = (state.phase(), story.target());
        if let Some((version, other)) = state.about() {
            if version != new || !other.starts_with(into) {
                return Err(Error::broken(format!(
                    "update.json is about {version} in slot {other}, which nobody has released"
                )));
            }
            // Only while it is written may anything be there.
            if phase != "staging" && held(into) != Some(new) {
                return Err(Error::broken(format!("{new} is {phase}, and slot {into} does not hold it")));
            }
        }
        let (endings, all) = (state.endings(), story.endings());
        let over = endings == all;
        if !over && Some(&*endings) != all.split_last().map(|(_, before)| before) {
            return Err(Error::broken(format!("update.json says that updates ended so: {endings:?}")));
        }
        if over && (phase != "idle" || boots != story.version('b')) {
            return Err(Error::broken(format!("all is over, it is {phase}, and slot {slot} boots {boots}")));
        }
        let committing = phase == "good";
        if boots == new && !committing && !over {
            return Err(Error::broken(format!("slot {slot} boots {new} while it is {phase}")));
        }
        if torn && !committing {
            return Err(Error::broken(format!("autoboot.txt is written while it is {phase}")));
        }
        device::sealed(&self.files, "trust.json")?;
        if let Some(spare) = self.files.get("autoboot.bak")
            && device::named_slot(spare).is_none()
        {
            return Err(Error::broken("the spare copy of autoboot.txt is none"));
        }
        Ok(format!("{phase}, and slot {slot} boots {boots}"))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.sector).trim_end().to_owned()
    }

    /// Whether a try may be armed.
    fn is_trying(&self) -> Result<bool> {
        Ok(State::of(&self.files)?.phase() == "trying")
    }

    /// The same for cards from which a machine does the same.
    fn key(&self, armed: bool) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[u8::from(armed)]).update(&self.sector);
        hasher.update(&self.slots[0]).update(&self.slots[1]);
        for name in ["update.json", "trust.json", "autoboot.bak"] {
            let bytes = self.files.get(name).map(Vec::as_slice).unwrap_or_default();
            hasher.update(blake3::hash(bytes).as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// The slot that the firmware starts without a try: what stands under `[tryboot]` does not count, and of the rest the last
/// `boot_partition=` does (`firmware/qemu/eeprom.cmd`).
fn firmware(sector: &[u8]) -> Option<char> {
    let text = String::from_utf8_lossy(sector);
    let all = text.split("[tryboot]").next()?;
    let (_, named) = all.rsplit_once("boot_partition=")?;
    match named.split(|c: char| !c.is_ascii_digit()).next()? {
        "2" => Some('a'),
        "3" => Some('b'),
        _ => None,
    }
}

/// What was found on a card.
pub(super) struct Looked {
    pub(super) point: Point,
    pub(super) cut: Cut,
    /// What the starts from it are the same as, each with whether a try is armed; or what is wrong.
    pub(super) found: Result<Vec<(bool, [u8; 32])>>,
}

/// Looks at what each cut of a life leaves.
pub(super) fn looked(
    bench: &Bench,
    life: &Life,
    systems: &Systems,
    mut points: Vec<Point>,
    dir: &Path,
) -> Result<Vec<Looked>> {
    points.sort_by_key(|point| point.at);
    let mut card = Card::new(life, dir)?;
    let mut all = Vec::new();
    for point in points {
        bench.steps.interrupt.check()?;
        let (cut, found) = match card.look(&point) {
            Ok((look, cut)) => (cut, starts(life, systems, &point, &look)),
            Err(error) => (Cut::default(), Err(error)),
        };
        all.push(Looked { point, cut, found });
    }
    // They are as large as a card.
    emptied(dir)?;
    Ok(all)
}

fn starts(life: &Life, systems: &Systems, point: &Point, look: &Look) -> Result<Vec<(bool, [u8; 32])>> {
    look.truth(systems, point.torn)?;
    let mut armed = vec![false];
    if point.at <= life.armable && look.is_trying()? {
        armed.push(true);
    }
    Ok(armed.into_iter().map(|armed| (armed, look.key(armed))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_takes_the_last_slot_that_is_not_for_tries() {
        let text = |this, other| {
            format!("[all]\ntryboot_a_b=1\nboot_partition={this}\n[tryboot]\nboot_partition={other}\n")
        };
        assert_eq!(firmware(text(2, 3).as_bytes()), Some('a'));
        assert_eq!(firmware(text(3, 2).as_bytes()), Some('b'));
        assert_eq!(firmware(text(3, 3).as_bytes()), Some('b'));
        assert_eq!(firmware(text(4, 3).as_bytes()), None);
        assert_eq!(firmware(&[0xff; SECTOR]), None);
        assert_eq!(firmware(b"[all]\ntryboot_a_b=1\n[tryboot]\nboot_partition=3\n"), None);
    }

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    /// What is said of a card of the first update: the slots of `autoboot.txt`, what slot B holds, the phase, and the history.
    fn said((this, other): (u8, u8), b: [u8; 32], phase: &str, history: &str, torn: bool) -> Result<String> {
        let text =
            format!("[all]\ntryboot_a_b=1\nboot_partition={this}\n[tryboot]\nboot_partition={other}\n");
        let mut sector = [b'\n'; SECTOR];
        sector[..text.len()].copy_from_slice(text.as_bytes());
        let about = if phase == "idle" { "" } else { r#","release":{"version":"1.1.0"},"slot":"b""# };
        let line = format!(r#"{{"version":1,"phase":{{"is":"{phase}"{about}}},"history":[{history}]}}"#);
        let sealed = format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex());
        let files = Files::from([("update.json".to_owned(), sealed.into_bytes())]);
        let systems = Systems { story: Story::Kept, known: vec![("1.0.0", OLD), ("1.1.0", NEW)] };
        Look { sector, slots: [OLD, b], files }.truth(&systems, torn)
    }

    #[test]
    fn a_card_that_is_not_what_it_says_is_found_out() {
        const INSTALLED: &str = r#"{"version":"1.1.0","ending":"installed"}"#;
        const FAILED: &str = r#"{"version":"1.1.0","ending":"failed"}"#;
        let (a, b, half) = ((2, 3), (3, 2), [3; 32]);
        for (sector, holds, phase, history, torn) in [
            (a, half, "idle", "", false),
            (a, half, "staging", "", false),
            (a, NEW, "staged", "", false),
            (a, NEW, "trying", "", false),
            (a, NEW, "good", "", false),
            (b, NEW, "good", "", false),
            ((2, 2), NEW, "good", "", true),
            ((3, 3), NEW, "good", "", true),
            (b, NEW, "idle", INSTALLED, false),
        ] {
            let said = said(sector, holds, phase, history, torn);
            assert!(said.is_ok(), "{sector:?} {phase} {history}: {}", said.unwrap_err());
        }
        for (sector, holds, phase, history, torn) in [
            // What boots, or is to be tried, is not whole.
            (b, half, "good", "", false),
            (a, half, "staged", "", false),
            (a, half, "trying", "", false),
            // It boots before it has passed, or does not although it is said to be installed.
            (b, NEW, "trying", "", false),
            (b, NEW, "idle", "", false),
            (a, NEW, "idle", INSTALLED, false),
            // It has passed, and is said to have failed.
            (a, NEW, "idle", FAILED, false),
            // Nobody was writing the sector, or nobody tore it.
            ((3, 3), NEW, "staged", "", true),
            ((2, 2), NEW, "good", "", false),
            ((4, 4), NEW, "good", "", true),
        ] {
            let said = said(sector, holds, phase, history, torn);
            assert!(said.is_err(), "{sector:?} {phase} {history}: {}", said.unwrap());
        }
    }

    #[test]
    fn pieces_are_laid_over_what_they_meet_and_the_later_one_counts() {
        let mut bytes = [0; 4];
        lay(&mut bytes, 10, &[(8, vec![1; 3]), (12, vec![2; 9]), (13, vec![3]), (2, vec![4; 8])]);
        assert_eq!(bytes, [1, 0, 2, 3]);
    }

    #[test]
    fn a_slot_is_another_one_when_a_byte_of_it_is_and_the_same_when_one_beside_it_is() {
        let path = std::env::temp_dir().join(format!("xtask-blocks-{}", std::process::id()));
        fs::write(&path, vec![7; 6 << 20]).unwrap();
        let part =
            |start: u64| Partition { number: 1, name: String::new(), start: start << 20, length: BLOCK };
        let (slot, other) = ([part(1), part(3)], [part(2), part(4)]);
        let mut blocks = Blocks::of(&path, BLOCK..5 * BLOCK).unwrap();
        let before = blocks.slot(&slot, &[]).unwrap();
        let beside = blocks.slot(&other, &[]).unwrap();
        let over = [((3 << 20) + 5, vec![8])];
        assert_ne!(blocks.slot(&slot, &over).unwrap(), before);
        assert_eq!(blocks.slot(&other, &over).unwrap(), beside);
        // Written in earnest, it is the same as laid over.
        let laid = blocks.slot(&slot, &over).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[8], (3 << 20) + 5).unwrap();
        let touched = blocks.touched((3 << 20) + 5, 1);
        assert_eq!(touched, 2..3);
        blocks.stale.extend(touched);
        blocks.refresh().unwrap();
        assert_eq!(blocks.slot(&slot, &[]).unwrap(), laid);
        fs::remove_file(&path).unwrap();
    }
}
