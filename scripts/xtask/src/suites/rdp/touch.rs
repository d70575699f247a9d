//! Fingers, as IronRDP's client sends them: no X server for clients' windows has a touch screen.

use super::{MODES, Target, clients, mouse};
use crate::{
    client::{Client, Mode},
    error::{At, Error, Result},
    progress::ask_well,
    suite::Report,
};

/// What fingers do, what that is, and the terminal's number for it.
const TOUCHES: [(&str, &str, u8); 4] = [
    ("tap", "a click", 0),
    ("hold", "the right button", 2),
    ("scroll", "the wheel", 65),
    ("two-tap", "the right button", 2),
];

/// The check; nothing of it depends on the machine, so it is this one's alone.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    let name = format!("{}, IronRDP: fingers click, hold and scroll", target.name);
    report.check(&name, || fingers(target, &name));
    target.place.interrupt.check()
}

/// Another client leaves a desktop on which a terminal paints everything in a colour for each button.
fn fingers(target: &Target, name: &str) -> Result<String> {
    let interrupt = target.place.interrupt;
    let dir = target.dir(name);
    std::fs::create_dir_all(&dir).at("making", &dir)?;
    let mode = Mode { size: clients::SIZE, ..MODES[0] };
    let mut client = mouse::tells_buttons(target, &mode)?;
    client.kill();
    for (touch, what, number) in TOUCHES {
        let colour = format!("{number:02x}7f3c");
        let mut watch = clients::ironrdp(target, &dir, &colour, "nla", "pipeline")?;
        watch.args(["--touch", touch]);
        ask_well(&format!("{what} by fingers ({touch})"), &mut watch, b"")?;
    }
    let mut client = Client::start(target.place, &dir, &mode, &target.login, &[])?;
    client
        .wait_colour([2, 0x7f, 0x3c], mode.tolerance, target.bound, interrupt)
        .map_err(|error| Error::broken(format!("the desktop is not as the fingers have left it: {error}")))?;
    mouse::stop_telling(target, client)?;
    Ok(TOUCHES.map(|(touch, ..)| touch).join(", "))
}
