//! Tells the kernel that a partition has grown, without making it read the table again.
//!
//! `BLKPG` with `BLKPG_RESIZE_PARTITION`, Linux `include/uapi/linux/blkpg.h`. Other partitions of the
//! disk may be in use meanwhile.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_longlong, c_void};
use std::fs::File;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `_IO(0x12, 105)`.
const BLKPG: Opcode = opcode::none(0x12, 105);
/// `BLKPG_RESIZE_PARTITION`.
const RESIZE: c_int = 3;

/// `struct blkpg_partition`: lengths in bytes.
#[repr(C)]
struct BlkpgPartition {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: c_int,
    flags: c_int,
    data_length: c_int,
    data: *mut c_void,
}

/// Gives partition `number` of `disk` the length that the table now says. All in bytes.
pub(crate) fn resize(disk: &File, number: u32, start: u64, length: u64) -> rustix::io::Result<()> {
    let (Ok(number), Ok(start), Ok(length)) =
        (c_int::try_from(number), c_longlong::try_from(start), c_longlong::try_from(length))
    else {
        return Err(rustix::io::Errno::OVERFLOW);
    };
    let mut partition = BlkpgPartition { start, length, number, device_name: [0; 64], volume_name: [0; 64] };
    let argument = BlkpgArgument {
        operation: RESIZE,
        flags: 0,
        data_length: size_of::<BlkpgPartition>() as c_int,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: BLKPG reads a `struct blkpg_ioctl_arg`, which `BlkpgArgument` is field by field, and
    // behind its pointer a `struct blkpg_partition`, which lives until after the call.
    unsafe { ioctl(disk, Setter::<BLKPG, BlkpgArgument>::new(argument)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(BLKPG, 0x1269);
        assert_eq!(size_of::<BlkpgPartition>(), 152);
        assert_eq!(size_of::<BlkpgArgument>(), 24);
        assert_eq!(std::mem::offset_of!(BlkpgArgument, data), 16);
        assert_eq!(std::mem::offset_of!(BlkpgPartition, volume_name), 84);
    }
}
