//! All sessions: those that are being recorded or wait, each on its thread, and the index of those that are over.

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Instant,
};

use lucid_ipc::session::{Begin, MAX_SIDE, Recording, State, Waiting, Wanted};
use lucid_policy::{Action, Decider, Role};
use lucid_recording::{SessionId, statement::MAX_TEXT};
use tokio::sync::oneshot;

use crate::{
    consent::{Consented, Consents, Prepared},
    error::{At, Error, Result},
    files::{self, Ending, Entry},
    index::Index,
    payload,
    session::{Attached, Command, Facts, Session, Settings, SharedFacts},
    shared,
    used::Used,
};

/// Sessions at a time, recorded or waiting: each has a thread.
const MAX_SESSIONS: usize = 64;

/// The most requests that somebody who decides is shown at a time.
const MAX_WANTED: usize = 64;

/// How much of the disk recordings may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of all of them; none: as much as there is.
    pub(crate) most_bytes: Option<u64>,
    /// What stays free.
    pub(crate) keep_free: u64,
}

struct Handle {
    commands: mpsc::Sender<Command>,
    facts: SharedFacts,
}

/// How a session begins.
pub(crate) enum Begins {
    /// It has begun, or goes on.
    Attached(Attached),
    /// Its user has to accept what holds in it.
    Asks(Box<Asks>),
}

/// A session that begins when its user accepts.
pub(crate) struct Asks {
    pub(crate) prepared: Prepared,
    codec: String,
}

pub(crate) struct Sessions {
    pub(crate) settings: Arc<Settings>,
    pub(crate) consents: Consents,
    pub(crate) bounds: Bounds,
    /// Of the device's own policy.
    decider: Decider,
    /// A file that is written to find out whether the disk can be.
    probe: PathBuf,
    live: Mutex<HashMap<SessionId, Handle>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    index: Mutex<Index>,
    /// Nothing begins any more.
    stopping: AtomicBool,
}

impl Sessions {
    /// Takes up every recording that has no manifest.
    ///
    /// # Errors
    /// When the recordings cannot be listed.
    pub(crate) fn open(
        state: &Path,
        settings: Settings,
        bounds: Bounds,
        (policy, terms): (lucid_policy::Policy, String),
    ) -> Result<Arc<Self>> {
        let index = Index::open(state, &settings.recordings)?;
        let recorded = files::sessions(&settings.recordings)?;
        let used = Used::open(state, recorded.iter().copied())?;
        let found: Vec<_> =
            recorded.into_iter().filter(|session| !index.entries().contains_key(session)).collect();
        let (device, wall) = (settings.device.clone(), Arc::clone(&settings.wall));
        let sessions = Arc::new(Self {
            decider: Decider::new(&policy)?,
            probe: state.join("written"),
            consents: Consents::new(policy, settings.observers().collect(), terms, device, wall, used),
            settings: Arc::new(settings),
            bounds,
            live: Mutex::default(),
            threads: Mutex::default(),
            index: Mutex::new(index),
            stopping: AtomicBool::new(false),
        });
        for id in found {
            let facts = facts(String::new(), 0, State::Waiting);
            let settings = Arc::clone(&sessions.settings);
            sessions.spawn(
                id,
                Arc::clone(&facts),
                |_| Ok(()),
                move |commands| Some(Session::found(settings, id, facts, commands)),
            )?;
        }
        Ok(sessions)
    }

    /// Nobody runs it any more; this is what is left of it.
    fn over(&self, id: SessionId, entry: Option<Entry>) {
        // First the one and then the other, so that the list always has it.
        if let Some(entry) = entry {
            shared(&self.index).insert(id, entry);
        }
        shared(&self.live).remove(&id);
    }

    /// Runs a session on a thread of its own, if it may be beside so many. Where `make` gives none, it is [over](Self::over) already.
    fn spawn(
        self: &Arc<Self>,
        id: SessionId,
        facts: SharedFacts,
        may: impl FnOnce(usize) -> Result<()>,
        make: impl FnOnce(mpsc::Sender<Command>) -> Option<Session> + Send + 'static,
    ) -> Result<()> {
        let (commands, commanded) = mpsc::channel();
        {
            let mut live = shared(&self.live);
            may(live.len())?;
            // Before the thread is there, because that removes it again.
            live.insert(id, Handle { commands: commands.clone(), facts });
        }
        let sessions = Arc::clone(self);
        let thread = std::thread::Builder::new().name("recording".to_owned()).spawn(move || {
            if let Some(session) = make(commands) {
                sessions.over(id, session.run(&commanded));
            }
        });
        let thread = thread.at("starting a thread for", &self.settings.recordings).inspect_err(|_| {
            shared(&self.live).remove(&id);
        })?;
        let mut threads = shared(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Begins a session, or goes on with one.
    pub(crate) async fn begin(self: &Arc<Self>, begin: Begin) -> Result<Begins> {
        let Begin { user, resume, width, height, encoder } = begin;
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        if user.is_empty() || user.len() > MAX_TEXT {
            return Err(Error::Item(format!("a user's name has 1 to {MAX_TEXT} bytes")));
        }
        if self.settings.accounts.decider(&user).is_some() {
            return Err(Error::Role("whoever may only decide on requests uses no desktop"));
        }
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(Error::Item(format!("a desktop has 1 to {MAX_SIDE} pixels in each direction")));
        }
        if resume.is_empty() {
            // Before anybody is asked, and before an id is used.
            self.check_room()?;
            self.check_count(shared(&self.live).len())?;
            let sessions = Arc::clone(self);
            let written = tokio::task::spawn_blocking(move || sessions.check_writing()).await;
            written.map_err(|_| Error::Internal("a thread of the recorder died"))??;
            let codec = payload::codec(width, height, &encoder);
            return match self.consents.accepted(&user)? {
                Some(consented) => Ok(Begins::Attached(self.begin_new(consented, codec).await?)),
                None => {
                    Ok(Begins::Asks(Box::new(Asks { prepared: self.consents.prepare(&user, None)?, codec })))
                }
            };
        }
        let attached = self.tell(&resume, |answer| Command::Attach { user, answer }).await;
        Ok(Begins::Attached(attached.map_err(|error| match error {
            Error::NoSession(named) => Error::NotWaiting(named),
            other => other,
        })?))
    }

    /// Its user has accepted on the screen.
    pub(crate) async fn accepted(self: &Arc<Self>, asks: Asks) -> Result<Attached> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        let Asks { prepared, codec } = asks;
        let consented = self.consents.on_screen(prepared)?;
        self.begin_new(consented, codec).await
    }

    async fn begin_new(self: &Arc<Self>, consented: Consented, codec: String) -> Result<Attached> {
        let may = |open| self.check_count(open);
        let (answer, answered) = oneshot::channel();
        let id = consented.id;
        let facts = facts(consented.user.clone(), self.settings.wall.as_ref()(), State::Recording);
        let sessions = Arc::clone(self);
        self.spawn(id, Arc::clone(&facts), may, move |commands| {
            let created = sessions.check_room().and_then(|()| {
                let settings = Arc::clone(&sessions.settings);
                let mut session = Session::create(settings, consented, codec, facts, commands)?;
                let attached = session.attach_first()?;
                Ok((session, attached))
            });
            match created {
                Ok((session, attached)) => {
                    // Where who asked is gone, it is detached again.
                    drop(answer.send(Ok(attached)));
                    Some(session)
                }
                Err(error) => {
                    tracing::error!("a session is refused: {error}");
                    // Before who asked hears of it, who may look at the list next. What there is of it is said there.
                    let dir = sessions.dir(id);
                    let left = dir.exists().then(|| files::unusable(&dir, "it never began".to_owned()));
                    sessions.over(id, left);
                    drop(answer.send(Err(error)));
                    None
                }
            }
        })?;
        answered.await.map_err(|_| Error::Internal("a session's thread ended"))?
    }

    /// Tells a session that runs something, and waits for its answer.
    pub(crate) async fn tell<T>(
        &self,
        session: &str,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        // What is shown is never more of a stranger's text than a UUID has.
        let none = || Error::NoSession(session.chars().take(36).collect());
        let id: SessionId = session.parse().map_err(|_| none())?;
        let commands = shared(&self.live).get(&id).map(|handle| handle.commands.clone()).ok_or_else(none)?;
        let (answer, answered) = oneshot::channel();
        commands.send(command(answer)).map_err(|_| none())?;
        answered.await.map_err(|_| none())?
    }

    /// What waits for a decision in the sessions that run, the oldest first.
    pub(crate) fn wanted(&self) -> Result<Waiting> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        let mut wanted: Vec<Wanted> = Vec::new();
        for handle in shared(&self.live).values() {
            let facts = shared(&handle.facts);
            let (at, listed) = &facts.wanted;
            let passed = u32::try_from(at.elapsed().as_secs()).unwrap_or(u32::MAX);
            wanted.extend(listed.iter().filter(|wanted| !wanted.in_effect).map(|wanted| Wanted {
                left_seconds: wanted.left_seconds.saturating_sub(passed),
                ..wanted.clone()
            }));
        }
        wanted.sort_by(|a, b| (a.left_seconds, &a.session).cmp(&(b.left_seconds, &b.session)));
        wanted.truncate(MAX_WANTED);
        Ok(Waiting { wanted })
    }

    /// Whether one more session may be beside so many. What counts is the device's policy: who accepts another one accepts it
    /// for himself.
    fn check_count(&self, open: usize) -> Result<()> {
        let sessions = u32::try_from(open).unwrap_or(u32::MAX);
        if !self.decider.decide(Role::Operator, &Action::Connect { sessions }).is_allowed() {
            return Err(Error::Concurrent(sessions));
        }
        if open >= MAX_SESSIONS { Err(Error::TooMany(open)) } else { Ok(()) }
    }

    /// Whether the disk takes anything: one that does not any more says so only when it is written to.
    fn check_writing(&self) -> Result<()> {
        let written = std::fs::File::create(&self.probe).and_then(|mut file| {
            file.write_all(b"1")?;
            file.sync_all()
        });
        written.at("writing", &self.probe)
    }

    /// Whether there is room for a new recording.
    pub(crate) fn check_room(&self) -> Result<()> {
        if let Some(most) = self.bounds.most_bytes {
            let bytes = self.bytes();
            if bytes >= most {
                return Err(Error::NoRoom(format!(
                    "all recordings have {bytes} bytes, and may have {most} (--most-bytes). Copy recordings elsewhere \
                     and remove them here; nothing is removed by itself"
                )));
            }
        }
        let (free, keep) = (self.free()?, self.bounds.keep_free);
        if free <= keep {
            return Err(Error::NoRoom(format!(
                "{free} bytes are free in {}, and {keep} have to stay free (--keep-free). Copy recordings elsewhere \
                 and remove them here; nothing is removed by itself",
                self.settings.recordings.display()
            )));
        }
        Ok(())
    }

    /// Free bytes of the disk.
    pub(crate) fn free(&self) -> Result<u64> {
        let recordings = &self.settings.recordings;
        let about = rustix::fs::statvfs(recordings).map_err(std::io::Error::from);
        let about = about.at("looking for room in", recordings)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Bytes of all recordings.
    pub(crate) fn bytes(&self) -> u64 {
        let live: Vec<_> = shared(&self.live).keys().copied().collect();
        let growing = live.iter().map(|id| files::size(&self.dir(*id)).map_or(0, |(_, bytes)| bytes));
        growing.sum::<u64>() + shared(&self.index).bytes()
    }

    fn dir(&self, id: SessionId) -> std::path::PathBuf {
        self.settings.recordings.join(id.to_string())
    }

    /// The list, the oldest first.
    pub(crate) fn list(&self) -> Vec<Recording> {
        // In this order, so that one that ends meanwhile is not left out.
        let live: Vec<_> =
            shared(&self.live).iter().map(|(id, handle)| (*id, shared(&handle.facts).clone())).collect();
        let mut list: Vec<_> =
            shared(&self.index).entries().iter().map(|(id, entry)| of_entry(*id, entry)).collect();
        for (id, facts) in live {
            let id_text = id.to_string();
            if !list.iter().any(|known| known.session == id_text) {
                list.push(self.of_live(id, facts));
            }
        }
        list.sort_by(|a, b| (a.start_ms, &a.session).cmp(&(b.start_ms, &b.session)));
        list
    }

    /// One of the list.
    pub(crate) fn get(&self, id: SessionId) -> Option<Recording> {
        let facts = shared(&self.live).get(&id).map(|handle| shared(&handle.facts).clone());
        let over = || shared(&self.index).entries().get(&id).map(|entry| of_entry(id, entry));
        facts.map(|facts| self.of_live(id, facts)).or_else(over)
    }

    fn of_live(&self, id: SessionId, facts: Facts) -> Recording {
        // A new one may have no directory yet.
        let (chunks, bytes) = files::size(&self.dir(id)).unwrap_or_default();
        Recording {
            session: id.to_string(),
            user: facts.user,
            start_ms: facts.start_ms,
            end_ms: None,
            state: facts.state.into(),
            chunks,
            bytes,
            gaps: facts.gaps,
            problem: facts.problem,
        }
    }

    /// How many are being recorded, and how many wait.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let live = shared(&self.live);
        let states = live.values().map(|handle| shared(&handle.facts).state);
        states.fold((0, 0), |(recording, waiting), state| match state {
            State::Recording => (recording + 1, waiting),
            _ => (recording, waiting + 1),
        })
    }

    /// What somebody should look at.
    pub(crate) fn problems(&self) -> Vec<String> {
        let live: Vec<_> = shared(&self.live)
            .iter()
            .map(|(id, handle)| (*id, shared(&handle.facts).problem.clone()))
            .collect();
        let index = shared(&self.index);
        let mut problems: Vec<_> = index.problem().map(str::to_owned).into_iter().collect();
        for (id, entry) in index.entries() {
            if let Ending::Unusable(why) = &entry.ending {
                problems.push(format!("recording {id}: {why}"));
            }
        }
        // One that ends just now may be in both.
        let live = live.into_iter().filter(|(id, why)| !why.is_empty() && !index.entries().contains_key(id));
        problems.extend(live.map(|(id, why)| format!("recording {id}: {why}")));
        problems
    }

    pub(crate) fn rebuild_index(&self) -> Result<usize> {
        shared(&self.index).rebuild()
    }

    /// Commits everything, and ends every stream. What is not over goes on at the next start.
    pub(crate) fn end_streams(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for handle in shared(&self.live).values() {
            // One that is over already needs no telling.
            drop(handle.commands.send(Command::Stop));
        }
        // Those who wait for something to decide on.
        self.settings.asked.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Does that, waits for it, and closes the index.
    pub(crate) fn stop(&self) {
        self.end_streams();
        let threads = std::mem::take(&mut *shared(&self.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("the thread of a session had died");
            }
        }
        shared(&self.index).close();
    }
}

fn facts(user: String, start_ms: u64, state: State) -> SharedFacts {
    let wanted = (Instant::now(), Vec::new());
    Arc::new(Mutex::new(Facts { user, start_ms, state, gaps: 0, problem: String::new(), wanted }))
}

fn of_entry(id: SessionId, entry: &Entry) -> Recording {
    let (state, end_ms, problem) = match &entry.ending {
        Ending::Manifest { end_ms, recovered: false, .. } => (State::Finished, Some(*end_ms), ""),
        Ending::Manifest { end_ms, recovered: true, .. } => (State::Recovered, Some(*end_ms), ""),
        Ending::Unusable(why) => (State::Unusable, None, why.as_str()),
    };
    Recording {
        session: id.to_string(),
        user: entry.user.clone(),
        start_ms: entry.start_ms,
        end_ms,
        state: state.into(),
        chunks: entry.chunks,
        bytes: entry.bytes,
        gaps: entry.gaps,
        problem: problem.to_owned(),
    }
}
