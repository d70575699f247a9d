//! From an accepted TCP connection to an authenticated RDP connection.
//!
//! Order (MS-RDPBCGR 1.3.1.1): X.224 negotiation, TLS, CredSSP when the client wants NLA, then settings,
//! channels, credentials and capabilities. Nothing that costs more than a TLS handshake happens before the
//! client has proved that it knows the password.

use std::net::SocketAddr;
use std::sync::Arc;

use ironrdp_acceptor::{
    Acceptor, AcceptorResult, ConnectionSetupHandler, ConnectorResult, DesktopSize, ReceivedCredentials,
};
use ironrdp_connector::sspi;
use ironrdp_connector::sspi::credssp::{CredSspServer, NStatusCode, ServerMode, ServerState, TsRequest};
use ironrdp_connector::sspi::generator::GeneratorState;
use ironrdp_connector::{ConnectorErrorKind, Sequence as _, general_err};
use ironrdp_core::{DecodeResult, WriteBuf, decode, encode_vec, other_err};
use ironrdp_dvc::DrdynvcServer;
use ironrdp_pdu::gcc::ConferenceCreateRequest;
use ironrdp_pdu::mcs::ConnectInitial;
use ironrdp_pdu::nego::SecurityProtocol;
use ironrdp_pdu::rdp::capability_sets::CapabilitySet;
use ironrdp_pdu::rdp::client_info::ClientAutoReconnect;
use ironrdp_pdu::rdp::server_error_info::ProtocolIndependentCode;
use ironrdp_pdu::x224::{X224, X224Data};
use ironrdp_tokio::{Framed, FramedWrite as _, TokioFramed, TokioStream, single_sequence_step_read};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::rustls::ProtocolVersion;
use tokio_rustls::server::TlsStream;

use crate::account::{Directory, Lookup};
use crate::display::{self, Wishes};
use crate::egfx::Pipeline;
use crate::error::Refused;
use crate::gates::Channels;
use crate::monitors::Layout;
use crate::register::{Register, Turn};
use crate::touch::{self, Touches};
use crate::{capabilities, clipboard, closing, drives, nla, sequence, sound, tls};

/// A CredSSP message holds an NTLM token and at most the credentials; anything larger is no such thing.
const MAX_TS_REQUEST: usize = 16 * 1024;

const DOING_NLA: &str = "network-level authentication";

/// How far a handshake has come, for deciding who has to go when too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Connected, and has not said a thing.
    Silent,
    /// Has sent a valid first message.
    Speaking,
    /// Has proved who it is.
    Authenticated,
}

/// What a client is connected by: TCP, TLS over it, and in the fuzz targets a piece of memory.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// What comes out: a client that may have a desktop.
pub(crate) struct Connection<S = TlsStream<TcpStream>> {
    pub(crate) framed: TokioFramed<S>,
    pub(crate) result: AcceptorResult,
    /// Its monitors, within this host's limits.
    pub(crate) layout: Layout,
    /// Who it is.
    pub(crate) user: String,
    /// How that was proved.
    pub(crate) method: &'static str,
    /// How the connection is protected.
    pub(crate) security: String,
    pub(crate) dynamic: Dynamic,
}

/// What the handshake needs to know; the same for every client.
pub(crate) struct Host {
    pub(crate) identity: tls::Identity,
    pub(crate) register: Register,
    pub(crate) default_size: DesktopSize,
    pub(crate) max_size: DesktopSize,
    pub(crate) channels: Channels,
}

/// What the handshake asks of the sessions there are.
pub(crate) trait Hall {
    /// A user is authenticated and its desktop size is known, so that the desktop can start meanwhile. Called at
    /// most once.
    fn expect(&mut self, user: &str, size: DesktopSize);
    /// The user who had the session whose reconnect cookie this proves; uses the cookie up.
    fn redeem(&mut self, cookie: &ClientAutoReconnect) -> Option<String>;
}

/// Takes a client through the whole handshake.
pub(crate) async fn accept<S: Stream>(
    host: &Host,
    stream: S,
    peer: SocketAddr,
    stage: &watch::Sender<Stage>,
    hall: &mut impl Hall,
) -> Result<Connection<TlsStream<S>>, Refused> {
    let (mut acceptor, dynamic) = acceptor(host);
    let stream = negotiate(stream, &mut acceptor).await?;
    stage.send_replace(Stage::Speaking);
    let stream =
        host.identity.acceptor.accept(stream).await.map_err(|_| Refused::Malformed("the TLS handshake"))?;
    let tls = match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        // The host accepts no other.
        _ => "TLS",
    };
    let mut framed: TokioFramed<_> = Framed::new(stream);
    acceptor.mark_security_upgrade_as_done();

    let nla = acceptor.should_perform_credssp();
    let mut user = None;
    if nla {
        user = credssp(&mut framed, host, peer).await?;
        acceptor.mark_credssp_as_done();
    }
    if user.is_some() {
        stage.send_replace(Stage::Authenticated);
    }
    admit(host, Secured { framed, acceptor, dynamic, tls, nla, user }, peer, stage, hall).await
}

/// What a client is offered, and what it will say on that.
pub(crate) fn acceptor(host: &Host) -> (Acceptor, Dynamic) {
    let mut acceptor = Acceptor::new(
        SecurityProtocol::SSL | SecurityProtocol::HYBRID,
        host.default_size,
        capabilities::offered(host.default_size),
        None,
    );
    acceptor.set_honor_client_desktop_size(Some(host.max_size));
    let (channels, dynamic) = dynamic_channels(host.max_size);
    acceptor.attach_static_channel(channels);
    if host.channels.clipboard {
        acceptor.attach_static_channel(clipboard::Channel::default());
    }
    if host.channels.sound {
        acceptor.attach_static_channel(sound::Channel::new());
    }
    if host.channels.drives {
        acceptor.attach_static_channel(drives::Channel::default());
    }
    (acceptor, dynamic)
}

/// The channels within `drdynvc`, numbered from 0 in this order.
pub(crate) fn dynamic_channels(most: DesktopSize) -> (DrdynvcServer, Dynamic) {
    let (control, wishes) = display::control(most);
    let (touch, touches) = touch::channel();
    let channels = DrdynvcServer::new()
        .with_dynamic_channel(Pipeline::default())
        .with_dynamic_channel(control)
        .with_dynamic_channel(touch);
    (channels, Dynamic { wishes, touches })
}

/// What a client says on its dynamic channels that concerns its session.
pub(crate) struct Dynamic {
    /// The sizes it wishes for later on.
    pub(crate) wishes: Wishes,
    /// What its fingers do.
    pub(crate) touches: Touches,
}

/// A client within TLS, and past NLA if that was negotiated.
pub(crate) struct Secured<S> {
    pub(crate) framed: TokioFramed<S>,
    pub(crate) acceptor: Acceptor,
    pub(crate) dynamic: Dynamic,
    /// Its version.
    pub(crate) tls: &'static str,
    pub(crate) nla: bool,
    /// Who it is, if NLA has told.
    pub(crate) user: Option<String>,
}

/// Takes a client from its settings to the end of the handshake.
pub(crate) async fn admit<S: Stream>(
    host: &Host,
    secured: Secured<S>,
    peer: SocketAddr,
    stage: &watch::Sender<Stage>,
    hall: &mut impl Hall,
) -> Result<Connection<S>, Refused> {
    let Secured { mut framed, mut acceptor, dynamic, tls, nla, user } = secured;
    let Said { scale, several } = first_settings(&mut framed, &mut acceptor, host.max_size).await?;
    let mut gate = Gate { register: &host.register, peer, nla, user, stage, hall, denied: None, size: None };
    let finalized = sequence::settle(framed, &mut acceptor, &mut gate).await;
    if let Some(denied) = gate.denied {
        return Err(denied);
    }
    let (framed, result) = finalized.map_err(|e| match classify(&e, "the connection's settings") {
        // The state machine gives reasons here as well, which are about channels.
        Refused::Security => Refused::Malformed("the connection's settings"),
        other => other,
    })?;
    let first = if nla { "NLA" } else { "password" };
    let (user, method, size) = match &result.auto_reconnect {
        None => (gate.user.ok_or(Refused::Malformed("the connection's settings"))?, first, gate.size),
        // The state machine lets a client with a cookie through to here without a look at it or at its credentials.
        Some(cookie) => {
            let holder = gate.hall.redeem(cookie);
            let holder = match holder.filter(|_| !nla) {
                Some(holder) if gate.user.is_none() && host.register.has(&holder).await? => Some(holder),
                _ => None,
            };
            let credentials = result.credentials.as_ref().filter(|_| !nla);
            let (user, method) = if let Some(user) = gate.user {
                // NLA has told who it is. Nobody gets another user's session by a cookie.
                (user, first)
            } else if let Some(holder) = holder {
                tracing::info!(%peer, "a client proved with its reconnect cookie whose it is");
                stage.send_replace(Stage::Authenticated);
                (holder, "reconnect cookie")
            } else if let Some(c) = credentials
                && let Some(user) = host.register.admit(&c.username, &c.password, peer).await?
            {
                tracing::info!(%peer, "a client's reconnect cookie is not valid (any more); its password is right");
                stage.send_replace(Stage::Authenticated);
                (user, "password")
            } else {
                closing::refuse(framed, &result, ProtocolIndependentCode::ServerInsufficientPrivileges).await;
                return Err(Refused::ReconnectCookie);
            };
            (user, method, confirmed_size(&result.capabilities, host.max_size))
        }
    };
    let size = size.ok_or(Refused::Malformed("the connection's settings"))?;
    let layout = several.filter(|several| several.size() == size).unwrap_or_else(|| Layout::one(size, scale));
    let security = if nla { format!("{tls}, NLA") } else { tls.to_owned() };
    Ok(Connection { framed, result, layout, user, method, security, dynamic })
}

/// The size in a client's Confirm Active, which is the one that it was offered (MS-RDPBCGR 2.2.7.1.2), and that is
/// the one it asked for within this host's limits.
fn confirmed_size(sets: &[CapabilitySet], most: DesktopSize) -> Option<DesktopSize> {
    let side = |side: u16, most: u16| lucid_desktop::handover::SIZES.contains(&side.into()) && side <= most;
    sets.iter().find_map(|set| match set {
        CapabilitySet::Bitmap(bitmap)
            if side(bitmap.desktop_width, most.width) && side(bitmap.desktop_height, most.height) =>
        {
            Some(DesktopSize { width: bitmap.desktop_width, height: bitmap.desktop_height })
        }
        _ => None,
    })
}

/// X.224 negotiation (MS-RDPBCGR 2.2.1.1, 2.2.1.2). Our own loop, because ironrdp-acceptor's does not send the
/// answer with which it refuses a client.
pub(crate) async fn negotiate<S: Stream>(stream: S, acceptor: &mut Acceptor) -> Result<S, Refused> {
    const DOING: &str = "the first message";
    let mut framed: Framed<TokioStream<S>> = Framed::new(stream);
    let mut out = WriteBuf::new();
    while acceptor.reached_security_upgrade().is_none() {
        let step = single_sequence_step_read(&mut framed, acceptor, &mut out).await;
        // Also when the step failed: then this tells the client why.
        let filled = out.filled().to_vec();
        if !filled.is_empty() {
            framed.write_all(&filled).await.map_err(|_| Refused::Gone(DOING))?;
        }
        step.map_err(|e| classify(&e, DOING))?;
    }
    let (stream, early) = framed.into_inner();
    if !early.is_empty() {
        // A client speaks TLS only after it has read the answer.
        return Err(Refused::Malformed(DOING));
    }
    Ok(stream)
}

/// What the state machine does not tell from a client's first settings.
struct Said {
    /// How large it wants things, in percent.
    scale: u32,
    /// Its monitors, if it has several.
    several: Option<Layout>,
}

/// Takes the client's first settings (MS-RDPBCGR 2.2.1.3) to the state machine.
async fn first_settings<S: Stream>(
    framed: &mut TokioFramed<S>,
    acceptor: &mut Acceptor,
    most: DesktopSize,
) -> Result<Said, Refused> {
    const DOING: &str = "the connection's settings";
    let Some(hint) = acceptor.next_pdu_hint() else {
        return Ok(Said { scale: 100, several: None });
    };
    let pdu = framed.read_by_hint(hint).await.map_err(|e| gone_or_malformed(&e, DOING))?;
    let (said, changed) = said(&pdu, most).map_err(|_| Refused::Malformed(DOING))?;
    let mut out = WriteBuf::new();
    acceptor.step(changed.as_deref().unwrap_or(&pdu), None, &mut out).map_err(|e| classify(&e, DOING))?;
    if !out.filled().is_empty() {
        framed.write_all(out.filled()).await.map_err(|_| Refused::Gone(DOING))?;
    }
    Ok(said)
}

/// Reads the client's first settings. Clients with several monitors ask for the size of the primary one, or of all of
/// them; the state machine is to take the latter, so the message is changed if need be.
fn said(pdu: &[u8], most: DesktopSize) -> DecodeResult<(Said, Option<Vec<u8>>)> {
    let initial: ConnectInitial = decode(decode::<X224<X224Data<'_>>>(pdu)?.0.data.as_ref())?;
    let mut blocks = initial.conference_create_request.gcc_blocks().clone();
    let core = &blocks.core.optional_data;
    let factors = core.desktop_scale_factor.zip(core.device_scale_factor);
    let scale = factors.and_then(|(desktop, device)| display::scale(desktop, device)).unwrap_or(100);
    let several = Layout::announced(&blocks, scale, most);
    let asked = DesktopSize { width: blocks.core.desktop_width, height: blocks.core.desktop_height };
    let size = several.map_or(asked, |several| several.size());
    let changed = if size == asked {
        None
    } else {
        (blocks.core.desktop_width, blocks.core.desktop_height) = (size.width, size.height);
        let conference_create_request = ConferenceCreateRequest::new(blocks)?;
        let failed = |e| other_err!("ConnectInitial", source: e);
        let initial = encode_vec(&ConnectInitial { conference_create_request, ..initial }).map_err(failed)?;
        Some(encode_vec(&X224(X224Data { data: initial.into() })).map_err(failed)?)
    };
    Ok((Said { scale, several }, changed))
}

/// The points of the state machine at which this host decides.
struct Gate<'a, H> {
    register: &'a Register,
    peer: SocketAddr,
    nla: bool,
    /// Who it is, once that is proved.
    user: Option<String>,
    stage: &'a watch::Sender<Stage>,
    hall: &'a mut H,
    denied: Option<Refused>,
    size: Option<DesktopSize>,
}

#[async_trait::async_trait(?Send)]
impl<H: Hall> ConnectionSetupHandler for Gate<'_, H> {
    async fn handle_credentials(&mut self, received: Option<ReceivedCredentials>) -> ConnectorResult<()> {
        if self.user.is_some() {
            // NLA has checked the password already.
            return Ok(());
        }
        let admitted = match received.map(|received| received.credentials) {
            Some(typed) => self.register.admit(&typed.username, &typed.password, self.peer).await,
            None => Ok(None),
        };
        self.user = match admitted {
            Ok(user) => user,
            Err(refused) => {
                self.denied = Some(refused);
                return Err(general_err!("nobody says who may connect"));
            }
        };
        if self.user.is_some() {
            self.stage.send_replace(Stage::Authenticated);
            Ok(())
        } else {
            self.denied = Some(Refused::Credentials("TLS"));
            Err(general_err!("wrong user name or password"))
        }
    }

    async fn prepare_capability_exchange(&mut self, size: DesktopSize) -> ConnectorResult<()> {
        let Some(user) = &self.user else {
            // With TLS, credentials are always asked for, unless the client claims to be reconnecting.
            let why = if self.nla {
                Refused::Credentials("NLA, by the password's hash")
            } else {
                Refused::ReconnectCookie
            };
            self.denied = Some(why);
            return Err(general_err!("not authenticated"));
        };
        self.size = Some(size);
        self.hall.expect(user, size);
        Ok(())
    }
}

/// Runs NLA's CredSSP (MS-CSSP) with NTLM against the accounts, and returns who the client is if it also knows the
/// password itself: NTLM proves no more than knowledge of its hash, but the client has to hand over the password
/// at the end. Our own loop, because ironrdp-acceptor's bounds no message's size and knows one account only.
pub(crate) async fn credssp<S: Stream>(
    framed: &mut TokioFramed<S>,
    host: &Host,
    peer: SocketAddr,
) -> Result<Option<String>, Refused> {
    let mode = ServerMode::Ntlm(sspi::ntlm::NtlmConfig::new(peer.ip().to_string()));
    let lookup = Lookup::default();
    let mut server = CredSspServer::new(host.identity.public_key.clone(), Directory(&lookup), mode)
        .map_err(|_| Refused::Malformed(DOING_NLA))?;
    // Nobody is named in the first message.
    let mut request = read_ts_request(framed).await?;
    let mut turn = None;
    if request.nego_tokens.as_deref().is_some_and(nla::is_wrapped) {
        return wrapped_credssp(framed, host, request, peer).await;
    }
    loop {
        let result = match server.process(request).start() {
            GeneratorState::Completed(result) => result,
            // Only Kerberos asks the network, and it is not offered.
            GeneratorState::Suspended(_) => return Err(Refused::Malformed(DOING_NLA)),
        };
        over(turn.take(), result.is_err(), &lookup, peer);
        match result {
            Ok(ServerState::ReplyNeeded(reply)) => write_ts_request(framed, &reply).await?,
            Ok(ServerState::Finished(delegated)) => return admitted(host, &delegated, peer).await,
            Err(refused) => {
                let wrong = matches!(
                    refused.error.error_type,
                    sspi::ErrorKind::LogonDenied | sspi::ErrorKind::MessageAltered
                );
                if let Some(mut reply) = refused.ts_request {
                    if wrong {
                        // As Windows does, so that the client asks its user again (MS-CSSP 2.2.1, MS-ERREF 2.3.1).
                        reply.error_code = Some(NStatusCode::LOGON_FAILURE);
                    }
                    write_ts_request(framed, &reply).await?;
                }
                return Err(if wrong { Refused::Credentials("NLA") } else { Refused::Malformed(DOING_NLA) });
            }
        }
        request = read_ts_request(framed).await?;
        turn = next_turn(framed, host, &lookup).await?;
    }
}

/// The same for a client that began with SPNEGO.
async fn wrapped_credssp<S: Stream>(
    framed: &mut TokioFramed<S>,
    host: &Host,
    mut request: TsRequest,
    peer: SocketAddr,
) -> Result<Option<String>, Refused> {
    let lookup = Lookup::default();
    let mut exchange = nla::Exchange::new(&lookup, &host.identity.public_key);
    let mut turn = None;
    loop {
        let taken = exchange.take(&request);
        over(turn.take(), taken.is_err(), &lookup, peer);
        match taken {
            Ok(nla::Step::Reply(reply)) => write_ts_request(framed, &reply).await?,
            Ok(nla::Step::Finished(delegated)) => return admitted(host, &delegated, peer).await,
            Err(nla::Wrong::Credentials) => {
                let error_code = Some(NStatusCode::LOGON_FAILURE);
                write_ts_request(framed, &TsRequest { error_code, ..TsRequest::default() }).await?;
                return Err(Refused::Credentials("NLA"));
            }
            Err(nla::Wrong::Message) => return Err(Refused::Malformed(DOING_NLA)),
        }
        request = read_ts_request(framed).await?;
        turn = next_turn(framed, host, &lookup).await?;
    }
}

/// Has a client's turn come to be looked up, if it was not yet.
async fn next_turn<S: Stream>(
    framed: &mut TokioFramed<S>,
    host: &Host,
    lookup: &Lookup,
) -> Result<Option<Turn>, Refused> {
    if lookup.asked().is_some() {
        return Ok(None);
    }
    match host.register.turn().await {
        Ok(turn) => {
            lookup.set(Arc::clone(&turn.accounts));
            Ok(Some(turn))
        }
        Err(refused) => {
            let error_code = Some(NStatusCode::NO_LOGON_SERVERS);
            write_ts_request(framed, &TsRequest { error_code, ..TsRequest::default() }).await?;
            Err(refused)
        }
    }
}

/// A message was taken: the turn is over if there was one, and if it was wrong, that counts.
fn over(turn: Option<Turn>, is_wrong: bool, lookup: &Lookup, peer: SocketAddr) {
    if let Some(turn) = turn.filter(|_| is_wrong) {
        turn.failed(lookup.asked().cloned(), peer);
    }
}

/// The user to whom what a client handed over belongs.
async fn admitted(
    host: &Host,
    delegated: &sspi::AuthIdentity,
    peer: SocketAddr,
) -> Result<Option<String>, Refused> {
    host.register.admit(delegated.username.account_name(), delegated.password.as_ref(), peer).await
}

async fn read_ts_request<S: Stream>(framed: &mut TokioFramed<S>) -> Result<TsRequest, Refused> {
    let message =
        framed.read_by_hint(&BoundedTsRequest).await.map_err(|e| gone_or_malformed(&e, DOING_NLA))?;
    TsRequest::from_buffer(&message).map_err(|_| Refused::Malformed(DOING_NLA))
}

async fn write_ts_request<S: Stream>(
    framed: &mut TokioFramed<S>,
    request: &TsRequest,
) -> Result<(), Refused> {
    let bytes = encoded(request).ok_or(Refused::Malformed(DOING_NLA))?;
    framed.write_all(&bytes).await.map_err(|_| Refused::Gone(DOING_NLA))
}

fn encoded(request: &TsRequest) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::from(request.buffer_len().ok()?)];
    request.encode_ts_request(bytes.as_mut_slice()).ok()?;
    Some(bytes)
}

/// MS-CSSP 2.2.1: finds the end of a TSRequest, and refuses one that is too large before it is read.
#[derive(Clone, Copy, Debug)]
struct BoundedTsRequest;

impl ironrdp_pdu::PduHint for BoundedTsRequest {
    fn find_size(&self, bytes: &[u8]) -> ironrdp_core::DecodeResult<Option<(bool, usize)>> {
        match TsRequest::read_length(bytes) {
            Ok(length) if length <= MAX_TS_REQUEST => Ok(Some((true, length))),
            Ok(_) => Err(ironrdp_core::other_err!("TsRequest", "too large")),
            // The header has at most six bytes; if more are there and it is still not whole, it is none.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof && bytes.len() < 8 => Ok(None),
            Err(_) => Err(ironrdp_core::other_err!("TsRequest", "malformed")),
        }
    }
}

fn gone_or_malformed(error: &std::io::Error, doing: &'static str) -> Refused {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::Other | ErrorKind::InvalidData => Refused::Malformed(doing),
        _ => Refused::Gone(doing),
    }
}

/// Tells a client that went away from one that sends rubbish, without repeating anything it sent.
fn classify(error: &ironrdp_connector::ConnectorError, doing: &'static str) -> Refused {
    use std::error::Error as _;
    if let ConnectorErrorKind::Reason(_) = error.kind() {
        return Refused::Security;
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(e) = inner.downcast_ref::<std::io::Error>() {
            return gone_or_malformed(e, doing);
        }
        source = inner.source();
    }
    Refused::Malformed(doing)
}

/// The host's part that all clients share.
pub(crate) type SharedHost = Arc<Host>;

#[cfg(test)]
pub(crate) mod tests;
