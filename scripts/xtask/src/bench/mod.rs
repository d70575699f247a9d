//! `scripts/bench`: Lucid beside the best of its kind, on one machine, in one run; no figure passes or fails.
//!
//! `rdp`: the RDP host beside xrdp, one client, one scripted work. `recording`: [`recording`]. `update`: [`update`].

mod cost;
mod hosts;
mod link;
mod measure;
mod probe;
pub(crate) mod recording;
mod table;
pub(crate) mod update;

use std::{fs, path::PathBuf};

use clap::Args;

use self::{
    hosts::{Host, Lucid, Xrdp},
    link::Link,
    measure::{Figures, Part, Plan},
};
use crate::{
    build,
    client::{Generation, Place},
    error::{At, Error, Result},
    progress::Steps,
    proxy::Shape,
    setup::{Project, setup},
};

/// A link as Tor gives one: 400 ms there and back, 200 kB/s.
const SLOW: Shape = Shape { delay_ms: 200, kilobytes_per_second: 200 };

/// What `scripts/bench rdp` may be told.
#[derive(Args)]
pub(crate) struct BenchArguments {
    /// How often each host is measured, one after the other.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Measures Lucid alone.
    #[arg(long)]
    lucid_only: bool,
    /// Measures beside other builds of lucid-rdp and lucid-desktop, in this directory, and not beside xrdp: what a change
    /// costs.
    #[arg(long, value_name = "DIR", conflicts_with = "lucid_only")]
    beside: Option<PathBuf>,
    /// Leaves the slow link out.
    #[arg(long)]
    fast_only: bool,
    /// Measures over the slow link alone.
    #[arg(long, conflicts_with = "fast_only")]
    slow_only: bool,
    /// Measures this part of the work alone.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Shortens everything, to see whether the bench itself works.
    #[arg(long)]
    quick: bool,
    /// Writes the results as a Markdown page to this file as well.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Measures and prints.
pub(crate) fn run(project: &Project, steps: &Steps, arguments: &BenchArguments) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        let why = "the bench makes a network namespace and a root of its own for xrdp, which takes root; run it as root";
        return Err(Error::CannotCheck(why.to_owned()));
    }
    setup(project, steps)?;
    build::host(project, steps, build::Host::Tools)?;
    let tools = build::trixie_tools(project, steps)?;
    let lucid = Lucid::prepare(project, steps, &tools, &[])?;
    let other = arguments.beside.as_deref().map(|programs| lucid.of(programs)).transpose()?;
    let alone = arguments.lucid_only || other.is_some();
    let xrdp = if alone { None } else { Some(Xrdp::prepare(project, steps)?) };
    let place = Place { project, tools: &tools, interrupt: &steps.interrupt };
    let dir = project.lucid.join("bench");

    let mut all: Vec<(Option<Shape>, String, Figures)> = Vec::new();
    let measured = (|| {
        let shapes: &[Option<Shape>] = match arguments {
            BenchArguments { fast_only: true, .. } => &[None],
            BenchArguments { slow_only: true, .. } => &[Some(SLOW)],
            _ => &[None, Some(SLOW)],
        };
        for shape in shapes {
            let plan = Plan::new(shape.is_some(), arguments.quick, arguments.only);
            for round in 1..=arguments.rounds {
                type Start<'a> = Box<dyn Fn() -> Result<Host> + 'a>;
                let mut starts: Vec<Start> = vec![Box::new(|| lucid.start(None, &steps.interrupt))];
                if let Some(other) = &other {
                    starts.push(Box::new(|| other.start(None, &steps.interrupt)));
                }
                if let Some(xrdp) = &xrdp {
                    starts.push(Box::new(|| xrdp.start(&steps.interrupt)));
                }
                for start in starts {
                    let link = Link::new()?;
                    let host = start()?;
                    let about = if shape.is_some() { "slow link" } else { "this machine" };
                    eprintln!("{}, {about}, round {round} of {} ...", host.name, arguments.rounds);
                    let figures = measure::host(&host, &link, *shape, &plan, place, Generation::Three, &dir)?;
                    all.push((*shape, host.name.clone(), figures));
                    steps.interrupt.check()?;
                }
            }
        }
        Ok(())
    })();
    // What was measured before something failed is worth seeing.
    let page = table::page(&all);
    println!("{page}");
    measured?;
    if let Some(path) = &arguments.write {
        fs::write(path, page).at("writing", path)?;
    }
    Ok(())
}
