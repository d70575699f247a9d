//! Sessions end before a restart: asked of an RDP host that plays one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use lucid_ipc::{
    Access, bind,
    rdp::{
        self, EndSessionRequest, EndSessionResponse, FollowRequest, GetSessionRequest, GetStatusRequest,
        Session, SessionState,
        rdp_server::{Rdp, RdpServer},
    },
    tonic::{Request, Response, Status, async_trait, transport::Server},
};
use lucid_updated::drain::{Drained, GRACE, drain};
use tokio_stream::Stream;

/// A test ends after this, whatever it waits for.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Inner {
    sessions: Vec<(u32, SessionState)>,
    asked: Vec<EndSessionRequest>,
    /// Comes after the first one was asked to end.
    late: Option<u32>,
    /// Asked to end, they do not.
    stubborn: bool,
}

/// An RDP host whose sessions end as soon as they are asked to.
#[derive(Clone, Default)]
struct Host(Arc<Mutex<Inner>>);

impl Host {
    fn serve(&self, dir: &Path) -> PathBuf {
        let path = dir.join("control.sock");
        let (listener, guard) = bind(&path, Access::Owner).unwrap();
        let service = RdpServer::with_interceptor(self.clone(), guard);
        tokio::spawn(Server::builder().serve_with_incoming(service, listener));
        path
    }
}

#[async_trait]
impl Rdp for Host {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<rdp::Status, Status>> + Send>>;

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<rdp::Status>, Status> {
        let session = |(id, state): &(u32, SessionState)| Session {
            id: *id,
            state: (*state).into(),
            ..Session::default()
        };
        let sessions = self.0.lock().unwrap().sessions.iter().map(session).collect();
        Ok(Response::new(rdp::Status { sessions, ..rdp::Status::default() }))
    }

    async fn end_session(
        &self,
        request: Request<EndSessionRequest>,
    ) -> Result<Response<EndSessionResponse>, Status> {
        let request = request.into_inner();
        let mut inner = self.0.lock().unwrap();
        if !inner.stubborn {
            inner.sessions.retain(|(id, _)| *id != request.id);
        }
        inner.asked.push(request);
        let late = inner.late.take().map(|id| (id, SessionState::Connected));
        inner.sessions.extend(late);
        Ok(Response::new(EndSessionResponse {}))
    }

    async fn get_session(&self, _: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        Err(Status::unimplemented("nobody asks that"))
    }

    async fn follow(&self, _: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("nobody asks that"))
    }
}

#[tokio::test]
async fn everybody_is_told_into_what_the_device_restarts_and_every_session_is_ended_also_one_that_comes_late()
{
    let (dir, host) = (tempfile::tempdir().unwrap(), Host::default());
    {
        let mut inner = host.0.lock().unwrap();
        inner.sessions = vec![(1, SessionState::Connected), (2, SessionState::Parked)];
        inner.late = Some(7);
    }
    let socket = host.serve(dir.path());
    let ended = tokio::time::timeout(LONGEST, drain(&socket, "0.2.0", Duration::from_secs(600), GRACE)).await;
    assert_eq!(ended.unwrap(), Drained::All(3));
    let asked = std::mem::take(&mut host.0.lock().unwrap().asked);
    assert_eq!(asked.iter().map(|asked| asked.id).collect::<Vec<_>>(), [1, 2, 7]);
    for asked in &asked {
        assert!(asked.message.contains("restarts into version 0.2.0"), "{}", asked.message);
        // Who looks has his time, less what has passed since; where nobody looks there is no need of it.
        assert_eq!(asked.delay_seconds == 0, asked.id == 2, "{asked:?}");
        assert!(asked.delay_seconds <= 600, "{asked:?}");
    }
}

#[tokio::test]
async fn without_sessions_or_without_an_rdp_host_nothing_is_waited_for() {
    let (dir, host) = (tempfile::tempdir().unwrap(), Host::default());
    let time = Duration::from_secs(600);
    let gone = dir.path().join("nowhere.sock");
    let ended = tokio::time::timeout(LONGEST, drain(&gone, "0.2.0", time, GRACE)).await;
    assert_eq!(ended.unwrap(), Drained::NotRunning);
    let socket = host.serve(dir.path());
    let ended = tokio::time::timeout(LONGEST, drain(&socket, "0.2.0", time, GRACE)).await;
    assert_eq!(ended.unwrap(), Drained::All(0));
    assert!(host.0.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn an_rdp_host_that_does_not_answer_or_does_not_end_sessions_does_not_hold_up_a_restart_for_good() {
    let dir = tempfile::tempdir().unwrap();
    // It accepts connections, and says nothing.
    let silent = dir.path().join("silent.sock");
    let _listener = tokio::net::UnixListener::bind(&silent).unwrap();
    let host = Host::default();
    {
        let mut inner = host.0.lock().unwrap();
        (inner.sessions, inner.stubborn) = (vec![(1, SessionState::Connected)], true);
    }
    let socket = host.serve(dir.path());
    let short = Duration::from_secs(2);
    let both = async {
        tokio::join!(
            drain(&silent, "0.2.0", Duration::ZERO, short),
            drain(&socket, "0.2.0", Duration::ZERO, short)
        )
    };
    let (silent, stubborn) = tokio::time::timeout(LONGEST, both).await.unwrap();
    assert!(matches!(&silent, Drained::Not(why) if why.contains("does not answer")), "{silent:?}");
    assert!(
        matches!(&stubborn, Drained::Not(why) if why.contains("1 sessions have not ended")),
        "{stubborn:?}"
    );
    assert_eq!(host.0.lock().unwrap().asked.len(), 1, "a session is told once");
}

#[test]
fn on_the_device_the_update_service_may_ask_the_rdp_host_by_its_group_and_no_other_right() {
    let system = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/system");
    let unit = |name: &str| {
        let text = std::fs::read_to_string(system.join("usr/lib/systemd/system").join(name)).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (host, updater) = (unit("lucid-rdp.service"), unit("lucid-updated.service"));
    let starts = |unit: &[String], words: &str| {
        unit.iter().any(|line| line.starts_with("ExecStart=") && line.contains(words))
    };
    assert!(starts(&host, " --control-group 900 "), "{host:?}");
    assert!(starts(&updater, " --rdp-control /run/lucid-rdp/control.sock "), "{updater:?}");
    let groups = std::fs::read_to_string(system.join("etc/group")).unwrap();
    assert!(groups.lines().any(|line| line.starts_with("lucid-rdp:x:900:")), "{groups}");
    assert!(updater.contains(&"SupplementaryGroups=lucid-rdp".to_owned()), "{updater:?}");
    assert!(updater.contains(&"CapabilityBoundingSet=CAP_KILL".to_owned()), "{updater:?}");
    // The host's own group is given to its socket without a right to give files to others.
    assert!(host.contains(&"Group=lucid-rdp".to_owned()), "{host:?}");
    assert!(!host.iter().any(|line| line.starts_with("SystemCallFilter=@chown")), "{host:?}");
}
