//! Records what real clients send, for the corpus of the fuzz targets (see ../fuzz/README.md).
//!
//! Stands between a client and a running `lucid-rdp` and has that one's TLS key, so that NLA, which binds itself to
//! the key, goes through. Each connection becomes files below `--out`, in the forms that the targets take:
//!
//! - `connection/NAME`: what the client sent, as if there were no TLS, without NLA's messages;
//! - `credssp/NAME`: NLA's messages;
//! - `session/NAME`: what it sent after its handshake, as a stream;
//! - `input/NAME`, `share_control/NAME` and one folder for each static channel that has a target: fast-path PDUs and the data of that
//!   channel, as pieces.
//!
//! A piece is a length (u16, little endian) and so many bytes. What is recorded holds the password that was typed:
//! use an account that is made for this.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use ironrdp_core::decode;
use ironrdp_pdu::mcs::{ConnectInitial, McsMessage};
use ironrdp_pdu::rdp::headers::{ShareControlHeader, ShareControlPdu, ShareDataHeader, ShareDataPdu};
use ironrdp_pdu::x224::{X224, X224Data};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The number that lucid-rdp gives to the I/O channel.
const IO: u16 = 1003;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The most that is kept of one connection, in bytes: its beginning is what matters.
const MOST: usize = 64 * 1024;

/// Records what RDP clients send.
#[derive(Parser)]
struct Arguments {
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// Where lucid-rdp listens.
    #[arg(long)]
    to: SocketAddr,
    /// The state directory of that lucid-rdp.
    #[arg(long)]
    state: PathBuf,
    /// The folder of the corpus.
    #[arg(long)]
    out: PathBuf,
    /// What to call the recording.
    #[arg(long)]
    name: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let certificate = CertificateDer::from_pem_file(arguments.state.join("tls-cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(arguments.state.join("tls-key.pem"))?;
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(certificate)))
        .with_no_client_auth();
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
    let listener = TcpListener::bind(arguments.listen).await?;
    for number in 1.. {
        let (downstream, _) = listener.accept().await?;
        let upstream = TcpStream::connect(arguments.to).await?;
        let mut sent = Vec::new();
        let ended = connection(downstream, upstream, &acceptor, &connector, &mut sent).await;
        let name = if number == 1 { arguments.name.clone() } else { format!("{}-{number}", arguments.name) };
        println!("{name}: {} bytes ({ended:?})", sent.len());
        if let Err(error) = keep(&arguments.out, &name, &sent) {
            println!("{name}: {error}");
        }
    }
    Ok(())
}

/// Carries one connection; what the client sends goes into `sent` as well.
async fn connection(
    mut downstream: TcpStream,
    mut upstream: TcpStream,
    acceptor: &TlsAcceptor,
    connector: &TlsConnector,
    sent: &mut Vec<u8>,
) -> Result<()> {
    let request = tpkt(&mut downstream).await?;
    sent.extend_from_slice(&request);
    upstream.write_all(&request).await?;
    let answer = tpkt(&mut upstream).await?;
    downstream.write_all(&answer).await?;
    let downstream = acceptor.accept(downstream).await?;
    let upstream = connector.connect(ServerName::try_from("lucid")?, upstream).await?;
    let (from_client, to_client) = tokio::io::split(downstream);
    let (from_server, to_server) = tokio::io::split(upstream);
    tokio::select! {
        done = carry(from_client, to_server, Some(sent)) => done,
        done = carry(from_server, to_client, None) => done,
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut copy: Option<&mut Vec<u8>>,
) -> Result<()> {
    let mut bytes = vec![0; 32 * 1024];
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        if let Some(copy) = copy.as_mut().filter(|copy| copy.len() + read <= MOST) {
            copy.extend_from_slice(&bytes[..read]);
        }
        to.write_all(&bytes[..read]).await?;
        to.flush().await?;
    }
}

/// One TPKT (RFC 1006): its length is in the third and fourth byte, big endian.
async fn tpkt(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).await?;
    let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]])).max(4);
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[4..]).await?;
    Ok(bytes)
}

/// Writes the files of one connection.
fn keep(out: &Path, name: &str, sent: &[u8]) -> Result<()> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut channels = BTreeMap::from([(IO, "share_control".to_owned())]);
    let mut finalized = false;
    let mut rest = sent;
    while let Some((frame, after)) = next(rest) {
        rest = after;
        if frame[0] == 0x30 {
            files.entry("credssp".into()).or_default().extend_from_slice(frame);
            continue;
        }
        files.entry("connection".into()).or_default().extend_from_slice(frame);
        if finalized {
            files.entry("session".into()).or_default().extend_from_slice(frame);
        }
        if frame[0] != 3 {
            piece(frame, files.entry("input".into()).or_default());
        } else if let Ok(X224(McsMessage::SendDataRequest(data))) = decode::<X224<McsMessage<'_>>>(frame) {
            finalized |= data.channel_id == IO && is_font_list(&data.user_data);
            if let Some(channel) = channels.get(&data.channel_id) {
                piece(&data.user_data, files.entry(channel.clone()).or_default());
            }
        } else if let Ok(initial) = decode::<X224<X224Data<'_>>>(frame)
            .and_then(|x224| decode::<ConnectInitial>(x224.0.data.as_ref()))
        {
            // The host numbers them in this order, after its own.
            let names = initial.conference_create_request.into_gcc_blocks().network;
            for (channel, id) in names.iter().flat_map(|network| &network.channels).zip(1004..) {
                let door = match channel.name.as_str() {
                    Some("cliprdr") => "clipboard",
                    Some("drdynvc") => "dynamic_channels",
                    Some("rdpsnd") => "sound",
                    _ => continue,
                };
                channels.insert(id, door.to_owned());
            }
        }
    }
    for (door, bytes) in files {
        let folder = out.join(door);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// The last message of a handshake (MS-RDPBCGR 2.2.1.18).
fn is_font_list(data: &[u8]) -> bool {
    matches!(
        decode::<ShareControlHeader>(data).map(|header| header.share_control_pdu),
        Ok(ShareControlPdu::Data(ShareDataHeader { share_data_pdu: ShareDataPdu::FontList(_), .. }))
    )
}

/// The first frame: a TPKT, a fast-path PDU (MS-RDPBCGR 2.2.8.1.2), or a TSRequest (DER).
fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = match *bytes.first()? {
        3 => usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        0x30 => match *bytes.get(1)? {
            short @ ..=0x7f => 2 + usize::from(short),
            0x81 => 3 + usize::from(*bytes.get(2)?),
            _ => 4 + usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        },
        _ => match *bytes.get(1)? {
            short @ ..=0x7f => usize::from(short),
            long => usize::from(u16::from_be_bytes([long & 0x7f, *bytes.get(2)?])),
        },
    };
    bytes.split_at_checked(length.max(1))
}

fn piece(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&bytes[..length.into()]);
}

/// Takes this host's certificate and no other.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if *certificate == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate than the state directory's".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
