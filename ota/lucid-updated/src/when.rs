//! When the machine may restart by itself: within a window of the day, and while nobody is connected.

use std::{fmt, fs, io, path::Path, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// So long a restart waits for people who are connected.
pub const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// The file of sessions has at most so many bytes.
const MAX_BYTES: u64 = 64 << 10;

/// A time of each day, in UTC, that may pass midnight. Its text is `HH:MM-HH:MM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Its first minute of the day.
    from: u16,
    /// The first minute after it.
    to: u16,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no window; write it as HH:MM-HH:MM in UTC, like 02:00-04:00");
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
        if from == to {
            return Err(format!("the window {text:?} is empty; let it end at another minute than it begins"));
        }
        Ok(Self { from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

/// The minute of the day that `HH:MM` is.
fn minute(text: &str) -> Option<u16> {
    let [h, hh, b':', m, mm] = *text.as_bytes() else { return None };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let (hour, minute) = (digit(h)? * 10 + digit(hh)?, digit(m)? * 10 + digit(mm)?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

impl Window {
    /// Whether a time, in seconds since 1970, is within it.
    #[must_use]
    pub fn holds(self, now: u64) -> bool {
        let minute = (now / 60 % u64::from(DAY)) as u16;
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }

    /// The first time, not before this one, that is within it; both in seconds since 1970.
    #[must_use]
    pub fn next(self, time: u64) -> u64 {
        const DAY_SECONDS: u64 = DAY as u64 * 60;
        if self.holds(time) {
            return time;
        }
        let today = time - time % DAY_SECONDS + u64::from(self.from) * 60;
        if today >= time { today } else { today.saturating_add(DAY_SECONDS) }
    }
}

/// How many sessions the RDP host says there are. Where its file is not there nobody is connected.
///
/// # Errors
/// In words, when the file is there and does not say it.
pub fn sessions(file: &Path) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Said {
        sessions: u64,
    }
    let words = |why: String| format!("{}: {why}", file.display());
    let mut bytes = Vec::new();
    match fs::File::open(file) {
        Ok(file) => io::Read::read_to_end(&mut io::Read::take(file, MAX_BYTES), &mut bytes)
            .map_err(|error| words(error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(words(error.to_string())),
    };
    let said: Said = serde_json::from_slice(&bytes).map_err(|error| words(error.to_string()))?;
    Ok(said.sessions)
}

/// Whether the machine may restart by itself at `now` (seconds since 1970), having been ready for so long; `Err` is for what it
/// waits, and `Ok` says whom it interrupts, if anybody.
///
/// # Errors
/// In words, for what it waits.
pub fn may(
    window: Option<Window>,
    sessions: &Result<u64, String>,
    ready: Duration,
    now: u64,
) -> Result<Option<String>, String> {
    if window.is_some_and(|window| !window.holds(now)) {
        return Err("the restart waits for its time of the day (--window)".to_owned());
    }
    let who = match sessions {
        Ok(0) => return Ok(None),
        Ok(count) => format!("{count} sessions are open"),
        Err(why) => format!("it is not known whether sessions are open ({why})"),
    };
    if ready >= PATIENCE {
        return Ok(Some(format!("{who}, and the restart has waited for {} h", PATIENCE.as_secs() / 3600)));
    }
    Err(format!("the restart waits: {who}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn a_window_is_two_times_of_the_day_and_may_pass_midnight() {
        let night: Window = "22:30-04:00".parse().unwrap();
        let day: Window = "02:00-04:00".parse().unwrap();
        for (window, minute, holds) in [
            (day, 119, false),
            (day, 120, true),
            (day, 239, true),
            (day, 240, false),
            (night, 22 * 60 + 29, false),
            (night, 22 * 60 + 30, true),
            (night, 0, true),
            (night, 239, true),
            (night, 240, false),
        ] {
            let now = 20_000 * 24 * HOUR + minute * 60 + 59;
            assert_eq!(window.holds(now), holds, "{window:?} {minute}");
        }
        for text in [
            "",
            "02:00",
            "2:00-4:00",
            "24:00-01:00",
            "02:60-04:00",
            "02:00-02:00",
            "02:00-04:00 ",
            "+2:00-04:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_next_time_within_a_window_is_now_or_its_next_beginning() {
        let (night, day): (Window, Window) = ("22:30-04:00".parse().unwrap(), "02:00-04:00".parse().unwrap());
        let midnight = 20_000 * 24 * HOUR;
        for (window, time, next) in [
            (day, HOUR, 2 * HOUR),
            (day, 3 * HOUR + 7, 3 * HOUR + 7),
            (day, 4 * HOUR, 26 * HOUR),
            (night, 0, 0),
            (night, 4 * HOUR, 22 * HOUR + 1800),
            (night, 23 * HOUR, 23 * HOUR),
        ] {
            assert_eq!(window.next(midnight + time), midnight + next, "{window} {time}");
            assert!(window.holds(window.next(midnight + time)), "{window} {time}");
        }
        for text in ["00:00-23:59", "22:30-04:00", "09:05-09:06"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn sessions_are_counted_by_the_file_and_only_without_one_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("status.json");
        assert_eq!(sessions(&file), Ok(0));
        fs::write(&file, r#"{"sessions":2,"more":true}"#).unwrap();
        assert_eq!(sessions(&file), Ok(2));
        for text in ["", "{}", r#"{"sessions":-1}"#, r#"{"sessions":"0"}"#] {
            fs::write(&file, text).unwrap();
            assert!(sessions(&file).is_err(), "{text:?}");
        }
        assert!(sessions(dir.path()).is_err());
    }

    #[test]
    fn a_restart_waits_for_its_window_and_for_people_but_for_people_no_longer_than_a_day() {
        let window: Option<Window> = Some("02:00-04:00".parse().unwrap());
        let unknown = Err("it cannot be read".to_owned());
        let (short, long) = (Duration::from_secs(60), PATIENCE);
        let (inside, outside) = (3 * HOUR, 5 * HOUR);
        assert_eq!(may(None, &Ok(0), Duration::ZERO, outside), Ok(None));
        assert_eq!(may(window, &Ok(0), short, inside), Ok(None));
        for sessions in [&Ok(0), &Ok(1), &unknown] {
            assert!(may(window, sessions, long, outside).unwrap_err().contains("--window"));
        }
        for sessions in [&Ok(1), &unknown] {
            assert!(may(window, sessions, short, inside).is_err());
            assert!(may(window, sessions, long, inside).unwrap().unwrap().contains("24 h"));
        }
    }
}
