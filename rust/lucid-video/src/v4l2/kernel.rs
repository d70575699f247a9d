//! The kernel's side of a video device: the structures of `<linux/videodev2.h>` (64-bit), its ioctls, and mapped
//! buffers. This is the only place of the V4L2 path with unsafe code; everything above it is safe.
//!
//! The structures are written by hand. The crates that wrap V4L2 (`v4l`, `v4l2r`) run bindgen while they are built,
//! which needs libclang and the target's headers, also for the static aarch64 programs of the device; `v4l` has no
//! multi-planar queue either, and every memory-to-memory encoder that matters has nothing else.

// ioctl(2) and mmap(2) know no types and no lifetimes.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags};

/// `VIDEO_MAX_PLANES`.
pub(super) const MAX_PLANES: usize = 8;
/// `V4L2_MEMORY_MMAP`.
const MEMORY_MMAP: u32 = 1;
/// `V4L2_BUF_FLAG_KEYFRAME`.
const FLAG_KEYFRAME: u32 = 0x8;
/// `V4L2_BUF_FLAG_ERROR`.
const FLAG_ERROR: u32 = 0x40;

/// Which of a device's two queues (`enum v4l2_buf_type`); the names are the kernel's, seen from the program: a device
/// is given pictures on its output queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// `V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE`: from the device.
    Capture = 9,
    /// `V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE`: to the device.
    Output = 10,
}

/// `struct v4l2_capability`.
#[repr(C)]
#[derive(Default)]
struct Capability {
    driver: [u8; 16],
    card: [u8; 32],
    bus_info: [u8; 32],
    version: u32,
    capabilities: u32,
    device_caps: u32,
    reserved: [u32; 3],
}

/// `struct v4l2_fmtdesc`.
#[repr(C)]
#[derive(Default)]
struct FormatDescription {
    index: u32,
    kind: u32,
    flags: u32,
    description: [u8; 32],
    pixel_format: u32,
    mbus_code: u32,
    reserved: [u32; 3],
}

/// `struct v4l2_plane_pix_format`, packed.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
struct PlaneFormat {
    size_image: u32,
    bytes_per_line: u32,
    reserved: [u16; 6],
}

/// `struct v4l2_format` with its `struct v4l2_pix_format_mplane` (packed) and the rest of the union.
#[repr(C, packed)]
struct Format {
    kind: u32,
    /// The union holds pointers and is therefore aligned to 8 bytes.
    alignment: u32,
    width: u32,
    height: u32,
    pixel_format: u32,
    field: u32,
    colorspace: u32,
    planes: [PlaneFormat; MAX_PLANES],
    num_planes: u8,
    flags: u8,
    ycbcr_enc: u8,
    quantization: u8,
    xfer_func: u8,
    reserved: [u8; 7],
    rest: [u8; 8],
}

/// `struct v4l2_requestbuffers`.
#[repr(C)]
#[derive(Default)]
struct RequestBuffers {
    count: u32,
    kind: u32,
    memory: u32,
    capabilities: u32,
    flags: u8,
    reserved: [u8; 3],
}

/// `struct v4l2_plane`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Plane {
    bytes_used: u32,
    length: u32,
    /// Of the union, the offset for mmap(2); the other members are longer.
    mem_offset: u64,
    data_offset: u32,
    reserved: [u32; 11],
}

/// `struct v4l2_buffer`.
#[repr(C)]
struct Buffer {
    index: u32,
    kind: u32,
    bytes_used: u32,
    flags: u32,
    field: u32,
    timestamp: [i64; 2],
    timecode: [u32; 4],
    sequence: u32,
    memory: u32,
    planes: *mut Plane,
    length: u32,
    reserved2: u32,
    request_fd: u32,
}

/// `struct v4l2_control`.
#[repr(C)]
struct Control {
    id: u32,
    value: i32,
}

/// `struct v4l2_queryctrl`.
#[repr(C)]
#[derive(Default)]
struct QueryControl {
    id: u32,
    kind: u32,
    name: [u8; 32],
    minimum: i32,
    maximum: i32,
    step: i32,
    default_value: i32,
    flags: u32,
    reserved: [u32; 2],
}

/// `struct v4l2_streamparm` with its `struct v4l2_outputparm` and the rest of the union.
#[repr(C)]
struct StreamParameters {
    kind: u32,
    capability: u32,
    mode: u32,
    numerator: u32,
    denominator: u32,
    rest: [u32; 46],
}

/// `struct v4l2_event_subscription`.
#[repr(C)]
#[derive(Default)]
struct EventSubscription {
    kind: u32,
    id: u32,
    flags: u32,
    reserved: [u32; 5],
}

/// `struct v4l2_event`.
#[repr(C)]
struct Event {
    kind: u32,
    /// The union is aligned to 8 bytes.
    alignment: u32,
    data: [u64; 8],
    pending: u32,
    sequence: u32,
    timestamp: [i64; 2],
    id: u32,
    reserved: [u32; 8],
}

// What a C compiler says about the header on x86-64 and aarch64; the size is part of every opcode as well.
const _: () = {
    assert!(size_of::<Capability>() == 104);
    assert!(size_of::<FormatDescription>() == 64);
    assert!(size_of::<PlaneFormat>() == 20);
    assert!(size_of::<Format>() == 208);
    assert!(offset_of!(Format, width) == 8);
    assert!(offset_of!(Format, planes) == 8 + 20);
    assert!(offset_of!(Format, num_planes) == 8 + 180);
    assert!(size_of::<RequestBuffers>() == 20);
    assert!(size_of::<Plane>() == 64);
    assert!(offset_of!(Plane, data_offset) == 16);
    assert!(size_of::<Buffer>() == 88);
    assert!(offset_of!(Buffer, timestamp) == 24);
    assert!(offset_of!(Buffer, timecode) == 40);
    assert!(offset_of!(Buffer, sequence) == 56);
    assert!(offset_of!(Buffer, planes) == 64);
    assert!(offset_of!(Buffer, length) == 72);
    assert!(offset_of!(Buffer, request_fd) == 80);
    assert!(size_of::<Control>() == 8);
    assert!(size_of::<QueryControl>() == 68);
    assert!(offset_of!(QueryControl, flags) == 56);
    assert!(size_of::<StreamParameters>() == 204);
    assert!(size_of::<EventSubscription>() == 32);
    assert!(size_of::<Event>() == 136);
    assert!(offset_of!(Event, pending) == 72);
    assert!(offset_of!(Event, id) == 96);
};

const VIDIOC_QUERYCAP: Opcode = opcode::read::<Capability>(b'V', 0);
const VIDIOC_ENUM_FMT: Opcode = opcode::read_write::<FormatDescription>(b'V', 2);
const VIDIOC_G_FMT: Opcode = opcode::read_write::<Format>(b'V', 4);
const VIDIOC_S_FMT: Opcode = opcode::read_write::<Format>(b'V', 5);
const VIDIOC_REQBUFS: Opcode = opcode::read_write::<RequestBuffers>(b'V', 8);
const VIDIOC_QUERYBUF: Opcode = opcode::read_write::<Buffer>(b'V', 9);
const VIDIOC_QBUF: Opcode = opcode::read_write::<Buffer>(b'V', 15);
const VIDIOC_DQBUF: Opcode = opcode::read_write::<Buffer>(b'V', 17);
const VIDIOC_STREAMON: Opcode = opcode::write::<i32>(b'V', 18);
const VIDIOC_STREAMOFF: Opcode = opcode::write::<i32>(b'V', 19);
const VIDIOC_S_PARM: Opcode = opcode::read_write::<StreamParameters>(b'V', 22);
const VIDIOC_S_CTRL: Opcode = opcode::read_write::<Control>(b'V', 28);
const VIDIOC_QUERYCTRL: Opcode = opcode::read_write::<QueryControl>(b'V', 36);
const VIDIOC_DQEVENT: Opcode = opcode::read::<Event>(b'V', 89);
const VIDIOC_SUBSCRIBE_EVENT: Opcode = opcode::write::<EventSubscription>(b'V', 90);

/// Hands a structure to a video device's driver and takes what it made of it.
fn call<const OPCODE: Opcode, T>(device: BorrowedFd<'_>, value: &mut T) -> Result<(), Errno> {
    // SAFETY: every OPCODE above stands beside the type that <linux/videodev2.h> gives it, whose size is part of it;
    // the assertions compare the layouts. `Node::open` lets only video4linux in. The kernel keeps no pointer; the
    // one pointer within (`Buffer::planes`) is set by `with_planes` alone.
    unsafe { ioctl(device, Updater::<OPCODE, T>::new(value)) }
}

/// What a device says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The driver.
    pub driver: String,
    /// The device's name.
    pub card: String,
    /// `V4L2_CAP_…` of this device node.
    pub capabilities: u32,
}

/// Where and how large the pictures or the coded data of a queue are (`struct v4l2_pix_format_mplane`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureFormat {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// FourCC, first character in the lowest byte.
    pub pixel_format: u32,
    /// Bytes of each memory plane, and of one of its rows.
    pub planes: Vec<(u32, u32)>,
}

/// The values a control may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlRange {
    /// The lowest.
    pub minimum: i32,
    /// The highest.
    pub maximum: i32,
}

/// A buffer that came back from a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dequeued {
    /// Which one.
    pub index: usize,
    /// Where the payload lies in each memory plane.
    pub payload: Vec<Range<usize>>,
    /// The device says that this is a key frame.
    pub key_frame: bool,
    /// The device says that the data are damaged.
    pub damaged: bool,
}

/// What a device has to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// A buffer of the capture queue can be had.
    pub capture: bool,
    /// A buffer of the output queue can be had.
    pub output: bool,
    /// An event can be had.
    pub event: bool,
    /// The device has failed or is gone.
    pub failed: bool,
}

/// An open video device.
#[derive(Debug)]
pub struct Node(OwnedFd);

impl Node {
    /// Opens a device node. Anything that is no character device of video4linux is refused with ENOTTY, so that no
    /// other driver is asked what is meant for these.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> Result<Node, Errno> {
        /// Documentation/admin-guide/devices.txt of the kernel.
        const VIDEO_MAJOR: u32 = 81;
        let node = rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let about = rustix::fs::fstat(&node)?;
        let character =
            rustix::fs::FileType::from_raw_mode(about.st_mode) == rustix::fs::FileType::CharacterDevice;
        if !character || rustix::fs::major(about.st_rdev) != VIDEO_MAJOR {
            return Err(Errno::NOTTY);
        }
        Ok(Node(node))
    }

    /// `VIDIOC_QUERYCAP`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn identity(&self) -> Result<Identity, Errno> {
        let mut found = Capability::default();
        call::<VIDIOC_QUERYCAP, _>(self.0.as_fd(), &mut found)?;
        // `capabilities` is of the whole device, `device_caps` of this node (V4L2_CAP_DEVICE_CAPS).
        let own = found.capabilities & 0x8000_0000 != 0;
        Ok(Identity {
            driver: text(&found.driver),
            card: text(&found.card),
            capabilities: if own { found.device_caps } else { found.capabilities },
        })
    }

    /// `VIDIOC_ENUM_FMT`: the pixel formats of a queue.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pixel_formats(&self, direction: Direction) -> Result<Vec<u32>, Errno> {
        let mut formats = Vec::new();
        // No driver has more; one that says so again and again is not asked for ever.
        for index in 0..256 {
            let mut found = FormatDescription { index, kind: direction as u32, ..Default::default() };
            match call::<VIDIOC_ENUM_FMT, _>(self.0.as_fd(), &mut found) {
                Ok(()) => formats.push(found.pixel_format),
                Err(Errno::INVAL) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(formats)
    }

    /// `VIDIOC_G_FMT`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn format(&self, direction: Direction) -> Result<PictureFormat, Errno> {
        let mut format = empty_format(direction);
        call::<VIDIOC_G_FMT, _>(self.0.as_fd(), &mut format)?;
        Ok(format.described())
    }

    /// `VIDIOC_S_FMT`, for full-range BT.709; gives what the device made of it. `size_image` is the least for the one
    /// plane of coded data, in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_format(
        &self,
        direction: Direction,
        pixel_format: u32,
        (width, height): (u32, u32),
        size_image: u32,
    ) -> Result<PictureFormat, Errno> {
        let mut format = empty_format(direction);
        format.width = width;
        format.height = height;
        format.pixel_format = pixel_format;
        format.num_planes = 1;
        format.planes[0] = PlaneFormat { size_image, ..Default::default() };
        format.field = 1; // V4L2_FIELD_NONE
        format.colorspace = 3; // V4L2_COLORSPACE_REC709
        format.ycbcr_enc = 2; // V4L2_YCBCR_ENC_709
        format.quantization = 1; // V4L2_QUANTIZATION_FULL_RANGE
        format.xfer_func = 1; // V4L2_XFER_FUNC_709
        call::<VIDIOC_S_FMT, _>(self.0.as_fd(), &mut format)?;
        Ok(format.described())
    }

    /// `VIDIOC_S_PARM`: pictures a second on the output queue.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_picture_rate(&self, rate_hz: u32) -> Result<(), Errno> {
        let kind = Direction::Output as u32;
        let mut parameters = StreamParameters {
            kind,
            capability: 0,
            mode: 0,
            numerator: 1,
            denominator: rate_hz,
            rest: [0; 46],
        };
        call::<VIDIOC_S_PARM, _>(self.0.as_fd(), &mut parameters)
    }

    /// `VIDIOC_QUERYCTRL`; nothing if the device does not have that control.
    ///
    /// # Errors
    /// The kernel's.
    pub fn control_range(&self, id: u32) -> Result<Option<ControlRange>, Errno> {
        let mut found = QueryControl { id, ..Default::default() };
        match call::<VIDIOC_QUERYCTRL, _>(self.0.as_fd(), &mut found) {
            // V4L2_CTRL_FLAG_DISABLED
            Ok(()) if found.flags & 1 == 0 => {
                Ok(Some(ControlRange { minimum: found.minimum, maximum: found.maximum }))
            }
            Ok(()) | Err(Errno::INVAL) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// `VIDIOC_S_CTRL`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_control(&self, id: u32, value: i32) -> Result<(), Errno> {
        call::<VIDIOC_S_CTRL, _>(self.0.as_fd(), &mut Control { id, value })
    }

    /// `VIDIOC_REQBUFS` for buffers that the device provides; gives how many there are now. 0 frees them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn request_buffers(&self, direction: Direction, count: u32) -> Result<u32, Errno> {
        let kind = direction as u32;
        let mut request = RequestBuffers { count, kind, memory: MEMORY_MMAP, ..Default::default() };
        call::<VIDIOC_REQBUFS, _>(self.0.as_fd(), &mut request)?;
        Ok(request.count)
    }

    /// `VIDIOC_QUERYBUF` and mmap(2): the memory planes of a buffer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map_buffer(&self, direction: Direction, index: u32) -> Result<Vec<Mapping>, Errno> {
        let mut planes = [Plane::default(); MAX_PLANES];
        let count = self.with_planes::<VIDIOC_QUERYBUF>(direction, index, &mut planes, Duration::ZERO)?.length
            as usize;
        planes
            .iter()
            .take(count)
            .map(|plane| Mapping::new(self.0.as_fd(), plane.length as usize, plane.mem_offset & 0xffff_ffff))
            .collect()
    }

    /// `VIDIOC_QBUF`: gives a buffer to the device, with so many bytes in each memory plane; `time` is the picture's,
    /// from any beginning.
    ///
    /// # Errors
    /// The kernel's.
    pub fn queue(
        &self,
        direction: Direction,
        index: usize,
        bytes: &[usize],
        time: Duration,
    ) -> Result<(), Errno> {
        let mut planes = [Plane::default(); MAX_PLANES];
        for (plane, bytes) in planes.iter_mut().zip(bytes) {
            plane.bytes_used = u32::try_from(*bytes).map_err(|_| Errno::INVAL)?;
            plane.length = plane.bytes_used;
        }
        let index = u32::try_from(index).map_err(|_| Errno::INVAL)?;
        let planes_used = bytes.len().min(MAX_PLANES);
        let (first, _) = planes.split_at_mut(planes_used);
        self.with_planes::<VIDIOC_QBUF>(direction, index, first, time).map(drop)
    }

    /// `VIDIOC_DQBUF`: takes a buffer back; nothing if none is ready.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dequeue(&self, direction: Direction) -> Result<Option<Dequeued>, Errno> {
        let mut planes = [Plane::default(); MAX_PLANES];
        let buffer = match self.with_planes::<VIDIOC_DQBUF>(direction, 0, &mut planes, Duration::ZERO) {
            Ok(buffer) => buffer,
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e),
        };
        let used = planes.iter().take(buffer.length as usize);
        // `bytesused` counts from the beginning of the plane, headers before `data_offset` included.
        let payload = used.map(|p| (p.data_offset.min(p.bytes_used) as usize)..p.bytes_used as usize);
        Ok(Some(Dequeued {
            index: buffer.index as usize,
            payload: payload.collect(),
            key_frame: buffer.flags & FLAG_KEYFRAME != 0,
            damaged: buffer.flags & FLAG_ERROR != 0,
        }))
    }

    /// `VIDIOC_STREAMON` and `VIDIOC_STREAMOFF`; the latter gives all queued buffers back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stream(&self, direction: Direction, on: bool) -> Result<(), Errno> {
        let mut kind = direction as i32;
        if on {
            call::<VIDIOC_STREAMON, _>(self.0.as_fd(), &mut kind)
        } else {
            call::<VIDIOC_STREAMOFF, _>(self.0.as_fd(), &mut kind)
        }
    }

    /// `VIDIOC_SUBSCRIBE_EVENT`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn subscribe(&self, kind: u32) -> Result<(), Errno> {
        let mut subscription = EventSubscription { kind, ..Default::default() };
        call::<VIDIOC_SUBSCRIBE_EVENT, _>(self.0.as_fd(), &mut subscription)
    }

    /// `VIDIOC_DQEVENT`: the kind of the next event; nothing if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn event(&self) -> Result<Option<u32>, Errno> {
        let mut event = Event {
            kind: 0,
            alignment: 0,
            data: [0; 8],
            pending: 0,
            sequence: 0,
            timestamp: [0; 2],
            id: 0,
            reserved: [0; 8],
        };
        match call::<VIDIOC_DQEVENT, _>(self.0.as_fd(), &mut event) {
            Ok(()) => Ok(Some(event.kind)),
            Err(Errno::NOENT | Errno::AGAIN) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// poll(2) for everything that the device may have to tell; nothing of it when the time is over.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self, bound: Duration) -> Result<Readiness, Errno> {
        let wanted = PollFlags::IN | PollFlags::OUT | PollFlags::PRI;
        let mut one = [PollFd::new(&self.0, wanted)];
        let bound = Timespec { tv_sec: bound.as_secs() as i64, tv_nsec: i64::from(bound.subsec_nanos()) };
        rustix::event::poll(&mut one, Some(&bound))?;
        let told = one[0].revents();
        Ok(Readiness {
            capture: told.contains(PollFlags::IN),
            output: told.contains(PollFlags::OUT),
            event: told.contains(PollFlags::PRI),
            failed: told.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
        })
    }

    fn with_planes<const OPCODE: Opcode>(
        &self,
        direction: Direction,
        index: u32,
        planes: &mut [Plane],
        time: Duration,
    ) -> Result<Buffer, Errno> {
        let mut buffer = Buffer {
            index,
            kind: direction as u32,
            bytes_used: 0,
            flags: 0,
            field: 1, // V4L2_FIELD_NONE
            timestamp: [time.as_secs() as i64, i64::from(time.subsec_micros())],
            timecode: [0; 4],
            sequence: 0,
            memory: MEMORY_MMAP,
            // The kernel writes at most `length` planes; both live until the call returns.
            planes: planes.as_mut_ptr(),
            length: planes.len() as u32,
            reserved2: 0,
            request_fd: 0,
        };
        call::<OPCODE, _>(self.0.as_fd(), &mut buffer)?;
        buffer.planes = std::ptr::null_mut();
        buffer.length = buffer.length.min(planes.len() as u32);
        Ok(buffer)
    }
}

fn empty_format(direction: Direction) -> Format {
    Format {
        kind: direction as u32,
        alignment: 0,
        width: 0,
        height: 0,
        pixel_format: 0,
        field: 0,
        colorspace: 0,
        planes: [PlaneFormat::default(); MAX_PLANES],
        num_planes: 0,
        flags: 0,
        ycbcr_enc: 0,
        quantization: 0,
        xfer_func: 0,
        reserved: [0; 7],
        rest: [0; 8],
    }
}

impl Format {
    fn described(&self) -> PictureFormat {
        let planes = self.planes;
        let planes = planes.iter().take(self.num_planes.into());
        PictureFormat {
            width: self.width,
            height: self.height,
            pixel_format: self.pixel_format,
            planes: planes.map(|plane| (plane.size_image, plane.bytes_per_line)).collect(),
        }
    }
}

/// Text that ends at the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A memory plane of a buffer. The device may write it at any time between queueing and dequeueing, so it is copied
/// from and to, and never lent out as a slice.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the whole process, and this one to its owner alone.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(device: BorrowedFd<'_>, length: usize, offset: u64) -> Result<Mapping, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory that is in use.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, device, offset)
        }?;
        Ok(Mapping { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, length })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes bytes at an offset; `false`, and nothing written, when they do not fit.
    #[must_use]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.length) {
            return false;
        }
        // SAFETY: the target lies within the mapping (checked above) and no reference to it exists anywhere.
        unsafe { self.start.as_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        true
    }

    /// Appends a part of the plane to `out`; `false`, and nothing appended, when it does not lie within.
    #[must_use]
    pub fn read(&self, part: Range<usize>, out: &mut Vec<u8>) -> bool {
        let Some(length) = part.end.checked_sub(part.start) else { return false };
        if part.end > self.length {
            return false;
        }
        let before = out.len();
        out.resize(before + length, 0);
        // SAFETY: the source lies within the mapping (checked above), the target is `length` bytes of a vector of ours.
        unsafe {
            let source = self.start.as_ptr().add(part.start);
            out.as_mut_ptr().add(before).copy_from_nonoverlapping(source, length);
        }
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this address and length, and nothing refers to it any more.
        // It fails only for ranges that are none.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.length) };
    }
}
