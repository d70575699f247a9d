//! The Wayland side: what is bound, and the picture.

use crate::damage::{Damage, clip, clip_rect};
use crate::desktop::{Commands, Shared};
use crate::monitors::{Arrangement, MAX_MONITORS};
use crate::pointer::{self, Piece, Pointer};
use crate::{CaptureProtocol, Closed, Error, Frame, FrameSink, Rect};
use rustix::fs::{MemfdFlags, SealFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use wayland_client::backend::ObjectId;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_output::{self, WlOutput};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm::{self, WlShm};
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, WEnum, delegate_noop};
use wayland_protocols::ext::image_capture_source::v1::client::ext_image_capture_source_v1::ExtImageCaptureSourceV1;
use wayland_protocols::ext::image_capture_source::v1::client::ext_output_image_capture_source_manager_v1::ExtOutputImageCaptureSourceManagerV1;
use wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_frame_v1::{
    self, ExtImageCopyCaptureFrameV1,
};
use wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_manager_v1::{
    ExtImageCopyCaptureManagerV1, Options,
};
use wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_session_v1::{
    self, ExtImageCopyCaptureSessionV1,
};
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_manager_v1::ZwpVirtualKeyboardManagerV1;
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_v1::ZwpVirtualKeyboardV1;
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_manager_v1::ZwlrOutputManagerV1;
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::{self, ZwlrScreencopyFrameV1};
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_manager_v1::ZwlrVirtualPointerManagerV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

/// Captures that may fail one after the other (around a change of size one or two do).
const MAX_FAILURES: u32 = 32;
/// The widest and highest output whose picture is taken.
const MAX_SIDE: u32 = 16384;
/// Outputs that are looked at; programs may make more.
const MAX_OUTPUTS: usize = 16;
/// The edge of the squares in which a damaged area is compared with the picture before.
const TILE: u32 = 64;

mod arranging;

use arranging::{Head, Resize};

type Handle = QueueHandle<Session>;

/// The shared memory that the compositor paints into.
struct Buffer {
    memory: OwnedFd,
    buffer: WlBuffer,
    layout: Layout,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    format: wl_shm::Format,
    width: u32,
    height: u32,
    stride: u32,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.buffer.destroy();
    }
}

enum Manager {
    Screencopy(ZwlrScreencopyManagerV1),
    Ext(ExtOutputImageCaptureSourceManagerV1, ExtImageCopyCaptureManagerV1),
}

/// An output's ext-image-copy-capture session with what it asks of buffers.
struct ExtSession {
    session: ExtImageCopyCaptureSessionV1,
    size: (u32, u32),
    format: Option<wl_shm::Format>,
    /// `done` has come since the last change.
    known: bool,
}

enum CaptureFrame {
    Screencopy(ZwlrScreencopyFrameV1),
    Ext(ExtImageCopyCaptureFrameV1),
}

impl CaptureFrame {
    fn destroy(&self) {
        match self {
            CaptureFrame::Screencopy(frame) => frame.destroy(),
            CaptureFrame::Ext(frame) => frame.destroy(),
        }
    }
}

/// How far the present capture is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The compositor has not yet said what buffer it wants.
    Announced,
    /// A copy can be asked for.
    Prepared,
    /// Asked for: comes with the next damage.
    Copying,
}

struct Capture {
    frame: CaptureFrame,
    stage: Stage,
    wanted: Option<Layout>,
    y_invert: bool,
    damage: Vec<Rect>,
}

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
    pub(crate) fn step(&mut self, commands: Commands, handle: &Handle) -> Result<(), Error> {
        self.credits = self.credits.saturating_add(commands.credits);
        if commands.refresh && !self.picture.is_empty() {
            self.damage.all(self.picture_size);
        }
        if let Some(arrangement) = commands.resize {
            self.resize_wanted = Some(Resize { arrangement, begin: 0, tries: 0 });
        }
        self.start_resize(handle);
        self.deliver();
        (0..self.outputs.len()).try_for_each(|at| self.drive_capture(at, handle))?;
        self.stir(handle);
        Ok(())
    }

    /// Gives the sink what it has not seen, if it asked for a frame.
    fn deliver(&mut self) {
        if self.credits == 0 || self.damage.is_empty() || !self.complete {
            return;
        }
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

    /// Keeps one capture of a monitor's output prepared, and lets it run when a frame is asked for.
    fn drive_capture(&mut self, at: usize, handle: &Handle) -> Result<(), Error> {
        let Some(output) = self.outputs.get_mut(at) else { return Ok(()) };
        let Some(number) = output.number else { return Ok(()) };
        if self.monitors.as_ref().is_some_and(|monitors| !has_size(monitors, number, output.size)) {
            // It is on its way to its monitor's size.
            return Ok(());
        }
        if output.capture.is_none() {
            let (frame, wanted) = match &self.manager {
                Some(Manager::Screencopy(manager)) => {
                    let frame =
                        manager.capture_output(1 /* with the cursor */, &output.output, handle, ());
                    (CaptureFrame::Screencopy(frame), None)
                }
                Some(Manager::Ext(sources, captures)) => {
                    let ext = output.ext.get_or_insert_with(|| {
                        let source = sources.create_source(&output.output, handle, ());
                        let session = captures.create_session(&source, Options::PaintCursors, handle, ());
                        source.destroy();
                        ExtSession { session, size: (0, 0), format: None, known: false }
                    });
                    if !ext.known {
                        return Ok(());
                    }
                    let (width, height) = ext.size;
                    let Some(format) = ext.format else {
                        return Err(Error::Capture { reason: "no 32-bit RGB format is offered".into() });
                    };
                    let frame = ext.session.create_frame(handle, ());
                    (
                        CaptureFrame::Ext(frame),
                        Some(Layout { format, width, height, stride: width.saturating_mul(4) }),
                    )
                }
                None => return Ok(()),
            };
            let stage = if wanted.is_some() { Stage::Prepared } else { Stage::Announced };
            output.capture = Some(Capture { frame, stage, wanted, y_invert: false, damage: Vec::new() });
        }
        if self.credits == 0 {
            return Ok(());
        }
        let Some(Capture { stage: Stage::Prepared, wanted: Some(wanted), .. }) = output.capture else {
            return Ok(());
        };
        let Some(shm) = &self.shm else { return Err(Error::Missing { interface: "wl_shm" }) };
        let fresh = prepare_buffer(&mut output.buffer, wanted, shm, handle)?;
        if let (Some(capture), Some(buffer)) = (&mut output.capture, &output.buffer) {
            capture.stage = Stage::Copying;
            match &capture.frame {
                CaptureFrame::Screencopy(frame) if output.at_once => {
                    frame.copy(&buffer.buffer);
                }
                CaptureFrame::Screencopy(frame) => frame.copy_with_damage(&buffer.buffer),
                CaptureFrame::Ext(frame) => {
                    frame.attach_buffer(&buffer.buffer);
                    if fresh {
                        let side = |v: u32| i32::try_from(v).unwrap_or(i32::MAX);
                        frame.damage_buffer(0, 0, side(wanted.width), side(wanted.height));
                    }
                    frame.capture();
                }
            }
        }
        Ok(())
    }

    /// The compositor has painted into an output's buffer.
    fn copied(&mut self, at: usize) {
        let Some(output) = self.outputs.get_mut(at) else { return };
        let Some(capture) = output.capture.take() else { return };
        capture.frame.destroy();
        output.failures = 0;
        output.at_once = false;
        if let Err(error) = self.take_picture(at, &capture) {
            self.fail(error);
        }
    }

    /// Takes over what differs into the private picture.
    fn take_picture(&mut self, at: usize, capture: &Capture) -> Result<(), Error> {
        let Some(output) = self.outputs.get_mut(at) else { return Ok(()) };
        let (Some(buffer), Some(number)) = (&output.buffer, output.number) else { return Ok(()) };
        let Layout { width, height, stride, .. } = buffer.layout;
        let stride = stride as usize;
        let whole = Rect { x: 0, y: 0, width, height };
        let new = match &self.monitors {
            Some(monitors) if !has_size(monitors, number, (width, height)) => return Ok(()),
            Some(_) => !output.taken,
            None => !output.taken || self.picture_size != (width, height),
        };
        output.taken = true;
        if self.monitors.is_none() && self.picture_size != (width, height) {
            self.picture = vec![0; width as usize * 4 * height as usize];
            self.picture_size = (width, height);
            self.damage.all(self.picture_size);
        }
        self.complete = self.complete || {
            let taken = self.outputs.iter().filter(|output| output.number.is_some() && output.taken).count();
            taken == self.monitors.as_ref().map_or(1, |monitors| monitors.monitors().len())
        };
        let rects = if new { std::slice::from_ref(&whole) } else { &capture.damage[..] };
        let pointer = self.find_pointer(at, rects, new, capture.y_invert)?;
        let Session { outputs, picture, picture_size, damage, band, .. } = self;
        let Some(output) = outputs.get(at) else { return Ok(()) };
        let Some(buffer) = &output.buffer else { return Ok(()) };
        let (origin_x, origin_y) = output.origin;
        // A row of the picture, where this output begins in it, and one of the output's.
        let (row, begin, own) = (picture_size.0 as usize * 4, origin_x as usize * 4, width as usize * 4);
        for rect in rects {
            let bottom = rect.y + rect.height;
            let mut y = rect.y;
            while y < bottom {
                // Up to the next multiple of TILE, so that tiles are the same ones in every frame.
                let rows = (TILE - y % TILE).min(bottom - y);
                let first = if capture.y_invert { height - y - rows } else { y };
                band.resize(stride * rows as usize, 0);
                read_exact(&buffer.memory, band.as_mut_slice(), first as usize * stride)?;
                if let Some(code) = pointer {
                    for i in (code.y.max(y)..(code.y + code.height).min(y + rows)).map(|at| at - y) {
                        let from = if capture.y_invert { rows - 1 - i } else { i } as usize * stride;
                        let to = (origin_y + y + i) as usize * row + begin;
                        erase(&mut band[from..from + own], &picture[to..to + own], code, new);
                    }
                }
                let mut x = rect.x;
                while x < rect.x + rect.width {
                    let columns = (TILE - x % TILE).min(rect.x + rect.width - x);
                    let (left, bytes) = (x as usize * 4, columns as usize * 4);
                    let mut changed = false;
                    for i in 0..rows as usize {
                        let from = if capture.y_invert { rows as usize - 1 - i } else { i } * stride + left;
                        let to = ((origin_y + y) as usize + i) * row + begin + left;
                        let (from, to) = (&band[from..from + bytes], &mut picture[to..to + bytes]);
                        if from != to {
                            to.copy_from_slice(from);
                            changed = true;
                        }
                    }
                    if changed && !new {
                        damage.add(Rect { x: origin_x + x, y: origin_y + y, width: columns, height: rows });
                    }
                    x += columns;
                }
                y += rows;
            }
        }
        if new {
            damage.add(Rect { x: origin_x, y: origin_y, ..whole });
        }
        Ok(())
    }

    /// Looks for the pointer's code, tells the sink about its shape, and returns where in the output it is.
    fn find_pointer(
        &mut self,
        at: usize,
        damage: &[Rect],
        new: bool,
        y_invert: bool,
    ) -> Result<Option<Rect>, Error> {
        let Some(output) = self.outputs.get(at) else { return Ok(None) };
        let Some(buffer) = &output.buffer else { return Ok(None) };
        let size = (buffer.layout.width, buffer.layout.height);
        // The output may have become smaller.
        let before = output.pointer_place.and_then(|r| clip_rect(r, size));
        let wanted = self.shared.pointer();
        if self.monitors.is_some()
            && let Some(place) = wanted
            && within(place, output.origin, size).is_none()
        {
            let place = self.find_left_pointer(at, damage, y_invert, place, size)?;
            if let Some(output) = self.outputs.get_mut(at) {
                output.pointer_place = place;
            }
            return Ok(place);
        }
        let wanted = wanted.map(|place| within(place, output.origin, size).unwrap_or(place));
        let touched = new || before.is_none_or(|place| damage.iter().any(|r| r.overlaps(place)));
        if !touched {
            return Ok(before);
        }
        // Most likely it is where it was put. A picture may be older than that: then it is in what has changed, as
        // long as it is anywhere; a pointer that is hidden is not searched for in every frame.
        let near = wanted.and_then(|place| pointer::surroundings(place, size));
        let everywhere = new || before.is_some() || wanted.is_none();
        let searched = damage.iter().copied().filter(|_| everywhere);
        let mut found = None;
        for rect in near.into_iter().chain(before).chain(searched) {
            found = self.search_pointer(at, rect, y_invert)?;
            if found.is_some() {
                break;
            }
        }
        let others = self.outputs.iter().enumerate().filter(|(other, _)| *other != at);
        let elsewhere = others.filter_map(|(_, output)| output.pointer_place).next().is_some();
        let cut = wanted.filter(|place| pointer::is_cut(*place, size));
        let (told, place) = match (found, cut) {
            (Some((shape, place)), _) => (Some(Pointer::Shape(shape)), Some(place)),
            // At the edge it cannot be read, but is still there.
            (None, Some(place)) if matches!(self.pointer_told, Some(Pointer::Shape(_))) => {
                (self.pointer_told, pointer::surroundings(place, size))
            }
            // The picture is older than its way to this monitor, or it may be at another.
            (None, _) if self.monitors.is_some() && (elsewhere || wanted.is_none()) => {
                (self.pointer_told, None)
            }
            // Before anyone has pointed at anything there may be no pointer.
            (None, _) => {
                (self.pointer_told.or(wanted.map(|_| Pointer::Picture)).map(|_| Pointer::Picture), None)
            }
        };
        if let Some(output) = self.outputs.get_mut(at) {
            output.pointer_place = place;
        }
        if told != self.pointer_told {
            self.pointer_told = told;
            if let Some(pointer) = told {
                self.sink.pointer(pointer);
            }
        }
        Ok(place)
    }

    /// Looks for the code of a pointer that was put to a place of another monitor. Its picture may be older than that;
    /// and at the edge of two monitors a code is on both.
    fn find_left_pointer(
        &mut self,
        at: usize,
        damage: &[Rect],
        y_invert: bool,
        (x, y): (u32, u32),
        size: (u32, u32),
    ) -> Result<Option<Rect>, Error> {
        let Some(output) = self.outputs.get(at) else { return Ok(None) };
        let (origin, before) = (output.origin, output.pointer_place.and_then(|r| clip_rect(r, size)));
        let small = damage.iter().copied().filter(|r| r.width <= TILE && r.height <= TILE);
        for rect in before.into_iter().chain(small) {
            if let Some((_, place)) = self.search_pointer(at, rect, y_invert)? {
                return Ok(Some(place));
            }
        }
        let Some(Pointer::Shape(shape)) = self.pointer_told else { return Ok(None) };
        let beside = i32::try_from(x).ok().zip(i32::try_from(y).ok()).and_then(|(x, y)| {
            pointer::surroundings_beside(
                (x - i32::try_from(origin.0).ok()?, y - i32::try_from(origin.1).ok()?),
                size,
            )
        });
        for place in before.into_iter().chain(beside) {
            if self.shows_part(at, shape, place, y_invert)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Looks for the pointer's code where it touches a rectangle of an output's buffer.
    fn search_pointer(
        &mut self,
        at: usize,
        rect: Rect,
        y_invert: bool,
    ) -> Result<Option<(pointer::Shape, Rect)>, Error> {
        let buffer = self.outputs.get(at).and_then(|output| output.buffer.as_ref());
        let Some(buffer) = buffer else { return Ok(None) };
        let size = (buffer.layout.width, buffer.layout.height);
        let Some(rect) = pointer::reach(rect, size) else { return Ok(None) };
        // A code must lie in one piece, so the pieces overlap.
        let step = TILE - pointer::MAX_CODE_SIDE;
        let mut y = rect.y;
        while y < rect.y + rect.height {
            let height = TILE.min(rect.y + rect.height - y);
            let place = Rect { y, height, ..rect };
            read_piece(buffer, place, y_invert, &mut self.band)?;
            if let Some((shape, found)) = (Piece { place, pixels: &self.band }).find()
                && !pointer::is_cut_by(found, place, size)
            {
                return Ok(clip_rect(found, size).map(|found| (shape, found)));
            }
            y += step;
        }
        Ok(None)
    }

    /// Whether a part of a shape's code is in a rectangle of an output's buffer.
    fn shows_part(
        &mut self,
        at: usize,
        shape: pointer::Shape,
        place: Rect,
        y_invert: bool,
    ) -> Result<bool, Error> {
        let buffer = self.outputs.get(at).and_then(|output| output.buffer.as_ref());
        let Some(buffer) = buffer else { return Ok(false) };
        read_piece(buffer, place, y_invert, &mut self.band)?;
        Ok((Piece { place, pixels: &self.band }).shows_part(shape))
    }

    /// The capture did not come about: it is tried anew, with what the compositor now wants.
    fn capture_failed(&mut self, at: usize) {
        let Some(output) = self.outputs.get_mut(at) else { return };
        output.give_up_capture();
        output.failures += 1;
        if output.failures > MAX_FAILURES {
            self.fail(Error::Capture {
                reason: format!("the compositor failed {MAX_FAILURES} times in a row"),
            });
        }
    }

    /// Which output an event of a capture belongs to; none if it was given up.
    fn capturing(&self, id: &ObjectId) -> Option<usize> {
        self.outputs.iter().position(|output| output.is_capturing(id))
    }

    fn add_damage(&mut self, at: usize, x: i32, y: i32, width: i32, height: i32) {
        let capture = self.outputs.get_mut(at).and_then(|output| output.capture.as_mut());
        let Some(capture) = capture else { return };
        let Some(wanted) = capture.wanted else { return };
        if let Some(rect) = clip(x, y, width, height, (wanted.width, wanted.height)) {
            if capture.damage.len() >= crate::MAX_DAMAGE {
                capture.damage.clear();
                capture.damage.push(Rect { x: 0, y: 0, width: wanted.width, height: wanted.height });
            } else {
                capture.damage.push(rect);
            }
        }
    }
}

/// Whether a monitor is of that size.
fn has_size(monitors: &Arrangement, number: usize, size: (u32, u32)) -> bool {
    monitors.monitors().get(number).is_some_and(|m| (m.place.width, m.place.height) == size)
}

/// A place of the picture as one of the output with that origin and size, if it is in it.
fn within(place: (u32, u32), origin: (u32, u32), size: (u32, u32)) -> Option<(u32, u32)> {
    let (x, y) = (place.0.checked_sub(origin.0)?, place.1.checked_sub(origin.1)?);
    (x < size.0 && y < size.1).then_some((x, y))
}

/// Makes the buffer fit; says whether it is a new one.
fn prepare_buffer(
    kept: &mut Option<Buffer>,
    wanted: Layout,
    shm: &WlShm,
    handle: &Handle,
) -> Result<bool, Error> {
    if kept.as_ref().is_some_and(|b| b.layout == wanted) {
        return Ok(false);
    }
    *kept = None;
    let Layout { format, width, height, stride } = wanted;
    let plausible = (1..=MAX_SIDE).contains(&width)
        && (1..=MAX_SIDE).contains(&height)
        && (width * 4..=MAX_SIDE * 8).contains(&stride);
    if !plausible {
        let reason = format!("an output of {width}x{height} with rows of {stride} bytes is out of bounds");
        return Err(Error::Capture { reason });
    }
    let size = u64::from(stride) * u64::from(height);
    let pool_size = i32::try_from(size).map_err(|_| Error::Capture {
        reason: format!("a picture of {size} bytes is too big for Wayland"),
    })?;
    let doing = "making the memory for the desktop's picture";
    let memory = rustix::fs::memfd_create("lucid-desktop", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(Error::system(doing))?;
    rustix::fs::ftruncate(&memory, size).map_err(Error::system(doing))?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(Error::system(doing))?;
    let pool = shm.create_pool(memory.as_fd(), pool_size, handle, ());
    // All are within MAX_SIDE * 8, so they fit.
    let buffer = pool.create_buffer(0, width as i32, height as i32, stride as i32, format, handle, ());
    pool.destroy();
    *kept = Some(Buffer { memory, buffer, layout: wanted });
    Ok(true)
}

/// Takes the pointer's code out of a row: what was there before is still there if its neighbours are, and otherwise it
/// most likely looks like them. (The client draws its pointer over that place.)
fn erase(row: &mut [u8], before: &[u8], code: Rect, new: bool) {
    let (left, right) = (code.x as usize * 4, (code.x + code.width) as usize * 4);
    let pixel = |row: &[u8], at: usize| row.get(at..at + 4).and_then(|p| <[u8; 4]>::try_from(p).ok());
    let neighbours = [left.checked_sub(4), Some(right)].map(|at| at.and_then(|at| pixel(row, at)));
    let earlier = [left.checked_sub(4), Some(right)].map(|at| at.and_then(|at| pixel(before, at)));
    let Some(place) = row.get_mut(left..right) else { return };
    match neighbours.into_iter().flatten().next() {
        Some(neighbour) if new || neighbours != earlier => {
            place.as_chunks_mut().0.fill(neighbour);
        }
        _ => place.copy_from_slice(&before[left..right]),
    }
}

/// Reads a rectangle of a buffer, row after row.
fn read_piece(buffer: &Buffer, place: Rect, y_invert: bool, piece: &mut Vec<u8>) -> Result<(), Error> {
    let (stride, row) = (buffer.layout.stride as usize, place.width as usize * 4);
    piece.resize(row * place.height as usize, 0);
    for (i, line) in (place.y..place.y + place.height).zip(piece.chunks_exact_mut(row)) {
        let i = if y_invert { buffer.layout.height - 1 - i } else { i };
        read_exact(&buffer.memory, line, i as usize * stride + place.x as usize * 4)?;
    }
    Ok(())
}

fn read_exact(memory: &OwnedFd, mut bytes: &mut [u8], at: usize) -> Result<(), Error> {
    let mut at = at as u64;
    while !bytes.is_empty() {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(memory, &mut *bytes, at))
            .map_err(Error::system("reading the desktop's picture"))?;
        if read == 0 {
            return Err(Error::Capture { reason: "its memory is too short".into() });
        }
        at += read as u64;
        bytes = bytes.get_mut(read..).unwrap_or_default();
    }
    Ok(())
}

/// Formats whose bytes in memory are B, G, R, X on a little-endian machine.
fn is_bgrx(format: wl_shm::Format) -> bool {
    matches!(format, wl_shm::Format::Xrgb8888 | wl_shm::Format::Argb8888)
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

impl Dispatch<ZwlrScreencopyFrameV1, ()> for Session {
    fn event(
        session: &mut Session,
        frame: &ZwlrScreencopyFrameV1,
        event: zwlr_screencopy_frame_v1::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        use zwlr_screencopy_frame_v1::{Event, Flags};
        let Some(at) = session.capturing(&frame.id()) else { return };
        let Some(capture) = session.outputs.get_mut(at).and_then(|output| output.capture.as_mut()) else {
            return;
        };
        match event {
            Event::Buffer { format: WEnum::Value(format), width, height, stride } if is_bgrx(format) => {
                capture.wanted = Some(Layout { format, width, height, stride });
            }
            Event::BufferDone if capture.wanted.is_some() => capture.stage = Stage::Prepared,
            Event::BufferDone => {
                session.fail(Error::Capture { reason: "no 32-bit RGB format is offered".into() });
            }
            Event::Flags { flags: WEnum::Value(flags) } => capture.y_invert = flags.contains(Flags::YInvert),
            Event::Damage { x, y, width, height } => {
                let int = |v: u32| i32::try_from(v).unwrap_or(i32::MAX);
                session.add_damage(at, int(x), int(y), int(width), int(height));
            }
            Event::Ready { .. } => session.copied(at),
            Event::Failed => session.capture_failed(at),
            _ => {}
        }
    }
}

impl Dispatch<ExtImageCopyCaptureSessionV1, ()> for Session {
    fn event(
        session: &mut Session,
        source: &ExtImageCopyCaptureSessionV1,
        event: ext_image_copy_capture_session_v1::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        use ext_image_copy_capture_session_v1::Event;
        let is_its = |output: &Output| output.ext.as_ref().is_some_and(|ext| ext.session == *source);
        let Some(at) = session.outputs.iter().position(is_its) else { return };
        let Some(ext) = session.outputs.get_mut(at).and_then(|output| output.ext.as_mut()) else { return };
        match event {
            Event::BufferSize { width, height } => {
                if std::mem::take(&mut ext.known) {
                    ext.format = None; // a new set of constraints begins
                }
                ext.size = (width, height);
            }
            Event::ShmFormat { format: WEnum::Value(format) }
                if is_bgrx(format) && (ext.known || ext.format != Some(wl_shm::Format::Xrgb8888)) =>
            {
                ext.known = false;
                ext.format = Some(format);
            }
            Event::Done => ext.known = true,
            // The output was switched off, perhaps to come again.
            Event::Stopped => {
                ext.session.destroy();
                if let Some(output) = session.outputs.get_mut(at) {
                    output.ext = None;
                }
                session.capture_failed(at);
            }
            _ => {}
        }
    }
}

impl Dispatch<ExtImageCopyCaptureFrameV1, ()> for Session {
    fn event(
        session: &mut Session,
        frame: &ExtImageCopyCaptureFrameV1,
        event: ext_image_copy_capture_frame_v1::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        use ext_image_copy_capture_frame_v1::Event;
        let Some(at) = session.capturing(&frame.id()) else { return };
        match event {
            Event::Transform { transform: WEnum::Value(transform) } => {
                let capture = session.outputs.get_mut(at).and_then(|output| output.capture.as_mut());
                if let Some(capture) = capture {
                    capture.y_invert = transform == wl_output::Transform::Flipped180;
                }
            }
            Event::Damage { x, y, width, height } => session.add_damage(at, x, y, width, height),
            Event::Ready => session.copied(at),
            Event::Failed { .. } => session.capture_failed(at),
            _ => {}
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
