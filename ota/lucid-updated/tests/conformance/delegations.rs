//! `test_updater_delegation_graphs.py` and `test_quoting_issues.py`: a list that delegates is refused, whatever it delegates and
//! to whom, before anything of it is asked for.

use std::collections::HashMap;

use lucid_updated::trust::Refused;
use tough::{
    TargetName,
    schema::{DelegatedRole, Delegations, PathHashPrefix, PathPattern, PathSet, Snapshot, Targets},
};

use crate::support::{
    repository::{days, meta, number, sign, signer},
    world::World,
};

/// What is delegated.
struct Case {
    name: &'static str,
    paths: PathSet,
    terminating: bool,
    /// Whether the snapshot lists it.
    listed: bool,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let paths = PathSet::Paths(vec![PathPattern::new("*").unwrap()]);
        Self { name, paths, terminating: false, listed: true }
    }

    async fn must_be_refused(self) {
        let Self { name, paths, terminating, listed } = self;
        let mut world = World::new();
        let other = signer(71);
        // It is there, it is signed by whom it is delegated to, and it lists what the device would take.
        let mut role = Targets::new("1.0.0".to_owned(), number(1), days(30));
        role.delegations = None;
        let release = "lucid-qemu-arm64-0.10.0.index";
        role.targets.insert(TargetName::new(release).unwrap(), world.maker.targets[release].clone());
        let delegated = sign(role, std::slice::from_ref(&other));
        world.site.put(&format!("metadata/1.{name}.json"), delegated.clone());
        let mut role = Targets::new("1.0.0".to_owned(), number(2), days(30));
        let (keyids, threshold) = (vec![other.id()], number(1));
        let to =
            DelegatedRole { name: name.to_owned(), keyids, threshold, paths, terminating, targets: None };
        let keys = HashMap::from([(other.id(), other.key())]);
        role.delegations = Some(Delegations { keys, roles: vec![to] });
        let targets = sign(role, &world.maker.keys.targets[..2]);
        world.maker.advance();
        let mut role = Snapshot::new("1.0.0".to_owned(), number(2), days(30));
        if listed {
            role.meta.insert(format!("{name}.json"), meta(&delegated, 1));
        }
        role.meta.insert("targets.json".to_owned(), meta(&targets, 2));
        let snapshot = sign(role, &[world.maker.keys.snapshot.clone()]);
        world.site.put("metadata/2.targets.json", targets);
        world.site.put("metadata/timestamp.json", world.maker.timestamp_file(&snapshot));
        world.site.put("metadata/2.snapshot.json", snapshot);
        let why = "it delegates to others, which is not done here".to_owned();
        assert_eq!(world.refused().await, Refused::Malformed { role: "list of targets", why }, "{name:?}");
        let asked = ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"];
        assert_eq!(world.site.log(), asked.map(|name| format!("metadata/{name}")), "{name:?}");
    }
}

#[tokio::test]
async fn unusual_role_names() {
    for name in ["?", "#", "/delegatedrole", "../delegatedrole", "", "ä", "a b"] {
        Case::new(name).must_be_refused().await;
    }
    // Those of files that are asked for by themselves.
    for name in ["root", "timestamp", "snapshot"] {
        Case::new(name).must_be_refused().await;
    }
}

#[tokio::test]
async fn lists_that_delegate_are_refused() {
    Case::new("A").must_be_refused().await;
    Case { terminating: true, ..Case::new("A") }.must_be_refused().await;
    for pattern in ["*.py", "releases/*/*", "foo-?.tgz"] {
        let paths = PathSet::Paths(vec![PathPattern::new(pattern).unwrap()]);
        Case { paths, ..Case::new("A") }.must_be_refused().await;
    }
    let paths = PathSet::PathHashPrefixes(vec![PathHashPrefix::new("0").unwrap()]);
    Case { paths, ..Case::new("bin-0") }.must_be_refused().await;
}

#[tokio::test]
async fn delegation_that_is_not_in_the_snapshot() {
    Case { listed: false, ..Case::new("delegated") }.must_be_refused().await;
}
