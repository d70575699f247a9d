use std::io;
use std::path::PathBuf;

/// What may go wrong in the RDP host. No message contains what a client sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The account file cannot be read.
    #[error(
        "reading the RDP account from {path}: {source}; without an account nobody may connect, so lucid-rdp does not start"
    )]
    AccountRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The account file is not as it must be.
    #[error("the RDP account in {path} is not usable: {what}; run lucid-provision again")]
    AccountFormat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file of the state or run directory.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The key and certificate on disk do not make a TLS server.
    #[error(
        "the TLS key and certificate in {dir} are not usable: {what}; remove tls-key.pem and tls-cert.pem to have new ones made (clients will see a new fingerprint)"
    )]
    Tls {
        /// Their directory.
        dir: PathBuf,
        /// What is wrong with them.
        what: String,
    },
    /// The port cannot be had.
    #[error("listening on {address}: {source}; is another RDP server running there?")]
    Listen {
        /// Address and port.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The control socket cannot be had.
    #[error("{0}")]
    Control(#[from] lucid_ipc::Error),
    /// A client's handshake did not come to its end.
    #[error("handshake: {0}")]
    Handshake(#[from] Refused),
    /// The client broke the protocol in a session.
    #[error("the client sent something that is not RDP ({0}); the session is ended")]
    Protocol(&'static str),
    /// An answer could not be encoded.
    #[error("encoding {0} for the client failed; the session is ended")]
    Encode(&'static str),
    /// The connection broke.
    #[error("the connection to the client: {0}")]
    Connection(io::Error),
    /// The pipe with the desktop's sound is not what it must be.
    #[error("taking the desktop's sound: {0}")]
    Sound(io::Error),
    /// The kernel's end of the folder with the client's drives cannot be used.
    #[error("taking the folder for the client's drives: {0}")]
    Drives(io::Error),
    /// The desktop could not be had.
    #[error("opening a desktop: {0}")]
    Desktop(#[from] lucid_desktop::Error),
    /// The desktop could not hide what the policy shields.
    #[error("hiding what the policy shields: {0}")]
    Shield(lucid_desktop::Error),
    /// A running desktop could not be brought to a client's size.
    #[error(
        "the desktop did not take the size {width}x{height} within {seconds} s; it keeps running, the client was let go"
    )]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The time it had.
        seconds: u64,
    },
    /// A client that was told another size did not go on.
    #[error(
        "the client was told the desktop's new size and was not ready for it within {seconds} s; it was let go"
    )]
    Inactive {
        /// The time it had.
        seconds: u64,
    },
    /// The encoder failed.
    #[error("encoding the picture: {0}")]
    Video(#[from] lucid_video::Error),
    /// The video encoder that was asked for cannot be used.
    #[error("choosing a video encoder: {0}; name another one, or leave the choice to auto (--video-encoder)")]
    Encoder(lucid_video::Error),
    /// The recorder refuses, or has gone.
    #[error("recording the session: {}; nothing is shown that is not recorded", .0.message())]
    Recorder(#[from] lucid_ipc::tonic::Status),
    /// The recorder has not come back.
    #[error("the session is not recorded any more ({0}); the client was let go, the desktop keeps running")]
    NotRecorded(String),
    /// The session controller has ended the session.
    #[error("the session is over: {0}")]
    Over(String),
    /// A worker thread died.
    #[error("internal: {0}")]
    Internal(&'static str),
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It did not finish in time.
    #[error("no progress within {0} s")]
    TimedOut(u64),
    /// Too many clients wait; the one that waited longest in silence goes.
    #[error("too many connections wait for their handshake, this one waited longest")]
    Crowded,
    /// It closed, or the connection broke.
    #[error("the client went away during {0}")]
    Gone(&'static str),
    /// What it sent was malformed.
    #[error("malformed data during {0}")]
    Malformed(&'static str),
    /// It offers neither TLS nor NLA.
    #[error("the client offers neither TLS nor NLA")]
    Security,
    /// User or password are wrong.
    #[error("wrong user name or password ({0})")]
    Credentials(&'static str),
    /// The session controller does not say who may connect.
    #[error(
        "the session controller (lucid-sessiond) was asked who may connect: {0}; nobody is let in without its word, \
         `systemctl status lucid-sessiond` says how it is"
    )]
    Controller(String),
    /// It tried to come in with a reconnect cookie that this host does not know (any more), and without the
    /// password.
    #[error("the client presented a reconnect cookie that is not valid (any more), and no right password")]
    ReconnectCookie,
    /// It lacks something without which nothing can be shown.
    #[error("the client lacks {0}")]
    Capability(&'static str),
}
