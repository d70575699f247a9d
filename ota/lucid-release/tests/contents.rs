//! What is said of an image is held to what its builder wrote beside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use lucid_release::Error;
use lucid_release::contents::Checked;
use lucid_release::document::canonical;
use lucid_release::draft::{self, Rotation};
use lucid_release::folder::Days;
use lucid_release::sign::Paper;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{Place, image, key, now, plan, publics};
use tough::schema::RoleType;

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// What the image tool makes of a root: see `lucid_image::identity::Root`.
fn root_sha256(file: &Path) -> String {
    let mut file: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    file.sort_all_objects();
    sha256(&serde_json::to_vec(&file["signed"]).unwrap())
}

/// An image of 0.2.0 for qemu-arm64 with the folder's first root, and what the image tool writes beside it.
fn built(place: &Place) -> (PathBuf, Value) {
    let image = image(&place.path().join("lucid.img"), 7);
    let contents = json!({
        "version": 1,
        "machine": "qemu-arm64",
        "system_version": "0.2.0",
        "development": false,
        "release_root_sha256": root_sha256(&place.folder.path().join("1.root.json")),
        "image_sha256": sha256(&fs::read(&image).unwrap()),
        "kernel": "6.12",
    });
    (image, contents)
}

fn say(place: &Place, contents: &Value) {
    fs::write(place.path().join("contents.json"), contents.to_string()).unwrap();
}

/// Why it is refused.
fn refusal(place: &Place, image: &Path) -> String {
    match place.add_image(image, "0.2.0").unwrap_err() {
        Error::Image { path, why } if path == image => why,
        other => panic!("{other}"),
    }
}

#[test]
fn an_image_that_is_what_is_said_of_it_is_taken() {
    let place = Place::new();
    let (image, contents) = built(&place);
    say(&place, &contents);
    assert_eq!(place.add_with(&image, "0.2.0", Vec::new()).unwrap().checked, Checked::All);
}

#[test]
fn what_the_image_tool_hashes_of_a_root_is_what_is_signed() {
    let place = Place::new();
    let root = &place.folder.roots().unwrap().in_force[0];
    assert_eq!(root_sha256(&root.path), sha256(&canonical(&root.signed.signed).unwrap()));
}

#[test]
fn an_image_with_a_root_that_more_have_signed_since_or_that_others_follow_is_taken() {
    let place = Place::new();
    let (image, contents) = built(&place);
    say(&place, &contents);
    let first = place.folder.path().join("1.root.json");
    let before = fs::read(&first).unwrap();
    assert!(Paper::open(&first, None).unwrap().sign(&key(4)).unwrap());
    assert_ne!(fs::read(&first).unwrap(), before);
    let rotation = Rotation {
        role: RoleType::Root,
        add: publics(&[6]),
        remove: Vec::new(),
        threshold: None,
        days: Days::default(),
    };
    let next = draft::rotate_root(&place.folder, &rotation, now()).unwrap();
    // Until it holds it may change: no image has to have it.
    let mut early = contents.clone();
    early["release_root_sha256"] = root_sha256(&next.path).into();
    say(&place, &early);
    assert!(refusal(&place, &image).contains("none of those"));
    for number in [1, 2, 3] {
        assert!(Paper::open(&next.path, None).unwrap().sign(&key(number)).unwrap());
    }
    for (version, contents) in [("0.2.0", &contents), ("0.3.0", &early)] {
        let mut contents = contents.clone();
        contents["system_version"] = version.into();
        say(&place, &contents);
        assert_eq!(place.add_with(&image, version, Vec::new()).unwrap().checked, Checked::All);
    }
}

#[test]
fn an_image_that_is_another_one_than_is_said_is_refused_and_nothing_is_made() {
    let place = Place::new();
    let (image, good) = built(&place);
    let cases: [(&str, Value, &[&str]); 5] = [
        ("image_sha256", sha256(b"another").into(), &["is of another image"]),
        ("system_version", "0.1.0".into(), &["version 0.1.0", "says 0.2.0"]),
        ("machine", "rpi5".into(), &["for rpi5", "says qemu-arm64"]),
        ("release_root_sha256", sha256(b"another").into(), &["none of those in", "1.root.json"]),
        ("development", true.into(), &["for development", "without --development"]),
    ];
    for (field, value, words) in cases {
        let mut contents = good.clone();
        contents[field] = value;
        say(&place, &contents);
        let why = refusal(&place, &image);
        assert!(words.iter().all(|word| why.contains(word)), "{field}: {why}");
    }
    assert!(!place.folder.targets_file().exists());
    assert!(fs::read_dir(place.folder.targets_folder()).unwrap().next().is_none());
}

#[test]
fn an_image_for_development_goes_with_a_folder_for_development() {
    let place = Place::of(&for_development(), &[1]);
    let (image, mut contents) = built(&place);
    contents["development"] = true.into();
    say(&place, &contents);
    assert_eq!(place.add_with(&image, "0.2.0", Vec::new()).unwrap().checked, Checked::All);
}

fn for_development() -> draft::Plan {
    let mut one = plan();
    one.development = true;
    one.root.threshold = 1;
    one
}

#[test]
fn where_nothing_says_what_an_image_is_that_is_told() {
    let place = Place::new();
    let (image, mut contents) = built(&place);
    assert_eq!(place.add_with(&image, "0.3.0", Vec::new()).unwrap().checked, Checked::Nothing);
    // By an image tool from before that field.
    contents.as_object_mut().unwrap().remove("release_root_sha256");
    say(&place, &contents);
    assert_eq!(place.add_with(&image, "0.2.0", Vec::new()).unwrap().checked, Checked::ButRoot);
}

#[test]
fn what_the_image_tool_did_not_write_is_refused() {
    let place = Place::new();
    let (image, good) = built(&place);
    let mut later = good.clone();
    later["version"] = 2.into();
    let mut less = good.clone();
    less.as_object_mut().unwrap().remove("machine");
    for text in [String::new(), "[]".to_owned(), later.to_string(), less.to_string()] {
        fs::write(place.path().join("contents.json"), &text).unwrap();
        let error = place.add_image(&image, "0.2.0").unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{text}: {error}");
    }
    fs::write(place.path().join("contents.json"), vec![b' '; (1 << 20) + 1]).unwrap();
    let error = place.add_image(&image, "0.2.0").unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}
