//! What a table means, in plain words.

use crate::policy::{Clipboard, EVERY, File, Input, Limits, OnViolation, Policy, Rectangle, Shield, System};

/// What a table says, a sentence for each thing that it decides, in the order in which people ask.
#[must_use]
pub fn explain(policy: &Policy) -> Vec<String> {
    let Policy { clipboard, file, input, limits, shield, system, version: _, violation } =
        &policy.normalised();
    let mut words = vec![keyboard(input), pointer(input)];
    words.extend(copying(clipboard));
    words.extend(files(file));
    words.extend(rest(system));
    words.extend(hidden(shield));
    words.extend(bounds(limits));
    words.push(match violation {
        OnViolation::End => "Whoever tries what is not allowed is refused, and the session ends.".to_owned(),
        OnViolation::Refuse => {
            "Whoever tries what is not allowed is refused, and the session goes on.".to_owned()
        }
    });
    words
}

/// What is said of the new table and was not of the old one, and the other way round: first what no longer holds, then what
/// does from now on. Nothing where both mean the same.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> (Vec<String>, Vec<String>) {
    let (before, after) = (explain(old), explain(new));
    let missing = |from: &[String], of: &[String]| {
        from.iter().filter(|sentence| !of.contains(sentence)).cloned().collect::<Vec<_>>()
    };
    (missing(&before, &after), missing(&after, &before))
}

fn keyboard(input: &Input) -> String {
    let Input { kb_allowlist, kb_allowlist_mode, kb_blocklist, kb_enabled, .. } = input;
    if !kb_enabled {
        return "Nothing can be typed.".to_owned();
    }
    let except =
        if kb_blocklist.is_empty() { String::new() } else { format!(" except {}", kb_blocklist.join(", ")) };
    if !kb_allowlist_mode {
        return format!(
            "Every key can be pressed{except}, and every character typed that comes without a key."
        );
    }
    if kb_allowlist.is_empty() {
        return "Nothing can be typed: only keys of a list may be pressed, and it is empty.".to_owned();
    }
    format!("Only these keys can be pressed: {}{except}.", kb_allowlist.join(", "))
}

fn pointer(input: &Input) -> String {
    if input.mouse_enabled {
        format!(
            "The pointer can be moved, at most {} times a second, and clicked with.",
            input.mouse_rate_limit_hz
        )
    } else {
        "The pointer cannot be used.".to_owned()
    }
}

fn copying(clipboard: &Clipboard) -> [String; 2] {
    let way = |open: bool, from: &str, to: &str| {
        if open {
            let bytes = clipboard.max_bytes;
            format!("What is copied {from} can be pasted {to}, up to {bytes} bytes.")
        } else {
            format!("Nothing that is copied {from} can be pasted {to}.")
        }
    };
    let (here, there) = ("on the desktop", "at the client");
    [way(clipboard.host_to_remote, here, there), way(clipboard.remote_to_host, there, here)]
}

/// Names that anybody can choose, so that none can look like several or like a sentence of its own.
fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// Every one, some, or none.
fn listed(list: &[String], every: &str, some: &str) -> Option<String> {
    if list.is_empty() {
        None
    } else if list.iter().any(|entry| entry == EVERY) {
        Some(every.to_owned())
    } else {
        Some(format!("{some} {}", quoted(list)))
    }
}

fn files(file: &File) -> [String; 2] {
    let kinds = listed(&file.allowed_extensions, "of any kind", "with the ending");
    let dirs = listed(&file.allowed_dirs, "in any folder of the client's drives", "in and below the folder");
    let from = dirs.map_or_else(|| "pasted".to_owned(), |dirs| format!("pasted or {dirs}"));
    let way = |open: bool, way: &str| match (&kinds, open) {
        (_, false) => format!("No file goes {way}."),
        (None, true) => format!("No file goes {way}: no ending of a name is allowed."),
        (Some(kinds), true) => {
            let size = file.max_size_mb;
            format!(
                "Files {kinds}, {from}, go {way}: up to {size} MiB, and none in the place of one of the same name."
            )
        }
    };
    [
        way(file.upload_enabled, "from the client to the desktop"),
        way(file.download_enabled, "from the desktop to the client"),
    ]
}

fn rest(system: &System) -> Vec<String> {
    let System { audio_in, audio_out, camera, printing, screenshots_allowed, shell_channels } = system;
    [
        (audio_out, "The client hears the desktop.", "The client hears nothing."),
        (audio_in, "Programs can hear the client's microphone.", "Nothing hears the client's microphone."),
        (camera, "Programs can see the client's camera.", "Nothing sees the client's camera."),
        (printing, "Programs can print at the client.", "Nothing is printed at the client."),
        (
            screenshots_allowed,
            "Programs can take pictures of the screen.",
            "No program takes pictures of the screen.",
        ),
        (
            shell_channels,
            "Programs can open channels to the client.",
            "No program opens a channel to the client.",
        ),
    ]
    .map(|(open, yes, no)| if *open { yes.to_owned() } else { no.to_owned() })
    .into()
}

fn hidden(shield: &Shield) -> Vec<String> {
    let mut words = Vec::new();
    if !shield.app_ids.is_empty() {
        words.push(format!("Windows of these programs are never shown: {}.", quoted(&shield.app_ids)));
    }
    for rectangle in &shield.rectangles {
        let Rectangle { height, width, x, y } = rectangle;
        words.push(format!("{width} by {height} pixels of the desktop are never shown, {x} from the left and {y} from the top."));
    }
    words
}

fn bounds(limits: &Limits) -> [String; 3] {
    [
        format!("A session lasts {} at most.", span(limits.absolute_seconds)),
        format!("It ends when nothing was typed or pointed at for {}.", span(limits.idle_seconds)),
        match limits.concurrent_sessions {
            1 => "There is one session at a time.".to_owned(),
            count => format!("There are {count} sessions at a time at most."),
        },
    ]
}

/// Seconds in the largest units that say them exactly.
fn span(seconds: u32) -> String {
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")] {
        match rest / unit {
            0 => {}
            1 => parts.push(format!("1 {name}")),
            count => parts.push(format!("{count} {name}s")),
        }
        rest %= unit;
    }
    parts.join(" ")
}
