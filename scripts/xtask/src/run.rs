//! `scripts/run`: a machine to look at, until Ctrl-C.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    build,
    error::{At, Error, Result},
    machine::{self, Announcement, CPU, Disks, Machine, Options},
    progress::{Steps, ask_well},
    recordings,
    setup::{Project, setup},
};

/// The port that is tried first, so that a written-down command line stays true.
const USUAL_PORT: u16 = 3390;
/// What the card is grown to: an image on a real card has room for its data as well.
const CARD_BYTES: u64 = 4 << 30;

/// What `scripts/run` may be told.
#[derive(clap::Args)]
pub(crate) struct RunArguments {
    /// Keep the machine's disk for the next run with --keep, with its account and everything else.
    #[arg(long)]
    keep: bool,
    /// The port on this machine; otherwise 3390, or a free one when that is taken.
    #[arg(long)]
    port: Option<u16>,
    /// QEMU's name of the processor.
    #[arg(long, default_value = CPU)]
    cpu: String,
    /// A provisioning file to put onto the card. Without it there is one with an owner's key, so that sessions are
    /// recorded.
    #[arg(long, value_name = "LUCID.TOML")]
    config: Option<PathBuf>,
    /// Copy the recordings of the machine that ran last (with --keep: of the kept one) into a new folder, and end.
    #[arg(long, value_name = "DIR")]
    recordings: Option<PathBuf>,
}

/// Builds what is out of date, boots it, says how to connect, and waits for Ctrl-C.
pub(crate) fn run(project: &Project, steps: &Steps, arguments: &RunArguments) -> Result<()> {
    let start = Instant::now();
    let dir = project.lucid.join("machine").join(if arguments.keep { "kept" } else { "run" });
    if let Some(to) = &arguments.recordings {
        return recordings::fetch(&dir, to);
    }
    setup(project, steps)?;
    build::host(project, steps, build::Host::Tools)?;
    let image = build::image(project, steps)?;
    let secret = dir.join("password");
    let owner = Owner::make(project)?;
    let disks = if arguments.keep && dir.join("lucid.img").exists() {
        eprintln!("Using the disk that was kept in {}; delete that folder to start anew.", dir.display());
        Disks::kept(&dir)
    } else {
        let disks = Disks::copy(&image, &dir)?;
        disks.grow(CARD_BYTES)?;
        disks.provision(&owner.config())?;
        disks
    };
    if let Some(config) = &arguments.config {
        disks.provision(&fs::read_to_string(config).at("reading", config)?)?;
    }
    let port = match arguments.port {
        Some(port) => port,
        None if std::net::TcpListener::bind(("127.0.0.1", USUAL_PORT)).is_ok() => USUAL_PORT,
        None => machine::free_port()?,
    };
    let options = Options { cpu: arguments.cpu.clone(), port: Some(port), ..Options::default() };
    eprintln!(
        "Starting QEMU after {:.1} s; console log: {}",
        start.elapsed().as_secs_f64(),
        dir.join("console.log").display()
    );
    let mut machine = Machine::start(&disks, &options, &steps.interrupt)?;
    let outcome = connectable(&mut machine, &secret, &owner, arguments.keep).and_then(|()| {
        steps.interrupt.wait_for("the machine's end", Duration::MAX, || {
            // A machine that was shut down from within is no failure either.
            Ok(machine.has_ended()?.then_some(()))
        })
    });
    match outcome {
        Err(Error::Interrupted) => {
            eprintln!("\nShutting the machine down ...");
            eprintln!("{}", machine.end());
            Ok(())
        }
        Err(error) => {
            eprintln!("{}", machine.end());
            Err(error)
        }
        Ok(()) => {
            eprintln!("The machine has ended.");
            Ok(())
        }
    }
}

/// Waits until a client can connect, and says how.
fn connectable(machine: &mut Machine, secret: &std::path::Path, owner: &Owner, kept: bool) -> Result<()> {
    let announcement = machine.wait_ready(0)?;
    println!("\nReady {:.1} s after QEMU was started.", machine.started.elapsed().as_secs_f64());
    let password = match announcement.fresh_password() {
        Some(fresh) => {
            keep_secret(secret, fresh)?;
            Some(fresh.to_owned())
        }
        None => fs::read_to_string(secret).ok(),
    };
    print!(
        "{}",
        how_to_connect(
            machine.port,
            &announcement,
            password.as_deref(),
            &machine.console.display().to_string()
        )
    );
    let console = machine.console()?;
    print!("{}", owner.how_to_look(&announcement, Announcement::device_key(&console), kept));
    println!("\nCtrl-C ends the machine.");
    Ok(())
}

/// The key pair of whoever may open what the machines here record.
struct Owner {
    lucidctl: PathBuf,
    key: PathBuf,
    public: String,
}

impl Owner {
    /// Makes it, once; it stays beside the machines.
    fn make(project: &Project) -> Result<Self> {
        let lucidctl = build::host_program(project, "lucidctl");
        let (key, public) = (project.lucid.join("owner.key"), project.lucid.join("owner.pub"));
        if !key.exists() {
            let mut make = project.command(&lucidctl.to_string_lossy());
            make.args(["recording", "new-key", "--json"]).arg(&key);
            let said = ask_well("making an owner's key", &mut make, b"")?;
            let said: Value = serde_json::from_slice(&said.out)
                .map_err(|error| Error::talk("lucidctl recording new-key", error))?;
            let text = said["public"].as_str().unwrap_or_default();
            fs::write(&public, text).at("writing", &public)?;
        }
        let text = fs::read_to_string(&public).at("reading", &public)?;
        Ok(Self { lucidctl, key, public: text.trim().to_owned() })
    }

    /// A `lucid.toml` with its public half.
    fn config(&self) -> String {
        format!("[policy]\nprofile = \"standard\"\n\n[recording]\nowner = \"{}\"\n", self.public)
    }

    /// How to look at what was recorded, or why there is nothing.
    fn how_to_look(&self, announcement: &Announcement, device: Option<&str>, kept: bool) -> String {
        let said = format!("  recording    {}\n", announcement.recording);
        if announcement.recording != Announcement::RECORDED {
            return said;
        }
        let keep = if kept { "--keep " } else { "" };
        let (tool, key) = (self.lucidctl.display(), self.key.display());
        let device = device.map_or_else(String::new, |key| format!(" --device {key}"));
        format!(
            "{said}  owner's key  {key} (unless lucid.toml names another)\n\nWhen it has ended, what was recorded is \
             copied off its disk and proved so:\n\n  scripts/run {keep}--recordings DIR\n  \
             {tool} recording verify --key {key}{device} DIR/recordings/SESSION\n"
        )
    }
}

/// The lines for whoever wants to connect.
fn how_to_connect(port: u16, announcement: &Announcement, password: Option<&str>, console: &str) -> String {
    let Announcement { user, fingerprint, .. } = announcement;
    let shown = password.unwrap_or(&announcement.password);
    let given = password.map_or_else(String::new, |password| format!(" /p:'{password}'"));
    let certificate = format!("/cert:fingerprint:sha256:{}", fingerprint.to_lowercase());
    let common = format!("/v:127.0.0.1:{port} /u:{user}{given} {certificate} /size:1280x720");
    format!(
        "\n  xfreerdp {common} /gfx-h264:AVC420\n\nor, with FreeRDP 3:\n\n  xfreerdp3 {common} /gfx:AVC420\n\n\
         \x20 user         {user}\n  password     {shown}\n  fingerprint  sha256 {fingerprint}\n  \
         console log  {console}\n"
    )
}

/// Keeps the password beside the disk that it belongs to, for its owner alone.
fn keep_secret(path: &std::path::Path, password: &str) -> Result<()> {
    if path.exists() {
        fs::remove_file(path).at("deleting", path)?;
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at("making", path)?;
    file.write_all(password.as_bytes()).at("writing", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_port_account_password_and_fingerprint() {
        let announcement = Announcement {
            addresses: vec!["10.0.2.15:3389".to_owned()],
            user: "lucid".to_owned(),
            password: "aaaa-bbbb-cccc".to_owned(),
            fingerprint: "AA:BB".to_owned(),
            recording: Announcement::RECORDED.to_owned(),
        };
        let text = how_to_connect(3390, &announcement, announcement.fresh_password(), "c.log");
        assert!(text.contains(
            "xfreerdp /v:127.0.0.1:3390 /u:lucid /p:'aaaa-bbbb-cccc' /cert:fingerprint:sha256:aa:bb /size:1280x720"
        ));
    }
}
