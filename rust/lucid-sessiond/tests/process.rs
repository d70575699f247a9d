//! The recorder as a process: killed at any moment, on a disk that is full or read-only, over a long time.
//!
//! `LUCID_KILLS=500` kills it so often; `LUCID_LONG_MB` sets the length of the long session.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lucid_audit::{Data, Kind};
use lucid_ipc::{
    connect,
    session::{
        Answer, Begin, Enforced, FromRecorder, Key, State, ToRecorder, from_recorder,
        recorder_client::RecorderClient, to_recorder,
    },
    tonic::Code,
};
use lucid_sessiond::SOCKET;
use support::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

fn within<T>(longest: Duration, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(longest, test).await.expect("it hangs") })
}

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Numbers that are the same in every run.
struct Seeded(blake3::OutputReader);

impl Seeded {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }
}

/// The program. Killed when dropped.
struct Service {
    child: Child,
    socket: PathBuf,
}

impl Service {
    fn start(dir: &Path, resume_for: &str) -> Self {
        let socket = dir.join("run").join(SOCKET);
        drop(std::fs::remove_file(&socket));
        let child = Command::new(env!("CARGO_BIN_EXE_lucid-sessiond"))
            .args(["--state", dir.join("state").to_str().unwrap()])
            .args(["--run", dir.join("run").to_str().unwrap()])
            .args(["--owner", &owner().public().unwrap().to_string()])
            .args(["--resume-for", resume_for, "--keep-free", "0"])
            .stdin(Stdio::null())
            .env("LUCID_LOG", "error")
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    /// Waits until it can be asked.
    async fn ready(&mut self) {
        while connect(&self.socket).await.is_err() {
            assert_eq!(self.child.try_wait().unwrap(), None, "it did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The most memory that it ever had, in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const NUMBERED: usize = 8 + 32;

/// Bytes that say which they are, and that they are whole.
fn numbered(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + length, 0);
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes[8..]);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    assert!(bytes.len() >= NUMBERED);
    let (what, hash) = bytes.split_at(bytes.len() - 32);
    assert_eq!(blake3::hash(what).as_bytes(), hash, "a record is not whole");
    u64::from_le_bytes(what[..8].try_into().unwrap())
}

/// The item of a number, in one of the streams, of some size.
fn item(number: u64, longest: u64) -> to_recorder::Item {
    let length = (number * 7919 % longest) as usize;
    match number % 8 {
        0 => focus(&number.to_string()),
        1 => pointer(&numbered(number, length / 100)),
        2 => sound(&numbered(number, length / 10)),
        _ => frame(&numbered(number, length)),
    }
}

/// The numbers in a recording, in their order in each stream.
fn numbers(kept: &[Kept]) -> Vec<u64> {
    let mut found = Vec::new();
    let check = |stream: Vec<u64>| {
        assert!(stream.is_sorted_by(|a, b| a < b), "out of order, or twice");
        stream
    };
    let video =
        stream(kept, VIDEO).into_iter().filter(|video| video[0] == 1).map(|video| number(&video[1..]));
    found.extend(check(video.collect()));
    for id in [POINTER, SOUND] {
        found.extend(check(stream(kept, id).into_iter().map(number).collect()));
    }
    let titles = events(kept, None).into_iter().filter_map(|event| match event.data {
        Data::Focus { title, .. } => Some(title.unwrap().as_str().parse().unwrap()),
        _ => None,
    });
    found.extend(check(titles.collect()));
    found.sort_unstable();
    found
}

/// What was sent in one session.
#[derive(Default)]
struct Sent {
    /// The number of every item that may be there.
    all: Vec<u64>,
    /// Those that were said to be on the disk.
    kept: Vec<u64>,
}

/// What a stream sent after `begin`: a number, none for a key; and when.
type Logged = (Option<u64>, Instant);

/// Sends until the recorder is killed; gives the session, if there was time to hear of it.
async fn one_life(
    service: &mut Service,
    resume: &str,
    next: &Arc<AtomicU64>,
    sent: &mut Sent,
    killed_after: Duration,
    longest: u64,
    oldest: &mut Duration,
) -> Option<String> {
    let (send, items) = mpsc::channel(8);
    let begin = Begin {
        user: USER.to_owned(),
        resume: resume.to_owned(),
        width: 64,
        height: 64,
        encoder: "a test".into(),
    };
    send.send(ToRecorder { item: Some(to_recorder::Item::Begin(begin)) }).await.unwrap();
    let socket = service.socket.clone();
    let log: Arc<Mutex<Vec<Logged>>> = Arc::default();
    let wanted = Arc::new(AtomicBool::new(false));
    let killed = Arc::new(AtomicBool::new(false));

    let calls = tokio::spawn({
        let (log, wanted, next) = (Arc::clone(&log), Arc::clone(&wanted), Arc::clone(next));
        let (resume, killed) = (resume.to_owned(), Arc::clone(&killed));
        async move {
            // As soon as it listens, and knows of the session.
            let mut answers = loop {
                if let Ok(channel) = connect(&socket).await {
                    match RecorderClient::new(channel).record(ReceiverStream::new(items)).await {
                        Ok(answers) => break answers.into_inner(),
                        // It was killed meanwhile, or has not recovered it yet.
                        Err(status) => {
                            let known = matches!(
                                status.code(),
                                Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
                            );
                            assert!(known || killed.load(Ordering::SeqCst), "{resume}: {status}");
                            return None;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            let mut said = answers.message().await;
            if let Ok(Some(FromRecorder { item: Some(from_recorder::Item::Asking(_)) })) = said {
                let accepted = to_recorder::Item::Answer(Answer { accepted: true });
                // If it is killed now, it says nothing more.
                drop(send.send(ToRecorder { item: Some(accepted) }).await);
                said = answers.message().await;
            }
            let session = match said {
                Ok(Some(FromRecorder { item: Some(from_recorder::Item::Begun(begun)) })) => {
                    Some(begun.session)
                }
                // It was killed before.
                _ => return None,
            };
            let enforcing = send.clone();
            let sender = tokio::spawn({
                let (log, wanted) = (Arc::clone(&log), Arc::clone(&wanted));
                async move {
                    loop {
                        let (number, item) = if wanted.swap(false, Ordering::SeqCst) {
                            (None, key(64, 64, [9, 9, 9]))
                        } else {
                            let number = next.fetch_add(1, Ordering::SeqCst);
                            (Some(number), item(number, longest))
                        };
                        log.lock().unwrap().push((number, Instant::now()));
                        if send.send(ToRecorder { item: Some(item) }).await.is_err() {
                            return;
                        }
                        // It is killed long before it fills the disk.
                        if number.is_some_and(|number| number % 16 == 0) {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    }
                }
            });
            let mut kept = 0;
            while let Ok(Some(answer)) = answers.message().await {
                match answer.item.unwrap() {
                    from_recorder::Item::Begun(_) => panic!("it begins twice"),
                    from_recorder::Item::KeyWanted(_) => wanted.store(true, Ordering::SeqCst),
                    from_recorder::Item::Kept(now) => kept = now.items as usize,
                    from_recorder::Item::Policy(policy) => {
                        let hash = blake3::hash(&policy.table).as_bytes().to_vec().into();
                        let enforced = Enforced { number: policy.number, hash };
                        let enforced = to_recorder::Item::Enforced(enforced);
                        drop(enforcing.send(ToRecorder { item: Some(enforced) }).await);
                    }
                    from_recorder::Item::Over(over) => panic!("{}", over.reason),
                    from_recorder::Item::Asking(_) => panic!("it asks twice"),
                    from_recorder::Item::Requests(_) => panic!("nobody asks for anything"),
                }
            }
            drop((answers, enforcing));
            sender.await.unwrap();
            Some((session, kept))
        }
    });
    tokio::time::sleep(killed_after).await;
    killed.store(true, Ordering::SeqCst);
    let at = Instant::now();
    service.kill();
    let stop = calls.abort_handle();
    let heard = tokio::time::timeout(Duration::from_secs(5), calls).await;
    // Or it would call the next recorder.
    stop.abort();
    let heard = heard.ok().and_then(|calls| calls.expect("the calls went wrong"));
    let Some((session, kept)) = heard else {
        // It never listened, or never answered: nothing was promised.
        sent.all.extend(log.lock().unwrap().iter().filter_map(|(number, _)| *number));
        return None;
    };
    let log = log.lock().unwrap();
    sent.all.extend(log.iter().filter_map(|(number, _)| *number));
    sent.kept.extend(log[..kept].iter().filter_map(|(number, _)| *number));
    if let Some((_, since)) = log.get(kept) {
        *oldest = (*oldest).max(at.saturating_duration_since(*since));
    }
    session
}

#[test]
fn killed_at_any_moment_it_keeps_what_it_said_it_kept_and_marks_the_gap() {
    let kills = number_of("LUCID_KILLS", 25);
    within(LONGEST + Duration::from_secs(3 * kills), async {
        // Many need room that memory has not.
        let dir = if kills > 50 { tempfile::tempdir().unwrap() } else { temp() };
        let mut random = Seeded::new(1);
        let next = Arc::new(AtomicU64::new(0));
        let mut sessions: BTreeMap<String, Sent> = BTreeMap::new();
        let mut session = String::new();
        let (mut resumed, mut oldest) = (0, Duration::ZERO);
        for kill in 0..kills {
            if kill % 25 == 24 {
                // There may be so many that wait, and no more.
                let mut service = Service::start(dir.path(), "0s");
                service.ready().await;
                while status(&service.socket).await.waiting > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                session.clear();
            }
            let mut service = Service::start(dir.path(), "600s");
            if random.below(4) > 0 {
                service.ready().await;
                if !session.is_empty() {
                    until(&service.socket, &session, State::Waiting).await;
                }
            }
            let after = match random.below(3) {
                0 => random.below(60),
                1 => random.below(400),
                _ => random.below(1500),
            };
            // Some cut chunks.
            let longest = if random.below(8) == 0 { 30_000 } else { 2_000 };
            let mut sent = Sent::default();
            let after = Duration::from_millis(after);
            let heard = one_life(&mut service, &session, &next, &mut sent, after, longest, &mut oldest).await;
            match heard {
                Some(heard) => {
                    assert!(session.is_empty() || heard == session);
                    resumed += u64::from(heard == session);
                    session = heard;
                    let known = sessions.entry(session.clone()).or_default();
                    known.all.append(&mut sent.all);
                    known.kept.append(&mut sent.kept);
                }
                None => {
                    assert!(sent.kept.is_empty());
                    if let Some(known) = sessions.get_mut(&session) {
                        known.all.append(&mut sent.all);
                    }
                }
            }
            // Some go on, and some are left where they are.
            if random.below(6) == 0 {
                session.clear();
            }
        }
        // Those that nobody waits for end by themselves.
        let mut service = Service::start(dir.path(), "0s");
        service.ready().await;
        let (mut sound, mut items, mut there, mut gaps, mut chunks) = (0, 0, 0, 0, 0);
        for told in list(&service.socket).await {
            let told = loop {
                let now = list(&service.socket).await;
                let now = now.into_iter().find(|now| now.session == told.session).unwrap();
                if !matches!(now.state(), State::Waiting) {
                    break now;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            let known = sessions.remove(&told.session);
            if told.state() == State::Unusable {
                // Killed before its first head was there: nobody had heard of it.
                assert!(told.problem.contains("before"), "{told:?}");
                assert!(known.is_none(), "{told:?}");
                continue;
            }
            assert_eq!(told.state(), State::Recovered);
            let path = dir.path().join("state/recordings").join(&told.session);
            let report = sound_recording(&path);
            // One for each life, the last one that ends it included.
            assert_eq!(report.gaps.len() as u32, report.parts);
            let kept = read(&path, &owner());
            let numbers = numbers(&kept);
            if let Some(known) = known {
                for number in &known.kept {
                    assert!(numbers.binary_search(number).is_ok(), "{number} was kept, and is gone");
                }
                assert!(numbers.iter().all(|number| known.all.contains(number)), "nobody sent that");
                let gaps = events(&kept, None).iter().filter(|event| event.kind == Kind::Gap).count();
                assert!(gaps < report.gaps.len());
                items += known.kept.len();
            }
            sound += 1;
            there += numbers.len();
            gaps += report.gaps.len();
            chunks += report.chunks.proved;
        }
        assert!(sessions.is_empty(), "a session is gone");
        assert!(sound > 0 && items > 0 && resumed > 0);
        println!(
            "{kills} kills: {sound} recordings with {gaps} gaps in {chunks} chunks, resumed {resumed} times; \
             {items} items kept, {there} there; at a kill, the oldest item that was not kept was {oldest:?} old"
        );
    });
}

/// A disk of its own. Only root has that.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting a disk of {size} needs root");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let disk = Self(at.to_owned());
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at)
            .status();
        if done.unwrap().success() {
            Some(disk)
        } else {
            eprintln!("skipped: this machine lets nobody mount");
            std::mem::forget(disk);
            None
        }
    }

    fn change(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_ends_the_stream_with_what_to_do_and_what_was_kept_stays() {
    within(LONGEST, async {
        let dir = temp();
        let Some(disk) = Disk::mount(&dir.path().join("state/recordings"), "12m") else { return };
        let recorder = Recorder::start(options(dir.path())).await;
        let socket = recorder.socket.clone();
        let mut session = String::new();
        let (mut next, mut kept) = (0_u64, Vec::new());
        for round in 0..2 {
            let begun = Caller::begin(&socket, USER, &session).await;
            let mut caller = match begun {
                Ok(caller) => caller,
                Err(status) => {
                    // It is still full.
                    assert!(round > 0);
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    assert!(status.message().contains("disk is full"), "{status}");
                    continue;
                }
            };
            session.clone_from(&caller.session);
            let first = next;
            let status = loop {
                next += 1;
                if !caller.try_send(frame(&numbered(next, 50_000))).await {
                    break caller.answer().await;
                }
                if next % 40 == 0 {
                    match tokio::time::timeout(Duration::from_secs(1), caller.answer()).await {
                        Ok(Ok(Some(_))) | Err(_) => {}
                        Ok(other) => break other,
                    }
                }
            };
            kept.extend(first + 1..=first + caller.kept);
            let mut status = status;
            while let Ok(Some(_)) = status {
                status = caller.answer().await;
            }
            let status = status.unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(
                status.message().contains("disk is full") && status.message().contains("what was kept stays")
            );
        }
        assert!(!kept.is_empty());
        let told = until(&socket, &session, State::Waiting).await;
        assert!(told.problem.contains("writing") || told.problem.contains("making"), "{told:?}");
        // A new one is refused, and says why.
        let filler = disk.0.join("filler");
        drop(std::fs::write(&filler, vec![1; 12 << 20]));
        let refused = Caller::begin(&socket, USER, "").await.err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        std::fs::remove_file(&filler).unwrap();
        // With room again, the session goes on.
        disk.change("size=64m");
        let mut caller = Caller::begin(&socket, USER, &session).await.unwrap();
        next += 1;
        caller.send(frame(&numbered(next, 10))).await;
        caller.end().await;
        kept.push(next);
        let path = recorder.dir(&session);
        let report = sound_recording(&path);
        assert!(report.parts >= 2 && report.gaps.len() as u32 >= report.parts - 1);
        let numbers = numbers(&read(&path, &owner()));
        assert!(kept.iter().all(|number| numbers.binary_search(number).is_ok()));
        recorder.stop().await;
        println!("{} frames kept on a disk of 12 MiB", kept.len());
    });
}

#[test]
fn a_read_only_disk_refuses_sessions_until_it_can_be_written_again() {
    within(LONGEST, async {
        let dir = temp();
        let Some(disk) = Disk::mount(&dir.path().join("state/recordings"), "16m") else { return };
        let recorder = Recorder::start(options(dir.path())).await;
        let caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        caller.end().await;
        disk.change("ro");
        let refused = Caller::begin(&recorder.socket, USER, "").await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("read-only"), "{refused}");
        assert_eq!(list(&recorder.socket).await.len(), 1);
        disk.change("rw");
        let caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        caller.end().await;
        assert_eq!(list(&recorder.socket).await.len(), 2);
        sound_recording(&recorder.dir(&session));
        recorder.stop().await;
    });
}

#[test]
fn memory_stays_flat_however_long_a_session_is() {
    let megabytes = number_of("LUCID_LONG_MB", 512);
    within(LONGEST + Duration::from_secs(megabytes / 4), async {
        let dir = temp();
        let mut service = Service::start(dir.path(), "60s");
        service.ready().await;
        let mut caller = Caller::begin(&service.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        let rgb: Vec<u8> = (0..1920 * 1080 * 3_u32).map(|byte| (byte / 977) as u8).collect();
        let picture = || to_recorder::Item::Key(Key { width: 1920, height: 1080, rgb: rgb.clone().into() });
        let bytes = numbered(1, 64 << 10);
        let (mut early, mut answered) = (0, 0);
        let began = Instant::now();
        for number in 0..megabytes * 16 {
            caller.send(frame(&bytes)).await;
            caller.send(focus(&number.to_string())).await;
            // A key for each 8 MiB, whether it is asked for or not.
            if number % 128 == 0 {
                caller.send(picture()).await;
            }
            if number % 512 == 511 {
                caller.all_kept().await;
                answered += 1;
            }
            if number == 64 * 16 {
                early = service.peak();
            }
        }
        assert!(answered > 0 && early > 0);
        let took = began.elapsed();
        caller.end().await;
        let late = service.peak();
        println!(
            "{megabytes} MiB in {took:?}; at most {early} KiB of memory after 64 MiB, {late} KiB in the end"
        );
        // What waits for the disk, 32 MiB at most, is there or not at either moment.
        assert!(late < early + (40 << 10), "{early} KiB grew to {late} KiB");
        sound_recording(&dir.path().join("state/recordings").join(session));
    });
}

#[test]
fn without_an_owner_it_says_how_to_make_one_and_its_help_is_complete() {
    let dir = temp();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lucid-sessiond"));
        command.args(arguments).arg("--state").arg(dir.path().join("state")).stdin(Stdio::null());
        command.output().unwrap()
    };
    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lucidctl recording new-key"));
    assert!(!dir.path().join("state").exists());
    assert_eq!(run(&["--owner", "zz"]).status.code(), Some(2));
    let help = run(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for option in [
        "--state",
        "--run",
        "--owner",
        "--observer",
        "--most-bytes",
        "--keep-free",
        "--resume-for",
        "--group",
        "LUCID_LOG",
        "Exit status",
    ] {
        assert!(help.contains(option), "{option}");
    }
}
