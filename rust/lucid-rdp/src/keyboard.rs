//! Which XKB layout stands for a client's keyboard layout identifier (MS-RDPBCGR 2.2.1.3.2, `keyboardLayout`).
//!
//! Clients send scan codes, which name keys by their places; what a key writes is decided here. The identifiers are
//! Windows' ("Windows keyboard layouts", learn.microsoft.com/globalization/windows-keyboard-layouts), the names
//! xkeyboard-config's (`rules/evdev.lst`).

use lucid_desktop::KeyboardLayout;

/// Identifiers with layout and variant, in ascending order.
const LAYOUTS: [(u32, &str, &str); 127] = [
    (0x0000_0401, "ara,us", ""),             // Arabic (101)
    (0x0000_0402, "bg,us", ""),              // Bulgarian
    (0x0000_0404, "us", ""),                 // Chinese, Traditional: Latin keys below an input method
    (0x0000_0405, "cz", ""),                 // Czech
    (0x0000_0406, "dk", ""),                 // Danish
    (0x0000_0407, "de", ""),                 // German
    (0x0000_0408, "gr,us", ""),              // Greek
    (0x0000_0409, "us", ""),                 // United States
    (0x0000_040a, "es", ""),                 // Spanish
    (0x0000_040b, "fi", ""),                 // Finnish
    (0x0000_040c, "fr", ""),                 // French
    (0x0000_040d, "il,us", ""),              // Hebrew
    (0x0000_040e, "hu", ""),                 // Hungarian
    (0x0000_040f, "is", ""),                 // Icelandic
    (0x0000_0410, "it", ""),                 // Italian
    (0x0000_0411, "jp", ""),                 // Japanese
    (0x0000_0412, "kr", ""),                 // Korean
    (0x0000_0413, "nl", ""),                 // Dutch
    (0x0000_0414, "no", ""),                 // Norwegian
    (0x0000_0415, "pl", ""),                 // Polish (Programmers)
    (0x0000_0416, "br", ""),                 // Portuguese (Brazil ABNT)
    (0x0000_0418, "ro", "winkeys"),          // Romanian (Legacy)
    (0x0000_0419, "ru,us", ""),              // Russian
    (0x0000_041a, "hr", ""),                 // Croatian
    (0x0000_041b, "sk", ""),                 // Slovak
    (0x0000_041c, "al", ""),                 // Albanian
    (0x0000_041d, "se", ""),                 // Swedish
    (0x0000_041e, "th,us", ""),              // Thai Kedmanee
    (0x0000_041f, "tr", ""),                 // Turkish Q
    (0x0000_0420, "pk,us", ""),              // Urdu
    (0x0000_0422, "ua,us", ""),              // Ukrainian
    (0x0000_0423, "by,us", ""),              // Belarusian
    (0x0000_0424, "si", ""),                 // Slovenian
    (0x0000_0425, "ee", ""),                 // Estonian
    (0x0000_0426, "lv", ""),                 // Latvian
    (0x0000_0427, "lt", ""),                 // Lithuanian
    (0x0000_0428, "tj,us", ""),              // Tajik
    (0x0000_0429, "ir,us", ""),              // Persian
    (0x0000_042a, "vn", ""),                 // Vietnamese
    (0x0000_042b, "am,us", "eastern,"),      // Armenian Eastern
    (0x0000_042c, "az", ""),                 // Azerbaijani Latin
    (0x0000_042e, "de", ""),                 // Sorbian Standard (Legacy)
    (0x0000_042f, "mk,us", ""),              // Macedonian
    (0x0000_0432, "bw", ""),                 // Setswana
    (0x0000_0437, "ge,us", ""),              // Georgian
    (0x0000_0438, "fo", ""),                 // Faeroese
    (0x0000_0439, "in,us", ""),              // Devanagari - INSCRIPT
    (0x0000_043a, "mt", ""),                 // Maltese 47-Key
    (0x0000_043b, "no", "smi"),              // Norwegian with Sami
    (0x0000_043f, "kz,us", ""),              // Kazakh
    (0x0000_0440, "kg,us", ""),              // Kyrgyz Cyrillic
    (0x0000_0442, "tm", ""),                 // Turkmen
    (0x0000_0444, "ru,us", "tt,"),           // Tatar
    (0x0000_0445, "bd,us", ""),              // Bangla
    (0x0000_0446, "in,us", "guru,"),         // Punjabi
    (0x0000_0447, "in,us", "guj,"),          // Gujarati
    (0x0000_0448, "in,us", "ori,"),          // Odia
    (0x0000_0449, "in,us", "tam,"),          // Tamil
    (0x0000_044a, "in,us", "tel,"),          // Telugu
    (0x0000_044b, "in,us", "kan,"),          // Kannada
    (0x0000_044c, "in,us", "mal,"),          // Malayalam
    (0x0000_044d, "in,us", "ben_inscript,"), // Assamese, in the same script as Bangla
    (0x0000_044e, "in,us", ""),              // Marathi
    (0x0000_0450, "mn,us", ""),              // Mongolian Cyrillic
    (0x0000_0451, "cn,us", "tib,"),          // Tibetan
    (0x0000_0452, "gb", ""),                 // United Kingdom Extended
    (0x0000_0453, "kh,us", ""),              // Khmer
    (0x0000_0454, "la,us", ""),              // Lao
    (0x0000_045a, "sy,us", "syc,"),          // Syriac
    (0x0000_045b, "lk,us", ""),              // Sinhala
    (0x0000_0461, "np,us", ""),              // Nepali
    (0x0000_0463, "af,us", "ps,"),           // Pashto
    (0x0000_0465, "mv,us", ""),              // Divehi
    (0x0000_046d, "ru,us", "bak,"),          // Bashkir
    (0x0000_046e, "de", ""),                 // Luxembourgish
    (0x0000_0480, "cn,us", "ug,"),           // Uyghur
    (0x0000_0481, "gb", ""),                 // Maori
    (0x0000_0485, "ru,us", "sah,"),          // Sakha
    (0x0000_0804, "us", ""),                 // Chinese, Simplified: Latin keys below an input method
    (0x0000_0807, "ch", ""),                 // Swiss German
    (0x0000_0809, "gb", ""),                 // United Kingdom
    (0x0000_080a, "latam", ""),              // Latin American
    (0x0000_080c, "be", ""),                 // Belgian French
    (0x0000_0813, "be", ""),                 // Belgian (Period)
    (0x0000_0816, "pt", ""),                 // Portuguese
    (0x0000_081a, "rs", "latin"),            // Serbian (Latin)
    (0x0000_082c, "az,us", "cyrillic,"),     // Azerbaijani Cyrillic
    (0x0000_083b, "se", "smi"),              // Swedish with Sami
    (0x0000_0843, "uz,us", ""),              // Uzbek Cyrillic
    (0x0000_0c04, "us", ""),                 // Chinese, Hong Kong
    (0x0000_0c0c, "ca", "fr-legacy"),        // Canadian French (Legacy)
    (0x0000_0c1a, "rs,us", ""),              // Serbian (Cyrillic)
    (0x0000_1004, "us", ""),                 // Chinese, Singapore
    (0x0000_1009, "ca", ""),                 // Canadian French
    (0x0000_100c, "ch", "fr"),               // Swiss French
    (0x0000_1404, "us", ""),                 // Chinese, Macau
    (0x0000_1809, "ie", ""),                 // Irish
    (0x0000_201a, "rs,us", ""),              // Bosnian (Cyrillic)
    (0x0001_0402, "us", ""),                 // Bulgarian (Latin)
    (0x0001_0405, "cz", "qwerty"),           // Czech (QWERTY)
    (0x0001_0407, "de", ""),                 // German (IBM)
    (0x0001_0409, "us", "dvorak"),           // United States - Dvorak
    (0x0001_040a, "es", ""),                 // Spanish Variation
    (0x0001_040e, "hu", ""),                 // Hungarian 101-key
    (0x0001_0410, "it", ""),                 // Italian (142)
    (0x0001_0415, "pl", "qwertz"),           // Polish (214)
    (0x0001_0416, "br", ""),                 // Portuguese (Brazil ABNT2)
    (0x0001_0418, "ro", "std"),              // Romanian (Standard)
    (0x0001_0419, "ru,us", "typewriter,"),   // Russian (Typewriter)
    (0x0001_041b, "sk", "qwerty"),           // Slovak (QWERTY)
    (0x0001_041f, "tr", "f"),                // Turkish F
    (0x0001_0426, "lv", ""),                 // Latvian (QWERTY)
    (0x0001_042b, "am,us", "western,"),      // Armenian Western
    (0x0001_043a, "mt", "us"),               // Maltese 48-Key
    (0x0001_0809, "gb", ""),                 // United Kingdom, of another make
    (0x0001_080c, "be", ""),                 // Belgian (Comma)
    (0x0001_1009, "ca", "multix"),           // Canadian Multilingual Standard
    (0x0001_1809, "ie", ""),                 // Gaelic
    (0x0002_0401, "ara,us", "azerty,"),      // Arabic (102) AZERTY
    (0x0002_0405, "cz", "ucw"),              // Czech Programmers
    (0x0002_0408, "gr,us", ""),              // Greek (319)
    (0x0002_0409, "us", "intl"),             // United States - International
    (0x0002_0418, "ro", ""),                 // Romanian (Programmers)
    (0x0002_0419, "ru,us", "phonetic,"),     // Russian - Mnemonic
    (0x0002_0422, "ua,us", ""),              // Ukrainian (Enhanced)
    (0x0003_0409, "us", "dvorak-l"),         // United States - Dvorak for left hand
    (0x0004_0409, "us", "dvorak-r"),         // United States - Dvorak for right hand
];

/// The layout of a client that announced this identifier; none for one that says nothing that is known here.
pub(crate) fn layout(identifier: u32) -> Option<KeyboardLayout> {
    let known = |identifier: u32| {
        let at = LAYOUTS.binary_search_by_key(&identifier, |(known, ..)| *known).ok()?;
        LAYOUTS.get(at).map(|(_, layout, variant)| KeyboardLayout {
            layout: (*layout).to_owned(),
            variant: (*variant).to_owned(),
        })
    };
    // An input method's, a variant that is not known, or a handle with the language in both halves: then the language
    // decides, and of a language that is spoken elsewhere (10 bits, 2.2.1.3.2 by MS-LCID 2.1) its usual form.
    [identifier, identifier & 0xffff, identifier & 0x3ff | 0x400].into_iter().find_map(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::process::Command;

    fn names(identifier: u32) -> Option<(String, String)> {
        layout(identifier).map(|k| (k.layout, k.variant))
    }

    fn named(layout: &str, variant: &str) -> Option<(String, String)> {
        Some((layout.into(), variant.into()))
    }

    #[test]
    fn identifiers_are_found_exactly_then_by_their_language() {
        assert!(LAYOUTS.is_sorted_by_key(|(identifier, ..)| *identifier));
        assert_eq!(names(0x407), named("de", ""));
        assert_eq!(names(0x807), named("ch", ""));
        assert_eq!(names(0x0001_0409), named("us", "dvorak"));
        assert_eq!(names(0x0407_0407), named("de", ""), "an input locale handle");
        assert_eq!(names(0xc07), named("de", ""), "German of Austria");
        assert_eq!(names(0xe001_0411), named("jp", ""), "an input method");
        assert_eq!(names(0x419), named("ru,us", ""));
        assert_eq!(names(0), None);
        assert_eq!(names(0x0000_03ff), None);
    }

    #[test]
    fn no_identifier_gives_a_layout_that_may_not_be_asked_for() {
        for identifier in (0..=0xffff).chain((0..=0xffff).map(|v| v << 16 | 0x409)) {
            if let Some(layout) = layout(identifier) {
                layout.check().unwrap();
            }
        }
    }

    #[test]
    fn every_layout_can_be_compiled() {
        let all: BTreeSet<_> = LAYOUTS.iter().map(|(_, layout, variant)| (layout, variant)).collect();
        for (layout, variant) in all {
            let arguments = ["compile-keymap", "--layout", layout, "--variant", variant];
            match Command::new("xkbcli").args(arguments).output() {
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{layout} {variant}: {said}");
                }
                Err(error) => {
                    eprintln!("skipped: xkbcli: {error}");
                    return;
                }
            }
        }
    }
}
