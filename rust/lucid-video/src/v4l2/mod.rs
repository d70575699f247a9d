//! Encoders of the hardware through video4linux's stateful memory-to-memory interface, with the multi-planar queues
//! that such devices have.
//!
//! A driver may block: in a call, for seconds, or for ever. So a device is opened and driven on a thread of its own,
//! and whoever wants a picture encoded waits for it within a bound.
//!
//! Buffers are the device's own, mapped. Importing a DMA-BUF would save no copy: what is to be encoded comes as
//! shared memory of the compositor and is converted to YUV by the processor, whose rows are written to the mapped
//! buffer.

mod controls;
mod kernel;
mod layout;
mod queue;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

pub use kernel::{ControlRange, Dequeued, Direction, Identity, Mapping, Node, PictureFormat, Readiness};
pub use layout::Layout;
pub use queue::Queue;
pub use stream::{Found, probe};

use crate::annexb::Unit;
use crate::colour::I420;
use crate::{Content, Encoded, Encoder, Error, Picture, Settings, Steering};
use stream::{Stream, Wishes};

/// How long a device may take before it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a picture. Hardware takes some 10 ms; whoever waits shows a still picture meanwhile.
    pub picture: Duration,
    /// For setting it up.
    pub open: Duration,
}

impl Patience {
    /// With hardware.
    pub const USUAL: Patience =
        Patience { picture: Duration::from_millis(500), open: Duration::from_secs(2) };
}

/// What a device writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coded {
    /// H.264 with start codes.
    H264,
    /// The Fast Walsh-Hadamard Transform codec of the kernel's virtual device `vicodec`, with which these queues are
    /// tested. No client decodes it.
    Fwht,
}

impl Coded {
    /// Its FourCC.
    #[must_use]
    pub fn pixel_format(self) -> u32 {
        match self {
            Coded::H264 => u32::from_le_bytes(*b"H264"),
            Coded::Fwht => u32::from_le_bytes(*b"FWHT"),
        }
    }
}

fn late(path: &Path, bound: Duration) -> Error {
    Error::DeviceLate { device: path.to_owned(), milliseconds: bound.as_millis() as u64 }
}

/// The video device nodes of this machine, in the order of their numbers.
///
/// # Errors
/// When `/dev` cannot be listed.
pub fn nodes() -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/dev")? {
        let name = entry?.file_name();
        if let Some(number) =
            name.to_str().and_then(|n| n.strip_prefix("video")).and_then(|n| n.parse::<u16>().ok())
        {
            found.push(number);
        }
    }
    found.sort_unstable();
    // Video4linux has 256 minor numbers.
    found.truncate(256);
    Ok(found.into_iter().map(|number| PathBuf::from(format!("/dev/video{number}"))).collect())
}

/// As [`probe`], within [`Patience::USUAL`] whatever the driver does.
///
/// # Errors
/// As [`probe`], and when it takes too long.
pub fn probe_in_time(path: &Path, coded: Coded) -> Result<Found, Error> {
    let (found, answer) = sync_channel(1);
    let device = path.to_owned();
    std::thread::Builder::new()
        .name("v4l2".into())
        // Who does not wait any more has been told that it took too long.
        .spawn(move || drop(found.send(probe(&device, coded))))
        .map_err(|source| Error::Device {
            device: path.to_owned(),
            doing: "starting a thread for it",
            source,
        })?;
    let bound = Patience::USUAL.open;
    answer.recv_timeout(bound).unwrap_or_else(|_| Err(late(path, bound)))
}

/// A picture on its way to the device's thread.
struct Job {
    planes: Box<I420>,
    wishes: Wishes,
}

/// And back.
struct Answer {
    planes: Box<I420>,
    result: Result<Unit, Error>,
}

/// A hardware encoder.
pub struct V4l2 {
    path: PathBuf,
    settings: Settings,
    steering: Steering,
    patience: Patience,
    jobs: SyncSender<Job>,
    answers: Receiver<Answer>,
    /// Not there once the device has failed to give them back.
    planes: Option<Box<I420>>,
    /// The planes hold the previous picture, so only damage need be converted.
    primed: bool,
    key_frame_wanted: bool,
    name: String,
    unit: Unit,
}

impl std::fmt::Debug for V4l2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("V4l2")
            .field("path", &self.path)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl V4l2 {
    /// Sets a device up.
    ///
    /// # Errors
    /// When it cannot be had or does not take these settings, with the reason.
    pub fn open(
        path: &Path,
        coded: Coded,
        settings: Settings,
        steering: Steering,
        patience: Patience,
    ) -> Result<V4l2, Error> {
        let device = path.to_owned();
        Self::on_a_thread(path, settings, steering, patience, move || {
            let (mut stream, card) = Stream::open(&device, coded, &settings, steering, patience.picture)?;
            Ok((card, move |picture: &I420, wishes| stream.encode(picture, wishes)))
        })
    }

    fn on_a_thread<E>(
        path: &Path,
        settings: Settings,
        steering: Steering,
        patience: Patience,
        open: impl FnOnce() -> Result<(String, E), Error> + Send + 'static,
    ) -> Result<V4l2, Error>
    where
        E: FnMut(&I420, Wishes) -> Result<Unit, Error>,
    {
        let planes = Box::new(I420::new(settings.width, settings.height)?);
        let (jobs, todo) = sync_channel::<Job>(1);
        let (done, answers) = sync_channel(1);
        let (opened, is_open) = sync_channel(1);
        let failed = |doing, source| Error::Device { device: path.to_owned(), doing, source };
        // It ends when its device answers and nobody is there any more; nobody waits for that.
        std::thread::Builder::new()
            .name("v4l2".into())
            .spawn(move || {
                let mut encode = match open() {
                    Ok((card, encode)) => {
                        if opened.send(Ok(card)).is_err() {
                            return;
                        }
                        encode
                    }
                    Err(e) => {
                        // Who does not wait any more has been told that it took too long.
                        let _ = opened.send(Err(e));
                        return;
                    }
                };
                while let Ok(Job { planes, wishes }) = todo.recv() {
                    let result = encode(&planes, wishes);
                    if done.send(Answer { planes, result }).is_err() {
                        return;
                    }
                }
            })
            .map_err(|e| failed("starting a thread for it", e))?;
        let card = match is_open.recv_timeout(patience.open) {
            Ok(card) => card?,
            Err(RecvTimeoutError::Timeout) => return Err(late(path, patience.open)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed("setting it up", std::io::Error::other("its thread died")));
            }
        };
        Ok(V4l2 {
            path: path.to_owned(),
            settings,
            steering,
            patience,
            jobs,
            answers,
            planes: Some(planes),
            primed: false,
            key_frame_wanted: false,
            name: format!("V4L2 {} ({card})", path.display()),
            unit: Unit { bytes: Vec::new(), key_frame: false },
        })
    }

    fn gone(&self) -> Error {
        let source = std::io::Error::other("it has failed before");
        Error::Device { device: self.path.clone(), doing: "encoding a picture", source }
    }
}

impl Encoder for V4l2 {
    fn encode(&mut self, picture: Picture<'_>) -> Result<Encoded<'_>, Error> {
        let Some(mut planes) = self.planes.take() else { return Err(self.gone()) };
        if self.primed || self.settings.content == Content::Motion {
            planes.convert_damage(picture)?;
        } else {
            planes.convert(picture)?;
        }
        let wishes = Wishes {
            qp: (self.steering == Steering::Quantiser).then_some(self.settings.max_qp),
            bitrate_bps: (self.steering == Steering::Bitrate).then_some(self.settings.bitrate_bps),
            // The first picture is one anyway.
            key_frame: std::mem::take(&mut self.key_frame_wanted) && self.primed,
        };
        self.primed = true;
        self.jobs.try_send(Job { planes, wishes }).map_err(|_| self.gone())?;
        match self.answers.recv_timeout(self.patience.picture) {
            Ok(Answer { planes, result }) => {
                self.unit = result?;
                self.planes = Some(planes);
            }
            Err(RecvTimeoutError::Timeout) => return Err(late(&self.path, self.patience.picture)),
            Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
        }
        let Unit { bytes, key_frame } = &self.unit;
        Ok(Encoded { bytes, key_frame: *key_frame, qp: self.settings.max_qp })
    }

    fn force_key_frame(&mut self) {
        self.key_frame_wanted = true;
    }

    fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), Error> {
        self.settings = self.settings.with_bitrate(bitrate_bps)?;
        Ok(())
    }

    fn set_qp(&mut self, qp: u8) -> Result<(), Error> {
        self.settings = self.settings.with_qp(qp)?;
        Ok(())
    }

    fn steering(&self) -> Steering {
        self.steering
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(
        encode: impl FnMut(&I420, Wishes) -> Result<Unit, Error> + Send + 'static,
    ) -> Result<V4l2, Error> {
        let settings = Settings::motion(64, 64, 30);
        V4l2::on_a_thread(Path::new("/dev/fake"), settings, Steering::Quantiser, Patience::USUAL, || {
            Ok(("fake".into(), encode))
        })
    }

    fn picture(pixels: &[u8]) -> Picture<'_> {
        Picture { width: 64, height: 64, stride: 256, pixels, damage: &[] }
    }

    #[test]
    fn a_device_that_never_answers_is_given_up_within_the_bound_and_never_asked_again() {
        let (_hold, held) = sync_channel::<()>(0);
        let mut encoder = fake(move |_, _| {
            let _ = held.recv();
            Err(late(Path::new("/dev/fake"), Duration::ZERO))
        })
        .unwrap();
        let pixels = vec![0; 64 * 64 * 4];
        assert!(matches!(encoder.encode(picture(&pixels)), Err(Error::DeviceLate { .. })));
        assert!(matches!(encoder.encode(picture(&pixels)), Err(Error::Device { .. })));
        // Nor does its end wait for the thread that hangs: it would for ever.
        drop(encoder);
    }

    #[test]
    fn a_device_that_never_opens_is_given_up_within_the_bound() {
        let settings = Settings::motion(64, 64, 30);
        let (_hold, held) = sync_channel::<()>(0);
        type Never = fn(&I420, Wishes) -> Result<Unit, Error>;
        let opened = V4l2::on_a_thread::<Never>(
            Path::new("/dev/fake"),
            settings,
            Steering::Quantiser,
            Patience::USUAL,
            move || {
                let _ = held.recv();
                Err(late(Path::new("/dev/fake"), Duration::ZERO))
            },
        );
        assert!(matches!(opened, Err(Error::DeviceLate { milliseconds: 2000, .. })));
    }

    #[test]
    fn a_key_frame_is_asked_for_once_and_the_quantiser_is_passed_on() {
        let mut encoder = fake(|_, wishes| {
            let bytes = vec![wishes.qp.unwrap_or(0)];
            Ok(Unit { bytes, key_frame: wishes.key_frame })
        })
        .unwrap();
        let pixels = vec![0; 64 * 64 * 4];
        // The first is one without being asked for.
        encoder.force_key_frame();
        let mut seen = Vec::new();
        for round in 0..4 {
            if round == 2 {
                encoder.force_key_frame();
                encoder.set_qp(40).unwrap();
            }
            let encoded = encoder.encode(picture(&pixels)).unwrap();
            seen.push((encoded.bytes[0], encoded.key_frame, encoded.qp));
        }
        assert_eq!(seen, [(30, false, 30), (30, false, 30), (40, true, 40), (40, false, 40)]);
        assert!(encoder.set_qp(52).is_err());
        assert!(encoder.set_bitrate(1).is_err());
    }

    #[test]
    fn what_is_no_video_device_is_refused_before_anything_is_asked_of_it() {
        for path in ["/dev/null", "/proc/self/exe", "/dev/does-not-exist", "/dev"] {
            let refused = probe(Path::new(path), Coded::H264).unwrap_err();
            assert!(matches!(&refused, Error::Device { doing: "opening it", .. }), "{refused}");
        }
    }
}
