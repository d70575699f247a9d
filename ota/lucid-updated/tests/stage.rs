//! Writing a release into a slot: what is there stays, what is elsewhere is copied, the rest is fetched once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use lucid_release_format::{Change, Index, Kind, Patch, Piece, build, patch::pieces};
use lucid_updated::{
    Error,
    disk::Disk,
    have::Have,
    patch::{Offered, Patched},
    source::{Failed, Folder, Source, Stretch},
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

const PATCH: &str = "a.patch";

/// A release that is an older one with a byte changed here and there, the older one in a slot, and the patch between them.
struct Patching {
    world: World,
    running: Slot,
    patch: Vec<u8>,
}

impl Patching {
    fn new() -> Self {
        let mut random = Random(21);
        let old = [random.bytes(300 << 10), random.bytes(1 << 20)];
        let new = old.clone().map(|mut part| {
            for at in (0..part.len()).step_by(5000) {
                part[at] ^= 1;
            }
            part
        });
        let [boot, root] = new;
        let world = World::of(boot, root);
        let mut archive = Vec::new();
        let parts = [(Kind::Boot, &old[0][..]), (Kind::Root, &old[1][..])];
        let index = build::release(parts, &mut archive, 1).unwrap();
        let change = Change::between(&pieces(&index), &world.index);
        let new = world.site.get(&format!("targets/{ARCHIVE}"));
        let chunk = |index: &Index, archive: &[u8], piece: Piece| {
            let mut chunks = index.parts().iter().flat_map(|part| &part.chunks);
            let chunk = chunks.find(|chunk| chunk.hash == piece.hash).unwrap();
            chunk.open(&archive[chunk.place.offset as usize..chunk.place.end() as usize])
        };
        let (mut of_old, mut of_new) =
            (|piece| chunk(&index, &archive, piece), |piece| chunk(&world.index, &new, piece));
        let patch = build::patch(&change, &mut of_old, &mut of_new, 1, &|_, _| {}).unwrap().unwrap();
        assert!((patch.len() as u64) * 4 < change.archive_bytes());
        world.site.put(&format!("targets/{PATCH}"), patch.clone());
        let running = Slot::of(&old[0], &old[1]);
        Self { world, running, patch }
    }

    /// What the running slot has, and what it is.
    fn have(&self) -> (Have, Vec<Piece>) {
        let mut have = Have::new();
        let mut pieces = have.cut("boot-a", Arc::new(self.running.boot.clone())).unwrap();
        pieces.extend(have.cut("root-a", Arc::new(self.running.root.clone())).unwrap());
        (have, pieces)
    }

    fn offered(&self) -> Offered {
        Offered { file: PATCH.to_owned(), bytes: self.patch.len() as u64 }
    }

    async fn open(&self, source: &dyn Source) -> Result<Have, Error> {
        let (mut have, pieces) = self.have();
        let change = Change::between(&pieces, &self.world.index);
        have.patch = Some(Patched::open(&self.offered(), change, source).await?);
        Ok(have)
    }
}

#[tokio::test]
async fn with_a_patch_the_same_is_written_and_nothing_of_the_archive_is_fetched() {
    let patching = Patching::new();
    let slot = Slot::of(&[], &[]);
    let mut have = patching.open(&patching.world.site).await.unwrap();
    // The archive is not even there.
    let gone = Failed::Missing { name: ARCHIVE.to_owned() };
    patching.world.site.fail(&format!("targets/{ARCHIVE}"), gone);
    let progress = patching.world.write(&slot, &mut have).await.unwrap();
    assert!(patching.world.is_in(&slot) && have.refused.is_none());
    assert_eq!(progress.fetched, progress.patched);
    assert!(progress.patched <= patching.patch.len() as u64 && progress.patched > 0);
    // Each byte of it once.
    assert_eq!(patching.world.fetched(), patching.patch.len() as u64);
}

#[tokio::test]
async fn a_patch_whose_frames_are_damaged_is_done_without() {
    let patching = Patching::new();
    let change = Change::between(&patching.have().1, &patching.world.index);
    let head = Patch::head_bytes(&patching.patch).unwrap();
    let patch = Patch::read(&patching.patch[..head], &change, patching.patch.len() as u64).unwrap();
    let frames = patch.frames();
    for frame in [0, frames.len() / 2, frames.len() - 1] {
        let mut damaged = patching.patch.clone();
        for byte in &mut damaged[frames[frame].offset as usize..frames[frame].end() as usize] {
            *byte ^= 0x55;
        }
        let slot = Slot::of(&[], &[]);
        let mut have = patching.open(&patching.world.site).await.unwrap();
        patching.world.site.put(&format!("targets/{PATCH}"), damaged);
        let progress = patching.world.write(&slot, &mut have).await.unwrap();
        assert!(patching.world.is_in(&slot), "frame {frame}");
        assert!(have.patch.is_none() && have.refused.is_some_and(|why| why.contains(PATCH)));
        assert!(progress.patched < progress.fetched, "{progress:?}");
        patching.world.site.put(&format!("targets/{PATCH}"), patching.patch.clone());
    }
}

#[tokio::test]
async fn a_patch_that_goes_away_or_ends_early_is_done_without() {
    for failed in [
        Failed::Missing { name: PATCH.to_owned() },
        Failed::Short { name: PATCH.to_owned(), had: 0, wanted: 1 },
        Failed::Status { name: PATCH.to_owned(), status: 416 },
        // It breaks, or hangs, however often it is asked for; the archive is whole.
        Failed::Broken {
            name: PATCH.to_owned(),
            doing: "reading the USB stick",
            why: "it is damaged".into(),
        },
        Failed::Slow { name: PATCH.to_owned(), what: "no byte comes from the USB stick" },
    ] {
        let patching = Patching::new();
        let slot = Slot::of(&[], &[]);
        let mut have = patching.open(&patching.world.site).await.unwrap();
        patching.world.site.fail(&format!("targets/{PATCH}"), failed);
        let progress = patching.world.write(&slot, &mut have).await.unwrap();
        assert!(patching.world.is_in(&slot) && have.refused.is_some());
        assert_eq!(progress.patched, 0);
    }
}

#[tokio::test]
async fn a_patch_for_another_slot_or_with_a_head_that_lies_is_not_taken() {
    let patching = Patching::new();
    let site = &patching.world.site;
    let (_, mut pieces) = patching.have();
    pieces.pop();
    let other = Change::between(&pieces, &patching.world.index);
    let error = Patched::open(&patching.offered(), other, site).await.unwrap_err();
    assert!(matches!(&error, Error::Patch { why, .. } if why.contains("starts from another")), "{error}");
    let change = || Change::between(&patching.have().1, &patching.world.index);
    for bytes in [0, 1, 14, 100, patching.patch.len() as u64 - 1, patching.patch.len() as u64 + 1] {
        let offered = Offered { bytes, ..patching.offered() };
        let error = Patched::open(&offered, change(), site).await.unwrap_err();
        assert!(matches!(error, Error::Patch { .. }), "{bytes}: {error}");
    }
    for at in [0, 8, 10, 13, 20, 60, 80, 100] {
        let mut bad = patching.patch.clone();
        bad[at] ^= 0x80;
        site.put(&format!("targets/{PATCH}"), bad);
        let error = Patched::open(&patching.offered(), change(), site).await.unwrap_err();
        assert!(lucid_updated::patch::is_of_patch(&error), "{at}: {error}");
    }
}

#[tokio::test]
async fn what_a_patch_stands_on_and_is_not_there_any_more_is_done_without() {
    let patching = Patching::new();
    let slot = Slot::of(&[], &[]);
    let mut have = patching.open(&patching.world.site).await.unwrap();
    // The slot that runs is another one meanwhile, which no device does to itself.
    patching.running.root.write_at(100_000, &[0x55; 200_000]).unwrap();
    patching.world.write(&slot, &mut have).await.unwrap();
    assert!(patching.world.is_in(&slot));
    assert!(have.refused.is_some_and(|why| why.contains("not there")));
}

/// Gives so many bytes in all, and breaks off.
#[derive(Debug)]
struct Breaks {
    site: Site,
    left: AtomicU64,
    given: AtomicU64,
}

#[async_trait]
impl Source for Breaks {
    fn name(&self) -> String {
        "what breaks off".to_owned()
    }

    async fn whole(&self, folder: Folder, name: &str, cap: u64) -> Result<Bytes, Failed> {
        self.site.whole(folder, name, cap).await
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        let broken =
            || Failed::Broken { name: name.to_owned(), doing: "reading the answer", why: "cut".into() };
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(broken());
        }
        let count = left.min(to - from);
        self.left.fetch_sub(count, Ordering::Relaxed);
        self.given.fetch_add(count, Ordering::Relaxed);
        let all = self.site.get(&format!("targets/{name}"));
        let bytes = Bytes::copy_from_slice(&all[from as usize..(from + count) as usize]);
        let (give, stretch) = Stretch::new(name.to_owned());
        give.send(Ok(bytes)).await.unwrap();
        if count < to - from {
            give.send(Err(broken())).await.unwrap();
        }
        Ok(stretch)
    }
}

/// Breaks off once, within the answer that has this byte of the patch, and never again.
#[derive(Debug)]
struct Stumbles {
    site: Site,
    at: AtomicU64,
}

#[async_trait]
impl Source for Stumbles {
    fn name(&self) -> String {
        "what stumbles".to_owned()
    }

    async fn whole(&self, folder: Folder, name: &str, cap: u64) -> Result<Bytes, Failed> {
        self.site.whole(folder, name, cap).await
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        let at = self.at.load(Ordering::Relaxed);
        if name != PATCH || !(from..to).contains(&at) {
            return self.site.range(name, from, to).await;
        }
        self.at.store(u64::MAX, Ordering::Relaxed);
        let all = self.site.get(&format!("targets/{name}"));
        let (give, stretch) = Stretch::new(name.to_owned());
        give.send(Ok(Bytes::copy_from_slice(&all[from as usize..at as usize]))).await.unwrap();
        let name = name.to_owned();
        give.send(Err(Failed::Broken { name, doing: "reading", why: "a loose plug".into() })).await.unwrap();
        Ok(stretch)
    }
}

#[tokio::test]
async fn a_patch_that_breaks_off_once_is_asked_for_again_from_there_and_used_to_its_end() {
    let patching = Patching::new();
    let whole = patching.patch.len() as u64;
    // In the first bytes, in the head, and among the frames.
    for at in [3, 40, whole / 2, whole - 1] {
        let slot = Slot::of(&[], &[]);
        let source = Stumbles { site: patching.world.site.clone(), at: AtomicU64::new(at) };
        let mut have = patching.open(&source).await.unwrap();
        let (index, targets) = (&patching.world.index, slot.targets());
        let progress = stage::write(index, ARCHIVE, &targets, &mut have, &source, &mut |_| {}).await.unwrap();
        assert_eq!(source.at.load(Ordering::Relaxed), u64::MAX, "it never broke off at {at}");
        assert!(patching.world.is_in(&slot) && have.refused.is_none(), "{at}");
        assert_eq!(progress.fetched, progress.patched, "{at}");
    }
}

#[tokio::test]
async fn what_was_interrupted_within_a_patch_goes_on_with_it_and_less_than_a_chunk_is_fetched_again() {
    let patching = Patching::new();
    let whole = patching.patch.len() as u64;
    let head = Patch::head_bytes(&patching.patch).unwrap() as u64;
    for cut in [head + 1, whole / 3, whole / 2, whole - 1] {
        let slot = Slot::of(&[], &[]);
        let source = Breaks {
            site: patching.world.site.clone(),
            left: AtomicU64::new(cut),
            given: AtomicU64::default(),
        };
        let index = &patching.world.index;
        let mut have = patching.open(&source).await.unwrap();
        let targets = slot.targets();
        let error =
            stage::write(index, ARCHIVE, &targets, &mut have, &source, &mut |_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Source(Failed::Broken { .. })), "{error}");
        // A new life of the service.
        source.left.store(u64::MAX, Ordering::Relaxed);
        let mut have = patching.open(&source).await.unwrap();
        let progress = stage::write(index, ARCHIVE, &targets, &mut have, &source, &mut |_| {}).await.unwrap();
        assert!(patching.world.is_in(&slot) && have.refused.is_none());
        assert_eq!(progress.fetched, progress.patched);
        let again = source.given.load(Ordering::Relaxed) - whole;
        assert!(again < head + (128 << 10), "{again} bytes were fetched again after {cut}");
    }
}
