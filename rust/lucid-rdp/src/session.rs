//! One client's session: pictures out, input in, until either side ends it.
//!
//! Pacing: the desktop is asked for one picture at a time, and only while the client has acknowledged enough
//! of those before (graphics pipeline) and nothing waits to be written. What changes meanwhile is collected by
//! the desktop as damage, so no queue grows on a slow link.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ironrdp_acceptor::{AcceptorResult, DesktopSize};
use ironrdp_core::{decode, encode_vec};
use ironrdp_dvc::DrdynvcServer;
use ironrdp_pdu::Action;
use ironrdp_pdu::fast_path::UpdateCode;
use ironrdp_pdu::gcc::ClientEarlyCapabilityFlags;
use ironrdp_pdu::input::fast_path::FastPathInput;
use ironrdp_pdu::mcs::{DisconnectProviderUltimatum, DisconnectReason, McsMessage, SendDataIndication};
use ironrdp_pdu::rdp::headers::{ShareControlHeader, ShareControlPdu, ShareDataHeader, ShareDataPdu};
use ironrdp_pdu::rdp::server_error_info::{ErrorInfo, ProtocolIndependentCode, ServerSetErrorInfoPdu};
use ironrdp_pdu::x224::X224;
use ironrdp_svc::server_encode_svc_messages;
use ironrdp_tokio::{Framed, FramedWrite as _, TokioStream, split_tokio_framed};
use lucid_desktop::{Closed, Desktop, DesktopRequest, Input, KeyboardLayout};
use tokio::io::WriteHalf;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;

use crate::capabilities::{self, Client};
use crate::clipboard::{self, Clipboard};
use crate::egfx::{self, State};
use crate::handshake::Connection;
use crate::input::Translator;
use crate::picture::{Codec, Encoded, FromDesktop, Order, Orders, Painter};
use crate::{Error, fastpath};

/// A client that announced the graphics pipeline has this long to open it before it gets pictures the old way.
const PIPELINE_WAIT: Duration = Duration::from_secs(10);

/// Pieces that wait to be written; the writer takes them in order.
const WRITE_QUEUE: usize = 4;

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client left.
    Client,
    /// The user ended the desktop.
    Desktop,
    /// The host is stopping.
    Stopping,
}

/// A desktop that is starting while the handshake finishes.
pub(crate) struct Opening {
    task: JoinHandle<Result<Desktop, lucid_desktop::Error>>,
    orders: Orders,
    from_desktop: mpsc::Receiver<FromDesktop>,
}

/// Starts a desktop; blocking work goes to another thread.
pub(crate) fn open_desktop(socket: &Path, size: DesktopSize, keyboard: KeyboardLayout) -> Opening {
    let (out, from_desktop) = mpsc::channel(1);
    let orders = Orders::new(Mutex::new(None));
    let painter = Painter::new(Arc::clone(&orders), out);
    let request = DesktopRequest { width: size.width.into(), height: size.height.into(), keyboard };
    let socket = socket.to_owned();
    let task = tokio::task::spawn_blocking(move || Desktop::open(&socket, &request, painter));
    Opening { task, orders, from_desktop }
}

/// A session's desktop. Ending one waits for its thread, which may be encoding a picture, so that is done on another
/// thread: this one serves all clients.
struct Owned(Option<Desktop>);

impl std::ops::Deref for Owned {
    type Target = Desktop;

    #[expect(clippy::expect_used, reason = "it is taken out in drop alone")]
    fn deref(&self) -> &Desktop {
        self.0.as_ref().expect("a desktop is there until it is dropped")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(desktop) = self.0.take() {
            tokio::task::spawn_blocking(move || drop(desktop));
        }
    }
}

/// What the writer is given.
struct Piece {
    bytes: Vec<u8>,
    /// Told when this piece is on its way.
    picture: bool,
}

struct Session {
    result: AcceptorResult,
    client: Client,
    size: DesktopSize,
    desktop: Owned,
    orders: Orders,
    writer: mpsc::Sender<Piece>,
    translator: Translator,
    began: Instant,
    /// A picture was asked for and has not come.
    asked: bool,
    /// A picture is queued or being written.
    writing: bool,
    /// The client has said that it shows nothing now (minimised).
    suppressed: bool,
    generation: u32,
}

/// Runs the session to its end.
pub(crate) async fn run(
    connection: Connection,
    opening: Opening,
    peer: SocketAddr,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) -> Result<End, Error> {
    let Connection { framed, result, size } = connection;
    let client = capabilities::confirmed(&result.capabilities)?;
    let (mut reader, writer) = split_tokio_framed(framed);
    let (to_writer, pieces) = mpsc::channel(WRITE_QUEUE);
    let (wrote, mut written) = mpsc::channel(WRITE_QUEUE);
    let writing = tokio::task::spawn_local(write(writer, pieces, wrote));

    let Opening { task, orders, mut from_desktop } = opening;
    let desktop = match task.await.map_err(|_| Error::Internal("the thread that opens desktops died"))? {
        Ok(desktop) => Owned(Some(desktop)),
        Err(error) => {
            let _ = to_writer.send(Piece { bytes: denied(&result)?, picture: false }).await;
            drop(to_writer);
            let _ = writing.await;
            return Err(error.into());
        }
    };

    let mut session = Session {
        result,
        client,
        size,
        desktop,
        orders,
        writer: to_writer,
        translator: Translator::default(),
        began: Instant::now(),
        asked: false,
        writing: false,
        suppressed: false,
        generation: 0,
    };
    session.start_channels().await?;
    let mut clipboard = Clipboard::start(&mut session.result, &session.desktop);
    let writer = session.writer.clone();
    let mut may_wait_for_pipeline = session
        .result
        .client_early_capability_flags
        .contains(ClientEarlyCapabilityFlags::SUPPORT_DYN_VC_GFX_PROTOCOL)
        && session.result.static_channels.get_channel_id_by_type::<DrdynvcServer>().is_some();
    let pipeline_deadline = tokio::time::sleep(PIPELINE_WAIT);
    tokio::pin!(pipeline_deadline);
    if !may_wait_for_pipeline {
        session.order_without_pipeline();
    }
    for frame in std::mem::take(&mut session.result.input_events) {
        match frame.first().map(|b| Action::from_fp_output_header(*b)) {
            Some(Ok(action)) => {
                session.pdu(action, &frame).await?;
            }
            _ => return Err(Error::Protocol("an input event")),
        }
    }
    tracing::info!(%peer, width = size.width, height = size.height, "session begins");

    let end = loop {
        session.ask();
        tokio::select! {
            pdu = reader.read_pdu() => {
                match pdu {
                    Ok((action, bytes)) => {
                        if session.pdu(action, &bytes).await? {
                            break End::Client;
                        }
                        clipboard.received(&mut session.result)?;
                        if session.serve_pipeline().await? {
                            may_wait_for_pipeline = false;
                        }
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Other => return Err(Error::Protocol("a frame")),
                    Err(e) => {
                        tracing::debug!(%peer, "reading: {e}");
                        break End::Client;
                    }
                }
            }
            message = from_desktop.recv() => match message {
                Some(FromDesktop::Picture(encoded)) => session.picture(encoded).await?,
                Some(FromDesktop::Failed(error)) => return Err(error),
                Some(FromDesktop::Closed(Closed::Dropped)) | None => break End::Desktop,
                Some(FromDesktop::Closed(Closed::Gone(why))) => {
                    tracing::info!(%peer, "the desktop ended: {why}");
                    session.send(logged_off(&session.result)?).await?;
                    break End::Desktop;
                }
                Some(FromDesktop::Closed(_)) => break End::Desktop,
            },
            event = clipboard.event() => clipboard.handle(event, &mut session.result)?,
            Ok(room) = writer.reserve(), if clipboard.has_output() => {
                room.send(Piece { bytes: clipboard.output(&mut session.result)?, picture: false });
            }
            told = written.recv() => match told {
                Some(()) => session.writing = false,
                None => break End::Client,
            },
            () = &mut pipeline_deadline, if may_wait_for_pipeline => {
                may_wait_for_pipeline = false;
                session.order_without_pipeline();
            }
            _ = stopping.changed() => {
                session.send(logged_off(&session.result)?).await?;
                break End::Stopping;
            }
        }
    };
    // The desktop goes first: nothing of it may outlive the session, however long the socket takes.
    drop((clipboard, writer));
    drop(session);
    drop(from_desktop);
    drop(reader);
    let _ = tokio::time::timeout(Duration::from_secs(2), writing).await;
    Ok(end)
}

type Writer = Framed<TokioStream<WriteHalf<TlsStream<TcpStream>>>>;

/// Writes pieces in order, so that a slow link delays pictures and never the reading of input.
async fn write(mut writer: Writer, mut pieces: mpsc::Receiver<Piece>, wrote: mpsc::Sender<()>) {
    while let Some(piece) = pieces.recv().await {
        if let Err(e) = writer.write_all(&piece.bytes).await {
            // The session ends when `wrote` is dropped.
            tracing::debug!("writing: {e}");
            return;
        }
        if piece.picture && wrote.send(()).await.is_err() {
            return;
        }
    }
    let (mut stream, _) = writer.into_inner();
    // Best effort: the client may be gone already.
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
}

impl Session {
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

    /// Gives the painter its order: pictures can be asked for from now on.
    fn order(&mut self, codec: Codec) {
        tracing::info!(codec = codec.name(), "pictures go out");
        let order = Order { codec, max_update: self.client.max_update, generation: self.generation };
        self.generation += 1;
        // A poisoned lock is noticed by the painter, which ends the session.
        if let Ok(mut orders) = self.orders.lock() {
            *orders = Some(order);
        }
        self.desktop.refresh_all();
    }

    fn ordered(&self) -> Option<Codec> {
        self.orders.lock().ok()?.map(|o| o.codec)
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
        let size = self.size;
        let Some(mut pipeline) = self.pipeline() else { return Ok(false) };
        let State::NeedsSurface { avc420 } = pipeline.state() else { return Ok(false) };
        let bytes = pipeline.make_surface(size)?;
        self.send(bytes).await?;
        self.order(if avc420 { Codec::Avc420 } else { Codec::ClearCodec });
        Ok(true)
    }

    /// Asks the desktop for the next picture when the client can take one.
    fn ask(&mut self) {
        if self.asked || self.writing || self.suppressed {
            return;
        }
        let may = match self.ordered() {
            None => false,
            Some(Codec::Avc420 | Codec::ClearCodec) => self.pipeline().is_some_and(|p| p.may_send()),
            Some(Codec::RemoteFx(_) | Codec::Bitmap) => true,
        };
        if may {
            self.asked = true;
            self.desktop.request_frame();
        }
    }

    async fn picture(&mut self, encoded: Encoded) -> Result<(), Error> {
        self.asked = false;
        // Only differences matter to the client; it wraps after 49 days.
        let time_ms =
            u32::try_from(self.began.elapsed().as_millis() & u128::from(u32::MAX)).unwrap_or_default();
        let bytes = match encoded {
            Encoded::Avc420 { bytes, damage, qp } => match self.pipeline() {
                Some(mut pipeline) => pipeline.avc420(&bytes, &damage, qp, time_ms)?,
                None => None,
            },
            Encoded::ClearCodec(tiles) => match self.pipeline() {
                Some(mut pipeline) => pipeline.clearcodec(tiles, time_ms)?,
                None => None,
            },
            Encoded::SurfaceCommands(commands) => Some(updates(UpdateCode::SurfaceCommands, &commands)?),
            Encoded::Bitmaps(bitmaps) => Some(updates(UpdateCode::Bitmap, &bitmaps)?),
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
        self.writing = true;
        self.writer
            .send(Piece { bytes, picture: true })
            .await
            .map_err(|_| Error::Connection(std::io::ErrorKind::BrokenPipe.into()))
    }

    /// Handles one PDU; returns whether the client wants to leave.
    async fn pdu(&mut self, action: Action, bytes: &[u8]) -> Result<bool, Error> {
        match action {
            Action::FastPath => {
                let input: FastPathInput = decode(bytes).map_err(|_| Error::Protocol("fast-path input"))?;
                let mut inputs = Vec::new();
                for event in input.input_events().iter().copied() {
                    self.translator.fast(event, &mut inputs);
                }
                self.input(inputs);
                Ok(false)
            }
            Action::X224 => self.x224(bytes).await,
        }
    }

    fn input(&self, inputs: Vec<Input>) {
        for input in inputs {
            if let Err(e) = self.desktop.input(input) {
                // The desktop is ending; its own message ends the session.
                tracing::debug!("input: {e}");
            }
        }
    }

    async fn x224(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        let message: X224<McsMessage<'_>> = decode(bytes).map_err(|_| Error::Protocol("an MCS message"))?;
        match message.0 {
            McsMessage::SendDataRequest(data) if data.channel_id == self.result.io_channel_id => {
                self.share_data(data.user_data.as_ref())
            }
            McsMessage::SendDataRequest(data) => {
                let id = data.channel_id;
                if let Some(channel) = self.result.static_channels.get_by_channel_id_mut(id) {
                    let Some(bytes) = clipboard::bounded(channel, &data.user_data)? else { return Ok(false) };
                    let answers =
                        channel.process(&bytes).map_err(|_| Error::Protocol("a virtual channel's data"))?;
                    let answer = server_encode_svc_messages(answers, id, self.result.user_channel_id)
                        .map_err(|_| Error::Encode("a channel's answer"))?;
                    self.send(answer).await?;
                } else {
                    tracing::debug!(id, "data for a channel that is not open");
                }
                Ok(false)
            }
            McsMessage::DisconnectProviderUltimatum(_) => Ok(true),
            _ => Ok(false),
        }
    }

    fn share_data(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        let control: ShareControlHeader =
            decode(bytes).map_err(|_| Error::Protocol("a share control PDU"))?;
        let ShareControlPdu::Data(data) = control.share_control_pdu else { return Ok(false) };
        match data.share_data_pdu {
            ShareDataPdu::Input(input) => {
                let mut inputs = Vec::new();
                for event in input.0 {
                    self.translator.slow(event, &mut inputs);
                }
                self.input(inputs);
            }
            // The user closed the client's window.
            ShareDataPdu::ShutdownRequest => return Ok(true),
            // MS-RDPBCGR 2.2.11.3: no rectangle means that nothing is shown.
            ShareDataPdu::SuppressOutput(suppress) => {
                let was = std::mem::replace(&mut self.suppressed, suppress.desktop_rect.is_none());
                if was && !self.suppressed {
                    self.desktop.refresh_all();
                }
            }
            ShareDataPdu::RefreshRectangle(_) => {
                self.suppressed = false;
                self.desktop.refresh_all();
            }
            other => tracing::debug!(pdu = other.as_short_name(), "not used here"),
        }
        Ok(false)
    }
}

fn updates(code: UpdateCode, payloads: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    for payload in payloads {
        fastpath::append(code, payload, &mut out)?;
    }
    Ok(out)
}

/// Says why (MS-RDPBCGR 2.2.5.1) and hangs up (MCS Disconnect Provider Ultimatum).
fn farewell(
    result: &AcceptorResult,
    code: ProtocolIndependentCode,
    reason: DisconnectReason,
) -> Result<Vec<u8>, Error> {
    let failed = |_| Error::Encode("a farewell");
    let mut bytes = Vec::new();
    if result.client_early_capability_flags.contains(ClientEarlyCapabilityFlags::SUPPORT_ERR_INFO_PDU) {
        let info =
            ShareDataPdu::ServerSetErrorInfo(ServerSetErrorInfoPdu(ErrorInfo::ProtocolIndependentCode(code)));
        let pdu = ShareControlHeader {
            share_id: 0,
            pdu_source: result.io_channel_id,
            share_control_pdu: ShareControlPdu::Data(ShareDataHeader {
                share_data_pdu: info,
                stream_priority: ironrdp_pdu::rdp::headers::StreamPriority::Undefined,
                compression_flags: ironrdp_pdu::rdp::headers::CompressionFlags::empty(),
                compression_type: ironrdp_pdu::rdp::client_info::CompressionType::K8,
            }),
        };
        let user_data = encode_vec(&pdu).map_err(failed)?.into();
        let indication = SendDataIndication {
            initiator_id: result.user_channel_id,
            channel_id: result.io_channel_id,
            user_data,
        };
        bytes = encode_vec(&X224(indication)).map_err(failed)?;
    }
    bytes.extend(
        encode_vec(&X224(McsMessage::DisconnectProviderUltimatum(DisconnectProviderUltimatum::from_reason(
            reason,
        ))))
        .map_err(failed)?,
    );
    Ok(bytes)
}

fn logged_off(result: &AcceptorResult) -> Result<Vec<u8>, Error> {
    farewell(result, ProtocolIndependentCode::LogoffByUser, DisconnectReason::UserRequested)
}

fn denied(result: &AcceptorResult) -> Result<Vec<u8>, Error> {
    farewell(result, ProtocolIndependentCode::ServerDeniedConnection, DisconnectReason::ProviderInitiated)
}
