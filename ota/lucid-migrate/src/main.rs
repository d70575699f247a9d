//! `lucid-migrate`: at each start, before any service. Exit status: 0 done, 1 it failed, 2 wrong usage.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use lucid_migrate::{Data, Done};
use lucid_release_format::System;
use serde::Deserialize;

/// `boot.json` has at most so many bytes.
const MAX_BOOT: u64 = 64 << 10;
/// Recordings are evidence; what the update service knows must not be forgotten when the machine falls back.
const LEFT: [&str; 2] = ["var/lib/lucid-sessiond/recordings", "var/lib/lucid-updated"];
/// Directories of what services keep.
const SCOPE: [&str; 2] = ["lucid", "var/lib"];

/// Brings what a device keeps into the form that its system reads, and back when it falls back.
#[derive(Parser)]
#[command(version, after_help = "Exit status: 0 done, 1 it failed, 2 wrong usage.")]
struct Options {
    /// What is kept.
    #[arg(long, value_name = "DIR", default_value = "/data")]
    root: PathBuf,
    /// The number of the form, and copies.
    #[arg(long, value_name = "DIR", default_value = "/data/form")]
    dir: PathBuf,
    /// The programs of the steps, named by the form that they make.
    #[arg(long, value_name = "DIR", default_value = "/usr/libexec/lucid/migrations")]
    steps: PathBuf,
    /// What the system says of itself.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/lucid/system.json")]
    system: PathBuf,
    /// What lucid-init found at this start.
    #[arg(long, value_name = "FILE", default_value = "/run/lucid/boot.json")]
    boot: PathBuf,
}

/// What is needed of `boot.json`.
#[derive(Deserialize)]
struct Boot {
    tryboot: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(words) => {
            println!("{words}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("lucid-migrate: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<String, String> {
    let system = read(&options.system, System::MAX_BYTES)?;
    let invalid = |path: &Path, why: String| format!("{} is not valid: {why}", path.display());
    let system = System::from_bytes(&system).map_err(|error| invalid(&options.system, error.to_string()))?;
    let boot = read(&options.boot, MAX_BOOT)?;
    let boot: Boot =
        serde_json::from_slice(&boot).map_err(|error| invalid(&options.boot, error.to_string()))?;
    let data = Data {
        root: options.root.clone(),
        scope: SCOPE.map(PathBuf::from).into(),
        left: LEFT.map(PathBuf::from).into(),
        dir: options.dir.clone(),
        steps: options.steps.clone(),
    };
    let own = system.data;
    match data.start(own, boot.tryboot).map_err(|error| error.to_string())? {
        Done::Nothing => Ok(format!("what is kept has form {own}, which this system reads")),
        Done::Forward(from) => {
            Ok(format!("what is kept was brought from form {from} to form {own}, and copied before"))
        }
        Done::Back(from) => Ok(format!(
            "what is kept has form {own} again, as it was before a later system made it form {from}"
        )),
    }
}

/// A file of at most so many bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let failed = |error| format!("reading {}: {error}", path.display());
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(format!("{} has more than {most} bytes", path.display()));
    }
    Ok(bytes)
}
