//! What the user of a session can ask for on its screen: gates, each by the settings of the table that open it.

use crate::{approval::Setting, policy::Policy};

/// A gate that can be asked for.
pub struct Gate {
    /// What programs call it.
    pub name: &'static str,
    /// What people call it: somebody asks to …
    pub words: &'static str,
    opens: &'static [Opens],
}

/// A setting without which a gate is closed.
struct Opens {
    key: &'static str,
    value: &'static str,
    missing: fn(&Policy) -> bool,
}

const UPLOAD: Opens =
    Opens { key: "file.upload_enabled", value: "true", missing: |policy| !policy.file.upload_enabled };
const DOWNLOAD: Opens =
    Opens { key: "file.download_enabled", value: "true", missing: |policy| !policy.file.download_enabled };
const ENDINGS: Opens = Opens {
    key: "file.allowed_extensions",
    value: r#"["*"]"#,
    missing: |policy| policy.file.allowed_extensions.is_empty(),
};
const DIRS: Opens = Opens {
    key: "file.allowed_dirs",
    value: r#"["*"]"#,
    missing: |policy| policy.file.allowed_dirs.is_empty(),
};

/// All of them, in the order in which they are shown. Nine at most: each has a digit.
pub static GATES: [Gate; 9] = [
    Gate {
        name: "copy-from-desktop",
        words: "copy on the desktop and paste at the client",
        opens: &[Opens {
            key: "clipboard.host_to_remote",
            value: "true",
            missing: |policy| !policy.clipboard.host_to_remote,
        }],
    },
    Gate {
        name: "copy-to-desktop",
        words: "copy at the client and paste on the desktop",
        opens: &[Opens {
            key: "clipboard.remote_to_host",
            value: "true",
            missing: |policy| !policy.clipboard.remote_to_host,
        }],
    },
    Gate {
        name: "files-from-desktop",
        words: "copy files on the desktop and paste them at the client",
        opens: &[DOWNLOAD, ENDINGS],
    },
    Gate {
        name: "files-to-desktop",
        words: "copy files at the client and paste them on the desktop",
        opens: &[UPLOAD, ENDINGS],
    },
    Gate { name: "drives-read", words: "read files on the client's drives", opens: &[UPLOAD, ENDINGS, DIRS] },
    Gate {
        name: "drives-write",
        words: "write files to the client's drives",
        opens: &[DOWNLOAD, ENDINGS, DIRS],
    },
    Gate {
        name: "sound",
        words: "hear the desktop",
        opens: &[Opens {
            key: "system.audio_out",
            value: "true",
            missing: |policy| !policy.system.audio_out,
        }],
    },
    Gate {
        name: "keyboard",
        words: "type",
        opens: &[
            Opens { key: "input.kb_enabled", value: "true", missing: |policy| !policy.input.kb_enabled },
            Opens {
                key: "input.kb_allowlist_mode",
                value: "false",
                missing: |policy| policy.input.kb_allowlist_mode && policy.input.kb_allowlist.is_empty(),
            },
        ],
    },
    Gate {
        name: "pointer",
        words: "use the pointer",
        opens: &[Opens {
            key: "input.mouse_enabled",
            value: "true",
            missing: |policy| !policy.input.mouse_enabled,
        }],
    },
];

impl Gate {
    /// The one of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Self> {
        GATES.iter().find(|gate| gate.name == name)
    }

    /// Whether nothing passes there.
    #[must_use]
    pub fn is_closed(&self, policy: &Policy) -> bool {
        self.opens.iter().any(|opens| (opens.missing)(policy))
    }

    /// What has to be otherwise for it to be open: whatever is missing now, or will be when what is in effect has ended.
    /// Nothing where it is open.
    #[must_use]
    pub fn opens(&self, base: &Policy, now: &Policy) -> Vec<Setting> {
        let missing = |opens: &&Opens| (opens.missing)(base) || (opens.missing)(now);
        let setting = |opens: &Opens| Setting { key: opens.key.to_owned(), value: opens.value.to_owned() };
        self.opens.iter().filter(missing).map(setting).collect()
    }
}
