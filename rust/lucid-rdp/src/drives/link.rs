//! The way to the drives of the client that is connected, if one is: questions go out in a queue that the session
//! writes, answers find who waits for them. It outlives the connections of its desktop.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::{Notify, oneshot};

use super::irp::{self, Function, NO_FILE, Open, STATUS_SUCCESS};
use super::names;

/// Questions without an answer; more are refused at once. Who asks is bounded as well, so these are what a client left
/// open that does not answer any more.
const MAX_WAITING: usize = 512;
/// A client has this long for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A client's drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drive {
    /// Of which connection.
    connection: u64,
    /// As the client numbers it.
    device: u32,
    /// Of its folder.
    pub(super) name: String,
}

/// A file that a client has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    connection: u64,
    device: u32,
    file: u32,
}

/// A client's answer.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) status: u32,
    /// What depends on the question.
    pub(super) body: Vec<u8>,
}

impl Completion {
    /// What was asked for, or what a program is told.
    pub(super) fn done(self) -> Result<Vec<u8>, Errno> {
        if self.status == STATUS_SUCCESS { Ok(self.body) } else { Err(irp::error(self.status)) }
    }
}

/// Who waits for an answer.
enum Waiter {
    Call(oneshot::Sender<Completion>),
    /// Somebody who wanted a file opened and has given up: it has to be closed.
    GivenUp,
    /// Nobody: a file was closed.
    Nobody,
}

#[derive(Default)]
struct State {
    /// Counts connections.
    connection: u64,
    drives: Vec<Drive>,
    /// Goes out next.
    output: VecDeque<Vec<u8>>,
    /// By completion number; with the device.
    waiting: HashMap<u32, (u32, Waiter)>,
    next: u32,
}

/// The way to the drives.
#[derive(Default)]
pub(crate) struct Link {
    state: RefCell<State>,
    wanted: Notify,
}

impl Link {
    /// A client has come. Nothing of the one before is left.
    pub(super) fn attach(&self) {
        self.detach();
        self.state.borrow_mut().connection += 1;
    }

    /// How many clients there have been.
    pub(super) fn connection(&self) -> u64 {
        self.state.borrow().connection
    }

    /// The client has gone: who waits for it waits no longer.
    pub(super) fn detach(&self) {
        let mut state = self.state.borrow_mut();
        let State { drives, output, waiting, .. } = &mut *state;
        drives.clear();
        output.clear();
        waiting.clear();
    }

    /// The client has another drive.
    pub(super) fn add(&self, device: u32, announced: &str) {
        let mut state = self.state.borrow_mut();
        let taken: Vec<String> = state.drives.iter().map(|drive| drive.name.clone()).collect();
        let drive = Drive { connection: state.connection, device, name: names::of_drive(announced, &taken) };
        state.drives.push(drive);
    }

    /// The client has it no longer.
    pub(super) fn remove(&self, device: u32) {
        let mut state = self.state.borrow_mut();
        state.drives.retain(|drive| drive.device != device);
        state.waiting.retain(|_, (other, _)| *other != device);
        // FreeRDP ends its channel at a question about a device that it has no longer.
        state.output.retain(|message| irp::device(message) != Some(device));
    }

    /// The client has answered.
    pub(super) fn complete(&self, device: u32, completion: u32, status: u32, body: Vec<u8>) {
        let mut state = self.state.borrow_mut();
        if state.waiting.get(&completion).is_none_or(|(asked, _)| *asked != device) {
            tracing::debug!("an answer from a drive that nobody waits for (any more)");
            return;
        }
        match state.waiting.remove(&completion) {
            // It is gone if its asker ended at this moment.
            Some((_, Waiter::Call(asker))) => drop(asker.send(Completion { status, body })),
            Some((_, Waiter::GivenUp)) if status == STATUS_SUCCESS => {
                if let Ok(file) = irp::created(&body) {
                    let connection = state.connection;
                    drop(state);
                    self.close_later(Handle { connection, device, file });
                }
            }
            Some((_, Waiter::GivenUp | Waiter::Nobody)) | None => {}
        }
    }

    /// Waits until there is something for the client.
    pub(super) async fn wanted(&self) {
        while self.state.borrow().output.is_empty() {
            self.wanted.notified().await;
        }
    }

    /// The next message for the client.
    pub(super) fn output(&self) -> Option<Vec<u8>> {
        self.state.borrow_mut().output.pop_front()
    }

    /// All drives that there are now.
    pub(super) fn drives(&self) -> Vec<Drive> {
        self.state.borrow().drives.clone()
    }

    pub(super) fn drive(&self, name: &str) -> Result<Drive, Errno> {
        self.state.borrow().drives.iter().find(|drive| drive.name == name).cloned().ok_or(Errno::NOENT)
    }

    fn send(
        &self,
        Handle { connection, device, file }: Handle,
        function: Function,
        body: &[u8],
        waiter: Waiter,
    ) -> Result<u32, Errno> {
        let mut state = self.state.borrow_mut();
        if state.connection != connection || !state.drives.iter().any(|drive| drive.device == device) {
            return Err(Errno::NOTCONN);
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(Errno::IO);
        }
        while state.waiting.contains_key(&state.next) {
            state.next = state.next.wrapping_add(1);
        }
        let completion = state.next;
        state.next = completion.wrapping_add(1);
        state.waiting.insert(completion, (device, waiter));
        state.output.push_back(irp::request(device, file, completion, function, body));
        self.wanted.notify_one();
        Ok(completion)
    }

    /// Asks and waits for the answer. May be dropped.
    async fn ask(&self, handle: Handle, function: Function, body: &[u8]) -> Result<Completion, Errno> {
        let (asker, answer) = oneshot::channel();
        let completion = self.send(handle, function, body, Waiter::Call(asker))?;
        let _asked = Asked { link: self, completion, opens: function == Function::Create };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(completion)) => Ok(completion),
            Ok(Err(_)) => Err(Errno::NOTCONN),
            Err(_) => {
                tracing::warn!(seconds = PATIENCE.as_secs(), "a client's drive did not answer in time");
                Err(Errno::TIMEDOUT)
            }
        }
    }

    /// Opens what is at `path`, which begins with a backslash.
    pub(super) async fn open(&self, drive: &Drive, path: &str, open: Open) -> Result<File<'_>, Errno> {
        let Drive { connection, device, .. } = *drive;
        let none = Handle { connection, device, file: NO_FILE };
        let answer = self.ask(none, Function::Create, &irp::create(path, open)).await?.done()?;
        Ok(File { link: self, handle: Some(Handle { file: irp::created(&answer)?, ..none }) })
    }

    /// Asks about an open file.
    pub(super) async fn call(
        &self,
        handle: Handle,
        function: Function,
        body: &[u8],
    ) -> Result<Completion, Errno> {
        self.ask(handle, function, body).await
    }

    /// Has a file closed.
    pub(super) fn close_later(&self, handle: Handle) {
        if let Err(error) = self.send(handle, Function::Close, &irp::close(), Waiter::Nobody) {
            // With the connection the client has closed it.
            tracing::debug!("closing a file of a client's drive: {error}");
        }
    }
}

/// A question that is under way.
struct Asked<'a> {
    link: &'a Link,
    completion: u32,
    opens: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.link.state.borrow_mut().waiting;
        if !self.opens {
            waiting.remove(&self.completion);
        } else if let Some((_, waiter)) = waiting.get_mut(&self.completion) {
            *waiter = Waiter::GivenUp;
        }
    }
}

/// An open file; closed when it is dropped.
pub(super) struct File<'a> {
    link: &'a Link,
    handle: Option<Handle>,
}

impl File<'_> {
    pub(super) fn handle(&self) -> Result<Handle, Errno> {
        self.handle.ok_or(Errno::BADF)
    }

    pub(super) async fn call(&self, function: Function, body: &[u8]) -> Result<Completion, Errno> {
        self.link.call(self.handle()?, function, body).await
    }

    /// Leaves it open.
    pub(super) fn keep(mut self) -> Result<Handle, Errno> {
        self.handle.take().ok_or(Errno::BADF)
    }

    /// Closes it and waits for the answer.
    pub(super) async fn close(self) -> Result<Completion, Errno> {
        let link = self.link;
        let handle = self.keep()?;
        link.call(handle, Function::Close, &irp::close()).await
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle {
            self.link.close_later(handle);
        }
    }
}

#[cfg(test)]
mod tests;
