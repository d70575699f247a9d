//! `lucidctl session` and `lucidctl approve`: a policy is accepted by a key, and what holds in a session is changed by the
//! decisions of others.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdin};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use lucid_ipc::session::sessions_client::SessionsClient;
use lucid_ipc::session::{
    AcceptRequest, AskRequest, Change, DecideRequest, EndRequest, GetRequest, Holds, PrepareRequest,
};
use lucid_ipc::tonic::transport::Channel;
use lucid_policy::approval::{Decision, Place, Request, Setting, Verdict, apply};
use lucid_policy::consent::{Accepted, Receipt};
use lucid_policy::{Policy, diff, explain};
use lucid_recording::rand_core::Rng as _;
use lucid_recording::{Hex, PublicKey, SigningKey, system_random};
use serde::Serialize;

use crate::report::{json, plain, span};
use crate::{Error, policy, print};

/// Sessions as their controller knows them, and what holds in them.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes an Ed25519 key, to accept policies and to approve changes with, and prints its public half.
    NewKey {
        /// The file for the secret half, which must not be there yet.
        file: PathBuf,
    },
    /// Accepts what holds in somebody's next session, with his key: he is not asked on the screen then.
    Accept {
        /// As he authenticates.
        #[arg(long, value_name = "NAME")]
        user: String,
        /// The file with his secret key, one of those that the device knows.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Under this policy (a table, or profile:strict or profile:standard) instead of the device's.
        #[arg(long, value_name = "TABLE")]
        policy: Option<PathBuf>,
        /// Accepts without showing what and without asking.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        controller: Controller,
    },
    /// Says what holds in a session that runs, in plain words, and what was asked for there.
    Policy {
        /// Its UUID, as `recording list` shows it.
        session: String,
        #[command(flatten)]
        controller: Controller,
    },
    /// Ends a session; its user is told why.
    End {
        /// Its UUID, as `recording list` shows it.
        session: String,
        /// What its user is told.
        #[arg(long, value_name = "TEXT", default_value = "an administrator ended it")]
        message: String,
        #[command(flatten)]
        controller: Controller,
    },
}

/// Changes of what holds in a session: asked for, and decided on by others.
#[derive(Subcommand)]
pub(crate) enum Approve {
    /// Asks for a change of what holds in a session that runs.
    Request {
        /// The session's UUID, as `recording list` shows it.
        session: String,
        /// What is to be otherwise: a key of the table, `=`, and its value as JSON, such as clipboard.host_to_remote=true.
        #[arg(required = true)]
        change: Vec<Setting>,
        /// Why, for whoever decides.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Who asks, as his account is called.
        #[arg(long = "as", value_name = "NAME")]
        requester: String,
        /// The file with his secret key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// For how long, from the decision on.
        #[arg(long = "for", value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
        span: Duration,
        #[command(flatten)]
        controller: Controller,
    },
    /// Lists what was asked for in a session, and what is in effect.
    List {
        /// The session's UUID, as `recording list` shows it.
        session: String,
        #[command(flatten)]
        controller: Controller,
    },
    /// Decides on a request: shows what it changes, and signs.
    Decide {
        /// The session's UUID, as `recording list` shows it.
        session: String,
        /// The request's number, as `approve list` shows it.
        number: u32,
        /// Who decides, as his account is called.
        #[arg(long = "as", value_name = "NAME")]
        approver: String,
        /// The file with the approver's secret key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Turns it down.
        #[arg(long)]
        deny: bool,
        /// Why.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Decides without showing what and without asking.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        controller: Controller,
    },
}

/// Whom to ask.
#[derive(Args)]
pub(crate) struct Controller {
    /// The session controller's socket.
    #[arg(long, value_name = "PATH", default_value = "/run/lucid-sessiond/recorder.sock")]
    controller: PathBuf,
}

impl Controller {
    pub(crate) async fn channel(&self) -> Result<Channel, Error> {
        Ok(lucid_ipc::connect(&self.controller).await?)
    }

    async fn connect(&self) -> Result<SessionsClient<Channel>, Error> {
        Ok(SessionsClient::new(self.channel().await?))
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn ask<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::Write("to the kernel".into(), e))?.block_on(answer)
}

fn secret(path: &Path) -> Result<SigningKey, Error> {
    SigningKey::read(path).map_err(|error| Error::from(lucid_recording::Error::from(error)))
}

/// What the service says is not what it should say.
fn odd(why: impl ToString) -> Error {
    Error::Odd(why.to_string())
}

/// Asks whoever sits there. Without a terminal nobody does, and nothing is done.
fn agrees(question: &str) -> Result<bool, Error> {
    if !stdin().is_terminal() {
        return Err(Error::NobodyAsked);
    }
    print(&format!("{question} [y/N] "))?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(|error| Error::Read("the answer".into(), error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// `session accept --json`
#[derive(Serialize)]
struct AcceptedSession {
    session: String,
    policy: String,
    seconds: u32,
}

/// Says whether it was done.
pub(crate) fn run(command: &Command, as_json: bool) -> Result<bool, Error> {
    match command {
        Command::NewKey { file } => {
            let key = match SigningKey::create(file, &mut system_random()) {
                Ok(key) => key,
                Err(lucid_statement::Error::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::AlreadyExists =>
                {
                    return Err(Error::KeyExists(file.clone()));
                }
                Err(error) => return Err(lucid_recording::Error::from(error).into()),
            };
            let public = key.public().to_string();
            let file = file.display().to_string();
            print(&if as_json {
                json(&serde_json::json!({ "file": file, "public": public }))
            } else {
                format!(
                    "{public}\n\nThis is the public half, for `lucidctl user key NAME add`. The secret half is in {file}.\n"
                )
            })?;
        }
        Command::Accept { user, key, policy: table, yes, controller } => {
            let key = secret(key)?;
            let table = table.as_deref().map(policy::read).transpose()?;
            let table = table.map(|table| table.to_bytes()).transpose().map_err(odd)?.unwrap_or_default();
            return ask(accept(user, &key, table, *yes, controller, as_json));
        }
        Command::Policy { session, controller } => {
            let holds = ask(holds(session, controller))?;
            print(&if as_json { json(&Held::new(&holds)?) } else { held(&holds)? })?;
        }
        Command::End { session, message, controller } => {
            ask(async {
                let request = EndRequest { session: session.clone(), reason: message.clone() };
                controller.connect().await?.end(request).await?;
                Ok(())
            })?;
            print(if as_json { "{}\n" } else { "The session was ended.\n" })?;
        }
    }
    Ok(true)
}

async fn accept(
    user: &str,
    key: &SigningKey,
    table: Vec<u8>,
    yes: bool,
    controller: &Controller,
    as_json: bool,
) -> Result<bool, Error> {
    let mut client = controller.connect().await?;
    let request = PrepareRequest { user: user.to_owned(), table: table.into() };
    let prepared = client.prepare(request).await?.into_inner();
    let policy = Policy::from_bytes(&prepared.table).map_err(odd)?;
    if !yes {
        let shown: String =
            prepared.terms.lines().fold(String::new(), |text, line| text + "- " + &plain(line) + "\n");
        if !agrees(&format!("{shown}Does {} accept that?", plain(user)))? {
            print("Nothing was accepted.\n")?;
            return Ok(false);
        }
    }
    let session = prepared.session.parse().map_err(odd)?;
    let session_key: PublicKey = prepared.session_key.parse().map_err(odd)?;
    let hashes = (policy.hash().map_err(odd)?, blake3::hash(prepared.terms.as_bytes()).into());
    let receipt =
        Receipt::new(Accepted::Signature, (session, session_key), user, hashes, key.public(), now_ms());
    let receipt = receipt.sign(key).map_err(odd)?;
    client.accept(AcceptRequest { receipt: receipt.into() }).await?;
    let accepted = AcceptedSession {
        session: prepared.session,
        policy: hashes.0.to_string(),
        seconds: prepared.seconds,
    };
    let AcceptedSession { session, seconds, .. } = &accepted;
    print(&if as_json {
        json(&accepted)
    } else {
        let span = span((*seconds).into());
        format!("Accepted: {} can connect within {span}, to session {session}.\n", plain(user))
    })?;
    Ok(true)
}

async fn holds(session: &str, controller: &Controller) -> Result<Holds, Error> {
    let request = GetRequest { session: session.to_owned() };
    Ok(controller.connect().await?.get_policy(request).await?.into_inner())
}

/// `session policy --json`
#[derive(Serialize)]
struct Held {
    policy: Policy,
    base: Policy,
    changes: Vec<Asked>,
}

/// A request, as it is listed.
#[derive(Serialize)]
struct Asked {
    number: u32,
    requester: String,
    change: Vec<String>,
    reason: String,
    agree: u32,
    needed: u32,
    in_effect: bool,
    /// Until it ends, or until nobody can decide on it any more.
    seconds: u32,
}

/// A request as it was signed. That it was by who is named, the device has looked at.
fn request(change: &Change) -> Result<Request, Error> {
    Request::read(&change.request).map_err(odd)
}

impl Asked {
    fn new(change: &Change) -> Result<Self, Error> {
        let request = request(change)?;
        let Change { number, agree, needed, in_effect, seconds, .. } = *change;
        Ok(Self {
            number,
            requester: request.requester,
            change: request.change.iter().map(Setting::to_string).collect(),
            reason: request.reason,
            agree,
            needed,
            in_effect,
            seconds,
        })
    }
}

impl Held {
    fn new(holds: &Holds) -> Result<Self, Error> {
        let changes: Result<_, _> = holds.changes.iter().map(Asked::new).collect();
        let policy = Policy::from_bytes(&holds.table).map_err(odd)?;
        Ok(Self { policy, base: Policy::from_bytes(&holds.base).map_err(odd)?, changes: changes? })
    }
}

fn held(holds: &Holds) -> Result<String, Error> {
    let Held { policy, changes, .. } = Held::new(holds)?;
    let mut text = explain(&policy).join("\n") + "\n";
    if !changes.is_empty() {
        let _ = write!(text, "\n{}", lines(&changes));
    }
    Ok(text)
}

fn lines(changes: &[Asked]) -> String {
    if changes.is_empty() {
        return "Nothing was asked for.\n".to_owned();
    }
    let mut text = String::new();
    for Asked { number, requester, change, reason, agree, needed, in_effect, seconds } in changes {
        let span = span((*seconds).into());
        let standing = if *in_effect {
            format!("in effect, for {span} yet")
        } else {
            format!("{agree} of {needed} agree; can be decided on for {span} yet")
        };
        let (requester, reason) = (plain(requester), plain(reason));
        let _ = writeln!(
            text,
            "{number}: {requester} asks for {}: {reason} ({standing})",
            plain(&change.join(" "))
        );
    }
    text
}

/// Says whether it was done.
pub(crate) fn approve(command: &Approve, as_json: bool) -> Result<bool, Error> {
    match command {
        Approve::Request { session, change, reason, requester, key, span: within, controller } => {
            let key = secret(key)?;
            let number = ask(async {
                let holds = holds(session, controller).await?;
                let place = Place {
                    session: session.parse().map_err(odd)?,
                    policy: Policy::from_bytes(&holds.base).and_then(|base| base.hash()).map_err(odd)?,
                    challenge: Hex(<[u8; 16]>::try_from(&*holds.challenge).map_err(odd)?),
                };
                let mut nonce = [0; 16];
                system_random().fill_bytes(&mut nonce);
                let seconds = u32::try_from(within.as_secs()).unwrap_or(u32::MAX);
                let by = (&key, nonce, now_ms());
                let request = Request::sign(place, requester, change.clone(), reason, seconds, by);
                let request = AskRequest { request: request.map_err(Error::Request)?.into() };
                Ok(controller.connect().await?.ask(request).await?.into_inner().number)
            })?;
            print(&if as_json {
                json(&serde_json::json!({ "number": number }))
            } else {
                format!(
                    "Asked for: request {number} of session {}. An approver decides with `lucidctl approve decide`.\n",
                    plain(session)
                )
            })?;
            Ok(true)
        }
        Approve::List { session, controller } => {
            let held = Held::new(&ask(holds(session, controller))?)?;
            print(&if as_json { json(&held.changes) } else { lines(&held.changes) })?;
            Ok(true)
        }
        Approve::Decide { session, number, approver, key, deny, reason, yes, controller } => {
            let by = (approver.as_str(), secret(key)?);
            let verdict = if *deny { Verdict::Deny } else { Verdict::Allow };
            ask(decide(session, *number, &by, (verdict, reason), *yes, controller, as_json))
        }
    }
}

async fn decide(
    session: &str,
    number: u32,
    (approver, key): &(&str, SigningKey),
    verdict: (Verdict, &str),
    yes: bool,
    controller: &Controller,
    as_json: bool,
) -> Result<bool, Error> {
    let holds = holds(session, controller).await?;
    let mut found = None;
    for change in &holds.changes {
        if change.number == number && !change.in_effect {
            found = Some((change, request(change)?));
        }
    }
    let (change, request) = found.ok_or_else(|| Error::NoRequest(number))?;
    if !yes && verdict.0 == Verdict::Allow {
        let now = Policy::from_bytes(&holds.table).map_err(odd)?;
        let then = apply(&now, &request.change).map_err(odd)?;
        let (no_longer, from_now_on) = diff(&now, &then);
        let mut text = format!("{} asks: {}\n", plain(&request.requester), plain(&request.reason));
        for (sign, sentences) in [('-', no_longer), ('+', from_now_on)] {
            for sentence in sentences {
                let _ = writeln!(text, "{sign} {}", plain(&sentence));
            }
        }
        let span = span(request.seconds.into());
        if !agrees(&format!("{text}Is that to hold for {span}?"))? {
            print("Nothing was decided.\n")?;
            return Ok(false);
        }
    }
    let id = session.parse().map_err(odd)?;
    let decision = Decision::sign(&change.request, id, approver, verdict, key, now_ms()).map_err(odd)?;
    let request = DecideRequest { decision: decision.into() };
    let decided = controller.connect().await?.decide(request).await?.into_inner();
    let (agree, needed, seconds) = (decided.agree, decided.needed, decided.seconds);
    print(&if as_json {
        json(&serde_json::json!({ "agree": agree, "needed": needed, "seconds": seconds }))
    } else if seconds > 0 {
        format!("In effect for {}.\n", span(seconds.into()))
    } else if needed > 0 {
        format!("Agreed: {agree} of {needed}; it is not in effect yet.\n")
    } else {
        "Turned down.\n".to_owned()
    })?;
    Ok(true)
}
