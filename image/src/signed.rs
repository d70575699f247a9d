//! Verified boot on the Pi: `boot.img`, which holds a boot slot's files, and `boot.sig`, which signs it.
//!
//! The format is that of Raspberry Pi's own tool, `rpi-eeprom-digest` (repository raspberrypi/rpi-eeprom, commit
//! 86759b04), which writes three lines: the SHA-256 of the file (`sha256sum "${IMAGE}" | awk '{print $1}'`), the time
//! (`echo "ts: ${SOURCE_DATE_EPOCH}"`), and the signature (`echo "rsa2048: ${sig_hex}"`, where `sig_hex` is what
//! `openssl dgst -sign "${KEY}" -sha256` gives, in hexadecimal). In the words of `docs/secure-boot.md` of
//! raspberrypi/usbboot (commit 87d6e032), it "extends the current `.sig` format of sha256 + timestamp to include a
//! hex-format RSA PKCS#1 v1.5 signature. The key length must be 2048 bits", and the boot loader "verifies that the hash
//! of `boot.img` matches `boot.sig` and that the RSA signature in `boot.sig` can be validated using the customer's
//! public key". [`check`] does the same two steps. The time is not part of what is signed.
//!
//! The hash of the key that is fused ([`PublicKey::hash`]) is over what `append_public_key` of `rpi-sign-bootcode`
//! (same repository) writes: the modulus in 256 bytes and the exponent in 8, both little-endian.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fatfs::{FileSystem, FsOptions};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rustls_pki_types::pem::{SectionKind, SliceIter};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::disk;
use crate::error::{At, Error, Result};
use crate::fat::{Entry, Place};
use crate::layout::{Kind, MIB, PARTITIONS, SECTOR};
use crate::verify::{self, Verified};
use crate::verity::Parameters;

/// The file that holds a slot's files.
pub const IMAGE: &str = "boot.img";
/// The file that signs it.
pub const SIGNATURE: &str = "boot.sig";
const CONFIG: &str = "config.txt";
const COMMAND_LINE: &str = "cmdline.txt";

/// The largest `boot.img` that Raspberry Pi documents (`boot_ramdisk` in `config.txt`).
pub const MAX_BYTES: u64 = 96_000_000;
/// Above this, images have failed on boards with boot loaders of 2024.
pub const SAFE_BYTES: u64 = 30_000_000;
/// A slot of ours holds six files; Raspberry Pi's own boot partition some forty.
const MAX_FILES: usize = 1024;
const MAX_CONFIG: u64 = 64 << 10;
const MAX_SIGNATURE: u64 = 4 << 10;
const MAX_KEY: u64 = 16 << 10;
/// The identity of the file system in `boot.img`: fixed, as those of the disk's partitions are.
const VOLUME_ID: u32 = 0xb007;
/// 1980-01-01, where the times of a FAT begin, which all files of ours carry.
const FAT_EPOCH: u64 = 315_532_800;

/// What stands beside `boot.img` in the slot. A Pi 5 takes a partition without `config.txt` for not bootable.
const OUTER_CONFIG: &str = "# This slot's files are in boot.img, which boot.sig signs. Nothing else here is read.\n\
                            [all]\nboot_ramdisk=1\n";

/// Settings by which the firmware reads files that are not looked for here.
const UNKNOWN_FILES: [&str; 11] = [
    "armstub",
    "auto_initramfs",
    "cmdline",
    "device_tree",
    "dtoverlay",
    "include",
    "os_prefix",
    "overlay_prefix",
    "ramfsaddr",
    "ramfsfile",
    "upstream_kernel",
];

/// The DER of an RSA-2048 public key with e = 65537 (RFC 3279, 2.3.1), up to the modulus and behind it: the lengths
/// and the exponent are fixed, so every other key differs.
const SPKI_HEAD: [u8; 33] = [
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
    0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00, 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00,
];
const SPKI_TAIL: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
const EXPONENT: [u8; 3] = [1, 0, 1];
const WRONG_KIND: &str =
    "is not an RSA key of 2048 bits with the exponent 65537, the only kind that the Pi knows";

/// The public half of a key: RSA-2048, e = 65537.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    modulus: Vec<u8>,
}

/// The secret half. It cannot be printed; what was read of the file is overwritten, what `ring` keeps of it is not.
pub struct SecretKey {
    pair: RsaKeyPair,
    public: PublicKey,
}

fn key_error(path: &Path) -> impl Fn(&str) -> Error {
    let path = path.to_owned();
    move |why| Error::Key { path: path.clone(), why: why.to_owned() }
}

/// Reads a whole file of at most `most` bytes. The room is made at once, so that no copy stays behind.
fn read_bounded(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path).at("opening", path)?;
    // One byte more than may be there, and what read_to_end probes with.
    let mut contents =
        Zeroizing::new(Vec::<u8>::with_capacity(usize::try_from(most).unwrap_or_default() + 64));
    file.take(most + 1).read_to_end(&mut contents).at("reading", path)?;
    if contents.len() as u64 > most {
        return Err(Error::Format { path: path.to_owned(), why: format!("has more than {most} bytes") });
    }
    Ok(contents)
}

/// The first section of a PEM file.
fn pem(path: &Path) -> Result<(SectionKind, Zeroizing<Vec<u8>>)> {
    let error = key_error(path);
    let text = read_bounded(path, MAX_KEY)?;
    match SliceIter::<(SectionKind, Vec<u8>)>::new(&text).next() {
        Some(Ok((kind, der))) => Ok((kind, Zeroizing::new(der))),
        Some(Err(why)) => Err(error(&format!("is not PEM: {why}"))),
        None if text.windows(9).any(|word| word == b"ENCRYPTED") => Err(error(
            "is encrypted; write it out for this step with `openssl pkey`, to a place that is not kept",
        )),
        None => Err(error("has no key in PEM")),
    }
}

impl PublicKey {
    /// Reads a public key, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// When there is none, or one of another kind.
    pub fn read(path: &Path) -> Result<Self> {
        let (kind, der) = pem(path)?;
        if kind != SectionKind::PublicKey {
            return Err(key_error(path)(
                "is not a public key; write its public half with `openssl pkey -pubout`",
            ));
        }
        let modulus = der
            .strip_prefix(&SPKI_HEAD)
            .and_then(|rest| rest.strip_suffix(&SPKI_TAIL))
            .filter(|modulus| modulus.len() == 256 && modulus.first().is_some_and(|first| *first >= 0x80))
            .ok_or_else(|| key_error(path)(WRONG_KIND))?;
        Ok(Self { modulus: modulus.to_vec() })
    }

    /// What is fused, and what a board's boot loader and `rpiboot` call the customer key hash.
    #[must_use]
    pub fn hash(&self) -> String {
        let modulus: Vec<u8> = self.modulus.iter().rev().copied().collect();
        hex::encode(Sha256::new().chain_update(modulus).chain_update(65_537_u64.to_le_bytes()).finalize())
    }
}

impl SecretKey {
    /// Reads a secret key in PEM (PKCS#8 or PKCS#1).
    ///
    /// # Errors
    /// When there is none, or one of another kind.
    pub fn read(path: &Path) -> Result<Self> {
        let error = key_error(path);
        let (kind, der) = pem(path)?;
        let pair = match kind {
            SectionKind::PrivateKey => RsaKeyPair::from_pkcs8(&der),
            SectionKind::RsaPrivateKey => RsaKeyPair::from_der(&der),
            _ => return Err(error("is not a secret RSA key")),
        }
        .map_err(|why| error(&format!("{WRONG_KIND} ({why})")))?;
        let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
        if n.len() != 256 || e != EXPONENT {
            return Err(error(WRONG_KIND));
        }
        Ok(Self { pair, public: PublicKey { modulus: n } })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The text of `boot.sig` for these contents.
    ///
    /// # Errors
    /// When the key is inconsistent in itself.
    pub fn sign(&self, contents: &[u8], seconds: u64) -> Result<String> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), contents, &mut signature).map_err(|_| {
            Error::Signed {
                path: IMAGE.into(),
                why: "the key cannot sign: its parts do not belong together".into(),
            }
        })?;
        let hash = hex::encode(Sha256::digest(contents));
        Ok(format!("{hash}\nts: {seconds}\nrsa2048: {}\n", hex::encode(signature)))
    }
}

/// The time for `boot.sig`: `SOURCE_DATE_EPOCH`, or else the one that the files in `boot.img` carry.
///
/// # Errors
/// When `SOURCE_DATE_EPOCH` is not a number of seconds.
pub fn time() -> Result<u64> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(FAT_EPOCH) };
    text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| Error::Format {
        path: "SOURCE_DATE_EPOCH".into(),
        why: "is not a number of seconds since 1970; mend or unset it".into(),
    })
}

/// Where a slot's files are read from.
enum Source<'a> {
    Directory(&'a Path),
    Fat(Place<'a>),
}

impl<'a> Source<'a> {
    /// A directory, the image of a boot partition, or a disk image (its slot A).
    fn of(path: &'a Path) -> Result<Self> {
        let meta = fs::metadata(path).at("reading", path)?;
        if meta.is_dir() {
            return Ok(Self::Directory(path));
        }
        let mut magic = [0; 8];
        let mut file = File::open(path).at("opening", path)?;
        file.seek(SeekFrom::Start(SECTOR)).and_then(|_| file.read_exact(&mut magic)).at("reading", path)?;
        if &magic == b"EFI PART" {
            disk::check_table(path)?;
            return Ok(Self::Fat(disk::fat(path, disk::partition(path, "boot-a")?)));
        }
        Ok(Self::Fat(Place { disk: path, name: "boot", start: 0, bytes: meta.len() }))
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let files = match self {
            Self::Directory(path) => entries(path)?,
            Self::Fat(place) => place.list()?,
        };
        if files.len() > MAX_FILES {
            let path = self.path().to_owned();
            return Err(Error::Format { path, why: format!("holds more than {MAX_FILES} files") });
        }
        Ok(files)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Directory(path) => {
                let path = path.join(name);
                fs::read(&path).at("reading", &path)
            }
            Self::Fat(place) => place.get(name),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Fat(place) => place.disk,
        }
    }
}

/// What a directory holds.
fn entries(directory: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).at("listing", directory)? {
        let path = entry.at("listing", directory)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::Format {
            path: path.clone(),
            why: "has a name that is not UTF-8; rename or remove it".into(),
        })?;
        let meta = fs::metadata(&path).at("reading", &path)?;
        entries.push(Entry { name: name.to_owned(), bytes: meta.len() });
        if entries.len() > MAX_FILES {
            let path = directory.to_owned();
            return Err(Error::Format { path, why: format!("holds more than {MAX_FILES} files") });
        }
    }
    Ok(entries)
}

/// The kernels and initramfs that `config.txt` names.
fn named(config: &str) -> std::result::Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut kernel = false;
    for line in config.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let (key, value) = line.split_once(['=', ' ']).unwrap_or((line, ""));
        match key {
            "kernel" => {
                kernel = true;
                names.push(value.to_owned());
            }
            "initramfs" => {
                names.extend(value.split(' ').next().unwrap_or_default().split(',').map(str::to_owned));
            }
            "boot_ramdisk" => {
                return Err(format!(
                    "`{line}`: this slot is signed already; give the files that it was made from"
                ));
            }
            _ if UNKNOWN_FILES.contains(&key) => {
                return Err(format!(
                    "`{line}` makes the firmware read files that are not looked for; take it out"
                ));
            }
            _ => {}
        }
    }
    // What a Pi 5 looks for by itself.
    if !kernel {
        names.push("kernel_2712.img".into());
    }
    Ok(names)
}

/// Whether a Pi 5 reads a file of this name by itself: device trees. Overlays are in a directory, which this project's slots do
/// not have.
fn read_by_name(name: &str) -> bool {
    name.starts_with("bcm2712") && name.ends_with(".dtb")
}

/// What of a slot's files the firmware reads.
struct Slot {
    files: BTreeMap<String, Vec<u8>>,
    left_out: Vec<String>,
    root_hash: String,
}

fn read_slot(from: &Path) -> Result<Slot> {
    let source = Source::of(from)?;
    let error = |why: String| Error::Format { path: from.to_owned(), why };
    let entries = source.list()?;
    let text = |name: &str| -> Result<String> {
        let entry = entries.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| error(format!("{name} is not among the boot files")))?;
        if entry.bytes > MAX_CONFIG {
            return Err(error(format!("{name} has more than {MAX_CONFIG} bytes")));
        }
        String::from_utf8(source.get(name)?).map_err(|why| error(format!("{name}: {why}")))
    };
    let mut wanted = named(&text(CONFIG)?).map_err(|why| error(format!("{CONFIG}: {why}")))?;
    let parameters =
        Parameters::parse(&text(COMMAND_LINE)?).map_err(|why| error(format!("{COMMAND_LINE}: {why}")))?;
    wanted.extend([CONFIG.to_owned(), COMMAND_LINE.to_owned()]);
    if let Some(missing) = wanted.iter().find(|name| !entries.iter().any(|entry| entry.name == **name)) {
        return Err(error(format!("{missing}, which {CONFIG} names, is not among the boot files")));
    }
    let (taken, left): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| wanted.contains(&entry.name) || read_by_name(&entry.name));
    if !taken.iter().any(|entry| entry.name.starts_with("bcm2712")) {
        return Err(error("no device tree of a Pi 5 (bcm2712….dtb) is among the boot files".into()));
    }
    refuse_large(taken.iter().map(|entry| entry.bytes).sum())?;
    let mut files = BTreeMap::new();
    for entry in taken {
        files.insert(entry.name.clone(), source.get(&entry.name)?);
    }
    let mut left_out: Vec<String> = left.into_iter().map(|entry| entry.name.clone()).collect();
    left_out.sort();
    Ok(Slot { files, left_out, root_hash: hex::encode(parameters.root) })
}

fn refuse_large(needed: u64) -> Result<()> {
    if needed > MAX_BYTES {
        return Err(Error::Room {
            what: IMAGE,
            needed,
            place: "the boot loader's RAM disk".into(),
            room: MAX_BYTES,
        });
    }
    Ok(())
}

/// The size of a FAT for these files: whole MiB, so that the kinds of FAT never lie on their boundary.
fn image_bytes(files: &BTreeMap<String, Vec<u8>>) -> u64 {
    // Clusters are of one or two sectors; so are those of a directory's entries (32 bytes for each 13 characters).
    const CLUSTER: u64 = 2 * SECTOR;
    let contents: u64 = files.values().map(|file| (file.len() as u64).next_multiple_of(CLUSTER)).sum();
    let entries: u64 = files.keys().map(|name| 32 * (3 + name.len() as u64 / 13)).sum();
    // Two tables take at most a 128th of the clusters (FAT16 of one sector, FAT32 of two); the rest begins a FAT.
    (contents + entries + contents / 64 + 128 * SECTOR).next_multiple_of(MIB)
}

/// What [`make`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What the check of it found.
    pub checked: Checked,
    /// Files that the firmware does not read, and that are not in `boot.img`.
    pub left_out: Vec<String>,
}

/// Makes `boot.img`, `boot.sig` and the `config.txt` that belongs beside them, and checks them with `public`.
///
/// # Errors
/// When a file is missing, something is too large, the keys do not belong together, or it cannot be written.
pub fn make(from: &Path, key: &SecretKey, public: &PublicKey, out: &Path, seconds: u64) -> Result<Made> {
    if key.public() != public {
        return Err(Error::Signed {
            path: out.join(SIGNATURE),
            why: format!(
                "the public key given ({}) is not the half of the secret key ({}); give the two of one pair",
                public.hash(),
                key.public().hash()
            ),
        });
    }
    let Slot { files, left_out, .. } = read_slot(from)?;
    let bytes = image_bytes(&files);
    refuse_large(bytes)?;
    fs::create_dir_all(out).at("making", out)?;
    if fs::canonicalize(from).at("reading", from)? == fs::canonicalize(out).at("reading", out)? {
        let why = "is where the boot files come from, whose config.txt would be lost; give another directory";
        return Err(Error::Format { path: out.to_owned(), why: why.into() });
    }
    let image = out.join(IMAGE);
    File::create(&image).and_then(|file| file.set_len(bytes)).at("making", &image)?;
    let fat = Place { disk: &image, name: IMAGE, start: 0, bytes };
    fat.format(VOLUME_ID, "boot")?;
    for (name, contents) in &files {
        fat.put(name, contents)?;
    }
    let contents = fs::read(&image).at("reading", &image)?;
    let signature = out.join(SIGNATURE);
    fs::write(&signature, key.sign(&contents, seconds)?).at("writing", &signature)?;
    let config = out.join(CONFIG);
    fs::write(&config, OUTER_CONFIG).at("writing", &config)?;
    Ok(Made { checked: check(public, out)?, left_out })
}

/// What was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Bytes of `boot.img`.
    pub bytes: u64,
    /// Its SHA-256, which a board with secure boot says in `/chosen/bootloader/boot_img_sha256`.
    pub sha256: String,
    /// The root hash in the `cmdline.txt` that it holds.
    pub root_hash: String,
    /// The hash of the key that signed it.
    pub key_hash: String,
}

impl Checked {
    /// What must be said of its size.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        (self.bytes > SAFE_BYTES).then(|| {
            format!(
                "{IMAGE} has {} bytes; above {SAFE_BYTES} boards with boot loaders of 2024 did not start: try it with \
                 {OUTER_NAME} before anything is fused, or make the kernel smaller (gzip is read)",
                self.bytes
            )
        })
    }
}

const OUTER_NAME: &str = "boot_ramdisk=1";

/// Does what the boot loader does with `boot.img` and `boot.sig` in a directory, and looks into `boot.img`.
///
/// # Errors
/// Says which file is not what it must be.
pub fn check(public: &PublicKey, directory: &Path) -> Result<Checked> {
    let image = directory.join(IMAGE);
    let bytes = fs::metadata(&image).at("reading", &image)?.len();
    refuse_large(bytes)?;
    let contents = fs::read(&image).at("reading", &image)?;
    let path = directory.join(SIGNATURE);
    let signed = |why: String| Error::Signed { path: path.clone(), why };
    let text = read_bounded(&path, MAX_SIGNATURE)?;
    let (hash, signature) = std::str::from_utf8(&text)
        .ok()
        .and_then(parse)
        .ok_or_else(|| signed("is not the three lines that rpi-eeprom-digest writes; sign again".into()))?;
    let sha256 = hex::encode(Sha256::digest(&contents));
    if sha256 != hash {
        return Err(signed(format!(
            "was not made for {IMAGE}, whose SHA-256 is {sha256} and not {hash}: one of them was changed; sign again"
        )));
    }
    RsaPublicKeyComponents { n: public.modulus.as_slice(), e: EXPONENT.as_slice() }
        .verify(&RSA_PKCS1_2048_8192_SHA256, &contents, &signature)
        .map_err(|_| {
            signed(format!(
                "the signature was changed, or made with another key than the one with the hash {}; sign again",
                public.hash()
            ))
        })?;
    let config = directory.join(CONFIG);
    let outer = read_bounded(&config, MAX_CONFIG)?;
    if !outer.split(|byte| *byte == b'\n').any(|line| line == OUTER_NAME.as_bytes()) {
        let why = format!("has no line {OUTER_NAME}, so that {IMAGE} is not read without fusing; sign again");
        return Err(Error::Signed { path: config, why });
    }
    let slot = read_slot(&image)?;
    if let Some(name) = slot.left_out.first() {
        let why = format!("holds {name}, which the firmware does not read; sign again");
        return Err(Error::Signed { path: image, why });
    }
    Ok(Checked { bytes, sha256, root_hash: slot.root_hash, key_hash: public.hash() })
}

/// The hash and the signature of a `boot.sig`.
fn parse(text: &str) -> Option<(&str, Vec<u8>)> {
    let lower_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let hash = lines.next().filter(|line| line.len() == 64 && lower_hex(line))?;
    let time = lines.next()?.strip_prefix("ts: ")?;
    if time.is_empty() || !time.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let signature =
        lines.next()?.strip_prefix("rsa2048: ").filter(|hex| hex.len() == 512 && lower_hex(hex))?;
    if lines.next().is_some() {
        return None;
    }
    Some((hash, hex::decode(signature).ok()?))
}

/// Puts the three files into both boot slots of a disk image, in place of all that was there, and checks the image.
///
/// # Errors
/// When the files are not good, the image is not Lucid's, or a root is not the one that `boot.img` names.
pub fn install(public: &PublicKey, directory: &Path, image: &Path) -> Result<Vec<Verified>> {
    check(public, directory)?;
    disk::check_table(image)?;
    let mut files = Vec::new();
    for name in [CONFIG, IMAGE, SIGNATURE] {
        let path = directory.join(name);
        files.push((name, fs::read(&path).at("reading", &path)?));
    }
    for partition in PARTITIONS.iter().filter(|partition| partition.kind == Kind::Boot) {
        // What was there before would make the image depend on more than its contents.
        disk::write(
            image,
            partition,
            &vec![0; usize::try_from(partition.bytes()).unwrap_or_default()],
            "zeros",
        )?;
        let fat = disk::fat(image, partition);
        fat.format(partition.number, partition.name)?;
        for (name, contents) in &files {
            fat.put(name, contents)?;
        }
    }
    verify::verify(image)
}

/// Reads `cmdline.txt` of a boot slot: out of `boot.img` where there is one, as the firmware does.
///
/// # Errors
/// When it is not there.
pub fn command_line(slot: &Place<'_>) -> Result<Vec<u8>> {
    if !slot.list()?.iter().any(|entry| entry.name == IMAGE) {
        return slot.get(COMMAND_LINE);
    }
    let image = slot.get(IMAGE)?;
    let read = || {
        let volume = FileSystem::new(Cursor::new(image), FsOptions::new())?;
        let mut contents = Vec::new();
        volume.root_dir().open_file(COMMAND_LINE)?.take(MAX_CONFIG).read_to_end(&mut contents)?;
        Ok(contents)
    };
    read().map_err(|source: io::Error| Error::Fat {
        partition: slot.name.to_owned(),
        doing: "reading",
        name: PathBuf::from(IMAGE).join(COMMAND_LINE).display().to_string(),
        source,
    })
}
