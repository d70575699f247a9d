//! What follows from what: every event in every phase.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use lucid_release_format::{Release, Version};
use lucid_updated::{
    boot::{Booted, Slot},
    state::{Ending, Event, Kept, Phase, State, Step, first, next},
};
use support::{machine::Power, machine::SimStore, repository::release};

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
        Phase::Staged { release: release.clone(), slot },
        Phase::Trying { release: release.clone(), slot, boot_id: "one".into() },
        Phase::Good { release, slot },
    ]
}

fn events() -> [Event; 8] {
    [
        Event::Begin { release: release("0.3.0"), slot: Slot::B },
        Event::Written,
        Event::Dropped { reason: "it was withdrawn".into(), at: 7 },
        Event::Armed { boot_id: "one".into() },
        Event::Passed { at: 8 },
        Event::Failed { reason: "the RDP host answers: no".into(), at: 9 },
        Event::Committed,
        Event::Allowed { version: "0.2.0".parse().unwrap() },
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
        ["staging", "", "", "", "", "", "", "idle"],
        ["staging", "staged", "idle", "", "", "", "", "staging"],
        ["staging", "", "idle", "trying", "", "", "", "staged"],
        ["", "", "", "", "good", "idle", "", ""],
        ["", "", "", "", "", "", "idle", ""],
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
fn a_system_that_passed_raises_the_floor_and_one_that_failed_is_not_tried_again() {
    let [.., trying, _] = phases();
    let mut before = state(trying);
    let version: Version = "0.2.0".parse().unwrap();
    before.refused = vec![version];
    let passed = next(&before, Event::Passed { at: 8 }).unwrap();
    assert_eq!(passed.floor, "0.1.5".parse().unwrap());
    assert!(passed.refused.is_empty());
    let last = passed.last.unwrap();
    assert_eq!((last.version, last.ending, last.at), (version, Ending::Installed, 8));
    let failed = next(&before, Event::Failed { reason: "why".into(), at: 9 }).unwrap();
    assert_eq!((failed.floor, &failed.refused[..]), (RUNNING, &[version][..]));
    assert_eq!(failed.last.as_ref().unwrap().reason, "why");
    let allowed = next(&failed, Event::Allowed { version }).unwrap();
    assert!(allowed.refused.is_empty());
    // A floor never sinks.
    before.floor = "0.1.9".parse().unwrap();
    assert_eq!(next(&before, Event::Passed { at: 8 }).unwrap().floor, before.floor);
}

#[test]
fn what_is_refused_and_why_is_bounded() {
    let mut now = state(Phase::Idle {});
    for patch in 0..100 {
        let version = Version::new(1, 0, patch);
        let release = Release { version, ..offered() };
        now.phase = Phase::Trying { release, slot: Slot::B, boot_id: "one".into() };
        now = next(&now, Event::Failed { reason: "ä".repeat(10_000), at: 1 }).unwrap();
    }
    assert_eq!(now.refused.len(), 32);
    assert_eq!(*now.refused.last().unwrap(), Version::new(1, 0, 99));
    assert!(now.last.unwrap().reason.len() <= 1000);
}

#[test]
fn a_start_knows_what_to_do_first() {
    let [idle, staging, staged, trying, good] = phases();
    let on = |slot, tried| Booted { slot, tried };
    let running = RUNNING;
    for (phase, booted, boot_id, step) in [
        (&idle, on(Slot::A, false), "one", Step::Nothing),
        (&idle, on(Slot::B, true), "one", Step::Nothing),
        (&staging, on(Slot::A, false), "two", Step::Stage),
        (&staging, on(Slot::B, true), "two", Step::Drop),
        (&staged, on(Slot::A, false), "two", Step::Try),
        (&staged, on(Slot::B, false), "two", Step::Drop),
        (&trying, on(Slot::A, false), "one", Step::Arm),
        (&trying, on(Slot::A, false), "two", Step::FellBack),
        (&trying, on(Slot::B, true), "two", Step::Gate),
        (&trying, on(Slot::B, false), "two", Step::Gate),
        (&good, on(Slot::B, true), "two", Step::Commit),
        (&good, on(Slot::A, false), "three", Step::Commit),
    ] {
        assert_eq!(
            first(&state(phase.clone()), booted, boot_id, running),
            step,
            "{phase:?} {booted:?} {boot_id}"
        );
    }
    // A try that did not pass, and has not been left yet.
    let failed = next(&state(trying), Event::Failed { reason: "why".into(), at: 9 }).unwrap();
    let tried: Version = "0.2.0".parse().unwrap();
    assert_eq!(first(&failed, on(Slot::B, true), "two", tried), Step::Leave);
    assert_eq!(first(&failed, on(Slot::A, false), "three", running), Step::Nothing);
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
        for end in 0..bytes.len() - 1 {
            assert!(State::from_bytes(&bytes[..end]).is_err(), "up to byte {end}");
        }
    }
}

#[test]
fn the_file_has_the_golden_text() {
    let [_, staging, ..] = phases();
    let text = String::from_utf8(state(staging).to_bytes().unwrap()).unwrap();
    let golden = concat!(
        r#"{"version":1,"phase":{"is":"staging","release":{"channel":"stable","format":1,"machine":"qemu-arm64","#,
        r#""min_from":"0.0.0","min_version":"0.1.5","paused":false,"released":1700000000,"version":"0.2.0","#,
        r#""waves":[{"after":0,"share":1000}]},"slot":"b"},"floor":"0.1.0","#,
        r#""seed":"0707070707070707070707070707070707070707070707070707070707070707","last":null,"refused":[]}"#,
        "\n"
    );
    assert_eq!(text, golden);
}
