//! From a disk image to what a device loads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lucid_release::document::{Document, Held};
use lucid_release::folder::Folder;
use lucid_release::publish::{refresh, verify};
use lucid_release::sign::Paper;
use lucid_release::{Error, draft, inspect, release};
use lucid_release_format::{Index, Kind, Release};
use sha2::{Digest as _, Sha256};
use support::{Place, block_on, image, key, noise, now, parts, touched};
use tough::schema::{Snapshot, Targets, Timestamp};
use tough::{IntoVec as _, TargetName};

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in ["metadata", "targets"] {
        let Ok(entries) = fs::read_dir(folder.join(part)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = format!("{part}/{}", path.file_name().unwrap().to_str().unwrap());
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

fn published(place: &Place, version: &str, number: u8) {
    place.add(version, number);
    assert!(place.sign(11).unwrap() && place.sign(12).unwrap());
    place.publish().unwrap();
}

#[test]
fn what_two_holders_signed_apart_is_what_a_device_loads() {
    let place = Place::new();
    place.add("0.2.0", 7);
    let copies = [place.signed_apart("targets.json", 11), place.signed_apart("targets.json", 13)];
    let mut paper = Paper::open(&place.folder.targets_file(), None).unwrap();
    assert_eq!(paper.merge(&copies).unwrap(), 2);
    assert_eq!(paper.merge(&copies).unwrap(), 0, "once is enough");
    let done = place.publish().unwrap();
    assert_eq!((done.root, done.targets, done.snapshot, done.timestamp), (1, 1, 1, 1));

    let repository = place.load(None).unwrap();
    let targets = &repository.targets().signed;
    assert!(targets.delegations.is_none());
    let name = "lucid-qemu-arm64-0.2.0.index";
    let target = &targets.targets[&TargetName::new(name).unwrap()];
    let release = Release::of_target(name, &target.custom).unwrap().unwrap();
    assert_eq!(release.version.to_string(), "0.2.0");
    assert_eq!(release.waves.len(), 2);

    let read = |name: &str| -> Vec<u8> {
        let name = TargetName::new(name).unwrap();
        block_on(async { repository.read_target(&name).await.unwrap().unwrap().into_vec().await }).unwrap()
    };
    let index = Index::read(&read(name)).unwrap();
    let archive = read("lucid-qemu-arm64-0.2.0.chunks");
    assert_eq!(archive.len() as u64, index.archive_bytes());
    for (kind, content) in [Kind::Boot, Kind::Root].into_iter().zip(parts(7)) {
        let part = index.part(kind).unwrap();
        let mut whole = Vec::new();
        for chunk in &part.chunks {
            let (from, to) = (chunk.place.offset as usize, chunk.place.end() as usize);
            whole.extend(chunk.open(&archive[from..to]).unwrap());
        }
        assert_eq!(whole.len() as u64, part.bytes);
        assert_eq!(&whole[..content.len()], content, "{kind}");
        assert!(whole[content.len()..].iter().all(|byte| *byte == 0));
        assert!(whole.len() - content.len() < 4096);
    }
    let versions = verify(&place.web, &place.folder.path().join("1.root.json"), &|_| {}).unwrap();
    assert!(versions.values().all(|version| *version == 1), "{versions:?}");
}

#[test]
fn one_signature_is_not_enough_and_a_strangers_is_none() {
    let place = Place::new();
    place.add("0.2.0", 7);
    for signed in [false, true] {
        if signed {
            assert!(place.sign(12).unwrap());
            assert!(!place.sign(12).unwrap(), "the same key counts once");
        }
        let error = place.publish().unwrap_err();
        let have = u64::from(signed);
        assert!(matches!(error, Error::TooFew { have: found, threshold: 2, .. } if found == have), "{error}");
        assert!(files(&place.web).is_empty(), "nothing was written");
    }
    for stranger in [1, 21, 31, 99] {
        let error = place.sign(stranger).unwrap_err();
        assert!(matches!(error, Error::NotYours { .. }), "{error}");
    }
}

#[test]
fn a_changed_draft_loses_its_signatures_and_keeps_its_version() {
    let place = Place::new();
    place.add("0.2.0", 7);
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    let held = place.add("0.3.0", 8);
    assert!(held.signed.signatures.is_empty());
    assert_eq!(held.signed.signed.version.get(), 1);
    assert!(matches!(place.publish(), Err(Error::TooFew { .. })));
    assert!(matches!(
        place.add_image(&place.path().join("0.3.0.img"), "0.3.0"),
        Err(Error::ReleaseExists(_))
    ));
}

#[test]
fn signatures_over_what_was_changed_by_hand_are_refused() {
    let place = Place::new();
    place.add("0.2.0", 7);
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    let file = place.folder.targets_file();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"paused\": false", "\"paused\": true")).unwrap();
    assert!(matches!(place.publish(), Err(Error::TooFew { have: 0, .. })));
    assert!(matches!(place.sign(13), Err(Error::Forged { .. })));
    // A field that nobody knows would be lost before it is verified.
    fs::write(&file, text.replacen("\"version\"", "\"other\": 1,\n\"version\"", 1)).unwrap();
    assert!(matches!(
        place.publish(),
        Err(Error::Malformed { .. } | Error::Rule { .. } | Error::Release { .. })
    ));
}

#[test]
fn merging_refuses_another_content_and_forged_signatures() {
    let place = Place::new();
    place.add("0.2.0", 7);
    let file = place.folder.targets_file();
    let other = place.signed_apart("targets.json", 11);
    let good = fs::read_to_string(&other).unwrap();

    // Another draft, signed as well as can be.
    place.add("0.3.0", 8);
    let before = fs::read(&file).unwrap();
    let merge = || Paper::open(&file, None).unwrap().merge(std::slice::from_ref(&other));
    assert!(matches!(merge(), Err(Error::OtherContent { .. })));

    fs::write(&file, &good).unwrap();
    let signature = key(11).sign(b"something else");
    let mut forged = Held::<Targets>::read(&other).unwrap().signed;
    forged.signatures[0].sig = signature.into();
    Held::new(other.clone(), forged).unwrap().write().unwrap();
    assert!(matches!(merge(), Err(Error::Forged { .. })), "another message");

    let mut twice = Held::<Targets>::read(&file).unwrap().signed;
    twice.signatures.push(twice.signatures[0].clone());
    Held::new(other.clone(), twice).unwrap().write().unwrap();
    assert!(matches!(merge(), Err(Error::Forged { .. })), "the same one twice");

    let mut strange = Held::<Targets>::read(&file).unwrap().signed;
    strange.signatures[0].keyid = key(99).public().id().unwrap();
    Held::new(other.clone(), strange).unwrap().write().unwrap();
    assert!(matches!(merge(), Err(Error::Forged { .. })), "nobody's");

    assert_eq!(fs::read_to_string(&file).unwrap(), good, "nothing was taken");
    assert_ne!(before, good.as_bytes());
}

#[test]
fn published_bytes_are_hashed_as_they_were_written() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    let metadata = place.web.join("metadata");
    let timestamp = Held::<Timestamp>::read(&metadata.join("timestamp.json")).unwrap();
    let snapshot_bytes = fs::read(metadata.join("1.snapshot.json")).unwrap();
    let meta = &timestamp.signed.signed.meta["snapshot.json"];
    assert_eq!(meta.length, Some(snapshot_bytes.len() as u64));
    assert_eq!(meta.hashes.as_ref().unwrap().sha256, Sha256::digest(&snapshot_bytes).to_vec());
    let snapshot = Held::<Snapshot>::read(&metadata.join("1.snapshot.json")).unwrap();
    let targets_bytes = fs::read(metadata.join("1.targets.json")).unwrap();
    let meta = &snapshot.signed.signed.meta["targets.json"];
    assert_eq!(meta.length, Some(targets_bytes.len() as u64));
    assert_eq!(meta.hashes.as_ref().unwrap().sha256, Sha256::digest(&targets_bytes).to_vec());
    for (name, bytes) in files(&place.web) {
        if let Some(name) = name.strip_prefix("targets/") {
            assert!(name.starts_with(&hex::encode(Sha256::digest(&bytes))), "{name}");
        }
        assert!(!name.contains("unfinished"), "{name}");
    }
    // The same content makes the same bytes.
    for (path, bytes) in [("1.targets.json", targets_bytes), ("1.snapshot.json", snapshot_bytes)] {
        let written = match Document::read(&metadata.join(path)).unwrap() {
            Document::Targets(held) => Held::new(held.path, held.signed).unwrap().bytes,
            Document::Snapshot(held) => Held::new(held.path, held.signed).unwrap().bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(written, bytes);
    }
}

#[test]
fn refreshing_raises_the_versions_by_one_and_changes_nothing_else() {
    let place = Place::new();
    assert!(matches!(place.does(refresh), Err(Error::Arguments(_))), "nothing was published yet");
    published(&place, "0.2.0", 7);
    let memory = tempfile::tempdir().unwrap();
    place.load(Some(memory.path())).unwrap();
    let before = files(&place.web);
    // A draft that is being signed stays where it is.
    place.add("0.3.0", 8);
    for round in 2..4 {
        let done = place.does(refresh).unwrap();
        assert_eq!((done.root, done.targets, done.snapshot, done.timestamp), (1, 1, round, round));
        let repository = place.load(Some(memory.path())).unwrap();
        assert_eq!(repository.timestamp().signed.version.get(), round);
        assert_eq!(repository.snapshot().signed.version.get(), round);
    }
    let after = files(&place.web);
    for (name, bytes) in &before {
        assert_eq!(after[name] == *bytes, name != "metadata/timestamp.json", "{name}");
    }
    assert_eq!(after.len(), before.len() + 2, "two more snapshots");
}

#[test]
fn a_release_is_paused_goes_on_and_is_withdrawn_in_lists_of_their_own() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    let version = "0.2.0".parse().unwrap();
    let paused = |held: &Held<Targets>| -> Vec<bool> {
        release::all(&held.signed.signed).unwrap().iter().map(|listed| listed.release.paused).collect()
    };
    let sign_and_publish = || {
        place.sign(11).unwrap();
        place.sign(12).unwrap();
        place.publish().unwrap()
    };
    assert!(matches!(draft::pause(&place.folder, version, None, false, now()), Err(Error::AsItIs(_))));
    let held = draft::pause(&place.folder, version, None, true, now()).unwrap();
    assert_eq!((held.signed.signed.version.get(), paused(&held)), (2, vec![true]));
    assert_eq!(sign_and_publish().targets, 2);
    let held = draft::pause(&place.folder, version, None, false, now()).unwrap();
    assert_eq!((held.signed.signed.version.get(), paused(&held)), (3, vec![false]));
    assert_eq!(sign_and_publish().targets, 3);

    let other = "rpi5".parse().unwrap();
    let error = draft::withdraw(&place.folder, version, Some(&other), now()).unwrap_err();
    assert!(matches!(error, Error::NoSuchRelease(_)), "{error}");
    draft::withdraw(&place.folder, version, None, now()).unwrap();
    assert_eq!(sign_and_publish().targets, 4);
    assert!(place.load(None).unwrap().targets().signed.targets.is_empty());
}

#[test]
fn renewing_changes_the_version_and_the_expiry_alone() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    let before = Held::<Targets>::read(&place.folder.targets_file()).unwrap().signed.signed;
    let after = draft::renew(&place.folder, now()).unwrap().signed;
    assert!(after.signatures.is_empty());
    assert_eq!(after.signed.version.get(), 2);
    assert_eq!(after.signed.targets, before.targets);
}

#[test]
fn nothing_is_published_whose_files_are_broken() {
    let place = Place::new();
    place.add("0.2.0", 7);
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    let archive = place.folder.targets_folder().join("lucid-qemu-arm64-0.2.0.chunks");
    let good = fs::read(&archive).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&archive, &bad).unwrap();
    assert!(matches!(place.publish(), Err(Error::Archive { .. })));
    fs::remove_file(&archive).unwrap();
    assert!(matches!(place.publish(), Err(Error::Archive { .. })));
    assert!(files(&place.web).is_empty(), "nothing was written");
    fs::write(&archive, &good).unwrap();
    place.publish().unwrap();
    // What is on the web already need not be here any more.
    fs::remove_file(&archive).unwrap();
    place.does(refresh).unwrap();
}

#[test]
fn an_archive_that_does_not_make_the_parts_is_refused() {
    let place = Place::new();
    place.add("0.2.0", 7);
    let targets = place.folder.targets_folder();
    let index = fs::read(targets.join("lucid-qemu-arm64-0.2.0.index")).unwrap();
    let archive = targets.join("lucid-qemu-arm64-0.2.0.chunks");
    let good = fs::read(&archive).unwrap();
    release::prove("it", &index, &archive).unwrap();
    let mut bad = good.clone();
    bad[0] ^= 1;
    let longer = [&good[..], &[0]].concat();
    for bytes in [&bad[..], &good[1..], &longer[..]] {
        fs::write(&archive, bytes).unwrap();
        assert!(release::prove("it", &index, &archive).is_err());
    }
}

#[test]
fn a_run_that_was_interrupted_is_made_whole_by_the_next_one() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    let memory = tempfile::tempdir().unwrap();
    place.load(Some(memory.path())).unwrap();
    let before = files(&place.web);
    place.add("0.3.0", 8);
    place.sign(11).unwrap();
    place.sign(13).unwrap();
    place.publish().unwrap();
    let after = files(&place.web);
    let new: Vec<_> = after.iter().filter(|(name, bytes)| before.get(*name) != Some(*bytes)).collect();
    assert_eq!(new.len(), 5, "index, archive, targets, snapshot, timestamp");

    // The timestamp comes last, so any set of the others may be there without it.
    for there in 0..16 {
        fs::remove_dir_all(&place.web).unwrap();
        fs::create_dir_all(place.web.join("metadata")).unwrap();
        fs::create_dir_all(place.web.join("targets")).unwrap();
        let others = new.iter().filter(|(name, _)| *name != "metadata/timestamp.json").enumerate();
        let others = others.filter(|(place, _)| there & (1 << place) != 0).map(|(_, file)| *file);
        for (name, bytes) in before.iter().chain(others) {
            fs::write(place.web.join(name), bytes).unwrap();
        }
        let repository = place.load(Some(memory.path())).unwrap();
        assert_eq!(repository.targets().signed.version.get(), 1, "devices see what there was");
    }
    let done = place.publish().unwrap();
    assert_eq!((done.targets, done.snapshot, done.timestamp), (2, 3, 3));
    assert_eq!(place.load(Some(memory.path())).unwrap().targets().signed.version.get(), 2);
}

#[test]
fn two_folders_do_not_publish_over_each_other() {
    let (one, other) = (Place::new(), Place::new());
    published(&one, "0.2.0", 7);
    published(&other, "0.2.0", 9);
    for (name, bytes) in files(&one.web) {
        fs::write(other.web.join(name), bytes).unwrap();
    }
    assert!(matches!(other.does(refresh), Err(Error::Taken(_))));
    one.does(refresh).unwrap();
    fs::copy(one.web.join("metadata/timestamp.json"), other.web.join("metadata/timestamp.json")).unwrap();
    assert!(matches!(other.does(refresh), Err(Error::Ahead { theirs: 2, ours: 1, .. })));
}

#[test]
fn an_image_without_the_partitions_is_no_release() {
    let place = Place::new();
    let path = place.path().join("bad.img");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    assert!(matches!(place.add_image(&path, "0.2.0"), Err(Error::Table { .. })));
    let cut = image(&place.path().join("cut.img"), 7);
    fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(3 << 20).unwrap();
    assert!(place.add_image(&cut, "0.2.0").is_err());
    assert!(!place.folder.targets_file().exists());
}

#[test]
fn what_is_shown_before_signing_names_all_that_changes() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    let held = place.add("0.3.0", 8);
    let words = Paper::open(&held.path, None).unwrap().words(now()).unwrap();
    for part in ["new: 0.3.0 for qemu-arm64", "targets 2", "100 of 1000 at once", "1000 of 1000 after 1 d"] {
        assert!(words.contains(part), "{part} is not in:\n{words}");
    }
    assert!(!words.contains("new: 0.2.0"), "{words}");
    draft::withdraw(&place.folder, "0.2.0".parse().unwrap(), None, now()).unwrap();
    let words = Paper::open(&held.path, None).unwrap().words(now()).unwrap();
    assert!(words.contains("withdrawn: 0.2.0"), "{words}");
}

#[test]
fn a_folder_a_web_folder_and_a_file_say_what_they_are() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    let kinds = |path: &Path| -> Vec<_> {
        inspect::inspect(path, now()).unwrap().files.iter().map(|about| about.kind).collect()
    };
    let all = ["root", "targets", "snapshot", "timestamp"];
    assert_eq!(kinds(place.folder.path()), all);
    assert_eq!(kinds(&place.web), all);
    assert_eq!(kinds(&place.folder.targets_file()), ["targets"]);
    let report = inspect::inspect(&place.web, now()).unwrap();
    assert!(report.files.iter().all(|about| about.signed.iter().all(|signed| signed.enough)));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["files"][1]["releases"][0]["release"]["version"], "0.2.0");
    assert!(report.words().contains("0.2.0 for qemu-arm64, channel stable"));
    let error = Folder::open(&place.web).unwrap_err();
    assert!(matches!(error, Error::NoFolder(_)), "{error}");
}

#[test]
fn a_patch_that_is_smaller_is_signed_published_shown_and_withdrawn_with_its_release() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    let added = place.add_patched("0.3.0", &touched(7), "0.2.0");
    let [tried] = &added.patches[..] else { panic!("{:?}", added.patches) };
    assert!(tried.is_taken() && tried.bytes.unwrap() * 4 < tried.chunks, "{tried:?}");
    let words = Paper::open(&added.held.path, None).unwrap().words(now()).unwrap();
    assert!(words.contains("from 0.2.0"), "{words}");
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    place.publish().unwrap();
    let root = place.folder.path().join("1.root.json");
    let said = std::cell::RefCell::new(String::new());
    verify(&place.web, &root, &|text| said.borrow_mut().push_str(text)).unwrap();
    let said = said.into_inner();
    assert!(
        said.contains("lucid-qemu-arm64-0.3.0-from-0.2.0.patch") && !said.contains("not tried"),
        "{said}"
    );
    let report = serde_json::to_value(inspect::inspect(&place.web, now()).unwrap()).unwrap();
    let patch = &report["files"][1]["releases"][1]["patches"][0];
    assert_eq!((patch["from"].as_str(), patch["bytes"].as_u64()), (Some("0.2.0"), tried.bytes));
    // Without the old one it is only read.
    draft::withdraw(&place.folder, "0.2.0".parse().unwrap(), None, now()).unwrap();
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    place.publish().unwrap();
    let said = std::cell::RefCell::new(String::new());
    verify(&place.web, &root, &|text| said.borrow_mut().push_str(text)).unwrap();
    assert!(said.into_inner().contains("not tried"));
    let held = draft::withdraw(&place.folder, "0.3.0".parse().unwrap(), None, now()).unwrap();
    assert!(held.signed.signed.targets.is_empty());
}

#[test]
fn a_patch_that_is_no_smaller_than_the_chunks_is_not_listed() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    // Noise, of which nothing is in the other noise.
    let added = place.add_patched("0.3.0", &[noise(50, 300_000), noise(51, 400_000)], "0.2.0");
    assert!(!added.patches[0].is_taken(), "{:?}", added.patches);
    let held = added.held;
    assert!(release::all(&held.signed.signed).unwrap().iter().all(|listed| listed.patches.is_empty()));
    assert_eq!(held.signed.signed.targets.len(), 4);
}

#[test]
fn a_patch_starts_from_an_image_as_well_and_only_from_what_is_older() {
    let place = Place::new();
    let old = image(&place.path().join("old.img"), 7);
    let added = place.add_patched("0.3.0", &touched(7), &format!("0.1.0={}", old.display()));
    assert!(added.patches[0].is_taken());
    let other = image(&place.path().join("other.img"), 9);
    for from in [["0.4.0"].as_slice(), &["0.5.0"], &["0.3.0", "0.3.0"]] {
        let from = from.iter().map(|text| draft::patch_from(text).unwrap()).collect();
        assert!(matches!(place.add_with(&other, "0.4.0", from), Err(Error::Arguments(_))));
    }
    for text in ["", "1", "1.2", "=a", "a=b"] {
        assert!(draft::patch_from(text).is_err(), "{text}");
    }
    let newest = |version: &str| {
        draft::newest_before(&place.folder, &"qemu-arm64".parse().unwrap(), version.parse().unwrap()).unwrap()
    };
    assert_eq!(newest("0.4.0"), Some("0.3.0".parse().unwrap()));
    assert_eq!(newest("0.3.0"), None);
}

#[test]
fn a_patch_that_makes_something_else_is_not_published() {
    let place = Place::new();
    published(&place, "0.2.0", 7);
    place.add_patched("0.3.0", &touched(7), "0.2.0");
    let name = "lucid-qemu-arm64-0.3.0-from-0.2.0.patch";
    let path = place.folder.targets_folder().join(name);
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&path, &bad).unwrap();
    // Even where holders have signed just that.
    let mut held = Held::<Targets>::read(&place.folder.targets_file()).unwrap();
    let target = held.signed.signed.targets.get_mut(&TargetName::new(name).unwrap()).unwrap();
    target.hashes.sha256 = Sha256::digest(&bad).to_vec().into();
    Held::new(held.path, held.signed).unwrap().write().unwrap();
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    let error = place.publish().unwrap_err();
    assert!(matches!(&error, Error::Release { what, .. } if what == name), "{error}");
}
