//! What the kernel knows of the folder: numbers for paths, and numbers for what programs have open.

use std::collections::HashMap;
use std::rc::Rc;

use rustix::io::Errno;

use super::fuse::ROOT;
use super::irp::Entry;
use super::link::Handle;
use super::names;

/// Paths that the kernel remembers at a time; it forgets them when memory is short.
const MAX_NODES: usize = 100_000;
/// Files and folders that programs have open at a time.
const MAX_OPEN: usize = 1024;
/// Entries of all open folders together.
const MAX_LISTED: usize = 200_000;

/// The paths. The folder itself has none; a path begins with its drive's name and has `/` between names.
pub(super) struct Nodes {
    /// With how often the kernel was told.
    paths: HashMap<u64, (Rc<str>, u64)>,
    numbers: HashMap<Rc<str>, u64>,
    next: u64,
}

impl Nodes {
    pub(super) fn new() -> Nodes {
        Nodes { paths: HashMap::new(), numbers: HashMap::new(), next: ROOT + 1 }
    }

    /// Empty: the folder itself.
    pub(super) fn path(&self, node: u64) -> Result<Rc<str>, Errno> {
        if node == ROOT {
            return Ok("".into());
        }
        self.paths.get(&node).map(|(path, _)| Rc::clone(path)).ok_or(Errno::STALE)
    }

    /// The path of a name in a folder.
    pub(super) fn child(&self, folder: u64, name: &[u8]) -> Result<String, Errno> {
        let name = std::str::from_utf8(name).ok().filter(|name| names::passes(name)).ok_or(Errno::INVAL)?;
        let folder = self.path(folder)?;
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if path.len() > names::MAX_PATH { Err(Errno::NAMETOOLONG) } else { Ok(path) }
    }

    /// The number that the kernel is told for a path.
    pub(super) fn tell(&mut self, path: &str) -> Result<u64, Errno> {
        if let Some(node) = self.numbers.get(path) {
            if let Some((_, told)) = self.paths.get_mut(node) {
                *told = told.saturating_add(1);
            }
            return Ok(*node);
        }
        if self.paths.len() >= MAX_NODES {
            return Err(Errno::NOMEM);
        }
        let (node, path): (u64, Rc<str>) = (self.next, path.into());
        self.next += 1;
        self.paths.insert(node, (Rc::clone(&path), 1));
        self.numbers.insert(path, node);
        Ok(node)
    }

    /// The kernel has forgotten a number as often as it was told.
    pub(super) fn forget(&mut self, node: u64, lookups: u64) {
        if let Some((path, told)) = self.paths.get_mut(&node) {
            *told = told.saturating_sub(lookups);
            if *told == 0 {
                if self.numbers.get(path) == Some(&node) {
                    self.numbers.remove(path);
                }
                self.paths.remove(&node);
            }
        }
    }

    /// There is nothing at this path any more; what had it keeps its number as long as the kernel remembers it.
    pub(super) fn gone(&mut self, path: &str) {
        self.numbers.remove(path);
    }

    /// A file or a folder with all that is in it has another path.
    pub(super) fn renamed(&mut self, from: &str, to: &str) {
        self.gone(to);
        let below =
            |path: &str| path.strip_prefix(from).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let moved: Vec<(Rc<str>, u64)> = self
            .numbers
            .iter()
            .filter(|(path, _)| below(path))
            .map(|(path, node)| (Rc::clone(path), *node))
            .collect();
        for (path, node) in moved {
            let new: Rc<str> = format!("{to}{}", path.get(from.len()..).unwrap_or_default()).into();
            self.numbers.remove(&path);
            if let Some((path, _)) = self.paths.get_mut(&node) {
                *path = Rc::clone(&new);
            }
            self.numbers.insert(new, node);
        }
    }
}

/// What a program has open.
#[derive(Clone)]
pub(super) enum Opened {
    File(Handle),
    /// With what is in it, once that was read. The folder itself is open at no client.
    Folder(Option<Rc<Vec<(String, Entry)>>>),
}

/// What programs have open.
#[derive(Default)]
pub(super) struct Table {
    open: HashMap<u64, Opened>,
    next: u64,
    listed: usize,
}

impl Table {
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= MAX_OPEN
    }

    pub(super) fn insert(&mut self, opened: Opened) -> Result<u64, Errno> {
        if self.is_full() {
            return Err(Errno::NFILE);
        }
        self.next += 1;
        self.open.insert(self.next, opened);
        Ok(self.next)
    }

    pub(super) fn get(&self, handle: u64) -> Result<Opened, Errno> {
        self.open.get(&handle).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn file(&self, handle: u64) -> Result<Handle, Errno> {
        match self.open.get(&handle) {
            Some(Opened::File(file)) => Ok(*file),
            _ => Err(Errno::BADF),
        }
    }

    /// Keeps what is in an open folder.
    pub(super) fn listed(&mut self, handle: u64, entries: Rc<Vec<(String, Entry)>>) -> Result<(), Errno> {
        let Some(Opened::Folder(kept)) = self.open.get_mut(&handle) else { return Err(Errno::BADF) };
        self.listed -= kept.take().map_or(0, |kept| kept.len());
        if self.listed + entries.len() > MAX_LISTED {
            return Err(Errno::NOMEM);
        }
        self.listed += entries.len();
        *kept = Some(entries);
        Ok(())
    }

    pub(super) fn remove(&mut self, handle: u64) -> Option<Opened> {
        let opened = self.open.remove(&handle);
        if let Some(Opened::Folder(Some(entries))) = &opened {
            self.listed -= entries.len();
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_folder_takes_along_what_is_in_it_and_nothing_else() {
        let mut nodes = Nodes::new();
        let numbers = ["d", "d/a", "d/a/x", "d/ab", "d/b"].map(|path| nodes.tell(path).unwrap());
        nodes.renamed("d/a", "d/b");
        let paths = numbers.map(|node| nodes.path(node).unwrap().to_string());
        assert_eq!(paths, ["d", "d/b", "d/b/x", "d/ab", "d/b"]);
        assert_eq!(nodes.tell("d/b").unwrap(), numbers[1]);
        // What was replaced is forgotten without harm to what replaced it.
        nodes.forget(numbers[4], 1);
        assert_eq!(nodes.tell("d/b").unwrap(), numbers[1]);
    }

    #[test]
    fn a_number_lasts_as_long_as_the_kernel_remembers_it() {
        let mut nodes = Nodes::new();
        let node = nodes.tell("d").unwrap();
        assert_eq!(nodes.tell("d").unwrap(), node);
        nodes.forget(node, 1);
        assert_eq!(&*nodes.path(node).unwrap(), "d");
        nodes.forget(node, 7);
        assert_eq!(nodes.path(node), Err(Errno::STALE));
        assert_ne!(nodes.tell("d").unwrap(), node);
    }

    #[test]
    fn what_is_remembered_and_open_is_bounded() {
        let mut nodes = Nodes::new();
        for number in 0..MAX_NODES {
            nodes.tell(&number.to_string()).unwrap();
        }
        assert_eq!(nodes.tell("one more"), Err(Errno::NOMEM));
        assert!(nodes.tell("7").is_ok());
        let mut table = Table::default();
        let handles: Vec<u64> = (0..MAX_OPEN).map(|_| table.insert(Opened::Folder(None)).unwrap()).collect();
        assert_eq!(table.insert(Opened::Folder(None)), Err(Errno::NFILE));
        let entry = Entry { name: Vec::new(), attributes: Default::default() };
        let many = Rc::new(vec![(String::new(), entry); MAX_LISTED / 2]);
        for handle in &handles[..2] {
            table.listed(*handle, Rc::clone(&many)).unwrap();
        }
        // Again the same: it takes the place of the former.
        table.listed(handles[0], Rc::clone(&many)).unwrap();
        assert_eq!(table.listed(handles[2], Rc::clone(&many)), Err(Errno::NOMEM));
        table.remove(handles[1]);
        table.listed(handles[2], many).unwrap();
    }
}
