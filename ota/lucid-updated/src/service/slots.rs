//! The partitions of the slots.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use lucid_release_format::Kind;

use crate::{
    boot::{self, Slot},
    disk::{Device, Disk},
    error::{Error, Result},
};

/// The parts of a slot.
pub const KINDS: [Kind; 2] = [Kind::Boot, Kind::Root];

/// Opens the slots' partitions.
pub trait Slots: Send + Sync {
    /// One of them.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    fn open(&self, slot: Slot, kind: Kind, write: bool) -> Result<Arc<dyn Disk>>;
}

/// Partitions of this machine.
#[derive(Clone, Debug)]
pub struct Partitions {
    /// Those whose files were given.
    pub given: HashMap<String, PathBuf>,
    /// The disk on which the others are.
    pub disk: Option<PathBuf>,
    /// Where the kernel shows them (`/sys/class/block`).
    pub sys: PathBuf,
}

impl Partitions {
    /// The device file of a partition.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        match (self.given.get(name), &self.disk) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(disk)) => boot::partition(&self.sys, Some(disk), name),
            (None, None) => {
                let place = "because no disk is given".to_owned();
                Err(Error::NoPartition { name: name.to_owned(), place })
            }
        }
    }
}

impl Slots for Partitions {
    fn open(&self, slot: Slot, kind: Kind, write: bool) -> Result<Arc<dyn Disk>> {
        let path = self.path(&slot.partition(kind))?;
        Ok(Arc::new(if write { Device::write(&path)? } else { Device::read(&path)? }))
    }
}
