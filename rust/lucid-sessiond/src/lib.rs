//! The controller of sessions, and their recorder.
//!
//! **What a session may do** is decided here, and by nobody else. Its life:
//!
//! ```text
//!              accepted by a key                     a stream breaks
//! prepared ─────────────────────▶ ╭─────────╮ ─────────────────────▶ ╭─────────╮
//!    │  on the screen             │ running │                        │ waiting │
//!    ├──────────────▶ asked ────▶ ╰─────────╯ ◀───────────────────── ╰─────────╯
//!    │                  │              │            resumed               │
//!    ▼ not in time      ▼ declined     ▼ end, limit, violation, void      ▼ nobody resumes it
//!   gone               gone           over                               over
//! ```
//!
//! A session begins with a receipt that its user accepted its policy ([`lucid_policy::consent`]), under an id that is used
//! once. What holds in it is told to the RDP host, which enforces it and says which policy that is; Cedar decides here, and
//! is asked again about everything that crossed. The types hold to the arrows: only what was prepared can be accepted, only
//! what was accepted can begin, and only what waits can be resumed.
//!
//! `lucid-rdp`, which hears the network, sends what each session shows and does; this program alone has the device's
//! key, seals everything to the owner's public key, and writes it below `recordings/` in the state directory, as
//! [`lucid_recording`] describes. It cannot read what it has written.
//!
//! The way of an item: the socket's stream ([`service`](self)) looks at it, stamps it, and waits until there is room;
//! the session's thread writes it; a commit makes it durable and the caller hears of it. What may happen to a session
//! stands at the top of `session.rs`; what the records hold, in [`lucid_session`].

mod accounts;
mod clock;
mod consent;
mod error;
mod events;
mod files;
mod index;
mod payload;
mod people;
mod policy;
mod service;
mod session;
mod sessions;
pub mod status;
mod tested;
mod used;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucid_ipc::{
    Access, bind,
    tonic::{service::interceptor::InterceptedService, transport::Server},
};
use lucid_policy::Policy;
use lucid_recording::{Limits, PublicKey, Recipient, Role, SigningKey, keys::MAX_RECIPIENTS, system_random};
use sd_notify::NotifyState;

pub use clock::{WallClock, system_clock};
pub use error::{Error, Result};

use accounts::Accounts;
use error::At as _;
use sessions::{Bounds, Sessions};

/// The name of the socket in the run directory.
pub const SOCKET: &str = "recorder.sock";
/// Calls at a time on one connection: all sessions, and some questions.
const CALLS_PER_CONNECTION: u32 = 80;

/// How to run.
pub struct Options {
    /// Directory of the device's key, the recordings and the index.
    pub state: PathBuf,
    /// Directory of the socket.
    pub run: PathBuf,
    /// X25519 public keys of the owners, one at least.
    pub owners: Vec<PublicKey>,
    /// And of those who may watch.
    pub observers: Vec<PublicKey>,
    /// The most bytes of all recordings together.
    pub most_bytes: Option<u64>,
    /// Bytes of the disk that a new session leaves free.
    pub keep_free: u64,
    /// How long a session whose stream broke may be resumed.
    pub resume_for: Duration,
    /// The number of the group whose members may use the socket, beside root and this user.
    pub group: Option<u32>,
    /// How large chunks get.
    pub limits: Limits,
    /// What time it is.
    pub wall: WallClock,
    /// What sessions may do where nobody says otherwise.
    pub policy: Policy,
    /// What the owner adds to the terms that are accepted.
    pub terms: String,
    /// The file that names accounts beside those that are kept, as lucid-provision writes it.
    pub accounts: Option<PathBuf>,
    /// How many approvers have to agree to a request.
    pub approvers_needed: usize,
}

/// Nothing that holds one of these locks leaves what is within half-changed.
fn shared<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the recorder until `stop` is done.
///
/// # Errors
/// When it cannot start: no owner, a state directory that cannot be used, no socket.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<()> {
    let recipients = recipients(&options)?;
    let recordings = options.state.join("recordings");
    for dir in [&options.state, &recordings] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).at("making", dir)?;
    }
    let _lock = lock(&options.state)?;
    let device = device_key(&options.state)?;
    let public = device.public();
    let wall = std::sync::Arc::clone(&options.wall);
    let accounts =
        Accounts::open(&options.state, options.accounts.as_deref(), options.approvers_needed, wall)?;
    let settings = session::Settings {
        recordings,
        device,
        recipients,
        limits: options.limits,
        resume_for: options.resume_for,
        wall: options.wall,
        accounts,
        asked: tokio::sync::watch::Sender::new(0),
    };
    let bounds = Bounds { most_bytes: options.most_bytes, keep_free: options.keep_free };
    let accounts = std::sync::Arc::clone(&settings.accounts);
    let sessions = Sessions::open(&options.state, settings, bounds, (options.policy, options.terms))?;
    let stopped = std::sync::Arc::clone(&sessions);
    let served = serve(&options.run, options.group, sessions, &public, stop).await;
    // A call that is still being answered ends with the program.
    let closed = tokio::task::spawn_blocking(move || {
        stopped.stop();
        accounts.keep()
    });
    closed.await.map_err(|_| Error::Internal("stopping failed"))??;
    served
}

async fn serve(
    run: &Path,
    group: Option<u32>,
    sessions: std::sync::Arc<Sessions>,
    public: &PublicKey,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    fs::create_dir_all(run).at("making", run)?;
    let (listener, guard) = bind(&run.join(SOCKET), group.map_or(Access::Owner, Access::Group))?;
    let stopping = std::sync::Arc::clone(&sessions);
    let socket = InterceptedService::new(service::Socket::new(sessions), guard);
    let server = Server::builder().max_concurrent_streams(CALLS_PER_CONNECTION);
    let (recording, waiting) = stopping.counts();
    let room = stopping.check_room();
    if let Err(error) = &room {
        tracing::error!("no session can begin: {error}");
    }
    status::ready(run, public.to_string(), room.as_ref().err())?;
    tracing::info!(device_key = %public, recording, waiting, "ready");
    // Without systemd there is nobody to tell, which is no error.
    if let Err(error) = sd_notify::notify(false, &[NotifyState::Ready]) {
        tracing::warn!("telling the service manager that this service is ready: {error}");
    }
    let stop = async move {
        stop.await;
        // Streams end when their sessions do; the server waits for them.
        stopping.end_streams();
    };
    server.serve_with_incoming_shutdown(socket, listener, stop).await.map_err(Error::Serve)
}

/// Those who can open what is recorded.
fn recipients(options: &Options) -> Result<Vec<Recipient>> {
    if options.owners.is_empty() {
        return Err(Error::NoOwner);
    }
    let with = |role| move |key: &PublicKey| Recipient { key: *key, role };
    let recipients: Vec<_> = options
        .owners
        .iter()
        .map(with(Role::Owner))
        .chain(options.observers.iter().map(with(Role::Observer)))
        .collect();
    for (place, recipient) in recipients.iter().enumerate() {
        if recipients[..place].iter().any(|other| other.key == recipient.key) {
            return Err(Error::Recipients(format!("{} is given twice", recipient.key)));
        }
    }
    if recipients.len() > MAX_RECIPIENTS {
        return Err(Error::Recipients(format!(
            "there are {}, and {MAX_RECIPIENTS} may be",
            recipients.len()
        )));
    }
    Ok(recipients)
}

/// Keeps a second recorder off the same directory, as long as the file is open.
fn lock(state: &Path) -> Result<fs::File> {
    let path = state.join("lock");
    let file =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).at("making", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::InUse(state.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(error).at("locking", &path),
    }
}

/// The device's key; at the first start it is made.
fn device_key(state: &Path) -> Result<SigningKey> {
    let path = state.join("device-key");
    if path.exists() {
        return Ok(SigningKey::read(&path)?);
    }
    // Under its own name only when it is whole on the disk.
    let new = state.join("device-key.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).at("removing", &new),
        _ => {}
    }
    let key = SigningKey::create(&new, &mut system_random())?;
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&new, private).at("making private", &new)?;
    fs::rename(&new, &path).at("renaming", &new)?;
    fs::File::open(state).and_then(|dir| dir.sync_all()).at("writing", state)?;
    tracing::info!(device_key = %key.public(), "a device key was made");
    Ok(key)
}
