//! `test_rollback.py`. Metadata is always listed with its hashes here.

use lucid_updated::trust::Refused;
use tough::schema::Snapshot;

use crate::support::{
    repository::{days, meta, number, sign, signer},
    world::World,
};

fn rollback(what: &str) -> Refused {
    Refused::Rollback { what: what.to_owned(), seen: 2, offered: 1 }
}

/// Which has seen version 2 of everything.
async fn at_two() -> World {
    let mut world = World::new();
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [0, 2, 2]);
    world
}

#[tokio::test]
async fn timestamp_rolled_back() {
    let mut world = at_two().await;
    world.maker.timestamp_version = 1;
    world.maker.publish(&world.site);
    assert_eq!(world.refused().await, rollback("timestamp"));
    assert_eq!(world.kept(), [0, 2, 2]);
    assert_eq!(world.site.log().last().unwrap(), "metadata/timestamp.json");
}

#[tokio::test]
async fn snapshot_rolled_back() {
    let mut world = at_two().await;
    (world.maker.timestamp_version, world.maker.snapshot_version) = (3, 1);
    world.maker.publish(&world.site);
    assert_eq!(world.refused().await, rollback("snapshot that the timestamp names"));
    assert_eq!(world.kept(), [0, 2, 2]);
    assert_eq!(world.site.log().last().unwrap(), "metadata/timestamp.json");
}

#[tokio::test]
async fn targets_rolled_back() {
    let mut world = at_two().await;
    world.maker.advance();
    world.maker.targets_version = 1;
    world.maker.publish(&world.site);
    assert_eq!(world.refused().await, rollback("list of targets that the snapshot names"));
    assert_eq!(world.kept(), [0, 3, 2]);
}

#[tokio::test]
async fn role_that_the_snapshot_does_not_list_any_more() {
    let mut world = World::new();
    let mut role = Snapshot::new("1.0.0".to_owned(), number(1), days(30));
    let targets = world.site.get("metadata/1.targets.json");
    role.meta.insert("targets.json".to_owned(), meta(&targets, 1));
    role.meta.insert("delegated.json".to_owned(), meta(b"{}", 1));
    let snapshot = sign(role, &[world.maker.keys.snapshot.clone()]);
    world.site.put("metadata/timestamp.json", world.maker.timestamp_file(&snapshot));
    world.site.put("metadata/1.snapshot.json", snapshot);
    world.good().await;
    world.maker.advance();
    world.maker.publish(&world.site);
    let why = "it does not list delegated.json any more, which version 1 did".to_owned();
    assert_eq!(world.refused().await, Refused::Malformed { role: "snapshot", why });
    assert_eq!(world.kept(), [0, 2, 1]);
}

#[tokio::test]
async fn targets_that_ran_ahead_come_back_with_a_new_snapshot_key() {
    let mut world = World::new();
    world.maker.advance();
    world.maker.targets_version = 100;
    world.maker.publish(&world.site);
    world.good().await;
    world.maker.keys.snapshot = signer(22);
    world.rotate(2, &[]);
    world.maker.advance();
    world.maker.targets_version = 1;
    world.maker.publish(&world.site);
    assert_eq!(world.ask().await.unwrap().version(), (2, 1));
}

#[tokio::test]
async fn snapshot_that_ran_ahead_comes_back_with_new_keys() {
    let mut world = World::new();
    world.maker.snapshot_version = 100;
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [0, 1, 100]);
    (world.maker.keys.snapshot, world.maker.keys.timestamp) = (signer(22), signer(32));
    world.rotate(2, &[]);
    (world.maker.snapshot_version, world.maker.timestamp_version) = (1, 2);
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [2, 2, 1]);
}

#[tokio::test]
async fn timestamp_that_ran_ahead_comes_back_with_a_new_key() {
    let mut world = World::new();
    world.maker.timestamp_version = 100;
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [0, 100, 1]);
    world.maker.keys.timestamp = signer(32);
    world.rotate(2, &[]);
    world.maker.timestamp_version = 1;
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [2, 1, 1]);
}
