//! Runs a file system tool of the verified root and keeps the end of what it says.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Doing as _, Error};

/// How much of the output is kept.
const KEPT: usize = 2048;

/// How a tool ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// The end of its output.
    pub(crate) said: String,
}

/// Runs `program` with `arguments`; both its outputs are read. After `limit` it is killed and that
/// is an error.
pub(crate) fn run(program: &str, arguments: &[&str], limit: Duration) -> Result<Outcome, Error> {
    let name = || format!("{program} {}", arguments.join(" "));
    let (output, input) = pipe_with(PipeFlags::CLOEXEC).doing(|| format!("making a pipe for {program}"))?;
    let second = input.try_clone().doing(|| format!("making a pipe for {program}"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        .stdin(Stdio::null())
        .stdout(input)
        .stderr(second)
        .spawn()
        .doing(|| format!("starting {}", name()))?;
    // `Command` was a temporary: our ends of the pipe's input are closed, so the tool's end is its end.
    let deadline = Instant::now() + limit;
    let mut output = std::fs::File::from(output);
    let mut said: Vec<u8> = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let fd = output.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                child.kill().doing(|| format!("killing {}", name()))?;
                child.wait().doing(|| format!("waiting for {}", name()))?;
                let reason = format!("it did not end within {} s and was killed", limit.as_secs());
                return Err(Error::Tool { tool: name(), reason });
            }
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e).doing(|| format!("waiting for {}", name())),
        }
        let n = output.read(&mut buffer).doing(|| format!("reading the output of {}", name()))?;
        if n == 0 {
            break;
        }
        said.extend_from_slice(&buffer[..n]);
        if said.len() > KEPT {
            said.drain(..said.len() - KEPT);
        }
    }
    let status = child.wait().doing(|| format!("waiting for {}", name()))?;
    let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(Outcome { code: status.code(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_and_both_outputs_are_kept() {
        let got = run("/bin/sh", &["-c", "echo one; echo two >&2; exit 4"], Duration::from_secs(60)).unwrap();
        assert_eq!(got.code, Some(4));
        assert_eq!(got.said, "one two");
    }

    #[test]
    fn a_flood_of_output_is_cut_to_its_end() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; echo end";
        let got = run("/bin/sh", &["-c", script], Duration::from_secs(60)).unwrap();
        assert!(got.said.len() <= KEPT && got.said.ends_with(" end"));
    }

    #[test]
    fn a_tool_that_hangs_is_killed() {
        let error = run("/bin/sleep", &["1000"], Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = run("/nowhere/mke2fs", &["/dev/vda6"], Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("/nowhere/mke2fs /dev/vda6"), "{error}");
    }
}
