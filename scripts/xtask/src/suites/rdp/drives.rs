//! Drives that a real client shares, as a folder in the desktop, on this machine. Programs of the desktop are played by
//! programs that go through its own view of the file system.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{Mode, Target};
use crate::{
    client::{Client, Generation, Login},
    error::{At, Error, Result},
    machine, policy,
    progress::{Answer, Background, ask, ask_well},
    suite::Report,
};

/// The folder, in the desktop's home.
pub(in crate::suites) const FOLDER: &str = "Client";
/// What the client calls its drive.
const DRIVE: &str = "papers";
/// In bytes: around what is carried at once (128 KiB) and what the kernel reads ahead.
const SIZES: [usize; 8] = [0, 1, 4096, 131_071, 131_072, 131_073, 1_000_003, 64 << 20];
/// A file that takes a while, in bytes.
const LARGE: u64 = 4 << 30;
/// A program that a signal wants goes at once, though nobody answers; a drive that does not answer is given up after
/// 20 s.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Names that may be spoilt, with what is in the files.
const NAMES: [(&str, &str); 7] = [
    ("one byte", "x"),
    ("Grüße, naïve Ångström.txt", "ä"),
    ("漢字 かな 한국어.txt", "字"),
    ("שלום عالم", "ש"),
    ("👩‍👩‍👧‍👦 𝔘", "𝔘"),
    ("sign # % %41 ; = & ' + ? *", "%"),
    ("a folder/in a folder/deep ไทย.txt", "deep"),
];

static CLIENTS: [Mode; 2] = [
    Mode {
        client: Generation::Two,
        security: "tls",
        codec: "drives",
        options: &[],
        tolerance: 2,
        size: (800, 600),
    },
    Mode {
        client: Generation::Three,
        security: "nla",
        codec: "drives",
        options: &[],
        tolerance: 2,
        size: (800, 600),
    },
];

/// What the checks stand on: a service with some ways open, and a client that shares a folder.
struct Setting<'a> {
    target: &'a Target<'a>,
    mode: &'a Mode,
    login: Login,
    home: PathBuf,
    dir: PathBuf,
    /// What the client shares.
    shared: PathBuf,
    rdp: Background,
    client: Client,
}

impl<'a> Setting<'a> {
    fn start(
        target: &'a Target<'a>,
        home: &Path,
        serve: &dyn Fn(u16, &Path) -> Command,
        mode: &'a Mode,
        ways: Option<&str>,
    ) -> Result<Self> {
        let interrupt = target.place.interrupt;
        let dir = target.dir(&format!("drives {} {}", mode.client.name(), ways.unwrap_or("closed")));
        let shared = dir.join("shared");
        fs::create_dir_all(&shared).at("making", &shared)?;
        // The folder is known by being the only one.
        interrupt.wait_for("the end of earlier desktops with drives", target.bound, || {
            Ok(folder(home).is_none().then_some(()))
        })?;
        let login = Login { port: machine::free_port()?, ..target.login.clone() };
        let policy = policy::write(&dir, &policy::table(ways.unwrap_or_default()))?;
        let mut command = serve(login.port, &policy);
        command.env("LUCID_LOG", "warn,lucid_rdp=info,lucid_rdp::drives=trace");
        let rdp = target.service(&command, login.port, &dir)?;
        let client = connect(target, &dir, mode, &login, &shared)?;
        Ok(Self { target, mode, login, home: home.to_owned(), dir, shared, rdp, client })
    }

    /// Waits until the drive is there, and gives it as the desktop's programs see it.
    fn drive(&self) -> Result<PathBuf> {
        let drive = || folder(&self.home).map(|folder| folder.join(DRIVE));
        self.target.place.interrupt.wait_for("the client's drive in the desktop", self.target.bound, || {
            let Some(drive) = drive() else { return Ok(None) };
            let there = ask(self.limited("ls").arg(&drive), b"")?.status.success();
            Ok(there.then_some(drive))
        })
    }

    /// A program that ends.
    fn limited(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args([&self.target.bound.as_secs().to_string(), program]);
        command
    }

    /// Runs a script, with `$1` the drive in the desktop and `$2` what the client shares.
    fn script(&self, doing: &str, script: &str) -> Result<Answer> {
        let mut command = self.limited("sh");
        let refused =
            r#"refused() { if "$@" 2> /dev/null; then echo "done, and should not be: $*"; exit 1; fi; }"#;
        command.args(["-euc", &format!("{refused}\n{script}"), "sh"]).arg(self.drive()?).arg(&self.shared);
        ask_well(doing, &mut command, b"")
    }

    /// Two folders hold the same, names and every byte.
    fn same(&self, one: &Path, other: &Path) -> Result<()> {
        let mut diff = self.limited("diff");
        diff.arg("-r").args([one, other]);
        ask_well("comparing what was copied", &mut diff, b"").map(drop)
    }
}

fn connect(target: &Target, dir: &Path, mode: &Mode, login: &Login, shared: &Path) -> Result<Client> {
    let drive = format!("/drive:{DRIVE},{}", shared.display());
    let mut client = Client::start(target.place, dir, mode, login, &[&drive])?;
    client.wait_desktop(target.bound, target.place.interrupt)?;
    Ok(client)
}

/// The folder in a desktop, through a process that sees it.
pub(in crate::suites) fn folder(home: &Path) -> Option<PathBuf> {
    let folder = home.join(FOLDER);
    let mark = format!(" {} fuse.client ", folder.display());
    let mut processes: Vec<u32> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    // The oldest stay longest.
    processes.sort_unstable();
    let sees = |id: &u32| {
        // A process may be gone between the two looks.
        fs::read_to_string(format!("/proc/{id}/mounts")).is_ok_and(|mounts| mounts.contains(&mark))
            && fs::read_link(format!("/proc/{id}/root")).is_ok()
    };
    let process = processes.into_iter().find(sees)?;
    Some(PathBuf::from(format!("/proc/{process}/root")).join(folder.strip_prefix("/").ok()?))
}

/// A folder with all the names.
fn tree(top: &Path) -> Result<()> {
    for (name, content) in NAMES {
        let path = top.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("making", parent)?;
        }
        fs::write(&path, content).at("writing", &path)?;
    }
    let empty = top.join("empty folder");
    fs::create_dir_all(&empty).at("making", &empty)
}

/// Whether this machine has what the folder needs.
pub(in crate::suites) fn possible() -> Result<()> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "sh", "-c", "exec 3<>/dev/fuse"]);
    let answer = ask(&mut unshare, b"")?;
    if answer.status.success() {
        return Ok(());
    }
    let why = answer.err.trim();
    Err(Error::CannotCheck(format!("this machine gives no user namespace, or no /dev/fuse in one: {why}")))
}

/// Runs the checks.
pub(super) fn check(
    target: &Target,
    home: &Path,
    serve: &dyn Fn(u16, &Path) -> Command,
    report: &mut Report,
) -> Result<()> {
    let name = format!("{}, drives", target.name);
    if !report.wants(&name) {
        return Ok(());
    }
    let can = || possible().map(|()| "");
    if !report.check(format!("{name}: this machine has what they need"), can) || possible().is_err() {
        return target.place.interrupt.check();
    }
    for mode in &CLIENTS {
        let name = format!("{name}, {}", mode.client.name());
        let started = report.obtain(
            format!("{name}: a session with a shared folder"),
            |_: &Setting| String::new(),
            || Setting::start(target, home, serve, mode, Some("drives-write")),
        );
        if let Some(setting) = started {
            with_setting(&name, setting, report);
        }
        target.place.interrupt.check()?;
    }
    report.check(format!("{name}: with only reading open, nothing of the client's is changed"), || {
        let setting = Setting::start(target, home, serve, &CLIENTS[0], Some("drives"))?;
        only_read(&setting)
    });
    report.check(format!("{name}: without the gate there is no folder and no channel"), || {
        let setting = Setting::start(target, home, serve, &CLIENTS[0], None)?;
        if folder(home).is_some() {
            return Err(Error::broken("a folder is mounted"));
        }
        // A channel that was not joined is not spoken on.
        let log = setting.rdp.output()?;
        if log.contains("shares a drive") {
            Err(Error::broken("the client's drive was taken"))
        } else {
            Ok("")
        }
    });
    target.place.interrupt.check()
}

fn with_setting(name: &str, mut setting: Setting, report: &mut Report) {
    report.check(format!("{name}: names in many scripts cross both ways"), || {
        let (there, back) = (setting.shared.join("Ordner 漢字"), setting.dir.join("back"));
        tree(&there)?;
        let drive = setting.drive()?;
        setting.same(&there, &drive.join("Ordner 漢字"))?;
        tree(&back)?;
        let mut copy = setting.limited("cp");
        ask_well("copying to the client", copy.arg("-r").arg(&back).arg(&drive), b"")?;
        setting.same(&back, &setting.shared.join("back"))?;
        Ok("")
    });
    report.check(format!("{name}: files of 0 bytes to 64 MiB cross both ways with the same hash"), || {
        let mut figures = Vec::new();
        for size in SIZES {
            let script = r#"head -c "$SIZE" /dev/urandom > "$2/$SIZE"; sha256sum < "$2/$SIZE""#;
            let script = format!("SIZE={size}; {script}");
            let hash = setting.script("making a file", &script)?.text();
            let begin = Instant::now();
            let read =
                setting.script("reading from the client", &format!(r#"sha256sum < "$1/{size}""#))?.text();
            let reading = begin.elapsed().as_secs_f64();
            // From somewhere else than the page cache.
            let begin = Instant::now();
            let write = format!(r#"cat "$2/{size}" > "$1/{size} written""#);
            setting.script("writing to the client", &write)?;
            let writing = begin.elapsed().as_secs_f64();
            let written = format!(r#"sha256sum < "$2/{size} written""#);
            let written = setting.script("reading what was written", &written)?.text();
            if hash != read || hash != written {
                return Err(Error::broken(format!(
                    "{size} bytes: {hash} was read as {read}, written as {written}"
                )));
            }
            if size == SIZES[SIZES.len() - 1] {
                let speed = |seconds: f64| size as f64 / 1e6 / seconds;
                figures.push(format!("{:.0} MB/s to read, {:.0} to write", speed(reading), speed(writing)));
            }
        }
        Ok(figures.concat())
    });
    report.check(format!("{name}: made, appended, cut, dated, renamed, replaced and removed"), || {
        setting
            .script(
                "changing files of the client",
                r#"
                mkdir "$1/d"; printf one > "$1/d/a"; test "$(cat "$2/d/a")" = one
                printf two >> "$1/d/a"; test "$(cat "$2/d/a")" = onetwo
                truncate -s 4 "$1/d/a"; test "$(cat "$2/d/a")" = onet
                truncate -s 70000 "$1/d/a"; test "$(stat -c %s "$2/d/a")" = 70000
                touch -d '2001-02-03 04:05:06 UTC' "$1/d/a"; test "$(stat -c %Y "$2/d/a")" = 981173106
                mv "$1/d/a" "$1/d/б 👩"; test -e "$2/d/б 👩"; test ! -e "$2/d/a"
                printf new > "$1/d/c"; mv "$1/d/c" "$1/d/б 👩"; test "$(cat "$2/d/б 👩")" = new
                refused rmdir "$1/d"; test -e "$2/d/б 👩"
                mv "$1/d" "$1/verschoben"; test "$(cat "$1/verschoben/б 👩")" = new
                rm "$1/verschoben/б 👩"; rmdir "$1/verschoben"; test ! -e "$2/verschoben"
                mkdir -p "$2/tree/in"; echo x > "$2/tree/in/x"; cp -a "$1/tree" "$1/again"; diff -r "$2/tree" "$2/again"
                refused cat "$1/nothing"
                for bad in 'a\b' 'a:b' nul '.. '; do refused touch "$1/$bad"; test ! -e "$2/$bad"; done
                refused mkdir "$1/../new"
                "#,
            )
            .map(|_| "")
    });
    report.check(
        format!("{name}: a client that does not answer holds no program that a signal wants"),
        || {
            let drive = setting.drive()?;
            let large = setting.shared.join("large");
            fs::File::create(&large).and_then(|file| file.set_len(LARGE)).at("making", &large)?;
            signal(&setting.client, "STOP")?;
            let begin = Instant::now();
            let mut cat = Command::new("timeout");
            cat.args(["--signal=KILL", "1", "cat"]).arg(drive.join("large"));
            let answer = ask(&mut cat, b"");
            let spent = begin.elapsed();
            signal(&setting.client, "CONT")?;
            if answer?.status.success() || spent > AT_ONCE {
                return Err(Error::broken(format!("the program ended after {:.1} s", spent.as_secs_f64())));
            }
            // And it goes on when the client does.
            setting.script("looking at the drive again", r#"ls "$1" > /dev/null"#)?;
            Ok(format!("{:.1} s", spent.as_secs_f64()))
        },
    );
    report.check(
        format!("{name}: a copy ends when its client goes, and the next client has its drive there"),
        || {
            let drive = setting.drive()?;
            let copied = setting.dir.join("copied");
            let mut copy = Command::new("cp");
            copy.arg(drive.join("large")).arg(&copied);
            let mut copy = Background::start(&copy, &setting.dir.join("copy.log"))?;
            let interrupt = setting.target.place.interrupt;
            interrupt.wait_for("the copy to be under way", setting.target.bound, || {
                Ok(fs::metadata(&copied).is_ok_and(|file| file.len() > 1 << 20).then_some(()))
            })?;
            let begin = Instant::now();
            setting.client.kill();
            let status = interrupt.wait_for("the end of the copy", setting.target.bound, || copy.ended())?;
            let spent = begin.elapsed();
            fs::remove_file(&copied).at("removing", &copied)?;
            if status.success() || spent > AT_ONCE {
                let seconds = spent.as_secs_f64();
                return Err(Error::broken(format!("it ended {seconds:.1} s after its client, {status}")));
            }
            interrupt.wait_for("an empty folder", setting.target.bound, || {
                let Some(folder) = folder(&setting.home) else { return Ok(None) };
                Ok(ask_well("listing", setting.limited("ls").arg(folder), b"")?
                    .text()
                    .is_empty()
                    .then_some(()))
            })?;
            let Setting { target, mode, ref login, ref dir, ref shared, .. } = setting;
            setting.client = connect(target, dir, mode, login, shared)?;
            let there = setting.script("reading from the next client", r#"sha256sum < "$1/1""#)?.text();
            let here = setting.script("reading what it shares", r#"sha256sum < "$2/1""#)?.text();
            if there == here { Ok("") } else { Err(Error::broken("the next client's file is another one")) }
        },
    );
    report.check(format!("{name}: no name of a file stands in the log"), || {
        let log = setting.rdp.output()?;
        let mut names = NAMES.iter().map(|(name, _)| *name).chain(["Ordner", DRIVE, "verschoben"]);
        names
            .find(|name| log.contains(name))
            .map_or(Ok(""), |name| Err(Error::broken(format!("{name:?} stands in the log"))))
    });
}

/// Stops the client, or lets it go on.
fn signal(client: &Client, signal: &str) -> Result<()> {
    let mut kill = Command::new("kill");
    ask_well("stopping the client for a while", kill.args(["-s", signal, &client.id().to_string()]), b"")
        .map(drop)
}

fn only_read(setting: &Setting) -> Result<String> {
    let file = setting.shared.join("file");
    fs::write(&file, "as it is").at("writing", &file)?;
    setting.script(
        "trying to change files of the client",
        r#"
        test "$(cat "$1/file")" = 'as it is'
        refused sh -c 'echo x > "$1/file"' sh "$1"
        refused sh -c 'echo x >> "$1/file"' sh "$1"
        refused touch "$1/new"
        refused mkdir "$1/new"
        refused mv "$1/file" "$1/new"
        refused rm -f "$1/file"
        refused truncate -s 0 "$1/file"
        refused touch -d 2001-01-01 "$1/file"
        refused chmod a-w "$1/file"
        test "$(ls "$2")" = file; test "$(cat "$2/file")" = 'as it is'
        "#,
    )?;
    Ok(String::new())
}
