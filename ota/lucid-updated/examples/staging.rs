//! How a release is staged, for `scripts/bench update`: each call prints one line of JSON.
//!
//! `staging apply OLD RELEASE SLOT`: OLD has the parts that run (`boot`, `root`), RELEASE `index` and `archive`; writes them into the
//! empty files `boot` and `root` of SLOT, by the code that devices run, and says how long that took, how much memory, and how many
//! bytes were asked for. `staging patch …` does the same with RELEASE's `patch`.
//! `staging cuts OLD RELEASE SLOT COUNT SEED`: so often with the connection cut at a random byte and a new life of the service
//! after it; says how many bytes were asked for again. With the patch where there is one.

#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use lucid_release_format::{Change, Index, Kind};
use lucid_updated::{
    Error,
    disk::Device,
    have::Have,
    patch::{Offered, Patched},
    peak,
    source::{Failed, Folder, Source, Stretch},
    stage::{self, Progress, Target},
};

/// So much comes at once.
const PIECE: u64 = 16 << 10;
const KINDS: [Kind; 2] = [Kind::Boot, Kind::Root];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let line = match words.as_slice() {
        [how @ ("apply" | "patch"), old, release, slot] => {
            let world = World::new(old, release, slot);
            runtime.block_on(apply(&world, *how == "patch"))
        }
        ["cuts", old, release, slot, count, seed] => {
            let world = World::new(old, release, slot);
            let number = |text: &str| text.parse::<u64>().expect("a number");
            runtime.block_on(cuts(&world, number(count), number(seed)))
        }
        _ => {
            eprintln!("what can be measured stands at the head of staging.rs");
            std::process::exit(2);
        }
    };
    println!("{line}");
}

/// What is measured.
struct World {
    old: PathBuf,
    release: PathBuf,
    slot: PathBuf,
    index: Index,
}

impl World {
    fn new(old: &str, release: &str, slot: &str) -> Self {
        let release = PathBuf::from(release);
        let index = Index::read(&fs::read(release.join("index")).expect("an index")).expect("an index");
        Self { old: old.into(), release, slot: slot.into(), index }
    }

    /// A slot of zeros, a little larger than the release.
    fn empty(&self) -> Vec<Target> {
        let target = |kind: Kind| {
            let path = self.slot.join(kind.to_string());
            let file = File::create(&path).expect("a file for the slot");
            let bytes = self.index.part(kind).expect("both parts").bytes;
            file.set_len(bytes + (1 << 20)).expect("room for the slot");
            self.target(kind, &path)
        };
        KINDS.map(target).to_vec()
    }

    fn target(&self, kind: Kind, path: &Path) -> Target {
        let disk = Arc::new(Device::shared(path).expect("the slot"));
        Target { kind, name: format!("{kind}-b"), disk }
    }

    /// One life of the service: cuts both slots, and writes.
    async fn live(&self, targets: &[Target], wire: &Wire, patch: bool) -> Result<Progress, Error> {
        let (mut have, mut running) = (Have::new(), Vec::new());
        for kind in KINDS {
            let path = self.old.join(kind.to_string());
            running.extend(have.cut(&format!("{kind}-a"), Arc::new(Device::read(&path)?))?);
        }
        for target in targets {
            have.cut(&target.name, target.disk.clone())?;
        }
        if patch {
            let change = Change::between(&running, &self.index);
            let offered = Offered { file: "patch".to_owned(), bytes: wire.length("patch") };
            have.patch = Some(Patched::open(&offered, change, wire).await?);
        }
        let written = stage::write(&self.index, "archive", targets, &mut have, wire, &mut |_| {}).await?;
        assert_eq!(have.refused, None, "the patch is good");
        Ok(written)
    }

    fn has_patch(&self) -> bool {
        self.release.join("patch").exists()
    }
}

async fn apply(world: &World, patch: bool) -> serde_json::Value {
    let targets = world.empty();
    let wire = Wire::new(&world.release, u64::MAX);
    let start = Instant::now();
    let written = world.live(&targets, &wire, patch).await.expect("it is written");
    serde_json::json!({
        "seconds": start.elapsed().as_secs_f64(),
        "memory": peak::memory().expect("the kernel says it"),
        "asked": wire.given.load(Ordering::Relaxed),
        "fetched": written.fetched,
        "patched": written.patched,
        "kept": written.kept,
        "copied": written.copied,
        "total": written.total,
    })
}

async fn cuts(world: &World, count: u64, seed: u64) -> serde_json::Value {
    let patch = world.has_patch();
    let whole = Wire::new(&world.release, u64::MAX);
    world.live(&world.empty(), &whole, patch).await.expect("it is written");
    let all = whole.given.load(Ordering::Relaxed);
    let (mut state, mut again) = (seed.max(1), Vec::new());
    for _ in 0..count {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let wire = Wire::new(&world.release, 1 + state % all.saturating_sub(1).max(1));
        let targets = world.empty();
        let broken = world.live(&targets, &wire, patch).await;
        assert!(matches!(broken, Err(Error::Source(Failed::Broken { .. }))), "the connection is cut");
        wire.left.store(u64::MAX, Ordering::Relaxed);
        world.live(&targets, &wire, patch).await.expect("it goes on");
        again.push(wire.given.load(Ordering::Relaxed) - all);
    }
    serde_json::json!({
        "cuts": count,
        "seed": seed,
        "of": all,
        "again_mean": again.iter().sum::<u64>() as f64 / again.len().max(1) as f64,
        "again_most": again.iter().max(),
    })
}

/// A source on this disk, whose connection gives so many bytes and is cut.
#[derive(Debug)]
struct Wire {
    release: PathBuf,
    left: AtomicU64,
    given: AtomicU64,
}

impl Wire {
    fn new(release: &Path, left: u64) -> Self {
        Self { release: release.to_owned(), left: AtomicU64::new(left), given: AtomicU64::default() }
    }

    fn length(&self, name: &str) -> u64 {
        fs::metadata(self.release.join(name)).expect("a file of the release").len()
    }
}

#[async_trait]
impl Source for Wire {
    fn name(&self) -> String {
        "a folder".to_owned()
    }

    async fn whole(&self, _: Folder, name: &str, _: u64) -> Result<Bytes, Failed> {
        Err(Failed::Missing { name: name.to_owned() })
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        let cut = || Failed::Broken { name: name.to_owned(), doing: "reading", why: "it is cut".to_owned() };
        let count = self.left.load(Ordering::Relaxed).min(to - from);
        if count == 0 {
            return Err(cut());
        }
        self.left.fetch_sub(count, Ordering::Relaxed);
        self.given.fetch_add(count, Ordering::Relaxed);
        let file = File::open(self.release.join(name)).map_err(|_| cut())?;
        let (give, stretch) = Stretch::new(name.to_owned());
        let end = (count < to - from).then(cut);
        tokio::spawn(async move {
            let mut at = from;
            while at < from + count {
                let mut piece = vec![0; PIECE.min(from + count - at) as usize];
                file.read_exact_at(&mut piece, at).expect("a file of the release");
                at += piece.len() as u64;
                if give.send(Ok(piece.into())).await.is_err() {
                    return;
                }
            }
            if let Some(end) = end {
                // Who does not listen any more has gone for another reason.
                let _ = give.send(Err(end)).await;
            }
        });
        Ok(stretch)
    }
}
