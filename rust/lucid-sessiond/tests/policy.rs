//! What a session may do, from its beginning to its end: consent, what is enforced, approvals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use lucid_accounts::{Account, Accounts, Password, Role};
use lucid_audit::{Actor, Data, Event, Kind};
use lucid_ipc::{
    accounts::{SetClosedRequest, accounts_client::AccountsClient},
    connect,
    session::{
        self, AcceptRequest, Answer, AskFor, AskRequest, Begin, Clipboard, DecideRequest, Decided,
        DeskDecision, DeskRequest, Direction, Enforced, FromRecorder, GetRequest, Holds, Outcome,
        PrepareRequest, Prepared, State, ToRecorder, Violation, Waiting, Wanted, event, from_recorder,
        recorder_client::RecorderClient, sessions_client::SessionsClient, to_recorder,
    },
    tonic::{Code, Status, Streaming, transport::Channel},
};
use lucid_policy::{
    OnViolation, Policy,
    approval::{Decision, Place, Request, Verdict},
    consent::{Accepted, Receipt},
    snapshot::Snapshot,
};
use lucid_recording::{Hex, SigningKey, rand_core::Rng as _, statement::Opening};
use support::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

fn within<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONGEST, test).await.expect("it hangs") })
}

fn person(byte: u8) -> SigningKey {
    SigningKey::from_seed(&[byte; 32]).unwrap()
}

/// Those who have a key.
const PEOPLE: [(&str, u8); 3] = [(USER, 1), ("bob", 2), ("eve", 3)];

/// Ada uses the desktop and may approve; Bob and Eve may approve, and so may Zoe, who has no key.
fn with_people(dir: &Path, needed: usize) -> lucid_sessiond::Options {
    let mut accounts = Accounts::default();
    for (name, byte) in PEOPLE {
        let mut account = Account::new(name, [Role::Approver]).unwrap();
        account.keys.push(person(byte).public());
        account.roles.extend((name == USER).then_some(Role::Operator));
        accounts.add(account).unwrap();
    }
    let mut zoe = Account::new("Zoe", [Role::Approver]).unwrap();
    zoe.set_password(Some(Password::of_nt_hash(Hex([7; 16]))));
    accounts.add(zoe).unwrap();
    let options = options(dir);
    fs::create_dir_all(&options.state).unwrap();
    fs::write(options.state.join("accounts.json"), accounts.to_bytes().unwrap()).unwrap();
    lucid_sessiond::Options { policy: Policy::standard(), approvers_needed: needed, ..options }
}

async fn sessions(socket: &Path) -> SessionsClient<Channel> {
    SessionsClient::new(connect(socket).await.unwrap())
}

async fn prepare(socket: &Path, table: &[u8]) -> Prepared {
    let request = PrepareRequest { user: USER.to_owned(), table: table.to_vec().into() };
    sessions(socket).await.prepare(request).await.unwrap().into_inner()
}

fn receipt(prepared: &Prepared, user: &str, key: &SigningKey) -> Vec<u8> {
    let of = (prepared.session.parse().unwrap(), prepared.session_key.parse().unwrap());
    let policy = Policy::from_bytes(&prepared.table).unwrap().hash().unwrap();
    let terms = blake3::hash(prepared.terms.as_bytes()).into();
    let now = lucid_sessiond::system_clock()();
    Receipt::new(Accepted::Signature, of, user, (policy, terms), key.public(), now).sign(key).unwrap()
}

async fn accept(socket: &Path, receipt: Vec<u8>) -> Result<(), Status> {
    sessions(socket).await.accept(AcceptRequest { receipt: receipt.into() }).await.map(drop)
}

/// Begins, and answers what is asked; gives what was asked, and what came next.
async fn begin(socket: &Path, answer: Option<bool>) -> (Option<String>, Result<FromRecorder, Status>) {
    let (send, items) = mpsc::channel(4);
    let begin = Begin { user: USER.to_owned(), width: 640, height: 480, ..Begin::default() };
    send.send(ToRecorder { item: Some(to_recorder::Item::Begin(begin)) }).await.unwrap();
    let mut client = RecorderClient::new(connect(socket).await.unwrap());
    let mut answers = client.record(ReceiverStream::new(items)).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap();
    let Some(from_recorder::Item::Asking(asking)) = &first.item else { return (None, Ok(first)) };
    let terms = Some(asking.terms.clone());
    match answer {
        Some(accepted) => {
            let answer = to_recorder::Item::Answer(Answer { accepted });
            send.send(ToRecorder { item: Some(answer) }).await.unwrap();
        }
        // Something else than the answer.
        None => send.send(ToRecorder { item: Some(frame(b"x")) }).await.unwrap(),
    }
    (terms, answers.message().await.map(Option::unwrap))
}

fn opening(dir: &Path) -> Opening {
    let bytes = fs::read(dir.join("opening.json")).unwrap();
    lucid_statement::json::from_bytes::<lucid_statement::Signed<Opening>>("the opening", &bytes).unwrap().body
}

async fn told(caller: &mut Caller, policies: usize) {
    while caller.policies.len() < policies {
        caller.answer().await.unwrap().expect("it ended");
    }
}

/// The events of a recording that has ended.
fn told_events(dir: &Path) -> Vec<Event> {
    sound_recording(dir);
    events(&read(dir, &owner()), manifest(dir).audit.map(|audit| audit.hash))
}

/// How a session ended, as its recording says.
fn ending(dir: &Path) -> (lucid_audit::Outcome, String) {
    let events = told_events(dir);
    let last = events.last().unwrap();
    let Data::End { reason } = &last.data else { panic!("{last:?}") };
    (last.outcome, reason.to_string())
}

#[test]
fn nothing_begins_before_its_user_accepts_and_what_he_accepted_lies_beside_the_recording() {
    within(async {
        let dir = temp();
        let options = lucid_sessiond::Options { terms: "Be kind.".to_owned(), ..with_people(dir.path(), 1) };
        let recorder = Recorder::start(options).await;
        for answer in [Some(false), None] {
            let (asked, then) = begin(&recorder.socket, answer).await;
            let asked = asked.unwrap();
            assert!(asked.contains("Every key can be pressed") && asked.ends_with("Be kind.\n"), "{asked}");
            let code = then.unwrap_err().code();
            assert_eq!(code, if answer.is_some() { Code::PermissionDenied } else { Code::InvalidArgument });
            assert!(list(&recorder.socket).await.is_empty());
        }
        let caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let (place, session) = (recorder.dir(&caller.session), caller.session.clone());
        caller.end().await;
        let file = fs::read(place.join("consent.json")).unwrap();
        let receipt = Receipt::read(&file).unwrap();
        let opening = opening(&place);
        assert_eq!(opening.consent, Some(blake3::hash(&file).into()));
        assert_eq!(opening.policy, Policy::standard().hash().unwrap());
        assert_eq!(
            (receipt.accepted, receipt.signer, receipt.user.as_str()),
            (Accepted::Screen, opening.device, USER)
        );
        assert_eq!((receipt.policy, receipt.session.to_string()), (opening.policy, session));
        assert_eq!(opening.participants[0].key, receipt.session_key);
        let snapshot = fs::read(place.join("snapshot.json")).unwrap();
        let snapshot = Snapshot::read(&snapshot, &opening.device, receipt.session).unwrap();
        assert_eq!(snapshot.policy, Policy::standard());
        assert_eq!(told_events(&place)[0].data, Data::Consent { receipt: blake3::hash(&file).into() });
        recorder.stop().await;
    });
}

#[test]
fn a_receipt_begins_its_session_once_and_no_forged_or_foreign_one_does() {
    within(async {
        let dir = temp();
        let mut recorder = Recorder::start(with_people(dir.path(), 1)).await;
        let table = Policy::strict().to_bytes().unwrap();
        let wider = PrepareRequest { user: USER.to_owned(), table: open().to_bytes().unwrap().into() };
        let refused = sessions(&recorder.socket).await.prepare(wider).await.unwrap_err();
        assert!(refused.message().contains("more than the device's"), "{refused:?}");
        let prepared = prepare(&recorder.socket, &table).await;
        assert_eq!(prepared.table.to_vec(), table);
        let good = receipt(&prepared, USER, &person(1));
        let other =
            Prepared { session: "00000000-0000-4000-8000-000000000000".to_owned(), ..prepared.clone() };
        let lax = Prepared { table: open().to_bytes().unwrap().into(), ..prepared.clone() };
        let terms = Prepared { terms: "All is well.".to_owned(), ..prepared.clone() };
        let mut forged = good.clone();
        let place = forged.len() - 10;
        forged[place] = if forged[place] == b'0' { b'1' } else { b'0' };
        for (bad, why) in [
            (forged, "not signed by"),
            (receipt(&prepared, USER, &person(2)), "none of this user's"),
            (receipt(&prepared, "bob", &person(2)), "none of this user's"),
            (receipt(&other, USER, &person(1)), "not prepared"),
            (receipt(&lax, USER, &person(1)), "another policy"),
            (receipt(&terms, USER, &person(1)), "other terms"),
        ] {
            let status = accept(&recorder.socket, bad).await.unwrap_err();
            assert!(status.message().contains(why), "{why}: {status:?}");
        }
        assert!(begin(&recorder.socket, Some(false)).await.0.is_some(), "he is still asked");
        accept(&recorder.socket, good.clone()).await.unwrap();
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        assert_eq!(caller.session, prepared.session);
        told(&mut caller, 1).await;
        assert_eq!(caller.policies, [Policy::strict()]);
        let place = recorder.dir(&caller.session);
        assert_eq!(fs::read(place.join("consent.json")).unwrap(), good);
        caller.end().await;
        for restarted in [false, true] {
            if restarted {
                recorder.stop().await;
                recorder = Recorder::start(with_people(dir.path(), 1)).await;
            }
            let status = accept(&recorder.socket, good.clone()).await.unwrap_err();
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
            assert!(begin(&recorder.socket, Some(false)).await.0.is_some());
        }
        let used = fs::read_to_string(dir.path().join("state/used-sessions")).unwrap();
        assert!(used.lines().any(|line| line == prepared.session), "{used}");
        recorder.stop().await;
    });
}

#[test]
fn a_host_that_enforces_another_policy_or_does_not_say_which_voids_its_session() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(with_people(dir.path(), 1)).await;
        for says in [Some((0, [7; 32])), Some((1, [7; 32])), None] {
            let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
            caller.honest = false;
            told(&mut caller, 1).await;
            if let Some((number, hash)) = says {
                let enforced = Enforced { number, hash: hash.to_vec().into() };
                caller.send(to_recorder::Item::Enforced(enforced)).await;
            }
            while caller.answer().await.unwrap().is_some() {}
            let over = caller.over.clone().unwrap();
            let does = match says {
                Some(_) => "enforces another policy than the one that was decided",
                None => "does not say which policy it enforces",
            };
            assert_eq!(over, format!("void: the RDP host {does}"));
            until(&recorder.socket, &caller.session, State::Finished).await;
            assert_eq!(ending(&recorder.dir(&caller.session)), (lucid_audit::Outcome::Failed, over));
        }
        recorder.stop().await;
    });
}

fn pasted(bytes: u64, outcome: Outcome) -> to_recorder::Item {
    let data = Clipboard {
        direction: Direction::ToClient.into(),
        r#type: "text/plain".to_owned(),
        bytes,
        hash: vec![1; 32].into(),
    };
    let to_recorder::Item::Event(mut event) = said(event::Data::Clipboard(data)) else { unreachable!() };
    event.outcome = outcome.into();
    to_recorder::Item::Event(event)
}

#[test]
fn what_passed_though_it_may_not_voids_the_session_and_what_was_refused_does_not() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(with_people(dir.path(), 1)).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        caller.send(pasted(5, Outcome::Refused)).await;
        caller.all_kept().await;
        caller.send(pasted(5, Outcome::Allowed)).await;
        while caller.answer().await.unwrap().is_some() {}
        assert_eq!(
            caller.over.as_deref(),
            Some("void: the RDP host let something pass that may not: a paste")
        );
        recorder.stop().await;
    });
}

fn tried() -> to_recorder::Item {
    let violation = Violation { rule: "input.kb_enabled".to_owned(), detail: "3 keys".to_owned() };
    said(event::Data::Violation(violation))
}

#[test]
fn what_is_tried_ends_the_session_where_the_policy_says_so() {
    within(async {
        for violation in [OnViolation::Refuse, OnViolation::End] {
            let dir = temp();
            let policy = Policy { violation, ..Policy::strict() };
            let recorder =
                Recorder::start(lucid_sessiond::Options { policy, ..with_people(dir.path(), 1) }).await;
            let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
            caller.send(tried()).await;
            if violation == OnViolation::Refuse {
                caller.all_kept().await;
                caller.end().await;
            } else {
                while caller.answer().await.unwrap().is_some() {}
                assert!(caller.over.clone().unwrap().contains("input.kb_enabled"));
                until(&recorder.socket, &caller.session, State::Finished).await;
                let (outcome, reason) = ending(&recorder.dir(&caller.session));
                assert_eq!(outcome, lucid_audit::Outcome::Allowed, "{reason}: not void");
            }
            recorder.stop().await;
        }
    });
}

/// Signs as Ada, or another one.
async fn signed(socket: &Path, session: &str, change: &str, seconds: u32, (name, by): (&str, u8)) -> Vec<u8> {
    sign(&holds(socket, session).await, session, change, seconds, (name, by))
}

fn sign(holds: &Holds, session: &str, change: &str, seconds: u32, (name, by): (&str, u8)) -> Vec<u8> {
    let base = Policy::from_bytes(&holds.base).unwrap();
    let place = Place {
        session: session.parse().unwrap(),
        policy: base.hash().unwrap(),
        challenge: lucid_recording::Hex(holds.challenge.to_vec().try_into().unwrap()),
    };
    let mut nonce = [0; 16];
    lucid_recording::system_random().fill_bytes(&mut nonce);
    let change = vec![change.parse().unwrap()];
    Request::sign(place, name, change, "to paste a number", seconds, (&person(by), nonce, 1)).unwrap()
}

async fn send(socket: &Path, request: &[u8]) -> Result<u32, Status> {
    let asking = AskRequest { request: request.to_vec().into() };
    Ok(sessions(socket).await.ask(asking).await?.into_inner().number)
}

async fn ask(socket: &Path, session: &str, change: &str, seconds: u32) -> Result<Vec<u8>, Status> {
    let request = sign(&look(socket, session).await?, session, change, seconds, (USER, 1));
    send(socket, &request).await.map(|_| request)
}

async fn decide(
    socket: &Path,
    session: &str,
    request: &[u8],
    by: u8,
    verdict: Verdict,
) -> Result<Decided, Status> {
    let name = PEOPLE.iter().find(|(_, byte)| *byte == by).map_or("nobody", |(name, _)| name);
    let (session, verdict) = (session.parse().unwrap(), (verdict, ""));
    let decision = Decision::sign(request, session, name, verdict, &person(by), 1).unwrap();
    let request = DecideRequest { decision: decision.into() };
    Ok(sessions(socket).await.decide(request).await?.into_inner())
}

async fn holds(socket: &Path, session: &str) -> Holds {
    look(socket, session).await.unwrap()
}

async fn look(socket: &Path, session: &str) -> Result<Holds, Status> {
    let request = GetRequest { session: session.to_owned() };
    Ok(sessions(socket).await.get_policy(request).await?.into_inner())
}

const CHANGE: &str = "clipboard.host_to_remote=true";

#[test]
fn an_approval_by_others_opens_a_gate_at_once_and_it_closes_by_itself() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(with_people(dir.path(), 2)).await;
        let socket = &recorder.socket;
        let mut caller = Caller::begin(socket, USER, "").await.unwrap();
        told(&mut caller, 1).await;
        let session = caller.session.clone();
        let request = ask(socket, &session, CHANGE, 1).await.unwrap();
        assert_eq!(holds(socket, &session).await.changes[0].request.to_vec(), request);
        let own = decide(socket, &session, &request, 1, Verdict::Allow).await.unwrap_err();
        assert_eq!(own.code(), Code::PermissionDenied);
        assert!(own.message().contains("himself"), "{own:?}");
        let first = decide(socket, &session, &request, 2, Verdict::Allow).await.unwrap();
        assert_eq!((first.agree, first.needed, first.seconds), (1, 2, 0));
        let began = Instant::now();
        let second = decide(socket, &session, &request, 3, Verdict::Allow).await.unwrap();
        assert_eq!((second.agree, second.needed, second.seconds), (2, 2, 1));
        told(&mut caller, 2).await;
        eprintln!("told {} ms after the decision was sent", began.elapsed().as_millis());
        assert!(caller.policies[1].clipboard.host_to_remote);
        caller.send(pasted(5, Outcome::Allowed)).await;
        told(&mut caller, 3).await;
        assert_eq!(caller.policies[2], Policy::standard());
        assert!(holds(socket, &session).await.changes.is_empty());
        // Its end was told late by what crossed just before.
        caller.send(pasted(5, Outcome::Allowed)).await;
        caller.all_kept().await;

        let denied = ask(socket, &session, CHANGE, 60).await.unwrap();
        let said = decide(socket, &session, &denied, 2, Verdict::Deny).await.unwrap();
        assert_eq!((said.agree, said.needed, said.seconds), (0, 0, 0));
        let late = decide(socket, &session, &denied, 3, Verdict::Allow).await.unwrap_err();
        assert!(late.message().contains("no such request"), "{late:?}");
        let wrong = ask(socket, &session, "clipboard.max_bytes=0", 1).await.unwrap_err();
        assert!(wrong.message().contains("clipboard.max_bytes"), "{wrong:?}");
        let again = send(socket, &denied).await.unwrap_err();
        assert!(again.message().contains("taken once"), "{again:?}");
        let anothers = signed(socket, &session, CHANGE, 1, (USER, 2)).await;
        assert!(send(socket, &anothers).await.unwrap_err().message().contains("none of the requester's"));

        let place = recorder.dir(&session);
        caller.end().await;
        assert_eq!(send(socket, &anothers).await.unwrap_err().code(), Code::NotFound);
        let kept = fs::read_to_string(place.join("approvals.jsonl")).unwrap();
        let statements = kept.lines().filter(|line| line.as_bytes() == request).count();
        assert_eq!((statements, kept.lines().count()), (1, 5), "two requests, three decisions");
        let told = told_events(&place);
        let of_policy =
            [Kind::Consent, Kind::Request, Kind::Approve, Kind::Deny, Kind::Lapse, Kind::Violation];
        let kinds: Vec<_> =
            told.iter().map(|event| event.kind).filter(|kind| of_policy.contains(kind)).collect();
        let expected = [
            Kind::Consent,
            Kind::Request,
            Kind::Violation,
            Kind::Approve,
            Kind::Approve,
            Kind::Lapse,
            Kind::Request,
            Kind::Deny,
            Kind::Violation,
            Kind::Violation,
            Kind::Violation,
            Kind::Violation,
        ];
        assert_eq!(kinds, expected);
        let approvers: Vec<_> = told
            .iter()
            .filter_map(|event| match &event.data {
                Data::Approve { approver, .. } if event.actor == Actor::Approver => {
                    Some(approver.to_string())
                }
                _ => None,
            })
            .collect();
        assert_eq!(approvers, ["bob", "eve"]);
        recorder.stop().await;
    });
}

async fn recorder_client(socket: &Path) -> RecorderClient<Channel> {
    RecorderClient::new(connect(socket).await.unwrap())
}

/// What somebody is shown who may decide.
async fn desk(socket: &Path, user: &str) -> Result<Streaming<Waiting>, Status> {
    let request = DeskRequest { user: user.to_owned() };
    Ok(recorder_client(socket).await.desk(request).await?.into_inner())
}

async fn wanted(desk: &mut Streaming<Waiting>) -> Vec<Wanted> {
    desk.message().await.unwrap().unwrap().wanted
}

async fn decide_there(socket: &Path, user: &str, wanted: &Wanted, allow: bool) -> Result<Decided, Status> {
    let (session, request) = (wanted.session.clone(), wanted.request.clone());
    let decision = DeskDecision { user: user.to_owned(), session, request, allow };
    Ok(recorder_client(socket).await.decide_at_desk(decision).await?.into_inner())
}

/// Asks on the screen; gives what is said then.
async fn ask_there(caller: &mut Caller, gate: &str) -> String {
    caller.send(to_recorder::Item::AskFor(AskFor { gate: gate.to_owned() })).await;
    news(caller).await
}

/// What is said next of requests.
async fn news(caller: &mut Caller) -> String {
    let before = caller.requests.clone();
    while caller.requests == before {
        caller.answer().await.unwrap().expect("it ended");
    }
    caller.requests.news.clone()
}

#[test]
fn what_is_asked_for_on_the_screen_is_decided_at_the_desk_by_those_who_may() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(with_people(dir.path(), 1)).await;
        let socket = &recorder.socket;
        for nobody in [USER, "nobody", ""] {
            assert_eq!(desk(socket, nobody).await.unwrap_err().code(), Code::PermissionDenied, "{nobody}");
        }
        assert_eq!(code(Caller::begin(socket, "zoe", "").await), Code::PermissionDenied, "no desktop");
        let mut zoes = desk(socket, "ZOE").await.unwrap();
        assert_eq!(wanted(&mut zoes).await, []);
        let mut caller = Caller::begin(socket, USER, "").await.unwrap();
        told(&mut caller, 1).await;
        let session = caller.session.clone();

        let said = ask_there(&mut caller, "copy-from-desktop").await;
        assert!(said.starts_with("Asked for") && said.contains("can be pasted at the client"), "{said}");
        let waits = wanted(&mut zoes).await;
        let [first] = waits.as_slice() else { panic!("{waits:?}") };
        assert_eq!((first.requester.as_str(), first.user.as_str(), first.seconds), (USER, USER, 300));
        assert_eq!((first.agree, first.needed, first.in_effect), (0, 1, false));
        let [no_longer, then, written] = first.what.as_slice() else { panic!("{first:?}") };
        assert!(no_longer.starts_with("No more: Nothing that is copied on the desktop"), "{no_longer}");
        assert!(then.contains("can be pasted at the client"), "{then}");
        assert_eq!(written, "In the policy's own words: clipboard.host_to_remote=true.");
        let said = ask_there(&mut caller, "copy-from-desktop").await;
        assert!(said.contains("asked for already"), "{said}");
        assert!(ask_there(&mut caller, "sound").await.contains("allowed already"));
        for nobody in [USER, "nobody"] {
            let refused = decide_there(socket, nobody, first, true).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{nobody}");
        }
        let denied = decide_there(socket, "zoe", first, false).await.unwrap();
        assert_eq!((denied.agree, denied.needed, denied.seconds), (0, 0, 0));
        assert!(news(&mut caller).await.starts_with("Turned down by Zoe"));
        assert_eq!(wanted(&mut zoes).await, []);
        let late = decide_there(socket, "zoe", first, true).await.unwrap_err();
        assert!(late.message().contains("no such request"), "{late:?}");

        ask_there(&mut caller, "copy-from-desktop").await;
        let waits = wanted(&mut zoes).await;
        let allowed = decide_there(socket, "zoe", &waits[0], true).await.unwrap();
        assert_eq!((allowed.agree, allowed.needed, allowed.seconds), (1, 1, 300));
        told(&mut caller, 2).await;
        assert!(caller.policies[1].clipboard.host_to_remote);
        while !caller.requests.news.starts_with("Approved by Zoe") {
            caller.answer().await.unwrap().expect("it ended");
        }
        assert!(caller.requests.wanted[0].in_effect && caller.requests.wanted[0].left_seconds > 290);
        assert_eq!(wanted(&mut zoes).await, [], "what is in effect is not decided on");

        // Nobody decides on what he asks for himself, wherever he does.
        let bobs = signed(socket, &session, "system.audio_out=false", 60, ("bob", 2)).await;
        send(socket, &bobs).await.unwrap();
        let waits = wanted(&mut zoes).await;
        let own = decide_there(socket, "BOB", &waits[0], true).await.unwrap_err();
        assert!(own.message().contains("himself"), "{own:?}");

        // Who is kept out decides no more.
        let closed = SetClosedRequest { name: "zoe".to_owned(), closed: true };
        AccountsClient::new(connect(socket).await.unwrap()).set_closed(closed).await.unwrap();
        let refused = decide_there(socket, "zoe", &waits[0], true).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let over = loop {
            if let Err(status) = zoes.message().await {
                break status;
            }
        };
        assert_eq!(over.code(), Code::PermissionDenied);

        let place = recorder.dir(&session);
        caller.end().await;
        let device = opening(&place).device;
        let kept = fs::read_to_string(place.join("approvals.jsonl")).unwrap();
        let lines: Vec<_> = kept.lines().map(str::as_bytes).collect();
        assert_eq!(lines.len(), 5, "three requests, two decisions");
        for line in [lines[0], lines[2]] {
            let request = Request::read(line).unwrap();
            assert_eq!((request.requester.as_str(), request.signer), (USER, device));
        }
        for line in [lines[1], lines[3]] {
            let decision = Decision::read(line).unwrap();
            assert_eq!((decision.approver.as_str(), decision.signer), ("Zoe", device));
        }
        let denied = told_events(&place).into_iter().filter(|event| event.kind == Kind::Deny).count();
        assert_eq!(denied, 1);
        recorder.stop().await;
    });
}

#[test]
fn of_two_who_have_to_agree_one_decides_at_the_desk_and_who_has_a_key_does_not() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(with_people(dir.path(), 2)).await;
        let socket = &recorder.socket;
        let mut caller = Caller::begin(socket, USER, "").await.unwrap();
        told(&mut caller, 1).await;
        let session = caller.session.clone();
        let request = ask(socket, &session, CHANGE, 60).await.unwrap();
        let mut bobs = desk(socket, "bob").await.unwrap();
        let waits = wanted(&mut bobs).await;
        let first = decide(socket, &session, &request, 2, Verdict::Allow).await.unwrap();
        assert_eq!((first.agree, first.seconds), (1, 0));
        let seen = decide_there(socket, "Bob", &waits[0], true).await.unwrap_err();
        assert!(seen.message().contains("has a key"), "{seen:?}");
        let second = decide_there(socket, "zoe", &waits[0], true).await.unwrap();
        assert_eq!((second.agree, second.seconds), (2, 60));
        told(&mut caller, 2).await;
        let unknown = to_recorder::Item::AskFor(AskFor { gate: "everything".to_owned() });
        caller.send(unknown).await;
        assert_eq!(caller.failure().await.code(), Code::InvalidArgument);
        recorder.stop().await;
    });
}

#[test]
fn what_was_approved_ends_with_the_controller_and_a_changed_snapshot_ends_the_session() {
    within(async {
        for tampered in [false, true] {
            let dir = temp();
            let recorder = Recorder::start(with_people(dir.path(), 1)).await;
            let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
            told(&mut caller, 1).await;
            let session = caller.session.clone();
            let request = ask(&recorder.socket, &session, CHANGE, 3600).await.unwrap();
            decide(&recorder.socket, &session, &request, 2, Verdict::Allow).await.unwrap();
            told(&mut caller, 2).await;
            recorder.stop().await;
            drop(caller);
            let snapshot = dir.path().join("state/recordings").join(&session).join("snapshot.json");
            if tampered {
                let text = fs::read_to_string(&snapshot).unwrap();
                fs::write(&snapshot, text.replacen("\"host_to_remote\":false", "\"host_to_remote\":true", 1))
                    .unwrap();
            }
            let recorder = Recorder::start(with_people(dir.path(), 1)).await;
            if tampered {
                let ended = until(&recorder.socket, &session, State::Recovered).await;
                assert_eq!(
                    code(Caller::begin(&recorder.socket, USER, &session).await),
                    Code::NotFound,
                    "{ended:?}"
                );
            } else {
                until(&recorder.socket, &session, State::Waiting).await;
                let mut caller = Caller::begin(&recorder.socket, USER, &session).await.unwrap();
                told(&mut caller, 1).await;
                assert_eq!(caller.policies, [Policy::standard()], "the approval is gone");
                caller.end().await;
            }
            recorder.stop().await;
        }
    });
}

#[test]
fn there_are_no_more_sessions_than_the_policy_allows_and_one_can_be_ended() {
    within(async {
        let dir = temp();
        let mut policy = Policy::standard();
        policy.limits.concurrent_sessions = 1;
        let recorder =
            Recorder::start(lucid_sessiond::Options { policy, ..with_people(dir.path(), 1) }).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        assert_eq!(code(Caller::begin(&recorder.socket, "carol", "").await), Code::ResourceExhausted);
        let request = session::EndRequest { session: caller.session.clone(), reason: "lunch".to_owned() };
        sessions(&recorder.socket).await.end(request).await.unwrap();
        while caller.answer().await.unwrap().is_some() {}
        assert_eq!(caller.over.as_deref(), Some("lunch"));
        until(&recorder.socket, &caller.session, State::Finished).await;
        Caller::begin(&recorder.socket, "carol", "").await.unwrap().end().await;
        recorder.stop().await;
    });
}

#[test]
fn who_may_not_use_the_device_any_more_has_no_session_any_more() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(with_people(dir.path(), 1)).await;
        let mut caller = Caller::begin(&recorder.socket, USER, "").await.unwrap();
        let mut other = Caller::begin(&recorder.socket, "carol", "").await.unwrap();
        let closed = SetClosedRequest { name: USER.to_owned(), closed: true };
        AccountsClient::new(connect(&recorder.socket).await.unwrap()).set_closed(closed).await.unwrap();
        while caller.answer().await.unwrap().is_some() {}
        assert_eq!(caller.over.as_deref(), Some("its user may not use the device any more"));
        until(&recorder.socket, &caller.session, State::Finished).await;
        assert!(other.over.is_none());
        other.send(key(1, 1, [0; 3])).await;
        other.end().await;
        recorder.stop().await;
    });
}

/// xorshift64
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[test]
fn whatever_happens_in_whatever_order_what_is_over_stays_over_and_every_recording_holds() {
    within(async {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut begun, mut over, mut opened) = (0, 0, 0);
        for _ in 0..12 {
            let dir = temp();
            let options = lucid_sessiond::Options {
                resume_for: Duration::from_millis(300),
                ..with_people(dir.path(), 1)
            };
            let recorder = Recorder::start(options).await;
            let socket = recorder.socket.clone();
            // Of the session that runs: its stream, and requests that nobody has decided on.
            let mut caller: Option<Caller> = None;
            let mut asked: Vec<Vec<u8>> = Vec::new();
            let (mut all, mut ended): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
            for _ in 0..60 {
                let session = all.last().cloned().unwrap_or_default();
                match random.below(16) {
                    0 | 1 if caller.is_none() => {
                        let new = Caller::begin(&socket, USER, "").await.unwrap();
                        assert!(!all.contains(&new.session), "an id is used twice");
                        all.push(new.session.clone());
                        asked.clear();
                        begun += 1;
                        caller = Some(new);
                    }
                    2 if caller.is_none() && !session.is_empty() => {
                        let resumed = Caller::begin(&socket, USER, &session).await;
                        assert!(resumed.is_err() || !ended.contains(&session), "what is over goes on");
                        asked.clear();
                        caller = resumed.ok();
                    }
                    3 => {
                        // Gone without a word.
                        caller = None;
                    }
                    4 => {
                        if let Some(gone) = caller.take() {
                            ended.push(gone.session.clone());
                            gone.end().await;
                        }
                    }
                    5 | 6 => {
                        if let Some(running) = &mut caller {
                            running.try_send(pasted(5, Outcome::Refused)).await;
                            running.try_send(frame(b"a picture")).await;
                        }
                    }
                    7..=9 => {
                        if let (Some(_), Ok(request)) = (&caller, ask(&socket, &session, CHANGE, 1).await) {
                            asked.push(request);
                        }
                    }
                    10..=12 => {
                        if let Some(request) = asked.pop() {
                            let by = 1 + random.below(4) as u8;
                            let verdict = if random.below(3) == 0 { Verdict::Deny } else { Verdict::Allow };
                            let decided = decide(&socket, &session, &request, by, verdict).await;
                            // Neither Ada, who asks, nor the fourth, whom nobody knows.
                            assert!(decided.is_err() || matches!(by, 2 | 3), "{decided:?}");
                            opened += u32::from(decided.is_ok_and(|decided| decided.seconds > 0));
                        }
                    }
                    13 => {
                        // Something that may not have passed, or an administrator.
                        if let Some(mut running) = caller.take() {
                            if random.below(2) == 0 {
                                let data = Clipboard { bytes: 1 << 30, ..Clipboard::default() };
                                let data = Clipboard { direction: Direction::ToClient.into(), ..data };
                                running.try_send(said(event::Data::Clipboard(data))).await;
                            } else {
                                let request = session::EndRequest {
                                    session: session.clone(),
                                    reason: "lunch".to_owned(),
                                };
                                sessions(&socket).await.end(request).await.unwrap();
                            }
                            while running.answer().await.unwrap().is_some() {}
                            assert!(running.over.is_some());
                            ended.push(session);
                            over += 1;
                        }
                    }
                    _ => {
                        let wait = Duration::from_millis(random.below(150));
                        if let Some(running) = &mut caller {
                            // Whoever calls reads what he is told.
                            let reads = async { while let Ok(Some(_)) = running.answer().await {} };
                            let _ = tokio::time::timeout(wait, reads).await;
                            let may = |policy: &Policy| {
                                let mut open = Policy::standard();
                                open.clipboard.host_to_remote = true;
                                *policy == Policy::standard() || *policy == open
                            };
                            assert!(running.policies.iter().all(may), "{:?}", running.policies);
                        } else {
                            tokio::time::sleep(wait).await;
                        }
                    }
                }
            }
            drop(caller);
            for session in &all {
                until(&socket, session, State::Finished).await;
                sound_recording(&recorder.dir(session));
            }
            recorder.stop().await;
        }
        assert!(begun > 12 && over > 3 && opened > 3, "{begun} begun, {over} over, {opened} opened");
    });
}
