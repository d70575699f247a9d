//! `lucidctl recording play`: a page for a browser on this machine.
//!
//! Whoever opens the page must know a secret that is part of its address, name the server as the address does (so that no
//! name of a stranger that leads here is taken), and can only read. The page is made of three files that are part of this
//! program and loads nothing from elsewhere, which its Content-Security-Policy also says.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lucid_recording::rand_core::Rng as _;
use lucid_recording::verify::Options;
use lucid_recording::{OwnerSecret, PublicKey, Reader, Verdict, system_random, verify};
use lucid_replay::{Item, SEGMENT_US, Segments, survey, words};
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{must_be_readable, report};
use crate::report::json;
use crate::{Error, print};

const PAGE: &str = include_str!("play/page.html");
const SCRIPT: &str = include_str!("play/page.js");
const STYLE: &str = include_str!("play/page.css");
/// Nothing but the page's own files, and what its script makes of segments.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A browser opens six.
const MAX_CONNECTIONS: usize = 24;
/// A request's head has to come within so long, and in so many bytes.
const HEAD_TIME: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
const MAX_HEAD: usize = 16 << 10;
/// The most events that the page lists.
const MAX_EVENTS: usize = 200_000;
/// The most bytes of an event's words there.
const MAX_WORDS: usize = 400;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The recording's directory.
    directory: PathBuf,
    /// The file with the secret key of a recipient.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the page is to be had, on this machine alone; with port 0, at any port that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Opens no browser.
    #[arg(long)]
    no_browser: bool,
    /// The public key of the device that is to have signed, as 64 hexadecimal digits, known from elsewhere.
    #[arg(long, value_name = "HEX")]
    device: Option<PublicKey>,
}

/// An event, for the page.
#[derive(Serialize)]
struct Entry {
    at_us: u64,
    wall_ms: u64,
    kind: lucid_audit::Kind,
    outcome: lucid_audit::Outcome,
    text: String,
}

/// What the recording as a whole was found to be.
#[derive(Default)]
struct Found {
    /// How far it is, of a thousand.
    progress: u64,
    events: Vec<Entry>,
    /// All events that will be listed are.
    listed: bool,
    more_events: u64,
    /// The outcome in one word, and in all words.
    verdict: Option<(&'static str, String)>,
    problem: Option<String>,
}

/// What the page is told first, and again until everything is known.
#[derive(Serialize)]
struct About<'a> {
    session: String,
    user: &'a str,
    began_ms: u64,
    length_us: u64,
    segment_us: u64,
    segments: u64,
    gaps: &'a [lucid_recording::statement::Gap],
    ended: bool,
    events: bool,
    more_events: u64,
    progress: u64,
    verdict: Option<&'static str>,
    report: Option<&'a str>,
    problem: Option<&'a str>,
}

struct Server {
    reader: Arc<Reader>,
    /// Where the page is.
    host: String,
    token: String,
    segments: Arc<tokio::sync::Mutex<Segments>>,
    found: Mutex<Found>,
}

/// A panic elsewhere leaves what was found as it is.
fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the page until interrupted.
pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Error> {
    if !arguments.listen.ip().is_loopback() {
        return Err(Error::NotLoopback(arguments.listen));
    }
    let secret = OwnerSecret::read(&arguments.key)?;
    must_be_readable(&arguments.directory)?;
    let reader = Arc::new(Reader::open(&arguments.directory, &secret, arguments.device.as_ref())?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Write("to the kernel".into(), e))?;
    let listener = runtime
        .block_on(TcpListener::bind(arguments.listen))
        .and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = listener.map_err(|e| Error::Listen(arguments.listen, e))?;
    let server = Arc::new(Server::new(reader, address));
    let looked = Arc::clone(&server);
    let (directory, device) = (arguments.directory.clone(), arguments.device);
    // Ends with the program.
    std::thread::spawn(move || looked.look(&directory, &secret, device));

    let page = format!("http://{address}/{}/", server.token);
    let said = if as_json {
        json(&report::Playing { address: page.clone() })
    } else {
        format!("{page}\nis the page, for a browser on this machine. Ctrl-C ends it.\n")
    };
    print(&said)?;
    let door = if arguments.no_browser { None } else { Door::open(&page) };
    runtime.block_on(async {
        tokio::select! {
            () = serve(listener, server) => {}
            () = asked_to_end() => {}
        }
    });
    drop(door);
    // What is still being made is for nobody.
    runtime.shutdown_background();
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

/// Leads a browser to the page. Other users can see with what a program was started, so the address is not told that way
/// but stands in a file that only this user can read.
struct Door(PathBuf);

impl Door {
    fn open(page: &str) -> Option<Door> {
        let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if !has("DISPLAY") && !has("WAYLAND_DISPLAY") {
            return None;
        }
        let dir = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = dir.join(format!("lucidctl-play-{}.html", token()));
        let text = format!("<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={page}\">\n");
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        let door = Door(path);
        let mut opener = Command::new("xdg-open");
        opener.arg(&door.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Who has none opens the address that was printed.
        written.and_then(|()| opener.spawn()).ok().map(|mut opener| {
            std::thread::spawn(move || opener.wait());
            door
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// 128 random bits.
fn token() -> String {
    let mut bytes = [0; 16];
    system_random().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn serve(listener: TcpListener, server: Arc<Server>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for instance; it may pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let answer = |request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            };
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer));
            // A browser that goes away is no failure of ours.
            let _ = connection.await;
            drop(place);
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-security-policy", POLICY),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn refused(status: StatusCode, why: impl Into<String>) -> Answer {
    answer(status, "text/plain; charset=utf-8", why.into() + "\n")
}

impl Server {
    fn new(reader: Arc<Reader>, address: SocketAddr) -> Server {
        let segments = Arc::new(tokio::sync::Mutex::new(Segments::new(Arc::clone(&reader))));
        let (host, found) = (address.to_string(), Mutex::default());
        Server { reader, host, token: token(), segments, found }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let host = request.headers().get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        self.answer_to(request.method(), host, request.uri().path()).await
    }

    async fn answer_to(&self, method: &Method, host: &[u8], path: &str) -> Answer {
        // A stranger's name that leads to this machine is not ours.
        if host != self.host.as_bytes() {
            return refused(StatusCode::MISDIRECTED_REQUEST, "this is another host");
        }
        if method != Method::GET {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "there is nothing here but to read");
        }
        let (token, what) = path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or_default();
        if !bool::from(token.as_bytes().ct_eq(self.token.as_bytes())) {
            return refused(StatusCode::NOT_FOUND, "there is no such page");
        }
        match what {
            "" => answer(StatusCode::OK, "text/html; charset=utf-8", PAGE),
            "page.js" => answer(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            "page.css" => answer(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            "about" => answer(StatusCode::OK, "application/json", self.about()),
            "events" => answer(StatusCode::OK, "application/json", json(&lock(&self.found).events)),
            _ => match what.strip_prefix("film/").and_then(|number| number.parse().ok()) {
                Some(number) => self.segment(number).await,
                None => refused(StatusCode::NOT_FOUND, "there is no such page"),
            },
        }
    }

    fn about(&self) -> String {
        let opening = self.reader.opening();
        let user = opening.participants.iter().find(|one| one.role == "user");
        let found = lock(&self.found);
        json(&About {
            session: opening.session.to_string(),
            user: user.map(|user| user.name.as_str()).unwrap_or_default(),
            began_ms: opening.wall_ms,
            length_us: self.reader.mono_us(),
            segment_us: SEGMENT_US,
            segments: self.reader.mono_us().div_ceil(SEGMENT_US),
            gaps: self.reader.gaps(),
            ended: self.reader.ended(),
            events: found.listed,
            more_events: found.more_events,
            progress: found.progress,
            verdict: found.verdict.as_ref().map(|(word, _)| *word),
            report: found.verdict.as_ref().map(|(_, text)| text.as_str()),
            problem: found.problem.as_deref(),
        })
    }

    /// Who goes away while others are served waits no more.
    async fn segment(&self, number: u64) -> Answer {
        let mut segments = Arc::clone(&self.segments).lock_owned().await;
        let made = tokio::task::spawn_blocking(move || segments.make(number)).await;
        match made {
            Ok(Ok(segment)) => {
                let mut answer = answer(StatusCode::OK, "video/mp4", segment.bytes);
                if let Ok(codecs) = HeaderValue::from_str(&segment.codecs) {
                    answer.headers_mut().insert("x-codecs", codecs);
                }
                answer
            }
            Ok(Err(error @ lucid_replay::Error::Range { .. })) => {
                refused(StatusCode::NOT_FOUND, error.to_string())
            }
            Ok(Err(error)) => refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "this part could not be made"),
        }
    }

    /// Lists the events, and verifies everything.
    fn look(&self, directory: &Path, secret: &OwnerSecret, device: Option<PublicKey>) {
        let length_us = self.reader.mono_us().max(1);
        let looked = survey(&self.reader, 0, u64::MAX, &mut |moment| {
            let mut found = lock(&self.found);
            // Half of it is this, the other half the verification.
            found.progress = (moment.at_us.min(length_us) * 500) / length_us;
            if let Item::Event(event, _) = &moment.item {
                if found.events.len() >= MAX_EVENTS {
                    found.more_events += 1;
                    return Ok(());
                }
                let mut text = words::event(event);
                if text.len() > MAX_WORDS {
                    text = text.chars().take(MAX_WORDS / 4).chain(['…']).collect();
                }
                found.events.push(Entry {
                    at_us: moment.at_us,
                    wall_ms: event.wall_ms,
                    kind: event.kind,
                    outcome: event.outcome,
                    text,
                });
            }
            Ok(())
        });
        {
            let mut found = lock(&self.found);
            found.listed = true;
            found.problem = looked.err().map(|error| error.to_string());
        }
        let options = Options { owner: Some(secret), device };
        let verified = verify(directory, options, &mut |progress| {
            let of = u64::from(progress.of.unwrap_or(progress.chunks).max(1));
            lock(&self.found).progress = 500 + (u64::from(progress.chunks) * 500 / of).min(499);
        });
        let mut found = lock(&self.found);
        found.progress = 1000;
        match verified {
            Ok(verified) => {
                let word = match verified.verdict {
                    Verdict::Sound => "sound",
                    Verdict::Unfinished => "unfinished",
                    Verdict::Damaged => "damaged",
                };
                found.verdict = Some((word, report::verified(&verified)));
            }
            Err(error) => {
                found.problem.get_or_insert(error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests;
