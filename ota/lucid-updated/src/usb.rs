//! USB sticks with releases: a folder [`FOLDER`] at the top that `lucid-release publish` wrote.
//!
//! Sticks are found where the kernel shows its disks, and nowhere else: those whose names begin with `sd`, on the USB bus.
//! Nothing is mounted, and nothing is written: the file system is read here ([`crate::volume`]). A stick is a source as a web server is
//! one, and believed as little.
//!
//! A stick that does not answer holds up a thread in the kernel, for minutes. So there are never more than [`THREADS`] of them at
//! work for all sticks, and whoever waits longer than [`Limits`] allows goes on without.

use std::{
    cmp::Reverse,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    disk::{Device, Disk},
    source::{Failed, Folder, Limits, Source, Stretch, checked},
    volume::{File, Unreadable, Volume},
};

/// The folder of a stick.
pub const FOLDER: &str = "lucid";
/// So many file systems on sticks are looked at, those of the stick that came last first,
pub const MAX_STICKS: usize = 4;
/// and so many of one stick.
pub const MAX_EACH: usize = 2;
/// So many of those that are not looked at are named.
const MAX_NAMED: usize = 8;
/// So many threads wait for sticks.
const THREADS: usize = 2;
/// So many entries of the kernel's list of disks are looked at.
const MAX_DISKS: usize = 1024;
/// So many bytes are read at a time.
const PIECE: u64 = 256 << 10;

/// Where sticks are plugged in.
#[derive(Clone, Debug)]
pub struct Usb {
    /// Where the kernel shows disks and partitions (`/sys/class/block`),
    sys: PathBuf,
    /// and their device files are (`/dev`),
    dev: PathBuf,
    /// and its driver of sticks (`/sys/bus/usb/drivers/usb-storage`).
    driver: PathBuf,
    limits: Limits,
    threads: Arc<Semaphore>,
}

/// A file system that is plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugged {
    /// The kernel's name of it, as in `sda1`.
    device: String,
    /// The kernel's number of its disk, which no other disk has before the next start.
    disk: u64,
}

impl Plugged {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("the USB stick {}", self.device)
    }
}

/// The number in a file of the kernel's.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether a disk, by its real place among the kernel's devices, is on the USB bus.
pub(crate) fn is_usb(disk: &Path) -> bool {
    let mut above = disk.ancestors().skip(1);
    above.any(|device| fs::read_link(device.join("subsystem")).is_ok_and(|to| to.ends_with("bus/usb")))
}

impl Usb {
    /// The ports of a machine whose kernel shows disks below `sys` (`/sys/class/block`), with their files in `dev` (`/dev`), and
    /// its driver of sticks as `driver` (`/sys/bus/usb/drivers/usb-storage`).
    #[must_use]
    pub fn new(sys: PathBuf, dev: PathBuf, driver: PathBuf, limits: Limits) -> Self {
        Self { sys, dev, driver, limits, threads: Arc::new(Semaphore::new(THREADS)) }
    }

    /// In words, what is wrong where the kernel has no driver of sticks: it shows none then, whatever is plugged in.
    #[must_use]
    pub fn no_driver(&self) -> Option<String> {
        let why = || {
            let driver = self.driver.display();
            format!(
                "no USB stick is seen: the kernel has no driver for one ({driver} is not there); look at the journal of \
                 lucid-usb.service, and restart"
            )
        };
        (!self.driver.exists()).then(why)
    }

    /// What is plugged in and looked at: partitions of sticks, and sticks without any; the stick that came last is the first.
    ///
    /// # Errors
    /// When the kernel does not say it.
    pub fn there(&self) -> io::Result<Vec<Plugged>> {
        Ok(self.found()?.0)
    }

    /// The same, and in words what else is plugged in and is not looked at.
    ///
    /// # Errors
    /// When the kernel does not say it.
    pub fn found(&self) -> io::Result<(Vec<Plugged>, Option<String>)> {
        let (mut found, mut over) = (Vec::<Plugged>::new(), Vec::<Plugged>::new());
        for disk in fs::read_dir(&self.sys)?.take(MAX_DISKS) {
            let disk = disk?;
            let name = disk.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with("sd")) else { continue };
            // What was pulled out since is not there, and a reader without a card has no bytes.
            let Ok(real) = fs::canonicalize(disk.path()) else { continue };
            if real.join("partition").exists()
                || number(&real.join("size")).unwrap_or(0) == 0
                || !is_usb(&real)
            {
                continue;
            }
            // A kernel without such numbers shows in between that the old disk is gone.
            let disk = number(&real.join("diskseq")).unwrap_or(0);
            let Ok(parts) = fs::read_dir(&real) else { continue };
            let parts = parts.take(MAX_DISKS).filter_map(Result::ok);
            let parts = parts.filter(|part| part.path().join("partition").exists());
            let mut parts: Vec<String> =
                parts.filter_map(|part| part.file_name().into_string().ok()).collect();
            if parts.is_empty() {
                parts.push(name.to_owned());
            }
            // The kernel shows a disk before it has its file.
            parts.retain(|device| self.dev.join(device).exists());
            // `sda10` comes after `sda2`.
            parts.sort_unstable_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
            let mut parts = parts.into_iter().map(|device| Plugged { device, disk });
            found.extend(parts.by_ref().take(MAX_EACH));
            over.extend(parts);
        }
        let order = |stick: &Plugged| (Reverse(stick.disk), stick.device.len(), stick.device.clone());
        found.sort_by_cached_key(order);
        over.extend(found.split_off(found.len().min(MAX_STICKS)));
        over.sort_by_cached_key(order);
        let words = (!over.is_empty()).then(|| {
            let names: Vec<&str> = over.iter().take(MAX_NAMED).map(|stick| stick.device.as_str()).collect();
            let more = over.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(
                "not looked at: {}{more}; {MAX_EACH} file systems of a USB stick are, and {MAX_STICKS} in all",
                names.join(", ")
            )
        });
        Ok((found, words))
    }

    /// The source on it; none when it has no folder of releases.
    ///
    /// # Errors
    /// In words, when it cannot be read.
    pub async fn source(&self, plugged: &Plugged) -> Result<Option<Arc<dyn Source>>, String> {
        let path = self.dev.join(&plugged.device);
        let opened = within(&self.threads, self.limits.whole, move || {
            let disk: Arc<dyn Disk> = Arc::new(Device::read(&path).map_err(io::Error::other)?);
            let volume = Volume::open(disk)?;
            Ok(volume.has_directory(&[FOLDER, Folder::Metadata.name()])?.then_some(volume))
        });
        let volume = opened.await.map_err(|why| why.to_string())?;
        Ok(volume.map(|volume| {
            tracing::info!("{} holds {} with releases", plugged.name(), volume.kind());
            let volume = Arc::new(volume);
            let (limits, threads) = (self.limits, self.threads.clone());
            Arc::new(Stick { name: plugged.name(), volume, limits, threads, last: Mutex::default() })
                as Arc<dyn Source>
        }))
    }
}

/// What became of work on a stick.
#[derive(Debug, thiserror::Error)]
enum Work {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("it does not answer: pull it out and plug it in again, or take another one")]
    Slow,
    #[error("internal: {0}")]
    Died(#[from] tokio::task::JoinError),
}

/// Does work on a stick within a time.
async fn within<T: Send + 'static>(
    threads: &Arc<Semaphore>,
    most: Duration,
    work: impl FnOnce() -> Result<T, Unreadable> + Send + 'static,
) -> Result<T, Work> {
    let end = Instant::now() + most;
    // It is never closed.
    let Ok(Ok(permit)) = timeout_at(end, threads.clone().acquire_owned()).await else {
        return Err(Work::Slow);
    };
    let work = tokio::task::spawn_blocking(move || {
        // For as long as the thread is at work, whether somebody waits for it or not.
        let _permit = permit;
        work()
    });
    match timeout_at(end, work).await {
        Ok(done) => Ok(done??),
        Err(_) => Err(Work::Slow),
    }
}

/// A stick with a folder of releases.
pub struct Stick {
    name: String,
    volume: Arc<Volume>,
    limits: Limits,
    threads: Arc<Semaphore>,
    /// The target that was asked for last, and where it lies: it is asked for in many ranges.
    last: Mutex<Option<(String, Arc<File>)>>,
}

impl fmt::Debug for Stick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stick").field(&self.name).finish()
    }
}

fn failed(name: &str, work: Work) -> Failed {
    let name = name.to_owned();
    match work {
        Work::Slow => Failed::Slow { name, what: "no byte comes from the USB stick" },
        work => Failed::Broken { name, doing: "reading the USB stick", why: work.to_string() },
    }
}

fn missing(name: &str) -> Failed {
    Failed::Missing { name: name.to_owned() }
}

impl Stick {
    /// Where a target lies.
    async fn target(&self, name: &str) -> Result<Arc<File>, Failed> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((of, file)) = last
            && of == name
        {
            return Ok(file);
        }
        let (volume, owned) = (self.volume.clone(), name.to_owned());
        let found = within(&self.threads, self.limits.whole, move || {
            volume.file(&[FOLDER, Folder::Targets.name(), &owned])
        });
        let found = found.await.map_err(|why| failed(name, why))?;
        let file = Arc::new(found.ok_or_else(|| missing(name))?);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.to_owned(), file.clone()));
        Ok(file)
    }
}

#[async_trait]
impl Source for Stick {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn costs(&self) -> bool {
        false
    }

    async fn whole(&self, folder: Folder, name: &str, cap: u64) -> Result<Bytes, Failed> {
        checked(name)?;
        let (volume, owned) = (self.volume.clone(), name.to_owned());
        let read = within(&self.threads, self.limits.whole, move || {
            let Some(file) = volume.file(&[FOLDER, folder.name(), &owned])? else {
                return Ok(Err(missing(&owned)));
            };
            if file.length() > cap {
                return Ok(Err(Failed::Endless { name: owned, cap }));
            }
            let mut bytes = vec![0; usize::try_from(file.length()).map_err(io::Error::other)?];
            volume.read(&file, 0, &mut bytes)?;
            Ok(Ok(Bytes::from(bytes)))
        });
        read.await.map_err(|why| failed(name, why))?
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        checked(name)?;
        let file = self.target(name).await?;
        if to > file.length() {
            let had = file.length().saturating_sub(from);
            return Err(Failed::Short { name: name.to_owned(), had, wanted: to.saturating_sub(from) });
        }
        let (give, stretch) = Stretch::new(name.to_owned());
        let (volume, threads, name, most) =
            (self.volume.clone(), self.threads.clone(), name.to_owned(), self.limits.stall);
        tokio::spawn(async move {
            let mut at = from;
            while at < to {
                let count = (to - at).min(PIECE);
                let (volume, file) = (volume.clone(), file.clone());
                let piece = within(&threads, most, move || {
                    let mut bytes = vec![0; usize::try_from(count).map_err(io::Error::other)?];
                    volume.read(&file, at, &mut bytes)?;
                    Ok(Bytes::from(bytes))
                });
                let piece = piece.await.map_err(|why| failed(&name, why));
                let ends = piece.is_err();
                // Whoever does not want it any more has gone.
                if give.send(piece).await.is_err() || ends {
                    return;
                }
                at += count;
            }
        });
        Ok(stretch)
    }
}
