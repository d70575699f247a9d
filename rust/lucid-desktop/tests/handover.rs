//! The desktop socket's two lines, byte for byte, and the descriptors that go with them.

use lucid_desktop::handover::{MAX_LINE, Mask, Reply, receive_line, send_reply};
use lucid_desktop::{DesktopRequest, KeyboardLayout};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const REQUEST: &str = include_str!("golden/request-v4.json");
const REPLY: &str = include_str!("golden/reply-v4.json");
const REFUSAL: &str = include_str!("golden/refusal-v4.json");
const MASK: &str = include_str!("golden/mask-v4.json");
const MASKED: &str = include_str!("golden/masked-v4.json");

fn request(layout: &str, variant: &str) -> DesktopRequest {
    let keyboard = KeyboardLayout { layout: layout.into(), variant: variant.into() };
    DesktopRequest { width: 1280, height: 720, keyboard, sound: false, drives: false }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn the_lines_are_those_of_the_golden_files() {
    assert_eq!(request("us", "").to_line().unwrap(), REQUEST);
    assert_eq!(DesktopRequest::from_line(REQUEST.as_bytes()).unwrap(), request("us", ""));
    let ready = Reply::Ready { keymap_size: 66181, sound: false, drives: false };
    assert_eq!(ready.to_line().unwrap(), REPLY);
    assert_eq!(Reply::from_line(REPLY.as_bytes()).unwrap(), ready);
    let refused = Reply::Failed { error: "the compositor ended before it was ready".into() };
    assert_eq!(refused.to_line().unwrap(), REFUSAL);
    assert_eq!(Reply::from_line(REFUSAL.as_bytes()).unwrap(), refused);
    let mask = Mask { app_id: "org.keepassxc.KeePassXC".into(), masked: true };
    assert_eq!(mask.to_line().unwrap(), MASK);
    assert_eq!(Mask::from_line(MASK.as_bytes()).unwrap(), mask);
    assert_eq!(Reply::Masked.to_line().unwrap(), MASKED);
    assert_eq!(Reply::from_line(MASKED.as_bytes()).unwrap(), Reply::Masked);
}

#[test]
fn drives_are_asked_for_in_a_field_that_is_otherwise_left_out() {
    let with = DesktopRequest { drives: true, ..request("us", "") };
    let line = with.to_line().unwrap();
    assert_eq!(line, REQUEST.replace("\"sound\":false", "\"sound\":false,\"drives\":true"));
    assert_eq!(DesktopRequest::from_line(line.as_bytes()).unwrap(), with);
}

#[test]
fn requests_beyond_the_limits_are_refused_on_both_sides() {
    let long = "x".repeat(33);
    for (layout, variant) in
        [("", ""), ("US", ""), ("us", "a b"), (&long, ""), ("us", &long), ("../x", ""), ("us\n", "")]
    {
        assert!(request(layout, variant).to_line().is_err(), "{layout:?} {variant:?}");
        let line = REQUEST
            .replace("\"layout\":\"us\"", &format!("\"layout\":{}", serde_json::to_string(layout).unwrap()))
            .replace("\"variant\":\"\"", &format!("\"variant\":{}", serde_json::to_string(variant).unwrap()));
        assert!(DesktopRequest::from_line(line.as_bytes()).is_err(), "{line}");
    }
    for (layout, variant) in [("us,ru", "intl,"), ("de", "nodeadkeys"), ("gb", "mac_intl"), ("x-2", "")] {
        assert!(request(layout, variant).to_line().is_ok());
    }
    for (from, to) in [
        ("1280", "199"),
        ("720", "8193"),
        ("1280", "-1"),
        ("1280", "1e3"),
        ("\"version\":4", "\"version\":5"),
        ("\"height\":720,", ""),
        ("\"height\"", "\"depth\":8,\"height\""),
        ("\"variant\"", "\"options\":\"\",\"variant\""),
    ] {
        let line = REQUEST.replace(from, to);
        assert_ne!(line, REQUEST);
        assert!(DesktopRequest::from_line(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn a_mask_for_what_cannot_be_an_application_is_refused_on_both_sides() {
    for app_id in ["", "a\nb", &"x".repeat(256)] {
        let mask = Mask { app_id: app_id.to_owned(), masked: true };
        assert!(mask.to_line().is_err(), "{app_id:?}");
        let id = serde_json::to_string(app_id).unwrap();
        let line = MASK.replace("\"org.keepassxc.KeePassXC\"", &id);
        assert_ne!(line, MASK);
        assert!(Mask::from_line(line.as_bytes()).is_err(), "{line}");
    }
    for line in
        [MASK.replace(",\"masked\":true", ""), MASK.replace("true", "true,\"more\":1"), REQUEST.into()]
    {
        assert!(Mask::from_line(line.as_bytes()).is_err(), "{line}");
    }
    let longest = Mask { app_id: "\u{1f600}".repeat(63), masked: false };
    assert_eq!(Mask::from_line(longest.to_line().unwrap().as_bytes()).unwrap(), longest);
}

#[test]
fn replies_that_are_not_of_the_protocol_are_refused_and_a_long_reason_is_cut_to_fit() {
    for line in [
        "",
        "{}",
        "{\"version\":4}",
        "{\"version\":4,\"keymap_size\":5,\"error\":\"x\"}",
        "{\"version\":4,\"masked\":false}",
        "{\"version\":4,\"masked\":true,\"sound\":true}",
        "{\"version\":4,\"masked\":true,\"keymap_size\":5}",
        "{\"version\":4,\"masked\":true,\"error\":\"x\"}",
        "{\"version\":4,\"keymap_size\":0}",
        "{\"version\":4,\"keymap_size\":1048577}",
        "{\"version\":5,\"keymap_size\":5}",
        "{\"version\":4,\"keymap_size\":5,\"more\":1}",
    ] {
        assert!(Reply::from_line(line.as_bytes()).is_err(), "{line}");
    }
    for error in ["x".repeat(10_000), "\u{1}".repeat(10_000), "ü".repeat(10_000)] {
        let line = Reply::Failed { error }.to_line().unwrap();
        assert!(line.len() <= MAX_LINE);
        assert!(matches!(Reply::from_line(line.as_bytes()).unwrap(), Reply::Failed { .. }));
    }
}

#[test]
fn both_descriptors_arrive_in_their_order_and_are_closed_on_exec() {
    let (launcher, client) = UnixStream::pair().unwrap();
    let (mut compositor, wayland) = UnixStream::pair().unwrap();
    let memfd = rustix::fs::memfd_create("keymap", rustix::fs::MemfdFlags::empty()).unwrap();
    let mut file = std::fs::File::from(memfd);
    file.write_all(b"xkb_keymap\0").unwrap();
    send_reply(
        &launcher,
        &Reply::Ready { keymap_size: 11, sound: false, drives: false },
        &[wayland.as_fd(), file.as_fd()],
    )
    .unwrap();
    let (line, descriptors) = receive_line(&client, soon(), "receiving").unwrap();
    assert_eq!(
        Reply::from_line(&line).unwrap(),
        Reply::Ready { keymap_size: 11, sound: false, drives: false }
    );
    let [first, second] = <[_; 2]>::try_from(descriptors).unwrap();
    for descriptor in [&first, &second] {
        assert!(rustix::io::fcntl_getfd(descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    drop(wayland);
    UnixStream::from(first).write_all(b"hello").unwrap();
    let mut hello = String::new();
    compositor.read_to_string(&mut hello).unwrap();
    assert_eq!(hello, "hello");
    let mut keymap = String::new();
    let mut second = std::fs::File::from(second);
    second.rewind().unwrap();
    second.read_to_string(&mut keymap).unwrap();
    assert_eq!(keymap, "xkb_keymap\0");
}

#[test]
fn a_line_may_come_in_pieces_but_not_without_end_too_long_or_with_more_behind_it() {
    let receive = |pieces: &[&[u8]]| {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|p| p.to_vec()).collect();
        let writing = std::thread::spawn(move || {
            for piece in pieces {
                // The reader may have refused already.
                let _ = writer.write_all(&piece);
            }
        });
        let received = receive_line(&reader, soon(), "receiving");
        drop(reader);
        writing.join().unwrap();
        received.map(|(line, _)| line)
    };
    assert_eq!(receive(&[b"ab", b"c", b"\n"]).unwrap(), b"abc\n");
    assert!(receive(&[b"abc"]).is_err());
    assert!(receive(&[b"abc\nd"]).is_err());
    assert!(receive(&[&[b'x'; MAX_LINE]]).is_err());
    let mut longest = vec![b'x'; MAX_LINE];
    longest[MAX_LINE - 1] = b'\n';
    assert_eq!(receive(&[&longest]).unwrap(), longest);
}

#[test]
fn who_says_nothing_is_given_up() {
    let (_silent, reader) = UnixStream::pair().unwrap();
    let error =
        receive_line(&reader, Instant::now() + Duration::from_millis(20), "waiting for words").unwrap_err();
    assert!(error.to_string().contains("waiting for words"), "{error}");
}
