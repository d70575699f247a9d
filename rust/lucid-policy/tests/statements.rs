//! What is signed about policies: receipts, snapshots, requests and decisions; and what is not taken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::{fs, path::Path, time::Duration};

use lucid_policy::{
    Policy,
    approval::{
        Approvals, Approver, DEFAULT_SECONDS, Decision, Ended, MAX_OPEN, PENDING, Place,
        Refused as NotApproved, Request, Rules, Setting, Standing, Verdict, apply,
    },
    ask::{GATES, Gate},
    consent::{Accepted, Expected, Receipt, Refused, terms},
    snapshot::Snapshot,
};
use lucid_statement::{Hash, PublicKey, SessionId, SigningKey};

const NOW_MS: u64 = 1_800_000_000_000;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&[byte; 32]).unwrap()
}

fn session(last: u8) -> SessionId {
    format!("00000000-0000-4000-8000-0000000000{last:02x}").parse().unwrap()
}

fn hash(text: &str) -> Hash {
    blake3::hash(text.as_bytes()).into()
}

fn receipt() -> Receipt {
    let policy = Policy::standard();
    let hashes = (policy.hash().unwrap(), hash(&terms(&policy, &[], "Be kind.")));
    let of = (session(1), key(2).public());
    Receipt::new(Accepted::Signature, of, "ada", hashes, key(1).public(), NOW_MS)
}

/// A good one is as the golden file has it; the files are written by the ignored test below.
fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1").join(name)).unwrap()
}

fn files() -> [(&'static str, Vec<u8>); 4] {
    let (mut approvals, signed) = asked();
    let yes = (Verdict::Allow, "yes");
    let decision = Decision::sign(&signed, session(1), "bob", yes, &key(3), NOW_MS).unwrap();
    approvals.decide(&decision, None, Duration::from_secs(2)).unwrap();
    let snapshot = Snapshot::new(&Policy::standard(), session(1), NOW_MS).unwrap();
    [
        ("consent.json", receipt().sign(&key(1)).unwrap()),
        ("snapshot.json", snapshot.sign(&key(9)).unwrap()),
        ("request.json", signed),
        ("decision.json", decision),
    ]
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_golden_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, bytes) in files() {
        fs::write(dir.join("testdata/v1").join(name), &bytes).unwrap();
        let corpus = dir.join("../fuzz/corpus/policy_statements");
        fs::create_dir_all(&corpus).unwrap();
        fs::write(corpus.join(name), &bytes).unwrap();
    }
}

#[test]
fn the_golden_files_are_what_is_written_and_are_read() {
    for (name, bytes) in files() {
        assert_eq!(String::from_utf8(golden(name)), String::from_utf8(bytes), "{name}");
    }
    assert_eq!(Receipt::read(&golden("consent.json")).unwrap(), receipt());
    let snapshot = Snapshot::read(&golden("snapshot.json"), &key(9).public(), session(1)).unwrap();
    assert_eq!(snapshot.policy, Policy::standard());
    assert_eq!(Request::read(&golden("request.json")).unwrap().seconds, DEFAULT_SECONDS);
    let decision = Decision::read(&golden("decision.json")).unwrap();
    assert_eq!((decision.verdict, decision.approver.as_str()), (Verdict::Allow, "bob"));
}

#[test]
fn no_byte_of_what_is_signed_can_be_changed() {
    for (name, bytes) in files() {
        let read = |bytes: &[u8]| match name {
            "consent.json" => Receipt::read(bytes).is_ok(),
            "snapshot.json" => Snapshot::read(bytes, &key(9).public(), session(1)).is_ok(),
            "request.json" => Request::read(bytes).is_ok(),
            _ => Decision::read(bytes).is_ok(),
        };
        assert!(read(&bytes), "{name}");
        for at in (0..bytes.len()).step_by(if bytes.len() > 2000 { 37 } else { 1 }) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!read(&changed), "{name}, byte {at}");
            assert!(!read(&bytes[..at]), "{name}, cut after {at}");
        }
    }
}

#[test]
fn a_receipt_is_good_for_one_user_session_policy_and_text_and_for_a_day() {
    let file = receipt().sign(&key(1)).unwrap();
    let policy = Policy::standard();
    let signers: [PublicKey; 1] = [key(1).public()];
    let expected = Expected {
        user: "ada",
        session: session(1),
        session_key: key(2).public(),
        policy: policy.hash().unwrap(),
        terms: hash(&terms(&policy, &[], "Be kind.")),
        signers: &signers,
        now_ms: NOW_MS,
    };
    assert_eq!(Receipt::take(&file, &expected).unwrap(), receipt());
    let nobody: [PublicKey; 0] = [];
    let day = 86_400_000;
    let refused = [
        (Expected { signers: &nobody, ..expected.clone() }, Refused::Signer),
        (Expected { user: "eve", ..expected.clone() }, Refused::User),
        (Expected { session: session(2), ..expected.clone() }, Refused::Session),
        (Expected { session_key: key(1).public(), ..expected.clone() }, Refused::Session),
        (Expected { policy: Policy::strict().hash().unwrap(), ..expected.clone() }, Refused::Policy),
        (Expected { terms: hash(&terms(&policy, &[], "")), ..expected.clone() }, Refused::Terms),
        (Expected { now_ms: NOW_MS + day + 1, ..expected.clone() }, Refused::Old),
        (Expected { now_ms: NOW_MS - 300_001, ..expected.clone() }, Refused::Early),
    ];
    for (expected, why) in refused {
        assert_eq!(Receipt::take(&file, &expected).unwrap_err(), why);
        assert!(why.to_string().len() > 20, "in words");
    }
    for now_ms in [NOW_MS + day, NOW_MS - 300_000] {
        Receipt::take(&file, &Expected { now_ms, ..expected.clone() }).unwrap();
    }
    // Signed by another key than it names; and with a key of the user's for somebody else.
    assert!(receipt().sign(&key(5)).is_err());
    let mut other = receipt();
    (other.signer, other.user) = (key(5).public(), "ada".to_owned());
    assert_eq!(Receipt::take(&other.sign(&key(5)).unwrap(), &expected).unwrap_err(), Refused::Signer);
}

#[test]
fn a_snapshot_is_one_sessions_and_says_the_same_as_table_and_as_policies() {
    let snapshot = Snapshot::new(&Policy::standard(), session(1), NOW_MS).unwrap();
    let device = key(9);
    let read =
        |snapshot: &Snapshot| Snapshot::read(&snapshot.sign(&device).unwrap(), &device.public(), session(1));
    assert_eq!(read(&snapshot).unwrap(), snapshot);
    // Even where the device itself signs it.
    let others = [
        Snapshot { session: session(2), ..snapshot.clone() },
        Snapshot { policy: Policy::strict(), ..snapshot.clone() },
        Snapshot { cedar: snapshot.cedar.replacen("forbid", "permit", 1), ..snapshot.clone() },
        Snapshot {
            cedar: format!("{}permit (principal, action, resource);\n", snapshot.cedar),
            ..snapshot.clone()
        },
        Snapshot { schema: String::new(), ..snapshot.clone() },
        Snapshot { entities: Vec::new(), ..snapshot.clone() },
    ];
    for other in &others {
        assert!(read(other).is_err(), "{other:?}");
    }
    let file = snapshot.sign(&device).unwrap();
    assert!(Snapshot::read(&file, &key(8).public(), session(1)).is_err(), "another device's");
}

fn opens() -> Vec<Setting> {
    vec!["clipboard.host_to_remote=true".parse().unwrap()]
}

fn rules(needed: usize) -> Option<Rules> {
    let approver = |byte: u8, name: &str| Approver { key: Some(key(byte).public()), name: name.to_owned() };
    // Ada may decide on what others ask for, Bob has two keys, and Zoe none.
    let zoe = Approver { key: None, name: "Zoe".to_owned() };
    let approvers = vec![approver(3, "bob"), approver(4, "bob"), approver(5, "eve"), approver(6, "ada"), zoe];
    Some(Rules::new(approvers, needed).unwrap())
}

fn with(needed: usize) -> Approvals {
    Approvals::new(session(1), "ada", [8; 16], rules(needed), Policy::standard()).unwrap()
}

/// The keys of somebody.
fn keys(name: &str) -> Vec<PublicKey> {
    match name {
        "ada" => vec![key(6).public()],
        "bob" => vec![key(3).public(), key(4).public()],
        _ => Vec::new(),
    }
}

/// Each with another nonce.
fn request(
    approvals: &Approvals,
    change: Vec<Setting>,
    seconds: u32,
    nonce: u8,
) -> lucid_policy::Result<Vec<u8>> {
    let by = (&key(6), [nonce; 16], NOW_MS);
    Request::sign(approvals.challenge(), "ada", change, "to paste a number", seconds, by)
}

fn ask(
    approvals: &mut Approvals,
    change: Vec<Setting>,
    seconds: u32,
    at: u64,
) -> Result<Vec<u8>, NotApproved> {
    let nonce = approvals.requests().count() as u8;
    let signed =
        request(approvals, change, seconds, nonce).map_err(|error| NotApproved::Change(error.to_string()))?;
    approvals.ask(&signed, keys, Duration::from_secs(at)).map(|_| signed)
}

fn asked() -> (Approvals, Vec<u8>) {
    let mut approvals = with(1);
    let signed = ask(&mut approvals, opens(), DEFAULT_SECONDS, 1).unwrap();
    (approvals, signed)
}

/// The device, on whose screen people decide as well.
fn device() -> PublicKey {
    key(9).public()
}

/// With a key; the fourth approver's is nobody's.
fn allow(signed: &[u8], by: u8) -> Vec<u8> {
    let name = ["bob", "bob", "eve", "ada", "nobody"][usize::from(by) - 3];
    Decision::sign(signed, session(1), name, (Verdict::Allow, ""), &key(by), NOW_MS).unwrap()
}

/// On the device's screen.
fn on_screen(signed: &[u8], name: &str) -> Vec<u8> {
    Decision::sign(signed, session(1), name, (Verdict::Allow, ""), &key(9), NOW_MS).unwrap()
}

#[test]
fn an_approval_opens_what_was_asked_for_its_time_and_nothing_else() {
    let (mut approvals, signed) = asked();
    assert_eq!(approvals.policy(), Policy::standard(), "nothing by itself");
    let at = Duration::from_secs(10);
    let decided = approvals.decide(&allow(&signed, 3), None, at).unwrap();
    let until = at + Duration::from_secs(DEFAULT_SECONDS.into());
    assert_eq!((decided.approver.as_str(), decided.standing), ("bob", Standing::InEffect { until }));
    let mut open = Policy::standard();
    open.clipboard.host_to_remote = true;
    assert_eq!(approvals.policy(), open);
    assert_eq!(approvals.next(), Some(until));
    assert_eq!(approvals.expire(until - Duration::from_millis(1)), []);
    assert_eq!(approvals.expire(until), [Ended::Over(blake3::hash(&signed).into())]);
    assert_eq!(approvals.policy(), Policy::standard());
    assert_eq!(
        approvals.decide(&allow(&signed, 3), None, until).unwrap_err(),
        NotApproved::Unknown,
        "used once"
    );
}

#[test]
fn nobody_approves_his_own_nor_twice_nor_late_nor_what_was_not_asked() {
    let (mut approvals, signed) = asked();
    let at = Duration::from_secs(10);
    let mut refused = |statement: &[u8], at| approvals.decide(statement, None, at).unwrap_err();
    assert_eq!(refused(&allow(&signed, 6), at), NotApproved::Own);
    assert_eq!(refused(&allow(&signed, 7), at), NotApproved::NotAnApprover);
    assert_eq!(refused(&allow(b"another", 3), at), NotApproved::Unknown);
    let allows = (Verdict::Allow, "");
    let elsewhere = Decision::sign(&signed, session(2), "bob", allows, &key(3), NOW_MS).unwrap();
    assert_eq!(refused(&elsewhere, at), NotApproved::Unknown);
    let as_eve = Decision::sign(&signed, session(1), "eve", allows, &key(3), NOW_MS).unwrap();
    assert_eq!(refused(&as_eve, at), NotApproved::NotAnApprover, "he names himself");
    let mut forged = allow(&signed, 3);
    let place = forged.len() - 20;
    forged[place] = if forged[place] == b'0' { b'1' } else { b'0' };
    assert_eq!(refused(&forged, at), NotApproved::Forged);
    let late = Duration::from_secs(1) + PENDING;
    assert_eq!(refused(&allow(&signed, 3), late), NotApproved::Unknown);
    assert_eq!(approvals.expire(late), [Ended::Undecided(blake3::hash(&signed).into())]);
    assert_eq!(approvals.policy(), Policy::standard());

    let mut none = Approvals::new(session(1), "ada", [8; 16], None, Policy::standard()).unwrap();
    assert_eq!(ask(&mut none, opens(), 1, 0).unwrap_err(), NotApproved::NoApprovers);
}

#[test]
fn a_request_is_of_who_asks_for_this_life_of_the_session_and_taken_once() {
    let mut approvals = with(1);
    let signed = request(&approvals, opens(), 60, 1).unwrap();
    let mut ask = |signed: &[u8]| approvals.ask(signed, keys, Duration::ZERO).map(|(number, _)| number);
    assert_eq!(ask(&signed), Ok(0));
    assert_eq!(ask(&signed), Err(NotApproved::Repeated));
    let place = with(1).challenge();
    let sign = |place, name: &str, by: u8| {
        Request::sign(place, name, opens(), "why", 60, (&key(by), [9; 16], NOW_MS)).unwrap()
    };
    assert_eq!(ask(&sign(place, "ada", 3)), Err(NotApproved::Requester), "another's key");
    assert_eq!(ask(&sign(place, "nobody", 3)), Err(NotApproved::Requester));
    for other in [
        Place { session: session(2), ..place },
        Place { policy: Policy::strict().hash().unwrap(), ..place },
        Place { challenge: lucid_statement::Hex([7; 16]), ..place },
    ] {
        assert_eq!(ask(&sign(other, "ada", 6)), Err(NotApproved::NoRequest));
    }
    assert_eq!(ask(b"{}"), Err(NotApproved::NoRequest));
    // Who asks for somebody else's session does not decide either; nor does its user.
    let bobs = sign(place, "bob", 3);
    assert_eq!(ask(&bobs), Ok(1));
    for by in [3, 4, 6] {
        let refused = approvals.decide(&allow(&bobs, by), None, Duration::ZERO).unwrap_err();
        assert_eq!(refused, NotApproved::Own);
    }
    approvals.decide(&allow(&bobs, 5), None, Duration::ZERO).unwrap();
}

#[test]
fn of_m_approvers_n_people_have_to_agree_and_one_can_refuse() {
    let mut approvals = with(2);
    let signed = ask(&mut approvals, opens(), 60, 1).unwrap();
    let at = Duration::from_secs(10);
    let decided = approvals.decide(&allow(&signed, 3), None, at).unwrap();
    assert_eq!((decided.agree, decided.needed, decided.standing), (1, 2, Standing::Waits));
    assert_eq!(
        approvals.decide(&allow(&signed, 4), None, at).unwrap_err(),
        NotApproved::Twice,
        "his other key"
    );
    assert_eq!(approvals.policy(), Policy::standard());
    let decided = approvals.decide(&allow(&signed, 5), None, at).unwrap();
    assert!(matches!(decided.standing, Standing::InEffect { .. }) && decided.agree == 2);
    assert!(approvals.policy().clipboard.host_to_remote);

    let change = vec!["clipboard.remote_to_host=true".parse().unwrap()];
    let signed = ask(&mut approvals, change, 60, 1).unwrap();
    approvals.decide(&allow(&signed, 3), None, at).unwrap();
    let denies = (Verdict::Deny, "no");
    let deny = Decision::sign(&signed, session(1), "eve", denies, &key(5), NOW_MS).unwrap();
    assert_eq!(approvals.decide(&deny, None, at).unwrap().standing, Standing::Denied);
    assert_eq!(approvals.decide(&allow(&signed, 5), None, at).unwrap_err(), NotApproved::Unknown);
    assert!(!approvals.policy().clipboard.remote_to_host);
    assert!(Rules::new(rules(1).unwrap().approvers().to_vec(), 0).is_err(), "never by itself");
    assert!(Rules::new(rules(1).unwrap().approvers().to_vec(), 5).is_err(), "four people");
}

#[test]
fn who_decides_on_the_screen_is_named_there_and_has_no_second_vote() {
    let mut approvals = with(2);
    let signed = ask(&mut approvals, opens(), 60, 1).unwrap();
    let at = Duration::from_secs(10);
    let mut refused = |statement: &[u8], screen| approvals.decide(statement, screen, at).unwrap_err();
    assert_eq!(refused(&on_screen(&signed, "ADA"), Some(device())), NotApproved::Own);
    assert_eq!(refused(&on_screen(&signed, "nobody"), Some(device())), NotApproved::NotAnApprover);
    assert_eq!(refused(&on_screen(&signed, "zoe"), None), NotApproved::NotAnApprover, "it came another way");
    assert_eq!(refused(&allow(&signed, 3), Some(device())), NotApproved::NotAnApprover, "nobody saw him");
    let zoes = approvals.decide(&on_screen(&signed, "zoe"), Some(device()), at).unwrap();
    assert_eq!((zoes.approver.as_str(), zoes.agree), ("Zoe", 1));
    let again = approvals.decide(&on_screen(&signed, "ZOE"), Some(device()), at).unwrap_err();
    assert_eq!(again, NotApproved::Twice);
    let seen = approvals.decide(&on_screen(&signed, "bob"), Some(device()), at).unwrap_err();
    assert_eq!(seen, NotApproved::HasKey, "he has something better");
    approvals.decide(&allow(&signed, 3), None, at).unwrap();
    assert!(approvals.policy().clipboard.host_to_remote);

    let mut approvals = with(2);
    let signed = ask(&mut approvals, opens(), 60, 1).unwrap();
    approvals.decide(&allow(&signed, 3), None, at).unwrap();
    assert_eq!(approvals.decide(&allow(&signed, 4), None, at).unwrap_err(), NotApproved::Twice, "two keys");
}

#[test]
fn each_gate_that_can_be_asked_for_opens_by_what_it_names_and_by_no_more_than_is_missing() {
    let names: std::collections::BTreeSet<_> = GATES.iter().map(|gate| gate.name).collect();
    assert_eq!(names.len(), GATES.len());
    let strict = Policy::strict();
    for gate in &GATES {
        assert_eq!(Gate::of(gate.name).unwrap().words, gate.words);
        assert!(gate.is_closed(&strict));
        let then = apply(&strict, &gate.opens(&strict, &strict)).unwrap();
        assert!(!gate.is_closed(&then), "{}", gate.name);
        assert!(gate.opens(&then, &then).is_empty());
    }
    assert!(Gate::of("camera").is_none());
    let mut some = Policy::strict();
    (some.file.allowed_extensions, some.file.allowed_dirs) =
        (vec!["pdf".to_owned()], vec!["Home".to_owned()]);
    let then = |name: &str| apply(&some, &Gate::of(name).unwrap().opens(&some, &some)).unwrap();
    let read = then("drives-read");
    assert_eq!(
        (read.file.allowed_extensions, read.file.allowed_dirs),
        (some.file.allowed_extensions.clone(), some.file.allowed_dirs.clone())
    );
    assert!(read.file.upload_enabled && !read.file.download_enabled);
    // What is open only for a while is asked for with it.
    let now = then("files-to-desktop");
    assert_eq!(Gate::of("files-to-desktop").unwrap().opens(&some, &now).len(), 1);
}

#[test]
fn a_change_names_keys_of_the_table_and_is_bounded() {
    let mut approvals = with(1);
    let settings = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Setting>>();
    for wrong in [
        &["nothing.here=true"][..],
        &["clipboard=true"],
        &["clipboard={\"host_to_remote\":true,\"remote_to_host\":true}"],
        &["version=2"],
        &["clipboard.max_bytes=0"],
        &["clipboard.max_bytes=\"many\""],
        &["clipboard.host_to_remote=yes"],
        &["clipboard.host_to_remote=true", "clipboard.host_to_remote=false"],
        &[],
    ] {
        let refused = ask(&mut approvals, settings(wrong), 1, 0).unwrap_err();
        assert!(matches!(refused, NotApproved::Change(_)), "{wrong:?}: {refused}");
    }
    assert_eq!(
        ask(&mut approvals, settings(&["system.audio_out=true"]), 1, 0).unwrap_err(),
        NotApproved::Nothing
    );
    for seconds in [0, 86_401] {
        assert!(request(&approvals, opens(), seconds, 0).is_err());
    }
    for _ in 0..MAX_OPEN {
        ask(&mut approvals, opens(), 1, 0).unwrap();
    }
    assert_eq!(ask(&mut approvals, opens(), 1, 0).unwrap_err(), NotApproved::TooMany);
    let applied =
        apply(&Policy::strict(), &settings(&["file.allowed_extensions=[\"pdf\",\"txt\"]"])).unwrap();
    assert_eq!(applied.file.allowed_extensions, ["pdf", "txt"]);
    assert!("no value".parse::<Setting>().is_err());
}

/// A request that was made: what it opens, who agrees, until when it may be decided on, until when it holds.
type Asked = (Vec<u8>, usize, Vec<&'static str>, Duration, Option<Duration>);

#[test]
fn whatever_happens_in_whatever_order_nothing_is_open_that_was_not_approved_in_its_time() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let opens =
        ["clipboard.host_to_remote=true", "clipboard.remote_to_host=true", "file.upload_enabled=true"];
    for _ in 0..200 {
        let needed = 1 + random(2) as usize;
        let mut approvals = with(needed);
        let mut now = Duration::ZERO;
        let mut model: Vec<Asked> = Vec::new();
        for _ in 0..60 {
            match random(4) {
                0 => {
                    let which = random(3) as usize;
                    let seconds = 1 + random(400) as u32;
                    let change = vec![opens[which].parse().unwrap()];
                    let by = (&key(6), (model.len() as u128).to_be_bytes(), NOW_MS);
                    let signed =
                        Request::sign(approvals.challenge(), "ada", change, "why", seconds, by).unwrap();
                    if approvals.ask(&signed, keys, now).is_ok() {
                        model.push((signed, which, Vec::new(), now + PENDING, None));
                    }
                }
                1 if !model.is_empty() => {
                    let place = random(model.len() as u64) as usize;
                    let by = 3 + random(5) as u8;
                    let screen = (random(2) == 0).then(device);
                    let name = match screen {
                        None => ["bob", "bob", "eve", "ada", "nobody"][usize::from(by) - 3],
                        Some(_) => ["bob", "zoe", "eve", "ada", "nobody"][usize::from(by) - 3],
                    };
                    let (signed, _, agree, decidable, holds) = &mut model[place];
                    // Whoever has a key decides with it.
                    let on_screen_alone = name == "zoe";
                    let may = matches!(name, "bob" | "eve" | "zoe")
                        && on_screen_alone == screen.is_some()
                        && !agree.contains(&name)
                        && holds.is_none()
                        && now < *decidable;
                    let statement =
                        if screen.is_some() { on_screen(signed, name) } else { allow(signed, by) };
                    let decided = approvals.decide(&statement, screen, now);
                    assert_eq!(decided.is_ok(), may, "{decided:?}");
                    if let Ok(decided) = decided {
                        agree.push(name);
                        if agree.len() == needed {
                            *holds = Some(now + Duration::from_secs(decided.request.seconds.into()));
                        }
                    }
                }
                2 => now += Duration::from_secs(random(300)),
                _ => {}
            }
            approvals.expire(now);
            let open = |which: usize| {
                model.iter().any(|(_, is, .., holds)| *is == which && holds.is_some_and(|until| now < until))
            };
            let policy = approvals.policy();
            let is = [
                policy.clipboard.host_to_remote,
                policy.clipboard.remote_to_host,
                policy.file.upload_enabled,
            ];
            assert_eq!(is, [open(0), open(1), open(2)]);
        }
    }
}
