//! How Lucid's services are asked by other programs on the same machine: gRPC over Unix sockets. The `.proto` files
//! here are the one description of what may be asked.
//!
//! **Who may ask** is decided by the kernel's word on the caller, not by anything it says: root and the service's own
//! user always (`SO_PEERCRED`); others only when the service names a group, and then those whom the kernel lets
//! through to a socket with this group and mode 0660. Without a group the mode is 0600. A service that does not answer
//! everybody alike asks which of the two its caller is ([`Caller`]).

mod socket;

pub use socket::{Access, Caller, Error, Guard, bind, connect};

/// `lucid.accounts.v1`: who may use the device.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated from proto/accounts.proto, which is documented"
)]
pub mod accounts {
    tonic::include_proto!("lucid.accounts.v1");

    /// The most bytes of a message about accounts: the file of all of them.
    pub const MAX_MESSAGE: usize = (256 << 10) + 64;

    /// Messages that hold a secret say no more than what they are.
    macro_rules! secret {
        ($($message:ident),*) => {$(
            impl std::fmt::Debug for $message {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(stringify!($message))
                }
            }
        )*};
    }

    secret!(Person, AdmitRequest, SetPasswordRequest, Second, Token, File);
}

/// `lucid.rdp.v1`: the RDP host.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated from proto/rdp.proto, which is documented"
)]
pub mod rdp {
    tonic::include_proto!("lucid.rdp.v1");
}

/// `lucid.session.v1`: the recorder.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated from proto/session.proto, which is documented"
)]
pub mod session {
    tonic::include_proto!("lucid.session.v1");

    /// The most bytes of a picture in a `Key`, before it is compressed.
    pub const MAX_PICTURE: usize = 64 << 20;
    /// The most pixels of a picture in one direction.
    pub const MAX_SIDE: u32 = 8192;
    /// The most bytes of a `Frame`: a record of 16 MiB, less what stands before it there.
    pub const MAX_FRAME: usize = (16 << 20) - 64;
    /// The most bytes of a `Pointer` or a `Sound`.
    pub const MAX_BATCH: usize = 1 << 20;
    /// The most bytes of a message to the recorder: the largest picture with what is around it.
    pub const MAX_MESSAGE: usize = MAX_PICTURE + 4096;
}

/// `lucid.update.v1`: the update service.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated from proto/update.proto, which is documented"
)]
pub mod update {
    tonic::include_proto!("lucid.update.v1");
}

pub use tonic;
