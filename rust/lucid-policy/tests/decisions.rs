//! Every gate of every table against what the table says, by the decisions of Cedar.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::{collections::BTreeSet, str::FromStr as _};

use cedar_policy::{ActionConstraint, PolicySet};
use lucid_policy::{
    Action, Decider, Decision, FIXED, OnViolation, Policy, Role, Transfer, evdev, from_cedar,
};

/// A gate: how it is opened, what passes it then, and what does not even then.
struct Gate {
    name: &'static str,
    open: fn(&mut Policy),
    passes: fn() -> Vec<Action<'static>>,
    refused: fn() -> Vec<Action<'static>>,
}

fn file(bytes: u64, dir: Option<&'static str>, name: &'static str) -> Transfer<'static> {
    Transfer { bytes, dir, name, replaces: false }
}

const MIB: u64 = 1 << 20;

/// Files that pass where the limits are those of [`base`], and files that do not.
fn files(passing: bool) -> Vec<Transfer<'static>> {
    if passing {
        return vec![
            file(0, None, "a.txt"),
            file(25 * MIB, None, "A.TXT"),
            file(1, Some("Home/Documents"), "b.pdf"),
            file(1, Some("Home/Documents/deep/er"), "b.c.pdf"),
        ];
    }
    vec![
        file(25 * MIB + 1, None, "a.txt"),
        file(u64::MAX, None, "a.txt"),
        file(1, None, "a.exe"),
        file(1, None, "txt"),
        file(1, None, ".txt"),
        file(1, None, "a.txt."),
        file(1, None, "a.txt.exe"),
        file(1, Some("Home"), "a.txt"),
        file(1, Some("Home/Documents2"), "a.txt"),
        file(1, Some("Home/Documents/../../etc"), "a.txt"),
        file(1, Some("/Home/Documents"), "a.txt"),
        file(1, Some(""), "a.txt"),
        Transfer { replaces: true, ..file(1, None, "a.txt") },
        // What leads elsewhere on some system.
        file(1, Some("Home/Documents"), "../../Secret/a.txt"),
        file(1, Some("Home/Documents"), "..\\a.txt"),
        file(1, Some("Home/Documents/..\\..\\Secret"), "a.txt"),
        file(1, Some("Home/Documents/.. /x"), "a.txt"),
        file(1, Some("Home/Documents/x."), "a.txt"),
        file(1, None, "evil.exe:.txt"),
        file(1, None, "a.exe\0.txt"),
        file(1, None, ""),
    ]
}

const GATES: [Gate; 13] = [
    Gate {
        name: "input.kb_enabled",
        open: |policy| policy.input.kb_enabled = true,
        passes: || vec![Action::Key("KeyA"), Action::Key("F1"), Action::Character],
        refused: || {
            let mut keys: Vec<_> =
                ["PrintScreen", "printscreen", "Print", "Nonsense", ""].map(Action::Key).into();
            keys.push(Action::of_character('\0'));
            keys
        },
    },
    Gate {
        name: "input.mouse_enabled",
        open: |policy| policy.input.mouse_enabled = true,
        passes: || vec![Action::Point { rate_hz: 0 }, Action::Point { rate_hz: 60 }],
        refused: || vec![Action::Point { rate_hz: 61 }, Action::Point { rate_hz: u32::MAX }],
    },
    Gate {
        name: "clipboard.host_to_remote",
        open: |policy| policy.clipboard.host_to_remote = true,
        passes: || vec![Action::CopyToClient { bytes: 0 }, Action::CopyToClient { bytes: 65_536 }],
        refused: || vec![Action::CopyToClient { bytes: 65_537 }, Action::CopyToClient { bytes: u64::MAX }],
    },
    Gate {
        name: "clipboard.remote_to_host",
        open: |policy| policy.clipboard.remote_to_host = true,
        passes: || vec![Action::CopyToDesktop { bytes: 0 }, Action::CopyToDesktop { bytes: 65_536 }],
        refused: || vec![Action::CopyToDesktop { bytes: 65_537 }, Action::CopyToDesktop { bytes: u64::MAX }],
    },
    Gate {
        name: "file.upload_enabled",
        open: |policy| policy.file.upload_enabled = true,
        passes: || files(true).into_iter().map(Action::Upload).collect(),
        refused: || files(false).into_iter().map(Action::Upload).collect(),
    },
    Gate {
        name: "file.download_enabled",
        open: |policy| policy.file.download_enabled = true,
        passes: || files(true).into_iter().map(Action::Download).collect(),
        refused: || files(false).into_iter().map(Action::Download).collect(),
    },
    Gate {
        name: "system.audio_out",
        open: |policy| policy.system.audio_out = true,
        passes: || vec![Action::PlaySound],
        refused: Vec::new,
    },
    Gate {
        name: "system.audio_in",
        open: |policy| policy.system.audio_in = true,
        passes: || vec![Action::RecordSound],
        refused: Vec::new,
    },
    Gate {
        name: "system.camera",
        open: |policy| policy.system.camera = true,
        passes: || vec![Action::UseCamera],
        refused: Vec::new,
    },
    Gate {
        name: "system.printing",
        open: |policy| policy.system.printing = true,
        passes: || vec![Action::Print],
        refused: Vec::new,
    },
    Gate {
        name: "system.screenshots_allowed",
        open: |policy| policy.system.screenshots_allowed = true,
        passes: || vec![Action::TakeScreenshot],
        refused: Vec::new,
    },
    Gate {
        name: "system.shell_channels",
        open: |policy| policy.system.shell_channels = true,
        passes: || vec![Action::OpenChannel],
        refused: Vec::new,
    },
    Gate {
        name: "violation",
        open: |policy| policy.violation = OnViolation::Refuse,
        passes: || vec![Action::GoOn],
        refused: Vec::new,
    },
];

/// Every gate closed, with something to look at in each list.
fn base() -> Policy {
    let mut policy = Policy::strict();
    policy.violation = OnViolation::End;
    policy.input.kb_blocklist = vec!["PrintScreen".to_owned()];
    policy.file.allowed_dirs = vec!["Home/Documents".to_owned()];
    policy.file.allowed_extensions = vec!["pdf".to_owned(), "txt".to_owned()];
    policy
}

#[test]
fn each_action_is_decided_by_one_gate_alone_so_that_gates_cannot_touch_one_another() {
    let all = PolicySet::from_str(&Policy::standard().to_cedar()).unwrap();
    let mut actions = BTreeSet::new();
    for policy in all.policies() {
        let ActionConstraint::Eq(action) = policy.action_constraint() else { panic!("{policy}") };
        let gate = policy.annotation("gate").unwrap();
        assert!(actions.insert(action.to_string()), "{action} is decided by {gate} and by another one");
    }
    let fixed = PolicySet::from_str(FIXED).unwrap();
    for policy in fixed.policies() {
        // What is shielded is forbidden whatever is permitted here.
        let ActionConstraint::Eq(action) = policy.action_constraint() else { continue };
        assert!(actions.insert(action.to_string()), "{action}");
    }
}

#[test]
fn of_any_three_gates_among_others_that_are_open_or_closed_exactly_the_open_ones_let_pass_what_their_limits_allow()
 {
    let mut combinations = BTreeSet::new();
    let count = GATES.len();
    let all = (1 << count) - 1;
    for a in 0..count {
        for b in a..count {
            for c in b..count {
                let three = 1_u32 << a | 1 << b | 1 << c;
                combinations.extend([0, all, three, !three & all]);
            }
        }
    }
    for open in combinations {
        let mut policy = base();
        for (number, gate) in GATES.iter().enumerate() {
            if open >> number & 1 == 1 {
                (gate.open)(&mut policy);
            }
        }
        let decider = Decider::new(&policy).unwrap();
        for (number, gate) in GATES.iter().enumerate() {
            let is_open = open >> number & 1 == 1;
            for action in (gate.passes)() {
                let expected =
                    if is_open { Decision::Allowed } else { Decision::Refused { gate: gate.name } };
                assert_eq!(decider.decide(Role::Operator, &action), expected, "{action:?} with {open:b}");
            }
            for action in (gate.refused)() {
                let refused = Decision::Refused { gate: gate.name };
                assert_eq!(decider.decide(Role::Operator, &action), refused, "{action:?} with {open:b}");
            }
        }
        assert_eq!(from_cedar(&policy.to_cedar()).unwrap(), policy);
    }
}

#[test]
fn strict_allows_nothing_but_looking_on_and_standard_exactly_what_it_says() {
    let strict = Decider::new(&Policy::strict()).unwrap();
    let standard = Decider::new(&Policy::standard()).unwrap();
    for gate in &GATES {
        for action in (gate.passes)().into_iter().chain((gate.refused)()) {
            assert_eq!(
                strict.decide(Role::Operator, &action).is_allowed(),
                action == Action::GoOn,
                "{action:?}"
            );
            let allowed = match &action {
                Action::Key(code) => *code != "PrintScreen" && evdev(code).is_some(),
                Action::Point { rate_hz } => *rate_hz <= 60,
                Action::Character | Action::PlaySound | Action::GoOn => true,
                _ => false,
            };
            assert_eq!(standard.decide(Role::Operator, &action).is_allowed(), allowed, "{action:?}");
        }
    }
    let show = Action::Show { app_id: Some("foot") };
    assert!(strict.decide(Role::Operator, &show).is_allowed());
}

#[test]
fn nobody_does_what_is_another_roles() {
    let mut open = base();
    GATES.iter().for_each(|gate| (gate.open)(&mut open));
    let decider = Decider::new(&open).unwrap();
    let of = |role, action: &Action<'_>| decider.decide(role, action).is_allowed();
    for role in Role::ALL {
        for action in GATES.iter().flat_map(|gate| (gate.passes)()) {
            assert_eq!(of(role, &action), role == Role::Operator, "{role:?} {action:?}");
        }
        assert_eq!(of(role, &Action::Connect { sessions: 0 }), role == Role::Operator);
        assert_eq!(of(role, &Action::Stay { age_seconds: 0, idle_seconds: 0 }), role == Role::Operator);
        assert_eq!(of(role, &Action::Observe), matches!(role, Role::Owner | Role::Observer));
        assert_eq!(of(role, &Action::Export), role == Role::Owner);
        assert_eq!(of(role, &Action::Approve { own: false }), role == Role::Approver);
        assert!(!of(role, &Action::Approve { own: true }), "nobody grants his own request");
        assert_eq!(
            of(role, &Action::Reveal { x: 0, y: 0 }),
            matches!(role, Role::Operator | Role::Observer | Role::Owner)
        );
    }
}

#[test]
fn limits_hold_to_the_last_of_their_values() {
    let decider = Decider::new(&Policy::strict()).unwrap();
    let of = |action: Action<'_>| decider.decide(Role::Operator, &action).is_allowed();
    assert!(of(Action::Connect { sessions: 7 }) && !of(Action::Connect { sessions: 8 }));
    assert!(of(Action::Stay { age_seconds: 28_799, idle_seconds: 1799 }));
    assert!(!of(Action::Stay { age_seconds: 28_800, idle_seconds: 0 }));
    assert!(!of(Action::Stay { age_seconds: 0, idle_seconds: 1800 }));
    assert!(!of(Action::Stay { age_seconds: u64::MAX, idle_seconds: u64::MAX }));
}

#[test]
fn in_the_mode_of_the_list_no_key_passes_that_is_not_on_it_and_no_character_at_all() {
    let mut policy = base();
    policy.input.kb_enabled = true;
    policy.input.kb_allowlist_mode = true;
    policy.input.kb_allowlist = vec!["KeyA".to_owned(), "PrintScreen".to_owned()];
    let decider = Decider::new(&policy).unwrap();
    for (code, _) in lucid_policy::KEYS {
        // What is blocked stays so.
        assert_eq!(decider.decide(Role::Operator, &Action::Key(code)).is_allowed(), *code == "KeyA");
    }
    for other in ["", "keya", "KeyA ", "*"] {
        assert!(!decider.decide(Role::Operator, &Action::Key(other)).is_allowed());
    }
    assert!(!decider.decide(Role::Operator, &Action::Character).is_allowed());
}

#[test]
fn what_is_shielded_is_shown_to_nobody() {
    let mut policy = Policy::standard();
    policy.shield.app_ids = vec!["org.keepassxc.KeePassXC".to_owned()];
    policy.shield.rectangles = vec![lucid_policy::Rectangle { height: 10, width: 20, x: 100, y: 50 }];
    let decider = Decider::new(&policy).unwrap();
    for role in Role::ALL {
        let looks = matches!(role, Role::Operator | Role::Observer | Role::Owner);
        let of = |action: Action<'_>| decider.decide(role, &action).is_allowed();
        assert!(!of(Action::Show { app_id: Some("org.keepassxc.KeePassXC") }));
        assert_eq!(of(Action::Show { app_id: Some("foot") }), looks);
        assert_eq!(of(Action::Show { app_id: None }), looks);
        for (x, y, inside) in [
            (100, 50, true),
            (119, 59, true),
            (99, 50, false),
            (120, 50, false),
            (100, 49, false),
            (100, 60, false),
        ] {
            assert_eq!(of(Action::Reveal { x, y }), looks && !inside, "{x} {y}");
        }
    }
    assert_eq!(from_cedar(&policy.to_cedar()).unwrap(), policy);
}

/// A condition with so much within each other that whoever follows it has no stack left.
fn deep(before: &str, within: &str, after: &str) -> String {
    let (before, after) = (before.repeat(20_000), after.repeat(20_000));
    format!("permit (principal, action, resource) when {{ {before}{within}{after} }};")
}

#[test]
fn policies_that_say_more_than_a_table_can_are_none_of_a_table() {
    let text = Policy::standard().to_cedar();
    assert_eq!(from_cedar(&text).unwrap(), Policy::standard());
    // Spelled and ordered otherwise they are the same.
    let mut gates: Vec<&str> = text.split_inclusive(";\n").collect();
    gates.reverse();
    assert_eq!(from_cedar(&gates.concat().replace('\n', "  \n// a word\n")).unwrap(), Policy::standard());
    let foreign = [
        text.clone() + "permit (principal, action, resource);",
        text.clone() + gates[0],
        gates[1..].concat(),
        text.replace("Role::\"operator\"", "Role::\"observer\""),
        text.replacen("principal in Lucid::Role::\"operator\"", "principal", 1),
        text.replacen("!false", "!!false", 1),
        text.replacen("<= 60", "< 60", 1),
        text.replacen("<= 60", "<= 0", 1),
        text.replacen("<= 60", "<= -60", 1),
        text.replacen("<= 65536", "<= 65537", 1),
        text.replace("@gate(\"system.camera\")", "@gate(\"system.printing\")"),
        text.replace("1048576", "1048577"),
        text.replacen("[\"\\n\", \"PrintScreen\"]", "[\"PrintScreen\"]", 1),
        text.replacen("[\"\\n\", \"PrintScreen\"]", "[\"\\n\", \"PrintScreen\", \"PrintScreen\"]", 1),
        text.replacen("[\"\\n\", \"PrintScreen\"]", "[\"\\n\", \"Print\"]", 1),
        text.clone() + "permit (principal == ?principal, action, resource);",
        String::new(),
        "permit".to_owned(),
        deep("(", "true", ")"),
        deep("!", "true", ""),
        deep("true || ", "true", ""),
        deep("true && ", "true", ""),
        deep("if true then true else ", "true", ""),
        deep("", "context", ".a"),
        deep("\"\" == \"(((\" || ", "true", ""),
    ];
    for text in foreign {
        assert!(from_cedar(&text).is_err(), "{:.500}", text);
    }
}
