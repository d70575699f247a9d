//! `lucid-sessiond`: the recorder as a service. Exit status: 0 stopped when asked, 1 could not start, 2 wrong usage.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use lucid_policy::{Policy, consent::MAX_TERMS};
use lucid_recording::{Limits, PublicKey};
use lucid_sessiond::{Error, Options, system_clock};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Stands at the end of the help.
const AFTER: &str = "Recordings are directories below STATE/recordings, and are never removed by this program. \
    `lucidctl recording` lists, verifies and exports them.\n\
    LUCID_LOG sets what is logged, as in LUCID_LOG=warn,lucid_sessiond=debug.\n\
    Exit status: 0 stopped when asked, 1 could not start, 2 wrong usage.";

/// Records what sessions show and do, sealed to the owner's public key. Runs as any user that may write to its
/// directories. Without an owner it does not start: nobody could open what it records.
#[derive(Parser)]
#[command(version, after_help = AFTER)]
struct Arguments {
    /// Directory of the device's key, the recordings and the index.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lucid-sessiond")]
    state: PathBuf,
    /// Directory of the socket, recorder.sock.
    #[arg(long, value_name = "DIR", default_value = "/run/lucid-sessiond")]
    run: PathBuf,
    /// An X25519 public key, in hex, that can open what is recorded: the owner's. May be given more than once.
    #[arg(long, value_name = "HEX")]
    owner: Vec<PublicKey>,
    /// The same for somebody who was to watch. May be given more than once.
    #[arg(long, value_name = "HEX")]
    observer: Vec<PublicKey>,
    /// Refuses new sessions when all recordings together have so many bytes.
    #[arg(long, value_name = "N")]
    most_bytes: Option<u64>,
    /// Refuses new sessions when no more than so many bytes of the disk are free.
    #[arg(long, value_name = "N", default_value_t = 64 << 20)]
    keep_free: u64,
    /// How long a session whose stream broke may be resumed before it is ended.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    resume_for: Duration,
    /// What sessions may do: a policy table (`lucidctl policy`). Strict without it: nothing but looking on.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A text that is accepted together with the policy, at most 4 KiB.
    #[arg(long, value_name = "FILE")]
    terms: Option<PathBuf>,
    /// Accounts that the device's owner names, as lucid-provision writes them: operators and owners, with NT hashes of their
    /// passwords. They are taken over at each start into those that are kept (`lucidctl user`).
    #[arg(long, value_name = "FILE")]
    accounts: Option<PathBuf>,
    /// How many approvers have to agree to a change of what holds in a session: accounts with that role and a key.
    #[arg(long, value_name = "N", default_value = "1", value_parser = approvers)]
    approvers_needed: usize,
    /// The number of a group whose members may record sessions and have people let in, which is all that lucid-rdp needs.
    /// Only root and this user may do more.
    #[arg(long, value_name = "GID", value_parser = group)]
    group: Option<u32>,
}

/// The group with that number.
fn group(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "a group is given by its number, as `getent group` shows it".to_owned())
}

/// A number of approvers.
fn approvers(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| (1..=32).contains(number)).ok_or_else(|| "1 to 32".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // LUCID_LOG takes tracing's target=level list; what it gets wrong is not silently ignored.
    let filter = std::env::var("LUCID_LOG").unwrap_or_else(|_| "warn,lucid_sessiond=info".into());
    let filter: tracing_subscriber::filter::Targets = match filter.parse() {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("lucid-sessiond: LUCID_LOG: {error}; example: LUCID_LOG=warn,lucid_sessiond=debug");
            return ExitCode::from(2);
        }
    };
    // The journal has its own time stamps.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    tracing_subscriber::registry().with(filter).with(lines).init();
    let run = arguments.run.clone();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            if let Err(error) = lucid_sessiond::status::failed(&run, &error) {
                tracing::error!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build();
    let runtime = runtime.map_err(|source| Error::File {
        doing: "starting the runtime for",
        path: arguments.state.clone(),
        source,
    })?;
    let policy = match &arguments.policy {
        Some(path) => Policy::parse(&read(path, 1 << 20)?).map_err(|error| wrong(path, error))?,
        None => Policy::strict(),
    };
    let terms = match &arguments.terms {
        Some(path) => String::from_utf8(read(path, MAX_TERMS)?).map_err(|error| wrong(path, error))?,
        None => String::new(),
    };
    let options = Options {
        policy,
        terms,
        accounts: arguments.accounts,
        approvers_needed: arguments.approvers_needed,
        state: arguments.state,
        run: arguments.run,
        owners: arguments.owner,
        observers: arguments.observer,
        most_bytes: arguments.most_bytes,
        keep_free: arguments.keep_free,
        resume_for: arguments.resume_for,
        group: arguments.group,
        limits: Limits::default(),
        wall: system_clock(),
    };
    runtime.block_on(lucid_sessiond::run(options, signals()))
}

/// A file of at most so many bytes.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { doing: "reading", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(wrong(path, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

fn wrong(path: &Path, why: impl ToString) -> Error {
    Error::File { doing: "reading", path: path.to_owned(), source: io::Error::other(why.to_string()) }
}

async fn signals() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("signals cannot be caught ({error}); stopping will be abrupt");
            std::future::pending::<()>().await;
        }
    }
}
