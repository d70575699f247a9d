//! What holds in one session: the policy that its user accepted, with the changes that were approved.
//!
//! The RDP host enforces the table that it is told, and says which one that is. Cedar decides here: it is asked about the
//! table when it is made, and again about everything that is said to have crossed. Where the host enforces something else, or
//! let something pass that may not, the session is void.

use std::{sync::Arc, time::Duration};

use lucid_audit::{Actor, Data, Direction, Entry, Outcome};
use lucid_ipc::session::{Change, Holds, Wanted};
use lucid_policy::{
    Action, Decider, OnViolation, Policy, Role, Transfer,
    approval::{
        Approvals, DEFAULT_SECONDS, Decision, Ended, Refused, Request, Setting, Standing, Verdict, apply,
    },
    ask::Gate,
    diff,
};
use lucid_recording::{Hash, SessionId, SigningKey, system_random};

use crate::{
    error::{Error, Result},
    people::People,
};

/// The host says within this time that it enforces what it was told: longer than it takes a slow recorder for dead.
const ENFORCED_WITHIN: Duration = Duration::from_secs(15);
/// It is told so often that what holds still does.
const BEAT: Duration = Duration::from_secs(2);
/// The host tells its user before, and ends the session by itself; so long after that it is ended here.
const GRACE: Duration = Duration::from_secs(30);
/// What began under the policy before may still be told for so long: a large file crosses in minutes, and is told at its end.
const CROSSING: Duration = Duration::from_secs(600);

/// The most bytes of what a request would change, as it is shown to people.
const MAX_WORDS: usize = 4 << 10;
/// Why something is asked for where nobody can write why.
const ON_SCREEN: &str = "asked for on the screen";

/// Files of drives have their folders in their names.
const DRIVE: &str = "drive";

/// What the host is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// How often something was told.
    pub(crate) beat: u64,
    pub(crate) number: u32,
    pub(crate) table: Vec<u8>,
}

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// What is enforced is not what was decided.
    Void(String),
    /// It may not go on: by its policy, or because somebody ends it.
    Ends(String),
}

/// What came of a decision.
pub(crate) struct Decided {
    pub(crate) request: Request,
    pub(crate) decision: Decision,
    /// Who decided.
    pub(crate) approver: String,
    pub(crate) agree: u32,
    pub(crate) needed: u32,
    pub(crate) standing: Standing,
    /// What the host has to be told.
    pub(crate) told: Option<Told>,
}

/// A table with what decides by it.
struct Table {
    policy: Policy,
    bytes: Vec<u8>,
    hash: Hash,
    decider: Decider,
}

impl Table {
    fn new(policy: Policy) -> Result<Self> {
        let decider = Decider::new(&policy)?;
        if !decider.agrees(&policy) {
            return Err(Error::Internal("a policy table and its Cedar policies say different things"));
        }
        let bytes = policy.to_bytes()?;
        let hash = blake3::hash(&bytes).into();
        Ok(Self { policy, bytes, hash, decider })
    }
}

pub(crate) struct Held {
    base: Policy,
    now: Table,
    /// What held before, and until when, as long as something that it let pass may still be told.
    before: Vec<(Table, Duration)>,
    approvals: Approvals,
    id: SessionId,
    user: String,
    people: Arc<People>,
    number: u32,
    beat: u64,
    /// When the host was told last.
    told: Duration,
    /// Since when it owes the answer to the newest policy.
    unanswered: Option<Duration>,
}

impl Held {
    /// For a session that begins.
    pub(crate) fn new(policy: Policy, id: SessionId, user: String, people: Arc<People>) -> Result<Self> {
        let approvals = approvals(&policy, id, &user, &people)?;
        Ok(Self {
            now: Table::new(policy.clone())?,
            base: policy,
            before: Vec::new(),
            approvals,
            id,
            user,
            people,
            number: 0,
            beat: 0,
            told: Duration::ZERO,
            unanswered: None,
        })
    }

    /// Tells the host what holds; from then on it owes an answer.
    pub(crate) fn tell(&mut self, now: Duration) -> Told {
        self.unanswered = Some(now);
        self.again(now)
    }

    /// Tells it that this still holds.
    fn again(&mut self, now: Duration) -> Told {
        self.told = now;
        self.beat += 1;
        Told { beat: self.beat, number: self.number, table: self.now.bytes.clone() }
    }

    /// The stream is gone, and what is enforced with it.
    pub(crate) fn untold(&mut self) {
        self.unanswered = None;
    }

    /// What was asked for and approved counts no more: nobody knows whether it was written.
    pub(crate) fn forget(&mut self) -> Result<()> {
        self.approvals = approvals(&self.base, self.id, &self.user, &self.people)?;
        self.now = Table::new(self.base.clone())?;
        self.number += 1;
        self.unanswered = None;
        Ok(())
    }

    /// What the host says that it enforces.
    pub(crate) fn enforced(&mut self, number: u32, hash: &[u8], now: Duration) -> Result<(), Stop> {
        if number < self.number {
            // It has not seen the newer one yet; its time runs.
            return self.in_time(now);
        }
        if number > self.number || hash != self.now.hash.0 {
            return Err(Stop::Void(
                "the RDP host enforces another policy than the one that was decided".to_owned(),
            ));
        }
        self.unanswered = None;
        Ok(())
    }

    /// Whether the host has answered, or still may; and whether the session may go on.
    pub(crate) fn in_time(&self, now: Duration) -> Result<(), Stop> {
        let stay = Action::Stay { age_seconds: now.saturating_sub(GRACE).as_secs(), idle_seconds: 0 };
        if !self.now.decider.decide(Role::Operator, &stay).is_allowed() {
            return Err(Stop::Ends("it has lasted as long as a session may".to_owned()));
        }
        match self.unanswered {
            Some(since) if now.saturating_sub(since) > ENFORCED_WITHIN => {
                Err(Stop::Void("the RDP host does not say which policy it enforces".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// When there is something to do.
    pub(crate) fn next(&self) -> Option<Duration> {
        let answer = self.unanswered.map(|since| since + ENFORCED_WITHIN + Duration::from_millis(1));
        [answer, self.approvals.next(), Some(self.told + BEAT)].into_iter().flatten().min()
    }

    /// Something happened in the session, as the host says.
    pub(crate) fn saw(&self, entry: &Entry, now: Duration) -> Result<(), Stop> {
        if let Data::Violation { rule, .. } = &entry.data {
            // What programs try is not its user's doing.
            if entry.actor == Actor::Client && self.now.policy.violation == OnViolation::End {
                return Err(Stop::Ends(format!("{rule} was tried, which the policy ends sessions for")));
            }
            return Ok(());
        }
        if entry.outcome != Outcome::Allowed {
            return Ok(());
        }
        // Of a name that was shortened the ending is not known.
        if let Data::File { name, .. } = &entry.data
            && name.as_str().ends_with('\u{2026}')
        {
            return Ok(());
        }
        let may = |table: &Table| match &entry.data {
            Data::Clipboard { bytes, direction, .. } => {
                let bytes = *bytes;
                let action = match direction {
                    Direction::ToClient => Action::CopyToClient { bytes },
                    Direction::ToDesktop => Action::CopyToDesktop { bytes },
                };
                table.decider.decide(Role::Operator, &action).is_allowed()
            }
            Data::File { direction, name, .. } => {
                let (dir, name) = match name.as_str().rsplit_once('/') {
                    Some((dir, name)) if entry.resource.as_str() == DRIVE => (Some(dir), name),
                    Some((_, name)) => (None, name),
                    None => (None, name.as_str()),
                };
                // What was read twice crossed twice: how large the file is, the host alone knows.
                let transfer = Transfer { bytes: 0, dir, name, replaces: false };
                let action = match direction {
                    Direction::ToClient => Action::Download(transfer),
                    Direction::ToDesktop => Action::Upload(transfer),
                };
                table.decider.decide(Role::Operator, &action).is_allowed()
            }
            _ => true,
        };
        let recent = self.before.iter().filter(|(_, until)| *until > now).map(|(table, _)| table);
        if std::iter::once(&self.now).chain(recent).any(may) {
            return Ok(());
        }
        Err(Stop::Void(format!("the RDP host let something pass that may not: {}", kind(&entry.data))))
    }

    /// What holds has to be looked at again; gives what the host has to be told, if that is something new.
    fn renew(&mut self, now: Duration) -> Result<Option<Told>> {
        let policy = self.approvals.policy();
        if policy == self.now.policy {
            return Ok(None);
        }
        let before = std::mem::replace(&mut self.now, Table::new(policy)?);
        self.before.retain(|(table, until)| *until > now && table.hash != before.hash);
        self.before.push((before, now + CROSSING));
        self.number += 1;
        Ok(Some(self.tell(now)))
    }

    /// Takes a signed request; gives it with its number.
    pub(crate) fn ask(&mut self, signed: &[u8], now: Duration) -> Result<(u32, Request)> {
        let people = Arc::clone(&self.people);
        Ok(self.approvals.ask(signed, |name| people.keys(name).to_vec(), now)?)
    }

    /// Its user asks for a gate, as the device has seen on its screen and signs; gives the signed request, too.
    pub(crate) fn ask_on_screen(
        &mut self,
        gate: &Gate,
        device: &SigningKey,
        wall_ms: u64,
        now: Duration,
    ) -> Result<(Vec<u8>, (u32, Request))> {
        if !gate.is_closed(&self.now.policy) {
            return Err(Refused::Nothing.into());
        }
        let by = (device, nonce(), wall_ms);
        let change = gate.opens(&self.base, &self.now.policy);
        let place = self.approvals.challenge();
        let signed = Request::sign(place, &self.user, change, ON_SCREEN, DEFAULT_SECONDS, by)?;
        let change = Request::read(&signed)?.change;
        if self.approvals.requests().any(|open| !open.in_effect && open.request.change == change) {
            return Err(Refused::Waits.into());
        }
        // It is of its user, by whose stream it came.
        let asked = self.approvals.ask(&signed, |_| vec![device.public()], now)?;
        Ok((signed, asked))
    }

    /// An approver decides on what has that hash, as the device has seen on its screen and signs; gives the signed decision,
    /// too.
    pub(crate) fn decide_on_screen(
        &mut self,
        (approver, request, verdict): (&str, Hash, Verdict),
        device: &SigningKey,
        wall_ms: u64,
        now: Duration,
    ) -> Result<(Vec<u8>, Decided)> {
        let open = self.approvals.requests().find(|open| open.hash == request).ok_or(Refused::Unknown)?;
        let statement = Decision::sign(open.signed, self.id, approver, (verdict, ""), device, wall_ms)?;
        let decided = self.decide(&statement, Some(device), now)?;
        Ok((statement, decided))
    }

    /// Takes a signed decision; one that the device signs has to have been made on its screen.
    pub(crate) fn decide(
        &mut self,
        statement: &[u8],
        screen: Option<&SigningKey>,
        now: Duration,
    ) -> Result<Decided> {
        let lucid_policy::approval::Decided { request, decision, approver, agree, needed, standing } =
            self.approvals.decide(statement, screen.map(SigningKey::public), now)?;
        let told = self.renew(now)?;
        // There are 32 approvers at most.
        let (agree, needed) = (agree as u32, needed as u32);
        Ok(Decided { request, decision, approver, agree, needed, standing, told })
    }

    /// Ends what is over; gives what the host has to be told, if there is something or it was told nothing for a while.
    pub(crate) fn expire(&mut self, now: Duration) -> Result<(Vec<Ended>, Option<Told>)> {
        let ended = self.approvals.expire(now);
        let told = match self.renew(now)? {
            Some(told) => Some(told),
            None => (now >= self.told + BEAT).then(|| self.again(now)),
        };
        Ok((ended, told))
    }

    /// What a change means, in plain words; as it is written where it means nothing under the session's own policy.
    pub(crate) fn words(&self, change: &[Setting]) -> Vec<String> {
        let words = apply(&self.base, change).map(|then| diff(&self.base, &then).1).unwrap_or_default();
        if words.is_empty() { change.iter().map(Setting::to_string).collect() } else { words }
    }

    /// All that a change would do now, beside what is in effect: what would hold no more, what would hold instead, and the
    /// settings themselves, since one of them may mean nothing before another change.
    fn effects(&self, change: &[Setting]) -> Vec<String> {
        let now = &self.now.policy;
        let (no_longer, then) = apply(now, change).map(|then| diff(now, &then)).unwrap_or_default();
        let no_longer = no_longer.into_iter().map(|sentence| format!("No more: {sentence}"));
        let settings = change.iter().map(Setting::to_string).collect::<Vec<_>>().join(", ");
        no_longer.chain(then).chain([format!("In the policy's own words: {settings}.")]).collect()
    }

    /// What waits or is in effect, for those who decide and for its user.
    pub(crate) fn wanted(&self, now: Duration) -> Vec<Wanted> {
        let wanted = self.approvals.requests().map(|open| {
            let change = &open.request.change;
            let what = if open.in_effect { self.words(change) } else { self.effects(change) };
            let fits = what.iter().map(String::len).sum::<usize>() <= MAX_WORDS;
            Wanted {
                session: self.id.to_string(),
                request: open.hash.0.to_vec().into(),
                requester: open.request.requester.clone(),
                user: self.user.clone(),
                what: if fits { what } else { Vec::new() },
                reason: open.request.reason.clone(),
                seconds: open.request.seconds,
                agree: open.agree as u32,
                needed: open.needed as u32,
                in_effect: open.in_effect,
                left_seconds: u32::try_from(open.until.saturating_sub(now).as_secs()).unwrap_or(u32::MAX),
            }
        });
        wanted.collect()
    }

    /// For people.
    pub(crate) fn holds(&self, now: Duration) -> Result<Holds> {
        let changes = self.approvals.requests().map(|open| Change {
            number: open.number,
            request: open.signed.to_vec().into(),
            agree: open.agree as u32,
            needed: open.needed as u32,
            in_effect: open.in_effect,
            seconds: u32::try_from(open.until.saturating_sub(now).as_secs()).unwrap_or(u32::MAX),
        });
        Ok(Holds {
            table: self.now.bytes.clone().into(),
            base: self.base.to_bytes()?.into(),
            changes: changes.collect(),
            challenge: self.approvals.challenge().challenge.0.to_vec().into(),
        })
    }
}

/// Chosen at random.
fn nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    system_random().fill_bytes(&mut nonce);
    nonce
}

fn approvals(policy: &Policy, id: SessionId, user: &str, people: &People) -> Result<Approvals> {
    Ok(Approvals::new(id, user, nonce(), people.rules().cloned(), policy.clone())?)
}

fn kind(data: &Data) -> &'static str {
    match data {
        Data::Clipboard { .. } => "a paste",
        Data::File { .. } => "a file",
        _ => "something else",
    }
}
