//! An update from its beginning to its end, with the power cut at every single write: whatever is lost, what is kept is true,
//! and the firmware always has a whole system to start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use lucid_release_format::{Index, Kind, Release, Version, build};
use lucid_updated::{
    Error, autoboot,
    boot::Slot,
    disk::Disk as _,
    service::{After, Parts, SPARE, Service, Settings},
    source::Source,
    state::{Ending, Event, Kept, Phase, State, next},
    trust::Trust,
};
use support::{
    machine::{Known, Lines, Power, Random, SimMachine, SimStore},
    repository::{Site, release},
    system,
};

const OLD: Version = Version::new(0, 1, 0);
const NEW: Version = Version::new(0, 2, 0);
const ARCHIVE: &str = "a.chunks";

/// Two releases of which much is the same, and a source for the new one.
struct World {
    old: [Vec<u8>; 2],
    new: [Vec<u8>; 2],
    index: Index,
    release: Release,
    site: Site,
    run: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let mut random = Random(17);
        let old = [random.bytes(48 << 10), random.bytes(160 << 10)];
        let mut new = old.clone();
        new[0][1000..2000].fill(9);
        new[1].extend(random.bytes(64 << 10));
        let mut archive = Vec::new();
        let parts = [(Kind::Boot, &new[0][..]), (Kind::Root, &new[1][..])];
        let index = build::release(parts, &mut archive, 1).unwrap();
        let site = Site::default();
        site.put(&format!("targets/{ARCHIVE}"), archive);
        let release = Release { min_version: "0.1.5".parse().unwrap(), ..release("0.2.0") };
        Self { old, new, index, release, site, run: tempfile::tempdir().unwrap() }
    }

    fn machine(&self, left: u64, seed: u64, lasting: bool) -> SimMachine {
        let full = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.resize(256 << 10, 0);
            bytes
        };
        // The slot that does not run holds whatever was there before.
        let mut junk = Random(23);
        let slots = [
            (Slot::A, Kind::Boot, full(&self.old[0])),
            (Slot::A, Kind::Root, full(&self.old[1])),
            (Slot::B, Kind::Boot, full(&junk.bytes(100 << 10))),
            (Slot::B, Kind::Root, full(&junk.bytes(200 << 10))),
        ];
        SimMachine::new(Power::new(left, seed), slots, lasting)
    }

    /// What a slot holds, if it is a whole system.
    fn version(&self, machine: &SimMachine, slot: Slot) -> Option<Version> {
        let held = machine.slot(slot);
        // The parts, and zeros behind them.
        let is = |parts: &[Vec<u8>; 2]| {
            let mut both = held.iter().zip(parts);
            both.all(|(held, part)| {
                held.starts_with(part) && held[part.len()..].iter().all(|byte| *byte == 0)
            })
        };
        if is(&self.new) { Some(NEW) } else { is(&self.old).then_some(OLD) }
    }

    fn service(&self, machine: &SimMachine, running: Version, well: bool) -> Result<Service, Error> {
        let answer = if well { Ok(()) } else { Err("it is not well".to_owned()) };
        Service::open(Parts {
            store: Arc::new(machine.store.clone()),
            boot: Arc::new(machine.clone()),
            slots: Arc::new(machine.clone()),
            trust: Trust { root: Vec::new(), scratch: Path::new("/nowhere").to_owned(), built: 0 },
            sources: Vec::new(),
            checks: vec![Box::new(Known(answer))],
            journal: Arc::new(Lines),
            settings: Settings {
                system: system(&running.to_string()),
                channel: "stable".into(),
                within: Duration::ZERO,
                every: Duration::from_secs(60),
                automatic: true,
                window: None,
                sessions: None,
                rdp: None,
                metered: false,
                run: self.run.path().to_owned(),
            },
        })
    }

    /// One life of the service: it ends when there is nothing more to do, with a restart, or with the power.
    async fn life(&self, machine: &SimMachine, well: bool) -> Result<After, Error> {
        let running = self.version(machine, machine.running().slot).unwrap_or_else(|| {
            panic!("the firmware has started {:?}, which is no whole system", machine.running());
        });
        let mut service = self.service(machine, running, well)?;
        if service.start().await? == After::Restart {
            return Ok(After::Restart);
        }
        if running == NEW || service.state().refused.contains(&NEW) {
            return Ok(After::On);
        }
        if !matches!(service.state().phase, Phase::Staged { .. }) {
            let source: &dyn Source = &self.site;
            service.write(&self.release, &self.index, ARCHIVE, None, source).await?;
        }
        service.try_staged().await
    }

    /// All lives until there is nothing more to do. Gives the state and what boots.
    async fn whole(&self, machine: &mut SimMachine, well: bool) -> (State, Version) {
        for _ in 0..10 {
            let lived = self.life(machine, well).await;
            let off = machine.power.lock().unwrap().off;
            match lived {
                Ok(After::On) if !off => {
                    let Kept::State(state) = State::load(&machine.store).unwrap() else { panic!("no state") };
                    let default = autoboot::read(&machine.select).unwrap();
                    return (*state, self.version(machine, default).unwrap());
                }
                Ok(_) => {}
                Err(error) => assert!(off, "{error}"),
            }
            machine.start();
            // Whatever happens next, the slot that boots holds a whole system.
            let default = autoboot::read(&machine.select).unwrap();
            assert!(self.version(machine, default).is_some());
        }
        panic!("it has no end");
    }
}

/// What is kept says what is so.
fn check(state: &State, boots: Version, about: &str) {
    assert_eq!(state.phase, Phase::Idle {}, "{about}");
    let last = state.last().unwrap_or_else(|| panic!("nothing is said: {about}"));
    assert_eq!(last.version, NEW, "{about}");
    match last.ending {
        Ending::Installed => {
            assert_eq!((boots, state.floor), (NEW, "0.1.5".parse().unwrap()), "{about}");
            assert!(state.refused.is_empty(), "{about}");
        }
        Ending::Failed => {
            assert_eq!((boots, state.floor), (OLD, OLD), "{about}");
            assert_eq!(state.refused, [NEW], "{about}");
        }
        Ending::Dropped | Ending::Lost => panic!("{}: {about}", last.reason),
    }
}

#[tokio::test]
async fn an_update_without_a_cut_is_installed_and_one_that_is_not_well_is_left() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    let (state, boots) = world.whole(&mut machine, true).await;
    assert_eq!(state.last().unwrap().ending, Ending::Installed);
    check(&state, boots, "well");
    let mut machine = world.machine(u64::MAX, 1, false);
    let (state, boots) = world.whole(&mut machine, false).await;
    assert_eq!(state.last().unwrap().reason, "what is known: it is not well");
    check(&state, boots, "not well");
}

#[tokio::test]
async fn with_the_power_cut_at_every_write_what_is_kept_is_true_and_something_boots() {
    let world = World::new();
    for (well, lasting) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut machine = world.machine(u64::MAX, 1, lasting);
        world.whole(&mut machine, well).await;
        let writes = machine.power.lock().unwrap().writes;
        assert!(writes > 20, "{writes}");
        for left in 0..writes {
            for seed in 1..4 {
                let about =
                    format!("cut at write {left} of {writes}, seed {seed}, well {well}, lasting {lasting}");
                let mut machine = world.machine(left, seed, lasting);
                let (state, boots) = world.whole(&mut machine, well).await;
                check(&state, boots, &about);
                // Wherever it is cut once: what is well is installed, and what is not has its reason.
                let last = state.last().unwrap();
                let (ending, reason) = if well {
                    (Ending::Installed, "it was tried and is well")
                } else {
                    (Ending::Failed, "what is known: it is not well")
                };
                assert_eq!((last.ending, last.reason.as_str()), (ending, reason), "{about}");
                assert_eq!(state.history.len(), 1, "{about}");
            }
        }
    }
}

#[tokio::test]
async fn a_system_from_which_the_power_is_cut_each_time_is_refused_after_three_tries() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    for tries in 1..=3 {
        assert_eq!(world.life(&machine, true).await.unwrap(), After::Restart, "{tries}");
        machine.start();
        assert_eq!(machine.running().slot, Slot::B, "{tries}");
        // The new system runs, and the power is cut before it has said anything.
        machine.power.lock().unwrap().off = true;
        machine.start();
        assert_eq!(machine.running().slot, Slot::A, "{tries}");
    }
    let (state, boots) = world.whole(&mut machine, true).await;
    check(&state, boots, "three tries");
    let reason = &state.last().unwrap().reason;
    assert_eq!(reason, "it was to be tried 3 times, and no try said how it went");
}

#[tokio::test]
async fn a_try_that_never_starts_is_not_said_to_have_started() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    machine.dead = Some(Slot::B);
    let (state, boots) = world.whole(&mut machine, true).await;
    check(&state, boots, "dead");
    let reason = &state.last().unwrap().reason;
    assert_eq!(reason, "it was to be tried 3 times, and no try said how it went");
}

#[tokio::test]
async fn where_the_slot_that_was_to_boot_does_not_start_the_other_one_boots_and_takes_updates() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    world.whole(&mut machine, true).await;
    machine.dead = Some(Slot::B);
    machine.start();
    assert_eq!((machine.running().slot, machine.running().tried), (Slot::A, false));
    let mut service = world.service(&machine, OLD, true).unwrap();
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(autoboot::read(&machine.select).unwrap(), Slot::A);
    assert_eq!(autoboot::slot(&machine.store.get(SPARE).unwrap()).unwrap(), Slot::A);
    let last = service.state().last().unwrap().clone();
    assert_eq!((last.version, last.slot, last.ending), (NEW, Slot::B, Ending::Failed));
    assert_eq!(last.reason, "slot b, which was to boot, does not start; slot a boots from now on");
    assert!(service.status().unwrap().troubles.iter().any(|why| why.contains("does not start")));
    // It is said once, and what was there can be written again.
    assert_eq!(service.start().await.unwrap(), After::On);
    assert_eq!(service.state().history.len(), 2);
    service.write(&world.release, &world.index, ARCHIVE, None, &world.site).await.unwrap();
    assert!(matches!(service.state().phase, Phase::Staged { slot: Slot::B, .. }));
}

#[tokio::test]
async fn a_service_that_begins_again_before_the_restart_into_what_was_committed_takes_nothing_back() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    world.life(&machine, true).await.unwrap();
    machine.start();
    // It passed, and the power is cut before that is committed: the old system does it.
    let Kept::State(state) = State::load(&machine.store).unwrap() else { panic!("no state") };
    next(&state, Event::Passed).unwrap().save(&machine.store).unwrap();
    machine.start();
    assert_eq!(machine.running().slot, Slot::A);
    for again in 0..3 {
        let mut service = world.service(&machine, OLD, true).unwrap();
        assert_eq!(service.start().await.unwrap(), After::Restart, "{again}");
        assert_eq!(service.state().phase, Phase::Idle {}, "{again}");
        assert_eq!(autoboot::read(&machine.select).unwrap(), Slot::B, "{again}");
    }
    machine.start();
    let (state, boots) = world.whole(&mut machine, true).await;
    check(&state, boots, "begun again");
    assert_eq!(state.history.len(), 1);
}

#[tokio::test]
async fn a_damaged_autoboot_does_not_make_a_slot_one_that_does_not_start() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    world.whole(&mut machine, true).await;
    let at = autoboot::find(&machine.select).unwrap();
    machine.select.write_at(at, &[0xff; autoboot::SIZE]).unwrap();
    machine.start();
    // The firmware took the first slot; the spare copy names the other one.
    assert_eq!(machine.running().slot, Slot::A);
    for again in 0..2 {
        let mut service = world.service(&machine, OLD, true).unwrap();
        assert_eq!(service.start().await.unwrap(), After::On, "{again}");
        assert_eq!(autoboot::read(&machine.select).unwrap(), Slot::B, "{again}");
    }
}

#[tokio::test]
async fn a_tried_system_that_boots_already_has_passed_and_is_not_gated_again() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    world.life(&machine, true).await.unwrap();
    machine.start();
    // It was committed, and only autoboot.txt says so: the rest went to memory.
    autoboot::write(&machine.select, Slot::B).unwrap();
    machine.start();
    assert_eq!((machine.running().slot, machine.running().tried), (Slot::B, false));
    let mut service = world.service(&machine, NEW, false).unwrap();
    assert_eq!(service.start().await.unwrap(), After::On);
    let last = service.state().last().unwrap();
    assert_eq!((last.version, last.ending), (NEW, Ending::Installed));
    assert_eq!(service.state().phase, Phase::Idle {});
}

#[tokio::test]
async fn a_machine_that_keeps_nothing_is_not_restarted_again_and_again() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    machine.kept = false;
    for _ in 0..3 {
        machine.start();
        // What was in memory is gone.
        machine.store = SimStore::new(&machine.power);
        assert_eq!((machine.running().slot, machine.running().tried), (Slot::A, false));
        let error = world.life(&machine, true).await.unwrap_err();
        assert!(error.to_string().contains("in memory"), "{error}");
        assert_ne!(world.version(&machine, Slot::B), Some(NEW));
    }
}

#[tokio::test]
async fn what_was_staged_is_not_tried_where_what_is_kept_is_in_memory() {
    let world = World::new();
    let mut machine = world.machine(u64::MAX, 1, false);
    let mut service = world.service(&machine, OLD, true).unwrap();
    service.write(&world.release, &world.index, ARCHIVE, None, &world.site).await.unwrap();
    machine.kept = false;
    machine.start();
    let mut service = world.service(&machine, OLD, true).unwrap();
    assert_eq!(service.start().await.unwrap(), After::On);
    let error = service.try_staged().await.unwrap_err();
    assert!(matches!(&error, Error::Nothing(why) if why.contains("in memory")), "{error}");
    assert!(matches!(service.state().phase, Phase::Staged { tries: 0, .. }));
}

#[tokio::test]
async fn what_passed_is_said_to_be_installed_only_when_it_is_what_boots() {
    let world = World::new();
    let mut between = 0;
    // Each write of the try, one after the other, is the one with which the power goes.
    for left in 0..40 {
        let mut machine = world.machine(u64::MAX, 1, false);
        world.life(&machine, true).await.unwrap();
        machine.start();
        machine.power.lock().unwrap().left = left;
        let lived = world.life(&machine, true).await;
        let cut = machine.power.lock().unwrap().off;
        let Kept::State(state) = State::load(&machine.store).unwrap() else { panic!("no state") };
        let boots = autoboot::read(&machine.select).unwrap();
        assert_eq!(state.last().is_some(), matches!(state.phase, Phase::Idle {}), "{left}");
        assert!(state.last().is_none() || boots == Slot::B, "{left}");
        between += u64::from(matches!(state.phase, Phase::Good { .. }));
        if !cut {
            assert_eq!(lived.unwrap(), After::On);
            assert!(between > 0, "no cut was between");
            return;
        }
    }
    panic!("it has no end");
}

#[tokio::test]
async fn a_sector_that_is_torn_anywhere_is_mended_from_its_spare_or_by_what_runs() {
    let world = World::new();
    let (old, new) = (autoboot::text(Slot::A), autoboot::text(Slot::B));
    let (mut torn, mut foreign) = (0, 0);
    let mut machine = world.machine(u64::MAX, 1, false);
    let at = autoboot::find(&machine.select).unwrap();
    for cut in 0..=autoboot::SIZE {
        for rest in [&old[cut..], &[0xff; autoboot::SIZE][cut..]] {
            for spare in [true, false] {
                machine.select.write_at(at, &old).unwrap();
                machine.start();
                let mut service = world.service(&machine, OLD, true).unwrap();
                assert_eq!(service.start().await.unwrap(), After::On);
                assert_eq!(machine.store.get(SPARE).unwrap(), old);
                if !spare {
                    machine.store.remove(SPARE);
                }
                let sector = [&new[..cut], rest].concat();
                let good = autoboot::slot(&sector).ok();
                foreign += u64::from(good.is_none() && rest.starts_with(&[0xff]));
                torn += u64::from(good.is_none() && !rest.starts_with(&[0xff]));
                machine.select.write_at(at, &sector).unwrap();
                machine.start();
                let mut service = world.service(&machine, OLD, true).unwrap();
                assert_eq!(service.start().await.unwrap(), After::On, "{cut}");
                let (wanted, kept) = (good.unwrap_or(Slot::A), machine.store.get(SPARE).unwrap());
                assert_eq!(autoboot::read(&machine.select).unwrap(), wanted, "{cut} {spare}");
                assert_eq!(autoboot::slot(&kept).unwrap(), wanted, "{cut} {spare}");
                let troubles = service.status().unwrap().troubles;
                assert!(troubles.iter().all(|why| !why.contains("autoboot")), "{cut} {troubles:?}");
            }
        }
    }
    assert!(torn > 0 && foreign > 800, "{torn} {foreign}");
}

#[tokio::test]
async fn a_sector_that_is_torn_while_it_is_committed_costs_nothing() {
    let world = World::new();
    let (old, new) = (autoboot::text(Slot::A), autoboot::text(Slot::B));
    // What differs is within its first bytes.
    assert_eq!(old[80..], new[80..]);
    for cut in 0..80 {
        let mut machine = world.machine(u64::MAX, 1, false);
        world.life(&machine, true).await.unwrap();
        machine.start();
        // It passed, and the power is cut within the sector that is to say so.
        let Kept::State(state) = State::load(&machine.store).unwrap() else { panic!("no state") };
        next(&state, Event::Passed).unwrap().save(&machine.store).unwrap();
        let at = autoboot::find(&machine.select).unwrap();
        machine.select.write_at(at, &[&new[..cut], &old[cut..]].concat()).unwrap();
        machine.start();
        let (state, boots) = world.whole(&mut machine, true).await;
        check(&state, boots, &format!("torn at {cut}"));
        assert_eq!(state.last().unwrap().ending, Ending::Installed, "torn at {cut}");
    }
}
