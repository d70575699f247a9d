//! The moments of a recorded life at which the plug is pulled.

use std::{collections::BTreeSet, ops::Range, path::Path};

use super::{
    Bench, Life,
    card::{Data, SECTOR, Sector, lay},
    emptied,
};
use crate::{
    error::{Error, Result},
    suite::Picks,
    suites::update::device::{Files, State},
    writes::Writes,
};

/// So many moments within the writing of a slot, besides those of its first and last writes.
const WITHIN: usize = 9;

/// A power cut.
#[derive(Clone)]
pub(super) struct Point {
    /// Which of the lives.
    pub(super) life: usize,
    /// So many entries of its log come before it.
    pub(super) at: usize,
    /// What decides of the writes that are in doubt.
    pub(super) seed: u64,
    /// What the sector of `autoboot.txt` holds, where it is written just then.
    pub(super) sector: Option<Sector>,
    /// Whether that is part of the old text and part of the new one.
    pub(super) torn: bool,
    /// In words.
    pub(super) what: String,
    pub(super) random: bool,
    /// Whether every run starts a machine from it.
    pub(super) always: bool,
}

/// A write that changes the sector of `autoboot.txt`.
struct Change {
    /// The entry of the log.
    entry: usize,
    old: Sector,
    new: Sector,
}

/// The write steps of a life.
pub(super) struct Steps {
    pub(super) points: Vec<Point>,
    /// From so many entries of the log on there is what the update service keeps.
    first: usize,
    changes: Vec<Change>,
}

/// A life whose steps are being found.
struct Finding<'a> {
    life: &'a Life,
    number: usize,
    picks: Picks,
    found: Steps,
}

impl Finding<'_> {
    fn point(&mut self, at: usize, what: String) -> &mut Point {
        let (life, seed) = (self.number, self.picks.next());
        let what = format!("{what} (after {at} of {} entries)", self.life.writes.len());
        let (sector, torn, random, always) = (None, false, false, false);
        self.found.points.push(Point { life, at, seed, sector, torn, what, random, always });
        let last = self.found.points.len() - 1;
        &mut self.found.points[last]
    }

    /// A write changes the sector of `autoboot.txt`.
    fn sector(&mut self, entry: usize, old: Sector, new: Sector) {
        self.point(entry, "before autoboot.txt is written".to_owned());
        self.point(entry + 1, "when autoboot.txt is written, and not flushed".to_owned()).sector = Some(new);
        for (number, (torn, how)) in tears(&old, &new).into_iter().enumerate() {
            let point = self.point(entry + 1, format!("when autoboot.txt is torn: {how}"));
            (point.sector, point.torn, point.always) = (Some(torn), true, number == 0);
        }
        self.found.changes.push(Change { entry, old, new });
    }

    /// The writing of the slots.
    fn slots(&mut self) {
        let Life { layout, writes, .. } = self.life;
        let mut all: Option<(usize, usize)> = None;
        for part in layout.slots.as_flattened() {
            let bytes = part.start..part.start + part.length;
            let Some((first, last)) = written(writes, self.found.first, &bytes) else { continue };
            self.point(first + 1, format!("after the first write to {}", part.name));
            self.point(last, format!("before the last write to {}", part.name));
            self.point(last + 1, format!("after the last write to {}", part.name));
            let (begin, end) = all.unwrap_or((first, last));
            all = Some((begin.min(first), end.max(last)));
        }
        let Some((begin, end)) = all else { return };
        let moments = writes.in_doubt(begin).into_iter().map(|(at, _)| at).filter(|at| *at <= end);
        let moments: Vec<usize> = moments.collect();
        for number in 1..=WITHIN {
            let Some(at) = moments.get(moments.len() * number / (WITHIN + 1)).copied() else { continue };
            let what = format!("while the slot is written, {number} of {WITHIN} moments");
            self.point(at, what).always = number == WITHIN.div_ceil(2);
        }
    }
}

/// The first and the last entry from `from` on that write to a part of the card.
fn written(writes: &Writes, from: usize, part: &Range<u64>) -> Option<(usize, usize)> {
    let writes_it = |number: &usize| writes.piece(*number).is_some_and(|piece| piece.is_in(part));
    let first = (from..writes.len()).find(writes_it)?;
    Some((first, (first..writes.len()).rfind(writes_it)?))
}

/// Every other text that there is when a part of the sector, from its front or from its back, is the new one.
fn tears(old: &Sector, new: &Sector) -> Vec<(Sector, String)> {
    let mut seen = BTreeSet::from([*old, *new]);
    let mut found = Vec::new();
    for at in 1..SECTOR {
        for (front, back, whose) in [(new, old, "first"), (old, new, "last")] {
            let mut torn = *back;
            torn[..at].copy_from_slice(&front[..at]);
            if seen.insert(torn) {
                let count = if whose == "first" { at } else { SECTOR - at };
                found.push((torn, format!("its {whose} {count} bytes are new")));
            }
        }
    }
    found
}

/// Finds the write steps of a life, with files in `dir`.
pub(super) fn steps(bench: &Bench, life: &Life, number: usize, seed: u64, dir: &Path) -> Result<Steps> {
    let Life { layout, writes, before, .. } = life;
    let mut data = Data::new(life, &emptied(dir)?)?;
    let mut sector: Sector = [0; SECTOR];
    sector.copy_from_slice(&before.read(layout.sector, SECTOR)?);
    // Before its first start a card has no file system there.
    let mut kept = data.files(writes, 0, seed).ok();
    let found = Steps { points: Vec::new(), first: 0, changes: Vec::new() };
    let mut finding = Finding { life, number, picks: Picks::new(seed ^ number as u64), found };
    let mut begun = kept.is_some();
    let mut loose = false;
    for entry in 0..writes.len() {
        if let Some(piece) = writes.piece(entry) {
            loose |= piece.at + piece.length > layout.data;
            if piece.is_in(&layout.of_sector()) {
                let old = sector;
                lay(&mut sector, layout.sector, &[(piece.at, writes.bytes(&piece)?)]);
                if begun && sector != old {
                    finding.sector(entry, old, sector);
                }
            }
        }
        if !writes.is_flush(entry) || !loose {
            continue;
        }
        bench.steps.interrupt.check()?;
        loose = false;
        let now = match data.files(writes, entry + 1, seed) {
            Err(_) if !begun => continue,
            now => now?,
        };
        if !begun && !now.contains_key("update.json") || kept.as_ref() == Some(&now) {
            continue;
        }
        let what = difference(kept.as_ref(), &now);
        if begun {
            finding.point(entry, format!("before the flush of {what}"));
        } else {
            (begun, finding.found.first) = (true, entry + 1);
        }
        finding.point(entry + 1, format!("after the flush of {what}"));
        kept = Some(now);
    }
    if !begun {
        return Err(Error::broken("the update service has kept nothing in a life that was recorded"));
    }
    finding.slots();
    Ok(finding.found)
}

/// What is other in the update service's files, in words.
fn difference(before: Option<&Files>, now: &Files) -> String {
    let of = |name: &String| before.and_then(|files| files.get(name));
    let mut words: Vec<String> = Vec::new();
    for (name, bytes) in now {
        if of(name) == Some(bytes) {
            continue;
        }
        let phase = if name == "update.json" { State::of(now).ok() } else { None };
        words.push(match phase {
            Some(state) => format!("{name} ({})", state.phase()),
            None => format!("{name} ({} bytes)", bytes.len()),
        });
    }
    let gone = before.into_iter().flatten().filter(|(name, _)| !now.contains_key(*name));
    words.extend(gone.map(|(name, _)| format!("the end of {name}")));
    words.join(", ")
}

/// Random moments, evenly over all at which something is in doubt once there is what the update service keeps.
pub(super) fn random(lives: &[Life], steps: &[Steps], count: u64, seed: u64) -> Result<Vec<Point>> {
    let mut moments = Vec::new();
    for (number, (life, steps)) in lives.iter().zip(steps).enumerate() {
        let doubted = life.writes.in_doubt(steps.first).into_iter();
        moments.extend(doubted.map(|(at, _)| (number, life, steps, at)));
    }
    if moments.is_empty() {
        return Err(Error::broken("at no moment of what was recorded anything was in doubt"));
    }
    let points = (1..=count).map(|number| {
        let mut picks = Picks::new(seed.wrapping_add(number));
        let (life, Life { writes, .. }, steps, at) = moments[picks.below(moments.len() as u64) as usize];
        let flushed = writes.flushed(at);
        let change = steps.changes.iter().find(|change| (flushed..at).contains(&change.entry));
        let sector = change.map(|change| fate(change, &mut picks));
        let torn =
            change.zip(sector).is_some_and(|(change, sector)| ![change.old, change.new].contains(&sector));
        let what = format!("at random, {number} of {count} (after {at} of {} entries)", writes.len());
        Point { life, at, seed: picks.next(), sector, torn, what, random: true, always: false }
    });
    Ok(points.collect())
}

/// What chance makes of the sector that is being written.
fn fate(Change { old, new, .. }: &Change, picks: &mut Picks) -> Sector {
    match picks.below(3) {
        0 => *old,
        1 => *new,
        _ => {
            let (front, back) = if picks.below(2) == 0 { (new, old) } else { (old, new) };
            let (mut sector, at) = (*back, picks.below(SECTOR as u64) as usize);
            sector[..at].copy_from_slice(&front[..at]);
            sector
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(this: u8, other: u8) -> Sector {
        let text =
            format!("[all]\ntryboot_a_b=1\nboot_partition={this}\n[tryboot]\nboot_partition={other}\n");
        let mut sector = [b'\n'; SECTOR];
        sector[..text.len()].copy_from_slice(text.as_bytes());
        sector
    }

    #[test]
    fn a_sector_is_torn_in_every_way_that_gives_another_text() {
        let torn: BTreeSet<Sector> =
            tears(&sector(2, 3), &sector(3, 2)).into_iter().map(|(torn, _)| torn).collect();
        assert_eq!(torn, BTreeSet::from([sector(3, 3), sector(2, 2)]));
        assert!(tears(&sector(2, 3), &sector(2, 3)).is_empty());
    }

    #[test]
    fn chance_leaves_the_old_sector_the_new_one_or_a_torn_one() {
        let change = Change { entry: 0, old: sector(2, 3), new: sector(3, 2) };
        let mut picks = Picks::new(1);
        let fates: BTreeSet<Sector> = (0..2000).map(|_| fate(&change, &mut picks)).collect();
        assert_eq!(fates, BTreeSet::from([sector(2, 3), sector(3, 2), sector(3, 3), sector(2, 2)]));
    }

    #[test]
    fn what_is_other_in_the_files_is_said() {
        let files = |list: &[(&str, &str)]| -> Files {
            list.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
        };
        let before = files(&[("a", "one"), ("b", "two"), ("c", "three")]);
        let now = files(&[("a", "one"), ("b", "four"), ("d", "")]);
        assert_eq!(difference(Some(&before), &now), "b (4 bytes), d (0 bytes), the end of c");
        assert_eq!(difference(None, &files(&[("a", "one")])), "a (3 bytes)");
    }
}
