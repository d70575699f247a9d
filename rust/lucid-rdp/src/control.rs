//! The control socket: answers other local programs about this host and its sessions (`lucid.rdp.v1`).
//!
//! gRPC's tasks may move between threads and the sessions do not, so each call is passed on to a task that lives
//! beside them.

use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lucid_ipc::rdp::anomaly::About;
use lucid_ipc::rdp::rdp_server::{Rdp, RdpServer};
use lucid_ipc::rdp::{
    Anomaly, AnomalyKind, EndSessionRequest, EndSessionResponse, FollowRequest, GetSessionRequest,
    GetStatusRequest, Session, SessionState, Status as HostStatus,
};
use lucid_ipc::tonic::transport::Server;
use lucid_ipc::tonic::{Request, Response, Status, async_trait};
use lucid_ipc::{Access, bind};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use crate::anomalies::{Kind, Mark, Who};
use crate::keeper;
use crate::sessions::{Ending, Facts, Sessions};

/// The longest message, in characters: two lines of the desktop's notice.
const MAX_MESSAGE: usize = 200;
/// The longest delay before a session is ended, in seconds.
const MAX_DELAY: u32 = 3600;
/// Calls that wait for an answer.
const CALLS: usize = 16;
/// Calls at a time on one connection.
const CALLS_PER_CONNECTION: u32 = 16;

/// What is known of the host besides its sessions.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) began: Instant,
    pub(crate) port: u16,
    pub(crate) certificate_sha256: String,
    /// This may change.
    pub(crate) video_encoder: watch::Receiver<String>,
    pub(crate) sessions_recorded: bool,
}

enum Ask {
    Status(oneshot::Sender<HostStatus>),
    End { id: u32, ending: Ending, found: oneshot::Sender<bool> },
}

/// Serves the socket until told to stop. Must run within a [`tokio::task::LocalSet`].
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(
    path: &std::path::Path,
    access: Access,
    host: Host,
    sessions: Rc<Sessions>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), lucid_ipc::Error> {
    let (listener, guard) = bind(path, access)?;
    let (asks, mut asked) = mpsc::channel(CALLS);
    let service = RdpServer::with_interceptor(Calls { asks, changes: sessions.changes() }, guard);
    tokio::task::spawn_local(async move {
        while let Some(ask) = asked.recv().await {
            // Whoever asked may be gone meanwhile.
            match ask {
                Ask::Status(answer) => drop(answer.send(status(&host, &sessions))),
                Ask::End { id, ending, found } => drop(found.send(sessions.end(id, ending))),
            }
        }
    });
    tokio::task::spawn_local(async move {
        let stop = async move {
            // Gone is stopped as well.
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let server = Server::builder().max_concurrent_streams(CALLS_PER_CONNECTION);
        if let Err(e) = server.serve_with_incoming_shutdown(service, listener, stop).await {
            tracing::error!("the control socket is served no more: {e}");
        }
    });
    Ok(())
}

struct Calls {
    asks: mpsc::Sender<Ask>,
    changes: watch::Receiver<u64>,
}

async fn ask<T>(asks: &mpsc::Sender<Ask>, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Status> {
    let stopping = || Status::unavailable("the RDP host is stopping");
    let (answer, answered) = oneshot::channel();
    asks.send(make(answer)).await.map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())
}

fn not_found(id: u32) -> Status {
    Status::not_found(format!("there is no session {id}"))
}

#[async_trait]
impl Rdp for Calls {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<HostStatus>, Status> {
        Ok(Response::new(ask(&self.asks, Ask::Status).await?))
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        let id = request.into_inner().id;
        let status = ask(&self.asks, Ask::Status).await?;
        let session = status.sessions.into_iter().find(|s| s.id == id);
        Ok(Response::new(session.ok_or_else(|| not_found(id))?))
    }

    async fn end_session(
        &self,
        request: Request<EndSessionRequest>,
    ) -> Result<Response<EndSessionResponse>, Status> {
        let EndSessionRequest { id, message, delay_seconds } = request.into_inner();
        if message.chars().count() > MAX_MESSAGE || message.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "a message has at most {MAX_MESSAGE} characters and no control characters"
            )));
        }
        if delay_seconds > MAX_DELAY {
            return Err(Status::invalid_argument(format!("a delay is at most {MAX_DELAY} s")));
        }
        let at = Instant::now() + Duration::from_secs(delay_seconds.into());
        let ending = Ending { at, message };
        if ask(&self.asks, |found| Ask::End { id, ending, found }).await? {
            Ok(Response::new(EndSessionResponse {}))
        } else {
            Err(not_found(id))
        }
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Result<HostStatus, Status>> + Send>>;

    async fn follow(&self, _: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        // One at a time: a slow reader gets the latest, and none queue up.
        let (send, receive) = mpsc::channel(1);
        let (asks, mut changes) = (self.asks.clone(), self.changes.clone());
        tokio::spawn(async move {
            loop {
                changes.mark_unchanged();
                let status = ask(&asks, Ask::Status).await;
                let last = status.is_err();
                if send.send(status).await.is_err() || last {
                    return;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

fn status(host: &Host, sessions: &Sessions) -> HostStatus {
    let anomalies: Vec<Anomaly> = sessions.guard.marks().into_iter().map(anomaly).collect();
    HostStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_seconds: host.began.elapsed().as_secs(),
        port: host.port.into(),
        certificate_sha256: host.certificate_sha256.clone(),
        max_sessions: u32::try_from(sessions.most).unwrap_or(u32::MAX),
        sessions: sessions.each(|facts| session(facts, sessions, &anomalies)),
        video_encoder: host.video_encoder.borrow().clone(),
        sessions_recorded: host.sessions_recorded,
        anomalies,
    }
}

fn anomaly(mark: Mark) -> Anomaly {
    let kind = match mark.kind {
        Kind::FailedLogins => AnomalyKind::FailedLogins,
        Kind::ConnectionBurst => AnomalyKind::ConnectionBurst,
        Kind::ClipboardBurst => AnomalyKind::ClipboardBurst,
        Kind::ResizeBurst => AnomalyKind::ResizeBurst,
        Kind::ViolationBurst => AnomalyKind::ViolationBurst,
    };
    let about = match mark.who {
        Who::Address(_) => About::Address(mark.who.to_string()),
        Who::User(name) => About::User(name),
        Who::NoUser => About::UnknownUsers(true),
        Who::Session(id) => About::Session(id),
    };
    Anomaly {
        kind: kind.into(),
        about: Some(about),
        times: mark.times,
        first_seconds: mark.first.elapsed().as_secs(),
        last_seconds: mark.last.elapsed().as_secs(),
    }
}

fn session(facts: &Facts, sessions: &Sessions, anomalies: &[Anomaly]) -> Session {
    let client = facts.client.get();
    let state = match (facts.started.get(), client) {
        (false, _) => SessionState::Starting,
        (true, Some(_)) => SessionState::Connected,
        (true, None) => SessionState::Parked,
    };
    let size = facts.size.get();
    let due = keeper::due(facts, &sessions.limits);
    let own = |anomaly: &&Anomaly| anomaly.about == Some(About::Session(facts.id));
    Session {
        id: facts.id,
        user: facts.user.clone(),
        state: state.into(),
        client_address: client.map(|peer| peer.to_string()),
        width: size.width.into(),
        height: size.height.into(),
        codec: facts.codec.get().map(str::to_owned),
        age_seconds: facts.began.elapsed().as_secs(),
        state_seconds: facts.since.get().elapsed().as_secs(),
        idle_seconds: facts.last_input.get().elapsed().as_secs(),
        pictures: facts.frames.get(),
        bytes: facts.bytes.get(),
        ends_in_seconds: due.map(|(at, _)| at.saturating_duration_since(Instant::now()).as_secs()),
        anomalies: anomalies.iter().filter(own).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use ironrdp_acceptor::DesktopSize;

    use super::*;
    use crate::sessions::{Limits, Place};

    #[tokio::test]
    async fn a_sessions_marks_stand_with_it_and_stay_when_it_has_ended() {
        let host = Host {
            began: Instant::now(),
            port: 3389,
            certificate_sha256: String::new(),
            video_encoder: watch::channel(String::new()).1,
            sessions_recorded: false,
        };
        let sessions = Sessions::new(8, Limits { keep: None, idle: None, session: None });
        let size = DesktopSize { width: 1280, height: 720 };
        let Place::New(ada, _calls) = sessions.place("ada", size) else { panic!("no place") };
        let Place::New(bob, _calls2) = sessions.place("bob", size) else { panic!("no place") };
        let changes = sessions.changes();
        let free = |kind| bob.watch.free_at(kind).is_none();
        (0..49).for_each(|_| bob.watch.note(Kind::ClipboardBurst, 1));
        assert!(free(Kind::ClipboardBurst) && status(&host, &sessions).anomalies.is_empty());
        assert!(!changes.has_changed().unwrap());
        bob.watch.note(Kind::ClipboardBurst, 1);
        assert!(changes.has_changed().unwrap(), "who follows is told");
        assert!(!free(Kind::ClipboardBurst) && free(Kind::ResizeBurst));
        assert!(ada.watch.free_at(Kind::ClipboardBurst).is_none(), "another session");
        let told = status(&host, &sessions);
        let [mark] = &told.anomalies[..] else { panic!("{told:?}") };
        assert_eq!((mark.kind(), &mark.about), (AnomalyKind::ClipboardBurst, &Some(About::Session(bob.id))));
        assert_eq!((mark.times, mark.last_seconds), (50, 0));
        assert_eq!(told.sessions[0].anomalies, []);
        assert_eq!(told.sessions[1].anomalies, told.anomalies);
        sessions.ended(bob.id);
        let told = status(&host, &sessions);
        assert_eq!((told.sessions.len(), told.anomalies.len()), (1, 1));
    }
}
