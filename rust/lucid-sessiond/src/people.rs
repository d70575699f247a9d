//! Whose keys accept policies and decide on requests: `--people FILE`.
//!
//! JSON, version 1, at most 64 KiB, 64 people and 8 keys for each:
//!
//! ```json
//! {"version":1,"needed":1,"people":[
//!   {"name":"ada","keys":["<Ed25519 public key, 64 hexadecimal digits>"],"approver":true}
//! ]}
//! ```
//!
//! `needed` approvers have to agree to a request; 1 where it is left out, and nothing can be asked for without approvers.

use std::{fs::File, io::Read as _, path::Path};

use lucid_policy::approval::{Approver, Rules};
use lucid_recording::PublicKey;
use serde::Deserialize;

use crate::error::{At as _, Error, Result};

const MOST_BYTES: u64 = 64 << 10;
const MOST_PEOPLE: usize = 64;
const MOST_KEYS: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    version: u64,
    #[serde(default = "one")]
    needed: usize,
    people: Vec<Person>,
}

fn one() -> usize {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    name: String,
    keys: Vec<PublicKey>,
    #[serde(default)]
    approver: bool,
}

/// Everybody who has a key.
#[derive(Default)]
pub(crate) struct People {
    people: Vec<Person>,
    rules: Option<Rules>,
}

impl People {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut text = Vec::new();
        let file = File::open(path).at("opening", path)?;
        file.take(MOST_BYTES + 1).read_to_end(&mut text).at("reading", path)?;
        Self::parse(&text).map_err(|why| Error::People { path: path.to_owned(), why })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() as u64 > MOST_BYTES {
            return Err(format!("it has more than {MOST_BYTES} bytes"));
        }
        let Listed { version, needed, people } =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if version != 1 {
            return Err(format!("it is of version {version}, and this program knows version 1 alone"));
        }
        if people.len() > MOST_PEOPLE || people.iter().any(|person| person.keys.len() > MOST_KEYS) {
            return Err(format!("it names more than {MOST_PEOPLE} people, or {MOST_KEYS} keys of one"));
        }
        let mut names: Vec<_> = people.iter().map(|person| person.name.to_lowercase()).collect();
        let mut keys: Vec<_> = people.iter().flat_map(|person| &person.keys).collect();
        for (what, twice) in [
            ("somebody", {
                names.sort();
                names.windows(2).any(|pair| pair[0] == pair[1])
            }),
            ("a key", {
                keys.sort();
                keys.windows(2).any(|pair| pair[0] == pair[1])
            }),
        ] {
            if twice {
                return Err(format!("it names {what} twice"));
            }
        }
        let approvers: Vec<_> = people
            .iter()
            .filter(|person| person.approver)
            .flat_map(|person| {
                person.keys.iter().map(|key| Approver { key: *key, name: person.name.clone() })
            })
            .collect();
        let rules = if approvers.is_empty() {
            None
        } else {
            Some(Rules::new(approvers, needed).map_err(|error| error.to_string())?)
        };
        Ok(Self { people, rules })
    }

    /// The keys that may sign for somebody.
    pub(crate) fn keys(&self, name: &str) -> &[PublicKey] {
        // As account names are compared.
        let name = name.to_lowercase();
        self.people
            .iter()
            .find(|person| person.name.to_lowercase() == name)
            .map_or(&[], |person| &person.keys)
    }

    /// Who decides on requests, if anybody may.
    pub(crate) fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    #[test]
    fn keys_are_one_persons_each_and_nobody_approves_where_nobody_may() {
        let key = |digit: char| digit.to_string().repeat(64);
        let list = |people: &str| People::parse(format!(r#"{{"version":1,"people":[{people}]}}"#).as_bytes());
        let ada = format!(r#"{{"name":"ada","keys":["{}"]}}"#, key('a'));
        let bob = format!(r#"{{"name":"bob","keys":["{}"],"approver":true}}"#, key('b'));
        let people = list(&format!("{ada},{bob}")).unwrap();
        assert_eq!((people.keys("ada").len(), people.keys("eve").len()), (1, 0));
        assert_eq!(people.rules().unwrap().approvers().len(), 1);
        assert!(list(&ada).unwrap().rules().is_none());
        assert!(list(&format!("{ada},{ada}")).is_err());
        assert!(list(&format!("{ada},{}", bob.replace(&key('b'), &key('a')))).is_err());
        assert!(People::parse(br#"{"version":2,"people":[]}"#).is_err());
        let two = format!(r#"{{"version":1,"needed":2,"people":[{bob}]}}"#);
        assert!(People::parse(two.as_bytes()).is_err(), "more than there are");
    }
}
