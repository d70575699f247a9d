//! With the golden recording of `lucid-recording`, whose owner's secret key is 32 bytes of 0x0a.

use std::os::unix::fs::PermissionsExt as _;

use std::process::ExitCode;

use clap::Parser as _;
use lucid_recording::Report;
use tempfile::TempDir;

use super::*;
use crate::Arguments;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lucid-recording/testdata/v1/recording");
const DEVICE: &str = "6ee091fd280a9b68554fa73c588125d47d3425c68a26ba236b4dad90f90a8f92";

fn owner() -> OwnerSecret {
    OwnerSecret::from_bytes([0x0a; 32])
}

/// A copy of the golden recording, and the owner's key beside it.
fn copy() -> (TempDir, PathBuf, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let (dir, key) = (temp.path().join("recording"), temp.path().join("owner.key"));
    fs::create_dir(&dir).unwrap();
    for name in names(Path::new(GOLDEN)).unwrap() {
        fs::copy(Path::new(GOLDEN).join(&name), dir.join(name)).unwrap();
    }
    fs::write(&key, "0a".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    (temp, dir, key)
}

/// Runs it as from the command line, with its output of no interest.
fn called(words: &[&str]) -> Result<bool, Error> {
    let words = ["lucidctl", "recording"].iter().chain(words);
    crate::run(Arguments::try_parse_from(words).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn verified(dir: &Path, device: bool, owner: Option<&OwnerSecret>) -> Report {
    let device = device.then(|| DEVICE.parse().unwrap());
    verify(dir, Options { owner, device }, &mut |_| {}).unwrap()
}

#[test]
fn the_json_fields_are_the_documented_ones() {
    let dir = Path::new(GOLDEN);
    let (summary, keys) = (Summary::read(dir, None).unwrap(), Keys::read(dir).unwrap());
    let counts = count(dir, &owner()).unwrap();
    let shown = report::Shown::new(Path::new("a"), &summary, &keys, Some(&counts));
    let listed = report::Listed::new(Path::new("a"), &summary);
    let problem = report::Listed::unreadable(Path::new("b"), "it is gone".into());
    let public = owner().public().unwrap();
    let key = report::Key { file: "owner.key".into(), public };
    let device = DEVICE.parse().unwrap();
    let proved = prove(dir, 3).unwrap().check(&dir.join("chunk-000003"), &device).unwrap();
    let holds = report::ProofHolds { proved, device, device_given: true };
    let opens = vec![report::Opens { key: public, role: Role::Owner }];
    let rewrapped = report::Rewrapped { recipients: opens, old_key_opens: true };
    let all = [json(&shown), json(&[listed, problem]), json(&key), json(&holds), json(&rewrapped)].concat();
    assert_eq!(all, include_str!("../../testdata/recording-v1.jsonl"));
}

#[test]
fn the_text_says_what_is_proved_missing_and_wrong() {
    let (_temp, dir, _) = copy();
    let mut text = report::verified(&verified(&dir, true, Some(&owner())));
    fs::remove_file(dir.join("chunk-000001")).unwrap();
    let head = fs::read_to_string(dir.join("heads.jsonl")).unwrap();
    fs::write(dir.join("heads.jsonl"), head.replacen("1767225600104", "1767225600105", 1)).unwrap();
    text += &report::verified(&verified(&dir, false, None));
    for name in ["opening.json", "manifest.json"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    text += &report::verified(&verified(&dir, false, None));
    assert_eq!(text, include_str!("../../testdata/recording-verify.txt"));
}

#[test]
fn the_text_of_the_others_is_aligned_and_moves_no_cursor() {
    let dir = Path::new(GOLDEN);
    let (mut summary, keys) = (Summary::read(dir, None).unwrap(), Keys::read(dir).unwrap());
    let counts = count(dir, &owner()).unwrap();
    summary.opening.participants[0].name = "Ada\x1b[2J".into();
    summary.opening.recorder = "sample\r1".into();
    let mut text = report::shown(&report::Shown::new(Path::new("a"), &summary, &keys, Some(&counts)));
    let listed = report::Listed::new(Path::new("a"), &summary);
    text += &report::listed(&[listed, report::Listed::unreadable(Path::new("b"), "it is gone".into())]);
    text += &report::listed(&[]);
    assert_eq!(text, include_str!("../../testdata/recording-show.txt"));
}

#[test]
fn a_new_key_is_its_owners_alone_and_is_never_overwritten() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("owner.key");
    assert!(called(&["new-key", path(&file)]).unwrap());
    let secret = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(secret.trim_ascii_end().len(), 64);
    assert!(secret.trim_ascii_end().iter().all(|digit| b"0123456789abcdef".contains(digit)));
    let error = called(&["new-key", path(&file)]).unwrap_err();
    assert!(matches!(error, Error::KeyExists(_)), "{error}");
    assert_eq!(fs::read(&file).unwrap(), secret);
    assert!(OwnerSecret::read(&file).is_ok());
}

#[test]
fn a_verification_ends_well_only_when_all_is_proved() {
    let (temp, dir, key) = copy();
    assert!(called(&["verify", path(&dir)]).unwrap());
    assert!(called(&["verify", path(&dir), "--key", path(&key), "--device", DEVICE, "--json"]).unwrap());
    assert!(!called(&["verify", path(&dir), "--device", &"5a".repeat(32)]).unwrap());
    fs::rename(dir.join("manifest.json"), temp.path().join("manifest.json")).unwrap();
    assert!(!called(&["verify", path(&dir)]).unwrap(), "its end is missing");
    fs::remove_file(dir.join("chunk-000000")).unwrap();
    assert!(!called(&["verify", path(&dir)]).unwrap());
}

#[test]
fn what_cannot_be_read_is_told_from_what_is_wrong() {
    let (temp, dir, key) = copy();
    let missing = temp.path().join("missing");
    for words in [
        ["show", path(&missing)].as_slice(),
        &["list", path(&missing)],
        &["verify", path(&missing)],
        &["verify", path(temp.path())],
        &["verify", path(&dir), "--key", path(&missing)],
        &["prove", path(temp.path()), "--chunk", "0"],
        &["check-proof", path(&missing), path(&missing), "--device", DEVICE],
    ] {
        let error = called(words).unwrap_err();
        assert_eq!(error.exit(), ExitCode::from(6), "{words:?}: {error}");
    }
    assert_eq!(called(&["check-proof", path(&key), path(&key)]).unwrap_err().exit(), ExitCode::from(2));
    let error = called(&["prove", path(&dir), "--chunk", "8"]).unwrap_err();
    assert_eq!(error.exit(), ExitCode::FAILURE, "{error}");
}

#[test]
fn a_proof_is_checked_against_the_device_that_is_named_or_beside() {
    let (temp, dir, _) = copy();
    let (proof, chunk) = (temp.path().join("proof.json"), dir.join("chunk-000002"));
    fs::write(&proof, prove(&dir, 2).unwrap().to_bytes().unwrap()).unwrap();
    assert!(called(&["check-proof", path(&proof), path(&chunk)]).unwrap());
    let alone = temp.path().join("alone");
    fs::copy(&chunk, &alone).unwrap();
    assert!(called(&["check-proof", path(&proof), path(&alone), "--device", DEVICE]).unwrap());
    assert!(matches!(called(&["check-proof", path(&proof), path(&alone)]), Err(Error::NoDevice)));
    let error = called(&["check-proof", path(&proof), path(&dir.join("chunk-000003"))]).unwrap_err();
    assert_eq!(error.exit(), ExitCode::FAILURE, "{error}");
}

#[test]
fn a_rewrap_lets_in_who_is_named_and_nobody_else() {
    let (_temp, dir, key) = copy();
    let made = |byte| {
        let secret = OwnerSecret::from_bytes([byte; 32]);
        let public = secret.public().unwrap().to_string();
        (secret, public)
    };
    let ((new, to), (watching, observer), (safe, recovery)) = (made(1), made(2), made(3));
    let words = ["rewrap", path(&dir), "--key", path(&key), "--to", &to, "--to-observer", &observer];
    assert!(called(&[words.as_slice(), &["--to-recovery", &recovery]].concat()).unwrap());
    for secret in [&new, &watching, &safe] {
        assert_eq!(verified(&dir, true, Some(secret)).opened.unwrap().records, 137);
    }
    assert_eq!(verified(&dir, true, Some(&owner())).verdict, Verdict::Damaged);
    let roles: Vec<Role> = Keys::read(&dir).unwrap().recipients.iter().map(|one| one.role).collect();
    assert_eq!(roles, [Role::Owner, Role::Observer, Role::Recovery]);
    // The key that was used is none of theirs any more.
    let error = called(&words).unwrap_err();
    assert_eq!(error.exit(), ExitCode::FAILURE, "{error}");
}

#[test]
fn a_list_has_every_recording_and_says_which_are_damaged() {
    let (temp, dir, _) = copy();
    let second = temp.path().join("second");
    fs::create_dir(&second).unwrap();
    fs::copy(dir.join("heads.jsonl"), second.join("heads.jsonl")).unwrap();
    fs::create_dir(temp.path().join("something else")).unwrap();
    let listed = list(temp.path()).unwrap();
    let text = report::listed(&listed);
    assert_eq!(listed.len(), 2, "{text}");
    assert!(text.contains("finished") && text.contains("damaged") && text.contains("opening.json"), "{text}");
}
