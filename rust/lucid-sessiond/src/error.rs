use std::{io, path::PathBuf};

use lucid_ipc::tonic::Status;
use lucid_recording::SessionId;

/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What may go wrong in the recorder. No message contains what was recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody could open what would be recorded.
    #[error(
        "no --owner is given: recordings are sealed to the owner's public key, and without one nobody could open \
         them. `lucidctl recording new-key FILE` makes a key on the owner's own machine and prints the public half \
         for --owner"
    )]
    NoOwner,
    /// The recipients cannot be used together.
    #[error("the keys given with --owner and --observer: {0}")]
    Recipients(String),
    /// A file of the state or run directory.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Two recorders would write to the same directory.
    #[error("{} is used by another lucid-sessiond: stop it, or give another --state", .0.display())]
    InUse(PathBuf),
    /// The socket cannot be had, or breaks.
    #[error("{0}")]
    Socket(#[from] lucid_ipc::Error),
    /// The socket was served no more.
    #[error("serving the socket: {0}")]
    Serve(lucid_ipc::tonic::transport::Error),
    /// A recording cannot be written, recovered or read.
    #[error("{0}")]
    Recording(#[from] lucid_recording::Error),
    /// What is stated cannot be read.
    #[error("{0}")]
    Statement(#[from] lucid_statement::Error),
    /// A policy that is none.
    #[error("{0}")]
    Policy(#[from] lucid_policy::Error),
    /// A receipt that is not taken.
    #[error("the consent receipt is refused: {0}")]
    Consent(#[from] lucid_policy::consent::Refused),
    /// A request or a decision that is not taken.
    #[error("{0}")]
    Approval(#[from] lucid_policy::approval::Refused),
    /// A session's id was used before.
    #[error("session {0} was used before, and each is used once: begin a new one")]
    UsedSession(SessionId),
    /// Nobody prepared that session, or too long ago.
    #[error("session {0} is not prepared (any more): prepare a new one")]
    NotPrepared(SessionId),
    /// There are as many prepared sessions as there may be.
    #[error("{0} prepared sessions wait for their users, and there may be no more: wait until some are used")]
    TooManyPrepared(usize),
    /// There are as many sessions as the policy allows.
    #[error("the policy allows no further session beside {0}: end one")]
    Concurrent(u32),
    /// Its user does not accept the policy.
    #[error("the policy was not accepted")]
    Declined,
    /// The list of used sessions.
    #[error("{} is not valid: {why}; without it a session could be used again, so it is not made anew", path.display())]
    Used {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file of accounts.
    #[error("the accounts in {}: {why}", path.display())]
    Accounts {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An account cannot be so.
    #[error("{0}")]
    Account(#[from] lucid_accounts::Error),
    /// Nobody could look after the device any more.
    #[error("the device would be left without an owner who is let in: name another one first")]
    LastOwner,
    /// Somebody has not proved who he is, or may not connect.
    #[error("{0}")]
    NotAdmitted(String),
    /// Somebody's role is another one.
    #[error("{0}")]
    Role(&'static str),
    /// There is no such session.
    #[error("no session {0} runs: `lucidctl session` shows which do")]
    NoSession(String),
    /// A policy that allows more than the device's.
    #[error(
        "this policy allows more than the device's does: the owner decides how much sessions may do at most"
    )]
    Wider,
    /// What was decided for a session is not known.
    #[error("what holds in session {0} is not known: begin a new one")]
    NoPolicy(SessionId),
    /// Nobody uses the session just now.
    #[error("nobody is connected to session {0}: ask when somebody is")]
    NotRunning(SessionId),
    /// An event cannot be written.
    #[error("{0}")]
    Audit(#[from] lucid_audit::Error),
    /// The bounds of the disk leave no room for a new session.
    #[error("there is no room for a new recording: {0}")]
    NoRoom(String),
    /// There are as many sessions as there may be.
    #[error("{0} sessions are being recorded or wait, and there may be no more: end one")]
    TooMany(usize),
    /// A session that is to be resumed is not waiting.
    #[error("session {0} is still being recorded by another stream: end that, and try again")]
    Busy(SessionId),
    /// There is no such session to resume.
    #[error("session {0} is not waiting to be resumed: it has ended, or never was; begin a new one")]
    NotWaiting(String),
    /// A session is another user's.
    #[error("session {0} belongs to another user: begin a new one")]
    OtherUser(SessionId),
    /// A caller sent what it must not.
    #[error("{0}")]
    Item(String),
    /// A picture cannot be compressed.
    #[error("compressing a picture: {0}")]
    Picture(#[from] png::EncodingError),
    /// The index cannot be used.
    #[error("the index: {0}")]
    Index(#[from] sled::Error),
    /// A thread of this program died.
    #[error("internal: {0}")]
    Internal(&'static str),
    /// The service stops.
    #[error("the recorder stops; when it runs again, resume the session")]
    Stopping,
}

/// What the kernel says of a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Full,
    ReadOnly,
    Other,
}

impl Error {
    fn disk(&self) -> Option<Disk> {
        let (Self::File { source, .. } | Self::Recording(lucid_recording::Error::Io { source, .. })) = self
        else {
            return None;
        };
        Some(match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Disk::Full,
            io::ErrorKind::ReadOnlyFilesystem => Disk::ReadOnly,
            _ => Disk::Other,
        })
    }

    /// Whether it may be gone by itself later: the disk's troubles, and not those of the files on it.
    pub(crate) fn may_pass(&self) -> bool {
        self.disk().is_some() || matches!(self, Self::Recording(lucid_recording::Error::Busy(_)))
    }

    /// What a caller is told.
    pub(crate) fn status(&self) -> Status {
        const KEPT: &str = "what was kept stays, and nothing more of this session is recorded";
        match (self, self.disk()) {
            (_, Some(Disk::Full)) => Status::resource_exhausted(format!(
                "{self}: the disk is full; {KEPT}. Copy recordings elsewhere and remove them here, then resume the session"
            )),
            (_, Some(Disk::ReadOnly)) => Status::failed_precondition(format!(
                "{self}: the disk is read-only; {KEPT}. Look at the kernel's log, check the file system, then resume the session"
            )),
            (_, Some(Disk::Other)) => Status::internal(format!(
                "{self}; {KEPT}. Look at the kernel's log for the disk, then resume the session"
            )),
            (Self::NoRoom(_) | Self::TooMany(_) | Self::TooManyPrepared(_) | Self::Concurrent(_), _) => {
                Status::resource_exhausted(self.to_string())
            }
            (Self::UsedSession(_), _) => Status::already_exists(self.to_string()),
            (Self::Consent(_) | Self::Approval(_) | Self::Declined, _) => {
                Status::permission_denied(self.to_string())
            }
            (Self::Wider | Self::Role(_), _) => Status::permission_denied(self.to_string()),
            (Self::Policy(_) | Self::Statement(_), _) => Status::invalid_argument(self.to_string()),
            (Self::NoPolicy(_) | Self::NotRunning(_), _) => Status::failed_precondition(self.to_string()),
            (Self::Busy(_) | Self::Stopping, _) => Status::unavailable(self.to_string()),
            (Self::NoSession(_) | Self::NotWaiting(_) | Self::NotPrepared(_), _) => {
                Status::not_found(self.to_string())
            }
            (Self::OtherUser(_), _) => Status::permission_denied(self.to_string()),
            (Self::Item(_), _) => Status::invalid_argument(self.to_string()),
            (Self::Recording(lucid_recording::Error::Argument(_)), _) => {
                Status::failed_precondition(format!("{self}; {KEPT}"))
            }
            _ => Status::internal(format!("{self}; {KEPT}")),
        }
    }
}

/// Says to which file an error of the system belongs.
pub(crate) trait At<T> {
    /// `doing` is a verb, as in "writing".
    fn at(self, doing: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|source| Error::File { doing, path: path.to_owned(), source })
    }
}
