//! The socket: takes what is recorded, and answers what was.

use std::{
    pin::Pin,
    sync::{Arc, mpsc as std_mpsc},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use lucid_ipc::{
    Caller,
    accounts::{
        MAX_MESSAGE as MAX_ABOUT_ACCOUNTS,
        accounts_server::{self, AccountsServer},
        admission_server::{self, AdmissionServer},
    },
    session::{
        AcceptRequest, AcceptResponse, AskFor, AskRequest, Asked, Asking as ScreenAsking, Begun,
        DecideRequest, Decided, DeskDecision, DeskRequest, EndRequest, EndResponse, Enforced, FromRecorder,
        GetRequest, GetStatusRequest, Holds, Kept, Key, KeyWanted, ListRequest, MAX_BATCH, MAX_FRAME,
        MAX_MESSAGE, MAX_PICTURE, MAX_SIDE, Over, Policy, PrepareRequest, Prepared, RebuildIndexRequest,
        RebuildIndexResponse, Recording, Status as RecorderStatus, TestRequest, TestResponse, ToRecorder,
        Waiting, from_recorder,
        recorder_server::{self, Recorder, RecorderServer},
        recordings_server::{Recordings, RecordingsServer},
        sessions_server::{self, Sessions as About, SessionsServer},
        to_recorder,
    },
    tonic::{
        Request, Response, Status, Streaming, async_trait,
        body::Body,
        codegen::{self, http},
    },
};
use lucid_policy::{
    approval::{Decision, Refused, Request as Asking, Verdict},
    ask::Gate,
};
use lucid_recording::{Hex, Role, SessionId, statement::MAX_TEXT};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};

use crate::{
    accounts,
    consent::{ASKED, WAITS},
    error::Error,
    events, payload,
    policy::Told,
    session::{Attached, Command, Item, Picture, Progress, room},
    sessions::{Asks, Begins, Sessions},
    tested::{self, Tests},
};

/// The most bytes of what somebody asks about sessions: the largest table.
const MAX_QUESTION: usize = 128 << 10;

/// Who decides is shown what waits, so many at a time; each is looked at again so often.
const MOST_DESKS: usize = 64;
const LOOK: Duration = Duration::from_secs(1);

/// A stream says within this time what it is for.
const FIRST: Duration = Duration::from_secs(10);
/// What an event takes of the room for what waits, at most: its texts and what is around them.
const EVENT: usize = 4 << 10;

/// All services of the socket, chosen by the path of a call. (tonic's own router would bring axum for this.)
#[derive(Clone)]
pub(crate) struct Socket {
    recorder: RecorderServer<Service>,
    recordings: RecordingsServer<Service>,
    sessions: SessionsServer<Service>,
    admission: AdmissionServer<accounts::Service>,
    accounts: AccountsServer<accounts::Service>,
}

impl Socket {
    pub(crate) fn new(sessions: Arc<Sessions>) -> Self {
        let accounts = accounts::Service(Arc::clone(&sessions.settings.accounts));
        let desks = Arc::new(Semaphore::new(MOST_DESKS));
        let service = Service { sessions, desks, tests: Tests::default(), began: Instant::now() };
        Self {
            admission: AdmissionServer::new(accounts.clone()).max_decoding_message_size(MAX_QUESTION),
            accounts: AccountsServer::new(accounts).max_decoding_message_size(MAX_ABOUT_ACCOUNTS),
            recorder: RecorderServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE),
            recordings: RecordingsServer::new(service.clone()),
            sessions: SessionsServer::new(service).max_decoding_message_size(MAX_QUESTION),
        }
    }
}

impl codegen::Service<http::Request<Body>> for Socket {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // As all of them are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().trim_start_matches('/').split('/').next();
        if service == Some(recorder_server::SERVICE_NAME) {
            self.recorder.call(request)
        } else if service == Some(admission_server::SERVICE_NAME) {
            self.admission.call(request)
        } else if let Err(status) = Caller::must_own(request.extensions().get()) {
            // The RDP host needs nothing of what is for people.
            Box::pin(async move { Ok(status.into_http()) })
        } else if service == Some(accounts_server::SERVICE_NAME) {
            self.accounts.call(request)
        } else if service == Some(sessions_server::SERVICE_NAME) {
            self.sessions.call(request)
        } else {
            // It answers what it does not know as gRPC says.
            self.recordings.call(request)
        }
    }
}

/// What answers the calls.
#[derive(Clone)]
pub(crate) struct Service {
    sessions: Arc<Sessions>,
    /// Room for those who decide.
    desks: Arc<Semaphore>,
    /// Records of tests.
    tests: Tests,
    began: Instant,
}

fn invalid(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

/// Runs what reads many files beside the sockets.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("a thread of the recorder died"))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Recorder for Service {
    type RecordStream = Answers<FromRecorder>;
    type DeskStream = Answers<Waiting>;

    async fn desk(&self, request: Request<DeskRequest>) -> Result<Response<Self::DeskStream>, Status> {
        let DeskRequest { user } = request.into_inner();
        let name = self.decider(&user)?;
        let place = Arc::clone(&self.desks).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MOST_DESKS} people are deciding already: try again later"))
        })?;
        tracing::info!(account = name, "looks at what was asked for");
        let (send, answers) = mpsc::channel(1);
        tokio::spawn(desk(self.clone(), user, send, place));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn decide_at_desk(&self, request: Request<DeskDecision>) -> Result<Response<Decided>, Status> {
        let DeskDecision { user, session, request, allow } = request.into_inner();
        let approver = self.decider(&user)?;
        let request = <[u8; 32]>::try_from(&*request).map(Hex);
        let request = request.map_err(|_| invalid("a request is named by its hash, of 32 bytes"))?;
        let verdict = if allow { Verdict::Allow } else { Verdict::Deny };
        let command = |answer| Command::DecideAtDesk { approver, request, verdict, answer };
        self.ask_session(&session, command).await
    }

    async fn record(
        &self,
        request: Request<Streaming<ToRecorder>>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let mut items = request.into_inner();
        let first = tokio::time::timeout(FIRST, items.message())
            .await
            .map_err(|_| invalid(format!("a stream begins with `begin` within {} s", FIRST.as_secs())))??;
        let Some(ToRecorder { item: Some(to_recorder::Item::Begin(begin)) }) = first else {
            return Err(invalid("the first message of a stream is `begin`"));
        };
        let (send, answers) = mpsc::channel(1);
        match self.sessions.begin(begin).await.map_err(|error| error.status())? {
            Begins::Attached(attached) => serve(items, attached, send),
            Begins::Asks(asks) => drop(tokio::spawn(consent(Arc::clone(&self.sessions), items, *asks, send))),
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Tells somebody who may decide what waits for it, as long as he may.
async fn desk(
    service: Service,
    user: String,
    send: mpsc::Sender<Result<Waiting, Status>>,
    _place: OwnedSemaphorePermit,
) {
    let mut asked = service.sessions.settings.asked.subscribe();
    let mut told: Option<Waiting> = None;
    loop {
        asked.mark_unchanged();
        let waiting =
            service.decider(&user).and_then(|_| service.sessions.wanted().map_err(|error| error.status()));
        let waiting = match waiting {
            Ok(waiting) => waiting,
            // Where the caller is gone, nobody needs to know.
            Err(status) => return drop(send.send(Err(status)).await),
        };
        // How much time is left the caller knows by himself.
        let mut timeless = waiting.clone();
        timeless.wanted.iter_mut().for_each(|wanted| wanted.left_seconds = 0);
        if told.as_ref() != Some(&timeless) {
            if send.send(Ok(waiting)).await.is_err() {
                return;
            }
            told = Some(timeless);
        }
        tokio::select! {
            // The settings live as long as this.
            _ = asked.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
            () = send.closed() => return,
        }
    }
}

type Said = mpsc::Sender<Result<FromRecorder, Status>>;

/// Carries a session that runs.
fn serve(items: Streaming<ToRecorder>, attached: Attached, send: Said) {
    tokio::spawn(answer(attached.session, attached.progress.clone(), send));
    tokio::spawn(take(items, attached));
}

/// Has the user asked whether he accepts what holds, and begins the session if he does.
async fn consent(sessions: Arc<Sessions>, mut items: Streaming<ToRecorder>, asks: Asks, send: Said) {
    let terms = asks.prepared.terms.clone();
    let asking = ScreenAsking { terms, seconds: u32::try_from(ASKED.as_secs()).unwrap_or(u32::MAX) };
    let asking = FromRecorder { item: Some(from_recorder::Item::Asking(asking)) };
    let answered = async {
        send.send(Ok(asking)).await.map_err(|_| Status::cancelled("the caller went"))?;
        let item = tokio::time::timeout(ASKED, items.message()).await;
        match item.map_err(|_| Status::deadline_exceeded("nobody accepted the policy in time"))?? {
            Some(ToRecorder { item: Some(to_recorder::Item::Answer(answer)) }) if answer.accepted => {}
            Some(ToRecorder { item: Some(to_recorder::Item::Answer(_)) }) => {
                return Err(Error::Declined.status());
            }
            Some(_) => return Err(invalid("the first item after `asking` is its `answer`")),
            None => return Err(Status::cancelled("the caller went")),
        }
        sessions.accepted(asks).await.map_err(|error| error.status())
    };
    match answered.await {
        Ok(attached) => serve(items, attached, send),
        // Where the caller is gone, nobody needs to know.
        Err(status) => drop(send.send(Err(status)).await),
    }
}

/// Why a stream is over.
struct Broken(&'static str, Status);

/// Takes items as long as they come.
async fn take(mut items: Streaming<ToRecorder>, attached: Attached) {
    let stream = attached.stream;
    let mut progress = attached.progress.clone();
    let broken = loop {
        let item = tokio::select! {
            item = items.message() => item,
            // Whoever ended it has told the caller.
            _ = progress.wait_for(|progress| progress.ended.is_some()) => return,
        };
        let item = match item {
            Ok(Some(ToRecorder { item: Some(item) })) => item,
            Ok(Some(ToRecorder { item: None })) => {
                break Broken(
                    "it sent what it must not",
                    invalid("a message without an item that is known here"),
                );
            }
            Ok(None) => {
                break Broken(
                    "it ended without `end`",
                    Status::aborted("the stream ended without `end`; the session waits"),
                );
            }
            Err(status) => {
                tracing::debug!(session = %attached.session, "reading the stream: {status}");
                let why = match status.code() {
                    lucid_ipc::tonic::Code::OutOfRange => "it sent what it must not",
                    _ => "the RDP host went away",
                };
                break Broken(why, status);
            }
        };
        if let to_recorder::Item::Enforced(Enforced { number, hash }) = item {
            if attached.commands.send(Command::Enforced { stream, number, hash }).is_err() {
                return;
            }
            continue;
        }
        // Before it waits for room: this is when it came.
        let time = attached.clock.now();
        match convert(item, &attached.room).await {
            Ok(item) => {
                let end = matches!(item, Item::End(_));
                if attached.commands.send(Command::Item { stream, time, item }).is_err() || end {
                    return;
                }
            }
            Err(status) => break Broken("it sent what it must not", status),
        }
    };
    let Broken(why, status) = broken;
    // Without a thread there is nothing left that waits.
    drop(attached.commands.send(Command::Detach { stream, why, status }));
}

/// Room for something, once there is.
async fn wait_for(waiting: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
    let permit = Arc::clone(waiting).acquire_many_owned(room(bytes)).await;
    permit.map_err(|_| Error::Stopping.status())
}

/// Looks at an item, and waits until there is room for it.
async fn convert(item: to_recorder::Item, waiting: &Arc<Semaphore>) -> Result<Item, Status> {
    let bounded = |what: &str, bytes: &Bytes, most: usize| {
        if bytes.is_empty() || bytes.len() > most {
            return Err(invalid(format!("{what} has 1 to {most} bytes, not {}", bytes.len())));
        }
        Ok(bytes.len())
    };
    Ok(match item {
        to_recorder::Item::Begin(_) => return Err(invalid("`begin` comes once")),
        to_recorder::Item::Key(key) => {
            let (width, height) = check_picture(&key)?;
            let permit = wait_for(waiting, key.rgb.len()).await?;
            let (send, picture) = std_mpsc::sync_channel(1);
            tokio::task::spawn_blocking(move || {
                let mut permit = permit;
                let compressed = payload::png(width, height, &key.rgb);
                drop(key);
                let compressed = compressed.map(|png| {
                    // What is left of it takes less.
                    let less = permit.num_permits().saturating_sub(room(png.len()) as usize);
                    drop(permit.split(less));
                    Picture { width, height, png, room: permit }
                });
                // A session that was given up meanwhile needs it no more.
                drop(send.send(compressed));
            });
            Item::Key(picture)
        }
        to_recorder::Item::Frame(frame) => {
            let length = bounded("a frame", &frame.pdus, MAX_FRAME)?;
            Item::Frame(frame.pdus, wait_for(waiting, length).await?)
        }
        to_recorder::Item::Pointer(pointer) => {
            let length = bounded("a batch of the pointer", &pointer.bytes, MAX_BATCH)?;
            Item::Pointer(pointer.bytes, wait_for(waiting, length).await?)
        }
        to_recorder::Item::Sound(sound) => {
            let length = bounded("a batch of sound", &sound.bytes, MAX_BATCH)?;
            Item::Sound(sound.bytes, wait_for(waiting, length).await?)
        }
        to_recorder::Item::Event(event) => {
            let event = events::from_wire(event).map_err(invalid)?;
            Item::Event(event, wait_for(waiting, EVENT).await?)
        }
        to_recorder::Item::AskFor(AskFor { gate }) => {
            let gate = Gate::of(&gate).ok_or_else(|| invalid("there is no such gate to be asked for"))?;
            Item::Ask(gate, wait_for(waiting, EVENT).await?)
        }
        to_recorder::Item::Answer(_) => return Err(invalid("nobody was asked")),
        to_recorder::Item::Enforced(_) => return Err(invalid("it is no item")),
        to_recorder::Item::End(end) => Item::End(lucid_audit::Word::shortened(&end.reason)),
    })
}

fn check_picture(key: &Key) -> Result<(u16, u16), Status> {
    let side = |side: u32| {
        let fits = u16::try_from(side).ok().filter(|_| (1..=MAX_SIDE).contains(&side));
        fits.ok_or_else(|| invalid(format!("a picture has 1 to {MAX_SIDE} pixels in each direction")))
    };
    let (width, height) = (side(key.width)?, side(key.height)?);
    let expected = usize::from(width) * usize::from(height) * 3;
    let fits = key.rgb.is_empty() || key.rgb.len() == expected && expected <= MAX_PICTURE;
    if !fits {
        return Err(invalid(format!(
            "a picture of {width}x{height} has {expected} bytes of at most {MAX_PICTURE}, not {}",
            key.rgb.len()
        )));
    }
    Ok((width, height))
}

/// Tells the caller how far it is.
async fn answer(
    session: SessionId,
    mut progress: watch::Receiver<Progress>,
    send: mpsc::Sender<Result<FromRecorder, Status>>,
) {
    use from_recorder::Item;
    let message = |item| Ok(FromRecorder { item: Some(item) });
    let mut told = Progress::default();
    if send.send(message(Item::Begun(Begun { session: session.to_string() }))).await.is_err() {
        return;
    }
    loop {
        let now = progress.borrow_and_update().clone();
        // Nobody listens: whoever reads the caller's stream sees that it is gone.
        if now.keys_wanted > told.keys_wanted
            && send.send(message(Item::KeyWanted(KeyWanted {}))).await.is_err()
        {
            return;
        }
        if let Some(policy) = now.told.as_ref().filter(|_| now.told != told.told) {
            let Told { number, table, .. } = policy.clone();
            if send.send(message(Item::Policy(Policy { number, table: table.into() }))).await.is_err() {
                return;
            }
        }
        if now.requests != told.requests
            && send.send(message(Item::Requests(now.requests.clone()))).await.is_err()
        {
            return;
        }
        if now.kept > told.kept && send.send(message(Item::Kept(Kept { items: now.kept }))).await.is_err() {
            return;
        }
        if let Some(reason) = now.over.clone().filter(|_| told.over.is_none())
            && send.send(message(Item::Over(Over { reason }))).await.is_err()
        {
            return;
        }
        match &now.ended {
            Some(Ok(())) => return,
            Some(Err(status)) => {
                drop(send.send(Err(status.clone())).await);
                return;
            }
            None => {}
        }
        told = now;
        tokio::select! {
            changed = progress.changed() => if changed.is_err() {
                drop(send.send(Err(Error::Internal("a session's thread ended").status())).await);
                return;
            },
            () = send.closed() => return,
        }
    }
}

#[async_trait]
impl About for Service {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<Prepared>, Status> {
        let PrepareRequest { user, table } = request.into_inner();
        if !(1..=MAX_TEXT).contains(&user.len()) {
            return Err(invalid(format!("a user's name has 1 to {MAX_TEXT} bytes")));
        }
        let prepared = || {
            let table = (!table.is_empty()).then(|| lucid_policy::Policy::parse(&table)).transpose()?;
            let prepared = self.sessions.consents.prepare(&user, table)?;
            let answer = Prepared {
                session: prepared.id.to_string(),
                session_key: prepared.key.public().to_string(),
                table: prepared.policy.to_bytes()?.into(),
                terms: prepared.terms.clone(),
                seconds: u32::try_from(WAITS.as_secs()).unwrap_or(u32::MAX),
            };
            self.sessions.consents.keep(prepared)?;
            Ok(answer)
        };
        prepared().map(Response::new).map_err(|error: Error| error.status())
    }

    async fn accept(&self, request: Request<AcceptRequest>) -> Result<Response<AcceptResponse>, Status> {
        let people = self.sessions.settings.accounts.people();
        let accepted = self.sessions.consents.accept(&request.into_inner().receipt, &people);
        let session = accepted.map_err(|error| {
            tracing::warn!("a receipt is refused: {error}");
            error.status()
        })?;
        tracing::info!(%session, "its policy was accepted by a key; it waits for its user");
        Ok(Response::new(AcceptResponse {}))
    }

    async fn get_policy(&self, request: Request<GetRequest>) -> Result<Response<Holds>, Status> {
        let session = request.into_inner().session;
        self.ask_session(&session, |answer| Command::Policy { answer }).await
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<Asked>, Status> {
        let signed = request.into_inner().request;
        let named = Asking::read(&signed).map_err(|_| Error::from(Refused::NoRequest).status())?;
        let session = named.session.to_string();
        let number = self.sessions.tell(&session, |answer| Command::Ask { signed, answer }).await;
        Ok(Response::new(Asked { number: number.map_err(|error| error.status())? }))
    }

    async fn decide(&self, request: Request<DecideRequest>) -> Result<Response<Decided>, Status> {
        let statement = request.into_inner().decision;
        let decision = Decision::read(&statement).map_err(|_| Error::from(Refused::Forged).status())?;
        let session = decision.session.to_string();
        self.ask_session(&session, |answer| Command::Decide { statement, answer }).await
    }

    async fn end(&self, request: Request<EndRequest>) -> Result<Response<EndResponse>, Status> {
        let EndRequest { session, reason } = request.into_inner();
        let reason = if reason.is_empty() { "an administrator ended it".to_owned() } else { reason };
        let ended = self.sessions.tell(&session, |answer| Command::End { reason, answer }).await;
        ended.map(|()| Response::new(EndResponse {})).map_err(|error| error.status())
    }
}

impl Service {
    /// Whoever decides on the screen, and for nothing else, as his account is called.
    fn decider(&self, user: &str) -> Result<String, Status> {
        let role = "who decides on the screen has the role approver, and neither operator nor owner";
        let decider = self.sessions.settings.accounts.decider(user);
        decider.ok_or_else(|| Error::Role(role).status())
    }

    async fn ask_session<T>(
        &self,
        session: &str,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<Response<T>, Status> {
        self.sessions.tell(session, command).await.map(Response::new).map_err(|error| error.status())
    }
}

#[async_trait]
impl Recordings for Service {
    type ListStream = Answers<Recording>;

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let sessions = Arc::clone(&self.sessions);
        let list = beside(move || sessions.list()).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(list.into_iter().map(Ok)))))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Recording>, Status> {
        let none = || Status::not_found("there is no recording of that session; `List` says which there are");
        let session: SessionId = request.into_inner().session.parse().map_err(|_| none())?;
        let sessions = Arc::clone(&self.sessions);
        Ok(Response::new(beside(move || sessions.get(session)).await?.ok_or_else(none)?))
    }

    async fn rebuild_index(
        &self,
        _: Request<RebuildIndexRequest>,
    ) -> Result<Response<RebuildIndexResponse>, Status> {
        let sessions = Arc::clone(&self.sessions);
        let recordings = beside(move || sessions.rebuild_index()).await?.map_err(|error| error.status())?;
        Ok(Response::new(RebuildIndexResponse { recordings: recordings as u64 }))
    }

    async fn test(&self, _: Request<TestRequest>) -> Result<Response<TestResponse>, Status> {
        let sessions = Arc::clone(&self.sessions);
        self.tests.ask(move || tested::record(&sessions)).await.map(Response::new)
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<RecorderStatus>, Status> {
        let sessions = Arc::clone(&self.sessions);
        let uptime_seconds = self.began.elapsed().as_secs();
        beside(move || {
            let settings = &sessions.settings;
            let of = |role| {
                let keys = settings.recipients.iter().filter(move |recipient| recipient.role == role);
                keys.map(|recipient| recipient.key.to_string()).collect()
            };
            let (recording, waiting) = sessions.counts();
            let mut problems = sessions.problems();
            let free_bytes = sessions.free().unwrap_or_else(|error| {
                problems.push(error.to_string());
                0
            });
            Response::new(RecorderStatus {
                version: env!("CARGO_PKG_VERSION").into(),
                uptime_seconds,
                device_key: settings.device.public().to_string(),
                owners: of(Role::Owner),
                observers: of(Role::Observer),
                recording,
                waiting,
                bytes: sessions.bytes(),
                most_bytes: sessions.bounds.most_bytes.unwrap_or(0),
                free_bytes,
                keep_free: sessions.bounds.keep_free,
                problems,
            })
        })
        .await
    }
}
