//! Fingers on the middle of the picture (MS-RDPEI), as IronRDP's client sends them.

use std::time::Duration;

use clap::ValueEnum;
use ironrdp_rdpei::RdpeiClient;
use ironrdp_rdpei::pdu::{
    CsReadyFlags, RdpInputProtocolVersion, TouchContact, TouchContactFlags, TouchEventPdu, TouchFrame,
};

/// What the fingers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Touch {
    /// One comes down and goes up.
    Tap,
    /// One stays for a second.
    Hold,
    /// Two come down and go up.
    TwoTap,
    /// Two come down, go up the screen and leave it.
    Scroll,
}

/// The channel's end on this side.
pub(crate) fn client() -> RdpeiClient {
    RdpeiClient::new(10, CsReadyFlags::empty(), RdpInputProtocolVersion::V200)
}

/// What is sent, with how long to wait before.
pub(crate) fn events(touch: Touch, (x, y): (i32, i32)) -> Vec<(Duration, TouchEventPdu)> {
    let down = TouchContactFlags::DOWN | TouchContactFlags::INRANGE | TouchContactFlags::INCONTACT;
    let moved = TouchContactFlags::UPDATE | TouchContactFlags::INRANGE | TouchContactFlags::INCONTACT;
    let up = TouchContactFlags::UP;
    let one = |flags| vec![TouchContact::new(0, x, y, flags)];
    let two =
        |dy, flags| vec![TouchContact::new(0, x, y + dy, flags), TouchContact::new(1, x + 90, y + dy, flags)];
    let steps = match touch {
        Touch::Tap => vec![(0, one(down)), (50, one(up))],
        Touch::Hold => vec![(0, one(down)), (1000, one(up))],
        Touch::TwoTap => vec![(0, two(0, down)), (50, two(0, up))],
        Touch::Scroll => {
            let mut steps = vec![(0, two(0, down))];
            steps.extend((1..=5).map(|step| (20, two(-30 * step, moved))));
            steps.push((20, two(-150, up)));
            steps
        }
    };
    let event = |contacts| TouchEventPdu::new(0, vec![TouchFrame::new(0, contacts)]);
    steps.into_iter().map(|(wait, contacts)| (Duration::from_millis(wait), event(contacts))).collect()
}
