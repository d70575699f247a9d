//! Chunks of the messages on static virtual channels (MS-RDPBCGR 2.2.6.1), as they are looked at before they are put
//! together.

use ironrdp_pdu::rdp::vc::ChannelControlFlags;
use ironrdp_svc::{StaticVirtualChannel, SvcProcessor};

use crate::Error;

/// The size of a [`Header`] in bytes.
pub(crate) const HEADER: usize = 8;

/// CHANNEL_PDU_HEADER (2.2.6.1.1): two numbers of 32 bits, little endian.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Of the whole message, in bytes.
    pub(crate) length: u32,
    pub(crate) flags: ChannelControlFlags,
}

impl Header {
    /// That of a chunk; none if it is cut off.
    pub(crate) fn of(chunk: &[u8]) -> Option<Header> {
        let [length, flags] = chunk.get(..HEADER)?.as_chunks().0 else { return None };
        let flags = ChannelControlFlags::from_bits_retain(u32::from_le_bytes(*flags));
        Some(Header { length: u32::from_le_bytes(*length), flags })
    }

    /// Whether the message may be put together: it is of at most so many bytes, and not compressed, which is never
    /// negotiated.
    pub(crate) fn may_be_held(&self, longest: u32) -> bool {
        self.length <= longest && !self.is_compressed()
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.flags.contains(ChannelControlFlags::PACKET_COMPRESSED)
    }
}

/// Looks at one chunk of a channel of that kind before it is put together: what is longer than `longest` bytes is never
/// held. Passes other channels'; `what` is for the error.
pub(crate) fn bound<P: SvcProcessor + 'static>(
    channel: &StaticVirtualChannel,
    chunk: &[u8],
    longest: u32,
    what: &'static str,
) -> Result<(), Error> {
    if channel.channel_processor_downcast_ref::<P>().is_none() {
        return Ok(());
    }
    match Header::of(chunk) {
        Some(header) if header.may_be_held(longest) => Ok(()),
        _ => Err(Error::Protocol(what)),
    }
}
