//! The chain: what it says of lines that were changed, dropped, repeated or moved; and its golden file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::path::Path;

use lucid_audit::{
    Actor, Chain, Data, Direction, Entry, Error, Event, Keys, Kind, Line, MAX_LINE, Name, Outcome, Summary,
    Word, verify,
};
use lucid_statement::{Hash, Hex, SessionId, Time};

fn session() -> SessionId {
    "6b1f0a52-93c7-4d3e-8f21-0c5de8a97b44".parse().unwrap()
}

fn time(mono_us: u64) -> Time {
    Time { wall_ms: 1_767_225_600_000 + mono_us / 1000, mono_us }
}

fn word(text: &str) -> Word {
    Word::new(text).unwrap()
}

fn by(actor: Actor, outcome: Outcome, resource: &str, data: Data) -> Entry {
    Entry { actor, outcome, resource: word(resource), data }
}

fn hash(text: &str) -> Hash {
    Hash::from(blake3_of(text))
}

fn blake3_of(text: &str) -> blake3::Hash {
    blake3::hash(text.as_bytes())
}

/// Every kind, and texts that JSON has to escape.
fn entries() -> Vec<Entry> {
    use Actor::{Approver, Client, Device, Owner};
    use Outcome::{Allowed, Failed, Refused};
    vec![
        by(
            Client,
            Allowed,
            "",
            Data::Connect { address: word("192.0.2.7:51514"), security: word("TLS 1.3") },
        ),
        by(Client, Failed, "", Data::Authenticate { method: word("password"), user: word("Ad\"a\u{7}\n") }),
        by(Client, Allowed, "", Data::Authenticate { method: word("password"), user: word("\u{141}ukasz") }),
        by(Client, Allowed, "session", Data::Consent { receipt: hash("receipt") }),
        by(Device, Allowed, "", Data::Resize { height: 1080, monitors: 1, width: 1920 }),
        by(
            Device,
            Allowed,
            "desktop",
            Data::Focus {
                app_id: Some(word("foot")),
                title: Some(Name::new("~/\u{1f600} \\ \u{0}").unwrap()),
            },
        ),
        by(Device, Allowed, "desktop", Data::Focus { app_id: None, title: None }),
        by(
            Client,
            Allowed,
            "desktop",
            Data::Input {
                clicks: 3,
                keys: Keys {
                    digits: 1,
                    function: 2,
                    letters: 30,
                    modifiers: 4,
                    navigation: 5,
                    other: 6,
                    punctuation: 7,
                },
                seconds: 10,
                wheel: 8,
            },
        ),
        by(
            Client,
            Refused,
            "clipboard",
            Data::Clipboard {
                bytes: 70_000,
                direction: Direction::ToDesktop,
                hash: None,
                r#type: word("text/plain"),
            },
        ),
        by(
            Client,
            Allowed,
            "policy",
            Data::Request {
                request: hash("request"),
                requester: word("ada"),
                seconds: 300,
                what: Name::new("clipboard.host_to_remote=true").unwrap(),
                why: word("to paste a number"),
            },
        ),
        by(
            Approver,
            Allowed,
            "policy",
            Data::Approve { agree: 1, approver: word("bob"), needed: 1, request: hash("request") },
        ),
        by(Device, Allowed, "policy", Data::Lapse { in_effect: true, request: hash("request") }),
        by(
            Client,
            Allowed,
            "clipboard",
            Data::Clipboard {
                bytes: 12,
                direction: Direction::ToClient,
                hash: Some(hash("twelve bytes")),
                r#type: word("text/plain"),
            },
        ),
        by(
            Approver,
            Refused,
            "policy",
            Data::Deny { approver: word("bob"), reason: word("not today"), request: hash("request") },
        ),
        by(
            Client,
            Allowed,
            "file",
            Data::File {
                bytes: 1 << 40,
                direction: Direction::ToDesktop,
                hash: Some(hash("a file")),
                name: Name::new("r\u{e9}sum\u{e9}.pdf").unwrap(),
            },
        ),
        by(
            Owner,
            Refused,
            "keyboard",
            Data::Violation { detail: Name::new("PrintScreen").unwrap(), rule: word("kb_blocklist") },
        ),
        by(Client, Failed, "", Data::Disconnect { reason: word("the connection broke") }),
        Entry::of_device(Data::Gap { from_us: 10, reason: word("nobody was there"), to_us: 20 }),
        Entry::of_device(Data::End { reason: word("the user ended it") }),
    ]
}

/// Two lives: the first one's newest line was confirmed by no head.
fn lines() -> Vec<Vec<u8>> {
    let mut chain = Chain::new(session());
    let mut lines = Vec::new();
    let mut at = 0;
    let mut confirmed = None;
    for entry in entries() {
        at += 100_000;
        confirmed = chain.last();
        lines.push(chain.append(time(at), entry).unwrap().bytes);
    }
    let gap = Data::Gap { from_us: at, reason: word("the power was cut"), to_us: at + 5_000_000 };
    at += 5_000_000;
    let (mut chain, Line { bytes, .. }) =
        Chain::resume(session(), confirmed, time(at), Entry::of_device(gap)).unwrap();
    lines.push(bytes);
    for entry in entries().into_iter().take(4) {
        lines.push(chain.append(time(at), entry).unwrap().bytes);
    }
    lines
}

fn check(lines: &[Vec<u8>], last: Hash) -> Result<Summary, Error> {
    verify(lines.iter().map(Vec::as_slice), Some(last))
}

fn last(lines: &[Vec<u8>]) -> Hash {
    Hash::from(blake3::hash(lines.last().unwrap()))
}

fn wrong_line(lines: &[Vec<u8>], last: Hash) -> Option<u64> {
    match check(lines, last) {
        Ok(_) => None,
        Err(Error::Line { line, .. }) => Some(line),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_chain_as_it_was_written_holds() {
    let lines = lines();
    let summary = check(&lines, last(&lines)).unwrap();
    assert_eq!((summary.events, summary.lives), (lines.len() as u64, 2));
    assert_eq!(summary.session, Some(session()));
    let kinds = entries().iter().map(|entry| entry.data.kind()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(kinds.len(), Kind::ALL.len());
    for (line, entry) in lines.iter().zip(entries()) {
        let event = Event::from_line(line).unwrap();
        assert_eq!(event.data, entry.data);
        assert!(!line.contains(&b'\n'));
        assert_eq!(&event.to_line().unwrap(), line);
    }
}

#[test]
fn every_changed_bit_is_found_in_its_line() {
    let good = lines();
    let last = last(&good);
    let mut lines = good.clone();
    for place in 0..lines.len() {
        for byte in 0..lines[place].len() {
            for bit in 0..8 {
                lines[place][byte] ^= 1 << bit;
                let wrong = wrong_line(&lines, last);
                // A line that no head and no line names is the seal's to protect; here only its form speaks.
                let unnamed = place == entries().len() - 1 && wrong.is_none();
                assert!(unnamed || wrong == Some(place as u64 + 1), "{place}, {byte}, {bit}: {wrong:?}");
                lines[place][byte] ^= 1 << bit;
            }
        }
    }
    assert_eq!(lines, good);
}

#[test]
fn a_line_that_is_dropped_repeated_or_moved_is_found() {
    let good = lines();
    let newest = last(&good);
    // Before a gap of a recorder that died there may be lines that no head names, and they may be missing.
    let unconfirmed = entries().len() - 1;
    for place in 0..good.len() {
        let mut dropped = good.clone();
        dropped.remove(place);
        let expected = match place {
            _ if place == unconfirmed => None,
            _ if place == good.len() - 1 => Some(place as u64),
            _ => Some(place as u64 + 1),
        };
        assert_eq!(wrong_line(&dropped, newest), expected, "dropped {place}");
        let mut repeated = good.clone();
        repeated.insert(place, good[place].clone());
        assert_eq!(wrong_line(&repeated, newest), Some(place as u64 + 2), "repeated {place}");
        for other in place + 1..good.len() {
            let mut swapped = good.clone();
            swapped.swap(place, other);
            let named = wrong_line(&swapped, newest).unwrap();
            // The gap may come where the line before it was, which no head names; that one then fits nowhere.
            let fits = place == unconfirmed && other == place + 1;
            assert_eq!(named, place as u64 + 1 + u64::from(fits), "swapped {place} and {other}");
        }
        let mut cut = good.clone();
        cut.truncate(place);
        assert!(wrong_line(&cut, newest).is_some(), "cut to {place}");
    }
}

#[test]
fn lines_of_another_session_and_of_another_version_are_found() {
    let mut lines = lines();
    let newest = last(&lines);
    let mut other = Chain::new("0e984725-c51c-4bf4-9960-e1c80e27aba0".parse().unwrap());
    lines[2] = other.append(time(1), entries()[2].clone()).unwrap().bytes;
    assert_eq!(wrong_line(&lines, newest), Some(3));
    let text = String::from_utf8(lines[0].clone()).unwrap();
    let newer = text.replace("\"version\":1", "\"version\":2");
    assert!(Event::from_line(newer.as_bytes()).unwrap_err().contains("version 2"));
    let more = text.replace("\"version\":1", "\"verdict\":1,\"version\":1");
    assert!(Event::from_line(more.as_bytes()).is_err());
}

#[test]
fn data_of_another_kind_and_unknown_data_are_refused() {
    let mut chain = Chain::new(session());
    let line = chain.append(time(1), Entry::of_device(Data::End { reason: word("x") })).unwrap().bytes;
    let text = String::from_utf8(line).unwrap();
    assert!(Event::from_line(text.as_bytes()).is_ok());
    for (from, to) in [
        ("\"kind\":\"end\"", "\"kind\":\"focus\""),
        ("\"kind\":\"end\"", "\"kind\":\"typed\""),
        ("{\"reason\":\"x\"}", "{\"reason\":\"x\",\"text\":\"y\"}"),
        ("{\"reason\":\"x\"}", "{}"),
        ("{\"reason\":\"x\"}", "{\"reason\":1}"),
        ("{\"reason\":\"x\"}", "null"),
        ("\"device\"", "\"nobody\""),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        assert!(Event::from_line(changed.as_bytes()).is_err(), "{changed}");
    }
}

#[test]
fn the_longest_event_fits_a_line_and_a_longer_text_is_refused() {
    let mut chain = Chain::new(session());
    let worst = |length: usize| "\u{1}".repeat(length);
    let data =
        Data::Violation { detail: Name::new(worst(1024)).unwrap(), rule: Word::new(worst(256)).unwrap() };
    let entry = by(Actor::Approver, Outcome::Refused, &worst(256), data);
    let line = chain.append(time((1 << 53) - 1), entry).unwrap().bytes;
    assert!(line.len() <= MAX_LINE && line.len() > MAX_LINE / 2, "{}", line.len());
    assert!(Event::from_line(&line).is_ok());
    let text = String::from_utf8(line).unwrap();
    let longer = text.replacen("\\u0001", "\\u0001\\u0001", 1);
    assert!(Event::from_line(longer.as_bytes()).is_err());
}

#[test]
fn what_cannot_be_written_leaves_the_chain_as_it_was() {
    let mut chain = Chain::new(session());
    let end = || Entry::of_device(Data::End { reason: word("x") });
    chain.append(time(10), end()).unwrap();
    let before = (chain.last(), chain.count());
    assert!(chain.append(time(9), end()).is_err());
    assert!(chain.append(Time { wall_ms: 1 << 53, mono_us: 10 }, end()).is_err());
    let gap = |from_us, to_us| Entry::of_device(Data::Gap { from_us, reason: word("x"), to_us });
    assert!(chain.append(time(10), gap(3, 2)).is_err());
    assert!(chain.append(time(10), gap(3, 11)).is_err());
    assert!(Chain::resume(session(), None, time(10), end()).is_err());
    assert_eq!((chain.last(), chain.count()), before);
    assert!(chain.append(time(10), gap(3, 10)).is_ok());
}

#[test]
fn a_recorder_that_died_goes_on_only_from_a_line_that_there_was() {
    let gap = || Entry::of_device(Data::Gap { from_us: 0, reason: word("x"), to_us: 0 });
    let mut first = Chain::new(session());
    let line = first.append(time(1), entries()[0].clone()).unwrap();
    for (confirmed, good) in [(Some(line.hash), true), (None, true), (Some(Hex([7; 32])), false)] {
        let (_, resumed) = Chain::resume(session(), confirmed, time(2), gap()).unwrap();
        let both = [line.bytes.clone(), resumed.bytes];
        assert_eq!(wrong_line(&both, resumed.hash), (!good).then_some(1));
        if !good {
            assert_eq!(wrong_line(&both, line.hash), Some(2));
        }
    }
}

/// `LUCID_WRITE_GOLDEN=1` writes the file; version 1 of the format never does again.
#[test]
fn the_golden_lines_stay_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/audit.jsonl");
    let mut bytes = lines().join(&b'\n');
    bytes.push(b'\n');
    if std::env::var_os("LUCID_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == bytes, "{} is not what the code makes", path.display());
}
