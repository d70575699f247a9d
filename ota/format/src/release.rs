//! The description of a release, version 1: what a device decides by before it fetches anything.
//!
//! It stands in the signed list of targets, in the member `custom` of the target that is its index: `{"lucid": …}` and
//! nothing else. JSON with exactly these members, integers and ASCII alone:
//!
//! | member | |
//! | --- | --- |
//! | `channel` | a [`Name`] |
//! | `format` | 1 |
//! | `machine` | a [`Name`]: the kind of device |
//! | `min_from` | a [`Version`]: a device that runs something older takes another release first; at most `version` |
//! | `min_version` | a [`Version`]: a device that has committed this release never takes one below it; at most `version` |
//! | `paused` | `true` while nobody is to take it up |
//! | `released` | seconds since 1970, up to the year 9999 |
//! | `version` | a [`Version`] |
//! | `waves` | 1 to 16 of `{"after": …, "share": …}` ([`Wave`]), both rising, the last share 1000 |
//!
//! The names of a release's targets, of machine `M` and version `V`: `lucid-M-V.index` and `lucid-M-V.chunks`; and for each
//! version `W` before it from which there is a patch `lucid-M-V-from-W.patch`.

use std::{collections::HashMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Result, shortened},
    version::Version,
};

/// The version of the format.
pub(crate) const FORMAT: u64 = 1;
/// The member of `custom`.
const MEMBER: &str = "lucid";
/// The most bytes of a description that stands alone.
pub const MAX_BYTES: usize = 8 << 10;
/// The most waves of a release.
pub const MAX_WAVES: usize = 16;
/// All devices, in shares of which each is one per mille.
pub const ALL: u16 = 1000;
/// The last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// What a kind of device, or a channel, is called: 1 to 32 of `a` to `z`, `0` to `9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if (1..=32).contains(&text.len()) && text.bytes().all(good) {
            Ok(Self(text))
        } else {
            Err(Error::Name { text: shortened(&text, 40) })
        }
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// From when on which share of the devices may take a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Seconds since the release.
    pub after: u32,
    /// How many of 1000 devices, those of the waves before included.
    pub share: u16,
}

/// What is said of a release; its fields are described in [this module](self). As JSON there is none that the format does not
/// allow; one that was put together by hand is held to it by [`Release::check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Release {
    /// Which devices follow it.
    pub channel: Name,
    /// The kind of device that it is for.
    pub machine: Name,
    /// A device that runs something older takes another release first.
    pub min_from: Version,
    /// The floor of a device that has committed it: nothing below is ever installed, whoever signs it.
    pub min_version: Version,
    /// Nobody takes it up now.
    pub paused: bool,
    /// When it was released, in seconds since 1970.
    pub released: u64,
    /// Its version.
    pub version: Version,
    /// From when on which share of the devices may take it.
    pub waves: Vec<Wave>,
}

/// A description as it is written, with its members in the order of the alphabet.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    channel: Name,
    format: u64,
    machine: Name,
    min_from: Version,
    min_version: Version,
    paused: bool,
    released: u64,
    version: Version,
    waves: Vec<Wave>,
}

impl From<Release> for Wire {
    fn from(release: Release) -> Self {
        let Release { channel, machine, min_from, min_version, paused, released, version, waves } = release;
        Self { channel, format: FORMAT, machine, min_from, min_version, paused, released, version, waves }
    }
}

impl TryFrom<Wire> for Release {
    type Error = Error;

    fn try_from(wire: Wire) -> Result<Self> {
        let Wire { channel, format, machine, min_from, min_version, paused, released, version, waves } = wire;
        check_format(format)?;
        let release = Self { channel, machine, min_from, min_version, paused, released, version, waves };
        release.check()?;
        Ok(release)
    }
}

fn check_format(format: u64) -> Result<()> {
    if format == FORMAT {
        return Ok(());
    }
    Err(Error::Format { what: "the description of the release", version: format })
}

/// Whether a device takes a release, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Takes,
    /// The release is for another kind of device.
    OtherMachine,
    /// The device follows another channel.
    OtherChannel,
    /// The device runs this version or a later one.
    NotNewer,
    /// The device has committed a release that rules out this version.
    BelowFloor,
    /// The device has to take another release first.
    TooOld {
        /// What it has to run at least.
        min_from: Version,
    },
    /// Whoever released it stopped it for now.
    Paused,
    /// Others are first.
    NotYet {
        /// From when on this device may, in seconds since 1970.
        at: u64,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Takes => f.write_str("it can be taken now"),
            Self::OtherMachine => f.write_str("it is for another kind of device"),
            Self::OtherChannel => f.write_str("it is in another channel than the device follows"),
            Self::NotNewer => f.write_str("it is not newer than what the device runs"),
            Self::BelowFloor => {
                f.write_str("a release that the device committed rules out versions this old")
            }
            Self::TooOld { min_from } => write!(f, "the device has to run {min_from} or later first"),
            Self::Paused => f.write_str("whoever released it has paused it"),
            Self::NotYet { .. } => f.write_str("other devices are first, and this one's turn has not come"),
        }
    }
}

impl Release {
    /// Holds the fields to the format.
    ///
    /// # Errors
    /// When the versions, the time or the waves are not as they have to be.
    pub fn check(&self) -> Result<()> {
        for (name, version) in [("min_from", self.min_from), ("min_version", self.min_version)] {
            if version > self.version {
                return Err(Error::release(format!(
                    "{name} {version} is above the version {}",
                    self.version
                )));
            }
        }
        if self.released > LAST_SECOND {
            return Err(Error::release("it was released after the year 9999"));
        }
        let waves = &self.waves;
        if !(1..=MAX_WAVES).contains(&waves.len()) {
            let why = format!("it has {} waves, and 1 to {MAX_WAVES} are allowed", waves.len());
            return Err(Error::release(why));
        }
        if !waves.is_sorted_by(|one, next| one.after < next.after && one.share < next.share) {
            return Err(Error::release("a wave is not after the one before, or for no more devices"));
        }
        if waves.first().is_none_or(|wave| wave.share == 0) {
            return Err(Error::release("its first wave is for no device"));
        }
        if waves.last().is_none_or(|wave| wave.share != ALL) {
            return Err(Error::release(format!("its last wave is not for all devices, of share {ALL}")));
        }
        Ok(())
    }

    /// Whether a device takes it at `now` (seconds since 1970): one of this machine that follows this channel, runs `running`,
    /// takes nothing below `floor`, and has this [place](Self::place) among all. Of several reasons against it, the first
    /// in the order of [`Verdict`].
    #[must_use]
    pub fn applies(
        &self,
        machine: &str,
        channel: &str,
        running: Version,
        floor: Version,
        place: u16,
        now: u64,
    ) -> Verdict {
        let at = self.turn(place);
        if self.machine.as_str() != machine {
            Verdict::OtherMachine
        } else if self.channel.as_str() != channel {
            Verdict::OtherChannel
        } else if self.version <= running {
            Verdict::NotNewer
        } else if self.version < floor {
            Verdict::BelowFloor
        } else if running < self.min_from {
            Verdict::TooOld { min_from: self.min_from }
        } else if self.paused {
            Verdict::Paused
        } else if now < at {
            Verdict::NotYet { at }
        } else {
            Verdict::Takes
        }
    }

    /// When the turn of a place comes, in seconds since 1970.
    fn turn(&self, place: u16) -> u64 {
        let wave = self.waves.iter().find(|wave| place < wave.share).or(self.waves.last());
        self.released.saturating_add(wave.map_or(0, |wave| wave.after.into()))
    }

    /// The place of a device among all, from 0 to 999, another one for each version: the first eight bytes, little-endian, of
    /// BLAKE3 of the device's random seed and the version's text, modulo 1000.
    #[must_use]
    pub fn place(&self, seed: &[u8; 32]) -> u16 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(seed).update(self.version.to_string().as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) % u64::from(ALL)) as u16
    }

    /// The name of the target that is its index.
    #[must_use]
    pub fn index_name(&self) -> String {
        format!("lucid-{}-{}.index", self.machine, self.version)
    }

    /// The name of the target that is its archive.
    #[must_use]
    pub fn archive_name(&self) -> String {
        format!("lucid-{}-{}.chunks", self.machine, self.version)
    }

    /// The name of the target that is its patch from an older version.
    #[must_use]
    pub fn patch_name(&self, from: Version) -> String {
        format!("lucid-{}-{}-from-{from}.patch", self.machine, self.version)
    }

    /// From which version the target of that name patches to this release; none where it is no such patch by its name.
    #[must_use]
    pub fn patch_from(&self, name: &str) -> Option<Version> {
        let (_, from) = name.strip_suffix(".patch")?.rsplit_once("-from-")?;
        let from = from.parse().ok()?;
        (from < self.version && self.patch_name(from) == name).then_some(from)
    }

    /// The release whose index a target is; none for a target that is no index by its name. `custom` is the target's.
    ///
    /// # Errors
    /// When `custom` is not what an index has, or describes the release of another name. Such a target is to be passed over: it
    /// may be of a later format ([`Error::Format`]), which a release before it reads.
    pub fn of_target(name: &str, custom: &HashMap<String, Value>) -> Result<Option<Self>> {
        if !name.ends_with(".index") {
            return Ok(None);
        }
        let (Some(value), 1) = (custom.get(MEMBER), custom.len()) else {
            return Err(Error::release(format!("its custom members are not {MEMBER:?} alone")));
        };
        let release = Self::from_value(value)?;
        if release.index_name() != name {
            let why =
                format!("it is that of {}, and stands at {}", release.index_name(), shortened(name, 80));
            return Err(Error::release(why));
        }
        Ok(Some(release))
    }

    /// What is `custom` of the target that is its index.
    ///
    /// # Errors
    /// When it does not pass [`Self::check`].
    pub fn to_custom(&self) -> Result<HashMap<String, Value>> {
        self.check()?;
        let value = serde_json::to_value(self).map_err(|error| Error::release(error.to_string()))?;
        Ok(HashMap::from([(MEMBER.to_owned(), value)]))
    }

    /// Reads a description that stands alone, in at most 8 KiB.
    ///
    /// # Errors
    /// When it is none of format 1.
    pub fn read(json: &[u8]) -> Result<Self> {
        if json.len() > MAX_BYTES {
            return Err(Error::release(format!("it has {} bytes, of {MAX_BYTES} at most", json.len())));
        }
        let value: Value = serde_json::from_slice(json).map_err(|error| Error::release(error.to_string()))?;
        Self::from_value(&value)
    }

    /// As one line of JSON.
    ///
    /// # Errors
    /// When it does not pass [`Self::check`].
    pub fn write(&self) -> Result<String> {
        self.check()?;
        serde_json::to_string(self).map_err(|error| Error::release(error.to_string()))
    }

    fn from_value(value: &Value) -> Result<Self> {
        // First, because what a later format has beside it is unknown.
        let Some(format) = value.get("format").and_then(Value::as_u64) else {
            return Err(Error::release("it has no member \"format\" that is a number"));
        };
        check_format(format)?;
        let release = Self::deserialize(value).map_err(|error| Error::release(error.to_string()))?;
        // What is read of JSON takes lists for members, which the format does not.
        if serde_json::to_value(&release).is_ok_and(|written| written == *value) {
            Ok(release)
        } else {
            Err(Error::release("its members are spelled in another way than format 1 has"))
        }
    }
}
