//! What may pass between client and desktop beside pictures and input. **All of it is off by default.**

use std::str::FromStr;

/// The most that `max_bytes` may be: what a picture of the largest desktop takes, and memory for a few of them.
const MOST_BYTES: usize = 64 << 20;

/// Which ways are open, and how wide. A way that is not open does not exist for the client: a channel without any
/// open way is not joined, and what comes nevertheless is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gates {
    /// What the client copies can be pasted in the desktop (policy: `clipboard.remote_to_host`).
    pub clipboard_to_desktop: bool,
    /// What is copied in the desktop can be pasted at the client (policy: `clipboard.host_to_remote`).
    pub clipboard_to_client: bool,
    /// The most bytes of one text, HTML or picture, as they cross the connection (policy: `clipboard.max_bytes`).
    pub clipboard_max_bytes: usize,
    /// What programs of the desktop play is heard at the client (policy: `system.audio_out`).
    pub sound_to_client: bool,
    /// Files that the client copies can be pasted in the desktop (policy: `file.upload_enabled`).
    pub files_to_desktop: bool,
    /// Files that are copied in the desktop can be pasted at the client (policy: `file.download_enabled`).
    pub files_to_client: bool,
    /// The most bytes of all files that are copied at once (policy: `file.max_size_mb`).
    pub files_max_bytes: u64,
    /// Drives that the client shares are a folder in the desktop, whose programs can read what is there.
    pub drives: bool,
    /// And change it. Means nothing without [`drives`](Gates::drives).
    pub drives_write: bool,
}

impl Default for Gates {
    fn default() -> Gates {
        Gates {
            clipboard_to_desktop: false,
            clipboard_to_client: false,
            clipboard_max_bytes: 65536,
            sound_to_client: false,
            files_to_desktop: false,
            files_to_client: false,
            files_max_bytes: 25 << 20,
            drives: false,
            drives_write: false,
        }
    }
}

/// One way that can be opened, by the word that opens it on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `clipboard-to-desktop`
    ClipboardToDesktop,
    /// `clipboard-to-client`
    ClipboardToClient,
    /// `sound-to-client`
    SoundToClient,
    /// `clipboard-files-to-desktop`
    FilesToDesktop,
    /// `clipboard-files-to-client`
    FilesToClient,
    /// `drives`
    Drives,
    /// `drives-write`, which opens `drives` as well
    DrivesWrite,
}

impl Way {
    const ALL: [(&'static str, Way); 7] = [
        ("clipboard-to-desktop", Way::ClipboardToDesktop),
        ("clipboard-to-client", Way::ClipboardToClient),
        ("sound-to-client", Way::SoundToClient),
        ("clipboard-files-to-desktop", Way::FilesToDesktop),
        ("clipboard-files-to-client", Way::FilesToClient),
        ("drives", Way::Drives),
        ("drives-write", Way::DrivesWrite),
    ];
}

impl FromStr for Way {
    type Err = String;

    fn from_str(word: &str) -> Result<Way, String> {
        Way::ALL.iter().find(|(known, _)| *known == word).map(|(_, way)| *way).ok_or_else(|| {
            let known = Way::ALL.map(|(known, _)| known).join(", ");
            format!("there is no such way; there are {known}")
        })
    }
}

impl Gates {
    /// Opens a way.
    pub fn open(&mut self, way: Way) {
        match way {
            Way::ClipboardToDesktop => self.clipboard_to_desktop = true,
            Way::ClipboardToClient => self.clipboard_to_client = true,
            Way::SoundToClient => self.sound_to_client = true,
            Way::FilesToDesktop => self.files_to_desktop = true,
            Way::FilesToClient => self.files_to_client = true,
            Way::Drives => self.drives = true,
            Way::DrivesWrite => {
                self.drives = true;
                self.drives_write = true;
            }
        }
    }

    /// Sets the limit of one text, HTML or picture.
    ///
    /// # Errors
    /// When it is beyond what this host can take, or nothing.
    pub fn limit_clipboard(&mut self, bytes: usize) -> Result<(), String> {
        if !(1..=MOST_BYTES).contains(&bytes) {
            return Err(format!("the clipboard's limit must be within 1..={MOST_BYTES} bytes"));
        }
        self.clipboard_max_bytes = bytes;
        Ok(())
    }

    /// Whether the clipboard's channel is needed at all.
    pub(crate) fn clipboard(&self) -> bool {
        self.clipboard_to_desktop || self.clipboard_to_client || self.files()
    }

    /// Whether files may pass at all.
    pub(crate) fn files(&self) -> bool {
        self.files_to_desktop || self.files_to_client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_open_by_default() {
        let gates = Gates::default();
        assert!(!gates.clipboard_to_desktop && !gates.clipboard_to_client && !gates.clipboard());
        assert!(!gates.sound_to_client);
        assert!(!gates.files_to_desktop && !gates.files_to_client && !gates.files());
        assert!(!gates.drives && !gates.drives_write);
        assert_eq!(gates.clipboard_max_bytes, 65536);
    }

    #[test]
    fn each_word_opens_its_way_and_no_other() {
        for (word, way) in Way::ALL {
            assert_eq!(word.parse(), Ok(way));
        }
        let mut gates = Gates::default();
        gates.open("clipboard-to-client".parse().unwrap());
        assert_eq!(gates, Gates { clipboard_to_client: true, ..Gates::default() });
        let mut gates = Gates::default();
        gates.open("clipboard-to-desktop".parse().unwrap());
        assert_eq!(gates, Gates { clipboard_to_desktop: true, ..Gates::default() });
        let mut gates = Gates::default();
        gates.open("sound-to-client".parse().unwrap());
        assert_eq!(gates, Gates { sound_to_client: true, ..Gates::default() });
        let mut gates = Gates::default();
        gates.open("clipboard-files-to-desktop".parse().unwrap());
        assert_eq!(gates, Gates { files_to_desktop: true, ..Gates::default() });
        let mut gates = Gates::default();
        gates.open("clipboard-files-to-client".parse().unwrap());
        assert_eq!(gates, Gates { files_to_client: true, ..Gates::default() });
        let mut gates = Gates::default();
        gates.open("drives".parse().unwrap());
        assert_eq!(gates, Gates { drives: true, ..Gates::default() });
        gates.open("drives-write".parse().unwrap());
        assert_eq!(gates, Gates { drives: true, drives_write: true, ..Gates::default() });
        assert!(
            "clipboard".parse::<Way>().unwrap_err().contains("clipboard-to-desktop, clipboard-to-client")
        );
    }

    #[test]
    fn a_limit_beyond_what_can_be_held_is_refused() {
        let mut gates = Gates::default();
        assert!(gates.limit_clipboard(0).is_err());
        assert!(gates.limit_clipboard(MOST_BYTES + 1).is_err());
        gates.limit_clipboard(MOST_BYTES).unwrap();
        assert_eq!(gates.clipboard_max_bytes, MOST_BYTES);
    }
}
