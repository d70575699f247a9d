//! The service with a source whose metadata is signed: what it takes, what it does not, and what it says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lucid_ipc::{
    connect,
    update::{
        CheckRequest, GetScheduleRequest, RollbackRequest, SetScheduleRequest, StatusRequest,
        updates_client::UpdatesClient,
    },
};
use lucid_release_format::{Kind, Release, System, Version, Wave, build, patch::START};
use lucid_updated::{
    Error, before,
    boot::{BootControl as _, Slot},
    control,
    disk::Disk as _,
    files::Folder,
    gate::Check,
    journal::Journal,
    patch::Offered,
    schedule::{self, Change, Plan, Schedule},
    service::{
        After, Asked, FAILED, JUDGED, LEFT, Parts, REQUEST, STATUS, Service, Settings, Status, ask, history,
    },
    source::{self, Failed, Source, Stretch},
    state::{self, Ending, Kept, Phase, State},
    trust::{self, Refused, Trust},
    when::Window,
};
use support::{
    machine::{Known, Lines, NoLines, Power, Random, SimMachine, SlowLines},
    repository::{Maker, Site, release},
    system,
};

/// A device that runs 0.1.0, and a source.
struct World {
    machine: SimMachine,
    maker: Maker,
    site: Site,
    trust: Trust,
    run: tempfile::TempDir,
    running: Version,
    /// Other sources, which are asked after the site.
    others: Vec<Site>,
    /// What the gate finds.
    well: Result<(), String>,
    window: Option<Window>,
    sessions: Option<PathBuf>,
    metered: bool,
    /// The socket of an RDP host.
    rdp: Option<PathBuf>,
    /// The form of data that runs.
    data: u32,
    journal: Arc<dyn Journal>,
    /// Without any source.
    sourceless: bool,
}

impl World {
    fn new() -> Self {
        let slots =
            [(Slot::A, Kind::Boot), (Slot::A, Kind::Root), (Slot::B, Kind::Boot), (Slot::B, Kind::Root)];
        let slots = slots.map(|(slot, kind)| (slot, kind, vec![0; 256 << 10]));
        let machine = SimMachine::new(Power::new(u64::MAX, 1), slots, false);
        let (maker, site, run) = (Maker::new(), Site::default(), tempfile::tempdir().unwrap());
        let trust = Trust { root: maker.root(1, &[]), scratch: run.path().join("scratch"), built: 0 };
        let (running, others) = ("0.1.0".parse().unwrap(), Vec::new());
        let (well, window, sessions, metered, rdp, data) = (Ok(()), None, None, false, None, 1);
        let journal = Arc::new(Lines);
        Self {
            machine,
            maker,
            site,
            trust,
            run,
            running,
            others,
            well,
            window,
            sessions,
            metered,
            rdp,
            data,
            journal,
            sourceless: false,
        }
    }

    fn offer(&mut self, release: &Release) {
        let mut random = Random(u64::from(release.version.minor) + 100);
        self.maker.add(&self.site, release, &random.bytes(20_000), &random.bytes(90_000));
        self.maker.advance();
        self.maker.publish(&self.site);
    }

    fn service(&self, automatic: bool) -> Service {
        self.open(automatic, "run").unwrap()
    }

    /// A service whose directory for what is lost at power-off is that one.
    fn open(&self, automatic: bool, run: &str) -> Result<Service, Error> {
        let sites = [&self.site].into_iter().chain(&self.others).filter(|_| !self.sourceless);
        Service::open(Parts {
            store: Arc::new(self.machine.store.clone()),
            boot: Arc::new(self.machine.clone()),
            slots: Arc::new(self.machine.clone()),
            trust: self.trust.clone(),
            sources: sites.map(|site| Arc::new(site.clone()) as Arc<dyn Source>).collect(),
            checks: vec![Box::new(Known(self.well.clone())) as Box<dyn Check>],
            journal: self.journal.clone(),
            settings: Settings {
                system: System { data: self.data, ..system(&self.running.to_string()) },
                channel: "stable".into(),
                within: Duration::ZERO,
                every: Duration::from_secs(60),
                automatic,
                window: self.window,
                sessions: self.sessions.clone(),
                rdp: self.rdp.clone(),
                metered: self.metered,
                run: self.run.path().join(run),
            },
        })
    }

    /// While a service lives.
    fn status(&self) -> Status {
        let _lock = Folder::new(self.run.path().join("run")).unwrap().lock().unwrap();
        self.read()
    }

    fn read(&self) -> Status {
        let (booted, run) = (self.machine.booted().unwrap(), self.run.path().join("run"));
        Status::read(&self.machine.store, booted, &self.trust, self.running, &run).unwrap()
    }

    fn words(&self) -> String {
        self.status().words()
    }

    fn shown(&self, run: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.run.path().join(run).join(STATUS)).unwrap()).unwrap()
    }

    /// 0.2.0 is offered, staged and started.
    async fn tried(&mut self) {
        self.offer(&release("0.2.0"));
        let mut service = self.service(true);
        assert_eq!(service.start().await.unwrap(), After::On);
        assert_eq!(service.round(None).await.unwrap(), After::Restart);
        self.machine.start();
        assert_eq!((self.machine.running().slot, self.machine.running().tried), (Slot::B, true));
        self.running = "0.2.0".parse().unwrap();
    }

    /// The next start, of this version in this slot.
    fn starts(&mut self, version: &str, slot: Slot, tried: bool) {
        self.machine.start();
        assert_eq!((self.machine.running().slot, self.machine.running().tried), (slot, tried));
        self.running = version.parse().unwrap();
    }

    /// 0.2.0 is offered, tried, and kept.
    async fn updated(&mut self) {
        self.tried().await;
        let mut service = self.service(true);
        assert_eq!(service.start().await.unwrap(), After::On);
        assert_eq!(service.state().last().unwrap().ending, Ending::Installed);
    }

    /// What somebody is told who asks for what ran before; nothing has changed then.
    async fn refuses_to_go_back(&self, service: &mut Service) -> String {
        let before = service.state().clone();
        let error = service.round(Some(Asked::Rollback)).await.unwrap_err().to_string();
        assert_eq!(*service.state(), before, "{error}");
        error
    }

    /// The old system again.
    fn back(&mut self) {
        self.machine.start();
        assert_eq!((self.machine.running().slot, self.machine.running().tried), (Slot::A, false));
        self.running = "0.1.0".parse().unwrap();
    }
}

/// A source with the same files.
fn mirror(site: &Site) -> Site {
    let other = Site::default();
    for path in site.paths() {
        other.put(&path, site.get(&path));
    }
    other
}

#[tokio::test]
async fn the_newest_release_for_this_device_is_taken_and_the_reason_for_each_other_one_is_said() {
    let mut world = World::new();
    for release in [
        Release { machine: "rpi5".parse().unwrap(), ..release("0.9.0") },
        Release { channel: "edge".parse().unwrap(), ..release("0.8.0") },
        Release { min_from: "0.5.0".parse().unwrap(), ..release("0.7.0") },
        Release { paused: true, ..release("0.6.0") },
        Release { released: 250_000_000_000, ..release("0.5.0") },
        release("0.3.0"),
        release("0.2.0"),
        release("0.1.0"),
    ] {
        world.offer(&release);
    }
    let looked = world.service(false).look().await.unwrap();
    assert_eq!(looked.chosen.unwrap().release().version, "0.3.0".parse().unwrap());
    let part = |version: &str| {
        let version: Version = version.parse().unwrap();
        looked.said.iter().find(|said| said.version == version).unwrap().words.clone()
    };
    for (version, words) in [
        ("0.9.0", "another kind of device"),
        ("0.8.0", "another channel"),
        ("0.7.0", "0.5.0 or later first"),
        ("0.6.0", "paused"),
        ("0.5.0", "turn has not come"),
        ("0.2.0", "can be taken"),
        ("0.1.0", "not newer"),
    ] {
        assert!(part(version).contains(words), "{version}: {}", part(version));
    }
}

#[tokio::test]
async fn an_update_goes_from_the_source_into_the_slot_and_is_kept() {
    let mut world = World::new();
    let offered = Release { min_version: "0.2.0".parse().unwrap(), ..release("0.2.0") };
    world.offer(&offered);
    let mut service = world.service(false);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(matches!(&service.state().phase, Phase::Staged { slot: Slot::B, .. }));
    assert!(world.words().contains("0.2.0 is in slot b and has not been tried"), "{}", world.words());
    // Looking again fetches none of it again.
    world.site.log();
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(world.site.log().iter().all(|asked| !asked.contains("..")));
    assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
    drop(service);
    world.machine.start();
    assert_eq!((world.machine.running().slot, world.machine.running().tried), (Slot::B, true));
    world.running = "0.2.0".parse().unwrap();
    let mut service = world.service(false);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.state().last().unwrap().ending, Ending::Installed);
    drop(service);
    world.machine.start();
    assert_eq!((world.machine.running().slot, world.machine.running().tried), (Slot::B, false));
    let words = world.words();
    for line in [
        "runs 0.2.0 in slot b",
        "0.2.0 in slot b was installed",
        "nothing below 0.2.0 is installed",
        "believes root 1",
    ] {
        assert!(words.contains(line), "{words}");
    }
    // Back in the old slot, what is below the floor is not taken, whoever signs it.
    world.running = "0.1.0".parse().unwrap();
    world.offer(&release("0.1.5"));
    let looked = world.service(false).look().await.unwrap();
    let said = looked.said.iter().find(|said| said.version.minor == 1).unwrap();
    assert!(said.words.contains("rules out"), "{said:?}");
}

/// The device says why it does not take what is offered, and asks for nothing but metadata, also when somebody wants it.
async fn not_taken(world: &World, words: &str) {
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    let looked = service.look().await.unwrap();
    assert!(looked.chosen.is_none());
    assert!(looked.said.iter().any(|said| said.words == words), "{:?}", looked.said);
    world.site.log();
    for asked in [None, Some(Asked::Apply)] {
        assert_eq!(service.round(asked).await.unwrap(), After::On);
        assert_eq!(service.state().phase, Phase::Idle {});
    }
    let asked = world.site.log();
    assert!(asked.iter().all(|asked| asked.starts_with("metadata/")), "{asked:?}");
}

#[tokio::test]
async fn attack_downgrade_an_older_release_is_not_taken_although_it_is_signed() {
    let mut world = World::new();
    world.running = "0.3.0".parse().unwrap();
    world.offer(&release("0.2.0"));
    not_taken(&world, "it is not newer than what the device runs").await;
    // Nor one that is newer than what runs, where a release was committed that rules it out.
    State::new([7; 32], "0.5.0".parse().unwrap()).save(&world.machine.store).unwrap();
    world.offer(&release("0.4.0"));
    not_taken(&world, "a release that the device committed rules out versions this old").await;
}

#[tokio::test]
async fn attack_wrong_machine_a_release_for_another_kind_of_device_is_not_taken() {
    let mut world = World::new();
    world.offer(&Release { machine: "rpi5".parse().unwrap(), ..release("0.9.0") });
    not_taken(&world, "it is for another kind of device").await;
}

#[tokio::test]
async fn what_is_withdrawn_or_paused_after_it_was_staged_is_not_tried() {
    for withdrawn in [true, false] {
        let mut world = World::new();
        world.offer(&release("0.2.0"));
        let mut service = world.service(false);
        service.round(None).await.unwrap();
        if withdrawn {
            world.maker.targets.clear();
            world.maker.advance();
            world.maker.publish(&world.site);
        } else {
            world.offer(&Release { paused: true, ..release("0.2.0") });
        }
        assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::On);
        assert_eq!(service.state().phase, Phase::Idle {});
        let last = service.state().last().unwrap();
        assert_eq!(last.ending, Ending::Dropped);
        assert!(last.reason.contains(if withdrawn { "withdrawn" } else { "paused" }), "{}", last.reason);
    }
}

#[tokio::test]
async fn a_newer_release_takes_the_place_of_one_that_waits() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let mut service = world.service(false);
    service.round(None).await.unwrap();
    world.offer(&release("0.3.0"));
    service.round(None).await.unwrap();
    let Phase::Staged { release, .. } = &service.state().phase else { panic!("{:?}", service.state().phase) };
    assert_eq!(release.version, "0.3.0".parse().unwrap());
}

#[tokio::test]
async fn what_did_not_pass_is_tried_again_only_when_somebody_asks() {
    let mut world = World::new();
    world.well = Err("nobody listens".to_owned());
    world.tried().await;
    assert_eq!(world.service(true).start().await.unwrap(), After::Restart);
    world.back();
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert_eq!(service.state().phase, Phase::Idle {});
    let words = world.words();
    // The name of the check, and why.
    assert!(words.contains("0.2.0 in slot b did not pass: what is known: nobody listens"), "{words}");
    assert!(words.contains("not tried again by itself: 0.2.0"), "{words}");
    assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn a_power_cut_in_a_try_is_no_failure_and_the_try_is_made_again() {
    // Whoever asked for it has asked for it.
    for automatic in [true, false] {
        let mut world = World::new();
        world.tried().await;
        world.machine.power.lock().unwrap().off = true;
        world.back();
        let mut service = world.service(automatic);
        assert_eq!(service.start().await.unwrap(), After::On);
        assert!(matches!(service.state().phase, Phase::Staged { tries: 1, .. }));
        assert!(world.words().contains("is tried again"), "{}", world.words());
        assert_eq!(service.round(None).await.unwrap(), After::Restart);
    }
}

#[tokio::test]
async fn the_journal_of_a_try_that_did_not_pass_is_kept_with_the_reason_and_once() {
    let mut world = World::new();
    world.well = Err("nobody listens".to_owned());
    world.tried().await;
    assert_eq!(world.service(true).start().await.unwrap(), After::Restart);
    // By the old system alone: the new one may be cut off at any time.
    assert!(world.machine.store.get(FAILED[0]).is_none());
    for _ in 0..2 {
        world.back();
        world.service(true).start().await.unwrap();
        let text = String::from_utf8(world.machine.store.get(FAILED[0]).unwrap()).unwrap();
        for said in
            ["version 1\n", "0.2.0 in slot b", "reason: what is known: nobody listens", "a try after boot "]
        {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert_eq!(world.machine.store.get(LEFT).unwrap(), b"");
        assert!(world.machine.store.get(FAILED[1]).is_none());
    }
}

#[tokio::test]
async fn the_journals_of_the_last_three_tries_are_kept_also_of_those_that_said_nothing() {
    let mut world = World::new();
    world.tried().await;
    let mut kept = Vec::new();
    for number in 1..=3 {
        // Cut off, or hung until the watchdog came.
        world.machine.power.lock().unwrap().off = true;
        world.back();
        let mut service = world.service(true);
        service.start().await.unwrap();
        let newest = world.machine.store.get(FAILED[0]).unwrap();
        let text = String::from_utf8(newest.clone()).unwrap();
        let reason =
            if number < 3 { format!("(try {number} of 3)") } else { "was to be tried 3 times".to_owned() };
        assert!(text.contains(&reason), "{text}");
        assert!(!kept.contains(&newest), "{text}");
        kept.insert(0, newest);
        if number < 3 {
            assert_eq!(service.round(None).await.unwrap(), After::Restart);
            world.machine.start();
        }
    }
    assert_eq!(FAILED.map(|name| world.machine.store.get(name).unwrap()).to_vec(), kept);
    // The next one takes the place of the oldest.
    world.machine.store.put(LEFT, b"lucid left 1\nboot x\n".to_vec());
    world.back();
    world.service(true).start().await.unwrap();
    let text = String::from_utf8(world.machine.store.get(FAILED[0]).unwrap()).unwrap();
    assert!(text.contains("a try after boot x"), "{text}");
    assert_eq!(world.machine.store.get(FAILED[2]).unwrap(), kept[1]);
}

#[tokio::test]
async fn tries_that_did_not_start_push_out_no_journal_of_another_one() {
    let mut world = World::new();
    world.tried().await;
    world.machine.power.lock().unwrap().off = true;
    world.back();
    let mut service = world.service(true);
    service.start().await.unwrap();
    let kept = world.machine.store.get(FAILED[0]).unwrap();
    world.journal = Arc::new(NoLines);
    for number in 2..=3 {
        assert_eq!(service.round(None).await.unwrap(), After::Restart, "{number}");
        drop(service);
        world.machine.start();
        world.machine.power.lock().unwrap().off = true;
        world.back();
        service = world.service(true);
        service.start().await.unwrap();
        let text = String::from_utf8(world.machine.store.get(FAILED[0]).unwrap()).unwrap();
        assert!(text.contains("no journal: nothing after boot "), "{text}");
    }
    assert_eq!(world.machine.store.get(FAILED[1]).unwrap(), kept);
    assert!(world.machine.store.get(FAILED[2]).is_none());
}

#[tokio::test]
async fn word_of_a_try_of_which_nothing_is_known_is_emptied_and_keeps_nothing() {
    let mut world = World::new();
    world.journal = Arc::new(NoLines);
    world.machine.store.put(LEFT, b"lucid left 1\nboot x\n".to_vec());
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(world.machine.store.get(LEFT).unwrap(), b"");
    assert!(world.machine.store.get(FAILED[0]).is_none());
    assert!(service.status().unwrap().troubles.is_empty(), "{:?}", service.status().unwrap().troubles);
}

#[tokio::test]
async fn a_journal_that_takes_too_long_is_read_at_a_later_start_and_not_for_ever() {
    for slow in [1, 2, 3] {
        let mut world = World::new();
        world.well = Err("nobody listens".to_owned());
        world.tried().await;
        assert_eq!(world.service(true).start().await.unwrap(), After::Restart);
        world.journal = Arc::new(SlowLines);
        for _ in 0..slow {
            world.back();
            assert!(world.machine.store.get(FAILED[0]).is_none(), "{slow}");
            assert_eq!(world.service(true).start().await.unwrap(), After::On);
        }
        world.journal = Arc::new(Lines);
        world.back();
        assert_eq!(world.service(true).start().await.unwrap(), After::On);
        let text = String::from_utf8(world.machine.store.get(FAILED[0]).unwrap()).unwrap();
        let said = if slow < 3 { "a try after boot " } else { "no journal: it took too long" };
        assert!(text.contains(said), "{slow}: {text}");
        assert_eq!(world.machine.store.get(LEFT).unwrap(), b"");
    }
}

#[tokio::test]
async fn word_of_a_failed_try_that_is_damaged_is_a_trouble_and_keeps_nothing_from_being_done() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.machine.store.put(LEFT, b"\xff".to_vec());
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert!(service.status().unwrap().words().contains("the journal of a start that failed"));
    assert_eq!(service.round(None).await.unwrap(), After::Restart);
    assert!(world.machine.store.get(FAILED[0]).is_none());
}

#[tokio::test]
async fn where_the_boot_firmware_is_too_old_updates_are_refused_and_the_status_says_what_to_do() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.machine.outdated = true;
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    let words = service.status().unwrap().words();
    assert!(words.contains("updates are refused") && words.contains("rpi-eeprom-update"), "{words}");
    let error = service.round(Some(Asked::Apply)).await.unwrap_err();
    assert!(matches!(error, Error::Eeprom { .. }), "{error}");
    assert!(matches!(service.state().phase, Phase::Idle {}));
    // What was staged before is not tried either.
    world.machine.outdated = false;
    let mut service = world.service(false);
    service.round(None).await.unwrap();
    assert!(matches!(service.state().phase, Phase::Staged { .. }));
    world.machine.outdated = true;
    let error = world.service(false).round(Some(Asked::Apply)).await.unwrap_err();
    assert!(matches!(error, Error::Eeprom { .. }), "{error}");
}

#[tokio::test]
async fn a_power_cut_in_a_try_does_not_bring_back_what_was_withdrawn() {
    let mut world = World::new();
    world.tried().await;
    world.machine.power.lock().unwrap().off = true;
    world.back();
    world.offer(&Release { paused: true, ..release("0.2.0") });
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert_eq!(service.state().last().unwrap().ending, Ending::Dropped);
}

#[tokio::test]
async fn a_tried_system_that_cannot_write_its_data_is_left_and_says_why_where_it_can() {
    for well in [Ok(()), Err("the data partition is read-only".to_owned())] {
        let mut world = World::new();
        world.tried().await;
        world.well = well.clone();
        world.machine.store.set_full(true);
        let mut service = world.open(true, "tried").unwrap();
        assert_eq!(service.start().await.unwrap(), After::Restart, "{well:?}");
        let shown = world.shown("tried")["troubles"].to_string();
        assert!(shown.contains(&well.err().unwrap_or_else(|| "read-only".to_owned())), "{shown}");
        assert!(!world.run.path().join("tried").join(JUDGED).exists());
        // Nothing is lost: the old system goes on with the second try.
        world.machine.store.set_full(false);
        world.back();
        let mut service = world.service(true);
        assert_eq!(service.start().await.unwrap(), After::On);
        assert!(matches!(service.state().phase, Phase::Staged { tries: 1, .. }));
    }
}

#[tokio::test]
async fn a_tried_system_that_has_lost_its_state_is_left_and_overwrites_nothing() {
    for how in ["missing", "damaged", "unreadable", "idle"] {
        let mut world = World::new();
        world.tried().await;
        let store = world.machine.store.clone();
        let good = store.get(state::FILE).unwrap();
        match how {
            "missing" => drop(store.remove(state::FILE)),
            "damaged" => store.put(state::FILE, good[..good.len() - 2].to_vec()),
            "unreadable" => store.set_gone(true),
            _ => State::new([7; 32], world.running).save(&store).unwrap(),
        }
        let before = store.get(state::FILE);
        let mut service = world.open(true, "tried").unwrap();
        assert_eq!(service.start().await.unwrap(), After::Restart, "{how}");
        assert!(!world.run.path().join("tried").join(JUDGED).exists(), "{how}");
        assert_eq!(store.get(state::FILE), before, "{how}");
        assert!(world.shown("tried")["troubles"].to_string().contains("back to the old one"), "{how}");
        // What the new one could not read, the old one may.
        store.set_gone(false);
        store.put(state::FILE, good);
        world.back();
        let mut service = world.service(true);
        assert_eq!(service.start().await.unwrap(), After::On, "{how}");
        assert!(matches!(service.state().phase, Phase::Staged { tries: 1, .. }), "{how}");
    }
}

#[tokio::test]
async fn a_state_that_is_lost_is_said_to_be_and_the_floor_is_what_runs() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.service(false).round(None).await.unwrap();
    let store = world.machine.store.clone();
    let mut bytes = store.get(state::FILE).unwrap();
    // It can be read still, and says another floor.
    let at = bytes.windows(7).position(|seven| seven == b"\"0.1.0\"").unwrap();
    bytes[at + 3] = b'0';
    store.put(state::FILE, bytes);
    let mut service = world.service(false);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!((&service.state().phase, service.state().floor), (&Phase::Idle {}, world.running));
    let last = service.state().last().unwrap();
    assert_eq!((last.version, last.slot, last.ending), (world.running, Slot::A, Ending::Lost));
    assert!(last.reason.contains("its hash is another one"), "{}", last.reason);
    assert!(world.words().contains("goes on without what was known"), "{}", world.words());
    assert_eq!(history(&store).unwrap(), service.state().history);
    // And so it stays.
    drop(service);
    assert_eq!(world.service(false).state().last().unwrap().ending, Ending::Lost);
}

#[tokio::test]
async fn what_was_remembered_of_releases_and_is_damaged_is_said_to_be() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.service(false).look().await.unwrap();
    world.machine.store.put(trust::FILE, b"{}".to_vec());
    let mut service = world.service(false);
    service.start().await.unwrap();
    assert!(world.words().contains("trouble: trust.json: it cannot be read"), "{}", world.words());
    service.look().await.unwrap();
    assert!(service.status().unwrap().troubles.is_empty(), "{:?}", service.status().unwrap().troubles);
}

#[tokio::test]
async fn the_boot_is_judged_once_it_is_no_try_any_more() {
    let mut world = World::new();
    let judged = |world: &World, run: &str| world.run.path().join(run).join(JUDGED).exists();
    world.tried().await;
    assert!(judged(&world, "run"));
    let mut service = world.open(true, "tried").unwrap();
    assert!(!judged(&world, "tried"));
    assert_eq!(service.start().await.unwrap(), After::On);
    assert!(judged(&world, "tried"));
    // The service begins again in the same boot, which is one of a try still.
    assert!(world.machine.running().tried);
    let mut service = world.open(true, "again").unwrap();
    assert_eq!(service.start().await.unwrap(), After::On);
    assert!(judged(&world, "again"));
    // Even if its state was lost meanwhile, it is the one that boots.
    world.machine.store.remove(state::FILE);
    assert_eq!(world.open(true, "lost").unwrap().start().await.unwrap(), After::On);
    assert!(matches!(State::load(&world.machine.store).unwrap(), Kept::State(_)));
}

#[tokio::test]
async fn a_try_that_cannot_be_armed_is_no_try() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.machine.unarmed.store(5, Ordering::Relaxed);
    let mut service = world.service(true);
    for _ in 0..5 {
        let error = service.round(None).await.unwrap_err();
        assert!(matches!(error, Error::Arm { .. }), "{error}");
        assert!(matches!(service.state().phase, Phase::Staged { tries: 0, .. }));
    }
    assert_eq!(service.round(None).await.unwrap(), After::Restart);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_asked_for_until_the_machine_is_gone() {
    let world = World::new();
    let service = world.service(true);
    world.machine.deaf.store(3, Ordering::Relaxed);
    // Three times nobody hears it, which is tried again soon; then it is heard, and the machine has its time to go down.
    let asked = async |seconds: u64| {
        let ended = tokio::time::timeout(Duration::from_secs(seconds), service.restart()).await;
        assert!(ended.is_err());
        world.machine.restarts()
    };
    assert_eq!(asked(29).await, 3);
    assert_eq!(asked(119).await, 4);
    assert_eq!(asked(241).await, 4 + 3);
}

#[tokio::test]
async fn of_several_sources_the_newest_release_is_taken_and_one_that_fails_is_a_warning() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let behind = mirror(&world.site);
    world.offer(&release("0.3.0"));
    let ahead = std::mem::replace(&mut world.site, behind);
    let broken = Site::default();
    world.others = vec![broken, ahead.clone()];
    for others in [world.others.clone(), vec![ahead.clone()]] {
        world.others = others;
        let mut service = world.service(false);
        let looked = service.look().await.unwrap();
        assert_eq!(looked.chosen.unwrap().release().version, "0.3.0".parse().unwrap());
        // Now what is behind is known to be, wherever it stands.
        let looked = service.look().await.unwrap();
        assert_eq!(looked.chosen.unwrap().release().version, "0.3.0".parse().unwrap());
        let troubles = service.status().unwrap().troubles;
        assert_eq!(troubles.len(), 1, "{troubles:?}");
        assert!(troubles[0].starts_with("sources: "), "{troubles:?}");
    }
    // With none that is well it is an error.
    world.others.clear();
    world.site = Site::default();
    assert!(world.service(false).look().await.is_err());
}

#[tokio::test]
async fn what_one_source_does_not_give_is_fetched_from_the_next() {
    for kind in [".chunks", ".index"] {
        let mut world = World::new();
        world.offer(&release("0.2.0"));
        world.others = vec![mirror(&world.site)];
        let path = world.site.paths().into_iter().find(|path| path.ends_with(kind)).unwrap();
        let mut bytes = world.site.get(&path);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        world.site.put(&path, bytes);
        let mut service = world.service(false);
        service.round(None).await.unwrap();
        assert!(matches!(service.state().phase, Phase::Staged { .. }), "{kind}");
        assert!(world.others[0].log().iter().any(|asked| asked.contains("..")), "{kind}");
    }
}

/// A source from which fetching costs nothing, as a stick.
#[derive(Debug)]
struct Free(Site);

#[async_trait]
impl Source for Free {
    fn name(&self) -> String {
        "what costs nothing".to_owned()
    }

    fn costs(&self) -> bool {
        false
    }

    async fn whole(&self, folder: source::Folder, name: &str, cap: u64) -> Result<Bytes, Failed> {
        self.0.whole(folder, name, cap).await
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        self.0.range(name, from, to).await
    }
}

#[tokio::test]
async fn after_a_patch_in_which_a_stick_hung_as_a_whole_the_next_run_is_one_without() {
    let world = World::new();
    let mut service = world.service(false);
    let (boot, root) = (Random(5).bytes(20_000), Random(6).bytes(90_000));
    let mut archive = Vec::new();
    let index = build::release([(Kind::Boot, &boot[..]), (Kind::Root, &root[..])], &mut archive, 1).unwrap();
    world.site.put("targets/a.chunks", archive);
    let hangs = |name: &str| {
        let failed = Failed::Slow { name: name.to_owned(), what: "no byte comes from the USB stick" };
        world.site.fail(&format!("targets/{name}"), failed);
    };
    let (offered, stick) = (Offered { file: "a.patch".to_owned(), bytes: 1000 }, Free(world.site.clone()));
    let (release, of_patch) = (release("0.2.0"), format!("0..{START}"));
    hangs("a.patch");
    hangs("a.chunks");
    service.write(&release, &index, "a.chunks", Some(&offered), &stick).await.unwrap_err();
    assert_eq!(world.site.log().iter().filter(|asked| **asked == of_patch).count(), 2);
    world.site.heal();
    hangs("a.patch");
    service.write(&release, &index, "a.chunks", Some(&offered), &stick).await.unwrap();
    assert!(!world.site.log().contains(&of_patch));
    let words = service.status().unwrap().words();
    assert!(words.contains("a.patch is not used: its source failed with it in the last run"), "{words}");
}

#[tokio::test]
async fn a_source_that_fails_withdraws_nothing() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let mut service = world.service(false);
    service.round(None).await.unwrap();
    let before = service.state().clone();
    for path in world.site.paths() {
        let name = path.rsplit('/').next().unwrap().to_owned();
        world.site.fail(&path, Failed::Slow { name, what: "no bytes come any more" });
    }
    for asked in [None, Some(Asked::Check)] {
        service.round(asked).await.unwrap_err();
        assert_eq!(*service.state(), before);
    }
}

#[tokio::test]
async fn what_is_staged_is_tried_without_a_source_when_somebody_asks_and_not_by_itself() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.service(false).round(None).await.unwrap();
    for path in world.site.paths() {
        let name = path.rsplit('/').next().unwrap().to_owned();
        world.site.fail(&path, Failed::Slow { name, what: "no bytes come any more" });
    }
    let mut service = world.service(true);
    for asked in [None, Some(Asked::Check)] {
        service.round(asked).await.unwrap_err();
        assert!(matches!(service.state().phase, Phase::Staged { .. }));
        let waiting = world.status().waiting.unwrap();
        assert!(waiting.contains("no source can be asked"), "{waiting}");
    }
    assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
    assert!(matches!(service.state().phase, Phase::Trying { tries: 1, .. }));
    assert_eq!(world.status().waiting, None);
}

#[tokio::test]
async fn what_is_staged_is_not_tried_when_a_source_is_refused_whoever_asks() {
    for others in [false, true] {
        let mut world = World::new();
        world.offer(&release("0.2.0"));
        world.service(false).round(None).await.unwrap();
        world.maker.days[2] = -1;
        world.maker.advance();
        world.maker.publish(&world.site);
        if others {
            // After it comes one that cannot be asked.
            world.others = vec![Site::default()];
        }
        let mut service = world.service(false);
        let error = service.round(Some(Asked::Apply)).await.unwrap_err();
        assert!(matches!(error, Error::Refused(Refused::Expired { .. })), "{error}");
        assert!(matches!(service.state().phase, Phase::Staged { .. }));
    }
}

#[tokio::test]
async fn who_asks_is_told_that_nothing_is_installed_where_what_is_kept_is_in_memory() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.machine.kept = false;
    world.machine.start();
    let service = world.service(true);
    ask(&world.run.path().join("run"), Asked::Apply).unwrap();
    let user = async {
        let shown = || fs::read_to_string(world.run.path().join("run").join(STATUS)).unwrap_or_default();
        while !shown().contains("in memory, because the data partition") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), service.run(user)).await.unwrap();
    assert_eq!(world.machine.restarts(), 0);
    let Kept::State(state) = State::load(&world.machine.store).unwrap() else { panic!("no state") };
    assert_eq!(state.phase, Phase::Idle {});
}

#[tokio::test]
async fn who_asks_while_the_service_cannot_start_is_answered_why() {
    let mut world = World::new();
    world.tried().await;
    world.machine.power.lock().unwrap().off = true;
    world.back();
    let service = world.service(true);
    // That the machine came back cannot be kept.
    world.machine.store.set_full(true);
    let socket = world.run.path().join("run").join(control::SOCKET);
    let user = async {
        let mut client = UpdatesClient::new(connect(&socket).await.unwrap());
        client.check(CheckRequest::default()).await.unwrap();
        let mut changes = client.status(StatusRequest {}).await.unwrap().into_inner();
        loop {
            let now = changes.message().await.unwrap().unwrap();
            if now.wishes_done == 1 {
                assert!(now.wish_failed.as_deref().unwrap().contains("read-only"), "{:?}", now.wish_failed);
                return;
            }
        }
    };
    // It is tried again by itself after a minute.
    tokio::time::timeout(Duration::from_secs(30), service.run(user)).await.unwrap();
}

#[tokio::test]
async fn without_a_living_service_nothing_is_under_way_and_that_is_said() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let sessions = world.run.path().join("rdp.json");
    fs::write(&sessions, r#"{"sessions":1}"#).unwrap();
    world.sessions = Some(sessions);
    world.service(true).round(None).await.unwrap();
    let dead = "the service is not running".to_owned();
    let status = world.read();
    assert_eq!(status.waiting, None);
    assert!(status.troubles.contains(&dead), "{:?}", status.troubles);
    assert!(!world.run.path().join("run/lock").exists());
    let status = world.status();
    assert!(status.waiting.unwrap().contains("1 sessions are open"));
    assert!(!status.troubles.contains(&dead), "{:?}", status.troubles);
    // The lock file is there still, and nobody has it.
    assert!(world.read().troubles.contains(&dead));
}

#[tokio::test]
async fn what_is_withdrawn_while_it_is_being_staged_is_dropped() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let path = world.site.paths().into_iter().find(|path| path.ends_with(".chunks")).unwrap();
    let name = path.rsplit('/').next().unwrap().to_owned();
    world.site.fail(&path, Failed::Slow { name, what: "no bytes come any more" });
    let mut service = world.service(true);
    service.round(None).await.unwrap_err();
    assert!(matches!(service.state().phase, Phase::Staging { .. }));
    world.maker.targets.clear();
    world.maker.advance();
    world.maker.publish(&world.site);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    let last = service.state().last().unwrap();
    assert_eq!((last.ending, last.slot), (Ending::Dropped, Slot::B));
    assert!(last.reason.contains("withdrawn"), "{}", last.reason);
}

#[tokio::test]
async fn by_itself_the_machine_restarts_only_in_its_window_and_while_nobody_is_connected() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let sessions = world.run.path().join("rdp.json");
    fs::write(&sessions, r#"{"sessions":1}"#).unwrap();
    world.sessions = Some(sessions.clone());
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(world.words().contains("1 sessions are open"), "{}", world.words());
    fs::remove_file(&sessions).unwrap();
    assert_eq!(service.round(None).await.unwrap(), After::Restart);
    // A window that is not now, whatever the time is.
    let now = jiff::Timestamp::now().as_second() / 60 % 1440;
    let clock = |minute: i64| format!("{:02}:{:02}", minute % 1440 / 60, minute % 60);
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.window = Some(format!("{}-{}", clock(now + 600), clock(now + 660)).parse().unwrap());
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(world.words().contains("its time of the day"), "{}", world.words());
    // What a person asks for is done at once.
    assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn a_service_that_runs_restarts_when_the_last_session_has_ended_or_when_it_is_asked() {
    for asked in [false, true] {
        let mut world = World::new();
        world.offer(&release("0.2.0"));
        let sessions = world.run.path().join("rdp.json");
        fs::write(&sessions, r#"{"sessions":1}"#).unwrap();
        world.sessions = Some(sessions.clone());
        let service = world.service(true);
        let look = || {
            let shown = fs::read(world.run.path().join("run").join(STATUS)).ok();
            shown.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        };
        let user = async {
            while look().is_none_or(|shown| shown["waiting"].is_null()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(world.machine.restarts(), 0);
            if asked {
                ask(&world.run.path().join("run"), Asked::Apply).unwrap();
            } else {
                fs::write(&sessions, r#"{"sessions":0}"#).unwrap();
            }
            while world.machine.restarts() == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), service.run(user)).await.unwrap();
        assert!(!world.run.path().join("run").join(REQUEST).exists());
        let Kept::State(state) = State::load(&world.machine.store).unwrap() else { panic!("no state") };
        assert!(matches!(state.phase, Phase::Trying { tries: 1, .. }), "{:?}", state.phase);
    }
}

#[tokio::test]
async fn what_others_are_shown_is_what_is_so_and_says_how_much_memory_it_took() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let mut service = world.service(false);
    service.start().await.unwrap();
    service.round(None).await.unwrap();
    let file = world.run.path().join("run").join(STATUS);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let shown = world.shown("run");
    assert_eq!(shown["phase"]["is"], "staged");
    assert_eq!(shown["running"], "0.1.0");
    assert!(shown["memory_peak"].as_u64().unwrap() > 100_000, "{shown}");
    // From the disk it is the same, but for what has been measured since.
    let mut read = serde_json::to_value(world.status()).unwrap();
    read["memory_peak"] = shown["memory_peak"].clone();
    assert_eq!(read, shown);
}

#[tokio::test]
async fn a_source_that_is_refused_leaves_everything_as_it_was() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    world.maker.days[2] = -1;
    world.maker.advance();
    world.maker.publish(&world.site);
    let mut service = world.service(true);
    let before = service.state().clone();
    let error = service.round(None).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Expired { role: "timestamp" })), "{error}");
    let failed = Failed::Missing { name: "timestamp.json".into() };
    world.site.fail("metadata/timestamp.json", failed.clone());
    let error = service.round(None).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Source(found)) if found == failed));
    assert_eq!(*service.state(), before);
}

#[tokio::test]
async fn a_device_waits_for_its_wave() {
    let mut world = World::new();
    let now = jiff::Timestamp::now().as_second() as u64;
    let waves = vec![Wave { after: 0, share: 1 }, Wave { after: 1_000_000, share: 1000 }];
    world.offer(&Release { released: now - 10, waves, ..release("0.2.0") });
    let service = world.service(false);
    let place = release("0.2.0").place(&service.state().seed());
    drop(service);
    let looked = world.service(false).look().await.unwrap();
    assert_eq!(looked.chosen.is_some(), place < 1);
}

#[tokio::test]
async fn the_system_that_ran_before_is_gone_back_to_by_a_try_and_what_was_left_is_not_taken_again_by_itself()
{
    let mut world = World::new();
    world.updated().await;
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.round(Some(Asked::Rollback)).await.unwrap(), After::Restart);
    assert!(matches!(service.state().phase, Phase::Trying { slot: Slot::A, tries: 1, .. }));
    drop(service);
    world.starts("0.1.0", Slot::A, true);
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    let last = service.state().last().unwrap().clone();
    assert_eq!((last.version, last.slot, last.ending), (world.running, Slot::A, Ending::Installed));
    assert_eq!(last.reason, "it ran before, was gone back to, and is well");
    drop(service);
    world.starts("0.1.0", Slot::A, false);
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    // It is offered still, and a newer one is taken.
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert_eq!(service.state().phase, Phase::Idle {});
    assert!(world.words().contains("not tried again by itself: 0.2.0"), "{}", world.words());
    world.offer(&release("0.3.0"));
    assert_eq!(service.round(None).await.unwrap(), After::Restart);
    let Phase::Trying { release, .. } = &service.state().phase else { panic!("{:?}", service.state().phase) };
    assert_eq!(release.version, "0.3.0".parse().unwrap());
}

#[tokio::test]
async fn what_was_left_by_going_back_is_taken_again_when_somebody_asks() {
    for asked in [Asked::Apply, Asked::Rollback] {
        let mut world = World::new();
        world.updated().await;
        let mut service = world.service(true);
        assert_eq!(service.round(Some(Asked::Rollback)).await.unwrap(), After::Restart);
        drop(service);
        world.starts("0.1.0", Slot::A, true);
        let mut service = world.service(true);
        assert_eq!(service.start().await.unwrap(), After::On);
        assert_eq!(service.round(Some(asked)).await.unwrap(), After::Restart, "{asked:?}");
        drop(service);
        world.starts("0.2.0", Slot::B, true);
        let mut service = world.service(true);
        assert_eq!(service.start().await.unwrap(), After::On);
        assert_eq!(service.state().last().unwrap().version, world.running);
        assert!(!service.state().refused.contains(&world.running), "{asked:?}");
    }
}

#[tokio::test]
async fn a_system_that_is_gone_back_to_and_is_not_well_is_left_and_the_newer_one_stays() {
    let mut world = World::new();
    world.updated().await;
    let mut service = world.service(true);
    assert_eq!(service.round(Some(Asked::Rollback)).await.unwrap(), After::Restart);
    drop(service);
    world.starts("0.1.0", Slot::A, true);
    world.well = Err("nobody listens".to_owned());
    assert_eq!(world.service(true).start().await.unwrap(), After::Restart);
    world.starts("0.2.0", Slot::B, false);
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    let last = service.state().last().unwrap();
    assert_eq!((last.version, last.ending), ("0.1.0".parse().unwrap(), Ending::Failed));
    assert!(last.reason.contains("gone back to: what is known: nobody listens"), "{}", last.reason);
    assert!(!service.state().refused.contains(&world.running), "what runs is refused");
}

#[tokio::test]
async fn a_power_cut_while_the_device_goes_back_forgets_nothing() {
    let mut world = World::new();
    world.updated().await;
    let mut service = world.service(true);
    assert_eq!(service.round(Some(Asked::Rollback)).await.unwrap(), After::Restart);
    drop(service);
    world.starts("0.1.0", Slot::A, true);
    world.machine.power.lock().unwrap().off = true;
    world.starts("0.2.0", Slot::B, false);
    // Whatever is offered meanwhile.
    world.offer(&release("0.3.0"));
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.round(None).await.unwrap(), After::Restart);
    assert_eq!(service.state().refused, [world.running], "what is to be left is remembered");
    let Phase::Trying { release, slot: Slot::A, tries: 2, .. } = &service.state().phase else {
        panic!("{:?}", service.state().phase)
    };
    assert_eq!(release.version, "0.1.0".parse().unwrap());
}

#[tokio::test]
async fn a_device_without_any_source_goes_on_with_going_back_by_itself_and_when_somebody_asks() {
    for by_itself in [true, false] {
        let mut world = World::new();
        world.updated().await;
        world.sourceless = true;
        assert_eq!(world.service(false).round(Some(Asked::Rollback)).await.unwrap(), After::Restart);
        world.starts("0.1.0", Slot::A, true);
        world.machine.power.lock().unwrap().off = true;
        world.starts("0.2.0", Slot::B, false);
        let mut service = world.service(false);
        if by_itself {
            let restarted = async {
                while world.machine.restarts() == 0 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(120), service.run(restarted)).await.unwrap();
            assert_eq!(world.machine.restarts(), 1);
        } else {
            assert_eq!(service.start().await.unwrap(), After::On);
            assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
        }
        let Kept::State(state) = State::load(&world.machine.store).unwrap() else { panic!("no state") };
        assert!(matches!(state.phase, Phase::Trying { slot: Slot::A, tries: 2, .. }), "{:?}", state.phase);
    }
}

#[tokio::test]
async fn to_go_back_where_no_try_can_be_armed_leaves_everything_as_it_was() {
    let mut world = World::new();
    world.updated().await;
    let mut service = world.service(true);
    world.machine.unarmed.store(1, Ordering::Relaxed);
    let error = service.round(Some(Asked::Rollback)).await.unwrap_err();
    assert!(matches!(error, Error::Arm { .. }), "{error}");
    assert_eq!((&service.state().phase, &service.state().refused), (&Phase::Idle {}, &Vec::new()));
    let last = service.state().last().unwrap();
    assert_eq!((last.version, last.ending), ("0.1.0".parse().unwrap(), Ending::Dropped));
    assert_eq!(service.round(Some(Asked::Rollback)).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn the_device_does_not_go_back_to_what_never_ran_there_and_says_why() {
    // Nothing is known of the other slot.
    let mut world = World::new();
    let mut service = world.service(false);
    service.start().await.unwrap();
    let why = world.refuses_to_go_back(&mut service).await;
    assert!(why.contains("not known that slot b holds a whole system"), "{why}");
    // A release was staged there.
    world.offer(&release("0.2.0"));
    assert_eq!(service.round(None).await.unwrap(), After::On);
    let why = world.refuses_to_go_back(&mut service).await;
    assert!(why.contains("slot b holds 0.2.0, which waits to be tried"), "{why}");
    // It was withdrawn.
    world.maker.targets.clear();
    world.maker.advance();
    world.maker.publish(&world.site);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    let why = world.refuses_to_go_back(&mut service).await;
    assert!(why.contains("slot b holds 0.2.0, which was never kept"), "{why}");
}

#[tokio::test]
async fn the_device_does_not_go_back_to_a_slot_that_is_being_written_or_was() {
    let mut world = World::new();
    world.updated().await;
    world.offer(&release("0.3.0"));
    let fetched = |path: &String| path.ends_with(".chunks") && path.contains("0.3.0");
    let path = world.site.paths().into_iter().find(fetched).unwrap();
    // All but its last chunk comes, and is written.
    let mut damaged = world.site.get(&path);
    *damaged.last_mut().unwrap() ^= 1;
    world.site.put(&path, damaged);
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    service.round(None).await.unwrap_err();
    let why = world.refuses_to_go_back(&mut service).await;
    assert!(
        why.contains("0.3.0 is being written into slot a, and the partition boot-a does not hold 0.1.0"),
        "{why}"
    );
    // One byte of it, whoever has changed it.
    let mut world = World::new();
    world.updated().await;
    let root = &world.machine.slots[&Slot::A.partition(Kind::Root)];
    root.write_at(70_000, &[7]).unwrap();
    let mut service = world.service(true);
    let why = world.refuses_to_go_back(&mut service).await;
    assert!(why.contains("slot a does not hold 0.1.0 as a whole any more, its partition root-a"), "{why}");
}

#[tokio::test]
async fn the_device_goes_back_to_a_slot_of_which_nothing_was_written_over_yet() {
    let mut world = World::new();
    world.updated().await;
    world.offer(&release("0.3.0"));
    let fetched = |path: &String| path.ends_with(".chunks") && path.contains("0.3.0");
    let path = world.site.paths().into_iter().find(fetched).unwrap();
    let name = path.rsplit('/').next().unwrap().to_owned();
    world.site.fail(&path, Failed::Missing { name });
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    service.round(None).await.unwrap_err();
    assert!(matches!(service.state().phase, Phase::Staging { .. }));
    assert_eq!(service.round(Some(Asked::Rollback)).await.unwrap(), After::Restart);
    let Phase::Trying { release, slot: Slot::A, .. } = &service.state().phase else {
        panic!("{:?}", service.state().phase)
    };
    assert_eq!(release.version, "0.1.0".parse().unwrap());
    let last = service.state().last().unwrap();
    assert_eq!((last.version, last.ending), ("0.3.0".parse().unwrap(), Ending::Dropped));
    assert!(last.reason.contains("nothing was written over yet"), "{}", last.reason);
}

#[tokio::test]
async fn the_device_does_not_go_back_below_its_floor_nor_to_an_earlier_form_of_data() {
    let mut world = World::new();
    world.updated().await;
    // The form of what is kept was changed by the system that runs, and the copy from before is gone.
    world.data = 2;
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    let why = world.refuses_to_go_back(&mut service).await;
    assert!(why.contains("0.1.0 reads form 1 of what services keep"), "{why}");
    world.data = 1;
    let Kept::State(mut state) = State::load(&world.machine.store).unwrap() else { panic!("no state") };
    state.floor = "0.1.1".parse().unwrap();
    state.save(&world.machine.store).unwrap();
    let mut service = world.service(true);
    let why = world.refuses_to_go_back(&mut service).await;
    assert!(why.contains("rules out everything below 0.1.1"), "{why}");
}

#[tokio::test]
async fn a_wish_to_go_back_that_cannot_be_is_answered_and_is_no_failure() {
    let mut world = World::new();
    world.offer(&release("0.1.0"));
    let service = world.service(true);
    let socket = world.run.path().join("run").join(control::SOCKET);
    let user = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut client = UpdatesClient::new(connect(&socket).await.unwrap());
        client.rollback(RollbackRequest {}).await.unwrap();
        let mut changes = client.status(StatusRequest {}).await.unwrap().into_inner();
        loop {
            let now = changes.message().await.unwrap().unwrap();
            if now.wishes_done == 1 {
                assert!(now.wish_failed.as_deref().unwrap().contains("cannot go back"), "{now:?}");
                assert!(now.troubles.is_empty(), "{now:?}");
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), service.run(user)).await.unwrap();
    assert_eq!(world.machine.restarts(), 0);
}

#[tokio::test]
async fn where_fetching_costs_it_is_said_what_is_there_and_fetched_only_when_somebody_asks() {
    for asked in [Asked::Download, Asked::Apply] {
        let mut world = World::new();
        world.metered = true;
        world.offer(&release("0.2.0"));
        let archive = world.site.paths().into_iter().find(|path| path.ends_with(".chunks")).unwrap();
        let archive = world.site.get(&archive).len() as u64;
        let mut service = world.service(false);
        assert_eq!(service.start().await.unwrap(), After::On);
        for by_itself in [None, Some(Asked::Check)] {
            world.site.log();
            assert_eq!(service.round(by_itself).await.unwrap(), After::On);
            assert!(world.site.log().iter().all(|asked| !asked.contains("..")), "{by_itself:?}");
            assert_eq!(service.state().phase, Phase::Idle {});
            let offered = service.status().unwrap().planned.unwrap().offered.unwrap();
            // The slots hold zeros, and the release is random: all of it would be fetched.
            assert_eq!((offered.version, offered.bytes), ("0.2.0".parse().unwrap(), archive));
            assert!(offered.why.contains("update.metered"), "{}", offered.why);
            assert!(world.words().contains("0.2.0 is there and is not fetched"), "{}", world.words());
        }
        let after = if asked == Asked::Apply { After::Restart } else { After::On };
        assert_eq!(service.round(Some(asked)).await.unwrap(), after);
        assert!(!matches!(service.state().phase, Phase::Idle {}));
        assert_eq!(service.status().unwrap().planned.unwrap().offered, None);
    }
}

/// Sets something, as the control socket does.
fn set(world: &World, change: &Change) {
    let now = jiff::Timestamp::now().as_second() as u64;
    Plan::open(Arc::new(world.machine.store.clone())).0.change(change, now).unwrap();
}

/// A time that was set, and nothing else.
fn at(at: Option<u64>) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.at = at;
    schedule
}

#[tokio::test]
async fn while_updates_are_paused_nothing_is_fetched_by_itself_and_what_is_ready_waits() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    set(&world, &Change { pause: Some(86_400), ..Change::default() });
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert_eq!(service.state().phase, Phase::Idle {});
    assert_eq!(service.round(Some(Asked::Check)).await.unwrap(), After::On);
    assert!(matches!(service.state().phase, Phase::Staged { .. }));
    assert!(world.words().contains("updates are paused until"), "{}", world.words());
    assert_eq!(service.round(None).await.unwrap(), After::On);
    drop(service);
    set(&world, &Change { resume: true, ..Change::default() });
    assert_eq!(world.service(true).round(None).await.unwrap(), After::Restart);
}

#[tokio::test]
async fn a_pause_ends_what_is_being_written_and_not_what_somebody_asked_for() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    set(&world, &Change { pause: Some(86_400), ..Change::default() });
    let mut service = world.service(true);
    let looked = service.look().await.unwrap();
    world.site.log();
    assert!(!service.stage(&looked.chosen.unwrap()).await.unwrap());
    assert!(matches!(service.state().phase, Phase::Staging { .. }));
    assert!(world.site.log().iter().all(|asked| !asked.contains("..")), "it was fetched");
    // That goes on when somebody asks.
    assert_eq!(service.round(Some(Asked::Download)).await.unwrap(), After::On);
    assert!(matches!(service.state().phase, Phase::Staged { .. }));
}

#[tokio::test]
async fn a_pause_that_is_set_while_sessions_end_keeps_the_machine_from_restarting() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    // It accepts connections, and says nothing.
    let rdp = world.run.path().join("rdp.sock");
    let listener = tokio::net::UnixListener::bind(&rdp).unwrap();
    world.rdp = Some(rdp.clone());
    let service = world.service(true);
    let run = world.run.path().join("run");
    let shows = async |words: &str| {
        while !String::from_utf8_lossy(&fs::read(run.join(STATUS)).unwrap_or_default()).contains(words) {
            assert_eq!(world.machine.restarts(), 0, "before it shows {words:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let user = async {
        shows("sessions are being ended").await;
        let mut client = UpdatesClient::new(connect(&run.join(control::SOCKET)).await.unwrap());
        let pause = SetScheduleRequest { pause_seconds: Some(86_400), ..SetScheduleRequest::default() };
        client.set_schedule(pause).await.unwrap();
        // All have ended: the host is gone.
        fs::remove_file(&rdp).unwrap();
        drop(listener);
        shows("the restart waits: updates are paused").await;
    };
    tokio::time::timeout(Duration::from_secs(120), service.run(user)).await.unwrap();
    assert_eq!(world.machine.restarts(), 0);
    let Kept::State(state) = State::load(&world.machine.store).unwrap() else { panic!("no state") };
    assert!(matches!(state.phase, Phase::Staged { tries: 0, .. }), "{:?}", state.phase);
}

#[tokio::test]
async fn at_a_time_that_was_set_the_machine_restarts_whoever_is_connected_and_not_before() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let sessions = world.run.path().join("rdp.json");
    fs::write(&sessions, r#"{"sessions":1}"#).unwrap();
    world.sessions = Some(sessions);
    set(&world, &Change { at: Some(jiff::Timestamp::now().as_second() as u64 + 3600), ..Change::default() });
    let mut service = world.service(false);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(world.words().contains("as was set"), "{}", world.words());
    drop(service);
    // The time has come.
    world.machine.store.put(schedule::FILE, at(Some(1_700_000_000)).to_bytes().unwrap());
    assert_eq!(world.service(false).round(None).await.unwrap(), After::Restart);
    assert_eq!(Plan::open(Arc::new(world.machine.store.clone())).0.get(), at(None), "it counts once");
}

#[tokio::test]
async fn a_time_at_which_nothing_was_ready_is_not_one_for_what_comes_later() {
    let mut world = World::new();
    world.machine.store.put(schedule::FILE, at(Some(1_700_000_000)).to_bytes().unwrap());
    world.offer(&release("0.2.0"));
    let mut service = world.service(false);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(matches!(service.state().phase, Phase::Staged { .. }));
    assert_eq!(service.round(None).await.unwrap(), After::On);
    // Nor for what was being written at that time.
    world.offer(&release("0.3.0"));
    let fetched = |path: &String| path.ends_with(".chunks") && path.contains("0.3.0");
    let path = world.site.paths().into_iter().find(fetched).unwrap();
    let name = path.rsplit('/').next().unwrap().to_owned();
    world.site.fail(&path, Failed::Slow { name, what: "no bytes come any more" });
    service.round(None).await.unwrap_err();
    assert!(matches!(service.state().phase, Phase::Staging { .. }));
    drop(service);
    world.machine.store.put(schedule::FILE, at(Some(1_700_000_000)).to_bytes().unwrap());
    world.site.heal();
    let mut service = world.service(false);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert!(matches!(service.state().phase, Phase::Staged { .. }));
    assert_eq!(Plan::open(Arc::new(world.machine.store.clone())).0.get(), at(None));
}

#[tokio::test]
async fn a_time_that_comes_while_a_release_is_written_is_not_one_for_it() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    let mut service = world.service(false);
    let looked = service.look().await.unwrap();
    // Set before, and over by the time that all of it is in its slot; no round has begun since.
    drop(service);
    world.machine.store.put(schedule::FILE, at(Some(1_700_000_000)).to_bytes().unwrap());
    let mut service = world.service(false);
    assert!(service.stage(&looked.chosen.unwrap()).await.unwrap());
    assert!(matches!(service.state().phase, Phase::Staged { .. }));
    assert_eq!(Plan::open(Arc::new(world.machine.store.clone())).0.get(), at(None));
}

#[tokio::test]
async fn what_is_set_while_the_service_runs_counts_at_once() {
    let mut world = World::new();
    world.offer(&release("0.2.0"));
    set(&world, &Change { pause: Some(86_400), ..Change::default() });
    let service = world.service(true);
    let socket = world.run.path().join("run").join(control::SOCKET);
    let user = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut client = UpdatesClient::new(connect(&socket).await.unwrap());
        // The first look was made: what is there is said, and nothing was fetched.
        loop {
            let schedule = client.get_schedule(GetScheduleRequest {}).await.unwrap().into_inner();
            assert!(schedule.paused_until_seconds.is_some());
            if let Some(offered) = schedule.offered {
                assert_eq!((offered.version.as_str(), offered.why.as_str()), ("0.2.0", "updates are paused"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(world.machine.restarts(), 0);
        let resume = SetScheduleRequest { resume: true, ..SetScheduleRequest::default() };
        client.set_schedule(resume).await.unwrap();
        while world.machine.restarts() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), service.run(user)).await.unwrap();
}

#[tokio::test]
async fn a_release_for_which_others_are_first_is_said_with_its_time() {
    let mut world = World::new();
    let released = jiff::Timestamp::now().as_second() as u64 + 1_000_000;
    world.offer(&Release { released, ..release("0.2.0") });
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    let turn = service.status().unwrap().planned.unwrap().turn.unwrap();
    assert_eq!((turn.version, turn.at), ("0.2.0".parse().unwrap(), released));
}

#[tokio::test]
async fn until_the_sessions_have_ended_no_try_is_armed_and_being_cut_off_costs_nothing() {
    for asked in [Asked::Apply, Asked::Rollback] {
        let mut world = World::new();
        world.updated().await;
        if asked == Asked::Apply {
            world.offer(&release("0.3.0"));
            assert_eq!(world.service(false).round(None).await.unwrap(), After::On);
        }
        // It accepts connections, and says nothing.
        let socket = world.run.path().join("rdp.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        world.rdp = Some(socket);
        let mut service = world.service(false);
        let before = service.state().clone();
        world.machine.store.remove(before::FILE);
        let waits = async {
            loop {
                let shown = fs::read(world.run.path().join("run").join(STATUS)).unwrap_or_default();
                if String::from_utf8_lossy(&shown).contains("sessions are being ended") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            after = service.round(Some(asked)) => panic!("{after:?} without waiting"),
            waited = tokio::time::timeout(Duration::from_secs(60), waits) => waited.unwrap(),
        }
        // How the old system is was seen and kept before: people are not cut off for what comes after.
        assert!(world.machine.store.get(before::FILE).is_some(), "{asked:?}");
        // There the power was cut.
        drop(service);
        assert_eq!(State::load(&world.machine.store).unwrap(), Kept::State(Box::new(before)), "{asked:?}");
        world.starts("0.2.0", Slot::B, false);
        world.rdp = None;
        let mut service = world.service(false);
        assert_eq!(service.start().await.unwrap(), After::On);
        assert_eq!(service.round(Some(asked)).await.unwrap(), After::Restart, "{asked:?}");
    }
}

#[tokio::test]
async fn nobody_is_cut_off_for_a_restart_that_the_device_refuses() {
    let mut world = World::new();
    world.updated().await;
    world.offer(&release("0.3.0"));
    let socket = world.run.path().join("rdp.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    world.rdp = Some(socket);
    assert_eq!(world.service(false).round(None).await.unwrap(), After::On);
    world.machine.outdated = true;
    let mut service = world.service(false);
    let error = service.round(Some(Asked::Apply)).await.unwrap_err();
    assert!(matches!(error, Error::Eeprom { .. }), "{error}");
    let asked = std::future::poll_fn(|context| std::task::Poll::Ready(listener.poll_accept(context)));
    assert!(asked.await.is_pending(), "the RDP host was asked to end sessions");
}

#[tokio::test]
async fn a_time_that_was_set_is_not_lost_where_the_power_is_cut_before_the_try_is_armed() {
    let mut cuts = 0;
    loop {
        let mut world = World::new();
        world.offer(&release("0.2.0"));
        assert_eq!(world.service(false).round(None).await.unwrap(), After::On);
        world.machine.store.put(schedule::FILE, at(Some(1_700_000_000)).to_bytes().unwrap());
        let mut service = world.service(false);
        world.machine.power.lock().unwrap().left = cuts;
        let ended = service.round(None).await;
        drop(service);
        world.machine.start();
        let Kept::State(state) = State::load(&world.machine.store).unwrap() else { panic!("no state") };
        let set = Plan::open(Arc::new(world.machine.store.clone())).0.get();
        let untried = matches!(state.phase, Phase::Staged { tries: 0, .. });
        assert!(!untried || set == at(Some(1_700_000_000)), "after {cuts} writes: {:?}", state.phase);
        if let Ok(after) = ended {
            assert_eq!((after, set), (After::Restart, at(None)));
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 8, "{cuts}");
}
