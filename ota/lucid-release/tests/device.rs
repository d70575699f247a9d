//! What is published here is what a device takes, by the code that devices run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::fs;
use std::sync::Arc;

use lucid_release::draft::{self, Rotation};
use lucid_release::folder::Days;
use lucid_release::publish::refresh;
use lucid_release::sign::Paper;
use lucid_release_format::Kind;
use lucid_updated::disk::Device;
use lucid_updated::have::Have;
use lucid_updated::source::{Dir, Source};
use lucid_updated::stage::{self, Target};
use lucid_updated::trust::{Memory, Trust};
use support::{Place, block_on, key, now, parts, publics};
use tough::schema::RoleType;

/// A device that knows the first root, and the web folder as its source.
struct World {
    place: Place,
    trust: Trust,
    memory: Memory,
    source: Arc<dyn Source>,
    slot: [Target; 2],
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let root = fs::read(place.folder.path().join("1.root.json")).unwrap();
        let trust = Trust { root, scratch: place.path().join("scratch"), built: 0 };
        let source: Arc<dyn Source> = Arc::new(Dir::new(place.web.clone()));
        let slot = [(Kind::Boot, 1 << 20), (Kind::Root, 3 << 20)].map(|(kind, bytes)| {
            let (path, name) = (place.path().join(kind.to_string()), format!("{kind}-b"));
            fs::write(&path, vec![0x55; bytes]).unwrap();
            Target { kind, name, disk: Arc::new(Device::shared(&path).unwrap()) }
        });
        Self { place, trust, memory: Memory::default(), source, slot }
    }

    fn publish(&self, version: &str, number: u8) {
        self.place.add(version, number);
        assert!(self.place.sign(11).unwrap() && self.place.sign(12).unwrap());
        self.place.publish().unwrap();
    }

    /// Takes the newest release; says which.
    fn take(&mut self) -> String {
        let Self { trust, memory, source, slot, .. } = self;
        block_on(async {
            let cycle = trust.ask(memory, source.clone()).await.unwrap();
            assert_eq!(cycle.notes, Vec::<String>::new());
            *memory = cycle.memory;
            let offers = cycle.offers.unwrap();
            assert!(offers.passed_over.is_empty(), "{:?}", offers.passed_over);
            let offer = &offers.releases[0];
            let index = offers.index(offer).await.unwrap();
            let (have, tell) = (&mut Have::new(), &mut |_| {});
            stage::write(&index, &offer.archive, &slot[..], have, &**source, tell).await.unwrap();
            offer.release.version.to_string()
        })
    }

    /// The partitions of the slot, to their last byte.
    fn held(&self) -> [Vec<u8>; 2] {
        ["boot", "root"].map(|name| fs::read(self.place.path().join(name)).unwrap())
    }
}

#[test]
fn a_device_takes_what_was_published_and_its_slot_is_the_partition_of_the_image() {
    let mut world = World::new();
    for (version, number) in [("0.2.0", 7), ("0.3.0", 8)] {
        world.publish(version, number);
        assert_eq!(world.take(), version);
        for (held, mut part) in world.held().into_iter().zip(parts(number)) {
            part.resize(held.len(), 0);
            assert!(held == part, "{version}");
        }
    }
}

#[test]
fn a_device_follows_roots_and_timestamps_as_they_are_published() {
    let mut world = World::new();
    world.publish("0.2.0", 7);
    world.take();
    let remove = publics(&[5]).iter().map(|key| key.id().unwrap()).collect();
    let (role, add, days) = (RoleType::Root, publics(&[6]), Days::default());
    let rotation = Rotation { role, add, remove, threshold: None, days };
    let held = draft::rotate_root(&world.place.folder, &rotation, now()).unwrap();
    for number in [1, 2, 3] {
        assert!(Paper::open(&held.path, None).unwrap().sign(&key(number)).unwrap());
    }
    world.place.does(refresh).unwrap();
    assert_eq!(world.take(), "0.2.0");
    assert_eq!(world.memory.roots.len(), 1);
    let standing = world.trust.standing(&world.memory).unwrap();
    assert_eq!((standing.root, standing.timestamp.unwrap().0), (2, 2));
}
