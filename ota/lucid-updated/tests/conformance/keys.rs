//! `test_keys.py`.

use std::{collections::HashMap, sync::Arc};

use lucid_updated::trust::Refused;
use tough::schema::{
    RoleType,
    decoded::Decoded,
    key::{EcdsaKey, EcdsaScheme, Key, RsaKey, RsaScheme},
};

use crate::{
    edited, give,
    support::{
        repository::{Signer, sign, signer},
        world::World,
    },
};

/// The snapshot's keys in root 2, and a list of releases published under it.
fn snapshot_keys(world: &mut World, keys: &[Arc<Signer>], threshold: u64, by: &[Arc<Signer>]) {
    let mut root = world.maker.root_role(2);
    give(&mut root, RoleType::Snapshot, keys, threshold);
    world.put_root(root, &world.maker.keys.root[..3]);
    world.maker.snapshot_by = Some(by.to_vec());
    world.maker.advance();
    world.maker.publish(&world.site);
}

fn fewer_keys() -> Refused {
    Refused::Malformed {
        role: "root",
        why: "its snapshot has fewer keys than it needs signatures".to_owned(),
    }
}

#[tokio::test]
async fn snapshot_below_its_threshold() {
    let mut world = World::new();
    let keys = [21, 23, 24].map(signer);
    snapshot_keys(&mut world, &keys, 3, &keys);
    world.good().await;
    world.maker.snapshot_by = Some(keys[..2].to_vec());
    world.maker.advance();
    world.maker.publish(&world.site);
    // The first of them was enough for root 1: nobody was revoked all the same.
    assert_eq!(world.refused().await, Refused::Forged { role: "snapshot", valid: 2, threshold: 3 });
    assert_eq!(world.kept(), [2, 3, 2]);
}

#[tokio::test]
async fn threshold_above_the_number_of_keys() {
    let mut world = World::new();
    let keys = [21, 23, 24, 25, 26].map(signer);
    snapshot_keys(&mut world, &keys, 6, &keys);
    assert_eq!(world.refused().await, fewer_keys());
    // Such a root is not kept here: the next one is reached through it all the same.
    assert_eq!(world.kept(), [0, 0, 0]);
    world.rotate(3, &[]);
    world.maker.snapshot_by = None;
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [3, 3, 3]);
}

#[tokio::test]
async fn key_that_is_listed_many_times() {
    let mut world = World::new();
    let keys: Vec<_> = [21].into_iter().chain([25; 9]).map(signer).collect();
    snapshot_keys(&mut world, &keys, 6, &keys);
    assert_eq!(world.refused().await, fewer_keys());
    assert_eq!(world.kept(), [0, 0, 0]);
}

#[tokio::test]
async fn signature_that_is_there_twice() {
    let mut world = World::new();
    world.maker.snapshot_by = Some(vec![signer(21), signer(21)]);
    world.maker.publish(&world.site);
    let why = "it has two signatures of one key".to_owned();
    assert_eq!(world.refused().await, Refused::Malformed { role: "snapshot", why });
    assert_eq!(world.kept(), [0, 1, 0]);
}

#[tokio::test]
async fn ed25519_signatures_are_good_or_not() {
    let mut world = World::new();
    let by = [1, 2, 3, 6].map(signer);
    world.maker.keys.root.push(signer(6));
    world.maker.keys.root_threshold = 4;
    world.put_root(world.maker.root_role(2), &by);
    world.good().await;
    let wrong = "b61589620c287e23a00abf0e653421010a0ad33869e5a096d604e08d7b4f8eb9\
                 c58ebb8a02124576be776f86ab5a3b05dbb6f27cc47f4b144f32ba4012d4b302";
    let root = sign(world.maker.root_role(3), &by);
    world.site.put("metadata/3.root.json", edited(&root, |root| root["signatures"][3]["sig"] = wrong.into()));
    assert_eq!(world.refused().await, Refused::Forged { role: "root", valid: 3, threshold: 4 });
    assert_eq!(world.kept()[0], 2);
}

#[tokio::test]
async fn keys_of_other_types_are_refused() {
    let ecdsa = Key::Ecdsa {
        keyval: EcdsaKey { public: Decoded::from(vec![4; 65]), _extra: HashMap::new() },
        scheme: EcdsaScheme::EcdsaSha2Nistp256,
        _extra: HashMap::new(),
    };
    let rsa = Key::Rsa {
        keyval: RsaKey { public: Decoded::from(vec![1; 270]), _extra: HashMap::new() },
        scheme: RsaScheme::RsassaPssSha256,
        _extra: HashMap::new(),
    };
    for key in [ecdsa, rsa] {
        let mut world = World::new();
        let mut root = world.maker.root_role(2);
        let id = key.key_id().unwrap();
        root.keys.insert(id.clone(), key);
        root.roles.get_mut(&RoleType::Root).unwrap().keyids.push(id);
        world.put_root(root, &world.maker.keys.root[..3]);
        let why = "it has a key that is not Ed25519".to_owned();
        assert_eq!(world.refused().await, Refused::Malformed { role: "root", why });
        assert_eq!(world.kept()[0], 0);
    }
}

#[tokio::test]
async fn signature_that_is_wrong_beside_one_that_is_good() {
    let mut world = World::new();
    let keys = [31, 33].map(signer);
    let mut root = world.maker.root_role(2);
    give(&mut root, RoleType::Timestamp, &keys, 1);
    world.put_root(root, &world.maker.keys.root[..3]);
    world.maker.timestamp_by = Some(keys.to_vec());
    for (at, wrong) in ["00".repeat(64), String::new()].into_iter().enumerate() {
        world.maker.advance();
        world.maker.publish(&world.site);
        let file = world.site.get("metadata/timestamp.json");
        let file = edited(&file, |file| file["signatures"][0]["sig"] = wrong.into());
        world.site.put("metadata/timestamp.json", file);
        world.good().await;
        assert_eq!(world.kept(), [2, 2 + at as u64, 2 + at as u64]);
    }
}
