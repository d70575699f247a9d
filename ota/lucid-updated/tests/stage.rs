//! Writing a release into a slot: what is there stays, what is elsewhere is copied, the rest is fetched once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{collections::HashSet, sync::Arc};

use lucid_release_format::{Index, Kind, build};
use lucid_updated::{
    Error,
    disk::Disk,
    have::Have,
    source::Failed,
    stage::{self, Progress, Target},
};
use support::{
    machine::{Power, Random, SimDisk},
    repository::Site,
};

const ARCHIVE: &str = "a.chunks";
const PARTITION: usize = 2 << 20;

/// A release of random bytes, and a source that has it.
struct World {
    boot: Vec<u8>,
    root: Vec<u8>,
    index: Index,
    site: Site,
}

impl World {
    fn new() -> Self {
        let mut random = Random(3);
        let boot = random.bytes(300 << 10);
        let mut root = random.bytes(900 << 10);
        // The same bytes again, within a part and in another one.
        root.extend_from_slice(&boot);
        root.extend_from_within(..200 << 10);
        Self::of(boot, root)
    }

    fn of(boot: Vec<u8>, root: Vec<u8>) -> Self {
        let mut archive = Vec::new();
        let index =
            build::release([(Kind::Boot, &boot[..]), (Kind::Root, &root[..])], &mut archive, 1).unwrap();
        let site = Site::default();
        site.put(&format!("targets/{ARCHIVE}"), archive);
        Self { boot, root, index, site }
    }

    async fn write(&self, slot: &Slot, have: &mut Have) -> Result<Progress, Error> {
        stage::write(&self.index, ARCHIVE, &slot.targets(), have, &self.site, &mut |_| {}).await
    }

    fn is_in(&self, slot: &Slot) -> bool {
        // The part, and zeros behind it.
        let is = |held: Vec<u8>, part: &[u8]| {
            held.starts_with(part) && held[part.len()..].iter().all(|byte| *byte == 0)
        };
        is(slot.boot.bytes(), &self.boot) && is(slot.root.bytes(), &self.root)
    }

    /// The bytes of the archive that were asked for, each once or this fails.
    fn fetched(&self) -> u64 {
        let mut seen = HashSet::new();
        for range in self.site.log() {
            let (from, to) = range.split_once("..").unwrap();
            for at in from.parse().unwrap()..to.parse::<u64>().unwrap() {
                assert!(seen.insert(at), "byte {at} was fetched twice");
            }
        }
        seen.len() as u64
    }
}

#[derive(Clone)]
struct Slot {
    boot: SimDisk,
    root: SimDisk,
}

impl Slot {
    fn of(boot: &[u8], root: &[u8]) -> Self {
        let power = Power::new(u64::MAX, 1);
        let disk = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.resize(PARTITION, 0);
            SimDisk::new(&power, bytes)
        };
        Self { boot: disk(boot), root: disk(root) }
    }

    fn targets(&self) -> [Target; 2] {
        let target = |kind: Kind, disk: &SimDisk| Target {
            kind,
            name: format!("{kind}-b"),
            disk: Arc::new(disk.clone()),
        };
        [target(Kind::Boot, &self.boot), target(Kind::Root, &self.root)]
    }
}

#[tokio::test]
async fn an_empty_slot_gets_everything_and_each_chunk_is_fetched_once() {
    let (world, slot) = (World::new(), Slot::of(&[], &[]));
    let progress = world.write(&slot, &mut Have::new()).await.unwrap();
    assert!(world.is_in(&slot));
    assert_eq!(world.fetched(), world.index.archive_bytes());
    assert_eq!((progress.done, progress.kept), (progress.total, 0));
    assert_eq!(progress.fetched, world.index.archive_bytes());
    assert!(progress.copied > 250 << 10, "{progress:?}");
    // Again: nothing is to be done.
    let progress = world.write(&slot, &mut Have::new()).await.unwrap();
    assert_eq!((progress.kept, progress.fetched), (progress.total, 0));
    assert_eq!(world.site.log(), Vec::<String>::new());
}

#[tokio::test]
async fn what_the_running_slot_has_is_copied_although_it_has_moved() {
    let world = World::new();
    let mut moved = Random(9).bytes(10_000);
    moved.extend_from_slice(&world.root);
    let mut have = Have::new();
    let running: Arc<dyn Disk> = Arc::new(Slot::of(&[], &moved).root);
    have.cut("root-a", running).unwrap();
    let slot = Slot::of(&[], &[]);
    let progress = world.write(&slot, &mut have).await.unwrap();
    assert!(world.is_in(&slot));
    assert!(progress.fetched < 400 << 10, "{progress:?}");
}

#[tokio::test]
async fn what_was_interrupted_goes_on_and_fetches_nothing_twice() {
    let (world, slot) = (World::new(), Slot::of(&[], &[]));
    let path = format!("targets/{ARCHIVE}");
    let good = world.site.get(&path);
    // The source gives the beginning, and other bytes after it.
    let mut broken = good.clone();
    let middle = broken.len() / 2;
    broken[middle..].fill(0x55);
    world.site.put(&path, broken);
    let error = world.write(&slot, &mut Have::new()).await.unwrap_err();
    assert!(matches!(error, Error::Chunk { .. }), "{error}");
    world.site.log();
    world.site.put(&path, good);
    let progress = world.write(&slot, &mut Have::new()).await.unwrap();
    assert!(world.is_in(&slot));
    assert!(world.fetched() < world.index.archive_bytes() * 7 / 10);
    assert!(progress.kept > 200 << 10, "{progress:?}");
}

#[tokio::test]
async fn a_damaged_chunk_is_never_written() {
    let world = World::new();
    let path = format!("targets/{ARCHIVE}");
    let good = world.site.get(&path);
    for at in [0, good.len() / 3, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        world.site.put(&path, damaged);
        let slot = Slot::of(&[], &[]);
        let error = world.write(&slot, &mut Have::new()).await.unwrap_err();
        assert!(matches!(error, Error::Chunk { .. }), "{error}");
        // Whatever is there is the release's or was there before.
        for (wanted, disk) in [(&world.boot, &slot.boot), (&world.root, &slot.root)] {
            assert!(wanted.iter().zip(disk.bytes()).all(|(wanted, found)| found == *wanted || found == 0));
        }
    }
}

#[tokio::test]
async fn a_source_that_fails_says_so_and_nothing_is_lost() {
    let (world, slot) = (World::new(), Slot::of(&[], &[]));
    let failed = Failed::Slow { name: ARCHIVE.into(), what: "no bytes come any more" };
    world.site.fail(&format!("targets/{ARCHIVE}"), failed.clone());
    let error = world.write(&slot, &mut Have::new()).await.unwrap_err();
    assert!(matches!(error, Error::Source(found) if found == failed));
    world.site.heal();
    world.write(&slot, &mut Have::new()).await.unwrap();
    assert!(world.is_in(&slot));
}

#[tokio::test]
async fn what_is_remembered_and_was_overwritten_meanwhile_is_fetched() {
    let world = World::new();
    // The slot itself holds the parts the other way round: writing the first destroys what the second could be copied from.
    let mut swapped = world.root.clone();
    swapped.rotate_left(500 << 10);
    let slot = Slot::of(&[], &swapped);
    let mut have = Have::new();
    have.cut("root-b", Arc::new(slot.root.clone())).unwrap();
    world.write(&slot, &mut have).await.unwrap();
    assert!(world.is_in(&slot));
    world.fetched();
}

#[tokio::test]
async fn a_release_that_does_not_fit_is_refused_before_anything_is_written() {
    let world = World::of(vec![1; 4096], Random(5).bytes(PARTITION + 1));
    let slot = Slot::of(&[7; 5000], &[7; 5000]);
    let error = world.write(&slot, &mut Have::new()).await.unwrap_err();
    assert!(matches!(error, Error::Room { kind: Kind::Root, .. }), "{error}");
    assert_eq!(slot.boot.bytes()[..5000], [7; 5000]);
}

#[tokio::test]
async fn nothing_stays_of_what_was_behind_a_part_before() {
    let world = World::new();
    let slot = Slot::of(&Random(11).bytes(PARTITION), &Random(13).bytes(PARTITION - 5));
    world.write(&slot, &mut Have::new()).await.unwrap();
    assert!(world.is_in(&slot));
    // So the slot is cut as the release was: from it alone the other one can be written.
    let mut have = Have::new();
    have.cut("boot-b", Arc::new(slot.boot.clone())).unwrap();
    have.cut("root-b", Arc::new(slot.root.clone())).unwrap();
    world.site.log();
    let progress = world.write(&Slot::of(&[], &[]), &mut have).await.unwrap();
    assert_eq!((progress.fetched, world.site.log().len()), (0, 0));
    // A byte behind the part is seen when it is read back.
    let part = world.index.part(Kind::Boot).unwrap();
    let [boot, _] = slot.targets();
    stage::read_back(part, &boot).await.unwrap();
    slot.boot.write_at(PARTITION as u64 - 1, &[1]).unwrap();
    assert!(matches!(stage::read_back(part, &boot).await, Err(Error::ReadBack(_))));
}

/// A disk that is not to be waited for here.
struct Elsewhere(SimDisk, std::thread::ThreadId);

impl Elsewhere {
    fn seen(&self) {
        assert_ne!(std::thread::current().id(), self.1, "the thread of all tasks waits for the disk");
    }
}

impl Disk for Elsewhere {
    fn size(&self) -> std::io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, at: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        self.seen();
        self.0.read_at(at, bytes)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.seen();
        self.0.write_at(at, bytes)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.seen();
        self.0.sync()
    }
}

#[tokio::test]
async fn the_thread_of_all_tasks_never_waits_for_the_disk() {
    let (world, slot) = (World::new(), Slot::of(&Random(11).bytes(PARTITION), &[]));
    let here = std::thread::current().id();
    let targets = slot.targets().map(|target| {
        let disk = if target.kind == Kind::Boot { slot.boot.clone() } else { slot.root.clone() };
        Target { disk: Arc::new(Elsewhere(disk, here)), ..target }
    });
    let mut told = Vec::new();
    let mut tell = |progress: Progress| told.push(progress.done);
    stage::write(&world.index, ARCHIVE, &targets, &mut Have::new(), &world.site, &mut tell).await.unwrap();
    assert!(world.is_in(&slot));
    // How far it is is told many times, and never less than before.
    assert!(told.len() > 10 && told.is_sorted(), "{told:?}");
}
