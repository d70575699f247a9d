//! What the journal has of a start that failed, as text that any program shows.
//!
//! journald writes it on the data partition while the new system runs, so it is there also when that hung, panicked or was cut
//! off: up to what was synced last, which in a try is five seconds before (lucid-init says so to journald). It is read by the old
//! system, with the journalctl that every image has.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

/// The most bytes of text that are kept of one start, its newest lines.
pub const MAX_TEXT: usize = 252 << 10;
/// And lines.
pub const MAX_LINES: usize = 8000;
/// So many entries are looked at, of all starts.
const MAX_ENTRIES: usize = 50_000;
/// So many starts are looked through for the one in which the try was armed.
const MAX_STARTS: usize = 3;
/// The most bytes of what journalctl says of one entry: fields of more than 4 KiB it leaves out.
const MAX_ENTRY: u64 = 256 << 10;
/// The most bytes of the message of one.
const MAX_MESSAGE: usize = 2000;
/// So many lines of journalctl's own complaints are given on.
const COMPLAINTS: usize = 3;
/// Reading may take so long, on a card that answers slowly.
pub const LONGEST: Duration = Duration::from_secs(60);
/// What was read by then has so long to come in, once journalctl is ended.
const REST: Duration = Duration::from_secs(5);

/// Where it is to be had.
#[async_trait]
pub trait Journal: Send + Sync {
    /// That of the start that came after the one with the id `armed`. Where the journal does not have that one, as after a power
    /// cut, that of the start before this one, whose id is `running`.
    ///
    /// # Errors
    /// Why there is none.
    async fn after(&self, armed: &str, running: &str) -> Result<Start, Missing>;
}

/// Why there is no journal of a start, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is none, and will be none.
    None(String),
    /// Reading it took too long, and nothing of it came; another time it may.
    Slow(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::None(why) | Self::Slow(why)) = self;
        f.write_str(why)
    }
}

/// One start of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Its id, without the dashes.
    pub boot: String,
    /// The time of its first line that is here and of its last one, in microseconds since 1970 by the device's clock.
    pub from: u64,
    /// See there.
    pub to: u64,
    /// Its newest lines, the oldest first, without control characters.
    pub lines: Vec<String>,
    /// Whether older ones were left out.
    pub cut: bool,
    /// Whether the start in which the try was armed was found before it.
    pub found: bool,
}

/// That of journald, through its program.
#[derive(Clone, Debug)]
pub struct Journalctl {
    /// The program.
    pub program: PathBuf,
    /// It may take so long; what came by then is taken.
    pub longest: Duration,
}

/// A boot's id as the journal has it.
fn plain(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).collect()
}

#[async_trait]
impl Journal for Journalctl {
    async fn after(&self, armed: &str, running: &str) -> Result<Start, Missing> {
        let failed = |error: io::Error| Missing::None(format!("{}: {error}", self.program.display()));
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.args([
            "--output=json",
            "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,_PID",
            "--no-pager",
            "--quiet",
        ]);
        // The newest first: of those as many as have room.
        command.arg("--reverse").env_clear().stdin(Stdio::null());
        command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        let mut child = command.spawn().map_err(failed)?;
        // With its ends of the pipe.
        drop(command);
        let (armed, running) = (plain(armed), plain(running));
        let work = move || read(BufReader::new(reader), &armed, &running);
        let mut reading = tokio::task::spawn_blocking(work);
        let ended = timeout(self.longest, &mut reading).await;
        // What it still had to say has no room, or no time. With it the pipe ends, and so does the reading.
        if let Err(error) = child.kill() {
            tracing::warn!("ending {}: {error}", self.program.display());
        }
        // On a disk that hangs it may take its time to end.
        drop(tokio::task::spawn_blocking(move || child.wait()));
        match ended {
            Ok(Ok(start)) => start.map_err(Missing::None),
            Ok(Err(error)) => Err(Missing::None(error.to_string())),
            Err(_) => match timeout(REST, reading).await {
                Ok(Ok(Ok(start))) => Ok(Start { cut: true, ..start }),
                _ => Err(Missing::Slow(format!(
                    "reading the journal took longer than {} s, and nothing of that start came",
                    self.longest.as_secs()
                ))),
            },
        }
    }
}

/// What is needed of an entry.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "_BOOT_ID")]
    boot: String,
    #[serde(rename = "__MONOTONIC_TIMESTAMP")]
    since: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    program: Value,
    #[serde(rename = "_PID", default)]
    pid: Value,
}

/// A field as text: it is a string, bytes, several of one of them, or nothing where it was too large.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.iter().all(Value::is_u64) => {
            let bytes = values.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()));
            String::from_utf8_lossy(&bytes.map(|byte| byte.unwrap_or(b'?')).collect::<Vec<u8>>()).into_owned()
        }
        Value::Array(values) => values.first().map_or_else(String::new, |first| match first {
            Value::Array(_) | Value::String(_) => text(first),
            _ => String::new(),
        }),
        _ => String::new(),
    }
}

/// Of at most so many bytes, and nothing in it that a terminal would obey.
fn shown(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown.truncate(shown.floor_char_boundary(most));
    shown.truncate(shown.trim_end().len());
    shown
}

impl Entry {
    fn line(&self) -> String {
        let since = self.since.parse::<u64>().unwrap_or(0);
        let program = shown(&text(&self.program), 64);
        let pid = shown(&text(&self.pid), 16);
        let pid = if pid.is_empty() { pid } else { format!("[{pid}]") };
        let message = match &self.message {
            Value::Null => "(a message that is too long)".to_owned(),
            message => shown(&text(message), MAX_MESSAGE),
        };
        format!("[{:5}.{:06}] {program}{pid}: {message}", since / 1_000_000, since % 1_000_000)
    }
}

/// A start of which lines come in, the newest first.
#[derive(Default)]
struct Taking {
    start: Start,
    bytes: usize,
}

impl Taking {
    fn take(&mut self, entry: &Entry) {
        if self.start.cut {
            return;
        }
        let line = entry.line();
        self.bytes += line.len() + 1;
        if self.bytes > MAX_TEXT || self.start.lines.len() == MAX_LINES {
            self.start.cut = true;
            return;
        }
        let at = entry.at.parse().unwrap_or(0);
        if self.start.lines.is_empty() {
            self.start.to = at;
        }
        self.start.from = at;
        self.start.lines.push(line);
    }
}

/// Reads what journalctl says, the newest entry first. Ids are without dashes.
///
/// # Errors
/// In words, when there is no entry of such a start.
pub(crate) fn read(mut from: impl BufRead, armed: &str, running: &str) -> Result<Start, String> {
    let (mut starts, mut complaints): (Vec<Taking>, Vec<String>) = (Vec::new(), Vec::new());
    let (mut line, mut found) = (Vec::new(), false);
    for _ in 0..MAX_ENTRIES {
        line.clear();
        let read = from.by_ref().take(MAX_ENTRY).read_until(b'\n', &mut line);
        if read.map_err(|error| format!("reading what journalctl says: {error}"))? == 0 {
            break;
        }
        if line.first() != Some(&b'{') {
            if complaints.len() < COMPLAINTS {
                complaints.push(shown(&String::from_utf8_lossy(&line), 300));
            }
            continue;
        }
        let entry: Entry = match serde_json::from_slice(&line) {
            Ok(entry) => entry,
            // What there is so far is worth more than nothing.
            Err(error) => {
                complaints.push(format!("an entry cannot be understood ({error})"));
                if let Some(last) = starts.last_mut() {
                    last.start.cut = true;
                }
                break;
            }
        };
        let boot = plain(&shown(&entry.boot, 64));
        if boot == running {
            continue;
        }
        found = boot == armed;
        if found {
            break;
        }
        if starts.last().is_none_or(|last| last.start.boot != boot) {
            if starts.len() == MAX_STARTS {
                break;
            }
            starts.push(Taking { start: Start { boot, ..Start::default() }, bytes: 0 });
        }
        if let Some(last) = starts.last_mut() {
            last.take(&entry);
        }
    }
    let wanted = if found { starts.pop() } else { starts.into_iter().next() };
    let Some(Taking { mut start, .. }) = wanted else {
        let none = "that start left nothing in the journal: the firmware did not start it, it did not reach journald, or what \
                    it kept was in memory";
        let said = complaints.iter().fold(String::new(), |said, complaint| said + "; " + complaint);
        return Err(format!("{none}{said}"));
    };
    start.found = found;
    start.lines.reverse();
    Ok(start)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const ARMED: &str = "01234567-89ab-cdef-0123-456789abcdef";
    const RUNNING: &str = "fedcba98-7654-3210-fedc-ba9876543210";

    fn of(boot: &str, number: u64, message: &str) -> String {
        let (boot, since, at) = (plain(boot), number * 1_000_001, number + 100);
        format!(r#"{{"_BOOT_ID":"{boot}","__MONOTONIC_TIMESTAMP":"{since}","__REALTIME_TIMESTAMP":"{at}","#)
            + &format!(r#""MESSAGE":{message},"SYSLOG_IDENTIFIER":"lucid-rdp","_PID":"7"}}"#)
            + "\n"
    }

    fn entry(number: u64, message: &str) -> String {
        of("aa", number, message)
    }

    fn taken(said: &str) -> Result<Start, String> {
        read(said.as_bytes(), &plain(ARMED), &plain(RUNNING))
    }

    #[test]
    fn lines_come_the_oldest_first_and_say_when_and_who() {
        let start = taken(&(entry(12, r#""two""#) + &entry(1, r#""one""#))).unwrap();
        assert_eq!((start.boot.as_str(), start.from, start.to, start.cut), ("aa", 101, 112, false));
        assert_eq!(start.lines, ["[    1.000001] lucid-rdp[7]: one", "[   12.000012] lucid-rdp[7]: two"]);
    }

    #[test]
    fn of_several_starts_the_one_after_that_in_which_the_try_was_armed_is_taken() {
        let running = of(RUNNING, 1, r#""it runs""#);
        let between = of("bb", 1, r#""cut off before it read this""#);
        let (tried, armed) = (entry(1, r#""tried""#), of(ARMED, 1, r#""armed""#));
        let older = of("cc", 1, r#""older""#);
        let start = taken(&format!("{running}{between}{tried}{armed}{older}")).unwrap();
        assert_eq!((start.boot.as_str(), start.found), ("aa", true));
        // Without it: the one before this.
        let start = taken(&format!("{running}{tried}{older}")).unwrap();
        assert_eq!((start.boot.as_str(), start.found), ("aa", false));
        // And nothing where that is the next one.
        let why = taken(&format!("{running}{armed}{tried}")).unwrap_err();
        assert!(why.contains("left nothing"), "{why}");
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_kept() {
        let sequence = r#""\u001b[2Jgone\nand\u009b""#;
        for message in [sequence, "[27,91,50,74,255,10]", r#"["\u0007bell","two"]"#, "null", "7"] {
            let start = taken(&entry(1, message)).unwrap();
            assert!(!start.lines[0].chars().any(char::is_control), "{:?}", start.lines);
        }
        assert!(taken(&entry(1, "null")).unwrap().lines[0].ends_with("too long)"));
    }

    #[test]
    fn the_newest_lines_are_kept_of_as_many_as_have_room() {
        let long = format!("\"{}\"", "x".repeat(5000));
        let many: String = (0..1000).rev().map(|number| entry(number, &long)).collect();
        let start = taken(&many).unwrap();
        let bytes: usize = start.lines.iter().map(|line| line.len() + 1).sum();
        assert!(start.cut && bytes <= MAX_TEXT && bytes > MAX_TEXT / 2, "{bytes}");
        assert!(start.lines.last().unwrap().starts_with("[  999."), "{:?}", start.lines.last());
        assert!(start.lines.iter().all(|line| line.len() < MAX_MESSAGE + 100));
    }

    #[test]
    fn what_journalctl_complains_of_is_said_where_it_gives_no_line() {
        let why = taken("Journal file uses an unsupported feature\n").unwrap_err();
        assert!(why.contains("unsupported feature"), "{why}");
        // What came before something that is none is kept.
        let start = taken(&(entry(2, r#""last""#) + "{\"MESSAGE\":")).unwrap();
        assert_eq!((start.lines.len(), start.cut), (1, true));
    }

    /// A program in the place of journalctl.
    fn program(dir: &tempfile::TempDir, says: &str) -> Journalctl {
        let path = dir.path().join("journalctl");
        fs::write(&path, format!("#!/bin/sh\n{says}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Journalctl { program: path, longest: LONGEST }
    }

    #[tokio::test]
    async fn what_the_program_says_is_read_and_one_that_is_not_there_is_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let says = format!("printf '%s' '{}'", entry(1, r#""one""#));
        let start = program(&dir, &says).after(ARMED, RUNNING).await.unwrap();
        assert_eq!(start.lines, ["[    1.000001] lucid-rdp[7]: one"]);
        let gone = Journalctl { program: dir.path().join("nothing"), longest: LONGEST };
        let why = gone.after(ARMED, RUNNING).await.unwrap_err();
        assert!(matches!(&why, Missing::None(why) if why.contains("nothing")), "{why}");
    }

    #[tokio::test]
    async fn of_a_program_that_hangs_what_it_has_said_is_kept_and_with_nothing_it_is_worth_another_time() {
        let dir = tempfile::tempdir().unwrap();
        // The line is in the pipe before the time counts.
        let said = dir.path().join("said");
        let says =
            format!("printf '%s' '{}'; : > '{}'; exec /bin/sleep 600", entry(1, r#""one""#), said.display());
        let hangs = program(&dir, &says);
        let mut longest = Duration::from_secs(1);
        let start = loop {
            // A machine may take longer than that to run it at all.
            match (Journalctl { longest, ..hangs.clone() }).after(ARMED, RUNNING).await {
                Err(Missing::Slow(_)) if !said.exists() && longest < Duration::from_secs(60) => longest *= 2,
                start => break start.unwrap(),
            }
        };
        assert_eq!((start.lines.len(), start.cut), (1, true));
        let silent = Journalctl { longest: Duration::from_secs(1), ..program(&dir, "exec /bin/sleep 600") };
        let why = silent.after(ARMED, RUNNING).await.unwrap_err();
        assert!(matches!(why, Missing::Slow(_)), "{why}");
    }

    #[tokio::test]
    async fn a_program_that_never_ends_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let says = format!("while printf '%s' '{}'; do :; done", entry(1, r#""once more""#));
        let start = program(&dir, &says).after(ARMED, RUNNING).await.unwrap();
        assert!(start.cut);
    }
}
