//! The format of version 1 does not change: a recording that is kept beside the tests is written again byte for byte,
//! and read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{fmt::Write, path::Path};

use lucid_recording::{Reader, Verdict, chunk, verify, verify::Options};
use support::{device, load, observer, owner, temp, with_gap};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/v1");

/// Each record in a line: chunk, number, stream, key, time, size and hash of the payload.
fn listing(dir: &Path) -> String {
    let reader = Reader::open(dir, &owner(), Some(&device().public())).unwrap();
    let mut text = String::new();
    for entry in reader.chunks() {
        let mut records = reader.chunk(entry.index).unwrap();
        while let Some(record) = records.next().unwrap() {
            let (size, hash) = (record.payload.len(), blake3::hash(record.payload).to_hex());
            let key = if record.key { "key" } else { "-" };
            let (number, stream, mono_us) = (record.number, record.stream, record.mono_us);
            let name = chunk::file_name(entry.index);
            writeln!(text, "{name} {number} {stream} {key} {mono_us} {size} {hash}").unwrap();
        }
    }
    text
}

/// With another zstd the packed events may be other bytes, which are as good; everything else is the format.
#[test]
fn the_golden_recording_is_written_again_byte_for_byte() {
    let temp = temp();
    let (dir, kept) = with_gap(temp.path(), "golden");
    let golden = load(&Path::new(GOLDEN).join("recording"));
    let written = load(&dir);
    assert_eq!(written.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (name, bytes) in &golden {
        assert!(written[name] == *bytes, "{name} is written otherwise");
    }
    assert!(kept.len() > 100);
}

#[test]
fn the_golden_recording_is_read_and_verified() {
    let dir = Path::new(GOLDEN).join("recording");
    assert_eq!(listing(&dir), std::fs::read_to_string(Path::new(GOLDEN).join("records.txt")).unwrap());
    let report = std::fs::read_to_string(Path::new(GOLDEN).join("report.json")).unwrap();
    let shown = verify(&dir, Options { owner: None, device: Some(device().public()) }, &mut |_| {}).unwrap();
    assert_eq!(serde_json::to_string_pretty(&shown).unwrap() + "\n", report);
    assert_eq!(shown.verdict, Verdict::Sound);
    assert_eq!((shown.parts, shown.gaps.len()), (2, 1));
    for secret in [owner(), observer()] {
        let shown = verify(&dir, Options { owner: Some(&secret), device: None }, &mut |_| {}).unwrap();
        assert_eq!((shown.verdict, shown.opened.unwrap().torn), (Verdict::Sound, 0));
    }
}

/// `cargo test -p lucid-recording --test golden -- --ignored`, when there is a new version of the format.
#[test]
#[ignore = "writes the golden recording"]
fn write_the_golden_recording() {
    let temp = temp();
    let (dir, _) = with_gap(temp.path(), "golden");
    let golden = Path::new(GOLDEN);
    support::store(&golden.join("recording"), &load(&dir));
    std::fs::write(golden.join("records.txt"), listing(&dir)).unwrap();
    let report = verify(&dir, Options { owner: None, device: Some(device().public()) }, &mut |_| {}).unwrap();
    std::fs::write(golden.join("report.json"), serde_json::to_string_pretty(&report).unwrap() + "\n")
        .unwrap();
}
