//! What an image says of itself: one spelling, and everything else is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use lucid_release_format::{Error, System, Version};

const GOOD: &str =
    "{\"format\":1,\"machine\":\"qemu-arm64\",\"version\":\"0.1.0\",\"built\":1767225600,\"data\":1}\n";

#[test]
fn a_system_has_one_spelling() {
    for built in [i64::MIN, -1, 0, i64::MAX] {
        let version = Version::new(65_535, 65_535, 65_535);
        let system = System { machine: "a".repeat(32).parse().unwrap(), version, built, data: u32::MAX };
        let bytes = system.to_bytes();
        assert!(bytes.len() as u64 <= System::MAX_BYTES);
        assert_eq!(System::from_bytes(&bytes).unwrap(), system);
    }
    for other in [
        GOOD.trim_end().to_owned(),
        format!("{GOOD}\n"),
        GOOD.replace(",\"", ", \""),
        GOOD.replace("1767225600", "1767225600.0"),
        GOOD.replace("\"data\":1", "\"data\":0"),
        GOOD.replace("}", ",\"more\":1}"),
        GOOD.replace("qemu-arm64", "QEMU"),
        GOOD.replace("0.1.0", "0.1"),
        GOOD.replace("\"built\":1767225600", "\"build\":1767225600"),
        GOOD.replace("}", &format!("}}{}", " ".repeat(600))),
        String::new(),
        "[1,\"qemu-arm64\",\"0.1.0\",1767225600]\n".to_owned(),
    ] {
        let error = System::from_bytes(other.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::System { .. }), "{other:?}: {error}");
    }
    let bytes = GOOD.as_bytes();
    for end in 0..bytes.len() {
        assert!(System::from_bytes(&bytes[..end]).is_err(), "up to byte {end}");
    }
}

#[test]
fn a_later_format_is_said_to_be_one() {
    let later = GOOD.replace("\"format\":1", "\"format\":2").replace("}", ",\"more\":1}");
    let error = System::from_bytes(later.as_bytes()).unwrap_err();
    assert!(matches!(error, Error::Format { version: 2, .. }), "{error}");
}
