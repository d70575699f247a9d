//! The host's TLS identity: one self-signed certificate, made at the first start and kept.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use zeroize::Zeroizing;

use crate::Error;

const KEY: &str = "tls-key.pem";
const CERT: &str = "tls-cert.pem";

/// A TLS server that is ready to accept, and what clients and CredSSP need to know of it.
pub(crate) struct Identity {
    /// Accepts TLS 1.2 and 1.3.
    pub(crate) acceptor: TlsAcceptor,
    /// SHA-256 over the certificate's DER form, upper-case hexadecimal with colons.
    pub(crate) fingerprint: String,
    /// The key's `subjectPublicKey` bits, to which NLA binds itself (MS-CSSP 3.1.5, `pubKeyAuth`).
    pub(crate) public_key: Vec<u8>,
}

impl Identity {
    /// Loads the identity from `state`, or makes one and keeps it there. When it cannot be kept (a
    /// full disk) the host still starts, says so in the log, and has a new fingerprint next time.
    ///
    /// # Errors
    /// When the files exist but cannot be read or are no valid pair.
    pub(crate) fn load_or_make(state: &Path, name: &str) -> Result<Identity, Error> {
        let tls = |what: String| Error::Tls { dir: state.to_owned(), what };
        let key_path = state.join(KEY);
        let pem = match fs::read_to_string(&key_path) {
            Ok(text) => Some(Zeroizing::new(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(Error::File { doing: "reading the TLS key", path: key_path, source }),
        };
        let (key, certificate) = match pem {
            Some(pem) => {
                let key = rcgen::KeyPair::from_pem(&pem).map_err(|e| tls(format!("{KEY}: {e}")))?;
                let cert_path = state.join(CERT);
                let text = fs::read(&cert_path).map_err(|source| Error::File {
                    doing: "reading the TLS certificate",
                    path: cert_path,
                    source,
                })?;
                let certificate = CertificateDer::from_pem_slice(&text)
                    .map_err(|_| tls(format!("{CERT} is no PEM certificate")))?;
                (key, certificate)
            }
            None => {
                let (key, certificate) = make(name).map_err(|e| tls(e.to_string()))?;
                if let Err(e) = keep(state, &key, &certificate.pem()) {
                    tracing::error!(
                        "the new TLS key cannot be kept in {}: {e}; clients will see another fingerprint after the next start",
                        state.display()
                    );
                }
                (key, certificate.into())
            }
        };

        let fingerprint = ring::digest::digest(&ring::digest::SHA256, &certificate)
            .as_ref()
            .iter()
            .map(|b| format!("{b:02X}"))
            .collect::<Vec<_>>()
            .join(":");
        let public_key = key.public_key_raw().to_vec();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|b| b.with_no_client_auth().with_single_cert(vec![certificate], der))
            .map_err(|e| tls(e.to_string()))?;
        Ok(Identity { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint, public_key })
    }
}

fn make(name: &str) -> Result<(rcgen::KeyPair, rcgen::Certificate), rcgen::Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    // The device has no clock that could be trusted at its first start; clients pin the fingerprint.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    let certificate = params.self_signed(&key)?;
    Ok((key, certificate))
}

/// Writes the certificate, then the key: each under a temporary name, synced, then renamed, so that a
/// power cut leaves either a whole pair or no key (and thus a new pair at the next start).
fn keep(state: &Path, key: &rcgen::KeyPair, certificate: &str) -> io::Result<()> {
    fs::create_dir_all(state)?;
    let write = |name: &str, text: &str| -> io::Result<()> {
        let temporary = state.join(format!("{name}.new"));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(temporary, state.join(name))
    };
    write(CERT, certificate)?;
    write(KEY, &Zeroizing::new(key.serialize_pem()))?;
    fs::File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("lucid-rdp-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn the_fingerprint_survives_a_restart() {
        let dir = scratch("restart");
        let first = Identity::load_or_make(&dir, "lucid").unwrap();
        let second = Identity::load_or_make(&dir, "lucid").unwrap();
        assert_eq!(first.fingerprint, second.fingerprint);
        assert_eq!(first.public_key, second.public_key);
        assert_eq!(first.fingerprint.len(), 32 * 3 - 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_damaged_key_is_not_silently_replaced() {
        let dir = scratch("damaged");
        Identity::load_or_make(&dir, "lucid").unwrap();
        fs::write(dir.join(KEY), "not a key").unwrap();
        let error = Identity::load_or_make(&dir, "lucid").err().unwrap().to_string();
        assert!(error.contains("remove tls-key.pem"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_key_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = scratch("mode");
        Identity::load_or_make(&dir, "lucid").unwrap();
        assert_eq!(fs::metadata(dir.join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(dir).unwrap();
    }
}
