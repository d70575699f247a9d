//! Makes, signs and publishes releases.
//!
//! Releases are listed in the metadata of The Update Framework (specification 1.0.34): a **root** says whose keys sign what,
//! the **targets** list the releases, a **snapshot** says which targets there are, and a **timestamp** which snapshot. Root and
//! targets are signed by several people, each on a machine of his own; snapshot and timestamp by keys at hand whenever
//! something is published. What is signed is fixed before the first signature, and a draft that changes loses all of them.
//!
//! | | |
//! | --- | --- |
//! | [`key`] | keys, and their files behind a passphrase |
//! | [`document`] | metadata as files |
//! | [`rules`] | what metadata has to keep to; how far it is with its signatures |
//! | [`roots`] | the chain of roots |
//! | [`folder`] | the folder of those who release |
//! | [`image`], [`release`] | the parts of a disk image as a release |
//! | [`contents`] | whether an image is what is said of it |
//! | [`setup`] | a new folder, with its keys and its first root |
//! | [`draft`] | roots and lists of releases that are to be signed |
//! | [`sign`] | signing, and bringing signatures together |
//! | [`mod@publish`] | publishing, after a client has loaded it as a device would |
//! | [`mod@inspect`] | what metadata says |
//! | [`ask`] | asking on a terminal |

pub mod ask;
mod client;
pub mod contents;
pub mod document;
pub mod draft;
mod error;
mod files;
pub mod folder;
pub mod image;
pub mod inspect;
pub mod key;
pub mod publish;
pub mod release;
pub mod roots;
pub mod rules;
pub mod setup;
pub mod sign;

pub use error::{Error, Result};
