//! What may go wrong.

use std::io;

/// What may go wrong with a desktop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that is outside the limits.
    #[error("asking for a desktop: {what}; correct the request")]
    Request {
        /// What is wrong with it.
        what: String,
    },
    /// The other side of the desktop socket sent something that is not the protocol.
    #[error("desktop socket: {what}; both sides must be of the same Lucid release")]
    Protocol {
        /// What was wrong.
        what: String,
    },
    /// The launcher could not start a desktop.
    #[error("the launcher could not start a desktop: {reason}")]
    Launcher {
        /// What the launcher said.
        reason: String,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// What was being done, to what.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Something took too long.
    #[error("{doing}: nothing came within {seconds} s; see the journal of the desktop")]
    TimedOut {
        /// What was being done.
        doing: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The compositor lacks something.
    #[error("the compositor does not offer {interface}; use sway 1.7 or newer")]
    Missing {
        /// Name of the Wayland interface.
        interface: &'static str,
    },
    /// The connection to the compositor is gone.
    #[error("the connection to the compositor ended: {reason}; open a new desktop")]
    Compositor {
        /// Why.
        reason: String,
    },
    /// The picture could not be taken.
    #[error("taking the desktop's picture: {reason}; open a new desktop")]
    Capture {
        /// Why.
        reason: String,
    },
    /// The keymap is not usable.
    #[error("reading the keymap: {reason}; choose another keyboard layout")]
    Keymap {
        /// Why.
        reason: String,
    },
    /// Windows could not be shielded, or shown again.
    #[error("shielding windows: {reason}; nothing of the desktop is shown")]
    Shield {
        /// Why.
        reason: String,
    },
    /// The launcher closed its socket: the desktop's processes are gone.
    #[error("the launcher ended the desktop; see the journal of the desktop")]
    LauncherGone,
}

impl Error {
    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Error {
        let doing = doing.into();
        move |errno| Error::System { doing, source: errno.into() }
    }

    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::System { doing, source }
    }
}
