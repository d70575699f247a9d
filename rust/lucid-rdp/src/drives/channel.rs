//! The static channel `rdpdr` (MS-RDPEFS) as far as it answers by itself: it agrees with the client and takes drives,
//! and no other device. The rest is collected for the session.
//!
//! Written here rather than taken from ironrdp-rdpdr, whose server never tells that the user is logged on (2.2.2.5), so
//! that FreeRDP announces no drive; it ends the connection at any message that it does not expect, bounds neither the
//! number of questions nor the time for an answer, and reads a name that is no text as another name.

use ironrdp_core::impl_as_any;
use ironrdp_pdu::PduResult;
use ironrdp_pdu::gcc::ChannelName;
use ironrdp_svc::{CompressionCondition, StaticVirtualChannel, SvcMessage, SvcProcessor, SvcServerProcessor};

use super::fuse::MAX_DATA;
use super::irp::{CORE, STATUS_ACCESS_DENIED, STATUS_SUCCESS};
use crate::{Error, chunk};

/// The longest message, in bytes: a piece of a file, or a part of a listing.
const LONGEST: u32 = MAX_DATA * 2;
/// Messages that were not looked at. They are looked at after each piece that is read, so there is never more than one.
const MAX_RECEIVED: usize = 64;
/// Drives at a time.
const MAX_DRIVES: usize = 32;
/// RDPDR_DTYP_FILESYSTEM.
const FILESYSTEM: u32 = 8;
/// Of what a device is announced with: type, number, name and the length of its data (2.2.1.3).
const DEVICE_HEADER: usize = 20;
/// This side's number for the client, which it need not keep (2.2.2.2).
const CLIENT: u32 = 1;

/// PacketIds (2.2.1.1).
const SERVER_ANNOUNCE: u16 = 0x496e;
const CLIENT_ID_CONFIRM: u16 = 0x4343;
const CLIENT_NAME: u16 = 0x434e;
const DEVICE_LIST_ANNOUNCE: u16 = 0x4441;
const DEVICE_LIST_REMOVE: u16 = 0x444d;
const DEVICE_REPLY: u16 = 0x6472;
const IO_COMPLETION: u16 = 0x4943;
const SERVER_CAPABILITY: u16 = 0x5350;
const CLIENT_CAPABILITY: u16 = 0x4350;
const USER_LOGGED_ON: u16 = 0x554c;

/// What the session is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The client has a drive.
    Drive { device: u32, name: String },
    /// And no longer.
    Removed { device: u32 },
    /// The answer to a question.
    Completed { device: u32, completion: u32, status: u32, body: Vec<u8> },
}

/// The channel's end on this host.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    drives: Vec<u32>,
    received: Vec<Received>,
    /// The client has said what it knows.
    agreed: bool,
    /// It has sent what is none of the protocol's messages, which was told.
    malformed: bool,
}

impl_as_any!(Channel);

impl Channel {
    const NAME: ChannelName = ChannelName::from_static(b"rdpdr\0\0\0");

    /// What has come since the last time.
    pub(super) fn take(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.received)
    }

    /// Reads one message; none if it is malformed.
    fn message(&mut self, bytes: &[u8]) -> Option<Vec<SvcMessage>> {
        if u16_at(bytes, 0)? != CORE {
            // Printers, which are not taken.
            return Some(Vec::new());
        }
        let body = bytes.get(4..)?;
        match u16_at(bytes, 2)? {
            CLIENT_NAME => {
                return Some(vec![capabilities(), message(CLIENT_ID_CONFIRM, version())]);
            }
            // Nothing in it matters here. After it, drives are announced (2.2.2.5).
            CLIENT_CAPABILITY if !self.agreed => {
                self.agreed = true;
                return Some(vec![message(USER_LOGGED_ON, Vec::new())]);
            }
            DEVICE_LIST_ANNOUNCE => return self.announced(body),
            DEVICE_LIST_REMOVE => {
                let devices = body.get(4..)?.as_chunks::<4>().0.iter().map(|n| u32::from_le_bytes(*n));
                for device in devices.take(u32_at(body, 0)? as usize) {
                    if let Some(at) = self.drives.iter().position(|drive| *drive == device) {
                        self.drives.swap_remove(at);
                        self.keep(Received::Removed { device });
                    }
                }
            }
            IO_COMPLETION => {
                let (device, completion, status) = (u32_at(body, 0)?, u32_at(body, 4)?, u32_at(body, 8)?);
                let body = body.get(12..)?.to_vec();
                self.keep(Received::Completed { device, completion, status, body });
            }
            // The answer to the announcement, and what is not known.
            _ => {}
        }
        Some(Vec::new())
    }

    fn keep(&mut self, received: Received) {
        if self.received.len() < MAX_RECEIVED {
            self.received.push(received);
        }
    }

    /// 2.2.2.9; each device is answered (2.2.2.1).
    fn announced(&mut self, body: &[u8]) -> Option<Vec<SvcMessage>> {
        let mut rest = body.get(4..)?;
        let mut answers = Vec::new();
        for _ in 0..u32_at(body, 0)? {
            let (kind, device) = (u32_at(rest, 0)?, u32_at(rest, 4)?);
            let data = rest.get(DEVICE_HEADER..)?.get(..u32_at(rest, 16)? as usize)?;
            let taken =
                kind == FILESYSTEM && self.drives.len() < MAX_DRIVES && !self.drives.contains(&device);
            if taken {
                self.drives.push(device);
                self.keep(Received::Drive { device, name: name(rest.get(8..16)?, data) });
            } else {
                tracing::info!(kind, "a device of the client is not taken");
            }
            let result = if taken { STATUS_SUCCESS } else { STATUS_ACCESS_DENIED };
            let mut answer = device.to_le_bytes().to_vec();
            answer.extend(result.to_le_bytes());
            answers.push(message(DEVICE_REPLY, answer));
            rest = rest.get(DEVICE_HEADER + data.len()..)?;
        }
        Some(answers)
    }
}

/// The name of a drive: the data has it whole, in UTF-16 as the specification says, or byte by byte as FreeRDP sends it,
/// whose short name then begins alike; otherwise it is the short one.
fn name(short: &[u8], data: &[u8]) -> String {
    let until_nul = |bytes: &[u8]| bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
    let (short, plain) = (until_nul(short), until_nul(data));
    // In UTF-16, ASCII letters have a NUL each.
    let alike = |(s, p): (&u8, &u8)| s == p || (*s == b'_' && !p.is_ascii());
    if plain.len() > 1 && !short.is_empty() && short.iter().zip(&plain).take(7).all(alike) {
        return String::from_utf8_lossy(&plain).into_owned();
    }
    let wide = data.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|u| *u != 0);
    match String::from_utf16(&wide.collect::<Vec<u16>>()) {
        Ok(name) if !name.is_empty() => name,
        _ => String::from_utf8_lossy(&short).into_owned(),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn message(packet: u16, body: Vec<u8>) -> SvcMessage {
    let mut bytes = CORE.to_le_bytes().to_vec();
    bytes.extend(packet.to_le_bytes());
    bytes.extend(body);
    bytes.into()
}

/// Version 1.13 and the number of the client (2.2.2.2, 2.2.2.6).
fn version() -> Vec<u8> {
    let mut bytes = vec![1, 0, 13, 0];
    bytes.extend(CLIENT.to_le_bytes());
    bytes
}

/// What this side knows (2.2.2.7): files, and nothing of printers, ports and smart cards.
fn capabilities() -> SvcMessage {
    let mut bytes = vec![2, 0, 0, 0];
    // CAP_GENERAL_TYPE, its length, version 2 (2.2.2.7.1).
    bytes.extend([1, 0, 44, 0, 2, 0, 0, 0]);
    // osType, osVersion.
    bytes.extend([0; 8]);
    // Version 1.13.
    bytes.extend([1, 0, 13, 0]);
    // ioCode1: all but the two for security; ioCode2; extendedPDU: devices come and go, the client has a name, the user
    // logs on; extraFlags1: answers in any order; extraFlags2; SpecialTypeDeviceCap.
    for number in [0x3fffu32, 0, 7, 1, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    // CAP_DRIVE_TYPE, its length, version 2 (2.2.2.7.4).
    bytes.extend([4, 0, 8, 0, 2, 0, 0, 0]);
    message(SERVER_CAPABILITY, bytes)
}

/// Looks at one piece of a message before it is put together: what is too large is never held. Passes other channels'.
pub(crate) fn bound(channel: &StaticVirtualChannel, piece: &[u8]) -> Result<(), Error> {
    chunk::bound::<Channel>(channel, piece, LONGEST, "a piece of a message about drives")
}

impl SvcProcessor for Channel {
    fn channel_name(&self) -> ChannelName {
        Self::NAME
    }

    fn compression_condition(&self) -> CompressionCondition {
        CompressionCondition::Never
    }

    fn start(&mut self) -> PduResult<Vec<SvcMessage>> {
        Ok(vec![message(SERVER_ANNOUNCE, version())])
    }

    fn process(&mut self, payload: &[u8]) -> PduResult<Vec<SvcMessage>> {
        // The desktop is worth more than its drives: who asked a question stops waiting after a while.
        Ok(self.message(payload).unwrap_or_else(|| {
            if !std::mem::replace(&mut self.malformed, true) {
                tracing::warn!("a client's message about drives is malformed; such are passed over");
            }
            Vec::new()
        }))
    }
}

impl SvcServerProcessor for Channel {}

#[cfg(test)]
mod tests;
