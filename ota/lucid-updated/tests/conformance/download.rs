//! `test_file_download.py`. What a device downloads by a list of targets is the index of a release.

use lucid_updated::{Error, trust::Refused};

use crate::{
    edited,
    support::{repository::release, world::World},
};

const NAME: &str = "lucid-qemu-arm64-0.10.0.index";

/// Puts something of the same length in the place of the newest file of that name.
fn damage(world: &World, name: &str) {
    let hash = hex::encode(&world.maker.targets[name].hashes.sha256);
    let path = format!("targets/{hash}.{name}");
    let mut bytes = world.site.get(&path);
    bytes[20] ^= 1;
    world.site.put(&path, bytes);
}

#[tokio::test]
async fn index_is_fetched_when_it_is_wanted() {
    let mut world = World::new();
    let offers = world.ask().await.unwrap();
    assert!(world.site.log().iter().all(|asked| asked.starts_with("metadata/")));
    offers.index(&offers.releases[0]).await.unwrap();
    let asked = world.site.log();
    assert!(asked.len() == 1 && asked[0].ends_with(NAME), "{asked:?}");
}

#[tokio::test]
async fn names_that_are_no_releases_are_passed_over() {
    let mut world = World::new();
    let target = world.maker.targets[NAME].clone();
    let names =
        ["path/to/a/lucid-qemu-arm64-0.10.0.index", "../x.index", "/x.index", "a?b#c.index", "ä ö.index"];
    for name in names {
        world.maker.targets.insert(name.to_owned(), target.clone());
    }
    world.maker.advance();
    world.maker.publish(&world.site);
    let offers = world.ask().await.unwrap();
    assert_eq!((offers.releases.len(), offers.passed_over.len()), (2, names.len()));
    assert!(world.site.log().iter().all(|asked| asked.starts_with("metadata/")));
}

#[tokio::test]
async fn files_that_were_substituted() {
    let mut world = World::new();
    let offers = world.ask().await.unwrap();
    offers.index(&offers.releases[0]).await.unwrap();
    for (offer, name) in offers.releases.iter().zip([NAME, "lucid-qemu-arm64-0.2.0.index"]) {
        damage(&world, name);
        let error = offers.index(offer).await.unwrap_err();
        assert!(
            matches!(&error, Error::Refused(Refused::Changed { name: found }) if found == name),
            "{error}"
        );
    }
}

#[tokio::test]
async fn file_that_changes_again_and_again() {
    let mut world = World::new();
    for turn in 0..11 {
        world.maker.add(&world.site, &release("0.10.0"), &[turn + 1; 6000], &[turn + 100; 9000]);
        world.maker.advance();
        world.maker.publish(&world.site);
        if turn % 5 != 0 {
            continue;
        }
        let offers = world.ask().await.unwrap();
        let index = offers.index(&offers.releases[0]).await.unwrap();
        assert_eq!(index.archive_bytes(), offers.releases[0].archive_bytes);
        damage(&world, NAME);
        world.maker.advance();
        world.maker.publish(&world.site);
        let offers = world.ask().await.unwrap();
        let error = offers.index(&offers.releases[0]).await.unwrap_err();
        assert!(matches!(error, Error::Refused(Refused::Changed { .. })), "{error}");
    }
}

#[tokio::test]
async fn hash_algorithms() {
    // Others beside SHA-256 may be there.
    let mut world = World::new();
    let target = world.maker.targets.get_mut(NAME).unwrap();
    target.hashes._extra.insert("sha512".to_owned(), "00".repeat(64).into());
    world.maker.publish(&world.site);
    let offers = world.ask().await.unwrap();
    offers.index(&offers.releases[0]).await.unwrap();
    // Without it there is none that is known here, and the list is none.
    for other in ["sha512", "unknown-hash"] {
        let mut world = World::new();
        let targets = edited(&world.maker.targets_file(), |list| {
            let hashes = list["signed"]["targets"][NAME]["hashes"].as_object_mut().unwrap();
            let hash = hashes.remove("sha256").unwrap();
            hashes.insert(other.to_owned(), hash);
        });
        let snapshot = world.maker.snapshot_file(&targets);
        world.site.put("metadata/1.targets.json", targets);
        world.site.put("metadata/timestamp.json", world.maker.timestamp_file(&snapshot));
        world.site.put("metadata/1.snapshot.json", snapshot);
        let refused = world.refused().await;
        assert!(
            matches!(&refused, Refused::Malformed { role: "list of targets", why } if why.contains("sha256")),
            "{refused}"
        );
    }
}
