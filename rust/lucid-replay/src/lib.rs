//! A recorded session as its client was shown it: pictures, the pointer, sound and events, in order of time ([`Show`]);
//! at one moment ([`still`]); as a film
//! ([`Export`]); and piece by piece for who watches it ([`Segments`]).

mod canvas;
mod error;
mod export;
mod film;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod h264;
mod mp4;
mod player;
mod segments;
mod show;
mod sound;
mod still;
mod survey;
pub mod words;

pub use error::{Error, Result};
pub use export::{Export, Exported, Wanted};
pub use player::{Picture, Player, Region};
pub use segments::{SEGMENT_US, Segment, Segments};
pub use show::{Item, Moment, Pointer, Show};
pub use still::still;
pub use survey::{Survey, survey};
