//! A film and a moving window as a client shows them, compared with what the desktop shows: by their PSNR while they
//! move, pixel by pixel when they have stopped.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::Target;
use crate::{
    client::{Client, Picture, Place},
    error::{Error, Result},
    scene,
    suite::Report,
};

/// What is expected of a client.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// The size of its desktop.
    pub(super) size: (usize, usize),
    /// Whether a film comes to it at a loss, as H.264 or RemoteFX: if it came without, nothing would be compared with either.
    /// To others it comes without, but in tiles, so that a picture of their screen may be of two frames.
    pub(super) lossy: bool,
}

/// What moves, with its key and its name in the scene.
const WORKS: [(&str, &str, &str); 2] = [("a film", "4", "video"), ("a window over text", "3", "window")];
/// The frame until which it is left alone, so that the client and the rate have settled.
const SETTLED: u16 = 30;
/// How many pictures are taken of what moves.
const TAKEN: usize = 5;
/// A film that comes at a loss is at least so much like the desktop, in decibels: the median of them.
const GOOD: f64 = 30.0;

/// The checks for a client with a prompt over the whole screen, where the desktop can run the scene; leaves it as it was, if
/// it can.
pub(super) fn check(
    target: &Target,
    name: &str,
    client: &mut Client,
    expected: Expected,
    report: &mut Report,
) -> Result<()> {
    let Some(program) = &target.scene else { return Ok(()) };
    for work in WORKS {
        let check = format!("{name}: {} is like the desktop's, and equal to it when it stops", work.0);
        if !report.check(check, || shown(target, program, &target.dir(name), client, work, expected)) {
            break;
        }
    }
    target.place.interrupt.check()
}

/// Has the scene on the desktop while it is compared, and closes it whatever comes of that.
fn shown(
    target: &Target,
    program: &Path,
    dir: &Path,
    client: &mut Client,
    (_, key, work): (&str, &str, &str),
    expected: Expected,
) -> Result<String> {
    let Target { place, bound, .. } = target;
    client.screen.point_to_the_middle()?;
    // Nothing comes before a window that has the whole screen.
    client.screen.key("super+f")?;
    client.screen.type_text(&program.to_string_lossy())?;
    client.screen.key("Return")?;
    client.wait_picture("the scene", *bound, place.interrupt, |picture| Ok(picture.marks()))?;
    client.screen.key(key)?;
    let compared = compared(target, client, |frame| {
        scene::painted(place.project, program, work, frame, expected.size, dir)
    });
    client.screen.key("super+q")?;
    let closed = client.wait_picture("the end of the scene", *bound, place.interrupt, |picture| {
        Ok(picture.marks().is_none().then_some(()))
    });
    // The terminal is under it.
    client.screen.key("super+f")?;
    let back = client.wait_desktop(*bound, place.interrupt);
    let (median, spent) = compared?;
    closed?;
    back?;
    let while_it_moves = if median.is_finite() { format!("{median:.1} dB") } else { "equal".to_owned() };
    let text = format!("{while_it_moves} while it moves; equal {:.1} s after", spent.as_secs_f64());
    // Of what comes in tiles a picture of the screen may be of two frames, and then says nothing of the tiles.
    if work == "video" && expected.lossy && (median < GOOD || median.is_infinite()) {
        return Err(Error::broken(text));
    }
    Ok(text)
}

/// How much what moves is like what the scene paints, in decibels, and how long after it stopped it is equal to that.
fn compared(
    target: &Target,
    client: &mut Client,
    painted: impl Fn(u16) -> Result<Picture>,
) -> Result<(f64, Duration)> {
    let Target { place: Place { interrupt, .. }, bound, .. } = target;
    let (mut moving, mut last) = (Vec::new(), SETTLED);
    while moving.len() < TAKEN {
        // A client that stands still shows no later frame.
        let (picture, frame) =
            client.wait_picture("a frame of what moves", *bound, interrupt, |picture| {
                let marks = picture.marks().filter(|marks| marks.frame > last);
                Ok(marks.map(|marks| (picture.clone(), marks.frame)))
            })?;
        moving.push(picture.likeness(&painted(frame)?)?.0);
        last = frame;
    }
    moving.sort_by(f64::total_cmp);
    client.screen.key("h")?;
    let stopped = Instant::now();
    let what = "what stopped, as it is on the desktop";
    let spent = client.wait_picture(what, *bound, interrupt, |picture| {
        let spent = stopped.elapsed();
        let Some(marks) = picture.marks().filter(|marks| marks.frame > last) else { return Ok(None) };
        let (_, farthest) = picture.likeness(&painted(marks.frame)?)?;
        Ok((farthest == 0).then_some(spent))
    })?;
    Ok((moving.get(TAKEN / 2).copied().unwrap_or_default(), spent))
}
