//! Lays out Lucid's disk: six partitions, a read-only root under dm-verity, the boot slots.
//!
//! The layout is written down once, in [`layout`]; [`build`] makes the image from Debian's
//! packages, the static files beside this crate and our own programs; [`verify`] checks one.

pub mod apt;
pub mod build;
pub mod cpio;
pub mod debian;
pub mod disk;
pub mod error;
pub mod fat;
pub mod identity;
pub mod kernel;
pub mod layout;
pub mod signed;
pub mod spdx;
pub mod tree;
pub mod verify;
pub mod verity;
