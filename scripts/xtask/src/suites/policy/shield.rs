//! What a policy shields is nowhere in what a client is shown, nor in the recording: neither what a client's screen shows while
//! such a window moves, changes its size and fills the screen, nor any picture of the film.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{SETTLED, Suite};
use crate::{
    client::Picture,
    error::{At, Error, Result},
    policy::table,
    progress::{Background, ask_well},
};

/// What only the shielded window has.
const SECRET: [u8; 3] = [0xd4, 0x14, 0x5a];
/// The farthest that a channel may be from it after H.264.
const TOLERANCE: u8 = 24;
/// So large a part of a picture is no accident: some fifty pixels.
const SEEN: f64 = 50.0 / (1024.0 * 768.0);
/// How long the window is there.
const SHOWN: Duration = Duration::from_secs(9);
/// Moves a window of its own all the time, in every way.
const SCRIPT: &str = r#"
SWAYSOCK=$(echo "$XDG_RUNTIME_DIR"/sway-ipc.*); export SWAYSOCK
foot --config /dev/null --app-id secret --title secret -o colors.background=d4145a sh -c 'sleep 8' &
sleep 1
swaymsg -q '[app_id=secret] focus'; swaymsg -q '[app_id=secret] floating enable'
i=0
while [ $i -lt 60 ]; do
  i=$((i+1))
  swaymsg -q "[app_id=secret] move absolute position $((i*37%500)) $((i*53%400))"
  swaymsg -q "[app_id=secret] resize set $((200+i*29%300)) $((150+i*31%200))"
  case $((i%12)) in 0|6) swaymsg -q '[app_id=secret] fullscreen toggle';; 3|9) swaymsg -q '[app_id=secret] floating toggle';; esac
  sleep 0.1
done
wait
"#;

/// How often something secret was seen: on the client's screen, and in the film.
struct Seen {
    pictures: usize,
    on_screen: usize,
    frames: usize,
    in_film: usize,
}

/// With the shield, and without it, so that this can fail.
pub(super) fn check(suite: &mut Suite) -> Result<String> {
    let mut shielded = table("");
    shielded["shield"] = json!({ "app_ids": ["secret"], "rectangles": [] });
    let open = watch(suite, "unshielded", table(""))?;
    if open.on_screen == 0 || open.in_film == 0 {
        return Err(Error::broken(
            "without a shield the window is not seen, so nothing would be shown by this",
        ));
    }
    let Seen { pictures, on_screen, frames, in_film } = watch(suite, "shielded", shielded)?;
    if on_screen + in_film > 0 {
        return Err(Error::broken(format!(
            "what is shielded was seen in {on_screen} of {pictures} pictures of the screen and {in_film} of {frames} of the film"
        )));
    }
    Ok(format!(
        "in none of {pictures} pictures of the screen and {frames} of the film; without it in {} of {} and {} of {}",
        open.on_screen, open.pictures, open.in_film, open.frames
    ))
}

fn watch(suite: &mut Suite, name: &str, policy: serde_json::Value) -> Result<Seen> {
    suite.house.forget()?;
    suite.house.restart(policy)?;
    let client = suite.session(name)?;
    let mut command = suite.on_desktop("sh")?;
    command.args(["-c", SCRIPT]);
    let _moving = Background::start(&command, &suite.house.dir.join("secret.log"))?;
    let began = Instant::now();
    let (mut pictures, mut on_screen) = (0, 0);
    while began.elapsed() < SHOWN {
        let picture = client.screen.picture()?;
        pictures += 1;
        if is_secret(&picture) {
            if on_screen == 0 {
                picture.save(&suite.screens.join(format!("{name}.ppm")))?;
            }
            on_screen += 1;
        } else if pictures % 8 == 0 {
            picture.save(&suite.screens.join(format!("{name}-other.ppm")))?;
        }
        suite.house.place.interrupt.check()?;
    }
    thread::sleep(SETTLED);
    suite.house.log_off(client)?;
    suite.house.proved()?;
    let (film, text, _) = suite.house.export(&suite.house.only()?)?;
    if name == "shielded" && text.contains("\"secret\"") {
        return Err(Error::broken("the events name the window that is shielded"));
    }
    let (frames, in_film) = search(&film, &suite.house.dir.join("frames"))?;
    Ok(Seen { pictures, on_screen, frames, in_film })
}

fn is_secret(picture: &Picture) -> bool {
    picture.share(SECRET, TOLERANCE) > SEEN
}

/// How many pictures a film has, and in how many something secret is.
fn search(film: &Path, dir: &Path) -> Result<(usize, usize)> {
    if dir.exists() {
        fs::remove_dir_all(dir).at("emptying", dir)?;
    }
    fs::create_dir_all(dir).at("making", dir)?;
    let mut decode = Command::new("ffmpeg");
    decode.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(film).args(["-fps_mode", "passthrough"]);
    ask_well("decoding the film", decode.arg(dir.join("%06d.ppm")).stdin(Stdio::null()), b"")?;
    let (mut frames, mut found) = (0, 0);
    for entry in fs::read_dir(dir).at("reading", dir)? {
        let picture = Picture::read_ppm(&entry.at("reading", dir)?.path())?;
        frames += 1;
        found += usize::from(is_secret(&picture));
    }
    fs::remove_dir_all(dir).at("removing", dir)?;
    Ok((frames, found))
}
