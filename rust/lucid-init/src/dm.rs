//! The device-mapper calls that make the verified root, without libdevmapper.
//!
//! Layout and numbers: Linux `include/uapi/linux/dm-ioctl.h`, interface version 4.0.0 (newer kernels
//! accept it). All integers in the machine's byte order. A request is one buffer: `struct dm_ioctl`
//! (312 bytes), then, to load a table, one `struct dm_target_spec` (40 bytes) and the target's
//! parameters as text with a final NUL.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::cmdline::{BLOCK_SIZE, Verity};
use crate::error::{Doing as _, Error};

/// `sizeof(struct dm_ioctl)`.
const HEADER: usize = 312;
/// `sizeof(struct dm_target_spec)`.
const TARGET: usize = 40;
/// One buffer for every request and its answer; the longest parameters are below 1 KiB.
const BUFFER: usize = 2048;
/// `DM_READONLY_FLAG`.
const READONLY: u32 = 1;
/// Sectors of 512 bytes in one block.
const SECTORS_PER_BLOCK: u64 = BLOCK_SIZE / 512;

/// `DM_DEV_CREATE_CMD`.
const DEV_CREATE: u8 = 3;
/// `DM_DEV_SUSPEND_CMD`; without the suspend flag it resumes, which makes the loaded table live.
const DEV_SUSPEND: u8 = 6;
/// `DM_TABLE_LOAD_CMD`.
const TABLE_LOAD: u8 = 9;

/// `_IOWR(0xfd, command, struct dm_ioctl)`.
const fn request_code(command: u8) -> Opcode {
    opcode::from_components(rustix::ioctl::Direction::ReadWrite, 0xfd, command, HEADER)
}

/// The parameters of the `verity` target (Linux: Documentation/admin-guide/device-mapper/verity.rst):
/// hash type 1, data and hash on the same device, the tree right behind the data, panic on corruption.
pub(crate) fn verity_parameters(device: (u32, u32), verity: &Verity) -> String {
    let (major, minor) = device;
    let Verity { data_blocks, salt, root_hash } = verity;
    format!(
        "1 {major}:{minor} {major}:{minor} {BLOCK_SIZE} {BLOCK_SIZE} {data_blocks} {data_blocks} \
         sha256 {root_hash} {salt} 1 panic_on_corruption"
    )
}

/// A request about the device `name`, ready for the kernel.
fn encode(name: &str, flags: u32, target: Option<(u64, &str, &str)>) -> [u8; BUFFER] {
    let mut buffer = [0u8; BUFFER];
    let mut put = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
    for (i, number) in [4u32, 0, 0].into_iter().enumerate() {
        put(4 * i, &number.to_ne_bytes()); // version
    }
    put(12, &(BUFFER as u32).to_ne_bytes()); // data_size
    put(16, &(HEADER as u32).to_ne_bytes()); // data_start
    put(28, &flags.to_ne_bytes());
    put(48, name.as_bytes()); // at most 127 bytes and a NUL
    if let Some((sectors, kind, parameters)) = target {
        put(20, &1u32.to_ne_bytes()); // target_count
        put(HEADER + 8, &sectors.to_ne_bytes()); // length; sector_start is 0
        let size = (TARGET + parameters.len() + 1).next_multiple_of(8);
        put(HEADER + 20, &(size as u32).to_ne_bytes()); // next
        put(HEADER + 24, kind.as_bytes()); // at most 15 bytes and a NUL
        put(HEADER + TARGET, parameters.as_bytes());
    }
    buffer
}

/// Sends one request; the answer replaces it.
fn call<const CODE: Opcode>(control: &File, buffer: &mut [u8; BUFFER]) -> rustix::io::Result<()> {
    // SAFETY: the device-mapper reads and writes at most the number of bytes that `data_size` in the
    // buffer's header gives, and `encode` sets that to the size of this buffer. The buffer is plain
    // bytes, so whatever the kernel writes into it is valid.
    unsafe { ioctl(control, Updater::<CODE, [u8; BUFFER]>::new(buffer)) }
}

/// The device number in the kernel's encoding (`new_encode_dev`): the minor number is split.
fn minor_of(dev: u64) -> u64 {
    (dev & 0xff) | (dev >> 12 & 0xf_ff00)
}

/// Makes the read-only verified device `name` on `device` (major, minor) and returns its path.
pub(crate) fn create_verity(name: &str, device: (u32, u32), verity: &Verity) -> Result<String, Error> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")
        .doing(|| "opening /dev/mapper/control (is the dm-mod module there?)".to_owned())?;
    let mut buffer = encode(name, 0, None);
    call::<{ request_code(DEV_CREATE) }>(&control, &mut buffer)
        .doing(|| format!("creating the device-mapper device {name}"))?;
    let dev = u64::from_ne_bytes([
        buffer[40], buffer[41], buffer[42], buffer[43], buffer[44], buffer[45], buffer[46], buffer[47],
    ]);
    let parameters = verity_parameters(device, verity);
    let sectors = verity.data_blocks * SECTORS_PER_BLOCK;
    let mut buffer = encode(name, READONLY, Some((sectors, "verity", &parameters)));
    call::<{ request_code(TABLE_LOAD) }>(&control, &mut buffer).doing(|| {
        format!(
            "loading the table 0 {sectors} verity {parameters} (the kernel's line before this one says why)"
        )
    })?;
    let mut buffer = encode(name, 0, None);
    call::<{ request_code(DEV_SUSPEND) }>(&control, &mut buffer)
        .doing(|| format!("starting the device-mapper device {name}"))?;
    Ok(format!("/dev/dm-{}", minor_of(dev)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verity() -> Verity {
        Verity { data_blocks: 3, salt: "00ff".into(), root_hash: "ab".repeat(32) }
    }

    #[test]
    fn the_request_codes_are_those_of_the_kernel_header() {
        assert_eq!(request_code(DEV_CREATE), 0xc138_fd03);
        assert_eq!(request_code(DEV_SUSPEND), 0xc138_fd06);
        assert_eq!(request_code(TABLE_LOAD), 0xc138_fd09);
    }

    #[test]
    fn the_table_is_the_one_that_veritysetup_would_load() {
        let wanted =
            format!("1 254:4 254:4 4096 4096 3 3 sha256 {} 00ff 1 panic_on_corruption", "ab".repeat(32));
        assert_eq!(verity_parameters((254, 4), &verity()), wanted);
    }

    /// The golden bytes hold on the little-endian machines that this is built for.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_table_load_request_has_the_golden_bytes() {
        let parameters = verity_parameters((254, 4), &verity());
        let bytes = encode("lucid-root", READONLY, Some((24, "verity", &parameters)));
        let mut golden = Vec::new();
        golden.extend([4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // version 4.0.0
        golden.extend([0x00, 0x08, 0, 0]); // data_size 2048
        golden.extend([0x38, 0x01, 0, 0]); // data_start 312
        golden.extend([1, 0, 0, 0]); // one target
        golden.extend([0, 0, 0, 0]); // open_count
        golden.extend([1, 0, 0, 0]); // DM_READONLY_FLAG
        golden.extend([0; 16]); // event_nr, padding, dev
        golden.extend(b"lucid-root");
        golden.extend([0; 118]); // rest of the name's 128 bytes
        golden.extend([0; 129 + 7]); // uuid, padding
        assert_eq!(golden.len(), 312);
        golden.extend([0; 8]); // sector_start
        golden.extend([24, 0, 0, 0, 0, 0, 0, 0]); // length
        golden.extend([0, 0, 0, 0]); // status
        golden.extend([168, 0, 0, 0]); // next: 40 + 126 + 1, rounded up to a multiple of 8
        golden.extend(b"verity\0\0\0\0\0\0\0\0\0\0");
        golden.extend(parameters.as_bytes());
        assert_eq!(parameters.len(), 126);
        golden.resize(BUFFER, 0);
        assert_eq!(bytes.to_vec(), golden);
    }

    #[test]
    fn the_longest_allowed_salt_fits_the_buffer() {
        let verity = Verity { data_blocks: 1 << 28, salt: "ff".repeat(256), root_hash: "0".repeat(64) };
        let parameters = verity_parameters((u32::MAX, u32::MAX), &verity);
        assert!(HEADER + TARGET + parameters.len() < BUFFER);
        encode("lucid-root", READONLY, Some((u64::MAX, "verity", &parameters)));
    }

    #[test]
    fn a_split_minor_number_is_joined() {
        assert_eq!(minor_of(0xfd00), 0);
        assert_eq!(minor_of(0xfd07), 7);
        assert_eq!(minor_of(0x0010_fd07), 0x107);
    }
}
