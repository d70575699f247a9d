//! What a machine's recorder writes to its card, looked at from outside while it does.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    error::{Error, Result},
    writes::Writes,
};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A head of a recording, where it came first.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// The entry of the log that has it.
    pub(super) entry: usize,
    /// When the newest of what it covers came, by the machine's clock.
    pub(super) wall_ms: u64,
}

/// The card's log of writes, and the heads in it by session and number.
pub(super) struct Seen {
    pub(super) writes: Writes,
    pub(super) sessions: BTreeMap<String, BTreeMap<u64, Head>>,
}

impl Seen {
    fn look(&mut self) -> Result<()> {
        let Self { writes, sessions } = self;
        writes.advance(|entry, data| {
            for (session, number, wall_ms) in heads(data) {
                let heads = sessions.entry(session).or_default();
                heads.entry(number).or_insert(Head { entry, wall_ms });
            }
        })
    }

    /// The newest head of all sessions that are asked for.
    pub(super) fn newest(&self, is_asked_for: impl Fn(&str) -> bool) -> Option<u64> {
        let asked = self.sessions.iter().filter(|(session, _)| is_asked_for(session));
        asked.filter_map(|(_, heads)| heads.last_key_value().map(|(number, _)| *number)).max()
    }
}

/// Looks at a log all the time until `work` is done, which may ask what was seen so far; gives all of it in the end.
pub(super) fn while_watched<T>(
    log: &Path,
    work: impl FnOnce(&Mutex<Seen>) -> Result<T>,
) -> Result<(T, Seen)> {
    let seen = Mutex::new(Seen { writes: Writes::open(log)?, sessions: BTreeMap::new() });
    let done = AtomicBool::new(false);
    let (worked, looked) = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                shared(&seen).look()?;
                thread::sleep(LOOK);
            }
            Ok(())
        });
        let worked = work(&seen);
        done.store(true, Ordering::Relaxed);
        (worked, looking.join())
    });
    looked.unwrap_or_else(|_| Err(Error::broken("looking at a log of writes panicked")))?;
    let worked = worked?;
    let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    seen.look()?;
    Ok((worked, seen))
}

/// What was seen so far.
pub(super) fn shared(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The heads in what was written, as (session, number, time).
fn heads(data: &[u8]) -> Vec<(String, u64, u64)> {
    const NUMBER: &[u8] = b"\"seq\":";
    const SESSION: &[u8] = b",\"session\":\"";
    const TIME: &[u8] = b"\",\"version\":1,\"wall_ms\":";
    let mut found = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(NUMBER.len()).position(|bytes| bytes == NUMBER) {
        rest = rest.get(at + NUMBER.len()..).unwrap_or_default();
        let head = || {
            let (number, rest) = digits(rest)?;
            let (session, rest) = rest.strip_prefix(SESSION)?.split_at_checked(36)?;
            let (time, end) = digits(rest.strip_prefix(TIME)?)?;
            // Without its end the time may be half of one.
            end.first()?;
            Some((std::str::from_utf8(session).ok()?.to_owned(), number, time))
        };
        found.extend(head());
    }
    found
}

/// The number at the beginning, and what follows it.
fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, rest) = text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count());
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_in_what_is_written_whatever_is_around_them() {
        let id = "0a8fb1c2-1111-4222-8333-444455556666";
        let data = format!(
            "\0\"seq\":x,\"root\":\"00\",\"seq\":17,\"session\":\"{id}\",\"version\":1,\"wall_ms\":1700}}\n\
             \"seq\":18,\"session\":\"{id}\",\"version\":1,\"wall_ms\":2500}}\"seq\":19,\"session\":\"{id}\",\
             \"version\":1,\"wall_ms\":33"
        );
        let whole = [(id.to_owned(), 17, 1700), (id.to_owned(), 18, 2500)];
        assert_eq!(heads(data.as_bytes()), whole);
        for cut in 0..data.len() {
            let found = heads(&data.as_bytes()[..cut]);
            assert_eq!(found, whole[..found.len()], "cut at {cut}");
        }
    }
}
