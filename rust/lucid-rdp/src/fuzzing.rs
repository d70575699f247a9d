//! The doors through which bytes of others come in, for the fuzz targets in `../fuzz` and for the tests that replay their
//! corpus. Built with the feature `fuzzing` and for tests alone.
//!
//! A door is a function that takes what came as bytes and returns whatever they are. It panics when something holds no
//! more that has to: nobody comes in without the password, no key is typed that no keyboard has, no name of a file
//! leads out of its folder.
//!
//! Doors that take several messages take them as **pieces**: a length (u16, little endian) and so many bytes; a
//! length beyond the end means what is left.

#![allow(clippy::expect_used, reason = "what cannot be set up or does not hold has to end the run")]

use std::any::TypeId;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Instant;

use ironrdp_acceptor::{AcceptorResult, DesktopSize};
use ironrdp_core::{decode, encode_vec};
use ironrdp_dvc::DrdynvcServer;
use ironrdp_dvc::pdu::{
    CapabilitiesResponsePdu, CapsVersion, CreateResponsePdu, CreationStatus, DataPdu, DrdynvcClientPdu,
    DrdynvcDataPdu,
};
use ironrdp_pdu::Action;
use ironrdp_pdu::rdp::client_info::ClientAutoReconnect;
use ironrdp_pdu::rdp::vc::ChannelControlFlags;
use ironrdp_svc::StaticChannelSet;
use ironrdp_tokio::{Framed, TokioFramed, TokioStream};
use lucid_desktop::Input;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::account::Accounts;
use crate::egfx::{self, State};
use crate::gates::Channels;
use crate::graphics::Command;
use crate::handshake::{self, Connection, Hall, Host, Secured, Stage};
use crate::incoming::{self, Incoming};
use crate::input::Translator;
use crate::monitors::Layout;
use crate::reconnect::Cookies;
use crate::register::Register;
use crate::{MAX_SIZE, Refused, clipboard, drives, nla, sound, tls};

/// The account in `testdata/account-v1.json`, which is public and nobody's.
const USER: &str = "lucid";
const PASSWORD: &str = "password";

/// A connection from its first byte: X.224, and after it everything as if there were no TLS. A client that has chosen
/// NLA counts as authenticated by it, because what it says depends on this host's random numbers ([`credssp`] is that
/// part's door). Whoever comes through has a session, with every channel that it has joined.
pub fn connection(bytes: &[u8]) {
    let (outcome, _) = blocking(whole(bytes));
    drop(outcome);
}

/// How far a recorded connection comes: whether it was let in, and how many PDUs its session took.
#[cfg(test)]
fn replay(bytes: &[u8]) -> (Result<(), Refused>, usize) {
    blocking(whole(bytes))
}

async fn whole(bytes: &[u8]) -> (Result<(), Refused>, usize) {
    match admitted(bytes).await {
        Ok(Connection { framed, result, .. }) => (Ok(()), session_of(framed, result).await),
        Err(refused) => (Err(refused), 0),
    }
}

async fn admitted(bytes: &[u8]) -> Result<Connection<Memory>, Refused> {
    let (mut acceptor, dynamic) = handshake::acceptor(host());
    let mut stream = Memory::new(bytes);
    // What follows comes after the answer.
    stream.pause = bytes.get(2..4).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let stream = handshake::negotiate(stream, &mut acceptor).await?;
    acceptor.mark_security_upgrade_as_done();
    let nla = acceptor.should_perform_credssp();
    if nla {
        acceptor.mark_credssp_as_done();
    }
    let user = nla.then(|| USER.to_owned());
    let secured = Secured { framed: Framed::new(stream), acceptor, dynamic, tls: "TLS 1.3", nla, user };
    let (stage, _seen) = watch::channel(Stage::Silent);
    let mut hall = Passage::default();
    let connection = handshake::admit(host(), secured, NOBODY, &stage, &mut hall).await?;
    assert_eq!(connection.user, USER);
    assert!(nla || holds_password(bytes), "somebody came in without the password");
    Ok(connection)
}

fn holds_password(bytes: &[u8]) -> bool {
    let wide: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    bytes.windows(wide.len()).any(|window| window == wide)
        || bytes.windows(8).any(|w| w == PASSWORD.as_bytes())
}

/// X.224 and the beginning of TLS, as on the wire.
pub fn negotiation(bytes: &[u8]) {
    let (stage, _seen) = watch::channel(Stage::Silent);
    let mut hall = Passage::default();
    let let_in = blocking(handshake::accept(host(), Memory::new(bytes), NOBODY, &stage, &mut hall));
    assert!(let_in.is_err(), "somebody came in without an answer to this host's random numbers");
}

/// CredSSP: what NLA's clients say within TLS (MS-CSSP).
pub fn credssp(bytes: &[u8]) {
    let mut framed: TokioFramed<Memory> = Framed::new(Memory::new(bytes));
    let user = blocking(handshake::credssp(&mut framed, host(), NOBODY));
    assert!(!matches!(user, Ok(Some(_))), "NLA let somebody in who does not know its challenge");
}

/// SPNEGO's and NTLM's messages, each from a stranger (RFC 4178, MS-NLMP).
pub fn spnego(bytes: &[u8]) {
    nla::read_everything(bytes);
}

/// The Client Info PDU (MS-RDPBCGR 2.2.1.11) with its reconnect cookie.
pub fn client_info(bytes: &[u8]) {
    let Ok(info) = decode::<ironrdp_pdu::rdp::ClientInfoPdu>(bytes) else { return };
    let extra = &info.client_info.extra_info.optional_data;
    if let Some(cookie) = extra.auto_reconnect() {
        assert!(Passage::default().redeem(cookie).is_none(), "a cookie that was not issued was taken");
    }
}

/// A session's stream after the handshake: fast-path and slow-path PDUs, one after the other.
pub fn session(bytes: &[u8]) {
    let framed: TokioFramed<Memory> = Framed::new(Memory::new(bytes));
    blocking(session_of(framed, every_channel()));
}

/// Fast-path input PDUs (MS-RDPBCGR 2.2.8.1.2), in pieces.
pub fn input(bytes: &[u8]) {
    let mut ends = Ends::new(every_channel());
    for piece in pieces(bytes) {
        ends.take(Action::FastPath, piece);
    }
}

/// Data of the I/O channel: share control PDUs (MS-RDPBCGR 2.2.8.1.1.1.1), in pieces.
pub fn share_control(bytes: &[u8]) {
    let mut ends = Ends::new(every_channel());
    let channel = ends.result.io_channel_id;
    for piece in pieces(bytes) {
        ends.data(channel, piece);
    }
}

/// Chunks of the static channel `drdynvc` (MS-RDPEDYC), in pieces.
pub fn dynamic_channels(bytes: &[u8]) {
    on_channel::<DrdynvcServer>(bytes);
}

/// Chunks of the static channel `cliprdr` (MS-RDPECLIP), in pieces.
pub fn clipboard(bytes: &[u8]) {
    on_channel::<clipboard::Channel>(bytes);
}

/// Chunks of the static channel `rdpsnd` (MS-RDPEA), in pieces.
pub fn sound(bytes: &[u8]) {
    on_channel::<sound::Channel>(bytes);
}

/// Chunks of the static channel `rdpdr` (MS-RDPEFS), in pieces.
pub fn drives(bytes: &[u8]) {
    on_channel::<drives::Channel>(bytes);
}

/// What a client answers to a question about a drive; the first byte chooses the question.
pub fn drive_answer(bytes: &[u8]) {
    drives::answer(bytes);
}

/// Messages of the graphics pipeline's channel (MS-RDPEGFX 2.2.2), in pieces.
pub fn graphics(bytes: &[u8]) {
    on_dynamic_channel(bytes, 0);
}

/// Messages of the Display Control channel (MS-RDPEDISP 2.2.2), in pieces.
pub fn display_control(bytes: &[u8]) {
    on_dynamic_channel(bytes, 1);
}

/// Messages of the touch channel (MS-RDPEI 2.2.3), in pieces.
pub fn touch(bytes: &[u8]) {
    on_dynamic_channel(bytes, 2);
}

/// What the clipboard holds: the first byte chooses the form and the direction, the rest is the content.
pub fn clipboard_content(bytes: &[u8]) {
    use clipboard::formats::{Form, to_client, to_desktop};
    let Some((choice, content)) = bytes.split_first() else { return };
    let forms = [Form::Text, Form::Html, Form::Png, Form::Dib, Form::DibV5, Form::Files];
    let form = forms[usize::from(choice & 0x7f) % forms.len()];
    if choice & 0x80 == 0 {
        if let (Form::Text | Form::Html, Some(text)) = (form, to_desktop(form, content.to_vec())) {
            // A unit of UTF-16 takes at most three bytes.
            assert!(text.len() <= content.len() * 3 / 2 + 3, "text grew without bound");
        }
    } else {
        to_client(form, content.to_vec());
    }
}

/// The list of files that a client has copied (MS-RDPECLIP 2.2.5.2.3).
pub fn file_list(bytes: &[u8]) {
    let Ok(list) = clipboard::files::list::from_client(bytes) else { return };
    for wanted in &list {
        lucid_desktop::files::check_path(&wanted.entry.path).expect("a path that stays in its folder");
        assert!(
            !wanted.entry.path.starts_with('/') && !wanted.entry.path.split('/').any(|name| name == "..")
        );
    }
}

/// A name of a fuzz target, and what it calls.
#[cfg(test)]
type Door = (&'static str, fn(&[u8]));

/// Every door.
#[cfg(test)]
const DOORS: &[Door] = &[
    ("client_info", client_info),
    ("clipboard", clipboard),
    ("clipboard_content", clipboard_content),
    ("connection", connection),
    ("credssp", credssp),
    ("display_control", display_control),
    ("drive_answer", drive_answer),
    ("drives", drives),
    ("dynamic_channels", dynamic_channels),
    ("file_list", file_list),
    ("graphics", graphics),
    ("input", input),
    ("negotiation", negotiation),
    ("session", session),
    ("share_control", share_control),
    ("sound", sound),
    ("spnego", spnego),
    ("touch", touch),
];

const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("lucid-rdp-fuzzing-{}", std::process::id()));
        let identity = tls::Identity::load_or_make(&dir, "lucid").expect("a TLS key");
        std::fs::remove_dir_all(&dir).expect("the key's folder");
        let account = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/account-v1.json");
        Host {
            identity,
            register: Register::File(Accounts::load(&account).expect("the public account").into()),
            default_size: crate::DEFAULT_SIZE,
            max_size: MAX_SIZE,
            channels: Channels::ALL,
        }
    })
}

/// Runs what never waits for anything but its input.
fn blocking<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A hall with one session, whose cookie nobody has.
struct Passage {
    cookies: Cookies,
    expected: bool,
}

impl Default for Passage {
    fn default() -> Passage {
        let cookies = Cookies::default();
        cookies.issue(1, Instant::now()).expect("a cookie");
        Passage { cookies, expected: false }
    }
}

impl Hall for Passage {
    fn expect(&mut self, _: &str, size: DesktopSize) {
        assert!(!std::mem::replace(&mut self.expected, true), "a second desktop for one client");
        assert!(size.width <= MAX_SIZE.width && size.height <= MAX_SIZE.height);
    }

    fn redeem(&mut self, cookie: &ClientAutoReconnect) -> Option<String> {
        self.cookies.redeem(cookie, Instant::now()).then(|| USER.to_owned())
    }
}

/// A connection that has sent these bytes and closed its side; what is written to it is counted and forgotten.
struct Memory {
    unread: Vec<u8>,
    at: usize,
    /// No read goes over this place.
    pause: usize,
    written: usize,
}

impl Memory {
    /// The most that is ever answered, for each byte that came, and at least: the longest are lists of formats and
    /// capabilities.
    const ANSWERED: (usize, usize) = (64, 256 * 1024);

    fn new(bytes: &[u8]) -> Memory {
        Memory { unread: bytes.to_vec(), at: 0, pause: 0, written: 0 }
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = if self.at < self.pause { self.pause.min(self.unread.len()) } else { self.unread.len() };
        let length = out.remaining().min(end - self.at);
        out.put_slice(&self.unread[self.at..self.at + length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written += bytes.len();
        let (times, least) = Memory::ANSWERED;
        assert!(self.written <= least + times * self.unread.len(), "a client is answered without bound");
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        bytes = rest;
        Some(piece)
    })
}

/// Numbers of the channels that [`every_channel`] has, as a recorded client's (MS-RDPBCGR 2.2.1.4.4).
const STATIC_CHANNELS: u16 = 1004;

/// A client that has joined every channel there is.
pub(crate) fn every_channel() -> AcceptorResult {
    let (dynamic_channels, _) = handshake::dynamic_channels(MAX_SIZE);
    let mut static_channels = StaticChannelSet::new();
    static_channels.insert(dynamic_channels);
    static_channels.insert(clipboard::Channel::open());
    static_channels.insert(sound::Channel::new());
    static_channels.insert(drives::Channel::default());
    let types = [
        TypeId::of::<DrdynvcServer>(),
        TypeId::of::<clipboard::Channel>(),
        TypeId::of::<sound::Channel>(),
        TypeId::of::<drives::Channel>(),
    ];
    for (kind, id) in types.into_iter().zip(STATIC_CHANNELS..) {
        static_channels.attach_channel_id(kind, id);
    }
    AcceptorResult {
        static_channels,
        capabilities: Vec::new(),
        input_events: Vec::new(),
        user_channel_id: 1002,
        io_channel_id: 1003,
        message_channel_id: None,
        reactivation: false,
        keyboard_layout: 0,
        keyboard_type: ironrdp_pdu::gcc::KeyboardType(0),
        ime_file_name: String::new(),
        client_early_capability_flags: ironrdp_pdu::gcc::ClientEarlyCapabilityFlags::empty(),
        client_monitors: Vec::new(),
        multitransport_flags: ironrdp_pdu::gcc::MultiTransportFlags::empty(),
        multitransport_response_success: None,
        credentials: None,
        auto_reconnect: None,
        routing_token: None,
        client_cluster_data: None,
        password_cookie: None,
    }
}

async fn session_of(mut framed: Framed<TokioStream<Memory>>, mut result: AcceptorResult) -> usize {
    for (_, channel, _) in result.static_channels.iter_mut() {
        channel.start().expect("a channel's start");
    }
    let mut ends = Ends::new(result);
    let mut taken = 0;
    for frame in std::mem::take(&mut ends.result.input_events) {
        if let Some(Ok(action)) = frame.first().map(|b| Action::from_fp_output_header(*b)) {
            ends.take(action, &frame);
        }
    }
    while let Ok((action, bytes)) = framed.read_pdu().await {
        if !ends.take(action, &bytes) {
            break;
        }
        taken += 1;
    }
    taken
}

fn on_channel<C: ironrdp_svc::SvcProcessor + 'static>(bytes: &[u8]) {
    let mut ends = Ends::new(every_channel());
    let id = ends.result.static_channels.get_channel_id_by_type::<C>().expect("every channel");
    for (_, channel, _) in ends.result.static_channels.iter_mut() {
        channel.start().expect("a channel's start");
    }
    for piece in pieces(bytes) {
        if !ends.data(id, piece) {
            break;
        }
    }
}

fn on_dynamic_channel(bytes: &[u8], channel: u32) {
    let mut ends = Ends::new(every_channel());
    let capabilities = CapabilitiesResponsePdu::new(CapsVersion::V2);
    let created = CreateResponsePdu::new(channel, CreationStatus::OK);
    for opening in [DrdynvcClientPdu::Capabilities(capabilities), DrdynvcClientPdu::Create(created)] {
        assert!(ends.data(STATIC_CHANNELS, &chunk(&opening)), "the channel is refused");
    }
    for piece in pieces(bytes) {
        let data = DrdynvcDataPdu::Data(DataPdu::new(channel, piece.to_vec()));
        if !ends.data(STATIC_CHANNELS, &chunk(&DrdynvcClientPdu::Data(data))) {
            break;
        }
    }
}

/// A message in one chunk (MS-RDPBCGR 2.2.6.1).
fn chunk(pdu: &DrdynvcClientPdu) -> Vec<u8> {
    let body = encode_vec(pdu).expect("a message");
    let flags = ChannelControlFlags::FLAG_FIRST | ChannelControlFlags::FLAG_LAST;
    let length = u32::try_from(body.len()).expect("a short message").to_le_bytes();
    [&length[..], &flags.bits().to_le_bytes(), &body].concat()
}

/// This host's end of a session, without a desktop behind it.
struct Ends {
    result: AcceptorResult,
    translator: Translator,
}

impl Ends {
    fn new(result: AcceptorResult) -> Ends {
        Ends { result, translator: Translator::default() }
    }

    /// Takes one PDU; false when the session ends by it.
    fn take(&mut self, action: Action, bytes: &[u8]) -> bool {
        let incoming = incoming::pdu(action, bytes, &mut self.result, &mut self.translator);
        self.follow(incoming)
    }

    /// Takes the data of one channel.
    fn data(&mut self, channel: u16, bytes: &[u8]) -> bool {
        let incoming = incoming::data(channel, bytes, &mut self.result, &mut self.translator);
        self.follow(incoming)
    }

    /// Does what the session does with it, as far as that needs no desktop.
    fn follow(&mut self, incoming: Result<Incoming, crate::Error>) -> bool {
        let goes_on = match incoming {
            Ok(Incoming::Leave) | Err(_) => return false,
            Ok(Incoming::Input(inputs)) => {
                for input in inputs {
                    possible(&input);
                }
                true
            }
            Ok(_) => true,
        };
        if let Some(channel) = self.result.static_channels.get_by_type_mut::<clipboard::Channel>()
            && let Some(channel) = channel.channel_processor_downcast_mut::<clipboard::Channel>()
        {
            channel.take();
        }
        self.draw();
        goes_on
    }

    /// Keeps the graphics pipeline going: a surface when it wants one, and a picture.
    fn draw(&mut self) {
        let user = self.result.user_channel_id;
        let Some(mut pipeline) = egfx::find(&mut self.result.static_channels, user) else { return };
        let layout = Layout::one(DesktopSize { width: 640, height: 480 }, 100);
        if matches!(pipeline.state(), State::NeedsSurface { .. }) {
            pipeline.make_surface(&layout).expect("a surface");
        }
        if pipeline.state() == State::Ready {
            let commands: &[Command] = &[];
            pipeline.picture(commands, (640, 480), 0).expect("a picture");
        }
        pipeline.acknowledged();
    }
}

/// No key is typed that XKB does not carry, and nothing moves by what is no number.
fn possible(input: &Input) {
    match input {
        Input::Key { evdev, .. } => assert!((1..=247).contains(evdev), "{input:?}"),
        Input::Wheel { vertical, horizontal } => {
            assert!(vertical.is_finite() && horizontal.is_finite(), "{input:?}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn corpus(door: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(door);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }

    #[test]
    fn what_the_fuzzer_has_found_is_taken_at_every_door() {
        for (door, enter) in DOORS {
            let files = corpus(door);
            assert!(!files.is_empty(), "{door} has no corpus");
            for (_, bytes) in files {
                enter(&bytes);
            }
        }
    }

    #[test]
    fn every_recorded_client_is_still_let_in_and_understood() {
        let mut clients = 0;
        for (path, bytes) in corpus("connection") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let Some(client) = name.strip_prefix("recorded-") else { continue };
            let (outcome, taken) = replay(&bytes);
            outcome.unwrap_or_else(|e| panic!("{client}: {e}"));
            assert!(taken > 0, "{client}: nothing of its session was understood");
            clients += 1;
        }
        assert!(clients >= 5, "{clients}");
    }
}
