//! A real client (ironrdp-connector's state machine over real TLS on loopback) and hostile ones against the
//! real handshake.

use std::time::{Duration, Instant};

use ironrdp_connector::sspi::NetworkRequest;
use ironrdp_connector::{ClientConnector, Config, Credentials, ServerName};
use ironrdp_pdu::PduHint as _;
use ironrdp_pdu::gcc::{ConnectionType, KeyboardType};
use ironrdp_pdu::rdp::capability_sets::{MajorPlatformType, RailSupportLevel};
use ironrdp_pdu::rdp::client_info::{PerformanceFlags, TimezoneInfo};
use ironrdp_pdu::rdp::session_info::ServerAutoReconnect;
use ironrdp_tokio::NetworkClient;
use rustls_pki_types::{CertificateDer, ServerName as TlsName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};

use lucid_policy::Policy;

use lucid_ipc::accounts::admission_server::AdmissionServer;
use lucid_ipc::tonic::transport::Server;

use super::*;
use crate::account::Accounts;
use crate::reconnect::Cookies;

pub(crate) fn host() -> SharedHost {
    host_with(Channels { clipboard: false, sound: false, drives: false })
}

fn host_with(channels: Channels) -> SharedHost {
    let register =
        Register::File(Accounts::load(std::path::Path::new("testdata/account-v1.json")).unwrap().into());
    host_of(channels, register)
}

fn host_of(channels: Channels, register: Register) -> SharedHost {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("lucid-rdp-handshake-{}-{number}", std::process::id()));
    let identity = tls::Identity::load_or_make(&dir, "lucid").unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let size = |width, height| DesktopSize { width, height };
    SharedHost::new(Host {
        identity,
        register,
        default_size: size(1280, 720),
        max_size: size(4096, 2304),
        channels,
    })
}

#[path = "../../tests/support/admission.rs"]
mod admission;

use admission::Door;

/// A host that asks such a controller; without one, nobody listens on its socket.
fn host_asking(door: Option<Door>) -> SharedHost {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let socket = std::env::temp_dir().join(format!("lucid-rdp-door-{}-{number}", std::process::id()));
    if let Some(door) = door {
        let (listener, _guard) = lucid_ipc::bind(&socket, lucid_ipc::Access::Owner).unwrap();
        tokio::spawn(Server::builder().serve_with_incoming(AdmissionServer::new(door), listener));
    }
    let channels = Channels { clipboard: false, sound: false, drives: false };
    host_of(channels, Register::controller(socket))
}

async fn asking(host: &Host, client: Client) -> Seen {
    let key = host.identity.public_key.clone();
    against(host, |stream| client.connect(stream, key)).await.0
}

/// Waits until that was asked, and forgets it.
async fn was_asked(door: &Door, expected: &[&str]) {
    for _ in 0..500 {
        if *door.asked.lock().unwrap() == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::mem::take(&mut *door.asked.lock().unwrap()), expected);
}

#[tokio::test]
async fn with_a_controller_its_accounts_are_those_that_are_let_in_and_it_hears_of_each_failure() {
    let door = Door::default();
    let host = host_asking(Some(door.clone()));
    for (nla, user, password, let_in, asked) in [
        (false, "LUCID", "password", true, &["admit LUCID"][..]),
        (true, "LUCID", "password", true, &["known", "admit LUCID"]),
        (false, "lucid", "wrong", false, &["admit lucid", "known"]),
        (true, "lucid", "wrong", false, &["known", "report lucid"]),
        (false, "nobody", "password", false, &["admit nobody", "known"]),
        (true, "nobody", "password", false, &["known"]),
        (false, "lucid", "", false, &[]),
    ] {
        let seen = asking(&host, Client { nla, user, password, ..Client::GOOD }).await;
        match seen.outcome {
            Ok(connection) if let_in => assert_eq!(connection.user, "lucid"),
            Err(Refused::Credentials(_)) if !let_in => assert!(seen.opened.is_none()),
            other => panic!("nla {nla}, {user}, {password}: {:?}", other.err()),
        }
        was_asked(&door, asked).await;
    }
}

#[tokio::test]
async fn whom_nla_cannot_let_in_is_refused_by_it_as_a_stranger_is_and_not_without_it() {
    let door = Door { without_nla: true, ..Door::default() };
    let host = host_asking(Some(door.clone()));
    let seen = asking(&host, Client { nla: true, ..Client::GOOD }).await;
    assert!(matches!(seen.outcome, Err(Refused::Credentials("NLA"))), "{:?}", seen.outcome.err());
    was_asked(&door, &["known"]).await;
    asking(&host, Client::GOOD).await.outcome.unwrap();
}

#[tokio::test]
async fn without_an_answer_of_the_controllers_nobody_is_let_in() {
    let hanging = host_asking(Some(Door { hangs: true, ..Door::default() }));
    for host in [host_asking(None), hanging] {
        for nla in [false, true] {
            let seen = asking(&host, Client { nla, ..Client::GOOD }).await;
            assert!(matches!(seen.outcome, Err(Refused::Controller(_))), "{:?}", seen.outcome.err());
            assert!(seen.opened.is_none());
        }
    }
}

#[tokio::test]
async fn a_cookie_is_no_proof_of_somebody_whose_account_is_gone() {
    for (user, let_in) in [("lucid", true), ("gone", false)] {
        let host = host_asking(Some(Door::default()));
        let hall = TestHall { holder: Some(user), ..TestHall::default() };
        let cookie = Some(hall.cookies.issue(1, Instant::now()).unwrap());
        let client = Client { password: "wrong", cookie, ..Client::GOOD };
        let key = host.identity.public_key.clone();
        let (seen, _) = against_with(&host, hall, |stream| client.connect(stream, key)).await;
        assert_eq!(seen.outcome.is_ok(), let_in, "{user}");
    }
}

/// What the host made of one client, and whether it began to open a desktop.
struct Seen {
    outcome: Result<Connection, Refused>,
    opened: Option<DesktopSize>,
    hall: TestHall,
}

/// One session with its cookies, and what was asked of it.
#[derive(Default)]
struct TestHall {
    opened: Option<DesktopSize>,
    cookies: Cookies,
    redeemed: usize,
    /// Whose they are; lucid's if nobody is named.
    holder: Option<&'static str>,
}

impl Hall for TestHall {
    fn expect(&mut self, user: &str, size: DesktopSize) {
        assert_eq!(user, "lucid");
        assert!(self.opened.replace(size).is_none(), "called twice");
    }

    fn redeem(&mut self, cookie: &ClientAutoReconnect) -> Option<String> {
        self.redeemed += 1;
        self.cookies.redeem(cookie, Instant::now()).then(|| self.holder.unwrap_or("lucid").to_owned())
    }
}

/// Runs `client` against the handshake.
async fn against<F: Future<Output = T>, T>(host: &Host, client: impl FnOnce(TcpStream) -> F) -> (Seen, T) {
    against_with(host, TestHall::default(), client).await
}

async fn against_with<F: Future<Output = T>, T>(
    host: &Host,
    mut hall: TestHall,
    client: impl FnOnce(TcpStream) -> F,
) -> (Seen, T) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (stream, peer) = listener.accept().await.unwrap();
        let (stage, _seen) = watch::channel(Stage::Silent);
        let handshake = accept(host, stream, peer, &stage, &mut hall);
        let outcome = tokio::time::timeout(Duration::from_secs(30), handshake).await.unwrap();
        Seen { outcome, opened: hall.opened, hall }
    };
    let connecting = async { client(TcpStream::connect(address).await.unwrap()).await };
    tokio::join!(serving, connecting)
}

#[derive(Debug)]
struct AnyCertificate;

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
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

struct NoNetwork;

impl NetworkClient for NoNetwork {
    async fn send(&mut self, _: &NetworkRequest) -> ConnectorResult<Vec<u8>> {
        Err(general_err!("no network in this test"))
    }
}

/// How the test's client behaves.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) nla: bool,
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
    pub(crate) cookie: Option<ServerAutoReconnect>,
    pub(crate) clipboard: bool,
}

/// Announces the channel, and says nothing on it.
#[derive(Debug)]
struct ClientClipboard;

ironrdp_core::impl_as_any!(ClientClipboard);

impl ironrdp_svc::SvcProcessor for ClientClipboard {
    fn channel_name(&self) -> ironrdp_pdu::gcc::ChannelName {
        ironrdp_pdu::gcc::ChannelName::from_static(b"cliprdr\0")
    }
    fn process(&mut self, _: &[u8]) -> ironrdp_pdu::PduResult<Vec<ironrdp_svc::SvcMessage>> {
        Ok(Vec::new())
    }
}

impl ironrdp_svc::SvcClientProcessor for ClientClipboard {}

impl Client {
    pub(crate) const GOOD: Client =
        Client { nla: false, user: "lucid", password: "password", cookie: None, clipboard: false };

    pub(crate) fn connector(self, address: SocketAddr) -> ClientConnector {
        let config = Config {
            desktop_size: DesktopSize { width: 1000, height: 600 },
            monitor_layout: None,
            desktop_scale_factor: 0,
            desktop_physical_size: None,
            desktop_orientation: None,
            device_scale_factor: None,
            monitor_extended_layout: None,
            relative_mouse_input: false,
            enable_tls: !self.nla,
            enable_credssp: self.nla,
            enable_standard_rdp_security: false,
            credentials: Credentials::UsernamePassword {
                username: self.user.into(),
                password: self.password.into(),
            },
            domain: None,
            client_build: 0,
            client_name: "test".into(),
            keyboard_type: KeyboardType::IBM_ENHANCED,
            keyboard_subtype: 0,
            keyboard_functional_keys_count: 12,
            keyboard_layout: 0,
            connection_type: ConnectionType::Lan,
            ime_file_name: String::new(),
            bitmap: None,
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
            enable_server_pointer: false,
            pointer_software_rendering: false,
            multitransport_flags: None,
            support_dyn_vc_gfx_protocol: true,
        };
        let mut connector = ClientConnector::new(config, address);
        if self.clipboard {
            connector.attach_static_channel(ClientClipboard);
        }
        match self.cookie {
            Some(cookie) => connector.with_auto_reconnect_cookie(cookie),
            None => connector,
        }
    }

    /// Connects; `Ok` when the host let it in.
    pub(crate) async fn connect(self, stream: TcpStream, public_key: Vec<u8>) -> ConnectorResult<()> {
        let mut connector = self.connector(stream.local_addr().unwrap());
        let mut framed: Framed<TokioStream<TcpStream>> = Framed::new(stream);
        let upgrade = ironrdp_tokio::connect_begin(&mut framed, &mut connector).await?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let name = TlsName::try_from("lucid").unwrap();
        let stream = tls.connect(name, framed.into_inner_no_leftover()).await.unwrap();
        let mut framed: TokioFramed<_> = Framed::new(stream);
        let upgraded = ironrdp_tokio::mark_as_upgraded(upgrade, &mut connector);
        let name = ServerName::new("lucid");
        ironrdp_tokio::connect_finalize(
            upgraded,
            connector,
            &mut framed,
            &mut NoNetwork,
            name,
            public_key,
            None,
        )
        .await
        .map(|_| ())
    }
}

async fn outcome(client: Client) -> Seen {
    let host = host();
    let key = host.identity.public_key.clone();
    let (seen, _) = against(&host, |stream| client.connect(stream, key)).await;
    seen
}

#[tokio::test]
async fn the_right_password_gets_a_desktop_of_the_size_asked_for_with_tls_and_with_nla() {
    for nla in [false, true] {
        let seen = outcome(Client { nla, ..Client::GOOD }).await;
        let connection = seen.outcome.unwrap_or_else(|e| panic!("nla {nla}: {e}"));
        assert_eq!((connection.layout.size().width, connection.layout.size().height), (1000, 600));
        assert!(seen.opened.is_some());
    }
}

#[tokio::test]
async fn wrong_credentials_never_open_a_desktop() {
    for nla in [false, true] {
        for (user, password) in [
            ("lucid", "wrong"),
            ("lucid", ""),
            ("nobody", "password"),
            ("", ""),
            ("lucid", "$NTLM$:8846f7eaee8fb117ad06bdd830b7586c"),
        ] {
            let seen = outcome(Client { nla, user, password, ..Client::GOOD }).await;
            assert!(seen.opened.is_none(), "nla {nla}, {user}, {password}");
            match seen.outcome {
                Err(Refused::Credentials(_)) => {}
                // A client's NTLM refuses an empty user by itself.
                Err(Refused::Gone(_) | Refused::Malformed(_)) if nla && user.is_empty() => {}
                Err(other) => panic!("nla {nla}, {user}, {password}: {other}"),
                Ok(_) => panic!("nla {nla}, {user}, {password}: let in"),
            }
        }
    }
}

/// A client with that cookie against a host on which `hall` is; `Ok` is the user that was let in.
async fn reconnect(hall: TestHall, client: Client) -> (Result<String, Refused>, TestHall) {
    let host = host();
    let key = host.identity.public_key.clone();
    let (seen, _) = against_with(&host, hall, |stream| client.connect(stream, key)).await;
    let outcome = seen.outcome.map(|connection| {
        assert_eq!((connection.layout.size().width, connection.layout.size().height), (1000, 600));
        connection.user
    });
    assert!(seen.opened.is_none(), "a desktop was opened before it was known whether there is one");
    (outcome, seen.hall)
}

#[tokio::test]
async fn a_made_up_reconnect_cookie_does_not_replace_a_password() {
    let made_up = || Some(ServerAutoReconnect { logon_id: 1, random_bits: [7; 16] });
    for nla in [false, true] {
        let (outcome, _) = reconnect(
            TestHall::default(),
            Client { nla, password: "wrong", cookie: made_up(), ..Client::GOOD },
        )
        .await;
        match outcome {
            Err(Refused::ReconnectCookie) if !nla => {}
            Err(Refused::Credentials(_)) if nla => {}
            other => panic!("nla {nla}: {other:?}"),
        }
        // Such a client is as good as one without a cookie.
        let (outcome, _) =
            reconnect(TestHall::default(), Client { nla, cookie: made_up(), ..Client::GOOD }).await;
        assert_eq!(outcome.unwrap(), "lucid", "nla {nla}");
    }
}

#[tokio::test]
async fn with_tls_an_issued_cookie_is_a_proof_and_only_once() {
    let hall = TestHall::default();
    let cookie = Some(hall.cookies.issue(1, Instant::now()).unwrap());
    let client = Client { password: "", cookie, ..Client::GOOD };
    let (outcome, hall) = reconnect(hall, client.clone()).await;
    assert_eq!(outcome.unwrap(), "lucid");
    let (outcome, hall) = reconnect(hall, client).await;
    assert!(matches!(outcome, Err(Refused::ReconnectCookie)), "{outcome:?}");
    assert_eq!(hall.redeemed, 2);
}

#[tokio::test]
async fn with_nla_a_cookie_does_not_replace_the_password() {
    let hall = TestHall::default();
    let cookie = Some(hall.cookies.issue(1, Instant::now()).unwrap());
    for (password, let_in) in
        [("wrong", false), ("$NTLM$:8846f7eaee8fb117ad06bdd830b7586c", false), ("password", true)]
    {
        let hall = TestHall::default();
        let client = Client { nla: true, password, cookie: cookie.clone(), ..Client::GOOD };
        let (outcome, _) = reconnect(hall, client).await;
        assert_eq!(outcome.is_ok(), let_in, "{password}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_client_without_tls_is_told_that_tls_is_needed() {
    // MS-RDPBCGR 2.2.1.1: X.224 Connection Request without RDP_NEG_REQ, which means standard security.
    let request = [0x03, 0x00, 0x00, 0x0b, 0x06, 0xe0, 0, 0, 0, 0, 0];
    let (seen, answer) = against(&host(), |mut stream| async move {
        stream.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    })
    .await;
    assert!(matches!(seen.outcome, Err(Refused::Security)), "{:?}", seen.outcome.err());
    // 2.2.1.2.2 RDP_NEG_FAILURE: type 3, length 8, SSL_REQUIRED_BY_SERVER (1), little endian.
    assert_eq!(answer[11..], [0x03, 0, 0x08, 0, 0x01, 0, 0, 0]);
}

#[tokio::test]
async fn rubbish_is_refused_without_repeating_it() {
    // A valid request for TLS and NLA, then damaged in every byte, and cut at every length.
    let request: [u8; 19] = [0x03, 0, 0, 0x13, 0x0e, 0xe0, 0, 0, 0, 0, 0, 0x01, 0, 0x08, 0, 0x03, 0, 0, 0];
    let host = host();
    let mut cases: Vec<Vec<u8>> = (0..request.len()).map(|n| request[..n].to_vec()).collect();
    for at in 0..request.len() {
        for value in [0x00, 0x7f, 0x80, 0xff] {
            let mut damaged = request.to_vec();
            damaged[at] = value;
            cases.push(damaged);
        }
    }
    // What follows a good request is no TLS.
    cases.push([request.as_slice(), b"hunter2 hunter2 hunter2"].concat());
    for case in cases {
        let sent = case.clone();
        let (seen, ()) = against(&host, |mut stream| async move {
            // The host may have hung up already.
            let _ = stream.write_all(&sent).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let refused = seen.outcome.err().unwrap_or_else(|| panic!("{case:02x?} was let in"));
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
        assert!(seen.opened.is_none());
    }
}

#[test]
fn a_credssp_message_is_bounded_before_it_is_read() {
    let hint = BoundedTsRequest;
    // DER: SEQUENCE of 64 bytes, of 64 KiB less one, of 64 KiB, of 2 GiB; and a header that is cut off.
    assert_eq!(hint.find_size(&[0x30, 0x40]).unwrap(), Some((true, 66)));
    assert!(hint.find_size(&[0x30, 0x82, 0xff, 0xff, 0, 0, 0, 0]).is_err());
    assert!(hint.find_size(&[0x30, 0x83, 0x01, 0x00, 0x00, 0, 0, 0]).is_err());
    assert!(hint.find_size(&[0x30, 0x84, 0x80, 0x00, 0x00, 0x00, 0, 0]).is_err());
    assert_eq!(hint.find_size(&[0x30]).unwrap(), None);
    assert!(hint.find_size(b"GET / HTTP/1.1\r\n").is_err());
}

#[tokio::test]
async fn the_clipboards_channel_is_joined_only_where_the_policy_may_need_it() {
    let closed = Channels::of(&Policy::strict());
    let mut policy = Policy::strict();
    policy.clipboard.host_to_remote = true;
    for (channels, joined) in [(closed, false), (Channels::of(&policy), true), (Channels::ALL, true)] {
        let host = host_with(channels);
        let key = host.identity.public_key.clone();
        let client = Client { clipboard: true, ..Client::GOOD };
        let (seen, _) = against(&host, |stream| client.connect(stream, key)).await;
        let connection = seen.outcome.unwrap_or_else(|e| panic!("{channels:?}: {e}"));
        let static_channels = connection.result.static_channels;
        let has = static_channels.get_channel_id_by_type::<clipboard::Channel>().is_some();
        assert_eq!(has, joined, "{channels:?}");
    }
}
