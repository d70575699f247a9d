//! The table as JSON: what is read, what is refused and in which words, its canonical form, and what is said of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use lucid_policy::{Error, Policy, Profile, Rectangle, diff, explain};

fn parse(text: &str) -> Result<Policy, Error> {
    Policy::parse(text.as_bytes())
}

#[test]
fn what_is_left_out_is_as_strict_says() {
    assert_eq!(parse("{}").unwrap(), Policy::strict());
    assert_eq!(parse("{}").unwrap().profile(), Profile::Strict);
    let policy = parse(r#"{"clipboard": {"host_to_remote": true}}"#).unwrap();
    assert_eq!(policy.profile(), Profile::Custom);
    assert_eq!(policy.clipboard.max_bytes, 65_536);
    assert!(!policy.clipboard.remote_to_host && !policy.input.kb_enabled);
    assert_eq!(Policy::standard().profile(), Profile::Standard);
}

#[test]
fn messages_name_the_key_and_what_it_may_be() {
    let messages = [
        (
            r#"{"clipboard": {"max_bytes": 70000000}}"#,
            "`clipboard.max_bytes` is 70000000; it may be from 1 to 67108864",
        ),
        (
            r#"{"input": {"mouse_rate_limit_hz": 0}}"#,
            "`input.mouse_rate_limit_hz` is 0; it may be from 1 to 240",
        ),
        (
            r#"{"shield": {"rectangles": [{"x":0,"y":0,"width":1,"height":1},{"x":9000,"y":0,"width":1,"height":1}]}}"#,
            "`shield.rectangles[1].x` is 9000; it may be from 0 to 8191",
        ),
        (
            r#"{"input": {"kb_blocklist": ["Print"]}}"#,
            "`input.kb_blocklist[0]` is \"Print\"; a key has the name that the W3C gives it (UI Events, KeyboardEvent.code), \
             such as KeyA, F1 or PrintScreen",
        ),
        (
            r#"{"file": {"max_size_mb": "much"}}"#,
            "the policy cannot be read at `file.max_size_mb`: invalid type: string \"much\", expected u32 at line 1 column 31",
        ),
        (
            r#"{"version": 2, "wifi": true}"#,
            "the policy is of version 2, and this program knows version 1 alone: take a newer one",
        ),
    ];
    for (text, message) in messages {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
    }
    let unknown = parse(r#"{"system": {"wifi": true}}"#).unwrap_err().to_string();
    assert!(
        unknown.starts_with("the policy cannot be read at `system.wifi`: unknown field `wifi`"),
        "{unknown}"
    );
}

#[test]
fn what_is_no_table_is_refused() {
    let long = format!(r#"{{"file":{{"allowed_extensions":["{}"]}}}}"#, "x".repeat(17));
    let many: Vec<String> = (0..65).map(|number| format!("\"e{number}\"")).collect();
    let many = format!(r#"{{"file":{{"allowed_extensions":[{}]}}}}"#, many.join(","));
    let large = format!("{{}}{}", " ".repeat(64 << 10));
    for text in [
        "",
        "null",
        "[]",
        "[[true]]",
        r#"{"clipboard":[true]}"#,
        r#"{"shield":{"rectangles":[[1,1,0,0]]}}"#,
        r#"{"violation":{"refuse":null}}"#,
        "{} {}",
        r#"{"version":"1"}"#,
        r#"{"input":{"kb_enabled":1}}"#,
        r#"{"input":{"kb_enabled":true,"kb_enabled":true}}"#,
        r#"{"file":{"max_size_mb":-1}}"#,
        r#"{"file":{"max_size_mb":1.5}}"#,
        r#"{"file":{"allowed_extensions":["TXT"]}}"#,
        r#"{"file":{"allowed_extensions":[".txt"]}}"#,
        r#"{"file":{"allowed_extensions":[""]}}"#,
        r#"{"file":{"allowed_dirs":["/etc"]}}"#,
        r#"{"file":{"allowed_dirs":["a/../b"]}}"#,
        r#"{"file":{"allowed_dirs":["a/"]}}"#,
        r#"{"file":{"allowed_dirs":["a*"]}}"#,
        r#"{"file":{"allowed_dirs":["a\u0000"]}}"#,
        r#"{"shield":{"app_ids":[""]}}"#,
        r#"{"shield":{"rectangles":[{"x":0,"y":0,"width":0,"height":1}]}}"#,
        r#"{"violation":"ignore"}"#,
        &long,
        &many,
        &large,
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

/// A table with something in every place.
fn full() -> Policy {
    let mut policy = Policy::standard();
    policy.clipboard.host_to_remote = true;
    policy.file.upload_enabled = true;
    policy.file.allowed_dirs = vec!["Zu Hause/Schöne \"Bilder\"".to_owned(), "*".to_owned()];
    policy.file.allowed_extensions = vec!["txt".to_owned(), "pdf".to_owned(), "txt".to_owned()];
    policy.input.kb_allowlist = vec!["KeyA".to_owned()];
    policy.shield.app_ids = vec!["org.keepassxc.KeePassXC".to_owned()];
    policy.shield.rectangles = vec![Rectangle { height: 10, width: 20, x: 100, y: 50 }];
    policy
}

#[test]
fn the_golden_files_are_the_canonical_forms_and_their_hashes() {
    let golden: [(Policy, &[u8], &str); 3] = [
        (
            Policy::strict(),
            include_bytes!("../testdata/v1/strict.json"),
            include_str!("../testdata/v1/strict.hash"),
        ),
        (
            Policy::standard(),
            include_bytes!("../testdata/v1/standard.json"),
            include_str!("../testdata/v1/standard.hash"),
        ),
        (full(), include_bytes!("../testdata/v1/full.json"), include_str!("../testdata/v1/full.hash")),
    ];
    for (policy, bytes, hash) in golden {
        assert_eq!(String::from_utf8(policy.to_bytes().unwrap()).unwrap(), String::from_utf8_lossy(bytes));
        assert_eq!(policy.hash().unwrap().to_string(), hash.trim());
        let read = Policy::from_bytes(bytes).unwrap();
        assert_eq!(read.to_bytes().unwrap(), bytes);
        // One spelling, and no second one.
        let spaced = String::from_utf8_lossy(bytes).replacen(':', ": ", 1);
        assert!(Policy::from_bytes(spaced.as_bytes()).is_err());
        assert_eq!(parse(&spaced).unwrap(), read);
    }
    assert!(Policy::from_bytes(b"{}").is_err());
}

#[test]
fn a_table_that_is_read_can_be_read_again_however_long_its_canonical_form_is() {
    let names: Vec<String> = (10..74).map(|number| format!("\"{number}{}\"", "\\\"".repeat(253))).collect();
    let names = names.join(",");
    let text = format!(r#"{{"file":{{"allowed_dirs":[{names}]}},"shield":{{"app_ids":[{names}]}}}}"#);
    assert!(matches!(parse(&text), Err(Error::Large { .. })), "{}", text.len());
    let text = format!(r#"{{"shield":{{"app_ids":[{names}]}}}}"#);
    let policy = parse(&text).unwrap();
    assert_eq!(Policy::from_bytes(&policy.to_bytes().unwrap()).unwrap(), policy);
}

#[test]
fn names_cannot_look_like_others_and_the_first_wrong_one_is_the_one_that_is_named() {
    let dirs = |dirs: &str| {
        parse(&format!(
            r#"{{"file":{{"upload_enabled":true,"allowed_extensions":["*"],"allowed_dirs":{dirs}}}}}"#
        ))
        .unwrap()
    };
    let (one, two) = (dirs(r#"["Home/a, Secret"]"#), dirs(r#"["Home/a","Secret"]"#));
    let (before, after) = diff(&one, &two);
    assert_eq!((before.len(), after.len()), (1, 1), "{before:?} {after:?}");
    let hidden = parse(r#"{"shield":{"app_ids":["a\u202eb"]}}"#).unwrap();
    assert!(explain(&hidden).iter().all(|sentence| !sentence.contains('\u{202e}')));
    let wrong = r#"{"shield":{"rectangles":[{"x":9000,"y":0,"width":5,"height":5},{"x":0,"y":0,"width":1,"height":1}]}}"#;
    assert!(parse(wrong).unwrap_err().to_string().starts_with("`shield.rectangles[0].x` is 9000"));
    let terminal = parse("{\"\\u001b[2J\": 1}").unwrap_err().to_string();
    assert!(!terminal.chars().any(char::is_control), "{terminal}");
}

#[test]
fn each_change_is_said_and_nothing_else() {
    assert_eq!(diff(&Policy::strict(), &Policy::strict()), (Vec::new(), Vec::new()));
    let mut policy = Policy::strict();
    policy.clipboard.host_to_remote = true;
    let (before, after) = diff(&Policy::strict(), &policy);
    assert_eq!(before, ["Nothing that is copied on the desktop can be pasted at the client."]);
    assert_eq!(after, ["What is copied on the desktop can be pasted at the client, up to 65536 bytes."]);
    let said = explain(&full()).join("\n");
    for sentence in [
        "Every key can be pressed except PrintScreen, and every character typed that comes without a key.",
        "Files with the ending \"pdf\", \"txt\", pasted or in any folder of the client's drives, go from the client to the desktop: \
         up to 25 MiB, and none in the place of one of the same name.",
        "No file goes from the desktop to the client.",
        "A session lasts 8 hours at most.",
        "It ends when nothing was typed or pointed at for 30 minutes.",
    ] {
        assert!(said.lines().any(|line| line == sentence), "{sentence}\n{said}");
    }
}
