//! What can go wrong.

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of the table is missing, unknown, or of another type.
    #[error("the policy cannot be read at `{key}`: {why}")]
    Malformed {
        /// Its path, such as `clipboard.max_bytes`.
        key: String,
        /// In words.
        why: String,
    },
    /// A value is out of its range.
    #[error("`{key}` is {is}; {may}")]
    Range {
        /// Its path, such as `clipboard.max_bytes`.
        key: String,
        /// What it is.
        is: String,
        /// What it may be, as a sentence.
        may: String,
    },
    /// It is larger than any policy.
    #[error("the policy has {bytes} bytes; it may have {most} at most")]
    Large {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        most: usize,
    },
    /// It is of a version that this program does not know.
    #[error("the policy is of version {0}, and this program knows version 1 alone: take a newer one")]
    Version(u64),
    /// Cedar policies that no table compiles to.
    #[error("these Cedar policies are none that a policy table compiles to: {0}")]
    Foreign(String),
    /// What is signed about a policy cannot be read, or is not that key's.
    #[error("{0}")]
    Statement(#[from] lucid_statement::Error),
    /// A snapshot that is none.
    #[error("the policy snapshot is refused: {0}")]
    Snapshot(&'static str),
    /// The caller asked for what cannot be.
    #[error("{0}")]
    Argument(&'static str),
    /// Cedar refused something that it should take.
    #[error("the policy cannot be given to Cedar: {0}; this is a fault of this program")]
    Cedar(String),
}

impl Error {
    /// What people read of it has nothing in it that a terminal would obey.
    pub(crate) fn malformed(key: &str, why: &str) -> Self {
        let plain = |text: &str| {
            let escaped =
                |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
            text.chars().map(escaped).collect()
        };
        Self::Malformed { key: plain(key), why: plain(why) }
    }

    pub(crate) fn cedar(error: impl ToString) -> Self {
        Self::Cedar(error.to_string())
    }
}
