//! The client's window: it takes another size while the session runs.

use std::time::{Duration, Instant};

use super::{Target, sessions};
use crate::{
    client::{Client, Generation, Mode},
    error::{Error, Result},
    progress::Background,
    suite::Report,
};

/// How often one client's window takes another size on the host.
const SIZES: usize = 50;
/// And in every other check.
const FEW: usize = 8;
/// The host's peak over one round of the sizes may grow by no more than this, in KiB. What is resident at one moment
/// differs by some pictures from size to size; a leak of one picture for each size would be ten times this.
const MAX_GROWTH: u64 = 12 * 1024;

/// The screen on which the window is.
const SCREEN: (usize, usize) = (1600, 1000);
/// In this order, so that each side grows and shrinks, alone and together; so far apart that each has its own colour.
const WINDOWS: [(usize, usize); 5] = [(1366, 768), (820, 614), (1498, 902), (1024, 902), (640, 334)];

/// A colour for each size, made of the terminal's rows and columns: a window that shows it up to all its edges shows a
/// desktop of that very size. An Enter ends the desktop: a Ctrl+C between two of the loop's commands would be lost.
const COLOUR_BY_SIZE: &str = concat!(
    r"until read -rst.1;do set -- $(stty size);",
    r"printf '\e]11;#%02x%02x3c\a\e[?25l\e[2J\e[H' $1 $2;done;swaymsg exit"
);

/// Clients with each way of taking another size: a new surface, and Deactivation-Reactivation with each codec.
const CLIENTS: [(Generation, &str, &[&str]); 4] = [
    (Generation::Two, "AVC420", &["/dynamic-resolution", "/gfx-h264:AVC420"]),
    (Generation::Two, "RemoteFX", &["/dynamic-resolution", "/rfx"]),
    (Generation::Two, "no codec asked for", &["/dynamic-resolution"]),
    (Generation::Three, "AVC420", &["/dynamic-resolution", "/gfx:AVC420"]),
];

/// The checks for both targets.
pub(super) fn run(target: &Target, report: &mut Report) -> Result<()> {
    for (client, codec, options) in CLIENTS {
        // The newest client's alone, where that takes long.
        if !target.all_clients && client == Generation::Two {
            continue;
        }
        let mode = Mode { client, security: "tls", codec, options, tolerance: 2, size: SCREEN };
        report.check(
            format!("{}: {}, {codec}: the desktop takes the window's size", target.name, client.name()),
            || {
                let (client, mut spent) = takes_sizes(target, &mode, FEW, |_| Ok(()))?;
                end(target, client)?;
                Ok(times(&mut spent))
            },
        );
    }
    report.check(
        format!("{}: a program that changes the output's size has it changed back", target.name),
        || size_is_the_clients(target),
    );
    for client in [Generation::Two, Generation::Three] {
        report.check(
            format!("{}: {}: a client's scale makes everything as large", target.name, client.name()),
            || takes_scale(target, client),
        );
    }
    target.place.interrupt.check()
}

/// One client after the other with another scale, on the same desktop.
fn takes_scale(target: &Target, client: Generation) -> Result<String> {
    const OPTIONS: [(u8, [&str; 2]); 3] = [
        (1, ["/scale-desktop:100", "/scale:100"]),
        (2, ["/scale-desktop:200", "/scale:180"]),
        (1, ["/scale-desktop:100", "/scale:100"]),
    ];
    let interrupt = target.place.interrupt;
    let (codec, options) = match client {
        Generation::Two => (CLIENTS[0].1, &CLIENTS[0].2[1..]),
        Generation::Three => (CLIENTS[3].1, &CLIENTS[3].2[1..]),
    };
    let mode = Mode { client, security: "tls", codec, options, tolerance: 2, size: SCREEN };
    let mut cells: Option<[u8; 2]> = None;
    for (scale, options) in OPTIONS {
        let mut client = Client::start(target.place, &target.dir("scale"), &mode, &target.login, &options)?;
        let Some([rows, columns]) = cells else {
            client.wait_desktop(target.bound, interrupt)?;
            client.screen.point_to_the_middle()?;
            client.screen.key("super+f")?;
            client.screen.type_text(COLOUR_BY_SIZE)?;
            client.screen.key("Return")?;
            let what = "the colour of the size in cells everywhere in the window";
            let [rows, columns, _] =
                client.wait_only_colour(what, 0, target.bound, interrupt, |colour| colour[2] == 0x3c)?;
            cells = Some([rows, columns]);
            client.kill();
            continue;
        };
        client.screen.point_to_the_middle()?;
        // Glyphs are rounded to whole pixels at each scale.
        let near = |now: u8, plain: u8| {
            (u16::from(now) * u16::from(scale)).abs_diff(plain.into()) * 7 <= plain.into()
        };
        let what = format!("{rows} by {columns} cells, {scale} times as large");
        client.wait_only_colour(&what, 0, target.bound, interrupt, |colour| {
            near(colour[0], rows) && near(colour[1], columns) && colour[2] == 0x3c
        })?;
        if scale == 1 {
            end(target, client)?;
        } else {
            client.kill();
        }
    }
    Ok(cells.map_or(String::new(), |[rows, columns]| format!("{rows} by {columns} cells, then half")))
}

/// Many sizes in a row; the host may not grow by them.
pub(super) fn many_sizes(target: &Target, service: &Background, report: &mut Report) -> Result<()> {
    let wanted = if target.long { &CLIENTS[..] } else { &CLIENTS[3..] };
    for &(client, codec, options) in wanted {
        let mode = Mode { client, security: "tls", codec, options, tolerance: 2, size: SCREEN };
        let name = format!("{}: {}, {codec}: {SIZES} sizes in a row", target.name, client.name());
        report.check(format!("{name} cost the host nothing"), || {
            // The first round fills caches and pools.
            let mut early = sessions::Usage::NOTHING;
            let mut late = sessions::Usage::NOTHING;
            let (client, mut spent) = takes_sizes(target, &mode, SIZES, |done| {
                if (WINDOWS.len() + 1..=2 * WINDOWS.len()).contains(&done) {
                    early.include(&sessions::Usage::of(service)?);
                } else if done > SIZES - WINDOWS.len() {
                    late.include(&sessions::Usage::of(service)?);
                }
                Ok(())
            })?;
            end(target, client)?;
            if early.descriptors == 0 || late.descriptors == 0 {
                return Err(Error::broken("nothing was measured"));
            }
            let text = format!(
                "{}; {} to {} descriptors, {:.1} to {:.1} MB",
                times(&mut spent),
                early.descriptors,
                late.descriptors,
                early.memory as f64 / 1024.0,
                late.memory as f64 / 1024.0
            );
            let grown = late.descriptors > early.descriptors + 2 || late.memory > early.memory + MAX_GROWTH;
            if grown { Err(Error::broken(text)) } else { Ok(text) }
        });
    }
    target.place.interrupt.check()
}

/// What a program in the desktop does to the output, while pictures come and the window is dragged.
fn size_is_the_clients(target: &Target) -> Result<String> {
    const STEPS: usize = 60;
    let interrupt = target.place.interrupt;
    let (client, codec, options) = CLIENTS[0];
    let mode = Mode { client, security: "tls", codec, options, tolerance: 2, size: SCREEN };
    let mut client = target.session("output", &mode)?;
    client.screen.point_to_the_middle()?;
    client.screen.key("super+f")?;
    client.screen.type_text(
        "for i in 2 3 4 5 6 7 8 9;do swaymsg -q output HEADLESS-1 mode --custom ${i}00x300;sleep .2;done;",
    )?;
    client.screen.type_text(COLOUR_BY_SIZE)?;
    client.screen.key("Return")?;
    for step in 0..STEPS {
        client.screen.resize_window((SCREEN.0 - step * 10, SCREEN.1 - step * 6))?;
    }
    // The loop begins when the program has done its worst.
    let what = "the colour of the window's size everywhere in it";
    client.screen.resize_window(SCREEN)?;
    let blue = |colour: [u8; 3]| colour[2].abs_diff(0x3c) <= 2;
    let mut known = Vec::new();
    for size in [SCREEN, WINDOWS[0], SCREEN, WINDOWS[0]] {
        client.screen.resize_window(size)?;
        let before = known.iter().find(|(at, _)| *at == size).map(|(_, colour): &(_, [u8; 3])| *colour);
        // Rows: between the smallest and the largest cells that there are.
        let high = |colour: [u8; 3]| (size.1 / 24..=size.1 / 12).contains(&usize::from(colour[0]));
        let colour = client.wait_only_colour(what, 2, target.bound, interrupt, |colour| {
            blue(colour) && high(colour) && before.is_none_or(|before| colour == before)
        })?;
        known.push((size, colour));
    }
    end(target, client)?;
    Ok(format!("{STEPS} steps of a dragged edge, 8 sizes by a program"))
}

/// Gives a client's window one size after the other, and waits each time until all of it is right. Leaves it at the
/// one it had at first.
fn takes_sizes(
    target: &Target,
    mode: &Mode,
    count: usize,
    mut after: impl FnMut(usize) -> Result<()>,
) -> Result<(Client, Vec<Duration>)> {
    let interrupt = target.place.interrupt;
    let mut client = target.session("window", mode)?;
    client.screen.point_to_the_middle()?;
    client.screen.key("super+f")?;
    client.screen.type_text(COLOUR_BY_SIZE)?;
    client.screen.key("Return")?;
    let tolerance = mode.tolerance;
    let near = |a: [u8; 3], b: [u8; 3]| a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= 2 * tolerance);
    let blue = |colour: [u8; 3]| colour[2].abs_diff(0x3c) <= tolerance;
    let what = "the colour of the window's size everywhere in it";
    let first = client.wait_only_colour(what, tolerance, target.bound, interrupt, blue)?;
    // What each size has looked like; all are different.
    let mut known = vec![(SCREEN, first)];
    let mut spent = Vec::new();
    for (number, size) in WINDOWS.into_iter().cycle().take(count).chain([SCREEN]).enumerate() {
        let start = Instant::now();
        client.screen.resize_window(size)?;
        let before = known.iter().find(|(at, _)| *at == size).map(|(_, colour)| *colour);
        let colour = client.wait_only_colour(
            &format!("{what}, {}x{}, the {number}. of them", size.0, size.1),
            tolerance,
            target.bound,
            interrupt,
            |colour| match before {
                Some(before) => near(colour, before),
                None => blue(colour) && !known.iter().any(|(_, other)| near(colour, *other)),
            },
        )?;
        if before.is_none() {
            known.push((size, colour));
        }
        spent.push(start.elapsed());
        after(number + 1)?;
    }
    Ok((client, spent))
}

/// Ends the desktop and with it the session.
fn end(target: &Target, mut client: Client) -> Result<()> {
    target.place.interrupt.wait_for("the end of the loop that shows the size", target.bound, || {
        // One that comes just when a read has waited for long enough is lost.
        client.screen.key("Return")?;
        Ok(client.ends_within(Duration::from_secs(1))?.then_some(()))
    })?;
    sessions::logged_off(target, client)
}

fn times(spent: &mut [Duration]) -> String {
    spent.sort();
    let at = |place: usize| spent.get(place).map_or(f64::INFINITY, Duration::as_secs_f64);
    format!("right after {:.2} s (median), {:.2} s at the most", at(spent.len() / 2), at(spent.len() - 1))
}
