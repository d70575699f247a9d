//! The table, asked directly: what enforces it many times a second asks nobody else.
//!
//! Cedar decides ([`Decider`](crate::Decider)); this says the same for whoever uses a desktop, in nanoseconds. The tests hold
//! one to the other, and so does whoever begins a session: see [`probes`].

use crate::{
    action::{Action, Transfer},
    keys::{KEYS, evdev},
    policy::{EVERY, File, Input, OnViolation, Policy, Rectangle},
};

impl Policy {
    /// Whether whoever uses the desktop may do that.
    #[must_use]
    pub fn permits(&self, action: &Action<'_>) -> bool {
        let Self { clipboard, file, input, limits, shield, system, version: _, violation } = self;
        match action {
            Action::Key(name) => key(input, name),
            Action::Character => input.kb_enabled && !input.kb_allowlist_mode,
            Action::Point { rate_hz } => input.mouse_enabled && *rate_hz <= input.mouse_rate_limit_hz,
            Action::CopyToClient { bytes } => {
                clipboard.host_to_remote && *bytes <= u64::from(clipboard.max_bytes)
            }
            Action::CopyToDesktop { bytes } => {
                clipboard.remote_to_host && *bytes <= u64::from(clipboard.max_bytes)
            }
            Action::Upload(transfer) => file.upload_enabled && passes(file, transfer),
            Action::Download(transfer) => file.download_enabled && passes(file, transfer),
            Action::PlaySound => system.audio_out,
            Action::RecordSound => system.audio_in,
            Action::UseCamera => system.camera,
            Action::Print => system.printing,
            Action::TakeScreenshot => system.screenshots_allowed,
            Action::OpenChannel => system.shell_channels,
            Action::Show { app_id } => !shield.app_ids.iter().any(|id| Some(id.as_str()) == *app_id),
            Action::Reveal { x, y } => !shield.rectangles.iter().any(|rectangle| covers(rectangle, *x, *y)),
            Action::Connect { sessions } => *sessions < limits.concurrent_sessions,
            Action::Stay { age_seconds, idle_seconds } => {
                *age_seconds < limits.absolute_seconds.into() && *idle_seconds < limits.idle_seconds.into()
            }
            Action::GoOn => *violation == OnViolation::Refuse,
            Action::Observe | Action::Export | Action::Approve { .. } => false,
        }
    }

    /// Whether it allows nothing that the other does not.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        probes(self).iter().chain(&probes(other)).all(|action| !self.permits(action) || other.permits(action))
    }

    /// Whether anything that is copied and pasted may pass, in either direction.
    #[must_use]
    pub fn opens_clipboard(&self) -> bool {
        let Self { clipboard, file, .. } = self;
        clipboard.host_to_remote || clipboard.remote_to_host || file.upload_enabled || file.download_enabled
    }

    /// Whether a path on the client's drives, from the drive's name on, may be seen: it is in a folder that may be used, or
    /// leads to one.
    #[must_use]
    pub fn shows_path(&self, path: &str) -> bool {
        let leads = |dir: &String| below(dir, path);
        self.uses_path(path) || self.opens_drives() && self.file.allowed_dirs.iter().any(leads)
    }

    /// Whether a path on the client's drives is a folder that may be used, or in one.
    #[must_use]
    pub fn uses_path(&self, path: &str) -> bool {
        let within = |dir: &String| dir == EVERY || dir == path || below(path, dir);
        self.opens_drives() && self.file.allowed_dirs.iter().any(within)
    }

    /// Whether anything of the client's drives may be used.
    #[must_use]
    pub fn opens_drives(&self) -> bool {
        let File { allowed_dirs, allowed_extensions, upload_enabled, download_enabled, .. } = &self.file;
        (*upload_enabled || *download_enabled) && !allowed_dirs.is_empty() && !allowed_extensions.is_empty()
    }
}

/// Whether a path is below a folder.
fn below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn key(input: &Input, name: &str) -> bool {
    let on = |list: &[String]| list.iter().any(|listed| listed == name);
    input.kb_enabled
        && evdev(name).is_some()
        && !on(&input.kb_blocklist)
        && (!input.kb_allowlist_mode || on(&input.kb_allowlist))
}

fn passes(file: &File, transfer: &Transfer<'_>) -> bool {
    let on = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
    let extension = transfer.extension();
    transfer.is_path()
        && transfer.bytes <= u64::from(file.max_size_mb) << 20
        && !transfer.replaces
        && (transfer.dir.is_none() || transfer.dirs().into_iter().any(|dir| on(&file.allowed_dirs, dir)))
        && [EVERY].into_iter().chain(extension.as_deref()).any(|ending| on(&file.allowed_extensions, ending))
}

fn covers(rectangle: &Rectangle, x: u32, y: u32) -> bool {
    let Rectangle { height, width, x: left, y: top } = *rectangle;
    // No table has a sum that does not fit.
    (left..left.saturating_add(width)).contains(&x) && (top..top.saturating_add(height)).contains(&y)
}

/// What a table has to be asked for it to be known what it says: every key, and every limit on both of its sides.
#[must_use]
pub fn probes(policy: &Policy) -> Vec<Action<'_>> {
    let Policy { clipboard, file, input, limits, shield, .. } = policy;
    let mut probes: Vec<_> = KEYS.iter().map(|(name, _)| Action::Key(name)).collect();
    probes.extend([Action::Key(""), Action::Character, Action::PlaySound, Action::RecordSound]);
    probes.extend([Action::UseCamera, Action::Print, Action::TakeScreenshot, Action::OpenChannel]);
    probes.extend([Action::GoOn, Action::Observe, Action::Export, Action::Approve { own: false }]);
    for rate_hz in [0, input.mouse_rate_limit_hz, input.mouse_rate_limit_hz + 1] {
        probes.push(Action::Point { rate_hz });
    }
    let most = u64::from(clipboard.max_bytes);
    for bytes in [0, most, most + 1] {
        probes.extend([Action::CopyToClient { bytes }, Action::CopyToDesktop { bytes }]);
    }
    let largest = u64::from(file.max_size_mb) << 20;
    let mut transfer = |transfer: Transfer<'static>| {
        probes.extend([Action::Upload(transfer.clone()), Action::Download(transfer)]);
    };
    for bytes in [0, largest, largest + 1] {
        for replaces in [false, true] {
            for dir in [None, Some("Drive")] {
                transfer(Transfer { bytes, dir, name: "name.txt", replaces });
            }
        }
    }
    let of = |dir, name| Transfer { bytes: 1, dir, name, replaces: false };
    for dir in &file.allowed_dirs {
        let transfer = of(Some(dir.as_str()), "name.txt");
        probes.extend([Action::Upload(transfer.clone()), Action::Download(transfer)]);
    }
    for name in ["name", "a.pdf", "../name.txt", ".txt"] {
        probes.extend([Action::Upload(of(None, name)), Action::Download(of(None, name))]);
    }
    probes.push(Action::Show { app_id: None });
    probes.extend(shield.app_ids.iter().map(|id| Action::Show { app_id: Some(id) }));
    for Rectangle { height, width, x, y } in &shield.rectangles {
        probes.extend([
            Action::Reveal { x: *x, y: *y },
            Action::Reveal { x: x + width - 1, y: y + height - 1 },
        ]);
        probes.push(Action::Reveal { x: x + width, y: y + height });
    }
    for sessions in [0, limits.concurrent_sessions - 1, limits.concurrent_sessions] {
        probes.push(Action::Connect { sessions });
    }
    let (age, idle) = (u64::from(limits.absolute_seconds), u64::from(limits.idle_seconds));
    for (age_seconds, idle_seconds) in [(0, 0), (age - 1, idle - 1), (age, 0), (0, idle)] {
        probes.push(Action::Stay { age_seconds, idle_seconds });
    }
    probes
}
