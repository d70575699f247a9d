//! Automatic reconnection (MS-RDPBCGR 1.3.1.5, 5.5): the server gives the client a secret; a client that lost its
//! connection proves with it that it is the one that had the session, so that nobody has to type a password again.
//!
//! A cookie is good for one use, for at most [`LIFE`], and for one session. It is replaced every [`RENEW`] and at
//! each connection. The one before stays valid for as long, because the newest may have been lost together with
//! the connection. With TLS there is no client random, so the proof is the same each time (5.5 says so): whoever
//! holds the cookie has the session, which is why it lives no longer than it must, in memory alone.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use ironrdp_acceptor::AcceptorResult;
use ironrdp_pdu::rdp::capability_sets::{CapabilitySet, GeneralExtraFlags};
use ironrdp_pdu::rdp::client_info::ClientAutoReconnect;
use ironrdp_pdu::rdp::headers::ShareDataPdu;
use ironrdp_pdu::rdp::session_info::{
    InfoData, InfoType, LogonExFlags, LogonInfoExtended, SaveSessionInfoPdu, ServerAutoReconnect,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroize as _;

use crate::Error;

/// How often a connected client gets a new cookie; Windows does it every hour as well.
pub(crate) const RENEW: Duration = Duration::from_secs(60 * 60);
/// How long a cookie is good.
const LIFE: Duration = Duration::from_secs(2 * 60 * 60);

struct Cookie {
    packet: ServerAutoReconnect,
    made: Instant,
}

impl Drop for Cookie {
    fn drop(&mut self) {
        self.packet.random_bits.zeroize();
    }
}

/// The cookies of one session: the newest, and the one before.
#[derive(Default)]
pub(crate) struct Cookies(RefCell<Vec<Cookie>>);

impl Cookies {
    /// Makes a cookie for the session with this number.
    pub(crate) fn issue(&self, session: u32, now: Instant) -> Result<ServerAutoReconnect, Error> {
        let mut random_bits = [0; 16];
        SystemRandom::new().fill(&mut random_bits).map_err(|_| Error::Internal("no random numbers"))?;
        let packet = ServerAutoReconnect { logon_id: session, random_bits };
        let mut cookies = self.0.borrow_mut();
        if cookies.len() > 1 {
            cookies.remove(0);
        }
        cookies.push(Cookie { packet: packet.clone(), made: now });
        Ok(packet)
    }

    /// Whether the client's answer proves that it holds a cookie of this session. If it does, all are used up.
    pub(crate) fn redeem(&self, answer: &ClientAutoReconnect, now: Instant) -> bool {
        let mut cookies = self.0.borrow_mut();
        cookies.retain(|c| now.duration_since(c.made) < LIFE);
        // All are compared, each in constant time.
        let proved = cookies.iter().fold(false, |proved, c| answer.verify(&c.packet) | proved);
        if proved {
            cookies.clear();
        }
        proved
    }
}

/// Whether the client takes part (MS-RDPBCGR 2.2.7.1.1).
pub(crate) fn supported(result: &AcceptorResult) -> bool {
    result.capabilities.iter().any(|set| match set {
        CapabilitySet::General(general) => {
            general.extra_flags.contains(GeneralExtraFlags::AUTORECONNECT_SUPPORTED)
        }
        _ => false,
    })
}

/// The Save Session Info PDU that hands a cookie out (MS-RDPBCGR 2.2.10.1, 2.2.4.2).
pub(crate) fn save_session_info(cookie: ServerAutoReconnect) -> ShareDataPdu {
    ShareDataPdu::SaveSessionInfo(SaveSessionInfoPdu {
        info_type: InfoType::LogonExtended,
        info_data: InfoData::LogonExtended(LogonInfoExtended {
            present_fields_flags: LogonExFlags::AUTO_RECONNECT_COOKIE,
            auto_reconnect: Some(cookie),
            errors_info: None,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_once() {
        let (cookies, now) = (Cookies::default(), Instant::now());
        let answer = ClientAutoReconnect::from_server_cookie(&cookies.issue(7, now).unwrap());
        assert!(cookies.redeem(&answer, now));
        assert!(!cookies.redeem(&answer, now));
    }

    #[test]
    fn a_cookie_is_good_for_its_own_session_only() {
        let (mine, other, now) = (Cookies::default(), Cookies::default(), Instant::now());
        let mut answer = ClientAutoReconnect::from_server_cookie(&mine.issue(7, now).unwrap());
        other.issue(8, now).unwrap();
        assert!(!other.redeem(&answer, now));
        answer.logon_id = 8;
        assert!(!other.redeem(&answer, now) && !mine.redeem(&answer, now));
        answer.logon_id = 7;
        assert!(mine.redeem(&answer, now));
    }

    #[test]
    fn a_cookie_ages_and_is_replaced() {
        let (cookies, now) = (Cookies::default(), Instant::now());
        let old = ClientAutoReconnect::from_server_cookie(&cookies.issue(1, now).unwrap());
        assert!(!cookies.redeem(&old, now + LIFE));
        let cookies = Cookies::default();
        let issued: Vec<_> = (0..3)
            .map(|_| ClientAutoReconnect::from_server_cookie(&cookies.issue(1, now).unwrap()))
            .collect();
        assert!(!cookies.redeem(&issued[0], now), "the third replaces the first");
        assert!(cookies.redeem(&issued[1], now), "the newest may never have arrived");
        assert!(!cookies.redeem(&issued[2], now), "using one uses up all");
    }

    #[test]
    fn a_changed_answer_is_refused_whatever_bit_it_is_and_uses_nothing_up() {
        let (cookies, now) = (Cookies::default(), Instant::now());
        let answer = ClientAutoReconnect::from_server_cookie(&cookies.issue(1, now).unwrap());
        for bit in 0..128 {
            let mut damaged = answer.clone();
            damaged.security_verifier[bit / 8] ^= 1 << (bit % 8);
            assert!(!cookies.redeem(&damaged, now), "bit {bit}");
        }
        assert!(cookies.redeem(&answer, now));
    }
}
