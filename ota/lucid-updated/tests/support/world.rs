//! A device that asks, and a source in memory.

use std::sync::Arc;

use lucid_updated::trust::{Memory, Offers, Refused, Trust};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tough::schema::{Role, Root, Signed, Snapshot, Timestamp};

use super::repository::{Maker, Signer, Site, release, sign};

/// A device and a source.
pub struct World {
    pub maker: Maker,
    pub site: Site,
    pub trust: Trust,
    pub memory: Memory,
    pub notes: Vec<String>,
    _dir: TempDir,
}

impl World {
    /// With two releases.
    pub fn new() -> Self {
        let mut world = Self::of(Maker::new());
        for version in ["0.2.0", "0.10.0"] {
            world.maker.add(&world.site, &release(version), &[1; 5000], &[2; 9000]);
        }
        world.maker.publish(&world.site);
        world
    }

    /// With a root alone.
    pub fn of(maker: Maker) -> Self {
        let root = maker.root(1, &[]);
        Self::with_root(maker, root)
    }

    /// With this root in its image.
    pub fn with_root(maker: Maker, root: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::default();
        site.put("metadata/1.root.json", root.clone());
        let trust = Trust { root, scratch: dir.path().join("scratch"), built: 1_700_000_000 };
        Self { maker, site, trust, memory: Memory::default(), notes: Vec::new(), _dir: dir }
    }

    pub async fn ask(&mut self) -> Result<Offers, Refused> {
        let cycle = self.trust.ask(&self.memory, Arc::new(self.site.clone())).await.unwrap();
        // What is kept survives being kept.
        self.memory = Memory::from_bytes(&cycle.memory.to_bytes().unwrap()).unwrap();
        self.notes = cycle.notes;
        cycle.offers
    }

    pub async fn refused(&mut self) -> Refused {
        match self.ask().await {
            Ok(offers) => panic!("it was accepted: {offers:?}"),
            Err(refused) => refused,
        }
    }

    pub async fn good(&mut self) {
        if let Err(refused) = self.ask().await {
            panic!("it was refused: {refused}");
        }
    }

    /// The next root, by the maker's keys, signed by the old root's signers as well.
    pub fn rotate(&self, version: u64, old: &[Arc<Signer>]) {
        self.site.put(&format!("metadata/{version}.root.json"), self.maker.root(version, old));
    }

    /// A root that is put together by hand.
    pub fn put_root(&self, root: Root, by: &[Arc<Signer>]) {
        self.site.put(&format!("metadata/{}.root.json", root.version), sign(root, by));
    }

    /// What the device keeps: the version of the newest root beyond the image's, of the timestamp and of the snapshot; 0 for
    /// none.
    pub fn kept(&self) -> [u64; 3] {
        let memory = &self.memory;
        [
            version::<Root>(memory.roots.last()),
            version::<Timestamp>(memory.timestamp.as_ref()),
            version::<Snapshot>(memory.snapshot.as_ref()),
        ]
    }
}

fn version<T: Role + DeserializeOwned>(bytes: Option<&Vec<u8>>) -> u64 {
    bytes.map_or(0, |bytes| serde_json::from_slice::<Signed<T>>(bytes).unwrap().signed.version().get())
}
