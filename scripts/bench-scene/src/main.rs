//! Shows the scene that remote desktops are measured with, full screen, on the desktop that it finds.
//! Keys 1 to 4 choose what goes on, H holds it, A writes a letter, B inverts everything.

mod picture;
mod wayland;
mod x11;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

pub use picture::{Area, Key, Picture, Work};

/// What goes wrong ends the program; there is nothing to be rescued.
type Failure = Box<dyn std::error::Error>;

/// Shows the scene that remote desktops are measured and compared with. On Wayland when WAYLAND_DISPLAY is set, else on X11.
#[derive(Parser)]
struct Arguments {
    /// Which desktop to use, instead of looking at the environment.
    #[arg(long, value_parser = ["x11", "wayland"])]
    on: Option<String>,
    /// Shows nothing, and writes a PPM of a frame of a work instead: for comparing it with what a client shows.
    #[arg(long, value_name = "FILE", requires_all = ["work", "frame", "size"])]
    write: Option<PathBuf>,
    /// The work.
    #[arg(long, value_enum, requires = "write")]
    work: Option<Work>,
    /// The number of its frame, when nothing went on before it.
    #[arg(long, requires = "write")]
    frame: Option<usize>,
    /// Width and height in pixels, as 1280x720.
    #[arg(long, requires = "write", value_parser = size)]
    size: Option<(usize, usize)>,
}

/// Reads a width and a height that the scene can have.
fn size(text: &str) -> Result<(usize, usize), String> {
    let (width, height) = text.split_once('x').ok_or("it is no WIDTHxHEIGHT")?;
    let side = |side: &str| match side.parse() {
        Ok(side @ 320..=8192) => Ok(side),
        _ => Err(format!("{side:?} is no number of pixels from 320 to 8192")),
    };
    Ok((side(width)?, side(height)?))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let (Some(file), Some(work), Some(frame), Some((width, height))) =
        (&arguments.write, arguments.work, arguments.frame, arguments.size)
    {
        let picture = Picture::at(width, height, work, frame);
        return match std::fs::write(file, picture.ppm()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench-scene: writing {}: {error}", file.display());
                ExitCode::FAILURE
            }
        };
    }
    let wayland = match arguments.on.as_deref() {
        Some(on) => on == "wayland",
        None => std::env::var_os("WAYLAND_DISPLAY").is_some(),
    };
    match if wayland { wayland::show() } else { x11::show() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "bench-scene: showing the scene on {}: {error}",
                if wayland { "Wayland" } else { "X11" }
            );
            ExitCode::FAILURE
        }
    }
}

/// When the next frame is due.
struct Clock {
    next: Instant,
}

impl Clock {
    fn new() -> Clock {
        Clock { next: Instant::now() }
    }

    /// How long until the next frame of this work; none when nothing moves.
    fn wait(&mut self, work: Work) -> Option<Duration> {
        let period = Duration::from_secs(1).checked_div(work.rate())?;
        let now = Instant::now();
        // After a pause frames are not made up for.
        if self.next + period < now {
            self.next = now;
        }
        Some(self.next.saturating_duration_since(now))
    }

    /// Whether a frame is due now; if so, it is taken as made.
    fn due(&mut self, work: Work) -> bool {
        let Some(period) = Duration::from_secs(1).checked_div(work.rate()) else { return false };
        let due = self.next <= Instant::now();
        if due {
            self.next += period;
        }
        due
    }
}

/// Sleeps until the connection can be read or the time has passed.
fn sleep(fd: impl std::os::fd::AsFd, wait: Option<Duration>) -> Result<bool, Failure> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let limit = wait
        .map(|wait| Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() });
    Ok(rustix::io::retry_on_intr(|| {
        rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], limit.as_ref())
    })? > 0)
}

/// Copies the changed rows into shared memory in which rows lie as in the picture.
fn store(
    memory: &std::os::fd::OwnedFd,
    at: u64,
    width: usize,
    pixels: &[u8],
    areas: &[Area],
) -> Result<(), Failure> {
    for area in areas {
        // Whole rows when it is nearly all of them: one call instead of hundreds.
        let (x, columns) = if area.width * 2 > width { (0, width) } else { (area.x, area.width) };
        if columns == width {
            let span = area.y * width * 4..(area.y + area.height) * width * 4;
            write_at(memory, pixels.get(span.clone()).unwrap_or_default(), at + span.start as u64)?;
            continue;
        }
        for y in area.y..area.y + area.height {
            let span = (y * width + x) * 4..(y * width + x + columns) * 4;
            write_at(memory, pixels.get(span.clone()).unwrap_or_default(), at + span.start as u64)?;
        }
    }
    Ok(())
}

fn write_at(memory: &std::os::fd::OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Failure> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(memory, bytes, at))?;
        if written == 0 {
            return Err("shared memory took nothing".into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        at += written as u64;
    }
    Ok(())
}
