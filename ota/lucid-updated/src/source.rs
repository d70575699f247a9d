//! Where releases come from: a web server, or a folder (a USB stick). Nothing of a source is trusted; here it is bounded in
//! bytes and time, and what is wrong with it gets a name.
//!
//! A source has two folders, `metadata` and `targets`, and flat names in them.

use std::{
    fmt, io,
    io::{Read as _, Seek as _, SeekFrom},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags, openat};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};
use url::Url;

use crate::error::{Error, Result};

/// A folder of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// What is signed.
    Metadata,
    /// What it names.
    Targets,
}

impl Folder {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Targets => "targets",
        }
    }
}

/// Why a source did not give a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failed {
    /// It does not have it, and says so.
    #[error("the source does not have {name}")]
    Missing {
        /// The file.
        name: String,
    },
    /// It wants somebody else to be asked. That is never done.
    #[error(
        "{name}: the server redirects to {to}, and redirects are not followed: give that address as the source"
    )]
    Redirect {
        /// The file.
        name: String,
        /// To where.
        to: String,
    },
    /// Another answer of HTTP.
    #[error("{name}: the server answers {status}")]
    Status {
        /// The file.
        name: String,
        /// Its number.
        status: u16,
    },
    /// More bytes than there may be.
    #[error("{name} has more than {cap} bytes, which is more than it may have: nothing of it is used")]
    Endless {
        /// The file.
        name: String,
        /// What it may have.
        cap: u64,
    },
    /// Fewer bytes than were promised.
    #[error("{name} ends after {had} bytes, {wanted} were due")]
    Short {
        /// The file.
        name: String,
        /// How many came.
        had: u64,
        /// How many had to.
        wanted: u64,
    },
    /// It holds the device up.
    #[error("{name}: {what}: the source is too slow, or holds the device up on purpose")]
    Slow {
        /// The file.
        name: String,
        /// What took too long.
        what: &'static str,
    },
    /// An answer that does not fit the question.
    #[error("{name}: the server's answer cannot be used: {why}")]
    Answer {
        /// The file.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A name that is never asked for.
    #[error("{name:?} is no file of a release")]
    Name {
        /// The name.
        name: String,
    },
    /// The network, or the disk of a folder.
    #[error("{name}: {doing}: {why}")]
    Broken {
        /// The file.
        name: String,
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        why: String,
    },
}

/// What may take how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// From the question to the head of the answer.
    pub first: Duration,
    /// Without a byte.
    pub stall: Duration,
    /// A whole file (metadata, an index).
    pub whole: Duration,
    /// In each such time of waiting for bytes
    pub window: Duration,
    /// so many bytes have to come.
    pub least: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            whole: Duration::from_secs(60),
            window: Duration::from_secs(60),
            least: 60 * 4096,
        }
    }
}

/// A stretch of a file, as it comes: exactly its bytes, or an error.
#[derive(Debug)]
pub struct Stretch {
    pieces: mpsc::Receiver<Result<Bytes, Failed>>,
    buffer: BytesMut,
    name: String,
}

impl Stretch {
    /// A stretch of the file of that name, and the end into which a source puts what comes.
    #[must_use]
    pub fn new(name: String) -> (mpsc::Sender<Result<Bytes, Failed>>, Self) {
        let (give, pieces) = mpsc::channel(4);
        (give, Self { pieces, buffer: BytesMut::new(), name })
    }

    /// The next so many bytes.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn take(&mut self, count: usize) -> Result<Bytes, Failed> {
        while self.buffer.len() < count {
            match self.pieces.recv().await {
                Some(piece) => self.buffer.extend_from_slice(&piece?),
                None => {
                    let (name, had) = (self.name.clone(), self.buffer.len() as u64);
                    return Err(Failed::Short { name, had, wanted: count as u64 });
                }
            }
        }
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Sees to it that nothing more comes.
    ///
    /// # Errors
    /// When something does, or the source fails after all.
    pub async fn end(mut self) -> Result<(), Failed> {
        if !self.buffer.is_empty() {
            return Err(Failed::Endless { name: self.name, cap: 0 });
        }
        match self.pieces.recv().await {
            None => Ok(()),
            Some(Ok(_)) => Err(Failed::Endless { name: self.name, cap: 0 }),
            Some(Err(error)) => Err(error),
        }
    }
}

/// Somebody who has releases.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// What people call it.
    fn name(&self) -> String;
    /// Whether fetching from it costs where the network does.
    fn costs(&self) -> bool {
        true
    }
    /// A whole small file.
    ///
    /// # Errors
    /// When it has more than `cap` bytes, or is not had.
    async fn whole(&self, folder: Folder, name: &str, cap: u64) -> Result<Bytes, Failed>;
    /// The bytes of a target from `from` up to before `to`.
    ///
    /// # Errors
    /// When the source does not begin to give them; what fails later comes with the bytes.
    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed>;
}

/// What is a flat name: letters, digits, `.`, `-` and `_`, not beginning with a dot, at most 160 bytes.
#[must_use]
pub fn flat(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=160).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(good)
}

/// An error unless it is a flat name.
pub(crate) fn checked(name: &str) -> Result<(), Failed> {
    if flat(name) { Ok(()) } else { Err(Failed::Name { name: name.chars().take(80).collect() }) }
}

/// The source at an address: `http://…`, `https://…`, or a folder. `authorities` are certificates in PEM to trust in place
/// of the public ones.
///
/// # Errors
/// When the address is none.
pub fn at(address: &str, authorities: Option<&[u8]>, limits: Limits) -> Result<Arc<dyn Source>> {
    if address.contains("://") {
        return Ok(Arc::new(Web::new(address, authorities, limits)?));
    }
    Ok(Arc::new(Dir::new(Path::new(address).to_owned())))
}

/// A folder.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// That folder, which need not be there yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Opens a file below it. No link is followed below the folder, and nothing but a regular file is opened.
    fn open(&self, folder: Folder, name: &str) -> Result<std::fs::File, Failed> {
        checked(name)?;
        let broken = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOENT => Failed::Missing { name: name.to_owned() },
            error => Failed::Broken { name: name.to_owned(), doing: "opening it", why: error.to_string() },
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let top: OwnedFd =
            rustix::fs::open(&self.0, flags | OFlags::DIRECTORY, Mode::empty()).map_err(|error| {
                // A stick that was pulled out is not a file that is not there.
                Failed::Broken {
                    name: name.to_owned(),
                    doing: "opening the source's folder",
                    why: error.to_string(),
                }
            })?;
        let middle = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let middle = openat(&top, folder.name(), middle, Mode::empty()).map_err(broken)?;
        let file = openat(&middle, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(broken)?;
        let file = std::fs::File::from(file);
        match file.metadata() {
            Ok(about) if about.is_file() => Ok(file),
            Ok(_) => Err(Failed::Answer { name: name.to_owned(), why: "it is no regular file".to_owned() }),
            Err(error) => Err(disk(name, error)),
        }
    }
}

fn disk(name: &str, error: io::Error) -> Failed {
    Failed::Broken { name: name.to_owned(), doing: "reading it", why: error.to_string() }
}

#[async_trait]
impl Source for Dir {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn costs(&self) -> bool {
        false
    }

    async fn whole(&self, folder: Folder, name: &str, cap: u64) -> Result<Bytes, Failed> {
        let (dir, owned) = (self.clone(), name.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let file = dir.open(folder, &owned)?;
            file.take(cap.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| disk(&owned, error))?;
            if bytes.len() as u64 > cap {
                return Err(Failed::Endless { name: owned, cap });
            }
            Ok(Bytes::from(bytes))
        });
        read.await.map_err(|error| disk(name, io::Error::other(error)))?
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        let mut file = self.open(Folder::Targets, name)?;
        let (give, stretch) = Stretch::new(name.to_owned());
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut left = to.saturating_sub(from);
            let mut piece = vec![0; 64 << 10];
            if let Err(error) = file.seek(SeekFrom::Start(from)) {
                // Whoever does not want it any more has gone.
                let _ = give.blocking_send(Err(disk(&name, error)));
                return;
            }
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                let sent = match file.read(&mut piece[..most]) {
                    Ok(0) => {
                        let had = to - from - left;
                        let _ = give.blocking_send(Err(Failed::Short { name, had, wanted: to - from }));
                        return;
                    }
                    Ok(count) => {
                        left -= count as u64;
                        give.blocking_send(Ok(Bytes::copy_from_slice(&piece[..count])))
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        let _ = give.blocking_send(Err(disk(&name, error)));
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(stretch)
    }
}

/// What is said to a web server.
type Asking = SendRequest<Empty<Bytes>>;

/// A web server. One connection at a time is kept and used again.
pub struct Web {
    base: Url,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    limits: Limits,
    idle: Arc<Mutex<Option<Asking>>>,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Web").field(&self.base.as_str()).finish()
    }
}

/// A socket, with TLS or without.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Web {
    /// The server at this address.
    ///
    /// # Errors
    /// When the address is no plain `http` or `https` one, or the certificates are none.
    pub fn new(address: &str, authorities: Option<&[u8]>, limits: Limits) -> Result<Self> {
        let wrong = |why: String| Error::Address { text: address.to_owned(), why };
        let mut base = Url::parse(address).map_err(|error| wrong(error.to_string()))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(wrong("names and passwords have no place in it".to_owned()));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(wrong("it has a part after ? or #".to_owned()));
        }
        let tls = match base.scheme() {
            "http" => None,
            "https" => Some(connector(authorities).map_err(wrong)?),
            other => return Err(wrong(format!("{other}: is not spoken here; http: and https: are"))),
        };
        let host = match base.host() {
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            None => return Err(wrong("it names no host".to_owned())),
        };
        let port = base.port_or_known_default().ok_or_else(|| wrong("it names no port".to_owned()))?;
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self { base, host, port, tls, limits, idle: Arc::default() })
    }

    fn slow(name: &str, what: &'static str) -> Failed {
        Failed::Slow { name: name.to_owned(), what }
    }

    async fn connect(&self, name: &str) -> Result<Asking, Failed> {
        let broken = |doing: &'static str, why: String| Failed::Broken { name: name.to_owned(), doing, why };
        let connecting = async {
            let socket = TcpStream::connect((self.host.as_str(), self.port)).await;
            let socket = socket.map_err(|error| broken("connecting", error.to_string()))?;
            let socket: Box<dyn Wire> = match &self.tls {
                None => Box::new(socket),
                Some(tls) => {
                    let server = ServerName::try_from(self.host.clone());
                    let server = server.map_err(|error| broken("connecting", error.to_string()))?;
                    let socket = tls.connect(server, socket).await;
                    Box::new(socket.map_err(|error| broken("the TLS handshake", error.to_string()))?)
                }
            };
            let mut builder = http1::Builder::new();
            builder.max_buf_size(64 << 10).max_headers(64);
            let (asking, connection) = builder
                .handshake::<_, Empty<Bytes>>(TokioIo::new(socket))
                .await
                .map_err(|error| broken("connecting", error.to_string()))?;
            tokio::spawn(async move {
                // What goes wrong is seen by whoever asked.
                if let Err(error) = connection.await {
                    tracing::debug!("a connection ended: {error}");
                }
            });
            Ok::<Asking, Failed>(asking)
        };
        timeout(self.limits.connect, connecting)
            .await
            .map_err(|_| Self::slow(name, "connecting takes too long"))?
    }

    /// The head of an answer, with the connection on which its body comes.
    async fn ask(
        &self,
        folder: Folder,
        name: &str,
        range: Option<(u64, u64)>,
    ) -> Result<(Response<Incoming>, Asking), Failed> {
        checked(name)?;
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut asking) = kept.filter(SendRequest::is_ready) {
            // A connection that was kept may have been closed meanwhile, which says nothing about the file.
            if let Ok(answer) = self.ask_on(&mut asking, folder, name, range).await {
                return Ok((answer, asking));
            }
        }
        let mut asking = self.connect(name).await?;
        let answer = self.ask_on(&mut asking, folder, name, range).await?;
        Ok((answer, asking))
    }

    async fn ask_on(
        &self,
        asking: &mut Asking,
        folder: Folder,
        name: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Response<Incoming>, Failed> {
        let broken = |why: String| Failed::Broken { name: name.to_owned(), doing: "asking", why };
        let host = match (self.base.host_str(), self.base.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(format!("{}{}/{name}", self.base.path(), folder.name()))
            .header(header::HOST, host)
            .header(header::USER_AGENT, "lucid-updated")
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some((from, to)) = range {
            request = request.header(header::RANGE, format!("bytes={from}-{}", to.saturating_sub(1)));
        }
        let request = request.body(Empty::new()).map_err(|error| broken(error.to_string()))?;
        let answer = timeout(self.limits.first, asking.send_request(request)).await;
        answer.map_err(|_| Self::slow(name, "no answer comes"))?.map_err(|error| broken(error.to_string()))
    }

    /// Refuses every answer but the one that was asked for.
    fn check(
        answer: &Response<Incoming>,
        name: &str,
        range: Option<(u64, u64)>,
        cap: u64,
    ) -> Result<(), Failed> {
        let wrong = |why: String| Err(Failed::Answer { name: name.to_owned(), why });
        let text = |field: header::HeaderName| {
            answer.headers().get(field).map(|value| String::from_utf8_lossy(value.as_bytes()))
        };
        let shown = |text: &str| text.chars().take(200).collect::<String>();
        match (answer.status(), range) {
            (StatusCode::OK, None) | (StatusCode::PARTIAL_CONTENT, Some(_)) => {}
            (StatusCode::OK, Some(_)) => return wrong("it does not know ranges".to_owned()),
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => {
                return Err(Failed::Missing { name: name.to_owned() });
            }
            (status, _) if status.is_redirection() => {
                let to = text(header::LOCATION).map_or_else(|| "nowhere".to_owned(), |to| shown(&to));
                return Err(Failed::Redirect { name: name.to_owned(), to });
            }
            (status, _) => return Err(Failed::Status { name: name.to_owned(), status: status.as_u16() }),
        }
        if let Some(coding) = text(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
            return wrong(format!("it is packed ({}), which was not asked for", shown(&coding)));
        }
        if let Some((from, to)) = range {
            let wanted = format!("bytes {from}-{}/", to.saturating_sub(1));
            let given = text(header::CONTENT_RANGE).unwrap_or_default();
            if !given.starts_with(&wanted) {
                return wrong(format!("it gives another range than was asked for ({})", shown(&given)));
            }
        }
        match text(header::CONTENT_LENGTH).map(|length| length.parse::<u64>()) {
            Some(Ok(length)) if length > cap => Err(Failed::Endless { name: name.to_owned(), cap }),
            Some(Ok(length)) if range.is_some() && length < cap => {
                Err(Failed::Short { name: name.to_owned(), had: length, wanted: cap })
            }
            Some(Err(_)) => wrong("its length is no number".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Who is trusted to be a host: the given certificates, or the public authorities.
fn connector(authorities: Option<&[u8]>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| format!("the certificates to trust: {error}"))?;
                roots.add(certificate).map_err(|error| format!("the certificates to trust: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the file of certificates to trust holds none".to_owned());
            }
        }
    }
    // Other crates bring other providers along, so that there is no default one.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Holds a body to its pace: only the time in which bytes were waited for counts.
struct Pace {
    limits: Limits,
    waited: Duration,
    came: u64,
}

impl Pace {
    fn new(limits: Limits) -> Self {
        Self { limits, waited: Duration::ZERO, came: 0 }
    }

    /// The next piece of a body; none at its end.
    async fn next(&mut self, body: &mut Incoming, name: &str, had: u64) -> Result<Option<Bytes>, Failed> {
        loop {
            let since = Instant::now();
            let frame = timeout(self.limits.stall, body.frame()).await;
            self.waited += since.elapsed();
            let frame = match frame {
                Err(_) => return Err(Web::slow(name, "no bytes come any more")),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) if broke_off(&error) => {
                    return Err(Failed::Short { name: name.to_owned(), had, wanted: had + 1 });
                }
                Ok(Some(Err(error))) => {
                    let why = error.to_string();
                    return Err(Failed::Broken { name: name.to_owned(), doing: "reading the answer", why });
                }
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers are none of ours.
            let piece = frame.into_data().unwrap_or_default();
            self.came += piece.len() as u64;
            if self.waited >= self.limits.window {
                if self.came < self.limits.least {
                    return Err(Web::slow(name, "fewer bytes come than have to"));
                }
                (self.waited, self.came) = (Duration::ZERO, 0);
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

/// Whether an answer ended before it should have.
fn broke_off(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    error.is_incomplete_message() || cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof)
}

#[async_trait]
impl Source for Web {
    fn name(&self) -> String {
        self.base.to_string()
    }

    async fn whole(&self, folder: Folder, name: &str, cap: u64) -> Result<Bytes, Failed> {
        let fetching = async {
            let (answer, asking) = self.ask(folder, name, None).await?;
            Self::check(&answer, name, None, cap)?;
            let mut body = answer.into_body();
            let (mut pace, mut bytes) = (Pace::new(self.limits), BytesMut::new());
            while let Some(piece) = pace.next(&mut body, name, bytes.len() as u64).await? {
                if bytes.len() as u64 + piece.len() as u64 > cap {
                    return Err(Failed::Endless { name: name.to_owned(), cap });
                }
                bytes.extend_from_slice(&piece);
            }
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(asking);
            Ok(bytes.freeze())
        };
        let whole = timeout(self.limits.whole, fetching).await;
        whole.map_err(|_| Self::slow(name, "it takes too long as a whole"))?
    }

    async fn range(&self, name: &str, from: u64, to: u64) -> Result<Stretch, Failed> {
        let wanted = to.saturating_sub(from);
        let (answer, asking) = self.ask(Folder::Targets, name, Some((from, to))).await?;
        Self::check(&answer, name, Some((from, to)), wanted)?;
        let (give, stretch) = Stretch::new(name.to_owned());
        let (name, idle, limits) = (name.to_owned(), self.idle.clone(), self.limits);
        tokio::spawn(async move {
            let (mut body, mut pace, mut had) = (answer.into_body(), Pace::new(limits), 0);
            loop {
                let item = match pace.next(&mut body, &name, had).await {
                    Ok(Some(piece)) => {
                        had += piece.len() as u64;
                        if had <= wanted {
                            Ok(piece)
                        } else {
                            Err(Failed::Endless { name: name.clone(), cap: wanted })
                        }
                    }
                    Ok(None) if had == wanted => {
                        *idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(asking);
                        return;
                    }
                    Ok(None) | Err(Failed::Short { .. }) => {
                        Err(Failed::Short { name: name.clone(), had, wanted })
                    }
                    Err(error) => Err(error),
                };
                let over = item.is_err();
                // Nobody may want it any more.
                if give.send(item).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(stretch)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
        time::sleep,
    };

    use super::*;

    /// A server at the other end of a pipe, which gives so many bytes after each so many seconds for ever. Without a socket the
    /// clock of the test goes on only when everybody waits for it.
    async fn dripping(head: &'static str, piece: usize, every: u64) -> Web {
        async fn serve(mut pipe: DuplexStream, head: &str, piece: usize, every: u64) {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(pipe.read_u8().await.unwrap());
            }
            let mut sent = pipe.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sleep(Duration::from_secs(every)).await;
                sent = pipe.write_all(&vec![b' '; piece]).await;
            }
        }
        let (here, there) = tokio::io::duplex(64 << 10);
        tokio::spawn(serve(there, head, piece, every));
        let builder = http1::Builder::new();
        let (mut asking, connection) =
            builder.handshake::<_, Empty<Bytes>>(TokioIo::new(here)).await.unwrap();
        tokio::spawn(connection);
        asking.ready().await.unwrap();
        let web = Web::new("http://updates.invalid/", None, Limits::default()).unwrap();
        *web.idle.lock().unwrap() = Some(asking);
        web
    }

    const RANGE: &str = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-599999/600000\r\nContent-Length: 600000\r\n\r\n";

    async fn stretch(web: &Web) -> Result<Bytes, Failed> {
        web.range("a.chunks", 0, 600_000).await?.take(600_000).await
    }

    // These are seconds of a clock that does not run by itself, and no measurement.
    #[tokio::test(start_paused = true)]
    async fn attack_slow_retrieval_a_server_that_drips_is_given_up() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n";
        // Each gives something before it has been silent for too long.
        for (piece, every) in [(1, 1), (1, 29), (100, 1)] {
            let (web, since) = (dripping(head, piece, every).await, Instant::now());
            let failed = web.whole(Folder::Metadata, "timestamp.json", 16_384).await.unwrap_err();
            assert!(matches!(failed, Failed::Slow { .. }), "{failed}");
            assert!(failed.to_string().contains("the source is too slow, or holds the device up on purpose"));
            assert!(
                since.elapsed() < Duration::from_secs(61),
                "{piece} each {every} s: {:?}",
                since.elapsed()
            );
        }
        for (piece, every) in [(1, 1), (1, 29), (4000, 1)] {
            let (web, since) = (dripping(RANGE, piece, every).await, Instant::now());
            let failed = stretch(&web).await.unwrap_err();
            assert!(matches!(failed, Failed::Slow { what: "fewer bytes come than have to", .. }), "{failed}");
            assert!(
                since.elapsed() < Duration::from_secs(90),
                "{piece} each {every} s: {:?}",
                since.elapsed()
            );
        }
        // Silence is given up sooner.
        let web = dripping(RANGE, 1, 31).await;
        let failed = stretch(&web).await.unwrap_err();
        assert!(matches!(failed, Failed::Slow { what: "no bytes come any more", .. }), "{failed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_slow_and_steady_is_waited_for() {
        let (web, since) = (dripping(RANGE, 5000, 1).await, Instant::now());
        assert_eq!(stretch(&web).await.unwrap().len(), 600_000);
        // Which is longer than the time in which the pace is taken, once and again.
        assert_eq!(since.elapsed().as_secs(), 120);
    }

    #[test]
    fn names_are_flat() {
        for name in ["timestamp.json", "1.root.json", "abc.lucid-qemu-arm64-1.2.3.index"] {
            assert!(flat(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "../a", "a\\b", "ä", "a b", &"a".repeat(161)] {
            assert!(!flat(name), "{name}");
        }
    }

    #[test]
    fn an_address_says_nothing_but_where() {
        for address in ["ftp://a/", "http://u:p@a/", "http://a/?b", "http://a/#b", "https://"] {
            assert!(
                matches!(Web::new(address, None, Limits::default()), Err(Error::Address { .. })),
                "{address}"
            );
        }
        let web = Web::new("https://updates.example/lucid", None, Limits::default()).unwrap();
        assert_eq!(web.name(), "https://updates.example/lucid/");
        assert_eq!((web.host.as_str(), web.port, web.tls.is_some()), ("updates.example", 443, true));
    }
}
