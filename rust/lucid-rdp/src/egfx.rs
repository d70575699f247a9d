//! The graphics pipeline (MS-RDPEGFX): one surface that covers the output.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::sync::mpsc;

use ironrdp_core::{Encode, EncodeResult, WriteCursor, impl_as_any};
use ironrdp_dvc::{
    DrdynvcServer, DvcEncode, DvcMessage, DvcProcessor, DvcServerProcessor, DynamicChannelMut,
    encode_dvc_messages,
};
use ironrdp_egfx::pdu::{
    Avc420Region, CacheToSurfacePdu, CapabilitiesAdvertisePdu, CapabilitiesV8Flags, CapabilitiesV10Flags,
    CapabilitiesV81Flags, CapabilitiesV104Flags, CapabilitiesV107Flags, CapabilitySet, Codec1Type, Color,
    EndFramePdu, EvictCacheEntryPdu, GfxPdu, PixelFormat, Point, SolidFillPdu, StartFramePdu,
    SurfaceToCachePdu, SurfaceToSurfacePdu, Timestamp, WireToSurface1Pdu, encode_avc420_bitmap_stream,
};
use ironrdp_egfx::server::{GraphicsPipelineHandler, GraphicsPipelineServer};
use ironrdp_graphics::zgfx::wrap_uncompressed;
use ironrdp_pdu::PduResult;
use ironrdp_pdu::geometry::ExclusiveRectangle;
use ironrdp_svc::{ChannelFlags, StaticChannelSet, server_encode_svc_messages};
use lucid_desktop::Rect;

use crate::Error;
use crate::graphics::{Command, Room};
use crate::monitors::Layout;

/// Notes what the client has shown, and how much it keeps.
struct Handler {
    acknowledged: mpsc::Sender<u32>,
    rooms: mpsc::Sender<Room>,
    room: Room,
}

impl GraphicsPipelineHandler for Handler {
    fn capabilities_advertise(&mut self, pdu: &CapabilitiesAdvertisePdu) {
        let is_small = |set: CapabilitySet| match set {
            CapabilitySet::V8 { flags } => {
                flags.intersects(CapabilitiesV8Flags::SMALL_CACHE | CapabilitiesV8Flags::THIN_CLIENT)
            }
            CapabilitySet::V8_1 { flags } => {
                flags.intersects(CapabilitiesV81Flags::SMALL_CACHE | CapabilitiesV81Flags::THIN_CLIENT)
            }
            CapabilitySet::V10 { flags } | CapabilitySet::V10_2 { flags } => {
                flags.contains(CapabilitiesV10Flags::SMALL_CACHE)
            }
            CapabilitySet::V10_1 | CapabilitySet::V10_3 { .. } => false,
            CapabilitySet::V10_4 { flags }
            | CapabilitySet::V10_5 { flags }
            | CapabilitySet::V10_6 { flags }
            | CapabilitySet::V10_6Err { flags } => flags.contains(CapabilitiesV104Flags::SMALL_CACHE),
            CapabilitySet::V10_7 { flags } => flags.contains(CapabilitiesV107Flags::SMALL_CACHE),
        };
        // Whoever says it of one version means it of all: some versions cannot say it.
        let small = pdu.0.iter().filter_map(|set| set.parsed().ok().flatten()).any(is_small);
        self.room = if small { Room::Small } else { Room::Large };
    }

    fn on_ready(&mut self, negotiated: &CapabilitySet) {
        tracing::debug!(?negotiated, "graphics pipeline ready");
        // MS-RDPEGFX 3.3.1.4: the small one goes with this version.
        let small = matches!(negotiated, CapabilitySet::V10_3 { .. });
        // Nobody listens when the pipeline is being closed.
        let _ = self.rooms.send(if small { Room::Small } else { self.room });
    }

    fn on_frame_ack(&mut self, frame_id: u32, _queue_depth: u32, _total_frames_decoded: u32) {
        // Nobody listens when the pipeline is being closed.
        let _ = self.acknowledged.send(frame_id);
    }

    /// Not bounded here: [`Pace`](crate::pace::Pace) decides.
    fn max_frames_in_flight(&self) -> u32 {
        0
    }
}

/// The pipeline, made when the client opens its channel and thus after it has authenticated: its compressor holds
/// some 3 MB, which nobody unknown may cost this host.
#[derive(Default)]
pub(crate) struct Pipeline(Option<Open>);

struct Open {
    server: GraphicsPipelineServer,
    acknowledged: mpsc::Receiver<u32>,
    /// One for each time that the client has begun, with nothing kept.
    rooms: mpsc::Receiver<Room>,
    room: Room,
    /// The slots in which the client keeps something.
    kept: BTreeSet<u16>,
}

impl_as_any!(Pipeline);

impl DvcProcessor for Pipeline {
    fn channel_name(&self) -> &str {
        ironrdp_egfx::CHANNEL_NAME
    }

    fn start(&mut self, channel_id: u32) -> PduResult<Vec<DvcMessage>> {
        let (sender, acknowledged) = mpsc::channel();
        let (to_rooms, rooms) = mpsc::channel();
        let room = Room::Small;
        let handler = Handler { acknowledged: sender, rooms: to_rooms, room };
        let server = GraphicsPipelineServer::new(Box::new(handler));
        let kept = BTreeSet::new();
        self.0.insert(Open { server, acknowledged, rooms, room, kept }).server.start(channel_id)
    }

    fn process(&mut self, channel_id: u32, payload: &[u8]) -> PduResult<Vec<DvcMessage>> {
        match &mut self.0 {
            Some(open) => {
                let answer = open.server.process(channel_id, payload);
                if let Some(room) = open.rooms.try_iter().last() {
                    open.room = room;
                    open.kept.clear();
                }
                answer
            }
            None => Ok(Vec::new()),
        }
    }

    fn close(&mut self, channel_id: u32) {
        if let Some(mut open) = self.0.take() {
            open.server.close(channel_id);
        }
    }
}

impl DvcServerProcessor for Pipeline {}

/// What the pipeline is doing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The client has not opened the channel, or has not said what it can.
    Absent,
    /// Open, but the surface has to be made (again: a client may start over in mid-session).
    NeedsSurface {
        /// Whether it decodes H.264.
        avc420: bool,
        /// How much it keeps.
        room: Room,
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

/// A picture that was encoded for the wire.
pub(crate) struct Sent {
    /// The bytes to send.
    pub(crate) bytes: Vec<u8>,
    /// Its last frame, which the client will acknowledge.
    pub(crate) frame: u32,
    /// Its frames as the client decodes them, for the recording.
    pub(crate) frames: Vec<Vec<u8>>,
}

impl Egfx<'_> {
    pub(crate) fn state(&self) -> State {
        let Some(Open { server, room, .. }) = &self.pipeline.processor().0 else { return State::Absent };
        if !server.is_ready() {
            State::Absent
        } else if server.surface_ids().next().is_none() {
            State::NeedsSurface { avc420: server.supports_avc420(), room: *room }
        } else {
            State::Ready
        }
    }

    /// The frames that the client has acknowledged since this was last asked.
    pub(crate) fn acknowledged(&mut self) -> Vec<u32> {
        self.pipeline
            .processor()
            .0
            .as_ref()
            .map_or_else(Vec::new, |open| open.acknowledged.try_iter().collect())
    }

    /// Whether the client acknowledges what it shows (MS-RDPEGFX 2.2.2.13: it may suspend that).
    pub(crate) fn acknowledges(&self) -> bool {
        self.pipeline.processor().0.as_ref().is_some_and(|open| open.server.frames_in_flight() > 0)
    }

    /// Makes the surface, instead of the one there may be, maps it to the output, and adds a picture of nothing, whose
    /// acknowledgement tells how long the link is. What the client has kept for the surface before is forgotten:
    /// MS-RDPEGFX has it outlive RDPGFX_RESET_GRAPHICS_PDU.
    pub(crate) fn make_surface(&mut self, layout: &Layout) -> Result<Sent, Error> {
        let size = layout.size();
        let open = self.pipeline.processor_mut().0.as_mut();
        let open = open.ok_or(Error::Internal("the graphics pipeline was closed"))?;
        let forget: Vec<_> =
            std::mem::take(&mut open.kept).into_iter().map(|slot| Command::Evict { slot }).collect();
        let server = &mut open.server;
        if !layout.is_single() {
            server.resize_with_monitors(size.width, size.height, layout.told());
        } else if server.surface_ids().next().is_some() {
            server.resize(size.width, size.height);
        } else {
            server.set_output_dimensions(size.width, size.height);
        }
        let id = server
            .create_surface(size.width, size.height)
            .ok_or(Error::Internal("the graphics pipeline refused a surface"))?;
        server.map_surface_to_output(id, 0, 0);
        let mut messages = server.drain_output();
        let frame =
            begin_frame(server, id, 0).ok_or(Error::Internal("the graphics pipeline refused a frame"))?;
        messages.push(Box::new(Wrapped(wrap_uncompressed(&frame_bytes(&forget, id, frame, 0)?))));
        Ok(Sent { bytes: self.encode(messages)?, frame, frames: Vec::new() })
    }

    /// One picture of the given size; `None` when the client has no surface for it.
    pub(crate) fn picture(
        &mut self,
        commands: &[Command],
        size: (u32, u32),
        time_ms: u32,
    ) -> Result<Option<Sent>, Error> {
        let Some(Open { server, kept, .. }) = &mut self.pipeline.processor_mut().0 else { return Ok(None) };
        let surface = server.surface_ids().next().and_then(|id| server.get_surface(id)).cloned();
        let Some(surface) = surface else { return Ok(None) };
        if (u32::from(surface.width), u32::from(surface.height)) != size {
            return Ok(None);
        }
        // MS-RDPEGFX 2.2.3.7: from version 10.4 on clients promise to take H.264 beside other codecs in one frame.
        let mixed = server.codec_capabilities().avc420_in_mixed_frames;
        let is_avc = |command: &Command| matches!(command, Command::Avc420 { .. });
        let mut wrapped: Vec<DvcMessage> = Vec::new();
        let mut frames = Vec::new();
        let mut last = None;
        for frame in commands.chunk_by(|a, b| mixed || is_avc(a) == is_avc(b)) {
            let Some(id) = begin_frame(server, surface.id, time_ms) else { return Ok(None) };
            last = Some(id);
            for command in frame {
                match command {
                    Command::Keep { slot, .. } => kept.insert(*slot),
                    Command::Evict { slot } => kept.remove(slot),
                    _ => continue,
                };
            }
            let bytes = frame_bytes(frame, surface.id, id, time_ms)?;
            wrapped.push(Box::new(Wrapped(wrap_uncompressed(&bytes))));
            frames.push(bytes);
        }
        let Some(frame) = last else { return Ok(None) };
        Ok(Some(Sent { bytes: self.encode(wrapped)?, frame, frames }))
    }

    fn encode(&mut self, messages: Vec<DvcMessage>) -> Result<Vec<u8>, Error> {
        let messages = encode_dvc_messages(self.pipeline.channel_id(), messages, ChannelFlags::SHOW_PROTOCOL)
            .map_err(|_| Error::Encode("a picture"))?;
        server_encode_svc_messages(messages, self.channel_id, self.user_channel_id)
            .map_err(|_| Error::Encode("a picture"))
    }
}

/// Opens a frame. ironrdp-egfx has no call for copies and fills, nor one to open a frame by hand; so it is given a
/// bitmap, for the number and the book-keeping of the frame, and what it would send is replaced.
fn begin_frame(server: &mut GraphicsPipelineServer, surface: u16, time_ms: u32) -> Option<u32> {
    let place = ExclusiveRectangle { left: 0, top: 0, right: 1, bottom: 1 };
    let id = server.send_clearcodec_frame(surface, place, Vec::new(), time_ms)?;
    drop(server.drain_output());
    Some(id)
}

/// A frame's PDUs (MS-RDPEGFX 2.2.2), one after the other. They may go in one `RDP_SEGMENTED_DATA` (2.2.5.1).
pub(crate) fn frame_bytes(
    commands: &[Command],
    surface: u16,
    frame_id: u32,
    time_ms: u32,
) -> Result<Vec<u8>, Error> {
    let failed = |_| Error::Encode("a picture");
    let start = GfxPdu::StartFrame(StartFramePdu { timestamp: timestamp(time_ms), frame_id });
    let end = GfxPdu::EndFrame(EndFramePdu { frame_id });
    let body = commands.iter().map(|command| pdu(command, surface));
    let mut bytes = Vec::with_capacity(64 + commands.iter().map(Command::size).sum::<usize>());
    for pdu in std::iter::once(start).chain(body).chain(std::iter::once(end)) {
        let at = bytes.len();
        bytes.resize(at + pdu.size(), 0);
        pdu.encode(&mut WriteCursor::new(&mut bytes[at..])).map_err(failed)?;
    }
    Ok(bytes)
}

/// MS-RDPEGFX 2.2.2.11: the time of day, packed.
fn timestamp(time_ms: u32) -> Timestamp {
    let seconds = time_ms / 1000;
    // All fit by their remainders.
    Timestamp {
        milliseconds: (time_ms % 1000) as u16,
        seconds: (seconds % 60) as u8,
        minutes: (seconds / 60 % 60) as u8,
        hours: (seconds / 3600 % 24) as u16,
    }
}

fn pdu(command: &Command, surface_id: u16) -> GfxPdu {
    let wire = |codec_id, destination_rectangle, bitmap_data| {
        GfxPdu::WireToSurface1(WireToSurface1Pdu {
            surface_id,
            codec_id,
            pixel_format: PixelFormat::XRgb,
            destination_rectangle,
            bitmap_data,
        })
    };
    match command {
        Command::Copy(copy) => {
            let to = exclusive(&copy.target());
            GfxPdu::SurfaceToSurface(SurfaceToSurfacePdu {
                source_surface_id: surface_id,
                destination_surface_id: surface_id,
                source_rectangle: exclusive(&copy.from),
                destination_points: vec![Point { x: to.left, y: to.top }],
            })
        }
        Command::Fill { pixel, rects } => {
            let [b, g, r, _] = pixel.to_le_bytes();
            GfxPdu::SolidFill(SolidFillPdu {
                surface_id,
                fill_pixel: Color { b, g, r, xa: 0xff },
                rectangles: rects.iter().map(exclusive).collect(),
            })
        }
        Command::Lossless { place, bytes } => wire(Codec1Type::ClearCodec, exclusive(place), bytes.clone()),
        Command::Keep { place, slot, key } => GfxPdu::SurfaceToCache(SurfaceToCachePdu {
            surface_id,
            cache_key: *key,
            cache_slot: *slot,
            source_rectangle: exclusive(place),
        }),
        Command::Recall { slot, place } => {
            let to = exclusive(place);
            GfxPdu::CacheToSurface(CacheToSurfacePdu {
                cache_slot: *slot,
                surface_id,
                destination_points: vec![Point { x: to.left, y: to.top }],
            })
        }
        Command::Evict { slot } => GfxPdu::EvictCacheEntry(EvictCacheEntryPdu { cache_slot: *slot }),
        Command::Avc420 { bytes, rects, qp } => {
            let regions: Vec<_> = rects
                .iter()
                .map(|r| {
                    let r = exclusive(r);
                    Avc420Region::new(r.left, r.top, r.right, r.bottom, *qp, 100)
                })
                .collect();
            let bounds = regions.iter().fold(None, |bounds: Option<ExclusiveRectangle>, r| {
                let bounds = bounds.unwrap_or(r.to_rectangle());
                Some(ExclusiveRectangle {
                    left: bounds.left.min(r.left),
                    top: bounds.top.min(r.top),
                    right: bounds.right.max(r.right),
                    bottom: bounds.bottom.max(r.bottom),
                })
            });
            let none = ExclusiveRectangle { left: 0, top: 0, right: 0, bottom: 0 };
            wire(Codec1Type::Avc420, bounds.unwrap_or(none), encode_avc420_bitmap_stream(&regions, bytes))
        }
    }
}

/// Bytes that are a message already.
struct Wrapped(Vec<u8>);

impl Encode for Wrapped {
    fn encode(&self, dst: &mut WriteCursor<'_>) -> EncodeResult<()> {
        dst.write_slice(&self.0);
        Ok(())
    }

    fn name(&self) -> &'static str {
        "frame"
    }

    fn size(&self) -> usize {
        self.0.len()
    }
}

impl DvcEncode for Wrapped {}

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

#[cfg(test)]
mod tests {
    use ironrdp_acceptor::{AcceptorResult, DesktopSize};
    use ironrdp_core::encode_vec;
    use ironrdp_dvc::pdu::{
        CapabilitiesResponsePdu, CapsVersion, CreateResponsePdu, CreationStatus, DataPdu, DrdynvcClientPdu,
        DrdynvcDataPdu,
    };
    use ironrdp_egfx::pdu::{CacheEntryMetadata, CacheImportOfferPdu, CapabilitiesV103Flags};

    use super::*;
    use crate::incoming::{self, Incoming};
    use crate::input::Translator;

    fn layout() -> Layout {
        Layout::one(DesktopSize { width: 640, height: 480 }, 100)
    }

    fn take(result: &mut AcceptorResult, pdu: DrdynvcClientPdu) -> Vec<u8> {
        let id = result.static_channels.get_channel_id_by_type::<DrdynvcServer>().unwrap();
        let body = encode_vec(&pdu).unwrap();
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        // FIRST | LAST
        let chunk = [&length[..], &3_u32.to_le_bytes(), &body].concat();
        match incoming::data(id, &chunk, result, &mut Translator::default()).unwrap() {
            Incoming::Answer(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    fn says(result: &mut AcceptorResult, pdu: &GfxPdu) -> Vec<u8> {
        let data = DataPdu::new(0, encode_vec(pdu).unwrap());
        take(result, DrdynvcClientPdu::Data(DrdynvcDataPdu::Data(data)))
    }

    fn advertises(result: &mut AcceptorResult, sets: &[CapabilitySet]) {
        let pdu = CapabilitiesAdvertisePdu::from_typed(sets);
        says(result, &GfxPdu::CapabilitiesAdvertise(pdu));
    }

    /// A client that has opened the pipeline.
    fn client() -> AcceptorResult {
        let mut result = crate::fuzzing::every_channel();
        for (_, channel, _) in result.static_channels.iter_mut() {
            channel.start().unwrap();
        }
        let capabilities = CapabilitiesResponsePdu::new(CapsVersion::V2);
        take(&mut result, DrdynvcClientPdu::Capabilities(capabilities));
        take(&mut result, DrdynvcClientPdu::Create(CreateResponsePdu::new(0, CreationStatus::OK)));
        result
    }

    fn pipeline(result: &mut AcceptorResult) -> Egfx<'_> {
        find(&mut result.static_channels, result.user_channel_id).unwrap()
    }

    fn holds(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    /// An RDPGFX_EVICT_CACHE_ENTRY_PDU.
    fn evict(slot: u8) -> [u8; 10] {
        [8, 0, 0, 0, 10, 0, 0, 0, slot, 0]
    }

    #[test]
    fn a_client_keeps_as_little_as_it_has_said_in_any_version() {
        let v107 = |flags| CapabilitySet::V10_7 { flags };
        let v8 = |flags| CapabilitySet::V8 { flags };
        let v103 = CapabilitySet::V10_3 { flags: CapabilitiesV103Flags::empty() };
        for (sets, expected) in [
            (&[v107(CapabilitiesV107Flags::empty())][..], Room::Large),
            (&[v107(CapabilitiesV107Flags::SMALL_CACHE)], Room::Small),
            (&[v8(CapabilitiesV8Flags::empty())], Room::Large),
            (&[v8(CapabilitiesV8Flags::SMALL_CACHE)], Room::Small),
            (&[v8(CapabilitiesV8Flags::THIN_CLIENT)], Room::Small),
            (&[v8(CapabilitiesV8Flags::SMALL_CACHE), CapabilitySet::V10_1], Room::Small),
            (&[v8(CapabilitiesV8Flags::empty()), CapabilitySet::V10_1], Room::Large),
            (&[v103], Room::Small),
        ] {
            let mut client = client();
            advertises(&mut client, sets);
            let State::NeedsSurface { room, .. } = pipeline(&mut client).state() else {
                panic!("{sets:?} is not taken")
            };
            assert_eq!(room, expected, "{sets:?}");
        }
    }

    #[test]
    fn what_was_kept_is_forgotten_with_the_surface_unless_the_client_has_begun_anew() {
        let sets = [CapabilitySet::V10_7 { flags: CapabilitiesV107Flags::empty() }];
        for anew in [false, true] {
            let mut client = client();
            advertises(&mut client, &sets);
            let mut egfx = pipeline(&mut client);
            egfx.make_surface(&layout()).unwrap();
            let place = Rect { x: 64, y: 0, width: 64, height: 64 };
            let keep = |slot| Command::Keep { place, slot, key: slot.into() };
            let commands = [keep(1), keep(2), Command::Recall { slot: 1, place }, Command::Evict { slot: 1 }];
            let sent = egfx.picture(&commands, (640, 480), 0).unwrap().unwrap();
            assert!(holds(&sent.bytes, &evict(1)) && !holds(&sent.bytes, &evict(2)));
            if anew {
                advertises(&mut client, &sets);
            }
            let sent = pipeline(&mut client).make_surface(&layout()).unwrap();
            assert!(!holds(&sent.bytes, &evict(1)));
            assert_eq!(holds(&sent.bytes, &evict(2)), !anew);
            let sent = pipeline(&mut client).make_surface(&layout()).unwrap();
            assert!(!holds(&sent.bytes, &evict(2)), "forgotten twice");
        }
    }

    #[test]
    fn nothing_of_a_clients_own_cache_is_imported() {
        let mut client = client();
        advertises(&mut client, &[CapabilitySet::V10_7 { flags: CapabilitiesV107Flags::empty() }]);
        let cache_entries = vec![CacheEntryMetadata { cache_key: 7, bitmap_len: 4096 }; 20];
        let answer = says(&mut client, &GfxPdu::CacheImportOffer(CacheImportOfferPdu { cache_entries }));
        // An RDPGFX_CACHE_IMPORT_REPLY_PDU of none.
        assert!(holds(&answer, &[0x11, 0, 0, 0, 10, 0, 0, 0, 0, 0]), "{answer:02x?}");
    }
}
