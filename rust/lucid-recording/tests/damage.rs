//! Every damage is found, and named where it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{collections::BTreeSet, path::Path};

use lucid_recording::{OwnerSecret, PublicKey, Report, verify, verify::Options};
use support::{
    damage::{Expected, Sources},
    owner, store, temp,
};

/// Damages that are tried; as many for each of some tests at the same time.
const DAMAGES: usize = 6000;

fn check(dir: &Path, expected: &Expected, owner: Option<&OwnerSecret>) -> Report {
    let device: Option<PublicKey> = expected.device.as_ref().map(|key| key.parse().unwrap());
    let report = verify(dir, Options { owner, device }, &mut |_| {}).unwrap();
    let verdict = serde_json::to_value(report.verdict).unwrap();
    let named: BTreeSet<String> = report.findings.iter().map(|finding| finding.file.clone()).collect();
    let good = match expected.verdict {
        "any" => named.is_subset(&expected.files),
        known => verdict == known && named == expected.files,
    };
    assert!(good, "{expected:#?}\n{report:#?}");
    report
}

fn every(part: usize, parts: usize) {
    let temp = temp();
    let sources = Sources::make(temp.path());
    let dir = temp.path().join("damaged");
    for (expected, files) in sources.good() {
        store(&dir, files);
        check(&dir, &expected, None);
    }
    for number in (part..DAMAGES).step_by(parts) {
        let (expected, files) = sources.damage(number);
        store(&dir, &files);
        check(&dir, &expected, None);
        // The owner's key finds nothing else, and bears it.
        if expected.verdict != "any" && number % 7 == 0 && !expected.files.contains("keys.json") {
            check(&dir, &expected, Some(&owner()));
        }
    }
}

#[test]
fn six_thousand_damages_are_found_and_named_where_they_are_first_half() {
    every(0, 2);
}

#[test]
fn six_thousand_damages_are_found_and_named_where_they_are_second_half() {
    every(1, 2);
}

/// What `keys.json` says of others than this owner is not his to see.
#[test]
fn damage_to_the_keys_is_found_when_they_are_used() {
    let temp = temp();
    let sources = Sources::make(temp.path());
    let dir = temp.path().join("damaged");
    let secret = owner();
    let public = secret.public().unwrap().to_string();
    for (expected, files) in sources.good().take(2) {
        let keys = &files["keys.json"];
        let text = std::str::from_utf8(keys).unwrap();
        let whose = text.find(&public).unwrap();
        let begin = text[..whose].rfind("{\"key\"").unwrap();
        let end = text[whose..].find("\"role\"").unwrap() + whose;
        for at in (begin..end).step_by(3) {
            let mut files = files.clone();
            files.get_mut("keys.json").unwrap()[at] ^= 1;
            store(&dir, &files);
            let report = verify(&dir, Options { owner: Some(&secret), device: None }, &mut |_| {}).unwrap();
            let named: BTreeSet<_> = report.findings.iter().map(|finding| finding.file.as_str()).collect();
            assert_eq!(named, BTreeSet::from(["keys.json"]), "{} {at}: {report:#?}", expected.name);
        }
    }
}
