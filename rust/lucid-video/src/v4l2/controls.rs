//! The controls of encoders (`<linux/v4l2-controls.h>`).

use rustix::io::Errno;

use super::kernel::{ControlRange, Node};
use super::{Coded, Steering};

/// `V4L2_CID_CODEC_BASE`.
const BASE: u32 = 0x0099_0000 | 0x900;
const B_FRAMES: u32 = BASE + 202;
const GOP_SIZE: u32 = BASE + 203;
const BITRATE_MODE: u32 = BASE + 206;
const BITRATE: u32 = BASE + 207;
const FRAME_RATE_CONTROL: u32 = BASE + 215;
const HEADER_MODE: u32 = BASE + 216;
const REPEAT_SEQUENCE_HEADER: u32 = BASE + 226;
/// A button.
pub(super) const FORCE_KEY_FRAME: u32 = BASE + 229;
const FWHT_I_QP: u32 = BASE + 290;
const FWHT_P_QP: u32 = BASE + 291;
const H264_I_QP: u32 = BASE + 350;
const H264_P_QP: u32 = BASE + 351;
const H264_MIN_QP: u32 = BASE + 353;
const H264_MAX_QP: u32 = BASE + 354;
const H264_I_PERIOD: u32 = BASE + 358;
const H264_LEVEL: u32 = BASE + 359;
const H264_PROFILE: u32 = BASE + 363;

/// `V4L2_MPEG_VIDEO_BITRATE_MODE_CBR`.
const CONSTANT_BITRATE: i32 = 1;
/// `V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME`.
const JOINED_HEADERS: i32 = 1;
/// `V4L2_MPEG_VIDEO_H264_PROFILE_CONSTRAINED_BASELINE`: what every client decodes.
const CONSTRAINED_BASELINE: i32 = 1;

/// What was being done, and the kernel's error; without one, what the device lacks.
type Failure = (&'static str, Option<Errno>);

/// The pair of controls that pins a quantiser: by I and P pictures, or by its bounds.
fn quantisers(node: &Node, coded: Coded) -> Result<Option<([u32; 2], ControlRange)>, Errno> {
    let pairs: &[[u32; 2]] = match coded {
        Coded::H264 => &[[H264_I_QP, H264_P_QP], [H264_MIN_QP, H264_MAX_QP]],
        Coded::Fwht => &[[FWHT_I_QP, FWHT_P_QP]],
    };
    for pair in pairs {
        if let (Some(range), Some(_)) = (node.control_range(pair[0])?, node.control_range(pair[1])?) {
            return Ok(Some((*pair, range)));
        }
    }
    Ok(None)
}

/// Everything that stays as it is for a whole stream.
pub(super) fn set_up(
    node: &Node,
    coded: Coded,
    (width, height): (u32, u32),
    steering: Steering,
) -> Result<(), Failure> {
    let asking = |e| ("asking for its controls", Some(e));
    // A device may lack a control or, within a menu's range, a value (EINVAL). Whether it does without it what has to
    // be done, the health check finds out.
    let may_set = |id: u32, value: i32, doing: &'static str| -> Result<(), Failure> {
        let Some(range) = node.control_range(id).map_err(asking)? else { return Ok(()) };
        match node.set_control(id, value.clamp(range.minimum, range.maximum)) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(e) => Err((doing, Some(e))),
        }
    };
    // One picture in, one picture out, and key frames only when they are asked for.
    may_set(B_FRAMES, 0, "turning B pictures off")?;
    may_set(GOP_SIZE, i32::MAX, "turning periodic key frames off")?;
    if coded == Coded::H264 {
        may_set(H264_I_PERIOD, i32::MAX, "turning periodic key frames off")?;
        may_set(HEADER_MODE, JOINED_HEADERS, "having headers with their pictures")?;
        may_set(REPEAT_SEQUENCE_HEADER, 1, "having headers with every key frame")?;
        may_set(H264_PROFILE, CONSTRAINED_BASELINE, "choosing a profile")?;
        may_set(H264_LEVEL, level(width, height), "choosing a level")?;
    }
    match steering {
        Steering::Quantiser => {
            let Some((pair, _)) = quantisers(node, coded).map_err(asking)? else {
                return Err(("it lets nobody choose the quantiser", None));
            };
            if pair == [H264_I_QP, H264_P_QP] {
                may_set(FRAME_RATE_CONTROL, 0, "turning its rate control off")?;
            }
        }
        Steering::Bitrate => {
            may_set(FRAME_RATE_CONTROL, 1, "turning its rate control on")?;
            may_set(BITRATE_MODE, CONSTANT_BITRATE, "choosing a constant rate")?;
            if node.control_range(BITRATE).map_err(asking)?.is_none() {
                return Err(("it lets nobody choose the rate", None));
            }
        }
    }
    Ok(())
}

/// Sets the quantiser of the pictures to come, of which the last was `before`: 0..=51 of H.264, or as much of the
/// device's range.
pub(super) fn set_quantiser(node: &Node, coded: Coded, before: Option<u8>, qp: u8) -> Result<(), Errno> {
    let Some((mut pair, range)) = quantisers(node, coded)? else { return Err(Errno::OPNOTSUPP) };
    // The lower bound is never above the upper one.
    if before.is_some_and(|before| before < qp) {
        pair.reverse();
    }
    let value = match coded {
        Coded::H264 => qp.into(),
        Coded::Fwht => i32::from(qp) * range.maximum / 51,
    };
    let value = value.clamp(range.minimum, range.maximum);
    for id in pair {
        node.set_control(id, value)?;
    }
    Ok(())
}

/// Sets the rate in bits per second.
pub(super) fn set_bitrate(node: &Node, rate: u32) -> Result<(), Errno> {
    let Some(range) = node.control_range(BITRATE)? else { return Err(Errno::OPNOTSUPP) };
    let rate = i32::try_from(rate).unwrap_or(i32::MAX).clamp(range.minimum, range.maximum);
    node.set_control(BITRATE, rate)
}

/// The lowest level for 60 pictures a second (ITU-T H.264, table A-1), as the kernel's menu counts them.
fn level(width: u32, height: u32) -> i32 {
    let blocks = width.div_ceil(16) * height.div_ceil(16);
    match blocks {
        // 3.2: 216000 macroblocks a second, 5120 a picture
        ..=3600 => 10,
        // 4.2: 522240, 8704
        3601..=8704 => 13,
        // 5.1, for fewer pictures a second
        _ => 15,
    }
}

/// Whether a frame of FWHT stands alone: bit 10 of the flags in its header (`struct fwht_cframe_hdr`, big-endian).
pub(super) fn fwht_is_key_frame(frame: &[u8]) -> bool {
    let flags = frame.get(20..24).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    flags >> 10 & 1 == 1
}
