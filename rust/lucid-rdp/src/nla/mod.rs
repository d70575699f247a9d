//! Network-level authentication of clients that put NTLM into SPNEGO, as CredSSP has it (MS-CSSP 3.1.5). Clients that
//! leave NTLM as it is are `sspi`'s. Its own SPNEGO looks a user up before it checks anything, which tells a stranger
//! who is there, and its NTLM takes only clients that repeat the host's time.

mod ntlm;
mod spnego;
#[cfg(test)]
mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

use ironrdp_connector::sspi::credssp::{TsRequest, read_ts_credentials};
use ironrdp_connector::sspi::{AuthIdentity, CredentialsBuffers};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;

pub(crate) use self::ntlm::Wrong;
use self::ntlm::{Challenge, Session};
use self::spnego::State;
pub(crate) use self::spnego::is_wrapped;
use crate::account::Lookup;

/// From here on, both sides prove that they see the same key by a hash with a number of the client's (MS-CSSP 3.1.5).
/// Clients since 2018 do so.
const MIN_VERSION: u32 = 5;

/// The host's part of one client's authentication.
pub(crate) struct Exchange<'a> {
    accounts: &'a Lookup,
    public_key: &'a [u8],
    stage: Stage,
}

/// What the client is to send next.
enum Stage {
    /// What it can do.
    Offer,
    /// NTLM's first message, after the host chose NTLM.
    Negotiate(Offer),
    /// The answer to the challenge.
    Answer(Offer, Challenge),
    /// The proof that it sees the host's key.
    Key(Session),
    /// Its password.
    Password(Session),
    /// Nothing more.
    Done,
}

/// What a client can do.
struct Offer {
    mechanisms: Vec<u8>,
    is_ntlm_preferred: bool,
}

/// What comes of a message.
pub(crate) enum Step {
    /// This is to be sent.
    Reply(TsRequest),
    /// The client has proved that it knows its hash, and this is what it handed over.
    Finished(AuthIdentity),
}

impl<'a> Exchange<'a> {
    /// For a client of a host with that key: the bits of its `subjectPublicKey`.
    pub(crate) fn new(accounts: &'a Lookup, public_key: &'a [u8]) -> Exchange<'a> {
        Exchange { accounts, public_key, stage: Stage::Offer }
    }

    /// Takes the client's next message. After an error there is none.
    pub(crate) fn take(&mut self, request: &TsRequest) -> Result<Step, Wrong> {
        if request.version < MIN_VERSION {
            return Err(Wrong::Message);
        }
        let token = request.nego_tokens.as_deref();
        let mut reply = TsRequest::default();
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Offer => {
                let init = token.and_then(spnego::read_init).ok_or(Wrong::Message)?;
                let offer =
                    Offer { mechanisms: init.mechanisms.to_vec(), is_ntlm_preferred: init.is_preferred };
                let challenge = init.token.map(challenge).transpose()?;
                let message = challenge.as_ref().map(Challenge::message);
                reply.nego_tokens = Some(spnego::response(State::Incomplete, true, message, None));
                match challenge {
                    Some(challenge) => Stage::Answer(offer, challenge),
                    None => Stage::Negotiate(offer),
                }
            }
            Stage::Negotiate(offer) => {
                let response = token.and_then(spnego::read_response).ok_or(Wrong::Message)?;
                let challenge = challenge(response.token.ok_or(Wrong::Message)?)?;
                reply.nego_tokens =
                    Some(spnego::response(State::Incomplete, false, Some(challenge.message()), None));
                Stage::Answer(offer, challenge)
            }
            Stage::Answer(offer, challenge) => {
                let response = token.and_then(spnego::read_response).ok_or(Wrong::Message)?;
                let answer = response.token.ok_or(Wrong::Message)?;
                // Of user@domain, the user.
                let hash = |user: &str| self.accounts.nt_hash(user.split('@').next().unwrap_or_default());
                let mut session = challenge.verify(answer, hash)?;
                let mic = match response.mic {
                    Some(mic) => {
                        session.check_mic(&offer.mechanisms, mic)?;
                        Some(session.mic(&offer.mechanisms)?)
                    }
                    // RFC 4178 5 and MS-SPNG 3.3.5.1: somebody may have put NTLM to the front, or says that there was no MIC.
                    None if session.had_mic || !offer.is_ntlm_preferred => return Err(Wrong::Message),
                    None => None,
                };
                let mic = mic.as_ref().map(<[u8; 16]>::as_slice);
                reply.nego_tokens = Some(spnego::response(State::Completed, false, None, mic));
                if request.pub_key_auth.is_some() {
                    reply.pub_key_auth = Some(self.bind(&mut session, request)?);
                    Stage::Password(session)
                } else {
                    Stage::Key(session)
                }
            }
            Stage::Key(mut session) => {
                reply.pub_key_auth = Some(self.bind(&mut session, request)?);
                Stage::Password(session)
            }
            Stage::Password(mut session) => {
                let sealed = request.auth_info.as_deref().ok_or(Wrong::Message)?;
                let plain = session.open(sealed)?;
                let Ok(CredentialsBuffers::AuthIdentity(delegated)) = read_ts_credentials(plain.as_slice())
                else {
                    return Err(Wrong::Message);
                };
                return AuthIdentity::try_from(delegated).map(Step::Finished).map_err(|_| Wrong::Message);
            }
            Stage::Done => return Err(Wrong::Message),
        };
        Ok(Step::Reply(reply))
    }

    /// Checks that the client sees this host's key and nobody's between them, and proves the same to it.
    fn bind(&self, session: &mut Session, request: &TsRequest) -> Result<Vec<u8>, Wrong> {
        let sealed = request.pub_key_auth.as_deref().ok_or(Wrong::Message)?;
        let nonce = request.client_nonce.ok_or(Wrong::Message)?;
        let hash = |magic: &[u8]| digest(&SHA256, &[magic, &nonce, self.public_key].concat());
        let seen = session.open(sealed)?;
        let expected = hash(b"CredSSP Client-To-Server Binding Hash\0");
        if !bool::from(expected.as_ref().ct_eq(seen.as_slice())) {
            return Err(Wrong::Credentials);
        }
        Ok(session.seal(hash(b"CredSSP Server-To-Client Binding Hash\0").as_ref()))
    }
}

/// A fresh challenge for a client's first message of NTLM.
fn challenge(negotiate: &[u8]) -> Result<Challenge, Wrong> {
    /// From 1601 to 1970, in seconds.
    const EPOCH: u64 = 11_644_473_600;
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| Wrong::Message)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let file_time = (EPOCH + now.as_secs()) * 10_000_000 + u64::from(now.subsec_nanos() / 100);
    Challenge::new(negotiate, random, file_time)
}

/// What a stranger's messages are read by, for the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_everything(bytes: &[u8]) {
    let _ = Challenge::new(bytes, [7; 8], 1);
    if let Some(init) = spnego::read_init(bytes) {
        assert!(init.mechanisms.len() <= bytes.len());
        let _ = init.token.map(|token| Challenge::new(token, [7; 8], 1));
    }
    let nobody = |_: &str| Some(zeroize::Zeroizing::new([3; 16]));
    // What is sealed with a key that nobody has cannot be made by chance.
    let try_answer = |answer: &[u8]| {
        assert!(Challenge::published().verify(answer, nobody).is_err(), "an answer was right by chance");
    };
    try_answer(bytes);
    if let Some(token) = spnego::read_response(bytes).and_then(|response| response.token) {
        try_answer(token);
    }
}
