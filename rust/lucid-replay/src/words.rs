//! Events as people read them, and subtitles of them.

use std::io::Write;

use lucid_audit::{Data, Direction, Event, Outcome};

/// A time of a session: `1:02:03.4`.
#[must_use]
pub fn time(us: u64) -> String {
    let (hours, minutes) = (us / 3_600_000_000, us / 60_000_000 % 60);
    let (seconds, tenths) = (us / 1_000_000 % 60, us / 100_000 % 10);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}.{tenths}")
    } else {
        format!("{minutes}:{seconds:02}.{tenths}")
    }
}

/// From one time to another: `from 0:04.0 to 0:07.5`.
#[must_use]
pub fn span(from_us: u64, to_us: u64) -> String {
    format!("from {} to {}", time(from_us), time(to_us))
}

/// So many bytes, to a tenth of their unit.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < units.len() {
        (tenths, unit) = (tenths / 1000, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

fn count(number: u32, one: &str, many: &str) -> Option<String> {
    match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{number} {many}")),
    }
}

/// An event in a few words: `focus: foot — ~/notes`.
#[must_use]
pub fn event(event: &Event) -> String {
    let words = match &event.data {
        Data::Connect { address, security } => format!("connected: {address}, {security}"),
        Data::Authenticate { method, user } => format!("{user} signed in with {method}"),
        Data::Consent { .. } => "the policy was accepted".to_owned(),
        Data::Request { requester, seconds, what, why, .. } => {
            format!("{requester} asks for {seconds} s: {what} ({why})")
        }
        Data::Approve { agree, approver, needed, .. } => format!("{approver} agrees ({agree} of {needed})"),
        Data::Deny { approver, reason, .. } => format!("{approver} says no ({reason})"),
        Data::Lapse { in_effect: true, .. } => "what was approved is over".to_owned(),
        Data::Lapse { in_effect: false, .. } => "nobody decided on what was asked for".to_owned(),
        Data::Input { clicks, keys, wheel, .. } => {
            let parts = [
                count(keys.letters, "letter", "letters"),
                count(keys.digits, "digit", "digits"),
                count(keys.punctuation, "sign or space", "signs and spaces"),
                count(keys.navigation, "navigation key", "navigation keys"),
                count(keys.function, "function key", "function keys"),
                count(keys.modifiers, "modifier", "modifiers"),
                count(keys.other, "other key", "other keys"),
                count(*clicks, "click", "clicks"),
                count(*wheel, "wheel step", "wheel steps"),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            if parts.is_empty() { "no input".to_owned() } else { parts.join(", ") }
        }
        Data::Focus { app_id: None, title: None } => "focus: a window that is not named".to_owned(),
        Data::Focus { app_id, title } => {
            let app = app_id.as_ref().map(ToString::to_string);
            let title = title.as_ref().map(ToString::to_string);
            let both: Vec<String> = app.into_iter().chain(title).collect();
            format!("focus: {}", both.join(" — "))
        }
        Data::Clipboard { bytes, direction, r#type, .. } => {
            format!("pasted {} of {} {}", size(*bytes), r#type, towards(*direction))
        }
        Data::File { bytes, direction, name, .. } => {
            format!("file {name}, {}, {}", size(*bytes), towards(*direction))
        }
        Data::Resize { height, monitors, width } => {
            let on = count(*monitors, "monitor", "monitors").unwrap_or_else(|| "no monitor".to_owned());
            format!("the desktop is {width} by {height} pixels on {on}")
        }
        Data::Violation { detail, rule } => format!("rule broken: {rule} ({detail})"),
        Data::Gap { from_us, reason, to_us } => gap(*from_us, *to_us, reason.as_str()),
        Data::Disconnect { reason } => format!("disconnected: {reason}"),
        Data::End { reason } => format!("the session ended: {reason}"),
    };
    match event.outcome {
        Outcome::Allowed => words,
        Outcome::Refused => format!("refused: {words}"),
        Outcome::Failed => format!("failed: {words}"),
    }
}

/// Something that may be missing.
#[must_use]
pub fn gap(from_us: u64, to_us: u64, reason: &str) -> String {
    format!("not recorded: {}, {reason}", span(from_us, to_us))
}

fn towards(direction: Direction) -> &'static str {
    match direction {
        Direction::ToClient => "to the client",
        Direction::ToDesktop => "to the desktop",
    }
}

/// How long a subtitle is shown, unless the next one comes sooner; and at least.
const SHOWN_US: u64 = 4_000_000;
const LEAST_US: u64 = 1_500_000;

/// Writes subtitles (WebVTT).
pub(crate) struct Subtitles<W> {
    out: W,
    from_us: u64,
    to_us: u64,
    /// What is shown from when on, at least and at most until when.
    held: Option<(u64, u64, u64, String)>,
}

impl<W: Write> Subtitles<W> {
    /// Of what is between two times.
    pub(crate) fn new(mut out: W, from_us: u64, to_us: u64) -> std::io::Result<Self> {
        out.write_all(b"WEBVTT\n")?;
        Ok(Self { out, from_us, to_us, held: None })
    }

    /// Adds one; times do not go back. A text that stands for a span is shown as long as that.
    pub(crate) fn add(&mut self, at_us: u64, until_us: Option<u64>, text: &str) -> std::io::Result<()> {
        let at = at_us.max(self.from_us);
        if let Some((from, least, most, text)) = self.held.take() {
            self.write(from, most.min(at.max(least)), &text)?;
        }
        let least = until_us.unwrap_or(at + LEAST_US);
        let most = until_us.unwrap_or(at + SHOWN_US);
        self.held = Some((at, least, most.max(least), text.to_owned()));
        Ok(())
    }

    fn write(&mut self, from: u64, until: u64, text: &str) -> std::io::Result<()> {
        let until = until.min(self.to_us);
        if until <= from {
            return Ok(());
        }
        // Titles come from whatever runs on the desktop.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let (from, until) = (stamp(from - self.from_us), stamp(until - self.from_us));
        write!(self.out, "\n{from} --> {until}\n{text}\n")
    }

    /// Writes the last one.
    pub(crate) fn finish(mut self) -> std::io::Result<W> {
        if let Some((from, _, most, text)) = self.held.take() {
            self.write(from, most, &text)?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// `hh:mm:ss.ttt`
fn stamp(us: u64) -> String {
    let ms = us / 1000;
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", ms % 1000)
}
