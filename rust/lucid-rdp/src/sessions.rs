//! Which sessions there are: one for each user at most, each kept by a task of its own (see `keeper`).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironrdp_acceptor::DesktopSize;
use ironrdp_pdu::rdp::client_info::ClientAutoReconnect;
use lucid_policy::Policy;
use tokio::sync::{Notify, mpsc, watch};

use crate::guard::{Guard, Watch};
use crate::handshake::Connection;
use crate::reconnect::Cookies;

/// How long sessions may last. `None` is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a desktop without a client is kept. Zero ends it with its connection.
    pub keep: Option<Duration>,
    /// How long a connected client may do nothing.
    pub idle: Option<Duration>,
    /// How long a session may last in all, connected or not.
    pub session: Option<Duration>,
}

impl Limits {
    /// Those of this host, and those of a policy.
    pub(crate) fn within(&self, policy: Option<&Policy>) -> Limits {
        let Some(policy) = policy else { return *self };
        let shorter = |limit: Option<Duration>, seconds: u32| {
            let other = Duration::from_secs(seconds.into());
            Some(limit.map_or(other, |limit| limit.min(other)))
        };
        let limits = &policy.limits;
        Limits {
            keep: self.keep,
            idle: shorter(self.idle, limits.idle_seconds),
            session: shorter(self.session, limits.absolute_seconds),
        }
    }
}

/// An authenticated client that is to have its desktop.
pub(crate) struct Arrival {
    pub(crate) connection: Connection,
    pub(crate) peer: SocketAddr,
}

/// What a session's keeper is told.
pub(crate) enum Call {
    /// Its user has connected (again).
    Client(Box<Arrival>),
}

/// What is known of a session; written by its keeper and its connection.
pub(crate) struct Facts {
    pub(crate) id: u32,
    pub(crate) user: String,
    pub(crate) began: Instant,
    /// Its desktop runs.
    pub(crate) started: Cell<bool>,
    /// It was decided that it ends.
    pub(crate) ending: RefCell<Option<Ending>>,
    /// None while parked.
    pub(crate) client: Cell<Option<SocketAddr>>,
    /// When the client came, or since when the session is parked.
    pub(crate) since: Cell<Instant>,
    /// When the user last did something.
    pub(crate) last_input: Cell<Instant>,
    pub(crate) size: Cell<DesktopSize>,
    pub(crate) codec: Cell<Option<&'static str>>,
    pub(crate) frames: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
    pub(crate) cookies: Cookies,
    /// Counts what is out of the ordinary in it.
    pub(crate) watch: Watch,
    /// What stands over the desktop has changed.
    pub(crate) redraw: Notify,
    /// Somebody has decided something about the session.
    pub(crate) decided: Notify,
}

/// An administrator's decision to end a session.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) at: Instant,
    /// What its user is shown until then.
    pub(crate) message: String,
}

struct Entry {
    facts: Rc<Facts>,
    calls: mpsc::Sender<Call>,
}

/// All sessions.
pub(crate) struct Sessions {
    list: RefCell<Vec<Entry>>,
    next: Cell<u32>,
    pub(crate) most: usize,
    pub(crate) limits: Limits,
    /// What was out of the ordinary, in sessions and before them.
    pub(crate) guard: Guard,
    /// Counts what has happened to sessions, and what marks have begun.
    changes: watch::Sender<u64>,
}

/// What a client that comes gets.
pub(crate) enum Place {
    /// The desktop that its user has already.
    Existing(mpsc::Sender<Call>),
    /// A new one.
    New(Rc<Facts>, mpsc::Receiver<Call>),
    /// None: there are as many as are allowed.
    Full,
}

impl Sessions {
    pub(crate) fn new(most: usize, limits: Limits) -> Sessions {
        let changes = watch::Sender::new(0);
        Sessions {
            list: RefCell::default(),
            next: Cell::new(1),
            most,
            limits,
            guard: Guard::new(changes.clone()),
            changes,
        }
    }

    /// Tells of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A session's state has changed.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Something of each session.
    pub(crate) fn each<T>(&self, of: impl FnMut(&Facts) -> T) -> Vec<T> {
        self.list.borrow().iter().map(|e| &*e.facts).map(of).collect()
    }

    /// Decides that a session ends; says whether there is such a one.
    pub(crate) fn end(&self, id: u32, ending: Ending) -> bool {
        let list = self.list.borrow();
        let Some(entry) = list.iter().find(|e| e.facts.id == id && !e.calls.is_closed()) else {
            return false;
        };
        entry.facts.ending.replace(Some(ending));
        // Its keeper looks at once.
        entry.facts.decided.notify_one();
        true
    }

    /// How many there are, connected or parked.
    pub(crate) fn count(&self) -> usize {
        self.list.borrow().len()
    }

    /// How many have a client now.
    pub(crate) fn connected(&self) -> usize {
        self.list.borrow().iter().filter(|e| e.facts.client.get().is_some()).count()
    }

    /// Whether a client of this user would need a new desktop, and may have one.
    pub(crate) fn has_room_for_new(&self, user: &str) -> bool {
        let list = self.list.borrow();
        list.len() < self.most && !list.iter().any(|e| e.facts.user == user && !e.calls.is_closed())
    }

    /// The place of an authenticated user. A new one must be given back with [`ended`](Sessions::ended).
    pub(crate) fn place(&self, user: &str, size: DesktopSize) -> Place {
        let mut list = self.list.borrow_mut();
        // A closed one is ending: its desktop is gone already.
        if let Some(entry) = list.iter().find(|e| e.facts.user == user && !e.calls.is_closed()) {
            return Place::Existing(entry.calls.clone());
        }
        if list.len() >= self.most {
            return Place::Full;
        }
        let id = self.next.get();
        self.next.set(id.wrapping_add(1).max(1));
        let (calls, receiver) = mpsc::channel(1);
        let now = Instant::now();
        let facts = Rc::new(Facts {
            id,
            user: user.to_owned(),
            began: now,
            started: Cell::new(false),
            ending: RefCell::default(),
            client: Cell::new(None),
            since: Cell::new(now),
            last_input: Cell::new(now),
            size: Cell::new(size),
            codec: Cell::new(None),
            frames: Cell::new(0),
            bytes: Cell::new(0),
            cookies: Cookies::default(),
            watch: self.guard.of_session(id),
            redraw: Notify::new(),
            decided: Notify::new(),
        });
        list.push(Entry { facts: Rc::clone(&facts), calls });
        drop(list);
        self.changed();
        Place::New(facts, receiver)
    }

    /// A session is over.
    pub(crate) fn ended(&self, id: u32) {
        self.list.borrow_mut().retain(|e| e.facts.id != id);
        self.changed();
    }

    /// Whose session a reconnecting client has proved to have had.
    pub(crate) fn redeem(&self, answer: &ClientAutoReconnect) -> Option<String> {
        let list = self.list.borrow();
        let entry = list.iter().find(|e| e.facts.id == answer.logon_id)?;
        entry.facts.cookies.redeem(answer, Instant::now()).then(|| entry.facts.user.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: DesktopSize = DesktopSize { width: 1280, height: 720 };

    fn sessions(most: usize) -> Sessions {
        Sessions::new(most, Limits { keep: None, idle: None, session: None })
    }

    #[test]
    fn a_user_has_one_session_and_users_do_not_share() {
        let sessions = sessions(8);
        let Place::New(first, _calls) = sessions.place("ada", SIZE) else { panic!("no place") };
        assert!(matches!(sessions.place("ada", SIZE), Place::Existing(_)));
        let Place::New(second, _calls2) = sessions.place("bob", SIZE) else { panic!("no place") };
        assert_ne!(first.id, second.id);
        assert_eq!(sessions.count(), 2);
    }

    #[test]
    fn a_session_that_is_ending_gives_its_user_a_new_one() {
        let sessions = sessions(8);
        let Place::New(first, calls) = sessions.place("ada", SIZE) else { panic!("no place") };
        drop(calls);
        assert!(sessions.has_room_for_new("ada"));
        let Place::New(second, _calls) = sessions.place("ada", SIZE) else {
            panic!("the dead one was found")
        };
        sessions.ended(first.id);
        assert_eq!(sessions.count(), 1);
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn no_more_sessions_than_allowed_but_every_user_finds_its_own() {
        let sessions = sessions(2);
        let Place::New(first, _calls) = sessions.place("ada", SIZE) else { panic!("no place") };
        let Place::New(_, _calls2) = sessions.place("bob", SIZE) else { panic!("no place") };
        assert!(!sessions.has_room_for_new("eve"));
        assert!(matches!(sessions.place("eve", SIZE), Place::Full));
        assert!(matches!(sessions.place("ada", SIZE), Place::Existing(_)));
        sessions.ended(first.id);
        assert!(matches!(sessions.place("eve", SIZE), Place::New(..)));
    }

    #[test]
    fn a_parked_session_is_not_counted_as_connected() {
        let sessions = sessions(8);
        let Place::New(ada, _calls) = sessions.place("ada", SIZE) else { panic!("no place") };
        let Place::New(bob, _calls2) = sessions.place("bob", SIZE) else { panic!("no place") };
        assert_eq!(sessions.connected(), 0);
        let client = Some(SocketAddr::from(([192, 0, 2, 1], 40_000)));
        ada.client.set(client);
        bob.client.set(client);
        assert_eq!(sessions.connected(), 2);
        ada.client.set(None);
        assert_eq!((sessions.connected(), sessions.count()), (1, 2));
    }

    #[test]
    fn a_cookie_leads_to_its_own_users_session() {
        let sessions = sessions(2);
        let Place::New(ada, _calls) = sessions.place("ada", SIZE) else { panic!("no place") };
        let Place::New(bob, _calls2) = sessions.place("bob", SIZE) else { panic!("no place") };
        let now = Instant::now();
        ada.cookies.issue(ada.id, now).unwrap();
        let cookie = bob.cookies.issue(bob.id, now).unwrap();
        let mut answer = ClientAutoReconnect::from_server_cookie(&cookie);
        answer.logon_id = ada.id;
        assert_eq!(sessions.redeem(&answer), None);
        answer.logon_id = bob.id;
        assert_eq!(sessions.redeem(&answer).as_deref(), Some("bob"));
        assert_eq!(sessions.redeem(&answer), None);
    }
}
