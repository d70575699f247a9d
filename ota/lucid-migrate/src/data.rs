//! The data, its copy, and what is done at a start.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat, syncfs};

use crate::error::{At as _, Error, Result};
#[cfg(test)]
use tests::moment;

#[cfg(test)]
mod tests;

/// Before each change of the disk. Tests cut the power here.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the tests' one fails")]
fn moment() -> Result<()> {
    Ok(())
}

/// At most so much is copied: settings, accounts and indexes are a few megabytes.
const MAX_BYTES: u64 = 256 << 20;
/// And so many files.
const MAX_FILES: u64 = 20_000;
/// A step may take so long.
const STEP: Duration = Duration::from_secs(300);
/// Between two looks at a step.
const GLANCE: Duration = Duration::from_millis(20);
/// What a step says is told up to this length, in bytes.
const MAX_SAID: u64 = 4096;
/// The form of the first system.
const FIRST: u32 = 1;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Data {
    /// What is kept, as in `/data`.
    pub root: PathBuf,
    /// Directories below it whose entries are copied, as in `var/lib`.
    pub scope: Vec<PathBuf>,
    /// What is left as it is, as in `var/lib/lucid-updated`.
    pub left: Vec<PathBuf>,
    /// The directory of the number and the copies, on the same file system and outside of the scope.
    pub dir: PathBuf,
    /// The programs of the steps: `N` brings form N - 1 to form N. It is called with `root`.
    pub steps: PathBuf,
}

/// What a start did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing: the form is the system's.
    Nothing,
    /// The data was brought to the system's form, from this one.
    Forward(u32),
    /// The data was put back as it was, from this form.
    Back(u32),
    /// The file of the number was damaged, and now says the system's form.
    Mended,
}

impl Data {
    /// Brings the data to the form `own`. `tried` says that the system is only being tried, so that the copy stays.
    ///
    /// # Errors
    /// When it cannot be; then the data is as it was, or the next start goes on.
    pub fn start(&self, own: u32, tried: bool) -> Result<Done> {
        self.remove("copying")?;
        let mut found = match self.number() {
            // Without a copy the data was never changed on the way to another form that is still undecided: the system that
            // was kept has been using it. Were the number not mended, no later system could ever bring it further.
            Err(Error::Invalid { .. })
                if !tried
                    && self.copies("before-")?.is_empty()
                    && self.copies("giving-back-")?.is_empty() =>
            {
                self.write_number(own)?;
                return Ok(Done::Mended);
            }
            found => found?,
        };
        // What a power cut interrupted. A copy that is being given back is of the form that was given back.
        if let Some(form) = self.copies("giving-back-")?.last() {
            self.put_back(*form)?;
            found = *form;
        }
        self.remove("gone")?;
        // A copy of the form that is there: what it was made for did not come to its end.
        if self.path("before", found).is_dir() {
            self.give_back(found)?;
        }
        if found > own {
            if !self.path("before", own).is_dir() {
                return Err(Error::Later { found, own });
            }
            self.give_back(own)?;
            return Ok(Done::Back(found));
        }
        if found == own {
            if !tried {
                self.drop_copies()?;
            }
            return Ok(Done::Nothing);
        }
        for to in found + 1..=own {
            let path = self.steps.join(to.to_string());
            if !path.is_file() {
                return Err(Error::NoWay { path, to });
            }
        }
        self.copy(found)?;
        for to in found + 1..=own {
            if let Err(why) = self.step(to) {
                self.give_back(found)?;
                return Err(Error::Way { to, why });
            }
        }
        self.sync()?;
        self.write_number(own)?;
        Ok(Done::Forward(found))
    }

    /// Removes the copies once the system that reads form `own` is kept. Gives back how many there were; `None`, and nothing is
    /// removed, where the data is of another form.
    ///
    /// # Errors
    /// When the number or a copy cannot be used; then the next start removes what is left.
    pub fn forget(&self, own: u32) -> Result<Option<usize>> {
        if self.number()? != own {
            return Ok(None);
        }
        self.remove("gone")?;
        self.drop_copies().map(Some)
    }

    /// Removes all copies. Each goes as a whole: a part of one must not be given back.
    fn drop_copies(&self) -> Result<usize> {
        let forms = self.copies("before-")?;
        if forms.is_empty() {
            return Ok(0);
        }
        let gone = self.dir.join("gone");
        fs::create_dir_all(&gone).at("making", &gone)?;
        for form in &forms {
            let whole = self.path("before", *form);
            moment()?;
            fs::rename(&whole, gone.join(format!("before-{form}"))).at("moving away", &whole)?;
        }
        sync_dir(&gone)?;
        sync_dir(&self.dir)?;
        self.remove("gone")?;
        Ok(forms.len())
    }

    /// The form that is there.
    ///
    /// # Errors
    /// When the file cannot be read, or is none.
    pub fn number(&self) -> Result<u32> {
        let path = self.dir.join("number");
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(16).read_to_end(&mut bytes).at("reading", &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FIRST),
            Err(error) => return Err(error).at("opening", &path),
        };
        let text = String::from_utf8_lossy(&bytes);
        let number =
            text.strip_suffix('\n').and_then(|digits| digits.parse().ok()).filter(|form| *form >= FIRST);
        number.ok_or_else(|| Error::Invalid { path, why: format!("{text:?} is no number of a form") })
    }

    fn write_number(&self, form: u32) -> Result<()> {
        let (path, new) = (self.dir.join("number"), self.dir.join("number.new"));
        let mut file = File::create(&new).at("making", &new)?;
        file.write_all(format!("{form}\n").as_bytes()).and_then(|()| file.sync_all()).at("writing", &new)?;
        moment()?;
        fs::rename(&new, &path).at("replacing", &path)?;
        sync_dir(&self.dir)
    }

    /// What is copied, as paths below the root: whole entries of the scope, unless something in them is left.
    fn entries(&self, below: &Path) -> Result<Vec<PathBuf>> {
        let mut entries = Vec::new();
        let mut todo = self.scope.clone();
        while let Some(dir) = todo.pop() {
            let path = below.join(&dir);
            let listed = match fs::read_dir(&path) {
                Ok(listed) => listed,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).at("listing", &path),
            };
            for entry in listed {
                let entry = dir.join(entry.at("listing", &path)?.file_name());
                if self.left.contains(&entry) {
                    continue;
                }
                if self.left.iter().any(|left| left.starts_with(&entry)) {
                    todo.push(entry);
                } else {
                    entries.push(entry);
                }
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// Copies all of it. The copy is there as a whole or not at all.
    fn copy(&self, form: u32) -> Result<()> {
        let Err(why) = self.try_copy(form) else { return Ok(()) };
        // A disk that the copy filled must not stay full.
        match self.remove("copying") {
            Ok(()) => Err(why),
            Err(left) => Err(Error::Left { why: why.into(), left: left.into() }),
        }
    }

    fn try_copy(&self, form: u32) -> Result<()> {
        fs::create_dir_all(&self.dir).at("making", &self.dir)?;
        // What is copied may be anybody's.
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700)).at("closing", &self.dir)?;
        let copying = self.dir.join("copying");
        moment()?;
        fs::create_dir(&copying).at("making", &copying)?;
        let mut budget = Budget { bytes: MAX_BYTES, files: MAX_FILES };
        for entry in self.entries(&self.root)? {
            let into = copying.join(&entry);
            if let Some(dir) = into.parent() {
                fs::create_dir_all(dir).at("making", dir)?;
            }
            budget.copy(&self.root.join(&entry), &into)?;
        }
        self.sync()?;
        let whole = self.path("before", form);
        moment()?;
        fs::rename(&copying, &whole).at("keeping", &whole)?;
        sync_dir(&self.dir)
    }

    /// Puts the copy of a form back into its place. When this fails the next start goes on with it.
    fn give_back(&self, form: u32) -> Result<()> {
        let (whole, giving) = (self.path("before", form), self.path("giving-back", form));
        // What a later system made goes first: once parts of the copy are back, it could not be told from them.
        let copied = self.entries(&whole)?;
        for entry in self.entries(&self.root)? {
            if !copied.contains(&entry) {
                self.throw(&entry)?;
            }
        }
        self.sync()?;
        moment()?;
        fs::rename(&whole, &giving).at("giving back", &whole)?;
        sync_dir(&self.dir)?;
        self.put_back(form)
    }

    /// Moves what is left of the copy into its place.
    fn put_back(&self, form: u32) -> Result<()> {
        let giving = self.path("giving-back", form);
        for entry in self.entries(&giving)? {
            self.throw(&entry)?;
            let (from, to) = (giving.join(&entry), self.root.join(&entry));
            if let Some(dir) = to.parent() {
                fs::create_dir_all(dir).at("making", dir)?;
            }
            moment()?;
            fs::rename(&from, &to).at("putting back", &to)?;
        }
        self.sync()?;
        self.write_number(form)?;
        moment()?;
        fs::remove_dir_all(&giving).at("removing", &giving)?;
        self.remove("gone")
    }

    /// Moves an entry out of its place, if it is there.
    fn throw(&self, entry: &Path) -> Result<()> {
        let (path, gone) = (self.root.join(entry), self.dir.join("gone"));
        if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        fs::create_dir_all(&gone).at("making", &gone)?;
        let number = fs::read_dir(&gone).at("listing", &gone)?.count();
        moment()?;
        fs::rename(&path, gone.join(number.to_string())).at("moving away", &path)
    }

    /// Runs one step.
    fn step(&self, to: u32) -> Result<(), String> {
        let program = self.steps.join(to.to_string());
        let words = |error: io::Error| format!("{}: {error}", program.display());
        let said = self.dir.join("said");
        let output = File::create(&said).map_err(words)?;
        let errors = output.try_clone().map_err(words)?;
        let mut command = Command::new(&program);
        command.arg(&self.root).env_clear().stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut child = command.spawn().map_err(words)?;
        let end = Instant::now() + STEP;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(words)? {
                break status;
            }
            if Instant::now() > end {
                child.kill().and_then(|()| child.wait()).map_err(words)?;
                return Err(format!("it took longer than {} s", STEP.as_secs()));
            }
            thread::sleep(GLANCE);
        };
        if status.success() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        File::open(&said).and_then(|file| file.take(MAX_SAID).read_to_end(&mut bytes)).map_err(words)?;
        Err(format!("{status}: {}", String::from_utf8_lossy(&bytes).trim()))
    }

    fn path(&self, what: &str, form: u32) -> PathBuf {
        self.dir.join(format!("{what}-{form}"))
    }

    /// The forms of the copies with this beginning of their names, in order.
    fn copies(&self, beginning: &str) -> Result<Vec<u32>> {
        let mut forms = Vec::new();
        let listed = match fs::read_dir(&self.dir) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(forms),
            Err(error) => return Err(error).at("listing", &self.dir),
        };
        for entry in listed {
            let name = entry.at("listing", &self.dir)?.file_name();
            let form = name.to_str().and_then(|name| name.strip_prefix(beginning)?.parse::<u32>().ok());
            forms.extend(form);
        }
        forms.sort_unstable();
        Ok(forms)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        if path.exists() {
            moment()?;
        }
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("removing", &path),
            _ => Ok(()),
        }
    }

    /// Brings all of the file system to its medium.
    fn sync(&self) -> Result<()> {
        let dir = File::open(&self.dir).at("opening", &self.dir)?;
        syncfs(dir).map_err(io::Error::from).at("syncing", &self.dir)
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).at("syncing", path)
}

/// What may still be copied.
struct Budget {
    bytes: u64,
    files: u64,
}

impl Budget {
    /// Copies a file, a directory with all in it, or a link as such; owners and modes too.
    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let data = from.symlink_metadata().at("looking at", from)?;
        let much = || Error::TooMuch(format!("{MAX_FILES} files or {} MB", MAX_BYTES >> 20));
        self.files = self.files.checked_sub(1).ok_or_else(much)?;
        let kind = data.file_type();
        if kind.is_dir() {
            moment()?;
            fs::create_dir(to).at("making", to)?;
            for entry in fs::read_dir(from).at("listing", from)? {
                let name = entry.at("listing", from)?.file_name();
                self.copy(&from.join(&name), &to.join(&name))?;
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(from).at("reading", from)?;
            std::os::unix::fs::symlink(target, to).at("making", to)?;
        } else if kind.is_file() {
            self.bytes = self.bytes.checked_sub(data.len()).ok_or_else(much)?;
            moment()?;
            fs::copy(from, to).at("copying", from)?;
        } else {
            // Sockets and pipes are made by whoever listens on them.
            return Ok(());
        }
        let (owner, group) = (Uid::from_raw(data.uid()), Gid::from_raw(data.gid()));
        let owned = chownat(CWD, to, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW);
        owned.map_err(io::Error::from).at("giving to its owner", to)?;
        if kind.is_symlink() { Ok(()) } else { fs::set_permissions(to, data.permissions()).at("closing", to) }
    }
}
