//! NTLMv2 as a server speaks it (MS-NLMP), with the hashes of passwords alone: one challenge, one answer, and the keys that
//! both sides have then. All integers are little endian.
//!
//! Nothing older is taken: no NTLMv1, no session without extended session security, 128-bit keys and key exchange.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use rc4::{Rc4, StreamCipher as _};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";

/// MS-NLMP 2.2.2.5.
mod flags {
    pub(super) const UNICODE: u32 = 0x0000_0001;
    pub(super) const REQUEST_TARGET: u32 = 0x0000_0004;
    pub(super) const SIGN: u32 = 0x0000_0010;
    pub(super) const SEAL: u32 = 0x0000_0020;
    pub(super) const NTLM: u32 = 0x0000_0200;
    pub(super) const ALWAYS_SIGN: u32 = 0x0000_8000;
    pub(super) const TARGET_TYPE_SERVER: u32 = 0x0002_0000;
    pub(super) const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
    pub(super) const TARGET_INFO: u32 = 0x0080_0000;
    pub(super) const VERSION: u32 = 0x0200_0000;
    pub(super) const KEY_128: u32 = 0x2000_0000;
    pub(super) const KEY_EXCHANGE: u32 = 0x4000_0000;

    /// Without these no session would be worth having.
    pub(super) const NEEDED: u32 = UNICODE | EXTENDED_SESSION_SECURITY | KEY_128 | KEY_EXCHANGE;
    /// What is answered where a client asks for it, beside what is needed.
    pub(super) const GRANTED: u32 = REQUEST_TARGET | SIGN | SEAL | NTLM | ALWAYS_SIGN | VERSION;
}

/// Kinds of AV_PAIR (2.2.2.1).
mod av {
    pub(super) const END: u16 = 0;
    pub(super) const COMPUTER_NAME: u16 = 1;
    pub(super) const DOMAIN_NAME: u16 = 2;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const TIMESTAMP: u16 = 7;
    /// In the flags: the answer has a MIC.
    pub(super) const HAS_MIC: u32 = 2;
}

/// Names longer than this are refused, in UTF-16 units.
const MAX_NAME: usize = 256;

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// No NTLMv2 that could be valid.
    Message,
    /// No such user, or another password.
    Credentials,
}

/// A challenge that was given to a client.
pub(crate) struct Challenge {
    negotiate: Vec<u8>,
    message: Vec<u8>,
    random: [u8; 8],
}

impl Challenge {
    /// The answer to a NEGOTIATE_MESSAGE (2.2.1.1). `file_time` is now, in 100 ns since 1601.
    pub(crate) fn new(negotiate: &[u8], random: [u8; 8], file_time: u64) -> Result<Challenge, Wrong> {
        let asked = header(negotiate, 1).and_then(|()| u32_at(negotiate, 12)).ok_or(Wrong::Message)?;
        if asked & flags::NEEDED != flags::NEEDED {
            return Err(Wrong::Message);
        }
        let mut granted = flags::NEEDED | flags::TARGET_INFO | asked & flags::GRANTED;
        if asked & flags::REQUEST_TARGET != 0 {
            granted |= flags::TARGET_TYPE_SERVER;
        }
        // Names are needed and used for nothing; none of this host is told to who has no password.
        let mut target = Vec::new();
        for (kind, value) in [
            (av::DOMAIN_NAME, &[][..]),
            (av::COMPUTER_NAME, &[]),
            (av::TIMESTAMP, &file_time.to_le_bytes()),
            (av::END, &[]),
        ] {
            target.extend_from_slice(&kind.to_le_bytes());
            target.extend_from_slice(&(value.len() as u16).to_le_bytes());
            target.extend_from_slice(value);
        }
        // CHALLENGE_MESSAGE (2.2.1.2).
        const PAYLOAD: u32 = 56;
        let mut message = SIGNATURE.to_vec();
        message.extend_from_slice(&2_u32.to_le_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&PAYLOAD.to_le_bytes());
        message.extend_from_slice(&granted.to_le_bytes());
        message.extend_from_slice(&random);
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&(target.len() as u16).to_le_bytes());
        message.extend_from_slice(&(target.len() as u16).to_le_bytes());
        message.extend_from_slice(&PAYLOAD.to_le_bytes());
        // The version of Windows that knows what this does (2.2.2.10), revision 15.
        message.extend_from_slice(&[10, 0, 0x63, 0x45, 0, 0, 0, 15]);
        message.extend_from_slice(&target);
        Ok(Challenge { negotiate: negotiate.to_vec(), message, random })
    }

    /// The one in MS-NLMP 4.2, in whose answer no other message takes part.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn published() -> Challenge {
        let random = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
        Challenge { negotiate: Vec::new(), message: Vec::new(), random }
    }

    /// The CHALLENGE_MESSAGE.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Checks an AUTHENTICATE_MESSAGE (2.2.1.3). `nt_hash` gives the hash of a user's password, and for a user that
    /// there is not one that nobody has, so that both are refused alike.
    pub(crate) fn verify(
        &self,
        answer: &[u8],
        nt_hash: impl FnOnce(&str) -> Option<Zeroizing<[u8; 16]>>,
    ) -> Result<Session, Wrong> {
        let read = Answer::read(answer).ok_or(Wrong::Message)?;
        let hash = nt_hash(&read.user).ok_or(Wrong::Message)?;
        // 3.3.2, NTOWFv2.
        let name: Vec<u8> = read.user.to_uppercase().encode_utf16().flat_map(u16::to_le_bytes).collect();
        let key = hmac(hash.as_slice(), &[&name, read.domain]);
        let proof = hmac(key.as_slice(), &[&self.random, read.client_challenge]);
        let mut is_right = proof.as_slice().ct_eq(read.proof);
        let base = hmac(key.as_slice(), &[proof.as_slice()]);
        let mut exported = Zeroizing::new(read.encrypted_key);
        rc4(base.as_slice())?.apply_keystream(exported.as_mut_slice());
        if let Some(mic) = read.mic {
            let mut blank = answer.to_vec();
            blank.get_mut(MIC).ok_or(Wrong::Message)?.fill(0);
            let expected = hmac(exported.as_slice(), &[&self.negotiate, &self.message, &blank]);
            is_right &= expected.as_slice().ct_eq(mic);
        }
        if !bool::from(is_right) {
            return Err(Wrong::Credentials);
        }
        Ok(Session {
            had_mic: read.mic.is_some(),
            from_client: Direction::new(&exported, "client-to-server")?,
            to_client: Direction::new(&exported, "server-to-client")?,
        })
    }
}

/// Where a MIC stands in an AUTHENTICATE_MESSAGE that has one.
const MIC: std::ops::Range<usize> = 72..88;

/// What an AUTHENTICATE_MESSAGE says.
struct Answer<'a> {
    user: String,
    domain: &'a [u8],
    proof: &'a [u8],
    /// NTLMv2_CLIENT_CHALLENGE (2.2.2.7) as it was sent.
    client_challenge: &'a [u8],
    encrypted_key: [u8; 16],
    mic: Option<&'a [u8]>,
}

impl<'a> Answer<'a> {
    fn read(message: &'a [u8]) -> Option<Answer<'a>> {
        header(message, 3)?;
        if u32_at(message, 60)? & flags::NEEDED != flags::NEEDED {
            return None;
        }
        let (proof, client_challenge) = field(message, 20)?.split_at_checked(16)?;
        // RespType and HiRespType; then come reserved fields, time, the client's random bytes and, at 28, the AV_PAIRs.
        if !client_challenge.starts_with(&[1, 1]) {
            return None;
        }
        let has_mic = has_mic(client_challenge.get(28..)?)?;
        let user = field(message, 36)?;
        let (units, rest) = user.as_chunks::<2>();
        if units.is_empty() || units.len() > MAX_NAME || !rest.is_empty() {
            return None;
        }
        let user = char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)));
        Some(Answer {
            user: user.collect::<Result<_, _>>().ok()?,
            domain: field(message, 28).filter(|domain| domain.len() <= 2 * MAX_NAME)?,
            proof,
            client_challenge,
            encrypted_key: field(message, 52)?.try_into().ok()?,
            mic: if has_mic { Some(message.get(MIC)?) } else { None },
        })
    }
}

/// Whether these AV_PAIRs tell of a MIC.
fn has_mic(mut pairs: &[u8]) -> Option<bool> {
    loop {
        let (head, rest) = pairs.split_first_chunk::<4>()?;
        let [k0, k1, l0, l1] = *head;
        let (value, rest) = rest.split_at_checked(u16::from_le_bytes([l0, l1]).into())?;
        match u16::from_le_bytes([k0, k1]) {
            av::END => return Some(false),
            av::FLAGS if u32_at(value, 0)? & av::HAS_MIC != 0 => return Some(true),
            _ => pairs = rest,
        }
    }
}

fn header(message: &[u8], kind: u32) -> Option<()> {
    (message.starts_with(SIGNATURE) && u32_at(message, 8)? == kind).then_some(())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What length, maximal length and offset at that place point to (2.2.1.3, the Fields).
fn field(message: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_le_bytes(*message.get(at..)?.first_chunk()?));
    let offset = usize::try_from(u32_at(message, at.checked_add(4)?)?).ok()?;
    message.get(offset..offset.checked_add(length)?)
}

/// The keys of an authenticated client: session security (3.4).
pub(crate) struct Session {
    /// Whether the answer had a MIC, with which SPNEGO has to have one as well (MS-SPNG 3.3.5.1).
    pub(crate) had_mic: bool,
    from_client: Direction,
    to_client: Direction,
}

impl Session {
    /// Decrypts the next message of the client's, and checks that it is whole (3.4.3).
    pub(crate) fn open(&mut self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Wrong> {
        let (signature, text) = sealed.split_at_checked(16).ok_or(Wrong::Message)?;
        let direction = &mut self.from_client;
        let mut plain = Zeroizing::new(text.to_vec());
        direction.cipher.apply_keystream(plain.as_mut_slice());
        let expected = direction.sign(&plain);
        if bool::from(expected.as_slice().ct_eq(signature)) { Ok(plain) } else { Err(Wrong::Credentials) }
    }

    /// Encrypts the next message to the client, with its signature before it.
    pub(crate) fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let direction = &mut self.to_client;
        let mut text = plain.to_vec();
        direction.cipher.apply_keystream(&mut text);
        let mut sealed = direction.sign(plain).to_vec();
        sealed.append(&mut text);
        sealed
    }

    /// Checks the client's signature over the list of mechanisms. It counts as a message, but the cipher begins
    /// anew after it (MS-SPNG 3.3.5.1).
    pub(crate) fn check_mic(&mut self, data: &[u8], mic: &[u8]) -> Result<(), Wrong> {
        let expected = self.from_client.sign_and_begin_anew(data)?;
        if bool::from(expected.as_slice().ct_eq(mic)) { Ok(()) } else { Err(Wrong::Credentials) }
    }

    /// The host's own signature over the list of mechanisms.
    pub(crate) fn mic(&mut self, data: &[u8]) -> Result<[u8; 16], Wrong> {
        self.to_client.sign_and_begin_anew(data)
    }
}

/// What is said in one direction.
struct Direction {
    signing: Zeroizing<[u8; 16]>,
    sealing: Zeroizing<[u8; 16]>,
    cipher: Rc4,
    /// How many messages there were.
    number: u32,
}

impl Direction {
    /// 3.4.5.2 and 3.4.5.3, for 128-bit keys.
    fn new(exported: &[u8; 16], way: &str) -> Result<Direction, Wrong> {
        let key = |what: &str| {
            let magic = format!("session key to {way} {what} key magic constant\0");
            Zeroizing::new(Md5::new().chain_update(exported).chain_update(magic).finalize().into())
        };
        let sealing = key("sealing");
        Ok(Direction { signing: key("signing"), cipher: rc4(sealing.as_slice())?, sealing, number: 0 })
    }

    /// The signature of the next message (3.4.4.2), after its text went through the cipher if it does.
    fn sign(&mut self, plain: &[u8]) -> [u8; 16] {
        let number = self.number.to_le_bytes();
        self.number = self.number.wrapping_add(1);
        let sum = hmac(self.signing.as_slice(), &[&number, plain]);
        let [s0, s1, s2, s3, s4, s5, s6, s7, ..] = *sum;
        let mut sum = [s0, s1, s2, s3, s4, s5, s6, s7];
        self.cipher.apply_keystream(&mut sum);
        let mut signature = [0; 16];
        signature[..4].copy_from_slice(&1_u32.to_le_bytes());
        signature[4..12].copy_from_slice(&sum);
        signature[12..].copy_from_slice(&number);
        signature
    }

    fn sign_and_begin_anew(&mut self, data: &[u8]) -> Result<[u8; 16], Wrong> {
        let signature = self.sign(data);
        self.cipher = rc4(self.sealing.as_slice())?;
        Ok(signature)
    }
}

fn rc4(key: &[u8]) -> Result<Rc4, Wrong> {
    // Fails for keys of no or more than 256 bytes only.
    <Rc4 as rc4::KeyInit>::new_from_slice(key).map_err(|_| Wrong::Message)
}

/// HMAC-MD5 over all parts, with a key of 16 bytes.
fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 16]> {
    let mut block = hmac::digest::array::Array::default();
    for (place, byte) in std::iter::zip(&mut block, key) {
        *place = *byte;
    }
    let mut mac = <Hmac<Md5>>::new(&block);
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// MS-NLMP 4.2.4: user "User", domain "Domain", password "Password"; the answer of 4.2.4.3.
    const ANSWER: &str = "4e544c4d5353500003000000180018006c00000054005400840000000c000c004800000008000800540000001000\
        10005c00000010001000d8000000358288e20501280a0000000f44006f006d00610069006e00550073006500720043004f004d005000\
        55005400450052 0086c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa68cd0ab851e51c96aabc927bebef6a1c01010000000000\
        000000000000000000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e0001000c005300650072007600650072000000\
        000000000000c5dad2544fc9799094ce1ce90bc9d03e";
    /// MS-NLMP 4.2.2.1.2.
    const HASH: &str = "a4f49c406510bdcab6824ee7c30fd852";

    pub(crate) fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn hash(hex: &str) -> Option<Zeroizing<[u8; 16]>> {
        Some(Zeroizing::new(bytes(hex).try_into().unwrap()))
    }

    #[test]
    fn the_published_answer_is_right_and_what_it_seals_is_read() {
        let ask = |user: &str| {
            assert_eq!(user, "User");
            hash(HASH)
        };
        let mut session = Challenge::published().verify(&bytes(ANSWER), ask).unwrap();
        // 4.2.4.4: what the client seals first.
        let sealed = bytes("010000007fb38ec5c55d497600000000 54e50165bf1936dc996020c1811b0f06fb5f");
        let plain: Vec<u8> = "Plaintext".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(*session.open(&sealed).unwrap(), plain);
        // Said again, it is not the second message.
        assert!(session.open(&sealed).is_err());
    }

    #[test]
    fn another_password_and_another_challenge_are_wrong() {
        let other = || hash("8846f7eaee8fb117ad06bdd830b7586c");
        let wrong = Challenge::published().verify(&bytes(ANSWER), |_| other()).err();
        assert_eq!(wrong, Some(Wrong::Credentials));
        let challenge = Challenge { random: [7; 8], ..Challenge::published() };
        assert_eq!(challenge.verify(&bytes(ANSWER), |_| hash(HASH)).err(), Some(Wrong::Credentials));
    }

    #[test]
    fn no_damaged_answer_is_right() {
        let answer = bytes(ANSWER);
        for at in 0..answer.len() {
            assert!(Challenge::published().verify(&answer[..at], |_| hash(HASH)).is_err(), "cut at {at}");
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = answer.clone();
                if damaged[at] == value {
                    continue;
                }
                damaged[at] = value;
                // What is not signed is the answer of old clients, the workstation's name, flags, version, maximal
                // lengths, and the exchanged key, with which nothing of the client's can be read then.
                if let Ok(mut session) = Challenge::published().verify(&damaged, |_| hash(HASH)) {
                    let sealed =
                        bytes("010000007fb38ec5c55d497600000000 54e50165bf1936dc996020c1811b0f06fb5f");
                    let unsigned = at < 72 || (0x5c..0x84).contains(&at);
                    assert!(unsigned || session.open(&sealed).is_err(), "{value} at {at}");
                }
            }
        }
    }

    #[test]
    fn a_weak_session_is_not_begun() {
        let negotiate = |flags: u32| {
            let mut message = SIGNATURE.to_vec();
            message.extend([1, 0, 0, 0]);
            message.extend(flags.to_le_bytes());
            message.extend([0; 16]);
            message
        };
        assert!(Challenge::new(&negotiate(flags::NEEDED), [1; 8], 1).is_ok());
        for bit in 0..32 {
            let flag = 1 << bit;
            let message = negotiate(flags::NEEDED & !flag);
            assert_eq!(Challenge::new(&message, [1; 8], 1).is_err(), flags::NEEDED & flag != 0);
        }
        for length in 0..16 {
            assert!(Challenge::new(&negotiate(flags::NEEDED)[..length], [1; 8], 1).is_err());
        }
    }
}
