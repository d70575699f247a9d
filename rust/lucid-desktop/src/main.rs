//! The launcher: gives each connection on its socket a desktop of its own.
//!
//! Three ways in, one program:
//! - started by systemd with the connection (`Accept=yes`): serves that one desktop and exits;
//! - `--listen PATH`: accepts connections and serves each in a child process (`serve-connection`);
//! - `run-compositor` (internal): ties the compositor's life to the launcher's, then becomes it.
//!
//! Exit codes: 0 the desktop ended; 1 it could not be started or ended badly (the reason is on
//! stderr); 2 wrong usage.

mod launcher;

use clap::{Args, Parser, Subcommand};
use launcher::{Launcher, LauncherError};
use std::path::PathBuf;
use std::process::ExitCode;

/// Starts desktops: a headless sway for each connection.
#[derive(Parser)]
#[command(name = "lucid-desktop", version)]
struct Options {
    /// Accept connections on this Unix socket instead of taking one from systemd.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// With --listen: the most desktops at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    max: u32,
    #[command(flatten)]
    paths: Paths,
    #[command(subcommand)]
    internal: Option<Internal>,
}

/// Where the desktop's parts are.
#[derive(Args, Clone, Debug)]
struct Paths {
    /// The compositor's configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/sway/config")]
    sway_config: PathBuf,
    /// The compositor.
    #[arg(long, global = true, value_name = "FILE", default_value = "/usr/bin/sway")]
    sway: PathBuf,
    /// The keymap compiler.
    #[arg(long, global = true, value_name = "FILE", default_value = "/usr/bin/xkbcli")]
    xkbcli: PathBuf,
    /// What plays sound, for desktops that have it.
    #[arg(long, global = true, value_name = "FILE", default_value = "/usr/bin/pipewire")]
    pipewire: PathBuf,
    /// What links programs that play to PipeWire's device.
    #[arg(long, global = true, value_name = "FILE", default_value = "/usr/bin/wireplumber")]
    wireplumber: PathBuf,
    /// The user's home directory.
    #[arg(long, global = true, value_name = "DIR", default_value = "/home/user")]
    home: PathBuf,
    /// Where the private runtime directories are made [default: $RUNTIME_DIRECTORY, or /tmp].
    #[arg(long, global = true, value_name = "DIR")]
    runtime: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Internal {
    /// Serve the connection on standard input; end when the process PARENT ends.
    #[command(hide = true)]
    ServeConnection {
        #[arg(long)]
        parent: i32,
    },
    /// Become the compositor; die with the process PARENT.
    #[command(hide = true)]
    RunCompositor {
        #[arg(long)]
        parent: i32,
        #[arg(long)]
        config: PathBuf,
    },
}

fn run(options: Options) -> Result<(), LauncherError> {
    let launcher = Launcher::new(options.paths)?;
    match (options.internal, options.listen) {
        (Some(Internal::RunCompositor { parent, config }), _) => launcher.run_compositor(parent, &config),
        (Some(Internal::ServeConnection { parent }), _) => launcher.serve_standard_input(parent),
        (None, Some(path)) => launcher.listen(&path, options.max as usize),
        (None, None) => launcher.serve_from_systemd(),
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_max_level(tracing::Level::INFO)
        .init();
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
