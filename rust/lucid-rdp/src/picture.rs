//! Pictures of the desktop become what one client can show. Runs on the desktop's own thread.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ironrdp_pdu::fast_path::UpdateCode;
use lucid_desktop::{Closed, Frame, FrameSink, Rect};
use tokio::sync::mpsc;

use crate::Error;
use crate::audit::Newest;
use crate::bitmap::BitmapEncoder;
use crate::capabilities::RemoteFx;
use crate::curtain::{Curtain, Overlaid};
use crate::encoders::VideoEncoders;
use crate::fastpath::Update;
use crate::graphics::{Command, Drawing, REFINEMENT, Room, Surface, Wishes};
use crate::remotefx::RefinedRemoteFx;

/// In which form a client gets its pictures; the first that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// The graphics pipeline: copies, fills and lossless ClearCodec, and H.264 4:2:0 for what moves if the client
    /// decodes it.
    Graphics {
        /// It does.
        avc420: bool,
        /// How much it keeps.
        room: Room,
    },
    /// RemoteFX in surface commands.
    RemoteFx(RemoteFx),
    /// Lossless RDP 6.0 bitmaps.
    Bitmap,
}

impl Codec {
    /// The codec's name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Codec::Graphics { avc420: true, .. } => "EGFX ClearCodec and AVC420",
            Codec::Graphics { avc420: false, .. } => "EGFX ClearCodec",
            Codec::RemoteFx(_) => "RemoteFX",
            Codec::Bitmap => "RDP 6.0 bitmaps",
        }
    }
}

/// What the session sends.
#[derive(Debug)]
pub(crate) enum Encoded {
    /// What the graphics pipeline does to a surface of this size; nothing if nothing has changed.
    Graphics {
        commands: Vec<Command>,
        size: (u32, u32),
        /// When the session should wish for a refinement.
        refine_in: Option<Duration>,
    },
    /// Fast-path updates.
    Updates {
        /// The kind of each, and its payload.
        updates: Vec<Update>,
        /// As above.
        refine_in: Option<Duration>,
    },
}

/// What comes from the desktop's thread.
#[derive(Debug)]
pub(crate) enum FromDesktop {
    /// What the client shows now, for the recording: what follows needs nothing that came before. No pixels (R, G, B)
    /// when it shows nothing yet.
    Key { width: u32, height: u32, pixels: Vec<u8> },
    /// What the recording is shown of the next picture, where the client is shown it otherwise.
    Aside(Vec<Command>),
    /// What is exact of the next picture, whose rest is being encoded; for a surface of this size.
    Ahead { commands: Vec<Command>, size: (u32, u32) },
    /// The next picture.
    Picture(Encoded),
    /// Something else is shielded: what came before this showed it, what comes after does not.
    Shielded,
    /// The pointer looks differently now.
    Pointer(lucid_desktop::Pointer),
    /// A picture of this size was there, but nobody is shown any now, or none of that size.
    Withheld { width: u32, height: u32 },
    /// The desktop did not take that size and keeps the one it had.
    SizeRefused { width: u32, height: u32 },
    /// Encoding failed; the session cannot go on.
    Failed(Error),
    /// The desktop is gone.
    Closed(Closed),
}

/// What the session tells the painter; read at each frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) codec: Codec,
    /// What the client shows, in pixels; pictures of another size are withheld.
    pub(crate) size: (u32, u32),
    pub(crate) max_update: usize,
    /// Counts up when the client has lost what it had: the next picture must stand alone.
    pub(crate) generation: u32,
    /// Counts up when the client has lost what it showed, but not its decoders' state.
    pub(crate) repaint: u32,
    /// What the next picture may take, in bytes.
    pub(crate) budget: usize,
    /// Whether the next picture may make still parts exact.
    pub(crate) refine: bool,
    /// Counts up when the recording is to be cut; none when nothing is recorded.
    pub(crate) cut: Option<u32>,
}

/// The order that holds now; none until the client's abilities are known.
pub(crate) type Orders = Arc<Mutex<Option<Order>>>;

/// Encodes frames as ordered and passes them on.
pub(crate) struct Painter {
    orders: Orders,
    curtain: Curtain,
    overlaid: Overlaid,
    focus: Newest,
    out: mpsc::Sender<FromDesktop>,
    encoders: VideoEncoders,
    encoder: Option<Active>,
}

struct Active {
    order: Order,
    encoder: AnyEncoder,
    /// The recording's own, for clients without the graphics pipeline.
    aside: Option<Box<Surface>>,
}

/// What a picture of a recording's own may take, in bytes, if it can be helped.
const ASIDE: usize = 24 * 1024;

enum AnyEncoder {
    Graphics { surface: Box<Surface>, avc420: bool },
    RemoteFx(Box<RefinedRemoteFx>),
    Bitmap(BitmapEncoder),
}

impl Painter {
    pub(crate) fn new(
        orders: Orders,
        curtain: Curtain,
        focus: Newest,
        out: mpsc::Sender<FromDesktop>,
        encoders: VideoEncoders,
    ) -> Painter {
        Painter { orders, curtain, overlaid: Overlaid::default(), focus, out, encoders, encoder: None }
    }

    fn encode(&mut self, frame: Frame<'_>) -> Result<Option<FromDesktop>, Error> {
        let order = *self.orders.lock().map_err(|_| Error::Internal("a thread died while giving orders"))?;
        // Frames are asked for only after the order is given.
        let Some(order) = order else { return Ok(None) };
        if order.size != (frame.width, frame.height) {
            return Ok(Some(FromDesktop::Withheld { width: frame.width, height: frame.height }));
        }
        let renew = self.encoder.as_ref().is_none_or(|a| {
            a.order.generation != order.generation
                || a.order.codec != order.codec
                || a.order.size != order.size
        });
        let whole = [Rect { x: 0, y: 0, width: frame.width, height: frame.height }];
        let damage = if renew { &whole } else { frame.damage };
        if renew {
            let encoder = match order.codec {
                Codec::Graphics { avc420, room } => {
                    let surface = Surface::new(frame.width, frame.height, room, self.encoders.clone());
                    AnyEncoder::Graphics { surface: Box::new(surface), avc420 }
                }
                Codec::RemoteFx(client) => {
                    AnyEncoder::RemoteFx(Box::new(RefinedRemoteFx::new(client, order.size)))
                }
                Codec::Bitmap => AnyEncoder::Bitmap(BitmapEncoder::new()),
            };
            self.encoder = Some(Active { order, encoder, aside: None });
        }
        let Some(active) = &mut self.encoder else { return Ok(None) };
        // As in `send`.
        let send = |message| drop(self.out.blocking_send(message));
        let cut = order.cut.is_some() && (renew || active.order.cut != order.cut);
        if !matches!(active.encoder, AnyEncoder::Graphics { .. }) && order.cut.is_some() {
            let surface = active.aside.get_or_insert_with(|| {
                Box::new(Surface::new(frame.width, frame.height, Room::Small, self.encoders.clone()))
            });
            if cut {
                send(FromDesktop::Aside(surface.cut()));
                send(key(surface));
            }
            let wishes = Wishes { avc420: true, budget: ASIDE, refine: false };
            let (now, frame) = (Instant::now(), Frame { damage, ..frame });
            let aside = |commands| send(FromDesktop::Aside(commands));
            let drawing = surface.draw(&frame, wishes, now, aside)?;
            send(FromDesktop::Aside(drawing.commands));
        }
        let encoded = match &mut active.encoder {
            AnyEncoder::Graphics { surface, avc420 } => {
                let size = surface.size();
                let ahead = |commands: Vec<Command>| send(FromDesktop::Ahead { commands, size });
                if active.order.repaint != order.repaint {
                    surface.lost();
                }
                if cut {
                    ahead(surface.cut());
                    send(key(surface));
                }
                let wishes = Wishes { avc420: *avc420, budget: order.budget, refine: order.refine };
                let frame = Frame { damage, ..frame };
                let Drawing { commands, refine_in } = surface.draw(&frame, wishes, Instant::now(), ahead)?;
                Encoded::Graphics { commands, size, refine_in }
            }
            AnyEncoder::RemoteFx(encoder) => {
                let room = if order.refine { order.budget.min(REFINEMENT) } else { 0 };
                let frame = Frame { damage, ..frame };
                let (updates, refine_in) = encoder.encode(&frame, order.max_update, room, Instant::now())?;
                Encoded::Updates { updates, refine_in }
            }
            AnyEncoder::Bitmap(encoder) => {
                let bitmaps = encoder.encode(&frame, damage)?.into_iter();
                let updates = bitmaps.map(|payload| (UpdateCode::Bitmap, payload)).collect();
                Encoded::Updates { updates, refine_in: None }
            }
        };
        active.order = order;
        Ok(Some(FromDesktop::Picture(encoded)))
    }

    fn send(&self, message: FromDesktop) {
        // The session may have ended meanwhile; then nobody wants it any more.
        let _ = self.out.blocking_send(message);
    }
}

/// What a surface shows, for the recording.
fn key(surface: &Surface) -> FromDesktop {
    let (width, height) = surface.size();
    if surface.is_blank() {
        return FromDesktop::Key { width, height, pixels: Vec::new() };
    }
    let pixels = surface.shown().as_chunks::<4>().0.iter().flat_map(|[b, g, r, _]| [*r, *g, *b]).collect();
    FromDesktop::Key { width, height, pixels }
}

impl FrameSink for Painter {
    fn frame(&mut self, frame: Frame<'_>) {
        let (width, height) = (frame.width, frame.height);
        // Out of the painter meanwhile, because the picture borrows it.
        let mut overlaid = std::mem::take(&mut self.overlaid);
        let Some(frame) = self.curtain.pass(frame, &mut overlaid) else {
            // Nor is the encoder's memory held for nobody.
            self.encoder = None;
            return self.send(FromDesktop::Withheld { width, height });
        };
        match self.encode(frame) {
            Ok(Some(message)) => self.send(message),
            Ok(None) => self.send(FromDesktop::Failed(Error::Internal("a picture came before its order"))),
            Err(error) => self.send(FromDesktop::Failed(error)),
        }
        self.overlaid = overlaid;
    }

    fn resize_failed(&mut self, width: u32, height: u32) {
        self.send(FromDesktop::SizeRefused { width, height });
    }

    fn pointer(&mut self, pointer: lucid_desktop::Pointer) {
        self.send(FromDesktop::Pointer(pointer));
    }

    fn forget(&mut self) {
        if let Some(Active { encoder, aside, .. }) = &mut self.encoder {
            // Nor does a recording that is cut begin with it.
            let surface =
                if let AnyEncoder::Graphics { surface, .. } = encoder { Some(surface) } else { None };
            surface.into_iter().chain(aside).for_each(|surface| surface.lost());
        }
        // The desktop goes on when what was made before is taken.
        self.send(FromDesktop::Shielded);
    }

    fn focus(&mut self, focus: Option<&lucid_desktop::Focus>) {
        self.focus.set(focus.cloned());
    }

    fn closed(&mut self, reason: Closed) {
        self.send(FromDesktop::Closed(reason));
    }
}
