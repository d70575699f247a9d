//! From an accepted TCP connection to an authenticated RDP connection.
//!
//! Order (MS-RDPBCGR 1.3.1.1): X.224 negotiation, TLS, CredSSP when the client wants NLA, then settings,
//! channels, credentials and capabilities. Nothing that costs more than a TLS handshake happens before the
//! client has proved that it knows the password.

use std::net::SocketAddr;
use std::sync::Arc;

use ironrdp_acceptor::credssp::CredsspSequence;
use ironrdp_acceptor::{
    Acceptor, AcceptorResult, ConnectionSetupHandler, ConnectorResult, DesktopSize, ReceivedCredentials,
};
use ironrdp_connector::sspi;
use ironrdp_connector::sspi::credssp::TsRequest;
use ironrdp_connector::sspi::generator::GeneratorState;
use ironrdp_connector::{ConnectorErrorKind, ServerName, general_err};
use ironrdp_core::WriteBuf;
use ironrdp_dvc::DrdynvcServer;
use ironrdp_pdu::nego::SecurityProtocol;
use ironrdp_tokio::{Framed, FramedWrite as _, TokioFramed, TokioStream, single_sequence_step_read};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use crate::account::Account;
use crate::egfx::Pipeline;
use crate::error::Refused;
use crate::gates::Gates;
use crate::{capabilities, clipboard, tls};

/// A CredSSP message holds an NTLM token and at most the credentials; anything larger is no such thing.
const MAX_TS_REQUEST: usize = 16 * 1024;

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

/// What comes out: a client that may have a desktop.
pub(crate) struct Connection {
    pub(crate) framed: TokioFramed<TlsStream<TcpStream>>,
    pub(crate) result: AcceptorResult,
    pub(crate) size: DesktopSize,
}

/// What the handshake needs to know; the same for every client.
pub(crate) struct Host {
    pub(crate) identity: tls::Identity,
    pub(crate) account: Account,
    pub(crate) default_size: DesktopSize,
    pub(crate) max_size: DesktopSize,
    pub(crate) gates: Gates,
}

/// Takes a client through the whole handshake. `opening` is called once, as soon as the client is
/// authenticated and its desktop size is known, so that the desktop can start meanwhile.
pub(crate) async fn accept(
    host: &Host,
    stream: TcpStream,
    peer: SocketAddr,
    stage: &watch::Sender<Stage>,
    opening: impl FnOnce(DesktopSize),
) -> Result<Connection, Refused> {
    let mut acceptor = Acceptor::new(
        SecurityProtocol::SSL | SecurityProtocol::HYBRID,
        host.default_size,
        capabilities::offered(host.default_size),
        None,
    );
    acceptor.set_honor_client_desktop_size(Some(host.max_size));
    acceptor.attach_static_channel(DrdynvcServer::new().with_dynamic_channel(Pipeline::default()));
    if host.gates.clipboard() {
        acceptor.attach_static_channel(clipboard::Channel::new(host.gates));
    }

    let mut framed: Framed<TokioStream<TcpStream>> = Framed::new(stream);
    negotiate(&mut framed, &mut acceptor).await?;
    stage.send_replace(Stage::Speaking);
    let (stream, early) = framed.into_inner();
    if !early.is_empty() {
        // A client speaks TLS only after it has read the answer.
        return Err(Refused::Malformed("the first message"));
    }
    let stream =
        host.identity.acceptor.accept(stream).await.map_err(|_| Refused::Malformed("the TLS handshake"))?;
    let mut framed: TokioFramed<_> = Framed::new(stream);
    acceptor.mark_security_upgrade_as_done();

    let nla = acceptor.should_perform_credssp();
    let mut authenticated = false;
    if nla {
        authenticated = credssp(&mut framed, host, peer).await?;
        acceptor.mark_credssp_as_done();
    }
    if authenticated {
        stage.send_replace(Stage::Authenticated);
    }

    let mut gate = Gate {
        account: &host.account,
        nla,
        authenticated,
        stage,
        opening: Some(opening),
        denied: None,
        size: None,
    };
    let finalized = ironrdp_acceptor::accept_finalize_with(framed, &mut acceptor, &mut gate).await;
    if let Some(denied) = gate.denied {
        return Err(denied);
    }
    let (framed, result) = finalized.map_err(|e| classify(&e, "the connection's settings"))?;
    // A client that sends a reconnect cookie is not asked for credentials by the state machine. This host
    // gives out no such cookies, so whoever has one made it up.
    if !gate.authenticated || result.auto_reconnect.is_some() {
        return Err(Refused::ReconnectCookie);
    }
    let size = gate.size.ok_or(Refused::Malformed("the connection's settings"))?;
    Ok(Connection { framed, result, size })
}

/// X.224 negotiation (MS-RDPBCGR 2.2.1.1, 2.2.1.2). Our own loop, because ironrdp-acceptor's does not send the
/// answer with which it refuses a client.
async fn negotiate(
    framed: &mut Framed<TokioStream<TcpStream>>,
    acceptor: &mut Acceptor,
) -> Result<(), Refused> {
    const DOING: &str = "the first message";
    let mut out = WriteBuf::new();
    while acceptor.reached_security_upgrade().is_none() {
        let step = single_sequence_step_read(framed, acceptor, &mut out).await;
        // Also when the step failed: then this tells the client why.
        let filled = out.filled().to_vec();
        if !filled.is_empty() {
            framed.write_all(&filled).await.map_err(|_| Refused::Gone(DOING))?;
        }
        step.map_err(|e| classify(&e, DOING))?;
    }
    Ok(())
}

/// The points of the state machine at which this host decides.
struct Gate<'a, F> {
    account: &'a Account,
    nla: bool,
    authenticated: bool,
    stage: &'a watch::Sender<Stage>,
    opening: Option<F>,
    denied: Option<Refused>,
    size: Option<DesktopSize>,
}

#[async_trait::async_trait(?Send)]
impl<F: FnOnce(DesktopSize)> ConnectionSetupHandler for Gate<'_, F> {
    async fn handle_credentials(&mut self, received: Option<ReceivedCredentials>) -> ConnectorResult<()> {
        if self.authenticated {
            // NLA has checked the password already.
            return Ok(());
        }
        let admitted =
            received.is_some_and(|r| self.account.admits(&r.credentials.username, &r.credentials.password));
        if admitted {
            self.authenticated = true;
            self.stage.send_replace(Stage::Authenticated);
            Ok(())
        } else {
            self.denied = Some(Refused::Credentials("TLS"));
            Err(general_err!("wrong user name or password"))
        }
    }

    async fn prepare_capability_exchange(&mut self, size: DesktopSize) -> ConnectorResult<()> {
        if !self.authenticated {
            // With TLS, credentials are always asked for, unless the client claims to be reconnecting.
            let why = if self.nla {
                Refused::Credentials("NLA, by the password's hash")
            } else {
                Refused::ReconnectCookie
            };
            self.denied = Some(why);
            return Err(general_err!("not authenticated"));
        }
        self.size = Some(size);
        if let Some(opening) = self.opening.take() {
            opening(size);
        }
        Ok(())
    }
}

/// Runs NLA's CredSSP (MS-CSSP) with NTLM against the account, and returns whether the client also knows the
/// password itself: NTLM proves no more than knowledge of its hash, but the client has to hand over the password
/// at the end. Our own loop, because ironrdp-acceptor's does not bound the size of a message.
async fn credssp(
    framed: &mut TokioFramed<TlsStream<TcpStream>>,
    host: &Host,
    peer: SocketAddr,
) -> Result<bool, Refused> {
    const DOING: &str = "network-level authentication";
    let identity = host.account.identity().map_err(|_| Refused::Malformed(DOING))?;
    let mut sequence = CredsspSequence::init(
        &identity,
        ServerName::new(peer.ip().to_string()),
        host.identity.public_key.clone(),
        None,
    )
    .map_err(|_| Refused::Malformed(DOING))?;
    let mut out = WriteBuf::new();
    let mut knows_password = false;
    loop {
        match sequence.next_pdu_hint() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(knows_password),
            Err(e) => return Err(denied_by_ntlm(&e)),
        }
        let message =
            framed.read_by_hint(&BoundedTsRequest).await.map_err(|e| gone_or_malformed(&e, DOING))?;
        let Some(request) =
            sequence.decode_client_message(&message).map_err(|_| Refused::Malformed(DOING))?
        else {
            return Ok(knows_password);
        };
        let result = {
            let mut generator = sequence.process_ts_request(request);
            match generator.start() {
                GeneratorState::Completed(result) => result,
                // Only Kerberos asks the network, and it is not offered.
                GeneratorState::Suspended(_) => return Err(Refused::Malformed(DOING)),
            }
        };
        out.clear();
        let (written, delegated) =
            sequence.handle_process_result(result, &mut out).map_err(|_| Refused::Malformed(DOING))?;
        if let Some(delegated) = delegated {
            knows_password =
                host.account.admits(delegated.username.account_name(), delegated.password.as_ref());
        }
        if let Some(len) = written.size() {
            framed.write_all(&out[..len]).await.map_err(|_| Refused::Gone(DOING))?;
        }
    }
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

fn denied_by_ntlm(error: &ironrdp_connector::ConnectorError) -> Refused {
    use std::error::Error as _;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(e) = inner.downcast_ref::<sspi::Error>() {
            return match e.error_type {
                sspi::ErrorKind::LogonDenied | sspi::ErrorKind::MessageAltered => Refused::Credentials("NLA"),
                _ => Refused::Malformed("network-level authentication"),
            };
        }
        source = inner.source();
    }
    Refused::Malformed("network-level authentication")
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
mod tests;
