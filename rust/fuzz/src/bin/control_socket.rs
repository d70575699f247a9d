#![no_main]

use lucid_ipc::rdp::{EndSessionRequest, FollowRequest, GetSessionRequest, GetStatusRequest};
use prost::Message as _;

/// Requests on lucid-rdp's control socket; the first byte chooses which.
fn enter(bytes: &[u8]) {
    let Some((choice, message)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => drop(GetStatusRequest::decode(message)),
        1 => drop(GetSessionRequest::decode(message)),
        2 => drop(FollowRequest::decode(message)),
        _ => drop(EndSessionRequest::decode(message)),
    }
}

lucid_fuzz::door!(enter, 4 << 20);
