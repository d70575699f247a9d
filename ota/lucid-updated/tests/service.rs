//! The service with a source whose metadata is signed: what it takes, what it does not, and what it says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{sync::Arc, time::Duration};

use lucid_release_format::{Kind, Release, Version, Wave};
use lucid_updated::{
    Error,
    boot::Slot,
    service::{After, Asked, Parts, Service, Settings, Status},
    source::Failed,
    state::{Ending, Phase},
    trust::{Refused, Trust},
};
use support::{
    machine::{Known, Power, Random, SimMachine},
    repository::{Maker, Site, release},
};

/// A device that runs 0.1.0, and a source.
struct World {
    machine: SimMachine,
    maker: Maker,
    site: Site,
    trust: Trust,
    run: tempfile::TempDir,
    running: Version,
}

impl World {
    fn new() -> Self {
        let slots =
            [(Slot::A, Kind::Boot), (Slot::A, Kind::Root), (Slot::B, Kind::Boot), (Slot::B, Kind::Root)];
        let slots = slots.map(|(slot, kind)| (slot, kind, vec![0; 256 << 10]));
        let machine = SimMachine::new(Power::new(u64::MAX, 1), slots, false);
        let (maker, site, run) = (Maker::new(), Site::default(), tempfile::tempdir().unwrap());
        let trust = Trust { root: maker.root(1, &[]), scratch: run.path().join("scratch"), built: 0 };
        Self { machine, maker, site, trust, run, running: "0.1.0".parse().unwrap() }
    }

    fn offer(&mut self, release: &Release) {
        let mut random = Random(u64::from(release.version.minor) + 100);
        self.maker.add(&self.site, release, &random.bytes(20_000), &random.bytes(90_000));
        self.maker.advance();
        self.maker.publish(&self.site);
    }

    fn service(&self, automatic: bool) -> Service {
        Service::open(Parts {
            store: Arc::new(self.machine.store.clone()),
            boot: Arc::new(self.machine.clone()),
            slots: Arc::new(self.machine.clone()),
            trust: self.trust.clone(),
            sources: vec![Arc::new(self.site.clone())],
            checks: vec![Box::new(Known(Ok(())))],
            settings: Settings {
                machine: "qemu-arm64".into(),
                channel: "stable".into(),
                running: self.running,
                within: Duration::ZERO,
                every: Duration::from_secs(60),
                automatic,
                requests: self.run.path().to_owned(),
                run: self.run.path().to_owned(),
            },
        })
        .unwrap()
    }

    fn words(&self) -> String {
        let status =
            Status::read(&self.machine.store, &self.machine, &self.trust, self.running, self.run.path());
        status.unwrap().words()
    }
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
        looked.verdicts.iter().find(|(found, _)| *found == version).unwrap().1.clone()
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
    assert_eq!(service.state().last.as_ref().unwrap().ending, Ending::Installed);
    drop(service);
    world.machine.start();
    assert_eq!((world.machine.running().slot, world.machine.running().tried), (Slot::B, false));
    let words = world.words();
    for line in
        ["runs 0.2.0 in slot b", "0.2.0 was installed", "nothing below 0.2.0 is installed", "believes root 1"]
    {
        assert!(words.contains(line), "{words}");
    }
    // Back in the old slot, what is below the floor is not taken, whoever signs it.
    world.running = "0.1.0".parse().unwrap();
    world.offer(&release("0.1.5"));
    let looked = world.service(false).look().await.unwrap();
    let (_, words) = looked.verdicts.iter().find(|(found, _)| found.minor == 1).unwrap();
    assert!(words.contains("rules out"), "{words}");
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
        let last = service.state().last.clone().unwrap();
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
    world.offer(&release("0.2.0"));
    let mut service = world.service(true);
    assert_eq!(service.round(None).await.unwrap(), After::Restart);
    drop(service);
    // The power is cut before the try.
    world.machine.power.lock().unwrap().off = true;
    world.machine.start();
    let mut service = world.service(true);
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.round(None).await.unwrap(), After::On);
    assert_eq!(service.state().phase, Phase::Idle {});
    assert!(world.words().contains("not tried again by itself: 0.2.0"), "{}", world.words());
    assert_eq!(service.round(Some(Asked::Apply)).await.unwrap(), After::Restart);
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
