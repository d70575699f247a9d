//! The desktop's thread: waits for the compositor, the launcher and the handle, and sees to each.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use wayland_client::backend::WaylandError;
use wayland_client::{Connection, DispatchError, EventQueue};

use crate::devices::Devices;
use crate::handover::{self, KeyboardLayout, Mask, Reply};
use crate::keyboard::Keyboard;
use crate::session::Session;
use crate::shared::{Commands, Shared, gone, lock};
use crate::shield::Order;
use crate::{Closed, Error};

/// How long opening a desktop may take in all.
pub(crate) const OPEN_SECONDS: u64 = 30;
/// The launcher has this long to finish an answer once it has begun.
const ANSWER_SECONDS: u64 = 5;

/// The thread's side: the connection and what wakes it.
pub(crate) struct Events {
    connection: Connection,
    queue: EventQueue<Session>,
    shared: Arc<Shared>,
    launcher: UnixStream,
    /// What the launcher was asked for last.
    awaited: Option<Awaited>,
    /// The launcher has said something.
    answered: bool,
    /// The application ids that the compositor does not paint, and the change of them that is under way.
    masked: BTreeSet<String>,
    masking: Option<Masking>,
}

/// What the launcher was asked for.
enum Awaited {
    Keymap(KeyboardLayout),
    Mask(Mask),
}

/// What is still to be asked for until a shield holds, and who waits for that.
struct Masking {
    left: VecDeque<Mask>,
    done: SyncSender<Result<(), Error>>,
}

impl Events {
    pub(crate) fn new(
        connection: Connection,
        queue: EventQueue<Session>,
        shared: Arc<Shared>,
        launcher: UnixStream,
    ) -> Events {
        Events {
            connection,
            queue,
            shared,
            launcher,
            awaited: None,
            answered: false,
            masked: BTreeSet::new(),
            masking: None,
        }
    }

    /// Everything that was asked before has been answered after this.
    pub(crate) fn barrier(&mut self, session: &mut Session, deadline: Instant) -> Result<(), Error> {
        session.synced = false;
        self.connection.display().sync(&self.queue.handle(), ());
        while !session.synced {
            self.dispatch(session)?;
            if session.synced {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut { doing: "setting up the compositor", seconds: OPEN_SECONDS });
            }
            self.wait(Some(left))?;
        }
        Ok(())
    }

    fn dispatch(&mut self, session: &mut Session) -> Result<(), Error> {
        self.queue.dispatch_pending(session).map_err(|e| match e {
            DispatchError::Backend(e) => gone(&e),
            e @ DispatchError::BadMessage { .. } => gone(&e),
        })?;
        session.take_error()
    }

    /// Flushes, and sleeps until something comes.
    fn wait(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        let mut interest = PollFlags::IN;
        match self.connection.flush() {
            Ok(()) => {}
            Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                interest |= PollFlags::OUT
            }
            Err(e) => return Err(gone(&e)),
        }
        let Some(guard) = self.queue.prepare_read() else {
            return Ok(()); // events are queued already
        };
        let limit =
            limit.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: i64::from(l.subsec_nanos()) });
        let (readable, woken, launcher) = {
            let fd = guard.connection_fd();
            let mut poll = [
                PollFd::new(&fd, interest),
                PollFd::new(&self.shared.wake, PollFlags::IN),
                PollFd::new(&self.launcher, PollFlags::IN),
            ];
            match rustix::event::poll(&mut poll, limit.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::system("waiting for the compositor")(e)),
            }
            let [a, b, c] = poll.map(|p| p.revents());
            (a, b, c)
        };
        self.shared.wakeups.fetch_add(1, Ordering::Relaxed);
        if !woken.is_empty() {
            let mut count = [0; 8];
            match rustix::io::read(&self.shared.wake, &mut count) {
                Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::system("reading the desktop's commands")(e)),
            }
        }
        if readable.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match guard.read() {
                Ok(_) => {}
                Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(gone(&e)),
            }
        }
        if !launcher.is_empty() {
            if self.awaited.is_none() {
                // Unasked it says nothing: it has closed.
                return Err(Error::LauncherGone);
            }
            self.answered = true;
        }
        Ok(())
    }

    /// Asks for another layout's keymap, or takes one that was asked for; what waited for the last one is given then.
    fn change_keyboard(
        &mut self,
        wanted: &mut Option<KeyboardLayout>,
        devices: &Mutex<Devices>,
    ) -> Result<(), Error> {
        if let Some(Awaited::Keymap(_)) = self.awaited
            && std::mem::take(&mut self.answered)
            && let Some(Awaited::Keymap(layout)) = self.awaited.take()
        {
            self.take_keymap(layout, devices)?;
        }
        if self.awaited.is_none()
            && let Some(layout) = wanted.take()
        {
            self.ask(&layout.to_line()?)?;
            self.awaited = Some(Awaited::Keymap(layout));
        }
        let mut devices = lock(devices);
        let awaited = matches!(self.awaited, Some(Awaited::Keymap(_))) || wanted.is_some();
        if devices.is_waiting() && !awaited && lock(&self.shared.commands).keyboard.is_none() {
            devices.give_waiting()?;
        }
        Ok(())
    }

    /// Takes up a shield, or goes on with one: masks what is new in it, and then shows what is not in it any more.
    fn change_shield(&mut self, order: Option<Order>, session: &mut Session) -> Result<(), Error> {
        if let Some(Order { shield, done }) = order {
            // What one who has given up had asked for may come true yet.
            if let Some(Awaited::Mask(Mask { app_id, masked: false })) = &self.awaited {
                self.masked.remove(app_id);
            }
            let mask = |app_id: &String, masked| Mask { app_id: app_id.clone(), masked };
            let new = shield.app_ids.iter().filter(|id| !self.masked.contains(*id)).map(|id| mask(id, true));
            let old = self.masked.iter().filter(|id| !shield.app_ids.contains(id)).map(|id| mask(id, false));
            let left: VecDeque<Mask> = new.chain(old).collect();
            match session.shield(shield, left.is_empty()) {
                Ok(()) => self.masking = Some(Masking { left, done }),
                Err(error) => drop(done.send(Err(error))),
            }
        }
        if let Some(Awaited::Mask(_)) = self.awaited
            && std::mem::take(&mut self.answered)
            && let Some(Awaited::Mask(Mask { app_id, masked })) = self.awaited.take()
        {
            match Reply::from_line(&self.answer("waiting for the launcher to mask windows")?.0)? {
                Reply::Masked if masked => drop(self.masked.insert(app_id)),
                Reply::Masked => drop(self.masked.remove(&app_id)),
                Reply::Failed { error } => {
                    // Whether it is masked is not known: it is asked for again.
                    self.masked.remove(&app_id);
                    session.shield_failed();
                    if let Some(Masking { done, .. }) = self.masking.take() {
                        // Whoever asked may have given up.
                        drop(done.send(Err(Error::Shield { reason: error })));
                    }
                }
                Reply::Ready { .. } => {
                    return Err(Error::Protocol { what: "a keymap came that nobody asked for".into() });
                }
            }
        }
        if self.awaited.is_some() {
            return Ok(());
        }
        let Some(masking) = &mut self.masking else { return Ok(()) };
        if let Some(mask) = masking.left.pop_front() {
            self.ask(&mask.to_line()?)?;
            self.awaited = Some(Awaited::Mask(mask));
        } else if let Some(Masking { done, .. }) = self.masking.take() {
            session.shielded();
            drop(done.send(Ok(())));
        }
        Ok(())
    }

    fn ask(&self, line: &str) -> Result<(), Error> {
        match (&self.launcher).write_all(line.as_bytes()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::LauncherGone),
            written => written.map_err(Error::io("asking the launcher")),
        }
    }

    fn answer(&self, doing: &'static str) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
        match handover::receive_line(&self.launcher, deadline, doing) {
            Err(Error::Protocol { .. }) => Err(Error::LauncherGone),
            received => received,
        }
    }

    fn take_keymap(&mut self, layout: KeyboardLayout, devices: &Mutex<Devices>) -> Result<(), Error> {
        let (line, descriptors) = self.answer("waiting for the launcher's keymap")?;
        let KeyboardLayout { layout, variant } = layout;
        let size = match Reply::from_line(&line)? {
            Reply::Ready { keymap_size, .. } => keymap_size,
            Reply::Masked => {
                return Err(Error::Protocol {
                    what: "windows were masked where a keymap was asked for".into(),
                });
            }
            Reply::Failed { error } => {
                tracing::warn!(layout, variant, "the keyboard layout stays: {error}");
                return Ok(());
            }
        };
        let Ok([memory]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            return Err(Error::Protocol { what: "the keymap came without its descriptor".into() });
        };
        let keyboard = match read_keymap(&memory, size).and_then(|text| Keyboard::new(&text)) {
            Ok(keyboard) => keyboard,
            Err(error) => {
                tracing::warn!(layout, variant, "the keyboard layout stays: {error}");
                return Ok(());
            }
        };
        lock(devices).change_keyboard(keyboard, &memory, size);
        tracing::info!(layout, variant, "the keyboard has another layout");
        Ok(())
    }

    /// Until the desktop ends; then it ends the launcher's side as well.
    pub(crate) fn run(mut self, mut session: Session, devices: &Mutex<Devices>) {
        let reason = self.serve(&mut session, devices);
        // The launcher kills everything as soon as its socket is closed, of which the desktop has another copy.
        // It may be closed already.
        let shared = Arc::clone(&self.shared);
        let _ = self.launcher.shutdown(std::net::Shutdown::Both);
        drop(self);
        // Who waits for a shield waits no more.
        let commands =
            std::mem::replace(&mut *lock(&shared.commands), Commands { over: true, ..Commands::default() });
        drop(commands);
        session.closed(reason);
    }

    fn serve(&mut self, session: &mut Session, devices: &Mutex<Devices>) -> Closed {
        let mut keyboard = None;
        loop {
            let mut commands = std::mem::take(&mut *lock(&self.shared.commands));
            if commands.stop {
                return Closed::Dropped;
            }
            keyboard = commands.keyboard.take().or(keyboard);
            let handle = self.queue.handle();
            let result = self
                .change_shield(commands.shield.take(), session)
                .and_then(|()| self.change_keyboard(&mut keyboard, devices))
                .and_then(|()| self.dispatch(session))
                .and_then(|()| session.step(commands, &handle, &self.connection))
                .and_then(|()| self.wait(session.wakes_in()));
            if let Err(error) = result {
                return Closed::Gone(error);
            }
        }
    }
}

pub(crate) fn read_keymap(keymap: &OwnedFd, size: u32) -> Result<Vec<u8>, Error> {
    let mut text = vec![0; size as usize];
    let mut filled = 0;
    while filled < text.len() {
        let read = rustix::io::pread(keymap, &mut text[filled..], filled as u64)
            .map_err(Error::system("reading the keymap of the launcher"))?;
        if read == 0 {
            return Err(Error::Keymap { reason: format!("it has {filled} bytes and not {size}") });
        }
        filled += read;
    }
    if text.pop() != Some(0) || text.contains(&0) {
        return Err(Error::Keymap { reason: "it does not end with its only NUL".into() });
    }
    Ok(text)
}
