//! Who counts what is out of the ordinary ([`anomalies`](crate::anomalies)), tells it, and says who waits.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::anomalies::{Anomalies, Kind, Mark, Who};
use crate::error::Refused;
use crate::handshake::Stage;

tokio::task_local! {
    /// As whom the client came whose handshake this task carries out.
    static CLAIMED: RefCell<Option<Who>>;
}

/// A client says to be a user; the name is that of the account, if there is one. This is known where passwords are
/// looked up, deep within the state machines of NLA, and needed where the handshake has come to nothing.
pub(crate) fn claimed(account: Option<&str>) {
    // Nobody asks outside of a handshake.
    let _ = CLAIMED.try_with(|claimed| claimed.replace(Some(Who::user(account))));
}

/// Carries out a handshake; also says as whom the client came, if it came that far.
pub(crate) async fn claims<T>(handshake: impl Future<Output = T>) -> (T, Option<Who>) {
    let claimed = async { (handshake.await, CLAIMED.with(RefCell::take)) };
    CLAIMED.scope(RefCell::default(), claimed).await
}

/// The one of a host. Clones are the same.
#[derive(Clone)]
pub(crate) struct Guard {
    anomalies: Rc<RefCell<Anomalies>>,
    /// Counts what lucidctl should be told of.
    changes: watch::Sender<u64>,
}

impl Guard {
    /// Marks that begin are a change.
    pub(crate) fn new(changes: watch::Sender<u64>) -> Guard {
        Guard { anomalies: Rc::default(), changes }
    }

    /// How long a handshake from there waits for its answer.
    pub(crate) fn wait(&self, peer: IpAddr) -> Duration {
        self.anomalies.borrow().wait(peer, Instant::now().into_std())
    }

    /// A handshake came to nothing, at this stage.
    pub(crate) fn refused(&self, peer: IpAddr, why: &Refused, stage: Stage, user: Option<Who>) {
        let (mut anomalies, now) = (self.anomalies.borrow_mut(), Instant::now().into_std());
        let begun = match why {
            // A cookie that is no good may come with a password, and that was looked at.
            Refused::Credentials(_) | Refused::ReconnectCookie => anomalies.failed_login(peer, user, now),
            _ => match stage {
                Stage::Silent => anomalies.unauthenticated(peer, false, now).into_iter().collect(),
                Stage::Speaking => anomalies.unauthenticated(peer, true, now).into_iter().collect(),
                Stage::Authenticated => return,
            },
        };
        drop(anomalies);
        begun.iter().for_each(|mark| self.tell(mark));
    }

    /// The one of a session.
    pub(crate) fn of_session(&self, id: u32) -> Watch {
        Watch { guard: self.clone(), session: Who::Session(id) }
    }

    /// The marks, in the order in which they began.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.anomalies.borrow().marks().to_vec()
    }

    fn tell(&self, mark: &Mark) {
        let seconds = (mark.last - mark.first).as_secs();
        tracing::warn!(
            kind = mark.kind.name(),
            times = mark.times,
            seconds,
            "out of the ordinary: {}",
            mark.who
        );
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Counts what happens in one session.
#[derive(Clone)]
pub(crate) struct Watch {
    guard: Guard,
    session: Who,
}

impl Watch {
    /// Something was seen so many times, just now.
    pub(crate) fn note(&self, kind: Kind, times: usize) {
        let (mut anomalies, now) = (self.guard.anomalies.borrow_mut(), Instant::now().into_std());
        let begun = anomalies.note(kind, self.session.clone(), times, now);
        drop(anomalies);
        if let Some(mark) = begun {
            self.guard.tell(&mark);
        }
    }

    /// When one more is within the limit, if it is not now. It has to wait for that.
    pub(crate) fn free_at(&self, kind: Kind) -> Option<Instant> {
        let now = Instant::now().into_std();
        self.guard.anomalies.borrow().free_at(kind, &self.session, now).map(Instant::from_std)
    }
}
