//! The list of what the image is made of, as SPDX 2.3 JSON. Made from the same inputs, it is the
//! same list: its time is the image's, its namespace follows from its contents.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::debian::Package;

/// A crate that our programs are built from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its package, none for our own.
    pub checksum: Option<String>,
}

/// Reads `Cargo.lock`.
///
/// # Errors
/// When it is not one.
pub fn crates(lock: &str) -> Result<Vec<Crate>, String> {
    #[derive(serde::Deserialize)]
    struct Lock {
        package: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).map_err(|error| error.to_string())?;
    let mut crates: Vec<Crate> = lock
        .package
        .into_iter()
        .map(|entry| Crate { name: entry.name, version: entry.version, checksum: entry.checksum })
        .collect();
    crates.sort();
    Ok(crates)
}

/// What the list says of the image itself.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its version.
    pub version: &'a str,
    /// The hash of what was laid over it for a test ([`crate::tree::digest`]).
    pub overlay: Option<&'a str>,
    /// Its time, in seconds since 1970.
    pub epoch: i64,
}

/// The document.
#[must_use]
pub fn document(packages: &[Package], crates: &[Crate], about: &About<'_>) -> Value {
    let About { version, overlay, epoch } = *about;
    let tool = env!("CARGO_PKG_VERSION");
    let mut list = Vec::new();
    let mut entry = |id: String, name: &str, version: &str, sha256: Option<&str>, locator: String| {
        let checksums: Vec<Value> =
            sha256.iter().map(|sum| json!({"algorithm": "SHA256", "checksumValue": sum})).collect();
        list.push(json!({
            "SPDXID": id,
            "name": name,
            "versionInfo": version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "checksums": checksums,
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": locator,
            }],
        }));
    };
    for package in packages {
        entry(
            id("debian", &package.name, &package.version),
            &package.name,
            &package.version,
            Some(&package.sha256),
            format!("pkg:deb/debian/{}@{}?arch={}", package.name, package.version, package.architecture),
        );
    }
    for item in crates {
        entry(
            id("cargo", &item.name, &item.version),
            &item.name,
            &item.version,
            item.checksum.as_deref(),
            format!("pkg:cargo/{}@{}", item.name, item.version),
        );
    }
    if let Some(hash) = overlay {
        let name = "overlay-for-tests";
        entry(id("overlay", name, hash), name, hash, Some(hash), format!("pkg:generic/{name}@{hash}"));
    }
    let relationships: Vec<Value> = list
        .iter()
        .map(|entry| {
            json!({
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": entry["SPDXID"],
            })
        })
        .collect();
    let contents = hex::encode(Sha256::digest(Value::from(list.clone()).to_string().as_bytes()));
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("lucid-{version}"),
        "documentNamespace": format!("urn:lucid:packages:{contents}"),
        "creationInfo": {"created": time(epoch), "creators": [format!("Tool: lucid-image-{tool}")]},
        "packages": list,
        "relationships": relationships,
    })
}

/// SPDX identifiers hold letters, digits, `.` and `-`.
fn id(kind: &str, name: &str, version: &str) -> String {
    let plain: String = format!("{kind}-{name}-{version}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    // Two versions may differ only in what was replaced.
    let tail = hex::encode(Sha256::digest(format!("{kind} {name} {version}").as_bytes()));
    format!("SPDXRef-{plain}-{}", tail.get(..8).unwrap_or_default())
}

/// Seconds since 1970 as `YYYY-MM-DDThh:mm:ssZ` (civil-from-days, proleptic Gregorian).
fn time(epoch: i64) -> String {
    let (days, second) = (epoch.div_euclid(86_400), epoch.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_763_716_500), "2025-11-21T09:15:00Z");
    }

    #[test]
    fn the_list_is_the_same_for_the_same_inputs_and_names_every_package_once() {
        let package = |name: &str| Package {
            name: name.into(),
            version: "1:2+b".into(),
            architecture: "arm64".into(),
            sha256: "00".into(),
        };
        let packages = [package("a"), package("b")];
        let crates = crates("[[package]]\nname = \"x\"\nversion = \"1.0.0\"\n").unwrap();
        let about = About { version: "0.1.0", overlay: None, epoch: 0 };
        let document = document(&packages, &crates, &about);
        assert_eq!(document, super::document(&packages, &crates, &about));
        let ids: std::collections::BTreeSet<&str> =
            document["packages"].as_array().unwrap().iter().map(|p| p["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 3);
        // What was laid over it for a test is among them.
        let changed = super::document(&packages, &crates, &About { overlay: Some("0a1b"), ..about });
        let last = changed["packages"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["name"], &last["versionInfo"]), (&json!("overlay-for-tests"), &json!("0a1b")));
    }
}
