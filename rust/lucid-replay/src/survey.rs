//! What there is between two times of a recording.

use std::sync::Arc;

use lucid_recording::Reader;
use lucid_session::video::Record;

use crate::film::whole_picture;
use crate::h264::Parameters;
use crate::{Item, Moment, Result, Show};

/// What there is between two times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The largest width and height of the pictures, each by itself; none where there is no picture.
    pub size: Option<(u16, u16)>,
    /// Pictures that were shown: frames.
    pub frames: u64,
    /// Whether there is any sound.
    pub sound: bool,
    /// Whether a pointer is seen.
    pub pointer: bool,
    /// Events.
    pub events: u64,
    /// Times in which something may be missing.
    pub gaps: u64,
    /// What is shown is H.264 alone, from the range's beginning on and in one size.
    pub h264_alone: bool,
}

/// Looks through what was recorded between two times. `each` is called with every item that is of that time. What is of the
/// recording's very end, as its last event, is of a time that reaches to the end.
///
/// # Errors
/// When the recording cannot be read, a record is malformed, or `each` fails.
pub fn survey(
    reader: &Arc<Reader>,
    from_us: u64,
    to_us: u64,
    each: &mut dyn FnMut(&Moment) -> Result<()>,
) -> Result<Survey> {
    let mut show = Show::from(Arc::clone(reader), from_us)?;
    let mut survey = Survey::default();
    let (mut now, mut alone, mut known) = (None, true, None);
    let (mut has_shape, mut before_idr) = (false, true);
    while let Some(moment) = show.next()? {
        let (at_us, within) = (moment.at_us, moment.at_us >= from_us);
        if at_us > to_us || at_us == to_us && to_us < reader.mono_us() {
            break;
        }
        let mut look = || -> Result<()> {
            match &moment.item {
                Item::Video(payload) => match Record::read(payload)? {
                    Record::Key { width, height, png } => {
                        // What is shown until the next frame is that of before, or nothing.
                        alone &= now.is_none_or(|size| size == (width, height));
                        alone &= within && (survey.frames > 0 || png.is_empty());
                        if !within {
                            survey.size = None;
                        }
                        now = Some((width, height));
                        before_idr = true;
                    }
                    Record::Frame(pdus) => {
                        survey.frames += u64::from(within);
                        let size = now.unwrap_or_default();
                        if alone {
                            alone = match whole_picture(pdus, size)? {
                                Some(unit) => follows(unit.idr, unit.parameters, &mut before_idr, &mut known),
                                None => false,
                            };
                        }
                    }
                    Record::More(_) => {}
                },
                Item::Pointer(change) => match change {
                    crate::Pointer::Shape { .. } => has_shape = true,
                    crate::Pointer::Hidden => has_shape = false,
                    crate::Pointer::Moved(..) => {}
                },
                Item::Sound(_) => survey.sound |= within,
                Item::Event(..) => survey.events += u64::from(within),
                Item::Gap(gap) => {
                    if gap.to_us > from_us {
                        survey.gaps += 1;
                        alone = false;
                    }
                }
            }
            Ok(())
        };
        look().map_err(|error| error.at(moment.chunk, moment.record, at_us))?;
        if let Some((width, height)) = now {
            let (most_width, most_height) = survey.size.unwrap_or_default();
            survey.size = Some((most_width.max(width), most_height.max(height)));
        }
        survey.pointer |= has_shape;
        if within || matches!(&moment.item, Item::Gap(gap) if gap.to_us > from_us) {
            each(&moment)?;
        }
    }
    survey.h264_alone = alone && known.is_some() && survey.frames > 0;
    Ok(survey)
}

/// Whether an access unit can stand in one stream with those before it.
fn follows(
    idr: bool,
    parameters: Option<Parameters>,
    before_idr: &mut bool,
    known: &mut Option<Parameters>,
) -> bool {
    if std::mem::replace(before_idr, false) && !(idr && parameters.is_some()) {
        return false;
    }
    match (parameters, &known) {
        (Some(parameters), Some(known)) => parameters == *known,
        (Some(parameters), None) => {
            *known = Some(parameters);
            true
        }
        (None, known) => known.is_some(),
    }
}
