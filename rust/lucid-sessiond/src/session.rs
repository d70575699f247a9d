//! One session: a thread that owns its recording, from the first item to the manifest.
//!
//! What happens to it, and what then:
//!
//! | | |
//! | --- | --- |
//! | its stream breaks | everything is committed; it waits, with the recording open |
//! | somebody resumes it | the gap is noted, and it goes on in the same part |
//! | nobody does | the gap is noted, and it ends as `finished` |
//! | a write fails | the stream ends with a status; it waits to be recovered |
//! | it is found without a manifest | it is recovered, and waits |
//! | somebody resumes it after that | it goes on in a new part, with a new key |
//! | nobody does | it ends as `recovered`; where the disk does not let it, that is tried again |
//! | what is enforced is not what was decided | it is void: the stream ends, and the recording says so |
//! | something is tried that the policy ends sessions for, or its time is over | the same, without being void |
//!
//! What was approved ends with the recorder: a session that is resumed after that runs under its own policy again.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use lucid_audit::{Actor, Chain, Data, Entry as Event, Line, MAX_UNCONFIRMED, Name, Outcome, Word};
use lucid_ipc::{
    session::{Decided, Holds, Requests, State, Wanted},
    tonic::Status,
};
use lucid_policy::{
    approval::{Ended, Refused, Request, Setting, Standing, Verdict},
    ask::Gate,
    snapshot::{MAX_SNAPSHOT, Snapshot},
};
use lucid_recording::{
    Hash, Limits, PublicKey, Recipient, Recovery, Role, SessionId, Start, Time, Writer,
    chunk::MAX_PAYLOAD,
    statement::{Audit, Participant},
    system_random,
};
use lucid_session::{AUDIT, POINTER, SOUND, VIDEO, video};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::{
    accounts::Accounts,
    clock::{Clock, WallClock},
    consent::Consented,
    error::{Error, Result},
    files::{self, Ending, Entry},
    payload,
    policy::{self, Held, Stop, Told},
    shared,
};

/// An item is on the disk within so long after it came, where the disk lets it.
const KEPT_WITHIN: Duration = Duration::from_secs(1);
/// A commit begins so long after the oldest item that it confirms came; sooner, where commits take long.
const COMMIT_AFTER: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_millis(500);
/// Between two commits there is so much time for what came during the first.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// What the disk did not let happen is tried again after this.
const RETRY: Duration = Duration::from_secs(60);
/// Audit lines are kept in records of about this many bytes.
const MAX_LINES: usize = 1 << 20;
/// What a buffer for a frame may keep between frames.
const SCRATCH: usize = 1 << 20;
/// What may wait for the disk in a session, in units of a KiB: a picture of 3840x2160 and some frames. What is larger by
/// itself waits until there is nothing else.
const ROOM: usize = 32 << 10;
/// This program, in the recordings.
pub(crate) const RECORDER: &str = concat!("lucid-sessiond ", env!("CARGO_PKG_VERSION"));

/// How much room something takes while it waits.
pub(crate) fn room(bytes: usize) -> u32 {
    // At most ROOM, which fits.
    ((bytes >> 10) + 1).min(ROOM) as u32
}

/// What all sessions share.
pub(crate) struct Settings {
    pub(crate) recordings: PathBuf,
    pub(crate) device: lucid_recording::SigningKey,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) limits: Limits,
    pub(crate) resume_for: Duration,
    pub(crate) wall: WallClock,
    pub(crate) accounts: Arc<Accounts>,
    /// Counts what is new about requests, in all sessions.
    pub(crate) asked: watch::Sender<u64>,
}

impl Settings {
    /// The keys of those who can open what is recorded, beside the owner.
    pub(crate) fn observers(&self) -> impl Iterator<Item = PublicKey> {
        let observers = self.recipients.iter().filter(|recipient| recipient.role == Role::Observer);
        observers.map(|recipient| recipient.key)
    }
}

/// Something to record, or to know.
pub(crate) enum Item {
    /// A key, as soon as it is compressed.
    Key(mpsc::Receiver<Result<Picture>>),
    Frame(Bytes, OwnedSemaphorePermit),
    Pointer(Bytes, OwnedSemaphorePermit),
    Sound(Bytes, OwnedSemaphorePermit),
    Event(Event, OwnedSemaphorePermit),
    /// Its user asks for a gate.
    Ask(&'static Gate, OwnedSemaphorePermit),
    End(Word),
}

/// A key picture as PNG, with the room that it takes.
pub(crate) struct Picture {
    pub(crate) width: u16,
    pub(crate) height: u16,
    pub(crate) png: Vec<u8>,
    pub(crate) room: OwnedSemaphorePermit,
}

/// What a session is told.
pub(crate) enum Command {
    /// Goes on with the session.
    Attach { user: String, answer: oneshot::Sender<Result<Attached>> },
    /// Something came on a stream.
    Item { stream: u64, time: Time, item: Item },
    /// What the host enforces.
    Enforced { stream: u64, number: u32, hash: Bytes },
    /// A stream ended without `end`.
    Detach { stream: u64, why: &'static str, status: Status },
    /// Somebody's signed request for a change of what holds; the answer is its number.
    Ask { signed: Bytes, answer: oneshot::Sender<Result<u32>> },
    /// An approver's signed decision.
    Decide { statement: Bytes, answer: oneshot::Sender<Result<Decided>> },
    /// An approver's decision on a request of that hash, as the device sees it.
    DecideAtDesk {
        approver: String,
        request: Hash,
        verdict: Verdict,
        answer: oneshot::Sender<Result<Decided>>,
    },
    /// What holds.
    Policy { answer: oneshot::Sender<Result<Holds>> },
    /// Somebody ends it.
    End { reason: String, answer: oneshot::Sender<Result<()>> },
    /// The service stops.
    Stop,
}

/// A stream that records a session. Whoever drops it detaches it.
pub(crate) struct Attached {
    pub(crate) session: SessionId,
    /// Its number, so that one that was given up is not taken for a later one.
    pub(crate) stream: u64,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) clock: Clock,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) progress: watch::Receiver<Progress>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let status = Status::cancelled("the caller went");
        // One that is over, or was detached with a better reason, does not mind.
        drop(self.commands.send(Command::Detach { stream: self.stream, why: "the caller went", status }));
    }
}

/// What the caller is told.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    pub(crate) kept: u64,
    pub(crate) keys_wanted: u64,
    /// What holds from now on.
    pub(crate) told: Option<Told>,
    /// What was asked for.
    pub(crate) requests: Requests,
    /// Why the session has to end.
    pub(crate) over: Option<String>,
    pub(crate) ended: Option<Result<(), Status>>,
}

/// What the list says of a session that is not over.
#[derive(Clone)]
pub(crate) struct Facts {
    pub(crate) user: String,
    pub(crate) start_ms: u64,
    pub(crate) state: State,
    pub(crate) gaps: u32,
    pub(crate) problem: String,
    /// What was asked for in it while it runs, as it was then.
    pub(crate) wanted: (Instant, Vec<Wanted>),
}

pub(crate) type SharedFacts = Arc<Mutex<Facts>>;

/// The recording as it is at the moment.
enum Store {
    /// It is being written, or could be.
    Open(Box<Writer>, Chain),
    /// It was recovered, and can go on or end.
    Recovered(Box<Recovery>),
    /// It has to be recovered.
    Lost,
}

struct Stream {
    number: u64,
    progress: watch::Sender<Progress>,
    /// Items that came, and were written.
    items: u64,
}

/// What is not over yet.
enum Flow {
    On,
    Over(Option<Entry>),
}

pub(crate) struct Session {
    settings: Arc<Settings>,
    /// To itself.
    commands: mpsc::Sender<Command>,
    id: SessionId,
    dir: PathBuf,
    facts: SharedFacts,
    clock: Clock,
    store: Store,
    stream: Option<Stream>,
    streams: u64,
    /// Audit lines that are in no record yet, and how many no head names.
    lines: Vec<u8>,
    unconfirmed: usize,
    /// Of the newest item.
    last: Time,
    /// When the oldest of what is not committed came.
    pending: Option<Instant>,
    committed: Instant,
    /// How long commits take: the longest, as far as the last ones still tell.
    commits_take: Duration,
    key_asked: bool,
    /// Until when a session that nobody records may be resumed.
    until: Option<Instant>,
    /// What holds in it; none where what was decided is not known (any more).
    held: Option<Held>,
    /// What became of a request last, for people, and how often something has.
    news: (String, u64),
    /// Its user had an account when its stream began.
    has_account: bool,
    /// That it has to end, and how; its disk may not let it yet.
    stopped: Option<(Outcome, Word)>,
    scratch: Vec<u8>,
}

impl Session {
    /// Begins a recording.
    pub(crate) fn create(
        settings: Arc<Settings>,
        consented: Consented,
        codec: String,
        facts: SharedFacts,
        commands: mpsc::Sender<Command>,
    ) -> Result<Self> {
        let clock = Clock::new(Arc::clone(&settings.wall));
        let time = clock.now();
        let Consented { id, user, policy, policy_hash, key, receipt } = consented;
        let snapshot = Snapshot::new(&policy, id, time.wall_ms)?.sign(&settings.device)?;
        let held = Held::new(policy, id, user.clone(), settings.accounts.people())?;
        let accepted = Data::Consent { receipt: blake3::hash(&receipt).into() };
        let start = Start {
            session: id,
            participants: std::iter::once(Participant { key, name: user, role: files::USER.to_owned() })
                .chain(settings.observers().zip(1..).map(|(key, number)| Participant {
                    key,
                    name: format!("observer {number}"),
                    role: "observer".to_owned(),
                }))
                .collect(),
            policy: policy_hash,
            consent: Some(receipt),
            snapshot: Some(snapshot),
            codec,
            streams: payload::streams(),
            recorder: RECORDER.to_owned(),
        };
        let writer = Writer::create(
            &settings.recordings,
            start,
            time,
            &settings.recipients,
            settings.device.clone(),
            settings.limits,
            system_random(),
        )?;
        shared(&facts).start_ms = time.wall_ms;
        let store = Store::Open(Box::new(writer), Chain::new(id));
        let mut session = Self::new(settings, commands, id, facts, clock, store, time);
        session.held = Some(held);
        let accepted = Event {
            actor: Actor::Client,
            outcome: Outcome::Allowed,
            resource: Word::default(),
            data: accepted,
        };
        session.event(time, accepted)?;
        Ok(session)
    }

    /// Takes a recording that has no manifest.
    pub(crate) fn found(
        settings: Arc<Settings>,
        id: SessionId,
        facts: SharedFacts,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let clock = Clock::new(Arc::clone(&settings.wall));
        let time = clock.now();
        let mut session = Self::new(settings, commands, id, facts, clock, Store::Lost, time);
        session.wait();
        session
    }

    fn new(
        settings: Arc<Settings>,
        commands: mpsc::Sender<Command>,
        id: SessionId,
        facts: SharedFacts,
        clock: Clock,
        store: Store,
        last: Time,
    ) -> Self {
        Self {
            dir: settings.recordings.join(id.to_string()),
            settings,
            commands,
            id,
            facts,
            clock,
            store,
            stream: None,
            streams: 0,
            lines: Vec::new(),
            unconfirmed: 0,
            last,
            pending: None,
            committed: Instant::now(),
            commits_take: Duration::ZERO,
            key_asked: false,
            until: None,
            held: None,
            news: (String::new(), 0),
            has_account: false,
            stopped: None,
            scratch: Vec::new(),
        }
    }

    /// Lives until the recording is over or the service stops; gives what the list says then.
    pub(crate) fn run(mut self, commands: &mpsc::Receiver<Command>) -> Option<Entry> {
        if matches!(self.store, Store::Lost)
            && let Flow::Over(entry) = self.recover()
        {
            return entry;
        }
        loop {
            let now = Instant::now();
            let due = [self.commit_at(), self.until, self.policy_at()].into_iter().flatten().min();
            let command = match due {
                Some(due) if due <= now => None,
                Some(due) => match commands.recv_timeout(due - now) {
                    Ok(command) => Some(command),
                    Err(mpsc::RecvTimeoutError::Timeout) => None,
                    Err(mpsc::RecvTimeoutError::Disconnected) => Some(Command::Stop),
                },
                None => Some(commands.recv().unwrap_or(Command::Stop)),
            };
            let flow = match command {
                Some(command) => self.command(command),
                None => self.due(),
            };
            if let Flow::Over(entry) = flow {
                return entry;
            }
        }
    }

    /// Answers whoever began the session.
    pub(crate) fn attach_first(&mut self) -> Result<Attached> {
        let user = shared(&self.facts).user.clone();
        self.attach(&user)
    }

    fn command(&mut self, command: Command) -> Flow {
        match command {
            Command::Attach { user, answer } => {
                let attached = self.attach(&user);
                if let Err(error) = &attached {
                    tracing::warn!(session = %self.id, "not resumed: {error}");
                }
                // Where who asked is gone, it is detached again.
                drop(answer.send(attached));
            }
            Command::Item { stream, time, item } => {
                if self.stream.as_ref().is_some_and(|current| current.number == stream) {
                    return match self.item(time, item) {
                        Ok(flow) => flow,
                        Err(error) => self.fail(&error),
                    };
                }
            }
            Command::Detach { stream, why, status } => return self.detach(stream, why, status),
            Command::Enforced { stream, number, hash } => {
                let now = self.since();
                if let (Some(_), Some(held)) =
                    (self.stream.as_ref().filter(|current| current.number == stream), &mut self.held)
                    && let Err(stop) = held.enforced(number, &hash, now)
                {
                    return self.stop(&stop);
                }
            }
            Command::Ask { signed, answer } => {
                let asked = self.ask(&signed);
                return self.answered(asked, answer);
            }
            Command::Decide { statement, answer } => {
                let decided = self.decide(&statement);
                return self.answered(decided, answer);
            }
            Command::DecideAtDesk { approver, request, verdict, answer } => {
                let decided = self.decide_on_screen(&approver, request, verdict);
                return self.answered(decided, answer);
            }
            Command::Policy { answer } => {
                let now = self.since();
                let holds = self.held.as_ref().map_or(Err(Error::NoPolicy(self.id)), |held| held.holds(now));
                drop(answer.send(holds));
            }
            Command::End { reason, answer } => {
                let flow = self.stop(&Stop::Ends(reason));
                drop(answer.send(Ok(())));
                return flow;
            }
            Command::Stop => {
                if let Err(error) = self.commit() {
                    tracing::error!(session = %self.id, "stopping: {error}");
                }
                self.end_stream(Err(Error::Stopping.status()));
                return Flow::Over(None);
            }
        }
        Flow::On
    }

    fn commit_at(&self) -> Option<Instant> {
        // What comes just after a commit has begun waits for that one and for its own.
        let after = KEPT_WITHIN.saturating_sub(self.commits_take * 2);
        let after = after.clamp(*COMMIT_AFTER.start(), *COMMIT_AFTER.end());
        self.pending.map(|since| (since + after).max(self.committed + COMMIT_EVERY))
    }

    fn due(&mut self) -> Flow {
        let now = Instant::now();
        if self.commit_at().is_some_and(|at| at <= now)
            && let Err(error) = self.commit()
        {
            return self.fail(&error);
        }
        if self.policy_at().is_some_and(|at| at <= now)
            && let Flow::Over(entry) = self.renew()
        {
            return Flow::Over(entry);
        }
        if self.until.is_some_and(|until| until <= now) { self.give_up() } else { Flow::On }
    }

    /// Takes up a stream.
    fn attach(&mut self, user: &str) -> Result<Attached> {
        if self.stream.is_some() {
            return Err(Error::Busy(self.id));
        }
        if self.stopped.is_some() {
            return Err(Error::NotWaiting(self.id.to_string()));
        }
        if shared(&self.facts).user != user {
            return Err(Error::OtherUser(self.id));
        }
        if self.streams > 0 || !matches!(self.store, Store::Open(..)) {
            if let Err(error) = self.resume() {
                if !matches!(self.store, Store::Open(..)) {
                    self.store = Store::Lost;
                }
                return Err(error);
            }
            tracing::info!(session = %self.id, "resumed");
        } else {
            tracing::info!(session = %self.id, "begun");
        }
        self.lapse()?;
        self.has_account |= self.settings.accounts.has_desktop(user);
        let since = self.since();
        let holds = self.held()?.tell(since);
        let progress = Progress { keys_wanted: 1, told: Some(holds), ..Progress::default() };
        let (progress, told) = watch::channel(progress);
        self.streams += 1;
        self.stream = Some(Stream { number: self.streams, progress, items: 0 });
        self.key_asked = true;
        self.until = None;
        self.publish(None);
        let mut facts = shared(&self.facts);
        facts.state = State::Recording;
        facts.problem.clear();
        Ok(Attached {
            session: self.id,
            stream: self.streams,
            commands: self.commands.clone(),
            clock: self.clock.clone(),
            room: Arc::new(Semaphore::new(ROOM)),
            progress: told,
        })
    }

    /// Makes a recording that waits one that is written, with a gap up to now.
    fn resume(&mut self) -> Result<()> {
        if let Store::Open(..) = self.store {
            let failed = self.gap("the stream from the RDP host had broken").and_then(|()| self.commit());
            if failed.is_err() {
                self.store = Store::Lost;
            }
            return failed;
        }
        let recovery = self.take_recovery()?;
        let head = files::last_head(&self.dir)?;
        let time = self.now();
        let reason = "the recorder was not running";
        let gap = Data::Gap { from_us: head.mono_us, reason: Word::shortened(reason), to_us: time.mono_us };
        let settings = &self.settings;
        let writer = recovery.resume(&settings.recipients, time, reason, settings.limits, system_random())?;
        shared(&self.facts).gaps += 1;
        let (chain, line) = Chain::resume(self.id, head.audit, time, Event::of_device(gap))?;
        self.store = Store::Open(Box::new(writer), chain);
        self.last = time;
        self.lines.clear();
        self.unconfirmed = 0;
        self.line(&line);
        let committed = self.commit();
        if committed.is_err() {
            self.store = Store::Lost;
        }
        committed
    }

    /// Opens the recovery, if it is not open.
    fn take_recovery(&mut self) -> Result<Recovery> {
        match std::mem::replace(&mut self.store, Store::Lost) {
            Store::Recovered(recovery) => Ok(*recovery),
            _ => Ok(Recovery::open(&self.dir, self.settings.device.clone(), RECORDER)?),
        }
    }

    /// Makes the files of a recording whole that was found, and sets its clock.
    fn recover(&mut self) -> Flow {
        let recovered = self.take_recovery().and_then(|recovery| {
            let found = recovery.found();
            let head = files::last_head(&self.dir)?;
            self.clock = Clock::after(Arc::clone(&self.settings.wall), files::time(&head));
            self.last = files::time(&head);
            let opening = files::opening(&self.dir)?;
            let mut facts = shared(&self.facts);
            facts.user = files::user(&opening);
            facts.start_ms = opening.wall_ms;
            facts.gaps = files::gaps(&self.dir)?;
            tracing::warn!(session = %self.id, ?found, "a recording without an end was recovered; it waits to be resumed");
            if found.lost > 0 || found.changed {
                facts.problem = "what was on the disk is lost or changed: `lucidctl recording verify` says what".to_owned();
            }
            drop(facts);
            self.store = Store::Recovered(Box::new(recovery));
            // One that had come to its end is no longer waited for.
            if let Store::Recovered(recovery) = &self.store
                && recovery.ended()
            {
                self.until = Some(Instant::now());
            } else if let Err(error) = self.take_snapshot() {
                tracing::error!(session = %self.id, "what was decided for it is not known, so it does not go on: {error}");
                shared(&self.facts).problem = format!("it cannot go on: {error}");
                self.until = Some(Instant::now());
            }
            Ok(())
        });
        match recovered {
            Ok(()) => Flow::On,
            Err(error) => self.not_recovered(&error),
        }
    }

    fn not_recovered(&mut self, error: &Error) -> Flow {
        self.store = Store::Lost;
        if let Error::Recording(lucid_recording::Error::Finished(_)) = error {
            return Flow::Over(self.ended());
        }
        shared(&self.facts).problem = error.to_string();
        if error.may_pass() {
            tracing::error!(session = %self.id, "a recording cannot be ended yet: {error}");
            self.until = Some(Instant::now() + RETRY);
            return Flow::On;
        }
        tracing::error!(session = %self.id, "a recording cannot be recovered, and is left as it is: {error}");
        Flow::Over(Some(files::unusable(&self.dir, error.to_string())))
    }

    /// What the list says of a recording with a manifest.
    fn ended(&self) -> Option<Entry> {
        let entry = files::look(&self.dir);
        if let Some(Entry { ending: Ending::Manifest { recovered, .. }, chunks, gaps, .. }) = &entry {
            tracing::info!(session = %self.id, recovered, chunks, gaps, "ended");
        }
        entry
    }

    /// A time that is not before the newest item.
    fn later(&self, time: Time) -> Time {
        Time { mono_us: time.mono_us.max(self.last.mono_us), ..time }
    }

    fn now(&self) -> Time {
        self.later(self.clock.now())
    }

    fn wait(&mut self) {
        self.until = Some(Instant::now() + self.settings.resume_for);
        shared(&self.facts).state = State::Waiting;
    }

    fn end_stream(&mut self, ended: Result<(), Status>) {
        if let Some(stream) = self.stream.take() {
            stream.progress.send_modify(|progress| progress.ended = Some(ended));
            // Nobody decides for one that does not run.
            self.publish(None);
        }
    }

    /// A stream is gone, and the session not over.
    fn detach(&mut self, number: u64, why: &'static str, status: Status) -> Flow {
        if self.stream.as_ref().is_none_or(|stream| stream.number != number) {
            return Flow::On;
        }
        tracing::warn!(session = %self.id, "the stream broke ({why}); it waits to be resumed");
        let event = Event {
            actor: Actor::Device,
            outcome: Outcome::Failed,
            resource: Word::shortened("recorder"),
            data: Data::Disconnect { reason: Word::shortened(why) },
        };
        self.last = self.now();
        let kept = self.event(self.last, event).and_then(|()| self.commit());
        self.end_stream(Err(status));
        if let Some(held) = &mut self.held {
            held.untold();
        }
        self.wait();
        match kept {
            Ok(()) => Flow::On,
            Err(error) => self.fail(&error),
        }
    }

    /// The disk failed, or the format's bounds are reached: nothing more is recorded before somebody resumes.
    fn fail(&mut self, error: &Error) -> Flow {
        tracing::error!(session = %self.id, "not recorded any more: {error}");
        self.store = Store::Lost;
        self.lines.clear();
        self.unconfirmed = 0;
        self.pending = None;
        self.end_stream(Err(error.status()));
        self.wait();
        shared(&self.facts).problem = error.to_string();
        // Nobody knows whether what was approved last was written down.
        if let Some(Err(error)) = self.held.as_mut().map(Held::forget) {
            tracing::error!(session = %self.id, "{error}");
            self.held = None;
        }
        self.publish(Some("What was asked for is forgotten: ask again.".to_owned()));
        Flow::On
    }

    /// Nobody resumed it.
    fn give_up(&mut self) -> Flow {
        self.until = None;
        if let Store::Open(..) = self.store {
            let ended = self
                .gap("the stream from the RDP host had broken, and nobody resumed the session")
                .and_then(|()| {
                    let nobody = || (Outcome::Allowed, Word::shortened("nobody resumed the session"));
                    let (outcome, reason) = self.stopped.clone().unwrap_or_else(nobody);
                    self.end(self.last, outcome, reason)
                });
            return match ended {
                Ok(()) => Flow::Over(self.ended()),
                Err(error) => {
                    let flow = self.fail(&error);
                    self.until = Some(Instant::now() + RETRY);
                    flow
                }
            };
        }
        let time = self.now();
        let ended = self.take_recovery().and_then(|recovery| {
            Ok(recovery.finish(time, "the recorder was not running, and nobody resumed the session")?)
        });
        match ended {
            Ok(_) => Flow::Over(self.ended()),
            Err(error) => self.not_recovered(&error),
        }
    }

    fn open(&mut self) -> Result<(&mut Writer, &mut Chain)> {
        match &mut self.store {
            Store::Open(writer, chain) => Ok((writer, chain)),
            _ => Err(Error::Internal("the recording is not open")),
        }
    }

    /// Records an item.
    fn item(&mut self, time: Time, item: Item) -> Result<Flow> {
        let time = self.later(time);
        match item {
            Item::Key(picture) => {
                let Picture { width, height, png, room: _room } = self.picture(&picture)?;
                let (writer, _) = self.open()?;
                if writer.wants_key() {
                    // What is gathered belongs to the chunk before.
                    self.flush(time)?;
                }
                for record in video::Record::of_key(width, height, &png, MAX_PAYLOAD) {
                    let is_key = matches!(record, video::Record::Key { .. });
                    self.video(time, is_key, &record)?;
                }
                self.key_asked = false;
            }
            Item::Frame(pdus, _room) => {
                self.video(time, false, &video::Record::Frame(&pdus))?;
            }
            Item::Pointer(bytes, _room) => self.open()?.0.append(POINTER.number, time, false, &bytes)?,
            Item::Sound(bytes, _room) => self.open()?.0.append(SOUND.number, time, false, &bytes)?,
            Item::Event(event, _room) => {
                let saw = self.held.as_ref().map_or(Ok(()), |held| held.saw(&event, since(time)));
                self.event(time, event)?;
                if let Err(stop) = saw {
                    return Ok(self.stop(&stop));
                }
            }
            Item::Ask(gate, _room) => self.ask_on_screen(gate)?,
            Item::End(reason) => {
                self.end(time, Outcome::Allowed, reason)?;
                if let Some(stream) = &mut self.stream {
                    stream.items += 1;
                    let items = stream.items;
                    stream.progress.send_modify(|progress| progress.kept = items);
                }
                self.end_stream(Ok(()));
                return Ok(Flow::Over(self.ended()));
            }
        }
        // What an item has had written down itself came after it.
        self.last = self.later(time);
        self.pend(time);
        let wants_key = self.open()?.0.wants_key() && !self.key_asked;
        self.key_asked |= wants_key;
        if let Some(stream) = &mut self.stream {
            stream.items += 1;
            if wants_key {
                stream.progress.send_modify(|progress| progress.keys_wanted += 1);
            }
        }
        // So many lines without a head that names them would be too many after a crash.
        if self.unconfirmed + 2 >= MAX_UNCONFIRMED {
            self.commit()?;
        }
        Ok(Flow::On)
    }

    fn video(&mut self, time: Time, is_key: bool, record: &video::Record<'_>) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        record.write(&mut scratch);
        self.open()?.0.append(VIDEO.number, time, is_key, &scratch)?;
        if scratch.capacity() <= SCRATCH {
            self.scratch = scratch;
        }
        Ok(())
    }

    /// Waits for a key, and commits meanwhile what came before it.
    fn picture(&mut self, picture: &mpsc::Receiver<Result<Picture>>) -> Result<Picture> {
        loop {
            let received = match self.commit_at() {
                None => picture.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(at) => picture.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(picture) => return picture,
                Err(mpsc::RecvTimeoutError::Timeout) => self.commit()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Error::Internal("a picture was not compressed"));
                }
            }
        }
    }

    fn line(&mut self, line: &Line) {
        self.lines.extend_from_slice(&line.bytes);
        self.lines.push(b'\n');
        self.unconfirmed += 1;
    }

    /// Something of that time is there that is not committed.
    fn pend(&mut self, time: Time) {
        let came = self.clock.instant(time);
        self.pending.get_or_insert(came);
    }

    fn event(&mut self, time: Time, event: Event) -> Result<()> {
        let line = self.open()?.1.append(time, event)?;
        self.line(&line);
        self.pend(time);
        if self.lines.len() >= MAX_LINES { self.flush(time) } else { Ok(()) }
    }

    /// Notes that something may be missing from the newest item until now.
    fn gap(&mut self, reason: &str) -> Result<()> {
        // What is gathered is of before.
        self.commit()?;
        let from_us = self.last.mono_us;
        let time = self.now();
        let (writer, _) = self.open()?;
        writer.gap(from_us, time, reason)?;
        self.last = time;
        let gap = Data::Gap { from_us, reason: Word::shortened(reason), to_us: time.mono_us };
        self.event(time, Event::of_device(gap))?;
        shared(&self.facts).gaps += 1;
        Ok(())
    }

    /// Writes the gathered lines as a record.
    fn flush(&mut self, time: Time) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        self.open()?.0.append(AUDIT.number, time, false, &lines)?;
        Ok(())
    }

    /// Makes everything so far durable, and tells the caller.
    fn commit(&mut self) -> Result<()> {
        if !matches!(self.store, Store::Open(..)) {
            // What was not kept is lost, and must not be waited for.
            self.pending = None;
            return Ok(());
        }
        let began = Instant::now();
        // Both clocks of the newest item: a recorder that starts again counts on from there.
        let time = self.last;
        self.flush(time)?;
        let (writer, chain) = self.open()?;
        writer.commit(time, chain.last())?;
        self.unconfirmed = 0;
        self.pending = None;
        self.committed = Instant::now();
        self.commits_take = began.elapsed().max(self.commits_take * 7 / 8);
        if let Some(stream) = &self.stream {
            let items = stream.items;
            stream.progress.send_if_modified(|progress| {
                let news = progress.kept != items;
                progress.kept = items;
                news
            });
        }
        Ok(())
    }

    /// Ends the recording.
    fn end(&mut self, time: Time, outcome: Outcome, reason: Word) -> Result<()> {
        self.event(time, Event { outcome, ..Event::of_device(Data::End { reason }) })?;
        self.last = time;
        self.flush(time)?;
        let (writer, chain) = self.open()?;
        // Only the first life of a recorder knows how many events there were.
        let audit =
            chain.last().filter(|_| writer.part() == 0).map(|hash| Audit { count: chain.count(), hash });
        if audit.is_none() {
            self.commit()?;
        }
        self.pending = None;
        match std::mem::replace(&mut self.store, Store::Lost) {
            Store::Open(writer, _) => {
                writer.finish(time, audit)?;
                Ok(())
            }
            _ => Err(Error::Internal("the recording is not open")),
        }
    }

    /// How long the session has lasted.
    fn since(&self) -> Duration {
        since(self.now())
    }

    /// When what holds has to be looked at; never while nobody is shown anything.
    fn policy_at(&self) -> Option<Instant> {
        self.stream.as_ref()?;
        let at = self.held.as_ref()?.next()?;
        let mono_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        Some(self.clock.instant(Time { wall_ms: 0, mono_us }))
    }

    /// Tells the host what holds from now on.
    fn tell(&mut self, told: Option<Told>) {
        if let (Some(told), Some(stream)) = (told, &self.stream) {
            let number = told.number;
            if stream.progress.borrow().told.as_ref().is_some_and(|before| before.number != number) {
                tracing::info!(session = %self.id, number, "another policy holds");
            }
            stream.progress.send_modify(|progress| progress.told = Some(told));
        }
    }

    /// An event of the device's own, about what may happen.
    fn note(&mut self, actor: Actor, outcome: Outcome, data: Data) -> Result<()> {
        self.last = self.now();
        let event = Event { actor, outcome, resource: Word::shortened("policy"), data };
        self.event(self.last, event)?;
        // So many lines without a head that names them would be too many after a crash.
        if self.unconfirmed + 2 >= MAX_UNCONFIRMED { self.commit() } else { Ok(()) }
    }

    fn held(&mut self) -> Result<&mut Held> {
        self.held.as_mut().ok_or(Error::NoPolicy(self.id))
    }

    /// Answers whoever asked. What could not be written down does not hold, and the session waits for its disk.
    fn answered<T>(&mut self, answered: Result<T>, answer: oneshot::Sender<Result<T>>) -> Flow {
        let failed = match &answered {
            Err(error @ (Error::Recording(_) | Error::File { .. } | Error::Audit(_))) => {
                Some(self.fail(error))
            }
            Err(error) => {
                tracing::warn!(session = %self.id, "refused: {error}");
                None
            }
            Ok(_) => None,
        };
        drop(answer.send(answered));
        failed.unwrap_or(Flow::On)
    }

    /// Writes a signed statement beside the recording, whose events name its hash.
    fn keep(&self, statement: &[u8]) -> Result<()> {
        files::append(&self.dir, files::APPROVALS, statement)
    }

    fn running(&self) -> Result<()> {
        self.stream.as_ref().map(drop).ok_or(Error::NotRunning(self.id))
    }

    /// Tells its user, and those who decide, what was asked for, and what is new about it.
    fn publish(&mut self, news: Option<String>) {
        if let Some(news) = news {
            self.news = (news, self.news.1 + 1);
        }
        let now = self.since();
        let held = self.held.as_ref().filter(|_| self.stream.is_some());
        let wanted = held.map(|held| held.wanted(now)).unwrap_or_default();
        if let Some(stream) = &self.stream {
            let (news, number) = self.news.clone();
            let requests = Requests { wanted: wanted.clone(), news, number };
            stream.progress.send_modify(|progress| progress.requests = requests);
        }
        shared(&self.facts).wanted = (Instant::now(), wanted);
        self.settings.asked.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What a request is for, in a line.
    fn what(&self, request: &Request) -> String {
        self.held.as_ref().map(|held| held.words(&request.change).join(" ")).unwrap_or_default()
    }

    fn ask(&mut self, signed: &[u8]) -> Result<u32> {
        self.running()?;
        let now = self.since();
        let asked = self.held()?.ask(signed, now).map(|asked| (signed.to_vec(), asked));
        self.asked(asked)
    }

    /// Its user asks on the screen. He is told what comes of it.
    fn ask_on_screen(&mut self, gate: &Gate) -> Result<()> {
        let time = self.now();
        let device = self.settings.device.clone();
        let asked = self.held()?.ask_on_screen(gate, &device, time.wall_ms, since(time));
        if let Err(error @ Error::Approval(Refused::Waits | Refused::Nothing)) = &asked {
            // Nothing that he may not: he has pressed a key twice. How often he does is told to nobody.
            let news = format!("Refused, to {}: {error}.", gate.words);
            if self.news.0 != news {
                self.publish(Some(news));
            }
            return Ok(());
        }
        match self.asked(asked) {
            Err(error @ (Error::Approval(_) | Error::Policy(_))) => {
                tracing::warn!(session = %self.id, "refused: {error}");
                self.publish(Some(format!("Refused, to {}: {error}.", gate.words)));
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Writes down what was asked for.
    fn asked(&mut self, asked: Result<(Vec<u8>, (u32, Request))>) -> Result<u32> {
        let (signed, (number, request)) = match asked {
            Ok(asked) => asked,
            Err(error) => return Err(self.refused(Actor::Client, "request", error)?),
        };
        let signed = signed.as_slice();
        self.keep(signed)?;
        let what = request.change.iter().map(Setting::to_string).collect::<Vec<_>>().join(" ");
        let data = Data::Request {
            request: blake3::hash(signed).into(),
            requester: Word::shortened(&request.requester),
            seconds: request.seconds,
            what: Name::shortened(&what),
            why: Word::shortened(&request.reason),
        };
        self.note(Actor::Client, Outcome::Allowed, data)?;
        let what = self.what(&request);
        self.publish(Some(format!("Asked for; it waits for others to decide: {what}")));
        Ok(number)
    }

    /// Writes down that something was refused; gives why, for whoever asked.
    fn refused(&mut self, actor: Actor, rule: &str, error: Error) -> Result<Error> {
        let (rule, detail) = (Word::shortened(rule), Name::shortened(&error.to_string()));
        self.note(actor, Outcome::Refused, Data::Violation { detail, rule })?;
        Ok(error)
    }

    fn decide(&mut self, statement: &[u8]) -> Result<Decided> {
        self.running()?;
        let now = self.since();
        let decided = self.held()?.decide(statement, None, now).map(|decided| (statement.to_vec(), decided));
        self.decided(decided)
    }

    fn decide_on_screen(&mut self, approver: &str, request: Hash, verdict: Verdict) -> Result<Decided> {
        self.running()?;
        let time = self.now();
        let device = self.settings.device.clone();
        let by = (approver, request, verdict);
        let decided = self.held()?.decide_on_screen(by, &device, time.wall_ms, since(time));
        self.decided(decided)
    }

    /// Writes down what was decided; then it holds.
    fn decided(&mut self, decided: Result<(Vec<u8>, policy::Decided)>) -> Result<Decided> {
        let (statement, decided) = match decided {
            Ok(decided) => decided,
            Err(error) => return Err(self.refused(Actor::Approver, "approve", error)?),
        };
        let approver = Word::shortened(&decided.approver);
        let request = decided.decision.request;
        let (outcome, data) = match decided.decision.verdict {
            Verdict::Deny => {
                let reason = Word::shortened(&decided.decision.reason);
                (Outcome::Refused, Data::Deny { approver, reason, request })
            }
            Verdict::Allow => {
                let (agree, needed) = (decided.agree, decided.needed);
                (Outcome::Allowed, Data::Approve { agree, approver, needed, request })
            }
        };
        // Written before it holds.
        self.keep(&statement)?;
        self.note(Actor::Approver, outcome, data)?;
        self.tell(decided.told);
        let (who, what) = (&decided.approver, self.what(&decided.request));
        let news = match decided.standing {
            Standing::InEffect { .. } => format!("Approved by {who}: {what}"),
            Standing::Waits => format!("{who} agrees, and others have to: {what}"),
            Standing::Denied => format!("Turned down by {who}: {what}"),
        };
        self.publish(Some(news));
        let seconds = match decided.standing {
            Standing::InEffect { .. } => decided.request.seconds,
            Standing::Waits | Standing::Denied => 0,
        };
        let denied = decided.standing == Standing::Denied;
        let (agree, needed) = if denied { (0, 0) } else { (decided.agree, decided.needed) };
        Ok(Decided { agree, needed, seconds })
    }

    /// Ends what was approved for its time.
    fn lapse(&mut self) -> Result<()> {
        let now = self.since();
        let (ended, told) = self.held()?.expire(now)?;
        self.tell(told);
        let news = ended.last().map(|ended| match ended {
            Ended::Over(_) => "What was approved has ended.".to_owned(),
            Ended::Undecided(_) => "Nobody has decided in time on what was asked for.".to_owned(),
        });
        for ended in ended {
            let (in_effect, request) = match ended {
                Ended::Over(request) => (true, request),
                Ended::Undecided(request) => (false, request),
            };
            self.note(Actor::Device, Outcome::Allowed, Data::Lapse { in_effect, request })?;
        }
        if news.is_some() {
            self.publish(news);
        }
        Ok(())
    }

    /// Looks at what holds, and at what the host says that it enforces.
    fn renew(&mut self) -> Flow {
        let now = self.since();
        if let Some(Err(stop)) = self.held.as_ref().map(|held| held.in_time(now)) {
            return self.stop(&stop);
        }
        let user = shared(&self.facts).user.clone();
        if self.has_account && !self.settings.accounts.has_desktop(&user) {
            return self.stop(&Stop::Ends("its user may not use the device any more".to_owned()));
        }
        match self.lapse() {
            Ok(()) => Flow::On,
            Err(error @ (Error::Policy(_) | Error::Internal(_))) => self.stop(&Stop::Void(error.to_string())),
            Err(error) => self.fail(&error),
        }
    }

    /// The session cannot go on: the host is told why, and its recording ends, as soon as its disk lets it.
    fn stop(&mut self, stop: &Stop) -> Flow {
        let (outcome, reason) = match stop {
            Stop::Void(why) => (Outcome::Failed, format!("void: {why}")),
            Stop::Ends(why) => (Outcome::Allowed, why.clone()),
        };
        tracing::warn!(session = %self.id, "it is ended: {reason}");
        self.stopped = Some((outcome, Word::shortened(&reason)));
        let Some(stream) = &self.stream else {
            // It ends as one that nobody resumes.
            self.until = Some(Instant::now());
            return Flow::On;
        };
        stream.progress.send_modify(|progress| progress.over = Some(reason.clone()));
        self.last = self.now();
        match self.end(self.last, outcome, Word::shortened(&reason)) {
            Ok(()) => {
                self.end_stream(Ok(()));
                Flow::Over(self.ended())
            }
            Err(error) => self.fail(&error),
        }
    }

    /// What was decided when a session that is found began. Where that was changed, the session does not go on.
    fn take_snapshot(&mut self) -> Result<()> {
        let file = files::read_snapshot(&self.dir, MAX_SNAPSHOT)?;
        let snapshot = Snapshot::read(&file, &self.settings.device.public(), self.id)?;
        let opening = files::opening(&self.dir)?;
        if snapshot.policy.hash()? != opening.policy {
            return Err(Error::Policy(lucid_policy::Error::Snapshot(
                "it is not of the policy that was accepted",
            )));
        }
        let user = shared(&self.facts).user.clone();
        self.held = Some(Held::new(snapshot.policy, self.id, user, self.settings.accounts.people())?);
        Ok(())
    }
}

/// How long the session had lasted at that time.
fn since(time: Time) -> Duration {
    Duration::from_micros(time.mono_us)
}
