use super::super::damage::Random;
use ironrdp_pdu::rdp::vc::ChannelControlFlags;

use super::*;

fn core(packet: u16, body: &[u8]) -> Vec<u8> {
    [&CORE.to_le_bytes(), &packet.to_le_bytes(), body].concat()
}

fn device(kind: u32, id: u32, short: &[u8; 8], data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(id.to_le_bytes());
    bytes.extend(short);
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn list(devices: &[Vec<u8>]) -> Vec<u8> {
    core(DEVICE_LIST_ANNOUNCE, &[&(devices.len() as u32).to_le_bytes()[..], &devices.concat()].concat())
}

fn sent(channel: &mut Channel, message: &[u8]) -> Vec<Vec<u8>> {
    channel.process(message).unwrap().iter().map(|m| m.encode_unframed_pdu().unwrap()).collect()
}

#[test]
fn a_client_is_led_to_where_it_announces_its_drives() {
    let mut channel = Channel::default();
    let first = channel.start().unwrap();
    assert_eq!(first[0].encode_unframed_pdu().unwrap(), core(SERVER_ANNOUNCE, &[1, 0, 13, 0, 1, 0, 0, 0]));
    assert!(sent(&mut channel, &core(CLIENT_ID_CONFIRM, &[1, 0, 12, 0, 1, 0, 0, 0])).is_empty());
    let answers = sent(&mut channel, &core(CLIENT_NAME, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(answers[0][..8], core(SERVER_CAPABILITY, &[2, 0, 0, 0]));
    // Both sets with their lengths.
    assert_eq!(answers[0].len(), 8 + 44 + 8);
    assert_eq!(answers[1][..4], core(CLIENT_ID_CONFIRM, &[]));
    assert_eq!(sent(&mut channel, &core(CLIENT_CAPABILITY, &[0; 4])), [core(USER_LOGGED_ON, &[])]);
    let answers = sent(
        &mut channel,
        &list(&[device(FILESYSTEM, 3, b"home\0\0\0\0", b"home\0"), device(0x20, 4, b"SCARD\0\0\0", b"")]),
    );
    assert_eq!(answers[0], core(DEVICE_REPLY, &[3, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(answers[1], core(DEVICE_REPLY, &[4, 0, 0, 0, 0x22, 0, 0, 0xc0]));
    assert_eq!(channel.take(), [Received::Drive { device: 3, name: "home".into() }]);
    sent(&mut channel, &core(DEVICE_LIST_REMOVE, &[2, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0]));
    assert_eq!(channel.take(), [Received::Removed { device: 3 }]);
}

#[test]
fn names_are_understood_as_the_specification_and_as_freerdp_have_them() {
    let wide = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    assert_eq!(name(b"mydocum\0", b"mydocuments\0"), "mydocuments");
    assert_eq!(name(b"C:\0\0\0\0\0\0", &wide("C:")), "C:");
    assert_eq!(name(b"_\0\0\0\0\0\0\0", &wide("漢字")), "漢字");
    assert_eq!(name(b"_______\0", "漢字\0".as_bytes()), "漢字");
    assert_eq!(name(b"x\0\0\0\0\0\0\0", b"x\0"), "x");
    assert_eq!(name(b"C:\0\0\0\0\0\0", b""), "C:");
    assert_eq!(name(b"X\0\0\0\0\0\0\0", &[0, 0xd8, 0, 0]), "X");
}

#[test]
fn a_device_is_taken_once_and_not_more_than_the_most() {
    let mut channel = Channel::default();
    let devices: Vec<_> = (0..100).map(|id| device(FILESYSTEM, id / 2, b"d\0\0\0\0\0\0\0", b"")).collect();
    assert_eq!(sent(&mut channel, &list(&devices)).len(), 100);
    assert_eq!(channel.take().len(), MAX_DRIVES);
}

#[test]
fn damaged_messages_are_passed_over_or_taken_and_nothing_else() {
    let mut random = Random::new();
    let messages = [
        core(CLIENT_ID_CONFIRM, &[1, 0, 12, 0, 1, 0, 0, 0]),
        core(CLIENT_NAME, &[0; 12]),
        core(CLIENT_CAPABILITY, &[0; 4]),
        list(&[device(FILESYSTEM, 3, b"home\0\0\0\0", b"home\0"), device(4, 4, b"PRN1\0\0\0\0", &[7; 30])]),
        core(IO_COMPLETION, &[3; 20]),
        core(DEVICE_LIST_REMOVE, &[1, 0, 0, 0, 3, 0, 0, 0]),
    ];
    for _ in 0..20_000 {
        let mut channel = Channel::default();
        for message in &messages {
            let answers = channel.process(&random.damage(message)).unwrap();
            assert!(answers.len() <= 4);
        }
        assert!(channel.take().len() <= 10 && channel.drives.len() <= MAX_DRIVES);
    }
}

#[test]
fn pieces_that_announce_too_much_or_are_compressed_are_refused() {
    let piece = |length: u32, flags: ChannelControlFlags| {
        [&length.to_le_bytes()[..], &flags.bits().to_le_bytes(), &[0; 8]].concat()
    };
    let first = ChannelControlFlags::FLAG_FIRST;
    let channel = StaticVirtualChannel::new(Channel::default());
    bound(&channel, &piece(LONGEST, first)).unwrap();
    for bad in
        [piece(LONGEST + 1, first), piece(8, first | ChannelControlFlags::PACKET_COMPRESSED), vec![0; 7]]
    {
        assert!(bound(&channel, &bad).is_err(), "{bad:?}");
    }
}
