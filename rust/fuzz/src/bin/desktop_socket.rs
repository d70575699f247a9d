#![no_main]

use lucid_desktop::KeyboardLayout;
use lucid_desktop::files::{self, Answer};
use lucid_desktop::handover::{DesktopRequest, Mask, Reply};

/// What the two sides of the desktop's sockets say: requests, and the answers of a launcher that runs as the desktop's
/// user. The first byte chooses which.
fn enter(bytes: &[u8]) {
    let Some((choice, line)) = bytes.split_first() else { return };
    match choice % 7 {
        0 => {
            if let Ok(request) = DesktopRequest::from_line(line) {
                let again = request.to_line().expect("a request within its limits");
                assert_eq!(DesktopRequest::from_line(again.as_bytes()).expect("what was written"), request);
            }
        }
        1 => {
            if let Ok(layout) = KeyboardLayout::from_line(line) {
                let again = layout.to_line().expect("a layout within its limits");
                assert_eq!(KeyboardLayout::from_line(again.as_bytes()).expect("what was written"), layout);
            }
        }
        2 => {
            if let Ok(reply) = Reply::from_line(line) {
                reply.to_line().expect("an answer that fits");
            }
        }
        3 => {
            if let Some((first, _)) = line.split_first_chunk::<8>()
                && let Ok((head, data)) = files::lengths(*first)
            {
                assert!(head + data <= 32 << 20, "a frame without bound");
            }
        }
        4 => {
            if let Ok(Answer::Listed { entries, .. }) = files::header::<Answer>(line) {
                let _ = files::check(&entries);
            }
        }
        5 => drop(files::header::<files::Request>(line)),
        _ => {
            if let Ok(mask) = Mask::from_line(line) {
                let again = mask.to_line().expect("a mask within its limits");
                assert_eq!(Mask::from_line(again.as_bytes()).expect("what was written"), mask);
            }
        }
    }
}

lucid_fuzz::door!(enter, 16 << 20);
