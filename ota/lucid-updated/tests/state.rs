//! What follows from what: every event in every phase.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use lucid_release_format::{Release, Version};
use lucid_updated::{
    boot::{Booted, Slot},
    files::seal,
    held::{Content, Held, Holdings},
    schedule::Schedule,
    state::{Ending, Event, FILE, Kept, MAX_HISTORY, MAX_TRIES, Phase, State, Step, first, next},
};
use support::{golden, machine::Power, machine::SimStore, repository::release};

const RUNNING: Version = Version::new(0, 1, 0);

fn offered() -> Release {
    let min_version = "0.1.5".parse().unwrap();
    Release { min_version, ..release("0.2.0") }
}

fn phases() -> [Phase; 5] {
    let (release, slot) = (offered(), Slot::B);
    [
        Phase::Idle {},
        Phase::Staging { release: release.clone(), slot },
        Phase::Staged { release: release.clone(), slot, tries: 0 },
        Phase::Trying { release: release.clone(), slot, boot_id: "one".into(), tries: 1 },
        Phase::Good { release, slot },
    ]
}

/// 0.2.0 runs, and somebody wants 0.0.9 in slot A.
fn back() -> Event {
    let left = "0.2.0".parse().unwrap();
    Event::Back { release: release("0.0.9"), slot: Slot::A, left, boot_id: "one".into() }
}

fn events() -> [Event; 14] {
    [
        Event::Begin { release: release("0.3.0"), slot: Slot::B },
        Event::Written,
        Event::Dropped { reason: "it was withdrawn".into(), at: 7 },
        Event::Armed { boot_id: "one".into() },
        Event::NotArmed,
        Event::Passed,
        Event::Failed { reason: "the RDP host answers: no".into(), at: 9 },
        Event::FellBack { at: 10 },
        Event::Committed { at: 11 },
        Event::Allowed { version: "0.2.0".parse().unwrap() },
        Event::NotStarting { version: RUNNING, slot: Slot::B, reason: "slot b".into(), at: 12 },
        back(),
        Event::WentBack { at: 14 },
        Event::From { source: "the USB stick sda1".into() },
    ]
}

fn state(phase: Phase) -> State {
    let mut state = State::new([7; 32], RUNNING);
    state.phase = phase;
    state
}

#[test]
fn of_all_pairs_only_those_of_the_plan_are_possible() {
    // Rows: idle, staging, staged, trying, good. Columns: as above.
    let plan = [
        ["staging", "", "", "", "", "", "", "", "", "idle", "idle", "trying", "", ""],
        ["staging", "staged", "idle", "", "", "", "", "", "", "staging", "", "", "", "staging"],
        ["staging", "", "idle", "trying", "", "", "", "", "", "staged", "", "", "", ""],
        ["", "", "", "", "staged", "good", "idle", "staged", "", "", "", "", "", ""],
        ["", "", "", "", "", "", "", "", "idle", "", "", "", "idle", ""],
    ];
    for (phase, row) in phases().into_iter().zip(plan) {
        for (event, wanted) in events().into_iter().zip(row) {
            let about = format!("{} + {event:?}", phase.name());
            match next(&state(phase.clone()), event) {
                Ok(new) => assert_eq!(new.phase.name(), wanted, "{about}"),
                Err(error) => assert_eq!((wanted, error.phase), ("", phase.name()), "{about}"),
            }
        }
    }
}

#[test]
fn a_system_is_installed_when_it_is_the_one_that_boots_and_not_before() {
    let [.., trying, _] = phases();
    let mut before = state(trying);
    let version: Version = "0.2.0".parse().unwrap();
    before.refused = vec![version];
    let passed = next(&before, Event::Passed).unwrap();
    assert_eq!((&passed.history, &passed.refused, passed.floor), (&before.history, &before.refused, RUNNING));
    let committed = next(&passed, Event::Committed { at: 8 }).unwrap();
    assert_eq!(committed.floor, "0.1.5".parse().unwrap());
    assert!(committed.refused.is_empty());
    let last = committed.last().unwrap();
    assert_eq!((last.version, last.slot, last.ending, last.at), (version, Slot::B, Ending::Installed, 8));
    // A floor never sinks.
    let mut risen = passed;
    risen.floor = Version::new(0, 1, 9);
    assert_eq!(next(&risen, Event::Committed { at: 8 }).unwrap().floor, risen.floor);
}

#[test]
fn what_is_left_by_going_back_is_not_taken_again_and_what_runs_then_is() {
    let version: Version = "0.0.9".parse().unwrap();
    let mut before = state(Phase::Idle {});
    before.refused = vec![version];
    let trying = next(&before, back()).unwrap();
    assert_eq!(trying.refused, ["0.2.0".parse().unwrap()]);
    assert!(matches!(&trying.phase, Phase::Trying { slot: Slot::A, tries: 1, .. }), "{:?}", trying.phase);
    let went = next(&next(&trying, Event::Passed).unwrap(), Event::WentBack { at: 8 }).unwrap();
    assert_eq!((went.refused, went.floor), (trying.refused, RUNNING), "the floor stays");
    let last = went.history.last().unwrap();
    assert_eq!((last.version, last.slot, last.ending), (version, Slot::A, Ending::Installed));
    assert_eq!(last.reason, "it ran before, was gone back to, and is well");
    assert_eq!(last.source, None, "it comes from nowhere");
}

#[test]
fn from_where_it_came_is_known_from_the_first_byte_to_the_outcome_and_not_beyond() {
    let after = |state: &State, event| next(state, event).unwrap();
    let begin = || Event::Begin { release: release("0.3.0"), slot: Slot::B };
    let from = |source: &str| Event::From { source: source.into() };
    let begun = after(&state(Phase::Idle {}), begin());
    assert_eq!(begun.source, None);
    // What goes on from another source comes from that one.
    let begun = after(&after(&begun, from("the network")), from("the USB stick sda1"));
    assert_eq!(State::from_bytes(&begun.to_bytes().unwrap()).unwrap(), begun);
    let armed = after(&after(&begun, Event::Written), Event::Armed { boot_id: "one".into() });
    let ended = after(&after(&armed, Event::Passed), Event::Committed { at: 8 });
    assert_eq!(ended.last().unwrap().source.as_deref(), Some("the USB stick sda1"));
    assert_eq!(ended.source, None);
    assert_eq!(after(&begun, begin()).source, None);
    // A name is bounded.
    let long = after(&begun, from(&"é".repeat(1000)));
    assert!(long.source.unwrap().len() <= 300);
}

#[test]
fn a_reason_refuses_at_once() {
    let [.., trying, _] = phases();
    let version: Version = "0.2.0".parse().unwrap();
    let failed = next(&state(trying), Event::Failed { reason: "why".into(), at: 9 }).unwrap();
    assert_eq!((failed.floor, &failed.refused[..]), (RUNNING, &[version][..]));
    let last = failed.last().unwrap();
    assert_eq!((last.reason.as_str(), last.slot, last.ending), ("why", Slot::B, Ending::Failed));
    let allowed = next(&failed, Event::Allowed { version }).unwrap();
    assert!(allowed.refused.is_empty());
}

#[test]
fn a_fall_back_without_a_reason_is_tried_again_and_refused_after_the_last_try() {
    let [_, _, mut now, ..] = phases().map(state);
    for tries in 1..=MAX_TRIES {
        now = next(&now, Event::Armed { boot_id: "one".into() }).unwrap();
        assert!(matches!(now.phase, Phase::Trying { tries: found, .. } if found == tries), "{:?}", now.phase);
        assert!(now.refused.is_empty() && now.history.is_empty());
        now = next(&now, Event::FellBack { at: 5 }).unwrap();
    }
    assert_eq!((&now.phase, &now.refused[..]), (&Phase::Idle {}, &[Version::new(0, 2, 0)][..]));
    let last = now.last().unwrap();
    assert_eq!(last.ending, Ending::Failed);
    assert_eq!(last.reason, "it was to be tried 3 times, and no try said how it went");
}

#[test]
fn what_could_not_be_armed_was_no_try() {
    let [_, _, mut now, ..] = phases().map(state);
    for _ in 0..MAX_TRIES * 2 {
        now = next(&now, Event::Armed { boot_id: "one".into() }).unwrap();
        now = next(&now, Event::NotArmed).unwrap();
    }
    assert!(matches!(now.phase, Phase::Staged { tries: 0, .. }), "{:?}", now.phase);
}

#[test]
fn the_history_what_is_refused_and_why_are_bounded_and_can_be_read_again() {
    let mut now = state(Phase::Idle {});
    for patch in 0..100 {
        let version = Version::new(1, 0, patch);
        let release = Release { version, ..offered() };
        now.phase = Phase::Trying { release, slot: Slot::B, boot_id: "one".into(), tries: 1 };
        // What takes the most room as JSON.
        let reason = if patch % 2 == 0 { "ä" } else { "\u{1}" }.repeat(10_000);
        now = next(&now, Event::Failed { reason, at: 1 }).unwrap();
    }
    assert_eq!((now.refused.len(), now.history.len()), (32, MAX_HISTORY));
    assert_eq!(*now.refused.last().unwrap(), Version::new(1, 0, 99));
    assert_eq!(now.history[0].version, Version::new(1, 0, 68));
    assert!(now.history.iter().all(|outcome| outcome.reason.len() <= 1000));
    let bytes = now.to_bytes().unwrap();
    assert_eq!(State::from_bytes(&bytes).unwrap(), now);
    assert!(bytes.len() < 256 << 10, "{}", bytes.len());
}

#[test]
fn a_start_knows_what_to_do_first() {
    let [idle, staging, staged, trying, good] = phases();
    let on = |slot, tried| Booted { slot, tried, kept: true };
    for (phase, booted, default, boot_id, step) in [
        (&idle, on(Slot::A, false), Slot::A, "one", Step::Nothing),
        (&staging, on(Slot::A, false), Slot::A, "two", Step::Stage),
        (&staged, on(Slot::A, false), Slot::A, "two", Step::Try),
        (&staged, on(Slot::B, false), Slot::B, "two", Step::Drop),
        (&trying, on(Slot::A, false), Slot::A, "one", Step::Arm),
        (&trying, on(Slot::A, false), Slot::A, "two", Step::FellBack),
        (&trying, on(Slot::B, true), Slot::A, "two", Step::Gate),
        // The firmware went past slot a.
        (&trying, on(Slot::B, false), Slot::A, "two", Step::Gate),
        // It boots already.
        (&trying, on(Slot::B, false), Slot::B, "two", Step::Passed),
        (&trying, on(Slot::B, true), Slot::B, "two", Step::Passed),
        (&good, on(Slot::B, true), Slot::A, "two", Step::Commit),
        (&good, on(Slot::A, false), Slot::A, "three", Step::Commit),
        // The service began again in the boot in which it was committed.
        (&idle, on(Slot::B, true), Slot::B, "two", Step::Nothing),
        (&staging, on(Slot::B, true), Slot::B, "two", Step::Drop),
    ] {
        let found = first(&state(phase.clone()), booted, default, boot_id);
        assert_eq!(found, step, "{phase:?} {booted:?} {default:?} {boot_id}");
    }
}

#[test]
fn a_system_that_is_tried_and_of_which_nothing_is_known_is_left() {
    let booted = Booted { slot: Slot::B, tried: true, kept: true };
    let mut states: Vec<State> = phases()[..3].iter().cloned().map(state).collect();
    // One of the other slot; one that did not pass and was not left yet; one that was lost.
    states.push(state(Phase::Trying { release: offered(), slot: Slot::A, boot_id: "one".into(), tries: 1 }));
    states.push(state(Phase::Good { release: offered(), slot: Slot::A }));
    let [.., trying, _] = phases();
    states.push(next(&state(trying), Event::Failed { reason: "why".into(), at: 9 }).unwrap());
    states.push(State::lost([7; 32], RUNNING, Slot::B, "no", 7));
    for state in states {
        assert_eq!(first(&state, booted, Slot::A, "two"), Step::Leave, "{:?}", state.phase);
    }
}

#[test]
fn a_state_comes_back_as_it_was_kept() {
    let store = SimStore::new(&Power::new(u64::MAX, 1));
    assert_eq!(State::load(&store).unwrap(), Kept::Nothing);
    for phase in phases() {
        let mut kept = state(phase);
        kept.refused = vec![RUNNING];
        kept.save(&store).unwrap();
        assert_eq!(State::load(&store).unwrap(), Kept::State(Box::new(kept.clone())));
        assert_eq!(kept.seed(), [7; 32]);
        let bytes = kept.to_bytes().unwrap();
        for at in 0..bytes.len() {
            assert!(State::from_bytes(&bytes[..at]).is_err(), "up to byte {at}");
            // A digit of a version, or of the floor, too.
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(State::from_bytes(&flipped).is_err(), "byte {at}");
        }
    }
}

#[test]
fn the_golden_state_is_written_again_and_read() {
    let mut state = State::lost([7; 32], RUNNING, Slot::A, "no", 7);
    state.phase = Phase::Trying { release: offered(), slot: Slot::B, boot_id: "one".into(), tries: 2 };
    state.refused = vec!["0.1.9".parse().unwrap()];
    let kept = golden("update.json", &state.to_bytes().unwrap());
    assert_eq!(State::from_bytes(&kept).unwrap(), state);
}

/// A device that came with 0.1.0, and took 0.2.0.
fn holdings() -> Holdings {
    let content = |bytes, byte| Content::new(bytes, [byte; 32]);
    let held = |release, data| Held { release, boot: content(4096, 1), root: content(8192, 2), data };
    let holdings = Holdings::default().with(Slot::A, Some(held(release("0.1.0"), Some(1))));
    holdings.with(Slot::B, Some(held(offered(), None)))
}

#[test]
fn the_golden_slots_are_written_again_and_read() {
    let kept = golden("slots.json", &holdings().to_bytes().unwrap());
    assert_eq!(Holdings::from_bytes(&kept).unwrap(), holdings());
    for at in 0..kept.len() {
        let mut changed = kept.clone();
        changed[at] ^= 1;
        assert!(Holdings::from_bytes(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn the_golden_schedule_is_written_again_and_read() {
    let mut schedule = Schedule::default();
    schedule.window = Some("22:30-04:00".parse().unwrap());
    schedule.at = Some(1_796_000_000);
    schedule.paused_until = Some(1_795_000_000);
    let kept = golden("schedule.json", &schedule.to_bytes().unwrap());
    assert_eq!(Schedule::from_bytes(&kept).unwrap(), schedule);
}

#[test]
fn slots_and_schedules_of_a_later_version_or_without_a_hash_are_refused() {
    let changed = |bytes: Vec<u8>, from: &str, to: &str| {
        let text = String::from_utf8(bytes).unwrap();
        let line = text.lines().next().unwrap();
        assert!(line.contains(from), "{line}");
        seal(&line.replace(from, to))
    };
    let later = ("\"version\":1,", "\"version\":2,");
    let slots = changed(holdings().to_bytes().unwrap(), later.0, later.1);
    assert!(Holdings::from_bytes(&slots).unwrap_err().contains("version 2"));
    let short = changed(holdings().to_bytes().unwrap(), &"02".repeat(32), "02");
    assert!(Holdings::from_bytes(&short).unwrap_err().contains("32 bytes"));
    let schedule = changed(Schedule::default().to_bytes().unwrap(), later.0, later.1);
    assert!(Schedule::from_bytes(&schedule).unwrap_err().contains("version 2"));
}

#[test]
fn only_a_slot_whose_system_booted_by_itself_ran() {
    let holdings = holdings();
    assert!(holdings.ran(Slot::A, &release("0.1.0")));
    assert!(!holdings.ran(Slot::A, &offered()) && !holdings.ran(Slot::B, &offered()));
    assert!(!Holdings::default().ran(Slot::A, &release("0.1.0")));
}

#[test]
fn what_a_tried_system_has_read_it_writes_in_the_same_version() {
    let version = |bytes: &[u8]| {
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap();
        serde_json::from_slice::<serde_json::Value>(line).unwrap()["version"].as_u64().unwrap()
    };
    // Of a try, as every released version of the file has to be kept here.
    let kept = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/update.json")).unwrap();
    assert_eq!(version(&kept), 1);
    let state = State::from_bytes(&kept).unwrap();
    assert!(matches!(state.phase, Phase::Trying { .. }));
    for event in [Event::Passed, Event::Failed { reason: "why".into(), at: 9 }] {
        let store = SimStore::new(&Power::new(u64::MAX, 1));
        next(&state, event.clone()).unwrap().save(&store).unwrap();
        assert_eq!(version(&store.get(FILE).unwrap()), version(&kept), "{event:?}");
    }
}
