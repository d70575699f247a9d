//! The attacks that the specification of The Update Framework lists, and those of one's own past releases and of other machines,
//! each under its name and with what the device says. `docs/updates.md` has the list; `trust.rs` has the variants of each,
//! `src/source.rs` the slow retrieval, `service.rs` the older release and the wrong machine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::sync::Arc;

use lucid_updated::{Error, trust::Refused};
use support::{
    repository::{Signer, days, meta, release, signer},
    world::World,
};

/// It is refused, and the sentence has these words.
async fn says(world: &mut World, words: &str) -> Refused {
    let refused = world.refused().await;
    assert!(refused.to_string().contains(words), "{refused}");
    refused
}

/// A device that has seen what there is, and everything published once more, a version later.
async fn moved_on() -> World {
    let mut world = World::new();
    world.good().await;
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    world
}

#[tokio::test]
async fn attack_arbitrary_software_what_others_signed_or_changed_is_refused() {
    // Metadata of somebody else, who has the server alone.
    let mut world = World::new();
    world.maker.targets_by = Some(vec![signer(91), signer(92)]);
    world.maker.publish(&world.site);
    let needs = "the list of targets is not signed by those who have to sign it: it needs 2 good signatures and has 0";
    says(&mut world, needs).await;
    // Another index under the signed name.
    let mut world = World::new();
    let path = world.site.paths().into_iter().find(|path| path.ends_with("-0.10.0.index")).unwrap();
    let mut bytes = world.site.get(&path);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    world.site.put(&path, bytes);
    let offers = world.ask().await.unwrap();
    let error = offers.index(&offers.releases[0]).await.unwrap_err();
    let words = "lucid-qemu-arm64-0.10.0.index was changed: it is not what was signed";
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn attack_rollback_metadata_older_than_what_was_seen_is_refused() {
    let mut world = moved_on().await;
    let mut old = world.maker.clone();
    (old.timestamp_version, old.snapshot_version, old.targets_version) = (1, 1, 1);
    for (what, timestamp, snapshot) in [
        ("the timestamp", 1, 1),
        ("the snapshot that the timestamp names", 3, 1),
        ("the list of targets that the snapshot names", 3, 3),
    ] {
        (old.timestamp_version, old.snapshot_version) = (timestamp, snapshot);
        old.publish(&world.site);
        let words = format!("{what} is rolled back: version 1 is offered and 2 was seen before");
        says(&mut world, &words).await;
    }
}

#[tokio::test]
async fn attack_freeze_a_source_that_stands_still_is_refused_once_its_time_is_over() {
    // What it goes on giving out is what the device took when it was fresh.
    let mut world = World::new();
    world.maker.days[2] = -1;
    world.maker.publish(&world.site);
    world.memory.timestamp = Some(world.site.get("metadata/timestamp.json"));
    world.memory.snapshot = Some(world.site.get("metadata/1.snapshot.json"));
    let known = world.memory.clone();
    says(&mut world, "the timestamp has expired: the source is held still or nobody looks after it").await;
    assert_eq!(world.memory, known);
    // And it goes on where the source does.
    world.maker.days[2] = 7;
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
}

#[tokio::test]
async fn attack_mix_and_match_files_of_different_times_do_not_go_together() {
    // Both are signed, of the right version, and were never published together.
    let mut world = World::new();
    let mut other = world.maker.clone();
    other.targets.retain(|name, _| name.contains("0.2.0"));
    world.site.put("metadata/1.targets.json", other.targets_file());
    says(&mut world, "1.targets.json does not belong to the rest of the metadata").await;
    let mut world = World::new();
    let targets = other.targets_file();
    // Not longer than what is listed, which would be seen before.
    let length = world.site.get("metadata/1.snapshot.json").len();
    let snapshot = other.snapshot_file(&targets).into_iter().take(length).collect();
    world.site.put("metadata/1.snapshot.json", snapshot);
    says(&mut world, "1.snapshot.json does not belong to the rest of the metadata").await;
    // A later one than the timestamp names, under the name of that.
    let mut world = World::new();
    let mut later = world.maker.clone();
    later.targets_version = 2;
    let file = later.targets_file();
    world.site.put("metadata/1.targets.json", file.clone());
    let mut snapshot = world.maker.clone();
    snapshot.advance();
    snapshot.targets_version = 1;
    let listed = snapshot.snapshot_file(&file);
    world.site.put("metadata/2.snapshot.json", listed.clone());
    world.site.put("metadata/timestamp.json", snapshot.timestamp_file(&listed));
    says(&mut world, "the list of targets does not belong to the rest of the metadata").await;
}

#[tokio::test]
async fn attack_endless_data_every_file_is_cut_off_at_what_it_may_have() {
    for (path, cap) in [("timestamp.json", 16_384_u64), ("2.root.json", 65_536)] {
        let mut world = World::new();
        world.site.put(&format!("metadata/{path}"), vec![b' '; 1 << 20]);
        says(&mut world, &format!("{path} has more bytes than it may have ({cap}): it is cut off")).await;
    }
    // Whoever has the keys for it may name any length, and gets no further.
    let mut world = World::new();
    let mut named = meta(b"x", 1);
    named.length = Some(u64::MAX);
    world.site.put("metadata/timestamp.json", world.maker.timestamp_naming(named));
    world.site.put("metadata/1.snapshot.json", vec![b' '; 1 << 20]);
    says(&mut world, "1.snapshot.json has more bytes than it may have (32768)").await;
    // An index has the bytes that were signed, and no more.
    let mut world = World::new();
    let path = world.site.paths().into_iter().find(|path| path.ends_with("-0.10.0.index")).unwrap();
    let mut bytes = world.site.get(&path);
    bytes.resize(1 << 20, 0);
    world.site.put(&path, bytes);
    let offers = world.ask().await.unwrap();
    let error = offers.index(&offers.releases[0]).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Endless { .. })), "{error}");
}

#[tokio::test]
async fn attack_extraneous_dependencies_a_release_makes_nothing_else_be_fetched() {
    let mut world = World::new();
    let own = "lucid-qemu-arm64-0.10.0.index";
    let target = world.maker.targets[own].clone();
    // Two of the three who sign releases list other software, and say of one release that it needs that.
    for name in ["openssl.deb", "a/b/extra.chunks", "../../extra.chunks", "lucid-qemu-arm64-0.10.0.extra"] {
        world.maker.targets.insert(name.to_owned(), target.clone());
    }
    let needs = serde_json::json!({ "needs": ["openssl.deb"] });
    let mut beside = target.clone();
    beside.custom.insert("requires".to_owned(), needs.clone());
    world.maker.targets.insert("lucid-qemu-arm64-0.2.0.index".to_owned(), beside);
    let mut within = world.maker.targets[own].clone();
    within.custom.get_mut("lucid").unwrap()["needs"] = needs;
    world.maker.targets.insert("lucid-qemu-arm64-0.3.0.index".to_owned(), within);
    // The index and the archive of one release under the name of another.
    world.maker.targets.insert("lucid-qemu-arm64-0.4.0.index".to_owned(), target);
    world.maker.advance();
    world.maker.publish(&world.site);
    world.site.log();
    let offers = world.ask().await.unwrap();
    let passed: Vec<_> = offers.passed_over.iter().map(|(name, _)| name.as_str()).collect();
    let number = |version: &str| format!("lucid-qemu-arm64-{version}.index");
    assert_eq!(passed, [number("0.2.0"), number("0.3.0"), number("0.4.0")]);
    let why = &offers.passed_over[0].1;
    assert!(why.contains("its custom members are not \"lucid\" alone"), "{why}");
    assert_eq!(offers.releases.len(), 1);
    let offer = &offers.releases[0];
    offers.index(offer).await.unwrap();
    let asked = world.site.log();
    let metadata = ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"];
    assert_eq!(asked[..4], metadata.map(|name| format!("metadata/{name}")));
    assert!(asked.len() == 5 && asked[4].ends_with(own), "{asked:?}");
    assert!(offer.archive.ends_with(".lucid-qemu-arm64-0.10.0.chunks"), "{}", offer.archive);
}

#[tokio::test]
async fn attack_wrong_threshold_fewer_signatures_than_the_root_wants_are_refused() {
    let mut world = World::new();
    // One; two of which one is another role's; one twice.
    for by in [vec![signer(11)], vec![signer(11), signer(21)]] {
        world.maker.advance();
        world.maker.targets_by = Some(by);
        world.maker.publish(&world.site);
        let words = "the list of targets is not signed by those who have to sign it: it needs 2 good signatures and has 1";
        says(&mut world, words).await;
    }
    world.maker.advance();
    world.maker.targets_by = Some(vec![signer(11), signer(11)]);
    world.maker.publish(&world.site);
    says(&mut world, "the list of targets is not valid: it has two signatures of one key").await;
    // A root by which one signature would be enough, from fewer than three of those who sign roots.
    let mut world = World::new();
    world.maker.keys.targets_threshold = 1;
    let next = world.maker.root_role(2);
    let two: Vec<_> = world.maker.keys.root[..2].to_vec();
    world.put_root(next, &two);
    says(
        &mut world,
        "the root is not signed by those who have to sign it: it needs 3 good signatures and has 2",
    )
    .await;
    // A threshold that was raised counts, for those too who signed before.
    let mut world = World::new();
    world.good().await;
    world.maker.keys.targets_threshold = 3;
    world.rotate(2, &[]);
    world.maker.advance();
    world.maker.targets_by = Some(world.maker.keys.targets[..2].to_vec());
    world.maker.publish(&world.site);
    let refused = world.refused().await;
    assert_eq!(refused, Refused::Forged { role: "list of targets", valid: 2, threshold: 3 });
}

#[tokio::test]
async fn attack_revoked_key_what_it_signs_is_refused_from_the_next_root_on() {
    let mut world = World::new();
    world.good().await;
    let old = world.maker.keys.clone();
    // One of three is replaced; he and one who stayed would have been enough before.
    world.maker.keys.targets[0] = signer(14);
    world.rotate(2, &[]);
    world.maker.advance();
    world.maker.targets_by = Some(old.targets[..2].to_vec());
    world.maker.publish(&world.site);
    let words =
        "the list of targets is signed with keys that were revoked: root 1 had them, and root 2 has not";
    says(&mut world, words).await;
    // A root that those sign who were replaced as its signers.
    let mut world = World::new();
    let old = world.maker.keys.root.clone();
    world.maker.keys.root = (41..=45).map(signer).collect();
    world.rotate(2, &old);
    world.good().await;
    world.put_root(world.maker.root_role(3), &old);
    says(&mut world, "the root is signed with keys that were revoked: root 1 had them, and root 2 has not")
        .await;
}

#[tokio::test]
async fn attack_expired_metadata_is_refused_whichever_it_is() {
    for (at, role) in ["list of targets", "snapshot", "timestamp"].into_iter().enumerate() {
        let mut world = World::new();
        world.maker.days[at] = -1;
        world.maker.publish(&world.site);
        says(&mut world, &format!("the {role} has expired")).await;
    }
    let mut world = World::new();
    world.maker.days[3] = -1;
    world.rotate(2, &[]);
    says(&mut world, "the root has expired").await;
}

#[tokio::test]
async fn attack_key_compromise_is_recovered_from_over_two_roots() {
    let mut world = World::new();
    world.good().await;
    // Somebody has both online keys and two of the three that sign releases: what he signs is taken, and runs far ahead.
    let mut thief = world.maker.clone();
    (thief.targets_version, thief.snapshot_version, thief.timestamp_version) = (5_000, 6_000, 7_000);
    thief.add(&world.site, &release("66.6.6"), &[3; 5000], &[4; 9000]);
    thief.publish(&world.site);
    let offers = world.ask().await.unwrap();
    assert_eq!(offers.releases[0].release.version, "66.6.6".parse().unwrap());
    drop(offers);
    let asleep = world.memory.clone();
    // Root 2 replaces the online keys, and one of those who sign roots, whose key he may have as well.
    let before = world.maker.keys.root.clone();
    world.maker.keys.root[0] = signer(6);
    (world.maker.keys.snapshot, world.maker.keys.timestamp) = (signer(22), signer(32));
    world.rotate(2, &before);
    // He has the targets' keys still, and nothing to publish with.
    thief.advance();
    thief.publish(&world.site);
    let words = "the timestamp is signed with keys that were revoked: root 1 had them, and root 2 has not";
    says(&mut world, words).await;
    assert_eq!(world.kept(), [2, 0, 0]);
    // Root 3 replaces the targets' keys; versions go on where they were before him.
    world.maker.keys.targets = (14..=16).map(signer).collect();
    world.rotate(3, &before);
    world.maker.advance();
    world.maker.publish(&world.site);
    let offers = world.ask().await.unwrap();
    assert_eq!(offers.releases[0].release.version, "0.10.0".parse().unwrap());
    drop(offers);
    assert_eq!(world.kept(), [3, 2, 2]);
    // What he signed is worth nothing, whoever publishes it.
    world.maker.advance();
    let mut stolen = world.maker.clone();
    stolen.targets_by = Some(thief.keys.targets[..2].to_vec());
    stolen.publish(&world.site);
    let words =
        "the list of targets is signed with keys that were revoked: root 2 had them, and root 3 has not";
    says(&mut world, words).await;
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    // A device that slept through it wakes up to the same.
    world.memory = asleep;
    world.good().await;
    assert_eq!(world.kept(), [3, 4, 4]);
}

#[tokio::test]
async fn a_recovery_holds_although_its_first_root_has_expired_before_the_device_woke_up() {
    let mut world = World::new();
    let mut thief = world.maker.clone();
    (thief.snapshot_version, thief.timestamp_version) = (6_000, 7);
    thief.publish(&world.site);
    world.good().await;
    // The snapshot's key alone is replaced; the timestamp that is known is still good, and names snapshot 6000.
    world.maker.keys.snapshot = signer(22);
    world.maker.days[3] = -1;
    world.rotate(2, &[]);
    says(&mut world, "the root has expired").await;
    assert_eq!(world.kept(), [2, 0, 0]);
    world.maker.days[3] = 365;
    world.rotate(3, &[]);
    world.maker.timestamp_version = 8;
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [3, 8, 1]);
}

#[tokio::test]
async fn attack_clock_set_back_expired_metadata_does_not_come_to_life() {
    // The clock stands before the last time at which all was well: what had expired by then may look fresh.
    let mut world = World::new();
    world.good().await;
    let ahead = days(30).as_second();
    world.memory.latest = ahead;
    world.site.log();
    says(&mut world, "it was set back; set it, or restart the device: its start sets it forward to that")
        .await;
    assert_eq!(world.memory.latest, ahead);
    assert_eq!(world.site.log(), Vec::<String>::new(), "nothing is asked for by such a clock");
    // A device that lost what it kept has the time at which its image was built.
    world.memory = lucid_updated::trust::Memory::default();
    world.trust.built = ahead;
    says(&mut world, "it was set back; set it, or restart the device: its start sets it forward to that")
        .await;
}

#[tokio::test]
async fn roots_beyond_what_is_followed_at_once_are_followed_next_time() {
    let mut world = World::new();
    let by: Vec<Arc<Signer>> = world.maker.keys.root[..3].to_vec();
    for version in 2..=70 {
        world.put_root(world.maker.root_role(version), &by);
    }
    says(
        &mut world,
        "the source has 64 new roots or more: these are kept, and the next look goes on after them",
    )
    .await;
    assert_eq!(world.kept()[0], 65);
    world.good().await;
    assert_eq!(world.kept()[0], 70);
}

#[test]
fn the_table_of_attacks_names_the_tests_that_there_are() {
    let sources = [include_str!("attacks.rs"), include_str!("service.rs"), include_str!("../src/source.rs")];
    let table = include_str!("../../../docs/updates.md");
    let named: Vec<_> = table
        .lines()
        .filter_map(|line| line.strip_suffix("` |")?.rsplit_once('`'))
        .map(|(_, name)| name)
        .filter(|name| name.starts_with("attack_"))
        .collect();
    assert_eq!(named.len(), 14);
    let mut found: Vec<_> = sources
        .iter()
        .flat_map(|source| source.lines())
        .filter_map(|line| line.trim().strip_prefix("async fn ")?.split_once('('))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("attack_"))
        .collect();
    found.sort_unstable();
    let mut sorted = named.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, found);
}
