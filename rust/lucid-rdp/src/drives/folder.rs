//! The folder in the desktop: answers the kernel's requests with what the client's drives say.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lucid_policy::{Action, Policy, Transfer};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::crossing::Files;
use super::fuse::{self, Answer, Changes, MAX_REQUEST, Operation, Owner, ROOT, Request, When};
use super::irp::{self, Access, Attributes, Disposition, Entry, Function, Kind, Open, Time};
use super::link::{Drive, File, Handle, Link};
use super::names;
use super::tree::{Nodes, Opened, Table};
use crate::Error;
use crate::gates::Holding;

/// Requests that are answered at a time; further ones wait in the kernel, where only a signal that kills ends them.
const MAX_REQUESTS: usize = 128;
/// Even one that takes many questions has an end.
const LONGEST: Duration = Duration::from_secs(120);
/// Entries of one folder that are listed; more are an error.
const MAX_ENTRIES: usize = 65_536;

/// Serves the folder until it is dropped.
pub(super) struct Served(JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins. `device` is the kernel's end, `holding` what programs may do there.
pub(super) fn serve(
    device: OwnedFd,
    link: Rc<Link>,
    holding: Holding,
    crossing: Rc<Files>,
) -> Result<Served, Error> {
    rustix::io::ioctl_fionbio(&device, true).map_err(|e| Error::Drives(e.into()))?;
    #[expect(deprecated, reason = "unsound for what changes its descriptor, which an OwnedFd does not")]
    let device = AsyncFd::with_interest(device, Interest::READABLE).map_err(Error::Drives)?;
    let (nodes, table) = (RefCell::new(Nodes::new()), RefCell::default());
    let (open, made) = (RefCell::default(), RefCell::default());
    let folder = Folder { link, holding, nodes, table, open, made, crossing };
    let served = Rc::new(Kernel { device, folder, interrupts: RefCell::default() });
    Ok(Served(tokio::task::spawn_local(served.run())))
}

/// The connection to the kernel.
struct Kernel {
    device: AsyncFd<OwnedFd>,
    folder: Folder,
    /// By a request's number, while it is answered.
    interrupts: RefCell<HashMap<u64, Rc<Notify>>>,
}

impl Kernel {
    async fn run(self: Rc<Self>) {
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; MAX_REQUEST];
        loop {
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= MAX_REQUESTS {
                // It never fails: no task panics, none is aborted.
                let _ = tasks.join_next().await;
                continue;
            }
            let read = async {
                let mut ready = self.device.readable().await?;
                match ready.try_io(|device| Ok(rustix::io::read(device, &mut buffer[..])?)) {
                    Ok(read) => read.map(Some),
                    Err(_not_ready) => Ok(None),
                }
            };
            match read.await {
                Ok(Some(length)) => self.take(buffer.get(..length).unwrap_or_default(), &mut tasks),
                Ok(None) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    // The request has gone meanwhile.
                    Some(Errno::NOENT | Errno::INTR) => {}
                    // The desktop's end.
                    Some(Errno::NODEV | Errno::NOTCONN) => return,
                    _ => {
                        tracing::warn!(
                            "the folder with the client's drives: {error}; it is not served any more"
                        );
                        return;
                    }
                },
            }
        }
    }

    fn take(self: &Rc<Self>, bytes: &[u8], tasks: &mut JoinSet<()>) {
        let Some(request) = fuse::request(bytes) else {
            tracing::warn!(bytes = bytes.len(), "a request for the client's drives is malformed");
            if let Some(unique) = bytes.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes) {
                self.answer(unique, Err(Errno::INVAL));
            }
            return;
        };
        let Request { unique, .. } = request;
        match request.operation {
            Operation::Forget { lookups } => self.folder.nodes.borrow_mut().forget(request.node, lookups),
            Operation::BatchForget { nodes } => {
                let mut known = self.folder.nodes.borrow_mut();
                nodes.into_iter().for_each(|(node, lookups)| known.forget(node, lookups));
            }
            Operation::Interrupt { unique } => {
                // One that is answered already has no use for it.
                if let Some(interrupt) = self.interrupts.borrow().get(&unique) {
                    interrupt.notify_one();
                }
            }
            Operation::Init { major, max_readahead, flags, .. } => {
                self.answer(unique, init(major, max_readahead, flags))
            }
            _ => {
                let (kernel, bytes) = (Rc::clone(self), bytes.to_vec());
                let interrupt = Rc::new(Notify::new());
                self.interrupts.borrow_mut().insert(unique, Rc::clone(&interrupt));
                tasks.spawn_local(async move {
                    let answer = match fuse::request(&bytes) {
                        Some(request) => tokio::select! {
                            biased;
                            answer = kernel.folder.serve(&request) => answer,
                            () = interrupt.notified() => Err(Errno::INTR),
                            () = tokio::time::sleep(LONGEST) => Err(Errno::TIMEDOUT),
                        },
                        None => Err(Errno::INVAL),
                    };
                    kernel.interrupts.borrow_mut().remove(&unique);
                    kernel.answer(unique, answer);
                });
            }
        }
    }

    fn answer(&self, unique: u64, answer: Result<Answer, Errno>) {
        match rustix::io::write(&self.device, &fuse::answer(unique, answer)) {
            // The kernel waits for it no more.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => {
                tracing::warn!("answering a request for the client's drives: {error}");
                // Nobody waits for an answer that was not taken.
                if error == Errno::INVAL {
                    let _ = rustix::io::write(&self.device, &fuse::answer(unique, Err(Errno::IO)));
                }
            }
        }
    }
}

fn init(major: u32, max_readahead: u32, flags: u32) -> Result<Answer, Errno> {
    if major == 7 { Ok(fuse::initialized(max_readahead, flags)) } else { Err(Errno::PROTO) }
}

/// What is asked of and answered to, without the kernel.
pub(super) struct Folder {
    link: Rc<Link>,
    holding: Holding,
    nodes: RefCell<Nodes>,
    table: RefCell<Table>,
    /// The files that are open, by their handles.
    open: RefCell<HashMap<u64, String>>,
    /// What programs have made while this client is there, with the number of its connection: nothing else may they change.
    made: RefCell<HashSet<(u64, String)>>,
    /// What is told to the recording.
    crossing: Rc<Files>,
}

/// A place on a drive.
struct Place {
    drive: Drive,
    /// As the client is told.
    path: String,
}

/// What the folder itself looks like, and what nobody has asked about.
const FOLDER: Attributes = Attributes {
    size: 0,
    folder: true,
    readonly: true,
    accessed: Time { seconds: 0, nanoseconds: 0 },
    modified: Time { seconds: 0, nanoseconds: 0 },
    changed: Time { seconds: 0, nanoseconds: 0 },
};

const LOOK: Open = Open { access: Access::Look, disposition: Disposition::Open, kind: Kind::Any };

/// `open`'s flags (asm-generic/fcntl.h): what is wanted, and that it must not be there.
const ACCESS_MODE: u32 = 3;
const EXCLUSIVE: u32 = 0o200;
/// renameat2's RENAME_NOREPLACE.
const NO_REPLACE: u32 = 1;
/// S_IWUSR.
const MAY_WRITE: u32 = 0o200;

impl Folder {
    /// Answers a request. May be dropped.
    pub(super) async fn serve(&self, request: &Request<'_>) -> Result<Answer, Errno> {
        let Request { node, owner, .. } = *request;
        match &request.operation {
            Operation::Lookup { name } => {
                // What cannot be a name on a drive is not there.
                let path = self
                    .nodes
                    .borrow()
                    .child(node, name)
                    .map_err(|e| if e == Errno::INVAL { Errno::NOENT } else { e })?;
                self.may_see(&path)?;
                let attributes = self.look(&self.place(&path)?).await?;
                self.entry(&path, &attributes, owner)
            }
            Operation::GetAttributes { handle } => {
                let attributes = match handle.map(|handle| self.table.borrow().get(handle)) {
                    Some(Ok(Opened::File(file))) => self.attributes(file).await?,
                    _ => self.look_at(node).await?,
                };
                Ok(fuse::attributes(node, &self.shown(&attributes), owner))
            }
            Operation::SetAttributes(changes) => {
                let path = self.nodes.borrow().path(node)?;
                self.may_change(&path)?;
                if let Some(size) = changes.size {
                    self.may_grow(&path, size)?;
                }
                self.set(node, changes, owner).await
            }
            Operation::MakeFolder { name } => {
                let path = self.new_path(node, name)?;
                let open =
                    Open { access: Access::Read, disposition: Disposition::Create, kind: Kind::Folder };
                let file = self.open(&self.place(&path)?, open).await?;
                self.made(&path)?;
                let attributes = self.attributes_of(&file).await?;
                self.entry(&path, &attributes, owner)
            }
            Operation::Unlink { name } => self.delete(node, name, Kind::File).await,
            Operation::RemoveFolder { name } => self.delete(node, name, Kind::Folder).await,
            Operation::Rename { name, folder, to, flags } => {
                self.rename((node, name), (*folder, to), *flags).await
            }
            Operation::Open { flags } => {
                let access = access(*flags);
                let path = self.nodes.borrow().path(node)?;
                if access != Access::Read {
                    self.may_change(&path)?;
                }
                let open = Open { access, disposition: Disposition::Open, kind: Kind::File };
                let place = self.place(&path)?;
                let file = self.open(&place, open).await?;
                if access != Access::Write {
                    let size = self.attributes_of(&file).await?.size;
                    self.may_read(&path, size)?;
                }
                let handle = self.keep(file)?;
                self.open.borrow_mut().insert(handle, path.to_string());
                self.crossing.opened(handle, &path, false);
                Ok(fuse::opened(handle))
            }
            Operation::Create { name, flags } => {
                let path = self.new_path(node, name)?;
                self.may_grow(&path, 0)?;
                let place = self.place(&path)?;
                let open =
                    Open { access: access(*flags), disposition: Disposition::Create, kind: Kind::File };
                let (file, fresh) = match self.open(&place, open).await {
                    // Another program of the client's was quicker.
                    Err(Errno::EXIST) if flags & EXCLUSIVE == 0 => {
                        self.may_change(&path)?;
                        (self.open(&place, Open { disposition: Disposition::Open, ..open }).await?, false)
                    }
                    file => (file?, true),
                };
                if fresh {
                    self.made(&path)?;
                }
                let attributes = self.attributes_of(&file).await?;
                let handle = self.keep(file)?;
                self.open.borrow_mut().insert(handle, path.to_string());
                self.crossing.opened(handle, &path, fresh);
                let node = self.nodes.borrow_mut().tell(&path)?;
                Ok(fuse::created(node, &self.shown(&attributes), owner, handle))
            }
            Operation::Read { handle, offset, length } => {
                let file = self.table.borrow().file(*handle)?;
                let path = self.path_of(*handle)?;
                // Its size was looked at when it was opened; it may have grown.
                self.may_read(&path, *offset)?;
                let bytes = self.read(file, *offset, *length).await?;
                self.crossing.read(*handle, *offset, *length, &bytes);
                Ok(fuse::data(&bytes))
            }
            Operation::Write { handle, offset, data } => {
                let path = self.path_of(*handle)?;
                self.may_change(&path)?;
                self.may_grow(&path, offset.saturating_add(data.len() as u64))?;
                let file = self.table.borrow().file(*handle)?;
                self.write(file, *offset, data).await?;
                self.crossing.written(*handle, *offset, data);
                Ok(fuse::written(data.len() as u32))
            }
            Operation::Statistics => self.statistics(node).await,
            Operation::Release { handle } | Operation::ReleaseFolder { handle } => {
                let opened = self.table.borrow_mut().remove(*handle);
                self.open.borrow_mut().remove(handle);
                if let Some(Opened::File(file)) = opened {
                    // The kernel reads no further than a size that it knows, so no answer was a short one.
                    if self.crossing.wants_size(*handle)
                        && let Ok(attributes) = self.attributes(file).await
                    {
                        self.crossing.ends(*handle, attributes.size);
                    }
                    self.link.close_later(file);
                }
                self.crossing.closed(*handle).await;
                Ok(fuse::done())
            }
            Operation::OpenFolder => {
                let handle = self.table.borrow_mut().insert(Opened::Folder(None))?;
                Ok(fuse::opened(handle))
            }
            Operation::List { handle, offset, length } => {
                self.list(node, *handle, *offset, *length, owner).await
            }
            Operation::Flush | Operation::Destroy => Ok(fuse::done()),
            Operation::Link => Err(Errno::PERM),
            Operation::Other(_)
            | Operation::Init { .. }
            | Operation::Forget { .. }
            | Operation::BatchForget { .. }
            | Operation::Interrupt { .. } => Err(Errno::NOSYS),
        }
    }

    fn policy(&self) -> Result<Arc<Policy>, Errno> {
        self.holding.policy().ok_or(Errno::ACCESS)
    }

    fn shows(&self, path: &str) -> bool {
        self.holding.policy().is_some_and(|policy| policy.shows_path(path))
    }

    /// What may not be seen is not there.
    fn may_see(&self, path: &str) -> Result<(), Errno> {
        self.policy()?;
        if self.shows(path) {
            return Ok(());
        }
        // What is nowhere was not hidden either.
        let drive = path.split('/').next().unwrap_or_default();
        if self.link.drives().iter().any(|shared| shared.name == drive) {
            self.crossing.hidden(path);
        }
        Err(Errno::NOENT)
    }

    /// Whether something may be made or changed in a folder.
    fn may_write(&self, folder: &str) -> Result<(), Errno> {
        let policy = self.policy()?;
        if !policy.file.download_enabled {
            self.crossing.refused(
                "file.download_enabled",
                "a program wanted to change what is on the client's drives",
            );
            return Err(Errno::ROFS);
        }
        if policy.uses_path(folder) {
            return Ok(());
        }
        self.crossing.refused(
            "file.allowed_dirs",
            "a program wanted to change what is in a folder that may not be used",
        );
        Err(Errno::ACCESS)
    }

    /// Whether something that is there may be changed, or removed: what was made in this session.
    fn may_change(&self, path: &str) -> Result<(), Errno> {
        self.may_write(parted(path).0)?;
        if self.is_made(path) {
            return Ok(());
        }
        self.crossing
            .refused("file.replaced", "a program wanted to change or replace a file that was there before");
        Err(Errno::PERM)
    }

    /// Whether a file on a drive may be so large, and have that name.
    fn may_grow(&self, path: &str, bytes: u64) -> Result<(), Errno> {
        let (dir, name) = parted(path);
        let transfer = Transfer { bytes, dir: Some(dir), name, replaces: false };
        if self.holding.permits(&Action::Download(transfer)) {
            return Ok(());
        }
        self.crossing.refused(
            "file.download_enabled",
            "a program wanted to write a file that may not go to the client",
        );
        Err(Errno::ACCESS)
    }

    /// Whether a file of that size may be read.
    fn may_read(&self, path: &str, bytes: u64) -> Result<(), Errno> {
        let (dir, name) = parted(path);
        let transfer = Transfer { bytes, dir: Some(dir), name, replaces: false };
        if self.holding.permits(&Action::Upload(transfer)) {
            return Ok(());
        }
        self.crossing
            .refused("file.upload_enabled", "a program wanted to read a file that may not go to the desktop");
        Err(Errno::ACCESS)
    }

    /// A path was made; there are only so many.
    fn made(&self, path: &str) -> Result<(), Errno> {
        let mut made = self.made.borrow_mut();
        if made.len() >= MAX_ENTRIES {
            return Err(Errno::NOSPC);
        }
        let connection = self.link.connection();
        // Another client's drives have other files at the same places.
        made.retain(|(of, _)| *of == connection);
        made.insert((connection, path.to_owned()));
        Ok(())
    }

    fn is_made(&self, path: &str) -> bool {
        self.made.borrow().contains(&(self.link.connection(), path.to_owned()))
    }

    fn path_of(&self, handle: u64) -> Result<String, Errno> {
        self.open.borrow().get(&handle).cloned().ok_or(Errno::BADF)
    }

    /// A path where something is to be made, removed or renamed: not among the drives themselves.
    fn new_path(&self, folder: u64, name: &[u8]) -> Result<String, Errno> {
        if folder == ROOT {
            return Err(Errno::PERM);
        }
        let path = self.nodes.borrow().child(folder, name)?;
        self.may_write(parted(&path).0)?;
        Ok(path)
    }

    fn place(&self, path: &str) -> Result<Place, Errno> {
        let (drive, rest) = path.split_once('/').unwrap_or((path, ""));
        Ok(Place { drive: self.link.drive(drive)?, path: format!("\\{}", rest.replace('/', "\\")) })
    }

    async fn open(&self, place: &Place, open: Open) -> Result<File<'_>, Errno> {
        self.link.open(&place.drive, &place.path, open).await
    }

    /// Keeps a file open for a program.
    fn keep(&self, file: File<'_>) -> Result<u64, Errno> {
        let mut table = self.table.borrow_mut();
        if table.is_full() {
            return Err(Errno::NFILE);
        }
        table.insert(Opened::File(file.keep()?))
    }

    async fn attributes(&self, file: Handle) -> Result<Attributes, Errno> {
        let query = |class| async move {
            let question = irp::query_information(class);
            self.link.call(file, Function::QueryInformation, &question).await?.done()
        };
        let (basic, standard) =
            tokio::try_join!(query(irp::FILE_BASIC_INFORMATION), query(irp::FILE_STANDARD_INFORMATION))?;
        irp::attributes(&basic, &standard)
    }

    async fn attributes_of(&self, file: &File<'_>) -> Result<Attributes, Errno> {
        self.attributes(file.handle()?).await
    }

    async fn look(&self, place: &Place) -> Result<Attributes, Errno> {
        let file = self.open(place, LOOK).await?;
        self.attributes_of(&file).await
    }

    async fn look_at(&self, node: u64) -> Result<Attributes, Errno> {
        if node == ROOT {
            return Ok(FOLDER);
        }
        let path = self.nodes.borrow().path(node)?;
        self.may_see(&path)?;
        self.look(&self.place(&path)?).await
    }

    /// As programs see it.
    fn shown(&self, attributes: &Attributes) -> Attributes {
        // Windows marks folders as read-only without meaning it.
        let writable = self.holding.policy().is_some_and(|policy| policy.file.download_enabled);
        let readonly = !writable || (attributes.readonly && !attributes.folder);
        Attributes { readonly, ..*attributes }
    }

    fn entry(&self, path: &str, attributes: &Attributes, owner: Owner) -> Result<Answer, Errno> {
        let node = self.nodes.borrow_mut().tell(path)?;
        Ok(fuse::entry(node, &self.shown(attributes), owner))
    }

    async fn set(&self, node: u64, changes: &Changes, owner: Owner) -> Result<Answer, Errno> {
        let path = self.nodes.borrow().path(node)?;
        if path.is_empty() {
            return Err(Errno::PERM);
        }
        // Nothing here belongs to anybody else.
        if changes.user.is_some_and(|user| user != owner.user)
            || changes.group.is_some_and(|group| group != owner.group)
        {
            return Err(Errno::PERM);
        }
        let place = self.place(&path)?;
        if let Some(size) = changes.size {
            let question = irp::set_size(size);
            let handle = changes.handle.and_then(|handle| self.table.borrow().file(handle).ok());
            let answer = match handle {
                Some(file) => self.link.call(file, Function::SetInformation, &question).await?,
                None => {
                    let open =
                        Open { access: Access::Write, disposition: Disposition::Open, kind: Kind::File };
                    self.open(&place, open).await?.call(Function::SetInformation, &question).await?
                }
            };
            answer.done()?;
            self.crossing.sized(&path, size);
        }
        let now = self.look(&place).await?;
        let readonly = changes.mode.map_or(now.readonly, |mode| mode & MAY_WRITE == 0) && !now.folder;
        let times = changes.accessed.or(changes.modified).is_some();
        if !times && (readonly == now.readonly || now.folder) {
            return Ok(fuse::attributes(node, &self.shown(&now), owner));
        }
        let open = Open { access: Access::SetAttributes, disposition: Disposition::Open, kind: Kind::Any };
        let question =
            irp::set_basic(changes.accessed.map(time), changes.modified.map(time), readonly, now.folder);
        let file = self.open(&place, open).await?;
        let answer = file.call(Function::SetInformation, &question).await?.done();
        // FreeRDP cannot set a folder's times, and programs that copy folders would take that for a failure of the copy.
        if !now.folder {
            answer?;
        }
        let attributes = self.attributes_of(&file).await?;
        Ok(fuse::attributes(node, &self.shown(&attributes), owner))
    }

    async fn delete(&self, folder: u64, name: &[u8], kind: Kind) -> Result<Answer, Errno> {
        let path = self.new_path(folder, name)?;
        self.may_change(&path)?;
        let place = self.place(&path)?;
        let file =
            self.open(&place, Open { access: Access::Delete, disposition: Disposition::Open, kind }).await?;
        file.call(Function::SetInformation, &irp::set_deleted()).await?.done()?;
        let closed = file.close().await?;
        // FreeRDP deletes when the file is closed, and its answer to that may be the error of something else; for a folder
        // with something in it some versions say that all is well. Whether it has gone is what counts.
        if (closed.status != irp::STATUS_SUCCESS || kind == Kind::Folder)
            && self.open(&place, LOOK).await.is_ok()
        {
            let nothing_said = if kind == Kind::Folder { Errno::NOTEMPTY } else { Errno::IO };
            return Err(closed.done().err().unwrap_or(nothing_said));
        }
        self.nodes.borrow_mut().gone(&path);
        self.made.borrow_mut().remove(&(self.link.connection(), path));
        Ok(fuse::done())
    }

    async fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Result<Answer, Errno> {
        let (from, to) = (self.new_path(from.0, from.1)?, self.new_path(to.0, to.1)?);
        if flags & !NO_REPLACE != 0 {
            return Err(Errno::INVAL);
        }
        let (place, target) = (self.place(&from)?, self.place(&to)?);
        if place.drive != target.drive {
            return Err(Errno::XDEV);
        }
        self.may_change(&from)?;
        if !self.look(&place).await?.folder {
            self.may_grow(&to, 0)?;
        }
        // What was there before is not replaced.
        let may_replace = self.is_made(&to);
        let flags = if may_replace { flags } else { flags | NO_REPLACE };
        let open = Open { access: Access::Delete, disposition: Disposition::Open, kind: Kind::Any };
        let file = self.open(&place, open).await?;
        let question = irp::set_name(&target.path, flags & NO_REPLACE == 0);
        match file.call(Function::SetInformation, &question).await?.done() {
            Ok(_) => {}
            // FreeRDP says this of every folder with something in it, though it has renamed it.
            Err(Errno::NOTEMPTY)
                if self.open(&place, LOOK).await.err() == Some(Errno::NOENT)
                    && self.open(&target, LOOK).await.is_ok() => {}
            Err(error) => return Err(error),
        }
        self.nodes.borrow_mut().renamed(&from, &to);
        let renamed = |path: &str| {
            let rest = path.strip_prefix(&from).filter(|rest| rest.is_empty() || rest.starts_with('/'));
            rest.map(|rest| format!("{to}{rest}"))
        };
        let mut made = self.made.borrow_mut();
        let moved: Vec<_> = made.extract_if(|(_, path)| renamed(path).is_some()).collect();
        made.extend(moved.into_iter().filter_map(|(of, path)| Some((of, renamed(&path)?))));
        for path in self.open.borrow_mut().values_mut() {
            if let Some(new) = renamed(path) {
                *path = new;
            }
        }
        Ok(fuse::done())
    }

    async fn read(&self, file: Handle, offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        // The kernel takes less than it asked for as the end of the file, so it has to be.
        loop {
            let done = bytes.len() as u32;
            let offset = offset.checked_add(u64::from(done)).ok_or(Errno::INVAL)?;
            let wanted = length - done;
            if wanted == 0 {
                return Ok(bytes);
            }
            let answer = self.link.call(file, Function::Read, &irp::read(offset, wanted)).await?;
            if irp::is_end_of_file(answer.status) {
                return Ok(bytes);
            }
            let answer = answer.done()?;
            let data = irp::data(&answer, wanted)?;
            if data.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(data);
        }
    }

    async fn write(&self, file: Handle, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut rest = data;
        while !rest.is_empty() {
            let offset = offset.checked_add((data.len() - rest.len()) as u64).ok_or(Errno::INVAL)?;
            let answer = self.link.call(file, Function::Write, &irp::write(offset, rest)).await?.done()?;
            let written = irp::written(&answer, rest.len() as u32)? as usize;
            if written == 0 {
                return Err(Errno::IO);
            }
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    async fn statistics(&self, node: u64) -> Result<Answer, Errno> {
        let path = self.nodes.borrow().path(node)?;
        let size = if path.is_empty() {
            irp::Size::default()
        } else {
            let top = Place { path: "\\".into(), ..self.place(&path)? };
            let top = self.open(&top, LOOK).await?;
            irp::drive_size(&top.call(Function::QueryVolumeInformation, &irp::query_size()).await?.done()?)?
        };
        Ok(fuse::statistics(&size, names::MAX_NAME))
    }

    async fn list(
        &self,
        node: u64,
        handle: u64,
        offset: u64,
        length: u32,
        owner: Owner,
    ) -> Result<Answer, Errno> {
        let path = self.nodes.borrow().path(node)?;
        if !path.is_empty() {
            self.may_see(&path)?;
        }
        let Opened::Folder(known) = self.table.borrow().get(handle)? else { return Err(Errno::BADF) };
        let entries = match known {
            // From the beginning it is read anew.
            Some(known) if offset > 0 => known,
            _ => {
                let entries =
                    Rc::new(if path.is_empty() { self.drives() } else { self.entries(&path).await? });
                self.table.borrow_mut().listed(handle, Rc::clone(&entries))?;
                entries
            }
        };
        let mut listing = fuse::Listing::new(length);
        let own = [".", ".."].map(|name| (name, FOLDER));
        let others = entries.iter().map(|(name, entry)| (name.as_str(), entry.attributes));
        for (at, (name, attributes)) in
            (0u64..).zip(own.into_iter().chain(others)).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            if !listing.has_room(name) {
                break;
            }
            // The kernel looks up the drives by itself, and what is too much to remember.
            let node = if path.is_empty() || at < 2 {
                0
            } else {
                self.nodes.borrow_mut().tell(&format!("{path}/{name}")).unwrap_or(0)
            };
            listing = listing.add(node, &self.shown(&attributes), owner, at + 1, name);
        }
        Ok(listing.finish())
    }

    fn drives(&self) -> Vec<(String, Entry)> {
        let entry = Entry { name: Vec::new(), attributes: FOLDER };
        let drives = self.link.drives().into_iter().filter(|drive| self.shows(&drive.name));
        drives.map(|drive| (drive.name, entry.clone())).collect()
    }

    async fn entries(&self, path: &str) -> Result<Vec<(String, Entry)>, Errno> {
        let place = self.place(path)?;
        let open = Open { access: Access::Read, disposition: Disposition::Open, kind: Kind::Folder };
        let folder = self.open(&place, open).await?;
        let pattern = format!("{}\\*", place.path.trim_end_matches('\\'));
        let mut question = irp::query_directory(Some(&pattern));
        let (mut entries, mut left_out) = (Vec::new(), 0);
        loop {
            let answer = folder.call(Function::QueryDirectory, &question).await?;
            if irp::is_end_of_listing(answer.status) {
                break;
            }
            for entry in irp::entries(&answer.done()?)? {
                if matches!(entry.name.as_slice(), [DOT] | [DOT, DOT]) {
                    continue;
                }
                match names::from_wide(&entry.name) {
                    Some(name) if !self.shows(&format!("{path}/{name}")) => {}
                    // The name is there as text.
                    Some(name) => entries.push((name, Entry { name: Vec::new(), ..entry })),
                    None => left_out += 1,
                }
            }
            if entries.len() + left_out > MAX_ENTRIES {
                return Err(Errno::OVERFLOW);
            }
            question = irp::query_directory(None);
        }
        if left_out > 0 {
            tracing::debug!(
                left_out,
                "files of a client's folder have names that cannot be used here; they are not shown"
            );
        }
        Ok(entries)
    }
}

/// A path's folder and its name.
fn parted(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// What `open`'s flags ask for.
fn access(flags: u32) -> Access {
    match flags & ACCESS_MODE {
        0 => Access::Read,
        1 => Access::Write,
        _ => Access::ReadWrite,
    }
}

const DOT: u16 = b'.' as u16;

fn time(when: When) -> Time {
    match when {
        When::At(time) => time,
        When::Now => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Time {
                seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: now.subsec_nanos(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
