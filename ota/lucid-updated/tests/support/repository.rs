//! A repository that is made and signed in the test itself, and can be made wrong in every way.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use lucid_release_format::{Kind, Release, Version, Wave, build};
use lucid_updated::source::{Failed, Folder, Source, Stretch};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tough::{
    TargetName,
    schema::{
        Hashes, Metafile, Role, RoleKeys, RoleType, Root, Signature, Signed, Snapshot, Target, Targets,
        Timestamp,
        decoded::{Decoded, Hex},
        key::{Ed25519Key, Ed25519Scheme, Key},
    },
};

/// Somebody who signs.
pub struct Signer {
    pair: Ed25519KeyPair,
    /// Something beside the key, which gives it another id.
    extra: Option<(&'static str, serde_json::Value)>,
}

/// The signer of a number.
pub fn signer(number: u8) -> Arc<Signer> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    Arc::new(Signer { pair, extra: None })
}

/// The same key under another id.
pub fn twin(number: u8) -> Arc<Signer> {
    odd(number, "twin", true.into())
}

/// The signer of a number, whose key has a member beside those that every key has.
pub fn odd(number: u8, name: &'static str, value: serde_json::Value) -> Arc<Signer> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    Arc::new(Signer { pair, extra: Some((name, value)) })
}

impl Signer {
    pub fn key(&self) -> Key {
        let public = Decoded::<Hex>::from(self.pair.public_key().as_ref().to_vec());
        let extra = self.extra.clone().map(|(name, value)| (name.to_owned(), value));
        Key::Ed25519 {
            keyval: Ed25519Key { public, _extra: HashMap::new() },
            scheme: Ed25519Scheme::Ed25519,
            _extra: extra.into_iter().collect(),
        }
    }

    pub fn id(&self) -> Decoded<Hex> {
        self.key().key_id().unwrap()
    }
}

/// The file of a role, signed by these.
pub fn sign<T: Role + Serialize>(role: T, signers: &[Arc<Signer>]) -> Vec<u8> {
    let text = role.canonical_form().unwrap();
    let signatures = signers
        .iter()
        .map(|signer| Signature {
            keyid: signer.id(),
            sig: Decoded::from(signer.pair.sign(&text).as_ref().to_vec()),
        })
        .collect();
    serde_json::to_vec(&Signed { signed: role, signatures }).unwrap()
}

pub fn number(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

fn sha256(bytes: &[u8]) -> Hashes {
    Hashes { sha256: Decoded::from(Sha256::digest(bytes).to_vec()), _extra: HashMap::new() }
}

/// So many days from now.
pub fn days(days: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + days * 86_400).unwrap()
}

/// Who signs, and how many have to.
#[derive(Clone)]
pub struct Keys {
    pub root: Vec<Arc<Signer>>,
    pub root_threshold: u64,
    pub targets: Vec<Arc<Signer>>,
    pub targets_threshold: u64,
    pub snapshot: Arc<Signer>,
    pub timestamp: Arc<Signer>,
}

impl Keys {
    /// 3 of 5 for the root, 2 of 3 for the targets.
    pub fn new() -> Self {
        Self {
            root: (1..=5).map(signer).collect(),
            root_threshold: 3,
            targets: (11..=13).map(signer).collect(),
            targets_threshold: 2,
            snapshot: signer(21),
            timestamp: signer(31),
        }
    }
}

/// What is published.
#[derive(Clone)]
pub struct Maker {
    pub keys: Keys,
    pub targets_version: u64,
    pub snapshot_version: u64,
    pub timestamp_version: u64,
    /// Days until the targets, the snapshot, the timestamp and the root expire.
    pub days: [i64; 4],
    pub targets: HashMap<String, Target>,
    pub root_extra: HashMap<String, serde_json::Value>,
    /// Who signs the targets, the snapshot and the timestamp in place of those who should.
    pub targets_by: Option<Vec<Arc<Signer>>>,
    pub snapshot_by: Option<Vec<Arc<Signer>>>,
    pub timestamp_by: Option<Vec<Arc<Signer>>>,
}

impl Maker {
    pub fn new() -> Self {
        Self {
            keys: Keys::new(),
            targets_version: 1,
            snapshot_version: 1,
            timestamp_version: 1,
            days: [90, 30, 7, 365],
            targets: HashMap::new(),
            root_extra: HashMap::new(),
            targets_by: None,
            snapshot_by: None,
            timestamp_by: None,
        }
    }

    /// The root of this version, by the keys that are set; signed by its first signers, as many as it needs, and these.
    pub fn root(&self, version: u64, also: &[Arc<Signer>]) -> Vec<u8> {
        let keys = &self.keys;
        let mut signers: Vec<_> = keys.root[..keys.root_threshold as usize].to_vec();
        for signer in also {
            if signers.iter().all(|known| known.id() != signer.id()) {
                signers.push(signer.clone());
            }
        }
        sign(self.root_role(version), &signers)
    }

    pub fn root_role(&self, version: u64) -> Root {
        let keys = &self.keys;
        let role = |signers: &[Arc<Signer>], threshold: u64| RoleKeys {
            keyids: signers.iter().map(|signer| signer.id()).collect(),
            threshold: number(threshold),
            _extra: HashMap::new(),
        };
        let (snapshot, timestamp) = ([keys.snapshot.clone()], [keys.timestamp.clone()]);
        let all = keys.root.iter().chain(&keys.targets).chain(&snapshot).chain(&timestamp);
        Root {
            spec_version: "1.0.0".to_owned(),
            consistent_snapshot: true,
            version: number(version),
            expires: days(self.days[3]),
            keys: all.map(|signer| (signer.id(), signer.key())).collect(),
            roles: HashMap::from([
                (RoleType::Root, role(&keys.root, keys.root_threshold)),
                (RoleType::Targets, role(&keys.targets, keys.targets_threshold)),
                (RoleType::Snapshot, role(&snapshot, 1)),
                (RoleType::Timestamp, role(&timestamp, 1)),
            ]),
            _extra: self.root_extra.clone(),
        }
    }

    /// Adds a release, its index and its archive.
    pub fn add(&mut self, site: &Site, release: &Release, boot: &[u8], root: &[u8]) {
        let mut archive = Vec::new();
        let index = build::release([(Kind::Boot, boot), (Kind::Root, root)], &mut archive, 3).unwrap();
        let index = index.write();
        for (name, bytes, custom) in [
            (release.index_name(), index, release.to_custom().unwrap()),
            (release.archive_name(), archive, HashMap::new()),
        ] {
            let hashes = sha256(&bytes);
            site.put(&format!("targets/{}.{name}", hex::encode(&hashes.sha256)), bytes.clone());
            let target = Target { length: bytes.len() as u64, hashes, custom, _extra: HashMap::new() };
            self.targets.insert(name, target);
        }
    }

    /// Writes targets, snapshot and timestamp.
    pub fn publish(&self, site: &Site) {
        let targets = self.targets_file();
        let snapshot = self.snapshot_file(&targets);
        let timestamp = self.timestamp_file(&snapshot);
        site.put(&format!("metadata/{}.targets.json", self.targets_version), targets);
        site.put(&format!("metadata/{}.snapshot.json", self.snapshot_version), snapshot);
        site.put("metadata/timestamp.json", timestamp);
    }

    pub fn targets_file(&self) -> Vec<u8> {
        let mut role = Targets::new("1.0.0".to_owned(), number(self.targets_version), days(self.days[0]));
        role.delegations = None;
        for (name, target) in &self.targets {
            role.targets.insert(TargetName::new(name.clone()).unwrap(), target.clone());
        }
        let by = self.targets_by.clone();
        sign(role, &by.unwrap_or_else(|| self.keys.targets[..self.keys.targets_threshold as usize].to_vec()))
    }

    pub fn snapshot_file(&self, targets: &[u8]) -> Vec<u8> {
        let mut role = Snapshot::new("1.0.0".to_owned(), number(self.snapshot_version), days(self.days[1]));
        role.meta.insert("targets.json".to_owned(), meta(targets, self.targets_version));
        sign(role, &self.snapshot_by.clone().unwrap_or_else(|| vec![self.keys.snapshot.clone()]))
    }

    pub fn timestamp_file(&self, snapshot: &[u8]) -> Vec<u8> {
        self.timestamp_naming(meta(snapshot, self.snapshot_version))
    }

    pub fn timestamp_naming(&self, snapshot: Metafile) -> Vec<u8> {
        let mut role = Timestamp {
            spec_version: "1.0.0".to_owned(),
            version: number(self.timestamp_version),
            expires: days(self.days[2]),
            meta: HashMap::new(),
            _extra: HashMap::new(),
        };
        role.meta.insert("snapshot.json".to_owned(), snapshot);
        sign(role, &self.timestamp_by.clone().unwrap_or_else(|| vec![self.keys.timestamp.clone()]))
    }

    /// One version more of everything.
    pub fn advance(&mut self) {
        self.targets_version += 1;
        self.snapshot_version += 1;
        self.timestamp_version += 1;
    }
}

/// How a file is named in the metadata above it.
pub fn meta(bytes: &[u8], version: u64) -> Metafile {
    Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(sha256(bytes)),
        version: number(version),
        _extra: HashMap::new(),
    }
}

/// A release for everybody.
pub fn release(version: &str) -> Release {
    Release {
        channel: "stable".parse().unwrap(),
        machine: "qemu-arm64".parse().unwrap(),
        min_from: Version::default(),
        min_version: Version::default(),
        paused: false,
        released: 1_700_000_000,
        version: version.parse().unwrap(),
        waves: vec![Wave { after: 0, share: 1000 }],
    }
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Vec<u8>>,
    broken: BTreeMap<String, Failed>,
    log: Vec<String>,
}

/// A source in memory, which keeps a list of what it was asked for.
#[derive(Clone, Default)]
pub struct Site(Arc<Mutex<Inner>>);

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Site")
    }
}

impl Site {
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.0.lock().unwrap().files.insert(path.to_owned(), bytes);
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.0.lock().unwrap().files[path].clone()
    }

    pub fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap().files.keys().cloned().collect()
    }

    /// From now on that file fails so.
    pub fn fail(&self, path: &str, failed: Failed) {
        self.0.lock().unwrap().broken.insert(path.to_owned(), failed);
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().broken.clear();
    }

    /// What it was asked for since the last time.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }

    /// As a folder on the disk.
    pub fn write(&self, dir: &Path) {
        for (path, bytes) in &self.0.lock().unwrap().files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

#[async_trait]
impl Source for Site {
    fn name(&self) -> String {
        "the site".to_owned()
    }

    async fn whole(&self, folder: Folder, name: &str, cap: u64) -> Result<Bytes, Failed> {
        let path = format!("{}/{name}", folder.name());
        let mut inner = self.0.lock().unwrap();
        inner.log.push(path.clone());
        if let Some(failed) = inner.broken.get(&path) {
            return Err(failed.clone());
        }
        match inner.files.get(&path) {
            None => Err(Failed::Missing { name: name.to_owned() }),
            Some(bytes) if bytes.len() as u64 > cap => Err(Failed::Endless { name: name.to_owned(), cap }),
            Some(bytes) => Ok(Bytes::from(bytes.clone())),
        }
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        let path = format!("targets/{name}");
        let piece = {
            let mut inner = self.0.lock().unwrap();
            inner.log.push(format!("{from}..{to}"));
            if let Some(failed) = inner.broken.get(&path) {
                return Err(failed.clone());
            }
            let bytes = inner.files.get(&path).ok_or(Failed::Missing { name: name.to_owned() })?;
            Bytes::copy_from_slice(&bytes[from as usize..to as usize])
        };
        let (give, stretch) = Stretch::new(name.to_owned());
        give.send(Ok(piece)).await.unwrap();
        Ok(stretch)
    }
}
