//! Files on the clipboard (MS-RDPECLIP 1.3.2.2.3): names and sizes are a list, content is asked for piece by piece.
//!
//! The desktop's files are seen and made by its launcher, in its sandbox (see [`lucid_desktop::files`]). Nothing crosses
//! before somebody pastes: a program that pastes waits until all the client's files are in a folder of the session
//! ([`fetch`]); a client asks for the pieces that it needs ([`serve`]).

pub(crate) mod fetch;
pub(crate) mod list;
pub(crate) mod progress;
pub(crate) mod serve;

use std::time::Duration;

use lucid_desktop::files::{Answer, Entry, MAX_ENTRIES, Request, frame, header, lengths};
use lucid_ipc::session::{Actor, Direction};
use lucid_policy::{Action, Transfer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::audit::{self, Log};
use crate::gates::Holding;

/// What the client is asked for at once, in bytes.
const PIECE: u32 = 512 * 1024;
/// The largest message with files that a client may send, in bytes: a list, or a piece.
pub(crate) const LARGEST: usize = if list::LARGEST > PIECE as usize { list::LARGEST } else { PIECE as usize };
/// The launcher, and the client for each piece, have this long.
const PATIENCE: Duration = Duration::from_secs(30);

const _: () = assert!(list::LARGEST == 4 + MAX_ENTRIES * 592);

/// Whether all of these may pass, of `bytes` together. The first that may not is told, and none does.
fn permitted(
    way: Direction,
    entries: &[Entry],
    bytes: u64,
    holding: &Holding,
    log: &Log,
) -> Result<(), Trouble> {
    let actor = if way == Direction::ToDesktop { Actor::Client } else { Actor::Device };
    let limit = holding.gates().files_max_bytes;
    if bytes > limit {
        let files = entries.len();
        let detail = format!("{bytes} bytes in {files} files and folders are beyond the limit of {limit}");
        log.note(audit::violation(actor, "file.max_size_mb", detail));
        return Err(Trouble::Refused(format!(
            "{bytes} bytes of files are larger than the clipboard's limit of {limit}"
        )));
    }
    for entry in entries.iter().filter(|entry| !entry.folder) {
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        let transfer = Transfer { bytes, dir: None, name, replaces: false };
        let action =
            if way == Direction::ToDesktop { Action::Upload(transfer) } else { Action::Download(transfer) };
        if !holding.permits(&action) {
            log.note(audit::violation(actor, "file.allowed_extensions", entry.path.clone()));
            return Err(
                "a file among them may not pass: its name has an ending that the policy does not allow"
                    .into(),
            );
        }
    }
    Ok(())
}

/// A file's size, or a piece of it.
#[derive(Debug)]
pub(crate) struct Contents {
    /// As in the request.
    pub(crate) stream: u32,
    /// None: it cannot be had.
    pub(crate) data: Option<Vec<u8>>,
}

/// Why something with files was not done; for the log, without names.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may be asked for something else.
    Refused(String),
    /// The connection to the launcher is of no use any more.
    Lost(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Trouble::Refused(why) | Trouble::Lost(why)) = self;
        f.write_str(why)
    }
}

impl From<&'static str> for Trouble {
    fn from(why: &'static str) -> Trouble {
        Trouble::Refused(why.into())
    }
}

/// A connection to the launcher.
pub(crate) struct Launcher(UnixStream);

impl Launcher {
    pub(crate) fn connect(files: &lucid_desktop::Files) -> Result<Launcher, Trouble> {
        let lost =
            |error: &dyn std::fmt::Display| Trouble::Lost(format!("reaching the desktop's files: {error}"));
        let socket = files.connect().map_err(|e| lost(&e))?;
        socket.set_nonblocking(true).map_err(|e| lost(&e))?;
        UnixStream::from_std(socket).map(Launcher).map_err(|e| lost(&e))
    }

    /// Asks and waits for the answer.
    pub(crate) async fn call(
        &mut self,
        request: &Request,
        data: &[u8],
    ) -> Result<(Answer, Vec<u8>), Trouble> {
        let frame = frame(request, data).map_err(|e| Trouble::Refused(e.to_string()))?;
        let exchanged = tokio::time::timeout(PATIENCE, async {
            self.0.write_all(&frame).await.map_err(|e| e.to_string())?;
            self.receive().await
        });
        let answer = match exchanged.await {
            Ok(answer) => answer.map_err(|why| Trouble::Lost(format!("the desktop's files: {why}")))?,
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(Trouble::Lost(format!("the desktop's files: nothing came within {seconds} s")));
            }
        };
        match answer {
            (Answer::Refused { why }, _) => {
                let why: String = why.chars().filter(|c| !c.is_control()).take(200).collect();
                Err(Trouble::Refused(format!("the desktop says: {why}")))
            }
            answer => Ok(answer),
        }
    }

    async fn receive(&mut self) -> Result<(Answer, Vec<u8>), String> {
        let mut first = [0; 8];
        self.0.read_exact(&mut first).await.map_err(|e| e.to_string())?;
        let (head, data) = lengths(first).map_err(|e| e.to_string())?;
        let head = self.exactly(head).await?;
        let data = self.exactly(data).await?;
        Ok((header(&head).map_err(|e| e.to_string())?, data))
    }

    /// What is only announced takes no memory.
    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        (&mut self.0).take(length as u64).read_to_end(&mut bytes).await.map_err(|e| e.to_string())?;
        if bytes.len() == length { Ok(bytes) } else { Err("it ended within an answer".into()) }
    }
}
