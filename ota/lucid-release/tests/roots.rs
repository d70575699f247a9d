//! The first root, and those after it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;

use lucid_release::document::Held;
use lucid_release::draft::{self, Rotation, first_root};
use lucid_release::folder::{Days, Folder};
use lucid_release::key::{KeyId, Passphrase, SecretKey};
use lucid_release::publish::{publish, refresh};
use lucid_release::setup::{Setup, Wanted, init};
use lucid_release::sign::Paper;
use lucid_release::{Error, Result, rules};
use lucid_release_format::metadata::DEVELOPMENT;
use support::{Does, Place, key, now, plan, publics};
use tough::schema::key::Key;
use tough::schema::{RoleType, Root};
use zeroize::Zeroizing;

fn rotation(add: &[u8], remove: &[u8]) -> Rotation {
    let remove: Vec<KeyId> = publics(remove).iter().map(|key| key.id().unwrap()).collect();
    Rotation { role: RoleType::Root, add: publics(add), remove, threshold: None, days: Days::default() }
}

fn sign(held: &Held<Root>, number: u8) -> Result<bool> {
    Paper::open(&held.path, None)?.sign(&key(number))
}

fn versions(place: &Place) -> (usize, bool) {
    let roots = place.folder.roots().unwrap();
    (roots.in_force.len(), roots.draft.is_some())
}

#[test]
fn a_root_takes_three_of_the_old_keys_and_three_of_the_new_ones() {
    let place = Place::new();
    place.add("0.2.0", 7);
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    place.publish().unwrap();
    let memory = tempfile::tempdir().unwrap();
    place.load(Some(memory.path())).unwrap();

    let held =
        draft::rotate_root(&place.folder, &rotation(&[6, 7, 8, 9, 10], &[1, 2, 3, 4, 5]), now()).unwrap();
    assert_eq!(held.signed.signed.version.get(), 2);
    for (number, is_draft) in [(6, true), (1, true), (7, true), (2, true), (8, true), (4, false)] {
        assert!(sign(&held, number).unwrap());
        assert_eq!(versions(&place).1, is_draft, "after key {number}");
        // Until then the old one holds.
        assert_eq!(place.publish().unwrap().root, if is_draft { 1 } else { 2 });
    }
    assert!(matches!(sign(&held, 11), Err(Error::NotYours { .. })));
    let repository = place.load(Some(memory.path())).unwrap();
    assert_eq!(repository.root().signed.version.get(), 2);
    assert!(place.web.join("metadata/1.root.json").exists(), "old roots stay");

    // A device that was off meanwhile goes the whole way, and an old key is worth nothing any more.
    let held = draft::rotate_root(&place.folder, &rotation(&[], &[]), now()).unwrap();
    assert!(matches!(sign(&held, 1), Err(Error::NotYours { .. })));
    for number in [6, 7, 8] {
        sign(&held, number).unwrap();
    }
    assert_eq!(place.publish().unwrap().root, 3);
    assert_eq!(place.load(None).unwrap().root().signed.version.get(), 3);
}

#[test]
fn holders_sign_a_root_apart() {
    let place = Place::of(&plan(), &[]);
    assert_eq!(versions(&place), (0, true));
    let copies = [1, 3, 5].map(|number| place.signed_apart("1.root.json", number));
    let mut paper = Paper::open(&place.folder.path().join("1.root.json"), None).unwrap();
    assert_eq!(paper.merge(&copies).unwrap(), 3);
    assert_eq!(versions(&place), (1, false));
    assert!(paper.standing().unwrap().iter().all(rules::Standing::is_enough));
}

#[test]
fn nothing_is_published_under_a_root_that_too_few_have_signed() {
    let place = Place::of(&plan(), &[1, 2]);
    place.add("0.2.0", 7);
    assert!(matches!(place.publish(), Err(Error::TooFew { have: 2, threshold: 3, .. })));
}

#[test]
fn a_root_that_changes_again_loses_its_signatures_and_keeps_its_version() {
    let place = Place::new();
    let held = draft::rotate_root(&place.folder, &rotation(&[6], &[5]), now()).unwrap();
    sign(&held, 1).unwrap();
    let targets = Rotation { role: RoleType::Targets, ..rotation(&[14], &[13]) };
    let held = draft::rotate_root(&place.folder, &targets, now()).unwrap();
    assert_eq!(held.signed.signed.version.get(), 2);
    assert!(held.signed.signatures.is_empty());
    let root = &held.signed.signed;
    let ids =
        |numbers: &[u8]| -> Vec<KeyId> { publics(numbers).iter().map(|key| key.id().unwrap()).collect() };
    assert_eq!(root.roles[&RoleType::Root].keyids, ids(&[1, 2, 3, 4, 6]), "the order stays");
    assert_eq!(root.roles[&RoleType::Targets].keyids, ids(&[11, 12, 14]));
    assert_eq!(root.keys.len(), 10);
    let words = Paper::open(&held.path, None).unwrap().words(now()).unwrap();
    for (word, number) in [("new key", 6), ("without key", 5), ("new key", 14), ("without key", 13)] {
        let line = format!("{word} {}", key(number).public());
        assert!(words.contains(&line), "{line} is not in:\n{words}");
    }
}

#[test]
fn a_root_with_the_same_public_key_twice_is_refused() {
    let place = Place::new();
    let error = draft::rotate_root(&place.folder, &rotation(&[2], &[]), now()).unwrap_err();
    assert!(matches!(error, Error::Rule { .. }), "{error}");
    let targets = Rotation { role: RoleType::Targets, ..rotation(&[2], &[]) };
    assert!(draft::rotate_root(&place.folder, &targets, now()).is_err(), "not in another role either");

    let mut twice = plan();
    twice.root.keys[1] = twice.root.keys[0];
    let folder = Folder::make(&place.path().join("twice"), Days::default()).unwrap();
    assert!(first_root(&folder, &twice, &[], now()).is_err());

    // Under another id, which an added field makes.
    let good = place.folder.roots().unwrap().in_force[0].signed.signed.clone();
    rules::root(&good).unwrap();
    let mut disguised = good.clone();
    let mut same = key(1).public().to_tuf();
    if let Key::Ed25519 { _extra, .. } = &mut same {
        *_extra = HashMap::from([("holder".to_owned(), "another one".into())]);
    }
    let id = same.key_id().unwrap();
    disguised.keys.insert(id.clone(), same);
    disguised.roles.get_mut(&RoleType::Root).unwrap().keyids.push(id);
    let error = rules::root(&disguised).unwrap_err().to_string();
    assert!(error.contains("twice") || error.contains("fields"), "{error}");

    // One id for two roles.
    let mut shared = good.clone();
    let id = key(1).public().id().unwrap();
    shared.roles.get_mut(&RoleType::Targets).unwrap().keyids.push(id);
    assert!(rules::root(&shared).is_err());
}

#[test]
fn a_root_that_breaks_a_rule_is_refused() {
    type Change = fn(&mut Root);
    let good = Place::new().folder.roots().unwrap().in_force[0].signed.signed.clone();
    let changes: [(&str, Change); 11] = [
        ("thresholds are met", |root| threshold(root, RoleType::Root, 6)),
        ("one signature is too few", |root| threshold(root, RoleType::Root, 1)),
        ("for targets too", |root| threshold(root, RoleType::Targets, 1)),
        ("all roles are there", |root| drop(root.roles.remove(&RoleType::Snapshot))),
        ("all keys are there", |root| drop(root.keys.remove(&key(1).public().id().unwrap()))),
        ("no key is for nothing", |root| {
            let keys = root.roles.get_mut(&RoleType::Root).unwrap();
            keys.keyids.pop();
        }),
        ("files have versions", |root| root.consistent_snapshot = false),
        ("one specification", |root| root.spec_version = "1.0.31".to_owned()),
        ("a mark is true", |root| drop(root._extra.insert(DEVELOPMENT.to_owned(), false.into()))),
        ("and no text", |root| drop(root._extra.insert(DEVELOPMENT.to_owned(), "true".into()))),
        ("no fields of others", |root| drop(root._extra.insert("note".to_owned(), "hello".into()))),
    ];
    for (rule, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(matches!(rules::root(&bad), Err(Error::Rule { .. })), "{rule}");
    }
}

fn threshold(root: &mut Root, role: RoleType, number: u64) {
    root.roles.get_mut(&role).unwrap().threshold = number.try_into().unwrap();
}

#[test]
fn a_root_for_development_says_so() {
    let mut one = plan();
    one.development = true;
    one.root.threshold = 1;
    one.targets.threshold = 1;
    let place = Place::of(&one, &[1]);
    let root = place.folder.roots().unwrap().in_force[0].signed.signed.clone();
    assert!(rules::is_development(&root));
    place.add("0.2.0", 7);
    place.sign(11).unwrap();
    place.publish().unwrap();
    let repository = place.load(None).unwrap();
    assert!(rules::is_development(&repository.root().signed));
}

#[test]
fn a_new_folder_has_the_keys_that_nobody_brought() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("releases");
    let wanted = |given: &[u8], count, threshold| Wanted { given: publics(given), count, threshold };
    let mut setup = Setup {
        roles: [wanted(&[1, 2], 3, 2), wanted(&[11, 12], 2, 2), wanted(&[21], 1, 1), wanted(&[], 1, 1)],
        days: Days::default(),
        development: false,
    };
    let asked = Cell::new(0);
    let passphrase = || {
        asked.set(asked.get() + 1);
        Passphrase::new(Zeroizing::new("five words are quite enough".to_owned()))
    };
    setup.roles[1].threshold = 3;
    assert!(matches!(init(&path, &setup, &passphrase, now(), &|_| {}), Err(Error::Arguments(_))));
    assert_eq!(asked.get(), 0, "nobody is asked in vain");
    setup.roles[1].threshold = 2;
    let made = init(&path, &setup, &passphrase, now(), &|_| {}).unwrap();
    assert_eq!(asked.get(), 1);
    let names: Vec<_> =
        made.keys.iter().map(|(file, _)| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["root-3.key", "timestamp-1.key"]);
    assert_eq!(made.root.signed.signatures.len(), 1, "by the root key that was made here");
    let opened = SecretKey::open(&made.keys[0].0, &passphrase().unwrap()).unwrap();
    assert_eq!(opened.public(), made.keys[0].1);

    assert!(sign(&made.root, 2).unwrap());
    assert_eq!(Folder::open(&path).unwrap().roots().unwrap().in_force.len(), 1);
    assert!(matches!(init(&path, &setup, &passphrase, now(), &|_| {}), Err(Error::FolderExists(_))));
}

#[test]
fn whoever_is_to_hold_a_key_is_asked_for_it_unless_it_is_for_development() {
    let wanted = |given: &[u8], count, threshold| Wanted { given: publics(given), count, threshold };
    let mut setup = Setup {
        roles: [wanted(&[1, 2, 3], 5, 3), wanted(&[11, 12], 2, 2), wanted(&[], 1, 1), wanted(&[], 1, 1)],
        days: Days::default(),
        development: false,
    };
    assert_eq!(setup.made_here(), [("root", 2, 5)]);
    setup.development = true;
    assert!(setup.made_here().is_empty());
}

#[test]
fn nothing_is_made_where_a_public_half_is_named_twice() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("releases");
    let wanted = |given: &[u8], threshold| Wanted { given: publics(given), count: given.len(), threshold };
    for (root, targets) in [([1, 2, 2], [11, 12]), ([1, 2, 3], [11, 3])] {
        let roles = [wanted(&root, 2), wanted(&targets, 2), wanted(&[21], 1), wanted(&[31], 1)];
        let setup = Setup { roles, days: Days::default(), development: false };
        let nobody = || panic!("nobody is asked");
        let error = init(&path, &setup, &nobody, now(), &|_| {}).unwrap_err();
        assert!(error.to_string().contains("named twice"), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn a_key_goes_by_its_id_or_by_its_public_half() {
    let place = Place::new();
    let public = key(5).public().0.to_vec().into();
    let by_half = Rotation { remove: vec![public], ..rotation(&[6], &[]) };
    let held = draft::rotate_root(&place.folder, &by_half, now()).unwrap();
    let by_id = draft::rotate_root(&Place::new().folder, &rotation(&[6], &[5]), now()).unwrap();
    assert_eq!(held.signed.signed.keys, by_id.signed.signed.keys);
    assert_eq!(held.signed.signed.roles, by_id.signed.signed.roles);
    let error = draft::rotate_root(&place.folder, &rotation(&[], &[99]), now()).unwrap_err();
    assert!(error.to_string().contains("neither the id nor the public half"), "{error}");
}

#[test]
fn a_list_that_had_enough_for_the_root_before_has_to_be_made_anew() {
    let place = Place::new();
    place.add("0.2.0", 7);
    place.sign(11).unwrap();
    place.sign(12).unwrap();
    let done = place.publish().unwrap();
    assert_eq!(done.waiting, None);
    let three = Rotation { role: RoleType::Targets, threshold: Some(3), ..rotation(&[], &[]) };
    let held = draft::rotate_root(&place.folder, &three, now()).unwrap();
    sign(&held, 1).unwrap();
    let waiting = place.publish().unwrap().waiting.unwrap();
    assert_eq!(waiting.version, 2);
    let lacks: Vec<_> = waiting.lacks.iter().map(|lack| (lack.root, lack.threshold, lack.have)).collect();
    assert_eq!(lacks, [(1, 3, 1), (2, 3, 1)]);
    sign(&held, 2).unwrap();
    sign(&held, 3).unwrap();
    for does in [publish as Does, refresh] {
        let error = place.does(does).unwrap_err();
        assert!(
            matches!(error, Error::RootChanged { root: 2, have: 2, threshold: 3, before: 1, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("lucid-release renew"), "{error}");
    }
    draft::renew(&place.folder, now()).unwrap();
    assert!(matches!(place.publish(), Err(Error::TooFew { have: 0, threshold: 3, .. })));
    for number in [11, 12, 13] {
        place.sign(number).unwrap();
    }
    assert_eq!(place.publish().unwrap().root, 2);
}

#[test]
fn a_root_is_not_signed_without_the_one_before_it() {
    let place = Place::new();
    let held = draft::rotate_root(&place.folder, &rotation(&[6], &[5]), now()).unwrap();
    let alone = place.path().join("2.root.json");
    fs::copy(&held.path, &alone).unwrap();
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (roots, missing) in [(None, place.path()), (Some(empty.as_path()), empty.as_path())] {
        let error = Paper::open(&alone, roots).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, Error::RootMissing { .. }), "{said}");
        let first = missing.join("1.root.json");
        assert!(said.starts_with(&format!("{} is not there", first.display())), "{said}");
        assert!(said.contains("needed to check") && said.contains("2.root.json"), "{said}");
    }
}

#[test]
fn a_chain_of_roots_has_no_gaps() {
    let place = Place::new();
    let one = place.folder.path().join("1.root.json");
    fs::copy(&one, place.folder.path().join("3.root.json")).unwrap();
    assert!(matches!(place.folder.roots(), Err(Error::Malformed { .. })), "it is root 1");
    fs::remove_file(place.folder.path().join("3.root.json")).unwrap();
    fs::remove_file(&one).unwrap();
    assert!(matches!(place.folder.roots(), Err(Error::NoRoot(_))));
}
