//! `lucid-updated`: the device's update service. Exit status: 0 done, 1 it failed, 2 wrong usage.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use lucid_release_format::{Name, Version, metadata::MAX_ROOT};
use lucid_updated::{
    Error, Result,
    boot::{self, Arming, Machine, REBOOT_ARGUMENT},
    disk::Device,
    files::Folder,
    gate::{Check, Data, Program, Rdp, Socket},
    service::{After, Asked, Partitions, Parts, Service, Settings, Status, ask},
    source::{self, Limits, Source},
    trust::Trust,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Stands at the end of the help.
const AFTER: &str = "LUCID_LOG sets what is logged, as in LUCID_LOG=warn,lucid_updated=debug.\n\
    Exit status: 0 done, 1 it failed, 2 wrong usage.";
/// Where the kernel shows partitions.
const SYS: &str = "/sys/class/block";
/// The partition of the disk that plays the firmware in QEMU.
const FIRMWARE: &str = "firmware";

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
    /// Says what runs, what is being done, and how the last update ended.
    Status {
        #[command(flatten)]
        options: Options,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Options {
    /// Directory of what is kept: update.json, trust.json.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lucid-updated")]
    state: PathBuf,
    /// Directory for what is lost at power-off.
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
    /// The partition on which QEMU's stand-in for the firmware looks for a try. Without this the partition named `firmware`,
    /// where there is one; otherwise the machine is a Raspberry Pi.
    #[arg(long, value_name = "DEV")]
    firmware: Option<PathBuf>,
    /// Where releases come from: http://…, https://…, or a folder. With more than one, the next is asked where one fails.
    #[arg(long, value_name = "URL|DIR")]
    source: Vec<String>,
    /// Certificates (PEM) that are trusted to be the server, in place of the public authorities.
    #[arg(long, value_name = "FILE")]
    certificates: Option<PathBuf>,
    /// The kind of device.
    #[arg(long, value_name = "M")]
    machine: Name,
    /// The channel that is followed.
    #[arg(long, value_name = "C", default_value = "stable")]
    channel: Name,
    /// The root of trust that the image was built with.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/lucid/root.json")]
    root: PathBuf,
    /// The version of the system that runs.
    #[arg(long, value_name = "VERSION")]
    running: Version,
    /// When the image was built, in seconds since 1970: no clock before it is believed.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    built: i64,
    /// The port of the RDP host, which has to answer before a new system is kept.
    #[arg(long, value_name = "PORT", default_value_t = 3389)]
    port: u16,
    /// The socket of lucid-sessiond, which has to answer too.
    #[arg(long, value_name = "FILE", default_value = "/run/lucid-sessiond/recorder.sock")]
    sessiond: PathBuf,
    /// A program, with its arguments between spaces, that ends with success when all services have started.
    #[arg(long, value_name = "COMMAND")]
    settled: Option<String>,
    /// A new system has to be well within this time.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    within: Duration,
    /// How often a source is asked.
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Restarts into what is staged without anybody asking.
    #[arg(long)]
    automatic: bool,
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
    match what {
        What::Status { options, json } => status(&options, json),
        What::Run(options) => runtime.block_on(run(options)),
        What::Check(options) => runtime.block_on(once(options, Asked::Check)),
        What::Apply(options) => runtime.block_on(once(options, Asked::Apply)),
    }
}

fn status(options: &Options, json: bool) -> Result<()> {
    let (machine, trust) = (machine(options)?, trust(options)?);
    let store = Folder::new(options.state.clone())?;
    let status = Status::read(&store, &machine, &trust, options.running, &options.run)?;
    if json {
        println!("{}", serde_json::to_string(&status).map_err(|error| Error::Internal(error.to_string()))?);
    } else {
        println!("{}", status.words());
    }
    Ok(())
}

async fn run(options: Options) -> Result<()> {
    let store = Folder::new(options.state.clone())?;
    let _lock = store.lock()?;
    Service::open(parts(&options, store)?)?.run(signals()).await
}

/// What is asked for once: of the service, where it runs, or done here.
async fn once(options: Options, asked: Asked) -> Result<()> {
    let store = Folder::new(options.state.clone())?;
    let _lock = match store.lock() {
        Ok(lock) => lock,
        Err(Error::InUse(_)) => {
            ask(&options.state, asked)?;
            println!("the service was asked; `lucid-updated status` says how it goes");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut service = Service::open(parts(&options, store)?)?;
    if asked == Asked::Check {
        let looked = service.look().await?;
        for (version, words) in &looked.verdicts {
            println!("{version}: {words}");
        }
        if looked.verdicts.is_empty() {
            println!("there is no release for this device");
        }
        return Ok(());
    }
    if service.start().await? == After::On && service.round(Some(asked)).await? == After::On {
        return Err(Error::Nothing("there is no release that this device can take now".to_owned()));
    }
    println!("the machine restarts");
    Ok(())
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
    let firmware = match &options.firmware {
        Some(firmware) => Some(firmware.clone()),
        None => match boot::partition(Path::new(SYS), None, FIRMWARE) {
            Ok(firmware) => Some(firmware),
            Err(Error::NoPartition { .. }) => None,
            Err(error) => return Err(error),
        },
    };
    let arming = match firmware {
        Some(firmware) => Arming::StandIn { firmware },
        None => Arming::Pi { argument: REBOOT_ARGUMENT.into() },
    };
    Ok(Machine { boot: options.boot.clone(), select: Arc::new(select), arming })
}

fn trust(options: &Options) -> Result<Trust> {
    let root = read(&options.root, MAX_ROOT)?;
    Ok(Trust { root, scratch: options.run.join("scratch"), built: options.built })
}

fn parts(options: &Options, store: Folder) -> Result<Parts> {
    let authorities = options.certificates.as_deref().map(|path| read(path, 1 << 20)).transpose()?;
    let sources = options.source.iter();
    let sources = sources.map(|text| source::at(text, authorities.as_deref(), Limits::default()));
    let sources = sources.collect::<Result<Vec<Arc<dyn Source>>>>()?;
    let mut checks: Vec<Box<dyn Check>> = vec![Box::new(Data { dir: options.state.clone() })];
    if let Some(command) = &options.settled {
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words.next().ok_or_else(|| Error::Nothing("--settled names no program".to_owned()))?;
        let name = "all services have started";
        checks.push(Box::new(Program { name, program: program.into(), arguments: words.collect() }));
    }
    checks.push(Box::new(Socket { name: "the recorder answers", path: options.sessiond.clone() }));
    checks.push(Box::new(Rdp { port: options.port }));
    Folder::new(options.run.clone())?;
    Ok(Parts {
        store: Arc::new(store),
        boot: Arc::new(machine(options)?),
        slots: Arc::new(partitions(options)?),
        trust: trust(options)?,
        sources,
        checks,
        settings: Settings {
            machine: options.machine.to_string(),
            channel: options.channel.to_string(),
            running: options.running,
            within: options.within,
            every: options.every,
            automatic: options.automatic,
            requests: options.state.clone(),
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
