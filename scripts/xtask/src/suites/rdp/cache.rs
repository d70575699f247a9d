//! What a client has shown before and kept: it comes back as it was, and costs next to nothing.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::{MODES, Target, sessions};
use crate::{
    client::{Client, Generation, Login, Mode, Picture},
    error::{Error, Result},
    proxy::Proxy,
    suite::Report,
};

/// Fills the terminal with letters that were never there before, and waits: no prompt, no cursor. An Enter ends it.
const LETTERS: &str =
    r"printf '\e[?25l';clear;head -c 6000 /dev/urandom|base64 -w0;read;printf '\e[?25h';clear";
/// A picture that has not changed for so long is exact: what came as H.264 is repeated after 0.3 s.
const STILL: Duration = Duration::from_millis(1500);
/// How often both windows are shown again.
const TURNS: u64 = 4;
/// Showing a window again takes at most this part of what painting it took.
const PART: u64 = 4;

/// The check, for a target near enough that pictures settle.
pub(super) fn check(target: &Target, report: &mut Report) -> Result<()> {
    let clients: [(Generation, &[&str]); 2] =
        [(Generation::Two, &["/gfx-h264:AVC420"]), (Generation::Three, &["/gfx:AVC420"])];
    for (generation, options) in clients {
        let mode = Mode { client: generation, options, ..MODES[0] };
        let name = format!(
            "{}: {}: a window that is shown again is the same in every pixel and takes few bytes",
            target.name,
            generation.name()
        );
        report.check(name, || shown_again(target, &mode));
    }
    target.place.interrupt.check()
}

fn shown_again(target: &Target, mode: &Mode) -> Result<String> {
    let interrupt = target.place.interrupt;
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, target.login.port, None)?;
    let login = Login { port: proxy.port, ..target.login.clone() };
    let mut client = Client::start(target.place, &target.dir("shown-again"), mode, &login, &[])?;
    client.wait_desktop(target.bound, interrupt)?;
    client.screen.point_to_the_middle()?;
    let first = fill(target, &mut client)?;
    client.screen.key("super+2")?;
    // Before it is there, the wallpaper is.
    interrupt.wait_for("the other workspace", target.bound, || {
        client.must_run()?;
        Ok((client.screen.picture()? != first).then_some(()))
    })?;
    client.screen.key("super+Return")?;
    client.wait_desktop(target.bound, interrupt)?;
    let before = proxy.to_clients();
    let second = fill(target, &mut client)?;
    let painted = proxy.to_clients() - before;
    // Each is named for the client when it goes for the first time.
    shows(target, &mut client, "super+1", &first)?;
    shows(target, &mut client, "super+2", &second)?;
    let before = proxy.to_clients();
    for _ in 0..TURNS {
        shows(target, &mut client, "super+1", &first)?;
        shows(target, &mut client, "super+2", &second)?;
    }
    let again = (proxy.to_clients() - before) / (2 * TURNS);
    // Both terminals are left.
    client.screen.key("Return")?;
    client.wait_desktop(target.bound, interrupt)?;
    sessions::log_off(target, client)?;
    let text = format!("{again} bytes instead of {painted}");
    if again * PART < painted { Ok(text) } else { Err(Error::broken(text)) }
}

/// Fills the screen with letters; gives what that looks like when it is settled.
fn fill(target: &Target, client: &mut Client) -> Result<Picture> {
    client.screen.key("super+f")?;
    client.screen.type_text(LETTERS)?;
    client.screen.key("Return")?;
    let mut last: Option<(Picture, Instant)> = None;
    target.place.interrupt.wait_for("a window full of letters that is settled", target.bound, || {
        client.must_run()?;
        let picture = client.screen.picture()?;
        match &last {
            Some((before, since)) if *before == picture => {
                Ok((since.elapsed() > STILL && !picture.has_prompt()).then_some(picture))
            }
            _ => {
                last = Some((picture, Instant::now()));
                Ok(None)
            }
        }
    })
}

/// Presses a key, and waits until the client shows that picture.
fn shows(target: &Target, client: &mut Client, key: &str, expected: &Picture) -> Result<()> {
    client.screen.key(key)?;
    target.place.interrupt.wait_for(&format!("what was shown before, after {key}"), target.bound, || {
        client.must_run()?;
        Ok((client.screen.picture()? == *expected).then_some(()))
    })
}
