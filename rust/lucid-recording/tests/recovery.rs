//! After a power cut, whatever reached the disk: nothing acknowledged is lost, and what is there is sound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use lucid_recording::{
    Error, Found, Limits, Reader, Recovery, Report, Verdict, Writer,
    chunk::{self, Frames},
    statement::Ended,
    verify,
    verify::Options,
};
use support::{
    Files, Kept, SMALL, Sample, Seeded, VIDEO, device, load, other_device, owner, plain, recipients, start,
    store, temp, time,
};

/// Every record of a recording that can be opened.
fn records(dir: &Path) -> Vec<Kept> {
    let reader = Reader::open(dir, &owner(), Some(&device().public())).unwrap();
    let mut all = Vec::new();
    for entry in reader.chunks() {
        let mut records = reader.chunk(entry.index).unwrap();
        while let Some(record) = records.next().unwrap() {
            all.push(Kept {
                stream: record.stream,
                key: record.key,
                mono_us: record.mono_us,
                payload: record.payload.to_vec(),
            });
        }
    }
    all
}

fn check(dir: &Path) -> Report {
    let secret = owner();
    verify(dir, Options { owner: Some(&secret), device: Some(device().public()) }, &mut |_| {}).unwrap()
}

fn recover(dir: &Path) -> lucid_recording::Result<Recovery> {
    Recovery::open(dir, device(), "recovery 1")
}

/// Recovers and ends, or goes on and ends; what was acknowledged is there, and nothing that was not recorded.
fn survives(dir: &Path, acknowledged: usize, all: &[Kept], go_on: bool) -> Found {
    let recovery = recover(dir).unwrap();
    let found = recovery.found();
    let now = recovery.mono_us() + 2_000_000;
    let mut more = Vec::new();
    if go_on {
        let writer =
            recovery.resume(&recipients(), time(now), "power cut", SMALL, Seeded::boxed("on")).unwrap();
        let mut sample = Sample::of(writer, "on", now);
        sample.second(true);
        more = sample.finish().1;
    } else {
        assert_eq!(recovery.finish(time(now), "power cut").unwrap().ended, Ended::Recovered);
    }
    let report = check(dir);
    assert_eq!((report.verdict, &report.findings), (Verdict::Sound, &vec![]), "{report:#?}");
    assert_eq!(report.gaps.len(), 1);
    let kept = records(dir);
    let old = kept.len() - more.len();
    assert!((acknowledged..=all.len()).contains(&old), "{acknowledged} {old} {}", all.len());
    assert_eq!(kept[..old], all[..old]);
    assert_eq!(kept[old..], more);
    assert!(matches!(recover(dir), Err(Error::Finished(_))));
    found
}

/// A recording at one commit and the next, and how many records each acknowledges.
struct Between {
    before: Files,
    after: Files,
    acknowledged: usize,
    all: Vec<Kept>,
}

fn between(scratch: &Path, seed: &str, seconds: usize) -> Between {
    let mut sample = Sample::create(scratch, seed, SMALL);
    for _ in 0..seconds {
        sample.second(true);
        sample.commit();
    }
    let dir = sample.writer.dir().to_owned();
    let before = load(&dir);
    let acknowledged = sample.kept.len();
    sample.second(true);
    sample.commit();
    Between { before, after: load(&dir), acknowledged, all: sample.kept.clone() }
}

/// The chunk that was open at the first commit, and the next one if it was begun.
fn open_chunks(between: &Between) -> (String, Option<String>) {
    let name = |files: &Files| files.keys().rfind(|name| name.starts_with("chunk-")).unwrap().clone();
    let (open, next) = (name(&between.before), name(&between.after));
    (open.clone(), (open != next).then_some(next))
}

#[test]
fn a_power_cut_at_any_byte_between_two_commits_loses_nothing_acknowledged() {
    let temp = temp();
    let dir = temp.path().join("cut");
    let mut cuts = 0;
    let mut tried = [0, 0];
    // With and without a chunk that ends in between.
    for seconds in 1..9 {
        let between = between(temp.path(), &format!("between {seconds}"), seconds);
        let (open, next) = open_chunks(&between);
        let kind = usize::from(next.is_some());
        tried[kind] += 1;
        if tried[kind] > 1 {
            continue;
        }
        let from = between.before[&open].len();
        let to = between.after[&open].len();
        let mut states: Vec<Files> = Vec::new();
        for length in from..=to {
            let mut files = between.before.clone();
            files.insert(open.clone(), between.after[&open][..length].to_vec());
            states.push(files);
        }
        if let Some(next) = &next {
            // A chunk is durable before the next one is begun.
            for length in 0..=between.after[next].len() {
                let mut files = between.before.clone();
                files.insert(open.clone(), between.after[&open].clone());
                files.insert(next.clone(), between.after[next][..length].to_vec());
                states.push(files);
            }
        }
        // And everything of the chunks before anything of the head.
        let heads = between.after["heads.jsonl"].len();
        for length in between.before["heads.jsonl"].len()..heads {
            let mut files = between.after.clone();
            files.get_mut("heads.jsonl").unwrap().truncate(length);
            states.push(files);
        }
        for (number, files) in states.iter().enumerate() {
            store(&dir, files);
            survives(&dir, between.acknowledged, &between.all, number % 5 == 0);
            cuts += 1;
        }
        // With the whole line, everything is acknowledged.
        store(&dir, &between.after);
        survives(&dir, between.all.len(), &between.all, false);
    }
    assert!(tried[0] > 0 && tried[1] > 0 && cuts > 2000, "{tried:?} {cuts}");
}

#[test]
fn bytes_that_a_file_system_left_zero_are_no_records_and_no_heads() {
    let temp = temp();
    let dir = temp.path().join("zero");
    for seconds in [2, 4, 5] {
        let between = between(temp.path(), &format!("zero {seconds}"), seconds);
        let (open, next) = open_chunks(&between);
        for step in 0..40 {
            let mut files = between.before.clone();
            files.insert(open.clone(), between.after[&open].clone());
            let bytes = files.get_mut(&open).unwrap();
            let from = between.before[&open].len();
            let at = from + (bytes.len() - from) * step / 40;
            bytes[at..].fill(0);
            // A file may be longer than anything that was written to it.
            bytes.extend(std::iter::repeat_n(0, step * 100));
            store(&dir, &files);
            let found = survives(&dir, between.acknowledged, &between.all, step % 2 == 0);
            assert!(found.torn_records > 0);
            // Recovery sees a record whose tag was not written; one with a part of its tag only the owner sees.
            let mut frames = Frames::new();
            let mut whole_tag = true;
            while let Some(frame) = frames.next(&between.after[&open]).unwrap() {
                whole_tag &= !(frame.sealed.end - 16 < at && at < frame.sealed.end);
            }
            assert!(!whole_tag || check(&dir).opened.unwrap().torn == 0, "{step}");
        }
        for step in 0..40 {
            let mut files = between.after.clone();
            let from = between.before["heads.jsonl"].len();
            let heads = files.get_mut("heads.jsonl").unwrap();
            let at = from + (heads.len() - from - 1) * step / 40;
            let end = if step % 2 == 0 { heads.len() } else { heads.len() - 1 };
            heads[at..end].fill(0);
            store(&dir, &files);
            let found = survives(&dir, between.acknowledged, &between.all, step % 3 == 0);
            assert!(found.torn_line > 0);
        }
        if let Some(next) = next {
            let mut files = between.before.clone();
            files.insert(open.clone(), between.after[&open].clone());
            files.insert(next, vec![0; 4096]);
            store(&dir, &files);
            survives(&dir, between.acknowledged, &between.all, true);
        }
    }
}

/// A block in the middle of what no head confirmed may be missing, and only the owner's key shows that.
#[test]
fn a_hole_in_what_no_head_confirmed_ends_the_chunk_there() {
    let temp = temp();
    let dir = temp.path().join("hole");
    let between = (1..9)
        .map(|seconds| between(temp.path(), &format!("hole {seconds}"), seconds))
        .find(|between| open_chunks(between).1.is_none())
        .unwrap();
    let (open, _) = open_chunks(&between);
    let from = between.before[&open].len();
    let mut files = between.after.clone();
    files.insert("heads.jsonl".to_owned(), between.before["heads.jsonl"].clone());
    let mut frames = Frames::new();
    let mut unconfirmed = Vec::new();
    while let Some(frame) = frames.next(&files[&open]).unwrap() {
        if frame.sealed.start > from {
            unconfirmed.push(frame.sealed);
        }
    }
    assert!(unconfirmed.len() > 4);
    for (count, sealed) in unconfirmed.iter().enumerate() {
        let mut files = files.clone();
        files.get_mut(&open).unwrap()[sealed.start + 3] ^= 1;
        store(&dir, &files);
        recover(&dir).unwrap().finish(time(60_000_000), "power cut").unwrap();
        let report = check(&dir);
        assert_eq!((report.verdict, report.opened.unwrap().torn), (Verdict::Sound, 1), "{report:#?}");
        assert_eq!(records(&dir), between.all[..between.acknowledged + count]);
    }
}

#[test]
fn a_disk_that_forgot_what_it_had_confirmed_is_told_of() {
    let temp = temp();
    let dir = temp.path().join("forgot");
    let between = between(temp.path(), "forgot", 3);
    let (open, _) = open_chunks(&between);
    let length = between.after[&open].len();
    let missing = [None, Some(0), Some(10), Some(84), Some(500), Some(length - 1)];
    for (case, kept) in missing.into_iter().enumerate() {
        for go_on in [false, true] {
            let mut files = between.after.clone();
            files.get_mut(&open).unwrap().truncate(kept.unwrap_or_default());
            if kept.is_none() {
                files.remove(&open);
            }
            store(&dir, &files);
            let recovery = recover(&dir).unwrap();
            assert!(recovery.found().lost > 0, "{case}");
            let now = time(recovery.mono_us() + 1);
            if go_on {
                let random = Seeded::boxed("on");
                let writer = recovery.resume(&recipients(), now, "power cut", SMALL, random).unwrap();
                let mut sample = Sample::of(writer, "on", now.mono_us);
                sample.second(true);
                sample.finish();
            } else {
                recovery.finish(now, "power cut").unwrap();
            }
            let report = check(&dir);
            let named: Vec<_> = report.findings.iter().map(|finding| finding.file.as_str()).collect();
            assert_eq!((report.verdict, named), (Verdict::Damaged, vec![open.as_str()]), "{report:#?}");
            // What is left can be read.
            let reader = Reader::open(&dir, &owner(), None).unwrap();
            for entry in reader.chunks().iter().filter(|entry| chunk::file_name(entry.index) != open) {
                let mut records = reader.chunk(entry.index).unwrap();
                while records.next().unwrap().is_some() {}
            }
        }
    }
    // Changed, and as long as it was: it is kept as it is, for somebody to judge.
    let mut files = between.after.clone();
    files.get_mut(&open).unwrap()[200] ^= 4;
    store(&dir, &files);
    let recovery = recover(&dir).unwrap();
    assert!(recovery.found().changed);
    recovery.finish(time(60_000_000), "power cut").unwrap();
    assert_eq!(load(&dir)[&open], files[&open]);
    let report = check(&dir);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].file, open);
}

#[test]
fn recovery_can_be_killed_and_begun_again() {
    let temp = temp();
    let dir = temp.path().join("again");
    let between = between(temp.path(), "again", 4);
    let (open, _) = open_chunks(&between);
    let mut files = between.before.clone();
    let torn = (between.before[&open].len() + between.after[&open].len()) / 2;
    files.insert(open.clone(), between.after[&open][..torn].to_vec());
    files.get_mut("heads.jsonl").unwrap().extend_from_slice(b"{\"body\":{\"aud");

    // Before it signed anything, any number of times.
    store(&dir, &files);
    let first = recover(&dir).unwrap().found();
    assert!(first.torn_line > 0);
    let mended = load(&dir);
    let second = recover(&dir).unwrap().found();
    assert_eq!((second.torn_line, second.torn_records), (0, 0));
    assert_eq!(load(&dir), mended);
    survives(&dir, between.acknowledged, &between.all, true);

    // After the new part's key was stored, and before its head.
    store(&dir, &mended);
    let random = Seeded::boxed("killed");
    let killed =
        recover(&dir).unwrap().resume(&recipients(), time(9_000_000), "first", SMALL, random).unwrap();
    drop(killed);
    let begun = load(&dir);
    let mut files = mended.clone();
    files.insert("keys.json".to_owned(), begun["keys.json"].clone());
    files.insert("keys.json.new".to_owned(), b"half".to_vec());
    store(&dir, &files);
    survives(&dir, between.acknowledged, &between.all, true);

    // After the new part's head, of which nothing was written yet: that part is lost as well.
    store(&dir, &begun);
    let recovery = recover(&dir).unwrap();
    let manifest = recovery.finish(time(10_000_000), "second").unwrap();
    assert_eq!((manifest.parts.len(), manifest.gaps.len()), (2, 2));
    assert_eq!(check(&dir).verdict, Verdict::Sound);
    let ended = load(&dir);

    // After the last head, and before the manifest.
    let mut files = ended.clone();
    files.remove("manifest.json");
    files.insert("manifest.json.new".to_owned(), b"{".to_vec());
    store(&dir, &files);
    let manifest = recover(&dir).unwrap().finish(time(11_000_000), "third").unwrap();
    assert_eq!((manifest.ended, manifest.gaps.len()), (Ended::Recovered, 3));
    assert_eq!(check(&dir).verdict, Verdict::Sound);
}

#[test]
fn a_recorder_that_died_at_the_very_end_had_ended() {
    let temp = temp();
    let (dir, kept) = plain(temp.path(), "very end", 5);
    let files = load(&dir);
    let copy = temp.path().join("copy");
    // Everything but the manifest: nothing is missing.
    let mut state = files.clone();
    state.remove("manifest.json");
    store(&copy, &state);
    assert_eq!(check(&copy).verdict, Verdict::Unfinished);
    let recovery = recover(&copy).unwrap();
    assert!(recovery.ended());
    let manifest = recovery.finish(time(0), "late").unwrap();
    assert_eq!((manifest.ended, manifest.gaps.len()), (Ended::Finished, 0));
    assert_eq!(check(&copy).verdict, Verdict::Sound);
    assert_eq!(records(&copy), kept);
    // Without the last head as well: it had ended, but nobody had confirmed the last second.
    let heads = state.get_mut("heads.jsonl").unwrap();
    heads.pop();
    heads.truncate(heads.iter().rposition(|byte| *byte == b'\n').unwrap() + 1);
    store(&copy, &state);
    let recovery = recover(&copy).unwrap();
    assert!(recovery.ended());
    let refused = recovery.resume(&recipients(), time(0), "on", SMALL, Seeded::boxed("on"));
    assert!(matches!(refused, Err(Error::Argument(_))));
    recover(&copy).unwrap().finish(time(0), "late").unwrap();
    assert_eq!(check(&copy).verdict, Verdict::Sound);
    assert_eq!(records(&copy), kept);
}

#[test]
fn what_a_power_cut_does_not_leave_is_not_mended() {
    let temp = temp();
    let dir = temp.path().join("not mended");
    let files = between(temp.path(), "not mended", 5).after;
    let refused = |change: &dyn Fn(&mut Files)| {
        let mut changed = files.clone();
        change(&mut changed);
        store(&dir, &changed);
        let error = recover(&dir).err().unwrap();
        assert_eq!(load(&dir), changed);
        error
    };
    let line = |files: &mut Files, line: usize, by: u8| {
        let heads = files.get_mut("heads.jsonl").unwrap();
        let at = heads.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(line).unwrap().0;
        heads[at - 10] ^= by;
    };
    assert!(matches!(refused(&|files| line(files, 2, 1)), Error::Malformed { .. } | Error::Signature { .. }));
    assert!(matches!(refused(&|files| line(files, 5, 1)), Error::Signature { .. } | Error::Malformed { .. }));
    let changed = refused(&|files| files.get_mut("opening.json").unwrap()[40] ^= 1);
    assert!(matches!(changed, Error::Malformed { .. } | Error::Signature { .. }), "{changed}");
    assert!(matches!(
        refused(&|files| files.get_mut("heads.jsonl").unwrap().extend([b'x'; 100_000])),
        Error::Malformed { .. }
    ));
    store(&dir, &files);
    let other = Recovery::open(&dir, other_device(), "other").err().unwrap();
    assert!(matches!(other, Error::Signature { .. }), "{other}");
    // Before its first head, there is no recording.
    for gone in ["opening.json", "heads.jsonl"] {
        let error = refused(&|files| files.remove(gone).map(drop).unwrap());
        assert!(matches!(error, Error::NotARecording { .. }), "{error}");
    }
    let error = refused(&|files| files.get_mut("heads.jsonl").unwrap().clear());
    assert!(matches!(error, Error::NotARecording { .. }), "{error}");
}

#[test]
fn a_file_that_is_named_like_the_next_chunk_is_set_aside() {
    let temp = temp();
    let (other, _) = plain(temp.path(), "foreign other", 4);
    let dir = temp.path().join("foreign");
    let between = between(temp.path(), "foreign", 4);
    let chunks = between.before.keys().filter(|name| name.starts_with("chunk-")).count() as u32;
    let next = chunk::file_name(chunks);
    let mut files = between.before.clone();
    files.insert(next.clone(), load(&other)["chunk-000001"].clone());
    store(&dir, &files);
    let found = survives(&dir, between.acknowledged, &between.all, true);
    assert_eq!(found.foreign, 1);
    assert_eq!(load(&dir)[&format!("foreign-0-{next}")], files[&next]);
}

/// Two pasts that the same device signed, as after its disk was put back to an earlier state, make no third one.
#[test]
fn lines_of_two_pasts_do_not_make_one() {
    let temp = temp();
    let dir = temp.path().join("pasts");
    let state = between(temp.path(), "pasts", 3).before;
    let past = |reason: &str| {
        store(&dir, &state);
        let recovery = recover(&dir).unwrap();
        let now = recovery.mono_us() + 1_000_000;
        // The same keys and contents, so that nothing but one line tells them apart.
        let random = Seeded::boxed("pasts");
        let writer = recovery.resume(&recipients(), time(now), reason, SMALL, random).unwrap();
        let mut sample = Sample::of(writer, "pasts", now);
        for _ in 0..3 {
            sample.second(true);
            sample.commit();
        }
        sample.finish();
        assert_eq!(check(&dir).verdict, Verdict::Sound);
        load(&dir)
    };
    let (one, other) = (past("one"), past("other"));
    let lines = |files: &Files| -> Vec<Vec<u8>> {
        files["heads.jsonl"].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (one_lines, mut both) = (lines(&one), lines(&other));
    let fork = one_lines.iter().zip(&both).position(|(a, b)| a != b).unwrap();
    both[fork] = one_lines[fork].clone();
    let mut files = other.clone();
    files.insert("heads.jsonl".to_owned(), both.concat());
    store(&dir, &files);
    let report = check(&dir);
    let first = &report.findings[0];
    assert_eq!((first.file.as_str(), first.line), ("heads.jsonl", Some(fork as u64 + 2)), "{report:#?}");
}

#[test]
fn only_one_writes() {
    let temp = temp();
    let mut sample = Sample::create(temp.path(), "one writes", SMALL);
    sample.second(true);
    sample.commit();
    let dir = sample.writer.dir().to_owned();
    assert!(matches!(recover(&dir), Err(Error::Busy(_))));
    drop(sample);
    let recovery = recover(&dir).unwrap();
    assert!(matches!(recover(&dir), Err(Error::Busy(_))));
    drop(recovery);
    recover(&dir).unwrap();
}

#[test]
fn a_clock_that_jumped_back_does_not_make_time_go_back() {
    let temp = temp();
    let mut sample = Sample::create(temp.path(), "clock", SMALL);
    for _ in 0..3 {
        sample.second(true);
        sample.commit();
    }
    let dir = sample.writer.dir().to_owned();
    let last = sample.mono_us;
    drop(sample);
    let recovery = recover(&dir).unwrap();
    assert_eq!(recovery.mono_us(), last);
    let writer = recovery.resume(&recipients(), time(5), "clock", SMALL, Seeded::boxed("clock")).unwrap();
    let mut sample = Sample::of(writer, "clock", last);
    sample.second(true);
    sample.finish();
    let report = check(&dir);
    assert_eq!((report.verdict, report.gaps[0].from_us, report.gaps[0].to_us), (Verdict::Sound, last, last));
}

/// How often the process is killed.
const KILLS: usize = 25;
const CHILD: &str = "LUCID_RECORDING_TEST_CHILD";

/// The process that is killed: records, and says what is acknowledged.
#[test]
fn killed_at_any_moment_a_recorder_loses_nothing_acknowledged() {
    if let Some(parent) = std::env::var_os(CHILD) {
        return child(Path::new(&parent));
    }
    let temp = tempfile::tempdir().unwrap();
    let mut random = Seeded::new("kills");
    let mut acknowledged_in_all = 0;
    for round in 0..KILLS {
        let parent = temp.path().join(round.to_string());
        fs::create_dir(&parent).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed_at_any_moment_a_recorder_loses_nothing_acknowledged", "--exact", "--nocapture"])
            .env(CHILD, &parent)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Some commits, and then any moment after that.
        let wait = 1 + random.below(8);
        let mut acknowledged = 0;
        let count = |line: String| line.split("acknowledged ").nth(1).and_then(|count| count.parse().ok());
        for _ in 0..wait {
            acknowledged = lines.by_ref().find_map(|line| count(line.unwrap())).unwrap();
        }
        std::thread::sleep(Duration::from_micros(random.below(6000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died counts as well.
        for line in lines.map_while(Result::ok) {
            acknowledged = count(line).unwrap_or(acknowledged);
        }
        let dir = parent.join(start("killed").session.to_string());
        recover(&dir).unwrap().finish(time(3_600_000_000), "killed").unwrap();
        let report = check(&dir);
        assert_eq!((report.verdict, &report.findings), (Verdict::Sound, &vec![]), "{report:#?}");
        let kept = records(&dir);
        assert!(kept.len() >= acknowledged, "{} of {acknowledged}", kept.len());
        for (number, record) in kept.iter().enumerate() {
            assert_eq!(record.payload, payload(number));
        }
        acknowledged_in_all += acknowledged;
    }
    assert!(acknowledged_in_all > KILLS * 100);
}

fn payload(number: usize) -> Vec<u8> {
    let mut random = Seeded::new(&format!("payload {number}"));
    let size = random.below(9000);
    random.bytes(size)
}

fn child(parent: &Path) {
    let limits = Limits { soft: 300 << 10, hard: 400 << 10 };
    let mut writer = Writer::create(
        parent,
        start("killed"),
        time(0),
        &recipients(),
        device(),
        limits,
        Seeded::boxed("killed"),
    )
    .unwrap();
    for number in 0.. {
        let now = time(number as u64 * 1000);
        let key = number == 0 || writer.wants_key();
        writer.append(VIDEO, now, key, &payload(number)).unwrap();
        if number % 100 == 99 {
            writer.commit(now, None).unwrap();
            println!("acknowledged {}", number + 1);
        }
    }
}
