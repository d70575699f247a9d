//! What somebody wants of the service that runs: one word in a file, `check`, `download`, `apply` or `rollback`.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::{
    error::Result,
    files::{Folder, Store as _},
};

/// The file, in the directory for what is lost at power-off.
pub const REQUEST: &str = "request";
/// Its most bytes.
const MAX_BYTES: u64 = 64;

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To look, and to stage what there is, unless fetching costs.
    Check,
    /// To look, and to stage what there is.
    Download,
    /// To restart into it as well.
    Apply,
    /// To restart into the system that ran before.
    Rollback,
}

impl Asked {
    fn word(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Download => "download",
            Self::Apply => "apply",
            Self::Rollback => "rollback",
        }
    }
}

/// Leaves a wish for the service that runs.
///
/// # Errors
/// When it cannot be written.
pub fn ask(run: &Path, asked: Asked) -> Result<()> {
    Folder::new(run.to_owned())?.replace(REQUEST, asked.word().as_bytes())
}

/// Takes a wish, if there is one.
pub(super) fn taken(run: &Path) -> Option<Asked> {
    let path: PathBuf = run.join(REQUEST);
    let mut word = String::new();
    match fs::File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut word)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => tracing::warn!("reading {}: {error}; it is thrown away", path.display()),
    }
    // What cannot be thrown away would be done again and again.
    if let Err(error) = fs::remove_file(&path) {
        tracing::error!("removing {}: {error}; nothing is done of it", path.display());
        return None;
    }
    match word.trim() {
        "check" => Some(Asked::Check),
        "download" => Some(Asked::Download),
        "apply" => Some(Asked::Apply),
        "rollback" => Some(Asked::Rollback),
        other => {
            tracing::warn!(
                "{} says {other:?}, and only check, download, apply and rollback are known",
                path.display()
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once_and_what_is_none_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        assert_eq!(taken(&run), None);
        for asked in [Asked::Check, Asked::Download, Asked::Apply, Asked::Rollback] {
            ask(&run, asked).unwrap();
            assert_eq!((taken(&run), taken(&run)), (Some(asked), None));
        }
        for bytes in [&b"reboot"[..], b"", &[0xff; 10], &[b'a'; 1000]] {
            fs::write(run.join(REQUEST), bytes).unwrap();
            assert_eq!(taken(&run), None);
            assert!(!run.join(REQUEST).exists());
        }
    }
}
