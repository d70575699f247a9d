//! What a client may not say on dynamic channels (MS-RDPEDYC), and what it says on those that are not open.

use ironrdp_core::decode;
use ironrdp_dvc::DrdynvcServer;
use ironrdp_dvc::pdu::{DrdynvcClientPdu, DrdynvcDataPdu};
use ironrdp_pdu::rdp::vc::ChannelControlFlags;
use ironrdp_svc::{StaticChannelSet, StaticVirtualChannel};

use crate::{Error, chunk};

/// The longest PDU, in bytes. MS-RDPEDYC 3.1.5.1.4 has 1600, so that each fits into one chunk.
const LONGEST_PDU: u32 = 16 * 1024;
/// The longest message on a dynamic channel, in bytes, in however many PDUs. The longest that a client has reason to
/// send is an offer of cached pictures (MS-RDPEGFX 2.2.2.16), 64 KiB.
const LONGEST_MESSAGE: u32 = 256 * 1024;

/// Looks at one chunk before it is put together: what is too large is never held, and what was not negotiated (the
/// host says version 2, compression comes with 3) is not unpacked. Passes other channels'.
pub(crate) fn bound(channel: &StaticVirtualChannel, chunk: &[u8]) -> Result<(), Error> {
    if channel.channel_processor_downcast_ref::<DrdynvcServer>().is_none() {
        return Ok(());
    }
    let refused = Error::Protocol("a piece of a dynamic channel's message");
    let Some(header) = chunk::Header::of(chunk) else { return Err(refused) };
    let whole = header.flags.contains(ChannelControlFlags::FLAG_FIRST)
        == header.flags.contains(ChannelControlFlags::FLAG_LAST);
    if !whole || !header.may_be_held(LONGEST_PDU) {
        return Err(refused);
    }
    match chunk.get(chunk::HEADER..).map(decode::<DrdynvcClientPdu>) {
        Some(Ok(DrdynvcClientPdu::Data(DrdynvcDataPdu::DataFirst(first))))
            if first.length() > LONGEST_MESSAGE =>
        {
            Err(refused)
        }
        Some(Ok(DrdynvcClientPdu::Data(
            DrdynvcDataPdu::DataFirstCompressed(_) | DrdynvcDataPdu::DataCompressed(_),
        ))) => Err(refused),
        // What cannot be read is refused by whoever has to use it.
        _ => Ok(()),
    }
}

/// Whether this chunk carries data for, or closes, a dynamic channel that is not open. A client that reconnects by
/// itself sends such: what FreeRDP had queued for its last connection (acknowledgements of pictures) goes out on the
/// new one, before its channels are made. It means nothing, and is no reason to lose the new connection too.
pub(crate) fn is_stale(channels: &StaticChannelSet, channel_id: u16, chunk: &[u8]) -> bool {
    if channels.get_channel_id_by_type::<DrdynvcServer>() != Some(channel_id) {
        return false;
    }
    let Some(drdynvc) = channels
        .get_by_type::<DrdynvcServer>()
        .and_then(|channel| channel.channel_processor_downcast_ref::<DrdynvcServer>())
    else {
        return false;
    };
    // In several chunks nothing small comes; what cannot be read is judged by whoever has to use it.
    let Some(Ok(pdu)) = chunk.get(chunk::HEADER..).map(decode::<DrdynvcClientPdu>) else { return false };
    match pdu {
        DrdynvcClientPdu::Data(data) => !drdynvc.is_channel_opened(data.channel_id()),
        DrdynvcClientPdu::Close(close) => !drdynvc.is_channel_opened(close.channel_id()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egfx::Pipeline;
    use ironrdp_core::encode_vec;
    use ironrdp_dvc::pdu::{ClosePdu, DataFirstCompressedPdu, DataFirstPdu, DataPdu};

    const ID: u16 = 1004;

    fn chunk(pdu: &DrdynvcClientPdu) -> Vec<u8> {
        let body = encode_vec(pdu).unwrap();
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        // FIRST | LAST
        [&length[..], &3_u32.to_le_bytes(), &body].concat()
    }

    fn channels() -> StaticChannelSet {
        let mut channels = StaticChannelSet::new();
        channels.insert(DrdynvcServer::new().with_dynamic_channel(Pipeline::default()));
        channels.attach_channel_id(std::any::TypeId::of::<DrdynvcServer>(), ID);
        channels
    }

    #[test]
    fn data_of_the_last_connection_is_told_apart_on_its_own_channel_alone() {
        let channels = channels();
        for pdu in [
            DrdynvcClientPdu::Data(DrdynvcDataPdu::Data(DataPdu::new(1, vec![0; 20]))),
            DrdynvcClientPdu::Close(ClosePdu::new(7)),
        ] {
            assert!(is_stale(&channels, ID, &chunk(&pdu)));
            assert!(!is_stale(&channels, ID + 1, &chunk(&pdu)));
        }
    }

    fn data(pdu: DrdynvcDataPdu) -> Vec<u8> {
        chunk(&DrdynvcClientPdu::Data(pdu))
    }

    #[test]
    fn messages_are_bounded_before_any_of_them_is_held() {
        let mut channels = channels();
        let drdynvc = channels.get_by_channel_id_mut(ID).unwrap();
        let first = |length| data(DrdynvcDataPdu::DataFirst(DataFirstPdu::new(0, length, vec![0; 20])));
        let flagged = |flags: u32| {
            let mut bytes = first(100);
            bytes[4..8].copy_from_slice(&flags.to_le_bytes());
            bytes
        };
        for good in [first(100), first(LONGEST_MESSAGE), flagged(0)] {
            assert!(bound(drdynvc, &good).is_ok());
        }
        let mut long = first(100);
        long[..4].copy_from_slice(&(LONGEST_PDU + 1).to_le_bytes());
        let compressed = DrdynvcDataPdu::DataFirstCompressed(DataFirstCompressedPdu::new(0, 9, vec![0; 20]));
        let first_chunk = ChannelControlFlags::FLAG_FIRST.bits();
        let last_chunk = ChannelControlFlags::FLAG_LAST.bits();
        let packed = ChannelControlFlags::PACKET_COMPRESSED.bits() | first_chunk | last_chunk;
        for bad in [
            first(LONGEST_MESSAGE + 1),
            first(u32::MAX),
            long,
            data(compressed),
            flagged(first_chunk),
            flagged(last_chunk),
            flagged(packed),
            vec![0; 7],
        ] {
            assert!(bound(drdynvc, &bad).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn no_damage_makes_it_fail() {
        let channels = channels();
        let drdynvc = channels.get_by_type::<DrdynvcServer>().unwrap();
        let good = data(DrdynvcDataPdu::Data(DataPdu::new(1, vec![0; 20])));
        for length in 0..good.len() {
            is_stale(&channels, ID, &good[..length]);
            let _ = bound(drdynvc, &good[..length]);
        }
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut damaged = good.clone();
                damaged[at] = value;
                is_stale(&channels, ID, &damaged);
                let _ = bound(drdynvc, &damaged);
            }
        }
    }
}
