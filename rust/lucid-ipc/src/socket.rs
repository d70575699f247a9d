//! The socket's two ends.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Interceptor;
use tonic::transport::server::UdsConnectInfo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// What may go wrong with a service's socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be made.
    #[error("making the control socket {path}: {source}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody listens.
    #[error("{path} is not there or nobody listens on it: the service is not running")]
    NotRunning {
        /// Where.
        path: PathBuf,
    },
    /// The caller may not.
    #[error(
        "{path} may not be used by this user: ask as root, or as a member of the group that the service names"
    )]
    Denied {
        /// Where.
        path: PathBuf,
    },
    /// Something else.
    #[error("connecting to {path}: {reason}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Who may ask beside root and the service's own user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Owner,
    /// The members of this group.
    Group(u32),
}

/// Who asks, by the kernel's word. Each request that a [`Guard`] let through has it among its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Root, or the service's own user.
    Owner,
    /// Somebody else, who is of the socket's group.
    Member,
}

impl Caller {
    /// Whether those of the socket's group have to be refused here.
    ///
    /// # Errors
    /// What a caller is told who is not the owner, or of whom no guard has said who he is.
    pub fn must_own(caller: Option<&Caller>) -> Result<(), Status> {
        match caller {
            Some(Caller::Owner) => Ok(()),
            _ => Err(Status::permission_denied("only root and the service's own user may ask that")),
        }
    }
}

/// Looks at each call's sender.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    own: u32,
    access: Access,
}

impl Guard {
    fn knows(self, caller: u32) -> Option<Caller> {
        match self.access {
            _ if caller == 0 || caller == self.own => Some(Caller::Owner),
            // The kernel has looked at the socket's mode already.
            Access::Group(_) => Some(Caller::Member),
            Access::Owner => None,
        }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let caller = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        match caller.and_then(|caller| self.knows(caller.uid())) {
            Some(caller) => {
                request.extensions_mut().insert(caller);
                Ok(request)
            }
            None => Err(Status::permission_denied("only root, the service's own user and its group may ask")),
        }
    }
}

/// Makes the socket, in place of one that a former run has left, and the guard for the services behind it.
///
/// # Errors
/// When the folder is missing or not writable, or the group cannot be given.
pub fn bind(path: &Path, access: Access) -> Result<(UnixListenerStream, Guard), Error> {
    let failed = |source| Error::Bind { path: path.to_owned(), source };
    // Under its own name only when its mode is right.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed)?;
    let mode = match access {
        Access::Owner => 0o600,
        Access::Group(group) => {
            // A service whose own group it is need not be allowed to give files to others.
            if std::fs::metadata(&new).map_err(failed)?.gid() != group {
                rustix::fs::chown(&new, None::<Uid>, Some(Gid::from_raw(group)))
                    .map_err(|e| failed(e.into()))?;
            }
            0o660
        }
    };
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    Ok((UnixListenerStream::new(listener), Guard { own, access }))
}

/// Connects to a service.
///
/// # Errors
/// When it is not running, or this user may not.
pub async fn connect(path: &Path) -> Result<Channel, Error> {
    // First without gRPC, whose error would not tell why.
    if let Err(e) = UnixStream::connect(path).await {
        let path = path.to_owned();
        return Err(match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning { path },
            io::ErrorKind::PermissionDenied => Error::Denied { path },
            _ => Error::Connect { path, reason: e.to_string() },
        });
    }
    let target = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(hyper_util::rt::TokioIo::new) }
    });
    // The address stands in a header and nowhere else.
    Endpoint::from_static("http://lucid")
        .connect_with_connector(connector)
        .await
        .map_err(|e| Error::Connect { path: path.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_owner_may_ask_and_others_only_with_a_group() {
        let own = Guard { own: 900, access: Access::Owner };
        assert_eq!([0, 900].map(|caller| own.knows(caller)), [Some(Caller::Owner); 2]);
        assert_eq!([901, 65534].map(|caller| own.knows(caller)), [None; 2]);
        let group = Guard { own: 900, access: Access::Group(7) };
        assert_eq!([0, 900].map(|caller| group.knows(caller)), [Some(Caller::Owner); 2]);
        assert_eq!(group.knows(901), Some(Caller::Member));
        assert!(Caller::must_own(Some(&Caller::Owner)).is_ok());
        for other in [Some(&Caller::Member), None] {
            assert_eq!(Caller::must_own(other).unwrap_err().code(), tonic::Code::PermissionDenied);
        }
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        assert!(matches!(connect(&path).await, Err(Error::NotRunning { .. })));
        for _ in 0..2 {
            let (listener, _) = bind(&path, Access::Owner).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            drop(listener);
            assert!(matches!(connect(&path).await, Err(Error::NotRunning { .. })));
        }
    }

    #[tokio::test]
    async fn the_socket_of_a_group_is_open_to_it_alone_also_where_it_is_the_services_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let own = rustix::process::getegid().as_raw();
        let (_listener, _) = bind(&path, Access::Group(own)).unwrap();
        let data = std::fs::metadata(&path).unwrap();
        assert_eq!((data.permissions().mode() & 0o777, data.gid()), (0o660, own));
    }
}
