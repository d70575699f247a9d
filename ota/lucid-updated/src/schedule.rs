//! What somebody set of when the device updates itself, beside what `lucid.toml` says, which is the ground.
//!
//! `schedule.json`, sealed as `update.json`: one JSON object in a line and its BLAKE3 as a second one: `version` (1), `window`
//! (a time of the day, in place of the ground's, or null), `at` and `paused_until` (seconds since 1970, or null).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lucid_release_format::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    error::{Error, Result},
    files::{Store, seal, unseal},
    when::Window,
};

/// The file.
pub const FILE: &str = "schedule.json";
/// Its version.
const VERSION: u32 = 1;
/// The most bytes of it.
const MAX_BYTES: u64 = 4 << 10;
/// Updates are paused for so long at most: who forgets it does not keep a device from them for good. What a clock that was wrong
/// set further ahead does not count either.
pub const MAX_PAUSE: Duration = Duration::from_secs(90 * 24 * 3600);
/// A restart is set for a time that is no further ahead than this.
pub const MAX_AHEAD: Duration = Duration::from_secs(366 * 24 * 3600);

/// What was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    version: u32,
    /// The time of the day in which the machine may restart by itself, in place of the ground's.
    pub window: Option<Window>,
    /// When it restarts into what is ready then, once: not before, and then whoever is connected.
    pub at: Option<u64>,
    /// Until then nothing is fetched and the machine does not restart, unless somebody asks.
    pub paused_until: Option<u64>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { version: VERSION, window: None, at: None, paused_until: None }
    }
}

/// What is to be set; nothing else changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// All that was set is dropped first.
    pub reset: bool,
    /// See [`Schedule::window`].
    pub window: Option<Window>,
    /// See [`Schedule::at`].
    pub at: Option<u64>,
    /// For so many seconds from now on.
    pub pause: Option<u64>,
    /// A pause ends.
    pub resume: bool,
}

/// A time, as people read it.
fn words(time: u64) -> String {
    let time = i64::try_from(time).ok().and_then(|time| jiff::Timestamp::from_second(time).ok());
    time.map_or_else(|| "a time that no calendar has".to_owned(), |time| time.to_string())
}

impl Schedule {
    /// Until when updates are paused, where they are at `now`.
    #[must_use]
    pub fn paused(&self, now: u64) -> Option<u64> {
        self.paused_until.filter(|until| (1..=MAX_PAUSE.as_secs()).contains(&until.saturating_sub(now)))
    }

    /// When a restart is set for, where that counts at `now`.
    #[must_use]
    pub fn set_for(&self, now: u64) -> Option<u64> {
        self.at.filter(|at| at.saturating_sub(now) <= MAX_AHEAD.as_secs())
    }

    /// Whether the time has come that was set; `Err` is for what a restart waits.
    ///
    /// # Errors
    /// In words, for what it waits.
    pub fn may(&self, now: u64) -> Result<bool, String> {
        if let Some(until) = self.paused(now) {
            return Err(format!("the restart waits: updates are paused until {}", words(until)));
        }
        match self.set_for(now) {
            Some(at) if at > now => Err(format!("the restart waits until {}, as was set", words(at))),
            set => Ok(set.is_some()),
        }
    }

    /// From when on the machine may restart by itself, in seconds since 1970, where it does so at all; `ground` and `automatic`
    /// are what `lucid.toml` says.
    #[must_use]
    pub fn earliest(&self, ground: Option<Window>, automatic: bool, now: u64) -> Option<u64> {
        let from = now.max(self.paused(now).unwrap_or(now));
        match self.set_for(now) {
            Some(at) => Some(from.max(at)),
            None if automatic => Some(self.window.or(ground).map_or(from, |window| window.next(from))),
            None => None,
        }
    }

    /// What follows from a change at `now`.
    ///
    /// # Errors
    /// In words, when it cannot be.
    pub fn changed(self, change: &Change, now: u64) -> Result<Self, String> {
        let mut new = if change.reset { Self::default() } else { self };
        new.window = change.window.or(new.window);
        if let Some(at) = change.at {
            if at <= now {
                let (at, now) = (words(at), words(now));
                return Err(format!("{at} is over: it is {now} by the device's clock; name a later time"));
            }
            if at - now > MAX_AHEAD.as_secs() {
                return Err(format!("{} is more than a year ahead: name an earlier time", words(at)));
            }
            new.at = Some(at);
        }
        if change.resume {
            new.paused_until = None;
        }
        if let Some(seconds) = change.pause {
            let most = MAX_PAUSE.as_secs();
            if !(1..=most).contains(&seconds) {
                return Err(format!(
                    "updates are paused for {} days at most, and not for {seconds} s",
                    most / 86_400
                ));
            }
            new.paused_until = Some(now.saturating_add(seconds));
        }
        Ok(new)
    }

    /// Reads it.
    ///
    /// # Errors
    /// In words, when the bytes are not such a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let schedule: Self = serde_json::from_str(unseal(bytes)?).map_err(|error| error.to_string())?;
        if schedule.version == VERSION {
            Ok(schedule)
        } else {
            Err(format!("it has version {}, and this program reads {VERSION}", schedule.version))
        }
    }

    /// As it is written: one line, and its seal.
    ///
    /// # Errors
    /// Never for what this module makes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let line = serde_json::to_string(self).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(seal(&line))
    }
}

/// What is set, shared between the service and its control socket: that answers while a release is being written too.
pub struct Plan {
    store: Arc<dyn Store>,
    set: Mutex<Schedule>,
    changed: Notify,
}

impl Plan {
    /// What is kept; what cannot be read is as if nothing had been set, with the reason.
    pub fn open(store: Arc<dyn Store>) -> (Self, Option<String>) {
        let read = match store.read(FILE, MAX_BYTES) {
            Ok(None) => Ok(Schedule::default()),
            Ok(Some(bytes)) => Schedule::from_bytes(&bytes),
            Err(error) => Err(error.to_string()),
        };
        let (set, why) = match read {
            Ok(set) => (set, None),
            Err(why) => (Schedule::default(), Some(why)),
        };
        (Self { store, set: Mutex::new(set), changed: Notify::new() }, why)
    }

    /// What is set now.
    #[must_use]
    pub fn get(&self) -> Schedule {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets something at `now`; durable when this is done. Whoever waits for [`Plan::changed`] is woken.
    ///
    /// # Errors
    /// [`Error::Nothing`] when it cannot be, or that of the disk: then nothing has changed.
    pub fn change(&self, change: &Change, now: u64) -> Result<Schedule> {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let new = set.changed(change, now).map_err(Error::Nothing)?;
        if new != *set {
            self.store.replace(FILE, &new.to_bytes()?)?;
            *set = new;
            self.changed.notify_one();
        }
        Ok(new)
    }

    /// The time that was set is used up.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub fn used(&self) -> Result<()> {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        if set.at.is_some() {
            let new = Schedule { at: None, ..*set };
            self.store.replace(FILE, &new.to_bytes()?)?;
            *set = new;
        }
        Ok(())
    }

    /// Waits until something is set.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A release that is there and was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Which.
    pub version: Version,
    /// How many bytes would be fetched, at most.
    pub bytes: u64,
    /// Why it was not.
    pub why: String,
}

/// A release for which others are first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Which.
    pub version: Version,
    /// When this device's turn comes, in seconds since 1970.
    pub at: u64,
}

/// What is known of when what will be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Planned {
    /// When the sources are asked next, in seconds since 1970; none where there are none.
    pub next_look: Option<u64>,
    /// Whether `lucid.toml` lets the machine restart by itself.
    pub automatic: bool,
    /// Whether fetching costs.
    pub metered: bool,
    /// The time of the day that `lucid.toml` says.
    pub ground: Option<Window>,
    /// What was set beside that.
    pub set: Schedule,
    /// What is there and was not fetched.
    pub offered: Option<Offered>,
    /// For what this device's turn comes later.
    pub turn: Option<Turn>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Folder;

    const DAY: u64 = 86_400;
    /// A midnight.
    const NOW: u64 = 20_000 * DAY;

    fn window(text: &str) -> Option<Window> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn what_is_set_is_kept_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Folder::new(dir.path().to_owned()).unwrap());
        let (plan, why) = Plan::open(store.clone());
        assert_eq!((plan.get(), why), (Schedule::default(), None));
        plan.change(&Change { window: window("02:00-04:00"), ..Change::default() }, NOW).unwrap();
        plan.change(&Change { pause: Some(7 * DAY), ..Change::default() }, NOW).unwrap();
        let set = plan.change(&Change { at: Some(NOW + 60), ..Change::default() }, NOW).unwrap();
        let all = Schedule {
            window: window("02:00-04:00"),
            at: Some(NOW + 60),
            paused_until: Some(NOW + 7 * DAY),
            ..Schedule::default()
        };
        assert_eq!((set, Plan::open(store.clone()).0.get()), (all, all));
        plan.used().unwrap();
        plan.change(&Change { resume: true, ..Change::default() }, NOW).unwrap();
        let left = Schedule { window: window("02:00-04:00"), ..Schedule::default() };
        assert_eq!(Plan::open(store.clone()).0.get(), left);
        plan.change(&Change { reset: true, ..Change::default() }, NOW).unwrap();
        assert_eq!(Plan::open(store.clone()).0.get(), Schedule::default());
        // What is damaged is said, and is as if nothing had been set.
        store.replace(FILE, b"{}").unwrap();
        let (plan, why) = Plan::open(store);
        assert_eq!((plan.get(), why.is_some()), (Schedule::default(), true));
    }

    #[test]
    fn what_cannot_be_changes_nothing_and_is_said() {
        let schedule = Schedule { window: window("02:00-04:00"), ..Schedule::default() };
        let ahead = MAX_AHEAD.as_secs();
        for (change, why) in [
            (Change { at: Some(NOW), ..Change::default() }, "is over"),
            (Change { at: Some(NOW + ahead + 1), ..Change::default() }, "more than a year"),
            (Change { pause: Some(0), ..Change::default() }, "90 days at most"),
            (Change { pause: Some(91 * DAY), ..Change::default() }, "90 days at most"),
            (Change { pause: Some(u64::MAX), ..Change::default() }, "90 days at most"),
        ] {
            let error = schedule.changed(&change, NOW).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_restart_waits_for_the_end_of_a_pause_and_for_the_time_that_was_set() {
        let set = |at, paused_until| Schedule { at, paused_until, ..Schedule::default() };
        assert_eq!(set(None, None).may(NOW), Ok(false));
        assert_eq!(set(Some(NOW), None).may(NOW), Ok(true));
        assert_eq!(set(Some(NOW - DAY), Some(NOW)).may(NOW), Ok(true));
        assert!(set(Some(NOW + 1), None).may(NOW).unwrap_err().contains("as was set"));
        for at in [None, Some(NOW)] {
            assert!(set(at, Some(NOW + 1)).may(NOW).unwrap_err().contains("paused until"));
        }
        // What a clock that was wrong by years has set does not count.
        assert_eq!(set(None, Some(NOW + 400 * DAY)).may(NOW), Ok(false));
        assert_eq!(set(Some(NOW + 4000 * DAY), None).may(NOW), Ok(false));
    }

    #[test]
    fn the_earliest_restart_is_within_the_window_that_holds_and_after_the_pause() {
        let ground = window("02:00-04:00");
        let hour = 3600;
        let free = Schedule::default();
        assert_eq!(free.earliest(None, true, NOW), Some(NOW));
        assert_eq!(free.earliest(ground, true, NOW), Some(NOW + 2 * hour));
        assert_eq!(free.earliest(ground, false, NOW), None);
        let set = Schedule { window: window("05:00-06:00"), ..free };
        assert_eq!(set.earliest(ground, true, NOW), Some(NOW + 5 * hour));
        let paused = Schedule { paused_until: Some(NOW + DAY), ..set };
        assert_eq!(paused.earliest(ground, true, NOW), Some(NOW + DAY + 5 * hour));
        let once = Schedule { at: Some(NOW + hour), ..set };
        for automatic in [true, false] {
            assert_eq!(once.earliest(ground, automatic, NOW), Some(NOW + hour));
        }
    }

    #[test]
    fn a_schedule_comes_back_as_it_was_kept_and_any_changed_byte_is_seen() {
        let kept = Schedule { window: window("22:30-04:00"), at: Some(7), ..Schedule::default() };
        let bytes = kept.to_bytes().unwrap();
        assert_eq!(Schedule::from_bytes(&bytes), Ok(kept));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Schedule::from_bytes(&changed).is_err(), "byte {at}");
        }
    }
}
