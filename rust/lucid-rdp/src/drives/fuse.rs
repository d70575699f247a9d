//! The kernel's side of a folder that a program serves (FUSE): `linux/fuse.h`, protocol 7.31, as far as it is used. All
//! numbers are the machine's own.
//!
//! Written here rather than taken from a library: `fuser` gives each request to a thread of its own and bounds none of
//! them, and brings a dozen crates along.

use rustix::io::Errno;

use super::irp::{Attributes, Size, Time};

/// The number of the folder itself.
pub(super) const ROOT: u64 = 1;
/// The most that is read or written at once, in bytes.
pub(super) const MAX_DATA: u32 = 128 * 1024;
/// Room for any request, in bytes.
pub(super) const MAX_REQUEST: usize = MAX_DATA as usize + 8192;
/// What the kernel may assume for this long, in seconds: the client's programs change files as well.
const VALID: u64 = 1;

const IN_HEADER: usize = 40;

/// A request of the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Its number.
    pub(super) unique: u64,
    /// What it is about.
    pub(super) node: u64,
    /// Who asks.
    pub(super) owner: Owner,
    pub(super) operation: Operation<'a>,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: u32,
    pub(super) group: u32,
}

/// What is asked. Names are the bytes that the program gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    /// No answer.
    Forget {
        lookups: u64,
    },
    /// No answer.
    BatchForget {
        nodes: Vec<(u64, u64)>,
    },
    GetAttributes {
        handle: Option<u64>,
    },
    SetAttributes(Changes),
    MakeFolder {
        name: &'a [u8],
    },
    Unlink {
        name: &'a [u8],
    },
    RemoveFolder {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        folder: u64,
        to: &'a [u8],
        flags: u32,
    },
    Open {
        flags: u32,
    },
    Create {
        name: &'a [u8],
        flags: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        length: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
    },
    Statistics,
    Release {
        handle: u64,
    },
    Flush,
    OpenFolder,
    List {
        handle: u64,
        offset: u64,
        length: u32,
    },
    ReleaseFolder {
        handle: u64,
    },
    /// No answer.
    Interrupt {
        unique: u64,
    },
    Destroy,
    /// Links: there are none.
    Link,
    /// Not served.
    Other(u32),
}

/// What is to be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// An open file of it.
    pub(super) handle: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) accessed: Option<When>,
    pub(super) modified: Option<When>,
    /// Permissions.
    pub(super) mode: Option<u32>,
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    At(Time),
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_ne_bytes)
}

/// A name with its final NUL, and what is behind it.
fn name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

/// Reads one request; none if it is none.
pub(super) fn request(bytes: &[u8]) -> Option<Request<'_>> {
    let length = u32_at(bytes, 0)? as usize;
    let body = bytes.get(IN_HEADER..length).filter(|_| length == bytes.len())?;
    let whole_name = || name(body).map(|(name, _)| name);
    let operation = match u32_at(bytes, 4)? {
        1 => Operation::Lookup { name: whole_name()? },
        2 => Operation::Forget { lookups: u64_at(body, 0)? },
        // FUSE_GETATTR_FH.
        3 => Operation::GetAttributes {
            handle: u64_at(body, 8).filter(|_| u32_at(body, 0).is_some_and(|f| f & 1 != 0)),
        },
        4 => Operation::SetAttributes(changes(body)?),
        6 | 13 => Operation::Link,
        9 => Operation::MakeFolder { name: name(body.get(8..)?)?.0 },
        10 => Operation::Unlink { name: whole_name()? },
        11 => Operation::RemoveFolder { name: whole_name()? },
        12 => rename(body.get(8..)?, u64_at(body, 0)?, 0)?,
        14 => Operation::Open { flags: u32_at(body, 0)? },
        15 | 44 => {
            let (handle, offset, length) = (u64_at(body, 0)?, u64_at(body, 8)?, u32_at(body, 16)?);
            if u32_at(bytes, 4)? == 15 {
                Operation::Read { handle, offset, length: length.min(MAX_DATA) }
            } else {
                Operation::List { handle, offset, length: length.min(MAX_DATA) }
            }
        }
        16 => {
            let data = body.get(40..)?.get(..u32_at(body, 16)? as usize)?;
            Operation::Write { handle: u64_at(body, 0)?, offset: u64_at(body, 8)?, data }
        }
        17 => Operation::Statistics,
        18 => Operation::Release { handle: u64_at(body, 0)? },
        25 => Operation::Flush,
        26 => Operation::Init {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
            max_readahead: u32_at(body, 8)?,
            flags: u32_at(body, 12)?,
        },
        27 => Operation::OpenFolder,
        29 => Operation::ReleaseFolder { handle: u64_at(body, 0)? },
        35 => Operation::Create { name: name(body.get(16..)?)?.0, flags: u32_at(body, 0)? },
        36 => Operation::Interrupt { unique: u64_at(body, 0)? },
        38 => Operation::Destroy,
        42 => {
            let count = u32_at(body, 0)? as usize;
            let nodes = body.get(8..)?.as_chunks::<16>().0.iter().take(count);
            let nodes =
                nodes.map(|node| Some((u64_at(node, 0)?, u64_at(node, 8)?))).collect::<Option<Vec<_>>>()?;
            Operation::BatchForget { nodes }
        }
        45 => rename(body.get(16..)?, u64_at(body, 0)?, u32_at(body, 8)?)?,
        other => Operation::Other(other),
    };
    let owner = Owner { user: u32_at(bytes, 24)?, group: u32_at(bytes, 28)? };
    Some(Request { unique: u64_at(bytes, 8)?, node: u64_at(bytes, 16)?, owner, operation })
}

fn rename(names: &[u8], folder: u64, flags: u32) -> Option<Operation<'_>> {
    let (name_before, rest) = name(names)?;
    let (to, _) = name(rest)?;
    Some(Operation::Rename { name: name_before, folder, to, flags })
}

/// `struct fuse_setattr_in` and its FATTR_ bits.
fn changes(body: &[u8]) -> Option<Changes> {
    let valid = u32_at(body, 0)?;
    let has = |bit: u32| valid & (1 << bit) != 0;
    let time = |seconds: usize, nanoseconds: usize, now: u32| {
        let at =
            Time { seconds: u64_at(body, seconds)?.cast_signed(), nanoseconds: u32_at(body, nanoseconds)? };
        Some(if has(now) { When::Now } else { When::At(at) })
    };
    Some(Changes {
        handle: u64_at(body, 8).filter(|_| has(6)),
        size: u64_at(body, 16).filter(|_| has(3)),
        accessed: time(32, 56, 7).filter(|_| has(4)),
        modified: time(40, 60, 8).filter(|_| has(5)),
        mode: u32_at(body, 68).filter(|_| has(0)),
        user: u32_at(body, 76).filter(|_| has(1)),
        group: Some(u32_at(body, 80)?).filter(|_| has(2)),
    })
}

/// An answer, put together.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    fn new() -> Answer {
        Answer(Vec::new())
    }

    fn put(mut self, bytes: &[u8]) -> Answer {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, number: u16) -> Answer {
        self.put(&number.to_ne_bytes())
    }

    fn u32(self, number: u32) -> Answer {
        self.put(&number.to_ne_bytes())
    }

    fn u64(self, number: u64) -> Answer {
        self.put(&number.to_ne_bytes())
    }

    /// `struct fuse_attr`.
    fn attributes(self, node: u64, attributes: &Attributes, owner: Owner) -> Answer {
        let Attributes { size, folder, readonly, accessed, modified, changed } = *attributes;
        let times = [accessed, modified, changed];
        let mut answer = self.u64(node).u64(if folder { 0 } else { size }).u64(size.div_ceil(512));
        for time in times {
            answer = answer.u64(time.seconds.cast_unsigned());
        }
        for time in times {
            answer = answer.u32(time.nanoseconds);
        }
        // Nothing of a client's can be executed or has another owner.
        let kind = if folder { 0o040_700 } else { 0o100_600 };
        let mode = if readonly { kind & !0o200 } else { kind };
        answer.u32(mode).u32(1).u32(owner.user).u32(owner.group).u32(0).u32(4096).u32(0)
    }

    /// `struct fuse_entry_out`.
    fn entry(self, node: u64, attributes: &Attributes, owner: Owner) -> Answer {
        self.u64(node).u64(0).u64(VALID).u64(VALID).u64(0).attributes(node, attributes, owner)
    }
}

/// Nothing but that it is done.
pub(super) fn done() -> Answer {
    Answer::new()
}

/// `struct fuse_init_out`.
pub(super) fn initialized(max_readahead: u32, flags: u32) -> Answer {
    /// ASYNC_READ, BIG_WRITES, AUTO_INVAL_DATA, DO_READDIRPLUS, PARALLEL_DIROPS, MAX_PAGES.
    const WANTED: u32 = 1 | 1 << 5 | 1 << 12 | 1 << 13 | 1 << 18 | 1 << 22;
    let answer = Answer::new().u32(7).u32(31).u32(max_readahead.min(MAX_DATA)).u32(flags & WANTED);
    // Requests that nobody waits for, and how many of them slow a writer down.
    let answer = answer.u16(12).u16(9).u32(MAX_DATA);
    // Times in units of 100 ns, as Windows has them.
    answer.u32(100).u16((MAX_DATA / 4096) as u16).put(&[0; 34])
}

pub(super) fn entry(node: u64, attributes: &Attributes, owner: Owner) -> Answer {
    Answer::new().entry(node, attributes, owner)
}

/// `struct fuse_attr_out`.
pub(super) fn attributes(node: u64, attributes: &Attributes, owner: Owner) -> Answer {
    Answer::new().u64(VALID).u64(0).attributes(node, attributes, owner)
}

/// `struct fuse_open_out`.
pub(super) fn opened(handle: u64) -> Answer {
    Answer::new().u64(handle).u64(0)
}

pub(super) fn created(node: u64, attributes: &Attributes, owner: Owner, handle: u64) -> Answer {
    Answer::new().entry(node, attributes, owner).u64(handle).u64(0)
}

pub(super) fn data(bytes: &[u8]) -> Answer {
    Answer(bytes.to_vec())
}

/// `struct fuse_write_out`.
pub(super) fn written(length: u32) -> Answer {
    Answer::new().u32(length).u32(0)
}

/// `struct fuse_statfs_out`.
pub(super) fn statistics(size: &Size, longest_name: usize) -> Answer {
    let answer = Answer::new().u64(size.total).u64(size.free).u64(size.available).u64(0).u64(0);
    let block = size.block.max(1);
    answer.u32(block).u32(longest_name as u32).u32(block).put(&[0; 28])
}

/// A part of a listing (`struct fuse_direntplus`), of at most `length` bytes.
pub(super) struct Listing {
    answer: Answer,
    length: usize,
}

impl Listing {
    pub(super) fn new(length: u32) -> Listing {
        Listing { answer: Answer::new(), length: length as usize }
    }

    /// How many bytes an entry takes.
    fn takes(name: &str) -> usize {
        (128 + 24 + name.len()).next_multiple_of(8)
    }

    /// Whether it has room.
    pub(super) fn has_room(&self, name: &str) -> bool {
        self.answer.0.len() + Self::takes(name) <= self.length
    }

    /// Adds an entry, behind which the listing goes on at `next`; node 0: the kernel has to look it up.
    pub(super) fn add(
        self,
        node: u64,
        attributes: &Attributes,
        owner: Owner,
        next: u64,
        name: &str,
    ) -> Listing {
        let end = self.answer.0.len() + Self::takes(name);
        // DT_DIR, DT_REG.
        let kind = if attributes.folder { 4 } else { 8 };
        // A program may compare it with others, and leaves out what has number 0.
        let number = if node == 0 { u64::MAX } else { node };
        let answer = self.answer.entry(node, attributes, owner).u64(number).u64(next);
        let mut answer = answer.u32(name.len() as u32).u32(kind).put(name.as_bytes());
        answer.0.resize(end, 0);
        Listing { answer, ..self }
    }

    pub(super) fn finish(self) -> Answer {
        self.answer
    }
}

/// An answer as it is written to the kernel.
pub(super) fn answer(unique: u64, answer: Result<Answer, Errno>) -> Vec<u8> {
    let (error, body) = match answer {
        Ok(Answer(body)) => (0, body),
        Err(error) => (-error.raw_os_error(), Vec::new()),
    };
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend((16 + body.len() as u32).to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests;
