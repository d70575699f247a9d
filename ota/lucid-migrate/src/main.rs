//! `lucid-migrate`: at each start, before any service; with `--forget` once the system is kept.
//!
//! Exit status: 0 done, 1 it failed, 2 wrong usage.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
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
    /// In a try no service uses what is kept while this file is there. It is removed when all went well.
    #[arg(long, value_name = "FILE", default_value = "/run/lucid-migrate/unread")]
    unread: PathBuf,
    /// Only removes the copies from before: this system is kept.
    #[arg(long)]
    forget: bool,
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
    let data = Data {
        root: options.root.clone(),
        scope: SCOPE.map(PathBuf::from).into(),
        left: LEFT.map(PathBuf::from).into(),
        dir: options.dir.clone(),
        steps: options.steps.clone(),
    };
    let own = system.data;
    if options.forget {
        return match data.forget(own).map_err(|error| error.to_string())? {
            Some(copies) => Ok(format!("this system is kept, {copies} copies from before were removed")),
            None => Ok(format!("what is kept does not have form {own}, so no copy was removed")),
        };
    }
    let boot = read(&options.boot, MAX_BOOT)?;
    let boot: Boot =
        serde_json::from_slice(&boot).map_err(|error| invalid(&options.boot, error.to_string()))?;
    let done = data.start(own, boot.tryboot).map_err(|error| error.to_string())?;
    match fs::remove_file(&options.unread) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(format!("removing {}: {error}; services wait for it", options.unread.display()));
        }
        _ => {}
    }
    match done {
        Done::Nothing => Ok(format!("what is kept has form {own}, which this system reads")),
        Done::Forward(from) => {
            Ok(format!("what is kept was brought from form {from} to form {own}, and copied before"))
        }
        Done::Mended => Ok(format!(
            "the number of the form of what is kept was damaged and is {own} again, this system's: there is no copy from before"
        )),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A system of form `own` that is being tried, on a device with data of form 1 and no way to another.
    fn tried(dir: &Path, own: u32) -> Options {
        let options = Options {
            root: dir.join("data"),
            dir: dir.join("data/form"),
            steps: dir.join("steps"),
            system: dir.join("system.json"),
            boot: dir.join("boot.json"),
            unread: dir.join("unread"),
            forget: false,
        };
        let system = format!(
            "{{\"format\":1,\"machine\":\"qemu-arm64\",\"version\":\"0.1.0\",\"built\":1767225600,\"data\":{own}}}\n"
        );
        fs::create_dir_all(&options.dir).unwrap();
        fs::write(&options.system, system).unwrap();
        fs::write(&options.boot, "{\"slot\":\"b\",\"tryboot\":true}\n").unwrap();
        fs::write(&options.unread, "").unwrap();
        options
    }

    #[test]
    fn in_a_try_services_may_use_what_is_kept_only_when_it_has_the_systems_form() {
        let dir = tempfile::tempdir().unwrap();
        let options = tried(dir.path(), 2);
        let error = run(&options).unwrap_err();
        assert!(error.contains("without the way from form 1 to form 2"), "{error}");
        assert!(options.unread.exists());
        let options = tried(dir.path(), 1);
        run(&options).unwrap();
        assert!(!options.unread.exists());
        // A boot that is no try has no such file.
        run(&options).unwrap();
    }

    #[test]
    fn copies_are_forgotten_only_when_asked_to_and_without_letting_services_begin() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = tried(dir.path(), 2);
        let copy = options.dir.join("before-1");
        fs::create_dir(&copy).unwrap();
        fs::write(options.dir.join("number"), "2\n").unwrap();
        run(&options).unwrap();
        assert!(copy.exists());
        fs::write(&options.unread, "").unwrap();
        options.forget = true;
        run(&options).unwrap();
        assert!(!copy.exists() && options.unread.exists());
    }
}
