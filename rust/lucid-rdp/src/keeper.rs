//! The life of a session: its desktop runs from its user's first connection until something ends it for good, and
//! connections come and go meanwhile.

use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironrdp_pdu::rdp::server_error_info::ProtocolIndependentCode;
use lucid_ipc::session::Actor;
use lucid_ipc::session::to_recorder::Item;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use crate::Error;
use crate::audit::{self, Log};
use crate::closing::{self, Farewell};
use crate::curtain::Curtain;
use crate::gates::Holding;
use crate::handshake::Connection;
use crate::notice::Notice;
use crate::running::Opening;
use crate::session::{self, End};
use crate::sessions::{Arrival, Call, Facts, Limits, Sessions};

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Its user closed the desktop, or it broke.
    Desktop(String),
    /// It was parked for as long as it may be.
    Kept,
    /// Nothing was done for too long.
    Idle,
    /// It has lasted as long as it may.
    Limit,
    /// An administrator ended it.
    Ended,
    /// The session controller ended it, or its user did not accept the policy.
    Controller(String),
    /// Whoever could do nothing but decide has left.
    Left,
    /// The host is stopping.
    Stopping,
}

impl Over {
    /// What the client is told (MS-RDPBCGR 2.2.5.1.1).
    fn farewell(&self) -> Farewell {
        Farewell::by_host(match self {
            Over::Desktop(_) | Over::Kept | Over::Left => return Farewell::LOGGED_OFF,
            Over::Idle => ProtocolIndependentCode::IdleTimeout,
            Over::Limit => ProtocolIndependentCode::LogonTimeout,
            Over::Ended | Over::Controller(_) => ProtocolIndependentCode::RpcInitiatedLogoff,
            Over::Stopping => ProtocolIndependentCode::ServerShutdown,
        })
    }
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Over::Desktop(why) => write!(f, "the desktop ended: {why}"),
            Over::Kept => f.write_str("no client came back in time"),
            Over::Idle => f.write_str("nothing was done for too long"),
            Over::Limit => f.write_str("it has lasted as long as a session may"),
            Over::Ended => f.write_str("an administrator ended it"),
            Over::Controller(why) => f.write_str(why),
            Over::Left => f.write_str("whoever could decide has left"),
            Over::Stopping => f.write_str("the host is stopping"),
        }
    }
}

/// What interrupts a connection or a parked session.
enum Event {
    Client(Box<Arrival>),
    Over(Over),
}

/// Keeps a session: `first` is the client for which its desktop is opening. What is returned, if it was recorded, is done
/// when the end of its recording is kept.
pub(crate) async fn keep(
    facts: Rc<Facts>,
    opening: Opening,
    first: Arrival,
    calls: mpsc::Receiver<Call>,
    sessions: &Sessions,
    stopping: watch::Receiver<bool>,
) -> Option<JoinHandle<()>> {
    let limits = sessions.limits;
    let id = facts.id;
    let mut running = match opening.running(facts.watch.clone()).await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(id, peer = %first.peer, "no session begins: {error}");
            deny(first.connection).await;
            return None;
        }
    };
    if let Err(error) = running.record(&facts.user, first.connection.layout.size()).await {
        tracing::error!(id, peer = %first.peer, "no session begins, as nothing would record it: {error}");
        deny(first.connection).await;
        return None;
    }
    tracing::info!(id, user = facts.user, peer = %first.peer, "session begins");
    facts.started.set(true);
    let (curtain, holding) = (running.curtain.clone(), running.holding.clone());
    let mut keeper = Keeper { facts: Rc::clone(&facts), calls, limits, stopping, curtain, holding };
    let mut next = Some(first);
    let over = loop {
        let event = if let Some(arrival) = next.take() {
            note_arrival(&running.log, &arrival);
            let Arrival { connection, peer } = arrival;
            facts.client.set(Some(peer));
            facts.since.set(Instant::now());
            facts.last_input.set(Instant::now());
            sessions.changed();
            let mut event = None;
            let interrupted = async {
                let happened = keeper.wait().await;
                let farewell = match &happened {
                    Event::Client(_) => {
                        Farewell::by_host(ProtocolIndependentCode::DisconnectedByOtherconnection)
                    }
                    Event::Over(over) => over.farewell(),
                };
                event = Some(happened);
                farewell
            };
            let end = session::run(connection, &mut running, &facts, peer, interrupted).await;
            facts.client.set(None);
            facts.since.set(Instant::now());
            facts.codec.set(None);
            running.park();
            running.log.note(departure(&end, event.as_ref()));
            sessions.changed();
            // There is nothing to come back to.
            if running.desk.is_some() && !matches!(event, Some(Event::Client(_))) {
                if let Err(error) = end {
                    tracing::error!(id, %peer, "the connection ends: {error}");
                }
                break match event {
                    Some(Event::Over(over)) => over,
                    _ => Over::Left,
                };
            }
            match end {
                Ok(End::Client) => tracing::info!(id, %peer, "the client left; the desktop keeps running"),
                Ok(End::Desktop(why)) => break Over::Desktop(why),
                Ok(End::Controller(why)) => break Over::Controller(why),
                Ok(End::Told(_)) => {}
                Err(error) => tracing::error!(id, %peer, "the connection ends: {error}"),
            }
            if let Some(why) = running.is_over() {
                if let Some(Event::Client(arrival)) = event {
                    deny(arrival.connection).await;
                }
                break Over::Controller(why);
            }
            event
        } else {
            None
        };
        let event = match event {
            Some(event) => event,
            None => tokio::select! {
                over = running.parked() => Event::Over(over),
                event = keeper.wait() => event,
            },
        };
        match event {
            Event::Over(over) => break over,
            Event::Client(arrival) => {
                tracing::info!(
                    id,
                    peer = %arrival.peer,
                    away = facts.since.get().elapsed().as_secs(),
                    "the user is back"
                );
                let layout = arrival.connection.layout;
                let ready = match running.record(&facts.user, layout.size()).await {
                    Ok(()) => running.settle(layout).await,
                    Err(error) => Err(error),
                };
                match ready {
                    Ok(()) => next = Some(*arrival),
                    Err(error) => {
                        tracing::error!(id, peer = %arrival.peer, "the client was let go: {error}");
                        deny(arrival.connection).await;
                        if let Error::Over(why) = error {
                            break Over::Controller(why);
                        }
                    }
                }
            }
        }
    };
    tracing::info!(id, user = facts.user, "session ends: {over}");
    // From here on its user gets a new one.
    drop(keeper);
    running.finish().await
}

/// Notes who has come, how, and what is closed to him that his client wanted.
fn note_arrival(log: &Log, Arrival { connection, peer }: &Arrival) {
    log.note(audit::connect(peer.to_string(), connection.security.clone()));
    log.note(audit::authenticate(connection.user.clone(), connection.method));
}

/// Why a client is gone.
fn departure(end: &Result<End, Error>, event: Option<&Event>) -> Item {
    match (end, event) {
        (Ok(End::Client), _) => audit::disconnect(Actor::Client, "the client left".to_owned()),
        (Ok(End::Desktop(why)), _) => audit::disconnect(Actor::Device, format!("the desktop ended: {why}")),
        (Ok(End::Told(_)), Some(Event::Client(_))) => {
            audit::disconnect(Actor::Device, "another client of the same user took its place".to_owned())
        }
        (Ok(End::Told(_)), Some(Event::Over(over))) => audit::disconnect(Actor::Device, over.to_string()),
        (Ok(End::Controller(why)), _) => audit::disconnect(Actor::Device, why.clone()),
        (Ok(End::Told(told)), None) => audit::disconnect(Actor::Device, format!("{:?}", told.code)),
        // It says nothing that a client has sent.
        (Err(error), _) => audit::disconnect(Actor::Device, error.to_string()),
    }
}

/// There is no desktop for this client.
pub(crate) async fn deny(connection: Connection) {
    let Connection { framed, result, .. } = connection;
    closing::refuse(framed, &result, ProtocolIndependentCode::ServerDeniedConnection).await;
}

struct Keeper {
    facts: Rc<Facts>,
    calls: mpsc::Receiver<Call>,
    limits: Limits,
    stopping: watch::Receiver<bool>,
    curtain: Curtain,
    holding: Holding,
}

impl Keeper {
    /// Waits for whatever ends the present state, and announces what is to come. May be dropped at any time.
    async fn wait(&mut self) -> Event {
        let Keeper { facts, calls, limits, stopping, curtain, holding } = self;
        let _announced = Announced { curtain, facts };
        loop {
            let now = Instant::now();
            let due = due(facts, &limits.within(holding.policy().as_deref()));
            if let Some((deadline, over)) = &due
                && *deadline <= now
            {
                return Event::Over(over.clone());
            }
            let next = due.as_ref().map(|(deadline, over)| {
                let left = deadline.saturating_duration_since(now);
                (announce(curtain, facts, over, left)).unwrap_or(*deadline)
            });
            let passed = async {
                match next {
                    Some(next) => sleep_until(next.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return Event::Over(Over::Stopping),
                call = calls.recv() => match call {
                    Some(Call::Client(arrival)) => return Event::Client(arrival),
                    // The list of sessions is gone, so the host is.
                    None => return Event::Over(Over::Stopping),
                },
                // Input may have moved the deadline meanwhile.
                () = passed => {}
                () = facts.decided.notified() => {}
                () = holding.changed() => {}
            }
        }
    }
}

/// Takes a notice away with the state to which it belongs.
struct Announced<'a> {
    curtain: &'a Curtain,
    facts: &'a Facts,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if self.curtain.announce(None) {
            self.facts.redraw.notify_one();
        }
    }
}

/// How long before a session ends its user is told.
const ANNOUNCED: Duration = Duration::from_secs(60);

/// Puts up or takes down the notice of an end that comes in `left`; returns when to look again.
fn announce(curtain: &Curtain, facts: &Facts, over: &Over, left: Duration) -> Option<Instant> {
    let now = Instant::now();
    let message = facts.ending.borrow().as_ref().map(|e| e.message.clone()).filter(|m| !m.is_empty());
    let shown =
        facts.client.get().is_some() && (left <= ANNOUNCED || (*over == Over::Ended && message.is_some()));
    let notice = shown.then(|| {
        let seconds = left.as_secs() + 1;
        // A moving number costs a picture each time.
        let seconds = if seconds > 10 { seconds.div_ceil(10) * 10 } else { seconds };
        let why = match over {
            Over::Idle => "Nothing was typed or pointed at for a while. Press a key to stay.".to_owned(),
            Over::Limit => "This session has lasted as long as it may. Save your work.".to_owned(),
            _ => message.unwrap_or_else(|| "An administrator ends this session. Save your work.".to_owned()),
        };
        Notice { title: format!("This session ends in {seconds} s"), text: why }
    });
    if curtain.announce(notice) {
        facts.redraw.notify_one();
    }
    if shown {
        Some(now + Duration::from_secs(1))
    } else {
        left.checked_sub(ANNOUNCED)
            .filter(|until| !until.is_zero() && facts.client.get().is_some())
            .map(|until| now + until)
    }
}

/// When a session's time is up, and why; the earliest of its limits.
pub(crate) fn due(facts: &Facts, limits: &Limits) -> Option<(Instant, Over)> {
    let at = |from: Instant, limit: Option<Duration>| from.checked_add(limit?);
    let decided = facts.ending.borrow().as_ref().map(|ending| (ending.at, Over::Ended));
    let whole = at(facts.began, limits.session).map(|at| (at, Over::Limit));
    let present = if facts.client.get().is_some() {
        at(facts.last_input.get(), limits.idle).map(|at| (at, Over::Idle))
    } else {
        at(facts.since.get(), limits.keep).map(|at| (at, Over::Kept))
    };
    [decided, whole, present].into_iter().flatten().min_by_key(|(at, _)| *at)
}
