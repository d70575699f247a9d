//! What units of the image must say so that a try ends, and harms nothing of what is kept.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{fs, path::PathBuf};

fn units() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../image/system/usr/lib/systemd/system")
}

/// Whether a line of this key has this word, among others or alone.
fn says(unit: &str, key: &str, word: &str) -> bool {
    let text = fs::read_to_string(units().join(unit)).unwrap();
    let values = text.lines().filter_map(|line| line.split_once('=').filter(|(name, _)| *name == key));
    values.flat_map(|(_, value)| value.split(' ')).any(|value| value == word)
}

#[test]
fn a_try_that_hangs_before_the_basic_system_ends() {
    for unit in ["lucid-try.timer", "lucid-try.service"] {
        assert!(says(unit, "DefaultDependencies", "no"), "{unit}");
        assert!(
            says(unit, "Conflicts", "shutdown.target") && says(unit, "Before", "shutdown.target"),
            "{unit}"
        );
        assert!(
            !says(unit, "After", "sysinit.target") && !says(unit, "Requires", "sysinit.target"),
            "{unit}"
        );
    }
    assert!(units().join("timers.target.wants/lucid-try.timer").exists());
}

#[test]
fn in_a_try_no_service_uses_what_was_not_brought_into_its_form() {
    for unit in
        ["lucid-provision.service", "lucid-sessiond.service", "lucid-rdp.service", "lucid-announce.service"]
    {
        assert!(says(unit, "After", "lucid-migrate.service"), "{unit}");
        assert!(says(unit, "ConditionPathExists", "!/run/lucid-migrate/unread"), "{unit}");
        // An untried system stays reachable whatever becomes of lucid-migrate.
        assert!(!says(unit, "Requires", "lucid-migrate.service"), "{unit}");
    }
    // Else the unit's end would take the mark away.
    assert!(says("lucid-migrate.service", "RuntimeDirectory", "lucid-migrate"));
    assert!(says("lucid-migrate.service", "RuntimeDirectoryPreserve", "yes"));
}

#[test]
fn the_copy_is_forgotten_when_the_boot_was_judged() {
    assert!(says("lucid-forget.path", "PathExists", "/run/lucid-updated/judged"));
    assert!(units().join("paths.target.wants/lucid-forget.path").exists());
    assert!(says("lucid-forget.service", "ExecStart", "--forget"));
    // Else the path, which stays, would start it again and again.
    assert!(says("lucid-forget.service", "RemainAfterExit", "yes"));
}
