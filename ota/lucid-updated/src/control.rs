//! The control socket: tells other local programs how updates stand, and takes their wishes (`lucid.update.v1`).
//!
//! Only root and the service's own user may ask. What is told is what the service put into its [`watch`] channel last;
//! wishes go through a queue, which the service empties when it is ready for the next one.

use std::{
    collections::VecDeque,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lucid_ipc::{
    Access, bind,
    tonic::{
        Request, Response, Status, async_trait, service::interceptor::InterceptedService, transport::Server,
    },
    update::{
        self as wire, ApplyRequest, CheckRequest, GetScheduleRequest, HistoryRequest, HistoryResponse,
        JournalRequest, JournalResponse, RollbackRequest, SetScheduleRequest, StatusRequest, Timestamp,
        UpdateStatus,
        updates_server::{Updates, UpdatesServer},
    },
};
use lucid_release_format::Version;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};

use crate::{
    boot::Slot,
    error::Error,
    files::Store,
    schedule::{Change, Offered, Plan, Planned},
    service::{self, Asked, Cause},
    stage::Progress,
    state::{Ending, Outcome, Phase},
    trust::Standing,
    when::Window,
};

/// The socket's name in the directory for what is lost at power-off.
pub const SOCKET: &str = "control.sock";
/// So many wishes may wait: what is asked for beyond that is refused.
pub const WISHES: usize = 4;
/// So many may follow the status at a time.
pub const READERS: usize = 16;
/// Between two messages to one of them, where the phase is the same.
pub const GAP: Duration = Duration::from_millis(250);
/// Calls at a time on one connection.
const CALLS_PER_CONNECTION: u32 = 16;
/// The most bytes of a request: none has more than a few numbers and a window.
const MAX_REQUEST: usize = 256;
/// The most bytes of a text for people.
const MAX_WORDS: usize = 1000;
/// The rate is that of the last so long.
const WINDOW: Duration = Duration::from_secs(10);
/// What is kept to measure it lies so far apart at least.
const SAMPLE: Duration = Duration::from_millis(500);

/// How updates stand: all that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What runs.
    pub running: Version,
    /// In which slot.
    pub slot: Slot,
    /// Whether it is only being tried.
    pub tried: bool,
    /// What is being done.
    pub phase: Phase,
    /// From where that comes.
    pub source: Option<String>,
    /// What set the last look at the sources off.
    pub cause: Option<Cause>,
    /// How far that is, while a slot is written.
    pub moving: Option<Moving>,
    /// For what a restart waits.
    pub waiting: Option<String>,
    /// When what will be done.
    pub planned: Planned,
    /// The most memory that the service has held, in bytes, where that is known.
    pub memory_peak: Option<u64>,
    /// Nothing below it is installed.
    pub floor: Version,
    /// Tried, and did not pass, or left by going back; the newest last.
    pub refused: Vec<Version>,
    /// How updates ended; the newest last.
    pub history: Vec<Outcome>,
    /// What is believed, where that can be said.
    pub trust: Option<Standing>,
    /// What is not as it should be.
    pub troubles: Vec<String>,
    /// How many wishes of this socket were done, successfully or not.
    pub wishes_done: u64,
    /// Why the last of them failed, where it did.
    pub wish_failed: Option<String>,
}

impl Told {
    /// What the service knows, without what is known of wishes and of how fast it goes.
    #[must_use]
    pub fn of(status: &service::Status) -> Self {
        Self {
            running: status.running,
            slot: status.slot,
            tried: status.tried,
            phase: status.phase.clone(),
            source: status.source.clone(),
            cause: status.cause,
            moving: None,
            waiting: status.waiting.clone(),
            planned: status.planned.clone().unwrap_or_default(),
            memory_peak: status.memory_peak,
            floor: status.floor,
            refused: status.refused.clone(),
            history: status.history.clone(),
            trust: status.trust.clone(),
            troubles: status.troubles.clone(),
            wishes_done: 0,
            wish_failed: None,
        }
    }
}

/// How far a slot is written, and how fast that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moving {
    /// How far.
    pub progress: Progress,
    /// Bytes that come into their places in a second.
    pub rate: u64,
    /// Seconds until all are, at that rate; none while nothing moves.
    pub left: Option<u64>,
}

/// Measures how fast a slot is written. There is a new one for each time that it is begun.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// When how many bytes were in their places, the oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Takes how far it is.
    pub fn take(&mut self, now: Instant, progress: Progress) -> Moving {
        // One stays that is as old as the window, or older.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE) {
            self.samples.push_back((now, progress.done));
        }
        let (since, before) = self.samples.front().copied().unwrap_or((now, progress.done));
        let ms = now.duration_since(since).as_millis().max(1);
        let rate = u128::from(progress.done.saturating_sub(before)) * 1000 / ms;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let due = progress.total.saturating_sub(progress.done);
        Moving { progress, rate, left: (rate > 0).then(|| due.div_ceil(rate)) }
    }
}

/// The service's end of the socket.
pub struct Control {
    tell: watch::Sender<Told>,
    wishes: mpsc::Receiver<Asked>,
    pace: Mutex<Pace>,
    /// A wish was taken, and is not done.
    busy: bool,
    done: u64,
    failed: Option<String>,
}

impl Control {
    /// Makes the socket, and serves it as long as this lives. Must be called within a runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(
        path: &Path,
        status: &service::Status,
        plan: Arc<Plan>,
        store: Arc<dyn Store>,
    ) -> Result<Self, lucid_ipc::Error> {
        let (tell, told) = watch::channel(Told::of(status));
        let (send, wishes) = mpsc::channel(WISHES);
        serve(path, told, send, plan, store)?;
        Ok(Self { tell, wishes, pace: Mutex::default(), busy: false, done: 0, failed: None })
    }

    /// Tells others how it stands now.
    pub fn show(&self, status: &service::Status) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let moving = status.progress.map(|progress| pace.take(Instant::now(), progress));
        if moving.is_none() {
            *pace = Pace::default();
        }
        let (wishes_done, wish_failed) = (self.done, self.failed.clone());
        self.tell.send_replace(Told { moving, wishes_done, wish_failed, ..Told::of(status) });
    }

    /// Waits for what somebody wishes. It is being done until [`Control::done`] is called.
    pub async fn wish(&mut self) -> Asked {
        match self.wishes.recv().await {
            Some(asked) => {
                self.busy = true;
                asked
            }
            // The socket is served no more, which was said.
            None => std::future::pending().await,
        }
    }

    /// The wish that was taken last is done, or failed for this reason. Without one, nothing happens.
    pub fn done(&mut self, failed: Option<String>) {
        if std::mem::take(&mut self.busy) {
            self.done += 1;
            self.failed = failed;
        }
    }
}

/// Serves the socket until nothing more can be told, because the other end of `told` is gone. Must run within a runtime.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(
    path: &Path,
    told: watch::Receiver<Told>,
    wishes: mpsc::Sender<Asked>,
    plan: Arc<Plan>,
    store: Arc<dyn Store>,
) -> Result<(), lucid_ipc::Error> {
    let (listener, guard) = bind(path, Access::Owner)?;
    let mut ends = told.clone();
    let readers = Arc::new(Semaphore::new(READERS));
    let calls = Calls { told, wishes, plan, store, sent: Mutex::new(0), readers };
    let service = UpdatesServer::new(calls).max_decoding_message_size(MAX_REQUEST);
    let service = InterceptedService::new(service, guard);
    tokio::spawn(async move {
        let end = async move { while ends.changed().await.is_ok() {} };
        let server = Server::builder().max_concurrent_streams(CALLS_PER_CONNECTION);
        if let Err(error) = server.serve_with_incoming_shutdown(service, listener, end).await {
            tracing::error!("the control socket is served no more: {error}");
        }
    });
    Ok(())
}

struct Calls {
    told: watch::Receiver<Told>,
    wishes: mpsc::Sender<Asked>,
    plan: Arc<Plan>,
    /// How many wishes were taken.
    sent: Mutex<u64>,
    readers: Arc<Semaphore>,
    /// What is kept.
    store: Arc<dyn Store>,
}

impl Calls {
    fn wish(&self, asked: Asked) -> Result<Response<wire::Asked>, Status> {
        // Held, so that they are numbered in the order in which they are in the queue.
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        match self.wishes.try_send(asked) {
            Ok(()) => {
                *sent += 1;
                tracing::info!("asked through the control socket: {asked:?}");
                Ok(Response::new(wire::Asked { wish: *sent }))
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(Status::resource_exhausted(
                "so much was asked for already that nothing more is taken: wait until that is done",
            )),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(Status::unavailable("the update service is stopping"))
            }
        }
    }
}

impl Calls {
    /// What is set, and what is known beside it.
    fn schedule(&self) -> Response<wire::Schedule> {
        let told = self.told.borrow();
        let planned = Planned { set: self.plan.get(), ..told.planned.clone() };
        Response::new(schedule(&planned, told.waiting.as_deref(), now()))
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Waits until what is told is so, and says whether it ever will be: not where nothing more is told.
async fn becomes(told: &mut watch::Receiver<Told>, so: impl Fn(&Told) -> bool) -> bool {
    told.wait_for(so).await.is_ok()
}

#[async_trait]
impl Updates for Calls {
    type StatusStream = Pin<Box<dyn Stream<Item = Result<UpdateStatus, Status>> + Send>>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let place = Arc::clone(&self.readers).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{READERS} programs follow the updates already: stop one of them"
            ))
        })?;
        // One at a time: a slow reader gets the latest, and none queue up.
        let (send, receive) = mpsc::channel(1);
        let mut told = self.told.clone();
        tokio::spawn(async move {
            let _place = place;
            loop {
                let Ok(room) = send.reserve().await else { return };
                let now = told.borrow_and_update().clone();
                room.send(Ok(UpdateStatus::from(&now)));
                tokio::select! {
                    () = sleep(GAP) => {}
                    _ = becomes(&mut told, |next| next.phase != now.phase) => {}
                    () = send.closed() => return,
                }
                tokio::select! {
                    more = becomes(&mut told, |next| *next != now) => if !more { return },
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<wire::Asked>, Status> {
        self.wish(if request.into_inner().download { Asked::Download } else { Asked::Check })
    }

    async fn apply(&self, _: Request<ApplyRequest>) -> Result<Response<wire::Asked>, Status> {
        self.wish(Asked::Apply)
    }

    async fn rollback(&self, _: Request<RollbackRequest>) -> Result<Response<wire::Asked>, Status> {
        self.wish(Asked::Rollback)
    }

    async fn get_schedule(&self, _: Request<GetScheduleRequest>) -> Result<Response<wire::Schedule>, Status> {
        Ok(self.schedule())
    }

    async fn set_schedule(
        &self,
        request: Request<SetScheduleRequest>,
    ) -> Result<Response<wire::Schedule>, Status> {
        let SetScheduleRequest { window, at_seconds, pause_seconds, resume, reset } = request.into_inner();
        let window =
            window.map(|text| text.parse::<Window>()).transpose().map_err(Status::invalid_argument)?;
        let change = Change { reset, window, at: at_seconds, pause: pause_seconds, resume };
        match self.plan.change(&change, now()) {
            Ok(set) => {
                tracing::info!("set through the control socket: {set:?}");
                Ok(self.schedule())
            }
            Err(Error::Nothing(why)) => Err(Status::invalid_argument(why)),
            Err(error) => Err(Status::internal(format!("{error}: nothing was set"))),
        }
    }

    async fn history(&self, _: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let outcomes = self.told.borrow().history.iter().map(wire::Outcome::from).collect();
        Ok(Response::new(HistoryResponse { outcomes }))
    }

    async fn journal(&self, request: Request<JournalRequest>) -> Result<Response<JournalResponse>, Status> {
        let (number, store) = (request.into_inner().number, Arc::clone(&self.store));
        let read = tokio::task::spawn_blocking(move || service::failed(&*store, number)).await;
        match read.map_err(|error| Status::internal(error.to_string()))? {
            Ok(Some(text)) => Ok(Response::new(JournalResponse { text })),
            Ok(None) => Err(Status::not_found(format!(
                "the journal of {number} failed starts is not kept: there were fewer, or it is more than {}",
                service::FAILED.len()
            ))),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }
}

fn slot(slot: Slot) -> wire::Slot {
    match slot {
        Slot::A => wire::Slot::A,
        Slot::B => wire::Slot::B,
    }
}

/// No more of it than fits.
fn words(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_WORDS)].to_owned()
}

impl From<&Told> for UpdateStatus {
    fn from(told: &Told) -> Self {
        let phase = match told.phase {
            Phase::Idle { .. } => wire::Phase::Idle,
            Phase::Staging { .. } => wire::Phase::Staging,
            Phase::Staged { .. } => wire::Phase::Staged,
            Phase::Trying { .. } => wire::Phase::Trying,
            Phase::Good { .. } => wire::Phase::Good,
        };
        let cause = match told.cause {
            None => wire::Cause::Unspecified,
            Some(Cause::Itself) => wire::Cause::Itself,
            Some(Cause::Request) => wire::Cause::Request,
            Some(Cause::Stick) => wire::Cause::Stick,
        };
        let about = told.phase.about();
        Self {
            running: told.running.to_string(),
            slot: slot(told.slot).into(),
            tried: told.tried,
            phase: phase.into(),
            version: about.map(|(release, _)| release.version.to_string()),
            target: about.map(|(_, target)| slot(target).into()),
            progress: told.moving.as_ref().map(wire::Progress::from),
            memory_peak_bytes: told.memory_peak.unwrap_or(0),
            floor: told.floor.to_string(),
            refused: told.refused.iter().map(Version::to_string).collect(),
            last: told.history.last().map(wire::Outcome::from),
            trust: told.trust.as_ref().map(wire::Trust::from),
            troubles: told.troubles.iter().map(|trouble| words(trouble)).collect(),
            waiting: told.waiting.as_deref().map(words),
            wishes_done: told.wishes_done,
            wish_failed: told.wish_failed.as_deref().map(words),
            offered: told.planned.offered.as_ref().map(wire::Offered::from),
            source: told.source.as_deref().map(words),
            cause: cause.into(),
        }
    }
}

impl From<&Offered> for wire::Offered {
    fn from(offered: &Offered) -> Self {
        Self { version: offered.version.to_string(), download_bytes: offered.bytes, why: words(&offered.why) }
    }
}

/// What is told of when what will be done, at a time in seconds since 1970.
fn schedule(planned: &Planned, waiting: Option<&str>, now: u64) -> wire::Schedule {
    let Planned { next_look, automatic, metered, ground, set, offered, turn } = planned;
    wire::Schedule {
        next_look_seconds: *next_look,
        automatic: *automatic,
        window: set.window.or(*ground).map(|window| window.to_string()),
        window_set: set.window.is_some(),
        at_seconds: set.set_for(now),
        paused_until_seconds: set.paused(now),
        metered: *metered,
        restart_seconds: set.earliest(*ground, *automatic, now),
        waiting: waiting.map(words),
        offered: offered.as_ref().map(wire::Offered::from),
        turn: turn.map(|turn| wire::Turn { version: turn.version.to_string(), at_seconds: turn.at }),
    }
}

impl From<&Moving> for wire::Progress {
    fn from(moving: &Moving) -> Self {
        let Moving { progress, rate, left } = moving;
        Self {
            total_bytes: progress.total,
            done_bytes: progress.done,
            kept_bytes: progress.kept,
            copied_bytes: progress.copied,
            fetched_bytes: progress.fetched,
            bytes_per_second: *rate,
            seconds_left: *left,
        }
    }
}

impl From<&Outcome> for wire::Outcome {
    fn from(outcome: &Outcome) -> Self {
        let ending = match outcome.ending {
            Ending::Installed => wire::Ending::Installed,
            Ending::Failed => wire::Ending::Failed,
            Ending::Dropped => wire::Ending::Dropped,
            Ending::Lost => wire::Ending::Lost,
        };
        Self {
            version: outcome.version.to_string(),
            slot: slot(outcome.slot).into(),
            ending: ending.into(),
            reason: words(&outcome.reason),
            at_seconds: outcome.at,
            source: outcome.source.as_deref().map(words),
        }
    }
}

impl From<&Standing> for wire::Trust {
    fn from(trust: &Standing) -> Self {
        let timestamp = trust.timestamp.as_ref();
        Self {
            root_version: trust.root,
            root_expires: trust.root_expires.clone(),
            development: trust.development,
            timestamp: timestamp
                .map(|(version, expires)| Timestamp { version: *version, expires: expires.clone() }),
            looked: trust.checked.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds_and_says_when_all_is_done() {
        let (begin, mut pace) = (Instant::now(), Pace::default());
        let mut at = |ms, done| {
            let progress = Progress { total: 1_000_000, done, ..Progress::default() };
            let moving = pace.take(begin + Duration::from_millis(ms), progress);
            (moving.rate, moving.left)
        };
        assert_eq!(at(0, 100_000), (0, None), "nothing is known yet");
        assert_eq!(at(1000, 101_000), (1000, Some(899)));
        assert_eq!(at(2000, 300_000), (100_000, Some(7)));
        // Then it stands still: in the end nothing of what was fast counts.
        let mut last = (0, None);
        for second in 3..=13 {
            last = at(second * 1000, 300_000);
        }
        assert_eq!(last, (0, None));
        assert_eq!(at(14_000, 1_000_000).1, Some(0), "all is there");
    }

    #[test]
    fn however_often_it_is_told_no_more_is_kept_than_the_window_needs() {
        let (begin, mut pace) = (Instant::now(), Pace::default());
        for ms in 0..60_000 {
            let progress = Progress { total: 100_000, done: ms, ..Progress::default() };
            pace.take(begin + Duration::from_millis(ms), progress);
            assert!(pace.samples.len() <= 22, "{} after {ms} ms", pace.samples.len());
        }
    }

    #[test]
    fn a_text_is_cut_where_a_letter_ends() {
        assert_eq!(words("short"), "short");
        assert_eq!(words(&"é".repeat(2000)), "é".repeat(500));
        assert_eq!(words(&format!("a{}", "é".repeat(2000))).len(), 999);
    }
}
