//! The desktop socket, version 4: how a desktop is asked for and handed over.
//!
//! A Unix stream socket; one desktop per connection.
//!
//! 1. The client writes one line of JSON, at most [`MAX_LINE`] bytes with its line feed:
//!    `{"version":4,"width":1280,"height":720,"keyboard":{"layout":"us","variant":""},"sound":false}`
//!    (pixels; XKB layout and variant; whether programs are to play sound); with `,"drives":true` at its end, the desktop
//!    is to have a folder for the client's drives.
//! 2. The launcher answers with one line, at most [`MAX_LINE`] bytes:
//!    - `{"version":4,"keymap_size":66181}`; the line's first byte carries descriptors by `SCM_RIGHTS`: first
//!      a connected Wayland socket, then a memfd that holds the keymap as XKB v1 text with a final NUL,
//!      `keymap_size` bytes in all (at most [`MAX_KEYMAP`]), with `,"sound":true` in the
//!      line the reading end of a pipe with what programs play (see [`sound`](crate::sound)), and with `,"drives":true`
//!      the kernel's end of the mounted folder (`/dev/fuse`), of which the launcher keeps no copy. What was asked for and
//!      cannot be here (no PipeWire, no FUSE) is not there: the launcher's log says why;
//!    - or `{"version":4,"error":"..."}` without descriptors, and closes.
//! 3. From then on the client may write
//!    - `{"version":4,"keyboard":{"layout":"de","variant":""}}`, which the launcher answers as in 2., with the memfd of
//!      that layout's keymap alone or with an error, and stays;
//!    - `{"version":4,"mask":"org.keepassxc.KeePassXC","masked":true}`: from now on the compositor paints no window with
//!      that application id, nor its title; or, with `false`, it paints them again. The launcher answers
//!      `{"version":4,"masked":true}` (`true` in both cases) when that has happened, or with an error, and stays;
//!    - `{"version":4,"files":true}`, whose first byte carries a connected Unix stream socket: the launcher serves the
//!      [files](crate::files) of the desktop's user on it, or closes it when there are too many.
//! 4. Nothing else is sent. The socket stays open as long as the desktop: when the client closes it,
//!    for whatever reason, everything that was started for it is killed; when the compositor ends, the
//!    launcher closes it.
//!
//! Unknown fields are refused on both sides: a change of the format is a change of the version.

use crate::Error;
use crate::shield::check_app_id;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The protocol's version.
pub const VERSION: u32 = 4;
/// The longest line, in bytes, with its line feed.
pub const MAX_LINE: usize = 4096;
/// The biggest keymap, in bytes. (The largest of xkeyboard-config 2.35 has about 70 kB.)
pub const MAX_KEYMAP: u32 = 1 << 20;
/// Widths and heights of a desktop, in pixels.
pub const SIZES: RangeInclusive<u32> = 200..=8192;
/// The most descriptors with a line.
const MAX_DESCRIPTORS: usize = 4;
/// How large an output may show things, in percent (MS-RDPEDISP 2.2.2.2.1, `DesktopScaleFactor`).
pub const SCALES: RangeInclusive<u32> = 100..=500;
/// The longest layout or variant name, in bytes.
pub const MAX_LAYOUT: usize = 32;

/// What to ask the launcher for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesktopRequest {
    /// Width in pixels, within [`SIZES`].
    pub width: u32,
    /// Height in pixels, within [`SIZES`].
    pub height: u32,
    /// The keyboard.
    pub keyboard: KeyboardLayout,
    /// Whether programs can play sound.
    pub sound: bool,
    /// Whether there is a folder that whoever asks serves: the client's drives.
    pub drives: bool,
}

/// An XKB keyboard layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyboardLayout {
    /// XKB layout(s): `us`, `de`, `us,ru`; 1 to [`MAX_LAYOUT`] bytes of `a-z 0-9 _ , -`.
    pub layout: String,
    /// XKB variant(s), or empty; at most [`MAX_LAYOUT`] bytes of `a-z 0-9 _ , -`.
    pub variant: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    version: u32,
    width: u32,
    height: u32,
    keyboard: KeyboardLayout,
    sound: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    drives: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyboardLine {
    version: u32,
    keyboard: KeyboardLayout,
}

/// What becomes of the windows with an application id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// The id: 1 to [`MAX_SHIELDED_ID`](crate::MAX_SHIELDED_ID) bytes without control characters.
    pub app_id: String,
    /// Neither they nor their titles are painted; otherwise they are.
    pub masked: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaskLine {
    version: u32,
    mask: String,
    masked: bool,
}

/// The launcher's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The desktop runs; the descriptors came along.
    Ready {
        /// Bytes of keymap in the memfd, with the final NUL.
        keymap_size: u32,
        /// There is sound.
        sound: bool,
        /// There is a folder for the client's drives.
        drives: bool,
    },
    /// What a [`Mask`] asks for holds.
    Masked,
    /// There is no desktop, or what was asked for cannot be.
    Failed {
        /// Why, for people.
        error: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyLine {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keymap_size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sound: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    drives: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    masked: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesLine {
    version: u32,
    files: bool,
}

/// Asks the launcher to serve files on the other end of `socket`.
///
/// # Errors
/// When the launcher is gone or does not read within five seconds.
pub fn send_files_request(launcher: &UnixStream, socket: BorrowedFd<'_>) -> Result<(), Error> {
    let line = to_line(&FilesLine { version: VERSION, files: true })?;
    send_line(launcher, &line, &[socket], "asking the launcher for files")
}

/// Reads what [`send_files_request`] sent.
///
/// # Errors
/// When it is not that.
pub fn files_request(line: &[u8], descriptors: Vec<OwnedFd>) -> Result<UnixStream, Error> {
    let FilesLine { version, files } = parse("request for files", line)?;
    check_version(version)?;
    match <[OwnedFd; 1]>::try_from(descriptors) {
        Ok([socket]) if files => Ok(UnixStream::from(socket)),
        _ => Err(Error::Protocol { what: "a request for files has no socket".into() }),
    }
}

/// Checks a size against [`SIZES`].
///
/// # Errors
/// When it is outside.
pub fn check_size(width: u32, height: u32) -> Result<(), Error> {
    if SIZES.contains(&width) && SIZES.contains(&height) {
        return Ok(());
    }
    let (least, most) = (SIZES.start(), SIZES.end());
    Err(Error::Request { what: format!("{width}x{height} is not within {least}..={most} pixels each way") })
}

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b',' | b'-');
    if name.len() <= MAX_LAYOUT && name.bytes().all(good) {
        return Ok(());
    }
    Err(Error::Request {
        what: format!("the keyboard {what} is not at most {MAX_LAYOUT} characters of a-z 0-9 _ , -"),
    })
}

impl DesktopRequest {
    /// Checks every limit.
    ///
    /// # Errors
    /// Says which limit is exceeded.
    pub fn check(&self) -> Result<(), Error> {
        check_size(self.width, self.height)?;
        self.keyboard.check()
    }

    /// The request as its line, with the line feed.
    ///
    /// # Errors
    /// When the request is outside its limits.
    pub fn to_line(&self) -> Result<String, Error> {
        self.check()?;
        let line = RequestLine {
            version: VERSION,
            width: self.width,
            height: self.height,
            keyboard: self.keyboard.clone(),
            sound: self.sound,
            drives: self.drives,
        };
        to_line(&line)
    }

    /// Reads a line (without or with its line feed).
    ///
    /// # Errors
    /// When it is not a request of this version within its limits.
    pub fn from_line(line: &[u8]) -> Result<DesktopRequest, Error> {
        let RequestLine { version, width, height, keyboard, sound, drives } = parse("request", line)?;
        check_version(version)?;
        let request = DesktopRequest { width, height, keyboard, sound, drives };
        request.check()?;
        Ok(request)
    }
}

impl KeyboardLayout {
    /// Checks every limit.
    ///
    /// # Errors
    /// Says which limit is exceeded.
    pub fn check(&self) -> Result<(), Error> {
        if self.layout.is_empty() {
            return Err(Error::Request { what: "the keyboard layout is empty".into() });
        }
        check_name("layout", &self.layout)?;
        check_name("variant", &self.variant)
    }

    /// The line that asks the launcher of a running desktop for this layout's keymap, with the line feed.
    ///
    /// # Errors
    /// When the layout is outside its limits.
    pub fn to_line(&self) -> Result<String, Error> {
        self.check()?;
        to_line(&KeyboardLine { version: VERSION, keyboard: self.clone() })
    }

    /// Reads such a line (without or with its line feed).
    ///
    /// # Errors
    /// When it is none of this version within its limits.
    pub fn from_line(line: &[u8]) -> Result<KeyboardLayout, Error> {
        let KeyboardLine { version, keyboard } = parse("request for a keymap", line)?;
        check_version(version)?;
        keyboard.check()?;
        Ok(keyboard)
    }
}

impl Mask {
    /// The line that asks the launcher of a running desktop for it, with the line feed.
    ///
    /// # Errors
    /// When the id is not within its limits.
    pub fn to_line(&self) -> Result<String, Error> {
        check_app_id(&self.app_id)?;
        to_line(&MaskLine { version: VERSION, mask: self.app_id.clone(), masked: self.masked })
    }

    /// Reads such a line (without or with its line feed).
    ///
    /// # Errors
    /// When it is none of this version within its limits.
    pub fn from_line(line: &[u8]) -> Result<Mask, Error> {
        let MaskLine { version, mask, masked } = parse("request for a mask", line)?;
        check_version(version)?;
        check_app_id(&mask)?;
        Ok(Mask { app_id: mask, masked })
    }
}

impl Reply {
    /// The reply as its line, with the line feed. A long error is cut to fit.
    ///
    /// # Errors
    /// When it cannot be written as a line within the limit.
    pub fn to_line(&self) -> Result<String, Error> {
        let nothing = ReplyLine {
            version: VERSION,
            keymap_size: None,
            error: None,
            sound: false,
            drives: false,
            masked: false,
        };
        to_line(&match self {
            Reply::Ready { keymap_size, sound, drives } => {
                ReplyLine { keymap_size: Some(*keymap_size), sound: *sound, drives: *drives, ..nothing }
            }
            Reply::Masked => ReplyLine { masked: true, ..nothing },
            Reply::Failed { error } => {
                // A character takes at most 6 bytes of JSON, so this always fits.
                ReplyLine { error: Some(error.chars().take(MAX_LINE / 6 - 20).collect()), ..nothing }
            }
        })
    }

    /// Reads a line (without or with its line feed).
    ///
    /// # Errors
    /// When it is not a reply of this version.
    pub fn from_line(line: &[u8]) -> Result<Reply, Error> {
        let reply: ReplyLine = parse("reply", line)?;
        check_version(reply.version)?;
        match reply {
            ReplyLine { keymap_size: Some(size), error: None, sound, drives, masked: false, .. } => {
                if (1..=MAX_KEYMAP).contains(&size) {
                    return Ok(Reply::Ready { keymap_size: size, sound, drives });
                }
                let what = format!("a keymap of {size} bytes is not within 1..={MAX_KEYMAP}");
                Err(Error::Protocol { what })
            }
            ReplyLine {
                keymap_size: None,
                error: Some(error),
                sound: false,
                drives: false,
                masked: false,
                ..
            } => Ok(Reply::Failed { error }),
            ReplyLine {
                keymap_size: None, error: None, sound: false, drives: false, masked: true, ..
            } => Ok(Reply::Masked),
            _ => Err(Error::Protocol {
                what: "the reply has not exactly one of keymap_size, masked and error".into(),
            }),
        }
    }
}

fn to_line(value: &impl Serialize) -> Result<String, Error> {
    let mut line = serde_json::to_string(value)
        .map_err(|e| Error::Protocol { what: format!("a line could not be written: {e}") })?;
    line.push('\n');
    if line.len() > MAX_LINE {
        return Err(Error::Protocol {
            what: format!("a line of {} bytes is longer than {MAX_LINE}", line.len()),
        });
    }
    Ok(line)
}

fn parse<'a, T: Deserialize<'a>>(what: &str, line: &'a [u8]) -> Result<T, Error> {
    // serde_json's message names the place and the field, and quotes at most an unknown field's name.
    serde_json::from_slice(line)
        .map_err(|e| Error::Protocol { what: format!("the {what} is malformed: {e}") })
}

fn check_version(version: u32) -> Result<(), Error> {
    if version == VERSION {
        return Ok(());
    }
    Err(Error::Protocol { what: format!("the other side speaks version {version}, this side {VERSION}") })
}

/// Sends a reply with its descriptors (none for [`Reply::Failed`]).
///
/// # Errors
/// When the other side is gone, or does not read within five seconds.
pub fn send_reply(socket: &UnixStream, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
    send_line(socket, &reply.to_line()?, descriptors, "sending the reply on the desktop socket")
}

fn send_line(
    socket: &UnixStream,
    line: &str,
    descriptors: &[BorrowedFd<'_>],
    doing: &'static str,
) -> Result<(), Error> {
    let doing = || doing.to_owned();
    socket.set_write_timeout(Some(Duration::from_secs(5))).map_err(Error::io(doing()))?;
    let mut rest = line.as_bytes();
    let mut descriptors = Some(descriptors).filter(|d| !d.is_empty());
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptors) = descriptors
            && !control.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(Error::Protocol { what: "at most four descriptors go with a line".into() });
        }
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)
        })
        .map_err(Error::system(doing()))?;
        rest = rest.get(sent..).unwrap_or_default();
        descriptors = None;
    }
    Ok(())
}

/// Receives one line of at most [`MAX_LINE`] bytes and at most four descriptors, until `deadline`.
///
/// # Errors
/// When the other side closes, sends more than a line, or is too slow.
pub fn receive_line(
    socket: &UnixStream,
    deadline: Instant,
    doing: &'static str,
) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
    let started = Instant::now();
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let late = || Error::TimedOut { doing, seconds: (deadline - started).as_secs() };
        if left.is_zero() {
            return Err(late());
        }
        let wait = rustix::event::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut poll = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(Error::system(doing)(e)),
        }
        let mut bytes = [0; MAX_LINE];
        let room = MAX_LINE - line.len();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut bytes[..room])],
            &mut control,
            flags,
        );
        let received = match received {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(e) => return Err(Error::system(doing)(e)),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received == 0 {
            return Err(Error::Protocol {
                what: "the other side closed before its line was complete".into(),
            });
        }
        line.extend_from_slice(&bytes[..received]);
        if let Some(end) = line.iter().position(|&b| b == b'\n') {
            if end + 1 != line.len() {
                return Err(Error::Protocol { what: "more than one line was sent".into() });
            }
            return Ok((line, descriptors));
        }
        if line.len() == MAX_LINE {
            return Err(Error::Protocol { what: format!("a line is longer than {MAX_LINE} bytes") });
        }
    }
}
