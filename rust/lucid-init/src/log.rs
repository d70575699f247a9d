//! Lines for the kernel log, which also shows them on every console.

use std::fs::OpenOptions;
use std::io::Write as _;

/// How important a line is: the kernel log's own levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Shown on every console, also when the command line says `quiet`.
    Error = 3,
    /// Shown unless `quiet`.
    Info = 6,
}

/// The kernel refuses a line of more than 1024 bytes (`PRINTKRB_RECORD_MAX`), prefix included.
const LONGEST: usize = 960;

/// Writes one line, or several if it is long. `/dev/kmsg` is opened for every line because the kernel
/// allows ten lines in five seconds *per opened file* and drops the rest.
pub(crate) fn line(level: Level, text: &str) {
    for part in split(&text.replace('\n', " | "), LONGEST) {
        let line = format!("<{}>lucid-init: {part}\n", level as u8);
        let written = OpenOptions::new()
            .write(true)
            .open("/dev/kmsg")
            .and_then(|mut kmsg| kmsg.write_all(line.as_bytes()));
        if written.is_err() {
            // No kernel log: the standard error is the console that the kernel gave to PID 1. If that
            // fails as well nobody can be told, and the boot goes on.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Cuts `text` into pieces of at most `most` bytes (at least 4), never within a character.
fn split(text: &str, most: usize) -> Vec<&str> {
    let (mut rest, mut parts) = (text, Vec::new());
    while rest.len() > most {
        let (part, after) = rest.split_at(rest.floor_char_boundary(most));
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}

/// An ordinary line.
pub(crate) fn info(text: &str) {
    line(Level::Info, text);
}

/// Something a person has to know.
pub(crate) fn error(text: &str) {
    line(Level::Error, text);
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_long_line_is_cut_between_characters_and_nothing_is_lost() {
        let text = "aä€😀".repeat(50);
        for most in 4..40 {
            let parts = split(&text, most);
            assert!(parts.iter().all(|p| p.len() <= most));
            assert_eq!(parts.concat(), text);
        }
        assert_eq!(split("short", 960), ["short"]);
    }
}
