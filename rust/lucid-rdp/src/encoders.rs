//! Which video encoder this host uses, and telling so: in the log, in `status.json` and to the service manager.

use std::path::PathBuf;
use std::sync::Arc;

use lucid_video::{Encoders, Guarded, Settings, Wanted};
use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::{Error, status};

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
            self.0.encoders.give_up_hardware(&error);
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

/// The line of `systemctl status`.
pub(crate) fn service_status(description: &str) -> String {
    format!("Video: {description}")
}

/// Writes the status again whenever something else is used.
pub(crate) async fn keep_telling(
    mut description: watch::Receiver<String>,
    run: PathBuf,
    port: u16,
    fingerprint: String,
    sessions_recorded: bool,
) {
    while description.changed().await.is_ok() {
        let now = description.borrow_and_update().clone();
        if let Err(e) = status::write(&run, port, &fingerprint, &now, sessions_recorded) {
            tracing::warn!("telling that another video encoder is used: {e}");
        }
        if let Err(e) = sd_notify::notify(false, &[NotifyState::Status(&service_status(&now))]) {
            tracing::warn!("telling the service manager that another video encoder is used: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use lucid_video::{Encoded, Encoder, OpenH264, Picture, Rect, Steering, moving_picture};

    use super::*;

    /// In the place of hardware: works for two pictures.
    struct Failing(OpenH264, usize);

    impl Encoder for Failing {
        fn encode(&mut self, picture: Picture<'_>) -> Result<Encoded<'_>, lucid_video::Error> {
            self.1 += 1;
            if self.1 > 2 {
                return Err(lucid_video::Error::DeviceLate { device: "/dev/video9".into(), milliseconds: 1 });
            }
            self.0.encode(picture)
        }

        fn force_key_frame(&mut self) {
            self.0.force_key_frame();
        }

        fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), lucid_video::Error> {
            self.0.set_bitrate(bitrate_bps)
        }

        fn set_qp(&mut self, qp: u8) -> Result<(), lucid_video::Error> {
            self.0.set_qp(qp)
        }

        fn steering(&self) -> Steering {
            Steering::Quantiser
        }

        fn name(&self) -> &str {
            "failing"
        }
    }

    #[tokio::test]
    async fn when_hardware_fails_streams_go_on_the_next_one_is_in_software_and_the_status_says_so() {
        let encoders = VideoEncoders::with(Encoders::with_hardware("V4L2 /dev/video9 (test)", |settings| {
            Ok(Box::new(Failing(OpenH264::new(settings)?, 0)))
        }));
        let run = std::env::temp_dir().join(format!("lucid-rdp-encoders-{}", std::process::id()));
        let told = encoders.description();
        assert_eq!(*told.borrow(), "V4L2 /dev/video9 (test), with OpenH264 behind it");
        let telling = tokio::spawn(keep_telling(encoders.description(), run.clone(), 1, "AA".into(), false));

        let (width, height) = (64, 64);
        let whole = [Rect { x: 0, y: 0, width, height }];
        let mut encoder = encoders.open(Settings::motion(width, height, 30)).unwrap();
        for number in 0..5 {
            let name = encoder.name().to_owned();
            assert_eq!(name == "failing", number <= 2);
            let pixels = moving_picture(width, height, number);
            encoder.encode(Picture { width, height, stride: 256, pixels: &pixels, damage: &whole }).unwrap();
            encoders.look_after(&mut encoder);
            assert_eq!(told.has_changed().unwrap(), number >= 2);
        }
        assert_eq!(encoders.open(Settings::motion(width, height, 30)).unwrap().name(), "OpenH264");

        drop(encoders);
        // It ends when there is nothing more to tell.
        telling.await.unwrap();
        let text = std::fs::read_to_string(run.join("status.json")).unwrap();
        std::fs::remove_dir_all(&run).unwrap();
        assert!(
            text.contains("OpenH264 in software (hardware has failed: encoder device /dev/video9"),
            "{text}"
        );
    }

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
