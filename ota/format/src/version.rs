//! Versions of releases.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, shortened};

/// The version of a release: three numbers, compared from the left. Its text is `1.2.3`, in decimal digits without leading
/// zeros, so that each version has one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second.
    pub minor: u16,
    /// The third.
    pub patch: u16,
}

impl Version {
    /// The version of these numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::Version { text: shortened(text, 40) };
        let mut numbers = text.splitn(4, '.').map(|number| number.parse::<u16>().ok());
        let (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(refused());
        };
        let version = Self { major, minor, patch };
        // Neither a sign nor a zero before a number.
        if version.to_string() == text { Ok(version) } else { Err(refused()) }
    }
}

impl TryFrom<String> for Version {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_one_text() {
        for numbers in [0, 1, 9, 10, 99, 256, 65_534, 65_535] {
            for other in [0, 7, 65_535] {
                let version = Version::new(numbers, other, numbers);
                assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
                let json = serde_json::to_string(&version).unwrap();
                assert_eq!(json, format!("\"{version}\""));
                assert_eq!(serde_json::from_str::<Version>(&json).unwrap(), version);
            }
        }
        let numbers = "1 1.2 1.2.3.4 1.2. .1.2 1..2 01.2.3 1.02.3 1.2.03 00.0.0 +1.2.3 1.-2.3 v1.2.3 1.2.3-rc 1,2,3 \
                       65536.0.0 1.2.65536 99999999999999999999.0.0 \u{967}.2.3";
        for text in numbers.split(' ').chain(["", " 1.2.3", "1.2.3 ", "1.2.3\n"]) {
            let error = text.parse::<Version>().unwrap_err();
            assert!(matches!(error, Error::Version { .. }), "{text:?}");
        }
        assert!(serde_json::from_str::<Version>("1").is_err());
    }

    #[test]
    fn what_is_not_a_version_is_shown_no_longer_than_a_line() {
        let error = "9".repeat(100_000).parse::<Version>().unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn versions_are_compared_from_the_left_as_numbers() {
        let rising =
            ["0.0.0", "0.0.9", "0.0.10", "0.2.0", "0.10.0", "1.0.0", "2.0.0", "10.0.0", "65535.65535.65535"];
        let rising = rising.map(|text| text.parse::<Version>().unwrap());
        for (place, version) in rising.iter().enumerate() {
            for (other_place, other) in rising.iter().enumerate() {
                assert_eq!(version.cmp(other), place.cmp(&other_place));
            }
        }
    }
}
