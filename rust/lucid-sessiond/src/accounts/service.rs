//! What may be asked about accounts.

use std::{sync::Arc, time::Duration};

use lucid_accounts::{
    Account, Accounts as Everybody, Error as Why, MAX_BYTES, Password, Proof, Refused, Role, Second,
};
use lucid_ipc::{
    accounts::{
        Account as Listed, AddRequest, AdmitRequest, Admitted, Done, ExportRequest, File, KeyRequest,
        KnownRequest, KnownResponse, LinkRequest, ListRequest, ListResponse, OfRequest, Person,
        ReportRequest, Role as WireRole, Second as WireSecond, SetClosedRequest, SetPasswordRequest,
        SetRolesRequest, SetSecondRequest, Token, accounts_server, admission_server,
    },
    tonic::{Request, Response, Status, async_trait},
};
use lucid_recording::{PublicKey, system_random};
use zeroize::Zeroizing;

use super::Accounts;
use crate::error::{Error, Result as Answered};

/// The most bytes of what somebody types: a password of 128 characters, and a code.
const MOST_TYPED: usize = 1024;
/// The most of a client's address that is logged.
const MOST_ADDRESS: usize = 64;
/// How long a link may be good.
const LONGEST_LINK: Duration = Duration::from_secs(30 * 24 * 3600);

/// What answers the calls.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Accounts>);

type Answer<T> = Result<Response<T>, Status>;

/// What a caller is told. Nothing here says what is secret.
fn refusal(error: &Error) -> Status {
    match error {
        Error::Account(Why::Nobody(_)) => Status::not_found(error.to_string()),
        Error::Account(Why::Exists(_)) => Status::already_exists(error.to_string()),
        Error::Account(Why::Argon2(_)) => Status::internal(error.to_string()),
        Error::Account(_) => Status::invalid_argument(error.to_string()),
        Error::LastOwner => Status::failed_precondition(error.to_string()),
        Error::NotAdmitted(_) => Status::permission_denied(error.to_string()),
        _ => Status::internal(format!("{error}; no account was changed")),
    }
}

fn text(bytes: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(bytes).map_err(|_| Status::invalid_argument("a password is UTF-8"))
}

fn roles(wire: &[i32]) -> Result<Vec<Role>, Status> {
    wire.iter()
        .map(|role| match WireRole::try_from(*role) {
            Ok(WireRole::Approver) => Ok(Role::Approver),
            Ok(WireRole::Observer) => Ok(Role::Observer),
            Ok(WireRole::Operator) => Ok(Role::Operator),
            Ok(WireRole::Owner) => Ok(Role::Owner),
            Ok(WireRole::Unspecified) | Err(_) => Err(Status::invalid_argument("there is no such role")),
        })
        .collect()
}

fn to_wire(role: Role) -> i32 {
    match role {
        Role::Approver => WireRole::Approver,
        Role::Observer => WireRole::Observer,
        Role::Operator => WireRole::Operator,
        Role::Owner => WireRole::Owner,
    }
    .into()
}

fn listed(account: &Account, now_ms: u64) -> Listed {
    Listed {
        name: account.name.clone(),
        roles: account.roles.iter().map(|role| to_wire(*role)).collect(),
        closed: account.closed,
        has_password: account.has_password(),
        has_second: account.has_second(),
        // At most eight.
        links: account.links(now_ms) as u32,
        keys: account.keys.iter().map(ToString::to_string).collect(),
        failures: account.failures(),
        // At most a quarter of an hour.
        waits_seconds: account.waits(now_ms).div_ceil(1000) as u32,
    }
}

/// An address as it is logged: whatever was sent.
fn address(client: &str) -> String {
    client.chars().take(MOST_ADDRESS).flat_map(char::escape_debug).collect()
}

impl Service {
    /// Changes something that people ask for, unless it leaves the device without the owner that it had.
    async fn edit<T: Send + 'static>(
        &self,
        what: &'static str,
        name: String,
        edit: impl FnOnce(&mut Everybody, &str, u64) -> Result<T, Why> + Send + 'static,
    ) -> Result<T, Status> {
        let whose = name.clone();
        let edited = self.0.edit(move |accounts, now| {
            let had_owner = accounts.has_owner();
            let answer = edit(accounts, &name, now)?;
            // Also what is out of its bounds only together with others.
            accounts.to_bytes().map(Zeroizing::new)?;
            if had_owner && !accounts.has_owner() {
                return Err(Error::LastOwner);
            }
            Ok(answer)
        });
        let answer = edited.await.map_err(|error| refusal(&error))?;
        tracing::info!(account = whose, "accounts: {what}");
        Ok(answer)
    }

    /// The same for somebody who is there.
    async fn edit_one<T: Send + 'static>(
        &self,
        what: &'static str,
        name: String,
        edit: impl FnOnce(&mut Account, u64) -> Result<T, Why> + Send + 'static,
    ) -> Result<T, Status> {
        let edit = |accounts: &mut Everybody, name: &str, now| {
            edit(accounts.get_mut(name).ok_or_else(|| Why::Nobody(name.to_owned()))?, now)
        };
        self.edit(what, name, edit).await
    }

    /// Lets somebody in who proves by what he typed who he is.
    async fn prove(&self, name: String, typed: Zeroizing<Vec<u8>>) -> Answered<String> {
        let attempt = move |accounts: &mut Everybody, now| {
            let typed = std::str::from_utf8(&typed).unwrap_or_default();
            let account = accounts.admit(&name, Proof::Typed(typed), now);
            let account = account.map_err(|refused| Error::NotAdmitted(refused.to_string()))?;
            if account.may_connect() {
                Ok(account.name.clone())
            } else {
                Err(Error::NotAdmitted(format!("{:?} may not connect: he has no role for it", account.name)))
            }
        };
        self.0.attempt(attempt).await
    }
}

#[async_trait]
impl admission_server::Admission for Service {
    async fn known(&self, _: Request<KnownRequest>) -> Answer<KnownResponse> {
        let now = (self.0.wall)();
        let accounts = self.0.now();
        let people = accounts.all().iter().filter(|account| account.may_connect()).map(|account| Person {
            name: account.name.clone(),
            nt_hash: account.nt_hash(now).map(|hash| hash.to_vec()).unwrap_or_default(),
        });
        Ok(Response::new(KnownResponse { people: people.collect() }))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Answer<Admitted> {
        let AdmitRequest { name, typed, client } = request.into_inner();
        let (typed, client) = (Zeroizing::new(typed), address(&client));
        if typed.len() > MOST_TYPED {
            tracing::warn!(client, "nobody is let in: what was typed has more than {MOST_TYPED} bytes");
            return Err(Status::permission_denied(Refused::Wrong.to_string()));
        }
        // A name that is nobody's may be a password in the wrong field.
        let known = self.0.now().all().iter().any(|account| account.is(&name));
        let account = if known { name.clone() } else { "(nobody's)".to_owned() };
        match self.prove(name, typed).await {
            Ok(name) => {
                tracing::info!(account = name, client, "let in");
                Ok(Response::new(Admitted { name }))
            }
            Err(error) => {
                tracing::warn!(account, client, "not let in: {error}");
                Err(refusal(&error))
            }
        }
    }

    async fn report(&self, request: Request<ReportRequest>) -> Answer<Done> {
        let ReportRequest { name, client } = request.into_inner();
        let failed = self.0.attempt(move |accounts, now| -> Answered<()> {
            if let Some(account) = accounts.failed(&name, now) {
                let waits = account.waits(now).div_ceil(1000);
                tracing::warn!(account = account.name, client = address(&client), waits, "failed NLA");
            }
            Err(Error::NotAdmitted(Refused::Wrong.to_string()))
        });
        match failed.await {
            Ok(()) | Err(Error::NotAdmitted(_)) => Ok(Response::new(Done {})),
            Err(error) => Err(refusal(&error)),
        }
    }
}

#[async_trait]
impl accounts_server::Accounts for Service {
    async fn list(&self, _: Request<ListRequest>) -> Answer<ListResponse> {
        let now = (self.0.wall)();
        let accounts = self.0.now().all().iter().map(|account| listed(account, now)).collect();
        Ok(Response::new(ListResponse { accounts }))
    }

    async fn add(&self, request: Request<AddRequest>) -> Answer<Done> {
        let AddRequest { name, roles: wire } = request.into_inner();
        let roles = roles(&wire)?;
        let add = |accounts: &mut Everybody, name: &str, _| accounts.add(Account::new(name, roles)?);
        self.edit("added", name, add).await?;
        Ok(Response::new(Done {}))
    }

    async fn remove(&self, request: Request<OfRequest>) -> Answer<Done> {
        let remove = |accounts: &mut Everybody, name: &str, _| accounts.remove(name).map(drop);
        self.edit("removed", request.into_inner().name, remove).await?;
        Ok(Response::new(Done {}))
    }

    async fn set_password(&self, request: Request<SetPasswordRequest>) -> Answer<Done> {
        let SetPasswordRequest { name, password } = request.into_inner();
        let password = Zeroizing::new(password);
        text(&password)?;
        let set = move |account: &mut Account, _| {
            // It was looked at above.
            let plain = std::str::from_utf8(&password).unwrap_or_default();
            let kept = (!plain.is_empty()).then(|| Password::new(plain, &mut system_random())).transpose()?;
            account.set_password(kept);
            Ok(())
        };
        self.edit_one("another password, or none", name, set).await?;
        Ok(Response::new(Done {}))
    }

    async fn set_second(&self, request: Request<SetSecondRequest>) -> Answer<WireSecond> {
        let SetSecondRequest { name, remove } = request.into_inner();
        let set = move |account: &mut Account, _| {
            if remove {
                account.set_second(None);
                return Ok(String::new());
            }
            let second = Second::new(&mut system_random());
            let uri = second.uri(&account.name)?.to_string();
            account.set_second(Some(second));
            Ok(uri)
        };
        let uri = self.edit_one("another second factor, or none", name, set).await?;
        Ok(Response::new(WireSecond { uri }))
    }

    async fn link(&self, request: Request<LinkRequest>) -> Answer<Token> {
        let LinkRequest { name, seconds } = request.into_inner();
        if !(1..=LONGEST_LINK.as_secs()).contains(&seconds.into()) {
            return Err(Status::invalid_argument("a link is good for 1 s to 30 days"));
        }
        let link = move |account: &mut Account, now: u64| {
            let until = now.saturating_add(u64::from(seconds) * 1000);
            Ok(account.link((now, until), &mut system_random())?.expose().to_owned())
        };
        let token = self.edit_one("a link", name, link).await?;
        Ok(Response::new(Token { token }))
    }

    async fn set_roles(&self, request: Request<SetRolesRequest>) -> Answer<Done> {
        let SetRolesRequest { name, roles: wire } = request.into_inner();
        let roles = roles(&wire)?;
        let set = |account: &mut Account, _| {
            account.roles = roles.into_iter().collect();
            Ok(())
        };
        self.edit_one("other roles", name, set).await?;
        Ok(Response::new(Done {}))
    }

    async fn set_closed(&self, request: Request<SetClosedRequest>) -> Answer<Done> {
        let SetClosedRequest { name, closed } = request.into_inner();
        let what = if closed { "closed" } else { "opened" };
        let set = move |account: &mut Account, _| {
            account.closed = closed;
            Ok(())
        };
        self.edit_one(what, name, set).await?;
        Ok(Response::new(Done {}))
    }

    async fn add_key(&self, request: Request<KeyRequest>) -> Answer<Done> {
        let KeyRequest { name, key } = request.into_inner();
        let add = move |account: &mut Account, _| {
            account.keys.push(key.parse()?);
            Ok(())
        };
        self.edit_one("a key more", name, add).await?;
        Ok(Response::new(Done {}))
    }

    async fn remove_key(&self, request: Request<KeyRequest>) -> Answer<Done> {
        let KeyRequest { name, key } = request.into_inner();
        let remove = move |account: &mut Account, _| {
            let key: PublicKey = key.parse()?;
            let place = account.keys.iter().position(|other| *other == key);
            account.keys.remove(place.ok_or(Why::Bounds("he has no such key"))?);
            Ok(())
        };
        self.edit_one("a key less", name, remove).await?;
        Ok(Response::new(Done {}))
    }

    async fn forgive(&self, request: Request<OfRequest>) -> Answer<Done> {
        let forgive = |account: &mut Account, _| {
            account.forgive();
            Ok(())
        };
        self.edit_one("failures forgiven", request.into_inner().name, forgive).await?;
        Ok(Response::new(Done {}))
    }

    async fn export(&self, _: Request<ExportRequest>) -> Answer<File> {
        let file = self.0.now().to_bytes().map_err(|error| refusal(&error.into()))?;
        tracing::info!("accounts: exported");
        Ok(Response::new(File { file }))
    }

    async fn import(&self, request: Request<File>) -> Answer<Done> {
        let file = Zeroizing::new(request.into_inner().file);
        let import = move |accounts: &mut Everybody, _: &str, _| {
            if file.len() > MAX_BYTES {
                return Err(Why::Bounds("the file of accounts has 256 KiB at most"));
            }
            let imported = Everybody::read(&file)?;
            if !imported.has_owner() {
                return Err(Why::Bounds("nobody in that file is an owner who is let in"));
            }
            *accounts = imported;
            Ok(())
        };
        self.edit("imported", "(all)".to_owned(), import).await?;
        Ok(Response::new(Done {}))
    }
}
