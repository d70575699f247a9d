//! Every gate under every profile, before, during and after an approval; and how long decisions take.
//!
//! `cargo run --release -p lucid-policy --example gates`. Exit status 1 when something is open that should not be, or closed
//! that should be open.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it ends with what it cannot do")]

use std::{
    process::ExitCode,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use lucid_policy::{
    Action, Decider, Policy, Role, Transfer,
    approval::{Approvals, Approver, Decision, Refused, Request, Rules, Setting, Verdict},
};
use lucid_statement::{SessionId, SigningKey};

/// A gate, what opens it, what passes then, and whether it is open under Standard.
struct Gate {
    name: &'static str,
    opens: &'static [&'static str],
    action: Action<'static>,
    standard: bool,
}

const FILE: Transfer<'static> = Transfer { bytes: 1, dir: None, name: "a.txt", replaces: false };
const ON_DRIVE: Transfer<'static> = Transfer { dir: Some("Home/Documents"), ..FILE };
const EVERY: &str = r#"file.allowed_extensions=["*"]"#;
const DIRS: &str = r#"file.allowed_dirs=["*"]"#;

fn gates() -> Vec<Gate> {
    let gate = |name, opens, action| Gate { name, opens, action, standard: false };
    let standard = |name, opens, action| Gate { name, opens, action, standard: true };
    vec![
        standard("keyboard", &["input.kb_enabled=true"], Action::Key("KeyA")),
        standard("characters", &["input.kb_enabled=true"], Action::Character),
        gate("Print Screen", &["input.kb_enabled=true", "input.kb_blocklist=[]"], Action::Key("PrintScreen")),
        standard("pointer", &["input.mouse_enabled=true"], Action::Point { rate_hz: 60 }),
        gate(
            "paste at the client",
            &["clipboard.host_to_remote=true"],
            Action::CopyToClient { bytes: 65_536 },
        ),
        gate(
            "paste on the desktop",
            &["clipboard.remote_to_host=true"],
            Action::CopyToDesktop { bytes: 65_536 },
        ),
        gate("file to the desktop", &["file.upload_enabled=true", EVERY], Action::Upload(FILE)),
        gate("file to the client", &["file.download_enabled=true", EVERY], Action::Download(FILE)),
        gate("drive, read", &["file.upload_enabled=true", EVERY, DIRS], Action::Upload(ON_DRIVE)),
        gate("drive, written", &["file.download_enabled=true", EVERY, DIRS], Action::Download(ON_DRIVE)),
        standard("sound", &["system.audio_out=true"], Action::PlaySound),
        gate("microphone", &["system.audio_in=true"], Action::RecordSound),
        gate("camera", &["system.camera=true"], Action::UseCamera),
        gate("printing", &["system.printing=true"], Action::Print),
        gate("screenshots", &["system.screenshots_allowed=true"], Action::TakeScreenshot),
        gate("channels", &["system.shell_channels=true"], Action::OpenChannel),
    ]
}

fn settings(texts: &[&str]) -> Vec<Setting> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// With every gate open.
fn custom() -> Policy {
    let all: Vec<&str> = gates().iter().flat_map(|gate| gate.opens.iter().copied()).collect();
    let mut seen = Vec::new();
    for text in all {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    lucid_policy::approval::apply(&Policy::strict(), &settings(&seen)).unwrap()
}

fn decide(policy: &Policy, action: &Action<'_>) -> bool {
    let decided = Decider::new(policy).unwrap().decide(Role::Operator, action).is_allowed();
    assert_eq!(decided, policy.permits(action), "Cedar and the table differ on {action:?}");
    decided
}

/// Before, when it is asked for, when it is approved, and when its time is over.
fn life(base: &Policy, gate: &Gate) -> [bool; 4] {
    let session: SessionId = "00000000-0000-4000-8000-000000000001".parse().unwrap();
    let (ada, bob) = (SigningKey::from_seed(&[1; 32]).unwrap(), SigningKey::from_seed(&[2; 32]).unwrap());
    let approver = Approver { key: Some(bob.public()), name: "bob".to_owned() };
    let rules = Rules::new(vec![approver], 1).unwrap();
    let mut approvals = Approvals::new(session, "ada", [0; 16], Some(rules), base.clone()).unwrap();
    let before = decide(&approvals.policy(), &gate.action);
    let (asked, approved, over) = (Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(302));
    let by = (&ada, [0; 16], 0);
    let request = Request::sign(approvals.challenge(), "ada", settings(gate.opens), "why", 300, by).unwrap();
    match approvals.ask(&request, |_| vec![ada.public()], asked) {
        Ok(_) => {
            let pending = decide(&approvals.policy(), &gate.action);
            let decision = Decision::sign(&request, session, "bob", (Verdict::Allow, ""), &bob, 0).unwrap();
            approvals.decide(&decision, None, approved).unwrap();
            let during = decide(&approvals.policy(), &gate.action);
            approvals.expire(over);
            [before, pending, during, decide(&approvals.policy(), &gate.action)]
        }
        Err(Refused::Nothing) => [before; 4],
        Err(error) => panic!("{}: {error}", gate.name),
    }
}

fn main() -> ExitCode {
    let word = |open: bool| if open { "allowed" } else { "refused" };
    let mut wrong = 0;
    println!("| gate | profile | as it is | asked for | approved | expired |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let profiles = [("Strict", Policy::strict()), ("Standard", Policy::standard()), ("Custom", custom())];
    for gate in gates() {
        for (name, policy) in &profiles {
            let is = life(policy, &gate);
            let base = match *name {
                "Strict" => false,
                "Standard" => gate.standard,
                _ => true,
            };
            let mark = if is == [base, base, true, base] { "" } else { " **wrong**" };
            wrong += usize::from(!mark.is_empty());
            let [before, asked, approved, expired] = is.map(word);
            println!("| {} | {name} | {before} | {asked} | {approved} | {expired} |{mark}", gate.name);
        }
    }
    println!("\n{}", latency());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Eight sessions that decide at the same time, each as fast as it can.
fn latency() -> String {
    const SESSIONS: usize = 8;
    const EACH: usize = 5_000;
    let barrier = Barrier::new(SESSIONS);
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..SESSIONS)
            .map(|_| {
                scope.spawn(|| {
                    let policy = custom();
                    let decider = Decider::new(&policy).unwrap();
                    let gates = gates();
                    barrier.wait();
                    let mut times = Vec::with_capacity(EACH);
                    for gate in gates.iter().cycle().take(EACH) {
                        let began = Instant::now();
                        let allowed = decider.decide(Role::Operator, &gate.action).is_allowed();
                        times.push(began.elapsed());
                        assert!(allowed, "{}", gate.name);
                    }
                    let began = Instant::now();
                    let allowed =
                        gates.iter().cycle().take(EACH).filter(|gate| policy.permits(&gate.action)).count();
                    assert_eq!(allowed, EACH);
                    (times, began.elapsed())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let enforcing: Duration = times.iter().map(|(_, enforcing)| *enforcing).sum();
    let mut all: Vec<Duration> = times.into_iter().flat_map(|(times, _)| times).collect();
    all.sort();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    format!(
        "Decisions of Cedar, {SESSIONS} sessions at once on {} processors: median {:.0} µs, p99 {:.0} µs (goal 1000), longest \
         {:.0} µs of {}. Enforcing, without Cedar: {:.2} µs each.",
        thread::available_parallelism().map_or(0, std::num::NonZero::get),
        at(0.5),
        at(0.99),
        at(1.0),
        all.len(),
        enforcing.as_secs_f64() * 1e6 / (SESSIONS * EACH) as f64
    )
}
