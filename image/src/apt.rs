//! Reads which Debian archive this machine uses, so that no host name stands in the repository.
//!
//! Both forms of `/etc/apt` are read: `sources.list` with its `deb` lines, and deb822
//! `*.sources` (sources.list(5)).

use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};

/// One archive as this machine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
}

/// Where Debian's packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The main archive.
    pub main: String,
    /// The security archive, when this machine uses one.
    pub security: Option<String>,
    /// The installed keys that sign them.
    pub keyring: PathBuf,
}

/// Where Debian's own package of keys puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Archive {
    /// Reads the machine's configuration below `etc` (`/etc/apt` on a real machine).
    ///
    /// # Errors
    /// When no entry looks like Debian's main archive, or its keys are not installed.
    pub fn of_this_machine(etc: &Path) -> Result<Self> {
        let mut files = vec![etc.join("sources.list")];
        let parts = etc.join("sources.list.d");
        if parts.is_dir() {
            let mut listed = std::fs::read_dir(&parts)
                .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
                .at("listing", &parts)?
                .into_iter()
                .map(|entry| entry.path())
                .collect::<Vec<_>>();
            listed.sort();
            files.extend(listed);
        }
        let mut entries = Vec::new();
        for file in files.iter().filter(|file| file.is_file()) {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("list") => entries.extend(one_line(&std::fs::read_to_string(file).at("reading", file)?)),
                Some("sources") => {
                    entries.extend(deb822(&std::fs::read_to_string(file).at("reading", file)?))
                }
                _ => {}
            }
        }
        let keyring = PathBuf::from(KEYRING);
        if !keyring.is_file() {
            return Err(Error::Apt { path: keyring, why: "Debian's archive keys are not installed".into() });
        }
        from_entries(&entries).map(|(main, security)| Self { main, security, keyring }).ok_or_else(|| {
            Error::Apt { path: etc.to_owned(), why: "no entry has the suite of a Debian release".into() }
        })
    }

    /// The `deb` lines for a release.
    #[must_use]
    pub fn lines(&self, suite: &str, backports: bool) -> Vec<String> {
        let signed = format!("deb [signed-by={}]", self.keyring.display());
        let mut lines = vec![format!("{signed} {} {suite} main", self.main)];
        if suite != "sid" && suite != "forky" {
            lines.push(format!("{signed} {} {suite}-updates main", self.main));
            lines.extend(self.security.iter().map(|uri| format!("{signed} {uri} {suite}-security main")));
        }
        if backports {
            lines.push(format!("{signed} {} {suite}-backports main", self.main));
        }
        lines
    }
}

/// Debian's code names that a machine able to build Lucid may run.
const RELEASES: [&str; 6] = ["bookworm", "trixie", "forky", "sid", "stable", "testing"];

/// The main archive is the one with a plain release as its suite and component `main`; the
/// security archive has `<release>-security`. Both are named debian in some part of the path,
/// which tells them from other vendors' archives that reuse the suite names.
fn from_entries(entries: &[Entry]) -> Option<(String, Option<String>)> {
    let debian = |entry: &&Entry| {
        let path = entry.uri.split_once("://").map_or(entry.uri.as_str(), |(_, rest)| rest);
        let path = path.split_once('/').map_or("", |(_, path)| path);
        entry.components.iter().any(|component| component == "main")
            && path.split('/').any(|part| part.starts_with("debian"))
    };
    let main = entries
        .iter()
        .filter(debian)
        .find(|entry| entry.suites.iter().any(|suite| RELEASES.contains(&suite.as_str())))?;
    let security = entries.iter().filter(debian).find(|entry| {
        entry
            .suites
            .iter()
            .any(|suite| suite.strip_suffix("-security").is_some_and(|release| RELEASES.contains(&release)))
    });
    Some((main.uri.clone(), security.map(|entry| entry.uri.clone())))
}

/// `deb [options] uri suite component…`
fn one_line(text: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default().trim();
            let rest = line.strip_prefix("deb")?;
            let rest = rest.strip_prefix(|c: char| c.is_ascii_whitespace())?.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_ascii_whitespace().map(str::to_owned);
            Some(Entry { uri: words.next()?, suites: vec![words.next()?], components: words.collect() })
        })
        .collect()
}

/// Paragraphs of `Key: value`, continued by lines that begin with a space.
fn deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined: Vec<&str> = lines.collect();
    for paragraph in joined.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in paragraph {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((key, value)) = line.split_once(':') {
                fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let words = |key: &str| -> Vec<String> {
            fields
                .iter()
                .filter(|(name, _)| name == key)
                .flat_map(|(_, value)| value.split_ascii_whitespace().map(str::to_owned))
                .collect()
        };
        let disabled = words("enabled").iter().any(|word| word.eq_ignore_ascii_case("no"));
        if disabled || !words("types").iter().any(|word| word == "deb") {
            continue;
        }
        for uri in words("uris") {
            entries.push(Entry { uri, suites: words("suites"), components: words("components") });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_in_deb822_sources_and_not_in_other_vendors() {
        let text = "Types: deb\nURIs: http://other.invalid/node\nSuites: bookworm\nComponents: main\n\n\
                    Types: deb\n# old\nURIs: http://mirror.invalid/debian\nSuites: bookworm\n bookworm-updates\n\
                    Components: main\n\nTypes: deb\nURIs: http://mirror.invalid/debian-security\n\
                    Suites: bookworm-security\nComponents: main\n";
        assert_eq!(
            from_entries(&deb822(text)),
            Some((
                "http://mirror.invalid/debian".into(),
                Some("http://mirror.invalid/debian-security".into())
            ))
        );
    }

    #[test]
    fn the_archive_is_found_in_one_line_sources() {
        let text = "# deb http://off.invalid/debian bookworm main\n\
                    deb-src http://src.invalid/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/x] https://mirror.invalid/debian/ bookworm main contrib # here\n";
        assert_eq!(from_entries(&one_line(text)), Some(("https://mirror.invalid/debian/".into(), None)));
    }

    #[test]
    fn a_disabled_entry_is_not_used() {
        let text =
            "Enabled: no\nTypes: deb\nURIs: http://mirror.invalid/debian\nSuites: trixie\nComponents: main\n";
        assert_eq!(from_entries(&deb822(text)), None);
    }
}
