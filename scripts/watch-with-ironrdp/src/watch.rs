//! The picture, until it is the one that is waited for.

use std::ops::ControlFlow;

use ironrdp_connector::ConnectionResult;
use ironrdp_graphics::image_processing::PixelFormat;
use ironrdp_pdu::input::fast_path::{FastPathInputEvent, KeyboardFlags};
use ironrdp_session::image::DecodedImage;
use ironrdp_session::{ActiveStage, ActiveStageBuilder, ActiveStageOutput};
use ironrdp_tokio::FramedWrite as _;
use tokio::time::Instant;

use crate::touch::{self, Touch};
use crate::{Connected, Failure};

/// The key's place on a keyboard (scan code, set 1).
const RETURN: u8 = 0x1c;

/// Presses Return (or touches) when the first picture is there, and waits until every pixel has that colour.
pub(crate) async fn until_all_has_a_colour(
    mut framed: Connected,
    connection: ConnectionResult,
    touch: Option<Touch>,
    colour: [u8; 3],
    bound: Instant,
) -> Result<(), Failure> {
    let size = connection.desktop_size;
    let image = DecodedImage::new(PixelFormat::RgbA32, size.width, size.height);
    let stage = ActiveStageBuilder {
        static_channels: connection.static_channels,
        user_channel_id: connection.user_channel_id,
        io_channel_id: connection.io_channel_id,
        message_channel_id: connection.message_channel_id,
        share_id: connection.share_id,
        compression_type: connection.compression_type,
        enable_server_pointer: connection.enable_server_pointer,
        pointer_software_rendering: connection.pointer_software_rendering,
    }
    .build();
    let mut watch =
        Watch { stage, image, touch, colour, is_painted: false, has_pressed: false, farthest: None };
    loop {
        let read = tokio::time::timeout_at(bound, framed.read_pdu());
        let Ok(read) = read.await else {
            return Err(format!("the colour did not come; {}", watch.told()).into());
        };
        let (action, pdu) = read?;
        let outputs = watch.stage.process(&mut watch.image, action, &pdu, None)?;
        if watch.take(&mut framed, outputs).await?.is_break() {
            println!("{}", watch.told());
            return Ok(());
        }
    }
}

struct Watch {
    stage: ActiveStage,
    image: DecodedImage,
    touch: Option<Touch>,
    colour: [u8; 3],
    /// Since it was looked at.
    is_painted: bool,
    has_pressed: bool,
    /// How far the farthest pixel is off, of 255.
    farthest: Option<u8>,
}

impl Watch {
    /// Answers the host, and looks at what it painted.
    async fn take(
        &mut self,
        framed: &mut Connected,
        outputs: Vec<ActiveStageOutput>,
    ) -> Result<ControlFlow<()>, Failure> {
        for output in outputs {
            match output {
                ActiveStageOutput::ResponseFrame(frame) => framed.write_all(&frame).await?,
                ActiveStageOutput::GraphicsUpdate(_) => self.is_painted = true,
                ActiveStageOutput::Terminate(reason) => {
                    return Err(format!("the host ended the connection: {}", reason.description()).into());
                }
                ActiveStageOutput::DeactivateAll => {
                    return Err("the host changed the desktop's size, which nobody asked for".into());
                }
                _ => {}
            }
        }
        // A picture comes in many pieces: not while more of them are there already.
        if self.is_painted && framed.peek().is_empty() {
            self.is_painted = false;
            let farthest = farthest(self.image.data(), self.colour);
            self.farthest = Some(farthest);
            if farthest == 0 && self.has_pressed {
                return Ok(ControlFlow::Break(()));
            }
            if farthest == 0 {
                return Err("the colour was there before anything was done".into());
            }
        }
        // Once the host shows its picture it takes keys; touches, as soon as it has said so.
        let is_ready = self.touch.is_none() || self.stage.rdpei_can_send_touch();
        if self.has_pressed || self.farthest.is_none() || !is_ready {
            return Ok(ControlFlow::Continue(()));
        }
        self.has_pressed = true;
        if let Some(touch) = self.touch {
            self.touch(framed, touch).await?;
            return Ok(ControlFlow::Continue(()));
        }
        let events = [KeyboardFlags::empty(), KeyboardFlags::RELEASE]
            .map(|flags| FastPathInputEvent::KeyboardEvent(flags, RETURN));
        for output in self.stage.process_fastpath_input(&mut self.image, &events)? {
            if let ActiveStageOutput::ResponseFrame(frame) = output {
                framed.write_all(&frame).await?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn touch(&mut self, framed: &mut Connected, touch: Touch) -> Result<(), Failure> {
        let middle = (i32::from(self.image.width()) / 2, i32::from(self.image.height()) / 2);
        for (wait, event) in touch::events(touch, middle) {
            tokio::time::sleep(wait).await;
            let bytes = self.stage.encode_rdpei_touch(event).ok_or("the host takes no touches")??;
            framed.write_all(&bytes).await?;
        }
        Ok(())
    }

    fn told(&self) -> String {
        match self.farthest {
            Some(farthest) => format!("farthest pixel off by {farthest} of 255"),
            None => "the host painted nothing".to_owned(),
        }
    }
}

/// How far any channel of any pixel is from a colour; the picture has four bytes for each pixel.
fn farthest(rgba: &[u8], colour: [u8; 3]) -> u8 {
    let (pixels, _) = rgba.as_chunks::<4>();
    let distance = |pixel: &[u8; 4]| pixel.iter().zip(colour).map(|(is, want)| is.abs_diff(want)).max();
    pixels.iter().filter_map(distance).max().unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_pixel_in_the_last_corner_is_found_and_no_picture_is_no_match() {
        let mut rgba = [42, 127, 60, 255].repeat(640 * 480);
        assert_eq!(farthest(&rgba, [42, 127, 60]), 0);
        rgba[4 * 640 * 480 - 2] = 61;
        assert_eq!(farthest(&rgba, [42, 127, 60]), 1);
        assert_eq!(farthest(&[], [42, 127, 60]), 255);
    }
}
