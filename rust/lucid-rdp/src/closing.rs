//! The end of a connection at which the client has something to be told.

use std::time::Duration;

use ironrdp_acceptor::AcceptorResult;
use ironrdp_core::encode_vec;
use ironrdp_pdu::gcc::ClientEarlyCapabilityFlags;
use ironrdp_pdu::mcs::{DisconnectProviderUltimatum, DisconnectReason, McsMessage};
use ironrdp_pdu::rdp::headers::ShareDataPdu;
use ironrdp_pdu::rdp::server_error_info::{ErrorInfo, ProtocolIndependentCode, ServerSetErrorInfoPdu};
use ironrdp_pdu::x224::X224;
use ironrdp_tokio::{FramedWrite as _, TokioFramed};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::Error;
use crate::sharecontrol::Channels;

/// A farewell may wait this long for a client that does not read, and the connection's end for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What a client is told when it has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// MS-RDPBCGR 2.2.5.1.1.
    pub(crate) code: ProtocolIndependentCode,
    /// T.125, Disconnect Provider Ultimatum.
    pub(crate) reason: DisconnectReason,
}

impl Farewell {
    /// The user ended the desktop.
    pub(crate) const LOGGED_OFF: Farewell =
        Farewell { code: ProtocolIndependentCode::LogoffByUser, reason: DisconnectReason::UserRequested };

    /// The host has a reason of its own.
    pub(crate) const fn by_host(code: ProtocolIndependentCode) -> Farewell {
        Farewell { code, reason: DisconnectReason::ProviderInitiated }
    }

    /// Says why (MS-RDPBCGR 2.2.5.1) to a client that understands it, and hangs up (MCS Disconnect Provider Ultimatum).
    pub(crate) fn encode(self, result: &AcceptorResult) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Encode("a farewell");
        let mut bytes = Vec::new();
        if result.client_early_capability_flags.contains(ClientEarlyCapabilityFlags::SUPPORT_ERR_INFO_PDU) {
            let info = ServerSetErrorInfoPdu(ErrorInfo::ProtocolIndependentCode(self.code));
            bytes = Channels::of(result).data(ShareDataPdu::ServerSetErrorInfo(info)).map_err(failed)?;
        }
        let ultimatum = DisconnectProviderUltimatum::from_reason(self.reason);
        bytes.extend(encode_vec(&X224(McsMessage::DisconnectProviderUltimatum(ultimatum))).map_err(failed)?);
        Ok(bytes)
    }
}

/// Lets a client go that has come through the handshake and gets no desktop.
pub(crate) async fn refuse(
    mut framed: TokioFramed<TlsStream<TcpStream>>,
    result: &AcceptorResult,
    code: ProtocolIndependentCode,
) {
    let sent = async {
        if let Ok(farewell) = Farewell::by_host(code).encode(result)
            && framed.write_all(&farewell).await.is_ok()
        {
            let (mut stream, _) = framed.into_inner();
            // Best effort: the client may be gone already.
            let _ = stream.shutdown().await;
            drain(stream).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, sent).await;
}

/// Reads what the peer still sends and throws it away, until the peer closes its side too. To be called after the
/// last words were written and the write side was shut down, and under a bound of time.
///
/// A socket that is closed while bytes wait unread is reset (RFC 1122, 4.2.2.13), and a reset takes from the peer, or
/// from a proxy on the way, what it has not read yet: a client whose user still types would never learn why it was
/// hung up on, take the end for a broken network, and come back.
pub(crate) async fn drain(mut stream: impl AsyncRead + Unpin) {
    let mut unwanted = [0; 4096];
    // An error is an end as well.
    while stream.read(&mut unwanted).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::drain;

    #[tokio::test]
    async fn a_client_that_still_types_is_not_reset_under_its_last_words() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let mut peer = std::net::TcpStream::connect(to).unwrap();
            peer.write_all(&[7; 20_000]).unwrap();
            let mut told = Vec::new();
            peer.read_to_end(&mut told).unwrap();
            // A reset connection would refuse this.
            peer.write_all(&[7; 20_000]).unwrap();
            told
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
        stream.write_all(b"logged off").await.unwrap();
        stream.shutdown().await.unwrap();
        drain(&mut stream).await;
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "something was left unread");
        assert_eq!(peer.join().unwrap(), b"logged off");
    }
}
