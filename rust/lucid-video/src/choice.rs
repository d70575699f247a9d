//! Which encoder a machine uses, found out when it starts.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::v4l2::{self, Coded, Found, Patience, V4l2};
use crate::{Encoder, Error, Guarded, Settings, Steering, health};

/// What the operator wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The first device that passes the health check, otherwise software.
    #[default]
    Auto,
    /// Software.
    Software,
    /// This device and no other.
    Device(PathBuf),
}

impl FromStr for Wanted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Wanted, &'static str> {
        match text {
            "auto" => Ok(Wanted::Auto),
            "software" => Ok(Wanted::Software),
            path if path.starts_with("/dev/") => Ok(Wanted::Device(path.into())),
            _ => Err("not auto, software or a device such as /dev/video11"),
        }
    }
}

/// The encoders of this machine. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Encoders(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    hardware: Option<Hardware>,
    /// Why there is none, or none any more.
    reason: String,
}

type OpenHardware = dyn Fn(Settings) -> Result<Box<dyn Encoder>, Error> + Send + Sync;

#[derive(Clone)]
struct Hardware {
    name: String,
    open: Arc<OpenHardware>,
}

impl std::fmt::Debug for Hardware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hardware").field(&self.name).finish()
    }
}

impl Encoders {
    /// Software alone.
    #[must_use]
    pub fn software() -> Encoders {
        Encoders::without_device("as asked for")
    }

    fn without_device(reason: impl Into<String>) -> Encoders {
        Encoders(Arc::new(Mutex::new(State { hardware: None, reason: reason.into() })))
    }

    /// Hardware that is known to work; `name` is for people, `open` makes an encoder for one stream.
    pub fn with_hardware(
        name: impl Into<String>,
        open: impl Fn(Settings) -> Result<Box<dyn Encoder>, Error> + Send + Sync + 'static,
    ) -> Encoders {
        let hardware = Some(Hardware { name: name.into(), open: Arc::new(open) });
        Encoders(Arc::new(Mutex::new(State { hardware, reason: String::new() })))
    }

    /// Finds out what there is, which takes a few seconds at most for each device that looks like an encoder; gives
    /// also what is wrong with such devices, and with those that cannot be asked.
    ///
    /// # Errors
    /// When a device was named and is of no use.
    pub fn choose(wanted: &Wanted) -> Result<(Encoders, Vec<Error>), Error> {
        let healthy = |found: Found| {
            health::examine(&found.path, Coded::H264, Patience::USUAL).map(|steering| (found, steering))
        };
        let with = |(found, steering): (Found, Steering)| {
            let name = format!("V4L2 {} ({})", found.path.display(), found.card);
            Encoders::with_hardware(name, move |settings| {
                let encoder = V4l2::open(&found.path, Coded::H264, settings, steering, Patience::USUAL)?;
                Ok(Box::new(encoder))
            })
        };
        let nodes = match wanted {
            Wanted::Software => return Ok((Encoders::software(), Vec::new())),
            Wanted::Device(path) => {
                return Ok((with(healthy(v4l2::probe_in_time(path, Coded::H264)?)?), Vec::new()));
            }
            Wanted::Auto => match v4l2::nodes() {
                Ok(nodes) => nodes,
                Err(e) => {
                    return Ok((Self::without_device(format!("/dev cannot be listed: {e}")), Vec::new()));
                }
            },
        };
        let (mut wrong, count) = (Vec::new(), nodes.len());
        for path in nodes {
            match v4l2::probe_in_time(&path, Coded::H264).map(healthy) {
                Ok(Ok(device)) => return Ok((with(device), wrong)),
                // A camera or a decoder, for example: nothing is wrong with it.
                Err(Error::DeviceRefused { .. }) => {}
                Ok(Err(error)) | Err(error) => wrong.push(error),
            }
        }
        let reason = match count {
            0 => "no video device can be seen".to_owned(),
            count => format!("none of {count} video devices is a working H.264 encoder"),
        };
        Ok((Encoders::without_device(reason), wrong))
    }

    /// An encoder for pictures: the device if there is one and it takes these settings, with software behind it.
    ///
    /// # Errors
    /// When the settings are out of their limits.
    pub fn open(&self, settings: Settings) -> Result<Guarded, Error> {
        let hardware = self.state().hardware.clone();
        let Some(Hardware { open, .. }) = hardware else { return Guarded::in_software(settings) };
        match open(settings) {
            Ok(hardware) => Ok(Guarded::new(hardware, settings)),
            Err(error) => {
                // One that hangs is not tried again. Too large, or busy with other streams: the next may have more luck.
                if matches!(error, Error::DeviceLate { .. }) {
                    self.give_up_hardware(&error);
                }
                Guarded::after(error, settings)
            }
        }
    }

    /// Hardware has failed while it was used: nobody gets it any more until the next start.
    pub fn give_up_hardware(&self, error: &Error) {
        let mut state = self.state();
        if state.hardware.take().is_some() {
            state.reason = format!("hardware has failed: {error}");
        }
    }

    /// For people: what is used, and why.
    #[must_use]
    pub fn description(&self) -> String {
        let state = self.state();
        match &state.hardware {
            Some(hardware) => format!("{}, with OpenH264 behind it", hardware.name),
            None => format!("OpenH264 in software ({})", state.reason),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing is left half done in it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
