//! The handle: opening, input, commands to the thread.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wayland_client::Connection;

use crate::clipboard::{self, Clipboard, ClipboardSink};
use crate::devices::Devices;
use crate::events::{Events, OPEN_SECONDS, read_keymap};
use crate::handover::{self, DesktopRequest, KeyboardLayout, Reply};
use crate::keyboard::Keyboard;
use crate::monitors::{Arrangement, Monitor};
use crate::session::Session;
use crate::shared::{Shared, lock};
use crate::{CaptureProtocol, Error, FrameSink, Input, Shielding, Tally};

/// A running desktop. Dropping it ends the desktop.
pub struct Desktop {
    shared: Arc<Shared>,
    connection: Connection,
    devices: Arc<Mutex<Devices>>,
    clipboard: clipboard::Unbound,
    sound: Option<OwnedFd>,
    drives: Option<OwnedFd>,
    protocol: CaptureProtocol,
    shielding: Shielding,
    launcher: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// The way to the files of a desktop's user. Does not keep the desktop from ending.
#[derive(Debug)]
pub struct Files {
    launcher: UnixStream,
}

impl Files {
    /// A new connection. The launcher serves a few at a time and closes those beyond.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub fn connect(&self) -> Result<UnixStream, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("making a socket for files"))?;
        handover::send_files_request(&self.launcher, theirs.as_fd())?;
        Ok(ours)
    }
}

impl std::fmt::Debug for Desktop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desktop")
            .field("size", &self.shared.size())
            .field("protocol", &self.protocol)
            .finish()
    }
}

impl Desktop {
    /// Connects to the launcher's socket, asks for a desktop and connects to its compositor. Blocks for
    /// at most 30 s; about half a second is usual.
    ///
    /// `sink` is called on the desktop's own thread, for the first time after
    /// [`request_frame`](Desktop::request_frame).
    ///
    /// # Errors
    /// When the request is outside its limits, the launcher is not there or refuses, or the compositor
    /// lacks something.
    pub fn open(
        socket: &Path,
        request: &DesktopRequest,
        sink: impl FrameSink + 'static,
    ) -> Result<Desktop, Error> {
        let deadline = Instant::now() + Duration::from_secs(OPEN_SECONDS);
        let line = request.to_line()?;
        let doing = || format!("asking the launcher at {} for a desktop", socket.display());
        let mut launcher = UnixStream::connect(socket).map_err(Error::io(doing()))?;
        launcher.set_write_timeout(Some(Duration::from_secs(OPEN_SECONDS))).map_err(Error::io(doing()))?;
        match launcher.write_all(line.as_bytes()) {
            // A launcher that refuses without reading has said why.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.map_err(Error::io(doing()))?,
        }
        let (line, descriptors) =
            handover::receive_line(&launcher, deadline, "waiting for the launcher to start a desktop")?;
        let (keymap_size, has_sound, has_drives) = match Reply::from_line(&line)? {
            Reply::Ready { keymap_size, sound, drives } => (keymap_size, sound, drives),
            Reply::Failed { error } => return Err(Error::Launcher { reason: error }),
            Reply::Masked => {
                return Err(Error::Protocol {
                    what: "windows were masked where a desktop was asked for".into(),
                });
            }
        };
        let mut descriptors = descriptors.into_iter();
        let (Some(wayland), Some(keymap)) = (descriptors.next(), descriptors.next()) else {
            return Err(Error::Protocol { what: "the reply came without its descriptors".into() });
        };
        let sound = if has_sound { descriptors.next() } else { None };
        let drives = if has_drives { descriptors.next() } else { None };
        let not_asked = has_sound && !request.sound || has_drives && !request.drives;
        let missing = sound.is_some() != has_sound || drives.is_some() != has_drives;
        if not_asked || missing || descriptors.next().is_some() {
            return Err(Error::Protocol { what: "the reply's descriptors are not those asked for".into() });
        }
        let wayland = UnixStream::from(wayland);
        let mut desktop = Desktop::start(launcher, wayland, keymap, keymap_size, deadline, Box::new(sink))?;
        desktop.sound = sound;
        desktop.drives = drives;
        Ok(desktop)
    }

    fn start(
        launcher: UnixStream,
        wayland: UnixStream,
        keymap: OwnedFd,
        keymap_size: u32,
        deadline: Instant,
        sink: Box<dyn FrameSink>,
    ) -> Result<Desktop, Error> {
        let keyboard = Keyboard::new(&read_keymap(&keymap, keymap_size)?)?;
        let shared = Arc::new(Shared::new()?);
        let connection = Connection::from_socket(wayland)
            .map_err(|e| Error::Compositor { reason: format!("its socket is not usable: {e}") })?;
        let queue = connection.new_event_queue();
        let handle = queue.handle();
        let mut session = Session::new(Arc::clone(&shared), sink);
        let registry = connection.display().get_registry(&handle, ());
        let asking = launcher.try_clone().map_err(Error::io("sharing the launcher's socket"))?;
        let mut events = Events::new(connection.clone(), queue, Arc::clone(&shared), launcher);
        // First the globals; after binding, what the bound ones say (the output's mode, its heads).
        events.barrier(&mut session, deadline)?;
        let (pointer, keyboards, protocol) = session.bind(&registry, &handle)?;
        let devices = Devices::new(
            connection.clone(),
            Arc::clone(&shared),
            pointer,
            keyboards,
            keyboard,
            (&keymap, keymap_size),
        );
        events.barrier(&mut session, deadline)?;
        let clipboard = clipboard::Unbound::new(&session, registry, handle);
        let devices = Arc::new(Mutex::new(devices));
        let typed_on = Arc::clone(&devices);
        let thread = std::thread::Builder::new()
            .name("lucid-desktop".into())
            .spawn(move || events.run(session, &typed_on))
            .map_err(Error::io("starting the desktop's thread"))?;
        Ok(Desktop {
            shielding: Shielding::new(Arc::clone(&shared)),
            shared,
            connection,
            devices,
            clipboard,
            sound: None,
            drives: None,
            protocol,
            launcher: asking,
            thread: Some(thread),
        })
    }

    /// Hands over what the user does. Cheap (one `sendmsg`), from any thread.
    ///
    /// # Errors
    /// When the connection to the compositor is gone.
    pub fn input(&self, input: Input) -> Result<(), Error> {
        lock(&self.devices).input(input)
    }

    /// How much was typed and clicked since this was called last. Input that waits for another layout is not in it yet.
    #[must_use]
    pub fn take_tally(&self) -> Tally {
        lock(&self.devices).take_tally()
    }

    /// Releases every key and button that is held (after the client lost its focus, say), and forgets what waits for
    /// another layout.
    ///
    /// # Errors
    /// When the connection to the compositor is gone.
    pub fn release_all(&self) -> Result<(), Error> {
        lock(&self.devices).release_all()
    }

    /// Asks for one more frame. Frames are given only as they are asked for, one for each call (at most
    /// 1024 are remembered), and only when something has changed. The first frame is the whole picture.
    pub fn request_frame(&self) {
        self.shared.command(|commands| commands.credits = (commands.credits + 1).min(1024));
    }

    /// The whole next frame counts as damaged, and is given (if one is asked for) even when nothing
    /// changes: for a client that has lost its picture.
    pub fn refresh_all(&self) {
        self.shared.command(|commands| commands.refresh = true);
    }

    /// The next frame is given (if one is asked for) even when nothing changes; then its damage is empty.
    pub fn repeat_frame(&self) {
        self.shared.command(|commands| commands.repeat = true);
    }

    /// Asks for a monitor at each of these places in the picture, which do not overlap; the first is the one where
    /// programs begin. The picture is the smallest one that holds all of them. Returns at once; a later frame has the new
    /// size, or [`FrameSink::resize_failed`] is called. Of several arrangements in a row the last one counts.
    ///
    /// # Errors
    /// When there are none or more than [`MAX_MONITORS`](crate::monitors::MAX_MONITORS), two overlap, none is at the
    /// picture's left or top, or a size or scale is not within its limits.
    pub fn arrange(&self, monitors: &[Monitor]) -> Result<(), Error> {
        let arrangement = Arrangement::new(monitors)?;
        self.shared.command(|commands| commands.resize = Some(arrangement));
        Ok(())
    }

    /// Begins to tell `sink` what happens on the clipboard; until then nothing of it is looked at.
    ///
    /// # Errors
    /// When the compositor has no clipboard protocol, or the connection to it is gone.
    pub fn clipboard(&self, sink: Arc<dyn ClipboardSink>) -> Result<Clipboard, Error> {
        Clipboard::bind(&self.clipboard, &self.connection, &self.shared, sink)
    }

    /// Asks for another keyboard layout. Returns at once; the layout holds some 50 ms later, for which keys that are held
    /// are released. What is given to [`input`](Desktop::input) meanwhile waits for it. One that the launcher cannot make
    /// is told in the log, and the present one stays. Of several in a row the last one counts.
    ///
    /// # Errors
    /// When the layout is not within its limits.
    pub fn set_keyboard(&self, layout: &KeyboardLayout) -> Result<(), Error> {
        layout.check()?;
        // Under this lock, so that the thread does not end the waiting in between.
        let mut devices = lock(&self.devices);
        devices.wait_for_layout();
        self.shared.command(|commands| commands.keyboard = Some(layout.clone()));
        Ok(())
    }

    /// The pipe with what programs play, as [`sound`](crate::sound) describes it; once, and only if it was asked for.
    pub fn take_sound(&mut self) -> Option<OwnedFd> {
        self.sound.take()
    }

    /// The kernel's end of the folder for the client's drives (`/dev/fuse`, mounted and not yet initialized); once, and
    /// only if it was asked for. Programs that look at the folder wait until it is served.
    pub fn take_drives(&mut self) -> Option<OwnedFd> {
        self.drives.take()
    }

    /// The way to the files of the desktop's user; see [`files`](crate::files).
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn files(&self) -> Result<Files, Error> {
        let launcher = self.launcher.try_clone().map_err(Error::io("sharing the launcher's socket"))?;
        Ok(Files { launcher })
    }

    /// The way to what is never shown.
    #[must_use]
    pub fn shielding(&self) -> Shielding {
        self.shielding.clone()
    }

    /// How the pictures are taken.
    #[must_use]
    pub fn capture_protocol(&self) -> CaptureProtocol {
        self.protocol
    }

    /// The picture's present size in pixels.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        self.shared.size()
    }

    /// How often the desktop's thread has woken up. Stays the same while nothing happens.
    #[must_use]
    pub fn wakeups(&self) -> u64 {
        self.shared.wakeups.load(Ordering::Relaxed)
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        // An error means that the desktop is gone, and its keys with it.
        let _ = self.release_all();
        self.shared.command(|commands| commands.stop = true);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the frame sink panicked");
        }
    }
}
