//! With the golden recording of `lucid-recording`, whose owner's secret key is 32 bytes of 0x0a.

use std::os::unix::fs::PermissionsExt as _;

use std::process::ExitCode;

use clap::Parser as _;
use lucid_audit::{Chain, Data, Entry, Name, Word};
use lucid_recording::statement::{Compression, Participant, Stream};
use lucid_recording::{Hex, Limits, Report, SigningKey, Start, Time, Writer};
use lucid_session::video::Record;
use lucid_session::{AUDIT, STREAMS, VIDEO};
use tempfile::TempDir;

use super::*;
use crate::Arguments;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lucid-recording/testdata/v1/recording");
const DEVICE: &str = "6ee091fd280a9b68554fa73c588125d47d3425c68a26ba236b4dad90f90a8f92";

pub(super) fn owner() -> OwnerSecret {
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

/// A recording of a session of 10 s whose desktop is black and whose window has the focus from 1 s on; from 4 s to 5 s
/// nothing was recorded. And the owner's key beside it.
pub(super) fn session() -> (TempDir, PathBuf, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let device = SigningKey::from_seed(&[3; 32]).unwrap();
    let id = "68ca9baf-17c6-4ef7-b456-0a4455bacf8d".parse().unwrap();
    let start = Start {
        session: id,
        participants: vec![Participant { key: device.public(), name: "Ada".into(), role: "user".into() }],
        policy: Hex([0; 32]),
        consent: None,
        snapshot: None,
        codec: "MS-RDPEGFX".into(),
        streams: STREAMS
            .map(|stream| Stream {
                compression: if stream.compressed { Compression::Zstd } else { Compression::None },
                id: stream.number,
                name: stream.name.into(),
            })
            .to_vec(),
        recorder: "test 1".into(),
    };
    let time =
        |seconds: u64| Time { mono_us: seconds * 1_000_000, wall_ms: 1_767_225_600_000 + seconds * 1000 };
    let recipients = [Recipient { key: owner().public().unwrap(), role: Role::Owner }];
    let random = system_random();
    let mut writer =
        Writer::create(temp.path(), start, time(0), &recipients, device, Limits::default(), random).unwrap();
    let dir = writer.dir().to_owned();
    let mut key = Vec::new();
    Record::Key { width: 64, height: 48, png: &[] }.write(&mut key);
    writer.append(VIDEO.number, time(0), true, &key).unwrap();
    let focus =
        Data::Focus { app_id: Some(Word::new("foot").unwrap()), title: Some(Name::new("~/notes").unwrap()) };
    let mut line = Chain::new(id).append(time(1), Entry::of_device(focus)).unwrap().bytes;
    line.push(b'\n');
    writer.append(AUDIT.number, time(1), false, &line).unwrap();
    writer.commit(time(1), None).unwrap();
    writer.gap(4_000_000, time(5), "the link broke").unwrap();
    writer.append(VIDEO.number, time(5), true, &key).unwrap();
    writer.finish(time(10), None).unwrap();
    let file = temp.path().join("owner.key");
    fs::write(&file, "0a".repeat(32)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    (temp, dir, file)
}

/// Runs it as from the command line, with its output of no interest.
pub(super) fn called(words: &[&str]) -> Result<bool, Error> {
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
    let exported = report::Exported {
        file: "a.mp4".into(),
        bytes: 1,
        from_us: 2,
        to_us: 3,
        width: 4,
        height: 5,
        pictures_copied: 6,
        pictures_encoded: 7,
        sound: true,
        sound_left_out: 8,
        events: 9,
        events_file: Some("a.jsonl".into()),
        subtitles_file: None,
        gaps: 10,
        verdict: Verdict::Sound,
        device: Some(device),
        device_given: false,
    };
    let playing = report::Playing { address: "http://127.0.0.1:4000/".into() };
    let films = [json(&exported), json(&playing)].concat();
    let all =
        [json(&shown), json(&[listed, problem]), json(&key), json(&holds), json(&rewrapped), films].concat();
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

#[test]
fn an_export_is_there_whole_or_not_at_all_and_says_whether_it_is_proved() {
    let (temp, dir, key) = session();
    let at = |name: &str| temp.path().join(name);
    let names = || {
        let mut names = names(temp.path()).unwrap();
        names.retain(|name| name.starts_with("film"));
        names.sort();
        names
    };
    let (film, events, subtitles) = (at("film.mp4"), at("film.jsonl"), at("film.vtt"));
    let words = ["export", path(&dir), "--key", path(&key), "--mp4", path(&film)];
    let more = ["--events", path(&events), "--subtitles", path(&subtitles)];
    assert!(called(&[&words[..], &more].concat()).unwrap());
    assert_eq!(names(), ["film.jsonl", "film.mp4", "film.vtt"]);
    assert_eq!(&fs::read(&film).unwrap()[4..8], b"ftyp");
    assert_eq!(fs::read_to_string(&events).unwrap().lines().count(), 1);
    let text = fs::read_to_string(&subtitles).unwrap();
    assert!(text.contains("focus: foot — ~/notes") && text.contains("the link broke"), "{text}");

    // What is there stays as it is, unless it is said otherwise.
    fs::write(&film, "mine").unwrap();
    let error = called(&words).unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    assert_eq!(fs::read(&film).unwrap(), b"mine");
    assert!(called(&[&words[..], &["--force", "--from", "2", "--to", "0:03.5"]].concat()).unwrap());
    let good = fs::read(&film).unwrap();
    assert_eq!(&good[4..8], b"ftyp");

    // A failure leaves nothing, and nothing else than there was.
    let nothing = [&words[..], &["--force", "--from", "11", "--to", "12"]].concat();
    assert_eq!(called(&nothing).unwrap_err().exit(), ExitCode::FAILURE);
    assert_eq!(fs::read(&film).unwrap(), good);
    assert_eq!(names(), ["film.jsonl", "film.mp4", "film.vtt"]);

    // Without its end it is exported as far as it goes, and that is said.
    fs::remove_file(dir.join("manifest.json")).unwrap();
    assert!(!called(&[&words[..], &["--force"]].concat()).unwrap());
    let (_temp, golden, key) = copy();
    let words = ["export", path(&golden), "--key", path(&key), "--mp4", path(&film), "--force"];
    let error = called(&words).unwrap_err();
    assert!(error.to_string().contains("chunk-000000"), "what it holds is of no session: {error}");
    assert_eq!(names(), ["film.jsonl", "film.mp4", "film.vtt"]);
}

#[test]
fn a_time_is_read_as_people_write_it() {
    for (text, us) in [
        ("0", 0),
        ("90", 90_000_000),
        ("1:30", 90_000_000),
        ("1:02:03.5", 3_723_500_000),
        ("0.000001", 1),
        ("1m 30s", 90_000_000),
        ("2h", 7_200_000_000),
        ("100:00", 6_000_000_000),
    ] {
        assert_eq!(export::moment(text), Ok(us), "{text}");
    }
    for text in [
        "",
        ":",
        "1:",
        "1:60",
        "1:2",
        "1.",
        ".5",
        "-1",
        "1:2:3:4",
        "x",
        "1000:00:00",
        "1e9",
        "99999999",
        "1 2",
    ] {
        assert!(export::moment(text).is_err(), "{text}");
    }
}
