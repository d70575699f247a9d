//! What the signed metadata around releases is held to by those who make it and by the devices that take it: one number, in one
//! place. Which signatures, keys and versions are good is said by The Update Framework (<https://theupdateframework.io>).

use std::collections::HashMap;

use serde_json::Value;

/// The version of the specification that all metadata names.
pub const SPECIFICATION: &str = "1.0.0";
/// The most bytes of a root. One with 5 + 3 + 1 + 1 keys and as many signatures has 5 KiB.
pub const MAX_ROOT: u64 = 64 << 10;
/// The most bytes of a timestamp.
pub const MAX_TIMESTAMP: u64 = 16 << 10;
/// The most bytes of a snapshot.
pub const MAX_SNAPSHOT: u64 = 32 << 10;
/// The most bytes of a list of targets.
pub const MAX_TARGETS: u64 = 256 << 10;
/// The most new roots that a device goes through in one turn.
pub const MAX_ROOTS: u64 = 64;
/// The member of a root, beside those of the specification, that marks it as one whose keys nobody guards. Its value is `true`; a
/// device takes such a root only if its image was built with one.
pub const DEVELOPMENT: &str = "lucid-development";

/// Whether a root is marked so, by its members beside those of the specification. Another value than `true` is no way around
/// the mark.
#[must_use]
pub fn is_development<S: std::hash::BuildHasher>(members: &HashMap<String, Value, S>) -> bool {
    members.contains_key(DEVELOPMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_value_of_the_mark_is_it_marks() {
        assert!(!is_development(&HashMap::<String, Value>::new()));
        assert!(!is_development(&HashMap::from([("other".to_owned(), Value::Bool(true))])));
        for value in [Value::Bool(true), Value::Bool(false), Value::Null, 0.into(), "no".into()] {
            assert!(is_development(&HashMap::from([(DEVELOPMENT.to_owned(), value)])));
        }
    }
}
