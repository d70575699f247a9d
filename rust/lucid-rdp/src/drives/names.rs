//! Which names of files pass between the desktop (bytes, case matters) and a client's drives (UTF-16, Windows' rules,
//! whatever the client is: it does not say). A name that does not pass can neither be seen nor made.

/// The longest name, in bytes of UTF-8 and in UTF-16 code units: what file systems take.
pub(super) const MAX_NAME: usize = 255;
/// The longest path within a drive, in bytes of UTF-8.
pub(super) const MAX_PATH: usize = 4096;

/// Names that Windows takes for devices, in any folder and with any extension.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// Whether it means the same name, and a name in its own folder, on both sides.
pub(super) fn passes(name: &str) -> bool {
    // Only dots and spaces: Windows drops those at the end, so `.. ` would be the folder above.
    !name.chars().all(|c| matches!(c, '.' | ' '))
        && name.len() <= MAX_NAME
        // Separators, and `:`, behind which Windows has a file's other streams.
        && !name.chars().any(|c| matches!(c, '/' | '\\' | ':') || c.is_control())
        && !is_device(name)
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    if DEVICES.iter().any(|device| stem.eq_ignore_ascii_case(device)) {
        return true;
    }
    let Some((first, number)) = stem.split_at_checked(3) else { return false };
    let mut number = number.chars();
    (first.eq_ignore_ascii_case("COM") || first.eq_ignore_ascii_case("LPT"))
        && number.next().is_some_and(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'))
        && number.next().is_none()
}

/// A client's name, if it is text (no surrogate stands alone) and passes.
pub(super) fn from_wide(wide: &[u16]) -> Option<String> {
    let end = wide.iter().position(|unit| *unit == 0).unwrap_or(wide.len());
    let wide = wide.get(..end).filter(|wide| wide.len() <= MAX_NAME)?;
    String::from_utf16(wide).ok().filter(|name| passes(name))
}

/// What a drive's folder is called: the announced name as far as it passes, and different from all `taken`.
pub(super) fn of_drive(announced: &str, taken: &[String]) -> String {
    let kept: String = announced.chars().filter(|c| passes(&format!("a{c}a"))).take(64).collect();
    let kept = kept.trim();
    let base = if passes(kept) { kept } else { "Drive" };
    let mut name = base.to_owned();
    let mut count = 1;
    while taken.contains(&name) {
        count += 1;
        name = format!("{base} ({count})");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_script_pass_and_come_back_as_they_were() {
        for name in [
            "a",
            "Grüße Ångström.txt",
            "漢字 かな 한국어",
            "שלום عالم",
            "👩‍👩‍👧‍👦 𝔘",
            "ไทย",
            "x.",
            ".x",
            "% & ' +;=#",
            "com",
            "com10",
            "console",
            "auxiliary.c",
            "what?",
        ] {
            assert!(passes(name), "{name}");
            let wide: Vec<u16> = name.encode_utf16().collect();
            assert_eq!(from_wide(&wide).as_deref(), Some(name));
        }
    }

    #[test]
    fn names_that_lead_elsewhere_do_not_pass() {
        let long = "ä".repeat(128);
        for name in [
            "",
            ".",
            "..",
            "...",
            ".. ",
            " ",
            "a/b",
            "a\\b",
            "..\\b",
            "a:b",
            "C:",
            "a\0",
            "a\nb",
            "con",
            "NUL",
            "nul.txt",
            "Aux.c",
            "COM1",
            "com1.tar.gz",
            "lpt9 .x",
            "COM²",
            "conin$",
            &long,
        ] {
            assert!(!passes(name), "{name:?}");
        }
    }

    #[test]
    fn a_lone_surrogate_is_no_name() {
        assert_eq!(from_wide(&[0x61, 0xd800, 0x62]), None);
        assert_eq!(from_wide(&[0xdc00]), None);
        assert_eq!(from_wide(&[0xd83d, 0xdc69]).as_deref(), Some("👩"));
        assert_eq!(from_wide(&[0x61, 0, 0x62]).as_deref(), Some("a"));
    }

    #[test]
    fn drives_get_names_of_their_own() {
        assert_eq!(of_drive("C:", &[]), "C");
        assert_eq!(of_drive("../..", &[]), "Drive");
        assert_eq!(of_drive("home", &["home".into(), "home (2)".into()]), "home (3)");
        assert_eq!(of_drive("nul", &[]), "Drive");
        assert_eq!(of_drive("a/b\\c\0d", &[]), "abcd");
    }
}
