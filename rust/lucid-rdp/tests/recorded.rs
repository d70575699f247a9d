//! The whole way of what a session does to its recorder: a real desktop with a terminal, IronRDP's client, `lucid-rdp`,
//! and a recorder that only collects.
//!
//! Needs sway, foot, wl-clipboard and the program `lucid-desktop` beside this one's; says `skipped: …` without them.
//! `LUCID_TEST_SWAY` names another sway.

// The whole file is a test, its helper functions included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Debug;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ironrdp_cliprdr::CliprdrClient;
use ironrdp_cliprdr::backend::CliprdrBackend;
use ironrdp_cliprdr::pdu::{
    ClipboardFormat, ClipboardFormatId, ClipboardGeneralCapabilityFlags, FileContentsRequest,
    FileContentsResponse, FormatDataRequest, FormatDataResponse, LockDataId, OwnedFormatDataResponse,
};
use ironrdp_connector::{
    BitmapConfig, ClientConnector, Config, ConnectionOutcome, ConnectorResult, Credentials, DesktopSize,
    ServerName, general_err,
};
use ironrdp_core::impl_as_any;
use ironrdp_graphics::image_processing::PixelFormat;
use ironrdp_pdu::gcc::{ConnectionType, KeyboardType};
use ironrdp_pdu::input::MousePdu;
use ironrdp_pdu::input::fast_path::{FastPathInputEvent, KeyboardFlags};
use ironrdp_pdu::input::mouse::PointerFlags;
use ironrdp_pdu::rdp::capability_sets::{BitmapCodecs, MajorPlatformType, RailSupportLevel};
use ironrdp_pdu::rdp::client_info::{PerformanceFlags, TimezoneInfo};
use ironrdp_session::image::DecodedImage;
use ironrdp_session::{ActiveStage, ActiveStageBuilder, ActiveStageOutput};
use ironrdp_tokio::{Framed, FramedWrite as _, NetworkClient, TokioFramed, TokioStream};
use lucid_ipc::accounts::admission_server::{self, AdmissionServer};
use lucid_ipc::session::event::Data;
use lucid_ipc::session::recorder_server::{Recorder, RecorderServer};
use lucid_ipc::session::to_recorder::Item;
use lucid_ipc::session::{
    Actor, AskFor, Begun, Clipboard, Connect, Decided, DeskDecision, DeskRequest, Direction, Event,
    FromRecorder, Input, KeyWanted, MAX_MESSAGE, Outcome, Policy as Holds, Requests, ToRecorder, Waiting,
    Wanted, from_recorder,
};
use lucid_ipc::tonic::body::Body;
use lucid_ipc::tonic::codegen;
use lucid_ipc::tonic::transport::Server;
use lucid_ipc::tonic::{Request, Response, Status, Streaming, async_trait};
use lucid_policy::{Policy, Rectangle};
use lucid_session::pointer::{Change, entries};
use prost::Message as _;
use rustls_pki_types::{CertificateDer, ServerName as TlsName, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_stream::wrappers::ReceiverStream;

/// The user that a test run by root starts the launcher as.
const NOBODY: u32 = 65534;
/// Far beyond what anything takes: a test that hangs fails, and never passes by time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the client has on its clipboard, and what a program of the desktop copies.
const FROM_CLIENT: &str = "Grüße\nvom Rechner";
const FROM_DESKTOP: &str = "out of it";

/// Keyboard, pointer, and the clipboard both ways.
fn pasting() -> Policy {
    let mut policy = Policy::standard();
    (policy.clipboard.host_to_remote, policy.clipboard.remote_to_host) = (true, true);
    policy
}

// ---- The recorder.

#[path = "support/admission.rs"]
mod admission;

/// It also says who may connect.
#[derive(Clone)]
struct Controller {
    recorder: RecorderServer<Collector>,
    admission: AdmissionServer<admission::Door>,
}

impl codegen::Service<codegen::http::Request<Body>> for Controller {
    type Response = codegen::http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: codegen::http::Request<Body>) -> Self::Future {
        if request.uri().path().contains(admission_server::SERVICE_NAME) {
            self.admission.call(request)
        } else {
            self.recorder.call(request)
        }
    }
}

/// Passes all that comes on.
struct Collector {
    items: mpsc::UnboundedSender<Item>,
    /// Asks for a key.
    cut: Arc<Notify>,
    /// Told when its streams are to break.
    away: watch::Receiver<()>,
    /// What holds in every session.
    policy: Policy,
    /// What its user may decide on, if he may do nothing else; and where he decides.
    waits: Option<Wanted>,
    decisions: mpsc::UnboundedSender<DeskDecision>,
}

#[async_trait]
impl Recorder for Collector {
    type RecordStream = ReceiverStream<Result<FromRecorder, Status>>;
    type DeskStream = ReceiverStream<Result<Waiting, Status>>;

    async fn desk(&self, request: Request<DeskRequest>) -> Result<Response<Self::DeskStream>, Status> {
        assert_eq!(request.into_inner().user, "lucid");
        let wanted = self.waits.clone().ok_or_else(|| Status::permission_denied("he has a desktop"))?;
        let (to, answers) = mpsc::channel(1);
        to.send(Ok(Waiting { wanted: vec![wanted] })).await.unwrap();
        tokio::spawn(async move { to.closed().await });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn decide_at_desk(&self, request: Request<DeskDecision>) -> Result<Response<Decided>, Status> {
        self.decisions.send(request.into_inner()).unwrap();
        Ok(Response::new(Decided { agree: 1, needed: 1, seconds: 300 }))
    }

    async fn record(
        &self,
        request: Request<Streaming<ToRecorder>>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let mut away = self.away.clone();
        away.mark_unchanged();
        let (to, answers) = mpsc::channel(4);
        let table = self.policy.to_bytes().unwrap();
        let mut beat = tokio::time::interval(Duration::from_secs(2));
        let mut begun = false;
        let (items, cut) = (self.items.clone(), Arc::clone(&self.cut));
        let mut coming = request.into_inner();
        tokio::spawn(async move {
            loop {
                let said = tokio::select! {
                    item = coming.message() => match item {
                        Ok(Some(ToRecorder { item: Some(item) })) => {
                            let begins = matches!(item, Item::Begin(_));
                            let ends = matches!(item, Item::End(_));
                            let asks = matches!(item, Item::AskFor(_));
                            if items.send(item).is_err() || ends {
                                return;
                            }
                            if asks {
                                let news = "It waits.".to_owned();
                                from_recorder::Item::Requests(Requests { news, number: 1, ..Requests::default() })
                            } else if begins {
                                begun = true;
                                beat.reset_immediately();
                                from_recorder::Item::Begun(Begun { session: "a session".to_owned() })
                            } else {
                                continue;
                            }
                        }
                        _ => return,
                    },
                    _ = away.changed() => return,
                    _ = beat.tick(), if begun => {
                        from_recorder::Item::Policy(Holds { number: 0, table: table.clone().into() })
                    }
                    () = cut.notified() => from_recorder::Item::KeyWanted(KeyWanted {}),
                };
                if to.send(Ok(FromRecorder { item: Some(said) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// What was collected.
struct Collected {
    coming: mpsc::UnboundedReceiver<Item>,
    decisions: mpsc::UnboundedReceiver<DeskDecision>,
    all: Vec<Item>,
}

impl Collected {
    async fn next(&mut self, wanted: &str) -> Item {
        let next = tokio::time::timeout(PATIENCE, self.coming.recv()).await;
        let item = next.unwrap_or_else(|_| panic!("no {wanted} came; events: {:#?}", self.events()));
        let item = item.expect("the recorder ended");
        self.all.push(item.clone());
        item
    }

    /// Waits until all that has come holds something.
    async fn until(&mut self, wanted: &str, holds: impl Fn(&Item) -> bool) -> Item {
        loop {
            let item = self.next(wanted).await;
            if holds(&item) {
                return item;
            }
        }
    }

    async fn until_event(&mut self, wanted: &str, holds: impl Fn(&Data) -> bool) -> Event {
        let is = |item: &Item| matches!(item, Item::Event(Event { data: Some(data), .. }) if holds(data));
        match self.until(wanted, is).await {
            Item::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    async fn until_title(&mut self, title: &str) {
        self.until_event(title, |data| {
            matches!(data, Data::Focus(focus)
                if focus.title.as_deref() == Some(title) && focus.app_id.as_deref() == Some("foot"))
        })
        .await;
    }

    fn events(&self) -> Vec<&Event> {
        self.all
            .iter()
            .filter_map(|item| match item {
                Item::Event(event) => Some(event),
                _ => None,
            })
            .collect()
    }
}

// ---- The programs.

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct House {
    directory: PathBuf,
    port: u16,
    rdp: Program,
    _desktop: Program,
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn sway() -> PathBuf {
    std::env::var_os("LUCID_TEST_SWAY").map_or_else(|| "/usr/bin/sway".into(), PathBuf::from)
}

fn desktop_program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lucid-rdp")).with_file_name("lucid-desktop")
}

/// Whether everything is here; says so when it is not.
fn parts_are_here() -> bool {
    let programs =
        ["/usr/bin/foot", "/usr/bin/xkbcli", "/usr/bin/wl-copy", "/usr/bin/wl-paste"].map(PathBuf::from);
    let missing = programs.into_iter().chain([sway(), desktop_program()]).find(|part| !part.exists());
    if let Some(part) = &missing {
        eprintln!("skipped: {} is not there", part.display());
    }
    missing.is_none()
}

async fn until_there(path: &Path) -> Vec<u8> {
    let there = async {
        loop {
            match std::fs::metadata(path) {
                Ok(_) => return std::fs::read(path).unwrap_or_default(),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("no {}", path.display()))
}

type Started = (House, Collected, Arc<Notify>, watch::Sender<()>);

async fn start(test: &str, policy: Policy) -> Started {
    start_with(test, policy, None, None).await
}

/// With a request that waits, or a script in the compositor's place.
async fn start_with(test: &str, policy: Policy, waits: Option<Wanted>, script: Option<String>) -> Started {
    let directory = std::env::temp_dir().join(format!("lucid-rdp-test-{test}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["sway-config", "foot.ini"] {
        std::fs::copy(crates.join("../lucid-desktop/tests/files").join(file), directory.join(file)).unwrap();
    }
    let mut desktop = Command::new(desktop_program());
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if is_root {
        // sway refuses to run as root.
        std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        desktop.uid(NOBODY).gid(NOBODY);
    }
    let socket = directory.join("desktop");
    let compositor = script.map_or_else(sway, |script| {
        let path = directory.join("compositor");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    });
    desktop.arg("--listen").arg(&socket).arg("--sway").arg(compositor);
    desktop.arg("--sway-config").arg(directory.join("sway-config"));
    desktop.arg("--home").arg(&directory).arg("--runtime").arg(&directory);
    let desktop = Program(desktop.stdin(Stdio::null()).spawn().unwrap());
    until_there(&socket).await;

    // The recorder's own directory, so that only its owner comes there.
    let recorder = directory.join("recorder");
    let (items, coming) = mpsc::unbounded_channel();
    let cut = Arc::new(Notify::new());
    let (leave, away) = watch::channel(());
    let (listener, _guard) = lucid_ipc::bind(&recorder, lucid_ipc::Access::Owner).unwrap();
    let (decisions, decided) = mpsc::unbounded_channel();
    let collector = Collector { items, cut: Arc::clone(&cut), away, policy, waits, decisions };
    let service = RecorderServer::new(collector);
    let service = Controller {
        recorder: service.max_decoding_message_size(MAX_MESSAGE),
        admission: AdmissionServer::new(admission::Door::default()),
    };
    tokio::spawn(async move { Server::builder().serve_with_incoming(service, listener).await.unwrap() });

    let run = directory.join("run");
    std::fs::create_dir_all(&run).unwrap();
    let mut rdp = Command::new(env!("CARGO_BIN_EXE_lucid-rdp"));
    rdp.args(["--listen", "127.0.0.1:0", "--video-encoder", "software"]);
    rdp.arg("--state").arg(&run).arg("--run").arg(&run).arg("--desktop").arg(&socket);
    rdp.arg("--controller").arg(&recorder);
    let rdp = Program(rdp.stdin(Stdio::null()).spawn().unwrap());
    let status = until_there(&run.join("status.json")).await;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let port = u16::try_from(status["port"].as_u64().unwrap()).unwrap();
    let house = House { directory, port, rdp, _desktop: desktop };
    (house, Collected { coming, decisions: decided, all: Vec::new() }, cut, leave)
}

// ---- The client.

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &TlsName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What happens on the client's clipboard.
#[derive(Debug, Default)]
struct Pasting {
    list_wanted: bool,
    wanted: usize,
    offered: bool,
    got: Option<Vec<u8>>,
}

impl_as_any!(Pasting);

impl CliprdrBackend for Pasting {
    fn temporary_directory(&self) -> &str {
        "/nowhere"
    }
    fn client_capabilities(&self) -> ClipboardGeneralCapabilityFlags {
        ClipboardGeneralCapabilityFlags::USE_LONG_FORMAT_NAMES
    }
    fn on_ready(&mut self) {}
    fn on_request_format_list(&mut self) {
        self.list_wanted = true;
    }
    fn on_process_negotiated_capabilities(&mut self, _: ClipboardGeneralCapabilityFlags) {}
    fn on_remote_copy(&mut self, formats: &[ClipboardFormat]) {
        self.offered = formats.iter().any(|format| format.id() == ClipboardFormatId::CF_UNICODETEXT);
    }
    fn on_format_data_request(&mut self, _: FormatDataRequest) {
        self.wanted += 1;
    }
    fn on_format_data_response(&mut self, response: FormatDataResponse<'_>) {
        self.got = (!response.is_error()).then(|| response.data().to_vec());
    }
    fn on_file_contents_request(&mut self, _: FileContentsRequest) {}
    fn on_file_contents_response(&mut self, _: FileContentsResponse<'_>) {}
    fn on_lock(&mut self, _: LockDataId) {}
    fn on_unlock(&mut self, _: LockDataId) {}
}

/// Only Kerberos asks the network.
struct NoNetwork;

impl NetworkClient for NoNetwork {
    async fn send(&mut self, _: &ironrdp_connector::sspi::NetworkRequest) -> ConnectorResult<Vec<u8>> {
        Err(general_err!("nobody is asked"))
    }
}

struct Client {
    framed: TokioFramed<TlsStream<TcpStream>>,
    stage: ActiveStage,
    image: DecodedImage,
    address: SocketAddr,
}

fn wide(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

impl Client {
    async fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let address = stream.local_addr().unwrap();
        let mut connector = ClientConnector::new(config(), address);
        connector.attach_static_channel(CliprdrClient::new(Box::new(Pasting::default())));
        let mut framed: Framed<TokioStream<TcpStream>> = Framed::new(stream);
        let upgrade = ironrdp_tokio::connect_begin(&mut framed, &mut connector).await.unwrap();
        let provider = Arc::new(ring::default_provider());
        let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let name = TlsName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, framed.into_inner_no_leftover()).await;
        let mut framed: TokioFramed<TlsStream<TcpStream>> = Framed::new(stream.unwrap());
        let upgraded = ironrdp_tokio::mark_as_upgraded(upgrade, &mut connector);
        let (name, network) = (ServerName::new("localhost"), &mut NoNetwork);
        let outcome = ironrdp_tokio::connect_finalize(
            upgraded,
            connector,
            &mut framed,
            network,
            name,
            Vec::new(),
            None,
        );
        let ConnectionOutcome::Connected(connection) = outcome.await.unwrap() else {
            panic!("the host sends its client elsewhere")
        };
        let size = connection.desktop_size;
        let stage = ActiveStageBuilder {
            static_channels: connection.static_channels,
            user_channel_id: connection.user_channel_id,
            io_channel_id: connection.io_channel_id,
            message_channel_id: connection.message_channel_id,
            share_id: connection.share_id,
            compression_type: connection.compression_type,
            enable_server_pointer: connection.enable_server_pointer,
            pointer_software_rendering: connection.pointer_software_rendering,
        }
        .build();
        let image = DecodedImage::new(PixelFormat::RgbA32, size.width, size.height);
        Client { framed, stage, image, address }
    }

    async fn answer(&mut self, outputs: Vec<ActiveStageOutput>) {
        for output in outputs {
            if let ActiveStageOutput::ResponseFrame(frame) = output {
                self.framed.write_all(&frame).await.unwrap();
            }
        }
    }

    /// Answers the host until `done` is.
    async fn while_waiting<T: Debug>(&mut self, done: impl Future<Output = T>) -> T {
        tokio::pin!(done);
        loop {
            let (action, pdu) = tokio::select! {
                done = &mut done => return done,
                pdu = self.framed.read_pdu() => pdu.unwrap(),
            };
            let outputs = self.stage.process(&mut self.image, action, &pdu, None).unwrap();
            self.answer(outputs).await;
            self.see_to_clipboard().await;
        }
    }

    /// Answers the host until the client's clipboard has come so far.
    async fn until_pasting(&mut self, done: impl Fn(&Pasting) -> bool) {
        let late = tokio::time::Instant::now() + PATIENCE;
        while !done(self.pasting()) {
            let pdu = tokio::time::timeout_at(late, self.framed.read_pdu()).await;
            let (action, pdu) = pdu.expect("the clipboard does nothing").unwrap();
            let outputs = self.stage.process(&mut self.image, action, &pdu, None).unwrap();
            self.answer(outputs).await;
            self.see_to_clipboard().await;
        }
    }

    /// Answers the host until the client shows that.
    async fn until_shown(&mut self, what: &str, shown: impl Fn(&[u8]) -> bool) {
        let late = tokio::time::Instant::now() + PATIENCE;
        while !shown(self.image.data()) {
            let pdu = tokio::time::timeout_at(late, self.framed.read_pdu()).await;
            let (action, pdu) = pdu.unwrap_or_else(|_| panic!("{what} does not show")).unwrap();
            let outputs = self.stage.process(&mut self.image, action, &pdu, None).unwrap();
            self.answer(outputs).await;
            self.see_to_clipboard().await;
        }
    }

    fn clipboard(&mut self) -> &mut CliprdrClient {
        self.stage.get_svc_processor_mut::<CliprdrClient>().unwrap()
    }

    fn pasting(&mut self) -> &mut Pasting {
        self.clipboard().downcast_backend_mut().unwrap()
    }

    async fn see_to_clipboard(&mut self) {
        if std::mem::take(&mut self.pasting().list_wanted) {
            self.copy(&[]).await;
        }
        while self.pasting().wanted > 0 {
            self.pasting().wanted -= 1;
            let data = OwnedFormatDataResponse::new_data(wide(FROM_CLIENT));
            let messages = self.clipboard().submit_format_data(data).unwrap();
            let bytes = self.stage.process_svc_processor_messages(messages).unwrap();
            self.framed.write_all(&bytes).await.unwrap();
        }
    }

    async fn copy(&mut self, formats: &[ClipboardFormat]) {
        let messages = self.clipboard().initiate_copy(formats).unwrap();
        let bytes = self.stage.process_svc_processor_messages(messages).unwrap();
        self.framed.write_all(&bytes).await.unwrap();
    }

    async fn paste(&mut self) {
        let messages = self.clipboard().initiate_paste(ClipboardFormatId::CF_UNICODETEXT).unwrap();
        let bytes = self.stage.process_svc_processor_messages(messages).unwrap();
        self.framed.write_all(&bytes).await.unwrap();
    }

    async fn input(&mut self, events: &[FastPathInputEvent]) {
        for events in events.chunks(15) {
            let outputs = self.stage.process_fastpath_input(&mut self.image, events).unwrap();
            self.answer(outputs).await;
        }
    }

    async fn type_text(&mut self, text: &str) {
        let mut events = Vec::new();
        let mut key = |code, up| {
            let flags = if up { KeyboardFlags::RELEASE } else { KeyboardFlags::empty() };
            events.push(FastPathInputEvent::KeyboardEvent(flags, code));
        };
        for character in text.chars() {
            let (shifted, code) = us_key(character);
            if shifted {
                key(SHIFT, false);
            }
            key(code, false);
            key(code, true);
            if shifted {
                key(SHIFT, true);
            }
        }
        self.input(&events).await;
    }

    /// Keys by their scan codes, each pressed, and in the opposite order released; some with the prefix E0.
    async fn together(&mut self, keys: &[(bool, u8)]) {
        let event = |(extended, code): &(bool, u8), up| {
            let mut flags = if up { KeyboardFlags::RELEASE } else { KeyboardFlags::empty() };
            flags.set(KeyboardFlags::EXTENDED, *extended);
            FastPathInputEvent::KeyboardEvent(flags, *code)
        };
        let mut events: Vec<_> = keys.iter().map(|key| event(key, false)).collect();
        events.extend(keys.iter().rev().map(|key| event(key, true)));
        self.input(&events).await;
    }

    async fn mouse(&mut self, flags: PointerFlags, turned: i16, at: (u16, u16)) {
        let mouse =
            MousePdu { flags, number_of_wheel_rotation_units: turned, x_position: at.0, y_position: at.1 };
        self.input(&[FastPathInputEvent::MouseEvent(mouse)]).await;
    }
}

const SHIFT: u8 = 42;

/// Whether Shift is held, and the scan code.
fn us_key(character: char) -> (bool, u8) {
    const ROWS: [(u8, &str, &str); 5] = [
        (2, "1234567890-=", "!@#$%^&*()_+"),
        (16, "qwertyuiop[]\n", "QWERTYUIOP{}"),
        (30, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
        (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
        (57, " ", ""),
    ];
    let place = |row: &str| row.chars().position(|c| c == character).map(|at| at as u8);
    let plain = ROWS.iter().find_map(|(first, plain, _)| Some((false, first + place(plain)?)));
    let shifted = || ROWS.iter().find_map(|(first, _, shifted)| Some((true, first + place(shifted)?)));
    plain.or_else(shifted).unwrap_or_else(|| panic!("no key for {character:?}"))
}

fn config() -> Config {
    Config {
        desktop_size: DesktopSize { width: 640, height: 480 },
        monitor_layout: None,
        desktop_scale_factor: 0,
        desktop_physical_size: None,
        desktop_orientation: None,
        device_scale_factor: None,
        monitor_extended_layout: None,
        relative_mouse_input: false,
        enable_tls: true,
        enable_credssp: false,
        enable_standard_rdp_security: false,
        credentials: Credentials::UsernamePassword {
            username: "lucid".to_owned(),
            password: "password".into(),
        },
        domain: None,
        client_build: 0,
        client_name: "ironrdp".to_owned(),
        keyboard_type: KeyboardType::IBM_ENHANCED,
        keyboard_subtype: 0,
        keyboard_functional_keys_count: 12,
        // American.
        keyboard_layout: 0x409,
        connection_type: ConnectionType::Lan,
        ime_file_name: String::new(),
        bitmap: Some(BitmapConfig {
            lossy_compression: false,
            color_depth: 32,
            codecs: BitmapCodecs(Vec::new()),
        }),
        dig_product_id: String::new(),
        client_dir: String::new(),
        alternate_shell: String::new(),
        work_dir: String::new(),
        remote_application_mode: false,
        rail_support_level: RailSupportLevel::empty(),
        platform: MajorPlatformType::UNIX,
        hardware_id: None,
        request_data: None,
        autologon: true,
        enable_audio_playback: false,
        enable_audio_capture: false,
        performance_flags: PerformanceFlags::empty(),
        license_cache: None,
        timezone_info: TimezoneInfo::default(),
        compression_type: None,
        enable_server_pointer: true,
        pointer_software_rendering: false,
        multitransport_flags: None,
        support_dyn_vc_gfx_protocol: false,
    }
}

// ---- What is held to it.

/// Whether any five bytes in a row of a text are in what the recorder was told as events.
fn leaks(events: &[&Event], text: &str) -> bool {
    let told: Vec<u8> = events.iter().flat_map(|event| event.encode_to_vec()).collect();
    text.as_bytes().windows(5).any(|part| told.windows(5).any(|window| window == part))
}

/// All counts of input together.
fn counted(events: &[&Event]) -> Input {
    let mut sum = Input::default();
    for event in events {
        if let Some(Data::Input(input)) = &event.data {
            assert!(input.seconds >= 1 && input.seconds <= 11);
            sum.letters += input.letters;
            sum.digits += input.digits;
            sum.punctuation += input.punctuation;
            sum.navigation += input.navigation;
            sum.modifiers += input.modifiers;
            sum.other += input.other + input.function;
            sum.clicks += input.clicks;
            sum.wheel += input.wheel;
        }
    }
    sum
}

fn expected(texts: &[&str], clicks: u32, wheel: u32) -> Input {
    let mut sum = Input { clicks, wheel, ..Input::default() };
    for character in texts.iter().flat_map(|text| text.chars()) {
        match character {
            '\n' => sum.navigation += 1,
            c if c.is_ascii_digit() => sum.digits += 1,
            c if c.is_ascii_alphabetic() => sum.letters += 1,
            _ => sum.punctuation += 1,
        }
        sum.modifiers += u32::from(us_key(character).0);
    }
    sum
}

fn clipboard(events: &[&Event], way: Direction) -> Vec<(Outcome, Clipboard)> {
    let of = |event: &&Event| match &event.data {
        Some(Data::Clipboard(clipboard)) if clipboard.direction() == way => {
            Some((event.outcome(), clipboard.clone()))
        }
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

#[tokio::test]
async fn what_is_done_is_told_to_the_recorder_and_what_is_typed_is_not() {
    if !parts_are_here() {
        return;
    }
    let (house, mut told, cut, _leave) = start("recorded", pasting()).await;
    let mut client = Client::connect(house.port).await;
    let texts = [
        "printf '\\033]2;Ledger\\007'\n",
        " : Zqxjkvbwmyhgfdtpn8350174\n",
        "wl-paste -n > pasted; printf '\\033]2;Pasted\\007'\n",
        "printf 'out of it' | wl-copy; printf '\\033]2;Copied\\007'\n",
    ];
    let secret = texts[1].trim_start_matches([' ', ':']).trim_end();
    client.while_waiting(told.until_title("foot")).await;
    client.type_text(texts[0]).await;
    client.while_waiting(told.until_title("Ledger")).await;
    client.type_text(texts[1]).await;

    // From the client to the desktop and back.
    client.copy(&[ClipboardFormat::new(ClipboardFormatId::CF_UNICODETEXT)]).await;
    client.type_text(texts[2]).await;
    client.while_waiting(told.until_title("Pasted")).await;
    assert_eq!(until_there(&house.directory.join("pasted")).await, FROM_CLIENT.as_bytes());
    client.type_text(texts[3]).await;
    client.until_pasting(|pasting| pasting.offered).await;
    client.paste().await;
    client.until_pasting(|pasting| pasting.got.is_some()).await;
    assert_eq!(client.pasting().got.take().unwrap(), wide(FROM_DESKTOP));

    // The pointer, and a cut of the recording while it rests.
    for at in 0..200 {
        client.mouse(PointerFlags::MOVE, 0, (at, 100 + at)).await;
    }
    let (left, press) = (PointerFlags::LEFT_BUTTON, PointerFlags::LEFT_BUTTON | PointerFlags::DOWN);
    client.mouse(press, 0, (199, 299)).await;
    client.mouse(left, 0, (199, 299)).await;
    client.mouse(PointerFlags::VERTICAL_WHEEL, 120, (199, 299)).await;
    let rests = |item: &Item| match item {
        Item::Pointer(pointer) => {
            entries(&pointer.bytes).any(|entry| entry.unwrap().change == Change::Moved(199, 299))
        }
        _ => false,
    };
    client.while_waiting(told.until("pointer at its place", rests)).await;
    cut.notify_one();
    client.while_waiting(told.until("key", |item| matches!(item, Item::Key(_)))).await;
    let is_pointer = |item: &Item| matches!(item, Item::Pointer(_));
    let Item::Pointer(after) = client.while_waiting(told.until("pointer after it", is_pointer)).await else {
        panic!("it is one")
    };
    let after: Vec<_> = entries(&after.bytes).map(|entry| entry.unwrap().change).collect();
    assert!(matches!(after[..], [Change::Shape(_) | Change::Hidden, Change::Moved(199, 299)]), "{after:?}");

    // The client goes, and comes again to the same recording.
    let first = client.address;
    drop(client);
    told.until_event("disconnect", |data| matches!(data, Data::Disconnect(_))).await;
    let mut again = Client::connect(house.port).await;
    let second = again.address;
    again
        .while_waiting(told.until_event("authentication", |data| matches!(data, Data::Authenticate(_))))
        .await;
    again.while_waiting(told.until("key", |item| matches!(item, Item::Key(_)))).await;
    drop(again);
    told.until_event("disconnect", |data| matches!(data, Data::Disconnect(_))).await;

    let begun = told.all.iter().filter(|item| matches!(item, Item::Begin(_))).count();
    assert_eq!(begun, 1, "each connection has a recording of its own");
    let events = told.events();
    for event in &events {
        assert_ne!((event.actor(), event.outcome()), (Actor::Unspecified, Outcome::Unspecified));
    }
    let connects: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.data {
            Some(Data::Connect(Connect { address, security })) => Some((address.clone(), security.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(connects, [(first.to_string(), "TLS 1.3"), (second.to_string(), "TLS 1.3")]);
    let proved = events.iter().filter(|event| {
        matches!(&event.data, Some(Data::Authenticate(proof))
            if proof.user == "lucid" && proof.method == "password")
    });
    assert_eq!(proved.count(), 2);
    let sized = |event: &&Event| {
        matches!(&event.data, Some(Data::Resize(size))
            if (size.width, size.height, size.monitors) == (640, 480, 1))
    };
    assert_eq!(events.iter().copied().filter(|event| sized(event)).count(), 2);
    assert_eq!(counted(&events), expected(&texts, 1, 1));
    // What is looked for is found where it is.
    assert!(leaks(&events, "Ledger"));
    assert!(!leaks(&events, secret), "{events:#?}");
    for (way, text) in [(Direction::ToDesktop, FROM_CLIENT), (Direction::ToClient, FROM_DESKTOP)] {
        let told = clipboard(&events, way);
        let whole = Clipboard {
            direction: way.into(),
            r#type: "text/plain".to_owned(),
            bytes: text.len() as u64,
            hash: blake3::hash(text.as_bytes()).as_bytes().to_vec().into(),
        };
        assert_eq!(told, [(Outcome::Allowed, whole)]);
        assert!(!leaks(&events, text));
    }
    let moved = told.all.iter().filter_map(|item| match item {
        Item::Pointer(pointer) => Some(entries(&pointer.bytes).count()),
        _ => None,
    });
    assert!(moved.sum::<usize>() < 150, "movements were not gathered");
}

#[tokio::test]
async fn a_channel_that_is_closed_to_a_client_that_wants_it_is_told_once() {
    if !parts_are_here() {
        return;
    }
    let (house, mut told, _cut, _leave) = start("closed", Policy::strict()).await;
    let mut client = Client::connect(house.port).await;
    client.while_waiting(told.until_title("foot")).await;
    client.type_text("x").await;
    let typed = |data: &Data| matches!(data, Data::Violation(_));
    client.while_waiting(told.until_event("violation", typed)).await;
    drop(client);
    told.until_event("disconnect", |data| matches!(data, Data::Disconnect(_))).await;
    let violations: Vec<_> = told
        .events()
        .into_iter()
        .filter_map(|event| match &event.data {
            Some(Data::Violation(violation)) => Some((event.outcome(), violation.rule.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(violations, [(Outcome::Refused, "input.kb_enabled".to_owned())]);
}

const CTRL_ALT_DELETE: [(bool, u8); 3] = [(false, 0x1d), (false, 0x38), (true, 0x53)];
const ESCAPE: [(bool, u8); 1] = [(false, 0x01)];

#[tokio::test]
async fn who_may_not_type_can_still_ask_and_what_he_presses_for_it_goes_nowhere_else() {
    if !parts_are_here() {
        return;
    }
    let (house, mut told, _cut, _leave) = start("asks", Policy::strict()).await;
    let mut client = Client::connect(house.port).await;
    client.while_waiting(told.until_title("foot")).await;
    client.together(&CTRL_ALT_DELETE).await;
    // Those that are no gate, then the first one.
    client.type_text("x0").await;
    client.type_text("1").await;
    let asked = client.while_waiting(told.until("request", |item| matches!(item, Item::AskFor(_)))).await;
    assert_eq!(asked, Item::AskFor(AskFor { gate: "copy-from-desktop".to_owned() }));
    client.together(&ESCAPE).await;
    client.type_text("x").await;
    let typed = |data: &Data| matches!(data, Data::Violation(_));
    let event = client.while_waiting(told.until_event("violation", typed)).await;
    let Some(Data::Violation(violation)) = event.data else { panic!("it is one") };
    assert_eq!(violation.detail, "1 keys were pressed that may not be");
    drop(client);
    told.until_event("disconnect", |data| matches!(data, Data::Disconnect(_))).await;
    let violations = told.events().iter().filter(|event| event.data.as_ref().is_some_and(typed)).count();
    assert_eq!(violations, 1);
}

#[tokio::test]
async fn who_may_only_decide_is_shown_what_waits_and_nothing_is_recorded_of_him() {
    if !parts_are_here() {
        return;
    }
    let waits = Wanted {
        session: "another's session".to_owned(),
        request: vec![7; 32].into(),
        requester: "ada".to_owned(),
        user: "ada".to_owned(),
        what: vec!["Something passes.".to_owned()],
        reason: "a number".to_owned(),
        seconds: 300,
        needed: 1,
        left_seconds: 600,
        ..Wanted::default()
    };
    let (house, mut told, _cut, _leave) = start_with("desk", Policy::standard(), Some(waits), None).await;
    let mut client = Client::connect(house.port).await;
    let decided = tokio::time::timeout(PATIENCE, async {
        loop {
            // A, and Enter when the page that asks again was painted.
            for key in [0x1e, 0x1c] {
                client.while_waiting(tokio::time::sleep(Duration::from_millis(300))).await;
                client.together(&[(false, key)]).await;
            }
            client.while_waiting(tokio::time::sleep(Duration::from_millis(300))).await;
            if let Ok(decision) = told.decisions.try_recv() {
                return decision;
            }
        }
    });
    let decision = decided.await.unwrap();
    assert_eq!((decision.user.as_str(), decision.session.as_str()), ("lucid", "another's session"));
    assert!(decision.allow && decision.request == vec![7; 32]);
    client.together(&ESCAPE).await;
    let gone = async { while client.framed.read_pdu().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("he is not let go");
    assert!(told.coming.try_recv().is_err(), "something of it is recorded");
}

#[tokio::test]
async fn a_host_that_stops_tells_the_recorder_that_its_sessions_are_over() {
    if !parts_are_here() {
        return;
    }
    let (house, mut told, _cut, _leave) = start("stops", Policy::standard()).await;
    let mut client = Client::connect(house.port).await;
    client.while_waiting(told.until_title("foot")).await;
    drop(client);
    told.until_event("disconnect", |data| matches!(data, Data::Disconnect(_))).await;
    let stopped = Command::new("kill").arg(house.rdp.0.id().to_string()).status().unwrap();
    assert!(stopped.success());
    told.until("end", |item| matches!(item, Item::End(_))).await;
}

#[tokio::test]
async fn a_recorder_that_comes_back_goes_on_with_the_recording_and_is_told_again_what_holds() {
    if !parts_are_here() {
        return;
    }
    let (house, mut told, _cut, leave) = start("away", pasting()).await;
    let mut client = Client::connect(house.port).await;
    client.while_waiting(told.until_title("foot")).await;
    client.mouse(PointerFlags::MOVE, 0, (77, 88)).await;
    let rests = |item: &Item| match item {
        Item::Pointer(pointer) => {
            entries(&pointer.bytes).any(|entry| entry.unwrap().change == Change::Moved(77, 88))
        }
        _ => false,
    };
    client.while_waiting(told.until("pointer", rests)).await;
    leave.send_replace(());
    let is_back = |item: &Item| matches!(item, Item::Begin(begin) if begin.resume == "a session");
    client.while_waiting(told.until("return", is_back)).await;
    let since = told.all.len();
    // Whichever comes first.
    let mut focus = false;
    let (mut key, mut pointer) = (false, false);
    while !(focus && key && pointer) {
        match client.while_waiting(told.next("focus, key and pointer")).await {
            Item::Event(Event { data: Some(Data::Focus(told)), .. }) => {
                focus |= told.title.as_deref() == Some("foot");
            }
            Item::Key(_) => key = true,
            item @ Item::Pointer(_) => pointer |= key && rests(&item),
            _ => {}
        }
    }
    // It goes on.
    client.type_text("a").await;
    drop(client);
    told.until_event("disconnect", |data| matches!(data, Data::Disconnect(_))).await;
    let after: Vec<_> = told.all[since..].iter().collect();
    assert!(!after.iter().any(|item| matches!(item, Item::Begin(_))), "{since}");
    let events = told.events();
    assert!(events.iter().any(|event| matches!(&event.data, Some(Data::Input(input)) if input.letters == 1)));
}

/// What the terminal is painted in (`foot.ini`), and what stands over what is shielded.
const GROUND: [u8; 3] = [0x10; 3];
/// Pictures have 640 x 480 pixels.
const RECTANGLE: Rectangle = Rectangle { height: 40, width: 90, x: 500, y: 300 };

fn has<const N: usize>(pixels: &[u8], colour: [u8; 3]) -> bool {
    pixels.as_chunks::<N>().0.iter().any(|pixel| pixel[..3] == colour)
}

/// Whether all of the rectangle is masked.
fn is_masked<const N: usize>(pixels: &[u8]) -> bool {
    let Rectangle { height, width, x, y } = RECTANGLE;
    let (pixels, _) = pixels.as_chunks::<N>();
    let at = |x: u32, y: u32| pixels.get((y * 640 + x) as usize);
    let mut places = (y..y + height).flat_map(|y| (x..x + width).map(move |x| (x, y)));
    places.all(|(x, y)| at(x, y).is_some_and(|pixel| pixel[..3] == lucid_desktop::MASK))
}

#[tokio::test]
async fn what_a_policy_shields_is_hidden_before_it_holds_and_reaches_neither_client_nor_recorder() {
    if !parts_are_here() {
        return;
    }
    for shielded in [true, false] {
        let mut policy = pasting();
        policy.shield.rectangles = vec![RECTANGLE];
        if shielded {
            policy.shield.app_ids = vec!["foot".to_owned(), "other".to_owned()];
        }
        let (house, mut told, cut, _leave) = start("shielded", policy).await;
        let mut client = Client::connect(house.port).await;
        client.while_waiting(told.until_event("focus", |data| matches!(data, Data::Focus(_)))).await;
        client.until_shown("the rectangle", is_masked::<4>).await;
        client.type_text("printf '\\033]2;Ledger\\007'; echo > typed\n").await;
        client.while_waiting(until_there(&house.directory.join("typed"))).await;
        if !shielded {
            client.until_shown("the terminal", |pixels| has::<4>(pixels, GROUND)).await;
            client.while_waiting(told.until_title("Ledger")).await;
        }
        // What would still come does so within this.
        client.while_waiting(tokio::time::sleep(Duration::from_secs(2))).await;
        cut.notify_one();
        let is_picture = |item: &Item| matches!(item, Item::Key(key) if !key.rgb.is_empty());
        client.while_waiting(told.until("key", is_picture)).await;

        let first = |what: fn(&Item) -> bool| told.all.iter().position(what);
        let enforced = first(|item| matches!(item, Item::Enforced(_))).unwrap();
        let shown = first(|item| matches!(item, Item::Frame(_) | Item::Key(_) | Item::Event(_))).unwrap();
        assert!(enforced < shown, "something was shown before the policy held");
        assert_eq!(has::<4>(client.image.data(), GROUND), !shielded);
        assert!(is_masked::<4>(client.image.data()));
        let keys = told.all.iter().filter_map(|item| match item {
            Item::Key(key) if !key.rgb.is_empty() => Some(&key.rgb),
            _ => None,
        });
        for rgb in keys {
            assert!(!shielded || !has::<3>(rgb, GROUND));
        }
        assert_eq!(leaks(&told.events(), "Ledger"), !shielded);
        let names =
            |event: &&Event| matches!(&event.data, Some(Data::Focus(focus)) if focus.app_id.is_some());
        let named: Vec<_> = told.events().into_iter().filter(names).collect();
        assert_eq!(!named.is_empty(), !shielded, "{named:?}");
    }
}

#[tokio::test]
async fn a_session_whose_desktop_cannot_hide_what_its_policy_shields_is_over_and_shows_nothing_of_it() {
    if !parts_are_here() {
        return;
    }
    let mut policy = pasting();
    policy.shield.app_ids = vec!["other".to_owned()];
    // A compositor that cannot be told anything.
    let script = format!("#!/bin/sh\nSWAYSOCK=$XDG_RUNTIME_DIR/elsewhere exec {} \"$@\"\n", sway().display());
    let (house, mut told, _cut, _leave) = start_with("unshielded", policy, None, Some(script)).await;
    let mut client = Client::connect(house.port).await;
    let over = |item: &Item| {
        matches!(item, Item::Event(Event { data: Some(Data::Disconnect(why)), .. })
            if why.reason.contains("hiding what the policy shields"))
    };
    // It is told why before it is sent away.
    let mut end = Box::pin(told.until("end", over));
    loop {
        tokio::select! {
            _ = &mut end => break,
            pdu = client.framed.read_pdu() => {
                let Ok((action, pdu)) = pdu else { break };
                let Ok(outputs) = client.stage.process(&mut client.image, action, &pdu, None) else { break };
                for output in outputs {
                    if let ActiveStageOutput::ResponseFrame(frame) = output {
                        // The host may be gone.
                        let _ = client.framed.write_all(&frame).await;
                    }
                }
                assert!(!has::<4>(client.image.data(), GROUND));
            }
        }
    }
    drop(end);
    told.until("end", |item| matches!(item, Item::End(_))).await;
    assert!(told.all.iter().any(over), "{:#?}", told.events());
    assert!(!told.all.iter().any(|item| matches!(item, Item::Enforced(_))));
}
