//! Recordings of a machine that is off, read out of its data partition.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use crate::{
    error::{At, Error, Result},
    journal::dump_of,
    machine::Disks,
};

/// What the recorder keeps on the data partition.
const STATE: &str = "/var/lib/lucid-sessiond";
/// The folder in it with the recordings.
const RECORDINGS: &str = "recordings";

/// Copies them into `to`, which is emptied first; gives their directories.
pub(crate) fn copy(disks: &Disks, to: &Path) -> Result<Vec<PathBuf>> {
    copy_folder(&disks.data_name()?, &format!("{STATE}/{RECORDINGS}"), to)?;
    list(to)
}

/// Copies all that a recorder has in a file system, as e2fsprogs call it, into `to`, which is emptied first; gives its
/// state directory.
pub(crate) fn copy_state(system: &str, to: &Path) -> Result<PathBuf> {
    copy_folder(system, STATE, to)?;
    Ok(to.join("lucid-sessiond"))
}

fn copy_folder(system: &str, from: &str, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).at("emptying", to)?;
    }
    fs::create_dir_all(to).at("making", to)?;
    dump_of(system, from, to)
}

/// The directories of the recordings in a copied folder or a recorder's state directory.
pub(crate) fn list(copied: &Path) -> Result<Vec<PathBuf>> {
    let inside = copied.join(RECORDINGS);
    let mut found = Vec::new();
    for entry in fs::read_dir(&inside).at("reading", &inside)? {
        found.push(entry.at("reading", &inside)?.path());
    }
    found.sort();
    Ok(found)
}

/// Copies those of the machine in `dir` to a new folder, for their owner.
pub(crate) fn fetch(dir: &Path, to: &Path) -> Result<()> {
    let disks = Disks::kept(dir);
    if !disks.os.exists() {
        return Err(Error::broken(format!(
            "{} is no machine: start one with scripts/run, and end it with Ctrl-C",
            dir.display()
        )));
    }
    if UnixStream::connect(dir.join("qmp.sock")).is_ok() {
        return Err(Error::broken("the machine is running: end it with Ctrl-C, then its disk is whole"));
    }
    // Emptying is for our own folders.
    if to.exists() {
        return Err(Error::broken(format!("{} is there already: name a new folder", to.display())));
    }
    let found = copy(&disks, to)?;
    println!("{} recordings are in {}", found.len(), to.join("recordings").display());
    Ok(())
}
