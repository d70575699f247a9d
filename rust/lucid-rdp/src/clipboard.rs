//! The clipboard between client and desktop: MS-RDPECLIP on one side, the desktop's clipboard on the other.
//!
//! Both sides announce names of formats, and content crosses when somebody pastes: a program of the desktop that
//! pastes makes this host ask the client, a client that pastes makes it ask the program. Each direction exists only
//! while its gate ([`Gates`]) is open, which may change at any time.
//!
//! Nothing waits on the session's thread: programs are read without blocking, written to and converted for on other
//! threads, and what goes out to the client is cut into small pieces, so that it delays no picture for long.
//! Content is never logged.
//!
//! Pastes beyond a limit (see [`anomalies`]) wait until they are within it, or for as long as a paste may take: a
//! person gets his a little later, and a program that drains the clipboard gets little.

mod channel;
pub(crate) mod files;
pub(crate) mod formats;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ironrdp_acceptor::AcceptorResult;
use ironrdp_cliprdr::pdu::{ClipboardFormat, ClipboardFormatId, FileContentsRequest};
use ironrdp_svc::{SvcMessage, server_encode_svc_messages};
use lucid_desktop::{ClipboardOffer, ClipboardSink, Desktop, Paste};
use lucid_ipc::session::to_recorder::Item;
use lucid_ipc::session::{Actor, Direction, Outcome};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use channel::Received;
pub(crate) use channel::{Channel, bounded};
use files::fetch::{self, Step};
use files::progress::Progress;
use files::serve::{self, Served};
use files::{Contents, Launcher, Trouble, list};
use formats::Form;

use crate::Error;
use crate::anomalies::{self, Kind};
use crate::audit::{self, Log};
use crate::gates::{Gates, Holding};
use crate::guard::Watch;
use crate::notice::Notice;

/// Pastes of the desktop's programs that wait for the client; more get nothing.
const MAX_PASTES: usize = 16;
/// Wishes of the client that wait for programs. A client sends one at a time.
const MAX_WISHES: usize = 64;
/// Copies of the client that may come while nothing is written to it.
const MAX_COPIES: usize = 64;
/// Threads that may hang on programs which do not read.
const MAX_WRITERS: usize = 8;
/// A client has this long to answer a paste, and a program to write or read what is pasted.
const PATIENCE: Duration = Duration::from_secs(30);
/// And this long when it has copied something else meanwhile.
const GRACE: Duration = Duration::from_secs(2);
/// For so long after a client has copied something it is asked for nothing: FreeRDP 2 is not ready before, and has been
/// seen to die of it; see [`Asked::times`].
const SETTLE: Duration = Duration::from_millis(200);
/// The most that a program may say about where copied files are, in bytes.
const MOST_PLACES: usize = 1 << 20;
/// Between two announcements to the client, so that a program which copies without end costs little.
const ANNOUNCEMENT_PACE: Duration = Duration::from_millis(50);
/// How often the client is asked for the same when it gives nothing; see [`Asked::times`].
const MAX_QUESTIONS: u32 = 3;
/// What is written to the client at once, in bytes, as far as messages can be cut there.
const PIECE: usize = 16 * 1024;

/// What has happened that the session has to see to.
#[derive(Debug)]
pub(crate) enum Event {
    /// The desktop's programs have copied or pasted.
    Desktop,
    /// A program's content is there (or is not), or a piece of a file.
    Read(Got),
    /// The fetch of that number goes on.
    Fetch(u64, Step),
    /// Somebody waits for too long, or something may be announced again.
    Time,
}

/// What the client is given.
#[derive(Debug)]
pub(crate) enum Got {
    /// With what the recording is told of it.
    Data(Form, Option<Vec<u8>>, Vec<Item>),
    Contents(Contents),
}

/// What the client wants.
enum Wish {
    Format(ClipboardFormatId),
    Contents(FileContentsRequest),
}

/// What the desktop's thread leaves for the session's. Only the newest offer counts.
#[derive(Default)]
struct Inbox {
    offer: Option<Option<ClipboardOffer>>,
    pastes: VecDeque<Paste>,
}

struct Sink {
    inbox: Arc<Mutex<Inbox>>,
    wake: Arc<Notify>,
}

fn lock(inbox: &Mutex<Inbox>) -> std::sync::MutexGuard<'_, Inbox> {
    // Nothing that holds this lock leaves the data half-changed.
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClipboardSink for Sink {
    fn offered(&self, offer: Option<ClipboardOffer>) {
        // The former one is dropped outside of the lock.
        let former = lock(&self.inbox).offer.replace(offer);
        drop(former);
        self.wake.notify_one();
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
    /// What may pass.
    holding: Holding,
    /// What that opens at the moment.
    gates: Gates,
    /// And what it says of files.
    files_policy: Option<lucid_policy::File>,
    /// Where it is told what has crossed.
    log: Log,
    /// Who counts pastes.
    watch: Watch,
    channel_id: u16,
    user_id: u16,
    desktop: lucid_desktop::Clipboard,
    inbox: Arc<Mutex<Inbox>>,
    wake: Arc<Notify>,
    output: VecDeque<Vec<u8>>,
    /// Copies of the client since that was empty.
    copies: usize,

    /// The client has told what it has for the first time: the channel is in use.
    ready: bool,
    /// The rules that it was told to break.
    refusals_told: Vec<&'static str>,
    /// The client has said what it has once.
    has_offered: bool,
    /// What the client has said that it has.
    client_formats: Vec<ClipboardFormat>,
    /// What of that may be pasted, as the desktop's programs call it.
    client_has: Vec<(&'static str, ClipboardFormatId, Form)>,
    /// The client's present offer.
    number: u64,
    /// What the client was asked and has not answered. One at a time: answers have no other mark than their order, and
    /// FreeRDP owes some of them.
    asked: Option<Asked>,
    /// When it answered last.
    answered: Option<Instant>,
    /// It has announced that it has nothing, at a time when that need not be so (see [`Asked::times`]): what it answers
    /// next tells.
    emptied: bool,
    /// It may be asked from then on.
    settled: Instant,
    /// Programs whose turn comes then.
    waiting: VecDeque<(Paste, Instant)>,
    writers: JoinSet<()>,
    /// The way to the desktop's files, if a gate for files is open.
    files: Option<lucid_desktop::Files>,
    /// The client's files that are coming.
    fetching: Option<Fetching>,
    /// Where those of the client's present offer are.
    fetched: Option<Vec<String>>,
    fetches: u64,
    step: mpsc::Sender<(u64, Step)>,
    steps: mpsc::Receiver<(u64, Step)>,

    /// What a program has.
    offer: Option<Arc<ClipboardOffer>>,
    /// The client believes to be able to paste from the desktop.
    announced: bool,
    /// When to announce what is there, if that is new.
    announcement: Option<Instant>,
    last_announcement: Option<Instant>,
    wishes: VecDeque<Wish>,
    reading: Option<tokio::task::AbortHandle>,
    read: mpsc::Sender<Got>,
    has_read: mpsc::Receiver<Got>,
    /// The files whose list the client has got.
    served: Rc<tokio::sync::Mutex<Option<Served>>>,
}

/// The client's files that are coming, and who waits for them.
struct Fetching {
    number: u64,
    began: Instant,
    progress: Progress,
    pastes: Vec<Paste>,
    answers: mpsc::Sender<Contents>,
    task: tokio::task::AbortHandle,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // What has come of them goes with the connection to the launcher.
        self.task.abort();
    }
}

struct Asked {
    paste: Paste,
    format: ClipboardFormatId,
    form: Form,
    until: Instant,
    /// How often it was asked for. More than once: the client refused, or gave nothing.
    ///
    /// FreeRDP 2 first announces all that it knows, then asks the X11 program that has copied, and announces what that
    /// has. One property of its window is used for that and for what is pasted: a question in between is refused or
    /// answered by nothing, and often spoils the announcement as well, which is then empty although there is something:
    /// before the answer or after it, whichever of the two X11 events it handles first.
    times: u32,
}

impl Clipboard {
    /// Begins, if a gate is open and the client has the channel.
    pub(crate) fn start(
        result: &mut AcceptorResult,
        desktop: &Desktop,
        holding: Holding,
        log: Log,
        watch: Watch,
    ) -> Clipboard {
        let Some(channel_id) = result.static_channels.get_channel_id_by_type::<Channel>() else {
            return Clipboard(None);
        };
        let gates = holding.gates();
        if let Some(channel) = channel(result) {
            channel.set_gates(gates);
        }
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let wake = Arc::new(Notify::new());
        let sink = Sink { inbox: Arc::clone(&inbox), wake: Arc::clone(&wake) };
        let files = desktop.files();
        let files =
            files.inspect_err(|error| tracing::warn!("the desktop's files cannot be used: {error}")).ok();
        let desktop = match desktop.clipboard(Arc::new(sink)) {
            Ok(desktop) => desktop,
            Err(error) => {
                tracing::warn!("the desktop's clipboard cannot be used: {error}");
                return Clipboard(None);
            }
        };
        let (read, has_read) = mpsc::channel(1);
        let (step, steps) = mpsc::channel(1);
        Clipboard(Some(Open {
            files_policy: holding.policy().map(|policy| policy.file.clone()),
            holding,
            gates,
            log,
            watch,
            channel_id,
            user_id: result.user_channel_id,
            desktop,
            inbox,
            wake,
            output: VecDeque::new(),
            copies: 0,
            ready: false,
            refusals_told: Vec::new(),
            has_offered: false,
            client_formats: Vec::new(),
            client_has: Vec::new(),
            number: 0,
            asked: None,
            answered: None,
            emptied: false,
            settled: Instant::now(),
            waiting: VecDeque::new(),
            writers: JoinSet::new(),
            files,
            fetching: None,
            fetched: None,
            fetches: 0,
            step,
            steps,
            offer: None,
            announced: false,
            announcement: None,
            last_announcement: None,
            wishes: VecDeque::new(),
            reading: None,
            read,
            has_read,
            served: Rc::default(),
        }))
    }

    /// Waits for the next event; may be dropped and called again.
    pub(crate) async fn event(&mut self) -> Event {
        match &mut self.0 {
            Some(open) => open.event().await,
            None => std::future::pending().await,
        }
    }

    /// Another policy holds. What it closes ends at once; what it opens is announced to both sides.
    pub(crate) fn renew(&mut self, result: &mut AcceptorResult) -> Result<(), Error> {
        let Some(open) = &mut self.0 else { return Ok(()) };
        let (gates, files) = (open.holding.gates(), open.holding.policy().map(|policy| policy.file.clone()));
        if (open.gates, &open.files_policy) == (gates, &files) {
            return Ok(());
        }
        open.gates = gates;
        if open.files_policy != files {
            // What is offered or fetched was looked at under another one.
            open.files_policy = files;
            open.served = Rc::default();
            open.fetching = None;
        }
        if let Some(channel) = channel(result) {
            channel.set_gates(gates);
        }
        open.renew_to_desktop()?;
        // What a program gives meanwhile is looked at when it is there.
        open.announcement = Some(Instant::now());
        open.announce(result)?;
        open.serve_wishes()
    }

    /// Sees to an event.
    pub(crate) fn handle(&mut self, event: Event, result: &mut AcceptorResult) -> Result<(), Error> {
        let Some(open) = &mut self.0 else { return Ok(()) };
        match event {
            Event::Desktop => open.take_inbox(result)?,
            Event::Read(got) => open.answer(got)?,
            Event::Fetch(number, step) => open.fetch_goes_on(number, step)?,
            Event::Time => open.look_at_the_clock()?,
        }
        open.announce(result)?;
        open.serve_wishes()
    }

    /// Sees to what the client has sent. While that is not `recorded`, nothing crosses.
    pub(crate) fn received(&mut self, result: &mut AcceptorResult, recorded: bool) -> Result<(), Error> {
        // It is taken in any case: too much of it would end the session.
        let received = channel(result).map(Channel::take).unwrap_or_default();
        let Some(open) = &mut self.0 else { return Ok(()) };
        for message in received {
            match message {
                Received::Formats(formats) => open.client_copied(&formats)?,
                Received::Wish(format) => open.client_pastes(Wish::Format(format))?,
                Received::Data(_) if !recorded => {
                    if let Some(asked) = open.asked.take() {
                        open.paste_failed(asked.form);
                    }
                }
                Received::Contents(_) if !recorded => open.fetching = None,
                Received::Data(data) => open.client_answered(data)?,
                Received::TooLarge(bytes) => open.client_gave_too_much(bytes.into())?,
                Received::ContentsWish(wish) => open.client_pastes(Wish::Contents(wish))?,
                Received::Contents(contents) => open.client_gave(contents),
            }
        }
        if !recorded {
            return Ok(());
        }
        open.announce(result)?;
        open.serve_wishes()
    }

    /// What the user is to be told of files that take long.
    pub(crate) fn notice(&self) -> Option<&Notice> {
        self.0.as_ref()?.fetching.as_ref()?.progress.told()
    }

    /// The user wants no more of the files that are coming: who pastes them gets nothing.
    pub(crate) fn stop_files(&mut self) {
        if let Some(open) = &mut self.0
            && open.fetching.take().is_some()
        {
            tracing::info!("the user has stopped the fetch of the client's files");
        }
    }

    /// Whether something waits to be written to the client.
    pub(crate) fn has_output(&self) -> bool {
        self.0.as_ref().is_some_and(|open| !open.output.is_empty())
    }

    /// The next piece for the client; what waited for there to be none is begun.
    pub(crate) fn output(&mut self, result: &mut AcceptorResult) -> Result<Vec<u8>, Error> {
        let Some(open) = &mut self.0 else { return Ok(Vec::new()) };
        let piece = open.output.pop_front().unwrap_or_default();
        if open.output.is_empty() {
            open.copies = 0;
        }
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
            Some(got) = self.has_read.recv() => Event::Read(got),
            Some((number, step)) = self.steps.recv() => Event::Fetch(number, step),
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
        let free = self.free_at();
        let settled = (self.asked.is_none() && !self.waiting.is_empty())
            .then(|| free.map_or(self.settled, |free| free.max(self.settled)));
        let wished = free.filter(|_| self.may_serve() && !self.wishes.is_empty());
        let told = self.fetching.as_ref().map(|fetching| fetching.progress.next());
        [asked, announcement, settled, wished, told].into_iter().flatten().min()
    }

    /// When one more paste is within the limit, if it is not now.
    fn free_at(&self) -> Option<Instant> {
        self.watch.free_at(Kind::ClipboardBurst)
    }

    /// Nothing of the client's is being fulfilled.
    fn may_serve(&self) -> bool {
        self.reading.is_none() && self.output.is_empty()
    }

    fn send(&mut self, message: SvcMessage) -> Result<(), Error> {
        let encoded = server_encode_svc_messages(vec![message], self.channel_id, self.user_id)
            .map_err(|_| Error::Encode("a clipboard message"))?;
        cut(&encoded, &mut self.output);
        Ok(())
    }

    // From the client to the desktop.

    /// What of the client's may be pasted is another thing now.
    fn renew_to_desktop(&mut self) -> Result<(), Error> {
        let may = |gates: &Gates, form| {
            if form == Form::Files { gates.files_to_desktop } else { gates.clipboard_to_desktop }
        };
        if let Some(asked) = self.asked.take_if(|asked| !may(&self.gates, asked.form)) {
            self.paste_failed(asked.form);
        }
        if !self.gates.files_to_desktop {
            self.fetching = None;
        }
        self.refusals_told.clear();
        let has = formats::from_client(&self.client_formats, &self.gates);
        // What a program has copied since is newer.
        if has != self.client_has && self.offer.is_none() {
            self.number += 1;
            self.fetched = None;
            self.client_has = has;
            self.tell_desktop();
        }
        self.ask_client()
    }

    fn client_copied(&mut self, formats: &[ClipboardFormat]) -> Result<(), Error> {
        if self.copies >= MAX_COPIES {
            return Err(Error::Protocol("clipboard formats without reading what is answered"));
        }
        self.copies += 1;
        self.send(channel::formats_received())?;
        self.ready = true;
        self.client_formats = formats.to_vec();
        self.note_refused_offer(formats);
        if !self.gates.clipboard_to_desktop && !self.gates.files_to_desktop {
            return Ok(());
        }
        let just_answered = self.answered.is_some_and(|at| at.elapsed() < GRACE);
        self.emptied = formats.is_empty() && (self.asked.is_some() || just_answered);
        if self.emptied {
            tracing::debug!("the client says that it has nothing; its next answer tells");
            return Ok(());
        }
        self.client_has = formats::from_client(formats, &self.gates);
        self.settled = Instant::now() + SETTLE;
        // It may still answer; FreeRDP tells of one copy twice, and never answers when the first was in between.
        if let Some(asked) = &mut self.asked {
            asked.until = asked.until.min(Instant::now() + GRACE);
        }
        self.number += 1;
        self.fetched = None;
        if let Some(mut fetching) = self.fetching.take() {
            if fetching.began.elapsed() < GRACE {
                // It tells of one copy twice: the question comes again.
                let until = Instant::now() + PATIENCE;
                self.waiting
                    .extend(std::mem::take(&mut fetching.pastes).into_iter().map(|paste| (paste, until)));
            } else {
                tracing::warn!("the client has copied something else, its files do not come any more");
            }
        }
        tracing::debug!(types = self.client_has.len(), "the client has copied something");
        self.tell_desktop();
        Ok(())
    }

    /// The client offers what no gate is open for: told once, since clients offer whatever their user copies. What was copied
    /// before the client came is told to the recording, and its user is not disturbed by it.
    fn note_refused_offer(&mut self, formats: &[ClipboardFormat]) {
        let first = !std::mem::replace(&mut self.has_offered, true);
        let open = Gates { clipboard_to_desktop: true, files_to_desktop: true, ..self.gates };
        let has = formats::from_client(formats, &open);
        let refused = [
            (self.gates.files_to_desktop, true, "file.upload_enabled"),
            (self.gates.clipboard_to_desktop, false, "clipboard.remote_to_host"),
        ];
        for (_, files, rule) in refused.into_iter().filter(|(open, ..)| !open) {
            if self.refusals_told.contains(&rule) {
                continue;
            }
            if let Some((.., form)) = has.iter().find(|(.., form)| (*form == Form::Files) == files) {
                let refused = audit::clipboard(Outcome::Refused, Direction::ToDesktop, form.kind(), 0, None);
                if first {
                    self.log.note_quietly(refused);
                } else {
                    self.log.note(refused);
                    self.refusals_told.push(rule);
                }
            }
        }
    }

    /// Offers what the client has.
    fn tell_desktop(&mut self) {
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
        while self.asked.is_none() && self.settled <= Instant::now() && self.free_at().is_none() {
            let Some((paste, until)) = self.waiting.pop_front() else { return Ok(()) };
            let has = self.client_has.iter().find(|(mime_type, ..)| *mime_type == paste.mime_type);
            // Dropping the paste is an empty answer.
            let Some((_, format, form)) = has.copied() else { continue };
            self.watch.note(Kind::ClipboardBurst, 1);
            if form == Form::Files
                && let Some(uris) = &self.fetched
            {
                let list = formats::files_to_desktop(&paste.mime_type, uris);
                self.write(paste, None, move || Some(list));
                continue;
            }
            if form == Form::Files
                && let Some(fetching) = &mut self.fetching
            {
                if fetching.pastes.len() < MAX_PASTES {
                    fetching.pastes.push(paste);
                }
                continue;
            }
            tracing::debug!(?form, "a program pastes: the client is asked");
            self.asked = Some(Asked { paste, format, form, until, times: 1 });
            self.send(channel::ask(format))?;
        }
        Ok(())
    }

    fn client_answered(&mut self, data: Option<Vec<u8>>) -> Result<(), Error> {
        // Not asked for: of no use, and no harm.
        let Some(mut asked) = self.asked.take() else { return Ok(()) };
        self.answered = Some(Instant::now());
        match data.filter(|data| !formats::is_nothing(asked.form, data)) {
            Some(data) => {
                self.emptied = false;
                match asked.form {
                    Form::Files => self.begin_fetch(asked.paste, &data),
                    form => self.give(asked.paste, form, data),
                }
            }
            None if asked.times < MAX_QUESTIONS => {
                asked.times += 1;
                tracing::debug!(form = ?asked.form, times = asked.times, "the client gave nothing and is asked again");
                let format = asked.format;
                self.asked = Some(asked);
                return self.send(channel::ask(format));
            }
            None => {
                self.paste_failed(asked.form);
                self.believe_emptied();
            }
        }
        self.ask_client()
    }

    /// What it was asked for is larger than may be; it was thrown away as it came.
    fn client_gave_too_much(&mut self, bytes: u64) -> Result<(), Error> {
        let Some(asked) = self.asked.take() else { return Ok(()) };
        self.answered = Some(Instant::now());
        too_much(Direction::ToDesktop, asked.form, bytes, self.gates.clipboard_max_bytes)
            .into_iter()
            .for_each(|event| self.log.note(event));
        self.ask_client()
    }

    /// A program got nothing. (Files are told of one by one.)
    fn paste_failed(&self, form: Form) {
        if form != Form::Files {
            self.log.note(failed(Direction::ToDesktop, form, 0));
        }
    }

    /// Takes back what the client had, if it has said that it has nothing.
    fn believe_emptied(&mut self) {
        if std::mem::take(&mut self.emptied) {
            self.client_has.clear();
            self.tell_desktop();
        }
    }

    fn give(&mut self, paste: Paste, form: Form, data: Vec<u8>) {
        if data.len() > self.gates.clipboard_max_bytes {
            tracing::warn!(
                bytes = data.len(),
                limit = self.gates.clipboard_max_bytes,
                "what the client copied is larger than the clipboard's limit and was not taken"
            );
            let (bytes, limit) = (data.len() as u64, self.gates.clipboard_max_bytes);
            let events = too_much(Direction::ToDesktop, form, bytes, limit);
            return events.into_iter().for_each(|event| self.log.note(event));
        }
        let (bytes, limit) = (data.len(), self.gates.clipboard_max_bytes);
        self.note_size(bytes);
        self.write(paste, Some(form), move || {
            // Neither as it comes nor as it is pasted is it larger.
            let data = formats::to_desktop(form, data).filter(|data| data.len() <= limit);
            match &data {
                Some(_) => tracing::debug!(bytes, ?form, "pasted in the desktop"),
                None => {
                    tracing::warn!(bytes, ?form, "what the client copied is not what it says, or too large")
                }
            }
            data
        });
    }

    /// What crosses is so large.
    fn note_size(&self, bytes: usize) {
        if bytes >= anomalies::PASTE {
            self.watch.note(Kind::ClipboardBurst, bytes / anomalies::PASTE);
        }
    }

    /// Writes to a program on a thread of its own. The recording is told of what has a form.
    fn write(
        &mut self,
        paste: Paste,
        form: Option<Form>,
        make: impl FnOnce() -> Option<Vec<u8>> + Send + 'static,
    ) {
        while self.writers.try_join_next().is_some() {}
        if self.writers.len() >= MAX_WRITERS {
            tracing::warn!(MAX_WRITERS, "programs that paste and do not read are too many; one gets nothing");
            return form.into_iter().for_each(|form| self.paste_failed(form));
        }
        let recording = self.log.to().zip(form);
        self.writers.spawn_blocking(move || {
            let data = make();
            let hash = data.as_ref().filter(|_| recording.is_some()).map(|data| blake3::hash(data));
            let bytes = data.as_ref().map_or(0, Vec::len) as u64;
            let written = data.map(|data| paste.write(&data, PATIENCE));
            if let Some(Err(error)) = &written {
                tracing::debug!("{error}");
            }
            if let Some((to, form)) = recording {
                let outcome = if let Some(Ok(())) = written { Outcome::Allowed } else { Outcome::Failed };
                to.tell(audit::clipboard(outcome, Direction::ToDesktop, form.kind(), bytes, hash));
            }
        });
    }

    fn begin_fetch(&mut self, paste: Paste, data: &[u8]) {
        let begun = list::from_client(data).map_err(Trouble::from).and_then(|wanted| {
            let files = self.files.as_ref().ok_or("no gate for files is open")?;
            Ok((wanted, Launcher::connect(files)?))
        });
        let (wanted, launcher) = match begun {
            Ok(begun) => begun,
            Err(why) => {
                tracing::warn!("the client's files are not taken: {why}");
                return;
            }
        };
        self.fetches += 1;
        let number = self.fetches;
        let files = wanted.len();
        tracing::debug!(files, "the client's files are fetched");
        let (answers, answered) = mpsc::channel(2);
        let fetch = fetch::fetch(
            launcher,
            wanted,
            self.holding.clone(),
            number,
            answered,
            self.step.clone(),
            self.log.clone(),
        );
        let task = tokio::task::spawn_local(fetch).abort_handle();
        let began = Instant::now();
        let progress = Progress::new(files, began);
        self.fetching = Some(Fetching { number, began, progress, pastes: vec![paste], answers, task });
    }

    fn client_gave(&mut self, contents: Contents) {
        if let Some(fetching) = &self.fetching
            && fetching.answers.try_send(contents).is_err()
        {
            tracing::debug!("a piece of a file that was not asked for");
        }
    }

    fn fetch_goes_on(&mut self, number: u64, step: Step) -> Result<(), Error> {
        // Of one that was given up.
        let Some(fetching) = self.fetching.as_mut().filter(|fetching| fetching.number == number) else {
            return Ok(());
        };
        fetching.progress.look(Instant::now());
        match step {
            Step::Come { all, come } => {
                fetching.progress.come(all, come);
                Ok(())
            }
            Step::Ask(request) => {
                fetching.pastes.retain(|paste| !paste.is_abandoned());
                if fetching.pastes.is_empty() {
                    tracing::info!("nobody waits for the client's files any more; the rest is not fetched");
                    self.fetching = None;
                    return Ok(());
                }
                self.send(channel::ask_contents(request))
            }
            Step::Done(done) => {
                let pastes = std::mem::take(&mut fetching.pastes);
                let milliseconds = fetching.began.elapsed().as_millis() as u64;
                self.fetching = None;
                match done {
                    Ok(uris) => {
                        tracing::debug!(milliseconds, "the client's files are there");
                        for paste in pastes {
                            let list = formats::files_to_desktop(&paste.mime_type, &uris);
                            self.write(paste, None, move || Some(list));
                        }
                        self.fetched = Some(uris);
                    }
                    Err(why) => tracing::warn!("the client's files are not taken: {why}"),
                }
                Ok(())
            }
        }
    }

    // From the desktop to the client.

    fn take_inbox(&mut self, result: &mut AcceptorResult) -> Result<(), Error> {
        let inbox = std::mem::take(&mut *lock(&self.inbox));
        if let Some(offer) = inbox.offer {
            self.offer = offer.map(Arc::new);
            self.note_refused_copy();
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
        if let Some(asked) = self.asked.take_if(|asked| asked.until <= now) {
            tracing::warn!("the client did not answer a paste in time");
            self.paste_failed(asked.form);
            self.believe_emptied();
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (waiting, expired): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|(_, until)| *until > now);
        self.waiting = waiting;
        for (paste, _) in expired {
            let has = self.client_has.iter().find(|(mime_type, ..)| *mime_type == paste.mime_type);
            if let Some((.., form)) = has {
                self.paste_failed(*form);
            }
        }
        if let Some(fetching) = &mut self.fetching {
            fetching.progress.look(now);
        }
        self.ask_client()
    }

    /// Tells the client what the desktop has, if that is new and not too soon.
    fn announce(&mut self, result: &mut AcceptorResult) -> Result<(), Error> {
        let now = Instant::now();
        // What waits to be written first: newer announcements replace this one meanwhile.
        if !self.ready || !self.output.is_empty() || self.announcement.is_none_or(|at| at > now) {
            return Ok(());
        }
        let formats =
            self.offer.as_ref().map(|o| formats::for_client(o.mime_types(), &self.gates)).unwrap_or_default();
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

    fn client_pastes(&mut self, wish: Wish) -> Result<(), Error> {
        if self.wishes.len() >= MAX_WISHES {
            return Err(Error::Protocol("clipboard requests without waiting for answers"));
        }
        self.wishes.push_back(wish);
        Ok(())
    }

    /// Begins with the client's oldest wish, unless one is being fulfilled.
    fn serve_wishes(&mut self) -> Result<(), Error> {
        while self.may_serve() {
            // Who asks before he knows of the newest is told of it first: FreeRDP forgets the files of an answer when what was
            // copied is announced after it.
            if self.announcement.is_some() && matches!(self.wishes.front(), Some(Wish::Format(_))) {
                return Ok(());
            }
            if self.free_at().is_some() && matches!(self.wishes.front(), Some(Wish::Format(_))) {
                return Ok(());
            }
            let format = match self.wishes.pop_front() {
                None => return Ok(()),
                Some(Wish::Contents(wish)) => {
                    self.read_file(wish);
                    continue;
                }
                Some(Wish::Format(format)) => format,
            };
            let wish = self.offer.as_ref().and_then(|offer| {
                formats::wish(format, offer.mime_types(), &self.gates).map(|wish| (Arc::clone(offer), wish))
            });
            let Some((offer, (mime_type, form))) = wish else {
                self.note_refusal(format);
                self.send(channel::answer(None))?;
                continue;
            };
            let pipe = match offer.receive(mime_type) {
                Ok(pipe) => pipe,
                Err(error) => {
                    tracing::warn!("{error}");
                    self.log.note(failed(Direction::ToClient, form, 0));
                    self.send(channel::answer(None))?;
                    continue;
                }
            };
            tracing::debug!(?form, "the client pastes: the program is asked");
            self.watch.note(Kind::ClipboardBurst, 1);
            let (read, limit) = (self.read.clone(), self.gates.clipboard_max_bytes);
            let recorded = self.log.is_on();
            if form == Form::Files {
                self.list_files(pipe);
                continue;
            }
            let task = tokio::task::spawn_local(async move {
                let (data, events) = read_program(pipe, form, limit, recorded).await;
                // Nobody waits for it when the session has ended.
                let _ = read.send(Got::Data(form, data, events)).await;
            });
            self.reading = Some(task.abort_handle());
        }
        Ok(())
    }

    fn may_leave(&self, form: Form) -> bool {
        if form == Form::Files { self.gates.files_to_client } else { self.gates.clipboard_to_client }
    }

    /// A program has copied what no gate is open for: told once, since nobody has tried to paste it.
    fn note_refused_copy(&mut self) {
        let Some(offer) = &self.offer else { return };
        let open = Gates { clipboard_to_client: true, files_to_client: true, ..self.gates };
        let formats = formats::for_client(offer.mime_types(), &open);
        for form in formats.iter().filter_map(|format| formats::wanted(format.id)) {
            let files = form == Form::Files;
            let rule = if files { "file.download_enabled" } else { "clipboard.host_to_remote" };
            if !self.may_leave(form) && !self.refusals_told.contains(&rule) {
                let refused = audit::clipboard(Outcome::Refused, Direction::ToClient, form.kind(), 0, None);
                self.log.note(refused);
                self.refusals_told.push(rule);
            }
        }
    }

    /// The client wants what no gate is open for.
    fn note_refusal(&self, format: ClipboardFormatId) {
        if let Some(form) = formats::wanted(format).filter(|form| !self.may_leave(*form)) {
            let event = audit::clipboard(Outcome::Refused, Direction::ToClient, form.kind(), 0, None);
            self.log.note(event);
            self.log.refused(1);
        }
    }

    /// Makes the list of the files that a program has copied.
    fn list_files(&mut self, pipe: OwnedFd) {
        let launcher = self.files.as_ref().map(Launcher::connect);
        let (read, served, holding) = (self.read.clone(), Rc::clone(&self.served), self.holding.clone());
        let log = self.log.clone();
        let task = tokio::task::spawn_local(async move {
            let made = async {
                let launcher = launcher.ok_or("no gate for files is open")??;
                let places = read_pipe(pipe, MOST_PLACES)
                    .await
                    .ok_or("the program did not say where its files are")?;
                let made = serve::list(launcher, &places, &holding, log).await?;
                let list = list::for_client(made.entries())?;
                *served.lock().await = Some(made);
                Ok::<_, Trouble>(list)
            };
            let data =
                made.await.inspect_err(|why| tracing::warn!("a program's files are not offered: {why}")).ok();
            // Nobody waits for it when the session has ended.
            let _ = read.send(Got::Data(Form::Files, data, Vec::new())).await;
        });
        self.reading = Some(task.abort_handle());
    }

    /// Reads a piece of one of the listed files.
    fn read_file(&mut self, wish: FileContentsRequest) {
        let (read, served) = (self.read.clone(), Rc::clone(&self.served));
        let task = tokio::task::spawn_local(async move {
            let mut served = served.lock().await;
            let data = match served.as_mut() {
                Some(files) => files.contents(&wish).await,
                None => Err("no list of files was given".into()),
            };
            if matches!(data, Err(Trouble::Lost(_))) {
                *served = None;
            }
            let data = data.inspect_err(|why| tracing::warn!("a piece of a file is not given: {why}")).ok();
            // Nobody waits for it when the session has ended.
            let _ = read.send(Got::Contents(Contents { stream: wish.stream_id, data })).await;
        });
        self.reading = Some(task.abort_handle());
    }

    fn answer(&mut self, got: Got) -> Result<(), Error> {
        self.reading = None;
        match got {
            Got::Data(form, ..) if !self.may_leave(form) => {
                // It was open when this was asked for.
                self.log.note(audit::clipboard(Outcome::Refused, Direction::ToClient, form.kind(), 0, None));
                self.send(channel::answer(None))
            }
            Got::Contents(contents) if !self.may_leave(Form::Files) => {
                self.send(channel::answer_contents(Contents { data: None, ..contents }))
            }
            Got::Data(_, data, events) => {
                events.into_iter().for_each(|event| self.log.note(event));
                tracing::debug!(bytes = data.as_ref().map(Vec::len), "the client gets what a program copied");
                self.note_size(data.as_ref().map_or(0, Vec::len));
                self.send(channel::answer(data))
            }
            Got::Contents(contents) => self.send(channel::answer_contents(contents)),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
        if let Some(asked) = self.asked.take() {
            self.paste_failed(asked.form);
        }
    }
}

/// A paste that came to nothing, of which so many bytes are known.
fn failed(direction: Direction, form: Form, bytes: u64) -> Item {
    audit::clipboard(Outcome::Failed, direction, form.kind(), bytes, None)
}

/// A paste that was refused, because it is too large.
fn too_much(direction: Direction, form: Form, bytes: u64, limit: usize) -> Vec<Item> {
    let actor = if direction == Direction::ToDesktop { Actor::Client } else { Actor::Device };
    let detail = format!("{bytes} bytes or more of {} are beyond the limit of {limit}", form.kind());
    vec![
        audit::violation(actor, "clipboard.max_bytes", detail),
        audit::clipboard(Outcome::Refused, direction, form.kind(), bytes, None),
    ]
}

/// Reads what a program writes, at most `limit` bytes.
async fn read_pipe(pipe: OwnedFd, limit: usize) -> Option<Vec<u8>> {
    let data = read_pipe_and_more(pipe, limit).await?;
    if data.len() > limit {
        too_large(limit);
        return None;
    }
    Some(data)
}

/// The same; one byte more, if there is more.
async fn read_pipe_and_more(pipe: OwnedFd, limit: usize) -> Option<Vec<u8>> {
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
    Some(data)
}

fn too_large(limit: usize) {
    tracing::warn!(limit, "what a program copied is larger than the clipboard's limit and was not sent");
}

/// Reads a program's content and makes it into what the client asked for.
async fn read_program(
    pipe: OwnedFd,
    form: Form,
    limit: usize,
    recorded: bool,
) -> (Option<Vec<u8>>, Vec<Item>) {
    let way = Direction::ToClient;
    let Some(data) = read_pipe_and_more(pipe, limit).await else {
        return (None, vec![failed(way, form, 0)]);
    };
    let bytes = data.len() as u64;
    if data.len() > limit {
        too_large(limit);
        return (None, too_much(way, form, bytes, limit));
    }
    let make = move || {
        let hash = recorded.then(|| blake3::hash(&data));
        (formats::to_client(form, data), hash)
    };
    let (made, hash) = tokio::task::spawn_blocking(make).await.unwrap_or_default();
    match made {
        Some(data) if data.len() > limit => {
            too_large(limit);
            (None, too_much(way, form, data.len() as u64, limit))
        }
        Some(data) => (Some(data), vec![audit::clipboard(Outcome::Allowed, way, form.kind(), bytes, hash)]),
        None => {
            tracing::warn!(?form, "what a program copied is not what it says");
            (None, vec![audit::clipboard(Outcome::Failed, way, form.kind(), bytes, hash)])
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

#[cfg(test)]
mod tests;
