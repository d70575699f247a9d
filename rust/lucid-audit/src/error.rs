/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with an event or a chain of them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A line is not what the chain has there.
    #[error("line {line} of the audit is wrong: {why}; the lines before it hold")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// An event cannot be written.
    #[error("an audit event cannot be written: {0}")]
    Event(String),
    /// A text is longer than its place.
    #[error("a text of {length} bytes is too long for its place in an audit event, which has {most}: shorten it")]
    Text {
        /// Its length.
        length: usize,
        /// The longest that there may be.
        most: usize,
    },
}
