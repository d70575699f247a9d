//! A recorder, callers of it, and what the owner reads afterwards.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is for tests")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use lucid_ipc::{
    connect,
    session::{
        self, Actor, Answer, Begin, End, Enforced, Event, Frame, FromRecorder, GetStatusRequest, Key,
        ListRequest, Outcome, Pointer, Recording, Requests, Sound, State, ToRecorder, event, from_recorder,
        recorder_client::RecorderClient, recordings_client::RecordingsClient, to_recorder,
    },
    tonic::{Code, Status, Streaming, transport::Channel},
};
use lucid_policy::Policy;
use lucid_recording::{Limits, OwnerSecret, PublicKey, Reader, Report, Verdict, verify};
use lucid_sessiond::{Error, Options, SOCKET, system_clock};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;

/// A test ends after this, whatever it waits for.
pub const LONGEST: Duration = Duration::from_secs(120);
/// Small chunks, so that a small recording has several.
pub const SMALL: Limits = Limits { soft: 64 << 10, hard: 128 << 10 };
pub const USER: &str = "ada";

pub fn owner() -> OwnerSecret {
    OwnerSecret::from_bytes([0x0a; 32])
}

pub fn observer() -> OwnerSecret {
    OwnerSecret::from_bytes([0x0b; 32])
}

/// A directory that costs no disk.
pub fn temp() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Everything that may cross, may.
pub fn open() -> Policy {
    let mut policy = Policy::standard();
    (policy.clipboard.host_to_remote, policy.clipboard.remote_to_host) = (true, true);
    policy.clipboard.max_bytes = 64 << 20;
    (policy.file.upload_enabled, policy.file.download_enabled) = (true, true);
    (policy.file.allowed_dirs, policy.file.allowed_extensions) = (vec!["*".to_owned()], vec!["*".to_owned()]);
    policy.limits.concurrent_sessions = 64;
    policy
}

/// A wall clock that tests set.
#[derive(Clone, Default)]
pub struct Wall(Arc<AtomicI64>);

impl Wall {
    pub fn jump(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

pub fn options(dir: &Path) -> Options {
    Options {
        state: dir.join("state"),
        run: dir.join("run"),
        owners: vec![owner().public().unwrap()],
        observers: vec![observer().public().unwrap()],
        most_bytes: None,
        keep_free: 0,
        resume_for: Duration::from_secs(3600),
        group: None,
        limits: SMALL,
        wall: system_clock(),
        policy: open(),
        terms: String::new(),
        accounts: None,
        approvers_needed: 1,
    }
}

pub fn with_wall(mut options: Options, wall: &Wall) -> Options {
    let (wall, system) = (wall.clone(), system_clock());
    options.wall = Arc::new(move || system().saturating_add_signed(wall.0.load(Ordering::SeqCst)));
    options
}

/// A recorder in this process.
pub struct Recorder {
    pub socket: PathBuf,
    pub recordings: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<Result<(), Error>>,
}

impl Recorder {
    pub async fn start(options: Options) -> Self {
        let socket = options.run.join(SOCKET);
        let recordings = options.state.join("recordings");
        // The one of a recorder before.
        drop(std::fs::remove_file(&socket));
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(lucid_sessiond::run(options, async move {
            // Dropped is stopped as well.
            drop(stopped.await);
        }));
        let recorder = Self { socket, recordings, stop: Some(stop), done };
        while !recorder.socket.exists() {
            assert!(!recorder.done.is_finished(), "it did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        recorder
    }

    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.done.await.unwrap().unwrap();
    }

    pub fn dir(&self, session: &str) -> PathBuf {
        self.recordings.join(session)
    }
}

pub async fn recordings(socket: &Path) -> RecordingsClient<Channel> {
    RecordingsClient::new(connect(socket).await.unwrap())
}

pub async fn list(socket: &Path) -> Vec<Recording> {
    let mut stream = recordings(socket).await.list(ListRequest {}).await.unwrap().into_inner();
    let mut list = Vec::new();
    while let Some(recording) = stream.message().await.unwrap() {
        list.push(recording);
    }
    list
}

pub async fn status(socket: &Path) -> session::Status {
    recordings(socket).await.get_status(GetStatusRequest {}).await.unwrap().into_inner()
}

/// Waits until a session is in a state.
pub async fn until(socket: &Path, session: &str, state: State) -> Recording {
    let found = async {
        loop {
            let found = list(socket).await.into_iter().find(|recording| recording.session == session);
            if let Some(found) = found
                && found.state() == state
            {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONGEST / 2, found).await.expect("it does not get there")
}

/// What the RDP host would be.
pub struct Caller {
    pub session: String,
    send: Option<mpsc::Sender<ToRecorder>>,
    answers: Streaming<FromRecorder>,
    /// Items that were sent on this stream.
    pub sent: u64,
    /// How many of them are on the disk.
    pub kept: u64,
    pub keys_wanted: u64,
    /// What held, one after the other.
    pub policies: Vec<Policy>,
    /// What was asked for, as it was told last.
    pub requests: Requests,
    /// Why the session had to end.
    pub over: Option<String>,
    /// Says which policy it enforces.
    pub honest: bool,
}

impl Caller {
    pub async fn begin(socket: &Path, user: &str, resume: &str) -> Result<Self, Status> {
        let begin = Begin {
            user: user.to_owned(),
            resume: resume.to_owned(),
            width: 640,
            height: 480,
            encoder: "a test".into(),
        };
        Self::first(socket, to_recorder::Item::Begin(begin)).await
    }

    pub async fn first(socket: &Path, first: to_recorder::Item) -> Result<Self, Status> {
        let channel = connect(socket).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (send, items) = mpsc::channel(4);
        send.send(ToRecorder { item: Some(first) }).await.unwrap();
        let mut client = RecorderClient::new(channel);
        let mut answers = client.record(ReceiverStream::new(items)).await?.into_inner();
        let mut said = answers.message().await?;
        if let Some(FromRecorder { item: Some(from_recorder::Item::Asking(_)) }) = said {
            let answer = to_recorder::Item::Answer(Answer { accepted: true });
            send.send(ToRecorder { item: Some(answer) }).await.unwrap();
            said = answers.message().await?;
        }
        let Some(FromRecorder { item: Some(from_recorder::Item::Begun(begun)) }) = said else {
            panic!("it begins with something else");
        };
        Ok(Self {
            session: begun.session,
            send: Some(send),
            answers,
            sent: 0,
            kept: 0,
            keys_wanted: 0,
            policies: Vec::new(),
            requests: Requests::default(),
            over: None,
            honest: true,
        })
    }

    /// Sends an item; says whether the stream still takes any.
    pub async fn try_send(&mut self, item: to_recorder::Item) -> bool {
        self.sent += 1;
        match &self.send {
            Some(send) => send.send(ToRecorder { item: Some(item) }).await.is_ok(),
            None => false,
        }
    }

    pub async fn send(&mut self, item: to_recorder::Item) {
        assert!(self.try_send(item).await, "the stream is over");
    }

    /// The next answer, noted; none at the end.
    pub async fn answer(&mut self) -> Result<Option<from_recorder::Item>, Status> {
        let Some(answer) = self.answers.message().await? else { return Ok(None) };
        match answer.item.as_ref().unwrap() {
            from_recorder::Item::Begun(_) => panic!("it begins twice"),
            from_recorder::Item::KeyWanted(_) => self.keys_wanted += 1,
            from_recorder::Item::Kept(kept) => {
                assert!(kept.items > self.kept && kept.items <= self.sent, "kept {kept:?}");
                self.kept = kept.items;
            }
            from_recorder::Item::Policy(policy) => {
                let hash = blake3::hash(&policy.table).as_bytes().to_vec().into();
                let enforced = Enforced { number: policy.number, hash };
                let holds = Policy::from_bytes(&policy.table).unwrap();
                if self.policies.last() != Some(&holds) {
                    self.policies.push(holds);
                }
                if self.honest {
                    // One that is over takes nothing any more; and it is no item.
                    self.try_send(to_recorder::Item::Enforced(enforced)).await;
                    self.sent -= 1;
                }
            }
            from_recorder::Item::Requests(requests) => self.requests = requests.clone(),
            from_recorder::Item::Over(over) => self.over = Some(over.reason.clone()),
            from_recorder::Item::Asking(_) => panic!("it asks twice"),
        }
        Ok(answer.item)
    }

    /// Waits until everything that was sent is on the disk.
    pub async fn all_kept(&mut self) {
        while self.kept < self.sent {
            self.answer().await.unwrap().expect("it ended");
        }
    }

    /// Waits for the next key that is wanted.
    pub async fn key_wanted(&mut self) {
        let wanted = self.keys_wanted;
        while self.keys_wanted == wanted {
            self.answer().await.unwrap().expect("it ended");
        }
    }

    /// Ends the session, and waits until that is on the disk.
    pub async fn end(mut self) {
        self.send(to_recorder::Item::End(End { reason: "over".to_owned() })).await;
        while self.answer().await.unwrap().is_some() {}
        assert_eq!(self.kept, self.sent);
    }

    /// Reads until the stream ends with a status.
    pub async fn failure(mut self) -> Status {
        loop {
            match self.answer().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a status"),
                Err(status) => return status,
            }
        }
    }

    /// Sends nothing more, and says so.
    pub fn close(&mut self) {
        self.send = None;
    }
}

pub fn frame(bytes: &[u8]) -> to_recorder::Item {
    to_recorder::Item::Frame(Frame { pdus: bytes.to_vec().into() })
}

pub fn pointer(bytes: &[u8]) -> to_recorder::Item {
    to_recorder::Item::Pointer(Pointer { bytes: bytes.to_vec().into() })
}

pub fn sound(bytes: &[u8]) -> to_recorder::Item {
    to_recorder::Item::Sound(Sound { bytes: bytes.to_vec().into() })
}

/// A picture of one colour.
pub fn key(width: u32, height: u32, colour: [u8; 3]) -> to_recorder::Item {
    let rgb = colour.repeat((width * height) as usize);
    to_recorder::Item::Key(Key { width, height, rgb: rgb.into() })
}

pub fn said(data: event::Data) -> to_recorder::Item {
    to_recorder::Item::Event(Event {
        actor: Actor::Client.into(),
        outcome: Outcome::Allowed.into(),
        resource: "session".to_owned(),
        data: Some(data),
    })
}

pub fn focus(title: &str) -> to_recorder::Item {
    let focus = session::Focus { app_id: Some("foot".to_owned()), title: Some(title.to_owned()) };
    said(event::Data::Focus(focus))
}

/// A record as its owner reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub stream: u8,
    pub key: bool,
    pub mono_us: u64,
    pub payload: Vec<u8>,
}

/// Every record of a recording.
pub fn read(dir: &Path, secret: &OwnerSecret) -> Vec<Kept> {
    let reader = Reader::open(dir, secret, None).unwrap();
    let mut kept = Vec::new();
    for index in 0..reader.chunks().len() {
        let mut records = reader.chunk(index as u32).unwrap();
        while let Some(record) = records.next().unwrap() {
            kept.push(Kept {
                stream: record.stream,
                key: record.key,
                mono_us: record.mono_us,
                payload: record.payload.to_vec(),
            });
        }
    }
    kept
}

pub const VIDEO: u8 = 1;
pub const AUDIT: u8 = 2;
pub const POINTER: u8 = 3;
pub const SOUND: u8 = 4;

/// The payloads of one stream.
pub fn stream(kept: &[Kept], stream: u8) -> Vec<&[u8]> {
    kept.iter().filter(|kept| kept.stream == stream).map(|kept| kept.payload.as_slice()).collect()
}

/// The events, whose chain holds.
pub fn events(kept: &[Kept], last: Option<lucid_recording::Hash>) -> Vec<lucid_audit::Event> {
    let text = stream(kept, AUDIT).concat();
    assert!(text.is_empty() || text.ends_with(b"\n"));
    let lines: Vec<_> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    lucid_audit::verify(lines.iter().copied(), last).unwrap();
    lines.iter().map(|line| lucid_audit::Event::from_line(line).unwrap()).collect()
}

/// The kinds of events.
pub fn kinds(events: &[lucid_audit::Event]) -> Vec<lucid_audit::Kind> {
    events.iter().map(|event| event.kind).collect()
}

/// Verifies with the owner's key.
pub fn report(dir: &Path, device: Option<PublicKey>) -> Report {
    let owner = owner();
    let options = lucid_recording::verify::Options { owner: Some(&owner), device };
    verify(dir, options, &mut |_| ()).unwrap()
}

/// Everything holds.
pub fn sound_recording(dir: &Path) -> Report {
    let report = report(dir, None);
    assert_eq!(report.verdict, Verdict::Sound, "{report:?}");
    report
}

/// What the manifest says of the audit.
pub fn manifest(dir: &Path) -> lucid_recording::statement::Manifest {
    let bytes = std::fs::read(dir.join("manifest.json")).unwrap();
    type Signed = lucid_statement::json::Signed<lucid_recording::statement::Manifest>;
    lucid_statement::json::from_bytes::<Signed>("the manifest", &bytes).unwrap().body
}

/// Files of a directory, with their contents.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

pub fn code(result: Result<Caller, Status>) -> Code {
    match result {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}
