//! `lucid-power`: when the power button is pressed, the service manager shuts the machine down.
//!
//! There is no logind in Lucid; this is the one thing that would be missed. It sleeps in `poll` until
//! a key event comes. Exit code 1: the input devices cannot be watched, or the service manager cannot
//! be told.

mod button;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use button::{Buttons, Error};

/// systemd starts `poweroff.target` on SIGRTMIN+4 (systemd(1), "Signals"). It counts from the C
/// library that it was built with, glibc, where SIGRTMIN is 34; musl, which this is built with, has 35.
const POWER_OFF: i32 = 34 + 4;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("lucid-power: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<std::convert::Infallible, Error> {
    let mut buttons = Buttons::find(Path::new("/dev/input"), Path::new("/sys/class/input"))?;
    eprintln!("lucid-power: {} power keys found", buttons.count());
    loop {
        if buttons.wait()? {
            eprintln!("lucid-power: the power key was pressed, powering off");
            power_off()?;
        }
    }
}

#[allow(unsafe_code)]
fn power_off() -> Result<(), Error> {
    // SAFETY: kill(2) takes two numbers and touches no memory of this process.
    if unsafe { libc::kill(1, POWER_OFF) } == 0 {
        Ok(())
    } else {
        Err(Error::Signal(io::Error::last_os_error()))
    }
}
