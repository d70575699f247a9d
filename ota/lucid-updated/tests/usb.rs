//! USB sticks as sources: which disks are sticks, what is read of them, and what the service makes of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    fs,
    io::{Cursor, Write as _},
    os::unix::fs::symlink,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use lucid_release_format::Kind;
use lucid_updated::{
    Error,
    boot::Slot,
    files::{Folder as Kept, Store as _},
    gate::Check,
    schedule::{Change, Plan},
    service::{After, Asked, Cause, Parts, STATUS, Service, Settings},
    source::{Failed, Folder, Limits, Source},
    state::{FILE, Phase},
    trust::{Refused, Trust},
    usb::{MAX_STICKS, Usb},
};
use support::{
    machine::{Known, Lines, Power, Random, SimMachine},
    repository::{Maker, Site, release, signer},
    system,
};

/// Long enough for a machine that is busy, and never waited for where all is well.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(60),
    first: Duration::from_secs(60),
    stall: Duration::from_secs(60),
    whole: Duration::from_secs(60),
    window: Duration::from_secs(60),
    least: 0,
};
/// What both images of the corpus have, beside a letter that is none of ours.
const LONG: &str =
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.lucid-qemu-arm64-1.2.3.chunks";
const IMAGES: [&str; 2] = ["good-exfat", "good-fat32"];

/// An image that was formatted by mkfs.exfat or mkfs.vfat, and found to be good by their fsck.
fn image(name: &str) -> Vec<u8> {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../rust/fuzz/corpus/update_stick");
    fs::read(PathBuf::from(corpus).join(name)).unwrap()
}

/// The bytes that were written into those images.
fn noise(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
        (state >> 16) as u8
    })
    .take(count)
    .collect()
}

/// Where that kernel shows its driver of sticks.
const DRIVER: &str = "bus/usb/drivers/usb-storage";

/// A kernel that shows disks.
struct Ports(tempfile::TempDir);

impl Ports {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["class", "dev", DRIVER, "bus/pci"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    fn usb(&self) -> Usb {
        let path = |name| self.0.path().join(name);
        Usb::new(path("class"), path("dev"), path(DRIVER), LIMITS)
    }

    /// A disk on that bus, with these partitions; each of them, or the disk without any, holds the image.
    fn plug(&self, bus: &str, disk: &str, parts: &[&str], number: u64, image: &[u8]) {
        let whole = [disk];
        let names: &[&str] = if parts.is_empty() { &whole } else { parts };
        for name in names {
            fs::write(self.device(name), image).unwrap();
        }
        let bridge = self.0.path().join(format!("devices/{bus}-{disk}"));
        let real = bridge.join("host0/block").join(disk);
        fs::create_dir_all(&real).unwrap();
        symlink(format!("../../bus/{bus}"), bridge.join("subsystem")).unwrap();
        fs::write(real.join("size"), format!("{}\n", image.len() / 512)).unwrap();
        fs::write(real.join("diskseq"), format!("{number}\n")).unwrap();
        for part in parts {
            fs::create_dir_all(real.join(part)).unwrap();
            fs::write(real.join(part).join("partition"), "1\n").unwrap();
            fs::write(real.join(part).join("size"), "64\n").unwrap();
            symlink(real.join(part), self.0.path().join("class").join(part)).unwrap();
        }
        symlink(&real, self.0.path().join("class").join(disk)).unwrap();
    }

    fn device(&self, name: &str) -> PathBuf {
        self.0.path().join("dev").join(name)
    }

    /// The stick of most tests.
    fn stick(&self, number: u64, image: &[u8]) {
        self.plug("usb", "sda", &["sda1"], number, image);
    }

    fn pull(&self) {
        for place in ["class/sda", "class/sda1", "dev/sda1"] {
            fs::remove_file(self.0.path().join(place)).unwrap();
        }
        fs::remove_dir_all(self.0.path().join("devices/usb-sda")).unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.usb().there().unwrap().iter().map(|stick| stick.name()).collect()
    }

    /// The only stick, as a source.
    async fn source(&self) -> Result<Option<Arc<dyn Source>>, String> {
        let usb = self.usb();
        usb.source(&usb.there().unwrap()[0]).await
    }
}

/// A FAT16 of 16 MiB with the files of a site in its folder `lucid`.
fn fat(site: &Site) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 16 << 20]);
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat16).bytes_per_cluster(1024);
    fatfs::format_volume(&mut disk, options).unwrap();
    {
        let fs = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).unwrap();
        {
            let top = fs.root_dir().create_dir("lucid").unwrap();
            for path in site.paths() {
                let (folder, name) = path.split_once('/').unwrap();
                let mut file = top.create_dir(folder).unwrap().create_file(name).unwrap();
                file.write_all(&site.get(&path)).unwrap();
                file.flush().unwrap();
            }
        }
        fs.unmount().unwrap();
    }
    disk.into_inner()
}

/// A stretch of a target.
async fn stretch(source: &dyn Source, name: &str, from: u64, to: u64) -> Result<Bytes, Failed> {
    let mut stretch = source.range(name, from, to).await?;
    let bytes = stretch.take(usize::try_from(to - from).unwrap()).await?;
    stretch.end().await?;
    Ok(bytes)
}

#[test]
fn only_disks_on_the_usb_bus_are_sticks_by_their_partitions_where_they_have_any() {
    let ports = Ports::new();
    assert!(ports.names().is_empty());
    ports.plug("pci", "sdb", &["sdb1"], 1, &[0; 512]);
    ports.plug("usb", "vdc", &["vdc1"], 2, &[0; 512]);
    // A reader without a card.
    ports.plug("usb", "sdd", &[], 3, &[]);
    assert!(ports.names().is_empty());
    ports.plug("usb", "sda", &["sda1", "sda2"], 4, &[0; 512]);
    ports.plug("usb", "sdc", &[], 5, &[0; 512]);
    assert_eq!(ports.names(), ["the USB stick sdc", "the USB stick sda1", "the USB stick sda2"]);
}

#[test]
fn however_many_partitions_there_are_few_are_looked_at() {
    let ports = Ports::new();
    let parts: Vec<String> = (1..=60).map(|number| format!("sda{number}")).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    ports.plug("usb", "sda", &parts, 1, &[0; 512]);
    assert_eq!(ports.names(), ["the USB stick sda1", "the USB stick sda2"]);
    let said = ports.usb().found().unwrap().1.unwrap();
    assert!(
        said.starts_with("not looked at: sda3, sda4, sda5, sda6, sda7, sda8, sda9, sda10 and 50 more;"),
        "{said}"
    );
}

#[test]
fn the_stick_that_came_last_is_looked_at_whatever_was_there_before_and_what_is_not_is_named() {
    let ports = Ports::new();
    for (disk, number) in [("sda", 3), ("sdb", 1), ("sdc", 2)] {
        let parts = [1, 2, 3].map(|part| format!("{disk}{part}"));
        ports.plug("usb", disk, &parts.each_ref().map(String::as_str), number, &[0; 512]);
    }
    let taken = ["sda1", "sda2", "sdc1", "sdc2"].map(|name| format!("the USB stick {name}"));
    assert_eq!((taken.len(), ports.names()), (MAX_STICKS, taken.to_vec()));
    let said = ports.usb().found().unwrap().1.unwrap();
    assert!(said.starts_with("not looked at: sda3, sdc3, sdb1, sdb2, sdb3;"), "{said}");
    ports.plug("usb", "sdd", &[], 4, &[0; 512]);
    assert_eq!(ports.names()[0], "the USB stick sdd");
}

#[tokio::test]
async fn what_is_plugged_in_and_not_looked_at_is_said() {
    let world = World::new();
    world.ports.plug("usb", "sda", &["sda1", "sda2", "sda3"], 1, &[0; 4096]);
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(words(&service).contains("not looked at: sda3;"), "{}", words(&service));
}

#[test]
fn a_stick_that_comes_back_is_another_one() {
    let ports = Ports::new();
    ports.stick(7, &[0; 512]);
    let before = ports.usb().there().unwrap();
    assert_eq!(ports.usb().there().unwrap(), before);
    ports.pull();
    ports.stick(8, &[0; 512]);
    assert_ne!(ports.usb().there().unwrap(), before);
}

#[tokio::test]
async fn files_come_as_they_were_written_from_exfat_and_fat() {
    for name in IMAGES {
        let ports = Ports::new();
        ports.stick(1, &image(name));
        let source = ports.source().await.unwrap().unwrap();
        assert_eq!(source.name(), "the USB stick sda1");
        let timestamp = source.whole(Folder::Metadata, "timestamp.json", 1000).await.unwrap();
        assert_eq!(timestamp, &b"{\"signed\":\"timestamp\"}\n"[..], "{name}");
        // One that lies in pieces, and one that does not.
        for (file, bytes) in [(LONG, noise(3000, 1)), ("b.chunks", noise(2500, 2))] {
            let length = bytes.len() as u64;
            for (from, to) in [(0, length), (1, 2), (511, 513), (700, 2400), (length - 1, length), (5, 5)] {
                let found = stretch(&*source, file, from, to).await.unwrap();
                assert_eq!(found, bytes[from as usize..to as usize], "{name}: {file} {from}..{to}");
            }
        }
        assert_eq!(fs::read(ports.device("sda1")).unwrap(), image(name), "something was written");
    }
}

#[tokio::test]
async fn what_a_stick_does_not_have_is_missing_and_what_is_too_large_is_not_read() {
    for name in IMAGES {
        let ports = Ports::new();
        ports.stick(1, &image(name));
        let source = ports.source().await.unwrap().unwrap();
        let whole = |file: &'static str, cap| source.whole(Folder::Metadata, file, cap);
        let missing = |name: &str| Failed::Missing { name: name.to_owned() };
        assert_eq!(whole("2.root.json", 10).await.unwrap_err(), missing("2.root.json"));
        let endless = Failed::Endless { name: "timestamp.json".into(), cap: 10 };
        assert_eq!(whole("timestamp.json", 10).await.unwrap_err(), endless);
        for wrong in ["../targets/b.chunks", ".", "", "a b"] {
            assert!(matches!(whole(wrong, 10).await.unwrap_err(), Failed::Name { .. }), "{wrong}");
        }
        assert_eq!(stretch(&*source, "c.chunks", 0, 1).await.unwrap_err(), missing("c.chunks"));
        let short = Failed::Short { name: "b.chunks".into(), had: 500, wanted: 501 };
        assert_eq!(stretch(&*source, "b.chunks", 2000, 2501).await.unwrap_err(), short);
    }
}

#[tokio::test]
async fn a_stick_with_something_else_is_no_source_and_one_that_cannot_be_read_is_named() {
    let ports = Ports::new();
    for bytes in [vec![0; 4096], noise(1 << 20, 3), vec![0xff; 600]] {
        ports.stick(1, &bytes);
        let why = ports.source().await.unwrap_err();
        assert!(why.contains("none of the file systems") || why.contains("larger than"), "{why}");
        ports.pull();
    }
    // Half of a file system.
    for name in IMAGES {
        ports.stick(1, &image(name)[..60 << 10]);
        let why = ports.source().await.unwrap_err();
        assert!(why.contains("larger than its device"), "{why}");
        ports.pull();
    }
    // A good one, without the folder.
    ports.stick(1, &fat(&Site::default()));
    assert!(ports.source().await.unwrap().is_none());
    fs::remove_file(ports.device("sda1")).unwrap();
    assert!(ports.names().is_empty());
}

#[tokio::test]
async fn a_directory_without_an_end_comes_to_one() {
    let (mut bytes, ports) = (image("good-fat32"), Ports::new());
    // The root is cluster 2; its link leads back to it, and all its entries are deleted ones.
    bytes[4096 + 8..4096 + 12].copy_from_slice(&2_u32.to_le_bytes());
    bytes[5120..5632].fill(0xe5);
    ports.stick(1, &bytes);
    let why = ports.source().await.unwrap_err();
    assert!(why.contains("too many files"), "{why}");
}

/// A device that runs 0.1.0 and has no source but sticks.
struct World {
    machine: SimMachine,
    maker: Maker,
    site: Site,
    trust: Trust,
    run: tempfile::TempDir,
    ports: Ports,
    sources: Vec<Arc<dyn Source>>,
    metered: bool,
    channel: &'static str,
}

impl World {
    fn new() -> Self {
        let slots =
            [(Slot::A, Kind::Boot), (Slot::A, Kind::Root), (Slot::B, Kind::Boot), (Slot::B, Kind::Root)];
        let slots = slots.map(|(slot, kind)| (slot, kind, vec![0; 256 << 10]));
        let machine = SimMachine::new(Power::new(u64::MAX, 1), slots, false);
        let (maker, site, run) = (Maker::new(), Site::default(), tempfile::tempdir().unwrap());
        let trust = Trust { root: maker.root(1, &[]), scratch: run.path().join("scratch"), built: 0 };
        let (ports, sources, metered, channel) = (Ports::new(), Vec::new(), false, "stable");
        Self { machine, maker, site, trust, run, ports, sources, metered, channel }
    }

    /// What is published is on a stick from now on.
    fn stick(&self, number: u64) {
        self.ports.stick(number, &fat(&self.site));
    }

    fn offer(&mut self, version: &str) {
        let mut random = Random(100);
        self.maker.add(&self.site, &release(version), &random.bytes(20_000), &random.bytes(90_000));
        self.maker.advance();
        self.maker.publish(&self.site);
    }

    fn service(&self, automatic: bool) -> Service {
        let service = Service::open(Parts {
            store: Arc::new(self.machine.store.clone()),
            boot: Arc::new(self.machine.clone()),
            slots: Arc::new(self.machine.clone()),
            trust: self.trust.clone(),
            sources: self.sources.clone(),
            checks: vec![Box::new(Known(Ok(()))) as Box<dyn Check>],
            journal: Arc::new(Lines),
            settings: Settings {
                system: system("0.1.0"),
                channel: self.channel.into(),
                within: Duration::ZERO,
                every: Duration::from_secs(3600),
                automatic,
                window: None,
                sessions: None,
                rdp: None,
                metered: self.metered,
                run: self.run.path().join("run"),
            },
        });
        service.unwrap().with_usb(self.ports.usb())
    }
}

fn words(service: &Service) -> String {
    service.status().unwrap().words()
}

fn staged(service: &Service) -> bool {
    matches!(service.state().phase, Phase::Staged { .. })
}

#[tokio::test]
async fn a_stick_is_a_source_by_itself_and_what_came_from_it_says_so_to_the_end() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.stick(1);
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::Restart);
    assert_eq!(service.state().source.as_deref(), Some("the USB stick sda1"));
    assert!(words(&service).contains("it comes from the USB stick sda1"), "{}", words(&service));
    world.machine.start();
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    let last = service.state().last().unwrap();
    assert!(last.words().ends_with("is well (from the USB stick sda1)"), "{}", last.words());
    assert_eq!(service.state().source, None);
}

#[tokio::test]
async fn what_was_staged_from_a_stick_is_tried_when_the_stick_is_gone_as_long_as_it_holds() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.stick(1);
    world.service(false).round(None).await.unwrap();
    world.ports.pull();
    // Without anybody who wants it, it waits.
    let mut service = world.service(false);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(staged(&service));
    assert_eq!(world.service(true).round(None).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn what_was_staged_is_not_tried_by_itself_once_what_was_believed_has_expired() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.stick(1);
    world.service(false).round(None).await.unwrap();
    world.ports.pull();
    // What is remembered, as a later day has it.
    world.maker.days[2] = -1;
    let store = Kept::new(world.run.path().join("later")).unwrap();
    let memory = lucid_updated::trust::Memory {
        timestamp: Some(world.maker.timestamp_file(&world.maker.snapshot_file(&world.maker.targets_file()))),
        ..lucid_updated::trust::Memory::default()
    };
    memory.save(&store).unwrap();
    let bytes = store.read(lucid_updated::trust::FILE, 1 << 20).unwrap().unwrap();
    world.machine.store.put(lucid_updated::trust::FILE, bytes);
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(staged(&service) && words(&service).contains("the restart waits"), "{}", words(&service));
    // Somebody who asks knows that.
    assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn what_was_staged_is_given_up_without_a_stick_too_when_it_is_not_for_this_device_any_more() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.stick(1);
    world.service(false).round(None).await.unwrap();
    world.ports.pull();
    world.channel = "edge";
    let kept = world.machine.store.get(FILE).unwrap();
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert_eq!(service.state().phase, Phase::Idle {});
    assert!(service.state().last().unwrap().reason.contains("another channel"), "{}", words(&service));
    drop(service);
    // Somebody who asks for it gets it.
    world.machine.store.put(FILE, kept);
    assert_eq!(world.service(true).round(Some(Asked::Apply)).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn what_was_staged_is_not_tried_by_itself_while_the_clock_is_set_back() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.stick(1);
    world.service(false).round(None).await.unwrap();
    world.ports.pull();
    // The image that runs was built tomorrow.
    world.trust.built = jiff::Timestamp::now().as_second() + 86_400;
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(staged(&service) && words(&service).contains("the restart waits"), "{}", words(&service));
}

#[tokio::test]
async fn what_a_stick_does_not_give_is_written_on_when_it_is_there_again() {
    let mut world = World::new();
    world.offer("0.2.0");
    // The archive alone is damaged.
    let archive = world.site.paths().into_iter().find(|path| path.ends_with(".chunks")).unwrap();
    let good = world.site.get(&archive);
    let mut bad = good.clone();
    bad[good.len() - 1] ^= 1;
    world.site.put(&archive, bad);
    world.stick(1);
    let mut service = world.service(false);
    assert!(matches!(service.round(None).await.unwrap_err(), Error::Chunk { .. }));
    assert!(words(&service).contains("the USB stick sda1: 0.2.0 is not had from it"), "{}", words(&service));
    world.ports.pull();
    assert_eq!(service.round(None).await.unwrap(), After::On);
    let Phase::Staging { release, .. } = &service.state().phase else {
        panic!("{:?}", service.state().phase)
    };
    assert_eq!(release.version, "0.2.0".parse().unwrap());
    assert!(words(&service).contains("plug in a stick that has it"), "{}", words(&service));
    // One that cannot be read is named beside that, however often it is looked at.
    world.ports.stick(7, &[0; 4096]);
    for _ in 0..2 {
        assert_eq!(service.round(None).await.unwrap(), After::On);
    }
    let said = words(&service);
    assert!(
        said.contains("none of the file systems") && said.contains("plug in a stick that has it"),
        "{said}"
    );
    assert_eq!(said.matches("plug in a stick").count(), 1, "{said}");
    world.ports.pull();
    world.site.put(&archive, good);
    world.stick(2);
    service.round(None).await.unwrap();
    assert!(staged(&service) && !words(&service).contains("plug in"), "{}", words(&service));
}

#[tokio::test]
async fn a_stick_gives_what_the_network_does_not() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.stick(1);
    let archive = world.site.paths().into_iter().find(|path| path.ends_with(".chunks")).unwrap();
    let name = archive.trim_start_matches("targets/").to_owned();
    world.site.fail(&archive, Failed::Missing { name });
    world.sources = vec![Arc::new(world.site.clone())];
    let mut service = world.service(false);
    service.round(None).await.unwrap();
    assert!(staged(&service));
    assert_eq!(service.state().source.as_deref(), Some("the USB stick sda1"));
}

#[tokio::test]
async fn where_fetching_costs_a_stick_is_read_all_the_same_and_nothing_else_without_asking() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.metered = true;
    world.sources = vec![Arc::new(world.site.clone())];
    let mut service = world.service(false);
    // The network alone: that waits for somebody who asks.
    service.round(None).await.unwrap();
    assert_eq!(service.state().phase, Phase::Idle {});
    // A stick whose archive is damaged: the network is not asked for it.
    let archive = world.site.paths().into_iter().find(|path| path.ends_with(".chunks")).unwrap();
    let good = world.site.get(&archive);
    let mut bad = good.clone();
    bad[good.len() - 1] ^= 1;
    world.site.put(&archive, bad);
    world.stick(1);
    world.site.put(&archive, good);
    assert!(matches!(service.round(None).await.unwrap_err(), Error::Chunk { .. }));
    // One that is good.
    world.ports.pull();
    world.stick(2);
    service.round(None).await.unwrap();
    assert!(staged(&service));
    assert_eq!(service.state().source.as_deref(), Some("the USB stick sda1"));
    assert_eq!(service.status().unwrap().planned.unwrap().offered, None);
}

#[tokio::test]
async fn a_pause_holds_for_a_stick_too_until_somebody_asks() {
    let mut world = World::new();
    world.offer("0.2.0");
    world.stick(1);
    let pause = Change { pause: Some(86_400), ..Change::default() };
    let now = jiff::Timestamp::now().as_second() as u64;
    Plan::open(Arc::new(world.machine.store.clone())).0.change(&pause, now).unwrap();
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert_eq!(service.state().phase, Phase::Idle {});
    assert_eq!(service.round(Some(Asked::Check)).await.unwrap(), After::On);
    assert!(staged(&service));
    // Nor is it tried when the stick is gone.
    world.ports.pull();
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(words(&service).contains("updates are paused until"), "{}", words(&service));
    assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn a_stick_whose_list_too_few_have_signed_is_refused_by_name() {
    let mut world = World::new();
    world.maker.targets_by = Some(vec![signer(11)]);
    world.offer("0.2.0");
    world.stick(1);
    let mut service = world.service(true);
    let error = service.round(None).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Forged { valid: 1, threshold: 2, .. })), "{error}");
    let said = "the USB stick sda1: the list of targets is not signed by those who have to sign it: it needs 2 good \
                signatures and has 1";
    assert!(words(&service).contains(said), "{}", words(&service));
    assert_eq!(service.state().phase, Phase::Idle {});
}

#[tokio::test]
async fn a_stick_whose_metadata_has_expired_is_named_with_what_the_clock_says() {
    let mut world = World::new();
    world.maker.days[2] = -1;
    world.offer("0.2.0");
    world.stick(1);
    let mut service = world.service(true);
    assert!(service.round(None).await.is_err());
    let words = words(&service);
    assert!(words.contains("the USB stick sda1: the timestamp has expired"), "{words}");
    assert!(words.contains("the device's clock says 2"), "{words}");
}

#[tokio::test]
async fn a_stick_that_is_older_than_what_was_seen_is_rolled_back() {
    let mut world = World::new();
    world.offer("0.2.0");
    let old = fat(&world.site);
    world.offer("0.3.0");
    world.stick(1);
    world.service(false).round(None).await.unwrap();
    world.ports.pull();
    world.ports.stick(2, &old);
    let error = world.service(true).round(None).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Rollback { .. })), "{error}");
}

#[tokio::test]
async fn where_the_kernel_has_no_driver_of_sticks_the_status_says_so() {
    let world = World::new();
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(!words(&service).contains("no driver"), "{}", words(&service));
    fs::remove_dir(world.ports.0.path().join(DRIVER)).unwrap();
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(
        words(&service).contains("no USB stick is seen: the kernel has no driver"),
        "{}",
        words(&service)
    );
}

#[tokio::test]
async fn who_asks_without_a_stick_is_told_that_there_is_none() {
    let world = World::new();
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    for asked in [Asked::Check, Asked::Apply] {
        assert!(matches!(service.round(Some(asked)).await.unwrap_err(), Error::NoStick));
    }
}

// These are seconds of a clock that does not run by itself, and no measurement.
#[tokio::test(start_paused = true)]
async fn a_stick_with_a_loose_plug_sets_off_a_round_a_minute_and_none_is_lost() {
    let mut world = World::new();
    world.offer("0.2.0");
    // Whoever is asked in each round counts them.
    world.sources = vec![Arc::new(world.site.clone())];
    let service = world.service(false);
    let looks = || world.site.log().iter().filter(|asked| asked.ends_with("timestamp.json")).count();
    let seconds = |count| tokio::time::sleep(Duration::from_secs(count));
    let user = async {
        seconds(60).await;
        assert!(looks() > 0);
        // Two minutes.
        for number in 1..=20 {
            world.ports.stick(number, &[0; 512]);
            seconds(3).await;
            world.ports.pull();
            seconds(3).await;
        }
        let count = looks();
        assert!((2..=3).contains(&count), "{count} rounds");
        seconds(120).await;
        looks();
        // One at once, and one that has to wait.
        world.ports.stick(21, &[0; 512]);
        seconds(5).await;
        assert_eq!(looks(), 1);
        world.ports.pull();
        world.ports.stick(22, &[0; 512]);
        seconds(5).await;
        assert_eq!(looks(), 0);
        seconds(60).await;
        assert_eq!(looks(), 1);
    };
    service.run(user).await;
}

#[tokio::test]
async fn a_stick_that_is_plugged_in_is_looked_at_at_once_and_the_status_says_why() {
    let mut world = World::new();
    world.offer("0.2.0");
    let image = fat(&world.site);
    let service = world.service(false);
    let status = world.run.path().join("run").join(STATUS);
    let shown = || fs::read_to_string(&status).unwrap_or_default();
    let user = async {
        let until = async |words: &str| {
            while !shown().contains(words) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // The first look after the start, of which nothing came; the next one by itself is an hour away.
        until(r#""cause":"itself""#).await;
        world.ports.stick(1, &image);
        until(r#""cause":"stick""#).await;
        until(r#""is":"staged""#).await;
    };
    tokio::time::timeout(Duration::from_secs(300), service.run(user)).await.unwrap();
    assert!(shown().contains(r#""source":"the USB stick sda1""#), "{}", shown());
    assert_eq!(serde_json::to_value(Cause::Stick).unwrap(), "stick");
}
