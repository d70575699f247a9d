//! Canonical JSON and the envelope of a signed statement.
//!
//! **Canonical** is RFC 8785, restricted to objects, arrays, strings, booleans, null and integers below 2^53. All
//! names of members are ASCII, so that its order of members is the order of their bytes; the types here declare their
//! fields in that order, and a test holds them to it. A reader takes only the bytes that a writer would have made: it
//! parses, writes again and compares, which refuses unknown, repeated and missing members, white space, upper-case
//! hex and every other second spelling at once.
//!
//! **A signed statement** is `{"body":{…,"kind":"…",…,"version":1,…},"signature":"…"}`. The signature is Ed25519
//! (RFC 8032) over [`Document::DOMAIN`], the kind, a zero byte, and the canonical bytes of the body.

use std::io::{self, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::ser::{CompactFormatter, Formatter};

use crate::{
    error::{Error, Result},
    key::SigningKey,
    value::{PublicKey, Signature},
};

/// The version of every statement so far.
pub const VERSION: u16 = 1;
/// The first integer that not every JSON reader keeps (RFC 8785, section 3.2.2.3; RFC 7493, section 2.2).
const FIRST_UNSAFE: u64 = 1 << 53;

/// What carries its kind and version, so that neither can be taken for another.
pub trait Document: Serialize + DeserializeOwned {
    /// Begins what is signed, with a space at its end: of which format this type is, such as `lucid recording v1 `.
    const DOMAIN: &'static str;
    /// Which kind this type is, as it is written.
    const KIND: &'static str;
    /// The kind that it says.
    fn kind(&self) -> &'static str;
    /// The version that it says.
    fn version(&self) -> u16;
}

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<B> {
    /// What is stated.
    pub body: B,
    /// The signature over it.
    pub signature: Signature,
}

/// Writes integers below 2^53, and no other numbers.
struct Canonical(CompactFormatter);

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, "a number is not an integer from 0 to 2^53-1"))
}

impl Formatter for Canonical {
    fn write_u64<W: ?Sized + Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        if value >= FIRST_UNSAFE {
            return refused();
        }
        self.0.write_u64(writer, value)
    }

    fn write_i64<W: ?Sized + Write>(&mut self, _: &mut W, _: i64) -> io::Result<()> {
        refused()
    }

    fn write_f64<W: ?Sized + Write>(&mut self, _: &mut W, _: f64) -> io::Result<()> {
        refused()
    }
}

fn write(value: &impl Serialize, to: impl Write) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(to, Canonical(CompactFormatter)))
}

/// The canonical bytes.
///
/// # Errors
/// When a number is not an integer from 0 to 2^53-1; `what` says of which thing.
pub fn to_bytes(what: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(value, &mut bytes).map_err(|error| Error::malformed(what, error.to_string()))?;
    Ok(bytes)
}

/// Takes bytes only as long as they are the expected ones, so that comparing takes no second copy.
struct Expect<'a>(&'a [u8]);

impl Write for Expect<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .strip_prefix(bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not in canonical form"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what [`to_bytes`] wrote, and nothing else.
///
/// # Errors
/// When the bytes are not those that [`to_bytes`] makes of the value; `what` says of which thing.
pub fn from_bytes<T: Serialize + DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    let malformed = |error: serde_json::Error| Error::malformed(what, error.to_string());
    let value = serde_json::from_slice(bytes).map_err(malformed)?;
    let mut expected = Expect(bytes);
    write(&value, &mut expected).map_err(malformed)?;
    if !expected.0.is_empty() {
        return Err(Error::malformed(what, "it is not in canonical form"));
    }
    Ok(value)
}

/// Only to say that something is of another version, before it is refused for what version 1 does not know.
#[derive(Deserialize)]
struct AnyVersion {
    version: u64,
}

#[derive(Deserialize)]
struct AnyStatement {
    body: AnyVersion,
}

fn other_version(what: &str, version: Option<u64>) -> Result<()> {
    match version {
        Some(version) if version != u64::from(VERSION) => {
            Err(Error::Version { what: what.to_owned(), version })
        }
        _ => Ok(()),
    }
}

fn of_kind<D: Document>(what: &str, document: &D) -> Result<()> {
    other_version(what, Some(document.version().into()))?;
    if document.kind() != D::KIND {
        return Err(Error::malformed(what, format!("it is a {}, not a {}", document.kind(), D::KIND)));
    }
    Ok(())
}

/// Reads a document that is not signed.
///
/// # Errors
/// When it is of another version or kind, or not in canonical form; `what` says of which thing.
pub fn read<D: Document>(what: &str, bytes: &[u8]) -> Result<D> {
    let document = from_bytes(what, bytes).or_else(|error| {
        other_version(what, serde_json::from_slice::<AnyVersion>(bytes).ok().map(|any| any.version))?;
        Err(error)
    })?;
    of_kind(what, &document)?;
    Ok(document)
}

/// Reads a statement. Its signature is looked at when the key is given.
///
/// # Errors
/// As [`read`], and when that key has not signed it.
pub fn read_signed<D: Document>(what: &str, bytes: &[u8], key: Option<&PublicKey>) -> Result<Signed<D>> {
    let statement: Signed<D> = from_bytes(what, bytes).or_else(|error| {
        other_version(what, serde_json::from_slice::<AnyStatement>(bytes).ok().map(|any| any.body.version))?;
        Err(error)
    })?;
    of_kind(what, &statement.body)?;
    if let Some(key) = key {
        check(what, &statement, key)?;
    }
    Ok(statement)
}

/// Whether that key signed it.
///
/// # Errors
/// When it did not.
pub fn check<D: Document>(what: &str, statement: &Signed<D>, key: &PublicKey) -> Result<()> {
    let message = message::<D>(&to_bytes(what, &statement.body)?);
    if key.signed(&message, &statement.signature) {
        return Ok(());
    }
    Err(Error::Signature { what: what.to_owned(), key: key.to_string() })
}

/// Signs a body, and gives the statement's canonical bytes.
///
/// # Errors
/// When a number in it is 2^53 or more.
pub fn sign<D: Document>(what: &str, body: &D, key: &SigningKey) -> Result<Vec<u8>> {
    let body = to_bytes(what, body)?;
    let signature = key.sign(&message::<D>(&body));
    let mut bytes = Vec::with_capacity(body.len() + 160);
    bytes.extend_from_slice(b"{\"body\":");
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b",\"signature\":\"");
    bytes.extend_from_slice(signature.to_string().as_bytes());
    bytes.extend_from_slice(b"\"}");
    Ok(bytes)
}

/// What is signed.
fn message<D: Document>(body: &[u8]) -> Vec<u8> {
    [D::DOMAIN.as_bytes(), D::KIND.as_bytes(), &[0], body].concat()
}

/// Says of a type with the fields `kind` and `version` which [`Document`] it is: its domain, and the value of its kind,
/// whose `name` is a `const fn`.
#[macro_export]
macro_rules! document {
    ($type:ty, $domain:expr, $kind:expr) => {
        impl $crate::json::Document for $type {
            const DOMAIN: &'static str = $domain;
            const KIND: &'static str = $kind.name();

            fn kind(&self) -> &'static str {
                self.kind.name()
            }

            fn version(&self) -> u16 {
                self.version
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        count: u64,
        nothing: Option<u8>,
        text: String,
    }

    /// The letters of RFC 8785, section 3.2.2.2, and what JSON lets one write otherwise.
    #[test]
    fn one_spelling_is_read_and_no_second_one() {
        let text = "\u{20ac}$\u{f}\nA'B\"\\\\\"/\u{7f}\u{2028}\u{1f600}";
        let sample = Sample { count: FIRST_UNSAFE - 1, nothing: None, text: text.to_owned() };
        let bytes = to_bytes("x", &sample).unwrap();
        let known = "{\"count\":9007199254740991,\"nothing\":null,\"text\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\u{7f}\u{2028}\u{1f600}\"}";
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), known);
        assert_eq!(from_bytes::<Sample>("x", &bytes).unwrap(), sample);
        let refused = [
            r#"{"count":1,"nothing":null,"text":""} "#,
            r#"{"count": 1,"nothing":null,"text":""}"#,
            r#"{"nothing":null,"count":1,"text":""}"#,
            r#"{"count":1,"text":""}"#,
            r#"{"count":1,"nothing":null,"text":"","more":1}"#,
            r#"{"count":1,"count":1,"nothing":null,"text":""}"#,
            r#"{"count":1.0,"nothing":null,"text":""}"#,
            r#"{"count":1e0,"nothing":null,"text":""}"#,
            r#"{"count":01,"nothing":null,"text":""}"#,
            r#"{"count":-1,"nothing":null,"text":""}"#,
            r#"{"count":9007199254740992,"nothing":null,"text":""}"#,
            r#"{"count":1,"nothing":null,"text":"\u0041"}"#,
            r#"{"count":1,"nothing":null,"text":"\/"}"#,
            r#"{"count":1,"nothing":null,"text":"\u000F"}"#,
            r#"{"count":1,"nothing":null,"text":"\u000a"}"#,
            r#"[1,null,""]"#,
            "",
        ];
        for text in refused {
            assert!(from_bytes::<Sample>("x", text.as_bytes()).is_err(), "{text}");
        }
        assert!(from_bytes::<Sample>("x", br#"{"count":1,"nothing":null,"text":""}"#).is_ok());
        assert!(to_bytes("x", &Sample { count: FIRST_UNSAFE, ..sample }).is_err());
    }
}
