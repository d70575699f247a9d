//! A desktop that runs, with its painter and what they send: it outlives the connections that show it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironrdp_acceptor::DesktopSize;
use lucid_desktop::pointer::Shape;
use lucid_desktop::{Closed, Desktop, DesktopRequest, KeyboardLayout, Pointer};
use lucid_policy::Policy;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::audit::{Focused, Log, Newest};
use crate::curtain::Curtain;
use crate::desk::Desk;
use crate::drives::Shelf;
use crate::encoders::VideoEncoders;
use crate::gates::{self, Channels, Holding, Told};
use crate::guard::Watch;
use crate::keeper::Over;
use crate::monitors::Layout;
use crate::picture::{FromDesktop, Orders, Painter};
use crate::recording::{self, Recording, State};
use crate::sound::Source;
use crate::{Error, keyboard};

/// A desktop has this long to take another client's size; some 50 ms are usual.
const SETTLE: Duration = Duration::from_secs(10);

/// What desktops are started with.
pub(crate) struct Settings {
    /// The launcher's socket.
    pub(crate) desktop: PathBuf,
    pub(crate) keyboard: KeyboardLayout,
    /// What there may be in one: sound, a folder with the client's drives.
    pub(crate) channels: Channels,
    pub(crate) encoders: VideoEncoders,
    pub(crate) authority: Authority,
}

/// Who says what may pass.
#[derive(Clone)]
pub(crate) enum Authority {
    /// The session controller, whose socket this is; it records what is shown.
    Controller(PathBuf),
    /// One policy, for every session; nothing is recorded.
    Fixed(Arc<Policy>),
}

/// A desktop that is starting while the handshake finishes.
pub(crate) struct Opening {
    task: JoinHandle<Result<Desktop, lucid_desktop::Error>>,
    orders: Orders,
    curtain: Curtain,
    focus: Newest,
    from_desktop: mpsc::Receiver<FromDesktop>,
    keyboard: KeyboardLayout,
    authority: Authority,
    /// What encodes H.264, in words for people.
    encoder: watch::Receiver<String>,
    size: DesktopSize,
}

/// Starts a desktop; blocking work goes to another thread.
pub(crate) fn open(settings: &Settings, size: DesktopSize) -> Opening {
    let Settings { desktop: socket, keyboard, channels, encoders, authority } = settings;
    let Channels { sound, drives, .. } = *channels;
    let (out, from_desktop) = mpsc::channel(1);
    let orders = Orders::new(Mutex::new(None));
    let curtain = Curtain::default();
    let focus = Newest::default();
    let painter = Painter::new(Arc::clone(&orders), curtain.clone(), focus.clone(), out, encoders.clone());
    let (width, height) = (size.width.into(), size.height.into());
    let request = DesktopRequest { width, height, keyboard: keyboard.clone(), sound, drives };
    let socket = socket.clone();
    let task = tokio::task::spawn_blocking(move || Desktop::open(&socket, &request, painter));
    let (keyboard, authority) = (keyboard.clone(), authority.clone());
    let encoder = encoders.description();
    Opening { task, orders, curtain, focus, from_desktop, keyboard, authority, encoder, size }
}

impl Opening {
    /// Waits for it.
    pub(crate) async fn running(self, watch: Watch) -> Result<Running, Error> {
        let Opening { task, orders, curtain, focus, from_desktop, keyboard, authority, encoder, size } = self;
        let mut desktop =
            task.await.map_err(|_| Error::Internal("the thread that opens desktops died"))??;
        let sound = desktop.take_sound().map(Source::new).transpose()?.map(Rc::new);
        if let Authority::Fixed(policy) = &authority {
            gates::shield(&desktop.shielding(), policy).await?;
        }
        let log = Log::new(watch);
        let (told, holding) = gates::holding(match &authority {
            Authority::Controller(_) => None,
            Authority::Fixed(policy) => Some(Arc::clone(policy)),
        });
        let drives = desktop.take_drives();
        let shelf = drives.map(|device| Shelf::new(device, holding.clone(), log.clone())).transpose()?;
        Ok(Running {
            desktop: Owned(Some(desktop)),
            sound,
            drives: shelf,
            authority,
            told,
            holding,
            encoder,
            recording: None,
            desk: None,
            log,
            focus: Focused::new(focus),
            orders,
            curtain,
            from_desktop,
            // Until the desktop says otherwise.
            pointer: Pointer::Shape(Shape::DEFAULT),
            generation: 0,
            asked: false,
            layout: Layout::one(size, 100),
            configured: keyboard.clone(),
            keyboard,
        })
    }
}

/// A desktop. Ending one waits for its thread, which may be encoding a picture, so that is done on another
/// thread: this one serves all clients.
pub(crate) struct Owned(Option<Desktop>);

impl std::ops::Deref for Owned {
    type Target = Desktop;

    #[expect(clippy::expect_used, reason = "it is taken out in drop alone")]
    fn deref(&self) -> &Desktop {
        self.0.as_ref().expect("a desktop is there until it is dropped")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(desktop) = self.0.take() {
            tokio::task::spawn_blocking(move || drop(desktop));
        }
    }
}

/// A desktop and everything that belongs to it; a connection borrows it. Dropping it ends the desktop.
pub(crate) struct Running {
    pub(crate) desktop: Owned,
    /// What its programs play, if the gate is open.
    pub(crate) sound: Option<Rc<Source>>,
    /// The folder with its client's drives, if the gate is open.
    pub(crate) drives: Option<Shelf>,
    authority: Authority,
    told: Told,
    /// What may pass.
    pub(crate) holding: Holding,
    encoder: watch::Receiver<String>,
    /// Where what is shown is kept, if it has to be.
    pub(crate) recording: Option<Recording>,
    /// What its user is shown in the place of the desktop if he may do nothing but decide.
    pub(crate) desk: Option<Desk>,
    /// Where everything else is noted for it.
    pub(crate) log: Log,
    /// Which window has the focus.
    pub(crate) focus: Focused,
    pub(crate) orders: Orders,
    pub(crate) curtain: Curtain,
    pub(crate) from_desktop: mpsc::Receiver<FromDesktop>,
    /// What the pointer looks like, for the next client as well.
    pub(crate) pointer: Pointer,
    /// The next order's number: no client is given pictures that build on another client's.
    pub(crate) generation: u32,
    /// A picture was asked for and has not come.
    pub(crate) asked: bool,
    /// The monitors that the desktop was asked for last.
    pub(crate) layout: Layout,
    /// The layout for clients that announce none.
    configured: KeyboardLayout,
    /// The layout that the desktop has, or was asked for last.
    keyboard: KeyboardLayout,
}

impl Running {
    /// Has a recording begin, if there has to be one and is none (any more). Nothing is recorded of somebody who may do nothing
    /// but decide: he is shown nothing but his desk.
    pub(crate) async fn record(&mut self, user: &str, size: DesktopSize) -> Result<(), Error> {
        let Authority::Controller(socket) = &self.authority else { return Ok(()) };
        if let Some(State::Over(why)) = self.recording.as_ref().map(Recording::state) {
            return Err(Error::Over(why));
        }
        let desk = Desk::open(socket, user).await?;
        if desk.is_some() && self.recording.is_some() {
            // He was somebody else when it began.
            return Err(Error::Over("its user may only decide now, and uses no desktop".to_owned()));
        }
        self.desk = desk;
        if self.desk.is_some() {
            return Ok(());
        }
        if matches!(self.recording.as_ref().map(Recording::state), None | Some(State::Off(_))) {
            let encoder = self.encoder.borrow().clone();
            let (told, shielding) = (self.told.clone(), self.desktop.shielding());
            let recording = Recording::begin(socket, user, size, encoder, told, shielding).await?;
            self.log.set(Some(recording.queue()));
            // It goes on as soon as a policy holds.
            self.recording = Some(recording);
        }
        Ok(())
    }

    /// Why the controller has ended the session, if it has.
    pub(crate) fn is_over(&self) -> Option<String> {
        match self.recording.as_ref().map(Recording::state) {
            Some(State::Over(why)) => Some(why),
            _ => None,
        }
    }

    /// Waits until the controller ends the session; returns why.
    async fn over(recording: &mut Option<Recording>) -> String {
        loop {
            if let Some(State::Over(why)) = recording.as_ref().map(Recording::state) {
                return why;
            }
            recording::changed(recording).await;
        }
    }

    /// Whether what happens is recorded, or need not be; not before a policy holds, which may shield the window that has the
    /// focus.
    pub(crate) fn is_recorded(&self) -> bool {
        let recording = self.recording.as_ref();
        self.desk.is_none() && recording.is_none_or(|recording| recording.cuts().is_some())
    }

    /// Which window has the focus, for a recording that begins or goes on.
    pub(crate) fn note_focus(&mut self) {
        if let Some(focus) = self.focus.again() {
            self.log.note(focus);
        }
    }

    /// The last of what happened, for the recording, which ends with this and the desktop: what is returned, if there is
    /// one, is done when its end is kept.
    pub(crate) async fn finish(mut self) -> Option<JoinHandle<()>> {
        if self.is_recorded()
            && let Some(focus) = self.focus.rest()
        {
            self.log.note(focus);
        }
        if let Some(drives) = &self.drives {
            drives.tell_open();
        }
        if self.is_asking() {
            // It has not begun.
            self.log.set(None);
            self.recording = None;
            return None;
        }
        self.log.flush().await;
        self.log.set(None);
        self.recording.take().map(Recording::end)
    }

    /// Whether its user has not accepted the policy yet.
    pub(crate) fn is_asking(&self) -> bool {
        matches!(self.recording.as_ref().map(Recording::state), Some(State::Asking(_)))
    }

    /// Lets go of what belonged to the last client: keys and buttons, its pictures, the encoder and its memory.
    /// What is still under way must be taken with [`parked`](Running::parked).
    pub(crate) fn park(&mut self) {
        self.curtain.close();
        if let Ok(mut orders) = self.orders.lock() {
            *orders = None;
        }
        if let Err(e) = self.desktop.release_all() {
            // The desktop is ending; its own message says so.
            tracing::debug!("releasing keys: {e}");
        }
        // One picture that nobody is shown: the painter sees that the curtain is closed, and nothing more is pending.
        self.ask();
        self.desktop.refresh_all();
    }

    /// Asks the desktop for monitors.
    pub(crate) fn arrange(&mut self, layout: Layout) -> Result<(), Error> {
        self.desktop.arrange(layout.monitors())?;
        self.layout = layout;
        Ok(())
    }

    /// Gives the desktop a client's monitors, if it has others.
    pub(crate) fn take_monitors(&mut self, layout: Layout) -> Result<(), Error> {
        if layout == self.layout { Ok(()) } else { self.arrange(layout) }
    }

    /// Gives the desktop the keyboard layout that a client announced (MS-RDPBCGR 2.2.1.3.2).
    pub(crate) fn take_layout(&mut self, identifier: u32) -> Result<(), Error> {
        let wanted = keyboard::layout(identifier).unwrap_or_else(|| {
            if identifier != 0 {
                let (layout, variant) = (&self.configured.layout, &self.configured.variant);
                tracing::warn!(
                    identifier = format!("{identifier:#010x}"),
                    layout,
                    variant,
                    "the client's keyboard layout is not known; the configured one is taken"
                );
            }
            self.configured.clone()
        });
        if wanted != self.keyboard {
            self.desktop.set_keyboard(&wanted)?;
            self.keyboard = wanted;
        }
        Ok(())
    }

    /// Takes what still comes while nobody looks, for as long as the desktop lives; returns why it ended.
    pub(crate) async fn parked(&mut self) -> Over {
        loop {
            if !self.is_asking() {
                self.log.flush().await;
            }
            let recorded = self.is_recorded();
            let message = tokio::select! {
                message = self.from_desktop.recv() => message,
                why = Running::over(&mut self.recording) => return Over::Controller(why),
                focus = self.focus.changed(), if recorded => {
                    self.log.note(focus);
                    continue;
                }
            };
            match message {
                Some(FromDesktop::Closed(Closed::Gone(why))) => return Over::Desktop(why.to_string()),
                Some(FromDesktop::Closed(_)) | None => return Over::Desktop("it was closed".into()),
                Some(FromDesktop::Withheld { .. }) => self.asked = false,
                Some(FromDesktop::Pointer(pointer)) => self.pointer = pointer,
                // The rest follows.
                Some(
                    FromDesktop::Ahead { .. }
                    | FromDesktop::Aside(_)
                    | FromDesktop::Key { .. }
                    | FromDesktop::Shielded,
                ) => {}
                // The next client has its size asked for anew.
                Some(FromDesktop::SizeRefused { .. }) => {}
                // Made while the curtain fell: the encoder is still there.
                Some(FromDesktop::Picture(_) | FromDesktop::Failed(_)) => self.ask_whole(),
            }
        }
    }

    /// Brings a parked desktop to the monitors of the next client.
    pub(crate) async fn settle(&mut self, layout: Layout) -> Result<(), Error> {
        let size = layout.size();
        let wanted = (u32::from(size.width), u32::from(size.height));
        // Even if it has that size now: the client before may have asked for another one just then.
        self.arrange(layout)?;
        self.ask();
        self.desktop.refresh_all();
        let settled = async {
            loop {
                match self.from_desktop.recv().await {
                    Some(FromDesktop::Withheld { width, height }) => {
                        self.asked = false;
                        if (width, height) == wanted {
                            return Ok(());
                        }
                        // The next one comes when something changes, which the new size does.
                        self.ask();
                    }
                    Some(FromDesktop::Pointer(pointer)) => self.pointer = pointer,
                    // The rest follows.
                    Some(
                        FromDesktop::Ahead { .. }
                        | FromDesktop::Aside(_)
                        | FromDesktop::Key { .. }
                        | FromDesktop::Shielded,
                    ) => {}
                    // Of the client before; if of this one, the time runs out.
                    Some(FromDesktop::SizeRefused { .. }) => {}
                    // Of the client before, made while it went.
                    Some(FromDesktop::Picture(_) | FromDesktop::Failed(_)) => self.ask_whole(),
                    Some(FromDesktop::Closed(Closed::Gone(why))) => return Err(why.into()),
                    Some(FromDesktop::Closed(_)) | None => {
                        return Err(Error::Internal("the desktop was closed"));
                    }
                }
            }
        };
        match tokio::time::timeout(SETTLE, settled).await {
            Ok(settled) => settled,
            Err(_) => Err(Error::Size { width: wanted.0, height: wanted.1, seconds: SETTLE.as_secs() }),
        }
    }

    fn ask_whole(&mut self) {
        self.asked = false;
        self.ask();
        self.desktop.refresh_all();
    }

    fn ask(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.desktop.request_frame();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The recording ends when nobody can write to it any more; threads that still give a paste come before that.
        self.log.set(None);
    }
}
