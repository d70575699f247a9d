//! A recorded session's pictures, as its client was shown them.

mod error;
mod player;

pub use error::Error;
pub use player::{Picture, Player};
