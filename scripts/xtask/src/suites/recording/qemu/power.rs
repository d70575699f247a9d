//! The plug is pulled while a session runs, again and again on the same card; then everything is ended and looked at.
//!
//! A boot takes half a minute here, so each of them serves for many power cuts: the log of what the card was told
//! ([`crate::writes`]) says what a cut at any other moment of that boot would have left.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Bench,
    left::{Kept, Left, all_of, extract, must_be_kept, must_be_recovered, recover},
    must,
    watch::{Head, Seen, shared, while_watched},
};
use crate::{
    error::{At, Error, Result},
    machine::{Disks, Machine, Options, Partition, copy_sparse},
    recordings::copy,
    suite::{Picks, Report},
    writes::{Cut, Replay, Writes},
};

/// Boots that end with a power cut, unless LUCID_POWER_CUTS says how many.
const BOOTS: u64 = 2;
/// Moments of each of them at which the plug might have been pulled as well.
const MOMENTS: usize = 20;
/// The plug is pulled this long after the session has become busy at the earliest, and so much later at the latest.
const CUT_AFTER: Duration = Duration::from_secs(3);
const CUT_WITHIN: u64 = 5000;
/// The longest until a recording whose session was cut off is ended: it waits a minute for its session.
const ENDING_BOUND: Duration = Duration::from_secs(240);
const SEED: u64 = 20_261_122;
/// The most that a busy session may lose, in milliseconds. A commit begins at most half a second after what it confirms came,
/// and a second is promised for a disk that takes less than the rest; the emulated machine's may take more beside others.
const MOST_LOST: f64 = 1500.0;

/// A power cut and what was known just before it.
struct Lost {
    session: String,
    /// So many heads had been acknowledged.
    acknowledged: u64,
}

/// A boot that ended with a power cut while a session ran.
struct Boot {
    lost: Lost,
    heads: BTreeMap<u64, Head>,
    /// What the card was told.
    writes: Writes,
    /// The data partition, and what was on it before that.
    partition: Partition,
    before: PathBuf,
    /// From when on something new was recorded all the time, and when the plug was pulled.
    busy: Instant,
    end: Instant,
    figures: String,
}

/// The checks, on a card with one recording.
pub(super) fn cuts(bench: &Bench, disks: &Disks, device: &str, report: &mut Report) -> Result<()> {
    let boots = match env::var("LUCID_POWER_CUTS") {
        Err(_) => BOOTS,
        Ok(text) => text.parse().map_err(|_| Error::broken("LUCID_POWER_CUTS is no number"))?,
    };
    let mut picks = Picks::new(SEED);
    let mut lost: Vec<Lost> = Vec::new();
    for number in 1..=boots {
        bench.interrupt().check()?;
        let boot = report.obtain(
            format!("qemu: a power cut loses nothing that was acknowledged ({number} of {boots})"),
            |boot: &Boot| boot.figures.clone(),
            || power_cut(bench, disks, device, &lost, &mut picks),
        );
        let Some(boot) = boot else { return Ok(()) };
        let left = report.obtain(
            format!(
                "qemu: a power cut at any of {MOMENTS} moments of that boot loses nothing that was acknowledged \
                 ({number} of {boots})"
            ),
            |(_, figures): &(Vec<Left>, String)| figures.clone(),
            || at_moments(bench, &boot, device, &mut picks),
        );
        if let Some((left, _)) = left {
            report.check(
                format!(
                    "qemu: a power cut at any of them leaves what is recovered: ended, proved, its gap marked, \
                     playable ({number} of {boots})"
                ),
                || {
                    recover(bench, &left, device)?;
                    Ok(format!("{} recordings", left.iter().filter(|left| left.recording.is_some()).count()))
                },
            );
        }
        fs::remove_file(&boot.before).at("deleting", &boot.before)?;
        lost.push(boot.lost);
    }
    report.check("qemu: what was cut off is recovered: ended, proved, its gap marked, playable", || {
        recovered(bench, disks, device, &lost)
    });
    Ok(())
}

/// Lets the machine itself end what was cut off.
fn recovered(bench: &Bench, disks: &Disks, device: &str, lost: &[Lost]) -> Result<String> {
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
        writes.advance(|_, data| {
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
    for one in lost {
        let dir = found.iter().find(|dir| dir.ends_with(&one.session));
        let dir = dir.ok_or_else(|| Error::broken(format!("recording {} is gone", one.session)))?;
        let said = bench.verify(std::slice::from_ref(dir), device)?;
        let report = said.first().map(|said| &said.report).unwrap_or(&Value::Null);
        gap = must_be_recovered(bench, dir, report, one.acknowledged)?;
    }
    Ok(format!("{} recordings; the last one's gap is {:.1} s", lost.len(), gap / 1e6))
}

fn contains(data: &[u8], text: &[u8]) -> bool {
    data.windows(text.len()).any(|bytes| bytes == text)
}

/// How many heads of a session the recorder had acknowledged for certain when the log had its first `at` entries.
///
/// It makes records durable, then the head that confirms them, and then says that they are kept; only after that it
/// writes the next head (`lucid_recording::Writer::commit`). So when a head is in the log, on whatever way it came there, all
/// those before it were acknowledged. Heads are counted from 0, so the newest one's number is theirs. Whether it was acknowledged
/// itself the log does not say; but if it was, it was flushed.
pub(super) fn acknowledged(heads: &BTreeMap<u64, Head>, at: usize) -> u64 {
    heads.iter().rfind(|(_, head)| head.entry < at).map_or(0, |(number, _)| *number)
}

/// Starts the machine, has a session on it, and pulls the plug at some moment. The card is then what is left.
fn power_cut(bench: &Bench, disks: &Disks, device: &str, lost: &[Lost], picks: &mut Picks) -> Result<Boot> {
    let log = disks.dir.join("writes.log");
    let base = disks.dir.join("before.img");
    copy_sparse(&disks.os, &base)?;
    let known = copy(disks, &bench.tools.work.join("between"))?;
    let is_new = |session: &str| {
        !lost.iter().any(|one| one.session == session) && !known.iter().any(|dir| dir.ends_with(session))
    };
    let options = Options { writes: Some(log.clone()), ..Options::default() };
    let mut machine = Machine::start(disks, &options, bench.interrupt())?;
    machine.wait_ready(0)?;
    let ((busy, end), Seen { writes, mut sessions }) = while_watched(&log, |seen| {
        let mut client =
            bench.busy_session(&machine, &disks.dir.join("client"), || shared(seen).newest(is_new))?;
        let busy = Instant::now();
        thread::sleep(CUT_AFTER + Duration::from_millis(picks.below(CUT_WITHIN)));
        client.must_run()?;
        let end = Instant::now();
        machine.cut();
        Ok((busy, end))
    })?;
    sessions.retain(|session, _| is_new(session));
    must("sessions that were recorded", sessions.len(), 1)?;
    let Some((session, heads)) = sessions.pop_first() else {
        return Err(Error::broken("no session was recorded"));
    };
    let acknowledged = acknowledged(&heads, writes.len());

    let partition = disks.partition("data")?;
    let before = disks.dir.join("data-before.img");
    extract(&base, &partition, &before)?;
    fs::rename(&base, &disks.os).at("renaming", &base)?;
    let cut = writes.cut(&disks.os, picks)?;
    // Looked at in a copy, so that the machine itself has to mend its card.
    extract(&disks.os, &partition, &base)?;
    let dir = bench.tools.work.join("cut");
    let moment = (writes.len(), "at the end".to_owned());
    let left = Left::take(&base, &dir, moment, &session, acknowledged)?;
    fs::remove_file(&base).at("deleting", &base)?;
    let mut boot = Boot {
        lost: Lost { session, acknowledged },
        heads,
        writes,
        partition,
        before,
        busy,
        end,
        figures: String::new(),
    };
    let kept = must_be_kept(bench, std::slice::from_ref(&left), device)?;
    let (heads, newest) = kept.first().map_or((0, None), |kept| (kept.heads, kept.newest_ms));
    let loss = boot.loss(boot.writes.len(), newest).unwrap_or(f64::NAN);
    boot.figures = format!(
        "{acknowledged} heads acknowledged, {heads} there, the newest of {loss:.0} ms before the cut; {} writes flushed, \
         {} of {} later ones lost or torn",
        cut.kept, cut.lost, cut.in_doubt
    );
    Ok(boot)
}

impl Boot {
    /// When the log did not yet have more than its first `at` entries, at the latest.
    fn moment(&self, at: usize) -> Instant {
        self.writes.seen(at).unwrap_or(self.end).min(self.end)
    }

    /// How long before a moment, in milliseconds, the newest of what is confirmed there was recorded: the time of the newest
    /// head. None where the session was not yet busy, as one in which nothing is new writes no heads.
    ///
    /// The head says that by the machine's clock. How far that is from ours shows the head that was seen soonest after its time;
    /// the shortest time that records take to the disk is therefore left out, some hundredths of a second.
    fn loss(&self, at: usize, newest_ms: Option<u64>) -> Option<f64> {
        let moment = self.moment(at);
        let ms = |instant: Instant| {
            let first = self.heads.values().next().and_then(|head| self.writes.seen(head.entry));
            first.map_or(f64::NAN, |first| instant.saturating_duration_since(first).as_secs_f64() * 1e3)
        };
        let behind = self
            .heads
            .values()
            .filter_map(|head| Some(ms(self.writes.seen(head.entry)?) - head.wall_ms as f64))
            .fold(f64::MAX, f64::min);
        let newest = newest_ms? as f64;
        (moment >= self.busy).then(|| ms(moment) - behind - newest)
    }
}

/// Moments from the session's beginning on, half of them right before a flush that would have saved something, the others
/// any; in order.
fn moments(boot: &Boot, picks: &mut Picks) -> Result<BTreeSet<usize>> {
    let first = boot.heads.values().next().map_or(0, |head| head.entry);
    let flushes = boot.writes.in_doubt(first).into_iter().filter(|(_, flush)| *flush);
    let mut chosen = BTreeSet::new();
    let mut choose = |mut from: Vec<usize>, until: usize| {
        while chosen.len() < until && !from.is_empty() {
            chosen.insert(from.swap_remove(picks.below(from.len() as u64) as usize));
        }
    };
    choose(flushes.map(|(at, _)| at).collect(), MOMENTS / 2);
    choose((first..boot.writes.len()).collect(), MOMENTS);
    must("moments to choose from", chosen.len(), MOMENTS)?;
    Ok(chosen)
}

/// What power cuts at other moments of a boot would have left.
fn at_moments(bench: &Bench, boot: &Boot, device: &str, picks: &mut Picks) -> Result<(Vec<Left>, String)> {
    let dir = bench.tools.work.join("moments");
    if dir.exists() {
        fs::remove_dir_all(&dir).at("emptying", &dir)?;
    }
    fs::create_dir_all(&dir).at("making", &dir)?;
    let image = dir.join("data.img");
    let Partition { start, length, .. } = boot.partition;
    let mut replay = Replay::new(&boot.before, start..start + length)?;
    let mut left = Vec::new();
    let mut all = Cut::default();
    let mut losing = 0;
    for (number, at) in moments(boot, picks)?.into_iter().enumerate() {
        bench.interrupt().check()?;
        let cut = replay.cut_to(&boot.writes, at, picks, &image)?;
        all.in_doubt += cut.in_doubt;
        all.lost += cut.lost;
        losing += usize::from(cut.lost > 0);
        let moment = format!(
            "after {at} of {} entries of the log, {} of {} writes lost or torn",
            boot.writes.len(),
            cut.lost,
            cut.in_doubt
        );
        let acknowledged = acknowledged(&boot.heads, at);
        let dir = dir.join(number.to_string());
        left.push(Left::take(&image, &dir, (at, moment), &boot.lost.session, acknowledged)?);
    }
    fs::remove_file(&image).at("deleting", &image)?;
    let mut most: f64 = 0.0;
    let mut wrong = Vec::new();
    for Kept { left, newest_ms, .. } in must_be_kept(bench, &left, device)? {
        let Some(loss) = boot.loss(left.at, newest_ms) else { continue };
        most = most.max(loss);
        if loss > MOST_LOST {
            wrong.push(format!("{}: the newest head is of {loss:.0} ms before", left.moment));
        }
    }
    all_of(wrong, left.len())?;
    let unbegun = left.iter().filter(|left| left.recording.is_none()).count();
    let figures = format!(
        "{losing} of them with {} of {} writes lost or torn, {unbegun} before the recording had begun; at most {most:.0} ms \
         of a busy session lost",
        all.lost, all.in_doubt
    );
    Ok((left, figures))
}
