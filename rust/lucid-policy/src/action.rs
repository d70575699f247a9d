//! What may happen or not.

use crate::policy::EVERY;

/// Who wants something. Whoever has several roles is asked about with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Whom the device belongs to, and its recordings.
    Owner,
    /// Who uses the desktop.
    Operator,
    /// Who may decide on requests.
    Approver,
    /// Who may watch.
    Observer,
    /// The device itself.
    Device,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Owner, Self::Operator, Self::Approver, Self::Observer, Self::Device];

    /// As Cedar knows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Observer => "observer",
            Self::Device => "device",
        }
    }
}

/// A file that is to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Of it, or of all that are pasted at once.
    pub bytes: u64,
    /// Where it is on the client's drives, from the drive's name on, parted by `/`; none for one that is copied and pasted.
    pub dir: Option<&'a str>,
    /// Its name, which is the last part of its path: what is pasted may come with folders, that are asked for by themselves.
    pub name: &'a str,
    /// Whether there is one of that name already, which it would replace.
    pub replaces: bool,
}

impl<'a> Transfer<'a> {
    /// Whether its folder and its name are names on every system, and lead nowhere else on any.
    pub(crate) fn is_path(&self) -> bool {
        is_part(self.name) && self.dir.is_none_or(|dir| dir.split('/').all(is_part))
    }

    /// The ending of its name after the last dot, in lower case; none for a name without one, or that begins with its
    /// only one.
    pub(crate) fn extension(&self) -> Option<String> {
        let (stem, extension) = self.name.rsplit_once('.')?;
        (!stem.is_empty() && !extension.is_empty()).then(|| extension.to_ascii_lowercase())
    }

    /// `*`, its folder, and all above that.
    pub(crate) fn dirs(&self) -> Vec<&'a str> {
        let above = self.dir.into_iter().flat_map(|dir| dir.match_indices('/').map(|(at, _)| &dir[..at]));
        [EVERY].into_iter().chain(self.dir).chain(above).collect()
    }
}

/// Whether it is a file's or a folder's name on every system, and leads nowhere else on any: Windows takes dots and spaces at
/// an end away, parts at backslashes, and takes what follows a colon for another stream.
fn is_part(name: &str) -> bool {
    let ends = name.ends_with(['.', ' ']);
    !name.is_empty() && !ends && !name.contains(['/', '\\', ':']) && !name.chars().any(char::is_control)
}

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// A key is pressed, by its name in [`KEYS`](crate::KEYS); none of another name ever may be. Setting Caps Lock, Num Lock
    /// or Scroll Lock is pressing its key.
    Key(&'a str),
    /// A character comes without a key (Unicode input); see [`Action::of_character`].
    Character,
    /// The pointer moves for so many times within a second, or does something else.
    Point {
        /// With this one.
        rate_hz: u32,
    },
    /// Something that was copied on the desktop is pasted at the client.
    CopyToClient {
        /// How much.
        bytes: u64,
    },
    /// Something that was copied at the client is pasted on the desktop.
    CopyToDesktop {
        /// How much.
        bytes: u64,
    },
    /// A file goes from the client to the desktop.
    Upload(Transfer<'a>),
    /// A file goes from the desktop to the client.
    Download(Transfer<'a>),
    /// The client hears the desktop.
    PlaySound,
    /// The desktop hears the client.
    RecordSound,
    /// The desktop sees the client's camera.
    UseCamera,
    /// The desktop prints on the client's printer.
    Print,
    /// A program takes a picture of the screen.
    TakeScreenshot,
    /// A program talks to the client through a channel of its own.
    OpenChannel,
    /// A window is shown.
    Show {
        /// Its application's id, if it gives one.
        app_id: Option<&'a str>,
    },
    /// A pixel of the desktop is shown.
    Reveal {
        /// From the left.
        x: u32,
        /// From the top.
        y: u32,
    },
    /// A session begins.
    Connect {
        /// How many there are already.
        sessions: u32,
    },
    /// A session goes on.
    Stay {
        /// Since it began.
        age_seconds: u64,
        /// Since something was typed or pointed at.
        idle_seconds: u64,
    },
    /// A session goes on after something was refused.
    GoOn,
    /// A session is watched.
    Observe,
    /// A recording is exported.
    Export,
    /// A request is granted.
    Approve {
        /// Whoever grants it has asked for it himself.
        own: bool,
    },
}

impl Action<'_> {
    /// What a character is that comes without a key: those that control, which the desktop types as keys, are these keys.
    #[must_use]
    pub fn of_character(character: char) -> Self {
        match character {
            '\r' | '\n' => Self::Key("Enter"),
            '\t' => Self::Key("Tab"),
            '\u{8}' => Self::Key("Backspace"),
            '\u{1b}' => Self::Key("Escape"),
            '\u{7f}' => Self::Key("Delete"),
            // Others that control are no key, and thus nothing that may be.
            control if control.is_control() => Self::Key(""),
            _ => Self::Character,
        }
    }

    /// The gate that it has to pass, by its key in the table; or what holds whatever the table says.
    #[must_use]
    pub fn gate(&self) -> &'static str {
        match self {
            Self::Key(_) | Self::Character => "input.kb_enabled",
            Self::Point { .. } => "input.mouse_enabled",
            Self::CopyToClient { .. } => "clipboard.host_to_remote",
            Self::CopyToDesktop { .. } => "clipboard.remote_to_host",
            Self::Upload(_) => "file.upload_enabled",
            Self::Download(_) => "file.download_enabled",
            Self::PlaySound => "system.audio_out",
            Self::RecordSound => "system.audio_in",
            Self::UseCamera => "system.camera",
            Self::Print => "system.printing",
            Self::TakeScreenshot => "system.screenshots_allowed",
            Self::OpenChannel => "system.shell_channels",
            Self::Show { .. } | Self::Reveal { .. } => "shield",
            Self::Connect { .. } => "limits.concurrent_sessions",
            Self::Stay { .. } => "limits",
            Self::GoOn => "violation",
            Self::Observe => "observe",
            Self::Export => "export",
            Self::Approve { .. } => "approve",
        }
    }

    /// As Cedar knows it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Character => "character",
            Self::Point { .. } => "point",
            Self::CopyToClient { .. } => "copy_to_client",
            Self::CopyToDesktop { .. } => "copy_to_desktop",
            Self::Upload(_) => "upload",
            Self::Download(_) => "download",
            Self::PlaySound => "play_sound",
            Self::RecordSound => "record_sound",
            Self::UseCamera => "use_camera",
            Self::Print => "print",
            Self::TakeScreenshot => "take_screenshot",
            Self::OpenChannel => "open_channel",
            Self::Show { .. } => "show",
            Self::Reveal { .. } => "reveal",
            Self::Connect { .. } => "connect",
            Self::Stay { .. } => "stay",
            Self::GoOn => "go_on",
            Self::Observe => "observe",
            Self::Export => "export",
            Self::Approve { .. } => "approve",
        }
    }
}
