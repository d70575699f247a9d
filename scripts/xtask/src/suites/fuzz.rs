//! The fuzz targets for a bounded number of inputs: their corpus, and new ones from the same seed in every run. Long runs
//! are made by hand: rust/fuzz/README.md.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::Context;
use crate::{
    build::{When, cargo},
    error::{At, Error, Result},
    progress::{ask, ask_well, last_lines, program},
    setup::Project,
    suite::{Report, timed},
};

/// Where the targets are, from the checkout's root.
const FOLDER: &str = "rust/fuzz";
/// The target that shows that coverage guides; it is to be found in this many inputs. 40 thousand were needed.
const GUIDED: (&str, u32) = ("guided", 2_000_000);
/// Inputs for each target, those of the corpus included, so that each runs for some seconds.
const RUNS: [(&str, u32); 40] = [
    ("client_info", 200_000),
    ("clipboard", 60_000),
    ("clipboard_content", 10_000),
    ("connection", 8_000),
    ("control_socket", 200_000),
    ("credssp", 25_000),
    ("desktop_socket", 150_000),
    ("display_control", 15_000),
    ("drive_answer", 150_000),
    ("drives", 60_000),
    ("dynamic_channels", 20_000),
    ("file_list", 150_000),
    ("graphics", 15_000),
    ("input", 60_000),
    ("lucid_toml", 40_000),
    ("negotiation", 30_000),
    ("session", 30_000),
    ("share_control", 40_000),
    ("sound", 60_000),
    ("spnego", 100_000),
    ("touch", 15_000),
    // The files of recordings.
    ("chunk", 300_000),
    // A whole one is written to the memory's file system for each input.
    ("directory", 4_000),
    ("events", 30_000),
    ("pictures", 10_000),
    ("sounds", 60_000),
    ("statements", 100_000),
    ("streams", 300_000),
    // Policies.
    ("cedar_policies", 5_000),
    ("policy_statements", 20_000),
    ("policy_table", 5_000),
    // Accounts.
    ("accounts", 60_000),
    // Releases.
    ("release", 60_000),
    ("release_index", 200_000),
    ("release_patch", 100_000),
    ("update_autoboot", 300_000),
    ("update_journal", 60_000),
    ("update_kept", 100_000),
    ("update_select", 100_000),
    // Inputs are as long as a file system.
    ("update_stick", 20_000),
];
/// What one input may take: seconds, and MiB of the whole process. The targets themselves bound the heap, far below.
const LIMITS: [&str; 2] = ["-timeout=20", "-rss_limit_mb=1024"];

/// Where the targets are built.
fn target(project: &Project) -> PathBuf {
    project.target.join("fuzz")
}

/// What compiles the targets.
pub(super) fn compile(project: &Project, when: When) -> Command {
    let mut cargo = cargo(project, when);
    cargo.args(["build", "--bins", "--locked", "--target-dir"]).arg(target(project));
    cargo.current_dir(project.root.join(FOLDER));
    // They would override the folder's own.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    cargo
}

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let Context { project, steps, .. } = context;
    let scratch = project.lucid.join("fuzz");
    let folder = project.root.join(FOLDER);
    report.check("the fuzz targets are built with the versions that the product has", || {
        versions(&project.root.join("Cargo.lock"), &folder.join("Cargo.lock"))
    });
    report.check("every fuzz target has its corpus and its place here", || complete(&folder));
    let built = report.obtain(
        "the fuzz targets can be built",
        |_: &PathBuf| String::new(),
        || {
            steps.run("building the fuzz targets", &mut compile(project, When::Now))?;
            Ok(target(project).join(host(project)?).join("debug"))
        },
    );
    let Some(programs) = built else { return Ok(()) };
    let make = |name: &str, runs| Run::make(project, &folder, &programs, &scratch, name, runs);
    report.check("the fuzzer is guided by coverage: it finds what nobody guesses", || {
        let run = make(GUIDED.0, GUIDED.1)?;
        if run.well || !run.output.contains("found") {
            return Err(Error::broken(format!("nothing was found:\n{}", last_lines(&run.output))));
        }
        Ok(String::new())
    });
    // Each takes one core: as many at once as there are.
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let wanted = RUNS.iter().filter(|(name, _)| report.names(&title(name))).collect::<Vec<_>>();
    let next = AtomicUsize::new(0);
    let (done, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..cores {
            let (done, wanted, next, scratch) = (done.clone(), &wanted, &next, &scratch);
            scope.spawn(move || {
                while let Some((name, runs)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if steps.interrupt.is_set() {
                        return;
                    }
                    let outcome = timed(|| {
                        let run = make(name, *runs)?;
                        if run.well {
                            return run.figures();
                        }
                        let kept = scratch.join(name);
                        Err(Error::broken(format!(
                            "an input is not borne; it is kept in {}:\n{}",
                            kept.display(),
                            last_lines(&run.output)
                        )))
                    });
                    // Who listens is there until all threads have ended.
                    if done.send((*name, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for (name, outcome) in told {
            report.record(title(name), outcome);
        }
    });
    steps.interrupt.check()?;
    Ok(())
}

/// The name of a target's check.
fn title(name: &str) -> String {
    format!("fuzz target {name}")
}

/// One run of a target.
struct Run {
    well: bool,
    output: String,
}

impl Run {
    fn make(
        project: &Project,
        folder: &Path,
        programs: &Path,
        scratch: &Path,
        name: &str,
        runs: u32,
    ) -> Result<Self> {
        let kept = scratch.join(name);
        let corpus = folder.join("corpus").join(name);
        if kept.exists() {
            fs::remove_dir_all(&kept).at("removing", &kept)?;
        }
        // What is new goes to the first folder.
        let new = kept.join("new");
        fs::create_dir_all(&new).at("making", &new)?;
        let mut fuzz = project.command(&programs.join(name).to_string_lossy());
        fuzz.args(LIMITS).args(["-seed=1", "-print_final_stats=1"]).arg(format!("-runs={runs}"));
        fuzz.arg(format!("-artifact_prefix={}/", kept.display())).arg(&new);
        if corpus.is_dir() {
            fuzz.arg(&corpus);
        }
        let shown = program(&fuzz);
        let answer = ask(&mut fuzz, b"")?;
        let run = Self { well: answer.status.success(), output: answer.err };
        let log = kept.join("log");
        fs::write(&log, format!("{shown}\n{}", run.output)).at("writing", &log)?;
        Ok(run)
    }

    /// How many inputs there were, and what they reached.
    fn figures(&self) -> Result<String> {
        let stat = |name: &str| {
            self.output.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        let after = |word: &str| {
            let line = self.output.lines().rev().find(|line| line.contains(word))?;
            line.split(word).nth(1)?.split_whitespace().next().map(str::to_owned)
        };
        let inputs = stat("stat::number_of_executed_units:");
        match (inputs, after(" cov: ")) {
            (Some(inputs), Some(edges)) if edges != "0" => Ok(format!("{inputs} inputs, {edges} edges")),
            _ => Err(Error::broken(format!("it reached nothing:\n{}", last_lines(&self.output)))),
        }
    }
}

/// This machine's target triple, which names cargo's folder.
fn host(project: &Project) -> Result<String> {
    let about =
        ask_well("asking for the compiler's version", project.command("rustc").arg("-vV"), b"")?.text();
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned);
    host.ok_or_else(|| Error::broken("rustc does not say for which machine it is"))
}

/// Each crate that both lock files have is there in the same version.
fn versions(product: &Path, fuzz: &Path) -> Result<String> {
    let (product, fuzz) = (locked(product)?, locked(fuzz)?);
    let mut same = 0;
    for (name, versions) in &fuzz {
        let Some(of_product) = product.get(name) else { continue };
        if let Some(other) = versions.iter().find(|version| !of_product.contains(version)) {
            return Err(Error::broken(format!(
                "{name} {other} in {FOLDER}/Cargo.lock is not in Cargo.lock, which has {}; copy that file over it and \
                 run `cargo metadata` there",
                of_product.join(", ")
            )));
        }
        same += 1;
    }
    Ok(format!("{same} compared"))
}

/// The versions of each crate in a lock file.
fn locked(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let text = fs::read_to_string(path).at("reading", path)?;
    let mut crates: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let value = |line: &str, key: &str| {
        line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"').map(str::to_owned)
    };
    let mut name = None;
    for line in text.lines() {
        if let Some(found) = value(line, "name") {
            name = Some(found);
        } else if let (Some(version), Some(name)) = (value(line, "version"), name.take()) {
            crates.entry(name).or_default().push(version);
        }
    }
    if crates.is_empty() {
        return Err(Error::broken(format!("{} names no crate", path.display())));
    }
    Ok(crates)
}

/// No target without a corpus, none that is not run here.
fn complete(folder: &Path) -> Result<String> {
    let sources = folder.join("src/bin");
    let mut count = 0;
    for file in fs::read_dir(&sources).at("reading", &sources)? {
        let path = file.at("reading", &sources)?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == GUIDED.0 {
            continue;
        }
        if !RUNS.iter().any(|(known, _)| *known == name) {
            return Err(Error::broken(format!("{name} is not run: it is missing from this suite's list")));
        }
        let corpus = folder.join("corpus").join(&name);
        if fs::read_dir(&corpus).at("reading", &corpus)?.next().is_none() {
            return Err(Error::broken(format!("{} is empty", corpus.display())));
        }
        count += 1;
    }
    if count == RUNS.len() {
        return Ok(format!("{count} targets"));
    }
    Err(Error::broken(format!("there are {count} targets, and {} are to be run", RUNS.len())))
}
