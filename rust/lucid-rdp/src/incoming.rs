//! What a client's PDUs in a session mean: from their bytes to what the session does with them. Everything that can be
//! answered or refused without a desktop is answered or refused here.

use ironrdp_acceptor::AcceptorResult;
use ironrdp_core::decode;
use ironrdp_pdu::input::fast_path::FastPathInput;
use ironrdp_pdu::mcs::McsMessage;
use ironrdp_pdu::rdp::capability_sets::CapabilitySet;
use ironrdp_pdu::rdp::headers::{ShareControlHeader, ShareControlPdu, ShareDataPdu};
use ironrdp_pdu::x224::X224;
use ironrdp_pdu::{Action, PduInfo, find_size};
use ironrdp_svc::server_encode_svc_messages;
use lucid_desktop::Input;

use crate::input::Translator;
use crate::{Error, clipboard, drives, dvc, sharecontrol, sound};

/// What a client's PDU asks of its session.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Nothing (more).
    Nothing,
    /// Keys were pressed, the pointer was moved.
    Input(Vec<Input>),
    /// These bytes are to be sent to it.
    Answer(Vec<u8>),
    /// It says again what it can do (MS-RDPBCGR 2.2.1.13.2).
    Confirmed(Vec<CapabilitySet>),
    /// It has said everything on its way to being active (2.2.1.18).
    Finalized,
    /// It shows nothing now, or something again (2.2.11.3).
    Suppress(bool),
    /// It has lost what it showed (2.2.11.2).
    Refresh,
    /// It wants to leave.
    Leave,
}

/// Reads one PDU. What virtual channels keep of it waits in them.
pub(crate) fn pdu(
    action: Action,
    bytes: &[u8],
    result: &mut AcceptorResult,
    translator: &mut Translator,
) -> Result<Incoming, Error> {
    match action {
        Action::FastPath => {
            // ironrdp-pdu takes the header's size from this length without a look.
            let whole = |frame: PduInfo| frame.action == action && frame.length == bytes.len();
            if !find_size(bytes).is_ok_and(|frame| frame.is_some_and(whole)) {
                return Err(Error::Protocol("the length of fast-path input"));
            }
            let input: FastPathInput = decode(bytes).map_err(|_| Error::Protocol("fast-path input"))?;
            let mut inputs = Vec::new();
            for event in input.input_events().iter().copied() {
                translator.fast(event, &mut inputs);
            }
            Ok(Incoming::Input(inputs))
        }
        Action::X224 => {
            let message: X224<McsMessage<'_>> =
                decode(bytes).map_err(|_| Error::Protocol("an MCS message"))?;
            match message.0 {
                McsMessage::SendDataRequest(request) => {
                    data(request.channel_id, &request.user_data, result, translator)
                }
                McsMessage::DisconnectProviderUltimatum(_) => Ok(Incoming::Leave),
                _ => Ok(Incoming::Nothing),
            }
        }
    }
}

/// Reads what came on one MCS channel.
pub(crate) fn data(
    id: u16,
    bytes: &[u8],
    result: &mut AcceptorResult,
    translator: &mut Translator,
) -> Result<Incoming, Error> {
    if id == result.io_channel_id {
        return share_data(bytes, translator);
    }
    if dvc::is_stale(&result.static_channels, id, bytes) {
        tracing::debug!("data for a dynamic channel that is not open");
        return Ok(Incoming::Nothing);
    }
    let Some(channel) = result.static_channels.get_by_channel_id_mut(id) else {
        tracing::debug!(id, "data for a channel that is not open");
        return Ok(Incoming::Nothing);
    };
    dvc::bound(channel, bytes)?;
    sound::bound(channel, bytes)?;
    drives::bound(channel, bytes)?;
    let Some(bytes) = clipboard::bounded(channel, bytes)? else { return Ok(Incoming::Nothing) };
    let answers = channel.process(&bytes).map_err(|e| {
        tracing::debug!(id, "a virtual channel's data: {e}");
        Error::Protocol("a virtual channel's data")
    })?;
    let answer = server_encode_svc_messages(answers, id, result.user_channel_id)
        .map_err(|_| Error::Encode("a channel's answer"))?;
    Ok(Incoming::Answer(answer))
}

fn share_data(bytes: &[u8], translator: &mut Translator) -> Result<Incoming, Error> {
    let control: ShareControlHeader =
        decode(&sharecontrol::within(bytes)).map_err(|_| Error::Protocol("a share control PDU"))?;
    let data = match control.share_control_pdu {
        ShareControlPdu::Data(data) => data,
        ShareControlPdu::ClientConfirmActive(confirm) => {
            return Ok(Incoming::Confirmed(confirm.pdu.capability_sets));
        }
        _ => return Ok(Incoming::Nothing),
    };
    Ok(match data.share_data_pdu {
        ShareDataPdu::Input(input) => {
            let mut inputs = Vec::new();
            for event in input.0 {
                translator.slow(event, &mut inputs);
            }
            Incoming::Input(inputs)
        }
        ShareDataPdu::FontList(_) => Incoming::Finalized,
        // The user closed the client's window.
        ShareDataPdu::ShutdownRequest => Incoming::Leave,
        // No rectangle means that nothing is shown.
        ShareDataPdu::SuppressOutput(suppress) => Incoming::Suppress(suppress.desktop_rect.is_none()),
        ShareDataPdu::RefreshRectangle(_) => Incoming::Refresh,
        other => {
            tracing::debug!(pdu = other.as_short_name(), "not used here");
            Incoming::Nothing
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_path_input_with_a_wrong_length_is_refused() {
        let mut result = crate::fuzzing::every_channel();
        let mut take = |bytes: &[u8]| {
            pdu(Action::FastPath, bytes, &mut result, &mut Translator::default()).map(|incoming| {
                match incoming {
                    Incoming::Input(inputs) => inputs.len(),
                    other => panic!("{other:?}"),
                }
            })
        };
        // One key: header, length, event, code (MS-RDPBCGR 2.2.8.1.2).
        assert_eq!(take(&[0x04, 4, 0, 0x1e]).unwrap(), 1);
        for length in (0..=u8::MAX).filter(|length| *length != 4) {
            assert!(take(&[0x04, length, 0, 0x1e]).is_err(), "{length}");
        }
        // The number of events in a byte of its own, for which the length has no room.
        for bad in [&[0x00, 2, 1, 0, 0x1e][..], &[0x00, 0x80, 0x0c, 0x80], &[0x03, 0, 0, 4], &[0x00], &[]] {
            assert!(take(bad).is_err(), "{bad:02x?}");
        }
    }
}
