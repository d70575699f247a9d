//! What becomes of a session, in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use lucid_audit::{Data, Kind, MAX_UNCONFIRMED};
use lucid_ipc::{
    session::{
        Clipboard, Connect, Direction, GetRequest, Input, Key, RebuildIndexRequest, State, TestPart,
        TestRequest, TestResponse, event, to_recorder,
    },
    tonic::Code,
};
use lucid_recording::statement::Ended;
use support::*;

/// Runs a test with a bound on its time.
fn within<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONGEST, test).await.expect("it hangs") })
}

/// Bytes that do not compress, and differ.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Frames and keys until the recorder wanted so many keys.
async fn show(caller: &mut Caller, seed: u64, keys: u64) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut number = seed << 32;
    caller.send(key(8, 8, [1, 2, 3])).await;
    let until = caller.keys_wanted + keys;
    while caller.keys_wanted < until {
        // Enough for the next cut, and then the key that is asked for.
        for _ in 0..10 {
            number += 1;
            frames.push(noise(number, 8 << 10));
            caller.send(frame(frames.last().unwrap())).await;
        }
        caller.key_wanted().await;
        caller.send(key(8, 8, [3, 2, 1])).await;
    }
    caller.all_kept().await;
    frames
}

#[test]
fn what_was_shown_heard_and_done_is_what_the_owner_reads() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        caller.key_wanted().await;
        assert_eq!(caller.keys_wanted, 1);
        caller
            .send(said(event::Data::Connect(Connect {
                address: "192.0.2.7:51514".into(),
                security: "TLS 1.3".into(),
            })))
            .await;
        caller.send(key(33, 17, [200, 100, 50])).await;
        caller.send(frame(b"the first frame")).await;
        caller.send(pointer(b"it moved")).await;
        caller.send(sound(b"it rang")).await;
        caller.send(focus("a \u{1} window")).await;
        let input = Input { seconds: 5, letters: 40, clicks: 2, ..Input::default() };
        caller.send(said(event::Data::Input(input))).await;
        let copied = Clipboard {
            direction: Direction::ToClient.into(),
            r#type: "text/plain".into(),
            bytes: 12,
            hash: vec![7; 32].into(),
        };
        caller.send(said(event::Data::Clipboard(copied))).await;
        caller.send(to_recorder::Item::Key(Key { width: 64, height: 48, rgb: vec![].into() })).await;
        caller.send(frame(b"the last frame")).await;
        let running = until(&recorder.socket, &session, State::Recording).await;
        assert_eq!((running.user.as_str(), running.end_ms, running.gaps), (USER, None, 0));
        caller.end().await;

        let told = until(&recorder.socket, &session, State::Finished).await;
        let dir = recorder.dir(&session);
        let report = sound_recording(&dir);
        assert_eq!((told.chunks, told.gaps), (report.chunks.proved, 0));
        assert_eq!(told.bytes, files(&dir).values().map(|bytes| bytes.len() as u64).sum::<u64>());
        assert!(told.end_ms.unwrap() >= told.start_ms);
        for secret in [owner(), observer()] {
            let kept = read(&dir, &secret);
            let video = stream(&kept, VIDEO);
            assert_eq!(video[0][..5], [0, 33, 0, 17, 0]);
            let mut png = png::Decoder::new(std::io::Cursor::new(&video[0][5..])).read_info().unwrap();
            let mut pixels = vec![0; png.output_buffer_size().unwrap()];
            png.next_frame(&mut pixels).unwrap();
            assert_eq!(pixels, [200, 100, 50].repeat(33 * 17));
            assert_eq!(video[1], b"\x01the first frame");
            assert_eq!(video[2], [0, 64, 0, 48, 0]);
            assert_eq!(video[3], b"\x01the last frame");
            assert_eq!(stream(&kept, POINTER), [b"it moved"]);
            assert_eq!(stream(&kept, SOUND), [b"it rang"]);
            let audit = manifest(&dir).audit.unwrap();
            let events = events(&kept, Some(audit.hash));
            assert_eq!(audit.count, events.len() as u64);
            let expected =
                [Kind::Consent, Kind::Connect, Kind::Focus, Kind::Input, Kind::Clipboard, Kind::End];
            assert_eq!(kinds(&events), expected);
            assert!(events.iter().all(|event| event.session.to_string() == session));
            assert!(kept.iter().filter(|kept| kept.key).all(|kept| kept.stream == VIDEO));
            assert!(kept.is_sorted_by_key(|kept| kept.mono_us));
        }
        recorder.stop().await;
    });
}

#[test]
fn each_cut_asks_for_a_key_once_and_each_chunk_begins_with_one() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        caller.key_wanted().await;
        let frames = show(&mut caller, 1, 5).await;
        let wanted = caller.keys_wanted;
        caller.end().await;
        let dir = recorder.dir(&session);
        sound_recording(&dir);
        let chunks = manifest(&dir).chunks;
        assert_eq!(chunks.len() as u64, wanted, "{chunks:?}");
        assert!(chunks.iter().all(|chunk| chunk.key));
        let kept = read(&dir, &owner());
        let shown: Vec<_> =
            stream(&kept, VIDEO).into_iter().filter(|video| video[0] == 1).map(|video| &video[1..]).collect();
        assert!(shown == frames);
        recorder.stop().await;
    });
}

#[test]
fn two_sessions_at_once_are_two_recordings() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut one = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let mut two = Caller::begin(&recorder.socket, "bob", "").await.unwrap();
        assert_ne!(one.session, two.session);
        one.key_wanted().await;
        two.key_wanted().await;
        let (shown_one, shown_two) = tokio::join!(show(&mut one, 1, 3), show(&mut two, 2, 3));
        let told = status(&recorder.socket).await;
        assert_eq!((told.recording, told.waiting), (2, 0));
        for (caller, shown, user) in [(one, shown_one, USER), (two, shown_two, "bob")] {
            let session = caller.session.clone();
            caller.end().await;
            assert_eq!(until(&recorder.socket, &session, State::Finished).await.user, user);
            sound_recording(&recorder.dir(&session));
            let kept = read(&recorder.dir(&session), &owner());
            let frames: Vec<_> = stream(&kept, VIDEO).into_iter().filter(|video| video[0] == 1).collect();
            assert!(frames.iter().map(|frame| &frame[1..]).eq(shown.iter().map(Vec::as_slice)));
        }
        recorder.stop().await;
    });
}

#[test]
fn a_stream_that_breaks_is_resumed_after_a_gap() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        caller.send(key(8, 8, [0; 3])).await;
        caller.send(frame(b"before")).await;
        // Nobody waits for this to be kept: the recorder keeps what came before the break.
        caller.send(focus("before")).await;
        while caller.answer().await.unwrap().is_some() {
            if caller.kept > 0 {
                break;
            }
        }
        // While it is being recorded, nobody else gets it.
        assert_eq!(code(Caller::begin(&recorder.socket, USER, &session).await), Code::Unavailable);
        drop(caller);
        until(&recorder.socket, &session, State::Waiting).await;
        assert_eq!(code(Caller::begin(&recorder.socket, "bob", &session).await), Code::PermissionDenied);
        let mut caller = Caller::begin(&recorder.socket, USER, &session).await.unwrap();
        assert_eq!(caller.session, session);
        caller.key_wanted().await;
        caller.send(key(8, 8, [0; 3])).await;
        caller.send(frame(b"after")).await;
        caller.end().await;
        let told = until(&recorder.socket, &session, State::Finished).await;
        assert_eq!(told.gaps, 1);
        let dir = recorder.dir(&session);
        let report = sound_recording(&dir);
        assert_eq!((report.parts, report.gaps.len(), report.ended), (1, 1, Some(Ended::Finished)));
        let kept = read(&dir, &owner());
        let events = events(&kept, Some(manifest(&dir).audit.unwrap().hash));
        assert_eq!(kinds(&events), [Kind::Consent, Kind::Focus, Kind::Disconnect, Kind::Gap, Kind::End]);
        let gap = &report.gaps[0];
        assert!(matches!(
            events[3].data, Data::Gap { from_us, to_us, .. } if from_us == gap.from_us && to_us == gap.to_us
        ));
        // Before the gap, and after it.
        let at = |payload: &[u8]| kept.iter().find(|kept| kept.payload == payload).unwrap().mono_us;
        assert!(at(b"\x01before") <= gap.from_us && gap.to_us <= at(b"\x01after"));
        // What is over is not resumed.
        assert_eq!(code(Caller::begin(&recorder.socket, USER, &session).await), Code::NotFound);
        recorder.stop().await;
    });
}

#[test]
fn a_session_that_nobody_resumes_is_finished_with_its_gap() {
    within(async {
        let dir = temp();
        let mut options = options(dir.path());
        options.resume_for = Duration::from_millis(50);
        let recorder = Recorder::start(options).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        caller.send(key(8, 8, [0; 3])).await;
        // Half closed, and no `end`.
        caller.close();
        assert_eq!(caller.failure().await.code(), Code::Aborted);
        until(&recorder.socket, &session, State::Finished).await;
        let report = sound_recording(&recorder.dir(&session));
        assert_eq!((report.parts, report.gaps.len(), report.ended), (1, 1, Some(Ended::Finished)));
        let events = events(&read(&recorder.dir(&session), &owner()), None);
        assert_eq!(kinds(&events), [Kind::Consent, Kind::Disconnect, Kind::Gap, Kind::End]);
        recorder.stop().await;
    });
}

#[test]
fn a_recorder_that_stops_in_order_loses_nothing_and_the_next_one_goes_on() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut resumed = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let mut left = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        for caller in [&mut resumed, &mut left] {
            caller.send(key(8, 8, [0; 3])).await;
            caller.send(focus("one")).await;
            caller.all_kept().await;
            caller.send(frame(b"sent before it stopped")).await;
        }
        let sessions = [resumed.session.clone(), left.session.clone()];
        recorder.stop().await;
        assert_eq!(resumed.failure().await.code(), Code::Unavailable);

        let mut options = options(dir.path());
        options.resume_for = Duration::from_secs(1);
        let recorder = Recorder::start(options).await;
        until(&recorder.socket, &sessions[0], State::Waiting).await;
        let mut caller = Caller::begin(&recorder.socket, USER, &sessions[0]).await.unwrap();
        caller.send(key(8, 8, [0; 3])).await;
        caller.send(focus("two")).await;
        caller.end().await;
        let told = until(&recorder.socket, &sessions[0], State::Finished).await;
        assert_eq!(told.gaps, 1);
        let dir = recorder.dir(&sessions[0]);
        assert_eq!(sound_recording(&dir).parts, 2);
        let events = events(&read(&dir, &owner()), None);
        assert_eq!(kinds(&events), [Kind::Consent, Kind::Focus, Kind::Gap, Kind::Focus, Kind::End]);
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [0, 1, 0, 1, 2]);

        let told = until(&recorder.socket, &sessions[1], State::Recovered).await;
        assert_eq!((told.gaps, told.user.as_str()), (1, USER));
        let report = sound_recording(&recorder.dir(&sessions[1]));
        assert_eq!((report.parts, report.ended), (1, Some(Ended::Recovered)));
        recorder.stop().await;
    });
}

#[test]
fn a_clock_that_jumps_back_an_hour_leaves_a_sound_recording_in_order() {
    within(async {
        let dir = temp();
        let wall = Wall::default();
        let recorder = Recorder::start(with_wall(options(dir.path()), &wall)).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        for jump in [0, -3_600_000, 7_200_000] {
            wall.jump(jump);
            caller.send(key(8, 8, [0; 3])).await;
            caller.send(focus("x")).await;
            caller.all_kept().await;
        }
        recorder.stop().await;
        drop(caller);
        // It also jumps while the recorder does not run: less than no time has passed.
        wall.jump(-3_600_000);
        let recorder = Recorder::start(with_wall(options(dir.path()), &wall)).await;
        until(&recorder.socket, &session, State::Waiting).await;
        let mut caller = Caller::begin(&recorder.socket, USER, &session).await.unwrap();
        caller.send(focus("y")).await;
        caller.end().await;
        let dir = recorder.dir(&session);
        let report = sound_recording(&dir);
        assert!(report.gaps[0].to_us - report.gaps[0].from_us < LONGEST.as_micros() as u64);
        let kept = read(&dir, &owner());
        assert!(kept.is_sorted_by_key(|kept| kept.mono_us));
        let events = events(&kept, None);
        assert_eq!(events.iter().filter(|event| event.kind == Kind::Focus).count(), 4);
        assert!(events.is_sorted_by_key(|event| event.mono_us));
        assert!(!events.is_sorted_by_key(|event| event.wall_ms));
        recorder.stop().await;
    });
}

#[test]
fn a_gap_is_as_long_as_nothing_was_recorded_however_late_the_last_item_was_committed() {
    within(async {
        let dir = temp();
        let wall = Wall::default();
        let recorder = Recorder::start(with_wall(options(dir.path()), &wall)).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        caller.send(focus("x")).await;
        let sent = Instant::now();
        // Most of a second later.
        caller.all_kept().await;
        recorder.stop().await;
        drop(caller);
        wall.jump(3_600_000);
        let recorder = Recorder::start(with_wall(options(dir.path()), &wall)).await;
        until(&recorder.socket, &session, State::Waiting).await;
        let away = sent.elapsed() + Duration::from_secs(3600);
        let caller = Caller::begin(&recorder.socket, USER, &session).await.unwrap();
        caller.end().await;
        let gap = &sound_recording(&recorder.dir(&session)).gaps[0];
        let gap = Duration::from_micros(gap.to_us - gap.from_us);
        // It came a moment after it was sent.
        assert!(gap + Duration::from_millis(300) > away, "{gap:?} of {away:?}");
        recorder.stop().await;
    });
}

#[test]
fn more_events_than_one_commit_may_hold_are_all_there() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        let count = 2 * MAX_UNCONFIRMED + 10;
        let title = "\u{1}".repeat(5000);
        for _ in 0..count {
            caller.send(focus(&title)).await;
        }
        caller.end().await;
        sound_recording(&recorder.dir(&session));
        let events = events(&read(&recorder.dir(&session), &owner()), None);
        assert_eq!(events.len(), count + 2);
        let Data::Focus { title: Some(kept), .. } = &events[8].data else { panic!("{:?}", events[8]) };
        assert!(kept.as_str().ends_with('\u{2026}') && kept.as_str().len() <= 1024);
        recorder.stop().await;
    });
}

#[test]
fn what_is_not_as_agreed_ends_the_stream_and_not_the_session() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let socket = &recorder.socket;
        for (user, width) in [("", 640), (USER, 0), (USER, 8193)] {
            let begin = lucid_ipc::session::Begin {
                user: user.into(),
                resume: String::new(),
                width,
                height: 1,
                encoder: "a test".into(),
            };
            let begun = Caller::first(socket, to_recorder::Item::Begin(begin)).await;
            assert_eq!(code(begun), Code::InvalidArgument);
        }
        assert_eq!(code(Caller::first(socket, frame(b"x")).await), Code::InvalidArgument);
        for resume in ["not-a-uuid", "6b1f0a52-93c7-4d3e-8f21-0c5de8a97b44", "../../etc"] {
            assert_eq!(code(Caller::begin(socket, USER, resume).await), Code::NotFound);
        }
        assert_eq!(list(socket).await, []);

        let picture =
            |width, height, bytes| to_recorder::Item::Key(Key { width, height, rgb: vec![0; bytes].into() });
        let nothing = event::Data::Input(Input::default());
        let half = Clipboard { direction: 1, bytes: 1, hash: vec![1; 31].into(), ..Clipboard::default() };
        let nowhere = Clipboard { bytes: 1, ..Clipboard::default() };
        let huge = Clipboard { direction: 1, bytes: 1 << 53, ..Clipboard::default() };
        let wrong = [
            frame(b""),
            frame(&vec![0; (16 << 20) - 63]),
            pointer(&vec![0; (1 << 20) + 1]),
            picture(8, 8, 191),
            picture(0, 8, 0),
            picture(8193, 1, 0),
            // One that is too large for any message.
            picture(8192, 8192, 65 << 20),
            said(nothing),
            said(event::Data::Clipboard(half)),
            said(event::Data::Clipboard(nowhere)),
            said(event::Data::Clipboard(huge)),
            to_recorder::Item::Event(lucid_ipc::session::Event::default()),
            to_recorder::Item::Begin(lucid_ipc::session::Begin::default()),
        ];
        let mut session = String::new();
        let count = wrong.len();
        for item in wrong {
            let mut caller = Caller::begin(socket, USER, &session).await.unwrap();
            session.clone_from(&caller.session);
            caller.send(key(8, 8, [0; 3])).await;
            let what = format!("{item:?}").chars().take(80).collect::<String>();
            caller.send(item).await;
            let code = caller.failure().await.code();
            assert!(matches!(code, Code::InvalidArgument | Code::OutOfRange), "{code:?}: {what}");
            until(socket, &session, State::Waiting).await;
        }
        let caller = Caller::begin(socket, USER, &session).await.unwrap();
        caller.end().await;
        let report = sound_recording(&recorder.dir(&session));
        assert_eq!(report.gaps.len(), count);
        // The longest frame that may be.
        let mut caller = Caller::begin(socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        let longest = noise(1, (16 << 20) - 64);
        caller.send(frame(&longest)).await;
        caller.end().await;
        sound_recording(&recorder.dir(&session));
        assert!(stream(&read(&recorder.dir(&session), &owner()), VIDEO)[0][1..] == longest);
        recorder.stop().await;
    });
}

#[test]
fn a_picture_too_large_for_a_record_is_kept_in_its_place() {
    within(async {
        let dir = temp();
        let mut options = options(dir.path());
        options.limits = lucid_recording::Limits::default();
        let recorder = Recorder::start(options).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        let rgb = noise(1, 3840 * 2160 * 3);
        caller.send(frame(b"before")).await;
        caller.send(to_recorder::Item::Key(Key { width: 3840, height: 2160, rgb: rgb.clone().into() })).await;
        // It is compressed while this comes.
        caller.send(frame(b"after")).await;
        caller.end().await;
        sound_recording(&recorder.dir(&session));
        let kept = read(&recorder.dir(&session), &owner());
        let video = stream(&kept, VIDEO);
        assert_eq!(video[0], b"\x01before");
        assert_eq!(video.last().unwrap(), b"\x01after");
        let mut png = video[1][5..].to_vec();
        assert_eq!(video[1][0], 0);
        for more in &video[2..video.len() - 1] {
            assert_eq!(more[0], 2);
            png.extend_from_slice(&more[1..]);
        }
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert!(pixels == rgb);
        recorder.stop().await;
    });
}

#[test]
fn the_bounds_of_the_disk_refuse_new_sessions_and_no_running_ones() {
    within(async {
        let dir = temp();
        let mut options = options(dir.path());
        options.most_bytes = Some(100_000);
        let recorder = Recorder::start(options).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        for number in 0..40 {
            caller.send(frame(&noise(number, 10_000))).await;
        }
        caller.all_kept().await;
        let refused = Caller::begin(&recorder.socket, USER, "").await.err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("--most-bytes"), "{}", refused.message());
        // The running one goes on, also after a break.
        drop(caller);
        until(&recorder.socket, &session, State::Waiting).await;
        let caller = Caller::begin(&recorder.socket, USER, &session).await.unwrap();
        caller.end().await;
        sound_recording(&recorder.dir(&session));
        recorder.stop().await;

        let mut options = support::options(dir.path());
        options.keep_free = u64::MAX;
        let recorder = Recorder::start(options).await;
        let refused = Caller::begin(&recorder.socket, USER, "").await.err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("--keep-free"), "{}", refused.message());
        assert_eq!(list(&recorder.socket).await.len(), 1);
        recorder.stop().await;
    });
}

/// A record of a test.
async fn tested(recorder: &Recorder) -> TestResponse {
    recordings(&recorder.socket).await.test(TestRequest {}).await.unwrap().into_inner()
}

#[test]
fn a_record_of_a_test_is_made_whole_and_leaves_nothing() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        // What a recorder left that died in the midst of one.
        std::fs::create_dir(recorder.recordings.join("test")).unwrap();
        std::fs::write(recorder.recordings.join("test/half"), b"half").unwrap();
        for _ in 0..3 {
            assert_eq!(tested(&recorder).await, TestResponse::default());
            assert_eq!(std::fs::read_dir(&recorder.recordings).unwrap().count(), 0);
        }
        assert!(list(&recorder.socket).await.is_empty());
        // Beside a session, which minds nothing.
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let session = caller.session.clone();
        caller.send(key(8, 8, [1, 2, 3])).await;
        assert_eq!(tested(&recorder).await, TestResponse::default());
        caller.all_kept().await;
        caller.end().await;
        sound_recording(&recorder.dir(&session));
        recorder.stop().await;
    });
}

#[test]
fn a_record_of_a_test_says_which_part_failed() {
    within(async {
        let dir = temp();
        let mut full = options(dir.path());
        full.keep_free = u64::MAX;
        let recorder = Recorder::start(full).await;
        let answer = tested(&recorder).await;
        assert_eq!(answer.failed(), TestPart::Room);
        assert!(answer.why.contains("--keep-free"), "{}", answer.why);
        recorder.stop().await;

        let recorder = Recorder::start(options(dir.path())).await;
        let away = dir.path().join("away");
        std::fs::rename(&recorder.recordings, &away).unwrap();
        let answer = tested(&recorder).await;
        assert_eq!(answer.failed(), TestPart::Writing);
        assert!(answer.why.contains("recordings"), "{}", answer.why);
        std::fs::rename(&away, &recorder.recordings).unwrap();
        // Something that is no folder is in its place.
        std::fs::write(recorder.recordings.join("test"), b"").unwrap();
        assert_eq!(tested(&recorder).await.failed(), TestPart::Removal);
        std::fs::remove_file(recorder.recordings.join("test")).unwrap();
        assert_eq!(tested(&recorder).await, TestResponse::default());
        recorder.stop().await;
    });
}

/// Three recordings: two finished, one recovered.
async fn three(dir: &Path) -> Vec<String> {
    let recorder = Recorder::start(options(dir)).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        caller.send(key(8, 8, [0; 3])).await;
        caller.all_kept().await;
        sessions.push(caller.session.clone());
        if sessions.len() < 3 {
            caller.end().await;
        }
    }
    recorder.stop().await;
    let mut options = options(dir);
    options.resume_for = Duration::ZERO;
    let recorder = Recorder::start(options).await;
    until(&recorder.socket, &sessions[2], State::Recovered).await;
    recorder.stop().await;
    sessions
}

#[test]
fn an_index_that_is_deleted_damaged_or_outdated_is_made_again_as_it_was() {
    within(async {
        let dir = temp();
        let sessions = three(dir.path()).await;
        let state = dir.path().join("state");
        let recorder = Recorder::start(options(dir.path())).await;
        let before = list(&recorder.socket).await;
        assert_eq!(before.len(), 3);
        assert_eq!(before.iter().map(|known| known.session.clone()).collect::<Vec<_>>(), sessions);
        let mut client = recordings(&recorder.socket).await;
        let one = client.get(GetRequest { session: sessions[1].clone() }).await.unwrap().into_inner();
        assert_eq!(one, before[1]);
        for unknown in ["x", "6b1f0a52-93c7-4d3e-8f21-0c5de8a97b44"] {
            let unknown = client.get(GetRequest { session: unknown.to_owned() }).await;
            assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
        }
        recorder.stop().await;
        // Closed in order, it is believed: what only the files could say is not asked of them, before somebody says so.
        let opening = state.join("recordings").join(&sessions[1]).join("opening.json");
        let statement = std::fs::read(&opening).unwrap();
        std::fs::write(&opening, b"{}").unwrap();
        let recorder = Recorder::start(options(dir.path())).await;
        assert_eq!(list(&recorder.socket).await, before);
        let mut client = recordings(&recorder.socket).await;
        client.rebuild_index(RebuildIndexRequest {}).await.unwrap();
        let told = client.get(GetRequest { session: sessions[1].clone() }).await.unwrap().into_inner();
        assert_eq!(told.state(), State::Unusable);
        std::fs::write(&opening, statement).unwrap();
        recorder.stop().await;

        let damage: [(&str, &dyn Fn()); 5] = [
            ("deleted", &|| std::fs::remove_dir_all(state.join("index")).unwrap()),
            ("not closed in order", &|| std::fs::remove_file(state.join("index.sum")).unwrap()),
            ("changed", &|| {
                let path = state.join("index/db");
                let mut bytes = std::fs::read(&path).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
                std::fs::write(&path, bytes).unwrap();
            }),
            ("cut", &|| std::fs::write(state.join("index/conf"), b"").unwrap()),
            ("a file instead", &|| {
                std::fs::remove_dir_all(state.join("index")).unwrap();
                std::fs::write(state.join("index"), b"x").unwrap();
            }),
        ];
        for (what, damage) in damage {
            damage();
            let recorder = Recorder::start(options(dir.path())).await;
            assert_eq!(list(&recorder.socket).await, before, "{what}");
            let problems = status(&recorder.socket).await.problems;
            assert_eq!(problems.is_empty(), what != "a file instead", "{what}: {problems:?}");
            recorder.stop().await;
            if what == "a file instead" {
                std::fs::remove_file(state.join("index")).unwrap();
            }
        }

        // One that is gone is not listed, and one that comes is, at the next start and by the call.
        let aside = dir.path().join("aside");
        std::fs::rename(state.join("recordings").join(&sessions[0]), &aside).unwrap();
        let recorder = Recorder::start(options(dir.path())).await;
        assert_eq!(list(&recorder.socket).await, before[1..]);
        std::fs::rename(&aside, state.join("recordings").join(&sessions[0])).unwrap();
        let mut client = recordings(&recorder.socket).await;
        let rebuilt = client.rebuild_index(RebuildIndexRequest {}).await.unwrap().into_inner();
        assert_eq!(rebuilt.recordings, 3);
        assert_eq!(list(&recorder.socket).await, before);
        recorder.stop().await;
    });
}

#[test]
fn a_recording_that_cannot_be_recovered_is_left_as_it_is_and_stops_nothing() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        caller.send(key(8, 8, [0; 3])).await;
        caller.all_kept().await;
        let session = caller.session.clone();
        let path = recorder.dir(&session);
        recorder.stop().await;
        // A signature that is another's.
        let heads = path.join("heads.jsonl");
        let text = std::fs::read_to_string(&heads).unwrap();
        let last = text.rfind("\"signature\":\"").unwrap() + 13;
        let digit = if &text[last..=last] == "0" { "1" } else { "0" };
        std::fs::write(&heads, format!("{}{digit}{}", &text[..last], &text[last + 1..])).unwrap();
        // And one that never began.
        let never = path.with_file_name("6b1f0a52-93c7-4d3e-8f21-0c5de8a97b44");
        std::fs::create_dir(&never).unwrap();
        std::fs::write(never.join("keys.json.new"), "{").unwrap();
        // And what is no recording at all, but named like one; and one that is not even named so.
        std::fs::write(path.with_file_name("0e984725-c51c-4bf4-9960-e1c80e27aba0"), b"").unwrap();
        std::fs::create_dir(path.with_file_name("0E984725-C51C-4BF4-9960-E1C80E27ABA1")).unwrap();
        let before = (files(&path), files(&never));

        let recorder = Recorder::start(options(dir.path())).await;
        until(&recorder.socket, &session, State::Unusable).await;
        let never = until(&recorder.socket, "6b1f0a52-93c7-4d3e-8f21-0c5de8a97b44", State::Unusable).await;
        assert!(!never.problem.is_empty());
        assert_eq!(status(&recorder.socket).await.problems.len(), 3);
        assert_eq!(code(Caller::begin(&recorder.socket, USER, &session).await), Code::NotFound);
        let caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let sound = caller.session.clone();
        caller.end().await;
        sound_recording(&recorder.dir(&sound));
        let mut client = recordings(&recorder.socket).await;
        client.rebuild_index(RebuildIndexRequest {}).await.unwrap();
        assert_eq!(list(&recorder.socket).await.len(), 4);
        recorder.stop().await;
        let never = path.with_file_name("6b1f0a52-93c7-4d3e-8f21-0c5de8a97b44");
        assert!((files(&path), files(&never)) == before);
    });
}

#[test]
fn it_does_not_start_without_an_owner_nor_twice_on_one_directory() {
    within(async {
        let dir = temp();
        let mut without = options(dir.path());
        without.owners.clear();
        let error = lucid_sessiond::run(without, async {}).await.unwrap_err();
        assert!(error.to_string().contains("lucidctl recording new-key"), "{error}");
        let mut twice = options(dir.path());
        twice.observers = twice.owners.clone();
        assert!(lucid_sessiond::run(twice, async {}).await.is_err());
        let recorder = Recorder::start(options(dir.path())).await;
        let key = status(&recorder.socket).await.device_key;
        let error = lucid_sessiond::run(options(dir.path()), async {}).await.unwrap_err();
        assert!(matches!(error, lucid_sessiond::Error::InUse(_)), "{error}");
        recorder.stop().await;
        use std::os::unix::fs::PermissionsExt as _;
        let about = std::fs::metadata(dir.path().join("state/device-key")).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
        let recorder = Recorder::start(options(dir.path())).await;
        assert_eq!(status(&recorder.socket).await.device_key, key);
        recorder.stop().await;
    });
}
