//! The buttons and wheels of a real client's mouse.

use super::{MODES, Target, sessions};
use crate::{
    client::{Client, Generation, Mode},
    error::{Error, Result},
    suite::Report,
};

/// A shell's loop that paints everything in a colour that is made of the number by which the terminal (xterm's SGR
/// reports) tells a button. No echo, also of what comes between two reads.
const COLOUR_BY_BUTTON: &str = concat!(
    r"stty -echo;printf '\e[?1000h\e[?1006h';while IFS= read -rsd M A;do A=${A##*<};A=${A%%;*};",
    r"printf '\e]11;#%02x7f3c\a\e[?25l\e[2J\e[H' $A;done"
);

/// X11's button with what it is and the terminal's number of it.
const BUTTONS: [(&str, &str, u8); 9] = [
    ("1", "left", 0),
    ("2", "middle", 1),
    ("3", "right", 2),
    ("4", "wheel up", 64),
    ("5", "wheel down", 65),
    ("6", "wheel to the left", 66),
    ("7", "wheel to the right", 67),
    ("8", "back", 128),
    ("9", "forward", 129),
];

/// The checks for both targets.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    let interrupt = target.place.interrupt;
    let clients: [(Generation, &[&str]); 2] =
        [(Generation::Two, &["/gfx-h264:AVC420"]), (Generation::Three, &["/gfx:AVC420"])];
    for (generation, options) in clients {
        let mode = Mode { client: generation, options, ..MODES[0] };
        let name = format!("{}: {}: all buttons and both wheels arrive", target.name, generation.name());
        report.check(name, || {
            let mut client = tells_buttons(target, &mode)?;
            for (button, what, number) in BUTTONS {
                client.screen.click(button)?;
                client
                    .wait_colour([number, 0x7f, 0x3c], mode.tolerance, target.bound, interrupt)
                    .map_err(|error| Error::broken(format!("{what}: {error}")))?;
            }
            stop_telling(target, client).map(|()| "")
        });
    }
    interrupt.check()
}

/// A session in which everything has the colour of the last button.
pub(super) fn tells_buttons(target: &Target, mode: &Mode) -> Result<Client> {
    let mut client = target.session("mouse", mode)?;
    client.screen.point_to_the_middle()?;
    client.screen.key("super+f")?;
    client.screen.type_text(COLOUR_BY_BUTTON)?;
    client.screen.key("Return")?;
    // A first click tells when the loop runs.
    target.place.interrupt.wait_for("a terminal that tells of clicks", target.bound, || {
        client.must_run()?;
        client.screen.click("9")?;
        let painted = client.screen.picture()?.only_colour(mode.tolerance);
        Ok(painted.filter(|colour| colour[0].abs_diff(129) <= mode.tolerance).map(drop))
    })?;
    Ok(client)
}

/// Ends such a session.
pub(super) fn stop_telling(target: &Target, client: Client) -> Result<()> {
    client.screen.key("ctrl+c")?;
    client.screen.type_text(r"stty echo;printf '\e[?1000l'")?;
    client.screen.key("Return")?;
    sessions::log_off(target, client)
}
