//! OpenH264 behind the [`Encoder`] trait.

// Two calls into OpenH264's own interface have no safe form in the crate: SetOption for its chattiness
// and a new rate, GetOption for the quantiser.
#![allow(unsafe_code)]

use crate::colour::I420;
use crate::{Content, Encoded, Encoder, Error, MAX_HEIGHT, MAX_WIDTH, Picture, Settings, Steering};
use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Complexity, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, Profile, QpRange,
    RateControlMode, SpsPpsStrategy, UsageType, VuiConfig,
};
use openh264::formats::YUVSlices;
use openh264_sys2::{
    ENCODER_OPTION_BITRATE, ENCODER_OPTION_GET_STATISTICS, ENCODER_OPTION_MAX_BITRATE,
    ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, ENCODER_OPTION_TRACE_LEVEL, PRO_MAIN, SBitrateInfo, SEncParamExt,
    SEncoderStatistics, SM_FIXEDSLCNUM_SLICE, SPATIAL_LAYER_0,
};

/// OpenH264, built from source, in software.
pub struct OpenH264 {
    encoder: openh264::encoder::Encoder,
    settings: Settings,
    planes: I420,
    /// The planes hold the previous picture, so only damage need be converted.
    primed: bool,
    key_frame_wanted: bool,
    /// The quantiser that OpenH264 was told, for [`Content::Motion`].
    told_qp: Option<u8>,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for OpenH264 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenH264").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn code(error: &openh264::Error) -> i32 {
    // The crate keeps the code to itself and writes it into the message.
    let digits = |c: char| !c.is_ascii_digit() && c != '-';
    error.to_string().split(digits).find_map(|word| word.parse().ok()).unwrap_or(-1)
}

impl OpenH264 {
    /// Sets an encoder up.
    ///
    /// # Errors
    /// When the settings are out of their limits, or OpenH264 refuses them.
    pub fn new(settings: Settings) -> Result<OpenH264, Error> {
        let Settings { width, height, .. } = settings;
        let wrong = |what| Err(Error::Settings { width, height, what });
        if !(1..=MAX_WIDTH).contains(&width) || !(1..=MAX_HEIGHT).contains(&height) {
            return wrong("the size is 0 or too big");
        }
        settings.with_bitrate(settings.bitrate_bps)?;
        if !(1.0..=240.0).contains(&settings.max_fps) {
            return wrong("the picture rate is not within 1 and 240");
        }
        if settings.min_qp > settings.max_qp || settings.max_qp > 51 {
            return wrong("the quantisers are not 0 <= min <= max <= 51");
        }
        let (usage, rate_control) = match settings.content {
            Content::Desktop => (UsageType::ScreenContentRealTime, RateControlMode::Bitrate),
            Content::Motion => (UsageType::CameraVideoRealTime, RateControlMode::Off),
        };
        let config = EncoderConfig::new()
            .usage_type(usage)
            .profile(Profile::Baseline)
            .complexity(Complexity::Low)
            .rate_control_mode(rate_control)
            .bitrate(BitRate::from_bps(settings.bitrate_bps))
            .max_frame_rate(FrameRate::from_hz(settings.max_fps))
            .qp(QpRange::new(settings.min_qp, settings.max_qp))
            // A desktop's picture is never dropped.
            .skip_frames(false)
            // No periodic key frames; each carries the same SPS and PPS. Scene detection is part of
            // screen content (OpenH264 turns it on otherwise, with a warning).
            .intra_frame_period(IntraFramePeriod::from_num_frames(0))
            .scene_change_detect(settings.content == Content::Desktop)
            .sps_pps_strategy(SpsPpsStrategy::ConstantId)
            // These trade fine detail for rate in camera pictures; text has nothing but fine detail.
            .adaptive_quantization(false)
            .background_detection(false)
            .long_term_reference(false)
            .num_threads(settings.threads())
            .vui(VuiConfig::bt709_full());
        let mut encoder = openh264::encoder::Encoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(|e| Error::OpenH264 { doing: "making an encoder", code: code(&e) })?;
        let mut level: std::ffi::c_int = openh264_sys2::WELS_LOG_ERROR;
        // SAFETY: SetOption(ENCODER_OPTION_TRACE_LEVEL) reads one int (codec_app_def.h), keeps no pointer
        // to it, and is allowed before the encoder is initialised (CWelsH264SVCEncoder::SetOption).
        let code =
            unsafe { encoder.raw_api().set_option(ENCODER_OPTION_TRACE_LEVEL, (&raw mut level).cast()) };
        if code != 0 {
            return Err(Error::OpenH264 { doing: "quietening its warnings", code });
        }
        let planes = I420::new(width, height)?;
        Ok(OpenH264 {
            encoder,
            settings,
            planes,
            primed: false,
            key_frame_wanted: false,
            told_qp: None,
            bytes: Vec::new(),
        })
    }

    fn average_qp(&mut self) -> Result<u8, Error> {
        let mut statistics = SEncoderStatistics::default();
        // SAFETY: GetOption(ENCODER_OPTION_GET_STATISTICS) writes one SEncoderStatistics (codec_app_def.h)
        // and keeps no pointer to it; the encoder has been initialised by its first picture.
        let code = unsafe {
            let raw = self.encoder.raw_api();
            raw.get_option(ENCODER_OPTION_GET_STATISTICS, (&raw mut statistics).cast())
        };
        if code != 0 {
            return Err(Error::OpenH264 { doing: "reading the statistics", code });
        }
        Ok(statistics.uiAverageFrameQP.min(51) as u8)
    }
}

/// Pictures from this size on are encoded by two threads, half a picture each, in pixels.
const TWO_THREADS_FROM: u32 = 1280 * 720;

impl Settings {
    /// How many threads, and with them slices, help. At 1920x1080 two take two thirds of the time of one (shortest of
    /// 60 pictures: 6.2 ms against 9.4 ms on two cores of an EPYC) and a tenth more bytes; four slices for two threads
    /// gain nothing more. Screen content stays in one slice: its rate control and scene detection know no other.
    fn threads(&self) -> u16 {
        let several = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let large = self.width * self.height >= TWO_THREADS_FROM;
        if several && large && self.content == Content::Motion { 2 } else { 1 }
    }
}

/// Tells OpenH264 the quantiser of the pictures to come, the profile and the slices. The encoder must have had its first picture.
fn tell(encoder: &mut openh264::encoder::Encoder, qp: u8, slices: u16) -> Result<(), Error> {
    let mut parameters = SEncParamExt::default();
    // SAFETY: both options take one SEncParamExt (codec_app_def.h), written by GetOption and read by SetOption,
    // which keep no pointer to it; the encoder has been initialised by its first picture. A quantiser is taken over
    // by WelsEncoderParamAdjust without a new start; profile and slices are changed once, before the first picture that
    // counts, and make it start anew, without which neither would hold.
    let code = unsafe {
        let raw = encoder.raw_api();
        match raw.get_option(ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, (&raw mut parameters).cast()) {
            0 => {
                let layer = &mut parameters.sSpatialLayers[0];
                layer.iDLayerQp = i32::from(qp);
                // CABAC, which the Main profile has: a film takes half of the bytes, in the same time.
                parameters.iEntropyCodingModeFlag = 1;
                layer.uiProfileIdc = PRO_MAIN;
                if slices > 1 {
                    // A thread each; with one slice, as it began, OpenH264 has gone down to one.
                    parameters.iMultipleThreadIdc = slices;
                    layer.sSliceArgument.uiSliceMode = SM_FIXEDSLCNUM_SLICE;
                    layer.sSliceArgument.uiSliceNum = slices.into();
                }
                raw.set_option(ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, (&raw mut parameters).cast())
            }
            code => code,
        }
    };
    if code != 0 {
        return Err(Error::OpenH264 { doing: "changing the quantiser", code });
    }
    Ok(())
}

impl Encoder for OpenH264 {
    fn encode(&mut self, picture: Picture<'_>) -> Result<Encoded<'_>, Error> {
        if self.primed || self.settings.content == Content::Motion {
            self.planes.convert_damage(picture)?;
        } else {
            self.planes.convert(picture)?;
        }
        let (width, height) = self.planes.coded_size();
        let strides = (width, width / 2, width / 2);
        let source =
            YUVSlices::new((self.planes.y(), self.planes.u(), self.planes.v()), (width, height), strides);
        if !self.primed && self.settings.content == Content::Motion {
            // The encoder is initialised with its first picture, and takes a quantiser only then: that picture,
            // a cheap one, is for nobody.
            let nothing = vec![0; width * height];
            let quarter = &nothing[..width * height / 4];
            let blank = YUVSlices::new((&nothing, quarter, quarter), (width, height), strides);
            self.encoder
                .encode(&blank)
                .map_err(|e| Error::OpenH264 { doing: "encoding a first picture", code: code(&e) })?;
            self.primed = true;
            self.key_frame_wanted = true;
        }
        // The first picture is a key frame anyway, and the encoder is initialised only with it.
        if std::mem::take(&mut self.key_frame_wanted) && self.primed {
            self.encoder.force_intra_frame();
        }
        if self.primed
            && self.settings.content == Content::Motion
            && self.told_qp != Some(self.settings.max_qp)
        {
            tell(&mut self.encoder, self.settings.max_qp, self.settings.threads())?;
            self.told_qp = Some(self.settings.max_qp);
        }
        self.primed = true;
        let stream = self
            .encoder
            .encode(&source)
            .map_err(|e| Error::OpenH264 { doing: "encoding a picture", code: code(&e) })?;
        self.bytes.clear();
        stream.write_vec(&mut self.bytes);
        let frame_type = stream.frame_type();
        let raw_type = stream.raw_info().eFrameType;
        if self.bytes.is_empty() || !matches!(frame_type, FrameType::IDR | FrameType::I | FrameType::P) {
            return Err(Error::NothingEncoded { frame_type: raw_type });
        }
        let key_frame = frame_type == FrameType::IDR;
        let qp = self.average_qp()?;
        Ok(Encoded { bytes: &self.bytes, key_frame, qp })
    }

    fn force_key_frame(&mut self) {
        self.key_frame_wanted = true;
    }

    fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), Error> {
        let settings = self.settings.with_bitrate(bitrate_bps)?;
        if !self.primed {
            *self = OpenH264::new(settings)?;
            return Ok(());
        }
        // The ceiling first when the rate rises, last when it falls: OpenH264 refuses a rate above it.
        let mut options = [ENCODER_OPTION_MAX_BITRATE, ENCODER_OPTION_BITRATE];
        if bitrate_bps < self.settings.bitrate_bps {
            options.reverse();
        }
        for option in options {
            let mut rate = SBitrateInfo { iLayer: SPATIAL_LAYER_0, iBitrate: bitrate_bps as i32 };
            // SAFETY: SetOption reads one SBitrateInfo for both options (codec_app_def.h) and keeps no
            // pointer to it; the encoder has been initialised by its first picture.
            let code = unsafe { self.encoder.raw_api().set_option(option, (&raw mut rate).cast()) };
            if code != 0 {
                return Err(Error::OpenH264 { doing: "changing the rate", code });
            }
        }
        self.settings = settings;
        Ok(())
    }

    fn set_qp(&mut self, qp: u8) -> Result<(), Error> {
        self.settings = self.settings.with_qp(qp)?;
        Ok(())
    }

    fn steering(&self) -> Steering {
        match self.settings.content {
            Content::Desktop => Steering::Bitrate,
            Content::Motion => Steering::Quantiser,
        }
    }

    fn name(&self) -> &str {
        "OpenH264"
    }
}
