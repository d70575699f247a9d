//! The memory that the compositor paints an output into.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_shm::{self, WlShm};

use super::Handle;
use crate::{Error, Rect};

/// The widest and highest output whose picture is taken.
const MAX_SIDE: u32 = 16384;

/// The shared memory that the compositor paints into.
pub(super) struct Buffer {
    pub(super) memory: OwnedFd,
    pub(super) buffer: WlBuffer,
    pub(super) layout: Layout,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) format: wl_shm::Format,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) stride: u32,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.buffer.destroy();
    }
}

/// Makes the buffer fit; says whether it is a new one.
pub(super) fn prepare_buffer(
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

/// Reads a rectangle of a buffer, row after row.
pub(super) fn read_piece(
    buffer: &Buffer,
    place: Rect,
    y_invert: bool,
    piece: &mut Vec<u8>,
) -> Result<(), Error> {
    let (stride, row) = (buffer.layout.stride as usize, place.width as usize * 4);
    piece.resize(row * place.height as usize, 0);
    for (i, line) in (place.y..place.y + place.height).zip(piece.chunks_exact_mut(row)) {
        let i = if y_invert { buffer.layout.height - 1 - i } else { i };
        read_exact(&buffer.memory, line, i as usize * stride + place.x as usize * 4)?;
    }
    Ok(())
}

pub(super) fn read_exact(memory: &OwnedFd, mut bytes: &mut [u8], at: usize) -> Result<(), Error> {
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
pub(super) fn is_bgrx(format: wl_shm::Format) -> bool {
    matches!(format, wl_shm::Format::Xrgb8888 | wl_shm::Format::Argb8888)
}
