//! The static channel `cliprdr` (MS-RDPECLIP) as messages: what comes is collected for the session.

use std::borrow::Cow;

use ironrdp_cliprdr::pdu::{
    Capabilities, ClipboardFormat, ClipboardFormatId, ClipboardGeneralCapabilityFlags, ClipboardPdu,
    ClipboardProtocolVersion, FileContentsRequest, FileContentsResponse, FormatDataRequest, FormatList,
    FormatListResponse, OwnedFormatDataResponse,
};
use ironrdp_core::{decode, impl_as_any};
use ironrdp_pdu::gcc::ChannelName;
use ironrdp_pdu::rdp::vc::ChannelControlFlags;
use ironrdp_pdu::{PduResult, decode_err, encode_err};
use ironrdp_svc::{ChannelFlags, StaticVirtualChannel, SvcMessage, SvcProcessor, SvcServerProcessor};

use super::files;
use crate::gates::Gates;
use crate::{Error, chunk};

/// What every message may have beyond the clipboard's content, and the most of a message that has none.
const OVERHEAD: usize = 64 * 1024;
/// Formats of one list that are looked at. Windows' programs offer some fifty.
const MAX_FORMATS: usize = 256;
/// Unhandled messages of the client. They are handled after each piece that is read, so there is never more than one.
const MAX_RECEIVED: usize = 16;

/// A message of the client. The channel answers none by itself: pieces of a longer message may wait to be written, and
/// between them nothing else of this channel may stand (MS-RDPBCGR 3.1.5.2.2.1).
#[derive(Debug)]
pub(crate) enum Received {
    /// The client has copied something that can be had in these formats.
    Formats(Vec<ClipboardFormat>),
    /// The client wants what was announced, in this format.
    Wish(ClipboardFormatId),
    /// What the client was asked for; `None`: it has none.
    Data(Option<Vec<u8>>),
    /// That had so many bytes, which are too many.
    TooLarge(u32),
    /// The client wants a file's size, or a piece of it.
    ContentsWish(FileContentsRequest),
    /// A file's size, or a piece of it.
    Contents(files::Contents),
}

/// The channel's end on this host.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    gates: Gates,
    long_names: bool,
    received: Vec<Received>,
    /// A message that is too large comes in, and is thrown away piece by piece.
    oversize: Option<u16>,
    /// One that is not comes in, however large any may be by now.
    begun: bool,
}

impl_as_any!(Channel);

impl Channel {
    const NAME: ChannelName = ChannelName::from_static(b"cliprdr\0");
    /// msgType of a Format Data Response (2.2.5.2).
    const FORMAT_DATA_RESPONSE: u16 = 5;

    /// With everything open.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn open() -> Channel {
        let mut policy = lucid_policy::Policy::strict();
        (policy.clipboard.host_to_remote, policy.clipboard.remote_to_host) = (true, true);
        (policy.file.upload_enabled, policy.file.download_enabled) = (true, true);
        policy.file.allowed_extensions = vec!["*".to_owned()];
        Channel { gates: Gates::of(&policy), ..Channel::default() }
    }

    /// What is open from now on. Nothing is before.
    pub(crate) fn set_gates(&mut self, gates: Gates) {
        self.gates = gates;
    }

    /// What has come since the last time.
    pub(crate) fn take(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.received)
    }

    /// Announces what can be had from the desktop.
    pub(crate) fn announce(&self, formats: &[ClipboardFormat]) -> PduResult<SvcMessage> {
        let list = FormatList::new_unicode(formats, self.long_names).map_err(|e| encode_err!(e))?;
        Ok(message(ClipboardPdu::FormatList(list)))
    }

    fn largest(&self) -> usize {
        let files = if self.gates.files_to_desktop { files::LARGEST } else { 0 };
        self.gates.clipboard_max_bytes.max(files) + OVERHEAD
    }

    /// Looks at one piece of a message before it is put together: what is too large is never held.
    fn bound<'a>(&mut self, piece: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, Error> {
        let Some(header) = chunk::Header::of(piece) else {
            return Err(Error::Protocol("a piece of a clipboard message"));
        };
        let chunk::Header { length, flags } = header;
        if header.is_compressed() {
            return Err(Error::Protocol("a compressed clipboard message, which was not negotiated"));
        }
        if flags.contains(ChannelControlFlags::FLAG_FIRST) {
            self.begun = length as usize <= self.largest() && self.oversize.is_none();
        }
        if self.begun {
            self.begun = !flags.contains(ChannelControlFlags::FLAG_LAST);
            return Ok(Some(Cow::Borrowed(piece)));
        }
        if flags.contains(ChannelControlFlags::FLAG_FIRST) {
            let kind = piece.get(8..10).and_then(|b| <[u8; 2]>::try_from(b).ok()).map(u16::from_le_bytes);
            // Only what a user copies can be large without ill will.
            if kind != Some(Self::FORMAT_DATA_RESPONSE) || self.oversize.is_some() {
                return Err(Error::Protocol("a clipboard message that is too large"));
            }
            tracing::warn!(
                bytes = length,
                limit = self.gates.clipboard_max_bytes,
                "what the client copied is larger than the clipboard's limit and was not taken"
            );
            self.oversize = kind;
        } else if self.oversize.is_none() {
            return Err(Error::Protocol("a piece of a clipboard message without its beginning"));
        }
        if !flags.contains(ChannelControlFlags::FLAG_LAST) {
            return Ok(None);
        }
        self.oversize = None;
        self.keep(Received::TooLarge(length)).map_err(|_| Error::Protocol("too many messages at once"))?;
        Ok(None)
    }

    fn keep(&mut self, received: Received) -> PduResult<()> {
        if self.received.len() >= MAX_RECEIVED {
            return Err(ironrdp_pdu::pdu_other_err!("cliprdr", "too many messages at once"));
        }
        self.received.push(received);
        Ok(())
    }
}

/// Passes on what may be put together to a message of a static channel; `None`: it was thrown away. Bounds the
/// clipboard, whose messages may be large.
pub(crate) fn bounded<'a>(
    channel: &mut StaticVirtualChannel,
    piece: &'a [u8],
) -> Result<Option<Cow<'a, [u8]>>, Error> {
    match channel.channel_processor_downcast_mut::<Channel>() {
        Some(clipboard) => clipboard.bound(piece),
        None => Ok(Some(Cow::Borrowed(piece))),
    }
}

/// CHANNEL_FLAG_SHOW_PROTOCOL, as the clipboard's messages are cut into pieces (MS-RDPBCGR 3.1.5.2.1).
fn message(pdu: ClipboardPdu<'static>) -> SvcMessage {
    SvcMessage::from(pdu).with_flags(ChannelFlags::SHOW_PROTOCOL)
}

/// Asks the client for its content in a format.
pub(crate) fn ask(format: ClipboardFormatId) -> SvcMessage {
    message(ClipboardPdu::FormatDataRequest(FormatDataRequest { format }))
}

/// Says that what the client has is known (MS-RDPECLIP 3.1.5.2.4: every Format List is answered).
pub(crate) fn formats_received() -> SvcMessage {
    message(ClipboardPdu::FormatListResponse(FormatListResponse::Ok))
}

/// Answers the client's oldest wish.
pub(crate) fn answer(data: Option<Vec<u8>>) -> SvcMessage {
    let response = data.map_or_else(OwnedFormatDataResponse::new_error, OwnedFormatDataResponse::new_data);
    message(ClipboardPdu::FormatDataResponse(response))
}

/// Asks the client for a file's size, or a piece of it.
pub(crate) fn ask_contents(request: FileContentsRequest) -> SvcMessage {
    message(ClipboardPdu::FileContentsRequest(request))
}

/// Answers the client's wish for a file's size, or a piece of it.
pub(crate) fn answer_contents(contents: files::Contents) -> SvcMessage {
    message(ClipboardPdu::FileContentsResponse(match contents.data {
        Some(data) => FileContentsResponse::new_data_response(contents.stream, data),
        None => FileContentsResponse::new_error(contents.stream),
    }))
}

impl SvcProcessor for Channel {
    fn channel_name(&self) -> ChannelName {
        Self::NAME
    }

    fn start(&mut self) -> PduResult<Vec<SvcMessage>> {
        // What is said here is said once, and what is open may change.
        let flags = ClipboardGeneralCapabilityFlags::USE_LONG_FORMAT_NAMES
            | ClipboardGeneralCapabilityFlags::STREAM_FILECLIP_ENABLED
            | ClipboardGeneralCapabilityFlags::FILECLIP_NO_FILE_PATHS
            | ClipboardGeneralCapabilityFlags::HUGE_FILE_SUPPORT_ENABLED;
        let capabilities = Capabilities::new(ClipboardProtocolVersion::V2, flags);
        Ok(vec![message(ClipboardPdu::Capabilities(capabilities)), message(ClipboardPdu::MonitorReady)])
    }

    fn process(&mut self, payload: &[u8]) -> PduResult<Vec<SvcMessage>> {
        match decode::<ClipboardPdu<'_>>(payload).map_err(|e| decode_err!(e))? {
            ClipboardPdu::Capabilities(capabilities) => {
                let flags = capabilities.flags();
                self.long_names = flags.contains(ClipboardGeneralCapabilityFlags::USE_LONG_FORMAT_NAMES);
            }
            ClipboardPdu::FormatList(list) => {
                let mut formats = list.get_formats(self.long_names)?;
                formats.truncate(MAX_FORMATS);
                self.keep(Received::Formats(formats))?;
            }
            ClipboardPdu::FormatListResponse(FormatListResponse::Ok) => {}
            ClipboardPdu::FormatListResponse(FormatListResponse::Fail) => {
                tracing::debug!("the client refused what the desktop's clipboard has");
            }
            ClipboardPdu::FormatDataRequest(wish) => self.keep(Received::Wish(wish.format))?,
            ClipboardPdu::FormatDataResponse(response) => {
                let data = (!response.is_error()).then(|| response.into_data().into_owned());
                self.keep(Received::Data(data))?;
            }
            ClipboardPdu::FileContentsRequest(wish) => self.keep(Received::ContentsWish(wish))?,
            ClipboardPdu::FileContentsResponse(response) => {
                let data = (!response.is_error()).then(|| response.data().to_vec());
                let stream = response.stream_id();
                self.keep(Received::Contents(files::Contents { stream, data }))?;
            }
            other => tracing::debug!(message = other.message_name(), "not used here"),
        }
        Ok(Vec::new())
    }
}

impl SvcServerProcessor for Channel {}

#[cfg(test)]
mod tests;
