//! A session's desktop, seen from the program that serves it to a client.
//!
//! [`Desktop::open`] asks a launcher (the `lucid-desktop` program, see [`handover`]) for a compositor
//! of its own, gives its pictures to a [`FrameSink`] and takes [`Input`]. The desktop lives exactly as
//! long as the [`Desktop`]: when it is dropped, or its process dies, the launcher kills everything.
//!
//! Nothing is polled: one thread sleeps until the compositor reports damage or a command comes.
//!
//! ```no_run
//! # use lucid_desktop::{Desktop, DesktopRequest, Frame, FrameSink, Closed, Input, KeyboardLayout};
//! struct Print;
//! impl FrameSink for Print {
//!     fn frame(&mut self, frame: Frame<'_>) { println!("{} rectangles", frame.damage.len()); }
//!     fn closed(&mut self, reason: Closed) { println!("{reason:?}"); }
//! }
//! # fn main() -> Result<(), lucid_desktop::Error> {
//! let keyboard = KeyboardLayout { layout: "us".into(), variant: String::new() };
//! let request = DesktopRequest { width: 1280, height: 720, keyboard, sound: false, drives: false };
//! let desktop = Desktop::open("/run/lucid/desktop.sock".as_ref(), &request, Print)?;
//! desktop.request_frame();
//! desktop.input(Input::PointerMove { x: 10, y: 10 })?;
//! # Ok(())
//! # }
//! ```

mod characters;
mod clipboard;
mod damage;
mod desktop;
mod devices;
mod error;
mod events;
pub mod files;
pub mod handover;
mod keyboard;
pub mod monitors;
pub mod pointer;
mod session;
mod shared;
mod shield;
pub mod sound;
mod tally;
mod types;

pub use clipboard::{Clipboard, ClipboardOffer, ClipboardSink, MAX_MIME_TYPE, MAX_MIME_TYPES, Paste};
pub use damage::MAX_DAMAGE;
pub use desktop::{Desktop, Files};
pub use error::Error;
pub use handover::{DesktopRequest, KeyboardLayout};
pub use monitors::Monitor;
pub use pointer::Pointer;
pub use shield::{AFTER_SHOWN, MASK, MAX_SHIELDED, MAX_SHIELDED_ID, Shield, Shielding};
pub use tally::Tally;
pub use types::{
    Button, CaptureProtocol, Closed, Focus, Frame, FrameSink, Input, MAX_APP_ID, MAX_TITLE, Rect,
};
