//! The journal of the last starts that failed: texts beside what else is kept, which whoever has the card can read.
//!
//! `left` says that there is one to be read: `lucid left 1`, a line feed, the id of the boot in which the try was armed, a line
//! feed, and `slow` and a line feed for each start at which it took too long to read it; or nothing. Whoever finds out that a try
//! failed leaves it there, the new system itself or the old one that came back, and the old one reads the journal of the start
//! after that boot into `failed-1.txt`. What was there becomes `failed-2.txt`, and so on; but of texts without a journal, one
//! after the other, the newest alone is kept. Their first line is `lucid journal of a failed start, version 1`; they are for
//! people, and no program reads more of them than whether there is a journal. Nothing that fails here keeps anything from being
//! installed or left.

use super::Service;
use crate::{
    error::{Error, Result},
    files::Store,
    journal::{Missing, Start},
    state::{Ending, MAX_TRIES, Phase},
};

/// The texts, the newest first.
pub const FAILED: [&str; 3] = ["failed-1.txt", "failed-2.txt", "failed-3.txt"];
/// Says that one is to be made.
pub const LEFT: &str = "left";
/// The first line of that.
const LEFT_FIRST: &str = "lucid left 1\n";
/// A line after the boot: reading the journal took too long,
const SLOW: &str = "slow\n";
/// which is tried so often.
const MAX_READS: usize = 3;
/// The most bytes of that,
const MAX_LEFT: u64 = 256;
/// and of a text: the lines, and what stands before them.
const MAX_BYTES: u64 = 256 << 10;

/// The text of the start that failed last, for 1, the one before, for 2, and so on.
///
/// # Errors
/// When the disk fails.
pub fn failed(store: &dyn Store, number: u32) -> Result<Option<String>> {
    let index = usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1);
    let Some(name) = FAILED.get(index) else { return Ok(None) };
    let bytes = store.read(name, MAX_BYTES)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The boot that `left` names, if it names one, and how often reading its journal took too long.
pub(crate) fn armed(left: &[u8]) -> Result<Option<(&str, usize)>, String> {
    if left.is_empty() {
        return Ok(None);
    }
    let named = str::from_utf8(left).ok().and_then(|text| text.strip_prefix(LEFT_FIRST)?.split_once('\n'));
    match named {
        Some((id, slow))
            if !id.is_empty()
                && !id.chars().any(char::is_control)
                && slow.len() < SLOW.len() * MAX_READS
                && slow == SLOW.repeat(slow.len() / SLOW.len()) =>
        {
            Ok(Some((id, slow.len() / SLOW.len())))
        }
        _ => Err("it does not name a boot".to_owned()),
    }
}

/// A time in microseconds since 1970, to the second.
fn time(at: u64) -> String {
    let time = i64::try_from(at / 1_000_000).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    time.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

/// What the fourth line of a text without a journal begins with.
const NONE: &str = "no journal: ";

/// Whether a text has no journal.
fn is_empty(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').nth(3).is_some_and(|line| line.starts_with(NONE.as_bytes()))
}

/// The whole text.
fn text(what: &str, reason: &str, journal: &Result<Start, Missing>) -> String {
    let mut text = format!("lucid journal of a failed start, version 1\n{what}\nreason: {reason}\n");
    match journal {
        Err(why) => text.push_str(&format!("{NONE}{why}\n")),
        Ok(Start { boot, from, to, lines, cut, found }) => {
            let which = if *cut { "the last lines" } else { "all lines" };
            if !found {
                text.push_str(
                    "the start in which it was armed is not in the journal: this is the last one that is\n",
                );
            }
            let (from, to) = (time(*from), time(*to));
            text.push_str(&format!("boot {boot}, {which}: {}, from {from} to {to}\n\n", lines.len()));
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

impl Service {
    /// Leaves word that the try that was armed last failed, so that its journal is kept.
    pub(super) fn left(&self) {
        let Phase::Trying { boot_id, .. } = &self.state.phase else { return };
        let left = format!("{LEFT_FIRST}{boot_id}\n");
        if let Err(error) = self.parts.store.replace(LEFT, left.as_bytes()) {
            tracing::warn!("{error}: the journal of this try may not be kept");
        }
    }

    /// Keeps the journal of a start that failed, if there is word of one.
    pub(super) async fn collect(&mut self) {
        let failed = self.collected().await.err().map(|error| error.to_string());
        if let Some(why) = &failed {
            tracing::warn!("the journal of a start that failed is not kept: {why}");
        }
        self.trouble("the journal of a start that failed", failed);
    }

    async fn collected(&self) -> Result<()> {
        let store = &*self.parts.store;
        let Some(left) = store.read(LEFT, MAX_LEFT)? else { return Ok(()) };
        let (armed, slow) = match armed(&left) {
            Ok(None) => return Ok(()),
            Ok(Some(named)) => named,
            Err(why) => {
                store.replace(LEFT, b"")?;
                return Err(Error::Invalid { path: LEFT.into(), why });
            }
        };
        let journal = self.parts.journal.after(armed, &self.parts.boot.boot_id()?).await;
        if let Err(Missing::Slow(why)) = &journal
            && slow + 1 < MAX_READS
        {
            let left = format!("{LEFT_FIRST}{armed}\n{}", SLOW.repeat(slow + 1));
            store.replace(LEFT, left.as_bytes())?;
            return Err(Error::Nothing(format!("{why}; the next start tries it again")));
        }
        let Some((what, reason)) = self.about_the_try() else {
            // The word is left from long ago: whatever start that was, it is not the one that the journal has last.
            if !journal.as_ref().is_ok_and(|start| start.found) {
                tracing::warn!(
                    "{LEFT} names a boot of which neither a try nor the journal knows: it is emptied"
                );
                return store.replace(LEFT, b"");
            }
            let (what, reason) = ("a release of which nothing is known".to_owned(), "not known".to_owned());
            return self.keep(&what, &reason, &journal);
        };
        self.keep(&what, &reason, &journal)
    }

    /// Keeps the text of a start, and empties the word of it.
    fn keep(&self, what: &str, reason: &str, journal: &Result<Start, Missing>) -> Result<()> {
        let store = &*self.parts.store;
        let text = text(what, reason, journal);
        let newest = store.read(FAILED[0], MAX_BYTES)?;
        // A power cut may have come between the texts and the end of this.
        if newest.as_ref().is_none_or(|kept| kept != text.as_bytes()) {
            // Tries that did not start, one after the other, do not push out what others have left.
            let empty = journal.is_err() && newest.is_some_and(|kept| is_empty(&kept));
            for pair in FAILED.windows(2).rev().filter(|_| !empty) {
                let [newer, older] = pair else { continue };
                if let Some(kept) = store.read(newer, MAX_BYTES)? {
                    store.replace(older, &kept)?;
                }
            }
            store.replace(FAILED[0], text.as_bytes())?;
        }
        store.replace(LEFT, b"")?;
        match journal {
            Ok(start) => {
                tracing::info!("the journal of the failed start is kept: {} lines", start.lines.len())
            }
            Err(why) => tracing::warn!("there is no journal of the failed start: {why}"),
        }
        Ok(())
    }

    /// What was tried, and why it failed, where that is known.
    fn about_the_try(&self) -> Option<(String, String)> {
        let what = |version: &dyn std::fmt::Display, slot: &str| format!("release {version} in slot {slot}");
        match (&self.state.phase, self.state.last()) {
            (Phase::Staged { release, slot, tries }, _) if *tries > 0 => Some((
                what(&release.version, slot.name()),
                format!("the machine came back without a word of it (try {tries} of {MAX_TRIES})"),
            )),
            (_, Some(last)) if last.ending == Ending::Failed => {
                Some((what(&last.version, last.slot.name()), last.reason.clone()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_failed_try_names_a_boot_or_nothing() {
        assert_eq!(armed(b""), Ok(None));
        assert_eq!(armed(b"lucid left 1\nboot 7\n"), Ok(Some(("boot 7", 0))));
        assert_eq!(armed(b"lucid left 1\nboot 7\nslow\nslow\n"), Ok(Some(("boot 7", 2))));
        for bytes in [
            &b"lucid left 1\n\n"[..],
            b"lucid left 2\nboot 7\n",
            b"lucid left 1\nboot 7",
            b"lucid left 1\na\nb\n",
            b"lucid left 1\na\nslow",
            b"lucid left 1\na\nslow\nslow\nslow\n",
            b"\xff",
        ] {
            assert!(armed(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_text_is_as_it_was_in_its_version() {
        let lines = ["[    1.000001] systemd[1]: one", "[    2.000002] lucid-rdp[7]: two"].map(str::to_owned);
        let (from, to) = (1_790_000_000_000_000, 1_790_000_009_999_999);
        let start = Start { boot: "aa".to_owned(), from, to, lines: lines.into(), cut: true, found: true };
        let made = text("release 0.2.0 in slot b", "the RDP host answers: it does not", &Ok(start));
        let none =
            text("release 0.2.0 in slot b", "not known", &Err(Missing::None("it left nothing".to_owned())));
        assert_eq!(made, include_str!("../../tests/golden/failed.txt"));
        assert!(is_empty(none.as_bytes()) && !is_empty(made.as_bytes()));
        assert_eq!(none.lines().last(), Some("no journal: it left nothing"));
    }

    #[test]
    fn the_longest_text_can_be_read_again() {
        let line = "x".repeat(crate::journal::MAX_TEXT / 2 - 1);
        let start = Start { lines: vec![line.clone(), line], ..Start::default() };
        // A reason has at most 1000 bytes.
        let made = text("release 4294967295.4294967295.4294967295 in slot b", &"x".repeat(1000), &Ok(start));
        assert!(made.len() as u64 <= MAX_BYTES, "{}", made.len());
    }
}
