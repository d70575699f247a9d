//! How the old system was when it was left for a try: what it could not do itself, a new one is not left for.
//!
//! `before.json`, sealed as `update.json` is: `version` (3), `boot` (the id of the boot in which the try was armed: it excuses
//! nothing in another try) and `recorder` (which part of a test record failed; null: none did, or nothing is recorded). Written before
//! each try is armed.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    files::{Store, seal, unseal},
};

/// The file.
pub const FILE: &str = "before.json";
/// Its version.
const VERSION: u32 = 3;
/// The most bytes of it.
const MAX_BYTES: u64 = 4 << 10;

/// What a record of a test comes to, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The recorder answers.
    Answer,
    /// There is room for a recording.
    Room,
    /// A record is sealed, signed and on the disk.
    Writing,
    /// What is read again is as it was signed.
    Proof,
    /// The record is removed.
    Removal,
}

impl Part {
    /// What failed, for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Answer => "the recorder does not answer",
            Self::Room => "there is no room",
            Self::Writing => "it is not written",
            Self::Proof => "what is read again does not verify",
            Self::Removal => "it is not removed",
        }
    }
}

/// How it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    version: u32,
    /// The boot that ended with the try for which this was noted.
    pub boot: String,
    /// Which part of a test record failed.
    pub recorder: Option<Part>,
}

impl Default for Before {
    /// Of a system that could do everything.
    fn default() -> Self {
        Self::new(None)
    }
}

impl Before {
    /// Of a system whose recorder failed in this part.
    #[must_use]
    pub fn new(recorder: Option<Part>) -> Self {
        Self { version: VERSION, boot: String::new(), recorder }
    }

    /// Of a system that could do everything, and that ends with a try in this boot.
    #[must_use]
    pub fn of_boot(boot: &str) -> Self {
        Self { boot: boot.to_owned(), ..Self::default() }
    }

    /// Whether a new system that fails in this part is no worse than the old one was.
    #[must_use]
    pub fn excuses(&self, failed: Part) -> bool {
        self.recorder.is_some_and(|before| failed >= before)
    }

    /// Whether a new system that has not started all services is no worse: in the old one it was the recorder that had not, or
    /// that died later in that boot.
    #[must_use]
    pub fn excuses_unsettled(&self) -> bool {
        self.recorder == Some(Part::Answer)
    }

    /// Reads it.
    ///
    /// # Errors
    /// In words, when the bytes are not such a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let before: Self = serde_json::from_str(unseal(bytes)?).map_err(|error| error.to_string())?;
        if before.version == VERSION {
            Ok(before)
        } else {
            Err(format!("it has version {}, and this program reads {VERSION}", before.version))
        }
    }

    /// As it is written.
    ///
    /// # Errors
    /// Never for what this module makes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let line = serde_json::to_string(self).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(seal(&line))
    }

    /// What is kept for the try that was armed in this boot. Where there is nothing that can be read, or it is of another try,
    /// the old system could do everything: the new one has to, then.
    #[must_use]
    pub fn load(store: &dyn Store, armed: &str) -> Self {
        let why = match store.read(FILE, MAX_BYTES) {
            Ok(Some(bytes)) => match Self::from_bytes(&bytes) {
                Ok(before) if before.boot == armed => return before,
                Ok(before) => {
                    format!("it is of a try that was armed in boot {}, and not in {armed}", before.boot)
                }
                Err(why) => why,
            },
            Ok(None) => "it is not there".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!("how the old system was is not known ({FILE}: {why}): everything has to be well");
        Self::default()
    }

    /// Keeps it; durable when this is done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, store: &dyn Store) -> Result<()> {
        store.replace(FILE, &self.to_bytes()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Folder;

    #[test]
    fn what_was_noted_for_another_try_excuses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Folder::new(dir.path().to_owned()).unwrap();
        let before = Before { boot: "boot 7".to_owned(), ..Before::new(Some(Part::Answer)) };
        before.save(&store).unwrap();
        assert_eq!(Before::load(&store, "boot 7"), before);
        assert_eq!(Before::load(&store, "boot 8"), Before::default());
    }

    #[test]
    fn a_new_system_is_excused_for_what_the_old_one_could_not_do_and_for_nothing_before_that() {
        let parts = [Part::Answer, Part::Room, Part::Writing, Part::Proof, Part::Removal];
        for (at, before) in parts.into_iter().enumerate() {
            let before = Before::new(Some(before));
            for (failed_at, failed) in parts.into_iter().enumerate() {
                assert_eq!(before.excuses(failed), failed_at >= at, "{before:?}, {failed:?}");
                assert!(!Before::default().excuses(failed));
            }
        }
    }

    #[test]
    fn services_that_have_not_started_are_excused_only_where_the_recorder_did_not_answer() {
        for (recorder, excused) in [(Some(Part::Answer), true), (Some(Part::Room), false), (None, false)] {
            let before = Before::new(recorder);
            assert_eq!(before.excuses_unsettled(), excused, "{before:?}");
        }
    }

    #[test]
    fn the_file_is_as_it_was_in_its_version_and_another_one_is_refused() {
        let line = r#"{"version":3,"boot":"boot 7","recorder":"room"}"#;
        let before = Before { boot: "boot 7".to_owned(), ..Before::new(Some(Part::Room)) };
        assert_eq!(before.to_bytes().unwrap(), seal(line));
        assert_eq!(Before::from_bytes(&seal(line)), Ok(before));
        assert!(Before::from_bytes(&seal(&line.replace("\"version\":3", "\"version\":2"))).is_err());
        assert!(Before::from_bytes(line.as_bytes()).is_err());
    }
}
