//! The clipboard between client and desktop: MS-RDPECLIP on one side, the desktop's clipboard on the other.
//!
//! Both sides announce names of formats, and content crosses when somebody pastes: a program of the desktop that
//! pastes makes this host ask the client, a client that pastes makes it ask the program. Each direction exists only
//! when its gate ([`Gates`]) is open.
//!
//! Nothing waits on the session's thread: programs are read without blocking, written to and converted for on other
//! threads, and what goes out to the client is cut into small pieces, so that it delays no picture for long.
//! Content is never logged.

mod channel;
mod formats;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ironrdp_acceptor::AcceptorResult;
use ironrdp_cliprdr::pdu::{ClipboardFormat, ClipboardFormatId};
use ironrdp_svc::{SvcMessage, server_encode_svc_messages};
use lucid_desktop::{ClipboardOffer, ClipboardSink, Desktop, Paste};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use channel::Received;
pub(crate) use channel::{Channel, bounded};
use formats::Form;

use crate::Error;
use crate::gates::Gates;

/// Pastes of the desktop's programs that wait for the client; more get nothing.
const MAX_PASTES: usize = 16;
/// Wishes of the client that wait for programs. A client sends one at a time.
const MAX_WISHES: usize = 64;
/// Threads that may hang on programs which do not read.
const MAX_WRITERS: usize = 8;
/// A client has this long to answer a paste, and a program to write or read what is pasted.
const PATIENCE: Duration = Duration::from_secs(30);
/// And this long when it has copied something else meanwhile.
const GRACE: Duration = Duration::from_secs(2);
/// Between two announcements to the client, so that a program which copies without end costs little.
const ANNOUNCEMENT_PACE: Duration = Duration::from_millis(50);
/// What is written to the client at once, in bytes, as far as messages can be cut there.
const PIECE: usize = 16 * 1024;

/// What has happened that the session has to see to.
#[derive(Debug)]
pub(crate) enum Event {
    /// The desktop's programs have copied or pasted.
    Desktop,
    /// A program's content is there (or is not).
    Read(Option<Vec<u8>>),
    /// Somebody waits for too long, or something may be announced again.
    Time,
}

/// What the desktop's thread leaves for the session's. Only the newest offer counts.
#[derive(Default)]
struct Inbox {
    offer: Option<Option<ClipboardOffer>>,
    pastes: VecDeque<Paste>,
}

struct Sink {
    gates: Gates,
    inbox: Arc<Mutex<Inbox>>,
    wake: Arc<Notify>,
}

fn lock(inbox: &Mutex<Inbox>) -> std::sync::MutexGuard<'_, Inbox> {
    // Nothing that holds this lock leaves the data half-changed.
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClipboardSink for Sink {
    fn offered(&self, offer: Option<ClipboardOffer>) {
        if self.gates.clipboard_to_client {
            // The former one is dropped outside of the lock.
            let former = lock(&self.inbox).offer.replace(offer);
            drop(former);
            self.wake.notify_one();
        }
    }

    fn asked(&self, paste: Paste) {
        let mut inbox = lock(&self.inbox);
        // Dropping one is an empty answer.
        if inbox.pastes.len() < MAX_PASTES {
            inbox.pastes.push_back(paste);
            drop(inbox);
            self.wake.notify_one();
        }
    }
}

/// The session's clipboard; does nothing while no gate is open, or the client has no such channel.
pub(crate) struct Clipboard(Option<Open>);

struct Open {
    gates: Gates,
    channel_id: u16,
    user_id: u16,
    desktop: lucid_desktop::Clipboard,
    inbox: Arc<Mutex<Inbox>>,
    wake: Arc<Notify>,
    output: VecDeque<Vec<u8>>,

    /// The client has told what it has for the first time: the channel is in use.
    ready: bool,
    /// What the client has, as the desktop's programs call it.
    client_has: Vec<(&'static str, ClipboardFormatId, Form)>,
    /// The client's present offer.
    number: u64,
    /// What the client was asked and has not answered. One at a time: answers have no other mark than their order, and
    /// FreeRDP owes some of them.
    asked: Option<Asked>,
    /// Programs whose turn comes then.
    waiting: VecDeque<(Paste, Instant)>,
    writers: JoinSet<()>,

    /// What a program has.
    offer: Option<Arc<ClipboardOffer>>,
    /// The client believes to be able to paste from the desktop.
    announced: bool,
    /// When to announce what is there, if that is new.
    announcement: Option<Instant>,
    last_announcement: Option<Instant>,
    wishes: VecDeque<ClipboardFormatId>,
    reading: Option<tokio::task::AbortHandle>,
    read: mpsc::Sender<Option<Vec<u8>>>,
    has_read: mpsc::Receiver<Option<Vec<u8>>>,
}

struct Asked {
    paste: Paste,
    form: Form,
    until: Instant,
}

impl Clipboard {
    /// Begins, if a gate is open and the client has the channel.
    pub(crate) fn start(result: &mut AcceptorResult, desktop: &Desktop) -> Clipboard {
        let Some(channel_id) = result.static_channels.get_channel_id_by_type::<Channel>() else {
            return Clipboard(None);
        };
        let Some(gates) = channel(result).map(|channel| channel.gates()) else { return Clipboard(None) };
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let wake = Arc::new(Notify::new());
        let sink = Sink { gates, inbox: Arc::clone(&inbox), wake: Arc::clone(&wake) };
        let desktop = match desktop.clipboard(Arc::new(sink)) {
            Ok(desktop) => desktop,
            Err(error) => {
                tracing::warn!("the desktop's clipboard cannot be used: {error}");
                return Clipboard(None);
            }
        };
        let (read, has_read) = mpsc::channel(1);
        Clipboard(Some(Open {
            gates,
            channel_id,
            user_id: result.user_channel_id,
            desktop,
            inbox,
            wake,
            output: VecDeque::new(),
            ready: false,
            client_has: Vec::new(),
            number: 0,
            asked: None,
            waiting: VecDeque::new(),
            writers: JoinSet::new(),
            offer: None,
            announced: false,
            announcement: None,
            last_announcement: None,
            wishes: VecDeque::new(),
            reading: None,
            read,
            has_read,
        }))
    }

    /// Waits for the next event; may be dropped and called again.
    pub(crate) async fn event(&mut self) -> Event {
        match &mut self.0 {
            Some(open) => open.event().await,
            None => std::future::pending().await,
        }
    }

    /// Sees to an event.
    pub(crate) fn handle(&mut self, event: Event, result: &mut AcceptorResult) -> Result<(), Error> {
        let Some(open) = &mut self.0 else { return Ok(()) };
        match event {
            Event::Desktop => open.take_inbox(result)?,
            Event::Read(data) => open.answer(data)?,
            Event::Time => open.look_at_the_clock()?,
        }
        open.announce(result)?;
        open.serve_wishes()
    }

    /// Sees to what the client has sent.
    pub(crate) fn received(&mut self, result: &mut AcceptorResult) -> Result<(), Error> {
        let Some(open) = &mut self.0 else { return Ok(()) };
        let received = channel(result).map(Channel::take).unwrap_or_default();
        for message in received {
            match message {
                Received::Formats(formats) => open.client_copied(&formats)?,
                Received::Wish(format) => open.client_pastes(format)?,
                Received::Data(data) => open.client_answered(data)?,
            }
        }
        open.announce(result)?;
        open.serve_wishes()
    }

    /// Whether something waits to be written to the client.
    pub(crate) fn has_output(&self) -> bool {
        self.0.as_ref().is_some_and(|open| !open.output.is_empty())
    }

    /// The next piece for the client; what waited for there to be none is begun.
    pub(crate) fn output(&mut self, result: &mut AcceptorResult) -> Result<Vec<u8>, Error> {
        let Some(open) = &mut self.0 else { return Ok(Vec::new()) };
        let piece = open.output.pop_front().unwrap_or_default();
        open.announce(result)?;
        open.serve_wishes()?;
        Ok(piece)
    }
}

fn channel(result: &mut AcceptorResult) -> Option<&mut Channel> {
    result.static_channels.get_by_type_mut::<Channel>()?.channel_processor_downcast_mut()
}

impl Open {
    async fn event(&mut self) -> Event {
        let deadline = self.deadline();
        tokio::select! {
            () = self.wake.notified() => Event::Desktop,
            // The other end is ours as well, so there is always one.
            Some(data) = self.has_read.recv() => Event::Read(data),
            () = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => Event::Time,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let asked = self.asked.as_ref().map(|asked| asked.until);
        // While it cannot be made, its time does not matter.
        let announcement = self.announcement.filter(|_| self.ready && self.output.is_empty());
        [asked, announcement].into_iter().flatten().min()
    }

    fn send(&mut self, message: SvcMessage) -> Result<(), Error> {
        let encoded = server_encode_svc_messages(vec![message], self.channel_id, self.user_id)
            .map_err(|_| Error::Encode("a clipboard message"))?;
        cut(&encoded, &mut self.output);
        Ok(())
    }

    // From the client to the desktop.

    fn client_copied(&mut self, formats: &[ClipboardFormat]) -> Result<(), Error> {
        self.ready = true;
        if !self.gates.clipboard_to_desktop {
            return Ok(());
        }
        self.client_has = formats::from_client(formats);
        // It may still answer; FreeRDP tells of one copy twice, and never answers when the first was in between.
        if let Some(asked) = &mut self.asked {
            asked.until = asked.until.min(Instant::now() + GRACE);
        }
        self.number += 1;
        // A failure means that the desktop is ending; its own message ends the session.
        let told = if self.client_has.is_empty() {
            self.desktop.withdraw()
        } else {
            self.offer = None;
            self.announced = false;
            let types: Vec<&str> = self.client_has.iter().map(|(t, ..)| *t).collect();
            self.desktop.offer(self.number, &types)
        };
        if let Err(error) = told {
            tracing::debug!("offering what the client copied: {error}");
        }
        tracing::debug!(types = self.client_has.len(), "the client has copied something");
        Ok(())
    }

    fn program_pastes(&mut self, paste: Paste) -> Result<(), Error> {
        // Dropping it is an empty answer.
        if self.waiting.len() < MAX_PASTES {
            self.waiting.push_back((paste, Instant::now() + PATIENCE));
        }
        self.ask_client()
    }

    /// Asks the client for the next program, unless it owes an answer.
    fn ask_client(&mut self) -> Result<(), Error> {
        while self.asked.is_none() {
            let Some((paste, until)) = self.waiting.pop_front() else { return Ok(()) };
            let has = self.client_has.iter().find(|(mime_type, ..)| *mime_type == paste.mime_type);
            let Some((_, format, form)) = has.copied() else { continue };
            tracing::debug!(?form, "a program pastes: the client is asked");
            self.asked = Some(Asked { paste, form, until });
            self.send(channel::ask(format))?;
        }
        Ok(())
    }

    fn client_answered(&mut self, data: Option<Vec<u8>>) -> Result<(), Error> {
        // Not asked for: of no use, and no harm.
        if let Some(Asked { paste, form, .. }) = self.asked.take() {
            self.give(paste, form, data);
        }
        self.ask_client()
    }

    fn give(&mut self, paste: Paste, form: Form, data: Option<Vec<u8>>) {
        let Some(data) = data else { return };
        if data.len() > self.gates.clipboard_max_bytes {
            tracing::warn!(
                bytes = data.len(),
                limit = self.gates.clipboard_max_bytes,
                "what the client copied is larger than the clipboard's limit and was not taken"
            );
            return;
        }
        while self.writers.try_join_next().is_some() {}
        if self.writers.len() >= MAX_WRITERS {
            tracing::warn!(MAX_WRITERS, "programs that paste and do not read are too many; one gets nothing");
            return;
        }
        self.writers.spawn_blocking(move || {
            let bytes = data.len();
            let Some(data) = formats::to_desktop(form, data) else {
                tracing::warn!(bytes, ?form, "what the client copied is not what it says");
                return;
            };
            match paste.write(&data, PATIENCE) {
                Ok(()) => tracing::debug!(bytes, ?form, "pasted in the desktop"),
                Err(error) => tracing::debug!("{error}"),
            }
        });
    }

    // From the desktop to the client.

    fn take_inbox(&mut self, result: &mut AcceptorResult) -> Result<(), Error> {
        let inbox = std::mem::take(&mut *lock(&self.inbox));
        if let Some(offer) = inbox.offer {
            self.offer = offer.map(Arc::new);
            // What was announced before is no more; an empty clipboard is told only to who believes in a full one.
            if (self.offer.is_some() || self.announced) && self.announcement.is_none() {
                let now = Instant::now();
                self.announcement =
                    Some(self.last_announcement.map_or(now, |last| now.max(last + ANNOUNCEMENT_PACE)));
            }
        }
        for paste in inbox.pastes {
            self.program_pastes(paste)?;
        }
        self.announce(result)
    }

    fn look_at_the_clock(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.asked.take_if(|asked| asked.until <= now).is_some() {
            tracing::warn!("the client did not answer a paste in time");
        }
        self.waiting.retain(|(_, until)| *until > now);
        self.ask_client()
    }

    /// Tells the client what the desktop has, if that is new and not too soon.
    fn announce(&mut self, result: &mut AcceptorResult) -> Result<(), Error> {
        let now = Instant::now();
        // What waits to be written first: newer announcements replace this one meanwhile.
        if !self.ready || !self.output.is_empty() || self.announcement.is_none_or(|at| at > now) {
            return Ok(());
        }
        let formats = self.offer.as_ref().map(|o| formats::for_client(o.mime_types())).unwrap_or_default();
        self.announcement = None;
        if formats.is_empty() && !self.announced {
            return Ok(());
        }
        self.announced = !formats.is_empty();
        self.last_announcement = Some(now);
        let Some(channel) = channel(result) else { return Ok(()) };
        let message = channel.announce(&formats).map_err(|_| Error::Encode("a clipboard message"))?;
        tracing::debug!(formats = formats.len(), "the desktop's clipboard is announced");
        self.send(message)
    }

    fn client_pastes(&mut self, format: ClipboardFormatId) -> Result<(), Error> {
        if self.wishes.len() >= MAX_WISHES {
            return Err(Error::Protocol("clipboard requests without waiting for answers"));
        }
        self.wishes.push_back(format);
        Ok(())
    }

    /// Begins with the client's oldest wish, unless one is being fulfilled.
    fn serve_wishes(&mut self) -> Result<(), Error> {
        while self.reading.is_none() && self.output.is_empty() {
            let Some(format) = self.wishes.pop_front() else { return Ok(()) };
            let offer = self.offer.clone().filter(|_| self.gates.clipboard_to_client);
            let wish = offer
                .as_ref()
                .and_then(|offer| formats::wish(format, offer.mime_types()).map(|wish| (offer, wish)));
            let Some((offer, (mime_type, form))) = wish else {
                self.send(channel::answer(None))?;
                continue;
            };
            let pipe = match offer.receive(mime_type) {
                Ok(pipe) => pipe,
                Err(error) => {
                    tracing::warn!("{error}");
                    self.send(channel::answer(None))?;
                    continue;
                }
            };
            tracing::debug!(?form, "the client pastes: the program is asked");
            let (read, limit) = (self.read.clone(), self.gates.clipboard_max_bytes);
            let task = tokio::task::spawn_local(async move {
                let data = read_program(pipe, form, limit).await;
                // Nobody waits for it when the session has ended.
                let _ = read.send(data).await;
            });
            self.reading = Some(task.abort_handle());
        }
        Ok(())
    }

    fn answer(&mut self, data: Option<Vec<u8>>) -> Result<(), Error> {
        self.reading = None;
        tracing::debug!(bytes = data.as_ref().map(Vec::len), "the client gets what a program copied");
        self.send(channel::answer(data))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

/// Reads a program's content and makes it into what the client asked for.
async fn read_program(pipe: OwnedFd, form: Form, limit: usize) -> Option<Vec<u8>> {
    let mut pipe = match tokio::net::unix::pipe::Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe.take(limit as u64 + 1),
        Err(error) => {
            tracing::warn!("reading from a pipe for the clipboard: {error}");
            return None;
        }
    };
    let mut data = Vec::new();
    match tokio::time::timeout(PATIENCE, pipe.read_to_end(&mut data)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!("reading what a program copied: {error}");
            return None;
        }
        Err(_) => {
            tracing::warn!("a program did not give what it copied within {} s", PATIENCE.as_secs());
            return None;
        }
    }
    let too_large = || {
        tracing::warn!(limit, "what a program copied is larger than the clipboard's limit and was not sent");
    };
    if data.len() > limit {
        too_large();
        return None;
    }
    let made = tokio::task::spawn_blocking(move || formats::to_client(form, data)).await.ok()?;
    match made {
        Some(data) if data.len() > limit => {
            too_large();
            None
        }
        Some(data) => Some(data),
        None => {
            tracing::warn!(?form, "what a program copied is not what it says");
            None
        }
    }
}

/// Cuts encoded messages between TPKTs (their length stands in bytes 2 and 3, big endian), so that other messages may
/// stand between the pieces.
fn cut(mut encoded: &[u8], pieces: &mut VecDeque<Vec<u8>>) {
    let mut piece = Vec::new();
    while let [_, _, high, low, ..] = encoded {
        let length = usize::from(u16::from_be_bytes([*high, *low])).clamp(4, encoded.len());
        let (packet, rest) = encoded.split_at(length);
        if !piece.is_empty() && piece.len() + packet.len() > PIECE {
            pieces.push_back(std::mem::take(&mut piece));
        }
        piece.extend_from_slice(packet);
        encoded = rest;
    }
    if !piece.is_empty() {
        pieces.push_back(piece);
    }
}
