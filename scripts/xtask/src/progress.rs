//! Other programs: long steps with a log and their elapsed time, short ones whose answer is wanted,
//! and those that run beside us until they are dropped.

use std::{
    fs::{self, File, OpenOptions},
    io::{IsTerminal, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::error::{At, Error, Result};

/// How often waits look again.
const LOOK: Duration = Duration::from_millis(50);
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

/// Runs a short program, with `input` on its standard input, and gives what it said, however it ended.
pub(crate) fn ask(command: &mut Command, input: &[u8]) -> Result<Answer> {
    let name = program(command);
    let start = |source| Error::Start { program: name.clone(), source };
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(start)?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        // A program that does not read its input closes it: its own status says how it went.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        child.wait_with_output()
    })
    .map_err(|error| Error::talk(name.clone(), error))?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Answer { status: output.status, out: output.stdout, err })
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
            // Gone in between is as good.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
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
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
}
