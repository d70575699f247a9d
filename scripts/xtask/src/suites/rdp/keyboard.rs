//! What keys write: the client's layout, and characters that it sends as such.

use super::{MODES, Target, sessions};
use crate::{
    client::{Client, Generation, Mode},
    error::Result,
    suite::Report,
};

/// A shell's loop that reads lines and paints everything in a colour that is made of a line's characters.
const COLOUR_BY_LINE: &str = concat!(
    r"while IFS= read -r A;do o=0;for((i=0;i<${#A};i++));do ",
    r#"printf -v n %d "'${A:i:1}";o=$(((o*31+n)&16777215));done;"#,
    r"printf '\e]11;#%06x\a\e[?25l\e[2J\e[H' $o;done"
);

/// The keys of an American keyboard's `y z ; ' [ -`, as X numbers them.
const KEYS: [&str; 6] = ["29", "52", "47", "48", "34", "20"];
/// Right Alt.
const ALT_GR: &str = "108";
const Q: &str = "24";
const ENTER: &str = "36";

/// A client with its option for the layout, and what [`KEYS`] and right Alt with Q write in it: where that is no AltGr,
/// the terminal has an escape for Alt.
struct Case {
    client: Generation,
    layout: &'static str,
    options: &'static [&'static str],
    text: &'static str,
}

const CASES: [Case; 5] = [
    Case {
        client: Generation::Two,
        layout: "German",
        options: &["/gfx-h264:AVC420", "/kbd:0x407"],
        text: "zyöäüß@",
    },
    Case {
        client: Generation::Three,
        layout: "German",
        options: &["/gfx:AVC420", "/kbd:layout:0x407"],
        text: "zyöäüß@",
    },
    Case {
        client: Generation::Three,
        layout: "Russian",
        options: &["/gfx:AVC420", "/kbd:layout:0x419"],
        text: "няжэх-\x1bй",
    },
    Case {
        client: Generation::Two,
        layout: "Swiss French",
        options: &["/gfx-h264:AVC420", "/kbd:0x100c"],
        text: "zyéàè'@",
    },
    Case {
        client: Generation::Two,
        layout: "a layout that there is not, so the configured one",
        options: &["/gfx-h264:AVC420", "/kbd:0x3ff"],
        text: "yz;'[-\x1bq",
    },
];

/// The colour that [`COLOUR_BY_LINE`] makes of a line.
fn colour(line: &str) -> [u8; 3] {
    let [_, r, g, b] = line.chars().fold(0_u32, |o, c| (o * 31 + u32::from(c)) & 0xff_ffff).to_be_bytes();
    [r, g, b]
}

/// The checks for both targets.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    let interrupt = target.place.interrupt;
    let Some(first) = report.obtain(
        format!("{}: keys: a terminal shows what was typed as a colour", target.name),
        |_: &[u8; 3]| String::new(),
        || {
            let mut client = target.session("keyboard", &MODES[0])?;
            client.screen.point_to_the_middle()?;
            client.screen.key("super+f")?;
            client.screen.type_text(COLOUR_BY_LINE)?;
            client.screen.key("Return")?;
            client.screen.type_text("hello")?;
            client.screen.key("Return")?;
            client.wait_colour(colour("hello"), 2, target.bound, interrupt)?;
            client.kill();
            Ok(colour("hello"))
        },
    ) else {
        return interrupt.check();
    };
    let mut before = first;
    for case in &CASES {
        let name = format!("{}: keys: {} has those of {}", target.name, case.client.name(), case.layout);
        report.check(name, || {
            let mut client = shown(target, case.client, case.options, before)?;
            // At once: what is typed waits for the layout.
            client.screen.codes(&KEYS)?;
            client.screen.code_with(ALT_GR, Q)?;
            client.screen.codes(&[ENTER])?;
            client.wait_colour(colour(case.text), 2, target.bound, interrupt)?;
            before = colour(case.text);
            Ok("")
        });
    }
    report.check(
        format!("{}: keys: xfreerdp 3 sends characters as such, whatever the layout", target.name),
        || {
            let options = &["/gfx:AVC420", "/kbd:layout:0x409,unicode:on"];
            let mut client = shown(target, Generation::Three, options, before)?;
            // The layout is the client's own, the desktop has another one.
            client.screen.layout("de")?;
            client.screen.codes(&KEYS)?;
            client.screen.codes(&[ENTER])?;
            client.wait_colour(colour("zyöäüß"), 2, target.bound, interrupt)?;
            before = colour("zyöäüß");
            Ok("")
        },
    );
    report.check(format!("{}: keys: and logs off", target.name), || {
        let client = shown(target, Generation::Two, MODES[0].options, before)?;
        client.screen.key("ctrl+c")?;
        sessions::log_off(target, client).map(|()| "")
    });
    interrupt.check()
}

/// A client of the running desktop that shows the colour of the line before.
fn shown(
    target: &Target,
    client: Generation,
    options: &'static [&'static str],
    before: [u8; 3],
) -> Result<Client> {
    let mode = Mode { client, options, ..MODES[0] };
    let mut client = Client::start(target.place, &target.dir("keyboard"), &mode, &target.login, &[])?;
    client.screen.point_to_the_middle()?;
    client.wait_colour(before, 2, target.bound, target.place.interrupt)?;
    Ok(client)
}
