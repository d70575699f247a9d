//! Is the system that was just started well? Each check has a name, and goes on being asked until it passes or the time for
//! all of them is over; then its reason is kept.

use std::{
    fs,
    io::{Read as _, Seek as _, Write as _},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use lucid_ipc::{
    connect,
    session::{TestPart, TestRequest, recordings_client::RecordingsClient},
    tonic::Code,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    },
};

use crate::{
    before::{Before, Part},
    boot::IN_MEMORY,
};

/// One attempt of a check may take so long.
const ATTEMPT: Duration = Duration::from_secs(15);
/// A recorder answers within this time, which is shorter, so that what it does not do has a name.
const ANSWER: Duration = Duration::from_secs(12);
/// So often is the recorder of a system asked that is about to be left: what fails once excuses nobody.
const ASKED: usize = 3;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);
/// A reason has at most so many characters.
const MAX_REASON: usize = 400;

/// Something that a system has to do before it is kept.
#[async_trait]
pub trait Check: Send + Sync {
    /// In a few words, for people.
    fn name(&self) -> &'static str;
    /// Tries it once. What the old system could not do either, the new one is not held to.
    ///
    /// # Errors
    /// In words, why it is not so.
    async fn check(&self, before: &Before) -> Result<(), String>;
    /// Notes how it is in the system that runs, which is about to be left for a new one.
    async fn note(&self, _before: &mut Before) {}
}

/// A check that did not pass in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {reason}")]
pub struct Unwell {
    /// Its name.
    pub check: &'static str,
    /// Why, the last time it was tried.
    pub reason: String,
}

/// Tries all checks, in order, until each has passed.
///
/// # Errors
/// The first check that has not passed when `within` is over.
pub async fn pass(checks: &[Box<dyn Check>], before: &Before, within: Duration) -> Result<(), Unwell> {
    let end = Instant::now() + within;
    for check in checks {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let reason = match timeout(ATTEMPT.min(left), check.check(before)).await {
                Ok(Ok(())) => break,
                Ok(Err(reason)) => reason.chars().take(MAX_REASON).collect(),
                Err(_) => "it gave no answer".to_owned(),
            };
            tracing::info!("not yet: {}: {reason}", check.name());
            if Instant::now() + PAUSE >= end {
                return Err(Unwell { check: check.name(), reason });
            }
            sleep(PAUSE).await;
        }
        tracing::info!("passed: {}", check.name());
    }
    Ok(())
}

/// The data partition can be written, and gives back what was written.
#[derive(Clone, Debug)]
pub struct Data {
    /// A directory on it.
    pub dir: PathBuf,
    /// Whether it is on it, and not in memory in its place.
    pub kept: bool,
}

#[async_trait]
impl Check for Data {
    fn name(&self) -> &'static str {
        "the data partition is writable"
    }

    async fn check(&self, _: &Before) -> Result<(), String> {
        if !self.kept {
            return Err(IN_MEMORY.to_owned());
        }
        let path = self.dir.join("gate");
        let written = tokio::task::spawn_blocking(move || {
            let options =
                fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
            let mut file = options?;
            let (wanted, mut found) = ([0x5a; 4096], Vec::new());
            file.write_all(&wanted)?;
            file.sync_all()?;
            file.rewind()?;
            file.take(8192).read_to_end(&mut found)?;
            fs::remove_file(&path)?;
            Ok::<_, std::io::Error>(found == wanted)
        });
        match written.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("it gives back something else than was written".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The RDP host answers on the loopback: its protocol's first message, then a TLS handshake to the end.
#[derive(Clone, Copy, Debug)]
pub struct Rdp {
    /// Its port.
    pub port: u16,
}

/// A connection request (X.224 in TPKT) that asks for TLS or NLA: [MS-RDPBCGR] 2.2.1.1.
const REQUEST: [u8; 19] =
    [3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, /* RDP_NEG_REQ */ 1, 0, 8, 0, 3, 0, 0, 0];

#[async_trait]
impl Check for Rdp {
    fn name(&self) -> &'static str {
        "the RDP host answers"
    }

    async fn check(&self, _: &Before) -> Result<(), String> {
        let words = |error: std::io::Error| error.to_string();
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.map_err(words)?;
        socket.write_all(&REQUEST).await.map_err(words)?;
        // A connection confirm with RDP_NEG_RSP: [MS-RDPBCGR] 2.2.1.2.
        let mut answer = [0; 19];
        socket.read_exact(&mut answer).await.map_err(words)?;
        if answer[..4] != [3, 0, 0, 19] || answer[5] != 0xd0 || answer[11] != 2 {
            return Err(format!(
                "its answer to a connection request is another one ({})",
                hex::encode(answer)
            ));
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let mut socket = TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(words)?;
        // Whether this end says goodbye says nothing of the other one.
        if let Err(error) = socket.shutdown().await {
            tracing::debug!("closing the RDP connection: {error}");
        }
        Ok(())
    }
}

/// Takes any certificate: whoever listens on the device's own loopback is the one that is looked at. Signatures are checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, tokio_rustls::rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The recorder seals a record of a test, on the way of every recording, and what it has written verifies.
#[derive(Clone, Debug)]
pub struct Records {
    /// Its socket.
    pub socket: PathBuf,
}

impl Records {
    /// Has it make one.
    async fn make(&self) -> Result<(), (Part, String)> {
        let asked = async {
            let channel = connect(&self.socket).await.map_err(|error| (Part::Answer, error.to_string()))?;
            let answer = RecordingsClient::new(channel).test(TestRequest {}).await;
            let answer = answer.map_err(|status| match status.code() {
                // One before this one hangs.
                Code::ResourceExhausted => (Part::Writing, status.message().to_owned()),
                _ => (Part::Answer, status.to_string()),
            })?;
            let answer = answer.into_inner();
            let part = match TestPart::try_from(answer.failed) {
                Ok(TestPart::Unspecified) => return Ok(()),
                Ok(TestPart::Room) => Part::Room,
                Ok(TestPart::Writing) => Part::Writing,
                Ok(TestPart::Proof) => Part::Proof,
                Ok(TestPart::Removal) => Part::Removal,
                Err(_) => return Err((Part::Answer, format!("it names part {}", answer.failed))),
            };
            Err((part, answer.why))
        };
        let silent = || (Part::Answer, format!("it gave none within {} s", ANSWER.as_secs()));
        timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(silent()))
    }
}

#[async_trait]
impl Check for Records {
    fn name(&self) -> &'static str {
        "the recorder seals a test record"
    }

    async fn check(&self, before: &Before) -> Result<(), String> {
        match self.make().await {
            Err((part, why)) if before.excuses(part) => {
                tracing::warn!(
                    "a test record: {}: {why}; the old system could not do that either",
                    part.words()
                );
                Ok(())
            }
            Err((part, why)) => Err(format!("{}: {why}", part.words())),
            Ok(()) => Ok(()),
        }
    }

    async fn note(&self, before: &mut Before) {
        for again in (0..ASKED).rev() {
            let Err((part, why)) = self.make().await else {
                before.recorder = None;
                return;
            };
            tracing::warn!("the recorder of this system makes no test record: {}: {why}", part.words());
            before.recorder = Some(part);
            if again > 0 {
                sleep(PAUSE).await;
            }
        }
    }
}

/// All services have started: somebody who waits for that has left a file (`lucid-updated settled FILE`).
#[derive(Clone, Debug)]
pub struct Settled {
    /// The file, which goes with the boot.
    pub path: PathBuf,
}

#[async_trait]
impl Check for Settled {
    fn name(&self) -> &'static str {
        "all services have started"
    }

    async fn check(&self, before: &Before) -> Result<(), String> {
        match fs::metadata(&self.path) {
            Ok(_) => Ok(()),
            Err(_) if before.excuses_unsettled() => {
                tracing::warn!(
                    "not all services have started; the recorder of the old system did not answer either"
                );
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err("a service that has to be up is not; the journal of that start says which".to_owned())
            }
            Err(error) => Err(format!("{}: {error}", self.path.display())),
        }
    }
}
