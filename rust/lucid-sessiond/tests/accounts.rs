//! Who is let in, and who may say so: accounts over the socket, over restarts, and from the file on the card.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use lucid_accounts::Second;
use lucid_ipc::{
    accounts::{
        Account, AddRequest, AdmitRequest, ExportRequest, File, KeyRequest, KnownRequest, LinkRequest,
        ListRequest, OfRequest, ReportRequest, Role, SetClosedRequest, SetPasswordRequest, SetRolesRequest,
        SetSecondRequest, accounts_client::AccountsClient, admission_client::AdmissionClient,
    },
    connect,
    tonic::{Code, Status, transport::Channel},
};
use lucid_sessiond::Options;
use support::*;

const PASSWORD: &str = "Quiet-Otter-58";
/// MD4 over "password" in UTF-16LE, and over "Password".
const NAMED: [&str; 2] = ["8846f7eaee8fb117ad06bdd830b7586c", "a4f49c406510bdcab6824ee7c30fd852"];

fn within<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONGEST, test).await.expect("it hangs") })
}

/// The two services at a socket.
struct Asks {
    people: AccountsClient<Channel>,
    host: AdmissionClient<Channel>,
}

impl Asks {
    async fn at(socket: &Path) -> Self {
        let channel = connect(socket).await.unwrap();
        Self { people: AccountsClient::new(channel.clone()), host: AdmissionClient::new(channel) }
    }

    async fn admit(&mut self, name: &str, typed: &str) -> Result<String, Status> {
        let (name, typed) = (name.to_owned(), typed.as_bytes().to_vec());
        let request = AdmitRequest { name, typed, client: "192.0.2.7:50000".to_owned() };
        Ok(self.host.admit(request).await?.into_inner().name)
    }

    async fn refused(&mut self, name: &str, typed: &str) -> String {
        let status = self.admit(name, typed).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        status.message().to_owned()
    }

    /// Names of those who may connect, and whether by NLA.
    async fn known(&mut self) -> Vec<(String, bool)> {
        let people = self.host.known(KnownRequest {}).await.unwrap().into_inner().people;
        people.into_iter().map(|person| (person.name, person.nt_hash.len() == 16)).collect()
    }

    async fn add(&mut self, name: &str, roles: &[Role]) -> Result<(), Status> {
        let roles = roles.iter().map(|role| (*role).into()).collect();
        self.people.add(AddRequest { name: name.to_owned(), roles }).await.map(drop)
    }

    async fn password(&mut self, name: &str, password: &str) -> Result<(), Status> {
        let request = SetPasswordRequest { name: name.to_owned(), password: password.as_bytes().to_vec() };
        self.people.set_password(request).await.map(drop)
    }

    async fn roles(&mut self, name: &str, roles: &[Role]) -> Result<(), Status> {
        let roles = roles.iter().map(|role| (*role).into()).collect();
        self.people.set_roles(SetRolesRequest { name: name.to_owned(), roles }).await.map(drop)
    }

    async fn list(&mut self) -> Vec<Account> {
        self.people.list(ListRequest {}).await.unwrap().into_inner().accounts
    }
}

fn of(name: &str) -> OfRequest {
    OfRequest { name: name.to_owned() }
}

fn named(dir: &Path, nt_hash: &str) -> Options {
    let file = dir.join("named.json");
    let text = format!(r#"{{"version":1,"accounts":[{{"user":"lucid","nt_hash":"{nt_hash}"}}]}}"#);
    fs::write(&file, text).unwrap();
    Options { accounts: Some(file), ..options(dir) }
}

/// Why it does not start.
async fn does_not_start(options: Options) -> String {
    lucid_sessiond::run(options, std::future::pending()).await.unwrap_err().to_string()
}

#[test]
fn who_is_named_on_the_card_is_an_owner_and_his_own_password_stays_until_another_is_named() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(named(dir.path(), NAMED[0])).await;
        let mut asks = Asks::at(&recorder.socket).await;
        assert_eq!(asks.known().await, [("lucid".to_owned(), true)]);
        assert_eq!(asks.admit("LUCID", "password").await.unwrap(), "lucid");
        let file = fs::metadata(dir.path().join("state/accounts.json")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        asks.password("lucid", PASSWORD).await.unwrap();
        recorder.stop().await;

        let recorder = Recorder::start(named(dir.path(), NAMED[0])).await;
        let mut asks = Asks::at(&recorder.socket).await;
        asks.refused("lucid", "password").await;
        asks.admit("lucid", PASSWORD).await.unwrap();
        recorder.stop().await;

        let recorder = Recorder::start(named(dir.path(), NAMED[1])).await;
        let mut asks = Asks::at(&recorder.socket).await;
        asks.refused("lucid", PASSWORD).await;
        asks.admit("lucid", "Password").await.unwrap();
        let lucid = asks.list().await.remove(0);
        assert_eq!(lucid.roles, [i32::from(Role::Operator), Role::Owner.into()]);
        recorder.stop().await;
    });
}

#[test]
fn roles_that_the_card_names_hold_and_who_is_named_no_more_has_that_password_no_more() {
    within(async {
        let dir = temp();
        let with = |others: &str| {
            let options = named(dir.path(), NAMED[0]);
            let file = options.accounts.as_ref().unwrap();
            let text = fs::read_to_string(file).unwrap().replace("}]", &format!("}}{others}]"));
            fs::write(file, text).unwrap();
            options
        };
        let bob = |roles: &str| format!(r#",{{"user":"bob","nt_hash":"{}","roles":[{roles}]}}"#, NAMED[1]);
        for (others, roles) in [
            (bob(r#""approver""#), vec![i32::from(Role::Approver)]),
            (bob(""), Vec::new()),
            (String::new(), Vec::new()),
        ] {
            let recorder = Recorder::start(with(&others)).await;
            let mut asks = Asks::at(&recorder.socket).await;
            let bob = asks.list().await.remove(0);
            assert_eq!((bob.name.as_str(), bob.has_password), ("bob", !others.is_empty()));
            assert_eq!(bob.roles, roles);
            if roles.is_empty() {
                asks.refused("bob", "Password").await;
            } else {
                asks.admit("bob", "Password").await.unwrap();
            }
            asks.admit("lucid", "password").await.unwrap();
            recorder.stop().await;
        }
    });
}

#[test]
fn files_that_are_not_as_they_must_be_are_refused_without_quoting_them_and_left_as_they_are() {
    within(async {
        for bad in [
            "",
            r#"{"version":1,"accounts":[{"user":"a","nt_hash":"s3cr3t"}]}"#,
            r#"{"version":2,"accounts":[]}"#,
        ] {
            let dir = temp();
            let options = named(dir.path(), NAMED[0]);
            fs::write(options.accounts.as_ref().unwrap(), bad).unwrap();
            let said = does_not_start(options).await;
            assert!(said.contains("named.json") && !said.contains("s3cr3t"), "{said}");
        }
        let dir = temp();
        let missing = dir.path().join("missing.json");
        let said = does_not_start(Options { accounts: Some(missing), ..options(dir.path()) }).await;
        assert!(said.contains("missing.json"), "{said}");
        let file = dir.path().join("state/accounts.json");
        fs::write(&file, "{}").unwrap();
        let said = does_not_start(options(dir.path())).await;
        assert!(said.contains("accounts.json"), "{said}");
        assert_eq!(fs::read(&file).unwrap(), b"{}");
    });
}

#[test]
fn failures_of_every_way_make_him_wait_also_after_a_restart_and_strangers_are_told_the_same() {
    within(async {
        let dir = temp();
        let wall = Wall::default();
        let start = || Recorder::start(with_wall(named(dir.path(), NAMED[0]), &wall));
        let recorder = start().await;
        let mut asks = Asks::at(&recorder.socket).await;
        let wrong = asks.refused("lucid", "wrong").await;
        assert_eq!(wrong, asks.refused("nobody", "password").await);
        assert_eq!(wrong, asks.refused("lucid", &"x".repeat(2000)).await, "too long to be one");
        for _ in 0..2 {
            asks.refused("lucid", "wrong").await;
            let report = ReportRequest { name: "Lucid".to_owned(), client: "192.0.2.7:50000".to_owned() };
            asks.host.report(report).await.unwrap();
        }
        let report = ReportRequest { name: "nobody".to_owned(), client: String::new() };
        asks.host.report(report).await.unwrap();
        assert_eq!(asks.known().await, [("lucid".to_owned(), false)], "NLA is not for who waits");
        recorder.stop().await;

        let recorder = start().await;
        let mut asks = Asks::at(&recorder.socket).await;
        assert_eq!(asks.list().await[0].failures, 5);
        // However long the restart took, it was not backwards.
        wall.jump(-500);
        let waits = asks.refused("lucid", "password").await;
        assert!(waits.contains("try again in"), "{waits}");
        wall.jump(3000);
        assert_eq!(asks.known().await, [("lucid".to_owned(), true)]);
        asks.refused("lucid", "wrong").await;
        assert_eq!(asks.list().await[0].waits_seconds, 2);
        asks.people.forgive(of("lucid")).await.unwrap();
        asks.admit("lucid", "password").await.unwrap();
        assert_eq!(asks.list().await[0].failures, 0);
        recorder.stop().await;
    });
}

#[test]
fn a_link_and_a_code_are_good_once_also_after_a_restart() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut asks = Asks::at(&recorder.socket).await;
        asks.add("ada", &[Role::Operator]).await.unwrap();
        let link = |name: &str, seconds| LinkRequest { name: name.to_owned(), seconds };
        let token = asks.people.link(link("ada", 900)).await.unwrap().into_inner().token;
        for seconds in [0, 31 * 24 * 3600] {
            let status = asks.people.link(link("ada", seconds)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        asks.admit("ada", &token).await.unwrap();
        asks.refused("ada", &token).await;

        asks.password("ada", PASSWORD).await.unwrap();
        let request = SetSecondRequest { name: "ada".to_owned(), remove: false };
        let uri = asks.people.set_second(request).await.unwrap().into_inner().uri;
        assert!(uri.starts_with("otpauth://totp/Lucid:ada?secret=") && !uri.contains(' '), "{uri}");
        assert_eq!(asks.known().await, [("ada".to_owned(), false)]);
        assert!(asks.refused("ada", PASSWORD).await.contains("code"));
        // What an authenticator would show: read from the file, which has the secret as the URI has it.
        let file = fs::read_to_string(dir.path().join("state/accounts.json")).unwrap();
        let second = &file[file.find(r#""second":{"#).unwrap() + 9..];
        let second: Second = serde_json::from_str(&second[..=second.find('}').unwrap()]).unwrap();
        let now = lucid_sessiond::system_clock()();
        let code = (0..1_000_000).map(|code| format!("{code:06}"));
        let code = code.into_iter().find(|code| second.clone().take(code, now)).unwrap();
        asks.admit("ada", &format!("{PASSWORD} {code}")).await.unwrap();
        recorder.stop().await;

        let recorder = Recorder::start(options(dir.path())).await;
        let mut asks = Asks::at(&recorder.socket).await;
        asks.refused("ada", &format!("{PASSWORD} {code}")).await;
        asks.refused("ada", &token).await;
        let remove = SetSecondRequest { name: "ada".to_owned(), remove: true };
        assert_eq!(asks.people.set_second(remove).await.unwrap().into_inner().uri, "");
        asks.admit("ada", PASSWORD).await.unwrap();
        recorder.stop().await;
    });
}

#[test]
fn only_who_has_a_role_for_it_and_is_not_closed_may_connect() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(options(dir.path())).await;
        let mut asks = Asks::at(&recorder.socket).await;
        asks.add("bob", &[Role::Observer]).await.unwrap();
        asks.password("bob", PASSWORD).await.unwrap();
        assert_eq!(asks.known().await, []);
        assert!(asks.refused("bob", PASSWORD).await.contains("no role"));
        for role in [Role::Approver, Role::Operator] {
            asks.roles("BOB", &[role]).await.unwrap();
            asks.admit("bob", PASSWORD).await.unwrap();
        }
        let closed = |closed| SetClosedRequest { name: "bob".to_owned(), closed };
        asks.people.set_closed(closed(true)).await.unwrap();
        assert_eq!(asks.known().await, []);
        let said = asks.refused("bob", PASSWORD).await;
        assert_eq!(said, asks.refused("nobody", PASSWORD).await);
        asks.people.set_closed(closed(false)).await.unwrap();
        asks.admit("bob", PASSWORD).await.unwrap();

        let code = |answer: Result<(), Status>| answer.unwrap_err().code();
        assert_eq!(code(asks.add("Bob", &[]).await), Code::AlreadyExists);
        assert_eq!(code(asks.add("eve", &[Role::Unspecified]).await), Code::InvalidArgument);
        assert_eq!(code(asks.add("a\nb", &[]).await), Code::InvalidArgument);
        assert_eq!(code(asks.password("bob", "short").await), Code::InvalidArgument);
        assert_eq!(code(asks.password("eve", PASSWORD).await), Code::NotFound);
        let key = |name: &str, key: &str| KeyRequest { name: name.to_owned(), key: key.to_owned() };
        let digits = "a".repeat(64);
        asks.people.add_key(key("bob", &digits)).await.unwrap();
        assert_eq!(asks.list().await[0].keys, std::slice::from_ref(&digits));
        asks.add("ada", &[Role::Operator]).await.unwrap();
        for (name, digits) in [("ada", &*digits), ("ada", "abc")] {
            let status = asks.people.add_key(key(name, digits)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{name} {digits}");
        }
        asks.people.remove_key(key("bob", &digits)).await.unwrap();
        let status = asks.people.remove_key(key("bob", &digits)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        recorder.stop().await;
    });
}

#[test]
fn what_was_exported_is_imported_whole_and_the_device_keeps_an_owner() {
    within(async {
        let dir = temp();
        let recorder = Recorder::start(named(dir.path(), NAMED[0])).await;
        let mut asks = Asks::at(&recorder.socket).await;
        asks.add("ada", &[Role::Operator]).await.unwrap();
        asks.password("ada", PASSWORD).await.unwrap();
        let file = asks.people.export(ExportRequest {}).await.unwrap().into_inner().file;
        asks.people.remove(of("ada")).await.unwrap();
        asks.refused("ada", PASSWORD).await;
        asks.people.import(File { file: file.clone() }).await.unwrap();
        asks.admit("ada", PASSWORD).await.unwrap();

        let last =
            |answer: Result<(), Status>| assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        last(asks.people.remove(of("lucid")).await.map(drop));
        last(asks.roles("lucid", &[Role::Operator]).await);
        let closed = SetClosedRequest { name: "lucid".to_owned(), closed: true };
        last(asks.people.set_closed(closed).await.map(drop));
        let without = String::from_utf8(file).unwrap().replace(r#""operator","owner""#, r#""operator""#);
        for bad in [without.into_bytes(), b"{}".to_vec(), b" ".repeat((256 << 10) + 1)] {
            let status = asks.people.import(File { file: bad }).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        assert_eq!(asks.known().await.len(), 2);
        recorder.stop().await;
    });
}

/// What the RDP host's user gets to hear; another process, because this one is root.
#[test]
#[ignore = "the test below runs it as another user"]
fn asked_by_a_member_of_the_group() {
    let socket = std::env::var_os("LUCID_TEST_SOCKET").unwrap();
    within(async {
        let mut asks = Asks::at(Path::new(&socket)).await;
        assert_eq!(asks.known().await, [("lucid".to_owned(), true)]);
        asks.admit("lucid", "password").await.unwrap();
        asks.host.report(ReportRequest { name: "nobody".to_owned(), client: String::new() }).await.unwrap();
        let denied = |status: Status| assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        denied(asks.add("eve", &[Role::Owner]).await.unwrap_err());
        denied(asks.password("lucid", PASSWORD).await.unwrap_err());
        denied(asks.people.list(ListRequest {}).await.unwrap_err());
        denied(asks.people.export(ExportRequest {}).await.unwrap_err());
        denied(asks.people.import(File::default()).await.unwrap_err());
        denied(asks.people.link(LinkRequest { name: "lucid".to_owned(), seconds: 60 }).await.unwrap_err());
        denied(asks.people.forgive(of("lucid")).await.unwrap_err());
        let mut recordings = recordings(Path::new(&socket)).await;
        denied(recordings.list(lucid_ipc::session::ListRequest {}).await.unwrap_err());
        denied(recordings.test(lucid_ipc::session::TestRequest {}).await.unwrap_err());
        // It records, as before.
        Caller::begin(Path::new(&socket), "lucid", "").await.unwrap().end().await;
    });
}

#[test]
fn the_rdp_host_has_people_let_in_and_recorded_and_may_nothing_that_is_for_people() {
    const NOBODY: u32 = 65534;
    const GROUP: u32 = 4242;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root, to ask as another user");
        return;
    }
    within(async {
        let dir = temp();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let recorder = Recorder::start(Options { group: Some(GROUP), ..named(dir.path(), NAMED[0]) }).await;
        // Where that user may read it.
        let program = dir.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut asked = Command::new(&program);
        asked.args(["--exact", "asked_by_a_member_of_the_group", "--ignored", "--test-threads=1"]);
        asked.env("LUCID_TEST_SOCKET", &recorder.socket).current_dir("/").uid(NOBODY).gid(GROUP);
        let asked = tokio::task::spawn_blocking(move || asked.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        assert!(asked.status.success() && said.contains("1 passed"), "{said}");
        recorder.stop().await;
    });
}
