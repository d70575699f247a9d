//! Looks at a client's screen and presses its keys.
//!
//! The X server says when something was painted (DAMAGE), then the scene's marks alone are read.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use x11rb::connection::Connection as _;
use x11rb::protocol::Event;
use x11rb::protocol::damage::{ConnectionExt as _, ReportLevel};
use x11rb::protocol::xproto::{ConnectionExt as _, ImageFormat, KEY_PRESS_EVENT, KEY_RELEASE_EVENT};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

use crate::{
    error::{Error, Result},
    scene::{MARK, MARKS, Marks},
};

/// A client's screen.
pub(super) struct Probe {
    connection: RustConnection,
    root: u32,
    damage: u32,
}

fn failed(why: impl ToString) -> Error {
    Error::talk("the client's X server", why)
}

impl Probe {
    /// Connects to an X server, `:7` for example.
    pub(super) fn new(display: &str) -> Result<Self> {
        let (connection, number) = RustConnection::connect(Some(display)).map_err(failed)?;
        let root = connection.setup().roots.get(number).ok_or_else(|| failed("it has no screen"))?.root;
        connection.damage_query_version(1, 1).map_err(failed)?.reply().map_err(failed)?;
        let damage = connection.generate_id().map_err(failed)?;
        connection.damage_create(damage, root, ReportLevel::NON_EMPTY).map_err(failed)?;
        connection.flush().map_err(failed)?;
        Ok(Self { connection, root, damage })
    }

    /// Presses and releases a key.
    pub(super) fn press(&self, key: u8) -> Result<()> {
        for kind in [KEY_PRESS_EVENT, KEY_RELEASE_EVENT] {
            // X11 counts keys from 8 on.
            self.connection.xtest_fake_input(kind, key + 8, 0, self.root, 0, 0, 0).map_err(failed)?;
        }
        self.connection.flush().map_err(failed)
    }

    /// What the marks say now; nothing while they cannot be read as marks.
    pub(super) fn marks(&self) -> Result<Option<Marks>> {
        let (width, y) = ((MARK * MARKS) as u16, (MARK / 2) as i16);
        let image = self
            .connection
            .get_image(ImageFormat::Z_PIXMAP, self.root, 0, y, width, 1, u32::MAX)
            .map_err(failed)?
            .reply()
            .map_err(failed)?;
        let (pixels, _) = image.data.as_chunks::<4>();
        let mut middles = [[0; 3]; MARKS];
        for (mark, middle) in middles.iter_mut().enumerate() {
            let Some([b, g, r, _]) = pixels.get(mark * MARK + MARK / 2) else { return Ok(None) };
            *middle = [*r, *g, *b];
        }
        Ok(Marks::read(middles))
    }

    /// Sleeps until something was painted; whether it was before `deadline`.
    fn painted(&self, deadline: Instant) -> Result<bool> {
        loop {
            let mut damaged = false;
            while let Some(event) = self.connection.poll_for_event().map_err(failed)? {
                damaged |= matches!(event, Event::DamageNotify(_));
            }
            if damaged {
                self.connection.damage_subtract(self.damage, x11rb::NONE, x11rb::NONE).map_err(failed)?;
                return Ok(true);
            }
            self.connection.flush().map_err(failed)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let limit =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let stream = self.connection.stream();
            rustix::io::retry_on_intr(|| {
                rustix::event::poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit))
            })
            .map_err(failed)?;
        }
    }

    /// Waits until `wanted` says yes to the marks.
    pub(super) fn wait(&self, bound: Duration, wanted: impl Fn(Marks) -> bool) -> Result<Option<Marks>> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(marks) = self.marks()?
                && wanted(marks)
            {
                return Ok(Some(marks));
            }
            if !self.painted(deadline)? {
                return Ok(None);
            }
        }
    }

    /// From the press of a key to the pixel that it changes; none if that takes longer than `bound`.
    pub(super) fn key_to_pixel(&self, key: u8, bound: Duration) -> Result<Option<Duration>> {
        let before = self.wait(bound, |_| true)?.ok_or_else(|| failed("the scene's marks are not there"))?;
        let start = Instant::now();
        self.press(key)?;
        Ok(self.wait(bound, |marks| marks.turned != before.turned)?.map(|_| start.elapsed()))
    }

    /// How many different frames are shown within `span`, and how many the scene has made meanwhile.
    pub(super) fn frames(&self, span: Duration) -> Result<(u32, u32)> {
        let deadline = Instant::now() + span;
        let first = self.wait(span, |_| true)?.ok_or_else(|| failed("the scene's marks are not there"))?;
        let (mut last, mut shown, mut made) = (first.frame, 0, 0);
        while self.painted(deadline)? {
            if let Some(marks) = self.marks()?
                && marks.frame != last
            {
                made += u32::from(marks.frame.wrapping_sub(last));
                last = marks.frame;
                shown += 1;
            }
        }
        Ok((shown, made))
    }
}
