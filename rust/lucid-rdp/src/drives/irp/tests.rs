use super::super::damage::Random;
use super::*;

fn with_length(buffer: &[u8]) -> Vec<u8> {
    [&(buffer.len() as u32).to_le_bytes(), buffer].concat()
}

/// MS-FSCC 2.4.10.
fn entry(next: u32, name: &str, size: u64, attributes: u32) -> Vec<u8> {
    let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = next.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    for ticks in [1i64, 2, 3, 4] {
        bytes.extend((EPOCH * TICKS + ticks * TICKS).to_le_bytes());
    }
    bytes.extend(size.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(attributes.to_le_bytes());
    bytes.extend((wide.len() as u32).to_le_bytes());
    bytes.extend(wide);
    bytes
}

#[test]
fn a_request_is_byte_for_byte_that_of_the_specification() {
    let open = Open { access: Access::Read, disposition: Disposition::Open, kind: Kind::File };
    let bytes = request(1, NO_FILE, 7, Function::Create, &create("\\ä", open));
    let expected = [
        &[0x72, 0x44, 0x52, 0x49][..],
        &[1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x89, 0, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0x60, 0, 0, 0],
        &[6, 0, 0, 0, b'\\', 0, 0xe4, 0, 0, 0],
    ]
    .concat();
    assert_eq!(bytes, expected);
    // Bodies with their padding: 2.2.1.4.2 to 2.2.1.4.4, 2.2.3.3.8 to 2.2.3.3.10.
    assert_eq!(
        [close().len(), read(1, 2).len(), write(0, b"abc").len(), query_information(4).len()],
        [32, 32, 35, 32]
    );
    assert_eq!(query_directory(None).len(), 32);
    assert_eq!(query_directory(Some("\\*")).len(), 32 + 6);
    // ReplaceIfExists, RootDirectory, FileNameLength, FileName.
    assert_eq!(set_name("\\b", true)[32..], [1, 0, 6, 0, 0, 0, b'\\', 0, b'b', 0, 0, 0]);
    assert_eq!(set_name("\\b", true)[..8], [10, 0, 0, 0, 12, 0, 0, 0]);
    assert_eq!(set_basic(None, None, false, false).len(), 32 + 36);
}

#[test]
fn times_come_back_as_they_were_to_100_nanoseconds() {
    for (seconds, nanoseconds) in
        [(0, 0), (1, 900), (981_158_400, 999_999_900), (-1, 0), (4_102_444_800, 100)]
    {
        let time = Time { seconds, nanoseconds };
        assert_eq!(Time::from_ticks(time.ticks()), time);
    }
    // Not known; and 0 would be the wish to leave a time as it is.
    assert_eq!(Time::from_ticks(0), Time::default());
    assert_eq!(Time::from_ticks(i64::MIN), Time::default());
    assert_eq!(Time { seconds: i64::MIN, nanoseconds: 0 }.ticks(), 1);
    assert_eq!(Time { seconds: i64::MAX, nanoseconds: 999_999_999 }.ticks(), i64::MAX);
}

#[test]
fn listings_are_read_with_one_entry_or_many() {
    let first = entry(72, "ab", 5, NORMAL);
    let padded = [&first[..], &[0; 4], &entry(0, "漢", 0, DIRECTORY | READONLY)].concat();
    let entries = entries(&with_length(&padded)).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].attributes.size, entries[0].attributes.folder), (5, false));
    assert_eq!(entries[0].attributes.modified, Time { seconds: 3, nanoseconds: 0 });
    assert_eq!(String::from_utf16(&entries[1].name).unwrap(), "漢");
    assert!(entries[1].attributes.folder && entries[1].attributes.readonly);
}

#[test]
fn listings_that_lead_back_or_out_are_refused() {
    for next in [1, 63, 10_000, u32::MAX] {
        assert_eq!(entries(&with_length(&entry(next, "ab", 5, NORMAL))), Err(Errno::IO), "{next}");
    }
    let mut long = entry(0, "ab", 5, NORMAL);
    long[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(entries(&with_length(&long)), Err(Errno::IO));
    assert_eq!(entries(&[]), Err(Errno::IO));
}

#[test]
fn more_than_was_asked_for_is_refused() {
    assert_eq!(data(&with_length(b"abc"), 3), Ok(&b"abc"[..]));
    assert_eq!(data(&with_length(b"abc"), 2), Err(Errno::IO));
    assert_eq!(data(&[9, 0, 0, 0, 1], 9), Err(Errno::IO));
    assert_eq!(written(&[3, 0, 0, 0, 0], 3), Ok(3));
    assert_eq!(written(&[4, 0, 0, 0, 0], 3), Err(Errno::IO));
}

#[test]
fn damaged_answers_are_refused_or_read_as_something_within_them() {
    let mut random = Random::new();
    let listing =
        with_length(&[&entry(72, "ab", 5, NORMAL)[..], &[0; 4], &entry(0, "漢", 0, DIRECTORY)].concat());
    let (basic, standard) = (with_length(&[7; 36]), with_length(&[7; 22]));
    let size = with_length(&[3; 32]);
    for _ in 0..100_000 {
        if let Ok(entries) = entries(&random.damage(&listing)) {
            assert!(entries.len() <= 3 && entries.iter().all(|e| e.name.len() < 100));
        }
        if let Ok(attributes) = attributes(&random.damage(&basic), &random.damage(&standard)) {
            assert!(attributes.size <= i64::MAX as u64);
        }
        if let Ok(size) = drive_size(&random.damage(&size)) {
            assert!(size.block > 0);
        }
        let answer = random.damage(&listing);
        assert!(data(&answer, 100).is_ok_and(|data| data.len() <= 100) || data(&answer, 100).is_err());
        let _ = created(&answer);
    }
}
