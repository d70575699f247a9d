//! Format, the tests of every crate, and what the README claims; and, as a suite of its own, lints.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use super::Context;
use crate::{
    build::{When, cargo},
    client::foreign_wrapper,
    error::{At, Error, Result},
    setup::Project,
    suite::Report,
};

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let Context { project, steps, .. } = context;
    report.check("every file is formatted", || {
        steps.run("cargo fmt", project.command("cargo").args(["fmt", "--all", "--check"])).map(|_| "")
    });
    crates(context, report)?;
    report.check("the README names only commands, suites and files that exist", || readme(project));
    Ok(())
}

/// Runs the suite of lints.
pub(super) fn lint(context: &Context, report: &mut Report) -> Result<()> {
    let Context { project, steps, .. } = context;
    report.check("no lint has anything to say", || {
        steps.run("cargo clippy", &mut clippy(project, When::Now)).map(|_| "")
    });
    Ok(())
}

/// What looks for them.
pub(super) fn clippy(project: &Project, when: When) -> Command {
    let mut clippy = cargo(project, when);
    clippy.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    clippy
}

/// The tests of all crates; each counts.
fn crates(context: &Context, report: &mut Report) -> Result<()> {
    let Context { project, steps, .. } = context;
    let mut nextest = project.command("cargo");
    // The device's, not that of this machine.
    let sway = foreign_wrapper(project, &context.tools()?, "usr/bin/sway", &project.lucid.join("sway"))?;
    nextest.env("LUCID_TEST_SWAY", sway);
    nextest.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=fail", "--color=never"]);
    nextest.args(["--status-level=pass", "--final-status-level=slow", "--show-progress=none"]);
    let outcome = steps.run("cargo nextest", &mut nextest);
    let log = steps.log_path("cargo nextest");
    let text = fs::read_to_string(&log).at("reading", &log)?;
    let Some(summary) = Summary::parse(&text) else {
        // It was not even built: the log's end says why.
        report.check("the crates' tests can be run", || outcome.map(|_| ""));
        return Ok(());
    };
    println!(
        "        cargo nextest: {} passed, {} failed, {} skipped",
        summary.passed,
        summary.failed.len(),
        summary.skipped
    );
    for failure in &summary.failed {
        println!("FAILED  {failure}; see {}", log.display());
    }
    report.add(summary.passed, &summary.failed, summary.skipped);
    if let (Err(error), true) = (outcome, summary.failed.is_empty()) {
        report.check("the crates' tests come to a good end", || Err::<&str, _>(error));
    }
    Ok(())
}

/// What nextest counted.
struct Summary {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Summary {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().rev().find(|line| line.trim_start().starts_with("Summary ["))?;
        let count = |word: &str| {
            line.split([',', ':'])
                .find_map(|part| {
                    let mut words = part.split_whitespace();
                    let number = words.next()?.parse().ok()?;
                    (words.next()? == word).then_some(number)
                })
                .unwrap_or(0)
        };
        let ended_badly =
            ["FAIL [", "SIGABRT [", "SIGSEGV [", "SIGKILL [", "TIMEOUT [", "LEAK-FAIL [", "XFAIL ["];
        let failed: BTreeSet<String> = text
            .lines()
            .map(str::trim_start)
            .filter(|line| ended_badly.iter().any(|word| line.starts_with(word)))
            .filter_map(|line| Some(line.split_once(']')?.1.trim().to_owned()))
            .collect();
        Some(Self {
            passed: count("passed"),
            failed: failed.into_iter().collect(),
            skipped: count("skipped"),
        })
    }
}

/// Checks the README's commands, suites and links.
fn readme(project: &Project) -> Result<String> {
    let path = project.root.join("README.md");
    let text = fs::read_to_string(&path).at("reading", &path)?;
    let mut wrong = Vec::new();
    let mut checked = 0;
    for word in text.split(|c: char| c.is_whitespace() || "`()[]\"'<>".contains(c)) {
        let word = word.trim_end_matches(['.', ',', ':', ';']);
        // A word that begins with a slash is an option of a client's, or a path on the device.
        let local = word.contains('/')
            && !word.starts_with('/')
            && !word.contains("://")
            && project.root.join(first_folder(word)).is_dir();
        if local && !word.contains(['*', '…', '{']) {
            checked += 1;
            let file = project.root.join(word.split('#').next().unwrap_or(word));
            // What is built does not exist before it is built.
            if !word.starts_with("target/") && !file.exists() {
                wrong.push(format!("{word} does not exist"));
            } else if is_entry(word, project) && !executable(&file) {
                wrong.push(format!("{word} cannot be started"));
            }
        }
    }
    for name in suites_named(&text) {
        checked += 1;
        if !super::names().contains(&name) {
            wrong.push(format!("`scripts/test {name}`: there is no such suite"));
        }
    }
    if checked == 0 {
        wrong.push("it names none at all".to_owned());
    }
    if wrong.is_empty() { Ok(format!("{checked} checked")) } else { Err(Error::broken(wrong.join("\n"))) }
}

/// The suites that stand behind `scripts/test` on a line of a code block or in a piece of code in a sentence.
fn suites_named(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    let pieces = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    lines
        .chain(pieces)
        .filter_map(|code| code.strip_prefix("scripts/test ")?.split('#').next())
        .flat_map(str::split_whitespace)
        .filter(|word| !word.starts_with('-') && !word.starts_with("NAME"))
        .collect()
}

fn first_folder(word: &str) -> &str {
    word.trim_start_matches("./").split('/').next().unwrap_or(word)
}

/// Whether a word is one of the commands in `scripts/`.
fn is_entry(word: &str, project: &Project) -> bool {
    word.strip_prefix("scripts/")
        .is_some_and(|name| !name.contains(['/', '.']) && project.root.join(word).is_file())
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_counts_are_read() {
        let text = "        PASS [   0.004s] (1/3) xtask a\n        FAIL [   0.004s] (2/3) xtask b::c\n\
                    ────────────\n     Summary [   0.009s] 3 tests run: 2 passed (1 slow), 1 failed, 4 skipped\n\
                            FAIL [   0.004s] (2/3) xtask b::c\n";
        let summary = Summary::parse(text).unwrap();
        assert_eq!((summary.passed, summary.skipped), (2, 4));
        assert_eq!(summary.failed, ["(2/3) xtask b::c"]);
    }

    #[test]
    fn suites_are_read_from_code_and_not_from_sentences() {
        let text = "Run `scripts/test boot rdp` or\n```\nscripts/test unit   # quick\nscripts/test --list\n```\n\
                    What scripts/test does is said below: `scripts/test NAME...`.\n";
        let mut names = suites_named(text);
        names.sort_unstable();
        assert_eq!(names, ["boot", "rdp", "unit"]);
    }

    #[test]
    fn no_summary_is_no_success() {
        assert!(Summary::parse("error: could not compile").is_none());
    }
}
