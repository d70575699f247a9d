//! Writes damaged recordings, each in its own directory, and what a verification has to say of each.
//!
//! `cargo run -p lucid-recording --example damage -- DIRECTORY COUNT` makes `DIRECTORY/expected.jsonl` with one object
//! in each line: `name` (the directory beside it), `base`, `what`, `device` (the key to verify with, or null),
//! `verdict` (`sound`, `unfinished`, `damaged`, or `any` where only a secret key shows it) and `files` (just these are
//! named as wrong; with `any`, these or none). The same numbers give the same damages.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a tool of the tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{fs, io::Write, path::PathBuf};

use support::{Files, damage::Expected, damage::Sources, store};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(count)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        eprintln!("usage: damage DIRECTORY COUNT");
        std::process::exit(2);
    };
    let count: usize = count.parse().expect("COUNT is a number");
    fs::create_dir_all(&dir).expect("the directory can be made");
    let temp = support::temp();
    let sources = Sources::make(temp.path());
    let mut list = fs::File::create(dir.join("expected.jsonl")).expect("the list can be made");
    let mut write = |expected: Expected, files: &Files| {
        store(&dir.join(&expected.name), files);
        writeln!(list, "{}", serde_json::to_string(&expected).unwrap()).expect("the list can be written");
    };
    for (expected, files) in sources.good() {
        write(expected, files);
    }
    for number in 0..count {
        let (expected, files) = sources.damage(number);
        write(expected, &files);
    }
}
