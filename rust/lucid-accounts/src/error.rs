//! What can go wrong.

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{0}")]
    Statement(#[from] lucid_statement::Error),
    /// Something in it is out of its bounds.
    #[error("{0}")]
    Bounds(&'static str),
    /// There is no such account.
    #[error("nobody is called {0:?}")]
    Nobody(String),
    /// There is one of that name already.
    #[error("there is a {0:?} already")]
    Exists(String),
    /// A password cannot be kept.
    #[error("the password cannot be kept: {0}")]
    Password(&'static str),
    /// Argon2 refused what it should take.
    #[error("Argon2: {0}")]
    Argon2(String),
}

/// Why somebody is not let in. What of it was wrong is not said to him.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The name, the password, the code or the link is wrong, or the account is closed.
    #[error("that is not right")]
    Wrong,
    /// There were too many failures: not before so many milliseconds.
    #[error("too many failures: try again in {} s", .0.div_ceil(1000))]
    Wait(u64),
    /// A code of the second factor is missing.
    #[error("a code is needed as well")]
    CodeNeeded,
}
