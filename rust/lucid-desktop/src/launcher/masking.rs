//! Has the compositor not paint the windows of an application, through its IPC socket (sway-ipc(7)).

use super::runtime::RuntimeDirectory;
use super::{Compositor, LauncherError};
use lucid_desktop::handover::Mask;
use rustix::process::geteuid;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What every message begins with; then follow length and type, in the machine's byte order.
const MAGIC: &[u8; 6] = b"i3-ipc";
/// The type of a message with commands, and of its answer.
const RUN_COMMAND: u32 = 0;
/// The longest answer, in bytes.
const MAX_ANSWER: u32 = 64 * 1024;
/// The compositor has this long to take a command, and as long to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How it says that there is no such window at present.
const NO_WINDOW: &str = "No matching node.";

/// What one command has come to.
#[derive(Deserialize)]
struct Outcome {
    success: bool,
    #[serde(default)]
    error: Option<String>,
}

/// Has windows painted, or not.
#[derive(Default)]
pub(super) struct Masking {
    /// Rules that were made.
    rules: u32,
}

impl Masking {
    /// Does what was asked for: returns when it holds, for windows that there are and that come.
    pub(super) fn apply(
        &mut self,
        mask: &Mask,
        runtime: &RuntimeDirectory,
        compositor: &Compositor,
    ) -> Result<(), LauncherError> {
        let criterion = criterion(&mask.app_id);
        let look = if mask.masked { "opacity 0, title_format -" } else { "opacity 1, title_format %title" };
        // Rules hold in the order in which they were made, and one that was made before is not made again: none is the
        // same as another.
        self.rules += 1;
        let rule = format!("for_window {criterion} \"{look}, nop {}\"", self.rules);
        let doing = format!("asking the compositor to mask the windows of {:?}", mask.app_id);
        let run = |command: &str, none_is_right| {
            run(command, runtime, compositor)
                .map_err(LauncherError::io(doing.clone()))?
                .into_iter()
                .find(|outcome| {
                    let none = outcome.error.as_deref() == Some(NO_WINDOW);
                    !(outcome.success || none_is_right && none)
                })
                .map_or(Ok(()), |outcome| {
                    let why = outcome.error.unwrap_or_else(|| "it does not say why".to_owned());
                    Err(LauncherError::Refused { doing: doing.clone(), why })
                })
        };
        // First the rule, so that no window comes in between.
        run(&rule, false)?;
        run(&format!("{criterion} {look}"), true)
    }
}

/// What only windows with that id meet (a regular expression of PCRE). Whatever is not plain is written as its number, so
/// that nothing in it means anything to the compositor's parsers.
fn criterion(app_id: &str) -> String {
    let mut pattern = String::new();
    for character in app_id.chars() {
        if character.is_ascii_alphanumeric() {
            pattern.push(character);
        } else {
            pattern.push_str(&format!("\\x{{{:x}}}", u32::from(character)));
        }
    }
    format!("[app_id=\"^{pattern}\\z\"]")
}

/// Runs commands, and gives what each has come to.
fn run(command: &str, runtime: &RuntimeDirectory, compositor: &Compositor) -> io::Result<Vec<Outcome>> {
    let pid = compositor.pid.as_raw_nonzero();
    let path = runtime.path().join(format!("sway-ipc.{}.{pid}.sock", geteuid().as_raw()));
    let mut socket = UnixStream::connect(path)?;
    // The desktop's programs can put something else in its place.
    if rustix::net::sockopt::socket_peercred(&socket)?.pid != compositor.pid {
        return Err(io::Error::other("its socket is another program's"));
    }
    socket.set_write_timeout(Some(ANSWER_TIME))?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    let length = u32::try_from(command.len()).map_err(io::Error::other)?;
    let head = [&MAGIC[..], &length.to_ne_bytes(), &RUN_COMMAND.to_ne_bytes()].concat();
    socket.write_all(&[&head, command.as_bytes()].concat())?;
    let mut head = [0; 14];
    socket.read_exact(&mut head)?;
    let (magic, rest) = head.split_at(MAGIC.len());
    let (words, _) = rest.as_chunks::<4>();
    let length = match words {
        [length, kind] if magic == MAGIC && u32::from_ne_bytes(*kind) == RUN_COMMAND => {
            Some(u32::from_ne_bytes(*length)).filter(|length| *length <= MAX_ANSWER)
        }
        _ => None,
    };
    let length = length.ok_or_else(|| io::Error::other("its answer is none"))?;
    let mut answer = vec![0; length as usize];
    socket.read_exact(&mut answer)?;
    let outcomes: Vec<Outcome> = serde_json::from_slice(&answer).map_err(io::Error::other)?;
    if outcomes.is_empty() {
        return Err(io::Error::other("it does not say what has become of a command"));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_means_nothing_to_the_compositor_but_itself() {
        assert_eq!(criterion("foot2"), r#"[app_id="^foot2\z"]"#);
        assert_eq!(criterion("org.a-b"), r#"[app_id="^org\x{2e}a\x{2d}b\z"]"#);
        assert_eq!(criterion("\"];$x ä"), r#"[app_id="^\x{22}\x{5d}\x{3b}\x{24}x\x{20}\x{e4}\z"]"#);
        assert_eq!(criterion("__focused__"), r#"[app_id="^\x{5f}\x{5f}focused\x{5f}\x{5f}\z"]"#);
    }
}
