//! What the consoles show.
// The helpers of tests fail a test in the same way as the tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use lucid_provision::Error;
use lucid_provision::announce::{Block, Options, Recorder, Status, announce};
use lucid_provision::apply::{Announcement, Places, Recording, announcement_path, apply};
use zeroize::Zeroizing;

fn announcement(password: Option<&str>, made: bool) -> Announcement {
    Announcement {
        version: 1,
        user: "anna".into(),
        password: password.map(|p| Zeroizing::new(p.to_owned())),
        made,
        recording: Recording::No,
        notes: Vec::new(),
    }
}

fn status() -> Status {
    Status { port: 3389, certificate_sha256: "0a:ff:10".into(), ready: true }
}

#[test]
fn the_block_has_the_agreed_lines() {
    let addresses = [Ipv4Addr::new(192, 168, 1, 20), Ipv4Addr::new(10, 0, 0, 2)];
    let mut announcement = announcement(None, false);
    announcement.notes.push("one\u{1b}[2Jnote".into());
    let block =
        Block { addresses: &addresses, status: &status(), recorder: None, announcement: &announcement };
    let wanted = "\nLucid is ready.\n  address      192.168.1.20:3389\n  address      10.0.0.2:3389\n  \
                  user         anna\n  password     as set in lucid.toml\n  fingerprint  sha256 0A:FF:10\n  \
                  recording    no: lucid.toml names no owner's key\n  \
                  note         one [2Jnote\n";
    assert_eq!(*block.text(), wanted);
}

#[test]
fn without_network_and_with_an_old_password_that_is_said() {
    let announcement = announcement(None, true);
    let block = Block { addresses: &[], status: &status(), recorder: None, announcement: &announcement };
    let text = block.text();
    assert!(text.contains("  address      no network yet\n"));
    assert!(text.contains("  password     as shown at first boot\n"));
}

#[test]
fn the_code_is_the_one_of_the_text_with_four_light_modules_around() {
    let announcement = announcement(Some("abcd-efgh-jkmn"), true);
    let address = [Ipv4Addr::new(10, 0, 2, 15)];
    let block = Block { addresses: &address, status: &status(), recorder: None, announcement: &announcement };
    let text = block.text();
    assert!(text.contains("  password     abcd-efgh-jkmn\n"));
    let rows: Vec<Vec<char>> = text
        .lines()
        .filter_map(|l| l.strip_prefix("\u{1b}[30;47m")?.strip_suffix("\u{1b}[0m"))
        .map(|l| l.chars().collect())
        .collect();
    // Back from half blocks to modules.
    let dark = |x: usize, y: usize| match (rows[y / 2][x], y % 2) {
        ('█', _) | ('▀', 0) | ('▄', 1) => true,
        (' ' | '▀' | '▄', _) => false,
        (other, _) => panic!("{other:?}"),
    };
    let payload = "Lucid\naddress 10.0.2.15:3389\nuser anna\npassword abcd-efgh-jkmn\nsha256 0A:FF:10\n";
    let code = qrcodegen::QrCode::encode_text(payload, qrcodegen::QrCodeEcc::Low).unwrap();
    let width = code.size() as usize + 8;
    assert!(rows.iter().all(|r| r.len() == width));
    assert_eq!(rows.len(), width.div_ceil(2));
    for y in 0..width {
        for x in 0..width {
            assert_eq!(dark(x, y), code.get_module(x as i32 - 4, y as i32 - 4), "{x} {y}");
        }
    }
}

#[test]
fn whether_sessions_are_recorded_is_said_with_the_key_that_signs() {
    let key = "6e".repeat(32);
    let works = Recorder { device_key: Some(key.clone()), problem: None };
    let full = Recorder { device_key: Some(key.clone()), problem: Some("the disk\nis full".into()) };
    let failed = Recorder { device_key: None, problem: Some("no device key".into()) };
    let none = "NO SESSION CAN BEGIN, because none can be recorded: ";
    for (recording, recorder, said, shows_key) in [
        (Recording::Each, Some(&works), "every session is recorded".to_owned(), true),
        (Recording::Each, Some(&full), format!("{none}the disk is full"), true),
        (Recording::Each, Some(&failed), format!("{none}no device key"), false),
        (Recording::Each, None, format!("{none}the recorder has not started"), false),
        (Recording::Impossible("no partition".into()), None, format!("{none}no partition"), false),
    ] {
        let announcement = Announcement { recording, ..announcement(None, true) };
        let block = Block { addresses: &[], status: &status(), recorder, announcement: &announcement };
        let text = block.text();
        assert!(text.contains(&format!("\n  recording    {said}")), "{}", *text);
        assert_eq!(text.contains(&format!("\n  device key   ed25519 {key}\n")), shows_key, "{}", *text);
    }
}

struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        let run = machine.dir.path().join("run");
        let places =
            Places { boot: run.join("boot.json"), select: None, run, data: machine.dir.path().join("data") };
        apply(&places).unwrap();
        machine
    }

    fn options(&self, wait: Duration) -> Options {
        Options {
            run: self.dir.path().join("run"),
            data: self.dir.path().join("data"),
            status: self.dir.path().join("status.json"),
            recorder: self.dir.path().join("recorder.json"),
            consoles: vec![self.console()],
            limit: wait,
        }
    }

    fn console(&self) -> PathBuf {
        self.dir.path().join("console")
    }
}

#[test]
fn the_password_is_shown_once_and_never_in_the_journal() {
    let machine = Machine::new();
    fs::write(machine.console(), "").unwrap();
    let file = announcement_path(&machine.dir.path().join("run"));
    let text = fs::read_to_string(&file).unwrap();
    let password = text.split("\"password\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let status = r#"{"version":1,"port":3389,"certificate_sha256":"aa:bb","ready":true}"#;
    fs::write(machine.dir.path().join("status.json"), status).unwrap();
    let report = announce(&machine.options(Duration::ZERO)).unwrap();
    assert!(!report.contains(&password), "{report}");
    assert!(fs::read_to_string(machine.console()).unwrap().contains(&password));
    assert!(!file.exists());
    assert!(matches!(announce(&machine.options(Duration::ZERO)), Err(Error::NothingToAnnounce { .. })));
    let account = fs::read_to_string(machine.dir.path().join("data/account.json")).unwrap();
    assert!(account.contains("\"shown\":true"), "{account}");
}

#[test]
fn what_the_recorder_says_is_announced_and_what_is_no_key_is_not() {
    let key = "6e".repeat(32);
    let good = format!(r#"{{"version":1,"ready":true,"device_key":"{key}","problem":null}}"#);
    let evil = format!(r#"{{"version":1,"ready":true,"device_key":"{}","problem":null}}"#, "é".repeat(32));
    for (recorder, said) in [
        (Some(good), "every session is recorded"),
        (Some(evil), "NO SESSION CAN BEGIN"),
        (Some("{".to_owned()), "NO SESSION CAN BEGIN"),
        (None, "NO SESSION CAN BEGIN"),
    ] {
        let machine = Machine::new();
        fs::write(machine.console(), "").unwrap();
        let options = machine.options(Duration::ZERO);
        let path = announcement_path(&options.run);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(r#""recording":"no""#, r#""recording":"each""#)).unwrap();
        let status = r#"{"version":1,"port":3389,"certificate_sha256":"aa:bb","ready":true}"#;
        fs::write(&options.status, status).unwrap();
        if let Some(recorder) = recorder {
            fs::write(&options.recorder, recorder).unwrap();
        }
        let report = announce(&options).unwrap();
        assert!(report.contains(said), "{report}");
        assert!(fs::read_to_string(machine.console()).unwrap().contains(&format!("recording    {said}")));
    }
}

#[test]
fn nothing_is_claimed_or_forgotten_before_the_service_is_ready() {
    let machine = Machine::new();
    fs::write(machine.console(), "").unwrap();
    let half = r#"{"version":1,"port":3389,"certificate_sha256":"aa:bb","ready":false}"#;
    for status in [None, Some("{\"version\":1,"), Some(half)] {
        if let Some(status) = status {
            fs::write(machine.dir.path().join("status.json"), status).unwrap();
        }
        assert!(matches!(announce(&machine.options(Duration::ZERO)), Err(Error::NotReady { .. })));
    }
    let shown = fs::read_to_string(machine.console()).unwrap();
    assert_eq!(shown.matches("\nLucid is not ready: ").count(), 3);
    assert!(!shown.contains("password") && !shown.contains("Lucid is ready"), "{shown}");
    assert!(announcement_path(&machine.dir.path().join("run")).exists());
}

#[test]
fn when_no_console_takes_it_the_password_is_kept_for_another_try() {
    let machine = Machine::new();
    let status = r#"{"version":1,"port":3389,"certificate_sha256":"aa:bb","ready":true}"#;
    fs::write(machine.dir.path().join("status.json"), status).unwrap();
    let mut options = machine.options(Duration::ZERO);
    options.consoles = vec!["/nowhere/tty9".into()];
    assert!(announce(&options).is_err());
    assert!(announcement_path(&options.run).exists());
}
