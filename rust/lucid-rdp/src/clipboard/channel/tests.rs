//! The channel against ironrdp-cliprdr's client, and against damaged and hostile messages.

use ironrdp_cliprdr::CliprdrClient;
use ironrdp_cliprdr::backend::CliprdrBackend;
use ironrdp_cliprdr::pdu::{FormatDataResponse, LockDataId};
use ironrdp_core::encode_vec;

use super::*;

/// A client's side that notes what it is asked.
#[derive(Debug, Default)]
struct Noting {
    has: Vec<ClipboardFormat>,
    wishes: Vec<ClipboardFormatId>,
    data: Vec<Option<Vec<u8>>>,
    asked_for_its_list: bool,
}

impl_as_any!(Noting);

impl CliprdrBackend for Noting {
    fn temporary_directory(&self) -> &str {
        "/nowhere"
    }
    fn client_capabilities(&self) -> ClipboardGeneralCapabilityFlags {
        ClipboardGeneralCapabilityFlags::all()
    }
    fn on_ready(&mut self) {}
    fn on_request_format_list(&mut self) {
        self.asked_for_its_list = true;
    }
    fn on_process_negotiated_capabilities(&mut self, _: ClipboardGeneralCapabilityFlags) {}
    fn on_remote_copy(&mut self, formats: &[ClipboardFormat]) {
        self.has = formats.to_vec();
    }
    fn on_format_data_request(&mut self, request: FormatDataRequest) {
        self.wishes.push(request.format);
    }
    fn on_format_data_response(&mut self, response: FormatDataResponse<'_>) {
        self.data.push((!response.is_error()).then(|| response.data().to_vec()));
    }
    fn on_file_contents_request(&mut self, _: FileContentsRequest) {}
    fn on_file_contents_response(&mut self, _: FileContentsResponse<'_>) {}
    fn on_lock(&mut self, _: LockDataId) {}
    fn on_unlock(&mut self, _: LockDataId) {}
}

fn channel_with(gates: Gates) -> Channel {
    let mut channel = Channel::default();
    channel.set_gates(gates);
    channel
}

fn open() -> Gates {
    Gates {
        clipboard_to_desktop: true,
        clipboard_to_client: true,
        clipboard_max_bytes: 100_000,
        ..Gates::default()
    }
}

/// Both ends, past their greetings.
fn connected(formats: &[ClipboardFormat]) -> (Channel, CliprdrClient) {
    let mut host = channel_with(open());
    let mut client = CliprdrClient::new(Box::new(Noting::default()));
    let greeting = host.start().unwrap();
    assert!(tell_client(greeting, &mut client).is_empty());
    assert!(client.downcast_backend::<Noting>().unwrap().asked_for_its_list);
    tell_host(client.initiate_copy(formats).unwrap().into(), &mut host);
    assert!(tell_client(vec![formats_received()], &mut client).is_empty());
    assert!(client.is_ready());
    (host, client)
}

fn tell_client(messages: Vec<SvcMessage>, client: &mut CliprdrClient) -> Vec<SvcMessage> {
    let payloads = messages.iter().map(|m| m.encode_unframed_pdu().unwrap());
    payloads.flat_map(|p| client.process(&p).unwrap()).collect()
}

/// What the channel answered by itself would stand between the pieces of what is being written: it does not.
fn tell_host(messages: Vec<SvcMessage>, host: &mut Channel) {
    for message in messages {
        assert!(host.process(&message.encode_unframed_pdu().unwrap()).unwrap().is_empty());
    }
}

fn text() -> ClipboardFormat {
    ClipboardFormat::new(ClipboardFormatId::CF_UNICODETEXT)
}

#[test]
fn names_are_told_both_ways_and_content_only_when_it_is_asked_for() {
    let (mut host, mut client) = connected(&[text()]);
    assert!(matches!(&host.take()[..], [Received::Formats(formats)] if *formats == [text()]));
    tell_client(vec![host.announce(&[text()]).unwrap()], &mut client);
    let noted = client.downcast_backend::<Noting>().unwrap();
    assert_eq!(noted.has, [text()]);
    assert!(noted.wishes.is_empty() && noted.data.is_empty());

    tell_client(vec![ask(ClipboardFormatId::CF_UNICODETEXT)], &mut client);
    assert_eq!(client.downcast_backend::<Noting>().unwrap().wishes, [ClipboardFormatId::CF_UNICODETEXT]);
    let given = OwnedFormatDataResponse::new_data(vec![65, 0, 0, 0]);
    tell_host(client.submit_format_data(given).unwrap().into(), &mut host);
    assert!(matches!(&host.take()[..], [Received::Data(Some(data))] if *data == [65, 0, 0, 0]));

    tell_host(client.initiate_paste(ClipboardFormatId::CF_UNICODETEXT).unwrap().into(), &mut host);
    assert!(matches!(host.take()[..], [Received::Wish(ClipboardFormatId::CF_UNICODETEXT)]));
    tell_client(vec![answer(Some(vec![66, 0])), answer(None)], &mut client);
    assert_eq!(client.downcast_backend::<Noting>().unwrap().data, [Some(vec![66, 0]), None]);
}

/// Cuts a message as a client does: header of 8 bytes, then at most `size` bytes.
fn pieces(body: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = body.len().div_ceil(size);
    let cut = body.chunks(size).enumerate();
    cut.map(|(at, chunk)| {
        let flags = u32::from(at == 0) | u32::from(at + 1 == count) << 1;
        [&(body.len() as u32).to_le_bytes()[..], &flags.to_le_bytes(), chunk].concat()
    })
    .collect()
}

fn data_of(bytes: usize) -> Vec<u8> {
    encode_vec(&ClipboardPdu::FormatDataResponse(OwnedFormatDataResponse::new_data(vec![7; bytes]))).unwrap()
}

#[test]
fn what_is_too_large_is_never_held_and_the_next_message_comes_through() {
    let mut channel = StaticVirtualChannel::new(channel_with(open()));
    for (bytes, taken) in [(1, true), (100_000, true), (20_000_000, false), (3, true), (200_000, false)] {
        for piece in pieces(&data_of(bytes), 1600) {
            if let Some(piece) = bounded(&mut channel, &piece).unwrap() {
                assert!(taken || piece.len() < 100);
                channel.process(&piece).unwrap();
            }
        }
        let received = channel.channel_processor_downcast_mut::<Channel>().unwrap().take();
        match &received[..] {
            [Received::Data(Some(data))] => assert!(taken && data.len() == bytes),
            [Received::TooLarge(length)] => assert!(!taken && *length as usize > bytes),
            other => panic!("{bytes}: {other:?}"),
        }
    }
}

#[test]
fn large_messages_that_no_user_can_cause_end_the_session() {
    let list = FormatList::new_unicode(&vec![text(); 100_000], true).unwrap();
    let list = encode_vec(&ClipboardPdu::FormatList(list)).unwrap();
    let mut host = channel_with(open());
    assert!(host.bound(&pieces(&list, 1600)[0]).is_err());
    // The middle of what never began; a second beginning; a compressed piece; no header.
    let large = pieces(&data_of(500_000), 1600);
    assert!(channel_with(open()).bound(&large[1]).is_err());
    assert_eq!(host.bound(&large[0]).unwrap(), None);
    assert!(host.bound(&large[0]).is_err());
    let mut compressed = pieces(&data_of(10), 1600).remove(0);
    compressed[6] = 0x20;
    assert!(channel_with(open()).bound(&compressed).is_err());
    assert!(channel_with(open()).bound(&[0; 7]).is_err());
}

#[test]
fn unhandled_messages_do_not_pile_up() {
    let mut host = channel_with(open());
    let wish =
        encode_vec(&ClipboardPdu::FormatDataRequest(FormatDataRequest { format: text().id() })).unwrap();
    for _ in 0..MAX_RECEIVED {
        host.process(&wish).unwrap();
    }
    assert!(host.process(&wish).is_err());
}

#[test]
fn damaged_messages_are_refused_or_taken_and_nothing_else() {
    let long = ["HTML Format", "FileGroupDescriptorW", "Grüße 漢字"].map(|name| {
        let name = ironrdp_cliprdr::pdu::ClipboardFormatName::new(name);
        ClipboardFormat::new(ClipboardFormatId::new(0xc000)).with_name(name)
    });
    let good: Vec<Vec<u8>> = [
        ClipboardPdu::Capabilities(Capabilities::new(
            ClipboardProtocolVersion::V2,
            ClipboardGeneralCapabilityFlags::all(),
        )),
        ClipboardPdu::FormatList(FormatList::new_unicode(&long, true).unwrap()),
        ClipboardPdu::FormatList(FormatList::new_ascii(&long[..2], false).unwrap()),
        ClipboardPdu::FormatDataRequest(FormatDataRequest { format: text().id() }),
        ClipboardPdu::FormatDataResponse(OwnedFormatDataResponse::new_data(vec![1; 40])),
        ClipboardPdu::FileContentsRequest(FileContentsRequest {
            stream_id: 1,
            index: 2,
            flags: ironrdp_cliprdr::pdu::FileContentsFlags::RANGE,
            position: 1 << 33,
            requested_size: 5,
            data_id: None,
        }),
        ClipboardPdu::FileContentsResponse(FileContentsResponse::new_data_response(1, vec![1; 40])),
        ClipboardPdu::LockData(LockDataId(1)),
    ]
    .iter()
    .map(|pdu| encode_vec(pdu).unwrap())
    .collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    for _ in 0..60_000 {
        let mut channel = StaticVirtualChannel::new(channel_with(open()));
        for _ in 0..3 {
            let mut whole = good[random() % good.len()].clone();
            whole.truncate(random() % (whole.len() + 1) + 1);
            for mut piece in pieces(&whole, 1 + random() % 64) {
                for _ in 0..random() % 3 {
                    let at = random() % piece.len();
                    piece[at] = random() as u8;
                }
                let Ok(passed) = bounded(&mut channel, &piece) else { continue };
                if let Some(passed) = passed {
                    // Refused or not: it must come back.
                    let _ = channel.process(&passed);
                }
            }
        }
        for received in channel.channel_processor_downcast_mut::<Channel>().unwrap().take() {
            match received {
                Received::Formats(formats) => assert!(formats.len() <= MAX_FORMATS),
                Received::Data(data) => assert!(data.is_none_or(|d| d.len() <= 100_000 + OVERHEAD)),
                Received::Wish(_) | Received::ContentsWish(_) | Received::TooLarge(_) => {}
                Received::Contents(contents) => {
                    assert!(contents.data.is_none_or(|d| d.len() <= 100_000 + OVERHEAD));
                }
            }
        }
    }
}
