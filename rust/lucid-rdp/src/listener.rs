//! Accepts clients. An attacker can cost this process one TLS handshake at a time and a bounded number of
//! sockets, and nothing else: who has not authenticated holds no desktop, no thread and no large buffer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ironrdp_acceptor::DesktopSize;
use ironrdp_pdu::rdp::client_info::ClientAutoReconnect;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

use crate::error::Refused;
use crate::handshake::{self, Hall, SharedHost, Stage};
use crate::running::{self, Opening, Settings};
use crate::sessions::{Arrival, Call, Place, Sessions};
use crate::{Error, guard, keeper, status};

/// A client has this long to send its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(15);
/// And this long for the whole handshake: some 15 round trips, which take 6 s through Tor, and a person
/// may be asked to accept a certificate in the middle of it.
const HANDSHAKE: Duration = Duration::from_secs(90);
/// Connections that wait to be authenticated. When one more comes, the one that has waited longest without
/// saying anything goes (or, if all speak, the oldest).
const MAX_WAITING: usize = 128;

struct Waiting {
    id: u64,
    stage: watch::Receiver<Stage>,
    evict: Rc<Notify>,
}

/// Who waits to be authenticated, oldest first.
#[derive(Default)]
struct Lobby(RefCell<Vec<Waiting>>);

impl Lobby {
    fn enter(&self, id: u64, stage: watch::Receiver<Stage>) -> Rc<Notify> {
        let mut waiting = self.0.borrow_mut();
        if waiting.len() >= MAX_WAITING {
            let victim = waiting.iter().position(|w| *w.stage.borrow() == Stage::Silent).unwrap_or(0);
            waiting.remove(victim).evict.notify_one();
        }
        let evict = Rc::new(Notify::new());
        waiting.push(Waiting { id, stage, evict: Rc::clone(&evict) });
        evict
    }

    fn leave(&self, id: u64) {
        self.0.borrow_mut().retain(|w| w.id != id);
    }
}

/// Serves until told to stop. Must run within a [`tokio::task::LocalSet`].
pub(crate) async fn serve(
    listener: TcpListener,
    host: SharedHost,
    settings: Settings,
    sessions: Rc<Sessions>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Error> {
    let lobby = Rc::new(Lobby::default());
    let settings = Rc::new(settings);
    let mut tasks = tokio::task::JoinSet::new();
    let mut id = 0_u64;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => break,
            Some(_) = tasks.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors, or the client is gone already: neither ends the service.
                tracing::warn!("accepting a connection: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        id += 1;
        if id == 1 {
            tracing::info!("first connection at {:.3} s after the kernel started", status::uptime());
        }
        let task = client(
            id,
            stream,
            peer,
            SharedHost::clone(&host),
            Rc::clone(&settings),
            Rc::clone(&lobby),
            Rc::clone(&sessions),
            stopping.clone(),
        );
        tasks.spawn_local(task);
    }
    // Sessions say good-bye by themselves; they have been told.
    let _ =
        tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} })
            .await;
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one call, from the loop above")]
async fn client(
    id: u64,
    stream: TcpStream,
    peer: SocketAddr,
    host: SharedHost,
    settings: Rc<Settings>,
    lobby: Rc<Lobby>,
    sessions: Rc<Sessions>,
    stopping: watch::Receiver<bool>,
) {
    if let Err(e) = tune(&stream) {
        tracing::debug!(%peer, "setting socket options: {e}");
    }
    let (stage, stage_seen) = watch::channel(Stage::Silent);
    let evict = lobby.enter(id, stage_seen.clone());
    let mut door = Door { settings: &settings, sessions: &sessions, opening: None };
    let wait = sessions.guard.wait(peer.ip());
    if !wait.is_zero() {
        tracing::debug!(%peer, "too much came to nothing from there: it is answered in {} ms", wait.as_millis());
    }
    // Its first message is taken when the wait is over, and may have come before.
    let handshake = guard::claims(async {
        tokio::time::sleep(wait).await;
        handshake::accept(&host, stream, peer, &stage, &mut door).await
    });
    let (shaken, user) = tokio::select! {
        (shaken, user) = handshake => (shaken, user),
        () = silent_too_long(stage_seen.clone()) => (Err(Refused::TimedOut(FIRST_MESSAGE.as_secs())), None),
        () = tokio::time::sleep(HANDSHAKE) => (Err(Refused::TimedOut(HANDSHAKE.as_secs())), None),
        () = evict.notified() => (Err(Refused::Crowded), None),
    };
    lobby.leave(id);
    let connection = match shaken {
        Ok(connection) => connection,
        Err(refused) => {
            let came_to = *stage_seen.borrow();
            sessions.guard.refused(peer.ip(), &refused, came_to, user);
            // What the client sent is not repeated: it may be a password in the wrong field.
            match refused {
                Refused::Crowded | Refused::Gone(_) | Refused::TimedOut(_) if came_to == Stage::Silent => {
                    tracing::debug!(%peer, "refused: {refused}");
                }
                _ => tracing::warn!(%peer, "refused: {refused}"),
            }
            return;
        }
    };
    let opening = door.opening;
    let mut arrival = Arrival { connection, peer };
    loop {
        let (user, size) = (&arrival.connection.user, arrival.connection.layout.size());
        match sessions.place(user, size) {
            Place::Existing(calls) => match calls.send(Call::Client(Box::new(arrival))).await {
                Ok(()) => return,
                // It ended just now; its user gets a new one.
                Err(mpsc::error::SendError(Call::Client(back))) => arrival = *back,
            },
            Place::New(facts, calls) => {
                let opening = opening.unwrap_or_else(|| running::open(&settings, size));
                let id = facts.id;
                let recorded = keeper::keep(facts, opening, arrival, calls, &sessions, stopping).await;
                sessions.ended(id);
                // A host that stops waits for this task.
                if let Some(recorded) = recorded
                    && let Err(error) = recorded.await
                {
                    tracing::error!("a recording was not ended: {error}");
                }
                return;
            }
            Place::Full => {
                tracing::warn!(%peer, "refused: {} sessions run, as many as are allowed", sessions.count());
                keeper::deny(arrival.connection).await;
                return;
            }
        }
    }
}

/// What the handshake of one client finds behind it.
struct Door<'a> {
    settings: &'a Settings,
    sessions: &'a Sessions,
    opening: Option<Opening>,
}

impl Hall for Door<'_> {
    fn expect(&mut self, user: &str, size: DesktopSize) {
        if self.sessions.has_room_for_new(user) {
            self.opening = Some(running::open(self.settings, size));
        }
    }

    fn redeem(&mut self, cookie: &ClientAutoReconnect) -> Option<String> {
        self.sessions.redeem(cookie)
    }
}

async fn silent_too_long(stage: watch::Receiver<Stage>) {
    tokio::time::sleep(FIRST_MESSAGE).await;
    if *stage.borrow() != Stage::Silent {
        std::future::pending::<()>().await;
    }
}

/// Input must not wait for more of it, and a client whose network vanished must be noticed.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, 60_000)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use lucid_desktop::KeyboardLayout;
    use lucid_ipc::Access;
    use lucid_ipc::rdp::anomaly::About;
    use lucid_ipc::rdp::rdp_client::RdpClient;
    use lucid_ipc::rdp::{AnomalyKind, GetStatusRequest, Status};
    use lucid_policy::Policy;

    use super::*;
    use crate::control;
    use crate::encoders::VideoEncoders;
    use crate::gates::Channels;
    use crate::handshake::tests::{Client, host};
    use crate::running::Authority;
    use crate::sessions::Limits;

    /// A host with its control socket. No desktop can be had.
    async fn serving<F: Future<Output = ()>>(
        test: impl FnOnce(SharedHost, SocketAddr, std::path::PathBuf) -> F,
    ) {
        let host = host();
        let dir = std::env::temp_dir().join(format!("lucid-rdp-listener-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("control.sock");
        let channels = Channels { clipboard: false, sound: false, drives: false };
        let encoders = VideoEncoders::software();
        let facts = control::Host {
            began: Instant::now(),
            port: 0,
            certificate_sha256: String::new(),
            video_encoder: encoders.description(),
            sessions_recorded: false,
        };
        let settings = Settings {
            desktop: dir.join("nothing.sock"),
            keyboard: KeyboardLayout { layout: "us".into(), variant: String::new() },
            channels,
            encoders,
            authority: Authority::Fixed(Arc::new(Policy::strict())),
        };
        let sessions = Rc::new(Sessions::new(8, Limits { keep: None, idle: None, session: None }));
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (stop, stopping) = watch::channel(false);
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                control::serve(&socket, Access::Owner, facts, Rc::clone(&sessions), stopping.clone())
                    .unwrap();
                let served = tokio::task::spawn_local(serve(
                    listener,
                    SharedHost::clone(&host),
                    settings,
                    sessions,
                    stopping,
                ));
                test(host, address, socket).await;
                stop.send_replace(true);
                served.await.unwrap().unwrap();
            })
            .await;
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn failed_logins_are_told_on_the_control_socket_and_make_wait_and_lock_nobody_out() {
        serving(async |host, address, socket| {
            let mut rdp = RdpClient::new(lucid_ipc::connect(&socket).await.unwrap());
            let mut status = async || rdp.get_status(GetStatusRequest {}).await.unwrap().into_inner();
            let login = async |nla, user, password| {
                let stream = TcpStream::connect(address).await.unwrap();
                let client = Client { nla, user, password, ..Client::GOOD };
                client.connect(stream, host.identity.public_key.clone()).await
            };
            assert_eq!(status().await.anomalies, []);
            for number in 0..5 {
                assert!(login(number % 2 == 0, "LUCID", "wrong").await.is_err());
            }
            let waiting = Instant::now();
            for number in 0..5 {
                // Somebody has typed his password where his name belongs.
                assert!(login(number % 2 == 0, "hunter2", "").await.is_err());
            }
            // 250 ms, 500, and then a second each time; a failure may be counted when the next one is there already.
            assert!(waiting.elapsed() > Duration::from_secs(2), "{:?}", waiting.elapsed());
            let told = tokio::time::timeout(Duration::from_secs(30), async {
                loop {
                    let Status { anomalies, .. } = status().await;
                    if anomalies.iter().map(|anomaly| anomaly.times).sum::<u64>() == 20 {
                        return anomalies;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
            let told = told.await.unwrap();
            assert!(told.iter().all(|anomaly| anomaly.kind() == AnomalyKind::FailedLogins), "{told:?}");
            let about: Vec<_> =
                told.into_iter().map(|anomaly| (anomaly.about.unwrap(), anomaly.times)).collect();
            assert_eq!(
                about,
                [
                    (About::Address("127.0.0.1".into()), 10),
                    (About::User("lucid".into()), 5),
                    (About::UnknownUsers(true), 5)
                ]
            );
            assert!(login(true, "lucid", "password").await.is_ok());
        })
        .await;
    }

    #[test]
    fn when_it_is_crowded_the_oldest_silent_one_goes() {
        let lobby = Lobby::default();
        let mut kept = Vec::new();
        for id in 0..MAX_WAITING as u64 {
            let (stage, seen) = watch::channel(if id < 3 { Stage::Speaking } else { Stage::Silent });
            kept.push((stage, lobby.enter(id, seen)));
        }
        let (_stage, seen) = watch::channel(Stage::Silent);
        lobby.enter(1000, seen);
        let ids: Vec<_> = lobby.0.borrow().iter().map(|w| w.id).collect();
        assert_eq!(ids.len(), MAX_WAITING);
        assert!(ids.contains(&0) && ids.contains(&2) && ids.contains(&1000) && !ids.contains(&3));
    }

    #[test]
    fn when_all_speak_the_oldest_goes() {
        let lobby = Lobby::default();
        let mut kept = Vec::new();
        for id in 0..=MAX_WAITING as u64 {
            let (stage, seen) = watch::channel(Stage::Speaking);
            kept.push((stage, lobby.enter(id, seen)));
        }
        assert_eq!(lobby.0.borrow().first().map(|w| w.id), Some(1));
    }
}
