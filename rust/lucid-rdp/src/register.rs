//! Where it is looked up who may connect: the session controller (lucid-sessiond), which keeps the accounts and counts
//! failures, or without one the account file.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lucid_ipc::accounts::admission_client::AdmissionClient;
use lucid_ipc::accounts::{AdmitRequest, KnownRequest, ReportRequest};
use lucid_ipc::tonic::transport::Channel;
use lucid_ipc::tonic::{Code, Status};
use tokio::sync::{Mutex, OwnedMutexGuard};
use zeroize::Zeroizing;

use crate::account::Accounts;
use crate::error::Refused;
use crate::guard;

/// How long the controller has for an answer.
const ANSWERS: Duration = Duration::from_secs(5);

/// Who may connect.
pub(crate) enum Register {
    /// Those of the account file.
    File(Arc<Accounts>),
    /// Those whom the controller knows.
    Controller(Controller),
}

/// The session controller.
#[derive(Clone)]
pub(crate) struct Controller {
    socket: Arc<Path>,
    /// Held while somebody is looked up, until it counts that he failed.
    turn: Arc<Mutex<()>>,
}

/// Who may connect, at a client's turn to prove that he is one of them by NLA. With a controller, only one has his turn at a
/// time, so that a failure counts before the next one is looked at.
pub(crate) struct Turn {
    pub(crate) accounts: Arc<Accounts>,
    held: Option<(Controller, OwnedMutexGuard<()>)>,
}

fn silent(why: impl Display) -> Refused {
    Refused::Controller(why.to_string())
}

/// What the controller answers in time.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<Result<T, Status>, Refused> {
    let answer = tokio::time::timeout(ANSWERS, answer).await;
    answer.map_err(|_| silent(format_args!("no answer within {} s", ANSWERS.as_secs())))
}

impl Controller {
    async fn connect(&self) -> Result<AdmissionClient<Channel>, Status> {
        let channel = lucid_ipc::connect(&self.socket).await;
        channel.map(AdmissionClient::new).map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn known(&self) -> Result<Accounts, Refused> {
        let known = in_time(async { self.connect().await?.known(KnownRequest {}).await }).await?;
        let people = known.map_err(|status| silent(status.message()))?.into_inner().people;
        let people = people.into_iter().map(|person| (person.name, Zeroizing::new(person.nt_hash)));
        Accounts::of(people).map_err(silent)
    }

    async fn failed(&self, name: String, peer: SocketAddr) {
        let request = ReportRequest { name, client: peer.to_string() };
        let told = match in_time(async { self.connect().await?.report(request).await }).await {
            Ok(told) => told.map_err(|status| silent(status.message())),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::error!(%peer, "a failure does not count: {error}");
        }
    }
}

impl Register {
    /// With a controller, whose socket this is.
    pub(crate) fn controller(socket: PathBuf) -> Register {
        Register::Controller(Controller { socket: socket.into(), turn: Arc::default() })
    }

    /// Has somebody's turn to be looked up.
    pub(crate) async fn turn(&self) -> Result<Turn, Refused> {
        match self {
            Register::File(accounts) => Ok(Turn { accounts: Arc::clone(accounts), held: None }),
            Register::Controller(controller) => {
                let turn = in_time(async { Ok(Arc::clone(&controller.turn).lock_owned().await) }).await?;
                let turn = turn.map_err(|status| silent(status.message()))?;
                let accounts = Arc::new(controller.known().await?);
                Ok(Turn { accounts, held: Some((controller.clone(), turn)) })
            }
        }
    }

    /// The account's name, if what somebody typed lets him in. None says nothing about what of it was wrong.
    pub(crate) async fn admit(
        &self,
        user: &str,
        typed: &str,
        peer: SocketAddr,
    ) -> Result<Option<String>, Refused> {
        match self {
            Register::File(accounts) => {
                guard::claimed(accounts.name(user));
                Ok(accounts.admits(user, typed).map(str::to_owned))
            }
            Register::Controller(_) if typed.is_empty() => Ok(None),
            Register::Controller(controller) => {
                let typed = typed.as_bytes().to_vec();
                let request = AdmitRequest { name: user.to_owned(), typed, client: peer.to_string() };
                match in_time(async { controller.connect().await?.admit(request).await }).await? {
                    Ok(admitted) => Ok(Some(admitted.into_inner().name)),
                    Err(status) if status.code() == Code::PermissionDenied => {
                        guard::claimed(controller.known().await?.name(user));
                        Ok(None)
                    }
                    Err(status) => Err(silent(status.message())),
                }
            }
        }
    }

    /// Whether somebody may still connect who had proved before who he is.
    pub(crate) async fn has(&self, user: &str) -> Result<bool, Refused> {
        match self {
            Register::File(accounts) => Ok(accounts.name(user).is_some()),
            Register::Controller(controller) => Ok(controller.known().await?.name(user).is_some()),
        }
    }
}

impl Turn {
    /// Whoever had this turn has failed, to prove that he is this one where there is one. The next turn comes when that counts;
    /// he himself waits for nothing, as it takes no time for those who do not exist.
    pub(crate) fn failed(self, user: Option<String>, peer: SocketAddr) {
        if let (Some((controller, turn)), Some(user)) = (self.held, user) {
            tokio::spawn(async move {
                controller.failed(user, peer).await;
                drop(turn);
            });
        }
    }
}
