//! The suites of `scripts/test`.

mod boot;
mod fuzz;
mod image;
mod policy;
mod rdp;
mod recording;
mod unit;
mod update;
mod video;

use std::{cell::OnceCell, path::PathBuf, thread, time::Instant};

use crate::{
    build::{self, When},
    error::{Error, Result},
    progress::Steps,
    setup::{Project, setup},
    suite::{Report, timed},
};

/// One suite.
struct Suite {
    name: &'static str,
    about: &'static str,
    run: fn(&Context, &mut Report) -> Result<()>,
}

/// In the order in which they run: first what finds most mistakes, then what leaves time to compile for the others meanwhile.
const SUITES: [Suite; 10] = [
    Suite { name: "unit", about: "format, every crate's own tests, the README's claims", run: unit::run },
    Suite { name: "rdp", about: "real RDP clients, on this machine and in QEMU", run: rdp::run },
    Suite {
        name: "policy",
        about: "what a session may do: consent, gates, approvals, with real clients",
        run: policy::run,
    },
    Suite {
        name: "recording",
        about: "recordings: two verifiers that agree on thousands of damages; a machine that records, and power cuts",
        run: recording::run,
    },
    Suite {
        name: "video",
        about: "hardware encoders: our V4L2 queues with a virtual codec of the kernel, in QEMU",
        run: video::run,
    },
    Suite {
        name: "image",
        about: "the disk image: reproducible, sealed, small, nothing on it to run",
        run: image::run,
    },
    Suite {
        name: "boot",
        about: "the machine in QEMU: start, slots, damage, provisioning, memory",
        run: boot::run,
    },
    Suite {
        name: "update",
        about: "releases reach the machine in QEMU, or it is back on the old system and says why",
        run: update::run,
    },
    Suite {
        name: "fuzz",
        about: "everything that reads bytes of others: recorded clients, and inputs that coverage finds",
        run: fuzz::run,
    },
    Suite { name: "lint", about: "what the compiler's lints have to say", run: unit::lint },
];

/// What the suites share.
struct Context<'a> {
    project: &'a Project,
    steps: &'a Steps,
    host: OnceCell<()>,
    image: OnceCell<PathBuf>,
    tools: OnceCell<PathBuf>,
    /// Whether the checks that take too long for every run are made as well.
    long: bool,
}

impl<'a> Context<'a> {
    fn new(project: &'a Project, steps: &'a Steps) -> Self {
        let (host, image, tools) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { project, steps, host, image, tools, long: false }
    }

    /// Builds everything for this machine; once in a run.
    fn host(&self) -> Result<()> {
        if self.host.get().is_none() {
            build::host(self.project, self.steps, build::Host::AsForTests)?;
            self.host.get_or_init(|| ());
        }
        Ok(())
    }

    /// The image's folder; built once in a run.
    fn image(&self) -> Result<PathBuf> {
        if let Some(image) = self.image.get() {
            return Ok(image.clone());
        }
        self.host()?;
        let built = build::image(self.project, self.steps)?;
        Ok(self.image.get_or_init(|| built).clone())
    }

    /// The tree with programs of Debian 13; made once in a run.
    fn tools(&self) -> Result<PathBuf> {
        if let Some(tools) = self.tools.get() {
            return Ok(tools.clone());
        }
        self.host()?;
        let made = build::trixie_tools(self.project, self.steps)?;
        Ok(self.tools.get_or_init(|| made).clone())
    }
}

/// Prints the suites.
pub(crate) fn list() {
    for suite in &SUITES {
        println!("{:<9} {}", suite.name, suite.about);
    }
}

/// The names of all suites.
fn names() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name).collect()
}

/// What is asked for.
pub(crate) struct Wanted {
    /// The suites; all when there is none.
    pub(crate) names: Vec<String>,
    /// Only checks whose names begin so.
    pub(crate) only: String,
    /// The checks that take too long for every run as well.
    pub(crate) long: bool,
}

/// Runs what is asked for; gives whether all is well.
pub(crate) fn run(project: &Project, steps: &Steps, wanted: &Wanted) -> Result<bool> {
    let Wanted { names: wanted, only, long } = wanted;
    if let Some(unknown) = wanted.iter().find(|name| !names().contains(&name.as_str())) {
        return Err(Error::broken(format!("there is no suite {unknown}, only {}", names().join(", "))));
    }
    setup(project, steps)?;
    let context = Context { long: *long, ..Context::new(project, steps) };
    let mut report = Report::new(only);
    let suites =
        SUITES.iter().filter(|suite| wanted.is_empty() || wanted.iter().any(|name| name == suite.name));
    thread::scope(|scope| {
        if wanted.is_empty() {
            // That leaves no time, and what is tested first needs it.
            context.host()?;
            scope.spawn(|| ahead(project, steps));
        }
        for suite in suites {
            run_suite(suite, &context, &mut report)?;
        }
        Ok(report.finish())
    })
}

/// Compiles what later suites need. They do it again, which takes no time then; cargo lets them wait until this is over, and
/// whatever fails here fails there, and is told there.
fn ahead(project: &Project, steps: &Steps) {
    let device = build::compile_services(project, When::Idle);
    let targets = fuzz::compile(project, When::Idle);
    let lints = unit::clippy(project, When::Idle);
    let all = [("the device's services", device), ("the fuzz targets", targets), ("for the lints", lints)];
    for (name, mut command) in all {
        let _ = steps.run(&format!("building ahead {name}"), &mut command);
    }
}

/// Runs one suite.
fn run_suite(suite: &Suite, context: &Context, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    report.begin(suite.name);
    // What stops a whole suite is a failure like any other, and the next suite still runs.
    match (suite.run)(context, report) {
        Ok(()) => {}
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => {
            // Whatever was asked for: it is about all of its checks.
            report.record("the suite can be run to its end", timed(|| Err::<&str, _>(error)));
        }
    }
    println!("{}: {} s", suite.name, began.elapsed().as_secs());
    context.steps.interrupt.check()
}
