/// A record is not what the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a record of the {stream} stream is malformed: {why}; `lucidctl recording verify` says whether it was changed"
)]
pub struct Error {
    /// Which stream.
    pub stream: &'static str,
    /// What is wrong.
    pub why: &'static str,
}
