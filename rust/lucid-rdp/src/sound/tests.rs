use std::io::Write as _;

use ironrdp_rdpsnd::pdu::{ServerAudioOutputPdu, Wave2Pdu};

use super::channel::tests::pcm;
use super::formats::Agreed;
use super::*;

/// Sound for a client that takes PCM, and the desktop's end of the pipe.
fn open() -> (Open, std::io::PipeWriter) {
    let (reading, writing) = std::io::pipe().unwrap();
    let agreed = [Agreed { format: pcm(RATE), number: 3 }];
    let encoder = Encoder::new(&agreed, Instant::now()).unwrap().unwrap();
    let source = Rc::new(Source::new(reading.into()).unwrap());
    let open = Open {
        log: crate::audit::Log::default(),
        source,
        channel_id: 1004,
        user_id: 1002,
        began: Instant::now(),
        encoder: Some((encoder, Wave::Two)),
        part: Vec::new(),
        waiting: VecDeque::new(),
        silent: 0,
        flight: Flight::default(),
        lost: Duration::ZERO,
        holding: crate::gates::holding(Some(std::sync::Arc::new(lucid_policy::Policy::standard()))).1,
        refusal_told: false,
    };
    (open, writing)
}

/// So many pieces; the first sample of each is its number.
fn pieces(numbers: std::ops::Range<i16>) -> Vec<u8> {
    let piece = |n: i16| (0..PIECE * 2).flat_map(move |at| (if at == 0 { n } else { 5 }).to_le_bytes());
    numbers.flat_map(piece).collect()
}

/// The piece in what is sent: TPKT, X.224 and MCS, channel header, then the sound message, possibly in several chunks.
fn first_sample(sent: &[u8]) -> i16 {
    let at = sent.windows(4).position(|w| w[0] == 0x0d && u16::from_le_bytes([w[2], w[3]]) == 3852).unwrap();
    i16::from_le_bytes([sent[at + 16], sent[at + 17]])
}

fn sent(open: &mut Open) -> Vec<i16> {
    let mut sent = Vec::new();
    let now = Instant::now();
    while !open.waiting.is_empty() && open.flight.may_send(now) {
        sent.push(first_sample(&open.send(now).unwrap()));
    }
    sent
}

#[tokio::test]
async fn what_is_sent_is_what_is_recorded() {
    use lucid_session::sound::{Coding, Piece};
    let (mut open, mut writing) = open();
    let (items, mut told) = tokio::sync::mpsc::channel(8);
    let (_told, state) = tokio::sync::watch::channel(crate::recording::State::On(0));
    open.log.set(Some(crate::audit::To { items, state }));
    writing.write_all(&pieces(0..2)).unwrap();
    readable(&open).await;
    open.take(Instant::now());
    let sent = sent(&mut open);
    assert!(!sent.is_empty());
    open.log.flush().await;
    for first in sent {
        let Ok(Item::Sound(sound)) = told.try_recv() else { panic!("piece {first} was not told") };
        let piece = Piece::read(&sound.bytes).unwrap();
        assert_eq!((piece.coding, piece.channels, piece.rate), (Coding::Pcm, 2, RATE));
        assert_eq!(piece.bytes.len(), PIECE * 4);
        assert_eq!(i16::from_le_bytes([piece.bytes[0], piece.bytes[1]]), first);
    }
    assert!(told.try_recv().is_err());
}

/// Waits until something was written, however much was read before.
async fn readable(open: &Open) {
    open.source.forget();
    open.source.readable().await;
}

fn confirm_all(open: &mut Open) {
    for number in 0..=u8::MAX {
        open.flight.confirmed(number, Instant::now());
    }
}

#[test]
fn the_size_of_a_wave_that_the_other_tests_look_for_is_right() {
    let data = vec![0; PIECE * 4].into();
    let wave = Wave2Pdu { timestamp: 0, format_no: 0, block_no: 0, audio_timestamp: 0, data };
    let bytes = ironrdp_core::encode_vec(&ServerAudioOutputPdu::Wave2(wave)).unwrap();
    assert_eq!(bytes[..4], [0x0d, 0, 12, 15]);
    assert_eq!(u16::from_le_bytes([bytes[2], bytes[3]]), 3852);
}

#[tokio::test]
async fn pieces_are_sent_in_their_order_and_whole() {
    let (mut open, mut desktop) = open();
    let bytes = pieces(1..4);
    // However they come in.
    for part in bytes.chunks(997) {
        desktop.write_all(part).unwrap();
        readable(&open).await;
        open.take(Instant::now());
    }
    assert_eq!(sent(&mut open), [1, 2, 3]);
    assert!(open.part.is_empty());
}

#[tokio::test]
async fn of_what_waits_too_long_the_oldest_is_left_out_and_memory_is_bounded() {
    let (mut open, mut desktop) = open();
    // Nothing is confirmed for a while.
    let mut numbers = 0..500_i16;
    let long_ago = Instant::now() - Duration::from_secs(3);
    open.flight.sent(long_ago);
    for number in numbers.by_ref() {
        desktop.write_all(&pieces(number..number + 1)).unwrap();
        readable(&open).await;
        open.take(Instant::now());
        assert!(sent(&mut open).is_empty());
        assert!(open.waiting.len() <= MAX_WAITING && open.part.len() <= PIECE * 2);
    }
    assert_eq!(open.lost, LASTS * 490);
    confirm_all(&mut open);
    assert_eq!(sent(&mut open), (490..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn silence_is_not_sent_but_the_end_of_a_sound_is() {
    let (mut open, mut desktop) = open();
    let silence = vec![0; PIECE * 4];
    let mut told = 0;
    desktop.write_all(&pieces(1..2)).unwrap();
    for _ in 0..100 {
        desktop.write_all(&silence).unwrap();
        readable(&open).await;
        open.take(Instant::now());
        told += sent(&mut open).len();
        confirm_all(&mut open);
    }
    assert_eq!(told, 1 + LAST_SILENCE as usize);
    desktop.write_all(&pieces(2..3)).unwrap();
    readable(&open).await;
    open.take(Instant::now());
    assert_eq!(sent(&mut open), [2]);
}

#[tokio::test]
async fn what_played_while_nobody_listened_is_not_heard_later() {
    let (open, mut desktop) = open();
    // As much as a pipe holds, the last frame broken off.
    desktop.write_all(&pieces(1..17)).unwrap();
    desktop.write_all(&[1, 0, 2]).unwrap();
    open.source.drain();
    desktop.write_all(&[0, 7, 0, 8, 0]).unwrap();
    readable(&open).await;
    let mut samples = Vec::new();
    open.source.read(&mut samples);
    assert_eq!(samples, [1, 2, 7, 8]);
}

#[tokio::test]
async fn a_program_that_writes_without_end_is_read_in_real_time() {
    let (mut open, desktop) = open();
    let writer = std::thread::spawn(move || {
        let mut desktop = desktop;
        // Until the reader is gone.
        while desktop.write_all(&[1; 65536]).is_ok() {}
    });
    let start = Instant::now();
    let mut samples = Vec::new();
    let enough = (f64::from(RATE) * 2.0 * 0.2) as usize;
    while start.elapsed() < Duration::from_millis(600) || samples.len() < enough {
        open.source.readable().await;
        open.source.read(&mut samples);
    }
    let played = samples.len() as f64 / f64::from(RATE) / 2.0;
    let most = start.elapsed().as_secs_f64() * 1.1 + 0.35;
    assert!(played <= most, "{played} s in {:?}", start.elapsed());
    open.part.clear();
    drop(open);
    writer.join().unwrap();
}
