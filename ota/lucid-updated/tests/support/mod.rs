//! What several tests need: signed metadata, a source in memory, a device that asks it, and a machine whose power can be cut at
//! any write.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod machine;
pub mod repository;
pub mod world;

/// A system of the kind that the tests have.
pub fn system(version: &str) -> lucid_release_format::System {
    let (machine, version) = ("qemu-arm64".parse().unwrap(), version.parse().unwrap());
    lucid_release_format::System { machine, version, built: 0, data: 1 }
}

/// Holds what was made to the file of that name, and gives the file. `UPDATE_GOLDEN=1` writes it anew, for a new version.
pub fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(&kept), String::from_utf8_lossy(made), "{}", path.display());
    kept
}
