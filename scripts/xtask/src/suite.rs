//! The harness: each check has a name that is the property it shows, one line, and a verdict.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// All that was found out so far.
pub(crate) struct Report {
    suite: &'static str,
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
    /// Only checks whose names begin so are made.
    only: String,
}

/// What one piece of work that was timed elsewhere (in another thread) gave.
pub(crate) struct Timed<T> {
    /// Its result.
    pub(crate) result: Result<T>,
    /// How long it took.
    pub(crate) spent: Duration,
}

/// Times a piece of work.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Timed<T> {
    let start = Instant::now();
    let result = work();
    Timed { result, spent: start.elapsed() }
}

impl Report {
    /// Nothing found out yet. Only checks whose names begin with `only` will be made.
    pub(crate) fn new(only: &str) -> Self {
        let failures = Vec::new();
        Self { suite: "", passed: 0, failed: 0, skipped: 0, failures, only: only.to_owned() }
    }

    /// Whether checks whose names begin with `prefix` may be among those to be made, so that what they stand on is
    /// needed.
    pub(crate) fn wants(&self, prefix: &str) -> bool {
        prefix.starts_with(&self.only) || self.only.starts_with(prefix)
    }

    /// Whether the check of this name is to be made.
    pub(crate) fn names(&self, name: &str) -> bool {
        name.starts_with(&self.only)
    }

    /// From here on the checks belong to `suite`.
    pub(crate) fn begin(&mut self, suite: &'static str) {
        self.suite = suite;
        println!("\n{suite}");
    }

    /// Makes a check; `work` gives the figures to show beside it. Gives whether it passed; one that was not asked for
    /// counts as passed, for those that follow.
    pub(crate) fn check<T: Display>(&mut self, name: impl Display, work: impl FnOnce() -> Result<T>) -> bool {
        let name = name.to_string();
        if !self.names(&name) {
            return true;
        }
        let outcome = timed(work);
        self.record(name, outcome)
    }

    /// As [`Self::check`], for work that gives a value on the way; nothing if it failed. It is also made for the
    /// checks that have the same name up to the last colon.
    pub(crate) fn obtain<T>(
        &mut self,
        name: impl Display,
        figures: impl FnOnce(&T) -> String,
        work: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        let name = name.to_string();
        if !self.wants(name.rsplit_once(':').map_or(name.as_str(), |(stem, _)| stem)) {
            return None;
        }
        let Timed { result, spent } = timed(work);
        match result {
            Ok(value) => {
                self.record(name, Timed { result: Ok(figures(&value)), spent });
                Some(value)
            }
            Err(error) => {
                self.record(name, Timed::<String> { result: Err(error), spent });
                None
            }
        }
    }

    /// Takes down the verdict on a property. Gives whether it holds.
    pub(crate) fn record<T: Display>(&mut self, name: impl Display, outcome: Timed<T>) -> bool {
        let seconds = outcome.spent.as_secs_f64();
        match outcome.result {
            Ok(figures) => {
                self.passed += 1;
                println!("ok      {name} ({seconds:.1} s) {figures}");
                true
            }
            Err(Error::CannotCheck(why)) => {
                self.skipped += 1;
                println!("skipped {name}: {why}");
                false
            }
            Err(error) => {
                self.failed += 1;
                let text = format!("FAILED  {name} ({seconds:.1} s)\n        {}", indent(&error.to_string()));
                println!("{text}");
                self.failures.push(format!("{}: {text}", self.suite));
                false
            }
        }
    }

    /// Takes over what another test runner counted.
    pub(crate) fn add(&mut self, passed: usize, failed: &[String], skipped: usize) {
        self.passed += passed;
        self.failed += failed.len();
        self.skipped += skipped;
        self.failures.extend(failed.iter().map(|text| format!("{}: FAILED  {text}", self.suite)));
    }

    /// Says everything that failed once more, and the counts. Gives whether all is well.
    pub(crate) fn finish(self) -> bool {
        if !self.failures.is_empty() {
            println!("\nWhat failed:");
            for failure in &self.failures {
                println!("{failure}");
            }
        }
        if !self.only.is_empty() {
            println!("\nOnly checks whose names begin with \"{}\" were made.", self.only);
        }
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        println!("\n{} passed, {} failed{skipped}", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}

fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n        ")
}

/// A small generator of numbers that are the same in every run (splitmix64, public domain, by Sebastiano Vigna):
/// what it picks is for trying many places, not for secrets.
pub(crate) struct Picks(u64);

impl Picks {
    /// The same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
