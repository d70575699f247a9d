//! Loads the kernel modules that the image tool put into the initramfs.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::log;

/// Loads every `*.ko` of `dir` in lexical order, which is the order of their dependencies. One that
/// fails is reported and does not stop the boot: perhaps the machine does without.
pub(crate) fn load_all(dir: &Path) {
    let mut files: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => {
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "ko")).collect()
        }
        Err(e) => {
            log::error(&format!("no kernel modules are loaded: listing {}: {e}", dir.display()));
            return;
        }
    };
    files.sort();
    for path in files {
        let loaded = File::open(&path).and_then(|file| match finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e.into()),
        });
        if let Err(e) = loaded {
            log::error(&format!("the kernel module {} was not loaded: {e}", path.display()));
        }
    }
}
