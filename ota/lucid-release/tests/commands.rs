//! What the program says on the command line, where a mistake would cost most.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use lucid_release::draft::{self, Rotation};
use lucid_release::folder::{Days, Folder};
use lucid_release::key::{Passphrase, SecretKey};
use lucid_release::setup::{Setup, Wanted, init};
use lucid_release::sign::Paper;
use support::{Place, image, key, now, publics};
use tough::schema::RoleType;
use zeroize::Zeroizing;

const PASSPHRASE: &str = "five words are quite enough";

/// Runs it in a folder; gives its exit status, its output and its errors.
fn run(folder: &Path, words: &[&dyn AsRef<OsStr>]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lucid-release"));
    command.current_dir(folder).stdin(Stdio::null()).args(words.iter().map(AsRef::as_ref));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn outside_a_folder_of_releases_it_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, said) = run(folder.path(), &[&"renew"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(". is no folder of releases") && said.contains("--dir"), "{said}");
}

#[test]
fn an_address_is_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let address = "http://example.org/lucid";
    let verify: [&dyn AsRef<OsStr>; 4] = [&"verify", &address, &"--root", &"1.root.json"];
    let publish: [&dyn AsRef<OsStr>; 8] =
        [&"publish", &".", &"--to", &address, &"--snapshot-key", &"s", &"--timestamp-key", &"t"];
    for words in [&verify[..], &publish, &[&"inspect", &address]] {
        let (code, _, said) = run(folder.path(), words);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("is an address, and a folder is needed"), "{said}");
    }
}

#[test]
fn what_nobody_could_check_of_an_image_is_said_last() {
    let place = Place::new();
    let image = image(&place.path().join("some.img"), 7);
    let words: [&dyn AsRef<OsStr>; 6] = [&"add", &image, &"--machine", &"qemu-arm64", &"--version", &"0.2.0"];
    let (code, _, said) = run(place.folder.path(), &words);
    assert_eq!(code, 0, "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("WARNING: no contents.json beside") && last.contains("for true"), "{said}");
}

#[test]
fn a_key_of_another_role_is_refused_before_anything_is_asked() {
    let place = Place::new();
    let file = place.path().join("other.key");
    SecretKey::create(&file, &Passphrase::new(Zeroizing::new(PASSPHRASE.to_owned())).unwrap()).unwrap();
    // Neither agreement nor passphrase could be given here.
    let (code, _, said) = run(place.folder.path(), &[&"sign", &"1.root.json", &"--key", &file]);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with("lucid-release: the key ") && said.contains("may not sign root 1"), "{said}");
}

#[test]
fn a_root_that_waits_for_signatures_is_said_last_when_something_is_published() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("releases");
    let wanted = |given: &[u8], count, threshold| Wanted { given: publics(given), count, threshold };
    let setup = Setup {
        roles: [wanted(&[1, 2, 3], 3, 2), wanted(&[11, 12], 2, 2), wanted(&[], 1, 1), wanted(&[], 1, 1)],
        days: Days::default(),
        development: false,
    };
    let passphrase = || Passphrase::new(Zeroizing::new(PASSPHRASE.to_owned()));
    let made = init(&path, &setup, &passphrase, now(), &|_| {}).unwrap();
    fs::write(temporary.path().join("passphrase"), PASSPHRASE).unwrap();
    let sign = |file: &Path, number| assert!(Paper::open(file, None).unwrap().sign(&key(number)).unwrap());
    sign(&made.root.path, 1);
    sign(&made.root.path, 2);
    let folder = Folder::open(&path).unwrap();
    let list = draft::renew(&folder, now()).unwrap();
    sign(&list.path, 11);
    sign(&list.path, 12);
    let rotation = Rotation {
        role: RoleType::Root,
        add: publics(&[4]),
        remove: Vec::new(),
        threshold: Some(3),
        days: Days::default(),
    };
    let next = draft::rotate_root(&folder, &rotation, now()).unwrap();
    sign(&next.path, 1);
    sign(&next.path, 2);
    let publish = || {
        let words: [&dyn AsRef<OsStr>; 10] = [
            &"publish",
            &"releases",
            &"--to",
            &"web",
            &"--snapshot-key",
            &"releases/keys/snapshot-1.key",
            &"--timestamp-key",
            &"releases/keys/timestamp-1.key",
            &"--passphrase-file",
            &"passphrase",
        ];
        let (code, out, said) = run(temporary.path(), &words);
        assert_eq!(code, 0, "{said}");
        (out, said)
    };
    let (out, said) = publish();
    assert!(out.starts_with("published: root 1,"), "{out}");
    let last: Vec<_> = said.lines().rev().take(2).collect();
    assert!(last.iter().all(|line| line.starts_with("WARNING: ")), "{said}");
    assert!(last[1].contains("root 2 was NOT published") && last[1].contains("2 of the 3"), "{said}");
    sign(&next.path, 3);
    let (out, said) = publish();
    assert!(out.starts_with("published: root 2,") && !said.contains("WARNING"), "{out}{said}");
}
