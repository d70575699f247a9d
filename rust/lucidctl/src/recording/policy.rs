//! `lucidctl recording policy`: what a session was allowed to do, who accepted that, and who changed it; held to the keys and
//! hashes of the recording, without any service and without the owner's key.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use lucid_policy::Policy;
use lucid_policy::approval::{Decision, Request, Setting, Verdict};
use lucid_policy::consent::{Accepted, MAX_RECEIPT, Receipt, terms};
use lucid_policy::explain;
use lucid_policy::snapshot::{MAX_SNAPSHOT, Snapshot};
use lucid_recording::statement::Opening;
use lucid_recording::{Hash, PublicKey, Summary};
use serde::Serialize;

use crate::report::{json, moment, plain, span};
use crate::{Error, print};

/// The most bytes of `approvals.jsonl`: all requests of a session, each decided on by all approvers, is less.
const MAX_APPROVALS: u64 = 64 << 20;

/// `recording policy --json`
#[derive(Serialize)]
pub(crate) struct Held {
    session: String,
    device: PublicKey,
    /// Whether the device's key was named, and not taken from the recording itself.
    device_given: bool,
    consent: Option<Consent>,
    policy: Option<Policy>,
    changes: Vec<Change>,
    /// What does not hold; nothing where all of it does.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Consent {
    user: String,
    accepted: Accepted,
    signer: PublicKey,
    wall_ms: u64,
    /// Whether the terms were those of the policy alone; the owner may have added something.
    terms_of_policy_alone: bool,
}

/// What was asked for, or decided.
#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
enum Change {
    Request {
        requester: String,
        change: Vec<String>,
        reason: String,
        seconds: u32,
        signer: PublicKey,
        /// The device has seen him ask, and signs that.
        on_screen: bool,
        wall_ms: u64,
        hash: Hash,
    },
    Decision {
        approver: String,
        verdict: Verdict,
        reason: String,
        signer: PublicKey,
        /// The device has seen him decide, and signs that.
        on_screen: bool,
        wall_ms: u64,
        request: Hash,
    },
}

/// A file beside the recording; none where it is missing.
fn beside(directory: &Path, name: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
    let path = directory.join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Read(path, error)),
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::Read(path, error))?;
    Ok(Some(bytes))
}

/// Says whether all of it holds.
pub(super) fn run(directory: &Path, device: Option<PublicKey>, as_json: bool) -> Result<bool, Error> {
    let opening = Summary::read(directory, device.as_ref())?.opening;
    let mut problems = Vec::new();
    let consent = consent(directory, &opening, &mut problems)?;
    let policy = policy(directory, &opening, &mut problems)?;
    let observers: Vec<PublicKey> = opening
        .participants
        .iter()
        .filter(|participant| participant.role == "observer")
        .map(|participant| participant.key)
        .collect();
    let consent = consent.map(|(consent, hash)| {
        let alone = |policy| hash == blake3::hash(terms(policy, &observers, "").as_bytes()).into();
        let alone = policy.as_ref().is_some_and(alone);
        Consent { terms_of_policy_alone: alone, ..consent }
    });
    let changes = changes(directory, &opening, &mut problems)?;
    let held = Held {
        session: opening.session.to_string(),
        device: opening.device,
        device_given: device.is_some(),
        consent,
        policy,
        changes,
        problems,
    };
    print(&if as_json { json(&held) } else { text(&held) })?;
    Ok(held.problems.is_empty())
}

fn consent(
    directory: &Path,
    opening: &Opening,
    problems: &mut Vec<String>,
) -> Result<Option<(Consent, Hash)>, Error> {
    let Some(named) = opening.consent else {
        problems.push("nobody accepted anything: the recording names no receipt".to_owned());
        return Ok(None);
    };
    let Some(file) = beside(directory, "consent.json", MAX_RECEIPT)? else {
        problems.push("consent.json is missing".to_owned());
        return Ok(None);
    };
    let receipt = match Receipt::read(&file) {
        Ok(receipt) => receipt,
        Err(error) => {
            problems.push(format!("consent.json: {error}"));
            return Ok(None);
        }
    };
    let user = opening.participants.iter().find(|participant| participant.role == "user");
    let seen = receipt.accepted != Accepted::Screen || receipt.signer == opening.device;
    for (holds, problem) in [
        (named == blake3::hash(&file).into(), "it is not the receipt that the recording names"),
        (receipt.session == opening.session, "it is of another session"),
        (receipt.policy == opening.policy, "it accepts another policy than the recording names"),
        (user.is_some_and(|user| user.name == receipt.user), "it is of another user"),
        (user.is_some_and(|user| user.key == receipt.session_key), "it names another session key"),
        (seen, "the device says that it was accepted on its screen, and has not signed it"),
    ] {
        if !holds {
            problems.push(format!("consent.json: {problem}"));
        }
    }
    let Receipt { user, accepted, signer, wall_ms, terms, .. } = receipt;
    Ok(Some((Consent { user, accepted, signer, wall_ms, terms_of_policy_alone: false }, terms)))
}

fn policy(directory: &Path, opening: &Opening, problems: &mut Vec<String>) -> Result<Option<Policy>, Error> {
    let Some(file) = beside(directory, "snapshot.json", MAX_SNAPSHOT)? else {
        problems.push("snapshot.json is missing: what was decided by is not known".to_owned());
        return Ok(None);
    };
    match Snapshot::read(&file, &opening.device, opening.session) {
        Ok(snapshot) => {
            if snapshot.policy.hash().ok() != Some(opening.policy) {
                problems.push("snapshot.json: it is of another policy than the recording names".to_owned());
            }
            Ok(Some(snapshot.policy))
        }
        Err(error) => {
            problems.push(format!("snapshot.json: {error}"));
            Ok(None)
        }
    }
}

fn changes(directory: &Path, opening: &Opening, problems: &mut Vec<String>) -> Result<Vec<Change>, Error> {
    let Some(file) = beside(directory, "approvals.jsonl", MAX_APPROVALS)? else { return Ok(Vec::new()) };
    let user = opening.participants.iter().find(|participant| participant.role == "user");
    let mut changes = Vec::new();
    let mut asked: Vec<(Hash, String)> = Vec::new();
    for (number, line) in file.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let mut wrong = |why: &str| problems.push(format!("approvals.jsonl, line {}: {why}", number + 1));
        if let Ok(request) = Request::read(line) {
            if request.session != opening.session || request.policy != opening.policy {
                wrong("a request of another session or policy");
            }
            let hash: Hash = blake3::hash(line).into();
            let Request { requester, change, reason, seconds, signer, wall_ms, .. } = request;
            let on_screen = signer == opening.device;
            if on_screen && user.is_none_or(|user| user.name != requester) {
                wrong("the device signs that it has seen somebody else ask than the session's user");
            }
            asked.push((hash, requester.to_lowercase()));
            let change = change.iter().map(Setting::to_string).collect();
            changes.push(Change::Request {
                requester,
                change,
                reason,
                seconds,
                signer,
                on_screen,
                wall_ms,
                hash,
            });
        } else if let Ok(decision) = Decision::read(line) {
            let Decision { approver, reason, request, session, signer, verdict, wall_ms, .. } = decision;
            let on = asked.iter().find(|(hash, _)| *hash == request);
            if session != opening.session || on.is_none() {
                wrong("a decision on nothing that was asked for here");
            }
            let name = approver.to_lowercase();
            let own = |user: &str| user.to_lowercase() == name;
            if on.is_some_and(|(_, requester)| own(requester)) || user.is_some_and(|user| own(&user.name)) {
                wrong("somebody decided for himself");
            }
            let on_screen = signer == opening.device;
            changes.push(Change::Decision { approver, verdict, reason, signer, on_screen, wall_ms, request });
        } else {
            wrong("neither a request nor a decision, or changed since it was signed");
        }
    }
    Ok(changes)
}

fn text(held: &Held) -> String {
    let Held { session, device, device_given, consent, policy, changes, problems } = held;
    let mut text = format!("Session   {session}\n");
    if let Some(Consent { user, accepted, signer, wall_ms, terms_of_policy_alone }) = consent {
        let how = match accepted {
            Accepted::Screen => "on the screen, which the device signs".to_owned(),
            Accepted::Signature => format!("by the key {signer}"),
        };
        let added = if *terms_of_policy_alone { "" } else { ", with words that the owner added" };
        let _ = writeln!(text, "Accepted  by {}, {how}, {}{added}", plain(user), moment(*wall_ms));
    }
    if let Some(policy) = policy {
        let _ = writeln!(text, "Policy    {}\n", policy.profile().name());
        for sentence in explain(policy) {
            let _ = writeln!(text, "- {}", plain(&sentence));
        }
    }
    if !changes.is_empty() {
        text.push('\n');
    }
    let by = |on_screen: &bool, signer: &PublicKey| {
        if *on_screen { "on the screen".to_owned() } else { format!("by the key {signer}") }
    };
    for change in changes {
        let _ = match change {
            Change::Request { requester, change, reason, seconds, signer, on_screen, wall_ms, .. } => {
                writeln!(
                    text,
                    "{} {}, {}, asks for {}: {} ({})",
                    moment(*wall_ms),
                    plain(requester),
                    by(on_screen, signer),
                    span((*seconds).into()),
                    plain(&change.join(" ")),
                    plain(reason)
                )
            }
            Change::Decision { approver, verdict, reason, signer, on_screen, wall_ms, .. } => {
                let verdict = if *verdict == Verdict::Allow { "allows it" } else { "turns it down" };
                let (approver, by) = (plain(approver), by(on_screen, signer));
                writeln!(text, "{} {approver}, {by}, {verdict} {}", moment(*wall_ms), plain(reason))
            }
        };
    }
    text.push('\n');
    for problem in problems {
        let _ = writeln!(text, "Wrong: {}", plain(problem));
    }
    if problems.is_empty() {
        text.push_str("All of it holds.");
        if !device_given {
            let _ = write!(text, " This proves something only if {device} is your device's key.");
        }
        text.push('\n');
    }
    text
}
