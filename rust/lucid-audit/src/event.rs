use lucid_statement::{Hash, SessionId, Time, json};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    text::{Name, Word},
};

/// The version of the events.
pub const VERSION: u16 = 1;
/// The most bytes of a line: the longest texts of an event with every byte escaped as `\u0000`, with room.
pub const MAX_LINE: usize = 16 << 10;

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Actor {
    /// Whoever may decide on requests.
    Approver,
    /// The remote client.
    Client,
    /// The device itself.
    Device,
    /// Whoever may watch.
    Observer,
    /// The device's owner.
    Owner,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It happened.
    Allowed,
    /// It was not allowed to happen.
    Refused,
    /// It was allowed to happen, and did not.
    Failed,
}

/// Between which two something passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the desktop to the client.
    ToClient,
    /// From the client to the desktop.
    ToDesktop,
}

/// How many keys of each class were pressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// 0 to 9.
    pub digits: u32,
    /// F1 and the like.
    pub function: u32,
    /// Letters of any script.
    pub letters: u32,
    /// Shift, Control and the like.
    pub modifiers: u32,
    /// Arrows, Home, Page Down, Tab, Enter, Backspace and the like.
    pub navigation: u32,
    /// Every other key.
    pub other: u32,
    /// Punctuation, symbols and space.
    pub punctuation: u32,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        pub enum Data {
            $($(#[$doc])* $kind { $($(#[$field_doc])* $field: $type,)* },)*
        }

        /// Which kind of event it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];
        }

        impl Data {
            /// Its kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind { .. } => Kind::$kind,)* }
            }

            fn of_kind(kind: Kind, data: serde_json::Value) -> serde_json::Result<Self> {
                match kind {
                    $(Kind::$kind => {
                        #[derive(Deserialize)]
                        #[serde(deny_unknown_fields)]
                        struct Fields { $($(#[$field_doc])* $field: $type,)* }
                        let Fields { $($field,)* } = serde_json::from_value(data)?;
                        Ok(Self::$kind { $($field,)* })
                    })*
                }
            }
        }
    };
}

// The fields of each kind stand in the order of their names, which is the order of canonical JSON.
kinds! {
    /// A client connected.
    Connect {
        /// Its address and port.
        address: Word,
        /// How the connection is protected: `TLS 1.3, NLA`.
        security: Word,
    }
    /// Somebody said who he is.
    Authenticate {
        /// How: `password`, `reconnect cookie`.
        method: Word,
        /// As whom.
        user: Word,
    }
    /// The client accepted the policy.
    Consent {
        /// Hash of the receipt.
        receipt: Hash,
    }
    /// Somebody asked for a change of what may happen.
    Request {
        /// Hash of the signed request.
        request: Hash,
        /// Who.
        requester: Word,
        /// For how long.
        seconds: u32,
        /// What was asked for: `clipboard.host_to_remote=true`.
        what: Name,
        /// Why.
        why: Word,
    }
    /// An approver agreed to a request. It is in effect when as many agree as have to.
    Approve {
        /// So many agree now.
        agree: u32,
        /// Who.
        approver: Word,
        /// So many have to.
        needed: u32,
        /// Hash of the signed request.
        request: Hash,
    }
    /// An approver turned a request down.
    Deny {
        /// Who.
        approver: Word,
        /// Why.
        reason: Word,
        /// Hash of the signed request.
        request: Hash,
    }
    /// The time of a request is over: what was in effect is so no more, or nobody had decided.
    Lapse {
        /// Whether it was in effect.
        in_effect: bool,
        /// Hash of the signed request.
        request: Hash,
    }
    /// Keys and buttons of a period: how many, and never which, in what order, or when within it.
    Input {
        /// Presses of a pointer's buttons, and touches.
        clicks: u32,
        /// Presses of keys.
        keys: Keys,
        /// How long the period was that ends with this event; at least one.
        seconds: u32,
        /// Steps of a wheel.
        wheel: u32,
    }
    /// Another window has the focus. Nothing is said of one that is shielded, or where there is none.
    Focus {
        /// The application.
        app_id: Option<Word>,
        /// The window's title.
        title: Option<Name>,
    }
    /// Something was pasted, or was to be.
    Clipboard {
        /// How much it is.
        bytes: u64,
        /// Which way.
        direction: Direction,
        /// Hash of it; none where it never came.
        hash: Option<Hash>,
        /// Its type: `text/plain`, `image/png`.
        r#type: Word,
    }
    /// A file was transferred, or was to be.
    File {
        /// How large it is.
        bytes: u64,
        /// Which way.
        direction: Direction,
        /// Hash of what is in it; none where it never came.
        hash: Option<Hash>,
        /// Its name.
        name: Name,
    }
    /// The desktop has another size.
    Resize {
        /// In pixels, of all monitors together.
        height: u32,
        /// How many.
        monitors: u32,
        /// In pixels, of all monitors together.
        width: u32,
    }
    /// A rule was broken.
    Violation {
        /// In what way.
        detail: Name,
        /// Which.
        rule: Word,
    }
    /// Something may be missing here.
    Gap {
        /// From, in microseconds since the session's start.
        from_us: u64,
        /// Why.
        reason: Word,
        /// Up to.
        to_us: u64,
    }
    /// The client went, or its host.
    Disconnect {
        /// Why.
        reason: Word,
    }
    /// The session ended.
    End {
        /// Why.
        reason: Word,
    }
}

/// What a caller says of an event; the rest is the chain's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who did it.
    pub actor: Actor,
    /// How it ended.
    pub outcome: Outcome,
    /// What it was done to: `session`, `desktop`, `clipboard`; empty where the kind says it.
    pub resource: Word,
    /// What happened.
    pub data: Data,
}

impl Entry {
    /// What the device itself did or saw.
    #[must_use]
    pub fn of_device(data: Data) -> Self {
        Self { actor: Actor::Device, outcome: Outcome::Allowed, resource: Word::default(), data }
    }
}

/// One event. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parsed")]
pub struct Event {
    /// Who did it.
    pub actor: Actor,
    /// What happened: an object of the kind's fields.
    pub data: Data,
    /// The kind of `data`.
    pub kind: Kind,
    /// When, in microseconds since the session's start; never less than in the event before.
    pub mono_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Hash of the line before.
    pub previous: Option<Hash>,
    /// What it was done to.
    pub resource: Word,
    /// Its place in the chain, from 0. It begins again when the recorder had died.
    pub sequence: u64,
    /// The session.
    pub session: SessionId,
    /// 1.
    pub version: u16,
    /// When, in milliseconds since the Unix epoch. This clock may jump.
    pub wall_ms: u64,
}

/// An event whose data was not looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parsed {
    actor: Actor,
    data: serde_json::Value,
    kind: Kind,
    mono_us: u64,
    outcome: Outcome,
    previous: Option<Hash>,
    resource: Word,
    sequence: u64,
    session: SessionId,
    version: u16,
    wall_ms: u64,
}

impl TryFrom<Parsed> for Event {
    type Error = String;

    fn try_from(parsed: Parsed) -> Result<Self, String> {
        if parsed.version != VERSION {
            return Err(format!(
                "it is of version {}, and this program reads version 1 alone",
                parsed.version
            ));
        }
        let data = Data::of_kind(parsed.kind, parsed.data).map_err(|error| error.to_string())?;
        Ok(Self {
            actor: parsed.actor,
            data,
            kind: parsed.kind,
            mono_us: parsed.mono_us,
            outcome: parsed.outcome,
            previous: parsed.previous,
            resource: parsed.resource,
            sequence: parsed.sequence,
            session: parsed.session,
            version: parsed.version,
            wall_ms: parsed.wall_ms,
        })
    }
}

impl Event {
    /// The event with its place.
    pub(crate) fn new(
        entry: Entry,
        session: SessionId,
        sequence: u64,
        previous: Option<Hash>,
        time: Time,
    ) -> Self {
        Self {
            actor: entry.actor,
            kind: entry.data.kind(),
            data: entry.data,
            mono_us: time.mono_us,
            outcome: entry.outcome,
            previous,
            resource: entry.resource,
            sequence,
            session,
            version: VERSION,
            wall_ms: time.wall_ms,
        }
    }

    /// Its line, without a line feed.
    ///
    /// # Errors
    /// When a number in it is 2^53 or more.
    pub fn to_line(&self) -> Result<Vec<u8>> {
        json::to_bytes("the event", self).map_err(|error| Error::Event(error.to_string()))
    }

    /// Reads a line, which has no line feed.
    ///
    /// # Errors
    /// Says why it is no event in canonical form.
    pub fn from_line(line: &[u8]) -> Result<Self, String> {
        if line.len() > MAX_LINE {
            return Err(format!("it is longer than {MAX_LINE} bytes"));
        }
        json::from_bytes("the event", line).map_err(|error| match error {
            lucid_statement::Error::Malformed { why, .. } => why,
            other => other.to_string(),
        })
    }
}
