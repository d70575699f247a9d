//! Writing, reading, seeking, proving and rewrapping.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::fs;

use lucid_recording::{
    Error, Limits, OwnerSecret, Proof, Reader, Recipient, Record, Role, SigningKey, Verdict, Writer, chunk,
    prove, rewrap, statement::Ended, verify, verify::Options,
};
use lucid_statement::{Error as Statement, json};
use support::{
    AUDIT, Kept, SMALL, SOUND, Sample, Seeded, VIDEO, device, load, observer, other_device, owner, plain,
    recipients, start, store, temp, time, with_gap,
};

fn keep(record: Record<'_>) -> Kept {
    Kept { stream: record.stream, key: record.key, mono_us: record.mono_us, payload: record.payload.to_vec() }
}

fn records(reader: &Reader) -> Vec<Kept> {
    let mut all = Vec::new();
    for entry in reader.chunks() {
        let mut records = reader.chunk(entry.index).unwrap();
        while let Some(record) = records.next().unwrap() {
            all.push(keep(record));
        }
    }
    all
}

fn check(dir: &std::path::Path, options: Options<'_>) -> verify::Report {
    verify(dir, options, &mut |_| {}).unwrap()
}

#[test]
fn what_is_written_is_read_and_verified() {
    let temp = temp();
    for (dir, kept) in [plain(temp.path(), "plain", 12), with_gap(temp.path(), "gap")] {
        let reader = Reader::open(&dir, &owner(), Some(&device().public())).unwrap();
        assert!(reader.chunks().len() > 3);
        assert_eq!(records(&reader), kept);
        assert_eq!(records(&Reader::open(&dir, &observer(), None).unwrap()), kept);
        let report = check(&dir, Options::default());
        assert_eq!((report.verdict, &report.findings), (Verdict::Sound, &vec![]), "{report:?}");
        assert_eq!(report.chunks.proved as usize, reader.chunks().len());
        let secret = owner();
        let options = Options { owner: Some(&secret), device: Some(device().public()) };
        let report = check(&dir, options);
        assert_eq!((report.verdict, &report.findings), (Verdict::Sound, &vec![]), "{report:?}");
        assert_eq!(report.records, report.opened.unwrap().records);
        assert_eq!(report.ended, Some(Ended::Finished));
        assert_eq!(report.gaps, reader.gaps());
    }
}

#[test]
fn chunks_are_cut_at_keys_once_they_are_large_and_never_get_too_large() {
    let temp = temp();
    let mut sample = Sample::create(temp.path(), "cut", SMALL);
    for second in 0..40 {
        sample.second(second < 20);
    }
    let (dir, _) = sample.finish();
    let reader = Reader::open(&dir, &owner(), None).unwrap();
    let chunks = reader.chunks();
    let (last, full) = chunks.split_last().unwrap();
    assert!(full.iter().all(|chunk| (SMALL.soft..=SMALL.hard).contains(&chunk.size)), "{chunks:?}");
    assert!(last.size <= SMALL.hard);
    // The encoder gave keys when it was asked, and none later: then a chunk goes on from the one before.
    assert!(chunks[..4].iter().all(|chunk| chunk.key));
    assert!(chunks[chunks.len() - 4..].iter().all(|chunk| !chunk.key));
    assert!(chunks.is_sorted_by(|a, b| a.last_us <= b.first_us));
    // A single record may be as large as a chunk.
    let mut writer = Writer::create(
        temp.path(),
        start("large"),
        time(0),
        &recipients(),
        device(),
        Limits::default(),
        Seeded::boxed("large"),
    )
    .unwrap();
    let large = vec![7; chunk::MAX_PAYLOAD];
    for mono_us in 0..3 {
        writer.append(VIDEO, time(mono_us), false, &large).unwrap();
    }
    assert!(matches!(
        writer.append(VIDEO, time(4), false, &[large, vec![0]].concat()),
        Err(Error::Argument(_))
    ));
    let dir = writer.dir().to_owned();
    assert_eq!(writer.finish(time(5), None).unwrap().chunks.len(), 3);
    let secret = owner();
    let report = check(&dir, Options { owner: Some(&secret), device: None });
    assert_eq!(report.verdict, Verdict::Sound, "{report:?}");
}

#[test]
fn a_seek_finds_the_last_key_and_reads_that_chunk_alone() {
    let temp = temp();
    let (dir, kept) = with_gap(temp.path(), "seek");
    let reader = Reader::open(&dir, &owner(), None).unwrap();
    let files = load(&dir);
    let end = kept.last().unwrap().mono_us;
    for mono_us in (0..end + 10_000).step_by(7_001) {
        let first = kept.iter().rfind(|record| record.key && record.mono_us <= mono_us);
        let mut records = reader.seek(mono_us).unwrap();
        let entry = *records.entry();
        let found = keep(records.next().unwrap().unwrap());
        let Some(first) = first else { continue };
        // A key within a chunk that goes on from the one before is passed over for the chunk's beginning.
        assert!(found.mono_us <= first.mono_us && (entry.key || entry.index == 0));
        if found.mono_us < first.mono_us {
            assert!(
                !reader.chunks().iter().any(|chunk| {
                    chunk.key && chunk.first_us <= first.mono_us && chunk.index > entry.index
                })
            );
        } else {
            assert_eq!(&found, first);
        }
    }
    // All others may be gone.
    let middle = reader.chunks()[reader.chunks().len() - 3];
    assert!(middle.key);
    let alone = temp.path().join("alone");
    let name = chunk::file_name(middle.index);
    let kept_files = files.into_iter().filter(|(other, _)| !other.starts_with("chunk-") || *other == name);
    store(&alone, &kept_files.collect());
    let reader = Reader::open(&alone, &owner(), None).unwrap();
    assert_eq!(reader.seek(middle.last_us).unwrap().entry().index, middle.index);
    assert!(reader.chunk(0).is_err());
}

#[test]
fn a_recording_that_goes_on_is_read_as_far_as_it_is_confirmed() {
    let temp = temp();
    let mut sample = Sample::create(temp.path(), "goes on", SMALL);
    let dir = sample.writer.dir().to_owned();
    for _ in 0..9 {
        sample.second(true);
        sample.commit();
        let reader = Reader::open(&dir, &owner(), None).unwrap();
        assert_eq!(records(&reader), sample.kept);
        assert!(!reader.ended());
        let secret = owner();
        let report = check(&dir, Options { owner: Some(&secret), device: None });
        assert_eq!((report.verdict, report.findings), (Verdict::Unfinished, vec![]));
        let known = sample.kept.len();
        sample.second(true);
        assert_eq!(records(&reader), sample.kept[..known]);
    }
}

#[test]
fn nothing_new_makes_no_head() {
    let temp = temp();
    let mut sample = Sample::create(temp.path(), "nothing new", SMALL);
    sample.second(true);
    sample.commit();
    let files = load(sample.writer.dir());
    let audit = sample.audit();
    assert!(!sample.writer.commit(time(sample.mono_us + 9_000_000), Some(audit)).unwrap());
    assert!(!sample.writer.commit(time(sample.mono_us + 9_000_000), None).unwrap());
    assert_eq!(load(sample.writer.dir()), files);
    sample.writer.gap(sample.mono_us, time(sample.mono_us + 9_000_000), "paused").unwrap();
    assert!(sample.writer.commit(time(sample.mono_us + 9_000_000), None).unwrap());
    sample.mono_us += 9_000_000;
    let (dir, _) = sample.finish();
    let report = check(&dir, Options::default());
    assert_eq!((report.verdict, report.gaps.len()), (Verdict::Sound, 1));
}

#[test]
fn a_recording_of_nothing_is_sound() {
    let temp = temp();
    let (dir, kept) = Sample::create(temp.path(), "nothing", SMALL).finish();
    assert_eq!(records(&Reader::open(&dir, &owner(), None).unwrap()), kept);
    let secret = owner();
    let report = check(&dir, Options { owner: Some(&secret), device: None });
    assert_eq!((report.verdict, report.records), (Verdict::Sound, 1), "{report:?}");
}

#[test]
fn what_cannot_be_recorded_is_refused_and_the_recording_goes_on() {
    let temp = temp();
    let mut sample = Sample::create(temp.path(), "refused", SMALL);
    sample.second(true);
    let now = sample.mono_us;
    let writer = &mut sample.writer;
    assert!(matches!(writer.append(VIDEO, time(now - 1), false, b"x"), Err(Error::Argument(_))));
    assert!(matches!(writer.append(9, time(now), false, b"x"), Err(Error::Argument(_))));
    assert!(matches!(writer.append(0, time(now), false, b"x"), Err(Error::Argument(_))));
    assert!(matches!(writer.commit(time(now - 1), None), Err(Error::Argument(_))));
    assert!(matches!(writer.gap(now + 1, time(now), "later"), Err(Error::Argument(_))));
    let again = Writer::create(
        temp.path(),
        start("refused"),
        time(0),
        &recipients(),
        device(),
        SMALL,
        Seeded::boxed("again"),
    );
    assert!(matches!(again, Err(Error::Exists(_))));
    let nobody =
        Writer::create(temp.path(), start("nobody"), time(0), &[], device(), SMALL, Seeded::boxed("nobody"));
    assert!(matches!(nobody, Err(Error::Argument(_))));
    // A public key for which every secret is the same (RFC 7748, section 6.1) wraps nothing.
    let weak = [Recipient { key: lucid_recording::Hex([0; 32]), role: Role::Owner }];
    let weak =
        Writer::create(temp.path(), start("weak"), time(0), &weak, device(), SMALL, Seeded::boxed("weak"));
    assert!(matches!(weak, Err(Error::Argument(_))));
    let (dir, kept) = sample.finish();
    assert_eq!(records(&Reader::open(&dir, &owner(), None).unwrap()), kept);
}

#[test]
fn a_stranger_opens_nothing_and_another_device_signed_nothing() {
    let temp = temp();
    let (dir, _) = plain(temp.path(), "stranger", 3);
    let stranger = OwnerSecret::from_bytes([0x0c; 32]);
    assert!(matches!(Reader::open(&dir, &stranger, None), Err(Error::NotARecipient { .. })));
    let other = other_device().public();
    assert!(matches!(Reader::open(&dir, &owner(), Some(&other)), Err(Error::Signature { .. })));
    let report = check(&dir, Options { owner: Some(&stranger), device: None });
    assert_eq!((report.verdict, report.findings[0].file.as_str()), (Verdict::Damaged, "keys.json"));
}

#[test]
fn events_are_packed_and_what_does_not_get_smaller_is_not() {
    let temp = temp();
    let mut sample = Sample::create(temp.path(), "packed", Limits::default());
    sample.append(AUDIT, false, vec![b'a'; 1 << 20]);
    let noise = sample.content.bytes(1000);
    sample.append(AUDIT, false, noise);
    sample.append(SOUND, false, vec![0; 5000]);
    sample.append(AUDIT, false, Vec::new());
    let (dir, kept) = sample.finish();
    let bytes = &load(&dir)["chunk-000000"];
    let mut frames = chunk::Frames::new();
    let mut seen = Vec::new();
    while let Some(frame) = frames.next(bytes).unwrap() {
        seen.push((frame.flags & chunk::flag::ZSTD != 0, frame.sealed.len()));
    }
    assert!(seen[0].0 && seen[0].1 < 1000);
    assert_eq!(&seen[1..], [(false, 1024), (false, 5024), (false, 24), (false, 24)]);
    assert_eq!(records(&Reader::open(&dir, &owner(), None).unwrap()), kept);
}

#[test]
fn a_proof_holds_for_its_chunk_and_for_nothing_else() {
    let temp = temp();
    let (dir, _) = with_gap(temp.path(), "proof");
    let (other, _) = plain(temp.path(), "proof of another", 12);
    let device = device().public();
    let count = Reader::open(&dir, &owner(), None).unwrap().chunks().len() as u32;
    for index in 0..count {
        let bytes = prove(&dir, index).unwrap().to_bytes().unwrap();
        assert!(bytes.len() < 4096);
        let proof = Proof::from_bytes(&bytes).unwrap();
        for place in 0..count {
            let shown = proof.check(&dir.join(chunk::file_name(place)), &device);
            assert_eq!(shown.is_ok(), place == index, "{index} for {place}: {shown:?}");
        }
        let name = chunk::file_name(index);
        assert!(proof.check(&other.join(&name), &device).is_err());
        assert!(matches!(
            proof.check(&dir.join(&name), &other_device().public()),
            Err(Error::Signature { .. })
        ));
        for at in (0..bytes.len()).step_by(5) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let holds = Proof::from_bytes(&changed).and_then(|proof| proof.check(&dir.join(&name), &device));
            assert!(holds.is_err(), "byte {at}");
        }
    }
    assert!(matches!(prove(&dir, count), Err(Error::Argument(_))));
}

#[test]
fn another_owner_s_key_opens_after_rewrapping_and_the_old_one_does_not() {
    let temp = temp();
    let (dir, kept) = with_gap(temp.path(), "rewrap");
    let mut before = load(&dir);
    let mut random = Seeded::boxed("new owner");
    let path = temp.path().join("new owner");
    let new = OwnerSecret::create(&path, &mut random).unwrap();
    let recipient = Recipient { key: new.public().unwrap(), role: Role::Owner };
    assert!(matches!(
        rewrap(&dir, &OwnerSecret::from_bytes([1; 32]), &[recipient], &mut random),
        Err(Error::NotARecipient { .. })
    ));
    assert_eq!(load(&dir), before);
    rewrap(&dir, &owner(), &[recipient], &mut random).unwrap();
    let mut after = load(&dir);
    assert_ne!(before.remove("keys.json"), after.remove("keys.json"));
    assert_eq!(before, after);
    let new = OwnerSecret::read(&path).unwrap();
    assert_eq!(records(&Reader::open(&dir, &new, None).unwrap()), kept);
    for old in [owner(), observer()] {
        assert!(matches!(Reader::open(&dir, &old, None), Err(Error::NotARecipient { .. })));
    }
    assert_eq!(check(&dir, Options { owner: Some(&new), device: None }).verdict, Verdict::Sound);
}

#[test]
fn a_secret_is_in_a_file_for_its_owner_alone_and_is_never_shown() {
    use std::os::unix::fs::PermissionsExt;
    let temp = temp();
    let path = temp.path().join("device");
    let key = SigningKey::create(&path, &mut Seeded::boxed("device")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!((text.len(), text.trim_end().len()), (65, 64));
    assert_eq!(SigningKey::read(&path).unwrap().public(), key.public());
    assert!(!format!("{key:?}").contains(&text[..16]));
    assert_eq!(format!("{:?}", owner()), "OwnerSecret");
    // It is not made twice, not read when others can read it, and not when it is something else.
    assert!(matches!(SigningKey::create(&path, &mut Seeded::boxed("b")), Err(Statement::Io { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(SigningKey::read(&path), Err(Statement::Malformed { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in ["", "00", &"g".repeat(64), &"0".repeat(65), &"0".repeat(66)] {
        fs::write(&path, wrong).unwrap();
        assert!(matches!(OwnerSecret::read(&path), Err(Error::Malformed { .. })), "{wrong}");
    }
}

/// RFC 8785 by another implementation, for every statement there is.
#[test]
fn statements_are_written_in_canonical_form() {
    let temp = temp();
    let (dir, _) = with_gap(temp.path(), "canonical");
    let files = load(&dir);
    let mut texts: Vec<Vec<u8>> =
        ["opening.json", "manifest.json", "keys.json"].map(|name| files[name].clone()).to_vec();
    texts.extend(files["heads.jsonl"].split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
    texts.push(prove(&dir, 1).unwrap().to_bytes().unwrap());
    let mut seen = 0;
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let value = serde_json::from_slice(text).unwrap();
        assert_eq!(support::damage::canonical(&value).as_bytes(), text.as_slice());
        seen += 1;
    }
    assert!(seen > 20);
    assert_eq!(json::VERSION, 1);
}
