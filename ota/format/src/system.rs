//! What an image says of itself (`/usr/share/lucid/system.json`): one line of JSON in one spelling, made by the image tool.
//!
//! `{"format":1,"machine":"qemu-arm64","version":"0.1.0","built":1767225600,"data":1}`: `machine` is a [`Name`], `version` a
//! [`Version`], `built` the image's time (`SOURCE_DATE_EPOCH`) in seconds since 1970, `data` the form
//! of what services keep that it reads and writes (from 1; `lucid-migrate`).

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    release::{FORMAT, Name},
    version::Version,
};

/// What a system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The kind of device.
    pub machine: Name,
    /// Its version.
    pub version: Version,
    /// When its image was built, in seconds since 1970: no clock before it is right.
    pub built: i64,
    /// The form of what services keep that it reads and writes, from 1.
    pub data: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(rename = "format")]
    _format: u64,
    machine: Name,
    version: Version,
    built: i64,
    data: u32,
}

impl System {
    /// The most bytes of it.
    pub const MAX_BYTES: u64 = 512;

    /// Reads it.
    ///
    /// # Errors
    /// When the bytes are no such line, or one in another spelling.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Any {
            format: u64,
        }
        let wrong = |error: serde_json::Error| Error::System { why: error.to_string() };
        if bytes.len() as u64 > Self::MAX_BYTES {
            let why = format!("it has {} bytes, of {} at most", bytes.len(), Self::MAX_BYTES);
            return Err(Error::System { why });
        }
        // First, because what a later format has beside it is unknown.
        let Any { format } = serde_json::from_slice(bytes).map_err(wrong)?;
        if format != FORMAT {
            return Err(Error::Format { what: "the description of the system", version: format });
        }
        let Wire { machine, version, built, data, .. } = serde_json::from_slice(bytes).map_err(wrong)?;
        if data == 0 {
            return Err(Error::System { why: "forms of what is kept begin with 1".to_owned() });
        }
        let system = Self { machine, version, built, data };
        if system.to_bytes() == bytes {
            Ok(system)
        } else {
            Err(Error::System { why: "it is spelled in another way than format 1 has".to_owned() })
        }
    }

    /// As it is written: one line, with its end.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Neither a name nor a version has a character that JSON would escape.
        let Self { machine, version, built, data } = self;
        format!(
            "{{\"format\":{FORMAT},\"machine\":\"{machine}\",\"version\":\"{version}\",\"built\":{built},\"data\":{data}}}\n"
        )
        .into_bytes()
    }
}
