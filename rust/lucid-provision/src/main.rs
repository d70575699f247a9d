//! `lucid-provision`: applies `lucid.toml`, announces how to connect, and says which name servers there are.
//!
//! Exit codes: 0 done (for `apply` also when `lucid.toml` is wrong: it says so and the machine goes
//! on; for `check`: the file is good); 1 failed (for `check`: the file is wrong); 2 wrong arguments, or
//! the file for `check` cannot be read.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lucid_provision::announce::{Options, announce};
use lucid_provision::apply::{Places, apply};
use lucid_provision::config::{Config, MAX_BYTES};
use lucid_provision::names::{self, Names};
use lucid_provision::{EXAMPLE, Error, console};
use zeroize::Zeroizing;

/// Provisioning of a Lucid device.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Apply lucid.toml from the card (on every start, before the services).
    Apply {
        /// What lucid-init found.
        #[arg(long, default_value = "/run/lucid/boot.json")]
        boot: PathBuf,
        /// The select partition, instead of the one that boot.json names.
        #[arg(long)]
        select: Option<PathBuf>,
        /// Where the files for the services go.
        #[arg(long, default_value = "/run")]
        run: PathBuf,
        /// Where the results are kept.
        #[arg(long, default_value = "/data/lucid/provision")]
        data: PathBuf,
        /// Change nothing but files: no host name, nothing on the consoles.
        #[arg(long)]
        files_only: bool,
    },
    /// Say on every console how to connect, once.
    Announce {
        /// Where apply left its files.
        #[arg(long, default_value = "/run")]
        run: PathBuf,
        /// Where the results are kept.
        #[arg(long, default_value = "/data/lucid/provision")]
        data: PathBuf,
        /// What lucid-rdp says about itself.
        #[arg(long, default_value = "/run/lucid-rdp/status.json")]
        status: PathBuf,
        /// What lucid-sessiond says about itself.
        #[arg(long, default_value = "/run/lucid-sessiond/status.json")]
        recorder: PathBuf,
        /// A device or file instead of the kernel's consoles; may be repeated.
        #[arg(long)]
        console: Vec<PathBuf>,
        /// Seconds to wait for the service and an address.
        #[arg(long, default_value_t = 20)]
        wait: u64,
    },
    /// Keep a resolv.conf with the name servers that systemd-networkd knows.
    Names {
        /// The directory in which networkd says what it knows.
        #[arg(long, default_value = "/run/systemd/netif")]
        netif: PathBuf,
        /// The file.
        #[arg(long, default_value = "/run/lucid-names/resolv.conf")]
        to: PathBuf,
    },
    /// Check a lucid.toml on any machine.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print a commented lucid.toml.
    Example,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Apply { boot, select, run, data, files_only } => {
            done(run_apply(&Places { boot, select, run, data }, files_only))
        }
        Command::Announce { run, data, status, recorder, console, wait } => {
            let limit = Duration::from_secs(wait);
            let options = Options { run, data, status, recorder, consoles: console, limit };
            done(announce(&options).map(|report| eprintln!("lucid-provision: {report}")))
        }
        Command::Names { netif, to } => {
            let error = names::follow(&Names { netif, to }, |servers| match servers {
                [] => eprintln!("lucid-provision: there is no name server"),
                servers => {
                    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                    eprintln!("lucid-provision: name servers: {}", servers.join(", "));
                }
            });
            done(Err(error))
        }
        Command::Check { file } => check(&file),
        Command::Example => match io::stdout().write_all(EXAMPLE.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("lucid-provision: printing the example: {e}");
                ExitCode::FAILURE
            }
        },
    }
}

fn done(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("lucid-provision: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run_apply(places: &Places, files_only: bool) -> Result<(), Error> {
    let applied = apply(places)?;
    for note in &applied.notes {
        eprintln!("lucid-provision: {note}");
    }
    if files_only {
        return Ok(());
    }
    if let Err(e) = rustix::system::sethostname(applied.settings.name.as_bytes()) {
        eprintln!("lucid-provision: setting the host name to {}: {e}", applied.settings.name);
    }
    if !applied.notes.is_empty() {
        let text: String = applied.notes.iter().map(|n| format!("\nlucid-provision: {n}\n")).collect();
        match console::active() {
            Ok(consoles) => {
                for (path, e) in console::write_all(&consoles, &text) {
                    eprintln!("lucid-provision: writing to {}: {e}", path.display());
                }
            }
            Err(e) => eprintln!("lucid-provision: finding the consoles: {e}"),
        }
    }
    Ok(())
}

fn check(path: &std::path::Path) -> ExitCode {
    let mut bytes = Zeroizing::new(Vec::new());
    if let Err(e) = File::open(path).and_then(|f| f.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)) {
        eprintln!("lucid-provision: reading {}: {e}", path.display());
        return ExitCode::from(2);
    }
    match Config::parse(&bytes) {
        Ok(config) => {
            for problem in &config.unsupported {
                println!("{}: {problem}", path.display());
            }
            println!("{}: good", path.display());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("{}: {problem}", path.display());
            ExitCode::FAILURE
        }
    }
}
