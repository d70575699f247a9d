//! What may pass between client and desktop beside pictures: what the session's policy says at this moment.
//!
//! Nobody decides anything here. lucid-sessiond tells which policy holds, and this host enforces it, until it is told
//! another one; while nobody tells, nothing passes. Without lucid-sessiond one policy holds for every session.

use std::sync::Arc;

use lucid_desktop::{Rect, Shield, Shielding};
use lucid_policy::{Action, Policy, Rectangle};
use tokio::sync::watch;

use crate::Error;

/// The policy that holds in a session, as it changes.
#[derive(Clone, Debug)]
pub(crate) struct Holding(watch::Receiver<Option<Arc<Policy>>>);

/// Where it is told.
pub(crate) type Told = watch::Sender<Option<Arc<Policy>>>;

/// A session begins with this policy, or with none yet.
pub(crate) fn holding(policy: Option<Arc<Policy>>) -> (Told, Holding) {
    let (told, holding) = watch::channel(policy);
    (told, Holding(holding))
}

/// Has the desktop hide what a policy shields; no picture shows it when this is done. The desktop's thread may wait for
/// pictures to be taken meanwhile.
///
/// # Errors
/// When it cannot: then the desktop shows nothing at all.
pub(crate) async fn shield(shielding: &Shielding, policy: &Policy) -> Result<(), Error> {
    let place = |&Rectangle { height, width, x, y }: &Rectangle| Rect { x, y, width, height };
    let rectangles = policy.shield.rectangles.iter().map(place).collect();
    let (shielding, shield) =
        (shielding.clone(), Shield { app_ids: policy.shield.app_ids.clone(), rectangles });
    let set = tokio::task::spawn_blocking(move || shielding.set(&shield));
    set.await.map_err(|_| Error::Internal("the thread that shields windows died"))?.map_err(Error::Shield)
}

impl Holding {
    /// Whether that may happen now. Nothing may while no policy holds.
    pub(crate) fn permits(&self, action: &Action<'_>) -> bool {
        self.0.borrow().as_ref().is_some_and(|policy| policy.permits(action))
    }

    /// What is open now.
    pub(crate) fn gates(&self) -> Gates {
        self.0.borrow().as_ref().map_or_else(Gates::default, |policy| Gates::of(policy))
    }

    /// The policy, if one holds.
    pub(crate) fn policy(&self) -> Option<Arc<Policy>> {
        self.0.borrow().clone()
    }

    /// Whether another policy holds than at the last time that this was asked.
    pub(crate) fn has_changed(&mut self) -> bool {
        let changed = self.0.has_changed().unwrap_or(false);
        self.0.mark_unchanged();
        changed
    }

    /// Waits until another policy holds than when [`has_changed`](Self::has_changed) was asked; may be dropped and called again.
    pub(crate) async fn changed(&mut self) {
        let mut seen = self.0.clone();
        if seen.changed().await.is_err() {
            // What holds now holds for good.
            std::future::pending().await
        }
    }
}

/// Which ways are open at a moment, and how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gates {
    /// What the client copies can be pasted in the desktop (policy: `clipboard.remote_to_host`).
    pub(crate) clipboard_to_desktop: bool,
    /// What is copied in the desktop can be pasted at the client (policy: `clipboard.host_to_remote`).
    pub(crate) clipboard_to_client: bool,
    /// The most bytes of one text, HTML or picture, as they cross the connection (policy: `clipboard.max_bytes`).
    pub(crate) clipboard_max_bytes: usize,
    /// What programs of the desktop play is heard at the client (policy: `system.audio_out`).
    pub(crate) sound_to_client: bool,
    /// Files that the client copies can be pasted in the desktop (policy: `file.upload_enabled`).
    pub(crate) files_to_desktop: bool,
    /// Files that are copied in the desktop can be pasted at the client (policy: `file.download_enabled`).
    pub(crate) files_to_client: bool,
    /// The most bytes of all files that are copied at once (policy: `file.max_size_mb`).
    pub(crate) files_max_bytes: u64,
    /// Drives that the client shares are a folder in the desktop.
    pub(crate) drives: bool,
}

impl Default for Gates {
    fn default() -> Gates {
        Gates::of(&Policy::strict())
    }
}

impl Gates {
    /// What a policy opens.
    pub(crate) fn of(policy: &Policy) -> Gates {
        let Policy { clipboard, file, system, .. } = policy;
        // No file has an ending that an empty list has.
        let some = !file.allowed_extensions.is_empty();
        Gates {
            clipboard_to_desktop: clipboard.remote_to_host,
            clipboard_to_client: clipboard.host_to_remote,
            clipboard_max_bytes: clipboard.max_bytes as usize,
            sound_to_client: system.audio_out,
            files_to_desktop: file.upload_enabled && some,
            files_to_client: file.download_enabled && some,
            files_max_bytes: u64::from(file.max_size_mb) << 20,
            drives: policy.opens_drives(),
        }
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

/// Which channels a client can join. One that is not joined does not exist for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// The clipboard's.
    pub clipboard: bool,
    /// Sound from the desktop.
    pub sound: bool,
    /// The client's drives.
    pub drives: bool,
}

impl Channels {
    /// Those that a policy needs which never changes.
    pub fn of(policy: &Policy) -> Channels {
        let gates = Gates::of(policy);
        Channels { clipboard: gates.clipboard(), sound: gates.sound_to_client, drives: gates.drives }
    }

    /// All: each may be opened while a session runs, and is closed until then.
    pub const ALL: Channels = Channels { clipboard: true, sound: true, drives: true };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_open_while_no_policy_holds_and_under_strict() {
        for policy in [None, Some(Arc::new(Policy::strict()))] {
            let (_told, holding) = holding(policy);
            let gates = holding.gates();
            assert!(!gates.clipboard() && !gates.sound_to_client && !gates.drives);
            for action in lucid_policy::probes(&Policy::strict()) {
                let looking_on = matches!(
                    action,
                    Action::Show { .. }
                        | Action::Reveal { .. }
                        | Action::Connect { .. }
                        | Action::Stay { .. }
                        | Action::GoOn
                );
                assert!(looking_on || !holding.permits(&action), "{action:?}");
            }
        }
        let (told, holding) = holding(Some(Arc::new(Policy::standard())));
        assert!(holding.permits(&Action::Key("KeyA")));
        told.send_replace(None);
        assert!(!holding.permits(&Action::Key("KeyA")), "a gate whose policy nobody tells is closed");
    }

    #[tokio::test]
    async fn a_policy_that_nobody_changes_holds_for_good() {
        let (told, mut holding) = holding(Some(Arc::new(Policy::standard())));
        drop(told);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), holding.changed()).await.is_err());
        assert!(holding.permits(&Action::Key("KeyA")) && holding.gates().sound_to_client);
    }
}
