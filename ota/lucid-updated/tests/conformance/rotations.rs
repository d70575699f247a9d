//! `test_updater_key_rotations.py`.

use std::sync::Arc;

use lucid_updated::trust::Refused;
use tough::schema::{RoleType, Root};

use crate::{
    give,
    support::{
        repository::{Maker, Signer, sign, signer},
        world::World,
    },
};

/// A version: which keys, how many of them have to sign, and who signs.
type Version = (&'static [u8], u64, &'static [u8]);

fn signers(numbers: &[u8]) -> Vec<Arc<Signer>> {
    numbers.iter().map(|number| signer(100 + number)).collect()
}

fn root(maker: &Maker, version: u64, (keys, threshold, _): Version) -> Root {
    let mut root = maker.root_role(version);
    give(&mut root, RoleType::Root, &signers(keys), threshold);
    root
}

const ALL: &[u8] = &[0, 1, 2, 3, 4];
const NEXT: &[u8] = &[0, 1, 3, 4, 5];
const OTHERS: &[u8] = &[5, 6, 7, 8, 9];

/// By the names of the suite; whether the last of them is taken.
const ROOTS: &[(&str, &[Version], bool)] = &[
    ("1-of-1-key-rotation", &[(&[1], 1, &[1]), (&[2], 1, &[2, 1]), (&[2], 1, &[2])], true),
    (
        "1-of-1-key-rotation-unused-signatures",
        &[(&[1], 1, &[3, 1, 4]), (&[2], 1, &[3, 2, 1, 4]), (&[2], 1, &[3, 2, 4])],
        true,
    ),
    (
        "3-of-5-sign-with-different-keycombos",
        &[(ALL, 3, &[0, 2, 4]), (ALL, 3, &[0, 4, 1]), (ALL, 3, &[0, 1, 3]), (ALL, 3, &[0, 1, 3])],
        true,
    ),
    ("3-of-5-one-key-rotated", &[(ALL, 3, &[0, 2, 4]), (NEXT, 3, &[0, 4, 1])], true),
    (
        "3-of-5-one-key-rotated-with-intermediate-step",
        &[(ALL, 3, &[0, 2, 4]), (NEXT, 3, &[0, 2, 4, 5]), (NEXT, 3, &[0, 4, 5])],
        true,
    ),
    (
        "3-of-5-all-keys-rotated-with-intermediate-step",
        &[(ALL, 3, &[0, 2, 4]), (OTHERS, 3, &[0, 2, 4, 5, 6, 7]), (OTHERS, 3, &[5, 6, 7])],
        true,
    ),
    ("1-of-3-threshold-increase-to-2-of-3", &[(&[1, 2, 3], 1, &[1]), (&[1, 2, 3], 2, &[1, 2])], true),
    (
        "2-of-3-threshold-decrease-to-1-of-3",
        &[(&[1, 2, 3], 2, &[1, 2]), (&[1, 2, 3], 1, &[1, 2]), (&[1, 2, 3], 1, &[1])],
        true,
    ),
    ("1-of-2-threshold-increase-to-2-of-2", &[(&[1], 1, &[1]), (&[1, 2], 2, &[1, 2])], true),
    ("1-of-1-key-rotation-fail-not-signed-with-old-key", &[(&[1], 1, &[1]), (&[2], 1, &[2, 3, 4])], false),
    ("1-of-1-key-rotation-fail-not-signed-with-new-key", &[(&[1], 1, &[1]), (&[2], 1, &[1, 3, 4])], false),
    (
        "3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys",
        &[(ALL, 3, &[0, 2, 4]), (NEXT, 3, &[0, 2, 4])],
        false,
    ),
    (
        "3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys",
        &[(ALL, 3, &[0, 2, 4]), (NEXT, 3, &[0, 4, 5])],
        false,
    ),
    (
        "1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached",
        &[(&[1, 2, 3], 1, &[1]), (&[1, 2, 3], 2, &[2])],
        false,
    ),
    (
        "2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-eached",
        &[(&[1, 2, 3], 2, &[1, 2]), (&[1, 2, 3], 1, &[1])],
        false,
    ),
];

#[tokio::test]
async fn root_rotations() {
    for (name, versions, taken) in ROOTS {
        let maker = Maker::new();
        let first = sign(root(&maker, 1, versions[0]), &signers(versions[0].2));
        let mut world = World::with_root(maker, first);
        world.maker.publish(&world.site);
        for (number, version) in (2..).zip(&versions[1..]) {
            world.put_root(root(&world.maker, number, *version), &signers(version.2));
        }
        let last = versions.len() as u64;
        let newest = if *taken {
            world.good().await;
            last
        } else {
            let refused = world.refused().await;
            assert!(matches!(refused, Refused::Forged { role: "root", .. }), "{name}: {refused}");
            last - 1
        };
        // The first is the image's.
        assert_eq!(world.kept()[0], if newest == 1 { 0 } else { newest }, "{name}");
    }
}

/// By the names of the suite; how many of its signatures are good.
const NON_ROOTS: &[(&str, Version, u64)] = &[
    ("1-of-1-key-rotation", (&[2], 1, &[2]), 1),
    ("1-of-1-key-rotation-unused-signatures", (&[1], 1, &[3, 1, 4]), 1),
    ("1-of-1-key-rotation-fail-not-signed-with-new-key", (&[2], 1, &[1, 3, 4]), 0),
    ("3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys", (NEXT, 3, &[0, 2, 4]), 2),
    ("2-of-5-one-key-signature-mising-threshold-not-reached", (NEXT, 3, &[0, 4]), 2),
    ("3-of-5-sign-first-combo", (ALL, 3, &[0, 2, 4]), 3),
    ("3-of-5-sign-second-combo", (ALL, 3, &[0, 4, 1]), 3),
    ("3-of-5-sign-third-combo", (ALL, 3, &[0, 1, 3]), 3),
    ("3-of-5-sign-fourth-combo", (ALL, 3, &[1, 2, 3]), 3),
    ("3-of-5-sign-fifth-combo", (ALL, 3, &[2, 3, 4]), 3),
];

#[tokio::test]
async fn other_rotations() {
    for (name, (keys, threshold, by), valid) in NON_ROOTS.iter().copied() {
        for (kind, role) in [
            (RoleType::Timestamp, "timestamp"),
            (RoleType::Snapshot, "snapshot"),
            (RoleType::Targets, "list of targets"),
        ] {
            let mut world = World::new();
            world.good().await;
            let mut root = world.maker.root_role(2);
            give(&mut root, kind, &signers(keys), threshold);
            world.put_root(root, &world.maker.keys.root[..3]);
            let by = Some(signers(by));
            match kind {
                RoleType::Timestamp => world.maker.timestamp_by = by,
                RoleType::Snapshot => world.maker.snapshot_by = by,
                _ => world.maker.targets_by = by,
            }
            world.maker.advance();
            world.maker.publish(&world.site);
            if valid >= threshold {
                world.good().await;
                assert_eq!(world.kept(), [2, 2, 2], "{name}: {role}");
            } else {
                let refused = world.refused().await;
                assert_eq!(refused, Refused::Forged { role, valid, threshold }, "{name}: {role}");
                assert_eq!(world.kept()[0], 2, "{name}: {role}");
            }
        }
    }
}
