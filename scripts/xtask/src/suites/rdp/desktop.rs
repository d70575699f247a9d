//! The desktop as a person uses it: the bar's menu, the files, the wallpaper.

use super::{MODES, Target};
use crate::{
    client::Client,
    error::{Error, Result},
    suite::Report,
};

/// The ground of the terminal and of the wallpaper.
const GROUND: [u8; 3] = [0x1f, 0x24, 0x30];

/// The checks; they need the desktop's own programs, so they are for the device.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    report.check(
        format!("{}: the bar's menu opens the files, and they are closed again", target.name),
        || {
            let mut client = target.session("menu", &MODES[0])?;
            let (width, height) = MODES[0].size;
            client.screen.click_at(width - 30, height - 12)?;
            // The menu takes the keyboard when it is there; its colour is that of its chosen line.
            wait(target, &mut client, "the menu", |client| {
                Ok(client.screen.picture()?.share(MENU, 0) > 0.005)
            })?;
            client.screen.picture()?.save(&target.screens.join(format!("menu-{}.png", target.name)))?;
            client.screen.type_text("files")?;
            client.screen.key("Return")?;
            wait(target, &mut client, "the files", |client| {
                Ok(client.screen.picture()?.share(GROUND, 2) < 0.5)
            })?;
            client.screen.picture()?.save(&target.screens.join(format!("files-{}.png", target.name)))?;
            client.screen.key("super+q")?;
            client.wait_desktop(target.bound, target.place.interrupt)?;
            super::sessions::log_off(target, client)?;
            Ok("")
        },
    );
    report.check(format!("{}: the wallpaper shows when every window is closed", target.name), || {
        let mut client = target.session("wallpaper", &MODES[0])?;
        client.screen.key("super+q")?;
        // Its letters, on the terminal's ground, and no title above them.
        wait(target, &mut client, "the wallpaper", |client| {
            let picture = client.screen.picture()?;
            Ok(picture.share(LETTERS, 2) > 0.002 && !picture.has_prompt())
        })?;
        client.screen.picture()?.save(&target.screens.join(format!("wallpaper-{}.png", target.name)))?;
        client.screen.key("super+Return")?;
        client.wait_desktop(target.bound, target.place.interrupt)?;
        super::sessions::log_off(target, client)?;
        Ok("")
    });
    target.place.interrupt.check()
}

/// The menu's chosen line.
const MENU: [u8; 3] = [0x3b, 0x5b, 0x92];
/// The wallpaper's small letters.
const LETTERS: [u8; 3] = [0x8f, 0xa3, 0xbf];

fn wait(
    target: &Target,
    client: &mut Client,
    what: &str,
    mut there: impl FnMut(&Client) -> Result<bool>,
) -> Result<()> {
    let waited = target.place.interrupt.wait_for(what, target.bound, || {
        client.must_run()?;
        Ok(there(client)?.then_some(()))
    });
    if let Err(Error::Late { .. }) = &waited {
        client.screen.picture()?.save(&target.screens.join(format!("missing-{}.png", target.name)))?;
    }
    waited
}
