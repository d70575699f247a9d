//! The Wayland side: what is bound, and when the sink is given a picture.

use crate::damage::Damage;
use crate::monitors::{Arrangement, MAX_MONITORS};
use crate::pointer::Pointer;
use crate::shared::{Commands, Shared};
use crate::{CaptureProtocol, Closed, Error, Frame, FrameSink, Rect};
use std::sync::Arc;
use wayland_client::backend::ObjectId;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_output::{self, WlOutput};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm::WlShm;
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, WEnum, delegate_noop};
use wayland_protocols::ext::image_capture_source::v1::client::ext_image_capture_source_v1::ExtImageCaptureSourceV1;
use wayland_protocols::ext::image_capture_source::v1::client::ext_output_image_capture_source_manager_v1::ExtOutputImageCaptureSourceManagerV1;
use wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_manager_v1::ExtImageCopyCaptureManagerV1;
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_manager_v1::ZwpVirtualKeyboardManagerV1;
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_v1::ZwpVirtualKeyboardV1;
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_manager_v1::ZwlrOutputManagerV1;
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_manager_v1::ZwlrVirtualPointerManagerV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

/// Outputs that are looked at; programs may make more.
const MAX_OUTPUTS: usize = 16;
/// The edge of the squares in which a damaged area is compared with the picture before.
const TILE: u32 = 64;

mod arranging;
mod buffer;
mod capturing;
mod focusing;
mod pointing;
mod shielding;

use arranging::{Head, Resize};
use buffer::Buffer;
use capturing::{Capture, CaptureFrame, ExtSession, Manager, Stage};
use focusing::Windows;
use shielding::Shielded;

type Handle = QueueHandle<Session>;

/// Makes virtual keyboards.
pub(crate) struct Keyboards {
    manager: ZwpVirtualKeyboardManagerV1,
    seat: WlSeat,
    handle: Handle,
}

impl Keyboards {
    pub(crate) fn create(&self) -> ZwpVirtualKeyboardV1 {
        self.manager.create_virtual_keyboard(&self.seat, &self.handle, ())
    }

    /// Has it counted when the compositor has taken everything that was asked of it until now.
    pub(crate) fn count_when_taken(&self, connection: &Connection) {
        connection.display().sync(&self.handle, KeymapTaken);
    }
}

/// Marks the callback of [`Keyboards::count_when_taken`].
struct KeymapTaken;

impl Dispatch<WlCallback, KeymapTaken> for Session {
    fn event(
        session: &mut Session,
        _: &WlCallback,
        _: wl_callback::Event,
        _: &KeymapTaken,
        _: &Connection,
        _: &Handle,
    ) {
        session.shared.keymap_taken();
    }
}

/// An output that is on.
struct Output {
    /// The global's name.
    global: u32,
    output: WlOutput,
    name: Option<String>,
    /// Its mode, in pixels.
    size: (u32, u32),
    /// Which monitor it is, if it is one.
    number: Option<usize>,
    /// Where it is in the picture.
    origin: (u32, u32),
    /// The picture holds what it shows.
    taken: bool,
    /// The next picture of it is taken though nothing changes.
    at_once: bool,
    ext: Option<ExtSession>,
    capture: Option<Capture>,
    buffer: Option<Buffer>,
    failures: u32,
    /// Where the pointer's code is in the buffer.
    pointer_place: Option<Rect>,
    /// What moves the pointer within it, if it is one of several monitors and not the first.
    pointer: Option<ZwlrVirtualPointerV1>,
}

impl Output {
    fn new(global: u32, output: WlOutput) -> Output {
        Output {
            global,
            output,
            name: None,
            size: (0, 0),
            number: None,
            origin: (0, 0),
            taken: false,
            at_once: false,
            ext: None,
            capture: None,
            buffer: None,
            failures: 0,
            pointer_place: None,
            pointer: None,
        }
    }

    /// Whether an event belongs to the present capture and not to one that was given up.
    fn is_capturing(&self, id: &ObjectId) -> bool {
        self.capture.as_ref().is_some_and(|capture| match &capture.frame {
            CaptureFrame::Screencopy(frame) => frame.id() == *id,
            CaptureFrame::Ext(frame) => frame.id() == *id,
        })
    }

    fn give_up_capture(&mut self) {
        if let Some(capture) = self.capture.take() {
            capture.frame.destroy();
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.give_up_capture();
        if let Some(ext) = self.ext.take() {
            ext.session.destroy();
        }
        if let Some(pointer) = self.pointer.take() {
            pointer.destroy();
        }
        if self.output.version() >= 3 {
            self.output.release();
        }
    }
}

/// Makes virtual pointers.
struct Pointers {
    manager: ZwlrVirtualPointerManagerV1,
    seat: WlSeat,
    /// The one of the first monitor.
    first: ZwlrVirtualPointerV1,
    /// One that goes anywhere, made with several monitors.
    anywhere: Option<ZwlrVirtualPointerV1>,
}

/// Everything that Wayland's events change.
pub(crate) struct Session {
    shared: Arc<Shared>,
    sink: Box<dyn FrameSink>,
    globals: Vec<(u32, String, u32)>,
    pub(crate) synced: bool,
    error: Option<Error>,

    shm: Option<WlShm>,
    outputs: Vec<Output>,
    /// The name of the first monitor's output.
    first_name: Option<String>,
    manager: Option<Manager>,
    pointers: Option<Pointers>,
    /// Of several monitors; none while there is one, whose size is its output's.
    monitors: Option<Arrangement>,

    picture: Vec<u8>,
    /// It holds what every monitor shows.
    complete: bool,
    picture_size: (u32, u32),
    delivered_size: (u32, u32),
    /// What the sink has not seen yet.
    damage: Damage,
    /// Rows of the compositor's buffer on their way into the picture.
    band: Vec<u8>,
    credits: u32,
    /// The next frame is given though nothing has changed.
    repeat: bool,
    /// Windows, and which has the focus.
    windows: Windows,
    /// What is not shown of them and of the picture.
    shielded: Shielded,
    /// What the sink knows of the pointer.
    pointer_told: Option<Pointer>,

    output_manager: Option<ZwlrOutputManagerV1>,
    heads: Vec<Head>,
    serial: Option<u32>,
    resize_wanted: Option<Resize>,
    resize_running: Option<Resize>,
    /// What the compositor took last.
    arranged: Option<Arrangement>,
    /// Where it begins among the compositor's outputs, and where each output was when it was last on.
    begin: i32,
    begins: [Option<i32>; MAX_MONITORS],
    /// Where the pointer was, if that is known, when it has to be put there again.
    point_at: Option<Option<(u32, u32)>>,
    /// Outputs have been switched on that may have to be stirred.
    stir: bool,
    /// Times in a row that the outputs were not as the compositor took them.
    mends: u32,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, sink: Box<dyn FrameSink>) -> Session {
        Session {
            shared,
            sink,
            globals: Vec::new(),
            synced: false,
            error: None,
            shm: None,
            outputs: Vec::new(),
            first_name: None,
            manager: None,
            pointers: None,
            monitors: None,
            picture: Vec::new(),
            complete: false,
            picture_size: (0, 0),
            delivered_size: (0, 0),
            damage: Damage::default(),
            band: Vec::new(),
            credits: 0,
            repeat: false,
            windows: Windows::default(),
            shielded: Shielded::default(),
            pointer_told: None,
            output_manager: None,
            heads: Vec::new(),
            serial: None,
            resize_wanted: None,
            resize_running: None,
            arranged: None,
            begin: 0,
            begins: [None; MAX_MONITORS],
            point_at: None,
            stir: false,
            mends: 0,
        }
    }

    fn bind_global<I>(&self, registry: &WlRegistry, handle: &Handle, versions: (u32, u32)) -> Result<I, Error>
    where
        I: Proxy + 'static,
        Session: Dispatch<I, ()>,
    {
        let interface = I::interface().name;
        self.globals
            .iter()
            .find(|(_, name, version)| name == interface && *version >= versions.0)
            .map(|(name, _, version)| registry.bind(*name, (*version).min(versions.1), handle, ()))
            .ok_or(Error::Missing { interface })
    }

    /// Name and version of a global, if the compositor offers it.
    pub(crate) fn global(&self, interface: &str) -> Option<(u32, u32)> {
        self.globals.iter().find(|(_, name, _)| name == interface).map(|(name, _, version)| (*name, *version))
    }

    /// Binds what is needed, after the globals are known.
    pub(crate) fn bind(
        &mut self,
        registry: &WlRegistry,
        handle: &Handle,
    ) -> Result<(ZwlrVirtualPointerV1, Keyboards, CaptureProtocol), Error> {
        self.shm = Some(self.bind_global::<WlShm>(registry, handle, (1, 1))?);
        let output = self.bind_global::<WlOutput>(registry, handle, (2, 4))?;
        let (global, _) =
            self.global(WlOutput::interface().name).ok_or(Error::Missing { interface: "wl_output" })?;
        let seat = self.bind_global::<WlSeat>(registry, handle, (1, 7))?;
        self.output_manager = Some(self.bind_global::<ZwlrOutputManagerV1>(registry, handle, (1, 4))?);

        let sources = self.bind_global::<ExtOutputImageCaptureSourceManagerV1>(registry, handle, (1, 1));
        let captures = self.bind_global::<ExtImageCopyCaptureManagerV1>(registry, handle, (1, 1));
        let protocol = if let (Ok(sources), Ok(captures)) = (sources, captures) {
            self.manager = Some(Manager::Ext(sources, captures));
            CaptureProtocol::ExtImageCopyCapture
        } else {
            let manager = self.bind_global::<ZwlrScreencopyManagerV1>(registry, handle, (3, 3))?;
            self.manager = Some(Manager::Screencopy(manager));
            CaptureProtocol::WlrScreencopy
        };

        self.bind_windows(registry, handle);
        let pointers = self.bind_global::<ZwlrVirtualPointerManagerV1>(registry, handle, (2, 2))?;
        let pointer = pointers.create_virtual_pointer_with_output(Some(&seat), Some(&output), handle, ());
        let keyboards = self.bind_global::<ZwpVirtualKeyboardManagerV1>(registry, handle, (1, 1))?;
        let mut first = Output::new(global, output);
        first.number = Some(0);
        self.outputs.push(first);
        self.pointers =
            Some(Pointers { manager: pointers, seat: seat.clone(), first: pointer.clone(), anywhere: None });
        Ok((pointer, Keyboards { manager: keyboards, seat, handle: handle.clone() }, protocol))
    }

    pub(crate) fn take_error(&mut self) -> Result<(), Error> {
        self.error.take().map_or(Ok(()), Err)
    }

    pub(crate) fn closed(&mut self, reason: Closed) {
        self.sink.closed(reason);
    }

    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Does what commands and events have made possible.
    pub(crate) fn step(
        &mut self,
        commands: Commands,
        handle: &Handle,
        connection: &Connection,
    ) -> Result<(), Error> {
        self.credits = self.credits.saturating_add(commands.credits);
        if commands.refresh && !self.picture.is_empty() {
            self.damage.all(self.picture_size);
        }
        self.repeat |= commands.repeat;
        if let Some(arrangement) = commands.resize {
            self.resize_wanted = Some(Resize { arrangement, begin: 0, tries: 0 });
        }
        self.tell_focus();
        self.end_mask(connection, handle);
        self.start_resize(handle);
        self.deliver();
        (0..self.outputs.len()).try_for_each(|at| self.drive_capture(at, handle))?;
        self.stir(handle);
        Ok(())
    }

    /// Gives the sink what it has not seen, if it asked for a frame.
    fn deliver(&mut self) {
        if self.credits == 0 || self.damage.is_empty() && !self.repeat || !self.complete {
            return;
        }
        self.repeat = false;
        if self.delivered_size != self.picture_size {
            self.damage.all(self.picture_size);
            self.delivered_size = self.picture_size;
        }
        self.credits -= 1;
        let (width, height) = self.picture_size;
        let stride = width as usize * 4;
        self.sink.frame(Frame { width, height, stride, pixels: &self.picture, damage: self.damage.rects() });
        self.damage.clear();
    }
}

impl Dispatch<WlRegistry, ()> for Session {
    fn event(
        session: &mut Session,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        handle: &Handle,
    ) {
        match event {
            // Outputs come when there are more monitors.
            wl_registry::Event::Global { name, interface, version }
                if session.shm.is_some()
                    && interface == WlOutput::interface().name
                    && session.outputs.len() < MAX_OUTPUTS =>
            {
                let output = registry.bind(name, version.min(4), handle, ());
                session.outputs.push(Output::new(name, output));
            }
            wl_registry::Event::GlobalRemove { name } => session.output_gone(name, handle),
            // At most as many as a compositor has interfaces; a bound for a compositor that misbehaves.
            wl_registry::Event::Global { name, interface, version } if session.globals.len() < 1024 => {
                session.globals.push((name, interface, version));
            }
            _ => {}
        }
    }
}

impl Dispatch<WlCallback, ()> for Session {
    fn event(
        session: &mut Session,
        _: &WlCallback,
        _: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        session.synced = true;
    }
}

impl Dispatch<WlOutput, ()> for Session {
    fn event(
        session: &mut Session,
        output: &WlOutput,
        event: wl_output::Event,
        (): &(),
        _: &Connection,
        handle: &Handle,
    ) {
        let several = session.monitors.is_some();
        let Some(at) = session.outputs.iter().position(|known| known.output == *output) else { return };
        let Some(known) = session.outputs.get_mut(at) else { return };
        if let wl_output::Event::Name { name } = event {
            if known.number == Some(0) && session.first_name.is_none() {
                session.first_name = Some(name.clone());
            }
            known.name = Some(name);
            session.assign(handle);
        } else if let wl_output::Event::Mode { flags: WEnum::Value(flags), width, height, .. } = event
            && flags.contains(wl_output::Mode::Current)
            && let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height))
        {
            known.size = (width, height);
            if known.number == Some(0) && session.arranged.is_none() {
                session.arranged = Arrangement::single(width, height).ok();
            }
            // A screencopy frame belongs to the size at which it was made.
            let stale = known.capture.as_ref().is_some_and(|capture| {
                matches!(capture.frame, CaptureFrame::Screencopy(_))
                    && capture.wanted.is_none_or(|w| (w.width, w.height) != (width, height))
            });
            if stale {
                known.give_up_capture();
            }
            if known.number == Some(0) && !several {
                session.shared.set_size((width, height));
            }
        }
    }
}

delegate_noop!(Session: ignore WlShm);
delegate_noop!(Session: ignore WlShmPool);
delegate_noop!(Session: ignore WlBuffer);
delegate_noop!(Session: ignore WlSeat);
delegate_noop!(Session: ZwlrScreencopyManagerV1);
delegate_noop!(Session: ZwlrVirtualPointerManagerV1);
delegate_noop!(Session: ZwlrVirtualPointerV1);
delegate_noop!(Session: ZwpVirtualKeyboardManagerV1);
delegate_noop!(Session: ZwpVirtualKeyboardV1);
delegate_noop!(Session: ExtOutputImageCaptureSourceManagerV1);
delegate_noop!(Session: ExtImageCaptureSourceV1);
delegate_noop!(Session: ExtImageCopyCaptureManagerV1);
