use std::collections::VecDeque;

use lucid_statement::{Hash, SessionId, Time};

use crate::{
    error::{Error, Result},
    event::{Data, Entry, Event, Kind},
};

/// The most lines that a recorder gathers before a signed head names them.
pub const MAX_UNCONFIRMED: usize = 1024;

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Canonical JSON without a line feed.
    pub bytes: Vec<u8>,
    /// What the next line calls it.
    pub hash: Hash,
}

/// Gives events their places.
#[derive(Clone, Debug)]
pub struct Chain {
    session: SessionId,
    sequence: u64,
    last: Option<Hash>,
    mono_us: u64,
}

impl Chain {
    /// A chain without events.
    #[must_use]
    pub fn new(session: SessionId) -> Self {
        Self { session, sequence: 0, last: None, mono_us: 0 }
    }

    /// Goes on after a recorder that died: after the newest line that a head confirmed, with a gap.
    ///
    /// # Errors
    /// When the entry is no gap, or a number in it is 2^53 or more.
    pub fn resume(
        session: SessionId,
        confirmed: Option<Hash>,
        time: Time,
        gap: Entry,
    ) -> Result<(Self, Line)> {
        if gap.data.kind() != Kind::Gap {
            return Err(Error::Event("after a recorder that died, a gap comes first".to_owned()));
        }
        let mut chain = Self { session, sequence: 0, last: confirmed, mono_us: time.mono_us };
        let line = chain.append(time, gap)?;
        Ok((chain, line))
    }

    /// Makes the next line.
    ///
    /// # Errors
    /// When the time goes back, or a number is 2^53 or more; then the chain is as before.
    pub fn append(&mut self, time: Time, entry: Entry) -> Result<Line> {
        if time.mono_us < self.mono_us {
            return Err(Error::Event(format!(
                "its time goes back from {} to {} us",
                self.mono_us, time.mono_us
            )));
        }
        if let Data::Gap { from_us, to_us, .. } = entry.data
            && (from_us > to_us || to_us > time.mono_us)
        {
            return Err(Error::Event(format!("the gap from {from_us} to {to_us} us is of no time")));
        }
        let bytes = Event::new(entry, self.session, self.sequence, self.last, time).to_line()?;
        let hash = Hash::from(blake3::hash(&bytes));
        self.sequence += 1;
        self.last = Some(hash);
        self.mono_us = time.mono_us;
        Ok(Line { bytes, hash })
    }

    /// Hash of the newest line.
    #[must_use]
    pub fn last(&self) -> Option<Hash> {
        self.last
    }

    /// How many lines it has made.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.sequence
    }
}

/// What a chain that holds says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Lines.
    pub events: u64,
    /// How often the recorder began: one more than it died and went on.
    pub lives: u64,
    /// The session; none without lines.
    pub session: Option<SessionId>,
    /// Hash of the newest line.
    pub last: Option<Hash>,
    /// Time of the newest line, in microseconds since the session's start.
    pub mono_us: u64,
}

/// Reads lines in their order and holds each to the ones before it. `last` is what a signed head or the manifest says
/// of the newest line; without it, nobody can tell whether lines are missing at the end, or the newest was changed.
///
/// # Errors
/// Names the first wrong line, counted from 1. Where two lines do not fit together, the line after them decides which
/// of the two was changed. Of lines that end too soon, the last one is named.
pub fn verify<'a>(lines: impl IntoIterator<Item = &'a [u8]>, last: Option<Hash>) -> Result<Summary> {
    let wrong = |line: u64, why: &str| Err(Error::Line { line, why: why.to_owned() });
    let mut lines = lines.into_iter().peekable();
    let mut so_far = Summary { events: 0, lives: 1, session: None, last: None, mono_us: 0 };
    let mut sequence = 0;
    // The newest lines of this life, one of which a recorder that died goes on from, or from where this life did.
    let mut recent: VecDeque<(Option<Hash>, u64)> = VecDeque::from([(None, 0)]);
    while let Some(line) = lines.next() {
        let number = so_far.events + 1;
        let event = Event::from_line(line).map_err(|why| Error::Line { line: number, why })?;
        let hash = Hash::from(blake3::hash(line));
        let again = event.sequence == 0 && event.kind == Kind::Gap && number > 1;
        let from = recent.iter().find(|(hash, _)| again && *hash == event.previous).copied();
        // Whether the line after this one bears it out, so that it is not this one that was changed: it follows it, or
        // goes on from the same line, after the recorder had died.
        let mut followed = || match lines.peek() {
            Some(next) => Event::from_line(next).is_ok_and(|next| {
                next.previous == Some(hash) || next.sequence == 0 && next.previous == event.previous
            }),
            None => last == Some(hash),
        };
        if so_far.last == Some(hash) {
            return wrong(number, "it is the line before it once more");
        }
        if so_far.session.is_some_and(|session| session != event.session) {
            // Only the first line's word stands against it.
            let first = number == 2 && event.previous != so_far.last && followed();
            return wrong(if first { 1 } else { number }, "it is of another session");
        }
        if let Some(from) = from {
            so_far.lives += 1;
            // The lines in between, which nobody confirmed, may be of later times.
            so_far.mono_us = from.1;
            sequence = 0;
            recent.clear();
            recent.push_back(from);
        } else if again && followed() {
            return wrong(
                number - 1,
                "the recorder that died does not go on from it, nor from a line shortly before",
            );
        } else if event.sequence != sequence {
            let why = format!(
                "it is event {}, and {sequence} was to come: a line is missing or moved",
                event.sequence
            );
            return wrong(number, &why);
        } else if event.previous != so_far.last {
            return if number > 1 && followed() {
                wrong(number - 1, "it is not the line that the one after it follows")
            } else {
                wrong(number, "it does not follow the line before it")
            };
        }
        if event.mono_us < so_far.mono_us {
            return wrong(number, "its time is before that of the line before it");
        }
        if let Data::Gap { from_us, to_us, .. } = event.data
            && (from_us > to_us || to_us > event.mono_us)
        {
            return wrong(number, "its gap is of no time");
        }
        if recent.len() > MAX_UNCONFIRMED {
            recent.pop_front();
        }
        recent.push_back((Some(hash), event.mono_us));
        sequence += 1;
        so_far.events = number;
        so_far.session = Some(event.session);
        so_far.last = Some(hash);
        so_far.mono_us = event.mono_us;
    }
    match last {
        Some(last) if so_far.last != Some(last) => {
            if recent.iter().any(|(hash, _)| *hash == Some(last)) {
                // Lines that no head names: their recorder died.
                return Ok(so_far);
            }
            wrong(
                so_far.events.max(1),
                "a signed head names another newest line: this one was changed, or lines after it are missing",
            )
        }
        _ => Ok(so_far),
    }
}
