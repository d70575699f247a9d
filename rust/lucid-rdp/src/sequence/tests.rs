//! Clients that take another way through the connection sequence than the state machine expects, played by
//! ironrdp-connector's own state machine over a pipe.

use std::time::Duration;

use ironrdp_acceptor::ConnectorErrorExt as _;
use ironrdp_connector::{ClientConnector, ClientConnectorState};
use ironrdp_core::encode_vec;
use ironrdp_dvc::DrdynvcServer;
use ironrdp_pdu::X224_HINT;
use ironrdp_tokio::{Framed, FramedWrite as _, TokioFramed};
use tokio::io::DuplexStream;

use super::*;
use crate::capabilities;
use crate::handshake::tests::Client;

type Pipe = TokioFramed<DuplexStream>;

const SIZE: DesktopSize = DesktopSize { width: 1000, height: 600 };

/// As ironrdp-acceptor calls it.
const IO_CHANNEL: u16 = 1003;
const WAITS: &str = "one waits for the other for ever";

/// What the gate was asked.
#[derive(Default)]
struct Asked {
    user: Option<String>,
    size: Option<DesktopSize>,
    refuse: bool,
}

#[async_trait::async_trait(?Send)]
impl ConnectionSetupHandler for Asked {
    async fn handle_credentials(&mut self, received: Option<ReceivedCredentials>) -> ConnectorResult<()> {
        assert!(self.user.is_none(), "asked twice");
        self.user = received.map(|received| received.credentials.username);
        if self.refuse { Err(general_err!("refused")) } else { Ok(()) }
    }

    async fn prepare_capability_exchange(&mut self, size: DesktopSize) -> ConnectorResult<()> {
        assert!(self.user.is_some() && self.size.is_none(), "out of order");
        self.size = Some(size);
        Ok(())
    }
}

/// How a client leaves the way.
#[derive(Clone, Copy, Default)]
struct Ways {
    /// Joins no channel but the I/O channel.
    joins_io_only: bool,
    /// Waits for the server's message before it sends its next one.
    waits: bool,
    /// Declares six bytes more than it sends.
    counts_wrong: bool,
    /// So many fast-path input PDUs before the Font List.
    early_input: usize,
    /// Where one bit of what it sends is wrong, counted over all that it sends.
    wrong_bit: Option<usize>,
}

/// Runs a client against the settings; gives what came out and what the client thinks.
async fn against(
    ways: Ways,
    gate: &mut Asked,
) -> Option<(ConnectorResult<AcceptorResult>, ConnectorResult<ironrdp_connector::ConnectionResult>)> {
    let (server, client) = tokio::io::duplex(64 * 1024);
    let mut acceptor = Acceptor::new(SecurityProtocol::SSL, SIZE, capabilities::offered(SIZE), None);
    acceptor.set_honor_client_desktop_size(Some(DesktopSize { width: 4096, height: 2304 }));
    acceptor.attach_static_channel(DrdynvcServer::new());
    let mut connector = Client::GOOD.connector("127.0.0.1:1".parse().unwrap());
    connector.attach_static_channel(ironrdp_dvc::DrdynvcClient::new());
    negotiate(&mut acceptor, &mut connector);
    let serving = async {
        let framed: Pipe = Framed::new(server);
        settle(framed, &mut acceptor, gate).await.map(|(_, result)| result)
    };
    let both = async { tokio::join!(serving, connect(ways, Framed::new(client), connector)) };
    // With a length that is wrong, both wait for ever: the listener's business.
    let patience = if ways.wrong_bit.is_some() { Duration::from_millis(50) } else { Duration::from_secs(20) };
    tokio::time::timeout(patience, both).await.ok()
}

/// X.224 negotiation between the two, and TLS that is taken as done.
fn negotiate(acceptor: &mut Acceptor, connector: &mut ClientConnector) {
    let (mut request, mut answer) = (WriteBuf::new(), WriteBuf::new());
    connector.step_no_input(&mut request).unwrap();
    acceptor.step(request.filled(), None, &mut answer).unwrap();
    acceptor.step_no_input(&mut answer).unwrap();
    connector.step(answer.filled(), None, &mut request).unwrap();
    acceptor.mark_security_upgrade_as_done();
    connector.mark_security_upgrade_as_done();
}

/// The PDUs in what a state machine wrote in one go.
fn pdus(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut pdus = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        pdus.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    pdus
}

fn gone(e: std::io::Error) -> ConnectorError {
    ConnectorError::general("gone").with_source(e)
}

async fn connect(
    ways: Ways,
    mut framed: Pipe,
    mut connector: ClientConnector,
) -> ConnectorResult<ironrdp_connector::ConnectionResult> {
    let mut out = WriteBuf::new();
    // What the server has said, or is made to have said, and the state machine has not been told yet.
    let mut told = std::collections::VecDeque::new();
    let mut finalizing_pdus = 0;
    let mut sent = 0;
    loop {
        out.clear();
        let joining = matches!(connector.state, ClientConnectorState::ChannelConnection { .. });
        let finalizing = matches!(connector.state, ClientConnectorState::ConnectionFinalization { .. });
        if connector.next_pdu_hint().is_some() {
            let pdu = match told.pop_front() {
                Some(pdu) => pdu,
                None => framed.read_by_hint(&X224_HINT).await.map_err(gone)?.to_vec(),
            };
            connector.step(&pdu, None, &mut out)?;
        } else {
            connector.step_no_input(&mut out)?;
        }
        if let ClientConnectorState::Connected { .. } = connector.state {
            let ClientConnectorState::Connected { result } = std::mem::take(&mut connector.state) else {
                unreachable!()
            };
            return Ok(result);
        }
        for mut pdu in pdus(out.filled()) {
            match decode::<X224<McsMessage<'_>>>(&pdu) {
                Ok(X224(McsMessage::ChannelJoinRequest(join)))
                    if ways.joins_io_only && joining && join.channel_id != IO_CHANNEL =>
                {
                    let confirm = ironrdp_pdu::mcs::ChannelJoinConfirm {
                        result: 0,
                        initiator_id: join.initiator_id,
                        requested_channel_id: join.channel_id,
                        channel_id: join.channel_id,
                    };
                    told.push_back(encode_vec(&X224(confirm)).unwrap());
                    continue;
                }
                // The server's message comes first; it is never the one after the client's last.
                Ok(X224(McsMessage::SendDataRequest(data))) if finalizing => {
                    if ways.waits {
                        told.push_back(framed.read_by_hint(&X224_HINT).await.map_err(gone)?.to_vec());
                    }
                    let font_list = finalizing_pdus == 3;
                    finalizing_pdus += 1;
                    if font_list {
                        for _ in 0..ways.early_input {
                            // MS-RDPBCGR 2.2.8.1.2: one event, four bytes, "a" pressed.
                            framed.write_all(&[0x04, 0x04, 0x00, 0x1e]).await.map_err(gone)?;
                        }
                    }
                    if ways.counts_wrong {
                        let at = pdu.len() - data.user_data.len();
                        pdu[at] += 6;
                    }
                }
                _ => {}
            }
            if let Some(byte) = ways.wrong_bit.map(|bit| bit / 8)
                && let Some(at) = byte.checked_sub(sent).filter(|at| *at < pdu.len())
            {
                pdu[at] ^= 1 << (ways.wrong_bit.unwrap() % 8);
            }
            sent += pdu.len();
            framed.write_all(&pdu).await.map_err(gone)?;
        }
    }
}

/// Plays a client that has to be let in.
async fn let_in(ways: Ways) -> AcceptorResult {
    let mut gate = Asked::default();
    let (result, client) = against(ways, &mut gate).await.expect(WAITS);
    let (result, client) = (result.unwrap(), client.unwrap());
    assert_eq!(gate.user.as_deref(), Some("lucid"));
    assert_eq!(gate.size, Some(SIZE));
    assert_eq!(
        (client.io_channel_id, client.user_channel_id),
        (result.io_channel_id, result.user_channel_id)
    );
    assert_eq!(client.desktop_size, SIZE);
    assert_eq!(client.share_id, sharecontrol::SHARE_ID);
    result
}

#[tokio::test]
async fn a_client_that_joins_only_what_it_uses_is_let_in() {
    let ways = Ways { joins_io_only: true, ..Ways::default() };
    let result = let_in(ways).await;
    // Also the channel that it named and did not join: it is there for when the client uses it after all.
    assert!(result.static_channels.get_channel_id_by_type::<DrdynvcServer>().is_some());
}

#[tokio::test]
async fn a_client_that_waits_for_each_message_of_the_server_is_let_in() {
    let_in(Ways { waits: true, ..Ways::default() }).await;
    let_in(Ways { waits: true, joins_io_only: true, ..Ways::default() }).await;
}

#[tokio::test]
async fn a_client_that_counts_its_messages_wrong_is_let_in() {
    let_in(Ways { counts_wrong: true, ..Ways::default() }).await;
}

#[tokio::test]
async fn input_before_the_font_list_is_kept_but_not_without_end() {
    let few = let_in(Ways { early_input: MAX_EARLY_INPUT - 1, ..Ways::default() }).await;
    assert_eq!(few.input_events.len(), MAX_EARLY_INPUT - 1);
    let ways = Ways { early_input: MAX_EARLY_INPUT + 1, ..Ways::default() };
    let (result, _) = against(ways, &mut Asked::default()).await.expect(WAITS);
    assert!(result.is_err());
}

#[tokio::test]
async fn who_is_refused_by_the_gate_gets_no_further() {
    let mut gate = Asked { refuse: true, ..Asked::default() };
    let (result, client) = against(Ways::default(), &mut gate).await.expect(WAITS);
    assert!(result.is_err() && client.is_err());
    assert_eq!(gate.size, None);
}

#[tokio::test]
async fn a_wrong_bit_anywhere_never_gets_a_client_past_the_gate_nor_breaks_the_host() {
    // Spread over the first 2 KiB, which is more than a client sends.
    for step in 0..160 {
        let wrong_bit = Some(step * 101 % (2048 * 8));
        let mut gate = Asked { refuse: true, ..Asked::default() };
        if let Some((result, _)) = against(Ways { wrong_bit, ..Ways::default() }, &mut gate).await {
            assert!(result.is_err(), "bit {wrong_bit:?}");
        }
        assert_eq!(gate.size, None, "bit {wrong_bit:?}");
        let _ = against(Ways { wrong_bit, waits: true, ..Ways::default() }, &mut Asked::default()).await;
    }
}
