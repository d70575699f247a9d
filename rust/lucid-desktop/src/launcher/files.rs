//! Serves files of the desktop's user; see [`lucid_desktop::files`].
//!
//! What is read stays within what was listed: below the folders of the copied files, without following symbolic links,
//! and only while it is the same file. What is written goes into new folders below
//! `~/.cache/lucid-from-client/<process>`, of which two are kept, and which go with the desktop.

use lucid_desktop::files::{self, Answer, Entry, MAX_DATA, MAX_DEPTH, MAX_ENTRIES, Request};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections at a time: two for a client, and what former ones have not noticed yet.
const MAX_CONNECTIONS: usize = 8;
/// Folders with what a client has copied that are kept: a program may still be reading from the former one.
const KEPT: usize = 2;
/// Copied ones of one list, before what is in them.
const MAX_ROOTS: usize = 1024;

/// The files of a desktop. Dropping it ends all connections.
pub(super) struct Files {
    connections: Arc<Mutex<Vec<(u64, UnixStream)>>>,
    shelf: Arc<Mutex<Shelf>>,
    next: Mutex<u64>,
}

/// Where files of the client go.
struct Shelf {
    base: PathBuf,
    next: u64,
    kept: VecDeque<PathBuf>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks leaves the data half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    pub(super) fn new(home: &Path) -> Files {
        let base = home.join(".cache/lucid-from-client").join(std::process::id().to_string());
        let shelf = Shelf { base, next: 0, kept: VecDeque::new() };
        Files { connections: Arc::default(), shelf: Arc::new(Mutex::new(shelf)), next: Mutex::new(0) }
    }

    /// Serves one connection on a thread of its own, unless there are too many.
    pub(super) fn serve(&self, stream: UnixStream) {
        let number = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        let copy = match stream.try_clone() {
            Ok(copy) => copy,
            Err(error) => {
                tracing::warn!(%error, "sharing a files connection");
                return;
            }
        };
        {
            let mut connections = lock(&self.connections);
            if connections.len() >= MAX_CONNECTIONS {
                tracing::warn!(MAX_CONNECTIONS, "too many files connections; one is closed");
                return;
            }
            connections.push((number, copy));
        }
        let (connections, shelf) = (Arc::clone(&self.connections), Arc::clone(&self.shelf));
        let started = std::thread::Builder::new().name("files".into()).spawn(move || {
            if let Err(error) = (Connection { stream, shelf, listing: None, incoming: None }).serve() {
                tracing::warn!("serving files: {error}");
            }
            lock(&connections).retain(|(other, _)| *other != number);
        });
        if let Err(error) = started {
            tracing::warn!(%error, "starting a thread for files");
            lock(&self.connections).retain(|(other, _)| *other != number);
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for (_, connection) in lock(&self.connections).iter() {
            // It may have ended.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        let base = &lock(&self.shelf).base;
        if let Err(error) = std::fs::remove_dir_all(base)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %base.display(), %error, "what clients have copied could not be removed");
        }
    }
}

impl Shelf {
    /// A new folder.
    fn make(&mut self) -> Result<PathBuf, String> {
        self.next += 1;
        let path = self.base.join(self.next.to_string());
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.base);
        made.and_then(|()| std::fs::DirBuilder::new().mode(0o700).create(&path))
            .map_err(|e| format!("making a folder for the client's files: {e}"))?;
        Ok(path)
    }

    fn keep(&mut self, path: PathBuf) {
        self.kept.push_back(path);
        while self.kept.len() > KEPT {
            if let Some(former) = self.kept.pop_front() {
                remove(&former);
            }
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(path = %folder.display(), %error, "what a client had copied could not be removed");
    }
}

/// Reads as much as `length`, a piece at a time: what is only announced takes no memory.
fn read_exactly(stream: &mut UnixStream, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length { Ok(bytes) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

struct Connection {
    stream: UnixStream,
    shelf: Arc<Mutex<Shelf>>,
    listing: Option<Listing>,
    incoming: Option<Incoming>,
}

impl Connection {
    fn serve(mut self) -> Result<(), lucid_desktop::Error> {
        let failed = |source| lucid_desktop::Error::System { doing: "a files connection".into(), source };
        loop {
            let mut first = [0; 8];
            match self.stream.read_exact(&mut first) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            let (header, data) = files::lengths(first)?;
            let header = read_exactly(&mut self.stream, header).map_err(failed)?;
            let data = read_exactly(&mut self.stream, data).map_err(failed)?;
            let (answer, data) = match self.answer(files::header(&header)?, &data) {
                Ok(answer) => answer,
                Err(why) => (Answer::Refused { why }, Vec::new()),
            };
            self.stream.write_all(&files::frame(&answer, &data)?).map_err(failed)?;
        }
    }

    fn answer(&mut self, request: Request, data: &[u8]) -> Result<(Answer, Vec<u8>), String> {
        let plain = |answer| (answer, Vec::new());
        match request {
            Request::List => {
                self.listing = None;
                let (listing, left_out) = Listing::make(data)?;
                let entries = listing.items.iter().map(|item| item.entry.clone()).collect();
                self.listing = Some(listing);
                Ok(plain(Answer::Listed { entries, left_out }))
            }
            Request::Read { index, offset, length } => {
                let listing = self.listing.as_mut().ok_or("nothing was listed")?;
                Ok((Answer::Data, listing.read(index, offset, length)?))
            }
            Request::Begin { entries } => {
                self.incoming = None;
                let folder = lock(&self.shelf).make()?;
                self.incoming = Some(Incoming::begin(folder, entries)?);
                Ok(plain(Answer::Done))
            }
            Request::Write { index, offset } => {
                let incoming = self.incoming.as_mut().ok_or("nothing was begun")?;
                match incoming.write(index, offset, data) {
                    Ok(()) => Ok(plain(Answer::Done)),
                    Err(why) => {
                        self.incoming = None;
                        Err(why)
                    }
                }
            }
            Request::Finish => {
                let incoming = self.incoming.take().ok_or("nothing was begun")?;
                let (folder, uris) = incoming.finish()?;
                lock(&self.shelf).keep(folder);
                Ok(plain(Answer::Finished { uris }))
            }
        }
    }
}

fn why(doing: &'static str) -> impl FnOnce(Errno) -> String {
    move |errno| format!("{doing}: {errno}")
}

/// Opens what is below a folder, through no symbolic link.
fn open_below(folder: impl AsFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    rustix::fs::openat2(folder, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, beneath)
}

/// What programs have copied.
struct Listing {
    /// The folders in which the copied ones are.
    parents: Vec<OwnedFd>,
    items: Vec<Item>,
    open: Option<(u32, OwnedFd)>,
}

struct Item {
    entry: Entry,
    parent: usize,
    /// Which file it is.
    device: u64,
    inode: u64,
}

impl Listing {
    fn make(list: &[u8]) -> Result<(Listing, u32), String> {
        let mut listing = Listing { parents: Vec::new(), items: Vec::new(), open: None };
        let mut left_out = 0;
        let paths = paths(list)?;
        for path in &paths {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err("the whole file system was copied".into());
            };
            let name = name.to_str().ok_or("a name is not UTF-8")?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = rustix::fs::open(parent, flags, Mode::empty())
                .map_err(why("opening a copied file's folder"))?;
            listing.parents.push(parent);
            listing.add(name, name, None, 1, &mut left_out)?;
        }
        let entries: Vec<Entry> = listing.items.iter().map(|item| item.entry.clone()).collect();
        files::check(&entries)?;
        Ok((listing, left_out))
    }

    /// Adds `name` of a folder (of the newest parent without one), and what is in it.
    fn add(
        &mut self,
        name: &str,
        path: &str,
        folder: Option<&OwnedFd>,
        depth: usize,
        left_out: &mut u32,
    ) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("folders are nested too deeply".into());
        }
        if self.items.len() >= MAX_ENTRIES {
            return Err(format!("there are more than {MAX_ENTRIES} files and folders"));
        }
        files::check_path(path)?;
        let parent = self.parents.len() - 1;
        let folder = folder.or_else(|| self.parents.last()).ok_or("there is no folder")?;
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(why("looking at a copied file"))?;
        let is_folder = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::Directory => true,
            _ => {
                *left_out = left_out.saturating_add(1);
                return Ok(());
            }
        };
        let inside = match is_folder {
            true => Some(
                open_below(folder, name, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(why("opening a copied folder"))?,
            ),
            false => None,
        };
        let size = if is_folder { 0 } else { u64::try_from(stat.st_size).unwrap_or_default() };
        let entry = Entry { path: path.into(), size, folder: is_folder, modified: stat.st_mtime };
        self.items.push(Item { entry, parent, device: stat.st_dev, inode: stat.st_ino });
        let Some(inside) = inside else { return Ok(()) };
        let mut names = BTreeSet::new();
        for entry in rustix::fs::Dir::read_from(&inside).map_err(why("reading a copied folder"))? {
            let entry = entry.map_err(why("reading a copied folder"))?;
            let name = entry.file_name().to_str().map_err(|_| "a name is not UTF-8")?;
            if name != "." && name != ".." {
                names.insert(name.to_owned());
            }
            if names.len() > MAX_ENTRIES {
                return Err(format!("there are more than {MAX_ENTRIES} files and folders"));
            }
        }
        for name in names {
            self.add(&name, &format!("{path}/{name}"), Some(&inside), depth + 1, left_out)?;
        }
        Ok(())
    }

    fn read(&mut self, index: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        let item = self.items.get(index as usize).ok_or("there is no such file in the list")?;
        if item.entry.folder {
            return Err("a folder has no content".into());
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            let parent = self.parents.get(item.parent).ok_or("there is no folder")?;
            // Nothing that blocks, should it have become a FIFO.
            let file = open_below(parent, &item.entry.path, OFlags::RDONLY | OFlags::NONBLOCK)
                .map_err(why("opening a copied file"))?;
            let stat = rustix::fs::fstat(&file).map_err(why("looking at a copied file"))?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if !is_file || (stat.st_dev, stat.st_ino) != (item.device, item.inode) {
                return Err("a copied file has been replaced by another".into());
            }
            self.open = Some((index, file));
        }
        let (_, file) = self.open.as_ref().ok_or("there is no file")?;
        // What has been added since is not part of what was listed.
        let most = item.entry.size.saturating_sub(offset).min(u64::from(length)).min(MAX_DATA as u64);
        let mut data = vec![0; most as usize];
        let mut filled = 0;
        while let Some(room) = data.get_mut(filled..).filter(|room| !room.is_empty()) {
            match rustix::io::pread(file, room, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(why("reading a copied file")(errno)),
            }
        }
        data.truncate(filled);
        Ok(data)
    }
}

/// The paths in a `text/uri-list` (RFC 2483) or `x-special/gnome-copied-files`, whose first line says what is done.
fn paths(list: &[u8]) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for line in list.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if matches!(line, b"" | b"copy" | b"cut") || line.starts_with(b"#") {
            continue;
        }
        let rest = line.strip_prefix(b"file://").ok_or("what was copied is not on this machine")?;
        let slash = rest.iter().position(|byte| *byte == b'/').ok_or("a URI has no path")?;
        let (host, path) = rest.split_at(slash);
        if !(host.is_empty() || host == b"localhost") {
            return Err("what was copied is on another machine".into());
        }
        if paths.len() >= MAX_ROOTS {
            return Err(format!("more than {MAX_ROOTS} files were copied at once"));
        }
        paths.push(PathBuf::from(OsStr::from_bytes(&decode(path)?)));
    }
    Ok(paths)
}

/// Undoes percent-encoding (RFC 3986 2.1).
fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte == b'%' {
            let (Some(high), Some(low)) = (digit(text.get(at + 1)), digit(text.get(at + 2))) else {
                return Err("a URI is malformed".into());
            };
            bytes.push((high * 16 + low) as u8);
            at += 3;
        } else {
            bytes.push(*byte);
            at += 1;
        }
    }
    if bytes.contains(&0) { Err("a URI is malformed".into()) } else { Ok(bytes) }
}

/// A path as a URI.
fn uri(path: &Path) -> String {
    let mut uri = String::from("file://");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(*byte))
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// What comes from a client. Dropping it throws it away.
struct Incoming {
    /// None when it is finished.
    folder: Option<PathBuf>,
    below: OwnedFd,
    entries: Vec<Entry>,
    /// What has come of the file that is being written, and of which.
    open: Option<(usize, OwnedFd, u64)>,
    /// Those before are complete.
    next: usize,
}

impl Incoming {
    fn begin(folder: PathBuf, entries: Vec<Entry>) -> Result<Incoming, String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = match rustix::fs::openat(CWD, &folder, flags, Mode::empty()) {
            Ok(below) => below,
            Err(errno) => {
                remove(&folder);
                return Err(why("opening a folder for the client's files")(errno));
            }
        };
        let incoming = Incoming { folder: Some(folder), below, entries, open: None, next: 0 };
        files::check(&incoming.entries)?;
        for entry in &incoming.entries {
            let names = if entry.folder { Some(entry.path.as_str()) } else { None };
            incoming.make_folders(names.or_else(|| entry.path.rsplit_once('/').map(|(parent, _)| parent)))?;
        }
        Ok(incoming)
    }

    /// Makes a folder and those above.
    fn make_folders(&self, path: Option<&str>) -> Result<(), String> {
        let Some(path) = path else { return Ok(()) };
        let ends = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let folder = path.get(..end).unwrap_or(path);
            let (parent, name) = folder.rsplit_once('/').unwrap_or((".", folder));
            let parent = open_below(&self.below, parent, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(why("opening a folder of the client's"))?;
            match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                // If it is a file, what is in it cannot be made.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(why("making a folder of the client's")(errno)),
            }
        }
        Ok(())
    }

    fn write(&mut self, index: u32, offset: u64, data: &[u8]) -> Result<(), String> {
        let index = index as usize;
        if self.open.as_ref().is_none_or(|(open, ..)| *open != index) {
            self.complete(index)?;
            let file = self.create(index)?;
            self.open = Some((index, file, 0));
        }
        let size = self.entries.get(index).map_or(0, |entry| entry.size);
        let Some((_, file, written)) = &mut self.open else { return Err("there is no file".into()) };
        if offset != *written || size - *written < data.len() as u64 {
            return Err("a file comes out of order, or is larger than was said".into());
        }
        let mut rest = data;
        while !rest.is_empty() {
            match rustix::io::write(&*file, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(why("writing a file of the client's")(errno)),
            }
        }
        *written += data.len() as u64;
        Ok(())
    }

    fn create(&self, index: usize) -> Result<OwnedFd, String> {
        let entry = self.entries.get(index).filter(|entry| !entry.folder).ok_or("there is no such file")?;
        open_below(&self.below, &entry.path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .map_err(why("making a file of the client's"))
    }

    /// Ends the file that is open, and makes the empty ones up to `index`.
    fn complete(&mut self, index: usize) -> Result<(), String> {
        if let Some((open, file, written)) = self.open.take() {
            let entry = self.entries.get(open).ok_or("there is no file")?;
            if written != entry.size {
                return Err("a file is not complete".into());
            }
            set_time(&file, entry.modified);
            self.next = open + 1;
        }
        while self.next < index {
            let entry = self.entries.get(self.next).ok_or("there is no such file")?;
            if !entry.folder {
                if entry.size != 0 {
                    return Err("a file was left out".into());
                }
                set_time(&self.create(self.next)?, entry.modified);
            }
            self.next += 1;
        }
        if self.next > index { Err("a file comes out of order".into()) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<(PathBuf, Vec<String>), String> {
        self.complete(self.entries.len())?;
        let folder = self.folder.take().ok_or("it is finished")?;
        let mut seen = BTreeSet::new();
        let names = self.entries.iter().filter_map(|entry| entry.path.split('/').next());
        let uris = names.filter(|name| seen.insert(*name)).map(|name| uri(&folder.join(name))).collect();
        Ok((folder, uris))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            remove(folder);
        }
    }
}

fn set_time(file: &OwnedFd, modified: i64) {
    if modified == 0 {
        return;
    }
    let time = Timespec { tv_sec: modified, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    if let Err(error) = rustix::fs::futimens(file, &times) {
        tracing::debug!(%error, "setting a file's time");
    }
}

#[cfg(test)]
mod tests;
