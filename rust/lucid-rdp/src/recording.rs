//! Passes what a session shows on to the session controller (`lucid.session.v1`, which lucid-sessiond serves), is told by
//! it what may pass, and holds the session up when nobody records it.
//!
//! Before anything of the desktop is shown, its user may have to accept the policy: then the session stands at
//! [`State::Asking`] until somebody [answers](Recording::answer).
//!
//! A recording is one desktop's life, and goes on when its client goes and comes again; beside pictures there is in it
//! what [`audit`](crate::audit) and [`trail`](crate::trail) say.
//!
//! What a client is sent goes to the recorder first: it waits in a bounded queue, so a recorder that is slow makes the
//! session slow, and nothing grows. When the recorder dies the session is paused: nothing is shown and no input is taken
//! until it is back and has taken up the same recording, where the gap is then marked; nothing crosses meanwhile by
//! clipboard, drives or sound, as no policy holds. If it does not come back, the connection ends.
//!
//! It is the same in the beginning: nothing is shown until a policy holds, and none holds, nor is it said to be enforced,
//! before the desktop hides what it shields. Where that cannot be, the session is over.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ironrdp_acceptor::DesktopSize;
use lucid_desktop::Shielding;
use lucid_ipc::session::from_recorder::Item as Said;
use lucid_ipc::session::recorder_client::RecorderClient;
use lucid_ipc::session::to_recorder::Item;
use lucid_ipc::session::{
    Answer, AskFor, Begin, End, Enforced, Frame, FromRecorder, Key, Pointer, Requests, ToRecorder,
};
use lucid_ipc::tonic::{Status, Streaming};
use lucid_policy::{Policy, Shield};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use crate::Error;
use crate::audit::To;
use crate::gates::{self, Told};

/// What waits for the recorder. A picture waits until there is room.
const WAITING: usize = 32;
/// A recorder that takes nothing for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// A recorder that died has this long to come back.
const AWAY: Duration = Duration::from_secs(20);
/// Between two attempts to reach it.
const AGAIN: Duration = Duration::from_millis(200);
/// What may pass holds for so long after it was said; that is said again every two seconds.
const HOLDS: Duration = Duration::from_secs(6);
/// The largest message to the recorder: a key of the largest picture.
const MAX_MESSAGE: usize = (64 << 20) + 1024;

/// How the recording stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its user has to accept this, and is shown nothing else until then.
    Asking(String),
    /// What is shown is recorded. The recorder has asked so many times that the recording be cut.
    On(u32),
    /// The recorder is away, or has not said yet what may pass: nothing may be shown.
    Paused,
    /// It has not come back, or refuses; and why.
    Off(String),
    /// The controller ends the session, and why.
    Over(String),
}

/// What was asked for in the session, as the controller said it, and when it did. Nothing while it is away.
#[derive(Clone, Default)]
pub(crate) struct Asked {
    pub(crate) requests: Requests,
    pub(crate) at: Option<Instant>,
}

/// The recording of one session.
pub(crate) struct Recording {
    items: mpsc::Sender<Item>,
    state: watch::Receiver<State>,
    asked: watch::Receiver<Asked>,
    answer: Option<oneshot::Sender<bool>>,
    feeding: JoinHandle<()>,
    /// A key went out since the recording is on: frames before it would follow on nothing.
    keyed: Cell<bool>,
}

/// One connection to the recorder.
struct Link {
    to: mpsc::Sender<ToRecorder>,
    from: Streaming<FromRecorder>,
}

/// What the recorder says first.
enum First {
    /// The session runs, and what it calls it.
    Begun(String),
    /// Its user has to accept this before.
    Asking(String),
}

impl Link {
    async fn open(socket: &Path, begin: Begin) -> Result<(Link, First), Error> {
        let channel = lucid_ipc::connect(socket).await?;
        let (to, items) = mpsc::channel(1);
        let first = ToRecorder { item: Some(Item::Begin(begin)) };
        let mut client = RecorderClient::new(channel).max_encoding_message_size(MAX_MESSAGE);
        to.send(first).await.map_err(|_| Error::Internal("the recorder's stream closed at once"))?;
        let mut link = Link { to, from: client.record(ReceiverStream::new(items)).await?.into_inner() };
        let first = link.first().await?;
        Ok((link, first))
    }

    async fn first(&mut self) -> Result<First, Error> {
        match self.from.message().await?.and_then(|said| said.item) {
            Some(Said::Begun(begun)) => Ok(First::Begun(begun.session)),
            Some(Said::Asking(asking)) => Ok(First::Asking(asking.terms)),
            _ => Err(Error::Internal("the recorder did not say which recording it has begun")),
        }
    }
}

impl Recording {
    /// Begins a recording; the session may begin when this is done. Must run within a [`tokio::task::LocalSet`].
    pub(crate) async fn begin(
        socket: &Path,
        user: &str,
        size: DesktopSize,
        encoder: String,
        policy: Told,
        shielding: Shielding,
    ) -> Result<Recording, Error> {
        let (width, height) = (size.width.into(), size.height.into());
        let begin = |resume| Begin { user: user.to_owned(), resume, width, height, encoder: encoder.clone() };
        let first = begin(String::new());
        let (mut link, first) = timeout(PATIENCE, Link::open(socket, first))
            .await
            .map_err(|_| Error::Internal("the recorder did not answer in time"))??;
        let (items, waiting) = mpsc::channel(WAITING);
        let (answer, answered) = oneshot::channel();
        let now = match &first {
            First::Begun(_) => State::Paused,
            First::Asking(terms) => State::Asking(terms.clone()),
        };
        let (told, state) = watch::channel(now);
        let (asks, asked_for) = watch::channel(Asked::default());
        let (socket, mut again) = (socket.to_owned(), begin(String::new()));
        let carrying = async move {
            let session = match first {
                First::Begun(session) => session,
                First::Asking(_) => match asked(&mut link, answered).await {
                    Ok(session) => session,
                    Err(error) => return drop(told.send_replace(State::Off(error.to_string()))),
                },
            };
            tracing::info!(recording = session, "the session is recorded");
            again.resume = session;
            told.send_if_modified(|state| {
                let asked = matches!(state, State::Asking(_));
                if asked {
                    *state = State::Paused;
                }
                asked
            });
            let enforcing = Enforcing { policy, shielding, shielded: RefCell::default() };
            feed(socket, again, link, waiting, (told, asks), enforcing).await;
        };
        let feeding = tokio::task::spawn_local(carrying);
        let keyed = Cell::new(false);
        Ok(Recording { items, state, asked: asked_for, answer: Some(answer), feeding, keyed })
    }

    /// The user accepts what was asked, or not. Nothing happens when he has answered before.
    pub(crate) fn answer(&mut self, accepted: bool) {
        if let Some(answer) = self.answer.take() {
            tracing::info!(accepted, "the user answers whether he accepts the policy");
            // Where nobody waits for it, the state says why.
            let _ = answer.send(accepted);
        }
    }

    /// How it stands.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// How often the recorder has asked for a cut; none while nothing is recorded.
    pub(crate) fn cuts(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::On(cuts) => Some(cuts),
            State::Asking(_) | State::Paused | State::Off(_) | State::Over(_) => None,
        }
    }

    /// What the client shows now; whoever plays the recording can begin here.
    pub(crate) async fn key(&self, width: u32, height: u32, bytes: Vec<u8>) {
        self.keyed.set(self.cuts().is_some());
        self.pass(Item::Key(Key { width, height, rgb: bytes.into() })).await;
    }

    /// One frame of the graphics pipeline as the client decodes it.
    pub(crate) async fn frame(&self, bytes: Vec<u8>) {
        // What was under way when the recording went on shows what was shown before, such as the page that asks.
        if self.keyed.get() {
            self.pass(Item::Frame(Frame { pdus: bytes.into() })).await;
        }
    }

    /// What the pointer has done.
    pub(crate) async fn pointer(&self, bytes: Vec<u8>) {
        self.pass(Item::Pointer(Pointer { bytes: bytes.into() })).await;
    }

    /// Its user asks for a gate, by its name. What comes of it is told to [`Self::asked`].
    pub(crate) async fn ask(&self, gate: &str) {
        self.pass(Item::AskFor(AskFor { gate: gate.to_owned() })).await;
    }

    /// What was asked for, as it changes.
    pub(crate) fn asked(&self) -> watch::Receiver<Asked> {
        self.asked.clone()
    }

    /// Its queue, for what is not shown.
    pub(crate) fn queue(&self) -> To {
        To { items: self.items.clone(), state: self.state.clone() }
    }

    /// Ends it, as far as its other queues are gone. When what is returned is done, the recorder has the end, or was away
    /// for too long: a host that stops before leaves a gap.
    pub(crate) fn end(self) -> JoinHandle<()> {
        self.feeding
    }

    /// Waits for room; while the recording is not on it takes everything, for nobody.
    async fn pass(&self, item: Item) {
        if self.cuts().is_none() {
            return self.keyed.set(false);
        }
        // Nobody listens when it is off, which `state` says.
        let _ = self.items.send(item).await;
    }
}

/// Tells what the user answers, and waits for the session to begin.
async fn asked(link: &mut Link, answered: oneshot::Receiver<bool>) -> Result<String, Error> {
    let accepted = tokio::select! {
        // Nobody answers any more when the connection is gone.
        answered = answered => answered.map_err(|_| Error::Internal("nobody is there to accept the policy"))?,
        said = link.from.message() => {
            said?;
            return Err(Error::Internal("the recorder did not wait for the answer"));
        }
    };
    let answer = ToRecorder { item: Some(Item::Answer(Answer { accepted })) };
    link.to.send(answer).await.map_err(|_| Error::Internal("the recorder's stream closed at once"))?;
    match timeout(PATIENCE, link.first()).await {
        Ok(Ok(First::Begun(session))) => Ok(session),
        Ok(Ok(First::Asking(_))) => Err(Error::Internal("the recorder asks twice")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Internal("the recorder did not answer in time")),
    }
}

/// Waits until a recording stands otherwise than it did.
pub(crate) async fn changed(recording: &mut Option<Recording>) {
    let changed = match recording {
        Some(recording) => recording.state.changed().await,
        None => std::future::pending().await,
    };
    if changed.is_err() {
        // It is off and stays so, as was said.
        std::future::pending().await
    }
}

/// Carries items to the recorder, and finds it again when it was away, until there is nothing more to come.
async fn feed(
    socket: PathBuf,
    again: Begin,
    mut link: Link,
    mut items: mpsc::Receiver<Item>,
    (state, asked): (watch::Sender<State>, watch::Sender<Asked>),
    enforcing: Enforcing,
) {
    let mut cut = 0;
    loop {
        let why = match carry(&mut link, &mut items, (&state, &asked), &enforcing, &mut cut).await {
            Ok(()) => return drop(enforcing.policy.send_replace(None)),
            Err(why) => why,
        };
        // Nobody decides any more what may pass.
        enforcing.policy.send_replace(None);
        asked.send_replace(Asked::default());
        if let State::Over(why) = &*state.borrow() {
            return tracing::info!(recording = again.resume, "the session was ended: {why}");
        }
        tracing::error!(recording = again.resume, "the recorder is away, the session is paused: {why}");
        state.send_replace(State::Paused);
        let deadline = Instant::now() + AWAY;
        link = loop {
            let found = timeout_at(deadline, Link::open(&socket, again.clone())).await;
            match found {
                Ok(Ok((link, First::Begun(_)))) => break link,
                Ok(Ok((_, First::Asking(_)))) => {
                    return drop(state.send_replace(State::Off("it knows the session no more".to_owned())));
                }
                Ok(Err(error)) if Instant::now() + AGAIN < deadline => {
                    tracing::debug!("the recorder: {error}");
                    // Whatever still comes was shown before the pause.
                    while items.try_recv().is_ok() {}
                    if items.is_closed() {
                        return;
                    }
                    sleep(AGAIN).await;
                }
                Ok(Err(error)) => return drop(state.send_replace(State::Off(error.to_string()))),
                Err(_) => return drop(state.send_replace(State::Off("it does not answer".to_owned()))),
            }
        };
        tracing::info!(recording = again.resume, "the recorder is back, the session goes on");
        while items.try_recv().is_ok() {}
        cut += 1;
    }
}

/// Where policies come to hold.
struct Enforcing {
    policy: Told,
    shielding: Shielding,
    /// What the desktop hides, once that is known.
    shielded: RefCell<Option<Shield>>,
}

/// A policy that is to hold, and what is to be answered then.
struct Next {
    table: Policy,
    hash: String,
    enforced: Enforced,
}

impl Next {
    fn of(said: &lucid_ipc::session::Policy) -> Result<Next, String> {
        let table =
            Policy::from_bytes(&said.table).map_err(|error| format!("its policy is none: {error}"))?;
        // Of what is enforced, and not of what was sent.
        let hash = table.hash().map_err(|error| error.to_string())?;
        let enforced = Enforced { number: said.number, hash: hash.0.to_vec().into() };
        Ok(Next { table, hash: hash.to_string(), enforced })
    }
}

impl Enforcing {
    /// Hides what a policy shields, and then enforces it.
    async fn enforce(&self, next: Next) -> Result<Enforced, Error> {
        let Next { table, hash, enforced } = next;
        if self.policy.borrow().as_deref() == Some(&table) {
            return Ok(enforced);
        }
        // What is hidden already keeps nobody waiting for the desktop.
        let hidden = self.shielded.borrow().as_ref() == Some(&table.shield);
        if !hidden {
            self.shielded.replace(None);
            gates::shield(&self.shielding, &table).await?;
            self.shielded.replace(Some(table.shield.clone()));
        }
        self.policy.send_replace(Some(Arc::new(table)));
        tracing::info!(number = enforced.number, hash = %hash, "a policy holds");
        Ok(enforced)
    }
}

/// What becomes of a policy that is to hold.
async fn next(
    coming: Pin<&mut Option<impl Future<Output = Result<Enforced, Error>>>>,
) -> Result<Enforced, Error> {
    match coming.as_pin_mut() {
        Some(coming) => coming.await,
        None => std::future::pending().await,
    }
}

/// Returns when the session is over, and fails when the recorder is gone.
async fn carry(
    link: &mut Link,
    items: &mut mpsc::Receiver<Item>,
    (state, asked): (&watch::Sender<State>, &watch::Sender<Asked>),
    enforcing: &Enforcing,
    cut: &mut u32,
) -> Result<(), String> {
    let gone = |status: Status| status.message().to_owned();
    // What the recorder is told besides.
    let mut answers: VecDeque<ToRecorder> = VecDeque::new();
    let policy = &enforcing.policy;
    // It says now and then that what holds still does; who does not hear that believes nothing.
    let mut heard = Instant::now();
    // What comes to hold next, while the desktop hides what that shields. What waits to be recorded goes on meanwhile, so
    // that nobody waits for the other.
    let mut coming = std::pin::pin!(None);
    loop {
        tokio::select! {
            biased;
            enforced = next(coming.as_mut()), if coming.is_some() => {
                coming.set(None);
                match enforced {
                    Ok(enforced) => {
                        answers.push_back(ToRecorder { item: Some(Item::Enforced(enforced)) });
                        let now = State::On(*cut);
                        state.send_if_modified(|state| {
                            let paused = matches!(state, State::Paused);
                            if paused {
                                *state = now;
                            }
                            paused
                        });
                    }
                    Err(error) => {
                        tracing::error!("the session is over: {error}");
                        policy.send_replace(None);
                        state.send_replace(State::Over(error.to_string()));
                    }
                }
            }
            said = link.from.message(), if coming.is_none() => match said {
                Ok(Some(said)) => match said.item {
                    Some(Said::KeyWanted(_)) => {
                        *cut += 1;
                        let now = State::On(*cut);
                        state.send_if_modified(|state| {
                            let on = matches!(state, State::On(_));
                            if on {
                                *state = now;
                            }
                            on
                        });
                    }
                    Some(Said::Policy(said)) => {
                        heard = Instant::now();
                        if !matches!(*state.borrow(), State::Over(_)) {
                            coming.set(Some(enforcing.enforce(Next::of(&said)?)));
                        }
                    }
                    Some(Said::Over(over)) => {
                        policy.send_replace(None);
                        state.send_replace(State::Over(over.reason));
                    }
                    Some(Said::Requests(requests)) => {
                        asked.send_replace(Asked { requests, at: Some(Instant::now()) });
                    }
                    Some(Said::Begun(_) | Said::Asking(_) | Said::Kept(_)) | None => {}
                },
                Ok(None) => return Err("it has closed the stream".to_owned()),
                Err(status) => return Err(gone(status)),
            },
            () = sleep_until(heard + HOLDS), if policy.borrow().is_some() => {
                tracing::error!("nobody says any more what may pass, so nothing does");
                policy.send_replace(None);
            }
            () = sleep_until(heard + PATIENCE), if coming.is_none() && matches!(*state.borrow(), State::Paused) => {
                return Err(format!("it has not said within {} s what may pass", PATIENCE.as_secs()));
            }
            room = link.to.reserve(), if !answers.is_empty() => {
                let Ok(room) = room else {
                    return Err(link.from.message().await.err().map_or("it has closed".into(), gone));
                };
                if let Some(answer) = answers.pop_front() {
                    room.send(answer);
                }
            }
            item = items.recv() => {
                let over = item.is_none();
                let item = item.unwrap_or(Item::End(End { reason: "the session is over".to_owned() }));
                match timeout(PATIENCE, link.to.send(ToRecorder { item: Some(item) })).await {
                    Ok(Ok(())) if over => break,
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(link.from.message().await.err().map_or("it has closed".into(), gone)),
                    Err(_) => return Err(format!("it has taken nothing for {} s", PATIENCE.as_secs())),
                }
            }
        }
    }
    // The end is kept when the recorder closes its side.
    let ended = async { while let Ok(Some(_)) = link.from.message().await {} };
    if timeout(PATIENCE, ended).await.is_err() {
        tracing::error!("the recorder has not said within {} s that the end is kept", PATIENCE.as_secs());
    }
    Ok(())
}
