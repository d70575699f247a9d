//! Why something did not happen, for whoever tried it. The recording is told of everything that was refused
//! ([`audit`](crate::audit)); who sits before the screen reads a sentence for a moment, as otherwise a key that does nothing
//! looks like a fault.

use lucid_ipc::session::event::Data;
use lucid_ipc::session::to_recorder::Item;
use lucid_ipc::session::{Clipboard, Direction, Outcome};

use crate::notice::Notice;

const WHY: &str = "This session's policy says so: Ctrl+Alt+Delete shows it.";

/// What the user is told of an item for the recording, where that says that something was refused.
pub(crate) fn notice(item: &Item) -> Option<Notice> {
    sentence(item).map(|sentence| Notice { title: sentence.to_owned(), text: WHY.to_owned() })
}

fn sentence(item: &Item) -> Option<&'static str> {
    let Item::Event(event) = item else { return None };
    if event.outcome() != Outcome::Refused {
        return None;
    }
    match event.data.as_ref()? {
        Data::Violation(violation) => Some(match violation.rule.as_str() {
            "input.kb_enabled" => "That key may not be pressed here.",
            "input.mouse_enabled" => "Clicks and the wheel do nothing here.",
            "system.audio_out" => "What the desktop plays is not to be heard.",
            "clipboard.max_bytes" => "That is too large to be pasted.",
            "file.max_size_mb" => "That file is too large to pass.",
            "file.allowed_extensions" => "Files with such a name do not pass.",
            "file.allowed_dirs" => "That folder may not be used.",
            "file.replaced" => "What was on your drive before may not be changed.",
            "file.upload_enabled" => "Your files do not come to the desktop.",
            "file.download_enabled" => "The desktop's files do not come to you.",
            _ => "That is not allowed.",
        }),
        // What was too large has been told as that.
        Data::Clipboard(Clipboard { bytes: 1.., .. }) => None,
        Data::Clipboard(clipboard) => {
            let files = clipboard.r#type == "text/uri-list";
            Some(match (clipboard.direction(), files) {
                (Direction::ToClient, false) => "What is copied on the desktop does not come to you.",
                (Direction::ToClient, true) => "The desktop's files do not come to you.",
                (_, false) => "What you copy does not come to the desktop.",
                (_, true) => "Your files do not come to the desktop.",
            })
        }
        Data::File(_) => Some("Your drives cannot be seen on the desktop."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit;
    use lucid_ipc::session::Actor;

    #[test]
    fn whatever_is_refused_is_told_in_a_sentence_of_its_own_and_nothing_else_is() {
        let violation = |rule| audit::violation(Actor::Client, rule, "secret".to_owned());
        let paste = |outcome, way, kind, bytes| audit::clipboard(outcome, way, kind, bytes, None);
        let (desktop, client) = (Direction::ToDesktop, Direction::ToClient);
        let refused = [
            violation("input.kb_enabled"),
            violation("input.mouse_enabled"),
            violation("system.audio_out"),
            violation("clipboard.max_bytes"),
            violation("file.max_size_mb"),
            violation("file.allowed_extensions"),
            violation("file.allowed_dirs"),
            violation("file.replaced"),
            paste(Outcome::Refused, desktop, "text/plain", 0),
            paste(Outcome::Refused, client, "text/plain", 0),
            paste(Outcome::Refused, desktop, "text/uri-list", 0),
            paste(Outcome::Refused, client, "text/uri-list", 0),
            audit::file(Outcome::Refused, "drive", desktop, "secret".to_owned(), 0, None),
        ];
        let mut told = refused.iter().map(|item| notice(item).unwrap().title).collect::<Vec<_>>();
        assert!(told.iter().all(|title| !title.contains("secret")));
        assert_eq!(
            [notice(&violation("file.upload_enabled")), notice(&violation("file.download_enabled"))],
            [notice(&refused[10]), notice(&refused[11])]
        );
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), refused.len());
        for nothing in [
            paste(Outcome::Allowed, client, "text/plain", 0),
            paste(Outcome::Failed, client, "text/plain", 0),
            paste(Outcome::Refused, client, "text/plain", 1),
            audit::file(Outcome::Allowed, "drive", client, String::new(), 0, None),
            audit::resize((1, 1), 1),
        ] {
            assert_eq!(notice(&nothing), None, "{nothing:?}");
        }
    }
}
