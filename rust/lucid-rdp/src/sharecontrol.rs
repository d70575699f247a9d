//! Share control PDUs (MS-RDPBCGR 2.2.8.1.1.1): the server's, wrapped for their way out, and those of clients that
//! count wrong.
//!
//! aardwolf declares six bytes more than it sends in every data PDU: it counts the share control header twice.
//! Windows and FreeRDP go by what MCS has delivered; ironrdp-pdu wants the rest as padding.

use std::borrow::Cow;

use ironrdp_acceptor::AcceptorResult;
use ironrdp_core::{EncodeResult, encode_vec};
use ironrdp_pdu::mcs::SendDataIndication;
use ironrdp_pdu::rdp::client_info::CompressionType;
use ironrdp_pdu::rdp::headers::{
    CompressionFlags, ShareControlHeader, ShareControlPdu, ShareDataHeader, ShareDataPdu, StreamPriority,
};
use ironrdp_pdu::x224::X224;

/// The share's number (MS-RDPBCGR 2.2.8.1.1.1.2) as Windows gives it. To rdesktop, 0 means that there is no share yet.
pub(crate) const SHARE_ID: u32 = 0x0001_03ea;

/// The MCS channels that share control PDUs go by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    pub(crate) user: u16,
    pub(crate) io: u16,
}

impl Channels {
    /// Those that a client has been given.
    pub(crate) fn of(result: &AcceptorResult) -> Channels {
        Channels { user: result.user_channel_id, io: result.io_channel_id }
    }

    /// A PDU of the server's, as it goes out: within an MCS Send Data Indication and a TPKT.
    pub(crate) fn pdu(self, share_control_pdu: ShareControlPdu) -> EncodeResult<Vec<u8>> {
        let header = ShareControlHeader { share_id: SHARE_ID, pdu_source: self.io, share_control_pdu };
        let user_data = encode_vec(&header)?.into();
        encode_vec(&X224(SendDataIndication { initiator_id: self.user, channel_id: self.io, user_data }))
    }

    /// A share data PDU (2.2.8.1.1.1.2) of the server's, likewise.
    pub(crate) fn data(self, share_data_pdu: ShareDataPdu) -> EncodeResult<Vec<u8>> {
        self.pdu(ShareControlPdu::Data(ShareDataHeader {
            share_data_pdu,
            stream_priority: StreamPriority::Undefined,
            compression_flags: CompressionFlags::empty(),
            compression_type: CompressionType::K8,
        }))
    }
}

/// The user data of an MCS Send Data Request on the I/O channel, with a `totalLength` (u16, little endian, in bytes,
/// header included) that is no longer than the data.
pub(crate) fn within(data: &[u8]) -> Cow<'_, [u8]> {
    let Some(declared) = data.first_chunk() else { return Cow::Borrowed(data) };
    match u16::try_from(data.len()) {
        Ok(real) if real < u16::from_le_bytes(*declared) => {
            let mut data = data.to_vec();
            data[..2].copy_from_slice(&real.to_le_bytes());
            Cow::Owned(data)
        }
        _ => Cow::Borrowed(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_length_beyond_the_data_is_put_right() {
        assert_eq!(within(&[9, 0, 7, 7, 7, 7]).as_ref(), [6, 0, 7, 7, 7, 7]);
        assert_eq!(within(&[0xff, 0xff]).as_ref(), [2, 0]);
        for right in [&[6, 0, 7, 7, 7, 7][..], &[2, 0, 7, 7], &[0, 0], &[9], &[]] {
            assert!(matches!(within(right), Cow::Borrowed(same) if same == right));
        }
        let long = vec![0xff; 70_000];
        assert!(matches!(within(&long), Cow::Borrowed(_)));
    }
}
