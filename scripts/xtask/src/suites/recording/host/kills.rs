//! Programs that are killed at random moments of sessions: each recording is whole, all that was confirmed is in it, no
//! more than a second before a kill is missing, and a gap says so.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{House, wall_ms};
use crate::{
    client::{Client, Generation, Mode, Screen},
    error::{At, Error, Result},
    suite::{Picks, Report},
};

/// How often each program is killed; `LUCID_KILLS` in the environment says otherwise.
const KILLS: usize = 20;
/// So many kills come in one session, or so many recordings are verified together.
const BATCH: usize = 25;
/// The most that may be lost: a second, and the moment in which it was noticed.
const LOST_MS: u64 = 1500;
/// A kill comes within so many milliseconds after what it waits for.
const WITHIN_MS: u64 = 1500;
/// The recorder is killed so soon again when it is to be taking its recording up.
const AGAIN_MS: u64 = 300;
/// A recording with so many heads has pictures in it.
const PICTURES: usize = 3;

/// FreeRDP 3 leaves a file system for pasted files behind when it is killed, unless it has no clipboard.
static MODE: Mode = Mode {
    client: Generation::Three,
    security: "nla",
    codec: "AVC420",
    options: &["/gfx:AVC420", "-clipboard"],
    tolerance: 2,
    size: (1280, 720),
};

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Recorder,
    Rdp,
    Desktop,
}

/// Runs the checks.
pub(super) fn check(house: &mut House, report: &mut Report) -> Result<()> {
    let kills = match env::var("LUCID_KILLS") {
        Ok(text) => {
            text.parse().map_err(|_| Error::CannotCheck(format!("LUCID_KILLS is {text}: no number")))?
        }
        Err(_) => KILLS,
    };
    for (victim, name, property) in [
        (Victim::Recorder, "lucid-sessiond", "loses nothing it confirmed"),
        (Victim::Rdp, "lucid-rdp", "leaves recordings that hold"),
        (Victim::Desktop, "lucid-desktop or its compositor", "leaves recordings that hold"),
    ] {
        report.check(format!("host: {name} killed at {kills} moments of sessions {property}"), || {
            house.kills(victim, kills)
        });
        house.place.interrupt.check()?;
    }
    Ok(())
}

/// A line of `heads.jsonl`.
struct Head {
    line: Vec<u8>,
    mono_us: u64,
    wall_ms: u64,
    /// From when to when something may be missing, in microseconds of the session.
    gap: Option<(u64, u64)>,
    /// The chunk that is being written, and how much of it is confirmed.
    open: Option<(u64, u64)>,
}

impl Head {
    fn new(line: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(line).map_err(|error| Error::talk("heads.jsonl", error))?;
        let body = &value["body"];
        let number = |value: &Value| {
            value.as_u64().ok_or_else(|| Error::talk("heads.jsonl", format!("no number in {body}")))
        };
        let both = |value: &Value, first: &str, second: &str| {
            let there = value.is_object();
            there.then(|| Ok((number(&value[first])?, number(&value[second])?))).transpose()
        };
        Ok(Self {
            line: line.to_owned(),
            mono_us: number(&body["mono_us"])?,
            wall_ms: number(&body["wall_ms"])?,
            gap: both(&body["gap"], "from_us", "to_us")?,
            open: both(&body["open"], "index", "length")?,
        })
    }

    /// All whole ones of a recording, none if it has not begun. What a write was cut off at is not confirmed.
    fn all(recording: &Path) -> Result<Vec<Self>> {
        let bytes = bytes_of(&recording.join("heads.jsonl"))?;
        bytes
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_suffix(b"\n"))
            .map(Self::new)
            .collect()
    }
}

/// What is in a file; nothing, if there is none.
fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.at("reading", path),
    }
}

/// How many lines of heads a recording has.
fn heads(recording: &Path) -> Result<usize> {
    Ok(bytes_of(&recording.join("heads.jsonl"))?.iter().filter(|byte| **byte == b'\n').count())
}

/// A recording at the moment of a kill.
struct Cut {
    at_ms: u64,
    heads: Vec<Head>,
    /// A chunk's file, how much of it was confirmed, and the hash of that.
    open: Option<(PathBuf, usize, blake3::Hash)>,
}

impl Cut {
    /// Looks at a recording after a kill at that time.
    fn look(recording: &Path, at_ms: u64) -> Result<Self> {
        let heads = Head::all(recording)?;
        let mut open = None;
        if let Some((index, length)) = heads.last().and_then(|head| head.open) {
            let path = recording.join(format!("chunk-{index:06}"));
            let length = usize::try_from(length).map_err(|error| Error::talk("heads.jsonl", error))?;
            open = Some((path.clone(), length, hash(&path, length)?));
        }
        Ok(Self { at_ms, heads, open })
    }

    /// Holds the recording at its end to what it was. `paused` says that nothing had been shown since the kill before.
    fn check(&self, victim: Victim, recording: &Path, at_end: &[Head], paused: bool) -> Result<Seen> {
        let broken = |why: String| {
            Error::broken(format!("killed at {} ms, {}: {why}", self.at_ms, recording.display()))
        };
        let confirmed = self.heads.len();
        let kept = self.heads.iter().zip(at_end).take_while(|(then, now)| then.line == now.line).count();
        if kept != confirmed {
            return Err(broken(format!("{kept} of {confirmed} confirmed heads are still there")));
        }
        if let Some((path, length, content)) = &self.open
            && hash(path, *length)? != *content
        {
            return Err(broken(format!("{length} confirmed bytes of {} have changed", path.display())));
        }
        // Up to there it is without a gap.
        let mut whole = at_end.len();
        let mut back_ms = 0;
        // Where the desktop has gone, the session ends as any other.
        if victim != Victim::Desktop {
            let from = confirmed.max(1);
            let gap = at_end.iter().enumerate().skip(from).find_map(|(at, head)| Some((at, head, head.gap?)));
            let Some((at, head, (from_us, to_us))) = gap else {
                return Err(broken("no gap is marked after it".to_owned()));
            };
            // Whoever was not killed may have confirmed more meanwhile.
            if victim == Victim::Recorder && at != confirmed {
                return Err(broken(format!("heads {confirmed} to {at} come after it and before its gap")));
            }
            let until_us = at_end.get(at - 1).map_or(0, |head| head.mono_us);
            if from_us != until_us || to_us < from_us {
                return Err(broken(format!(
                    "the gap is from {from_us} to {to_us} us, and up to {until_us} us was confirmed"
                )));
            }
            let after = head.wall_ms.checked_sub(self.at_ms);
            back_ms =
                after.ok_or_else(|| broken(format!("its gap ends before it, at {} ms", head.wall_ms)))?;
            whole = at;
        }
        let last_ms = whole.checked_sub(1).and_then(|last| at_end.get(last)).map(|head| head.wall_ms);
        let last_ms = last_ms.ok_or_else(|| broken("it has no heads".to_owned()))?;
        let missing_ms = if paused { 0 } else { self.at_ms.saturating_sub(last_ms) };
        if missing_ms > LOST_MS {
            return Err(broken(format!("{missing_ms} ms before the kill are missing")));
        }
        Ok(Seen { missing_ms, back_ms })
    }
}

/// The hash of a file's first bytes.
fn hash(path: &Path, length: usize) -> Result<blake3::Hash> {
    let bytes = bytes_of(path)?;
    let confirmed = bytes.get(..length);
    let confirmed = confirmed.ok_or_else(|| {
        Error::broken(format!("{} has {} of {length} confirmed bytes", path.display(), bytes.len()))
    })?;
    Ok(blake3::hash(confirmed))
}

/// What a kill has done to a recording.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// How much before it is missing.
    missing_ms: u64,
    /// When it went on.
    back_ms: u64,
}

/// What was seen of all kills.
#[derive(Default)]
struct Tally {
    kills: usize,
    /// Of them, those that came before there was anything new to lose.
    early: usize,
    recordings: usize,
    records: u64,
    gaps: usize,
    seen: Seen,
}

impl Tally {
    fn add(&mut self, seen: Seen) {
        self.seen.missing_ms = self.seen.missing_ms.max(seen.missing_ms);
        self.seen.back_ms = self.seen.back_ms.max(seen.back_ms);
    }

    fn add_reports(&mut self, reports: &[Value]) {
        self.recordings += reports.len();
        for report in reports {
            self.records += report["opened"]["records"].as_u64().unwrap_or_default();
            self.gaps += report["gaps"].as_array().map_or(0, Vec::len);
        }
    }

    fn describe(&self, victim: Victim) -> String {
        let Self { kills, early, recordings, records, gaps, seen: Seen { missing_ms, back_ms } } = self;
        let (early, missing) = match victim {
            Victim::Recorder => (
                format!("{early} before it had gone on"),
                format!(
                    "; at most {missing_ms} ms before a kill missing, on again after at most {back_ms} ms"
                ),
            ),
            // The recorder has seen them end, so its own last word says nothing of what did not reach it.
            Victim::Rdp | Victim::Desktop => (format!("{early} before anything was shown"), String::new()),
        };
        format!(
            "{kills} kills, {early}; {recordings} recordings with {records} records, {gaps} gaps{missing}"
        )
    }
}

impl House<'_> {
    fn kills(&mut self, victim: Victim, kills: usize) -> Result<String> {
        // Something changes all the time, from the desktop's first moment on.
        let busy = self.dir.join("home/.bashrc");
        fs::write(&busy, "while date +%N; do sleep 0.05; done &\n").at("writing", &busy)?;
        let (mut picks, mut tally) = (Picks::new(11), Tally::default());
        let outcome = self.kill_all(victim, kills, &mut picks, &mut tally);
        fs::remove_file(&busy).at("removing", &busy)?;
        outcome.map_err(|error| Error::broken(format!("{error}\nuntil then: {}", tally.describe(victim))))?;
        Ok(tally.describe(victim))
    }

    fn kill_all(&mut self, victim: Victim, kills: usize, picks: &mut Picks, tally: &mut Tally) -> Result<()> {
        let mut screen = Screen::start(&self.dir.join("client-killed"), MODE.size, self.place.interrupt)?;
        let mut left = kills;
        while left > 0 {
            let batch = left.min(BATCH);
            left -= batch;
            self.forget()?;
            screen = match victim {
                Victim::Recorder => self.kill_recorder(screen, batch, picks, tally)?,
                Victim::Rdp | Victim::Desktop => self.kill_sessions(victim, screen, batch, picks, tally)?,
            };
        }
        self.forget()
    }

    fn connect(&self, screen: Screen) -> Result<Client> {
        let command = MODE.client.command(&self.place)?;
        Client::start_in(screen, command, &MODE, &self.login, "127.0.0.1", &[])
    }

    /// Waits until a recording that is not among `known` has pictures in it.
    fn wait_pictures(&self, client: &mut Client, known: &[PathBuf]) -> Result<PathBuf> {
        self.place.interrupt.wait_for("the recording of a session", self.bound, || {
            client.must_run()?;
            client.accept(&client.screen.picture()?)?;
            for recording in self.all()? {
                if !known.contains(&recording) && heads(&recording)? >= PICTURES {
                    return Ok(Some(recording));
                }
            }
            Ok(None)
        })
    }

    /// Kills the recorder again and again in one session, which waits for it each time and goes on.
    fn kill_recorder(
        &mut self,
        screen: Screen,
        kills: usize,
        picks: &mut Picks,
        tally: &mut Tally,
    ) -> Result<Screen> {
        let mut client = self.connect(screen)?;
        let recording = self.wait_pictures(&mut client, &[])?;
        let mut cuts: Vec<Cut> = Vec::new();
        let mut within = WITHIN_MS;
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(picks.below(within)));
            client.must_run()?;
            let at_ms = wall_ms()?;
            if let Some(mut recorder) = self.recorder.take() {
                recorder.must_run("recording")?;
                recorder.kill();
            }
            let cut = Cut::look(&recording, at_ms)?;
            tally.kills += 1;
            let confirmed = cut.heads.len();
            cuts.push(cut);
            // Some come while it starts, recovers what there is, or takes the session up again.
            if picks.below(4) == 0 {
                self.recorder = Some(self.spawn_recorder()?);
                within = AGAIN_MS;
            } else {
                self.start_recorder()?;
                self.wait_growth(&mut client, &recording, confirmed)?;
                within = WITHIN_MS;
            }
        }
        // Whatever the last one met, the session goes on and takes its user's keys.
        let confirmed = cuts.last().map_or(0, |cut| cut.heads.len());
        self.wait_growth(&mut client, &recording, confirmed + PICTURES - 1)?;
        client.screen.point_to_the_middle()?;
        client.screen.type_text("swaymsg exit")?;
        client.screen.key("Return")?;
        if !client.ends_within(self.bound)? {
            return Err(Error::broken(format!("the session does not go on: {}", recording.display())));
        }
        tally.add_reports(&self.proved()?);
        let at_end = Head::all(&self.only()?)?;
        let mut before = 0;
        for cut in &cuts {
            let paused = cut.heads.len() == before;
            before = cut.heads.len();
            tally.early += usize::from(paused);
            tally.add(cut.check(Victim::Recorder, &recording, &at_end, paused)?);
        }
        Ok(client.into_screen())
    }

    /// Waits until a recording has more heads than so many.
    fn wait_growth(&self, client: &mut Client, recording: &Path, than: usize) -> Result<()> {
        self.place.interrupt.wait_for("a recording to go on", self.bound, || {
            client.must_run()?;
            Ok((heads(recording)? > than).then_some(()))
        })
    }

    /// Kills what ends a session, again and again; the recordings are looked at together.
    fn kill_sessions(
        &mut self,
        victim: Victim,
        mut screen: Screen,
        kills: usize,
        picks: &mut Picks,
        tally: &mut Tally,
    ) -> Result<Screen> {
        // The recordings of each kill, and those of all before.
        let mut killed: Vec<BTreeMap<PathBuf, Cut>> = Vec::new();
        let mut known = Vec::new();
        for _ in 0..kills {
            let mut client = self.connect(screen)?;
            // Some come while the client connects.
            let shown = picks.below(4) > 0;
            if shown {
                self.wait_pictures(&mut client, &known)?;
            }
            thread::sleep(Duration::from_millis(picks.below(WITHIN_MS)));
            let at_ms = wall_ms()?;
            let mut cuts = BTreeMap::new();
            if victim == Victim::Desktop {
                self.kill_desktop(picks)?;
            } else if let Some(mut service) = self.rdp.take() {
                service.must_run("serving RDP")?;
                service.kill();
            }
            for recording in self.all()?.into_iter().filter(|recording| !known.contains(recording)) {
                let cut = Cut::look(&recording, at_ms)?;
                cuts.insert(recording, cut);
            }
            if victim == Victim::Rdp {
                self.start_rdp()?;
            }
            tally.kills += 1;
            killed.push(cuts);
            if shown && victim == Victim::Desktop && !client.ends_within(self.bound)? {
                return Err(Error::broken("a client stays though its desktop is gone"));
            }
            screen = client.into_screen();
            if !shown {
                // It may have met nothing: a client that came a little later has a session.
                drop(self.rdp.take());
                self.start_rdp()?;
            }
            known = self.all()?;
        }
        tally.add_reports(&self.proved()?);
        for cuts in killed {
            tally.early += usize::from(cuts.values().all(|cut| cut.heads.len() < PICTURES));
            for (recording, cut) in cuts {
                tally.add(cut.check(victim, &recording, &Head::all(&recording)?, false)?);
            }
        }
        Ok(screen)
    }

    /// Kills the service that starts desktops, the process that keeps this one, or its compositor, and has the service
    /// there again.
    fn kill_desktop(&mut self, picks: &mut Picks) -> Result<()> {
        let Some(mut service) = self.desktop.take() else {
            return Err(Error::broken("no desktop is served"));
        };
        service.must_run("serving desktops")?;
        let keeper = children(service.id())?.last().copied();
        let compositor = match keeper {
            // There is sound as well, without which a desktop goes on.
            Some(keeper) => children(keeper)?.into_iter().find(|process| {
                fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim() == "sway")
            }),
            None => None,
        };
        let of_desktop = match picks.below(3) {
            0 => None,
            1 => keeper,
            _ => compositor,
        };
        match of_desktop {
            Some(process) => {
                let process = i32::try_from(process).ok().and_then(Pid::from_raw);
                let process = process.ok_or_else(|| Error::broken("a process has no number"))?;
                match kill_process(process, Signal::KILL) {
                    // It went by itself.
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(Error::talk("a desktop's process", error)),
                }
                self.desktop = Some(service);
                Ok(())
            }
            None => {
                service.kill();
                self.start_desktop()
            }
        }
    }
}

/// The processes that a process has started; none, when it is gone.
fn children(process: u32) -> Result<Vec<u32>> {
    let path = PathBuf::from(format!("/proc/{process}/task/{process}/children"));
    let text = String::from_utf8_lossy(&bytes_of(&path)?).into_owned();
    text.split_whitespace().map(|word| word.parse().map_err(|error| Error::talk("/proc", error))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head of a session that began at 0; each line is another one.
    fn head(at_ms: u64, gap: Option<(u64, u64)>) -> Head {
        let line = format!("{at_ms} {gap:?}").into_bytes();
        let gap = gap.map(|(from, to)| (from * 1000, to * 1000));
        Head { line, mono_us: at_ms * 1000, wall_ms: at_ms, gap, open: None }
    }

    fn seen(victim: Victim, at_ms: u64, then: &[u64], now: &[Head], paused: bool) -> Result<(u64, u64)> {
        let heads = then.iter().map(|at| head(*at, None)).collect();
        let cut = Cut { at_ms, heads, open: None };
        let seen = cut.check(victim, Path::new("recording"), now, paused)?;
        Ok((seen.missing_ms, seen.back_ms))
    }

    #[test]
    fn a_recorder_that_was_killed_leaves_a_gap_from_what_it_confirmed_to_when_it_is_back() {
        let now = [head(0, None), head(900, None), head(1800, Some((900, 1800))), head(2500, None)];
        let check = |at, then: &[u64]| seen(Victim::Recorder, at, then, &now, false);
        assert_eq!(check(1500, &[0, 900]).unwrap(), (600, 300));
        // It lies before the gap; a head is gone; one came in between.
        assert!(check(1801, &[0, 900]).is_err());
        assert!(check(1500, &[0, 900, 1200]).is_err());
        assert!(check(1500, &[0]).is_err());
        // No gap follows.
        assert!(check(3000, &[0, 900]).is_err());
        assert!(seen(Victim::Recorder, 1500, &[0, 900], &now[..2], false).is_err());
        // What was confirmed is in the gap, or what was not is outside.
        for from in [899, 901] {
            let now = [head(0, None), head(900, None), head(1800, Some((from, 1800)))];
            assert!(seen(Victim::Recorder, 1500, &[0, 900], &now, false).is_err());
        }
    }

    #[test]
    fn more_than_a_second_is_missing_only_where_nothing_was_shown() {
        let now = [head(0, None), head(900, None), head(5000, Some((900, 5000)))];
        for victim in [Victim::Recorder, Victim::Rdp] {
            assert!(seen(victim, 2400, &[0, 900], &now, false).is_ok());
            assert!(seen(victim, 2401, &[0, 900], &now, false).is_err());
            assert_eq!(seen(victim, 4000, &[0, 900], &now, true).unwrap(), (0, 1000));
        }
    }

    #[test]
    fn a_session_whose_desktop_was_killed_is_recorded_to_its_end() {
        let now = [head(0, None), head(900, None), head(2000, None)];
        assert_eq!(seen(Victim::Desktop, 1000, &[0, 900], &now, false).unwrap(), (0, 0));
        assert_eq!(seen(Victim::Desktop, 1000, &[0, 900], &now[..2], false).unwrap(), (100, 0));
        assert!(seen(Victim::Desktop, 2401, &[0, 900], &now[..2], false).is_err());
        assert!(seen(Victim::Desktop, 1000, &[], &[], false).is_err());
    }

    #[test]
    fn confirmed_bytes_that_have_changed_are_found_and_a_line_that_was_cut_off_is_not_confirmed() {
        let dir = env::temp_dir().join(format!("xtask-kills-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let line = |at: u64| {
            format!(
                r#"{{"body":{{"gap":null,"mono_us":{at}000,"open":{{"index":7,"length":4}},"wall_ms":{at}}}}}"#
            )
        };
        fs::write(dir.join("heads.jsonl"), format!("{}\n{}\n{{\"body\"", line(1), line(2))).unwrap();
        fs::write(dir.join("chunk-000007"), "abcdef").unwrap();
        let cut = Cut::look(&dir, 2).unwrap();
        assert_eq!((cut.heads.len(), heads(&dir).unwrap()), (2, 2));
        let check = || cut.check(Victim::Desktop, &dir, &Head::all(&dir).unwrap(), false).is_ok();
        // Only what was confirmed has to stay.
        fs::write(dir.join("chunk-000007"), "abcdxyz").unwrap();
        assert!(check());
        for changed in ["abcx", "abc"] {
            fs::write(dir.join("chunk-000007"), changed).unwrap();
            assert!(!check());
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
