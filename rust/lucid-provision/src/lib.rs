//! Provisioning: what `lucid.toml` on the card says, made into what the services need.
//!
//! [`config`] is the file's format, [`apply`] what happens on every start, [`announce`] what the
//! consoles show; [`names`] tells resolvers which servers there are. Everything runs as an ordinary user on a FAT image as well.

pub mod announce;
pub mod apply;
pub mod card;
pub mod config;
pub mod console;
mod error;
pub mod names;
pub mod secret;
pub mod store;

pub use error::{Error, Problem};

/// A commented `lucid.toml`.
pub const EXAMPLE: &str = include_str!("../example.toml");
