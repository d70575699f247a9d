//! Starting desktops and ending them.

mod cursors;
mod descendants;
mod drives;
mod files;
mod keymap;
mod listen;
mod masking;
mod runtime;
mod sound;
mod wallpaper;

use crate::Paths;
use lucid_desktop::KeyboardLayout;
use lucid_desktop::handover::{self, DesktopRequest, Mask, Reply};
use lucid_desktop::monitors::{MAX_MONITORS, output_name};
use runtime::RuntimeDirectory;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A client has this long to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// The compositor and the keymap have this long to be ready.
const START_TIME: Duration = Duration::from_secs(20);
/// The programs of the desktop are looked for here.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What may go wrong with the launcher.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LauncherError {
    #[error("{doing}: {source}")]
    System { doing: String, source: io::Error },
    #[error(transparent)]
    Handover(#[from] lucid_desktop::Error),
    #[error("no connection was handed over: start the launcher by its systemd socket, or with --listen PATH")]
    NoConnection,
    #[error("{path} is not a readable file ({source}); give its path with {option}")]
    NoFile { path: PathBuf, option: &'static str, source: io::Error },
    #[error(
        "the path {0} has characters that sway's configuration would interpret; use a-z A-Z 0-9 / . _ - +"
    )]
    Path(PathBuf),
    #[error("{doing}: it refuses, {why}; use sway 1.7 or newer")]
    Refused { doing: String, why: String },
    #[error("the compositor ended before it was ready ({0}); what it said is above")]
    CompositorEnded(String),
    #[error("the compositor was not ready within {} s", START_TIME.as_secs())]
    CompositorSlow,
    #[error(
        "compiling the keymap for layout \"{layout}\" variant \"{variant}\": {why}; choose another layout"
    )]
    Keymap { layout: String, variant: String, why: String },
}

impl LauncherError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LauncherError {
        let doing = doing.into();
        move |source| LauncherError::System { doing, source }
    }

    fn system(doing: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> LauncherError {
        let doing = doing.into();
        move |errno| LauncherError::System { doing, source: errno.into() }
    }
}

/// The launcher with its settings.
pub(crate) struct Launcher {
    paths: Paths,
    runtime: PathBuf,
}

/// Polls until one of the descriptors has something, or the deadline is over (then all are empty).
fn wait<const N: usize>(
    descriptors: [&dyn AsFd; N],
    deadline: Option<Instant>,
) -> Result<[PollFlags; N], LauncherError> {
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let limit =
            left.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: i64::from(l.subsec_nanos()) });
        let borrowed = descriptors.map(AsFd::as_fd);
        let mut poll = borrowed.each_ref().map(|d| PollFd::new(d, PollFlags::IN));
        match rustix::event::poll(&mut poll, limit.as_ref()) {
            Ok(_) => return Ok(poll.each_ref().map(PollFd::revents)),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(LauncherError::system("waiting")(e)),
        }
    }
}

fn pidfd(pid: Pid) -> Result<OwnedFd, LauncherError> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(LauncherError::system(format!("watching process {}", pid.as_raw_nonzero())))
}

/// Takes the connection from standard input. What is started must not inherit it: a copy of it would keep the
/// connection open.
fn take_standard_input() -> Result<UnixStream, LauncherError> {
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(LauncherError::io("taking the connection from standard input"))?;
    let null = std::fs::File::open("/dev/null").map_err(LauncherError::io("opening /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(LauncherError::system("closing standard input"))?;
    Ok(UnixStream::from(socket))
}

/// The running compositor.
struct Compositor {
    pid: Pid,
    ended: OwnedFd,
}

impl Launcher {
    pub(crate) fn new(paths: Paths) -> Result<Launcher, LauncherError> {
        let runtime = paths.runtime.clone().unwrap_or_else(|| {
            let given = std::env::var_os("RUNTIME_DIRECTORY");
            // systemd separates several directories by colons; the first is ours.
            let first = given.as_deref().and_then(|g| g.as_bytes().split(|&b| b == b':').next());
            first.map_or_else(|| PathBuf::from("/tmp"), |f| PathBuf::from(OsStr::from_bytes(f)))
        });
        Ok(Launcher { paths, runtime })
    }

    /// Serves the connection that systemd gave as standard input (`Accept=yes`, `StandardInput=socket`). Not as
    /// descriptor 3: `LISTEN_PID` does not hold in a process namespace of one's own (`PrivatePIDs=yes`).
    pub(crate) fn serve_from_systemd(&self) -> Result<(), LauncherError> {
        use rustix::net::{AddressFamily, SocketType, sockopt};
        let stdin = io::stdin();
        let is_connection = sockopt::socket_domain(&stdin).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && sockopt::socket_type(&stdin).is_ok_and(|kind| kind == SocketType::STREAM);
        if !is_connection {
            return Err(LauncherError::NoConnection);
        }
        self.serve(take_standard_input()?, None)
    }

    /// Serves the connection that the listening launcher gave as standard input.
    pub(crate) fn serve_standard_input(&self, parent: i32) -> Result<(), LauncherError> {
        let parent = self.parent(parent)?;
        self.serve(take_standard_input()?, Some(parent))
    }

    /// The parent as something to wait for; an error if it has ended meanwhile.
    fn parent(&self, parent: i32) -> Result<OwnedFd, LauncherError> {
        let gone = || LauncherError::System {
            doing: format!("watching the launcher, process {parent}"),
            source: io::ErrorKind::NotFound.into(),
        };
        let pid = Pid::from_raw(parent).ok_or_else(gone)?;
        let watched = pidfd(pid)?;
        if rustix::process::getppid() == Some(pid) { Ok(watched) } else { Err(gone()) }
    }

    /// Runs the compositor in this process' place.
    pub(crate) fn run_compositor(&self, parent: i32, config: &Path) -> Result<(), LauncherError> {
        // Should the launcher be killed, the compositor goes as well; its descendants have no display
        // then, and whoever adopts them (the listening launcher, systemd's control group) kills them.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(LauncherError::system("tying the compositor to the launcher"))?;
        self.parent(parent)?;
        rustix::process::setsid().map_err(LauncherError::system("starting a session"))?;
        let error = Command::new(&self.paths.sway).arg("--config").arg(config).exec();
        Err(LauncherError::io(format!("starting {}", self.paths.sway.display()))(error))
    }

    /// One desktop, from the request to its end. `parent` is watched as well, if given.
    fn serve(&self, socket: UnixStream, parent: Option<OwnedFd>) -> Result<(), LauncherError> {
        // Orphans of the desktop come to this process, so that none escapes.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(LauncherError::system("becoming the reaper of the desktop's processes"))?;
        let result = self.serve_reaped(&socket, parent);
        let killed = descendants::kill_all();
        if let Err(error) = &result {
            // The client learns why, unless it has its desktop already.
            let reply = Reply::Failed { error: error.to_string() };
            if let Err(error) = handover::send_reply(&socket, &reply, &[]) {
                tracing::debug!(%error, "the client did not take the reason");
            }
        }
        killed?;
        match result {
            Ok(Ended::Client) => tracing::info!("the desktop was closed"),
            Ok(Ended::Parent) => tracing::info!("the launcher ended, and its desktop with it"),
            Ok(Ended::Compositor) => tracing::info!("the compositor ended"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn serve_reaped(&self, socket: &UnixStream, parent: Option<OwnedFd>) -> Result<Ended, LauncherError> {
        let (line, descriptors) = handover::receive_line(
            socket,
            Instant::now() + REQUEST_TIME,
            "waiting for the client's request",
        )?;
        if !descriptors.is_empty() {
            return Err(
                lucid_desktop::Error::Protocol { what: "a request carries no descriptors".into() }.into()
            );
        }
        let request = DesktopRequest::from_line(&line)?;
        let started = Instant::now();
        let deadline = started + START_TIME;
        let runtime = RuntimeDirectory::make(&self.runtime)?;
        // Before anything is started, which would not see it.
        let drives = request.drives.then(|| self.mount_drives()).and_then(|mounted| {
            mounted.inspect_err(|error| tracing::warn!("the desktop has no folder for drives: {error}")).ok()
        });
        let sound = request.sound.then(|| self.start_sound(&runtime)).and_then(|started| {
            started.inspect_err(|error| tracing::warn!("the desktop has no sound: {error}")).ok()
        });
        let (compositor, ready) = self.start_compositor(&request, &runtime)?;
        // While the compositor starts.
        let keymap = keymap::compile(&self.paths.xkbcli, &request.keyboard, deadline)?;
        let wayland = ready.connect(&runtime, socket, &compositor, deadline)?;
        let Some(wayland) = wayland else { return Ok(Ended::Client) };
        let (has_sound, has_drives) = (sound.is_some(), drives.is_some());
        let reply = Reply::Ready { keymap_size: keymap.size, sound: has_sound, drives: has_drives };
        let mut descriptors = vec![wayland.as_fd(), keymap.memory.as_fd()];
        descriptors.extend(sound.as_ref().map(|s| s.pipe.as_fd()));
        descriptors.extend(drives.as_ref().map(|d| d.as_fd()));
        handover::send_reply(socket, &reply, &descriptors)?;
        // Whoever serves the folder has the only end of it: without him, nobody waits for it.
        drop((wayland, keymap, drives));
        tracing::info!(
            width = request.width,
            height = request.height,
            milliseconds = started.elapsed().as_millis() as u64,
            "a desktop is ready"
        );
        let files = files::Files::new(&self.paths.home);
        let mut sound = sound.map(|sound| sound.ended);
        let mut masking = masking::Masking::default();
        loop {
            // Without a parent or sound the compositor stands in for it.
            let watched: [&dyn AsFd; 4] = [
                socket,
                &compositor.ended,
                parent.as_ref().map_or(&compositor.ended, |p| p as &dyn AsFd),
                sound.as_ref().map_or(&compositor.ended, |s| s as &dyn AsFd),
            ];
            let [asked, ended, parent_ended, sound_ended] = wait(watched, None)?;
            if !ended.is_empty() {
                return Ok(Ended::Compositor);
            }
            if !parent_ended.is_empty() {
                return Ok(Ended::Parent);
            }
            if !sound_ended.is_empty() {
                tracing::warn!("PipeWire ended: this desktop has no sound any more");
                sound = None;
            }
            if !asked.is_empty() {
                let mut mask = |mask: &Mask| masking.apply(mask, &runtime, &compositor);
                if !self.answer(socket, &files, &mut mask)? {
                    return Ok(Ended::Client);
                }
            }
        }
    }

    /// Answers a client that has its desktop and wants the keymap of another layout, files, or windows masked; false if
    /// it has hung up instead.
    fn answer(
        &self,
        socket: &UnixStream,
        files: &files::Files,
        apply: &mut dyn FnMut(&Mask) -> Result<(), LauncherError>,
    ) -> Result<bool, LauncherError> {
        use rustix::net::RecvFlags;
        let peeked = rustix::io::retry_on_intr(|| {
            rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)
        });
        match peeked {
            Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(true),
            Err(e) => return Err(LauncherError::system("reading from the client")(e)),
        }
        let started = Instant::now();
        let (line, descriptors) = handover::receive_line(
            socket,
            started + REQUEST_TIME,
            "waiting for what else the client asks for",
        )?;
        if !descriptors.is_empty() {
            files.serve(handover::files_request(&line, descriptors)?);
            return Ok(true);
        }
        if let Ok(mask) = Mask::from_line(&line) {
            let reply = match apply(&mask) {
                Ok(()) => Reply::Masked,
                Err(error) => {
                    tracing::error!("{error}");
                    Reply::Failed { error: error.to_string() }
                }
            };
            handover::send_reply(socket, &reply, &[])?;
            return Ok(true);
        }
        let keyboard = KeyboardLayout::from_line(&line)?;
        match keymap::compile(&self.paths.xkbcli, &keyboard, started + START_TIME) {
            Ok(keymap) => {
                let reply = Reply::Ready { keymap_size: keymap.size, sound: false, drives: false };
                handover::send_reply(socket, &reply, &[keymap.memory.as_fd()])?;
            }
            // The desktop goes on with the layout that it has.
            Err(error) => {
                tracing::warn!("{error}");
                handover::send_reply(socket, &Reply::Failed { error: error.to_string() }, &[])?;
            }
        }
        Ok(true)
    }

    fn start_compositor(
        &self,
        request: &DesktopRequest,
        runtime: &RuntimeDirectory,
    ) -> Result<(Compositor, runtime::Announcement), LauncherError> {
        let config = self.write_config(request, runtime)?;
        let cursors = cursors::write(runtime.path())?;
        wallpaper::write(runtime.path())?;
        let announcement = runtime.watch()?;
        let myself =
            std::env::current_exe().map_err(LauncherError::io("finding the launcher's own program"))?;
        let mut command = Command::new(myself);
        command
            .arg("run-compositor")
            .args(["--parent", &std::process::id().to_string()])
            .arg("--config")
            .arg(config)
            .arg("--sway")
            .arg(&self.paths.sway)
            .stdin(Stdio::null());
        self.environment(&mut command, runtime)?;
        command
            .env("WLR_BACKENDS", "headless")
            .env("WLR_HEADLESS_OUTPUTS", MAX_MONITORS.to_string())
            .env("WLR_RENDERER", "pixman")
            .env("WLR_LIBINPUT_NO_DEVICES", "1")
            .env("LIBSEAT_BACKEND", "noop")
            .env("XCURSOR_PATH", cursors)
            .env("XCURSOR_THEME", cursors::THEME)
            .env("XCURSOR_SIZE", cursors::SIZE.to_string())
            .env("XKB_DEFAULT_LAYOUT", &request.keyboard.layout)
            .env("XKB_DEFAULT_VARIANT", &request.keyboard.variant);
        let child = command.spawn().map_err(LauncherError::io("starting the compositor"))?;
        let pid = Pid::from_child(&child);
        Ok((Compositor { pid, ended: pidfd(pid)? }, announcement))
    }

    /// What the compositor and what runs beside it have around them.
    fn environment(&self, command: &mut Command, runtime: &RuntimeDirectory) -> Result<(), LauncherError> {
        command
            .env_clear()
            .env("HOME", &self.paths.home)
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("SHELL", "/bin/bash")
            .env("XDG_RUNTIME_DIR", runtime.path())
            .env("XDG_SESSION_TYPE", "wayland")
            .env("XDG_CURRENT_DESKTOP", "sway")
            // Standard output is for answers; what they say goes to the journal.
            .stdout(Stdio::from(
                io::stderr().as_fd().try_clone_to_owned().map_err(LauncherError::io("sharing stderr"))?,
            ))
            .stderr(Stdio::inherit());
        if self.paths.home.is_dir() {
            command.current_dir(&self.paths.home);
        } else {
            command.current_dir("/");
        }
        Ok(())
    }

    /// The first output's size, and that there is no other yet; then the given configuration.
    fn write_config(
        &self,
        request: &DesktopRequest,
        runtime: &RuntimeDirectory,
    ) -> Result<PathBuf, LauncherError> {
        let path = &self.paths.sway_config;
        let path =
            path.canonicalize().and_then(|p| std::fs::File::open(&p).map(|_| p)).map_err(|source| {
                LauncherError::NoFile { path: path.clone(), option: "--sway-config", source }
            })?;
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+".contains(b);
        if !path.as_os_str().as_bytes().iter().all(plain) {
            return Err(LauncherError::Path(path));
        }
        let DesktopRequest { width, height, .. } = request;
        let (theme, size) = (cursors::THEME, cursors::SIZE);
        let mut text = format!("output {} mode --custom {width}x{height}\n", output_name(0));
        for number in 1..MAX_MONITORS {
            text.push_str(&format!("output {} disable\n", output_name(number)));
        }
        text.push_str(&format!("seat * xcursor_theme {theme} {size}\ninclude {}\n", path.display()));
        let config = runtime.path().join("sway-config");
        std::fs::write(&config, text).map_err(LauncherError::io(format!("writing {}", config.display())))?;
        Ok(config)
    }
}

/// What ended a desktop.
enum Ended {
    Client,
    Compositor,
    Parent,
}

impl Compositor {
    /// How it ended, for the message.
    fn outcome(&self) -> String {
        match rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::NOHANG) {
            Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "for no known reason".into(),
            },
            Ok(None) | Err(_) => "for no known reason".into(),
        }
    }
}
