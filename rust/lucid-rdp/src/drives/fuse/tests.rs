use super::super::damage::Random;
use super::*;

fn request_bytes(opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (40 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(9u64.to_ne_bytes());
    bytes.extend(5u64.to_ne_bytes());
    for number in [1000u32, 100, 4321, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(body);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn requests_are_read_as_the_kernel_lays_them_out() {
    let operation = |opcode, body: &[u8]| {
        let bytes = request_bytes(opcode, body);
        let read = request(&bytes).unwrap();
        assert_eq!((read.unique, read.node), (9, 5));
        assert_eq!(read.owner, Owner { user: 1000, group: 100 });
        format!("{:?}", read.operation)
    };
    assert_eq!(operation(1, b"ab\0"), format!("{:?}", Operation::Lookup { name: b"ab" }));
    // struct fuse_write_in: fh, offset, size and the rest.
    let write = [&words(&[3, 0, 7, 0, 2, 0, 0, 0, 0, 0])[..], b"xyz"].concat();
    assert_eq!(
        operation(16, &write),
        format!("{:?}", Operation::Write { handle: 3, offset: 7, data: b"xy" })
    );
    let rename = [&words(&[6, 0, 1, 0])[..], b"a\0b c\0"].concat();
    let expected = Operation::Rename { name: b"a", folder: 6, to: b"b c", flags: 1 };
    assert_eq!(operation(45, &rename), format!("{expected:?}"));
    // A truncation of an open file: FATTR_SIZE, FATTR_FH.
    let mut set = vec![0; 88];
    set[0] = 1 << 3 | 1 << 6;
    set[8] = 4;
    set[16] = 2;
    let changes = Changes { handle: Some(4), size: Some(2), ..Changes::default() };
    assert_eq!(operation(4, &set), format!("{:?}", Operation::SetAttributes(changes)));
    assert_eq!(
        operation(3, &words(&[0, 0, 8, 0])),
        format!("{:?}", Operation::GetAttributes { handle: None })
    );
    assert_eq!(
        operation(3, &words(&[1, 0, 8, 0])),
        format!("{:?}", Operation::GetAttributes { handle: Some(8) })
    );
    // No more than was announced is read or listed at once.
    let read = words(&[1, 0, 0, 0, u32::MAX, 0]);
    assert_eq!(
        operation(15, &read),
        format!("{:?}", Operation::Read { handle: 1, offset: 0, length: MAX_DATA })
    );
}

#[test]
fn answers_have_the_sizes_of_the_kernels_structures() {
    let (attributes, owner) = (Attributes::default(), Owner::default());
    let sizes = [
        initialized(0, 0).0.len(),
        entry(2, &attributes, owner).0.len(),
        super::attributes(2, &attributes, owner).0.len(),
        opened(1).0.len(),
        created(2, &attributes, owner, 1).0.len(),
        statistics(&Size::default(), 255).0.len(),
    ];
    assert_eq!(sizes, [64, 128, 104, 16, 144, 80]);
    let bytes = answer(9, Err(Errno::NOENT));
    assert_eq!(bytes, [&words(&[16, (-2i32).cast_unsigned()])[..], &9u64.to_ne_bytes()].concat());
}

#[test]
fn a_listing_takes_no_more_room_than_there_is() {
    let mut listing = Listing::new(400);
    let mut added = 0;
    while listing.has_room("name") {
        listing = listing.add(2, &Attributes::default(), Owner::default(), added + 1, "name");
        added += 1;
    }
    // 128 + 24 + 4, to 8.
    assert_eq!((added, listing.finish().0.len()), (2, 320));
}

#[test]
fn damaged_requests_are_refused_or_read_as_something_within_them() {
    let mut random = Random::new();
    let batch = [&words(&[2, 0])[..], &[1; 32]].concat();
    let rename = [&words(&[6, 0, 1, 0])[..], b"a\0b c\0"].concat();
    for _ in 0..200_000 {
        let opcode = random.next() as u32 % 48;
        let body: &[u8] = match random.next() % 4 {
            0 => b"name\0",
            1 => &batch,
            2 => &rename,
            _ => &[3; 88],
        };
        let bytes = random.damage(&request_bytes(opcode, body));
        match request(&bytes).map(|request| request.operation) {
            Some(Operation::BatchForget { nodes }) => assert!(nodes.len() <= 6),
            Some(Operation::Write { data, .. }) => assert!(data.len() <= 48),
            _ => {}
        }
    }
}
