//! The graphics pipeline (MS-RDPEGFX): one surface that covers the output.

use std::any::TypeId;

use ironrdp_acceptor::DesktopSize;
use ironrdp_core::impl_as_any;
use ironrdp_dvc::{
    DrdynvcServer, DvcMessage, DvcProcessor, DvcServerProcessor, DynamicChannelMut, encode_dvc_messages,
};
use ironrdp_egfx::pdu::{Avc420Region, CapabilitiesAdvertisePdu, CapabilitySet};
use ironrdp_egfx::server::{GraphicsPipelineHandler, GraphicsPipelineServer, MixedTilePayload};
use ironrdp_pdu::PduResult;
use ironrdp_pdu::geometry::ExclusiveRectangle;
use ironrdp_svc::{ChannelFlags, StaticChannelSet, server_encode_svc_messages};
use lucid_desktop::Rect;

use crate::Error;
use crate::picture::Tile;

/// The pipeline asks nothing of us that its own state does not answer.
struct Handler;

impl GraphicsPipelineHandler for Handler {
    fn capabilities_advertise(&mut self, _pdu: &CapabilitiesAdvertisePdu) {}

    fn on_ready(&mut self, negotiated: &CapabilitySet) {
        tracing::debug!(?negotiated, "graphics pipeline ready");
    }

    fn max_frames_in_flight(&self) -> u32 {
        MAX_IN_FLIGHT
    }
}

/// The pipeline, made when the client opens its channel and thus after it has authenticated: its compressor holds
/// some 3 MB, which nobody unknown may cost this host.
#[derive(Default)]
pub(crate) struct Pipeline(Option<GraphicsPipelineServer>);

impl_as_any!(Pipeline);

impl DvcProcessor for Pipeline {
    fn channel_name(&self) -> &str {
        ironrdp_egfx::CHANNEL_NAME
    }

    fn start(&mut self, channel_id: u32) -> PduResult<Vec<DvcMessage>> {
        self.0.insert(GraphicsPipelineServer::new(Box::new(Handler))).start(channel_id)
    }

    fn process(&mut self, channel_id: u32, payload: &[u8]) -> PduResult<Vec<DvcMessage>> {
        match &mut self.0 {
            Some(server) => server.process(channel_id, payload),
            None => Ok(Vec::new()),
        }
    }

    fn close(&mut self, channel_id: u32) {
        if let Some(mut server) = self.0.take() {
            server.close(channel_id);
        }
    }
}

impl DvcServerProcessor for Pipeline {}

/// Pictures on their way to the client that it has not acknowledged yet.
pub(crate) const MAX_IN_FLIGHT: u32 = 2;

/// What the pipeline is doing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The client has not opened the channel, or has not said what it can.
    Absent,
    /// Open, but the surface has to be made (again: a client may start over in mid-session).
    NeedsSurface {
        /// Whether it decodes H.264.
        avc420: bool,
    },
    /// Pictures can be sent.
    Ready,
}

/// Sends through the pipeline that lives in the connection's dynamic channels.
pub(crate) struct Egfx<'a> {
    pipeline: DynamicChannelMut<'a, Pipeline>,
    channel_id: u16,
    user_channel_id: u16,
}

/// Finds the pipeline, if the client has opened it.
pub(crate) fn find(channels: &mut StaticChannelSet, user_channel_id: u16) -> Option<Egfx<'_>> {
    let channel_id = channels.get_channel_id_by_type::<DrdynvcServer>()?;
    let drdynvc = channels
        .get_by_type_id_mut(TypeId::of::<DrdynvcServer>())?
        .channel_processor_downcast_mut::<DrdynvcServer>()?;
    let dvc_id = drdynvc.get_channel_id_by_type::<Pipeline>()?;
    let pipeline = drdynvc.dvc_by_id_mut::<Pipeline>(dvc_id)?;
    Some(Egfx { pipeline, channel_id, user_channel_id })
}

impl Egfx<'_> {
    pub(crate) fn state(&self) -> State {
        let Some(server) = &self.pipeline.processor().0 else { return State::Absent };
        if !server.is_ready() {
            State::Absent
        } else if server.surface_ids().next().is_none() {
            State::NeedsSurface { avc420: server.supports_avc420() }
        } else {
            State::Ready
        }
    }

    /// Whether fewer than [`MAX_IN_FLIGHT`] pictures are unacknowledged (or the client has said that it will
    /// not acknowledge any).
    pub(crate) fn may_send(&self) -> bool {
        self.pipeline.processor().0.as_ref().is_some_and(|server| !server.should_backpressure())
    }

    /// Makes the surface and maps it to the output; returns the bytes to send.
    pub(crate) fn make_surface(&mut self, size: DesktopSize) -> Result<Vec<u8>, Error> {
        let gone = Error::Internal("the graphics pipeline was closed");
        let server = self.pipeline.processor_mut().0.as_mut().ok_or(gone)?;
        server.set_output_dimensions(size.width, size.height);
        let id = server
            .create_surface(size.width, size.height)
            .ok_or(Error::Internal("the graphics pipeline refused a surface"))?;
        server.map_surface_to_output(id, 0, 0);
        self.drain()
    }

    /// One H.264 picture; returns the bytes to send, or `None` when the client is not ready for it.
    pub(crate) fn avc420(
        &mut self,
        bytes: &[u8],
        damage: &[Rect],
        qp: u8,
        time_ms: u32,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(server) = &mut self.pipeline.processor_mut().0 else { return Ok(None) };
        let Some(surface) = server.surface_ids().next() else { return Ok(None) };
        let regions: Vec<_> = damage
            .iter()
            .map(|r| {
                let r = exclusive(r);
                Avc420Region::new(r.left, r.top, r.right, r.bottom, qp, 100)
            })
            .collect();
        if server.send_avc420_frame(surface, bytes, &regions, time_ms).is_none() {
            return Ok(None);
        }
        self.drain().map(Some)
    }

    /// Lossless ClearCodec tiles as one picture; returns the bytes to send, or `None` when the client is not
    /// ready for it.
    pub(crate) fn clearcodec(&mut self, tiles: Vec<Tile>, time_ms: u32) -> Result<Option<Vec<u8>>, Error> {
        let Some(server) = &mut self.pipeline.processor_mut().0 else { return Ok(None) };
        let Some(surface) = server.surface_ids().next() else { return Ok(None) };
        let tiles = tiles
            .into_iter()
            .map(|t| MixedTilePayload::ClearCodec { destination: exclusive(&t.place), bitmap_data: t.bytes })
            .collect();
        if server.send_mixed_frame(surface, tiles, time_ms).is_none() {
            return Ok(None);
        }
        self.drain().map(Some)
    }

    fn drain(&mut self) -> Result<Vec<u8>, Error> {
        let messages = self.pipeline.processor_mut().0.as_mut().map_or_else(Vec::new, |s| s.drain_output());
        let messages = encode_dvc_messages(self.pipeline.channel_id(), messages, ChannelFlags::SHOW_PROTOCOL)
            .map_err(|_| Error::Encode("a picture"))?;
        server_encode_svc_messages(messages, self.channel_id, self.user_channel_id)
            .map_err(|_| Error::Encode("a picture"))
    }
}

/// A desktop is at most 8192 pixels wide and high, so its rectangles fit 16 bits.
pub(crate) fn exclusive(r: &Rect) -> ExclusiveRectangle {
    let fit = |v: u32| u16::try_from(v).unwrap_or(u16::MAX);
    ExclusiveRectangle {
        left: fit(r.x),
        top: fit(r.y),
        right: fit(r.x + r.width),
        bottom: fit(r.y + r.height),
    }
}
