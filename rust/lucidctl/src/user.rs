//! `lucidctl user`: who may use the device, in which roles, and how he proves who he is.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _, stdin};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use lucid_ipc::accounts::accounts_client::AccountsClient;
use lucid_ipc::accounts::{
    Account, AddRequest, ExportRequest, File as Whole, KeyRequest, LinkRequest, ListRequest, MAX_MESSAGE,
    OfRequest, Role as WireRole, SetClosedRequest, SetPasswordRequest, SetRolesRequest, SetSecondRequest,
};
use lucid_ipc::tonic::transport::Channel;
use lucid_ipc::tonic::{Code, Status};
use lucid_statement::PublicKey;
use qrcodegen::{QrCode, QrCodeEcc};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::report::{json, plain, span, table};
use crate::session::{Controller, ask};
use crate::{Error, print};

/// The most bytes of a line with a password.
const MOST_TYPED: u64 = 1024;

/// Who may use the device, and how he proves who he is. Needs root, and the session controller, which keeps the accounts.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists everybody.
    List {
        #[command(flatten)]
        controller: Controller,
    },
    /// Adds somebody. He cannot log in before he has a password (`user password`) or a link (`user link`).
    Add {
        /// What he logs in as. No two names differ in upper and lower case alone.
        name: String,
        /// What he may do. May be given more than once.
        #[arg(long = "role", value_name = "ROLE", default_value = "operator")]
        roles: Vec<Role>,
        #[command(flatten)]
        controller: Controller,
    },
    /// Removes somebody. One whom lucid.toml names is back after the next start; `user close` keeps him out.
    Remove {
        /// His name.
        name: String,
        #[command(flatten)]
        controller: Controller,
    },
    /// Gives somebody a password, which is asked for twice and not shown. It holds until lucid.toml names a new one for him.
    Password {
        /// His name.
        name: String,
        /// Reads it from the first line of standard input instead, for programs.
        #[arg(long)]
        stdin: bool,
        /// Takes his password away: then only links let him in.
        #[arg(long, conflicts_with = "stdin")]
        none: bool,
        #[command(flatten)]
        controller: Controller,
    },
    /// Gives somebody a second factor, and shows it once, for the authenticator on his phone. From then on he types his
    /// password, a space and the six digits, in a client that connects without network-level authentication (NLA), which has
    /// no place for them.
    Totp {
        /// His name.
        name: String,
        /// Takes it away: then his password is enough.
        #[arg(long)]
        remove: bool,
        #[command(flatten)]
        controller: Controller,
    },
    /// Makes a link, and shows it once: 64 digits that let somebody in one time, typed in place of his password, in a client
    /// that connects without network-level authentication (NLA).
    Link {
        /// His name.
        name: String,
        /// How long it is good, 30 days at most.
        #[arg(long = "for", value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
        span: Duration,
        #[command(flatten)]
        controller: Controller,
    },
    /// Says what somebody may do, instead of what he might before.
    Roles {
        /// His name.
        name: String,
        /// All of his roles.
        roles: Vec<Role>,
        #[command(flatten)]
        controller: Controller,
    },
    /// Keeps somebody out from now on, whatever he proves. A session that runs goes on (`lucidctl session end`).
    Close {
        /// His name.
        name: String,
        #[command(flatten)]
        controller: Controller,
    },
    /// Lets somebody in again who was kept out.
    Open {
        /// His name.
        name: String,
        #[command(flatten)]
        controller: Controller,
    },
    /// Adds or removes a key with which somebody accepts policies and, as an approver, decides. Sessions that run keep to the
    /// keys that there were at their beginning.
    Key {
        /// His name.
        name: String,
        /// Which of the two.
        what: Change,
        /// The public half, 64 hexadecimal digits, as `lucidctl session new-key` prints it.
        key: PublicKey,
        #[command(flatten)]
        controller: Controller,
    },
    /// Forgets that somebody failed to log in, so that he need not wait.
    Forgive {
        /// His name.
        name: String,
        #[command(flatten)]
        controller: Controller,
    },
    /// Writes all accounts into a new file. It is secret: from it, passwords can be guessed and codes made.
    Export {
        /// The file, which must not be there yet.
        file: PathBuf,
        #[command(flatten)]
        controller: Controller,
    },
    /// Takes all accounts from a file that `user export` wrote, in place of those that there are.
    Import {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        controller: Controller,
    },
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Decides on requests of others.
    Approver,
    /// Watches.
    Observer,
    /// Uses a desktop.
    Operator,
    /// The device is his; he may use a desktop as well.
    Owner,
}

impl Role {
    fn to_wire(self) -> i32 {
        match self {
            Role::Approver => WireRole::Approver,
            Role::Observer => WireRole::Observer,
            Role::Operator => WireRole::Operator,
            Role::Owner => WireRole::Owner,
        }
        .into()
    }
}

fn role(wire: i32) -> &'static str {
    match WireRole::try_from(wire) {
        Ok(WireRole::Approver) => "approver",
        Ok(WireRole::Observer) => "observer",
        Ok(WireRole::Operator) => "operator",
        Ok(WireRole::Owner) => "owner",
        Ok(WireRole::Unspecified) | Err(_) => "unknown",
    }
}

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Change {
    /// It is his from now on.
    Add,
    /// It is his no longer.
    Remove,
}

/// `user list --json` is an array of these.
#[derive(Serialize)]
struct Listed {
    name: String,
    roles: Vec<&'static str>,
    closed: bool,
    password: bool,
    second_factor: bool,
    links: u32,
    keys: Vec<String>,
    failures: u32,
    waits_seconds: u32,
}

impl From<Account> for Listed {
    fn from(account: Account) -> Listed {
        Listed {
            name: account.name,
            roles: account.roles.into_iter().map(role).collect(),
            closed: account.closed,
            password: account.has_password,
            second_factor: account.has_second,
            links: account.links,
            keys: account.keys,
            failures: account.failures,
            waits_seconds: account.waits_seconds,
        }
    }
}

fn lines(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "Nobody. `lucidctl user add` adds somebody.\n".into();
    }
    let mut rows = vec![["NAME", "ROLES", "LOGS IN BY", "KEYS", "STATE"].map(str::to_owned)];
    for one in listed {
        let mut by = Vec::new();
        if one.password {
            by.push(if one.second_factor { "password and code" } else { "password" });
        }
        if one.links > 0 {
            by.push("link");
        }
        let state = match one {
            Listed { closed: true, .. } => "closed".to_owned(),
            Listed { waits_seconds: 1.., .. } => {
                format!("{} failures, waits {}", one.failures, span(one.waits_seconds.into()))
            }
            Listed { failures: 1.., .. } => format!("{} failures", one.failures),
            _ => "open".to_owned(),
        };
        let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        rows.push([
            plain(&one.name),
            or_none(one.roles.join(", ")),
            or_none(by.join(", ")),
            one.keys.len().to_string(),
            state,
        ]);
    }
    table(&rows)
}

/// What the service says, where it is about somebody.
fn refused(status: Status) -> Error {
    if status.code() == Code::NotFound { Error::Nobody(status) } else { status.into() }
}

type Client = AccountsClient<Channel>;

/// Has something done of which there is nothing to tell but that it is.
fn does<T>(
    controller: &Controller,
    as_json: bool,
    done: &str,
    what: impl AsyncFnOnce(&mut Client) -> Result<T, Status>,
) -> Result<(), Error> {
    asks(controller, what)?;
    if as_json { print("{}\n") } else { print(&format!("{done}\n")) }
}

fn asks<T>(
    controller: &Controller,
    what: impl AsyncFnOnce(&mut Client) -> Result<T, Status>,
) -> Result<T, Error> {
    ask(async {
        let client = AccountsClient::new(controller.channel().await?);
        what(&mut client.max_decoding_message_size(MAX_MESSAGE)).await.map_err(refused)
    })
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> io::Result<Unseen> {
        let before = tcgetattr(stdin())?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Unseen(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}

/// A line of standard input, without its end.
fn line() -> Result<Zeroizing<String>, Error> {
    let failed = |error| Error::Read("the password".into(), error);
    // So large that it does not grow, which would leave copies. (Standard input's own buffer cannot be wiped.)
    let mut line = Zeroizing::new(String::with_capacity(MOST_TYPED as usize + 1));
    stdin().lock().take(MOST_TYPED).read_line(&mut line).map_err(failed)?;
    if line.ends_with('\n') {
        line.pop();
    }
    if line.is_empty() {
        return Err(failed(io::Error::other("it is empty (--none takes a password away)")));
    }
    Ok(line)
}

fn password(from_stdin: bool) -> Result<Zeroizing<String>, Error> {
    if from_stdin {
        return line();
    }
    if !stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let unseen = Unseen::begin().map_err(|error| Error::Read("the terminal".into(), error))?;
    let asked = |question: &str| {
        print(question)?;
        let line = line();
        // What was typed shows no line's end either.
        print("\n")?;
        line
    };
    let password = asked("Password: ")?;
    let again = asked("The same again: ")?;
    drop(unseen);
    if *password == *again { Ok(password) } else { Err(Error::NotTheSame) }
}

/// Two rows of a QR code's modules in one row of characters, dark on light whatever the terminal's colours are; nothing where
/// it does not fit into a code.
fn code(text: &str) -> Zeroizing<String> {
    /// Light modules around it.
    const QUIET: i32 = 2;
    let mut drawn = Zeroizing::new(String::new());
    let Ok(code) = QrCode::encode_text(text, QrCodeEcc::Low) else { return drawn };
    let edge = code.size() + QUIET;
    for y in (-QUIET..edge).step_by(2) {
        drawn.push_str("\x1b[30;47m");
        for x in -QUIET..edge {
            // Outside the code `get_module` is light.
            drawn.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (false, false) => ' ',
                (true, false) => '▀',
                (false, true) => '▄',
                (true, true) => '█',
            });
        }
        drawn.push_str("\x1b[0m\n");
    }
    drawn
}

fn export(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::SecretExists(file.to_owned()),
        _ => Error::Write(file.display().to_string(), error),
    };
    let mut opened =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    opened.write_all(bytes).and_then(|()| opened.sync_all()).map_err(failed)
}

fn import(file: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |error| Error::Read(file.to_owned(), error);
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_MESSAGE + 1));
    let opened = File::open(file).map_err(failed)?;
    opened.take(MAX_MESSAGE as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(failed(io::Error::other("it is too large to be a file of accounts")));
    }
    Ok(bytes)
}

/// Says whether it was done.
pub(crate) fn run(command: &Command, as_json: bool) -> Result<bool, Error> {
    let closed = |name: &str, closed| SetClosedRequest { name: name.to_owned(), closed };
    let of = |name: &str| OfRequest { name: name.to_owned() };
    let to_wire = |roles: &[Role]| roles.iter().map(|role| role.to_wire()).collect();
    match command {
        Command::List { controller } => {
            let listed = asks(controller, async |client| client.list(ListRequest {}).await)?.into_inner();
            let listed: Vec<_> = listed.accounts.into_iter().map(Listed::from).collect();
            print(&if as_json { json(&listed) } else { lines(&listed) })?;
        }
        Command::Add { name, roles, controller } => {
            let request = AddRequest { name: name.clone(), roles: to_wire(roles) };
            let done = format!(
                "Added. {0} logs in when there is a password (`lucidctl user password {0}`) or a link.",
                plain(name)
            );
            does(controller, as_json, &done, async |client| client.add(request).await)?;
        }
        Command::Remove { name, controller } => {
            let request = of(name);
            does(controller, as_json, "Removed.", async |client| client.remove(request).await)?;
        }
        Command::Password { name, stdin, none, controller } => {
            let typed = if *none { Zeroizing::default() } else { password(*stdin)? };
            let request = SetPasswordRequest { name: name.clone(), password: typed.as_bytes().to_vec() };
            let done = if *none { "The password was taken away." } else { "The password was set." };
            does(controller, as_json, done, async |client| client.set_password(request).await)?;
        }
        Command::Totp { name, remove, controller } => {
            let request = SetSecondRequest { name: name.clone(), remove: *remove };
            let second = asks(controller, async |client| client.set_second(request).await)?.into_inner();
            let uri = Zeroizing::new(second.uri);
            if as_json {
                let uri = Some(uri.as_str()).filter(|uri| !uri.is_empty());
                print(&json(&serde_json::json!({ "uri": uri })))?;
            } else if *remove {
                print("The second factor was taken away; the password is enough.\n")?;
            } else {
                let drawn = if io::stdout().is_terminal() { code(&uri) } else { Zeroizing::default() };
                print(&format!("{}{}\n\nThis is shown once.\n", *drawn, plain(&uri)))?;
            }
        }
        Command::Link { name, span: within, controller } => {
            let seconds = u32::try_from(within.as_secs()).unwrap_or(u32::MAX);
            let request = LinkRequest { name: name.clone(), seconds };
            let token = asks(controller, async |client| client.link(request).await)?.into_inner().token;
            let token = Zeroizing::new(token);
            print(&if as_json {
                json(&serde_json::json!({ "token": *token, "seconds": seconds }))
            } else {
                let (name, span) = (plain(name), span(seconds.into()));
                format!(
                    "{}\n\nThis is shown once. It lets {name} in one time within {span}.\n",
                    plain(&token)
                )
            })?;
        }
        Command::Roles { name, roles, controller } => {
            let request = SetRolesRequest { name: name.clone(), roles: to_wire(roles) };
            does(controller, as_json, "The roles were set.", async |client| client.set_roles(request).await)?;
        }
        Command::Close { name, controller } => {
            let (request, done) = (closed(name, true), "Closed: nothing lets him in any more.");
            does(controller, as_json, done, async |client| client.set_closed(request).await)?;
        }
        Command::Open { name, controller } => {
            let request = closed(name, false);
            does(controller, as_json, "Open again.", async |client| client.set_closed(request).await)?;
        }
        Command::Key { name, what, key, controller } => {
            let request = KeyRequest { name: name.clone(), key: key.to_string() };
            match what {
                Change::Add => {
                    does(controller, as_json, "Added.", async |client| client.add_key(request).await)?;
                }
                Change::Remove => {
                    does(controller, as_json, "Removed.", async |client| client.remove_key(request).await)?;
                }
            }
        }
        Command::Forgive { name, controller } => {
            let request = of(name);
            does(controller, as_json, "Forgiven.", async |client| client.forgive(request).await)?;
        }
        Command::Export { file, controller } => {
            let whole = asks(controller, async |client| client.export(ExportRequest {}).await)?.into_inner();
            export(file, &Zeroizing::new(whole.file))?;
            print(if as_json { "{}\n" } else { "Written. The file is secret.\n" })?;
        }
        Command::Import { file, controller } => {
            let request = Whole { file: import(file)?.to_vec() };
            let done = "Taken over, in place of the accounts that there were.";
            does(controller, as_json, done, async |client| client.import(request).await)?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(subcommand)]
        command: Command,
    }

    fn read(words: &str) -> Result<Command, clap::Error> {
        let words = ["user"].into_iter().chain(words.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command)
    }

    #[test]
    fn what_is_typed_is_understood_and_no_password_is_taken_from_the_arguments() {
        let Ok(Command::Add { roles, .. }) = read("add ada") else { panic!() };
        assert_eq!(roles, [Role::Operator]);
        let Ok(Command::Add { roles, .. }) = read("add bob --role approver --role observer") else {
            panic!()
        };
        assert_eq!(roles, [Role::Approver, Role::Observer]);
        let Ok(Command::Link { span, .. }) = read("link ada --for 2h") else { panic!() };
        assert_eq!(span, Duration::from_secs(7200));
        let key = "a".repeat(64);
        assert!(read(&format!("key ada add {key}")).is_ok() && read("key ada add 12").is_err());
        assert!(read("roles ada operator owner").is_ok() && read("roles ada king").is_err());
        assert!(read("password ada Quiet-Otter-58").is_err());
        assert!(read("password ada --stdin --none").is_err());
    }

    #[test]
    fn the_list_says_how_each_logs_in_and_what_keeps_him_out() {
        let account = |name: &str, closed, waits_seconds| Account {
            name: name.to_owned(),
            roles: vec![WireRole::Operator.into(), WireRole::Owner.into()],
            closed,
            has_password: true,
            has_second: closed,
            links: waits_seconds,
            keys: vec!["a".repeat(64)],
            failures: waits_seconds,
            waits_seconds,
        };
        let listed: Vec<_> = [account("ada", false, 0), account("bob\n", true, 0), account("eve", false, 65)]
            .map(Listed::from)
            .into();
        let text = lines(&listed);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(rows[1], ["ada", "operator, owner", "password", "1", "open"]);
        assert_eq!(rows[2], ["bob?", "operator, owner", "password and code", "1", "closed"]);
        assert_eq!(
            rows[3],
            ["eve", "operator, owner", "password, link", "1", "65 failures, waits 1 min 5 s"]
        );
        assert_eq!(rows.len(), 4);
        assert!(lines(&[]).contains("user add"));
    }

    #[test]
    fn an_export_is_for_its_owner_alone_and_overwrites_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("accounts.json");
        export(&file, b"secret").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(export(&file, b"other"), Err(Error::SecretExists(_))));
        assert_eq!(*import(&file).unwrap(), b"secret");
        assert!(matches!(import(&dir.path().join("none")), Err(Error::Read(..))));
    }
}
