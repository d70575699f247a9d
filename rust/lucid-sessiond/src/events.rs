//! Events as the RDP host tells them, made those of the audit. Texts that are too long are shortened, so that no title
//! of a window ends a session; numbers and hashes are as they should be, or the stream ends.

use bytes::Bytes;
use lucid_audit::{Actor, Data, Direction, Entry, Keys, Name, Outcome, Word};
use lucid_ipc::session as wire;
use lucid_recording::{Hash, Hex};

/// JSON keeps integers up to here.
const MOST: u64 = (1 << 53) - 1;

pub(crate) fn from_wire(event: wire::Event) -> Result<Entry, String> {
    let actor = match event.actor() {
        wire::Actor::Client => Actor::Client,
        wire::Actor::Device => Actor::Device,
        wire::Actor::Observer => Actor::Observer,
        wire::Actor::Unspecified => return Err("an event without an actor".to_owned()),
    };
    let outcome = match event.outcome() {
        wire::Outcome::Allowed => Outcome::Allowed,
        wire::Outcome::Refused => Outcome::Refused,
        wire::Outcome::Failed => Outcome::Failed,
        wire::Outcome::Unspecified => return Err("an event without an outcome".to_owned()),
    };
    let resource = Word::shortened(&event.resource);
    let data = data(event.data.ok_or("an event without data")?)?;
    Ok(Entry { actor, outcome, resource, data })
}

fn data(data: wire::event::Data) -> Result<Data, String> {
    use wire::event::Data as Wire;
    Ok(match data {
        Wire::Connect(event) => Data::Connect {
            address: Word::shortened(&event.address),
            security: Word::shortened(&event.security),
        },
        Wire::Authenticate(event) => {
            Data::Authenticate { method: Word::shortened(&event.method), user: Word::shortened(&event.user) }
        }
        Wire::Input(event) => {
            if event.seconds == 0 {
                return Err("input is counted over one second at least".to_owned());
            }
            Data::Input {
                clicks: event.clicks,
                keys: Keys {
                    digits: event.digits,
                    function: event.function,
                    letters: event.letters,
                    modifiers: event.modifiers,
                    navigation: event.navigation,
                    other: event.other,
                    punctuation: event.punctuation,
                },
                seconds: event.seconds,
                wheel: event.wheel,
            }
        }
        Wire::Focus(event) => Data::Focus {
            app_id: event.app_id.as_deref().map(Word::shortened),
            title: event.title.as_deref().map(Name::shortened),
        },
        Wire::Clipboard(event) => Data::Clipboard {
            bytes: size(event.bytes)?,
            direction: direction(event.direction())?,
            hash: hash(&event.hash)?,
            r#type: Word::shortened(&event.r#type),
        },
        Wire::File(event) => Data::File {
            bytes: size(event.bytes)?,
            direction: direction(event.direction())?,
            hash: hash(&event.hash)?,
            name: Name::shortened(&event.name),
        },
        Wire::Resize(event) => {
            Data::Resize { height: event.height, monitors: event.monitors, width: event.width }
        }
        Wire::Violation(event) => {
            Data::Violation { detail: Name::shortened(&event.detail), rule: Word::shortened(&event.rule) }
        }
        Wire::Disconnect(event) => Data::Disconnect { reason: Word::shortened(&event.reason) },
    })
}

fn size(bytes: u64) -> Result<u64, String> {
    if bytes > MOST { Err(format!("a size of {bytes} bytes")) } else { Ok(bytes) }
}

fn direction(direction: wire::Direction) -> Result<Direction, String> {
    match direction {
        wire::Direction::ToDesktop => Ok(Direction::ToDesktop),
        wire::Direction::ToClient => Ok(Direction::ToClient),
        wire::Direction::Unspecified => Err("a transfer without a direction".to_owned()),
    }
}

fn hash(hash: &Bytes) -> Result<Option<Hash>, String> {
    if hash.is_empty() {
        return Ok(None);
    }
    let bytes = <[u8; 32]>::try_from(&**hash).map_err(|_| format!("a hash of {} bytes", hash.len()))?;
    Ok(Some(Hex(bytes)))
}
