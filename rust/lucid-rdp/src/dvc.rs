//! What a client says on dynamic channels (MS-RDPEDYC) that are not open.

use ironrdp_core::decode;
use ironrdp_dvc::DrdynvcServer;
use ironrdp_dvc::pdu::DrdynvcClientPdu;
use ironrdp_svc::StaticChannelSet;

/// Length and flags of a static channel's chunk (MS-RDPBCGR 2.2.6.1.1), both 32 bits, little endian.
const CHUNK_HEADER: usize = 8;

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
    let Some(Ok(pdu)) = chunk.get(CHUNK_HEADER..).map(decode::<DrdynvcClientPdu>) else { return false };
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
    use ironrdp_dvc::pdu::{ClosePdu, DataPdu, DrdynvcDataPdu};

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

    #[test]
    fn no_damage_makes_it_fail() {
        let channels = channels();
        let good = chunk(&DrdynvcClientPdu::Data(DrdynvcDataPdu::Data(DataPdu::new(1, vec![0; 20]))));
        for length in 0..good.len() {
            is_stale(&channels, ID, &good[..length]);
        }
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut damaged = good.clone();
                damaged[at] = value;
                is_stale(&channels, ID, &damaged);
            }
        }
    }
}
