//! Other programs: long steps with a log and their elapsed time, short ones whose answer is wanted,
//! and those that run beside us until they are dropped.

use std::{
    fs::{self, File, OpenOptions},
    io::{IsTerminal, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};

use crate::error::{At, Error, Result};

/// How often waits look again.
const LOOK: Duration = Duration::from_millis(50);
/// The longest that a program may take whose answer is waited for: so that a run comes to its end, and with it says why.
const LONGEST: Duration = Duration::from_secs(1800);
/// The longest until a program that was killed has gone, and until what it said is there.
const DYING: Duration = Duration::from_secs(5);
/// How many lines of a failed step's log are shown.
const TAIL: usize = 40;

/// Set by Ctrl-C, SIGTERM and SIGHUP.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the signals that end a program. A second Ctrl-C ends it at once; what
    /// was started ends with it (see [`Background`]).
    pub(crate) fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
                .at("listening for the signals of", "/proc/self")?;
        }
        Ok(Self(flag))
    }

    /// One that never comes.
    pub(crate) fn never() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// Whether we were asked to end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once we were asked to end.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Asks `ready` again and again until it gives something, fails, or `bound` is over.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        bound: Duration,
        mut ready: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            self.check()?;
            if let Some(found) = ready()? {
                return Ok(found);
            }
            if start.elapsed() >= bound {
                return Err(Error::Late {
                    what: what.to_owned(),
                    seconds: bound.as_secs(),
                    details: String::new(),
                });
            }
            thread::sleep(LOOK);
        }
    }
}

/// Where logs and everything else that we make goes, and whether we were asked to end.
#[derive(Clone)]
pub(crate) struct Steps {
    /// Folder of the log files.
    pub(crate) logs: PathBuf,
    /// Ctrl-C.
    pub(crate) interrupt: Interrupt,
}

impl Steps {
    /// Runs a long step with its output in a log file: a live line on a terminal, otherwise one line
    /// at its start and one at its end. On failure the end of the log is shown.
    pub(crate) fn run(&self, name: &str, command: &mut Command) -> Result<Duration> {
        let log = self.log_path(name);
        fs::create_dir_all(&self.logs).at("making", &self.logs)?;
        let out = File::create(&log).at("making", &log)?;
        let err = out.try_clone().at("opening", &log)?;
        let start = Instant::now();
        let live = std::io::stderr().is_terminal();
        if !live {
            eprintln!("{name} ... (log: {})", log.display());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|source| Error::Start { program: program(command), source })?;
        let mut shown = u64::MAX;
        let status = loop {
            if let Some(status) = child.try_wait().at("waiting for the program of", &log)? {
                break status;
            }
            if self.interrupt.is_set() {
                end(&mut child);
                return Err(Error::Interrupted);
            }
            let seconds = start.elapsed().as_secs();
            if live && seconds != shown {
                shown = seconds;
                eprint!("\r\x1b[K{name} ... {seconds} s (log: {})", log.display());
            }
            thread::sleep(LOOK);
        };
        let spent = start.elapsed();
        if live {
            eprint!("\r\x1b[K");
        }
        // Ctrl-C reaches the programs of a step as well: it is no failure of theirs.
        self.interrupt.check()?;
        if !status.success() {
            return Err(Error::Program {
                doing: name.to_owned(),
                program: program(command),
                status: said(status),
                details: format!("; the end of {}:\n{}", log.display(), tail(&log)),
            });
        }
        eprintln!("{name}: {:.1} s", spent.as_secs_f64());
        Ok(spent)
    }

    /// The log file of a step.
    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        let file: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        self.logs.join(format!("{file}.log"))
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("(it cannot be read: {error})"),
    };
    last_lines(&text)
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("    {line}\n")).collect()
}

/// How a command is called in messages, without passwords.
pub(crate) fn program(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    // A client's password is nobody's who reads a log.
    let shown = |word: &std::ffi::OsStr| match word.to_string_lossy() {
        word if word.starts_with("/p:") => "/p:…".to_owned(),
        word => word.into_owned(),
    };
    let mut text = words.map(shown).collect::<Vec<_>>().join(" ");
    if text.len() > 300 {
        let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= 300).last().unwrap_or(0);
        text.truncate(cut);
        text.push_str(" …");
    }
    text
}

/// How a program ended, in words.
pub(crate) fn said(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with status {code}"),
        None => format!("was ended by a signal ({status})"),
    }
}

/// What a short program answered.
pub(crate) struct Answer {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) out: Vec<u8>,
    /// Its standard error.
    pub(crate) err: String,
}

impl Answer {
    /// Its standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// Runs a short program, with `input` on its standard input, and gives what it said, however it ended. One that does not end
/// within [`LONGEST`] is killed, which is an error.
pub(crate) fn ask(command: &mut Command, input: &[u8]) -> Result<Answer> {
    let name = program(command);
    let talk = |why: String| Error::talk(name.clone(), why);
    let start = |source| Error::Start { program: name.clone(), source };
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(start)?;
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_vec();
        // A program that does not read its input closes it: its own status says how it went.
        thread::spawn(move || pipe.write_all(&input));
    }
    let (out, err) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    if !ends_within(&mut child, LONGEST) {
        kill(&mut child);
        let seconds = LONGEST.as_secs();
        return Err(Error::Late { what: format!("the end of {name}"), seconds, details: String::new() });
    }
    let status = child.wait().map_err(|error| talk(error.to_string()))?;
    // What it started and left behind may hold its pipes.
    let collected = |pipe: mpsc::Receiver<std::io::Result<Vec<u8>>>| match pipe.recv_timeout(DYING) {
        Ok(read) => read.map_err(|error| talk(error.to_string())),
        Err(_) => Err(talk("it has ended, but something that it started keeps its output open".to_owned())),
    };
    Ok(Answer { status, out: collected(out)?, err: String::from_utf8_lossy(&collected(err)?).into_owned() })
}

/// All that comes from a pipe until it is closed, read beside.
fn read_all(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes));
        // Nobody waits for it any more when the program was killed.
        let _ = send.send(read.map(|_| bytes));
    });
    receive
}

/// Whether a program ends before so much time is over.
fn ends_within(child: &mut Child, bound: Duration) -> bool {
    let until = Instant::now() + bound;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(LOOK);
        }
        return true;
    };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Kills a program, and not what it has started. One that waits for a file system that does not answer dies only when that
/// does, and is not waited for.
fn kill(child: &mut Child) {
    // Gone in between is as good.
    let _ = child.kill();
    if ends_within(child, DYING) {
        let _ = child.wait();
    }
}

/// As [`ask`], but a failure of the program is an error.
pub(crate) fn ask_well(doing: &str, command: &mut Command, input: &[u8]) -> Result<Answer> {
    let answer = ask(command, input)?;
    if answer.status.success() {
        return Ok(answer);
    }
    let details = format!("{}{}", answer.text(), answer.err);
    Err(Error::Program {
        doing: doing.to_owned(),
        program: program(command),
        status: said(answer.status),
        details: if details.trim().is_empty() { String::new() } else { format!(": {}", details.trim()) },
    })
}

/// A program that runs beside us and ends with us: when it is dropped, and also when we die without
/// any chance to clean up (the kernel kills it then). It has a process group of its own, so that
/// Ctrl-C is ours alone to handle.
pub(crate) struct Background {
    child: Child,
    name: String,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

impl Background {
    /// Starts `command` with its output in `log`. Call it from a thread that lives as long as the program is to.
    pub(crate) fn start(command: &Command, log: &Path) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log).at("opening", log)?;
        let err = out.try_clone().at("opening", log)?;
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            guarded.current_dir(dir);
        }
        let child = guarded
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start { program: program(command), source })?;
        Ok(Self { child, name: program(command), log: log.to_owned() })
    }

    /// Its number, which is also that of the program it was asked to start.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| Error::talk(self.name.clone(), error))
    }

    /// An error when it is no longer there.
    pub(crate) fn must_run(&mut self, doing: &str) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(Error::Program {
                doing: doing.to_owned(),
                program: self.name.clone(),
                status: said(status),
                details: format!("; the end of {}:\n{}", self.log.display(), tail(&self.log)),
            }),
        }
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill(&mut self.child);
        }
    }

    /// Everything it has printed.
    pub(crate) fn output(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log).at("reading", &self.log)?).into_owned())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Asks a child to end, and kills it when it does not within two seconds.
fn end(child: &mut Child) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may be gone in between, which is what is wanted.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if ends_within(child, Duration::from_secs(2)) {
        let _ = child.wait();
    } else {
        kill(child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_program_gets_its_input_and_all_that_it_says_is_given() {
        let mut shell = Command::new("sh");
        let answer = ask(shell.args(["-c", "cat; echo wrong >&2; exit 3"]), &[b'x'; 300_000]).unwrap();
        assert_eq!(
            (answer.status.code(), answer.out.len(), answer.err.as_str()),
            (Some(3), 300_000, "wrong\n")
        );
        // One that reads nothing.
        assert!(ask(&mut Command::new("true"), &[b'x'; 300_000]).unwrap().status.success());
    }

    #[test]
    fn a_program_that_will_not_end_is_killed() {
        let mut child = Command::new("sh").args(["-c", "trap '' TERM; exec sleep 60"]).spawn().unwrap();
        assert!(!ends_within(&mut child, Duration::from_millis(100)));
        end(&mut child);
        assert!(matches!(child.try_wait(), Ok(Some(_))));
    }
}
