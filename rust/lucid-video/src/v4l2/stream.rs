//! An encoder of a device, set up and fed picture after picture. Everything here may block for as long as the driver
//! likes; it runs on a thread of its own (see [`super::V4l2`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::kernel::{Direction, Node, PictureFormat};
use super::layout::Layout;
use super::queue::Queue;
use super::{Coded, Steering, controls};
use crate::annexb::{Assembly, Unit};
use crate::colour::I420;
use crate::{Error, Settings};

/// `V4L2_CAP_VIDEO_M2M_MPLANE` and `V4L2_CAP_STREAMING`.
const NEEDED: u32 = 0x4000 | 0x0400_0000;
/// One for us and one for the device; it insists on more if it needs them.
const OUTPUT_BUFFERS: u32 = 2;
const CAPTURE_BUFFERS: u32 = 4;

/// A device that could be the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its node.
    pub path: PathBuf,
    /// Its name, as its driver says it.
    pub card: String,
}

/// Looks whether a device makes `coded` out of pictures that we can give it.
///
/// # Errors
/// When it cannot be opened or asked, or is something else, with the reason.
pub fn probe(path: &Path, coded: Coded) -> Result<Found, Error> {
    open(path, coded).map(|(_, _, found)| found)
}

fn open(path: &Path, coded: Coded) -> Result<(Node, Layout, Found), Error> {
    let failed = failing(path);
    let refused = |what| Error::DeviceRefused { device: path.to_owned(), what };
    let node = Node::open(path).map_err(failed("opening it"))?;
    let identity = node.identity().map_err(failed("asking what it is"))?;
    if identity.capabilities & NEEDED != NEEDED {
        return Err(refused("it is no multi-planar memory-to-memory device"));
    }
    let formats = |direction| node.pixel_formats(direction).map_err(failed("asking for its formats"));
    if !formats(Direction::Capture)?.contains(&coded.pixel_format()) {
        return Err(refused("it does not write the wanted coded format"));
    }
    let taken = formats(Direction::Output)?;
    let layout = Layout::ALL.into_iter().find(|layout| taken.contains(&layout.pixel_format()));
    let layout = layout.ok_or_else(|| refused("it takes neither YUV420 nor NV12"))?;
    Ok((node, layout, Found { path: path.to_owned(), card: identity.card }))
}

fn failing(path: &Path) -> impl Fn(&'static str) -> Box<dyn Fn(Errno) -> Error> + Clone + '_ {
    move |doing| {
        let device = path.to_owned();
        Box::new(move |e| Error::Device { device: device.clone(), doing, source: e.into() })
    }
}

/// What one picture is to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// The quantiser, if the device is steered by it.
    pub(super) qp: Option<u8>,
    /// The rate in bits per second, if the device is steered by that.
    pub(super) bitrate_bps: Option<u32>,
    /// It has to be a key frame.
    pub(super) key_frame: bool,
}

/// A device that is set up.
#[derive(Debug)]
pub(super) struct Stream {
    path: PathBuf,
    coded: Coded,
    layout: Layout,
    told: Wishes,
    picture_bound: Duration,
    has_force_key_frame: bool,
    assembly: Assembly,
    // The queues before the device, which they use when they end.
    output: Queue,
    capture: Queue,
    node: Arc<Node>,
}

impl Stream {
    /// Sets a device up; gives its name as well.
    pub(super) fn open(
        path: &Path,
        coded: Coded,
        settings: &Settings,
        steering: Steering,
        picture_bound: Duration,
    ) -> Result<(Stream, String), Error> {
        let failed = failing(path);
        let refused = |what| Error::DeviceRefused { device: path.to_owned(), what };
        let (node, layout, found) = open(path, coded)?;
        let planes = I420::new(settings.width, settings.height)?;
        let (width, height) = planes.coded_size();
        let size = (width as u32, height as u32);
        // The coded format first (the kernel's "Memory-to-Memory Stateful Video Encoder Interface", 4.5.2.5). No sane
        // picture takes more than half of its samples.
        let room = size.0 * size.1 * 3 / 4;
        node.set_format(Direction::Capture, coded.pixel_format(), size, room)
            .map_err(failed("setting its coded format"))?;
        let format = node
            .set_format(Direction::Output, layout.pixel_format(), size, 0)
            .map_err(failed("setting its picture format"))?;
        if (format.width, format.height) != size || format.pixel_format != layout.pixel_format() {
            return Err(refused("it does not take pictures of this size"));
        }
        let coded_format = node.format(Direction::Capture).map_err(failed("asking for its coded format"))?;
        if (coded_format.width, coded_format.height) != size
            || coded_format.pixel_format != coded.pixel_format()
        {
            return Err(refused("it does not write pictures of this size"));
        }
        // A rate is a hint for the device's rate control; not every driver takes it.
        match node.set_picture_rate(settings.max_fps as u32) {
            Ok(()) | Err(Errno::NOTTY | Errno::INVAL) => {}
            Err(e) => return Err(failed("setting its picture rate")(e)),
        }
        controls::set_up(&node, coded, size, steering)
            .map_err(|(doing, e)| e.map_or_else(|| refused(doing), failed(doing)))?;
        let has_force_key_frame = node
            .control_range(controls::FORCE_KEY_FRAME)
            .map_err(failed("asking for its controls"))?
            .is_some();
        let node = Arc::new(node);
        let output = Queue::new(&node, Direction::Output, OUTPUT_BUFFERS)
            .map_err(failed("getting picture buffers"))?;
        let capture = Queue::new(&node, Direction::Capture, CAPTURE_BUFFERS)
            .map_err(failed("getting buffers for coded data"))?;
        let mut stream = Stream {
            path: path.to_owned(),
            coded,
            layout,
            told: Wishes::default(),
            picture_bound,
            has_force_key_frame,
            assembly: Assembly::default(),
            output,
            capture,
            node,
        };
        // A first picture shows whether the buffers are laid out as we can fill them.
        let format: &PictureFormat = stream.output.format();
        if layout.place(&planes, format, |_, _| true).is_none() {
            return Err(refused("it lays pictures out in an unknown way"));
        }
        stream.start().map_err(failed("starting it"))?;
        Ok((stream, found.card))
    }

    fn start(&mut self) -> Result<(), Errno> {
        self.capture.put_empty()?;
        self.output.start()?;
        self.capture.start()
    }

    /// Encodes a picture and waits for what becomes of it, for so long at most as was said.
    pub(super) fn encode(&mut self, picture: &I420, wishes: Wishes) -> Result<Unit, Error> {
        let path = self.path.clone();
        let failed = failing(&path);
        self.tell(wishes).map_err(failed("changing its settings"))?;
        let end = Instant::now() + self.picture_bound;
        // The one before may still hold the last picture's buffer.
        self.reclaim().map_err(failed("taking a picture buffer back"))?;
        while self.output.is_exhausted() {
            self.wait(end)?;
            self.reclaim().map_err(failed("taking a picture buffer back"))?;
        }
        let (layout, format) = (self.layout, self.output.format().clone());
        self.output
            .put(|planes| {
                let [plane] = planes else { return None };
                layout.place(picture, &format, |at, row| plane.write(at, row)).map(|bytes| vec![bytes])
            })
            .map_err(failed("giving it a picture"))?;
        loop {
            let mut bytes = Vec::new();
            let buffer = self.capture.take(Some(&mut bytes)).map_err(failed("taking coded data"))?;
            let Some(buffer) = buffer else {
                self.wait(end)?;
                self.reclaim().map_err(failed("taking a picture buffer back"))?;
                continue;
            };
            self.capture.put_empty().map_err(failed("giving it a buffer for coded data"))?;
            if buffer.damaged {
                return Err(failed("encoding a picture")(Errno::IO));
            }
            let unit = match self.coded {
                Coded::H264 => self
                    .assembly
                    .push(&bytes)
                    .map_err(|what| Error::DeviceRefused { device: self.path.clone(), what })?,
                Coded::Fwht => {
                    Some(Unit { key_frame: buffer.key_frame || controls::fwht_is_key_frame(&bytes), bytes })
                }
            };
            if let Some(unit) = unit {
                return Ok(unit);
            }
        }
    }

    fn tell(&mut self, wishes: Wishes) -> Result<(), Errno> {
        if let Some(qp) = wishes.qp
            && self.told.qp != wishes.qp
        {
            controls::set_quantiser(&self.node, self.coded, self.told.qp, qp)?;
            self.told.qp = wishes.qp;
        }
        if let Some(rate) = wishes.bitrate_bps
            && self.told.bitrate_bps != wishes.bitrate_bps
        {
            controls::set_bitrate(&self.node, rate)?;
            self.told.bitrate_bps = wishes.bitrate_bps;
        }
        if wishes.key_frame && self.has_force_key_frame {
            self.node.set_control(controls::FORCE_KEY_FRAME, 1)?;
        } else if wishes.key_frame {
            // A stream that is started anew begins with one.
            self.output.stop()?;
            self.capture.stop()?;
            self.assembly = Assembly::default();
            self.start()?;
        }
        Ok(())
    }

    fn reclaim(&mut self) -> Result<(), Errno> {
        while self.output.take(None)?.is_some() {}
        Ok(())
    }

    /// Waits until the device has something, or says why it never will.
    fn wait(&self, end: Instant) -> Result<(), Error> {
        let failed = failing(&self.path);
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(super::late(&self.path, self.picture_bound));
        }
        let told = match self.node.wait(rest) {
            Err(Errno::INTR) => return Ok(()),
            told => told.map_err(failed("waiting for it"))?,
        };
        if told.failed {
            // What exactly, a call may say: ENODEV when it was unplugged.
            self.node.identity().map_err(failed("waiting for it"))?;
            return Err(failed("waiting for it")(Errno::IO));
        }
        if told.event && !told.capture && !told.output {
            // None is subscribed to; it would be told again at once.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
