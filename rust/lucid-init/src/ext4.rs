//! What the data partition holds, from its first MiB.

use std::io::{self, Read, Seek, SeekFrom};

/// How much must be zero for a partition to count as blank.
pub(crate) const BLANK_BYTES: usize = 1 << 20;
/// Offset of the superblock.
const SUPERBLOCK: usize = 1024;
/// `s_magic`.
const MAGIC: u16 = 0xef53;
/// `s_state`: cleanly unmounted.
const STATE_VALID: u16 = 1;
/// `s_state`: errors were found.
const STATE_ERRORS: u16 = 2;
/// `s_feature_compat`: there is a journal.
const COMPAT_HAS_JOURNAL: u32 = 4;
/// `s_feature_incompat`: the journal holds changes that are not in place yet.
const INCOMPAT_RECOVER: u32 = 4;
/// `s_feature_incompat`: block numbers have 64 bits.
const INCOMPAT_64BIT: u32 = 0x80;

/// The fields of an ext4 superblock that the boot needs (Linux: fs/ext4/ext4.h, `struct
/// ext4_super_block`; all little-endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Bytes of the file system.
    pub(crate) bytes: u64,
    /// Not unmounted cleanly in a way that the journal does not cover, or errors were found.
    pub(crate) damaged: bool,
    /// The journal must be replayed: the machine lost power.
    pub(crate) needs_recovery: bool,
    /// There is a journal. The checker removes one that it cannot mend.
    pub(crate) has_journal: bool,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Its first MiB is zero.
    Blank,
    /// An ext4 file system.
    Ext4(Superblock),
    /// Anything else.
    Foreign,
}

/// Reads the beginning of a partition.
pub(crate) fn probe<D: Read + Seek>(mut partition: D) -> io::Result<Contents> {
    let mut bytes = Vec::with_capacity(BLANK_BYTES);
    partition.seek(SeekFrom::Start(0))?;
    partition.take(BLANK_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(classify(&bytes))
}

/// Decides from the first MiB (or the whole, if it is smaller).
pub(crate) fn classify(bytes: &[u8]) -> Contents {
    if let Some(superblock) = bytes.get(SUPERBLOCK..SUPERBLOCK + 1024).and_then(read) {
        return Contents::Ext4(superblock);
    }
    if !bytes.is_empty() && bytes.iter().all(|b| *b == 0) { Contents::Blank } else { Contents::Foreign }
}

fn read(sb: &[u8]) -> Option<Superblock> {
    let u16_at = |at: usize| u16::from_le_bytes([sb[at], sb[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([sb[at], sb[at + 1], sb[at + 2], sb[at + 3]]);
    if u16_at(56) != MAGIC {
        return None;
    }
    let incompat = u32_at(96);
    let high = if incompat & INCOMPAT_64BIT != 0 { u32_at(336) } else { 0 };
    let blocks = u64::from(u32_at(4)) | u64::from(high) << 32;
    // 1 KiB to 64 KiB: anything else is damage, which the checker or the kernel will name.
    let shift = u32_at(24).min(6) + 10;
    let state = u16_at(58);
    Some(Superblock {
        bytes: blocks.saturating_mul(1 << shift),
        damaged: state & STATE_VALID == 0 || state & STATE_ERRORS != 0,
        needs_recovery: incompat & INCOMPAT_RECOVER != 0,
        has_journal: u32_at(92) & COMPAT_HAS_JOURNAL != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::path::Path;
    use std::process::Command;

    fn run(tool: &str, args: &[&str], file: &Path) {
        let out = Command::new(tool).args(args).arg(file).output().unwrap();
        assert!(out.status.success(), "{tool}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn made(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        run("/sbin/mke2fs", &["-q", "-F", "-t", "ext4"], file.path());
        file
    }

    #[test]
    fn a_real_file_system_is_recognised_with_its_size_and_state() {
        let file = made(64 << 20);
        let wanted = Superblock { bytes: 64 << 20, damaged: false, needs_recovery: false, has_journal: true };
        assert_eq!(probe(file.as_file()).unwrap(), Contents::Ext4(wanted));
        run("/sbin/debugfs", &["-w", "-R", "set_super_value state 3"], file.path());
        let wanted = Superblock { damaged: true, ..wanted };
        assert_eq!(probe(file.as_file()).unwrap(), Contents::Ext4(wanted));
        run("/sbin/debugfs", &["-w", "-R", "set_super_value state 1"], file.path());
        run("/sbin/debugfs", &["-w", "-R", "feature needs_recovery"], file.path());
        let wanted = Superblock { damaged: false, needs_recovery: true, ..wanted };
        assert_eq!(probe(file.as_file()).unwrap(), Contents::Ext4(wanted));
        run("/sbin/debugfs", &["-w", "-R", "feature -needs_recovery -has_journal"], file.path());
        let wanted = Superblock { needs_recovery: false, has_journal: false, ..wanted };
        assert_eq!(probe(file.as_file()).unwrap(), Contents::Ext4(wanted));
    }

    #[test]
    fn only_a_zero_first_mib_is_blank() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        assert_eq!(probe(&file).unwrap(), Contents::Blank);
        for at in [0, 1023, 1024, 1024 + 56, BLANK_BYTES - 1] {
            let mut bytes = vec![0u8; BLANK_BYTES];
            bytes[at] = 1;
            assert_eq!(classify(&bytes), Contents::Foreign, "byte {at}");
        }
        assert_eq!(classify(&[]), Contents::Foreign);
    }

    #[test]
    fn a_fat_file_system_is_foreign() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        run("/sbin/mkfs.fat", &[], file.path());
        let file = OpenOptions::new().read(true).open(file.path()).unwrap();
        assert_eq!(probe(file).unwrap(), Contents::Foreign);
    }
}
