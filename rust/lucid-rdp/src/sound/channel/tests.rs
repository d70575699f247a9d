use ironrdp_core::encode_vec;
use ironrdp_pdu::gcc::ChannelName;
use ironrdp_rdpsnd::pdu::{AudioFormat, QualityMode, QualityModePdu, TrainingConfirmPdu, WaveConfirmPdu};

use ironrdp_pdu::rdp::vc::ChannelControlFlags;

use super::*;
use lucid_desktop::sound::RATE;

pub(in crate::sound) fn pcm(rate: u32) -> AudioFormat {
    AudioFormat { n_samples_per_sec: rate, n_avg_bytes_per_sec: 0, ..formats::offered().swap_remove(1) }
}

fn formats(version: Version, formats: Vec<AudioFormat>) -> Vec<u8> {
    let pdu = ClientAudioFormatPdu {
        version,
        flags: AudioFormatFlags::ALIVE,
        formats,
        volume_left: 0,
        volume_right: 0,
        pitch: 0,
        dgram_port: 0,
    };
    encode_vec(&ClientAudioOutputPdu::AudioFormat(pdu)).unwrap()
}

fn trained() -> Vec<u8> {
    let pdu = TrainingConfirmPdu { timestamp: 0, pack_size: 0 };
    encode_vec(&ClientAudioOutputPdu::TrainingConfirm(pdu)).unwrap()
}

fn confirm(block_no: u8) -> Vec<u8> {
    let pdu = WaveConfirmPdu { timestamp: 0, block_no };
    encode_vec(&ClientAudioOutputPdu::WaveConfirm(pdu)).unwrap()
}

fn quality() -> Vec<u8> {
    let pdu = QualityModePdu { quality_mode: QualityMode::High };
    encode_vec(&ClientAudioOutputPdu::QualityMode(pdu)).unwrap()
}

/// The numbers and forms of waves that a client has been promised.
fn ready(channel: &mut Channel) -> Vec<(u16, Wave)> {
    let received = channel.take();
    received
        .iter()
        .map(|received| match received {
            Received::Ready { agreed, wave } => (agreed[0].number, *wave),
            Received::Confirmed(_) => panic!("nothing was sent"),
        })
        .collect()
}

#[test]
fn a_format_has_the_number_that_it_has_in_the_clients_list() {
    for (version, wave) in [(Version::V8, Wave::Two), (Version::V6, Wave::One), (Version::V5, Wave::One)] {
        let mut channel = Channel::new();
        assert_eq!(channel.start().unwrap().len(), 1);
        let theirs = vec![pcm(8000), pcm(RATE)];
        assert_eq!(channel.process(&formats(version, theirs)).unwrap().len(), 1);
        channel.process(&quality()).unwrap();
        assert!(channel.take().is_empty());
        channel.process(&trained()).unwrap();
        assert_eq!(ready(&mut channel), [(1, wave)]);
        channel.process(&confirm(7)).unwrap();
        assert!(matches!(channel.take()[..], [Received::Confirmed(7)]));
    }
}

#[test]
fn a_client_without_a_format_or_that_is_not_alive_gets_nothing() {
    let mut dead = formats(Version::V8, vec![pcm(RATE)]);
    dead[4] = 0;
    for answer in [formats(Version::V8, vec![pcm(8000)]), formats(Version::V8, Vec::new()), dead] {
        let mut channel = Channel::new();
        channel.start().unwrap();
        for message in [&answer, &trained(), &confirm(0), &formats(Version::V8, vec![pcm(RATE)]), &trained()]
        {
            assert!(channel.process(message).unwrap().is_empty());
        }
        assert!(channel.take().is_empty());
    }
}

#[test]
fn what_comes_at_the_wrong_time_changes_nothing() {
    let mut channel = Channel::new();
    channel.start().unwrap();
    for message in [trained(), confirm(0), quality()] {
        assert!(channel.process(&message).unwrap().is_empty());
    }
    assert!(channel.take().is_empty());
    let good = formats(Version::V8, vec![pcm(RATE)]);
    channel.process(&good).unwrap();
    assert!(channel.process(&good).unwrap().is_empty());
    channel.process(&trained()).unwrap();
    channel.process(&trained()).unwrap();
    assert_eq!(ready(&mut channel), [(0, Wave::Two)]);
    for _ in 0..1000 {
        channel.process(&confirm(0)).unwrap();
    }
    assert_eq!(channel.take().len(), MAX_RECEIVED);
}

#[test]
fn no_damage_makes_it_fail_and_a_damaged_beginning_gives_no_sound() {
    let mut numbers = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        numbers
    };
    let messages = [formats(Version::V8, vec![pcm(8000), pcm(RATE)]), quality(), trained(), confirm(3)];
    for _ in 0..20_000 {
        let mut channel = Channel::new();
        channel.start().unwrap();
        for message in &messages {
            let mut message = message.clone();
            for _ in 0..next() % 4 {
                let at = next() as usize % message.len();
                message[at] = next() as u8;
            }
            message.truncate(message.len() - next() as usize % 3);
            channel.process(&message).unwrap();
        }
        assert!(channel.take().len() <= messages.len());
    }
    let mut channel = Channel::new();
    channel.start().unwrap();
    channel.process(&[0xff; 40]).unwrap();
    channel.process(&messages[0]).unwrap();
    channel.process(&trained()).unwrap();
    assert!(channel.take().is_empty());
}

#[test]
fn pieces_of_messages_are_bounded_on_this_channel_alone() {
    #[derive(Debug)]
    struct Other;
    impl_as_any!(Other);
    impl SvcProcessor for Other {
        fn channel_name(&self) -> ChannelName {
            ChannelName::from_static(b"other\0\0\0")
        }
        fn process(&mut self, _: &[u8]) -> PduResult<Vec<SvcMessage>> {
            Ok(Vec::new())
        }
    }
    impl SvcServerProcessor for Other {}
    let piece = |length: u32, flags: ChannelControlFlags| {
        [&length.to_le_bytes()[..], &flags.bits().to_le_bytes(), &[0; 8]].concat()
    };
    let first = ChannelControlFlags::FLAG_FIRST;
    let sound = StaticVirtualChannel::new(Channel::new());
    let other = StaticVirtualChannel::new(Other);
    bound(&sound, &piece(LONGEST, first)).unwrap();
    for bad in [
        piece(LONGEST + 1, first),
        piece(u32::MAX, ChannelControlFlags::empty()),
        piece(8, first | ChannelControlFlags::PACKET_COMPRESSED),
        vec![0; 7],
        Vec::new(),
    ] {
        assert!(bound(&sound, &bad).is_err(), "{bad:?}");
        bound(&other, &bad).unwrap();
    }
}
