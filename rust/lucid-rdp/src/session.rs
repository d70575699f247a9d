//! One client's connection to its desktop: pictures out, input in, until either side ends it or the session's
//! keeper has something else to do with the desktop.
//!
//! Pacing: the desktop is asked for one picture at a time, and only while the client has acknowledged enough
//! of those before (graphics pipeline, [`Pace`]) and nothing waits to be written. What changes meanwhile is
//! collected by the desktop as damage, so no queue grows on a slow link. When nothing is under way and parts of the
//! picture are not exact, the painter is wished to make them so.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironrdp_acceptor::{AcceptorResult, DesktopSize};
use ironrdp_dvc::DrdynvcServer;
use ironrdp_pdu::Action;
use ironrdp_pdu::gcc::ClientEarlyCapabilityFlags;
use ironrdp_pdu::rdp::headers::ShareDataPdu;
use ironrdp_pdu::rdp::server_error_info::ProtocolIndependentCode;
use ironrdp_svc::server_encode_svc_messages;
use ironrdp_tokio::{Framed, FramedWrite as _, TokioFramed, TokioStream, split_tokio_framed};
use lucid_desktop::pointer::Shape;
use lucid_desktop::{Closed, Input, Pointer};
use lucid_ipc::session::Actor;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::server::TlsStream;

use crate::capabilities::{self, Client};
use crate::clipboard::Clipboard;
use crate::closing::Farewell;
use crate::desk::Desk;
use crate::display::Wishes;
use crate::drives::Drives;
use crate::egfx::{self, Sent, State};
use crate::graphics::Command;
use crate::handshake::{Connection, Dynamic};
use crate::incoming::{self, Incoming};
use crate::input::Translator;
use crate::notice::Notice;
use crate::pace::Pace;
use crate::page::{self, Layout, Page, UNREAD};
use crate::picture::{Codec, Encoded, FromDesktop, Order};
use crate::pointer::Cursors;
use crate::recording::{self, Recording};
use crate::running::Running;
use crate::sessions::Facts;
use crate::sharecontrol::Channels;
use crate::sound::Sound;
use crate::touch::Touches;
use crate::trail::Trail;
use crate::{Error, audit, closing, fastpath, reconnect};

mod admission;
mod clicks;
mod resize;
mod screen;

use admission::Admission;
use clicks::{Clicks, For};
use resize::Resizing;
pub(crate) use screen::left;
use screen::{Act, Attention, Screen};

/// A client that announced the graphics pipeline has this long to open it before it gets pictures the old way.
const PIPELINE_WAIT: Duration = Duration::from_secs(10);

/// Stands over why.
const OVER: &str = "This session is over";

/// Why a session is over is shown for so long.
const OVER_SHOWN: Duration = Duration::from_secs(5);

/// Why something did not happen is told for so long.
const REFUSAL_SHOWN: Duration = Duration::from_secs(6);

/// A page that follows what happens is looked at so often.
const FOLLOWS: Duration = Duration::from_secs(1);

/// Pieces that wait to be written; the writer takes them in order.
const WRITE_QUEUE: usize = 4;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client left.
    Client,
    /// The desktop ended, and why.
    Desktop(String),
    /// The session controller ended the session, or its user does not accept the policy; and why.
    Controller(String),
    /// The client was told to go.
    Told(Farewell),
}

/// What the writer is given.
struct Piece {
    bytes: Vec<u8>,
    /// Told when this piece is on its way.
    picture: bool,
}

struct Session<'a> {
    result: AcceptorResult,
    client: Client,
    size: DesktopSize,
    wishes: Wishes,
    touches: Touches,
    resizing: Resizing,
    running: &'a mut Running,
    facts: &'a Facts,
    writer: mpsc::Sender<Piece>,
    translator: Translator,
    clicks: Clicks,
    /// Which input may go to the desktop.
    admission: Admission,
    /// Where the pointer is on a page.
    at: (u32, u32),
    attention: Attention,
    /// The page that its user has opened over the desktop.
    screen: Option<Screen>,
    /// The gate that he asks for on it.
    wish: Option<&'static str>,
    /// Whoever decides leaves.
    leaves: bool,
    /// Until when its user is told that something was refused.
    refusal: Option<Instant>,
    /// Since when its user is asked whether he accepts the policy.
    asked: Option<Instant>,
    /// The user wants no more of what the notice tells.
    stop: bool,
    cursors: Cursors,
    began: Instant,
    /// A picture is queued or being written: so many bytes since then.
    writing: Option<(usize, Instant)>,
    pace: Pace,
    /// When parts of the picture that are not exact should be made so.
    refine_at: Option<Instant>,
    /// Counts the client's losses of what it showed.
    repaint: u32,
    /// The client has said that it shows nothing now (minimised).
    suppressed: bool,
    /// What the pointer has done, for the recording.
    trail: Trail,
    /// When what was typed is counted next, for the recording.
    period: audit::Period,
}

/// Serves one client until it leaves, the desktop ends, or `interrupted` says what to tell it. The desktop stays.
pub(crate) async fn run(
    connection: Connection,
    running: &mut Running,
    facts: &Rc<Facts>,
    peer: SocketAddr,
    interrupted: impl Future<Output = Farewell>,
) -> Result<End, Error> {
    let Connection { framed, result, layout, dynamic: Dynamic { wishes, touches }, .. } = connection;
    let size = layout.size();
    let client = capabilities::confirmed(&result.capabilities)?;
    let (mut reader, writer) = split_tokio_framed(framed);
    let (to_writer, pieces) = mpsc::channel(WRITE_QUEUE);
    let (wrote, mut written) = mpsc::channel(WRITE_QUEUE);
    let mut writing = tokio::task::spawn_local(write(writer, pieces, wrote, Rc::clone(facts)));
    tracing::info!(%peer, width = size.width, height = size.height, "the client is connected");
    facts.size.set(size);
    running.take_layout(result.keyboard_layout)?;
    running.take_monitors(layout)?;
    running.curtain.tell(None);
    running.curtain.refuse(None);
    // Before the first picture.
    let first = match &mut running.desk {
        Some(desk) => Some(desk.page(Instant::now())),
        None => page(running.recording.as_ref().map(Recording::state)),
    };
    running.curtain.turn_to(first);
    running.curtain.open();
    let asked = running.is_asking().then(Instant::now);
    let mut session = Session {
        result,
        client,
        size,
        wishes,
        touches,
        resizing: Resizing::Settled,
        running,
        facts,
        writer: to_writer,
        translator: Translator::default(),
        clicks: Clicks::default(),
        admission: Admission::default(),
        at: (0, 0),
        attention: Attention::default(),
        screen: None,
        wish: None,
        leaves: false,
        refusal: None,
        asked,
        stop: false,
        cursors: Cursors::new(client.pointers),
        began: Instant::now(),
        writing: None,
        pace: Pace::default(),
        refine_at: None,
        repaint: 0,
        suppressed: false,
        trail: Trail::new(Instant::now()),
        period: audit::Period::new(Instant::now().into()),
    };
    // What was typed before is another client's.
    let _ = session.running.desktop.take_tally();
    session.note_size();
    // Whatever the connection waits for, an interruption comes through.
    let end = tokio::select! {
        end = session.serve(&mut reader, &mut written, peer) => end,
        told = interrupted => {
            let farewell = told.encode(&session.result)?;
            // A client that takes nothing any more is hung up on without it.
            let _ = tokio::time::timeout(closing::PATIENCE, session.send(farewell)).await;
            Ok(End::Told(told))
        }
    };
    // A session that has not begun has nothing to tell.
    if !session.running.is_asking() {
        session.finish_notes().await;
    }
    drop(session);
    let (unread, _) = reader.into_inner();
    let written_out = async move {
        let goodbye = async {
            // The writer's end is the only thing that is waited for; it does not panic.
            let _ = (&mut writing).await;
            closing::drain(unread).await;
        };
        if tokio::time::timeout(closing::PATIENCE, goodbye).await.is_err() {
            // It may wait for a dead peer; the socket is not kept for that.
            writing.abort();
        }
    };
    match end {
        // The desktop waits for nobody, and its next client neither.
        Ok(End::Client) | Err(_) => drop(tokio::task::spawn_local(written_out)),
        Ok(End::Told(told)) if told.code == ProtocolIndependentCode::DisconnectedByOtherconnection => {
            drop(tokio::task::spawn_local(written_out));
        }
        Ok(End::Desktop(_) | End::Told(_) | End::Controller(_)) => written_out.await,
    }
    end
}

/// What stands in the place of the desktop.
fn page(state: Option<recording::State>) -> Option<Page> {
    match state? {
        recording::State::Asking(text) => {
            let page = Page::of("What this session may do. Do you accept it?", &text);
            Some(Page { asks: Some(page::ACCEPT), ..page })
        }
        recording::State::On(_) | recording::State::Paused => None,
        recording::State::Off(why) | recording::State::Over(why) => Some(Page::of(OVER, &why)),
    }
}

/// Waits until something else was asked for.
async fn asked_for(asked: &mut Option<watch::Receiver<recording::Asked>>) {
    let changed = match asked {
        Some(asked) => asked.changed().await,
        None => std::future::pending().await,
    };
    if changed.is_err() {
        // The recording is over, as its state says.
        std::future::pending().await
    }
}

/// Waits until something else is to be decided.
async fn to_decide(desk: Option<&Desk>) {
    match desk {
        Some(desk) => desk.changed().await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant.into()).await;
    }
}

type Reader = TokioFramed<ReadHalf<TlsStream<TcpStream>>>;
type Writer = Framed<TokioStream<WriteHalf<TlsStream<TcpStream>>>>;

/// Writes pieces in order, so that a slow link delays pictures and never the reading of input.
async fn write(
    mut writer: Writer,
    mut pieces: mpsc::Receiver<Piece>,
    wrote: mpsc::Sender<()>,
    facts: Rc<Facts>,
) {
    while let Some(piece) = pieces.recv().await {
        if let Err(e) = writer.write_all(&piece.bytes).await {
            // The session ends when `wrote` is dropped.
            tracing::debug!("writing: {e}");
            return;
        }
        facts.bytes.set(facts.bytes.get() + piece.bytes.len() as u64);
        if piece.picture && wrote.send(()).await.is_err() {
            return;
        }
    }
    let (mut stream, _) = writer.into_inner();
    // Best effort: the client may be gone already.
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
}

impl Session<'_> {
    /// Carries pictures and input until one side is done.
    async fn serve(
        &mut self,
        reader: &mut Reader,
        written: &mut mpsc::Receiver<()>,
        peer: SocketAddr,
    ) -> Result<End, Error> {
        self.start_channels().await?;
        // What programs have for a pointer is not shown before the rest is.
        self.show_pointer(self.pointer()).await?;
        let (mut holding, log) = (self.running.holding.clone(), self.running.log.clone());
        let mut clipboard = Clipboard::start(
            &mut self.result,
            &self.running.desktop,
            holding.clone(),
            log.clone(),
            self.facts.watch.clone(),
        );
        let mut sound = Sound::start(&self.result, self.running.sound.as_ref(), holding.clone(), log);
        let drives = Drives::start(&self.result, self.running.drives.as_ref());
        let writer = self.writer.clone();
        let mut may_wait_for_pipeline = self
            .result
            .client_early_capability_flags
            .contains(ClientEarlyCapabilityFlags::SUPPORT_DYN_VC_GFX_PROTOCOL)
            && self.result.static_channels.get_channel_id_by_type::<DrdynvcServer>().is_some();
        let pipeline_deadline = tokio::time::sleep(PIPELINE_WAIT);
        tokio::pin!(pipeline_deadline);
        if !may_wait_for_pipeline {
            self.order_without_pipeline();
        }
        for frame in std::mem::take(&mut self.result.input_events) {
            match frame.first().map(|b| Action::from_fp_output_header(*b)) {
                Some(Ok(action)) => {
                    self.pdu(action, &frame).await?;
                }
                _ => return Err(Error::Protocol("an input event")),
            }
        }
        // Whoever decides has no session to come back to.
        let takes_cookies = reconnect::supported(&self.result) && self.running.desk.is_none();
        let mut refusals = self.running.log.refusals();
        let mut asked_for_now = self.running.recording.as_ref().map(Recording::asked);
        // The first at once.
        let mut cookies = tokio::time::interval(reconnect::RENEW);
        loop {
            if holding.has_changed() {
                self.renew();
                clipboard.renew(&mut self.result)?;
                sound.renew();
            }
            if self.running.curtain.tell(clipboard.notice()) {
                self.running.desktop.refresh_all();
            }
            self.follow().await?;
            if let Some(why) = self.running.desk.as_ref().and_then(Desk::over) {
                return self.over(why, reader, written).await;
            }
            if self.leaves {
                self.send(Farewell::LOGGED_OFF.encode(&self.result)?).await?;
                return Ok(End::Client);
            }
            self.ask();
            // While the recorder is away nothing crosses. For whoever decides no policy holds, so nothing does either.
            let recorded = self.is_recorded() || self.running.desk.is_some();
            if recorded {
                self.running.log.flush().await;
            }
            let (gathered, counted) = (self.trail.due(), self.period.due().map(Into::into));
            let refinement = self.refinement();
            let touch = self.touches.deadline();
            let (resizes_at, resize_deadline) = (self.resizes_at(), self.resizing.deadline());
            let may_resize = self.may_resize() && resizes_at.is_none();
            let moves = self.admission.deadline(&self.running.holding, Instant::now());
            let reports = self.admission.reports_at();
            let follows =
                (self.screen.is_some() || self.running.desk.is_some()).then(|| Instant::now() + FOLLOWS);
            tokio::select! {
                pdu = reader.read_pdu() => {
                    match pdu {
                        Ok((action, bytes)) => {
                            if self.pdu(action, &bytes).await? {
                                return Ok(End::Client);
                            }
                            self.input(self.touches.take());
                            if std::mem::take(&mut self.stop) {
                                clipboard.stop_files();
                            }
                            clipboard.received(&mut self.result, recorded)?;
                            sound.received(&mut self.result)?;
                            drives.received(&mut self.result);
                            if self.serve_pipeline().await? {
                                may_wait_for_pipeline = false;
                            }
                        }
                        Err(e) if e.kind() == std::io::ErrorKind::Other => return Err(Error::Protocol("a frame")),
                        Err(e) => {
                            tracing::debug!(%peer, "reading: {e}");
                            return Ok(End::Client);
                        }
                    }
                }
                message = self.running.from_desktop.recv() => match message {
                    Some(FromDesktop::Key { width, height, pixels }) => self.key(width, height, pixels).await,
                    Some(FromDesktop::Aside(commands)) => self.aside(&commands).await?,
                    Some(FromDesktop::Ahead { commands, size }) => self.ahead(&commands, size).await?,
                    Some(FromDesktop::Picture(encoded)) => self.picture(encoded).await?,
                    Some(FromDesktop::Pointer(pointer)) => {
                        self.running.pointer = pointer;
                        if !self.shows_page() {
                            self.show_pointer(pointer).await?;
                        }
                    }
                    Some(FromDesktop::Shielded) => {}
                    Some(FromDesktop::Withheld { width, height }) => self.withheld((width, height)).await?,
                    Some(FromDesktop::SizeRefused { width, height }) => self.size_refused((width, height)),
                    Some(FromDesktop::Failed(error)) => return Err(error),
                    Some(FromDesktop::Closed(Closed::Gone(why))) => {
                        self.send(Farewell::LOGGED_OFF.encode(&self.result)?).await?;
                        return Ok(End::Desktop(why.to_string()));
                    }
                    Some(FromDesktop::Closed(_)) | None => return Ok(End::Desktop("it was closed".into())),
                },
                event = clipboard.event(), if recorded => clipboard.handle(event, &mut self.result)?,
                Ok(room) = writer.reserve(), if recorded && clipboard.has_output() => {
                    room.send(Piece { bytes: clipboard.output(&mut self.result)?, picture: false });
                }
                () = sound.playing() => sound.take(),
                Ok(room) = writer.reserve(), if recorded && sound.has_output() => {
                    let bytes = sound.output()?;
                    self.running.log.flush().await;
                    room.send(Piece { bytes, picture: false });
                }
                Ok(room) = async { drives.wanted().await; writer.reserve().await }, if recorded => {
                    room.send(Piece { bytes: drives.output()?, picture: false });
                }
                told = written.recv() => match told {
                    Some(()) => self.written(),
                    None => return Ok(End::Client),
                },
                () = until(touch), if touch.is_some() => {
                    self.touches.look(Instant::now());
                    self.input(self.touches.take());
                }
                () = until(gathered), if gathered.is_some() => self.note_pointer().await,
                () = until(counted), if counted.is_some() => self.note_input(),
                focus = self.running.focus.changed(), if recorded => self.running.log.note(focus),
                () = until(refinement), if refinement.is_some() => self.refine(),
                () = &mut pipeline_deadline, if may_wait_for_pipeline => {
                    may_wait_for_pipeline = false;
                    self.order_without_pipeline();
                }
                _ = cookies.tick(), if takes_cookies && !self.resizing.is_inactive() => {
                    let cookie = self.facts.cookies.issue(self.facts.id, Instant::now())?;
                    self.send_data(reconnect::save_session_info(cookie)).await?;
                }
                wish = self.wishes.next(), if may_resize => self.resize(wish)?,
                () = until(resizes_at), if resizes_at.is_some() => {}
                () = until(resize_deadline), if resize_deadline.is_some() => return Err(resize::late()),
                () = recording::changed(&mut self.running.recording) => {
                    let asked = self.asked.is_some();
                    if let Some(why) = self.recorded()? {
                        return self.over(why, reader, written).await;
                    }
                    if asked && self.asked.is_none() {
                        self.show_pointer(self.pointer()).await?;
                    }
                }
                // Its sender is the log, which stays.
                Ok(()) = refusals.changed() => {
                    let refusal = refusals.borrow_and_update().clone();
                    self.tell_refusal(refusal);
                }
                () = until(self.refusal), if self.refusal.is_some() => self.tell_refusal(None),
                () = asked_for(&mut asked_for_now), if self.screen.is_some() => {}
                () = to_decide(self.running.desk.as_ref()) => {}
                // It is looked at above.
                () = until(follows), if follows.is_some() => {}
                // It is looked at above.
                () = holding.changed() => {}
                () = until(moves), if moves.is_some() => {
                    let due = self.admission.due(&self.running.holding, Instant::now());
                    due.into_iter().for_each(|input| self.pass_on(input));
                }
                () = until(reports), if reports.is_some() => self.report(Instant::now()),
                () = self.facts.redraw.notified() => self.running.desktop.refresh_all(),
            }
        }
    }

    async fn start_channels(&mut self) -> Result<(), Error> {
        let user = self.result.user_channel_id;
        let mut bytes = Vec::new();
        for (_, channel, id) in self.result.static_channels.iter_mut() {
            let Some(id) = id else { continue };
            let messages = channel.start().map_err(|_| Error::Encode("a channel's start"))?;
            let encoded = server_encode_svc_messages(messages, id, user)
                .map_err(|_| Error::Encode("a channel's start"))?;
            bytes.extend_from_slice(&encoded);
        }
        self.send(bytes).await
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.writer
            .send(Piece { bytes, picture: false })
            .await
            .map_err(|_| Error::Connection(std::io::ErrorKind::BrokenPipe.into()))
    }

    async fn send_data(&self, pdu: ShareDataPdu) -> Result<(), Error> {
        let bytes = Channels::of(&self.result).data(pdu).map_err(|_| Error::Encode("a message"))?;
        self.send(bytes).await
    }

    /// Gives the painter its order: pictures can be asked for from now on.
    fn order(&mut self, codec: Codec) {
        tracing::info!(codec = codec.name(), "pictures go out");
        let order = Order {
            codec,
            size: (self.size.width.into(), self.size.height.into()),
            max_update: self.client.max_update,
            generation: self.running.generation,
            repaint: self.repaint,
            budget: self.pace.budget(),
            refine: false,
            cut: self.running.recording.as_ref().and_then(Recording::cuts),
        };
        self.refine_at = None;
        self.running.generation += 1;
        self.facts.codec.set(Some(codec.name()));
        // A poisoned lock is noticed by the painter, which ends the session.
        if let Ok(mut orders) = self.running.orders.lock() {
            *orders = Some(order);
        }
        self.running.desktop.refresh_all();
    }

    fn ordered(&self) -> Option<Codec> {
        self.running.orders.lock().ok()?.map(|o| o.codec)
    }

    fn order_without_pipeline(&mut self) {
        match self.client.remotefx {
            Some(remotefx) => self.order(Codec::RemoteFx(remotefx)),
            None => self.order(Codec::Bitmap),
        }
    }

    fn pipeline(&mut self) -> Option<egfx::Egfx<'_>> {
        egfx::find(&mut self.result.static_channels, self.result.user_channel_id)
    }

    /// Makes the surface when the client has opened the pipeline, or has started it over. Returns whether the
    /// pipeline has just become usable.
    async fn serve_pipeline(&mut self) -> Result<bool, Error> {
        let layout = self.layout();
        let Some(mut pipeline) = self.pipeline() else { return Ok(false) };
        let State::NeedsSurface { avc420, room } = pipeline.state() else { return Ok(false) };
        let Sent { bytes, frame, .. } = pipeline.make_surface(&layout)?;
        self.pace.forget();
        self.pace.sent(frame, bytes.len(), Instant::now());
        self.send(bytes).await?;
        self.order(Codec::Graphics { avc420, room });
        Ok(true)
    }

    /// Asks the desktop for the next picture when the client can take one.
    fn ask(&mut self) {
        self.take_acknowledgements();
        if self.running.asked || self.writing.is_some() || self.suppressed || !self.is_shown() {
            return;
        }
        let may = match self.ordered() {
            None => false,
            Some(Codec::Graphics { .. }) => self.pace.may_send(),
            Some(Codec::RemoteFx(_) | Codec::Bitmap) => true,
        };
        if may {
            self.running.asked = true;
            self.wish(|order, budget| order.budget = budget);
            self.running.desktop.request_frame();
        }
    }

    /// Changes the order for the next picture; the second argument is what that may take.
    fn wish(&mut self, change: impl FnOnce(&mut Order, usize)) {
        let budget = self.pace.budget();
        // A poisoned lock is noticed by the painter, which ends the session.
        if let Ok(mut orders) = self.running.orders.lock()
            && let Some(order) = orders.as_mut()
        {
            change(order, budget);
        }
    }

    fn take_acknowledgements(&mut self) {
        let now = Instant::now();
        let Some(mut pipeline) = self.pipeline() else { return };
        let (frames, more) = (pipeline.acknowledged(), pipeline.acknowledges());
        for frame in frames {
            self.pace.acknowledged(frame, now);
        }
        if !more {
            // All are acknowledged, or the client has suspended that: then the socket alone bounds what is sent.
            self.pace.forget();
        }
    }

    fn written(&mut self) {
        if let Some((bytes, since)) = self.writing.take() {
            self.pace.written(bytes, since.elapsed());
        }
    }

    /// When to refine; that waits until the link has nothing else to do.
    fn refinement(&self) -> Option<Instant> {
        let quiet = self.writing.is_none() && !self.suppressed && self.is_shown();
        let wanted = self.refine_at.filter(|_| self.running.asked && quiet)?;
        self.pace.idle_from(wanted).map(|idle| idle.max(wanted))
    }

    /// Wishes for a picture now, though nothing has changed, that makes still parts exact.
    fn refine(&mut self) {
        self.refine_at = None;
        self.wish(|order, budget| {
            order.refine = true;
            order.budget = budget;
        });
        self.running.desktop.repeat_frame();
    }

    /// The last picture was made, and says when the next one should make still parts exact.
    fn refines_in(&mut self, wait: Option<Duration>) {
        self.refine_at = wait.map(|wait| Instant::now() + wait);
        self.wish(|order, _| order.refine = false);
    }

    /// What is shown is recorded, or need not be.
    fn is_recorded(&self) -> bool {
        self.running.is_recorded()
    }

    /// A page of this host's stands in the place of the desktop.
    fn shows_page(&self) -> bool {
        self.asked.is_some() || self.screen.is_some() || self.running.desk.is_some()
    }

    /// What the pointer looks like: what programs have for one is shown with the desktop alone.
    fn pointer(&self) -> Pointer {
        if self.shows_page() { Pointer::Shape(Shape::DEFAULT) } else { self.running.pointer }
    }

    /// Brings a page to what has happened, and asks for what its user wishes.
    async fn follow(&mut self) -> Result<(), Error> {
        if let (Some(gate), Some(recording)) = (self.wish.take(), &self.running.recording) {
            recording.ask(gate).await;
        }
        if self.asked.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        let page = match (&mut self.running.desk, &self.screen) {
            (Some(desk), _) => Some(desk.page(now)),
            (None, Some(screen)) => {
                let asked =
                    self.running.recording.as_ref().map(|recording| recording.asked().borrow().clone());
                Some(screen.page(self.running.holding.policy().as_deref(), asked.as_ref(), now))
            }
            (None, None) => None,
        };
        let shown = self.running.curtain.page().map(|(page, _)| page);
        if page == shown {
            return Ok(());
        }
        let turned = page.is_some() != shown.is_some();
        self.running.curtain.turn_to(page);
        self.running.desktop.refresh_all();
        if turned { self.show_pointer(self.pointer()).await } else { Ok(()) }
    }

    /// Its user opens the page over the desktop, which is told that nothing is held any more.
    fn open_screen(&mut self) {
        tracing::info!("its user looks at what holds");
        if let Err(e) = self.running.desktop.release_all() {
            // The desktop is ending; its own message ends the session.
            tracing::debug!("releasing keys: {e}");
        }
        self.admission.let_go();
        self.clicks.let_go();
        self.screen = Some(Screen::default());
    }

    /// What he does on it; nothing of it goes to the desktop.
    fn on_screen(&mut self, input: &Input) {
        if let Input::Locks { .. } = input {
            self.admission.keep_locks(*input);
        }
        let layout = self.running.curtain.page().map(|(_, layout)| layout).unwrap_or_default();
        let recorded = self.is_recorded();
        let holds = self.running.holding.policy().filter(|_| recorded);
        let asked = self.running.recording.as_ref().map(|recording| recording.asked().borrow().clone());
        let Some(screen) = &mut self.screen else { return };
        match screen.take(input, layout, holds.as_deref(), asked.as_ref()) {
            Act::Nothing => {}
            Act::Ask(gate) => self.wish = Some(gate.name),
            // Nothing of the desktop is shown that is not recorded.
            Act::Close if recorded => {
                self.screen = None;
                if let Some(locks) = self.admission.locks(&self.running.holding) {
                    self.pass_on(locks);
                }
            }
            Act::Close => {}
        }
    }

    /// What somebody does who decides.
    fn at_desk(&mut self, inputs: &[Input]) {
        let now = Instant::now();
        let Some(desk) = &mut self.running.desk else { return };
        // He answers what he sees: what a page says has to be painted before.
        let mut page = desk.page(now);
        let shown = self.running.curtain.page().filter(|(shown, _)| *shown == page);
        let mut layout = shown.map(|(_, layout)| layout).unwrap_or_default();
        for input in inputs {
            if let Input::PointerMove { x, y } = *input {
                self.at = (x, y);
            }
            self.leaves |= desk.take(input, layout, self.at, now);
            let then = desk.page(now);
            if then != page {
                (page, layout) = (then, Layout::default());
            }
        }
    }

    /// Pictures may go out: they are recorded, or show nothing of the desktop.
    fn is_shown(&self) -> bool {
        self.is_recorded() || self.running.curtain.page().is_some()
    }

    /// The recording stands otherwise than before; why the session is over, if it is.
    fn recorded(&mut self) -> Result<Option<String>, Error> {
        let state = self.running.recording.as_ref().map(Recording::state);
        match state {
            // Its user did not accept, or not in time.
            Some(recording::State::Off(why)) if self.asked.is_some() => return Ok(Some(why)),
            Some(recording::State::Off(why)) => return Err(Error::NotRecorded(why)),
            Some(recording::State::Over(why)) => return Ok(Some(why)),
            Some(recording::State::On(cut)) => {
                self.wish(|order, _| order.cut = Some(cut));
                // After that, so that no picture of the desktop comes before the key.
                if self.asked.take().is_some() {
                    self.running.curtain.turn_to(None);
                }
                self.running.note_focus();
                self.running.desktop.refresh_all();
            }
            Some(recording::State::Asking(_) | recording::State::Paused) | None => {}
        }
        Ok(None)
    }

    /// Another policy holds.
    fn renew(&mut self) {
        if self.admission.renew(&self.running.holding)
            && let Err(e) = self.running.desktop.release_all()
        {
            // The desktop is ending; its own message ends the session.
            tracing::debug!("releasing keys: {e}");
        }
        if self.screen.is_none()
            && let Some(locks) = self.admission.locks(&self.running.holding)
        {
            self.pass_on(locks);
        }
    }

    /// Tells its user why the session is over, and ends it.
    async fn over(
        &mut self,
        why: String,
        reader: &mut Reader,
        written: &mut mpsc::Receiver<()>,
    ) -> Result<End, Error> {
        tracing::info!("the session is over: {why}");
        // A client that has gone, or is broken, is told nothing; the session is over all the same.
        if let Err(error) = self.tell_over(&why, reader, written).await {
            tracing::debug!("telling why: {error}");
        }
        Ok(End::Controller(why))
    }

    async fn tell_over(
        &mut self,
        why: &str,
        reader: &mut Reader,
        written: &mut mpsc::Receiver<()>,
    ) -> Result<(), Error> {
        // A picture that was made before is still sent: what follows builds on it.
        self.running.curtain.turn_to(Some(Page::of(OVER, why)));
        self.running.desktop.refresh_all();
        let shown = Instant::now() + OVER_SHOWN;
        loop {
            self.ask();
            tokio::select! {
                () = until(Some(shown)) => return Ok(()),
                message = self.running.from_desktop.recv() => match message {
                    Some(FromDesktop::Picture(encoded)) => self.picture(encoded).await?,
                    Some(FromDesktop::Ahead { commands, size }) => self.ahead(&commands, size).await?,
                    Some(FromDesktop::Failed(_) | FromDesktop::Closed(_)) | None => return Ok(()),
                    Some(_) => {}
                },
                told = written.recv() => match told {
                    Some(()) => self.written(),
                    None => return Ok(()),
                },
                pdu = reader.read_pdu() => match pdu {
                    Ok((action, bytes)) => {
                        if self.pdu(action, &bytes).await? {
                            return Ok(());
                        }
                    }
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    /// The client has lost what it showed.
    fn repaint(&mut self) {
        self.repaint = self.repaint.wrapping_add(1);
        let repaint = self.repaint;
        self.wish(|order, _| order.repaint = repaint);
        self.running.desktop.refresh_all();
    }

    /// Sends what there is of a picture whose rest follows. If the pipeline has gone or begun anew meanwhile, the rest finds
    /// that too, and has everything painted.
    async fn ahead(&mut self, commands: &[Command], size: (u32, u32)) -> Result<(), Error> {
        let Some((bytes, frame)) = self.commands(commands, size).await? else { return Ok(()) };
        self.pace.sent_ahead(frame, bytes.len(), Instant::now());
        self.send(bytes).await
    }

    /// Commands as a picture of their own, or of a part, with the frame that the client will acknowledge; `None` when the
    /// client has no surface for it. They are in the recording's queue when this is done.
    async fn commands(
        &mut self,
        commands: &[Command],
        size: (u32, u32),
    ) -> Result<Option<(Vec<u8>, u32)>, Error> {
        let time_ms = self.time_ms();
        let Some(mut pipeline) = self.pipeline() else { return Ok(None) };
        let Some(Sent { bytes, frame, frames }) = pipeline.picture(commands, size, time_ms)? else {
            return Ok(None);
        };
        if let Some(recording) =
            self.running.recording.as_ref().filter(|recording| recording.cuts().is_some())
        {
            for frame in frames {
                recording.frame(frame).await;
            }
        }
        Ok(Some((bytes, frame)))
    }

    /// Only differences matter to the client; it wraps after 49 days.
    fn time_ms(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_millis() & u128::from(u32::MAX)).unwrap_or_default()
    }

    /// A picture for the recording alone.
    async fn aside(&mut self, commands: &[Command]) -> Result<(), Error> {
        let Some(recording) = &self.running.recording else { return Ok(()) };
        if commands.is_empty() {
            return Ok(());
        }
        // Nobody acknowledges it, and its surface is the only one.
        recording.frame(egfx::frame_bytes(commands, 0, 0, self.time_ms())?).await;
        Ok(())
    }

    /// What the client shows, where the recording is cut.
    async fn key(&mut self, width: u32, height: u32, pixels: Vec<u8>) {
        self.note_pointer().await;
        if let Some(recording) = &self.running.recording {
            recording.key(width, height, pixels).await;
            if let Some(state) = self.trail.state() {
                recording.pointer(state).await;
            }
        }
    }

    async fn picture(&mut self, encoded: Encoded) -> Result<(), Error> {
        self.running.asked = false;
        self.shown();
        let bytes = match encoded {
            Encoded::Graphics { commands, size, refine_in } => {
                self.refines_in(refine_in);
                if commands.is_empty() {
                    return Ok(());
                }
                let sent = self.commands(&commands, size).await?;
                sent.map(|(bytes, frame)| {
                    self.pace.sent(frame, bytes.len(), Instant::now());
                    bytes
                })
            }
            Encoded::Updates { updates, refine_in } => {
                self.refines_in(refine_in);
                let mut bytes = Vec::new();
                for (code, payload) in &updates {
                    fastpath::append(*code, payload, &mut bytes)?;
                }
                Some(bytes)
            }
        };
        let Some(bytes) = bytes else {
            // The client closed or restarted its pipeline while this picture was made. Decoders depend on every
            // picture before, so the next one has to stand alone.
            if let Some(codec) = self.ordered() {
                self.order(codec);
            }
            return Ok(());
        };
        if bytes.is_empty() {
            return Ok(());
        }
        self.writing = Some((bytes.len(), Instant::now()));
        self.facts.frames.set(self.facts.frames.get() + 1);
        self.writer
            .send(Piece { bytes, picture: true })
            .await
            .map_err(|_| Error::Connection(std::io::ErrorKind::BrokenPipe.into()))
    }

    async fn show_pointer(&mut self, pointer: Pointer) -> Result<(), Error> {
        if self.resizing.is_inactive() {
            // It is shown when the client is active again.
            return Ok(());
        }
        let bytes = self.cursors.show(pointer)?;
        if !bytes.is_empty() && self.running.log.is_on() {
            self.trail.looks(self.cursors.drawn(pointer), Instant::now());
        }
        self.send(bytes).await
    }

    /// Handles one PDU; returns whether the client wants to leave.
    async fn pdu(&mut self, action: Action, bytes: &[u8]) -> Result<bool, Error> {
        match incoming::pdu(action, bytes, &mut self.result, &mut self.translator)? {
            Incoming::Nothing => {}
            Incoming::Input(inputs) => self.input(inputs),
            Incoming::Answer(answer) => self.send(answer).await?,
            Incoming::Confirmed(sets) => self.confirmed(&sets)?,
            Incoming::Finalized => self.finalized().await?,
            Incoming::Suppress(suppressed) => {
                let was = std::mem::replace(&mut self.suppressed, suppressed);
                if was && !self.suppressed {
                    self.repaint();
                }
            }
            Incoming::Refresh => {
                self.suppressed = false;
                self.repaint();
            }
            Incoming::Leave => return Ok(true),
        }
        Ok(false)
    }

    fn input(&mut self, inputs: Vec<Input>) {
        if inputs.is_empty() {
            return;
        }
        let now = Instant::now();
        // Before anything else, and whatever the policy says of keys.
        let attention: Vec<bool> = inputs.iter().map(|input| self.attention.see(input)).collect();
        if self.asked.is_some() {
            self.facts.last_input.set(now);
            return inputs.iter().for_each(|input| self.answer(input, now));
        }
        if self.running.desk.is_some() {
            self.facts.last_input.set(now);
            return self.at_desk(&inputs);
        }
        if !self.is_recorded() && self.screen.is_none() {
            return;
        }
        self.facts.last_input.set(now);
        if self.running.log.is_on() {
            self.period.input(now.into());
        }
        for (input, attention) in inputs.into_iter().zip(attention) {
            self.trace(&input, now);
            if self.screen.is_some() {
                self.on_screen(&input);
                continue;
            }
            if attention {
                self.open_screen();
                continue;
            }
            match self.clicks.see(&input, &self.running.curtain) {
                For::Desktop => {}
                For::Nobody => continue,
                For::Notice if self.refusal.is_some() => {
                    self.tell_refusal(None);
                    continue;
                }
                For::Notice => {
                    self.stop = true;
                    continue;
                }
            }
            let mut admitted = Vec::new();
            self.admission.take(input, &self.running.holding, now, &mut admitted);
            admitted.into_iter().for_each(|input| self.pass_on(input));
        }
        self.report(now);
    }

    fn pass_on(&mut self, input: Input) {
        if let Err(e) = self.running.desktop.input(input) {
            // The desktop is ending; its own message ends the session.
            tracing::debug!("input: {e}");
        }
    }

    /// Tells the recording what was tried and may not be.
    fn report(&mut self, now: Instant) {
        for (rule, count, detail) in self.admission.report(now) {
            self.running.log.note(audit::violation(Actor::Client, rule, detail));
            // It counts as one itself.
            self.running.log.refused(count.saturating_sub(1) as usize);
        }
    }

    /// Tells its user that something was refused, or no more.
    fn tell_refusal(&mut self, refusal: Option<Notice>) {
        self.refusal = refusal.is_some().then(|| Instant::now() + REFUSAL_SHOWN);
        self.running.curtain.refuse(refusal);
        self.running.desktop.refresh_all();
    }

    /// What its user does with the page that asks him.
    fn answer(&mut self, input: &Input, now: Instant) {
        let Some((mut page, layout)) = self.running.curtain.page() else { return };
        let Some(asked) = self.asked else { return };
        let answer = match *input {
            Input::PointerMove { x, y } => {
                self.at = (x, y);
                None
            }
            Input::Locks { .. } => {
                self.admission.keep_locks(*input);
                None
            }
            // What was typed for something else does not answer.
            _ if now < asked + UNREAD => None,
            _ => layout.answer(input, self.at),
        };
        if let Some(accepted) = answer {
            if let Some(recording) = &mut self.running.recording {
                recording.answer(accepted);
            }
            return;
        }
        let Some(above) = layout.scroll(input, page.above) else { return };
        if above != page.above {
            page.above = above;
            self.running.curtain.turn_to(Some(page));
            self.running.desktop.refresh_all();
        }
    }

    /// Keeps where the client's pointer goes.
    fn trace(&mut self, input: &Input, now: Instant) {
        if !self.running.log.is_on() {
            return;
        }
        let size = (self.size.width.into(), self.size.height.into());
        match *input {
            Input::PointerMove { x, y } => self.trail.moved_to((x, y), size, now),
            Input::PointerMoveRelative { dx, dy } => self.trail.moved_by((dx, dy), size, now),
            _ => {}
        }
    }

    /// Tells the recording what the pointer has done.
    async fn note_pointer(&mut self) {
        if let Some(record) = self.trail.record(Instant::now())
            && let Some(recording) = self.running.recording.as_ref().filter(|_| self.asked.is_none())
        {
            recording.pointer(record).await;
        }
    }

    /// Tells the recording how much was typed.
    fn note_input(&mut self) {
        let counted = self.running.desktop.take_tally();
        if let Some(input) = self.period.end(counted, Instant::now().into()) {
            self.running.log.note(input);
        }
    }

    /// Tells the recording the size and the number of monitors that the client shows.
    fn note_size(&self) {
        let size = (self.size.width.into(), self.size.height.into());
        self.running.log.note(audit::resize(size, self.layout().monitors().len()));
    }

    /// The last of what the client did.
    async fn finish_notes(&mut self) {
        self.note_input();
        self.note_pointer().await;
        self.running.log.flush().await;
    }
}
