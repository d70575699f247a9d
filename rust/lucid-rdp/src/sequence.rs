//! The connection sequence from the client's settings to its end (MS-RDPBCGR 1.3.1.1), around ironrdp-acceptor's
//! state machine.
//!
//! Our own loop instead of `accept_finalize_with`, because that one leaves out clients which Windows serves:
//! - those that join no more channels than they use (aardwolf leaves out its user channel). What they leave out is
//!   joined for them when they go on without it;
//! - those that send the next message of the finalization only after the server's one before (rdesktop, and
//!   aardwolf, which begins with the Synchronize PDU that follows its Confirm Active). Each is sent as soon as it may,
//!   not all of them after the client's last;
//! - those that count their messages wrong ([`sharecontrol`]).
//!
//! And it bounds the input that a client may send before its last message.

use std::borrow::Cow;

use ironrdp_acceptor::{
    Acceptor, AcceptorResult, AcceptorState, ChannelConnectionState, ConnectionSetupHandler, ConnectorResult,
    CredentialOrigin, DesktopSize, FinalizationState, ReceivedCredentials,
};
use ironrdp_connector::{
    ConnectorError, ConnectorErrorExt as _, Sequence as _, custom_err, general_err, state_downcast,
};
use ironrdp_core::{WriteBuf, decode, encode_vec};
use ironrdp_pdu::mcs::{ChannelJoinRequest, McsMessage, SendDataIndication, SendDataRequest};
use ironrdp_pdu::nego::SecurityProtocol;
use ironrdp_pdu::rdp::ClientInfoPdu;
use ironrdp_pdu::rdp::capability_sets::{CapabilitySet, SERVER_CHANNEL_ID};
use ironrdp_pdu::rdp::finalization_messages::{ControlAction, ControlPdu, SynchronizePdu};
use ironrdp_pdu::rdp::headers::{ShareControlHeader, ShareControlPdu, ShareDataPdu};
use ironrdp_pdu::x224::X224;
use ironrdp_tokio::{Framed, FramedRead, FramedWrite};

use crate::sharecontrol::{self, Channels};

/// Input that may come before the Font List, in PDUs. A client sends none or a few; it is kept until the desktop is
/// there.
const MAX_EARLY_INPUT: usize = 32;

/// Where the state machine stands, as far as it matters here.
enum At {
    /// Waits for the joins of these channels.
    Joining(Vec<u16>),
    /// Waits for the Client Info PDU.
    ClientInfo { nla: bool },
    /// Sends the Demand Active PDU.
    DemandActive,
    /// Waits for the Confirm Active PDU.
    ConfirmActive,
    /// Waits for a message of the finalization that has this answer (2.2.1.20, 2.2.1.21).
    Finalizing(ShareDataPdu),
    /// Waits for the Font List PDU.
    FontList,
    /// Sends an answer that has been sent already.
    Answered,
    /// Anything else.
    Elsewhere,
}

impl At {
    fn of(acceptor: &Acceptor, channels: Option<Channels>) -> At {
        match state_downcast::<AcceptorState>(acceptor.state()) {
            Some(AcceptorState::ChannelConnection { connection, .. }) => {
                match state_downcast::<ChannelConnectionState>(connection.state()) {
                    Some(ChannelConnectionState::WaitChannelJoinRequest { remaining }) => {
                        At::Joining(remaining.iter().copied().collect())
                    }
                    _ => At::Elsewhere,
                }
            }
            Some(AcceptorState::SecureSettingsExchange { protocol, .. }) => At::ClientInfo {
                nla: protocol.intersects(SecurityProtocol::HYBRID | SecurityProtocol::HYBRID_EX),
            },
            Some(AcceptorState::CapabilitiesSendServer { .. }) => At::DemandActive,
            Some(AcceptorState::CapabilitiesWaitConfirm { .. }) => At::ConfirmActive,
            Some(AcceptorState::ConnectionFinalization { finalization, .. }) => {
                match state_downcast::<FinalizationState>(finalization.state()) {
                    Some(FinalizationState::WaitControlCooperate) => {
                        At::Finalizing(control(ControlAction::Cooperate, 0, 0))
                    }
                    Some(FinalizationState::WaitRequestControl) => At::Finalizing(control(
                        ControlAction::GrantedControl,
                        channels.map_or(0, |channels| channels.user),
                        SERVER_CHANNEL_ID.into(),
                    )),
                    Some(FinalizationState::WaitFontList) => At::FontList,
                    Some(
                        FinalizationState::SendSynchronizeConfirm
                        | FinalizationState::SendControlCooperateConfirm
                        | FinalizationState::SendGrantedControlConfirm,
                    ) => At::Answered,
                    _ => At::Elsewhere,
                }
            }
            _ => At::Elsewhere,
        }
    }
}

/// Takes a client from its settings to the end of the connection sequence; `gate` decides on the way.
pub(crate) async fn settle<S, H>(
    mut framed: Framed<S>,
    acceptor: &mut Acceptor,
    gate: &mut H,
) -> ConnectorResult<(Framed<S>, AcceptorResult)>
where
    S: FramedRead + FramedWrite,
    H: ConnectionSetupHandler,
{
    let mut out = WriteBuf::new();
    let mut channels = None;
    let mut reconnecting = false;
    let mut early_input = 0;
    loop {
        if let Some(result) = acceptor.get_result() {
            return Ok((framed, result));
        }
        out.clear();
        let input = match acceptor.next_pdu_hint() {
            Some(hint) => {
                framed.read_by_hint(hint).await.map_err(|e| custom_err!("read frame by hint", e))?
            }
            None => Default::default(),
        };
        if let At::Joining(missing) = At::of(acceptor, channels)
            && is_data(&input)
        {
            join(acceptor, &missing)?;
        }
        let at = At::of(acceptor, channels);
        let info = match &at {
            At::ClientInfo { nla } => Some((client_info(&input)?, *nla)),
            _ => None,
        };
        let input = match &at {
            At::Finalizing(_) | At::FontList => counted(&input)?,
            _ => input.as_ref().into(),
        };
        acceptor.step(&input, None, &mut out)?;
        let decision = match (at, info) {
            (At::ClientInfo { .. }, Some((info, nla))) => {
                reconnecting = info.client_info.extra_info.optional_data.auto_reconnect().is_some();
                if nla || reconnecting {
                    Ok(())
                } else {
                    let credentials = info.client_info.credentials;
                    let origin = CredentialOrigin::ClientInfo;
                    gate.handle_credentials(Some(ReceivedCredentials { credentials, origin })).await
                }
            }
            (At::DemandActive, _) => {
                let demanded = demanded(&mut out)?;
                channels = Some(demanded.channels);
                if reconnecting { Ok(()) } else { gate.prepare_capability_exchange(demanded.size).await }
            }
            // It may have been something else.
            (At::ConfirmActive, _) if !matches!(At::of(acceptor, channels), At::ConfirmActive) => {
                answer(synchronize(), channels, &mut out)
            }
            (At::Finalizing(pdu), _) => answer(pdu, channels, &mut out),
            (At::FontList, _) => {
                early_input += 1;
                if early_input > MAX_EARLY_INPUT {
                    Err(general_err!("too much input before the font list"))
                } else {
                    Ok(())
                }
            }
            (At::Answered, _) => {
                out.clear();
                Ok(())
            }
            (At::Joining(_) | At::ClientInfo { .. } | At::ConfirmActive | At::Elsewhere, _) => Ok(()),
        };
        if decision.is_err() {
            out.clear();
            acceptor.encode_access_denied(&mut out)?;
        }
        if !out.filled().is_empty() {
            framed.write_all(out.filled()).await.map_err(|e| custom_err!("write all", e))?;
        }
        decision?;
    }
}

/// Whether a client goes on with the Client Info PDU.
fn is_data(input: &[u8]) -> bool {
    matches!(decode::<X224<McsMessage<'_>>>(input), Ok(X224(McsMessage::SendDataRequest(_))))
}

/// Joins channels as if the client had asked for it, up to where the Client Info PDU is awaited. It gets no answer to
/// what it has not asked.
fn join(acceptor: &mut Acceptor, missing: &[u16]) -> ConnectorResult<()> {
    tracing::debug!(channels = ?missing, "the client goes on without joining these");
    let mut unsent = WriteBuf::new();
    for &channel_id in missing {
        // Nobody looks at the initiator.
        let request = ChannelJoinRequest { initiator_id: channel_id, channel_id };
        let request = encode_vec(&X224(request)).map_err(ConnectorError::encode)?;
        acceptor.step(&request, None, &mut unsent)?;
        acceptor.step_no_input(&mut unsent)?;
    }
    acceptor.step_no_input(&mut unsent).map(drop)
}

/// A message as the state machine wants it, of clients that count it wrong.
fn counted(input: &[u8]) -> ConnectorResult<Cow<'_, [u8]>> {
    let Ok(X224(data)) = decode::<X224<SendDataRequest<'_>>>(input) else { return Ok(input.into()) };
    let SendDataRequest { initiator_id, channel_id, user_data } = data;
    match sharecontrol::within(&user_data) {
        Cow::Borrowed(_) => Ok(input.into()),
        Cow::Owned(user_data) => {
            let data = SendDataRequest { initiator_id, channel_id, user_data: user_data.into() };
            Ok(encode_vec(&X224(data)).map_err(ConnectorError::encode)?.into())
        }
    }
}

/// The state machine keeps its own copy of what it finds in here to itself until the end.
fn client_info(input: &[u8]) -> ConnectorResult<ClientInfoPdu> {
    let data: X224<SendDataRequest<'_>> = decode(input).map_err(ConnectorError::decode)?;
    decode(data.0.user_data.as_ref()).map_err(ConnectorError::decode)
}

/// What a Demand Active PDU says.
struct Demanded {
    channels: Channels,
    size: DesktopSize,
}

/// Reads the state machine's own Demand Active PDU: the size that it has settled with the client stands only there.
/// And gives the share its number.
fn demanded(out: &mut WriteBuf) -> ConnectorResult<Demanded> {
    let indication: X224<SendDataIndication<'_>> = decode(out.filled()).map_err(ConnectorError::decode)?;
    let indication = indication.0;
    let header: ShareControlHeader = decode(indication.user_data.as_ref()).map_err(ConnectorError::decode)?;
    let channels = Channels { user: indication.initiator_id, io: indication.channel_id };
    let ShareControlPdu::ServerDemandActive(demand) = &header.share_control_pdu else {
        return Err(general_err!("no demand active"));
    };
    let size = demand.pdu.capability_sets.iter().find_map(|set| match set {
        CapabilitySet::Bitmap(bitmap) => {
            Some(DesktopSize { width: bitmap.desktop_width, height: bitmap.desktop_height })
        }
        _ => None,
    });
    out.clear();
    out.write_slice(&channels.pdu(header.share_control_pdu).map_err(ConnectorError::encode)?);
    Ok(Demanded { channels, size: size.ok_or_else(|| general_err!("no size"))? })
}

/// 2.2.1.19.
fn synchronize() -> ShareDataPdu {
    ShareDataPdu::Synchronize(SynchronizePdu { target_user_id: 0 })
}

/// 2.2.1.20 and 2.2.1.21.
fn control(action: ControlAction, grant_id: u16, control_id: u32) -> ShareDataPdu {
    ShareDataPdu::Control(ControlPdu { action, grant_id, control_id })
}

/// Sends what the state machine would send later.
fn answer(pdu: ShareDataPdu, channels: Option<Channels>, out: &mut WriteBuf) -> ConnectorResult<()> {
    let channels = channels.ok_or_else(|| general_err!("an answer before the demand active"))?;
    out.write_slice(&channels.data(pdu).map_err(ConnectorError::encode)?);
    Ok(())
}

#[cfg(test)]
mod tests;
