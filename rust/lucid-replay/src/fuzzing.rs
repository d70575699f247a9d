//! The door through which recordings of others come in, for the fuzz target and for tests. Built with the feature `fuzzing`
//! and for tests alone.

use lucid_session::video::Record;

use crate::Player;

/// The largest picture here: what is larger only costs time.
const MAX_PIXELS: u32 = 1 << 20;

/// Payloads of the video stream, one after the other, each with its length in 3 bytes before it, little-endian. Whatever they
/// are, the player takes or refuses them, and what it shows is of the size that it says.
pub fn records(mut bytes: &[u8]) {
    let mut player = Player::default();
    while let Some(([a, b, c], rest)) = bytes.split_first_chunk::<3>() {
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        bytes = rest;
        let Ok(record) = Record::read(payload) else { continue };
        if matches!(record, Record::Key { width, height, .. } if u32::from(width) * u32::from(height) > MAX_PIXELS)
        {
            continue;
        }
        let taken = player.take(record);
        let changed = player.take_changed();
        if let Some(picture) = player.picture() {
            let (width, height) = (usize::from(picture.width), usize::from(picture.height));
            assert_eq!(picture.pixels.len(), width * height * 4, "a picture is not of its size");
            for region in changed {
                assert!(usize::from(region.x) + usize::from(region.width) <= width);
                assert!(usize::from(region.y) + usize::from(region.height) <= height);
            }
        } else {
            assert!(taken.is_err() || matches!(record, Record::Key { .. } | Record::More(_)));
        }
    }
}
