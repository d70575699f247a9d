//! Recordings with known keys and contents, for tests and examples.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is for tests")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
};

use lucid_recording::{
    Hash, Hex, Limits, OwnerSecret, Random, Recipient, Recovery, Role, SessionId, SigningKey, Start, Time,
    Writer,
    rand_core::{Rng, TryCryptoRng, TryRng},
    statement::{Audit, Compression, Participant, Stream},
};

pub mod damage;

/// Bytes that are the same in every run. Never for what is to be secret.
pub struct Seeded(blake3::OutputReader);

impl Seeded {
    pub fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    pub fn boxed(seed: &str) -> Random {
        Box::new(Self::new(seed))
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill_bytes(&mut bytes);
        bytes
    }
}

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Seeded {}

pub const VIDEO: u8 = 1;
pub const AUDIT: u8 = 2;
pub const POINTER: u8 = 3;
pub const SOUND: u8 = 4;

/// The device of all samples.
pub fn device() -> SigningKey {
    SigningKey::from_seed(&[0xd1; 32]).unwrap()
}

/// Somebody else's device.
pub fn other_device() -> SigningKey {
    SigningKey::from_seed(&[0xd2; 32]).unwrap()
}

/// The owner of all samples.
pub fn owner() -> OwnerSecret {
    OwnerSecret::from_bytes([0x0a; 32])
}

/// The observer of all samples.
pub fn observer() -> OwnerSecret {
    OwnerSecret::from_bytes([0x0b; 32])
}

pub fn recipients() -> Vec<Recipient> {
    vec![
        Recipient { key: owner().public().unwrap(), role: Role::Owner },
        Recipient { key: observer().public().unwrap(), role: Role::Observer },
    ]
}

/// Small chunks, so that a small recording has several.
pub const SMALL: Limits = Limits { soft: 4 << 10, hard: 6 << 10 };

pub fn session(seed: &str) -> SessionId {
    let mut bytes: [u8; 16] = Seeded::new(seed).bytes(16).try_into().unwrap();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    SessionId::new(bytes).unwrap()
}

pub fn start(seed: &str) -> Start {
    let stream = |id, name: &str, compression| Stream { compression, id, name: name.to_owned() };
    let participant = |name: &str, role: &str| Participant {
        key: Hex(*blake3::hash(name.as_bytes()).as_bytes()),
        name: name.to_owned(),
        role: role.to_owned(),
    };
    Start {
        session: session(seed),
        participants: vec![participant("Ada \"L\" Łovelace", "user"), participant("Bob", "observer")],
        policy: hash("policy"),
        consent: Some(b"consent".to_vec()),
        snapshot: Some(b"snapshot".to_vec()),
        codec: "lucid tiles and H.264, version 1".to_owned(),
        streams: vec![
            stream(VIDEO, "video", Compression::None),
            stream(AUDIT, "audit", Compression::Zstd),
            stream(POINTER, "pointer", Compression::Zstd),
            stream(SOUND, "sound", Compression::None),
        ],
        recorder: "sample 1".to_owned(),
    }
}

pub fn hash(text: &str) -> Hash {
    Hex(*blake3::hash(text.as_bytes()).as_bytes())
}

/// The wall clock of the samples: 2026-01-01 and the session's time.
pub fn time(mono_us: u64) -> Time {
    Time { wall_ms: 1_767_225_600_000 + mono_us / 1000, mono_us }
}

/// What was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub stream: u8,
    pub key: bool,
    pub mono_us: u64,
    pub payload: Vec<u8>,
}

/// A session that is recorded.
pub struct Sample {
    pub writer: Writer,
    pub content: Seeded,
    pub mono_us: u64,
    pub kept: Vec<Kept>,
    pub events: u64,
}

impl Sample {
    pub fn create(parent: &Path, seed: &str, limits: Limits) -> Self {
        let random = Seeded::boxed(&format!("keys of {seed}"));
        let writer =
            Writer::create(parent, start(seed), time(0), &recipients(), device(), limits, random).unwrap();
        Self::of(writer, seed, 0)
    }

    pub fn of(writer: Writer, seed: &str, mono_us: u64) -> Self {
        let content = Seeded::new(&format!("content of {seed} from {mono_us}"));
        Self { writer, content, mono_us, kept: Vec::new(), events: 0 }
    }

    pub fn append(&mut self, stream: u8, key: bool, payload: Vec<u8>) {
        self.mono_us += 1 + self.content.below(20_000) as u64;
        self.writer.append(stream, time(self.mono_us), key, &payload).unwrap();
        self.kept.push(Kept { stream, key, mono_us: self.mono_us, payload });
    }

    /// A second of a session: events, pointer, sound, pictures. `keys` says whether the encoder gives a key when it is
    /// asked for one.
    pub fn second(&mut self, keys: bool) {
        if self.kept.is_empty() {
            self.append(VIDEO, true, b"the first picture".to_vec());
        }
        self.events += 1;
        let event = format!(
            "{{\"kind\":\"focus\",\"application\":\"org.example.Editor\",\"event\":{}}}\n",
            self.events
        );
        self.append(AUDIT, false, event.repeat(4).into_bytes());
        let pointer = (0..40_u8).flat_map(|step| [step, 0, 7, 0]).collect();
        self.append(POINTER, false, pointer);
        let sound = self.content.bytes(120);
        self.append(SOUND, false, sound);
        for _ in 0..4 {
            let size = 150 + self.content.below(300);
            let picture = self.content.bytes(size);
            let key = keys && self.writer.wants_key();
            self.append(VIDEO, key, picture);
        }
    }

    pub fn audit(&self) -> Hash {
        hash(&format!("event {}", self.events))
    }

    pub fn commit(&mut self) {
        let audit = Some(self.audit());
        self.writer.commit(time(self.mono_us), audit).unwrap();
    }

    pub fn finish(self) -> (PathBuf, Vec<Kept>) {
        let dir = self.writer.dir().to_owned();
        let audit = Some(Audit { count: self.events, hash: self.audit() });
        self.writer.finish(time(self.mono_us + 1000), audit).unwrap();
        (dir, self.kept)
    }
}

/// A recording of one part.
pub fn plain(parent: &Path, seed: &str, seconds: usize) -> (PathBuf, Vec<Kept>) {
    let mut sample = Sample::create(parent, seed, SMALL);
    for _ in 0..seconds {
        sample.second(true);
        sample.commit();
    }
    sample.finish()
}

/// A recording of two parts: some chunks, one of them cut without a key; a power cut over a chunk with a record that no
/// head confirmed and one that is torn; a gap; some more chunks. It says which records are in it.
pub fn with_gap(parent: &Path, seed: &str) -> (PathBuf, Vec<Kept>) {
    let mut sample = Sample::create(parent, seed, SMALL);
    for second in 0..10 {
        sample.second(second > 5);
        sample.commit();
    }
    let dir = sample.writer.dir().to_owned();
    let confirmed = load(&dir);
    let mut kept = sample.kept.len();
    sample.second(false);
    sample.commit();
    let all = std::mem::take(&mut sample.kept);
    drop(sample);
    // Two of the records, and some bytes of a third, reached the disk, and half of the line that was to confirm them.
    let mut files = load(&dir);
    let name = confirmed.keys().rfind(|name| name.starts_with("chunk-")).unwrap().clone();
    let before = confirmed[&name].len();
    let record =
        |at: usize| at + 6 + u32::from_le_bytes(files[&name][at..at + 4].try_into().unwrap()) as usize;
    let cut = record(record(before)) + 11;
    kept += 2;
    files.get_mut(&name).unwrap().truncate(cut);
    let heads = confirmed["heads.jsonl"].len();
    files.get_mut("heads.jsonl").unwrap().truncate(heads + 100);
    files.retain(|other, _| !other.starts_with("chunk-") || *other <= name);
    store(&dir, &files);

    let mut all = all[..kept].to_vec();
    let recovery = Recovery::open(&dir, device(), "sample 1").unwrap();
    let later = recovery.mono_us() + 5_000_000;
    let random = Seeded::boxed(&format!("later keys of {seed}"));
    let writer = recovery.resume(&recipients(), time(later), "the power was cut", SMALL, random).unwrap();
    let mut sample = Sample::of(writer, seed, later);
    for _ in 0..8 {
        sample.second(true);
        sample.commit();
    }
    let (dir, more) = sample.finish();
    all.extend(more);
    (dir, all)
}

/// The files of a directory, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn load(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Makes a directory hold just these files.
pub fn store(dir: &Path, files: &Files) {
    if dir.exists() {
        fs::remove_dir_all(dir).unwrap();
    }
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// A directory that costs no disk.
pub fn temp() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
