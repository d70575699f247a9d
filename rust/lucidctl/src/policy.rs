//! `lucidctl policy`: what a policy table means, without any service.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use lucid_policy::approval::{Setting, apply};
use lucid_policy::{Action, Decider, Decision, FIXED, Policy, Role, SCHEMA, Transfer, diff, evdev, explain};
use serde::Serialize;

use crate::report::json;
use crate::{Error, print};

/// Stands before the name of a profile, where a file could be named.
const PROFILE: &str = "profile:";
/// More is no table.
const MOST: u64 = 1 << 20;

/// Policies: what a session may do. A table is a file, or `profile:strict` or `profile:standard`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Prints a profile's table, to begin with.
    New {
        /// Which.
        #[arg(long, value_enum, default_value_t = Profile::Strict)]
        profile: Profile,
    },
    /// Says whether a table can be read, what it is called, and its hash.
    Check {
        /// The table.
        policy: PathBuf,
    },
    /// Says in plain words what a table allows.
    Explain {
        /// The table.
        policy: PathBuf,
    },
    /// Says in plain words what a change means.
    ///
    /// Exit status: 0 both mean the same, 1 they do not.
    Diff {
        /// The table as it was.
        old: PathBuf,
        /// The table as it will be.
        new: PathBuf,
    },
    /// Changes a table, and says in plain words what that means; nothing is written without --to.
    ///
    /// Exit status: 0 something changes, 1 it means the same as before.
    Edit {
        /// The table.
        policy: PathBuf,
        /// Keys of the table with what they are to be, as JSON, such as clipboard.host_to_remote=true.
        #[arg(required = true, value_name = "KEY=VALUE")]
        changes: Vec<Setting>,
        /// Writes the changed table there; it may be the same file.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Prints the Cedar policies that a table stands for, with those that hold whatever it says.
    Cedar {
        /// The table.
        policy: PathBuf,
        /// Prints the schema that they are over instead.
        #[arg(long)]
        schema: bool,
    },
    /// Says whether something would be allowed.
    ///
    /// Exit status: 0 it would be, 1 it would not.
    Simulate {
        /// The table.
        policy: PathBuf,
        /// Who wants it.
        #[arg(long = "as", value_enum, default_value_t = Who::Operator)]
        role: Who,
        #[command(subcommand)]
        event: Event,
    },
}

/// A profile.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Profile {
    /// Nothing but looking on.
    Strict,
    /// Pointer, keyboard and sound; no data in or out.
    Standard,
}

/// A role.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Who {
    /// Whom the device belongs to.
    Owner,
    /// Who uses the desktop.
    Operator,
    /// Who decides on requests.
    Approver,
    /// Who watches.
    Observer,
    /// The device itself.
    Device,
}

/// A file that is to pass.
#[derive(clap::Args)]
pub(crate) struct Passing {
    /// Its name.
    name: String,
    /// How large it is.
    #[arg(long, default_value_t = 0)]
    bytes: u64,
    /// Where it is on the client's drives, such as Home/Documents; without, it is copied and pasted.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<String>,
    /// There is one of that name already.
    #[arg(long)]
    replaces: bool,
}

/// What is to happen.
#[derive(Subcommand)]
pub(crate) enum Event {
    /// A key is pressed.
    Key {
        /// By the W3C's name, such as KeyA or PrintScreen.
        #[arg(value_parser = key)]
        name: String,
    },
    /// A character comes without a key.
    Character,
    /// The pointer moves so many times a second.
    Point {
        /// So many.
        rate: u32,
    },
    /// So many bytes that were copied on the desktop are pasted at the client.
    CopyToClient {
        /// So many.
        bytes: u64,
    },
    /// So many bytes that were copied at the client are pasted on the desktop.
    CopyToDesktop {
        /// So many.
        bytes: u64,
    },
    /// A file goes to the desktop.
    Upload(Passing),
    /// A file goes to the client.
    Download(Passing),
    /// The client hears the desktop.
    PlaySound,
    /// The desktop hears the client.
    RecordSound,
    /// The desktop sees the client's camera.
    UseCamera,
    /// The desktop prints at the client.
    Print,
    /// A program takes a picture of the screen.
    TakeScreenshot,
    /// A program opens a channel to the client.
    OpenChannel,
    /// A window is shown.
    Show {
        /// Its application's id.
        app_id: String,
    },
    /// A pixel of the desktop is shown.
    Reveal {
        /// From the left.
        x: u32,
        /// From the top.
        y: u32,
    },
    /// A session goes on after something was refused.
    GoOn,
    /// A session begins.
    Connect {
        /// Beside so many.
        #[arg(long, default_value_t = 0)]
        sessions: u32,
    },
    /// A session goes on.
    Stay {
        /// How old it is.
        #[arg(long, value_parser = humantime::parse_duration)]
        age: Duration,
        /// For how long nothing was typed or pointed at.
        #[arg(long, value_parser = humantime::parse_duration)]
        idle: Duration,
    },
    /// A session is watched.
    Observe,
    /// A recording is exported.
    Export,
    /// A request is granted.
    Approve {
        /// Whoever grants it asked for it.
        #[arg(long)]
        own: bool,
    },
}

/// A key that there is.
fn key(name: &str) -> Result<String, String> {
    match evdev(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(
            "no key has that name; the W3C's (KeyboardEvent.code) are taken, such as KeyA, F1 or PrintScreen"
                .to_owned(),
        ),
    }
}

impl Passing {
    fn transfer(&self) -> Transfer<'_> {
        let Self { name, bytes, dir, replaces } = self;
        Transfer { bytes: *bytes, dir: dir.as_deref(), name, replaces: *replaces }
    }
}

impl Event {
    fn action(&self) -> Action<'_> {
        match self {
            Event::Key { name } => Action::Key(name),
            Event::Character => Action::Character,
            Event::Point { rate } => Action::Point { rate_hz: *rate },
            Event::CopyToClient { bytes } => Action::CopyToClient { bytes: *bytes },
            Event::CopyToDesktop { bytes } => Action::CopyToDesktop { bytes: *bytes },
            Event::Upload(passing) => Action::Upload(passing.transfer()),
            Event::Download(passing) => Action::Download(passing.transfer()),
            Event::PlaySound => Action::PlaySound,
            Event::RecordSound => Action::RecordSound,
            Event::UseCamera => Action::UseCamera,
            Event::Print => Action::Print,
            Event::TakeScreenshot => Action::TakeScreenshot,
            Event::OpenChannel => Action::OpenChannel,
            Event::Show { app_id } => Action::Show { app_id: Some(app_id) },
            Event::Reveal { x, y } => Action::Reveal { x: *x, y: *y },
            Event::GoOn => Action::GoOn,
            Event::Connect { sessions } => Action::Connect { sessions: *sessions },
            Event::Stay { age, idle } => {
                Action::Stay { age_seconds: age.as_secs(), idle_seconds: idle.as_secs() }
            }
            Event::Observe => Action::Observe,
            Event::Export => Action::Export,
            Event::Approve { own } => Action::Approve { own: *own },
        }
    }
}

pub(crate) fn read(path: &Path) -> Result<Policy, Error> {
    match path.to_str().and_then(|path| path.strip_prefix(PROFILE)) {
        Some("strict") => return Ok(Policy::strict()),
        Some("standard") => return Ok(Policy::standard()),
        Some(other) => return Err(Error::NoProfile(other.to_owned())),
        None => {}
    }
    let failed = |error| Error::Read(path.to_owned(), error);
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text)).map_err(failed)?;
    Policy::parse(&text).map_err(|error| Error::Policy(path.to_owned(), error))
}

/// What `check` says.
#[derive(Serialize)]
struct Checked {
    hash: String,
    profile: &'static str,
}

/// What `diff` says.
#[derive(Serialize)]
struct Changed {
    no_longer: Vec<String>,
    from_now_on: Vec<String>,
}

/// What `simulate` says.
#[derive(Serialize)]
struct Simulated {
    allowed: bool,
    /// The gate that is closed.
    gate: Option<&'static str>,
}

/// Says whether the answer was yes, of what asks something.
pub(crate) fn run(command: &Command, as_json: bool) -> Result<bool, Error> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Policy(path, error)
    };
    match command {
        Command::New { profile } => {
            let policy = match profile {
                Profile::Strict => Policy::strict(),
                Profile::Standard => Policy::standard(),
            };
            print(&written(&policy)?)?;
        }
        Command::Check { policy: path } => {
            let policy = read(path)?;
            let hash = policy.hash().map_err(wrong(path))?.to_string();
            let checked = Checked { hash, profile: policy.profile().name() };
            let Checked { hash, profile } = &checked;
            print(&if as_json { json(&checked) } else { format!("Profile  {profile}\nHash     {hash}\n") })?;
        }
        Command::Explain { policy } => {
            let said = explain(&read(policy)?);
            print(&if as_json { json(&said) } else { said.join("\n") + "\n" })?;
        }
        Command::Diff { old, new } => {
            let (same, text) = difference(&read(old)?, &read(new)?, as_json);
            return answer(same, &text);
        }
        Command::Edit { policy: path, changes, to } => {
            let old = read(path)?;
            let new = apply(&old, changes).map_err(wrong(path))?;
            if let Some(to) = to {
                replace(to, &written(&new)?)?;
            }
            let (same, text) = difference(&old, &new, as_json);
            return answer(!same, &text);
        }
        Command::Cedar { policy, schema } => {
            let policies = read(policy)?.to_cedar() + FIXED;
            let cedar = if *schema { SCHEMA.to_owned() } else { policies };
            print(&if as_json { json(&cedar) } else { cedar })?;
        }
        Command::Simulate { policy: path, role, event } => {
            let role = match role {
                Who::Owner => Role::Owner,
                Who::Operator => Role::Operator,
                Who::Approver => Role::Approver,
                Who::Observer => Role::Observer,
                Who::Device => Role::Device,
            };
            let decider = Decider::new(&read(path)?).map_err(wrong(path))?;
            let decision = decider.decide(role, &event.action());
            let gate = match decision {
                Decision::Allowed => None,
                Decision::Refused { gate } => Some(gate),
            };
            let allowed = decision.is_allowed();
            return answer(
                allowed,
                &match (as_json, gate) {
                    (true, _) => json(&Simulated { allowed, gate }),
                    (false, None) => "allowed\n".to_owned(),
                    (false, Some(gate)) => format!("refused: {gate}\n"),
                },
            );
        }
    }
    Ok(true)
}

/// Says something whose exit status is the answer, whoever still reads it.
fn answer(yes: bool, text: &str) -> Result<bool, Error> {
    match print(text) {
        Err(Error::Write(_, error)) if error.kind() == ErrorKind::BrokenPipe => Ok(yes),
        printed => printed.map(|()| yes),
    }
}

/// A table for people to read and change.
fn written(policy: &Policy) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(policy);
    Ok(text.map_err(|error| Error::Write("a table".into(), error.into()))? + "\n")
}

/// Writes a file, whole or not at all.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| Error::Write(path.display().to_string(), error))
}

/// Whether two tables mean the same, and what is said of that.
fn difference(old: &Policy, new: &Policy, as_json: bool) -> (bool, String) {
    let (no_longer, from_now_on) = diff(old, new);
    let same = no_longer.is_empty() && from_now_on.is_empty();
    let text =
        if as_json { json(&Changed { no_longer, from_now_on }) } else { changed(&no_longer, &from_now_on) };
    (same, text)
}

/// As `diff` writes it, in sentences.
fn changed(no_longer: &[String], from_now_on: &[String]) -> String {
    if no_longer.is_empty() && from_now_on.is_empty() {
        return "Both mean the same.\n".to_owned();
    }
    let mut text = String::new();
    for (sign, sentences) in [('-', no_longer), ('+', from_now_on)] {
        for sentence in sentences {
            let _ = writeln!(text, "{sign} {sentence}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::Arguments;

    fn ask(words: &[&str]) -> Result<bool, Error> {
        let arguments = ["lucidctl", "policy"].iter().chain(words);
        let Ok(Arguments { command: crate::Command::Policy(command), json, .. }) =
            Arguments::try_parse_from(arguments)
        else {
            panic!("{words:?} is no command");
        };
        run(&command, json)
    }

    #[test]
    fn what_would_happen_is_said_by_the_exit_status_too() {
        assert!(!ask(&["simulate", "profile:strict", "key", "KeyA"]).unwrap());
        assert!(ask(&["simulate", "profile:standard", "key", "KeyA"]).unwrap());
        assert!(!ask(&["simulate", "profile:standard", "key", "PrintScreen"]).unwrap());
        assert!(!ask(&["simulate", "profile:standard", "--as", "observer", "key", "KeyA"]).unwrap());
        assert!(!ask(&["simulate", "profile:standard", "upload", "a.txt", "--bytes", "1"]).unwrap());
        assert!(ask(&["simulate", "profile:strict", "stay", "--age", "1h", "--idle", "5m"]).unwrap());
        assert!(!ask(&["simulate", "profile:strict", "--as", "approver", "approve", "--own"]).unwrap());
        assert!(ask(&["diff", "profile:strict", "profile:strict"]).unwrap());
        assert!(!ask(&["diff", "profile:strict", "profile:standard", "--json"]).unwrap());
    }

    #[test]
    fn an_edit_is_written_where_it_is_told_to_be_and_a_wrong_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        let name = path.to_str().unwrap();
        assert!(ask(&["edit", "profile:strict", "input.kb_enabled=true"]).unwrap());
        assert!(ask(&["edit", "profile:strict", "input.kb_enabled=true", "--to", name]).unwrap());
        let once = read(&path).unwrap();
        assert!(once.input.kb_enabled && !once.input.mouse_enabled);
        assert!(!ask(&["edit", name, "input.kb_enabled=true", "--to", name]).unwrap());
        assert!(
            ask(&["edit", name, "clipboard.max_bytes=4096", "system.audio_out=true", "--to", name]).unwrap()
        );
        let twice = read(&path).unwrap();
        assert!(twice.input.kb_enabled && twice.system.audio_out && twice.clipboard.max_bytes == 4096);
        for wrong in ["clipboard.max_bytes=0", "clipboard.max=1", "version=2", "input={}"] {
            assert!(ask(&["edit", name, wrong, "--to", name]).is_err(), "{wrong}");
        }
        assert_eq!(read(&path).unwrap(), twice);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_table_that_is_printed_can_be_read_and_a_wrong_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        std::fs::write(&path, json(&Policy::standard())).unwrap();
        assert_eq!(read(&path).unwrap(), Policy::standard());
        std::fs::write(&path, r#"{"clipboard": {"max_bytes": 0}}"#).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("policy.json: `clipboard.max_bytes` is 0; it may be from 1"), "{error}");
        let error = read(Path::new("profile:lax")).unwrap_err().to_string();
        assert!(error.contains("strict") && error.contains("lax"), "{error}");
        assert!(read(&dir.path().join("none.json")).is_err());
    }
}
