//! The desktop's end of the sound: the pipe out of its sandbox.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lucid_desktop::sound::{FRAME, RATE};
use tokio::net::unix::pipe::Receiver;

use crate::Error;

/// So much faster than real time the pipe may be read at most, so that a program which writes without end costs
/// little.
const MARGIN: f64 = 1.1;
/// And so much at once.
const BURST: Duration = Duration::from_millis(200);
/// What is read at once, in bytes.
const ONCE: usize = 16 * 1024;
/// A pipe holds 64 KiB; a program may write while it is emptied.
const MOST_DRAINED: usize = 256 * 1024;

/// What the desktop's programs play. Lives as long as the desktop; one client at a time reads it.
#[derive(Debug)]
pub(crate) struct Source {
    pipe: Receiver,
    /// When what was read would have been played.
    played: Cell<Option<Instant>>,
    /// The last bytes, if they were no whole frame.
    rest: RefCell<Vec<u8>>,
}

impl Source {
    pub(crate) fn new(pipe: OwnedFd) -> Result<Source, Error> {
        let pipe = Receiver::from_owned_fd(pipe).map_err(Error::Sound)?;
        Ok(Source { pipe, played: Cell::new(None), rest: RefCell::default() })
    }

    /// Waits until there is something and it may be read.
    pub(super) async fn readable(&self) {
        if let Some(played) = self.played.get()
            && let Some(due) = played.checked_sub(BURST)
        {
            tokio::time::sleep_until(due.into()).await;
        }
        if let Err(error) = self.pipe.readable().await {
            tracing::warn!("waiting for the desktop's sound: {error}");
            std::future::pending::<()>().await;
        }
    }

    /// Appends what is there.
    pub(super) fn read(&self, samples: &mut Vec<i16>) {
        let bytes = self.read_bytes();
        let now = Instant::now();
        let lasts = Duration::from_secs_f64(bytes as f64 / (f64::from(RATE) * FRAME as f64 * MARGIN));
        self.played.set(Some(self.played.get().map_or(now, |played| played.max(now)) + lasts));
        let mut rest = self.rest.borrow_mut();
        let whole = rest.len() / FRAME * FRAME;
        samples.extend(rest.drain(..whole).as_slice().as_chunks().0.iter().map(|b| i16::from_le_bytes(*b)));
    }

    /// Throws away what nobody has read in time.
    pub(super) fn drain(&self) {
        let mut drained = 0;
        let mut rest = self.rest.borrow_mut();
        while drained < MOST_DRAINED {
            let mut bytes = [0; ONCE];
            // Not by tokio, which tries only what it has been told of already.
            match rustix::io::read(&self.pipe, &mut bytes) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => break,
                Ok(read) => {
                    drained += read;
                    rest.extend_from_slice(bytes.get(..read).unwrap_or_default());
                    let whole = rest.len() / FRAME * FRAME;
                    rest.drain(..whole);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!("emptying the pipe with the desktop's sound: {error}");
                    break;
                }
            }
        }
    }

    /// For tests that do not run in real time.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.played.set(None);
    }

    fn read_bytes(&self) -> usize {
        let mut rest = self.rest.borrow_mut();
        let begin = rest.len();
        rest.resize(begin + ONCE, 0);
        let read = match self.pipe.try_read(rest.get_mut(begin..).unwrap_or_default()) {
            Ok(read) => read,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    tracing::warn!("reading the desktop's sound: {error}");
                }
                0
            }
        };
        rest.truncate(begin + read);
        read
    }
}
