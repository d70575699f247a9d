//! Checks an image without booting it, down to every byte of both roots.

use std::path::Path;

use serde::Serialize;

use crate::disk;
use crate::error::{Error, Result};
use crate::layout::{self, AUTOBOOT_SIZE};
use crate::signed;
use crate::verity::{self, Parameters};

/// What was found good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// `a` or `b`.
    pub slot: char,
    /// Its root hash.
    pub root_hash: String,
    /// Bytes checked: data and hash tree.
    pub bytes: u64,
}

/// Checks the table, the FATs, `autoboot.txt`, and both roots against the root hash in their
/// slot's `cmdline.txt`; behind the hash tree the partition must be zero.
///
/// # Errors
/// Says what is wrong, down to the block.
pub fn verify(image: &Path) -> Result<Vec<Verified>> {
    disk::check_table(image)?;
    let autoboot = disk::fat(image, disk::partition(image, "select")?).get("autoboot.txt")?;
    if autoboot.len() != AUTOBOOT_SIZE {
        return Err(Error::Format {
            path: image.to_owned(),
            why: format!("autoboot.txt has {} bytes and not one sector", autoboot.len()),
        });
    }
    ['a', 'b'].into_iter().map(|slot| verify_slot(image, slot)).collect()
}

fn verify_slot(image: &Path, slot: char) -> Result<Verified> {
    let damaged = |why: String| Error::Damaged { slot, why };
    let boot = disk::fat(image, disk::partition(image, &format!("boot-{slot}"))?);
    let command_line = String::from_utf8_lossy(&signed::command_line(&boot)?).into_owned();
    let parameters = Parameters::parse(&command_line).map_err(damaged)?;
    let root = layout::by_name(&format!("root-{slot}")).ok_or_else(|| damaged("has no root".into()))?;
    let contents = disk::read(image, root)?;
    let used = parameters
        .data_bytes()
        .and_then(|data| data.checked_add(parameters.hash_blocks().checked_mul(verity::BLOCK as u64)?))
        .and_then(|used| usize::try_from(used).ok())
        .filter(|used| *used <= contents.len())
        .ok_or_else(|| damaged("cmdline.txt names more blocks than the partition has".into()))?;
    let (used, rest) = contents.split_at(used);
    parameters.check(used).map_err(damaged)?;
    if let Some(byte) = rest.iter().position(|byte| *byte != 0) {
        return Err(damaged(format!(
            "byte {} of the partition, behind the hash tree, is not zero",
            used.len() + byte
        )));
    }
    Ok(Verified { slot, root_hash: hex::encode(parameters.root), bytes: used.len() as u64 })
}
