//! `lucid-updated`: the device's update service. Exit status: 0 done, 1 it failed, 2 wrong usage.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use lucid_release_format::{Name, System, metadata::MAX_ROOT};
use lucid_updated::{
    Error, Result,
    boot::{self, Arming, COMPATIBLE, EEPROM_BUILT, Machine},
    disk::Device,
    files::Folder,
    gate::{Check, Data, Rdp, Records, Settled},
    journal::{self, Journalctl},
    service::{After, Asked, Partitions, Parts, Service, Settings, Status, ask, history},
    source::{self, Limits, Source},
    state::Outcome,
    trust::Trust,
    usb::Usb,
    when::Window,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Stands at the end of the help.
const AFTER: &str = "LUCID_LOG sets what is logged, as in LUCID_LOG=warn,lucid_updated=debug.\n\
    Exit status: 0 done, 1 it failed, 2 wrong usage.";
/// Where the kernel shows partitions.
const SYS: &str = "/sys/class/block";
/// Where the kernel has the files of devices.
const DEVICES: &str = "/dev";
/// Where it shows its driver of USB sticks.
const DRIVER: &str = "/sys/bus/usb/drivers/usb-storage";
/// The file beside `boot.json` by which lucid-init says that it has set the clock forward.
const CLOCK: &str = "clock-set-forward";
/// What that means.
const BEHIND: &str = "the clock is not set: it began at the latest time that this device knew of, and is behind by as long as \
                      it was off since; metadata that has expired meanwhile is not known to have";
/// A system that is being tried and cannot begin asks for a restart so often.
const LEAVING: Duration = Duration::from_secs(120);

/// Keeps a device on the newest release that its owner takes.
#[derive(Parser)]
#[command(version, after_help = AFTER)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Looks for releases, writes the newest into the other slot, and sees to it that a new system is well.
    Run(Options),
    /// Looks once, and says what there is. Where the service runs, it is asked to look, and to stage what there is.
    Check(Options),
    /// Takes the newest release and restarts into it, one that did not pass before too. Where the service runs, it is asked to.
    Apply(Options),
    /// Restarts into the system that ran before the last update, if it is still there as a whole. Where the service runs, it is
    /// asked to.
    Rollback(Options),
    /// Says what runs, what is being done, and how the last update ended.
    Status {
        #[command(flatten)]
        options: Options,
        /// As JSON, with all that is known.
        #[arg(long)]
        json: bool,
    },
    /// Says how the last updates ended, the newest last.
    History {
        #[command(flatten)]
        options: Options,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says that all services have started: writes the file for which the check of --settled looks.
    Settled {
        /// The file, in a directory that is there.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Args)]
struct Options {
    /// Directory of what is kept: update.json, trust.json, slots.json, schedule.json, before.json, autoboot.bak, failed-1.txt
    /// to failed-3.txt.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lucid-updated")]
    state: PathBuf,
    /// Directory for what is lost at power-off: status.json, request, judged.
    #[arg(long, value_name = "DIR", default_value = "/run/lucid-updated")]
    run: PathBuf,
    /// What lucid-init found at this boot.
    #[arg(long, value_name = "FILE", default_value = "/run/lucid/boot.json")]
    boot: PathBuf,
    /// The disk with the slots; its partitions are found by their names. The one that was booted without this.
    #[arg(long, value_name = "DEV")]
    disk: Option<PathBuf>,
    /// A partition of its own place: select, boot-a, boot-b, root-a, root-b. May be given more than once.
    #[arg(long, value_name = "NAME=FILE", value_parser = partition)]
    partition: Vec<(String, PathBuf)>,
    /// The partition on which QEMU's stand-in for the firmware looks for a try. Without this: none on a Raspberry Pi, by its
    /// device tree, and elsewhere the partition named `firmware`.
    #[arg(long, value_name = "DEV")]
    firmware: Option<PathBuf>,
    /// Where releases come from: http://…, https://…, or a folder. With more than one all are asked, and the newest release is
    /// taken.
    #[arg(long, value_name = "URL|DIR")]
    source: Vec<String>,
    /// Takes releases from USB sticks too, which are plugged in: from their folder `lucid`. None is mounted.
    #[arg(long)]
    usb: bool,
    /// Certificates (PEM) that are trusted to be the server, in place of the public authorities.
    #[arg(long, value_name = "FILE")]
    certificates: Option<PathBuf>,
    /// What the image says of itself: the kind of device, the version, when it was built.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/lucid/system.json")]
    system: PathBuf,
    /// The channel that is followed.
    #[arg(long, value_name = "C", default_value = "stable")]
    channel: Name,
    /// The root of trust that the image was built with.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/lucid/root.json")]
    root: PathBuf,
    /// The port of the RDP host, which has to answer before a new system is kept.
    #[arg(long, value_name = "PORT", default_value_t = 3389)]
    port: u16,
    /// The socket of lucid-sessiond's recorder, which has to seal a test record too.
    #[arg(long, value_name = "SOCKET")]
    sessiond: Option<PathBuf>,
    /// A file that is there when all services have started, which has to be so before a new system is kept.
    #[arg(long, value_name = "FILE")]
    settled: Option<PathBuf>,
    /// The program that reads the journal of a start that failed.
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/journalctl")]
    journalctl: PathBuf,
    /// A new system has to be well within this time.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    within: Duration,
    /// How often a source is asked.
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Restarts into what is staged without anybody asking.
    #[arg(long)]
    automatic: bool,
    /// The time of the day, in UTC, in which the machine may restart without anybody asking. It may pass midnight.
    #[arg(long, value_name = "HH:MM-HH:MM")]
    window: Option<Window>,
    /// A JSON file whose member `sessions` is the number of open sessions. Without anybody asking, the machine restarts when it
    /// is 0 or the file is not there, and after 24 hours in any case.
    #[arg(long, value_name = "FILE")]
    sessions: Option<PathBuf>,
    /// The RDP host's control socket: those who are connected are told of a restart, 60 seconds before (10 where somebody asked
    /// for it now), and their sessions end in order.
    #[arg(long, value_name = "SOCKET")]
    rdp_control: Option<PathBuf>,
    /// Fetching costs: releases are looked for, and fetched only when somebody asks, or from a USB stick or a folder.
    #[arg(long)]
    metered: bool,
}

fn partition(text: &str) -> std::result::Result<(String, PathBuf), String> {
    let names = ["select", "boot-a", "boot-b", "root-a", "root-b"];
    match text.split_once('=') {
        Some((name, path)) if names.contains(&name) => Ok((name.to_owned(), path.into())),
        _ => Err(format!("a partition is given as NAME=FILE, with one of {}", names.join(", "))),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // LUCID_LOG takes tracing's target=level list; what it gets wrong is not silently ignored.
    let filter = std::env::var("LUCID_LOG").unwrap_or_else(|_| "warn,lucid_updated=info".into());
    let filter: tracing_subscriber::filter::Targets = match filter.parse() {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("lucid-updated: LUCID_LOG: {error}; example: LUCID_LOG=warn,lucid_updated=debug");
            return ExitCode::from(2);
        }
    };
    // The journal has its own time stamps.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    tracing_subscriber::registry().with(filter).with(lines).init();
    match start(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lucid-updated: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(what: What) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    let runtime = runtime.map_err(|error| Error::Internal(format!("starting the runtime: {error}")))?;
    let done = match what {
        What::Status { options, json } => status(&options, json),
        What::History { options, json } => said(&options, json),
        What::Settled { file } => settled(&file),
        What::Run(options) => runtime.block_on(run(options)),
        What::Check(options) => runtime.block_on(once(options, Asked::Check)),
        What::Apply(options) => runtime.block_on(once(options, Asked::Apply)),
        What::Rollback(options) => runtime.block_on(once(options, Asked::Rollback)),
    };
    // A thread may wait for the disk still; what it does is as good as cut off.
    runtime.shutdown_background();
    done
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value).map_err(|error| Error::Internal(error.to_string()))?);
    Ok(())
}

fn status(options: &Options, json: bool) -> Result<()> {
    let (system, booted) = (system(options)?, boot::booted(&options.boot)?);
    let (store, trust) = (Folder::of(options.state.clone()), trust(options, &system)?);
    let status = Status::read(&store, booted, &trust, system.version, &options.run)?;
    if json {
        return print(&status);
    }
    println!("{}", status.words());
    Ok(())
}

/// How updates ended.
fn said(options: &Options, json: bool) -> Result<()> {
    let history = history(&Folder::of(options.state.clone()))?;
    if json {
        return print(&history);
    }
    for outcome in &history {
        let Outcome { at, .. } = outcome;
        let at = i64::try_from(*at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        let at = at.map_or_else(|| "at an unknown time".to_owned(), |at| at.to_string());
        println!("{at}: {}", outcome.words());
    }
    Ok(())
}

fn settled(file: &Path) -> Result<()> {
    let (Some(dir), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::Nothing(format!(
            "{} is no file: give one in a directory that is there",
            file.display()
        )));
    };
    Folder::of(dir.to_owned()).publish(name, b"")
}

async fn run(options: Options) -> Result<()> {
    let run = Folder::new(options.run.clone())?;
    let _lock = run.lock()?;
    match service(&options) {
        Ok(service) => {
            service.run(signals()).await;
            Ok(())
        }
        Err(error) => leave(&options, error).await,
    }
}

/// The service cannot begin. A system that is being tried is left then; whether it was committed cannot be asked either, and a
/// restart does no harm if it was.
async fn leave(options: &Options, error: Error) -> Result<()> {
    if !boot::booted(&options.boot).is_ok_and(|booted| booted.tried) {
        return Err(error);
    }
    tracing::error!("{error}; this system was started as a try, and is left");
    tokio::select! { () = signals() => Err(error), () = leaving() => Ok(()) }
}

/// Asks for a restart until the machine is gone.
async fn leaving() {
    loop {
        if let Err(error) = boot::restart() {
            tracing::error!("{error}; it is asked again in {} s", LEAVING.as_secs());
        }
        sleep(LEAVING).await;
    }
}

/// What is asked for once: of the service, where it runs, or done here as the service does it.
async fn once(options: Options, asked: Asked) -> Result<()> {
    let run = Folder::new(options.run.clone())?;
    let _lock = match run.lock() {
        Ok(lock) => lock,
        Err(Error::InUse(_)) => {
            ask(run.path(), asked)?;
            println!("the service was asked; `lucid-updated status` says how it goes");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut service = match service(&options) {
        Ok(service) => service,
        Err(error) if asked == Asked::Apply => return leave(&options, error).await,
        Err(error) => return Err(error),
    };
    if asked == Asked::Check {
        let looked = service.look().await?;
        for said in &looked.said {
            println!("{}: {}", said.version, said.words);
        }
        if looked.said.is_empty() {
            println!("there is no release for this device");
        }
        return Ok(());
    }
    if service.start().await? == After::On && service.round(Some(asked)).await? == After::On {
        return Err(Error::Nothing("there is no release that this device can take now".to_owned()));
    }
    println!("the machine restarts");
    tokio::select! { () = signals() => {}, () = service.restart() => {} }
    Ok(())
}

/// The service with all that it works with.
fn service(options: &Options) -> Result<Service> {
    let mut service = Service::open(parts(options)?)?;
    if options.usb {
        service = service.with_usb(Usb::new(SYS.into(), DEVICES.into(), DRIVER.into(), Limits::default()));
    }
    let clock = options.boot.with_file_name(CLOCK);
    match fs::exists(&clock) {
        Ok(false) => {}
        Ok(true) => service = service.with_trouble("clock", BEHIND.to_owned()),
        Err(source) => return Err(Error::File { doing: "looking for", path: clock, source }),
    }
    Ok(service)
}

fn partitions(options: &Options) -> Result<Partitions> {
    let given: HashMap<String, PathBuf> = options.partition.iter().cloned().collect();
    let disk = match &options.disk {
        Some(disk) => Some(disk.clone()),
        None if given.len() == 5 => None,
        None => Some(boot::disk(&options.boot)?),
    };
    Ok(Partitions { given, disk, sys: SYS.into() })
}

fn machine(options: &Options) -> Result<Machine> {
    let select = Device::shared(&partitions(options)?.path("select")?)?;
    let arming = match &options.firmware {
        Some(firmware) => Arming::StandIn { firmware: firmware.clone() },
        None => Arming::find(Path::new(COMPATIBLE), Path::new(SYS))?,
    };
    Ok(Machine { boot: options.boot.clone(), select: Arc::new(select), arming, built: EEPROM_BUILT.into() })
}

fn system(options: &Options) -> Result<System> {
    let path = &options.system;
    System::from_bytes(&read(path, System::MAX_BYTES)?)
        .map_err(|source| Error::System { path: path.clone(), source })
}

fn trust(options: &Options, system: &System) -> Result<Trust> {
    let root = read(&options.root, MAX_ROOT)?;
    Ok(Trust { root, scratch: options.run.join("scratch"), built: system.built })
}

fn parts(options: &Options) -> Result<Parts> {
    let system = system(options)?;
    let authorities = options.certificates.as_deref().map(|path| read(path, 1 << 20)).transpose()?;
    let sources = options.source.iter();
    let sources = sources.map(|text| source::at(text, authorities.as_deref(), Limits::default()));
    let sources = sources.collect::<Result<Vec<Arc<dyn Source>>>>()?;
    let kept = boot::booted(&options.boot)?.kept;
    let mut checks: Vec<Box<dyn Check>> = vec![Box::new(Data { dir: options.state.clone(), kept })];
    if let Some(socket) = options.sessiond.clone() {
        checks.push(Box::new(Records { socket }));
    }
    checks.push(Box::new(Rdp { port: options.port }));
    // Last: each of the others says more of what is wrong.
    if let Some(path) = options.settled.clone() {
        checks.push(Box::new(Settled { path }));
    }
    Ok(Parts {
        store: Arc::new(Folder::new(options.state.clone())?),
        boot: Arc::new(machine(options)?),
        slots: Arc::new(partitions(options)?),
        trust: trust(options, &system)?,
        sources,
        checks,
        journal: Arc::new(Journalctl { program: options.journalctl.clone(), longest: journal::LONGEST }),
        settings: Settings {
            system,
            channel: options.channel.to_string(),
            within: options.within,
            every: options.every,
            automatic: options.automatic,
            window: options.window,
            sessions: options.sessions.clone(),
            rdp: options.rdp_control.clone(),
            metered: options.metered,
            run: options.run.clone(),
        },
    })
}

/// A file of at most so many bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = |source| Error::File { doing: "reading", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(Error::Invalid { path: path.to_owned(), why: format!("it has more than {most} bytes") });
    }
    Ok(bytes)
}

async fn signals() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("signals cannot be caught ({error}); stopping will be abrupt");
            std::future::pending::<()>().await;
        }
    }
}
