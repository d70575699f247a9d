use std::sync::Arc;

use lucid_recording::Reader;
use lucid_session::video::Record;

use crate::canvas::{Canvas, Cursor};
use crate::{Item, Picture, Player, Result, Show};

/// What was shown at a time, in microseconds since the session's start; with the pointer where it then was, or without,
/// since the client drew it by itself. None where nothing was recorded. Only the chunks that are needed are read.
///
/// # Errors
/// When what was recorded cannot be read or shown.
pub fn still(reader: Arc<Reader>, at_us: u64, pointer: bool) -> Result<Option<Picture>> {
    let mut show = Show::from(reader, at_us)?;
    let (mut player, mut cursor, mut is_shown) = (Player::default(), Cursor::default(), false);
    while let Some(moment) = show.next()? {
        if moment.at_us > at_us {
            break;
        }
        let failed = |error: crate::Error| error.at(moment.chunk, moment.record, moment.at_us);
        match moment.item {
            Item::Video(payload) => {
                let record = Record::read(&payload).map_err(|error| failed(error.into()))?;
                is_shown |= matches!(record, Record::Key { .. });
                if is_shown {
                    player.take(record).map_err(failed)?;
                }
            }
            Item::Pointer(change) => cursor.change(change),
            Item::Gap(_) => is_shown = false,
            Item::Sound(_) | Item::Event(..) => {}
        }
    }
    let Some(picture) = player.picture().filter(|_| is_shown) else { return Ok(None) };
    if !pointer {
        return Ok(Some(picture.clone()));
    }
    let mut canvas = Canvas::new(picture.width, picture.height);
    canvas.show(picture, &[], true, Some(&cursor));
    let pixels = canvas.pixels.as_chunks::<4>().0.iter().flat_map(|[b, g, r, _]| [*r, *g, *b, 255]).collect();
    Ok(Some(Picture { pixels, ..*picture }))
}
