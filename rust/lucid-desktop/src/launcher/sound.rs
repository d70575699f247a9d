//! Sound for the desktop's programs: a PipeWire of its own, whose only device is a pipe that leaves the sandbox.
//!
//! Two processes: PipeWire, which speaks PulseAudio's protocol as well, and WirePlumber, which links what plays to the
//! device. The device is PipeWire's own module for pipes: it writes without waiting and only while something plays, so
//! silence costs nothing and a reader that is slow or away holds nobody up. There is no hardware, no D-Bus and no
//! real-time priority in the sandbox, so none of it is looked for.

use super::{Launcher, LauncherError, pidfd};
use crate::launcher::runtime::RuntimeDirectory;
use lucid_desktop::sound::{CHANNELS, RATE};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The device, as programs list it.
const DEVICE: &str = "Remote client";

/// Running sound.
pub(super) struct Sound {
    /// The reading end.
    pub(super) pipe: OwnedFd,
    /// PipeWire's end.
    pub(super) ended: OwnedFd,
}

impl Launcher {
    /// Starts it in the runtime directory, where programs look for it.
    pub(super) fn start_sound(&self, runtime: &RuntimeDirectory) -> Result<Sound, LauncherError> {
        let paths = &self.paths;
        for (path, option) in [(&paths.pipewire, "--pipewire"), (&paths.wireplumber, "--wireplumber")] {
            std::fs::File::open(path).map_err(|source| LauncherError::NoFile {
                path: path.clone(),
                option,
                source,
            })?;
        }
        let fifo = runtime.path().join("sound");
        let config = runtime.path().join("pipewire.conf");
        for path in [&fifo, &paths.wireplumber] {
            if !path.as_os_str().as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(b))
            {
                return Err(LauncherError::Path(path.clone()));
            }
        }
        let doing = || format!("making the pipe {}", fifo.display());
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(LauncherError::system(doing()))?;
        // For writing as well: otherwise its reader would see an end whenever nobody has it open.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = rustix::fs::open(&fifo, flags, Mode::empty()).map_err(LauncherError::system(doing()))?;
        std::fs::write(&config, configuration(&fifo, &paths.wireplumber))
            .map_err(LauncherError::io(format!("writing {}", config.display())))?;
        let mut command = Command::new(&paths.pipewire);
        command.arg("-c").arg(&config).stdin(Stdio::null());
        self.environment(&mut command, runtime)?;
        // What WirePlumber misses (D-Bus, real-time priority) there is not for anybody.
        command.env("WIREPLUMBER_DEBUG", "E,mod.rt:0");
        let child = command.spawn().map_err(LauncherError::io("starting PipeWire"))?;
        Ok(Sound { pipe, ended: pidfd(Pid::from_child(&child))? })
    }
}

/// PipeWire's configuration. It works on 20 ms at a time, which is the length of the pieces that go to the client, whatever
/// programs would like: longer ones would come late, shorter ones would wake it more often.
fn configuration(fifo: &Path, wireplumber: &Path) -> String {
    let (fifo, wireplumber) = (fifo.display(), wireplumber.display());
    format!(
        r#"context.properties = {{
    core.daemon = true
    core.name = pipewire-0
    support.dbus = false
    settings.check-quantum = true
    settings.check-rate = true
    mem.allow-mlock = false
    default.clock.rate = {RATE}
    clock.power-of-two-quantum = false
    default.clock.quantum = {quantum}
    default.clock.min-quantum = {quantum}
    default.clock.max-quantum = {quantum}
    log.level = 1
}}
context.spa-libs = {{
    audio.convert.* = audioconvert/libspa-audioconvert
    support.* = support/libspa-support
}}
context.modules = [
    {{ name = libpipewire-module-protocol-native }}
    {{ name = libpipewire-module-metadata }}
    {{ name = libpipewire-module-spa-node-factory }}
    {{ name = libpipewire-module-client-node }}
    {{ name = libpipewire-module-access }}
    {{ name = libpipewire-module-adapter }}
    {{ name = libpipewire-module-link-factory }}
    {{ name = libpipewire-module-session-manager }}
    {{ name = libpipewire-module-protocol-pulse }}
    {{ name = libpipewire-module-pipe-tunnel
       args = {{
           tunnel.mode = sink
           pipe.filename = "{fifo}"
           node.name = lucid
           node.description = "{DEVICE}"
           audio.format = S16LE
           audio.rate = {RATE}
           audio.channels = {CHANNELS}
           audio.position = [ FL FR ]
       }} }}
]
pulse.properties = {{ server.address = [ "unix:native" ] }}
context.objects = [
    {{ factory = spa-node-factory
       args = {{
           factory.name = support.node.driver
           node.name = Dummy-Driver
           node.group = pipewire.dummy
           priority.driver = 20000
       }} }}
]
context.exec = [ {{ path = "{wireplumber}" args = "-p policy" }} ]
"#,
        quantum = RATE / 50,
    )
}
