//! `lucid-rdp`: the RDP host as a service. Exit status: 0 stopped when asked, 1 could not start, 2 wrong usage.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lucid_policy::Policy;
use lucid_rdp::{Authority, Error, KeyboardLayout, Limits, Options, WantedEncoder};
use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Shows a desktop to RDP clients. Who may connect, and what sessions may do, is said by the session controller, or without
/// one by an account file and a policy.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Address and port to listen on.
    #[arg(long, default_value = "0.0.0.0:3389")]
    listen: SocketAddr,
    /// Directory that keeps the TLS key and certificate.
    #[arg(long, default_value = "/var/lib/lucid-rdp")]
    state: PathBuf,
    /// Directory for status.json.
    #[arg(long, default_value = "/run/lucid-rdp")]
    run: PathBuf,
    /// Without a controller: the account file, as lucid-provision writes it.
    #[arg(long, value_name = "FILE", required_unless_present = "controller", conflicts_with = "controller")]
    account: Option<PathBuf>,
    /// The socket of lucid-desktop.
    #[arg(long, default_value = "/run/lucid/desktop.sock")]
    desktop: PathBuf,
    /// Keyboard and device name, as lucid-provision writes them (desktop.json).
    #[arg(long)]
    desktop_settings: Option<PathBuf>,
    /// Which video encoder is used: `auto` takes the first device that passes a health check, otherwise software. A
    /// device that is named has to pass it.
    #[arg(long, value_name = "auto|software|DEVICE", default_value = "auto")]
    video_encoder: WantedEncoder,
    /// Sessions at a time, connected or parked; each user has one at most.
    #[arg(long, default_value_t = 8)]
    max_sessions: usize,
    /// How long a desktop is kept when its client has gone, for its user to come back to. `0s` ends it with its
    /// connection, `none` keeps it until something else ends it.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = limit)]
    keep: Limit,
    /// Ends a session in which nothing was typed or pointed at for so long.
    #[arg(long, value_name = "DURATION", default_value = "none", value_parser = limit)]
    idle_limit: Limit,
    /// Ends a session that has lasted so long, connected or not.
    #[arg(long, value_name = "DURATION", default_value = "none", value_parser = limit)]
    session_limit: Limit,
    /// The session controller's socket (lucid-sessiond): it says who may connect and what sessions may do, and every session is recorded, and
    /// none begins or goes on that is not: pictures, sound, the pointer, and events (connections, focus, what crosses by
    /// clipboard and drives; of what is typed, counts alone).
    #[arg(long, value_name = "PATH", required_unless_present = "policy", conflicts_with = "policy")]
    controller: Option<PathBuf>,
    /// Instead of that, for trying things out: a policy table (`lucidctl policy`) that holds in every session. Nothing is
    /// recorded.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The socket for lucidctl; `control.sock` in the run directory if not given.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// The number of a group whose members may use that socket, beside root and this user.
    #[arg(long, value_name = "GID", value_parser = group)]
    control_group: Option<u32>,
}

/// The group with that number.
fn group(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "a group is given by its number, as `getent group` shows it".to_owned())
}

/// A limit of time, or none. A type of its own, because clap takes an `Option` for an option that may be left out.
#[derive(Clone, Copy)]
struct Limit(Option<Duration>);

/// `90s`, `15m`, `1h 30m`, or `none`.
fn limit(text: &str) -> Result<Limit, humantime::DurationError> {
    if text == "none" { Ok(Limit(None)) } else { humantime::parse_duration(text).map(|d| Limit(Some(d))) }
}

/// `desktop.json`, version 1.
#[derive(Deserialize)]
struct DesktopSettings {
    version: u32,
    keyboard: KeyboardLayout,
    name: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // LUCID_LOG takes tracing's target=level list; what it gets wrong is not silently ignored.
    let filter =
        std::env::var("LUCID_LOG").unwrap_or_else(|_| "warn,lucid_rdp=info,lucid_desktop=info".into());
    let filter: tracing_subscriber::filter::Targets = match filter.parse() {
        Ok(filter) => filter,
        Err(e) => {
            eprintln!("lucid-rdp: LUCID_LOG: {e}; example: LUCID_LOG=warn,lucid_rdp=debug");
            return ExitCode::from(2);
        }
    };
    // The journal has its own time stamps.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    tracing_subscriber::registry().with(filter).with(lines).init();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), Error> {
    let authority = match (arguments.controller, arguments.account) {
        (Some(socket), _) => Authority::Controller(socket),
        (None, account) => Authority::Fixed {
            policy: Box::new(arguments.policy.map_or_else(|| Ok(Policy::strict()), policy)?),
            // clap has seen to it that there is one.
            account: account.unwrap_or_default(),
        },
    };
    let (keyboard, name) = match arguments.desktop_settings {
        Some(path) => desktop_settings(path)?,
        None => (KeyboardLayout { layout: "us".into(), variant: String::new() }, "lucid".into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| {
        Error::File { doing: "starting the runtime for", path: arguments.state.clone(), source }
    })?;
    let control = arguments.control.unwrap_or_else(|| arguments.run.join("control.sock"));
    runtime.block_on(lucid_rdp::run(Options {
        listen: arguments.listen,
        state: arguments.state,
        run: arguments.run,
        desktop: arguments.desktop,
        keyboard,
        name,
        control: Some(control),
        control_group: arguments.control_group,
        encoder: arguments.video_encoder,
        max_sessions: arguments.max_sessions,
        limits: Limits {
            keep: arguments.keep.0,
            // No time at all would end every session at once, so it means that there is no limit.
            idle: arguments.idle_limit.0.filter(|d| !d.is_zero()),
            session: arguments.session_limit.0.filter(|d| !d.is_zero()),
        },
        authority,
    }))
}

fn policy(path: PathBuf) -> Result<Policy, Error> {
    let doing = "reading the policy from";
    let text = std::fs::read(&path).map_err(|source| Error::File { doing, path: path.clone(), source })?;
    Policy::parse(&text).map_err(|e| Error::File {
        doing,
        path,
        source: std::io::Error::other(e.to_string()),
    })
}

fn desktop_settings(path: PathBuf) -> Result<(KeyboardLayout, String), Error> {
    let text = std::fs::read(&path).map_err(|source| Error::File {
        doing: "reading the desktop's settings from",
        path: path.clone(),
        source,
    })?;
    let settings: DesktopSettings = serde_json::from_slice(&text).map_err(|e| Error::File {
        doing: "reading the desktop's settings from",
        path: path.clone(),
        source: e.into(),
    })?;
    if settings.version != 1 {
        let source = std::io::Error::other(format!("version {} is not known, only 1 is", settings.version));
        return Err(Error::File { doing: "reading the desktop's settings from", path, source });
    }
    Ok((settings.keyboard, settings.name))
}
