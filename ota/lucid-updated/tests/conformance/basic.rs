//! `test_basic.py`.

use std::{collections::HashMap, sync::Arc};

use lucid_updated::{Error, source::Failed, trust::Refused};
use tough::schema::{Hashes, RoleType, Snapshot, decoded::Decoded};

use crate::{
    edited,
    support::{
        repository::{days, meta, number, odd, sign},
        world::World,
    },
};

#[tokio::test]
async fn what_is_asked_for_and_kept() {
    let mut world = World::new();
    world.good().await;
    let asked = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"];
    assert_eq!(world.site.log(), asked.map(|name| format!("metadata/{name}")));
    assert!(world.memory.roots.is_empty());
    assert_eq!(world.memory.timestamp, Some(world.site.get("metadata/timestamp.json")));
    assert_eq!(world.memory.snapshot, Some(world.site.get("metadata/1.snapshot.json")));
}

#[tokio::test]
async fn first_root_that_is_none_or_is_not_signed() {
    let none =
        |root: &[u8]| edited(root, |root| drop(root["signed"].as_object_mut().unwrap().remove("version")));
    let unsigned = |root: &[u8]| edited(root, |root| root["signatures"][0]["sig"] = "00".repeat(64).into());
    for spoil in [&none as &dyn Fn(&[u8]) -> Vec<u8>, &unsigned] {
        let mut world = World::new();
        world.trust.root = spoil(&world.trust.root);
        let error = world.trust.ask(&world.memory, Arc::new(world.site.clone())).await.unwrap_err();
        assert!(
            matches!(error, Error::Refused(Refused::Malformed { role: "root of the image", .. })),
            "{error}"
        );
        assert!(world.site.log().is_empty());
    }
}

#[tokio::test]
async fn unsigned_metadata() {
    for (role, valid, threshold, kept) in [
        ("root", 2, 3, [0, 0, 0]),
        ("timestamp", 0, 1, [2, 0, 0]),
        ("snapshot", 0, 1, [2, 2, 0]),
        ("list of targets", 0, 2, [2, 2, 2]),
    ] {
        let mut world = World::new();
        world.rotate(2, &[]);
        world.maker.advance();
        match role {
            "root" => world.put_root(world.maker.root_role(2), &world.maker.keys.root[..2]),
            "timestamp" => world.maker.timestamp_by = Some(Vec::new()),
            "snapshot" => world.maker.snapshot_by = Some(Vec::new()),
            _ => world.maker.targets_by = Some(Vec::new()),
        }
        world.maker.publish(&world.site);
        assert_eq!(world.refused().await, Refused::Forged { role, valid, threshold });
        assert_eq!(world.kept(), kept, "{role}");
    }
}

#[tokio::test]
async fn version_of_the_name_and_of_the_file() {
    let mut world = World::new();
    let wrong = world.maker.root(3, &[]);
    world.site.put("metadata/2.root.json", wrong);
    assert!(matches!(world.refused().await, Refused::Malformed { role: "root", .. }));
    assert_eq!(world.kept(), [0, 0, 0]);
    for (role, kept) in [("the snapshot", [0, 2, 0]), ("the list of targets", [0, 2, 2])] {
        let mut world = World::new();
        world.maker.advance();
        // One further in the file than in its name and in what lists it.
        let mut inside = world.maker.clone();
        match role {
            "the snapshot" => inside.snapshot_version = 3,
            _ => inside.targets_version = 3,
        }
        let targets = inside.targets_file();
        inside.targets_version = 2;
        let snapshot = inside.snapshot_file(&targets);
        world.site.put("metadata/2.targets.json", targets);
        world.site.put("metadata/timestamp.json", world.maker.timestamp_file(&snapshot));
        world.site.put("metadata/2.snapshot.json", snapshot);
        assert_eq!(world.refused().await, Refused::Mixed { what: role.to_owned() });
        assert_eq!(world.kept(), kept);
    }
}

#[tokio::test]
async fn timestamp_that_changes_without_a_new_version() {
    let mut world = World::new();
    world.good().await;
    world.site.put("metadata/timestamp.json", world.maker.timestamp_naming(meta(b"x", 100)));
    world.site.log();
    world.good().await;
    assert_eq!(world.kept(), [0, 1, 1]);
    assert!(!world.site.log().contains(&"metadata/100.snapshot.json".to_owned()));
}

#[tokio::test]
async fn metadata_is_listed_with_its_hash() {
    // What is listed with one is what all other tests have.
    let mut world = World::new();
    let snapshot = world.site.get("metadata/1.snapshot.json");
    for (length, hash) in [(true, false), (false, true)] {
        let mut named = meta(&snapshot, 1);
        named.length = named.length.filter(|_| length);
        named.hashes = named.hashes.filter(|_| hash);
        world.site.put("metadata/timestamp.json", world.maker.timestamp_naming(named));
        let refused = world.refused().await;
        let why = "a file is listed without its length or its hash".to_owned();
        assert_eq!(refused, Refused::Malformed { role: "metadata", why });
        world.memory.timestamp = None;
    }
}

#[tokio::test]
async fn hash_of_the_targets_is_another() {
    let mut world = World::new();
    world.good().await;
    world.maker.advance();
    world.maker.publish(&world.site);
    let mut other = world.site.get("metadata/2.targets.json");
    other[0] ^= 1;
    let snapshot = world.maker.snapshot_file(&other);
    world.site.put("metadata/timestamp.json", world.maker.timestamp_file(&snapshot));
    world.site.put("metadata/2.snapshot.json", snapshot);
    assert_eq!(world.refused().await, Refused::Mixed { what: "2.targets.json".to_owned() });
    assert_eq!(world.kept(), [0, 2, 2]);
}

#[tokio::test]
async fn hash_of_the_snapshot_is_another() {
    let mut world = World::new();
    world.good().await;
    world.maker.advance();
    world.maker.publish(&world.site);
    let mut named = meta(&world.site.get("metadata/2.snapshot.json"), 2);
    named.hashes = Some(Hashes { sha256: Decoded::from(vec![0; 32]), _extra: HashMap::new() });
    world.site.put("metadata/timestamp.json", world.maker.timestamp_naming(named));
    assert_eq!(world.refused().await, Refused::Mixed { what: "2.snapshot.json".to_owned() });
    assert_eq!(world.kept(), [0, 2, 1]);
}

#[tokio::test]
async fn bytes_are_kept_as_they_came() {
    let mut world = World::new();
    let mut bytes = world.site.get("metadata/timestamp.json");
    bytes.push(b' ');
    world.site.put("metadata/timestamp.json", bytes.clone());
    world.good().await;
    assert_eq!(world.memory.timestamp, Some(bytes));
}

#[tokio::test]
async fn custom_fields() {
    let mut world = World::new();
    world.good().await;
    world.maker.keys.root.push(odd(6, "extra-field", serde_json::json!({ "a": 1, "b": 2 })));
    let mut root = world.maker.root_role(2);
    root._extra.insert("custom-field".to_owned(), "value".into());
    let role = root.roles.get_mut(&RoleType::Root).unwrap();
    role._extra.insert("another-field".to_owned(), "value".into());
    world.put_root(root, &world.maker.keys.root[2..]);
    world.good().await;
    assert_eq!(world.kept(), [2, 1, 1]);
}

#[tokio::test]
async fn deprecated_keyid_hash_algorithms() {
    let mut world = World::new();
    world.good().await;
    world.maker.keys.snapshot = odd(22, "keyid_hash_algorithms", "md5".into());
    world.rotate(2, &[]);
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [2, 2, 2]);
}

#[tokio::test]
async fn files_that_are_not_there() {
    let missing = |name: &str| Refused::Source(Failed::Missing { name: name.to_owned() });
    let mut world = World::new();
    world.good().await;
    world.maker.timestamp_version = 2;
    world.site.put("metadata/timestamp.json", world.maker.timestamp_naming(meta(b"x", 2)));
    assert_eq!(world.refused().await, missing("2.snapshot.json"));
    assert_eq!(world.site.log().last().unwrap(), "metadata/2.snapshot.json");
    assert_eq!(world.kept(), [0, 2, 1]);
    let mut world = World::new();
    world.good().await;
    world.maker.advance();
    let snapshot = world.maker.snapshot_file(&world.maker.targets_file());
    world.site.put("metadata/timestamp.json", world.maker.timestamp_file(&snapshot));
    world.site.put("metadata/2.snapshot.json", snapshot);
    assert_eq!(world.refused().await, missing("2.targets.json"));
    assert_eq!(world.kept(), [0, 2, 2]);
    let mut world = World::new();
    world.good().await;
    world.site.fail("metadata/timestamp.json", Failed::Missing { name: "timestamp.json".to_owned() });
    assert_eq!(world.refused().await, missing("timestamp.json"));
    assert_eq!(world.kept(), [0, 1, 1]);
}

#[tokio::test]
async fn metadata_of_another_type() {
    // Signed by the timestamp's key, with all that a timestamp has, and called a snapshot in it.
    let mut world = World::new();
    let mut role = Snapshot::new("1.0.0".to_owned(), number(2), days(7));
    role.meta.insert("snapshot.json".to_owned(), meta(&world.site.get("metadata/1.snapshot.json"), 1));
    let file = sign(role, &[world.maker.keys.timestamp.clone()]);
    world.site.put("metadata/timestamp.json", file);
    assert_eq!(world.refused().await, Refused::Forged { role: "timestamp", valid: 0, threshold: 1 });
    assert_eq!(world.kept(), [0, 0, 0]);
}
