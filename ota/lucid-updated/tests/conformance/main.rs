//! The cases of The Update Framework's `tuf-conformance`, against the device's own client. `README.md` here has the table of
//! cases.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod basic;
mod delegations;
mod download;
mod expiration;
mod keys;
mod rollback;
mod rotations;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;
use support::repository::{Signer, number};
use tough::schema::{RoleKeys, RoleType, Root};

/// Gives a role of a root these keys, with repetitions.
fn give(root: &mut Root, role: RoleType, keys: &[Arc<Signer>], threshold: u64) {
    for signer in keys {
        root.keys.insert(signer.id(), signer.key());
    }
    let keyids = keys.iter().map(|signer| signer.id()).collect();
    root.roles.insert(role, RoleKeys { keyids, threshold: number(threshold), _extra: HashMap::new() });
}

/// A file with something changed in its JSON.
fn edited(bytes: &[u8], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::from_slice(bytes).unwrap();
    edit(&mut value);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn the_table_names_a_test_that_exists_or_a_reason_for_every_case() {
    let sources = [
        include_str!("basic.rs"),
        include_str!("delegations.rs"),
        include_str!("download.rs"),
        include_str!("expiration.rs"),
        include_str!("keys.rs"),
        include_str!("rollback.rs"),
        include_str!("rotations.rs"),
    ]
    .concat();
    let rows = include_str!("README.md").lines().filter(|line| line.starts_with("| `test_"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let (tests, reason) = (cells[2], cells[3]);
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {name}(")), "{name} in: {row}");
        }
        assert!(!tests.is_empty() || !reason.is_empty(), "{row}");
        count += 1;
    }
    assert_eq!(count, 53);
}
