//! What the signed statements about policies have in common.

use serde::{Deserialize, Serialize};

/// Begins what is signed of every one of them.
pub(crate) const DOMAIN: &str = "lucid policy v1 ";
/// The version of them all.
pub(crate) const VERSION: u16 = 1;
/// The most bytes of a name or a reason.
pub(crate) const MAX_TEXT: usize = 256;

/// What a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// [`Receipt`](crate::consent::Receipt).
    #[serde(rename = "lucid-consent-receipt")]
    ConsentReceipt,
    /// [`Snapshot`](crate::snapshot::Snapshot).
    #[serde(rename = "lucid-policy-snapshot")]
    PolicySnapshot,
    /// [`Request`](crate::approval::Request).
    #[serde(rename = "lucid-approval-request")]
    ApprovalRequest,
    /// [`Decision`](crate::approval::Decision).
    #[serde(rename = "lucid-approval-decision")]
    ApprovalDecision,
}

impl Kind {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConsentReceipt => "lucid-consent-receipt",
            Self::PolicySnapshot => "lucid-policy-snapshot",
            Self::ApprovalRequest => "lucid-approval-request",
            Self::ApprovalDecision => "lucid-approval-decision",
        }
    }
}

/// A name or a reason: of 1 to so many bytes, and nothing in it that a terminal would obey.
pub(crate) fn is_text(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && !text.chars().any(char::is_control)
}
