//! Hardware that fails in the middle, and the choice where there is none.

// The whole file is a test, its helper functions included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lucid_video::{
    Encoded, Encoder, Encoders, Error, Guarded, OpenH264, Picture, Rect, Settings, Steering, Wanted,
    moving_picture,
};
use openh264::decoder::Decoder;

const WIDTH: u32 = 160;
const HEIGHT: u32 = 96;
const WHOLE: [Rect; 1] = [Rect { x: 0, y: 0, width: WIDTH, height: HEIGHT }];

fn picture(pixels: &[u8]) -> Picture<'_> {
    Picture { width: WIDTH, height: HEIGHT, stride: WIDTH as usize * 4, pixels, damage: &WHOLE }
}

/// A stand-in for hardware: works for so many pictures.
struct Failing {
    works: OpenH264,
    left: usize,
}

impl Encoder for Failing {
    fn encode(&mut self, picture: Picture<'_>) -> Result<Encoded<'_>, Error> {
        if self.left == 0 {
            return Err(Error::DeviceLate { device: "/dev/video0".into(), milliseconds: 1 });
        }
        let encoded = self.works.encode(picture)?;
        self.left -= 1;
        Ok(encoded)
    }

    fn force_key_frame(&mut self) {
        self.works.force_key_frame();
    }

    fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), Error> {
        self.works.set_bitrate(bitrate_bps)
    }

    fn set_qp(&mut self, qp: u8) -> Result<(), Error> {
        self.works.set_qp(qp)
    }

    fn steering(&self) -> Steering {
        Steering::Quantiser
    }

    fn name(&self) -> &str {
        "stand-in"
    }
}

fn guarded(left: usize) -> Guarded {
    let settings = Settings::motion(WIDTH, HEIGHT, 30);
    Guarded::new(Box::new(Failing { works: OpenH264::new(settings).unwrap(), left }), settings)
}

#[test]
fn when_hardware_fails_every_picture_still_comes_with_one_more_key_frame() {
    for fails_at in 0..6 {
        let mut encoder = guarded(fails_at);
        // What a client has: one decoder, which knows nothing of all this.
        let mut decoder = Decoder::new().unwrap();
        let (mut key_frames, mut failures) = (Vec::new(), Vec::new());
        for number in 0..10 {
            encoder.set_qp(30 + number as u8).unwrap();
            let pixels = moving_picture(WIDTH, HEIGHT, number);
            let encoded = encoder.encode(picture(&pixels)).unwrap();
            assert_eq!(u32::from(encoded.qp), 30 + number, "the quantiser is carried over");
            if encoded.key_frame {
                key_frames.push(number as usize);
            }
            assert!(decoder.decode(encoded.bytes).unwrap().is_some(), "picture {number}");
            if let Some(error) = encoder.take_failure() {
                assert!(matches!(error, Error::DeviceLate { .. }));
                failures.push(number as usize);
            }
            let now = if number as usize >= fails_at { "OpenH264" } else { "stand-in" };
            assert_eq!(encoder.name(), now);
        }
        assert_eq!(failures, [fails_at]);
        assert_eq!(key_frames, if fails_at == 0 { vec![0] } else { vec![0, fails_at] });
    }
}

#[test]
fn a_picture_that_does_not_fit_is_no_failure_of_the_hardware() {
    let mut encoder = guarded(9);
    let pixels = moving_picture(WIDTH, HEIGHT, 0);
    let wrong = Picture { width: WIDTH - 2, ..picture(&pixels) };
    assert!(matches!(encoder.encode(wrong), Err(Error::Picture { .. })));
    assert!(encoder.take_failure().is_none());
    assert_eq!(encoder.name(), "stand-in");
    assert!(encoder.set_qp(52).is_err() && encoder.set_bitrate(1).is_err());
}

#[test]
fn a_key_frame_can_be_had_before_and_after_a_failure() {
    let mut encoder = guarded(4);
    let mut key_frames = Vec::new();
    for number in 0..10 {
        if [2, 7].contains(&number) {
            encoder.force_key_frame();
        }
        let pixels = moving_picture(WIDTH, HEIGHT, number);
        if encoder.encode(picture(&pixels)).unwrap().key_frame {
            key_frames.push(number);
        }
    }
    assert_eq!(key_frames, [0, 2, 4, 7]);
}

#[test]
fn a_named_device_that_is_none_is_an_error_and_software_is_what_is_asked_for() {
    for device in ["/dev/null", "/dev/video250"] {
        let error = Encoders::choose(&device.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains(device), "{error}");
    }
    let (encoders, wrong) = Encoders::choose(&Wanted::Software).unwrap();
    assert!(wrong.is_empty());
    assert_eq!(encoders.description(), "OpenH264 in software (as asked for)");
    assert_eq!(encoders.open(Settings::motion(WIDTH, HEIGHT, 30)).unwrap().name(), "OpenH264");
    assert!(encoders.open(Settings::motion(0, HEIGHT, 30)).is_err());
}

#[test]
fn a_wish_is_one_of_three_and_nothing_else() {
    assert_eq!("auto".parse(), Ok(Wanted::Auto));
    assert_eq!("software".parse(), Ok(Wanted::Software));
    assert_eq!("/dev/video11".parse(), Ok(Wanted::Device("/dev/video11".into())));
    for wrong in ["", "Auto", "hardware", "video11", "../dev/video11"] {
        assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
    }
}
