//! `lucidctl`: asks Lucid's services how they are, and tells them what to do. Exit status: see [`EXIT`].

mod policy;
mod recording;
mod report;
mod session;
mod update;
mod user;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use lucid_ipc::rdp::rdp_client::RdpClient;
use lucid_ipc::rdp::{EndSessionRequest, FollowRequest, GetSessionRequest, GetStatusRequest};
use lucid_ipc::tonic::transport::Channel;
use lucid_ipc::tonic::{Code, Status};

/// Stands at the end of the help.
const EXIT: &str = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 the service is not running, \
    4 not permitted, 5 there is no such session or user, 6 a recording, a key, a proof or a policy cannot be read. What is wrong in a \
    recording, or missing from it, is a failure: 1.";

/// How long a message is shown before a session ends, unless said otherwise.
const MESSAGE_SHOWN: Duration = Duration::from_secs(30);

/// Asks Lucid's services how they are, and tells them what to do.
#[derive(Parser)]
#[command(version, after_help = EXIT)]
struct Arguments {
    /// The socket of the RDP host.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/lucid-rdp/control.sock")]
    socket: PathBuf,
    /// Prints JSON with stable fields instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the RDP host, its sessions, and what was out of the ordinary.
    Status,
    /// Sessions: desktops that run, with or without a client.
    #[command(subcommand)]
    Sessions(Sessions),
    /// The RDP host.
    #[command(subcommand)]
    Rdp(Rdp),
    /// Recordings of sessions: proved, played, exported.
    #[command(subcommand)]
    Recording(recording::Recording),
    /// Policies: what a session may do, in plain words.
    #[command(subcommand)]
    Policy(policy::Command),
    /// One session: what holds in it, accepted before it begins, or ended.
    #[command(subcommand)]
    Session(session::Command),
    /// Changes of what holds in a session: asked for, and decided on.
    #[command(subcommand)]
    Approve(session::Approve),
    /// Updates of the system: what is being installed, and asking for it.
    #[command(subcommand)]
    Update(update::Command),
    /// People who may use the device: accounts, passwords, second factors, links, keys.
    #[command(subcommand)]
    User(user::Command),
    /// Prints completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Writes manual pages into a directory.
    Man {
        /// Where; it must exist.
        directory: PathBuf,
    },
}

#[derive(Subcommand)]
enum Sessions {
    /// Lists the sessions.
    List {
        /// Lists them again whenever something changes, until interrupted; with --json one line each time.
        #[arg(long)]
        follow: bool,
    },
    /// Shows one session.
    Show {
        /// Its number, as `sessions list` shows it.
        id: u32,
    },
    /// Ends a session for good: its programs are killed, its client is told.
    End {
        /// Its number, as `sessions list` shows it.
        id: u32,
        /// Shown on the desktop until it ends.
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
        /// How long the user has left: 30s if there is a message, nothing otherwise.
        #[arg(long = "in", value_name = "DURATION", value_parser = humantime::parse_duration)]
        delay: Option<Duration>,
    },
}

#[derive(Subcommand)]
enum Rdp {
    /// Prints the certificate's fingerprint (SHA-256), for comparing it with what a client shows.
    Fingerprint,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}; `systemctl status lucid-rdp` says why, --socket names another one")]
    NotRunning(lucid_ipc::Error),
    #[error(
        "{0}; `systemctl status lucid-updated` says why, `lucid-updated run` starts it where it is started by hand, and \
         --updater names another socket"
    )]
    NoUpdater(lucid_ipc::Error),
    #[error(
        "the update service stopped before that was done, or the machine restarts; `lucidctl update status` says how it \
         stands once it runs again"
    )]
    UpdaterStopped,
    #[error("{0}")]
    Denied(lucid_ipc::Error),
    #[error("{0}")]
    Connect(lucid_ipc::Error),
    #[error("the service does not permit that: {}", .0.message())]
    Refused(Status),
    #[error("{}; `lucidctl sessions list` shows those that there are", .0.message())]
    NotFound(Status),
    #[error("{}; `lucidctl user list` shows everybody", .0.message())]
    Nobody(Status),
    #[error(
        "nobody can be asked for a password here, as this is no terminal: say --stdin to have it read from there"
    )]
    NoTerminal,
    #[error("the two are not the same; nothing was changed")]
    NotTheSame,
    #[error("{} is already there, and nothing secret is written over another file: name a new one", .0.display())]
    SecretExists(PathBuf),
    #[error("the service answered: {}", .0.message())]
    Answer(Status),
    #[error("writing {0}: {1}")]
    Write(String, std::io::Error),
    #[error("reading {}: {}", .0.display(), .1)]
    Read(PathBuf, std::io::Error),
    #[error(
        "{} holds no recording: none of opening.json, heads.jsonl, manifest.json and chunk-000000 is there; \
         `lucidctl recording list` shows the recordings below a directory", .0.display()
    )]
    NoRecording(PathBuf),
    #[error(
        "a proof does not say whose signature it bears: name the device's public key with --device, or put the \
         recording's opening.json beside the chunk"
    )]
    NoDevice,
    #[error("{} is already there, and no key is ever overwritten: name another file", .0.display())]
    KeyExists(PathBuf),
    #[error("{} is already there: name another file, or say --force to overwrite it", .0.display())]
    Exists(PathBuf),
    #[error("{0}")]
    Recording(lucid_recording::Error),
    #[error(
        "nothing was recorded at {0}: `lucidctl recording verify` lists the gaps; name another time with --at"
    )]
    NothingShown(String),
    #[error("what the service says is not what it should say: {0}")]
    Odd(String),
    #[error("{0}")]
    Request(lucid_policy::Error),
    #[error("nobody can be asked here, as this is no terminal: say --yes to go on without")]
    NobodyAsked,
    #[error("there is no request {0} that can be decided on; `lucidctl approve list` shows them")]
    NoRequest(u32),
    #[error("{0}")]
    Replay(lucid_replay::Error),
    #[error("{}: {}", .0.display(), .1)]
    Policy(PathBuf, lucid_policy::Error),
    #[error("there is no profile {0:?}; there are `profile:strict` and `profile:standard`")]
    NoProfile(String),
    #[error(
        "{0} is not an address of this machine alone (127.0.0.1 or ::1): what is played is shown to nobody else"
    )]
    NotLoopback(std::net::SocketAddr),
    #[error("listening on {0}: {1}; --listen 127.0.0.1:0 takes any port that is free")]
    Listen(std::net::SocketAddr, std::io::Error),
}

impl Error {
    fn exit(&self) -> ExitCode {
        ExitCode::from(match self {
            Error::NotRunning(_) | Error::NoUpdater(_) | Error::UpdaterStopped => 3,
            Error::Denied(_) | Error::Refused(_) => 4,
            Error::NotFound(_) | Error::Nobody(_) | Error::NoRequest(_) => 5,
            Error::NobodyAsked
            | Error::NoTerminal
            | Error::NoDevice
            | Error::NotLoopback(_)
            | Error::NoProfile(_) => 2,
            Error::Read(..)
            | Error::Policy(..)
            | Error::NoRecording(_)
            | Error::Recording(
                lucid_recording::Error::Io { doing: "opening" | "reading", .. }
                | lucid_recording::Error::NotARecording { .. },
            ) => 6,
            Error::Connect(_)
            | Error::Request(_)
            | Error::Odd(_)
            | Error::Answer(_)
            | Error::Write(..)
            | Error::KeyExists(_)
            | Error::SecretExists(_)
            | Error::NotTheSame
            | Error::Exists(_)
            | Error::NothingShown(_)
            | Error::Replay(_)
            | Error::Listen(..)
            | Error::Recording(_) => 1,
        })
    }
}

impl From<lucid_ipc::Error> for Error {
    fn from(error: lucid_ipc::Error) -> Error {
        match error {
            lucid_ipc::Error::NotRunning { .. } => Error::NotRunning(error),
            lucid_ipc::Error::Denied { .. } => Error::Denied(error),
            _ => Error::Connect(error),
        }
    }
}

impl From<lucid_recording::Error> for Error {
    fn from(error: lucid_recording::Error) -> Error {
        Error::Recording(error)
    }
}

impl From<lucid_replay::Error> for Error {
    fn from(error: lucid_replay::Error) -> Error {
        match error {
            lucid_replay::Error::Recording(error) => Error::Recording(error),
            error => Error::Replay(error),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        match status.code() {
            Code::PermissionDenied => Error::Refused(status),
            Code::NotFound => Error::NotFound(status),
            _ => Error::Answer(status),
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        // It was said what is wrong.
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads has heard enough.
        Err(Error::Write(_, e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lucidctl: {error}");
            error.exit()
        }
    }
}

/// Says whether all is well, of what looks after that.
fn run(arguments: Arguments) -> Result<bool, Error> {
    match &arguments.command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "lucidctl", &mut text);
            return print(&String::from_utf8_lossy(&text)).map(|()| true);
        }
        Command::Man { directory } => return manual(directory).map(|()| true),
        Command::Recording(command) => return recording::run(command, arguments.json),
        Command::Policy(command) => return policy::run(command, arguments.json),
        Command::Session(command) => return session::run(command, arguments.json),
        Command::Approve(command) => return session::approve(command, arguments.json),
        Command::Update(command) => return update::run(command, arguments.json),
        Command::User(command) => return user::run(command, arguments.json),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Write("to the kernel".into(), e))?;
    runtime.block_on(ask(arguments)).map(|()| true)
}

async fn ask(arguments: Arguments) -> Result<(), Error> {
    let Arguments { socket, json, command } = arguments;
    let mut rdp = RdpClient::new(lucid_ipc::connect(&socket).await?);
    match command {
        Command::Status => {
            let host = report::Host::from(status(&mut rdp).await?);
            print(&if json { report::json(&host) } else { report::host(&host) })
        }
        Command::Sessions(Sessions::List { follow: false }) => {
            list(&report::Host::from(status(&mut rdp).await?), json)
        }
        Command::Sessions(Sessions::List { follow: true }) => {
            let mut changes = rdp.follow(FollowRequest {}).await?.into_inner();
            let clears = !json && std::io::stdout().is_terminal();
            while let Some(status) = changes.message().await? {
                if clears {
                    // Home, and clear what follows (ECMA-48).
                    print("\x1b[H\x1b[2J")?;
                }
                list(&report::Host::from(status), json)?;
            }
            Ok(())
        }
        Command::Sessions(Sessions::Show { id }) => {
            let session = rdp.get_session(GetSessionRequest { id }).await?.into_inner();
            let session = report::Session::from(session);
            print(&if json { report::json(&session) } else { report::session(&session) })
        }
        Command::Sessions(Sessions::End { id, message, delay }) => {
            let delay = delay.unwrap_or(if message.is_some() { MESSAGE_SHOWN } else { Duration::ZERO });
            let delay_seconds = u32::try_from(delay.as_secs()).unwrap_or(u32::MAX);
            let message = message.unwrap_or_default();
            rdp.end_session(EndSessionRequest { id, message, delay_seconds }).await?;
            if json { print("{}\n") } else { print(&report::ended(id, delay)) }
        }
        Command::Rdp(Rdp::Fingerprint) => {
            let status = status(&mut rdp).await?;
            let fingerprint = report::Fingerprint { certificate_sha256: status.certificate_sha256 };
            print(&if json { report::json(&fingerprint) } else { fingerprint.certificate_sha256 + "\n" })
        }
        // Answered without a service.
        Command::Completions { .. }
        | Command::Man { .. }
        | Command::Recording(_)
        | Command::Policy(_)
        | Command::Session(_)
        | Command::Approve(_)
        | Command::Update(_)
        | Command::User(_) => Ok(()),
    }
}

async fn status(rdp: &mut RdpClient<Channel>) -> Result<lucid_ipc::rdp::Status, Error> {
    Ok(rdp.get_status(GetStatusRequest {}).await?.into_inner())
}

fn list(host: &report::Host, json: bool) -> Result<(), Error> {
    print(&if json { report::json(&host.sessions) } else { report::sessions(&host.sessions) })
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::Write("standard output".into(), e))
}

fn manual(directory: &Path) -> Result<(), Error> {
    clap_mangen::generate_to(Arguments::command(), directory)
        .map_err(|e| Error::Write(format!("manual pages into {}", directory.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_consistent_and_the_help_tells_the_exit_statuses() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        let help = command.render_long_help().to_string();
        for status in [
            "0 done",
            "1 failed",
            "2 wrong usage",
            "3 the service",
            "4 not permitted",
            "5 there is no",
            "6 a rec",
        ] {
            assert!(help.contains(status), "{status} is not in {help}");
        }
    }

    #[test]
    fn every_shell_gets_completions_and_every_command_a_manual_page() {
        use clap::ValueEnum as _;
        for shell in clap_complete::Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "lucidctl", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("sessions"), "{shell}");
        }
        let dir = std::env::temp_dir().join(format!("lucidctl-man-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        manual(&dir).unwrap();
        for page in [
            "lucidctl.1",
            "lucidctl-status.1",
            "lucidctl-sessions-end.1",
            "lucidctl-rdp-fingerprint.1",
            "lucidctl-update-apply.1",
            "lucidctl-update-rollback.1",
            "lucidctl-update-schedule.1",
        ] {
            assert!(dir.join(page).exists(), "{page}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_service_that_does_not_run_is_named_and_has_its_exit_status() {
        let arguments =
            Arguments::try_parse_from(["lucidctl", "--socket", "/nonexistent/control.sock", "status"])
                .unwrap();
        let error = run(arguments).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/control.sock"), "{error}");
        assert!(error.to_string().contains("not running"), "{error}");
        assert!(matches!(error, Error::NotRunning(_)));
    }
}
