//! A description has one spelling, and who takes a release is decided by it alone.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::collections::HashMap;

use lucid_release_format::{
    Error, Name, Release, Verdict, Version, Wave,
    release::{ALL, MAX_BYTES, MAX_WAVES},
};
use serde_json::{Value, json};
use support::release;

const DAY: u64 = 86_400;
/// Where the device whose seed is 32 times 7 stands with the golden release.
const PLACE: u16 = 923;

#[test]
fn the_first_reason_against_a_release_is_given_for_every_device() {
    let versions = [1, 2, 3, 4].map(|minor| Version::new(0, minor, 0));
    let waves = [(0, 100), (3600, 500), (86_400, 1000)].map(|(after, share)| Wave { after, share });
    let released = 1_000_000;
    let mut taken = 0;
    for version in versions {
        for min_from in versions.into_iter().filter(|min_from| *min_from <= version) {
            for paused in [false, true] {
                let release =
                    Release { version, min_from, paused, released, waves: waves.to_vec(), ..release() };
                for running in versions {
                    for floor in versions {
                        for (place, after) in [
                            (0, 0),
                            (99, 0),
                            (100, 3600),
                            (499, 3600),
                            (500, DAY),
                            (999, DAY),
                            (u16::MAX, DAY),
                        ] {
                            let at = released + after;
                            for now in [0, released - 1, released, at - 1, at, at + 1, u64::MAX] {
                                for machine in ["qemu-arm64", "pi5", ""] {
                                    for channel in ["stable", "test", ""] {
                                        let reasons = [
                                            (machine != "qemu-arm64", Verdict::OtherMachine),
                                            (channel != "stable", Verdict::OtherChannel),
                                            (running >= version, Verdict::NotNewer),
                                            (floor > version, Verdict::BelowFloor),
                                            (min_from > running, Verdict::TooOld { min_from }),
                                            (paused, Verdict::Paused),
                                            (now < at, Verdict::NotYet { at }),
                                        ];
                                        let due = reasons.into_iter().find(|(holds, _)| *holds);
                                        let due = due.map_or(Verdict::Takes, |(_, reason)| reason);
                                        let verdict =
                                            release.applies(machine, channel, running, floor, place, now);
                                        assert_eq!(
                                            verdict, due,
                                            "{release:?} {running} {floor} {place} {now}"
                                        );
                                        taken += usize::from(verdict == Verdict::Takes);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(taken > 100);
}

#[test]
fn each_wave_reaches_exactly_its_share_and_nobody_loses_his_turn() {
    let release = release();
    let running = release.min_from;
    let takes = |place: u16, now: u64| {
        release.applies("qemu-arm64", "stable", running, running, place, now) == Verdict::Takes
    };
    let reached = |now| (0..ALL).filter(|place| takes(*place, now)).count();
    let times = [
        (release.released - 1, 0),
        (release.released, 100),
        (release.released + DAY - 1, 100),
        (release.released + DAY, 1000),
        (u64::MAX, 1000),
    ];
    for (now, share) in times {
        assert_eq!(reached(now), share, "at {now}");
    }
    for place in 0..ALL {
        assert!(times.windows(2).all(|pair| takes(place, pair[0].0) <= takes(place, pair[1].0)));
    }
}

#[test]
fn each_reason_is_said_in_words_of_its_own() {
    let reasons = [
        Verdict::Takes,
        Verdict::OtherMachine,
        Verdict::OtherChannel,
        Verdict::NotNewer,
        Verdict::BelowFloor,
        Verdict::TooOld { min_from: Version::new(1, 2, 3) },
        Verdict::Paused,
        Verdict::NotYet { at: 5 },
    ];
    let mut words = reasons.map(|reason| reason.to_string()).to_vec();
    assert!(words[5].contains("1.2.3"));
    words.sort();
    words.dedup();
    assert_eq!(words.len(), reasons.len());
    assert!(words.iter().all(|words| words.contains(' ')));
}

#[test]
fn a_place_follows_from_seed_and_version_and_devices_are_spread() {
    let release = release();
    assert_eq!(release.place(&[7; 32]), PLACE);
    let later = Release { version: Version::new(0, 3, 0), ..release.clone() };
    let mut counts = [0; 10];
    let mut moved = 0;
    for device in 0..10_000_u64 {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&device.to_le_bytes());
        let place = release.place(&seed);
        assert!(place < ALL);
        counts[usize::from(place / 100)] += 1;
        moved += usize::from(later.place(&seed) != place);
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    assert!(moved > 9900);
}

#[test]
fn a_name_is_of_few_letters() {
    for letter in (0..=255_u8).map(char::from).chain(['ä', '１', '\u{202e}']) {
        let good = letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        for text in [format!("{letter}"), format!("a{letter}"), format!("{letter}a")] {
            assert_eq!(text.parse::<Name>().is_ok(), good, "{text:?}");
        }
    }
    for length in 0..100 {
        let text = "a".repeat(length);
        assert_eq!(text.parse::<Name>().is_ok(), (1..=32).contains(&length), "{length}");
    }
    let name: Name = "qemu-arm64".parse().unwrap();
    assert_eq!((name.as_str(), name.to_string().as_str()), ("qemu-arm64", "qemu-arm64"));
    let error = "A".repeat(100_000).parse::<Name>().unwrap_err();
    assert!(error.to_string().len() < 200);
}

/// The golden description with waves of this (after, share).
fn with_waves(waves: &[(u32, u16)]) -> Release {
    let waves = waves.iter().map(|&(after, share)| Wave { after, share }).collect();
    Release { waves, ..release() }
}

#[test]
fn waves_rise_and_end_with_everybody() {
    let many =
        |count: u16| (1..=count).map(move |wave| (u32::from(wave), if wave == count { ALL } else { wave }));
    let most: Vec<_> = many(MAX_WAVES as u16).collect();
    let good: [&[(u32, u16)]; 4] =
        [&[(0, 1000)], &[(u32::MAX, 1000)], &[(0, 1), (1, 2), (2, 1000)], most.as_slice()];
    for waves in good {
        let release = with_waves(waves);
        assert_eq!(Release::read(release.write().unwrap().as_bytes()).unwrap(), release);
    }
    let more: Vec<_> = many(MAX_WAVES as u16 + 1).collect();
    let bad: [&[(u32, u16)]; 9] = [
        &[],
        &[(0, 999)],
        &[(0, 1001)],
        &[(0, 0), (1, 1000)],
        &[(0, 500), (0, 1000)],
        &[(1, 500), (0, 1000)],
        &[(0, 1000), (1, 1000)],
        &[(0, 500), (1, 400), (2, 1000)],
        more.as_slice(),
    ];
    for waves in bad {
        let release = with_waves(waves);
        assert!(release.check().is_err(), "{waves:?}");
        assert!(release.write().is_err() && release.to_custom().is_err(), "{waves:?}");
        // What the writer would refuse is not read either.
        let text = serde_json::to_string(&release).unwrap();
        assert!(matches!(Release::read(text.as_bytes()), Err(Error::Release { .. })), "{waves:?}");
    }
}

#[test]
fn no_version_that_is_demanded_is_above_the_releases_own() {
    let versions = [(0, 1, 0), (0, 2, 0), (0, 2, 1), (1, 0, 0)].map(|(a, b, c)| Version::new(a, b, c));
    for version in versions {
        for min_from in versions {
            for min_version in versions {
                let release = Release { version, min_from, min_version, ..release() };
                let good = min_from <= version && min_version <= version;
                assert_eq!(release.check().is_ok(), good);
                let text = serde_json::to_string(&release).unwrap();
                assert_eq!(Release::read(text.as_bytes()).is_ok(), good);
            }
        }
    }
}

/// The golden description as a value.
fn value() -> Value {
    serde_json::to_value(release()).unwrap()
}

fn read(value: &Value) -> Result<Release, Error> {
    Release::read(value.to_string().as_bytes())
}

#[test]
fn a_description_with_a_member_more_less_or_of_another_kind_is_refused() {
    assert_eq!(read(&value()).unwrap(), release());
    let members: Vec<String> = value().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members.len(), 9);
    let others = [json!(null), json!(-1), json!(1.5), json!("X y"), json!([]), json!({}), json!(u64::MAX)];
    for member in &members {
        let mut without = value();
        without.as_object_mut().unwrap().remove(member);
        assert!(read(&without).is_err(), "without {member}");
        for other in &others {
            let mut changed = value();
            changed[member] = other.clone();
            assert!(read(&changed).is_err(), "{member} is {other}");
        }
    }
    let mut more = value();
    more["more"] = json!(1);
    assert!(read(&more).is_err());
    let waves = [
        json!([0, 1000]),
        json!({ "after": 0 }),
        json!({ "share": 1000 }),
        json!({ "after": 0, "share": 1000, "more": 1 }),
        json!({ "after": 0, "share": 1000.0 }),
        json!({ "after": -1, "share": 1000 }),
        json!({ "after": 1_u64 << 32, "share": 1000 }),
        json!({ "after": "0", "share": 1000 }),
    ];
    for wave in waves {
        let mut changed = value();
        changed["waves"] = json!([wave]);
        assert!(read(&changed).is_err(), "{wave}");
    }
    for text in ["", "{", "[]", "null", "1", "\"\"", "{}", "{} {}"] {
        assert!(Release::read(text.as_bytes()).is_err(), "{text}");
    }
    let list = Value::Array(value().as_object().unwrap().values().cloned().collect());
    assert!(read(&list).is_err());
}

#[test]
fn a_description_of_a_later_format_is_told_from_a_wrong_one() {
    let later = json!({ "format": 2, "anything": ["else"] });
    assert!(matches!(read(&later), Err(Error::Format { version: 2, .. })));
    let custom = HashMap::from([("lucid".to_owned(), later)]);
    let error = Release::of_target("lucid-qemu-arm64-0.2.0.index", &custom).unwrap_err();
    assert!(matches!(error, Error::Format { version: 2, .. }));
}

#[test]
fn a_description_is_bounded_and_so_is_what_is_said_of_a_wrong_one() {
    let text = release().write().unwrap();
    let padded = |bytes: usize| text.clone() + &" ".repeat(bytes - text.len());
    assert!(Release::read(padded(MAX_BYTES).as_bytes()).is_ok());
    assert!(Release::read(padded(MAX_BYTES + 1).as_bytes()).is_err());
    let mut long = value();
    long["x".repeat(7000)] = json!(1);
    assert!(read(&long).unwrap_err().to_string().len() < 400);
    let custom = HashMap::from([("lucid".to_owned(), long)]);
    let error = Release::of_target(&format!("{}.index", "x".repeat(100_000)), &custom).unwrap_err();
    assert!(error.to_string().len() < 400);
}

#[test]
fn a_description_says_what_its_targets_are_called_and_is_found_there_alone() {
    let release = release();
    assert_eq!(release.index_name(), "lucid-qemu-arm64-0.2.0.index");
    assert_eq!(release.archive_name(), "lucid-qemu-arm64-0.2.0.chunks");
    let custom = release.to_custom().unwrap();
    assert_eq!(Release::of_target(&release.index_name(), &custom).unwrap().as_ref(), Some(&release));
    assert_eq!(Release::of_target(&release.archive_name(), &custom).unwrap(), None);
    assert_eq!(Release::of_target("anything", &HashMap::new()).unwrap(), None);
    for name in
        ["lucid-qemu-arm64-0.2.1.index", "lucid-qemu-arm6-0.2.0.index", "Lucid-qemu-arm64-0.2.0.index"]
    {
        assert!(Release::of_target(name, &custom).is_err(), "{name}");
    }
    let mut more = custom.clone();
    more.insert("more".to_owned(), json!(1));
    for custom in [HashMap::new(), HashMap::from([("other".to_owned(), value())]), more] {
        assert!(Release::of_target(&release.index_name(), &custom).is_err(), "{custom:?}");
    }
}
