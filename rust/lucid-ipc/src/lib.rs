//! How Lucid's services are asked by other programs on the same machine: gRPC over Unix sockets. The `.proto` files
//! here are the one description of what may be asked.
//!
//! **Who may ask** is decided by the kernel's word on the caller, not by anything it says: root and the service's own
//! user always (`SO_PEERCRED`); others only when the service names a group, and then those whom the kernel lets
//! through to a socket with this group and mode 0660. Without a group the mode is 0600.

mod socket;

pub use socket::{Access, Error, Guard, bind, connect};

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

/// `lucid.session.v1`: recordings.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, reason = "generated from proto/session.proto, which is documented")]
pub mod session {
    tonic::include_proto!("lucid.session.v1");
}

pub use tonic;
