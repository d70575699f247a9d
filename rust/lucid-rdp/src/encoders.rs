//! Which video encoder this host uses, and telling so: in the log, in `status.json` and to the service manager.

use std::sync::Arc;

use lucid_video::{Encoders, Guarded, Settings, Wanted};
use tokio::sync::watch;

use crate::Error;

/// The encoders of this host, for all sessions. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct VideoEncoders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    encoders: Encoders,
    description: watch::Sender<String>,
}

impl VideoEncoders {
    /// Finds out what there is, which takes a second for a device that could be used.
    pub(crate) fn choose(wanted: &Wanted) -> Result<VideoEncoders, Error> {
        let (encoders, wrong) = Encoders::choose(wanted).map_err(Error::Encoder)?;
        for error in wrong {
            tracing::warn!("not used: {error}");
        }
        Ok(Self::with(encoders))
    }

    /// Software alone.
    #[cfg(test)]
    pub(crate) fn software() -> VideoEncoders {
        Self::with(Encoders::software())
    }

    fn with(encoders: Encoders) -> VideoEncoders {
        let description = watch::Sender::new(encoders.description());
        VideoEncoders(Arc::new(Inner { encoders, description }))
    }

    /// What is used and why, for people; changes when hardware fails.
    pub(crate) fn description(&self) -> watch::Receiver<String> {
        self.0.description.subscribe()
    }

    /// An encoder for one stream.
    pub(crate) fn open(&self, settings: Settings) -> Result<Guarded, Error> {
        let mut encoder = self.0.encoders.open(settings)?;
        if let Some(error) = encoder.take_failure() {
            tracing::warn!("this stream is encoded in software: {error}");
            self.tell();
        }
        Ok(encoder)
    }

    /// After each picture: if the hardware has failed at it, no other stream uses it either.
    pub(crate) fn look_after(&self, encoder: &mut Guarded) {
        if let Some(error) = encoder.take_failure() {
            self.0.encoders.give_up_device(&error);
            self.tell();
            tracing::warn!(
                "from here on pictures are encoded in software until this service starts again: {error}"
            );
        }
    }

    fn tell(&self) {
        let now = self.0.encoders.description();
        self.0.description.send_if_modified(|before| {
            let other = *before != now;
            *before = now;
            other
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_device_that_is_none_keeps_the_host_from_starting_and_says_why() {
        let error = VideoEncoders::choose(&Wanted::Device("/dev/null".into())).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }

    #[test]
    fn what_is_used_is_told_whatever_this_machine_has() {
        let encoders = VideoEncoders::choose(&Wanted::Auto).unwrap();
        let told = encoders.description();
        let mut encoder = encoders.open(Settings::motion(640, 480, 30)).unwrap();
        encoders.look_after(&mut encoder);
        assert!(!told.has_changed().unwrap(), "nothing has failed");
        assert!(told.borrow().contains("OpenH264"));
    }
}
