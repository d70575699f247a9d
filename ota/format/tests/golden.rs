//! The formats of version 1 do not change: what is kept beside the tests is made again, byte for byte, and read.
//! `UPDATE_GOLDEN=1` writes it anew, for a new version.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{fmt::Write, fs, path::Path};

use lucid_release_format::{Index, Patch, Release, System, Version, chunks};
use support::{change, data, golden_patch, index, release};

/// Holds what was made to the file of that name, and gives the file.
fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read(&path).unwrap_or_else(|error| {
        panic!("{} is not there ({error}); UPDATE_GOLDEN=1 writes it", path.display());
    });
    assert!(kept == made, "{} is made otherwise", path.display());
    kept
}

#[test]
fn the_golden_index_is_written_again_and_read() {
    let kept = golden("index.bin", &index().write());
    assert_eq!(Index::read(&kept).unwrap(), index());
}

#[test]
fn the_golden_head_of_a_patch_is_written_again_and_read() {
    let kept = golden("patch.bin", &golden_patch().head(&change()));
    assert_eq!(Patch::read(&kept, &change(), golden_patch().bytes()).unwrap(), golden_patch());
}

#[test]
fn the_golden_description_is_written_again_and_read() {
    let kept = golden("release.json", (release().write().unwrap() + "\n").as_bytes());
    assert_eq!(Release::read(&kept).unwrap(), release());
}

#[test]
fn the_golden_system_is_written_again_and_read() {
    let version = Version::new(0, 1, 0);
    let system = System { machine: "qemu-arm64".parse().unwrap(), version, built: 1_767_225_600, data: 1 };
    let kept = golden("system.json", &system.to_bytes());
    assert_eq!(System::from_bytes(&kept).unwrap(), system);
}

/// Each line is the offset and the length of a chunk.
#[test]
fn the_golden_data_is_cut_where_it_was() {
    let data = data();
    let mut cuts = String::new();
    for chunk in chunks(data.as_slice(), data.len() as u64) {
        let (offset, bytes) = chunk.unwrap();
        writeln!(cuts, "{offset} {}", bytes.len()).unwrap();
    }
    golden("cuts.txt", cuts.as_bytes());
}
