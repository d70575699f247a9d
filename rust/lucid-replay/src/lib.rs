//! A recorded session's pictures, as its client was shown them.

mod error;
mod player;
mod record;

pub use error::Error;
pub use player::{Picture, Player};
pub use record::{MAX_EDGE, Record};
