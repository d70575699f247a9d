//! The desktop's clipboard: what programs put there, and what the client offers to them.
//!
//! Over `ext-data-control-v1` where the compositor has it, else `wlr-data-control-unstable-v1`. Nothing is
//! bound before [`Desktop::clipboard`](crate::Desktop::clipboard) is called. The primary selection (what is
//! merely marked) is not bridged: version 1 of the wlr protocol does not even tell of it, and what ext tells
//! is thrown away.
//!
//! Only names of types cross by themselves. Content is read with [`ClipboardOffer::receive`], and given with
//! [`Paste::write`], when somebody pastes.
//!
//! A program of the desktop is not trusted: it may offer any number of types, offer anew without end, never
//! write, never read, or write for ever. What is kept here is bounded; who reads or writes bounds the bytes
//! and the time.

use crate::Error;
use crate::session::Session;
use crate::shared::Shared;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wayland_client::protocol::wl_registry::WlRegistry;
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, delegate_noop, event_created_child};
use wayland_protocols::ext::data_control::v1::client::ext_data_control_device_v1::{
    self, ExtDataControlDeviceV1,
};
use wayland_protocols::ext::data_control::v1::client::ext_data_control_manager_v1::ExtDataControlManagerV1;
use wayland_protocols::ext::data_control::v1::client::ext_data_control_offer_v1::{
    self, ExtDataControlOfferV1,
};
use wayland_protocols::ext::data_control::v1::client::ext_data_control_source_v1::{
    self, ExtDataControlSourceV1,
};
use wayland_protocols_wlr::data_control::v1::client::zwlr_data_control_device_v1::{
    self, ZwlrDataControlDeviceV1,
};
use wayland_protocols_wlr::data_control::v1::client::zwlr_data_control_manager_v1::ZwlrDataControlManagerV1;
use wayland_protocols_wlr::data_control::v1::client::zwlr_data_control_offer_v1::{
    self, ZwlrDataControlOfferV1,
};
use wayland_protocols_wlr::data_control::v1::client::zwlr_data_control_source_v1::{
    self, ZwlrDataControlSourceV1,
};

/// Types of one offer that are kept; programs offer some twenty.
pub const MAX_MIME_TYPES: usize = 64;
/// The longest name of a type that is kept, in bytes.
pub const MAX_MIME_TYPE: usize = 255;
/// Stands among the types of what [`Clipboard::offer`] offers, so that it is known when it comes back.
const OWN: &str = "application/x-lucid-from-client";

/// Is told what happens on the clipboard, on the desktop's own thread: must return quickly.
pub trait ClipboardSink: Send + Sync {
    /// A program has put something there; none: there is nothing any more. What [`Clipboard::offer`] put
    /// there is not told.
    fn offered(&self, offer: Option<ClipboardOffer>);
    /// A program pastes what [`Clipboard::offer`] put there. Dropping it is an empty answer.
    fn asked(&self, paste: Paste);
}

/// Something that a program has put on the clipboard. Dropped when another one takes its place.
pub struct ClipboardOffer {
    mime_types: Vec<String>,
    offer: Offer,
    wayland: Wayland,
}

impl std::fmt::Debug for ClipboardOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClipboardOffer").field("mime_types", &self.mime_types).finish()
    }
}

impl ClipboardOffer {
    /// The types in which it can be had, at most [`MAX_MIME_TYPES`]; chosen by the program.
    #[must_use]
    pub fn mime_types(&self) -> &[String] {
        &self.mime_types
    }

    /// Asks the program for its content. The program writes into the pipe whose reading end this is
    /// (non-blocking), as much and as slowly as it likes, or closes it at once.
    ///
    /// # Errors
    /// When no pipe can be made, or the connection to the compositor is gone.
    pub fn receive(&self, mime_type: &str) -> Result<OwnedFd, Error> {
        let doing = "making a pipe for the clipboard";
        let (reading, writing) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::system(doing))?;
        // Ours alone: the two ends of a pipe have flags of their own.
        rustix::io::ioctl_fionbio(&reading, true).map_err(Error::system(doing))?;
        match &self.offer {
            Offer::Ext(offer) => offer.receive(mime_type.into(), writing.as_fd()),
            Offer::Wlr(offer) => offer.receive(mime_type.into(), writing.as_fd()),
        }
        self.wayland.flush()?;
        Ok(reading)
    }
}

impl Drop for ClipboardOffer {
    fn drop(&mut self) {
        self.offer.destroy();
        // An error means that the desktop is gone, and the offer with it.
        let _ = self.wayland.flush();
    }
}

/// A program's wish for something that [`Clipboard::offer`] offered.
#[derive(Debug)]
pub struct Paste {
    /// The number given to [`Clipboard::offer`].
    pub number: u64,
    /// In which type; one of those offered.
    pub mime_type: String,
    to: OwnedFd,
}

impl Paste {
    /// Whether the program has closed its end, and takes nothing any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let mut poll = [PollFd::new(&self.to, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Writes the answer to the program. Blocks for up to `limit` when the program does not read; **may block
    /// longer** when it makes its end of the pipe blocking, until the desktop ends: call it on a thread that can
    /// be spared.
    ///
    /// # Errors
    /// When the program closes its end or does not read in time.
    pub fn write(self, mut bytes: &[u8], limit: Duration) -> Result<(), Error> {
        /// At most PIPE_BUF, for which there is room when a pipe is writable.
        const PIECE: usize = 4096;
        let doing = "giving the clipboard's content to a program";
        let deadline = Instant::now() + limit;
        rustix::io::ioctl_fionbio(&self.to, true).map_err(Error::system(doing))?;
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut poll = [PollFd::new(&self.to, PollFlags::OUT)];
            match rustix::event::poll(&mut poll, Some(&wait)) {
                Ok(0) => return Err(Error::TimedOut { doing, seconds: limit.as_secs() }),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(Error::system(doing)(e)),
            }
            let piece = bytes.get(..PIECE).unwrap_or(bytes);
            match rustix::io::write(&self.to, piece) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(e) => return Err(Error::system(doing)(e)),
            }
        }
        Ok(())
    }
}

/// The connection, for sending requests from any thread.
#[derive(Clone)]
struct Wayland {
    connection: Connection,
    shared: Arc<Shared>,
}

impl Wayland {
    fn flush(&self) -> Result<(), Error> {
        self.shared.flush(&self.connection)
    }
}

/// What binding the clipboard takes; kept by the desktop until somebody wants it.
pub(crate) struct Unbound {
    registry: WlRegistry,
    handle: QueueHandle<Session>,
    // Name and version of each, as far as the compositor offers them.
    ext: Option<(u32, u32)>,
    wlr: Option<(u32, u32)>,
    seat: Option<(u32, u32)>,
}

impl Unbound {
    pub(crate) fn new(session: &Session, registry: WlRegistry, handle: QueueHandle<Session>) -> Unbound {
        Unbound {
            ext: session.global(ExtDataControlManagerV1::interface().name),
            wlr: session.global(ZwlrDataControlManagerV1::interface().name),
            seat: session.global(WlSeat::interface().name),
            registry,
            handle,
        }
    }
}

/// The clipboard of a desktop that somebody listens to. Dropping it ends that.
pub struct Clipboard {
    manager: Manager,
    device: Device,
    handle: QueueHandle<Session>,
    wayland: Wayland,
    state: Arc<State>,
    source: Mutex<Option<Source>>,
}

impl std::fmt::Debug for Clipboard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clipboard").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Clipboard {
    pub(crate) fn bind(
        unbound: &Unbound,
        connection: &Connection,
        shared: &Arc<Shared>,
        sink: Arc<dyn ClipboardSink>,
    ) -> Result<Clipboard, Error> {
        let Unbound { registry, handle, ext, wlr, seat } = unbound;
        let wayland = Wayland { connection: connection.clone(), shared: Arc::clone(shared) };
        let (seat, version) = seat.ok_or(Error::Missing { interface: "wl_seat" })?;
        let seat: WlSeat = registry.bind(seat, version.min(5), handle, ());
        let state = Arc::new(State { sink, coming: Mutex::new(None), wayland: wayland.clone() });
        let (manager, device) = match (ext, wlr) {
            (Some((name, _)), _) => {
                let manager: ExtDataControlManagerV1 = registry.bind(*name, 1, handle, ());
                let device = manager.get_data_device(&seat, handle, Arc::clone(&state));
                (Manager::Ext(manager), Device::Ext(device))
            }
            (None, Some((name, _))) => {
                let manager: ZwlrDataControlManagerV1 = registry.bind(*name, 1, handle, ());
                let device = manager.get_data_device(&seat, handle, Arc::clone(&state));
                (Manager::Wlr(manager), Device::Wlr(device))
            }
            (None, None) => return Err(Error::Missing { interface: "zwlr_data_control_manager_v1" }),
        };
        if seat.version() >= 5 {
            seat.release();
        }
        wayland.flush()?;
        Ok(Clipboard { manager, device, handle: handle.clone(), wayland, state, source: Mutex::new(None) })
    }

    /// Puts something on the clipboard that can be had in these types; a [`Paste`] is made for each wish.
    /// `number` is the caller's, to tell one offer from another.
    ///
    /// # Errors
    /// When the connection to the compositor is gone.
    pub fn offer(&self, number: u64, mime_types: &[&str]) -> Result<(), Error> {
        let asking = Asking { number, state: Arc::clone(&self.state) };
        let source = match &self.manager {
            Manager::Ext(manager) => Source::Ext(manager.create_data_source(&self.handle, asking)),
            Manager::Wlr(manager) => Source::Wlr(manager.create_data_source(&self.handle, asking)),
        };
        for mime_type in mime_types.iter().copied().chain([OWN]) {
            match &source {
                Source::Ext(source) => source.offer(mime_type.into()),
                Source::Wlr(source) => source.offer(mime_type.into()),
            }
        }
        match (&self.device, &source) {
            (Device::Ext(device), Source::Ext(source)) => device.set_selection(Some(source)),
            (Device::Wlr(device), Source::Wlr(source)) => device.set_selection(Some(source)),
            // Both were made from the same manager.
            _ => return Err(Error::Protocol { what: "two clipboard protocols are mixed".into() }),
        }
        if let Some(former) = lock(&self.source).replace(source) {
            former.destroy();
        }
        self.wayland.flush()
    }

    /// Takes back what [`offer`](Clipboard::offer) put there, if it is there still.
    ///
    /// # Errors
    /// When the connection to the compositor is gone.
    pub fn withdraw(&self) -> Result<(), Error> {
        if let Some(former) = lock(&self.source).take() {
            former.destroy();
        }
        self.wayland.flush()
    }
}

impl Drop for Clipboard {
    fn drop(&mut self) {
        if let Some(source) = lock(&self.source).take() {
            source.destroy();
        }
        match (&self.device, &self.manager) {
            (Device::Ext(device), Manager::Ext(manager)) => {
                device.destroy();
                manager.destroy();
            }
            (Device::Wlr(device), Manager::Wlr(manager)) => {
                device.destroy();
                manager.destroy();
            }
            _ => {}
        }
        // An error means that the desktop is gone, and the clipboard with it.
        let _ = self.wayland.flush();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks leaves the data half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Manager {
    Ext(ExtDataControlManagerV1),
    Wlr(ZwlrDataControlManagerV1),
}

#[derive(Debug)]
enum Device {
    Ext(ExtDataControlDeviceV1),
    Wlr(ZwlrDataControlDeviceV1),
}

enum Source {
    Ext(ExtDataControlSourceV1),
    Wlr(ZwlrDataControlSourceV1),
}

impl Source {
    fn destroy(&self) {
        match self {
            Source::Ext(source) => source.destroy(),
            Source::Wlr(source) => source.destroy(),
        }
    }
}

#[derive(Clone, PartialEq)]
enum Offer {
    Ext(ExtDataControlOfferV1),
    Wlr(ZwlrDataControlOfferV1),
}

impl Offer {
    fn destroy(&self) {
        match self {
            Offer::Ext(offer) => offer.destroy(),
            Offer::Wlr(offer) => offer.destroy(),
        }
    }
}

/// The types of an offer, as they are being told; stands with the offer's object.
#[derive(Default)]
pub(crate) struct Types(Mutex<Told>);

#[derive(Default)]
struct Told {
    mime_types: Vec<String>,
    /// It is what we have offered ourselves.
    own: bool,
}

impl Types {
    fn add(&self, mime_type: String) {
        let mut told = lock(&self.0);
        if mime_type == OWN {
            told.own = true;
        } else if told.mime_types.len() < MAX_MIME_TYPES && (1..=MAX_MIME_TYPE).contains(&mime_type.len()) {
            told.mime_types.push(mime_type);
        }
    }
}

/// What the events of the clipboard's objects change.
pub(crate) struct State {
    sink: Arc<dyn ClipboardSink>,
    /// An offer that has been introduced and is no selection yet.
    coming: Mutex<Option<Offer>>,
    wayland: Wayland,
}

impl State {
    fn introduced(&self, offer: Offer) {
        // It never became the selection: no compositor does that, and none shall fill our memory by it.
        if let Some(former) = lock(&self.coming).replace(offer) {
            former.destroy();
        }
    }

    fn selected(&self, offer: Option<Offer>) {
        let Some(offer) = offer else {
            self.sink.offered(None);
            return;
        };
        let told = self.take(&offer);
        if told.own {
            offer.destroy();
        } else {
            let wayland = self.wayland.clone();
            self.sink.offered(Some(ClipboardOffer { mime_types: told.mime_types, offer, wayland }));
        }
    }

    fn selected_primary(&self, offer: Option<Offer>) {
        if let Some(offer) = offer {
            self.take(&offer);
            offer.destroy();
        }
    }

    fn take(&self, offer: &Offer) -> Told {
        lock(&self.coming).take_if(|coming| coming == offer);
        let types = match offer {
            Offer::Ext(offer) => offer.data::<Types>(),
            Offer::Wlr(offer) => offer.data::<Types>(),
        };
        types.map(|types| std::mem::take(&mut *lock(&types.0))).unwrap_or_default()
    }
}

/// Which of our offers a source is.
pub(crate) struct Asking {
    number: u64,
    state: Arc<State>,
}

/// Both protocols have the same events.
macro_rules! data_control {
    (
        $kind:ident: $manager:ident, $device:ident in $device_mod:ident,
        $offer:ident in $offer_mod:ident, $source:ident in $source_mod:ident
    ) => {
        delegate_noop!(Session: $manager);

        impl Dispatch<$device, Arc<State>> for Session {
            fn event(
                _: &mut Session,
                _: &$device,
                event: $device_mod::Event,
                state: &Arc<State>,
                _: &Connection,
                _: &QueueHandle<Session>,
            ) {
                use $device_mod::Event;
                match event {
                    Event::DataOffer { id } => state.introduced(Offer::$kind(id)),
                    Event::Selection { id } => state.selected(id.map(Offer::$kind)),
                    Event::PrimarySelection { id } => state.selected_primary(id.map(Offer::$kind)),
                    // Finished: the seat is gone, and nothing will come any more.
                    _ => {}
                }
            }

            event_created_child!(Session, $device, [
                $device_mod::EVT_DATA_OFFER_OPCODE => ($offer, Types::default()),
            ]);
        }

        impl Dispatch<$offer, Types> for Session {
            fn event(
                _: &mut Session,
                _: &$offer,
                event: $offer_mod::Event,
                types: &Types,
                _: &Connection,
                _: &QueueHandle<Session>,
            ) {
                if let $offer_mod::Event::Offer { mime_type } = event {
                    types.add(mime_type);
                }
            }
        }

        impl Dispatch<$source, Asking> for Session {
            fn event(
                _: &mut Session,
                _: &$source,
                event: $source_mod::Event,
                asking: &Asking,
                _: &Connection,
                _: &QueueHandle<Session>,
            ) {
                if let $source_mod::Event::Send { mime_type, fd } = event
                    && mime_type != OWN
                {
                    asking.state.sink.asked(Paste { number: asking.number, mime_type, to: fd });
                }
            }
        }
    };
}

data_control!(Ext: ExtDataControlManagerV1, ExtDataControlDeviceV1 in ext_data_control_device_v1,
    ExtDataControlOfferV1 in ext_data_control_offer_v1, ExtDataControlSourceV1 in ext_data_control_source_v1);
data_control!(Wlr: ZwlrDataControlManagerV1, ZwlrDataControlDeviceV1 in zwlr_data_control_device_v1,
    ZwlrDataControlOfferV1 in zwlr_data_control_offer_v1, ZwlrDataControlSourceV1 in zwlr_data_control_source_v1);
