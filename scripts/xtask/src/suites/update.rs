//! The machine in QEMU with a web server beside it: its owner publishes a release, and the machine is on the new system or back
//! on the old one by itself, and says which and why.
//!
//! Releases are signed by two and published with `lucid-release` ([`releases`]), given out by nginx ([`web`]), and taken by
//! the device's own service. From outside it is seen by its console, where an overlay lets the service say what goes into the
//! journal too, and by its card once it is off ([`device`]).
//!
//! - `taken`: from one version to the next, twice (with `--long` three times), on one card; and a full download.
//! - `fault`: systems that do not come up. Each case starts from a copy of one card on which a release was staged and a try
//!   armed, with another system put into the slot that is tried, as staging would have; so none has to stage anything.
//! - `cut`: the plug is pulled at every write step of an update and at random moments, made from a record of what the card was
//!   told ([`cuts`]).
//! - `people`: somebody is connected when the machine restarts (with `--long`).
//! - `usb`: a stick is all that the machine has: it is plugged in, pulled out and put back, and is not what it says.
//! - `attack`: what a server can do. Other attacks need no network, and are tests of lucid-updated.
//!
//! The run of every day takes some ten minutes under emulation; one with `--long`, an hour and more. Only that one goes to a
//! third version, fetches all of a release, has other faults than a recorder that cannot write, meets the server that drips,
//! records an update that falls back, and starts the machine after a cut at every write step. LUCID_POWER_CUTS says at how many
//! random moments the plug is pulled, and that the machine is started after each of them (a minute each, two at a time;
//! LUCID_POWER_MACHINES says otherwise); LUCID_POWER_SEED another seed.

mod attacks;
mod cuts;
mod device;
mod faults;
mod people;
mod releases;
mod taken;
mod usb;
mod web;

use std::{fs, path::PathBuf};

use serde_json::Value;

use super::Context;
use crate::{
    build,
    error::{At, Error, Result},
    machine::{Disks, Options, Scratch, free_port},
    progress::{Steps, ask_well},
    setup::{Project, web_server},
    suite::Report,
};

use self::{
    device::{PASSWORD, USER},
    releases::Releases,
    web::Web,
};

/// Of a card that is larger than the image, as every real one is.
const CARD_BYTES: u64 = 2 << 30;
/// What every card begins with.
const FIRST: &str = "1.0.0";
/// What it is brought to first.
const SECOND: &str = "1.1.0";

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    // The variants are made of what it is made of.
    context.image()?;
    let bench = Bench::make(context)?;
    let mut web = Web::new(
        web_server(context.project, context.steps)?,
        bench.work.join("nginx"),
        bench.port,
        &context.steps.interrupt,
    )?;
    let mut lives = Vec::new();
    if ["taken", "attack", "fault", "cut"].into_iter().any(|group| report.wants(group)) {
        taken::run(&bench, &mut web, report, &mut lives)?;
    }
    if report.wants("fault") && bench.armed().join("lucid.img").exists() {
        faults::run(&bench, &mut web, report)?;
    }
    // Without both of them, what was to be recorded has failed already.
    if report.wants("cut") && lives.len() == 2 {
        cuts::run(&bench, &mut web, lives, report)?;
    }
    if bench.long && report.wants("people") {
        people::run(&bench, &mut web, report)?;
    }
    if report.wants("usb") {
        usb::run(&bench, report)?;
    }
    Ok(())
}

/// What all parts of the suite need.
struct Bench<'a> {
    project: &'a Project,
    steps: &'a Steps,
    /// Whether the checks that take too long for every run are made.
    long: bool,
    /// Emptied at the start.
    work: PathBuf,
    releases: Releases<'a>,
    /// Of this machine, for whoever gives out releases.
    port: u16,
    /// The public half of an owner's key, so that there is a recorder.
    owner: String,
    /// How many power cuts there are, and of what seed.
    cuts: cuts::Settings,
}

impl<'a> Bench<'a> {
    fn make(context: &Context<'a>) -> Result<Self> {
        let Context { project, steps, long, .. } = *context;
        let cuts = cuts::Settings::read()?;
        let work = project.lucid.join("update");
        if work.exists() {
            fs::remove_dir_all(&work).at("emptying", &work)?;
        }
        fs::create_dir_all(&work).at("making", &work)?;
        let mut make = project.command(&build::host_program(project, "lucidctl").to_string_lossy());
        make.args(["recording", "new-key", "--json"]).arg(work.join("owner.key"));
        let made = ask_well("making an owner's key", &mut make, b"")?;
        let made: Value = serde_json::from_slice(&made.out)
            .map_err(|error| Error::talk("lucidctl recording new-key", error))?;
        let owner = made["public"].as_str().unwrap_or_default().to_owned();
        let port = free_port()?;
        let releases = Releases::make(project, steps, &work, port)?;
        Ok(Self { project, steps, long, work, releases, port, owner, cuts })
    }

    /// A card with the first version, an account and an owner's key, whose other slot is blank.
    fn card(&self, name: &str) -> Result<Scratch> {
        self.card_of(name, &self.releases.image(FIRST, FIRST, &[])?)
    }

    /// The same with an image of one's own.
    fn card_of(&self, name: &str, image: &Disks) -> Result<Scratch> {
        self.card_with(name, image, &format!("[update]\nsource = \"http://10.0.2.2:{}\"\n", self.port))
    }

    /// The same, with this at the end of its `lucid.toml`.
    fn card_with(&self, name: &str, image: &Disks, update: &str) -> Result<Scratch> {
        let disks = Disks::scratch(&image.dir, &self.machine(name))?;
        disks.grow(CARD_BYTES)?;
        device::clear(&disks, "b")?;
        disks.provision(&format!(
            "[rdp]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n\n[policy]\nprofile = \"standard\"\n\n\
             [recording]\nowner = \"{}\"\n\n{update}",
            self.owner
        ))?;
        Ok(disks)
    }

    /// A folder to give out in which [`SECOND`] is the newest release; it is published for the first who asks.
    fn first_release(&self) -> Result<PathBuf> {
        let copy = self.work.join("web-first");
        if !copy.exists() {
            self.releases.publish(SECOND)?;
            self.releases.copy("web-first")?;
            if self.cuts.falls_back(self.long) {
                self.forked()?;
            }
        }
        Ok(copy)
    }

    /// The repository that goes on from [`SECOND`] with a release that does not pass.
    fn forked(&self) -> Result<Releases<'a>> {
        self.releases.fork("bad")
    }

    /// The folder of a machine.
    fn machine(&self, name: &str) -> PathBuf {
        self.project.lucid.join("machine").join(format!("update-{name}"))
    }

    /// The folder of the card on which a try of [`SECOND`] in slot B is armed.
    fn armed(&self) -> PathBuf {
        self.work.join("armed")
    }

    /// How machines are started here.
    fn options(&self) -> Options {
        Options { watchdog: true, ..Options::default() }
    }
}
