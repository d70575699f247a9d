//! The desktop's thread: waits for the compositor, the launcher and the handle, and sees to each.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use wayland_client::backend::WaylandError;
use wayland_client::{Connection, DispatchError, EventQueue};

use crate::devices::Devices;
use crate::handover::{self, KeyboardLayout, Reply};
use crate::keyboard::Keyboard;
use crate::session::Session;
use crate::shared::{Shared, gone, lock};
use crate::{Closed, Error};

/// How long opening a desktop may take in all.
pub(crate) const OPEN_SECONDS: u64 = 30;
/// The launcher has this long to finish its answer about a keymap once it has begun.
const KEYMAP_SECONDS: u64 = 5;

/// The thread's side: the connection and what wakes it.
pub(crate) struct Events {
    connection: Connection,
    queue: EventQueue<Session>,
    shared: Arc<Shared>,
    launcher: UnixStream,
    /// The layout whose keymap the launcher was asked for last.
    awaited: Option<KeyboardLayout>,
    /// The launcher has said something.
    answered: bool,
}

impl Events {
    pub(crate) fn new(
        connection: Connection,
        queue: EventQueue<Session>,
        shared: Arc<Shared>,
        launcher: UnixStream,
    ) -> Events {
        Events { connection, queue, shared, launcher, awaited: None, answered: false }
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
        if std::mem::take(&mut self.answered) {
            self.take_keymap(devices)?;
        }
        if self.awaited.is_none()
            && let Some(layout) = wanted.take()
        {
            let line = layout.to_line()?;
            match (&self.launcher).write_all(line.as_bytes()) {
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Err(Error::LauncherGone),
                written => written.map_err(Error::io("asking the launcher for a keymap"))?,
            }
            self.awaited = Some(layout);
        }
        let mut devices = lock(devices);
        if devices.is_waiting() && self.awaited.is_none() && lock(&self.shared.commands).keyboard.is_none() {
            devices.give_waiting()?;
        }
        Ok(())
    }

    fn take_keymap(&mut self, devices: &Mutex<Devices>) -> Result<(), Error> {
        let Some(layout) = self.awaited.take() else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(KEYMAP_SECONDS);
        let (line, descriptors) =
            match handover::receive_line(&self.launcher, deadline, "waiting for the launcher's keymap") {
                Ok(received) => received,
                Err(Error::Protocol { .. }) => return Err(Error::LauncherGone),
                Err(error) => return Err(error),
            };
        let KeyboardLayout { layout, variant } = layout;
        let size = match Reply::from_line(&line)? {
            Reply::Ready { keymap_size, .. } => keymap_size,
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
        let _ = self.launcher.shutdown(std::net::Shutdown::Both);
        drop(self);
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
                .change_keyboard(&mut keyboard, devices)
                .and_then(|()| self.dispatch(session))
                .and_then(|()| session.step(commands, &handle))
                .and_then(|()| self.wait(None));
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
