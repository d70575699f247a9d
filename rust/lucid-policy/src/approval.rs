//! Changes of what a session may do while it runs: somebody asks, others decide, and what they allow ends by itself.
//!
//! ```text
//! request ──▶ pending ──(n decisions of n approvers)──▶ in effect ──(its time is over)──▶ ended
//!                │
//!                ├──(one says no)──▶ denied
//!                └──(nobody decided in time)──▶ ended
//! ```
//!
//! A [`Request`] is signed by whoever asks, a [`Decision`] by whoever decides; or by the device, which has seen him do it on
//! its screen. Both are signed statements ([`lucid_statement::json`]), of the kinds `lucid-approval-request` and
//! `lucid-approval-decision`. A request names the [challenge](Approvals::challenge) of the session's present life, and is
//! taken once; a decision names the hash of its request, which holds all that it is about. So neither is ever good for
//! anything else.
//!
//! Nothing is ever decided by itself: without approvers nothing can be asked for. Nobody decides on what he asks for, nor for
//! his own session, and each has one vote; people are told apart by their names, without regard to case. Whoever has a key
//! decides with it: that the device saw somebody decide is as good as the program that hears the network. Time here is that
//! since the session began, which no clock's change moves.

use std::{collections::BTreeSet, time::Duration};

use lucid_statement::{Hash, Hex, PublicKey, SessionId, Signed, SigningKey, document, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    policy::Policy,
    statement::{DOMAIN, Kind, MAX_TEXT, VERSION, is_text},
};

/// The most bytes of a request or a decision.
pub const MAX_STATEMENT: usize = 16 << 10;
/// For so long a request can be decided on.
pub const PENDING: Duration = Duration::from_secs(600);
/// How long an approval holds where nobody says otherwise, in seconds.
pub const DEFAULT_SECONDS: u32 = 300;
/// The longest, in seconds: a day. No longer than its session in any case.
pub const MAX_SECONDS: u32 = 86_400;
/// The most requests of a session that wait or are in effect.
pub const MAX_OPEN: usize = 16;
/// The most requests in a life of its controller.
const MAX_EVER: usize = 1024;
/// The most approvers, and the most settings of a request.
const MAX_LIST: usize = 32;
/// The most bytes of a setting's value.
const MAX_VALUE: usize = 4 << 10;

/// One thing that is to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Its key in the table, such as `clipboard.host_to_remote`.
    pub key: String,
    /// What it is to be, as JSON: `true`, `["pdf"]`.
    pub value: String,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl std::str::FromStr for Setting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key, value) = text.split_once('=').ok_or(Error::Argument(
            "a change is written as a key of the table, `=`, and its value as JSON, such as clipboard.host_to_remote=true",
        ))?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// A table with some settings otherwise.
///
/// # Errors
/// When there is no such key, it cannot have that value, or may not be changed: the version.
pub fn apply(policy: &Policy, settings: &[Setting]) -> Result<Policy> {
    if settings.is_empty() || settings.len() > MAX_LIST {
        return Err(Error::Argument("a change has 1 to 32 settings"));
    }
    let mut table = serde_json::to_value(policy).map_err(Error::cedar)?;
    for Setting { key, value } in settings {
        let unknown = || Error::malformed(key, "there is no such key; `lucidctl policy new` shows them all");
        if key == "version" || value.len() > MAX_VALUE {
            return Err(unknown());
        }
        let mut place = &mut table;
        for part in key.split('.') {
            place = place.as_object_mut().and_then(|members| members.get_mut(part)).ok_or_else(unknown)?;
        }
        // A whole group at once would say more than its key does.
        if place.is_object() {
            return Err(unknown());
        }
        *place = serde_json::from_str::<Value>(value)
            .map_err(|error| Error::malformed(key, &error.to_string()))?;
    }
    Policy::parse(&serde_json::to_vec(&table).map_err(Error::cedar)?)
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The session's, so that none of an earlier life of its controller is good again.
    pub challenge: Hex<16>,
    /// What is to be otherwise, sorted.
    pub change: Vec<Setting>,
    /// `lucid-approval-request`.
    pub kind: Kind,
    /// Chosen at random.
    pub nonce: Hex<16>,
    /// Hash of the session's policy, without any change.
    pub policy: Hash,
    /// Why; 1 to 256 bytes.
    pub reason: String,
    /// Who asks; 1 to 256 bytes.
    pub requester: String,
    /// For how long, from the decision on: 1 to 86,400.
    pub seconds: u32,
    /// In which session.
    pub session: SessionId,
    /// The Ed25519 key that signs this: his, or the device's, which has seen him ask on the screen.
    pub signer: PublicKey,
    /// 1.
    pub version: u16,
    /// When, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

document!(Request, DOMAIN, Kind::ApprovalRequest);

/// What somebody says on it: `allow`, `deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may be.
    Allow,
    /// It may not.
    Deny,
}

/// What an approver decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Who decides; 1 to 256 bytes.
    pub approver: String,
    /// `lucid-approval-decision`.
    pub kind: Kind,
    /// Why; 256 bytes at most.
    pub reason: String,
    /// BLAKE3 of the signed request.
    pub request: Hash,
    /// Its session.
    pub session: SessionId,
    /// The Ed25519 key that signs this: his, or the device's, which has seen him decide on its screen.
    pub signer: PublicKey,
    /// What he says.
    pub verdict: Verdict,
    /// 1.
    pub version: u16,
    /// When, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

document!(Decision, DOMAIN, Kind::ApprovalDecision);

/// Where something is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The session.
    pub session: SessionId,
    /// Hash of its policy, without any change.
    pub policy: Hash,
    /// What it asks whoever asks to name.
    pub challenge: Hex<16>,
}

impl Request {
    /// A signed request.
    ///
    /// # Errors
    /// When something in it is out of its bounds; whether the change can be, the session's controller says.
    pub fn sign(
        place: Place,
        requester: &str,
        mut change: Vec<Setting>,
        reason: &str,
        seconds: u32,
        (key, nonce, wall_ms): (&SigningKey, [u8; 16], u64),
    ) -> Result<Vec<u8>> {
        change.sort();
        let Place { session, policy, challenge } = place;
        let request = Self {
            challenge,
            change,
            kind: Kind::ApprovalRequest,
            nonce: Hex(nonce),
            policy,
            reason: reason.to_owned(),
            requester: requester.to_owned(),
            seconds,
            session,
            signer: key.public(),
            version: VERSION,
            wall_ms,
        };
        request.check()?;
        let signed = json::sign("the request", &request, key)?;
        if signed.len() > MAX_STATEMENT {
            return Err(Error::Large { bytes: signed.len(), most: MAX_STATEMENT });
        }
        Ok(signed)
    }

    /// Reads a signed request, and holds the signature to the key that it names.
    ///
    /// # Errors
    /// When it is none, was changed, or has what no request has.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let statement: Signed<Self> = read("the request", bytes, None)?;
        json::check("the request", &statement, &statement.body.signer)?;
        statement.body.check()?;
        Ok(statement.body)
    }

    fn check(&self) -> Result<()> {
        let sorted = self.change.is_sorted_by(|a, b| a.key < b.key);
        if !sorted || self.change.is_empty() || self.change.len() > MAX_LIST {
            return Err(Error::Argument("a request changes 1 to 32 settings, each once"));
        }
        if !is_text(&self.reason, MAX_TEXT) || !is_text(&self.requester, MAX_TEXT) {
            return Err(Error::Argument("a request says who asks and why, in 1 to 256 bytes each"));
        }
        if !(1..=MAX_SECONDS).contains(&self.seconds) {
            return Err(Error::Argument("an approval holds for 1 to 86400 seconds"));
        }
        Ok(())
    }
}

impl Decision {
    /// On a signed request. Whoever signs has looked at what it changes: see [`Request::read`].
    ///
    /// # Errors
    /// When the name or the reason is longer than any.
    pub fn sign(
        request: &[u8],
        session: SessionId,
        approver: &str,
        (verdict, reason): (Verdict, &str),
        key: &SigningKey,
        wall_ms: u64,
    ) -> Result<Vec<u8>> {
        let decision = Self {
            approver: approver.to_owned(),
            kind: Kind::ApprovalDecision,
            reason: reason.to_owned(),
            request: blake3::hash(request).into(),
            session,
            signer: key.public(),
            verdict,
            version: VERSION,
            wall_ms,
        };
        decision.check()?;
        Ok(json::sign("the decision", &decision, key)?)
    }

    /// Reads a signed decision, and holds the signature to the key that it names.
    ///
    /// # Errors
    /// When it is none, or was changed.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let statement: Signed<Self> = read("the decision", bytes, None)?;
        json::check("the decision", &statement, &statement.body.signer)?;
        statement.body.check()?;
        Ok(statement.body)
    }

    fn check(&self) -> Result<()> {
        let reason = self.reason.is_empty() || is_text(&self.reason, MAX_TEXT);
        if !reason || !is_text(&self.approver, MAX_TEXT) {
            return Err(Error::Argument(
                "a decision says who decides, in 1 to 256 bytes, and why, in 256 at most, without control characters",
            ));
        }
        Ok(())
    }
}

fn read<D: json::Document>(what: &str, bytes: &[u8], key: Option<&PublicKey>) -> Result<Signed<D>> {
    if bytes.len() > MAX_STATEMENT {
        return Err(Error::Large { bytes: bytes.len(), most: MAX_STATEMENT });
    }
    Ok(json::read_signed(what, bytes, key)?)
}

/// Somebody who may decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approver {
    /// His Ed25519 key; none: he decides on the device's screen, and whoever has one does not.
    pub key: Option<PublicKey>,
    /// Who he is, as he would authenticate.
    pub name: String,
}

impl Approver {
    /// Whether that is his name, however it is written.
    fn is(&self, name: &str) -> bool {
        same(&self.name, name)
    }
}

/// Whether two names are one person's.
fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// Who decides, and how many of them have to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    approvers: Vec<Approver>,
    needed: usize,
}

impl Rules {
    /// So many of those.
    ///
    /// # Errors
    /// When it is none of them, more than there are, or a key is given twice.
    pub fn new(approvers: Vec<Approver>, needed: usize) -> Result<Self> {
        let mut keys = BTreeSet::new();
        let unlike = approvers.iter().filter_map(|approver| approver.key).all(|key| keys.insert(key));
        let named = approvers.iter().all(|approver| is_text(&approver.name, MAX_TEXT));
        if !unlike || approvers.len() > MAX_LIST || !named {
            return Err(Error::Argument(
                "there are 32 approvers at most, each with a name, and a key of his own if he has one",
            ));
        }
        let people: BTreeSet<_> = approvers.iter().map(|approver| approver.name.to_lowercase()).collect();
        if needed == 0 || needed > people.len().max(1) {
            return Err(Error::Argument(
                "at least one approver has to agree, and no more can than there are",
            ));
        }
        Ok(Self { approvers, needed })
    }

    /// Those who may decide.
    #[must_use]
    pub fn approvers(&self) -> &[Approver] {
        &self.approvers
    }

    /// How many of them have to agree.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.needed
    }
}

/// Why something is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody could decide.
    #[error("nobody may approve on this device: the owner names approvers first")]
    NoApprovers,
    /// There are as many as there may be.
    #[error(
        "{MAX_OPEN} requests of this session wait or are in effect, and there may be no more: wait for one to end"
    )]
    TooMany,
    /// What is asked for cannot be.
    #[error("{0}")]
    Change(String),
    /// It is no request, or was changed; or is of another session, or of another life of its controller.
    #[error("it is no request for this session as it is now: ask again")]
    NoRequest,
    /// The same waits to be decided on.
    #[error("that was asked for already, and waits for a decision")]
    Waits,
    /// Whoever signed it may not ask for that person.
    #[error("the key that signed it is none of the requester's: add it to his account (`lucidctl user key`)")]
    Requester,
    /// It was made before.
    #[error("that was asked for before, and is taken once: ask again")]
    Repeated,
    /// It would change nothing.
    #[error("that is allowed already")]
    Nothing,
    /// It is no decision, or changed since it was signed.
    #[error("it is no decision, or was changed after it was signed")]
    Forged,
    /// Whoever signed it may not decide.
    #[error("it is no approver's: whoever decides had that role when the session began, and names himself")]
    NotAnApprover,
    /// He decided on the screen, and need not.
    #[error("whoever has a key decides with it (`lucidctl approve decide`), and on no screen")]
    HasKey,
    /// Whoever signed it has asked for it, or uses the session.
    #[error("nobody approves what he has asked for himself, or what is for himself")]
    Own,
    /// There is no such request (any more).
    #[error("there is no such request, or it was decided, or its time is over: ask again")]
    Unknown,
    /// He has said so already.
    #[error("that approver has decided on this request already")]
    Twice,
}

/// Where a request stands after a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// More have to agree.
    Waits,
    /// It holds until then.
    InEffect {
        /// Since the session began.
        until: Duration,
    },
    /// It was turned down.
    Denied,
}

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// On what.
    pub request: Request,
    /// The decision.
    pub decision: Decision,
    /// Who decided.
    pub approver: String,
    /// So many agree now.
    pub agree: usize,
    /// So many have to.
    pub needed: usize,
    /// Where the request stands.
    pub standing: Standing,
}

/// What became of a request by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// What it changed is as it was; the hash is that of the signed request.
    Over(Hash),
    /// Nobody decided in time.
    Undecided(Hash),
}

/// A request that waits or is in effect.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Its place among the requests of the session's present life, from 0.
    pub number: u32,
    /// The signed request.
    pub signed: &'a [u8],
    /// What it says.
    pub request: &'a Request,
    /// Its hash, which a decision names.
    pub hash: Hash,
    /// So many agree.
    pub agree: usize,
    /// And so many have to.
    pub needed: usize,
    /// Whether it holds.
    pub in_effect: bool,
    /// Until when, since the session began; or until when it can be decided on.
    pub until: Duration,
}

#[derive(Debug)]
struct Open {
    number: u32,
    request: Request,
    signed: Vec<u8>,
    /// Of the signed request.
    hash: Hash,
    /// Who agrees, by name in lower case.
    agree: BTreeSet<String>,
    until: Duration,
    in_effect: bool,
}

/// All requests of a session.
#[derive(Debug)]
pub struct Approvals {
    place: Place,
    /// Who uses the session.
    user: String,
    rules: Option<Rules>,
    base: Policy,
    open: Vec<Open>,
    /// Hashes of all that was asked for.
    seen: BTreeSet<Hash>,
}

impl Approvals {
    /// For a user's session under a policy; without rules nothing can be asked for. The challenge is chosen at random, anew
    /// for each life of the session's controller.
    ///
    /// # Errors
    /// When a value of the policy is out of its range.
    pub fn new(
        session: SessionId,
        user: &str,
        challenge: [u8; 16],
        rules: Option<Rules>,
        policy: Policy,
    ) -> Result<Self> {
        let place = Place { session, policy: policy.hash()?, challenge: Hex(challenge) };
        let user = user.to_owned();
        Ok(Self { place, user, rules, base: policy, open: Vec::new(), seen: BTreeSet::new() })
    }

    /// What a request has to name.
    #[must_use]
    pub fn challenge(&self) -> Place {
        self.place
    }

    /// What holds now: the policy, with what is in effect in the order in which it was asked for.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut policy = self.base.clone();
        for open in self.open.iter().filter(|open| open.in_effect) {
            // It was applied when it was asked for; where what came before makes it impossible now, it does nothing.
            if let Ok(changed) = apply(&policy, &open.request.change) {
                policy = changed;
            }
        }
        policy
    }

    /// The requests that wait or are in effect.
    pub fn requests(&self) -> impl Iterator<Item = Look<'_>> {
        let needed = self.rules.as_ref().map_or(0, Rules::needed);
        self.open.iter().map(move |open| Look {
            number: open.number,
            signed: &open.signed,
            request: &open.request,
            hash: open.hash,
            agree: open.agree.len(),
            needed,
            in_effect: open.in_effect,
            until: open.until,
        })
    }

    /// Takes a signed request of somebody for whom these keys sign; gives it with its number. The device's is one of them where
    /// the request came over the stream of the session itself, and is its user's; nowhere else.
    ///
    /// # Errors
    /// When it is none, nobody could decide, there are too many, or the table cannot have that.
    pub fn ask(
        &mut self,
        signed: &[u8],
        keys: impl FnOnce(&str) -> Vec<PublicKey>,
        now: Duration,
    ) -> Result<(u32, Request), Refused> {
        let request = Request::read(signed).map_err(|_| Refused::NoRequest)?;
        let Place { session, policy, challenge } = self.place;
        if (request.session, request.policy, request.challenge) != (session, policy, challenge) {
            return Err(Refused::NoRequest);
        }
        if !keys(&request.requester).contains(&request.signer) {
            return Err(Refused::Requester);
        }
        if self.rules.is_none() {
            return Err(Refused::NoApprovers);
        }
        if self.open.len() >= MAX_OPEN || self.seen.len() >= MAX_EVER {
            return Err(Refused::TooMany);
        }
        let hash = blake3::hash(signed).into();
        if self.seen.contains(&hash) {
            return Err(Refused::Repeated);
        }
        let holds = self.policy();
        let then = apply(&holds, &request.change).map_err(|error| Refused::Change(error.to_string()))?;
        if then == holds {
            return Err(Refused::Nothing);
        }
        let number = self.seen.len() as u32;
        self.seen.insert(hash);
        self.open.push(Open {
            number,
            request: request.clone(),
            signed: signed.to_vec(),
            hash,
            agree: BTreeSet::new(),
            until: now + PENDING,
            in_effect: false,
        });
        Ok((number, request))
    }

    /// Takes a decision: by the approver's key, or, where it was seen on the device's screen, by the device's.
    ///
    /// # Errors
    /// Says why it is not taken; nothing has changed then.
    pub fn decide(
        &mut self,
        statement: &[u8],
        screen: Option<PublicKey>,
        now: Duration,
    ) -> Result<Decided, Refused> {
        let decision = Decision::read(statement).map_err(|_| Refused::Forged)?;
        let rules = self.rules.as_ref().ok_or(Refused::NoApprovers)?;
        let signed = |approver: &&Approver| {
            approver.is(&decision.approver) && screen.or(approver.key) == Some(decision.signer)
        };
        let approver = rules.approvers.iter().find(signed).ok_or(Refused::NotAnApprover)?;
        let known = |open: &Open| open.hash == decision.request && !open.in_effect && open.until > now;
        let place = self.open.iter().position(known).filter(|_| decision.session == self.place.session);
        let place = place.ok_or(Refused::Unknown)?;
        let open = &mut self.open[place];
        // Whatever he decides by, and however his name is written.
        if approver.is(&open.request.requester) || approver.is(&self.user) {
            return Err(Refused::Own);
        }
        // What the device says that it saw is worth less.
        if screen.is_some() && approver.key.is_some() {
            return Err(Refused::HasKey);
        }
        let (approver, needed) = (approver.name.clone(), rules.needed);
        if decision.verdict == Verdict::Deny {
            let Open { request, agree, .. } = self.open.remove(place);
            let (agree, standing) = (agree.len(), Standing::Denied);
            return Ok(Decided { request, decision, approver, agree, needed, standing });
        }
        if !open.agree.insert(approver.to_lowercase()) {
            return Err(Refused::Twice);
        }
        let (request, agree) = (open.request.clone(), open.agree.len());
        let standing = if agree < needed {
            Standing::Waits
        } else {
            open.until = now + Duration::from_secs(request.seconds.into());
            open.in_effect = true;
            Standing::InEffect { until: open.until }
        };
        Ok(Decided { request, decision, approver, agree, needed, standing })
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.open.iter().map(|open| open.until).min()
    }

    /// Ends what is over.
    pub fn expire(&mut self, now: Duration) -> Vec<Ended> {
        let (over, open) = std::mem::take(&mut self.open).into_iter().partition(|open| open.until <= now);
        self.open = open;
        let over: Vec<Open> = over;
        over.into_iter()
            .map(|open| if open.in_effect { Ended::Over(open.hash) } else { Ended::Undecided(open.hash) })
            .collect()
    }
}
