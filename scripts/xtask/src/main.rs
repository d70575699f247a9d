//! Sets up, builds, runs and tests Lucid on a developer's machine; `scripts/` starts it.

mod bench;
mod build;
mod client;
mod error;
mod journal;
mod machine;
mod policy;
mod progress;
mod proxy;
mod recordings;
mod release;
mod run;
mod scene;
mod setup;
mod suite;
mod suites;
mod writes;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    error::{Error, Result},
    progress::{Interrupt, Steps},
    setup::{Project, setup},
};

/// Sets up, builds, runs and tests Lucid.
#[derive(Parser)]
#[command(name = "xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build Lucid, boot it in QEMU and say how to connect.
    #[command(override_usage = "scripts/run [OPTIONS]")]
    Run(run::RunArguments),
    /// Run the test suites, all or those named.
    #[command(override_usage = "scripts/test [OPTIONS] [NAME]...")]
    Test {
        /// Suites to run; all when none is named.
        names: Vec<String>,
        /// Make only the checks whose names begin with TEXT, and what they stand on.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        only: String,
        /// Make the checks as well that take too long for every run: of the suite update, an hour and more; of rdp, every client in QEMU too.
        #[arg(long)]
        long: bool,
        /// List the suites and end.
        #[arg(long)]
        list: bool,
    },
    /// Measure a part of Lucid beside the best of its kind.
    #[command(subcommand, override_usage = "scripts/bench <rdp|recording|update> [OPTIONS]")]
    Bench(Bench),
    /// Build the disk image without booting it.
    #[command(override_usage = "scripts/build-image [OPTIONS]")]
    BuildImage(build::ImageArguments),
    /// Install what is missing on this machine, and end.
    Setup,
}

#[derive(Subcommand)]
enum Bench {
    /// The RDP host beside xrdp.
    #[command(override_usage = "scripts/bench rdp [OPTIONS]")]
    Rdp(bench::BenchArguments),
    /// Recordings: sealing beside the sum of its parts, and restic and borg; verifying, seeking; what recording a session costs.
    #[command(override_usage = "scripts/bench recording [OPTIONS]")]
    Recording(bench::recording::RecordingArguments),
    /// Updates: what is downloaded beside zstd --patch-from and xdelta3; what applying takes, and interruptions cost.
    #[command(override_usage = "scripts/bench update [OPTIONS]")]
    Update(bench::update::UpdateArguments),
}

fn main() -> ExitCode {
    match act(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Error::Interrupted) => {
            eprintln!("\nStopped.");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\n{error}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> Result<bool> {
    if let Command::Test { list: true, .. } = arguments.command {
        suites::list();
        return Ok(true);
    }
    let project = Project::find()?;
    let steps = Steps { logs: project.lucid.join("log"), interrupt: Interrupt::install()? };
    match arguments.command {
        Command::Run(arguments) => run::run(&project, &steps, &arguments).map(|()| true),
        Command::Test { names, only, long, .. } => {
            suites::run(&project, &steps, &suites::Wanted { names, only, long })
        }
        Command::Bench(Bench::Rdp(arguments)) => bench::run(&project, &steps, &arguments).map(|()| true),
        Command::Bench(Bench::Recording(arguments)) => {
            bench::recording::run(&project, &steps, &arguments).map(|()| true)
        }
        Command::Bench(Bench::Update(arguments)) => {
            bench::update::run(&project, &steps, &arguments).map(|()| true)
        }
        Command::BuildImage(arguments) => {
            setup(&project, &steps)?;
            build::host(&project, &steps, build::Host::Tools)?;
            let image = build::asked_image(&project, &steps, &arguments)?;
            print!("{}", build::Contents::read(&image)?.describe(&image)?);
            Ok(true)
        }
        Command::Setup => setup(&project, &steps).map(|()| true),
    }
}
