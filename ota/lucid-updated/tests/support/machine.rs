//! A machine whose power can be cut at any write. What was not brought to the medium is lost sector by sector, at random.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use lucid_release_format::Kind;
use lucid_updated::{
    Error, Result, autoboot,
    before::Before,
    boot::{BootControl, Booted, Slot},
    disk::Disk,
    files::Store,
    gate::Check,
    journal::{Journal, Missing, Start},
    service::Slots,
};

const SECTOR: usize = 512;

/// Random numbers that are the same in each run (xorshift).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count / 8 + 1).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

/// The machine's power.
#[derive(Debug)]
pub struct Power {
    /// So many more writes.
    pub left: u64,
    pub off: bool,
    pub writes: u64,
    random: Random,
}

impl Power {
    pub fn new(left: u64, seed: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { left, off: false, writes: 0, random: Random(seed * 2 + 1) }))
    }
}

fn gone() -> io::Error {
    io::Error::other("the power was cut")
}

/// A write; an error when the power goes with it.
fn tick(power: &Mutex<Power>) -> io::Result<()> {
    let mut power = power.lock().unwrap();
    power.writes += 1;
    if power.left == 0 || power.off {
        power.off = true;
        return Err(gone());
    }
    power.left -= 1;
    Ok(())
}

fn coin(power: &Mutex<Power>) -> bool {
    power.lock().unwrap().random.next() & 16 == 0
}

#[derive(Default)]
struct Medium {
    kept: Vec<u8>,
    cache: Vec<u8>,
    loose: BTreeSet<usize>,
}

/// A partition.
#[derive(Clone)]
pub struct SimDisk {
    power: Arc<Mutex<Power>>,
    medium: Arc<Mutex<Medium>>,
}

impl SimDisk {
    pub fn new(power: &Arc<Mutex<Power>>, bytes: Vec<u8>) -> Self {
        let medium = Medium { kept: bytes.clone(), cache: bytes, loose: BTreeSet::new() };
        Self { power: power.clone(), medium: Arc::new(Mutex::new(medium)) }
    }

    /// What is there after the power was cut.
    pub fn cut(&self) {
        let mut medium = self.medium.lock().unwrap();
        let Medium { kept, cache, loose } = &mut *medium;
        for sector in std::mem::take(loose) {
            let at = sector * SECTOR..((sector + 1) * SECTOR).min(kept.len());
            if coin(&self.power) {
                kept[at.clone()].copy_from_slice(&cache[at]);
            }
        }
        cache.clone_from(kept);
    }

    /// What is there after the system was ended in order.
    pub fn settle(&self) {
        let mut medium = self.medium.lock().unwrap();
        let Medium { kept, cache, loose } = &mut *medium;
        kept.clone_from(cache);
        loose.clear();
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.medium.lock().unwrap().cache.clone()
    }
}

impl Disk for SimDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(self.medium.lock().unwrap().cache.len() as u64)
    }

    fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let medium = self.medium.lock().unwrap();
        let at = at as usize;
        let found = medium.cache.get(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if self.power.lock().unwrap().off {
            return Err(gone());
        }
        // The write with which the power goes may be on the medium in part.
        let cut = tick(&self.power);
        let mut medium = self.medium.lock().unwrap();
        let at = at as usize;
        let Some(place) = medium.cache.get_mut(at..at + bytes.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        place.copy_from_slice(bytes);
        medium.loose.extend(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR));
        cut
    }

    fn sync(&self) -> io::Result<()> {
        tick(&self.power)?;
        self.settle();
        Ok(())
    }
}

/// Files that are replaced as a whole.
#[derive(Clone)]
pub struct SimStore {
    power: Arc<Mutex<Power>>,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// Whether it takes nothing, as a partition that the kernel has made read-only.
    full: Arc<AtomicBool>,
    /// Whether it gives nothing, as one that was not mounted.
    gone: Arc<AtomicBool>,
}

impl SimStore {
    pub fn new(power: &Arc<Mutex<Power>>) -> Self {
        Self { power: power.clone(), files: Arc::default(), full: Arc::default(), gone: Arc::default() }
    }

    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    pub fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::Relaxed);
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert(name.to_owned(), bytes);
    }

    pub fn remove(&self, name: &str) -> Vec<u8> {
        self.files.lock().unwrap().remove(name).unwrap()
    }

    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.files.lock().unwrap().get(name).cloned()
    }
}

impl Store for SimStore {
    fn read(&self, name: &str, _: u64) -> Result<Option<Vec<u8>>> {
        if self.gone.load(Ordering::Relaxed) {
            let source = io::Error::other("the disk does not answer");
            return Err(Error::File { doing: "reading", path: name.into(), source });
        }
        Ok(self.get(name))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let failed = |source| Error::File { doing: "writing", path: name.into(), source };
        if self.full.load(Ordering::Relaxed) || self.gone.load(Ordering::Relaxed) {
            return Err(failed(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        // The new file is written, and brought to the medium: the old one is there.
        tick(&self.power).map_err(failed)?;
        tick(&self.power).map_err(failed)?;
        // It is renamed, and the directory is brought to the medium: before that either is there.
        let renamed = tick(&self.power).and_then(|()| tick(&self.power));
        if renamed.is_ok() || coin(&self.power) {
            self.files.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
        }
        renamed.map_err(failed)
    }
}

/// The whole machine: partitions, files, firmware.
#[derive(Clone)]
pub struct SimMachine {
    pub power: Arc<Mutex<Power>>,
    pub select: SimDisk,
    pub slots: BTreeMap<String, SimDisk>,
    pub store: SimStore,
    /// Whether a try is armed, and whether that outlasts a power cut (as the stand-in's file does).
    armed: Arc<AtomicBool>,
    lasting: bool,
    /// Whether what is kept is on the data partition, from the next start on.
    pub kept: bool,
    /// A slot that the firmware goes past.
    pub dead: Option<Slot>,
    booted: Booted,
    boots: u64,
    /// How often it was asked to restart,
    restarts: Arc<AtomicU64>,
    /// how often it does not hear that, and how often a try cannot be armed.
    pub deaf: Arc<AtomicU64>,
    pub unarmed: Arc<AtomicU64>,
    /// Whether its firmware is too old.
    pub outdated: bool,
}

/// No two machines of a test have a boot in common, as their ids are random.
static BOOTS: AtomicU64 = AtomicU64::new(0);

/// One less; whether there was one.
fn spend(count: &AtomicU64) -> bool {
    let left = count.load(Ordering::Relaxed);
    count.store(left.saturating_sub(1), Ordering::Relaxed);
    left > 0
}

impl SimMachine {
    pub fn new(power: Arc<Mutex<Power>>, slots: [(Slot, Kind, Vec<u8>); 4], lasting: bool) -> Self {
        let select = SimDisk::new(&power, fat(&autoboot::text(Slot::A)));
        let slots = slots.map(|(slot, kind, bytes)| (slot.partition(kind), SimDisk::new(&power, bytes)));
        let store = SimStore::new(&power);
        let booted = Booted { slot: Slot::A, tried: false, kept: true };
        let (kept, dead) = (true, None);
        let slots = slots.into_iter().collect();
        let (armed, restarts, deaf, unarmed) = Default::default();
        Self {
            power,
            select,
            slots,
            store,
            armed,
            lasting,
            kept,
            dead,
            booted,
            boots: BOOTS.fetch_add(1 << 32, Ordering::Relaxed),
            restarts,
            deaf,
            unarmed,
            outdated: false,
        }
    }

    fn disks(&self) -> impl Iterator<Item = &SimDisk> {
        self.slots.values().chain([&self.select])
    }

    /// Starts it again: after a power cut, or after it was ended in order.
    pub fn start(&mut self) {
        let cut = std::mem::take(&mut self.power.lock().unwrap().off);
        let armed = self.armed.swap(false, Ordering::Relaxed);
        if cut {
            self.disks().for_each(SimDisk::cut);
            // It is cut once.
            self.power.lock().unwrap().left = u64::MAX;
        } else {
            self.disks().for_each(SimDisk::settle);
        }
        let tried = armed && (!cut || self.lasting);
        // Without the file the firmware takes the first partition that looks as if it could be booted.
        let slot = autoboot::read(&self.select).unwrap_or(Slot::A);
        // What is tried and does not start ends with a restart, which is no try.
        let tried = tried && self.dead != Some(slot.other());
        let first = if tried || self.dead == Some(slot) { slot.other() } else { slot };
        self.booted = Booted { slot: first, tried, kept: self.kept };
        self.boots += 1;
    }

    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub fn running(&self) -> Booted {
        self.booted
    }

    pub fn slot(&self, slot: Slot) -> [Vec<u8>; 2] {
        [Kind::Boot, Kind::Root].map(|kind| self.slots[&slot.partition(kind)].bytes())
    }
}

impl BootControl for SimMachine {
    fn booted(&self) -> Result<Booted> {
        Ok(self.booted)
    }

    fn boot_id(&self) -> Result<String> {
        Ok(format!("boot {}", self.boots))
    }

    fn new_enough(&self) -> Result<()> {
        if self.outdated {
            let (why, since) = ("it was built on 2025-01-01".to_owned(), "2025-08-27".to_owned());
            return Err(Error::Eeprom { why, since });
        }
        Ok(())
    }

    fn default(&self) -> Result<Slot> {
        autoboot::read(&self.select)
    }

    fn set_default(&self, slot: Slot) -> Result<()> {
        autoboot::write(&self.select, slot)
    }

    fn arm(&self, slot: Slot) -> Result<()> {
        if spend(&self.unarmed) {
            return Err(Error::Arm { slot: slot.name(), why: "its disk is not there".to_owned() });
        }
        let cut = tick(&self.power);
        if cut.is_ok() || coin(&self.power) {
            self.armed.store(true, Ordering::Relaxed);
        }
        cut.map_err(|source| Error::Partition { doing: "writing", name: "firmware".to_owned(), source })
    }

    fn restart(&self) -> Result<()> {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        if spend(&self.deaf) {
            return Err(Error::Restart(io::ErrorKind::PermissionDenied.into()));
        }
        tick(&self.power).map_err(Error::Restart)
    }
}

impl Slots for SimMachine {
    fn open(&self, slot: Slot, kind: Kind, _: bool) -> Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.slots[&slot.partition(kind)].clone()))
    }
}

/// A journal that has a line of each start, which names the one in which the try was armed.
pub struct Lines;

#[async_trait]
impl Journal for Lines {
    async fn after(&self, armed: &str, running: &str) -> std::result::Result<Start, Missing> {
        assert_ne!(armed, running, "a start is read after it");
        let lines = vec![format!("[    1.000000] a try after {armed}")];
        Ok(Start { boot: "aa".to_owned(), lines, found: true, ..Start::default() })
    }
}

/// A journal that has nothing of the start after the one in which the try was armed.
pub struct NoLines;

#[async_trait]
impl Journal for NoLines {
    async fn after(&self, armed: &str, _: &str) -> std::result::Result<Start, Missing> {
        Err(Missing::None(format!("nothing after {armed}")))
    }
}

/// A journal that takes too long to be read.
pub struct SlowLines;

#[async_trait]
impl Journal for SlowLines {
    async fn after(&self, _: &str, _: &str) -> std::result::Result<Start, Missing> {
        Err(Missing::Slow("it took too long".to_owned()))
    }
}

/// A check whose answer is known.
#[derive(Clone, Debug)]
pub struct Known(pub std::result::Result<(), String>);

#[async_trait]
impl Check for Known {
    fn name(&self) -> &'static str {
        "what is known"
    }

    async fn check(&self, _: &Before) -> std::result::Result<(), String> {
        self.0.clone()
    }
}

/// A FAT of 1 MiB with other files before and after `autoboot.txt`, and a directory.
pub fn fat(text: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut disk = io::Cursor::new(vec![0; 1 << 20]);
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new()).unwrap();
    {
        let fs = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).unwrap();
        {
            let root = fs.root_dir();
            root.create_dir("a directory with a long name").unwrap();
            for (name, bytes) in [
                ("A name that is longer than eleven letters.txt", &[b'x'; 5000][..]),
                ("autoboot.txt", text),
                ("lucid.toml", &b"name = \"study\"\n"[..]),
            ] {
                let mut file = root.create_file(name).unwrap();
                file.write_all(bytes).unwrap();
                file.flush().unwrap();
            }
        }
        fs.unmount().unwrap();
    }
    disk.into_inner()
}
