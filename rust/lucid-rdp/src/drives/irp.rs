//! Requests to a client's drives and their answers, as they are on the wire (MS-RDPEFS 2.2.1.4, 2.2.1.5, 2.2.3.3,
//! 2.2.3.4). All numbers are little endian; what a client answers is read with every length checked.

use rustix::io::Errno;

/// Component of every message here (2.2.1.1).
pub(super) const CORE: u16 = 0x4472;
/// PacketId of a request (2.2.1.4).
const IO_REQUEST: u16 = 0x4952;
/// A request to no file that is open yet.
pub(super) const NO_FILE: u32 = 0;

/// NTSTATUS values (MS-ERREF 2.3.1) that are more than an error.
pub(super) const STATUS_SUCCESS: u32 = 0;
const STATUS_NO_MORE_FILES: u32 = 0x8000_0006;
const STATUS_NO_SUCH_FILE: u32 = 0xc000_000f;
const STATUS_END_OF_FILE: u32 = 0xc000_0011;
/// What a device gets that is not taken.
pub(super) const STATUS_ACCESS_DENIED: u32 = 0xc000_0022;

/// MajorFunction and MinorFunction of the requests that are sent (2.2.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Create,
    Close,
    Read,
    Write,
    QueryInformation,
    SetInformation,
    QueryVolumeInformation,
    QueryDirectory,
}

impl Function {
    fn numbers(self) -> (u32, u32) {
        match self {
            Function::Create => (0, 0),
            Function::Close => (2, 0),
            Function::Read => (3, 0),
            Function::Write => (4, 0),
            Function::QueryInformation => (5, 0),
            Function::SetInformation => (6, 0),
            Function::QueryVolumeInformation => (0xa, 0),
            Function::QueryDirectory => (0xc, 1),
        }
    }
}

/// What a file is opened for (MS-SMB2 2.2.13.1.1): sets of rights, as Windows' own calls ask for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// FILE_READ_ATTRIBUTES, SYNCHRONIZE.
    Look,
    /// FILE_GENERIC_READ; of a folder: to list it.
    Read,
    /// FILE_GENERIC_WRITE, FILE_READ_ATTRIBUTES.
    Write,
    /// Both.
    ReadWrite,
    /// FILE_WRITE_ATTRIBUTES, FILE_READ_ATTRIBUTES, SYNCHRONIZE.
    SetAttributes,
    /// DELETE, FILE_READ_ATTRIBUTES, SYNCHRONIZE: to delete or rename.
    Delete,
}

impl Access {
    fn bits(self) -> u32 {
        match self {
            Access::Look => 0x0010_0080,
            Access::Read => 0x0012_0089,
            Access::Write => 0x0012_0196,
            Access::ReadWrite => 0x0012_019f,
            Access::SetAttributes => 0x0010_0180,
            Access::Delete => 0x0011_0080,
        }
    }
}

/// CreateDisposition (MS-SMB2 2.2.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    /// It has to be there.
    Open = 1,
    /// It must not be there.
    Create = 2,
}

/// CreateOptions (MS-SMB2 2.2.13): what it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Any = 0x20,
    Folder = 0x21,
    File = 0x60,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) access: Access,
    pub(super) disposition: Disposition,
    pub(super) kind: Kind,
}

/// FSCC's numbers of information classes (MS-FSCC 2.4, 2.5).
pub(super) const FILE_DIRECTORY_INFORMATION: u32 = 1;
pub(super) const FILE_BASIC_INFORMATION: u32 = 4;
pub(super) const FILE_STANDARD_INFORMATION: u32 = 5;
const FILE_RENAME_INFORMATION: u32 = 10;
const FILE_DISPOSITION_INFORMATION: u32 = 13;
const FILE_END_OF_FILE_INFORMATION: u32 = 20;
const FILE_FS_FULL_SIZE_INFORMATION: u32 = 7;

/// FILE_ATTRIBUTE_READONLY and FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_NORMAL (MS-FSCC 2.6).
const READONLY: u32 = 0x1;
const DIRECTORY: u32 = 0x10;
const NORMAL: u32 = 0x80;

/// The header of a request (DR_DEVICE_IOREQUEST).
pub(super) fn request(device: u32, file: u32, completion: u32, function: Function, body: &[u8]) -> Vec<u8> {
    let (major, minor) = function.numbers();
    let mut bytes = Vec::with_capacity(24 + body.len());
    for half in [CORE, IO_REQUEST] {
        bytes.extend(half.to_le_bytes());
    }
    for number in [device, file, completion, major, minor] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(body);
    bytes
}

/// The device that a request is for.
pub(super) fn device(request: &[u8]) -> Option<u32> {
    u32_at(request, 4).ok()
}

/// UTF-16 with its final NUL, after its length in bytes and so much padding.
fn name(bytes: &mut Vec<u8>, text: &str, padding: usize) {
    let wide: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    // Paths are bounded to a few thousand bytes.
    bytes.extend((wide.len() as u32).to_le_bytes());
    bytes.resize(bytes.len() + padding, 0);
    bytes.extend(wide);
}

/// 2.2.1.4.1; `path` begins with a backslash.
pub(super) fn create(path: &str, open: Open) -> Vec<u8> {
    let attributes = if open.kind == Kind::Folder { DIRECTORY } else { NORMAL };
    let mut bytes = open.access.bits().to_le_bytes().to_vec();
    // AllocationSize.
    bytes.extend(0u64.to_le_bytes());
    // Others may read, write and delete it meanwhile, as between programs of one machine.
    for number in [attributes, 7, open.disposition as u32, open.kind as u32] {
        bytes.extend(number.to_le_bytes());
    }
    name(&mut bytes, path, 0);
    bytes
}

/// 2.2.1.4.2.
pub(super) fn close() -> Vec<u8> {
    vec![0; 32]
}

/// 2.2.1.4.3; `length` in bytes.
pub(super) fn read(offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(offset.to_le_bytes());
    bytes.resize(32, 0);
    bytes
}

/// 2.2.1.4.4.
pub(super) fn write(offset: u64, data: &[u8]) -> Vec<u8> {
    // The kernel gives at most 128 KiB at once.
    let mut bytes = read(offset, data.len() as u32);
    bytes.extend(data);
    bytes
}

/// 2.2.3.3.8, and 2.2.3.3.6 for volumes, which has the same form.
fn query(class: u32, length: u32) -> Vec<u8> {
    let mut bytes = class.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.resize(32, 0);
    bytes
}

pub(super) fn query_information(class: u32) -> Vec<u8> {
    query(class, 0)
}

pub(super) fn query_size() -> Vec<u8> {
    query(FILE_FS_FULL_SIZE_INFORMATION, 32)
}

/// 2.2.3.3.10; only the first one of a listing has a pattern.
pub(super) fn query_directory(pattern: Option<&str>) -> Vec<u8> {
    let mut bytes = FILE_DIRECTORY_INFORMATION.to_le_bytes().to_vec();
    bytes.push(u8::from(pattern.is_some()));
    match pattern {
        Some(pattern) => name(&mut bytes, pattern, 23),
        None => bytes.resize(bytes.len() + 4 + 23, 0),
    }
    bytes
}

/// 2.2.3.3.9.
fn set(class: u32, buffer: &[u8]) -> Vec<u8> {
    let mut bytes = query(class, buffer.len() as u32);
    bytes.extend(buffer);
    bytes
}

/// MS-FSCC 2.4.13; `size` in bytes.
pub(super) fn set_size(size: u64) -> Vec<u8> {
    set(FILE_END_OF_FILE_INFORMATION, &size.to_le_bytes())
}

/// 2.2.3.3.9: without a buffer it stands for its deletion when it is closed.
pub(super) fn set_deleted() -> Vec<u8> {
    set(FILE_DISPOSITION_INFORMATION, &[1])
}

/// 2.2.3.3.9.1, RDP_FILE_RENAME_INFORMATION; `path` begins with a backslash.
pub(super) fn set_name(path: &str, replace: bool) -> Vec<u8> {
    let mut buffer = vec![u8::from(replace), 0];
    name(&mut buffer, path, 0);
    set(FILE_RENAME_INFORMATION, &buffer)
}

/// MS-FSCC 2.4.7 without its padding, as all clients have it. Times since 1970; none: as it is.
pub(super) fn set_basic(
    accessed: Option<Time>,
    modified: Option<Time>,
    readonly: bool,
    folder: bool,
) -> Vec<u8> {
    let ticks = |time: Option<Time>| time.map_or(0, Time::ticks);
    let mut buffer = Vec::new();
    for time in [0, ticks(accessed), ticks(modified), 0] {
        buffer.extend(time.to_le_bytes());
    }
    let base = if folder { DIRECTORY } else { NORMAL };
    let attributes = match (readonly, folder) {
        (true, false) => READONLY,
        (true, true) => base | READONLY,
        (false, _) => base,
    };
    buffer.extend(attributes.to_le_bytes());
    set(FILE_BASIC_INFORMATION, &buffer)
}

/// A time since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// Between the years 1601, where Windows' clock begins, and 1970.
const EPOCH: i64 = 11_644_473_600;
/// Of 100 ns.
const TICKS: i64 = 10_000_000;

impl Time {
    fn from_ticks(ticks: i64) -> Time {
        if ticks <= 0 {
            return Time::default();
        }
        // Less than ten million: it fits.
        let nanoseconds = (ticks % TICKS) as u32 * 100;
        Time { seconds: ticks / TICKS - EPOCH, nanoseconds }
    }

    /// Never 0, which would leave the time as it is.
    fn ticks(self) -> i64 {
        let seconds = self.seconds.saturating_add(EPOCH);
        seconds.saturating_mul(TICKS).saturating_add(i64::from(self.nanoseconds / 100)).max(1)
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// In bytes.
    pub(super) size: u64,
    pub(super) folder: bool,
    pub(super) readonly: bool,
    pub(super) accessed: Time,
    pub(super) modified: Time,
    pub(super) changed: Time,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the client has it, in UTF-16; it may be no text.
    pub(super) name: Vec<u16>,
    pub(super) attributes: Attributes,
}

/// The answer is not what was asked for.
const MALFORMED: Errno = Errno::IO;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Errno> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(MALFORMED)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Errno> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Errno> {
    number(bytes, at).map(u64::from_le_bytes)
}

fn time_at(bytes: &[u8], at: usize) -> Result<Time, Errno> {
    number(bytes, at).map(i64::from_le_bytes).map(Time::from_ticks)
}

/// 2.2.1.5.1: the number of the opened file.
pub(super) fn created(answer: &[u8]) -> Result<u32, Errno> {
    u32_at(answer, 0)
}

/// What stands behind its length, in bytes (2.2.1.5.3, 2.2.3.4).
fn buffer(answer: &[u8]) -> Result<&[u8], Errno> {
    let length = u32_at(answer, 0)? as usize;
    answer.get(4..).and_then(|rest| rest.get(..length)).ok_or(MALFORMED)
}

/// 2.2.1.5.3: at most `most` bytes.
pub(super) fn data(answer: &[u8], most: u32) -> Result<&[u8], Errno> {
    buffer(answer).and_then(|data| if data.len() <= most as usize { Ok(data) } else { Err(MALFORMED) })
}

/// 2.2.1.5.4: how many bytes were written, of so many.
pub(super) fn written(answer: &[u8], most: u32) -> Result<u32, Errno> {
    u32_at(answer, 0).and_then(|length| if length <= most { Ok(length) } else { Err(MALFORMED) })
}

/// MS-FSCC 2.4.7 and 2.4.41.
pub(super) fn attributes(basic: &[u8], standard: &[u8]) -> Result<Attributes, Errno> {
    let (basic, standard) = (buffer(basic)?, buffer(standard)?);
    let flags = u32_at(basic, 32)?;
    Ok(Attributes {
        size: size(u64_at(standard, 8)?),
        folder: flags & DIRECTORY != 0,
        readonly: flags & READONLY != 0,
        accessed: time_at(basic, 8)?,
        modified: time_at(basic, 16)?,
        changed: time_at(basic, 24)?,
    })
}

/// No file is larger than what a file offset can say.
fn size(size: u64) -> u64 {
    size.min(i64::MAX as u64)
}

/// MS-FSCC 2.4.10, one entry after the other.
pub(super) fn entries(answer: &[u8]) -> Result<Vec<Entry>, Errno> {
    let mut rest = buffer(answer)?;
    let mut entries = Vec::new();
    loop {
        let next = u32_at(rest, 0)? as usize;
        let flags = u32_at(rest, 56)?;
        let length = u32_at(rest, 60)? as usize;
        let name = rest.get(64..).and_then(|rest| rest.get(..length)).ok_or(MALFORMED)?;
        entries.push(Entry {
            name: name.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect(),
            attributes: Attributes {
                size: size(u64_at(rest, 40)?),
                folder: flags & DIRECTORY != 0,
                readonly: flags & READONLY != 0,
                accessed: time_at(rest, 16)?,
                modified: time_at(rest, 24)?,
                changed: time_at(rest, 32)?,
            },
        });
        if next == 0 {
            return Ok(entries);
        }
        // Forward, beyond this one's fixed part: it ends.
        if next < 64 {
            return Err(MALFORMED);
        }
        rest = rest.get(next..).ok_or(MALFORMED)?;
    }
}

/// How large a drive is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// In bytes; all of these are.
    pub(super) block: u32,
    /// In blocks.
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) free: u64,
}

/// MS-FSCC 2.5.4.
pub(super) fn drive_size(answer: &[u8]) -> Result<Size, Errno> {
    let answer = buffer(answer)?;
    let block = u32_at(answer, 24)?.checked_mul(u32_at(answer, 28)?).ok_or(MALFORMED)?;
    Ok(Size {
        block: block.max(1),
        total: u64_at(answer, 0)?,
        available: u64_at(answer, 8)?,
        free: u64_at(answer, 16)?,
    })
}

/// Whether an error says that a listing is at its end; a folder without anything is told as a missing file.
pub(super) fn is_end_of_listing(status: u32) -> bool {
    matches!(status, STATUS_NO_MORE_FILES | STATUS_NO_SUCH_FILE)
}

/// Whether an error says that there is nothing beyond.
pub(super) fn is_end_of_file(status: u32) -> bool {
    status == STATUS_END_OF_FILE
}

/// What a program is told (MS-ERREF 2.3.1).
pub(super) fn error(status: u32) -> Errno {
    match status {
        0x8000_0005 => Errno::OVERFLOW,
        STATUS_NO_SUCH_FILE | 0xc000_0034 | 0xc000_003a | 0xc000_0056 | 0xc000_0039 => Errno::NOENT,
        0xc000_0008 => Errno::BADF,
        0xc000_000d | 0xc000_0033 => Errno::INVAL,
        0xc000_000e => Errno::NODEV,
        STATUS_ACCESS_DENIED => Errno::ACCESS,
        0xc000_0035 => Errno::EXIST,
        0xc000_0043 | 0xc000_0054 | 0x8000_0011 => Errno::BUSY,
        0xc000_0044 => Errno::DQUOT,
        0xc000_007f => Errno::NOSPC,
        0xc000_00a2 => Errno::ROFS,
        0xc000_00ba => Errno::ISDIR,
        0xc000_00bb | 0xc000_0010 => Errno::OPNOTSUPP,
        0xc000_00d4 => Errno::XDEV,
        0xc000_0101 => Errno::NOTEMPTY,
        0xc000_0103 => Errno::NOTDIR,
        0xc000_0106 => Errno::NAMETOOLONG,
        0xc000_0121 => Errno::PERM,
        0xc000_0904 => Errno::FBIG,
        _ => Errno::IO,
    }
}

#[cfg(test)]
mod tests;
