//! Copied files between a real client's X server and the desktop.
//!
//! FreeRDP 2 gives files and takes none. FreeRDP 3 shows the host's files to the client's programs in a FUSE file system.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use super::super::administration::has_notice;
use super::{Mode, Setting, Side, TEXT, Target};
use crate::{
    client::{Client, Generation},
    error::{At, Error, Result},
    progress::{Background, ask, ask_well},
    suite::Report,
};

/// The most that may cross in these checks, in bytes.
pub(super) const LIMIT: u64 = 3 << 30;
/// A file that takes a while, in bytes: with `--long` one of a GiB crosses each way once.
fn large_bytes(setting: &Setting) -> u64 {
    match setting.generation {
        Generation::Three if setting.target.long => 1 << 30,
        Generation::Three => 256 << 20,
        _ => 128 << 20,
    }
}
/// What a list of files is called.
pub(in crate::suites) const LIST: &str = "text/uri-list";
const FETCHES: &str = "the client's files are fetched";
const GIVEN_UP: &str = "nobody waits for the client's files any more";
const REFUSED: &str = "are larger than the clipboard's limit of";
const STOPPED: &str = "the user has stopped the fetch of the client's files";

/// Names that may be spoilt, with what is in the files.
const NAMES: [(&str, &str); 8] = [
    ("one byte", "x"),
    ("empty", ""),
    ("Grüße, naïve Ångström.txt", "ä"),
    ("漢字 かな 한국어.txt", "字"),
    ("שלום عالم", "ש"),
    ("👩‍👩‍👧‍👦 𝔘", "𝔘"),
    ("sign # % %41 ; = & ' +", "%"),
    ("folder/in a folder/deep.txt", "deep"),
];

/// Makes what is copied: a folder with all the names that a client takes. FreeRDP 3 looks for folders under their
/// names in the URI as they stand there, and decodes the names of the files in them once too often.
fn tree(dir: &Path, from: Side, client: Generation, number: usize) -> Result<PathBuf> {
    let decodes_wrongly = from == Side::Client && client == Generation::Three;
    // One that was copied before has another name: FreeRDP tells of a new owner a little later, and until then it gives what
    // is about to go.
    let top = dir.join(format!("{}-{number}", if decodes_wrongly { "plain" } else { "Ordner 漢字" }));
    for (name, content) in NAMES {
        if decodes_wrongly && name.contains('%') {
            continue;
        }
        let path = top.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("making", parent)?;
        }
        fs::write(&path, content).at("writing", &path)?;
    }
    let empty = top.join("empty folder");
    fs::create_dir_all(&empty).at("making", &empty)?;
    Ok(top)
}

/// A file of random bytes.
fn large(dir: &Path, bytes: u64) -> Result<PathBuf> {
    let path = dir.join("large.bin");
    let mut command = Command::new("sh");
    command.args(["-c", r#"head -c "$1" /dev/urandom > "$2""#, "sh", &bytes.to_string()]).arg(&path);
    ask_well("making a large file", &mut command, b"")?;
    Ok(path)
}

/// A file that takes no room.
fn sparse(dir: &Path, bytes: u64) -> Result<PathBuf> {
    let path = dir.join("sparse.bin");
    let file = fs::File::create(&path).at("making", &path)?;
    file.set_len(bytes).at("making", &path)?;
    Ok(path)
}

/// The list of files as it is copied.
pub(in crate::suites) fn list(paths: &[&Path]) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        list.extend(b"file://");
        for byte in path.as_os_str().as_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    list.push(*byte)
                }
                _ => list.extend(format!("%{byte:02X}").bytes()),
            }
        }
        list.extend(b"\r\n");
    }
    list
}

/// The files of such a list.
fn paths(list: &[u8]) -> Result<Vec<PathBuf>> {
    let text = String::from_utf8_lossy(list);
    let lines = text.lines().map(|line| line.trim_end_matches(['\r', '\0'])).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let path =
                line.strip_prefix("file://").ok_or_else(|| Error::broken(format!("{line:?} was pasted")))?;
            let mut bytes = Vec::new();
            let mut rest = path.as_bytes();
            while let Some((byte, after)) = rest.split_first() {
                let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *byte == b'%') {
                    Some(decoded) => {
                        bytes.push(decoded);
                        rest = after.get(2..).unwrap_or_default();
                    }
                    None => {
                        bytes.push(*byte);
                        rest = after;
                    }
                }
            }
            Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)))
        })
        .collect()
}

/// Keeps FreeRDP 3 on one processor. It forgets a request of its file system now and then, whose reader then waits for ever
/// (3.15, and unchanged since): when an answer has come it strikes the request from a table without the lock, while the next
/// one, which that answer set off, is entered on another processor (client/common/client_cliprdr_file.c,
/// cliprdr_file_context_server_file_contents_response).
fn on_one_processor(client: &Client) -> Result<()> {
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--pid", "--cpu-list", "0", &client.id().to_string()]);
    ask_well("keeping the client on one processor", &mut taskset, b"").map(drop)
}

/// Bytes of the files in a folder, those of its folders too.
fn bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).at("listing", folder)? {
        let path = entry.at("listing", folder)?.path();
        let about = path.symlink_metadata().at("looking at", &path)?;
        bytes += if about.is_dir() { self::bytes(&path)? } else { about.len() };
    }
    Ok(bytes)
}

/// Whether both hold the same, names and every byte. What was pasted is copied first, as users do: who reads FreeRDP 3's
/// file system in small pieces asks the client tens of thousands of times. It is not waited for without end, since
/// nothing ends who waits for a file system that does not answer.
fn same(copied: &Path, pasted: &Path, setting: &Setting) -> Result<()> {
    let read = setting.dir.join("read");
    if read.exists() {
        fs::remove_dir_all(&read).at("emptying", &read)?;
    }
    fs::create_dir(&read).at("making", &read)?;
    let mut copy = Command::new("cp");
    copy.arg("-r").args([pasted, &read]);
    let mut copy = Background::start(&copy, &setting.dir.join("copying.log"))?;
    // A machine that does other things too takes its time; what stands still does not go on.
    let mut so_far = 0;
    let status = loop {
        let what = format!("the end of copying what was pasted, or a byte more than {so_far},");
        let ended = setting.target.place.interrupt.wait_for(&what, setting.target.bound, || {
            let ended = copy.ended()?;
            let now = bytes(&read)?;
            Ok((ended.is_some() || std::mem::replace(&mut so_far, now) < now).then_some(ended))
        })?;
        if let Some(status) = ended {
            break status;
        }
    };
    if !status.success() {
        return Err(Error::broken(format!("copying what was pasted: {}", copy.output()?)));
    }
    let read = read.join(pasted.file_name().unwrap_or_default());
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference"]).args([copied, &read]);
    ask_well("comparing what was copied with what was pasted", &mut diff, b"").map(drop)
}

impl Setting<'_> {
    fn tree_crosses(&mut self, from: Side) -> Result<String> {
        let tree = tree(&self.dir, from, self.generation, self.count)?;
        self.file_crosses(from, &tree)
    }

    /// Pastes the files that `from` has copied until it is these: FreeRDP tells of a new owner a little later.
    fn paste_files(&self, from: Side, copied: &[&Path]) -> Result<Vec<PathBuf>> {
        self.target
            .place
            .interrupt
            .wait_for("the files on the other side", self.target.bound, || self.pasted_files(from, copied))
    }

    /// Pastes what `from` has copied, if it is these files.
    fn pasted_files(&self, from: Side, copied: &[&Path]) -> Result<Option<Vec<PathBuf>>> {
        let pasted = paths(&self.paste(from.other(), LIST)?)?;
        let same = pasted.len() == copied.len()
            && pasted.iter().zip(copied).all(|(p, c)| p != c && p.file_name() == c.file_name());
        Ok(same.then_some(pasted))
    }

    /// Copies a file or folder on one side, pastes it on the other and compares.
    fn file_crosses(&mut self, from: Side, path: &Path) -> Result<String> {
        let (mut looks, mut begin) = (0, Instant::now());
        let interrupt = self.target.place.interrupt;
        let pasted = interrupt.wait_for("the file on the other side", self.target.bound, || {
            // Of two copies in a row FreeRDP 3 announces nothing, until there is another.
            if looks % 20 == 0 {
                self.copy(from, LIST, &list(&[path]))?;
                self.wait_offered(from, LIST)?;
            }
            looks += 1;
            begin = Instant::now();
            self.pasted_files(from, &[path])
        })?;
        let [pasted] = &pasted[..] else { return Err(Error::broken("no file was pasted")) };
        same(path, pasted, self)?;
        let seconds = begin.elapsed().as_secs_f64();
        let bytes = fs::metadata(path).at("looking at", path)?.len();
        if bytes < large_bytes(self) {
            return Ok(String::new());
        }
        Ok(format!("{bytes} bytes, {:.0} MB/s with a copy and the comparison", bytes as f64 / 1e6 / seconds))
    }
}

/// Runs the checks.
pub(super) fn check(
    name: &str,
    target: &Target,
    runtime: &Path,
    serve: &dyn Fn(u16, &Path) -> Command,
    mode: &Mode,
    report: &mut Report,
) -> Result<()> {
    let name = format!("{name}, files");
    let started = report.obtain(
        format!("{name}: a session with files open both ways"),
        |_: &Setting| String::new(),
        || {
            let ways = "clipboard-files-to-desktop,clipboard-files-to-client";
            Setting::start(target, runtime, serve, mode, ways)
        },
    );
    if let Some(mut setting) = started {
        if mode.client == Generation::Three {
            on_one_processor(&setting.client)?;
        }
        to_desktop(&name, &mut setting, report);
        if mode.client == Generation::Three {
            to_client(&name, &mut setting, report);
        }
        report.check(format!("{name}: no name of a file stands in the log"), || {
            let log = setting.rdp.output()?;
            let told = NAMES.iter().map(|(name, _)| *name).chain(["Ordner", "large.bin", "sparse.bin"]);
            let told = told.filter(|name| name.len() > 8).find(|name| log.contains(name));
            told.map_or(Ok(""), |name| Err(Error::broken(format!("{name:?} stands in the log"))))
        });
        setting.client.must_run()?;
    }
    report.check(format!("{name}: with only text open, files are not offered"), || {
        let ways = "clipboard-to-desktop,clipboard-to-client";
        let mut setting = Setting::start(target, runtime, serve, mode, ways)?;
        let file = setting.dir.join("stays here");
        fs::write(&file, "x").at("writing", &file)?;
        for from in [Side::Client, Side::Desktop] {
            setting.copy(from, LIST, &list(&[&file]))?;
            // What is copied next shows that this has been seen. Two copies in a row make FreeRDP 3 announce nothing, until
            // there is another.
            let mut looks = 0;
            target.place.interrupt.wait_for("text that is copied next", target.bound, || {
                if looks % 20 == 0 {
                    setting.copy(from, TEXT, b"may pass")?;
                }
                looks += 1;
                Ok((setting.paste(from.other(), TEXT)? == b"may pass").then_some(()))
            })?;
            if setting.kinds(from.other())?.iter().any(|kind| kind == LIST) {
                return Err(Error::broken(format!("files of the {} are offered", from.name())));
            }
        }
        let fetches = setting.said(FETCHES)?;
        if fetches > 0 { Err(Error::broken("files were fetched")) } else { Ok("") }
    });
    target.place.interrupt.check()
}

fn to_desktop(name: &str, setting: &mut Setting, report: &mut Report) {
    let way = format!("{name}: client to desktop");
    let dir = setting.dir.clone();
    report.check(format!("{way}: nothing crosses before somebody pastes"), || {
        let file = dir.join("only when wanted");
        fs::write(&file, "x").at("writing", &file)?;
        setting.copy(Side::Client, LIST, &list(&[&file]))?;
        setting.wait_offered(Side::Client, LIST)?;
        let (offered, asked) = (setting.said(FETCHES)?, setting.said(super::ASKS_CLIENT)?);
        setting.paste_files(Side::Client, &[&file])?;
        let pasted = setting.said(FETCHES)?;
        if offered > 0 || asked > 0 || pasted == 0 {
            return Err(Error::broken(format!(
                "{offered} fetches and {asked} questions before, {pasted} after"
            )));
        }
        Ok("")
    });
    report
        .check(format!("{way}: a folder with names in many scripts"), || setting.tree_crosses(Side::Client));
    report.check(format!("{way}: several files at once, and each paste gives them"), || {
        let files = [dir.join("first"), dir.join("second"), dir.join("third")];
        for (at, file) in files.iter().enumerate() {
            fs::write(file, vec![at as u8; 700_000 * at]).at("writing", file)?;
        }
        let copied = files.each_ref().map(PathBuf::as_path);
        setting.copy(Side::Client, LIST, &list(&copied))?;
        setting.wait_offered(Side::Client, LIST)?;
        let pasted = setting.paste_files(Side::Client, &copied)?;
        for (copied, pasted) in files.iter().zip(&pasted) {
            same(copied, pasted, setting)?;
        }
        let fetches = setting.said(FETCHES)?;
        if setting.paste_files(Side::Client, &copied)? != pasted || setting.said(FETCHES)? != fetches {
            return Err(Error::broken("the second paste fetched them again"));
        }
        Ok("")
    });
    report.check(format!("{way}: a large file"), || {
        let file = large(&dir, large_bytes(setting))?;
        setting.file_crosses(Side::Client, &file)
    });
    report.check(format!("{way}: more than the limit is refused, and what comes next is not"), || {
        refused(setting, Side::Client, &sparse(&dir, LIMIT + 1)?)
    });
    report.check(format!("{way}: what takes long says how far it is, and a click there ends it"), || {
        let target = setting.target;
        target.place.interrupt.wait_for("that nothing is told any more", target.bound, || {
            Ok((!has_notice(&setting.client)?).then_some(()))
        })?;
        let file = sparse(&dir, LIMIT)?;
        setting.copy(Side::Client, LIST, &list(&[&file]))?;
        setting.wait_offered(Side::Client, LIST)?;
        let (before, stopped) = (kept(setting)?, setting.said(STOPPED)?);
        let mut paste = setting.command(Side::Desktop, "wl-paste", setting.target.bound)?;
        paste.args(["--type", LIST]);
        let (target, log) = (setting.target, dir.join("stopped.log"));
        let mut running = Background::start(&paste, &log)?;
        target.place.interrupt.wait_for("a notice on the desktop", target.bound, || {
            // What was copied before may still be what is pasted.
            if running.ended()?.is_some() {
                running = Background::start(&paste, &log)?;
            }
            setting.client.must_run()?;
            Ok(has_notice(&setting.client)?.then_some(()))
        })?;
        let screen = &setting.client.screen;
        let file = format!("progress-{}-{}.png", target.name, setting.generation.name());
        screen.picture()?.save(&target.screens.join(file))?;
        screen.click_at(setting.size.0 / 2, 30)?;
        target.place.interrupt.wait_for("the end of the paste and its notice", target.bound, || {
            let over = running.ended()?.is_some()
                && setting.said(STOPPED)? == stopped + 1
                && !has_notice(&setting.client)?
                && kept(setting)? == before;
            Ok(over.then_some(()))
        })?;
        if running.output()?.contains("file:") {
            return Err(Error::broken(format!("{:?} was pasted", running.output()?)));
        }
        setting.tree_crosses(Side::Client)
    });
    report.check(format!("{way}: a paste that is given up leaves nothing behind"), || {
        let file = sparse(&dir, LIMIT)?;
        setting.copy(Side::Client, LIST, &list(&[&file]))?;
        setting.wait_offered(Side::Client, LIST)?;
        let (before, given_up) = (kept(setting)?, setting.said(GIVEN_UP)?);
        // It ends all that belongs to the paste.
        let mut paste = setting.command(Side::Desktop, "true", setting.target.bound)?;
        paste = {
            let mut timeout = Command::new("timeout");
            timeout.args(["2", "wl-paste", "--type", LIST]);
            timeout.envs(paste.get_envs().filter_map(|(name, value)| Some((name, value?))));
            timeout
        };
        let target = setting.target;
        target.place.interrupt.wait_for("a paste that does not end by itself", target.bound, || {
            // What was copied before may still be what is pasted.
            Ok((ask(&mut paste, b"")?.status.code() == Some(124)).then_some(()))
        })?;
        let interrupt = setting.target.place.interrupt;
        interrupt.wait_for("the end of the fetch", setting.target.bound, || {
            Ok((setting.said(GIVEN_UP)? > given_up && kept(setting)? == before).then_some(()))
        })?;
        setting.tree_crosses(Side::Client)
    });
}

/// The folders with what the client copied, and how many bytes are in each.
fn kept(setting: &Setting) -> Result<Vec<(PathBuf, u64)>> {
    let home = setting.runtime.with_file_name("home").join(".cache/lucid-from-client");
    let mut du = Command::new("sh");
    du.args(["-c", r#"[ ! -d "$1" ] || du -sb "$1"/*/* 2>/dev/null; true"#, "sh"]).arg(&home);
    let text = ask_well("looking at what was pasted", &mut du, b"")?.text();
    let folders = text.lines().filter_map(|line| {
        let (bytes, path) = line.split_once('\t')?;
        // A folder itself has its 4096 as well.
        let own = fs::metadata(path).map_or(0, |data| data.len());
        Some((PathBuf::from(path), bytes.parse::<u64>().ok()?.saturating_sub(own)))
    });
    let mut folders: Vec<_> = folders.collect();
    folders.sort();
    Ok(folders)
}

fn refused(setting: &mut Setting, from: Side, file: &Path) -> Result<String> {
    let before = setting.said(REFUSED)?;
    setting.copy(from, LIST, &list(&[file]))?;
    setting.wait_offered(from, LIST)?;
    let interrupt = setting.target.place.interrupt;
    let refused = |setting: &Setting| Ok((setting.said(REFUSED)? > before).then_some(()));
    if from == Side::Desktop {
        // FreeRDP does not tell the program that there is nothing.
        let mut paste = setting.command(Side::Client, "xclip", setting.target.bound)?;
        paste.args(["-o", "-selection", "clipboard", "-t", LIST]);
        let log = setting.dir.join("refused.log");
        let mut running = Background::start(&paste, &log)?;
        interrupt.wait_for("the refusal in the log", setting.target.bound, || {
            // FreeRDP tells of a new owner a little later: what was pasted was copied before.
            if running.ended()?.is_some() {
                running = Background::start(&paste, &log)?;
            }
            refused(setting)
        })?;
    } else {
        interrupt.wait_for("the refusal in the log", setting.target.bound, || {
            // FreeRDP tells of a new owner a little later: what is pasted may be what was copied before.
            let pasted = paths(&setting.paste(from.other(), LIST)?)?;
            if pasted.iter().any(|path| path.file_name() == file.file_name()) {
                return Err(Error::broken(format!("{pasted:?} was pasted")));
            }
            refused(setting)
        })?;
    }
    setting.tree_crosses(from)
}

fn to_client(name: &str, setting: &mut Setting, report: &mut Report) {
    let way = format!("{name}: desktop to client");
    let dir = setting.dir.clone();
    if fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
        report.check(way, || {
            Err::<&str, _>(Error::CannotCheck(
                "/dev/fuse cannot be opened here, which FreeRDP 3 needs".into(),
            ))
        });
        return;
    }
    report
        .check(format!("{way}: a folder with names in many scripts"), || setting.tree_crosses(Side::Desktop));
    report.check(format!("{way}: symbolic links are left out"), || {
        let folder = dir.join("with a link");
        fs::create_dir_all(&folder).at("making", &folder)?;
        fs::write(folder.join("file"), "x").at("writing", &folder)?;
        let link = folder.join("link");
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink("/etc/hostname", &link).at("making", &link)?;
        }
        setting.copy(Side::Desktop, LIST, &list(&[&folder]))?;
        setting.wait_offered(Side::Desktop, LIST)?;
        let pasted = setting.paste_files(Side::Desktop, &[&folder])?;
        let mut ls = Command::new("timeout");
        ls.args(["30", "ls", "-A"]).args(&pasted);
        let names = ask(&mut ls, b"")?.text();
        if names.trim() == "file" { Ok("") } else { Err(Error::broken(format!("it holds {names:?}"))) }
    });
    report.check(format!("{way}: a large file"), || {
        let file = large(&dir, large_bytes(setting))?;
        setting.file_crosses(Side::Desktop, &file)
    });
    report.check(format!("{way}: more than the limit is refused, and what comes next is not"), || {
        refused(setting, Side::Desktop, &sparse(&dir, LIMIT + 1)?)
    });
    report.check(format!("{way}: what has become a link is not read"), || {
        let (folder, outside) = (dir.join("swapped"), dir.join("outside"));
        fs::create_dir_all(&folder).at("making", &folder)?;
        let file = folder.join("file");
        // The same length, so that only what is read can tell.
        let _ = fs::remove_file(&file);
        fs::write(&file, "public").at("writing", &file)?;
        fs::write(&outside, "secret").at("writing", &outside)?;
        setting.copy(Side::Desktop, LIST, &list(&[&folder]))?;
        setting.wait_offered(Side::Desktop, LIST)?;
        let pasted = setting.paste_files(Side::Desktop, &[&folder])?;
        fs::remove_file(&file).at("removing", &file)?;
        std::os::unix::fs::symlink(&outside, &file).at("making", &file)?;
        let [pasted] = &pasted[..] else { return Err(Error::broken("no file was pasted")) };
        let mut cat = Command::new("timeout");
        cat.args(["30", "cat"]).arg(pasted.join("file"));
        let read = ask(&mut cat, b"")?;
        if read.text().contains("secret") { Err(Error::broken("it was followed")) } else { Ok("") }
    });
}
