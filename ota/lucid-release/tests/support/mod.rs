//! Holders with fixed keys, a small disk image, and a folder of releases.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err, reason = "this is for tests")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;
use jiff::Timestamp as Time;
use lucid_release::Result;
use lucid_release::document::Held;
use lucid_release::draft::{self, Added, Addition, Holders, PatchFrom, Plan};
use lucid_release::folder::{Days, Folder};
use lucid_release::key::{PublicKey, SecretKey};
use lucid_release::publish::{Done, Keys, publish};
use lucid_release::sign::Paper;
use tempfile::TempDir;
use tough::schema::Targets;
use tough::{FilesystemTransport, Repository, RepositoryLoader};
use url::Url;

/// Where the two partitions of the image begin, and their sizes.
const BOOT: (u64, u64) = (1 << 20, 1 << 20);
const ROOT: (u64, u64) = (2 << 20, 3 << 20);

pub fn now() -> Time {
    Time::now()
}

/// A key that is the same in each run.
pub fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32]).unwrap()
}

pub fn publics(numbers: &[u8]) -> Vec<PublicKey> {
    numbers.iter().map(|number| key(*number).public()).collect()
}

/// Root keys 1 to 5, of which 3 sign; targets keys 11 to 13, of which 2; snapshot 21; timestamp 31.
pub fn plan() -> Plan {
    let holders = |numbers: &[u8], threshold| Holders { keys: publics(numbers), threshold };
    Plan {
        root: holders(&[1, 2, 3, 4, 5], 3),
        targets: holders(&[11, 12, 13], 2),
        snapshot: holders(&[21], 1),
        timestamp: holders(&[31], 1),
        development: false,
    }
}

/// Bytes that follow from a number, and do not pack.
pub fn noise(number: u8, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut bytes);
    bytes
}

/// What the partitions of [`image`] hold, zeros at their ends left out.
pub fn parts(number: u8) -> [Vec<u8>; 2] {
    let mut boot = noise(number, 300_000);
    boot.resize(300_000 + 200_000, 0);
    boot.extend_from_slice(b"the end of it");
    let root = [noise(100, 1 << 20), noise(number, 200_000), b"text that packs well ".repeat(9000)].concat();
    [boot, root]
}

/// The same with a byte changed here and there, so that no chunk of the noise stays and most of its bytes do.
pub fn touched(number: u8) -> [Vec<u8>; 2] {
    parts(number).map(|mut part| {
        for at in (0..part.len()).step_by(5000) {
            part[at] ^= 1;
        }
        part
    })
}

/// A disk with a table and two partitions.
pub fn image(path: &Path, number: u8) -> PathBuf {
    image_of(path, &parts(number))
}

/// The same, with these parts.
pub fn image_of(path: &Path, parts: &[Vec<u8>; 2]) -> PathBuf {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(6 << 20).unwrap();
    ProtectiveMBR::with_lb_size((6 << 20) / 512 - 1).overwrite_lba0(&mut file).unwrap();
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, None)
        .unwrap();
    let mut entries = BTreeMap::new();
    for (place, (name, (start, bytes))) in [("boot-a", BOOT), ("root-a", ROOT)].into_iter().enumerate() {
        let partition = gpt::partition::Partition {
            part_type_guid: partition_types::LINUX_FS,
            part_guid: format!("6c756369-6400-4000-8000-00000000000{place}").parse().unwrap(),
            first_lba: start / 512,
            last_lba: (start + bytes) / 512 - 1,
            flags: 0,
            name: name.to_owned(),
        };
        entries.insert(place as u32 + 1, partition);
    }
    disk.update_partitions(entries).unwrap();
    let mut file = disk.write().unwrap();
    for ((start, _), part) in [BOOT, ROOT].into_iter().zip(parts) {
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(part).unwrap();
    }
    path.to_owned()
}

/// [`publish`] or what is like it.
pub type Does = fn(&Folder, &Path, &Keys<'_>, Time, &dyn Fn(&str)) -> Result<Done>;

/// A folder of releases and a web folder, which vanish after the test.
pub struct Place {
    temporary: TempDir,
    pub folder: Folder,
    pub web: PathBuf,
}

impl Place {
    /// With a first root that keys 1, 2 and 3 have signed.
    pub fn new() -> Self {
        Self::of(&plan(), &[1, 2, 3])
    }

    pub fn of(plan: &Plan, signers: &[u8]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::make(&temporary.path().join("releases"), Days::default()).unwrap();
        let at_hand: Vec<_> = signers.iter().map(|number| key(*number)).collect();
        draft::first_root(&folder, plan, &at_hand, now()).unwrap();
        let web = temporary.path().join("web");
        Self { temporary, folder, web }
    }

    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// A draft with a release of a small image.
    pub fn add(&self, version: &str, number: u8) -> Held<Targets> {
        let image = image(&self.path().join(format!("{version}.img")), number);
        self.add_image(&image, version).unwrap()
    }

    pub fn add_image(&self, image: &Path, version: &str) -> Result<Held<Targets>> {
        self.add_with(image, version, Vec::new()).map(|added| added.held)
    }

    /// A draft with a release of an image with these parts, and a patch from another version.
    pub fn add_patched(&self, version: &str, parts: &[Vec<u8>; 2], from: &str) -> Added {
        let image = image_of(&self.path().join(format!("{version}.img")), parts);
        self.add_with(&image, version, vec![draft::patch_from(from).unwrap()]).unwrap()
    }

    pub fn add_with(&self, image: &Path, version: &str, patch_from: Vec<PatchFrom>) -> Result<Added> {
        let addition = Addition {
            image,
            machine: "qemu-arm64".parse().unwrap(),
            version: version.parse().unwrap(),
            channel: "stable".parse().unwrap(),
            min_version: "0.0.0".parse().unwrap(),
            min_from: "0.0.0".parse().unwrap(),
            waves: vec![draft::wave("0:100").unwrap(), draft::wave("1d:1000").unwrap()],
            patch_from,
            level: 1,
        };
        draft::add(&self.folder, &addition, now(), &|_, _, _| {})
    }

    /// Signs the draft in the folder itself.
    pub fn sign(&self, number: u8) -> Result<bool> {
        Paper::open(&self.folder.targets_file(), None)?.sign(&key(number))
    }

    /// A copy of the draft on a holder's own machine, signed there.
    pub fn signed_apart(&self, file: &str, number: u8) -> PathBuf {
        let own = self.path().join(format!("holder-{number}"));
        fs::create_dir_all(&own).unwrap();
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let from = entry.unwrap().path();
            if from.extension().is_some_and(|extension| extension == "json") {
                fs::copy(&from, own.join(from.file_name().unwrap())).unwrap();
            }
        }
        let copy = own.join(file);
        assert!(Paper::open(&copy, None).unwrap().sign(&key(number)).unwrap());
        copy
    }

    pub fn publish(&self) -> Result<Done> {
        self.does(publish)
    }

    pub fn does(&self, does: Does) -> Result<Done> {
        let (snapshot, timestamp) = ([key(21)], [key(31)]);
        let keys = Keys { snapshot: &snapshot, timestamp: &timestamp };
        does(&self.folder, &self.web, &keys, now(), &|_| {})
    }

    /// Loads the web folder by a client of its own, with what it knew before.
    pub fn load(&self, memory: Option<&Path>) -> std::result::Result<Repository, tough::error::Error> {
        let root = fs::read(self.folder.path().join("1.root.json")).unwrap();
        let address = |name: &str| Url::from_directory_path(self.web.join(name)).unwrap();
        let mut loader = RepositoryLoader::new(&root, address("metadata"), address("targets"))
            .transport(FilesystemTransport);
        if let Some(memory) = memory {
            loader = loader.datastore(memory);
        }
        block_on(loader.load())
    }
}

pub fn block_on<T>(does: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(does)
}
