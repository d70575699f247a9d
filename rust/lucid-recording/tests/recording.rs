//! Writing, reading, seeking, proving and rewrapping.

mod support;

use std::fs;

use lucid_recording::{
    DeviceKey, Error, Limits, OwnerSecret, Proof, Reader, Recipient, Record, Role, Verdict, Writer, chunk,
    json, prove, rewrap, statement::Ended, verify, verify::Options,
};
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
