//! The index: what the list says, kept so that a start need not read every manifest again.
//!
//! It is a cache in sled, and is believed only when it was closed in order and nothing touched it since: `index.sum`
//! holds the hash of its files, is written at the end and removed at the beginning. In any other case it is made again
//! from the recordings. (sled may abort the program over damaged files, so that it is never given any.)

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lucid_recording::SessionId;

use crate::{
    error::{At, Error, Result},
    files::{self, Ending, Entry},
};

/// Memory for sled's pages; an entry has some 300 bytes.
const CACHE: u64 = 4 << 20;
/// sled's threads have so long to end; they take milliseconds.
const RELEASE: Duration = Duration::from_secs(5);
/// And it is looked so often whether they have.
const LOOK: Duration = Duration::from_millis(2);

/// The recordings that nobody writes.
pub(crate) struct Index {
    state: PathBuf,
    recordings: PathBuf,
    entries: BTreeMap<SessionId, Entry>,
    /// None where it cannot be used; then the entries are in memory alone.
    db: Option<sled::Db>,
    problem: Option<String>,
}

impl Index {
    /// Opens the index and brings it to what the directories say. What is not ended is not in it.
    ///
    /// # Errors
    /// When the recordings cannot be listed. An index that cannot be had is a problem, and no error.
    pub(crate) fn open(state: &Path, recordings: &Path) -> Result<Self> {
        let mut index = Self {
            state: state.to_owned(),
            recordings: recordings.to_owned(),
            entries: BTreeMap::new(),
            db: None,
            problem: None,
        };
        match index.load() {
            Ok(db) => index.db = Some(db),
            Err(error) => index.trouble(&error),
        }
        index.reconcile(false)?;
        Ok(index)
    }

    fn load(&mut self) -> Result<sled::Db> {
        let (path, sum) = (self.path(), self.sum());
        let good = match (fs::read_to_string(&sum), digest(&path)) {
            (Ok(sum), Ok(digest)) => sum == digest,
            _ => false,
        };
        remove(fs::remove_file(&sum)).at("removing", &sum)?;
        if !good {
            if path.exists() {
                tracing::warn!("the index was not closed in order, or changed since; it is made again");
            }
            remove(fs::remove_dir_all(&path)).at("removing", &path)?;
        }
        // Without an end in order nothing of it is believed, so nothing has to reach the disk before.
        let db = sled::Config::new().path(&path).cache_capacity(CACHE).flush_every_ms(None).open()?;
        for item in db.iter() {
            let (key, value) = item?;
            let session = <[u8; 16]>::try_from(&*key).ok().and_then(|bytes| SessionId::new(bytes).ok());
            match (session, serde_json::from_slice(&value)) {
                (Some(session), Ok(entry)) => {
                    self.entries.insert(session, entry);
                }
                // Of another version of this program: it is read from its files.
                _ => {
                    db.remove(key)?;
                }
            }
        }
        Ok(db)
    }

    fn path(&self) -> PathBuf {
        self.state.join("index")
    }

    fn sum(&self) -> PathBuf {
        self.state.join("index.sum")
    }

    /// Goes on without the index's files.
    fn trouble(&mut self, error: &Error) {
        tracing::error!("{error}; the list is kept in memory, and the index is made again at the next start");
        self.problem = Some(format!("the index cannot be kept: {error}"));
        self.db = None;
    }

    /// Brings the entries to what the directories say; `all` believes none of them.
    fn reconcile(&mut self, all: bool) -> Result<()> {
        let sessions = files::sessions(&self.recordings)?;
        let gone: Vec<_> =
            self.entries.keys().filter(|session| sessions.binary_search(session).is_err()).copied().collect();
        for session in gone {
            self.remove(session);
        }
        for session in sessions {
            let dir = self.recordings.join(session.to_string());
            let known = self.entries.get(&session);
            let stamp = match known.map(|entry| &entry.ending) {
                Some(Ending::Manifest { stamp, .. }) if !all => Some(*stamp),
                _ => None,
            };
            if stamp.is_some() && files::stamp(&dir).is_ok_and(|now| now == stamp) {
                continue;
            }
            match files::look(&dir) {
                Some(entry) => self.insert(session, entry),
                // Not ended: whoever tries to end it says what is wrong with it.
                None if known.is_some_and(|entry| matches!(entry.ending, Ending::Unusable(_))) => {}
                None => self.remove(session),
            }
        }
        Ok(())
    }

    /// Makes everything again from the files, and says how many recordings there are.
    pub(crate) fn rebuild(&mut self) -> Result<usize> {
        self.db = None;
        self.problem = None;
        let (path, sum) = (self.path(), self.sum());
        let cleared = remove(fs::remove_file(&sum))
            .and_then(|()| remove(fs::remove_dir_all(&path)))
            .at("removing", &path);
        let unusable = std::mem::take(&mut self.entries)
            .into_iter()
            .filter(|(_, entry)| matches!(entry.ending, Ending::Unusable(_)));
        let unusable = unusable.collect();
        match cleared.and_then(|()| self.load()) {
            Ok(db) => self.db = Some(db),
            Err(error) => self.trouble(&error),
        }
        self.entries = unusable;
        self.reconcile(true)?;
        Ok(self.entries.len())
    }

    pub(crate) fn insert(&mut self, session: SessionId, entry: Entry) {
        if let (Some(db), Ending::Manifest { .. }) = (&self.db, &entry.ending) {
            let kept = serde_json::to_vec(&entry)
                .map_err(|error| Error::Index(sled::Error::Unsupported(error.to_string())))
                .and_then(|value| Ok(db.insert(session.bytes(), value)?));
            if let Err(error) = kept {
                self.trouble(&error);
            }
        }
        self.entries.insert(session, entry);
    }

    fn remove(&mut self, session: SessionId) {
        self.entries.remove(&session);
        if let Some(db) = &self.db
            && let Err(error) = db.remove(session.bytes())
        {
            self.trouble(&error.into());
        }
    }

    pub(crate) fn entries(&self) -> &BTreeMap<SessionId, Entry> {
        &self.entries
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum()
    }

    /// Closes it in order, so that the next start believes it.
    pub(crate) fn close(&mut self) {
        let Some(db) = self.db.take() else { return };
        let closed = db.flush().map_err(Error::from).and_then(|_| {
            drop(db);
            released(&self.path().join("db"))?;
            let sum = self.sum();
            let digest = digest(&self.path())?;
            fs::write(&sum, digest).at("writing", &sum)
        });
        if let Err(error) = closed {
            self.trouble(&error);
        }
    }
}

/// Waits until sled's threads are done with its file: they may write for a moment after it was dropped, and each holds the file,
/// which sled locks (flock(2): until the last of them has closed it).
fn released(db: &Path) -> Result<()> {
    let file = fs::File::open(db).at("opening", db)?;
    let until = Instant::now() + RELEASE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOOK),
            Err(error) => {
                return Err(std::io::Error::from(error)).at("waiting for sled's threads to close", db);
            }
        }
    }
}

/// What was not there is removed as well.
fn remove(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Hash over names and contents of a directory's files, in hex.
fn digest(dir: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries: Result<Vec<_>, _> = fs::read_dir(&dir).at("reading", &dir)?.collect();
        let mut paths: Vec<_> = entries.at("reading", &dir)?.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path.as_os_str().as_encoded_bytes();
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
            let file = fs::File::open(&path).at("opening", &path)?;
            hasher.update(&file.metadata().at("reading", &path)?.len().to_le_bytes());
            hasher.update_reader(file).at("reading", &path)?;
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
