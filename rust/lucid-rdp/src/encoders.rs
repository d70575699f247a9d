//! Which video encoder this host uses, and telling so: in the log, in `status.json` and to the service manager.

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

/// Writes the status again whenever something else is used, or another number of clients is connected.
pub(crate) async fn keep_telling(
    mut description: watch::Receiver<String>,
    mut changes: watch::Receiver<u64>,
    connected: impl Fn() -> usize,
    about: status::About,
) {
    // As it was written when the host started.
    let mut told = 0;
    loop {
        let (changed, other_encoder) = tokio::select! {
            changed = description.changed() => (changed, true),
            changed = changes.changed() => (changed, false),
        };
        if changed.is_err() {
            return;
        }
        let sessions = connected();
        // Not everything that happens to sessions is a client that comes or goes.
        if !other_encoder && sessions == told {
            continue;
        }
        let now = description.borrow().clone();
        match about.write(&now, sessions) {
            Ok(()) => told = sessions,
            Err(e) => tracing::warn!("telling which video encoder is used and who is connected: {e}"),
        }
        if other_encoder
            && let Err(e) = sd_notify::notify(false, &[NotifyState::Status(&service_status(&now))])
        {
            tracing::warn!("telling the service manager that another video encoder is used: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

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

    fn about(test: &str) -> status::About {
        let run: PathBuf = std::env::temp_dir().join(format!("lucid-rdp-{test}-{}", std::process::id()));
        status::About { run, port: 1, fingerprint: "AA".into(), sessions_recorded: false }
    }

    #[tokio::test]
    async fn how_many_are_connected_is_told_whenever_that_changes_to_whoever_asks() {
        let encoders = VideoEncoders::software();
        let about = about("connected");
        let path = about.run.join("status.json");
        let changes = watch::Sender::new(0);
        let connected = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connected);
        let count = move || counted.load(Ordering::Relaxed);
        let telling = tokio::spawn(keep_telling(encoders.description(), changes.subscribe(), count, about));
        for wanted in [1, 2, 0] {
            connected.store(wanted, Ordering::Relaxed);
            changes.send_modify(|number| *number += 1);
            let told = async {
                loop {
                    let text = std::fs::read(&path).unwrap_or_default();
                    if let Ok(status) = serde_json::from_slice::<serde_json::Value>(&text)
                        && status["sessions"] == wanted
                    {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        // What changes nothing of it is not written down.
        std::fs::remove_file(&path).unwrap();
        changes.send_modify(|number| *number += 1);
        drop(changes);
        telling.await.unwrap();
        assert!(!path.exists());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn when_hardware_fails_streams_go_on_the_next_one_is_in_software_and_the_status_says_so() {
        let encoders = VideoEncoders::with(Encoders::with_hardware("V4L2 /dev/video9 (test)", |settings| {
            Ok(Box::new(Failing(OpenH264::new(settings)?, 0)))
        }));
        let about = about("encoders");
        let run = about.run.clone();
        let changes = watch::Sender::new(0);
        let told = encoders.description();
        assert_eq!(*told.borrow(), "V4L2 /dev/video9 (test), with OpenH264 behind it");
        let telling = tokio::spawn(keep_telling(encoders.description(), changes.subscribe(), || 0, about));

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
