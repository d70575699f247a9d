//! The control socket, asked through a real one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lucid_ipc::{
    connect,
    tonic::{Code, Streaming, transport::Channel},
    update::{
        self as wire, ApplyRequest, CheckRequest, GetScheduleRequest, HistoryRequest, JournalRequest,
        RollbackRequest, SetScheduleRequest, StatusRequest, UpdateStatus, updates_client::UpdatesClient,
    },
};
use lucid_updated::{
    boot::Slot,
    control::{self, Control, GAP, Moving, READERS, Told},
    files::Folder,
    schedule::{Offered, Plan, Planned, Turn},
    service::{Asked, Cause, FAILED, Status},
    stage::Progress,
    state::{Ending, Outcome, Phase},
    trust::Standing,
};
use support::repository::release;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

/// A test ends after this, whatever it waits for.
const LONGEST: Duration = Duration::from_secs(60);

fn outcome(version: &str, slot: Slot, ending: Ending, at: u64) -> Outcome {
    let (reason, source) = (format!("because of {at}"), (at == 40).then(|| "the USB stick sda1".to_owned()));
    Outcome { version: version.parse().unwrap(), slot, ending, reason, at, source }
}

/// What a device knows of what it will do.
fn planned() -> Planned {
    let version = "0.3.0".parse().unwrap();
    Planned {
        next_look: Some(1_795_000_000),
        automatic: true,
        metered: true,
        ground: Some("02:00-04:00".parse().unwrap()),
        offered: Some(Offered { version, bytes: 12_300_000, why: "fetching costs here".to_owned() }),
        turn: Some(Turn { version: "0.4.0".parse().unwrap(), at: 1_795_100_000 }),
        ..Planned::default()
    }
}

fn plan(dir: &Path) -> Arc<Plan> {
    Arc::new(Plan::open(Arc::new(Folder::new(dir.join("state")).unwrap())).0)
}

/// A device that runs 0.1.0 and has seen something.
fn told() -> Told {
    Told {
        running: "0.1.0".parse().unwrap(),
        slot: Slot::A,
        tried: false,
        phase: Phase::Idle {},
        source: Some("https://example.org/".to_owned()),
        cause: Some(Cause::Stick),
        moving: None,
        waiting: Some("the restart waits: 2 sessions are open".to_owned()),
        planned: planned(),
        memory_peak: Some(12_000_000),
        floor: "0.0.9".parse().unwrap(),
        refused: vec!["0.1.5".parse().unwrap()],
        history: vec![
            outcome("0.1.0", Slot::A, Ending::Installed, 10),
            outcome("0.1.5", Slot::B, Ending::Failed, 20),
            outcome("0.1.6", Slot::B, Ending::Dropped, 30),
            outcome("0.1.0", Slot::A, Ending::Lost, 40),
        ],
        trust: Some(Standing {
            root: 2,
            root_expires: "2027-01-31T00:00:00Z".to_owned(),
            development: true,
            timestamp: Some((7, "2026-12-01T00:00:00Z".to_owned())),
            checked: None,
        }),
        troubles: vec!["trust.json: it ends within its first line".to_owned()],
        wishes_done: 0,
        wish_failed: None,
    }
}

/// The same, as the service has it.
fn known(progress: Option<Progress>) -> Status {
    let Told {
        running,
        slot,
        tried,
        phase,
        source,
        cause,
        waiting,
        planned,
        memory_peak,
        floor,
        refused,
        history,
        trust,
        troubles,
        ..
    } = told();
    Status {
        running,
        slot,
        tried,
        phase,
        source,
        cause,
        progress,
        waiting,
        planned: Some(planned),
        floor,
        history,
        refused,
        trust,
        memory_peak,
        troubles,
    }
}

fn moving(done: u64) -> Option<Moving> {
    let progress = Progress { total: 5000, done, kept: 3, copied: 2, fetched: 1, ..Progress::default() };
    Some(Moving { progress, rate: 10, left: Some(499) })
}

/// The service's end of the socket.
struct World {
    dir: tempfile::TempDir,
    tell: watch::Sender<Told>,
    wishes: mpsc::Receiver<Asked>,
}

impl World {
    fn start(most: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ((tell, told), (send, wishes)) = (watch::channel(told()), mpsc::channel(most));
        let (plan, store) = (plan(dir.path()), Arc::new(Folder::of(dir.path().to_owned())));
        control::serve(&dir.path().join(control::SOCKET), told, send, plan, store).unwrap();
        Self { dir, tell, wishes }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(control::SOCKET)
    }

    async fn client(&self) -> UpdatesClient<Channel> {
        UpdatesClient::new(connect(&self.socket()).await.unwrap())
    }

    async fn follow(&self) -> Streaming<UpdateStatus> {
        self.client().await.status(StatusRequest {}).await.unwrap().into_inner()
    }
}

async fn next(changes: &mut Streaming<UpdateStatus>) -> UpdateStatus {
    timeout(LONGEST, changes.message()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn the_journal_of_a_failed_start_is_given_by_its_number_and_where_there_is_none_that_is_said() {
    let world = World::start(1);
    let mut client = world.client().await;
    fs::write(world.dir.path().join(FAILED[1]), "the one before\n[    1.0] \u{e9}").unwrap();
    let text = client.journal(JournalRequest { number: 2 }).await.unwrap().into_inner().text;
    assert_eq!(text, "the one before\n[    1.0] \u{e9}");
    for number in [0, 1, 3, 4, u32::MAX] {
        let status = client.journal(JournalRequest { number }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{number}: {status}");
    }
}

#[tokio::test]
async fn a_client_is_told_how_it_stands_and_then_each_change_in_order() {
    let world = World::start(1);
    let mut changes = world.follow().await;
    let first = next(&mut changes).await;
    let expected = UpdateStatus {
        running: "0.1.0".to_owned(),
        slot: wire::Slot::A.into(),
        tried: false,
        phase: wire::Phase::Idle.into(),
        version: None,
        target: None,
        progress: None,
        memory_peak_bytes: 12_000_000,
        floor: "0.0.9".to_owned(),
        refused: vec!["0.1.5".to_owned()],
        last: Some(wire::Outcome {
            version: "0.1.0".to_owned(),
            slot: wire::Slot::A.into(),
            ending: wire::Ending::Lost.into(),
            reason: "because of 40".to_owned(),
            at_seconds: 40,
            source: Some("the USB stick sda1".to_owned()),
        }),
        trust: Some(wire::Trust {
            root_version: 2,
            root_expires: "2027-01-31T00:00:00Z".to_owned(),
            development: true,
            timestamp: Some(wire::Timestamp { version: 7, expires: "2026-12-01T00:00:00Z".to_owned() }),
            looked: None,
        }),
        troubles: vec!["trust.json: it ends within its first line".to_owned()],
        waiting: Some("the restart waits: 2 sessions are open".to_owned()),
        wishes_done: 0,
        wish_failed: None,
        offered: Some(wire::Offered {
            version: "0.3.0".to_owned(),
            download_bytes: 12_300_000,
            why: "fetching costs here".to_owned(),
        }),
        source: Some("https://example.org/".to_owned()),
        cause: wire::Cause::Stick.into(),
    };
    assert_eq!(first, expected);

    world.tell.send_modify(|told| told.phase = Phase::Staging { release: release("0.2.0"), slot: Slot::B });
    let staging = next(&mut changes).await;
    assert_eq!(staging.phase(), wire::Phase::Staging);
    assert_eq!((staging.version.as_deref(), staging.target()), (Some("0.2.0"), wire::Slot::B));
    for done in [1000, 2000, 3000] {
        world.tell.send_modify(|told| told.moving = moving(done));
        let progress = next(&mut changes).await.progress.unwrap();
        assert_eq!((progress.done_bytes, progress.total_bytes), (done, 5000));
        assert_eq!((progress.kept_bytes, progress.copied_bytes, progress.fetched_bytes), (3, 2, 1));
        assert_eq!((progress.bytes_per_second, progress.seconds_left), (10, Some(499)));
    }
    world.tell.send_modify(|told| {
        told.phase = Phase::Good { release: release("0.2.0"), slot: Slot::B };
        (told.moving, told.wishes_done, told.wish_failed) = (None, 1, Some("no source answers".to_owned()));
    });
    let good = next(&mut changes).await;
    assert_eq!((good.phase(), &good.progress), (wire::Phase::Good, &None));
    assert_eq!((good.wishes_done, good.wish_failed.as_deref()), (1, Some("no source answers")));

    // One who comes later begins with the same, and both are told that it is over.
    let mut later = world.follow().await;
    assert_eq!(next(&mut later).await, good);
    drop(world.tell);
    for changes in [&mut changes, &mut later] {
        assert_eq!(timeout(LONGEST, changes.message()).await.unwrap().unwrap(), None);
    }
}

#[tokio::test]
async fn what_is_not_told_anew_sends_nothing() {
    let world = World::start(1);
    let mut changes = world.follow().await;
    next(&mut changes).await;
    // The same again, which is no change.
    world.tell.send_modify(|told| told.memory_peak = Some(12_000_000));
    assert!(timeout(GAP * 4, changes.message()).await.is_err());
    world.tell.send_modify(|told| told.memory_peak = Some(13_000_000));
    assert_eq!(next(&mut changes).await.memory_peak_bytes, 13_000_000);
}

#[tokio::test]
async fn however_much_is_told_a_client_gets_few_messages_and_the_newest_last() {
    const CHANGES: u64 = 2000;
    let world = World::start(1);
    let mut changes = world.follow().await;
    next(&mut changes).await;
    let begun = Instant::now();
    for done in 1..=CHANGES {
        world.tell.send_modify(|told| told.moving = moving(done));
        if done % 10 == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&CHANGES) {
        seen.push(next(&mut changes).await.progress.unwrap().done_bytes);
    }
    assert!(seen.is_sorted_by(|one, other| one < other), "{seen:?}");
    let most = begun.elapsed().as_millis() / GAP.as_millis() + 2;
    assert!(seen.len() as u128 <= most, "{} messages, where {most} fit", seen.len());
}

#[tokio::test]
async fn no_more_follow_than_there_are_places_and_who_leaves_makes_room() {
    let world = World::start(1);
    // Each on a connection of his own: one connection carries no more calls than that anyway.
    let mut followers = Vec::new();
    for _ in 0..READERS {
        let mut changes = world.follow().await;
        next(&mut changes).await;
        followers.push(changes);
    }
    let refused = world.client().await.status(StatusRequest {}).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    followers.pop();
    let begun = Instant::now();
    while let Err(refused) = world.client().await.status(StatusRequest {}).await {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(begun.elapsed() < LONGEST, "the place stays taken");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn wishes_are_numbered_and_arrive_in_order_and_more_than_fit_are_refused() {
    let mut world = World::start(2);
    let (mut one, mut other) = (world.client().await, world.client().await);
    assert_eq!(one.check(CheckRequest { download: true }).await.unwrap().into_inner().wish, 1);
    assert_eq!(other.apply(ApplyRequest {}).await.unwrap().into_inner().wish, 2);
    for refused in [
        one.check(CheckRequest::default()).await.unwrap_err(),
        other.apply(ApplyRequest {}).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("wait until"), "{refused}");
    }
    assert_eq!(world.wishes.recv().await, Some(Asked::Download));
    let again = one.check(CheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(again.wish, 3, "what was refused has none");
    assert_eq!(world.wishes.recv().await, Some(Asked::Apply));
    assert_eq!(world.wishes.recv().await, Some(Asked::Check));
    assert_eq!(other.rollback(RollbackRequest {}).await.unwrap().into_inner().wish, 4);
    assert_eq!(world.wishes.recv().await, Some(Asked::Rollback));
    world.wishes.close();
    assert_eq!(one.apply(ApplyRequest {}).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn the_service_is_given_wishes_and_says_which_are_done_and_how_fast_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(control::SOCKET);
    let store = Arc::new(Folder::of(dir.path().to_owned()));
    let mut control = Control::open(&socket, &known(None), plan(dir.path()), store).unwrap();
    let mut client = UpdatesClient::new(connect(&socket).await.unwrap());
    let mut changes = client.status(StatusRequest {}).await.unwrap().into_inner();
    let first = next(&mut changes).await;
    assert_eq!((first.running.as_str(), first.wishes_done, &first.progress), ("0.1.0", 0, &None));
    for (number, failed) in [(1, Some("no source answers")), (2, None)] {
        assert_eq!(client.apply(ApplyRequest {}).await.unwrap().into_inner().wish, number);
        assert_eq!(timeout(LONGEST, control.wish()).await.unwrap(), Asked::Apply);
        // What is done twice was done once.
        for _ in 0..2 {
            control.done(failed.map(str::to_owned));
        }
        control.show(&known(None));
        let told = next(&mut changes).await;
        assert_eq!((told.wishes_done, told.wish_failed.as_deref()), (number, failed));
    }
    for done in [0, 1_000_000] {
        sleep(Duration::from_millis(20)).await;
        control.show(&known(Some(Progress { total: 2_000_000, done, ..Progress::default() })));
        let progress = next(&mut changes).await.progress.unwrap();
        assert_eq!((progress.total_bytes, progress.done_bytes), (2_000_000, done));
        assert_eq!((progress.bytes_per_second > 0, progress.seconds_left.is_some()), (done > 0, done > 0));
    }
    control.show(&known(None));
    assert_eq!(next(&mut changes).await.progress, None);
    drop(control);
    assert_eq!(timeout(LONGEST, changes.message()).await.unwrap().unwrap(), None);
    assert!(client.check(CheckRequest::default()).await.is_err());
}

#[tokio::test]
async fn the_schedule_is_what_lucid_toml_says_and_what_was_set_and_is_kept() {
    let world = World::start(1);
    let mut client = world.client().await;
    let before = client.get_schedule(GetScheduleRequest {}).await.unwrap().into_inner();
    assert!(before.automatic && before.metered);
    assert_eq!((before.window.as_deref(), before.window_set), (Some("02:00-04:00"), false));
    assert_eq!((before.at_seconds, before.paused_until_seconds), (None, None));
    assert_eq!(before.next_look_seconds, Some(1_795_000_000));
    assert_eq!(before.waiting.as_deref(), Some("the restart waits: 2 sessions are open"));
    let turn = wire::Turn { version: "0.4.0".to_owned(), at_seconds: 1_795_100_000 };
    assert_eq!((before.turn, before.offered.unwrap().download_bytes), (Some(turn), 12_300_000));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let set = SetScheduleRequest {
        window: Some("05:00-06:00".to_owned()),
        at_seconds: Some(now + 10_000),
        pause_seconds: Some(5000),
        ..SetScheduleRequest::default()
    };
    let set = client.set_schedule(set).await.unwrap().into_inner();
    assert_eq!((set.window.as_deref(), set.window_set), (Some("05:00-06:00"), true));
    assert_eq!((set.at_seconds, set.restart_seconds), (Some(now + 10_000), Some(now + 10_000)));
    assert!(set.paused_until_seconds.is_some_and(|until| until >= now + 5000), "{set:?}");
    // It is on the disk, and is read again.
    let kept = plan(world.dir.path()).get();
    assert_eq!((kept.at, kept.paused_until), (set.at_seconds, set.paused_until_seconds));
    let resume = SetScheduleRequest { resume: true, ..SetScheduleRequest::default() };
    assert_eq!(client.set_schedule(resume).await.unwrap().into_inner().paused_until_seconds, None);
    let reset = SetScheduleRequest { reset: true, ..SetScheduleRequest::default() };
    let reset = client.set_schedule(reset).await.unwrap().into_inner();
    assert_eq!((reset.window.as_deref(), reset.window_set), (Some("02:00-04:00"), false));
    assert_eq!(reset.at_seconds, None);
}

#[tokio::test]
async fn a_schedule_that_cannot_be_changes_nothing() {
    let world = World::start(1);
    let mut client = world.client().await;
    for (set, why) in [
        (SetScheduleRequest { window: Some("2-4".to_owned()), ..Default::default() }, "no window"),
        (SetScheduleRequest { at_seconds: Some(1), ..Default::default() }, "is over"),
        (SetScheduleRequest { at_seconds: Some(u64::MAX), ..Default::default() }, "more than a year"),
        (SetScheduleRequest { pause_seconds: Some(1 << 40), ..Default::default() }, "90 days at most"),
    ] {
        let set = SetScheduleRequest { resume: true, ..set };
        let refused = client.set_schedule(set).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    }
    assert_eq!(plan(world.dir.path()).get(), Planned::default().set);
}

#[tokio::test]
async fn the_history_is_all_of_it_the_newest_last() {
    let world = World::start(1);
    let history = world.client().await.history(HistoryRequest {}).await.unwrap().into_inner().outcomes;
    let told: Vec<_> = history
        .iter()
        .map(|outcome| (outcome.version.as_str(), outcome.slot(), outcome.ending(), outcome.at_seconds))
        .collect();
    let expected = [
        ("0.1.0", wire::Slot::A, wire::Ending::Installed, 10),
        ("0.1.5", wire::Slot::B, wire::Ending::Failed, 20),
        ("0.1.6", wire::Slot::B, wire::Ending::Dropped, 30),
        ("0.1.0", wire::Slot::A, wire::Ending::Lost, 40),
    ];
    assert_eq!(told, expected);
    assert_eq!(history[1].reason, "because of 20");
}

/// What each call answers to a user; none: it was answered.
async fn codes(socket: &Path) -> Result<[Option<Code>; 7], lucid_ipc::Error> {
    let mut client = UpdatesClient::new(connect(socket).await?);
    Ok([
        client.status(StatusRequest {}).await.err().map(|status| status.code()),
        client.check(CheckRequest::default()).await.err().map(|status| status.code()),
        client.apply(ApplyRequest {}).await.err().map(|status| status.code()),
        client.history(HistoryRequest {}).await.err().map(|status| status.code()),
        client.rollback(RollbackRequest {}).await.err().map(|status| status.code()),
        client.get_schedule(GetScheduleRequest {}).await.err().map(|status| status.code()),
        client.set_schedule(SetScheduleRequest::default()).await.err().map(|status| status.code()),
    ])
}

/// The same, asked by somebody else: a thread that has become him, with sockets of its own.
async fn codes_for(user: u32, socket: PathBuf) -> Result<[Option<Code>; 7], lucid_ipc::Error> {
    let (send, receive) = oneshot::channel();
    thread::spawn(move || {
        let user = rustix::fs::Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // A receiver that is gone has failed already.
        let _ = send.send(runtime.block_on(codes(&socket)));
    });
    timeout(LONGEST, receive).await.unwrap().unwrap()
}

#[tokio::test]
async fn only_root_and_the_services_own_user_may_ask() {
    const NOBODY: u32 = 65534;
    let mut world = World::start(4);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.socket()), 0o600);
    assert_eq!(codes(&world.socket()).await.unwrap(), [None; 7]);
    for _ in 0..3 {
        world.wishes.try_recv().unwrap();
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root, to ask as another user");
        return;
    }
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let denied = codes_for(NOBODY, world.socket()).await;
    assert!(matches!(denied, Err(lucid_ipc::Error::Denied { .. })), "{denied:?}");
    // Whatever becomes of the mode, the kernel's word on the caller holds.
    fs::set_permissions(world.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(codes_for(NOBODY, world.socket()).await.unwrap(), [Some(Code::PermissionDenied); 7]);
    assert_eq!(codes_for(0, world.socket()).await.unwrap(), [None; 7]);
    let asked: Vec<_> = std::iter::from_fn(|| world.wishes.try_recv().ok()).collect();
    assert_eq!(asked, [Asked::Check, Asked::Apply, Asked::Rollback], "of those who may");
}
