//! The table.

use std::collections::BTreeSet;

use lucid_statement::{Hash, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    keys::KEYS,
};

/// The version of the table.
pub const VERSION: u16 = 1;
/// The most bytes of a table, in any spelling.
const MAX_BYTES: usize = 64 << 10;
/// The most entries of a list.
const MAX_LIST: usize = 64;
/// The most bytes of a folder's name or an application's id.
const MAX_NAME: usize = 255;
/// The most bytes of a file name's extension.
const MAX_EXTENSION: usize = 16;
/// Stands in a list of folders or extensions for every one.
pub(crate) const EVERY: &str = "*";

/// What a session may do, version 1: the table of the specification, in JSON.
///
/// A key that is left out has the value that it has in [`Profile::Strict`], so what a table does not open is closed; a key
/// that is not known is refused. The canonical form ([`Policy::to_bytes`], RFC 8785) has every key, in the order of the
/// fields here, and lists without repetition, texts in the order of their UTF-8 bytes and rectangles in that of height, width, x,
/// y; its BLAKE3 hash is the policy hash of receipts and manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What is copied and pasted.
    pub clipboard: Clipboard,
    /// Files: those that are copied and pasted, and those on the client's drives.
    pub file: File,
    /// Pointer and keyboard.
    pub input: Input,
    /// How long and how many.
    pub limits: Limits,
    /// What is never shown.
    pub shield: Shield,
    /// Everything else that could pass.
    pub system: System,
    /// 1.
    pub version: Version,
    /// What becomes of a session that tries what it may not.
    pub violation: OnViolation,
}

/// 1, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Version;

impl From<Version> for u64 {
    fn from(_: Version) -> Self {
        VERSION.into()
    }
}

impl TryFrom<u64> for Version {
    type Error = Error;

    fn try_from(version: u64) -> Result<Self> {
        if version == u64::from(VERSION) { Ok(Self) } else { Err(Error::Version(version)) }
    }
}

/// Text, HTML and pictures that are copied and pasted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clipboard {
    /// What is copied on the desktop can be pasted at the client.
    pub host_to_remote: bool,
    /// The most bytes of one of them, 1 to 67,108,864.
    pub max_bytes: u32,
    /// What is copied at the client can be pasted on the desktop.
    pub remote_to_host: bool,
}

impl Default for Clipboard {
    fn default() -> Self {
        Self { host_to_remote: false, max_bytes: 65_536, remote_to_host: false }
    }
}

/// Files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Folders of the client's drives that may be used, by their path from the drive's name on, such as `Home/Documents`,
    /// with all below them; `*` for every one. What is copied and pasted has no folder, and is not bound to these.
    pub allowed_dirs: Vec<String>,
    /// The endings of names that may pass, in lower case and without the dot; `*` for every one, and for none at all.
    pub allowed_extensions: Vec<String>,
    /// Files can go from the desktop to the client.
    pub download_enabled: bool,
    /// The most MiB (1,048,576 bytes) of a file, or of all that are pasted at once, 1 to 1,048,576.
    pub max_size_mb: u32,
    /// Files can go from the client to the desktop.
    pub upload_enabled: bool,
}

impl Default for File {
    fn default() -> Self {
        Self {
            allowed_dirs: Vec::new(),
            allowed_extensions: Vec::new(),
            download_enabled: false,
            max_size_mb: 25,
            upload_enabled: false,
        }
    }
}

/// Pointer and keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    /// In the mode of the list: the only keys that may be pressed, by the names of [`KEYS`].
    pub kb_allowlist: Vec<String>,
    /// Whether only the keys of the list may be pressed. Characters that come without a key (Unicode input) then may not.
    pub kb_allowlist_mode: bool,
    /// Keys that may not be pressed.
    pub kb_blocklist: Vec<String>,
    /// Keys may be pressed.
    pub kb_enabled: bool,
    /// The pointer may be moved, its buttons pressed, its wheels turned; and the screen touched.
    pub mouse_enabled: bool,
    /// The most movements of the pointer in a second, 1 to 240.
    pub mouse_rate_limit_hz: u32,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            kb_allowlist: Vec::new(),
            kb_allowlist_mode: false,
            kb_blocklist: Vec::new(),
            kb_enabled: false,
            mouse_enabled: false,
            mouse_rate_limit_hz: 60,
        }
    }
}

/// How long and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The most seconds of a session, connected or not, 60 to 604,800 (a week).
    pub absolute_seconds: u32,
    /// The most sessions at a time, 1 to 64.
    pub concurrent_sessions: u32,
    /// The most seconds in which nothing is typed or pointed at, 60 to 604,800.
    pub idle_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { absolute_seconds: 28_800, concurrent_sessions: 8, idle_seconds: 1800 }
    }
}

/// What is never shown, neither on the wire nor in the recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shield {
    /// Applications, by the ids that their windows give, whose windows and titles are masked.
    pub app_ids: Vec<String>,
    /// Parts of the desktop that are masked.
    pub rectangles: Vec<Rectangle>,
}

/// A part of the desktop, in its pixels, from its top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rectangle {
    /// 1 to 8192.
    pub height: u32,
    /// 1 to 8192.
    pub width: u32,
    /// 0 to 8191.
    pub x: u32,
    /// 0 to 8191.
    pub y: u32,
}

/// Everything else that could pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct System {
    /// The desktop's programs can hear the client's microphone.
    pub audio_in: bool,
    /// The client hears what the desktop's programs play.
    pub audio_out: bool,
    /// The desktop's programs can see through the client's camera.
    pub camera: bool,
    /// The desktop's programs can print on the client's printers.
    pub printing: bool,
    /// The desktop's programs can take pictures of the screen.
    pub screenshots_allowed: bool,
    /// Programs can talk to the client through channels of their own.
    pub shell_channels: bool,
}

/// What becomes of a session that tries what it may not. It is refused and written down in any case. Clients send movements
/// and keys whether they are taken or not, so even the strictest table goes on by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnViolation {
    /// It ends.
    End,
    /// It goes on.
    #[default]
    Refuse,
}

/// What a table is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Nothing may happen but looking on. What holds where nobody has decided anything.
    Strict,
    /// What a person at a desk of his own expects, and nothing that carries data in or out: pointer, keyboard without
    /// `PrintScreen`, sound.
    Standard,
    /// Every other one.
    Custom,
}

impl Profile {
    /// As it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Standard => "Standard",
            Self::Custom => "Custom",
        }
    }
}

impl Policy {
    /// [`Profile::Strict`].
    #[must_use]
    pub fn strict() -> Self {
        Self::default()
    }

    /// [`Profile::Standard`].
    #[must_use]
    pub fn standard() -> Self {
        Self {
            input: Input {
                kb_blocklist: vec!["PrintScreen".to_owned()],
                kb_enabled: true,
                mouse_enabled: true,
                ..Input::default()
            },
            system: System { audio_out: true, ..System::default() },
            ..Self::default()
        }
    }

    /// What it is called.
    #[must_use]
    pub fn profile(&self) -> Profile {
        if *self == Self::strict() {
            Profile::Strict
        } else if *self == Self::standard() {
            Profile::Standard
        } else {
            Profile::Custom
        }
    }

    /// Reads a table as people write it.
    ///
    /// # Errors
    /// When it is no JSON, has a key that is not known, or a value that is out of its range; the message names the key.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(Error::Large { bytes: text.len(), most: MAX_BYTES });
        }
        let mut json = serde_json::Deserializer::from_slice(text);
        let mut policy: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            #[derive(Deserialize)]
            struct Any {
                version: u64,
            }
            // What a later version has besides is no mistake of whoever wrote it.
            match serde_json::from_slice::<Any>(text) {
                Ok(Any { version }) if version != u64::from(VERSION) => Error::Version(version),
                _ => Error::malformed(&error.path().to_string(), &error.inner().to_string()),
            }
        })?;
        json.end().map_err(|error| Error::malformed(".", &error.to_string()))?;
        named(&serde_json::from_slice(text).map_err(|error| Error::malformed(".", &error.to_string()))?)?;
        policy.check()?;
        policy.normalise();
        policy.to_bytes()?;
        Ok(policy)
    }

    /// The canonical form.
    ///
    /// # Errors
    /// When a value is out of its range, or it has more than 65,536 bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let policy = self.normalised();
        policy.check()?;
        let bytes = json::to_bytes("a policy", &policy).map_err(Error::cedar)?;
        if bytes.len() > MAX_BYTES {
            return Err(Error::Large { bytes: bytes.len(), most: MAX_BYTES });
        }
        Ok(bytes)
    }

    /// Reads the canonical form, and nothing else.
    ///
    /// # Errors
    /// When the bytes are not those that [`Self::to_bytes`] makes of the table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let policy = Self::parse(bytes)?;
        if policy.to_bytes()? != bytes {
            return Err(Error::malformed(
                ".",
                "it is not in canonical form (RFC 8785, with every key, lists sorted)",
            ));
        }
        Ok(policy)
    }

    /// The policy hash: BLAKE3 of the canonical form.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn hash(&self) -> Result<Hash> {
        Ok(blake3::hash(&self.to_bytes()?).into())
    }

    /// The same table with its lists as the canonical form has them.
    pub(crate) fn normalised(&self) -> Self {
        let mut policy = self.clone();
        policy.normalise();
        policy
    }

    /// Lists mean the same in any order, and however often something stands in them.
    fn normalise(&mut self) {
        let Self { file, input, shield, .. } = self;
        for list in [
            &mut file.allowed_dirs,
            &mut file.allowed_extensions,
            &mut input.kb_allowlist,
            &mut input.kb_blocklist,
            &mut shield.app_ids,
        ] {
            list.sort();
            list.dedup();
        }
        shield.rectangles.sort();
        shield.rectangles.dedup();
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { clipboard, file, input, limits, shield, system: _, version: _, violation: _ } = self;
        within("clipboard.max_bytes", clipboard.max_bytes, 1, 64 << 20)?;
        list("file.allowed_dirs", &file.allowed_dirs, MAX_LIST, |dir| {
            let sound = dir.split('/').all(|part| !matches!(part, "" | "." | ".."));
            (dir == EVERY || is_name(dir, MAX_NAME) && sound && !dir.contains(['\\', '*'])).then_some(()).ok_or(
                "a folder is a path such as Home/Documents, without a slash at its ends, \"..\" or *, of 255 bytes at most; \
                 * alone stands for every one",
            )
        })?;
        list("file.allowed_extensions", &file.allowed_extensions, MAX_LIST, |extension| {
            let sound = !extension.chars().any(|c| c.is_uppercase() || matches!(c, '.' | '/' | '\\' | '*'));
            (extension == EVERY || is_name(extension, MAX_EXTENSION) && sound).then_some(()).ok_or(
                "an extension is in lower case, without a dot, of 16 bytes at most; * alone stands for every one",
            )
        })?;
        within("file.max_size_mb", file.max_size_mb, 1, 1 << 20)?;
        for (key, keys) in
            [("input.kb_allowlist", &input.kb_allowlist), ("input.kb_blocklist", &input.kb_blocklist)]
        {
            list(key, keys, KEYS.len(), |name| {
                KEYS.iter().any(|(known, _)| *known == name).then_some(()).ok_or(
                    "a key has the name that the W3C gives it (UI Events, KeyboardEvent.code), such as KeyA, F1 or PrintScreen",
                )
            })?;
        }
        within("input.mouse_rate_limit_hz", input.mouse_rate_limit_hz, 1, 240)?;
        within("limits.absolute_seconds", limits.absolute_seconds, 60, 604_800)?;
        within("limits.concurrent_sessions", limits.concurrent_sessions, 1, 64)?;
        within("limits.idle_seconds", limits.idle_seconds, 60, 604_800)?;
        list("shield.app_ids", &shield.app_ids, MAX_LIST, |id| {
            is_name(id, MAX_NAME).then_some(()).ok_or(
                "an application's id has 1 to 255 bytes and no control characters; swaymsg -t get_tree shows them",
            )
        })?;
        if shield.rectangles.len() > MAX_LIST {
            return Err(too_many("shield.rectangles", shield.rectangles.len(), MAX_LIST));
        }
        for (index, rectangle) in shield.rectangles.iter().enumerate() {
            let Rectangle { height, width, x, y } = *rectangle;
            for (key, value, least, most) in
                [("height", height, 1, 8192), ("width", width, 1, 8192), ("x", x, 0, 8191), ("y", y, 0, 8191)]
            {
                within(&format!("shield.rectangles[{index}].{key}"), value, least, most)?;
            }
        }
        Ok(())
    }
}

/// Refuses a list where keys belong: serde takes one, and its values in the order of the fields.
fn named(table: &Value) -> Result<()> {
    let object = |key: &str, value: &Value| {
        if value.is_object() { Ok(()) } else { Err(Error::malformed(key, "it is an object, with keys")) }
    };
    object(".", table)?;
    for group in ["clipboard", "file", "input", "limits", "shield", "system"] {
        table.get(group).map_or(Ok(()), |value| object(group, value))?;
    }
    for (index, rectangle) in table["shield"]["rectangles"].as_array().into_iter().flatten().enumerate() {
        object(&format!("shield.rectangles[{index}]"), rectangle)?;
    }
    match table.get("violation") {
        Some(Value::String(_)) | None => Ok(()),
        Some(_) => Err(Error::malformed("violation", "it is \"end\" or \"refuse\"")),
    }
}

/// Whether it has 1 to so many bytes, and none that would spoil a line.
fn is_name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn within(key: &str, is: u32, least: u32, most: u32) -> Result<()> {
    if (least..=most).contains(&is) {
        return Ok(());
    }
    Err(Error::Range {
        key: key.to_owned(),
        is: is.to_string(),
        may: format!("it may be from {least} to {most}"),
    })
}

fn too_many(key: &str, count: usize, most: usize) -> Error {
    Error::Range {
        key: key.to_owned(),
        is: format!("a list of {count}"),
        may: format!("it may have {most} at most"),
    }
}

fn list(
    key: &str,
    entries: &[String],
    most: usize,
    check: impl Fn(&str) -> Result<(), &'static str>,
) -> Result<()> {
    let distinct: BTreeSet<&String> = entries.iter().collect();
    if distinct.len() > most {
        return Err(too_many(key, distinct.len(), most));
    }
    for (index, entry) in entries.iter().enumerate() {
        check(entry).map_err(|may| Error::Range {
            key: format!("{key}[{index}]"),
            is: format!("{entry:?}"),
            may: may.to_owned(),
        })?;
    }
    Ok(())
}
