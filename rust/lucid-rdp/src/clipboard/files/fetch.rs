//! From the client to the desktop: all files of a list, one piece after the other, into a folder of the session.
//!
//! While one piece is being written, the next is on its way; no more is held.

use ironrdp_cliprdr::pdu::{FileContentsFlags, FileContentsRequest};
use lucid_desktop::files::{Answer, Entry, Request};
use lucid_ipc::session::{Direction, Outcome};
use tokio::sync::mpsc;

use super::list::Wanted;
use super::{Contents, Launcher, PATIENCE, PIECE, Trouble, permitted};
use crate::audit::{self, Crossing, Log};
use crate::gates::Holding;

/// What the session has to see to.
#[derive(Debug)]
pub(crate) enum Step {
    /// The client is to be asked.
    Ask(FileContentsRequest),
    /// Of so many bytes so many have come.
    Come { all: u64, come: u64 },
    /// All files are there, or it went wrong.
    Done(Result<Vec<String>, Trouble>),
}

/// The talk with the client, by way of the session.
struct Client {
    steps: mpsc::Sender<(u64, Step)>,
    number: u64,
    answers: mpsc::Receiver<Contents>,
    stream: u32,
}

impl Client {
    async fn ask(&mut self, index: usize, range: Option<(u64, u32)>) -> Result<(), Trouble> {
        self.stream = self.stream.wrapping_add(1);
        let (flags, (position, requested_size)) = match range {
            Some(range) => (FileContentsFlags::RANGE, range),
            None => (FileContentsFlags::SIZE, (0, 8)),
        };
        let index = i32::try_from(index).map_err(|_| "there are too many files")?;
        let request = FileContentsRequest {
            stream_id: self.stream,
            index,
            flags,
            position,
            requested_size,
            data_id: None,
        };
        self.tell(Step::Ask(request)).await
    }

    async fn tell(&mut self, step: Step) -> Result<(), Trouble> {
        let gone = |_| Trouble::Refused("the session has ended".into());
        self.steps.send((self.number, step)).await.map_err(gone)
    }

    async fn answer(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            match tokio::time::timeout(PATIENCE, self.answers.recv()).await {
                Ok(Some(contents)) if contents.stream == self.stream => {
                    return contents.data.ok_or_else(|| "the client refused a piece of a file".into());
                }
                // To what was asked before.
                Ok(Some(_)) => {}
                Ok(None) => return Err("the session has ended".into()),
                Err(_) => return Err("the client did not give a piece of a file in time".into()),
            }
        }
    }
}

/// Fetches the files. `number` marks the steps as this fetch's.
pub(crate) async fn fetch(
    mut launcher: Launcher,
    wanted: Vec<Wanted>,
    holding: Holding,
    number: u64,
    answers: mpsc::Receiver<Contents>,
    steps: mpsc::Sender<(u64, Step)>,
    log: Log,
) {
    let mut client = Client { steps: steps.clone(), number, answers, stream: 0 };
    let done = all(&mut launcher, &mut client, wanted, &holding, &log).await;
    // Nobody waits for it when the session has ended.
    let _ = steps.send((number, Step::Done(done))).await;
}

async fn all(
    launcher: &mut Launcher,
    client: &mut Client,
    wanted: Vec<Wanted>,
    holding: &Holding,
    log: &Log,
) -> Result<Vec<String>, Trouble> {
    let mut entries = Vec::with_capacity(wanted.len());
    for (index, Wanted { mut entry, size_known }) in wanted.into_iter().enumerate() {
        if !size_known {
            client.ask(index, None).await?;
            let size = client.answer().await?;
            let size = <[u8; 8]>::try_from(&size[..]).map_err(|_| "the client gave no size of a file")?;
            entry.size = u64::from_le_bytes(size);
        }
        entries.push(entry);
    }
    let bytes = lucid_desktop::files::check(&entries)?;
    permitted(Direction::ToDesktop, &entries, bytes, holding, log)?;
    expect(launcher.call(&Request::Begin { entries: entries.clone() }, &[]).await?, &Answer::Done)?;
    pieces(launcher, client, &entries, bytes, log).await?;
    match launcher.call(&Request::Finish, &[]).await? {
        (Answer::Finished { uris }, _) => checked(uris),
        _ => Err(Trouble::Lost("the desktop's files: another answer was expected".into())),
    }
}

async fn pieces(
    launcher: &mut Launcher,
    client: &mut Client,
    entries: &[Entry],
    all: u64,
    log: &Log,
) -> Result<(), Trouble> {
    let mut waiting: Option<(u32, u64, Vec<u8>)> = None;
    let mut come = 0;
    for (index, entry) in entries.iter().enumerate() {
        let place = u32::try_from(index).map_err(|_| "there are too many files")?;
        let mut offset = 0;
        let mut coming = Coming::new(entry, log);
        while offset < entry.size {
            let length = u32::try_from(entry.size - offset).unwrap_or(u32::MAX).min(PIECE);
            client.ask(index, Some((offset, length))).await?;
            write(launcher, waiting.take()).await?;
            let data = client.answer().await?;
            if data.is_empty() || data.len() > length as usize {
                return Err("the client gave another piece of a file than it was asked for".into());
            }
            if log.is_on() {
                coming.crossing.piece(offset, &data);
            }
            let end = offset + data.len() as u64;
            come += data.len() as u64;
            client.tell(Step::Come { all, come }).await?;
            waiting = Some((place, offset, data));
            offset = end;
        }
        coming.whole = true;
    }
    write(launcher, waiting).await
}

/// A file that comes. It is told of when it is there, or will not be.
struct Coming<'a> {
    entry: &'a Entry,
    log: &'a Log,
    crossing: Crossing,
    whole: bool,
}

impl<'a> Coming<'a> {
    fn new(entry: &'a Entry, log: &'a Log) -> Coming<'a> {
        Coming { entry, log, crossing: Crossing::default(), whole: false }
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let Coming { entry, log, crossing, whole } = self;
        if !entry.folder {
            let outcome = if *whole { Outcome::Allowed } else { Outcome::Failed };
            let (way, path) = (Direction::ToDesktop, entry.path.clone());
            let hash = crossing.hash(entry.size).filter(|_| *whole);
            log.note(audit::file(outcome, "clipboard", way, path, crossing.bytes(), hash));
        }
    }
}

async fn write(launcher: &mut Launcher, piece: Option<(u32, u64, Vec<u8>)>) -> Result<(), Trouble> {
    let Some((index, offset, data)) = piece else { return Ok(()) };
    expect(launcher.call(&Request::Write { index, offset }, &data).await?, &Answer::Done)
}

fn expect((answer, _): (Answer, Vec<u8>), expected: &Answer) -> Result<(), Trouble> {
    if answer == *expected {
        return Ok(());
    }
    Err(Trouble::Lost("the desktop's files: another answer was expected".into()))
}

/// The places come from the desktop and go back there; they must not become lines of their own.
fn checked(uris: Vec<String>) -> Result<Vec<String>, Trouble> {
    if uris.iter().all(|uri| uri.starts_with("file:///") && !uri.chars().any(char::is_control)) {
        return Ok(uris);
    }
    Err(Trouble::Lost("the desktop's files: a place is malformed".into()))
}
