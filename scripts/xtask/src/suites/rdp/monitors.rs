//! Clients with several monitors: each is an output of the desktop.

use super::{Target, sessions};
use crate::{
    client::{Client, Generation, Mode, Picture, Screen},
    error::{Error, Result},
    suite::Report,
};

type Monitor = (usize, usize, usize, usize);

/// Left, top, width and height: the primary one is on the right and lower, so the other has negative coordinates.
const MONITORS: [Monitor; 2] = [(640, 100, 1024, 768), (0, 0, 640, 480)];
/// Where there is no monitor.
const NOWHERE: Monitor = (0, 480, 640, 388);

const BLUE: [u8; 3] = [0x0b, 0x3d, 0x91];
const CRIMSON: [u8; 3] = [0xd4, 0x14, 0x5a];
const BLACK: [u8; 3] = [0; 3];

/// Each generation with another codec and security.
const CLIENTS: [(Generation, &str, &[&str]); 2] = [
    (Generation::Two, "tls", &["/multimon", "/gfx-h264:AVC420"]),
    (Generation::Three, "nla", &["/multimon", "/gfx:AVC420"]),
];

/// The checks for both targets.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    for (client, security, options) in CLIENTS {
        report.check(
            format!("{}: {}: two monitors are two outputs, and one after that", target.name, client.name()),
            || two_monitors(target, client, security, options),
        );
    }
    target.place.interrupt.check()
}

fn two_monitors(
    target: &Target,
    generation: Generation,
    security: &'static str,
    options: &'static [&'static str],
) -> Result<&'static str> {
    let [first, second] = MONITORS;
    let dir = target.dir(&format!("monitors-{}", generation.name()));
    let screen = Screen::with_monitors(&dir, &MONITORS, target.place.interrupt)?;
    let mode =
        Mode { client: generation, security, codec: "AVC420", options, tolerance: 2, size: (1280, 720) };
    let mut command = generation.command(&target.place)?;
    mode.arguments(&mut command, &dir, &target.login, "127.0.0.1", &[]);
    let mut client = Client::start_on(screen, command)?;
    wait(target, &mut client, "a terminal on the primary monitor", |picture| {
        picture.part(first).has_prompt()
    })?;
    paint(&client, first, BLUE)?;
    wait(target, &mut client, "the primary monitor's colour", |picture| {
        picture.part(first).is_even(BLUE, 2)
    })?;
    // The bar of the other one is there as well: a terminal is opened on it by its own keys.
    click(&client, second)?;
    client.screen.key("super+Return")?;
    wait(target, &mut client, "a terminal on the other monitor", |picture| {
        picture.part(second).has_prompt()
    })?;
    paint(&client, second, CRIMSON)?;
    wait(target, &mut client, "a colour on each monitor, and black where there is none", |picture| {
        picture.part(first).is_even(BLUE, 2)
            && picture.part(second).is_even(CRIMSON, 2)
            && picture.part(NOWHERE).is_even(BLACK, 2)
    })?;
    client.screen.picture()?.save(&target.screens.join(format!(
        "monitors-{}-{}.png",
        target.name,
        generation.name()
    )))?;
    client.kill();
    // With one monitor the window that was used last is shown, over all of it.
    let mut client =
        Client::start(target.place, &target.dir("one-monitor"), &mode_of_one(mode), &target.login, &[])?;
    client.screen.point_to_the_middle()?;
    client.wait_colour(CRIMSON, 2, target.bound, target.place.interrupt)?;
    client.screen.key("Return")?;
    sessions::log_off(target, client)?;
    Ok("")
}

/// The same client with one monitor.
fn mode_of_one(mode: Mode) -> Mode {
    Mode { options: mode.options.split_first().map_or(&[], |(_, rest)| rest), ..mode }
}

fn click(client: &Client, (left, top, width, height): Monitor) -> Result<()> {
    client.screen.click_at(left + width / 2, top + height / 2)
}

/// Has the terminal of a monitor fill it with a colour.
fn paint(client: &Client, monitor: Monitor, [r, g, b]: [u8; 3]) -> Result<()> {
    click(client, monitor)?;
    client.screen.key("super+f")?;
    client.screen.type_text(&format!(r"printf '\e]11;#{r:02x}{g:02x}{b:02x}\a\e[?25l\e[2J\e[H';read"))?;
    client.screen.key("Return")
}

fn wait(target: &Target, client: &mut Client, what: &str, there: impl Fn(&Picture) -> bool) -> Result<()> {
    let waited = target.place.interrupt.wait_for(what, target.bound, || {
        client.must_run()?;
        Ok(there(&client.screen.picture()?).then_some(()))
    });
    if let Err(Error::Late { .. }) = &waited {
        client.screen.picture()?.save(&target.screens.join(format!("missing-{}.png", target.name)))?;
    }
    waited
}
