//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};

/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What was being done, to what, why it failed and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done, as in "reading".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file has more bytes than any good one has.
    #[error("{} is larger than {most} bytes, which no good file of its kind is", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        most: u64,
    },
    /// A file does not say what its format allows.
    #[error("{} is not valid: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A key's file is there already.
    #[error("{} is already there, and no key is ever overwritten: name another file", .0.display())]
    KeyExists(PathBuf),
    /// A folder of releases is there already.
    #[error("{} is already there: a folder of releases is made once; name another one", .0.display())]
    FolderExists(PathBuf),
    /// A folder is none of releases.
    #[error(
        "{} is no folder of releases, as it has no settings.json: go into one or name it, with --dir where the command has \
         that option",
        .0.display()
    )]
    NoFolder(PathBuf),
    /// A passphrase that cannot be one.
    #[error("the passphrase: {0}")]
    Passphrase(&'static str),
    /// A key file does not open.
    #[error("{} does not open: the passphrase is another one, or the file was changed", .0.display())]
    NotOpened(PathBuf),
    /// Cryptography refused what it should take.
    #[error("{doing}: {why}")]
    Crypto {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        why: String,
    },
    /// A public key or the id of one cannot be read.
    #[error("{0:?} is not a key: that is 64 hexadecimal digits, as `lucid-release key show` prints them")]
    NoKey(String),
    /// Nobody can be asked.
    #[error("nobody can be asked for a passphrase here, as this is no terminal: name --passphrase-file")]
    NoTerminal,
    /// Nobody can be asked.
    #[error("nobody can be asked here, as this is no terminal: say --yes to go on without")]
    NobodyAsked,
    /// A passphrase was not repeated.
    #[error("the two are not the same; nothing was made")]
    NotTheSame,
    /// Whoever was asked said no.
    #[error("not signed, as it was not agreed to")]
    Declined,
    /// The partition table of an image cannot be read.
    #[error(
        "the partition table of {}: {why}; is it an image that scripts/build-image made?", path.display()
    )]
    Table {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A part of an image is not what a release can hold.
    #[error("{partition} of {}: {why}", path.display())]
    Part {
        /// The image.
        path: PathBuf,
        /// The partition.
        partition: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An image is not what is said of it.
    #[error("{} cannot be this release: {why}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// What a release is, is not kept to.
    #[error("{what}: {source}")]
    Release {
        /// Which release or file.
        what: String,
        /// Why.
        source: lucid_release_format::Error,
    },
    /// A release's files are not what its metadata says.
    #[error("the files of {what}: {why}; make the release again with `lucid-release add`")]
    Archive {
        /// Which release or file.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// Metadata breaks a rule that every device holds it to, or that keeps people safe.
    #[error("{what}: {why}")]
    Rule {
        /// Which metadata.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no root.
    #[error("{} holds no root (such as 1.root.json), without which no signature can be judged", .0.display())]
    NoRoot(PathBuf),
    /// A root that comes before others is not there.
    #[error(
        "{} is not there, and is needed to check {needed_for}: put it back, from the web folder's `metadata` for instance; \
         roots are never removed",
        missing.display()
    )]
    RootMissing {
        /// The file of the root.
        missing: PathBuf,
        /// What it is needed for.
        needed_for: String,
    },
    /// Enough signed for an earlier root, and too few for the one that holds.
    #[error(
        "{what} has {have} of the {threshold} signatures that root {root} asks for. It had enough for root {before}, and the \
         root has changed since: `lucid-release renew` first, let {threshold} sign that, `lucid-release merge`, and publish it"
    )]
    RootChanged {
        /// Which metadata.
        what: String,
        /// The root that asks.
        root: u64,
        /// Good signatures.
        have: u64,
        /// How many are needed.
        threshold: u64,
        /// The earlier root.
        before: u64,
    },
    /// Too few have signed.
    #[error(
        "{what} has {have} of the {threshold} signatures that root {root} asks for: let others sign it, then \
         `lucid-release merge`"
    )]
    TooFew {
        /// Which metadata.
        what: String,
        /// The root that asks.
        root: u64,
        /// Good signatures.
        have: u64,
        /// How many are needed.
        threshold: u64,
    },
    /// This key signs nothing of that kind.
    #[error("the key {key} may not sign {what}: its id is not among the {role} keys of the root")]
    NotYours {
        /// Its public half.
        key: String,
        /// Which metadata.
        what: String,
        /// Whose keys may.
        role: &'static str,
    },
    /// Two files with signatures are about different things.
    #[error(
        "{} has another content than {}: signatures of one are none of the other; ask who sent it which draft \
         he signed",
        other.display(), path.display()
    )]
    OtherContent {
        /// The file that signatures are gathered in.
        path: PathBuf,
        /// The other file.
        other: PathBuf,
    },
    /// A signature is none.
    #[error("{}: the signature of key {key} {why}; nothing of this file was taken", path.display())]
    Forged {
        /// The file.
        path: PathBuf,
        /// The id of the key.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No such release.
    #[error("there is no release {0}; `lucid-release inspect` lists those that there are")]
    NoSuchRelease(String),
    /// There is such a release.
    #[error("{0} is there already: a version is released once; withdraw it, or name another version")]
    ReleaseExists(String),
    /// Nothing would change.
    #[error("nothing changes: {0}")]
    AsItIs(String),
    /// What is published and what is in the folder do not follow each other.
    #[error(
        "{what} has version {version}, but {expected} is next after what was published from here: {next}"
    )]
    OutOfStep {
        /// Which metadata.
        what: String,
        /// Its version.
        version: u64,
        /// The one that it should have.
        expected: u64,
        /// What to do.
        next: &'static str,
    },
    /// The web folder is ahead of this one.
    #[error(
        "{} was published from another folder (its timestamp is {theirs}, here it is {ours}): publish from \
         that one, or copy its folder `published` here",
        web.display()
    )]
    Ahead {
        /// The web folder.
        web: PathBuf,
        /// What it has.
        theirs: u64,
        /// What was last published from here; 0: nothing.
        ours: u64,
    },
    /// A file in the web folder has another content.
    #[error(
        "{} is there with another content, and is never replaced: it was published from another folder",
        .0.display()
    )]
    Taken(PathBuf),
    /// Metadata has expired.
    #[error("{what} expired at {at}: {next}")]
    Expired {
        /// Which metadata.
        what: String,
        /// When.
        at: String,
        /// What to do.
        next: &'static str,
    },
    /// A client refuses what would be published.
    #[error("a device would refuse it, when {doing}: {source}")]
    Client {
        /// What the client was doing.
        doing: &'static str,
        /// Why it refused.
        source: Box<tough::error::Error>,
    },
    /// Metadata could not be put into its canonical form.
    #[error("the canonical form of {what}: {source}")]
    Canonical {
        /// Which metadata.
        what: &'static str,
        /// Why.
        source: Box<tough::schema::Error>,
    },
    /// JSON could not be written.
    #[error("writing {what} as JSON: {source}")]
    Json {
        /// What.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The arguments do not fit together.
    #[error("{0}")]
    Arguments(String),
}

impl Error {
    pub(crate) fn malformed(path: &Path, why: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), why: why.into() }
    }

    pub(crate) fn rule(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Rule { what: what.into(), why: why.into() }
    }

    /// Whether the program was called wrongly, which has an exit status of its own.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Arguments(_) | Self::NoTerminal | Self::NobodyAsked | Self::NoKey(_))
    }
}

/// Shortens `.map_err` for everything that touches a path.
pub(crate) trait At<T> {
    /// Says what was being done to which path.
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::File { doing, path: path.to_owned(), source })
    }
}
