//! The life of a session: its desktop runs from its user's first connection until something ends it for good, and
//! connections come and go meanwhile.

use std::future::pending;
use std::rc::Rc;
use std::time::Instant;

use ironrdp_pdu::mcs::DisconnectReason;
use ironrdp_pdu::rdp::server_error_info::ProtocolIndependentCode;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::handshake::Connection;
use crate::running::Opening;
use crate::session::{self, End, Farewell};
use crate::sessions::{Arrival, Call, Facts, Limits};

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
    /// The host is stopping.
    Stopping,
}

impl Over {
    /// What the client is told (MS-RDPBCGR 2.2.5.1.1).
    fn farewell(&self) -> Farewell {
        let (code, reason) = match self {
            Over::Desktop(_) | Over::Kept => {
                (ProtocolIndependentCode::LogoffByUser, DisconnectReason::UserRequested)
            }
            Over::Idle => (ProtocolIndependentCode::IdleTimeout, DisconnectReason::ProviderInitiated),
            Over::Limit => (ProtocolIndependentCode::LogonTimeout, DisconnectReason::ProviderInitiated),
            Over::Stopping => (ProtocolIndependentCode::ServerShutdown, DisconnectReason::ProviderInitiated),
        };
        Farewell { code, reason }
    }
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Over::Desktop(why) => write!(f, "the desktop ended: {why}"),
            Over::Kept => f.write_str("no client came back in time"),
            Over::Idle => f.write_str("nothing was done for too long"),
            Over::Limit => f.write_str("it has lasted as long as a session may"),
            Over::Stopping => f.write_str("the host is stopping"),
        }
    }
}

/// What interrupts a connection or a parked session.
enum Event {
    Client(Box<Arrival>),
    Over(Over),
}

/// Keeps a session: `first` is the client for which its desktop is opening.
pub(crate) async fn keep(
    facts: Rc<Facts>,
    opening: Opening,
    first: Arrival,
    calls: mpsc::Receiver<Call>,
    limits: Limits,
    stopping: watch::Receiver<bool>,
) {
    let id = facts.id;
    let mut running = match opening.running().await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(id, peer = %first.peer, "no session begins: {error}");
            deny(first.connection).await;
            return;
        }
    };
    tracing::info!(id, user = facts.user, peer = %first.peer, "session begins");
    let mut keeper = Keeper { facts: Rc::clone(&facts), calls, limits, stopping };
    let mut next = Some(first);
    let over = loop {
        let event = if let Some(Arrival { connection, peer }) = next.take() {
            facts.client.set(Some(peer));
            facts.since.set(Instant::now());
            facts.last_input.set(Instant::now());
            let mut event = None;
            let interrupted = async {
                let happened = keeper.wait().await;
                let farewell = match &happened {
                    Event::Client(_) => Farewell {
                        code: ProtocolIndependentCode::DisconnectedByOtherconnection,
                        reason: DisconnectReason::ProviderInitiated,
                    },
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
            match end {
                Ok(End::Client) => tracing::info!(id, %peer, "the client left; the desktop keeps running"),
                Ok(End::Desktop(why)) => break Over::Desktop(why),
                Ok(End::Told(_)) => {}
                Err(error) => tracing::error!(id, %peer, "the connection ends: {error}"),
            }
            event
        } else {
            None
        };
        let event = match event {
            Some(event) => event,
            None => tokio::select! {
                why = running.parked() => Event::Over(Over::Desktop(why)),
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
                match running.settle(arrival.connection.size).await {
                    Ok(()) => next = Some(*arrival),
                    Err(error) => {
                        tracing::error!(id, peer = %arrival.peer, "the client was let go: {error}");
                        deny(arrival.connection).await;
                    }
                }
            }
        }
    };
    tracing::info!(id, user = facts.user, "session ends: {over}");
    // From here on its user gets a new one.
    drop(keeper);
}

/// There is no desktop for this client.
pub(crate) async fn deny(connection: Connection) {
    let Connection { framed, result, .. } = connection;
    session::refuse(framed, &result, ProtocolIndependentCode::ServerDeniedConnection).await;
}

struct Keeper {
    facts: Rc<Facts>,
    calls: mpsc::Receiver<Call>,
    limits: Limits,
    stopping: watch::Receiver<bool>,
}

impl Keeper {
    /// Waits for whatever ends the present state. May be dropped at any time.
    async fn wait(&mut self) -> Event {
        let Keeper { facts, calls, limits, stopping } = self;
        loop {
            let (deadline, over) = match due(facts, limits) {
                Some((deadline, over)) => (Some(deadline), Some(over)),
                None => (None, None),
            };
            let passed = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline.into()).await,
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
                () = passed => {
                    if let Some(over) = over
                        && due(facts, limits).is_none_or(|(deadline, _)| deadline <= Instant::now())
                    {
                        return Event::Over(over);
                    }
                }
            }
        }
    }
}

/// When a session's time is up, and why; the earliest of its limits.
fn due(facts: &Facts, limits: &Limits) -> Option<(Instant, Over)> {
    let at = |from: Instant, limit: Option<std::time::Duration>| from.checked_add(limit?);
    let whole = at(facts.began, limits.session).map(|at| (at, Over::Limit));
    let present = if facts.client.get().is_some() {
        at(facts.last_input.get(), limits.idle).map(|at| (at, Over::Idle))
    } else {
        at(facts.since.get(), limits.keep).map(|at| (at, Over::Kept))
    };
    [whole, present].into_iter().flatten().min_by_key(|(at, _)| *at)
}
