//! How fast recordings are made and verified, for `scripts/bench recording`: each call prints one line of JSON.
//!
//! `sealing input DIR`: makes what is recorded: `video` (512 MiB that do not compress) and `events` (64 MiB of lines).
//! `sealing parts DIR`: the parts of sealing, each alone, and the writer, in turns; the median of some rounds of each.
//! `sealing write INPUT DIR [MIB]`: records the input, or so many MiB of it, and says how much memory that took.
//! `sealing verify DIR`: verifies what `write` made; `sealing verify DIR key` opens every record as well.
//! `sealing seek DIR`: how long it takes from opening a recording to the first record of its middle.
//!
//! CPU is this thread's, in seconds: that it waits for the disk is not in it.

#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use chacha20::{R20, hchacha};
use lucid_recording::{
    Hex, Limits, OwnerSecret, Reader, Recipient, Role, SessionId, SigningKey, Start, Time, Verdict, Writer,
    statement::{Compression, Participant, Stream},
    system_random, verify,
    verify::Options,
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustix::time::{ClockId, clock_gettime};

/// A record: a part of a film's key, or some hundred tiles.
const RECORD: usize = 64 << 10;
/// Audit lines come by so many.
const LINES: usize = 16 << 10;
const VIDEO_MIB: usize = 512;
const EVENTS_MIB: usize = 64;
/// How much each part handles in a round, and how many rounds there are.
const PART: usize = 256 << 20;
const ROUNDS: usize = 7;
/// So much of a session is a second of it.
const SECOND: usize = 32 << 20;
const OWNER: [u8; 32] = [0x0a; 32];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let line = match words.as_slice() {
        ["input", dir] => input(Path::new(dir)),
        ["parts", dir] => parts(Path::new(dir)),
        ["write", input, dir] => write(Path::new(input), Path::new(dir), usize::MAX),
        ["write", input, dir, mib] => {
            write(Path::new(input), Path::new(dir), mib.parse().expect("a number of MiB"))
        }
        ["verify", dir] => verification(Path::new(dir), false),
        ["verify", dir, "key"] => verification(Path::new(dir), true),
        ["seek", dir] => seek(Path::new(dir)),
        _ => {
            eprintln!("what can be measured stands at the head of sealing.rs");
            std::process::exit(2);
        }
    };
    println!("{line}");
}

/// Wall and CPU.
#[derive(Clone, Copy)]
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    fn stop(self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), cpu() - self.1)
    }
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn input(dir: &Path) -> String {
    fs::create_dir_all(dir).expect("a directory");
    let mut bytes = vec![0; 1 << 20];
    let mut video = File::create(dir.join("video")).expect("a file");
    let mut noise = blake3::Hasher::new().finalize_xof();
    for _ in 0..VIDEO_MIB {
        noise.fill(&mut bytes);
        video.write_all(&bytes).expect("room");
    }
    let mut events = File::create(dir.join("events")).expect("a file");
    let (mut text, mut number) = (String::new(), 0_u64);
    for _ in 0..EVENTS_MIB {
        while text.len() < 1 << 20 {
            let hash = blake3::hash(&number.to_le_bytes()).to_hex();
            text += &format!(
                r#"{{"actor":"client","data":{{"app_id":"foot","title":"~/notes/{}"}},"kind":"focus","mono_us":{},"outcome":"allowed","previous":"{hash}","resource":"desktop","sequence":{number},"version":1}}"#,
                number % 977,
                number * 731_003,
            );
            text.push('\n');
            number += 1;
        }
        let rest = text.split_off(1 << 20);
        events.write_all(text.as_bytes()).expect("room");
        text = rest;
    }
    format!(r#"{{"video":{},"events":{}}}"#, VIDEO_MIB << 20, EVENTS_MIB << 20)
}

/// Bytes a second of CPU, of the median round.
fn parts(dir: &Path) -> String {
    let key = hchacha::<R20>(&[7; 32].into(), &[9; 16].into());
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("a key"));
    let mut record = vec![0x5a; RECORD];
    let mut rates: [Vec<f64>; 5] = Default::default();
    fs::create_dir_all(dir).expect("a directory");
    for round in 0..ROUNDS {
        let mut note = |at: usize, bytes: usize, clock: Clock| {
            rates[at].push(bytes as f64 / clock.stop().1);
        };
        let clock = Clock::start();
        for number in 0..PART / RECORD {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&(number as u64).to_le_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from([0; 46]), &mut record).expect("a seal");
            std::hint::black_box(&tag);
        }
        note(0, PART, clock);

        let clock = Clock::start();
        let mut hasher = blake3::Hasher::new();
        for _ in 0..PART / RECORD {
            hasher.update(&record);
        }
        std::hint::black_box(hasher.finalize());
        note(1, PART, clock);

        let path = |number| dir.join(format!("part-{number}"));
        // As large as the writer's chunks.
        let chunk = usize::try_from(Limits::default().soft).expect("a size");
        let files = 0..PART / chunk;
        let clock = Clock::start();
        for number in files.clone() {
            let mut file = File::create(path(number)).expect("a file");
            for _ in 0..chunk / RECORD {
                file.write_all(&record).expect("room");
            }
            file.sync_data().expect("a disk");
        }
        note(2, PART, clock);
        files.for_each(|number| fs::remove_file(path(number)).expect("the file"));

        let lines = fs::read(dir.join("input/events")).expect("the input");
        let mut compressor = zstd::bulk::Compressor::new(3).expect("a compressor");
        let clock = Clock::start();
        for lines in lines.chunks(LINES) {
            std::hint::black_box(compressor.compress(lines).expect("room"));
        }
        note(3, lines.len(), clock);
        drop(lines);

        // What the session sends lies in memory, and no longer than a moment.
        let mut writer = writer(dir, round as u8 + 100);
        let mut time = Time { mono_us: 0, wall_ms: 0 };
        let clock = Clock::start();
        for number in 0..PART / RECORD {
            writer.append(1, time, number % 64 == 0, &record).expect("a record");
            if number % (SECOND / RECORD) == 0 {
                time.mono_us += 1_000_000;
                writer.commit(time, None).expect("a commit");
            }
        }
        let made = writer.dir().to_owned();
        writer.finish(time, None).expect("an end");
        note(4, PART, clock);
        fs::remove_dir_all(made).expect("the recording");
    }
    let [seal, hash, write, zstd, writer] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    format!(r#"{{"seal":{seal},"hash":{hash},"write":{write},"zstd":{zstd},"writer":{writer}}}"#)
}

fn owner() -> OwnerSecret {
    OwnerSecret::from_bytes(OWNER)
}

fn writer(parent: &Path, number: u8) -> Writer {
    let mut session = [number; 16];
    session[6] = 0x40 | session[6] & 0x0f;
    session[8] = 0x80 | session[8] & 0x3f;
    let stream = |id, name: &str, compression| Stream { compression, id, name: name.to_owned() };
    let device = SigningKey::from_seed(&[3; 32]).expect("a key");
    let start = Start {
        session: SessionId::new(session).expect("an id"),
        codec: "none".to_owned(),
        consent: None,
        snapshot: None,
        participants: vec![Participant {
            key: device.public(),
            name: "bench".to_owned(),
            role: "user".to_owned(),
        }],
        policy: Hex([0; 32]),
        recorder: "sealing".to_owned(),
        streams: vec![stream(1, "video", Compression::None), stream(2, "audit", Compression::Zstd)],
    };
    let recipients = [Recipient { key: owner().public().expect("a key"), role: Role::Owner }];
    let time = Time { mono_us: 0, wall_ms: 0 };
    fs::create_dir_all(parent).expect("a directory");
    Writer::create(parent, start, time, &recipients, device, Limits::default(), system_random())
        .expect("a recording")
}

/// Records the input: some video, some events, in turns.
fn write(input: &Path, dir: &Path, mib: usize) -> String {
    let open = |name: &str| File::open(input.join(name)).expect("the input");
    let (mut video, mut events) = (open("video"), open("events"));
    let (mut record, mut lines) = (vec![0; RECORD], vec![0; LINES]);
    let most = mib.saturating_mul(1 << 20);
    let (mut bytes, mut since, mut number) = (0, 0, 0_u64);
    let clock = Clock::start();
    let mut writer = writer(dir, 1);
    let mut time = Time { mono_us: 0, wall_ms: 0 };
    while bytes < most {
        let (some, more) = (video.read(&mut record).expect("bytes"), events.read(&mut lines).expect("bytes"));
        if some + more == 0 {
            break;
        }
        if more > 0 {
            writer.append(2, time, false, &lines[..more]).expect("a record");
        }
        if some > 0 {
            writer.append(1, time, number % 64 == 0, &record[..some]).expect("a record");
        }
        number += 1;
        bytes += some + more;
        since += some + more;
        time.mono_us += 1000;
        if since >= SECOND {
            since = 0;
            writer.commit(time, None).expect("a commit");
        }
    }
    let made = writer.dir().to_owned();
    writer.finish(time, None).expect("an end");
    let (wall, cpu) = clock.stop();
    let kept: u64 =
        fs::read_dir(&made).expect("it").map(|file| file.expect("it").metadata().expect("it").len()).sum();
    let status = fs::read_to_string("/proc/self/status").expect("what the kernel says of this process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak = peak.expect("the most memory").trim();
    format!(r#"{{"bytes":{bytes},"kept":{kept},"wall":{wall},"cpu":{cpu},"peak_kb":{peak}}}"#)
}

/// The only recording below a directory.
fn recording(dir: &Path) -> PathBuf {
    let mut made = fs::read_dir(dir).expect("the recordings");
    made.next().expect("a recording").expect("it").path()
}

fn verification(dir: &Path, key: bool) -> String {
    let owner = owner();
    let options = Options { owner: key.then_some(&owner), device: None };
    let mut best = (f64::MAX, f64::MAX);
    let mut bytes = 0;
    for _ in 0..3 {
        let clock = Clock::start();
        let report =
            verify(&recording(dir), options, &mut |progress| bytes = progress.bytes).expect("a report");
        let (wall, cpu) = clock.stop();
        assert_eq!(report.verdict, Verdict::Sound);
        best = (best.0.min(wall), best.1.min(cpu));
    }
    format!(r#"{{"bytes":{bytes},"wall":{},"cpu":{}}}"#, best.0, best.1)
}

fn seek(dir: &Path) -> String {
    let dir = recording(dir);
    let mut best = f64::MAX;
    let mut chunks = 0;
    for _ in 0..5 {
        let clock = Clock::start();
        let reader = Reader::open(&dir, &owner(), None).expect("a recording");
        let mut records = reader.seek(reader.mono_us() / 2).expect("the middle");
        let record = records.next().expect("a record").expect("one");
        assert!(record.key);
        best = best.min(clock.stop().0);
        chunks = reader.chunks().len();
    }
    format!(r#"{{"chunks":{chunks},"wall":{best}}}"#)
}
