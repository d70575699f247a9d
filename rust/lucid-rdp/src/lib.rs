//! Lucid's RDP host.
//!
//! The way of a client: [`listener`](self) accepts it and bounds how many may wait; the handshake negotiates
//! TLS or NLA and checks the account; a desktop is opened for it through the socket of `lucid-desktop`, or the one
//! that its user has already is given back; the connection carries pictures and input until either side ends it.
//! **One desktop per user**: it starts when the user has authenticated for the first time and outlives connections,
//! until the user ends it, the host stops, or a [limit](Limits) is reached.
//!
//! One thread serves all sockets; each desktop captures and encodes on a thread of its own.

mod account;
mod anomalies;
mod audit;
mod bitmap;
mod capabilities;
mod chunk;
mod clipboard;
mod closing;
mod control;
mod curtain;
mod desk;
mod display;
mod drives;
mod dvc;
mod egfx;
mod encoders;
mod error;
mod fastpath;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gates;
mod graphics;
mod guard;
mod handshake;
mod incoming;
mod input;
mod keeper;
mod keyboard;
mod listener;
mod monitors;
mod nla;
mod notice;
mod pace;
mod page;
mod picture;
mod pointer;
mod reconnect;
mod recording;
mod refusal;
mod register;
mod remotefx;
mod running;
mod sequence;
mod session;
mod sessions;
mod sharecontrol;
mod sound;
mod status;
mod tiles;
mod tls;
mod touch;
mod trail;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ironrdp_acceptor::DesktopSize;
pub use lucid_desktop::KeyboardLayout;
use lucid_ipc::Access;
use lucid_policy::Policy;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::watch;

use account::Accounts;
pub use error::{Error, Refused};
pub use gates::Channels;
pub use lucid_video::Wanted as WantedEncoder;
use register::Register;
pub use sessions::Limits;

/// What a client gets that asks for no size.
const DEFAULT_SIZE: DesktopSize = DesktopSize { width: 1280, height: 720 };
/// The most that a client gets: what the H.264 encoder takes, and 32 MiB for a picture.
const MAX_SIZE: DesktopSize = DesktopSize { width: 3840, height: 2160 };

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Directory of the TLS key and certificate.
    pub state: PathBuf,
    /// Directory of `status.json`.
    pub run: PathBuf,
    /// The socket of `lucid-desktop`.
    pub desktop: PathBuf,
    /// The keyboard of the desktops.
    pub keyboard: KeyboardLayout,
    /// The name in the certificate.
    pub name: String,
    /// Which video encoder is used.
    pub encoder: WantedEncoder,
    /// Sessions at a time, connected or parked.
    pub max_sessions: usize,
    /// How long sessions may last.
    pub limits: Limits,
    /// The control socket; none is served without.
    pub control: Option<PathBuf>,
    /// The number of the group whose members may use it, beside root and this user.
    pub control_group: Option<u32>,
    /// Who says who may connect, and what sessions may do.
    pub authority: Authority,
}

/// Who says who may connect, and what sessions may do.
#[derive(Debug)]
pub enum Authority {
    /// lucid-sessiond, whose socket this is; it records every session, and none begins or goes on that is not.
    Controller(PathBuf),
    /// Nobody who could be asked. Nothing is recorded.
    Fixed {
        /// It holds in every session.
        policy: Box<Policy>,
        /// The account file.
        account: PathBuf,
    },
}

/// Runs the host until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: no account, no usable TLS identity, no port.
pub async fn run(options: Options) -> Result<(), Error> {
    let (register, channels, authority) = match options.authority {
        Authority::Controller(socket) => {
            (Register::controller(socket.clone()), Channels::ALL, running::Authority::Controller(socket))
        }
        Authority::Fixed { policy, account } => (
            Register::File(Accounts::load(&account)?.into()),
            Channels::of(&policy),
            running::Authority::Fixed(Arc::new(*policy)),
        ),
    };
    let identity = tls::Identity::load_or_make(&options.state, &options.name)?;
    let listen = |source| Error::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
    let port = listener.local_addr().map_err(listen)?.port();
    let encoders = encoders::VideoEncoders::choose(&options.encoder)?;
    let mut encoder = encoders.description();
    let in_use = encoder.borrow_and_update().clone();
    let recorded = matches!(authority, running::Authority::Controller(_));
    let about = status::About {
        run: options.run,
        port,
        fingerprint: identity.fingerprint.clone(),
        sessions_recorded: recorded,
    };
    about.write(&in_use, 0)?;
    if !recorded {
        tracing::warn!("sessions are not recorded: there is no session controller (--controller)");
    }
    tracing::info!(
        port,
        fingerprint = identity.fingerprint,
        encoder = in_use,
        "ready at {:.3} s",
        status::uptime()
    );
    let began = Instant::now();
    let (stop, stopping) = watch::channel(false);
    let facts = control::Host {
        began,
        port,
        certificate_sha256: identity.fingerprint.clone(),
        video_encoder: encoder.clone(),
        sessions_recorded: recorded,
    };
    let host = Arc::new(handshake::Host {
        identity,
        register,
        default_size: DEFAULT_SIZE,
        max_size: MAX_SIZE,
        channels,
    });
    let settings = running::Settings {
        desktop: options.desktop,
        keyboard: options.keyboard,
        channels,
        encoders,
        authority,
    };
    let sessions = Rc::new(sessions::Sessions::new(options.max_sessions, options.limits));
    let signals = async move {
        use tokio::signal::unix::{SignalKind, signal};
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
            (Err(e), _) | (_, Err(e)) => {
                tracing::error!("signals cannot be caught ({e}); stopping will be abrupt");
                std::future::pending::<()>().await;
            }
        }
        stop.send_replace(true);
    };
    let counted = Rc::clone(&sessions);
    let telling = encoders::keep_telling(encoder, sessions.changes(), move || counted.connected(), about);
    let local = tokio::task::LocalSet::new();
    local.spawn_local(telling);
    local.spawn_local(signals);
    local
        .run_until(async move {
            if let Some(path) = &options.control {
                let access = options.control_group.map_or(Access::Owner, Access::Group);
                control::serve(path, access, facts, Rc::clone(&sessions), stopping.clone())?;
            }
            // Without systemd there is nobody to tell, which is no error.
            let ready = [NotifyState::Ready, NotifyState::Status(&encoders::service_status(&in_use))];
            if let Err(e) = sd_notify::notify(false, &ready) {
                tracing::warn!("telling the service manager that this service is ready: {e}");
            }
            listener::serve(listener, host, settings, sessions, stopping).await
        })
        .await
}
