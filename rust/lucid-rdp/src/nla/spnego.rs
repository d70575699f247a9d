//! SPNEGO's messages (RFC 4178, MS-SPNG), as far as NTLM needs them: what a client begins with, what both answer.
//!
//! They come before anybody is authenticated. Nothing is copied or counted by what a message says about itself: a
//! reader goes through the bytes that are there, and what it gives points into them.

use der::asn1::AnyRef;
use der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};

/// 1.3.6.1.4.1.311.2.2.10 as an object identifier's contents: NTLM.
const NTLM: [u8; 10] = [0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 2, 10];
/// 1.3.6.1.5.5.2: SPNEGO itself.
const SPNEGO: [u8; 6] = [0x2b, 6, 1, 5, 5, 2];

/// How many mechanisms a client may offer. Windows offers four.
const MAX_MECHANISMS: usize = 16;

/// What a client begins with: NegTokenInit (RFC 4178 4.2.1), or its form of MS-SPNG 2.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Init<'a> {
    /// The list of mechanisms as it was sent, which is what both sides sign.
    pub(crate) mechanisms: &'a [u8],
    /// Whether NTLM is the first of them.
    pub(crate) is_preferred: bool,
    /// NTLM's first message, if NTLM is the first and the client has not waited for the host to choose it.
    pub(crate) token: Option<&'a [u8]>,
}

/// Whether a token is SPNEGO's, and not NTLM's own as it is.
pub(crate) fn is_wrapped(token: &[u8]) -> bool {
    matches!(token.first(), Some(0x60 | 0xa0))
}

/// Reads what a client begins with; nothing if it is malformed or offers no NTLM.
pub(crate) fn read_init(token: &[u8]) -> Option<Init<'_>> {
    let outer = only(token)?;
    // RFC 2743 3.1: the mechanism's name stands before its first message. Not all clients have that.
    let body = if outer.tag() == (Tag::Application { constructed: true, number: TagNumber(0) }) {
        let mut reader = SliceReader::new(outer.value()).ok()?;
        let name = AnyRef::decode(&mut reader).ok()?;
        if name.tag() != Tag::ObjectIdentifier || name.value() != SPNEGO {
            return None;
        }
        last(reader)?
    } else {
        outer
    };
    let fields = Fields::read(numbered(body, 0)?)?;
    let mechanisms = fields.get(0)?;
    let listed = only(mechanisms).filter(|list| list.tag() == Tag::Sequence)?;
    let mut reader = SliceReader::new(listed.value()).ok()?;
    let mut place = None;
    for at in 0..=MAX_MECHANISMS {
        if reader.is_finished() {
            break;
        }
        let name = AnyRef::decode(&mut reader).ok()?;
        if name.tag() != Tag::ObjectIdentifier || at == MAX_MECHANISMS {
            return None;
        }
        if name.value() == NTLM {
            place = place.or(Some(at));
        }
    }
    let is_preferred = place? == 0;
    // A token is for the first mechanism.
    let token = if is_preferred { fields.octets(2)? } else { None };
    Some(Init { mechanisms, is_preferred, token })
}

/// What a client goes on with: NegTokenResp (RFC 4178 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    /// NTLM's message.
    pub(crate) token: Option<&'a [u8]>,
    /// The signature over the list of mechanisms.
    pub(crate) mic: Option<&'a [u8]>,
}

/// Reads what a client goes on with; nothing if it is malformed or a refusal.
pub(crate) fn read_response(token: &[u8]) -> Option<Response<'_>> {
    const REJECT: [u8; 3] = [0x0a, 1, 2];
    let fields = Fields::read(numbered(only(token)?, 1)?)?;
    if fields.get(0).is_some_and(|state| state == REJECT) {
        return None;
    }
    Some(Response { token: fields.octets(2)?, mic: fields.octets(3)? })
}

/// How far the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// NegState's accept-completed.
    Completed,
    /// Its accept-incomplete.
    Incomplete,
}

/// The host's answer: NegTokenResp.
pub(crate) fn response(state: State, names_ntlm: bool, token: Option<&[u8]>, mic: Option<&[u8]>) -> Vec<u8> {
    let state = match state {
        State::Completed => 0,
        State::Incomplete => 1,
    };
    let mut fields = tlv(0xa0, &tlv(0x0a, &[state]));
    if names_ntlm {
        fields.extend(tlv(0xa1, &tlv(0x06, &NTLM)));
    }
    for (tag, octets) in [(0xa2, token), (0xa3, mic)] {
        if let Some(octets) = octets {
            fields.extend(tlv(tag, &tlv(0x04, octets)));
        }
    }
    tlv(0xa1, &tlv(0x30, &fields))
}

/// A value with its tag and length (X.690 10.1); values of the host's own, which are small.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        short @ 0..=0x7f => out.push(short as u8),
        byte @ 0x80..=0xff => out.extend([0x81, byte as u8]),
        long => {
            out.push(0x82);
            out.extend((long as u16).to_be_bytes());
        }
    }
    out.extend(value);
    out
}

/// The one value that these bytes are.
fn only(bytes: &[u8]) -> Option<AnyRef<'_>> {
    last(SliceReader::new(bytes).ok()?)
}

/// The next value, after which nothing may follow.
fn last<'a>(mut reader: SliceReader<'a>) -> Option<AnyRef<'a>> {
    let value = AnyRef::decode(&mut reader).ok()?;
    reader.is_finished().then_some(value)
}

/// What is in a value with that context-specific number.
fn numbered(value: AnyRef<'_>, number: u32) -> Option<&[u8]> {
    let tag = Tag::ContextSpecific { constructed: true, number: TagNumber(number) };
    (value.tag() == tag).then(|| value.value())
}

/// A SEQUENCE whose fields are numbered, in their order, each at most once.
#[derive(Default)]
struct Fields<'a>([Option<&'a [u8]>; 5]);

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Option<Fields<'a>> {
        let sequence = only(bytes).filter(|value| value.tag() == Tag::Sequence)?;
        let mut reader = SliceReader::new(sequence.value()).ok()?;
        let mut fields = Fields::default();
        let mut next = 0;
        while !reader.is_finished() {
            let value = AnyRef::decode(&mut reader).ok()?;
            let number = (next..5).find(|number| numbered(value, *number).is_some())?;
            *fields.0.get_mut(usize::try_from(number).ok()?)? = numbered(value, number);
            next = number + 1;
        }
        Some(fields)
    }

    fn get(&self, number: usize) -> Option<&'a [u8]> {
        self.0.get(number).copied().flatten()
    }

    /// The octets in a field, if it is there; nothing if something else is in it.
    fn octets(&self, number: usize) -> Option<Option<&'a [u8]>> {
        match self.get(number) {
            None => Some(None),
            Some(bytes) => {
                only(bytes).filter(|value| value.tag() == Tag::OctetString).map(|value| Some(value.value()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ntlm::tests::bytes;
    use super::*;

    /// NegTokenInit with NTLM alone and "abc" for its message, as clients send it.
    const INIT: &str = "6023 06062b0601050502 a019 3017 a00e 300c 060a2b06010401823702020a a205 0403 616263";
    /// The same with two Kerberos before NTLM and a token for the first.
    const KERBEROS: &str = "6039 06062b0601050502 a02f 302d a024 3022 06092a864882f71201 0202 06092a864886f712010202 \
        060a2b06010401823702020a a205 0403 616263";

    #[test]
    fn what_clients_begin_with_is_read_with_the_list_as_they_sent_it() {
        let token = bytes(INIT);
        let init = read_init(&token).unwrap();
        assert_eq!(init.mechanisms, bytes("300c060a2b06010401823702020a"));
        assert!(init.is_preferred);
        assert_eq!(init.token, Some(&b"abc"[..]));
        // Without the name before it.
        assert_eq!(read_init(&token[10..]), Some(init));
    }

    #[test]
    fn a_token_for_kerberos_is_not_taken_for_ntlms() {
        let token = bytes(KERBEROS);
        let init = read_init(&token).unwrap();
        assert!(!init.is_preferred);
        assert_eq!(init.token, None);
        assert_eq!(init.mechanisms.len(), 36);
    }

    #[test]
    fn what_the_host_answers_is_read_as_an_answer() {
        for length in [0, 1, 127, 128, 255, 256, 4000] {
            let (token, mic) = (vec![7; length], vec![9; 16]);
            let answer = response(State::Incomplete, true, Some(&token), Some(&mic));
            let read = read_response(&answer).unwrap();
            assert_eq!(read, Response { token: Some(&token), mic: Some(&mic) });
        }
        // As Windows sends it.
        let chosen = response(State::Incomplete, true, None, None);
        assert_eq!(chosen, bytes("a115 3013 a003 0a0101 a10c 060a2b06010401823702020a"));
        let nothing = Response { token: None, mic: None };
        assert_eq!(read_response(&response(State::Completed, false, None, None)), Some(nothing));
    }

    #[test]
    fn a_refusal_and_too_many_mechanisms_are_not_gone_on_with() {
        assert_eq!(read_response(&bytes("a107 3005 a003 0a0102")), None);
        let listed = |count: usize| {
            let names = tlv(0x06, &NTLM).repeat(count);
            tlv(0xa0, &tlv(0x30, &tlv(0xa0, &tlv(0x30, &names))))
        };
        assert!(read_init(&listed(MAX_MECHANISMS)).is_some());
        assert!(read_init(&listed(MAX_MECHANISMS + 1)).is_none());
        assert!(read_init(&listed(0)).is_none());
    }

    #[test]
    fn damaged_messages_are_read_without_a_panic_and_never_beyond_their_end() {
        for token in
            [bytes(INIT), bytes(KERBEROS), response(State::Incomplete, true, Some(&[7; 300]), Some(&[1; 16]))]
        {
            for at in 0..token.len() {
                assert!(read_init(&token[..at]).is_none() && read_response(&token[..at]).is_none());
                for value in 0..=u8::MAX {
                    let mut damaged = token.clone();
                    damaged[at] = value;
                    let _ = read_init(&damaged);
                    let _ = read_response(&damaged);
                }
            }
        }
    }
}
