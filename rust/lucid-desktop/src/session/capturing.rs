//! Takes the outputs' pictures: over ext-image-copy-capture, or wlr-screencopy where there is no other.

use wayland_client::backend::ObjectId;
use wayland_client::protocol::wl_output;
use wayland_client::protocol::wl_shm;
use wayland_client::{Connection, Dispatch, Proxy, WEnum};
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
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::{self, ZwlrScreencopyFrameV1};
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1;

use super::buffer::{Layout, is_bgrx, prepare_buffer, read_exact};
use super::pointing::erase;
use super::shielding::paint;
use super::{Handle, Output, Session, TILE};
use crate::damage::clip;
use crate::monitors::Arrangement;
use crate::{Error, Rect};

/// Captures that may fail one after the other (around a change of size one or two do).
const MAX_FAILURES: u32 = 32;

pub(super) enum Manager {
    Screencopy(ZwlrScreencopyManagerV1),
    Ext(ExtOutputImageCaptureSourceManagerV1, ExtImageCopyCaptureManagerV1),
}

/// An output's ext-image-copy-capture session with what it asks of buffers.
pub(super) struct ExtSession {
    pub(super) session: ExtImageCopyCaptureSessionV1,
    pub(super) size: (u32, u32),
    pub(super) format: Option<wl_shm::Format>,
    /// `done` has come since the last change.
    pub(super) known: bool,
}

pub(super) enum CaptureFrame {
    Screencopy(ZwlrScreencopyFrameV1),
    Ext(ExtImageCopyCaptureFrameV1),
}

impl CaptureFrame {
    pub(super) fn destroy(&self) {
        match self {
            CaptureFrame::Screencopy(frame) => frame.destroy(),
            CaptureFrame::Ext(frame) => frame.destroy(),
        }
    }
}

/// How far the present capture is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The compositor has not yet said what buffer it wants.
    Announced,
    /// A copy can be asked for.
    Prepared,
    /// Asked for: comes with the next damage.
    Copying,
}

pub(super) struct Capture {
    pub(super) frame: CaptureFrame,
    pub(super) stage: Stage,
    pub(super) wanted: Option<Layout>,
    pub(super) y_invert: bool,
    pub(super) damage: Vec<Rect>,
}

impl Session {
    /// Keeps one capture of a monitor's output prepared, and lets it run when a frame is asked for.
    pub(super) fn drive_capture(&mut self, at: usize, handle: &Handle) -> Result<(), Error> {
        if self.shielded.is_pending() {
            return Ok(());
        }
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
        let Session { outputs, picture, picture_size, damage, band, shielded, .. } = self;
        let Some(output) = outputs.get(at) else { return Ok(()) };
        let Some(buffer) = &output.buffer else { return Ok(()) };
        let (origin_x, origin_y) = output.origin;
        let masks = shielded.masks(output.origin, (width, height));
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
                paint(band, stride, y, capture.y_invert, &masks);
                if let Some(code) = pointer {
                    for i in (code.y.max(y)..(code.y + code.height).min(y + rows)).map(|at| at - y) {
                        let from = if capture.y_invert { rows - 1 - i } else { i } as usize * stride;
                        let to = (origin_y + y + i) as usize * row + begin;
                        erase(&mut band[from..from + own], &picture[to..to + own], code, new);
                    }
                    // That may have taken what is beside a mask for what is below it.
                    paint(band, stride, y, capture.y_invert, &masks);
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
