//! Attacks on the metadata, one by one, each refused with its name; and what is remembered of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{collections::HashMap, sync::Arc};

use lucid_updated::{
    Error,
    source::Failed,
    trust::{Memory, Refused},
};
use support::{
    golden,
    repository::{Maker, Signer, days, meta, sign, signer, twin},
    world::World,
};
use tough::schema::{Root, Signed};

#[tokio::test]
async fn a_good_source_offers_its_releases_the_newest_first() {
    let mut world = World::new();
    let offers = world.ask().await.unwrap();
    let versions: Vec<_> = offers.releases.iter().map(|offer| offer.release.version.to_string()).collect();
    assert_eq!(versions, ["0.10.0", "0.2.0"]);
    let index = offers.index(&offers.releases[0]).await.unwrap();
    assert_eq!(index.parts().len(), 2);
    assert_eq!(index.archive_bytes(), offers.releases[0].archive_bytes);
    assert!(world.memory.latest > 1_700_000_000 && world.memory.timestamp.is_some());
    drop(offers);
    assert!(!world.trust.scratch.exists());
    // The same again is no rollback.
    world.good().await;
    assert_eq!(world.notes, Vec::<String>::new());
}

#[tokio::test]
async fn a_changed_index_is_refused() {
    let mut world = World::new();
    let path = world.site.paths().into_iter().find(|path| path.ends_with("-0.10.0.index")).unwrap();
    let mut bytes = world.site.get(&path);
    bytes[20] ^= 1;
    world.site.put(&path, bytes.clone());
    let offers = world.ask().await.unwrap();
    let offer = &offers.releases[0];
    let error = offers.index(offer).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused(Refused::Changed { name }) if name == "lucid-qemu-arm64-0.10.0.index")
    );
    // And so is one with something after it.
    bytes[20] ^= 1;
    bytes.push(0);
    world.site.put(&path, bytes);
    let error = offers.index(offer).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Endless { .. })), "{error}");
}

#[tokio::test]
async fn metadata_that_strangers_signed_is_forged() {
    let stranger = || Some(vec![signer(99), signer(98)]);
    for role in ["timestamp", "snapshot", "list of targets"] {
        let mut world = World::new();
        match role {
            "timestamp" => world.maker.timestamp_by = stranger(),
            "snapshot" => world.maker.snapshot_by = stranger(),
            _ => world.maker.targets_by = stranger(),
        }
        world.maker.publish(&world.site);
        let refused = world.refused().await;
        assert!(
            matches!(refused, Refused::Forged { role: found, valid: 0, .. } if found == role),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn fewer_signatures_than_the_threshold_are_not_enough() {
    let mut world = World::new();
    world.maker.targets_by = Some(vec![signer(11)]);
    world.maker.publish(&world.site);
    assert_eq!(world.refused().await, Refused::Forged { role: "list of targets", valid: 1, threshold: 2 });
    // Nor is one that comes twice, or one of a key of another role.
    world.maker.advance();
    world.maker.targets_by = Some(vec![signer(11), signer(11)]);
    world.maker.publish(&world.site);
    assert!(matches!(world.refused().await, Refused::Malformed { role: "list of targets", .. }));
    world.maker.advance();
    world.maker.targets_by = Some(vec![signer(11), signer(21)]);
    world.maker.publish(&world.site);
    assert_eq!(world.refused().await, Refused::Forged { role: "list of targets", valid: 1, threshold: 2 });
}

#[tokio::test]
async fn what_is_older_than_what_was_seen_is_rolled_back() {
    let mut world = World::new();
    let old = world.maker.clone();
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    // All of it.
    old.publish(&world.site);
    let refused = world.refused().await;
    assert_eq!(refused, Refused::Rollback { what: "timestamp".into(), seen: 2, offered: 1 });
    // The snapshot, under a newer timestamp.
    let mut maker = old.clone();
    maker.timestamp_version = 3;
    maker.publish(&world.site);
    assert!(matches!(world.refused().await, Refused::Rollback { seen: 2, offered: 1, .. }));
    // The targets, under a newer snapshot and timestamp.
    maker.snapshot_version = 3;
    maker.publish(&world.site);
    assert!(matches!(world.refused().await, Refused::Rollback { seen: 2, offered: 1, .. }));
}

#[tokio::test]
async fn without_its_memory_a_device_would_take_what_is_older() {
    // That is why it is kept: this test says what it protects from.
    let mut world = World::new();
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    world.memory = Memory::default();
    let mut old = world.maker.clone();
    (old.timestamp_version, old.snapshot_version, old.targets_version) = (1, 1, 1);
    old.publish(&world.site);
    world.good().await;
}

#[tokio::test]
async fn what_has_expired_is_refused_and_the_clock_is_not_believed_by_it() {
    for (at, role) in ["list of targets", "snapshot", "timestamp"].into_iter().enumerate() {
        let mut world = World::new();
        world.good().await;
        let latest = world.memory.latest;
        world.maker.advance();
        world.maker.days[at] = -1;
        world.maker.publish(&world.site);
        assert_eq!(world.refused().await, Refused::Expired { role });
        // A clock that runs ahead makes all of it expired: its time must not stay.
        assert_eq!(world.memory.latest, latest);
    }
}

#[tokio::test]
async fn a_root_that_has_expired_holds_nothing_up_when_a_newer_one_is_there() {
    let mut maker = Maker::new();
    maker.days[3] = -1;
    let mut world = World::of(maker);
    world.maker.publish(&world.site);
    assert_eq!(world.refused().await, Refused::Expired { role: "root" });
    world.maker.days[3] = 365;
    world.rotate(2, &[]);
    world.good().await;
}

#[tokio::test]
async fn files_of_different_times_do_not_go_together() {
    let mut world = World::new();
    let mut other = world.maker.clone();
    other.days[1] = 29;
    let targets = other.targets_file();
    world.site.put("metadata/1.snapshot.json", other.snapshot_file(&targets));
    assert!(matches!(world.refused().await, Refused::Mixed { .. } | Refused::Endless { .. }));
    let mut world = World::new();
    let mut other = world.maker.clone();
    other.targets.clear();
    world.site.put("metadata/1.targets.json", other.targets_file());
    assert!(matches!(world.refused().await, Refused::Mixed { .. }));
}

#[tokio::test]
async fn data_without_end_is_cut_off() {
    for (path, cap) in [("metadata/2.root.json", 64 << 10), ("metadata/timestamp.json", 16 << 10)] {
        let mut world = World::new();
        world.site.put(path, vec![b' '; 1 << 20]);
        let refused = world.refused().await;
        assert!(matches!(&refused, Refused::Endless { cap: found, .. } if *found == cap), "{refused}");
    }
    // Whoever has the timestamp's key may name any length, and gets no further.
    let mut world = World::new();
    let mut named = meta(b"x", 1);
    named.length = Some(u64::MAX);
    world.site.put("metadata/timestamp.json", world.maker.timestamp_naming(named));
    world.site.put("metadata/1.snapshot.json", vec![b' '; 1 << 20]);
    let refused = world.refused().await;
    assert!(matches!(refused, Refused::Endless { cap: 32_768, .. }), "{refused}");
}

#[tokio::test]
async fn a_source_that_is_slow_or_fails_is_no_end_of_the_roots() {
    let slow = |name: &str| Failed::Slow { name: name.to_owned(), what: "no bytes come any more" };
    for (path, name) in
        [("metadata/timestamp.json", "timestamp.json"), ("metadata/2.root.json", "2.root.json")]
    {
        let mut world = World::new();
        world.site.fail(path, slow(name));
        assert_eq!(world.refused().await, Refused::Source(slow(name)));
    }
    // An answer that is neither the root nor that there is none.
    let mut world = World::new();
    let status = Failed::Status { name: "2.root.json".into(), status: 403 };
    world.site.fail("metadata/2.root.json", status.clone());
    assert_eq!(world.refused().await, Refused::Source(status));
    world.site.heal();
    world.good().await;
}

#[tokio::test]
async fn keys_that_were_revoked_sign_nothing_any_more() {
    for role in ["timestamp", "snapshot", "list of targets"] {
        let mut world = World::new();
        world.good().await;
        let old = world.maker.keys.clone();
        let keys = &mut world.maker.keys;
        match role {
            "timestamp" => keys.timestamp = signer(32),
            "snapshot" => keys.snapshot = signer(22),
            _ => keys.targets = vec![signer(14), signer(15), signer(16)],
        }
        world.rotate(2, &[]);
        world.maker.advance();
        match role {
            "timestamp" => world.maker.timestamp_by = Some(vec![old.timestamp]),
            "snapshot" => world.maker.snapshot_by = Some(vec![old.snapshot]),
            _ => world.maker.targets_by = Some(old.targets),
        }
        world.maker.publish(&world.site);
        let refused = world.refused().await;
        assert_eq!(refused, Refused::Revoked { role, root: 1, current: 2 });
        // The root is known from now on, and what its keys sign is good.
        assert_eq!(world.memory.roots.len(), 1);
        (world.maker.timestamp_by, world.maker.snapshot_by, world.maker.targets_by) = (None, None, None);
        world.maker.advance();
        world.maker.publish(&world.site);
        world.good().await;
    }
}

#[tokio::test]
async fn a_stolen_online_key_is_recovered_from_by_the_next_root_and_the_memory_stays() {
    let mut world = World::new();
    world.good().await;
    // Whoever has both online keys runs ahead as far as he likes.
    let mut thief = world.maker.clone();
    (thief.snapshot_version, thief.timestamp_version) = (1_000_000, 1_000_000);
    thief.publish(&world.site);
    world.good().await;
    world.maker.advance();
    world.maker.publish(&world.site);
    assert!(matches!(world.refused().await, Refused::Rollback { seen: 1_000_000, .. }));
    // With new keys the versions go on where they were.
    (world.maker.keys.timestamp, world.maker.keys.snapshot) = (signer(32), signer(22));
    world.rotate(2, &[]);
    world.maker.publish(&world.site);
    world.good().await;
    // From now on what was seen counts again, although the image's root has the old keys.
    let old = world.maker.clone();
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    old.publish(&world.site);
    assert!(matches!(world.refused().await, Refused::Rollback { seen: 3, offered: 2, .. }));
    // The thief's are worth nothing.
    thief.publish(&world.site);
    assert_eq!(world.refused().await, Refused::Revoked { role: "timestamp", root: 1, current: 2 });
}

#[tokio::test]
async fn a_root_is_replaced_by_enough_of_the_old_and_enough_of_the_new_alone() {
    let old = Maker::new().keys.root;
    let new: Vec<_> = (41..=45).map(signer).collect();
    let rotated = |by: Vec<Arc<Signer>>| {
        let mut maker = Maker::new();
        maker.keys.root = new.clone();
        let root = maker.root_role(2);
        let world = World::new();
        world.site.put("metadata/2.root.json", sign(root, &by));
        world
    };
    let both = |olds: usize, news: usize| [&old[..olds], &new[..news]].concat();
    rotated(both(3, 3)).good().await;
    for (olds, news, valid) in [(2, 3, 2), (3, 2, 2), (0, 5, 0)] {
        let refused = rotated(both(olds, news)).refused().await;
        assert_eq!(refused, Refused::Forged { role: "root", valid, threshold: 3 }, "{olds} old, {news} new");
    }
    // With five old and no new ones it is good by the old root, and not by itself.
    let refused = rotated(both(5, 0)).refused().await;
    assert_eq!(refused, Refused::Forged { role: "root", valid: 0, threshold: 3 });
}

#[tokio::test]
async fn a_device_that_missed_roots_walks_them_and_keeps_each() {
    let mut world = World::new();
    world.good().await;
    for (version, number) in [(2, 50), (3, 60), (4, 70)] {
        let old = world.maker.keys.root.clone();
        world.maker.keys.root = (number..number + 5).map(signer).collect();
        world.rotate(version, &old);
    }
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.memory.roots.len(), 3);
    world.site.log();
    world.good().await;
    assert_eq!(world.site.log()[0], "metadata/5.root.json", "roots that are known are not fetched again");
    // A root that says another version than its name.
    let wrong = world.maker.root(6, &[]);
    world.site.put("metadata/5.root.json", wrong);
    assert!(matches!(world.refused().await, Refused::Malformed { role: "root", .. }));
}

#[tokio::test]
async fn a_root_of_others_on_the_data_partition_is_not_believed() {
    let mut world = World::new();
    let mut stranger = Maker::new();
    stranger.keys.root = (81..=85).map(signer).collect();
    world.memory.roots = vec![stranger.root(2, &[])];
    world.good().await;
    assert!(world.notes[0].contains("is not believed"), "{:?}", world.notes);
    assert!(world.memory.roots.is_empty());
}

#[tokio::test]
async fn a_clock_that_was_set_back_is_not_believed() {
    let mut world = World::new();
    world.good().await;
    let now = world.memory.latest;
    // A step as the network's time makes it.
    world.memory.latest = now + 5;
    world.good().await;
    world.memory.latest = now + 3600;
    assert!(matches!(world.refused().await, Refused::ClockBack { .. }));
    assert_eq!(world.memory.latest, now + 3600);
    world.memory.latest = 0;
    world.trust.built = now + 86_400;
    assert!(matches!(world.refused().await, Refused::ClockBack { .. }));
}

#[tokio::test]
async fn a_root_with_a_key_twice_is_not_kept() {
    let mut world = World::new();
    let old = world.maker.keys.root.clone();
    world.maker.keys.targets = vec![signer(11), twin(11), signer(12)];
    world.rotate(2, &old);
    world.maker.publish(&world.site);
    let refused = world.refused().await;
    assert!(
        matches!(&refused, Refused::Malformed { role: "root", why } if why.contains("twice")),
        "{refused}"
    );
    assert!(world.memory.roots.is_empty());
}

#[tokio::test]
async fn a_root_for_development_is_for_images_that_were_built_for_it() {
    let mark = |value: serde_json::Value| HashMap::from([("lucid-development".to_owned(), value)]);
    // Whatever the mark says.
    for value in [true.into(), false.into(), "no".into()] {
        let mut world = World::new();
        world.maker.root_extra = mark(value);
        world.rotate(2, &[]);
        assert_eq!(world.refused().await, Refused::Development(2));
    }
    let mut maker = Maker::new();
    maker.root_extra = mark(true.into());
    let mut world = World::of(maker);
    world.maker.publish(&world.site);
    world.good().await;
    assert!(world.trust.standing(&world.memory).unwrap().development);
}

#[tokio::test]
async fn another_timestamp_of_the_version_that_is_known_changes_nothing() {
    let mut world = World::new();
    world.good().await;
    let known = world.memory.timestamp.clone();
    world.maker.days[2] = 6;
    let snapshot = world.site.get("metadata/1.snapshot.json");
    world.site.put("metadata/timestamp.json", world.maker.timestamp_file(&snapshot));
    world.good().await;
    assert_eq!(world.memory.timestamp, known);
    assert!(world.notes[0].contains("the known one holds"), "{:?}", world.notes);
}

#[tokio::test]
async fn a_release_that_is_none_is_passed_over() {
    let mut world = World::new();
    let mut target = world.maker.targets["lucid-qemu-arm64-0.2.0.index"].clone();
    target.custom.insert("more".into(), 1.into());
    world.maker.targets.insert("lucid-qemu-arm64-0.2.0.index".into(), target);
    world.maker.targets.remove("lucid-qemu-arm64-0.10.0.chunks");
    world.maker.advance();
    world.maker.publish(&world.site);
    let offers = world.ask().await.unwrap();
    assert!(offers.releases.is_empty());
    assert_eq!(offers.passed_over.len(), 2, "{:?}", offers.passed_over);
}

#[test]
fn a_standing_says_which_root_holds_and_until_when() {
    let world = World::new();
    let standing = world.trust.standing(&Memory::default()).unwrap();
    assert_eq!((standing.root, standing.development, standing.checked), (1, false, None));
    let root: Signed<Root> = serde_json::from_slice(&world.trust.root).unwrap();
    assert_eq!(standing.root_expires, root.signed.expires.to_string());
    assert!(root.signed.expires <= days(366));
}

#[test]
fn the_golden_memory_is_written_again_and_read() {
    let memory = Memory {
        roots: vec![b"{\"a\":1}\n".to_vec()],
        timestamp: Some(b"{}".to_vec()),
        snapshot: None,
        latest: 1_795_400_000,
    };
    let kept = golden("trust.json", &memory.to_bytes().unwrap());
    assert_eq!(Memory::from_bytes(&kept).unwrap(), memory);
}
